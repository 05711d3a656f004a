"""Host zone. Patterns and peak tables as text: it is made in memory, written beside its target and then renamed.

A reader therefore never meets half a file, and a run that fails leaves what was there before.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import pathlib
import re
import tempfile
from collections.abc import Mapping, Sequence

import numpy as np

from simxrd_jax.errors import InputError

PEAK_COLUMNS = ("h", "k", "l", "multiplicity", "d_spacing", "two_theta", "f_squared", "intensity")
BESIDE_PREFIX, PART_SUFFIX = ".simxrd-", ".part"  # of a file that is being written
COMMENTS = "#!;/'\""
MIN_DECIMALS, MAX_DECIMALS = 4, 9  # of 2theta; more than 4 only where the grid needs them


@dataclasses.dataclass(frozen=True, eq=False)
class PeakTable:
    """Peaks of one phase in rising 2theta.

    Attributes:
      name: of the phase.
      hkl: Miller indices [peak, 3].
      multiplicity: reflections in each orbit, Friedel mates included.
      d_spacing: [A]
      two_theta: of the first emission line, at the measurement's conditions. [deg]
      f_squared: |F|^2 of a cell, averaged over Friedel mates. [electrons^2]
      intensity: integrated intensity of the first line, the strongest peak of the whole pattern 100.
    """

    name: str
    hkl: np.ndarray
    multiplicity: np.ndarray
    d_spacing: np.ndarray
    two_theta: np.ndarray
    f_squared: np.ndarray
    intensity: np.ndarray


# Two numbers parted by blanks or a semicolon, the first of which has a comma between its digits.
DECIMAL_COMMAS = re.compile(r"[-+]?\d+,\d+(\s+|\s*;\s*)[-+]?\d+(,\d+)?\s*($|[\s;])")


def read_xy(path: str | os.PathLike[str]) -> tuple[np.ndarray, np.ndarray]:
    """2theta and intensity, the first two columns of a text file.

    Columns are parted by blanks, commas, semicolons or tabs. Lines before the numbers are a header; empty ones and those
    that start with '#', '!', ';', '/' or a quote are comments anywhere.

    Args:
      path: of the file.

    Returns:
      2theta [deg] and intensity as they stand in the file, float64; nothing is sorted or left out.

    Raises:
      InputError: the file cannot be read, holds no two columns of numbers, or has another line among them.
    """
    source = pathlib.Path(path)
    try:
        data = source.read_bytes()
    except OSError as error:
        raise InputError(f"{source}: cannot be read ({error.strerror}); check the path") from None
    if b"\0" in data:
        raise InputError(f"{source}: is a binary file; export the pattern as text of two columns, 2theta and intensity")
    rows: list[tuple[float, float]] = []
    for number, line in enumerate(data.decode("utf-8-sig", errors="replace").splitlines(), 1):
        text = line.strip()
        if not text or text[0] in COMMENTS:
            continue
        if DECIMAL_COMMAS.match(text):
            raise InputError(f"{source}: line {number}, {text[:40]!r}, has decimal commas; write decimal points")
        try:
            x, y, *_ = (float(v) for v in re.split(r"\s*[,;]\s*|\s+", text)[:2])
        except ValueError:
            if rows:
                raise InputError(f"{source}: line {number}, {text[:40]!r}, is not two numbers; correct or remove it") from None
            continue
        rows.append((x, y))
    if not rows:
        raise InputError(f"{source}: holds no two columns of numbers; give a text file of 2theta and intensity")
    two_theta, intensity = np.array(rows).T
    return two_theta, intensity


def pattern_text(two_theta: np.ndarray, intensity: np.ndarray, header: Sequence[str] = (), step: float | None = None) -> str:
    """Two columns under a header whose lines start with '#'.

    Args:
      two_theta: [deg]
      intensity: same length.
      header: lines without the '#'.
      step: of a uniform grid; None keeps MAX_DECIMALS decimals. [deg]
    """
    digits = decimals(float(two_theta[0]), step)
    lines = [f"# {line}".rstrip() for line in header]
    lines += [f"{x:.{digits}f} {y:.9g}" for x, y in zip(two_theta.tolist(), intensity.tolist(), strict=True)]
    return "\n".join(lines) + "\n"


def decimals(start: float, step: float | None) -> int:
    """Decimals that write every point of a uniform grid to a ten-thousandth of its step."""
    if step is None:
        return MAX_DECIMALS
    for digits in range(MIN_DECIMALS, MAX_DECIMALS):
        if all(math.isclose(round(v, digits), v, rel_tol=0, abs_tol=1e-12) for v in (start, step)):
            return digits
    return MAX_DECIMALS


def peaks_text(tables: Sequence[PeakTable]) -> str:
    """CSV with the columns PEAK_COLUMNS; a mixture has its phase's name as a last column."""
    is_mixture = len(tables) > 1
    lines = [",".join((*PEAK_COLUMNS, "phase") if is_mixture else PEAK_COLUMNS)]
    for table in tables:
        suffix = ',"{}"'.format(table.name.replace('"', '""')) if is_mixture else ""
        for i in range(len(table.hkl)):
            h, k, l = (int(v) for v in table.hkl[i])
            lines.append(
                f"{h},{k},{l},{int(table.multiplicity[i])},{table.d_spacing[i]:.6f},{table.two_theta[i]:.5f},"
                f"{table.f_squared[i]:.8g},{table.intensity[i]:.6g}{suffix}"
            )
    return "\n".join(lines) + "\n"


