"""Device zone. Factors of integrated intensities that depend on the angle alone: Lorentz, polarization, absorption, slits."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Float

from simxrd_jax.errors import InputError
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


def thin_plate_absorption(sine: Float[Array, "*peak"], mu_t: Scalar) -> Float[Array, "*peak"]:
    """Share of its greatest intensity that a flat plate of finite thickness reflects, 1 - exp(-2 mu t/sin theta).

    Args:
      sine: sin(theta).
      mu_t: linear absorption coefficient times thickness, > 0.

    Reference: Klug & Alexander (1974), X-ray Diffraction Procedures, ch. 5; International Tables C (2006), table 6.3.3.1.
    """
    return -jnp.expm1(-2.0 * mu_t / sine)


def transmission_absorption(sine: Float[Array, "*peak"], mu_t: Scalar) -> Float[Array, "*peak"]:
    """Intensity through a flat plate that halves the angle between the beams, exp(-mu t/cos theta)/cos theta.

    1/cos theta is the path in the plate, and so its volume in the beam.

    Args:
      sine: sin(theta).
      mu_t: linear absorption coefficient times thickness.

    Reference: International Tables C (2006), table 6.3.3.1, symmetrical transmission.
    """
    inverse_cosine = 1.0 / jnp.sqrt(1.0 - jnp.square(sine))
    return jnp.exp(-mu_t * inverse_cosine) * inverse_cosine


def surface_roughness(sine: Float[Array, "*peak"], amount: Scalar, depth: Scalar) -> Float[Array, "*peak"]:
    """Loss of intensity at low angle by a rough surface.

    S = (1 - a + a exp(-q/sin theta))/(1 - a + a exp(-q)), which is 1 at theta = 90 deg. In the paper's symbols p = 1 - a.

    Args:
      sine: sin(theta).
      amount: a, 0 for a smooth surface.
      depth: q, mu times a depth of the roughness.

    Reference: Suortti (1972), J. Appl. Cryst. 5, 325.
    """
    return (1.0 - amount + amount * jnp.exp(-depth / sine)) / (1.0 - amount + amount * jnp.exp(-depth))


def lit_share(sine: Float[Array, "*peak"], instrument: Instrument) -> Float[Array, "*peak"] | float:
    """Share of the rays of a fixed slit that meet the specimen: min(1, sin theta/sin theta_o), 1 without overflow.

    A beam of divergence alpha lights the length R alpha/sin theta, which is longer than the specimen's L below
    sin theta_o = R alpha/L; the specimen is taken as a rectangle.

    Args:
      sine: sin(theta).
      instrument: `overflow_two_theta`, 2 theta_o.

    Reference: Jenkins & Snyder (1996), Introduction to X-ray Powder Diffractometry, ch. 7; Krueger & Fischer (2004), J.
    Appl. Cryst. 37, 472.
    """
    if instrument.overflow_two_theta is None:
        return 1.0
    # The kink is the effect's own; which side a reflection takes at exactly that angle does not matter.
    return jnp.minimum(sine / jnp.sin(0.5 * DEGREE * instrument.overflow_two_theta), 1.0)


def divergence(sine: Float[Array, "*peak"], instrument: Instrument) -> Float[Array, "*peak"] | None:
    """Full angle of the rays that meet the specimen in the plane of diffraction, or None where none is stated. [rad]

    Automatic slits keep a length l lit: alpha = l sin theta/R.

    Raises:
      InputError: both a fixed divergence and automatic slits are stated.
    """
    if instrument.illuminated_length is None:
        if instrument.equatorial_divergence is None:
            return None
        return DEGREE * instrument.equatorial_divergence * lit_share(sine, instrument) * jnp.ones_like(sine)
    if instrument.equatorial_divergence is not None or instrument.overflow_two_theta is not None:
        raise InputError(
            "illuminated_length is of automatic slits, equatorial_divergence and overflow_two_theta are of fixed ones; "
            "state the one or the others"
        )
    return instrument.illuminated_length / instrument.goniometer_radius * sine


def illumination(sine: Float[Array, "*peak"], instrument: Instrument) -> Float[Array, "*peak"] | float:
    """Intensity of the rays that meet the specimen: `lit_share` of fixed slits, sin theta of automatic ones.

    Automatic slits open as sin theta, and let as much more through; the factor is 1 at theta = 90 deg.

    Reference: as `lit_share`.
    """
    return lit_share(sine, instrument) if instrument.illuminated_length is None else sine
