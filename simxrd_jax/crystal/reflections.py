"""Host zone. The unique reflections of a structure: enumeration, orbits, multiplicities, systematic absences, padding.

Why whole arrays of indices: an orbit is found by its lexicographically greatest member, so a candidate is struck out as
soon as one rotation makes it greater. Striking out by one rotation after the other leaves about 1/48 of the block in a
cubic cell and never holds more than one index array, which keeps a 50 A axis in bounds. What is then listed as the
orbit's representative is the member that tables print (0 1 2 and 1 1 0 of corundum, not 1 0 -2 and 2 -1 0).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from simxrd_jax.crystal import symmetry
from simxrd_jax.crystal.structure import CrystalStructure
from simxrd_jax.errors import InputError

if TYPE_CHECKING:  # the types need JAX, the processes of a library's build do not
    from simxrd_jax.types import ReflectionList

# Reflections this far outside the window are listed for the tails they send into it. [deg]
DEFAULT_MARGIN = 2.0
# Index triples enumerated at most; a 100 A cubic cell to d = 1 A has 8e6. More is a wrong cell or a wrong wavelength.
MAX_CANDIDATES = 60_000_000


def make_reflections(
    structure: CrystalStructure,
    wavelength: float | np.ndarray,
    two_theta_min: float,
    two_theta_max: float,
    margin: float = DEFAULT_MARGIN,
    max_strain: float = 0.0,
    capacity: int | None = None,
    member_capacity: int | None = None,
) -> ReflectionList:
    """All unique reflections that can reach a 2theta window.

    A reflection is listed if any wavelength puts it within [two_theta_min - margin, two_theta_max + margin] when d changes
    by up to max_strain. Those that an operator with h R = h and h.t not whole extinguishes are left out.

    Args:
      structure: with its operators; the cell of the list is the structure's.
      wavelength: one wavelength or several lines. [A]
      two_theta_min, two_theta_max: the window. [deg]
      margin: [deg]
      max_strain: greatest relative change of d.
      capacity: number of unique reflections to pad to; None returns the exact length (at least 1).
      member_capacity: number of orbit members to pad to; None pads to a power of two if `capacity` is given.

    Returns:
      Reflections sorted by falling d, then by h, k, l; int32.

    Raises:
      InputError: more reflections than `capacity`, a window without an angle, or a cell too large to enumerate.
    """
    from simxrd_jax.types import ReflectionList

    lines = np.atleast_1d(np.asarray(wavelength, dtype=np.float64))
    if not (np.all(np.isfinite(lines)) and np.all(lines > 0)):
        raise InputError(f"the wavelength {wavelength} must be positive; give it in Angstrom")
    if not 0 <= two_theta_min < two_theta_max <= 180:
        raise InputError(
            f"the 2theta range {two_theta_min:g} to {two_theta_max:g} deg is empty or outside 0 to 180; give START < STOP"
        )
    inverse_d_min, inverse_d_max = inverse_d_bounds(lines, two_theta_min, two_theta_max, margin, max_strain)
    hkl, members, member_reflection, multiplicity = unique_reflections(
        structure.lattice, structure.rotations, structure.translations, inverse_d_min, inverse_d_max, structure.source
    )
    reflections = ReflectionList(
        hkl=hkl.astype(np.int32),
        multiplicity=multiplicity.astype(np.int32),
        member_hkl=members.astype(np.int32),
        member_reflection=member_reflection.astype(np.int32),
        member_count=np.full(len(members), 2, dtype=np.int32),
        laue_rotations=symmetry.laue_rotations(structure.rotations),
    )
    if capacity is None and member_capacity is None:
        return pad_reflections(reflections, max(len(hkl), 1), max(len(members), 1))
    n_hkl = bucket_size(len(hkl)) if capacity is None else capacity
    n_member = bucket_size(len(members)) if member_capacity is None else member_capacity
    return pad_reflections(reflections, n_hkl, n_member)


def inverse_d_bounds(
    wavelength: Sequence[float] | np.ndarray, two_theta_min: float, two_theta_max: float, margin: float, max_strain: float
) -> tuple[float, float]:
    """Bounds of 1/d of the unstrained cell for reflections that can reach a 2theta window. [1/A]

    Args:
      wavelength: lines. [A]
      two_theta_min, two_theta_max: the window. [deg]
      margin: on each side of it. [deg]
      max_strain: greatest relative change of d.
    """
    theta_min = np.radians(max(two_theta_min - margin, 0.0)) / 2
    theta_max = np.radians(min(two_theta_max + margin, 180.0)) / 2
    low = 2 * np.sin(theta_min) / np.max(wavelength) * (1 - max_strain)
    high = 2 * np.sin(theta_max) / np.min(wavelength) * (1 + max_strain)
    return float(low), float(high)


def unique_reflections(
    lattice: np.ndarray,
    rotations: np.ndarray,
    translations: np.ndarray,
    inverse_d_min: float,
    inverse_d_max: float,
    source: str = "structure",
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Orbits of the Laue group with inverse_d_min <= 1/d <= inverse_d_max, 000 and systematic absences left out.

    Args:
      lattice: rows are the lattice vectors. [A]
      rotations, translations: operators x' = R x + t, centring included.
      inverse_d_min, inverse_d_max: bounds of 1/d. [1/A]
      source: named in the error.

    Returns:
      Representatives [hkl, 3]; members, one of each Friedel pair, the representative first [member, 3]; the
      representative's index of each member; multiplicities [hkl].

    Raises:
      InputError: the cell is too large to enumerate.
    """
    laue = np.unique(symmetry.laue_rotations(rotations), axis=0).astype(np.int64)
    reciprocal_metric = np.linalg.inv(lattice @ lattice.T)
    candidates, inverse_d2 = _candidates(lattice, reciprocal_metric, inverse_d_min, inverse_d_max, source)
    base = 2 * int(np.abs(candidates).max(initial=0)) * 3 + 1  # images' indices stay below three times the greatest
    is_greatest = _key(candidates, base) > 0
    for rotation in laue:
        candidates, inverse_d2 = candidates[is_greatest], inverse_d2[is_greatest]
        # With its Friedel mate an image contributes the greater of +key and -key.
        is_greatest = _key(candidates, base) >= np.abs(_key(candidates @ rotation, base))
    candidates, inverse_d2 = candidates[is_greatest], inverse_d2[is_greatest]
    is_present = ~is_absent(candidates, rotations, translations)
    candidates, inverse_d2 = candidates[is_present], inverse_d2[is_present]

    images = np.einsum("ni,rij->nrj", candidates, laue).reshape(-1, 3)
    images = np.where((_familiarity(images, base) >= _familiarity(-images, base))[:, None], images, -images)
    keys = _familiarity(images, base).reshape(len(candidates), len(laue))
    images = images.reshape(len(candidates), len(laue), 3)
    rank = np.argsort(-keys, axis=1, kind="stable")
    keys = np.take_along_axis(keys, rank, axis=1)
    images = np.take_along_axis(images, rank[:, :, None], axis=1)
    order = np.lexsort((*images[:, 0].T[::-1], _rounded(inverse_d2)))
    keys, images = keys[order], images[order]
    is_new = np.ones_like(keys, dtype=bool)
    is_new[:, 1:] = keys[:, 1:] != keys[:, :-1]
    return images[:, 0], images[is_new], np.nonzero(is_new)[0], 2 * is_new.sum(axis=1)


