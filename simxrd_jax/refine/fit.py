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
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize
from flax import struct
from jax import lax
from jaxtyping import Bool, Float, Int

from simxrd_jax.diffraction.peak_sum.fourier import MIN_FWHM_POINTS
from simxrd_jax.diffraction.settings import TRAINING, Settings
from simxrd_jax.errors import InputError
from simxrd_jax.numerics import FWHM_PER_SIGMA
from simxrd_jax.refine import statistics
from simxrd_jax.refine.build import Model
from simxrd_jax.refine.intensities import MIN_SEEN, partition, r_bragg, shares_of, slack
from simxrd_jax.refine.least_squares import Solution, jacobian_of, minimise
from simxrd_jax.refine.model import (
    Layout,
    ModelArrays,
    Parts,
    background_of,
    intensity_response,
    intensity_slices,
    parts_of,
)
from simxrd_jax.refine.parameters import KINDS, Transforms, to_internal, to_values
from simxrd_jax.refine.plans import Plan, Stage
from simxrd_jax.refine.start import observed_width, width_starts
from simxrd_jax.types import Array, PeakList

if TYPE_CHECKING:
    from simxrd_jax.refine.microabsorption import Microabsorption

# A stage that others follow ends where a step promises less than this share of the sum of squares.
STAGE_DROP = 3e-3
# Of a cycle of Le Bail: turns of the partition, and of least squares at most. A stage has settled where a cycle lowers the sum
# of squares by less than this share of it, one that others follow and the last one.
PARTITIONS, TURNS, SETTLED, SETTLED_LAST = 8, 12, 1e-3, 1e-5
# Highest intensity below which it may be no count, and how little a value moves that did not.
FEW_COUNTS, STILL = 100.0, 1e-12
MOVING = ("position", "cell", "width", "texture", "coordinate", "displacement", "occupancy")
# R factors above which a model explains too little.
LITTLE = 0.5
# Columns of free intensities that are summed at once.
BLOCK = 32


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
      intensities: |F|^2 of phases without atoms, in which the peaks are linear.
    """

    peaks: Int[Array, " peak_free"]
    background: Int[Array, " background_free"]
    intensities: Int[Array, " intensity_free"]


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
    kinds = (free.peaks, free.background, free.intensities)
    of_peaks, of_background, of_intensities = (jax.nn.one_hot(index, u.shape[0], dtype=u.dtype) for index in kinds)
    directions = jnp.concatenate([of_peaks, of_background, of_intensities])
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

    def of_strengths(every: Float[Array, " parameter"]) -> Float[Array, "residual intensity_free"]:
        values = values_of(every, transforms, ties)
        response = intensity_response(layout, arrays, settings, values.at[width].add(jnp.square(data.blur)))

        def column(direction: Float[Array, " parameter"]) -> Float[Array, " residual"]:
            _, change = jax.jvp(lambda x: values_of(x, transforms, ties), (every,), (direction,))
            return jnp.concatenate([root * response(change), restraints.matrix @ change / restraints.sigma])

        return lax.map(column, of_intensities, batch_size=BLOCK).T

    def residuals(x: Float[Array, " free"]) -> tuple[Float[Array, " residual"], Float[Array, "residual free"], Parts]:
        every = u + directions.T @ x
        r, columns, parts = jacobian_of(weighted, every, of_peaks)
        _, more, _ = jacobian_of(of_curve, every, of_background)
        linear = [of_strengths(every)] if free.intensities.shape[0] else []
        return r, jnp.concatenate([columns, more, *linear], axis=1), parts

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
    """`solve` for patterns at once; `transforms`, `restraints`, `data` and `u` have an axis of patterns."""

    def one(
        transforms: Transforms, restraints: Restraints, data: Data, u: Float[Array, " parameter"]
    ) -> tuple[Float[Array, " parameter"], Solution]:
        shared = (transforms, ties, restraints, data, u, free, max_iterations, least_drop)
        return solve(layout, settings, arrays, *shared)

    return jax.vmap(one)(transforms, restraints, data, u)


@partial(jax.jit, static_argnames=("layout", "settings"))
def partition_each(
    layout: Layout,
    settings: Settings,
    arrays: ModelArrays,
    transforms: Transforms,
    ties: Ties,
    data: Data,
    u: Float[Array, "pattern parameter"],
    held: Bool[Array, " parameter"],
) -> Float[Array, "pattern parameter"]:
    """The solver's numbers after `PARTITIONS` turns of `intensities.partition`; what is not an intensity is held."""
    width = layout.instrument.index("caglioti_w")

    def one(transforms: Transforms, data: Data, u: Float[Array, " parameter"]) -> Float[Array, " parameter"]:
        def turn(_: Any, values: Float[Array, " parameter"]) -> Float[Array, " parameter"]:
            return partition(layout, arrays, settings, values, data.observed, data.weight, held)

        values = values_of(u, transforms, ties)
        moved = lax.fori_loop(0, PARTITIONS, turn, values.at[width].add(jnp.square(data.blur)))
        return jnp.where(held, u, to_internal(jnp.where(held, values, moved), transforms))

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
        u, solution, stages, free = _run(model, plan, frees, weighted, transforms, ties, values, say)
        faint = [
            f"{name} gives less than {100 * plan.stages[-1].least_share:g} % of the peaks' area; its cell, widths and sites "
            "were not refined any further."
            for name in faint_phases(model, solution.parts, plan.stages[-1].least_share)
        ]
        places = _places(_padded(model, frees, free), free)
        seconds = time.perf_counter() - began
        fits = [
            _finished(
                model,
                *weighted[i],
                np.asarray(u[i]),
                jax.tree.map(lambda a, i=i: a[i], transforms),
                ties,
                jax.tree.map(lambda a, i=i: np.asarray(a[i]), solution),
                free,
                places,
                partitioned(model, plan.stages[-1]),
                stages[i],
                seconds,
            )
            for i in range(len(observed))
        ]
        doubts = [_doubts(model, *weighted[i], is_stated=sigma is not None) for i in range(len(fits))]
        return [
            dataclasses.replace(fit, warnings=(*doubt, *fit.warnings, *faint)) for fit, doubt in zip(fits, doubts, strict=True)
        ]


