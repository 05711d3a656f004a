"""Host and device. A refinement: stages of least squares on one compiled program, and what came of it.

Which parameters are free is an array of indices, so that all stages of a plan, and all fits of the same shape, share one
compilation. Everything is float64.
"""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize
from flax import struct
from jaxtyping import Float, Int

from simxrd_jax.diffraction.settings import Settings
from simxrd_jax.errors import InputError
from simxrd_jax.numerics import FWHM_PER_SIGMA
from simxrd_jax.refine import statistics
from simxrd_jax.refine.build import Model
from simxrd_jax.refine.least_squares import Solution, jacobian_of, minimise
from simxrd_jax.refine.model import Layout, ModelArrays, Parts, background_of, parts_of
from simxrd_jax.refine.parameters import Transforms, to_internal, to_values
from simxrd_jax.refine.plans import Plan, Stage
from simxrd_jax.refine.start import width_starts
from simxrd_jax.types import Array, PeakList

# A stage that others follow ends where a step promises less than this share of the sum of squares.
STAGE_DROP = 3e-3


@struct.dataclass
class Data:
    """A measured pattern on the model's points.

    Attributes:
      observed: intensities.
      weight: 1/sigma^2; 0 leaves a point out.
      blur: FWHM of a Gaussian with which `observed` was folded, and with which the model is. [deg]
    """

    observed: Float[Array, " point"]
    weight: Float[Array, " point"]
    blur: Float[Array, ""]


@struct.dataclass
class Ties:
    """Linear relations between values, p = matrix v + offset, v the values that stand alone."""

    matrix: Float[Array, "parameter parameter"]
    offset: Float[Array, " parameter"]


@struct.dataclass
class Restraints:
    """Values that are known: rows of (matrix p - target)/sigma are residuals too."""

    matrix: Float[Array, "restraint parameter"]
    target: Float[Array, " restraint"]
    sigma: Float[Array, " restraint"]


@struct.dataclass
class Free:
    """Indices of the parameters that move, filled up with the number of parameters, which stands for none.

    Attributes:
      peaks: those on which peaks depend.
      background: those on which the background alone depends, whose derivatives cost next to nothing.
    """

    peaks: Int[Array, " peak_free"]
    background: Int[Array, " background_free"]


def values_of(u: Float[Array, " parameter"], transforms: Transforms, ties: Ties) -> Float[Array, " parameter"]:
    """Values of the solver's numbers, ties included."""
    return ties.matrix @ to_values(u, transforms) + ties.offset


def solve(
    layout: Layout,
    settings: Settings,
    arrays: ModelArrays,
    transforms: Transforms,
    ties: Ties,
    restraints: Restraints,
    data: Data,
    u: Float[Array, " parameter"],
    free: Free,
    max_iterations: Int[Array, ""] | int,
    least_drop: Float[Array, ""] | float,
) -> tuple[Float[Array, " parameter"], Solution]:
    """One stage: the solver's numbers after it, and the solution in those that are free.

    Args:
      layout, settings, arrays, transforms, ties, restraints: the model.
      data: the pattern.
      u: the solver's numbers of all parameters.
      free: those that move; the solution's numbers stand in its order.
      max_iterations, least_drop: see `minimise`.

    Returns:
      The numbers, and the solution with `Parts` of the pattern.
    """
    of_peaks, of_background = (jax.nn.one_hot(index, u.shape[0], dtype=u.dtype) for index in (free.peaks, free.background))
    directions = jnp.concatenate([of_peaks, of_background])
    root = jnp.sqrt(data.weight)
    width = layout.instrument.index("caglioti_w")

    def known(values: Float[Array, " parameter"]) -> Float[Array, " restraint"]:
        return (restraints.matrix @ values - restraints.target) / restraints.sigma

    def weighted(every: Float[Array, " parameter"]) -> tuple[Float[Array, " residual"], Parts]:
        values = values_of(every, transforms, ties)
        parts = parts_of(layout, arrays, settings, values.at[width].add(jnp.square(data.blur)))
        calculated = jnp.sum(parts.peaks, axis=0) + parts.background
        return jnp.concatenate([root * (calculated - data.observed), known(values)]), parts

    def of_curve(every: Float[Array, " parameter"]) -> tuple[Float[Array, " residual"], None]:
        values = values_of(every, transforms, ties)
        return jnp.concatenate([root * background_of(layout, arrays, values), known(values)]), None

    def residuals(x: Float[Array, " free"]) -> tuple[Float[Array, " residual"], Float[Array, "residual free"], Parts]:
        every = u + directions.T @ x
        r, columns, parts = jacobian_of(weighted, every, of_peaks)
        _, more, _ = jacobian_of(of_curve, every, of_background)
        return r, jnp.concatenate([columns, more], axis=1), parts

    start = jnp.zeros(directions.shape[0], u.dtype)
    solution = minimise(residuals, start, max_iterations=max_iterations, least_drop=least_drop)
    return u + directions.T @ solution.x, solution


