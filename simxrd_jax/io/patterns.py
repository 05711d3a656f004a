"""Host zone. Measured powder patterns of many formats, brought to rising angles and checked.

The content of a file decides how it is read, since suffixes are shared: Bruker, Rigaku, Stoe and GSAS all write .raw.
The readers are our own and small: of the libraries that were looked at none reads several of these formats, installs from a
wheel and has a licence like ours (xrayutilities is GPL, fabio is for images, xylib offers no wheel).

| format | verified on |
|---|---|
| text of columns (.xy, .xye, .csv, .txt, .dat, .prn) | many |
| XRDML 1.6 to 2.3 | Aeris, Empyrean, X'Pert with attenuator |
| RAS, RASX | SmartLab |
| Bruker RAW4.00 | two files |
| Bruker RAW1.01 | synthesised files only |
| BRML | one file, point detector with absorber |
| GSAS BANK: STD, FXYE | FAP.XRA, 11-BM; ESD and FXY synthesised |
| pdCIF | NIST SRM 660c, IUCr deposits, COD |

Not read, with an error that says so: binary files of Rigaku and Stoe, Bruker's RAW 1 and 2, time of flight.
"""

from __future__ import annotations

import dataclasses
import io
import os
import pathlib
import struct
import types
import xml.etree.ElementTree as ET
import zipfile
import zlib
from collections.abc import Mapping, Sequence

import numpy as np

from simxrd_jax.constants import Radiation
from simxrd_jax.errors import InputError
from simxrd_jax.io.formats import bruker, columns, gsas, pdcif, rigaku, xrdml
from simxrd_jax.io.formats.scan import EXPORT, Scan, not_readable, poisson_sigma

MIN_POINTS = 20  # fewer hold no peak on a background
MAX_NEGATIVE = 0.1  # of the maximum, as for networks: less is noise about a subtracted background
MAX_D_SPACING = 30.0  # a falling first column below is no range of angles that anyone scans downwards. [A]
# Mean step of the first quarter over that of the last. Angles give 1, however they are rounded; d-spacings of 10 to 15 deg
# give 1.8, of any longer range more.
MAX_STEP_RATIO = 1.3
SAME_GRID = 0.01  # of a step: scans whose points agree within it are repeats of one range
# What a damaged file makes the readers and the libraries under them raise.
DAMAGE = (
    ValueError, LookupError, EOFError, NotImplementedError, RuntimeError, OverflowError,
    struct.error, zlib.error, ET.ParseError, zipfile.BadZipFile,
)  # fmt: skip


@dataclasses.dataclass(frozen=True, eq=False)
class MeasuredPattern:
    """One measured pattern.

    Attributes:
      two_theta: rising. [deg]
      intensity: counts, or counts per second where the file has those.
      sigma: standard uncertainties where the file states them or what they follow from (weights, counting times of rates,
        attenuators); None means that sqrt(counts) is right.
      radiation: emission lines where the file names them; the tabulated ones of its anode, see `formats.scan.tabulated`.
      instrument: what the file states of `goniometer_radius` [mm], `monochromator_two_theta` [deg], `divergence_slit` [deg],
        `receiving_slit` [mm], `soller_incident`, `soller_diffracted` (full opening) [deg], `beam_mask` [mm],
        `source_length`, `beam_length` (axial) [mm], `detector_length` [deg], `counting_time` (of a point) [s] and
        `temperature` [K].
      name: of the sample, or of the file.
      source: path as it was given.
      notes: one sentence for each doubt.
    """

    two_theta: np.ndarray
    intensity: np.ndarray
    sigma: np.ndarray | None
    radiation: Radiation | None
    instrument: Mapping[str, float]
    name: str
    source: str
    notes: tuple[str, ...] = ()


def read_pattern(path: str | os.PathLike[str], *, index: int | None = None) -> MeasuredPattern:
    """The measured pattern of a file.

    Args:
      path: of the file; its content decides how it is read.
      index: which scan of several, counted from 1. By default scans of one range are added up (rates are averaged).

    Returns:
      The pattern; see `MeasuredPattern`.

    Raises:
      InputError: the file cannot be read, is of an unknown or damaged format, holds several scans of different ranges without
        an index, or is no powder pattern over 2theta.
    """
    source = pathlib.Path(path)
    scans = _scans(source)
    scan = _chosen(scans, index, str(source))
    two_theta, intensity, sigma, notes = _checked(scan, str(source))
    return MeasuredPattern(
        two_theta=two_theta,
        intensity=intensity,
        sigma=sigma,
        radiation=scan.radiation,
        instrument=types.MappingProxyType(dict(scan.instrument)),
        name=scan.name or source.stem,
        source=str(path),
        notes=tuple(dict.fromkeys((*scan.notes, *notes))),
    )


# --- Formats ---------------------------------------------------------------------------------------------------------------


