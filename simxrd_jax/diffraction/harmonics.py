"""Device zone. Preferred orientation by symmetrised spherical harmonics, for a specimen with one axis of symmetry.

A specimen that spins, or was pressed, has a texture with cylindrical symmetry about its normal, and a reflection measures it
along that normal (Bragg-Brentano geometry): the factor of a reflection is the density of crystals with that plane normal up,

    T(h) = 1 + sum_lm c_lm k_lm(h),  l = 2, 4, ..., L,

k_lm being the real spherical harmonics of the plane normal, averaged over the Laue group. They are normalised to a mean square
of 1 over the sphere, so that T has the mean 1 and the texture index is J = 1 + sum c_lm^2. Of a capillary that spins about an
axis across the plane of diffraction, c_lm hold the factor P_l(0) besides.

Why polynomials in the cosines and not angles: they have no pole, and derivatives by the cell come along.

Reference: Jarvinen (1993), J. Appl. Cryst. 26, 525; Von Dreele (1997), J. Appl. Cryst. 30, 517, whose C_l are
sqrt(2 l + 1) c_l.
"""

from __future__ import annotations

import math
from typing import Any

import jax.numpy as jnp
from jaxtyping import Float, Int, Num

from simxrd_jax.errors import InputError
from simxrd_jax.numerics import smooth_floor
from simxrd_jax.types import Array

# Scale of the smooth floor under T, which a series that is cut off may bring below 0: T = 0 leaves 0.005, T = 0.2 is moved by
# 1e-4.
FLOOR = 0.01


def harmonic_terms(order: int) -> tuple[tuple[int, int], ...]:
    """(l, m) of each coefficient up to an even order: l = 2, 4, ..., of each m = 0, 1, -1, 2, -2, ...; m < 0 is the sine."""
    return tuple((l, m) for l in range(2, order + 1, 2) for m in sorted(range(-l, l + 1), key=lambda m: (abs(m), -m)))


def order_of(length: int) -> int:
    """The order of so many coefficients: 5 are l = 2, 14 reach l = 4, 27 l = 6, 44 l = 8.

    Raises:
      InputError: no order has as many.
    """
    order = round(math.sqrt(2 * length + 2.25) - 1.5)
    if length < 5 or order % 2 or (order + 1) * (order + 2) != 2 * (length + 1):
        raise InputError(f"{length} harmonic coefficients reach no order; give 5, 14, 27 or 44, for l up to 2, 4, 6 or 8")
    return order


def real_harmonics(x: Any, y: Any, z: Any, order: int) -> list[Any]:
    """Real spherical harmonics of the terms of `harmonic_terms` at directions (x, y, z), of mean square 1 over the sphere.

    Args:
      x, y, z: components of unit vectors, numpy or jax.
      order: greatest l, even.

    Returns:
      One array a term, of the components' shape.

    Reference: Holmes & Featherstone (2002), J. Geod. 76, 279, eqs. 11 to 13 (the recurrence in l).
    """
    cosine, sine = 1.0 + 0.0 * x, 0.0 * x  # Re and Im of (x + i y)^m
    values: dict[tuple[int, int], Any] = {}
    diagonal = 1.0
    for m in range(order + 1):
        if m > 0:
            cosine, sine = cosine * x - sine * y, cosine * y + sine * x
            diagonal *= math.sqrt((2 * m + 1) / (2 * m)) * (math.sqrt(2.0) if m == 1 else 1.0)
        before, latest = 0.0 * z, diagonal + 0.0 * z
        for l in range(m, order + 1):
            if l > m:
                a = math.sqrt((4 * l * l - 1) / (l * l - m * m))
                b = math.sqrt(((l - 1) ** 2 - m * m) / (4 * (l - 1) ** 2 - 1)) if l > m + 1 else 0.0
                before, latest = latest, a * (z * latest - b * before)
            values[l, m] = latest * cosine
            values[l, -m] = latest * (sine if m else cosine)
    return [values[term] for term in harmonic_terms(order)]


def cartesian_frame(reciprocal: Float[Array, "3 3"]) -> tuple[tuple[Any, Any, Any], tuple[Any, Any], Any]:
    """Components of a*, b*, c* on axes with x along a and z along c*: ((x, y, z) of a*, (y, z) of b*, z of c*). [1/A]"""
    g = reciprocal
    c_z = jnp.sqrt(g[2, 2])
    a_z, b_z = g[0, 2] / c_z, g[1, 2] / c_z
    b_y = jnp.sqrt(g[1, 1] - b_z * b_z)
    a_y = (g[0, 1] - a_z * b_z) / b_y
    a_x = jnp.sqrt(g[0, 0] - a_y * a_y - a_z * a_z)
    return (a_x, a_y, a_z), (b_y, b_z), c_z


def symmetric_harmonics(
    hkl: Num[Array, "hkl 3"], order: int, reciprocal: Float[Array, "3 3"], rotations: Int[Array, "op 3 3"] | None
) -> Float[Array, "hkl harmonic"]:
    """Each harmonic at the plane normals, the mean over the images h R of a reflection."""
    images = hkl[None] if rotations is None else jnp.einsum("hi,rij->rhj", hkl, rotations)
    h, k, l = (images[..., i].astype(reciprocal.dtype) for i in range(3))
    (a_x, a_y, a_z), (b_y, b_z), c_z = cartesian_frame(reciprocal)
    x, y, z = h * a_x, h * a_y + k * b_y, h * a_z + k * b_z + l * c_z
    inverse = 1.0 / jnp.sqrt(x * x + y * y + z * z)
    return jnp.stack([jnp.mean(v, axis=0) for v in real_harmonics(x * inverse, y * inverse, z * inverse, order)], axis=-1)


def harmonic_texture(
    hkl: Num[Array, "hkl 3"],
    coefficients: Float[Array, " harmonic"],
    reciprocal: Float[Array, "3 3"],
    rotations: Int[Array, "op 3 3"] | None = None,
) -> Float[Array, " hkl"]:
    """Factor T of each reflection, see the module, held above zero smoothly.

    Args:
      hkl: one reflection of each orbit.
      coefficients: c_lm in the order of `harmonic_terms`, whose order follows from their number; the part that the Laue group
        keeps counts.
      reciprocal: metric that the rotations keep. [1/A^2]
      rotations: of the Laue group; None takes each reflection for itself.

    Raises:
      InputError: a number of coefficients that no order has.
    """
    basis = symmetric_harmonics(hkl, order_of(coefficients.shape[0]), reciprocal, rotations)
    density = 1.0 + jnp.sum(basis * coefficients, axis=-1)
    return smooth_floor(density, FLOOR) / smooth_floor(1.0, FLOOR)
