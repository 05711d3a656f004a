"""Host zone. Where the structures of a library come from: CIFs, ASE databases, pymatgen JSON, npz sets, objects in memory.

A source knows how many structures it has without reading them, and reads any range of them: the processes of a build share
nothing but its path.
"""

from __future__ import annotations

import collections
import contextlib
import gzip
import hashlib
import json
import os
import pathlib
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from simxrd_jax.crystal.structure import CrystalStructure, with_found_symmetry
from simxrd_jax.errors import InputError
from simxrd_jax.io.files import file_digest, read_only
from simxrd_jax.io.structures import StructureSet, from_ase, from_pymatgen, read_npz
from simxrd_jax.library.record import GivenCell
from simxrd_jax.library.store import SUFFIX, is_library

KINDS = "a folder of CIFs, a .cif, an ASE database (.db), pymatgen .json, .jsonl or .json.gz, or an .npz set"
ID_KEYS = ("material_id", "mpid", "id", "task_id")  # of pymatgen records
ROW_KEYS = ("mpid", "material_id", "id")  # of ASE rows


class Item(NamedTuple):
    """One structure of a source.

    Attributes:
      id: its identifier there.
      where: the beginning of its readers' error messages, which a list of reasons does not repeat.
      load: reads it; raises InputError if it is bad.
    """

    id: str
    where: str
    load: Callable[[], GivenCell]


class Source(Protocol):
    """Structures in a fixed order."""

    name: str  # base name of the file or folder

    def __len__(self) -> int:
        """How many structures."""
        ...

    def items(self, start: int, stop: int) -> Iterator[Item]:
        """The structures of a range."""
        ...

    def digest(self) -> str:
        """SHA-256 over its content."""
        ...


def open_source(path: str | os.PathLike[str]) -> Source:
    """A source by what its path is.

    Raises:
      InputError: nothing is there, it cannot be read, or it is of no known kind.
    """
    place = pathlib.Path(path)
    if not place.exists():
        raise InputError(f"{place}: no such file or folder; check the path")
    if place.is_dir():
        return CifFolder(place)
    if not os.access(place, os.R_OK):
        raise InputError(f"{place}: cannot be read; check its permissions")
    if is_library(place) or place.suffix.lower() == SUFFIX:
        raise InputError(f"{place}: is a library already; name what it was built from ({KINDS})")
    name = place.name.lower()
    if name.endswith(".cif"):
        return CifFolder(place.parent, [place.name], name=place.name)
    if name.endswith(".db"):
        return AseDatabase(place)
    if name.endswith((".json", ".jsonl", ".json.gz", ".jsonl.gz")):
        return PymatgenJson(place)
    if name.endswith(".npz"):
        return NpzSet(place)
    raise InputError(f"{place}: is of no kind that holds structures; give {KINDS}")


class CifFolder:
    """The CIFs of a folder and its subfolders, in order of their paths; or some named files of it."""

    def __init__(self, folder: pathlib.Path, files: Sequence[str] | None = None, name: str | None = None) -> None:
        """Raises InputError where the folder cannot be read or holds no CIF."""
        self.name = name or folder.resolve().name
        self._folder = folder
        self._files = _cif_files(folder) if files is None else list(files)
        self._stems = collections.Counter(pathlib.PurePath(file).stem for file in self._files)
        if not self._files:
            raise InputError(f"{folder}: holds no .cif file; name a folder that does, or {KINDS}")

    def __len__(self) -> int:
        return len(self._files)

    def items(self, start: int, stop: int) -> Iterator[Item]:
        """The files of a range; a file's stem is its id, its path within the folder where several have that stem."""
        for file in self._files[start:stop]:
            path = self._folder / file
            stem = pathlib.PurePath(file).stem
            identifier = stem if self._stems[stem] == 1 else pathlib.PurePath(file).with_suffix("").as_posix()
            yield Item(printable(identifier), printable(str(path)), lambda path=path: self._load(path))

    def _load(self, path: pathlib.Path) -> GivenCell:
        from simxrd_jax.io.cif import read_cif

        return given_structure(read_cif(path))

    def digest(self) -> str:
        """SHA-256 over the files' names and contents."""
        total = hashlib.sha256()
        for file in self._files:
            path = self._folder / file
            content = file_digest(path) if os.access(path, os.R_OK) else "unreadable"
            total.update(os.fsencode(pathlib.PurePath(file).as_posix()) + f"\0{content}\n".encode())
        return total.hexdigest()


