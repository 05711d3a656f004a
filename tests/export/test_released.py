"""SimXRD databases: the released one, rows that are malformed or hostile, what is written as ASE reads it."""

from __future__ import annotations

import contextlib
import json
import pathlib
import pickle
import shutil
import sqlite3
from collections.abc import Callable

import ase
import ase.db
import numpy as np
import pytest

from simxrd_jax.conditions import CONDITIONS
from simxrd_jax.crystal.structure import CRYSTAL_SYSTEMS
from simxrd_jax.errors import InputError
from simxrd_jax.export.database import write_database
from simxrd_jax.export.generate import Request, make_job
from simxrd_jax.export.reader import read_patterns, verify
from simxrd_jax.export.released import PARAMETERS, released_job
from simxrd_jax.export.writer import write_set
from simxrd_jax.io.simxrd_db import KEYS, SYSTEM_CODES, WAVELENGTH, SimxrdDatabase, parse_row, row_pairs, spacing_text
from simxrd_jax.library.extinction import extinction_groups
from simxrd_jax.library.store import Library
from simxrd_jax.library.stream import Impurities
from simxrd_jax.presets import Uniform, get_preset

from .made import bar

POINTS = 40
TWO_THETA = 20.0 + 0.5 * np.arange(POINTS)


def good_pairs(seed: int = 0) -> dict[str, str]:
    intensity = np.random.default_rng(seed).uniform(0, 100, POINTS).astype(np.float32)
    return row_pairs(spacing_text(TWO_THETA, WAVELENGTH), intensity, 62, "P", "Fe8O16Si4", (3.3, 0.1, 0.2, 0.05, -0.6))


def make_database(path: pathlib.Path, rows: list[dict | str]) -> pathlib.Path:
    """An ASE database with these key-value pairs, or texts in their place."""
    with ase.db.connect(path, type="db") as database:
        for _ in rows:
            database.write(ase.Atoms("Si"))
    with sqlite3.connect(path) as connection:
        for i, row in enumerate(rows, 1):
            text = row if isinstance(row, str) else json.dumps(row)
            connection.execute("update systems set key_value_pairs = ? where id = ?", (text, i))
    return path


@pytest.fixture(scope="module")
def released(shared_data: pathlib.Path) -> pathlib.Path:
    return shared_data / "simxrd_db" / "binxrd.db"


# --- The released database -------------------------------------------------------------------------------------------------


def test_released_rows_are_read_as_ase_and_python_read_them(released):
    """The independent reading evaluates the texts, as the published code does; here the rows are known to be harmless."""
    database = SimxrdDatabase(released)
    rows = list(ase.db.connect(released).select())
    assert len(database) == len(rows) == 9
    names = dict(zip(SYSTEM_CODES.values(), SYSTEM_CODES, strict=True))
    for row, wanted in zip((database[i] for i in range(9)), rows, strict=True):
        np.testing.assert_array_equal(row.intensity, eval(wanted.intensity))
        group, code, letter = eval(wanted.tager)
        assert (row.space_group, row.crystal_system, row.lattice_letter) == (group, names[code], letter)
        assert row.formula == wanted.chem_form
        grain, orientation, displacement, shift = eval(wanted.simulation_param)
        assert (row.grain_size, row.orientation, row.displacement) == (grain, tuple(orientation), displacement)
        assert row.zero_shift == shift
        start, step = row.two_theta
        angles = np.radians(start + step * np.arange(3501)) / 2
        np.testing.assert_allclose(WAVELENGTH / (2 * np.sin(angles)), eval(wanted.latt_dis), rtol=1e-12)
        assert abs(start - 10) < 0.01
        assert step == pytest.approx(0.02, rel=1e-9)


