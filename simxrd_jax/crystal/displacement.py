"""Device zone. Thermal displacement: isotropic B, the anisotropic tensor, and B(T) of the Debye model.

Why quadrature for the Debye integral: phi(x) = (1/x) int_0^x t/(e^t - 1) dt has a smooth integrand, so 32 Gauss-Legendre
points give it to 1e-13 for x up to 15 (T down to Theta_D/15) in one fused expression with exact derivatives; above that
the integral is pi^2/6 to 6e-6 and the zero-point term 1/4 dominates.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from simxrd_jax import constants
from simxrd_jax.numerics import constant
from simxrd_jax.types import Array, Scalar

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(32)
# h in J s, k in J/K, atomic mass constant in kg, 1 A^2 = 1e-20 m^2.
_DEBYE_PREFACTOR = 6.0 * constants.PLANCK**2 / (constants.ATOMIC_MASS * constants.BOLTZMANN) * 1e20


def debye_phi(x: Scalar) -> Float[Array, ""]:
    """phi(x) = (1/x) int_0^x t/(e^t - 1) dt, the Debye function of order one; phi(0) = 1."""
    x = 1.0 * jnp.asarray(x)
    t = 0.5 * x * (1.0 + constant(_NODES, x))
    integrand = jnp.where(t < 1e-3, 1.0 - t / 2 + t * t / 12, _decaying(jnp.where(t < 1e-3, 1.0, t)))
    return 0.5 * jnp.sum(constant(_WEIGHTS, x) * integrand)


def _decaying(t: Float[Array, " node"]) -> Float[Array, " node"]:
    """t/(e^t - 1) in the form whose exponential cannot overflow, so that its derivative is no inf * 0 at low temperature."""
    return t * jnp.exp(-t) / -jnp.expm1(-t)


def debye_biso(mass: Float[Array, " species"], temperature: Scalar, debye_temperature: Scalar) -> Float[Array, " species"]:
    """Isotropic displacement parameter of the Debye model.

    B(T) = (6 h^2 / (m k Theta_D)) [phi(x)/x + 1/4], x = Theta_D/T. The mass is each element's own.

    Args:
      mass: atomic masses. [u]
      temperature: [K]
      debye_temperature: Theta_D. [K]

    Returns:
      B of each species. [A^2]

    Reference: James (1962), The Optical Principles of the Diffraction of X-rays, ch. 5; Warren (1969), X-ray
    Diffraction, eq. 11.77.
    """
    x = debye_temperature / temperature
    return _DEBYE_PREFACTOR / (mass * debye_temperature) * (debye_phi(x) / x + 0.25)


def biso_from_displacement(u: Scalar) -> Scalar:
    """B = (8/3) pi^2 u^2 of a total root mean square displacement u, SimXRD's one-displacement form. [A -> A^2]"""
    return (8.0 / 3.0) * np.pi**2 * u**2
