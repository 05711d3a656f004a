"""Host zone. What symmetry leaves free: cell parameters, coordinates and displacement tensors, as linear maps.

Why from the operators and not from tables of space groups and Wyckoff positions: a structure carries its operators, in
whatever setting, and a table would need the setting to be recognised first. Every constraint is a set of linear equations
with whole-number coefficients: (R - 1) v = 0 of a displacement v, R beta R^T = beta of a tensor, R^T G R = G of the metric,
each R of a group. They are solved in rational arithmetic, so that a rank is exact, and a coefficient is 2 and not
1.9999999. Each solution is in reduced echelon form: a free direction is named after the one number that it moves by itself.
"""

from __future__ import annotations

import dataclasses
import math
from fractions import Fraction

import numpy as np
from jaxtyping import Float, Int

from simxrd_jax.crystal import symmetry
from simxrd_jax.crystal.structure import SAME_POSITION, CrystalStructure
from simxrd_jax.errors import InputError

CELL_NAMES = ("a", "b", "c", "alpha", "beta", "gamma")
COORDINATE_NAMES = ("x", "y", "z")
U_NAMES = ("u11", "u22", "u33", "u12", "u13", "u23")
_FIRST, _SECOND = np.array([0, 1, 2, 0, 0, 1]), np.array([0, 1, 2, 1, 2, 2])  # axes of each component of a tensor
# For alpha, beta, gamma: the component of the metric that holds the cosine, and the axes. math.acos rounds 60 and 120.
_ANGLES = ((5, (1, 2)), (4, (0, 2)), (3, (0, 1)))
_EXACT_ANGLES = {Fraction(1, 2): 60.0, Fraction(0): 90.0, Fraction(-1, 2): 120.0}


@dataclasses.dataclass(frozen=True, eq=False)
class CellBasis:
    """The free cell parameters of a crystal class; all six are `np.where(index >= 0, free[index], fixed)`.

    Attributes:
      names: of the free ones, of a, b, c, alpha, beta, gamma; of equal ones the first.
      index: for each of the six the free one that it equals, -1 if it is fixed.
      fixed: value of those that are fixed, 0 for the others. [deg]
    """

    names: tuple[str, ...]
    index: Int[np.ndarray, "6"]
    fixed: Float[np.ndarray, "6"]


@dataclasses.dataclass(frozen=True, eq=False)
class SiteBasis:
    """What the site symmetry leaves free of a position and of its displacement tensor.

    Attributes:
      operators: indices of the operators, of those that `symmetry.split_centring` keeps, that leave the position in place
        modulo lattice and centring translations: the site-symmetry group.
      coordinate_names: of the free coordinates, of x, y, z.
      coordinates: change of (x, y, z) with each of them; of (x, 2x, z) the columns are (1, 2, 0) and (0, 0, 1).
      u_names: of the free tensor components, of u11, u22, u33, u12, u13, u23.
      u_tensor: the components in that order, in the CIF's convention, that each of them brings.
    """

    operators: Int[np.ndarray, " op"]
    coordinate_names: tuple[str, ...]
    coordinates: Float[np.ndarray, "3 coordinate"]
    u_names: tuple[str, ...]
    u_tensor: Float[np.ndarray, "6 component"]


@dataclasses.dataclass(frozen=True, eq=False)
class AtomMaps:
    """Linear maps from the asymmetric unit to `structure.atoms`, in their order.

    Attributes:
      site: entry whose displacement parameters an atom has; the first one where entries share an atom.
      rotation: change of an atom's coordinates with those of its site, d frac_atom = rotation d frac_site.
      u_map: its tensor from that of its site, both as (u11, u22, u33, u12, u13, u23) in the CIF's convention.
      position: entry whose coordinates an atom follows, the first one of a mixed site. It is `site`, but where entries of
        one position have atoms of their own, because their displacement parameters differ or they are written on different
        images of it.
      position_rotation: d frac_atom = position_rotation d frac_position.
    """

    site: Int[np.ndarray, " atom"]
    rotation: Float[np.ndarray, "atom 3 3"]
    u_map: Float[np.ndarray, "atom 6 6"]
    position: Int[np.ndarray, " atom"]
    position_rotation: Float[np.ndarray, "atom 3 3"]


