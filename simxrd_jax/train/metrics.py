"""Host and device. What is counted while a network is evaluated, and the scores made of the counts.

Counting (`update`) is pure and of fixed size, so that it can stand inside a jitted evaluation step; scores (`summarize`) are
made on the host in float64. Macro scores are those of scikit-learn with its defaults, which is not needed to run: averaged
over the classes that occur in the labels or in the predictions, 0 where a score is undefined.

Counts are int32 (exact to 2^31 samples). The two sums of real numbers, the loss and the confidence of each calibration bin,
are kept as a number and what rounding took from it, so that float32 loses no digits over millions of samples: 1e6 terms
agree with their float64 sum to 3e-10 in one batch and to 1e-13 in 1,000, a plain float32 sum to 5e-4.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax import lax
from jaxtyping import Bool, Float, Int

from simxrd_jax.errors import InputError
from simxrd_jax.types import Array

TOP = (1, 3, 5)
NOT_FINITE = "the network's outputs are not finite numbers; train with a smaller learning rate or clip gradients"
CALIBRATION_BINS = 15  # as Guo et al. (2017)
# Classes by their number of training structures: first and last of each bin.
FREQUENCY_BINS = ((0, 0), (1, 4), (5, 9), (10, 49), (50, 99), (100, 499), (500, 999), (1000, None))


@struct.dataclass
class Evaluation:
    """Counts of an evaluation.

    Attributes:
      confusion: samples by label (row) and prediction (column).
      top_hits: samples of each class whose label is among the TOP highest outputs; of equal outputs the first counts higher.
      bin_count, bin_correct: samples by confidence, the probability of the prediction, and how many of them are right.
      bin_confidence: sum of the confidences, and what rounding took from it.
      loss: sum of -log(probability of the label), and what rounding took from it.
      outside: samples whose label is none of the classes; they are counted here alone.
    """

    confusion: Int[Array, "class class"]
    top_hits: Int[Array, "top class"]
    bin_count: Int[Array, " bin"]
    bin_correct: Int[Array, " bin"]
    bin_confidence: Float[Array, "2 bin"]
    loss: Float[Array, "2"]
    outside: Int[Array, ""]


def empty_evaluation(num_classes: int) -> Evaluation:
    """An evaluation of no sample."""
    return Evaluation(
        confusion=jnp.zeros((num_classes, num_classes), jnp.int32),
        top_hits=jnp.zeros((len(TOP), num_classes), jnp.int32),
        bin_count=jnp.zeros(CALIBRATION_BINS, jnp.int32),
        bin_correct=jnp.zeros(CALIBRATION_BINS, jnp.int32),
        bin_confidence=jnp.zeros((2, CALIBRATION_BINS)),
        loss=jnp.zeros(2),
        outside=jnp.zeros((), jnp.int32),
    )


@jax.jit
def update(
    evaluation: Evaluation,
    probabilities: Float[Array, "batch class"],
    labels: Int[Array, " batch"],
    valid: Bool[Array, " batch"] | None = None,
) -> Evaluation:
    """The evaluation with a batch added.

    Args:
      evaluation: so far.
      probabilities: of each class, summing to 1; of logits take their softmax first. One that is 0 counts in the loss as the
        least normal number (87.3 in float32).
      labels: class indices; one that is no index of a class is counted as `outside`.
      valid: False on padding, which is not counted; None is all True.
    """
    p = jnp.asarray(probabilities, evaluation.loss.dtype)
    labels = jnp.asarray(labels)
    classes = p.shape[1]
    is_valid = jnp.ones(labels.shape, bool) if valid is None else jnp.asarray(valid)
    is_class = (labels >= 0) & (labels < classes)
    is_counted = is_valid & is_class
    one = is_counted.astype(jnp.int32)
    label = jnp.where(is_class, labels, 0)

    prediction = jnp.argmax(p, axis=1)
    of_label = jnp.take_along_axis(p, label[:, None], axis=1)
    is_higher = (p > of_label) | ((p == of_label) & (jnp.arange(classes) < label[:, None]))
    rank = jnp.sum(is_higher, axis=1)
    is_hit = one * (rank < jnp.asarray(TOP)[:, None])

    confidence = jnp.max(p, axis=1)
    # Bins are open below and closed above: the sixth of 15 is (1/3, 2/5].
    place = jnp.clip(jnp.ceil(confidence * CALIBRATION_BINS).astype(jnp.int32) - 1, 0, CALIBRATION_BINS - 1)
    is_in_bin = is_counted[:, None] & (place[:, None] == jnp.arange(CALIBRATION_BINS))
    loss = -jnp.log(jnp.maximum(of_label[:, 0], jnp.finfo(p.dtype).tiny))
    return Evaluation(
        confusion=evaluation.confusion.at[label, prediction].add(one),
        top_hits=evaluation.top_hits + jax.vmap(jnp.zeros(classes, jnp.int32).at[label].add)(is_hit),
        bin_count=evaluation.bin_count.at[place].add(one),
        bin_correct=evaluation.bin_correct.at[place].add(one * (prediction == label)),
        bin_confidence=_add(evaluation.bin_confidence, jnp.where(is_in_bin, confidence[:, None], 0.0)),
        loss=_add(evaluation.loss, jnp.where(is_counted, loss, 0.0)),
        outside=evaluation.outside + jnp.sum(is_valid & ~is_class, dtype=jnp.int32),
    )


def _add(total: Float[Array, "2 *kept"], values: Float[Array, "batch *kept"]) -> Float[Array, "2 *kept"]:
    """A sum and its remainder, with values added, whatever the order, without losing a digit of the remainder.

    Reference: Ogita, Rump & Oishi (2005), SIAM J. Sci. Comput. 26, 1955, algorithm 3.1 (the sum of two numbers, by Knuth).
    """

    def of_two(a: tuple[Any, Any], b: tuple[Any, Any]) -> tuple[Any, Any]:
        total = a[0] + b[0]
        from_b = total - a[0]
        return total, a[1] + b[1] + ((a[0] - (total - from_b)) + (b[0] - from_b))

    zero = jnp.zeros((), values.dtype)
    batch = lax.reduce((values, jnp.zeros_like(values)), (zero, zero), of_two, (0,))
    return jnp.stack(of_two((total[0], total[1]), (batch[0], batch[1])))


def collapse(evaluation: Evaluation | np.ndarray, groups: Int[np.ndarray, " class"]) -> float:
    """Accuracy after labels and predictions are replaced by their groups, as space groups by their extinction groups.

    The prediction is the most probable class, then its group; the most probable group can be another.

    Args:
      evaluation: or its confusion matrix.
      groups: group of each class.

    Raises:
      InputError: no samples, or a table for another number of classes.
    """
    confusion = checked_confusion(evaluation.confusion if isinstance(evaluation, Evaluation) else evaluation)
    table = np.asarray(groups)
    if table.shape != confusion.shape[:1]:
        raise InputError(f"the table of groups has {table.size} classes, the evaluation {len(confusion)}; give one for each")
    return float(confusion[table[:, None] == table].sum() / confusion.sum())


def summarize(
    evaluation: Evaluation, class_names: Sequence[str], train_counts: Int[np.ndarray, " class"] | None = None
) -> dict[str, Any]:
    """All scores as plain numbers, ready for JSON; None where there is nothing to average.

    Args:
      evaluation: of one sample or more.
      class_names: in the order of the outputs.
      train_counts: training structures of each class, for the frequency bins and the majority baseline.

    Returns:
      samples and outside (see `Evaluation`); accuracy, macro_f1, macro_precision, macro_recall, balanced_accuracy (mean recall
      of the classes in the labels), top_1, top_3, top_5; expected_calibration_error = sum_b n_b/n |accuracy_b - confidence_b|
      over CALIBRATION_BINS bins of confidence of equal width; negative_log_likelihood; classes_in_labels,
      classes_in_predictions; classes, one row of name, precision, recall, f1 and support for each class that occurs.
      With `train_counts`: majority (see `constant_predictor`, with its class), and frequency_bins: bin, classes (how many have
      so many training structures), present (how many of them occur), samples, accuracy, and macro_f1 over those present.

    Raises:
      InputError: no samples, outputs that were not finite, or names or counts of another number of classes.

    Reference: Guo, Pleiss, Sun & Weinberger (2017), ICML, equation 3 (calibration error).
    """
    confusion = checked_confusion(evaluation.confusion)
    loss = float(np.asarray(evaluation.loss, np.float64).sum())
    if not np.isfinite(loss):
        raise InputError(NOT_FINITE)
    for what, given in (("names", class_names), ("training counts", train_counts)):
        if given is not None and len(given) != len(confusion):
            raise InputError(f"there are {len(given)} {what} for {len(confusion)} classes; give one for each")
    samples = int(confusion.sum())
    support, predicted = confusion.sum(axis=1), confusion.sum(axis=0)
    scores = _class_scores(np.diag(confusion), support, predicted)
    top = np.asarray(evaluation.top_hits, np.int64).sum(axis=1) / samples
    confidence = np.asarray(evaluation.bin_confidence, np.float64).sum(axis=0)
    result: dict[str, Any] = {
        "samples": samples,
        "outside": int(evaluation.outside),
        "accuracy": float(np.trace(confusion) / samples),
        **_macro(scores),
        "balanced_accuracy": float(scores["recall"][support > 0].mean()),
        **{f"top_{k}": float(share) for k, share in zip(TOP, top, strict=True)},
        "expected_calibration_error": float(np.abs(np.asarray(evaluation.bin_correct) - confidence).sum() / samples),
        "negative_log_likelihood": loss / samples,
        "classes_in_labels": int(np.count_nonzero(support)),
        "classes_in_predictions": int(np.count_nonzero(predicted)),
    }
    if train_counts is not None:
        counts = _checked_counts(train_counts)
        majority = int(np.argmax(counts))
        result["majority"] = {"class": class_names[majority], **constant_predictor(support, counts)}
        result["frequency_bins"] = [_frequency_bin(confusion, scores, counts, *ends) for ends in FREQUENCY_BINS]
    result["classes"] = [
        {
            "name": str(name),
            **{score: float(scores[score][i]) for score in ("precision", "recall", "f1")},
            "support": int(support[i]),
        }
        for i, name in enumerate(class_names)
        if scores["occurs"][i]
    ]
    return result


def constant_predictor(
    counts: Int[np.ndarray, " class"],
    known: Int[np.ndarray, " class"] | None = None,
    groups: Int[np.ndarray, " class"] | None = None,
) -> dict[str, float]:
    """Scores of giving one answer always: the most frequent classes, the most frequent first; of the groups, the answer's own,
    or the most frequent one where `known` is None.

    Args:
      counts: samples of each class.
      known: counts by which classes are frequent, as those of the training; None is `counts`.
      groups: group of each class, see `collapse`.

    Returns:
      accuracy, macro_f1, macro_precision, macro_recall, balanced_accuracy, top_1, top_3, top_5, and with `groups` the
      accuracy of the group, extinction_group_accuracy.

    Raises:
      InputError: counts that are no counts, or none at all.
    """
    support = _checked_counts(counts)
    order = np.argsort(-(support if known is None else _checked_counts(known)), kind="stable")
    predictions = np.zeros_like(support)
    predictions[order[0]] = support.sum()
    hits = np.minimum(support, predictions)
    scores = _class_scores(hits, support, predictions)
    made = {
        "accuracy": float(support[order[0]] / support.sum()),
        **_macro(scores),
        "balanced_accuracy": float(scores["recall"][support > 0].mean()),
        **{f"top_{k}": float(support[order[:k]].sum() / support.sum()) for k in TOP},
    }
    if groups is not None:
        of_group = np.bincount(groups, support)
        answered = of_group.max() if known is None else of_group[groups[order[0]]]
        made["extinction_group_accuracy"] = float(answered / support.sum())
    return made


def _class_scores(hits: np.ndarray, support: np.ndarray, predicted: np.ndarray) -> dict[str, np.ndarray]:
    """Precision, recall and F1 of each class, 0 where undefined, and whether it occurs in labels or predictions."""
    with np.errstate(invalid="ignore"):
        precision, recall, f1 = (
            np.nan_to_num(hits / count, nan=0.0) for count in (predicted, support, (support + predicted) / 2)
        )
    return {"precision": precision, "recall": recall, "f1": f1, "occurs": (support + predicted) > 0}


def _macro(scores: dict[str, np.ndarray]) -> dict[str, float]:
    return {f"macro_{name}": float(scores[name][scores["occurs"]].mean()) for name in ("f1", "precision", "recall")}


def _frequency_bin(
    confusion: np.ndarray, scores: dict[str, np.ndarray], counts: np.ndarray, first: int, last: int | None
) -> dict[str, Any]:
    members = (counts >= first) & (counts <= (np.inf if last is None else last))
    present = members & scores["occurs"]
    samples = int(confusion[members].sum())
    if last == 0:
        name = "never seen in training"
    else:
        name = f">={first}" if last is None else f"{first}-{last}"
    return {
        "bin": name,
        "classes": int(members.sum()),
        "present": int(present.sum()),
        "samples": samples,
        "accuracy": float(np.diag(confusion)[members].sum() / samples) if samples else None,
        "macro_f1": float(scores["f1"][present].mean()) if present.any() else None,
    }


def checked_confusion(confusion: Any) -> np.ndarray:
    matrix = np.asarray(confusion, dtype=np.int64)
    if not matrix.any():
        raise InputError("the evaluation holds no labelled samples; evaluate a part or a set of patterns that has some")
    return matrix


def _checked_counts(counts: Any) -> np.ndarray:
    values = np.asarray(counts)
    if values.ndim != 1 or values.dtype.kind not in "iu" or values.min(initial=0) < 0 or not values.any():
        raise InputError("the samples of each class must be whole numbers from 0, not all 0; count them anew")
    return values.astype(np.int64)