def test_the_released_database_is_imported(released, tmp_path):
    manifest = write_set(released_job(released, "train", 4), tmp_path / "set", "npz", bar=bar)
    assert [s.records for s in manifest.shards] == [4, 4, 1]
    assert not manifest.skipped
    patterns, database = read_patterns(tmp_path / "set"), SimxrdDatabase(released)
    systems = {f.name: f.classes for f in manifest.features}["crystal_system"]
    groups = extinction_groups()
    for i, record in enumerate(patterns):
        row = database[i]
        np.testing.assert_array_equal(record["intensity"], row.intensity.astype(np.float32))
        assert record["space_group"] == row.space_group
        assert systems[record["crystal_system"]] == row.crystal_system
        assert record["extinction_group"] == groups.of_space_group[row.space_group]
        assert record["row"] == i + 1
        assert record["conditions/zero_shift"] == np.float32(row.zero_shift)
        assert record["two_theta_start"] == np.float32(row.two_theta[0])
    assert patterns.two_theta[[0, -1]] == pytest.approx([10, 80])


def test_a_database_opens_again_in_another_process(released):
    database = SimxrdDatabase(released)
    copy = pickle.loads(pickle.dumps(database))
    np.testing.assert_array_equal(copy[3].intensity, database[3].intensity)
    np.testing.assert_array_equal(database[-1].intensity, database[8].intensity)
    database.close()
    assert database[0].space_group == 62
    with pytest.raises(IndexError):
        database[9]


def test_reading_changes_no_byte_of_a_read_only_folder(released, tmp_path):
    path = pathlib.Path(shutil.copy(released, tmp_path / "copy.db"))
    path.chmod(0o400)
    before = path.read_bytes()
    assert SimxrdDatabase(path)[0].space_group == 62
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["copy.db"]


def test_system_codes_name_all_systems():
    assert set(SYSTEM_CODES) == {name for _, name in CRYSTAL_SYSTEMS}
    assert sorted(SYSTEM_CODES.values()) == list(range(1, 8))
    assert set(PARAMETERS) <= set(CONDITIONS)


# --- Malformed rows --------------------------------------------------------------------------------------------------------


def _with(**changes: object) -> dict:
    return {**good_pairs(), **changes}


def _without(key: str) -> dict:
    return {k: v for k, v in good_pairs().items() if k != key}


def _numbers(change: Callable[[list], object]) -> str:
    values = json.loads(good_pairs()["intensity"])
    return json.dumps(change(values))