def cell_parameters(structure: CrystalStructure) -> CellBasis:
    """The cell parameters that the rotations leave free, from the metrics with R^T G R = G for all of them.

    A length equals another, or a cosine G_ij/sqrt(G_ii G_jj) has one value, if that holds for all these metrics. The rule
    is complete if as many parameters stay free as there are independent metrics.

    Args:
      structure: its rotations alone are used, neither the space-group number nor the values of the cell.

    Returns:
      Names such as ("a", "c"), or ("a", "alpha") on rhombohedral axes.

    Raises:
      InputError: parameters depend on one another otherwise than by being equal, as in a primitive cell of a body-centred
        lattice, where the three cosines add up to -1.
    """
    rotations = np.unique(structure.rotations, axis=0)
    metric, free_components = fixed_vectors(_congruence(np.swapaxes(rotations, 1, 2)))
    length_of = [next(i for i in range(3) if np.array_equal(metric[i], metric[j])) for j in range(3)]
    # What decides the value of each of the six; equal keys are equal numbers.
    keys: list[object] = [("length", i) for i in length_of]
    fixed = np.zeros(6)
    for at, (component, (i, j)) in enumerate(_ANGLES, start=3):
        cosine = _fixed_cosine(metric[component], metric[i], metric[j])
        if cosine is None:
            keys.append((tuple(metric[component]), *sorted((length_of[i], length_of[j]))))
        else:
            keys.append(None)
            fixed[at] = _EXACT_ANGLES.get(cosine, math.degrees(math.acos(cosine)))
    free = list(dict.fromkeys(key for key in keys if key is not None))
    names = tuple(CELL_NAMES[keys.index(key)] for key in free)
    # The free parameters always reach every metric that the rotations keep; no more of them than metrics, and they reach
    # no other, because the equations between them are analytic and hold in an open set.
    if len(free) > len(free_components):
        raise InputError(
            f"{structure.source}: the operators allow {len(free_components)} free cell parameters but make relations between "
            f"{', '.join(names)}, as in a primitive cell; read the file with a symprec, which gives the conventional cell"
        )
    return CellBasis(names=names, index=np.array([-1 if key is None else free.index(key) for key in keys]), fixed=fixed)


def site_basis(structure: CrystalStructure, entry: int) -> SiteBasis:
    """Coordinates and tensor components that the site symmetry of one entry leaves free.

    With the site-symmetry group's rotations R an allowed displacement has (R - 1) v = 0, an allowed tensor
    R beta R^T = beta. With U = N^-1 beta N^-1/(2 pi^2), N = diag(a*, b*, c*), a coefficient is then multiplied by the
    ratio of two products of reciprocal lengths. In a conventional cell, where rotations mix axes of equal length only,
    these ratios are 1 to rounding, and a basis holds for all cells of the class; in other cells (a primitive one of a
    body-centred lattice) it holds for the present cell.

    Args:
      structure: as a reader returns it, with coordinates on their special positions.
      entry: index into the asymmetric unit.

    Returns:
      Basis matrices [3, 0 to 3] and [6, 1 to 6] in reduced echelon form; a free number has coefficient 1 in its own column
      and 0 in the others.

    Reference: Peterse & Palm (1966), Acta Cryst. 20, 147.
    """
    rotations, translations, centring = symmetry.split_centring(structure.rotations, structure.translations)
    # As in `expand_to_lattice_point`: the entries of an atom row decide together what coincides.
    row = structure.atoms.site_of_entry
    first = row[entry]
    x = structure.frac[first]
    images = rotations @ x + translations
    occupancy = float(structure.occupancy[row == first].sum())
    tolerance = symmetry.merge_tolerance(images, structure.lattice, centring, occupancy)
    operators = np.flatnonzero(symmetry.distances(x[None], images, structure.lattice, centring)[0] < tolerance)
    coordinates, free_coordinates = fixed_vectors(rotations[operators])
    beta, free_components = fixed_vectors(_congruence(rotations[operators]))
    scale = _reciprocal_products(structure.lattice)
    return SiteBasis(
        operators=operators,
        coordinate_names=tuple(COORDINATE_NAMES[i] for i in free_coordinates),
        coordinates=coordinates.astype(np.float64),
        u_names=tuple(U_NAMES[i] for i in free_components),
        u_tensor=beta.astype(np.float64) * scale[free_components] / scale[:, None],
    )


def atom_maps(structure: CrystalStructure) -> AtomMaps:
    """Linear maps from coordinates and tensors of the asymmetric unit to the atoms of one lattice point.

    An atom x' = R x + t of operator (R, t) moves by R v when its site moves by v, and has U' = N^-1 R N U N R^T N^-1. How
    far `u_map` depends on the cell: see `site_basis`.

    Args:
      structure: as a reader returns it.

    Returns:
      The maps [atom, 3, 3] and [atom, 6, 6], and the entries that they start from.
    """
    atoms = structure.atoms
    rotations = symmetry.split_centring(structure.rotations, structure.translations)[0][atoms.operator]
    position, to_entry = _positions(structure)
    scale = _reciprocal_products(structure.lattice)
    return AtomMaps(
        site=atoms.site,
        rotation=rotations.astype(np.float64),
        u_map=_congruence(rotations) * scale / scale[:, None],
        position=position[atoms.site],
        position_rotation=(rotations @ to_entry[atoms.site]).astype(np.float64),
    )


