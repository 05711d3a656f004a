"""Axial divergence against an adaptive quadrature of the published formula, written in 2phi as the paper has it."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import quad

from simxrd_jax.compilation import quick_loops
from simxrd_jax.diffraction.axial_divergence import axial_points, mean_shift, two_sided_points
from simxrd_jax.diffraction.peak_sum import peak_sum as peak_sum_of
from simxrd_jax.diffraction.settings import Settings
from simxrd_jax.types import Grid, Instrument, PeakList, Specimen

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
_forward = jax.jit(jax.jacfwd(_two_moments, argnums=(0, 1, 2)), compiler_options=quick_loops())
_reverse = jax.jit(jax.jacrev(_two_moments, argnums=(0, 1, 2)), compiler_options=quick_loops())


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


def _traced(two_theta: float, specimen: float, detector: float, tube: float, soller: float | None, count: int = 2_000_000):
    """Mean and mean square of the shift [deg, deg^2] of rays drawn at random: vectors, their angle, and the slits."""
    rng = np.random.default_rng(3)
    z_tube, z_specimen, z_slit = (h * rng.uniform(-1, 1, count) for h in (tube, specimen, detector))
    a, b = z_specimen - z_tube, z_slit - z_specimen
    # The equatorial angle 2phi at which a ray that is scattered by 2theta arrives: k0.k = cos 2theta for k0 = (1, 0, a) and
    # k = (cos 2phi, sin 2phi, b), neither of length 1.
    cosine = np.cos(np.radians(two_theta)) * np.sqrt((1 + a**2) * (1 + b**2)) - a * b
    apparent = np.arccos(cosine)
    weight = 1.0 / ((1 + a**2) * (1 + b**2) * np.sin(apparent))
    if soller is not None:
        edge = np.tan(np.radians(soller / 2))
        weight = weight * np.clip(1 - np.abs(a) / edge, 0, None) * np.clip(1 - np.abs(b) / edge, 0, None)
    shift = np.degrees(apparent) - two_theta
    return np.average(shift, weights=weight), np.average(shift**2, weights=weight)


@pytest.mark.parametrize("two_theta", [15.0, 60.0, 90.0, 150.0])
@pytest.mark.parametrize("soller", [None, 4.0])
def test_two_sided_rays_against_rays_drawn_at_random(x64, two_theta, soller):
    openings = (0.03, 0.025, 0.02, np.inf if soller is None else soller)
    shift, weight = two_sided_points(jnp.array([two_theta]), *openings, 8)
    mean, square = _traced(two_theta, *openings[:3], soller)
    tolerance = 5e-3 if soller is None else 3e-2  # kinks of the slits' transmission lie within the product rule
    assert float(weight.sum()) == pytest.approx(1.0, rel=1e-12)
    assert float((weight * shift).sum()) == pytest.approx(mean, rel=tolerance, abs=2e-5)
    assert float((weight * shift**2).sum()) == pytest.approx(square, rel=2 * tolerance)


def test_two_sided_rays_of_small_openings(x64):
    """Cheary & Coelho's eq. 6 in the mean: -(<a^2> + <b^2>)/2 cot 2theta + <a b>/sin 2theta, <a b> = -S^2/3."""
    s, h, t = 2e-3, 1e-3, 1.5e-3
    shift, weight = two_sided_points(jnp.array([40.0]), s, h, t, np.inf, 6)
    squares = (2 * s**2 + h**2 + t**2) / 3
    angle = np.radians(40.0)
    expected = np.degrees(-0.5 * squares / np.tan(angle) - s**2 / 3 / np.sin(angle))
    assert float((weight * shift).sum()) == pytest.approx(expected, rel=1e-4)
    assert float(mean_shift(jnp.array([40.0]), (s, h, t, np.inf))[0]) == pytest.approx(expected, rel=1e-4)


OPENINGS = {"axial_source": 0.025, "axial_detector": 0.02, "axial_tube": 0.015, "soller": 6.0}


def _two_sided(peak_sum: str):
    """Openings -> pattern of peaks at 12, 30 and 130 deg."""
    grid = Grid.uniform(8.0, 140.0, 0.02)
    at = jnp.array([[12.0, 30.0, 130.0]])
    peaks = PeakList(two_theta=at, bragg_two_theta=at, intensity=jnp.ones((1, 3)))
    settings = Settings(peak_sum=peak_sum)

    def pattern(openings):
        instrument = Instrument(np.array([1.54]), np.array([1.0]), caglioti_w=0.01, lorentz_tan=0.02, **openings)
        return peak_sum_of(peaks, Specimen(), instrument, grid, settings)

    return jax.jit(pattern)


def test_two_sided_rays_in_both_sums(x64):
    openings = {name: jnp.asarray(value) for name, value in OPENINGS.items()}
    fast, exact = _two_sided("fft")(openings), _two_sided("dense")(openings)
    np.testing.assert_allclose(fast, exact, atol=1e-3 * float(exact.max()))


def test_gradients_of_two_sided_rays(x64):
    pattern = _two_sided("fft")
    openings = {name: jnp.asarray(value) for name, value in OPENINGS.items()}
    forward = jax.jacfwd(pattern)(openings)
    cotangent = jnp.asarray(np.random.default_rng(0).normal(size=forward["soller"].shape))
    reverse = jax.vjp(pattern, openings)[1](cotangent)[0]
    for name, value in OPENINGS.items():
        step = 1e-4 * value
        moved = [pattern({**openings, name: jnp.asarray(value + sign * step)}) for sign in (1, -1)]
        known = (moved[0] - moved[1]) / (2 * step)
        np.testing.assert_allclose(forward[name], known, atol=2e-3 * float(jnp.max(jnp.abs(known))))
        assert float(reverse[name]) == pytest.approx(float(cotangent @ forward[name]), rel=1e-9)
