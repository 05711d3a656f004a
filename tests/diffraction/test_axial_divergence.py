"""Axial divergence against an adaptive quadrature of the published formula, written in 2phi as the paper has it."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import qmc

from simxrd_jax.diffraction.axial_divergence import AxialOpenings, axial_points, axial_rays, axial_shift

POINTS = 24


def _moments_in_two_phi(two_theta: float, s: float, h_detector: float) -> tuple[float, float]:
    """First and second moment of 2phi - 2theta [deg, deg^2] of FCJ (1994), eqs. 9 to 14.

    D ~ W(2phi)/(h(2phi) cos 2phi), h = sqrt(cos^2 2phi/cos^2 2theta - 1), W = H + S - h or 2 min(H, S), from 2phi_min, where
    h = H + S, to 2theta. The singularity at 2phi = 2theta is removed by 2phi = 2theta -+ u^2.
    """
    t = np.radians(two_theta)
    limit = lambda opening: np.arccos(np.cos(t) * np.sqrt(1 + opening**2))  # noqa: E731
    sign = 1.0 if two_theta > 90 else -1.0
    ends = [np.sqrt(abs(limit(o) - t)) for o in sorted({abs(s - h_detector), s + h_detector})]

    def integrand(u: float, power: int) -> float:
        shift = sign * u * u
        # cos^2(2phi) - cos^2(2theta) without cancellation.
        excess = -np.sin(shift) * np.sin(2 * t + shift)
        h = np.sqrt(max(excess, 1e-300)) / abs(np.cos(t))
        w = min(h_detector + s - h, 2 * min(s, h_detector)) if min(s, h_detector) > 0 else 1.0
        return w / (h * abs(np.cos(t + shift))) * 2 * u * np.degrees(shift) ** power

    def total(power: int) -> float:
        pieces = zip([0.0, *ends[:-1]], ends, strict=True)
        return sum(quad(integrand, a, b, args=(power,), epsabs=0, epsrel=1e-11, limit=400)[0] for a, b in pieces if b > a)

    zeroth = total(0)
    return total(1) / zeroth, total(2) / zeroth


@pytest.mark.parametrize("two_theta", [5.0, 10.0, 30.0, 88.0, 92.0, 120.0, 150.0])
@pytest.mark.parametrize(("s", "h"), [(0.02, 0.01), (0.005, 0.01), (0.03, 0.03), (0.0, 0.02), (0.02, 0.0)])
def test_moments_against_adaptive_quadrature(x64, two_theta, s, h):
    mean, square = _moments_in_two_phi(two_theta, s, h)
    shift, weight = axial_points(jnp.array([two_theta]), s, h, POINTS)
    assert float(weight.sum()) == pytest.approx(1.0, rel=1e-13)
    # The adaptive quadrature is asked for 1e-11; h from a difference of cosines near 90 deg loses five digits of it.
    assert float((weight * shift).sum()) == pytest.approx(mean, rel=1e-8)
    assert float((weight * shift**2).sum()) == pytest.approx(square, rel=1e-8)


def test_training_accuracy_of_eight_points(x64):
    shift, weight = axial_points(jnp.array([10.0]), 0.02, 0.015, 8)
    assert float((weight * shift).sum()) == pytest.approx(_moments_in_two_phi(10.0, 0.02, 0.015)[0], rel=1e-8)


def test_known_centroid():
    # Published comparison: -0.0022 deg at 28.4 deg for L = 500, H = 5, S = 2.5 mm; two significant digits.
    shift, weight = axial_points(jnp.array([28.4]), 2.5 / 500, 5.0 / 500, POINTS)
    assert float((weight * shift).sum()) == pytest.approx(-0.0022, abs=5e-5)


def test_small_angle_expansion(x64):
    # 2phi - 2theta = -h^2/(2 tan 2theta) to first order, and <h^2> of two uniform half heights is (S^2 + H^2)/3.
    s, h = 1e-3, 2e-3
    shift, weight = axial_points(jnp.array([40.0]), s, h, POINTS)
    expected = -np.degrees((s**2 + h**2) / 6) / np.tan(np.radians(40.0))
    assert float((weight * shift).sum()) == pytest.approx(expected, rel=2 * (s + h) ** 2 / np.tan(np.radians(40.0)) ** 2)


def test_zero_at_90_and_mirrored_above(x64):
    angle = jnp.array([90.0, 60.0, 120.0, 20.0, 160.0])
    shift, weight = axial_points(angle, 0.02, 0.015, POINTS)
    assert np.max(np.abs(shift[0])) < 1e-12
    # Identity: cos(2phi) = cos(2theta) sqrt(1 + h^2) is odd about 90 deg.
    np.testing.assert_allclose(shift[2], -shift[1], rtol=1e-9)
    np.testing.assert_allclose(shift[4], -shift[3], rtol=1e-9)
    np.testing.assert_allclose(weight[2], weight[1], rtol=1e-9)
    assert np.all(np.asarray(shift[1]) <= 0)
    assert np.all(np.asarray(shift[2]) >= 0)


def test_source_and_detector_may_be_exchanged(x64):
    one, other = (axial_points(jnp.array([25.0]), *pair, POINTS) for pair in ((0.01, 0.03), (0.03, 0.01)))
    for a, b in zip(one, other, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)


def test_no_opening_is_one_peak():
    shift, weight = axial_points(jnp.array([5.0, 90.0, 170.0]), 0.0, 0.0, 8)
    assert np.all(np.asarray(shift) == 0)
    np.testing.assert_allclose(np.asarray(weight).sum(axis=1), 1.0, rtol=1e-6)


def _two_moments(s, h, angle):
    shift, weight = axial_points(angle[None], s, h, POINTS)
    return jnp.stack([(weight * shift).sum(), (weight * jnp.cos(40.0 * shift)).sum()])


_moments = jax.jit(_two_moments)
_forward = jax.jit(jax.jacfwd(_two_moments, argnums=(0, 1, 2)))
_reverse = jax.jit(jax.jacrev(_two_moments, argnums=(0, 1, 2)))


@pytest.mark.parametrize("edge", [(0.02, 0.02), (0.0, 0.02), (0.02, 0.0), (0.0, 0.0), (0.02, 0.01)])
@pytest.mark.parametrize("two_theta", [8.0, 90.0, 140.0])
def test_gradients_at_the_edges(x64, edge, two_theta):
    point = [jnp.asarray(v) for v in (*edge, two_theta)]
    fwd, rev = np.array(_forward(*point)), np.array(_reverse(*point))
    np.testing.assert_allclose(fwd, rev, rtol=1e-9, atol=1e-12)
    for i, step in enumerate((1e-5, 1e-5, 1e-4)):
        up, down = list(point), list(point)
        up[i], down[i] = point[i] + step, point[i] - step
        if float(down[i]) < 0:
            # A half height is never negative and the profile is even in it: one-sided difference of second order.
            up2 = list(point)
            up2[i] = point[i] + 2 * step
            numeric = (-3 * _moments(*point) + 4 * _moments(*up) - _moments(*up2)) / (2 * step)
        else:
            numeric = (_moments(*up) - _moments(*down)) / (2 * step)
        # Central differences at a step of 1e-5 of quantities of order 0.1, whose third derivative is of order 1e3.
        np.testing.assert_allclose(rev[i], numeric, rtol=1e-4, atol=2e-5)


def test_float32(x64):
    angle = np.array([5.0, 20.0, 89.0, 91.0, 150.0])
    single = axial_points(jnp.asarray(angle, jnp.float32), jnp.float32(0.02), jnp.float32(0.015), POINTS)
    double = axial_points(jnp.asarray(angle), 0.02, 0.015, POINTS)
    assert all(v.dtype == jnp.float32 for v in single)
    mean32, mean64 = (np.asarray((w * s).sum(axis=1)) for s, w in (single, double))
    # Angles themselves are rounded to 6e-8 of 150 deg; near 90 deg cos(2theta) keeps 4e-8 of 1, so shifts keep 1e-5 deg.
    np.testing.assert_allclose(mean32, mean64, rtol=1e-5, atol=1e-8)


def test_jit_and_vmap(x64):
    angle = jnp.linspace(5.0, 150.0, 7)
    plain = axial_points(angle, 0.02, 0.015, 8)
    for f in (jax.jit(axial_points, static_argnums=3),):
        for a, b in zip(plain, f(angle, 0.02, 0.015, 8), strict=True):
            np.testing.assert_allclose(b, a, rtol=1e-9)
    one = jax.vmap(lambda t: axial_points(t[None], 0.02, 0.015, 8))(angle)
    np.testing.assert_allclose(one[0][:, 0], plain[0], rtol=1e-9)


def _traced(two_theta: float, openings: AxialOpenings) -> tuple[np.ndarray, np.ndarray]:
    """Shifts [deg] and weights of rays followed in three dimensions: from points of the focus to points of the specimen, round
    the cone of 2theta about each ray, to a detector on a cylinder; quasi-random points."""
    u = qmc.Sobol(3, seed=1).random(2**18)
    z_focus, z = openings.focus * (2 * u[:, 0] - 1), openings.source * (2 * u[:, 1] - 1)
    t = z - z_focus
    weight = np.ones(len(u))
    if openings.soller_primary is not None:
        weight *= np.maximum(1 - np.abs(t) / np.tan(np.radians(openings.soller_primary)), 0)
    incident = np.stack([np.ones_like(t), np.zeros_like(t), t], axis=1) / np.sqrt(1 + t * t)[:, None]
    across = np.array([0.0, 1.0, 0.0])
    angle = np.radians(two_theta)
    # Azimuths that may reach the detector, whose rays rise by cos(2theta) t + sin(2theta) sin(psi).
    steepest = openings.source + openings.focus
    if openings.soller_primary is not None:
        steepest = min(steepest, np.tan(np.radians(openings.soller_primary)))
    widest = np.arcsin(min(1.0, 1.02 * (openings.source + openings.detector + steepest) / np.sin(angle)))
    psi = (widest * (2 * u[:, 2] - 1))[:, None]
    ray = np.cos(angle) * incident + np.sin(angle) * (np.cos(psi) * across + np.sin(psi) * np.cross(incident, across))
    h = ray[:, 2] / np.hypot(ray[:, 0], ray[:, 1])
    weight = weight * (np.abs(z + h) <= openings.detector)
    if openings.soller_secondary is not None:
        weight *= np.maximum(1 - np.abs(h) / np.tan(np.radians(openings.soller_secondary)), 0)
    return np.degrees(np.arctan2(ray[:, 1], ray[:, 0])) - two_theta, weight / weight.sum()


LAB = AxialOpenings(0.03, 0.02, 0.025, 2.5, 2.5)


@pytest.mark.parametrize("two_theta", [15.0, 60.0, 90.0, 150.0])
@pytest.mark.parametrize(
    "openings",
    [LAB, AxialOpenings(0.04, 0.01, 0.03, 1.2), AxialOpenings(0.02, 0.02, 0.0), AxialOpenings(0.02, 0.03, 0.02)],
)
def test_both_sides_against_ray_tracing(x64, openings, two_theta):
    shift, weight = (np.asarray(v[0]) for v in axial_rays(jnp.array([two_theta]), openings, 8))
    assert weight.sum() == pytest.approx(1.0, rel=1e-12)
    traced, rays = _traced(two_theta, openings)
    spread = np.sqrt(rays @ traced**2)
    # 2^18 quasi-random rays against a slit's sharp edge, of which a Soller slit leaves a third: 4e-3 of the spread.
    assert weight @ shift == pytest.approx(rays @ traced, abs=4e-3 * spread)
    assert weight @ shift**2 == pytest.approx(rays @ traced**2, rel=8e-3)
    # The shape, folded with a line of FWHM 0.05 deg.
    x = np.linspace(-1.0, 0.6, 400)
    heights, edges = np.histogram(traced, bins=4000, range=(-3.0, 3.0), weights=rays)
    middle = 0.5 * (edges[1:] + edges[:-1])
    line = lambda place, height: np.exp(-0.5 * ((x[:, None] - place) / 0.0212) ** 2) @ height  # noqa: E731
    expected = line(middle, heights)
    # At low angle the rule's own points stand apart: see RAY_SHARE.
    assert np.max(np.abs(line(shift, weight) - expected)) < (0.02 if two_theta < 20 else 3e-3) * expected.max()
    # To second order in the openings.
    assert float(axial_shift(jnp.array([two_theta]), openings)[0]) == pytest.approx(rays @ traced, abs=0.02 * spread + 3e-5)


def test_rays_that_arrive_level_are_the_detectors_side_alone(x64):
    """Soller slits that let no axial divergence through before the specimen leave Finger, Cox and Jephcoat's profile."""
    for two_theta in (10.0, 50.0, 130.0):
        shift, weight = axial_rays(jnp.array([two_theta]), AxialOpenings(0.02, 0.015, 0.02, 1e-3), 12)
        known = _moments_in_two_phi(two_theta, 0.02, 0.015)
        # tan(0.001 deg)/0.035 is 5e-4 of the openings.
        assert float((weight * shift).sum()) == pytest.approx(known[0], rel=2e-3)
        assert float((weight * shift**2).sum()) == pytest.approx(known[1], rel=4e-3)


