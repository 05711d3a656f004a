"""Fits of simulated patterns whose parameters are known."""

from __future__ import annotations

import json

import gemmi
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simxrd_jax.errors import InputError
from simxrd_jax.io.cif import read_cif
from simxrd_jax.io.instruments import read_instrument
from simxrd_jax.refine import solver, statistics
from simxrd_jax.refine.build import InstrumentStart, PhaseStart, make_model
from simxrd_jax.refine.doubts import doubts_of_fit
from simxrd_jax.refine.fit import refine, refine_many
from simxrd_jax.refine.model import pattern
from simxrd_jax.refine.plans import Plan, Stage, cumulative
from simxrd_jax.refine.report import result_dict, write_report

TWO_THETA = np.round(np.arange(20.0, 80.01, 0.05), 6)
PLAN = cumulative(
    "test",
    {
        "scale, background": ("@scale", "@background"),
        "cell": ("@cell", "instrument.displacement"),
        "widths": ("*.grain_size", "*.microstrain"),
    },
)
TRUTH = {
    "background.chebyshev.0": 60.0,
    "background.chebyshev.1": -20.0,
    "instrument.displacement": 0.08,
    "phases.Si.cell.a": 5.4325,
    "phases.Si.grain_size": 500.0,
    "phases.Si.microstrain": 8e-4,
}


def model_of(datasets, names):
    phases = [PhaseStart(name, read_cif(datasets / "cifs" / f"{name}.cif")) for name in names]
    start = InstrumentStart({"caglioti_w": 0.01}, has_axial_divergence=False)
    return make_model(phases, "CuKa", TWO_THETA, instrument=start, background_terms=3)


@pytest.fixture(scope="module")
def silicon(datasets):
    return model_of(datasets, ["Si"])


def measured(model, truth, key: int, top: float = 4000.0):
    """A pattern with counting noise, and the scale that gives it `top` counts."""
    scales = {name: 1.0 for name in model.table.names if name.endswith(".scale")} | {
        k: v for k, v in truth.items() if "scale" in k
    }
    with jax.enable_x64(True):
        values = model.table.values({**truth, **scales, "background.chebyshev.0": 0.0, "background.chebyshev.1": 0.0})
        peaks = np.asarray(pattern(model.layout, model.arrays, model.settings, jnp.asarray(values)))
        factor = top / peaks.max()
        values = model.table.values({**truth, **{name: s * factor for name, s in scales.items()}})
        clean = np.asarray(pattern(model.layout, model.arrays, model.settings, jnp.asarray(values)))
    return np.random.default_rng(key).poisson(clean).astype(float)


def test_known_parameters_are_found_within_their_uncertainties(silicon):
    found = refine(silicon, measured(silicon, TRUTH, 0), PLAN)
    assert found.converged
    assert found.agreement.gof == pytest.approx(1.0, abs=0.05)
    assert found.agreement.durbin_watson == pytest.approx(2.0, abs=0.2)
    for name, truth in TRUTH.items():
        value, sigma = found[name]
        assert abs(value - truth) < 4 * sigma, name
    assert found["phases.Si.cell.a"][1] < 1e-3
    assert found["instrument.zero_shift"] == (0.0, 0.0)
    assert found.weight_fractions["Si"][0] == 1.0
    np.testing.assert_allclose(found.calculated, found.peaks.sum(axis=0) + found.background)


def test_the_covariance_is_that_of_the_plain_jacobian(silicon):
    """The fit takes peaks and background apart; here all derivatives go through the whole pattern."""
    found = refine(silicon, measured(silicon, TRUTH, 0), PLAN)
    with jax.enable_x64(True):

        def calculated(free):
            return pattern(
                silicon.layout, silicon.arrays, silicon.settings, jnp.asarray(found.values).at[found.free].set(free)
            )

        jacobian = np.asarray(jax.jit(jax.jacfwd(calculated))(jnp.asarray(found.values[found.free])))
    known = np.linalg.inv(jacobian.T @ (found.weight[:, None] * jacobian))
    size = np.sqrt(np.diag(known))
    np.testing.assert_allclose(found.covariance / np.outer(size, size), known / np.outer(size, size), atol=1e-6)


