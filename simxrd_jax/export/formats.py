"""Host zone. File formats of the shards of a set: ArrayRecord, npz, HDF5, Parquet.

Equal columns make equal bytes in each of them: no file holds a time. A format's library is imported when the format is
used; `pip install simxrd_jax[export]` installs all of them.
"""

from __future__ import annotations

import importlib
import json
import pathlib
import threading
import zipfile
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from simxrd_jax.conditions import nearest
from simxrd_jax.errors import InputError
from simxrd_jax.export.example import decode, encode
from simxrd_jax.export.features import TEXT, Columns, Feature, Record

# One message a group, so that any one is read alone, as Grain and TensorFlow Datasets want it. Not compressed: of noisy
# patterns zstd takes away 10 % and makes writing four times slower.
ARRAY_RECORD_OPTIONS = "group_size:1,uncompressed"
ROW_GROUP = 256  # records that a reader of Parquet decodes at once


class Shard(Protocol):
    """One open file of records."""

    def __len__(self) -> int: ...

    def record(self, index: int) -> Record:
        """The values of one record."""
        ...


class Format(NamedTuple):
    """How a file is written and opened.

    Attributes:
      suffix: of its name, without the dot.
      requires: module that it needs.
      write: makes the file; OSError or RuntimeError where that fails.
      open: reads it; whatever its library raises where it is damaged.
    """

    suffix: str
    requires: str
    write: Callable[[pathlib.Path, Columns, Sequence[Feature]], None]
    open: Callable[[pathlib.Path, Sequence[Feature]], Shard]


def get_format(name: str) -> Format:
    """The format of that name, once its library is there.

    Raises:
      InputError: there is none, or its library is not installed.
    """
    if name not in FORMATS:
        raise InputError(f"there is no format {name!r}{nearest(name, FORMATS)}")
    chosen = FORMATS[name]
    require(chosen.requires, f"the format {name}")
    return chosen