def printable(name: str) -> str:
    """A name of a file with what is no UTF-8 in it written as escapes."""
    return name.encode("utf-8", "backslashreplace").decode()


def _cif_files(folder: pathlib.Path) -> list[str]:
    def refuse(error: OSError) -> None:
        raise InputError(f"{error.filename}: cannot be read ({error.strerror}); check its permissions") from None

    found = []
    for place, folders, files in os.walk(folder, onerror=refuse):
        folders.sort()
        found += [os.path.relpath(os.path.join(place, f), folder) for f in files if f.lower().endswith(".cif")]
    return sorted(found, key=lambda file: pathlib.PurePath(file).parts)


def given_structure(structure: CrystalStructure) -> GivenCell:
    """All atoms of a structure that has its operators already."""
    atoms = structure.atoms
    contents = [tuple(round(float(v), 6) for v in row) for row in atoms.occupancy]
    numbers = {content: i for i, content in enumerate(dict.fromkeys(contents))}
    return GivenCell(
        lattice=structure.lattice,
        frac=(atoms.centring[:, None, :] + atoms.frac[None, :, :]).reshape(-1, 3),
        kinds=[numbers[c] for c in contents] * atoms.n_centring,
        structure=lambda symprec: with_found_symmetry(structure, symprec),
    )


def given_pymatgen(structure: Any) -> GivenCell:
    """All sites of a pymatgen `Structure`."""
    contents = [str(site) for site in structure.species_and_occu]
    numbers = {content: i for i, content in enumerate(dict.fromkeys(contents))}
    return GivenCell(
        lattice=np.array(structure.lattice.matrix, dtype=np.float64),
        frac=np.array(structure.frac_coords, dtype=np.float64).reshape(-1, 3),
        kinds=[numbers[c] for c in contents],
        structure=lambda symprec: from_pymatgen(structure, symprec),
    )


def given_ase(atoms: Any) -> GivenCell:
    """All atoms of an ASE `Atoms` object."""
    lattice = np.array(atoms.cell[:], dtype=np.float64)
    if len(atoms) == 0 or abs(np.linalg.det(lattice)) < 1e-6:
        raise InputError("has no atoms or no cell in three dimensions; give a crystal")
    return GivenCell(
        lattice=lattice,
        frac=np.array(atoms.get_scaled_positions(wrap=True), dtype=np.float64),
        kinds=[int(z) for z in atoms.numbers],
        structure=lambda symprec: from_ase(atoms, symprec),
    )


def given_object(value: Any) -> GivenCell:
    """All atoms of a `CrystalStructure`, a pymatgen `Structure` or an ASE `Atoms` object.

    Raises:
      InputError: another kind of object.
    """
    if isinstance(value, CrystalStructure):
        return given_structure(value)
    if hasattr(value, "species_and_occu"):
        return given_pymatgen(value)
    if hasattr(value, "get_scaled_positions"):
        return given_ase(value)
    kind = type(value).__name__
    raise InputError(f"a {kind} is no structure; give a CrystalStructure, a pymatgen Structure or an ASE Atoms object")


class AseDatabase:
    """The rows of an ASE database in order of their numbers."""

    def __init__(self, path: pathlib.Path) -> None:
        """Raises InputError where the file is no ASE database or has no rows."""
        import ase.db

        self.name = path.name
        self._path = path
        # Asked of SQLite itself: ASE would make its tables in a file that has none, and an object for each row.
        try:
            with contextlib.closing(read_only(path)) as connection:
                self._rows = [int(row) for (row,) in connection.execute("select id from systems order by id")]
        except (sqlite3.Error, TypeError, ValueError):
            raise InputError(f"{path}: is not an ASE database; give one with the table systems, or {KINDS}") from None
        if not self._rows:
            raise InputError(f"{path}: the database has no rows; give one that holds structures")
        self._database = ase.db.connect(str(path), type="db", use_lock_file=False)

    def __len__(self) -> int:
        return len(self._rows)

    def items(self, start: int, stop: int) -> Iterator[Item]:
        """The rows of a range; their key mpid, material_id or id is their id, else db-<number>."""
        rows = self._rows[start:stop]
        if not rows:
            return
        for row in self._database.select(f"id>={rows[0]},id<={rows[-1]}", sort="id", include_data=False):
            pairs = row.key_value_pairs
            named = next((str(pairs[key]) for key in ROW_KEYS if key in pairs), f"db-{row.id}")
            yield Item(named.removesuffix(".cif"), "ASE object", lambda row=row: given_ase(row.toatoms()))

    def digest(self) -> str:
        """SHA-256 of the file."""
        return file_digest(self._path)


