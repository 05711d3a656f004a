"""Device zone. Backgrounds: Chebyshev series, SimXRD's random polynomial, air scatter, amorphous humps, measured points."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Float

from simxrd_jax.numerics import FWHM_PER_SIGMA, safe_divide
from simxrd_jax.types import Array, Background


def background(parts: Background, two_theta: Float[Array, " point"]) -> Float[Array, " point"]:
    """Sum of the parts that are present.

    chebyshev: sum c_n T_n(x), x the grid's range mapped to [-1, 1]; polynomial: the shape sum c_n x^n shifted and scaled to
    run from 0 to `polynomial_height`; air scatter: c/(2theta); humps: height exp(-4 ln2 (2theta - position)^2/fwhm^2).

    Args:
      parts: coefficients, in the unit of intensity that the caller uses.
      two_theta: [deg]

    Returns:
      Background at the points, in that unit.
    """
    low, high = two_theta[0], two_theta[-1]
    x = (2.0 * two_theta - (low + high)) / (high - low)
    total = jnp.zeros_like(two_theta)
    if parts.chebyshev is not None:
        total = total + chebyshev_series(jnp.asarray(parts.chebyshev), x)
    if parts.polynomial is not None:
        coefficients = jnp.asarray(parts.polynomial)
        shape = jnp.zeros_like(x)
        for i in reversed(range(coefficients.shape[0])):
            shape = shape * x + coefficients[i]
        shape = shape - jnp.min(shape)
        total = total + parts.polynomial_height * safe_divide(shape, jnp.max(shape))
    if parts.air_scatter is not None:
        total = total + parts.air_scatter / two_theta
    if parts.hump_position is not None and parts.hump_fwhm is not None and parts.hump_height is not None:
        sigma = jnp.asarray(parts.hump_fwhm)[:, None] / FWHM_PER_SIGMA
        offset = (two_theta - jnp.asarray(parts.hump_position)[:, None]) / sigma
        total = total + jnp.sum(jnp.asarray(parts.hump_height)[:, None] * jnp.exp(-0.5 * jnp.square(offset)), axis=0)
    if parts.measured is not None:
        total = total + parts.measured
    return total


def chebyshev_series(coefficients: Float[Array, " term"], x: Float[Array, " point"]) -> Float[Array, " point"]:
    """Sum of c_n T_n(x) by Clenshaw's recurrence.

    Reference: Clenshaw (1955), Math. Tables Aids Comput. 9, 118.
    """
    first, second = jnp.zeros_like(x), jnp.zeros_like(x)
    for i in reversed(range(1, coefficients.shape[0])):
        first, second = 2.0 * x * first - second + coefficients[i], first
    return x * first - second + coefficients[0]
