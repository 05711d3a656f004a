"""Host zone. From structures, radiation and a measured grid to a model and the table of its parameters."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence
from typing import Any

import gemmi
import numpy as np
import scipy.linalg

from simxrd_jax.conditions import nearest
from simxrd_jax.constants import Radiation
from simxrd_jax.crystal.build import make_crystal
from simxrd_jax.crystal.constraints import (
    CELL_NAMES,
    AtomMaps,
    CellBasis,
    atom_maps,
    cell_parameters,
    occupancy_groups,
    site_basis,
)
from simxrd_jax.crystal.reflections import make_reflections
from simxrd_jax.crystal.structure import CrystalStructure, element_of
from simxrd_jax.diffraction.anisotropic_strain import EXPONENTS
from simxrd_jax.diffraction.settings import Settings
from simxrd_jax.errors import InputError
from simxrd_jax.phases import as_radiation
from simxrd_jax.refine.forms import FormBasis, harmonics_basis, stephens_basis
from simxrd_jax.refine.model import Interpolation, Layout, ModelArrays, PhaseArrays, PhaseLayout
from simxrd_jax.refine.parameters import Kind, Parameter, ParameterTable
from simxrd_jax.types import Background, Crystal, Grid, Instrument, ReflectionList, Specimen

# Displacement parameter of sites for which a structure states none; B = 0 would raise intensities at high angle by 11 to
# 14 % (ZnO, CaF2). [A^2]
DEFAULT_BISO = 0.5
# What gives a phase its intensities.
MODES = ("rietveld", "lebail", "pawley")
# How far outside the range reflections are listed, and for how large a change of the cell; a refinement's list is fixed.
MARGIN, MAX_STRAIN = 2.0, 0.04
# Of uneven points: even points at most, and how many of them a measured point is interpolated from.
MAX_POINTS, STENCIL = 100_000, 6


@dataclasses.dataclass(frozen=True)
class InstrumentStart:
    """Values at which an instrument starts, and which effects its model has.

    Attributes:
      values: field of `Instrument` -> value.
      has_axial_divergence: whether peaks have the asymmetry of axial divergence.
    """

    values: dict[str, float] = dataclasses.field(default_factory=dict)
    has_axial_divergence: bool = True


@dataclasses.dataclass(frozen=True)
class PhaseStart:
    """A phase as a refinement starts from it.

    Attributes:
      name: in the parameters' names.
      structure: cell, sites, operators.
      texture_axis: plane normal of a preferred orientation, or None for a random powder.
      stephens: whether microstrain depends on direction; it then starts isotropic, and `microstrain` is no parameter.
      harmonics_order: greatest l of a texture by spherical harmonics, 0 for none.
      values: field of `Specimen` -> value. A field of OPTIONAL_SPECIMEN_FIELDS is there where it has a value.
      mode: one of `MODES`: "rietveld" computes intensities from the sites; for "lebail" and "pawley" they are parameters, and
        of the structure the cell, its symmetry and the absences are taken.
    """

    name: str
    structure: CrystalStructure
    texture_axis: tuple[float, float, float] | None = None
    stephens: bool = False
    harmonics_order: int = 0
    values: dict[str, float] = dataclasses.field(default_factory=dict)
    mode: str = "rietveld"


@dataclasses.dataclass(frozen=True)
class Tie:
    """A value that follows from others, p = offset + sum of factors times values.

    Attributes:
      name: of the parameter.
      factors: parameter -> factor.
      offset: constant.
    """

    name: str
    factors: dict[str, float]
    offset: float = 0.0


@dataclasses.dataclass(frozen=True)
class Restraint:
    """A measurement of a sum of parameters beside the data, sum of factors times values = value, give or take sigma."""

    factors: dict[str, float]
    value: float
    sigma: float


@dataclasses.dataclass(frozen=True, eq=False)
class Model:
    """A model ready for fits.

    Attributes:
      table: of its parameters.
      layout, arrays, settings: what the device needs, see `refine.model`.
      phases: as it was made of.
      radiation: likewise.
      ties: what values follow from others.
      notes: defaults taken and doubts of the structures' files, one sentence each.
      restraints: what is known beside the data.
    """

    table: ParameterTable
    layout: Layout
    arrays: ModelArrays
    settings: Settings
    phases: tuple[PhaseStart, ...]
    radiation: Radiation
    ties: tuple[Tie, ...]
    notes: tuple[str, ...]
    restraints: tuple[Restraint, ...] = ()


# How far a cell can move from where it starts: farther, lines would pass for their neighbours. Lengths as a share; [deg]
CELL_REACH, ANGLE_REACH = 0.04, 4.0
# Largest microstrain, and largest reciprocal grain size [1/A]: broader lines are background. How far the position can move,
# [deg] and [mm], and how wide the axial openings are at most.
LIMITS = {
    "microstrain": 0.05, "grain_size": 1.0 / 15.0, "zero_shift": 1.0, "displacement": 2.0,
    "axial_source": 0.2, "axial_detector": 0.2, "axial_tube": 0.2,
}  # fmt: skip

# Field of Instrument -> group, unit, kind, typical change.
INSTRUMENT_FIELDS: dict[str, tuple[str, str, Kind, float]] = {
    "zero_shift": ("position", "deg", "near", 0.02),
    "displacement": ("position", "mm", "near", 0.05),
    "caglioti_u": ("width", "deg^2", "linear", 0.005),
    "caglioti_v": ("width", "deg^2", "linear", 0.005),
    "caglioti_w": ("width", "deg^2", "positive", 0.002),
    "lorentz_inverse_cos": ("width", "deg", "linear", 0.02),
    "lorentz_tan": ("width", "deg", "linear", 0.02),
    "polarization_fraction": ("other", "", "linear", 0.1),
    "monochromator_two_theta": ("other", "deg", "linear", 5.0),
    "goniometer_radius": ("other", "mm", "linear", 10.0),
    "transparency": ("other", "", "linear", 1e-4),
    "equatorial_divergence": ("other", "deg", "linear", 0.1),
    "overflow_two_theta": ("other", "deg", "positive", 2.0),
    "illuminated_length": ("other", "mm", "positive", 5.0),
    "slit_width": ("other", "deg", "linear", 0.02),
    "tail_fraction": ("other", "", "bounded", 1.0),
    "tail_low": ("other", "mm", "linear", 0.5),
    "tail_high": ("other", "mm", "linear", 0.5),
    "axial_tube": ("other", "", "positive", 0.02),
    "soller": ("other", "deg", "positive", 2.0),
}
# Effects that a model has only where the instrument states them.
OPTIONAL_FIELDS = (
    "transparency", "equatorial_divergence", "overflow_two_theta", "illuminated_length", "slit_width", "axial_tube", "soller",
    "tail_fraction", "tail_low", "tail_high",
)  # fmt: skip
AXIAL_FIELDS: dict[str, tuple[str, str, Kind, float]] = {
    "axial_source": ("width", "", "positive", 0.02),
    "axial_detector": ("width", "", "positive", 0.02),
}
SPECIMEN_FIELDS: dict[str, tuple[str, str, Kind, float]] = {
    "scale": ("scale", "", "positive", 1.0),
    "grain_size": ("width", "A", "inverse", 1e-3),
    "size_gauss_fraction": ("other", "", "bounded", 1.0),
    "microstrain": ("width", "", "positive", 5e-4),
    "microstrain_gauss_fraction": ("other", "", "bounded", 1.0),
    "biso": ("displacement", "A^2", "linear", 0.3),
}
# Fields of a phase whose intensities are parameters: its scale (held at 1), texture and overall B would be the same twice.
WIDTH_FIELDS = ("grain_size", "size_gauss_fraction", "microstrain", "microstrain_gauss_fraction")
TEXTURE_FIELDS: dict[str, tuple[str, str, Kind, float]] = {"march_dollase": ("texture", "", "positive", 1.0)}
# Effects that a phase has only where its start states them. They are those of the whole specimen: where several phases state
# one, all follow the first.
OPTIONAL_SPECIMEN_FIELDS: dict[str, tuple[str, str, Kind, float]] = {
    "absorption_mu_r": ("other", "", "bounded", 1.0),
    "absorption_mu_t": ("other", "", "positive", 1.0),
    "transmission_mu_t": ("other", "", "positive", 1.0),
    "roughness_amount": ("other", "", "bounded", 1.0),
    "roughness_depth": ("other", "", "positive", 0.1),
}
# Typical microstrain: its form makes the scales of Stephens' coefficients.
TYPICAL_STRAIN = 5e-4
INSTRUMENT_START = {"caglioti_w": 0.005, "axial_source": 0.02, "axial_detector": 0.02}
SPECIMEN_START = {"scale": 1.0, "grain_size": 1500.0, "microstrain": 5e-4, "march_dollase": 1.0}


def make_model(
    phases: Sequence[PhaseStart],
    radiation: Radiation | str | float,
    two_theta: np.ndarray,
    *,
    instrument: InstrumentStart | None = None,
    background_terms: int = 8,
    humps: Sequence[tuple[float, float]] = (),
    settings: Settings | None = None,
    dispersion: bool = True,
) -> Model:
    """A model of a measurement.

    Args:
      phases: with names that differ.
      radiation: emission lines, their name, or one wavelength [A].
      two_theta: measured points, rising. [deg]
      instrument: where it starts.
      background_terms: Chebyshev coefficients.
      humps: position and FWHM of amorphous humps. [deg]
      settings: of the simulator; by default the FFT sum at refinement accuracy.
      dispersion: False sets f' = f'' = 0.

    Raises:
      InputError: no phase, two of one name, one without a reflection in the range, or of a mode that there is not.
    """
    for phase in phases:
        if phase.mode not in MODES:
            raise InputError(f"{phase.name} has no mode {phase.mode!r}{nearest(phase.mode, dict.fromkeys(MODES))}")
        if phase.mode != "rietveld" and (phase.texture_axis is not None or phase.harmonics_order):
            raise InputError(f"{phase.name}: free intensities hold its texture already; leave out the texture or the mode")
        if phase.texture_axis is not None:
            axis = np.asarray(phase.texture_axis)
            if not (np.all(np.isfinite(axis)) and np.any(axis)):
                raise InputError(f"{phase.name}: the axis of its texture must be three numbers, not all 0; change it")
        if set(phase.name) & set("[]*?@") or not phase.name:
            raise InputError(f"a phase cannot be called {phase.name!r}: its name stands in patterns; leave out [ ] * ? @")
    if not phases:
        raise InputError("a refinement needs at least one phase; give --phase FILE.cif")
    radiation = as_radiation(radiation)
    start = instrument or InstrumentStart()
    points = np.asarray(two_theta, dtype=np.float64)
    grid, interpolation = computing_grid(points)
    notes: list[str] = []
    fields = INSTRUMENT_FIELDS | (AXIAL_FIELDS if start.has_axial_divergence else {})
    fields = {field: kind for field, kind in fields.items() if field not in OPTIONAL_FIELDS or field in start.values}
    unknown = [name for name in start.values if name not in INSTRUMENT_FIELDS | AXIAL_FIELDS]
    if unknown:
        raise InputError(f"the instrument has no refinable value {unknown[0]!r}; choose from {', '.join(fields)}")
    base = Instrument(
        wavelength=np.array(radiation.wavelength),
        line_weight=np.array(radiation.weight),
        line_fwhm=None if radiation.fwhm is None else np.array(radiation.fwhm),
    )
    parameters = [
        _parameter(f"instrument.{field}", fields[field], {**_defaults(base, field), **INSTRUMENT_START, **start.values}[field])
        for field in fields
    ]
    lines = tuple(f"wavelength.{i}" for i in range(len(radiation.wavelength)))
    parameters += [
        Parameter(f"instrument.{line}", float(radiation.wavelength[i]), "other", "A", "linear", 1e-4)
        for i, line in enumerate(lines)
    ]
    parameters += [
        Parameter(f"instrument.line_weight.{i}", float(radiation.weight[i]), "other", "", "positive", 0.1)
        for i in range(1, len(radiation.weight))
    ]
    lines += tuple(f"line_weight.{i}" for i in range(1, len(radiation.weight)))
    ties: list[Tie] = []
    if start.has_axial_divergence and start.values.get("axial_detector") == start.values.get("axial_source"):
        # The two are nearly one parameter for most patterns.
        ties.append(Tie("instrument.axial_detector", {"instrument.axial_source": 1.0}))
    background: list[tuple[str, int]] = [("chebyshev", background_terms)]
    parameters += [Parameter(f"background.chebyshev.{i}", 0.0, "background") for i in range(background_terms)]
    if humps:
        background += [(field, len(humps)) for field in ("hump_position", "hump_fwhm", "hump_height")]
        parameters += [Parameter(f"background.hump_position.{i}", p, "hump", "deg") for i, (p, _) in enumerate(humps)]
        parameters += [
            Parameter(f"background.hump_fwhm.{i}", w, "hump", "deg", "positive", w) for i, (_, w) in enumerate(humps)
        ]
        parameters += [Parameter(f"background.hump_height.{i}", 0.0, "background") for i in range(len(humps))]
    layouts, arrays = [], []
    for phase in phases:
        made = _phase(phase, radiation, grid, dispersion)
        layouts.append(made.layout)
        arrays.append(made.arrays)
        parameters += made.parameters
        notes += made.notes
        ties += made.ties
    for field in OPTIONAL_SPECIMEN_FIELDS:
        first, *others = [phase.name for phase in phases if field in phase.values] or [""]
        ties += [Tie(f"phases.{name}.{field}", {f"phases.{first}.{field}": 1.0}) for name in others]
    notes += _same_structures(phases)
    return Model(
        table=ParameterTable(parameters),
        layout=Layout(instrument=(*fields, *lines), background=tuple(background), phases=tuple(layouts)),
        arrays=ModelArrays(tuple(arrays), base, Background(), points, grid, interpolation),
        settings=settings or Settings(),
        phases=tuple(phases),
        radiation=radiation,
        ties=tuple(ties),
        notes=tuple(notes),
    )


def _same_structures(phases: Sequence[PhaseStart]) -> list[str]:
    """Pairs of phases whose lines stand in the same places with the same intensities: their amounts are anybody's guess."""
    said = []
    for first, second in itertools.combinations(phases, 2):
        a, b = first.structure, second.structure
        if a.species == b.species and np.shape(a.frac) == np.shape(b.frac) and len(a.rotations) == len(b.rotations):
            same = np.allclose(a.lattice, b.lattice, rtol=1e-3, atol=1e-3) and np.allclose(a.frac, b.frac, atol=1e-3)
            if same:
                said.append(f"{first.name} and {second.name} are one structure; the data tell the sum of their amounts alone.")
    return said


