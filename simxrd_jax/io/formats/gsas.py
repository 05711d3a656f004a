"""Host zone. GSAS's powder data: a title, comments, then banks of fixed columns (Larson & Von Dreele 2004, LAUR 86-748).

A bank starts with `BANK number points records binning c1 c2 c3 c4 type`. Read are constant-wavelength banks: CONS and CONST
(start c1 and step c2 in centidegrees) of the types STD, ESD, FXY and FXYE. Verified on FAP.XRA (STD) and 11BM_NAC.fxye (FXYE);
ESD and FXY on synthesised files. Time-of-flight banks (RALF, SLOG, TIME_MAP, the type ALT) are refused.
"""

from __future__ import annotations

import re

import numpy as np

from simxrd_jax.errors import InputError
from simxrd_jax.io.formats.scan import Scan, poisson_sigma, tabulated

BANK = re.compile(r"^BANK\s+\d+", re.MULTILINE)
FLIGHT_TIME = ("RALF", "SLOG", "TIME_MAP", "COND", "LOG6", "EDS")
WAVELENGTH = re.compile(r"wavelength\s*[=:]\s*([\d.]+)", re.IGNORECASE)
FIELD = 8  # characters of a number of the types STD and ESD
CENTIDEGREE = 0.01


def is_gsas(text: str) -> bool:
    """Whether a text has a bank."""
    return BANK.search(text) is not None


def scans_of_gsas(text: str, source: str) -> list[Scan]:
    """All banks.

    Raises:
      InputError: a bank is of time of flight or an unknown type, or ends before its points do.
    """
    starts = [match.start() for match in BANK.finditer(text)]
    title = text[: starts[0]].partition("\n")[0].strip()
    found = WAVELENGTH.search(text[: starts[0]])
    radiation, notes = tabulated(float(found[1])) if found else (None, ())
    scans = []
    for start, stop in zip(starts, [*starts[1:], len(text)], strict=True):
        head, _, body = text[start:stop].partition("\n")
        two_theta, intensity, sigma = _bank(head.split(), [line for line in body.splitlines() if line[:1] != "#"], source)
        scans.append(Scan(two_theta, intensity, sigma, radiation=radiation, name=title, notes=notes))
    return scans


def _bank(head: list[str], lines: list[str], source: str) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    count, binning, kind = int(head[2]), head[4].upper(), head[-1].upper()
    if kind not in ("STD", "ESD", "FXY", "FXYE", "ALT"):
        kind = "STD"  # the type is optional
    if binning in FLIGHT_TIME or kind == "ALT":
        raise InputError(f"{source}: its bank {head[1]} is of time of flight ({binning}); give a constant-wavelength pattern")
    if binning not in ("CONS", "CONST"):
        raise InputError(f"{source}: its bank {head[1]} has the binning {binning!r}; export it with constant steps (CONST)")
    start, step = CENTIDEGREE * float(head[5]), CENTIDEGREE * float(head[6])
    sigma = None
    if kind in ("FXY", "FXYE"):
        width = 3 if kind == "FXYE" else 2
        table = np.array([line.replace(",", " ").split()[:width] for line in lines if line.strip()][:count], dtype=np.float64)
        two_theta, intensity = CENTIDEGREE * table[:, 0], table[:, 1]
        sigma = table[:, 2] if kind == "FXYE" else None
    else:
        fields = [line[i : i + FIELD] for line in lines for i in range(0, len(line.rstrip()), FIELD)]
        if kind == "ESD":
            pairs = np.array([float(f or 0) for f in map(str.strip, fields[: 2 * count])]).reshape(-1, 2)
            intensity, sigma = pairs.T
        else:
            # Two digits of how many detectors were averaged (none means one), six of the mean.
            detectors = np.array([int(f[:2].strip() or 1) for f in fields[:count]])
            intensity = np.array([float(f[2:].strip() or 0) for f in fields[:count]])
            if np.any(detectors > 1):
                sigma = poisson_sigma(intensity * detectors) / detectors
        two_theta = start + step * np.arange(len(intensity))
    if len(intensity) < count:
        raise InputError(f"{source}: holds {len(intensity)} of the {count} points that its bank announces; copy it again")
    return two_theta, intensity, sigma
