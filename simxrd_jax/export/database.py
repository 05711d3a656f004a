"""Host zone. A set of patterns as one SimXRD database, which grows by whole transactions and can be killed at any moment.

The database is written beside its place, a transaction for each batch, and renamed when it is complete. SQLite rolls an
unfinished transaction back when a killed run is opened again, so the rows that are there are those of whole batches, and the
next batch is the next to make. Rows differ from those of another run only in what ASE draws or takes from the clock: unique
ids and times.
"""

from __future__ import annotations

import contextlib
import functools
import os
import pathlib
import sqlite3
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from simxrd_jax.conditions import CONDITIONS
from simxrd_jax.crystal.structure import element_of
from simxrd_jax.errors import InputError
from simxrd_jax.export.features import CONDITION_PREFIX, Columns
from simxrd_jax.export.manifest import Manifest, entry_of, read_manifest, write_manifest
from simxrd_jax.export.writer import Job, Progress, check_same, first_manifest, shards, writing
from simxrd_jax.io.files import locked, read_only
from simxrd_jax.io.simxrd_db import PARAMETERS, WAVELENGTH, row_pairs, spacing_text
from simxrd_jax.io.xy import PART_SUFFIX, check_target
from simxrd_jax.library.store import Library
from simxrd_jax.presets import Preset

MANIFEST_SUFFIX = ".manifest.json"
FORMAT = "ase"
SAME_WAVELENGTH = 1e-3  # relative; means of the Cu K-alpha doublet differ by 2e-5


def write_database(
    job: Job,
    path: str | os.PathLike[str],
    library: Library,
    preset: Preset,
    *,
    say: Callable[[str], None] = lambda sentence: None,
    bar: Callable[[int, int], contextlib.AbstractContextManager[Progress]],
) -> Manifest:
    """Writes a set of simulated patterns into an ASE database, or goes on with one that was stopped.

    A row has the keys of `io.simxrd_db`, the atoms of the structure's conventional cell, and in its data the structure's
    identifier, the random key and all conditions that vary, and of a mixture its phases and their mass fractions.

    Args:
      job: what to write; a shard of it is a transaction.
      path: of the database.
      library, preset: of the job.
      say: takes one sentence for the user.
      bar: as in `writer.write_set`.

    Returns:
      The manifest, which stands beside the database.

    Raises:
      InputError: a preset of another wavelength than the format's; a file of another set, one that was changed since, or one
        that cannot be written; a full disk.
    """
    target = check_target(path)
    wavelength = preset.radiation.mean_wavelength
    if abs(wavelength / WAVELENGTH - 1) > SAME_WAVELENGTH:
        raise InputError(
            f"SimXRD databases are of {WAVELENGTH} A, the preset {preset.name} of {wavelength:.6g} A; take another format"
        )
    about = target.with_name(target.name + MANIFEST_SUFFIX)
    wanted = first_manifest(job, FORMAT)
    lock = target.with_name(f".{target.name}.lock")
    with locked(target, "writing", lock):
        try:
            manifest = _begun(target, about, wanted)
            if manifest.complete and target.exists():
                if target.stat().st_size != manifest.shards[0].bytes:
                    raise InputError(f"{target}: was changed since it was complete; delete it, and the same command makes it")
                say(f"{target}: the set is complete, {manifest.records:,} records; `simxrd verify` checks it")
                return manifest
            with writing(target):
                write_manifest(about, replace(manifest, shards=(), complete=False))
                if not target.exists():
                    _write_rows(job, target, _RowMaker(library, preset), bar)
                elif count_rows(target) != job.places:  # a killed run had renamed it, or it is another's
                    raise InputError(f"{target}: is not the database that was begun here; delete it or give another name")
                manifest = replace(wanted, shards=(entry_of(target, job.places),), complete=True)
                write_manifest(about, manifest)
        finally:
            lock.unlink(missing_ok=True)
    return manifest


def count_rows(path: pathlib.Path) -> int | None:
    """Rows of an ASE database; None if the file is none."""
    try:
        with contextlib.closing(read_only(path)) as connection:
            (count,) = connection.execute("select count(*) from systems").fetchone()
    except sqlite3.Error:
        return None
    return count


