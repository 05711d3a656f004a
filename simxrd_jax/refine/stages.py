"""Host zone. The stages of a plan on the compiled program: what each frees, and when it has settled."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Bool, Float

from simxrd_jax.numerics import FWHM_PER_SIGMA
from simxrd_jax.refine.build import Model
from simxrd_jax.refine.intensities import MIN_SEEN, shares_of, slack
from simxrd_jax.refine.least_squares import Solution
from simxrd_jax.refine.model import Parts, intensity_slices
from simxrd_jax.refine.parameters import KINDS, Transforms
from simxrd_jax.refine.plans import Plan, Stage
from simxrd_jax.refine.solver import Data, Free, Restraints, Ties, internal_each, partition_each, solve_each, values_and_slopes

# A stage that others follow ends where a step promises less than this share of the sum of squares.
STAGE_DROP = 3e-3
# Of a cycle of Le Bail: turns of least squares at most. A stage has settled where a cycle lowers the sum of squares by less
# than this share of it, one that others follow and the last one.
TURNS, SETTLED, SETTLED_LAST = 12, 1e-3, 1e-5


@dataclasses.dataclass(frozen=True, eq=False)
class StageResult:
    """A stage of a fit: its name, how many parameters were free, Rwp at its end, turns taken, whether it converged."""

    name: str
    n_free: int
    rwp: float
    iterations: int
    converged: bool


@dataclasses.dataclass(frozen=True, eq=False)
class Staged:
    """What the stages of a plan came to.

    Attributes:
      u: the solver's numbers of each pattern.
      solution: of the last stage.
      results: of each pattern, what each stage came to.
      free: of each pattern, what was free in the last stage.
      indices: the same as the last stage's program took it.
    """

    u: Float[np.ndarray, "pattern parameter"]
    solution: Solution
    results: list[tuple[StageResult, ...]]
    free: list[np.ndarray]
    indices: Free


def run_stages(
    model: Model,
    plan: Plan,
    frees: Sequence[np.ndarray],
    weighted: Sequence[tuple[np.ndarray, np.ndarray]],
    transforms: Transforms,
    ties: Ties,
    values: Float[np.ndarray, "pattern parameter"],
    say: Callable[[str], None],
) -> Staged:
    """The stages of a plan on all patterns.

    Args:
      model: of all patterns.
      plan: whose stages are run.
      frees: indices of what each stage frees, see `stage_indices`.
      weighted: observed intensities and weights of each pattern.
      transforms: of each pattern.
      ties: of the model.
      values: where each pattern starts.
      say: takes one sentence a stage.
    """
    two_theta = np.asarray(model.arrays.two_theta)
    count = len(values)
    weight = np.stack([w for _, w in weighted])
    u = np.asarray(internal_each(values, transforms))
    results: list[list[StageResult]] = [[] for _ in range(count)]
    solution: Any = None
    free, indices = [frees[-1]] * count, padded(model, frees, [frees[-1]] * count)
    for i, (stage, wanted) in enumerate(zip(plan.stages, frees, strict=True)):
        free = [wanted] * count
        smooth = np.stack([blurred(two_theta, y, w, stage.blur) for y, w in weighted])
        data = Data(smooth, weight, np.full(count, stage.blur))
        is_last = i == len(plan.stages) - 1
        if solution is not None:
            faint = faint_phases(model, solution.parts, stage.least_share)
            free = [wanted[~_of_phases(model, names)[wanted]] for names in faint]
        known = restraint_arrays(model, count)
        if any(_is_intensity(model)[one].any() for one in free):
            known, free = _slack(model, free, u, transforms, ties, data)
        shared = (model.layout, model.settings, model.arrays, transforms, ties, known, data)
        indices = padded(model, frees, free)
        held = ~partitioned(model, stage)
        if held.all():
            least_drop = 1e-13 if is_last else STAGE_DROP
            u, solution = solve_each(*shared, _inside(u, free, transforms), indices, stage.max_iterations, least_drop)
            u, solution = np.asarray(u), jax.tree.map(np.asarray, solution)
        else:
            u, solution = _in_turns(shared, stage, u, free, indices, held, SETTLED_LAST if is_last else SETTLED)
        rwp = np.sqrt(solution.cost / np.sum(weight * smooth**2, axis=1))
        for k in range(count):
            results[k].append(
                StageResult(stage.name, len(free[k]), float(rwp[k]), int(solution.iterations[k]), bool(solution.converged[k]))
            )
        turns = f"{int(np.max(solution.iterations))} iterations"
        said = f"Rwp {100 * float(np.median(rwp)):.2f} %" + (f" (median of {count})" if count > 1 else "")
        say(f"{stage.name}: {max(map(len, free))} free, {said}, {turns}")
    return Staged(u, solution, [tuple(r) for r in results], free, indices)


def faint_phases(model: Model, parts: Parts, least_share: float) -> list[list[str]]:
    """Of each pattern the phases that give less than a share of the peaks' area."""
    area = np.asarray(parts.peaks).sum(axis=-1)
    share = area / np.maximum(area.sum(axis=-1, keepdims=True), 1e-300)
    names = [phase.name for phase in model.phases]
    return [[name for name, part in zip(names, row, strict=True) if part < least_share] for row in share]


