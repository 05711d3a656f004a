"""Host zone. The work behind `simxrd refine`."""

from __future__ import annotations

import csv
import dataclasses
import io
import pathlib
import re
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any

import numpy as np
from tqdm import tqdm

from simxrd_jax.conditions import nearest
from simxrd_jax.constants import Radiation
from simxrd_jax.errors import InputError
from simxrd_jax.io.cif import read_cif
from simxrd_jax.io.instruments import InstrumentFile, read_instrument
from simxrd_jax.io.patterns import MeasuredPattern, read_pattern
from simxrd_jax.io.xy import write_together
from simxrd_jax.phases import as_radiation
from simxrd_jax.refine.build import (
    MODES,
    OPTIONAL_FIELDS,
    OPTIONAL_SPECIMEN_FIELDS,
    InstrumentStart,
    Model,
    PhaseStart,
    make_model,
)
from simxrd_jax.refine.constraints import constrained, parse_restraints, parse_ties
from simxrd_jax.refine.fit import Refinement
from simxrd_jax.refine.instruments import INSTRUMENTS
from simxrd_jax.refine.microabsorption import of_refinement as microabsorption_of
from simxrd_jax.refine.numbers import with_uncertainty
from simxrd_jax.refine.page import overview_html
from simxrd_jax.refine.plans import PLANS, Plan, changed, named_plan, read_plan
from simxrd_jax.refine.report import PAGE_FILE, check_folder, result_dict, write_report
from simxrd_jax.refine.series import SPREAD, Job, MultiStart, multi_start, refine_jobs, refine_sequence

TABLE_FILE, OVERVIEW_FILE, STARTS_FILE = "results.csv", "results.html", "starts.csv"
# Of a capillary the zero of the angles is off, of a flat specimen its height.
POSITIONS = {"flat": "instrument.displacement", "capillary": "instrument.zero_shift"}


@dataclasses.dataclass(frozen=True)
class Options:
    """What the command was told.

    Attributes:
      phases: CIF files, each NAME=FILE.cif or FILE.cif.
      instrument: file, one of `INSTRUMENTS`, or None.
      wavelength: name or number, or None.
      limits: of 2theta, or None. [deg]
      excluded: ranges of 2theta. [deg]
      free, fixed: patterns of parameters.
      plan: file, one of `PLANS`, or None for the default.
      values: parameter -> start value.
      bounds: parameter -> lowest and highest value.
      ties, restraints: as the command takes them, see `constraints`.
      background: Chebyshev terms.
      geometry: "flat" or "capillary".
      humps: position and FWHM of amorphous humps in the background. [deg]
      textures: phase -> axis of preferred orientation.
      harmonics: phase -> greatest order of a texture by spherical harmonics.
      stephens: phases whose microstrain depends on direction.
      diameters: phase -> diameter of its grains, for Brindley's correction. [um]
      axial: whether peaks have the asymmetry of axial divergence.
      modes: phase -> one of `MODES`; "" is for all that are not named.
      starts, spread, seed: how many starts are drawn for each pattern, within what share of the cell, and from which seed.
      sequential: whether each pattern starts from the result of the one before.
      batch: patterns, or starts, in one call.
    """

    phases: tuple[str, ...]
    instrument: str | None = None
    wavelength: str | None = None
    limits: tuple[float, float] | None = None
    excluded: tuple[tuple[float, float], ...] = ()
    free: tuple[str, ...] = ()
    fixed: tuple[str, ...] = ()
    plan: str | None = None
    values: dict[str, float] = dataclasses.field(default_factory=dict)
    bounds: dict[str, tuple[float, float]] = dataclasses.field(default_factory=dict)
    ties: tuple[str, ...] = ()
    restraints: tuple[str, ...] = ()
    background: int = 8
    geometry: str = "flat"
    humps: tuple[tuple[float, float], ...] = ()
    textures: dict[str, tuple[float, float, float]] = dataclasses.field(default_factory=dict)
    harmonics: dict[str, int] = dataclasses.field(default_factory=dict)
    stephens: tuple[str, ...] = ()
    diameters: dict[str, float] = dataclasses.field(default_factory=dict)
    axial: bool = True
    modes: dict[str, str] = dataclasses.field(default_factory=dict)
    starts: int = 1
    spread: float = SPREAD
    seed: int = 0
    sequential: bool = False
    batch: int = 1


