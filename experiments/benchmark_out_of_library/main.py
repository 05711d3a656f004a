"""The out-of-library benchmark: other structures in the test, of other prototypes."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path

from experiments.benchmark_out_of_library.config import PRESET, SPLIT
from experiments.published import published
from simxrd_jax.train import benchmark


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command."""
    benchmark.main(SPLIT, PRESET, Path(__file__).parent, functools.partial(published, "out_of_library"), arguments)
