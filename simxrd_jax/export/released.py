"""Host zone. A released SimXRD database as a set that can be written in another format: see `writer.Job`."""

from __future__ import annotations

import os
import pathlib
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np

from simxrd_jax.crystal.structure import CRYSTAL_SYSTEMS
from simxrd_jax.errors import InputError
from simxrd_jax.export.features import CONDITION_PREFIX, Columns, Feature
from simxrd_jax.export.writer import Block, Job
from simxrd_jax.io.files import file_digest
from simxrd_jax.io.simxrd_db import PARAMETERS, WAVELENGTH, SimxrdDatabase, SimxrdRow
from simxrd_jax.library.extinction import extinction_groups
from simxrd_jax.library.extinction_table import EXTINCTION_GROUP

DATASET = "simxrd"
BLOCK = 256  # rows read at once
GRID_ROWS = 32  # that say which points a database has
# What simulation_param holds, as it is stored: the script's grain size is used in a width of another unit than its name says.
STORED = dict(
    zip(
        PARAMETERS,
        (
            ("grain size as stored, no length; see the preset simxrd", ""),
            ("first orientation number, bounds the factor of each reflection", ""),
            ("second orientation number, which the public script does not use", ""),
            ("mean displacement of the atoms", "A"),
            ("shift of all peaks", "deg"),
        ),
        strict=True,
    )
)
SYSTEMS = tuple(name for _, name in CRYSTAL_SYSTEMS)


def released_job(path: str | os.PathLike[str], part: str, shard_size: int) -> Job:
    """The rows of a database as records; a malformed row is left out and named.

    Args:
      path: of the database.
      part: which part of the data set it is, for the names of the files.
      shard_size: rows of a file.

    Raises:
      InputError: it cannot be read, or no row of it.
    """
    if shard_size < 1:
        raise InputError(f"a shard size of {shard_size} must be at least 1; give a larger one")
    database = SimxrdDatabase(path)
    points, step = _grid(database)
    name = pathlib.Path(path).name
    return Job(
        name=DATASET,
        part=part,
        places=len(database),
        shard_size=shard_size,
        features=released_features(points),
        config={"database": file_digest(pathlib.Path(path)), "part": part, "shard_size": shard_size},
        about={
            "database": name,
            "two_theta": {"step": step, "points": points, "unit": "deg", "start": "two_theta_start of each record"},
            "wavelength": {"value": WAVELENGTH, "unit": "A"},
        },
        blocks=lambda ranges: _blocks(database, points, step, ranges),
    )


def released_features(points: int) -> tuple[Feature, ...]:
    """Features of the records of a released database."""
    return (
        Feature("intensity", "float32", "pattern as released, highest point of 8 to 82 deg 100", shape=(points,)),
        Feature("two_theta_start", "float32", "first point of the pattern's axis", "deg"),
        Feature("space_group", "int32", "number of the space group, 1 to 230"),
        Feature("crystal_system", "int32", "code of the crystal system", classes=SYSTEMS),
        Feature("extinction_group", "int32", "code of the extinction group", classes=tuple(extinction_groups().names)),
        Feature("formula", "str", "of a cell"),
        Feature("row", "int32", "number of the row in the database"),
        *(Feature(CONDITION_PREFIX + name, "float32", meaning, unit) for name, (meaning, unit) in STORED.items()),
    )


def _grid(database: SimxrdDatabase) -> tuple[int, float]:
    """Points and step that all rows must have: those of most of the first good rows.

    Raises:
      InputError: there is none.
    """
    first = ""
    found: Counter[tuple[int, float]] = Counter()
    for index in range(len(database)):
        try:
            found[_grid_of(database[index])] += 1
        except InputError as error:
            first = first or str(error)
        if found.total() == GRID_ROWS:
            break
    if not found:
        raise InputError(f"no row can be used; the first reason: {first}")
    return found.most_common(1)[0][0]


def _grid_of(row: SimxrdRow) -> tuple[int, float]:
    """Points and step of a row. [-, deg]"""
    return row.intensity.size, round(row.two_theta[1], 6)


def _blocks(database: SimxrdDatabase, points: int, step: float, ranges: Sequence[tuple[int, int]]) -> Iterator[Block]:
    for first, last in ((first, stop) for start, stop in ranges for first in range(start, stop, BLOCK)):
        rows: list[tuple[int, SimxrdRow]] = []
        skipped: list[tuple[str, str]] = []
        for index in range(first, min(first + BLOCK, last)):
            number = database.numbers[index]
            try:
                row = database[index]
                if _grid_of(row) != (points, step):
                    raise InputError(
                        f"has {row.intensity.size} points in steps of {row.two_theta[1]:g} deg, others {points} of {step:g}"
                    )
                rows.append((number, row))
            except InputError as error:
                skipped.append((f"row {number}", str(error).rpartition(f"row {number}: ")[2]))
        yield Block(_columns(rows, points), skipped)


def _columns(rows: list[tuple[int, SimxrdRow]], points: int) -> Columns:
    groups = np.array([row.space_group for _, row in rows], dtype=np.int32)
    conditions = np.array(
        [(r.grain_size, *r.orientation, r.displacement, r.zero_shift) for _, r in rows], dtype=np.float32
    ).reshape(len(rows), len(PARAMETERS))
    return {
        "intensity": np.array([row.intensity for _, row in rows], dtype=np.float32).reshape(len(rows), points),
        "two_theta_start": np.array([row.two_theta[0] for _, row in rows], dtype=np.float32),
        "space_group": groups,
        "crystal_system": np.array([SYSTEMS.index(row.crystal_system) for _, row in rows], dtype=np.int32),
        "extinction_group": EXTINCTION_GROUP[groups - 1].astype(np.int32),
        "formula": np.array([row.formula for _, row in rows], dtype=np.str_),
        "row": np.array([number for number, _ in rows], dtype=np.int32),
        **{CONDITION_PREFIX + name: conditions[:, i] for i, name in enumerate(PARAMETERS)},
    }