def _doubts(model: Model, observed: np.ndarray, weight: np.ndarray, *, is_stated: bool) -> list[str]:
    """What of a measurement makes its fit doubtful, one sentence each."""
    said, counts = [], weight > 0
    seen = observed[counts]
    if not is_stated and np.any(seen < 0):
        said.append(
            f"{int(np.sum(seen < 0))} intensities are below 0, as after a background was subtracted: weights of counts do not "
            "hold for them; give uncertainties, as in .xye."
        )
    elif not is_stated and np.max(seen) < FEW_COUNTS:
        said.append(
            f"The highest intensity is {np.max(seen):.3g}: if these are no counts, weights and uncertainties do not hold; "
            "give uncertainties, as in .xye."
        )
    two_theta = np.asarray(model.arrays.two_theta)[counts]
    width, _ = observed_width(two_theta, seen) if len(seen) > 2 else (0.0, 0.0)
    if 0 < width < MIN_FWHM_POINTS * np.median(np.diff(two_theta)) and model.settings.peak_sum == "fft":
        said.append(
            f"Lines are {width / np.median(np.diff(two_theta)):.1f} points wide; below {MIN_FWHM_POINTS:g} the sum of peaks "
            "widens them: measure in smaller steps."
        )
    return said


def _run(
    model: Model,
    plan: Plan,
    frees: Sequence[np.ndarray],
    weighted: Sequence[tuple[np.ndarray, np.ndarray]],
    transforms: Transforms,
    ties: Ties,
    values: Float[np.ndarray, "pattern parameter"],
    say: Callable[[str], None],
) -> tuple[Float[np.ndarray, "pattern parameter"], Solution, list[tuple[StageResult, ...]], np.ndarray]:
    """The stages of a plan on all patterns; the last value is what was free in the last stage."""
    two_theta = np.asarray(model.arrays.two_theta)
    count = len(values)
    weight = np.stack([w for _, w in weighted])
    u = np.asarray(_internal(values, transforms))
    results: list[list[StageResult]] = [[] for _ in range(count)]
    solution: Any = None
    free = frees[-1]
    for i, (stage, free) in enumerate(zip(plan.stages, frees, strict=True)):
        smooth = np.stack([blurred(two_theta, y, w, stage.blur) for y, w in weighted])
        data = Data(smooth, weight, np.full(count, stage.blur))
        is_last = i == len(plan.stages) - 1
        if solution is not None:
            free = free[~_of_phases(model, faint_phases(model, solution.parts, stage.least_share))[free]]
        known = _restraints(model, count)
        if _is_intensity(model)[free].any():
            known, free = _slack(model, free, u, transforms, ties, data)
        shared = (model.layout, model.settings, model.arrays, transforms, ties, known, data)
        padded = _padded(model, frees, free)
        held = ~partitioned(model, stage)
        if held.all():
            least_drop = 1e-13 if is_last else STAGE_DROP
            u, solution = solve_each(*shared, _inside(u, free, transforms), padded, stage.max_iterations, least_drop)
            u, solution = np.asarray(u), jax.tree.map(np.asarray, solution)
        else:
            u, solution = _in_turns(shared, stage, u, free, padded, held, SETTLED_LAST if is_last else SETTLED)
        rwp = np.sqrt(solution.cost / np.sum(weight * smooth**2, axis=1))
        for k in range(count):
            results[k].append(
                StageResult(stage.name, len(free), float(rwp[k]), int(solution.iterations[k]), bool(solution.converged[k]))
            )
        turns = f"{int(np.max(solution.iterations))} iterations"
        said = f"Rwp {100 * float(np.median(rwp)):.2f} %" + (f" (median of {count})" if count > 1 else "")
        say(f"{stage.name}: {len(free)} free, {said}, {turns}")
    return u, solution, [tuple(r) for r in results], free


