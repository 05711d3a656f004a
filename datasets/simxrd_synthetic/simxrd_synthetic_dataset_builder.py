"""Patterns simulated from a library of structures under a preset, as a TensorFlow data set, without TensorFlow.

    config = SyntheticConfig(name="mp", library="datasets/mp_library.simxrd", preset="laboratory", split="ool_disjoint")
    builder = Builder(config=config, data_dir="prepared")
    builder.download_and_prepare()
    source = builder.as_data_source("train")

The splits are those of training: the parts of a split of the library, in_library with other patterns of the same structures.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import ClassVar

import tensorflow_datasets as tfds

from simxrd_jax.errors import InputError
from simxrd_jax.export.card import Description
from simxrd_jax.export.generate import Request, make_job
from simxrd_jax.export.tfds import PatternBuilder
from simxrd_jax.export.writer import Job
from simxrd_jax.library.store import read_library
from simxrd_jax.library.stream import PARTS
from simxrd_jax.train.targets import structures_in


@dataclasses.dataclass(eq=False)
class SyntheticConfig(tfds.core.BuilderConfig):
    """What is simulated.

    Attributes:
      library: path.
      preset: name.
      split: of the library.
      patterns: "train", "validation" or "test" -> patterns of each structure of that part.
      seed: of conditions and noise.
    """

    library: str = ""
    preset: str = "laboratory"
    split: str = "ool_disjoint"
    patterns: Mapping[str, int] = dataclasses.field(default_factory=lambda: {"train": 1, "validation": 1, "test": 1})
    seed: int = 0


class Builder(PatternBuilder):
    """Simulated patterns with their labels, structures and conditions."""

    name = "simxrd_synthetic"
    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar[dict[str, str]] = {"1.0.0": "First version."}

    @functools.cached_property
    def _jobs(self) -> dict[str, Job]:
        config = self._config
        library = read_library(config.library)
        unknown = [part for part in config.patterns if part not in PARTS]
        if unknown:
            raise InputError(f"simxrd_synthetic: there is no part {unknown[0]!r}; choose from {', '.join(PARTS)}")
        parts = {p: n for p, n in config.patterns.items() if structures_in(library, config.split, p).size}
        if not parts:
            raise InputError(f"simxrd_synthetic: {config.split} of {config.library} has no structure in the parts asked for")
        return {
            part: make_job(
                library, Request(config.preset, per_structure=count, seed=config.seed, split=config.split, part=part)
            )
            for part, count in parts.items()
        }

    @property
    def _config(self) -> SyntheticConfig:
        config = self.builder_config
        if not isinstance(config, SyntheticConfig) or not config.library:
            raise InputError(
                'simxrd_synthetic: no library is named; give config=SyntheticConfig(name=..., library="structures.simxrd")'
            )
        return config

    def jobs(self) -> Mapping[str, Job]:
        """The patterns of each part."""
        return self._jobs

    def description(self) -> Description:
        """What is simulated."""
        first, config = next(iter(self._jobs.values())), self._config
        about, library = first.about, read_library(config.library)
        axis = about["two_theta"]
        return Description(
            name="simxrd_synthetic",
            title=f"Simulated powder patterns: {library.meta.name}, {config.preset}",
            summary=(
                f"Powder X-ray diffraction patterns of {len(library):,} structures, simulated with simxrd_jax: "
                f"{axis['points']} points from {axis['start']:g} to {axis['stop']:g} deg 2theta, "
                f"{about['radiation']['name']}, under the preset {config.preset} "
                f"({about['preset_meaning']}), with labels, structure and conditions of each."
            ),
            features=first.features,
            facts={
                "structures": f"{library.meta.name} of {', '.join(library.meta.sources)}, {library.meta.fingerprint}",
                "labels": f"spglib at {library.meta.symprec:g} A",
                "split": f"{config.split}: {library.split_meta[config.split]['rule']}",
                "patterns of each structure": ", ".join(f"{part} {n}" for part, n in config.patterns.items()),
                "seed": str(config.seed),
            },
            licence="see the licence of the library's structures",
            citation="the repository of simxrd_jax with its version, and the sources of the structures",
            url="",
            version=str(self.VERSION),
            notes=(
                "Each pattern can be simulated again from its structure and `key_data`.",
                "Simulated patterns are cleaner than measured ones: see docs/physics.md for what is not modelled.",
            ),
        )
