"""Host zone. Writes a set of patterns, shard after shard, so that it can be killed at any moment and go on.

A shard is made in memory, written beside its place, and renamed; then the manifest lists it. What a killed run leaves is
therefore finished shards, at most one file with the suffix .part, and at most one shard that no manifest lists yet; the
same command checks the checksums of the listed ones, removes the rest, and makes what is missing. A shard's records follow
from the config and its place alone, so the files are those of a run that was not killed. A complete set that has lost a file
is repaired in the same way.

The next records are computed while a shard is being written: by one thread, at most one shard behind.

Several hosts write one set without a network: shard i belongs to host i % N, and they meet in the folder. Each keeps a
manifest of its own shards; whichever host ends last puts them together in manifest.json and removes them. A host that was
killed is started again and goes on with its own.
"""

from __future__ import annotations

import contextlib
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
    PART_OF_HOST,
    Manifest,
    ShardEntry,
    differences,
    entry_of,
    read_manifest,
    write_manifest,
)
from simxrd_jax.hosts import ONE, Hosts
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
      blocks: the records of some ranges of places, in blocks that do not cross the end of a range; pure, so that any shard
        can be made again.
    """

    name: str
    part: str
    places: int
    shard_size: int
    features: tuple[Feature, ...]
    config: Mapping[str, Any]
    about: Mapping[str, Any]
    blocks: Callable[[Sequence[tuple[int, int]]], Iterator[Block]]

    @property
    def shard_count(self) -> int:
        """Files that the set has."""
        return -(-self.places // self.shard_size)

    def range_of(self, index: int) -> tuple[int, int]:
        """First place and one past the last of a shard."""
        return index * self.shard_size, min((index + 1) * self.shard_size, self.places)


class Progress(Protocol):
    """Told how many places are done; `tqdm` is one."""

    def update(self, n: int) -> Any: ...


def write_set(
    job: Job,
    folder: str | os.PathLike[str],
    format_name: str,
    *,
    hosts: Hosts = ONE,
    say: Callable[[str], None] = lambda sentence: None,
    bar: Callable[[int, int], contextlib.AbstractContextManager[Progress]],
) -> Manifest:
    """Writes a set into a folder, or this host's shards of it, or goes on with one that was stopped there.

    Args:
      job: what to write.
      folder: made if it is not there.
      format_name: of the shards, see `formats.FORMATS`.
      hosts: how many share the work, and which one this is.
      say: takes one sentence for the user.
      bar: makes a progress bar from the places already done and all of them.

    Returns:
      The manifest of the complete set; that of this host's shards, not complete, while other hosts still write theirs.

    Raises:
      InputError: a format whose library is missing; a folder of another set, of another process or one that cannot be
        written; a full disk. What was finished stays.
    """
    place, chosen = pathlib.Path(folder), get_format(format_name)
    if job.shard_count > MAX_SHARDS:
        raise InputError(f"{job.shard_count:,} shards are more than {MAX_SHARDS:,}; choose a larger shard size")
    wanted = first_manifest(job, format_name)
    _check_folder(place, wanted, hosts)  # before anything is written
    if (began := _complete(place)) is not None:
        lost = _lost(began, place)
        if not lost:
            say(f"{place}: the set is complete, {began.records:,} records; `simxrd verify` checks its files")
            return began
        if hosts.count > 1:
            raise InputError(f"{lost[0]}: is missing or damaged; give the command without --hosts to make it again")
        check_same(replace(began, complete=False), wanted, place)
    with writing(place):
        place.mkdir(parents=True, exist_ok=True)
    own = place / _manifest_name(hosts)
    lock = None if hosts.count == 1 else place / f"{LOCK}-{own.stem}"
    with locked(place, "writing", lock):
        _check_folder(place, wanted, hosts)  # by now: another process may have come first, and ended
        if (began := _complete(place)) is not None and not _lost(began, place):
            return began
        with writing(place):
            manifest = _sound(read_manifest(own), place, say) if own.exists() else wanted
            write_manifest(own, manifest)
            _clean(place, job, chosen, manifest, hosts)
            manifest = _write_shards(job, place, chosen, manifest, hosts, bar)
            return manifest if hosts.count == 1 else _gathered(job, place, chosen, wanted, manifest, hosts)


def _manifest_name(hosts: Hosts) -> str:
    """Name of the manifest that a host keeps while it writes."""
    return MANIFEST if hosts.count == 1 else f"host-{hosts.index:05d}-of-{hosts.count:05d}.json"


def host_manifests(place: pathlib.Path) -> list[pathlib.Path]:
    """Manifests of single hosts that a folder holds."""
    return sorted(path for path in place.iterdir() if PART_OF_HOST.fullmatch(path.name))


def _complete(place: pathlib.Path) -> Manifest | None:
    """The manifest of a folder whose set is complete; what single hosts left beside it is removed."""
    if not (place / MANIFEST).exists():
        return None
    found = read_manifest(place / MANIFEST)
    if not found.complete:
        return None
    for path in host_manifests(place):
        with contextlib.suppress(OSError):
            path.unlink()
    return found


def _lost(manifest: Manifest, place: pathlib.Path) -> list[pathlib.Path]:
    """Files that are not there or have another size; their checksums are left to `simxrd verify`."""
    paths = {place / shard.file: shard for shard in manifest.shards}
    return [path for path, shard in paths.items() if not path.is_file() or path.stat().st_size != shard.bytes]


def _gathered(job: Job, place: pathlib.Path, chosen: Format, wanted: Manifest, own: Manifest, hosts: Hosts) -> Manifest:
    """The manifest of the whole set, once all hosts have their shards; until then this host's own."""
    with locked(place, "gathering", wait=True):
        if (complete := _complete(place)) is not None:
            return complete
        parts = [read_manifest(path) for path in host_manifests(place)]
        if len(parts) < hosts.count or not all(part.complete for part in parts):
            return replace(own, complete=False)
        for part in parts:
            check_same(replace(part, complete=False), wanted, place)
        entries = {entry.file: entry for part in parts for entry in part.shards}
        shards = tuple(entries[shard_name(job, index, chosen.suffix)] for index in range(job.shard_count))
        _remove(place, lambda name: name.startswith(BESIDE_PREFIX) and name.endswith(PART_SUFFIX))
        write_manifest(place / MANIFEST, replace(wanted, shards=shards, complete=True))
        complete = _complete(place)
    assert complete is not None
    return complete


