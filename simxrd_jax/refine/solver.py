"""Device zone. One stage of a refinement as a compiled program, for many patterns at once.

Which parameters are free is an array of indices, so that all stages of a plan, and all fits of the same shape, share one
compilation. Everything is float64.
"""

from __future__ import annotations

import functools
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jax import lax
from jaxtyping import Bool, Float, Int

from simxrd_jax.compilation import quick_loops
from simxrd_jax.diffraction.settings import Settings
from simxrd_jax.refine.intensities import partition
from simxrd_jax.refine.least_squares import Solution, jacobian_of, minimise
from simxrd_jax.refine.model import Layout, ModelArrays, Parts, background_of, intensity_response, parts_of
from simxrd_jax.refine.parameters import Transforms, to_internal, to_values
from simxrd_jax.types import Array

# Turns of the partition in a cycle of Le Bail.
PARTITIONS = 8
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
    """`solve` for patterns at once; `transforms`, `restraints`, `data`, `u` and `free` have an axis of patterns."""
    shared = (layout, settings, arrays, transforms, ties, restraints, data, u, free, max_iterations, least_drop)
    return _program()(*shared)


def compilations() -> int:
    """How many shapes `solve_each` has been compiled for."""
    return _program()._cache_size()


@functools.cache
def _program() -> Any:
    """The compiled program of `solve_each`; made when it is first needed, since it asks the compiler."""
    return jax.jit(_solve_each, static_argnums=(0, 1), compiler_options=quick_loops())


def _solve_each(
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
    def one(
        transforms: Transforms, restraints: Restraints, data: Data, u: Float[Array, " parameter"], free: Free
    ) -> tuple[Float[Array, " parameter"], Solution]:
        shared = (transforms, ties, restraints, data, u, free, max_iterations, least_drop)
        return solve(layout, settings, arrays, *shared)

    return jax.vmap(one)(transforms, restraints, data, u, free)


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


@jax.jit
def internal_each(values: Float[Array, "pattern parameter"], transforms: Transforms) -> Float[Array, "pattern parameter"]:
    return jax.vmap(to_internal)(values, transforms)


@jax.jit
def values_and_slopes(u: Float[Array, " parameter"], transforms: Transforms, ties: Ties) -> tuple[Array, Array]:
    """Values, and the derivative of each by its own number, ties apart."""
    _, slope = jax.jvp(lambda x: to_values(x, transforms), (u,), (jnp.ones_like(u),))
    return values_of(u, transforms, ties), slope
