"""Host and device. What is counted while a network is evaluated, and the scores made of the counts.

Counting (`update`) is pure and of fixed size, so that it can stand inside a jitted evaluation step; scores (`summarize`) are
made on the host in float64. Macro scores are those of scikit-learn with its defaults, which is not needed to run: averaged
over the classes that occur in the labels or in the predictions, 0 where a score is undefined.

Counts are int32 (exact to 2^31 samples). The two sums of real numbers, the loss and the confidence of each calibration bin,
are kept as a number and what rounding took from it, so that float32 loses no digits over millions of samples: 1e6 terms
agree with their float64 sum to 3e-10 in one batch and to 1e-13 in 1,000, a plain float32 sum to 5e-4.
"""

from __future__ import annotations

import itertools
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax import lax
from jaxtyping import Bool, Float, Int
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from simxrd_jax.crystal.structure import CRYSTAL_SYSTEMS
from simxrd_jax.errors import InputError
from simxrd_jax.io.xy import check_target, write_together
from simxrd_jax.plots import INK, PHASE_COLOURS, figure_bytes
from simxrd_jax.types import Array

TOP = (1, 3, 5)
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


def sum_by_group(probabilities: Float[Array, "batch class"], groups: Int[np.ndarray, " class"]) -> Float[Array, "batch group"]:
    """Probabilities of groups of classes, for an evaluation of the groups themselves (`update` with `groups[labels]`).

    Args:
      probabilities: of each class.
      groups: group of each class, from 0.
    """
    membership = np.asarray(groups)[:, None] == np.arange(np.max(groups) + 1)
    p = jnp.asarray(probabilities)
    return jnp.matmul(p, jnp.asarray(membership, p.dtype), precision=lax.Precision.HIGHEST)


def collapse(evaluation: Evaluation | np.ndarray, groups: Int[np.ndarray, " class"]) -> float:
    """Accuracy after labels and predictions are replaced by their groups, as space groups by their extinction groups.

    This is the number that the project's tables print as collapsed: the prediction is the most probable class, then its group.
    The most probable group (`sum_by_group`) can be another and is right more often.

    Args:
      evaluation: or its confusion matrix.
      groups: group of each class.

    Raises:
      InputError: no samples, or a table for another number of classes.
    """
    confusion = _checked(evaluation.confusion if isinstance(evaluation, Evaluation) else evaluation)
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
    confusion = _checked(evaluation.confusion)
    loss = float(np.asarray(evaluation.loss, np.float64).sum())
    if not np.isfinite(loss):
        raise InputError("the network's outputs are not finite numbers; train with a smaller learning rate or clip gradients")
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
        result["majority"] = {"class": class_names[majority], **constant_predictor(support, majority)}
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


def constant_predictor(counts: Int[np.ndarray, " class"], predicted: int | None = None) -> dict[str, float]:
    """Scores of answering one class always.

    Args:
      counts: samples of each class.
      predicted: the answer; None is the most frequent class.

    Returns:
      accuracy, macro_f1, macro_precision, macro_recall.

    Raises:
      InputError: counts that are no counts, or none at all.
    """
    support = _checked_counts(counts)
    answer = int(np.argmax(support)) if predicted is None else predicted
    predictions = np.zeros_like(support)
    predictions[answer] = support.sum()
    hits = np.minimum(support, predictions)
    return {"accuracy": float(support[answer] / support.sum()), **_macro(_class_scores(hits, support, predictions))}


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


def _checked(confusion: Any) -> np.ndarray:
    matrix = np.asarray(confusion, dtype=np.int64)
    if not matrix.any():
        raise InputError("the evaluation holds no labelled samples; evaluate a part or a set of patterns that has some")
    return matrix


def _checked_counts(counts: Any) -> np.ndarray:
    values = np.asarray(counts)
    if values.ndim != 1 or values.dtype.kind not in "iu" or values.min(initial=0) < 0 or not values.any():
        raise InputError("the samples of each class must be whole numbers from 0, not all 0; count them anew")
    return values.astype(np.int64)


MAX_CELL_NUMBERS = 12  # classes up to which the share is printed in each cell
MAX_TICKS = 24
LEAST_SHARE = 1e-3  # end of the logarithmic colours


