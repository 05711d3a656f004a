"""Device zone. From the values of a refinement's parameters to the pattern, by the same simulator as everywhere.

A model is a static `Layout`, which says what the values in the vector are, and `ModelArrays`, which hold all that is not
refined: atoms, reflections, maps from site parameters to atoms, the grid. One program serves every choice of free
parameters and every pattern of the same shape.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Float, Int

from simxrd_jax.crystal.cell import cell_to_lattice
from simxrd_jax.diffraction.background import background as background_curve
from simxrd_jax.diffraction.settings import Settings
from simxrd_jax.diffraction.simulate import bragg_pattern
from simxrd_jax.types import Array, Background, Crystal, Grid, Instrument, Phase, ReflectionList, Specimen


@dataclasses.dataclass(frozen=True)
class PhaseLayout:
    """How many values a phase has of each kind, in the order in which they stand.

    Attributes:
      specimen: fields of `Specimen`.
      cell, coordinate, biso, u_aniso, occupancy: counts.
    """

    specimen: tuple[str, ...]
    cell: int
    coordinate: int
    biso: int
    u_aniso: int
    occupancy: int

    @property
    def size(self) -> int:
        """Values of the phase."""
        return len(self.specimen) + self.cell + self.coordinate + self.biso + self.u_aniso + self.occupancy


@dataclasses.dataclass(frozen=True)
class Layout:
    """What the values of a model are, in order: instrument, background, phases.

    Attributes:
      instrument: fields of `Instrument`; "wavelength.1" is an element of one.
      background: field of `Background` and its number of values; 0 is a field without an axis.
      phases: of each phase.
    """

    instrument: tuple[str, ...]
    background: tuple[tuple[str, int], ...]
    phases: tuple[PhaseLayout, ...]

    @property
    def size(self) -> int:
        """Values of the model."""
        return len(self.instrument) + sum(max(n, 1) for _, n in self.background) + sum(p.size for p in self.phases)


@struct.dataclass
class PhaseArrays:
    """What a phase's values act on.

    Attributes:
      crystal, reflections: as listed at the start; the model replaces what is refined.
      cell_index: which free cell parameter each of a, b, c, alpha, beta, gamma is, -1 where symmetry fixes it.
      cell_fixed: the value that symmetry fixes.
      coordinate_start: coordinates at which the atoms stand in `crystal`.
      coordinate_map: d frac / d coordinate.
      biso_site: index of each atom's isotropic displacement parameter, -1 of those that keep the crystal's.
      u_map: d U / d parameter.
      occupancy_map: d occupancy / d parameter.
      specimen: fields that are not refined.
    """

    crystal: Crystal
    reflections: ReflectionList
    cell_index: Int[Array, "6"]
    cell_fixed: Float[Array, "6"]
    coordinate_start: Float[Array, " coordinate"]
    coordinate_map: Float[Array, "atom 3 coordinate"]
    biso_site: Int[Array, " atom"]
    u_map: Float[Array, "atom 3 3 u"]
    occupancy_map: Float[Array, "atom species occupancy"]
    specimen: Specimen


@struct.dataclass
class Interpolation:
    """Lagrange interpolation between even points.

    Attributes:
      first: even point at which each point's stencil begins.
      weight: of the points of the stencil.
    """

    first: Int[Array, " point"]
    weight: Float[Array, "point stencil"]


@struct.dataclass
class ModelArrays:
    """All that is not refined.

    Attributes:
      phases: of each phase.
      instrument: fields that are not refined.
      background: likewise.
      two_theta: measured points. [deg]
      grid: where peaks are summed: the measured points where they are even, else even points as close as the closest ones.
      interpolation: leads from `grid` to the points, or None where they are the same.
    """

    phases: tuple[PhaseArrays, ...]
    instrument: Instrument
    background: Background
    two_theta: Float[Array, " point"]
    grid: Grid
    interpolation: Interpolation | None


def build_instrument(layout: Layout, arrays: ModelArrays, values: Float[Array, " parameter"]) -> Instrument:
    """The instrument that a vector of values stands for."""
    changed: dict[str, Any] = {}
    for i, name in enumerate(layout.instrument):
        field, _, element = name.partition(".")
        if element:
            before = changed.get(field, jnp.asarray(getattr(arrays.instrument, field)))
            changed[field] = before.at[int(element)].set(values[i])
        else:
            changed[field] = values[i]
    return dataclasses.replace(arrays.instrument, **changed)


def build_background(layout: Layout, arrays: ModelArrays, values: Float[Array, " parameter"]) -> Background:
    """The background that a vector of values stands for."""
    changed: dict[str, Any] = {}
    start = len(layout.instrument)
    for field, count in layout.background:
        changed[field] = values[start : start + count] if count else values[start]
        start += max(count, 1)
    return dataclasses.replace(arrays.background, **changed)


def build_phases(layout: Layout, arrays: ModelArrays, values: Float[Array, " parameter"]) -> tuple[Phase, ...]:
    """The phases that a vector of values stands for."""
    start = layout.size - sum(p.size for p in layout.phases)
    phases = []
    for shape, fixed in zip(layout.phases, arrays.phases, strict=True):
        phases.append(_build_phase(shape, fixed, values[start : start + shape.size]))
        start += shape.size
    return tuple(phases)


def _build_phase(layout: PhaseLayout, fixed: PhaseArrays, values: Float[Array, " parameter"]) -> Phase:
    counts = (len(layout.specimen), layout.cell, layout.coordinate, layout.biso, layout.u_aniso, layout.occupancy)
    parts = jnp.split(values, np.cumsum(counts)[:-1])
    conditions, cell, coordinates, biso, u_aniso, occupancy = parts
    crystal = dataclasses.replace(
        fixed.crystal,
        lattice=lattice_of(cell, fixed.cell_index, fixed.cell_fixed),
        frac=fixed.crystal.frac + fixed.coordinate_map @ (coordinates - fixed.coordinate_start),
        occupancy=fixed.occupancy_map @ occupancy,
    )
    if layout.biso:
        own = biso[jnp.maximum(fixed.biso_site, 0)]
        crystal = dataclasses.replace(crystal, biso=jnp.where(fixed.biso_site >= 0, own, fixed.crystal.biso))
    if layout.u_aniso:
        crystal = dataclasses.replace(crystal, u_aniso=fixed.u_map @ u_aniso)
    specimen = dataclasses.replace(fixed.specimen, **dict(zip(layout.specimen, conditions, strict=True)))
    return Phase(crystal=crystal, reflections=fixed.reflections, specimen=specimen)


def lattice_of(free: Float[Array, " cell"], index: Int[Array, "6"], fixed: Float[Array, "6"]) -> Float[Array, "3 3"]:
    """Lattice vectors of the free cell parameters of a crystal class. [A, deg]"""
    six = jnp.where(index >= 0, free[jnp.maximum(index, 0)], fixed)
    return cell_to_lattice(six[:3], six[3:])


def components(
    layout: Layout, arrays: ModelArrays, settings: Settings, values: Float[Array, " parameter"]
) -> tuple[Float[Array, "phase point"], Float[Array, " point"]]:
    """The pattern of each phase, and the background."""
    instrument = build_instrument(layout, arrays, values)
    phases = build_phases(layout, arrays, values)
    peaks = jnp.stack([bragg_pattern(phase, instrument, arrays.grid, settings) for phase in phases])
    if arrays.interpolation is not None:
        place = arrays.interpolation.first[:, None] + jnp.arange(arrays.interpolation.weight.shape[1])
        peaks = jnp.sum(peaks[:, place] * arrays.interpolation.weight, axis=-1)
    two_theta = jnp.asarray(arrays.two_theta, dtype=peaks.dtype)
    return peaks, background_curve(build_background(layout, arrays, values), two_theta)


def pattern(
    layout: Layout, arrays: ModelArrays, settings: Settings, values: Float[Array, " parameter"]
) -> Float[Array, " point"]:
    """The whole pattern."""
    peaks, curve = components(layout, arrays, settings, values)
    return jnp.sum(peaks, axis=0) + curve
