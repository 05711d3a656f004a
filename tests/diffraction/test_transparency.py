"""The tail of a transparent specimen: against scipy's exponentially modified Gaussian and a sum over depth."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import exponnorm

from simxrd_jax.diffraction.geometry import observed_two_theta
from simxrd_jax.diffraction.peak_sum import peak_sum
from simxrd_jax.diffraction.settings import Settings
from simxrd_jax.diffraction.transparency import depth_points, depth_transform, mean_tail
from simxrd_jax.types import Grid, Instrument, PeakList, Specimen

T = 1.2e-3


@pytest.mark.parametrize("method", ["dense", "fft"])
def test_gaussian_lines_become_exponentially_modified_ones(x64, method):
    """Lines of both halves of the range, Gaussian, with the tail to lower angle on either side of 90 deg."""
    fwhm, bragg = 0.08, np.array([35.0, 90.0, 140.0])
    instrument = Instrument(
        wavelength=np.array([1.540593]), line_weight=np.ones(1), caglioti_w=fwhm**2, transparency=T, goniometer_radius=173.0
    )
    grid = Grid.uniform(20.0, 150.0, 0.02)
    place = observed_two_theta(jnp.sin(jnp.radians(bragg / 2)), instrument)
    peaks = PeakList(place[None], jnp.asarray(bragg)[None], jnp.array([[1.0, 2.0, 0.5]]))
    found = np.asarray(peak_sum(peaks, Specimen(), instrument, grid, Settings(peak_sum=method, depth_points=64)))
    sigma = fwhm / np.sqrt(8 * np.log(2))
    expected = np.zeros(grid.size)
    for angle, intensity in zip(bragg, (1.0, 2.0, 0.5), strict=True):
        length = np.degrees(T * np.sin(np.radians(angle)))
        # exponnorm's tail goes up from the Gaussian's centre: mirrored at the line of the surface, the Bragg angle.
        expected += intensity * exponnorm.pdf(angle - np.asarray(grid.two_theta), length / sigma, loc=0.0, scale=sigma)
    # Lines of four grid steps: what the FFT sum promises for any profile.
    np.testing.assert_allclose(found, expected, atol={"dense": 2e-5, "fft": 2e-4}[method] * expected.max())


def test_depths_of_a_powder(x64):
    """Mean and variance of what comes from below the surface, summed over depth with mu of loose corundum."""
    mu, radius, two_theta = 2.4, 173.0, 57.5  # 1/mm, mm, deg
    depth = np.linspace(0.0, 5.0, 200_001)
    theta = np.radians(two_theta / 2)
    weight = np.exp(-2 * mu * depth / np.sin(theta))
    weight[0] *= 0.5  # trapezoids
    shift = np.degrees(-2 * depth * np.cos(theta) / radius)
    mean = np.sum(weight * shift) / weight.sum()
    variance = np.sum(weight * (shift - mean) ** 2) / weight.sum()
    t = 1 / (2 * mu * radius)
    assert -float(mean_tail(jnp.asarray(two_theta), t)) == pytest.approx(mean, rel=1e-6)
    shifts, weights = depth_points(jnp.array([two_theta]), t, 64)
    assert float(jnp.sum(weights)) == pytest.approx(1.0, abs=1e-14)
    assert float(shifts[0] @ weights) == pytest.approx(0.0, abs=1e-14)
    assert float(jnp.square(shifts[0]) @ weights) == pytest.approx(variance, rel=1e-6)


def test_transform_is_that_of_the_points(x64):
    tail = float(mean_tail(jnp.asarray(57.5), T))
    shifts, weights = depth_points(jnp.array([57.5]), T, 64)
    frequency = np.linspace(0.0, 12.0, 50)  # 1/deg; the points resolve a shift of a few tails
    expected = np.exp(-2j * np.pi * frequency[:, None] * np.asarray(shifts[0])) @ np.asarray(weights)
    real, imaginary = depth_transform(jnp.asarray(frequency * tail))
    np.testing.assert_allclose(np.asarray(real) + 1j * np.asarray(imaginary), expected, atol=1e-8)
    # A negative transparency, through which a refinement may pass, mirrors the tail.
    mirrored = depth_transform(jnp.asarray(-frequency * tail))
    np.testing.assert_allclose(mirrored[0], real, atol=1e-15)
    np.testing.assert_allclose(mirrored[1], -imaginary, atol=1e-15)
