"""|F|^2 against gemmi and against an independent complex P1 sum, and its invariances."""

from __future__ import annotations

import dataclasses
import pathlib

import gemmi
import independent
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simxrd_jax.crystal.build import make_crystal, pad_crystal
from simxrd_jax.crystal.displacement import debye_biso
from simxrd_jax.crystal.reflections import make_reflections
from simxrd_jax.crystal.structure_factor import cell_mass, f_squared, powder_f_squared, structure_factors
from simxrd_jax.io.cif import read_cif
from simxrd_jax.types import Crystal, ReflectionList, Specimen

WAVELENGTH = 1.540593
CIFS = ["Si", "LaB6", "CeO2", "Al2O3", "ZrO2_monoclinic", "triclinic", "mixed_FeMgO", "aniso_calcite", "quartz", "Fe2O3_ions"]


def _make(folder: pathlib.Path, name: str, dispersion: bool = True) -> tuple[Crystal, ReflectionList, dict[str, complex]]:
    structure = read_cif(folder / f"{name}.cif")
    crystal = make_crystal(structure, WAVELENGTH, dispersion=dispersion)
    table = {
        s: complex(a, b) for s, a, b in zip(structure.atoms.species, crystal.f_prime, crystal.f_double_prime, strict=True)
    }
    return crystal, make_reflections(structure, WAVELENGTH, 5.0, 150.0), table


def _device(tree, dtype):
    return jax.tree.map(lambda v: jnp.asarray(v, dtype if np.asarray(v).dtype.kind == "f" else None), tree)


_compiled = jax.jit(f_squared)


def _f_squared(crystal: Crystal, hkl: np.ndarray, dtype=jnp.float64) -> np.ndarray:
    """|F|^2 at fixed capacities, so that all crystals share one compilation."""
    hkl = np.asarray(hkl)
    padded = np.concatenate([hkl, np.repeat(hkl[:1], -len(hkl) % 1024, axis=0)])
    return np.asarray(_compiled(_device(pad_crystal(crystal, 32, 8), dtype), padded)[: len(hkl)])


@pytest.mark.parametrize("name", CIFS)
def test_against_an_independent_complex_p1_sum(x64, cif_folder, name):
    crystal, reflections, dispersion = _make(cif_folder, name)
    p1 = independent.read_p1(cif_folder / f"{name}.cif")
    hkl = np.asarray(reflections.hkl)
    plus, minus = (independent.structure_factors(p1, sign * hkl, dispersion) for sign in (1, -1))
    expected = (np.abs(plus) ** 2 + np.abs(minus) ** 2) / 2
    got = _f_squared(crystal, reflections.hkl)
    # Two float64 sums of the same terms: 1e-10 of each reflection leaves room for cancellation in the weakest.
    np.testing.assert_allclose(got, expected, rtol=1e-10, atol=1e-13 * expected.max())
    single = _f_squared(crystal, reflections.hkl, jnp.float32)
    # Float32 phases are good to 4e-6 rad (2 pi times half a unit in the last place of h.x up to 16).
    np.testing.assert_allclose(single, expected, rtol=0, atol=2e-5 * expected.max())
    assert single.dtype == jnp.float32


def test_complex_amplitudes_give_each_friedel_mate(x64, cif_folder):
    # Quartz has no centre: |F(h)| and |F(-h)| differ with f''.
    crystal, reflections, dispersion = _make(cif_folder, "quartz")
    p1 = independent.read_p1(cif_folder / "quartz.cif")
    hkl = np.asarray(reflections.hkl)
    a, b = structure_factors(_device(crystal, jnp.float64), reflections.hkl, Specimen())
    a, b = np.asarray(a), np.asarray(b)
    plus, minus = (np.abs(independent.structure_factors(p1, sign * hkl, dispersion)) for sign in (1, -1))
    np.testing.assert_allclose(np.abs(a + 1j * b), plus, rtol=1e-9, atol=1e-10)
    np.testing.assert_allclose(np.abs(np.conj(a) + 1j * np.conj(b)), minus, rtol=1e-9, atol=1e-10)
    assert np.max(np.abs(plus - minus)) > 0.1
    np.testing.assert_allclose(powder_f_squared(a, b), (plus**2 + minus**2) / 2, rtol=1e-9)


