"""Device zone. Axial divergence after Finger, Cox & Jephcoat: each peak becomes a weighted set of shifted peaks.

FCJ's profile is an integral over the apparent angle 2phi with an inverse-square-root singularity at 2phi = 2theta. In the
axial coordinate h (tangent of the ray's axial angle) the same integral is smooth,

    D(2phi) d(2phi) ~ W(h) / [(1 + h^2) sin(2phi)] dh,   cos(2phi) = cos(2theta) sqrt(1 + h^2),

W being the trapezoid of overlap of specimen (half height S/L) and slit (H/L), with a kink at |H - S|. Gauss-Legendre on the
two sides of the kink therefore converges geometrically, and its points are what every peak sum consumes: the dense and
windowed sums as shifted peaks, the FFT sum as phases.

Reference: Finger, Cox & Jephcoat (1994), J. Appl. Cryst. 27, 892; van Laar & Yelon (1984), J. Appl. Cryst. 17, 47. It
describes the half between specimen and detector alone.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from simxrd_jax.numerics import DEGREE, constant
from simxrd_jax.types import Array, Instrument, Scalar

# h stays this far below |tan(2theta)|, where the diffraction cone meets the equator's forward direction.
_REACH = 1.0 - 1e-4


def axial_openings(instrument: Instrument) -> tuple[Scalar, Scalar] | None:
    """S/L and H/L, or None: one of them alone switches nothing on."""
    if instrument.axial_source is None or instrument.axial_detector is None:
        return None
    return instrument.axial_source, instrument.axial_detector


def axial_points(
    two_theta: Float[Array, " peak"], source: Scalar, detector: Scalar, points: int, inner_points: int | None = None
) -> tuple[Float[Array, "peak point"], Float[Array, "peak point"]]:
    """Shifts and weights of the quadrature.

    Args:
      two_theta: Bragg angles. [deg]
      source, detector: S/L and H/L, half heights over the radius.
      points: Gauss-Legendre points on the outer side of the kink.
      inner_points: on the inner side, where shifts are smaller; None takes as many.

    Returns:
      Shifts of the apparent angle (negative below 90 deg) [deg] and weights that sum to 1, each [peak, point].
    """
    inner_points = points if inner_points is None else inner_points
    nodes, weights = (constant(v, two_theta) for v in np.polynomial.legendre.leggauss(points))
    inner_nodes, inner_weights = (constant(v, two_theta) for v in np.polynomial.legendre.leggauss(inner_points))
    angle = DEGREE * two_theta[:, None]
    cosine, tangent = jnp.cos(angle), jnp.tan(angle)
    limit = _REACH * jnp.abs(tangent)
    # The profile is even in H - S and its derivative there is 0: the inner piece vanishes as (H - S)^2.
    inner = jnp.minimum(jnp.abs(source - detector), limit)
    outer = jnp.minimum(source + detector, limit)
    half_inner, half_outer = 0.5 * inner, 0.5 * (outer - inner)
    h_outer = inner + half_outer * (1.0 + nodes)
    h = jnp.concatenate([half_inner * (1.0 + inner_nodes), h_outer], axis=1)
    measure = jnp.concatenate([half_inner * inner_weights, half_outer * weights], axis=1)
    # W over its plateau, which a vanishing S or H leaves finite: 1 on the inner piece, a ramp on the outer one.
    plateau = 2.0 * jnp.minimum(source, detector)
    ramp = (source + detector - h_outer) / jnp.where(plateau > 0, plateau, 1.0)
    ramp = jnp.where(plateau > 0, ramp, 0.5 * (1.0 - nodes))
    overlap = jnp.concatenate([jnp.ones((two_theta.shape[0], inner_points), dtype=ramp.dtype), ramp], axis=1)
    root = jnp.sqrt(1.0 + h * h)
    apparent = jnp.arccos(jnp.clip(cosine * root, -1.0 + 1e-7, 1.0 - 1e-7))
    # The shift from the difference of cosines, not of angles: float32 keeps it to 1e-7 of itself.
    difference = cosine * h * h / (1.0 + root)
    shift = -2.0 * jnp.arcsin(jnp.clip(0.5 * difference / jnp.sin(0.5 * (apparent + angle)), -0.7, 0.7))
    weight = measure * overlap / (root * root * jnp.sin(apparent))
    total = jnp.sum(weight, axis=1, keepdims=True)
    # With no opening at all (S = H = 0) every weight is zero and the peak stays one peak.
    closed = total <= 0
    weight = jnp.where(closed, 1.0 / weight.shape[1], weight / jnp.where(closed, 1.0, total))
    return shift / DEGREE, weight


def mean_axial_shift(two_theta: Float[Array, "*peak"], source: Scalar, detector: Scalar) -> Float[Array, "*peak"]:
    """Mean shift of the apparent angle for small openings, -(S^2 + H^2)/6 cot(2theta) in radians.

    In the limit of small h the shift is -(h^2/2) cot(2theta), and h is the difference of two uniform numbers of half widths
    S and H, whose mean square is (S^2 + H^2)/3.

    Returns:
      Shift. [deg]
    """
    angle = DEGREE * jnp.clip(two_theta, 1.0, 179.0)
    return -(source**2 + detector**2) / (6.0 * DEGREE * jnp.tan(angle))
