"""Device zone. Dense and windowed peak sums: the profile evaluated point by point.

Axial divergence, transparency, the receiving slit and tube tails turn each peak into a weighted set of shifted peaks first.
Peaks are taken in chunks under `lax.scan`, rematerialised for reverse mode, so that memory stays at one chunk times the grid.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Float

from simxrd_jax.diffraction.axial_divergence import axial_openings, opening_points
from simxrd_jax.diffraction.profiles import PROFILES
from simxrd_jax.diffraction.settings import Settings
from simxrd_jax.diffraction.transparency import depth_points
from simxrd_jax.diffraction.tube_tails import tail_points
from simxrd_jax.diffraction.widths import peak_shape
from simxrd_jax.numerics import DEGREE, constant
from simxrd_jax.types import Array, Grid, Instrument, PeakList, Specimen

_SubPeaks = tuple[Float[Array, " sub"], Float[Array, " sub"], Float[Array, " sub"], Float[Array, " sub"]]


def start(
    specimen: Specimen,
    instrument: Instrument,
    grid: Grid,
    settings: Settings,
    dtype: DTypeLike,
    strain: Float[Array, "line hkl"] | None = None,
) -> Float[Array, " point"]:
    """An empty sum."""
    return jnp.zeros(grid.size, dtype=dtype)


def add_dense(
    total: Float[Array, " point"],
    peaks: PeakList,
    specimen: Specimen,
    instrument: Instrument,
    grid: Grid,
    settings: Settings,
) -> Float[Array, " point"]:
    """Every peak at every point. The truth; cost peaks times points."""
    two_theta = jnp.asarray(grid.two_theta, dtype=total.dtype)
    profile = PROFILES[settings.profile]

    def add_chunk(total, chunk):
        position, intensity, sigma, gamma = (v[:, None] for v in chunk)
        return total + jnp.sum(intensity * profile(two_theta - position, sigma, gamma), axis=0), None

    return _scan_chunks(add_chunk, total, _sub_peaks(peaks, specimen, instrument, settings), settings.chunk)


def add_windowed(
    total: Float[Array, " point"],
    peaks: PeakList,
    specimen: Specimen,
    instrument: Instrument,
    grid: Grid,
    settings: Settings,
) -> Float[Array, " point"]:
    """Every peak at the `settings.window` grid points nearest to it; tails outside are lost.

    With Lorentzian peaks a window of half width w keeps a share 1 - 2 gamma/(pi w) of the area.
    """
    two_theta = jnp.asarray(grid.two_theta, dtype=total.dtype)
    size = two_theta.shape[0]
    window = min(settings.window, size)
    profile = PROFILES[settings.profile]

    def add_chunk(total, chunk):
        position, intensity, sigma, gamma = chunk
        # Which points a window holds is a discrete choice: the profile is still differentiated at each of them.
        centre = jnp.searchsorted(two_theta, lax.stop_gradient(position))
        first = jnp.clip(centre - window // 2, 0, size - window)
        index = first[:, None] + jnp.arange(window)
        values = profile(two_theta[index] - position[:, None], sigma[:, None], gamma[:, None])
        return total.at[index].add(intensity[:, None] * values), None

    return _scan_chunks(add_chunk, total, _sub_peaks(peaks, specimen, instrument, settings), settings.chunk)


def finish(
    total: Float[Array, " point"], specimen: Specimen, instrument: Instrument, grid: Grid, settings: Settings
) -> Float[Array, " point"]:
    """Nothing is left to do: the sum is the pattern."""
    return total


def _sub_peaks(peaks: PeakList, specimen: Specimen, instrument: Instrument, settings: Settings) -> _SubPeaks:
    """Positions, intensities, sigmas and Lorentzian half widths, all flat, of the peaks that each peak becomes. [deg]"""
    sine = jnp.sin(0.5 * DEGREE * peaks.bragg_two_theta)
    line = None if instrument.line_fwhm is None else jnp.asarray(instrument.line_fwhm)[:, None]
    wavelength = jnp.asarray(instrument.wavelength)[:, None]
    shape = peak_shape(sine, instrument, specimen, line, wavelength, peaks.strain)
    position, intensity = peaks.two_theta.ravel()[:, None], peaks.intensity.ravel()[:, None]
    openings = axial_openings(instrument)
    if openings is not None:
        shift, weight = opening_points(peaks.bragg_two_theta.ravel(), openings, settings.accuracy)
        position, intensity = position + shift, intensity * weight
    if instrument.transparency is not None:
        shift, weights = depth_points(peaks.bragg_two_theta.ravel(), instrument.transparency, settings.depth_points)
        position = (position[:, :, None] + shift[:, None, :]).reshape(position.shape[0], -1)
        intensity = (intensity[:, :, None] * weights).reshape(intensity.shape[0], -1)
    if instrument.slit_width is not None:
        nodes, weights = (constant(v, position) for v in np.polynomial.legendre.leggauss(settings.slit_points))
        position = (position[:, :, None] + 0.5 * instrument.slit_width * nodes).reshape(position.shape[0], -1)
        intensity = (intensity[:, :, None] * 0.5 * weights).reshape(intensity.shape[0], -1)
    tails = tail_points(instrument, position)
    if tails is not None:
        position = (position[:, :, None] + tails[0]).reshape(position.shape[0], -1)
        intensity = (intensity[:, :, None] * tails[1]).reshape(intensity.shape[0], -1)
    copies = position.shape[1]
    sigma, gamma = (jnp.repeat(jnp.broadcast_to(v, sine.shape).ravel(), copies) for v in (shape.sigma, shape.hwhm_lorentz))
    return position.ravel(), intensity.ravel(), sigma, gamma


def _scan_chunks(add_chunk, start: Float[Array, " point"], sub_peaks: _SubPeaks, chunk: int) -> Float[Array, " point"]:
    """Folds `add_chunk` over the peaks, padded with peaks of intensity 0 to whole chunks."""
    count = sub_peaks[0].shape[0]
    chunk = min(chunk, count)
    extra = -count % chunk
    # Padding repeats the first peak's position and widths: in range, never 0/0.
    padded = [
        jnp.concatenate([v, jnp.broadcast_to(v[:1] * (0.0 if i == 1 else 1.0), (extra,))]) for i, v in enumerate(sub_peaks)
    ]
    chunks = tuple(v.reshape(-1, chunk) for v in padded)
    total, _ = lax.scan(jax.checkpoint(add_chunk), start, chunks)
    return total
