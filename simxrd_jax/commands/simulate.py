"""Host zone. The work behind `simxrd simulate`: what to simulate, the patterns with all that made them, the files.

`specimen_patterns` gives patterns to a Python caller; `simulate_files` writes them as the command does.
"""

from __future__ import annotations

import math
import os
import pathlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import simxrd_jax
from simxrd_jax.commands.forward import Peaks, compiled
from simxrd_jax.conditions import CONDITIONS, check_conditions
from simxrd_jax.constants import Radiation
from simxrd_jax.crystal.form_factors import TABLES
from simxrd_jax.crystal.reflections import DEFAULT_MARGIN
from simxrd_jax.crystal.structure import CrystalStructure
from simxrd_jax.crystal.symmetry import cell_parameters
from simxrd_jax.diffraction.geometry import MAX_SIN_THETA
from simxrd_jax.diffraction.peak_sum.fourier import MIN_FWHM_POINTS
from simxrd_jax.diffraction.settings import ACCURACIES, PEAK_SUMS, Settings
from simxrd_jax.errors import InputError, check_two_theta_range
from simxrd_jax.io.xy import PeakTable, check_target, pattern_text, peaks_text, write_together
from simxrd_jax.phases import LoadedPhase, as_radiation, load_phase
from simxrd_jax.presets import IDEAL, Preset, get_preset
from simxrd_jax.types import ReflectionList

DTYPES = ("float64", "float32")
ALPHA = "\N{GREEK SMALL LETTER ALPHA}"
MAX_SEED = 2**31 - 1  # keys of greater seeds depend on the precision
# Metrics that differ by more than rounding: the strain then breaks the crystal class.
CLASS_TOLERANCE = 1e-9
# Reflections are listed to three widths outside the range: a Lorentzian is 1/37 of its height there.
MARGIN_WIDTHS, MAX_MARGIN = 3.0, 30.0
# A condition that does nothing unless another one is there.
NEEDS = {
    "texture_axis": ("march_dollase",),
    "scherrer_constant": ("grain_size",),
    "size_gauss_fraction": ("grain_size",),
    "microstrain_gauss_fraction": ("microstrain",),
    "temperature": ("debye_temperature", "thermal_expansion"),
    "thermal_expansion": ("temperature",),
    "goniometer_radius": ("displacement",),
    "axial_source": ("axial_detector",),
    "axial_detector": ("axial_source",),
    "polynomial_height": ("polynomial_coefficients",),
    "polynomial_coefficients": ("polynomial_height",),
    "hump_fwhm": ("hump_position",),
    "hump_height": ("hump_position",),
}
_STRAINS = tuple(f"strain_{i}{j}" for i in "xyz" for j in "xyz")
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


@dataclass(frozen=True)
class Outcome:
    """What `simulate_files` did: files written, and (file, reason) of those it skipped."""

    written: tuple[str, ...]
    failed: tuple[tuple[str, str], ...]


def parse_source(argument: str) -> Source:
    """FILE.cif or FILE.cif:MASS_FRACTION; a path that exists as it stands is never split.

    Raises:
      InputError: a mass fraction that is not a positive number.
    """
    path, colon, text = argument.rpartition(":")
    if os.path.exists(argument) or not colon:
        return Source(argument)
    try:
        fraction = float(text)
    except ValueError:
        if os.path.exists(path):
            raise InputError(f"{argument}: the mass fraction {text!r} is not a number; write FILE.cif:0.3") from None
        return Source(argument)
    if not (math.isfinite(fraction) and fraction > 0):
        raise InputError(f"{argument}: the mass fraction must be a positive number; leave the phase out if it is absent")
    return Source(path, fraction)


