"""Host zone tests: operators, special positions, cells and the Laue group."""

from __future__ import annotations

import dataclasses
import pathlib

import gemmi
import numpy as np
import pytest
import spglib

from simxrd_jax.crystal import structure as structures
from simxrd_jax.crystal import symmetry
from simxrd_jax.errors import InputError
from simxrd_jax.io.cif import read_cif
from simxrd_jax.io.structures import read_npz

CUBIC = np.eye(3) * 5.0


def _structure(symbol: str, lattice: np.ndarray, sites: list[tuple[str, tuple[float, float, float], float]]):
    group = gemmi.find_spacegroup_by_name(symbol)
    assert group is not None
    rotations, translations = symmetry.operator_arrays(list(group.operations()))
    return structures.CrystalStructure(
        name="test",
        source="test.cif",
        lattice=lattice,
        site_labels=tuple(f"{s[0]}{i + 1}" for i, s in enumerate(sites)),
        species=tuple(s[0] for s in sites),
        frac=np.array([s[1] for s in sites], dtype=float),
        occupancy=np.array([s[2] for s in sites], dtype=float),
        biso=np.zeros(len(sites)),
        u_aniso=None,
        has_displacement=False,
        rotations=rotations,
        translations=translations,
        space_group_number=group.number,
        space_group_symbol=group.xhm(),
    )


def _hexagonal(a: float, c: float) -> np.ndarray:
    return symmetry.lattice_from_parameters(a, a, c, 90.0, 90.0, 120.0)


def test_laue_rotations_are_a_group_for_every_space_group_setting() -> None:
    for group in gemmi.spacegroup_table():
        rotations, _ = symmetry.operator_arrays(list(group.operations()))
        laue = symmetry.laue_rotations(rotations)
        assert laue.shape == (24, 3, 3)
        assert laue.dtype == np.int32
        unique, counts = np.unique(laue.reshape(-1, 9), axis=0, return_counts=True)
        assert len(set(counts)) == 1
        # The order of the Laue group is twice that of its rotations; gemmi adds the inversion itself.
        ops = group.operations().derive_symmorphic()
        if not ops.is_centrosymmetric():
            ops.add_inversion()
        assert 2 * len(unique) == len(ops.sym_ops), group.xhm()
        products = np.einsum("aij,bjk->abik", laue, laue).reshape(-1, 9)
        assert len(np.unique(np.concatenate([products, unique]), axis=0)) == len(unique)


def test_every_setting_of_every_group_is_recognised_by_its_operators() -> None:
    for group in gemmi.spacegroup_table():
        rotations, translations = symmetry.operator_arrays(list(group.operations()))
        found = symmetry.group_from_operators(rotations, translations, CUBIC)
        assert found is not None
        assert found[0] == group.number


def test_split_centring_counts_lattice_points() -> None:
    for symbol, n in (("P 1", 1), ("C 1 2/m 1", 2), ("I m -3 m", 2), ("R -3 m:H", 3), ("F m -3 m", 4), ("F d -3 m:2", 4)):
        group = gemmi.find_spacegroup_by_name(symbol)
        assert group is not None
        rotations, translations = symmetry.operator_arrays(list(group.operations()))
        point_rotations, _, centring = symmetry.split_centring(rotations, translations)
        assert len(centring) == n
        assert np.all(centring[0] == 0)
        assert len(point_rotations) * n == len(rotations)


@pytest.mark.parametrize("third", [0.33, 0.333, 0.3333, 0.33333333, 1 / 3])
def test_threefold_position_holds_for_any_number_of_digits(third: float) -> None:
    s = structures.finish(_structure("P 63 m c", _hexagonal(3.11, 4.98), [("Al", (third, 2 * third, 0.0), 1.0)]))
    assert len(s.atoms.frac) == 2
    np.testing.assert_allclose(s.frac[0, :2], [1 / 3, 2 / 3], rtol=0, atol=1e-15)


@pytest.mark.parametrize(
    ("name", "n_atom"), [("quartz", 9), ("Al2O3", 10), ("CeO2", 3), ("AlN", 4), ("aniso_calcite", 10), ("Si", 2), ("LaB6", 7)]
)
def test_atoms_of_a_lattice_point_of_known_structures(cif_folder: pathlib.Path, name: str, n_atom: int) -> None:
    assert len(read_cif(cif_folder / f"{name}.cif").atoms.frac) == n_atom


