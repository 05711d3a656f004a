"""Metrics: equality with scikit-learn, batches and masks, calibration and the published baseline by hand, pictures."""

from __future__ import annotations

import json
import pathlib
import warnings
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn import metrics as sk

from simxrd_jax.crystal.structure import CRYSTAL_SYSTEMS
from simxrd_jax.errors import InputError
from simxrd_jax.library.extinction_table import EXTINCTION_GROUP
from simxrd_jax.train.confusion_plot import MAX_TICKS, _confusion_figure, draw_confusion
from simxrd_jax.train.metrics import (
    FREQUENCY_BINS,
    TOP,
    Evaluation,
    collapse,
    constant_predictor,
    empty_evaluation,
    summarize,
    update,
)

IDENTITY = 1e-12  # float64 rounding
SYSTEMS = tuple(name for _, name in CRYSTAL_SYSTEMS)


@pytest.fixture
def x64() -> Iterator[None]:
    with jax.enable_x64(True):
        yield


def names(classes: int) -> list[str]:
    return [f"c{i}" for i in range(classes)]


def random_case(seed: int, classes: int, samples: int, labels_in: list[int], predictions_in: list[int]):
    """Probabilities without ties whose labels and predictions fall in given classes."""
    rng = np.random.default_rng(seed)
    p = rng.dirichlet(np.full(classes, 0.3), samples) + 1e-6
    allowed = rng.choice(predictions_in, samples)
    p[np.arange(samples), allowed] = p.max(axis=1) + rng.uniform(0.1, 1.0, samples)
    return p / p.sum(axis=1, keepdims=True), rng.choice(labels_in, samples)


CASES = {
    "all classes": (8, 400, range(8), range(8)),
    "in labels only": (8, 60, [0, 2, 5, 7], [0, 2]),
    "in predictions only": (8, 60, [0, 2], [0, 2, 5, 7]),
    "none in common": (6, 30, [0, 1], [3, 4]),
    "one class": (5, 20, [3], [3]),
    "one sample": (5, 1, [1], [2]),
    "230 classes": (230, 500, range(0, 230, 3), range(0, 230, 2)),
}


@pytest.mark.parametrize("case", CASES)
def test_equals_scikit_learn(case, x64):
    classes, samples, labels_in, predictions_in = CASES[case]
    for seed in range(3):
        p, labels = random_case(seed, classes, samples, list(labels_in), list(predictions_in))
        found = summarize(update(empty_evaluation(classes), p, labels), names(classes))
        said = p.argmax(axis=1)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            precision, recall, f1, _ = sk.precision_recall_fscore_support(labels, said, average="macro")
            rows = sk.precision_recall_fscore_support(labels, said)
            expected = {
                "accuracy": sk.accuracy_score(labels, said),
                "macro_f1": f1,
                "macro_precision": precision,
                "macro_recall": recall,
                "balanced_accuracy": sk.balanced_accuracy_score(labels, said),
                "negative_log_likelihood": sk.log_loss(labels, p, labels=np.arange(classes)),
                **{f"top_{k}": sk.top_k_accuracy_score(labels, p, k=k, labels=np.arange(classes)) for k in TOP if k < classes},
            }
        for name, value in expected.items():
            assert found[name] == pytest.approx(value, rel=IDENTITY, abs=IDENTITY), name
        occurring = np.union1d(labels, said)
        assert [row["name"] for row in found["classes"]] == [f"c{i}" for i in occurring]
        for column, values in zip(("precision", "recall", "f1", "support"), rows, strict=True):
            np.testing.assert_allclose([row[column] for row in found["classes"]], values, rtol=IDENTITY)
        np.testing.assert_array_equal(
            update(empty_evaluation(classes), p, labels).confusion,
            sk.confusion_matrix(labels, said, labels=np.arange(classes)),
        )
        assert found["classes_in_labels"] == len(np.unique(labels))
        assert found["classes_in_predictions"] == len(np.unique(said))


