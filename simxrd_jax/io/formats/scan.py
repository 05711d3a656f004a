"""Host zone. What every reader of a format returns, and the emission lines that a file names."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from simxrd_jax.constants import RADIATIONS, Radiation
from simxrd_jax.errors import InputError

# Tables of the last fifty years differ by up to 64 ppm (Cu K-alpha1 1.5405 to 1.5406 A); K-alpha1 and K-alpha2 by 1800 ppm or
# more.
LINE_TOLERANCE = 100e-6
# Means of the doublet are quoted as 1.5418, 1.54178 and 1.54184 A: within 60 ppm of the tabulated one.
MEAN_TOLERANCE = 100e-6
# A wavelength that differs by more is replaced with a note; below, it is the same number with fewer digits.
NOTE_TOLERANCE = 0.5e-6
TUBE_RATIO = 0.5  # K-alpha2/K-alpha1 of the tabulated doublets
GRAPHITE_SPACING = 3.355  # d(002) of pyrolytic graphite: 2theta = 26.55 deg at Cu K-alpha1. [A]
EXPORT = "export it as .xy or .xrdml and read that"


@dataclasses.dataclass(frozen=True, eq=False)
class Scan:
    """One scan as a format states it; nothing is checked or sorted yet.

    Attributes:
      two_theta: [deg]
      intensity: counts, or counts per second where `is_rate`.
      sigma: standard uncertainty, or None where sqrt(intensity) is right.
      is_rate: whether intensities are counts per second.
      seconds: counting time of a point, where the file states it. [s]
      radiation: emission lines, or None.
      instrument: see `simxrd_jax.io.patterns.MeasuredPattern`.
      name: of the sample, "" where the file has none.
      notes: one sentence for each doubt.
      is_angle_certain: whether the format says that its abscissa is 2theta; a text of columns does not.
    """

    two_theta: np.ndarray
    intensity: np.ndarray
    sigma: np.ndarray | None = None
    is_rate: bool = False
    seconds: float | None = None
    radiation: Radiation | None = None
    instrument: Mapping[str, float] = dataclasses.field(default_factory=dict)
    name: str = ""
    notes: tuple[str, ...] = ()
    is_angle_certain: bool = True


def poisson_sigma(counts: np.ndarray, factor: np.ndarray | float = 1.0) -> np.ndarray:
    """Uncertainty of `counts` events that stand for `factor` times as many; no event counts as one."""
    return factor * np.sqrt(np.maximum(counts, 1.0))


def sigma_of_weights(weight: np.ndarray, intensity: np.ndarray) -> tuple[np.ndarray, tuple[str, ...]]:
    """Uncertainties from a column of weights.

    A weight is 1/sigma^2, but deposited files also list sigma itself under that name (acta br1340, gw5052): there it is
    sqrt(intensity), which no 1/sigma^2 of counts equals.

    Returns:
      sigma, infinite where the weight is 0, and notes.
    """
    known = (weight > 0) & (intensity > 0)
    if np.any(known) and abs(np.median(weight[known] / np.sqrt(intensity[known])) - 1) < 0.05:
        return np.where(weight > 0, weight, np.inf), ("the column of weights equals sqrt(intensity) and was taken as sigma",)
    sigma = np.full(weight.shape, np.inf)
    sigma[weight > 0] = weight[weight > 0] ** -0.5
    return sigma, ()


def single_line(wavelength: float) -> Radiation:
    """One emission line. [A]"""
    return Radiation(f"{wavelength:.10g} A", (wavelength,), (1.0,))


def tabulated(
    alpha1: float | None,
    alpha2: float | None = None,
    ratio: float | None = None,
    anode: str = "",
    is_alpha1_only: bool = False,
) -> tuple[Radiation | None, tuple[str, ...]]:
    """Emission lines of a tube from what a file says of them.

    The tabulated wavelengths of the anode replace the file's, since cells scale with them and programs ship tables of
    different age; a note says by how much. Wavelengths of no tabulated tube are kept.

    Args:
      alpha1: K-alpha1, or the mean of the doublet, or a synchrotron's wavelength; None where only the anode is known. [A]
      alpha2: K-alpha2; None or 0 means that the file names one line. [A]
      ratio: K-alpha2/K-alpha1; None means a tube's 0.5.
      anode: symbol of the element.
      is_alpha1_only: whether a monochromator lets only K-alpha1 pass.

    Returns:
      The lines, None where nothing is known, and notes.
    """
    element = anode.strip().capitalize()
    if not alpha1:
        name = f"{element}Ka1" if is_alpha1_only else f"{element}Ka"
        return RADIATIONS.get(name), ()
    stated = (alpha1, alpha2) if alpha2 else (alpha1,)
    for name, table in RADIATIONS.items():
        if not name.endswith("Ka") or (element and f"{element}Ka" != name and f"{element}Ka" in RADIATIONS):
            continue
        if _agrees(alpha1, table.wavelength[0], LINE_TOLERANCE):
            is_doublet = bool(alpha2) and (ratio is None or ratio > 0) and not is_alpha1_only
            if is_doublet and not _agrees(stated[-1], table.wavelength[1], LINE_TOLERANCE):
                break
            lines = table if is_doublet else RADIATIONS[f"{name}1"]
            if is_doublet and ratio is not None and ratio != TUBE_RATIO:
                lines = dataclasses.replace(lines, name=f"{name} 1:{ratio:g}", weight=(1.0, ratio))
            notes = replaced(stated[: len(lines.wavelength)], lines)
            if not alpha2 and not is_alpha1_only:
                notes = (*notes, f"{alpha1:.8g} A was taken as one line, since no K-alpha2 is named")
            return lines, notes
        if not alpha2 and _agrees(alpha1, table.mean_wavelength, MEAN_TOLERANCE):
            return table, (f"the wavelength {alpha1:g} A is the mean of a doublet and was taken as {table.name}",)
    if len(stated) == 1 or ratio == 0 or is_alpha1_only:
        return single_line(alpha1), ()
    return Radiation(f"{alpha1:.10g} A", stated, (1.0, TUBE_RATIO if ratio is None else ratio)), ()


def replaced(stated: Sequence[float], lines: Radiation) -> tuple[str, ...]:
    """A note where tabulated wavelengths are not the stated ones."""
    if all(_agrees(a, b, NOTE_TOLERANCE) for a, b in zip(stated, lines.wavelength, strict=True)):
        return ()
    there, here = (" and ".join(f"{w:.8g}" for w in lengths) for lengths in (stated, lines.wavelength))
    changes = ", ".join(f"{(b / a - 1) * 1e6:+.0f}" for a, b in zip(stated, lines.wavelength, strict=True))
    return (f"the file's {there} A was replaced by the tabulated {here} A ({changes} ppm)",)


def graphite_angle(radiation: Radiation | None) -> float | None:
    """2theta of a graphite (002) monochromator, None without a wavelength. [deg]"""
    if radiation is None or radiation.mean_wavelength >= 2 * GRAPHITE_SPACING:
        return None
    return float(np.degrees(2 * np.arcsin(radiation.mean_wavelength / (2 * GRAPHITE_SPACING))))


def numbers(text: str | None) -> np.ndarray:
    """Numbers parted by blanks or commas.

    Raises:
      ValueError: something else among them.
    """
    return np.array((text or "").replace(",", " ").split(), dtype=np.float64)


def not_readable(source: str, what: str) -> InputError:
    """The error for a file of a kind that is not read."""
    return InputError(f"{source}: is {what}, which is not read; {EXPORT}")


def _agrees(value: float, reference: float, tolerance: float) -> bool:
    return abs(value / reference - 1) <= tolerance
