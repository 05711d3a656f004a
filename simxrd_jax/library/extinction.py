"""Host zone. Extinction groups: the space groups that systematic absences cannot tell apart.

Why derived and not typed: the operators of the 230 groups decide which reflections are absent, so the classes follow from
the function that lists the reflections. A group is described by which hkl of a box it extinguishes, in all the ways the
axes can be named, and two groups belong together if one naming makes the descriptions equal.
"""

from __future__ import annotations

import dataclasses
import functools
import warnings
from typing import Literal, get_args

import numpy as np

from simxrd_jax.crystal.reflections import is_absent
from simxrd_jax.crystal.structure import CRYSTAL_SYSTEMS
from simxrd_jax.crystal.symmetry import laue_rotations, split_centring
from simxrd_jax.errors import InputError

Within = Literal["crystal_system", "laue_class"]

# Greatest index compared. The longest period of a condition is 6 (0 0 l with l = 6n of 6_1); every box from 4 to 24 gives
# the same classes, one of 3 gives fewer.
BOX = 12

# A group with all rotations that map the crystal system's lattice to itself. Cubic ones rename orthorhombic axes.
_HOLOHEDRY = {
    "triclinic": 2,
    "monoclinic": 10,
    "orthorhombic": 221,
    "tetragonal": 123,
    "trigonal": 191,
    "hexagonal": 191,
    "cubic": 221,
}
# The cell choices of a monoclinic cell with b kept. They are infinitely many, but absences of monoclinic groups depend on
# whether h, k and l are even, so that the six matrices distinct modulo 2 stand for all.
_MONOCLINIC_CELL_CHOICES = np.array(
    [[[p, 0, q], [0, 1, 0], [r, 0, s]] for p, q, r, s in np.ndindex(2, 2, 2, 2) if (p * s - q * r) % 2]
)


@dataclasses.dataclass(frozen=True, eq=False)
class ExtinctionGroups:
    """A partition of the 230 space groups.

    Attributes:
      of_space_group: index of the extinction group of each space-group number, [231]; -1 at 0, which is no group.
      members: space-group numbers of each extinction group; the groups are sorted by their first.
      names: crystal system and Hermann-Mauguin symbols of the members, "orthorhombic Pna2_1 Pnma".
    """

    of_space_group: np.ndarray
    members: tuple[tuple[int, ...], ...]
    names: tuple[str, ...]


def extinction_groups(within: Within = "crystal_system") -> ExtinctionGroups:
    """The extinction groups: 101 within the crystal systems, 120 within the eleven Laue classes.

    Groups are compared in the standard setting (unique axis b, cell choice 1; hexagonal axes), centring included. Absences
    are the same if they agree after a renaming of axes that maps the lattice of the crystal system to itself, because a
    powder pattern does not know the names of axes: any permutation in orthorhombic cells, any cell choice with b kept in
    monoclinic ones, a rotation of the holohedry in the others. Trigonal and hexagonal are two crystal systems here, as they
    are for the label, though their P lattices are one: four trigonal classes (P3, P3_1, P3c1, P31c) have the absences of a
    hexagonal one, and 97 classes of lattice and absences are left.

    Not covered: reflections of different orbits at one d, which hide absences of single ones in a powder pattern, and
    absences that special positions or chance cause.

    Args:
      within: only groups of one crystal system (seven) or of one Laue class (eleven) can belong together. The Laue class
        shows itself in intensities alone.

    Raises:
      InputError: unknown `within`.

    Reference: International Tables for Crystallography A (2002), table 3.1.4.1.
    """
    if within not in get_args(Within):
        raise InputError(f"extinction groups within '{within}' are not defined; give one of {', '.join(get_args(Within))}")
    return _derive(within, BOX)


@functools.cache
def _derive(within: Within, box: int) -> ExtinctionGroups:
    """The partition that the reflections with |h|, |k|, |l| <= box give."""
    members: dict[tuple[str, int, bytes], list[int]] = {}
    names: dict[tuple[str, int, bytes], str] = {}
    first = 1
    for last, system in CRYSTAL_SYSTEMS:
        holohedry = np.unique(laue_rotations(_standard_settings()[_HOLOHEDRY[system]][1]), axis=0)
        hkl = _reflections(holohedry, box)
        for number in range(first, last + 1):
            symbol, rotations, translations = _standard_settings()[number]
            laue = np.unique(laue_rotations(rotations), axis=0)
            absences = min(
                np.packbits(_absences(hkl @ renaming, rotations, translations)).tobytes()
                for renaming in _renamings(_MONOCLINIC_CELL_CHOICES if system == "monoclinic" else holohedry, laue)
            )
            # In one crystal system the order tells the Laue classes apart.
            key = (system, len(laue) if within == "laue_class" else 0, absences)
            members.setdefault(key, []).append(number)
            names[key] = f"{names.get(key, system)} {symbol}"
        first = last + 1
    of_space_group = np.full(231, -1)
    for index, numbers in enumerate(members.values()):
        of_space_group[numbers] = index
    of_space_group.flags.writeable = False  # the cached result is shared
    return ExtinctionGroups(of_space_group, tuple(tuple(numbers) for numbers in members.values()), tuple(names.values()))


def _reflections(holohedry: np.ndarray, box: int) -> np.ndarray:
    """One of each Friedel pair of the box that can be absent in other ways than its neighbours, [hkl, 3].

    Only the centring extinguishes reflections outside the planes and axes of symmetry, with a period of 2 or 3. Of those
    |h|, |k|, |l| <= 6 are enough: up to there each class modulo 2 and 3 has members outside all planes, as 1 2 4 has, whose
    absence tells I from P n -3 n.
    """
    hkl = np.mgrid[0 : box + 1, -box : box + 1, -box : box + 1].reshape(3, -1).T.astype(float)
    is_needed = np.abs(hkl).max(axis=1) <= 6
    for rotation in holohedry:
        if (rotation != np.eye(3)).any():
            image = hkl @ rotation
            is_needed |= (image == hkl).all(axis=1) | (image == -hkl).all(axis=1)
    return hkl[is_needed]


def _renamings(candidates: np.ndarray, laue: np.ndarray) -> list[np.ndarray]:
    """Matrices P of h' = h P, one of each set that the Laue group makes equivalent."""
    kept, is_covered = [], set()
    for renaming in candidates:
        if renaming.tobytes() not in is_covered:
            kept.append(renaming)
            is_covered.update(image.tobytes() for image in (renaming @ laue).astype(candidates.dtype))
    return kept


def _absences(hkl: np.ndarray, rotations: np.ndarray, translations: np.ndarray) -> np.ndarray:
    """Systematic absences; what passes the centring needs one operator a rotation."""
    point_rotations, point_translations, centring = split_centring(rotations, translations)
    absent = is_absent(hkl, np.broadcast_to(np.eye(3), (len(centring), 3, 3)), centring)
    absent[~absent] = is_absent(hkl[~absent], point_rotations, point_translations)
    return absent


@functools.cache
def _standard_settings() -> dict[int, tuple[str, np.ndarray, np.ndarray]]:
    """Hermann-Mauguin symbol, rotations and translations of spglib's first setting of each space group."""
    import spglib

    settings = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # spglib 2.8 announces another way of reporting errors
        for hall in range(1, 531):
            kind = spglib.get_spacegroup_type(hall)
            assert kind is not None
            if kind.number not in settings:
                operators = spglib.get_symmetry_from_database(hall)
                assert operators is not None
                settings[kind.number] = kind.international_short, operators["rotations"], operators["translations"]
    return settings
