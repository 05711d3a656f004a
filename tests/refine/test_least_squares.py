"""Levenberg-Marquardt on problems with known answers."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

from simxrd_jax.refine.least_squares import jacobian_of, minimise


def residuals_of(model):
    """Residuals and Jacobian of a model by forward mode."""
    return lambda x: jacobian_of(lambda x: (model(x), None), x, jnp.eye(x.shape[0], dtype=x.dtype))


def test_a_linear_problem_is_solved_exactly(x64):
    rng = np.random.default_rng(0)
    matrix, wanted = rng.normal(size=(30, 4)) * [1, 1e3, 1e-4, 1], rng.normal(size=30)
    found = minimise(residuals_of(lambda x: matrix @ x - wanted), jnp.zeros(4), max_iterations=30, max_shift=1e-9)
    np.testing.assert_allclose(found.x, np.linalg.lstsq(matrix, wanted)[0], rtol=1e-6)
    np.testing.assert_allclose(found.normal, matrix.T @ matrix, rtol=1e-12)
    assert bool(found.converged)
    assert int(found.iterations) <= 6


def rosenbrock(x):
    return jnp.stack([10.0 * (x[1] - x[0] ** 2), 1.0 - x[0]])


@pytest.mark.parametrize("start", [(-1.2, 1.0), (3.0, -2.0), (0.0, 0.0)])
def test_rosenbrock(x64, start):
    found = minimise(residuals_of(rosenbrock), jnp.array(start), max_iterations=200, max_shift=1e-9)
    np.testing.assert_allclose(found.x, [1.0, 1.0], atol=1e-6)
    assert bool(found.converged)


def decay(x, t):
    return x[0] * jnp.exp(-x[1] * t) + x[2]


def test_a_curve_fit_as_scipy_makes_it(x64):
    rng = np.random.default_rng(1)
    t = np.linspace(0, 5, 60)
    y = 3.0 * np.exp(-1.3 * t) + 0.5 + rng.normal(scale=0.02, size=60)
    model = lambda x: (decay(x, t) - y) / 0.02  # noqa: E731
    found = minimise(residuals_of(model), jnp.array([1.0, 0.2, 0.0]), max_iterations=60, max_shift=1e-8)
    known = scipy.optimize.least_squares(lambda x: np.asarray(model(jnp.asarray(x))), [1.0, 0.2, 0.0], xtol=1e-14)
    np.testing.assert_allclose(found.x, known.x, rtol=1e-6)
    assert float(found.cost) == pytest.approx(2 * known.cost, rel=1e-10)


def test_what_the_residuals_do_not_see_stays(x64):
    t = jnp.linspace(0, 5, 20)
    y = decay(jnp.array([2.0, 0.7, 0.1]), t)
    model = lambda x: decay(x, t) - y  # noqa: E731
    found = minimise(residuals_of(model), jnp.array([1.0, 0.2, 0.0, 7.0]), max_iterations=60, max_shift=1e-6)
    assert float(found.x[3]) == 7.0
    np.testing.assert_allclose(found.x[:3], [2.0, 0.7, 0.1], atol=1e-6)


def test_a_column_of_rounding_moves_nothing(x64):
    """A parameter at a stationary point of the residuals, its derivative rounding: a step along it would be enormous."""
    rng = np.random.default_rng(2)
    matrix, wanted, rounding = rng.normal(size=(30, 2)), rng.normal(size=30), 1e-14 * rng.normal(size=30)
    model = lambda x: matrix @ x[:2] - wanted + rounding * x[2] + 0.1 * x[2] ** 2  # noqa: E731
    found = minimise(residuals_of(model), jnp.zeros(3), max_iterations=30, max_shift=1e-9)
    assert bool(found.converged)
    assert float(found.x[2]) == 0.0
    np.testing.assert_allclose(found.x[:2], np.linalg.lstsq(matrix, wanted)[0], rtol=1e-6)


def test_a_combination_that_is_not_determined_does_not_run_away(x64):
    t = jnp.linspace(0, 1, 20)
    found = minimise(
        residuals_of(lambda x: (x[0] + x[1]) * t - 3.0 * t), jnp.array([1.0, 0.5]), max_iterations=40, max_shift=1e-9
    )
    assert float(found.x[0] + found.x[1]) == pytest.approx(3.0, abs=1e-6)
    assert np.all(np.abs(found.x) < 10)


def test_steps_to_where_the_model_is_not_finite_are_refused(x64):
    # The whole Gauss-Newton step from 3 leads to log of a negative number.
    found = minimise(residuals_of(lambda x: jnp.log(x) - jnp.log(0.1)), jnp.array([3.0]), max_iterations=60, max_shift=1e-9)
    assert float(found.x[0]) == pytest.approx(0.1, rel=1e-8)
    lost = minimise(residuals_of(jnp.log), jnp.array([-1.0]), max_iterations=60)
    assert float(lost.x[0]) == -1.0
    assert not bool(lost.converged)


def test_many_at_once_end_where_each_alone_does(x64):
    t = jnp.linspace(0, 5, 40)
    truths = np.array([[2.0, 0.7, 0.1], [5.0, 2.0, 1.0], [0.5, 0.1, -1.0]])

    def fit(truth):
        model = lambda x: decay(x, t) - decay(truth, t)  # noqa: E731
        return minimise(residuals_of(model), jnp.array([1.0, 0.5, 0.0]), max_iterations=100, max_shift=1e-8)

    together = jax.jit(jax.vmap(fit))(truths)
    np.testing.assert_allclose(together.x, truths, atol=1e-6)
    alone = [jax.jit(fit)(truth) for truth in truths]
    assert together.iterations.tolist() == [int(found.iterations) for found in alone]
