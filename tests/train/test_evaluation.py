"""Evaluation: independent of batches, averages of networks, probabilities as they are, parts, lattices, measured patterns."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simxrd_jax.errors import InputError
from simxrd_jax.io.xy import pattern_text
from simxrd_jax.library.stream import Batch, Stream
from simxrd_jax.models.lattice import lattice_numbers
from simxrd_jax.train import evaluation
from simxrd_jax.train.config import TrainConfig, override
from simxrd_jax.train.evaluation import (
    answer,
    evaluate_measured,
    evaluate_part,
    grid_of,
    most_probable,
    outputs_of,
)
from simxrd_jax.train.run import Run, read_run, set_up, training_stream
from simxrd_jax.train.state import copy_keys, part_key
from simxrd_jax.train.targets import counts_in, names_of

from .conftest import NAMES, assert_equal


def _run_of(config: TrainConfig, library, **settings: str) -> tuple[Run, Any]:
    """A run with its network of the first step as a member."""
    run = set_up(override(config, settings), library)
    return run, (run.definition, run.state.network)


@pytest.fixture(scope="module")
def run(config, library) -> Run:
    return set_up(config, library)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Patterns that are noise of their key and structure in place of simulated ones: what is tested compiles at once."""

    def simulate(stream: Stream, structures: Any, keys: Any) -> Batch:
        x = jax.vmap(lambda k, s: jax.random.uniform(jax.random.fold_in(k, s), (3501,)))(keys, structures)
        labels = {name: values[structures] for name, values in stream.arrays.labels.items()}
        ones = jnp.ones((len(structures), 1))
        return Batch(x, x, structures, labels, {}, structures[:, None], ones, jax.random.key_data(keys))

    def simulated(*arguments: Any) -> Any:  # a function of its own, so that no program of simulated patterns stands for it
        return inner(*arguments)

    inner = evaluation._simulated.__wrapped__
    monkeypatch.setattr(Stream, "simulate", simulate)
    monkeypatch.setattr(evaluation, "_simulated", jax.jit(simulated, static_argnums=(0, 1, 2)))


def _close(a: Any, b: Any, tolerance: float = 1e-6) -> None:
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert x == (pytest.approx(y, rel=tolerance, abs=tolerance) if isinstance(x, float) else y)


# --- Simulated patterns ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [6, 12, 7, 1, 100, 512])
def test_chunks_of_training_go_into_the_batch_of_evaluation(config, library, run, member, monkeypatch, batch):
    stream = training_stream(config, library, batch)
    if batch == 512:  # as on an accelerator
        stream = stream.replace(options=dataclasses.replace(stream.options, chunk=512))

    def simulated(definitions, targets, losses, networks, stream, structures, keys):
        assert len(structures) % stream.options.chunk == 0  # or the simulator could not map them
        assert len(structures) == len(keys) >= 13
        return {"crystal_system": np.eye(7)[structures % 7]}, {"crystal_system": structures % 7}, structures * 1.0

    monkeypatch.setattr(evaluation, "_simulated", simulated)
    made = evaluate_part([member], dataclasses.replace(run, stream=stream), "test")
    assert (made["patterns"], made["targets"]["crystal_system"]["accuracy"], made["loss"]) == (13, 1.0, 6.0)


def test_validation_and_test_are_of_real_crystals(config, library, member, monkeypatch):
    """However far a run varies the crystals that it trains on."""
    varied, _ = _run_of(config, library, **{"data.cell_variation": "0.2", "data.intensity_variation": "2.0"})
    assert (varied.stream.options.cell_variation, varied.stream.options.intensity_variation) == (0.2, 2.0)
    seen = []

    def simulated(definitions, targets, losses, networks, stream, structures, keys):
        seen.append((stream.options.cell_variation, stream.options.intensity_variation))
        return {"crystal_system": np.eye(7)[structures % 7]}, {"crystal_system": structures % 7}, structures * 1.0

    monkeypatch.setattr(evaluation, "_simulated", simulated)
    evaluate_part([member], varied, "test")
    assert seen == [(0.0, 0.0)]


@pytest.mark.slow
def test_the_batch_of_training_does_not_matter(config, library, run, member):
    """Chunks of 6 do not divide the evaluation's 16; single Poisson counts may turn."""
    other, _ = _run_of(config, library, batch="12")
    assert other.stream.options.chunk == 6
    a, b = (evaluate_part([member], each, "test") for each in (run, other))
    assert a["patterns"] == b["patterns"] == 13
    assert a["targets"]["crystal_system"]["confusion"] == b["targets"]["crystal_system"]["confusion"]
    assert a["loss"] == pytest.approx(b["loss"], abs=1e-4)