def _of_phases(model: Model, names: Sequence[str]) -> Bool[np.ndarray, " parameter"]:
    """Which parameters belong to some phases, their scales apart."""
    prefixes = tuple(f"phases.{name}." for name in names)
    return np.array([p.name.startswith(prefixes) and p.group != "scale" for p in model.table.parameters])


def _in_turns(
    shared: tuple[Any, ...],
    stage: Stage,
    u: Float[np.ndarray, "pattern parameter"],
    free: Sequence[np.ndarray],
    indices: Free,
    held: Bool[np.ndarray, " parameter"],
    tolerance: float,
) -> tuple[Float[np.ndarray, "pattern parameter"], Solution]:
    """A stage of Le Bail: partitions with all else held, then least squares with the intensities held, until both settle."""
    layout, settings, arrays, transforms, ties, restraints, data = shared
    model = (layout, settings, arrays)
    settled = np.zeros(len(u), dtype=bool)
    turns = np.zeros(len(u), dtype=int)
    solution: Any = None
    for _ in range(stage.cycles):
        moved = np.asarray(partition_each(*model, transforms, ties, data, u, held))
        given = (transforms, ties, restraints, data, _inside(moved, free, transforms), indices)
        moved, found = solve_each(*model, *given, TURNS, 0.1 * tolerance)
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
    model: Model,
    frees: Sequence[np.ndarray],
    u: Float[np.ndarray, "pattern parameter"],
    transforms: Transforms,
    ties: Ties,
    data: Data,
) -> tuple[Restraints, list[np.ndarray]]:
    """Constraints of free intensities in each pattern, and what is free without the reflections that it does not show."""
    stated = restraint_arrays(model, 1)
    made, kept = [], []
    for k, free in enumerate(frees):
        is_free = np.isin(np.arange(len(model.table)), free)
        is_seen = np.zeros(len(model.table), dtype=bool)
        values, _ = values_and_slopes(u[k], jax.tree.map(lambda a, k=k: a[k], transforms), ties)
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
        made.append(tuple(np.concatenate(parts) for parts in zip(*rows, strict=True)))
        kept.append(free[~_is_intensity(model)[free] | is_seen[free]])
    most = max(len(target) for _, target, _ in made)
    filled = [
        (np.pad(matrix, ((0, most - len(target)), (0, 0))), np.pad(target, (0, most - len(target))), _padded_ones(sigma, most))
        for matrix, target, sigma in made
    ]
    return Restraints(*(np.stack(parts) for parts in zip(*filled, strict=True))), kept


def _padded_ones(sigma: np.ndarray, length: int) -> np.ndarray:
    return np.pad(sigma, (0, length - len(sigma)), constant_values=1.0)


def _inside(u: np.ndarray, free: Sequence[np.ndarray], transforms: Transforms) -> np.ndarray:
    """Numbers of parameters that become free, brought in from a bound, where they would have no derivative."""
    kind, limit, scale = (np.asarray(part) for part in (transforms.kind, transforms.limit, transforms.scale))
    below = np.isin(kind, [KINDS.index(name) for name in ("positive", "inverse", "bounded")])
    # tanh is as flat at twice the limit as softplus is at -6 (to within a factor of 30).
    reach = np.where(kind == KINDS.index("near"), 2.0 * limit / scale, np.inf)
    lower = np.where(below, -6.0, -reach)
    moves = np.stack([np.isin(np.arange(u.shape[1]), one) for one in free])
    return np.where(moves, np.clip(u, lower, reach), u)


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


def padded(model: Model, frees: Sequence[np.ndarray], free: Sequence[np.ndarray]) -> Free:
    """The free parameters of each pattern in a stage, filled up to what the largest stage of a plan needs.

    Stages with free intensities are a program of their own: the others would carry its hundreds of columns.
    """
    kind = np.where(_is_intensity(model), 2, _is_background(model).astype(int))
    found = []
    for wanted, least in ((0, 1), (1, 1), (2, 0)):
        mine = [one[kind[one] == wanted] for one in free]
        capacity = max(least, *(int(np.sum(kind[other] == wanted)) for other in frees))
        if wanted == 2 and not any(map(len, mine)):
            capacity = 0
        rows = [np.pad(one, (0, capacity - len(one)), constant_values=len(model.table)) for one in mine]
        found.append(np.stack(rows).astype(np.int32))
    return Free(*found)


def places_of(indices: Free, k: int, wanted: np.ndarray) -> np.ndarray:
    """Where the wanted parameters stand among the solution's numbers of the k-th pattern."""
    order = {int(i): place for place, i in enumerate([*indices.peaks[k], *indices.background[k], *indices.intensities[k]])}
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


def restraint_arrays(model: Model, count: int) -> Restraints:
    """The model's restraints, for each pattern."""
    matrix = np.zeros((len(model.restraints), len(model.table)))
    for row, restraint in zip(matrix, model.restraints, strict=True):
        for name, factor in restraint.factors.items():
            row[model.table.index(name)] = factor
    target = np.array([restraint.value for restraint in model.restraints])
    sigma = np.array([restraint.sigma for restraint in model.restraints])
    return Restraints(*(np.repeat(part[None], count, axis=0) for part in (matrix, target, sigma)))
