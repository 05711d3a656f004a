"""Device zone. PowderNet: our own network, a small residual network over log d, with several heads.

On an axis of log(sin theta) = log(lambda/2) - log(d) a larger cell of the same shape moves every line by the same distance:
what tells the crystal system, the ratios of the d, are distances there, which convolutions find wherever they are. The pattern
is therefore averaged over even bins of that axis first. In training each pattern is moved on it by a random distance of up to
`stretch`, as if its cell were larger or smaller, so that a network cannot know the training structures by the places of their
lines; the lattice that it answers is moved back by as much.

Blocks have the form of K. He et al. (2016) with the layer normalisation, GELU and learned scales of Z. Liu et al. (2022), but
full convolutions in place of depthwise ones, which XLA runs slowly on CPU. Heads read the mean and the maximum over the axis
and a coarse map of it.

Reference: K. He et al., ECCV 2016 (identity mappings); Z. Liu et al., CVPR 2022, 11976 (ConvNeXt).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Float

from simxrd_jax.models.classifier import FIRST, POINTS, STEP, check_points
from simxrd_jax.models.lattice import LATTICE, enlarged
from simxrd_jax.models.layers import Array, Convolution, DropoutKey, LayerNorm, Linear, dropout, gelu
from simxrd_jax.numerics import DEGREE

INTENSITY_SCALE, ROOT_SCALE = 20.0, 10.0  # of patterns with the highest point 100
CHANNELS = 3  # of `on_log_axis`
LEAST_WIDTH = 1e-2  # of a bin that lies on the pattern; at 10 deg bins are 0.5 points wide. [points]
LAYER_SCALE = 1e-1  # first value of a block's learned scale; few blocks need no smaller one
MAP_POSITIONS = 16  # of the coarse map that the heads read


@dataclass(frozen=True)
class Shape:
    """Sizes of a PowderNet.

    Attributes:
      bins: of log(sin theta).
      stretch: greatest distance by which a pattern is moved in training, in log d.
      stem: width and stride of the first convolution.
      widths: channels of each stage.
      depths: blocks of each stage; between stages positions are merged by `merge`.
      merge: positions merged between stages.
      kernel: width of the convolutions, odd.
      hidden: width of the layer before the heads.
      rate: of dropout before the heads.
    """

    bins: int = 2048
    stretch: float = 0.2
    stem: tuple[int, int] = (16, 4)
    widths: tuple[int, ...] = (32, 64, 128)
    depths: tuple[int, ...] = (1, 2, 2)
    merge: int = 4
    kernel: int = 5
    hidden: int = 256
    rate: float = 0.2


class Block(nnx.Module):
    """x + s f(x), f = convolution(gelu(norm(convolution(norm(x)))))."""

    def __init__(self, channels: int, kernel: int, *, rngs: nnx.Rngs):
        self.norms = nnx.List([LayerNorm(channels), LayerNorm(channels)])
        self.convolutions = nnx.List(
            [Convolution(channels, channels, kernel, padding=kernel // 2, rngs=rngs) for _ in range(2)]
        )
        self.scale = nnx.Param(jnp.full(channels, LAYER_SCALE, jnp.float32))

    def __call__(self, x: Float[Array, "batch position channel"]) -> Float[Array, "batch position channel"]:
        y = self.convolutions[0](self.norms[0](x))
        y = self.convolutions[1](jax.nn.gelu(self.norms[1](y)))
        return x + y * self.scale[...].astype(x.dtype)


class PowderNet(nnx.Module):
    """Patterns to one output, or to one for each of several targets.

    Args:
      outputs: width of the only head, or target -> width.
      shape: sizes.
      dtype: of the arithmetic; None is that of the parameters.
    """

    def __init__(self, outputs: int | Mapping[str, int], *, shape: Shape = Shape(), dtype: Any = None, rngs: nnx.Rngs):
        width, stride = shape.stem
        self.dtype = dtype
        self.shape = shape
        self.stem = Convolution(CHANNELS, shape.widths[0], width, stride=stride, padding=(width - stride) // 2, rngs=rngs)
        self.stem_norm = LayerNorm(shape.widths[0])
        stages, merges = [], []
        for i, (channels, depth) in enumerate(zip(shape.widths, shape.depths, strict=True)):
            if i:
                before = shape.widths[i - 1]
                merges.append(nnx.List([LayerNorm(before), Linear(shape.merge * before, channels, rngs=rngs)]))
            stages.append(nnx.List([Block(channels, shape.kernel, rngs=rngs) for _ in range(depth)]))
        self.stages, self.merges = nnx.List(stages), nnx.List(merges)
        last = shape.widths[-1]
        self.norm = LayerNorm(last)
        self.fc = Linear((MAP_POSITIONS + 2) * last, shape.hidden, rngs=rngs)
        widths = {"": outputs} if isinstance(outputs, int) else dict(outputs)
        self.heads = nnx.Dict({name or "only": Linear(shape.hidden, n, rngs=rngs) for name, n in widths.items()})
        self.has_one_head = isinstance(outputs, int)

    def __call__(self, x: Float[Array, "batch point"], *, dropout: DropoutKey = None) -> Any:
        """Outputs of the head, or target -> outputs, float32.

        Args:
          x: intensities, 0 to 100 [batch, 3501].
          dropout: key of a training call; None evaluates.

        Raises:
          InputError: another number of points.
        """
        check_points(x)
        moved = jnp.zeros(x.shape[0])
        if dropout is not None:
            key = jax.random.fold_in(dropout, 1)  # dropout itself takes 0
            moved = self.shape.stretch * jax.random.uniform(key, (x.shape[0],), minval=-1.0, maxval=1.0)
        features = self.features(x, moved, dropout)
        made = {name: jnp.asarray(head(features), jnp.float32) for name, head in self.heads.items()}
        if LATTICE in made:
            made[LATTICE] = enlarged(made[LATTICE], moved)
        return made["only"] if self.has_one_head else made

    def features(
        self, x: Float[Array, "batch point"], moved: Float[Array, " batch"], key: DropoutKey = None
    ) -> Float[Array, "batch feature"]:
        """What the heads read of patterns whose lines are moved by so much in log(1/d)."""
        y = on_log_axis(jnp.asarray(x), moved, self.shape.bins)
        y = y.astype(self.dtype or y.dtype)
        y = self.stem_norm(self.stem(y))
        for i, stage in enumerate(self.stages):
            if i:
                norm, linear = self.merges[i - 1]
                y = linear(merged(norm(y), self.shape.merge))
            for block in stage:
                y = block(y)
        y = self.norm(y)
        coarse = coarse_map(y, MAP_POSITIONS)
        # Not jnp.max: its derivative counts the points that equal the maximum, and finds none where a compiler computes them
        # twice with different rounding.
        highest = jnp.take_along_axis(y, jnp.argmax(y, axis=1, keepdims=True), axis=1)[:, 0]
        y = jnp.concatenate([jnp.mean(y, axis=1), highest, coarse.reshape(y.shape[0], -1)], axis=-1)
        return dropout(gelu(self.fc(y)), self.shape.rate, key, 0)


def on_log_axis(x: Float[Array, "batch point"], moved: Float[Array, " batch"], bins: int) -> Float[Array, "batch bin channel"]:
    """Mean intensity in even bins of log(sin theta), its root, which shows weak lines, and which bins the pattern covers.

    Args:
      x: intensities at 10 to 80 deg, 100 at most.
      moved: distance by which lines are moved towards larger angles.
      bins: over 10 to 80 deg.
    """
    ends = jnp.log(jnp.sin(0.5 * DEGREE * jnp.array([FIRST, FIRST + (POINTS - 1) * STEP])))
    edges = jnp.linspace(ends[0], ends[1], bins + 1) - moved[:, None]
    place = (2.0 / DEGREE * jnp.arcsin(jnp.minimum(jnp.exp(edges), 1.0)) - FIRST) / STEP
    place = jnp.clip(place, 0.0, POINTS - 1.0)
    # The integral up to each edge; of what is above the mean, or single precision would lose weak lines in a long sum.
    mean = jnp.mean(x, axis=1, keepdims=True)
    net = x - mean
    total = jnp.pad(jnp.cumsum(0.5 * (net[:, 1:] + net[:, :-1]), axis=1), ((0, 0), (1, 0)))
    before = jnp.minimum(place.astype(jnp.int32), POINTS - 2)
    low, high = (jnp.take_along_axis(total, before + i, axis=1) for i in (0, 1))
    integral = low + (high - low) * (place - before)
    width = jnp.diff(place, axis=1)
    covered = width > LEAST_WIDTH
    average = jnp.where(covered, jnp.diff(integral, axis=1) / jnp.where(covered, width, 1.0) + mean, 0.0)
    root = jnp.sqrt(jnp.maximum(average, 0.0) / ROOT_SCALE)
    return jnp.stack([average / INTENSITY_SCALE, root, covered.astype(average.dtype)], axis=-1)


def merged(x: Float[Array, "batch position channel"], count: int) -> Float[Array, "batch out merged"]:
    """Neighbouring positions as channels of one; the last group is filled up with zeros."""
    x = jnp.pad(x, ((0, 0), (0, -x.shape[1] % count), (0, 0)))
    return x.reshape(x.shape[0], x.shape[1] // count, count * x.shape[2])


def coarse_map(x: Float[Array, "batch position channel"], positions: int) -> Float[Array, "batch map channel"]:
    """Means over equal groups of positions."""
    group = -(-x.shape[1] // positions)
    x = jnp.pad(x, ((0, 0), (0, group * positions - x.shape[1]), (0, 0)))
    return jnp.mean(x.reshape(x.shape[0], positions, group, x.shape[2]), axis=2)