def test_the_batch_of_evaluation_does_not_matter(run, member, quick, monkeypatch):
    whole = evaluate_part([member], run, "test")
    monkeypatch.setattr(evaluation, "EVALUATION_BATCH", 8)
    _close(evaluate_part([member], run, "test"), whole)
    assert whole["patterns"] == len(NAMES)
    assert sum(sum(row) for row in whole["targets"]["crystal_system"]["confusion"]) == len(NAMES)


def test_a_limit_takes_some_of_the_very_patterns(run, member, quick, monkeypatch):
    drawn: list[dict[int, bytes]] = []
    simulated = evaluation._simulated

    def record(*arguments):
        structures, keys = arguments[-2:]
        drawn[-1].update(zip(map(int, structures), map(bytes, np.asarray(jax.random.key_data(keys))), strict=True))
        return simulated(*arguments)

    monkeypatch.setattr(evaluation, "_simulated", record)

    def evaluated(**given) -> dict[int, bytes]:
        drawn.append({})
        made = evaluate_part([member], run, **given)
        assert made["patterns"] == len(drawn[-1])
        return drawn[-1]

    whole, five, again = evaluated(part="test"), evaluated(part="test", limit=5), evaluated(part="test", limit=5)
    assert (len(whole), len(five)) == (len(NAMES), 5)
    assert five.items() < whole.items()
    assert five == again
    assert len(evaluated(part="test", limit=1000)) == len(NAMES)
    # All parts of "in_library" are of the same structures: no pattern is in two of them.
    keys = [set(evaluated(part=part).values()) for part in ("train", "validation", "test")] + [set(whole.values())]
    assert keys[2] == keys[3]
    assert len(set.union(*keys)) == 3 * len(NAMES)


def test_a_pattern_of_a_part_belongs_to_its_structure_alone():
    keys = copy_keys(part_key(jax.random.key(2024), "in_library test"), jnp.array([3, 5, 3]), jnp.zeros(3, jnp.int32))
    data = jax.random.key_data(keys)
    np.testing.assert_array_equal(data[0], data[2])
    assert np.any(data[0] != data[1])


def test_empty_parts_are_named(config, library, run, member):
    empty = dataclasses.replace(run.library, splits={**run.library.splits, "ool_random": np.zeros(13, np.uint8)})
    with pytest.raises(InputError, match=r"the part test of ool_random is empty"):
        evaluate_part([member], dataclasses.replace(run, library=empty), "test", split="ool_random")
    with pytest.raises(InputError, match=r"no split 'ool'; did you mean|no split 'ool'"):
        evaluate_part([member], run, "test", split="ool")


def test_identical_members_answer_as_one_and_two_on_average(config, library, run, member, quick):
    one = evaluate_part([member], run, "test")
    _close(evaluate_part([member, member], run, "test"), one)
    _, other = _run_of(config, library, seed="7")
    x = np.random.default_rng(0).uniform(0, 100, (5, 3501)).astype(np.float32)
    a, b, both = (answer(m, x, config.targets)["crystal_system"] for m in ([member], [other], [member, other]))
    assert np.abs(a - b).max() > 1e-2
    np.testing.assert_allclose(both, (a + b) / 2, atol=1e-6)  # of probabilities, not of logits
    np.testing.assert_allclose(both.sum(axis=1), 1.0, rtol=1e-6)
    loss = [evaluate_part([m], run, "test")["loss"] for m in (member, other)]
    assert evaluate_part([member, other], run, "test")["loss"] == pytest.approx(np.mean(loss), rel=1e-6)


def _outputs(member: Any, x: Any, config: TrainConfig) -> tuple[Any, Any]:
    raw, said = jax.jit(lambda network, x: outputs_of((member[0], network), x, config.targets))(member[1], x)
    return raw["crystal_system"], said["crystal_system"]


@pytest.mark.parametrize("model", ["cnn5", pytest.param("cnn4", marks=pytest.mark.slow)])  # one softmax, and two
def test_published_softmaxes_are_probabilities_already(config, library, model):
    _, published = _run_of(config, library, model=model, variant="as_published")
    _, corrected = _run_of(config, library, model=model)
    x = jnp.asarray(np.random.default_rng(0).uniform(0, 100, (4, 3501)), jnp.float32)
    raw, said = _outputs(published, x, config)
    np.testing.assert_array_equal(raw, said)
    np.testing.assert_allclose(said.sum(axis=1), 1.0, rtol=1e-6)
    logits, probabilities = _outputs(corrected, x, config)
    expected = jax.nn.softmax(logits)
    np.testing.assert_allclose(probabilities, expected, atol=1e-6)
    # The weights are the same: the variants differ by the softmaxes alone.
    np.testing.assert_allclose(said, jax.nn.softmax(expected) if model == "cnn4" else expected, atol=1e-6)
    mixed = answer([published, corrected], x, config.targets)["crystal_system"]
    np.testing.assert_allclose(mixed, (said + probabilities) / 2, atol=1e-6)