def parse_values(given: Sequence[str]) -> dict[str, float]:
    """NAME=VALUE pairs.

    Raises:
      InputError: one that is not a name and a number, or a name given twice.
    """
    found: dict[str, float] = {}
    for text in given:
        name, equals, value = text.partition("=")
        try:
            number = float(value)
        except ValueError:
            equals = ""
            number = 0.0
        if not equals:
            raise InputError(f"--set {text}: expected NAME=VALUE, such as phases.Si.cell.a=5.43")
        if name.strip() in found:
            raise InputError(f"--set: {name.strip()} is given twice; give it once")
        found[name.strip()] = number
    return found


def parse_textures(given: Sequence[str]) -> dict[str, tuple[float, float, float]]:
    """PHASE=h,k,l pairs.

    Raises:
      InputError: one that is not.
    """
    found = {}
    for text in given:
        name, _, axis = text.partition("=")
        try:
            h, k, l = (float(v) for v in axis.split(","))
        except ValueError:
            raise InputError(f"--texture {text}: expected PHASE=h,k,l, such as brucite=0,0,1") from None
        found[name.strip()] = (h, k, l)
    return found


def parse_numbers(given: Sequence[str], option: str, example: str, kind: Callable[[str], Any] = float) -> dict[str, Any]:
    """PHASE=NUMBER pairs.

    Args:
      given: texts.
      option: whose they are, for the message.
      example: likewise.
      kind: float or int.

    Raises:
      InputError: one that is not, or a phase given twice.
    """
    found: dict[str, Any] = {}
    for text in given:
        name, _, number = text.rpartition("=")
        try:
            value = kind(number)
        except ValueError:
            name, value = "", 0
        if not name.strip():
            raise InputError(f"{option} {text}: expected PHASE=NUMBER, such as {example}")
        if name.strip() in found:
            raise InputError(f"{option}: {name.strip()} is given twice; give it once")
        found[name.strip()] = value
    return found


def parse_modes(given: Sequence[str]) -> dict[str, str]:
    """MODE, or PHASE=MODE; the one without a phase has the name "".

    Raises:
      InputError: a mode that there is not, or two for one phase.
    """
    found: dict[str, str] = {}
    for text in given:
        name, equals, mode = text.rpartition("=")
        if mode not in MODES or (equals and not name.strip()):
            raise InputError(f"--mode {text}: there is no such mode{nearest(mode, dict.fromkeys(MODES))}")
        if name.strip() in found:
            raise InputError(f"--mode: {name.strip() or 'that of all phases'} is given twice; give it once")
        found[name.strip()] = mode
    return found


def prepare(
    data: str, options: Options, made: dict[Hashable, tuple[Model, Plan]] | None = None
) -> tuple[Model, Plan, MeasuredPattern, tuple[str, ...]]:
    """Reads everything, and builds the model of one measurement; the last value are notes for the user.

    Args:
      data: the file.
      options: of all files.
      made: models of files before, which one with the same points and radiation shares.

    Raises:
      InputError: a file that cannot be read, no wavelength, an empty range, an unknown parameter or phase.
    """
    measured = _within(read_pattern(data), options.limits)
    preset = INSTRUMENTS.get(options.instrument or "")
    stated = None if options.instrument is None or preset else _instrument_file(options.instrument)
    notes = (*measured.notes, *(stated.notes if stated else ()))
    values = _instrument_values(measured, stated)
    if preset is not None:
        values = {**preset.values, **values}
        measured = measured if measured.radiation else dataclasses.replace(measured, radiation=preset.radiation)
    radiation = _radiation(measured, stated, options.wavelength)
    key = (measured.two_theta.tobytes(), radiation, tuple(sorted(values.items())))
    if made is None or key not in made:
        model, plan = _model(measured, stated, values, radiation, options)
        if made is None:
            return model, plan, measured, notes
        made[key] = model, plan
    model, plan = made[key]
    return model, plan, measured, notes


