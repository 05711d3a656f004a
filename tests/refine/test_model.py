"""The model of a refinement against the simulator, and its derivatives against central differences."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import simxrd_jax as sx
from simxrd_jax.diffraction.settings import TRAINING
from simxrd_jax.errors import InputError
from simxrd_jax.io.cif import read_cif
from simxrd_jax.phases import load_phase
from simxrd_jax.refine.build import InstrumentStart, PhaseStart, computing_grid, make_model
from simxrd_jax.refine.model import build_phases, parts_of, pattern

TWO_THETA = np.round(np.arange(20.0, 60.01, 0.05), 6)
INSTRUMENT = InstrumentStart({"caglioti_w": 0.02}, has_axial_divergence=False)
AXIAL = InstrumentStart({"caglioti_w": 0.02, "axial_source": 0.02, "axial_detector": 0.02, "equatorial_divergence": 1.0})


def model_of(datasets, names, instrument=INSTRUMENT, **options):
    phases = [PhaseStart(name, read_cif(datasets / "cifs" / f"{name}.cif")) for name in names]
    return make_model(phases, "CuKa", TWO_THETA, instrument=instrument, **options)


@pytest.fixture(scope="module")
def corundum(datasets):
    return model_of(datasets, ["Al2O3"], background_terms=3)


def test_values_that_move_nothing_give_the_simulators_pattern(x64, datasets, corundum):
    values = corundum.table.values({"phases.Al2O3.scale": 3.0, "background.chebyshev.0": 7.0, "background.chebyshev.1": -2.0})
    radiation, grid = sx.RADIATIONS["CuKa"], sx.Grid.uniform(20.0, 60.0, 0.05)
    phase = load_phase(datasets / "cifs" / "Al2O3.cif", radiation, (20.0, 60.0))
    instrument = sx.Instrument(
        wavelength=np.array(radiation.wavelength), line_weight=np.array(radiation.weight), **INSTRUMENT.values
    )
    specimen = sx.Specimen(scale=3.0, grain_size=1500.0, microstrain=5e-4)
    background = sx.Background(chebyshev=np.array([7.0, -2.0, 0.0]))
    simulated = jax.jit(
        lambda: sx.simulate(phase.crystal, phase.reflections, specimen, instrument, grid, background).intensity
    )
    known = simulated()
    made = pattern(corundum.layout, corundum.arrays, corundum.settings, jnp.asarray(values))
    np.testing.assert_allclose(made, known, rtol=1e-9, atol=1e-7 * float(np.max(known)))


def test_what_the_reader_doubts_is_a_note_of_the_model(datasets, corundum):
    structure = read_cif(datasets / "cifs" / "Al2O3.cif")
    doubtful = dataclasses.replace(structure, notes=("B is above 20 A^2 for O1: is it given as U?",))
    start = PhaseStart("corundum", doubtful)
    made = make_model([start], "CuKa", TWO_THETA, instrument=INSTRUMENT, background_terms=3)
    assert "corundum: B is above 20 A^2 for O1: is it given as U?" in made.notes
    assert len(made.notes) == len(corundum.notes) - len(structure.notes) + 1


def test_parameters_have_stable_names(corundum):
    names = set(corundum.table.names)
    assert {"instrument.zero_shift", "background.chebyshev.2", "phases.Al2O3.cell.a", "phases.Al2O3.cell.c"} <= names
    coordinates = [n for n in names if n.rsplit(".", 1)[1] in ("x", "y", "z")]
    assert len(coordinates) == 2  # Al (0, 0, z), O (x, 0, 1/4)
    assert not any("cell.b" in n or "cell.alpha" in n for n in names)


def test_moved_values_keep_the_symmetry(x64, corundum):
    """A cell and sites that are refined stay on their class and their positions: no forbidden reflection lights up."""
    is_moved = lambda name: ".cell." in name or name.endswith((".x", ".z"))  # noqa: E731
    start = dict(zip(corundum.table.names, corundum.table.values(), strict=True))
    values = corundum.table.values({name: 1.01 * value for name, value in start.items() if is_moved(name)})
    (phase,) = build_phases(corundum.layout, corundum.arrays, jnp.asarray(values))
    lattice = np.asarray(phase.crystal.lattice)
    lengths = np.linalg.norm(lattice, axis=1)
    assert lengths[0] == pytest.approx(lengths[1], rel=1e-12)
    assert lattice[0] @ lattice[1] / lengths[0] ** 2 == pytest.approx(-0.5, abs=1e-12)
    structure = corundum.phases[0].structure
    images = {tuple(np.round(np.mod(x, 1.0), 6) % 1.0) for x in np.asarray(phase.crystal.frac)}
    centring = structure.atoms.centring
    for rotation, translation in zip(structure.rotations, structure.translations, strict=True):
        for x in np.asarray(phase.crystal.frac):
            y = rotation @ x + translation
            near = [np.abs((y + c - np.asarray(z)) - np.round(y + c - np.asarray(z))).max() for z in images for c in centring]
            assert min(near) < 1e-5


def plain_model(datasets):
    """What every model has, and humps."""
    return model_of(datasets, ["quartz"], AXIAL, background_terms=2, humps=[(30.0, 8.0)])


def full_model(datasets):
    """What is there once it is asked for; rays inclined before the specimen have a test of their own."""
    instrument = {
        "caglioti_w": 0.02, "transparency": 5e-4, "illuminated_length": 10.0, "slit_width": 0.05,
        "tail_fraction": 5e-3, "tail_low": 1.0, "tail_high": 2.0,
    }  # fmt: skip
    specimen = {"absorption_mu_t": 0.5, "roughness_amount": 0.3, "roughness_depth": 0.1}
    structure = read_cif(datasets / "cifs" / "quartz.cif")
    phase = PhaseStart("quartz", structure, (0.0, 0.0, 1.0), stephens=True, harmonics_order=4, values=specimen)
    settings = sx.Settings(accuracy=TRAINING)
    start = InstrumentStart(instrument, has_axial_divergence=False)
    return make_model([phase], 1.5406, TWO_THETA, instrument=start, background_terms=1, settings=settings)


@pytest.mark.parametrize("made", [plain_model, pytest.param(full_model, marks=pytest.mark.slow)])
def test_every_parameter_against_central_differences(x64, datasets, made):
    model = made(datasets)
    start = {"phases.quartz.scale": 2.0, "background.hump_height.0": 5.0, "phases.quartz.size_gauss_fraction": 0.3}
    start |= {
        "phases.quartz.microstrain_gauss_fraction": 0.4,
        "instrument.caglioti_u": 0.01,
        "instrument.monochromator_two_theta": 20.0,
    }
    start |= {"phases.quartz.harmonics.2_0": 0.3, "phases.quartz.harmonics.4_3": -0.2, "phases.quartz.march_dollase": 0.8}
    start = {name: value for name, value in start.items() if name in model.table.names}
    values = jnp.asarray(model.table.values(start))
    curve = jax.jit(lambda v: pattern(model.layout, model.arrays, model.settings, v))
    push = jax.jit(lambda v, t: jax.jvp(curve, (v,), (t,))[1])
    weight = np.random.default_rng(0).normal(size=(2, len(TWO_THETA)))
    for i, parameter in enumerate(model.table.parameters):
        step = 1e-4 * parameter.scale * (1e6 if parameter.kind == "inverse" else 1.0)
        direction = np.zeros(len(values))
        direction[i] = 1.0
        slope = weight @ np.asarray(push(values, direction))
        difference = weight @ (np.asarray(curve(values + step * direction)) - np.asarray(curve(values - step * direction)))
        size = np.linalg.norm(np.asarray(push(values, direction)))
        np.testing.assert_allclose(slope, difference / (2 * step), rtol=2e-3, atol=1e-5 * size + 1e-9, err_msg=parameter.name)


def test_uneven_points_are_interpolated(x64, datasets):
    """Points that are not even see the same pattern as the even ones between which they lie."""
    rng = np.random.default_rng(3)
    uneven = np.unique(np.concatenate([np.arange(30.0, 40.0, 0.01), np.arange(41.0, 50.0, 0.013)]))
    grid, interpolation = computing_grid(uneven)
    assert interpolation is not None
    assert grid.is_uniform
    smooth = lambda x: np.sin(3 * x) + 0.01 * x**2  # noqa: E731
    made = np.sum(
        smooth(np.asarray(grid.two_theta))[interpolation.first[:, None] + np.arange(6)] * interpolation.weight, axis=1
    )
    np.testing.assert_allclose(made, smooth(uneven), atol=1e-9)
    assert computing_grid(TWO_THETA)[1] is None
    phases = [PhaseStart("quartz", read_cif(datasets / "cifs" / "quartz.cif"))]
    some = np.sort(rng.choice(uneven, 400, replace=False))
    model = make_model(phases, "CuKa", uneven, instrument=INSTRUMENT, background_terms=1)
    dense = make_model(phases, "CuKa", some, instrument=INSTRUMENT, background_terms=1, settings=sx.Settings(peak_sum="dense"))
    dense = dataclasses.replace(
        dense,
        arrays=dense.arrays.replace(grid=sx.Grid.from_points(some), interpolation=None),  # pyright: ignore
    )
    values = model.table.values()
    a, b = (jax.jit(lambda v, m=m: parts_of(m.layout, m.arrays, m.settings, v).peaks)(values) for m in (model, dense))
    np.testing.assert_allclose(np.asarray(a)[0, np.isin(uneven, some)], b[0], atol=3e-4 * float(np.max(b)))


def test_bad_models(datasets):
    with pytest.raises(InputError, match="at least one phase"):
        make_model([], "CuKa", TWO_THETA)
    quartz = read_cif(datasets / "cifs" / "quartz.cif")
    with pytest.raises(InputError, match="occurs twice"):
        make_model([PhaseStart("a", quartz), PhaseStart("a", quartz)], "CuKa", TWO_THETA)
    with pytest.raises(InputError, match="no refinable value 'zero'"):
        make_model([PhaseStart("a", quartz)], "CuKa", TWO_THETA, instrument=InstrumentStart({"zero": 0.1}))
