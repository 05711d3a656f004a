"""Host zone. What a record of a set of patterns holds: names, types, shapes, units.

Labels have the names of `stream.LABELS`, which training uses too. The name of a condition begins with "conditions/": readers
that know nested features (TensorFlow Datasets, HDF5) show a group of that name.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from simxrd_jax.conditions import CONDITIONS
from simxrd_jax.errors import InputError

Columns = dict[str, np.ndarray]  # of a number of records: name -> values, the first axis is the record
Record = dict[str, Any]  # name -> value of one record

CONDITION_PREFIX = "conditions/"
TEXT = "str"
DTYPES = ("float32", "int32", "uint32", TEXT)


@dataclasses.dataclass(frozen=True)
class Feature:
    """One value of a record.

    Attributes:
      name: unique in the record.
      dtype: one of `DTYPES`.
      meaning: one line.
      unit: "" for a pure number or a code.
      shape: () for one value.
      classes: names of the codes 0, 1, ..., or nothing.
    """

    name: str
    dtype: str
    meaning: str
    unit: str = ""
    shape: tuple[int, ...] = ()
    classes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """As a manifest keeps it."""
        return {**dataclasses.asdict(self), "shape": list(self.shape), "classes": list(self.classes)}


def from_json(content: Mapping[str, Any]) -> Feature:
    """A feature of a manifest.

    Raises:
      InputError: it is none.
    """
    try:
        values = dict(content)
        feature = Feature(
            **{**values, "shape": tuple(int(n) for n in values["shape"]), "classes": tuple(map(str, values["classes"]))}
        )
    except (TypeError, KeyError, ValueError) as error:
        raise InputError(f"a feature of the manifest is damaged ({error}); make the set anew") from None
    if feature.dtype not in DTYPES:
        raise InputError(f"the feature {feature.name} has the unknown type {feature.dtype!r}; read it with a newer version")
    return feature


def condition_feature(name: str) -> Feature:
    """The feature of a condition."""
    row = CONDITIONS[name]
    return Feature(CONDITION_PREFIX + name, "float32", row.meaning, row.unit, row.shape)


def checked_columns(columns: Mapping[str, Any], features: Sequence[Feature]) -> Columns:
    """Columns in the order and the types of the features.

    Raises:
      ValueError: a name too many or missing, or another shape; the caller's mistake.
    """
    if set(columns) != {f.name for f in features}:
        raise ValueError(f"columns {sorted(columns)} are not the features {sorted(f.name for f in features)}")
    made = {f.name: np.asarray(columns[f.name], dtype=np.str_ if f.dtype == TEXT else f.dtype) for f in features}
    count = len(next(iter(made.values())))
    for feature in features:
        if made[feature.name].shape != (count, *feature.shape):
            raise ValueError(f"{feature.name} has the shape {made[feature.name].shape}, not {(count, *feature.shape)}")
    return made


def joined(blocks: Sequence[Columns], features: Sequence[Feature]) -> Columns:
    """The columns of several blocks one after the other."""
    empty = {f.name: np.zeros((0, *f.shape), np.str_ if f.dtype == TEXT else f.dtype) for f in features}
    return {name: np.concatenate([b[name] for b in blocks]) if blocks else empty[name] for name in empty}