def _model(
    measured: MeasuredPattern, stated: InstrumentFile | None, values: dict[str, float], radiation: Radiation, options: Options
) -> tuple[Model, Plan]:
    names = [_phase_name(text) for text in options.phases]
    named = {
        "texture": options.textures, "harmonics": options.harmonics, "stephens": options.stephens,
        "grain-diameter": options.diameters, "mode": options.modes,
    }  # fmt: skip
    for option, phases_named in named.items():
        for name in phases_named:
            if name and name not in [n for n, _ in names]:
                known = ", ".join(n for n, _ in names)
                raise InputError(f"--{option} {name}: there is no such phase; choose from {known}")
    mode = options.modes.get("", "rietveld")
    modes = {name: options.modes.get(name, mode) for name, _ in names}
    without = next((name for name, mode in modes.items() if mode != "rietveld"), None)
    if options.diameters and without is not None:
        raise InputError(
            f"--grain-diameter: {without} is refined without atoms, which tells no weight fractions; leave it out"
        )
    stated_values, more = _optional_values(options.values, [name for name, _ in names])
    values |= more
    phases = [
        PhaseStart(
            name,
            read_cif(path),
            options.textures.get(name),
            stephens=name in options.stephens,
            harmonics_order=options.harmonics.get(name, 0),
            values=stated_values[name],
            mode=modes[name],
        )
        for name, path in names
    ]
    # At a start that is the same for both ends of the axis they are tied.
    axial = {n: values.setdefault(n, 0.02) for n in ("axial_source", "axial_detector")} if options.axial else {}
    model = make_model(
        phases,
        radiation,
        measured.two_theta,
        instrument=InstrumentStart(values | axial, has_axial_divergence=options.axial),
        background_terms=options.background,
        humps=options.humps,
    )
    ties, restraints = parse_ties(options.ties, model), parse_restraints(options.restraints, model)
    model = constrained(model, bounds=options.bounds, ties=ties, restraints=restraints)
    model.table.values(options.values)  # a wrong name is said before anything is fitted
    if options.plan is None or options.plan in PLANS:
        name, position = options.plan or "default", POSITIONS[options.geometry]
        plan = named_plan(name, model, position=position, refines_instrument=stated is None)
    else:
        plan = read_plan(options.plan)
    plan = changed(plan, options.free, options.fixed)
    for stage in plan.stages:
        model.table.matching((*stage.free, *stage.fixed))
    return model, plan


def _optional_values(values: dict[str, float], phases: Sequence[str]) -> tuple[dict[str, dict[str, float]], dict[str, float]]:
    """Of start values those that bring an effect into the model: of each phase, and of the instrument."""
    instrument = {f: values[name] for f in OPTIONAL_FIELDS if (name := f"instrument.{f}") in values}
    of_phases = {
        phase: {f: values[name] for f in OPTIONAL_SPECIMEN_FIELDS if (name := f"phases.{phase}.{f}") in values}
        for phase in phases
    }
    return of_phases, instrument


@dataclasses.dataclass(frozen=True, eq=False)
class _Done:
    """A refined file.

    Attributes:
      fit: its refinement.
      search: the starts that it was the best of, or None.
    """

    fit: Refinement
    search: MultiStart | None = None


def _refined(data: Sequence[str], options: Options, say: Callable[[str], None]) -> Iterator[_Done | InputError]:
    """Refines measurements, and yields the result or the error of each, in order."""
    made: dict[Hashable, tuple[Model, Plan]] = {}
    prepared: list[tuple[Job, tuple[str, ...]] | InputError] = []
    for file in data:
        try:
            model, plan, measured, notes = prepare(file, options, made)
        except InputError as error:
            prepared.append(error)
            continue
        job = Job(model, measured.intensity, plan, measured.sigma, options.excluded, options.values)
        prepared.append((job, notes))
    jobs = [item[0] for item in prepared if not isinstance(item, InputError)]
    if options.starts > 1:
        results: Iterator[MultiStart | Refinement | InputError] = (_search(job, options, say) for job in jobs)
    elif options.sequential:
        results = refine_sequence(jobs, say)
    else:
        results = refine_jobs(jobs, options.batch, say)
    for item in prepared:
        if isinstance(item, InputError):
            yield item
            continue
        result = next(results)
        if isinstance(result, InputError):
            yield result
            continue
        search = result if isinstance(result, MultiStart) else None
        fit = result.best if isinstance(result, MultiStart) else result
        corrected = microabsorption_of(fit, options.diameters) if options.diameters else None
        coarse = () if corrected is None else corrected.warnings
        warnings = (*item[1], *fit.warnings, *coarse)
        yield _Done(dataclasses.replace(fit, warnings=warnings, microabsorption=corrected), search)


def _search(job: Job, options: Options, say: Callable[[str], None]) -> MultiStart | InputError:
    try:
        return multi_start(job, options.starts, seed=options.seed, spread=options.spread, batch=options.batch, say=say)
    except InputError as error:
        return error


