"""Device zone. Corrections to integrated intensities that depend on the angle alone: Lorentz, polarization, absorption."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Float

from simxrd_jax.numerics import DEGREE
from simxrd_jax.types import Array, Instrument, Scalar


def lorentz_polarization(sine: Float[Array, "*peak"], instrument: Instrument) -> Float[Array, "*peak"]:
    """Lorentz-polarization factor of a powder.

    LP = [p + (1 - p) K cos^2(2theta)] / {[p + (1 - p) K] sin^2(theta) cos(theta)}, K = cos^2(2theta_mono).

    p = 1/2, K = 1 is the tube without monochromator, (1 + cos^2 2theta)/(2 sin^2 theta cos theta); a monochromator gives
    (1 + K cos^2 2theta)/((1 + K) sin^2 theta cos theta); K = 1 with p near 1 is a synchrotron. The bracket is 1 at
    2theta = 0.

    Args:
      sine: sin(theta).
      instrument: `polarization_fraction` p, `monochromator_two_theta`.

    Reference: Azaroff (1955), Acta Cryst. 8, 701; Kahn et al. (1982), J. Appl. Cryst. 15, 330.
    """
    k = jnp.square(jnp.cos(DEGREE * instrument.monochromator_two_theta))
    p = instrument.polarization_fraction
    sine_squared = jnp.square(sine)
    cos_two_theta = 1.0 - 2.0 * sine_squared
    polarization = (p + (1.0 - p) * k * jnp.square(cos_two_theta)) / (p + (1.0 - p) * k)
    return polarization / (sine_squared * jnp.sqrt(1.0 - sine_squared))


def cylinder_absorption(sine: Float[Array, "*peak"], mu_r: Scalar) -> Float[Array, "*peak"]:
    """Transmission of a cylindrical specimen (capillary), for mu R up to 1.

    A = exp[-(1.7133 - 0.0368 sin^2 theta) mu R + (0.0927 + 0.375 sin^2 theta) (mu R)^2].

    Reference: Hewat (1979), Acta Cryst. A35, 248. Not valid above mu R = 1.
    """
    s2 = jnp.square(sine)
    return jnp.exp(-(1.7133 - 0.0368 * s2) * mu_r + (0.0927 + 0.375 * s2) * mu_r**2)
