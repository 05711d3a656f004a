"""Host and device. Intensities of single reflections from a measured pattern: Le Bail's partition, Pawley's slack, R_Bragg.

The peaks are linear in the intensities, y_i = sum_k I_k P_ik. A partition gives each reflection its part of the observed
pattern, and needs the sums over the points of c_i I_k P_ik for two or three rows c. Those are one product with the transpose
of the simulator, which reverse mode gives: no matrix P is ever made.

Le Bail's partition (Le Bail, Duroy & Fourquet 1988) of Rietveld (1969) is

    I_k <- I_k  sum_i v_i P_ik (y_obs - y_bkg)_i / sum_i v_i P_ik y_i,      v_i = 1/y_i,

which is Richardson's and Lucy's iteration: its limit are the intensities of greatest likelihood of a pattern that has no
background to be counted with. Here v_i is the weight 1/sigma_i^2 of the point. An isolated reflection still gets its intensity
in one turn and reflections of one place still share equally; but the limit is the least squares of the same sum that the other
parameters are refined with, no turn raises that sum (Lee & Seung 2001, theorem 1), far tails bring little noise in, and net
intensities below zero need no clipping point by point.

Reference: Rietveld (1969), J. Appl. Cryst. 2, 65; Le Bail, Duroy & Fourquet (1988), Mater. Res. Bull. 23, 447; Pawley (1981),
J. Appl. Cryst. 14, 357; Lee & Seung (2001), Adv. Neural Inf. Process. Syst. 13.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Bool, Float

from simxrd_jax.diffraction.settings import Settings
from simxrd_jax.diffraction.simulate import peak_list
from simxrd_jax.diffraction.widths import peak_shape, voigt_fwhm
from simxrd_jax.numerics import DEGREE
from simxrd_jax.refine.model import (
    Layout,
    ModelArrays,
    background_of,
    build_instrument,
    build_phases,
    intensity_slices,
    peaks_at_points,
)
from simxrd_jax.types import Array

# Reflections of which the points that count see less than this share have no intensity of their own.
MIN_SEEN = 0.3
# By how much a turn changes an intensity at most, and the least one, as a share of the phase's mean: none is lost for good
# where the cell is still off.
MAX_RATIO, LEAST_INTENSITY = 10.0, 1e-4
# Neighbours closer than this get Pawley's slack constraint. [FWHM]
CLOSE = 0.5
# Reflections on either side over whose mean |F|^2 the slack is taken.
WILSON_REACH = 10


@struct.dataclass
class Shares:
    """What the points that count see of a phase's reflections.

    Attributes:
      area: integrated intensity, all emission lines together.
      ratio: by which a partition multiplies it; 1 of a reflection that too few points see.
      seen: share of it that lies on points that count.
      two_theta: place at the first emission line. [deg]
      fwhm: there. [deg]
    """

    area: Float[Array, " hkl"]
    ratio: Float[Array, " hkl"]
    seen: Float[Array, " hkl"]
    two_theta: Float[Array, " hkl"]
    fwhm: Float[Array, " hkl"]


def shares(
    layout: Layout,
    arrays: ModelArrays,
    settings: Settings,
    values: Float[Array, " parameter"],
    observed: Float[Array, " point"],
    weight: Float[Array, " point"],
) -> tuple[Shares, ...]:
    """The partition of a pattern among the reflections of each phase.

    Args:
      layout, arrays, settings, values: the model.
      observed, weight: the pattern; weight 0 leaves a point out.
    """
    instrument = build_instrument(layout, arrays, values)
    phases = build_phases(layout, arrays, values)
    lists = [peak_list(p.crystal, p.reflections, p.specimen, instrument, p.f_squared) for p in phases]
    curve = background_of(layout, arrays, values)

    def total(strengths: tuple[Float[Array, " _"], ...]) -> Float[Array, " point"]:
        scaled = [dataclasses.replace(list_, intensity=list_.intensity * s) for list_, s in zip(lists, strengths, strict=True)]
        return jnp.sum(peaks_at_points(scaled, phases, instrument, arrays, settings), axis=0)

    peaks, pull = jax.vjp(total, tuple(jnp.ones(phase.reflections.hkl.shape[0], values.dtype) for phase in phases))
    width = jnp.gradient(jnp.asarray(arrays.two_theta, values.dtype))
    rows = jnp.stack([weight * (observed - curve), weight * peaks, (weight > 0) * width])
    (sums,) = jax.vmap(pull)(rows)
    found = []
    for phase, listed, (above, below, inside) in zip(phases, lists, sums, strict=True):
        area = jnp.sum(listed.intensity, axis=0)
        seen = jnp.where(area != 0, inside / jnp.where(area != 0, area, 1.0), 0.0)
        is_seen = (seen >= MIN_SEEN) & (below != 0)
        shape = peak_shape(jnp.sin(0.5 * DEGREE * listed.bragg_two_theta[0]), instrument, phase.specimen)
        found.append(
            Shares(
                area=area,
                ratio=jnp.where(is_seen, above / jnp.where(is_seen, below, 1.0), 1.0),
                seen=seen,
                two_theta=listed.two_theta[0],
                fwhm=voigt_fwhm(shape),
            )
        )
    return tuple(found)


shares_of = jax.jit(shares, static_argnames=("layout", "settings"))


def partition(
    layout: Layout,
    arrays: ModelArrays,
    settings: Settings,
    values: Float[Array, " parameter"],
    observed: Float[Array, " point"],
    weight: Float[Array, " point"],
    held: Bool[Array, " parameter"],
) -> Float[Array, " parameter"]:
    """The values after one turn of Le Bail's partition.

    Args:
      layout, arrays, settings, values: the model.
      observed, weight: the pattern; reflections that only points of weight 0 see keep their intensity.
      held: intensities that stay.
    """
    found = shares(layout, arrays, settings, values, observed, weight)
    for part, place in zip(found, intensity_slices(layout), strict=True):
        if place.start == place.stop:
            continue
        old = values[place]
        least = LEAST_INTENSITY * jnp.mean(jnp.abs(old))
        new = jnp.maximum(jnp.maximum(old, least) * jnp.clip(part.ratio, 1.0 / MAX_RATIO, MAX_RATIO), least)
        values = values.at[place].set(jnp.where(held[place] | (part.seen < MIN_SEEN), old, new))
    return values


def r_bragg(found: Shares) -> float:
    """R_Bragg = sum |I_obs - I_calc| / sum I_obs over the reflections that the pattern shows; NaN where it shows none.

    I_obs is the intensity after one turn of the partition. With Rietveld's v = 1/y the noise of all points between two lines
    would go to them: a right model of the silicon of tests/refine/test_series.py would have 22 %, and has 4 %.

    Args:
      found: of the phase, at the end of a fit.

    Reference: Young (1993), The Rietveld Method, table 1.3.
    """
    is_seen = np.asarray(found.seen) >= MIN_SEEN
    calculated = np.asarray(found.area)[is_seen]
    observed = calculated * np.asarray(found.ratio)[is_seen]
    total = float(np.sum(np.abs(observed)))
    return float(np.sum(np.abs(observed - calculated)) / total) if total > 0 else float("nan")


def slack(
    found: Shares, f_squared: Float[np.ndarray, " hkl"], is_free: Bool[np.ndarray, " hkl"]
) -> tuple[Float[np.ndarray, "row hkl"], Float[np.ndarray, " row"], Float[np.ndarray, " row"]]:
    """Pawley's slack constraints: what the data cannot tell of close reflections.

    Neighbours within `CLOSE` widths are taken to have one |F|^2, give or take sqrt(2) times the mean of those around them:
    the standard deviation of the difference of two |F|^2 that are distributed as Wilson (1949) has them. A sum of two that
    the data tell stays as it is, a difference that they do not tell gets that uncertainty. A free reflection that is not seen
    is held to its value with the same uncertainty.

    Args:
      found: places and widths.
      f_squared: at the start.
      is_free: which are refined, of coincident ones the first.

    Returns:
      Matrix, targets and standard deviations of one row for each free reflection; a row that says nothing is zero.

    Reference: Pawley (1981), J. Appl. Cryst. 14, 357; Wilson (1949), Acta Cryst. 2, 318.
    """
    free = np.flatnonzero(is_free)
    free = free[np.argsort(np.asarray(found.two_theta)[free], kind="stable")]
    is_seen = np.asarray(found.seen) >= MIN_SEEN
    seen = free[is_seen[free]]
    around = np.abs(f_squared[seen])
    matrix, target, sigma = np.zeros((len(free), len(f_squared))), np.zeros(len(free)), np.ones(len(free))
    size = float(np.mean(around)) if len(seen) else 1.0
    for row, k in enumerate(free):
        if not is_seen[k]:
            matrix[row, k], target[row], sigma[row] = 1.0, f_squared[k], size
    for i in range(len(seen) - 1):
        a, b = seen[i], seen[i + 1]
        if found.two_theta[b] - found.two_theta[a] < CLOSE * found.fwhm[a]:
            row = int(np.flatnonzero(free == a)[0])
            matrix[row, a], matrix[row, b] = 1.0, -1.0
            near = around[max(i - WILSON_REACH, 0) : i + WILSON_REACH + 2]
            sigma[row] = np.sqrt(2.0) * max(float(np.mean(near)), 1e-3 * size)
    return matrix, target, sigma
