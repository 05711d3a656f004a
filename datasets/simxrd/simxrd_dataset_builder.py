"""Released SimXRD databases as a TensorFlow data set, without TensorFlow.

    config = SimxrdConfig(name="mine", databases={"train": "train.db", "test": "test.db"})
    builder = Builder(config=config, data_dir="prepared")
    builder.download_and_prepare()
    source = builder.as_data_source("train")

Databases are what the user points to: nothing is downloaded. Rows are read as data, malformed ones are left out and named.
"""

from __future__ import annotations

import dataclasses
import functools
import pathlib
from collections.abc import Mapping
from typing import ClassVar

import tensorflow_datasets as tfds

from simxrd_jax.errors import InputError
from simxrd_jax.export.card import Description
from simxrd_jax.export.generate import SHARD_SIZE
from simxrd_jax.export.released import released_job
from simxrd_jax.export.tfds import PatternBuilder
from simxrd_jax.export.writer import Job
from simxrd_jax.library.stream import PARTS


@dataclasses.dataclass(eq=False)
class SimxrdConfig(tfds.core.BuilderConfig):
    """Which databases are which split.

    Attributes:
      databases: "train", "validation" or "test" -> path.
    """

    databases: Mapping[str, str] = dataclasses.field(default_factory=dict)


class Builder(PatternBuilder):
    """Released patterns with their labels and simulation parameters."""

    name = "simxrd"
    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar[dict[str, str]] = {"1.0.0": "First version."}

    @functools.cached_property
    def _jobs(self) -> dict[str, Job]:
        config = self.builder_config
        if not isinstance(config, SimxrdConfig) or not config.databases:
            raise InputError(
                'simxrd: no database is named; give config=SimxrdConfig(name=..., databases={"train": "train.db"})'
            )
        unknown = [split for split in config.databases if split not in PARTS]
        if unknown:
            raise InputError(f"simxrd: there is no split {unknown[0]!r}; choose from {', '.join(PARTS)}")
        jobs = {split: released_job(path, split, SHARD_SIZE) for split, path in config.databases.items()}
        points = {job.features[0].shape for job in jobs.values()}
        if len(points) > 1:
            raise InputError("simxrd: the databases hold patterns of different lengths; prepare each in a config of its own")
        return jobs

    def jobs(self) -> Mapping[str, Job]:
        """The rows of each split's database."""
        return self._jobs

    def description(self) -> Description:
        """What the databases are."""
        first = next(iter(self._jobs.values()))
        axis = first.about["two_theta"]
        return Description(
            name="simxrd",
            title="SimXRD: released simulated powder patterns",
            summary=(
                f"Simulated powder X-ray diffraction patterns of {axis['points']} points in steps of {axis['step']:g} deg "
                "2theta at 1.54184 A, with space group, crystal system and extinction group, read from databases in the "
                "format of SimXRD-4M."
            ),
            features=first.features,
            facts={
                "databases": ", ".join(f"{split}: {pathlib.Path(p).name}" for split, p in self._databases().items()),
                "extinction groups": "of the space-group numbers, within the crystal systems",
            },
            licence="MIT",
            citation="B. Cao et al. (2025), SimXRD-4M, ICLR; arXiv 2406.15469",
            url="https://github.com/Bin-Cao/SimXRD",
            version=str(self.VERSION),
            notes=(
                "Labels are those of the databases. How their symmetry was found is not stated; in SimXRD-4M 24 % are P1.",
                "A row holds no structure: split by `formula` and space group to keep compounds apart.",
                "The highest point of the range of 8 to 82 deg is 100, so that the highest within the pattern may be lower.",
            ),
        )

    def _databases(self) -> Mapping[str, str]:
        config = self.builder_config
        assert isinstance(config, SimxrdConfig)
        return config.databases
