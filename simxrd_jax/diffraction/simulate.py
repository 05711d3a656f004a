"""Device zone. The forward model: one pure function from crystal, reflections, specimen, instrument and grid to a pattern.

    cell -> structure factors -> corrections -> positions, widths -> peak sum -> background

`jit`, `vmap`, `grad` and `jacfwd` all work on `simulate`; `settings` is static. Nothing is scaled: a pattern's unit is
(electrons^2/A^6) per degree, times `specimen.scale`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import jax.numpy as jnp
from jaxtyping import Float, Int, Num

from simxrd_jax.crystal import cell
from simxrd_jax.crystal.structure_factor import amplitudes, cell_mass, powder_f_squared
from simxrd_jax.diffraction.anisotropic_strain import anisotropic_strain
from simxrd_jax.diffraction.background import background as background_curve
from simxrd_jax.diffraction.corrections import (
    cylinder_absorption,
    illumination,
    lorentz_polarization,
    surface_roughness,
    thin_plate_absorption,
    transmission_absorption,
)
from simxrd_jax.diffraction.geometry import flat_specimen, observed_two_theta, sin_theta
from simxrd_jax.diffraction.harmonics import harmonic_texture
from simxrd_jax.diffraction.peak_sum import peak_sum
from simxrd_jax.diffraction.settings import Settings
from simxrd_jax.diffraction.texture import orbit_march_dollase
from simxrd_jax.diffraction.widths import tail_margin
from simxrd_jax.types import Array, Background, Crystal, Grid, Instrument, Pattern, PeakList, Phase, ReflectionList, Specimen


def peak_list(
    crystal: Crystal,
    reflections: ReflectionList,
    specimen: Specimen,
    instrument: Instrument,
    f_squared: Float[Array, " hkl"] | None = None,
    split_orbits: bool = False,
) -> PeakList:
    """Positions and integrated intensities of all peaks.

    I = scale m <|F|^2> exp(-2 B s^2) LP texture absorption / V^2, times each emission line's share.

    Args:
      crystal, reflections: one structure.
      specimen, instrument: conditions.
      f_squared: cached |F|^2 of each unique reflection with the crystal's own displacement factors, in place of the sum
        over atoms.
      split_orbits: take each orbit member at its own d (a strain that breaks the class); otherwise the strained metric is
        averaged over the Laue group, which leaves a symmetric cell as it is.

    Returns:
      Peaks [line, hkl] ([line, member] with split orbits).
    """
    deformed = cell.deformed_cell(crystal.lattice, specimen, None if split_orbits else reflections.laue_rotations)
    if split_orbits:
        orbit = reflections.member_reflection
        f_squared = None if f_squared is None else f_squared[orbit]
        if specimen.texture_factor is not None:
            specimen = replace(specimen, texture_factor=specimen.texture_factor[orbit])
        reflections = _members_as_reflections(reflections)
    if f_squared is None:
        s_squared = cell.inverse_d_squared(deformed.reciprocal, reflections.hkl) / 4.0
        f_squared = powder_f_squared(*amplitudes(crystal, reflections.hkl, s_squared, deformed.reciprocal, specimen))
    rotations = None if split_orbits else reflections.laue_rotations
    return peaks_of_cell(deformed, reflections.hkl, reflections.multiplicity, f_squared, specimen, instrument, rotations)


def peaks_of_cell(
    deformed: cell.DeformedCell,
    hkl: Int[Array, "hkl 3"],
    multiplicity: Num[Array, " hkl"],
    f_squared: Float[Array, " hkl"],
    specimen: Specimen,
    instrument: Instrument,
    rotations: Int[Array, "op 3 3"] | None,
) -> PeakList:
    """Peaks of reflections of a cell whose |F|^2 is known; `peak_list` and the blocks of batches end here.

    Args:
      deformed: the strained cell.
      hkl, multiplicity: reflections; multiplicity 0 is padding.
      f_squared: <|F|^2> without the overall displacement parameter. [electrons^2]
      specimen: its `texture_factor`, if any, belongs to these reflections.
      instrument: conditions.
      rotations: of the Laue group, over which texture is averaged; None if each reflection stands for itself.
    """
    s_squared = cell.inverse_d_squared(deformed.reciprocal, hkl) / 4.0
    intensity = specimen.scale * multiplicity * f_squared * jnp.exp(-2.0 * specimen.biso * s_squared)
    intensity = intensity / jnp.square(deformed.volume)
    if specimen.march_dollase is not None:
        texture = orbit_march_dollase(hkl, specimen.texture_axis, specimen.march_dollase, deformed.reciprocal, rotations)
        intensity = intensity * texture
    if specimen.harmonics is not None:
        intensity = intensity * harmonic_texture(hkl, specimen.harmonics, deformed.reciprocal, rotations)
    if specimen.texture_factor is not None:
        intensity = intensity * specimen.texture_factor

    wavelength = jnp.asarray(instrument.wavelength, dtype=intensity.dtype)[:, None]
    share = jnp.asarray(instrument.line_weight, dtype=intensity.dtype)
    share = (share / jnp.sum(share))[:, None]
    sine, reached = sin_theta(s_squared[None, :], wavelength)
    per_line = share * intensity * lorentz_polarization(sine, instrument) * illumination(sine, instrument)
    if specimen.absorption_mu_r is not None:
        per_line = per_line * cylinder_absorption(sine, specimen.absorption_mu_r)
    if specimen.absorption_mu_t is not None:
        per_line = per_line * thin_plate_absorption(sine, specimen.absorption_mu_t)
    if specimen.transmission_mu_t is not None:
        per_line = per_line * transmission_absorption(sine, specimen.transmission_mu_t)
    if specimen.roughness_amount is not None and specimen.roughness_depth is not None:
        per_line = per_line * surface_roughness(sine, specimen.roughness_amount, specimen.roughness_depth)
    strain = None
    if specimen.stephens is not None:
        strain = anisotropic_strain(hkl, specimen.stephens, specimen.microstrain, deformed.reciprocal, rotations)
        strain = jnp.broadcast_to(strain, sine.shape)
    return PeakList(
        two_theta=observed_two_theta(sine, instrument),
        bragg_two_theta=jnp.rad2deg(2.0 * jnp.arcsin(sine)),
        intensity=jnp.where(reached, per_line, 0.0),
        strain=strain,
    )


def _members_as_reflections(reflections: ReflectionList) -> ReflectionList:
    """The same reflections with every orbit member listed for itself, for a strain that splits orbits."""
    return reflections.replace(  # pyright: ignore[reportAttributeAccessIssue]
        hkl=reflections.member_hkl,
        multiplicity=reflections.member_count,
        member_reflection=jnp.arange(reflections.member_hkl.shape[0]),
    )


def cut_far_peaks(peaks: PeakList, specimen: Specimen, instrument: Instrument, grid: Grid) -> PeakList:
    """The peaks without intensity where they stand farther outside the grid's window than their tails count."""
    start, stop = grid.two_theta[0], grid.two_theta[-1]
    margin = tail_margin(specimen, instrument, stop, peaks.strain)
    near = (peaks.two_theta >= start - margin) & (peaks.two_theta <= stop + margin)
    return replace(peaks, intensity=jnp.where(near, peaks.intensity, 0.0))


