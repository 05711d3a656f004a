"""A set of patterns for an ASE database that costs nothing to make."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np

from simxrd_jax.export.features import Feature
from simxrd_jax.export.writer import Block, Job
from simxrd_jax.library.store import Library
from simxrd_jax.presets import get_preset

from .made import make_job


def database_job(library: Library, places: int, shard_size: int) -> Job:
    """Records with the features that a row of a database needs."""
    size = get_preset("ideal").grid().size

    def blocks(ranges: Sequence[tuple[int, int]]) -> Iterator[Block]:
        for start, stop in ranges:
            yield block(np.arange(start, stop))

    def block(place: np.ndarray) -> Block:
        structure = place % len(library)
        return Block(
            {
                "intensity": (50 + 50 * np.sin(place[:, None] + np.arange(size) * 0.01)).astype(np.float32),
                "space_group": library.space_group[structure].astype(np.int32),
                "structure": structure.astype(np.int32),
                "structure_id": library.ids[structure],
                "key_data": np.stack([place, place], axis=1).astype(np.uint32),
                "conditions/grain_size": (place + 0.5).astype(np.float32),
            }
        )

    features = (Feature("intensity", "float32", "", shape=(size,)),)
    return dataclasses.replace(make_job(places, shard_size), features=features, blocks=blocks)