def parse_conditions(settings: Sequence[str]) -> dict[str, Any]:
    """Conditions of NAME=VALUE texts; a vector's values are separated by commas.

    Raises:
      InputError: no '=', a name given twice, or what `check_conditions` finds.
    """
    values: dict[str, Any] = {}
    for text in settings:
        name, equals, value = (part.strip() for part in text.partition("="))
        if not equals or not name or not value:
            raise InputError(f"--set {text}: is not NAME=VALUE; write for example --set grain_size=200")
        if name in values:
            raise InputError(f"--set {name}: is given twice; give it once")
        values[name] = value.split(",") if "," in value else value
    return check_conditions(values, "--set")


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
    settings = Settings(peak_sum=options.peak_sum, accuracy=ACCURACIES[options.accuracy], split_orbits=preset.split_orbits)
    deformation = float(np.linalg.norm(_strain(given), 2)) + abs(_expansion(given))
    return _Setup(
        options=options,
        preset=preset,
        radiation=radiation,
        two_theta=(float(two_theta[0]), float(two_theta[1]), float(two_theta[2])),
        given=given,
        settings=settings,
        max_strain=max(preset.max_strain, deformation / (1 - min(deformation, 0.5))),
        max_shift=max(preset.max_shift, _shift(given)),
        margin=_margin(given, radiation, two_theta[1]),
    )


def _check_effects(given: Mapping[str, Any], preset: Preset) -> None:
    present = {*given, *preset.drawn, *preset.fixed}
    for name in given:
        needed = NEEDS.get(name)
        if needed and not present.intersection(needed):
            raise InputError(f"{name} does nothing without {' or '.join(needed)}; set that too, or leave {name} out")


def _strain(values: Mapping[str, Any]) -> np.ndarray:
    return np.array([float(values.get(name, 0.0)) for name in _STRAINS]).reshape(3, 3)


def _expansion(values: Mapping[str, Any]) -> float:
    from simxrd_jax.crystal.cell import REFERENCE_TEMPERATURE

    return float(values.get("thermal_expansion", 0.0)) * (float(values.get("temperature", 293.15)) - REFERENCE_TEMPERATURE)


def _shift(values: Mapping[str, Any]) -> float:
    """Greatest shift of a peak that conditions set by hand bring. [deg]"""
    radius = values.get("goniometer_radius", CONDITIONS["goniometer_radius"].default)
    tilt = 2 * abs(values.get("displacement", 0.0)) / radius + values.get("transparency", 0.0)
    return abs(values.get("zero_shift", 0.0)) + math.degrees(tilt)


