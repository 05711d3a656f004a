"""Patterns and widths under named conditions, for the figures: the dense sum in float64, the truth of the other sums."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.effects.config import CONFIG
from simxrd_jax.commands.forward import FAST_COMPILATION
from simxrd_jax.conditions import build, check_conditions
from simxrd_jax.constants import RADIATIONS, Radiation
from simxrd_jax.diffraction.settings import Settings
from simxrd_jax.diffraction.simulate import simulate
from simxrd_jax.diffraction.widths import peak_shape, voigt_fwhm
from simxrd_jax.phases import LoadedPhase, load_phase
from simxrd_jax.types import Crystal, Grid, Instrument, Specimen

TUBE = RADIATIONS["CuKa1"]
# The instrument of every figure that is not about the instrument.
SHARP = {"caglioti_u": 0.004, "caglioti_v": -0.002, "caglioti_w": 0.006}
DENSE = Settings(peak_sum="dense")


@lru_cache(maxsize=64)
def phase(name: str, low: float, high: float, radiation: Radiation = TUBE, dispersion: bool = True) -> LoadedPhase:
    """A crystal of datasets/cifs with the reflections of a range, with room for the strains and shifts shown here."""
    return load_phase(
        CONFIG.cifs / f"{name}.cif", radiation, (low, high), dispersion=dispersion, max_strain=0.03, max_shift=0.8, bucket=True
    )


def pattern(
    name: str,
    window: tuple[float, float],
    conditions: Mapping[str, Any],
    radiation: Radiation = TUBE,
    settings: Settings = DENSE,
    dispersion: bool = True,
    crystal: Crystal | None = None,
    line_fwhm: tuple[float, ...] | None = None,
    points: int = CONFIG.points,
) -> tuple[np.ndarray, np.ndarray]:
    """2theta and intensity of a crystal in a window; `crystal` and `line_fwhm` replace what the CIF and the source say."""
    low, high = window
    loaded = phase(name, low, high, radiation, dispersion)
    two_theta = np.linspace(low, high, points)
    values = {k: jnp.asarray(v, dtype=float) for k, v in check_conditions({**SHARP, **conditions}).items()}
    natural = None if line_fwhm is None else jnp.asarray(line_fwhm)
    curve = _simulate(
        loaded.crystal if crystal is None else crystal,
        loaded.reflections,
        values,
        two_theta,
        natural,
        radiation=radiation,
        settings=settings,
    )
    return two_theta, np.asarray(curve)


@partial(jax.jit, static_argnames=("radiation", "settings"), compiler_options=FAST_COMPILATION)
def _simulate(crystal, reflections, values, two_theta, natural, *, radiation, settings):
    specimen, instrument, background, _ = build(values, radiation)
    instrument = dataclasses.replace(instrument, line_fwhm=natural)
    grid = Grid(two_theta=two_theta, size=len(two_theta))
    return simulate(crystal, reflections, specimen, instrument, grid, background, settings).intensity


def parts(conditions: Mapping[str, Any], radiation: Radiation = TUBE) -> tuple[Specimen, Instrument]:
    """Specimen and instrument of a set of conditions, without a default width."""
    built = build(check_conditions(conditions), radiation)
    return built.specimen, built.instrument


def fwhm(two_theta: np.ndarray, conditions: Mapping[str, Any]) -> np.ndarray:
    """FWHM of the Voigt profile at Bragg angles. [deg]"""
    specimen, instrument = parts(conditions)
    sine = jnp.sin(jnp.deg2rad(two_theta / 2))
    return np.asarray(voigt_fwhm(peak_shape(sine, instrument, specimen)))
