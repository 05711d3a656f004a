"""Device zone. The multilayer perceptron of the benchmark."""

from __future__ import annotations

import jax
from flax import nnx
from jaxtyping import Float

from simxrd_jax.models.classifier import POINTS
from simxrd_jax.models.layers import Array, DropoutKey, Linear


class Perceptron(nnx.Module):
    """Four linear layers, 3501-7000-7000-3500-classes, with ReLU between.

    Fault as published: softmax is the last layer of the network and is taken again of its output, before a loss that takes a
    third. The loss of a perfect classifier is then 5.4307 with 230 classes, and 5.4381 at the start. Corrected: logits.

    Reference: D. E. Rumelhart, G. E. Hinton, R. J. Williams, Nature 323, 533 (1986).
    """

    def __init__(self, num_classes: int, *, rngs: nnx.Rngs):
        self.fc1 = Linear(POINTS, 7000, rngs=rngs)
        self.fc2 = Linear(7000, 7000, rngs=rngs)
        self.fc3 = Linear(7000, 3500, rngs=rngs)
        self.fc = Linear(3500, num_classes, rngs=rngs)

    def __call__(self, x: Float[Array, "batch point"], key: DropoutKey) -> Float[Array, "batch class"]:
        del key  # there is none
        y = x
        for layer in (self.fc1, self.fc2, self.fc3):
            y = jax.nn.relu(layer(y))
        return self.fc(y)
