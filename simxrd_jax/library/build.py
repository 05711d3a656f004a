"""Host zone. Builds a library: structures in parallel, in shards that survive an interruption, assembled into one file.

A shard is a range of the sources' structures, so its content depends neither on the number of processes nor on which of them
made it, and the assembled file has the same bytes however often the build was interrupted. Processes are spawned, not forked:
the parent may have started JAX, whose threads a fork would break.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import importlib.metadata
import io
import itertools
import json
import math
import multiprocessing
import multiprocessing.connection
import os
import pathlib
import re
import signal
import tempfile
import threading
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection
from typing import Any

import gemmi
import numpy as np

from simxrd_jax import __version__
from simxrd_jax.crystal import symmetry
from simxrd_jax.crystal.form_factors import TABLES, form_factors
from simxrd_jax.crystal.structure import charge_of, element_of
from simxrd_jax.errors import InputError
from simxrd_jax.io.structures import DEFAULT_SYMPREC
from simxrd_jax.io.xy import check_target, is_stream, write_together
from simxrd_jax.library import record as records
from simxrd_jax.library.record import SYMPREC_LOOSE, SYMPREC_TIGHT, Columns, Reach
from simxrd_jax.library.sources import Item, Source, given_object, open_source
from simxrd_jax.library.store import FORMAT_VERSION, Library, LibraryMeta, write_library

DEFAULT_PRESETS = ("laboratory", "simxrd")
SHARD_SIZE = 500  # structures; two to five seconds of one core, what an interruption loses of each process
MAX_SOURCES = 256  # uint8
# Presets whose mean wavelengths differ by more want different lists: their reaches would hold much that the other cannot use.
WAVELENGTH_TOLERANCE = 0.01
F_SQUARED_BITS = 18  # of the mantissa kept: 2e-6 of |F|^2; each bit more adds 0.6 MB to 28,661 structures
F_SQUARED_FLOOR = 1e-12  # float64 leaves about 1e-28 of the strongest reflection in an extinguished one
PART_SUFFIX = ".part"
POLL_SECONDS = 0.2  # between updates of the progress bar


@dataclasses.dataclass(frozen=True)
class Progress:
    """Where a build tells its user what happens; the default is silent.

    Attributes:
      say: takes one sentence.
      advance: takes (structures done, structures in all) as they grow.
    """

    say: Callable[[str], None] = lambda sentence: None
    advance: Callable[[int, int], None] = lambda done, total: None


@dataclasses.dataclass(frozen=True)
class _Plan:
    """What a process must know to make any shard."""

    paths: tuple[str, ...]
    reach: Reach


@dataclasses.dataclass(frozen=True)
class _Outline:
    """What the library will say of itself, but for what its structures decide."""

    name: str
    presets: tuple[str, ...]
    radiation: str
    sources: tuple[str, ...]
    fingerprint: str


def reach_of_presets(
    presets: Sequence[str], symprec: float = DEFAULT_SYMPREC, table: str = "it92", dispersion: bool = True
) -> tuple[tuple[str, ...], str, Reach]:
    """Names of presets without repeats, the first one's radiation, and the reach that serves all of them.

    Args:
      presets: names.
      symprec: of the standard setting. [A]
      table: of form factors.
      dispersion: False sets f' = f'' = 0.

    Raises:
      InputError: no preset, an unknown one, wavelengths that differ by more than 1 %, or a bad option.
    """
    from simxrd_jax.presets import get_preset

    if not (math.isfinite(symprec) and symprec > 0):
        raise InputError(f"symprec {symprec:g} must be a positive distance in Angstrom; take for example 0.01")
    if table not in TABLES:
        raise InputError(f"the form-factor table {table!r} is unknown; choose one of {', '.join(TABLES)}")
    chosen = list({preset.name: preset for preset in map(get_preset, presets)}.values())
    if not chosen:
        raise InputError(f"a library needs at least one preset; take for example {DEFAULT_PRESETS[0]}")
    means = list(dict.fromkeys(preset.radiation.mean_wavelength for preset in chosen))
    if max(means) / min(means) > 1 + WAVELENGTH_TOLERANCE:
        listed = ", ".join(f"{p.name} {p.radiation.mean_wavelength:.5g} A" for p in chosen)
        raise InputError(f"the presets' wavelengths differ by more than 1 % ({listed}); build one library for each wavelength")
    lows, highs = zip(*(preset.inverse_d_bounds() for preset in chosen), strict=True)
    reach = Reach(min(lows), max(highs), tuple(means), symprec, table, dispersion)
    return tuple(preset.name for preset in chosen), chosen[0].radiation.name, reach


def build_library(
    sources: Sequence[str | os.PathLike[str]],
    presets: Sequence[str] = DEFAULT_PRESETS,
    symprec: float = DEFAULT_SYMPREC,
    *,
    form_factors: str = "it92",
    dispersion: bool = True,
    workers: int = 1,
    limit: int | None = None,
    output: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    name: str | None = None,
    shard_size: int = SHARD_SIZE,
    progress: Progress = Progress(),
) -> Library:
    """Reads structures from sources and makes a library of them, in memory or in a file too.

    Args:
      sources: paths, see `sources.open_source`.
      presets: names of those that the library shall serve.
      symprec: of the standard setting. [A]
      form_factors: "it92" or "waasmaier".
      dispersion: False sets f' = f'' = 0.
      workers: processes. More than one are spawned, so that a script that calls this needs its `if __name__ == "__main__"`.
      limit: only the first so many structures.
      output: the file; finished shards stay beside it in a folder with the suffix .part until it is complete.
      overwrite: whether the file may be there already.
      name: of the library; None is the stem of the file, or "library".
      shard_size: structures that a process makes at a time.
      progress: takes sentences and counts.

    Raises:
      InputError: a source, preset or option is bad, the file is there already or cannot be written, or no structure is good.
    """
    names, radiation, reach = reach_of_presets(presets, symprec, form_factors, dispersion)
    for what, value in (("limit", limit), ("number of workers", workers), ("shard size", shard_size)):
        if value is not None and value < 1:
            raise InputError(f"the {what} is {value}; give a whole number from 1")
    if not sources:
        raise InputError("a library needs at least one source of structures; name a folder of CIFs or a database")
    target = None if output is None else _check_output(os.fspath(output), overwrite, sources)
    if len(sources) > MAX_SOURCES:
        raise InputError(f"{len(sources)} sources are more than the limit of {MAX_SOURCES}; put their CIFs into one folder")
    plan = _Plan(tuple(os.fspath(path) for path in sources), reach)
    opened = [open_source(path) for path in plan.paths]
    total = sum(len(source) for source in opened)
    total = total if limit is None else min(total, limit)
    base_names = tuple(source.name for source in opened)
    fingerprint = _fingerprint(opened, base_names, reach, names, total)
    outline = _Outline(name or (target.stem if target is not None else "library"), names, radiation, base_names, fingerprint)
    ranges = [(start, min(start + shard_size, total)) for start in range(0, total, shard_size)]
    with _part_folder(target, fingerprint, progress) as folder:
        shards = _Shards(folder, fingerprint)
        done = {bounds for bounds in ranges if shards.read(*bounds) is not None}
        finished = sum(stop - start for start, stop in done)
        if done:
            progress.say(f"{target}: resumes an interrupted build, {finished} of {total} structures are done")
        ahead = dataclasses.replace(progress, advance=lambda n, _: progress.advance(finished + n, total))
        _make_shards(plan, opened, [bounds for bounds in ranges if bounds not in done], workers, ahead, shards)
        try:
            library = assemble(outline, reach, [shards.read_made(*bounds) for bounds in ranges])
        except InputError:  # no good structure: there is nothing to resume
            shards.remove(ranges)
            raise
        if target is not None:
            write_library(library, target)
        shards.remove(ranges)
    return library


def library_of(
    structures: Sequence[Any],
    ids: Sequence[str] | None = None,
    presets: Sequence[str] = DEFAULT_PRESETS,
    symprec: float = DEFAULT_SYMPREC,
    *,
    form_factors: str = "it92",
    dispersion: bool = True,
    name: str = "library",
) -> Library:
    """A library of structures in memory.

    Args:
      structures: `CrystalStructure`, pymatgen `Structure` or ASE `Atoms` each.
      ids: unique identifiers; None counts: "structure-1", ...
      presets, symprec, form_factors, dispersion, name: as in `build_library`.

    Raises:
      InputError: a structure is bad, unlike in a build, or ids repeat.
    """
    names, radiation, reach = reach_of_presets(presets, symprec, form_factors, dispersion)
    identifiers = [f"structure-{i + 1}" for i in range(len(structures))] if ids is None else [str(v) for v in ids]
    if len(identifiers) != len(structures) or len(set(identifiers)) < len(identifiers):
        raise InputError(f"{len(identifiers)} ids for {len(structures)} structures: give each structure one id of its own")
    found = []
    for identifier, value in zip(identifiers, structures, strict=True):
        made = _attempt(Item(identifier, getattr(value, "source", ""), functools.partial(given_object, value)), 0, reach)
        if isinstance(made, str):
            raise InputError(f"{identifier}: {made}")
        found.append(made)
    content = records.pack(found)
    digest = hashlib.sha256(json.dumps(dataclasses.asdict(reach)).encode())
    for key in sorted(content):
        digest.update(np.ascontiguousarray(content[key]).tobytes())
    outline = _Outline(name, names, radiation, ("memory",), digest.hexdigest())
    return assemble(outline, reach, [content | _skipped([])])


def _check_output(output: str, overwrite: bool, sources: Sequence[str | os.PathLike[str]]) -> pathlib.Path:
    if output.endswith(os.sep):
        raise InputError(f"{output}: names a folder; give the name of a file to write")
    target = check_target(output, [path for path in sources if os.path.isfile(path)])
    if is_stream(target):
        raise InputError(f"{target}: is no place for a library, which is a file; give the name of one")
    if target.exists() and not overwrite:
        raise InputError(f"{target}: is there already; add --overwrite to replace it once the new one is complete")
    return target


def _fingerprint(opened: Sequence[Source], base_names: Sequence[str], reach: Reach, presets: Sequence[str], total: int) -> str:
    """SHA-256 over everything that decides the library's content."""
    facts = {
        "format": FORMAT_VERSION,
        "programs": [__version__, *(importlib.metadata.version(name) for name in ("gemmi", "spglib", "numpy"))],
        "sources": [[name, source.digest()] for name, source in zip(base_names, opened, strict=True)],
        "presets": list(presets),
        "reach": dataclasses.asdict(reach),
        "labels": [SYMPREC_TIGHT, SYMPREC_LOOSE],
        "limits": [records.MAX_ATOMS, records.MAX_REFLECTIONS],
        "structures": total,
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _items(opened: Sequence[Source], start: int, stop: int) -> Iterator[tuple[int, Item]]:
    """The structures of a range that runs through all sources, with the index of their source."""
    for origin, source in enumerate(opened):
        count = len(source)
        for item in source.items(max(start, 0), min(stop, count)) if start < count and stop > 0 else ():
            yield origin, item
        start, stop = start - count, stop - count


def _attempt(item: Item, origin: int, reach: Reach) -> records.Record | str:
    """The record of a structure, or the reason why there is none."""
    identifier = " ".join(item.id.split())  # ids are stored one a line
    try:
        return records.make_record(identifier, origin, item.load(), reach)
    except InputError as error:
        reason = str(error)
    except Exception as error:  # one structure that nobody foresaw must not end a build of a hundred thousand
        reason = f"unexpected {type(error).__name__} ({error}); please report it"
    # The path to it is no part of the library.
    reason = reason.removeprefix(f"{item.where}: ").replace(item.where, os.path.basename(item.where))
    return " ".join(reason.split())


def _make_shard(opened: Sequence[Source], reach: Reach, start: int, stop: int, advance: Callable[[], None]) -> Columns:
    """The columns of a range of structures, and the ids and reasons of those left out."""
    good, skipped = [], []
    for origin, item in _items(opened, start, stop):
        with _c_library_silenced():
            made = _attempt(item, origin, reach)
        if isinstance(made, str):
            skipped.append((" ".join(item.id.split()), made))
        else:
            good.append(made)
        advance()
    return records.pack(good) | _skipped(skipped)


@contextlib.contextmanager
def _c_library_silenced() -> Iterator[None]:
    """Lets what C code writes on standard error go: spglib comments there on steps that it then takes in another way."""
    try:
        kept = os.dup(2)
    except OSError:  # the program was started without one
        yield
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _skipped(pairs: Sequence[tuple[str, str]]) -> Columns:
    return {
        "skipped_ids": np.array([p[0] for p in pairs], dtype=np.str_),
        "skipped_reasons": np.array([p[1] for p in pairs], dtype=np.str_),
    }


class _Shards:
    """Finished shards as files of a folder."""

    def __init__(self, folder: pathlib.Path, fingerprint: str) -> None:
        self.folder = folder
        self.prefix = fingerprint[:16]

    def path(self, start: int, stop: int) -> pathlib.Path:
        return self.folder / f"{self.prefix}-{start:08d}-{stop:08d}.npz"

    def write(self, start: int, stop: int, columns: Columns) -> None:
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **columns)  # pyright: ignore[reportArgumentType]
        write_together({self.path(start, stop): buffer.getvalue()})

    def read(self, start: int, stop: int) -> Columns | None:
        """A finished shard, or None where there is none that can be read."""
        try:
            with np.load(self.path(start, stop), allow_pickle=False) as data:
                return {key: data[key] for key in data.files}
        except (OSError, ValueError, EOFError, KeyError, NotImplementedError, zipfile.BadZipFile, zlib.error):
            return None  # whatever is wrong with it, it is made again

    def read_made(self, start: int, stop: int) -> Columns:
        """A shard that has just been made.

        Raises:
          InputError: it is gone.
        """
        columns = self.read(start, stop)
        if columns is None:
            raise InputError(f"{self.path(start, stop)}: this shard of the build is gone or damaged; run the command again")
        return columns

    def remove(self, ranges: Sequence[tuple[int, int]]) -> None:
        for bounds in ranges:
            self.path(*bounds).unlink(missing_ok=True)


