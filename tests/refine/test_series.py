"""Several starts of a pattern, and series of patterns."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simxrd_jax.errors import InputError
from simxrd_jax.io.cif import read_cif
from simxrd_jax.refine import solver
from simxrd_jax.refine.build import InstrumentStart, PhaseStart, make_model
from simxrd_jax.refine.fit import Refinement, refine
from simxrd_jax.refine.model import pattern
from simxrd_jax.refine.plans import Plan, Stage
from simxrd_jax.refine.series import Job, draw_starts, multi_start, refine_jobs, refine_sequence, refined_values

TWO_THETA = np.round(np.arange(25.0, 60.01, 0.05), 6)
FREE = ("@scale", "@background", "@cell", "*.microstrain")
# No blurred stage: a cell that is far off is not found, so that it matters where a fit starts.
PLAN = Plan("plain", (Stage("all", FREE),))
# Widths that are given are not taken from the measured peaks; broader ones find a cell from farther away.
SHARP = {"phases.Si.microstrain": 5e-4, "phases.Si.grain_size": 1500.0}
CELLS = tuple(5.431 * 1.0035**i for i in range(7))


@pytest.fixture(scope="module")
def model(datasets):
    phases = [PhaseStart("Si", read_cif(datasets / "cifs" / "Si.cif"))]
    start = InstrumentStart({"caglioti_w": 0.01}, has_axial_divergence=False)
    return make_model(phases, "CuKa", TWO_THETA, instrument=start, background_terms=2)


@pytest.fixture(scope="module")
def heating(model):
    """Patterns of a cell that grows by 0.35 % from one to the next, 2 % in all."""
    made = []
    with jax.enable_x64(True):
        for i, a in enumerate(CELLS):
            values = model.table.values({"phases.Si.cell.a": a, "phases.Si.scale": 4.0, "background.chebyshev.0": 60.0})
            clean = np.asarray(pattern(model.layout, model.arrays, model.settings, jnp.asarray(values)))
            made.append(np.random.default_rng(i).poisson(clean).astype(float))
    return made


def close(fit: Refinement | InputError, a: float) -> bool:
    assert isinstance(fit, Refinement)
    value, sigma = fit["phases.Si.cell.a"]
    return abs(value - a) < 5 * sigma


def test_a_sequence_follows_a_cell_that_grows(model, heating):
    jobs = [Job(model, y, PLAN, start={**SHARP, "phases.Si.cell.a": 5.431}) for y in heating]
    alone = refine(model, heating[0], PLAN, start=jobs[0].start)
    compiled = solver.compilations()
    followed = list(refine_sequence(jobs))
    assert [close(fit, a) for fit, a in zip(followed, CELLS, strict=True)] == [True] * 7
    assert solver.compilations() == compiled
    # A sequence of one is a refinement.
    assert isinstance(followed[0], Refinement)
    np.testing.assert_array_equal(followed[0].values, alone.values)


def test_a_failed_pattern_is_passed_over(model, heating):
    broken = np.full(len(TWO_THETA), np.nan)
    jobs = [Job(model, y, PLAN, start={**SHARP, "phases.Si.cell.a": 5.431}) for y in (heating[0], broken, heating[1])]
    first, failed, last = refine_sequence(jobs)
    assert isinstance(failed, InputError)
    assert close(last, CELLS[1])
    assert refined_values(first)["phases.Si.cell.a"] == first["phases.Si.cell.a"][0]
    assert "phases.Si.grain_size" not in refined_values(first)


@pytest.mark.slow
def test_batches_are_the_fits_one_by_one(model, heating):
    jobs = [Job(model, y, PLAN, start={"phases.Si.cell.a": a}) for y, a in zip(heating[:3], CELLS, strict=False)]
    alone = list(refine_jobs(jobs))
    for one, other in zip(alone, refine_jobs(jobs, batch=2), strict=True):
        assert isinstance(one, Refinement)
        assert isinstance(other, Refinement)
        for i in one.free:
            assert abs(one.values[i] - other.values[i]) < 0.02 * one.sigma[i]
    spoilt = [jobs[0], Job(model, heating[1][:-1], PLAN)]
    good, bad = refine_jobs(spoilt, batch=2)
    assert close(good, CELLS[0])
    assert "700 intensities do not fit" in str(bad)
    with pytest.raises(InputError, match="a batch of 0 patterns"):
        list(refine_jobs(jobs, batch=0))


def test_the_best_of_several_starts_is_found_and_found_again(model, heating):
    job = Job(model, heating[0], PLAN, start={**SHARP, "phases.Si.cell.a": 5.46})
    search = multi_start(job, 6, seed=3, spread=0.006)
    assert close(search.best, CELLS[0])
    rwp = [fit.agreement.rwp for fit in search.fits]
    assert search.best.agreement.rwp == min(rwp)
    assert search.reached == tuple(r <= 1.001 * min(rwp) for r in rwp)
    assert sum(search.reached) > 0
    again = multi_start(job, 6, seed=3, spread=0.006)
    np.testing.assert_array_equal(again.best.values, search.best.values)


def test_draws(model):
    start = {"phases.Si.cell.a": 5.4}
    starts = draw_starts(model, PLAN, 40, seed=0, spread=0.01, start=start)
    assert starts[0] == start
    assert set(starts[1]) == {"phases.Si.cell.a", "phases.Si.microstrain"}  # a grain size that is held is not drawn
    cells = np.array([s["phases.Si.cell.a"] for s in starts[1:]]) / 5.4 - 1
    assert 0.008 < np.abs(cells).max() <= 0.01
    widths = np.array([s["phases.Si.microstrain"] for s in starts[1:]]) / 5e-4
    assert widths.min() >= 0.5
    assert widths.max() <= 2.0
    assert draw_starts(model, PLAN, 5, seed=0, spread=0.01, start=start) == starts[:5]
    assert draw_starts(model, PLAN, 2, seed=1, spread=0.01, start=start)[1] != starts[1]
    with pytest.raises(InputError, match="--starts 0: at least one start"):
        draw_starts(model, PLAN, 0, seed=0)
    with pytest.raises(InputError, match=r"--spread 0\.5: must be between"):
        draw_starts(model, PLAN, 2, seed=0, spread=0.5)