def test_polar_shift_stays() -> None:
    """PbTiO3: Ti is 0.16 A off the centre; P4mm leaves z free, so nothing may pull it back."""
    lattice = np.diag([3.904, 3.904, 4.152])
    sites = [
        ("Pb", (0.0, 0.0, 0.0), 1.0),
        ("Ti", (0.5, 0.5, 0.539), 1.0),
        ("O", (0.5, 0.5, 0.114), 1.0),
        ("O", (0.5, 0.0, 0.617), 1.0),
    ]
    s = structures.finish(_structure("P 4 m m", lattice, sites))
    np.testing.assert_array_equal(s.frac[:, 2], [0.0, 0.539, 0.114, 0.617])
    assert len(s.atoms.frac) == 5


def test_split_site_stays_split_and_rounding_merges() -> None:
    """A site 0.04 A off a mirror: half occupied it is split in two, fully occupied it is one atom on the mirror."""
    lattice = np.diag([5.0, 6.0, 7.0])
    off = 0.04 / 7.0
    split = structures.finish(_structure("P 1 1 m", lattice, [("Na", (0.2, 0.3, off), 0.5)]))
    assert len(split.atoms.frac) == 2
    whole = structures.finish(_structure("P 1 1 m", lattice, [("Na", (0.2, 0.3, off), 1.0)]))
    assert len(whole.atoms.frac) == 1
    assert whole.frac[0, 2] == pytest.approx(0.0, abs=1e-12)
    # Partly occupied, but 0.01 A is what rounding leaves.
    rounded = structures.finish(_structure("P 1 1 m", lattice, [("Na", (0.2, 0.3, 0.01 / 7.0), 0.5)]))
    assert len(rounded.atoms.frac) == 1


def test_overlaps_raise() -> None:
    two = [("Na", (0.2, 0.3, 0.1), 1.0), ("K", (0.2, 0.3, 0.15), 0.5)]
    with pytest.raises(InputError, match=r"test.cif: overlapping sites Na1 and K2 \(0.25 A apart\) .* occupancy of 1.5"):
        structures.finish(_structure("P 1", CUBIC, two))
    with pytest.raises(InputError, match="site Na1 overlapping its own symmetry images"):
        structures.finish(_structure("P -1", CUBIC, [("Na", (0.03, 0.0, 0.0), 1.0)]))
    # The same places with occupancies that fit are a disordered structure.
    two[0] = ("Na", (0.2, 0.3, 0.1), 0.5)
    structures.finish(_structure("P 1", CUBIC, two))
    # Three in a row, only neighbours exclude one another.
    row = [("Na", (0.0, 0.0, 0.0), 0.5), ("K", (0.09, 0.0, 0.0), 0.5), ("Rb", (0.91, 0.0, 0.0), 0.5)]
    structures.finish(_structure("P 1", CUBIC, row))


def test_overlap_across_a_centring_translation_raises() -> None:
    with pytest.raises(InputError, match="overlapping sites"):
        structures.finish(_structure("I 1 2 1", CUBIC, [("Na", (0.0, 0.0, 0.0), 1.0), ("K", (0.5, 0.52, 0.5), 1.0)]))


def test_cell_that_contradicts_the_operators_raises() -> None:
    with pytest.raises(InputError, match=r"contradicts the symmetry operators by 3\.0 %"):
        structures.finish(_structure("P m -3 m", np.diag([5.0, 5.0, 5.15]), [("Po", (0, 0, 0), 1.0)]))


def test_metric_is_averaged_and_orientation_kept() -> None:
    rotation = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))[0]
    lattice = np.diag([5.0, 5.002, 5.004]) @ rotation
    s = symmetry.symmetrise(_structure("P m -3 m", lattice, [("Po", (0, 0, 0), 1.0)]))
    metric = s.lattice @ s.lattice.T
    expected = (5.0**2 + 5.002**2 + 5.004**2) / 3
    np.testing.assert_allclose(metric, expected * np.eye(3), rtol=0, atol=1e-12)
    np.testing.assert_allclose(s.lattice, np.sqrt(expected) * rotation, rtol=0, atol=1e-12)
    # An exact cell is left alone, to the bit.
    again = symmetry.symmetrise(s)
    np.testing.assert_allclose(again.lattice, s.lattice, rtol=0, atol=1e-14)