def test_batches_and_masks_give_the_same_as_all_at_once():
    p, labels = random_case(0, 12, 1000, list(range(12)), list(range(12)))
    whole = update(empty_evaluation(12), p, labels)
    parts = empty_evaluation(12)
    for first in range(0, 1000, 64):
        rows, wanted = p[first : first + 64], labels[first : first + 64]
        # Padding of a last batch: other samples, not counted.
        filled = np.resize(rows, (64, 12)), np.resize(wanted, 64)
        parts = update(parts, *filled, np.arange(64) < len(rows))
    for name in ("confusion", "top_hits", "bin_count", "bin_correct", "outside"):
        np.testing.assert_array_equal(getattr(parts, name), getattr(whole, name), name)
    one, other = summarize(whole, names(12)), summarize(parts, names(12))
    for name in ("negative_log_likelihood", "expected_calibration_error"):
        assert other[name] == pytest.approx(one[name], rel=1e-10)


def test_batches_of_one_shape_compile_once():
    p, labels = random_case(0, 11, 60, list(range(11)), list(range(11)))
    before = update._cache_size()
    evaluation = empty_evaluation(11)
    for first in range(0, 60, 20):
        evaluation = update(evaluation, p[first : first + 20], labels[first : first + 20])
    assert update._cache_size() == before + 1


def test_update_fits_into_a_scan():
    p, labels = random_case(1, 7, 96, list(range(7)), list(range(7)))
    add = lambda evaluation, batch: (update(evaluation, *batch), None)  # noqa: E731
    scanned, _ = jax.lax.scan(add, empty_evaluation(7), (p.reshape(8, 12, 7).astype(np.float32), labels.reshape(8, 12)))
    np.testing.assert_array_equal(scanned.confusion, update(empty_evaluation(7), p, labels).confusion)


@pytest.mark.parametrize("batches", [1, 500])
def test_float32_sums_lose_no_digits(batches):
    """Against the float64 sum of the same float32 terms; a plain float32 sum over the batches is off by far more."""
    rng = np.random.default_rng(3)
    samples = 100_000
    p = rng.dirichlet([0.6, 0.3, 0.1], samples).astype(np.float32)
    labels = rng.integers(0, 3, samples)
    evaluation = empty_evaluation(3)
    for rows, wanted in zip(np.split(p, batches), np.split(labels, batches), strict=True):
        evaluation = update(evaluation, rows, wanted)
    of_label = np.maximum(p[np.arange(samples), labels], np.finfo(np.float32).tiny)
    terms = -np.asarray(jnp.log(of_label), np.float64)
    assert np.asarray(evaluation.loss, np.float64).sum() == pytest.approx(terms.sum(), rel=1e-9)
    confidence = p.max(axis=1).astype(np.float64)
    assert np.asarray(evaluation.bin_confidence, np.float64).sum() == pytest.approx(confidence.sum(), rel=1e-9)
    plain = np.cumsum(terms.astype(np.float32), dtype=np.float32)[-1]
    assert abs(plain / terms.sum() - 1) > 1e-6


def test_ties_go_to_the_first_as_argmax():
    p = np.full((4, 4), 0.25)
    found = update(empty_evaluation(4), p, np.arange(4))
    np.testing.assert_array_equal(np.asarray(found.confusion)[:, 0], 1)
    np.testing.assert_array_equal(found.top_hits, [[1, 0, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1]])


def test_top_1_is_the_accuracy_and_top_k_grows():
    p, labels = random_case(4, 9, 300, list(range(9)), list(range(9)))
    found = summarize(update(empty_evaluation(9), p, labels), names(9))
    assert found["top_1"] == found["accuracy"]
    assert found["top_1"] < found["top_3"] < found["top_5"] < 1


def test_labels_outside_the_classes_are_counted_apart():
    p, labels = random_case(2, 5, 50, list(range(5)), list(range(5)))
    plain = update(empty_evaluation(5), p, labels)
    more = update(plain, p[:4], np.array([-1, 5, 99, -7]), np.array([True, True, True, False]))
    assert int(more.outside) == 3
    for name in ("confusion", "top_hits", "bin_count", "bin_correct", "bin_confidence", "loss"):
        np.testing.assert_array_equal(getattr(more, name), getattr(plain, name), name)
    assert summarize(more, names(5))["outside"] == 3


