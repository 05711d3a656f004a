"""Host zone. The record of one crystal structure as a file states it, and its expansion into atoms.

A structure is kept as an asymmetric unit with explicit operators, never as a space-group name: names are ambiguous in
setting and origin, operators are not. One entry is one species on one position; a mixed site is several entries that share
their coordinates. Occupancies are crystallographic (1 is full, on special positions too), so that an atom counts once
however many operators leave it in place.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence

import numpy as np

from simxrd_jax.crystal import symmetry
from simxrd_jax.errors import InputError

# Entries closer than this share one atom row (if their displacement parameters agree): it only has to catch numbers that
# were written equal, because separate rows are exact too. [A]
SAME_POSITION = 1e-3


@dataclasses.dataclass(frozen=True, eq=False)
class CrystalStructure:
    """One crystal structure: cell, asymmetric unit and operators.

    Attributes:
      name: what to call it in tables.
      source: the file, or a description of where it comes from.
      lattice: rows are the lattice vectors a, b, c. [A]
      site_labels: one label for each entry.
      species: element or ion of each entry, as "Si", "Fe3+" or "O2-".
      frac: fractional coordinates of the asymmetric unit.
      occupancy: crystallographic occupancy of each entry, 1 is full.
      biso: isotropic displacement parameter B = 8 pi^2 U; 0 where none is given or where `u_aniso` holds it. [A^2]
      u_aniso: displacement tensors in the CIF's Uij convention (zero where an entry has none), or None. The two factors
        multiply. [A^2]
      has_displacement: whether the source states any displacement parameter.
      rotations, translations: all operators x' = R x + t, centring included, identity first.
      space_group_number: 1 to 230.
      space_group_symbol: Hermann-Mauguin symbol, with its setting where that matters ("F d -3 m:2").
      symprec: tolerance at which spglib found the symmetry; None if the operators are the file's. [A]
      notes: defaults taken and doubts, one sentence each.
      hall_number: of spglib's database, whose operators these are then; None if the operators are the file's.
      site_symmetry: oriented site-symmetry symbol of each entry, likewise.
    """

    name: str
    source: str
    lattice: np.ndarray
    site_labels: tuple[str, ...]
    species: tuple[str, ...]
    frac: np.ndarray
    occupancy: np.ndarray
    biso: np.ndarray
    u_aniso: np.ndarray | None
    has_displacement: bool
    rotations: np.ndarray
    translations: np.ndarray
    space_group_number: int
    space_group_symbol: str
    symprec: float | None = None
    notes: tuple[str, ...] = ()
    hall_number: int | None = None
    site_symmetry: tuple[str, ...] | None = None

    @property
    def crystal_system(self) -> str:
        """Crystal system by space-group number (trigonal is 143 to 167, hexagonal 168 to 194)."""
        for last, system in CRYSTAL_SYSTEMS:
            if self.space_group_number <= last:
                return system
        raise ValueError(f"space group number {self.space_group_number} is not 1 to 230")

    @property
    def volume(self) -> float:
        """Cell volume. [A^3]"""
        return float(abs(np.linalg.det(self.lattice)))

    @functools.cached_property
    def atoms(self) -> Atoms:
        """Atoms of one lattice point, see `expand_to_lattice_point`."""
        return expand_to_lattice_point(self)

    @property
    def formula(self) -> str:
        """Content of the cell, divided by its greatest common divisor if all counts are whole; C and H first, as Hill."""
        counts: dict[str, float] = {}
        atoms = self.atoms
        for name, total in zip(atoms.species, atoms.occupancy.sum(axis=0), strict=True):
            element = element_of(name)
            counts[element] = counts.get(element, 0.0) + float(total) * atoms.n_centring
        divisor = common_divisor(counts)
        return hill_formula({k: round(v) / divisor for k, v in counts.items()} if divisor else counts)


def common_divisor(counts: dict[str, float]) -> int:
    """Greatest common divisor of counts that are all whole numbers above 0, else 0."""
    whole = [round(v) for v in counts.values()]
    if all(abs(v - w) < 0.01 for v, w in zip(counts.values(), whole, strict=True)) and min(whole, default=0) > 0:
        return math.gcd(*whole)
    return 0


def hill_formula(counts: dict[str, float]) -> str:
    """A formula with its elements in the order of Hill, as "Al2 O3"; counts to four digits, 1 left out."""
    order = sorted(counts, key=lambda e: (("C", "H").index(e) if "C" in counts and e in ("C", "H") else 2, e))
    return " ".join(e if abs(counts[e] - 1) < 1e-6 else f"{e}{counts[e]:.4g}" for e in order)


CRYSTAL_SYSTEMS = (
    (2, "triclinic"),
    (15, "monoclinic"),
    (74, "orthorhombic"),
    (142, "tetragonal"),
    (167, "trigonal"),
    (194, "hexagonal"),
    (230, "cubic"),
)


@dataclasses.dataclass(frozen=True, eq=False)
class Atoms:
    """The atoms of one lattice point of a structure.

    Attributes:
      frac: fractional coordinates in the structure's (possibly centred) cell.
      site: index of the structure's entry an atom comes from (the first one on a mixed site).
      operator: index of the operator, of those that `symmetry.split_centring` keeps, that makes the atom of its site.
      site_of_entry: for each entry of the structure, the entry that `site` names for its atoms (itself but on a mixed site).
      species: names of the columns of `occupancy`.
      occupancy: fraction of each species on each atom.
      biso, u_aniso: displacement parameters, rotated with the atom. [A^2]
      n_centring: lattice points per cell.
      centring: their translations.
    """

    frac: np.ndarray
    site: np.ndarray
    operator: np.ndarray
    site_of_entry: np.ndarray
    species: tuple[str, ...]
    occupancy: np.ndarray
    biso: np.ndarray
    u_aniso: np.ndarray | None
    n_centring: int
    centring: np.ndarray


def element_of(species: str) -> str:
    """Element symbol of a species name: "Fe" of "Fe3+"."""
    return species.rstrip("+-").rstrip("0123456789")


def charge_of(species: str) -> int:
    """Charge of a species name: 3 of "Fe3+", -2 of "O2-", 0 of "Si"."""
    if species[-1] not in "+-":
        return 0
    digits = species[len(element_of(species)) : -1]
    return int(digits or "1") * (1 if species[-1] == "+" else -1)


def species_name(element: str, charge: int) -> str:
    """Name of a species: ("Fe", 3) is "Fe3+", ("Si", 0) is "Si"."""
    return f"{element}{abs(charge)}{'+' if charge > 0 else '-'}" if charge else element


def expand_to_lattice_point(structure: CrystalStructure) -> Atoms:
    """Applies the operators to the asymmetric unit and keeps each atom of one lattice point once.

    With x' = R x the tensor beta of exp(-h beta h) becomes R beta R^T, and U = N^-1 beta N^-1 / (2 pi^2) with
    N = diag(a*, b*, c*).

    Args:
      structure: with coordinates on their special positions, see `symmetry.symmetrise`.

    Returns:
      The atoms; images on a special position are merged (`symmetry.merge_tolerance`), and of atoms that differ by a
      centring translation one is kept.
    """
    rotations, translations, centring = symmetry.split_centring(structure.rotations, structure.translations)
    rows, species = _rows(structure)
    frac, site, operator, row_of_atom, tensors = [], [], [], [], []
    for row, entries in enumerate(rows):
        x = structure.frac[entries[0]]
        images = rotations @ x + translations
        tolerance = symmetry.merge_tolerance(images, structure.lattice, centring, float(structure.occupancy[entries].sum()))
        kept = symmetry.distinct(images, structure.lattice, centring, tolerance)
        frac.append(images[kept] - np.floor(images[kept] + 1e-9))
        site += [entries[0]] * len(kept)
        operator.append(kept)
        row_of_atom += [row] * len(kept)
        if structure.u_aniso is not None:
            tensors.append(symmetry.rotate_u(structure.u_aniso[entries[0]], rotations[kept], structure.lattice))
    table = np.zeros((len(rows), len(species)))
    site_of_entry = np.zeros(len(structure.species), dtype=np.int64)
    for row, entries in enumerate(rows):
        site_of_entry[entries] = entries[0]
        for entry in entries:
            table[row, species.index(structure.species[entry])] += structure.occupancy[entry]
    index = np.array(site, dtype=np.int64)
    return Atoms(
        frac=np.concatenate(frac),
        site=index,
        operator=np.concatenate(operator),
        site_of_entry=site_of_entry,
        species=species,
        occupancy=table[row_of_atom],
        biso=structure.biso[index],
        u_aniso=None if structure.u_aniso is None else np.concatenate(tensors),
        n_centring=len(centring),
        centring=centring,
    )


def _rows(structure: CrystalStructure) -> tuple[list[list[int]], tuple[str, ...]]:
    """Groups entries of one position and one displacement into atom rows: entries, species in order."""
    rows: list[list[int]] = []
    firsts = np.zeros(len(structure.species), dtype=np.int64)  # a comparison with all rows at once: cells of 2,000 sites
    for entry in range(len(structure.species)):
        known = firsts[: len(rows)]
        delta = structure.frac[entry] - structure.frac[known]
        same = np.linalg.norm((delta - np.round(delta)) @ structure.lattice, axis=1) < SAME_POSITION
        same &= np.abs(structure.biso[entry] - structure.biso[known]) < 1e-9
        if structure.u_aniso is not None:
            same &= (np.abs(structure.u_aniso[entry] - structure.u_aniso[known]) < 1e-9).all(axis=(1, 2))
        if same.any():
            rows[int(same.argmax())].append(entry)
        else:
            firsts[len(rows)] = entry
            rows.append([entry])
    return rows, tuple(dict.fromkeys(structure.species))


def finish(structure: CrystalStructure) -> CrystalStructure:
    """Snaps a structure onto its symmetry and checks that no two atoms overlap; every reader ends with it.

    Raises:
      InputError: the operators contradict the cell, or atoms overlap with a total occupancy above 1.
    """
    structure = symmetry.symmetrise(structure)
    check_overlaps(structure)
    return structure


# Atoms closer than this cannot both be there; the shortest bond, of H2, is 0.74 A. [A]
OVERLAP_DISTANCE = 0.5
OCCUPANCY_TOLERANCE = 0.01  # what rounding of two or three partial occupancies to two digits leaves


def check_overlaps(structure: CrystalStructure) -> None:
    """Raises InputError where atoms closer together than OVERLAP_DISTANCE have a total occupancy above 1."""
    atoms = structure.atoms
    total = atoms.occupancy.sum(axis=1)
    for first in np.unique(atoms.site):
        centre = int(np.flatnonzero(atoms.site == first)[0])
        vectors, near = _neighbours(atoms, structure.lattice, centre)
        if total[near].sum() <= 1 + OCCUPANCY_TOLERANCE:
            continue
        # Only atoms that all exclude one another count together.
        clique: list[int] = []
        for i in np.argsort(np.linalg.norm(vectors, axis=1), kind="stable"):
            if all(np.linalg.norm(vectors[i] - vectors[j]) < OVERLAP_DISTANCE for j in clique):
                clique.append(int(i))
        occupancy = total[near[clique]].sum()
        if occupancy <= 1 + OCCUPANCY_TOLERANCE:
            continue
        label = structure.site_labels[first]
        offset = structure.frac - structure.frac[first]
        shared = np.linalg.norm((offset - np.round(offset)) @ structure.lattice, axis=1) < SAME_POSITION
        others = {structure.site_labels[i] for i in np.flatnonzero(shared)}
        others = (others | {structure.site_labels[atoms.site[near[i]]] for i in clique}) - {label}
        distance = max(np.linalg.norm(vectors[i]) for i in clique)
        if others:
            what = f"overlapping sites {label} and {', '.join(sorted(others))} ({distance:.2f} A apart)"
        else:
            what = f"site {label} overlapping its own symmetry images ({distance:.2f} A apart)"
        raise InputError(
            f"{structure.source}: {what} with a total occupancy of {occupancy:.3g}; correct their coordinates or occupancies"
        )


def _neighbours(atoms: Atoms, lattice: np.ndarray, centre: int) -> tuple[np.ndarray, np.ndarray]:
    """Cartesian vectors to, and indices of, the atoms within OVERLAP_DISTANCE of one atom, itself included."""
    delta = atoms.frac[None, :, :] - atoms.frac[centre] + atoms.centring[:, None, :]
    cartesian = (delta - np.round(delta)) @ lattice
    lattice_point, index = np.nonzero((cartesian**2).sum(axis=-1) < OVERLAP_DISTANCE**2)
    return cartesian[lattice_point, index], index


def from_atoms(
    lattice: np.ndarray,
    frac: np.ndarray,
    contents: Sequence[tuple[tuple[str, float], ...]],
    symprec: float,
    *,
    name: str,
    source: str,
    labels: Sequence[str] | None = None,
    biso: np.ndarray | None = None,
    u_aniso: np.ndarray | None = None,
    notes: tuple[str, ...] = (),
) -> CrystalStructure:
    """A structure from all atoms of a cell, with the symmetry that spglib finds, in the standard conventional setting.

    Displacement parameters are those of the first atom of each orbit, averaged over the operators that keep it in place.

    Args:
      lattice: rows are the lattice vectors. [A]
      frac: fractional coordinates of all atoms of the cell.
      contents: (species, occupancy) pairs of each atom; atoms of equal contents are of one kind.
      symprec: distance tolerance. [A]
      name, source, labels, notes: as in `CrystalStructure`.
      biso, u_aniso: displacement parameters, or None. [A^2]

    Raises:
      InputError: spglib finds no symmetry, or atoms overlap.
    """
    kinds = {content: i for i, content in enumerate(dict.fromkeys(contents))}
    cell = symmetry.find_symmetry(lattice, frac, [kinds[c] for c in contents], symprec, source=source)
    names = list(labels) if labels else [f"{element_of(c[0][0])}{i + 1}" for i, c in enumerate(contents)]
    entries = [(int(s), int(cell.atom[s]), kind, occ) for s in cell.asymmetric for kind, occ in contents[int(cell.atom[s])]]
    standard = np.array([e[0] for e in entries])
    original = np.array([e[1] for e in entries])
    u = None
    if u_aniso is not None:
        old, new = (np.linalg.norm(np.linalg.inv(v), axis=0) for v in (lattice, cell.lattice))
        beta = u_aniso[original] * old[:, None] * old[None, :]
        u = cell.transformation @ beta @ cell.transformation.T / (new[:, None] * new[None, :])
    return finish(
        CrystalStructure(
            name=name,
            source=source,
            lattice=cell.lattice,
            site_labels=tuple(names[i] for i in original),
            species=tuple(e[2] for e in entries),
            frac=cell.frac[standard],
            occupancy=np.array([e[3] for e in entries], dtype=np.float64),
            biso=np.zeros(len(entries)) if biso is None else np.asarray(biso, dtype=np.float64)[original],
            u_aniso=u,
            has_displacement=biso is not None or u_aniso is not None,
            rotations=cell.rotations,
            translations=cell.translations,
            space_group_number=cell.number,
            space_group_symbol=cell.symbol,
            symprec=symprec,
            notes=notes,
            hall_number=cell.hall_number,
            site_symmetry=tuple(cell.site_symmetry[i] for i in standard),
        )
    )


def with_found_symmetry(structure: CrystalStructure, symprec: float) -> CrystalStructure:
    """The same structure in the standard setting of the symmetry that spglib finds at a tolerance. [A]

    Raises:
      InputError: spglib finds no symmetry.
    """
    atoms = structure.atoms
    n = atoms.n_centring
    frac = (atoms.centring[:, None, :] + atoms.frac[None, :, :]).reshape(-1, 3)
    contents = [
        tuple((name, round(float(o), 6)) for name, o in zip(atoms.species, row, strict=True) if o > 0)
        for row in atoms.occupancy
    ]
    return from_atoms(
        structure.lattice,
        frac,
        contents * n,
        symprec,
        name=structure.name,
        source=structure.source,
        labels=[structure.site_labels[s] for s in atoms.site] * n,
        biso=np.tile(atoms.biso, n) if structure.has_displacement else None,
        u_aniso=None if atoms.u_aniso is None else np.tile(atoms.u_aniso, (n, 1, 1)),
        notes=structure.notes,
    )
