"""Losses: values against optax and by hand, limits, derivatives against differences, extreme logits, absent classes."""

from __future__ import annotations

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from simxrd_jax.errors import InputError
from simxrd_jax.train.losses import LOSSES, Loss, class_balanced_weights, logit_offsets, make_loss

COUNTS = np.array([500, 40, 7, 1, 0])
IDENTITY = 1e-12  # float64 rounding


@pytest.fixture(autouse=True)
def x64() -> Iterator[None]:
    with jax.enable_x64(True):
        yield


@pytest.fixture
def samples() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(5)
    return rng.normal(0, 2, (20, 5)), rng.integers(0, 5, 20)


def probabilities(logits: np.ndarray) -> np.ndarray:
    e = np.exp(logits - logits.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def test_cross_entropy_is_optax(samples):
    found = make_loss(Loss(), COUNTS)(*samples)
    np.testing.assert_allclose(found, optax.softmax_cross_entropy_with_integer_labels(*samples), rtol=IDENTITY)
    np.testing.assert_allclose(found, -np.log(probabilities(samples[0])[np.arange(20), samples[1]]), rtol=IDENTITY)


@pytest.mark.parametrize("e", [0.1, 0.5])
def test_smoothing_spreads_over_all_classes(samples, e):
    logits, labels = samples
    target = optax.smooth_labels(jax.nn.one_hot(labels, 5), e)
    found = make_loss(Loss(label_smoothing=e), COUNTS)(logits, labels)
    np.testing.assert_allclose(found, optax.softmax_cross_entropy(jnp.asarray(logits), target), rtol=IDENTITY)
    # The sister benchmark's convention, over the K - 1 wrong ones, is the same with e (K - 1)/K.
    others = e * 4 / 5
    by_hand = np.where(np.eye(5)[labels] == 1, 1 - others, others / 4)
    np.testing.assert_allclose(found, -(by_hand * np.log(probabilities(logits))).sum(axis=1), rtol=IDENTITY)


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0, 5.0])
def test_focal_by_hand(samples, gamma):
    p = probabilities(samples[0])[np.arange(20), samples[1]]
    found = make_loss(Loss("focal", focal_gamma=gamma), COUNTS)(*samples)
    np.testing.assert_allclose(found, -((1 - p) ** gamma) * np.log(p), rtol=1e-11)  # 1 - p cancels in the reference


def test_two_class_focal_is_that_of_optax():
    logits = np.linspace(-4, 4, 9)
    two = np.stack([np.zeros(9), logits], axis=1)
    for label in (0, 1):
        found = make_loss(Loss("focal"), np.array([1, 1]))(two, np.full(9, label))
        expected = optax.sigmoid_focal_loss(logits, np.full(9, float(label)), gamma=2.0)
        np.testing.assert_allclose(found, expected, rtol=1e-10)


def test_class_balanced_weights_by_hand():
    weights = class_balanced_weights(np.array([1, 2, 3]), 0.5)
    inverse = 1 / np.array([1.0, 1.5, 1.75])  # 1, 1 + 1/2, 1 + 1/2 + 1/4
    np.testing.assert_allclose(weights, inverse * 6 / (inverse @ [1, 2, 3]), rtol=IDENTITY)


def test_class_balanced_mean_over_samples_is_one_and_its_end_is_the_inverse_frequency():
    for beta in (0.0, 0.9, 0.999, 1 - 1e-9):
        weights = class_balanced_weights(COUNTS, beta)
        assert weights @ COUNTS / COUNTS.sum() == pytest.approx(1, rel=1e-12)
    near_one = class_balanced_weights(COUNTS, 1 - 1e-9)
    np.testing.assert_allclose(near_one[:4] / near_one[3], 1 / COUNTS[:4], rtol=1e-6)  # first order in (1 - beta) n


def test_class_balanced_weighs_the_cross_entropy(samples):
    plain = make_loss(Loss(), COUNTS)(*samples)
    weights = class_balanced_weights(COUNTS, 0.999)
    np.testing.assert_allclose(make_loss(Loss("class_balanced"), COUNTS)(*samples), weights[samples[1]] * plain, rtol=IDENTITY)


def test_logit_adjusted_by_hand(samples):
    logits, labels = samples
    counted = np.array([500, 40, 7, 1, 1])
    p = probabilities(logits + 0.7 * np.log(counted / counted.sum()))
    found = make_loss(Loss("logit_adjusted", logit_adjustment_tau=0.7), COUNTS)(logits, labels)
    np.testing.assert_allclose(found, -np.log(p[np.arange(20), labels]), rtol=IDENTITY)


def test_logit_adjusted_network_that_knows_nothing_learns_no_prior():
    """Menon et al.: with logits 0 the adjusted softmax is the prior, so that the loss is least there on average."""
    counts = np.array([70, 20, 10])
    loss = make_loss(Loss("logit_adjusted"), counts)
    labels = np.repeat(np.arange(3), counts)
    slope = jax.grad(lambda v: jnp.mean(loss(jnp.tile(v, (100, 1)), labels)))(jnp.zeros(3))
    np.testing.assert_allclose(slope, 0, atol=1e-14)
    plain = jax.grad(lambda v: jnp.mean(make_loss(Loss(), counts)(jnp.tile(v, (100, 1)), labels)))(jnp.zeros(3))
    assert abs(float(plain[0])) > 0.3


