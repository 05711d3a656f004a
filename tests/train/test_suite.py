"""Many runs: failures, runs that are complete, what is kept of them, tables in their place, damaged files."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from typing import Any

import jax
import pytest

from simxrd_jax.errors import InputError
from simxrd_jax.models.registry import MODELS
from simxrd_jax.train import benchmark, suite
from simxrd_jax.train.benchmark import SAME_IN_BOTH, SIZES, Size, benchmark_configs, benchmark_table
from simxrd_jax.train.config import TrainConfig, override, to_dict
from simxrd_jax.train.suite import MARKS, markdown, mean_and_spread, read_results, run_all, write_table

BEGIN, END = (mark.format(name="results") for mark in MARKS)


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Runs in place of which nothing is trained; names of the folders in their order."""
    folders: list[str] = []

    def train(config: TrainConfig, folder: pathlib.Path, *, say: Any) -> dict[str, Any]:
        folders.append(folder.name)
        if config.model == "broken":
            raise InputError("there is no model 'broken'")
        if config.model == "huge":
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory\nand a long trace")
        metrics = {"accuracy": 0.5, "macro_f1": 0.25, "confusion": [[1]], "classes": [], "majority": {"accuracy": 0.1}}
        return {"config": to_dict(config), "best_step": 3, "test": {"patterns": 8, "targets": {"space_group": metrics}}}

    monkeypatch.setattr(suite, "train", train)
    return folders


CONFIGS = {name: TrainConfig(model=model) for name, model in (("a", "cnn4"), ("b", "broken"), ("c", "huge"), ("d", "mlp"))}


def test_a_failure_does_not_stop_the_rest_and_complete_runs_are_not_repeated(made, tmp_path):
    said: list[str] = []
    results = tmp_path / "results.json"
    assert run_all(CONFIGS, tmp_path / "runs", results, say=said.append) == ["b", "c"]
    assert made == ["a", "b", "c", "d"]
    assert "b failed: there is no model 'broken'" in said
    assert any(sentence.startswith("c failed: there is not enough memory; take smaller batches") for sentence in said)
    found = read_results(results)
    assert list(found) == ["a", "d"]
    assert found["a"]["test"] == {
        "patterns": 8,
        "targets": {"space_group": {"accuracy": 0.5, "macro_f1": 0.25, "majority": {"accuracy": 0.1}}},
    }
    made.clear()
    assert run_all(CONFIGS, tmp_path / "runs", results, say=said.append) == ["b", "c"]
    assert made == ["b", "c"]
    made.clear()
    # A run of another config is made anew, and replaces what was known under its name.
    changed = {"a": dataclasses.replace(CONFIGS["a"], steps=5)}
    assert run_all(changed, tmp_path / "runs", results, say=said.append) == []
    assert made == ["a"]
    assert read_results(results)["a"]["config"]["steps"] == 5
    assert set(read_results(results)) == {"a", "d"}


def test_results_are_kept_after_each_run(made, tmp_path, monkeypatch):
    """A suite that is killed in its second run has the first."""
    train = suite.train

    def killed(config, folder, *, say):
        if folder.name == "d":
            raise KeyboardInterrupt
        return train(config, folder, say=say)

    monkeypatch.setattr(suite, "train", killed)
    with pytest.raises(KeyboardInterrupt):
        run_all(CONFIGS, tmp_path, tmp_path / "results.json", say=lambda sentence: None)
    assert set(read_results(tmp_path / "results.json")) == {"a"}


def test_a_run_keeps_no_programs_of_those_before(made, monkeypatch, tmp_path):
    """A process has room for the programs of forty-odd networks; a benchmark trains 65."""
    train, held = suite.train, []
    step = jax.jit(lambda x, n: x + n, static_argnums=1)

    def compiles(config, folder, *, say):
        step(1.0, len(held))
        held.append(step._cache_size())  # type: ignore[attr-defined]
        return train(config, folder, say=say)

    monkeypatch.setattr(suite, "train", compiles)
    run_all(CONFIGS, tmp_path, tmp_path / "results.json", say=lambda sentence: None)
    assert held == [1, 1, 1, 1]  # failed ones too


