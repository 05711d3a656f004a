"""Device zone. The eleven convolutional networks of the benchmark, from intensities to logits.

Faults as published: CNN1 to CNN3 and CNN5 to CNN8 return softmax probabilities, CNN4 the softmax of them, to a loss that takes
a softmax of its own; the frame (`classifier.Classifier`) takes those softmaxes, and none in the corrected variant. The loss of
a perfect classifier is then 1.1654 (7 classes) and 4.4455 (230) with two softmaxes in all, 1.7795 and 5.4307 with three, where
the start is log 7 = 1.9459 and log 230 = 5.4381.

Left alone in both variants, because they are choices: the average pools of CNN5 have one point and do nothing; the last
three pools of CNN7 have one point and stride 2, so they drop every other value; CNN4 is resized down without a filter;
CNN2, CNN3 and CNN6 take leaky ReLU before a linear layer and so twice of the last convolution's output; CNN6 has dropout
between its linear layers only; the benchmark's table ticks "Ensemble" for CNN5 and CNN7, of which a single network is trained.

Widths that depend on the task are those of crystal systems for 7 classes or fewer and those of space groups for more.
"""

from __future__ import annotations

import itertools

import jax
from flax import nnx
from jaxtyping import Float

from simxrd_jax.models.layers import (
    Array,
    BatchNorm,
    Convolution,
    DropoutKey,
    Linear,
    average_pool,
    dropout,
    flatten,
    leaky_relu,
    max_pool,
    xavier_bound,
)

relu = jax.nn.relu


class CNN1(nnx.Module):
    """Three strided convolutions of 80 channels with average pools, three linear layers.

    As published: softmax.

    Args:
      hidden: widths of the first two linear layers.

    Reference: W. B. Park et al., IUCrJ 4, 486 (2017).
    """

    def __init__(self, num_classes: int, *, hidden: tuple[int, int], rngs: nnx.Rngs):
        self.conv1 = Convolution(1, 80, 100, stride=5, padding=48, rngs=rngs)
        self.conv2 = Convolution(80, 80, 50, stride=5, padding=24, rngs=rngs)
        self.conv3 = Convolution(80, 80, 25, stride=2, padding=11, rngs=rngs)
        self.fc1 = Linear(7680, hidden[0], rngs=rngs)
        self.fc2 = Linear(hidden[0], hidden[1], rngs=rngs)
        self.fc = Linear(hidden[1], num_classes, rngs=rngs)

    def __call__(self, x: Float[Array, "batch point"], key: DropoutKey) -> Float[Array, "batch class"]:
        y = average_pool(dropout(relu(self.conv1(x[..., None])), 0.3, key, 0), 3, 2)
        y = average_pool(dropout(relu(self.conv2(y)), 0.3, key, 1), 3, 1)
        y = average_pool(dropout(relu(self.conv3(y)), 0.3, key, 2), 3, 1)
        y = dropout(relu(self.fc1(flatten(y))), 0.5, key, 3)
        y = dropout(relu(self.fc2(y)), 0.5, key, 4)
        return self.fc(y)


class CNN2(nnx.Module):
    """Two strided convolutions of 64 channels with maximum pools, three linear layers, no dropout.

    As published: softmax.

    Reference: J.-W. Lee et al., Nature Communications 11, 86 (2020).
    """

    def __init__(self, num_classes: int, *, rngs: nnx.Rngs):
        self.conv1 = Convolution(1, 64, 50, stride=2, padding=25, rngs=rngs)
        self.conv2 = Convolution(64, 64, 25, stride=3, padding=12, rngs=rngs)
        self.fc1 = Linear(8064, 2000, rngs=rngs)
        self.fc2 = Linear(2000, 500, rngs=rngs)
        self.fc = Linear(500, num_classes, rngs=rngs)

    def __call__(self, x: Float[Array, "batch point"], key: DropoutKey) -> Float[Array, "batch class"]:
        del key  # there is none
        y = max_pool(leaky_relu(self.conv1(x[..., None])), 3, 2, 1)
        y = max_pool(leaky_relu(self.conv2(y)), 2, 3, 1)
        y = self.fc1(leaky_relu(flatten(y)))
        y = self.fc2(leaky_relu(y))
        return self.fc(leaky_relu(y))


