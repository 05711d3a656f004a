"""R factors, uncertainties and correlations against their definitions."""

from __future__ import annotations

import numpy as np
import pytest

from simxrd_jax.refine.statistics import (
    agreement,
    durbin_watson,
    high_correlations,
    serial_factor,
    uncertainty,
    weight_fractions,
)


def test_r_factors_by_hand():
    observed, calculated = np.array([10.0, 20.0, 5.0, 400.0]), np.array([11.0, 18.0, 5.0, 0.0])
    found = agreement(observed, calculated, np.full(4, 4.0), np.array([1.0, 0.25, 2.0, 0.0]), n_parameters=1)
    chi, total, net = 1.0 + 0.25 * 4, 100 + 100 + 50, 36 + 64 + 2
    assert found.rwp == pytest.approx(np.sqrt(chi / total))
    assert found.rp == pytest.approx(3 / 35)
    assert found.rwp_without_background == pytest.approx(np.sqrt(chi / net))
    assert found.rp_without_background == pytest.approx(3 / 23)
    assert found.rexp == pytest.approx(np.sqrt(2 / total))
    assert found.gof == pytest.approx(np.sqrt(chi / 2))
    assert found.chi_squared == pytest.approx(chi / 2)
    assert (found.n_points, found.n_parameters) == (3, 1)


def test_serial_correlation():
    rng = np.random.default_rng(0)
    free = rng.normal(size=200_000)
    assert durbin_watson(free) == pytest.approx(2.0, abs=0.02)
    assert serial_factor(free) == pytest.approx(1.0, abs=0.01)
    smooth = np.convolve(free, np.ones(20) / 20, mode="valid")
    assert durbin_watson(smooth) < 0.2
    assert serial_factor(smooth) > 2.0
    # One run of n equal residuals: sqrt(n) over the factor of independent ones.
    assert serial_factor(np.ones(100)) == pytest.approx(np.sqrt(100 / (1 + 4 / np.pi)))
    assert serial_factor(np.zeros(10)) == 1.0


def test_covariance_and_what_is_not_determined():
    rng = np.random.default_rng(1)
    jacobian = rng.normal(size=(50, 4)) * [1.0, 1e4, 1e-5, 1.0]
    jacobian[:, 3] = 0.0
    found = uncertainty(jacobian.T @ jacobian)
    np.testing.assert_allclose(found.covariance[:3, :3], np.linalg.inv(jacobian[:, :3].T @ jacobian[:, :3]), rtol=1e-9)
    assert found.undetermined.tolist() == [False, False, False, True]
    assert np.isnan(found.sigma[3])
    jacobian[:, 3] = 1e-13 * rng.normal(size=50)  # rounding beside columns of 1e4
    assert uncertainty(jacobian.T @ jacobian).undetermined.tolist() == [False, False, False, True]
    same = np.stack([jacobian[:, 0], jacobian[:, 0], jacobian[:, 1]], axis=1)
    assert uncertainty(same.T @ same).undetermined.tolist() == [True, True, False]


def test_strong_correlations_are_named():
    covariance = np.array([[4.0, 1.98, 0.1], [1.98, 1.0, 0.0], [0.1, 0.0, 9.0]])
    assert high_correlations(covariance, ["a", "b", "c"]) == [("a", "b", pytest.approx(0.99))]


def test_weight_fractions():
    scales, masses, volumes = np.array([2.0, 1.0]), np.array([100.0, 300.0]), np.array([50.0, 100.0])
    covariance = np.array([[0.01, 0.002], [0.002, 0.04]])
    share, sigma = weight_fractions(scales, covariance, masses, volumes)
    np.testing.assert_allclose(share, [4 / 7, 3 / 7])
    draws = np.random.default_rng(0).multivariate_normal(scales, covariance * 1e-4, 200_000) * masses / volumes
    spread = (draws / draws.sum(axis=1, keepdims=True)).std(axis=0) * 1e2
    np.testing.assert_allclose(sigma, spread, rtol=0.01)
