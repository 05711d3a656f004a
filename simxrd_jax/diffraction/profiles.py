"""Device zone. Peak profiles of unit area: the exact Voigt and the Thompson-Cox-Hastings pseudo-Voigt.

The pseudo-Voigt is cheaper but differs from the Voigt by up to 1.3e-2 of the peak; it is offered because other programs
use it. The Voigt carries its own derivative rule: differentiating the rational series term by term costs ten times more
and loses digits in the wings.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from simxrd_jax.diffraction.faddeeva import faddeeva_with_derivative
from simxrd_jax.numerics import FWHM_PER_SIGMA, safe_divide
from simxrd_jax.types import Array

_SQRT_2 = float(np.sqrt(2.0))
_SQRT_2_PI = float(np.sqrt(2.0 * np.pi))


@jax.custom_jvp
def voigt(
    offset: Float[Array, "..."] | float, sigma: Float[Array, "..."] | float, hwhm_lorentz: Float[Array, "..."] | float
) -> Float[Array, "..."]:
    """Voigt profile Re w(z)/(sigma sqrt(2 pi)), z = (x + i gamma)/(sigma sqrt 2).

    Args:
      offset: distance from the peak, x. Any unit, the same for all three.
      sigma: standard deviation of the Gaussian part, > 0. The three broadcast.
      hwhm_lorentz: half width at half maximum of the Lorentzian part, >= 0.

    Returns:
      Profile of unit area, in the inverse of that unit.
    """
    return _voigt_parts(offset, sigma, hwhm_lorentz)[0]


def _voigt_parts(offset, sigma, hwhm_lorentz):
    """The Voigt profile and its three partial derivatives."""
    inverse = 1.0 / (sigma * _SQRT_2)
    x, y = offset * inverse, hwhm_lorentz * inverse
    x, y = jnp.broadcast_arrays(x, y)
    u, du_dx, minus_du_dy = faddeeva_with_derivative(x, y)
    norm = 1.0 / (sigma * _SQRT_2_PI)
    value = u * norm
    d_offset = du_dx * norm * inverse
    d_gamma = -minus_du_dy * norm * inverse
    d_sigma = -(value + offset * d_offset + hwhm_lorentz * d_gamma) / sigma
    return value, d_offset, d_sigma, d_gamma


@voigt.defjvp
def _voigt_jvp(primals, tangents):
    value, d_offset, d_sigma, d_gamma = _voigt_parts(*primals)
    t_offset, t_sigma, t_gamma = tangents
    return value, d_offset * t_offset + d_sigma * t_sigma + d_gamma * t_gamma


def gaussian(offset: Float[Array, "..."] | float, sigma: Float[Array, "..."] | float) -> Float[Array, "..."]:
    """Normal distribution of standard deviation sigma."""
    return jnp.exp(-0.5 * jnp.square(offset / sigma)) / (sigma * _SQRT_2_PI)


def lorentzian(offset: Float[Array, "..."] | float, hwhm: Float[Array, "..."] | float) -> Float[Array, "..."]:
    """Cauchy distribution of half width at half maximum hwhm."""
    return hwhm / (np.pi * (jnp.square(offset) + jnp.square(hwhm)))


def tch_parameters(
    sigma: Float[Array, "..."] | float, hwhm_lorentz: Float[Array, "..."] | float
) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    """FWHM and Lorentzian share eta of the pseudo-Voigt that stands for a Voigt.

    FWHM^5 = G^5 + 2.69269 G^4 L + 2.42843 G^3 L^2 + 4.47163 G^2 L^3 + 0.07842 G L^4 + L^5;
    eta = 1.36603 q - 0.47719 q^2 + 0.11116 q^3, q = L/FWHM.

    Reference: Thompson, Cox & Hastings (1987), J. Appl. Cryst. 20, 79, eqs. 7 and 8.
    """
    g, l = FWHM_PER_SIGMA * sigma, 2.0 * hwhm_lorentz
    # Scaled by the larger width, so that float32 fifth powers of small widths do not underflow.
    scale = jnp.maximum(g, l)
    scale = jnp.where(scale > 0, scale, 1.0)
    a, b = g / scale, l / scale
    fifth = a**5 + 2.69269 * a**4 * b + 2.42843 * a**3 * b**2 + 4.47163 * a**2 * b**3 + 0.07842 * a * b**4 + b**5
    fwhm = scale * jnp.where(fifth > 0, fifth, 1.0) ** 0.2
    q = safe_divide(l, fwhm)
    return fwhm, 1.36603 * q - 0.47719 * q**2 + 0.11116 * q**3


def tch_pseudo_voigt(
    offset: Float[Array, "..."] | float, sigma: Float[Array, "..."] | float, hwhm_lorentz: Float[Array, "..."] | float
) -> Float[Array, "..."]:
    """Thompson-Cox-Hastings pseudo-Voigt, arguments as `voigt`. Unit area."""
    fwhm, eta = tch_parameters(sigma, hwhm_lorentz)
    return eta * lorentzian(offset, 0.5 * fwhm) + (1.0 - eta) * gaussian(offset, fwhm / FWHM_PER_SIGMA)


PROFILES = {"voigt": voigt, "tch": tch_pseudo_voigt}
