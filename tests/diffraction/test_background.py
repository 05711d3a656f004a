"""Backgrounds against numpy's polynomials and by hand."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simxrd_jax.diffraction.background import background, chebyshev_series
from simxrd_jax.types import Background

TWO_THETA = np.linspace(10.0, 90.0, 161)
X = np.linspace(-1.0, 1.0, 161)


@pytest.mark.parametrize("terms", [1, 2, 3, 7, 20])
def test_chebyshev_against_numpy(x64, terms):
    coefficients = np.random.default_rng(terms).normal(size=terms)
    expected = np.polynomial.chebyshev.chebval(X, coefficients)
    np.testing.assert_allclose(chebyshev_series(jnp.asarray(coefficients), jnp.asarray(X)), expected, rtol=0, atol=1e-12)
    ours = background(Background(chebyshev=coefficients), jnp.asarray(TWO_THETA))
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-11)


def test_polynomial_runs_from_zero_to_its_height(x64):
    coefficients = np.array([0.3, -1.0, 0.5, 2.0])
    shape = np.polynomial.polynomial.polyval(X, coefficients)
    expected = 7.0 * (shape - shape.min()) / np.ptp(shape)
    ours = background(Background(polynomial=coefficients, polynomial_height=7.0), jnp.asarray(TWO_THETA))
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-12)
    # A constant polynomial has no shape: zero, not 0/0.
    flat = background(Background(polynomial=np.array([2.0, 0.0]), polynomial_height=7.0), jnp.asarray(TWO_THETA))
    assert np.all(np.asarray(flat) == 0)


def test_other_parts_by_hand(x64):
    parts = Background(
        air_scatter=50.0,
        hump_position=np.array([22.0, 60.0]),
        hump_fwhm=np.array([6.0, 10.0]),
        hump_height=np.array([3.0, 1.0]),
        measured=np.sin(TWO_THETA),
    )
    humps = sum(h * np.exp(-4 * np.log(2) * (TWO_THETA - p) ** 2 / w**2) for h, p, w in ((3.0, 22.0, 6.0), (1.0, 60.0, 10.0)))
    ours = background(parts, jnp.asarray(TWO_THETA))
    np.testing.assert_allclose(ours, 50 / TWO_THETA + humps + np.sin(TWO_THETA), rtol=0, atol=1e-12)


def test_nothing_is_zero_and_float32_stays(x64):
    assert np.all(np.asarray(background(Background(), jnp.asarray(TWO_THETA))) == 0)
    parts = jax.tree.map(
        lambda v: jnp.asarray(v, jnp.float32),
        Background(chebyshev=np.ones(3), polynomial=np.arange(3.0), air_scatter=1.0, hump_position=np.array([30.0]),
                   hump_fwhm=np.array([5.0]), hump_height=np.array([1.0])),
    )  # fmt: skip
    assert background(parts, jnp.asarray(TWO_THETA, jnp.float32)).dtype == jnp.float32