def computing_grid(two_theta: np.ndarray) -> tuple[Grid, Interpolation | None]:
    """Even points to sum peaks on, and the way from them to the measured ones (None where they are the same).

    Raises:
      InputError: points that do not rise.
    """
    measured = Grid.from_points(two_theta)
    if measured.is_uniform:
        return measured, None
    span = float(two_theta[-1] - two_theta[0])
    step = max(float(np.quantile(np.diff(two_theta), 0.01)), span / MAX_POINTS)
    pad = STENCIL // 2
    grid = Grid.uniform(float(two_theta[0]) - pad * step, float(two_theta[-1]) + (pad + 1) * step, step)
    place = (two_theta - grid.start) / grid.step
    first = np.clip(np.floor(place).astype(np.int32) - (pad - 1), 0, grid.size - STENCIL)
    away = (place - first)[:, None] - np.arange(STENCIL)
    weight = np.ones((len(two_theta), STENCIL))
    for i in range(STENCIL):
        for j in range(STENCIL):
            if i != j:
                weight[:, i] *= away[:, j] / (i - j)
    return grid, Interpolation(first, weight)


def _parameter(name: str, field: tuple[str, str, Kind, float], value: float) -> Parameter:
    group, unit, kind, scale = field
    bounds = {"lower": 0.0, "upper": 1.0} if kind == "bounded" else {}
    limit = LIMITS.get(name.rsplit(".", 1)[1], math.inf)
    return Parameter(name, float(value), group, unit, kind, scale, limit=limit, **bounds)