class PymatgenJson:
    """pymatgen structures as JSON: one, a list, a mapping of ids, records that hold a "structure", or one of these a line."""

    def __init__(self, path: pathlib.Path) -> None:
        """Raises InputError where the file is not such JSON."""
        self.name = path.name
        self._path = path
        self._values = list(self._named(_read_json(path), path.name.split(".")[0]))
        if not self._values:
            raise InputError(f"{path}: holds no structure; give pymatgen Structures as JSON")

    def _named(self, document: Any, stem: str) -> Iterator[tuple[str, Any]]:
        if isinstance(document, list):
            for i, value in enumerate(document):
                yield _record_id(value) or f"{stem}-{i + 1}", value
        elif isinstance(document, dict) and ({"sites", "structure"} & document.keys()):
            yield _record_id(document) or stem, document
        elif isinstance(document, dict):
            for key, value in document.items():
                yield str(key), value
        else:
            raise InputError(f"{self._path}: holds neither a list nor a mapping; give pymatgen Structures as JSON")

    def __len__(self) -> int:
        return len(self._values)

    def items(self, start: int, stop: int) -> Iterator[Item]:
        """The structures of a range; their material_id, mpid, id, task_id or key is their id, else <file>-<number>."""
        for identifier, value in self._values[start:stop]:
            yield Item(identifier, "pymatgen structure", lambda value=value: self._load(value))

    def _load(self, value: Any) -> GivenCell:
        from pymatgen.core import Structure

        if isinstance(value, dict) and "structure" in value:
            value = value["structure"]
        try:
            structure = Structure.from_dict(value)
        except Exception:  # whatever a malformed dictionary makes pymatgen raise
            raise InputError("is not a pymatgen Structure (lattice and sites); correct it") from None
        return given_pymatgen(structure)

    def digest(self) -> str:
        """SHA-256 of the file."""
        return file_digest(self._path)


def _read_json(path: pathlib.Path) -> Any:
    """The document, or the list of the documents that its lines are."""
    try:
        data = path.read_bytes()
        text = (gzip.decompress(data) if path.name.lower().endswith(".gz") else data).decode("utf-8-sig")
    except (OSError, EOFError, UnicodeDecodeError):
        raise InputError(f"{path}: cannot be read as text or as gzip; give pymatgen Structures as JSON") from None
    if not text.strip():
        raise InputError(f"{path}: is empty; give pymatgen Structures as JSON")
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        whole = error
    try:
        return [json.loads(line) for line in text.splitlines() if line.strip()]
    except json.JSONDecodeError:
        raise InputError(f"{path}: is not valid JSON ({whole}); correct that place") from None


def _record_id(value: Any) -> str | None:
    if not isinstance(value, dict):
        return None
    return next((str(value[key]) for key in ID_KEYS if isinstance(value.get(key), str | int)), None)


class NpzSet:
    """The structures of an npz set, see `simxrd_jax.io.structures.read_npz`."""

    def __init__(self, path: pathlib.Path) -> None:
        """Raises InputError where the file is no such set."""
        self.name = path.name
        self._path = path
        self._set: StructureSet = read_npz(path)
        if not len(self._set):
            raise InputError(f"{path}: holds no structure; give a set that does")

    def __len__(self) -> int:
        return len(self._set)

    def items(self, start: int, stop: int) -> Iterator[Item]:
        """The structures of a range."""
        for i in range(start, min(stop, len(self._set))):
            identifier = str(self._set.ids[i])
            yield Item(identifier, f"{self._path}: {identifier}", lambda i=i: self._load(i))

    def _load(self, index: int) -> GivenCell:
        lattice, frac, numbers = self._set.cell(index)
        return GivenCell(lattice, frac, [int(z) for z in numbers], lambda symprec: self._set.structure(index, symprec))

    def digest(self) -> str:
        """SHA-256 of the file."""
        return file_digest(self._path)