def test_the_average_is_what_is_evaluated(config, library):
    _, (definition, network) = _run_of(config, library, **{"optimizer.average_decay": "0.9"})
    x = np.random.default_rng(0).uniform(0, 100, (2, 3501)).astype(np.float32)
    swapped = network.replace(parameters=jax.tree.map(jnp.zeros_like, network.parameters))
    a, b = (answer([(definition, n)], x, config.targets)["crystal_system"] for n in (network, swapped))
    np.testing.assert_array_equal(a, b)
    assert np.ptp(a) > 0.01


def test_metrics_count_what_was_said(run, member, quick):
    """Accuracy and the extinction groups beside a plain count."""
    made = evaluate_part([member], run, "test")["targets"]["crystal_system"]
    confusion = np.array(made["confusion"])
    assert made["accuracy"] == np.trace(confusion) / len(NAMES)
    assert made["best_constant"]["accuracy"] == confusion.sum(axis=1).max() / len(NAMES)
    said = np.eye(230, dtype=np.float32)[[61, 61, 32]]
    space = evaluation.metrics_of(
        said,
        np.array([61, 32, 0]),
        "space_group",
        {"space_group": [str(n) for n in range(1, 231)]},
        {"space_group": np.ones(230, int)},
    )
    # Pnma (62) for Pna2_1 (33) is right by its absences; Pna2_1 for P1 is not.
    assert space["accuracy"] == pytest.approx(1 / 3)
    assert space["extinction_group_accuracy"] == pytest.approx(2 / 3)


def test_lattices_that_are_exact_have_no_error():
    lattice = np.random.default_rng(0).normal(0, 4, (20, 3, 3)) + 6 * np.eye(3)
    exact = np.asarray(lattice_numbers(jnp.asarray(lattice, jnp.float32)))
    assert set(evaluation._lattice_metrics(exact, exact).values()) == {0.0}
    longer = np.asarray(lattice_numbers(jnp.asarray(1.01 * lattice, jnp.float32)))
    errors = evaluation._lattice_metrics(longer, exact)
    assert errors["median_length_error"] == pytest.approx(0.01, rel=1e-3)
    assert errors["length_error_90"] == pytest.approx(0.01, rel=1e-3)
    assert errors["mean_angle_error"] < 1e-3
    cubic, bent = np.zeros((1, 6)), np.zeros((1, 6))
    bent[0, 3] = np.cos(np.radians(87.0)) / 0.25
    assert evaluation._lattice_metrics(bent, cubic)["mean_angle_error"] == pytest.approx(1.0)


@pytest.mark.slow
def test_several_heads_and_the_lattice(config, library, quick):
    run, member = _run_of(config, library, model="powdernet", targets="lattice,extinction_group,space_group")
    made = evaluate_part([member], run, "test")
    assert set(made["targets"]) == {"lattice", "extinction_group", "space_group"}
    assert made["targets"]["extinction_group"]["samples"] == len(NAMES)
    assert made["targets"]["lattice"]["median_length_error"] > 0.01
    assert "confusion" not in made["targets"]["lattice"]
    json.dumps(made, allow_nan=False)


def test_most_probable():
    assert most_probable(np.array([0.1, 0.4, 0.1, 0.4]), ["a", "b", "c", "d"], 3) == [("b", 0.4), ("d", 0.4), ("a", 0.1)]
    assert len(most_probable(np.ones(3), ["a", "b", "c"], 10)) == 3


# --- Measured patterns -----------------------------------------------------------------------------------------------------


def test_outputs_that_are_not_finite_are_no_answer(config, member):
    definition, network = member
    damaged = dataclasses.replace(network, parameters=jax.tree.map(lambda v: v * np.nan, network.parameters))
    with pytest.raises(InputError, match="outputs are not finite"):
        answer([(definition, damaged)], np.ones((2, 3501)), config.targets)


def test_answers_do_not_depend_on_what_is_answered_beside(config, member, monkeypatch):
    x = np.random.default_rng(0).uniform(0, 100, (11, 3501)).astype(np.float32)
    whole = answer([member], x, config.targets)["crystal_system"]
    monkeypatch.setattr(evaluation, "EVALUATION_BATCH", 4)
    np.testing.assert_allclose(answer([member], x, config.targets)["crystal_system"], whole, atol=1e-6)
    np.testing.assert_allclose(answer([member], x[3:4], config.targets)["crystal_system"], whole[3:4], atol=1e-6)


