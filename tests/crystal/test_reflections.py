"""Host zone tests: orbits, multiplicities and absences against gemmi, against brute force and against |F|^2 of P1 sums."""

from __future__ import annotations

import pathlib

import gemmi
import jax
import numpy as np
import pytest

from simxrd_jax.crystal import symmetry
from simxrd_jax.crystal.reflections import bucket_size, make_reflections, pad_reflections, unique_reflections
from simxrd_jax.errors import InputError
from simxrd_jax.io.cif import read_cif
from simxrd_jax.io.structures import StructureSet, read_npz


def _sphere(lattice: np.ndarray, inverse_d_max: float) -> tuple[np.ndarray, np.ndarray]:
    """All hkl but 000 with 1/d up to a bound, and their 1/d^2, by brute force."""
    limit = np.ceil(np.linalg.norm(lattice, axis=1) * inverse_d_max).astype(int) + 1
    hkl = np.stack(np.meshgrid(*[np.arange(-n, n + 1) for n in limit], indexing="ij"), axis=-1).reshape(-1, 3)
    inverse_d2 = (np.linalg.norm(hkl @ np.linalg.inv(lattice).T, axis=1)) ** 2
    keep = (inverse_d2 <= inverse_d_max**2) & np.any(hkl != 0, axis=1)
    return hkl[keep], inverse_d2[keep]


def _radius(lattice: np.ndarray, n: int) -> float:
    """1/d that about n reflections stay below."""
    return float((n * 3 / (4 * np.pi * abs(np.linalg.det(lattice)))) ** (1 / 3))


def _rows(hkl: np.ndarray) -> set[tuple[int, ...]]:
    return {tuple(row) for row in hkl.tolist()}