MARK = "simxrd_marker_that_code_ran"
CODE = f"__import__('pathlib').Path('{MARK}').write_text('ran')"
BAD_ROWS = [
    *[(_without(key), f"lacks the text {key}") for key in KEYS],
    (_with(latt_dis=5.0), "lacks the text latt_dis"),
    (_with(intensity=CODE), "its intensity .* is no list of numbers"),
    (_with(latt_dis=f"[{CODE}]"), "its latt_dis .* is no list"),
    (_with(tager=f"[{CODE}, 4, 'P']"), "its tager .* is not"),
    (_with(tager="[62, 4, 'P']" + ".__class__"), "its tager .* is not"),
    (_with(simulation_param=f"[1, [{CODE}, 0], 0, 0]"), "its simulation_param .* is no list"),
    (_with(chem_form=CODE), "its chem_form .* is no formula"),
    (_with(intensity=_numbers(lambda v: v[:-1])), "has 40 values of latt_dis and 39 of intensity"),
    (_with(intensity=_numbers(lambda v: v[:3])), "has 3 values, too few"),
    (_with(intensity=_numbers(lambda v: ["text", *v[1:]])), "holds something that is no number"),
    (_with(intensity=_numbers(lambda v: [None, *v[1:]])), "holds something that is no number"),
    (_with(intensity=_numbers(lambda v: [True, *v[1:]])), "holds something that is no number"),
    (_with(intensity=_numbers(lambda v: [[1.0], *v[1:]])), "holds something that is no number"),
    (_with(intensity=_numbers(lambda v: [float("nan"), *v[1:]])), "not finite"),
    (_with(intensity=_numbers(lambda v: [float("inf"), *v[1:]])), "not finite"),
    (_with(intensity=_numbers(lambda v: [10**400, *v[1:]])), "too large"),
    (_with(intensity=_numbers(lambda v: [-11.0, *v[1:]])), "below -10 %"),
    (_with(intensity=_numbers(lambda v: [0.0] * len(v))), "is 0 everywhere"),
    (_with(intensity="[" * 200_000), "is no list of numbers"),
    (_with(intensity='{"a": 1}'), "is no list"),
    (_with(intensity=""), "is no list of numbers"),
    (_with(latt_dis=json.dumps(json.loads(good_pairs()["latt_dis"])[::-1])), "does not fall in even steps"),
    (_with(latt_dis=json.dumps([*json.loads(good_pairs()["latt_dis"])[:-1], 1.5])), "does not fall in even steps"),
    (_with(latt_dis=json.dumps([0.5] * POINTS)), "cannot be reached"),
    (_with(latt_dis=json.dumps([-3.0] * POINTS)), "cannot be reached"),
    (_with(tager="[231, 1, 'P']"), "names no space group"),
    (_with(tager="[0, 7, 'P']"), "names no space group"),
    (_with(tager="[62, 4, 'Q']"), "names no space group or no lattice"),
    (_with(tager="[62, 3, 'P']"), "space group 62 is orthorhombic"),
    (_with(tager="62"), "is not"),
    (_with(chem_form=""), "is no formula"),
    (_with(simulation_param="[1, 2, 3, 4]"), "is not"),
    (_with(simulation_param="[1, [2, NaN], 3, 4]"), "is not"),
    (_with(simulation_param=f"[{10**400}, [0, 0], 0, 0]"), "is not"),
    (_with(simulation_param="[1e60, [0, 0], 0, 0]"), "is not"),
    (_with(simulation_param="[-5, [0, 0], 0, 0]"), "negative grain size"),
    (_with(intensity=_numbers(lambda v: [1e60, *v[1:]])), "too large"),
    ("not json", "no JSON"),
    ("[1, 2]", "no mapping"),
    ("[" * 100_000, "no JSON"),
]


