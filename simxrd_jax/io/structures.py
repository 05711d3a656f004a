"""Host zone. Structures from pymatgen and ASE objects and from the npz libraries of many structures."""

from __future__ import annotations

import math
import os
import pathlib
import zipfile
from collections.abc import Iterator
from typing import Any

import gemmi
import numpy as np

from simxrd_jax.crystal.structure import CrystalStructure, from_atoms, species_name
from simxrd_jax.errors import InputError

DEFAULT_SYMPREC = 0.01  # keeps small distortions apart; the Materials Project labels its entries at 0.1. [A]


def from_pymatgen(structure: Any, symprec: float = DEFAULT_SYMPREC) -> CrystalStructure:
    """A structure from a pymatgen `Structure`, in the standard setting of the symmetry that spglib finds.

    Oxidation states become ions if they are whole. Displacement parameters are not taken over.

    Args:
      structure: ordered or disordered.
      symprec: distance tolerance. [A]

    Raises:
      InputError: not a pymatgen structure, an unknown element, or no symmetry found.
    """
    if not all(hasattr(structure, a) for a in ("lattice", "frac_coords", "species_and_occu")):
        raise InputError(f"{type(structure).__name__} is not a pymatgen Structure; give one, or use from_ase or read_cif")
    contents = []
    for site in structure.species_and_occu:
        pairs: list[tuple[str, float]] = []
        for species, occupancy in site.items():
            charge = getattr(species, "oxi_state", None) or 0
            whole = round(charge) if float(charge).is_integer() else 0
            symbol = getattr(species, "element", species).symbol
            pairs.append((species_name(_known(symbol, "structure"), whole), round(float(occupancy), 6)))
        contents.append(tuple(sorted(pairs)))
    return from_atoms(
        np.array(structure.lattice.matrix, dtype=np.float64),
        np.array(structure.frac_coords, dtype=np.float64),
        contents,
        symprec,
        name=str(structure.composition.reduced_formula),
        source="pymatgen structure",
    )


def from_ase(atoms: Any, symprec: float = DEFAULT_SYMPREC) -> CrystalStructure:
    """A structure from an ASE `Atoms` object, in the standard setting of the symmetry that spglib finds.

    Args:
      atoms: with a cell in three dimensions.
      symprec: distance tolerance. [A]

    Raises:
      InputError: not an ASE object, no cell, an unknown element, or no symmetry found.
    """
    if not all(hasattr(atoms, a) for a in ("cell", "get_scaled_positions", "get_chemical_symbols")):
        raise InputError(f"{type(atoms).__name__} is not an ASE Atoms object; give one, or use from_pymatgen or read_cif")
    lattice = np.array(atoms.cell[:], dtype=np.float64)
    if len(atoms) == 0 or abs(np.linalg.det(lattice)) < 1e-6:
        raise InputError("the ASE object has no atoms or no cell in three dimensions; give a crystal")
    symbols = [_known(s, "ASE object") for s in atoms.get_chemical_symbols()]
    frac = np.array(atoms.get_scaled_positions(wrap=True), dtype=np.float64)
    name = str(atoms.get_chemical_formula(mode="metal", empirical=True))
    return from_atoms(lattice, frac, [((s, 1.0),) for s in symbols], symprec, name=name, source="ASE object")


def _known(symbol: str, source: str) -> str:
    if gemmi.Element(symbol).atomic_number == 0:
        raise InputError(f"{source}: {symbol!r} is no element; replace the atom or remove it")
    return symbol


