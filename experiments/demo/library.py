"""Patterns of many structures under a preset, in batches that share compiled programs."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from experiments.demo.config import Library
from simxrd_jax.batches import PhaseBatch, group_phases, simulate_batch
from simxrd_jax.crystal.structure import CrystalStructure
from simxrd_jax.errors import InputError
from simxrd_jax.io.structures import read_npz
from simxrd_jax.phases import load_phase_for
from simxrd_jax.presets import Preset, get_preset


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
      patterns, structures, groups: how many of each.
      compile_seconds, simulate_seconds: wall times.
    """

    samples: list[Sample]
    patterns: int
    structures: int
    groups: int
    compile_seconds: float
    simulate_seconds: float


def load(config: Library, preset: Preset) -> tuple[list[CrystalStructure], list[PhaseBatch]]:
    """Structures whose reflection lists are short enough, and their groups."""
    library = read_npz(config.path)
    structures, phases = [], []
    for i in tqdm(range(min(config.structures, len(library))), desc="structures", unit="", disable=None, leave=False):
        try:
            loaded = load_phase_for(library[i], preset)
        except InputError:
            continue  # no reflection in the range
        if len(loaded.reflections.hkl) <= config.max_reflections:
            structures.append(loaded.structure)
            phases.append((loaded.crystal, loaded.reflections))
    return structures, group_phases(phases)


def run(config: Library) -> Run:
    """Draws the patterns: structures at random with replacement, then each group in batches of one size.

    A group's last batch is filled up with patterns that are not counted.
    """
    preset = get_preset(config.preset)
    grid, settings = preset.grid(), preset.settings()
    structures, groups = load(config, preset)
    rng = np.random.default_rng(config.seed)
    drawn = rng.integers(len(structures), size=config.patterns)
    call = jax.jit(lambda batch, key: simulate_batch(batch, preset, grid, settings, key=key))
    wanted = set(_spread([structures[i].space_group_number for i in drawn], config.shown))
    samples: list[tuple[int, Sample]] = []
    compile_seconds = simulate_seconds = 0.0
    used = calls = 0
    with tqdm(total=config.patterns, desc="patterns", unit="", disable=None, leave=False) as bar:
        for group in groups:
            place = {int(index): row for row, index in enumerate(group.index)}
            mine = np.array([i for i, structure in enumerate(drawn) if int(structure) in place], dtype=np.int64)
            compiled: Any = None
            used += len(mine) > 0
            for first in range(0, len(mine), config.batch):
                numbers = mine[first : first + config.batch]
                rows = np.resize([place[int(drawn[i])] for i in numbers], config.batch)
                batch = jax.tree.map(lambda v: v[rows], group)  # noqa: B023
                key = jax.random.fold_in(jax.random.key(config.seed), calls)
                calls += 1
                if compiled is None:
                    start = time.perf_counter()
                    compiled = call.lower(batch, key).compile()
                    compile_seconds += time.perf_counter() - start
                start = time.perf_counter()
                pattern, values = jax.block_until_ready(compiled(batch, key))
                simulate_seconds += time.perf_counter() - start
                bar.update(len(numbers))
                for row in (r for r, i in enumerate(numbers) if int(i) in wanted):
                    i = int(numbers[row])
                    conditions = {name: np.asarray(v[row]) for name, v in values.items()}
                    intensity = np.asarray(pattern.intensity[row])
                    samples.append((i, Sample(structures[drawn[i]], np.asarray(grid.two_theta), intensity, conditions)))
    samples.sort(key=lambda item: item[1].structure.space_group_number)
    return Run([s for _, s in samples], config.patterns, len(structures), used, compile_seconds, simulate_seconds)


def _spread(numbers: list[int], count: int) -> list[int]:
    """Places of `count` different space groups, spread evenly over those that occur."""
    different = sorted({number: i for i, number in reversed(list(enumerate(numbers)))}.items())
    chosen = np.linspace(0, len(different) - 1, min(count, len(different))).round().astype(int)
    return [different[i][1] for i in chosen]
