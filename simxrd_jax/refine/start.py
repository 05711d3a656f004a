"""Host zone. Where widths start: from the measured pattern's own peaks.

A fit that begins with lines several times as broad as the measured ones finds a small scale and a high background first, and
stays there.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from simxrd_jax.refine.build import Model

PEAKS = 7  # measured peaks at most whose widths are looked at
# Least share of the measured width that grains and strain start with, where the instrument seems to explain it all.
LEAST_SHARE = 0.2


def observed_width(two_theta: Float[np.ndarray, " point"], observed: Float[np.ndarray, " point"]) -> tuple[float, float]:
    """FWHM of the sharper of the highest peaks, and where they stand. [deg]

    Overlaps, doublets and other phases make peaks broader, never sharper: the first quartile is taken.

    Args:
      two_theta: points.
      observed: intensities; the background is taken as their tenth percentile.
    """
    net = observed - np.quantile(observed, 0.1)
    widths: list[float] = []
    places: list[float] = []
    left = net.copy()
    for _ in range(PEAKS):
        top = int(np.argmax(left))
        half = 0.5 * net[top]
        if half <= 0 or left[top] < 0.05 * net.max():
            break
        low = _crossing(two_theta, net, top, half, -1)
        high = _crossing(two_theta, net, top, half, 1)
        if high > low:
            widths.append(high - low)
            places.append(float(two_theta[top]))
        reach = 3.0 * max(high - low, 1e-9)
        left[(two_theta >= two_theta[top] - reach) & (two_theta <= two_theta[top] + reach)] = -np.inf
    if not widths:
        return 0.0, float(two_theta.mean())
    return float(np.quantile(widths, 0.25)), float(np.median(places))


def _crossing(two_theta: np.ndarray, net: np.ndarray, top: int, half: float, step: int) -> float:
    """Where the flank beside a peak falls to half its height."""
    i = top
    while 0 <= i + step < len(net) and net[i + step] > half:
        i += step
    j = min(max(i + step, 0), len(net) - 1)
    if j == i or net[i] == net[j]:
        return float(two_theta[i])
    return float(two_theta[i] + (half - net[i]) / (net[j] - net[i]) * (two_theta[j] - two_theta[i]))


def width_starts(
    model: Model,
    values: Float[np.ndarray, " parameter"],
    observed: Float[np.ndarray, " point"],
    weight: Float[np.ndarray, " point"],
    given: set[str],
    free: set[str],
) -> Float[np.ndarray, " parameter"]:
    """Values with grain sizes, microstrains and the instrument's Gaussian width that fit the measured peaks' width.

    Half of what the instrument leaves goes to grains and half to strain, of every phase alike.

    Args:
      model: of the pattern.
      values: of all parameters.
      observed, weight: the pattern; points of weight 0 are not looked at.
      given: names whose values stay.
      free: names that the plan refines; others stay.
    """
    table = model.table
    counts = weight > 0
    fwhm, place = observed_width(np.asarray(model.arrays.two_theta)[counts], observed[counts])
    if fwhm == 0:
        return values
    started = values.copy()
    width = "instrument.caglioti_w"
    theta = np.radians(place / 2)
    if width in free and width not in given:
        started[table.index(width)] = (0.5 * fwhm) ** 2
    value = lambda field: started[table.index(f"instrument.{field}")]  # noqa: E731
    gauss = value("caglioti_u") * np.tan(theta) ** 2 + value("caglioti_v") * np.tan(theta) + value("caglioti_w")
    instrument = value("lorentz_inverse_cos") / np.cos(theta) + value("lorentz_tan") * np.tan(theta)
    own = np.radians(max(fwhm - instrument - np.sqrt(max(gauss, 0.0)), LEAST_SHARE * fwhm))
    for phase in model.phases:
        for field, start in (
            ("grain_size", 0.94 * model.radiation.mean_wavelength / (0.5 * own * np.cos(theta))),
            ("microstrain", 0.5 * own / (4 * np.tan(theta))),
        ):
            name = f"phases.{phase.name}.{field}"
            if name in free and name not in given and field not in phase.values:
                started[table.index(name)] = start
    return started