def faint_phases(model: Model, parts: Parts, least_share: float) -> list[str]:
    """Phases that give less than a share of the peaks' area in every pattern."""
    area = np.asarray(parts.peaks).sum(axis=-1)
    share = np.max(area / np.maximum(area.sum(axis=-1, keepdims=True), 1e-300), axis=0)
    return [phase.name for phase, part in zip(model.phases, share, strict=True) if part < least_share]


def _of_phases(model: Model, names: Sequence[str]) -> Bool[np.ndarray, " parameter"]:
    """Which parameters belong to some phases, their scales apart."""
    prefixes = tuple(f"phases.{name}." for name in names)
    return np.array([p.name.startswith(prefixes) and p.group != "scale" for p in model.table.parameters])


def _in_turns(
    shared: tuple[Any, ...],
    stage: Stage,
    u: Float[np.ndarray, "pattern parameter"],
    free: np.ndarray,
    padded: Free,
    held: Bool[np.ndarray, " parameter"],
    tolerance: float,
) -> tuple[Float[np.ndarray, "pattern parameter"], Solution]:
    """A stage of Le Bail: partitions with all else held, then least squares with the intensities held, until both settle."""
    *model, transforms, ties, _, data = shared
    settled = np.zeros(len(u), dtype=bool)
    turns = np.zeros(len(u), dtype=int)
    solution: Any = None
    for _ in range(stage.cycles):
        moved = np.asarray(partition_each(*model, transforms, ties, data, u, held))
        moved, found = solve_each(*shared, _inside(moved, free, transforms), padded, TURNS, 0.1 * tolerance)
        moved, found = np.asarray(moved), jax.tree.map(np.asarray, found)
        before = np.inf if solution is None else solution.cost
        turns += np.where(settled, 0, found.iterations)
        # A pattern that has settled stays, so that it gets the numbers that it would get alone.
        keep = lambda old, new, done=settled: np.where(done.reshape(-1, *[1] * (new.ndim - 1)), old, new)  # noqa: E731
        u = keep(u, moved)
        solution = found if solution is None else jax.tree.map(keep, solution, found)
        settled = settled | ~np.isfinite(solution.cost) | (before - solution.cost < tolerance * solution.cost)
        if settled.all():
            break
    return u, dataclasses.replace(solution, iterations=turns, converged=settled & np.isfinite(solution.cost))