def _begun(target: pathlib.Path, about: pathlib.Path, wanted: Manifest) -> Manifest:
    """The manifest of this set, whether it was begun or not; what no manifest belongs to is not touched."""
    if about.exists():
        begun = read_manifest(about)
        check_same(begun, wanted, target)
        return begun
    part = target.with_name(target.name + PART_SUFFIX)
    for path in (target, part):
        if path.exists():
            raise InputError(f"{path}: exists already and is no set that was begun here; delete it or give another name")
    return wanted


def _write_rows(
    job: Job, target: pathlib.Path, rows: _RowMaker, bar: Callable[[int, int], contextlib.AbstractContextManager[Progress]]
) -> None:
    """Writes the transactions that are missing, and renames the database."""
    import ase.db

    part = target.with_name(target.name + PART_SUFFIX)
    if not part.exists():
        _make_empty(part)
    database: Any = ase.db.connect(str(part), type="db", use_lock_file=False)
    try:
        done = database.count()
        with bar(done, job.places) as progress:
            left = range(done // job.shard_size, job.shard_count)  # transactions are whole
            for _, blocks in shards(job, left, progress):
                with database:
                    for block in blocks:
                        for atoms, pairs, data in rows.rows(block.columns):
                            database.write(atoms, key_value_pairs=pairs, data=data)
    except sqlite3.OperationalError as error:  # a full disk, a closed folder
        raise OSError(str(error)) from error
    except sqlite3.Error as error:
        raise InputError(f"{part}: is damaged ({error}); delete it and give the same command again") from error
    if database.count() != job.places:
        raise InputError(f"{part}: holds {database.count()} rows where {job.places} were written; delete it and begin anew")
    part.replace(target)


def _make_empty(part: pathlib.Path) -> None:
    """A database without rows, under its name only once it has all its tables: ASE makes them one by one."""
    import ase.db

    fresh = part.with_name(part.name + ".new")
    for leftover in (fresh, fresh.with_name(fresh.name + "-journal")):
        leftover.unlink(missing_ok=True)
    ase.db.connect(str(fresh), type="db", use_lock_file=False).count()  # makes the tables
    fresh.replace(part)


class _RowMaker:
    """Makes rows of an ASE database of the records of a set."""

    def __init__(self, library: Library, preset: Preset) -> None:
        self._library, self._fixed = library, preset.fixed
        self._latt_dis = spacing_text(np.asarray(preset.grid().two_theta), preset.radiation.mean_wavelength)
        self._cell = functools.lru_cache(maxsize=4096)(self._make_cell)

    def _make_cell(self, index: int) -> tuple[Any, str, str]:
        """Atoms of the conventional cell of a structure (of a mixed position the most frequent), formula, lattice letter."""
        import ase

        structure = self._library.structure(index)
        atoms = structure.atoms
        frac = (atoms.centring[:, None, :] + atoms.frac[None, :, :]).reshape(-1, 3) % 1.0
        symbols = [element_of(atoms.species[i]) for i in atoms.occupancy.argmax(axis=1)] * atoms.n_centring
        counts = Counter(symbols)
        formula = "".join(f"{name}{counts[name] if counts[name] > 1 else ''}" for name in sorted(counts))
        crystal = ase.Atoms(symbols, scaled_positions=frac, cell=structure.lattice, pbc=True)
        return crystal, formula, structure.space_group_symbol[0]

    def rows(self, columns: Columns) -> list[tuple[Any, dict[str, str], dict[str, Any]]]:
        """Atoms, key-value pairs and data of each record."""
        made = []
        for i in range(len(columns["structure"])):
            atoms, formula, letter = self._cell(int(columns["structure"][i]))
            values = {
                name.removeprefix(CONDITION_PREFIX): column[i].tolist()
                for name, column in columns.items()
                if name.startswith(CONDITION_PREFIX)
            }
            conditions = [self._parameter(name, values) for name in PARAMETERS]
            group = int(columns["space_group"][i])
            pairs = row_pairs(self._latt_dis, columns["intensity"][i], group, letter, formula, conditions)
            data = {
                "structure_id": str(columns["structure_id"][i]),
                "key_data": columns["key_data"][i].tolist(),
                "conditions": values,
                **{name: columns[name][i].tolist() for name in ("phases", "mass_fraction") if name in columns},
            }
            made.append((atoms, pairs, data))
        return made

    def _parameter(self, name: str, values: dict[str, Any]) -> float:
        """A condition of a record; 0 where it is switched off."""
        value = values.get(name, self._fixed.get(name, CONDITIONS[name].default))
        return 0.0 if value is None or not np.isfinite(value) else float(value)
