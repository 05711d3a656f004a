"""Device zone. The Transformer, iTransformer and PatchTST.

All three have two encoder layers with the normalisation after each half. The attention of the corrected Transformer has
3,501^2 scores a sample, head and layer: 49 MB in float32, 6.3 GB for a batch of 128; the 2,048 features of every point are
29 MB, 3.7 GB. Both therefore run over 9 chunks of 389 points, and nothing of a chunk is kept for the backward pass, which
computes it again.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jaxtyping import Float

from simxrd_jax.models.classifier import POINTS
from simxrd_jax.models.layers import (
    NORM_EPSILON,
    Array,
    DropoutKey,
    LayerNorm,
    Linear,
    dropout,
    flatten,
    gelu,
    sinusoids,
    uniform,
    wide_float,
    xavier_bound,
)

LAYERS = 2
DROPOUT = 0.1
CHUNK = 389  # 3,501 = 9 x 389; 0.7 GB of scores for a batch of 128
MODEL_LENGTH = 8192  # points that iTransformer and PatchTST take
FEATURES = 128  # of their tokens
WINDOWS = 32  # tokens of the corrected iTransformer, 256 points each
PATCH = 64  # points of a PatchTST token


def _in_chunks(function: Callable[[Any, Any], Any], x: Any, size: int | None) -> Any:
    """function(tokens [batch, size, ...], number of the chunk) of all tokens, one chunk at a time; None is all at once."""
    if size is None:
        return function(x, 0)
    chunks = jnp.moveaxis(x.reshape(x.shape[0], -1, size, *x.shape[2:]), 1, 0)
    made = lax.map(lambda c: jax.checkpoint(function)(*c), (chunks, jnp.arange(chunks.shape[0])))
    return jnp.moveaxis(made, 0, 1).reshape(x.shape)


class Attention(nnx.Module):
    """Scaled dot-product attention of tokens on each other, with dropout on its weights.

    Args:
      features: of a token.
      heads: that share them.
      joint_xavier: start from one Xavier draw for queries, keys and values together and from zero biases (torch's attention
        module) instead of four ordinary linear layers.
      chunk: queries attended at a time, a divisor of the number of tokens; None is all.

    Reference: A. Vaswani et al., NeurIPS 2017, section 3.2.
    """

    def __init__(self, features: int, heads: int, *, joint_xavier: bool, chunk: int | None, rngs: nnx.Rngs):
        kernel_bound = xavier_bound(features, 3 * features) if joint_xavier else None
        bias_bound = 0.0 if joint_xavier else None
        self.query = Linear(features, features, kernel_bound=kernel_bound, bias_bound=bias_bound, rngs=rngs)
        self.key = Linear(features, features, kernel_bound=kernel_bound, bias_bound=bias_bound, rngs=rngs)
        self.value = Linear(features, features, kernel_bound=kernel_bound, bias_bound=bias_bound, rngs=rngs)
        self.output = Linear(features, features, bias_bound=bias_bound, rngs=rngs)
        self.heads = heads
        self.chunk = chunk

    def __call__(self, x: Float[Array, "batch token feature"], key: DropoutKey) -> Float[Array, "batch token feature"]:
        batch, tokens, features = x.shape
        split = (batch, tokens, self.heads, features // self.heads)
        query, keys, values = (layer(x).reshape(split) for layer in (self.query, self.key, self.value))

        def attend(some: Any, number: Any) -> Any:
            scores = jnp.einsum("bqhf,bkhf->bhqk", some, keys) / math.sqrt(split[-1])
            weights = jax.nn.softmax(wide_float(scores), axis=-1).astype(x.dtype)
            own = None if key is None else jax.random.fold_in(key, number)
            return jnp.einsum("bhqk,bkhf->bqhf", dropout(weights, DROPOUT, own, 0), values)

        return self.output(_in_chunks(attend, query, self.chunk).reshape(x.shape))


class EncoderLayer(nnx.Module):
    """Attention, then a two-layer network of each token, each added to its input and normalised.

    Args:
      features: of a token.
      heads: of the attention.
      hidden: width of the two-layer network.
      activation: "relu" or "gelu".
      joint_xavier, chunk: see Attention; the two-layer network runs over the same chunks.
    """

    def __init__(
        self,
        features: int,
        heads: int,
        hidden: int,
        *,
        activation: str,
        joint_xavier: bool = False,
        chunk: int | None = None,
        rngs: nnx.Rngs,
    ):
        self.attention = Attention(features, heads, joint_xavier=joint_xavier, chunk=chunk, rngs=rngs)
        self.norm1 = LayerNorm(features)
        self.fc1 = Linear(features, hidden, rngs=rngs)
        self.fc2 = Linear(hidden, features, rngs=rngs)
        self.norm2 = LayerNorm(features)
        self.activation = activation
        self.chunk = chunk

    def __call__(self, x: Float[Array, "batch token feature"], key: DropoutKey) -> Float[Array, "batch token feature"]:
        activation = {"relu": jax.nn.relu, "gelu": gelu}[self.activation]
        attention_key = None if key is None else jax.random.fold_in(key, 3)
        y = self.norm1(x + dropout(self.attention(x, attention_key), DROPOUT, key, 0))

        def feed_forward(some: Any, number: Any) -> Any:
            own = key if key is None or self.chunk is None else jax.random.fold_in(jax.random.fold_in(key, 4), number)
            hidden = dropout(activation(self.fc1(some)), DROPOUT, own, 1)
            return dropout(self.fc2(hidden), DROPOUT, own, 2)

        return self.norm2(y + _in_chunks(feed_forward, y, self.chunk))


def _layer_key(key: DropoutKey, layer: int) -> DropoutKey:
    """Key of an encoder layer; site 0 of a network is its own."""
    return None if key is None else jax.random.fold_in(key, 1 + layer)


class Transformer(nnx.Module):
    """One feature a point, embedded in 32; one attention head, a feed-forward width of 2,048.

    Faults as published: the encoder takes the first axis for the sequence and is given the batch there, so every point
    attends to the same point of the other samples, and a sample's output depends on its batch; nothing says where on the
    pattern a point lies; and only the last of the 3,501 points is read. Since points never meet, the other 3,500 cannot
    reach the output, and they are not computed here: values and gradients are those of the whole.

    Corrected: attention along the pattern, sinusoidal positions added to the embedding, the mean over positions read out.

    Reference: A. Vaswani et al., NeurIPS 2017.
    """

    def __init__(self, num_classes: int, *, variant: str, rngs: nnx.Rngs):
        self.is_corrected = variant == "corrected"
        self.embedding = Linear(1, 32, rngs=rngs)
        chunk = CHUNK if self.is_corrected else None
        self.layers = nnx.List(
            [EncoderLayer(32, 1, 2048, activation="relu", joint_xavier=True, chunk=chunk, rngs=rngs) for _ in range(LAYERS)]
        )
        self.fc = Linear(32, num_classes, rngs=rngs)

    def __call__(self, x: Float[Array, "batch point"], key: DropoutKey) -> Float[Array, "batch class"]:
        if self.is_corrected:
            y = self.embedding(x[..., None]) + jnp.asarray(sinusoids(POINTS, 32), x.dtype)
            for i, layer in enumerate(self.layers):
                y = layer(y, _layer_key(key, i))
            return self.fc(jnp.mean(y, axis=1))
        y = self.embedding(x[None, :, -1:])
        for i, layer in enumerate(self.layers):
            y = layer(y, _layer_key(key, i))
        return self.fc(y[0])


class ITransformer(nnx.Module):
    """The whole pattern, 8,192 points, embedded in 128 features; two heads, a feed-forward width of 64.

    Fault as published: the pattern is one token. The softmax over a single key is 1, whatever query and key are, so the
    attention is a linear layer and the weights of queries and keys get no gradient: the model is a perceptron.

    Corrected: 32 windows of 256 points are the tokens, each with weights of its own (the embedding still has 8,192 x 128
    weights, and the 128 biases are shared, so that the model has the parameters it had), and the mean over tokens is read.

    Reference: Y. Liu et al., ICLR 2024.
    """

    def __init__(self, num_classes: int, *, variant: str, rngs: nnx.Rngs):
        self.tokens = WINDOWS if variant == "corrected" else 1
        bound = math.sqrt(self.tokens / MODEL_LENGTH)
        self.embedding_kernel = nnx.Param(uniform(rngs, (MODEL_LENGTH, FEATURES), bound))
        self.embedding_bias = nnx.Param(uniform(rngs, (FEATURES,), bound))
        self.layers = nnx.List([EncoderLayer(FEATURES, 2, 64, activation="gelu", rngs=rngs) for _ in range(LAYERS)])
        self.norm = LayerNorm(FEATURES)
        self.fc = Linear(FEATURES, num_classes, rngs=rngs)

    def __call__(self, x: Float[Array, "batch point"], key: DropoutKey) -> Float[Array, "batch class"]:
        windows = x.reshape(x.shape[0], self.tokens, -1)
        kernel = self.embedding_kernel[...].astype(x.dtype).reshape(self.tokens, -1, FEATURES)
        y = jnp.einsum("btp,tpf->btf", windows, kernel) + self.embedding_bias[...].astype(x.dtype)
        y = dropout(y, DROPOUT, key, 0)
        for i, layer in enumerate(self.layers):
            y = layer(y, _layer_key(key, i))
        y = jnp.mean(self.norm(y), axis=1)
        return self.fc(dropout(gelu(y), DROPOUT, key, 1 + LAYERS))


class PatchTST(nnx.Module):
    """Patches of 64 points as tokens of 128 features with fixed positions; two heads, a feed-forward width of 64.

    The pattern, resized to 8,192 points, is brought to mean 0 and variance 1, and its last value repeated 64 times, which
    makes 129 patches. No fault: both variants are the same.

    Reference: Y. Nie et al., ICLR 2023.
    """

    def __init__(self, num_classes: int, *, rngs: nnx.Rngs):
        self.embedding = Linear(PATCH, FEATURES, use_bias=False, rngs=rngs)
        self.layers = nnx.List([EncoderLayer(FEATURES, 2, 64, activation="gelu", rngs=rngs) for _ in range(LAYERS)])
        self.norm = LayerNorm(FEATURES)
        self.fc = Linear(FEATURES * (MODEL_LENGTH // PATCH + 1), num_classes, rngs=rngs)

    def __call__(self, x: Float[Array, "batch point"], key: DropoutKey) -> Float[Array, "batch class"]:
        wide = wide_float(x)
        deviation = wide - jnp.mean(wide, axis=1, keepdims=True)
        level = deviation * lax.rsqrt(jnp.mean(jnp.square(deviation), axis=1, keepdims=True) + NORM_EPSILON)
        padded = jnp.pad(level.astype(x.dtype), ((0, 0), (0, PATCH)), mode="edge")
        patches = padded.reshape(x.shape[0], -1, PATCH)
        y = self.embedding(patches) + jnp.asarray(sinusoids(patches.shape[1], FEATURES), x.dtype)
        y = dropout(y, DROPOUT, key, 0)
        for i, layer in enumerate(self.layers):
            y = layer(y, _layer_key(key, i))
        features = flatten(self.norm(y))
        return self.fc(dropout(features, DROPOUT, key, 1 + LAYERS))