@pytest.mark.parametrize("with_f_prime", [False, True])
@pytest.mark.parametrize(
    "name", ["Si", "LaB6", "CeO2", "Al2O3", "ZrO2_monoclinic", "triclinic", "mixed_FeMgO", "aniso_calcite"]
)
def test_against_gemmi(x64, cif_folder, name, with_f_prime):
    crystal, reflections, dispersion = _make(cif_folder, name, dispersion=with_f_prime)
    crystal = dataclasses.replace(crystal, f_double_prime=np.zeros_like(crystal.f_double_prime))
    small = gemmi.read_small_structure(str(cif_folder / f"{name}.cif"))
    if "R -3 c" in small.spacegroup_hm:
        assert len(list(small.spacegroup.operations())) == 36
    # gemmi reads U but not B.
    block = gemmi.cif.read(str(cif_folder / f"{name}.cif")).sole_block()
    for site, b in zip(small.sites, block.find_values("_atom_site_B_iso_or_equiv"), strict=False):
        site.u_iso = gemmi.cif.as_number(b) / (8 * np.pi**2)
    small.change_occupancies_to_crystallographic()
    calculator = gemmi.StructureFactorCalculatorX(small.cell)
    calculator.addends.clear()
    for species, value in dispersion.items():
        calculator.addends.set(gemmi.Element(species.rstrip("+-").rstrip("0123456789")), value.real)
    gemmi.IT92_set_ignore_charge(False)
    hkl = np.asarray(reflections.hkl)
    expected = [abs(calculator.calculate_sf_from_small_structure(small, [int(v) for v in h])) ** 2 for h in hkl]
    got = _f_squared(crystal, reflections.hkl)
    # gemmi keeps form factors and h.x in double but snaps nothing: CIF digits of special positions (0.333) are avoided here.
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6 * max(expected))


def test_moving_the_origin_changes_nothing(x64, cif_folder):
    crystal, reflections, _ = _make(cif_folder, "aniso_calcite")
    crystal = _device(crystal, jnp.float64)
    moved = crystal.replace(frac=crystal.frac + jnp.array([0.137, -2.21, 0.455]))
    ours, other = (np.asarray(f_squared(c, reflections.hkl)) for c in (crystal, moved))
    # Identity: a common phase; the rounding of h.x in float64 is 1e-14.
    np.testing.assert_allclose(other, ours, rtol=1e-9, atol=1e-12 * ours.max())


@pytest.mark.parametrize("name", ["Al2O3", "aniso_calcite", "quartz", "ZrO2_monoclinic", "Si"])
def test_all_members_of_an_orbit_scatter_alike(x64, cif_folder, name):
    crystal, reflections, _ = _make(cif_folder, name)
    values = _f_squared(crystal, reflections.member_hkl)
    representative = _f_squared(crystal, reflections.hkl)[reflections.member_reflection]
    # Identity for operators of the space group; positions are snapped to float64.
    np.testing.assert_allclose(values, representative, rtol=1e-8, atol=1e-11 * values.max())


@pytest.mark.parametrize(
    ("name", "absent"),
    [("Si", [[2, 0, 0], [4, 2, 0]]), ("Al2O3", [[0, 0, 3], [1, 0, 1], [1, 0, 0]]), ("CeO2", [[1, 0, 0], [2, 1, 1]])],
)
def test_forbidden_reflections_are_not_listed_and_vanish(x64, cif_folder, name, absent):
    crystal, reflections, _ = _make(cif_folder, name)
    listed = {tuple(abs(v) for v in h) for h in np.asarray(reflections.member_hkl).tolist()}
    p1 = independent.read_p1(cif_folder / f"{name}.cif")
    strongest = np.max(_f_squared(crystal, reflections.hkl))
    # A zero of a complex sum of about 30 terms of order 10 in float64.
    assert np.max(np.abs(independent.structure_factors(p1, np.array(absent))) ** 2) < 1e-20 * strongest
    assert not listed & {tuple(h) for h in absent}


