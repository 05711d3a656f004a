"""Host zone. A refinement: starts, stages of least squares, and what came of it."""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from jaxtyping import Bool, Float

from simxrd_jax.diffraction.settings import TRAINING
from simxrd_jax.errors import InputError
from simxrd_jax.refine import statistics
from simxrd_jax.refine.build import Model
from simxrd_jax.refine.doubts import doubts_of_data, doubts_of_fit
from simxrd_jax.refine.intensities import MIN_SEEN, r_bragg, shares_of
from simxrd_jax.refine.least_squares import Solution
from simxrd_jax.refine.model import Parts, intensity_slices
from simxrd_jax.refine.parameters import Transforms
from simxrd_jax.refine.plans import Plan
from simxrd_jax.refine.solver import Ties, values_and_slopes
from simxrd_jax.refine.stages import (
    Staged,
    StageResult,
    faint_phases,
    partitioned,
    places_of,
    run_stages,
    stage_indices,
    tie_arrays,
)
from simxrd_jax.refine.start import linear_starts, scaled_transforms, width_starts
from simxrd_jax.types import PeakList

if TYPE_CHECKING:
    from simxrd_jax.refine.microabsorption import Microabsorption


@dataclasses.dataclass(frozen=True, eq=False)
class Refinement:
    """A finished refinement.

    Attributes:
      model: what was fitted.
      two_theta, observed, weight: to what.
      calculated, background: patterns at the end.
      peaks: pattern of each phase [phase, point].
      peak_lists: positions and intensities of each phase's reflections.
      values: of all parameters.
      sigma: their standard uncertainties, scaled by GOF; NaN of what is not determined, 0 of what was not free.
      at_bound: which values are at a bound.
      free: which were free in the last stage.
      covariance: of the free ones, unscaled.
      agreement: R factors.
      stages: in order.
      weight_fractions: phase -> (share of the mass of the phases with atoms, standard uncertainty); NaN of those without.
      r_bragg: phase -> R_Bragg, see `intensities.r_bragg`.
      converged: of the last stage.
      seconds: of the fit, compilation included.
      warnings: one sentence each.
      microabsorption: fractions after Brindley's correction, where grain diameters were given.
    """

    model: Model
    two_theta: Float[np.ndarray, " point"]
    observed: Float[np.ndarray, " point"]
    weight: Float[np.ndarray, " point"]
    calculated: Float[np.ndarray, " point"]
    background: Float[np.ndarray, " point"]
    peaks: Float[np.ndarray, "phase point"]
    peak_lists: tuple[PeakList, ...]
    values: Float[np.ndarray, " parameter"]
    sigma: Float[np.ndarray, " parameter"]
    at_bound: Bool[np.ndarray, " parameter"]
    free: Any
    covariance: Float[np.ndarray, "free free"]
    agreement: statistics.Agreement
    stages: tuple[StageResult, ...]
    weight_fractions: dict[str, tuple[float, float]]
    r_bragg: dict[str, float]
    converged: bool
    seconds: float
    warnings: tuple[str, ...]
    microabsorption: Microabsorption | None = None

    def __getitem__(self, name: str) -> tuple[float, float]:
        """Value and standard uncertainty of a parameter."""
        i = self.model.table.index(name)
        return float(self.values[i]), float(self.sigma[i])


def refine(
    model: Model,
    observed: Float[np.ndarray, " point"],
    plan: Plan,
    *,
    sigma: Float[np.ndarray, " point"] | None = None,
    excluded: Sequence[tuple[float, float]] = (),
    start: Mapping[str, float] | None = None,
    say: Callable[[str], None] = lambda sentence: None,
) -> Refinement:
    """Fits a model to a measured pattern.

    Args:
      model: from `build.make_model`, on the pattern's points.
      observed: intensities.
      plan: stages.
      sigma: standard uncertainties; by default sqrt(max(y, 1)), that of counts.
      excluded: ranges of 2theta that do not count. [deg]
      start: values of parameters to start from.
      say: takes one sentence a stage.

    Raises:
      InputError: intensities that do not fit the points or are not finite, no point that counts, or nothing to refine.
    """
    sigmas = None if sigma is None else np.asarray(sigma)[None]
    (made,) = refine_many(
        model, np.asarray(observed)[None], plan, sigma=sigmas, excluded=excluded, starts=[start or {}], say=say
    )
    return made