def refine_files(data: Sequence[str], options: Options, output: str, *, say: Callable[[str], None]) -> list[str]:
    """Refines measurements, each into its own folder if there are several, with a table of all.

    Args:
      data: files.
      options: of all of them.
      output: folder.
      say: takes one sentence for the user.

    Returns:
      The files that failed; one that fails stops no other, but is an error where it is the only one.

    Raises:
      InputError: a folder that already holds a result, or options that do not go together.
    """
    for place, width in options.humps:
        if not width > 0:
            raise InputError(
                f"--hump {place:g} {width:g}: the width must be above 0 deg; give position and width at half height"
            )
    for name, diameter in options.diameters.items():
        if not (np.isfinite(diameter) and diameter > 0):
            raise InputError(f"--grain-diameter {name}={diameter:g}: must be a positive number of micrometres")
    if options.starts < 1:
        raise InputError(f"--starts {options.starts}: at least one start is needed; give 1 or more")
    if options.batch < 1:
        raise InputError(f"--batch {options.batch}: at least one pattern goes into a call; give 1 or more")
    if options.sequential and (options.starts > 1 or options.batch > 1):
        raise InputError("--sequential takes one pattern after the other from one start; leave out --starts and --batch")
    root = pathlib.Path(output)
    folders = [root] if len(data) == 1 else [root / pathlib.Path(file).stem for file in data]
    if len(set(folders)) < len(folders):
        raise InputError("two files have the same name, and their results would share a folder; rename one")
    for folder in folders:
        check_folder(folder, [_phase_name(text)[0] for text in options.phases])
    if len(data) > 1 and ((root / TABLE_FILE).exists() or (root / OVERVIEW_FILE).exists()):
        raise InputError(f"{root}: already holds a table of results; choose another folder with -o, or delete it")
    failed, rows, pages = [], [], []
    results = _refined(data, options, say if len(data) == 1 else lambda sentence: None)
    shown = tqdm(results, desc="refine", total=len(data), disable=None if len(data) > 1 else True)
    for file, folder, done in zip(data, folders, shown, strict=True):
        try:
            if isinstance(done, InputError):
                raise done
            _make(folder)
            write_report(done.fit, folder, pathlib.Path(file).name, _settings(file, options))
            if done.search is not None:
                write_together({folder / STARTS_FILE: _table(start_rows(done.search))})
        except InputError as error:
            if len(data) == 1:
                raise
            say(f"{file} failed: {error}")
            failed.append(file)
            rows.append({"data": file, "error": str(error)})
            pages.append(None)
            continue
        rows.append({"data": file, **_row(result_dict(done.fit))})
        pages.append(f"{folder.name}/{PAGE_FILE}")
        if len(data) == 1:
            if done.search is not None:
                say(f"{sum(done.search.reached)} of {len(done.search.fits)} starts reached the lowest Rwp")
            say(summary(done.fit))
    if len(data) > 1:
        _make(root)
        write_together({root / TABLE_FILE: _table(rows), root / OVERVIEW_FILE: overview_html(rows, pages)})
    return failed


def summary(fit: Refinement) -> str:
    """What a user wants to see first."""
    a = fit.agreement
    lines = [f"Rwp {100 * a.rwp:.2f} %, GOF {a.gof:.2f}, {a.n_parameters} parameters, {fit.seconds:.1f} s"]
    for i in fit.free:
        name = fit.model.table.names[i]
        if not name.startswith("background.") and ".reflections." not in name:
            lines.append(f"  {name} = {with_uncertainty(float(fit.values[i]), float(fit.sigma[i]))}")
    for phase in fit.model.phases:
        share, sigma = fit.weight_fractions[phase.name]
        agreement = fit.r_bragg[phase.name]
        words = [f"R_Bragg {100 * agreement:.2f} %" if np.isfinite(agreement) else "no R_Bragg: it has no intensity"]
        if phase.mode != "rietveld":
            lines_of = sum(name.startswith(f"phases.{phase.name}.reflections.") for name in fit.model.table.names)
            words.append(f"{lines_of} intensities ({phase.mode})")
        elif len(fit.model.phases) > 1:
            words.append(f"{with_uncertainty(100 * share, 100 * sigma)} wt%")
            if fit.microabsorption is not None:
                share, sigma, tau = fit.microabsorption[phase.name]
                words.append(f"{with_uncertainty(100 * share, 100 * sigma)} wt% after Brindley (tau {tau:.3f})")
        lines.append(f"  {phase.name}: {', '.join(words)}")
    return "\n".join([*lines, *(f"warning: {warning}" for warning in fit.warnings)])


def list_parameters(data: str, options: Options) -> str:
    """Every parameter of the model: name, start value, unit, group, and the stage that frees it first."""
    model, plan, _, _ = prepare(data, options)
    rows = []
    for i, p in enumerate(model.table.parameters):
        stage = next((s.name for s in plan.stages if i in set(_free(model, s))), "")
        rows.append(f"{p.name:44s} {p.value:12.6g} {p.unit:6s} {p.group:14s} {stage}")
    head = f"{'name':44s} {'start':>12s} {'unit':6s} {'group':14s} first free in"
    return "\n".join([head, *rows])


