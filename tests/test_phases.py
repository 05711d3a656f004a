"""One call from a file or an object to what the forward model takes."""

from __future__ import annotations

import pathlib

import jax
import numpy as np
import pytest

import simxrd_jax as sx
from simxrd_jax.commands.forward import FAST_COMPILATION
from simxrd_jax.crystal.structure_factor import powder_f_squared, structure_factors
from simxrd_jax.io.cif import read_cif
from simxrd_jax.phases import as_radiation, load_phase


@jax.jit
def _f_squared(crystal: sx.Crystal, hkl):
    return powder_f_squared(*structure_factors(crystal, hkl, sx.Specimen()))


def strengths(phase) -> dict[tuple[int, ...], float]:
    """multiplicity |F|^2 by 1/d^2 rounded, which no choice of setting changes."""
    with jax.enable_x64(True):
        f = np.asarray(_f_squared(phase.crystal, phase.reflections.hkl))
    inverse = np.linalg.inv(phase.structure.lattice)
    result: dict[tuple[int, ...], float] = {}
    for hkl, m, value in zip(phase.reflections.hkl, phase.reflections.multiplicity, f, strict=True):
        key = (round(float(np.sum((inverse @ hkl) ** 2)) * 1e4),)
        result[key] = result.get(key, 0.0) + float(m * value)
    volume = phase.structure.volume
    return {k: v / volume**2 for k, v in result.items() if v > 1e-3}


@pytest.mark.parametrize("name", ["Si", "quartz", "TiO2_rutile"])
def test_file_and_objects_agree(cif_folder: pathlib.Path, name: str):
    structure = read_cif(cif_folder / f"{name}.cif")
    atoms = structure.atoms
    frac = (atoms.centring[:, None, :] + atoms.frac).reshape(-1, 3)
    species = [atoms.species[int(np.argmax(row))] for row in atoms.occupancy] * len(atoms.centring)
    from ase import Atoms
    from pymatgen.core import Structure

    reference = strengths(load_phase(str(cif_folder / f"{name}.cif"), "CuKa", (10, 80)))
    objects = (
        structure,
        Structure(structure.lattice, species, frac),
        Atoms([s.rstrip("0123456789+-") for s in species], cell=structure.lattice, scaled_positions=frac, pbc=True),
    )
    stated = structure.has_displacement
    for thing in objects[: 1 if stated else 3]:
        other = strengths(load_phase(thing, "CuKa", (10, 80)))
        assert other.keys() == reference.keys()
        np.testing.assert_allclose(list(other.values()), list(reference.values()), rtol=1e-6)


def test_buckets_change_nothing(cif_folder: pathlib.Path):
    path = cif_folder / "Al2O3.cif"
    exact, padded = load_phase(path, "CuKa", (10, 80)), load_phase(path, "CuKa", (10, 80), bucket=True)
    assert len(padded.reflections.hkl) == 256
    assert len(padded.crystal.frac) == 64
    instrument = sx.Instrument(np.array([1.540593]), np.array([1.0]), caglioti_w=0.01)
    grid, quick = sx.Grid.uniform(10, 80, 0.05), {"compiler_options": FAST_COMPILATION}
    run = jax.jit(lambda p: sx.simulate(p.crystal, p.reflections, sx.Specimen(), instrument, grid).peaks, **quick)
    with jax.enable_x64(True):
        a, b = (np.asarray(run(p._replace(structure=None))) for p in (exact, padded))
    np.testing.assert_allclose(a, b, rtol=0, atol=1e-12 * float(a.max()))


def test_dispersion_is_at_the_mean_wavelength(cif_folder: pathlib.Path):
    path = cif_folder / "Fe2O3_ions.cif"
    doublet = load_phase(path, "CuKa", (10, 80)).crystal.f_prime
    mean = load_phase(path, as_radiation("CuKa").mean_wavelength, (10, 80)).crystal.f_prime
    np.testing.assert_array_equal(doublet, mean)
    assert not np.any(load_phase(path, "CuKa", (10, 80), dispersion=False).crystal.f_prime)


def test_a_range_without_reflections_names_the_nearest(cif_folder: pathlib.Path):
    path = cif_folder / "Si.cif"
    with pytest.raises(sx.InputError, match=r"Si\.cif: no reflection falls within 2theta 10 to 20 deg .* at 28\.4\d deg"):
        load_phase(path, "CuKa", (10, 20))
    assert len(load_phase(path, "CuKa", (10, 20), max_shift=9.0).reflections.hkl) >= 1
    with pytest.raises(sx.InputError, match="too long for this cell"):
        load_phase(path, 9.0, (10, 80))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("CuKb", "did you mean CuKa"),
        ("zz", "choose from"),
        (-1.0, "not between"),
        ("0", "not between"),
        ("nan", "not between"),
        (154.06, "not between"),
    ],
)
def test_bad_wavelengths(value: str | float, message: str):
    with pytest.raises(sx.InputError, match=message):
        as_radiation(value)


def test_radiations():
    assert as_radiation("cuka1") is sx.RADIATIONS["CuKa1"]
    assert as_radiation("0.4139").wavelength == (0.4139,)


def test_other_objects_are_refused():
    with pytest.raises(sx.InputError, match="cannot be made of a dict"):
        load_phase({}, "CuKa", (10, 80))
    with pytest.raises(sx.InputError, match="symprec"):
        load_phase("x.cif", "CuKa", (10, 80), symprec=-1.0)


def test_package_imports_without_readers():
    import subprocess
    import sys

    code = (
        "import sys\n"
        "for m in ('gemmi', 'spglib', 'pymatgen', 'ase', 'xraydb', 'matplotlib'): sys.modules[m] = None\n"
        "import simxrd_jax as sx\n"
        "assert sx.simulate and sx.simulate_preset and sx.get_preset('simxrd') and sx.Specimen() and 'simulate' in dir(sx)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_public_name_is_there():
    for name in sx.__all__:
        assert getattr(sx, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = sx.nonsense  # type: ignore[attr-defined]


def test_version_is_that_of_the_project():
    import importlib.metadata

    assert sx.__version__ == importlib.metadata.version("simxrd_jax")


def test_range_beyond_the_form_factor_table_is_noted(cif_folder):
    """IT92 ends at s = 2 1/A, Waasmaier & Kirfel at 6: at 0.1 A and 60 deg s is 5."""
    short, long = (0.1, (20.0, 60.0)), (0.1, (20.0, 110.0))
    notes = [
        " ".join(load_phase(cif_folder / "Si.cif", *where, form_factors=table).structure.notes)
        for where, table in ((short, "it92"), (short, "waasmaier"), (long, "waasmaier"))
    ]
    assert "the it92 form factors end at 2" in notes[0]
    assert "form factors end" not in notes[1]
    assert "the waasmaier form factors end at 6" in notes[2]
