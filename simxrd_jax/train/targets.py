"""Host and device. What a network is asked for: classes of symmetry, and lattice parameters.

Classes are named, never numbered: published projects number crystal systems in opposite orders.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from simxrd_jax.conditions import STRAIN, nearest
from simxrd_jax.crystal import cell
from simxrd_jax.errors import InputError
from simxrd_jax.library.store import Library
from simxrd_jax.library.stream import LABELS, PARTS, Batch, Stream, class_names
from simxrd_jax.models.lattice import LATTICE, lattice_numbers
from simxrd_jax.types import Array

TARGETS = (*LABELS, LATTICE)
SPACE_GROUPS = tuple(str(number) for number in range(1, 231))


def names_of(library: Library, target: str) -> tuple[str, ...]:
    """Class names of a target, in the order of a network's outputs.

    Raises:
      InputError: an unknown target, or one without classes.
    """
    if target not in LABELS:
        raise InputError(f"there is no target {target!r} with classes{nearest(target, dict.fromkeys(LABELS))}")
    return SPACE_GROUPS if target == "space_group" else class_names(library, target)


def codes_of(library: Library, target: str) -> np.ndarray:
    """Class of each structure, counted from 0, int32 [structure]."""
    if target == "crystal_system":
        return as_codes(library.crystal_system, names_of(library, target))
    values = np.asarray(getattr(library, target), dtype=np.int32)
    return values - 1 if target == "space_group" else values


def counts_in(library: Library, target: str, structures: np.ndarray) -> np.ndarray:
    """How many of some structures are in each class."""
    return np.bincount(codes_of(library, target)[structures], minlength=len(names_of(library, target)))


def structures_in(library: Library, split: str, part: str) -> np.ndarray:
    """Indices of the structures of a part of a split; "in_library" has all of them in each part.

    Raises:
      InputError: an unknown split or part.
    """
    if split not in library.splits:
        raise InputError(f"there is no split {split!r}{nearest(split, dict.fromkeys(library.splits))}")
    if part not in PARTS:
        raise InputError(f"there is no part {part!r}{nearest(part, dict.fromkeys(PARTS))}")
    if split == "in_library":
        return np.arange(len(library))
    return np.flatnonzero(np.asarray(library.splits[split]) == PARTS.index(part))


def truth(stream: Stream, batch: Batch, targets: Sequence[str]) -> dict[str, Array]:
    """What the heads should answer: class codes [batch], and the lattice as six numbers [batch, 6]."""
    answers: dict[str, Array] = {}
    for target in targets:
        if target == LATTICE:
            answers[target] = lattice_numbers(_strained_lattice(stream, batch))
        else:
            answers[target] = batch.labels[target] - (1 if target == "space_group" else 0)
    return answers


def _strained_lattice(stream: Stream, batch: Batch) -> Float[Array, "batch 3 3"]:
    """Lattices as variation and conditions strain them: what the pattern shows."""
    lattice = stream.arrays.lattice[batch.structure]
    if batch.cell_strain is not None:
        lattice = lattice + jnp.einsum("bij,bjk->bik", lattice, batch.cell_strain, precision=jax.lax.Precision.HIGHEST)
    if not any(name in batch.conditions for name in STRAIN):
        return lattice
    zeros = jnp.zeros(lattice.shape[0], lattice.dtype)
    strain = jnp.stack([jnp.asarray(batch.conditions.get(name, zeros), lattice.dtype) for name in STRAIN], axis=-1)
    strain = strain.reshape(-1, 3, 3)
    if stream.options.impurities is not None and not stream.options.settings.split_orbits:
        # A mixture's batch reports the drawn strain, of which each phase keeps the part that keeps its own class.
        rotations = stream.arrays.rotations[stream.arrays.laue[batch.structure]]
        strain = jax.vmap(cell.class_keeping_strain)(lattice, strain, rotations)
    moved = jnp.einsum("bij,bkj->bik", lattice, strain, precision=jax.lax.Precision.HIGHEST)
    return lattice + moved


def as_codes(values: Sequence[str] | np.ndarray, names: Sequence[str]) -> Int[np.ndarray, " value"]:
    """Places of class names in a network's classes; -1 where it has no such class."""
    place = {name: i for i, name in enumerate(names)}
    return np.array([place.get(str(value), -1) for value in values], dtype=np.int32)