class StructureSet:
    """Many ordered structures in flat arrays; each is built when it is asked for.

    `len(set)`, `set[i]`, iteration and `set.structure(i, symprec)` read as they do on a list.
    """

    def __init__(self, path: str, arrays: dict[str, np.ndarray], symprec: float = DEFAULT_SYMPREC) -> None:
        """Args: the file's path, its arrays and the tolerance used by `set[i]`. [A]"""
        self.path = path
        self.symprec = symprec
        self._arrays = arrays

    @property
    def ids(self) -> np.ndarray:
        """Identifiers, as "mp-505752"."""
        return self._arrays["id"]

    def labels(self, symprec: float | None = None) -> np.ndarray:
        """Space-group numbers that the library states at symprec 0.01 or 0.1.

        Raises:
          InputError: the library has no labels at that tolerance.
        """
        value = self.symprec if symprec is None else symprec
        key = {0.01: "sg_symprec0p01", 0.1: "sg_symprec0p1"}.get(value)
        if key is None or key not in self._arrays:
            raise InputError(f"{self.path}: has no space-group labels at symprec {value:g}; take 0.01 or 0.1")
        return self._arrays[key]

    def __len__(self) -> int:
        return len(self._arrays["ptr"]) - 1

    def __getitem__(self, index: int) -> CrystalStructure:
        return self.structure(index)

    def __iter__(self) -> Iterator[CrystalStructure]:
        return (self.structure(i) for i in range(len(self)))

    def cell(self, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Lattice (rows, A), fractional coordinates and atomic numbers as stored."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"structure {index} of {len(self)}")
        index %= len(self)
        start, stop = self._arrays["ptr"][index : index + 2]
        lattice = self._arrays["lattice"][index].astype(np.float64)
        return lattice, self._arrays["frac"][start:stop].astype(np.float64), self._arrays["Z"][start:stop]

    def structure(self, index: int, symprec: float | None = None) -> CrystalStructure:
        """One structure, in the standard setting of the symmetry that spglib finds at a tolerance. [A]

        Raises:
          InputError: an unknown element, or no symmetry found.
        """
        lattice, frac, numbers = self.cell(index)
        name = str(self.ids[index])
        symbols = [gemmi.Element(int(z)).name for z in numbers]
        if "X" in symbols:
            raise InputError(f"{self.path}: {name} holds an unknown element; leave it out")
        contents = [((s, 1.0),) for s in symbols]
        tolerance = self.symprec if symprec is None else symprec
        return from_atoms(lattice, frac, contents, tolerance, name=name, source=f"{self.path}: {name}")


NPZ_KEYS = ("id", "lattice", "ptr", "Z", "frac")


def read_npz(path: str | os.PathLike[str], symprec: float = DEFAULT_SYMPREC) -> StructureSet:
    """Opens a library of structures.

    Args:
      path: an npz file with the arrays id [N], lattice [N, 3, 3] (rows, A), ptr [N + 1], Z and frac of all atoms one after
        the other, and optionally space-group labels sg_symprec0p01 and sg_symprec0p1 [N].
      symprec: distance tolerance at which the structures' symmetry is found. [A]

    Raises:
      InputError: the file is missing, is no npz file, or lacks an array.
    """
    source = os.fspath(path)
    if not (math.isfinite(symprec) and symprec > 0):
        raise InputError(f"symprec {symprec} must be a positive distance in Angstrom; take for example 0.01")
    if not pathlib.Path(source).is_file():
        raise InputError(f"{source}: no such file; check the path")
    try:
        with np.load(source, allow_pickle=False) as data:
            arrays = {key: data[key] for key in data.files}
    except (OSError, ValueError, zipfile.BadZipFile, AttributeError, TypeError):
        raise InputError(f"{source}: is not an npz file of plain arrays; give a structure library") from None
    missing = [key for key in NPZ_KEYS if key not in arrays]
    if missing:
        raise InputError(f"{source}: lacks the arrays {', '.join(missing)}; give a structure library")
    if len(arrays["ptr"]) != len(arrays["lattice"]) + 1 or arrays["ptr"][-1] != len(arrays["frac"]):
        raise InputError(f"{source}: its arrays do not fit together (ptr, lattice, frac); the file is damaged")
    return StructureSet(source, arrays, symprec)
