"""The library in memory and its file: round trip, every way a file can be bad, and what comes back of a structure."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import struct
import subprocess
import sys
import time
import zlib

import numpy as np
import pytest

from simxrd_jax.crystal import symmetry
from simxrd_jax.crystal.structure import CrystalStructure, with_found_symmetry
from simxrd_jax.errors import InputError
from simxrd_jax.io.cif import read_cif
from simxrd_jax.io.structures import DEFAULT_SYMPREC
from simxrd_jax.library import store
from simxrd_jax.library.build import _hall_table, library_of
from simxrd_jax.library.extinction import extinction_groups
from simxrd_jax.library.store import ARRAY_FIELDS, CHECKSUM, PREAMBLE, Library, library_bytes, read_library, write_library

# A mixed and partial site, displacement tensors, ions, a long axis and the lowest symmetry.
FILES = ("mixed_FeMgO", "aniso_calcite", "Fe2O3_ions", "long_axis", "triclinic", "quartz", "Si")


@pytest.fixture(scope="module")
def structures(cif_folder: pathlib.Path) -> list[CrystalStructure]:
    return [read_cif(cif_folder / f"{name}.cif") for name in FILES]


@pytest.fixture(scope="module")
def library(structures: list[CrystalStructure]) -> Library:
    return library_of(structures, FILES, name="test")


@pytest.fixture(scope="module")
def content(library: Library) -> bytes:
    return library_bytes(library)


def assert_equal(a: Library, b: Library) -> None:
    for name in ARRAY_FIELDS:
        x, y = getattr(a, name), getattr(b, name)
        assert (x is None) == (y is None), name
        if x is not None:
            assert x.dtype == y.dtype, name
            np.testing.assert_array_equal(x, y, err_msg=name)
    assert a.meta == b.meta
    assert a.split_meta == b.split_meta
    assert list(a.splits) == list(b.splits)
    for name, codes in a.splits.items():
        assert b.splits[name].dtype == codes.dtype
        np.testing.assert_array_equal(b.splits[name], codes)


def test_round_trip(library: Library, content: bytes, tmp_path: pathlib.Path):
    path = tmp_path / "a.simxrd"
    write_library(library, path)
    assert path.read_bytes() == content
    again = read_library(path)
    assert_equal(library, again)
    assert library_bytes(again) == content
    assert os.listdir(tmp_path) == ["a.simxrd"]
    assert again.site_u is not None
    assert again.ids.tolist() == list(FILES)


def test_sections(library: Library, tmp_path: pathlib.Path):
    """Sections are the fields and no more: coordinates of atoms and members of orbits are made anew."""
    write_library(library, tmp_path / "a.simxrd")
    data = (tmp_path / "a.simxrd").read_bytes()
    _, _, length = PREAMBLE.unpack_from(data)
    header = json.loads(data[PREAMBLE.size : PREAMBLE.size + length])
    assert {s["name"] for s in header["sections"]} == set(ARRAY_FIELDS) | {f"split:{name}" for name in library.splits}


def test_operators_are_those_of_spglib(library: Library):
    """Of the Hall numbers in use, bit for bit; and the table holds all 530 likewise."""
    assert library.hall_numbers.tolist() == sorted(set(library.hall.tolist()))
    whole = dataclasses.replace(library, **_hall_table(np.arange(1, 531, dtype=np.int16)))
    for one, halls in ((library, library.hall_numbers), (whole, range(1, 531))):
        for hall in halls:
            for mine, theirs in zip(one.operators(hall), symmetry.hall_operators(int(hall)), strict=True):
                assert mine.dtype == theirs.dtype
                np.testing.assert_array_equal(mine, theirs)
    with pytest.raises(KeyError):
        library.operators(530)
    with pytest.raises(ValueError, match="read-only"):
        library.operators(library.hall[0])[1][0] = 1


WITHOUT_TOOLS = """
import sys
from importlib.abc import MetaPathFinder

