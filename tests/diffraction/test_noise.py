"""Poisson draws against scipy's distribution, their gradient, and their independence of the precision setting."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from simxrd_jax.diffraction import noise as noise_module
from simxrd_jax.diffraction.noise import POISSON_SWITCH, add_noise, poisson
from simxrd_jax.types import Noise

MEANS = [0.01, 0.3, 1.0, 3.0, 7.99, 8.01, 12.0, 20.0, 50.0, 200.0, 1e4, 1e6]


def _quantile(mean: float, uniform: np.ndarray) -> np.ndarray:
    """The sampler with its random numbers given."""
    function = noise_module._exact_quantile if mean < POISSON_SWITCH else noise_module._expanded_quantile
    return np.asarray(function(jnp.full(uniform.shape, mean), jnp.asarray(uniform)))


def _cdf_error(mean: float) -> float:
    uniform = (np.arange(400_000) + 0.5) / 400_000
    values = np.sort(_quantile(mean, uniform))
    low, high = max(0, int(mean - 6 * np.sqrt(mean)) - 1), int(mean + 6 * np.sqrt(mean)) + 10
    n = np.unique(np.linspace(low, high, min(high - low + 1, 3000)).astype(int))
    ours = np.searchsorted(values, n, side="right") / len(values)
    return float(np.max(np.abs(ours - stats.poisson.cdf(n, mean))))


@pytest.mark.parametrize("mean", MEANS)
def test_distribution_function(x64, mean):
    # 400,000 uniforms resolve 2.5e-6. Below the switch the inversion is exact; above, the module promises 5e-4.
    assert _cdf_error(mean) < (3e-6 if mean < POISSON_SWITCH else 5e-4)


def test_the_error_falls_with_the_mean(x64):
    assert _cdf_error(500.0) < 5e-5


@pytest.mark.parametrize("mean", [0.3, 5.0, 9.0, 30.0, 1e4])
def test_moments_and_chi_square_of_draws(mean):
    n = 200_000
    draws = np.asarray(poisson(jnp.full((n,), mean), key=jax.random.key(7)), np.float64)
    assert np.array_equal(draws, np.round(draws)) or mean >= 1e4
    # Five standard errors of the sample mean and variance of n Poisson numbers.
    assert abs(draws.mean() - mean) < 5 * np.sqrt(mean / n)
    assert abs(draws.var() - mean) < 5 * np.sqrt((mean + 2 * mean**2) / n)
    if mean < 100:
        edges = np.arange(int(max(0, mean - 4 * np.sqrt(mean))), int(mean + 4 * np.sqrt(mean)) + 2)
        expected = n * np.diff(stats.poisson.cdf(edges, mean))
        seen = np.array([np.sum((draws > a) & (draws <= b)) for a, b in itertools.pairwise(edges)])
        chi2 = np.sum((seen - expected) ** 2 / expected)
        # One seed in a million would exceed this quantile if the draws were exact; the 5e-4 of the expansion adds n 5e-4^2/p.
        assert chi2 < stats.chi2.ppf(1 - 1e-6, len(expected))


def test_straight_through_gradient():
    mean = jnp.array([0.0, 0.5, 7.0, 9.0, 1e4])
    value, pull = jax.vjp(lambda m: poisson(m, key=jax.random.key(1)), mean)
    assert np.array_equal(pull(jnp.arange(5.0))[0], np.arange(5.0))
    assert float(value[0]) == 0.0


def test_noise_has_the_gradient_of_the_mean():
    intensity = jnp.array([1.0, 5.0, 20.0, 3.0])
    for noise in (Noise(peak_counts=100.0), Noise(gaussian=0.05), Noise(uniform=0.02), Noise(100.0, 0.05, 0.02)):
        jacobian = jax.jacrev(lambda y: add_noise(y, noise, key=jax.random.key(2)))(intensity)  # noqa: B023
        # Identity, to float32 rounding of the counts' scale.
        np.testing.assert_allclose(jacobian, np.eye(4), rtol=0, atol=1e-6)


def test_scale_of_the_noise():
    intensity = jnp.concatenate([jnp.full((50_000,), 2.0), jnp.full((50_000,), 8.0)])
    key = jax.random.key(3)
    counted = np.asarray(add_noise(intensity, Noise(peak_counts=400.0), key=key))
    # 2 of 8 at 400 counts is 100 counts: standard deviation 10 % of 2. Error of a standard deviation from n: 1/sqrt(2n).
    assert counted[:50_000].std() == pytest.approx(0.2, rel=5 / np.sqrt(1e5))
    assert counted[50_000:].std() == pytest.approx(8 / 20, rel=5 / np.sqrt(1e5))
    gaussian = np.asarray(add_noise(intensity, Noise(gaussian=0.01), key=key) - intensity)
    assert gaussian.std() == pytest.approx(0.08, rel=5 / np.sqrt(2e5))
    uniform = np.asarray(add_noise(intensity, Noise(uniform=0.02), key=key) - intensity)
    # Subtracting values near 8 in float32 leaves 1e-6.
    assert uniform.min() >= -1e-6
    assert uniform.max() <= 0.16 + 1e-6
    assert uniform.mean() == pytest.approx(0.08, rel=0.02)


def test_keys_and_precision():
    mean = jnp.asarray(np.geomspace(0.1, 1e5, 2000), jnp.float32)
    draw = lambda m, seed: np.asarray(poisson(m, key=jax.random.key(seed)))  # noqa: E731
    plain = draw(mean, 5)
    assert np.array_equal(plain, draw(mean, 5))
    assert not np.array_equal(plain, draw(mean, 6))
    with jax.enable_x64(True):
        assert np.array_equal(plain, draw(mean, 5))
        assert draw(mean, 5).dtype == np.float32
        double = draw(mean.astype(jnp.float64), 5)
    # The same uniforms: a float64 mean changes a draw only where rounding decides between two neighbouring counts.
    assert np.mean(double != plain) < 0.01
    assert np.max(np.abs(double - plain)) <= 1.01
    intensity = jnp.asarray(np.geomspace(0.1, 1e3, 500), jnp.float32)
    noise = Noise(gaussian=0.05, uniform=0.02)
    single = add_noise(intensity, noise, key=jax.random.key(1))
    with jax.enable_x64(True):
        assert np.array_equal(single, add_noise(intensity, noise, key=jax.random.key(1)))


def test_vmap_and_empty_pattern():
    keys = jax.random.split(jax.random.key(0), 3)
    means = jnp.stack([jnp.linspace(0.0, 50.0, 100)] * 3)
    both = jax.vmap(lambda m, k: poisson(m, key=k))(means, keys)
    np.testing.assert_array_equal(both, np.stack([poisson(m, key=k) for m, k in zip(means, keys, strict=True)]))
    dark = add_noise(jnp.zeros(10), Noise(peak_counts=100.0, gaussian=0.0, uniform=0.0), key=jax.random.key(0))
    assert np.array_equal(dark, np.zeros(10))
