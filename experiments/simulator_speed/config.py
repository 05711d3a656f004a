"""python -m experiments.simulator_speed --json speed.json

Wall time: about 4 minutes on 2 CPU cores. Expected there: over 5,000 patterns/s cached at training accuracy.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Config:
    """What is measured.

    Attributes:
      structures: structures of datasets/mp_sample.npz that are taken.
      batch: patterns a call.
      chunk: patterns mapped at once inside a call; None is the library's own choice.
      repeats: timed calls of each batch; the fastest counts, the machine being shared.
      peer_structures: structures that the slow peers simulate.
      seed: of structures and conditions.
    """

    structures: int = 512
    batch: int = 256
    chunk: int | None = None
    repeats: int = 5
    peer_structures: int = 12
    seed: int = 0


CONFIG = Config()