def test_real_runs_are_gathered(config, trained, tmp_path):
    """A run that was complete before is taken as it is, one over a library that is not there fails."""
    (tmp_path / "good").symlink_to(trained)
    missing = override(config, {"data.library": str(tmp_path / "nowhere.simxrd")})
    said: list[str] = []
    assert run_all({"bad": missing, "good": config}, tmp_path, tmp_path / "r.json", say=said.append) == ["bad"]
    assert any("nowhere.simxrd" in sentence for sentence in said)
    whole = json.loads((trained / "results.json").read_text())
    found = read_results(tmp_path / "r.json")["good"]
    assert found["test"]["loss"] == whole["test"]["loss"]
    assert "confusion" in whole["test"]["targets"]["crystal_system"]
    assert "confusion" not in found["test"]["targets"]["crystal_system"]


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", "3", '{"a": 3}', '{"a": {}}', '{"a": {"config": {}}}', '{"a": {"config": {"stepps": 1}, "test": {}}}'],
)
def test_damaged_results_are_named_and_left_alone(made, tmp_path, content):
    path = tmp_path / "results.json"
    path.write_text(content)
    with pytest.raises(InputError) as caught:
        run_all(CONFIGS, tmp_path / "runs", path, say=lambda sentence: None)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert path.read_text() == content
    assert made == []
    assert read_results(tmp_path / "none.json") == {}


def test_a_table_is_written_between_its_marks_alone(tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text(f"# a\n{BEGIN}\nold \\1 table\n{END}\nrest\n")
    for table in ("| 1 |\n|---|", "new \\g<0> \\n", "| 1 |\n|---|"):
        write_table(readme, table)
        assert readme.read_text() == f"# a\n{BEGIN}\n{table}\n{END}\nrest\n"


@pytest.mark.parametrize(
    "content", ["nothing", BEGIN, END, f"{END} {BEGIN}", f"{BEGIN}{END} between {BEGIN}{END}", f"{BEGIN}{BEGIN}{END}"]
)
def test_a_readme_without_one_place_is_left_alone(tmp_path, content):
    readme = tmp_path / "README.md"
    readme.write_text(content)
    with pytest.raises(InputError, match="no place for the table"):
        write_table(readme, "table")
    assert readme.read_text() == content
    with pytest.raises(InputError, match="cannot be read"):
        write_table(tmp_path / "none.md", "table")


def test_cells():
    assert markdown([["a", "b"], ["", "2"]]) == "| a | b |\n|---|---|\n|  | 2 |"
    assert markdown([["a"], ["1"]]) == "| a |\n|---|\n| 1 |"
    assert mean_and_spread([0.5]) == "0.500"
    assert mean_and_spread([0.4, 0.5, 0.6]) == "0.500 ± 0.100"


# --- The benchmark ---------------------------------------------------------------------------------------------------------


def test_the_benchmark_is_every_network_in_both_variants_for_both_tasks():
    configs = benchmark_configs("ool_disjoint", "simxrd", SIZES["full"])
    networks = 2 * 21 - len(SAME_IN_BOTH)
    assert len(configs) == (networks * 2 + 1) * 5  # our own once, with all heads
    for name, config in configs.items():
        task = "all_heads" if config.model == "powdernet" else config.targets[0]
        assert name == f"{config.model}-{config.variant}-{task}-{config.seed}"
        assert (config.batch * config.steps, config.data.split, config.data.preset) == (12_800_000, "ool_disjoint", "simxrd")
        if config.model != "powdernet":
            assert (config.batch, config.steps) == (128, 100_000)
            assert (config.optimizer.name, config.optimizer.learning_rate, config.optimizer.schedule) == (
                "adam",
                2.5e-4,
                "constant",
            )
    assert {c.model for c in configs.values()} == set(MODELS)
    with pytest.raises(InputError, match="'cnn6' is not in this size"):
        benchmark.select(["cnn6"], SIZES["cpu"])


def test_the_table_of_a_benchmark():
    size = Size(3, batch=8, library="x", models=("cnn4", "cnn11"), seeds=(1, 2))

    def result(accuracy: float) -> dict[str, Any]:
        scores = {"accuracy": accuracy, "macro_f1": accuracy / 2, "majority": {"accuracy": 0.111, "macro_f1": 0.011}}
        return {"test": {"targets": {t: scores | {"extinction_group_accuracy": 0.9} for t in benchmark.TASKS}}}

    results = {f"cnn4-corrected-{task}-{seed}": result(0.4 + 0.2 * seed) for task in benchmark.TASKS for seed in (1, 2)}
    results |= {f"cnn11-corrected-{task}-1": result(0.7) for task in benchmark.TASKS}
    text = benchmark_table(results, "ool_disjoint", size, lambda model, task: {"accuracy": 0.25, "macro_f1": 0.125})
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if "|" in line]
    rows = {name: rest for name, *rest in cells}
    assert rows["CNN4"] == ["0.250", "0.125", "not run", "not run", "0.700 ± 0.141", "0.350 ± 0.071", "0.900 ± 0.000"]
    # Networks that are the same in both variants are trained once and stand in both columns.
    assert rows["CNN11"] == ["0.250", "0.125", "0.700", "0.350", "0.700", "0.350", "0.900"]
    assert rows["CNN1"][2:] == ["not run"] * 5
    assert rows["majority class of the training"] == ["", "", "", "", "0.111", "0.011", ""]
    assert rows["PowderNet"][:4] == ["", "", "", ""]