def test_many_at_once_are_the_fits_one_by_one_with_one_compilation(silicon):
    patterns = np.stack([measured(silicon, {**TRUTH, "phases.Si.cell.a": a}, key) for key, a in enumerate((5.430, 5.434))])
    together = refine_many(silicon, patterns, PLAN)
    compiled = solver.compilations()
    again = refine_many(silicon, patterns[::-1], PLAN)
    assert solver.compilations() == compiled
    for one, other in zip(together, again[::-1], strict=True):
        np.testing.assert_allclose(one.values, other.values, rtol=1e-9)
    alone = refine(silicon, patterns[1], PLAN)
    for name in TRUTH:
        assert abs(alone[name][0] - together[1][name][0]) < 0.02 * alone[name][1]
    assert solver.compilations() <= compiled + 1


MIXTURE = Plan(
    "mixture",
    (
        Stage("scale, background", ("@scale", "@background")),
        Stage("cell", ("@scale", "@background", "phases.*.cell.a"), least_share=0.02),
    ),
)


def test_a_mixture_has_its_weight_fractions_and_faint_phases_are_each_patterns_own(datasets):
    from simxrd_jax.crystal.structure_factor import cell_mass

    model = model_of(datasets, ["Si", "Al2O3"])
    truth = {"phases.Si.scale": 1.0, "phases.Al2O3.scale": 0.5, "background.chebyshev.0": 30.0}
    mixed = measured(model, truth, 3, top=20_000.0)
    pure = measured(model, truth | {"phases.Al2O3.scale": 1e-9}, 4, top=20_000.0)
    found, lacking = refine_many(model, np.stack([mixed, pure]), MIXTURE)
    for y, together in ((mixed, found), (pure, lacking)):
        alone, _ = refine_many(model, np.stack([y, y]), MIXTURE)
        assert alone.free.tolist() == together.free.tolist()
        np.testing.assert_allclose(together.values, alone.values, atol=1e-3 * np.nanmax(alone.sigma), rtol=1e-5)
        assert len(together.warnings) == len(alone.warnings)
    names = model.table.names
    assert "phases.Al2O3.cell.a" in [names[i] for i in found.free]
    assert "phases.Al2O3.cell.a" not in [names[i] for i in lacking.free]
    (said,) = [warning for warning in lacking.warnings if "were not refined any further" in warning]
    assert said.startswith("Al2O3 gives less than 2 %")
    assert not any("any further" in warning for warning in found.warnings)
    # Of an amount whose scale the data do not determine there is no uncertainty either.
    share, sigma = lacking.weight_fractions["Al2O3"]
    assert share < 1e-3
    assert np.isnan(sigma) == np.isnan(lacking["phases.Al2O3.scale"][1])
    amounts = {}
    for name, arrays in zip(("Si", "Al2O3"), model.arrays.phases, strict=True):
        volume = abs(np.linalg.det(arrays.crystal.lattice))
        amounts[name] = truth[f"phases.{name}.scale"] * float(cell_mass(arrays.crystal)) / volume
    for name, amount in amounts.items():
        share, sigma = found.weight_fractions[name]
        assert abs(share - amount / sum(amounts.values())) < 4 * sigma
        assert 0 < sigma < 0.02


def test_excluded_ranges_and_weights(silicon):
    clean = measured(silicon, TRUTH, 1)
    spoilt = clean.copy()
    hit = (TWO_THETA > 40) & (TWO_THETA < 44)
    spoilt[hit] += 3000.0
    kept = refine(silicon, spoilt, PLAN, excluded=[(40.0, 44.0)])
    assert kept.agreement.n_points == int(np.sum(~((TWO_THETA >= 40) & (TWO_THETA <= 44))))
    assert abs(kept["phases.Si.cell.a"][0] - TRUTH["phases.Si.cell.a"]) < 4 * kept["phases.Si.cell.a"][1]
    doubled = refine(silicon, clean, PLAN, sigma=2 * np.sqrt(np.maximum(clean, 1.0)))
    plain = refine(silicon, clean, PLAN)
    assert doubled.agreement.gof == pytest.approx(plain.agreement.gof / 2, rel=1e-3)
    # Uncertainties scaled by GOF do not depend on a common factor of the weights.
    assert doubled["phases.Si.cell.a"][1] == pytest.approx(plain["phases.Si.cell.a"][1], rel=1e-3)


