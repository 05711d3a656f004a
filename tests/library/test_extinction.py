"""Extinction groups against gemmi, against International Tables, and against themselves on larger boxes and other axes."""

from __future__ import annotations

import functools
import itertools
import time

import gemmi
import numpy as np
import pytest

from simxrd_jax.crystal.reflections import is_absent
from simxrd_jax.crystal.symmetry import laue_rotations
from simxrd_jax.errors import InputError
from simxrd_jax.library import extinction
from simxrd_jax.library.extinction import ExtinctionGroups, extinction_groups

GROUPS = extinction_groups()


def _members(symbol: str, groups: ExtinctionGroups = GROUPS) -> set[str]:
    """Hermann-Mauguin symbols of the extinction group of a symbol."""
    number = gemmi.find_spacegroup_by_name(symbol).number
    found = groups.members[groups.of_space_group[number]]
    return {gemmi.find_spacegroup_by_number(n).hm.replace(" ", "") for n in found}


def test_counts():
    assert len(GROUPS.members) == 101
    assert len(extinction_groups("laue_class").members) == 120


@pytest.mark.parametrize("within", ["crystal_system", "laue_class"])
def test_it_is_a_partition(within: extinction.Within):
    groups = extinction_groups(within)
    assert sorted(itertools.chain(*groups.members)) == list(range(1, 231))
    assert groups.of_space_group[0] == -1
    for index, members in enumerate(groups.members):
        assert list(members) == sorted(members)
        assert (groups.of_space_group[list(members)] == index).all()
    assert [m[0] for m in groups.members] == sorted(m[0] for m in groups.members)
    assert len(set(groups.names)) == len(groups.names)


def test_crystal_systems_and_laue_classes_do_not_mix():
    fine = extinction_groups("laue_class")
    for members in GROUPS.members:
        assert len({gemmi.find_spacegroup_by_number(n).crystal_system_str() for n in members}) == 1
    for members in fine.members:
        assert len({gemmi.find_spacegroup_by_number(n).laue_str() for n in members}) == 1
        assert len(set(GROUPS.of_space_group[list(members)])) == 1


# What table 3.1.4.1 of International Tables A says, for the crystal system as a whole.
TABLE = {
    "P21/c": ["P121/c1"],
    "P21": ["P1211", "P121/m1"],
    "C2": ["C121", "C1m1", "C12/m1"],
    "Cc": ["C1c1", "C12/c1"],
    "Pnma": ["Pnma", "Pna21"],
    "P212121": ["P212121"],
    "Pbca": ["Pbca"],
    "Fdd2": ["Fdd2"],
    "Fddd": ["Fddd"],
    "I222": ["I222", "I212121", "Imm2", "Immm"],  # the screw axes of I 21 21 21 add nothing to I
    "Amm2": ["C222", "Cmm2", "Amm2", "Cmmm"],  # A and C are names of axes
    "Pma2": ["Pmc21", "Pma2", "Pmma"],  # one glide plane along one of its axes
    "P41": ["P41", "P43", "P4122", "P4322"],
    "P42/n": ["P42/n"],  # 0 0 l tells it from P 4/n
    "P31": ["P31", "P32", "P3112", "P3121", "P3212", "P3221"],
    "P61": ["P61", "P65", "P6122", "P6522"],
    "R3": ["R3", "R-3", "R32", "R3m", "R-3m"],
    "R-3c": ["R3c", "R-3c"],
    "P31c": ["P31c", "P-31c"],  # h h -2h l, and not h -h 0 l of P 3 c 1
    "Pa-3": ["Pa-3"],
    "Fd-3m": ["Fd-3", "Fd-3m"],  # 0 k l with k + l = 4n, whatever the Laue class
    "F4132": ["F4132"],  # h 0 0 alone
    "I213": ["I23", "I213", "Im-3", "I432", "I-43m", "Im-3m"],
    "Ia-3d": ["Ia-3d"],
}


@pytest.mark.parametrize("symbol", TABLE)
def test_international_tables(symbol: str):
    assert _members(symbol) == set(TABLE[symbol])


def test_laue_classes_divide():
    groups = extinction_groups("laue_class")
    assert _members("Fd-3m", groups) == {"Fd-3m"}
    assert _members("P42/n", groups) == {"P42/n"}
    assert _members("P4/n", groups) == {"P4/n"}
    assert _members("P4/n") == {"P4/n", "P4/nmm"}
    assert _members("P31", groups) == {"P31", "P32"}


def test_four_trigonal_classes_have_the_absences_of_hexagonal_ones():
    hkl = np.mgrid[0:8, -7:8, -7:8].reshape(3, -1).T.astype(np.int32)
    absences = {
        number: gemmi.find_spacegroup_by_number(number).operations().systematic_absences(hkl).tobytes()
        for number in (m[0] for m in GROUPS.members if 143 <= m[0] <= 194)
    }
    twins = {(a, b) for a, x in absences.items() for b, y in absences.items() if a < 168 <= b and x == y}
    assert twins == {(143, 168), (144, 171), (158, 185), (159, 186)}


