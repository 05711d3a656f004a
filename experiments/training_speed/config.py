"""python -m experiments.training_speed --json training_speed.json

Wall time: about 3 minutes on 2 CPU cores. Expected there: CNN4 with about a fifth of its step in simulation, CNN11 with less
than a tenth.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Config:
    """What is measured.

    Attributes:
      library: of the structures.
      preset: of the patterns.
      models: networks, corrected; the first gives the main numbers.
      target: of the networks.
      batch: patterns a step, on a CPU and on an accelerator.
      seconds: each loop is timed for at least so long.
      repeats: loops of each kind, taken in turns; the fastest counts, the machine being shared.
      seed: of the run.
    """

    library: Path = Path(__file__).parents[2] / "datasets" / "mp_library.simxrd"
    preset: str = "laboratory"
    models: tuple[str, ...] = ("cnn11", "cnn4", "powdernet")
    target: str = "space_group"
    batch: int = 128
    accelerator_batch: int = 1024
    seconds: float = 3.0
    repeats: int = 3
    seed: int = 0


CONFIG = Config()
SMOKE = Config(preset="ideal", models=("cnn5",), batch=16, seconds=0.05, repeats=1)