def is_absent(hkl: np.ndarray, rotations: np.ndarray, translations: np.ndarray) -> np.ndarray:
    """Whether an operator extinguishes each reflection: h R = h while h.t is not a whole number.

    Reference: International Tables for Crystallography A (2016), section 1.6.3.
    """
    absent = np.zeros(len(hkl), dtype=bool)
    for rotation, translation in zip(rotations, translations, strict=True):
        phase = hkl @ translation
        # Where h R = h, h.t is a multiple of 1/6 or 1/4, so 0.05 is far from both.
        is_fractional = np.abs(phase - np.round(phase)) > 0.05
        absent |= is_fractional & (hkl @ rotation == hkl).all(axis=1)
    return absent


def _candidates(
    lattice: np.ndarray, reciprocal_metric: np.ndarray, inverse_d_min: float, inverse_d_max: float, source: str
) -> tuple[np.ndarray, np.ndarray]:
    """All hkl with h >= 0 within the bounds of 1/d, 000 left out, and their 1/d^2."""
    limit = np.floor(np.linalg.norm(lattice, axis=1) * inverse_d_max + 1e-9).astype(int)
    count = (limit[0] + 1) * (2 * limit[1] + 1) * (2 * limit[2] + 1)
    if count > MAX_CANDIDATES:
        raise InputError(
            f"{source}: {count:.2g} index triples to try for this cell and range; shorten the 2theta range or check the cell"
        )
    # One slab of constant h at a time: the block of a long cell would not fit in memory.
    k, l = (v.ravel() for v in np.mgrid[-limit[1] : limit[1] + 1, -limit[2] : limit[2] + 1])
    slab = np.stack([np.zeros_like(k), k, l], axis=1)
    low, high = inverse_d_min**2 * (1 - 1e-12), inverse_d_max**2 * (1 + 1e-12)
    kept, values = [], []
    g = reciprocal_metric
    in_plane = k**2 * g[1, 1] + l**2 * g[2, 2] + 2 * k * l * g[1, 2]
    slope = 2 * (k * g[0, 1] + l * g[0, 2])
    for h in range(limit[0] + 1):
        inverse_d2 = h**2 * g[0, 0] + h * slope + in_plane
        inside = (inverse_d2 >= low) & (inverse_d2 <= high)
        if h == 0:
            inside &= (k != 0) | (l != 0)
        found = slab[inside]
        found[:, 0] = h
        kept.append(found)
        values.append(inverse_d2[inside])
    return np.concatenate(kept), np.concatenate(values)


