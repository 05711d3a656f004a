"""Device zone. Losses of classification, sample by sample, and the four answers to imbalanced classes.

All are made of the categorical cross-entropy of logits. The published benchmark's loss is that too, applied to whatever its
networks return: for the nine whose outputs are probabilities it took a softmax of probabilities. Nothing special is needed
to repeat it: `cross_entropy` on the output of an `as_published` model is that loss, floor included (1.1654 for 7 classes and
4.4455 for 230 after one softmax too many).

Classes without training samples count as if they had one: an effective number of 0 would make an infinite weight, a prior of
0 an infinite logit. Their weight is then that of the rarest class.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Float, Int

from simxrd_jax.conditions import nearest
from simxrd_jax.errors import InputError
from simxrd_jax.types import Array

LossFunction = Callable[[Float[Array, "batch class"], Int[Array, " batch"]], Float[Array, " batch"]]
LOSSES = ("cross_entropy", "focal", "class_balanced", "logit_adjusted")


@dataclass(frozen=True)
class Loss:
    """Which loss, and its numbers; those of other losses are ignored.

    Attributes:
      name: one of LOSSES.
      label_smoothing: share of the target spread over all classes, the right one included; not for `focal`.
      focal_gamma: exponent of `focal`; 0 is the cross-entropy.
      class_balanced_beta: beta of the effective number of `class_balanced`; 0 is the cross-entropy, 1 (excluded) the inverse
        frequency.
      logit_adjustment_tau: strength of `logit_adjusted`; 0 is the cross-entropy.

    Raises:
      InputError: an unknown name, or a number outside its range.
    """

    name: str = "cross_entropy"
    label_smoothing: float = 0.0
    focal_gamma: float = 2.0
    class_balanced_beta: float = 0.999
    logit_adjustment_tau: float = 1.0

    def __post_init__(self) -> None:
        if self.name not in LOSSES:
            raise InputError(f"there is no loss {self.name!r}{nearest(self.name, dict.fromkeys(LOSSES))}")
        for field in ("label_smoothing", "focal_gamma", "class_balanced_beta", "logit_adjustment_tau"):
            value = getattr(self, field)
            if isinstance(value, bool) or not isinstance(value, numbers.Real):
                raise InputError(f"the loss's {field} is {value!r}; give a number")
        for field in ("label_smoothing", "class_balanced_beta"):
            if not 0 <= getattr(self, field) < 1:
                raise InputError(f"the loss's {field} is {getattr(self, field)!r}; give a number from 0 to below 1")
        for field in ("focal_gamma", "logit_adjustment_tau"):
            if not (math.isfinite(getattr(self, field)) and getattr(self, field) >= 0):
                raise InputError(f"the loss's {field} is {getattr(self, field)!r}; give a number from 0")
        if self.name == "focal" and self.label_smoothing:
            raise InputError(
                "the focal loss is not defined for smoothed labels; set label_smoothing to 0 or take another loss"
            )


def make_loss(config: Loss, class_counts: np.ndarray) -> LossFunction:
    """The loss of each sample as a function of logits [batch, class] and labels [batch].

    Args:
      config: which.
      class_counts: training samples of each class, in the order of the logits.

    Raises:
      InputError: counts that are no counts, or none at all.
    """
    counts = np.asarray(class_counts)
    if counts.ndim != 1 or counts.dtype.kind not in "iu" or counts.min(initial=0) < 0 or not counts.any():
        raise InputError("the training samples of each class must be whole numbers from 0, not all 0; count them anew")

    def smoothed(logits: Float[Array, "batch class"], labels: Int[Array, " batch"]) -> Float[Array, " batch"]:
        return cross_entropy(logits, labels, config.label_smoothing)

    if config.name == "focal":
        return lambda logits, labels: focal(logits, labels, config.focal_gamma)
    if config.name == "class_balanced":
        weights = class_balanced_weights(counts, config.class_balanced_beta)
        return lambda logits, labels: jnp.asarray(weights, logits.dtype)[labels] * smoothed(logits, labels)
    if config.name == "logit_adjusted":
        offsets = logit_offsets(counts, config.logit_adjustment_tau)
        return lambda logits, labels: smoothed(logits + jnp.asarray(offsets, logits.dtype), labels)
    return smoothed


def cross_entropy(
    logits: Float[Array, "batch class"], labels: Int[Array, " batch"], smoothing: float = 0.0
) -> Float[Array, " batch"]:
    """Categorical cross-entropy of smoothed labels.

    L = -sum_k t_k log p_k with t = (1 - e) onehot + e/K, p = softmax(logits).

    The sister benchmark XqueryerBench spreads e over the K - 1 wrong classes instead: its e is ours times (K - 1)/K.

    Args:
      logits: float32 at least.
      labels: class indices.
      smoothing: e.

    Reference: Szegedy et al. (2016), CVPR, section 7.
    """
    right = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    if not smoothing:
        return right
    mean_over_classes = jax.nn.logsumexp(logits, axis=-1) - jnp.mean(logits, axis=-1)
    return (1.0 - smoothing) * right + smoothing * mean_over_classes


def focal(logits: Float[Array, "batch class"], labels: Int[Array, " batch"], gamma: float) -> Float[Array, " batch"]:
    """Cross-entropy that counts well classified samples less.

    L = -(1 - p)^gamma log p, p the probability of the right class; no weights of classes (alpha = 1).

    Reference: Lin et al. (2017), ICCV, equation 4, for two classes; here with the softmax.
    """
    right = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    if not gamma:
        return right
    # At p = 1 the loss and its derivative are 0, but a power below 1 of 0 has no derivative.
    is_open = right > 0
    missing = -jnp.expm1(-jnp.where(is_open, right, 1.0))
    return jnp.where(is_open, missing**gamma * right, 0.0)


def class_balanced_weights(class_counts: Int[np.ndarray, " class"], beta: float) -> Float[np.ndarray, " class"]:
    """Weight of each class, the inverse of its effective number (1 - beta^n)/(1 - beta).

    Normalised to mean 1 over the training samples, not over the classes as in the paper: with a long tail the paper's mean
    over samples is far below 1, which acts as a smaller learning rate.

    Reference: Cui et al. (2019), CVPR, equation 6.
    """
    counted = np.maximum(class_counts, 1).astype(np.float64)
    effective = -np.expm1(counted * np.log(beta)) / (1.0 - beta) if beta else np.ones_like(counted)
    return np.sum(class_counts) / np.sum(class_counts / effective) / effective


def logit_offsets(class_counts: Int[np.ndarray, " class"], tau: float) -> Float[np.ndarray, " class"]:
    """What is added to logits in training: tau log(prior of the class); evaluation takes the bare logits.

    Reference: Menon et al. (2021), ICLR, equation 10.
    """
    counted = np.maximum(class_counts, 1)
    return tau * np.log(counted / counted.sum())