@partial(jax.jit, static_argnames=("layout", "settings"))
def solve_each(
    layout: Layout,
    settings: Settings,
    arrays: ModelArrays,
    transforms: Transforms,
    ties: Ties,
    restraints: Restraints,
    data: Data,
    u: Float[Array, "pattern parameter"],
    free: Free,
    max_iterations: Int[Array, ""] | int,
    least_drop: Float[Array, ""] | float,
) -> tuple[Float[Array, "pattern parameter"], Solution]:
    """`solve` for patterns at once; `transforms`, `data` and `u` have an axis of patterns."""

    def one(transforms: Transforms, data: Data, u: Float[Array, " parameter"]) -> tuple[Float[Array, " parameter"], Solution]:
        shared = (transforms, ties, restraints, data, u, free, max_iterations, least_drop)
        return solve(layout, settings, arrays, *shared)

    return jax.vmap(one)(transforms, data, u)


@dataclasses.dataclass(frozen=True, eq=False)
class StageResult:
    """A stage of a fit: its name, how many parameters were free, Rwp at its end, turns taken, whether it converged."""

    name: str
    n_free: int
    rwp: float
    iterations: int
    converged: bool


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
      free: which were free in the last stage.
      covariance: of the free ones, unscaled.
      agreement: R factors.
      stages: in order.
      weight_fractions: phase -> (share of the crystalline mass, standard uncertainty).
      converged: of the last stage.
      seconds: of the fit, compilation included.
      warnings: one sentence each.
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
    free: Any
    covariance: Float[np.ndarray, "free free"]
    agreement: statistics.Agreement
    stages: tuple[StageResult, ...]
    weight_fractions: dict[str, tuple[float, float]]
    converged: bool
    seconds: float
    warnings: tuple[str, ...]

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
        ties = tie_arrays(model)
        freed = {model.table.names[i] for free in frees for i in free}
        values = [
            width_starts(model, model.table.values(s), y, w, set(s), freed) for s, (y, w) in zip(starts, weighted, strict=True)
        ]
        values = linear_starts(model, values, weighted, [set(s) for s in starts], frees)
        transforms = jax.tree.map(lambda *rows: np.stack(rows), *(scaled_transforms(model, v) for v in values))
        u, solution, stages = _run(model, plan, frees, weighted, transforms, ties, values, say)
        places = _places(_padded(model, frees, frees[-1]), frees[-1])
        seconds = time.perf_counter() - began
        return [
            _finished(
                model,
                *weighted[i],
                np.asarray(u[i]),
                jax.tree.map(lambda a, i=i: a[i], transforms),
                ties,
                jax.tree.map(lambda a, i=i: np.asarray(a[i]), solution),
                frees[-1],
                places,
                stages[i],
                seconds,
            )
            for i in range(len(observed))
        ]


