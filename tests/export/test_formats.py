"""Files of each format: read back, read by their own libraries, the same bytes at another time, what is said without them."""

from __future__ import annotations

import builtins
import pathlib
import time
import zipfile

import numpy as np
import pytest

from simxrd_jax.errors import InputError
from simxrd_jax.export.example import decode
from simxrd_jax.export.features import TEXT, checked_columns, joined
from simxrd_jax.export.formats import FORMATS, get_format

from .made import FEATURES, columns_of

COUNT = 700  # more than two of Parquet's row groups
COLUMNS = checked_columns(columns_of(np.arange(COUNT)), FEATURES)
every_format = pytest.mark.parametrize("name", FORMATS)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, pathlib.Path]:
    """A file of each format, written twice more than a second apart, with different names."""
    folder, made = tmp_path_factory.mktemp("files"), {}
    for name, each in FORMATS.items():
        made[name] = folder / f"{name}.{each.suffix}"
        each.write(made[name], COLUMNS, FEATURES)
    time.sleep(2.1)  # the clock of a zip file has two seconds
    for name, each in FORMATS.items():
        each.write(folder / f"{name}-again", COLUMNS, FEATURES)
    return made


@every_format
def test_equal_records_make_equal_bytes_at_any_time(name, files):
    assert files[name].read_bytes() == files[name].with_name(f"{name}-again").read_bytes()


@every_format
def test_each_record_is_read_back(name, files):
    shard = FORMATS[name].open(files[name], FEATURES)
    assert len(shard) == COUNT
    for i in (0, COUNT - 1, 255, 256, 257, 3, 511, 512):
        record = shard.record(i)
        assert list(record) == [f.name for f in FEATURES]
        for f in FEATURES:
            np.testing.assert_array_equal(record[f.name], COLUMNS[f.name][i])
            if f.dtype == TEXT:
                assert type(record[f.name]) is str
            else:
                assert (record[f.name].dtype, record[f.name].shape) == (np.dtype(f.dtype), f.shape)


@every_format
def test_a_file_without_records(name, tmp_path):
    path = tmp_path / "empty"
    FORMATS[name].write(path, joined([], FEATURES), FEATURES)
    assert len(FORMATS[name].open(path, FEATURES)) == 0


def _by_array_record(path: pathlib.Path) -> dict:
    from array_record.python.array_record_module import ArrayRecordReader

    messages = ArrayRecordReader(str(path)).read_all()
    records = [decode(m, FEATURES) for m in messages]
    return {f.name: np.array([r[f.name] for r in records]) for f in FEATURES}


def _by_numpy(path: pathlib.Path) -> dict:
    with zipfile.ZipFile(path) as archive:
        assert {info.date_time for info in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
    return dict(np.load(path, allow_pickle=False))


def _by_h5py(path: pathlib.Path) -> dict:
    import h5py

    with h5py.File(path) as file:
        assert file["conditions/grain_size"].attrs["unit"] == "A"
        return {f.name: file[f.name].asstr()[:] if f.dtype == TEXT else file[f.name][:] for f in FEATURES}


def _by_pyarrow(path: pathlib.Path) -> dict:
    import pyarrow.parquet as pq

    table = pq.read_table(path)
    assert table.schema.field("conditions/grain_size").metadata[b"unit"] == b"A"
    return {name: np.array(table[name].to_pylist()) for name in table.column_names}


@pytest.mark.parametrize(
    ("name", "read"), [("array_record", _by_array_record), ("npz", _by_numpy), ("hdf5", _by_h5py), ("parquet", _by_pyarrow)]
)
def test_its_own_library_reads_it(name, read, files):
    found = read(files[name])
    assert set(found) == {f.name for f in FEATURES}
    for f in FEATURES:
        np.testing.assert_array_equal(found[f.name], COLUMNS[f.name])


@pytest.mark.parametrize("name", ["array_record", "hdf5", "parquet"])
def test_a_missing_library_is_named(name, monkeypatch):
    missing = FORMATS[name].requires.split(".")[0]
    real = builtins.__import__

    def refuse(wanted, *rest, **more):
        if wanted.split(".")[0] == missing:
            raise ImportError(wanted)
        return real(wanted, *rest, **more)

    monkeypatch.setattr("importlib.import_module", refuse)
    with pytest.raises(InputError, match=f"the format {name} needs {missing}.*pip install 'simxrd_jax\\[export\\]'"):
        get_format(name)


def test_an_unknown_format_is_refused():
    with pytest.raises(InputError, match="no format 'hdf'; did you mean hdf5"):
        get_format("hdf")


def test_columns_that_are_not_those_of_the_features():
    good = columns_of(np.arange(3))
    with pytest.raises(ValueError, match="are not the features"):
        checked_columns({k: v for k, v in good.items() if k != "key_data"}, FEATURES)
    with pytest.raises(ValueError, match="key_data has the shape"):
        checked_columns({**good, "key_data": good["key_data"][:, :1]}, FEATURES)
