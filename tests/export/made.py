"""Sets of patterns that cost nothing to make, for tests of what writes and reads them."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from simxrd_jax.export.features import Columns, Feature
from simxrd_jax.export.writer import Block, Job

POINTS = 50
FEATURES = (
    Feature("intensity", "float32", "a pattern", shape=(POINTS,)),
    Feature("space_group", "int32", "a number"),
    Feature("crystal_system", "int32", "a code", classes=("a", "b")),
    Feature("structure_id", "str", "a name"),
    Feature("key_data", "uint32", "a key", shape=(2,)),
    Feature("conditions/grain_size", "float32", "a length", "A"),
    Feature("conditions/texture_axis", "float32", "a normal", "hkl", (3,)),
)
NAMES = np.array(["Si", "mp-1", "a longer name", "Fe₂O₃", "'; x", ""])


def columns_of(places: np.ndarray) -> Columns:
    """Records that follow from their places."""
    values = np.sin(places[:, None] * 1.7 + np.arange(POINTS)).astype(np.float32)
    return {
        "intensity": values,
        "space_group": (places * 7 % 230 + 1).astype(np.int32),
        "crystal_system": (places % 2).astype(np.int32),
        "structure_id": NAMES[places % len(NAMES)],
        "key_data": np.stack([places, 2**32 - 1 - places], axis=1).astype(np.uint32),
        "conditions/grain_size": values[:, 0] * 1e-30,
        "conditions/texture_axis": values[:, :3],
    }


def make_job(places: int = 23, shard_size: int = 5, *, seconds: float = 0.0, skip: int = 0, **config: Any) -> Job:
    """A set of records in blocks of two.

    Args:
      places, shard_size: of the set.
      seconds: that a block takes.
      skip: each so many-th place is left out; 0 none.
      config: of the set.
    """

    def blocks(ranges: Sequence[tuple[int, int]]) -> Iterator[Block]:
        for first, last in ((first, stop) for start, stop in ranges for first in range(start, stop, 2)):
            time.sleep(seconds)
            places = np.arange(first, min(first + 2, last))
            left_out = places % skip == skip - 1 if skip else np.zeros(len(places), bool)
            yield Block(columns_of(places[~left_out]), [(f"place {n}", "is left out") for n in places[left_out]])

    about = {"two_theta": {"start": 10.0, "step": 0.5, "points": POINTS}}
    return Job("made", "train", places, shard_size, FEATURES, {"shard_size": shard_size, **config}, about, blocks)


class Bar:
    """A progress bar that counts."""

    def __init__(self, done: int = 0, total: int = 0) -> None:
        self.done, self.total = done, total

    def update(self, n: int) -> None:
        self.done += n


@contextlib.contextmanager
def bar(done: int, total: int) -> Iterator[Bar]:
    yield Bar(done, total)
