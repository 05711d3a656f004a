"""Tube tails: their area, place and height, and the peak sums that take them."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simxrd_jax.diffraction.peak_sum import peak_sum
from simxrd_jax.diffraction.settings import REFINEMENT, Settings
from simxrd_jax.diffraction.tube_tails import tail_points, tail_transform
from simxrd_jax.types import Grid, Instrument, PeakList, Specimen

GRID = Grid.uniform(36.0, 44.0, 0.02)
BARE = Instrument(wavelength=np.array([1.540593]), line_weight=np.ones(1), caglioti_w=0.01, goniometer_radius=200.0)
TAILS = dataclasses.replace(BARE, tail_fraction=0.02, tail_low=2.0, tail_high=1.0)


def _line(place: float = 40.0) -> PeakList:
    return PeakList(jnp.array([[place]]), jnp.array([[place]]), jnp.ones((1, 1)))


@jax.jit
def _dense(instrument):
    return peak_sum(_line(), Specimen(), instrument, GRID, Settings("dense"))


def test_a_line_stands_on_a_box(x64):
    y, bare = np.asarray(_dense(TAILS)), np.asarray(_dense(BARE))
    x = np.asarray(GRID.two_theta) - 40.0
    # The area stays; the box reaches -2/200 and +1/200 rad, with 2 % of the area in 0.8594 deg.
    assert np.sum(y) == pytest.approx(np.sum(bare), rel=1e-6)
    low, high = -np.degrees(2 / 200), np.degrees(1 / 200)
    inside = (x > low + 0.15) & (x < high - 0.15) & (np.abs(x) > 0.3)
    # Between 24 points the box is even to a few per cent.
    np.testing.assert_allclose(y[inside], 0.02 / (high - low), rtol=0.05)
    outside = (x < low - 0.3) | (x > high + 0.3)
    assert np.max(y[outside]) < 1e-9
    assert y.max() == pytest.approx(0.98 * bare.max() + 0.02 / (high - low), rel=1e-3)


def test_the_transform_is_that_of_the_points(x64):
    frequency = jnp.linspace(0.0, 4.0, 50)
    shift, weight = tail_points(TAILS, jnp.zeros(1))
    real, imaginary = tail_transform(TAILS, frequency)
    phase = -2 * np.pi * np.asarray(frequency)[:, None] * np.asarray(shift)
    np.testing.assert_allclose(real, np.cos(phase) @ weight, atol=1e-9)
    np.testing.assert_allclose(imaginary, np.sin(phase) @ weight, atol=1e-9)
    assert tail_points(BARE, jnp.zeros(1)) is None
    assert tail_transform(BARE, frequency) is None


NAMES = ("tail_fraction", "tail_low", "tail_high")
RAYS = {"axial_source": 0.02, "axial_detector": 0.01, "axial_tube": 0.02, "soller": 5.0}


@pytest.mark.parametrize("more", [{}, pytest.param(RAYS, marks=pytest.mark.slow)])
def test_fft_against_dense_and_gradients(x64, more):
    instrument = dataclasses.replace(TAILS, **more)
    names = (*NAMES, *more)
    coarse = dataclasses.replace(REFINEMENT, axial_heights=4)

    def pattern(v, settings):
        own = dataclasses.replace(instrument, **dict(zip(names, v, strict=True)))
        return peak_sum(_line(), Specimen(grain_size=1000.0), own, GRID, settings)

    values = jnp.array([getattr(instrument, name) for name in names], dtype=jnp.float64)
    methods = [Settings(name, accuracy=coarse) for name in ("dense", "fft")]
    both = [jax.jit(lambda v, s=s: (pattern(v, s), jax.jacfwd(pattern)(v, s))) for s in methods]
    (dense, by_dense), (fft, by_fft) = (f(values) for f in both)
    # Between the 24 points of the box the dense sum is uneven by some per cent of it, 1e-4 of a line.
    assert np.max(np.abs(fft - dense)) < 3e-4 * np.max(dense)
    for i, name in enumerate(names):
        scale = np.max(np.abs(by_dense[:, i]))
        # The ends of the box move all the points of the dense sum, whose unevenness moves along.
        bound = 0.2 if name in ("tail_low", "tail_high") else 5e-3
        assert np.max(np.abs(by_fft[:, i] - by_dense[:, i])) < bound * scale, name
    for i in range(3):
        step = 1e-5
        ends = [both[1](values.at[i].add(sign * step))[0] for sign in (1, -1)]
        numeric = (ends[0] - ends[1]) / (2 * step)
        np.testing.assert_allclose(by_fft[:, i], numeric, atol=1e-6 * float(np.max(np.abs(numeric))))