def _run(
    model: Model,
    plan: Plan,
    frees: Sequence[np.ndarray],
    weighted: Sequence[tuple[np.ndarray, np.ndarray]],
    transforms: Transforms,
    ties: Ties,
    values: Float[np.ndarray, "pattern parameter"],
    say: Callable[[str], None],
) -> tuple[Float[np.ndarray, "pattern parameter"], Solution, list[tuple[StageResult, ...]]]:
    """The stages of a plan on all patterns."""
    two_theta = np.asarray(model.arrays.two_theta)
    count, size = values.shape
    weight = np.stack([w for _, w in weighted])
    u = np.asarray(_internal(values, transforms))
    results: list[list[StageResult]] = [[] for _ in range(count)]
    solution: Any = None
    for i, (stage, free) in enumerate(zip(plan.stages, frees, strict=True)):
        smooth = np.stack([blurred(two_theta, y, w, stage.blur) for y, w in weighted])
        data = Data(smooth, weight, np.full(count, stage.blur))
        least_drop = 1e-13 if i == len(plan.stages) - 1 else STAGE_DROP
        shared = (model.layout, model.settings, model.arrays, transforms, ties, _no_restraints(size), data)
        u, solution = solve_each(*shared, _inside(u, free), _padded(model, frees, free), stage.max_iterations, least_drop)
        u, solution = np.asarray(u), jax.tree.map(np.asarray, solution)
        rwp = np.sqrt(solution.cost / np.sum(weight * smooth**2, axis=1))
        for k in range(count):
            results[k].append(
                StageResult(stage.name, len(free), float(rwp[k]), int(solution.iterations[k]), bool(solution.converged[k]))
            )
        turns = f"{int(np.max(solution.iterations))} iterations"
        said = f"Rwp {100 * float(np.median(rwp)):.2f} %" + (f" (median of {count})" if count > 1 else "")
        say(f"{stage.name}: {len(free)} free, {said}, {turns}")
    return u, solution, [tuple(r) for r in results]


def _finished(
    model: Model,
    observed: np.ndarray,
    weight: np.ndarray,
    u: np.ndarray,
    transforms: Transforms,
    ties: Ties,
    solution: Solution,
    free: np.ndarray,
    places: np.ndarray,
    stages: tuple[StageResult, ...],
    seconds: float,
) -> Refinement:
    """What came of the fit of one pattern."""
    values, slope = (np.asarray(part) for part in _values_and_slopes(u, transforms, ties))
    parts: Parts = solution.parts
    peaks, curve = parts.peaks, parts.background
    calculated = peaks.sum(axis=0) + curve
    found = statistics.agreement(observed, calculated, curve, weight, len(free))
    # From the solver's numbers to values: d p/d u on either side.
    safe = np.where(slope[free] != 0, slope[free], 1.0)
    certainty = statistics.uncertainty(solution.normal[np.ix_(places, places)] / safe / safe[:, None])
    spread = np.asarray(ties.matrix)[:, free]
    variance = np.einsum("pi,ij,pj->p", spread, certainty.covariance, spread)
    errors = found.gof * np.sqrt(np.maximum(variance, 0.0))
    errors[free[certainty.undetermined]] = np.nan
    names = [model.table.names[i] for i in free]
    warnings = _warnings(model, values, free, certainty, names, bool(solution.converged), found)
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
        free=free,
        covariance=certainty.covariance,
        agreement=found,
        stages=stages,
        weight_fractions=_fractions(model, values, free, certainty.covariance * found.gof**2, parts),
        converged=bool(solution.converged),
        seconds=seconds,
        warnings=(*model.notes, *warnings),
    )


@jax.jit
def _internal(values: Float[Array, "pattern parameter"], transforms: Transforms) -> Float[Array, "pattern parameter"]:
    return jax.vmap(to_internal)(values, transforms)


@jax.jit
def _values_and_slopes(u: Float[Array, " parameter"], transforms: Transforms, ties: Ties) -> tuple[Array, Array]:
    """Values, and the derivative of each by its own number, ties apart."""
    _, slope = jax.jvp(lambda x: to_values(x, transforms), (u,), (jnp.ones_like(u),))
    return values_of(u, transforms, ties), slope


def _no_restraints(size: int) -> Restraints:
    return Restraints(np.zeros((0, size)), np.zeros(0), np.ones(0))


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
        weight = np.where(np.isfinite(sigma) & (sigma > 0), 1.0 / np.square(np.where(sigma > 0, sigma, 1.0)), 0.0)
    for low, high in excluded:
        weight = np.where((two_theta >= low) & (two_theta <= high), 0.0, weight)
    if not np.any(weight > 0):
        raise InputError("no point is left to refine against; take a wider range or exclude less")
    return observed, weight


