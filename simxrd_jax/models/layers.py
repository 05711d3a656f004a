"""Device zone. The pieces the published networks are made of, with the semantics of the library they were published in.

The 21 networks were written for torch, whose defaults decide what they compute: half-pixel interpolation, maximum pools
padded by -inf, channel-major flattening, uniform initial weights, an epsilon of 1e-5 and an unbiased running variance. The
layers of Flax have other defaults, and compute in the widest of their input's and their weights' types; those here compute in
the type of their input, so that one cast at the entry of a model decides. Arrays are channel last, [batch, position,
channel], which XLA convolves without transposing.

No layer holds random state: dropout takes a key at the call, and None means evaluation.
"""

from __future__ import annotations

import math
from functools import reduce
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array as JaxArray
from jax import lax
from jaxtyping import Float, Key

from simxrd_jax.errors import InputError

if TYPE_CHECKING:
    from simxrd_jax.types import Array
else:
    Array = jax.Array | np.ndarray

NORM_EPSILON = 1e-5  # of layer and batch norm alike; torch's default
BATCH_NORM_MOMENTUM = 0.1  # weight of the new batch in the running statistics; torch's default
LEAKY_SLOPE = 0.01  # torch's default

DropoutKey = Key[JaxArray, ""] | None


def uniform(rngs: nnx.Rngs, shape: tuple[int, ...], bound: float) -> Float[Array, "..."]:
    """Weights from U(-bound, bound), float32."""
    return jax.random.uniform(rngs.params(), shape, jnp.float32, -bound, bound)


def xavier_bound(inputs: int, outputs: int, width: int = 1) -> float:
    """Bound of the uniform distribution that keeps the variance of activations and gradients alike.

    Reference: X. Glorot, Y. Bengio, AISTATS 2010, PMLR 9, 249, eq. 16.
    """
    return math.sqrt(6.0 / ((inputs + outputs) * width))


class Linear(nnx.Module):
    """x W + b of the last axis, with W and b from U(+-1/sqrt(inputs)) unless other bounds are given.

    Args:
      inputs, outputs: features.
      use_bias: whether there is a b.
      kernel_bound, bias_bound: of the initial W and b; None is 1/sqrt(inputs).
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        use_bias: bool = True,
        kernel_bound: float | None = None,
        bias_bound: float | None = None,
        rngs: nnx.Rngs,
    ):
        bound = 1.0 / math.sqrt(inputs)
        self.kernel = nnx.Param(uniform(rngs, (inputs, outputs), bound if kernel_bound is None else kernel_bound))
        bias_bound = bound if bias_bound is None else bias_bound
        self.bias = nnx.Param(uniform(rngs, (outputs,), bias_bound)) if use_bias else None

    def __call__(self, x: Float[Array, "*batch inputs"]) -> Float[Array, "*batch outputs"]:
        y = x @ self.kernel[...].astype(x.dtype)
        return y if self.bias is None else y + self.bias[...].astype(x.dtype)


class Convolution(nnx.Module):
    """Cross-correlation along the positions, zero padded on both sides, with W and b from U(+-1/sqrt(inputs width)).

    Args:
      inputs, outputs: channels.
      width: of the kernel.
      stride: between outputs.
      padding: zeros on either side.
      kernel_bound: of the initial W; None is 1/sqrt(inputs width).
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        width: int,
        *,
        stride: int = 1,
        padding: int = 0,
        kernel_bound: float | None = None,
        rngs: nnx.Rngs,
    ):
        bound = 1.0 / math.sqrt(inputs * width)
        self.kernel = nnx.Param(uniform(rngs, (width, inputs, outputs), bound if kernel_bound is None else kernel_bound))
        self.bias = nnx.Param(uniform(rngs, (outputs,), bound))
        self.stride = stride
        self.padding = padding

    def __call__(self, x: Float[Array, "batch position inputs"]) -> Float[Array, "batch out outputs"]:
        # Zeros are put on beforehand: where the output is longer than the input, as with an even kernel padded by half its
        # width, XLA on CPU leaves its fast path for the kernel's gradient (6.1 s against 0.13 s at 32 x 2251, 64 channels).
        padded = jnp.pad(x, ((0, 0), (self.padding, self.padding), (0, 0)))
        kernel = self.kernel[...].astype(x.dtype)
        y = lax.conv_general_dilated(padded, kernel, (self.stride,), "VALID", dimension_numbers=("NWC", "WIO", "NWC"))
        return y + self.bias[...].astype(x.dtype)


class LayerNorm(nnx.Module):
    """(x - mean) / sqrt(variance + epsilon) over the last axis, scaled and shifted; the statistics are float32 at least."""

    def __init__(self, features: int):
        self.scale = nnx.Param(jnp.ones(features, jnp.float32))
        self.bias = nnx.Param(jnp.zeros(features, jnp.float32))

    def __call__(self, x: Float[Array, "*batch features"]) -> Float[Array, "*batch features"]:
        wide = wide_float(x)
        mean = jnp.mean(wide, axis=-1, keepdims=True)
        variance = jnp.mean(jnp.square(wide - mean), axis=-1, keepdims=True)
        y = (wide - mean) * lax.rsqrt(variance + NORM_EPSILON)
        return (y * self.scale[...] + self.bias[...]).astype(x.dtype)


