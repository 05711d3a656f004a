"""Host and device. Batches of patterns of many structures in one call.

Structures are grouped by the power-of-two length of their reflection lists, so that padding stays below half and each group
is one compiled program. Inside the jitted call a batch is mapped in chunks: on CPU a chunk's working set then stays in cache,
on an accelerator one chunk is the whole batch. Sample i of a batch draws from `fold_in(key, i)`, whatever the chunk or the
group.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax import lax
from jaxtyping import Float, Int, Key

from simxrd_jax.crystal.build import stack
from simxrd_jax.crystal.reflections import bucket_size
from simxrd_jax.crystal.structure_factor import f_squared
from simxrd_jax.diffraction.settings import Settings
from simxrd_jax.presets import Preset, simulate_preset
from simxrd_jax.types import Array, Crystal, Grid, Pattern, ReflectionList

# Patterns mapped at once on CPU; `python -m experiments.simulator_speed --chunk N` measures another choice.
CPU_CHUNK = 32
# Shortest padded reflection list of a group: below it the transforms cost more than the reflections.
MIN_GROUP = 64


@struct.dataclass
class PhaseBatch:
    """Structures padded to common lengths and stacked along a first axis.

    Attributes:
      crystals, reflections: as the single ones, each leaf with a leading axis.
      f_squared: |F|^2 of each unique reflection of the unstrained cells, with the crystals' own displacement factors.
      index: each structure's place in the list that the batch was made of.
    """

    crystals: Crystal
    reflections: ReflectionList
    f_squared: Float[Array, "batch hkl"]
    index: Int[Array, " batch"]

    @property
    def size(self) -> int:
        """Number of structures."""
        return int(self.index.shape[0])


def stack_phases(
    phases: Sequence[tuple[Crystal, ReflectionList]], index: Sequence[int] | None = None, dtype: Any = np.float32
) -> PhaseBatch:
    """Pads and stacks structures and computes their |F|^2.

    Args:
      phases: crystals with their reflections.
      index: places in a longer list; None counts from 0.
      dtype: of the floating leaves.

    Raises:
      InputError: an empty list.
    """
    crystals = jax.tree.map(lambda v: jnp.asarray(v, dtype), stack([c for c, _ in phases]))
    reflections = jax.tree.map(jnp.asarray, stack([r for _, r in phases]))
    values = _f_squared(crystals, reflections.hkl)
    places = np.arange(len(phases)) if index is None else np.asarray(index)
    return PhaseBatch(crystals, reflections, values, jnp.asarray(places))


_f_squared = jax.jit(jax.vmap(f_squared))


def group_phases(phases: Iterable[tuple[Crystal, ReflectionList]], dtype: Any = np.float32) -> list[PhaseBatch]:
    """Structures grouped by their padded number of reflections, fewest first; `index` says where each was in the input."""
    groups: dict[int, list[int]] = {}
    items = list(phases)
    for i, (_, reflections) in enumerate(items):
        groups.setdefault(bucket_size(len(reflections.hkl), MIN_GROUP), []).append(i)
    return [stack_phases([items[i] for i in groups[length]], groups[length], dtype) for length in sorted(groups)]


def simulate_batch(
    batch: PhaseBatch,
    preset: Preset,
    grid: Grid,
    settings: Settings,
    cached: bool = True,
    chunk: int | None = None,
    *,
    key: Key[Array, ""],
) -> tuple[Pattern, dict[str, Float[Array, "batch ..."]]]:
    """One sampled pattern of each structure of a batch; jit it with everything but `batch` and `key` static.

    Args:
      batch: structures.
      preset, grid, settings: static.
      cached: take |F|^2 from the batch, or compute it from the atoms.
      chunk: patterns mapped at once; None is CPU_CHUNK on CPU and all of them elsewhere. It must divide the batch.
      key: sample i uses fold_in(key, i).

    Returns:
      Patterns and conditions, each leaf with a leading batch axis.
    """
    size = batch.size
    if chunk is None:
        chunk = CPU_CHUNK if jax.default_backend() == "cpu" and size % CPU_CHUNK == 0 else size

    def one(crystal, reflections, values, number):
        sample_key = jax.random.fold_in(key, number)
        return simulate_preset(crystal, reflections, preset, grid, settings, values if cached else None, key=sample_key)

    inputs = (batch.crystals, batch.reflections, batch.f_squared, jnp.arange(size))
    chunks = jax.tree.map(lambda v: v.reshape(size // chunk, chunk, *v.shape[1:]), inputs)
    result = lax.map(lambda parts: jax.vmap(one)(*parts), chunks)
    return jax.tree.map(lambda v: v.reshape(size, *v.shape[2:]), result)