def test_names_are_readable():
    assert GROUPS.names[GROUPS.of_space_group[62]] == "orthorhombic Pna2_1 Pnma"
    assert GROUPS.names[GROUPS.of_space_group[205]] == "cubic Pa-3"
    assert GROUPS.names[GROUPS.of_space_group[166]] == "trigonal R3 R-3 R32 R3m R-3m"


@pytest.mark.parametrize("within", ["crystal_system", "laue_class"])
@pytest.mark.parametrize("box", [4, 24])
def test_the_box_is_large_enough(within: extinction.Within, box: int):
    groups = extinction._derive(within, box)
    assert groups.members == extinction_groups(within).members


def test_a_box_can_be_too_small():
    assert len(extinction._derive("crystal_system", 3).members) < 101


@pytest.mark.parametrize("symbol", ["C2/c", "Fddd", "I41/acd", "R-3c", "P63/mmc", "Ia-3d", "Fd-3c", "Pn-3n"])
def test_only_the_centring_extinguishes_what_is_not_compared(symbol: str):
    number = gemmi.find_spacegroup_by_name(symbol).number
    _, rotations, translations = extinction._standard_settings()[number]
    system = gemmi.find_spacegroup_by_number(number).crystal_system_str()
    holohedry = laue_rotations(extinction._standard_settings()[extinction._HOLOHEDRY[system]][1])
    kept = {tuple(h) for h in extinction._reflections(holohedry, 9).tolist()}
    hkl = np.mgrid[0:10, -9:10, -9:10].reshape(3, -1).T
    rest = np.array([h for h in hkl.tolist() if tuple(h) not in kept])
    is_pure = (rotations == np.eye(3)).all(axis=(1, 2))
    assert 500 < len(rest) < len(hkl)
    by_centring = is_absent(rest, rotations[is_pure], translations[is_pure])
    np.testing.assert_array_equal(is_absent(rest, rotations, translations), by_centring)


# Centrings of cells that hold a multiple of the standard one, which no renaming of axes brings back.
LARGER_CELLS = {"triclinic": "ABCFI", "monoclinic": "BF", "tetragonal": "CF"}


def test_every_setting_against_gemmi():
    """gemmi's absences on a whole box under every matrix that keeps the lattice give the same classes.

    Every other setting with the unique axis b or hexagonal axes must fall into the class of the standard one.
    """
    hkl = np.mgrid[0:6, -5:6, -5:6].reshape(3, -1).T
    class_of: dict[tuple[str, bytes], int] = {}
    for group in gemmi.spacegroup_table():
        system = group.crystal_system_str()
        is_other_axis = system == "monoclinic" and group.monoclinic_unique_axis() != "b"
        if group.ext == "R" or is_other_axis or group.hm[0] in LARGER_CELLS.get(system, ""):
            continue
        operations = group.operations()
        signature = min(
            np.packbits(operations.systematic_absences((hkl @ p).astype(np.int32))).tobytes() for p in _matrices(system)
        )
        index = int(GROUPS.of_space_group[group.number])
        assert class_of.setdefault((system, signature), index) == index, group.xhm()
    assert sorted(class_of.values()) == list(range(101))


@functools.cache
def _matrices(system: str) -> np.ndarray:
    """Whole-number matrices that keep the metric of a crystal system; of monoclinic ones those with small entries."""
    if system == "triclinic":
        return np.eye(3, dtype=int)[None]
    if system == "monoclinic":
        blocks = np.array(list(itertools.product(range(-2, 3), repeat=4))).reshape(-1, 2, 2)
        blocks = blocks[np.abs(np.round(np.linalg.det(blocks))) == 1]
        matrices = np.tile(np.eye(3, dtype=int), (len(blocks), 1, 1))
        matrices[:, ::2, ::2] = blocks
        return matrices
    hexagonal = np.array([[1, -0.5, 0], [-0.5, 1, 0], [0, 0, 2.3]])
    metric = {"tetragonal": np.diag([1, 1, 2.3]), "hexagonal": hexagonal, "trigonal": hexagonal}.get(system, np.eye(3))
    entries = np.array(list(itertools.product((-1, 0, 1), repeat=9))).reshape(-1, 3, 3)
    # A matrix and its negative extinguish the same.
    keeps = np.isclose(entries @ metric @ np.swapaxes(entries, 1, 2), metric).all(axis=(1, 2)) & (np.linalg.det(entries) > 0)
    return np.swapaxes(entries[keeps], 1, 2)


def test_it_is_quick():
    extinction._standard_settings.cache_clear()
    start = time.perf_counter()
    extinction._derive.__wrapped__("crystal_system", extinction.BOX)
    assert time.perf_counter() - start < 2.0  # 0.4 s on two cores


def test_the_cached_result_cannot_be_changed():
    assert extinction_groups("crystal_system") is GROUPS
    with pytest.raises(ValueError, match="read-only"):
        GROUPS.of_space_group[1] = 0


def test_unknown_division():
    with pytest.raises(InputError, match="crystal_system, laue_class"):
        extinction_groups("point_group")  # pyright: ignore[reportArgumentType]
