"""Device zone. The sum of broadened peaks on a grid: three ways behind one signature.

    peak_sum(peaks, specimen, instrument, grid, settings) -> intensity per degree at every grid point

`dense` evaluates every peak at every point and is the truth the others are tested against. `windowed` evaluates each peak
on a stretch of the grid around it and loses the tails outside. `fft` spreads sticks on a grid and multiplies in Fourier
space; its cost hardly depends on the number of peaks, and it needs a uniform grid.
"""

from __future__ import annotations

from jaxtyping import Float

from simxrd_jax.diffraction.peak_sum.direct import dense_sum, windowed_sum
from simxrd_jax.diffraction.peak_sum.fourier import fft_sum
from simxrd_jax.diffraction.settings import Settings
from simxrd_jax.types import Array, Grid, Instrument, PeakList, Specimen

__all__ = ["dense_sum", "fft_sum", "peak_sum", "windowed_sum"]

_METHODS = {"dense": dense_sum, "windowed": windowed_sum, "fft": fft_sum}


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
    return _METHODS[settings.peak_sum](peaks, specimen, instrument, grid, settings)
