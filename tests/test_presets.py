"""Presets: distributions within limits, draws that are stable, patterns and gradients that are finite."""

from __future__ import annotations

import dataclasses
import math
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simxrd_jax.commands.forward import FAST_COMPILATION
from simxrd_jax.conditions import CONDITIONS, build
from simxrd_jax.diffraction.widths import peak_shape
from simxrd_jax.errors import InputError
from simxrd_jax.phases import load_phase_for
from simxrd_jax.presets import (
    PRESETS,
    Choice,
    LogUniform,
    Normal,
    Preset,
    Uniform,
    get_preset,
    key_of_seed,
    sample,
    seed_of_key_data,
    simulate_preset,
    texture_factor,
)

DRAWS = 64
every_preset = pytest.mark.parametrize("preset", PRESETS.values(), ids=PRESETS)


def bounds(distribution) -> tuple[float, float]:
    if isinstance(distribution, Normal):
        return distribution.mean - 3 * distribution.sigma, distribution.mean + 3 * distribution.sigma
    if isinstance(distribution, Choice):
        return float(np.min(distribution.values)), float(np.max(distribution.values))
    return distribution.low, distribution.high


@every_preset
def test_names_and_limits_are_those_of_the_table(preset: Preset):
    assert not set(preset.fixed) & set(preset.drawn)
    for name, value in preset.fixed.items():
        assert CONDITIONS[name].low <= value <= CONDITIONS[name].high
    for name, distribution in preset.drawn.items():
        low, high = bounds(distribution)
        assert CONDITIONS[name].low <= low < high <= CONDITIONS[name].high, name
        if isinstance(distribution, Choice):
            assert all(np.shape(v) == CONDITIONS[name].shape for v in distribution.values)
    assert preset.grid().size > 1000


@every_preset
def test_draws_are_within_limits_and_float32(preset: Preset):
    keys = jax.random.split(jax.random.key(1), 400)
    values = jax.vmap(lambda k: sample(preset, key=k))(keys)
    for name, value in values.items():
        assert value.dtype == jnp.float32
        if name in preset.drawn:
            low, high = bounds(preset.drawn[name])
            slack = 1e-5 * max(abs(low), abs(high))
            assert float(value.min()) >= low - slack, name
            assert float(value.max()) <= high + slack, name
            assert value.shape[1:] == CONDITIONS[name].shape
            spread = math.log(high / low) if isinstance(preset.drawn[name], LogUniform) else high - low
            seen = jnp.log(value) if isinstance(preset.drawn[name], LogUniform) else value
            assert float(seen.max() - seen.min()) > 0.6 * spread, name


@every_preset
def test_draws_do_not_depend_on_precision(preset: Preset):
    plain = sample(preset, key=jax.random.key(7))
    with jax.enable_x64(True):
        wide = sample(preset, key=jax.random.key(7))
    for name, value in plain.items():
        np.testing.assert_array_equal(value, wide[name], err_msg=name)


def test_adding_a_condition_changes_no_other():
    preset = PRESETS["laboratory"]
    more = dataclasses.replace(preset, drawn={"transparency": Uniform(0.0, 0.01), **preset.drawn})
    before, after = (sample(p, key=jax.random.key(3)) for p in (preset, more))
    assert set(after) - set(before) == {"transparency"}
    for name, value in before.items():
        np.testing.assert_array_equal(value, after[name], err_msg=name)


def test_texture_factors_can_be_drawn_in_part():
    values = {"orientation_below": 0.9, "orientation_above": 0.9}
    key = jax.random.key(5)
    whole = texture_factor(values, jnp.arange(4000), key=key)
    np.testing.assert_array_equal(texture_factor(values, jnp.arange(37, 90), key=key), whole[37:90])
    assert np.abs(texture_factor(values, jnp.arange(4000), 1, key=key) - whole).max() > 0.1
    # 1 + 0.2 z: mean and spread of 4,000 draws to four standard errors.
    assert float(whole.mean()) == pytest.approx(1.0, abs=4 * 0.2 / math.sqrt(4000))
    assert float(whole.std()) == pytest.approx(0.2, rel=4 / math.sqrt(8000))
    assert float(np.corrcoef(whole[:-1], whole[1:])[0, 1]) == pytest.approx(0.0, abs=4 / math.sqrt(4000))


