"""Host zone. A library of structures in memory, and the one file that holds it.

Why a format of its own: what symmetry can regenerate is left out, and numbers are split into byte planes before they are
compressed, so that the Materials Project sample of 28,661 structures with its 4.9 million reflections is one file that opens
in a second. The file states its own length and a checksum of each section: a damaged copy is refused, never half read.
The operators of the Hall numbers in use and the names of the classes are in it, so that a machine that trains needs none of
the crystallographic packages that built it.

Layout: MAGIC, version and length of the header (two little-endian uint32), the header (JSON), its CRC-32 (uint32, over all
bytes before it), then the sections one after the other. Equal libraries have equal bytes.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import json
import math
import os
import pathlib
import struct
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from simxrd_jax.crystal import symmetry
from simxrd_jax.crystal.structure import CRYSTAL_SYSTEMS, CrystalStructure, element_of
from simxrd_jax.errors import InputError
from simxrd_jax.io.xy import check_target, write_together

SUFFIX = ".simxrd"
MAGIC = b"SIMXRD\x1a\n"  # a control-Z and a newline, so that a copy made as text shows
FORMAT_VERSION = 1
PREAMBLE = struct.Struct("<8sII")
CHECKSUM = struct.Struct("<I")
COMPRESSION = 6  # zlib's level; 9 makes the 28,661-structure file 1 % smaller in four times the time
FIXED_POINT = 2.0**32
LATTICE_POINT_U = ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))  # order of `site_u`


@dataclasses.dataclass(frozen=True)
class LibraryMeta:
    """What a library says of itself; all of it is JSON.

    Attributes:
      format_version, simxrd_version: of the file and of the program that made it.
      name: of the library.
      presets: names of the presets whose reach it holds.
      radiation: name of the first preset's radiation.
      wavelengths: distinct mean wavelengths of the presets, at which dispersion is stored; `f_squared` is at the first. [A]
      inverse_d_min, inverse_d_max: reach in 1/d of the unstrained cell. [1/A]
      symprec: at which the structures were put into their standard setting. [A]
      symprec_tight, symprec_loose: of the two other labels. [A]
      form_factors: table of f0.
      dispersion: whether f' and f'' are those of a table (else 0).
      sources: base names of the sources.
      fingerprint: SHA-256 over the sources' content and the options.
      skipped: (id, reason) of each structure that was left out.
      extra: whatever else the builder notes.
    """

    format_version: int
    simxrd_version: str
    name: str
    presets: tuple[str, ...]
    radiation: str
    wavelengths: tuple[float, ...]
    inverse_d_min: float
    inverse_d_max: float
    symprec: float
    symprec_tight: float
    symprec_loose: float
    form_factors: str
    dispersion: bool
    sources: tuple[str, ...]
    fingerprint: str
    skipped: tuple[tuple[str, str], ...] = ()
    extra: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, eq=False)
class Library:
    """Structures in flat arrays: N structures, S sites, A atoms, R reflections, K species, W wavelengths.

    The arrays of a library read from a file are decoded when they are first asked for.

    Attributes:
      meta: of the whole library.
      ids: unique identifiers [N].
      origin: index into `meta.sources`, uint8 [N].
      formulas: reduced formulas without spaces [N].
      prototypes: anonymised prototype keys, see `record.prototype_key` [N].
      lattice: rows are a, b, c of the standard setting, float64 [N, 3, 3]. [A]
      hall: spglib's Hall number, int16 [N]; `operators` gives its operators.
      extinction_group: index into `extinction_names` (groups within a crystal system, see `extinction`), uint8 [N].
      space_group, space_group_tight, space_group_loose: numbers at `meta.symprec`, `symprec_tight` and `symprec_loose`, 0
        where spglib finds none, uint8 [N].
      n_site, n_atom, n_reflection: how many of the flat rows are a structure's, int32 [N].
      site_frac: fractional coordinates times 2^32, uint32 [S, 3]. One row is one species on one position.
      site_species: index into the species table, uint16 [S].
      site_occupancy: float32 [S].
      site_biso: float32 [S]. [A^2]
      site_u: U11 U22 U33 U23 U13 U12, float32 [S, 6], or None if no structure has displacement tensors. [A^2]
      site_atoms: atoms of one lattice point that a site generates, uint16 [S]; the species of a mixed position generate
        theirs each, so that an atom is of one species.
      atom_operator: of each atom in order of sites, the index of the operator of `symmetry.split_centring` that makes it of
        its site, uint8 [A].
      hkl: representatives of the unique reflections, by falling d, int8 or int16 [R, 3].
      multiplicity: Friedel mates included, uint8 [R].
      f_squared: |F|^2 of the unstrained cell at `meta.wavelengths[0]`, float32 [R]. [electrons^2]
      species_names: [K].
      f0_a, f0_b, f0_c, mass: as in `form_factors.FormFactors`, float64 [K, 5], [K, 5], [K], [K].
      f_prime, f_double_prime: at each of `meta.wavelengths`, float64 [W, K]. [electrons]
      hall_numbers, hall_symbols: Hall numbers in use and their Hermann-Mauguin symbols with the setting [H].
      hall_count: operators of each, uint8 [H].
      hall_rotations, hall_translations: of one Hall number after the other, int8 [O, 3, 3], and uint8 [O, 3] in 24ths.
      extinction_names: of all extinction groups, [E].
      splits: name -> 0 train, 1 validation, 2 test of each structure, uint8 [N].
      split_meta: name -> what the split says of itself.
    """

    meta: LibraryMeta
    ids: np.ndarray
    origin: np.ndarray
    formulas: np.ndarray
    prototypes: np.ndarray
    lattice: np.ndarray
    hall: np.ndarray
    space_group: np.ndarray
    space_group_tight: np.ndarray
    space_group_loose: np.ndarray
    extinction_group: np.ndarray
    n_site: np.ndarray
    n_atom: np.ndarray
    n_reflection: np.ndarray
    site_frac: np.ndarray
    site_species: np.ndarray
    site_occupancy: np.ndarray
    site_biso: np.ndarray
    site_u: np.ndarray | None
    site_atoms: np.ndarray
    atom_operator: np.ndarray
    hkl: np.ndarray
    multiplicity: np.ndarray
    f_squared: np.ndarray
    species_names: np.ndarray
    f0_a: np.ndarray
    f0_b: np.ndarray
    f0_c: np.ndarray
    mass: np.ndarray
    f_prime: np.ndarray
    f_double_prime: np.ndarray
    hall_numbers: np.ndarray
    hall_symbols: np.ndarray
    hall_count: np.ndarray
    hall_rotations: np.ndarray
    hall_translations: np.ndarray
    extinction_names: np.ndarray
    splits: Mapping[str, np.ndarray]
    split_meta: Mapping[str, Mapping[str, Any]]

    def __getattr__(self, name: str) -> np.ndarray:
        """Decodes an array of a file: called only for a field that the instance does not hold yet."""
        section = self.__dict__.get("_sections", {}).get(name)
        if section is None:
            raise AttributeError(f"a Library has no attribute {name!r}")
        return self.__dict__.setdefault(name, section.decode())

    def __len__(self) -> int:
        return len(self.n_site)

    @functools.cached_property
    def first_site(self) -> np.ndarray:
        """Row of each structure's first site, and one past the last, int64 [N + 1]."""
        return _offsets(self.n_site)

    @functools.cached_property
    def first_atom(self) -> np.ndarray:
        """Row of each structure's first atom, and one past the last, int64 [N + 1]."""
        return _offsets(self.n_atom)

    @functools.cached_property
    def first_reflection(self) -> np.ndarray:
        """Row of each structure's first reflection, and one past the last, int64 [N + 1]."""
        return _offsets(self.n_reflection)

    @functools.cached_property
    def crystal_system(self) -> np.ndarray:
        """Names of the crystal systems of `space_group`, [N]."""
        lasts, names = zip(*CRYSTAL_SYSTEMS, strict=True)
        return np.array(names)[np.searchsorted(lasts, self.space_group)]

    @property
    def extinction_group_names(self) -> tuple[str, ...]:
        """Names of all extinction groups, as "orthorhombic Pna2_1 Pnma"."""
        return tuple(self.extinction_names.tolist())

    @property
    def labels_agree(self) -> np.ndarray:
        """Whether the space groups at the tight and at the loose tolerance are the same, bool [N]."""
        return self.space_group_tight == self.space_group_loose

    def operators(self, hall: int) -> tuple[np.ndarray, np.ndarray]:
        """Rotations and translations of a Hall number in use, those of `symmetry.hall_operators`.

        Raises:
          KeyError: no structure has that Hall number.
        """
        return self._operators[int(hall)]

    @functools.cached_property
    def _operators(self) -> dict[int, tuple[np.ndarray, np.ndarray]]:
        rotations = self.hall_rotations.astype(np.int64)
        translations = self.hall_translations / symmetry.TRANSLATION_DENOMINATOR
        rotations.flags.writeable = translations.flags.writeable = False  # calls share them
        ends = np.cumsum(self.hall_count, dtype=np.int64)
        rows = [slice(int(end - count), int(end)) for end, count in zip(ends, self.hall_count, strict=True)]
        halls = self.hall_numbers.tolist()
        return {hall: (rotations[own], translations[own]) for hall, own in zip(halls, rows, strict=True)}

    def index_of(self, identifier: str) -> int:
        """Index of the structure with an id.

        Raises:
          InputError: there is none; the nearest ids are offered.
        """
        found = self._index.get(identifier)
        if found is None:
            close = difflib.get_close_matches(identifier, self._index, n=3, cutoff=0.6)
            offer = f"did you mean {' or '.join(close)}?" if close else "`simxrd library info` says what it holds."
            raise InputError(f"the library {self.meta.name} has no structure {identifier!r}; {offer}")
        return found

    @functools.cached_property
    def _index(self) -> dict[str, int]:
        return {identifier: i for i, identifier in enumerate(self.ids.tolist())}

    def structure(self, index: int) -> CrystalStructure:
        """One structure as it was packed: coordinates to 1.2e-10 of the cell, occupancies and B as float32.

        Raises:
          IndexError: there is no such structure.
        """
        if not -len(self) <= index < len(self):
            raise IndexError(f"structure {index} of {len(self)}")
        index %= len(self)
        sites = slice(*(int(v) for v in self.first_site[index : index + 2]))
        hall = int(self.hall[index])
        rotations, translations = self.operators(hall)
        species = tuple(str(v) for v in self.species_names[self.site_species[sites]])
        biso = self.site_biso[sites].astype(np.float64)
        u_aniso = None
        if self.site_u is not None and self.site_u[sites].any():
            u_aniso = np.zeros((len(species), 3, 3))
            for column, (i, j) in enumerate(LATTICE_POINT_U):
                u_aniso[:, i, j] = u_aniso[:, j, i] = self.site_u[sites, column]
        identifier = str(self.ids[index])
        return CrystalStructure(
            name=identifier,
            source=f"{self.meta.name}: {identifier}",
            lattice=self.lattice[index],
            site_labels=tuple(f"{element_of(name)}{i + 1}" for i, name in enumerate(species)),
            species=species,
            frac=self.site_frac[sites] / FIXED_POINT,
            occupancy=self.site_occupancy[sites].astype(np.float64),
            biso=biso,
            u_aniso=u_aniso,
            has_displacement=bool(biso.any() or u_aniso is not None),
            rotations=rotations,
            translations=translations,
            space_group_number=int(self.space_group[index]),
            space_group_symbol=str(self.hall_symbols[np.searchsorted(self.hall_numbers, hall)]),
            symprec=self.meta.symprec,
            hall_number=hall,
        )


