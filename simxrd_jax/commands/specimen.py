"""Host zone. The patterns of one specimen under given options, with all that made them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import simxrd_jax
from simxrd_jax.commands.forward import Peaks, compiled
from simxrd_jax.conditions import CONDITIONS, STRAIN, build, check_conditions
from simxrd_jax.constants import Radiation
from simxrd_jax.crystal.form_factors import TABLES
from simxrd_jax.crystal.structure import CrystalStructure
from simxrd_jax.crystal.symmetry import cell_parameters
from simxrd_jax.diffraction.geometry import MAX_SIN_THETA
from simxrd_jax.diffraction.peak_sum.fourier import MIN_FWHM_POINTS
from simxrd_jax.diffraction.settings import ACCURACIES, PEAK_SUMS, Settings
from simxrd_jax.diffraction.widths import tail_margin
from simxrd_jax.errors import InputError, check_two_theta_range
from simxrd_jax.io.xy import PeakTable
from simxrd_jax.phases import LoadedPhase, as_radiation, load_phase
from simxrd_jax.presets import IDEAL, Preset, get_preset, key_of_seed
from simxrd_jax.types import ReflectionList

DTYPES = ("float64", "float32")
MAX_SEED = 2**64 - 1  # a key is two words of 32 bits
# Metrics that differ by more than the rounding of a single-precision strain: the strain then breaks the crystal class.
CLASS_TOLERANCE = 1e-7
# A condition that does nothing unless another one is there.
NEEDS = {
    "texture_axis": ("march_dollase",),
    "scherrer_constant": ("grain_size",),
    "size_gauss_fraction": ("grain_size",),
    "microstrain_gauss_fraction": ("microstrain",),
    "temperature": ("debye_temperature", "thermal_expansion"),
    "thermal_expansion": ("temperature",),
    "goniometer_radius": ("displacement", "illuminated_length", "tail_fraction"),
    "tail_fraction": ("tail_low", "tail_high"),
    "tail_low": ("tail_fraction",),
    "tail_high": ("tail_fraction",),
    "roughness_amount": ("roughness_depth",),
    "roughness_depth": ("roughness_amount",),
    "axial_source": ("axial_detector",),
    "axial_detector": ("axial_source",),
    "axial_tube": ("axial_source",),
    "soller": ("axial_tube",),
    "orientation_below": ("orientation_above",),
    "orientation_above": ("orientation_below",),
    "polynomial_height": ("polynomial_coefficients",),
    "polynomial_coefficients": ("polynomial_height",),
    "hump_fwhm": ("hump_position",),
    "hump_height": ("hump_position",),
}
_RANDOM = ("orientation_below", "orientation_above", "peak_counts", "gaussian_noise", "uniform_noise")


@dataclass(frozen=True)
class Options:
    """Everything that decides a pattern apart from its structures.

    Attributes:
      two_theta: start, stop, step; None takes the preset's. [deg]
      wavelength: name or A; None takes the preset's.
      preset: name; None is the ideal pattern.
      conditions: name -> value, in place of the preset's.
      peak_sum: "dense", "windowed" or "fft".
      accuracy: "training" or "refinement".
      dtype: "float32" or "float64".
      symprec: tolerance at which spglib finds the symmetry; None keeps the file's operators. [A]
      form_factors: "it92" or "waasmaier".
      dispersion: whether f' and f'' count.
      seed: of the first pattern.
      count: patterns of each specimen, with the seeds seed, seed + 1, ...
    """

    two_theta: tuple[float, float, float] | None = None
    wavelength: str | float | None = None
    preset: str | None = None
    conditions: Mapping[str, Any] = field(default_factory=dict)
    peak_sum: str = "fft"
    accuracy: str = "refinement"
    dtype: str = "float64"
    symprec: float | None = None
    form_factors: str = "it92"
    dispersion: bool = True
    seed: int = 0
    count: int = 1


@dataclass(frozen=True)
class Source:
    """One structure file of a specimen with its mass fraction, None where none is given."""

    path: str
    mass_fraction: float | None = None


@dataclass(frozen=True, eq=False)
class SimulatedPattern:
    """A pattern and all that made it.

    Attributes:
      two_theta, intensity, background: at the grid's points. [deg; electrons^2/A^6 per deg]
      tables: peaks within the range, one table a phase.
      conditions: name -> value of every condition that is not at its default.
      header: lines that say how the pattern was made.
      warnings: what a user should know, one sentence each.
      radiation: emission lines.
      step: of the grid. [deg]
    """

    two_theta: np.ndarray
    intensity: np.ndarray
    background: np.ndarray
    tables: tuple[PeakTable, ...]
    conditions: dict[str, Any]
    header: tuple[str, ...]
    warnings: tuple[str, ...]
    radiation: Radiation
    step: float


@dataclass(frozen=True, eq=False)
class _Setup:
    """Options after their checks, in the forms that the simulator takes."""

    options: Options
    preset: Preset
    radiation: Radiation
    two_theta: tuple[float, float, float]
    given: dict[str, Any]
    settings: Settings
    max_strain: float
    max_shift: float
    margin: float


def _set_up(options: Options) -> _Setup:
    preset = IDEAL if options.preset is None else get_preset(options.preset)
    radiation = preset.radiation if options.wavelength is None else as_radiation(options.wavelength)
    two_theta = preset.two_theta if options.two_theta is None else options.two_theta
    check_two_theta_range(*two_theta)
    for what, value, choices in (
        ("peak sum", options.peak_sum, PEAK_SUMS),
        ("accuracy", options.accuracy, tuple(ACCURACIES)),
        ("dtype", options.dtype, DTYPES),
        ("form-factor table", options.form_factors, TABLES),
    ):
        if value not in choices:
            raise InputError(f"there is no {what} {value!r}; choose one of {', '.join(choices)}")
    if options.count < 1:
        raise InputError(f"the count {options.count} must be at least 1; leave it out for one pattern")
    if not 0 <= options.seed <= MAX_SEED - options.count:
        raise InputError(f"the seed {options.seed} must be from 0 to {MAX_SEED} less the count; choose a smaller one")
    given = check_conditions(options.conditions, "conditions")
    _check_effects(given, preset)
    if two_theta[0] == 0 and "air_scatter" in {*given, *preset.drawn, *preset.fixed} and given.get("air_scatter") != 0:
        raise InputError("air scatter 1/(2theta) has no value at 2theta = 0; start the range above 0 or set air_scatter=0")
    settings = preset.settings(peak_sum=options.peak_sum, accuracy=ACCURACIES[options.accuracy])
    max_strain, max_shift = _greatest(preset, given)
    return _Setup(
        options=options,
        preset=preset,
        radiation=radiation,
        two_theta=(float(two_theta[0]), float(two_theta[1]), float(two_theta[2])),
        given=given,
        settings=settings,
        max_strain=max_strain,
        max_shift=max_shift,
        margin=max(preset.margin(), _margin(given, radiation, two_theta[1])),
    )


def widened(preset: Preset, given: Mapping[str, Any]) -> Preset:
    """A preset with conditions set by hand in place of its own, and the reach that they need.

    Args:
      preset: any.
      given: see `check_conditions`.

    Raises:
      InputError: a condition that does nothing without another one.
    """
    _check_effects(given, preset)
    max_strain, max_shift = _greatest(preset, given)
    drawn = {name: distribution for name, distribution in preset.drawn.items() if name not in given}
    return replace(preset, fixed={**preset.fixed, **given}, drawn=drawn, max_strain=max_strain, max_shift=max_shift)


def _greatest(preset: Preset, given: Mapping[str, Any]) -> tuple[float, float]:
    """Greatest strain, and shift in degrees, of a preset and of conditions set by hand."""
    deformation = float(np.linalg.norm(_strain(given), 2)) + abs(_expansion(given))
    return max(preset.max_strain, deformation / (1 - min(deformation, 0.5))), max(preset.max_shift, _shift(given))


def _margin(values: Mapping[str, Any], radiation: Radiation, stop: float) -> float:
    """How far outside the range the tails of peaks under conditions set by hand count. [deg]"""
    specimen, instrument, _, _ = build(values, radiation)
    return float(tail_margin(specimen, instrument, stop))


def check_options(options: Options) -> None:
    """Raises InputError where the options themselves are bad, whatever the structures."""
    _set_up(options)


def _check_effects(given: Mapping[str, Any], preset: Preset) -> None:
    present = {*given, *preset.drawn, *preset.fixed}
    for name in given:
        needed = NEEDS.get(name)
        if needed and not present.intersection(needed):
            raise InputError(f"{name} does nothing without {' or '.join(needed)}; set that too, or leave {name} out")


def _strain(values: Mapping[str, Any]) -> np.ndarray:
    return np.array([float(values.get(name, 0.0)) for name in STRAIN]).reshape(3, 3)


def _expansion(values: Mapping[str, Any]) -> float:
    from simxrd_jax.crystal.cell import REFERENCE_TEMPERATURE

    return float(values.get("thermal_expansion", 0.0)) * (float(values.get("temperature", 293.15)) - REFERENCE_TEMPERATURE)


def _shift(values: Mapping[str, Any]) -> float:
    """Greatest shift of a peak that conditions set by hand bring. [deg]"""
    radius = values.get("goniometer_radius", CONDITIONS["goniometer_radius"].default)
    tilt = 2 * abs(values.get("displacement", 0.0)) / radius + values.get("transparency", 0.0)
    return abs(values.get("zero_shift", 0.0)) + math.degrees(tilt)


def specimen_patterns(sources: Sequence[Any], options: Options = Options()) -> Iterator[SimulatedPattern]:
    """The patterns of one specimen: `options.count` of them.

    Args:
      sources: `Source`s, paths, or structure objects; several are a mixture, in equal shares of mass if none is given.
      options: everything else.

    Raises:
      InputError: bad input, see `load_phase`.
    """
    setup = _set_up(options)
    given_sources = [s if isinstance(s, Source) else Source(s) for s in sources]
    fractions = _mass_fractions(given_sources)
    with jax.enable_x64(options.dtype == "float64"):
        phases = [_load(source.path, setup) for source in given_sources]
    breaking = [p.structure.source for p in phases if _breaks_class(p, setup.given)]
    settings = replace(setup.settings, split_orbits=setup.settings.split_orbits or bool(breaking))
    lean = [(p.crystal, p.reflections if settings.split_orbits else _without_members(p.reflections)) for p in phases]
    fixed = setup.preset.fixed if setup.preset.name == IDEAL.name else {}
    for i in range(options.count):
        seed = options.seed + i
        with jax.enable_x64(options.dtype == "float64"):
            given = {name: jnp.asarray(value, dtype=options.dtype) for name, value in {**fixed, **setup.given}.items()}
            outcome = compiled(settings.peak_sum, options.dtype)(
                lean,
                jnp.asarray(fractions, dtype=options.dtype),
                given,
                key_of_seed(seed),
                preset=setup.preset.name,
                radiation=setup.radiation,
                two_theta=setup.two_theta,
                settings=settings,
            )
            pattern, values, peaks = jax.device_get(outcome)
        yield _result(pattern, values, peaks, phases, fractions, setup, settings, breaking, seed)


def _load(source: Any, setup: _Setup) -> LoadedPhase:
    options = setup.options
    return load_phase(
        source,
        setup.radiation,
        setup.two_theta,
        symprec=options.symprec,
        form_factors=options.form_factors,
        dispersion=options.dispersion,
        max_strain=setup.max_strain,
        max_shift=setup.max_shift,
        margin=setup.margin,
        bucket=True,
        dtype=options.dtype,
    )


def _mass_fractions(sources: Sequence[Source]) -> np.ndarray:
    given = [s.mass_fraction for s in sources if s.mass_fraction is not None]
    if not sources:
        raise InputError("no structure is given; name at least one CIF")
    if not given:
        return np.full(len(sources), 1 / len(sources))
    if len(given) < len(sources):
        missing = next(s.path for s in sources if s.mass_fraction is None)
        raise InputError(
            f"{missing}: has no mass fraction though other phases have one; give FILE.cif:FRACTION for all or none"
        )
    return np.array(given) / sum(given)


def _breaks_class(phase: LoadedPhase, given: Mapping[str, Any]) -> bool:
    """Whether a strain set by hand splits the orbits of a phase."""
    deformation = np.eye(3) + _strain(given)
    lattice = phase.structure.lattice @ deformation.T
    metric = lattice @ lattice.T
    rotations = np.asarray(phase.reflections.laue_rotations, dtype=np.float64)
    mean = np.einsum("oki,kl,olj->ij", rotations, metric, rotations) / len(rotations)
    return bool(np.abs(mean - metric).max() > CLASS_TOLERANCE * np.abs(metric).max()) and bool(_strain(given).any())


def _without_members(reflections: ReflectionList) -> ReflectionList:
    """The list with one member only, so that lists of different orbits share a compiled program that needs none."""
    return replace(
        reflections,
        member_hkl=reflections.member_hkl[:1],
        member_reflection=reflections.member_reflection[:1],
        member_count=reflections.member_count[:1],
    )


def _result(
    pattern: Any,
    values: Mapping[str, Any],
    peaks: Sequence[Peaks],
    phases: Sequence[LoadedPhase],
    fractions: np.ndarray,
    setup: _Setup,
    settings: Settings,
    breaking: Sequence[str],
    seed: int,
) -> SimulatedPattern:
    if not np.all(np.isfinite(pattern.intensity)):
        raise InputError(f"{phases[0].structure.source}: the pattern is not finite under these conditions; choose milder ones")
    conditions = {name: setup.given.get(name, _plain(value)) for name, value in values.items()}
    if setup.preset.name == IDEAL.name:
        conditions = {**setup.preset.fixed, **setup.given}
    tables, narrowest = _tables(peaks, phases, setup, settings)
    warnings: list[str] = []
    step = setup.two_theta[2]
    if settings.peak_sum == "fft" and narrowest < MIN_FWHM_POINTS * step:
        warnings.append(
            f"the narrowest peak ({narrowest:.3g} deg) is below {MIN_FWHM_POINTS:g} grid points, and the FFT sum widens such "
            f"peaks; take a step below {narrowest / MIN_FWHM_POINTS:.2g} deg or --peak-sum dense"
        )
    if setup.options.count > 1 and not setup.preset.drawn and not any(name in conditions for name in _RANDOM):
        warnings.append("nothing is random under these conditions, so all patterns of the count are equal; take a --preset")
    return SimulatedPattern(
        two_theta=np.asarray(pattern.two_theta),
        intensity=np.asarray(pattern.intensity),
        background=np.asarray(pattern.background),
        tables=tables,
        conditions=conditions,
        header=tuple(_header(phases, fractions, conditions, setup, settings, breaking, warnings, seed)),
        warnings=(*warnings, *(f"{p.structure.source}: {note}" for p in phases for note in p.structure.notes)),
        radiation=setup.radiation,
        step=step,
    )


def _plain(value: Any) -> Any:
    """A float32 as the shortest decimal that means it; a vector as a tuple of such."""
    array = np.asarray(value)
    numbers = tuple(float(str(v)) for v in array.ravel())
    return numbers if array.ndim else numbers[0]


def _tables(
    peaks: Sequence[Peaks], phases: Sequence[LoadedPhase], setup: _Setup, settings: Settings
) -> tuple[tuple[PeakTable, ...], float]:
    """Peaks of the first line within the range, and the width of the narrowest. [deg]"""
    start, stop, _ = setup.two_theta
    first_line = setup.radiation.wavelength[0]
    narrowest = math.inf
    tables = []
    names = [phase.structure.name for phase in phases]
    for number, (phase, p) in enumerate(zip(phases, peaks, strict=True)):
        r = phase.reflections
        hkl, multiplicity = (r.member_hkl, r.member_count) if settings.split_orbits else (r.hkl, r.multiplicity)
        multiplicity = np.asarray(multiplicity)
        is_reached = first_line * np.sqrt(np.maximum(p.inverse_d_squared, 0)) / 2 < MAX_SIN_THETA
        inside = np.flatnonzero((multiplicity > 0) & is_reached & (p.two_theta >= start) & (p.two_theta <= stop))
        inside = inside[np.argsort(np.asarray(p.two_theta)[inside], kind="stable")]
        narrowest = min(narrowest, float(np.min(np.asarray(p.fwhm)[inside], initial=math.inf)))
        tables.append(
            PeakTable(
                # Two phases of one name are told apart by their place.
                name=names[number] if names.count(names[number]) == 1 else f"{names[number]} ({number + 1})",
                hkl=np.asarray(hkl)[inside],
                multiplicity=multiplicity[inside],
                d_spacing=1 / np.sqrt(np.asarray(p.inverse_d_squared, dtype=np.float64)[inside]),
                two_theta=np.asarray(p.two_theta, dtype=np.float64)[inside],
                f_squared=np.asarray(p.f_squared, dtype=np.float64)[inside],
                intensity=np.asarray(p.intensity, dtype=np.float64)[inside],
            )
        )
    strongest = max((float(np.max(t.intensity, initial=0.0)) for t in tables), default=0.0) or 1.0
    return tuple(replace(t, intensity=100 * t.intensity / strongest) for t in tables), narrowest


def _header(
    phases: Sequence[LoadedPhase],
    fractions: np.ndarray,
    conditions: Mapping[str, Any],
    setup: _Setup,
    settings: Settings,
    breaking: Sequence[str],
    warnings: Sequence[str],
    seed: int,
) -> Iterator[str]:
    options = setup.options
    start, stop, step = setup.two_theta
    yield f"simxrd_jax {simxrd_jax.__version__}: simulated powder diffraction pattern"
    for phase, fraction in zip(phases, fractions, strict=True):
        yield from _structure_lines(phase.structure)
        if len(phases) > 1:
            yield f"  mass fraction: {fraction:.6g}"
    weights = np.array(setup.radiation.weight) / sum(setup.radiation.weight)
    lines = ", ".join(f"{x:.7g} A ({w:.4g})" for x, w in zip(setup.radiation.wavelength, weights, strict=True))
    yield f"wavelength: {setup.radiation.name}: {lines}"
    yield f"form factors: {options.form_factors}"
    used = f"Chantler f' and f'' at {setup.radiation.mean_wavelength:.7g} A" if options.dispersion else "none"
    yield f"dispersion: {used}"
    yield f"two_theta: {start:.10g} to {stop:.10g}, step {step:.10g} deg"
    yield f"peak sum: {settings.peak_sum} ({options.accuracy}, {options.dtype})"
    if settings.split_orbits:
        why = f"the strain breaks the symmetry of {', '.join(breaking)}" if breaking else "as the preset has it"
        yield f"orbits: split into their members, {why}"
    else:
        yield "orbits: kept, a strain acts by the part that keeps the crystal class"
    yield f"preset: {setup.preset.name} ({setup.preset.meaning})"
    yield f"seed: {seed}"
    yield from (f"note: {warning}" for warning in warnings)
    yield "conditions (name = value unit, origin; heights in 'max' are shares of the highest point of the peaks):"
    for name, row in CONDITIONS.items():
        origin = "set" if name in setup.given else "drawn" if name in setup.preset.drawn else "preset"
        if name not in conditions:
            origin = "default"
        yield f"  {name} = {_show(conditions.get(name, row.default), row.unit)}, {origin}"
    unit = "electrons^2/A^6" if len(phases) == 1 else "electrons^2/(A^3 u)"
    yield f"columns: two_theta [deg], intensity [{unit} per deg]"


def _structure_lines(s: CrystalStructure) -> Iterator[str]:
    yield f"file: {' '.join(str(s.source).split())}"
    yield f"  structure: {s.name}"
    yield f"  formula: {s.formula}"
    found = "the file's operators" if s.symprec is None else f"spglib at symprec {s.symprec:g} A"
    if s.symprec is None and any("lists no symmetry operators" in note for note in s.notes):
        found = "the file's space-group name"
    yield f"  space group: {s.space_group_symbol} (No. {s.space_group_number}), symmetry from {found}"
    a, b, c, alpha, beta, gamma = cell_parameters(s.lattice)
    yield f"  cell: {a:.6g} {b:.6g} {c:.6g} A, {alpha:.6g} {beta:.6g} {gamma:.6g} deg"
    if not s.has_displacement:
        yield "  displacement: no displacement parameters in the file: B = 0"
    yield from (f"  note: {note}" for note in s.notes)


def _show(value: Any, unit: str) -> str:
    if value is None:
        return "off"
    numbers = value if isinstance(value, tuple) else (value,)
    return " ".join([",".join(f"{v:.9g}" for v in numbers), unit]).strip()