def _scans(source: pathlib.Path) -> list[Scan]:
    """All scans of a file, by its content."""
    if source.is_dir():
        raise InputError(f"{source}: is a folder; give the file of a pattern")
    try:
        data = source.read_bytes()
    except OSError as error:
        raise InputError(f"{source}: cannot be read ({error.strerror}); check the path") from None
    if not data.strip():
        raise InputError(f"{source}: is empty; measure or copy it again")
    try:
        return _parsed(source, data)
    except InputError:
        raise
    except DAMAGE as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{source}: is damaged or of an unknown variety ({reason}); {EXPORT}") from None


def _parsed(source: pathlib.Path, data: bytes) -> list[Scan]:
    name = str(source)
    if data.startswith(b"PK\3\4"):
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = archive.namelist()
            if any(rigaku.PROFILE.search(member) for member in members):
                return rigaku.scans_of_rasx(archive, name)
            if any(bruker.RAW_DATA.search(member) for member in members):
                return bruker.scans_of_brml(archive, name)
        raise not_readable(name, "a zip archive of an unknown kind")
    if b"\0" in data:
        if data.startswith(b"RAW"):
            return bruker.scans_of_raw(data, name)
        raise not_readable(name, "a binary RAW file of Rigaku" if data.startswith(b"FI\0") else "a binary file")
    text = data.decode("utf-8-sig", errors="replace")
    if text.lstrip().startswith("<"):
        root = ET.fromstring(data)
        if not xrdml.is_xrdml(root):
            raise not_readable(name, f"XML of an unknown kind (<{root.tag.rpartition('}')[2]}>)")
        return xrdml.scans_of_xrdml(root, name)
    if text.lstrip().startswith(("*RAS_", "*DSC_")):
        return rigaku.scans_of_ras(text, name)
    if gsas.is_gsas(text):
        return gsas.scans_of_gsas(text, name)
    if pdcif.is_cif(text, source.suffix.lower()):
        return pdcif.scans_of_cif(text, name)
    return columns.scans_of_columns(source, text)


# --- Several scans ---------------------------------------------------------------------------------------------------------


def _chosen(scans: Sequence[Scan], index: int | None, source: str) -> Scan:
    """The scan of an index, or the sum of scans of one range."""
    if index is not None:
        if not 1 <= index <= len(scans):
            raise InputError(f"{source}: has no scan {index}; choose one from 1 to {len(scans)}")
        return scans[index - 1]
    if len(scans) == 1:
        return scans[0]
    first = scans[0]
    if not all(_is_repeat(first, scan) for scan in scans[1:]):
        ranges = ", ".join(f"{s.two_theta[0]:g} to {s.two_theta[-1]:g}" if s.two_theta.size else "none" for s in scans[:6])
        more = ", ..." if len(scans) > 6 else ""
        raise InputError(
            f"{source}: holds {len(scans)} scans of different ranges ({ranges}{more} deg); choose one by its number "
            f"from 1 with --scan (in Python: index)"
        )
    seconds = [scan.seconds or 0.0 for scan in scans]
    is_timed = min(seconds) > 0
    weights = np.ones(len(scans))
    if first.is_rate:
        weights = np.array(seconds if is_timed else weights)
        weights /= weights.sum()
    sigma = None
    if any(scan.sigma is not None for scan in scans):
        variances = [np.maximum(s.intensity, 1.0) if s.sigma is None else s.sigma**2 for s in scans]
        sigma = np.sqrt(weights**2 @ np.array(variances))
    notes = (note for scan in scans for note in scan.notes)
    return dataclasses.replace(
        first,
        intensity=weights @ np.array([scan.intensity for scan in scans]),
        sigma=sigma,
        seconds=sum(seconds) if is_timed else None,
        instrument={**first.instrument, **({"counting_time": sum(seconds)} if is_timed else {})},
        notes=(*notes, f"{len(scans)} scans of one range were {'averaged' if first.is_rate else 'added up'}"),
    )


def _is_repeat(first: Scan, other: Scan) -> bool:
    a, b = first.two_theta, other.two_theta
    if len(a) != len(b) or len(a) < 2 or first.is_rate != other.is_rate:
        return False
    return bool(np.max(np.abs(a - b)) <= SAME_GRID * abs(a[-1] - a[0]) / (len(a) - 1))


# --- Checks ----------------------------------------------------------------------------------------------------------------


