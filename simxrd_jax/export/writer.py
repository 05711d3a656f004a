"""Host zone. Writes a set of patterns, shard after shard, so that it can be killed at any moment and go on.

A shard is made in memory, written beside its place, and renamed; then the manifest lists it. What a killed run leaves is
therefore finished shards, at most one file with the suffix .part, and at most one shard that no manifest lists yet; the
same command checks the checksums of the listed ones, removes the rest, and makes what is missing. A shard's records follow
from the config and its place alone, so the files are those of a run that was not killed.

The next records are computed while a shard is being written: by one thread, at most one shard behind.
"""

from __future__ import annotations

import contextlib
import functools
import os
import pathlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol

from simxrd_jax.errors import InputError
from simxrd_jax.export.features import Columns, Feature, checked_columns, joined
from simxrd_jax.export.formats import Format, get_format
from simxrd_jax.export.manifest import (
    MANIFEST,
    Manifest,
    ShardEntry,
    differences,
    entry_of,
    read_manifest,
    write_manifest,
)
from simxrd_jax.io.files import LOCK, locked
from simxrd_jax.io.xy import BESIDE_PREFIX, PART_SUFFIX
from simxrd_jax.train.logs import surroundings

MADE_BY = ("simxrd_jax", "git_commit", "jax", "device")  # of `surroundings`: what decides the bits besides the config
MAX_SHARDS = 99_999


class Block(NamedTuple):
    """Some records in order, and (source, reason) of what was left out among them."""

    columns: Columns
    skipped: Sequence[tuple[str, str]] = ()


@dataclass(frozen=True, eq=False)
class Job:
    """A set of patterns to be written.

    Attributes:
      name, part: of the set, for the names of the files.
      places: how many records there are to be, before any is left out.
      shard_size: of these, how many make a file.
      features: of a record.
      config: all that decides the records; JSON.
      about: what else readers should know; JSON.
      blocks: the records from one place to another; pure, so that any shard can be made again.
    """

    name: str
    part: str
    places: int
    shard_size: int
    features: tuple[Feature, ...]
    config: Mapping[str, Any]
    about: Mapping[str, Any]
    blocks: Callable[[int, int], Iterator[Block]]

    @functools.cached_property
    def ranges(self) -> list[tuple[int, int]]:
        """First place and one past the last of each shard."""
        return [(first, min(first + self.shard_size, self.places)) for first in range(0, self.places, self.shard_size)]


class Progress(Protocol):
    """Told how many places are done; `tqdm` is one."""

    def update(self, n: int) -> Any: ...


def write_set(
    job: Job,
    folder: str | os.PathLike[str],
    format_name: str,
    *,
    say: Callable[[str], None] = lambda sentence: None,
    bar: Callable[[int, int], contextlib.AbstractContextManager[Progress]],
) -> Manifest:
    """Writes a set into a folder, or goes on with one that was stopped there.

    Args:
      job: what to write.
      folder: made if it is not there.
      format_name: of the shards, see `formats.FORMATS`.
      say: takes one sentence for the user.
      bar: makes a progress bar from the places already done and all of them.

    Returns:
      The manifest of the complete set.

    Raises:
      InputError: a format whose library is missing; a folder of another set, of another process or one that cannot be
        written; a full disk. What was finished stays.
    """
    place, chosen = pathlib.Path(folder), get_format(format_name)
    if len(job.ranges) > MAX_SHARDS:
        raise InputError(f"{len(job.ranges):,} shards are more than {MAX_SHARDS:,}; choose a larger shard size")
    began = _begun(place, job, format_name)  # before anything is written
    if began is not None and began.complete:
        say(f"{place}: the set is complete, {began.records:,} records; `simxrd verify` checks its files")
        return began
    with writing(place):
        place.mkdir(parents=True, exist_ok=True)
    with locked(place, "writing"):
        began = _begun(place, job, format_name)  # by now: another process may have come first, and ended
        if began is not None and began.complete:
            return began
        with writing(place):
            manifest = first_manifest(job, format_name) if began is None else _sound(began, place, say)
            write_manifest(place / MANIFEST, manifest)
            _clean(place, job, chosen, manifest)
            return _write_shards(job, place, chosen, manifest, bar)


def first_manifest(job: Job, format_name: str) -> Manifest:
    """The manifest of a set of which nothing is written yet."""
    made_by = {name: value for name, value in surroundings().items() if name in MADE_BY}
    return Manifest(job.config, made_by, job.about, job.features, format_name)


def _begun(place: pathlib.Path, job: Job, format_name: str) -> Manifest | None:
    """The manifest of this very set in a folder, or None where there is nothing yet.

    Raises:
      InputError: the folder holds another set, or something else.
    """
    if place.exists() and not place.is_dir():
        raise InputError(f"{place}: is a file; name a folder for the set")
    if not (place / MANIFEST).exists():
        others = sorted(each.name for each in place.iterdir() if each.name != LOCK) if place.is_dir() else []
        if others:
            raise InputError(f"{place}: is not empty ({others[0]}) and holds no set of patterns; give another folder")
        return None
    begun = read_manifest(place / MANIFEST)
    check_same(begun, first_manifest(job, format_name), place)
    return begun