def _offsets(counts: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])


# Fields of `Library` that are sections of the file; the splits become sections of their own.
ARRAY_FIELDS = tuple(f.name for f in dataclasses.fields(Library) if f.name not in ("meta", "splits", "split_meta"))
SPLIT_PREFIX = "split:"


@dataclasses.dataclass(frozen=True, eq=False)
class _Section:
    """One array of a file: where it is and how it is encoded."""

    data: memoryview
    dtype: str
    shape: tuple[int, ...]
    encoding: str

    def decode(self) -> np.ndarray:
        raw = zlib.decompress(self.data)
        if self.encoding == "lines":
            texts = raw.decode().split("\n") if self.shape[0] else []
            return np.array(texts, dtype=np.str_)
        return _from_planes(raw, np.dtype(self.dtype), self.shape)


def _to_planes(array: np.ndarray) -> bytes:
    """The first bytes of all rows, then the second bytes, and so on: bytes of one kind compress together."""
    rows = np.ascontiguousarray(array).view(np.uint8).reshape(len(array), -1) if array.size else np.zeros((0, 1), np.uint8)
    return rows.T.tobytes()


def _from_planes(raw: bytes, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
    row = dtype.itemsize * math.prod(shape[1:])
    planes = np.frombuffer(raw, dtype=np.uint8).reshape(row, shape[0])
    return np.ascontiguousarray(planes.T).view(dtype).reshape(shape)


def library_bytes(library: Library) -> bytes:
    """The content of a library's file."""
    arrays = {name: getattr(library, name) for name in ARRAY_FIELDS}
    arrays |= {SPLIT_PREFIX + name: codes for name, codes in library.splits.items()}
    sections, bodies, offset = [], [], 0
    for name, array in arrays.items():
        if array is None:
            continue
        if array.dtype.kind == "U":
            encoding, dtype, raw = "lines", "str", "\n".join(array.tolist()).encode("utf-8", "backslashreplace")
        else:
            little = array.astype(array.dtype.newbyteorder("<"), copy=False)
            encoding, dtype, raw = "planes", little.dtype.str, _to_planes(little)
        body = zlib.compress(raw, COMPRESSION)
        sections.append(
            {
                "name": name,
                "dtype": dtype,
                "shape": list(array.shape),
                "offset": offset,
                "size": len(body),
                "encoding": encoding,
                "crc32": zlib.crc32(body),
            }
        )
        bodies.append(body)
        offset += len(body)
    header = {"meta": dataclasses.asdict(library.meta), "split_meta": dict(library.split_meta), "sections": sections}
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode("utf-8", "backslashreplace")
    head = PREAMBLE.pack(MAGIC, FORMAT_VERSION, len(text)) + text
    return b"".join([head, CHECKSUM.pack(zlib.crc32(head)), *bodies])


def write_library(library: Library, path: str | os.PathLike[str]) -> None:
    """Writes a library, beside its target first: what was there stays until the new file is complete.

    Raises:
      InputError: the file cannot be written.
    """
    write_together({check_target(path): library_bytes(library)})


def is_library(path: str | os.PathLike[str]) -> bool:
    """Whether a file begins as libraries do."""
    try:
        with open(path, "rb") as stream:
            return stream.read(len(MAGIC)) == MAGIC
    except OSError:
        return False


def read_library(path: str | os.PathLike[str]) -> Library:
    """Opens a library: everything is checked, arrays are decoded when they are asked for.

    Raises:
      InputError: the file is missing, is no library, is of another version, truncated or damaged.
    """
    source = os.fspath(path)
    data = memoryview(_read_bytes(source))
    header, start = _read_header(source, data)
    meta, sections, splits = header["meta"], {}, {}
    total = start + sum(entry["size"] for entry in header["sections"])
    if len(data) < total:
        raise InputError(f"{source}: is truncated ({len(data):,} of {total:,} bytes); copy it again or build it anew")
    if len(data) > total:
        raise InputError(
            f"{source}: is damaged ({len(data) - total:,} bytes too many at its end); copy it again or build it anew"
        )
    for entry in header["sections"]:
        body = data[start + entry["offset"] : start + entry["offset"] + entry["size"]]
        if zlib.crc32(body) != entry["crc32"]:
            raise InputError(f"{source}: its section {entry['name']} is damaged; copy it again or build it anew")
        section = _Section(body, entry["dtype"], tuple(entry["shape"]), entry["encoding"])
        if entry["name"].startswith(SPLIT_PREFIX):
            splits[entry["name"].removeprefix(SPLIT_PREFIX)] = section.decode()
        else:
            sections[entry["name"]] = section
    missing = [name for name in ARRAY_FIELDS if name not in sections and name != "site_u"]
    if missing:
        raise InputError(f"{source}: lacks the sections {', '.join(missing)}; build it anew")
    meta |= {key: tuple(meta[key]) for key in ("presets", "wavelengths", "sources")}
    meta["skipped"] = tuple((identifier, reason) for identifier, reason in meta["skipped"])
    library = object.__new__(Library)
    vars(library).update(meta=LibraryMeta(**meta), splits=splits, split_meta=header["split_meta"], _sections=sections)
    if "site_u" not in sections:
        vars(library)["site_u"] = None
    return library


def _read_bytes(source: str) -> bytes:
    path = pathlib.Path(source)
    if not path.exists():
        raise InputError(f"{source}: no such file; check the path, or make a library with `simxrd library build`")
    if path.is_dir():
        raise InputError(f"{source}: is a folder, not a library; name a {SUFFIX} file, or build one from the folder")
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{source}: cannot be read ({error.strerror}); check its permissions") from None


def _read_header(source: str, data: memoryview) -> tuple[dict[str, Any], int]:
    """The checked header, and where the sections start."""
    if not data:
        raise InputError(f"{source}: is empty; copy it again or build it anew")
    if data[: len(MAGIC)] != MAGIC[: len(data)]:
        raise InputError(f"{source}: is not a library of structures; make one with `simxrd library build`")
    if len(data) < PREAMBLE.size:
        raise InputError(f"{source}: is truncated ({len(data)} bytes); copy it again or build it anew")
    _, version, length = PREAMBLE.unpack_from(data)
    if version != FORMAT_VERSION:
        raise InputError(
            f"{source}: is a library of format {version}, this program reads format {FORMAT_VERSION}; build it anew"
        )
    end = PREAMBLE.size + length
    if len(data) < end + CHECKSUM.size:
        raise InputError(f"{source}: is truncated within its header, or damaged there; copy it again or build it anew")
    if CHECKSUM.unpack_from(data, end)[0] != zlib.crc32(data[:end]):
        raise InputError(f"{source}: its header is damaged; copy it again or build it anew")
    return json.loads(bytes(data[PREAMBLE.size : end])), end + CHECKSUM.size
