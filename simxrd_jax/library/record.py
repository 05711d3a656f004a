"""Host zone. One structure of a source becomes the numbers that a library keeps, and many of them flat arrays.

The standard setting and the operators are those of spglib at the library's symprec; labels at two more tolerances say where
the space group is a matter of judgement. Reflections are those of the library's reach, in the order of `make_reflections`.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import hashlib
import math
import re
import warnings
from collections.abc import Callable, Sequence

import numpy as np

from simxrd_jax.crystal import symmetry
from simxrd_jax.crystal.form_factors import form_factors
from simxrd_jax.crystal.reflections import unique_reflections
from simxrd_jax.crystal.structure import CrystalStructure, element_of
from simxrd_jax.errors import InputError
from simxrd_jax.library.store import FIXED_POINT, LATTICE_POINT_U

SYMPREC_TIGHT, SYMPREC_LOOSE = 1e-5, 1e-2  # of the published labels and of this project's default. [A]
MAX_ATOMS = 4096  # of a lattice point
MAX_REFLECTIONS = 16384  # unique ones within the reach
MAX_INDEX = 32767  # int16
# spglib's time grows with the square of the atoms; a cell holds at most four lattice points.
MAX_CELL_ATOMS = 4 * MAX_ATOMS
MAX_KEY = 150  # characters of a prototype key; the longest of 28,661 Materials Project structures has 69
MIN_VOLUME = 1.0  # of a cell, less than a hydrogen atom takes. [A^3]


@dataclasses.dataclass(frozen=True)
class Reach:
    """What the reflections and tables of a library are made for.

    Attributes:
      inverse_d_min, inverse_d_max: bounds of 1/d. [1/A]
      wavelengths: at which dispersion is taken. [A]
      symprec: of the standard setting. [A]
      form_factors: table of f0.
      dispersion: False sets f' = f'' = 0.
    """

    inverse_d_min: float
    inverse_d_max: float
    wavelengths: tuple[float, ...]
    symprec: float
    form_factors: str
    dispersion: bool


@dataclasses.dataclass(frozen=True, eq=False)
class GivenCell:
    """A structure as its source gives it.

    Attributes:
      lattice: rows are the lattice vectors. [A]
      frac: fractional coordinates of all atoms [atom, 3].
      kinds: a whole number for each kind of atom [atom].
      structure: makes the `CrystalStructure` in the standard setting that spglib finds at a tolerance. [A]
    """

    lattice: np.ndarray
    frac: np.ndarray
    kinds: Sequence[int]
    structure: Callable[[float], CrystalStructure]


@dataclasses.dataclass(frozen=True, eq=False)
class Record:
    """One structure of a library: scalars, then rows of sites, atoms and reflections as in `store.Library`."""

    id: str
    origin: int
    formula: str
    prototype: str
    lattice: np.ndarray
    hall: int
    space_group: int
    space_group_tight: int
    space_group_loose: int
    site_frac: np.ndarray
    site_species: tuple[str, ...]
    site_occupancy: np.ndarray
    site_biso: np.ndarray
    site_u: np.ndarray | None
    site_atoms: np.ndarray
    atom_operator: np.ndarray
    hkl: np.ndarray
    multiplicity: np.ndarray


def make_record(identifier: str, origin: int, given: GivenCell, reach: Reach) -> Record:
    """Computes everything a library keeps of a structure.

    Args:
      identifier: its id.
      origin: index of its source.
      given: the structure.
      reach: of the library.

    Raises:
      InputError: it is no physical structure, an element is in no table, a limit is exceeded, or it has no reflection within
        the reach.
    """
    _check_cell(given)
    structure = given.structure(reach.symprec)
    assert structure.hall_number is not None
    atoms = structure.atoms
    rows = [np.flatnonzero(atoms.site == site) for site in atoms.site_of_entry]
    n_atom = sum(len(row) for row in rows)
    if n_atom > MAX_ATOMS:
        raise InputError(f"has {n_atom} atoms of a lattice point, more than the limit of {MAX_ATOMS}; leave it out")
    for name in atoms.species:
        _check_species(name, reach)
    tight, loose = (
        structure.space_group_number if tolerance == reach.symprec else space_group_number(given, tolerance)
        for tolerance in (SYMPREC_TIGHT, SYMPREC_LOOSE)
    )
    hkl, multiplicity = _reflections(structure, reach)
    u_aniso = structure.u_aniso
    return Record(
        id=identifier,
        origin=origin,
        formula=structure.formula.replace(" ", ""),
        prototype=prototype_key(structure),
        lattice=structure.lattice,
        hall=structure.hall_number,
        space_group=structure.space_group_number,
        space_group_tight=tight,
        space_group_loose=loose,
        site_frac=fixed_point(structure.frac),
        site_species=structure.species,
        site_occupancy=structure.occupancy.astype(np.float32),
        site_biso=structure.biso.astype(np.float32),
        site_u=None if u_aniso is None else np.stack([u_aniso[:, i, j] for i, j in LATTICE_POINT_U], 1).astype(np.float32),
        site_atoms=np.array([len(row) for row in rows], dtype=np.uint16),
        atom_operator=atoms.operator[np.concatenate(rows)].astype(np.uint8),
        hkl=hkl,
        multiplicity=multiplicity,
    )


def _check_cell(given: GivenCell) -> None:
    """Raises InputError for a cell that spglib should not be asked about: no numbers, no volume, too many atoms."""
    if not (np.isfinite(given.lattice).all() and np.isfinite(given.frac).all()):
        raise InputError("a lattice vector or a coordinate is not a finite number; correct it")
    volume = abs(float(np.linalg.det(given.lattice)))
    if volume < MIN_VOLUME:
        raise InputError(f"its cell of {volume:.2g} A^3 is too small to hold an atom; correct the lattice")
    if len(given.frac) > MAX_CELL_ATOMS:
        raise InputError(
            f"its cell holds {len(given.frac)} atoms, more than the limit of {MAX_CELL_ATOMS} "
            f"({MAX_ATOMS} of a lattice point); leave it out"
        )


@functools.lru_cache(maxsize=1024)
def _check_species(name: str, reach: Reach) -> None:
    """Raises InputError where a species has no form factor or dispersion; once a species, not once a structure."""
    for wavelength in reach.wavelengths:
        form_factors([name], wavelength, reach.form_factors, reach.dispersion)


def space_group_number(given: GivenCell, symprec: float) -> int:
    """Space-group number that spglib finds for the cell as given, 0 where it finds none.

    Args:
      given: all atoms of a cell.
      symprec: distance tolerance. [A]
    """
    import spglib

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # spglib 2.8 announces another way of reporting errors
        try:
            cell = (given.lattice.tolist(), given.frac.tolist(), list(given.kinds))
            dataset = spglib.get_symmetry_dataset(cell, symprec=symprec)
        except Exception:  # spglib's own exception classes differ between its versions
            dataset = None
    return 0 if dataset is None else int(dataset.number)


def _reflections(structure: CrystalStructure, reach: Reach) -> tuple[np.ndarray, np.ndarray]:
    """Unique reflections within the reach, int16 [R, 3], and their multiplicities, uint8 [R]."""
    rotations = structure.rotations
    laue = len(np.unique(symmetry.laue_rotations(rotations), axis=0))
    shell = 4 / 3 * math.pi * (reach.inverse_d_max**3 - reach.inverse_d_min**3)
    fewest = shell * structure.volume / structure.atoms.n_centring / (2 * laue)
    # Glide planes and screw axes take few; twice the limit is far above it and saves enumerating a huge cell.
    if fewest > 2 * MAX_REFLECTIONS:
        raise InputError(
            f"has about {fewest:.0f} unique reflections within reach, more than the limit of {MAX_REFLECTIONS}; leave it out"
        )
    hkl, _, _, multiplicity = unique_reflections(
        structure.lattice, rotations, structure.translations, reach.inverse_d_min, reach.inverse_d_max, structure.source
    )
    if len(hkl) > MAX_REFLECTIONS:
        raise InputError(
            f"has {len(hkl)} unique reflections within reach, more than the limit of {MAX_REFLECTIONS}; leave it out"
        )
    if len(hkl) == 0:
        raise InputError("has no reflection within the reach of the presets; leave it out or choose other presets")
    if np.abs(hkl).max() > MAX_INDEX:
        raise InputError(f"has a reflection index above the limit of {MAX_INDEX}; leave it out")
    return hkl.astype(np.int16), multiplicity.astype(np.uint8)


def fixed_point(frac: np.ndarray) -> np.ndarray:
    """Fractional coordinates as uint32 of 2^-32 of the cell; the error is at most 1.2e-10 of the cell."""
    return np.round((frac - np.floor(frac)) * FIXED_POINT).astype(np.int64).astype(np.uint32)


def prototype_key(structure: CrystalStructure) -> str:
    """A key that structures of one type share whatever their elements: space group, then orbits of each species.

    "221|1 m-3m;1 m-3m;3 4/mm.m" is a cubic perovskite: species between ";", their orbits between ",", each with its
    multiplicity in the conventional cell and its site symmetry; equal orbits of a species are counted, as "2 1 x8". Wyckoff
    letters are not used because they depend on the choice of origin. A mixed or partial position adds its occupancies in
    brackets; charges are ignored. What would be longer than MAX_KEY is a hash: one long key would widen the array of all.

    Two hands of a type have one key: of an enantiomorphic pair of space groups the lower number stands in it. So have its
    namings of axes: a site symmetry of an orthorhombic group names an operator for each axis, and the key is the least of
    those under the permutations of `symmetry.axis_permutations`. In the other systems nothing is left to choose: to swap
    what secondary and tertiary axes a symbol names takes a rotation by 45 or 30 degrees, which maps no lattice onto itself.

    Args:
      structure: with `site_symmetry`, from `from_atoms` or `with_found_symmetry`.
    """
    number = structure.space_group_number
    permutations = ((0, 1, 2),)
    if structure.crystal_system == "orthorhombic":
        assert structure.hall_number is not None
        permutations = symmetry.axis_permutations(structure.hall_number)
    orbits = _orbits(structure)
    key = min(_key_of_orbits(orbits, permutation) for permutation in permutations)
    if len(key) > MAX_KEY:
        key = hashlib.sha256(key.encode()).hexdigest()[:32]
    return f"{symmetry.LOWER_ENANTIOMORPH.get(number, number)}|{key}"


Orbit = tuple[int, str, str]  # multiplicity in the conventional cell, site symmetry, occupancies


def _orbits(structure: CrystalStructure) -> list[list[Orbit]]:
    """The orbits of each species; what shares its positions in the same proportions is one."""
    assert structure.site_symmetry is not None
    atoms = structure.atoms
    elements = [element_of(name) for name in atoms.species]
    species: dict[tuple[tuple[str, float], ...], list[Orbit]] = {}
    sites, first, count = np.unique(atoms.site, return_index=True, return_counts=True)
    for site, atom, n in zip(sites, first, count, strict=True):
        shares: dict[str, float] = {}
        for element, occupancy in zip(elements, atoms.occupancy[atom], strict=True):
            if occupancy > 0:
                shares[element] = shares.get(element, 0.0) + float(occupancy)
        occupancies = sorted((round(v, 3) for v in shares.values()), reverse=True)
        shown = "" if occupancies == [1.0] else f" ({' '.join(f'{v:g}' for v in occupancies)})"
        kind = tuple(sorted((e, round(v, 3)) for e, v in shares.items()))
        species.setdefault(kind, []).append((int(n) * atoms.n_centring, structure.site_symmetry[site], shown))
    return list(species.values())


def _key_of_orbits(species: Sequence[Sequence[Orbit]], permutation: Sequence[int]) -> str:
    """A prototype key without its space group, the axes renamed by a permutation."""
    listed = []
    for orbits in species:
        counts = collections.Counter(f"{n} {_permuted(symbol, permutation)}{shown}" for n, symbol, shown in orbits)
        listed.append(",".join(orbit if n == 1 else f"{orbit} x{n}" for orbit, n in sorted(counts.items())))
    return ";".join(sorted(listed))


def _permuted(symbol: str, permutation: Sequence[int]) -> str:
    """An oriented site-symmetry symbol whose axis i is renamed from axis permutation[i]; "1" and "-1" have none."""
    if list(permutation) == [0, 1, 2] or symbol in ("1", "-1"):
        return symbol
    parts = re.findall(r"2/m|[2m.]", symbol)
    if len(parts) != 3 or "".join(parts) != symbol:
        raise ValueError(f"the site symmetry {symbol!r} does not name one operator for each axis")
    return "".join(parts[i] for i in permutation)


Columns = dict[str, np.ndarray]
SCALARS = {
    "origin": np.uint8,
    "hall": np.int16,
    "space_group": np.uint8,
    "space_group_tight": np.uint8,
    "space_group_loose": np.uint8,
}
ROWS = {
    "site_frac": (np.uint32, 3),
    "site_occupancy": (np.float32, 0),
    "site_biso": (np.float32, 0),
    "site_u": (np.float32, 6),
    "site_atoms": (np.uint16, 0),
    "atom_operator": (np.uint8, 0),
    "hkl": (np.int16, 3),
    "multiplicity": (np.uint8, 0),
}
TEXTS = {"ids": "id", "formulas": "formula", "prototypes": "prototype"}


def pack(records: Sequence[Record]) -> Columns:
    """Flat arrays of some records, named as in `store.Library`; species by name, and `site_u` of all (zero where none)."""
    columns: Columns = {name: np.array([getattr(r, field) for r in records], dtype=np.str_) for name, field in TEXTS.items()}
    columns |= {name: np.array([getattr(r, name) for r in records], dtype=dtype) for name, dtype in SCALARS.items()}
    columns["lattice"] = np.array([r.lattice for r in records], dtype=np.float64).reshape(-1, 3, 3)
    columns["n_site"] = np.array([len(r.site_species) for r in records], dtype=np.int32)
    columns["n_atom"] = np.array([len(r.atom_operator) for r in records], dtype=np.int32)
    columns["n_reflection"] = np.array([len(r.hkl) for r in records], dtype=np.int32)
    columns["site_species"] = np.array([name for r in records for name in r.site_species], dtype=np.str_)
    for name, (dtype, width) in ROWS.items():
        empty = np.zeros((0, width) if width else 0, dtype)
        values = [getattr(r, name) if getattr(r, name) is not None else _no_tensors(r) for r in records]
        columns[name] = np.concatenate([empty, *values])
    return columns


def _no_tensors(record: Record) -> np.ndarray:
    return np.zeros((len(record.site_species), 6), np.float32)


# Which count says how many rows of a column belong to a structure.
COUNT_OF = {
    **dict.fromkeys(("site_frac", "site_species", "site_occupancy", "site_biso", "site_u", "site_atoms"), "n_site"),
    "atom_operator": "n_atom",
    "hkl": "n_reflection",
    "multiplicity": "n_reflection",
}


def join(parts: Sequence[Columns]) -> Columns:
    """The columns of several packs one after the other."""
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def select(columns: Columns, kept: np.ndarray) -> Columns:
    """The columns of some of the structures, bool [N]."""
    if kept.all():
        return columns
    rows = {name: np.repeat(kept, columns[count]) for name, count in COUNT_OF.items()}
    return {name: values[rows.get(name, kept)] for name, values in columns.items()}
