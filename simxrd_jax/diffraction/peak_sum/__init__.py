"""Device zone. The sum of broadened peaks on a grid: three ways behind one signature.

    peak_sum(peaks, specimen, instrument, grid, settings) -> intensity per degree at every grid point

`dense` evaluates every peak at every point and is the truth the others are tested against. `windowed` evaluates each peak
on a stretch of the grid around it and loses the tails outside. `fft` spreads sticks on a grid and multiplies in Fourier
space; its cost hardly depends on the number of peaks, and it needs a uniform grid.

Each is linear in the intensities and cut in three: `start` makes an empty sum, `add` takes a block of peaks into it, `finish`
makes the pattern. Batches add the reflections of a structure block by block, `peak_sum` adds them all at once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Float

from simxrd_jax.diffraction.peak_sum import direct, fourier
from simxrd_jax.diffraction.settings import Settings
from simxrd_jax.types import Array, Grid, Instrument, PeakList, Specimen

__all__ = ["METHODS", "PeakSum", "peak_sum"]


class PeakSum(NamedTuple):
    """A method.

    Attributes:
      start: (specimen, instrument, grid, settings, dtype, strain=None) -> state; `strain` as in `PeakList`, of all peaks.
      add: (state, peaks, specimen, instrument, grid, settings) -> state.
      finish: (state, specimen, instrument, grid, settings) -> intensity per degree at every grid point.
    """

    start: Callable[..., Any]
    add: Callable[..., Any]
    finish: Callable[..., Any]


METHODS = {
    "dense": PeakSum(direct.start, direct.add_dense, direct.finish),
    "windowed": PeakSum(direct.start, direct.add_windowed, direct.finish),
    "fft": PeakSum(fourier.start, fourier.add, fourier.finish),
}


def peak_sum(
    peaks: PeakList, specimen: Specimen, instrument: Instrument, grid: Grid, settings: Settings
) -> Float[Array, " point"]:
    """Sum of all peaks with the method that `settings.peak_sum` names.

    Args:
      peaks: positions and integrated intensities.
      specimen, instrument: what broadens them.
      grid: any grid for "dense" and "windowed", a uniform one for "fft".
      settings: static choices.

    Returns:
      Intensity per degree 2theta at the grid's points: the area under a peak is its integrated intensity.

    Raises:
      InputError: "fft" on an uneven grid.
    """
    method = METHODS[settings.peak_sum]
    dtype = jnp.result_type(peaks.intensity, peaks.two_theta)
    total = method.start(specimen, instrument, grid, settings, dtype, peaks.strain)
    total = method.add(total, peaks, specimen, instrument, grid, settings)
    return method.finish(total, specimen, instrument, grid, settings)
