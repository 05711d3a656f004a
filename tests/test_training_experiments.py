"""The training experiments at their smallest size: what they write, and what their tables say."""

from __future__ import annotations

import json
import math
import pathlib
import sys
from typing import Any

import pytest

from experiments.benchmark_out_of_library.main import main as out_of_library
from experiments.broken_loss import config as broken
from experiments.broken_loss import main as broken_main
from experiments.fixed_versus_on_the_fly import config as fixed
from experiments.fixed_versus_on_the_fly import main as fixed_main
from experiments.imbalance import config as imbalance
from experiments.imbalance import main as imbalance_main
from experiments.published import IN_LIBRARY, OUT_OF_LIBRARY, published
from experiments.real_patterns import main as real_main
from experiments.training_speed import main as speed
from simxrd_jax.models import model_names
from simxrd_jax.train.benchmark import CPU_MODELS, OWN, SAME_IN_BOTH, SIZES, benchmark_configs, benchmark_table
from simxrd_jax.train.config import TrainConfig, differences, to_dict
from simxrd_jax.train.targets import TARGETS


def metrics(accuracy: float) -> dict[str, Any]:
    """Scores of a head, all of one value."""
    names = ("accuracy", "macro_f1", "top_5", "balanced_accuracy", "expected_calibration_error", "extinction_group_accuracy")
    constant = {"class": "2", "accuracy": 0.1, "macro_f1": 0.01}
    row = {"bin": "1-4", "samples": 7, "accuracy": accuracy}
    return dict.fromkeys(names, accuracy) | {"majority": constant, "best_constant": constant, "frequency_bins": [row]}


def result(accuracy: float) -> dict[str, Any]:
    """Results of a run, as far as tables read them."""
    targets = {task: metrics(accuracy) for task in ("crystal_system", "space_group")}
    return {"seconds": 90.0, "best_step": 400, "test": {"loss": 1.5, "targets": targets}}


def test_published_tables_hold_all_models():
    assert set(IN_LIBRARY) == set(OUT_OF_LIBRARY) == set(model_names()) - {OWN}
    assert published("in_library", "cnn11", "space_group")["macro_recall"] == 0.828
    assert published("out_of_library", "bigru", "crystal_system")["accuracy"] == 0.722


def test_a_benchmark_has_each_network_once():
    configs = benchmark_configs("ool_disjoint", "simxrd", SIZES["smoke"])
    # Eleven networks with a fault in two variants, ten without in one, two tasks each; and ours with all its heads.
    assert len(configs) == 2 * (2 * 11 + len(SAME_IN_BOTH)) + 1
    assert {c.model for c in configs.values()} == set(model_names())
    assert set(CPU_MODELS) <= set(model_names())
    a = configs["cnn4-as_published-space_group-100"]
    assert differences(a, configs["cnn4-corrected-space_group-100"]) == ["variant"]
    assert a.optimizer.learning_rate == 2.5e-4
    own = configs[f"{OWN}-corrected-all_heads-100"]
    assert own.batch * own.steps == a.batch * a.steps  # as many patterns
    assert own.steps // own.validate_every == a.steps // a.validate_every  # and as many validations to choose from
    assert set(own.targets) == set(TARGETS)
    small = benchmark_configs("ool_disjoint", "simxrd", SIZES["cpu"])
    fair = small["cnn11-varied-space_group-100"]
    assert differences(fair, small["cnn11-corrected-space_group-100"]) == ["data.cell_variation", "data.intensity_variation"]
    assert fair.data == small[f"{OWN}-corrected-all_heads-100"].data
    real = small[f"{OWN}-real-all_heads-100"]
    assert differences(real, small[f"{OWN}-corrected-all_heads-100"]) == ["data.cell_variation", "data.intensity_variation"]
    assert real.data == a.data


def test_benchmark_table_says_what_was_not_run():
    results = {"cnn4-corrected-crystal_system-100": result(0.5), "cnn9-corrected-crystal_system-100": result(0.25)}
    text = benchmark_table(results, "ool_disjoint", SIZES["cpu"], lambda m, t: published("out_of_library", m, t))
    rows = {
        line.split("|")[1].strip(): [c.strip() for c in line.split("|")[2:-1]] for line in text.splitlines() if "|" in line
    }
    systems = text.split("**Space group**")[0]
    assert "| CNN4 | 0.378 | 0.078 | not run | not run | 0.500 | 0.500 |" in systems
    assert "| CNN9 | 0.675 | 0.632 | 0.250 | 0.250 | 0.250 | 0.250 |" in systems
    assert "| majority class of the training |  |  |  |  | 0.100 | 0.010 |" in systems
    assert rows["CNN9"][2:] == ["not run"] * 5  # the last table, of space groups
    assert rows["PowderNet"][:2] == ["", ""]
    fair = {"cnn11-varied-crystal_system-100": result(0.75)}
    text = benchmark_table(fair, "ool_disjoint", SIZES["cpu"], lambda m, t: published("out_of_library", m, t))
    assert "| CNN11, varied crystals |  |  |  |  | 0.750 | 0.750 |" in text
    assert "| CNN11, varied crystals |  |  |  |  | not run | not run | not run |" in text