def test_trials_are_made_in_folders_of_their_own(monkeypatch, tmp_path):
    """A run takes no folder of another config: a trial in that of the experiment would bar it."""
    asked: list[pathlib.Path] = []
    for module in (suite, benchmark):
        monkeypatch.setattr(module, "finish", lambda **given: asked.append(given["runs"]))
    nothing = lambda *_: {}  # noqa: E731
    for arguments in ([], ["--steps", "3"]):
        suite.experiment(tmp_path / "some", nothing, str, arguments)
    trials = ([], ["--steps", "3"], ["--library", "of/mine.simxrd"], ["--steps", "3", "--library", "mine.simxrd"])
    for arguments in trials:
        benchmark.main("ool_disjoint", "simxrd", tmp_path / "some", nothing, ["--size", "cpu", "--table", *arguments])
    names = "some some-3-steps some-cpu some-cpu-3-steps some-cpu-mine some-cpu-3-steps-mine"
    assert asked == [pathlib.Path("runs") / name for name in names.split()]


def test_results_of_another_config_are_not_shown(made, tmp_path):
    results, said = tmp_path / "results.json", []
    run_all({"a": CONFIGS["a"], "d": CONFIGS["d"]}, tmp_path / "runs", results, say=said.append)
    now = {"a": CONFIGS["a"], "d": dataclasses.replace(CONFIGS["d"], steps=7, seed=3)}
    assert list(suite.current(read_results(results), now, results, say=said.append)) == ["a"]
    assert said[-1] == f"{results}: d is of a run with another steps, seed, and left out; run the experiment again"
    shown: list[Any] = []
    for chosen in ((), ["a"]):  # also where only a table is made
        suite.finish(
            configs=now,
            chosen=chosen,
            runs=tmp_path / "runs",
            results=results,
            readme=None,
            make_table=lambda known: shown.append(list(known)) or "table",
        )
    assert shown == [["a"], ["a"]]


def test_folders_that_cannot_be_made_and_results_that_lack_numbers_are_named(made, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    results = tmp_path / "results.json"
    lacking = lambda known: known["a"]["nothing"]  # noqa: E731
    run_all({"a": CONFIGS["a"]}, tmp_path / "runs", results, say=lambda sentence: None)
    for path, table, message in (
        (tmp_path / "file" / "results.json", str, "cannot be made a folder"),
        (results, lacking, "results.json: lacks 'nothing' of a run"),
    ):
        with pytest.raises(SystemExit) as ended:
            suite.finish(configs={"a": CONFIGS["a"]}, runs=tmp_path / "runs", results=path, readme=None, make_table=table)
        assert ended.value.code == 1
        assert message in capsys.readouterr().err
