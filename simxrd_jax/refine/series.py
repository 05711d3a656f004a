"""Host zone. Many refinements: several starts of one pattern, and series of patterns one after the other or in batches.

The patterns of a batch go through one call of the compiled program, which waits for the slowest of them in each stage: that
pays on an accelerator. Batches of one share the program all the same, and give the numbers that a pattern gives alone.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np
from jaxtyping import Float

from simxrd_jax.errors import InputError
from simxrd_jax.refine.build import Model
from simxrd_jax.refine.doubts import LITTLE
from simxrd_jax.refine.fit import Refinement, refine, refine_many
from simxrd_jax.refine.plans import Plan

# Starts are drawn within this share of each cell length (of a radian for an angle), and widths within this factor.
SPREAD, WIDTH_FACTOR = 5e-3, 2.0
# Fits whose Rwp is this close to the lowest one have reached the same minimum.
SAME_RWP = 1e-3
# A positive value that has run to zero starts the next pattern from this share of its typical change.
LEAST_START = 1e-9


@dataclasses.dataclass(frozen=True, eq=False)
class Job:
    """A pattern and what it is to be fitted with.

    Attributes:
      model, observed, plan, sigma, excluded, start: as `fit.refine` takes them. Jobs of one model can share a batch.
    """

    model: Model
    observed: Float[np.ndarray, " point"]
    plan: Plan
    sigma: Float[np.ndarray, " point"] | None = None
    excluded: tuple[tuple[float, float], ...] = ()
    start: Mapping[str, float] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, eq=False)
class MultiStart:
    """One pattern from several starts.

    Attributes:
      best: the refinement with the lowest Rwp.
      fits: all, in order.
      starts: values that each started from, beside those of the model; none of the first.
      reached: whether each ended within `SAME_RWP` of the lowest Rwp.
    """

    best: Refinement
    fits: tuple[Refinement, ...]
    starts: tuple[dict[str, float], ...]
    reached: tuple[bool, ...]


def refine_jobs(
    jobs: Sequence[Job], batch: int = 1, say: Callable[[str], None] = lambda sentence: None
) -> Iterator[Refinement | InputError]:
    """Refines patterns, those of one model that follow each other in batches; yields one result for each, in order.

    Args:
      jobs: patterns.
      batch: patterns in one call.
      say: see `fit.refine`.

    Yields:
      The refinement, or the error that kept it from being made, which stops no other.

    Raises:
      InputError: the batch is below 1.
    """
    if batch < 1:
        raise InputError(f"a batch of {batch} patterns is none; take at least 1")
    for _, group in itertools.groupby(jobs, key=lambda job: (id(job.model), id(job.plan), job.excluded, job.sigma is None)):
        mine = list(group)
        for first in range(0, len(mine), batch):
            yield from _batch(mine[first : first + batch], min(batch, len(mine)), say)


def refine_sequence(
    jobs: Iterable[Job | Mapping[str, float]], say: Callable[[str], None] = lambda sentence: None
) -> Iterator[Refinement | InputError]:
    """Refines patterns one after the other, each from what the last good one ended with; yields as `refine_jobs` does.

    What was refined is handed on: parameters that were free, and intensities. A fit that fails or does not converge hands
    nothing on, so that the next one starts where the failed one did.

    Args:
      jobs: patterns in their order; a job's own start counts for the first, and until one has converged. Values in place of a
        job are those of a pattern that was refined before, which are handed on.
      say: see `fit.refine`.
    """
    carried: dict[str, float] = {}
    for job in jobs:
        if not isinstance(job, Job):
            carried = carried | dict(job)
            continue
        result = _one(dataclasses.replace(job, start={**job.start, **_startable(job.model, carried)}), say)
        is_good = isinstance(result, Refinement) and result.converged and result.agreement.rwp < LITTLE
        if isinstance(result, Refinement) and is_good and np.all(np.isfinite(result.values)):
            carried = carried | refined_values(result)
        yield result


def refined_values(fit: Refinement) -> dict[str, float]:
    """Values of what was free in a refinement, and of intensities."""
    is_free = np.isin(np.arange(len(fit.values)), fit.free)
    found = zip(fit.model.table.parameters, fit.values, is_free, strict=True)
    return {p.name: float(value) for p, value, free in found if free or p.group == "intensity"}


def _startable(model: Model, values: Mapping[str, float]) -> dict[str, float]:
    """Values of a model's parameters as a fit can start from them."""
    found = {}
    for p in model.table.parameters:
        if p.name in values:
            found[p.name] = max(values[p.name], LEAST_START * p.scale) if p.kind == "positive" else values[p.name]
    return found


