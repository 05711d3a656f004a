"""Host zone. What a user knows beside the data: bounds, ties and restraints of a model's parameters.

A bound keeps a value within an interval by a smooth transform. A tie makes a value follow others, p = offset + sum f_i p_i; it
is then no parameter of the fit. A restraint adds ((p - value)/sigma)^2 to the sum of squares, as a measurement of p would.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np

from simxrd_jax.errors import InputError
from simxrd_jax.refine.build import Model, Restraint, Tie
from simxrd_jax.refine.parameters import Parameter, ParameterTable


def constrained(
    model: Model,
    *,
    bounds: Mapping[str, tuple[float, float]] | None = None,
    ties: Sequence[Tie] = (),
    restraints: Sequence[Restraint] = (),
) -> Model:
    """A model that keeps to more.

    Args:
      model: from `make_model`.
      bounds: parameter, or pattern of parameters, -> lowest and highest value; a start value outside moves inside.
      ties: beside the model's own.
      restraints: likewise.

    Raises:
      InputError: a parameter that there is not, an empty interval, a tie to what is tied itself, or a sigma not above 0.
    """
    parameters = list(model.table.parameters)
    for pattern, (lower, upper) in (bounds or {}).items():
        for i in np.flatnonzero(model.table.matching((pattern,))):
            parameters[i] = _bounded(parameters[i], lower, upper)
    table = ParameterTable(parameters)
    tied = {tie.name for tie in model.ties}
    for tie in ties:
        for name in (tie.name, *tie.factors):
            table.index(name)
        if tie.name in tied:
            raise InputError(f"{tie.name} follows from others already; leave one of its ties out")
        tied.add(tie.name)
    for tie in (*model.ties, *ties):
        other = next((name for name in tie.factors if name in tied), None)
        if other is not None:
            raise InputError(
                f"{tie.name} cannot follow {other}, which follows from others itself; tie both to one that does not"
            )
    for restraint in restraints:
        for name in restraint.factors:
            table.index(name)
        if not (math.isfinite(restraint.value) and math.isfinite(restraint.sigma) and restraint.sigma > 0):
            raise InputError(
                f"the restraint of {', '.join(restraint.factors)} to {restraint.value:g} needs a finite sigma above 0, "
                f"not {restraint.sigma:g}; change it"
            )
    return dataclasses.replace(model, table=table, ties=(*model.ties, *ties), restraints=(*model.restraints, *restraints))


def _bounded(parameter: Parameter, lower: float, upper: float) -> Parameter:
    if not (math.isfinite(lower) and math.isfinite(upper) and lower < upper):
        raise InputError(f"the bounds of {parameter.name} are {lower:g} and {upper:g}; the first must be below the second")
    if parameter.kind in ("positive", "inverse") and lower < 0:
        raise InputError(f"{parameter.name} cannot be below 0; give it a lower bound of 0 or more")
    made = dataclasses.replace(parameter, kind="bounded", lower=lower, upper=upper, limit=math.inf)
    return dataclasses.replace(made, value=made.inside(parameter.value))


def parse_bounds(given: Sequence[str]) -> dict[str, tuple[float, float]]:
    """NAME=LOW:HIGH texts.

    Raises:
      InputError: one that is not.
    """
    return {name: pair for text in given for name, pair in [_pair(text, "--bound", "phases.*.grain_size=50:5000")]}


def parse_restraints(given: Sequence[str], model: Model) -> tuple[Restraint, ...]:
    """NAME=VALUE:SIGMA texts; a pattern of names restrains each.

    Raises:
      InputError: one that is not, or a name that matches none.
    """
    found: list[Restraint] = []
    for text in given:
        pattern, (value, sigma) = _pair(text, "--restrain", "phases.Si.cell.a=5.431:0.001")
        found += [Restraint({name: 1.0}, value, sigma) for name in _names(model, pattern)]
    return tuple(found)


def parse_ties(given: Sequence[str], model: Model) -> tuple[Tie, ...]:
    """NAME=OTHER or NAME=FACTOR*OTHER texts; a pattern of names ties each but the other itself.

    Raises:
      InputError: one that is not, or a name that matches none.
    """
    found: list[Tie] = []
    for text in given:
        pattern, equals, right = text.partition("=")
        factor, star, other = right.rpartition("*")
        number = _number(factor) if star else 1.0
        if not (pattern and equals and other) or number is None:
            raise InputError(f"--tie {text}: expected NAME=OTHER or NAME=FACTOR*OTHER, such as phases.A.biso=phases.B.biso")
        model.table.index(other)
        found += [Tie(name, {other: number}) for name in _names(model, pattern) if name != other]
    return tuple(found)


def _names(model: Model, pattern: str) -> list[str]:
    return [model.table.names[i] for i in np.flatnonzero(model.table.matching((pattern,)))]


def _pair(text: str, option: str, example: str) -> tuple[str, tuple[float, float]]:
    name, _, numbers = text.partition("=")
    first, _, second = numbers.partition(":")
    low, high = _number(first), _number(second)
    if not name or low is None or high is None:
        raise InputError(f"{option} {text}: expected a name and two numbers, such as {example}")
    return name, (low, high)


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