def test_order_of_samples_does_not_matter():
    p, labels = random_case(6, 7, 200, list(range(7)), list(range(7)))
    order = np.random.default_rng(0).permutation(200)
    one, other = (summarize(update(empty_evaluation(7), p[o], labels[o]), SYSTEMS) for o in (np.arange(200), order))
    for name, value in one.items():
        assert other[name] == (pytest.approx(value, rel=1e-9) if isinstance(value, float) else value), name


def two_class(confidence: np.ndarray) -> np.ndarray:
    return np.stack([confidence, 1 - confidence], axis=1)


def test_calibration_of_a_calibrated_predictor_is_zero():
    """In the middle of each bin the share of right answers is the confidence."""
    confidence, labels = [], []
    for middle in (np.arange(8, 15) + 0.5) / 15:
        right = round(middle * 3000)  # middles are n/30
        confidence += [middle] * 3000
        labels += [0] * right + [1] * (3000 - right)
    found = summarize(update(empty_evaluation(2), two_class(np.array(confidence)), np.array(labels)), names(2))
    assert found["expected_calibration_error"] == pytest.approx(0, abs=1e-7)  # float32 confidences


def test_calibration_of_overconfidence_is_its_excess():
    labels = np.repeat([0, 1], [700, 300])
    found = summarize(update(empty_evaluation(2), two_class(np.full(1000, 0.95)), labels), names(2))
    assert found["expected_calibration_error"] == pytest.approx(0.25, abs=1e-6)
    assert found["negative_log_likelihood"] == pytest.approx(-0.7 * np.log(0.95) - 0.3 * np.log(0.05), rel=1e-6)


def test_calibration_adds_bins_without_cancelling():
    """Too sure in one bin and too modest in another: mean confidence equals accuracy, the error does not vanish."""
    confidence = np.repeat([0.9, 0.7], 100)
    labels = np.concatenate([np.repeat([0, 1], [80, 20]), np.repeat([0, 1], [80, 20])])
    found = summarize(update(empty_evaluation(2), two_class(confidence), labels), names(2))
    assert found["expected_calibration_error"] == pytest.approx(0.1, abs=1e-6)


@pytest.mark.parametrize("numerator", range(8, 16))
def test_bins_are_closed_above(numerator, x64):
    at, above = numerator / 15, numerator / 15 * (1 + 1e-12)
    places = [
        int(np.argmax(update(empty_evaluation(2), two_class(np.array([v])), np.zeros(1, int)).bin_count)) for v in (at, above)
    ]
    assert places == [numerator - 1, min(numerator, 14)]


def test_zero_probability_of_the_label_is_finite():
    found = summarize(update(empty_evaluation(2), np.array([[1.0, 0.0]], np.float32), np.array([1])), names(2))
    assert found["negative_log_likelihood"] == pytest.approx(-np.log(np.finfo(np.float32).tiny), rel=1e-6)


# --- Baselines, frequency bins, groups -------------------------------------------------------------------------------------


def test_published_majority_baseline():
    """188 space groups present, P1 with 28,820 of 119,569 structures; the published rows of constant prediction say
    0.241 / 0.002 / 0.001 / 0.005. The other counts do not enter."""
    counts = np.zeros(230, int)
    counts[0], counts[1:188] = 28_820, (119_569 - 28_820) // 187
    counts[1] += 119_569 - counts.sum()
    assert counts.sum() == 119_569
    assert np.count_nonzero(counts) == 188
    found = constant_predictor(counts)
    rounded = {name: round(found[name], 5) for name in ("accuracy", "macro_f1", "macro_precision", "macro_recall")}
    assert rounded == {"accuracy": 0.24103, "macro_f1": 0.00207, "macro_precision": 0.00128, "macro_recall": 0.00532}