class Refuse(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("gemmi", "spglib", "xraydb", "ase", "pymatgen"):
            raise RuntimeError(f"{name} is not on this machine")

sys.meta_path.insert(0, Refuse())

import jax, numpy as np
import simxrd_jax as sx
from simxrd_jax.library.stream import class_names

library = sx.read_library(sys.argv[1])
for mode in ("cached", "atoms"):
    batch = sx.make_stream(library, sx.get_preset("laboratory"), batch=2, mode=mode).batch(jax.random.key(0), 0)
    assert batch.pattern.shape == (2, 3501) and np.isfinite(batch.pattern).all() and batch.pattern.max() == 1
group = class_names(library, "extinction_group")[int(batch.labels["extinction_group"][0])]
structure = library.structure(int(batch.structure[0]))
assert group.startswith(structure.crystal_system), group
print(structure.space_group_symbol)
"""


def test_patterns_without_crystallographic_packages(datasets: pathlib.Path):
    """A machine that trains reads a library and simulates, in both modes, with none of the packages that built it."""
    path = datasets / "mp_library.simxrd"
    run = subprocess.run([sys.executable, "-c", WITHOUT_TOOLS, str(path)], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip()
    program = WITHOUT_TOOLS.partition("import jax")[0] + "import gemmi"
    refused = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert "gemmi is not on this machine" in refused.stderr


def test_optional_and_wide_arrays(library: Library, tmp_path: pathlib.Path):
    """No tensors at all, indices above 127, no split, texts beyond ASCII, skipped structures."""
    meta = dataclasses.replace(library.meta, skipped=(("é", "because; of “this”"),), extra={"notes": ["ü"]})
    other = dataclasses.replace(
        library, meta=meta, site_u=None, hkl=library.hkl.astype(np.int16) * 200, splits={}, split_meta={}
    )
    write_library(other, tmp_path / "b.simxrd")
    again = read_library(tmp_path / "b.simxrd")
    assert again.site_u is None
    assert_equal(other, again)


@pytest.mark.parametrize("index", range(len(FILES)))
def test_structures_come_back(library: Library, structures: list[CrystalStructure], index: int):
    """The expansion of what comes back is that of what was packed."""
    packed = with_found_symmetry(structures[index], DEFAULT_SYMPREC)
    back = library.structure(index)
    assert back.space_group_symbol == packed.space_group_symbol
    assert back.hall_number == packed.hall_number
    assert back.species == packed.species
    np.testing.assert_array_equal(back.lattice, packed.lattice)
    np.testing.assert_array_equal(back.rotations, packed.rotations)
    delta = back.frac - packed.frac
    assert np.abs(delta - np.round(delta)).max() <= 1.2e-10
    mine, theirs = back.atoms, packed.atoms
    assert mine.species == theirs.species
    assert mine.n_centring == theirs.n_centring
    np.testing.assert_allclose(mine.frac, theirs.frac, rtol=0, atol=1e-8)
    np.testing.assert_array_equal(mine.site, theirs.site)
    np.testing.assert_array_equal(mine.operator, theirs.operator)
    np.testing.assert_allclose(mine.occupancy, theirs.occupancy, rtol=1e-7)
    np.testing.assert_allclose(mine.biso, theirs.biso, rtol=1e-7)
    if theirs.u_aniso is None:
        assert mine.u_aniso is None
    else:
        np.testing.assert_allclose(mine.u_aniso, theirs.u_aniso, rtol=0, atol=1e-9)
    assert back.formula == packed.formula


def test_stored_atoms_are_the_expansion(library: Library, structures: list[CrystalStructure]):
    """R x + t of a site with its stored operators are the atoms that `structure(i).atoms` finds."""
    for i in range(len(library)):
        rotations, translations, _ = symmetry.split_centring(*library.operators(library.hall[i]))
        sites = range(*library.first_site[i : i + 2])
        atom, made, species = library.first_atom[i], [], []
        for s in sites:
            operators = library.atom_operator[atom : atom + library.site_atoms[s]]
            atom += library.site_atoms[s]
            made.append(rotations[operators] @ (library.site_frac[s] / 2.0**32) + translations[operators])
            species += [library.species_names[library.site_species[s]]] * len(operators)
        assert atom == library.first_atom[i + 1]
        atoms = library.structure(i).atoms
        rows = [(atoms.species[k], x) for x, o in zip(atoms.frac, atoms.occupancy, strict=True) for k in np.flatnonzero(o)]
        assert sorted(species) == sorted(name for name, _ in rows)
        for name, x in zip(species, np.concatenate(made), strict=True):
            delta = np.array([y for other, y in rows if other == name]) - x
            assert np.abs(delta - np.round(delta)).max(axis=1).min() < 1e-8


def test_offsets_and_labels(library: Library):
    assert library.first_reflection[-1] == len(library.hkl) == len(library.multiplicity) == len(library.f_squared)
    assert library.first_site[-1] == len(library.site_species)
    assert library.first_atom[-1] == len(library.atom_operator) == library.site_atoms.sum()
    for i in range(len(library)):
        assert library.crystal_system[i] == library.structure(i).crystal_system
    assert library.labels_agree.dtype == bool
    quartz = library.index_of("quartz")
    # P 31 2 1 and P 32 2 1 share their absences with P 31, P 32, P 31 1 2 and P 32 1 2.
    groups = extinction_groups()
    assert library.extinction_group_names == groups.names
    np.testing.assert_array_equal(library.extinction_group, groups.of_space_group[library.space_group])
    assert {144, 145, 151, 152, 153, 154} <= set(groups.members[library.extinction_group[quartz]])


def test_index_of(library: Library):
    assert library.index_of("Si") == FILES.index("Si")
    with pytest.raises(InputError, match="did you mean quartz"):
        library.index_of("quarz")
    with pytest.raises(InputError, match="has no structure 'xyz'"):
        library.index_of("xyz")
    with pytest.raises(IndexError):
        library.structure(len(FILES))
    assert library.structure(-1).name == "Si"


def test_arrays_are_decoded_when_asked_for(library: Library, tmp_path: pathlib.Path):
    write_library(library, tmp_path / "a.simxrd")
    again = read_library(tmp_path / "a.simxrd")
    assert "hkl" not in vars(again)
    first = again.hkl
    assert again.hkl is first
    with pytest.raises(AttributeError, match="no attribute 'hlk'"):
        _ = again.hlk  # pyright: ignore[reportAttributeAccessIssue]
    assert dataclasses.replace(again, hall=library.hall).meta == library.meta


def sections_of(content: bytes) -> tuple[int, list[dict]]:
    _, _, length = PREAMBLE.unpack_from(content)
    header = json.loads(content[PREAMBLE.size : PREAMBLE.size + length])
    return PREAMBLE.size + length + CHECKSUM.size, header["sections"]


def refusal(path: pathlib.Path, content: bytes) -> str:
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_library(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message


def test_a_file_without_a_section(library: Library, tmp_path: pathlib.Path):
    content = library_bytes(dataclasses.replace(library, hall_symbols=None, f0_a=None))
    assert refusal(tmp_path / "old.simxrd", content).endswith("lacks the sections f0_a, hall_symbols; build it anew")


def test_a_flipped_byte_in_each_section(content: bytes, tmp_path: pathlib.Path):
    start, sections = sections_of(content)
    assert len(sections) > 25
    for section in sections:
        for place in (0, section["size"] // 2, section["size"] - 1):
            at = start + section["offset"] + place
            bad = content[:at] + bytes([content[at] ^ 0x10]) + content[at + 1 :]
            assert f"section {section['name']} is damaged" in refusal(tmp_path / "bad.simxrd", bad)


def test_a_flipped_byte_anywhere_in_the_header(content: bytes, tmp_path: pathlib.Path):
    start, _ = sections_of(content)
    for at in [*range(PREAMBLE.size + 40), *range(PREAMBLE.size + 40, start, 97), start - 1]:
        bad = content[:at] + bytes([content[at] ^ 0x40]) + content[at + 1 :]
        message = refusal(tmp_path / "bad.simxrd", bad)
        expected = ("is not a library",) if at < 8 else ("of format",) if at < 12 else ("header",)
        assert any(words in message for words in expected), (at, message)


def test_truncation_at_every_kind_of_place(content: bytes, tmp_path: pathlib.Path):
    start, sections = sections_of(content)
    places = {1, 4, 8, 12, PREAMBLE.size, PREAMBLE.size + 10, start - CHECKSUM.size, start - 1, start, len(content) - 1}
    places |= {start + s["offset"] for s in sections} | {start + s["offset"] + s["size"] // 2 for s in sections}
    for place in sorted(places):
        assert "is truncated" in refusal(tmp_path / "short.simxrd", content[:place]), place
    assert "is empty" in refusal(tmp_path / "short.simxrd", b"")
    assert "too many" in refusal(tmp_path / "long.simxrd", content + b"\0")


def test_other_files(content: bytes, tmp_path: pathlib.Path):
    png = b"\x89PNG\r\n\x1a\n" + bytes(100)
    assert "is not a library" in refusal(tmp_path / "picture.png", png)
    assert "is not a library" in refusal(tmp_path / "text.simxrd", b"SIMXRD, a text\n")
    newer = PREAMBLE.pack(store.MAGIC, 99, 5) + b"other" + bytes(20)
    assert "of format 99, this program reads format 1" in refusal(tmp_path / "newer.simxrd", newer)
    with pytest.raises(InputError, match="no such file"):
        read_library(tmp_path / "missing.simxrd")
    with pytest.raises(InputError, match="is a folder"):
        read_library(tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_closed_file(content: bytes, tmp_path: pathlib.Path):
    path = tmp_path / "closed.simxrd"
    path.write_bytes(content)
    path.chmod(0)
    with pytest.raises(InputError, match="cannot be read"):
        read_library(path)


def test_the_header_is_checked_against_itself(content: bytes):
    """The checksum that the file states is that of the bytes before it, by an independent reading of the layout."""
    length = struct.unpack("<I", content[12:16])[0]
    assert struct.unpack("<I", content[16 + length : 20 + length])[0] == zlib.crc32(content[: 16 + length])


def test_a_write_that_fails_leaves_what_was_there(library: Library, tmp_path: pathlib.Path):
    with pytest.raises(InputError, match="does not exist"):
        write_library(library, tmp_path / "no" / "a.simxrd")
    (tmp_path / "a.simxrd").mkdir()
    with pytest.raises(InputError, match="is a folder"):
        write_library(library, tmp_path / "a.simxrd")
    assert os.listdir(tmp_path) == ["a.simxrd"]


def test_opening_is_fast(datasets: pathlib.Path):
    begin = time.perf_counter()
    library = read_library(datasets / "mp_library.simxrd")
    for name in ARRAY_FIELDS:
        getattr(library, name)
    assert time.perf_counter() - begin < 0.5 * max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))
    assert len(library) >= 2048
