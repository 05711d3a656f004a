"""Patterns of many structures under a preset, as a stream of batches makes them."""

from __future__ import annotations

import time
from dataclasses import dataclass

import jax
import numpy as np
from tqdm import tqdm

from experiments.demo.config import Library
from simxrd_jax.crystal.structure import CrystalStructure
from simxrd_jax.library.store import read_library
from simxrd_jax.library.stream import Batch, make_stream
from simxrd_jax.presets import get_preset


@dataclass(frozen=True, eq=False)
class Sample:
    """One pattern with what made it."""

    structure: CrystalStructure
    two_theta: np.ndarray
    intensity: np.ndarray
    conditions: dict[str, np.ndarray]


@dataclass(frozen=True, eq=False)
class Run:
    """What a run made and how long it took.

    Attributes:
      samples: the patterns to show.
      patterns, structures: patterns made, and structures in the library.
      compile_seconds, simulate_seconds: wall times.
    """

    samples: list[Sample]
    patterns: int
    structures: int
    compile_seconds: float
    simulate_seconds: float


def run(config: Library) -> Run:
    """Draws the patterns: structures at random with replacement, each under conditions of its own."""
    preset = get_preset(config.preset)
    library = read_library(config.path)
    stream = make_stream(library, preset, batch=config.batch)
    key = jax.random.key(config.seed)
    start = time.perf_counter()
    first = jax.block_until_ready(stream.batch(key, 0))
    compile_seconds = time.perf_counter() - start
    batches = [first]
    start = time.perf_counter()
    for step in tqdm(range(1, config.batches + 1), desc="batches", disable=None, leave=False):
        batches.append(jax.block_until_ready(stream.batch(key, step)))
    simulate_seconds = time.perf_counter() - start
    two_theta = np.asarray(preset.grid().two_theta)
    samples = [
        Sample(library.structure(int(batch.structure[row])), two_theta, *_taken(batch, row))
        for batch, row in _spread(batches, config.shown)
    ]
    return Run(samples, config.batch * config.batches, len(library), compile_seconds, simulate_seconds)


def _taken(batch: Batch, row: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    return np.asarray(batch.intensity[row]), {name: np.asarray(v[row]) for name, v in batch.conditions.items()}


def _spread(batches: list[Batch], count: int) -> list[tuple[Batch, int]]:
    """Samples of `count` different space groups, spread evenly over those that occur."""
    different = {int(n): (b, row) for b in batches for row, n in enumerate(np.asarray(b.labels["space_group"]))}
    numbers = sorted(different)
    chosen = np.linspace(0, len(numbers) - 1, min(count, len(numbers))).round().astype(int)
    return [different[numbers[i]] for i in chosen]