def stage_indices(model: Model, stage: Stage) -> np.ndarray:
    """Indices of the parameters that a stage frees; tied ones follow and are left out."""
    chosen = model.table.matching(stage.free) if stage.free else np.zeros(len(model.table), dtype=bool)
    if stage.fixed:
        chosen &= ~model.table.matching(stage.fixed)
    for tie in model.ties:
        chosen[model.table.index(tie.name)] = False
    return np.flatnonzero(chosen).astype(np.int32)


def _is_background(model: Model) -> np.ndarray:
    """Of which parameters the background alone depends, ties included."""
    found = np.array([name.startswith("background.") for name in model.table.names])
    for tie in model.ties:
        if not found[model.table.index(tie.name)]:
            found[[model.table.index(other) for other in tie.factors]] = False
    return found


def _padded(model: Model, frees: Sequence[np.ndarray], free: np.ndarray) -> Free:
    """The free parameters of a stage, filled up to what the largest stage of a plan needs."""
    is_background = _is_background(model)
    padded = []
    for kind in (False, True):
        mine = free[is_background[free] == kind]
        capacity = max(1, *(int(np.sum(is_background[other] == kind)) for other in frees))
        padded.append(np.concatenate([mine, np.full(capacity - len(mine), len(model.table))]).astype(np.int32))
    return Free(*padded)


def _places(free: Free, wanted: np.ndarray) -> np.ndarray:
    """Where the wanted parameters stand among the solution's numbers."""
    order = {int(index): place for place, index in enumerate([*free.peaks, *free.background])}
    return np.array([order[int(index)] for index in wanted], dtype=int)


def tie_arrays(model: Model) -> Ties:
    """The model's ties as arrays."""
    matrix, offset = np.eye(len(model.table)), np.zeros(len(model.table))
    for tie in model.ties:
        i = model.table.index(tie.name)
        matrix[i], offset[i] = 0.0, tie.offset
        for other, factor in tie.factors.items():
            matrix[i, model.table.index(other)] = factor
    return Ties(matrix, offset)


def scaled_transforms(model: Model, values: np.ndarray) -> Transforms:
    """Transforms whose scale factors have the size of their start values."""
    transforms = model.table.transforms(values)
    is_scale = np.array([p.group == "scale" for p in model.table.parameters])
    return dataclasses.replace(transforms, scale=np.where(is_scale, values, transforms.scale))


def linear_starts(
    model: Model,
    values: Sequence[np.ndarray],
    weighted: Sequence[tuple[np.ndarray, np.ndarray]],
    given: Sequence[set[str]],
    frees: Sequence[np.ndarray],
) -> Float[np.ndarray, "pattern parameter"]:
    """Scale factors and Chebyshev coefficients that fit best with all else as it is; those that are given stay.

    Args:
      model: of all patterns.
      values: of each pattern.
      weighted: observed intensities and weights of each.
      given: names of the parameters whose values are not to be changed.
      frees: of the plan's stages: the peaks come from the same program as the fit.
    """
    table, size = model.table, len(model.table)
    scales = [i for i, p in enumerate(table.parameters) if p.group == "scale"]
    terms = [i for i, name in enumerate(table.names) if name.startswith("background.chebyshev.")]
    ones = np.stack(values)
    ones[:, scales] = 1.0
    ones[:, terms] = 0.0
    transforms = jax.tree.map(lambda *rows: np.stack(rows), *(table.transforms(row) for row in ones))
    data = Data(np.stack([y for y, _ in weighted]), np.stack([w for _, w in weighted]), np.zeros(len(ones)))
    shared = (model.layout, model.settings, model.arrays, transforms, tie_arrays(model), _no_restraints(size), data)
    none = _padded(model, frees, np.zeros(0, dtype=np.int32))
    _, solution = solve_each(*shared, _internal(ones, transforms), none, 1, 1.0)
    two_theta = np.asarray(model.arrays.two_theta)
    x = (2 * two_theta - two_theta[0] - two_theta[-1]) / (two_theta[-1] - two_theta[0])
    basis = np.polynomial.chebyshev.chebvander(x, len(terms) - 1)
    started = np.stack(values)
    for i, (observed, weight) in enumerate(weighted):
        if any(table.names[k] in given[i] for k in (*scales, *terms)):
            continue
        peaks = np.asarray(solution.parts.peaks[i])
        columns = np.concatenate([peaks.T, basis], axis=1) * np.sqrt(weight)[:, None]
        length = np.maximum(np.linalg.norm(columns, axis=0), 1e-300)
        lower = np.concatenate([np.zeros(len(scales)), np.full(len(terms), -np.inf)])
        fitted = scipy.optimize.lsq_linear(columns / length, observed * np.sqrt(weight), (lower, np.inf)).x / length
        # A phase that seems absent starts with a hundredth of what would explain all: a scale of 0 would stay there.
        whole = observed.max() / np.maximum(peaks.max(axis=1), 1e-300)
        started[i, scales] = np.maximum(fitted[: len(scales)], 1e-2 * whole)
        started[i, terms] = fitted[len(scales) :]
    return started


