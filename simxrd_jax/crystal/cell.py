"""Device zone. The lattice and its metric: strain, volume, and 1/d^2 = h^T G^-1 h, always from the traced cell.

Every number that depends on the cell is computed here from the lattice vectors, so gradients reach the cell from each of
them. The reciprocal metric is written out by cofactors: a library inverse of a 3 x 3 matrix pivots, which is slower in a
batch and no more accurate for the metric of a real crystal.
"""

from __future__ import annotations

import jax.numpy as jnp
from flax import struct
from jaxtyping import Float, Int, Num

from simxrd_jax.types import Array, Specimen

REFERENCE_TEMPERATURE = 293.15  # K; where a cell parameter without a stated temperature is taken to hold


def deformed_lattice(lattice: Float[Array, "3 3"], specimen: Specimen) -> Float[Array, "3 3"]:
    """Lattice under the specimen's strain and thermal expansion: A' = (1 + e)(1 + alpha (T - 293.15 K)) A.

    Args:
      lattice: rows are a, b, c. [A]
      specimen: `strain` (general 3 x 3 tensor; its antisymmetric part only turns the crystal), `thermal_expansion`.

    Returns:
      Rows of the deformed lattice. [A]
    """
    lattice = jnp.asarray(lattice)  # a float64 host array becomes float32 without a warning where x64 is off
    strain = jnp.asarray(specimen.strain, dtype=lattice.dtype)
    strained = lattice + _matmul(lattice, strain.T)
    if specimen.thermal_expansion is None or specimen.temperature is None:
        return strained
    return strained * (1.0 + specimen.thermal_expansion * (specimen.temperature - REFERENCE_TEMPERATURE))


@struct.dataclass
class DeformedCell:
    """What reflections need to know of the cell of a strained specimen.

    Attributes:
      reciprocal: metric of the reciprocal lattice. [1/A^2]
      volume: [A^3]
    """

    reciprocal: Float[Array, "3 3"]
    volume: Float[Array, ""]


def deformed_cell(
    lattice: Float[Array, "3 3"], specimen: Specimen, rotations: Int[Array, "op 3 3"] | None = None
) -> DeformedCell:
    """The cell under strain and thermal expansion.

    Args:
      lattice: rows are a, b, c. [A]
      specimen: strain, thermal expansion.
      rotations: of the Laue group, whose class the cell then keeps; None lets the strain break it.
    """
    strained = metric(deformed_lattice(lattice, specimen))
    if rotations is not None:
        strained = laue_average(strained, rotations)
    return DeformedCell(reciprocal=reciprocal_metric(strained), volume=volume(strained))


def metric(lattice: Float[Array, "3 3"]) -> Float[Array, "3 3"]:
    """Metric tensor G_ij = a_i . a_j. [A^2]"""
    return _matmul(lattice, lattice.T)


def laue_average(metric_tensor: Float[Array, "3 3"], rotations: Int[Array, "op 3 3"]) -> Float[Array, "3 3"]:
    """The part of a metric that keeps the Laue class: G = mean over R of R^T G R (the Reynolds operator).

    A strain that would split orbits is projected on the strains that do not; a metric that already has the symmetry is
    returned unchanged (to rounding).
    """
    r = rotations.astype(metric_tensor.dtype)
    return jnp.mean(_matmul(jnp.swapaxes(r, 1, 2), _matmul(metric_tensor, r)), axis=0)


