"""Widths against the formulas worked out by hand."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simxrd_jax.diffraction.widths import caglioti_fwhm_squared, mean_wavelength, peak_shape, voigt_fwhm
from simxrd_jax.numerics import FWHM_PER_SIGMA
from simxrd_jax.types import Instrument, Specimen

THETA = np.radians(np.array([10.0, 30.0, 60.0]))
SINE = np.sin(THETA)
FLOOR = 0.5e-6  # the Gaussian FWHM^2 that the smooth floor leaves at zero [deg^2]


def _instrument(**kwargs) -> Instrument:
    return Instrument(wavelength=np.array([1.540593, 1.544427]), line_weight=np.array([1.0, 0.5]), **kwargs)


def _shape(instrument=None, specimen=None, **kwargs) -> tuple[np.ndarray, np.ndarray]:
    """Squared Gaussian FWHM and Lorentzian FWHM. [deg^2, deg]"""
    shape = peak_shape(jnp.asarray(SINE), instrument or _instrument(), specimen or Specimen(), **kwargs)
    return np.asarray(FWHM_PER_SIGMA * shape.sigma) ** 2, np.asarray(2 * shape.hwhm_lorentz)


def test_scherrer(x64):
    # 20 A at 2theta = 20 deg: 0.94 * 1.541871/(20 cos 10 deg) rad = 4.216 deg; the published simulator gives 0.07.
    wavelength = (1.540593 + 0.5 * 1.544427) / 1.5
    _, lorentz = _shape(specimen=Specimen(grain_size=20.0))
    np.testing.assert_allclose(lorentz, np.degrees(0.94 * wavelength / (20 * np.cos(THETA))), rtol=1e-12)
    assert lorentz[0] == pytest.approx(4.216, abs=5e-4)
    assert float(mean_wavelength(_instrument())) == pytest.approx(wavelength, rel=1e-14)


def test_microstrain(x64):
    _, lorentz = _shape(specimen=Specimen(microstrain=1e-3))
    # 4 e tan(theta): 0.1 % at theta = 30 deg is 0.1323 deg.
    np.testing.assert_allclose(lorentz, np.degrees(4e-3 * np.tan(THETA)), rtol=1e-12)
    assert lorentz[1] == pytest.approx(0.13232, abs=1e-5)


def test_gauss_shares_add_in_squares_and_lorentz_shares_linearly(x64):
    specimen = Specimen(grain_size=500.0, size_gauss_fraction=0.3, microstrain=2e-3, microstrain_gauss_fraction=0.6)
    instrument = _instrument(lorentz_inverse_cos=0.01, lorentz_tan=0.02, caglioti_w=0.0036)
    size = np.degrees(0.94 * (1.540593 + 0.5 * 1.544427) / 1.5 / (500 * np.cos(THETA)))
    strain = np.degrees(8e-3 * np.tan(THETA))
    gauss2, lorentz = _shape(instrument, specimen)
    # The floor adds (1e-6)^2/(4 * 0.0036) = 7e-11 deg^2.
    np.testing.assert_allclose(gauss2, 0.0036 + (0.3 * size) ** 2 + (0.6 * strain) ** 2, rtol=1e-7)
    np.testing.assert_allclose(lorentz, 0.7 * size + 0.4 * strain + 0.01 / np.cos(THETA) + 0.02 * np.tan(THETA), rtol=1e-12)


def test_infinite_grains_and_no_strain_leave_the_instrument(x64):
    gauss2, lorentz = _shape()
    assert np.all(lorentz == 0)
    np.testing.assert_allclose(gauss2, FLOOR, rtol=1e-12)


def test_derivatives_at_the_edges(x64):
    def lorentz(size, strain):
        return peak_shape(jnp.asarray(SINE), _instrument(), Specimen(grain_size=size, microstrain=strain)).hwhm_lorentz

    for jacobian in (jax.jacfwd, jax.jacrev):
        by_size, by_strain = jacobian(lorentz, argnums=(0, 1))(jnp.asarray(jnp.inf), jnp.asarray(0.0))
        # 1/D is flat in D at infinity; 4 e tan(theta) is linear in e.
        assert np.all(np.asarray(by_size) == 0)
        np.testing.assert_allclose(by_strain, np.degrees(2 * np.tan(THETA)), rtol=1e-12)


def test_caglioti_and_its_floor(x64):
    instrument = _instrument(caglioti_u=0.02, caglioti_v=-0.01, caglioti_w=0.004)
    tangent = jnp.linspace(0.05, 3.0, 200)
    by_hand = 0.02 * np.asarray(tangent) ** 2 - 0.01 * np.asarray(tangent) + 0.004
    # The floor moves x by 1e-12/(4x).
    np.testing.assert_allclose(caglioti_fwhm_squared(tangent, instrument), by_hand + 1e-12 / (4 * by_hand), rtol=1e-12)
    negative = _instrument(caglioti_u=0.02, caglioti_v=-0.02, caglioti_w=0.004)
    assert np.min(0.02 * np.asarray(tangent) ** 2 - 0.02 * np.asarray(tangent) + 0.004) < 0
    held = np.asarray(caglioti_fwhm_squared(tangent, negative))
    assert np.all(held > 0)
    assert held.min() < 1e-6
    slope = jax.grad(lambda w: jnp.sum(caglioti_fwhm_squared(tangent, negative.replace(caglioti_w=w))))(0.004)
    numeric = (
        sum(
            sign * float(jnp.sum(caglioti_fwhm_squared(tangent, negative.replace(caglioti_w=0.004 + sign * 1e-8))))
            for sign in (1, -1)
        )
        / 2e-8
    )
    assert float(slope) == pytest.approx(numeric, rel=1e-4)


def test_natural_width(x64):
    # FWHM = 2 tan(theta) dl/l: Cu K-alpha1 has 0.00058 A, 0.0249 deg at theta = 30 deg.
    _, lorentz = _shape(line_fwhm=jnp.asarray(5.8e-4), line_wavelength=jnp.asarray(1.540593))
    np.testing.assert_allclose(lorentz, np.degrees(2 * np.tan(THETA) * 5.8e-4 / 1.540593), rtol=1e-12)
    assert lorentz[1] == pytest.approx(0.0249, abs=1e-4)


def test_float32_follows_inputs(x64):
    instrument = jax.tree.map(lambda v: jnp.asarray(v, jnp.float32), _instrument(caglioti_w=0.004))
    specimen = jax.tree.map(lambda v: jnp.asarray(v, jnp.float32), Specimen(grain_size=300.0, microstrain=1e-3))
    shape = peak_shape(jnp.asarray(SINE, jnp.float32), instrument, specimen)
    assert shape.sigma.dtype == shape.hwhm_lorentz.dtype == voigt_fwhm(shape).dtype == jnp.float32
