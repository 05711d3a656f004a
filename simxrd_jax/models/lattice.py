"""Device and host. How a network says a lattice: six numbers of about one."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from simxrd_jax.types import Array

LATTICE = "lattice"  # the target's name
# Scales that bring the numbers to about one: spread of log lengths, and of cosines, in the Materials Project.
LOG_LENGTH_CENTRE, LOG_LENGTH_SPREAD, COSINE_SPREAD = 2.0, 0.5, 0.25


def lattice_numbers(lattice: Float[Array, "batch 3 3"]) -> Float[Array, "batch 6"]:
    """Logarithms of a, b, c and cosines of alpha, beta, gamma, each centred and of about unit spread.

    Args:
      lattice: rows are a, b, c. [A]
    """
    lengths = jnp.linalg.norm(lattice, axis=-1)
    unit = lattice / lengths[..., None]
    cosines = jnp.stack([jnp.sum(unit[..., i, :] * unit[..., j, :], axis=-1) for i, j in ((1, 2), (0, 2), (0, 1))], axis=-1)
    return jnp.concatenate([(jnp.log(lengths) - LOG_LENGTH_CENTRE) / LOG_LENGTH_SPREAD, cosines / COSINE_SPREAD], axis=-1)


def cell_of_numbers(numbers: Float[Array, "batch 6"]) -> Float[np.ndarray, "batch 6"]:
    """a, b, c in A and alpha, beta, gamma in degrees of `lattice_numbers`."""
    values = np.asarray(numbers, dtype=np.float64)
    lengths = np.exp(values[..., :3] * LOG_LENGTH_SPREAD + LOG_LENGTH_CENTRE)
    angles = np.degrees(np.arccos(np.clip(values[..., 3:] * COSINE_SPREAD, -1.0, 1.0)))
    return np.concatenate([lengths, angles], axis=-1)


def enlarged(numbers: Float[Array, "batch 6"], log_factor: Float[Array, " batch"]) -> Float[Array, "batch 6"]:
    """The numbers of a lattice whose lengths are exp(log_factor) times as long."""
    return numbers.at[:, :3].add(log_factor[:, None].astype(numbers.dtype) / LOG_LENGTH_SPREAD)
