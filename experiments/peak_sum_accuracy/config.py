"""python -m experiments.peak_sum_accuracy --json accuracy.json

Wall time: about 3 minutes on 2 CPU cores. Expected: refinement accuracy under 2e-4 of the highest point from 4 grid points
FWHM on and under 2e-3 from 2.5; training accuracy under 5e-3 in the laboratory preset's range.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Config:
    """What is compared.

    Attributes:
      ranges: 2theta windows. [deg]
      step: of the grid. [deg]
      fwhm_points: instrument FWHM, in grid points.
      lorentzian: whether the instrument's width is Gaussian (False) or Lorentzian (True).
      grain_sizes: [A]
      microstrains: e.
      peaks: peaks a pattern, at random places, some outside the window.
      seed: of places and intensities.
    """

    ranges: tuple[tuple[float, float], ...] = ((10.0, 80.0), (5.0, 150.0))
    step: float = 0.02
    fwhm_points: tuple[float, ...] = (5.0, 4.0, 2.5)
    lorentzian: tuple[bool, ...] = (False, True)
    grain_sizes: tuple[float, ...] = (20.0, 100.0, 1000.0, 10000.0)
    microstrains: tuple[float, ...] = (0.0, 1e-3, 3e-3, 1e-2)
    peaks: int = 48
    seed: int = 0


CONFIG = Config()
SMOKE = Config(ranges=((10.0, 80.0),), lorentzian=(False,), grain_sizes=(20.0, 10000.0), microstrains=(0.0, 1e-2), peaks=24)