def occupancy_groups(structure: CrystalStructure) -> tuple[tuple[int, ...], ...]:
    """Entries that share one position, or are written on images of one, so that a refinement can hold their sum.

    Args:
      structure: as a reader returns it.

    Returns:
      The entries of each mixed site, in their order; sites of one entry are left out.
    """
    position, _ = _positions(structure)
    groups = (np.flatnonzero(position == first) for first in np.unique(position))
    return tuple(tuple(int(entry) for entry in group) for group in groups if len(group) > 1)


def _positions(structure: CrystalStructure) -> tuple[Int[np.ndarray, " entry"], Int[np.ndarray, "entry 3 3"]]:
    """First entry on each entry's position, and the rotation that leads from it: the identity if both are written alike."""
    rotations, translations, centring = symmetry.split_centring(structure.rotations, structure.translations)
    n_op = len(rotations)
    position = np.arange(len(structure.frac))
    to_entry = np.tile(np.eye(3, dtype=np.int64), (len(structure.frac), 1, 1))
    firsts: list[int] = []
    images = np.zeros((len(structure.frac), n_op, 3))  # of the entries in `firsts`
    for entry, x in enumerate(structure.frac):
        known = images[: len(firsts)].reshape(-1, 3)
        near = np.flatnonzero(symmetry.distances(x[None], known, structure.lattice, centring)[0] < SAME_POSITION)
        if len(near):
            # Operators begin with the identity, which so is preferred where a special position has several.
            which, operator = divmod(int(near[0]), n_op)
            position[entry], to_entry[entry] = firsts[which], rotations[operator]
        else:
            images[len(firsts)] = rotations @ x + translations
            firsts.append(entry)
    return position, to_entry


def _reciprocal_products(lattice: Float[np.ndarray, "3 3"]) -> Float[np.ndarray, "6"]:
    """a*_i a*_j of each component: beta_ij = 2 pi^2 a*_i a*_j U_ij. [1/A^2]"""
    lengths = np.linalg.norm(np.linalg.inv(lattice), axis=0)
    return lengths[_FIRST] * lengths[_SECOND]


def _congruence(matrices: Int[np.ndarray, "op 3 3"]) -> Int[np.ndarray, "op 6 6"]:
    """S -> R S R^T as a matrix that acts on the components (11, 22, 33, 12, 13, 23) of a symmetric tensor."""
    i, j = _FIRST, _SECOND
    straight = matrices[:, i[:, None], i] * matrices[:, j[:, None], j]
    crossed = matrices[:, i[:, None], j] * matrices[:, j[:, None], i]
    return straight + np.where(i == j, 0, crossed)


def _fixed_cosine(mixed: np.ndarray, first: np.ndarray, second: np.ndarray) -> Fraction | None:
    """Cosine of the angle between two axes if it is one number for all metrics, from rows of their basis; otherwise None."""
    if not mixed.any():
        return Fraction(0)
    at = int(np.flatnonzero(first)[0])
    cosine = Fraction(mixed[at]) / first[at]
    return cosine if np.array_equal(first, second) and np.array_equal(mixed, cosine * first) else None


def fixed_vectors(matrices: Int[np.ndarray, "op n n"]) -> tuple[np.ndarray, list[int]]:
    """Basis of the vectors that all matrices leave as they are, in reduced echelon form, by Gauss and Jordan's elimination.

    Args:
      matrices: of whole numbers.

    Returns:
      Fractions [n, free], one column a free component, which is 1 there and 0 in the other columns; and the free
      components. They come as early as the equations allow: the last ones are eliminated first.
    """
    n = matrices.shape[-1]
    equations = np.unique((matrices - np.eye(n, dtype=matrices.dtype)).reshape(-1, n), axis=0)
    rows = equations.astype(np.int64).astype(object) * Fraction(1)
    eliminated: list[int] = []  # the component that each of the first rows gives
    for component in reversed(range(n)):
        rank = len(eliminated)
        usable = np.flatnonzero(rows[rank:, component])
        if not len(usable):
            continue
        rows[[rank, rank + usable[0]]] = rows[[rank + usable[0], rank]]
        rows[rank] = rows[rank] / rows[rank, component]
        others = np.arange(len(rows)) != rank
        rows[others] = rows[others] - np.outer(rows[others, component], rows[rank])
        eliminated.append(component)
    free = [component for component in range(n) if component not in eliminated]
    basis = np.full((n, len(free)), Fraction(0), dtype=object)
    basis[free, range(len(free))] = Fraction(1)
    basis[eliminated] = -rows[: len(eliminated), free]
    return basis, free
