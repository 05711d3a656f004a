"""Host zone. The parameters of a refinement: names, values, bounds, and which of them share a stage.

A parameter's name is its place in the model: `instrument.zero_shift`, `background.chebyshev.2`, `phases.LaB6.cell.a`,
`phases.LaB6.sites.B1.x`. Names are stable: they are keys of `result.json` and what `--free`, `--fix` and `--set` match.

Inside the solver each parameter is a number u near 0 whose unit is a typical change, and its physical value is a smooth,
monotonic function of u that keeps to the bounds. The kinds:

    linear    p = p0 + scale u
    positive  p = scale softplus(u)
    inverse   p = 1/(scale softplus(u) + LEAST); a grain size, whose broadening goes as 1/D
    bounded   p = lower + (upper - lower) sigmoid(u)
    near      p = p0 + limit tanh(scale u/limit); a cell, which a phase that is not there would lose

A positive or inverse parameter with a limit has limit tanh(scale softplus(u)/limit) in place of scale softplus(u).
"""

from __future__ import annotations

import dataclasses
import fnmatch
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Bool, Float, Int

from simxrd_jax.conditions import nearest
from simxrd_jax.errors import InputError
from simxrd_jax.types import Array

Kind = Literal["linear", "positive", "inverse", "bounded", "near"]
KINDS: tuple[Kind, ...] = ("linear", "positive", "inverse", "bounded", "near")
# Smallest reciprocal of the kind "inverse": a grain of a centimetre broadens nothing, and is no infinite one. [1/A]
LEAST = 1e-8
# A value this close to its bound, as a share of the kind's scale, counts as at it: softplus and sigmoid reach no bound.
AT_BOUND = 1e-3
INSIDE = 0.01  # share of the interval that a start keeps from its ends, where the sigmoid is nearly flat
AT_LIMIT = 0.9  # share of a limit from which on a value counts as at it; so far out the tanh is nearly flat


@dataclasses.dataclass(frozen=True)
class Parameter:
    """One number of a model.

    Attributes:
      name: its place in the model.
      value: at the start.
      group: parameters that a stage frees together: "scale", "background", "position", "cell", "width", "texture",
        "coordinate", "displacement", "occupancy", "intensity", "other".
      unit: of the value, "" for a pure number.
      kind: how the value stays within its bounds, see the module.
      scale: a typical change (for "inverse", of the reciprocal).
      lower, upper: bounds of "bounded".
      limit: largest value of "positive", largest reciprocal of "inverse", largest distance from the start of "near".
    """

    name: str
    value: float
    group: str
    unit: str = ""
    kind: Kind = "linear"
    scale: float = 1.0
    lower: float = -math.inf
    upper: float = math.inf
    limit: float = math.inf

    def inside(self, value: float) -> float:
        """The value, or, where it is outside the bounds of the kind "bounded", the nearest that is well within them."""
        if self.kind != "bounded" or self.lower <= value <= self.upper:
            return value
        margin = INSIDE * (self.upper - self.lower)
        return min(max(value, self.lower + margin), self.upper - margin)


@struct.dataclass
class Transforms:
    """What leads from the solver's numbers to values, one entry a parameter.

    Attributes:
      kind: index into `KINDS`.
      origin: value at u = 0 of the kinds "linear" and "near".
      scale: see `Parameter`.
      lower, upper: bounds of "bounded", 0 and 1 for the others.
      limit: see `Parameter`.
    """

    kind: Int[Array, " parameter"]
    origin: Float[Array, " parameter"]
    scale: Float[Array, " parameter"]
    lower: Float[Array, " parameter"]
    upper: Float[Array, " parameter"]
    limit: Float[Array, " parameter"]