@pytest.mark.parametrize(
    "config",
    [
        Loss("focal", focal_gamma=0.0),
        Loss("class_balanced", class_balanced_beta=0.0),
        Loss("logit_adjusted", logit_adjustment_tau=0.0),
    ],
)
def test_limits_are_the_cross_entropy(samples, config):
    np.testing.assert_allclose(make_loss(config, COUNTS)(*samples), make_loss(Loss(), COUNTS)(*samples), rtol=IDENTITY)


@pytest.mark.parametrize("config", [*(Loss(name) for name in LOSSES), Loss(label_smoothing=0.1), Loss("focal", 0.0, 0.5)])
def test_derivatives_are_those_of_differences(samples, config):
    logits, labels = samples
    loss = make_loss(config, COUNTS)
    rng = np.random.default_rng(1)
    direction, cotangent = rng.normal(size=(20, 5)), rng.normal(size=20)
    f = lambda v: jnp.vdot(cotangent, loss(v, labels))  # noqa: E731
    h = 1e-5
    difference = (f(logits + h * direction) - f(logits - h * direction)) / (2 * h)
    assert float(jnp.vdot(jax.grad(f)(logits), direction)) == pytest.approx(float(difference), rel=1e-7)
    assert float(jax.jvp(f, (logits,), (direction,))[1]) == pytest.approx(float(difference), rel=1e-7)
    # Only differences of logits matter: the gradient sums to 0 over the classes.
    np.testing.assert_allclose(jnp.sum(jax.grad(f)(logits), axis=1), 0, atol=1e-12)


@pytest.mark.parametrize("config", [*(Loss(name) for name in LOSSES), Loss(label_smoothing=0.1), Loss("focal", 0.0, 0.5)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_extreme_logits_are_finite(config, dtype):
    logits = np.array([[1e4, -1e4, 0, 0, -1e4], [-100, 100, 100, 0, 0], [0, 0, 0, 0, 0]], dtype)
    loss = make_loss(config, COUNTS)
    for label in range(5):
        labels = np.full(3, label)
        values = loss(logits, labels)
        assert values.dtype == dtype
        assert np.all(np.isfinite(values))
        assert np.all(np.asarray(values) >= 0)
        slope = jax.grad(lambda v: jnp.sum(loss(v, labels)))(logits)  # noqa: B023
        assert np.all(np.isfinite(slope))


def test_focal_at_certainty_is_zero_with_zero_slope():
    loss = make_loss(Loss("focal", focal_gamma=0.5), COUNTS)
    logits = np.array([[1000.0, 0, 0, 0, 0]])
    assert float(loss(logits, np.array([0]))[0]) == 0
    np.testing.assert_array_equal(jax.grad(lambda v: loss(v, np.array([0]))[0])(logits), 0)


def test_absent_classes_count_as_one_sample():
    assert np.all(np.isfinite(logit_offsets(COUNTS, 1.0)))
    weights = class_balanced_weights(COUNTS, 0.999)
    assert weights[4] == weights[3] == weights.max()


def test_published_floor_of_probabilities_as_logits():
    """Cross-entropy of a perfect network whose outputs went through one softmax too many."""
    for classes, floor in ((7, 1.1654), (230, 4.4455)):
        loss = make_loss(Loss(), np.ones(classes, int))
        assert float(loss(np.eye(classes), np.arange(classes))[0]) == pytest.approx(floor, abs=5e-5)


@pytest.mark.parametrize("name", LOSSES)
def test_jit_and_vmap_agree(samples, name):
    loss = make_loss(Loss(name), COUNTS)
    plain = loss(*samples)
    np.testing.assert_allclose(jax.jit(loss)(*samples), plain, rtol=IDENTITY)
    rows = jax.vmap(lambda x, y: loss(x[None], y[None])[0])(*samples)
    np.testing.assert_allclose(rows, plain, rtol=IDENTITY)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"name": "focl"}, "no loss 'focl'; did you mean focal"),
        ({"name": "hinge_of_a_door"}, "no loss"),
        ({"label_smoothing": 1.0}, "label_smoothing is 1.0"),
        ({"label_smoothing": float("nan")}, "label_smoothing is nan"),
        ({"class_balanced_beta": 1.0}, "class_balanced_beta is 1.0"),
        ({"focal_gamma": -1.0}, "focal_gamma is -1.0"),
        ({"logit_adjustment_tau": float("inf")}, "logit_adjustment_tau is inf"),
        ({"name": "focal", "label_smoothing": 0.1}, "not defined for smoothed labels"),
    ],
)
def test_bad_configs_are_refused(arguments, words):
    with pytest.raises(InputError, match=words):
        Loss(**arguments)


@pytest.mark.parametrize("counts", [np.zeros(3, int), np.array([1, -1]), np.array([0.5, 1]), np.ones((2, 2), int)])
def test_bad_counts_are_refused(counts):
    with pytest.raises(InputError, match="training samples of each class"):
        make_loss(Loss(), counts)


@pytest.mark.parametrize(("field", "value"), [("focal_gamma", "2"), ("label_smoothing", None), ("logit_adjustment_tau", True)])
def test_numbers_of_another_type_are_named(field, value):
    loss = Loss()
    object.__setattr__(loss, field, value)  # types are checked in tests before it is
    with pytest.raises(InputError, match=f"the loss's {field} is {value!r}; give a number"):
        loss.__post_init__()