def bragg_pattern(phase: Phase, instrument: Instrument, grid: Grid, settings: Settings) -> Float[Array, " point"]:
    """The Bragg peaks of one phase on a grid, without background. [intensity per degree]"""
    specimen = phase.specimen
    peaks = peak_list(phase.crystal, phase.reflections, specimen, instrument, phase.f_squared, settings.split_orbits)
    if settings.cut_far_peaks:
        peaks = cut_far_peaks(peaks, specimen, instrument, grid)
    peaks = flat_specimen(peaks, instrument)
    return peak_sum(peaks, specimen, instrument, grid, settings)


def simulate(
    crystal: Crystal,
    reflections: ReflectionList,
    specimen: Specimen,
    instrument: Instrument,
    grid: Grid,
    background: Background | None = None,
    settings: Settings = Settings(),  # noqa: B008 (frozen)
    f_squared: Float[Array, " hkl"] | None = None,
) -> Pattern:
    """The powder pattern of one phase.

    Args:
      crystal, reflections: one structure, padded or not; batch it with `jax.vmap`.
      specimen, instrument: conditions; every floating leaf is differentiable.
      grid: points.
      background: or None.
      settings: static choices (peak sum, profile, accuracy, orbit splitting).
      f_squared: cached |F|^2, see `peak_list`.

    Returns:
      Pattern without noise (`add_noise` makes a measurement of it).
    """
    phase = Phase(crystal=crystal, reflections=reflections, specimen=specimen, f_squared=f_squared)
    return with_background(bragg_pattern(phase, instrument, grid, settings), grid, background)


def simulate_mixture(
    phases: Sequence[Phase],
    mass_fraction: Float[Array, " phase"],
    instrument: Instrument,
    grid: Grid,
    background: Background | None = None,
    settings: Settings = Settings(),  # noqa: B008 (frozen)
) -> Pattern:
    """The pattern of a mixture whose mass fractions are given.

    Each phase is scaled by its irradiated volume per cell mass, S' = w V/(Z M), with the intensities' own 1/V^2; phases
    are never scaled to their maximum. The fractions are normalised to sum 1.

    Args:
      phases: each with its own specimen; its `scale` multiplies S'.
      mass_fraction: w of each phase.

    Returns:
      Pattern without noise.

    Reference: Hill & Howard (1987), J. Appl. Cryst. 20, 467 (whose S is S'/V^2).
    """
    fraction = jnp.asarray(mass_fraction)
    fraction = fraction / jnp.sum(fraction)
    total = jnp.zeros((), dtype=jnp.result_type(phases[0].crystal.lattice))
    for i, phase in enumerate(phases):
        rotations = None if settings.split_orbits else phase.reflections.laue_rotations
        deformed = cell.deformed_cell(phase.crystal.lattice, phase.specimen, rotations)
        weight = fraction[i] * deformed.volume / cell_mass(phase.crystal)
        total = total + weight * bragg_pattern(phase, instrument, grid, settings)
    return with_background(total, grid, background)


def with_background(peaks: Float[Array, " point"], grid: Grid, parts: Background | None) -> Pattern:
    two_theta = jnp.asarray(grid.two_theta, dtype=peaks.dtype)
    curve = jnp.zeros_like(peaks)
    if parts is not None:
        curve = background_curve(parts, two_theta)
        if parts.relative:
            curve = curve * jnp.max(peaks)
    return Pattern(two_theta=two_theta, intensity=peaks + curve, peaks=peaks, background=curve)