def test_what_is_wrong_is_said(silicon):
    y = measured(silicon, TRUTH, 2)
    stage = lambda *free: Plan("x", (Stage("x", free),))  # noqa: E731
    with pytest.raises(InputError, match="no parameter is free"):
        refine(silicon, y, stage())
    with pytest.raises(InputError, match=r"no parameter matches 'phases\.Se\.scale'"):
        refine(silicon, y, stage("phases.Se.scale"))
    with pytest.raises(InputError, match="3 intensities do not fit the model's 1201 points"):
        refine(silicon, y[:3], PLAN)
    with pytest.raises(InputError, match="3 uncertainties do not fit the 1201 points"):
        refine(silicon, y, PLAN, sigma=np.ones(3))
    with pytest.raises(InputError, match="not finite"):
        refine(silicon, np.where(y > 1000, np.nan, y), PLAN)
    with pytest.raises(InputError, match="no point is left"):
        refine(silicon, y, PLAN, excluded=[(0.0, 180.0)])
    with pytest.raises(InputError, match="grain_size = -5 must be above 0"):
        refine(silicon, y, PLAN, start={"phases.Si.grain_size": -5.0})
    degenerate = refine(silicon, y, stage("@scale", "@background", "instrument.caglioti_w", "instrument.goniometer_radius"))
    assert any("do not determine instrument.goniometer_radius" in w for w in degenerate.warnings)
    assert np.isnan(degenerate["instrument.goniometer_radius"][1])
    with pytest.raises(InputError, match="is blurred"):
        refine(silicon, y, Plan("x", (Stage("x", ("@scale",), blur=0.3),)))
    with pytest.raises(InputError, match="frees nothing"):
        refine(silicon, y, Plan("x", (Stage("x", ("@scale",)), Stage("y", ()))))
    with pytest.raises(InputError, match="excluded range from 48 to 46 deg is empty"):
        refine(silicon, y, PLAN, excluded=[(48.0, 46.0)])
    with pytest.raises(InputError, match=r"microstrain = 0\.1 must be below 0\.05"):
        refine(silicon, y, PLAN, start={"phases.Si.microstrain": 0.1})
    with pytest.raises(InputError, match=r"cell\.a = -5 must be above 0"):
        refine(silicon, y, PLAN, start={"phases.Si.cell.a": -5.0})
    nothing = refine(silicon, np.full(len(y), 100.0) + np.arange(len(y)) % 7, PLAN)
    assert nothing.warnings


@pytest.mark.parametrize("share", [-0.01, 0.01])
def test_a_cell_comes_from_either_side(silicon, share):
    y = measured(silicon, TRUTH, 4)
    stages = (Stage("near", ("@scale", "@background", "@cell"), blur=0.8), Stage("nearer", ("@scale", "@cell"), blur=0.25))
    plan = Plan("blurred", (*stages, *PLAN.stages))
    fit = refine(silicon, y, plan, start={"phases.Si.cell.a": TRUTH["phases.Si.cell.a"] * (1 + share)})
    a, sigma = fit["phases.Si.cell.a"]
    assert abs(a - TRUTH["phases.Si.cell.a"]) < 5 * sigma
    assert fit.agreement.gof == pytest.approx(1.0, abs=0.1)


@pytest.mark.parametrize("factor", [1e-6, 1e9])
def test_the_unit_of_intensities_changes_nothing_but_the_scale(silicon, factor):
    y = measured(silicon, TRUTH, 5)
    sigma = np.sqrt(np.maximum(y, 1.0))
    plain, other = refine(silicon, y, PLAN, sigma=sigma), refine(silicon, factor * y, PLAN, sigma=factor * sigma)
    i = [silicon.table.index(n) for n in TRUTH if not n.startswith("background")]
    np.testing.assert_allclose(other.values[i], plain.values[i], atol=0.02 * plain.sigma[i].max(), rtol=1e-4)
    np.testing.assert_allclose(other.sigma[i], plain.sigma[i], rtol=1e-2)
    assert not np.isnan(other.sigma).any()
    # Without uncertainties such numbers are no counts, and the result says so.
    if factor < 1:
        assert any("if these are no counts" in warning for warning in refine(silicon, factor * y, PLAN).warnings)


