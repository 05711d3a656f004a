"""The measuring scripts, at their smallest size."""

from __future__ import annotations

import json
import sys

import jax
import numpy as np
import pytest

from experiments.peak_sum_accuracy import main as accuracy
from experiments.peak_sum_accuracy.config import SMOKE
from experiments.scaling import main as scaling
from experiments.scaling.config import HERE as SCALING
from experiments.scaling.report import tables
from experiments.simulator_speed import main as speed
from experiments.stream_speed import main as stream_speed
from simxrd_jax.library.build import library_of
from simxrd_jax.presets import get_preset


@pytest.fixture(scope="module")
def rows():
    with jax.enable_x64(True):
        return accuracy.compare(SMOKE)


@pytest.mark.parametrize(("points", "value", "gradient"), [(5.0, 2e-4, 2e-3), (4.0, 2e-4, 2e-3), (2.5, 2e-3, 2e-2)])
def test_fft_against_dense(rows, points, value, gradient):
    """The bounds the project promises for refinement accuracy, values and gradients."""
    errors = accuracy.worst(rows, accuracy="refinement", fwhm_points=points)
    assert errors[0] < value
    assert errors[1] < gradient


def test_accuracy_table_has_a_row_for_each_width(rows):
    assert accuracy.table(rows, SMOKE).count("points |") == len(SMOKE.fwhm_points)


def test_stream_speed_prints_a_table_and_writes_json(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(sys, "argv", ["stream_speed", "--smoke", "--json", str(tmp_path / "s.json")])
    stream_speed.main()
    assert "| laboratory | cached | 32 |" in capsys.readouterr().out
    results = json.loads((tmp_path / "s.json").read_text())
    assert results["laboratory_cached_per_second"] > 0
    assert {"padding_share", "compilations", "library_bytes_on_device", "device"} <= set(results)
    assert results["later_compilations"] == 0


def test_scaling_tables_are_those_of_its_numbers():
    """And the bounds that the project promises held when they were measured."""
    results = json.loads((SCALING / "results.json").read_text())
    assert tables(results) in (SCALING / "README.md").read_text()
    assert results["writing"]["writing_share"] < 0.3
    assert results["writing"]["patterns"] == 10_000
    assert results["writing"]["array_record_seconds"] < 15
    rows = results["structures"]
    assert rows[-1]["structures"] == 28_661
    assert rows[-1]["per_second"] > 0.5 * rows[0]["per_second"]


@pytest.mark.parametrize(("atoms", "reflections"), [(1, 200), (8, 1500)])
def test_made_up_cells_have_the_size_that_is_asked_for(atoms, reflections):
    reach = get_preset("laboratory").inverse_d_bounds()[1]
    cell = scaling.triclinic(scaling.volume_of(reflections, reach), atoms, 0)
    assert len(cell) == atoms
    library = library_of([cell], presets=("laboratory",))
    assert library.space_group[0] == (2 if atoms == 1 else 1)  # one atom is its own inversion
    assert np.diff(library.first_reflection)[0] == pytest.approx(reflections, rel=0.1)


@pytest.mark.slow
def test_scaling_measures_every_axis(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "argv", ["scaling", "--smoke", "--output", str(tmp_path)])
    scaling.main()
    results = json.loads((tmp_path / "results.json").read_text())
    assert tables(results) in (tmp_path / "README.md").read_text()
    assert (tmp_path / "scaling.png").stat().st_size > 10_000
    assert results["accelerator"] == "not measured"


@pytest.mark.slow
def test_fft_against_dense_everywhere():
    from experiments.peak_sum_accuracy.config import CONFIG

    with jax.enable_x64(True):
        every = accuracy.compare(CONFIG)
    for points, value, gradient in ((5.0, 2e-4, 2e-3), (4.0, 2e-4, 2e-3), (2.5, 2e-3, 2e-2)):
        errors = accuracy.worst(every, accuracy="refinement", fwhm_points=points)
        assert errors[0] < value
        assert errors[1] < gradient
    inside = [r for r in every if r["microstrain"] <= 3e-3 and r["grain_size"] >= 100 and r["window"] == (10.0, 80.0)]
    assert accuracy.worst(inside, accuracy="training")[0] < 5e-3


@pytest.mark.slow
def test_speed_script_writes_its_numbers(tmp_path, monkeypatch, capsys):
    file = tmp_path / "speed.json"
    monkeypatch.setattr(sys, "argv", ["speed", "--repeats", "1", "--no-peers", "--json", str(file)])
    speed.main()
    numbers = json.loads(file.read_text())
    for key in (
        "patterns_per_second_cached",
        "patterns_per_second_cached_accurate",
        "patterns_per_second_atoms",
        "gradient_cost_ratio",
        "first_pattern_seconds",
        "peak_memory_mib",
    ):
        assert numbers[key] > 0
    assert "ratio_to" in numbers
    assert "patterns/s" in capsys.readouterr().out
    assert numbers["peak_memory_mib"] < 2048
    assert not list(tmp_path.glob("*.part"))