def draw_confusion(
    confusion: Int[np.ndarray, "class class"], class_names: Sequence[str], path: str | os.PathLike[str]
) -> None:
    """Writes a picture of a confusion matrix, each row divided by its sum.

    Few classes get linear colours and the per cents in the cells; many get logarithmic colours, so that the rare mistakes
    show, and lines between the crystal systems. Rows of classes without samples are grey.

    Args:
      confusion: samples by label (row) and prediction (column).
      class_names: space groups by their numbers, others by a name; a first word that is a crystal system sorts them in.
      path: of the picture.

    Raises:
      InputError: no samples, names of another number, or a path that cannot be written.
    """
    matrix = _checked(confusion)
    if len(class_names) != len(matrix):
        raise InputError(f"there are {len(class_names)} names for {len(matrix)} classes; give one for each")
    target = check_target(path)
    write_together({target: figure_bytes(_confusion_figure(matrix, class_names), pathlib.Path(target))})


def _confusion_figure(matrix: np.ndarray, class_names: Sequence[str]) -> Figure:
    is_small = len(matrix) <= MAX_CELL_NUMBERS
    support = matrix.sum(axis=1)
    shares = np.where(support[:, None] > 0, matrix / np.maximum(support, 1)[:, None], np.nan)
    figure = Figure(figsize=(6.4, 5.6) if is_small else (8.6, 7.6), facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set_facecolor("#d9d9d9")
    if is_small:
        image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        _print_shares(axes, shares)
    else:
        colours = colormaps["magma_r"].with_extremes(under="white")
        # Below the scale's end stands nothing but 0.
        shown = np.where(shares == 0, 0.1 * LEAST_SHARE, np.maximum(shares, LEAST_SHARE))
        image = axes.imshow(shown, cmap=colours, norm=LogNorm(LEAST_SHARE, 1), interpolation="none")
    every = -(-len(matrix) // MAX_TICKS)
    systems = [_crystal_system(name) for name in class_names]
    is_grouped = not is_small and None not in systems
    ticks = np.arange(0, len(matrix), every)
    # Names of extinction groups are too long for ticks: there the system's own label tells where one is.
    is_short = max(len(name) for name in class_names) <= 14
    labels = [name if is_short else str(i + 1) for i, name in enumerate(class_names)][::every]
    axes.set_xticks(ticks, labels, rotation=90 if every > 1 else 45, ha="center" if every > 1 else "right")
    axes.set_yticks(ticks, labels)
    axes.tick_params(labelsize=7 if every > 1 else 9, length=2, rotation_mode="anchor" if every == 1 else "default")
    unit = "" if is_short else " (number in the list of classes)"
    axes.set_xlabel("predicted" + unit)
    axes.set_ylabel("labelled" + unit)
    if is_grouped:
        _mark_systems(axes, [str(system) for system in systems])
    right = np.trace(matrix) / matrix.sum()
    note = "" if support.all() else "; grey rows hold no samples"
    axes.set_title(f"{matrix.sum():,} samples, {100 * right:.1f} % on the diagonal{note}", loc="left", fontsize=9, pad=16)
    bar = figure.colorbar(image, ax=axes, fraction=0.046, pad=0.02, extend="neither" if is_small else "min")
    bar.set_label("share of the label's samples", fontsize=8)
    bar.ax.tick_params(labelsize=7)
    figure.tight_layout()
    return figure


def _print_shares(axes: Any, shares: np.ndarray) -> None:
    for (i, j), share in np.ndenumerate(shares):
        if np.isfinite(share) and share > 0:
            text = f"{100 * share:.0f}" if share >= 0.01 else "<1"
            axes.text(j, i, text, ha="center", va="center", fontsize=8, color="white" if share > 0.55 else INK)


def _mark_systems(axes: Any, systems: Sequence[str]) -> None:
    """Lines where the crystal system changes, and its name over its columns."""
    edges = [0, *(i for i in range(1, len(systems)) if systems[i] != systems[i - 1]), len(systems)]
    for first, last in itertools.pairwise(edges):
        name = systems[first]
        is_narrow = last - first < len(systems) / 12
        # The triclinic column is too narrow even for a short name, which then stands to its left.
        place, side = (last - 0.5, "right") if not first else ((first + last - 1) / 2, "center")
        text = f"{name[:4]}." if is_narrow else name
        axes.text(place, -1.5, text, ha=side, va="bottom", fontsize=7, color=INK)
        if first:
            axes.axhline(first - 0.5, color=PHASE_COLOURS[0], linewidth=0.5)
            axes.axvline(first - 0.5, color=PHASE_COLOURS[0], linewidth=0.5)


def _crystal_system(class_name: str) -> str | None:
    """Crystal system of a class that is a space-group number or whose first word is one; None of others."""
    first = class_name.split(" ", 1)[0]
    if first.isdecimal():
        return next((system for last, system in CRYSTAL_SYSTEMS if 1 <= int(first) <= last), None)
    return first if first in {system for _, system in CRYSTAL_SYSTEMS} else None