def _key(hkl: np.ndarray, base: int) -> np.ndarray:
    """One number an hkl that sorts as (h, k, l) does and changes sign with it."""
    return (hkl[:, 0] * base + hkl[:, 1]) * base + hkl[:, 2]


def _familiarity(hkl: np.ndarray, base: int) -> np.ndarray:
    """One number an hkl, greatest for the one tables print: fewest minus signs, then greatest (h, k, l)."""
    return _key(hkl, base) - base**3 * (hkl < 0).sum(axis=1)


def _rounded(inverse_d2: np.ndarray) -> np.ndarray:
    """1/d^2 to about ten digits, so that reflections of one d tie and are sorted by their indices."""
    scale = inverse_d2.max(initial=0.0) or 1.0
    return np.round(inverse_d2 / scale, 10)


def bucket_size(n: int, minimum: int = 16) -> int:
    """The capacity for n entries: the next power of two, at least `minimum`."""
    size = minimum
    while size < n:
        size *= 2
    return size


def pad_reflections(reflections: ReflectionList, n_hkl: int, n_member: int) -> ReflectionList:
    """Pads a list to fixed lengths with repeats of its last reflection that count nothing (0 0 1 if it is empty).

    Raises:
      InputError: the list is longer than a capacity.
    """
    have_hkl, have_member = len(reflections.hkl), len(reflections.member_hkl)
    if have_hkl > n_hkl:
        raise InputError(
            f"the list holds {have_hkl} reflections but the capacity is {n_hkl}; raise it or shorten the 2theta range"
        )
    if have_member > n_member:
        raise InputError(
            f"the list holds {have_member} orbit members but the capacity is {n_member}; raise it or shorten the 2theta range"
        )
    filler = np.array([[0, 0, 1]], dtype=np.int32)
    hkl = np.asarray(reflections.hkl) if have_hkl else filler
    member_hkl = np.asarray(reflections.member_hkl) if have_member else filler
    member_reflection = np.asarray(reflections.member_reflection) if have_member else np.zeros(1, dtype=np.int32)
    return dataclasses.replace(
        reflections,
        hkl=_extend(hkl, n_hkl),
        multiplicity=_extend_zero(np.asarray(reflections.multiplicity), n_hkl),
        member_hkl=_extend(member_hkl, n_member),
        member_reflection=_extend(member_reflection, n_member),
        member_count=_extend_zero(np.asarray(reflections.member_count), n_member),
    )


def _extend(values: np.ndarray, n: int) -> np.ndarray:
    return np.concatenate([values, np.repeat(values[-1:], n - len(values), axis=0)])


def _extend_zero(values: np.ndarray, n: int) -> np.ndarray:
    return np.concatenate([values, np.zeros(n - len(values), dtype=values.dtype)])