def test_displacement_tensor_obeys_its_site_symmetry(cif_folder: pathlib.Path) -> None:
    s = read_cif(cif_folder / "aniso_calcite.cif")
    assert s.u_aniso is not None
    assert np.all(s.biso == 0)
    ca = s.u_aniso[0]
    assert ca[0, 0] == pytest.approx(ca[1, 1])
    assert ca[0, 1] == pytest.approx(ca[0, 0] / 2)
    assert ca[0, 2] == pytest.approx(0)
    # Equivalent atoms vibrate alike in Cartesian space: the eigenvalues of all oxygens agree.
    inverse = np.linalg.inv(s.lattice)
    n = np.linalg.norm(inverse, axis=0)
    assert s.atoms.u_aniso is not None
    contravariant = s.atoms.u_aniso * n[:, None] * n[None, :]
    cartesian = s.lattice.T @ contravariant @ s.lattice
    oxygen = np.linalg.eigvalsh(cartesian[s.atoms.site == 2])
    np.testing.assert_allclose(oxygen, np.broadcast_to(oxygen[0], oxygen.shape), rtol=1e-10)


def test_lattice_parameters_come_back() -> None:
    cell = (5.1, 6.2, 7.3, 80.0, 95.0, 112.0)
    lattice = symmetry.lattice_from_parameters(*cell)
    np.testing.assert_allclose(symmetry.cell_parameters(lattice), cell, rtol=1e-13)
    assert abs(np.linalg.det(lattice)) == pytest.approx(gemmi.UnitCell(*cell).volume, rel=1e-12)


def test_find_symmetry_returns_operators_that_fit_its_cell(datasets: pathlib.Path) -> None:
    """spglib's test cells, 220 groups: operators of the standard setting map the standard cell onto itself."""
    library = read_npz(datasets / "spglib_symmetry_tests.npz")
    groups = set()
    for i in range(len(library)):
        lattice, frac, numbers = library.cell(i)
        cell = symmetry.find_symmetry(lattice, frac, [int(z) for z in numbers], 0.01)
        assert cell.number == library.labels()[i]
        groups.add(cell.number)
        if i % 3:  # the mapping itself for a third, within seconds
            continue
        found = symmetry.group_from_operators(cell.rotations, cell.translations, cell.lattice)
        assert found is not None
        assert found[0] == cell.number
        symmetry.symmetrise_lattice(cell.lattice, cell.rotations, "cell")
        count = 0
        for atom in cell.asymmetric:
            images = cell.rotations @ cell.frac[atom] + cell.translations
            near = symmetry.distances(images, cell.frac, cell.lattice, np.zeros((1, 3)))
            assert near.min(axis=1).max() < 1e-3
            count += len(set(near.argmin(axis=1)))
        assert count == len(cell.frac)
    assert len(groups) >= 220


def test_standard_setting_scatters_as_the_original(cif_folder: pathlib.Path) -> None:
    """Mixed, ionic and anisotropic atoms give the same d and |F| after spglib has found their symmetry anew."""
    for name in ("mixed_FeMgO", "aniso_calcite", "Al2O3", "quartz", "ZrO2_monoclinic", "triclinic"):
        original = read_cif(cif_folder / f"{name}.cif")
        found = structures.with_found_symmetry(original, 0.01)
        assert found.space_group_number == original.space_group_number
        assert found.volume == pytest.approx(original.volume, rel=1e-9)
        lists = []
        for s in (original, found):
            hkl = np.stack(np.meshgrid(*[np.arange(-6, 7)] * 3), axis=-1).reshape(-1, 3)
            inverse_d2 = np.einsum("ni,ij,nj->n", hkl, np.linalg.inv(s.lattice @ s.lattice.T), hkl)
            keep = inverse_d2 < 0.25
            value = np.abs(_toy_structure_factor(s, hkl[keep])) ** 2
            lists.append(np.array(sorted(zip(np.round(inverse_d2[keep], 8), np.round(value, 5), strict=True))))
        np.testing.assert_allclose(lists[0], lists[1], rtol=0, atol=3e-5)


def _toy_structure_factor(s: structures.CrystalStructure, hkl: np.ndarray) -> np.ndarray:
    """F with constant form factors Z/10 and all displacement factors, over the whole cell."""
    atoms = s.atoms
    z = np.array([gemmi.Element(structures.element_of(v)).atomic_number / 10 for v in atoms.species])
    weight = atoms.occupancy @ z
    total = np.zeros(len(hkl), dtype=complex)
    n = np.linalg.norm(np.linalg.inv(s.lattice), axis=0)
    inverse_d2 = np.einsum("ni,ij,nj->n", hkl, np.linalg.inv(s.lattice @ s.lattice.T), hkl)
    for j in range(len(weight)):
        damping = np.exp(-atoms.biso[j] * inverse_d2 / 4)
        if atoms.u_aniso is not None:
            damping = damping * np.exp(-2 * np.pi**2 * np.einsum("ni,ij,nj->n", hkl * n, atoms.u_aniso[j], hkl * n))
        for shift in atoms.centring:
            total += weight[j] * damping * np.exp(2j * np.pi * (hkl @ (atoms.frac[j] + shift)))
    return total


