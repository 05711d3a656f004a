"""Host zone. Space-group operators: splitting, snapping onto special positions, finding with spglib, the Laue group.

Why tolerances in Angstrom: a file writes 1/3 as 0.333 or 0.33333333, and which images of a special position coincide must
not depend on it. Fractional tolerances mean different things along a 3 A and a 50 A axis; lengths do not.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from simxrd_jax.errors import InputError

if TYPE_CHECKING:  # gemmi is imported where it is used: a stored library must do without it
    import gemmi

    from simxrd_jax.crystal.structure import CrystalStructure

# Images of one site closer than this are one atom, whatever its occupancy: three digits (0.333) on a 30 A axis leave 0.02 A
# between the three images about a threefold axis, two digits on a 5 A axis 0.03 A. [A]
ROUNDING_DISTANCE = 0.03
# Up to here they are one atom unless their occupancies add up to at most 1: then the file means a split site. [A]
SPECIAL_POSITION_DISTANCE = 0.1
# Relative deviation of a lattice vector's length (or of a cosine) from what the operators demand. Measured cells that a file
# calls cubic agree to all digits; 1 % is a wrong cell or a wrong operator list.
METRIC_TOLERANCE = 0.01
TRANSLATION_DENOMINATOR = 24  # translations of all operators in the 530 settings are whole 24ths, of gemmi's too
ORIGIN_DENOMINATOR = 4  # a permutation of axes shifts an origin by whole quarters; steps of 1/8 and 1/24 find no more

# The other hand of each enantiomorphic pair of space groups, by the greater number: (76, 78), (91, 95), ...
LOWER_ENANTIOMORPH = {
    78: 76,
    95: 91,
    96: 92,
    145: 144,
    153: 151,
    154: 152,
    170: 169,
    172: 171,
    179: 178,
    181: 180,
    213: 212,
}


def split_centring(rotations: np.ndarray, translations: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Splits operators into one for each rotation and the pure translations.

    Args:
      rotations: [op, 3, 3].
      translations: [op, 3].

    Returns:
      Rotations and translations of one operator a rotation, and the centring translations [centring, 3], (0, 0, 0) first.
    """
    _, first = np.unique(rotations.reshape(-1, 9), axis=0, return_index=True)
    first = np.sort(first)
    pure = translations[(rotations == np.eye(3, dtype=rotations.dtype)).all(axis=(1, 2))]
    pure = pure - np.floor(pure + 1e-6)
    order = np.lexsort(np.round(pure, 6).T[::-1])
    return rotations[first], translations[first], pure[order]


