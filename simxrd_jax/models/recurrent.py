"""Device zone. RNN, LSTM and GRU over the 3,501 points of a pattern, one or both ways.

Four layers of 64 hidden values read one intensity a step; the state at the last point goes to one linear layer. The cells
have the two bias vectors of torch: for the GRU they are not the same thing as one, because the hidden bias of its candidate
is inside the product with the reset gate.

A step of a cell is z = h U + d, then an elementwise function of z, of the input's projection x W + b and of the state. Only
the recurrence has to wait for its predecessor, so the input's projections of all gates are one product before the scan. Both
directions run in one scan, as a leading axis of 2. The loop over layers is four scans; nothing is unrolled over points.

Left as published: a bidirectional network is read at the last point, where the backward half of the top layer has seen one
step.
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

from simxrd_jax.models.layers import Array, DropoutKey, Linear, uniform

LAYERS = 4
HIDDEN = 64

State = tuple[Any, ...]  # (h,) or (h, c), each [direction, batch, hidden]
Step = Callable[[Any, Any, State], State]


def rnn_step(
    projected: Float[Array, "*batch gates"], recurrent: Float[Array, "*batch gates"], state: tuple[Any]
) -> tuple[Any]:
    """h' = tanh(x W + b + h U + d).

    Reference: J. L. Elman, Cognitive Science 14, 179 (1990).
    """
    del state
    return (jnp.tanh(projected + recurrent),)


def lstm_step(
    projected: Float[Array, "*batch gates"], recurrent: Float[Array, "*batch gates"], state: tuple[Any, Any]
) -> tuple[Any, Any]:
    """c' = s(f) c + s(i) tanh(g), h' = s(o) tanh(c'), with (i, f, g, o) = x W + b + h U + d and s the logistic function.

    Reference: F. A. Gers, J. Schmidhuber, F. Cummins, Neural Computation 12, 2451 (2000).
    """
    i, f, g, o = jnp.split(projected + recurrent, 4, axis=-1)
    c = jax.nn.sigmoid(f) * state[1] + jax.nn.sigmoid(i) * jnp.tanh(g)
    return jax.nn.sigmoid(o) * jnp.tanh(c), c


def gru_step(
    projected: Float[Array, "*batch gates"], recurrent: Float[Array, "*batch gates"], state: tuple[Any]
) -> tuple[Any]:
    """h' = (1 - u) n + u h, n = tanh(n_x + r n_h), r = s(r_x + r_h), u = s(u_x + u_h); n_h = h U_n + d_n holds its bias.

    Reference: K. Cho et al., EMNLP 2014, 1724, with the reset gate after the product (arXiv:1412.3555).
    """
    r_x, u_x, n_x = jnp.split(projected, 3, axis=-1)
    r_h, u_h, n_h = jnp.split(recurrent, 3, axis=-1)
    r, u = jax.nn.sigmoid(r_x + r_h), jax.nn.sigmoid(u_x + u_h)
    n = jnp.tanh(n_x + r * n_h)
    return ((1 - u) * n + u * state[0],)


CELLS: dict[str, tuple[Step, int, int]] = {"rnn": (rnn_step, 1, 1), "lstm": (lstm_step, 4, 2), "gru": (gru_step, 3, 1)}
"""Step, number of gates, number of arrays in the state."""


class Direction(nnx.Module):
    """The weights with which a layer reads one way, all from U(+-1/sqrt(hidden)).

    Args:
      inputs: features of its input.
      width: of all gates together.
    """

    def __init__(self, inputs: int, width: int, *, rngs: nnx.Rngs):
        bound = 1.0 / math.sqrt(HIDDEN)
        self.input_kernel = nnx.Param(uniform(rngs, (inputs, width), bound))
        self.input_bias = nnx.Param(uniform(rngs, (width,), bound))
        self.hidden_kernel = nnx.Param(uniform(rngs, (HIDDEN, width), bound))
        self.hidden_bias = nnx.Param(uniform(rngs, (width,), bound))

    def project(self, x: Float[Array, "*batch inputs"]) -> Float[Array, "*batch gates"]:
        """x W + b of all gates."""
        return x @ self.input_kernel.astype(x.dtype) + self.input_bias.astype(x.dtype)


class RecurrentLayer(nnx.Module):
    """One layer.

    Args:
      cell: "rnn", "lstm" or "gru".
      inputs: features of its input.
      directions: 1 (forwards) or 2 (and backwards).
    """

    def __init__(self, cell: str, inputs: int, directions: int, *, rngs: nnx.Rngs):
        self.cell = cell
        self.directions = nnx.List([Direction(inputs, CELLS[cell][1] * HIDDEN, rngs=rngs) for _ in range(directions)])

    def __call__(self, x: Float[Array, "point batch inputs"]) -> Float[Array, "point batch outputs"]:
        """Hidden values after every point, the forward ones first."""
        hidden = self._run(x, len(self.directions))[1]
        if hidden.shape[1] == 1:
            return hidden[:, 0]
        return jnp.concatenate([hidden[:, 0], jnp.flip(hidden[:, 1], axis=0)], axis=-1)

    def last(self, x: Float[Array, "point batch inputs"]) -> Float[Array, "batch outputs"]:
        """What __call__ returns for the last point, where the backward half has seen that point only."""
        forward = self._run(x, 1)[0][0]
        if len(self.directions) == 1:
            return forward[0]
        step, _, arrays = CELLS[self.cell]
        zero = jnp.zeros((x.shape[1], HIDDEN), x.dtype)
        projected = self.directions[1].project(x[-1])
        bias = self.directions[1].hidden_bias.astype(x.dtype)
        backward = step(projected, jnp.broadcast_to(bias, projected.shape), (zero,) * arrays)[0]
        return jnp.concatenate([forward[0], backward], axis=-1)

    def _run(self, x: Any, directions: int) -> tuple[State, Any]:
        """The state after the last step [direction, batch, hidden], and h after every step."""
        step, _, arrays = CELLS[self.cell]
        read = [self.directions[i] for i in range(directions)]
        kernel = jnp.stack([d.hidden_kernel.astype(x.dtype) for d in read])
        bias = jnp.stack([d.hidden_bias.astype(x.dtype) for d in read])[:, None]

        def advance(state: State, projected: Any) -> tuple[State, Any]:
            # Without the axis of directions, XLA on CPU calls its fast product.
            recurrent = state[0] @ kernel[0] if directions == 1 else jnp.einsum("dbh,dhg->dbg", state[0], kernel)
            state = step(projected, recurrent + bias, state)
            return state, state[0]

        projected = [d.project(x if i == 0 else jnp.flip(x, axis=0)) for i, d in enumerate(read)]
        zero = jnp.zeros((directions, x.shape[1], HIDDEN), x.dtype)
        return lax.scan(advance, (zero,) * arrays, jnp.stack(projected, axis=1))


class RecurrentNetwork(nnx.Module):
    """Four layers over the points, then a linear layer of the last point's hidden values.

    Reference for two directions: M. Schuster, K. K. Paliwal, IEEE Transactions on Signal Processing 45, 2673 (1997).
    """

    def __init__(self, num_classes: int, *, cell: str, directions: int, rngs: nnx.Rngs):
        widths = (1, *(LAYERS - 1) * (directions * HIDDEN,))
        self.layers = nnx.List([RecurrentLayer(cell, width, directions, rngs=rngs) for width in widths])
        self.fc = Linear(directions * HIDDEN, num_classes, rngs=rngs)

    def __call__(self, x: Float[Array, "batch point"], key: DropoutKey) -> Float[Array, "batch class"]:
        del key  # there is none
        y = jnp.swapaxes(x, 0, 1)[..., None]
        for layer in self.layers[:-1]:
            y = layer(y)
        return self.fc(self.layers[-1].last(y))