def _slack(
    model: Model, free: np.ndarray, u: Float[np.ndarray, "pattern parameter"], transforms: Transforms, ties: Ties, data: Data
) -> tuple[Restraints, np.ndarray]:
    """Constraints of free intensities in each pattern, and what is free without the reflections that no pattern shows."""
    is_free = np.isin(np.arange(len(model.table)), free)
    stated = _restraints(model, 1)
    is_seen = np.zeros(len(model.table), dtype=bool)
    made = []
    for k in range(len(u)):
        values, _ = _values_and_slopes(u[k], jax.tree.map(lambda a, k=k: a[k], transforms), ties)
        values = np.asarray(values)
        found = shares_of(model.layout, model.arrays, model.settings, values, data.observed[k], data.weight[k])
        rows = [tuple(np.asarray(part[0]) for part in (stated.matrix, stated.target, stated.sigma))]
        for part, place in zip(found, intensity_slices(model.layout), strict=True):
            if is_free[place].any():
                matrix, target, sigma = slack(part, values[place], is_free[place])
                wide = np.zeros((len(target), len(values)))
                wide[:, place] = matrix
                rows.append((wide, target, sigma))
                is_seen[place] |= np.asarray(part.seen) >= MIN_SEEN
        made.append(Restraints(*(np.concatenate(parts) for parts in zip(*rows, strict=True))))
    return jax.tree.map(lambda *rows: np.stack(rows), *made), free[~_is_intensity(model)[free] | is_seen[free]]


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
    shared_out: Bool[np.ndarray, " parameter"],
    stages: tuple[StageResult, ...],
    seconds: float,
) -> Refinement:
    """What came of the fit of one pattern."""
    values, slope = (np.asarray(part) for part in _values_and_slopes(u, transforms, ties))
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
    names = [model.table.names[i] for i in free]
    at_bound = model.table.at_bound(values, np.asarray(transforms.origin))
    r_braggs = {phase.name: r_bragg(part) for phase, part in zip(model.phases, shown, strict=True)}
    warnings = _warnings(model, values, free, certainty, names, at_bound)
    still = np.abs(values[free] - np.asarray(transforms.origin)[free]) <= STILL * np.abs(values[free])
    still &= ~certainty.undetermined & np.array([model.table.parameters[i].group in MOVING for i in free], dtype=bool)
    if still.any():
        warnings.append(f"{', '.join(itertools.compress(names, still))} did not move from the start.")
    if found.n_points <= found.n_parameters:
        warnings.append(f"{found.n_points} points do not determine {found.n_parameters} parameters; take a wider range.")
    if not solution.converged:
        warnings.insert(0, "The fit did not converge; its values are those of the last step.")
    if found.rwp > LITTLE or not any(r < LITTLE for r in r_braggs.values()):
        warnings.insert(0, "No peak is explained well; check the phases, their cells and the wavelength.")
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
        at_bound=at_bound,
        free=free,
        covariance=certainty.covariance,
        agreement=found,
        stages=stages,
        weight_fractions=_fractions(model, values, spread, certainty.covariance * found.gof**2, parts),
        r_bragg=r_braggs,
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


def _restraints(model: Model, count: int) -> Restraints:
    """The model's restraints, for each pattern."""
    matrix = np.zeros((len(model.restraints), len(model.table)))
    for row, restraint in zip(matrix, model.restraints, strict=True):
        for name, factor in restraint.factors.items():
            row[model.table.index(name)] = factor
    target = np.array([restraint.value for restraint in model.restraints])
    sigma = np.array([restraint.sigma for restraint in model.restraints])
    return Restraints(*(np.repeat(part[None], count, axis=0) for part in (matrix, target, sigma)))


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
        if not low < high:
            raise InputError(f"the excluded range from {low:g} to {high:g} deg is empty; give the lower end first")
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


def partitioned(model: Model, stage: Stage) -> Bool[np.ndarray, " parameter"]:
    """Intensities that Le Bail's partition finds in a stage: those that it neither frees nor fixes."""
    chosen = _is_intensity(model)
    for patterns in (stage.free, stage.fixed):
        if patterns:
            chosen &= ~model.table.matching(patterns)
    return chosen


def _is_intensity(model: Model) -> Bool[np.ndarray, " parameter"]:
    return np.array([p.group == "intensity" for p in model.table.parameters])


def _is_background(model: Model) -> np.ndarray:
    """Of which parameters the background alone depends, ties included."""
    found = np.array([name.startswith("background.") for name in model.table.names])
    for tie in model.ties:
        if not found[model.table.index(tie.name)]:
            found[[model.table.index(other) for other in tie.factors]] = False
    return found


