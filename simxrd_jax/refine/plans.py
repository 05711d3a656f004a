"""Host zone. Plans: the stages of a refinement as data."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Stage:
    """Least squares with some parameters free.

    Attributes:
      name: what is said of it.
      free: patterns of parameters: names, shell patterns, "@group".
      fixed: patterns of those of them that stay.
      blur: FWHM of a Gaussian with which pattern and model are folded, so that lines farther apart than their widths find each
        other; 0 for none. [deg]
      max_iterations: turns at most.
    """

    name: str
    free: tuple[str, ...]
    fixed: tuple[str, ...] = ()
    blur: float = 0.0
    max_iterations: int = 30


@dataclasses.dataclass(frozen=True)
class Plan:
    """Stages in order; each starts where the last ended."""

    name: str
    stages: tuple[Stage, ...]


def cumulative(name: str, steps: dict[str, tuple[str, ...]], max_iterations: int = 30) -> Plan:
    """A plan in which every stage keeps what the ones before have freed."""
    free: tuple[str, ...] = ()
    stages = []
    for title, more in steps.items():
        free = (*free, *more)
        stages.append(Stage(title, free, max_iterations=max_iterations))
    return Plan(name, tuple(stages))
