"""Host zone. SimXRD databases: patterns as rows of an ASE database (SQLite), as SimXRD-4M was released.

A row has the keys
    latt_dis          d of each point, falling, as text of a list. [A]
    intensity         of each point, likewise; the highest of the whole pattern 100
    tager             text "[space group, crystal system, 'lattice letter']"; systems by SYSTEM_CODES
    chem_form         formula of a cell
    simulation_param  text "[grain size, [orientation, orientation], displacement, zero shift]"
Axes of released rows begin up to half a step apart; all are in steps of 0.02 deg at 1.54184 A.

The published reader evaluates these texts as Python. Here they are parsed as lists of numbers and nothing is executed: a row
is data of somebody else. SQLite is asked directly and read-only, since ASE would write its tables into a file that has none.
"""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import re
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from simxrd_jax.errors import InputError
from simxrd_jax.io.files import read_only
from simxrd_jax.io.measured import MAX_NEGATIVE, system_of

KEYS = ("latt_dis", "intensity", "tager", "chem_form", "simulation_param")
WAVELENGTH = 1.54184  # [A]
# Conditions of simulation_param, in its order.
PARAMETERS = ("grain_size", "orientation_below", "orientation_above", "displacement_rms", "zero_shift")
# Codes of the crystal systems: not in the order of the International Tables.
SYSTEM_CODES = {
    "cubic": 1, "hexagonal": 2, "tetragonal": 3, "orthorhombic": 4, "trigonal": 5, "monoclinic": 6, "triclinic": 7,
}  # fmt: skip
LETTERS = "PABCIFR"
TAGER = re.compile(r"\[\s*(\d{1,3})\s*,\s*([1-7])\s*,\s*(['\"])([A-Z])\3\s*\]")
FORMULA = re.compile(r"([A-Z][a-z]?\d*(\.\d+)?)+")
MAX_NUMBER = 2**31 - 1  # of a row
MAX_TEXT = 10_000_000  # characters of a list; a pattern of 3,501 points has 70,000
STEP_TOLERANCE = 1e-2  # of the step, within which an axis counts as uniform in 2theta
MIN_POINTS = 10


@dataclass(frozen=True, eq=False)
class SimxrdRow:
    """One pattern of a SimXRD database.

    Attributes:
      two_theta: start and step of its axis at WAVELENGTH. [deg]
      intensity: as stored.
      space_group: number.
      crystal_system: name.
      lattice_letter: of the Bravais lattice.
      formula: of a cell.
      grain_size, orientation, displacement, zero_shift: conditions as stored; the published script's grain size is no
        length, see the preset simxrd. [-; -; A; deg]
    """

    two_theta: tuple[float, float]
    intensity: Float[np.ndarray, " point"]
    space_group: int
    crystal_system: str
    lattice_letter: str
    formula: str
    grain_size: float
    orientation: tuple[float, float]
    displacement: float
    zero_shift: float