def check_same(begun: Manifest, wanted: Manifest, place: pathlib.Path) -> None:
    """Raises InputError unless a set that was begun can go on as the one that is wanted."""
    differ = differences({**begun.config, "format": begun.format}, {**wanted.config, "format": wanted.format})
    if differ:
        raise InputError(f"{place}: holds a set with another {', '.join(differ)}; give another folder or delete it")
    made = differences(begun.made_by, wanted.made_by)
    if made and not begun.complete:
        was = ", ".join(f"{name} {begun.made_by.get(name)} (now {wanted.made_by.get(name)})" for name in made)
        raise InputError(f"{place}: was begun under {was}, and the rest would differ; go on under that or give another folder")


def _sound(begun: Manifest, place: pathlib.Path, say: Callable[[str], None]) -> Manifest:
    """The manifest up to the first shard whose file is not what it says."""
    kept: list[ShardEntry] = []
    for shard in begun.shards:
        path = place / shard.file
        if not path.is_file() or entry_of(path, shard.records, shard.skipped) != shard:
            say(f"{path}: is missing or damaged; it and what follows is made again")
            break
        kept.append(shard)
    return replace(begun, shards=tuple(kept))


def _clean(place: pathlib.Path, job: Job, chosen: Format, manifest: Manifest) -> None:
    """Removes what a killed run had not finished, and nothing that has another name."""
    names = {shard_name(job, index, chosen.suffix) for index in range(len(job.ranges))}
    unfinished = (names | {name + PART_SUFFIX for name in names}) - {shard.file for shard in manifest.shards}
    for path in place.iterdir():
        if path.name in unfinished or (path.name.startswith(BESIDE_PREFIX) and path.name.endswith(PART_SUFFIX)):
            path.unlink()


def shard_name(job: Job, index: int, suffix: str) -> str:
    """Name of a shard's file, as TensorFlow Datasets names them for ArrayRecord."""
    tail = f"{index:05d}-of-{len(job.ranges):05d}"
    # Other programs know a file by the end of its name.
    return f"{job.name}-{job.part}.{suffix}-{tail}" if suffix == "array_record" else f"{job.name}-{job.part}-{tail}.{suffix}"


def _write_shards(
    job: Job,
    place: pathlib.Path,
    chosen: Format,
    manifest: Manifest,
    bar: Callable[[int, int], contextlib.AbstractContextManager[Progress]],
) -> Manifest:
    """Writes the shards that the manifest lacks."""
    first = len(manifest.shards)
    waiting: Future[ShardEntry] | None = None

    def finish(manifest: Manifest, written: Future[ShardEntry]) -> Manifest:
        manifest = replace(manifest, shards=(*manifest.shards, written.result()))
        write_manifest(place / MANIFEST, manifest)
        return manifest

    done = job.ranges[first - 1][1] if first else 0
    with ThreadPoolExecutor(1, thread_name_prefix="shards") as writer, bar(done, job.places) as progress:
        for index, (start, stop) in list(enumerate(job.ranges))[first:]:
            blocks = []
            for block in job.blocks(start, stop):
                blocks.append(block)
                progress.update(len(next(iter(block.columns.values()))) + len(block.skipped))
            if waiting is not None:
                manifest = finish(manifest, waiting)
            path = place / shard_name(job, index, chosen.suffix)
            waiting = writer.submit(_write_shard, path, chosen, job.features, blocks)
        if waiting is not None:
            manifest = finish(manifest, waiting)
    manifest = replace(manifest, complete=True)
    write_manifest(place / MANIFEST, manifest)
    return manifest


def _write_shard(path: pathlib.Path, chosen: Format, features: Sequence[Feature], blocks: Sequence[Block]) -> ShardEntry:
    """Writes one file beside its place, checks that it can be read, and renames it."""
    columns = joined([checked_columns(block.columns, features) for block in blocks], features)
    records = len(next(iter(columns.values())))
    beside = path.with_name(path.name + PART_SUFFIX)
    try:
        chosen.write(beside, columns, features)
        # A library that loses an error of the file system leaves a short file.
        if len(chosen.open(beside, features)) != records:
            raise OSError(f"{path.name} holds fewer records than were written")
        entry = entry_of(beside, records, [each for block in blocks for each in block.skipped], path.name)
        beside.replace(path)
    except RuntimeError as error:  # how ArrayRecord reports an error of the file system
        beside.unlink(missing_ok=True)
        raise OSError(str(error).partition(";")[0]) from error
    except BaseException:
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)
        raise
    return entry


@contextlib.contextmanager
def writing(place: pathlib.Path) -> Iterator[None]:
    """Says in one sentence that the disk is full or closed."""
    try:
        yield
    except OSError as error:
        raise InputError(
            f"{place}: cannot be written ({_reason(error)}); what was finished is kept: free the disk or open the "
            "folder and give the same command again"
        ) from error


def _reason(error: OSError) -> str:
    """What the file system said, in a few words; HDF5 reports it within a text of several lines."""
    found = re.search(r"error message = '([^']+)'", str(error))
    return found[1] if found else error.strerror or str(error).partition("\n")[0]