def draw_starts(
    model: Model,
    plan: Plan,
    count: int,
    *,
    seed: int,
    spread: float = SPREAD,
    start: Mapping[str, float] | None = None,
) -> list[dict[str, float]]:
    """Starts with other cells and widths; the first is the given one.

    Args:
      model: its values, and `start`, are what is drawn around.
      plan: only what it frees is drawn.
      count: starts, at least 1.
      seed: of the draws; the same seed gives the same first starts, however many there are.
      spread: of cells, as a share: lengths lie evenly within it, angles within that many radians.
      start: values of parameters.

    Raises:
      InputError: no start, or a spread that is not between 0 and 0.1.
    """
    if count < 1:
        raise InputError(f"--starts {count}: at least one start is needed; give 1 or more")
    if seed < 0:
        raise InputError(f"--seed {seed}: must not be negative; give 0 or more")
    if not 0 <= spread <= 0.1:
        raise InputError(f"--spread {spread:g}: must be between 0 and 0.1; cells are drawn within that share of theirs")
    given = dict(start or {})
    values = model.table.values(given)
    patterns = [pattern for stage in plan.stages for pattern in stage.free]
    is_free = model.table.matching(patterns) if patterns else np.zeros(len(values), dtype=bool)
    starts = [given]
    for i in range(1, count):
        random = np.random.default_rng((seed, i))
        drawn = dict(given)
        for k, p in enumerate(model.table.parameters):
            share = random.uniform(-1.0, 1.0)  # drawn for all, so that what is free changes no other draw
            if not is_free[k]:
                continue
            if p.group == "cell":
                drawn[p.name] = p.inside(float(values[k] + share * spread * (values[k] if p.unit == "A" else np.degrees(1.0))))
            elif p.group == "width" and p.kind in ("positive", "inverse", "bounded"):
                drawn[p.name] = p.inside(float(values[k] * WIDTH_FACTOR**share))
        starts.append(drawn)
    return starts


def multi_start(
    job: Job,
    count: int,
    *,
    seed: int,
    spread: float = SPREAD,
    batch: int = 1,
    say: Callable[[str], None] = lambda sentence: None,
) -> MultiStart:
    """Refines a pattern from several starts and keeps the lowest Rwp.

    Args:
      job: the pattern.
      count, seed, spread: see `draw_starts`.
      batch: starts in one call.
      say: takes one sentence a stage.

    Raises:
      InputError: see `draw_starts` and `fit.refine`.
    """
    starts = draw_starts(job.model, job.plan, count, seed=seed, spread=spread, start=job.start)
    fits = []
    for result in refine_jobs([dataclasses.replace(job, start=start) for start in starts], batch, say):
        if isinstance(result, InputError):
            raise result
        fits.append(result)
    rwp = np.array([fit.agreement.rwp for fit in fits])
    rwp = np.where(np.isfinite(rwp), rwp, np.inf)
    best = fits[int(np.argmin(rwp))]
    reached = tuple(bool(r <= (1 + SAME_RWP) * rwp.min()) for r in rwp)
    return MultiStart(best, tuple(fits), tuple(starts), reached)


def _one(job: Job, say: Callable[[str], None]) -> Refinement | InputError:
    try:
        return refine(job.model, job.observed, job.plan, sigma=job.sigma, excluded=job.excluded, start=job.start, say=say)
    except InputError as error:
        return error


def _batch(jobs: Sequence[Job], size: int, say: Callable[[str], None]) -> list[Refinement | InputError]:
    """One call, filled up with the last pattern so that all calls have one shape; patterns for themselves where it fails."""
    if size == 1 or len({np.shape(job.observed) for job in jobs}) > 1:
        return [_one(job, say) for job in jobs]
    filled = [*jobs, *[jobs[-1]] * (size - len(jobs))]
    first = jobs[0]
    try:
        made = refine_many(
            first.model,
            np.stack([job.observed for job in filled]),
            first.plan,
            sigma=None if first.sigma is None else np.stack([np.asarray(job.sigma) for job in filled]),
            excluded=first.excluded,
            starts=[job.start for job in filled],
            say=say,
        )
    except InputError:
        return [_one(job, say) for job in jobs]
    return list(made[: len(jobs)])
