"""Reading sets: random access, other processes, Grain and PyTorch, what `verify` finds."""

from __future__ import annotations

import json
import pathlib
import pickle
import shutil
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from simxrd_jax.errors import InputError
from simxrd_jax.export.formats import FORMATS
from simxrd_jax.export.manifest import MANIFEST
from simxrd_jax.export.reader import OPEN_SHARDS, read_patterns, verify
from simxrd_jax.export.writer import write_set
from simxrd_jax.hosts import Hosts

from .made import FEATURES, bar, columns_of, make_job

PLACES = 30
WANTED = columns_of(np.arange(PLACES))


@pytest.fixture(scope="module", params=FORMATS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A set of more shards than are kept open."""
    path = tmp_path_factory.mktemp("sets") / request.param
    write_set(make_job(PLACES, 3), path, request.param, bar=bar)
    assert OPEN_SHARDS < PLACES // 3
    return path


def test_any_record_in_any_order(folder):
    patterns = read_patterns(folder)
    order = np.random.default_rng(0).permutation(PLACES)
    for i in order:
        np.testing.assert_array_equal(patterns[int(i)]["intensity"], WANTED["intensity"][i])
    np.testing.assert_array_equal(patterns[-1]["key_data"], WANTED["key_data"][-1])
    np.testing.assert_array_equal(patterns[np.int64(4)]["key_data"], WANTED["key_data"][4])  # as samplers index
    for index in (PLACES, -PLACES - 1):
        with pytest.raises(IndexError):
            patterns[index]


def test_many_threads_read_at_once(folder):
    """As Grain does; more shards than are kept open, so that each thread closes what others read."""
    patterns, order = read_patterns(folder), np.random.default_rng(1).integers(PLACES, size=600)
    with ThreadPoolExecutor(16) as threads:
        found = list(threads.map(lambda i: patterns[int(i)]["intensity"], order))
    np.testing.assert_array_equal(found, WANTED["intensity"][order])


def test_columns_are_whole_arrays(folder):
    found = read_patterns(folder).columns("intensity", "structure_id", "space_group", "conditions/texture_axis")
    assert set(found) == {"intensity", "structure_id", "space_group", "conditions/texture_axis"}
    for name, values in found.items():
        np.testing.assert_array_equal(values, WANTED[name])
    assert found["intensity"].dtype == np.float32
    with pytest.raises(InputError, match="no feature 'label'; choose from intensity, "):
        read_patterns(folder).columns("label")


def test_a_copy_reads_in_another_process(folder):
    patterns = read_patterns(folder)
    patterns[3]
    copy = pickle.loads(pickle.dumps(patterns))
    np.testing.assert_array_equal(copy[7]["intensity"], WANTED["intensity"][7])


def test_grain_loads_batches(folder):
    grain = pytest.importorskip("grain.python")
    dataset = grain.MapDataset.source(read_patterns(folder)).shuffle(seed=1).batch(5)
    seen = np.concatenate([batch["key_data"][:, 0] for batch in dataset])
    np.testing.assert_array_equal(np.sort(seen), np.arange(PLACES))
    assert dataset[0]["intensity"].shape == (5, 50)


def test_pytorch_loads_batches(folder):
    data = pytest.importorskip("torch.utils.data")
    loader = data.DataLoader(read_patterns(folder), batch_size=10, shuffle=True)
    assert sum(len(batch["space_group"]) for batch in loader) == PLACES


def _damage(path: pathlib.Path, how: str) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 255
    {"gone": path.unlink, "cut": lambda: path.write_bytes(data[:-1]), "changed": lambda: path.write_bytes(data)}[how]()


@pytest.mark.parametrize(("how", "what"), [("gone", "is missing"), ("cut", "bytes, not"), ("changed", "has another checksum")])
def test_verify_finds_a_damaged_file(folder, how, what, tmp_path):
    copy = pathlib.Path(shutil.copytree(folder, tmp_path / "set"))
    assert verify(copy).records == PLACES
    shard = verify(copy).shards[4].file
    _damage(copy / shard, how)
    with pytest.raises(InputError, match=f"{shard} .*{what}"):
        verify(copy)


def test_a_damaged_file_is_said_when_it_is_read(folder, tmp_path):
    copy = pathlib.Path(shutil.copytree(folder, tmp_path / "set"))
    for shard in read_patterns(copy).manifest.shards:
        (copy / shard.file).write_bytes(b"\0" * 200)
    with pytest.raises(InputError, match=r"cannot be read .*simxrd verify") as caught:
        read_patterns(copy)[3]
    assert "\n" not in str(caught.value)


def test_verify_counts_and_names_three_of_many(folder, tmp_path):
    copy = pathlib.Path(shutil.copytree(folder, tmp_path / "set"))
    content = json.loads((copy / MANIFEST).read_text())
    content["shards"][2]["records"] = 4
    content["records"] += 1
    (copy / MANIFEST).write_text(json.dumps(content))
    with pytest.raises(InputError, match="holds 3 records, not 4"):
        verify(copy)
    for shard in content["shards"]:
        (copy / shard["file"]).unlink()
    with pytest.raises(InputError, match="is missing and 7 more"):
        verify(copy)


def test_a_set_that_is_not_complete_is_not_read(folder, tmp_path):
    copy = pathlib.Path(shutil.copytree(folder, tmp_path / "set"))
    content = json.loads((copy / MANIFEST).read_text())
    (copy / MANIFEST).write_text(json.dumps({**content, "complete": False}))
    for action in (read_patterns, verify):
        with pytest.raises(InputError, match="is not complete"):
            action(copy)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: c.update(shards=c["shards"][:2]), "its files do not hold its records"),
        (lambda c: c.update(shards=c["shards"][:2], records=6), "it does not list all files"),
        (lambda c: c.update(shards=[], records=0), "it does not list all files"),
        (lambda c: c.update(shards=c["shards"][:2] * 2, records=12), "it lists a file twice or out of order"),
        (lambda c: c.update(shards=c["shards"][::-1]), "it lists a file twice or out of order"),
        (lambda c: c.update(about={}), "it lacks the features or their axis"),
        (lambda c: c.update(features=[]), "it lacks the features or their axis"),
        (lambda c: c.update(shards=None), "is damaged"),
    ],
)
def test_a_manifest_that_lists_other_files_than_the_sets_is_damaged(change, words, folder, tmp_path):
    content = json.loads((folder / MANIFEST).read_text())
    change(content)
    (tmp_path / MANIFEST).write_text(json.dumps(content))
    for action in (read_patterns, verify):
        with pytest.raises(InputError, match=words):
            action(tmp_path)


def test_a_set_that_hosts_still_write_is_not_complete(tmp_path):
    write_set(make_job(), tmp_path, "npz", hosts=Hosts(2, 0), bar=bar)
    for action in (read_patterns, verify):
        with pytest.raises(InputError, match=r"is not complete, 13 records; .* again on every host"):
            action(tmp_path)


def test_what_is_no_set_is_refused(tmp_path):
    with pytest.raises(InputError, match="no such file; name the folder of a set"):
        read_patterns(tmp_path)
    (tmp_path / "x.db").write_bytes(b"")
    with pytest.raises(InputError, match="is a file"):
        read_patterns(tmp_path / "x.db")


def test_features_are_read_back(folder):
    patterns = read_patterns(folder)
    assert patterns.manifest.features == FEATURES
    np.testing.assert_allclose(patterns.two_theta, 10 + 0.5 * np.arange(50))