def _defaults(base: Any, field: str) -> dict[str, float]:
    value = getattr(base, field)
    return {} if value is None else {field: float(value)}


@dataclasses.dataclass
class _Phase:
    layout: PhaseLayout
    arrays: PhaseArrays
    parameters: list[Parameter]
    notes: list[str]
    ties: list[Tie]


def _phase(start: PhaseStart, radiation: Radiation, grid: Grid, dispersion: bool) -> _Phase:
    structure, prefix = start.structure, f"phases.{start.name}"
    # What the reader doubts, as a B that looks like a U, decides about a fit.
    notes = [f"{start.name}: {note}" for note in structure.notes]
    has_atoms = start.mode == "rietveld"
    if has_atoms and not structure.has_displacement:
        structure = dataclasses.replace(structure, biso=np.full(len(structure.species), DEFAULT_BISO))
        notes.append(f"{start.name}: the structure states no displacement parameters; B = {DEFAULT_BISO:g} A^2 is taken.")
    points = np.asarray(grid.two_theta)
    lines = np.asarray(radiation.wavelength)
    crystal = make_crystal(structure, radiation.mean_wavelength, dispersion=dispersion)
    reflections = make_reflections(structure, lines, points[0], points[-1], margin=MARGIN, max_strain=MAX_STRAIN)
    if not np.any(reflections.multiplicity):
        raise InputError(
            f"{structure.source}: {start.name} has no reflection between {points[0]:g} and {points[-1]:g} deg; check the "
            "wavelength, and that the pattern's first column is 2theta in degrees, not d"
        )
    specimen = Specimen()
    known = SPECIMEN_FIELDS | TEXTURE_FIELDS | OPTIONAL_SPECIMEN_FIELDS
    unknown = [name for name in start.values if name not in known]
    if unknown:
        raise InputError(f"{start.name}: a phase has no refinable value {unknown[0]!r}; choose from {', '.join(known)}")
    if has_atoms:
        stated = {field: kind for field, kind in OPTIONAL_SPECIMEN_FIELDS.items() if field in start.values}
        fields = SPECIMEN_FIELDS | stated
    else:
        fields = {field: SPECIMEN_FIELDS[field] for field in WIDTH_FIELDS}
    microstrain = {**SPECIMEN_START, **start.values}["microstrain"]
    if start.stephens:
        fields = {field: kind for field, kind in fields.items() if field != "microstrain"}
    if start.texture_axis is not None:
        fields |= TEXTURE_FIELDS
        specimen = dataclasses.replace(specimen, texture_axis=np.array(start.texture_axis, dtype=float))
    values = {field: {**_defaults(specimen, field), **SPECIMEN_START, **start.values}[field] for field in fields}
    parameters = [_parameter(f"{prefix}.{field}", fields[field], values[field]) for field in fields]
    strain = stephens_basis(structure, microstrain) if start.stephens else _no_form(len(EXPONENTS))
    has_texture = has_atoms and start.harmonics_order > 0
    harmonics = harmonics_basis(structure, start.harmonics_order) if has_texture else _no_form(0)
    forms = [
        Parameter(
            f"{prefix}.stephens.{name}",
            float(value),
            "width",
            "A^-4",
            # Along a reciprocal axis the form is one coefficient, which cannot be negative.
            "positive" if "4" in name else "linear",
            float(16 * TYPICAL_STRAIN**2 * reach),
        )
        for name, value, reach in zip(strain.names, strain.start, strain.reach, strict=True)
    ]
    forms += [
        Parameter(f"{prefix}.harmonics.{name}", float(value), "texture", scale=0.3)
        for name, value in zip(harmonics.names, harmonics.start, strict=True)
    ]

    basis = cell_parameters(structure)
    six = _six(structure.lattice)
    for name in basis.names:
        at = CELL_NAMES.index(name)
        scale, unit, limit = (1e-3 * six[at], "A", CELL_REACH * six[at]) if at < 3 else (0.05, "deg", ANGLE_REACH)
        parameters.append(Parameter(f"{prefix}.cell.{name}", float(six[at]), "cell", unit, "near", scale, limit=limit))
    if not has_atoms:
        return _free_intensities(start, crystal, reflections, specimen, fields, basis, parameters + forms, strain)

    maps = atom_maps(structure)
    labels = _site_names(structure)
    n_atom = len(structure.atoms.frac)
    columns: list[np.ndarray] = []
    coordinates: list[float] = []
    held = _origin(structure, maps)
    for entry in dict.fromkeys(int(s) for s in maps.position):
        found = site_basis(structure, entry)
        mine = maps.position == entry
        for k, name in enumerate(found.coordinate_names):
            column = np.zeros((n_atom, 3))
            column[mine] = maps.position_rotation[mine] @ found.coordinates[:, k]
            columns.append(column)
            coordinates.append(float(structure.frac[entry]["xyz".index(name)]))
            group = "other" if (entry, name) in held else "coordinate"
            parameters.append(Parameter(f"{prefix}.sites.{labels[entry]}.{name}", coordinates[-1], group, scale=1e-3))
    sites = list(dict.fromkeys(int(s) for s in maps.site))
    # A tensor holds an isotropic part: a B beside it would be the same parameter twice.
    isotropic = [entry for entry in sites if structure.u_aniso is None or not np.any(structure.u_aniso[entry])]
    biso_of = {entry: i for i, entry in enumerate(isotropic)}
    for entry in isotropic:
        parameters.append(
            Parameter(
                f"{prefix}.sites.{labels[entry]}.biso", float(structure.biso[entry]), "displacement", "A^2", "linear", 0.3
            )
        )
    u_columns: list[np.ndarray] = []
    if structure.u_aniso is not None:
        for entry in sites:
            if not np.any(structure.u_aniso[entry]):
                continue
            found = site_basis(structure, entry)
            for k, name in enumerate(found.u_names):
                column = np.zeros((n_atom, 3, 3))
                mine = maps.site == entry
                column[mine] = _tensor(maps.u_map[mine] @ found.u_tensor[:, k])
                u_columns.append(column)
                i, j = int(name[1]) - 1, int(name[2]) - 1
                parameters.append(
                    Parameter(
                        f"{prefix}.sites.{labels[entry]}.{name}",
                        float(structure.u_aniso[entry][i, j]),
                        "displacement",
                        "A^2",
                        "linear",
                        4e-3,
                    )
                )
    atoms = structure.atoms
    occupancy = np.zeros((n_atom, len(atoms.species), len(structure.species)))
    for entry, species in enumerate(structure.species):
        mine = maps.site == atoms.site_of_entry[entry]
        occupancy[mine, atoms.species.index(species), entry] = 1.0
        parameters.append(
            Parameter(
                f"{prefix}.sites.{labels[entry]}.occupancy", float(structure.occupancy[entry]), "occupancy", "", "linear", 0.05
            )
        )
    ties: list[Tie] = []
    for group in occupancy_groups(structure):
        # The last species of a mixed site fills what the others leave.
        *others, last = (f"{prefix}.sites.{labels[entry]}.occupancy" for entry in group)
        ties.append(Tie(last, dict.fromkeys(others, -1.0), float(structure.occupancy[list(group)].sum())))
    layout = PhaseLayout(
        specimen=tuple(fields),
        cell=len(basis.names),
        coordinate=len(columns),
        biso=len(isotropic),
        u_aniso=len(u_columns),
        occupancy=len(structure.species),
        stephens=len(strain.names),
        harmonics=len(harmonics.names),
    )
    arrays = PhaseArrays(
        crystal=crystal,
        reflections=reflections,
        cell_index=np.asarray(basis.index),
        cell_fixed=np.asarray(basis.fixed, dtype=float),
        coordinate_start=np.array(coordinates),
        coordinate_map=np.stack(columns, axis=-1) if columns else np.zeros((n_atom, 3, 0)),
        biso_site=np.array([biso_of.get(int(s), -1) for s in maps.site]),
        u_map=np.stack(u_columns, axis=-1) if u_columns else np.zeros((n_atom, 3, 3, 0)),
        occupancy_map=occupancy,
        specimen=specimen,
        stephens_map=strain.matrix,
        harmonics_map=harmonics.matrix,
    )
    return _Phase(layout, arrays, parameters + forms, notes, ties)


