"""Device zone. What `simxrd simulate` compiles: conditions, pattern, noise and peak tables of one specimen, as one program.

The command compiles once and runs a few times, so on a CPU the FFT sum is compiled without optimisation: compiling is
most of the time to a first pattern. In single precision it is compiled as training batches are, since code of another
optimisation rounds otherwise: by 2e-5 deg in a peak's place, 1e-4 of its height.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Float, Key

from simxrd_jax.conditions import build
from simxrd_jax.constants import Radiation
from simxrd_jax.crystal import cell
from simxrd_jax.crystal.structure_factor import amplitudes, cell_mass, powder_f_squared
from simxrd_jax.diffraction.noise import add_noise
from simxrd_jax.diffraction.settings import Settings
from simxrd_jax.diffraction.simulate import peak_list, simulate, simulate_mixture
from simxrd_jax.diffraction.widths import peak_shape, voigt_fwhm
from simxrd_jax.presets import PRESETS, sample, split_key, texture_factor
from simxrd_jax.types import Array, Crystal, Grid, Instrument, Pattern, Phase, ReflectionList, Specimen

FAST_COMPILATION = {"xla_backend_optimization_level": 0}


@struct.dataclass
class Peaks:
    """Peaks of one phase, padding included, of the first emission line.

    Attributes:
      two_theta: observed positions. [deg]
      intensity: integrated intensity, weighted as in the pattern; 0 beyond the wavelength's limit.
      f_squared: |F|^2 with the crystal's own displacement factors. [electrons^2]
      inverse_d_squared: of the deformed cell. [1/A^2]
      fwhm: of the Voigt profile. [deg]
    """

    two_theta: Float[Array, " hkl"]
    intensity: Float[Array, " hkl"]
    f_squared: Float[Array, " hkl"]
    inverse_d_squared: Float[Array, " hkl"]
    fwhm: Float[Array, " hkl"]


def forward(
    phases: Sequence[tuple[Crystal, ReflectionList]],
    mass_fraction: Float[Array, " phase"],
    given: Mapping[str, Any],
    key: Key[Array, ""],
    *,
    preset: str,
    radiation: Radiation,
    two_theta: tuple[float, float, float],
    settings: Settings,
) -> tuple[Pattern, dict[str, Any], list[Peaks]]:
    """Pattern, conditions and peaks of one specimen; every phase is under the same conditions.

    With one phase and nothing given it is `presets.simulate_preset` with the same key.

    Args:
      phases: crystals and their reflections.
      mass_fraction: of each phase.
      given: conditions that replace those of the preset.
      key: conditions and noise follow from it.
      preset: name; its fixed conditions are taken in float32 as in training unless they are given.
      radiation, two_theta, settings: static.
    """
    condition_key, noise_key = split_key(key)
    values = {**sample(PRESETS[preset], key=condition_key), **given}
    specimen, instrument, background, noise = build(values, radiation)
    grid = Grid.uniform(*two_theta)
    members: list[Phase] = []
    for number, (crystal, reflections) in enumerate(phases):
        factor = texture_factor(values, jnp.arange(reflections.hkl.shape[0]), number, key=condition_key)
        own = replace(specimen, texture_factor=factor)
        members.append(Phase(crystal=crystal, reflections=reflections, specimen=own))
    if len(members) == 1:
        only = members[0]
        pattern = simulate(only.crystal, only.reflections, only.specimen, instrument, grid, background, settings)
    else:
        pattern = simulate_mixture(members, mass_fraction, instrument, grid, background, settings)
    pattern = replace(pattern, intensity=add_noise(jnp.asarray(pattern.intensity), noise, key=noise_key))
    shares = mass_fraction / jnp.sum(mass_fraction) if len(members) > 1 else [None]
    peaks = [_peaks(phase, share, instrument, settings) for phase, share in zip(members, shares, strict=True)]
    return pattern, values, peaks


def _peaks(phase: Phase, share: Any, instrument: Instrument, settings: Settings) -> Peaks:
    crystal, reflections = phase.crystal, phase.reflections
    rotations = None if settings.split_orbits else jnp.asarray(reflections.laue_rotations)
    peaks = peak_list(crystal, reflections, phase.specimen, instrument, None, settings.split_orbits)
    deformed = cell.deformed_cell(jnp.asarray(crystal.lattice), phase.specimen, rotations)
    reciprocal = deformed.reciprocal
    hkl = jnp.asarray(reflections.member_hkl if settings.split_orbits else reflections.hkl)
    inverse_d_squared = cell.inverse_d_squared(reciprocal, hkl)
    intensity = peaks.intensity[0]
    if share is not None:
        intensity = intensity * share * deformed.volume / cell_mass(crystal)
    sine = jnp.sin(jnp.deg2rad(peaks.bragg_two_theta[0]) / 2.0)
    strain = None if peaks.strain is None else peaks.strain[0]
    return Peaks(
        two_theta=peaks.two_theta[0],
        intensity=intensity,
        f_squared=powder_f_squared(*amplitudes(crystal, hkl, inverse_d_squared / 4.0, reciprocal, Specimen())),
        inverse_d_squared=inverse_d_squared,
        fwhm=voigt_fwhm(peak_shape(sine, instrument, phase.specimen, strain=strain)),
    )


@lru_cache(maxsize=4)
def compiled(peak_sum: str, dtype: str) -> Callable[..., tuple[Pattern, dict[str, Any], list[Peaks]]]:
    """`forward` under jit; the direct sums run long enough to repay the compiler's optimisation."""
    is_quick = peak_sum == "fft" and dtype == "float64" and jax.default_backend() == "cpu"
    options: dict[str, Any] = dict(FAST_COMPILATION) if is_quick else {}
    static = ("preset", "radiation", "two_theta", "settings")
    return partial(jax.jit, static_argnames=static, compiler_options=options)(forward)
