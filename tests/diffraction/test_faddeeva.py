"""The Faddeeva function against scipy's, at the peak and in the wings, with derivatives."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import wofz

from simxrd_jax.diffraction.faddeeva import RATIONAL_RADIUS_SQUARED, faddeeva_with_derivative

X = np.concatenate([-np.geomspace(1e-3, 1e5, 60), [0.0], np.linspace(0.01, 12.0, 400), np.geomspace(12.0, 1e6, 60)])
Y = np.concatenate([[1e-12, 1e-6], np.geomspace(1e-4, 1e6, 61)])


def _grid() -> tuple[np.ndarray, np.ndarray]:
    x, y = np.meshgrid(X, Y)
    # Both sides of the switch between the two forms.
    angle = np.linspace(0.0, np.pi, 101)
    radius = np.sqrt(RATIONAL_RADIUS_SQUARED)
    rings = [(radius * f * np.cos(angle), np.abs(radius * f * np.sin(angle))) for f in (1 - 1e-9, 1 + 1e-9)]
    return np.concatenate([x.ravel(), *(r[0] for r in rings)]), np.concatenate([y.ravel(), *(r[1] for r in rings)])


def _exact(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    z = x + 1j * y
    w = wofz(z)
    # w' = -2 z w + 2i/sqrt(pi) cancels far out; there the asymptotic series of w' is used instead.
    series = 2j / np.sqrt(np.pi) * -sum(_ODD[k] * np.where(np.abs(z) > 20, z, 1.0) ** (-2.0 * k) for k in range(1, 8))
    return w, np.where(np.abs(z) > 20, series, -2 * z * w + 2j / np.sqrt(np.pi))


# w(z) ~ i/(sqrt(pi) z) sum (2k-1)!!/(2 z^2)^k, so z w ~ i/sqrt(pi) (1 + sum c_k z^-2k).
_ODD = {k: np.prod(np.arange(1, 2 * k, 2)) / 2.0**k for k in range(1, 8)}


def test_float64_against_scipy(x64):
    x, y = _grid()
    value, real_slope, imaginary_slope = (np.asarray(v) for v in faddeeva_with_derivative(jnp.asarray(x), jnp.asarray(y)))
    exact, slope = _exact(x, y)
    # scipy.special.wofz is good to 1e-13 (Johnson's implementation). Relative to w(iy), the height of the peak.
    peak = wofz(1j * y).real
    assert np.max(np.abs(value - exact.real) / peak) < 1e-12
    # The wings, relative to themselves, wherever a Lorentzian tail dominates (|z| >= 6).
    wings = x * x + y * y >= RATIONAL_RADIUS_SQUARED
    relevant = wings & (exact.real > 1e-14 * np.abs(exact))
    assert np.max(np.abs(value / np.where(relevant, exact.real, 1.0) - 1.0)[relevant & (y > 1e-3)]) < 1e-11
    scale = np.where(wings, np.abs(slope), 1.0)
    far = np.abs(x + 1j * y) > 20
    near = ~wings | far
    # Between |z| = 6 and 20 the reference itself loses |z|^2 * 1e-16 * |zw/w'| to cancellation, 1e-10 at most.
    for ours, theirs in ((real_slope, slope.real), (imaginary_slope, slope.imag)):
        assert np.max(np.abs(ours - theirs)[near] / scale[near]) < 1e-11
        assert np.max(np.abs(ours - theirs)[~near] / scale[~near]) < 1e-9


def test_float32_against_scipy():
    x, y = (v.astype(np.float32) for v in _grid())
    value, real_slope, imaginary_slope = (np.asarray(v) for v in faddeeva_with_derivative(jnp.asarray(x), jnp.asarray(y)))
    assert value.dtype == np.float32
    exact, slope = _exact(x.astype(np.float64), y.astype(np.float64))
    wings = x.astype(float) ** 2 + y.astype(float) ** 2 >= RATIONAL_RADIUS_SQUARED
    # Float32 rounds each of 40 Horner steps to 6e-8 of the running sum: 3e-6 of the peak of w(z).
    peak = wofz(1j * y.astype(np.float64)).real
    assert np.max(np.abs(value - exact.real) / peak) < 1e-5
    scale = np.where(wings, np.abs(slope), 1.0)
    for ours, theirs in ((real_slope, slope.real), (imaginary_slope, slope.imag)):
        assert np.max(np.abs(ours - theirs) / scale) < 5e-5


def test_known_values(x64):
    # w(0) = 1; w(i) = e erfc(1) = 0.427583576155807 (DLMF 7.2, Abramowitz & Stegun table 7.9); Re w(x) = exp(-x^2).
    value, _, _ = faddeeva_with_derivative(jnp.array([0.0, 0.0, 1.5]), jnp.array([0.0, 1.0, 0.0]))
    np.testing.assert_allclose(value, [1.0, 0.427583576155807, np.exp(-2.25)], rtol=1e-12)


def test_symmetry_and_transforms(x64):
    x, y = (jnp.asarray(v[::7]) for v in _grid())
    plain = faddeeva_with_derivative(x, y)
    mirrored = faddeeva_with_derivative(-x, y)
    # Re w is even in x, Re w' odd, Im w' even (identity).
    for ours, sign, other in zip(plain, (1, -1, 1), mirrored, strict=True):
        np.testing.assert_allclose(other, sign * np.asarray(ours), rtol=1e-9, atol=1e-13)
    for transformed in (jax.jit(faddeeva_with_derivative), jax.vmap(faddeeva_with_derivative)):
        for ours, other in zip(plain, transformed(x, y), strict=True):
            np.testing.assert_allclose(other, ours, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_finite_at_extremes(x64, dtype):
    x = jnp.asarray([0.0, 1e9, 1e15, 0.0, 6.0], dtype)
    y = jnp.asarray([0.0, 0.0, 1e3, 1e9, 0.0], dtype)
    for part in faddeeva_with_derivative(x, y):
        assert np.all(np.isfinite(part))
        assert part.dtype == dtype
