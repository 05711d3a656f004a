"""Device zone. Guarded elementary functions and other small numerical helpers.

A guard sits inside the `where` (double where): `where(ok, f(x), 0)` alone still differentiates f at the bad point and
0 * inf is NaN. Each helper states its value and subgradient at the edge.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

DEGREE = np.pi / 180.0
FWHM_PER_SIGMA = float(2.0 * np.sqrt(2.0 * np.log(2.0)))  # full width at half maximum of a Gaussian of unit standard deviation


def safe_sqrt(x: ArrayLike) -> jax.Array:
    """sqrt(x) for x > 0, else 0 with derivative 0."""
    x = jnp.asarray(x)
    positive = x > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, x, 1.0)), 0.0)


def safe_divide(numerator: ArrayLike, denominator: ArrayLike) -> jax.Array:
    """numerator / denominator, and 0 with derivative 0 where the denominator is 0."""
    denominator = jnp.asarray(denominator)
    nonzero = denominator != 0
    return jnp.where(nonzero, numerator / jnp.where(nonzero, denominator, 1.0), 0.0)


def smooth_floor(x: ArrayLike, scale: float) -> jax.Array:
    """A positive, monotonic stand-in for max(x, 0): (x + sqrt(x^2 + scale^2)) / 2, above x by scale^2/(4x) for x >> scale."""
    x = jnp.asarray(x)
    return 0.5 * (x + jnp.sqrt(jnp.square(x) + scale * scale))


def constant(values: ArrayLike, like: ArrayLike) -> jax.Array:
    """A host table as a device array of the floating dtype of `like`, so that a table never changes the precision."""
    return jnp.asarray(values, dtype=jnp.result_type(like))