def refine_many(
    model: Model,
    observed: Float[np.ndarray, "pattern point"],
    plan: Plan,
    *,
    sigma: Float[np.ndarray, "pattern point"] | None = None,
    excluded: Sequence[tuple[float, float]] = (),
    starts: Sequence[Mapping[str, float]] | None = None,
    say: Callable[[str], None] = lambda sentence: None,
) -> list[Refinement]:
    """Fits a model to many patterns of the same points in one call; arguments as of `refine`, `starts` one for each pattern.

    Raises:
      InputError: see `refine`.
    """
    began = time.perf_counter()
    starts = starts or [{}] * len(observed)
    with jax.enable_x64(True):
        weighted = [
            _weighted(np.asarray(model.arrays.two_theta), y, None if sigma is None else sigma[i], excluded)
            for i, y in enumerate(observed)
        ]
        frees = [stage_indices(model, stage) for stage in plan.stages]
        if not any(len(free) for free in frees):
            raise InputError("no parameter is free; free at least one, as with --free '@scale'")
        if not len(frees[-1]):
            raise InputError(
                f"the last stage of the plan, {plan.stages[-1].name!r}, frees nothing; free something or leave it out"
            )
        if plan.stages[-1].blur:
            raise InputError(f"the last stage of the plan, {plan.stages[-1].name!r}, is blurred; add one without blur")
        ties = tie_arrays(model)
        freed = {model.table.names[i] for free in frees for i in free}
        values = [
            model.table.inside(width_starts(model, model.table.values(s), y, w, set(s), freed))
            for s, (y, w) in zip(starts, weighted, strict=True)
        ]
        values = linear_starts(model, values, weighted, [set(s) for s in starts], frees)
        values = np.stack([model.table.inside(row) for row in values])
        transforms = jax.tree.map(lambda *rows: np.stack(rows), *(scaled_transforms(model, v) for v in values))
        staged = run_stages(model, plan, frees, weighted, transforms, ties, values, say)
        seconds = time.perf_counter() - began
        last = plan.stages[-1]
        faint = faint_phases(model, staged.solution.parts, last.least_share)
        made = []
        for k, (y, w) in enumerate(weighted):
            own = jax.tree.map(lambda a, k=k: a[k], transforms)
            fit = _finished(model, y, w, own, ties, staged, k, partitioned(model, last), seconds)
            before = doubts_of_data(model, y, w, is_stated=sigma is not None)
            after = [
                f"{name} gives less than {100 * last.least_share:g} % of the peaks' area; its cell, widths and sites were not "
                "refined any further."
                for name in faint[k]
            ]
            made.append(dataclasses.replace(fit, warnings=(*before, *fit.warnings, *after)))
        return made