def test_crystal_system_and_formula(cif_folder: pathlib.Path) -> None:
    s = read_cif(cif_folder / "Al2O3.cif")
    assert (s.crystal_system, s.formula) == ("trigonal", "Al2 O3")
    expected = {
        1: "triclinic",
        15: "monoclinic",
        74: "orthorhombic",
        75: "tetragonal",
        143: "trigonal",
        168: "hexagonal",
        230: "cubic",
    }
    for number, system in expected.items():
        assert dataclasses.replace(s, space_group_number=number).crystal_system == system


def test_mixed_site_shares_a_row_only_with_equal_displacement(cif_folder: pathlib.Path) -> None:
    s = read_cif(cif_folder / "mixed_FeMgO.cif")
    assert s.atoms.occupancy.tolist() == [[0.43, 0.57, 0.0], [0.0, 0.0, 0.98]]
    apart = dataclasses.replace(s, biso=np.array([0.3, 0.5, 0.4]))
    assert apart.atoms.occupancy.tolist() == [[0.43, 0.0, 0.0], [0.0, 0.57, 0.0], [0.0, 0.0, 0.98]]
    assert apart.atoms.biso.tolist() == [0.3, 0.5, 0.4]
    with pytest.raises(InputError, match=r"total occupancy of 1\.2"):
        structures.check_overlaps(dataclasses.replace(s, occupancy=np.array([0.6, 0.6, 1.0])))


def _first_halls() -> dict[int, int]:
    halls: dict[int, int] = {}
    for hall in range(1, 531):
        kind = spglib.get_spacegroup_type(hall)
        assert kind is not None
        halls.setdefault(kind.number, hall)
    return halls


def test_axis_permutations_are_what_settings_leave() -> None:
    """Six namings of axes, divided by the orthorhombic settings that tables list of a group (gemmi's qualifiers)."""
    settings: dict[int, set[str]] = {}
    for group in gemmi.spacegroup_table():
        settings.setdefault(group.number, set()).add(group.qualifier)
    # Of these the tables print each setting under two names that differ in the origin: C m m a is C m m b.
    twice = {67: 2, 68: 2, 73: 2, 74: 2}
    for number, hall in _first_halls().items():
        if 16 <= number <= 74:
            distinct = len(settings[number]) // twice.get(number, 1)
            assert len(symmetry.axis_permutations(hall)) * distinct == 6, number


def test_axis_permutations_form_groups() -> None:
    halls = _first_halls()
    assert symmetry.axis_permutations(halls[62]) == ((0, 1, 2),)  # P n m a
    assert symmetry.axis_permutations(halls[61]) == ((0, 1, 2), (1, 2, 0), (2, 0, 1))  # P b c a
    assert symmetry.axis_permutations(halls[55]) == ((0, 1, 2), (1, 0, 2))  # P b a m
    assert len(symmetry.axis_permutations(halls[19])) == 6  # P 21 21 21, by a shift of its origin
    for number in range(16, 75):
        found = symmetry.axis_permutations(halls[number])
        assert {tuple(a[i] for i in b) for a in found for b in found} == set(found)


def test_enantiomorphic_pairs_are_those_that_inversion_exchanges() -> None:
    pairs = {}
    for number in range(1, 231):
        group = gemmi.find_spacegroup_by_number(number)
        assert group is not None
        mirrored = []
        for op in group.operations():
            op.tran = [-v for v in op.tran]
            mirrored.append(op.wrap())
        other = gemmi.find_spacegroup_by_ops(gemmi.GroupOps(mirrored))
        if other is not None and other.number < number:
            pairs[number] = other.number
    assert pairs == symmetry.LOWER_ENANTIOMORPH


def test_translations_are_whole_24ths() -> None:
    """Of all settings, so that one byte keeps each exactly; gemmi counts in the same unit."""
    assert symmetry.TRANSLATION_DENOMINATOR == gemmi.Op.DEN
    for hall in range(1, 531):
        translations = symmetry.hall_operators(hall)[1]
        whole = np.round(translations * symmetry.TRANSLATION_DENOMINATOR)
        assert np.all((whole >= 0) & (whole < symmetry.TRANSLATION_DENOMINATOR))
        np.testing.assert_array_equal(whole / symmetry.TRANSLATION_DENOMINATOR, translations)