def _no_form(coefficients: int) -> FormBasis:
    return FormBasis((), np.zeros((coefficients, 0)), np.zeros(0), np.zeros(0))


def _free_intensities(
    start: PhaseStart,
    crystal: Crystal,
    reflections: ReflectionList,
    specimen: Specimen,
    fields: dict[str, tuple[str, str, Kind, float]],
    basis: CellBasis,
    parameters: list[Parameter],
    strain: FormBasis,
) -> _Phase:
    """A phase whose |F|^2 are parameters; reflections that no cell of its class tells apart share one."""
    hkl = np.asarray(reflections.hkl)
    names = [f"phases.{start.name}.reflections.{h}_{k}_{l}" for h, k, l in hkl]
    # Pawley's may become negative: bounded ones have no sound uncertainty where a reflection is too weak to be seen.
    kind: Kind = "linear" if start.mode == "pawley" else "positive"
    parameters = parameters + [Parameter(name, 1.0, "intensity", "", kind) for name in names]
    first = coincident(hkl, start.structure)
    ties = [Tie(names[i], {names[j]: 1.0}) for i, j in enumerate(first) if i != j]
    n_atom, n_species = np.shape(crystal.occupancy)
    arrays = PhaseArrays(
        crystal=crystal,
        reflections=reflections,
        cell_index=np.asarray(basis.index),
        cell_fixed=np.asarray(basis.fixed, dtype=float),
        coordinate_start=np.zeros(0),
        coordinate_map=np.zeros((n_atom, 3, 0)),
        biso_site=np.full(n_atom, -1),
        u_map=np.zeros((n_atom, 3, 3, 0)),
        occupancy_map=np.zeros((n_atom, n_species, 0)),
        specimen=specimen,
        stephens_map=strain.matrix,
        harmonics_map=np.zeros((0, 0)),
    )
    layout = PhaseLayout(tuple(fields), len(basis.names), 0, 0, 0, 0, stephens=len(strain.names), reflection=len(hkl))
    return _Phase(layout, arrays, parameters, [], ties)