class BatchNorm(nnx.Module):
    """Normalises each feature over the batch in training, by running statistics in evaluation.

    Training normalises by the biased variance of the batch and moves the running variance by the unbiased one, as torch does:
    running <- 0.9 running + 0.1 batch. The statistics are `nnx.BatchStat`s, updated in place.

    Reference: S. Ioffe, C. Szegedy, ICML 2015, PMLR 37, 448.
    """

    def __init__(self, features: int):
        self.scale = nnx.Param(jnp.ones(features, jnp.float32))
        self.bias = nnx.Param(jnp.zeros(features, jnp.float32))
        self.mean = nnx.BatchStat(jnp.zeros(features, jnp.float32))
        self.variance = nnx.BatchStat(jnp.ones(features, jnp.float32))

    def __call__(self, x: Float[Array, "batch features"], *, training: bool) -> Float[Array, "batch features"]:
        wide = wide_float(x)
        if training:
            size = x.shape[0]
            if size < 2:
                raise InputError("batch normalisation has no variance to train with in a batch of 1; take at least 2 samples")
            mean = jnp.mean(wide, axis=0)
            variance = jnp.mean(jnp.square(wide - mean), axis=0)
            # The running statistics are not on the way to a loss; their tangents would only be carried along.
            fixed_mean, fixed_variance = lax.stop_gradient((mean, variance))
            self.mean[...] += BATCH_NORM_MOMENTUM * (fixed_mean - self.mean[...])
            self.variance[...] += BATCH_NORM_MOMENTUM * (fixed_variance * size / (size - 1) - self.variance[...])
        else:
            mean, variance = self.mean[...], self.variance[...]
        y = (wide - mean) * lax.rsqrt(variance + NORM_EPSILON)
        return (y * self.scale[...] + self.bias[...]).astype(x.dtype)


def wide_float(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """x in float32, or in its own type if that is wider: the type of statistics and of softmax."""
    return jnp.asarray(x, jnp.promote_types(x.dtype, jnp.float32))


def dropout(x: Float[Array, "*shape"], rate: float, key: DropoutKey, site: int) -> Float[Array, "*shape"]:
    """x with a share of its values set to 0 and the others divided by 1 - share; x itself without a key.

    Args:
      x: activations.
      rate: the share.
      key: of the call of the model; None evaluates.
      site: number of the place in the model, so that no two places share their draws.
    """
    if key is None:
        return x
    kept = jax.random.bernoulli(jax.random.fold_in(key, site), 1.0 - rate, x.shape)
    return jnp.where(kept, x / (1.0 - rate), jnp.zeros((), x.dtype))


def leaky_relu(x: Float[Array, "*shape"], slope: float = LEAKY_SLOPE) -> Float[Array, "*shape"]:
    """x above 0, slope times x below."""
    return jax.nn.leaky_relu(x, slope)


def gelu(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """x Phi(x) with the normal distribution itself, not its approximation by tanh."""
    return jax.nn.gelu(x, approximate=False)


def softmax(x: Float[Array, "*batch features"]) -> Float[Array, "*batch features"]:
    """exp(x) / sum exp(x) of the last axis, in float32 at least."""
    return jax.nn.softmax(wide_float(x), axis=-1)


def resize(x: Float[Array, "batch point"], length: int) -> Float[Array, "batch length"]:
    """Linear interpolation between points that are cells of equal width, the ends continued level.

    Output i samples the input at (i + 1/2) n / length - 1/2. It is `jax.image.resize(x, ..., "linear", antialias=False)`,
    which multiplies by an n x length matrix; two gathers and a mean are enough.
    """
    points = x.shape[-1]
    at = np.clip((np.arange(length) + 0.5) * points / length - 0.5, 0, points - 1)
    left = np.minimum(at.astype(np.int32), points - 2)
    weight = jnp.asarray(at - left, x.dtype)
    x = jnp.asarray(x)
    return x[:, left] * (1 - weight) + x[:, left + 1] * weight


def max_pool(
    x: Float[Array, "batch position channel"], width: int, stride: int, padding: int = 0
) -> Float[Array, "batch out channel"]:
    """Greatest of `width` neighbours, every `stride` positions; padding is -inf, and what does not fill a window is left out.

    Equal neighbours share the gradient. The maximum runs over shifted views: the windows are 1 to 3 wide, and XLA's own
    windowed maximum has a slow gradient.
    """
    return reduce(jnp.maximum, _shifted(x, width, stride, padding, -jnp.inf))


def average_pool(x: Float[Array, "batch position channel"], width: int, stride: int) -> Float[Array, "batch out channel"]:
    """Mean of `width` neighbours, every `stride` positions; what does not fill a window is left out."""
    return sum(_shifted(x, width, stride, 0, 0.0)) / width


def _shifted(x: Any, width: int, stride: int, padding: int, fill: float) -> list[JaxArray]:
    """The first, second, ... member of each window."""
    padded = jnp.pad(x, ((0, 0), (padding, padding), (0, 0)), constant_values=fill) if padding else jnp.asarray(x)
    windows = (padded.shape[1] - width) // stride + 1
    last = (windows - 1) * stride + 1
    return [lax.slice_in_dim(padded, i, i + last, stride, axis=1) for i in range(width)]


def flatten(x: Float[Array, "batch position channel"]) -> Float[Array, "batch feature"]:
    """All positions of the first channel, then all of the second, ..."""
    return jnp.swapaxes(x, 1, 2).reshape(x.shape[0], -1)


def sinusoids(length: int, features: int) -> np.ndarray:
    """Fixed positions [length, features]: sin and cos of position / 10000^(2i/features) in columns 2i and 2i + 1.

    Reference: A. Vaswani et al., NeurIPS 2017, section 3.5.
    """
    rate = np.exp(np.arange(0, features, 2) * (-math.log(10000.0) / features))
    angle = np.arange(length)[:, None] * rate
    table = np.zeros((length, features))
    table[:, 0::2], table[:, 1::2] = np.sin(angle), np.cos(angle)
    return table