def require(module: str, what: str) -> Any:
    """A module that an optional extra installs.

    Raises:
      InputError: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError:
        package = module.split(".")[0]
        raise InputError(f"{what} needs {package}, which is not installed; run pip install 'simxrd_jax[export]'") from None


# --- ArrayRecord -----------------------------------------------------------------------------------------------------------


def _write_array_record(path: pathlib.Path, columns: Columns, features: Sequence[Feature]) -> None:
    from array_record.python.array_record_module import ArrayRecordWriter

    writer = ArrayRecordWriter(str(path), ARRAY_RECORD_OPTIONS)
    for message in encode(columns, features):
        writer.write(message)
    writer.close()


class _ArrayRecordShard:
    def __init__(self, path: pathlib.Path, features: Sequence[Feature]) -> None:
        from array_record.python.array_record_module import ArrayRecordReader

        # Without the index in its memory and with no buffer a reader of scattered records reads these alone.
        self._reader = ArrayRecordReader(str(path), "readahead_buffer_size:0")
        self._features = features

    def __len__(self) -> int:
        return self._reader.num_records()

    def record(self, index: int) -> Record:
        return decode(self._reader.read([index])[0], self._features)


# --- npz -------------------------------------------------------------------------------------------------------------------


def _write_npz(path: pathlib.Path, columns: Columns, features: Sequence[Feature]) -> None:
    with path.open("wb") as file:
        np.savez(file, allow_pickle=False, **columns)


class _NpzShard:
    """All columns in memory: the members of a zip file are read whole."""

    def __init__(self, path: pathlib.Path, features: Sequence[Feature]) -> None:
        with np.load(path, allow_pickle=False) as data:
            self._columns = {f.name: data[f.name] for f in features}

    def __len__(self) -> int:
        return len(next(iter(self._columns.values())))

    def record(self, index: int) -> Record:
        return {name: _single(values[index]) for name, values in self._columns.items()}


def _single(value: Any) -> Any:
    """Text as str, numbers as arrays."""
    return str(value) if isinstance(value, str) else np.asarray(value)


# --- HDF5 ------------------------------------------------------------------------------------------------------------------


def _write_hdf5(path: pathlib.Path, columns: Columns, features: Sequence[Feature]) -> None:
    import h5py

    with h5py.File(path, "w", libver=("v110", "v110")) as file:
        for feature in features:
            values = columns[feature.name]
            if feature.dtype == TEXT:
                data = np.char.encode(values, "utf-8")
                values = data.astype(h5py.string_dtype("utf-8", max(data.dtype.itemsize, 1)))
            made = file.create_dataset(feature.name, data=values, track_times=False)
            made.attrs["unit"], made.attrs["meaning"] = feature.unit, feature.meaning
            if feature.classes:
                made.attrs["classes"] = json.dumps(feature.classes)


class _Hdf5Shard:
    def __init__(self, path: pathlib.Path, features: Sequence[Feature]) -> None:
        import h5py

        self._file = h5py.File(path, "r")
        self._data: list[Any] = [self._file[f.name] for f in features]
        self._features = features

    def __len__(self) -> int:
        return len(self._data[0])

    def record(self, index: int) -> Record:
        values = ((f, data[index]) for f, data in zip(self._features, self._data, strict=True))
        return {f.name: value.decode() if f.dtype == TEXT else np.asarray(value) for f, value in values}


# --- Parquet ---------------------------------------------------------------------------------------------------------------


def _write_parquet(path: pathlib.Path, columns: Columns, features: Sequence[Feature]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    arrays, fields = [], []
    for feature in features:
        values = columns[feature.name]
        array = pa.array(values.tolist(), pa.string()) if feature.dtype == TEXT else pa.array(np.ravel(values))
        if feature.shape:
            array = pa.FixedSizeListArray.from_arrays(array, int(np.prod(feature.shape)))
        about = {"unit": feature.unit, "meaning": feature.meaning, "classes": json.dumps(feature.classes)}
        arrays.append(array)
        fields.append(pa.field(feature.name, array.type, nullable=False, metadata=about))
    table = pa.Table.from_arrays(arrays, schema=pa.schema(fields))
    # Floats byte by byte: what compresses at all are the exponents.
    split = [f"{f.name}.list.element" if f.shape else f.name for f in features if f.dtype == "float32"]
    options: dict[str, Any] = {"compression": "zstd", "use_dictionary": False, "use_byte_stream_split": split}
    pq.write_table(table, path, row_group_size=ROW_GROUP, **options)


class _ParquetShard:
    def __init__(self, path: pathlib.Path, features: Sequence[Feature]) -> None:
        import pyarrow.parquet as pq

        self._file = pq.ParquetFile(path)
        self._features = features
        self._held: tuple[int, Columns] = (-1, {})
        self._lock = threading.Lock()  # an open file of pyarrow is of one thread at a time

    def __len__(self) -> int:
        return self._file.metadata.num_rows

    def record(self, index: int) -> Record:
        group, row = divmod(index, ROW_GROUP)
        with self._lock:
            if self._held[0] != group:
                table = self._file.read_row_group(group)
                self._held = (group, {f.name: _column(table[f.name].combine_chunks(), f) for f in self._features})
            columns = self._held[1]
        return {name: _single(values[row]) for name, values in columns.items()}


def _column(array: Any, feature: Feature) -> np.ndarray:
    if feature.dtype == TEXT:
        return np.array(array.to_pylist(), dtype=np.str_)
    return (array.flatten() if feature.shape else array).to_numpy().reshape(-1, *feature.shape)


FORMATS = {
    "array_record": Format("array_record", "array_record.python.array_record_module", _write_array_record, _ArrayRecordShard),
    "npz": Format("npz", "numpy", _write_npz, _NpzShard),
    "hdf5": Format("h5", "h5py", _write_hdf5, _Hdf5Shard),
    "parquet": Format("parquet", "pyarrow.parquet", _write_parquet, _ParquetShard),
}
DAMAGE = (OSError, RuntimeError, ValueError, KeyError, IndexError, zipfile.BadZipFile, EOFError)  # of a file that is read