SHARD_NAME = re.compile(r"[0-9a-f]{16}-\d{8}-\d{8}\.npz|\.simxrd-.*\.part")


@contextlib.contextmanager
def _part_folder(target: pathlib.Path | None, fingerprint: str, progress: Progress) -> Iterator[pathlib.Path]:
    """The folder of a build's shards: cleared of those of another build, and removed once it is empty.

    A library that stays in memory has a temporary one.
    """
    if target is None:
        with tempfile.TemporaryDirectory(prefix="simxrd-") as name:
            yield pathlib.Path(name)
        return
    folder = target.with_name(target.name + PART_SUFFIX)
    try:
        folder.mkdir(exist_ok=True)
        old = [file for file in folder.iterdir() if SHARD_NAME.fullmatch(file.name)]
        other = [file for file in old if not file.name.startswith(fingerprint[:16])]
        for file in other:
            file.unlink()
    except OSError as error:
        raise InputError(f"{folder}: cannot be used for the unfinished build ({error.strerror}); remove it") from None
    if any(file.suffix == ".npz" for file in other):
        progress.say(f"{target}: the sources or options differ from those of the interrupted build: it starts afresh")
    try:
        yield folder
    finally:
        with contextlib.suppress(OSError):  # not empty: an unfinished build, or files of somebody else
            folder.rmdir()


