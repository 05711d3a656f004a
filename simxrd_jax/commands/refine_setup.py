"""Host zone. What `simxrd refine` was told, and the model of a measurement that follows from it."""

from __future__ import annotations

import dataclasses
import pathlib
import re
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import numpy as np

from simxrd_jax.conditions import nearest
from simxrd_jax.constants import Radiation
from simxrd_jax.errors import InputError
from simxrd_jax.io.cif import read_cif
from simxrd_jax.io.instruments import InstrumentFile, read_instrument
from simxrd_jax.io.patterns import MeasuredPattern, read_pattern
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
from simxrd_jax.refine.instruments import INSTRUMENTS
from simxrd_jax.refine.plans import PLANS, Plan, changed, named_plan, read_plan
from simxrd_jax.refine.series import SPREAD
from simxrd_jax.refine.stages import stage_indices

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
      scan: which one of a file's scans, from 1; None adds up those of one range.
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
    scan: int | None = None
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
    measured = _within(read_pattern(data, index=options.scan), options.limits)
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
    names = [phase_name(text) for text in options.phases]
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


def list_parameters(data: str, options: Options) -> str:
    """Every parameter of the model: name, start value, unit, group, and the stage that frees it first."""
    model, plan, _, _ = prepare(data, options)
    values, rows = model.table.values(options.values), []
    for i, p in enumerate(model.table.parameters):
        stage = next((s.name for s in plan.stages if i in set(stage_indices(model, s).tolist())), "")
        rows.append(f"{p.name:44s} {values[i]:12.6g} {p.unit:6s} {p.group:14s} {stage}")
    head = f"{'name':44s} {'start':>12s} {'unit':6s} {'group':14s} first free in"
    return "\n".join([head, *rows])


def phase_name(text: str) -> tuple[str, str]:
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


def settings_of(data: str, options: Options) -> dict[str, str]:
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
