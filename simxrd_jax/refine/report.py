"""Host zone. What a refinement leaves in its folder: numbers, patterns, a page and a figure, CIFs, the instrument.

result.json      every number
report.html      the page for the browser
fit.png          the figure
pattern.xy       observed, calculated, difference, background, weight
PHASE.cif        a refined structure, of each phase with atoms
refinement.cif   pattern, phases and figures of merit as pdCIF
instrument.json  the refined instrument
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import math
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from simxrd_jax.crystal.constraints import CELL_NAMES
from simxrd_jax.errors import InputError
from simxrd_jax.io.instruments import InstrumentFile, instrument_text
from simxrd_jax.io.xy import write_together
from simxrd_jax.plots import figure_bytes
from simxrd_jax.refine.cif import Origin, phase_cif, refinement_cif, unique
from simxrd_jax.refine.derived import peak_tables, refined_phases, refined_radiation
from simxrd_jax.refine.figure import draw_fit
from simxrd_jax.refine.fit import Refinement
from simxrd_jax.refine.page import Links, report_html

RESULT_FILE, PATTERN_FILE, FIGURE_FILE = "result.json", "pattern.xy", "fit.png"
INSTRUMENT_FILE, PAGE_FILE, CIF_FILE = "instrument.json", "report.html", "refinement.cif"
FILES = {
    RESULT_FILE: "every parameter, statistic and warning",
    PATTERN_FILE: "points, observed, calculated, difference, background, weight",
    CIF_FILE: "pattern, phases and reflections as pdCIF",
    INSTRUMENT_FILE: "the refined instrument, for --instrument of other patterns",
    FIGURE_FILE: "the figure",
}


def result_dict(fit: Refinement, settings: Mapping[str, str] | None = None) -> dict[str, Any]:
    """The content of result.json; a value that is not determined has the uncertainty null.

    Args:
      fit: finished.
      settings: what the user asked for, name -> value.
    """
    names = fit.model.table.names
    parameters = {name: [float(v), _number(s)] for name, v, s in zip(names, fit.values, fit.sigma, strict=True)}
    phases: dict[str, Any] = {}
    for phase, arrays in zip(fit.model.phases, fit.model.arrays.phases, strict=True):
        cell: dict[str, list[float | None]] = {}
        free = [n.rsplit(".", 1)[1] for n in names if n.startswith(f"phases.{phase.name}.cell.")]
        for i, name in enumerate(CELL_NAMES):
            at = int(arrays.cell_index[i])
            cell[name] = [float(arrays.cell_fixed[i]), 0.0] if at < 0 else parameters[f"phases.{phase.name}.cell.{free[at]}"]
        share, sigma = fit.weight_fractions[phase.name]
        phases[phase.name] = {
            "mode": phase.mode,
            "cell": cell,
            # Free intensities tell no amount.
            "weight_fraction": [share, _number(sigma)] if math.isfinite(share) else None,
            "r_bragg": _number(fit.r_bragg[phase.name]),
        }
        if fit.microabsorption is not None:
            share, sigma, tau = fit.microabsorption[phase.name]
            phases[phase.name]["brindley"] = {"weight_fraction": [share, _number(sigma)], "tau": tau}
    agreement, radiation = _numbers(dataclasses.asdict(fit.agreement)), refined_radiation(fit)
    return {
        **agreement,
        "converged": fit.converged,
        "seconds": round(fit.seconds, 3),
        "warnings": list(fit.warnings),
        "settings": dict(settings or {}),
        "phases": phases,
        "parameters": parameters,
        "free": [names[i] for i in fit.free],
        "uncertainties": "standard uncertainties are scaled by GOF; multiply by serial_factor for serial correlation",
        "radiation": {"wavelength": list(radiation.wavelength), "weight": list(radiation.weight)},
        "stages": [_numbers(dataclasses.asdict(stage)) for stage in fit.stages],
    }


def _numbers(values: dict[str, Any]) -> dict[str, Any]:
    return {name: _number(value) if isinstance(value, float) else value for name, value in values.items()}


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def pattern_columns(fit: Refinement) -> str:
    """Points, observed, calculated, difference, background and weight as text."""
    head = "# two_theta observed calculated difference background weight"
    columns = [fit.two_theta, fit.observed, fit.calculated, fit.observed - fit.calculated, fit.background, fit.weight]
    rows = np.stack(columns, axis=1)
    return "\n".join([head, *("{:.6f} {:.6g} {:.6g} {:.6g} {:.6g} {:.6g}".format(*row) for row in rows)]) + "\n"


def instrument_of(fit: Refinement) -> InstrumentFile:
    """The refined instrument, for `--instrument` of other patterns; where the specimen stood is none of its values."""
    names = {f"instrument.{field}": field for field in fit.model.layout.instrument if "." not in field}
    values = {field: fit[name][0] for name, field in names.items() if field != "displacement"}
    return InstrumentFile(values, refined_radiation(fit))


def phase_files(names: Sequence[str]) -> tuple[str, ...]:
    """File of each phase's CIF: its name, with what no file system minds; names that differ in case alone get a number."""
    stems = [re.sub(r"[^\w+-]+", "_", name)[:80].strip("_") or "phase" for name in names]
    return tuple(f"{stem}.cif" for stem in unique(stems, (CIF_FILE.removesuffix(".cif"),)))


def check_folder(folder: pathlib.Path, phases: Sequence[str]) -> None:
    """Refuses a folder in which the files of a refinement would overwrite others.

    Args:
      folder: need not exist.
      phases: names.

    Raises:
      InputError: it holds a result, or another file of the same name.
    """
    if (folder / RESULT_FILE).exists():
        raise InputError(f"{folder}: already holds a result; choose another folder with -o, or delete it")
    for name in (PAGE_FILE, *FILES, *phase_files(phases)):
        if (folder / name).exists():
            raise InputError(f"{folder}: already holds a file {name}, which would be lost; choose another folder with -o")


def write_report(fit: Refinement, folder: pathlib.Path, title: str = "", settings: Mapping[str, str] | None = None) -> None:
    """Writes all files of a refinement together.

    Args:
      fit: finished.
      folder: that exists and holds no result yet.
      title: of the pattern, as its file's name.
      settings: what the user asked for, name -> value.

    Raises:
      InputError: the folder holds a result, or cannot be written to.
    """
    names = [phase.name for phase in fit.model.phases]
    check_folder(folder, names)
    phases, tables = refined_phases(fit), peak_tables(fit)
    origin = Origin(title or folder.name, datetime.datetime.now(datetime.UTC))
    files = [file if phase.atoms else None for phase, file in zip(phases, phase_files(names), strict=True)]
    structures = {file: phase_cif(fit, phase, origin) for phase, file in zip(phases, files, strict=True) if file}
    links = Links(tuple(files), FILES)
    contents: dict[str, str | bytes] = {
        RESULT_FILE: json.dumps(result_dict(fit, settings), indent=1, allow_nan=False) + "\n",
        PATTERN_FILE: pattern_columns(fit),
        FIGURE_FILE: figure_bytes(draw_fit(fit, title), FIGURE_FILE),
        INSTRUMENT_FILE: instrument_text(instrument_of(fit), str(folder / INSTRUMENT_FILE)),
        CIF_FILE: refinement_cif(fit, phases, tables, origin),
        PAGE_FILE: report_html(fit, phases, tables, title=origin.title, links=links, settings=settings or {}),
        **structures,
    }
    write_together({folder / name: content for name, content in contents.items()})