def _make_shards(
    plan: _Plan, opened: Sequence[Source], ranges: Sequence[tuple[int, int]], workers: int, progress: Progress, shards: _Shards
) -> None:
    """Makes and writes the shards of some ranges, in this process or in several."""
    total = sum(stop - start for start, stop in ranges)
    if min(workers, len(ranges)) <= 1:
        done = itertools.count(1)
        for bounds in ranges:
            columns = _make_shard(opened, plan.reach, *bounds, lambda: progress.advance(next(done), total))
            shards.write(*bounds, columns)
        return
    context = multiprocessing.get_context("spawn")
    taken, counted = context.Value("q", 0), context.Value("q", 0)
    listen, speak = context.Pipe(duplex=False)
    arguments = (plan, ranges, shards, taken, counted, speak)
    processes = [context.Process(target=_work, args=arguments) for _ in range(min(workers, len(ranges)))]
    try:
        with _interrupt_ignored():  # what is spawned inherits it: Ctrl-C reaches this process alone
            for process in processes:
                process.start()
        while any(process.is_alive() for process in processes):
            multiprocessing.connection.wait([p.sentinel for p in processes if p.is_alive()], POLL_SECONDS)
            progress.advance(counted.value, total)
            if listen.poll():
                raise InputError(listen.recv())
            if any(process.exitcode for process in processes):
                raise InputError(
                    "a process of the build died, perhaps for want of memory; run it again with fewer --workers, it resumes"
                )
    finally:
        for process in processes:
            if process.pid is not None:
                process.terminate()
                process.join()