class CNN3(nnx.Module):
    """CNN2 with three convolutions and wider linear layers.

    As published: softmax.

    Reference: J.-W. Lee et al., Nature Communications 11, 86 (2020).
    """

    def __init__(self, num_classes: int, *, rngs: nnx.Rngs):
        self.conv1 = Convolution(1, 64, 20, padding=9, rngs=rngs)
        self.conv2 = Convolution(64, 64, 15, padding=7, rngs=rngs)
        self.conv3 = Convolution(64, 64, 10, stride=2, padding=5, rngs=rngs)
        self.fc1 = Linear(8064, 2500, rngs=rngs)
        self.fc2 = Linear(2500, 1000, rngs=rngs)
        self.fc = Linear(1000, num_classes, rngs=rngs)

    def __call__(self, x: Float[Array, "batch point"], key: DropoutKey) -> Float[Array, "batch class"]:
        del key  # there is none
        y = max_pool(leaky_relu(self.conv1(x[..., None])), 3, 3, 1)
        y = max_pool(leaky_relu(self.conv2(y)), 2, 3, 1)
        y = max_pool(leaky_relu(self.conv3(y)), 2, 2, 1)
        y = self.fc1(leaky_relu(flatten(y)))
        y = self.fc2(leaky_relu(y))
        return self.fc(leaky_relu(y))


class CNN4(nnx.Module):
    """Seven small convolutions in four blocks, each block ending in a maximum pool and dropout, three linear layers.

    As published: softmax in the head and again of the output.

    Reference: H. Wang et al., Journal of Chemical Information and Modeling 60, 2004 (2020).
    """

    def __init__(self, num_classes: int, *, rngs: nnx.Rngs):
        self.conv1 = Convolution(1, 6, 5, rngs=rngs)
        self.conv2 = Convolution(6, 16, 5, rngs=rngs)
        self.conv3 = Convolution(16, 16, 5, rngs=rngs)
        self.conv4 = Convolution(16, 32, 5, rngs=rngs)
        self.conv5 = Convolution(32, 32, 5, rngs=rngs)
        self.conv6 = Convolution(32, 64, 5, rngs=rngs)
        self.conv7 = Convolution(64, 64, 5, rngs=rngs)
        self.fc1 = Linear(8512, 120, rngs=rngs)
        self.fc2 = Linear(120, 84, rngs=rngs)
        self.fc = Linear(84, num_classes, rngs=rngs)

    def __call__(self, x: Float[Array, "batch point"], key: DropoutKey) -> Float[Array, "batch class"]:
        y = relu(self.conv1(x[..., None]))
        y = dropout(max_pool(y, 2, 2), 0.2, key, 0)
        y = relu(self.conv3(relu(self.conv2(y))))
        y = dropout(max_pool(y, 2, 2), 0.2, key, 1)
        y = relu(self.conv5(relu(self.conv4(y))))
        y = dropout(max_pool(y, 2, 2), 0.2, key, 2)
        y = relu(self.conv7(relu(self.conv6(y))))
        y = dropout(max_pool(y, 2, 2), 0.2, key, 3)
        y = relu(self.fc1(flatten(y)))
        y = relu(self.fc2(y))
        return self.fc(y)


class CNN5(nnx.Module):
    """Three small strided convolutions and one linear layer.

    As published: softmax.

    Reference: P. M. Maffettone et al., Nature Computational Science 1, 290 (2021).
    """

    def __init__(self, num_classes: int, *, rngs: nnx.Rngs):
        self.conv1 = Convolution(1, 8, 5, stride=2, rngs=rngs)
        self.conv2 = Convolution(8, 8, 5, stride=2, rngs=rngs)
        self.conv3 = Convolution(8, 4, 5, stride=2, rngs=rngs)
        self.fc = Linear(1740, num_classes, rngs=rngs)

    def __call__(self, x: Float[Array, "batch point"], key: DropoutKey) -> Float[Array, "batch class"]:
        y = x[..., None]
        for layer in (self.conv1, self.conv2, self.conv3):
            y = leaky_relu(layer(y), 0.2)
        return self.fc(dropout(flatten(y), 0.4, key, 0))


