"""Writing sets: what is in the folder, what goes on after a stop and with which bytes, what is refused and in what words."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import pathlib
import shutil
import sqlite3
import subprocess
import sys

import numpy as np
import pytest

from simxrd_jax.errors import InputError
from simxrd_jax.export import writer
from simxrd_jax.export.formats import FORMATS
from simxrd_jax.export.manifest import MANIFEST, differences, read_manifest
from simxrd_jax.export.reader import read_patterns, verify
from simxrd_jax.export.writer import write_set
from simxrd_jax.hosts import Hosts
from simxrd_jax.io.files import LOCK, locked

from .made import FEATURES, Bar, bar, columns_of, make_job

TESTS = pathlib.Path(__file__).resolve().parents[1]
every_format = pytest.mark.parametrize("name", FORMATS)


def files_of(folder: pathlib.Path) -> dict[str, bytes]:
    """Every file of a folder but the lock, which is empty."""
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir()) if p.name != LOCK}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A complete set; nothing may change it."""
    folder = tmp_path_factory.mktemp("set") / "whole"
    write_set(make_job(), folder, "npz", bar=bar)
    return folder


def _stopped(whole: pathlib.Path, folder: pathlib.Path, shards: int) -> pathlib.Path:
    """A copy of a set as a run leaves it that was killed after so many shards."""
    shutil.copytree(whole, folder)
    content = json.loads((folder / MANIFEST).read_text())
    for shard in content["shards"][shards:]:
        (folder / shard["file"]).unlink()
    kept = content["shards"][:shards]
    content.update(complete=False, shards=kept, records=sum(shard["records"] for shard in kept))
    (folder / MANIFEST).write_text(json.dumps(content))
    return folder


def test_the_folder_holds_the_shards_and_a_manifest(whole):
    manifest = verify(whole)
    assert manifest.records == 23
    assert [shard.records for shard in manifest.shards] == [5, 5, 5, 5, 3]
    names = [shard.file for shard in manifest.shards]
    assert names[1] == "made-train-00001-of-00005.npz"
    assert set(files_of(whole)) == {*names, MANIFEST}
    assert manifest.features == FEATURES
    assert set(manifest.made_by) == {"simxrd_jax", "git_commit", "jax", "device"}


@every_format
def test_the_records_are_read_in_order(name, tmp_path):
    write_set(make_job(), tmp_path / "set", name, bar=bar)
    patterns = read_patterns(tmp_path / "set")
    wanted = columns_of(np.arange(23))
    assert len(patterns) == 23
    for i, record in enumerate(patterns):
        for f in FEATURES:
            np.testing.assert_array_equal(record[f.name], wanted[f.name][i])
    verify(tmp_path / "set")


def test_array_record_files_are_named_as_tensorflow_datasets_names_them(tmp_path):
    manifest = write_set(make_job(4, 2), tmp_path / "set", "array_record", bar=bar)
    assert [s.file for s in manifest.shards] == [f"made-train.array_record-0000{i}-of-00002" for i in range(2)]


def test_what_is_left_out_is_in_the_manifest(tmp_path):
    manifest = write_set(make_job(skip=4), tmp_path / "set", "npz", bar=bar)
    assert manifest.records == 23 - 5
    assert manifest.skipped == [(f"place {n}", "is left out") for n in (3, 7, 11, 15, 19)]
    assert read_patterns(tmp_path / "set")[3]["space_group"] == columns_of(np.arange(5))["space_group"][4]


@pytest.mark.parametrize("shards", range(6))
def test_a_stopped_set_goes_on_with_the_same_bytes(shards, whole, tmp_path):
    folder = _stopped(whole, tmp_path / "set", shards)
    made: list[Bar] = []

    def counting(done: int, total: int):
        made.append(Bar(done, total))
        return contextlib.nullcontext(made[-1])

    write_set(make_job(), folder, "npz", bar=counting)
    assert files_of(folder) == files_of(whole)
    assert [(b.done, b.total) for b in made] == [(23, 23)]


