"""Host zone tests: pymatgen, ASE and npz structures."""

from __future__ import annotations

import pathlib
import subprocess
import sys
import warnings

import numpy as np
import pytest

from simxrd_jax.crystal.reflections import make_reflections
from simxrd_jax.errors import InputError
from simxrd_jax.io.cif import read_cif
from simxrd_jax.io.structures import from_ase, from_pymatgen, read_npz


def test_pymatgen_and_ase_agree_with_the_cif(cif_folder: pathlib.Path) -> None:
    pymatgen = pytest.importorskip("pymatgen.core")
    ase_io = pytest.importorskip("ase.io")
    for name in ("Si", "Al2O3", "FeS2", "ZrO2_monoclinic"):
        path = cif_folder / f"{name}.cif"
        expected = read_cif(path)
        reflections = make_reflections(expected, 1.5406, 10, 100)
        for found in (from_pymatgen(pymatgen.Structure.from_file(str(path))), from_ase(ase_io.read(str(path)))):
            assert found.space_group_number == expected.space_group_number
            assert found.formula == expected.formula
            assert found.volume == pytest.approx(expected.volume, rel=1e-5)
            assert not found.has_displacement
            other = make_reflections(found, 1.5406, 10, 100)
            np.testing.assert_array_equal(other.multiplicity, reflections.multiplicity)


def test_pymatgen_ions_and_mixed_sites() -> None:
    pymatgen = pytest.importorskip("pymatgen.core")
    lattice = pymatgen.Lattice.cubic(4.25)
    structure = pymatgen.Structure.from_spacegroup(
        "Fm-3m", lattice, [{"Fe2+": 0.4, "Mg2+": 0.6}, {"O2-": 0.98}], [[0, 0, 0], [0.5, 0.5, 0.5]]
    )
    s = from_pymatgen(structure)
    assert s.species == ("Fe2+", "Mg2+", "O2-")
    assert s.occupancy.tolist() == [0.4, 0.6, 0.98]
    assert s.space_group_number == 225


def test_bad_objects_raise() -> None:
    with pytest.raises(InputError, match="str is not a pymatgen Structure"):
        from_pymatgen("Si")
    with pytest.raises(InputError, match="str is not an ASE Atoms object"):
        from_ase("Si")
    ase = pytest.importorskip("ase")
    with pytest.raises(InputError, match="no cell in three dimensions"):
        from_ase(ase.Atoms("CO", positions=[[0, 0, 0], [0, 0, 1.1]]))


@pytest.mark.parametrize(("symbols", "name"), [("Po", "Po"), ("ClNa", "NaCl"), ("O2Ti", "TiO2"), ("N2Si4O2", "NOSi2")])
def test_ase_names_are_reduced_without_a_warning(symbols: str, name: str) -> None:
    ase = pytest.importorskip("ase")
    frac = np.random.default_rng(0).uniform(0, 1, (len(ase.Atoms(symbols)), 3))
    atoms = ase.Atoms(symbols, scaled_positions=frac, cell=[9, 10, 11], pbc=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert from_ase(atoms).name == name


def test_library_indexing_and_labels(datasets: pathlib.Path) -> None:
    library = read_npz(datasets / "mp_sample.npz")
    assert len(library) == 512
    assert len(set(library.ids.tolist())) == 512
    for i in range(0, 512, 8):
        s = library[i]
        assert s.name == library.ids[i]
        assert s.space_group_number == library.labels()[i]
        # The density of atoms is what was stored: no atom is lost or doubled on the way.
        lattice, _, numbers = library.cell(i)
        assert len(s.atoms.frac) * s.atoms.n_centring / s.volume == pytest.approx(
            len(numbers) / abs(np.linalg.det(lattice)), rel=1e-3
        )
        assert library.structure(i, symprec=0.1).space_group_number == library.labels(0.1)[i]
    assert library[-1].name == library.ids[511]
    assert next(iter(library)).name == library.ids[0]
    with pytest.raises(IndexError):
        library[512]
    with pytest.raises(InputError, match=r"no space-group labels at symprec 0\.5"):
        library.labels(0.5)


def test_bad_libraries_raise(tmp_path: pathlib.Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        read_npz(tmp_path / "missing.npz")
    (tmp_path / "text.npz").write_text("not a zip")
    with pytest.raises(InputError, match="is not an npz file"):
        read_npz(tmp_path / "text.npz")
    np.savez(tmp_path / "other.npz", x=np.zeros(3))
    with pytest.raises(InputError, match="lacks the arrays id, lattice, ptr, Z, frac"):
        read_npz(tmp_path / "other.npz")
    np.save(tmp_path / "single.npy", np.zeros(3))
    with pytest.raises(InputError, match="is not an npz file"):
        read_npz(tmp_path / "single.npy")


def test_readers_import_neither_pymatgen_nor_ase() -> None:
    """They take seconds to import; only the functions that are handed their objects may need them."""
    code = "import sys, simxrd_jax.io.structures, simxrd_jax.io.cif; print([m for m in NAMES if m in sys.modules])"
    code = code.replace("NAMES", "('pymatgen', 'ase', 'xraydb')")
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
