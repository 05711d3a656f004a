"""Device zone. Bragg angles and observed peak positions.

lambda = 2 d sin(theta); observed 2theta = 2theta + zero shift + displacement and transparency aberrations.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from simxrd_jax.diffraction.corrections import divergence
from simxrd_jax.numerics import safe_sqrt
from simxrd_jax.types import Array, Instrument, PeakList

# sin(theta) is held at most here so that cos(theta) stays positive beyond the limit of the wavelength, where the
# intensity is masked; 2theta = 179.8 deg.
MAX_SIN_THETA = 1.0 - 1.5e-6


def sin_theta(
    s_squared: Float[Array, "..."], wavelength: Float[Array, "..."] | float
) -> tuple[Float[Array, "..."], Bool[Array, "..."]]:
    """sin(theta) = lambda s, held below 1, and whether the wavelength reaches the reflection.

    Args:
      s_squared: (sin(theta)/lambda)^2 = 1/(4 d^2). [1/A^2]
      wavelength: [A]. The two broadcast.
    """
    value = wavelength * safe_sqrt(s_squared)
    reached = value < MAX_SIN_THETA
    return jnp.where(reached, value, MAX_SIN_THETA), reached


def position_shift_rad(sine: Float[Array, "*peak"], instrument: Instrument) -> Float[Array, "*peak"]:
    """Observed minus Bragg 2theta, without the zero shift: specimen displacement and transparency.

    displacement: -2 s cos(theta)/R, s positive away from source and detector (negative s puts lines high);
    transparency of a thick flat specimen: -sin(2 theta)/(2 mu R), the mean shift (its tail: `transparency`).

    Args:
      sine: sin(theta).

    Returns:
      Shift of 2theta. [rad]

    Reference: Wilson (1963), Mathematical Theory of X-ray Powder Diffractometry; Klug & Alexander (1974), ch. 5.
    """
    cosine = jnp.sqrt(1.0 - jnp.square(sine))
    shift = -2.0 * instrument.displacement * cosine / instrument.goniometer_radius
    if instrument.transparency is not None:
        shift = shift - instrument.transparency * 2.0 * sine * cosine
    return shift


# Gauss-Legendre nodes over half the divergence. The shift goes as the square of the ray's angle: three nodes give its first
# five moments exactly, and the smear is narrow against a line.
_RAYS, _RAY_WEIGHTS = np.polynomial.legendre.leggauss(3)


def flat_specimen(peaks: PeakList, instrument: Instrument) -> PeakList:
    """Peaks as a flat specimen under a divergent beam makes them: each one several, along the smear.

    A ray at the angle g from the middle one, |g| <= divergence/2, meets the specimen off the focusing circle and is found at
    2theta - g^2 cot(theta) (radians); the mean shift is -(divergence^2/12) cot(theta).

    Args:
      peaks: [line, hkl]; returned as they are where no divergence is stated.
      instrument: its `equatorial_divergence`, of which the rays beside the specimen do not count, or the
        `illuminated_length` of automatic slits, by which the mean shift becomes -(l^2/(24 R^2)) sin(2theta).

    Returns:
      Peaks [line, 3 hkl].

    Reference: Wilson (1963), Mathematical Theory of X-ray Powder Diffractometry; Klug & Alexander (1974), ch. 5.
    """
    bragg = jnp.deg2rad(peaks.bragg_two_theta) / 2.0
    angle = divergence(jnp.sin(bragg), instrument)
    if angle is None:
        return peaks
    cotangent = jnp.cos(bragg) / jnp.maximum(jnp.sin(bragg), 1e-6)
    # Rays on either side do the same: one side stands for both.
    rays = [0.5 * angle * float(0.5 * (ray + 1.0)) for ray in _RAYS]
    shifts = [-jnp.rad2deg(jnp.square(ray) * cotangent) for ray in rays]
    return PeakList(
        two_theta=jnp.concatenate([peaks.two_theta + shift for shift in shifts], axis=1),
        bragg_two_theta=jnp.concatenate([peaks.bragg_two_theta] * len(shifts), axis=1),
        intensity=jnp.concatenate([0.5 * w * peaks.intensity for w in _RAY_WEIGHTS], axis=1),
        strain=None if peaks.strain is None else jnp.concatenate([peaks.strain] * len(shifts), axis=1),
    )


def observed_two_theta(sine: Float[Array, "*peak"], instrument: Instrument) -> Float[Array, "*peak"]:
    """Observed peak position from sin(theta). [deg]"""
    angle = jnp.rad2deg(2.0 * jnp.arcsin(sine) + position_shift_rad(sine, instrument))
    # The bound, which no angle comes near, stands between a product and a sum: a compiler that fuses the two rounds the
    # place of a peak otherwise than one that does not, which programs that must agree would show.
    return jnp.maximum(angle, -180.0) + instrument.zero_shift
