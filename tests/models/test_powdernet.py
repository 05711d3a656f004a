"""PowderNet's axis of log d: averages against a plain sum, and what a larger cell does to it."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from simxrd_jax.models.classifier import FIRST, POINTS, STEP
from simxrd_jax.models.lattice import cell_of_numbers, enlarged, lattice_numbers
from simxrd_jax.models.powdernet import INTENSITY_SCALE, ROOT_SCALE, PowderNet, Shape, on_log_axis

TWO_THETA = FIRST + STEP * np.arange(POINTS)
SINES = np.sin(np.radians(TWO_THETA / 2))


def lines(*places: float, width: float = 0.01, background: float = 5.0) -> np.ndarray:
    """Lines at given log(sin theta), equally high and broad on that axis."""
    x = background + sum(80.0 * np.exp(-0.5 * ((np.log(SINES) - place) / width) ** 2) for place in places)
    return x[None].astype(np.float32)


def axis(x: np.ndarray, moved: float = 0.0, bins: int = 2048) -> np.ndarray:
    return np.asarray(on_log_axis(jnp.asarray(x), jnp.full(len(x), moved), bins))[0]


@pytest.mark.parametrize("bins", [200, 2048])
def test_bins_hold_the_mean_of_the_points_in_them(bins):
    """Against a quadrature of steps between the points, each the mean of its ends."""
    x = np.random.default_rng(0).uniform(0, 100, (1, POINTS)).astype(np.float32)
    edges = np.linspace(np.log(SINES[0]), np.log(SINES[-1]), bins + 1)
    places = (2 * np.degrees(np.arcsin(np.exp(edges))) - FIRST) / STEP
    steps = 0.5 * (x[0, 1:] + x[0, :-1])
    inner = [a + (b - a) * (np.arange(4000) + 0.5) / 4000 for a, b in itertools.pairwise(places)]
    expected = np.array([steps[np.clip(np.floor(each).astype(int), 0, POINTS - 2)].mean() for each in inner])
    found = axis(x, bins=bins)
    np.testing.assert_allclose(INTENSITY_SCALE * found[:, 0], expected, atol=0.2)
    np.testing.assert_allclose(ROOT_SCALE * found[:, 1] ** 2, expected, atol=0.2)
    assert np.all(found[:, 2] == 1.0)


def test_a_weak_line_beside_a_strong_one_is_kept_in_single_precision():
    x = lines(-1.2, background=30.0)
    weak = x + (0.05 * lines(-0.7, background=0.0)).astype(np.float32)
    difference = INTENSITY_SCALE * (axis(weak)[:, 0] - axis(x)[:, 0])
    assert difference.max() == pytest.approx(4.0, rel=1e-2)
    assert np.abs(difference[:1000]).max() < 1e-2


def test_a_larger_cell_is_a_shift():
    places, by = (-1.8, -1.3, -1.1, -0.9), 100
    distance = by * (np.log(SINES[-1]) - np.log(SINES[0])) / 2048
    near, far = axis(lines(*places)), axis(lines(*(p - distance for p in places)))
    # Points are sparse at small angles, where the first line has 5 of them in its standard deviation.
    np.testing.assert_allclose(far[:-by, 0], near[by:, 0], atol=0.01 * near[:, 0].max())
    # To move the pattern is to measure the other cell, where both are covered.
    moved = axis(lines(*places), moved=-distance)
    np.testing.assert_allclose(moved[:-by, 0], near[by:, 0], atol=2e-3)
    assert np.all(moved[-by:] == 0.0)
    assert np.all(moved[:-by, 2] == 1.0)
    beyond = axis(lines(*places), moved=distance)
    assert np.all(beyond[:by] == 0.0)


def test_the_lattice_is_that_of_the_pattern_before_it_was_moved():
    """A network that answers nothing of what it sees answers the shift alone."""
    model = PowderNet({"lattice": 6, "crystal_system": 7}, rngs=nnx.Rngs(params=0))
    for head in model.heads.values():
        head.kernel[...] = jnp.zeros_like(head.kernel[...])
    x = jnp.asarray(np.concatenate([lines(-1.0)] * 64))
    still = model(x)
    moved = model(x, dropout=jax.random.key(1))
    assert np.all(np.asarray(moved["crystal_system"]) == np.asarray(still["crystal_system"]))
    change = np.asarray(moved["lattice"] - still["lattice"])
    assert np.all(change[:, 3:] == 0.0)
    np.testing.assert_allclose(change[:, :3], np.repeat(change[:, :1], 3, axis=1), atol=1e-6)
    reach = cell_of_numbers(moved["lattice"])[:, 0] / cell_of_numbers(still["lattice"])[:, 0]
    stretch = Shape().stretch
    assert np.log(reach).max() == pytest.approx(stretch, abs=0.1 * stretch)
    assert np.log(reach).min() == pytest.approx(-stretch, abs=0.1 * stretch)
    # Lines moved to larger angles are those of a smaller cell: its true lengths are larger than what the network sees.
    lattice = jnp.eye(3)[None] * 5.0
    np.testing.assert_allclose(
        enlarged(lattice_numbers(lattice), jnp.array([0.2])), lattice_numbers(lattice * np.exp(0.2)), atol=1e-6
    )


def test_patterns_are_moved_in_training_alone():
    model = PowderNet(7, shape=Shape(rate=0.0), rngs=nnx.Rngs(params=0))
    x = jnp.asarray(lines(-1.0, -0.8))
    assert np.all(np.asarray(model(x)) == np.asarray(model(x)))
    one, other = (np.asarray(model(x, dropout=jax.random.key(k))) for k in (0, 1))
    assert np.any(one != other)
    fixed = PowderNet(7, shape=Shape(rate=0.0, stretch=0.0), rngs=nnx.Rngs(params=0))
    np.testing.assert_array_equal(fixed(x, dropout=jax.random.key(0)), fixed(x))