class CNN6(nnx.Module):
    """Seven wide convolutions, five maximum pools, three linear layers.

    As published: softmax.

    Reference: H. Dong et al., npj Computational Materials 7, 74 (2021).
    """

    def __init__(self, num_classes: int, *, rngs: nnx.Rngs):
        self.conv1 = Convolution(1, 128, 35, padding=17, rngs=rngs)
        self.conv2 = Convolution(128, 128, 35, padding=17, rngs=rngs)
        self.conv3 = Convolution(128, 128, 35, padding=17, rngs=rngs)
        self.conv4 = Convolution(128, 64, 30, rngs=rngs)
        self.conv5 = Convolution(64, 64, 25, rngs=rngs)
        self.conv6 = Convolution(64, 64, 25, rngs=rngs)
        self.conv7 = Convolution(64, 64, 25, rngs=rngs)
        self.fc1 = Linear(5504, 500, rngs=rngs)
        self.fc2 = Linear(500, 250, rngs=rngs)
        self.fc = Linear(250, num_classes, rngs=rngs)

    def __call__(self, x: Float[Array, "batch point"], key: DropoutKey) -> Float[Array, "batch class"]:
        y = leaky_relu(self.conv1(x[..., None]))
        y = leaky_relu(self.conv2(y))
        for layer in (self.conv3, self.conv4, self.conv5, self.conv6, self.conv7):
            y = max_pool(leaky_relu(layer(y)), 2, 2)
        y = dropout(self.fc1(leaky_relu(flatten(y))), 0.1, key, 0)
        y = dropout(self.fc2(leaky_relu(y)), 0.1, key, 1)
        return self.fc(leaky_relu(y))


class CNN7(nnx.Module):
    """Six convolutions of 64 channels with narrowing kernels, two linear layers with batch normalisation between.

    As published: softmax.

    Reference: N. J. Szymanski et al., Chemistry of Materials 33, 4204 (2021).
    """

    def __init__(self, num_classes: int, *, rngs: nnx.Rngs):
        self.conv1 = Convolution(1, 64, 35, padding=17, rngs=rngs)
        self.conv2 = Convolution(64, 64, 30, padding=15, rngs=rngs)
        self.conv3 = Convolution(64, 64, 25, padding=12, rngs=rngs)
        self.conv4 = Convolution(64, 64, 20, padding=10, rngs=rngs)
        self.conv5 = Convolution(64, 64, 15, padding=7, rngs=rngs)
        self.conv6 = Convolution(64, 64, 10, padding=5, rngs=rngs)
        self.fc1 = Linear(4544, 1200, rngs=rngs)
        self.norm = BatchNorm(1200)
        self.fc = Linear(1200, num_classes, rngs=rngs)

    def __call__(self, x: Float[Array, "batch point"], key: DropoutKey) -> Float[Array, "batch class"]:
        y = max_pool(relu(self.conv1(x[..., None])), 3, 2, 1)
        y = max_pool(relu(self.conv2(y)), 3, 2, 1)
        y = max_pool(relu(self.conv3(y)), 2, 2)
        for layer in (self.conv4, self.conv5, self.conv6):
            y = max_pool(relu(layer(y)), 1, 2)
        y = self.norm(relu(self.fc1(flatten(y))), training=key is not None)
        return self.fc(dropout(y, 0.7, key, 0))


