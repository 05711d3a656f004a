"""python -m experiments.stream_speed --library full.simxrd --json stream.json

Wall time: about 6 minutes on 2 CPU cores. Expected there, on the full library of 28,661 structures: over 2,500 patterns/s with
the laboratory preset, its K-alpha doublet, axial divergence, texture, background and noise included.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Config:
    """What is measured.

    Attributes:
      library: file.
      cases: preset and mode of each row.
      batches: samples a batch, on a CPU and on an accelerator.
      repeats: timed batches of each; the fastest counts on a shared machine, the median is printed beside it.
      chunk: samples mapped at once; None is the library's own choice.
      seed: of the run.
    """

    library: Path = Path(__file__).parents[2] / "datasets" / "mp_library.simxrd"
    cases: tuple[tuple[str, str], ...] = (("laboratory", "cached"), ("laboratory", "atoms"), ("simxrd", "cached"))
    batches: tuple[int, ...] = (256, 512, 1024)
    accelerator_batches: tuple[int, ...] = (2048, 8192)
    repeats: int = 8
    chunk: int | None = None
    seed: int = 0


CONFIG = Config()
SMOKE = Config(cases=(("laboratory", "cached"),), batches=(32,), repeats=2)
