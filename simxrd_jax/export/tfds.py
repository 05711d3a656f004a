"""Host zone. What the TensorFlow Datasets builders in datasets/ share: features, ArrayRecord files, card and Croissant.

TensorFlow itself is not needed: a prepared data set is read as `builder.as_data_source(split)`, by random access.
"""

from __future__ import annotations

import json
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from simxrd_jax.errors import InputError
from simxrd_jax.export.card import CARD, CROISSANT, Description, card_text, croissant_text
from simxrd_jax.export.features import CONDITION_PREFIX, TEXT, Feature
from simxrd_jax.export.writer import Job
from simxrd_jax.io.xy import write_together

SETTINGS = "settings.json"


def tfds_features(features: Sequence[Feature]) -> tfds.features.FeaturesDict:
    """The features of a record for TensorFlow Datasets; conditions are a group of their own."""
    flat = {f.name: _tfds_feature(f) for f in features if not f.name.startswith(CONDITION_PREFIX)}
    group = {f.name.removeprefix(CONDITION_PREFIX): _tfds_feature(f) for f in features if f.name.startswith(CONDITION_PREFIX)}
    return tfds.features.FeaturesDict({**flat, "conditions": tfds.features.FeaturesDict(group)} if group else flat)


def _tfds_feature(feature: Feature) -> Any:
    doc = f"{feature.meaning}{f' [{feature.unit}]' if feature.unit else ''}"
    if feature.dtype == TEXT:
        return tfds.features.Text(doc=doc)
    if feature.classes:
        return tfds.features.ClassLabel(names=list(feature.classes), doc=doc)
    if feature.shape:
        return tfds.features.Tensor(shape=feature.shape, dtype=np.dtype(feature.dtype), doc=doc)
    return tfds.features.Scalar(np.dtype(feature.dtype), doc=doc)


class PatternBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """A builder of ArrayRecord files of the records of jobs, one job a split; a card and Croissant lie beside them."""

    def __init__(self, *, file_format: Any = "array_record", **options: Any) -> None:
        super().__init__(file_format=file_format, **options)
        self.left_out: dict[str, list[tuple[str, str]]] = {}

    def jobs(self) -> Mapping[str, Job]:
        """The job of each split."""
        raise NotImplementedError

    def description(self) -> Description:
        """The data set in words."""
        raise NotImplementedError

    def _info(self) -> tfds.core.DatasetInfo:
        about = self.description()
        return self.dataset_info_from_configs(
            description=about.summary,
            features=tfds_features(about.features),
            homepage=about.url or None,
            citation=about.citation,
            license=about.licence,
            disable_shuffling=True,  # the order of a job; readers shuffle
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator[tuple[int, dict[str, Any]]]]:
        return {split: self._generate_examples(split, job) for split, job in self.jobs().items()}

    def _generate_examples(self, split: str, job: Job) -> Iterator[tuple[int, dict[str, Any]]]:
        number, left_out = 0, self.left_out.setdefault(split, [])
        for block in job.blocks([(0, job.places)]):
            left_out += block.skipped
            for i in range(len(block.columns[job.features[0].name])):
                yield number, _example({name: values[i] for name, values in block.columns.items()}, job.features)
                number += 1

    # The base class wraps its own in loggers, which a type checker takes for another kind of thing.
    def download_and_prepare(self, **options: Any) -> None:  # pyright: ignore[reportIncompatibleVariableOverride]
        """As of TensorFlow Datasets; afterwards README.md, croissant.json and settings.json are written.

        Raises:
          InputError: the folder holds what other settings made under the same name.
        """
        self._check_settings()
        super().download_and_prepare(**options)
        folder = pathlib.Path(self.data_path)
        if not (folder / CARD).exists():
            files = sorted(path for path in folder.iterdir() if ".array_record-" in path.name)
            splits = {name: split.num_examples for name, split in self.info.splits.items()}
            about = self.description()
            card = card_text(about, splits)
            for split, reasons in self.left_out.items():
                card += "".join(f"\nLeft out of {split}: {source}, {reason}" for source, reason in reasons)
            settings = json.dumps(self._settings(), indent=1) + "\n"
            texts = {CARD: card.rstrip() + "\n", CROISSANT: croissant_text(about, files), SETTINGS: settings}
            write_together({folder / name: text for name, text in texts.items()})

    def as_data_source(self, *arguments: Any, **options: Any) -> Any:  # pyright: ignore[reportIncompatibleVariableOverride]
        """As of TensorFlow Datasets.

        Raises:
          InputError: as `download_and_prepare`.
        """
        self._check_settings()
        return super().as_data_source(*arguments, **options)

    def _settings(self) -> dict[str, Any]:
        """All that decides the records, as JSON has it."""
        return json.loads(json.dumps({split: job.config for split, job in self.jobs().items()}))

    def _check_settings(self) -> None:
        """TensorFlow Datasets knows a configuration by its name, and would read other records as these."""
        path = pathlib.Path(self.data_path) / SETTINGS
        if path.exists() and json.loads(path.read_text(encoding="utf-8")) != self._settings():
            raise InputError(
                f"{path.parent}: was prepared under other settings of the same name; name the config otherwise or delete it"
            )


def _example(record: Mapping[str, Any], features: Sequence[Feature]) -> dict[str, Any]:
    """A record as TensorFlow Datasets takes it."""
    made: dict[str, Any] = {}
    for f in features:
        value = str(record[f.name]) if f.dtype == TEXT else np.asarray(record[f.name], dtype=f.dtype)
        if f.classes:
            value = int(value)
        if f.name.startswith(CONDITION_PREFIX):
            made.setdefault("conditions", {})[f.name.removeprefix(CONDITION_PREFIX)] = value
        else:
            made[f.name] = value
    return made