def test_what_is_doubtful_is_counted_or_named(datasets):
    twice = [PhaseStart(name, read_cif(datasets / "cifs" / "Si.cif")) for name in ("one", "other")]
    model = make_model(twice, "CuKa", TWO_THETA, background_terms=3)
    assert "one and other are one structure; the data tell the sum of their amounts alone." in model.notes
    assert not any("one structure" in note for note in model_of(datasets, ["Si", "Al2O3"]).notes)
    with pytest.raises(InputError, match=r"no reflection between 0\.8 and 3\.99 deg; check the wavelength, and .* not d"):
        make_model(twice[:1], "CuKa", np.arange(0.8, 4.0, 0.01))


def test_many_background_terms_are_one_warning(silicon):
    terms = ("background.chebyshev.0", "background.chebyshev.1", "background.chebyshev.2", "phases.Si.scale")
    ones = np.full((4, 4), 0.999) + 0.001 * np.eye(4)
    certainty = statistics.Uncertainty(ones, np.zeros(4, dtype=bool))
    values = silicon.table.values()
    free = np.array([silicon.table.index(name) for name in terms])
    found = statistics.agreement(*np.ones((4, 50)), 4)
    said = doubts_of_fit(silicon, values, 0 * values - 1, free, certainty, found, [0.1], has_converged=True)
    assert said[:3] == [f"{name} and phases.Si.scale are correlated by 0.999." for name in terms[:3]]
    assert said[3].startswith("3 pairs of background terms are correlated beyond 0.95")
    assert len(said) == 4


def test_a_refined_line_weight_is_in_every_file(silicon, tmp_path):
    # As many are free as in PLAN, so that its program serves.
    free = ("@scale", "@background", "@cell", "*.grain_size", "*.microstrain", "instrument.line_weight.1")
    truth = {**TRUTH, "instrument.displacement": 0.0, "instrument.line_weight.1": 0.6}
    fit = refine(silicon, measured(silicon, truth, 6, top=40_000.0), Plan("weight", (Stage("all", free),)))
    weight, sigma = fit["instrument.line_weight.1"]
    assert abs(weight - 0.6) < 4 * sigma
    assert sigma < 0.05
    write_report(fit, tmp_path)
    assert json.loads((tmp_path / "result.json").read_text())["radiation"]["weight"][1] == weight
    assert read_instrument(tmp_path / "instrument.json").radiation.weight[1] == weight
    columns = [
        block.find_loop("_diffrn_radiation_wavelength_wt") for block in gemmi.cif.read(str(tmp_path / "refinement.cif"))
    ]
    assert float(next(column for column in columns if len(column))[1]) == pytest.approx(weight, rel=1e-5)


def test_what_is_held_stays(silicon):
    fit = refine(silicon, measured(silicon, TRUTH, 2), PLAN)
    assert fit["phases.Si.size_gauss_fraction"] == (0.0, 0.0)
    assert fit["instrument.zero_shift"] == (0.0, 0.0)


def test_the_result_file(silicon, tmp_path):
    found = refine(silicon, measured(silicon, TRUTH, 5), PLAN)
    write_report(found, tmp_path)
    result = json.loads((tmp_path / "result.json").read_text())
    assert {"rwp", "rp", "gof", "rexp", "n_points", "n_parameters", "converged", "seconds", "warnings"} <= set(result)
    a = result["phases"]["Si"]["cell"]
    assert a["a"] == a["b"] == a["c"] == result["parameters"]["phases.Si.cell.a"] == list(found["phases.Si.cell.a"])
    assert a["alpha"] == [90.0, 0.0]
    assert result["phases"]["Si"]["weight_fraction"] == [1.0, 0.0]
    assert result["n_points"] == 1201
    columns = np.loadtxt(tmp_path / "pattern.xy")
    np.testing.assert_allclose(columns[:, 1] - columns[:, 2], columns[:, 3], atol=1e-2)
    assert result == json.loads(json.dumps(result_dict(found)))
