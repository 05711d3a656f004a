"""Host zone. Reads sets of patterns by random access, and verifies them.

    patterns = read_patterns("train/")
    patterns[7]["intensity"], patterns[7]["space_group"]

`len` and `[i]` are what Grain and PyTorch ask of a data source; an instance can be pickled to their worker processes.
"""

from __future__ import annotations

import bisect
import itertools
import os
import pathlib
import threading
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from simxrd_jax.errors import InputError
from simxrd_jax.export.database import FORMAT as DATABASE
from simxrd_jax.export.database import MANIFEST_SUFFIX, count_rows
from simxrd_jax.export.features import TEXT, Columns, Record
from simxrd_jax.export.formats import DAMAGE, Shard, get_format
from simxrd_jax.export.manifest import MANIFEST, Manifest, ShardEntry, read_manifest
from simxrd_jax.export.writer import host_manifests
from simxrd_jax.io.files import file_digest

OPEN_SHARDS = 8  # at once; an npz shard is in memory while it is open


class _Open(NamedTuple):
    """Files that a process has open, the one used last at the end; shared by its threads."""

    process: int
    lock: threading.Lock
    shards: OrderedDict[int, Shard]


def _no_open(process: int) -> _Open:
    return _Open(process, threading.Lock(), OrderedDict())


class PatternSet:
    """The records of a set that `simxrd generate` or `simxrd import` made.

    Attributes:
      manifest: what the set says of itself.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        """Opens a set.

        Raises:
          InputError: it is no set, is not complete, or its format's library is missing.
        """
        self._folder = pathlib.Path(folder)
        if self._folder.is_file():
            raise InputError(f"{self._folder}: is a file; name the folder of a set, and read an ASE database with ase.db")
        self.manifest = _complete_manifest(self._folder)
        self._ends = list(itertools.accumulate(shard.records for shard in self.manifest.shards))
        self._format = get_format(self.manifest.format)
        self._open: _Open | None = _no_open(os.getpid())

    @property
    def two_theta(self) -> np.ndarray:
        """Axis of the patterns, of an imported set the nominal one. [deg]"""
        axis = self.manifest.about["two_theta"]
        start = axis["start"] if isinstance(axis["start"], float | int) else 10.0
        return start + axis["step"] * np.arange(axis["points"])

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, index: int) -> Record:
        """One record: name -> array, or text.

        Raises:
          IndexError: there is no such record.
          InputError: its file is missing or damaged.
        """
        count = len(self)
        if not -count <= index < count:
            raise IndexError(f"record {index} of {count}")
        index = int(index) % count
        place = bisect.bisect_right(self._ends, index)
        first = self._ends[place - 1] if place else 0
        try:
            return self._shard(place).record(index - first)
        except DAMAGE as error:
            raise self._bad(place, error) from None

    def columns(self, *names: str) -> Columns:
        """All values of some features, in memory: what scikit-learn takes.

        Raises:
          InputError: there is no such feature, or a file is missing or damaged.
        """
        known = {f.name: f for f in self.manifest.features}
        unknown = [name for name in names if name not in known]
        if unknown:
            raise InputError(f"{self._folder}: has no feature {unknown[0]!r}; choose from {', '.join(known)}")
        made = {
            name: np.zeros((len(self), *known[name].shape), known[name].dtype) for name in names if known[name].dtype != TEXT
        }
        texts: dict[str, list[str]] = {name: [] for name in names if name not in made}
        for i, record in enumerate(self):
            for name, values in made.items():
                values[i] = record[name]
            for name, values in texts.items():
                values.append(record[name])
        return made | {name: np.array(values, dtype=np.str_) for name, values in texts.items()}

    def __iter__(self) -> Iterator[Record]:
        return (self[i] for i in range(len(self)))

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": None}

    def _shard(self, place: int) -> Shard:
        """An open shard; files opened before a fork are opened again."""
        if self._open is None or self._open.process != os.getpid():
            self._open = _no_open(os.getpid())
        _, lock, shards = self._open
        with lock:  # Grain reads in many threads
            if place not in shards:
                shards[place] = self._format.open(self._folder / self.manifest.shards[place].file, self.manifest.features)
                if len(shards) > OPEN_SHARDS:
                    shards.popitem(last=False)
            shards.move_to_end(place)
            return shards[place]

    def _bad(self, place: int, error: Exception) -> InputError:
        path = self._folder / self.manifest.shards[place].file
        what = str(error).partition("\n")[0] or type(error).__name__
        return InputError(f"{path}: cannot be read ({what}); `simxrd verify {self._folder}` says what is damaged")


def read_patterns(folder: str | os.PathLike[str]) -> PatternSet:
    """Opens a set of patterns; see `PatternSet`."""
    return PatternSet(folder)


def _complete_manifest(place: pathlib.Path) -> Manifest:
    """The manifest of a folder or an ASE database.

    Raises:
      InputError: there is none, or the set is not complete.
    """
    parts: list[pathlib.Path] = []
    if place.is_file():
        path = place.with_name(place.name + MANIFEST_SUFFIX)
    else:
        path = place / MANIFEST
        if place.is_dir() and not path.exists():
            parts = host_manifests(place)  # of hosts that are still writing, or were stopped
    found = [read_manifest(each) for each in parts or [path]]
    if parts or not found[0].complete:
        records = sum(each.records for each in found)
        whose = " on every host" if parts else ""
        raise InputError(f"{place}: the set is not complete, {records:,} records; give the command that makes it again{whose}")
    return found[0]


def verify(path: str | os.PathLike[str]) -> Manifest:
    """Checks every file of a set: size, checksum, number of records, and one record of each.

    Args:
      path: folder of a set, or an ASE database that `simxrd generate` made.

    Returns:
      The manifest.

    Raises:
      InputError: what is wrong; the first three files of it.
    """
    place = pathlib.Path(path)
    manifest = _complete_manifest(place)
    folder = place.parent if place.is_file() else place
    wrong = [f"{shard.file} {what}" for shard in manifest.shards if (what := _fault(folder / shard.file, shard, manifest))]
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise InputError(
            f"{place}: {'; '.join(wrong[:3])}{more}; delete what is wrong and give the command "
            "that made the set, which makes it again"
        )
    return manifest


def unlisted_files(path: str | os.PathLike[str], manifest: Manifest) -> list[str]:
    """Names of files beside the shards of a set that look like shards and are none: who reads `*` would read them too."""
    place = pathlib.Path(path)
    if place.is_file():
        return []
    listed = {shard.file for shard in manifest.shards}
    suffix = f".{get_format(manifest.format).suffix}"
    return sorted(each.name for each in place.iterdir() if suffix in each.name and each.name not in listed)


def _fault(path: pathlib.Path, shard: ShardEntry, manifest: Manifest) -> str:
    """What is wrong with a file, "" if nothing is."""
    if not path.is_file():
        return "is missing"
    size = path.stat().st_size
    if size != shard.bytes:
        return f"has {size:,} bytes, not {shard.bytes:,}"
    if file_digest(path) != shard.sha256:
        return "has another checksum"
    try:
        if manifest.format == DATABASE:
            count = count_rows(path)
            if count is None:
                return "is no ASE database"
        else:
            opened = get_format(manifest.format).open(path, manifest.features)
            count = len(opened)
            if count:
                opened.record(count - 1)
    except DAMAGE as error:
        return f"cannot be read ({str(error).partition(chr(10))[0]})"
    return "" if count == shard.records else f"holds {count:,} records, not {shard.records:,}"