def _free(model: Model, stage: Any) -> list[int]:
    from simxrd_jax.refine.fit import stage_indices

    return stage_indices(model, stage).tolist()


def _phase_name(text: str) -> tuple[str, str]:
    name, equals, path = text.partition("=")
    return (name, path) if equals else (re.sub(r"[.\[\]*?@]", "_", pathlib.Path(text).stem), text)


def _within(measured: MeasuredPattern, limits: tuple[float, float] | None) -> MeasuredPattern:
    if limits is None:
        return measured
    kept = (measured.two_theta >= limits[0]) & (measured.two_theta <= limits[1])
    if np.sum(kept) < 2:
        first, last = measured.two_theta[[0, -1]]
        raise InputError(
            f"--range {limits[0]:g} {limits[1]:g}: the pattern runs from {first:g} to {last:g} deg; take a part of it"
        )
    sigma = None if measured.sigma is None else measured.sigma[kept]
    return dataclasses.replace(measured, two_theta=measured.two_theta[kept], intensity=measured.intensity[kept], sigma=sigma)


def _radiation(measured: MeasuredPattern, stated: InstrumentFile | None, wavelength: str | None) -> Radiation:
    if wavelength is not None:
        return as_radiation(wavelength)
    if stated is not None:
        return stated.radiation
    if measured.radiation is None:
        raise InputError(f"{measured.source}: does not tell its wavelength; give it with --wavelength, such as CuKa")
    return measured.radiation


def _instrument_file(name: str) -> InstrumentFile:
    if not pathlib.Path(name).exists():
        raise InputError(f"--instrument {name}: is neither a file nor one of {', '.join(INSTRUMENTS)}")
    return read_instrument(name)


def _instrument_values(measured: MeasuredPattern, stated: InstrumentFile | None) -> dict[str, float]:
    values = {n: measured.instrument[n] for n in ("goniometer_radius", "monochromator_two_theta") if n in measured.instrument}
    return values if stated is None else values | dict(stated.values)


def _make(folder: pathlib.Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: cannot be made ({error.strerror}); choose another folder") from None


def _settings(data: str, options: Options) -> dict[str, str]:
    """What was asked for, for the page of a result; what is as by default is left out."""
    found = {"data": data}
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        is_default = value == (field.default_factory() if callable(field.default_factory) else field.default)
        if is_default and field.name != "background":
            continue
        if isinstance(value, dict):
            value = [f"{name} = {content}" for name, content in value.items()]
        found[field.name] = ", ".join(str(v) for v in value) if isinstance(value, list | tuple) else str(value)
    return found


def _row(result: dict[str, Any]) -> dict[str, Any]:
    """One line of the table of several refinements."""
    row = {name: result[name] for name in ("rwp", "rp", "rexp", "gof", "n_points", "n_parameters", "converged", "seconds")}
    row["warnings"] = len(result["warnings"])
    for name in result["free"]:
        if not name.startswith("background.") and ".reflections." not in name:
            row[name], row[f"{name} esd"] = result["parameters"][name]
    for phase, values in result["phases"].items():
        row[f"{phase} R_Bragg"] = values["r_bragg"]
        if values["weight_fraction"] is not None:
            row[f"{phase} weight fraction"], row[f"{phase} weight fraction esd"] = values["weight_fraction"]
        if "brindley" in values:
            row[f"{phase} weight fraction, Brindley"] = values["brindley"]["weight_fraction"][0]
    return row


def start_rows(search: MultiStart) -> list[dict[str, Any]]:
    """A line for each start: what it ended with, and the values that were drawn, before and after."""
    rows = []
    drawn = list(dict.fromkeys(name for start in search.starts[1:] for name in start))
    for i, (fit, start, reached) in enumerate(zip(search.fits, search.starts, search.reached, strict=True)):
        row: dict[str, Any] = {"start": i, "rwp": fit.agreement.rwp, "gof": fit.agreement.gof}
        row |= {"converged": fit.converged, "reached": reached, "best": fit is search.best}
        begun = fit.model.table.values(start)
        for name in drawn:
            row[f"{name} start"], row[name] = float(begun[fit.model.table.index(name)]), fit[name][0]
        rows.append(row)
    return rows


def _table(rows: Sequence[dict[str, Any]]) -> str:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
