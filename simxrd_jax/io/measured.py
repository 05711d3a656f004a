"""Host zone. Measured patterns with known space groups, brought to the grid that networks are trained on.

A measured pattern has a range, a step and a wavelength of its own. Here its points move to where the same d stands at the
grid's wavelength, and are then averaged or interpolated. Background and K-alpha2 are left in: the streams' patterns have them
too.

Intensities move with their points unchanged. For the widths of size and strain (constant in 1/d, or in proportion to it) that
is exact but for the polarization: the Lorentz factor 1/(sin^2(theta) cos(theta)) changes with the wavelength by just what the
stretching of the axis, d(2theta)/d(1/d) ~ 1/cos(theta), takes back. What is left, (1 + cos^2(2theta))/2 at either angle and
the instrument's own width, is not corrected, since neither is known of a pattern; between lines of one anode it is nothing.
"""

from __future__ import annotations

import csv
import itertools
import math
import os
import pathlib
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from simxrd_jax.conditions import nearest
from simxrd_jax.crystal.structure import CRYSTAL_SYSTEMS
from simxrd_jax.errors import InputError
from simxrd_jax.io.xy import read_xy

CU_KALPHA = 1.5418  # mean of the doublet, as the sources state it without saying more. [A]
MIN_POINTS = 100  # on the grid's range
# Points farther apart than this, and than so many of the usual steps, have a gap between them.
MAX_GAP, GAP_STEPS = 0.5, 5.0  # [deg], [steps]
MIN_COVERED = 0.5  # of the grid; below, most of what a network sees would be filling
MAX_NEGATIVE = 0.1  # of the maximum: less is noise about a subtracted background and set to 0, more is no pattern of counts
WAVELENGTHS = (0.1, 5.0)  # [A]
# A step within this of the grid's counts as equal: a small change of wavelength must not switch the averaging on.
STEP_TOLERANCE = 0.01
MIN_CORRELATION = 0.7  # of a pattern with that of the structure its label is inferred from
# COD 1010586 beside this pattern is the structure of 1928 in I2_13, given up since Pauling & Shappell (1930), Z. Kristallogr.
# 75, 128, found bixbyite in Ia-3. Root intensities of the pattern correlate with it by 0.84, with bixbyite's by 0.94.
XRED_CORRECTED = {"Mn2O3": 206}
LABEL_SYMPREC = 0.01  # of labels from CIFs, as the libraries' labels. [A]
SHIPPED_ARRAYS = ("id", "ptr", "two_theta", "intensity", "wavelength", "space_group", "source", "licence")
RRUFF_CITATION = "Lafuente, Downs, Yang & Stone (2015), in: Highlights in Mineralogical Crystallography, De Gruyter, 1-30"
RRUFF_LICENCE = "for evaluation only: RRUFF is free to use with citation and states no licence; do not redistribute"
REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
# Sets by name, from the repository's root.
PLACES = {
    "measured": "datasets/measured.npz",
    "rruff908": "../shared/data/rruff908",
    "rruff90_xred": "../shared/data/experimental/rruff90_xred",
    "xred": "../shared/data/experimental/lab_xred",
}


@dataclass(frozen=True, eq=False)
class Measurement:
    """One pattern as it was measured.

    Attributes:
      id: its name in the set.
      two_theta: [deg]
      intensity: counts, or what the source gives.
      wavelength: of the line, or the mean of the doublet. [A]
      space_group: number, 0 where it is not known.
      correlation: of the pattern with that of the structure that the label is inferred from; NaN where it is not inferred.
    """

    id: str
    two_theta: Float[np.ndarray, " measured"]
    intensity: Float[np.ndarray, " measured"]
    wavelength: float
    space_group: int = 0
    correlation: float = math.nan


@dataclass(frozen=True, eq=False)
class RawSet:
    """Patterns as they were measured.

    Attributes:
      name: of the set.
      measurements: the patterns.
      source: where they are from, and what to cite.
      licence: what may be done with them.
      left_out: a sentence for each pattern of the source that is not here.
    """

    name: str
    measurements: Sequence[Measurement]
    source: str
    licence: str
    left_out: Sequence[str] = ()


