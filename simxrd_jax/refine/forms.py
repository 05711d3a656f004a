"""Host zone. What the Laue group leaves free of Stephens' quartic form and of spherical harmonics.

The quartic form is a matter of whole numbers, solved in rational arithmetic as `crystal.constraints` does. Harmonics are made
orthonormal instead, so that the texture index is a sum of squares.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Float, Int

from simxrd_jax.crystal import symmetry
from simxrd_jax.crystal.constraints import fixed_vectors
from simxrd_jax.crystal.structure import CrystalStructure
from simxrd_jax.diffraction.anisotropic_strain import EXPONENTS
from simxrd_jax.diffraction.harmonics import harmonic_terms, real_harmonics
from simxrd_jax.errors import InputError

MAX_ORDER = 12
# A harmonic's part that the group keeps, once what others hold is taken out: 0 to rounding, or a number of size 1.
LEAST_NORM = 1e-3


@dataclasses.dataclass(frozen=True, eq=False)
class FormBasis:
    """Free coefficients of a form: all of them are `matrix @ free`.

    Attributes:
      names: of the free ones.
      matrix: change of each coefficient with each free one.
      start: values of the free ones to start from.
      reach: size of a free one that makes a form of size 1.
    """

    names: tuple[str, ...]
    matrix: Float[np.ndarray, "coefficient free"]
    start: Float[np.ndarray, " free"]
    reach: Float[np.ndarray, " free"]


def stephens_basis(structure: CrystalStructure, microstrain: float = 0.0) -> FormBasis:
    """The quartic forms that the Laue group keeps, 2 (cubic) to 15 (triclinic) of them.

    Args:
      structure: its rotations, and its lattice for the start.
      microstrain: isotropic e of the form to start from, 16 e^2/d^4.

    Returns:
      Names are powers, such as "400" and "220"; in reduced echelon form, so that a free coefficient is S_HKL itself.

    Reference: Stephens (1999), J. Appl. Cryst. 32, 281.
    """
    rotations = np.unique(symmetry.laue_rotations(structure.rotations), axis=0).astype(np.int64)
    basis, free = fixed_vectors(np.stack([_substitution(rotation) for rotation in rotations]))
    reciprocal = np.linalg.inv(structure.lattice @ structure.lattice.T)
    quadratic: dict[tuple[int, ...], float] = {}
    for i in range(3):
        for j in range(3):
            power = tuple(int(v) for v in np.eye(3, dtype=int)[i] + np.eye(3, dtype=int)[j])
            quadratic[power] = quadratic.get(power, 0.0) + float(reciprocal[i, j])
    isotropic = _product(quadratic, quadratic)
    names = tuple("".join(str(n) for n in EXPONENTS[i]) for i in free)
    start = 16.0 * microstrain**2 * np.array([isotropic.get(EXPONENTS[i], 0.0) for i in free])
    # d^4 times a term of the form is |a*|^H |b*|^K |c*|^L d^4 at most.
    lengths = np.sqrt(np.diag(reciprocal))
    reach = np.array([np.prod(lengths ** np.array(EXPONENTS[i])) for i in free])
    return FormBasis(names=names, matrix=basis.astype(np.float64), start=start, reach=reach)


def _product(first: dict, second: dict) -> dict:
    """Product of two polynomials, each exponents -> coefficient."""
    result: dict[tuple[int, ...], float] = {}
    for p, a in first.items():
        for q, b in second.items():
            power = tuple(i + j for i, j in zip(p, q, strict=True))
            result[power] = result.get(power, 0) + a * b
    return result


def _substitution(rotation: Int[np.ndarray, "3 3"]) -> Int[np.ndarray, "15 15"]:
    """What becomes of a form's coefficients where h R stands for h."""
    units = [tuple(int(v) for v in row) for row in np.eye(3, dtype=int)]
    linear = [{units[i]: int(rotation[i, j]) for i in range(3) if rotation[i, j]} for j in range(3)]
    matrix = np.zeros((len(EXPONENTS), len(EXPONENTS)), dtype=np.int64)
    for column, exponents in enumerate(EXPONENTS):
        polynomial: dict = {(0, 0, 0): 1}
        for axis, power in enumerate(exponents):
            for _ in range(power):
                polynomial = _product(polynomial, linear[axis])
        for power, coefficient in polynomial.items():
            matrix[EXPONENTS.index(power), column] = coefficient  # pyright: ignore[reportArgumentType]
    return matrix


def harmonics_basis(structure: CrystalStructure, order: int) -> FormBasis:
    """Orthonormal combinations of the real harmonics of each even l that the Laue group keeps.

    Args:
      structure: its rotations, and its lattice for the directions.
      order: greatest l, even.

    Returns:
      Names are l_m after the harmonic that each is made of first, such as "4_0" of the cubic one; starts are 0.

    Raises:
      InputError: an order that is odd, or not from 2 to MAX_ORDER, or at which nothing is free.
    """
    if order % 2 or not 2 <= order <= MAX_ORDER:
        raise InputError(f"the harmonics' order {order} must be an even number from 2 to {MAX_ORDER}; choose such a one")
    rotations = np.unique(symmetry.laue_rotations(structure.rotations), axis=0)
    # Rows a*, b*, c* on axes with x along a, z along c*, as the device has them.
    b = np.linalg.inv(structure.lattice).T
    z = b[2] / np.linalg.norm(b[2])
    x = structure.lattice[0] / np.linalg.norm(structure.lattice[0])
    frame = b @ np.stack([x, np.cross(z, x), z]).T
    turns = np.linalg.inv(frame) @ rotations @ frame  # n -> n turn, for rows h frame
    terms = harmonic_terms(order)
    # A rule on the sphere that is exact for products of two harmonics.
    nodes, weights = np.polynomial.legendre.leggauss(order + 1)
    angle = 2 * np.pi * np.arange(2 * order + 1) / (2 * order + 1)
    height, azimuth = (v.ravel() for v in np.meshgrid(nodes, angle, indexing="ij"))
    weight = np.repeat(0.5 * weights, len(angle)) / len(angle)
    radius = np.sqrt(1 - height**2)
    points = np.stack([radius * np.cos(azimuth), radius * np.sin(azimuth), height], axis=1)
    values = lambda p: np.stack(real_harmonics(p[:, 0], p[:, 1], p[:, 2], order), axis=1)  # noqa: E731
    plain = values(points)
    mean = np.mean([values(points @ turn) for turn in turns], axis=0)
    projector = (plain * weight[:, None]).T @ mean
    columns: list[np.ndarray] = []
    names: list[str] = []
    for i, (l, m) in enumerate(terms):
        column = projector[:, i]
        for other in columns:
            column = column - other * (other @ column)
        norm = np.linalg.norm(column)
        if norm > LEAST_NORM:
            column = np.where(np.abs(column) > 1e-12, column, 0.0) / norm
            columns.append(column * np.sign(column[i]))
            names.append(f"{l}_{m}")
    if not columns:
        raise InputError(f"{structure.source}: no harmonic of order {order} has the crystal's symmetry; take order 4 or more")
    count = len(columns)
    return FormBasis(names=tuple(names), matrix=np.stack(columns, axis=1), start=np.zeros(count), reach=np.ones(count))
