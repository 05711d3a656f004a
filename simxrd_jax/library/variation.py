"""Device zone. Crystals that do not exist, made of those of a library: another cell of the same crystal class, other |F|^2.

Why: a network that is asked about new crystals learns more of symmetry from many crystals than from many patterns of few, and
what a space group leaves to chance, the lengths and angles that its class leaves free and the intensities that are not absent,
can be drawn anew in the simulator.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array as JaxArray
from jaxtyping import Float, Int, Key

from simxrd_jax.crystal import cell
from simxrd_jax.diffraction.noise import DRAW_DTYPE
from simxrd_jax.types import Array

SHEAR_SHARE = 1.0 / 3.0  # greatest shear over greatest shortening


def class_keeping_shortening(
    lattice: Float[Array, "3 3"], rotations: Int[Array, "op 3 3"], most: float, *, key: Key[JaxArray, ""]
) -> Float[Array, "3 3"]:
    """A symmetric strain e that keeps the crystal class; the rows of lattice (1 + e) are the other cell's.

    Stretches are uniform from -most to 0, shears within a third of it, averaged over the Laue group. At such strains the
    series of `class_keeping_strain` is no longer exact: e is not quite the drawn one, but keeps the class all the same, being
    a polynomial of an averaged tensor.

    Args:
      lattice: rows are a, b, c. [A]
      rotations: of the Laue group.
      most: greatest relative shortening.
      key: typed random key.
    """
    drawn = jax.random.uniform(key, (6,), DRAW_DTYPE).astype(lattice.dtype)
    xx, yy, zz = -most * drawn[:3]
    yz, xz, xy = SHEAR_SHARE * most * (2.0 * drawn[3:] - 1.0)
    strain = jnp.stack([xx, xy, xz, xy, yy, yz, xz, yz, zz]).reshape(3, 3)
    return cell.class_keeping_strain(lattice, strain, rotations)


def log_normal_factor(places: Int[Array, " hkl"], most: float, *, key: Key[JaxArray, ""]) -> Float[Array, " hkl"]:
    """A random factor of |F|^2 for each reflection: exp(s n), n normal, s uniform from 0 to `most` and one for all.

    Each reflection draws from a key of its own, so that any part of a list can be drawn alone.

    Args:
      places: of the reflections in the structure's list.
      most: greatest spread of the logarithm.
      key: typed random key.
    """
    spread = most * jax.random.uniform(key, (), DRAW_DTYPE)
    drawn = jax.vmap(lambda place: jax.random.normal(jax.random.fold_in(key, place), (), DRAW_DTYPE))(places)
    return jnp.exp(spread * drawn)
