"""Host zone. Text of columns: .xy, .xye, .csv, .txt, .dat, .prn and their like.

The first two columns are 2theta and intensity, unless a line of names above them says otherwise. A third column is sigma where
the suffix is .xye or the names say so; a column named weight gives sigma, and any other is left out with a note.
"""

from __future__ import annotations

import pathlib
import re

import numpy as np

from simxrd_jax.constants import RADIATIONS
from simxrd_jax.errors import InputError
from simxrd_jax.io.formats.scan import Scan, sigma_of_weights, tabulated
from simxrd_jax.io.xy import COMMENTS, read_xy

NAMES = {
    "two_theta": ("2theta", "twotheta", "2th", "tth", "2θ", "angle", "pos", "position", "x"),
    "intensity": ("intensity", "counts", "obs", "yobs", "iobs", "int", "i", "y", "cps", "intensitycps"),
    "sigma": ("sigma", "esd", "error", "err", "su", "std", "dy", "uncertainty", "e"),
    "weight": ("weight", "w", "wt"),
    "d_spacing": ("d", "dspacing", "dvalue"),
    "q": ("q", "qvalue", "s"),
    "energy": ("energy", "kev", "ev", "e(kev)"),
}
WAVELENGTH = re.compile(r"(?:wavelength|lambda)\D{0,12}?(\d\.\d{2,})", re.IGNORECASE)
LABEL = re.compile(r"^\s*(columns?|fields)\s*:", re.IGNORECASE)  # before the names, as in what `simxrd simulate` writes
NAMED = re.compile(r"\W*wavelength: (\w+):")  # likewise
DECIMAL_COMMA = re.compile(r"^\s*-?\d+,\d+\s*(;|\t|\s)\s*-?\d+(,\d+)?\s*(;|\t|\s|$)")


def scans_of_columns(path: pathlib.Path, text: str) -> list[Scan]:
    """The one pattern of a text file.

    Raises:
      InputError: no two columns of numbers, or names of columns that say it is not over 2theta.
    """
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if any(DECIMAL_COMMA.match(line) for line in lines[:50]):
        raise InputError(f"{path}: writes numbers with decimal commas; write them with points")
    two_theta, intensity = read_xy(path)
    table = _table(lines)
    header = [line for line in lines if _row(line) is None]
    names = _names(header, table.shape[1])
    columns = {name: i for i, name in reversed(list(enumerate(names))) if name}
    for name, words in (("d_spacing", "d-spacings"), ("q", "scattering vectors"), ("energy", "energies")):
        if names[:1] == [name] or (name in columns and "two_theta" not in columns):
            raise InputError(
                f"{path}: its columns hold {words}, by their names, not 2theta; convert them to 2theta in degrees"
            )
    notes: list[str] = []
    if columns.get("two_theta", 0) != 0 or columns.get("intensity", 1) != 1:
        two_theta, intensity = table[:, columns.get("two_theta", 0)], table[:, columns.get("intensity", 1)]
    sigma = None
    if "sigma" in columns:
        sigma = table[:, columns["sigma"]]
    elif "weight" in columns:
        sigma, doubts = sigma_of_weights(table[:, columns["weight"]], intensity)
        notes += doubts
    elif not names and table.shape[1] > 2:
        if path.suffix.lower() == ".xye":
            sigma = table[:, 2]
        else:
            notes.append("columns after the second were left out, since nothing says what they are")
    stated = [float(found[1]) for line in header if (found := WAVELENGTH.search(line))]
    radiation, doubts = tabulated(stated[0], stated[1] if len(stated) > 1 else None) if stated else (None, ())
    named = [found[1] for line in header if (found := NAMED.match(line)) and found[1] in RADIATIONS]
    if named:
        radiation, doubts = RADIATIONS[named[0]], ()
    return [Scan(two_theta, intensity, sigma, radiation=radiation, notes=(*doubts, *notes), is_angle_certain=False)]


def _row(line: str) -> list[float] | None:
    """Leading numbers of a line, None where they are fewer than two."""
    row: list[float] = []
    if line[0] not in COMMENTS:
        for word in re.split(r"\s*[,;]\s*|\s+", line):
            try:
                row.append(float(word))
            except ValueError:
                break
    return row if len(row) > 1 else None


def _table(lines: list[str]) -> np.ndarray:
    """All columns that every line has."""
    rows = [row for line in lines if (row := _row(line)) is not None]
    width = min(len(row) for row in rows)
    return np.array([row[:width] for row in rows])


def _names(header: list[str], width: int) -> list[str]:
    """The meaning of each column, '' for others, from the last line that names an intensity; [] where there is none."""
    for line in reversed(header):
        # Units in brackets and what follows a bar are no names.
        text = LABEL.sub("", re.sub(r"[(\[][^)\]]*[)\]]", " ", line.lstrip(COMMENTS + " ").partition("|")[0]))
        text = re.sub(r"\b2[ _-]+(?=th)|\btwo[ _-]+(?=th)", "2", text.lower())
        words = [w for w in re.split(r"[\s,;]+", re.sub("[-_.:*°]", "", text)) if w]
        names = [next((name for name, known in NAMES.items() if word in known), "") for word in words]
        if len(words) >= width and ("intensity" in names or names[0] in ("two_theta", "d_spacing", "q", "energy")):
            return names[:width]
    return []
