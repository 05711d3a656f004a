"""Guarded functions: value and derivative at the edge that the guard is for, and away from it."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simxrd_jax.numerics import DEGREE, FWHM_PER_SIGMA, constant, safe_divide, safe_sqrt, smooth_floor


def test_safe_sqrt_at_and_below_zero():
    x = jnp.array([-2.0, 0.0, 4.0])
    assert np.array_equal(safe_sqrt(x), [0.0, 0.0, 2.0])
    # Identity: d sqrt(x)/dx = 1/(2 sqrt(x)) at 4, and the stated subgradient 0 elsewhere.
    assert np.array_equal(jax.vmap(jax.grad(safe_sqrt))(x), [0.0, 0.0, 0.25])
    assert np.array_equal(jax.jvp(safe_sqrt, (x,), (jnp.ones(3),))[1], [0.0, 0.0, 0.25])


def test_safe_divide_by_zero():
    value, slopes = jax.value_and_grad(safe_divide, argnums=(0, 1))(3.0, 0.0)
    assert value == 0.0
    assert slopes == (0.0, 0.0)
    slopes = jax.grad(safe_divide, argnums=(0, 1))(3.0, 2.0)
    # Identities: 1/b and -a/b^2.
    assert slopes[0] == 0.5
    assert slopes[1] == -0.75


def test_smooth_floor_keeps_its_promises():
    with jax.enable_x64(True):
        x = jnp.linspace(-1.0, 1.0, 2001)
        y = smooth_floor(x, 1e-3)
        assert np.all(np.asarray(y) > 0)
        assert np.all(np.diff(y) > 0)
        # The excess over x is scale^2/(4x) to the next order, scale^4/(16 x^3).
        excess = float(smooth_floor(jnp.array(0.5), 1e-3)) - 0.5
        assert excess == pytest.approx(1e-6 / 2.0, rel=1e-5)
        assert float(smooth_floor(jnp.array(0.0), 1e-3)) == pytest.approx(0.5e-3, rel=1e-12)
        # Identity: at 0 the slope is one half.
        assert float(jax.grad(smooth_floor)(0.0, 1e-3)) == pytest.approx(0.5, rel=1e-12)


def test_constant_follows_the_dtype_of_its_model():
    with jax.enable_x64(True):
        table = np.arange(3.0)
        assert constant(table, jnp.zeros(1, jnp.float32)).dtype == jnp.float32
        assert constant(table, jnp.zeros(1, jnp.float64)).dtype == jnp.float64


def test_constants():
    # The half maximum of exp(-x^2/2) stands at half the FWHM.
    assert np.exp(-0.5 * (FWHM_PER_SIGMA / 2) ** 2) == pytest.approx(0.5, rel=1e-14)
    assert np.cos(60 * DEGREE) == pytest.approx(0.5, rel=1e-14)
