"""Bragg's law and the aberrations of position."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simxrd_jax.diffraction.geometry import flat_specimen, observed_two_theta, sin_theta
from simxrd_jax.types import Instrument, PeakList


def _instrument(**kwargs) -> Instrument:
    return Instrument(wavelength=np.array([1.540593]), line_weight=np.ones(1), **kwargs)


def test_bragg_by_hand(x64):
    # Si (111), a = 5.431195 A (SRM 640): d = 3.135702 A, 2theta = 28.441 deg with Cu K-alpha1 (certificate: 28.441).
    d = 5.431195 / np.sqrt(3)
    sine, reached = sin_theta(jnp.array([1 / (4 * d * d)]), 1.540593)
    assert bool(reached[0])
    assert float(observed_two_theta(sine, _instrument())[0]) == pytest.approx(28.441, abs=5e-4)
    assert float(sine[0]) == pytest.approx(1.540593 / (2 * d), rel=1e-14)


def test_zero_shift_moves_all_lines_alike(x64):
    sine = jnp.sin(jnp.radians(jnp.array([5.0, 30.0, 70.0])))
    np.testing.assert_allclose(
        observed_two_theta(sine, _instrument(zero_shift=0.03)) - jnp.array([10.0, 60.0, 140.0]), 0.03, atol=1e-12
    )


def test_displacement_against_the_ray_construction(x64):
    # The line from a surface s behind the axis meets the detector circle of radius R at -2 s cos(theta)/R to first order
    # in s/R; constructed here exactly, with source and detector on the circle.
    radius, s = 217.5, 0.2
    for theta in (10.0, 40.0, 70.0):
        sine = jnp.sin(jnp.radians(jnp.array([theta])))
        shift = float(observed_two_theta(sine, _instrument(displacement=s, goniometer_radius=radius))[0]) - 2 * theta
        assert shift == pytest.approx(_displaced(theta, s, radius), rel=5 * s / radius / np.sin(np.radians(theta)))
        assert shift < 0
    # NIST gives -0.0788 mm for SRM 660c: lines high.
    assert float(observed_two_theta(jnp.array([0.3]), _instrument(displacement=-0.0788))[0]) > 2 * np.degrees(np.arcsin(0.3))


def _displaced(theta: float, s: float, radius: float) -> float:
    """2theta read off the circle minus the true 2theta [deg] when the flat surface lies s below the axis."""
    t = np.radians(theta)
    # The surface normal is y and the incident ray comes from the source at angle theta above the surface's direction.
    source = radius * np.array([-np.cos(t), np.sin(t)])
    hit = np.array([0.0, -s])
    incoming = (hit - source) / np.linalg.norm(hit - source)
    glancing = np.arctan2(-incoming[1], incoming[0])
    outgoing = np.array([np.cos(2 * t - glancing), np.sin(2 * t - glancing)])
    b = hit @ outgoing
    detector = hit + (-b + np.sqrt(b * b - hit @ hit + radius**2)) * outgoing
    return np.degrees(np.arctan2(detector[1], detector[0]) + t) - 2 * theta


def test_transparency(x64):
    # -sin(2theta)/(2 mu R), written out: mu = 10 1/cm, R = 217.5 mm at 2theta = 90 deg.
    transparency = 1 / (2 * 1.0 * 217.5)
    shift = float(observed_two_theta(jnp.sin(jnp.radians(jnp.array([45.0]))), _instrument(transparency=transparency))[0]) - 90
    assert shift == pytest.approx(-np.degrees(transparency), rel=1e-12)


def test_beyond_the_limit_is_masked_with_finite_gradients(x64):
    s_squared = jnp.array([0.04, 0.4214, 0.9, 0.0])
    sine, reached = sin_theta(s_squared, 1.540593)
    assert np.array_equal(reached, [True, False, False, True])
    assert np.all(np.asarray(sine) < 1)

    def position(s2, wavelength):
        return observed_two_theta(sin_theta(s2, wavelength)[0], _instrument(displacement=0.1))

    for jacobian in (jax.jacfwd, jax.jacrev):
        by_s, by_wavelength = jacobian(position, argnums=(0, 1))(s_squared, jnp.asarray(1.540593))
        assert np.all(np.isfinite(by_s))
        assert np.all(np.isfinite(by_wavelength))
        # Held positions do not move; a reached one follows d(2theta)/d(lambda) = 2 s/cos(theta) plus the displacement's term.
        assert np.all(np.asarray(by_wavelength)[1:] == 0)
        numeric = (position(s_squared, 1.540593 + 1e-6) - position(s_squared, 1.540593 - 1e-6)) / 2e-6
        np.testing.assert_allclose(by_wavelength, numeric, rtol=1e-7)


def test_float32(x64):
    sine, _ = sin_theta(jnp.array([0.04], jnp.float32), jnp.float32(1.540593))
    single = observed_two_theta(sine, _instrument(displacement=0.1, zero_shift=0.01, transparency=1e-4))
    exact = observed_two_theta(
        sin_theta(jnp.array([0.04]), 1.540593)[0], _instrument(displacement=0.1, zero_shift=0.01, transparency=1e-4)
    )
    assert single.dtype == jnp.float32
    # Half a unit in the last place of 36 deg is 2e-6 deg; a few roundings.
    assert float(single[0]) == pytest.approx(float(exact[0]), abs=1e-5)


def test_flat_specimen_smears_to_lower_angle(x64):
    """Moments of -g^2 cot(theta) over a uniform beam: mean -a^2/12 cot, variance a^4/180 cot^2, in radians."""
    bragg = np.array([[21.0, 60.0, 90.0, 140.0]])
    peaks = PeakList(jnp.asarray(bragg + 0.01), jnp.asarray(bragg), jnp.asarray([[3.0, 2.0, 1.0, 5.0]]))
    assert flat_specimen(peaks, _instrument()) is peaks
    smeared = flat_specimen(peaks, _instrument(equatorial_divergence=1.2))
    intensity = np.asarray(smeared.intensity).reshape(3, 4)
    shift = np.radians(np.asarray(smeared.two_theta).reshape(3, 4) - (bragg + 0.01))
    np.testing.assert_allclose(intensity.sum(axis=0), [3.0, 2.0, 1.0, 5.0], rtol=1e-12)
    share, cotangent, a = intensity / intensity.sum(axis=0), 1 / np.tan(np.radians(bragg[0] / 2)), np.radians(1.2)
    mean = (share * shift).sum(axis=0)
    np.testing.assert_allclose(mean, -(a**2) / 12 * cotangent, rtol=1e-9)
    np.testing.assert_allclose((share * (shift - mean) ** 2).sum(axis=0), a**4 / 180 * cotangent**2, rtol=1e-8)


def test_automatic_slits_shift_as_sin_two_theta(x64):
    bragg = np.array([[20.0, 60.0, 90.0, 140.0]])
    peaks = PeakList(jnp.asarray(bragg), jnp.asarray(bragg), jnp.ones((1, 4)))
    smeared = flat_specimen(peaks, _instrument(illuminated_length=15.0, goniometer_radius=200.0))
    shift = jnp.sum((smeared.two_theta - jnp.tile(bragg, 3)) * smeared.intensity, axis=0).reshape(3, 4).sum(axis=0)
    # Klug & Alexander (1974), ch. 5, with alpha = l sin(theta)/R: -(alpha^2/12) cot(theta) = -(l^2/(24 R^2)) sin(2theta).
    np.testing.assert_allclose(shift, -np.degrees((15 / 200) ** 2 / 24 * np.sin(np.radians(bragg[0]))), rtol=1e-12)