class SimxrdDatabase:
    """The rows of a SimXRD database in order of their numbers, by random access.

    `len` and `[i]` are all that a data loader such as Grain asks for; an instance can be pickled to its processes.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Opens a database.

        Raises:
          InputError: it is missing, cannot be read, is no ASE database or has no rows.
        """
        self._path = pathlib.Path(path)
        self._open: tuple[int, sqlite3.Connection] | None = None
        if not self._path.is_file():
            raise InputError(f"{self._path}: no such file; name a SimXRD database (.db)")
        try:
            numbers = [number for (number,) in self._connection().execute("select id from systems order by id")]
        except sqlite3.Error as error:
            raise InputError(
                f"{self._path}: is not an ASE database that can be read ({error}); give a released SimXRD database"
            ) from None
        if not all(isinstance(number, int) and 0 < number <= MAX_NUMBER for number in numbers):
            raise InputError(f"{self._path}: has rows numbered beyond 1 to {MAX_NUMBER}; give a released SimXRD database")
        self.numbers: list[int] = numbers
        if not self.numbers:
            raise InputError(f"{self._path}: the database has no rows; give one that holds patterns")

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: int) -> SimxrdRow:
        """One row.

        Raises:
          IndexError: there is no such row.
          InputError: the row is malformed.
        """
        number = self.numbers[index]
        try:
            (text,) = self._connection().execute("select key_value_pairs from systems where id = ?", (number,)).fetchone()
        except sqlite3.Error as error:
            raise InputError(f"{self._path}: row {number}: cannot be read ({error}); check the database") from None
        try:
            return parse_row(_pairs(text))
        except InputError as error:
            raise InputError(f"{self._path}: row {number}: {error}") from None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": None}

    def _connection(self) -> sqlite3.Connection:
        """A connection of this process: SQLite's are not carried through a fork."""
        if self._open is None or self._open[0] != os.getpid():
            self._open = os.getpid(), read_only(self._path, check_same_thread=False)
        return self._open[1]

    def close(self) -> None:
        """Closes the file; it is opened again when a row is asked for."""
        if self._open is not None and self._open[0] == os.getpid():
            with contextlib.suppress(sqlite3.Error):
                self._open[1].close()
        self._open = None


def _pairs(text: Any) -> dict[str, Any]:
    """The key-value pairs of a row."""
    try:
        pairs = json.loads(text)
    except (TypeError, ValueError, RecursionError):
        raise InputError("its key-value pairs are no JSON") from None
    if not isinstance(pairs, dict):
        raise InputError("its key-value pairs are no mapping")
    return pairs


def parse_row(pairs: dict[str, Any]) -> SimxrdRow:
    """A row of its key-value pairs.

    Raises:
      InputError: a key is missing, a text is no list of numbers, numbers do not go together.
    """
    missing = [key for key in KEYS if not isinstance(pairs.get(key), str)]
    if missing:
        raise InputError(f"lacks the text {', '.join(missing)}")
    spacing, intensity = (_numbers(pairs[key], key) for key in ("latt_dis", "intensity"))
    if spacing.size != intensity.size:
        raise InputError(f"has {spacing.size} values of latt_dis and {intensity.size} of intensity")
    if intensity.max() <= 0 or intensity.min() < -MAX_NEGATIVE * intensity.max():
        raise InputError(f"its intensity is 0 everywhere or below -{100 * MAX_NEGATIVE:g} % of the maximum")
    tager = TAGER.fullmatch(pairs["tager"].strip())
    if tager is None:
        raise InputError(f"its tager {pairs['tager'][:40]!r} is not [space group, crystal system, 'letter']")
    group, system, letter = int(tager[1]), int(tager[2]), tager[4]
    if not 1 <= group <= 230 or letter not in LETTERS:
        raise InputError(f"its tager {tager[0]!r} names no space group or no lattice")
    if SYSTEM_CODES[system_of(group)] != system:
        raise InputError(f"its tager {tager[0]!r} contradicts itself: space group {group} is {system_of(group)}")
    if not FORMULA.fullmatch(pairs["chem_form"]):
        raise InputError(f"its chem_form {pairs['chem_form'][:40]!r} is no formula")
    grain, orientation, displacement, shift = _conditions(pairs["simulation_param"])
    return SimxrdRow(
        _axis(spacing), intensity, group, system_of(group), letter, pairs["chem_form"], grain, orientation, displacement, shift
    )


def _list(text: str, key: str) -> list[Any]:
    if len(text) > MAX_TEXT:
        raise InputError(f"its {key} is a text of {len(text):,} characters, too long for a pattern")
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        raise InputError(f"its {key} {text[:40]!r} is no list of numbers") from None
    if not isinstance(values, list):
        raise InputError(f"its {key} {text[:40]!r} is no list")
    return values


def _are_numbers(values: list[Any]) -> bool:
    return set(map(type, values)) <= {int, float}  # true and false are of another type