def _compare_with_gemmi(cell: symmetry.StandardCell, n: int) -> None:
    """The list's members are exactly what gemmi calls present, and its multiplicities are gemmi's."""
    bound = _radius(cell.lattice, n)
    hkl, members, member_reflection, multiplicity = unique_reflections(
        cell.lattice, cell.rotations, cell.translations, 0.0, bound
    )
    everything, _ = _sphere(cell.lattice, bound)
    ops = gemmi.GroupOps([symmetry.operator(r, t) for r, t in zip(cell.rotations, cell.translations, strict=True)])
    present = everything[~ops.systematic_absences(everything.astype(np.int32))]
    both = np.concatenate([members, -members])
    assert len(both) == len(present)
    assert _rows(both) == _rows(present)
    assert len(_rows(hkl)) == len(hkl)
    laue = ops.derive_symmorphic()
    if not laue.is_centrosymmetric():
        laue.add_inversion()
    if len(hkl):
        epsilon = np.asarray(laue.epsilon_factor_without_centering_array(hkl.astype(np.int32)))
        np.testing.assert_array_equal(multiplicity, len(laue.sym_ops) // epsilon)
    np.testing.assert_array_equal(np.bincount(member_reflection, minlength=len(hkl)) * 2, multiplicity)


def _check_absences(cell: symmetry.StandardCell, numbers: np.ndarray, n: int) -> None:
    """A P1 sum over the atoms is zero wherever the list claims an absence, and equal within every orbit."""
    bound = _radius(cell.lattice, n)
    _, members, member_reflection, multiplicity = unique_reflections(
        cell.lattice, cell.rotations, cell.translations, 0.0, bound
    )
    everything, _ = _sphere(cell.lattice, bound)
    listed = _rows(np.concatenate([members, -members]))
    absent = np.array([h for h in everything.tolist() if tuple(h) not in listed], dtype=int).reshape(-1, 3)

    def f_squared(hkl: np.ndarray) -> np.ndarray:
        return np.abs(np.exp(2j * np.pi * (hkl @ cell.frac.T)) @ numbers) ** 2

    total = float(numbers.sum()) ** 2
    assert f_squared(absent).max(initial=0.0) < 1e-9 * total  # spglib's positions hold nine digits or so
    values = f_squared(members)
    mean = np.bincount(member_reflection, values) / (multiplicity / 2)
    np.testing.assert_allclose(values, mean[member_reflection], rtol=0, atol=1e-5 * total)


def _cell(library: StructureSet, i: int) -> tuple[symmetry.StandardCell, np.ndarray]:
    lattice, frac, numbers = library.cell(i)
    cell = symmetry.find_symmetry(lattice, frac, [int(z) for z in numbers], 0.01)
    return cell, numbers[cell.atom].astype(float)


def test_220_space_groups_against_gemmi_and_p1_sums(datasets: pathlib.Path) -> None:
    library = read_npz(datasets / "spglib_symmetry_tests.npz")
    for i in range(len(library)):
        cell, numbers = _cell(library, i)
        _compare_with_gemmi(cell, 600)
        if i % 4 == 0:
            _check_absences(cell, numbers, 300)


def test_bundled_materials_project_sample(datasets: pathlib.Path) -> None:
    library = read_npz(datasets / "mp_sample.npz")
    for i in range(0, len(library), 5):
        cell, numbers = _cell(library, i)
        _compare_with_gemmi(cell, 400)
        _check_absences(cell, numbers, 300)


@pytest.mark.slow
def test_500_materials_project_structures(shared_data: pathlib.Path) -> None:
    library = read_npz(shared_data / "structures" / "mp_like_28k.npz")
    for i in np.random.default_rng(3).choice(len(library), 500, replace=False):
        cell, numbers = _cell(library, int(i))
        _compare_with_gemmi(cell, 800)
        _check_absences(cell, numbers, 800)


def test_every_setting_of_every_group_against_gemmi() -> None:
    """All 564 settings of gemmi's table, non-standard ones too, with the general cell their rotations allow."""
    for group in gemmi.spacegroup_table():
        rotations, translations = symmetry.operator_arrays(list(group.operations()))
        start = np.array([[6.1, 0.2, 0.1], [0.3, 5.3, 0.4], [0.2, 0.5, 4.7]])
        metric = (np.swapaxes(rotations, 1, 2) @ (start @ start.T) @ rotations).mean(axis=0)
        cell = symmetry.StandardCell(
            lattice=np.linalg.cholesky(metric),
            frac=np.zeros((1, 3)),
            atom=np.zeros(1, dtype=int),
            asymmetric=np.zeros(1, dtype=int),
            number=group.number,
            symbol=group.xhm(),
            rotations=rotations,
            translations=translations,
            transformation=np.eye(3),
        )
        _compare_with_gemmi(cell, 500)


FILES = ("Si", "LaB6", "Al2O3", "quartz", "FeS2", "ZrO2_monoclinic", "triclinic", "long_axis")


@pytest.mark.parametrize("name", FILES)
def test_window_against_brute_force(cif_folder: pathlib.Path, name: str) -> None:
    structure = read_cif(cif_folder / f"{name}.cif")
    lines, low, high, margin, strain = np.array([1.540593, 1.544427]), 20.0, 65.0, 1.5, 0.01
    reflections = make_reflections(structure, lines, low, high, margin=margin, max_strain=strain)
    bound_low = 2 * np.sin(np.radians(low - margin) / 2) / lines.max() * (1 - strain)
    bound_high = 2 * np.sin(np.radians(high + margin) / 2) / lines.min() * (1 + strain)
    everything, inverse_d2 = _sphere(structure.lattice, bound_high)
    everything = everything[inverse_d2 >= bound_low**2]
    ops = gemmi.GroupOps([symmetry.operator(r, t) for r, t in zip(structure.rotations, structure.translations, strict=True)])
    present = everything[~ops.systematic_absences(everything.astype(np.int32))]
    members = np.asarray(reflections.member_hkl)
    assert _rows(np.concatenate([members, -members])) == _rows(present)
    assert int(np.sum(reflections.multiplicity)) == len(present) == int(np.sum(reflections.member_count))
    d = 1 / np.linalg.norm(np.asarray(reflections.hkl) @ np.linalg.inv(structure.lattice).T, axis=1)
    assert np.all(np.diff(d) < 1e-9)
    assert all(np.asarray(v).dtype == np.int32 for v in jax.tree.leaves(reflections))


def test_known_lists(cif_folder: pathlib.Path) -> None:
    """Indices and multiplicities as the powder diffraction cards print them."""
    si = make_reflections(read_cif(cif_folder / "Si.cif"), 1.5406, 20, 100)
    # 222 is there: no operator extinguishes it, only the special position of the atoms makes it vanish.
    expected = ["111", "220", "311", "222", "400", "331", "422", "333", "511"]
    assert ["".join(map(str, h)) for h in np.asarray(si.hkl)] == expected
    assert np.asarray(si.multiplicity).tolist() == [8, 12, 24, 8, 6, 24, 24, 8, 24]
    corundum = make_reflections(read_cif(cif_folder / "Al2O3.cif"), 1.5406, 20, 47, margin=0.0)
    assert np.asarray(corundum.hkl).tolist() == [[0, 1, 2], [1, 0, 4], [1, 1, 0], [0, 0, 6], [1, 1, 3], [2, 0, 2]]
    assert np.asarray(corundum.multiplicity).tolist() == [6, 6, 6, 2, 12, 6]
    # Pyrite, Laue class m-3: the glide plane of Pa-3 extinguishes 120 (h odd at l = 0) and leaves 210.
    pyrite = make_reflections(read_cif(cif_folder / "FeS2.cif"), 1.5406, 35, 42, margin=0.0)
    assert np.asarray(pyrite.hkl).tolist() == [[2, 1, 0], [2, 1, 1]]


def test_laue_class_not_crystal_system(cif_folder: pathlib.Path) -> None:
    """m-3 splits what m-3m joins: pyrite's 321 (mult. 24) and 231 (24) are two reflections at one d."""
    pyrite = make_reflections(read_cif(cif_folder / "FeS2.cif"), 1.5406, 60, 68)
    hkl = np.asarray(pyrite.hkl)
    same_d = (hkl**2).sum(axis=1) == 14
    assert np.asarray(pyrite.multiplicity)[same_d].tolist() == [24, 24]


def test_representative_is_a_member_of_its_orbit(cif_folder: pathlib.Path) -> None:
    r = make_reflections(read_cif(cif_folder / "quartz.cif"), 1.5406, 5, 120)
    first = np.unique(np.asarray(r.member_reflection), return_index=True)[1]
    np.testing.assert_array_equal(np.asarray(r.member_hkl)[first], r.hkl)


def test_padding(cif_folder: pathlib.Path) -> None:
    r = make_reflections(read_cif(cif_folder / "LaB6.cif"), 1.5406, 20, 150, capacity=64)
    n = int(np.count_nonzero(r.multiplicity))
    assert len(r.hkl) == 64
    assert n < 64
    assert len(r.member_hkl) == bucket_size(int(np.count_nonzero(r.member_count)))
    assert np.all(np.asarray(r.hkl)[n:] == np.asarray(r.hkl)[n - 1])
    assert np.all(np.asarray(r.multiplicity)[n:] == 0)
    assert np.all(np.asarray(r.member_reflection) < n)
    with pytest.raises(InputError, match=rf"holds {n} reflections but the capacity is 4"):
        make_reflections(read_cif(cif_folder / "LaB6.cif"), 1.5406, 20, 150, capacity=4)
    with pytest.raises(InputError, match=r"holds \d+ orbit members but the capacity is 4"):
        make_reflections(read_cif(cif_folder / "LaB6.cif"), 1.5406, 20, 150, member_capacity=4)
    assert [bucket_size(k) for k in (0, 16, 17, 1000)] == [16, 16, 32, 1024]


def test_empty_list_is_valid_physics(cif_folder: pathlib.Path) -> None:
    r = make_reflections(read_cif(cif_folder / "LaB6.cif"), 1.5406, 5, 10, margin=0.0)
    assert np.asarray(r.hkl).tolist() == [[0, 0, 1]]
    assert np.asarray(r.multiplicity).tolist() == [0]
    assert len(pad_reflections(r, 16, 16).member_hkl) == 16


def test_bad_windows_raise(cif_folder: pathlib.Path) -> None:
    structure = read_cif(cif_folder / "Si.cif")
    with pytest.raises(InputError, match="wavelength"):
        make_reflections(structure, -1.0, 5, 90)
    with pytest.raises(InputError, match="2theta range"):
        make_reflections(structure, 1.5, 90, 5)
    with pytest.raises(InputError, match="index triples"):
        make_reflections(structure, 0.001, 5, 170)