def _work(
    plan: _Plan, ranges: Sequence[tuple[int, int]], shards: _Shards, taken: Any, counted: Any, speak: Connection
) -> None:
    """A process of a build: makes the next shard that no other has taken until there is none."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    # A parent that is killed cannot end its processes.
    threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()

    def advance() -> None:
        with counted.get_lock():
            counted.value += 1

    def take() -> int:
        with taken.get_lock():
            taken.value += 1
            return taken.value - 1

    try:
        opened = [open_source(path) for path in plan.paths]
        while (i := take()) < len(ranges):
            shards.write(*ranges[i], _make_shard(opened, plan.reach, *ranges[i], advance))
    except InputError as error:
        speak.send(str(error))


@contextlib.contextmanager
def _interrupt_ignored() -> Iterator[None]:
    """Ctrl-C is ignored, where this thread may say so."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def assemble(outline: _Outline, reach: Reach, parts: Sequence[Columns]) -> Library:
    """The library of the columns of all shards: ids made unique, tables looked up, |F|^2 computed, splits made.

    Raises:
      InputError: no structure is left.
    """
    from simxrd_jax.library.arrays import library_f_squared
    from simxrd_jax.library.extinction import extinction_groups
    from simxrd_jax.library.splits import make_splits

    columns = records.join(parts)
    skipped = list(zip(columns.pop("skipped_ids").tolist(), columns.pop("skipped_reasons").tolist(), strict=True))
    ids, first = np.unique(columns["ids"], return_index=True)
    if len(ids) == 0:
        raise InputError(_all_bad(outline, skipped))
    is_first = np.zeros(len(columns["ids"]), dtype=bool)
    is_first[first] = True
    skipped += [(identifier, "its id is that of an earlier structure") for identifier in columns["ids"][~is_first].tolist()]
    columns = records.select(columns, is_first)
    names, site_species = np.unique(columns["site_species"], return_inverse=True)
    order = sorted(range(len(names)), key=lambda i: _place_of_species(str(names[i])))
    columns["site_species"] = np.argsort(order)[site_species].astype(np.uint16)
    species = [str(names[i]) for i in order]
    tables = [form_factors(species, wavelength, reach.form_factors, reach.dispersion) for wavelength in reach.wavelengths]
    if np.abs(columns["hkl"]).max() <= np.iinfo(np.int8).max:
        columns["hkl"] = columns["hkl"].astype(np.int8)
    facts = (columns[name] for name in ("ids", "formulas", "space_group", "prototypes"))
    splits, split_meta = make_splits(*facts, seed=0)
    extinction = extinction_groups()
    meta = LibraryMeta(
        format_version=FORMAT_VERSION,
        simxrd_version=__version__,
        name=outline.name,
        presets=outline.presets,
        radiation=outline.radiation,
        wavelengths=reach.wavelengths,
        inverse_d_min=reach.inverse_d_min,
        inverse_d_max=reach.inverse_d_max,
        symprec=reach.symprec,
        symprec_tight=SYMPREC_TIGHT,
        symprec_loose=SYMPREC_LOOSE,
        form_factors=reach.form_factors,
        dispersion=reach.dispersion,
        sources=outline.sources,
        fingerprint=outline.fingerprint,
        skipped=tuple(skipped),
        extra={"notes": list(tables[0].notes)},
    )
    has_tensors = bool(columns["site_u"].any())
    library = Library(
        meta=meta,
        **(columns | {"site_u": columns["site_u"] if has_tensors else None}),  # pyright: ignore[reportArgumentType]
        f_squared=np.zeros(len(columns["hkl"]), dtype=np.float32),
        species_names=np.array(species, dtype=np.str_),
        f0_a=tables[0].a,
        f0_b=tables[0].b,
        f0_c=tables[0].c,
        mass=tables[0].mass,
        f_prime=np.stack([table.f_prime for table in tables]),
        f_double_prime=np.stack([table.f_double_prime for table in tables]),
        extinction_group=extinction.of_space_group[columns["space_group"]].astype(np.uint8),
        extinction_names=np.array(extinction.names, dtype=np.str_),
        **_hall_table(columns["hall"]),
        splits=splits,
        split_meta=split_meta,
    )
    return dataclasses.replace(library, f_squared=storable_f_squared(library, library_f_squared(library)))


