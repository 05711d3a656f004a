"""Lorentz-polarization by hand, absorption against integration over the specimen, slits against rays."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import quad

from simxrd_jax.diffraction.corrections import (
    cylinder_absorption,
    divergence,
    illumination,
    lorentz_polarization,
    surface_roughness,
    thin_plate_absorption,
    transmission_absorption,
)
from simxrd_jax.errors import InputError
from simxrd_jax.types import Instrument

ANGLE = np.array([10.0, 45.0, 90.0, 130.0])  # 2theta
SINE = np.sin(np.radians(ANGLE) / 2)


def _lp(**kwargs) -> np.ndarray:
    return np.asarray(
        lorentz_polarization(jnp.asarray(SINE), Instrument(wavelength=np.ones(1), line_weight=np.ones(1), **kwargs))
    )


def test_three_limits_by_hand(x64):
    t = np.radians(ANGLE)
    lorentz = 1 / (np.sin(t / 2) ** 2 * np.cos(t / 2))
    np.testing.assert_allclose(_lp(), (1 + np.cos(t) ** 2) / 2 * lorentz, rtol=1e-12)
    # Graphite (002) and Cu K-alpha: 2theta_mono = 26.6 deg.
    k = np.cos(np.radians(26.6)) ** 2
    np.testing.assert_allclose(_lp(monochromator_two_theta=26.6), (1 + k * np.cos(t) ** 2) / (1 + k) * lorentz, rtol=1e-12)
    # A synchrotron, fully polarized perpendicular to the plane of diffraction, has no polarization factor.
    np.testing.assert_allclose(_lp(polarization_fraction=1.0), lorentz, rtol=1e-12)
    np.testing.assert_allclose(_lp(polarization_fraction=0.95), (0.95 + 0.05 * np.cos(t) ** 2) * lorentz, rtol=1e-12)


def test_known_values(x64):
    # International Tables C (2004), table 6.2.1 form: at 2theta = 90 deg, (1 + 0)/2 / (sin^2 45 cos 45) = sqrt 2.
    assert _lp()[2] == pytest.approx(np.sqrt(2.0), rel=1e-12)


@pytest.mark.parametrize("mu_r", [0.1, 0.3, 0.6, 1.0])
@pytest.mark.parametrize("theta", [0.0, 20.0, 45.0, 70.0, 90.0])
def test_cylinder_against_numerical_transmission(x64, mu_r, theta):
    """A = mean over the disc of exp(-mu (path in + path out)), by Gauss-Legendre in r and the trapezoid rule in angle."""
    nodes, weights = np.polynomial.legendre.leggauss(60)
    r, w = 0.5 * (nodes + 1), 0.5 * weights
    phi = np.linspace(0, 2 * np.pi, 720, endpoint=False)
    x, y = r[:, None] * np.cos(phi), r[:, None] * np.sin(phi)
    path = 0.0
    for direction in (np.array([-1.0, 0.0]), np.array([np.cos(np.radians(2 * theta)), np.sin(np.radians(2 * theta))])):
        along = x * direction[0] + y * direction[1]
        path = path - along + np.sqrt(1 - (x * x + y * y) + along**2)
    exact = 2 * np.sum(w[:, None] * r[:, None] * np.exp(-mu_r * path)) / len(phi)
    ours = float(cylinder_absorption(jnp.asarray(np.sin(np.radians(theta))), mu_r))
    # Hewat (1979) fits the tables of International Tables II (1959) for mu R < 1; the quadrature is exact to 1e-6, so the
    # bound is the fit's own error.
    assert ours == pytest.approx(exact, rel=HEWAT_ERROR)


HEWAT_ERROR = 0.012


def test_no_absorption_is_one(x64):
    assert np.array_equal(cylinder_absorption(jnp.asarray(SINE), 0.0), np.ones(4))


@pytest.mark.parametrize("mu_t", [1e-3, 0.3, 5.0])
def test_plates_against_integration_over_the_depth(x64, mu_t):
    """Every layer at the depth x (in 1/mu) sends what its paths in and out leave of it."""
    for sine, reflected, through in zip(
        SINE, thin_plate_absorption(SINE, mu_t), transmission_absorption(SINE, mu_t), strict=True
    ):
        # Reflection: lit area 1/sin, paths 2x/sin; over the infinitely thick plate.
        layer = lambda x, s=sine: np.exp(-2 * x / s) * 2 / s  # noqa: E731
        assert float(reflected) == pytest.approx(quad(layer, 0, mu_t, epsabs=0)[0], rel=1e-9)
        # Transmission: every layer has the same path t/cos in all, and a lit area 1/cos; over the thickness.
        cosine = np.sqrt(1 - sine**2)
        assert float(through) == pytest.approx(np.exp(-mu_t / cosine) / cosine, rel=1e-12)
    # A thick plate reflects all; a thin one its volume in the beam.
    np.testing.assert_allclose(thin_plate_absorption(SINE, 50.0), 1.0, rtol=1e-12)
    np.testing.assert_allclose(thin_plate_absorption(SINE, 1e-7), 2e-7 / SINE, rtol=1e-5)


def test_roughness(x64):
    np.testing.assert_array_equal(surface_roughness(jnp.asarray(SINE), 0.0, 0.3), np.ones(4))
    np.testing.assert_allclose(surface_roughness(jnp.asarray([1.0]), 0.4, 0.3), [1.0], rtol=1e-14)
    # Suortti (1972) with p = 0.6, q = 0.1 at theta = 30 deg: (0.6 + 0.4 exp(-0.2))/(0.6 + 0.4 exp(-0.1)).
    value = float(surface_roughness(jnp.asarray([0.5]), 0.4, 0.1)[0])
    assert value == pytest.approx((0.6 + 0.4 * np.exp(-0.2)) / (0.6 + 0.4 * np.exp(-0.1)), rel=1e-12)
    rough = np.asarray(surface_roughness(jnp.asarray(SINE), 0.4, 0.3))
    assert np.all(np.diff(rough) > 0)


def _instrument(**kwargs) -> Instrument:
    return Instrument(wavelength=np.ones(1), line_weight=np.ones(1), **kwargs)


def test_overflow_against_rays(x64):
    """Rays in equal angles through a slit of 1 deg at 200 mm, and those that meet 20 mm of specimen, to first order in it."""
    slit, radius, length = np.radians(1.0), 200.0, 20.0
    overflow = np.degrees(2 * np.arcsin(radius * slit / length))
    theta = np.radians([3.0, 8.0, 10.1, 15.0, 40.0])
    ray = (np.arange(20_001) / 20_000 - 0.5) * slit
    met = [np.mean(np.abs(radius * ray / np.sin(t)) <= length / 2) for t in theta]
    ours = np.asarray(illumination(jnp.sin(theta), _instrument(overflow_two_theta=overflow)))
    np.testing.assert_allclose(ours, met, rtol=2e-4)
    assert ours[0] < 0.5
    assert ours[-1] == 1.0
    # Only rays that meet the specimen smear a line.
    alpha = divergence(jnp.sin(theta), _instrument(overflow_two_theta=overflow, equatorial_divergence=1.0))
    np.testing.assert_allclose(alpha, slit * ours, rtol=1e-12)
    assert illumination(jnp.sin(theta), _instrument()) == 1.0


def test_automatic_slits(x64):
    instrument = _instrument(illuminated_length=10.0, goniometer_radius=200.0)
    sine = jnp.asarray(SINE)
    # 10 mm at 200 mm and theta = 30 deg: 1.432 deg.
    alpha = divergence(jnp.asarray([0.5]), instrument)
    assert alpha is not None
    assert np.degrees(float(alpha[0])) == pytest.approx(1.4324, abs=1e-4)
    np.testing.assert_allclose(illumination(sine, instrument), SINE, rtol=1e-14)
    assert divergence(sine, _instrument()) is None
    for other in ({"equatorial_divergence": 1.0}, {"overflow_two_theta": 20.0}):
        with pytest.raises(InputError, match="state the one or the others"):
            divergence(sine, _instrument(illuminated_length=10.0, **other))