def test_published_crystal_systems():
    counts = np.array([38_774, 36_152, 24_208, 7_457, 6_838, 3_780, 2_360])
    labels = np.repeat(np.arange(7), counts)
    found = constant_predictor(counts)
    assert found["accuracy"] == pytest.approx(0.3243, abs=5e-5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = sk.precision_recall_fscore_support(labels, np.zeros_like(labels), average="macro")[:3]
    for name, value in zip(("macro_precision", "macro_recall", "macro_f1"), expected, strict=True):
        assert found[name] == pytest.approx(value, rel=IDENTITY)


def test_majority_of_the_training_may_be_absent_from_the_labels():
    p, labels = random_case(0, 4, 40, [1, 2], [1, 2])
    found = summarize(update(empty_evaluation(4), p, labels), names(4), np.array([9, 1, 1, 0]))["majority"]
    assert found.pop("class") == "c0"
    wanted = {"top_3": 1.0, "top_5": 1.0}  # of four classes
    assert found == {name: wanted.get(name, 0.0) for name in found}


def test_a_constant_answers_scores_are_those_of_predicting_it():
    """By the same counting as a network's, whose output is the same for every sample."""
    rng = np.random.default_rng(3)
    support, known = rng.integers(0, 9, 230), rng.permutation(230) + 1
    labels = np.repeat(np.arange(230), support)
    output = np.tile(known / known.sum(), (len(labels), 1))
    evaluation = update(empty_evaluation(230), output, labels)
    wanted = summarize(evaluation, names(230))
    found = constant_predictor(support, known, EXTINCTION_GROUP)
    assert found.pop("extinction_group_accuracy") == pytest.approx(collapse(evaluation, EXTINCTION_GROUP), abs=1e-12)
    assert found == pytest.approx({name: wanted[name] for name in found}, abs=1e-12)
    assert found["top_5"] > found["top_3"] > 0


def test_frequency_bins_cover_every_count_once():
    edges = np.arange(0, 1200)
    inside = [(edges >= first) & (edges <= (np.inf if last is None else last)) for first, last in FREQUENCY_BINS]
    np.testing.assert_array_equal(np.sum(inside, axis=0), 1)


def test_frequency_bins_by_hand():
    # Classes 0 and 1 have 4 and 1 training structures, 2 has 1000, 3 and 4 none; 4 never occurs.
    labels = np.array([0, 0, 1, 2, 2, 2, 3])
    said = np.array([0, 2, 1, 2, 2, 1, 2])
    evaluation = update(empty_evaluation(5), np.eye(5)[said], labels)
    bins = {b["bin"]: b for b in summarize(evaluation, names(5), np.array([4, 1, 1000, 0, 0]))["frequency_bins"]}
    f1 = sk.f1_score(labels, said, average=None, labels=np.arange(4), zero_division=0)
    assert bins["1-4"] == {
        "bin": "1-4",
        "classes": 2,
        "present": 2,
        "samples": 3,
        "accuracy": pytest.approx(2 / 3),
        "macro_f1": pytest.approx(f1[:2].mean()),
    }
    assert bins[">=1000"]["accuracy"] == pytest.approx(2 / 3)
    assert bins[">=1000"]["macro_f1"] == pytest.approx(f1[2])
    assert (bins["never seen in training"]["classes"], bins["never seen in training"]["present"]) == (2, 1)
    assert bins["never seen in training"]["accuracy"] == 0
    assert bins["5-9"] == {"bin": "5-9", "classes": 0, "present": 0, "samples": 0, "accuracy": None, "macro_f1": None}


def test_collapse_is_the_accuracy_of_replaced_labels():
    groups = np.array([0, 0, 1, 2, 1, 2, 0])
    p, labels = random_case(8, 7, 300, list(range(7)), list(range(7)))
    evaluation = update(empty_evaluation(7), p, labels)
    expected = sk.accuracy_score(groups[labels], groups[p.argmax(axis=1)])
    assert collapse(evaluation, groups) == pytest.approx(expected, rel=IDENTITY)
    assert collapse(np.asarray(evaluation.confusion), groups) == pytest.approx(expected, rel=IDENTITY)
    assert collapse(evaluation, np.arange(7)) == pytest.approx(summarize(evaluation, SYSTEMS)["accuracy"], rel=IDENTITY)
    assert collapse(evaluation, np.zeros(7, int)) == 1


# --- Results as JSON, bad input, pictures ----------------------------------------------------------------------------------


def test_summary_is_plain_numbers():
    p, labels = random_case(0, 7, 40, [1, 2], [1, 2, 3])
    found = summarize(update(empty_evaluation(7), p, labels), SYSTEMS, np.array([9, 1, 1, 0, 5, 1000, 60]))
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def counted() -> Evaluation:
    return update(empty_evaluation(3), np.eye(3), np.arange(3))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: summarize(empty_evaluation(3), names(3)), "holds no labelled samples"),
        (lambda: collapse(empty_evaluation(3), np.arange(3)), "holds no labelled samples"),
        (lambda: summarize(counted(), names(4)), "4 names for 3 classes"),
        (lambda: summarize(counted(), names(3), np.ones(2, int)), "2 training counts for 3 classes"),
        (lambda: summarize(counted(), names(3), np.zeros(3, int)), "not all 0"),
        (lambda: summarize(counted(), names(3), np.array([1, -1, 2])), "whole numbers from 0"),
        (lambda: constant_predictor(np.array([0.5, 2.0])), "whole numbers from 0"),
        (lambda: collapse(counted(), np.arange(5)), "5 classes, the evaluation 3"),
        (lambda: summarize(update(counted(), np.full((1, 3), np.nan), np.zeros(1, int)), names(3)), "not finite"),
        (lambda: draw_confusion(np.zeros((3, 3), int), names(3), "x.png"), "holds no labelled samples"),
        (lambda: draw_confusion(np.eye(3, dtype=int), names(2), "x.png"), "2 names for 3 classes"),
        (lambda: draw_confusion(np.eye(3, dtype=int), names(3), "no/such/folder/x.png"), "does not exist"),
        (lambda: draw_confusion(np.eye(3, dtype=int), names(3), "x.bmp"), "must end in"),
    ],
)
def test_bad_input_is_refused(call, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=words):
        call()
    assert not list(tmp_path.iterdir())