def test_reflections_that_vanish_by_position_alone(x64, cif_folder):
    # Si (222): allowed by the operators, zero for spherical atoms on 8a. Al2O3 (003): the c glide, seen by the atoms of one
    # lattice point too.
    silicon, alumina = _make(cif_folder, "Si"), _make(cif_folder, "Al2O3")
    assert [2, 2, 2] in np.asarray(silicon[1].hkl).tolist()
    assert _f_squared(silicon[0], [[2, 2, 2]])[0] < 1e-20 * _f_squared(silicon[0], [[2, 2, 0]])[0]
    assert _f_squared(alumina[0], [[0, 0, 3]])[0] < 1e-20 * _f_squared(alumina[0], [[1, 0, 4]])[0]


def test_debye_model_damps_each_species_with_its_own_b(x64, cif_folder):
    crystal = _device(_make(cif_folder, "triclinic")[0], jnp.float64)
    hkl = _make(cif_folder, "triclinic")[1].hkl
    per_species = np.asarray(debye_biso(crystal.mass, 200.0, 350.0))
    by_hand = crystal.replace(biso=crystal.biso + crystal.occupancy @ per_species)
    ours = f_squared(crystal, hkl, Specimen(temperature=200.0, debye_temperature=350.0))
    # Every atom of this cell is one species at full occupancy, so B per species is B per atom (identity).
    np.testing.assert_allclose(ours, f_squared(by_hand, hkl), rtol=1e-11)
    at_reference = f_squared(crystal, hkl, Specimen(debye_temperature=350.0))
    np.testing.assert_allclose(at_reference, f_squared(crystal, hkl, Specimen(temperature=293.15, debye_temperature=350.0)))


def test_strain_moves_s_in_form_factors_and_not_the_phase(x64, cif_folder):
    crystal, reflections, dispersion = _make(cif_folder, "triclinic")
    strain = np.array([[0.02, 0.01, 0.0], [0.01, -0.01, 0.004], [0.0, 0.004, 0.015]])
    p1 = independent.read_p1(cif_folder / "triclinic.cif")
    p1.lattice = p1.lattice @ (np.eye(3) + strain).T
    expected = np.abs(independent.structure_factors(p1, np.asarray(reflections.hkl), dispersion)) ** 2
    got = f_squared(_device(crystal, jnp.float64), reflections.hkl, Specimen(strain=strain))
    # P -1: Friedel mates are equal even with f'', because A and B are real about the centre.
    np.testing.assert_allclose(got, expected, rtol=1e-9)


def test_padding_and_jit_and_vmap_change_nothing(x64, cif_folder):
    crystal, reflections, _ = _make(cif_folder, "aniso_calcite")
    plain = np.asarray(f_squared(_device(crystal, jnp.float64), reflections.hkl))
    padded = pad_crystal(crystal, 32, 8)
    # Identity: padding adds exact zeros.
    np.testing.assert_allclose(f_squared(_device(padded, jnp.float64), reflections.hkl), plain, rtol=1e-12)
    np.testing.assert_allclose(jax.jit(f_squared)(_device(crystal, jnp.float64), reflections.hkl), plain, rtol=1e-10)
    stacked = jax.tree.map(lambda v: jnp.stack([jnp.asarray(v)] * 2), padded)
    both = jax.vmap(f_squared, in_axes=(0, None))(stacked, jnp.asarray(reflections.hkl))
    np.testing.assert_allclose(both, np.stack([plain] * 2), rtol=1e-10)


def test_cell_mass_by_hand(x64, cif_folder):
    # IUPAC 2021 standard atomic weights: 6 Al2O3 in the hexagonal cell; 8 Si; Fe 0.43, Mg 0.57, O 0.98, four of each.
    al, o, si, fe, mg = 26.982, 15.999, 28.085, 55.845, 24.305
    expected = {"Al2O3": 6 * (2 * al + 3 * o), "Si": 8 * si, "mixed_FeMgO": 4 * (0.43 * fe + 0.57 * mg + 0.98 * o)}
    for name, mass in expected.items():
        # Standard weights carry five digits.
        assert float(cell_mass(_device(_make(cif_folder, name)[0], jnp.float64))) == pytest.approx(mass, rel=2e-5)