def test_what_a_kill_leaves_between_two_steps_is_replaced(whole, tmp_path):
    """A file that was being written, one that no manifest lists yet, a manifest that was being written."""
    folder = _stopped(whole, tmp_path / "set", 2)
    (folder / "made-train-00002-of-00005.npz").write_bytes(b"finished, of other bytes")
    (folder / "made-train-00003-of-00005.npz.part").write_bytes(b"half")
    (folder / ".simxrd-x7.part").write_bytes(b"{")
    (folder / "notes.txt").write_text("mine")
    write_set(make_job(), folder, "npz", bar=bar)
    assert (folder / "notes.txt").read_text() == "mine"
    assert files_of(folder) == {**files_of(whole), "notes.txt": b"mine"}


@pytest.mark.parametrize("damage", ["cut", "changed", "gone"])
def test_a_damaged_shard_is_made_again(damage, whole, tmp_path):
    folder, said = _stopped(whole, tmp_path / "set", 4), []
    path = folder / "made-train-00001-of-00005.npz"
    data = bytearray(path.read_bytes())
    data[40] ^= 1
    {"cut": lambda: path.write_bytes(data[:-9]), "changed": lambda: path.write_bytes(data), "gone": path.unlink}[damage]()
    write_set(make_job(), folder, "npz", say=said.append, bar=bar)
    assert files_of(folder) == files_of(whole)
    assert said == [f"{path}: is missing or damaged; it is made again"]


@pytest.mark.parametrize("damage", ["cut", "gone"])
def test_a_complete_set_that_lost_files_is_repaired(damage, whole, tmp_path):
    """Only the lost ones are made; with another damaged one, which its checksum shows then."""
    folder, said, made = pathlib.Path(shutil.copytree(whole, tmp_path / "set")), [], []
    first, last = (folder / f"made-train-0000{i}-of-00005.npz" for i in (1, 4))
    first.write_bytes(bytes(first.stat().st_size))
    if damage == "cut":
        last.write_bytes(last.read_bytes()[:-9])
    else:
        last.unlink()

    @contextlib.contextmanager
    def counting(done, total):
        made.append((done, total))
        yield Bar(done, total)

    with pytest.raises(InputError, match="without --hosts"):
        write_set(make_job(), folder, "npz", hosts=Hosts(2, 0), bar=bar)
    write_set(make_job(), folder, "npz", say=said.append, bar=counting)
    assert files_of(folder) == files_of(whole)
    assert made == [(15, 23)]
    assert said == [f"{path}: is missing or damaged; it is made again" for path in (first, last)]


def test_a_complete_set_of_other_versions_is_not_repaired(whole, tmp_path):
    folder = pathlib.Path(shutil.copytree(whole, tmp_path / "set"))
    (folder / "made-train-00004-of-00005.npz").unlink()
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["made_by"]["jax"] = "0.1"
    (folder / "manifest.json").write_text(json.dumps(manifest))
    before = files_of(folder)
    with pytest.raises(InputError, match=r"was begun under jax 0\.1 \(now .*\), and the rest would differ"):
        write_set(make_job(), folder, "npz", bar=bar)
    assert files_of(folder) == before


def test_more_shards_than_names_are_refused_at_once(tmp_path):
    with pytest.raises(InputError, match=r"4,000,000,000 shards are more than 99,999; choose a larger shard size"):
        write_set(make_job(4_000_000_000, 1), tmp_path / "set", "npz", bar=bar)


def test_a_complete_set_is_left_alone(whole, tmp_path):
    folder, said = pathlib.Path(shutil.copytree(whole, tmp_path / "set")), []
    before = {p: p.stat().st_mtime_ns for p in folder.iterdir()}
    assert write_set(make_job(), folder, "npz", say=said.append, bar=bar).records == 23
    assert {p: p.stat().st_mtime_ns for p in folder.iterdir()} == before
    assert "the set is complete, 23 records" in said[0]


def test_a_folder_of_another_set_is_refused_and_kept(whole, tmp_path):
    folder = pathlib.Path(shutil.copytree(whole, tmp_path / "set"))
    before = files_of(folder)
    with pytest.raises(InputError, match="another shard_size; give another folder or delete it"):
        write_set(make_job(shard_size=6), folder, "npz", bar=bar)
    with pytest.raises(InputError, match="another seed"):
        write_set(make_job(seed=1), folder, "npz", bar=bar)
    with pytest.raises(InputError, match="another format"):
        write_set(make_job(), folder, "hdf5", bar=bar)
    assert files_of(folder) == before