def _margin(values: Mapping[str, Any], radiation: Radiation, stop: float) -> float:
    """How far outside the range reflections are listed for their tails. [deg]"""
    theta = math.radians(min(stop, 160.0) / 2)
    k = values.get("scherrer_constant", CONDITIONS["scherrer_constant"].default)
    size = k * radiation.mean_wavelength / (values.get("grain_size", math.inf) * math.cos(theta))
    width = math.degrees(size + 4 * values.get("microstrain", 0.0) * math.tan(theta))
    width += values.get("lorentz_inverse_cos", 0.0) / math.cos(theta) + values.get("lorentz_tan", 0.0) * math.tan(theta)
    return min(max(DEFAULT_MARGIN, MARGIN_WIDTHS * width), MAX_MARGIN)


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
    lean = [(p.crystal, p.reflections if _uses_members(setup, settings) else _without_members(p.reflections)) for p in phases]
    fixed = setup.preset.fixed if setup.preset.name == IDEAL.name else {}
    for i in range(options.count):
        seed = options.seed + i
        with jax.enable_x64(options.dtype == "float64"):
            given = {name: jnp.asarray(value, dtype=options.dtype) for name, value in {**fixed, **setup.given}.items()}
            outcome = compiled(settings.peak_sum)(
                lean,
                jnp.asarray(fractions, dtype=options.dtype),
                given,
                jax.random.key(seed),
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


def _uses_members(setup: _Setup, settings: Settings) -> bool:
    return settings.split_orbits or "march_dollase" in {*setup.given, *setup.preset.drawn, *setup.preset.fixed}


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
        warnings=tuple(warnings),
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
    for phase, p in zip(phases, peaks, strict=True):
        r = phase.reflections
        hkl, multiplicity = (r.member_hkl, r.member_count) if settings.split_orbits else (r.hkl, r.multiplicity)
        multiplicity = np.asarray(multiplicity)
        is_reached = first_line * np.sqrt(np.maximum(p.inverse_d_squared, 0)) / 2 < MAX_SIN_THETA
        inside = np.flatnonzero((multiplicity > 0) & is_reached & (p.two_theta >= start) & (p.two_theta <= stop))
        inside = inside[np.argsort(np.asarray(p.two_theta)[inside], kind="stable")]
        narrowest = min(narrowest, float(np.min(np.asarray(p.fwhm)[inside], initial=math.inf)))
        tables.append(
            PeakTable(
                name=phase.structure.name,
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


def simulate_files(
    arguments: Sequence[str],
    options: Options = Options(),
    *,
    output: str | None = None,
    peaks: str | None = None,
    plot: str | None = None,
    warn: Callable[[str], None] = lambda sentence: None,
) -> Outcome:
    """Simulates a specimen or a folder of CIFs and writes what is asked for.

    Args:
      arguments: FILE.cif or FILE.cif:MASS_FRACTION of each phase, or one folder.
      options: what to simulate.
      output: pattern file; None or "-" is standard output. With a count its patterns are numbered; with a folder it is one.
      peaks, plot: peak table and picture, likewise.
      warn: takes one sentence for the user.

    Raises:
      InputError: bad input; in a folder a bad file is skipped and reported in the outcome instead.
    """
    if len(arguments) == 1 and pathlib.Path(arguments[0]).is_dir():
        return _simulate_folder(pathlib.Path(arguments[0]), options, output, peaks, plot, warn)
    for argument in arguments:
        if pathlib.Path(argument).is_dir():
            raise InputError(f"{argument}: is a folder; give it alone, or name the files of a mixture")
    sources = [parse_source(argument) for argument in arguments]
    targets = None if output in (None, "-") else output
    if options.count > 1 and targets is None:
        raise InputError(f"{options.count} patterns do not fit on standard output; name a file with -o, they are numbered")
    written: list[str] = []
    names = _numbered(targets, peaks, plot, options.count, [s.path for s in sources])
    warned: set[str] = set()
    for one, made in zip(names, specimen_patterns(sources, options), strict=True):
        for sentence in made.warnings:
            if sentence not in warned:
                warn(sentence)
                warned.add(sentence)
        written += _write(made, *one)
        if one[0] is None:
            sys.stdout.write(_text(made))
            sys.stdout.flush()
    return Outcome(tuple(written), ())


Targets = tuple[pathlib.Path | None, pathlib.Path | None, pathlib.Path | None]


def _numbered(output: str | None, peaks: str | None, plot: str | None, count: int, inputs: Sequence[str]) -> list[Targets]:
    """Paths of each pattern's output, peaks and plot, all checked before anything is computed."""
    if plot is not None:
        from simxrd_jax.plots import check_format

        check_format(plot)
    digits = max(4, len(str(count)))
    result: list[Targets] = []
    for i in range(count):
        paths: list[pathlib.Path | None] = []
        for name in (output, peaks, plot):
            if name is None:
                paths.append(None)
                continue
            path = pathlib.Path(name)
            if not path.name:
                raise InputError(f"{name!r} names no file to write; give a name such as out.xy")
            if count > 1:
                path = path.with_name(f"{path.stem}_{i + 1:0{digits}d}{path.suffix}")
            paths.append(check_target(path, inputs))
        used = [p.resolve() for p in paths if p is not None]
        if len(set(used)) < len(used):
            raise InputError(f"{used[-1].name}: is asked for as two kinds of output; give each its own name")
        result.append((paths[0], paths[1], paths[2]))
    return result


def _text(made: SimulatedPattern) -> str:
    return pattern_text(made.two_theta, made.intensity, made.header, made.step)


def _write(
    made: SimulatedPattern, output: pathlib.Path | None, peaks: pathlib.Path | None, plot: pathlib.Path | None
) -> list[str]:
    contents: dict[pathlib.Path, str | bytes] = {}
    if output is not None:
        contents[output] = _text(made)
    if peaks is not None:
        contents[peaks] = peaks_text(made.tables)
    if plot is not None:
        from simxrd_jax.plots import figure_bytes, plot_pattern

        names = " + ".join(t.name for t in made.tables)
        title = f"{names}, {made.radiation.name.replace('Ka', ' K' + ALPHA)}"
        figure = plot_pattern(made.two_theta, made.intensity, made.tables, title=title)
        contents[plot] = figure_bytes(figure, plot)
    write_together(contents)
    return [str(path) for path in contents]


def _simulate_folder(
    folder: pathlib.Path,
    options: Options,
    output: str | None,
    peaks: str | None,
    plot: str | None,
    warn: Callable[[str], None],
) -> Outcome:
    from tqdm import tqdm

    if output in (None, "-"):
        raise InputError(f"{folder}: the patterns of a folder need a folder of their own; name it with -o")
    _set_up(options)  # a bad option is one error, not one a file
    try:
        files = sorted(p for p in folder.iterdir() if p.suffix.lower() == ".cif" and not p.is_dir())
    except OSError as error:
        raise InputError(f"{folder}: cannot be read ({error.strerror}); check its permissions") from None
    if not files:
        raise InputError(f"{folder}: holds no .cif file; name a folder that does")
    if options.seed + len(files) * options.count > MAX_SEED:
        raise InputError(f"the seed {options.seed} is too great for {len(files)} files; choose a smaller one")
    homes = [None if name is None else _make_folder(name) for name in (output, peaks, plot)]
    written: list[str] = []
    failed: list[tuple[str, str]] = []
    taken: dict[str, str] = {}
    with tqdm(total=len(files) * options.count, unit="pattern", desc="simulate", file=sys.stderr, leave=False) as bar:
        for number, path in enumerate(files):
            before = bar.n
            try:
                if path.stem in taken:
                    raise InputError(f"{path}: its patterns would replace those of {taken[path.stem]}; rename one of the two")
                taken[path.stem] = path.name
                own = replace(options, seed=options.seed + number * options.count)
                wanted = [
                    None if home is None else str(home / f"{path.stem}{ending}")
                    for home, ending in zip(homes, (".xy", ".csv", ".png"), strict=True)
                ]
                names = _numbered(*wanted, options.count, [str(p) for p in files])  # type: ignore[arg-type]
                for one, made in zip(names, specimen_patterns([Source(str(path))], own), strict=True):
                    written += _write(made, *one)
                    bar.update()
                    for sentence in made.warnings[: 1 if one is names[0] else 0]:
                        bar.write(f"simxrd: {path.name}: {sentence}", file=sys.stderr)
            except InputError as error:
                failed.append((str(path), str(error)))
                bar.write(f"simxrd: skipped {error}", file=sys.stderr)
                bar.update(options.count - (bar.n - before))
    patterns = sum(name.endswith(".xy") for name in written)
    warn(f"{patterns} patterns of {len(files) - len(failed)} files written to {output}; {len(failed)} files skipped")
    return Outcome(tuple(written), tuple(failed))


def _make_folder(name: str) -> pathlib.Path:
    folder = pathlib.Path(name)
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: the output folder cannot be made ({error.strerror}); choose another place") from None
    if not os.access(folder, os.W_OK | os.X_OK):
        raise InputError(f"{folder}: the output folder cannot be written to; change its permissions or choose another")
    return folder