@jax.jit
def _moments_of_both_sides(values):
    shift, weight = axial_rays(values[5:], AxialOpenings(*values[:5]), 4)
    return jnp.stack([jnp.sum(weight * shift), jnp.sum(weight * jnp.cos(20.0 * shift))])


_slopes_of_both_sides = jax.jit(lambda v: (jax.jacfwd(_moments_of_both_sides)(v), jax.jacrev(_moments_of_both_sides)(v)))


@pytest.mark.parametrize("two_theta", [12.0, 90.0, 140.0])
def test_gradients_of_both_sides(x64, two_theta):
    values = jnp.array([0.03, 0.02, 0.025, 2.5, 2.2, two_theta])
    slope, reverse = (np.asarray(v) for v in _slopes_of_both_sides(values))
    np.testing.assert_allclose(slope, reverse, rtol=1e-8, atol=1e-12)
    for i, step in enumerate((1e-6, 1e-6, 1e-6, 1e-4, 1e-4, 1e-3)):
        ends = [_moments_of_both_sides(values.at[i].add(sign * step)) for sign in (1, -1)]
        np.testing.assert_allclose(slope[:, i], (ends[0] - ends[1]) / (2 * step), rtol=1e-4, atol=1e-7 / max(step, 1e-3))


def test_edges_of_both_sides_are_finite(x64):
    def mean(v, angle):
        shift, weight = axial_rays(angle[None], AxialOpenings(*v), 4)
        return jnp.sum(shift * weight)

    both = jax.jit(jax.value_and_grad(mean, argnums=(0, 1)))
    for v in ([0.02, 0.02, 0.02, 2.0, 2.0], [0.0, 0.0, 0.0, 1.0, 1.0], [0.02, 0.0, 0.01, 2.0, 2.0], [0.1, 0.1, 0.1, 9.0, 9.0]):
        for angle in (0.5, 3.0, 90.0, 177.0):
            value, slopes = both(jnp.array(v), jnp.asarray(angle))
            assert np.isfinite(float(value))
            assert all(np.all(np.isfinite(s)) for s in jax.tree.leaves(slopes))
