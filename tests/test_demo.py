"""The demo: its parts in small, and that the fit finds the truth."""

from __future__ import annotations

import dataclasses
import pathlib

import numpy as np
import pytest

from experiments.demo import fit, pictures
from experiments.demo.config import CONFIG
from experiments.demo.main import main
from simxrd_jax.train.config import powdernet_optimizer

SMALL_FIT = dataclasses.replace(CONFIG.fit, two_theta=(24.0, 70.0, 0.04))


@pytest.fixture(scope="module")
def result() -> fit.FitResult:
    return fit.run(SMALL_FIT)


def test_fit_recovers_the_truth(result: fit.FitResult):
    for name, true in SMALL_FIT.true.items():
        # Five standard uncertainties of counting statistics: weights from observed counts add a bias of about two.
        assert abs(result.steps[-1][name] - true) < 5 * result.uncertainty[name], name
        # and they mean something: far smaller than the distance of the start.
        assert result.uncertainty[name] < 0.1 * abs(SMALL_FIT.start[name] - true), name


def test_fit_explains_the_noise_and_nothing_more(result: fit.FitResult):
    points = len(result.two_theta)
    assert abs(result.chi_squared[-1] - 1) < 5 * np.sqrt(2 / points)
    assert np.all(np.diff(result.chi_squared) < 0)


def test_symbols_are_set_as_printed():
    assert pictures.formula_text("Al2 O3") == "Al$_{2}$O$_{3}$"
    assert pictures.space_group_text("F d -3 m:2") == r"$Fd\bar{3}m$"
    assert pictures.space_group_text("P 42/n m c") == "$P4_{2}/nmc$"
    assert pictures.space_group_text("P 63 2 2") == "$P6_{3}22$"


@pytest.mark.slow
def test_demo_writes_its_figures_and_says_where(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]):
    library = dataclasses.replace(CONFIG.library, batch=16, batches=2, shown=4)
    few = {"steps": 4, "validate_every": 2, "log_every": 2, "validation_patterns": 8, "optimizer": powdernet_optimizer(4)}
    training = dataclasses.replace(CONFIG.training, **few)
    small = {"library": library, "fit": SMALL_FIT, "training": training, "references": CONFIG.references[:1]}
    config = dataclasses.replace(CONFIG, **small)
    main(["--output", str(tmp_path / "figures")], config)
    written = sorted(path.name for path in (tmp_path / "figures").iterdir())
    assert written == ["LaB6.png", "convergence.png", "fit.png", "library.png", "reference_Si.png", "training"]
    assert (tmp_path / "figures" / "training" / "confusion_crystal_system.png").exists()
    printed = capsys.readouterr().out
    assert str((tmp_path / "figures").resolve()) in printed
    assert "1 1 1 at 28.44" in printed
    assert "ppm from the certified 4.156780 A" in printed
    assert "patterns/s" in printed
    assert "411 simulated, of unseen structures" in printed
    assert "9 measured" in printed
