"""Lorentz-polarization by hand, capillary absorption against integration over the cylinder."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from simxrd_jax.diffraction.corrections import cylinder_absorption, lorentz_polarization
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