def _finished(
    model: Model,
    observed: np.ndarray,
    weight: np.ndarray,
    transforms: Transforms,
    ties: Ties,
    staged: Staged,
    k: int,
    shared_out: Bool[np.ndarray, " parameter"],
    seconds: float,
) -> Refinement:
    """What came of the fit of the k-th pattern."""
    solution: Solution = jax.tree.map(lambda a: np.asarray(a[k]), staged.solution)
    free, places = staged.free[k], places_of(staged.indices, k, staged.free[k])
    values, slope = (np.asarray(part) for part in values_and_slopes(staged.u[k], transforms, ties))
    parts: Parts = solution.parts
    peaks, curve = parts.peaks, parts.background
    calculated = peaks.sum(axis=0) + curve
    # For an R factor alone the sum at training accuracy will do, which compiles in a quarter of the time.
    fine = model.settings if shared_out.any() else dataclasses.replace(model.settings, accuracy=TRAINING)
    shown = shares_of(model.layout, model.arrays, fine, values, observed, weight)
    # Intensities that a partition has found are fitted too, those of coincident reflections once.
    counts = shared_out & (np.asarray(ties.matrix).diagonal() != 0)
    for part, place in zip(shown, intensity_slices(model.layout), strict=True):
        counts[place] &= np.asarray(part.seen)[: place.stop - place.start] >= MIN_SEEN
    found = statistics.agreement(observed, calculated, curve, weight, len(free) + int(np.sum(counts)))
    # What is determined is told in the solver's own numbers, whose units are typical changes; then d p/d u on either side.
    own = statistics.uncertainty(solution.normal[np.ix_(places, places)])
    steep = slope[free]
    certainty = statistics.Uncertainty(own.covariance * steep * steep[:, None], own.undetermined | (steep == 0))
    spread = np.asarray(ties.matrix)[:, free]
    variance = np.einsum("pi,ij,pj->p", spread, certainty.covariance, spread)
    errors = found.gof * np.sqrt(np.maximum(variance, 0.0))
    errors[np.any(spread[:, certainty.undetermined] != 0, axis=1)] = np.nan
    errors[shared_out] = np.nan
    origin = np.asarray(transforms.origin)
    r_braggs = {phase.name: r_bragg(part) for phase, part in zip(model.phases, shown, strict=True)}
    warnings = doubts_of_fit(
        model, values, origin, free, certainty, found, list(r_braggs.values()), has_converged=bool(solution.converged)
    )
    return Refinement(
        model=model,
        two_theta=np.asarray(model.arrays.two_theta),
        observed=observed,
        weight=weight,
        calculated=calculated,
        background=curve,
        peaks=peaks,
        peak_lists=parts.peak_lists,
        values=values,
        sigma=errors,
        at_bound=model.table.at_bound(values, origin),
        free=free,
        covariance=certainty.covariance,
        agreement=found,
        stages=staged.results[k],
        weight_fractions=_fractions(model, values, errors, spread, certainty.covariance * found.gof**2, parts),
        r_bragg=r_braggs,
        converged=bool(solution.converged),
        seconds=seconds,
        warnings=(*model.notes, *warnings),
    )


def _weighted(
    two_theta: np.ndarray, observed: np.ndarray, sigma: np.ndarray | None, excluded: Sequence[tuple[float, float]]
) -> tuple[np.ndarray, np.ndarray]:
    observed = np.asarray(observed, dtype=np.float64)
    if observed.shape != two_theta.shape:
        raise InputError(f"{len(observed)} intensities do not fit the model's {len(two_theta)} points; give one for each")
    if not np.all(np.isfinite(observed)):
        raise InputError("the measured intensities hold numbers that are not finite; remove or exclude those points")
    if sigma is None:
        weight = 1.0 / np.maximum(observed, 1.0)
    else:
        sigma = np.asarray(sigma, dtype=np.float64)
        if sigma.shape != two_theta.shape:
            raise InputError(f"{sigma.size} uncertainties do not fit the {len(two_theta)} points; give one for each")
        weight = np.where(np.isfinite(sigma) & (sigma > 0), 1.0 / np.square(np.where(sigma > 0, sigma, 1.0)), 0.0)
    for low, high in excluded:
        if not low < high:
            raise InputError(f"the excluded range from {low:g} to {high:g} deg is empty; give the lower end first")
        weight = np.where((two_theta >= low) & (two_theta <= high), 0.0, weight)
    if not np.any(weight > 0):
        raise InputError("no point is left to refine against; take a wider range or exclude less")
    return observed, weight


def _fractions(
    model: Model, values: np.ndarray, errors: np.ndarray, spread: np.ndarray, covariance: np.ndarray, parts: Parts
) -> dict[str, tuple[float, float]]:
    """Weight fractions with uncertainties propagated from the scale factors; NaN of phases without atoms.

    A phase whose scale the data do not determine has an amount without uncertainty.
    """
    has_atoms = np.array([phase.mode == "rietveld" for phase in model.phases])
    names = [phase.name for phase in itertools.compress(model.phases, has_atoms)]
    unknown = {phase.name: (float("nan"), float("nan")) for phase in model.phases}
    if not names:
        return unknown
    at = [model.table.index(f"phases.{name}.scale") for name in names]
    block = spread[at] @ covariance @ spread[at].T
    share, sigma = statistics.weight_fractions(values[at], block, parts.mass[has_atoms], parts.volume[has_atoms])
    sigma = np.where(np.isnan(errors[at]), np.nan, sigma)
    return unknown | {name: (float(w), float(s)) for name, w, s in zip(names, share, sigma, strict=True)}