@pytest.fixture(scope="module")
def three_heads(library) -> dict[str, Any]:
    """What config.json says of a run for three symmetries."""
    classes = {t: list(names_of(library, t)) for t in ("space_group", "crystal_system", "extinction_group")}
    counts = {t: counts_in(library, t, np.arange(len(library))).tolist() for t in classes}
    return {"classes": classes, "train_counts": counts}


def test_bundled_measured_patterns(config, member, three_heads, datasets, monkeypatch):
    rng, content = np.random.default_rng(0), three_heads

    def said(members, patterns, targets):
        return {t: rng.dirichlet(np.ones(len(c)), len(patterns)) for t, c in content["classes"].items()}

    monkeypatch.setattr(evaluation, "answer", said)
    made = evaluate_measured([member], config, content, "measured")
    shipped = np.load(datasets / "measured.npz")
    labelled = shipped["space_group"][shipped["space_group"] > 0]
    left_out = len(made["left_out"])
    assert made["patterns"] == len(labelled) - left_out
    assert len(made["answers"]) == len(shipped["id"]) - left_out
    assert set(made["targets"]) == set(content["classes"])
    for target, metrics in made["targets"].items():
        assert metrics["samples"] == made["patterns"]
        assert metrics["outside"] == 0
        assert all(len(each[target]) == 5 for each in made["answers"].values())
    names = made["targets"]["space_group"]["classes"]
    assert {row["name"]: row["support"] for row in names if row["support"]} == {
        str(n): int(np.sum(labelled == n)) for n in np.unique(labelled)
    }
    assert made["source"]
    json.dumps(made)


def test_measured_patterns_are_recognised_by_a_network_that_knows_them(config, member, three_heads, monkeypatch):
    """A made-up network that answers with the truth is right everywhere, by numbers, names and absences alike."""
    from simxrd_jax.io.measured import read_measured, system_of
    from simxrd_jax.library.extinction import extinction_groups

    content = three_heads
    measured = read_measured("measured", *grid_of(config.data.preset))
    codes = {
        "space_group": [n - 1 for n in measured.space_group],
        "crystal_system": [content["classes"]["crystal_system"].index(system_of(int(n))) for n in measured.space_group],
        "extinction_group": [extinction_groups().of_space_group[n] for n in measured.space_group],
    }
    said = {t: np.eye(len(content["classes"][t]), dtype=np.float32)[c] for t, c in codes.items()}
    monkeypatch.setattr(evaluation, "answer", lambda members, patterns, targets: said)
    made = evaluate_measured([member], config, content, "measured")
    assert [made["targets"][t]["accuracy"] for t in codes] == [1.0, 1.0, 1.0]
    assert made["targets"]["space_group"]["extinction_group_accuracy"] == 1.0


def test_measured_patterns_without_labels(config, member, three_heads, tmp_path: pathlib.Path):
    x = np.linspace(10, 80, 3501)
    path = tmp_path / "a.xy"
    path.write_text(pattern_text(x, 1 + np.exp(-((x - 30) ** 2)), step=0.02))
    with pytest.raises(InputError, match="is one pattern whose space group is not known, no set; `simxrd predict`"):
        evaluate_measured([member], config, three_heads, str(path))
    with pytest.raises(InputError, match="the networks name no class that patterns of measured are labelled with"):
        evaluate_measured([member], config, three_heads | {"classes": {}}, "measured")


def test_classes_a_network_does_not_have_are_outside(config, trained, member, monkeypatch):
    """The crystal systems of another project's order or number are matched by name."""
    _, content = read_run(trained)
    names = [*content["classes"]["crystal_system"][:1:-1], "unknown a", "unknown b"]
    made = evaluate_measured([member], config, content | {"classes": {"crystal_system": names}}, "measured")
    whole = evaluate_measured([member], config, content, "measured")
    metrics = made["targets"]["crystal_system"]
    assert metrics["outside"] > 0
    assert metrics["samples"] + metrics["outside"] == whole["targets"]["crystal_system"]["samples"]


def test_the_grid_is_that_of_the_preset():
    grid, wavelength = grid_of("laboratory")
    np.testing.assert_allclose(grid, 10 + 0.02 * np.arange(3501), atol=1e-5)
    assert wavelength == pytest.approx((2 * 1.540593 + 1.544427) / 3, abs=2e-4)  # K-alpha of copper, 2:1
    with pytest.raises(InputError):
        grid_of("laboratry")


def test_evaluating_changes_no_network(run, member, quick):
    before = jax.tree.map(np.array, member[1])
    evaluate_part([member], run, "test", limit=3)
    assert_equal(member[1], before)


def test_a_lattice_that_is_no_number_is_no_answer():
    wanted = np.zeros((3, 6))
    for value in (np.nan, np.inf, 1e30):
        with pytest.raises(InputError, match="not finite numbers"):
            evaluation.metrics_of(np.full((3, 6), value), wanted, "lattice", {}, {})
