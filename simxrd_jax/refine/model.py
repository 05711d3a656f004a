"""Device zone. From the values of a refinement's parameters to the pattern, by the same simulator as everywhere.

A model is a static `Layout`, which says what the values in the vector are, and `ModelArrays`, which hold all that is not
refined: atoms, reflections, maps from site parameters to atoms, the grid. One program serves every choice of free
parameters and every pattern of the same shape.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Float, Int

from simxrd_jax.crystal.cell import cell_to_lattice
from simxrd_jax.crystal.structure_factor import cell_mass
from simxrd_jax.diffraction.background import background as background_curve
from simxrd_jax.diffraction.geometry import flat_specimen
from simxrd_jax.diffraction.peak_sum import peak_sum
from simxrd_jax.diffraction.settings import Settings
from simxrd_jax.diffraction.simulate import peak_list
from simxrd_jax.types import Array, Background, Crystal, Grid, Instrument, PeakList, Phase, ReflectionList, Specimen


@dataclasses.dataclass(frozen=True)
class PhaseLayout:
    """How many values a phase has of each kind, in the order in which they stand.

    Attributes:
      specimen: fields of `Specimen`.
      cell, coordinate, biso, u_aniso, occupancy, stephens, harmonics: counts.
      reflection: |F|^2 that stand in place of atoms, one for each unique reflection; 0 for a phase with atoms.
    """

    specimen: tuple[str, ...]
    cell: int
    coordinate: int
    biso: int
    u_aniso: int
    occupancy: int
    stephens: int = 0
    harmonics: int = 0
    reflection: int = 0

    @property
    def counts(self) -> tuple[int, ...]:
        """Values of each kind."""
        sites = (self.coordinate, self.biso, self.u_aniso, self.occupancy)
        return (len(self.specimen), self.cell, *sites, self.stephens, self.harmonics, self.reflection)

    @property
    def size(self) -> int:
        """Values of the phase."""
        return sum(self.counts)


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
      stephens_map, harmonics_map: d coefficient / d parameter.
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
    stephens_map: Float[Array, "15 stephens"]
    harmonics_map: Float[Array, "harmonic free"]


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
    parts = jnp.split(values, np.cumsum(layout.counts)[:-1])
    conditions, cell, coordinates, biso, u_aniso, occupancy, stephens, harmonics, f_squared = parts
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
    if layout.stephens:
        specimen = dataclasses.replace(specimen, stephens=fixed.stephens_map @ stephens)
    if layout.harmonics:
        specimen = dataclasses.replace(specimen, harmonics=fixed.harmonics_map @ harmonics)
    known = f_squared if layout.reflection else None
    return Phase(crystal=crystal, reflections=fixed.reflections, specimen=specimen, f_squared=known)


def intensity_slices(layout: Layout) -> tuple[slice, ...]:
    """Where in the vector each phase's |F|^2 stand; an empty slice for a phase with atoms."""
    ends = layout.size - sum(p.size for p in layout.phases) + np.cumsum([p.size for p in layout.phases])
    return tuple(slice(int(end) - p.reflection, int(end)) for end, p in zip(ends, layout.phases, strict=True))


def lattice_of(free: Float[Array, " cell"], index: Int[Array, "6"], fixed: Float[Array, "6"]) -> Float[Array, "3 3"]:
    """Lattice vectors of the free cell parameters of a crystal class. [A, deg]"""
    six = jnp.where(index >= 0, free[jnp.maximum(index, 0)], fixed)
    return cell_to_lattice(six[:3], six[3:])


@struct.dataclass
class Parts:
    """A pattern in parts, or several.

    Attributes:
      peaks: pattern of each phase.
      background: under them.
      peak_lists: positions and intensities of each phase's reflections.
      mass, volume: of each phase's cell. [u], [A^3]
    """

    peaks: Float[Array, "*pattern phase point"]
    background: Float[Array, "*pattern point"]
    peak_lists: tuple[PeakList, ...]
    mass: Float[Array, "*pattern phase"]
    volume: Float[Array, "*pattern phase"]


def parts_of(layout: Layout, arrays: ModelArrays, settings: Settings, values: Float[Array, " parameter"]) -> Parts:
    """The pattern of each phase, the background, and what a report tells of them."""
    instrument = build_instrument(layout, arrays, values)
    phases = build_phases(layout, arrays, values)
    lists = tuple(peak_list(p.crystal, p.reflections, p.specimen, instrument, p.f_squared) for p in phases)
    return Parts(
        peaks=peaks_at_points(lists, phases, instrument, arrays, settings),
        background=background_of(layout, arrays, values),
        peak_lists=lists,
        mass=jnp.stack([cell_mass(p.crystal) for p in phases]),
        volume=jnp.stack([jnp.abs(jnp.linalg.det(p.crystal.lattice)) for p in phases]),
    )


