"""Host zone. The work behind `simxrd refine`."""

from __future__ import annotations

import csv
import dataclasses
import io
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from tqdm import tqdm

from simxrd_jax.constants import Radiation
from simxrd_jax.errors import InputError
from simxrd_jax.io.cif import read_cif
from simxrd_jax.io.instruments import InstrumentFile, read_instrument
from simxrd_jax.io.patterns import MeasuredPattern, read_pattern
from simxrd_jax.io.xy import write_together
from simxrd_jax.phases import as_radiation
from simxrd_jax.refine.build import InstrumentStart, Model, PhaseStart, make_model
from simxrd_jax.refine.fit import Refinement, refine
from simxrd_jax.refine.numbers import with_uncertainty
from simxrd_jax.refine.page import overview_html
from simxrd_jax.refine.plans import Plan, changed, default_plan, read_plan
from simxrd_jax.refine.report import PAGE_FILE, check_folder, result_dict, write_report

TABLE_FILE, OVERVIEW_FILE = "results.csv", "results.html"
# Of a capillary the zero of the angles is off, of a flat specimen its height.
POSITIONS = {"flat": "instrument.displacement", "capillary": "instrument.zero_shift"}


@dataclasses.dataclass(frozen=True)
class Options:
    """What the command was told.

    Attributes:
      phases: CIF files, each NAME=FILE.cif or FILE.cif.
      instrument: file, or None.
      wavelength: name or number, or None.
      limits: of 2theta, or None. [deg]
      excluded: ranges of 2theta. [deg]
      free, fixed: patterns of parameters.
      plan: file, or None for the default.
      values: parameter -> start value.
      background: Chebyshev terms.
      geometry: "flat" or "capillary".
      textures: phase -> axis of preferred orientation.
      axial: whether peaks have the asymmetry of axial divergence.
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
    background: int = 8
    geometry: str = "flat"
    textures: dict[str, tuple[float, float, float]] = dataclasses.field(default_factory=dict)
    axial: bool = True


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


def prepare(data: str, options: Options) -> tuple[Model, Plan, MeasuredPattern, tuple[str, ...]]:
    """Reads everything, and builds the model of one measurement; the last value are notes for the user.

    Raises:
      InputError: a file that cannot be read, no wavelength, an empty range, an unknown parameter or phase.
    """
    measured = _within(read_pattern(data), options.limits)
    stated = None if options.instrument is None else read_instrument(options.instrument)
    values = _instrument_values(measured, stated)
    names = [_phase_name(text) for text in options.phases]
    for name in options.textures:
        if name not in [n for n, _ in names]:
            raise InputError(f"--texture {name}: there is no such phase; choose from {', '.join(n for n, _ in names)}")
    phases = [PhaseStart(name, read_cif(path), options.textures.get(name)) for name, path in names]
    # At a start that is the same for both ends of the axis they are tied.
    axial = {n: values.setdefault(n, 0.02) for n in ("axial_source", "axial_detector")} if options.axial else {}
    model = make_model(
        phases,
        _radiation(measured, stated, options.wavelength),
        measured.two_theta,
        instrument=InstrumentStart(values | axial, has_axial_divergence=options.axial),
        background_terms=options.background,
    )
    model.table.values(options.values)  # a wrong name is said before anything is fitted
    plan = default_plan(model, position=POSITIONS[options.geometry], refines_instrument=stated is None)
    plan = changed(plan if options.plan is None else read_plan(options.plan), options.free, options.fixed)
    for stage in plan.stages:
        model.table.matching((*stage.free, *stage.fixed))
    return model, plan, measured, (*measured.notes, *(stated.notes if stated else ()))


def refine_file(data: str, options: Options, *, say: Callable[[str], None]) -> Refinement:
    """Refines one measurement."""
    model, plan, measured, notes = prepare(data, options)
    fit = refine(
        model,
        measured.intensity,
        plan,
        sigma=measured.sigma,
        excluded=options.excluded,
        start=options.values,
        say=say,
    )
    return dataclasses.replace(fit, warnings=(*notes, *fit.warnings))


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
      InputError: a folder that already holds a result.
    """
    root = pathlib.Path(output)
    folders = [root] if len(data) == 1 else [root / pathlib.Path(file).stem for file in data]
    if len(set(folders)) < len(folders):
        raise InputError("two files have the same name, and their results would share a folder; rename one")
    for folder in folders:
        check_folder(folder, [_phase_name(text)[0] for text in options.phases])
    if len(data) > 1 and ((root / TABLE_FILE).exists() or (root / OVERVIEW_FILE).exists()):
        raise InputError(f"{root}: already holds a table of results; choose another folder with -o, or delete it")
    failed, rows, pages = [], [], []
    for file, folder in zip(tqdm(data, desc="refine", disable=None if len(data) > 1 else True), folders, strict=True):
        try:
            fit = refine_file(file, options, say=say if len(data) == 1 else lambda sentence: None)
            _make(folder)
            write_report(fit, folder, pathlib.Path(file).name, _settings(file, options))
        except InputError as error:
            if len(data) == 1:
                raise
            say(f"{file} failed: {error}")
            failed.append(file)
            rows.append({"data": file, "error": str(error)})
            pages.append(None)
            continue
        rows.append({"data": file, **_row(result_dict(fit))})
        pages.append(f"{folder.name}/{PAGE_FILE}")
        if len(data) == 1:
            say(summary(fit))
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
        if not name.startswith("background."):
            lines.append(f"  {name} = {with_uncertainty(float(fit.values[i]), float(fit.sigma[i]))}")
    if len(fit.weight_fractions) > 1:
        for name, (share, sigma) in fit.weight_fractions.items():
            lines.append(f"  {name}: {with_uncertainty(100 * share, 100 * sigma)} wt%")
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
    return (name, path) if equals else (pathlib.Path(text).stem.replace(".", "_"), text)


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
    row = {name: result[name] for name in ("rwp", "gof", "converged", "seconds")}
    row["warnings"] = len(result["warnings"])
    for name in result["free"]:
        if not name.startswith("background."):
            row[name], row[f"{name} esd"] = result["parameters"][name]
    for phase, values in result["phases"].items():
        row[f"{phase} weight fraction"] = values["weight_fraction"][0]
    return row


def _table(rows: Sequence[dict[str, Any]]) -> str:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
