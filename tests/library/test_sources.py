"""Sources of structures: each kind is read in ranges, ids are found, and what is no source gets one sentence."""

from __future__ import annotations

import gzip
import json
import os
import pathlib
import sqlite3
from typing import Any

import ase.db
import numpy as np
import pytest
from ase import Atoms
from pymatgen.core import Lattice, Structure

from simxrd_jax.errors import InputError
from simxrd_jax.io.structures import DEFAULT_SYMPREC
from simxrd_jax.library.sources import Source, given_object, open_source

CELLS = {
    "salt": ("NaCl", [[0, 0, 0], [0.5, 0.5, 0.5]], 5.64),
    "blende": ("ZnS", [[0, 0, 0], [0.25, 0.25, 0.25]], 5.41),
    "caesium": ("CsCl", [[0, 0, 0], [0.5, 0.5, 0.5]], 4.12),
}
NUMBERS = {"salt": 225, "blende": 216, "caesium": 221}


def atoms(name: str) -> Atoms:
    symbols, frac, edge = CELLS[name]
    cell = np.eye(3) * edge if name == "caesium" else (1 - np.eye(3)) * edge / 2
    return Atoms(symbols, scaled_positions=frac, cell=cell, pbc=True)


def structure(name: str) -> Structure:
    made = atoms(name)
    return Structure(Lattice(np.array(made.cell[:])), made.get_chemical_symbols(), made.get_scaled_positions())


def read(source: Source, start: int = 0, stop: int | None = None) -> dict[str, int]:
    """id -> space group at the default tolerance."""
    stop = len(source) if stop is None else stop
    return {item.id: item.load().structure(DEFAULT_SYMPREC).space_group_number for item in source.items(start, stop)}


def test_ase_database(tmp_path: pathlib.Path):
    path = tmp_path / "made.db"
    with ase.db.connect(str(path)) as database:
        database.write(atoms("salt"), mpid="mp-1.cif")
        database.write(atoms("blende"), data={"intensity": [1.0] * 1000})
        database.write(atoms("caesium"), material_id="mp-3")
        database.write(atoms("salt"), formation_energy=1.0)
        del database[2]
    source = open_source(path)
    assert source.name == "made.db"
    assert len(source) == 3
    assert read(source) == {"mp-1": 225, "mp-3": 221, "db-4": 225}
    assert read(source, 1, 2) == {"mp-3": 221}
    assert read(source, 2, 9) == {"db-4": 225}
    assert read(source, 5, 9) == {}


def test_demo_database(shared_data: pathlib.Path):
    source = open_source(shared_data / "simxrd_db" / "demo_mp.db")
    assert list(read(source))[:4] == ["mp-1", "mp-10", "mp-100", "mp-1000"]
    assert len(source) == 10


def test_cif_folder(cif_folder: pathlib.Path, tmp_path: pathlib.Path):
    (tmp_path / "b" / "c").mkdir(parents=True)
    for place in ("z.cif", "b/a.CIF", "b/c/m.cif"):
        (tmp_path / place).write_bytes((cif_folder / "Si.cif").read_bytes())
    (tmp_path / "notes.txt").write_text("no CIF")
    source = open_source(tmp_path)
    assert source.name == tmp_path.name
    assert [item.id for item in source.items(0, 9)] == ["a", "m", "z"]
    assert read(source, 1, 3) == {"m": 227, "z": 227}
    one = open_source(tmp_path / "z.cif")
    assert (one.name, len(one), read(one)) == ("z.cif", 1, {"z": 227})


def test_given_atoms_fill_the_cell(cif_folder: pathlib.Path):
    """The cell for the labels holds all atoms, kinds by species and occupancy."""
    for name, count, kinds in (("Si", 8, 1), ("mixed_FeMgO", 8, 2), ("LaB6", 7, 2), ("Fe2O3_ions", 30, 2)):
        given = next(open_source(cif_folder / f"{name}.cif").items(0, 1)).load()
        assert len(given.frac) == len(given.kinds) == count
        assert len(set(given.kinds)) == kinds


DOCUMENTS: dict[str, tuple[Any, list[str]]] = {
    "one": (structure("salt").as_dict(), ["one"]),
    "list": ([structure("salt").as_dict(), structure("blende").as_dict()], ["list-1", "list-2"]),
    "mapping": ({"mp-7": structure("salt").as_dict(), "x": structure("caesium").as_dict()}, ["mp-7", "x"]),
    "records": (
        [
            {"material_id": "mp-22862", "structure": structure("salt").as_dict()},
            {"id": 12, "structure": structure("blende").as_dict()},
            {"structure": structure("caesium").as_dict()},
        ],
        ["mp-22862", "12", "records-3"],
    ),
    "record": ({"material_id": "mp-1", "structure": structure("salt").as_dict()}, ["mp-1"]),
    "mapping_of_records": ({"a": {"structure": structure("salt").as_dict(), "e": 1}}, ["a"]),
}