def test_a_set_begun_under_another_version_does_not_go_on(whole, tmp_path, monkeypatch):
    folder = _stopped(whole, tmp_path / "set", 2)
    other = {**read_manifest(folder / MANIFEST).made_by, "jax": "0.1"}
    monkeypatch.setattr(writer, "surroundings", lambda: other)
    with pytest.raises(InputError, match=r"was begun under jax .* \(now 0.1\)"):
        write_set(make_job(), folder, "npz", bar=bar)


def test_a_folder_of_something_else_is_refused(tmp_path):
    (tmp_path / "letters.txt").write_text("dear")
    with pytest.raises(InputError, match=r"is not empty \(letters.txt\) and holds no set"):
        write_set(make_job(), tmp_path, "npz", bar=bar)
    with pytest.raises(InputError, match="is a file; name a folder"):
        write_set(make_job(), tmp_path / "letters.txt", "npz", bar=bar)
    assert [p.name for p in tmp_path.iterdir()] == ["letters.txt"]


def test_a_folder_that_cannot_be_made(tmp_path):
    with pytest.raises(InputError, match="cannot be written") as caught:
        write_set(make_job(), "/proc/none/set", "npz", bar=bar)
    assert "\n" not in str(caught.value)
    if os.geteuid():
        closed = tmp_path / "closed"
        closed.mkdir(mode=0o500)
        with pytest.raises(InputError, match="cannot be written"):
            write_set(make_job(), closed / "set", "npz", bar=bar)


def test_two_processes_do_not_write_one_set(whole, tmp_path):
    folder = _stopped(whole, tmp_path / "set", 2)
    with locked(folder, "writing"), pytest.raises(InputError, match="another process is writing there"):
        write_set(make_job(), folder, "npz", bar=bar)


def test_too_many_shards_are_refused(tmp_path):
    with pytest.raises(InputError, match="100,001 shards are more than 99,999"):
        write_set(make_job(100_001, 1), tmp_path / "set", "npz", bar=bar)


@pytest.mark.parametrize(
    "content", ["", "[]", "{", '{"manifest_version": 1}', '{"manifest_version": 9}', "\xff", "[" * 100_000]
)
def test_a_damaged_manifest_is_said(content, whole, tmp_path):
    folder = pathlib.Path(shutil.copytree(whole, tmp_path / "set"))
    (folder / MANIFEST).write_bytes(content.encode("latin-1"))
    for action in (
        lambda: write_set(make_job(), folder, "npz", bar=bar),
        lambda: read_patterns(folder),
        lambda: verify(folder),
    ):
        with pytest.raises(InputError, match=MANIFEST):
            action()


def test_a_manifest_names_no_file_outside(whole, tmp_path):
    folder = pathlib.Path(shutil.copytree(whole, tmp_path / "set"))
    content = (folder / MANIFEST).read_text().replace("made-train-00001", "../made-train-00001")
    (folder / MANIFEST).write_text(content)
    with pytest.raises(InputError, match="is damaged"):
        read_patterns(folder)


