"""Device zone. Levenberg-Marquardt for residuals whose Jacobian is at hand, as one loop that `vmap` takes.

Each turn computes residuals and Jacobian of a trial point together, so that the model stands once in the compiled program: a
turn whose step is refused has computed a Jacobian in vain, which costs less than compiling the model a second time.
Parameters that are not free, or that the residuals do not depend on, have columns of zeros (or of rounding) and stay where
they are.

Reference: Marquardt (1963), SIAM J. Appl. Math. 11, 431; the damping's rule is Nielsen's (1999), IMM-REP-1999-05.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jax import lax
from jaxtyping import Bool, Float, Int

from simxrd_jax.types import Array

Residuals = Callable[[Float[Array, " parameter"]], tuple[Float[Array, " point"], Float[Array, "point parameter"], Any]]

FIRST_DAMPING = 1e-3  # of columns scaled to length 1
MAX_DAMPING = 1e12
# A pivot of the scaled normal matrix below this is rounding, and its direction not determined.
RANK_TOLERANCE = 1e-13
# A drop below this share of the first sum of squares is rounding: of a fit that is exact.
ROUNDING = 1e-20
# A column this short beside the longest is rounding, and its parameter not seen: March's r of a cubic phase at r = 1, whose
# derivative vanishes for every reflection, leaves 1e-16. A step along it would be without bound.
UNSEEN = 1e-12


@struct.dataclass
class Solution:
    """Where a minimisation ended.

    Attributes:
      x: parameters.
      cost: sum of squared residuals.
      normal: J^T J.
      iterations: turns of the loop, each one evaluation of residuals and Jacobian.
      converged: whether the last step was short enough.
      parts: what else the residuals' function gave at x.
    """

    x: Float[Array, " parameter"]
    cost: Float[Array, ""]
    normal: Float[Array, "parameter parameter"]
    iterations: Int[Array, ""]
    converged: Bool[Array, ""]
    parts: Any = None


@struct.dataclass
class _State:
    x: Float[Array, " parameter"]
    trial: Float[Array, " parameter"]
    cost: Float[Array, ""]
    normal: Float[Array, "parameter parameter"]
    gradient: Float[Array, " parameter"]
    damping: Float[Array, ""]
    growth: Float[Array, ""]
    predicted: Float[Array, ""]
    iterations: Int[Array, ""]
    converged: Bool[Array, ""]
    stuck: Bool[Array, ""]
    parts: Any
    first: Float[Array, ""]


def minimise(
    residuals: Residuals,
    x: Float[Array, " parameter"],
    *,
    max_iterations: Int[Array, ""] | int,
    least_drop: Float[Array, ""] | float = 1e-13,
    max_shift: float = 0.01,
) -> Solution:
    """Lowers the sum of squared residuals from a start.

    Args:
      residuals: x -> residuals, Jacobian, and anything else that is wanted at the solution (arrays, or None).
      x: the start.
      max_iterations: turns at most.
      least_drop: the end is also where the undamped step promises a smaller drop, as a share of the sum of squares.
      max_shift: the end is where the undamped step is shorter than this in standard uncertainties, all parameters together:
        it promises a drop of the sum of squares by the square of this times the mean square of a residual.

    Returns:
      The lowest point found. Where the start has residuals that are not finite, it is the start, not converged.
    """
    n = x.shape[0]
    residuals = jax.jit(residuals)  # so that it is traced once, though it is met twice below
    zero = jnp.zeros((), x.dtype)

    def turn(s: _State) -> _State:
        r, j, parts = residuals(s.trial)
        cost = jnp.sum(jnp.square(r))
        drop = s.cost - cost
        is_better = jnp.isfinite(cost) & jnp.all(jnp.isfinite(j)) & ((drop > 0) | (s.iterations == 0))
        j = jnp.where(is_better, j, 0.0)
        x = jnp.where(is_better, s.trial, s.x)
        normal = jnp.where(is_better, j.T @ j, s.normal)
        gradient = jnp.where(is_better, j.T @ jnp.where(jnp.isfinite(r), r, 0.0), s.gradient)
        gain = drop / jnp.where(s.predicted > 0, s.predicted, 1.0)
        shrink = jnp.maximum(1.0 / 3.0, 1.0 - (2.0 * gain - 1.0) ** 3)
        is_first = s.iterations == 0
        damping = jnp.where(is_better, jnp.where(is_first, s.damping, s.damping * shrink), s.damping * s.growth)
        growth = jnp.where(is_better, 2.0, 2.0 * s.growth)
        cost = jnp.where(is_better, cost, s.cost)
        # Converged where the whole way to the minimum of the quadratic model is short, and not only the damped step.
        step, predicted, possible = _step(normal, gradient, damping)
        first = jnp.where(is_first, cost, s.first)
        is_short = possible < jnp.maximum(max_shift**2 * cost / r.size, ROUNDING * first)
        is_flat = possible < least_drop * cost
        return _State(
            x=x,
            trial=x + step,
            cost=cost,
            normal=normal,
            gradient=gradient,
            damping=damping,
            growth=growth,
            predicted=predicted,
            iterations=s.iterations + 1,
            converged=jnp.isfinite(cost) & (is_short | is_flat),
            stuck=~jnp.isfinite(cost) | (damping > MAX_DAMPING),
            parts=jax.tree.map(lambda new, old: jnp.where(is_better | is_first, new, old), parts, s.parts),
            first=first,
        )

    start = _State(
        x=x,
        trial=x,
        cost=jnp.full((), jnp.inf, x.dtype),
        normal=jnp.zeros((n, n), x.dtype),
        gradient=jnp.zeros(n, x.dtype),
        damping=zero + FIRST_DAMPING,
        growth=zero + 2.0,
        predicted=zero,
        iterations=jnp.zeros((), jnp.int32),
        converged=jnp.zeros((), bool),
        stuck=jnp.zeros((), bool),
        parts=_zeros_like_parts(residuals, x),
        first=zero,
    )
    end = lax.while_loop(lambda s: ~s.converged & ~s.stuck & (s.iterations < max_iterations), turn, start)
    return Solution(
        x=end.x, cost=end.cost, normal=end.normal, iterations=end.iterations, converged=end.converged, parts=end.parts
    )


def _zeros_like_parts(residuals: Residuals, x: Float[Array, " parameter"]) -> Any:
    structures: list[Any] = []

    def leaves(x: Float[Array, " parameter"]) -> list[Array]:
        flat, structure = jax.tree.flatten(residuals(x)[2])
        structures.append(structure)
        return flat

    zeros = [jnp.zeros(a.shape, a.dtype) for a in jax.eval_shape(leaves, x)]
    return structures[0].unflatten(zeros)


def _step(
    normal: Float[Array, "parameter parameter"], gradient: Float[Array, " parameter"], damping: Float[Array, ""]
) -> tuple[Float[Array, " parameter"], Float[Array, ""], Float[Array, ""]]:
    """The damped step, the drop that it promises, and the drop that the undamped one would."""
    length = jnp.sqrt(jnp.diagonal(normal))
    is_free = length > UNSEEN * jnp.max(length)
    length = jnp.where(is_free, length, 1.0)
    scaled = normal / length / length[:, None] * is_free * is_free[:, None]
    scaled = scaled + jnp.diag(jnp.where(is_free, 0.0, 1.0))
    g = jnp.where(is_free, gradient / length, 0.0)
    value, vector = jnp.linalg.eigh(scaled)
    along = vector.T @ g
    safe = jnp.maximum(value, RANK_TOLERANCE * value[-1])
    damped = -(vector @ (along / (safe + damping)))
    predicted = -(2.0 * g @ damped + damped @ (scaled @ damped))
    return damped / length, predicted, jnp.sum(jnp.square(along) / safe)


def jacobian_of(
    model: Callable[[Float[Array, " parameter"]], tuple[Float[Array, " point"], Any]],
    x: Float[Array, " parameter"],
    directions: Float[Array, "free parameter"],
) -> tuple[Float[Array, " point"], Float[Array, "point free"], Any]:
    """A model's values, their derivatives along some directions in one forward pass each, and what else the model returns."""

    def push(direction: Float[Array, " parameter"]) -> tuple[Array, Array, Any]:
        y, column, parts = jax.jvp(model, (x,), (direction,), has_aux=True)
        return y, column, parts

    return jax.vmap(push, out_axes=(None, 1, None))(directions)