def class_keeping_strain(
    lattice: Float[Array, "3 3"], strain: Float[Array, "3 3"], rotations: Int[Array, "op 3 3"]
) -> Float[Array, "3 3"]:
    """The symmetric strain U - 1 whose cell has the metric that is left of a strain after `laue_average`.

    With rows A the strained metric is A (1 + E) A^T, 1 + E = (1 + e)^T (1 + e); E is averaged over the group and
    U = sqrt(1 + E) follows by its series, to 1e-8 for strains of 3 %.

    Args:
      lattice: rows are a, b, c, unstrained. [A]
      strain: any tensor e.
      rotations: of the Laue group.
    """
    excess = strain + strain.T + _matmul(strain.T, strain)
    change = laue_average(_matmul(_matmul(lattice, excess), lattice.T), rotations)
    # A^-1 = A^T G*: no library inverse, see the module's docstring.
    inverse = _matmul(lattice.T, reciprocal_metric(metric(lattice)))
    e = _matmul(_matmul(inverse, change), inverse.T)
    square = _matmul(e, e)
    return e / 2.0 - square / 8.0 + _matmul(square, e) / 16.0 - 5.0 * _matmul(square, square) / 128.0


def reciprocal_metric(metric_tensor: Float[Array, "3 3"]) -> Float[Array, "3 3"]:
    """G* = G^-1, by cofactors. [1/A^2]"""
    g = metric_tensor
    cofactors = jnp.stack([jnp.cross(g[1], g[2]), jnp.cross(g[2], g[0]), jnp.cross(g[0], g[1])])
    return cofactors / jnp.sum(g[0] * cofactors[0])


def volume(metric_tensor: Float[Array, "3 3"]) -> Float[Array, ""]:
    """Cell volume, sqrt(det G). [A^3]"""
    g = metric_tensor
    return jnp.sqrt(jnp.sum(g[0] * jnp.cross(g[1], g[2])))


def inverse_d_squared(reciprocal: Float[Array, "3 3"], hkl: Num[Array, "hkl 3"]) -> Float[Array, " hkl"]:
    """1/d^2 = h^T G* h. [1/A^2]

    Written as a sum of six products instead of a matrix product, so that an accelerator's reduced-precision matrix unit
    never touches a peak position. Products of indices are taken as whole numbers: XLA would otherwise choose, differently in
    different programs, which two of three factors to multiply, and round, first.
    """
    g = reciprocal
    whole = hkl.astype(jnp.int32) if jnp.issubdtype(hkl.dtype, jnp.integer) else hkl
    h, k, l = (whole[:, i] for i in range(3))
    products = (h * h, k * k, l * l, 2 * k * l, 2 * h * l, 2 * h * k)
    entries = (g[0, 0], g[1, 1], g[2, 2], g[1, 2], g[0, 2], g[0, 1])
    first, *rest = (product.astype(g.dtype) * entry for product, entry in zip(products, entries, strict=True))
    return sum(rest, start=first)


def cell_to_lattice(lengths: Float[Array, "3"], angles: Float[Array, "3"]) -> Float[Array, "3 3"]:
    """Lattice vectors from cell parameters; a along x, b in the xy plane.

    Args:
      lengths: a, b, c. [A]
      angles: alpha, beta, gamma. [deg]

    Returns:
      Rows a, b, c. [A]
    """
    a, b, c = lengths
    cos_alpha, cos_beta, cos_gamma = jnp.cos(jnp.deg2rad(angles))
    sin_gamma = jnp.sin(jnp.deg2rad(angles[2]))
    zero = jnp.zeros_like(a)
    c_y = (cos_alpha - cos_beta * cos_gamma) / sin_gamma
    c_z = jnp.sqrt(1.0 - cos_beta**2 - c_y**2)
    return jnp.stack(
        [
            jnp.stack([a, zero, zero]),
            jnp.stack([b * cos_gamma, b * sin_gamma, zero]),
            jnp.stack([c * cos_beta, c * c_y, c * c_z]),
        ]
    )


def _matmul(x: Float[Array, "... 3 3"], y: Float[Array, "... 3 3"]) -> Float[Array, "... 3 3"]:
    """Product of 3 x 3 matrices as written-out sums: alone and in a batch then round alike, and no matrix unit takes part."""
    columns = [x[..., :, k, None] * y[..., None, k, :] for k in range(3)]
    return columns[0] + columns[1] + columns[2]
