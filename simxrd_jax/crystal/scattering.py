"""Device zone. Atomic scattering factors from their coefficients."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Float

from simxrd_jax.types import Array, Crystal


def f0(crystal: Crystal, s_squared: Float[Array, " hkl"]) -> Float[Array, "hkl species"]:
    """Scattering factors without dispersion, f0(s) = sum_i a_i exp(-b_i s^2) + c.

    Args:
      crystal: its `f0_a`, `f0_b`, `f0_c`.
      s_squared: s^2 = (sin(theta)/lambda)^2 = 1/(4 d^2). [1/A^2]

    Returns:
      f0 of each species. [electrons]

    Reference: International Tables for Crystallography C (1992), eq. 6.1.1.15; to s = 2 1/A with its coefficients, to
    6 1/A with those of Waasmaier & Kirfel (1995).
    """
    gaussians = crystal.f0_a * jnp.exp(-crystal.f0_b * s_squared[:, None, None])
    return jnp.sum(gaussians, axis=-1) + crystal.f0_c