def test_one_texture_limit_holds_on_both_sides():
    key = jax.random.key(2)
    one = texture_factor({"orientation_below": 0.1}, jnp.arange(500), key=key)
    assert (float(one.min()), float(one.max())) == (pytest.approx(0.9), pytest.approx(1.1))
    assert texture_factor({"grain_size": 100.0}, jnp.arange(5), key=key) is None


@pytest.mark.parametrize("seed", [0, 7, 2**31 - 1, 2**32 + 5, 2**64 - 1])
def test_seed_and_key_are_one(seed):
    data = jax.random.key_data(key_of_seed(seed))
    assert seed_of_key_data(data) == seed
    if seed < 2**31:
        np.testing.assert_array_equal(data, jax.random.key_data(jax.random.key(seed)))


def test_distributions_say_what_they_are():
    assert str(Uniform(0, 1)) == "uniform 0 to 1"
    assert str(LogUniform(1, 10)) == "log-uniform 1 to 10"
    assert str(Normal(0, 2)) == "normal 0 +- 2 (within 3 sigma)"
    assert str(Choice((0.0, 26.6))) == "one of 0.0, 26.6"


def test_unknown_preset():
    with pytest.raises(InputError, match="did you mean laboratory"):
        get_preset("labratory")


@pytest.mark.parametrize("grain", [2.0, 20.0])
@pytest.mark.parametrize("two_theta", [20.0, 75.0])
def test_simxrd_size_broadening_is_the_published_one(grain: float, two_theta: float):
    """FWHM_L = 0.888 lambda/(D cos theta) in degrees and Gaussian variances FWHM_L^2/(8 sqrt 2) + 0.001 deg^2."""
    preset = PRESETS["simxrd"]
    with jax.enable_x64(True):
        values = {**preset.fixed, "grain_size": grain}
        specimen, instrument, _, _ = build(values, preset.radiation)
        theta = math.radians(two_theta / 2)
        shape = peak_shape(jnp.array([math.sin(theta)]), instrument, specimen)
    lorentz = 0.888 * 1.54184 / (grain * math.cos(theta))
    assert 2 * float(shape.hwhm_lorentz[0]) == pytest.approx(lorentz, rel=1e-9)
    assert float(shape.sigma[0]) ** 2 == pytest.approx(lorentz**2 / (8 * math.sqrt(2)) + 0.001, rel=1e-3)


@pytest.mark.parametrize(
    "preset",
    [pytest.param(p, marks=pytest.mark.slow if name in ("simxrd", "synchrotron") else ()) for name, p in PRESETS.items()],
    ids=PRESETS,
)
def test_patterns_and_gradients_are_finite_and_repeat(preset: Preset, cif_folder: pathlib.Path):
    """64 draws in float32: patterns bit for bit the same again, gradients with respect to lattice and positions finite."""
    phase = load_phase_for(cif_folder / "TiO2_rutile.cif", preset, dtype=np.float32)
    grid, settings = preset.grid(), preset.settings()
    weight = jnp.asarray(np.random.default_rng(0).normal(size=grid.size), dtype=jnp.float32)

    def score(lattice, frac, key):
        crystal = phase.crystal.replace(lattice=lattice, frac=frac)
        pattern, values = simulate_preset(crystal, phase.reflections, preset, grid, settings, key=key)
        return jnp.vdot(pattern.intensity, weight) / jnp.max(pattern.peaks), (pattern.intensity, values)

    keys = jax.random.split(jax.random.key(0), DRAWS)
    batch = jax.vmap(jax.value_and_grad(score, argnums=(0, 1), has_aux=True), in_axes=(None, None, 0))
    run = jax.jit(batch, compiler_options=FAST_COMPILATION)
    (_, (patterns, values)), gradients = run(phase.crystal.lattice, phase.crystal.frac, keys)
    assert patterns.shape == (DRAWS, grid.size)
    assert bool(jnp.all(jnp.isfinite(patterns)))
    assert float(patterns.max(axis=1).min()) > 0
    for gradient in gradients:
        assert bool(jnp.all(jnp.isfinite(gradient)))
        assert float(jnp.abs(gradient).max()) > 0
    (_, (again, values_again)), _ = run(phase.crystal.lattice, phase.crystal.frac, keys)
    np.testing.assert_array_equal(patterns, again)
    for name in values:
        np.testing.assert_array_equal(values[name], values_again[name])