class CNN8(nnx.Module):
    """Fourteen convolutions and thirteen maximum pools, down to one position and no linear layer.

    As published: softmax.

    Args:
      hidden: channels of the thirteenth convolution.
      rates: dropout of the first eleven convolutions, and of the next two.

    Reference: B. D. Lee et al., Advanced Intelligent Systems 4, 2200042 (2022).
    """

    CHANNELS = (1, 16, 16, 32, 32, 64, 64, 128, 128, 256, 256, 512, 512)

    def __init__(self, num_classes: int, *, hidden: int, rates: tuple[float, float], rngs: nnx.Rngs):
        widths = (*self.CHANNELS, hidden)
        self.convs = nnx.List(
            [
                Convolution(a, b, 3, padding=1, kernel_bound=xavier_bound(a, b, 3), rngs=rngs)
                for a, b in itertools.pairwise(widths)
            ]
        )
        self.fc = Convolution(hidden, num_classes, 1, kernel_bound=xavier_bound(hidden, num_classes), rngs=rngs)
        self.rates = rates

    def __call__(self, x: Float[Array, "batch point"], key: DropoutKey) -> Float[Array, "batch class"]:
        y = x[..., None]
        last = len(self.convs) - 1
        for i, layer in enumerate(self.convs):
            y = layer(y) if i == last else leaky_relu(layer(y))
            y = dropout(max_pool(y, 2, 2), self.rates[i >= 11], key, i)
        return self.fc(y)[:, 0]


class CNN9(nnx.Module):
    """Three convolutions of 27 channels with maximum pools, two linear layers.

    Reference: Le et al. (2023), the network for the Materials Project.
    """

    def __init__(self, num_classes: int, *, rngs: nnx.Rngs):
        self.conv1 = Convolution(1, 27, 11, rngs=rngs)
        self.conv2 = Convolution(27, 27, 11, rngs=rngs)
        self.conv3 = Convolution(27, 27, 11, rngs=rngs)
        self.fc1 = Linear(11556, 2000, rngs=rngs)
        self.fc = Linear(2000, num_classes, rngs=rngs)

    def __call__(self, x: Float[Array, "batch point"], key: DropoutKey) -> Float[Array, "batch class"]:
        y = x[..., None]
        for i, layer in enumerate((self.conv1, self.conv2, self.conv3)):
            y = dropout(max_pool(relu(layer(y)), 2, 2), 0.21, key, i)
        y = dropout(relu(self.fc1(flatten(y))), 0.21, key, 3)
        return self.fc(y)


class CNN10(nnx.Module):
    """Four convolutions of 24 channels with maximum pools, two linear layers.

    Reference: Le et al. (2023), the network for the ICSD.
    """

    def __init__(self, num_classes: int, *, rngs: nnx.Rngs):
        self.conv1 = Convolution(1, 24, 12, rngs=rngs)
        self.conv2 = Convolution(24, 24, 12, rngs=rngs)
        self.conv3 = Convolution(24, 24, 12, rngs=rngs)
        self.conv4 = Convolution(24, 24, 12, rngs=rngs)
        self.fc1 = Linear(4992, 2000, rngs=rngs)
        self.fc = Linear(2000, num_classes, rngs=rngs)

    def __call__(self, x: Float[Array, "batch point"], key: DropoutKey) -> Float[Array, "batch class"]:
        y = x[..., None]
        for i, layer in enumerate((self.conv1, self.conv2, self.conv3, self.conv4)):
            y = dropout(max_pool(relu(layer(y)), 2, 2), 0.33, key, i)
        y = dropout(relu(self.fc1(flatten(y))), 0.33, key, 4)
        return self.fc(y)


class CNN11(nnx.Module):
    """Three strided convolutions of 80 channels without a pool, three linear layers.

    Reference: J. E. Salgado et al., npj Computational Materials 9, 214 (2023).
    """

    def __init__(self, num_classes: int, *, rngs: nnx.Rngs):
        self.conv1 = Convolution(1, 80, 100, stride=5, rngs=rngs)
        self.conv2 = Convolution(80, 80, 50, stride=5, rngs=rngs)
        self.conv3 = Convolution(80, 80, 25, stride=2, rngs=rngs)
        self.fc1 = Linear(12160, 2300, rngs=rngs)
        self.fc2 = Linear(2300, 1150, rngs=rngs)
        self.fc = Linear(1150, num_classes, rngs=rngs)

    def __call__(self, x: Float[Array, "batch point"], key: DropoutKey) -> Float[Array, "batch class"]:
        y = x[..., None]
        for i, layer in enumerate((self.conv1, self.conv2, self.conv3)):
            y = dropout(relu(layer(y)), 0.3, key, i)
        y = dropout(relu(self.fc1(flatten(y))), 0.5, key, 3)
        y = dropout(relu(self.fc2(y)), 0.5, key, 4)
        return self.fc(y)