def laue_rotations(rotations: np.ndarray) -> np.ndarray:
    """The rotations of the Laue group modulo inversion, each repeated equally often to fill 24 places.

    Args:
      rotations: of the space group, acting on fractional coordinates x' = R x, [op, 3, 3]; hkl transform as h' = h R.

    Returns:
      Proper rotations, int32 [24, 3, 3], the distinct ones first and then again.
    """
    proper = rotations * np.round(np.linalg.det(rotations)).astype(rotations.dtype)[:, None, None]
    # In one order whatever the operators', so that means over the group round alike.
    distinct_rotations = np.unique(proper.reshape(-1, 9), axis=0).reshape(-1, 3, 3)
    if 24 % len(distinct_rotations):
        raise InputError(
            f"the symmetry operators hold {len(distinct_rotations)} rotations, which no point group has; correct the list"
        )
    return np.tile(distinct_rotations, (24 // len(distinct_rotations), 1, 1)).astype(np.int32)


def distances(a: np.ndarray, b: np.ndarray, lattice: np.ndarray, centring: np.ndarray) -> np.ndarray:
    """Shortest distances between positions a[i] and b[j] modulo lattice and centring translations, [i, j]. [A]

    Exact for distances below half the shortest spacing of lattice planes, which is what it is used for.
    """
    delta = a[:, None, None, :] - b[None, :, None, :] + centring
    delta = (delta - np.round(delta)) @ lattice
    return np.sqrt((delta**2).sum(axis=-1).min(axis=-1))


def merge_tolerance(images: np.ndarray, lattice: np.ndarray, centring: np.ndarray, occupancy: float) -> float:
    """Distance below which images of a site are one atom. [A]

    SPECIAL_POSITION_DISTANCE, unless images between ROUNDING_DISTANCE and that are a split site: their occupancies add up
    to at most 1.

    Args:
      images: all images of the site, one a rotation, [op, 3]; the first is the site itself.
      lattice: rows are the lattice vectors. [A]
      centring: centring translations.
      occupancy: total occupancy of the site.
    """
    near = distances(images[:1], images, lattice, centring)[0]
    n_rounding = int((near < ROUNDING_DISTANCE).sum())
    n_special = int((near < SPECIAL_POSITION_DISTANCE).sum())
    is_split = n_special > n_rounding and occupancy * n_special / n_rounding <= 1.01
    return ROUNDING_DISTANCE if is_split else SPECIAL_POSITION_DISTANCE


def distinct(images: np.ndarray, lattice: np.ndarray, centring: np.ndarray, tolerance: float) -> np.ndarray:
    """Indices of the first image of each set that coincides within a tolerance. [A]"""
    is_same = distances(images, images, lattice, centring) < tolerance
    return np.flatnonzero(is_same.argmax(axis=1) == np.arange(len(images)))


def rotate_u(u: np.ndarray, rotations: np.ndarray, lattice: np.ndarray) -> np.ndarray:
    """Displacement tensors of the images of an atom under rotations x' = R x: N^-1 R N U N R^T N^-1.

    Args:
      u: CIF Uij of the atom, [3, 3]. [A^2]
      rotations: acting on fractional coordinates, [op, 3, 3].
      lattice: rows are the lattice vectors. [A]

    Returns:
      Tensors of the images, [op, 3, 3]. [A^2]
    """
    n = np.linalg.norm(np.linalg.inv(lattice), axis=0)
    beta = u * n[:, None] * n[None, :]
    return (rotations @ beta @ np.swapaxes(rotations, -1, -2)) / (n[:, None] * n[None, :])


def symmetrise(structure: CrystalStructure) -> CrystalStructure:
    """Makes cell, positions and displacement tensors obey the operators exactly.

    The metric becomes mean_R R^T G R (orientation kept as near as possible), a position the mean of its images under the
    operators that leave it in place, a displacement tensor likewise.

    Raises:
      InputError: the operators contradict the cell by more than METRIC_TOLERANCE.
    """
    lattice = symmetrise_lattice(structure.lattice, structure.rotations, structure.source)
    point_rotations, point_translations, centring = split_centring(structure.rotations, structure.translations)
    frac = structure.frac.copy()
    u_aniso = None if structure.u_aniso is None else structure.u_aniso.copy()
    for site, x in enumerate(frac):
        # The occupancy of the whole position decides between a split and a special position.
        offset = structure.frac - x
        shared = np.linalg.norm((offset - np.round(offset)) @ lattice, axis=1) < ROUNDING_DISTANCE
        occupancy = float(structure.occupancy[shared].sum())
        images = point_rotations @ x + point_translations
        tolerance = merge_tolerance(images, lattice, centring, occupancy)
        stabiliser = np.zeros(len(images), dtype=bool)
        # One pass is exact if the operators within tolerance form a group; rounding at its edge takes a second.
        for _ in range(3):
            delta = (point_rotations @ x + point_translations)[:, None, :] + centring - x
            delta -= np.round(delta)
            length = np.sqrt(((delta @ lattice) ** 2).sum(axis=-1))
            best = length.argmin(axis=1)
            delta, length = delta[np.arange(len(best)), best], length[np.arange(len(best)), best]
            stabiliser = length < tolerance
            x = x + delta[stabiliser].mean(axis=0)
        frac[site] = x
        if u_aniso is not None:
            u_aniso[site] = rotate_u(u_aniso[site], point_rotations[stabiliser], lattice).mean(axis=0)
    return dataclasses.replace(structure, lattice=lattice, frac=frac, u_aniso=u_aniso)


def symmetrise_lattice(lattice: np.ndarray, rotations: np.ndarray, source: str) -> np.ndarray:
    """The lattice nearest to the given one whose metric all rotations keep.

    Args:
      lattice: rows are the lattice vectors. [A]
      rotations: acting on fractional coordinates, [op, 3, 3].
      source: named in the error.

    Raises:
      InputError: a rotation changes the metric by more than METRIC_TOLERANCE.
    """
    metric = lattice @ lattice.T
    images = np.swapaxes(rotations, -1, -2) @ metric @ rotations
    length = np.sqrt(np.diag(metric))
    # A relative change e of a length is 2 e on the metric's diagonal.
    deviation = np.abs(images - metric).max(axis=0) / (2 * np.outer(length, length))
    if deviation.max() > METRIC_TOLERANCE:
        shown = " ".join(f"{v:.6g}" for v in cell_parameters(lattice))
        raise InputError(
            f"{source}: the cell {shown} contradicts the symmetry operators by {100 * deviation.max():.1f} %; "
            "correct the cell or the space group"
        )
    average = images.mean(axis=0)
    if np.abs(average - metric).max() <= 1e-14 * metric.max():
        return lattice
    lower = np.linalg.cholesky(average)
    left, _, right = np.linalg.svd(lower.T @ lattice)
    return lower @ left @ right


def cell_parameters(lattice: np.ndarray) -> tuple[float, float, float, float, float, float]:
    """a, b, c [A] and alpha, beta, gamma [deg] of a lattice."""
    length = np.linalg.norm(lattice, axis=1)
    unit = lattice / length[:, None]
    cosine = np.clip(np.array([unit[1] @ unit[2], unit[0] @ unit[2], unit[0] @ unit[1]]), -1, 1)
    angle = np.degrees(np.arccos(cosine))
    return (*(float(v) for v in length), *(float(v) for v in angle))  # pyright: ignore[reportReturnType]


def lattice_from_parameters(a: float, b: float, c: float, alpha: float, beta: float, gamma: float) -> np.ndarray:
    """Lattice vectors as rows, a along x and b in the xy plane. [A], angles in degrees."""
    cos_alpha, cos_beta, cos_gamma = (_cosine(v) for v in (alpha, beta, gamma))
    sin_gamma = np.sqrt(1 - cos_gamma**2)
    y = (cos_alpha - cos_beta * cos_gamma) / sin_gamma
    z = np.sqrt(1 - cos_beta**2 - y**2)
    return np.array([[a, 0, 0], [b * cos_gamma, b * sin_gamma, 0], [c * cos_beta, c * y, c * z]], dtype=np.float64)


def _cosine(angle: float) -> float:
    """Cosine of an angle in degrees, exact at 60, 90 and 120."""
    exact = {60.0: 0.5, 90.0: 0.0, 120.0: -0.5}
    return exact.get(angle, float(np.cos(np.radians(angle))))


@dataclasses.dataclass(frozen=True, eq=False)
class StandardCell:
    """A structure in the standard setting of its space group, idealised.

    Attributes:
      lattice: rows are the lattice vectors of the conventional cell. [A]
      frac: coordinates of all atoms of that cell.
      atom: index of the input atom that each of them is (up to a lattice translation).
      asymmetric: indices into `frac` of one atom an orbit.
      number, symbol: of the space group.
      rotations, translations: all its operators in the standard setting, identity first.
      transformation: P of x_standard = P x + p.
      hall_number: of spglib's database, 1 to 530; says group, setting and origin.
      site_symmetry: oriented site-symmetry symbol of each atom of the cell, as "4/mm.m".
    """

    lattice: np.ndarray
    frac: np.ndarray
    atom: np.ndarray
    asymmetric: np.ndarray
    number: int
    symbol: str
    rotations: np.ndarray
    translations: np.ndarray
    transformation: np.ndarray
    hall_number: int | None = None
    site_symmetry: tuple[str, ...] = ()


def find_symmetry(
    lattice: np.ndarray, frac: np.ndarray, species: Sequence[int], symprec: float, *, source: str = "structure"
) -> StandardCell:
    """Finds the space group with spglib and puts the structure into its standard conventional setting.

    Args:
      lattice: rows are the lattice vectors. [A]
      frac: fractional coordinates of all atoms, [atom, 3].
      species: a whole number for each kind of atom.
      symprec: distance tolerance. [A]
      source: named in the error.

    Returns:
      The idealised cell and its operators.

    Raises:
      InputError: spglib finds no symmetry at this tolerance.

    Reference: Togo, Shinohara & Tanaka (2024), Sci. Technol. Adv. Mater. Meth. 4, 2384822.
    """
    import spglib

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # spglib 2.8 announces another way of reporting errors
        try:
            dataset = spglib.get_symmetry_dataset((lattice.tolist(), frac.tolist(), list(species)), symprec=symprec)
        except Exception:  # spglib's own exception classes differ between its versions
            dataset = None
    if dataset is None:
        raise InputError(
            f"{source}: spglib finds no symmetry at symprec {symprec:g} A (atoms closer than that?); give a smaller symprec"
        )
    rotations, translations = hall_operators(int(dataset.hall_number))
    std_lattice = np.asarray(dataset.std_lattice, dtype=np.float64)
    std_frac = np.asarray(dataset.std_positions, dtype=np.float64)
    first = {}
    for atom, label in enumerate(dataset.mapping_to_primitive):
        first.setdefault(int(label), atom)
    atom = np.array([first[int(label)] for label in dataset.std_mapping_to_primitive])
    return StandardCell(
        lattice=std_lattice,
        frac=std_frac,
        atom=atom,
        asymmetric=_asymmetric_unit(std_lattice, std_frac, np.asarray(dataset.std_types), rotations, translations, symprec),
        number=int(dataset.number),
        symbol=hall_symbol(int(dataset.hall_number)),
        rotations=rotations,
        translations=translations,
        transformation=np.asarray(dataset.transformation_matrix, dtype=np.float64),
        hall_number=int(dataset.hall_number),
        site_symmetry=tuple(dataset.site_symmetry_symbols[i] for i in atom),
    )


@functools.lru_cache(maxsize=530)
def hall_operators(hall_number: int) -> tuple[np.ndarray, np.ndarray]:
    """All operators of a setting of spglib's database, identity first.

    Args:
      hall_number: 1 to 530.

    Returns:
      Rotations int64 [op, 3, 3] and translations float64 [op, 3], both read-only because calls share them.
    """
    import spglib

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        operators = spglib.get_symmetry_from_database(hall_number)
    assert operators is not None
    rotations, translations = operators["rotations"].astype(np.int64), operators["translations"].astype(np.float64)
    rotations.flags.writeable = translations.flags.writeable = False
    return rotations, translations


@functools.lru_cache(maxsize=530)
def axis_permutations(hall_number: int) -> tuple[tuple[int, int, int], ...]:
    """Permutations of a, b, c that map a space group onto itself, up to a shift of its origin; the identity first.

    With x'_i = x_p(i) and an origin shifted by s an operator (R, t) becomes (R', t' + (1 - R') s), where R'_ij = R_p(i)p(j)
    and t'_i = t_p(i); p is one of them if some s makes the set of operators what it was.

    Args:
      hall_number: 1 to 530.

    Returns:
      Permutations p: six in P 21 21 21, the three cyclic ones in P b c a, the identity alone in P n m a.
    """
    rotations, translations, centring = split_centring(*hall_operators(hall_number))
    place = {rotation.tobytes(): i for i, rotation in enumerate(rotations)}
    points = {tuple(point) for point in np.round(centring * TRANSLATION_DENOMINATOR).astype(int).tolist()}
    shifts = np.stack(np.meshgrid(*[np.arange(ORIGIN_DENOMINATOR)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    shifts = shifts / ORIGIN_DENOMINATOR
    found = []
    for p in itertools.permutations(range(3)):
        images = rotations[:, p][:, :, p]
        keeps_rotations = all(image.tobytes() in place for image in images)
        if not keeps_rotations or {tuple(point[i] for i in p) for point in points} != points:
            continue
        change = translations[:, p] - translations[[place[image.tobytes()] for image in images]]
        delta = change + np.einsum("oij,sj->soi", np.eye(3) - images, shifts)
        delta = delta[:, :, None, :] - centring
        is_whole = (np.abs(delta - np.round(delta)) < 1e-3).all(axis=-1).any(axis=-1)
        if is_whole.all(axis=-1).any():
            found.append(p)
    return tuple(found)


@functools.lru_cache(maxsize=530)
def hall_symbol(hall_number: int) -> str:
    """Hermann-Mauguin symbol in gemmi's spacing, with the setting that spglib uses (origin 1 or 2, axes H or R)."""
    import gemmi
    import spglib

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        kind = spglib.get_spacegroup_type(hall_number)
    assert kind is not None
    group = gemmi.find_spacegroup_by_number(kind.number)
    if group is None:
        return str(kind.international_short)
    return f"{group.hm}:{kind.choice}" if kind.choice in ("1", "2", "H", "R") else str(group.hm)


def _asymmetric_unit(
    lattice: np.ndarray, frac: np.ndarray, types: np.ndarray, rotations: np.ndarray, translations: np.ndarray, symprec: float
) -> np.ndarray:
    """Indices of one atom of each orbit of the operators."""
    is_assigned = np.zeros(len(frac), dtype=bool)
    kept = []
    tolerance = max(symprec, 1e-3)
    for atom, x in enumerate(frac):
        if is_assigned[atom]:
            continue
        kept.append(atom)
        candidates = np.flatnonzero(~is_assigned & (types == types[atom]))
        delta = (rotations @ x + translations)[:, None, :] - frac[candidates]
        delta = (delta - np.round(delta)) @ lattice
        is_image = ((delta**2).sum(axis=-1) < tolerance**2).any(axis=0)
        is_assigned[candidates[is_image]] = True
        is_assigned[atom] = True
    return np.array(kept)


def group_from_operators(rotations: np.ndarray, translations: np.ndarray, lattice: np.ndarray) -> tuple[int, str] | None:
    """Number and Hermann-Mauguin symbol of the space group that a list of operators is, or None if it is none."""
    import gemmi

    ops = [operator(r, t) for r, t in zip(rotations, translations, strict=True)]
    found = gemmi.find_spacegroup_by_ops(gemmi.GroupOps(ops))
    if found is not None:
        return found.number, found.xhm()
    import spglib

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            kind = spglib.get_spacegroup_type_from_symmetry(rotations, translations, lattice)
        except Exception:  # spglib's own exception classes differ between its versions
            kind = None
    if kind is None or not 1 <= kind.number <= 230:
        return None
    group = gemmi.find_spacegroup_by_number(kind.number)
    return kind.number, group.hm if group is not None else kind.international_short


def operator(rotation: np.ndarray, translation: np.ndarray) -> gemmi.Op:
    """gemmi's operator of x' = R x + t, with t rounded to 24ths."""
    import gemmi

    op = gemmi.Op()
    op.rot = (np.asarray(rotation) * TRANSLATION_DENOMINATOR).astype(int).tolist()
    op.tran = [int(v) for v in np.round(np.asarray(translation) * TRANSLATION_DENOMINATOR)]
    return op.wrap()


def operator_arrays(ops: Sequence[gemmi.Op]) -> tuple[np.ndarray, np.ndarray]:
    """Rotations int64 [op, 3, 3] and translations [op, 3] of gemmi operators."""
    rotations = np.array([op.rot for op in ops], dtype=np.int64) // TRANSLATION_DENOMINATOR
    translations = np.array([op.tran for op in ops], dtype=np.float64) / TRANSLATION_DENOMINATOR
    return rotations, translations
