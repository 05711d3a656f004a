"""python -m experiments.scaling --library full.simxrd

Wall time: about 8 minutes on 2 CPU cores. It writes results.json, scaling.png and the tables of README.md. Expected there: the
cost of a pattern does not depend on the number of structures, and rises by less than 1:1 with atoms, reflections and points;
writing array_record costs less than 30 % over simulation alone, and 10,000 patterns take less than 15 s.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Config:
    """What is measured.

    Attributes:
      library: file; its first structures are the smaller libraries.
      build_source: structures from which the cost of a build is measured.
      build_limit: how many of them.
      structures: of a library.
      atoms: per cell, of cells with about `atom_reflections` reflections.
      reflections: of triclinic cells with eight atoms.
      points: of a pattern from 10 to 80 deg.
      batches: patterns a batch.
      devices: simulated on the CPU, in a process each.
      preset, batch: of all else.
      patterns: of the set whose writing is measured.
      device_patterns: of the sets made on several devices.
      repeats: timed batches of each row, of which the fastest counts.
      seed: of everything.
    """

    library: Path = HERE.parents[1] / "datasets" / "mp_library.simxrd"
    build_source: Path = HERE.parents[1] / "datasets" / "mp_sample.npz"
    build_limit: int = 256
    structures: tuple[int, ...] = (100, 1000, 10_000, 28_661)
    atoms: tuple[int, ...] = (1, 10, 30, 100, 300)
    atom_reflections: int = 1000
    reflections: tuple[int, ...] = (30, 100, 300, 1000, 3000, 10_000)
    points: tuple[int, ...] = (1000, 2000, 5000, 10_000, 20_000)
    batches: tuple[int, ...] = (32, 128, 512, 2048)
    devices: tuple[int, ...] = (1, 2, 4, 8)
    preset: str = "laboratory"
    batch: int = 256
    patterns: int = 10_000
    device_patterns: int = 4096
    repeats: int = 5
    seed: int = 0


CONFIG = Config()
SMOKE = Config(
    build_limit=8,
    structures=(20, 100),
    atoms=(1, 4),
    atom_reflections=60,
    reflections=(30, 60),
    points=(1000,),
    batches=(16,),
    devices=(1,),
    batch=16,
    patterns=64,
    device_patterns=32,
    repeats=1,
)
