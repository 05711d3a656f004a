"""Device zone. The Faddeeva function w(z) = exp(-z^2) erfc(-iz) for Im z >= 0, with its derivative.

Why two forms: Weideman's rational series (40 terms) holds to 1e-13 of the peak for |z| < 6 but its derivative identity
w' = -2zw + 2i/sqrt(pi) cancels in the wings. For |z| >= 6 the 16-point Gauss-Hermite rational in 1/z^2 (the convergent of
Laplace's continued fraction) gives w and, with the leading term of Q - P cancelled exactly on the host, also w' to full
relative precision, in float32 too. tests/diffraction/test_faddeeva.py measures both against scipy.special.wofz.

References: Weideman (1994), SIAM J. Numer. Anal. 31, 1497; Gautschi (1970), SIAM J. Numer. Anal. 7, 187.
"""

from __future__ import annotations

from fractions import Fraction

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from simxrd_jax.types import Array

SERIES_TERMS = 40
RATIONAL_RADIUS_SQUARED = 36.0
_RATIONAL_DEPTH = 16
# A Python number: a numpy scalar would turn float32 inputs into float64.
_INVERSE_SQRT_PI = float(1.0 / np.sqrt(np.pi))


def _weideman_coefficients(terms: int) -> tuple[float, np.ndarray]:
    """Scale L and Taylor coefficients of the series, highest power first."""
    points = 2 * terms
    scale = float(np.sqrt(terms / np.sqrt(2.0)))
    angle = np.arange(-points + 1, points) * np.pi / points
    t = scale * np.tan(angle / 2.0)
    samples = np.concatenate([[0.0], np.exp(-t * t) * (scale**2 + t * t)])
    coefficients = np.real(np.fft.fft(np.fft.fftshift(samples))) / (2 * points)
    return scale, np.flipud(coefficients[1 : terms + 1])


def _laplace_convergent(depth: int) -> tuple[np.ndarray, np.ndarray]:
    """P and Q - P in powers of t = 1/z^2, rising, of w = i/(sqrt(pi) z) P(t)/Q(t).

    The continued fraction is 1/(1 - (1/2)t/(1 - (2/2)t/(1 - (3/2)t/...))); exact rational arithmetic keeps the constant
    term of Q - P at exactly zero.
    """
    one, half = Fraction(1), Fraction(1, 2)
    previous_p, previous_q, p, q = [Fraction(0)], [one], [one], [one]

    def combine(x: list[Fraction], y: list[Fraction], factor: Fraction) -> list[Fraction]:
        shifted = [Fraction(0)] + [factor * c for c in y]
        size = max(len(x), len(shifted))
        pad = lambda c: c + [Fraction(0)] * (size - len(c))  # noqa: E731
        return [a - b for a, b in zip(pad(x), pad(shifted), strict=True)]

    for k in range(1, depth):
        p, previous_p = combine(p, previous_p, k * half), p
        q, previous_q = combine(q, previous_q, k * half), q
    size = max(len(p), len(q))
    p += [Fraction(0)] * (size - len(p))
    q += [Fraction(0)] * (size - len(q))
    return np.array([float(c) for c in p]), np.array([float(b - a) for a, b in zip(p, q, strict=True)])


_SCALE, _SERIES = _weideman_coefficients(SERIES_TERMS)
_P, _Q_MINUS_P = _laplace_convergent(_RATIONAL_DEPTH)


def faddeeva_with_derivative(
    x: Float[Array, "*shape"], y: Float[Array, "*shape"]
) -> tuple[Float[Array, "*shape"], Float[Array, "*shape"], Float[Array, "*shape"]]:
    """Re w(z), Re w'(z) and Im w'(z) at z = x + iy, y >= 0.

    Returns:
      Three arrays of the inputs' shape. With u = Re w: du/dx = Re w', du/dy = -Im w'.
    """
    far = x * x + y * y >= RATIONAL_RADIUS_SQUARED
    near_z = jnp.where(far, 1.0, x) + 1j * jnp.where(far, 1.0, y)
    far_z = jnp.where(far, x, RATIONAL_RADIUS_SQUARED) + 1j * jnp.where(far, y, 0.0)

    denominator = 1.0 / (_SCALE - 1j * near_z)
    ratio = (_SCALE + 1j * near_z) * denominator
    series = jnp.zeros_like(ratio)
    for coefficient in _SERIES:
        series = series * ratio + float(coefficient)
    near_w = 2.0 * series * denominator * denominator + _INVERSE_SQRT_PI * denominator
    near_derivative = -2.0 * near_z * near_w + 2j * _INVERSE_SQRT_PI

    inverse = 1.0 / far_z
    t = inverse * inverse
    p, q_minus_p = jnp.zeros_like(t), jnp.zeros_like(t)
    for a, b in zip(_P[::-1], _Q_MINUS_P[::-1], strict=True):
        p, q_minus_p = p * t + float(a), q_minus_p * t + float(b)
    q = p + q_minus_p
    far_w = 1j * _INVERSE_SQRT_PI * inverse * p / q
    far_derivative = 2j * _INVERSE_SQRT_PI * q_minus_p / q

    derivative = jnp.where(far, far_derivative, near_derivative)
    return jnp.where(far, jnp.real(far_w), jnp.real(near_w)), jnp.real(derivative), jnp.imag(derivative)