def test_networks_with_and_without_the_broken_loss_differ_in_nothing_else():
    runs = broken.configs()
    for task in broken.TASKS:
        assert differences(*(runs[broken.run_name(v, task, 500, 200)] for v in broken.VARIANTS)) == ["variant"]
        classes = {"crystal_system": 7, "space_group": 230}[task]
        # One-hot classes, softmax, softmax of the loss: -log(e^p / sum e^p) at the highest p.
        highest, other = math.e / (math.e + classes - 1), 1 / (math.e + classes - 1)
        floor = math.log(1 + (classes - 1) * math.exp(other - highest))
        assert broken.FLOORS[task] == pytest.approx(floor, abs=1e-4)
    text = broken_main.table({broken.run_name("corrected", "space_group", 500, 300): result(0.4)})
    assert "| space group | CNN4 corrected | 500 | 1 | 400 | 0.400 | 0.400 | 1.500 | 0 | 1.5 |" in text
    assert "| space group | majority class of the training |  |  |  | 0.100 | 0.010 |" in text
    assert "| crystal system | CNN4 as published | 4,000 | 0 |  | not run | not run | not run | 1.780 |" in text


def test_stored_and_fresh_runs_differ_in_nothing_else():
    runs = fixed.configs()
    stored, fresh, varied = (fixed.run_name(label, 100) for label in fixed.WAYS)
    assert differences(runs[stored], runs[fresh]) == ["data.copies"]
    assert differences(runs[varied], runs[fresh]) == ["data.cell_variation", "data.intensity_variation"]
    results = {fixed.run_name(label, seed): result(seed / 1000) for label in fixed.WAYS for seed in (100, 200)}
    assert "| fresh patterns | 2 | 0.150 ± 0.071 |" in fixed_main.table(results)
    assert "not run" in fixed_main.table({})


def test_ways_against_imbalance_differ_in_loss_and_sampling_alone():
    runs = imbalance.configs()
    for name, config in runs.items():
        assert set(differences(runs["cross_entropy"], config)) <= {
            "loss.name", "loss.label_smoothing", "data.sampling",
        }, name  # fmt: skip
    text = imbalance_main.table({"focal": result(0.4)})
    assert "| focal | 0.400 |" in text
    assert "groups of 1-4 (7)" in text
    assert "| logit adjusted | not run |" in text


def test_real_patterns_keep_the_two_libraries_apart():
    made = {"patterns": 9, "targets": {t: metrics(0.3) for t in ("crystal_system", "space_group", "extinction_group")}}
    text = real_main.table({"materials_project": {"measured": {"measured": made}}})
    assert "| measured (9) | materials project | 0.300 |" in text
    assert "| measured | materials project and minerals | not run |" in text
    assert "| measured | best constant answer | 0.100 |" in text


def test_training_speed_writes_its_numbers(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(sys, "argv", ["training_speed", "--smoke", "--json", str(tmp_path / "t.json")])
    speed.main()
    assert "| cnn5 |" in capsys.readouterr().out
    numbers = json.loads((tmp_path / "t.json").read_text())
    assert numbers["train_per_second"] > 0
    assert 0 <= numbers["simulation_share"] < 1
    assert {"simulate_per_second", "model_step_per_second", "device", "models"} <= set(numbers)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--models", "cnnx"], "there is no model 'cnnx'; did you mean"),
        (["--library", "nothere.simxrd"], "nothere.simxrd: no such file"),
        (["--batch", "0"], "0 is no whole number above 0"),
        (["--smoke", "--json", "nowhere/at/all.json"], "nowhere"),
    ],
)
def test_training_speed_says_what_is_wrong(monkeypatch, capsys, given, message):
    monkeypatch.setattr(sys, "argv", ["training_speed", *given])
    with pytest.raises(SystemExit) as caught:
        speed.main()
    assert message in f"{caught.value} {capsys.readouterr().err}"


@pytest.mark.slow
def test_a_trial_leaves_the_results_of_the_experiment_alone(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]):
    out_of_library(["--size", "smoke", "--models", "cnn5", "--runs", str(tmp_path)])
    found = json.loads((tmp_path / "results_smoke.json").read_text())
    assert set(found) == {
        f"cnn5-{v}-{t}-100" for v in ("as_published", "corrected") for t in ("crystal_system", "space_group")
    }
    assert all(run["patterns"] == 24 for run in found.values())
    assert "| CNN5 † |" in capsys.readouterr().out


@pytest.mark.slow
def test_three_steps_of_every_network(tmp_path: pathlib.Path):
    out_of_library(["--size", "smoke", "--runs", str(tmp_path)])
    found = json.loads((tmp_path / "results_smoke.json").read_text())
    assert len(found) == len(benchmark_configs("ool_disjoint", "simxrd", SIZES["smoke"]))


def test_measured_patterns_are_judged_by_the_run_of_the_results_alone(monkeypatch, tmp_path, capsys):
    """A run of another config that lies in the folder changes no number."""
    results = tmp_path / "results.json"
    known = {"materials_project": result(0.3) | {"config": to_dict(TrainConfig(steps=7))}}
    results.write_text(json.dumps(known))
    (tmp_path / "materials_project").mkdir()
    judged = lambda *_: pytest.fail("judged")  # noqa: E731
    monkeypatch.setattr(real_main, "evaluate_measured", judged)
    monkeypatch.setattr(real_main, "read_network", lambda folder: (TrainConfig(steps=8), {}, None, None))
    real_main.judge(tmp_path, results)  # not complete
    (tmp_path / "materials_project" / "results.json").write_text("{}")
    real_main.judge(tmp_path, results)
    assert "is another run" in capsys.readouterr().err
    assert json.loads(results.read_text()) == known