def test_pictures_are_written(tmp_path: pathlib.Path):
    rng = np.random.default_rng(0)
    for classes, labels in ((7, SYSTEMS), (230, [str(i) for i in range(1, 231)])):
        path = tmp_path / f"{classes}.png"
        draw_confusion(rng.integers(0, 9, (classes, classes)), labels, path)
        assert path.read_bytes().startswith(b"\x89PNG")


def test_picture_shows_row_shares_and_system_boundaries():
    confusion = np.zeros((230, 230), int)
    confusion[[0, 0, 229], [0, 2, 229]] = [3, 1, 5]
    axes = _confusion_figure(confusion, [str(i) for i in range(1, 231)]).axes[0]
    shown = np.ma.filled(np.ma.asarray(axes.images[0].get_array()), np.nan)
    np.testing.assert_allclose(shown[0, [0, 2]], [0.75, 0.25])
    assert np.isnan(shown[100]).all()  # no samples: grey
    lows = sorted(
        {float(np.asarray(line.get_xdata())[0]) for line in axes.lines if len(set(np.asarray(line.get_xdata()))) == 1}
    )
    assert lows == [last - 0.5 for last, _ in CRYSTAL_SYSTEMS[:-1]]
    assert len(axes.get_xticks()) <= MAX_TICKS
    assert [label.get_text() for label in axes.get_yticklabels()][:2] == ["1", "11"]


def test_the_best_constant_group_may_be_another_than_that_of_the_best_class():
    groups = np.array([0, 1, 1])
    best = constant_predictor(np.array([4, 3, 3]), groups=groups)
    assert (best["accuracy"], best["extinction_group_accuracy"]) == (0.4, 0.6)
    assert constant_predictor(np.array([4, 3, 3]), np.array([9, 1, 1]), groups)["extinction_group_accuracy"] == 0.4
