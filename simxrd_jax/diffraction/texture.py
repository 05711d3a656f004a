"""Device zone. Preferred orientation.

March-Dollase is averaged over the members of each orbit: reflections that share a d-spacing make different angles with
the texture axis, and taking one representative is wrong by up to the whole correction.
"""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Float, Int, Num

from simxrd_jax.crystal import cell
from simxrd_jax.types import Array, Scalar


def march_dollase(cos_squared: Float[Array, "*member"], r: Scalar) -> Float[Array, "*member"]:
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
    hkl: Num[Array, "hkl 3"],
    axis: Num[Array, "3"],
    r: Scalar,
    reciprocal: Float[Array, "3 3"],
    rotations: Int[Array, "op 3 3"] | None = None,
) -> Float[Array, " hkl"]:
    """March-Dollase factor of each reflection, the mean over its orbit.

    Every member of an orbit occurs equally often among the images h R of one of them under the Laue group, so the mean is
    taken over the group: no list of members is needed, and turning the axis in place of each reflection makes a term cost a
    scalar product.

    Args:
      hkl: one reflection of each orbit.
      axis: Miller indices of the plane normal that is the texture axis.
      r: March coefficient.
      reciprocal: metric that the rotations keep. [1/A^2]
      rotations: of the Laue group; None takes each reflection for itself.
    """
    axis = jnp.asarray(axis, dtype=reciprocal.dtype)
    if rotations is None:
        return march_dollase(cos_squared_to_axis(hkl, axis, reciprocal), r)
    g_axis = jnp.sum(reciprocal * axis, axis=1)
    turned = jnp.sum(rotations.astype(reciprocal.dtype) * g_axis, axis=2)
    h, k, l = (hkl[:, i].astype(reciprocal.dtype) for i in range(3))
    projection = turned[:, :1] * h + turned[:, 1:2] * k + turned[:, 2:] * l
    cos_squared = jnp.square(projection) / (cell.inverse_d_squared(reciprocal, hkl) * jnp.sum(axis * g_axis))
    return jnp.mean(march_dollase(cos_squared, r), axis=0)


def clipped_normal_factor(
    normal: Float[Array, " hkl"], below: Scalar, above: Scalar, spread: float = 0.2
) -> Float[Array, " hkl"]:
    """SimXRD's "grain orientation": 1 + spread z clipped to [1 - below, 1 + above], for standard normal draws z."""
    return jnp.clip(1.0 + spread * normal, 1.0 - below, 1.0 + above)