def blurred(two_theta: np.ndarray, observed: np.ndarray, weight: np.ndarray, fwhm: float) -> np.ndarray:
    """The pattern folded with a Gaussian; points that do not count take no part."""
    if fwhm == 0:
        return observed
    sigma = fwhm / FWHM_PER_SIGMA
    reach = 4 * sigma
    first = np.searchsorted(two_theta, two_theta - reach)
    last = np.searchsorted(two_theta, two_theta + reach)
    step = np.gradient(two_theta)
    made = np.empty_like(observed)
    for i, (a, b) in enumerate(zip(first, last, strict=True)):
        kernel = np.exp(-0.5 * ((two_theta[a:b] - two_theta[i]) / sigma) ** 2) * step[a:b] * (weight[a:b] > 0)
        total = kernel.sum()
        made[i] = observed[i] if total == 0 else kernel @ observed[a:b] / total
    return made


def _inside(u: np.ndarray, free: np.ndarray) -> np.ndarray:
    """Numbers of parameters that become free, brought in from a bound, where they would have no derivative."""
    u = np.array(u)
    u[..., free] = np.clip(u[..., free], -6.0, None)
    return u


def _fractions(
    model: Model, values: np.ndarray, free: np.ndarray, covariance: np.ndarray, parts: Parts
) -> dict[str, tuple[float, float]]:
    """Weight fractions with uncertainties propagated from the scale factors."""
    names = [phase.name for phase in model.phases]
    at = [model.table.index(f"phases.{name}.scale") for name in names]
    place = {int(i): k for k, i in enumerate(free)}
    block = np.zeros((len(at), len(at)))
    for (a, i), (b, j) in itertools.product(enumerate(at), repeat=2):
        if i in place and j in place:
            block[a, b] = covariance[place[i], place[j]]
    share, sigma = statistics.weight_fractions(values[at], block, np.asarray(parts.mass), np.asarray(parts.volume))
    return {name: (float(w), float(s)) for name, w, s in zip(names, share, sigma, strict=True)}


def _warnings(
    model: Model,
    values: np.ndarray,
    free: np.ndarray,
    certainty: statistics.Uncertainty,
    names: Sequence[str],
    converged: bool,
    found: statistics.Agreement,
) -> list[str]:
    said = []
    if not converged:
        said.append("The fit did not converge; its values are those of the last step.")
    lost = [name for name, is_lost in zip(names, certainty.undetermined, strict=True) if is_lost]
    if lost:
        said.append(f"The data do not determine {', '.join(lost)}; fix one of them.")
    for first, second, correlation in statistics.high_correlations(certainty.covariance, names):
        said.append(f"{first} and {second} are correlated by {correlation:.3f}.")
    at_bound = model.table.at_bound(values)
    for i in free:
        if at_bound[i]:
            said.append(f"{model.table.names[i]} = {values[i]:.4g} is at its bound; its uncertainty means little.")
    if found.rwp > 0.5:
        said.append("The model explains little of the pattern; check the phases and the wavelength.")
    return said