@pytest.mark.parametrize("name", DOCUMENTS)
@pytest.mark.parametrize("packed", [False, True])
def test_pymatgen_json(tmp_path: pathlib.Path, name: str, packed: bool):
    document, ids = DOCUMENTS[name]
    path = tmp_path / (f"{name}.json.gz" if packed else f"{name}.json")
    text = json.dumps(document).encode()
    path.write_bytes(gzip.compress(text) if packed else text)
    source = open_source(path)
    found = read(source)
    assert list(found) == ids
    assert set(found.values()) <= set(NUMBERS.values())
    assert found[ids[0]] == 225


def test_json_lines(tmp_path: pathlib.Path):
    path = tmp_path / "many.jsonl"
    lines = [{"material_id": name, "structure": structure(name).as_dict()} for name in CELLS]
    path.write_text("\n".join(json.dumps(line) for line in lines) + "\n\n")
    assert read(open_source(path)) == NUMBERS


def test_a_malformed_entry_is_one_bad_structure(tmp_path: pathlib.Path):
    path = tmp_path / "m.json"
    path.write_text(json.dumps([structure("salt").as_dict(), {"lattice": 3}, 5, {"structure": None}]))
    items = list(open_source(path).items(0, 9))
    assert items[0].load().structure(DEFAULT_SYMPREC).space_group_number == 225
    for item in items[1:]:
        with pytest.raises(InputError, match="is not a pymatgen Structure"):
            item.load()


def test_npz_set(datasets: pathlib.Path):
    source = open_source(datasets / "mp_sample.npz")
    assert len(source) == 512
    assert [item.id for item in source.items(3, 5)] == np.load(datasets / "mp_sample.npz")["id"][3:5].tolist()
    assert len(list(source.items(510, 600))) == 2


def test_digests_follow_the_content(cif_folder: pathlib.Path, tmp_path: pathlib.Path):
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "a.cif").write_text("one")
    first = open_source(folder).digest()
    assert open_source(folder).digest() == first
    (folder / "a.cif").write_text("two")
    assert open_source(folder).digest() != first
    (folder / "a.cif").rename(folder / "b.cif")
    second = open_source(folder).digest()
    (folder / "b.cif").write_text("one")
    assert len({first, second, open_source(folder).digest()}) == 3


def test_no_sources(tmp_path: pathlib.Path, datasets: pathlib.Path):
    def refused(path: pathlib.Path, content: bytes | None, reason: str) -> None:
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(InputError, match=reason) as caught:
            open_source(path)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)

    refused(tmp_path / "missing", None, "no such file or folder")
    refused(tmp_path, None, "holds no .cif file")
    refused(datasets / "mp_library.simxrd", None, "is a library already")
    refused(tmp_path / "named.simxrd", b"anything", "is a library already")
    refused(tmp_path / "renamed.npz", (datasets / "mp_library.simxrd").read_bytes()[:100], "is a library already")
    refused(tmp_path / "a.xyz", b"3\n", "is of no kind")
    refused(tmp_path / "a.json", b"{", "is not valid JSON")
    refused(tmp_path / "a.json", b"", "is empty")
    refused(tmp_path / "a.json", b"[]", "holds no structure")
    refused(tmp_path / "a.json", b"3", "neither a list nor a mapping")
    refused(tmp_path / "a.json", b"\xff\xfe\x00", "cannot be read as text")
    refused(tmp_path / "a.json.gz", b"{}", "cannot be read as text or as gzip")
    refused(tmp_path / "a.npz", b"PK", "is not an npz file")
    refused(tmp_path / "a.db", b"no database at all, but some bytes of text", "is not an ASE database")


def test_a_foreign_database_is_left_alone(tmp_path: pathlib.Path):
    """ASE would make its tables in it."""
    path = tmp_path / "mine.db"
    with sqlite3.connect(path) as connection:
        connection.execute("create table things (name text)")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(InputError, match="is not an ASE database"):
        open_source(path)
    (tmp_path / "empty.db").touch()
    with pytest.raises(InputError, match="is not an ASE database"):
        open_source(tmp_path / "empty.db")
    assert path.read_bytes() == before
    assert sorted(os.listdir(tmp_path)) == ["empty.db", "mine.db"]
    assert (tmp_path / "empty.db").stat().st_size == 0


def test_objects(cif_folder: pathlib.Path):
    for value in (atoms("salt"), structure("salt")):
        given = given_object(value)
        assert given.structure(DEFAULT_SYMPREC).space_group_number == 225
        assert len(given.kinds) == 2
    with pytest.raises(InputError, match="a str is no structure"):
        given_object("salt")
    with pytest.raises(InputError, match="no cell"):
        given_object(Atoms("H"))
