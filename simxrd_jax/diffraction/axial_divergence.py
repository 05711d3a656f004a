"""Device zone. Axial divergence after Finger, Cox & Jephcoat: each peak becomes a weighted set of shifted peaks.

FCJ's profile is an integral over the apparent angle 2phi with an inverse-square-root singularity at 2phi = 2theta. In the
axial coordinate h (tangent of the ray's axial angle) the same integral is smooth,

    D(2phi) d(2phi) ~ W(h) / [(1 + h^2) sin(2phi)] dh,   cos(2phi) = cos(2theta) sqrt(1 + h^2),

W being the trapezoid of overlap of specimen (half height S/L) and slit (H/L), with a kink at |H - S|. Gauss-Legendre on the
two sides of the kink therefore converges geometrically, and its points are what every peak sum consumes: the dense and
windowed sums as shifted peaks, the FFT sum as phases.

That is the half between specimen and detector, for rays that arrive without axial divergence of their own, as from a
synchrotron. With a focus of some length rays arrive at axial angles too. Let t and h be the tangents of the axial angles of a
ray before and after the specimen; then

    cos(2phi) = cos(2theta) sqrt((1 + t^2)(1 + h^2)) - t h,

and the places on focus, specimen and slit, all uniform, give each (t, h) the length of specimen that such rays can meet: a
piecewise linear function, which Gauss-Legendre takes piece by piece. Soller slits pass 1 - |t|/tan(delta). This is the ray
tracing of Cheary & Coelho, their numerical integration replaced.

References: Finger, Cox & Jephcoat (1994), J. Appl. Cryst. 27, 892; van Laar & Yelon (1984), J. Appl. Cryst. 17, 47; Cheary &
Coelho (1998), J. Appl. Cryst. 31, 851 and 862.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Float

from simxrd_jax.diffraction.settings import Accuracy
from simxrd_jax.numerics import DEGREE, constant
from simxrd_jax.types import Array, Instrument, Scalar

# h stays this far below |tan(2theta)|, where the diffraction cone meets the equator's forward direction.
_REACH = 1.0 - 1e-4


# A focus, specimen or slit shorter than this, over the radius, counts as so long: 0.02 mm of 200.
_LEAST_LENGTH = 1e-4
# Of the points of the detector's side alone, one in so many stands on each of the 2 by 4 pieces of rays on both sides: 512
# rays at refinement accuracy. Under Soller slits of 2.5 deg a line of 0.05 deg then errs by 2 % of its height at 8 deg and by
# 6e-4 at 20.
RAY_SHARE = 3
# Largest angle about the incident ray at which diffracted rays are looked for, short of where its tangent ends. [rad]
_WIDEST = 1.2


@struct.dataclass
class AxialOpenings:
    """What lets rays through in the axial direction.

    Attributes:
      source, detector: S/L and H/L, half heights of lit specimen and detector slit over the radius.
      focus: half length of the tube's focus over the radius, or None where rays arrive without axial divergence.
      soller_primary, soller_secondary: greatest axial angle before and after the specimen, or None. [deg]
    """

    source: Scalar
    detector: Scalar
    focus: Scalar | None = None
    soller_primary: Scalar | None = None
    soller_secondary: Scalar | None = None


def axial_openings(instrument: Instrument) -> AxialOpenings | None:
    """The openings, or None: specimen or slit alone switches nothing on, and Soller slits act where a focus is stated."""
    if instrument.axial_source is None or instrument.axial_detector is None:
        return None
    if instrument.axial_focus is None:
        return AxialOpenings(instrument.axial_source, instrument.axial_detector)
    return AxialOpenings(
        instrument.axial_source,
        instrument.axial_detector,
        instrument.axial_focus,
        instrument.soller_primary,
        instrument.soller_secondary,
    )


def axial_quadrature(
    two_theta: Float[Array, " peak"], openings: AxialOpenings, accuracy: Accuracy
) -> tuple[Float[Array, "peak point"], Float[Array, "peak point"]]:
    """Shifts [deg] and weights, as `axial_points` or with rays on both sides as `axial_rays`."""
    if openings.focus is None:
        return axial_points(two_theta, openings.source, openings.detector, accuracy.axial_points, accuracy.axial_inner_points)
    return axial_rays(two_theta, openings, max(accuracy.axial_points // RAY_SHARE, 2))


def axial_shift(two_theta: Float[Array, "*peak"], openings: AxialOpenings) -> Float[Array, "*peak"]:
    """Mean shift of the apparent angle for small openings. [deg]

    -(<t^2> + <h^2>)/2 cot(2theta) + <t h>/sin(2theta) in radians; of a detector's side alone see `mean_axial_shift`.
    """
    if openings.focus is None:
        return mean_axial_shift(two_theta, openings.source, openings.detector)
    t, h, weight = _rays(jnp.full(1, 90.0, dtype=two_theta.dtype), openings, _MOMENT_POINTS)
    total = jnp.sum(weight)
    mean = lambda v: jnp.sum(weight * v) / jnp.where(total > 0, total, 1.0)  # noqa: E731
    angle = DEGREE * jnp.clip(two_theta, 1.0, 179.0)
    return (-0.5 * mean(t * t + h * h) / jnp.tan(angle) + mean(t * h) / jnp.sin(angle)) / DEGREE


def axial_reach(two_theta: Float[Array, " peak"], openings: AxialOpenings) -> Float[Array, " peak"]:
    """How far rays are shifted at most, to first order. [deg]"""
    angle = DEGREE * jnp.clip(two_theta, 1.0, 179.0)
    after = openings.source + openings.detector
    if openings.focus is None:
        return jnp.rad2deg(0.5 * after**2 / jnp.tan(angle))
    before = openings.source + openings.focus
    if openings.soller_primary is not None:
        before = jnp.minimum(before, jnp.tan(DEGREE * openings.soller_primary))
    if openings.soller_secondary is not None:
        after = jnp.minimum(after, jnp.tan(DEGREE * openings.soller_secondary))
    return jnp.rad2deg(0.5 * (before**2 + after**2) / jnp.tan(angle) + before * after / jnp.sin(angle))


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


# Points a piece of the rule that gives <t^2>, <h^2> and <t h>; they need not be exact, but the same everywhere.
_MOMENT_POINTS = 4


def axial_rays(
    two_theta: Float[Array, " peak"], openings: AxialOpenings, points: int
) -> tuple[Float[Array, "peak point"], Float[Array, "peak point"]]:
    """Shifts and weights of a quadrature over the rays of a source of some length.

    A ray that arrives at the axial angle beta meets the cone of diffracted rays uniformly in azimuth, of which the axial angle
    gamma takes d(gamma)/(cos(beta) sin(2phi)).

    Args:
      two_theta: Bragg angles. [deg]
      openings: with a focus.
      points: Gauss-Legendre points a piece; there are 2 pieces in t by 4 in h.

    Returns:
      As `axial_points`.

    Reference: Cheary & Coelho (1998), J. Appl. Cryst. 31, 851.
    """
    t, h, weight = _rays(two_theta, openings, points)
    angle = DEGREE * two_theta[:, None]
    cosine = jnp.cos(angle)
    product = (1.0 + t * t) * (1.0 + h * h)
    root = jnp.sqrt(product)
    # As in `axial_points`, from differences: root - 1 = (product - 1)/(root + 1).
    difference = cosine * (t * t + h * h + t * t * h * h) / (1.0 + root) - t * h
    apparent = jnp.arccos(jnp.clip(cosine + difference, -1.0 + 1e-7, 1.0 - 1e-7))
    shift = -2.0 * jnp.arcsin(jnp.clip(0.5 * difference / jnp.sin(0.5 * (apparent + angle)), -0.7, 0.7))
    weight = weight / jnp.sin(apparent)
    total = jnp.sum(weight, axis=1, keepdims=True)
    closed = total <= 0
    weight = jnp.where(closed, 1.0 / weight.shape[1], weight / jnp.where(closed, 1.0, total))
    return shift / DEGREE, weight


def _rays(
    two_theta: Float[Array, " peak"], openings: AxialOpenings, points: int
) -> tuple[Float[Array, "peak point"], Float[Array, "peak point"], Float[Array, "peak point"]]:
    """Tangents t and h before and after the specimen, and weights but for 1/sin(2phi); rays of t < 0 mirror those of t > 0."""
    nodes, weights = (constant(v, two_theta) for v in np.polynomial.legendre.leggauss(points))
    # Lengths of 0 would leave no rays at all, though a point has them.
    specimen, slit = (jnp.maximum(v, _LEAST_LENGTH) for v in (openings.source, openings.detector))
    focus = jnp.maximum(0.0 if openings.focus is None else openings.focus, _LEAST_LENGTH)
    passes = [None if s is None else jnp.tan(DEGREE * s) for s in (openings.soller_primary, openings.soller_secondary)]
    # Before the specimen: kink where one end of the focus stops seeing all of the specimen.
    widest = specimen + focus if passes[0] is None else jnp.minimum(specimen + focus, passes[0])
    kink = jnp.minimum(jnp.abs(specimen - focus), widest)
    t, t_weight = _pieces(jnp.stack([jnp.zeros_like(kink), kink, jnp.asarray(widest, kink.dtype)]), nodes, weights)
    if passes[0] is not None:
        t_weight = t_weight * jnp.maximum(1.0 - t / passes[0], 0.0)
    # The part of the specimen that a ray of this t can meet.
    low, high = jnp.maximum(-specimen, t - focus), jnp.minimum(specimen, t + focus)
    high = jnp.maximum(high, low)
    # After it: kinks where an end of that part stops seeing all of the slit, and Soller slits' at 0.
    ends = jnp.sort(jnp.stack([-slit - high, -slit - low, slit - high, slit - low, jnp.zeros_like(t)], axis=-1), axis=-1)
    if passes[1] is not None:
        ends = jnp.clip(ends, -passes[1], passes[1])
    # Diffracted rays lie within 2theta of the incident one, or within 180 deg - 2theta of its mirror image.
    angle = DEGREE * two_theta[:, None, None]
    is_forward = angle < 0.5 * np.pi
    reach = jnp.minimum(_REACH * jnp.where(is_forward, angle, np.pi - angle), _WIDEST)
    middle = jnp.where(is_forward, 1.0, -1.0) * jnp.arctan(t)[None, :, None]
    ends = jnp.clip(ends[None], jnp.tan(middle - reach), jnp.tan(middle + reach))
    h, h_weight = _pieces(ends, nodes, weights)
    overlap = jnp.minimum(high[:, None], slit - h) - jnp.maximum(low[:, None], -slit - h)
    weight = t_weight[:, None] * h_weight * jnp.maximum(overlap, 0.0)
    if passes[1] is not None:
        weight = weight * jnp.maximum(1.0 - jnp.abs(h) / passes[1], 0.0)
    t = jnp.broadcast_to(t[:, None], h.shape)
    weight = weight * jnp.sqrt(1.0 + t * t) / (1.0 + h * h)
    flat = (two_theta.shape[0], -1)
    return t.reshape(flat), h.reshape(flat), weight.reshape(flat)


def _pieces(
    ends: Float[Array, "*any end"], nodes: Float[Array, " node"], weights: Float[Array, " node"]
) -> tuple[Float[Array, "*any point"], Float[Array, "*any point"]]:
    """Nodes and weights of a rule on each piece between neighbouring ends."""
    half = 0.5 * (ends[..., 1:] - ends[..., :-1])
    middle = 0.5 * (ends[..., 1:] + ends[..., :-1])
    places = middle[..., None] + half[..., None] * nodes
    shape = (*ends.shape[:-1], -1)
    return places.reshape(shape), (half[..., None] * weights).reshape(shape)