@pytest.mark.parametrize(("row", "message"), BAD_ROWS)
def test_a_malformed_row_is_skipped_and_named(row, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = make_database(tmp_path / "rows.db", [good_pairs(1), row, good_pairs(3)])
    with pytest.raises(InputError, match=message) as caught:
        SimxrdDatabase(path)[1]
    assert len(str(caught.value)) < 250 + len(str(path))
    manifest = write_set(released_job(path, "test", 2), tmp_path / "set", "npz", bar=bar)
    ((source, reason),) = manifest.skipped
    assert source == "row 2"
    assert reason in str(caught.value)
    np.testing.assert_array_equal([r["row"] for r in read_patterns(tmp_path / "set")], [1, 3])
    assert not (tmp_path / MARK).exists()


def test_a_row_of_another_grid_is_skipped(tmp_path):
    axis = spacing_text(TWO_THETA[:-1], WAVELENGTH)
    shorter = row_pairs(axis, np.ones(POINTS - 1), 62, "P", "Si", (1, 0, 0, 0, 0))
    wider = _with(latt_dis=spacing_text(20 + 0.4 * np.arange(POINTS), WAVELENGTH))
    path = make_database(tmp_path / "rows.db", [good_pairs(), shorter, wider])
    manifest = write_set(released_job(path, "train", 5), tmp_path / "set", "npz", bar=bar)
    assert manifest.skipped == [
        ("row 2", "has 39 points in steps of 0.5 deg, others 40 of 0.5"),
        ("row 3", "has 40 points in steps of 0.4 deg, others 40 of 0.5"),
    ]


def test_the_grid_is_that_of_most_rows_not_of_the_first(tmp_path):
    shorter = row_pairs(spacing_text(TWO_THETA[:-1], WAVELENGTH), np.ones(POINTS - 1), 62, "P", "Si", (1, 0, 0, 0, 0))
    path = make_database(tmp_path / "rows.db", [shorter, good_pairs(), good_pairs()])
    manifest = write_set(released_job(path, "train", 5), tmp_path / "set", "npz", bar=bar)
    assert manifest.skipped == [("row 1", "has 39 points in steps of 0.5 deg, others 40 of 0.5")]


@pytest.mark.parametrize("number", [2**31, -3, "'text'", "null"])
def test_rows_whose_numbers_are_no_numbers_are_refused(number, tmp_path):
    with contextlib.closing(sqlite3.connect(tmp_path / "rows.db")) as connection:
        connection.execute("create table systems (id, key_value_pairs text)")
        connection.execute(f"insert into systems values ({number}, '{{}}')")
        connection.commit()
    with pytest.raises(InputError, match="has rows numbered beyond 1 to 2147483647"):
        SimxrdDatabase(tmp_path / "rows.db")


@pytest.mark.parametrize("name", ["array_record", "npz", "hdf5", "parquet"])
def test_a_shard_of_bad_rows_is_empty(name, tmp_path):
    path = make_database(tmp_path / "rows.db", [good_pairs(), "bad", "bad", good_pairs()])
    manifest = write_set(released_job(path, "train", 1), tmp_path / "set", name, bar=bar)
    assert [s.records for s in manifest.shards] == [1, 0, 0, 1]
    assert [int(r["row"]) for r in read_patterns(tmp_path / "set")] == [1, 4]
    verify(tmp_path / "set")


def test_changed_texts_are_refused_or_read_and_never_run():
    """Random changes of any text: an InputError, or numbers of the right kind."""
    random = np.random.default_rng(7)
    characters = "[](){}'\",.:;-+eE0123456789 abcnulltrueNaN\\\n\x00é"
    for _ in range(600):
        pairs = good_pairs()
        key = KEYS[random.integers(len(KEYS))]
        text = list(pairs[key])
        for _ in range(random.integers(1, 4)):
            text[random.integers(len(text))] = characters[random.integers(len(characters))]
        pairs[key] = "".join(text)
        try:
            row = parse_row(pairs)
        except InputError:
            continue
        assert np.isfinite(row.intensity).all()
        assert 1 <= row.space_group <= 230


def test_a_database_without_a_good_row_is_refused(tmp_path):
    path = make_database(tmp_path / "rows.db", ["bad", _without("tager")])
    with pytest.raises(InputError, match=r"no row can be used; the first reason: .*row 1: its key-value pairs are no JSON"):
        released_job(path, "train", 5)


@pytest.mark.parametrize("content", [b"", b"text", b"SQLite format 3\x00" + b"\xff" * 600])
def test_what_is_no_database_is_refused(content, tmp_path):
    path = tmp_path / "x.db"
    path.write_bytes(content)
    with pytest.raises(InputError, match="is not an ASE database"):
        SimxrdDatabase(path)
    with pytest.raises(InputError, match="no such file"):
        SimxrdDatabase(tmp_path / "none.db")
    with pytest.raises(InputError, match="no such file"):
        SimxrdDatabase(tmp_path)


def test_a_database_without_rows_is_refused(tmp_path):
    with ase.db.connect(tmp_path / "x.db", type="db") as database:
        del database[database.write(ase.Atoms("Si"))]
    with pytest.raises(InputError, match="has no rows"):
        SimxrdDatabase(tmp_path / "x.db")


# --- Writing ---------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def written(library: Library, tmp_path_factory: pytest.TempPathFactory) -> tuple[pathlib.Path, dict]:
    """A database of simulated patterns, and its records."""
    path = tmp_path_factory.mktemp("ase") / "train.db"
    preset = get_preset("ideal")
    job = make_job(library, Request(preset, per_structure=1, shard_size=8, values={"zero_shift": 0.25}))
    write_database(job, path, library, preset, bar=bar)
    return path, next(job.blocks([(0, 5)])).columns


def test_ase_reads_what_is_written(written, library):
    path, columns = written
    database = ase.db.connect(path)
    rows = list(database.select())
    assert database.count() == len(library) == len(rows)
    two_theta = np.asarray(get_preset("ideal").grid().two_theta, np.float64)
    wavelength = get_preset("ideal").radiation.mean_wavelength
    for i, row in enumerate(rows):
        assert set(row.key_value_pairs) == set(KEYS)
        np.testing.assert_allclose(json.loads(row.intensity), columns["intensity"][i], rtol=1e-8, atol=1e-8)
        spacing = np.array(json.loads(row.latt_dis))
        np.testing.assert_allclose(2 * np.degrees(np.arcsin(wavelength / 2 / spacing)), two_theta, atol=1e-6)
        structure = library.structure(i)
        assert row.data.structure_id == library.ids[i]
        np.testing.assert_allclose(row.cell, structure.lattice, rtol=1e-12)
        assert row.natoms == len(structure.atoms.frac) * structure.atoms.n_centring
        assert row.pbc.all()
    assert rows[0].tager == "[227, 1, 'F']"
    assert rows[0].chem_form == "Si8"
    assert rows[1].chem_form == "Al12O18"
    assert next(iter(database.select("chem_form=Si8"))).id == 1


def test_the_atoms_make_the_spacegroup_and_the_pattern_again(written, library):
    """spglib finds the label in the atoms that a row holds."""
    import spglib

    for row in ase.db.connect(written[0]).select():
        atoms = row.toatoms()
        dataset = spglib.get_symmetry_dataset((atoms.cell[:], atoms.get_scaled_positions(), atoms.numbers), symprec=0.01)
        assert dataset is not None
        assert dataset.number == library.space_group[row.id - 1]
        assert row.tager.startswith(f"[{dataset.number}, ")


def test_what_is_written_is_read_as_a_released_database(written):
    path, columns = written
    database = SimxrdDatabase(path)
    for i in range(len(database)):
        row = database[i]
        np.testing.assert_array_equal(row.intensity.astype(np.float32), columns["intensity"][i])
        assert row.space_group == columns["space_group"][i]
        assert (row.grain_size, row.orientation, row.displacement) == (0.0, (0.0, 0.0), 0.0)
    verify(path)


def test_a_mixtures_phases_are_in_its_data(library, tmp_path):
    preset, mixed = get_preset("ideal"), Impurities(count=2, probability=0.5, mass_fraction=Uniform(0.1, 0.3))
    job = make_job(library, Request(preset, count=6, impurities=mixed, shard_size=8))
    write_database(job, tmp_path / "mixed.db", library, preset, bar=bar)
    columns = next(job.blocks([(0, 6)])).columns
    for i, row in enumerate(ase.db.connect(tmp_path / "mixed.db").select()):
        assert row.data.phases == columns["phases"][i].tolist()
        assert row.data.mass_fraction == columns["mass_fraction"][i].tolist()


def test_a_database_is_complete_or_refused(written, library, tmp_path):
    path, said = tmp_path / "train.db", []
    shutil.copy(written[0], path)
    job = make_job(library, Request("ideal", per_structure=1, shard_size=8, values={"zero_shift": 0.25}))
    with pytest.raises(InputError, match="exists already and is no set that was begun here"):
        write_database(job, path, library, get_preset("ideal"), bar=bar)
    manifest = path.with_name("train.db.manifest.json")
    shutil.copy(written[0].with_name(manifest.name), manifest)
    before = path.read_bytes()
    write_database(job, path, library, get_preset("ideal"), say=said.append, bar=bar)
    assert "complete, 5 records" in said[0]
    path.write_bytes(before + b"x")
    with pytest.raises(InputError, match="was changed since it was complete; delete it"):
        write_database(job, path, library, get_preset("ideal"), bar=bar)
    path.write_bytes(before)
    with pytest.raises(InputError, match="another seed"):
        write_database(
            make_job(library, Request("ideal", per_structure=1, shard_size=8, values={"zero_shift": 0.25}, seed=1)),
            path,
            library,
            get_preset("ideal"),
            bar=bar,
        )
    assert path.read_bytes() == before
    # Another file where that of a killed run would be renamed to.
    text = manifest.read_text()
    manifest.write_text(json.dumps({**json.loads(text), "complete": False, "shards": [], "records": 0}))
    path.write_bytes(b"mine")
    with pytest.raises(InputError, match="is not the database that was begun here"):
        write_database(job, path, library, get_preset("ideal"), bar=bar)
    assert path.read_bytes() == b"mine"
    assert not path.with_name(".train.db.lock").exists()
    manifest.write_text(text)
    path.write_bytes(before)
    # Killed between renaming the database and writing its manifest.
    text = manifest.read_text()
    content = json.loads(text)
    manifest.write_text(json.dumps({**content, "complete": False, "shards": [], "records": 0}))
    write_database(job, path, library, get_preset("ideal"), bar=bar)
    assert path.read_bytes() == before
    assert manifest.read_text() == text
    verify(path)


@pytest.mark.parametrize("left", ["tables", "nothing"])
def test_a_kill_while_the_tables_are_made_leaves_nothing_in_the_way(left, written, library, tmp_path):
    """ASE makes its tables one by one: those of a killed run are half of them, or an empty file."""
    path = tmp_path / "train.db"
    job = make_job(library, Request("ideal", per_structure=1, shard_size=8, values={"zero_shift": 0.25}))
    manifest = written[0].with_name("train.db.manifest.json")
    content = json.loads(manifest.read_text())
    path.with_name(manifest.name).write_text(json.dumps({**content, "complete": False, "shards": [], "records": 0}))
    fresh = path.with_name("train.db.part.new")
    with contextlib.closing(sqlite3.connect(fresh)) as connection:
        if left == "tables":
            connection.execute("create table systems (id integer primary key)")
            connection.commit()
    fresh.with_name(fresh.name + "-journal").write_bytes(b"")
    write_database(job, path, library, get_preset("ideal"), bar=bar)
    assert {each.name for each in tmp_path.iterdir()} == {"train.db", manifest.name}
    verify(path)


def test_a_preset_of_another_wavelength_is_refused(library, tmp_path):
    """The format has d alone, and its readers take 1.54184 A."""
    job = make_job(library, Request("ideal", per_structure=1, shard_size=8))
    with pytest.raises(InputError, match=r"SimXRD databases are of 1\.54184 A, the preset synchrotron of 0\.41"):
        write_database(job, tmp_path / "x.db", library, get_preset("synchrotron"), bar=bar)
    assert not list(tmp_path.iterdir())


def test_a_damaged_unfinished_database_is_named(written, library, tmp_path):
    path = tmp_path / "train.db"
    job = make_job(library, Request("ideal", per_structure=1, shard_size=8, values={"zero_shift": 0.25}))
    manifest = written[0].with_name("train.db.manifest.json")
    content = json.loads(manifest.read_text())
    path.with_name(manifest.name).write_text(json.dumps({**content, "complete": False, "shards": [], "records": 0}))
    path.with_name("train.db.part").write_bytes(b"no database at all")
    with pytest.raises(InputError, match=r"train\.db\.part: is damaged \(.*\); delete it and give the same command again"):
        write_database(job, path, library, get_preset("ideal"), bar=bar)


def test_a_name_that_an_address_would_quote_is_verified(written, tmp_path):
    path = tmp_path / "a#b%41?.db"
    shutil.copy(written[0], path)
    manifest = written[0].with_name(written[0].name + ".manifest.json")
    text = manifest.read_text().replace('"train.db"', json.dumps(path.name))
    path.with_name(path.name + ".manifest.json").write_text(text)
    assert verify(path).records == 5
    assert len(list(tmp_path.iterdir())) == 2


def test_an_axis_from_zero_has_no_d():
    with pytest.raises(InputError, match="begins at 2theta = 0"):
        spacing_text(np.arange(5.0), WAVELENGTH)