def _numbers(text: str, key: str) -> np.ndarray:
    values = _list(text, key)
    if len(values) < MIN_POINTS:
        raise InputError(f"its {key} has {len(values)} values, too few for a pattern")
    if not _are_numbers(values):
        raise InputError(f"its {key} holds something that is no number")
    numbers = _floats(values)
    if numbers is None:
        raise InputError(f"its {key} holds a value that is not finite, or too large")
    return numbers


def _floats(values: list[Any]) -> np.ndarray | None:
    """Numbers as an array; None where one is no float32, as which they are written."""
    try:
        numbers = np.array(values, dtype=np.float64)
    except OverflowError:
        return None
    return numbers if bool((np.abs(numbers) <= np.finfo(np.float32).max).all()) else None


def _axis(spacing: np.ndarray) -> tuple[float, float]:
    """Start and step in 2theta of a list of d. [deg]"""
    if spacing.min() <= WAVELENGTH / 2:
        raise InputError(f"its latt_dis holds a d that cannot be reached at {WAVELENGTH} A")
    two_theta = 2 * np.degrees(np.arcsin(WAVELENGTH / (2 * spacing)))
    step = (two_theta[-1] - two_theta[0]) / (two_theta.size - 1)
    if step <= 0 or np.abs(np.diff(two_theta) - step).max() > STEP_TOLERANCE * step:
        raise InputError("its latt_dis does not fall in even steps of 2theta")
    return float(two_theta[0]), float(step)


def _conditions(text: str) -> tuple[float, tuple[float, float], float, float]:
    values = _list(text, "simulation_param")
    if len(values) == 4 and isinstance(values[1], list) and len(values[1]) == 2:
        flat = [values[0], *values[1], values[2], values[3]]
        if _are_numbers(flat) and _floats(flat) is not None:
            grain, below, above, displacement, shift = map(float, flat)
            if min(grain, displacement) < 0:
                raise InputError(f"its simulation_param {text[:60]!r} has a negative grain size or displacement")
            return grain, (below, above), displacement, shift
    raise InputError(
        f"its simulation_param {text[:60]!r} is not [grain size, [orientation, orientation], displacement, shift]"
    )


# --- Writing ---------------------------------------------------------------------------------------------------------------


def spacing_text(two_theta: np.ndarray, wavelength: float) -> str:
    """The text latt_dis of an axis.

    Args:
      two_theta: rising. [deg]
      wavelength: [A]

    Raises:
      InputError: the axis begins at 0, where d has no value.
    """
    if two_theta[0] <= 0:
        raise InputError("the axis begins at 2theta = 0, where d has no value; take another preset for a SimXRD database")
    return _text(wavelength / (2 * np.sin(np.radians(np.asarray(two_theta, dtype=np.float64) / 2))), "%.12g")


def row_pairs(
    latt_dis: str, intensity: np.ndarray, space_group: int, letter: str, formula: str, conditions: Sequence[float]
) -> dict[str, str]:
    """The key-value pairs of a row.

    Args:
      latt_dis: see `spacing_text`.
      intensity: highest point 100, float32 as text that gives it back.
      space_group: number.
      letter: of the Bravais lattice.
      formula: of a cell.
      conditions: grain size, the two orientations, displacement, zero shift; 0 for what is switched off.
    """
    grain, below, above, displacement, shift = (float(v) for v in conditions)
    return {
        "latt_dis": latt_dis,
        "intensity": _text(np.asarray(intensity, dtype=np.float64), "%.9g"),
        "tager": f"[{space_group}, {SYSTEM_CODES[system_of(space_group)]}, '{letter}']",
        "chem_form": formula,
        "simulation_param": json.dumps([grain, [below, above], displacement, shift]),
    }


def _text(values: np.ndarray, form: str) -> str:
    return "[" + ", ".join([form] * values.size) % tuple(values.tolist()) + "]"