def first_manifest(job: Job, format_name: str) -> Manifest:
    """The manifest of a set of which nothing is written yet."""
    made_by = {name: value for name, value in surroundings().items() if name in MADE_BY}
    return Manifest(job.config, made_by, job.about, job.features, format_name)


def _check_folder(place: pathlib.Path, wanted: Manifest, hosts: Hosts) -> None:
    """Raises InputError where a folder holds another set, one that others share otherwise, or something else."""
    if not place.exists():
        return
    if not place.is_dir():
        raise InputError(f"{place}: is a file; name a folder for the set")
    if (place / MANIFEST).exists():
        begun = read_manifest(place / MANIFEST)
        check_same(begun, wanted, place)
        if hosts.count > 1 and not begun.complete:
            raise InputError(f"{place}: was begun by one host; go on without --hosts, or give another folder")
        return
    others = host_manifests(place)
    for path in others:
        count = int(path.stem.rpartition("-")[2])
        if count != hosts.count:
            raise InputError(f"{place}: was begun by {count} hosts; go on with --hosts {count}, or give another folder")
        check_same(replace(read_manifest(path), complete=False), wanted, place)
    # Locks, and of several hosts a manifest that one of them is about to write.
    mine = (LOCK, BESIDE_PREFIX) if hosts.count > 1 else (LOCK,)
    strange = sorted(each.name for each in place.iterdir() if not each.name.startswith(mine))
    if strange and not others:
        raise InputError(f"{place}: is not empty ({strange[0]}) and holds no set of patterns; give another folder")


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
    """The manifest without shards whose file is not what it says."""
    kept: list[ShardEntry] = []
    for shard in begun.shards:
        path = place / shard.file
        if path.is_file() and entry_of(path, shard.records, shard.skipped) == shard:
            kept.append(shard)
        else:
            say(f"{path}: is missing or damaged; it is made again")
    return replace(begun, shards=tuple(kept), complete=False)