@dataclass(frozen=True, eq=False)
class MeasuredSet:
    """Measured patterns on one grid.

    Attributes:
      name: of the set.
      ids: name of each pattern.
      two_theta: of the grid. [deg]
      patterns: highest point 100 on the grid; see `to_grid`.
      space_group: number, 0 where it is not known.
      crystal_system: as in `CRYSTAL_SYSTEMS`, "" where it is not known.
      covered: share of the grid's points that the measurement covers.
      correlation: see `Measurement`.
      source: where the patterns are from, and what to cite.
      licence: what may be done with them.
      left_out: a sentence for each pattern of the source that is not here.
    """

    name: str
    ids: tuple[str, ...]
    two_theta: Float[np.ndarray, " point"]
    patterns: Float[np.ndarray, "pattern point"]
    space_group: Int[np.ndarray, " pattern"]
    crystal_system: tuple[str, ...]
    covered: Float[np.ndarray, " pattern"]
    correlation: Float[np.ndarray, " pattern"]
    source: str
    licence: str
    left_out: tuple[str, ...]


class OffGridError(InputError):
    """A sound measurement that covers too little of a grid; `reason` is the message without its name."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"{name}: {reason}")
        self.reason = reason


def system_of(space_group: int) -> str:
    """Crystal system of a space-group number."""
    return next(system for last, system in CRYSTAL_SYSTEMS if space_group <= last)


# --- Resampling ------------------------------------------------------------------------------------------------------------


def to_grid(
    two_theta: Float[np.ndarray, " measured"],
    intensity: Float[np.ndarray, "*pattern measured"],
    wavelength: float,
    grid_two_theta: Float[np.ndarray, " point"],
    grid_wavelength: float,
    names: Sequence[str] = ("the pattern",),
) -> tuple[Float[np.ndarray, "*pattern point"], float]:
    """Patterns on another grid at another wavelength.

    sin(theta') = sin(theta) lambda'/lambda; points with sin(theta') >= 1 fall out. Where the measured step is finer than the
    grid's, a grid point gets the mean over its bin of the straight lines between measured points, so that no narrow peak falls
    between grid points and areas are kept; elsewhere it gets the line's value. Points that the measurement does not cover get
    the pattern's least value: its background is about that high, and networks are trained on patterns whose background ends
    nowhere. Negative values down to -10 % of the maximum are set to 0.

    Args:
      two_theta: of the measurement, rising. [deg]
      intensity: one pattern, or several measured on these points.
      wavelength: of the measurement; of a doublet the mean, if the grid's is the mean too. [A]
      grid_two_theta: rising. [deg]
      grid_wavelength: what the network was trained at. [A]
      names: of the patterns, for messages.

    Returns:
      The patterns, highest point 100, and the share of grid points that the measurement covers (to half a step).

    Raises:
      InputError: a wavelength that is none; fewer than 100 points, or points that are not finite, not rising or not between 0
        and 180 deg; intensities not finite, all 0 or far below 0.
      OffGridError: fewer than 100 points on the grid's range, or less than half of the grid covered.
    """
    x = np.asarray(two_theta, dtype=np.float64)
    y = np.asarray(intensity, dtype=np.float64)
    rows = y.reshape(-1, y.shape[-1])
    _check_wavelength(wavelength, names[0])
    _check_wavelength(grid_wavelength, "the grid")
    _check_measurement(x, rows, names)
    grid = np.asarray(grid_two_theta, dtype=np.float64)
    x, kept = _at_wavelength(x, wavelength, grid_wavelength)
    rows = np.maximum(rows[:, kept], 0.0)
    is_covered = _covered_points(x, grid, names[0])
    covered = float(is_covered.mean())
    if covered < MIN_COVERED:
        short = f"covers {100 * covered:.1f} % of the grid, less than {100 * MIN_COVERED:g} %; measure a longer range"
        raise OffGridError(names[0], short)
    made = _resampled(x, rows, grid)
    made[:, ~is_covered] = made[:, is_covered].min(axis=1, keepdims=True)
    highest = made.max(axis=1, keepdims=True)
    if not highest.all():
        raise InputError(f"{_name(names, int(np.argmin(highest)))}: is 0 on the whole grid; give a pattern with peaks there")
    return (made / highest * 100.0).reshape(*y.shape[:-1], len(grid)), covered


def _check_wavelength(wavelength: float, name: str) -> None:
    low, high = WAVELENGTHS
    if not low <= wavelength <= high:
        raise InputError(f"{name}: the wavelength {wavelength} is not within {low:g} to {high:g} A; give it in Angstrom")


def _name(names: Sequence[str], row: int) -> str:
    return names[row] if row < len(names) else names[0]


def _check_measurement(x: np.ndarray, rows: np.ndarray, names: Sequence[str]) -> None:
    if x.ndim != 1 or rows.shape[1] != x.size:
        raise InputError(f"{names[0]}: has {x.size} angles and {rows.shape[1]} intensities; give one intensity for each angle")
    if x.size < MIN_POINTS:
        raise InputError(f"{names[0]}: has {x.size} points; at least {MIN_POINTS} are needed, give the whole pattern")
    if not np.isfinite(x).all():
        raise InputError(f"{names[0]}: point {_first(~np.isfinite(x))} has a 2theta that is no finite number; correct it")
    back = np.diff(x) <= 0
    if back.any():
        first = _first(back)
        raise InputError(
            f"{names[0]}: 2theta does not rise from point {first} ({x[first - 1]:g} deg) to the next ({x[first]:g} deg); "
            "sort the points and leave out repeated ones"
        )
    if not (x[0] >= 0 and x[-1] < 180):
        raise InputError(f"{names[0]}: 2theta from {x[0]:g} to {x[-1]:g} deg is not within 0 to 180; give degrees 2theta")
    finite = np.isfinite(rows)
    if not finite.all():
        row = int(np.argmin(finite.all(axis=1)))
        angle = x[np.argmin(finite[row])]
        raise InputError(f"{_name(names, row)}: the intensity at {angle:g} deg is no finite number; correct or remove it")
    least, highest = rows.min(axis=1), rows.max(axis=1)
    if (highest <= 0).any():
        raise InputError(f"{_name(names, int(np.argmin(highest)))}: holds no intensity above 0; give a pattern with peaks")
    low = least < -MAX_NEGATIVE * highest
    if low.any():
        row = int(np.argmax(low))
        raise InputError(
            f"{_name(names, row)}: the intensity {least[row]:g} is below -{100 * MAX_NEGATIVE:g} % of the maximum; "
            "give counts, not a difference"
        )


def _first(flags: np.ndarray) -> int:
    """Number, from 1, of the first point that a flag is set for."""
    return int(np.argmax(flags)) + 1


def _at_wavelength(x: np.ndarray, wavelength: float, other: float) -> tuple[np.ndarray, np.ndarray]:
    """2theta of the same d at another wavelength, and which points can be reached there."""
    sine = np.sin(np.radians(x / 2)) * (other / wavelength)
    kept = sine < 1
    return 2 * np.degrees(np.arcsin(sine[kept])), kept


def _edges(grid: np.ndarray) -> np.ndarray:
    """Ends of the grid points' bins, one more than points."""
    between = (grid[1:] + grid[:-1]) / 2
    return np.concatenate([[2 * grid[0] - between[0]], between, [2 * grid[-1] - between[-1]]])


def _covered_points(x: np.ndarray, grid: np.ndarray, name: str) -> np.ndarray:
    """Grid points whose bins the measurement reaches and that lie in none of its gaps."""
    edges = _edges(grid)
    ends = f"{grid[0]:g} to {grid[-1]:g}"
    points = int(((x >= edges[0]) & (x <= edges[-1])).sum())
    if not points:
        raise OffGridError(name, f"no point falls on the grid's {ends} deg; give another range or check the wavelength")
    if points < MIN_POINTS:
        few = f"only {points} points fall on the grid's {ends} deg, {MIN_POINTS} are needed; give a pattern of that range"
        raise OffGridError(name, few)
    half = np.diff(edges) / 2
    step = np.diff(x)
    after = np.clip(np.searchsorted(x, grid, side="right"), 1, x.size - 1)
    distance = np.minimum(np.abs(grid - x[after - 1]), np.abs(grid - x[after]))
    is_in_gap = (step[after - 1] > max(MAX_GAP, GAP_STEPS * float(np.median(step)))) & (distance > half)
    return (grid >= x[0] - half) & (grid <= x[-1] + half) & ~is_in_gap


def _resampled(x: np.ndarray, rows: np.ndarray, grid: np.ndarray) -> np.ndarray:
    """Bin means where the steps of x are finer than the grid's, values elsewhere, of the lines through the points."""
    step = np.diff(x)
    slope = np.diff(rows, axis=1) / step
    until = np.concatenate([np.zeros((len(rows), 1)), np.cumsum((rows[:, 1:] + rows[:, :-1]) / 2 * step, axis=1)], axis=1)

    def place(at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        inside = np.clip(at, x[0], x[-1])
        i = np.clip(np.searchsorted(x, inside, side="right") - 1, 0, len(step) - 1)
        return i, inside - x[i]

    i, t = place(grid)
    values = rows[:, i] + slope[:, i] * t
    edges = _edges(grid)
    j, u = place(edges)
    area = np.diff(until[:, j] + rows[:, j] * u + slope[:, j] * u**2 / 2, axis=1)
    width = np.diff(np.clip(edges, x[0], x[-1]))
    is_finer = (step[i] < (1 - STEP_TOLERANCE) * np.diff(edges)) & (width > 0)
    return np.where(is_finer, area / np.where(is_finer, width, 1.0), values)


def on_grid(raw: RawSet, grid_two_theta: Float[np.ndarray, " point"], grid_wavelength: float) -> MeasuredSet:
    """A set of measurements on one grid; one that covers too little of it is left out and named.

    Those that follow each other with the same array of angles are resampled together.

    Raises:
      InputError: a measurement that `to_grid` refuses for another reason, or none that is left.
    """
    grid = np.asarray(grid_two_theta, dtype=np.float64)
    missing = list(raw.left_out)
    kept: list[Measurement] = []
    patterns, covered = [], []
    for _, members in itertools.groupby(raw.measurements, key=lambda m: (id(m.two_theta), m.wavelength)):
        group = list(members)
        names, rows = [m.id for m in group], np.stack([m.intensity for m in group])
        try:
            made, share = to_grid(group[0].two_theta, rows, group[0].wavelength, grid, grid_wavelength, names)
        except OffGridError as error:
            missing += [f"{id}: {error.reason}" for id in names]
            continue
        kept += group
        patterns.append(made)
        covered += [share] * len(group)
    if not kept:
        raise InputError(f"{raw.name}: no pattern is left of it; the first reason: {missing[0] if missing else 'it is empty'}")
    numbers = np.array([m.space_group for m in kept], dtype=np.int64)
    return MeasuredSet(
        name=raw.name,
        ids=tuple(m.id for m in kept),
        two_theta=grid,
        patterns=np.concatenate(patterns),
        space_group=numbers,
        crystal_system=tuple(system_of(int(number)) if number else "" for number in numbers),
        covered=np.array(covered),
        correlation=np.array([m.correlation for m in kept]),
        source=raw.source,
        licence=raw.licence,
        left_out=tuple(missing),
    )


# --- Sources ---------------------------------------------------------------------------------------------------------------


def load_rruff908(path: str | os.PathLike[str]) -> RawSet:
    """Patterns of RRUFF with the labels of the project AGI-init/XRDs (Salgado et al. 2023).

    There are no trigonal minerals among them: macro scores are over six crystal systems.

    Args:
      path: rruff908_dev.npz, or its folder.

    Raises:
      InputError: another file, or labels that contradict each other.
    """
    file = _inside(path, "rruff908_dev.npz")
    arrays = _arrays(file, ("source_index", "intensity", "space_group", "crystal_system", "two_theta"))
    _check_lengths(file, arrays, ("source_index", "intensity", "space_group", "crystal_system"))
    if arrays["intensity"].shape[1:] != arrays["two_theta"].shape:
        raise InputError(f"{file}: its patterns do not have a point for each 2theta; check the file")
    two_theta = np.round(arrays["two_theta"].astype(np.float64), 6)  # float32 of hundredths
    ids = [f"rruff908 {index}" for index in arrays["source_index"]]
    numbers = [int(number) for number in arrays["space_group"]]
    for name, number, system in zip(ids, numbers, arrays["crystal_system"], strict=True):
        if not 1 <= number <= 230 or system_of(number) != system:
            raise InputError(f"{file}: {name} is {system} in space group {number}; correct its labels")
    measurements = [
        Measurement(name, two_theta, row, CU_KALPHA, number)
        for name, row, number in zip(ids, arrays["intensity"].astype(np.float64), numbers, strict=True)
    ]
    source = f"RRUFF ({RRUFF_CITATION}), labels of AGI-init/XRDs (Salgado et al. 2023)"
    return RawSet("rruff908", measurements, source, RRUFF_LICENCE)


def load_rruff90_xred(folder: str | os.PathLike[str], min_correlation: float = MIN_CORRELATION) -> RawSet:
    """Patterns of RRUFF in XRED, with space groups inferred by matching against the structures of AMCSD.

    Args:
      folder: with labels_with_sg.csv and a CSV for each pattern.
      min_correlation: least correlation with the matched structure's pattern for a label to be trusted; others are left out.

    Raises:
      InputError: a file that is missing or cannot be read.
    """
    place = pathlib.Path(folder)
    measurements, left_out = [], []
    labels = place / "labels_with_sg.csv"
    for row in _rows(labels, ("id", "cs", "sg", "r")):
        number, correlation = _label(row["sg"], row["r"], f"{labels}: {row['id']}") if row["sg"] else (0, 0.0)
        if not number or correlation < min_correlation:
            known = (
                f"its label's match has r = {row['r']}, below {min_correlation:g}" if row["sg"] else "no structure matches it"
            )
            left_out.append(f"{row['id']}: {known}")
            continue
        # The list of systems counts trigonal minerals as hexagonal.
        if row["cs"] not in (system_of(number), "hexagonal" if system_of(number) == "trigonal" else ""):
            left_out.append(f"{row['id']}: space group {number} is not {row['cs']}")
            continue
        two_theta, intensity = read_xy(place / f"{row['id']}.csv")
        measurements.append(Measurement(row["id"], two_theta, intensity, CU_KALPHA, number, correlation))
    source = f"RRUFF ({RRUFF_CITATION}) by way of WPEM/XRED; space groups inferred by matching with AMCSD"
    return RawSet("rruff90_xred", measurements, source, RRUFF_LICENCE, left_out)


def load_xred(folder: str | os.PathLike[str]) -> RawSet:
    """Single-phase laboratory patterns of XRED: each a folder with a CSV and the CIF its space group is found from.

    Raises:
      InputError: the folder holds no such folders, or a file cannot be read.
    """
    from simxrd_jax.io.cif import read_cif

    measurements = []
    for place in _pattern_folders(folder):
        (pattern,), (structure,) = sorted(place.glob("*.csv")), sorted(place.glob("*.cif"))
        number = XRED_CORRECTED.get(place.name) or read_cif(structure, symprec=LABEL_SYMPREC).space_group_number
        measurements.append(Measurement(f"xred {place.name}", *read_xy(pattern), CU_KALPHA, number))
    if not measurements:
        raise InputError(f"{folder}: holds no folders with one CSV and one CIF each; give the folder of such folders")
    source = "WPEM/XRED; space groups from the CIFs of the Crystallography Open Database beside the patterns"
    return RawSet("xred", measurements, source, "MIT")


def load_shipped(path: str | os.PathLike[str]) -> RawSet:
    """Patterns of a file that `datasets/make_measured.py` writes.

    Raises:
      InputError: another file.
    """
    arrays = _arrays(pathlib.Path(path), SHIPPED_ARRAYS)
    file, ends = pathlib.Path(path), arrays["ptr"]
    _check_lengths(file, arrays, ("id", "wavelength", "space_group", "source"))
    points = arrays["two_theta"].size
    if len(ends) != len(arrays["id"]) + 1 or (np.diff(ends) < 0).any() or not (ends[0] == 0 and ends[-1] == points):
        raise InputError(f"{file}: its ptr does not divide its points among its patterns; check the file")
    _check_lengths(file, arrays, ("two_theta", "intensity"))
    bad = [i for i, number in enumerate(arrays["space_group"]) if not 0 <= number <= 230]
    if bad:
        name, number = arrays["id"][bad[0]], arrays["space_group"][bad[0]]
        raise InputError(f"{file}: {name} has the space group {number}, not 1 to 230; correct its label")
    measurements = [
        Measurement(
            str(arrays["id"][i]),
            arrays["two_theta"][ends[i] : ends[i + 1]],
            arrays["intensity"][ends[i] : ends[i + 1]],
            float(arrays["wavelength"][i]),
            int(arrays["space_group"][i]),
        )
        for i in range(len(arrays["id"]))
    ]
    source = " ".join(dict.fromkeys(str(v) for v in arrays["source"]))
    return RawSet(pathlib.Path(path).stem, measurements, source, str(arrays["licence"]))


def read_measured(
    where: str | os.PathLike[str],
    grid_two_theta: Float[np.ndarray, " point"],
    grid_wavelength: float,
) -> MeasuredSet:
    """Measured patterns on a grid, by the name of a set or by a path whose content decides how it is read.

    Args:
      where: "measured", "rruff908", "rruff90_xred" or "xred", or the path of such a set.
      grid_two_theta: of the network. [deg]
      grid_wavelength: of the network. [A]

    Raises:
      InputError: no set that can be read, or a pattern that `to_grid` refuses.
    """
    path = pathlib.Path(where)
    if not path.exists():
        name = os.fspath(where)
        if name not in PLACES:
            raise InputError(f"{name}: is no file and no set of measured patterns{nearest(name, PLACES)}")
        path = REPOSITORY / PLACES[name]
        if not path.exists():
            raise InputError(
                f"the set {name} is not here ({PLACES[name]} from the repository's root); give the path of its files"
            )
    if path.is_dir() or path.suffix.lower() == ".npz":
        return on_grid(_load(path), grid_two_theta, grid_wavelength)
    raise InputError(f"{path}: is one pattern whose space group is not known, no set; `simxrd predict` names its space group")


def _load(path: pathlib.Path) -> RawSet:
    if path.is_dir():
        if (path / "labels_with_sg.csv").is_file():
            return load_rruff90_xred(path)
        return load_rruff908(path) if (path / "rruff908_dev.npz").is_file() else load_xred(path)
    with _opened(path) as data:
        is_shipped = "ptr" in data
    return load_shipped(path) if is_shipped else load_rruff908(path)


def _check_lengths(file: pathlib.Path, arrays: Mapping[str, np.ndarray], names: Sequence[str]) -> None:
    """Raises InputError unless arrays have an entry for each other's."""
    lengths = {name: len(np.atleast_1d(arrays[name])) for name in names}
    if len(set(lengths.values())) > 1:
        said = ", ".join(f"{name} {length}" for name, length in lengths.items())
        raise InputError(f"{file}: its arrays have different lengths ({said}); check the file")


def _label(space_group: str, correlation: str, place: str) -> tuple[int, float]:
    """A space-group number and a correlation, as a table of labels has them."""
    try:
        number, trust = int(space_group), float(correlation)
    except (TypeError, ValueError):
        raise InputError(f"{place} has the label {space_group!r}, r {correlation!r}: not numbers; correct it") from None
    if not 1 <= number <= 230:
        raise InputError(f"{place} has the space group {number}, not 1 to 230; correct its label")
    return number, trust


def _inside(path: str | os.PathLike[str], name: str) -> pathlib.Path:
    place = pathlib.Path(path)
    return place / name if place.is_dir() else place


def _pattern_folders(folder: str | os.PathLike[str]) -> list[pathlib.Path]:
    """Folders in a folder that hold one CSV and one CIF."""
    try:
        places = sorted(p for p in pathlib.Path(folder).iterdir() if p.is_dir())
    except OSError as error:
        raise InputError(f"{folder}: cannot be read ({error.strerror}); check the path") from None
    return [p for p in places if len(list(p.glob("*.csv"))) == len(list(p.glob("*.cif"))) == 1]


def _opened(path: pathlib.Path) -> np.lib.npyio.NpzFile:
    try:
        data = np.load(path, allow_pickle=False)
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: cannot be read as a set of measured patterns ({error}); check the file") from None
    if not isinstance(data, np.lib.npyio.NpzFile):
        raise InputError(f"{path}: holds one array, not a set of measured patterns; check the file")
    return data


def _arrays(path: pathlib.Path, names: Sequence[str]) -> dict[str, np.ndarray]:
    with _opened(path) as data:
        missing = [name for name in names if name not in data]
        if missing:
            raise InputError(f"{path}: is no set of measured patterns, it lacks {', '.join(missing)}; check the file")
        return {name: data[name] for name in names}


def _rows(path: pathlib.Path, names: Sequence[str]) -> list[dict[str, str]]:
    try:
        with path.open(newline="") as stream:
            rows = list(csv.DictReader(stream))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check the path") from None
    missing = [name for name in names if rows and name not in rows[0]]
    if missing or not rows:
        raise InputError(f"{path}: lacks the columns {', '.join(missing or names)}; check the file")
    return rows