def _hall_table(hall: np.ndarray) -> dict[str, np.ndarray]:
    """Symbols and operators of the Hall numbers in use, as `store.Library` keeps them."""
    numbers = np.unique(hall)
    rotations, translations = zip(*(symmetry.hall_operators(int(number)) for number in numbers), strict=True)
    whole = np.round(np.concatenate(translations) * symmetry.TRANSLATION_DENOMINATOR).astype(np.int64)
    return {
        "hall_numbers": numbers,
        "hall_symbols": np.array([symmetry.hall_symbol(int(number)) for number in numbers], dtype=np.str_),
        "hall_count": np.array([len(own) for own in rotations], dtype=np.uint8),
        "hall_rotations": np.concatenate(rotations).astype(np.int8),
        "hall_translations": (whole % symmetry.TRANSLATION_DENOMINATOR).astype(np.uint8),
    }


def _all_bad(outline: _Outline, skipped: Sequence[tuple[str, str]]) -> str:
    where = ", ".join(outline.sources)
    if not skipped:
        return f"{where}: there is no structure to make a library of; give at least one"
    identifier, reason = skipped[0]
    return f"{where}: none of the {len(skipped)} structures can be used ({identifier}: {reason}); nothing is written"


def _place_of_species(name: str) -> tuple[int, str, int]:
    element = element_of(name)
    return gemmi.Element(element).atomic_number, element, charge_of(name)


def storable_f_squared(library: Library, f_squared: np.ndarray) -> np.ndarray:
    """|F|^2 rounded to F_SQUARED_BITS of the mantissa; below F_SQUARED_FLOOR of the structure's greatest it becomes 0.

    What is left of a reflection that only the atoms' places extinguish is rounding noise, which no two machines share.

    Args:
      library: whose reflections they are.
      f_squared: [R]. [electrons^2]

    Returns:
      float32 [R]. [electrons^2]
    """
    greatest = np.maximum.reduceat(f_squared, library.first_reflection[:-1])
    values = np.where(f_squared < F_SQUARED_FLOOR * np.repeat(greatest, library.n_reflection), 0, f_squared).astype(np.float32)
    dropped = np.uint32(np.finfo(np.float32).nmant - F_SQUARED_BITS)
    one = np.uint32(1)
    bits = values.view(np.uint32) + (one << (dropped - one))
    return (bits >> dropped << dropped).view(np.float32)
