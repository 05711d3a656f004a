"""The in-library benchmark: the same structures in training and test, other conditions."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path

from experiments.benchmark_in_library.config import PRESET, SPLIT
from experiments.published import published
from simxrd_jax.train import benchmark


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command."""
    benchmark.main(SPLIT, PRESET, Path(__file__).parent, functools.partial(published, "in_library"), arguments)
