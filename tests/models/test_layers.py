"""Each layer against its formula, a library function or torch's documented semantics."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax
from scipy.stats import norm

from simxrd_jax.errors import InputError
from simxrd_jax.models import layers
from simxrd_jax.models.attention import Attention, EncoderLayer
from simxrd_jax.models.recurrent import CELLS, HIDDEN, RecurrentLayer

KEY = jax.random.key(0)
LENGTHS = (10001, 4501, 2251, 8192, 8500)


def numbers(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("length", LENGTHS)
def test_resize_is_the_half_pixel_interpolation(length: int):
    x = numbers(2, 3501)
    at = (np.arange(length) + 0.5) * 3501 / length - 0.5
    reference = np.stack([np.interp(at, np.arange(3501), row) for row in x])  # level beyond the ends
    np.testing.assert_allclose(layers.resize(x, length), reference, atol=2e-6)


def test_resize_is_jax_image_resize_without_antialiasing():
    x = numbers(2, 3501)
    ours = layers.resize(x, 2251)
    # JAX rounds the places to float32, 2.4e-4 of a point at the end; between neighbours of white noise that is 1e-3.
    np.testing.assert_allclose(ours, jax.image.resize(x, (2, 2251), "linear", antialias=False), atol=3e-3)
    assert np.abs(ours - jax.image.resize(x, (2, 2251), "linear")).max() > 0.3


@pytest.mark.parametrize(("width", "stride", "padding"), [(3, 2, 1), (2, 3, 1), (3, 3, 1), (2, 2, 1), (2, 2, 0), (1, 2, 0)])
@pytest.mark.parametrize("length", [127, 128])
def test_max_pool_is_the_windowed_maximum(width: int, stride: int, padding: int, length: int):
    x = numbers(2, length, 3) - 10.0  # all negative: a padding of zeros would win

    def reference(x):
        pads = ((0, 0), (padding, padding), (0, 0))
        return lax.reduce_window(x, -jnp.inf, lax.max, (1, width, 1), (1, stride, 1), pads)

    def ours(x):
        return layers.max_pool(x, width, stride, padding)

    np.testing.assert_array_equal(ours(x), reference(x))
    weight = numbers(*ours(x).shape, seed=1)
    gradients = [jax.grad(lambda x, f=f: jnp.sum(weight * f(x)))(jnp.asarray(x)) for f in (ours, reference)]
    np.testing.assert_array_equal(*gradients)


def test_average_pool_is_the_mean_of_its_window():
    x = numbers(2, 2000, 3)
    for stride, size in ((2, 999), (1, 1998)):
        reference = np.stack([x[:, i * stride : i * stride + 3].mean(axis=1) for i in range(size)], axis=1)
        np.testing.assert_allclose(layers.average_pool(x, 3, stride), reference, atol=1e-6)


def test_flatten_takes_one_channel_after_the_other():
    x = np.arange(6).reshape(1, 3, 2).astype(np.float32)  # [batch, position, channel]
    assert layers.flatten(x).tolist() == [[0, 2, 4, 1, 3, 5]]


@pytest.mark.parametrize(
    ("make", "bound"),
    [
        (lambda rngs: layers.Linear(400, 300, rngs=rngs), 1 / 20),
        (lambda rngs: layers.Convolution(25, 300, 16, rngs=rngs), 1 / 20),
        (lambda rngs: RecurrentLayer("gru", 64, 2, rngs=rngs), 1 / 8),
    ],
)
def test_initial_weights_are_uniform_with_torchs_bound(make, bound: float):
    for path, value in nnx.to_flat_state(nnx.state(make(nnx.Rngs(params=3)), nnx.Param)):
        values = np.asarray(value[...]).ravel() / bound
        assert np.abs(values).max() <= 1, path
        # Of n uniform values the mean is 0 +- 1/sqrt(3n), the root mean square 1/sqrt(3) (1 +- 1/sqrt(5n)).
        assert abs(values.mean()) < 5 / math.sqrt(3 * values.size), path
        assert abs(values.std() * math.sqrt(3) - 1) < 5 / math.sqrt(5 * values.size), path


def test_xavier_bounds():
    weights = np.asarray(
        layers.Convolution(16, 32, 3, kernel_bound=layers.xavier_bound(16, 32, 3), rngs=nnx.Rngs(params=0)).kernel
    )
    assert 0.99 * math.sqrt(6 / 144) < np.abs(weights).max() <= math.sqrt(6 / 144)
    attention = Attention(32, 1, joint_xavier=True, chunk=None, rngs=nnx.Rngs(params=0))
    assert 0.98 * math.sqrt(6 / 128) < np.abs(attention.query.kernel[...]).max() <= math.sqrt(6 / 128)
    assert attention.query.bias is not None
    assert not np.any(attention.query.bias[...])


def test_layer_norm_has_torchs_epsilon():
    x = np.array([[1e-3, -1e-3]], dtype=np.float32)  # variance 1e-6, a tenth of the epsilon
    np.testing.assert_allclose(layers.LayerNorm(2)(x), x / math.sqrt(1.1e-5), rtol=1e-5)


def test_gelu_is_exact():
    x = np.linspace(-4, 4, 101, dtype=np.float32)
    np.testing.assert_allclose(layers.gelu(x), x * norm.cdf(x), atol=1e-6)


def test_sinusoids():
    table = layers.sinusoids(129, 128)
    np.testing.assert_array_equal(table[0], [0, 1] * 64)
    np.testing.assert_allclose(table[7, :2], [math.sin(7), math.cos(7)])
    np.testing.assert_allclose(table[7, 126:], [math.sin(7 * 1e4 ** (-126 / 128)), math.cos(7 * 1e4 ** (-126 / 128))])


def test_batch_norm_moves_its_statistics_as_torch_does():
    x = 3.0 * numbers(5, 4) + 2.0
    layer = layers.BatchNorm(4)
    y = layer(x, training=True)
    np.testing.assert_allclose(y, (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5), atol=1e-5)
    np.testing.assert_allclose(layer.mean[...], 0.1 * x.mean(0), rtol=1e-5)
    np.testing.assert_allclose(layer.variance[...], 0.9 + 0.1 * x.var(0, ddof=1), rtol=1e-5)
    before = np.asarray(layer.mean[...])
    z = layer(x, training=False)
    np.testing.assert_allclose(z, (x - before) / np.sqrt(np.asarray(layer.variance[...]) + 1e-5), rtol=1e-5)
    np.testing.assert_array_equal(layer.mean[...], before)
    with pytest.raises(InputError, match="batch of 1"):
        layer(x[:1], training=True)


def test_dropout_keeps_the_mean_and_separates_sites():
    x = jnp.ones((400, 500))
    assert layers.dropout(x, 0.7, None, 0) is x
    first, second = (np.asarray(layers.dropout(x, 0.7, KEY, site)) for site in (0, 1))
    assert set(np.unique(first)) == {np.float32(0), np.float32(1 / (1.0 - 0.7))}
    deviation = math.sqrt(0.7 * 0.3 / x.size)
    assert abs((first > 0).mean() - 0.3) < 5 * deviation
    assert abs(((first > 0) & (second > 0)).mean() - 0.09) < 5 * deviation


@pytest.mark.parametrize(
    "make", [partial(Attention, 8, 2, joint_xavier=False), partial(EncoderLayer, 8, 2, 32, activation="relu")]
)
def test_chunks_of_points_are_all_of_them(make: Any):
    whole, chunked = (make(chunk=c, rngs=nnx.Rngs(params=0)) for c in (None, 5))
    x = jnp.asarray(numbers(2, 15, 8))

    def loss(x, layer):
        y = layer(x, None)
        return jnp.sum(jnp.sin(3 * y)), y

    (ours, y), (plain, z) = (jax.jit(jax.grad(lambda x, a=a: loss(x, a), has_aux=True))(x) for a in (chunked, whole))
    np.testing.assert_allclose(y, z, atol=1e-6)
    np.testing.assert_allclose(ours, plain, atol=1e-5)
    dropped = jax.jit(lambda key: chunked(x, key))
    np.testing.assert_array_equal(dropped(KEY), dropped(KEY))
    assert np.abs(dropped(KEY) - y).max() > 1e-3


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def python_loop(cell: str, x: np.ndarray, w, b, u, d) -> np.ndarray:
    """Hidden values after each point, by the cell's equations in float64."""
    h, c, hidden = np.zeros((x.shape[1], HIDDEN)), np.zeros((x.shape[1], HIDDEN)), []
    for point in x.astype(np.float64):
        p, z = point @ w + b, h @ u + d
        if cell == "rnn":
            h = np.tanh(p + z)
        elif cell == "lstm":
            i, f, g, o = np.split(p + z, 4, axis=-1)
            c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
            h = sigmoid(o) * np.tanh(c)
        else:
            (px, pu, pn), (zx, zu, zn) = np.split(p, 3, axis=-1), np.split(z, 3, axis=-1)
            update = sigmoid(pu + zu)
            h = (1 - update) * np.tanh(pn + sigmoid(px + zx) * zn) + update * h
        hidden.append(h)
    return np.stack(hidden)


@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize("cell", list(CELLS))
def test_recurrent_layer_is_its_equations(cell: str, directions: int):
    layer = RecurrentLayer(cell, 3, directions, rngs=nnx.Rngs(params=0))
    x = numbers(11, 2, 3)
    names = ("input_kernel", "input_bias", "hidden_kernel", "hidden_bias")
    weights = [[np.asarray(getattr(d, name)[...], np.float64) for name in names] for d in layer.directions]
    reference = python_loop(cell, x, *weights[0])
    if directions == 2:
        backward = python_loop(cell, x[::-1], *weights[1])[::-1]
        reference = np.concatenate([reference, backward], axis=-1)
    np.testing.assert_allclose(layer(x), reference, atol=1e-6)
    np.testing.assert_allclose(layer.last(x), reference[-1], atol=1e-6)
