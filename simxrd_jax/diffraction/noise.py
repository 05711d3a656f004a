"""Device zone. Noise: Poisson counts, Gaussian, uniform.

Why an own Poisson sampler: a pattern has thousands of points and training draws millions of them a second, where a
rejection sampler would cost more than the rest of the simulation (`experiments/simulator_speed` prints both). One uniform
number a point is inverted: exactly, by summing the distribution, for means below POISSON_SWITCH; above, by the
Cornish-Fisher expansion of the Poisson quantile, rounded to an integer, whose distribution function differs from the exact
one by less than 5e-4 there and falls as 1/mean (tests/diffraction/test_noise.py).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Float, Key

from simxrd_jax.types import Array, Noise

# Draws are float32 whatever the precision of the rest, so that enabling x64 never changes a draw.
DRAW_DTYPE = jnp.float32
POISSON_SWITCH = 8.0
# P(N > 28) at a mean of 8 is 3e-9, below the spacing of float32 uniforms.
_EXACT_TERMS = 28


def add_noise(intensity: Float[Array, " point"], noise: Noise, *, key: Key[Array, ""]) -> Float[Array, " point"]:
    """A noisy measurement of a pattern, on the pattern's own scale.

    Args:
      intensity: noise-free pattern, not negative.
      noise: which noise; parts that are None are absent.
      key: typed random key.

    Returns:
      The pattern with noise. Its derivative with respect to the noise-free pattern is that of the mean: the draw itself
      is held fixed.
    """
    poisson_key, gaussian_key, uniform_key = jax.random.split(key, 3)
    # The height only sets the size of the noise, which is held fixed with the draw: no gradient through the maximum.
    highest = lax.stop_gradient(jnp.max(intensity))
    highest = jnp.where(highest > 0, highest, 1.0)
    result = intensity
    if noise.peak_counts is not None:
        scale = noise.peak_counts / highest
        counts = jnp.maximum(intensity * scale, 0.0)
        result = poisson(counts, key=poisson_key) / scale
    if noise.gaussian is not None:
        draw = jax.random.normal(gaussian_key, intensity.shape, dtype=DRAW_DTYPE)
        result = result + noise.gaussian * highest * draw
    if noise.uniform is not None:
        draw = jax.random.uniform(uniform_key, intensity.shape, dtype=DRAW_DTYPE)
        result = result + noise.uniform * highest * draw
    return result


def poisson(mean: Float[Array, "*shape"], *, key: Key[Array, ""]) -> Float[Array, "*shape"]:
    """Poisson draws with the given means, as floats; d(draw)/d(mean) = 1 (straight through).

    Reference: Cornish & Fisher (1938), Rev. Inst. Int. Stat. 5, 307.
    """
    fixed = lax.stop_gradient(mean)
    uniform = jax.random.uniform(key, mean.shape, dtype=DRAW_DTYPE, minval=1e-7, maxval=1.0 - 1e-7)
    uniform = uniform.astype(mean.dtype)
    draw = jnp.where(fixed < POISSON_SWITCH, _exact_quantile(fixed, uniform), _expanded_quantile(fixed, uniform))
    return mean + (draw - fixed)


def _exact_quantile(mean, uniform):
    """Smallest n with P(N <= n) >= uniform, for means below the switch."""
    mean = jnp.minimum(mean, POISSON_SWITCH)
    term = jnp.exp(-mean)
    cumulative, count = term, jnp.zeros_like(mean)
    for n in range(1, _EXACT_TERMS):
        count = count + (uniform > cumulative)
        term = term * (mean / n)
        cumulative = cumulative + term
    return count


def _expanded_quantile(mean, uniform):
    """Cornish-Fisher quantile, rounded to an integer; its variance is reduced by the 1/12 that rounding adds back."""
    mean = jnp.maximum(mean, POISSON_SWITCH)
    z = jnp.sqrt(2.0) * lax.erf_inv(2.0 * uniform - 1.0)
    root = jnp.sqrt(mean)
    value = mean + root * z + (z * z - 1.0) / 6.0 - z * (z * z + 2.0) / (72.0 * root)
    return jnp.maximum(jnp.round(value), 0.0)
