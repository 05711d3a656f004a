"""Host zone. Where widths, scales and the background start: from the measured pattern itself.

A fit that begins with lines several times as broad as the measured ones finds a small scale and a high background first, and
stays there.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence

import jax
import numpy as np
import scipy.optimize
from jaxtyping import Float

from simxrd_jax.refine.build import Model
from simxrd_jax.refine.model import intensity_slices
from simxrd_jax.refine.parameters import Transforms
from simxrd_jax.refine.solver import Data, internal_each, solve_each
from simxrd_jax.refine.stages import padded, restraint_arrays, tie_arrays

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


def scaled_transforms(model: Model, values: np.ndarray) -> Transforms:
    """Transforms whose scale factors have the size of their start values, and intensities that of their phase's mean."""
    transforms = model.table.transforms(values)
    is_scale = np.array([p.group == "scale" for p in model.table.parameters])
    scale = np.where(is_scale, values, transforms.scale)
    is_background = np.array([p.group == "background" for p in model.table.parameters])
    scale[is_background] = np.max(np.abs(values[is_background]), initial=0.0) or 1.0
    for place in intensity_slices(model.layout):
        if place.start < place.stop:
            scale[place] = np.mean(np.abs(values[place]))
    return dataclasses.replace(transforms, scale=scale)


def linear_starts(
    model: Model,
    values: Sequence[np.ndarray],
    weighted: Sequence[tuple[np.ndarray, np.ndarray]],
    given: Sequence[set[str]],
    frees: Sequence[np.ndarray],
) -> Float[np.ndarray, "pattern parameter"]:
    """Scale factors and Chebyshev coefficients that fit best with all else as it is; those that are given stay.

    Intensities that are parameters start equal, so that their phase has a scale factor too.

    Args:
      model: of all patterns.
      values: of each pattern.
      weighted: observed intensities and weights of each.
      given: names of the parameters whose values are not to be changed.
      frees: of the plan's stages: the peaks come from the same program as the fit.
    """
    table = model.table
    # What scales each phase: one parameter, or all its intensities.
    scales = [
        [table.index(f"phases.{phase.name}.scale")] if place.start == place.stop else list(range(place.start, place.stop))
        for phase, place in zip(model.phases, intensity_slices(model.layout), strict=True)
    ]
    every = list(itertools.chain(*scales))
    terms = [i for i, name in enumerate(table.names) if name.startswith("background.chebyshev.")]
    ones = np.stack(values)
    unit = np.array([table.parameters[i].inside(1.0) for i in every])
    ones[:, every] = unit
    ones[:, terms] = 0.0
    transforms = jax.tree.map(lambda *rows: np.stack(rows), *(table.transforms(row) for row in ones))
    data = Data(np.stack([y for y, _ in weighted]), np.stack([w for _, w in weighted]), np.zeros(len(ones)))
    shared = (
        model.layout,
        model.settings,
        model.arrays,
        transforms,
        tie_arrays(model),
        restraint_arrays(model, len(ones)),
        data,
    )
    none = padded(model, frees, [np.zeros(0, dtype=np.int32)] * len(ones))
    _, solution = solve_each(*shared, internal_each(ones, transforms), none, 1, 1.0)
    two_theta = np.asarray(model.arrays.two_theta)
    x = (2 * two_theta - two_theta[0] - two_theta[-1]) / (two_theta[-1] - two_theta[0])
    basis = np.polynomial.chebyshev.chebvander(x, len(terms) - 1)
    started = np.stack(values)
    for i, (observed, weight) in enumerate(weighted):
        if any(table.names[k] in given[i] for k in (*every, *terms)):
            continue
        peaks = np.asarray(solution.parts.peaks[i]) / unit[[every.index(place[0]) for place in scales], None]
        columns = np.concatenate([peaks.T, basis], axis=1) * np.sqrt(weight)[:, None]
        length = np.maximum(np.linalg.norm(columns, axis=0), 1e-300)
        lower = np.concatenate([np.zeros(len(scales)), np.full(len(terms), -np.inf)])
        fitted = scipy.optimize.lsq_linear(columns / length, observed * np.sqrt(weight), (lower, np.inf)).x / length
        # A phase that seems absent starts with a hundredth of what would explain all: a scale of 0 would stay there.
        whole = observed.max() / np.maximum(peaks.max(axis=1), 1e-300)
        for place, share, least in zip(scales, fitted, 1e-2 * whole, strict=False):
            started[i, place] = max(share, least)
        started[i, terms] = fitted[len(scales) :]
    return started
