"""python -m experiments.simulator_speed --json speed.json

Wall time: about 4 minutes on 2 CPU cores. Expected there: over 5,000 patterns/s cached at training accuracy.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Config:
    """What is measured.

    Attributes:
      batch: patterns a call.
      chunk: patterns mapped at once inside a call; None is the library's own choice.
      repeats: timed calls of each batch; the fastest counts, the machine being shared.
      gradient_structures: structures of the library that are looked at for the gradient.
      gradient_chunk: patterns of the gradient mapped at once.
      peer_structures: structures that the slow peers simulate.
      seed: of structures and conditions.
    """

    batch: int = 256
    chunk: int | None = None
    repeats: int = 5
    gradient_structures: int = 64
    gradient_chunk: int = 32
    peer_structures: int = 12
    seed: int = 0


CONFIG = Config()