def _clean(place: pathlib.Path, job: Job, chosen: Format, manifest: Manifest, hosts: Hosts) -> None:
    """Removes what a killed run had not finished, and nothing that has another name or is another host's."""
    names = {shard_name(job, index, chosen.suffix) for index in _shards_of(job, hosts)}
    unfinished = (names | {name + PART_SUFFIX for name in names}) - {shard.file for shard in manifest.shards}
    _remove(place, lambda name: name in unfinished)
    if hosts.count == 1:
        _remove(place, lambda name: name.startswith(BESIDE_PREFIX) and name.endswith(PART_SUFFIX))


def _remove(place: pathlib.Path, which: Callable[[str], bool]) -> None:
    for path in list(place.iterdir()):
        if which(path.name):
            path.unlink(missing_ok=True)


def _shards_of(job: Job, hosts: Hosts) -> range:
    """Indices of a host's shards."""
    return range(hosts.index, job.shard_count, hosts.count)


def shard_name(job: Job, index: int, suffix: str) -> str:
    """Name of a shard's file, as TensorFlow Datasets names them for ArrayRecord."""
    tail = f"{index:05d}-of-{job.shard_count:05d}"
    # Other programs know a file by the end of its name.
    return f"{job.name}-{job.part}.{suffix}-{tail}" if suffix == "array_record" else f"{job.name}-{job.part}-{tail}.{suffix}"


def _write_shards(
    job: Job,
    place: pathlib.Path,
    chosen: Format,
    manifest: Manifest,
    hosts: Hosts,
    bar: Callable[[int, int], contextlib.AbstractContextManager[Progress]],
) -> Manifest:
    """Writes the shards of a host that its manifest lacks."""
    waiting: Future[ShardEntry] | None = None

    def finish(manifest: Manifest, written: Future[ShardEntry]) -> Manifest:
        ordered = sorted((*manifest.shards, written.result()), key=lambda shard: shard.file)
        manifest = replace(manifest, shards=tuple(ordered))
        write_manifest(place / _manifest_name(hosts), manifest)
        return manifest

    own, finished = _shards_of(job, hosts), {shard.file for shard in manifest.shards}
    left = [index for index in own if shard_name(job, index, chosen.suffix) not in finished]
    places = [sum(stop - start for start, stop in map(job.range_of, some)) for some in (own, left)]
    with ThreadPoolExecutor(1, thread_name_prefix="shards") as writer, bar(places[0] - places[1], places[0]) as progress:
        for index, blocks in shards(job, left, progress):
            if waiting is not None:
                manifest = finish(manifest, waiting)
            path = place / shard_name(job, index, chosen.suffix)
            waiting = writer.submit(_write_shard, path, chosen, job.features, blocks)
        if waiting is not None:
            manifest = finish(manifest, waiting)
    manifest = replace(manifest, complete=True)
    write_manifest(place / _manifest_name(hosts), manifest)
    return manifest


def shards(job: Job, indices: Sequence[int], progress: Progress) -> Iterator[tuple[int, list[Block]]]:
    """Some shards of a set one after the other: index and blocks."""
    made = job.blocks([job.range_of(index) for index in indices])
    for index in indices:
        start, stop = job.range_of(index)
        blocks: list[Block] = []
        while start < stop:
            block = next(made)
            blocks.append(block)
            count = len(next(iter(block.columns.values()))) + len(block.skipped)
            progress.update(count)
            start += count
        yield index, blocks


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
