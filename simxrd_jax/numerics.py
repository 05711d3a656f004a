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


@jax.custom_jvp
def cos_sin(turns: ArrayLike) -> tuple[jax.Array, jax.Array]:
    """cos(2 pi t) and sin(2 pi t) of a number of turns t, to a few units of the last place of numbers near 1.

    Polynomials after a reduction to an eighth of a turn: XLA on CPU calls a scalar library function for each cosine and
    sine, which took most of the time of a phase table (9 ns a value; this takes about 0.5 ns).
    """
    turns = jnp.asarray(turns)
    quarter = jnp.round(4.0 * turns)
    x = (2.0 * np.pi) * (turns - 0.25 * quarter)
    # Taylor series on |x| <= pi/4: the first term left out is x^11/11! = 2e-9 in single, x^19/19! = 8e-20 in double.
    terms = 5 if jnp.finfo(x.dtype).bits <= 32 else 9
    # Horner's rule with the factors as products: a division is an order of magnitude slower.
    square = x * x
    cosine, sine = jnp.ones_like(x), jnp.ones_like(x)
    for n in reversed(range(1, terms + 1)):
        cosine = 1.0 - cosine * (square * (1.0 / (2 * n * (2 * n - 1))))
        sine = 1.0 - sine * (square * (1.0 / (2 * n * (2 * n + 1))))
    sine = x * sine
    place = quarter.astype(jnp.int32)
    is_odd = (place & 1) == 1
    cosine, sine = jnp.where(is_odd, sine, cosine), jnp.where(is_odd, cosine, sine)
    return jnp.where(((place + 1) & 2) == 2, -cosine, cosine), jnp.where((place & 2) == 2, -sine, sine)


@cos_sin.defjvp
def _cos_sin_jvp(primals, tangents):
    cosine, sine = cos_sin(*primals)
    rate = (2.0 * np.pi) * tangents[0]
    return (cosine, sine), (-sine * rate, cosine * rate)
