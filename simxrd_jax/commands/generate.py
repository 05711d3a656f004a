"""Host zone. The work behind `simxrd generate`, `import` and `verify`: options in, sets of patterns out."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from simxrd_jax.conditions import nearest
from simxrd_jax.errors import InputError
from simxrd_jax.export.manifest import Manifest
from simxrd_jax.hosts import ONE, Hosts

FORMATS = ("array_record", "npz", "hdf5", "parquet", "ase")
SHOWN_REASONS = 5  # skipped rows, or files of no set, that a command names; the manifest keeps all rows
DEFAULT_PRESET = "laboratory"


@dataclass(frozen=True)
class GenerateOptions:
    """What `simxrd generate` makes; None is left to the recipe or the default. See `export.generate.Request`."""

    count: int | None = None
    per_structure: int | None = None
    preset: str | None = None
    format: str = "array_record"
    seed: int = 0
    split: str | None = None
    part: str | None = None
    sampling: str = "uniform"
    values: Mapping[str, Any] = field(default_factory=dict)
    shard_size: int | None = None
    recipe: str | None = None


def generate_set(
    path: str,
    options: GenerateOptions,
    output: str,
    *,
    hosts: Hosts = ONE,
    say: Callable[[str], None] = lambda sentence: None,
) -> Manifest:
    """Simulates a set of patterns and writes it, with a progress bar on standard error.

    Args:
      path: of the library.
      options: what to make.
      output: folder of the set; of the format "ase" a file.
      hosts: how many share the work, and which one this is; they need no coordinator.
      say: takes one sentence for the user.

    Raises:
      InputError: bad options, a library that cannot be read or does not reach as far as the preset, what the writers refuse.
      KeyboardInterrupt: after a sentence that says how to go on.
    """
    from simxrd_jax.export.database import write_database
    from simxrd_jax.export.generate import CPU_BATCH, SHARD_SIZE, Request, make_job, with_values
    from simxrd_jax.export.recipes import get_recipe
    from simxrd_jax.export.writer import write_set
    from simxrd_jax.library.store import read_library
    from simxrd_jax.presets import get_preset
    from simxrd_jax.process import prepare_process

    prepare_process()  # what goes on after a stop does not compile again
    if options.format not in FORMATS:
        raise InputError(f"there is no format {options.format!r}{nearest(options.format, dict.fromkeys(FORMATS))}")
    if options.part is not None and options.split is None:
        raise InputError(f"the part {options.part} is one of a split; name the split too, or leave the part out")
    if options.format == "ase" and hosts.count > 1:
        raise InputError("the format ase is one file, which one host writes; leave --hosts out or take another format")
    recipe = None if options.recipe is None else get_recipe(options.recipe)
    if recipe is not None and options.preset is not None:
        raise InputError(f"the recipe {recipe.name} has conditions of its own; leave the preset out, or the recipe")
    preset = get_preset(options.preset or DEFAULT_PRESET) if recipe is None else recipe.preset
    count, per_structure = options.count, options.per_structure
    if recipe is not None and count is None and per_structure is None:
        count, per_structure = recipe.count, recipe.per_structure
    request = Request(
        preset=preset,
        count=count,
        per_structure=per_structure,
        seed=options.seed,
        split=options.split,
        part=options.part or "train",
        sampling=options.sampling,
        values=options.values,
        impurities=None if recipe is None else recipe.impurities,
        shard_size=SHARD_SIZE if options.shard_size is None else options.shard_size,
        recipe="" if recipe is None else recipe.name,
    )
    library = read_library(path)
    with _stopped(output, say):
        if options.format == "ase":
            # A transaction takes a batch, whatever shards there would be.
            job = make_job(library, request, shard_size=min(CPU_BATCH, request.shard_size))
            manifest = write_database(job, output, library, with_values(preset, options.values), say=say, bar=_bar)
        else:
            manifest = write_set(make_job(library, request), output, options.format, hosts=hosts, say=say, bar=_bar)
    if not manifest.complete:
        say(
            f"{output}: host {hosts.index} has its {_patterns(manifest)}; "
            f"the set is complete once all {hosts.count} hosts are done"
        )
        return manifest
    say(f"{_patterns(manifest)} in {output} ({_bytes(manifest)})")
    return manifest


def import_database(
    path: str,
    output: str,
    *,
    format: str = "array_record",
    part: str = "train",
    shard_size: int | None = None,
    say: Callable[[str], None] = lambda sentence: None,
) -> Manifest:
    """Writes the rows of a released SimXRD database as a set of patterns.

    Args:
      path: of the database.
      output: folder of the set.
      format: of the files.
      part: of the data set, for the names of the files.
      shard_size: rows of a file; None is the default.
      say: takes one sentence for the user.

    Raises:
      InputError: the database cannot be read, or what the writer refuses.
      KeyboardInterrupt: after a sentence that says how to go on.
    """
    from simxrd_jax.export.generate import SHARD_SIZE
    from simxrd_jax.export.released import released_job
    from simxrd_jax.export.writer import write_set

    job = released_job(path, part, SHARD_SIZE if shard_size is None else shard_size)
    with _stopped(output, say):
        manifest = write_set(job, output, format, say=say, bar=_bar)
    skipped = manifest.skipped
    for source, reason in skipped[:SHOWN_REASONS]:
        say(f"skipped {source}: {reason}")
    if len(skipped) > SHOWN_REASONS:
        say(f"skipped {len(skipped) - SHOWN_REASONS} more, {os.path.join(output, 'manifest.json')} lists them")
    rows = "1 row" if len(skipped) == 1 else f"{len(skipped):,} rows"
    say(f"{_patterns(manifest)} in {output} ({_bytes(manifest)}), {rows} skipped")
    return manifest


def verify_set(path: str) -> str:
    """What `simxrd verify` says of a sound set.

    Raises:
      InputError: what is wrong with it.
    """
    from simxrd_jax.export.reader import unlisted_files, verify

    manifest = verify(path)
    files = "1 file" if len(manifest.shards) == 1 else f"{len(manifest.shards):,} files"
    sound = f"{path}: {manifest.records:,} records in {files} ({_bytes(manifest)}), complete; all checksums agree"
    strangers = unlisted_files(path, manifest)
    if not strangers:
        return sound
    more = f" and {len(strangers) - SHOWN_REASONS} more" if len(strangers) > SHOWN_REASONS else ""
    return f"{sound}\nnot of this set, though in its folder: {', '.join(strangers[:SHOWN_REASONS])}{more}"


def list_recipes() -> str:
    """The text of `simxrd generate --list-recipes`."""
    from simxrd_jax.export.recipes import RECIPES

    lines: list[str] = []
    for recipe in RECIPES.values():
        each = f"{recipe.per_structure} of each structure" if recipe.per_structure else f"{recipe.count:,} in all"
        lines += [
            f"{recipe.name}: preset {recipe.preset.name}, {each}",
            f"  reference  {recipe.reference}",
            f"  published  {recipe.published}",
            f"  here       {recipe.conditions}",
            f"  unknown    {recipe.unknown}",
        ]
    return "\n".join(lines)


def _bar(done: int, total: int) -> Any:
    """A progress bar of patterns and patterns per second."""
    from tqdm import tqdm

    return tqdm(total=total, initial=done, unit="pattern", unit_scale=True, file=sys.stderr, leave=False, disable=None)


@contextlib.contextmanager
def _stopped(output: str, say: Callable[[str], None]):
    try:
        yield
    except KeyboardInterrupt:
        say(f"{output}: stopped; the same command goes on, and deleting it forgets it")
        raise


def _patterns(manifest: Manifest) -> str:
    return "1 pattern" if manifest.records == 1 else f"{manifest.records:,} patterns"


def _bytes(manifest: Manifest) -> str:
    count = sum(shard.bytes for shard in manifest.shards)
    return f"{count / 2**30:,.2f} GiB" if count >= 2**30 else f"{count / 2**20:,.1f} MiB"
