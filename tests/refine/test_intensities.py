"""Le Bail, Pawley and R_Bragg on simulated patterns whose intensities are known."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simxrd_jax.errors import InputError
from simxrd_jax.io.cif import read_cif
from simxrd_jax.refine.build import InstrumentStart, Model, PhaseStart, coincident, make_model
from simxrd_jax.refine.fit import refine
from simxrd_jax.refine.intensities import Shares, r_bragg, shares_of, slack
from simxrd_jax.refine.model import intensity_slices, parts_of
from simxrd_jax.refine.plans import Plan, default_plan
from simxrd_jax.refine.report import result_dict

TWO_THETA = np.round(np.arange(20.0, 80.01, 0.05), 6)
INSTRUMENT = InstrumentStart({"caglioti_w": 0.01}, has_axial_divergence=False)
WIDTHS = {"grain_size": 600.0, "microstrain": 8e-4}


def model_of(datasets, modes: dict[str, str]) -> Model:
    phases = [PhaseStart(name, read_cif(datasets / "cifs" / f"{name}.cif"), mode=mode) for name, mode in modes.items()]
    return make_model(phases, "CuKa", TWO_THETA, instrument=INSTRUMENT, background_terms=3)


_parts = jax.jit(parts_of, static_argnums=(0, 2))


def parts(model: Model, values):
    with jax.enable_x64(True):
        made = _parts(model.layout, model.arrays, model.settings, jnp.asarray(values))
        return jax.tree.map(np.asarray, made)


def pattern_of(model: Model, changed: dict[str, float], top: float = 5000.0):
    """A clean pattern of a phase with atoms with `top` counts at its highest, on a slope, and its values."""
    flat = {f"phases.{phase.name}.{field}": value for phase in model.phases for field, value in WIDTHS.items()}
    values = model.table.values({**flat, **changed})
    scales = [i for i, p in enumerate(model.table.parameters) if p.group == "scale"]
    values[scales] *= top / parts(model, values).peaks.sum(axis=0).max()
    for name, value in (("background.chebyshev.0", 80.0), ("background.chebyshev.1", -25.0)):
        values[model.table.index(name)] = value
    made = parts(model, values)
    return made.peaks.sum(axis=0) + made.background, values


CELL = {"a": 4.7606, "c": 12.9940}


@pytest.fixture(scope="module")
def corundum(datasets):
    """Corundum by its atoms, its pattern of counts, and the |F|^2 with which it was made."""
    model = model_of(datasets, {"Al2O3": "rietveld"})
    clean, values = pattern_of(model, {f"phases.Al2O3.cell.{n}": v for n, v in CELL.items()})
    (peaks,) = parts(model, values).peak_lists
    return clean, peaks.intensity.sum(axis=0), peaks.two_theta[0]


@pytest.fixture(scope="module")
def free(datasets):
    return {mode: model_of(datasets, {"Al2O3": mode}) for mode in ("lebail", "pawley")}


def off(share: float) -> dict[str, float]:
    return {f"phases.Al2O3.cell.{n}": v * (1 + share) for n, v in CELL.items()}


@pytest.fixture(scope="module")
def found(free, corundum):
    """A fit by Le Bail of a pattern with counting noise, from a cell that is 0.5 % too large."""
    y = np.random.default_rng(1).poisson(corundum[0]).astype(float)
    model = free["lebail"]
    return refine(model, y, default_plan(model), start=off(0.005))


def test_le_bail_finds_cell_and_intensities_from_a_cell_that_is_off(found, corundum):
    _, areas, places = corundum
    assert found.converged
    assert found.agreement.gof == pytest.approx(1.0, abs=0.06)
    for name, truth in CELL.items():
        value, sigma = found[f"phases.Al2O3.cell.{name}"]
        assert abs(value - truth) < 4 * sigma
        assert sigma < 1e-3 * truth
    (made,) = found.peak_lists
    inside = (places > 21.0) & (places < 79.0)
    got, want = np.asarray(made.intensity).sum(axis=0)[inside], areas[inside]
    # Groups of reflections that stand closer than a width, by their sums.
    group = np.cumsum(np.concatenate([[0], np.diff(places[inside]) > 0.15]))
    got, want = np.bincount(group, got), np.bincount(group, want)
    strong = want > 0.05 * want.max()
    assert strong.sum() >= 6
    np.testing.assert_allclose(got[strong], want[strong], rtol=0.03)  # counting: 5,000 at the highest
    assert found.r_bragg["Al2O3"] < 0.005  # the limit of the partition


def test_le_bail_of_a_pattern_without_noise_has_its_intensities(free, corundum):
    """To 1 %, and R_Bragg nothing: the limit of the partition is the least-squares solution."""
    clean, areas, places = corundum
    model = free["lebail"]
    fit = refine(model, clean, default_plan(model), start=off(-0.005))
    (made,) = fit.peak_lists
    inside = (places > 21.0) & (places < 79.0)
    got, want = np.asarray(made.intensity).sum(axis=0)[inside], areas[inside]
    group = np.cumsum(np.concatenate([[0], np.diff(places[inside]) > 0.15]))
    got, want = np.bincount(group, got), np.bincount(group, want)
    np.testing.assert_allclose(got, want, rtol=0.01, atol=1e-3 * want.max())
    assert fit.agreement.rwp < 2e-3
    assert fit.r_bragg["Al2O3"] < 5e-3
    assert fit["phases.Al2O3.cell.a"][0] == pytest.approx(CELL["a"], abs=5e-5)


def test_what_a_result_says_of_intensities(found):
    result = result_dict(found)
    assert result["phases"]["Al2O3"]["mode"] == "lebail"
    assert result["phases"]["Al2O3"]["weight_fraction"] is None
    assert result["phases"]["Al2O3"]["r_bragg"] == found.r_bragg["Al2O3"]
    value, sigma = result["parameters"]["phases.Al2O3.reflections.0_1_2"]
    assert value > 0
    assert sigma is None  # a partition gives none
    names = found.model.table.names
    assert not any(".sites." in n or n.endswith((".scale", ".biso")) for n in names)
    assert {"phases.Al2O3.cell.a", "phases.Al2O3.grain_size"} <= set(names)
    n_inside = found.agreement.n_parameters - len(found.free)
    assert 15 < n_inside < len(found.model.phases[0].structure.species) + 40


def test_points_that_do_not_count_leave_intensities_alone(free, corundum):
    clean, areas, places = corundum
    model = free["lebail"]
    spoilt = np.where((TWO_THETA > 42.5) & (TWO_THETA < 44.5), 1e5, clean)
    at = int(np.argmin(np.abs(places - 43.36)))  # 1 1 3
    name = model.table.names[intensity_slices(model.layout)[0].start + at]
    assert name.endswith("1_1_3")
    plan = Plan("x", default_plan(model).stages[-1:])
    start = {f"phases.Al2O3.{f}": v for f, v in WIDTHS.items()} | off(0.0)
    start |= dict.fromkeys((n for n in model.table.names if ".reflections." in n), 30.0) | {name: 123.0}
    fit = refine(model, spoilt, plan, excluded=[(42.5, 44.5)], start=start)
    assert fit[name][0] == pytest.approx(123.0)
    other = int(np.argmin(np.abs(places - 57.5)))  # 1 1 6
    assert np.asarray(fit.peak_lists[0].intensity)[:, other].sum() == pytest.approx(areas[other], rel=0.02)


def test_pawleys_uncertainties_are_those_of_repeated_measurements(free, corundum):
    clean, areas, places = corundum
    model = free["pawley"]
    start = {f"phases.Al2O3.{f}": v for f, v in WIDTHS.items()} | off(0.0)
    plan = Plan("x", default_plan(model).stages[-2:])
    rng = np.random.default_rng(0)
    fits = [refine(model, rng.poisson(clean).astype(float), plan, start=start, sigma=np.sqrt(clean)) for _ in range(24)]
    assert all(fit.converged for fit in fits)
    (place,) = intensity_slices(model.layout)
    inside = (places > 21.0) & (places < 79.0)
    values = np.stack([fit.values for fit in fits])[:, place][:, inside]
    sigma = np.stack([fit.sigma for fit in fits])[:, place][:, inside]
    # |F|^2 in the pattern's unit: area for area.
    (made,) = fits[0].peak_lists
    unit = np.asarray(made.intensity).sum(axis=0)[inside] / values[0]
    pull = (values - areas[inside] / unit) / sigma
    assert np.all(np.isfinite(pull))
    assert np.sqrt(np.mean(pull**2)) == pytest.approx(1.0, abs=0.12)
    # Widths that are free move all intensities of a pattern together: 24 patterns tell the mean to 1/sqrt(24) at worst.
    assert abs(np.mean(pull)) < 2 / np.sqrt(24)
    strong = areas[inside] > 0.05 * areas.max()
    spread = values.std(axis=0, ddof=1) / sigma.mean(axis=0)
    assert np.median(spread[strong]) == pytest.approx(1.0, abs=0.25)


def test_pawley_ends_below_le_bail(free, corundum, found):
    y = found.observed
    model = free["pawley"]
    fit = refine(model, y, default_plan(model), start=off(0.005))
    assert fit.converged
    assert fit.agreement.rwp <= found.agreement.rwp * (1 + 1e-6)
    assert fit.agreement.n_parameters == len(fit.free)
    value, sigma = fit["phases.Al2O3.reflections.1_1_3"]
    assert 0 < sigma < 0.05 * value
    assert fit["phases.Al2O3.cell.a"][1] >= 0.99 * found["phases.Al2O3.cell.a"][1]


@pytest.mark.slow
def test_a_structure_beside_an_impurity_of_unknown_structure(datasets):
    truth = model_of(datasets, {"Si": "rietveld", "Al2O3": "rietveld"})
    clean, values = pattern_of(truth, {"phases.Si.scale": 1.0, "phases.Al2O3.scale": 1.0})
    y = np.random.default_rng(2).poisson(clean).astype(float)
    model = model_of(datasets, {"Si": "rietveld", "Al2O3": "lebail"})
    fit = refine(model, y, default_plan(model))
    assert fit.agreement.gof == pytest.approx(1.0, abs=0.08)
    scale, sigma = fit["phases.Si.scale"]
    assert abs(scale - values[truth.table.index("phases.Si.scale")]) < 4 * sigma
    assert fit.weight_fractions["Si"][0] == 1.0
    assert np.isnan(fit.weight_fractions["Al2O3"][0])
    assert any("no amount of Al2O3" in warning for warning in fit.warnings)
    assert fit.r_bragg["Si"] < 0.03
    result = result_dict(fit)
    assert result["phases"]["Al2O3"]["weight_fraction"] is None
    assert result["phases"]["Si"]["mode"] == "rietveld"


def test_r_bragg(x64, datasets):
    """Nothing where the model is the pattern, and by hand where one reflection alone is off."""
    model = model_of(datasets, {"Si": "rietveld"})
    clean, values = pattern_of(model, {})
    made = parts(model, values)
    arguments = (model.layout, model.arrays, model.settings, values)
    weight = np.ones(len(clean))
    (same,) = shares_of(*arguments, clean, weight)
    assert r_bragg(same) < 1e-9
    (twice,) = shares_of(*arguments, made.background + 2 * made.peaks[0], weight)
    assert r_bragg(twice) == pytest.approx(0.5, rel=1e-6)
    near = np.abs(TWO_THETA - 47.3) < 2.5  # 2 2 0 alone
    area = np.asarray(same.area)
    (one,) = shares_of(*arguments, made.background + made.peaks[0] * np.where(near, 2.0, 1.0), weight)
    at = int(np.argmin(np.abs(np.asarray(same.two_theta) - 47.3)))
    seen = np.asarray(same.seen) > 0.3
    assert r_bragg(one) == pytest.approx(area[at] / (area[seen].sum() + area[at]), rel=0.05)
    assert np.isnan(r_bragg(dataclasses.replace(same, seen=np.zeros_like(area))))


def test_a_turn_lowers_the_sum_of_squares_and_keeps_coincident_reflections_equal(x64, free, corundum):
    """Against the plain sums over a dense matrix of profiles, made column by column."""
    clean, _, _ = corundum
    model = free["lebail"]
    (place,) = intensity_slices(model.layout)
    values = model.table.values({f"phases.Al2O3.{f}": v for f, v in WIDTHS.items()} | off(0.001))
    values[place] = 40.0
    values[model.table.index("background.chebyshev.0")] = 70.0
    weight = 1.0 / clean
    y = np.random.default_rng(3).poisson(clean).astype(float)
    peaks = jax.jit(lambda v: jnp.sum(parts_of(model.layout, model.arrays, model.settings, v).peaks, axis=0))
    columns = []
    for k in range(place.start, place.stop):
        alone = values.copy()
        alone[place] = 0.0
        alone[k] = values[k]
        columns.append(np.asarray(peaks(alone)))
    dense = np.stack(columns)
    net = y - parts(model, values).background
    (share,) = shares_of(model.layout, model.arrays, model.settings, values, y, weight)
    seen = np.asarray(share.seen) >= 0.3
    wanted = (dense @ (weight * net)) / (dense @ (weight * dense.sum(axis=0)))
    np.testing.assert_allclose(np.asarray(share.ratio)[seen], wanted[seen], rtol=1e-6)
    total = dense.sum(axis=0)
    before = np.sum(weight * (net - total) ** 2)
    after = np.sum(weight * (net - np.where(seen, share.ratio, 1.0) @ dense) ** 2)
    assert after < before


def test_reflections_that_no_cell_tells_apart_share_one_intensity(datasets):
    silicon = read_cif(datasets / "cifs" / "Si.cif")
    hkl = np.array([[1, 1, 1], [3, 3, 3], [5, 1, 1], [4, 4, 0], [6, 0, 0], [4, 4, 2]])
    assert coincident(hkl, silicon).tolist() == [0, 1, 1, 3, 4, 4]
    corundum = read_cif(datasets / "cifs" / "Al2O3.cif")
    # 3 0 0 and 0 0 9 may have one d by chance, never by symmetry; h k l and k h l of -3m with l = 0 are one orbit.
    assert coincident(np.array([[2, 1, 1], [1, 2, 1], [3, 0, 0], [0, 0, 9]]), corundum).tolist() == [0, 0, 2, 3]
    model = model_of(datasets, {"Si": "pawley"})
    wide = make_model(model.phases, "CuKa", np.arange(20.0, 110.0, 0.05), instrument=INSTRUMENT)
    assert {t.name: t.factors for t in wide.ties} == {"phases.Si.reflections.5_1_1": {"phases.Si.reflections.3_3_3": 1.0}}


def test_slack_ties_what_lies_within_a_fraction_of_a_width():
    place = np.array([20.0, 20.02, 21.0, 22.0, 22.03])
    seen = np.array([1.0, 1.0, 1.0, 1.0, 0.0])
    found = Shares(area=np.ones(5), ratio=np.ones(5), seen=seen, two_theta=place, fwhm=np.full(5, 0.1))
    f_squared = np.array([10.0, 30.0, 20.0, 40.0, 50.0])
    matrix, target, sigma = slack(found, f_squared, np.ones(5, dtype=bool))
    assert matrix.shape == (5, 5)
    np.testing.assert_array_equal(matrix[0], [1, -1, 0, 0, 0])
    assert target[0] == 0
    assert sigma[0] == pytest.approx(np.sqrt(2) * 25.0)
    np.testing.assert_array_equal(matrix[4], [0, 0, 0, 0, 1])  # not seen: it stays
    assert (target[4], sigma[4]) == (50.0, 25.0)
    assert not matrix[[1, 2, 3]].any()


def test_bad_modes(datasets):
    silicon = read_cif(datasets / "cifs" / "Si.cif")
    with pytest.raises(InputError, match="Si has no mode 'le-bail'; did you mean lebail"):
        make_model([PhaseStart("Si", silicon, mode="le-bail")], "CuKa", TWO_THETA)
    with pytest.raises(InputError, match="free intensities hold its texture"):
        make_model([PhaseStart("Si", silicon, (0, 0, 1), mode="pawley")], "CuKa", TWO_THETA)
    model = model_of(datasets, {"Si": "lebail"})
    with pytest.raises(InputError, match=r"reflections\.1_1_1 = -1 must be above 0"):
        model.table.values({"phases.Si.reflections.1_1_1": -1.0})
