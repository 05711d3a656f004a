"""Device zone. Preferred orientation.

March-Dollase is averaged over the members of each orbit: reflections that share a d-spacing make different angles with
the texture axis, and taking one representative is wrong by up to the whole correction.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Float, Num

from simxrd_jax.crystal import cell
from simxrd_jax.numerics import safe_divide
from simxrd_jax.types import Array, ReflectionList, Scalar


def march_dollase(cos_squared: Float[Array, " member"], r: Scalar) -> Float[Array, " member"]:
    """Pole density (r^2 cos^2 a + sin^2 a / r)^(-3/2) at the angle a between plane normal and texture axis.

    Its mean over the sphere is 1 for every r > 0; r = 1 gives 1.

    Reference: Dollase (1986), J. Appl. Cryst. 19, 267, eq. 4.
    """
    base = r**2 * cos_squared + (1.0 - cos_squared) / r
    # Not base**-1.5: a general power is an order of magnitude slower than a square root.
    return 1.0 / (base * jnp.sqrt(base))


def cos_squared_to_axis(
    hkl: Num[Array, "member 3"], axis: Num[Array, "3"], reciprocal: Float[Array, "3 3"]
) -> Float[Array, " member"]:
    """cos^2 of the angle between plane normals and the normal of the plane `axis`, in the reciprocal metric."""
    axis = jnp.asarray(axis, dtype=reciprocal.dtype)
    g_axis = jnp.sum(reciprocal * axis, axis=1)
    h, k, l = (hkl[:, i].astype(reciprocal.dtype) for i in range(3))
    h_axis = h * g_axis[0] + k * g_axis[1] + l * g_axis[2]
    h_h = cell.inverse_d_squared(reciprocal, hkl)
    return jnp.square(h_axis) / (h_h * jnp.sum(axis * g_axis))


def orbit_march_dollase(
    reflections: ReflectionList, axis: Num[Array, "3"], r: Scalar, reciprocal: Float[Array, "3 3"]
) -> Float[Array, " hkl"]:
    """March-Dollase factor of each unique reflection, the mean over its orbit."""
    density = march_dollase(cos_squared_to_axis(reflections.member_hkl, axis, reciprocal), r)
    counts = reflections.member_count.astype(density.dtype)
    size = reflections.hkl.shape[0]
    total = jax.ops.segment_sum(density * counts, reflections.member_reflection, num_segments=size, indices_are_sorted=True)
    return safe_divide(total, reflections.multiplicity.astype(density.dtype))


def clipped_normal_factor(
    normal: Float[Array, " hkl"], below: Scalar, above: Scalar, spread: float = 0.2
) -> Float[Array, " hkl"]:
    """SimXRD's "grain orientation": 1 + spread z clipped to [1 - below, 1 + above], for standard normal draws z."""
    return jnp.clip(1.0 + spread * normal, 1.0 - below, 1.0 + above)