def peaks_at_points(
    lists: Sequence[PeakList], phases: Sequence[Phase], instrument: Instrument, arrays: ModelArrays, settings: Settings
) -> Float[Array, "phase point"]:
    """The pattern of each phase at the measured points; linear in the intensities of the lists."""
    peaks = summed_peaks(lists, [p.specimen for p in phases], instrument, arrays.grid, settings)
    if arrays.interpolation is not None:
        place = arrays.interpolation.first[:, None] + jnp.arange(arrays.interpolation.weight.shape[1])
        peaks = jnp.sum(peaks[:, place] * arrays.interpolation.weight, axis=-1)
    return peaks


def intensity_response(
    layout: Layout, arrays: ModelArrays, settings: Settings, values: Float[Array, " parameter"]
) -> Callable[[Float[Array, " parameter"]], Float[Array, " point"]]:
    """The derivative of the pattern along changes of the values that are |F|^2; the peaks are linear in them."""
    instrument = build_instrument(layout, arrays, values)
    phases = build_phases(layout, arrays, values)
    units = []
    for phase in phases:
        one = None if phase.f_squared is None else jnp.ones_like(phase.f_squared)
        units.append(peak_list(phase.crystal, phase.reflections, phase.specimen, instrument, one))

    def response(change: Float[Array, " parameter"]) -> Float[Array, " point"]:
        lists = [
            dataclasses.replace(unit, intensity=unit.intensity * (change[place] if place.start < place.stop else 0.0))
            for unit, place in zip(units, intensity_slices(layout), strict=True)
        ]
        return jnp.sum(peaks_at_points(lists, phases, instrument, arrays, settings), axis=0)

    return response


# Fields of a specimen that broaden peaks.
WIDTHS = ("grain_size", "scherrer_constant", "size_gauss_fraction", "microstrain", "microstrain_gauss_fraction")


def summed_peaks(
    lists: Sequence[PeakList], specimens: Sequence[Specimen], instrument: Instrument, grid: Grid, settings: Settings
) -> Float[Array, "phase point"]:
    """The pattern of each phase from its peaks.

    Phases are padded to the longest list and summed by one program: compiling the sum for each would take a mixture's fit
    several times as long to start. Those whose strain depends on direction have a program of their own, which costs more.
    """
    lists = [flat_specimen(peaks, instrument) for peaks in lists]
    is_plain = [peaks.strain is None for peaks in lists]
    if any(is_plain) and not all(is_plain):
        places = [np.flatnonzero(np.array(is_plain) == kind).tolist() for kind in (True, False)]
        shared = (instrument, grid, settings)
        halves = [_summed_together([lists[i] for i in p], [specimens[i] for i in p], *shared) for p in places]
        return jnp.concatenate(halves)[np.argsort(np.concatenate(places))]
    return _summed_together(lists, specimens, instrument, grid, settings)


def _summed_together(
    lists: Sequence[PeakList], specimens: Sequence[Specimen], instrument: Instrument, grid: Grid, settings: Settings
) -> Float[Array, "phase point"]:
    """The patterns of phases that one program sums."""
    longest = max(peaks.intensity.shape[1] for peaks in lists)

    def padded(peaks: PeakList) -> PeakList:
        more = ((0, 0), (0, longest - peaks.intensity.shape[1]))
        return PeakList(
            two_theta=jnp.pad(peaks.two_theta, more, mode="edge"),
            bragg_two_theta=jnp.pad(peaks.bragg_two_theta, more, mode="edge"),
            intensity=jnp.pad(peaks.intensity, more),
            strain=None if peaks.strain is None else jnp.pad(peaks.strain, more, mode="edge"),
        )

    widths = [{field: jnp.asarray(getattr(s, field), lists[0].intensity.dtype) for field in WIDTHS} for s in specimens]
    stacked = jax.tree.map(lambda *rows: jnp.stack(rows), *((padded(p), w) for p, w in zip(lists, widths, strict=True)))

    def summed(peaks: PeakList, width: dict[str, Array]) -> Float[Array, " point"]:
        return peak_sum(peaks, Specimen(**width), instrument, grid, settings)

    return jax.vmap(summed)(*stacked)


def background_of(layout: Layout, arrays: ModelArrays, values: Float[Array, " parameter"]) -> Float[Array, " point"]:
    """The background at the measured points."""
    two_theta = jnp.asarray(arrays.two_theta, dtype=values.dtype)
    return background_curve(build_background(layout, arrays, values), two_theta)


@partial(jax.jit, static_argnames=("layout", "settings"))
def pattern(
    layout: Layout, arrays: ModelArrays, settings: Settings, values: Float[Array, " parameter"]
) -> Float[Array, " point"]:
    """The whole pattern."""
    parts = parts_of(layout, arrays, settings, values)
    return jnp.sum(parts.peaks, axis=0) + parts.background