def _padded(model: Model, frees: Sequence[np.ndarray], free: np.ndarray) -> Free:
    """The free parameters of a stage, filled up to what the largest stage of a plan needs.

    Stages with free intensities are a program of their own: the others would carry its hundreds of columns.
    """
    kind = np.where(_is_intensity(model), 2, _is_background(model).astype(int))
    padded = []
    for wanted, least in ((0, 1), (1, 1), (2, 0)):
        mine = free[kind[free] == wanted]
        capacity = max(least, *(int(np.sum(kind[other] == wanted)) for other in frees))
        if wanted == 2 and len(mine) == 0:
            capacity = 0
        padded.append(np.concatenate([mine, np.full(capacity - len(mine), len(model.table))]).astype(np.int32))
    return Free(*padded)


def _places(free: Free, wanted: np.ndarray) -> np.ndarray:
    """Where the wanted parameters stand among the solution's numbers."""
    order = {int(index): place for place, index in enumerate([*free.peaks, *free.background, *free.intensities])}
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
    shared = (model.layout, model.settings, model.arrays, transforms, tie_arrays(model), _restraints(model, len(ones)), data)
    none = _padded(model, frees, np.zeros(0, dtype=np.int32))
    _, solution = solve_each(*shared, _internal(ones, transforms), none, 1, 1.0)
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


def _inside(u: np.ndarray, free: np.ndarray, transforms: Transforms) -> np.ndarray:
    """Numbers of parameters that become free, brought in from a bound, where they would have no derivative."""
    u = np.array(u)
    kind, limit, scale = (np.asarray(part)[..., free] for part in (transforms.kind, transforms.limit, transforms.scale))
    below = np.isin(kind, [KINDS.index(name) for name in ("positive", "inverse", "bounded")])
    # tanh is as flat at twice the limit as softplus is at -6 (to within a factor of 30).
    reach = np.where(kind == KINDS.index("near"), 2.0 * limit / scale, np.inf)
    lower = np.where(below, -6.0, -reach)
    u[..., free] = np.clip(u[..., free], lower, reach)
    return u


def _fractions(
    model: Model, values: np.ndarray, spread: np.ndarray, covariance: np.ndarray, parts: Parts
) -> dict[str, tuple[float, float]]:
    """Weight fractions with uncertainties propagated from the scale factors; NaN of phases without atoms."""
    has_atoms = np.array([phase.mode == "rietveld" for phase in model.phases])
    names = [phase.name for phase in itertools.compress(model.phases, has_atoms)]
    unknown = {phase.name: (float("nan"), float("nan")) for phase in model.phases}
    if not names:
        return unknown
    at = [model.table.index(f"phases.{name}.scale") for name in names]
    block = spread[at] @ covariance @ spread[at].T
    share, sigma = statistics.weight_fractions(values[at], block, parts.mass[has_atoms], parts.volume[has_atoms])
    return unknown | {name: (float(w), float(s)) for name, w, s in zip(names, share, sigma, strict=True)}


def _warnings(
    model: Model,
    values: np.ndarray,
    free: np.ndarray,
    certainty: statistics.Uncertainty,
    names: Sequence[str],
    at_bound: Bool[np.ndarray, " parameter"],
) -> list[str]:
    said = []
    lost = [name for name, is_lost in zip(names, certainty.undetermined, strict=True) if is_lost]
    if lost:
        said.append(f"The data do not determine {', '.join(lost)}; fix one of them.")
    overlapped = 0
    for first, second, correlation in statistics.high_correlations(certainty.covariance, names):
        if ".reflections." in first and ".reflections." in second:
            overlapped += 1
        else:
            said.append(f"{first} and {second} are correlated by {correlation:.3f}.")
    if overlapped:
        said.append(f"{overlapped} pairs of reflections overlap so far that their intensities are correlated beyond 0.95.")
    without = [phase.name for phase in model.phases if phase.mode != "rietveld"]
    if without and len(model.phases) > 1:
        said.append(
            f"Free intensities tell no amount of {', '.join(without)}: weight fractions are shares of the other phases."
        )
    for i in free:
        if at_bound[i]:
            said.append(f"{model.table.names[i]} = {values[i]:.4g} is at its bound; its uncertainty means little.")
    return said
