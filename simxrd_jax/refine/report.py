"""Host zone. What a refinement leaves in its folder: result.json, the fitted patterns, figures."""

from __future__ import annotations

import dataclasses
import json
import math
import pathlib
from typing import Any

import numpy as np

from simxrd_jax.crystal.constraints import CELL_NAMES
from simxrd_jax.io.instruments import InstrumentFile, write_instrument
from simxrd_jax.io.xy import write_together
from simxrd_jax.plots import figure_bytes
from simxrd_jax.refine.figure import draw_fit
from simxrd_jax.refine.fit import Refinement

RESULT_FILE, PATTERN_FILE, FIGURE_FILE = "result.json", "pattern.xy", "fit.png"
INSTRUMENT_FILE = "instrument.json"


def result_dict(fit: Refinement) -> dict[str, Any]:
    """The content of result.json; a value that is not determined has the uncertainty null."""
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
    agreement = {name: _number(value) for name, value in dataclasses.asdict(fit.agreement).items()}
    return {
        **agreement,
        "converged": fit.converged,
        "seconds": round(fit.seconds, 3),
        "warnings": list(fit.warnings),
        "phases": phases,
        "parameters": parameters,
        "free": [names[i] for i in fit.free],
        "uncertainties": "standard uncertainties are scaled by GOF; multiply by serial_factor for serial correlation",
        "radiation": {"wavelength": list(fit.model.radiation.wavelength), "weight": list(fit.model.radiation.weight)},
        "stages": [dataclasses.asdict(stage) for stage in fit.stages],
    }


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
    return InstrumentFile(values, fit.model.radiation)


def write_report(fit: Refinement, folder: pathlib.Path, title: str = "") -> None:
    """Writes all files of a refinement together.

    Args:
      fit: finished.
      folder: that exists.
      title: over the picture.

    Raises:
      InputError: the folder cannot be written to.
    """
    write_instrument(folder / INSTRUMENT_FILE, instrument_of(fit))
    write_together(
        {
            folder / RESULT_FILE: json.dumps(result_dict(fit), indent=1) + "\n",
            folder / PATTERN_FILE: pattern_columns(fit),
            folder / FIGURE_FILE: figure_bytes(draw_fit(fit, title), FIGURE_FILE),
        }
    )