def _checked(scan: Scan, source: str) -> tuple[np.ndarray, np.ndarray, np.ndarray | None, tuple[str, ...]]:
    """Rising angles, intensities, sigma and notes.

    Raises:
      InputError: the scan is no powder pattern over 2theta.
    """
    notes: list[str] = []
    two_theta, intensity = (np.asarray(v, dtype=np.float64) for v in (scan.two_theta, scan.intensity))
    sigma = None if scan.sigma is None else np.asarray(scan.sigma, dtype=np.float64)
    if len(two_theta) != len(intensity):
        raise InputError(f"{source}: lists {len(two_theta)} angles but {len(intensity)} intensities; export it again")
    if len(two_theta) < MIN_POINTS:
        raise InputError(
            f"{source}: holds {len(two_theta)} points, but a pattern needs at least {MIN_POINTS}; measure it finer"
        )
    bad = ~(np.isfinite(two_theta) & np.isfinite(intensity))
    if np.any(bad):
        raise InputError(
            f"{source}: {np.count_nonzero(bad)} points are not finite numbers, the first at number {np.argmax(bad) + 1};"
            " correct or remove them"
        )
    _check_angles(two_theta, intensity, scan.is_angle_certain, source)
    if two_theta[0] > two_theta[-1]:
        two_theta, intensity = two_theta[::-1], intensity[::-1]
        sigma = None if sigma is None else sigma[::-1]
    if scan.is_rate and sigma is None:
        if scan.seconds:
            sigma = poisson_sigma(intensity * scan.seconds) / scan.seconds
        else:
            notes.append("intensities are counts per second without a counting time, so uncertainties are relative")
    two_theta, intensity, sigma, found = _usable(two_theta, intensity, sigma, source)
    two_theta, intensity, sigma, merged = _merged(two_theta, intensity, sigma)
    if len(two_theta) < MIN_POINTS:
        raise InputError(
            f"{source}: {len(two_theta)} usable angles are left, but a pattern needs {MIN_POINTS}; measure it finer"
        )
    _check_intensities(intensity, sigma, source)
    return two_theta, intensity, sigma, (*notes, *found, *merged)


def _check_angles(two_theta: np.ndarray, intensity: np.ndarray, is_certain: bool, source: str) -> None:
    """Raises InputError unless angles are in order, either way, and within 0 to 180 deg."""
    steps = np.diff(two_theta)
    is_falling = bool(np.all(steps <= 0))
    if not is_falling and np.any(steps < 0):
        others = np.diff(intensity)
        if np.any(others) and (np.all(others >= 0) or np.all(others <= 0)):
            raise InputError(f"{source}: the columns seem swapped; give 2theta first, then the intensity")
        place = int(np.argmax(steps < 0)) + 2
        raise InputError(
            f"{source}: angles go up and down, first at point {place} ({two_theta[place - 1]:g} deg); give one scan, sorted"
        )
    if not np.any(steps):
        raise InputError(f"{source}: all angles are {two_theta[0]:g} deg; give 2theta first, then the intensity")
    quarter = len(steps) // 4
    is_uneven = np.sum(steps[:quarter]) < MAX_STEP_RATIO * np.sum(steps[-quarter:])  # both negative
    if not is_certain and is_falling and is_uneven and two_theta[0] < MAX_D_SPACING and two_theta[-1] > 0:
        raise InputError(
            f"{source}: the first column falls from {two_theta[0]:g} to {two_theta[-1]:g} in uneven steps, as d-spacings do;"
            " convert it to 2theta in degrees"
        )
    low, high = min(two_theta[0], two_theta[-1]), max(two_theta[0], two_theta[-1])
    if low < 0 or high >= 180:
        guess = " (energies in eV, flight times, channels or hundredths of a degree?)" if high >= 180 else ""
        raise InputError(
            f"{source}: values from {low:g} to {high:g} are no 2theta, which lies in 0 to 180 deg{guess};"
            " convert or cut the first column"
        )


def _usable(
    two_theta: np.ndarray, intensity: np.ndarray, sigma: np.ndarray | None, source: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None, list[str]]:
    """Points with an uncertainty that is finite and positive: others are how files mark excluded ones."""
    if sigma is None:
        return two_theta, intensity, None, []
    good = np.isfinite(sigma) & (sigma > 0)
    if not np.any(good):
        raise InputError(f"{source}: none of its uncertainties is a positive number; correct or remove their column")
    if np.all(good):
        return two_theta, intensity, sigma, []
    count = np.count_nonzero(~good)
    note = f"{count} point{'s were' if count > 1 else ' was'} left out, without a positive uncertainty or weight"
    return two_theta[good], intensity[good], sigma[good], [note]


def _merged(
    two_theta: np.ndarray, intensity: np.ndarray, sigma: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None, list[str]]:
    """Repeated angles as one point, the mean."""
    angles, place, count = np.unique(two_theta, return_inverse=True, return_counts=True)
    if len(angles) == len(two_theta):
        return two_theta, intensity, sigma, []
    intensity = np.bincount(place, intensity) / count
    if sigma is not None:
        sigma = np.sqrt(np.bincount(place, sigma**2)) / count
    repeats = len(two_theta) - len(angles)
    return angles, intensity, sigma, [f"{repeats} repeated angle{'s were' if repeats > 1 else ' was'} averaged"]


def _check_intensities(intensity: np.ndarray, sigma: np.ndarray | None, source: str) -> None:
    low, high = float(intensity.min()), float(intensity.max())
    if low == high:
        raise InputError(f"{source}: all intensities are {low:g}; give a pattern with peaks")
    if high <= 0 or (sigma is None and low < -MAX_NEGATIVE * high):
        raise InputError(
            f"{source}: intensities fall to {low:g} at a maximum of {high:g}, more than noise about a subtracted background;"
            " give the counts, or a third column of uncertainties as .xye"
        )
