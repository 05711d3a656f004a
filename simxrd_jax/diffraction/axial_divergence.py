"""Device zone. Axial divergence: each peak becomes a weighted set of shifted peaks.

Two models, after what the instrument states. Of a beam that is parallel in the axial plane before the specimen (synchrotron,
or a laboratory instrument whose source side is left out), Finger, Cox & Jephcoat's. Their profile is an integral over the
apparent angle 2phi with an inverse-square-root singularity at 2phi = 2theta. In the axial coordinate h (tangent of the ray's
axial angle) the same integral is smooth,

    D(2phi) d(2phi) ~ W(h) / [(1 + h^2) sin(2phi)] dh,   cos(2phi) = cos(2theta) sqrt(1 + h^2),

W being the trapezoid of overlap of specimen (half height S/L) and slit (H/L), with a kink at |H - S|. Gauss-Legendre on the
two sides of the kink therefore converges geometrically, and its points are what every peak sum consumes: the dense and
windowed sums as shifted peaks, the FFT sum as phases.

Where the half height of the source is stated too, rays are inclined by a before and by b behind the specimen (tangents), and

    cos(2phi) = cos(2theta) sqrt((1 + a^2)(1 + b^2)) - a b,   2phi - 2theta ~ -(a^2 + b^2)/2 cot(2theta) + a b/sin(2theta),

averaged over the heights of source, specimen and detector slit by a product rule, with the transmission of Soller slits.

Reference: Finger, Cox & Jephcoat (1994), J. Appl. Cryst. 27, 892; van Laar & Yelon (1984), J. Appl. Cryst. 17, 47; of the
source side Cheary & Coelho (1998), J. Appl. Cryst. 31, 851, eq. 6.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from simxrd_jax.diffraction.settings import Accuracy
from simxrd_jax.numerics import DEGREE, constant
from simxrd_jax.types import Array, Instrument, Scalar

# h stays this far below |tan(2theta)|, where the diffraction cone meets the equator's forward direction.
_REACH = 1.0 - 1e-4


def axial_openings(instrument: Instrument) -> tuple[Scalar, ...] | None:
    """S/L and H/L; with the source's side the source's half height over the radius and the Soller slits' opening [deg] too; or
    None: specimen or detector slit alone switches nothing on."""
    if instrument.axial_source is None or instrument.axial_detector is None:
        return None
    openings = (instrument.axial_source, instrument.axial_detector)
    if instrument.axial_tube is None:
        return openings
    return (*openings, instrument.axial_tube, np.inf if instrument.soller is None else instrument.soller)


def opening_points(
    two_theta: Float[Array, " peak"], openings: tuple[Scalar, ...], accuracy: Accuracy
) -> tuple[Float[Array, "peak point"], Float[Array, "peak point"]]:
    """Shifts [deg] and weights of what `axial_openings` gives, for Bragg angles [deg]."""
    if len(openings) == 2:
        specimen, detector = openings
        return axial_points(two_theta, specimen, detector, accuracy.axial_points, accuracy.axial_inner_points)
    specimen, detector, tube, soller = openings
    return two_sided_points(two_theta, specimen, detector, tube, soller, accuracy.axial_heights)


def mean_shift(two_theta: Float[Array, " peak"], openings: tuple[Scalar, ...]) -> Float[Array, " peak"]:
    """Mean shift of the apparent angle; a smooth function of the angle, for small openings the exact mean. [deg]"""
    if len(openings) == 2:
        return mean_axial_shift(two_theta, *openings)
    specimen, detector, tube, soller = openings
    shift, weight = two_sided_points(jnp.clip(two_theta, 1.0, 179.0), specimen, detector, tube, soller, 4)
    return jnp.sum(shift * weight, axis=1)


def two_sided_points(
    two_theta: Float[Array, " peak"], specimen: Scalar, detector: Scalar, tube: Scalar, soller: Scalar, points: int
) -> tuple[Float[Array, "peak point"], Float[Array, "peak point"]]:
    """Shifts and weights with rays inclined on both sides of the specimen.

    Args:
      two_theta: Bragg angles. [deg]
      specimen, detector, tube: half heights over the radius.
      soller: full opening beyond which Soller slits before and behind the specimen let nothing through; their transmission
        is a triangle. [deg]
      points: Gauss-Legendre points of each height, even.

    Returns:
      Shifts of the apparent angle [deg] and weights that sum to 1, each [peak, point].
    """
    nodes, weights = np.polynomial.legendre.leggauss(points)
    heights = np.stack(np.meshgrid(nodes, nodes, nodes, indexing="ij")).reshape(3, -1)
    product = np.einsum("i,j,k->ijk", weights, weights, weights).ravel()
    # Rays turned over about the equator do the same: half of them stand for both.
    upper = heights[1] > 0
    at_tube, at_specimen, at_slit = (constant(row[upper], two_theta) for row in heights)
    before = specimen * at_specimen - tube * at_tube
    behind = detector * at_slit - specimen * at_specimen
    angle = DEGREE * two_theta[:, None]
    cosine = jnp.cos(angle)
    stretch = (1.0 + before * before) * (1.0 + behind * behind)
    # Differences of cosines, not of angles, as in `axial_points`.
    excess = before * before + behind * behind + jnp.square(before * behind)
    difference = cosine * excess / (1.0 + jnp.sqrt(stretch)) - before * behind
    apparent = jnp.arccos(jnp.clip(cosine + difference, -1.0 + 1e-7, 1.0 - 1e-7))
    shift = -2.0 * jnp.arcsin(jnp.clip(0.5 * difference / jnp.sin(0.5 * (apparent + angle)), -0.7, 0.7))
    through = lambda slope: jnp.maximum(1.0 - jnp.abs(slope) / jnp.tan(0.5 * DEGREE * soller), 0.0)  # noqa: E731
    lets = 1.0 if isinstance(soller, float) and np.isinf(soller) else through(before) * through(behind)
    weight = constant(product[upper], two_theta) * lets / (stretch * jnp.sin(apparent))
    return shift / DEGREE, weight / jnp.sum(weight, axis=1, keepdims=True)


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