def coincident(hkl: np.ndarray, structure: CrystalStructure) -> np.ndarray:
    """For each reflection the first one that has its d in every cell of the crystal class, as 511 has that of 333.

    Two indices have one d in all of them if the sums of h_i h_j over their images under the class agree: those are what the
    free components of the metric are multiplied with.
    """
    rotations = np.unique(structure.rotations, axis=0)
    images = np.einsum("ni,rij->nrj", hkl, rotations)
    products = np.einsum("nri,nrj->nij", images, images).reshape(len(hkl), 9)
    _, first, which = np.unique(products, axis=0, return_index=True, return_inverse=True)
    return first[which.ravel()]


def _origin(structure: CrystalStructure, maps: AtomMaps) -> set[tuple[int, str]]:
    """Coordinates that fix the origin of a polar group: the heaviest site's along the directions that no operator turns.

    A shift of all atoms along them changes nothing, so that one coordinate of each must not be refined.
    """
    kernel = scipy.linalg.null_space((structure.rotations - np.eye(3)).reshape(-1, 3))
    pivots = scipy.linalg.qr(kernel.T, pivoting=True)[-1]
    number = {
        entry: gemmi.Element(element_of(structure.species[entry])).atomic_number for entry in set(maps.position.tolist())
    }
    heaviest = max(number, key=lambda entry: number[entry] * np.sum(maps.position == entry))
    return {(heaviest, "xyz"[axis]) for axis in pivots[: kernel.shape[1]]}


def _six(lattice: np.ndarray) -> np.ndarray:
    """a, b, c, alpha, beta, gamma. [A, deg]"""
    lengths = np.linalg.norm(lattice, axis=1)
    unit = lattice / lengths[:, None]
    cosines = np.array([unit[1] @ unit[2], unit[0] @ unit[2], unit[0] @ unit[1]])
    return np.concatenate([lengths, np.degrees(np.arccos(np.clip(cosines, -1.0, 1.0)))])


def _tensor(six: np.ndarray) -> np.ndarray:
    """Symmetric tensors [atom, 3, 3] of (11, 22, 33, 12, 13, 23) [atom, 6]."""
    order = np.array([[0, 3, 4], [3, 1, 5], [4, 5, 2]])
    return six[:, order]


def _site_names(structure: CrystalStructure) -> list[str]:
    """Labels of the entries, those that occur twice with a number; dots, which part a parameter's name, are left out."""
    names: list[str] = []
    for label in structure.site_labels:
        name = label.replace(".", "_")
        count = 1
        while (name if count == 1 else f"{name}_{count}") in names:
            count += 1
        names.append(name if count == 1 else f"{name}_{count}")
    return names
