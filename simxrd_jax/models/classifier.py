"""Device zone. What every published model has around its network: the input's check, its resizing, and the outputs.

A pattern is 3,501 intensities from 0 to 100. Models made for another length had it interpolated (`resize`), and nine of the
published models returned softmax probabilities to a loss that takes a softmax of its own. Both belong to the frame, so that a
network is the same in every variant unless its own layers are at fault.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Float

from simxrd_jax.errors import InputError
from simxrd_jax.models.layers import Array, DropoutKey, resize, softmax

POINTS = 3501  # of a pattern: 10 to 80 deg in steps of 0.02 deg
FIRST, STEP = 10.0, 0.02


class Classifier(nnx.Module):
    """Patterns to class outputs.

    Args:
      network: takes intensities [batch, length] and a dropout key or None, returns [batch, class].
      length: that the network takes; None is the pattern's own.
      softmaxes: how many are taken of the network's logits, 0 to return the logits.
      dtype: of the network's arithmetic; None is that of its parameters.
    """

    def __init__(self, network: Any, *, length: int | None, softmaxes: int, dtype: Any):
        self.network = network
        self.length = length
        self.softmaxes = softmaxes
        self.dtype = dtype

    def __call__(self, x: Float[Array, "batch point"], *, dropout: DropoutKey = None) -> Float[Array, "batch class"]:
        """Logits of the classes, or what the softmaxes of the variant make of them.

        The model holds no random state, so `dropout` decides the mode. None evaluates: nothing is dropped and batch
        normalisation takes its running statistics. A key trains: it decides what is dropped, and the running statistics are
        updated in place. Under plain `jax.jit` they are returned, and a merge inside `jax.grad` has to copy the variables:

            graph, parameters, statistics = nnx.split(model, nnx.Param, nnx.BatchStat)

            def loss(parameters, statistics, x, label, key):
                model = nnx.merge(graph, parameters, statistics, copy=True)
                outputs = model(x, dropout=key)
                return cross_entropy(outputs, label), nnx.state(model, nnx.BatchStat)

            jax.jit(jax.value_and_grad(loss, has_aux=True))(parameters, statistics, x, label, jax.random.fold_in(key, step))

        Args:
          x: intensities, 0 to 100 [batch, 3501].
          dropout: key of this call, such as `jax.random.fold_in(key, step)`.

        Returns:
          [batch, class], float32.

        Raises:
          InputError: another number of points, or training CNN7 with a batch of 1.
        """
        outputs = self.logits(x, dropout=dropout)
        for _ in range(self.softmaxes):
            outputs = softmax(outputs)
        return outputs

    def logits(self, x: Float[Array, "batch point"], *, dropout: DropoutKey = None) -> Float[Array, "batch class"]:
        """The network's outputs before any softmax; arguments as for a call."""
        check_points(x)
        dtype = self.parameter_dtype()
        y = jnp.asarray(x, dtype)
        if self.length is not None:
            y = resize(y, self.length)
        return jnp.asarray(self.network(y.astype(self.dtype or dtype), dropout), dtype)

    def parameter_dtype(self) -> Any:
        """The floating type of the parameters, which is the type of the outputs."""
        return jnp.result_type(self.network.fc.bias[...])


def check_points(x: Any) -> None:
    """Raises InputError unless x is [batch, 3501]."""
    if x.ndim != 2 or x.shape[1] != POINTS:
        shape = " x ".join(str(n) for n in x.shape) or "a single number"
        raise InputError(
            f"the input of a model is {shape}; give patterns of {POINTS} points (10 to 80 deg in steps of 0.02 deg) as "
            f"[batch, {POINTS}]"
        )