def check_target(path: str | os.PathLike[str], inputs: Sequence[str | os.PathLike[str]] = ()) -> pathlib.Path:
    """The path of an output file, once it is sure that it can be written and that no input would be lost.

    Raises:
      InputError: its folder is missing or closed, it is a folder, it cannot be overwritten, or it is one of the inputs.
    """
    target = pathlib.Path(path)
    if not str(path):
        raise InputError("the name of an output file is empty; give a path")
    try:
        if target.is_dir():
            raise InputError(f"{target}: is a folder; give the name of a file to write")
        folder = target.parent
        if not folder.is_dir():
            raise InputError(f"{target}: its folder {folder} does not exist; create it or choose another")
        for other in inputs:
            if target.exists() and os.path.exists(other) and os.path.samefile(target, other):
                raise InputError(f"{target}: is also an input, which would be lost; choose another name")
        if target.exists() and not os.access(target, os.W_OK):
            raise InputError(f"{target}: cannot be overwritten; change its permissions or choose another name")
        if not os.access(folder, os.W_OK | os.X_OK) and not is_stream(target):
            raise InputError(f"{target}: its folder {folder} cannot be written to; choose another")
    except OSError as error:
        raise InputError(f"{target}: cannot be written ({error.strerror}); choose another name") from None
    return target


def is_stream(target: pathlib.Path) -> bool:
    """Whether a path is there and is no regular file (a terminal, a pipe, the null device)."""
    return target.exists() and not target.is_file()


def write_together(contents: Mapping[pathlib.Path, str | bytes]) -> None:
    """Writes several files or none: each beside its target first, all renamed once all are written.

    A target that is a link is written where it points; one that is no regular file is written to directly.

    Raises:
      InputError: a file cannot be written; none of the targets has changed then.
    """
    waiting: list[tuple[pathlib.Path, pathlib.Path]] = []
    target = pathlib.Path()
    try:
        for target, content in contents.items():
            data = content.encode() if isinstance(content, str) else content
            if is_stream(target):
                target.write_bytes(data)
                continue
            final = pathlib.Path(os.path.realpath(target))
            waiting.append((_write_beside(final, data), final))
        for beside, target in waiting:
            os.replace(beside, target)
    except OSError as error:
        raise InputError(f"{target}: cannot be written ({error.strerror}); free space or choose another place") from None
    finally:
        for beside, _ in waiting:
            with contextlib.suppress(OSError):
                beside.unlink(missing_ok=True)


def _write_beside(final: pathlib.Path, data: bytes) -> pathlib.Path:
    """A finished file in the folder of `final`, with the permissions that `final` has or would get."""
    handle, name = tempfile.mkstemp(prefix=BESIDE_PREFIX, suffix=PART_SUFFIX, dir=final.parent)
    beside = pathlib.Path(name)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
        if final.exists():
            mode = final.stat().st_mode & 0o777
        else:
            mask = os.umask(0)
            os.umask(mask)
            mode = 0o666 & ~mask
        beside.chmod(mode)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    return beside