class ParameterTable:
    """The parameters of a model in order.

    Args:
      parameters: with names that differ.

    Raises:
      InputError: a name that occurs twice, or a start value that its kind cannot have.
    """

    def __init__(self, parameters: Iterable[Parameter]):
        self.parameters = tuple(parameters)
        self.names = tuple(p.name for p in self.parameters)
        if len(set(self.names)) < len(self.names):
            twice = next(name for name in self.names if self.names.count(name) > 1)
            raise InputError(f"the parameter {twice} occurs twice; give phases and sites names that differ")
        self._index = {name: i for i, name in enumerate(self.names)}
        for p in self.parameters:
            _check_value(p, p.value)

    def __len__(self) -> int:
        return len(self.parameters)

    def index(self, name: str) -> int:
        """Place of a parameter.

        Raises:
          InputError: there is none of that name; the nearest names are offered.
        """
        if name not in self._index:
            raise InputError(f"there is no parameter {name!r}{nearest(name, self._index)}")
        return self._index[name]

    def values(self, changed: Mapping[str, float] | None = None) -> Float[np.ndarray, " parameter"]:
        """Start values, some of them changed.

        Raises:
          InputError: an unknown name, or a value that the parameter cannot have.
        """
        values = np.array([p.value for p in self.parameters], dtype=np.float64)
        for name, value in (changed or {}).items():
            i = self.index(name)
            _check_value(self.parameters[i], value)
            values[i] = value
        return values

    def inside(self, values: Float[np.ndarray, " parameter"]) -> Float[np.ndarray, " parameter"]:
        """Values moved within the bounds of the parameters that users have bounded."""
        return np.array([p.inside(float(v)) for p, v in zip(self.parameters, values, strict=True)])

    def matching(self, patterns: Sequence[str]) -> Bool[np.ndarray, " parameter"]:
        """Which parameters match one of the patterns: a name, a shell pattern of names, or "@group".

        Raises:
          InputError: a pattern that matches none.
        """
        chosen = np.zeros(len(self), dtype=bool)
        groups = {p.group for p in self.parameters}
        for pattern in patterns:
            if pattern.startswith("@"):
                found = np.array([p.group == pattern[1:] for p in self.parameters])
                known = {f"@{group}": None for group in groups}
            else:
                found = np.array([fnmatch.fnmatchcase(name, pattern) for name in self.names])
                known = self._index
            if not found.any():
                raise InputError(f"no parameter matches {pattern!r}{nearest(pattern, known)}")
            chosen |= found
        return chosen

    def transforms(self, values: Float[np.ndarray, " parameter"]) -> Transforms:
        """The transforms, with the origins of linear parameters at the given values."""
        bounded = [p.kind == "bounded" for p in self.parameters]
        return Transforms(
            kind=np.array([KINDS.index(p.kind) for p in self.parameters], dtype=np.int32),
            origin=np.array(values, dtype=np.float64),
            scale=np.array([p.scale for p in self.parameters]),
            lower=np.where(bounded, [p.lower for p in self.parameters], 0.0),
            upper=np.where(bounded, [p.upper for p in self.parameters], 1.0),
            limit=np.array([p.limit for p in self.parameters]),
        )

    def at_bound(
        self, values: Float[np.ndarray, " parameter"], start: Float[np.ndarray, " parameter"]
    ) -> Bool[np.ndarray, " parameter"]:
        """Which values are at a bound of their parameter, given where a fit started from."""
        found = np.zeros(len(self), dtype=bool)
        for i, p in enumerate(self.parameters):
            if p.kind == "positive":
                # The size of a scale factor is that of the data.
                least = AT_BOUND * (start[i] if p.group == "scale" else p.scale)
                found[i] = values[i] < least or values[i] > AT_LIMIT * p.limit
            elif p.kind == "inverse":
                found[i] = 1.0 / values[i] < AT_BOUND * p.scale or 1.0 / values[i] > AT_LIMIT * p.limit
            elif p.kind == "near":
                found[i] = abs(values[i] - start[i]) > AT_LIMIT * p.limit
            elif p.kind == "bounded":
                found[i] = min(values[i] - p.lower, p.upper - values[i]) < AT_BOUND * (p.upper - p.lower)
        return found


def _check_value(parameter: Parameter, value: float) -> None:
    is_sound = math.isfinite(value)
    if parameter.kind in ("positive", "inverse"):
        is_sound, need = is_sound and value > 0, "above 0"
        reach = value if parameter.kind == "positive" else 1.0 / value if value > 0 else 0.0
        if is_sound and reach > parameter.limit:
            edge = parameter.limit if parameter.kind == "positive" else 1.0 / parameter.limit
            is_sound, need = False, f"{'below' if parameter.kind == 'positive' else 'above'} {edge:g}"
    elif parameter.group == "cell":
        is_sound, need = is_sound and value > 0, "above 0"
    elif parameter.kind == "bounded":
        is_sound = is_sound and parameter.lower <= value <= parameter.upper
        need = f"between {parameter.lower:g} and {parameter.upper:g}"
    else:
        need = "finite"
    if not is_sound:
        raise InputError(f"{parameter.name} = {value:g} must be {need}; change the value")


def to_values(u: Float[Array, " parameter"], transforms: Transforms) -> Float[Array, " parameter"]:
    """Physical values of the solver's numbers."""
    t = transforms
    soft = _limited(t.scale * jax.nn.softplus(u), t.limit)
    return jnp.select(
        [t.kind == 0, t.kind == 1, t.kind == 2, t.kind == 4],
        [t.origin + t.scale * u, soft, 1.0 / (soft + LEAST), t.origin + _limited(t.scale * u, t.limit)],
        t.lower + (t.upper - t.lower) * jax.nn.sigmoid(u),
    )


def _limited(x: Float[Array, " parameter"], limit: Float[Array, " parameter"]) -> Float[Array, " parameter"]:
    """limit tanh(x/limit), or x where there is no limit."""
    finite = jnp.isfinite(limit)
    safe = jnp.where(finite, limit, 1.0)
    return jnp.where(finite, safe * jnp.tanh(x / safe), x)


def _unlimited(x: Float[Array, " parameter"], limit: Float[Array, " parameter"]) -> Float[Array, " parameter"]:
    """Inverse of `_limited`; values at or beyond the limit come from just below it."""
    finite = jnp.isfinite(limit)
    safe = jnp.where(finite, limit, 1.0)
    return jnp.where(finite, safe * jnp.arctanh(jnp.clip(jnp.where(finite, x / safe, 0.0), -0.999, 0.999)), x)


def to_internal(values: Float[Array, " parameter"], transforms: Transforms) -> Float[Array, " parameter"]:
    """The solver's numbers of physical values; inverse of `to_values`."""
    t = transforms
    # Each branch gets an argument that it can take, so that those not selected make no NaN.
    reciprocal = jnp.maximum(jnp.where(t.kind == 2, values, 1.0) ** -1 - LEAST, 1e-6 * LEAST)
    positive = jnp.where(t.kind == 2, reciprocal, values)
    soft = jnp.where((t.kind == 1) | (t.kind == 2), _unlimited(positive, t.limit) / t.scale, 1.0)
    share = jnp.where(t.kind == 3, (values - t.lower) / (t.upper - t.lower), 0.5)
    return jnp.select(
        [t.kind == 0, (t.kind == 1) | (t.kind == 2), t.kind == 4],
        [(values - t.origin) / t.scale, soft + jnp.log(-jnp.expm1(-soft)), _unlimited(values - t.origin, t.limit) / t.scale],
        jnp.log(share) - jnp.log1p(-share),
    )
