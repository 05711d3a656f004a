"""The trained network that ships: it is that of the experiment's results, and answers."""

from __future__ import annotations

import json
import pathlib

import numpy as np
import pytest

from simxrd_jax.commands.train import evaluate_runs, predict_pattern
from simxrd_jax.models import parameter_count
from simxrd_jax.train.run import read_run

EXPERIMENT = pathlib.Path(__file__).parents[2] / "experiments" / "real_patterns" / "results.json"


@pytest.fixture(scope="module")
def shipped(datasets: pathlib.Path) -> str:
    return str(datasets / "powdernet")


def test_its_scores_on_measured_patterns_are_those_of_the_experiment(shipped, tmp_path):
    evaluate_runs([shipped], "measured", output=str(tmp_path / "made.json"))
    made = json.loads((tmp_path / "made.json").read_text())["targets"]
    known = json.loads(EXPERIMENT.read_text())["materials_project"]["measured"]["measured"]["targets"]
    for target in ("crystal_system", "space_group", "extinction_group"):
        assert made[target]["accuracy"] == known[target]["accuracy"]
        assert made[target]["negative_log_likelihood"] == pytest.approx(known[target]["negative_log_likelihood"], rel=1e-3)


def test_it_names_space_groups_of_a_measured_pattern(shipped, datasets, tmp_path):
    with np.load(datasets / "measured.npz") as found:
        columns = [found[name][: found["ptr"][1]] for name in ("two_theta", "intensity")]
    np.savetxt(tmp_path / "measured.xy", np.transpose(columns))
    lines = predict_pattern([shipped], str(tmp_path / "measured.xy"), wavelength="CuKa").splitlines()
    first = lines.index("  space_group")
    shares = [float(line.split()[0]) for line in lines[first + 1 : first + 6]]
    assert 0 < sum(shares) <= 1.001
    assert shares == sorted(shares, reverse=True)


def test_it_is_small(shipped, datasets):
    config, content = read_run(shipped)
    widths = {target: len(names) for target, names in content["classes"].items()} | {"lattice": 6}
    assert parameter_count(config.model, num_classes=widths) <= 3_000_000
    sizes = [path.stat().st_size for path in (datasets / "powdernet").rglob("*") if path.is_file()]
    assert sum(sizes) < 6 * 2**20