@pytest.mark.parametrize("name", [n if n == "array_record" else pytest.param(n, marks=pytest.mark.slow) for n in FORMATS])
def test_a_full_disk_is_said_and_nothing_finished_is_lost(name, tmp_path):
    """A limit on the size of files stands for the disk; the same command goes on once there is room."""
    code = f"""
import resource, sys
sys.path[:0] = [{str(TESTS)!r}]
from export.made import bar, make_job
from simxrd_jax.export.writer import write_set
job = make_job(300, 100)
write_set(make_job(300, 100), {str(tmp_path / "whole")!r}, {name!r}, bar=bar)
import dataclasses
def blocks(ranges):
    for start, stop in ranges:
        if start == 200:
            resource.setrlimit(resource.RLIMIT_FSIZE, (5000, resource.RLIM_INFINITY))
        yield from job.blocks([(start, stop)])
try:
    write_set(dataclasses.replace(job, blocks=blocks), {str(tmp_path / "set")!r}, {name!r}, bar=bar)
except Exception as error:
    print(type(error).__name__, str(error).replace(chr(10), " NEWLINE "))
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=TESTS.parent, check=False)
    kind, _, sentence = run.stdout.strip().partition(" ")
    assert kind == "InputError", run.stdout + run.stderr
    assert "cannot be written" in sentence
    assert "NEWLINE" not in sentence
    begun = read_manifest(tmp_path / "set" / MANIFEST)
    assert not begun.complete
    assert not list((tmp_path / "set").glob("*.part"))
    for shard in begun.shards:
        assert (tmp_path / "set" / shard.file).read_bytes() == (tmp_path / "whole" / shard.file).read_bytes()
    write_set(make_job(300, 100), tmp_path / "set", name, bar=bar)
    assert files_of(tmp_path / "set") == files_of(tmp_path / "whole")


def test_an_error_of_the_disk_leaves_no_half_file(tmp_path, monkeypatch):
    def fail(path, columns, features):
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setitem(FORMATS, "npz", FORMATS["npz"]._replace(write=fail))
    with pytest.raises(InputError, match=r"cannot be written \(No space left on device\); what was finished is kept"):
        write_set(make_job(), tmp_path / "set", "npz", bar=bar)
    assert set(files_of(tmp_path / "set")) == {MANIFEST}


def test_a_library_that_loses_an_error_is_caught(tmp_path, monkeypatch):
    def short(path, columns, features):
        FORMATS["hdf5"].write(path, {name: values[:1] for name, values in columns.items()}, features)

    monkeypatch.setitem(FORMATS, "npz", FORMATS["hdf5"]._replace(write=short))
    with pytest.raises(InputError, match="holds fewer records than were written"):
        write_set(make_job(), tmp_path / "set", "npz", bar=bar)


def test_differences_are_those_of_json():
    assert differences({"a": (1, 2), "b": {"c": 1}}, {"a": [1, 2], "b": {"c": 1}}) == []
    assert differences({"a": 1, "b": None}, {"a": 1.5, "c": 2}) == ["a", "c"]


# --- Kills -----------------------------------------------------------------------------------------------------------------


def _killed(name: str, folder: pathlib.Path, kills: int, seed: int, library_path: str) -> list[pathlib.Path]:
    """Sets in a folder, whole and killed-0, killed-1, ..., which so many kills met in the middle; the latter ones."""
    environment = {**os.environ, "PYTHONPATH": f"{TESTS.parent}:{TESTS}", "SIMXRD_TEST_LIBRARY": library_path}
    command = [sys.executable, "-m", "export.killed", name, str(folder), str(kills), str(seed)]
    run = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    return sorted(each for each in folder.glob("killed-*") if not each.name.endswith(".json"))


def _rows(path: pathlib.Path) -> list[tuple]:
    """Rows of an ASE database without unique ids, times and users."""
    with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as connection:
        names = [row[1] for row in connection.execute("pragma table_info(systems)")]
        names = [name for name in names if name not in ("unique_id", "ctime", "mtime", "username")]
        rows = connection.execute(f"select {', '.join(names)} from systems order by id").fetchall()
        return rows + connection.execute("select key, value, id from text_key_values order by id, key").fetchall()


SHORT, LONG = (4, 1), (20, 2)  # kills, seed


@pytest.mark.parametrize(
    ("name", "kills", "seed"),
    [
        ("array_record", *SHORT),
        *(pytest.param(name, *LONG, marks=pytest.mark.slow) for name in ("array_record", "hdf5", "parquet", "npz")),
    ],
)
def test_kills_at_random_moments_change_no_byte(name, kills, seed, tmp_path, library_path):
    made = _killed(name, tmp_path, kills, seed, library_path)
    assert made
    for each in made:
        assert files_of(each) == files_of(tmp_path / "whole")
        verify(each)


@pytest.mark.parametrize(("kills", "seed"), [SHORT, pytest.param(*LONG, marks=pytest.mark.slow)])
def test_kills_at_random_moments_change_no_row(kills, seed, tmp_path, library_path):
    made = _killed("ase", tmp_path, kills, seed, library_path)
    assert made
    whole = _rows(tmp_path / "whole")
    assert len(whole) == 60 * (1 + 5)
    for each in made:
        assert _rows(each) == whole
    names = [p.name for p in (*made, tmp_path / "whole")]
    assert {p.name for p in tmp_path.iterdir()} == {*names, *(f"{name}.manifest.json" for name in names)}
