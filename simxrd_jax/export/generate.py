"""Host and device. The patterns of a library under a preset as a set that can be written: see `writer.Job`.

Record i of a set of n drawn patterns is sample i of step 0 of the stream. With a number of patterns of each structure, record
i is pattern i // structures of structure i % structures: a set of more patterns of each begins with that of fewer, and one
read in order shows all structures before it shows one again. Its key follows from its structure and number.

With several devices each simulates a whole batch, by the program of a single one: the bits are the same however many there
are. (One program over a mesh of them, as training has, is compiled otherwise, and the last bits differ.)
"""

from __future__ import annotations

import collections
import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from simxrd_jax.conditions import STRAIN, check_conditions
from simxrd_jax.crystal.structure import CRYSTAL_SYSTEMS
from simxrd_jax.errors import InputError
from simxrd_jax.export.features import CONDITION_PREFIX, Columns, Feature, condition_feature
from simxrd_jax.export.writer import Block, Job
from simxrd_jax.library.store import Library
from simxrd_jax.library.stream import Batch, Impurities, Stream, make_stream
from simxrd_jax.presets import Preset, get_preset, key_of_seed
from simxrd_jax.train.state import INPUT_MAXIMUM, copy_keys, part_key

DATASET = "simxrd_synthetic"
SHARD_SIZE = 4096  # 58 MB of 3,501 points
# Patterns simulated at once: the next ones wait in memory, an accelerator wants more of them.
CPU_BATCH, ACCELERATOR_BATCH = 256, 2048
MAX_RECORDS = 2**32  # what a key can be folded with


@dataclass(frozen=True)
class Request:
    """What to generate.

    Attributes:
      preset: conditions, or the name of a preset.
      count: patterns of drawn structures; None if `per_structure` is given.
      per_structure: patterns of each structure.
      seed: of structures, conditions and noise, 0 to 2^64 - 1.
      split, part: of the library; no split means every structure.
      sampling: over structures, see `make_stream`; with `count`.
      values: conditions in place of the preset's.
      impurities: further phases, or None.
      shard_size: records of a file.
      recipe: name of the recipe behind this, "" without one.
    """

    preset: Preset | str
    count: int | None = None
    per_structure: int | None = None
    seed: int = 0
    split: str | None = None
    part: str = "train"
    sampling: str = "uniform"
    values: Mapping[str, Any] = field(default_factory=dict)
    impurities: Impurities | None = None
    shard_size: int = SHARD_SIZE
    recipe: str = ""


def make_job(library: Library, request: Request, *, shard_size: int | None = None) -> Job:
    """The set that a request asks for.

    Args:
      library: the structures.
      request: what of them.
      shard_size: in place of the request's, for a format that wants its own.

    Raises:
      InputError: neither or both counts, a number out of range, an unknown name, or what `make_stream` refuses.
    """
    if (request.count is None) == (request.per_structure is None):
        raise InputError("say either how many patterns there shall be (-n) or how many of each structure (--per-structure)")
    for what, value in (("count", request.count), ("number per structure", request.per_structure)):
        if value is not None and value < 1:
            raise InputError(f"the {what} {value} must be at least 1; give a larger one")
    if request.shard_size < 1:
        raise InputError(f"a shard size of {request.shard_size} must be at least 1; give a larger one")
    if not 0 <= request.seed < 2**64:
        raise InputError(f"the seed {request.seed} must be from 0 to {2**64 - 1}; choose another")
    if request.per_structure is not None and request.sampling != "uniform":
        raise InputError("a number of patterns of each structure leaves nothing to sample; leave --sampling out or give -n")
    size = request.shard_size if shard_size is None else shard_size
    preset = with_values(get_preset(request.preset) if isinstance(request.preset, str) else request.preset, request.values)
    stream = make_stream(
        library,
        preset,
        batch=_batch_size(size),
        split=request.split,
        part=request.part,
        sampling=request.sampling,
        impurities=request.impurities,
    )
    places = request.count or (request.per_structure or 0) * stream.subset.size
    if places > MAX_RECORDS:
        raise InputError(f"{places:,} patterns are more than {MAX_RECORDS:,}; give each part of them a seed of its own")
    maker = _Maker(library, stream, request)
    return Job(
        name=DATASET,
        part=request.part,
        places=places,
        shard_size=size,
        features=features_of(stream, library),
        config=_config(library, preset, request, stream, size),
        about=about(library, preset, request),
        blocks=maker.blocks,
    )


def with_values(preset: Preset, values: Mapping[str, Any]) -> Preset:
    """A preset with some conditions fixed.

    Raises:
      InputError: an unknown condition or a value out of range.
    """
    from simxrd_jax.commands.specimen import widened

    return widened(preset, check_conditions(values, "--set")) if values else preset


def _batch_size(shard_size: int) -> int:
    """Patterns simulated at once: no more than a shard takes, in whole chunks."""
    from simxrd_jax.library.stream import CPU_CHUNK

    largest = CPU_BATCH if jax.default_backend() == "cpu" else ACCELERATOR_BATCH
    return min(largest, -(-shard_size // CPU_CHUNK) * CPU_CHUNK)


def features_of(stream: Stream, library: Library) -> tuple[Feature, ...]:
    """Features of the records that a stream makes: the pattern, labels, structure, key, conditions that vary."""
    points = stream.options.preset.grid().size
    systems = tuple(name for _, name in CRYSTAL_SYSTEMS)
    groups = library.extinction_group_names
    return (
        Feature("intensity", "float32", "pattern, highest point 100", shape=(points,)),
        Feature("space_group", "int32", "number of the space group, 1 to 230"),
        Feature("crystal_system", "int32", "code of the crystal system", classes=systems),
        Feature("extinction_group", "int32", "code of the extinction group", classes=groups),
        Feature("structure", "int32", "place of the structure in the library"),
        Feature("structure_id", "str", "identifier of the structure"),
        Feature(
            "key_data", "uint32", "the sample's random key; high word first it is a seed of `simxrd simulate`", shape=(2,)
        ),
        *(condition_feature(name) for name in _varying(stream)),
        *_phase_features(stream.options.impurities),
    )


def _varying(stream: Stream) -> list[str]:
    """Conditions that differ between samples: those drawn, and the strain that is left of any by the symmetry."""
    preset, options = stream.options.preset, stream.options
    names = set(preset.drawn)
    if options.impurities is None and not options.settings.split_orbits and names.union(preset.fixed).intersection(STRAIN):
        names |= set(STRAIN)
    return sorted(names)


def _phase_features(impurities: Impurities | None) -> tuple[Feature, ...]:
    if impurities is None:
        return ()
    shape = (impurities.count + 1,)
    return (
        Feature(
            "phases", "int32", "places of all phases in the library, the main one first; -1 where there is none", "", shape
        ),
        Feature("mass_fraction", "float32", "mass fraction of each phase", "", shape),
    )


def about(library: Library, preset: Preset, request: Request) -> dict[str, Any]:
    """What a reader of the records should know besides their features."""
    start, stop, step = preset.two_theta
    return {
        "two_theta": {"start": start, "stop": stop, "step": step, "points": preset.grid().size, "unit": "deg"},
        "radiation": dataclasses.asdict(preset.radiation),
        "wavelength": {"value": preset.radiation.mean_wavelength, "unit": "A"},
        "fixed_conditions": dict(preset.fixed),
        "preset_meaning": preset.meaning,
        "library": {"name": library.meta.name, "structures": len(library), "sources": list(library.meta.sources)},
        "symprec": library.meta.symprec,
        "recipe": request.recipe,
    }


def _config(library: Library, preset: Preset, request: Request, stream: Stream, shard_size: int) -> dict[str, Any]:
    """All that decides the records."""
    distributions = {
        name: {"kind": type(d).__name__, **dataclasses.asdict(d)}  # pyright: ignore[reportArgumentType]
        for name, d in preset.drawn.items()
    }
    return {
        "library": library.meta.fingerprint,
        "preset": {**dataclasses.asdict(dataclasses.replace(preset, drawn={})), "drawn": distributions},
        "count": request.count,
        "per_structure": request.per_structure,
        "seed": request.seed,
        "split": request.split,
        "part": request.part,
        "sampling": request.sampling,
        "impurities": None if request.impurities is None else dataclasses.asdict(request.impurities),
        "shard_size": shard_size,
        "batch": stream.options.size,
        "chunk": stream.options.chunk,
        "settings": {name: str(value) for name, value in vars(stream.options.settings).items()},
    }


class _Maker:
    """Makes the records of a set from one place to another."""

    def __init__(self, library: Library, stream: Stream, request: Request) -> None:
        key = key_of_seed(request.seed)
        # Parts of "in_library" share their structures: with a key of its own each has other patterns.
        self._key = part_key(key, f"{request.split} {request.part}") if request.split else key
        self._streams = [jax.device_put(stream, device) for device in jax.local_devices()]
        self._ids, self._size, self._request = library.ids, stream.options.size, request
        self._features = features_of(stream, library)
        self._subset = np.asarray(stream.subset)

    def blocks(self, ranges: Sequence[tuple[int, int]]) -> Iterator[Block]:
        """Records in batches, one after the other on each device; the next ones are simulated while one is taken."""
        ahead: collections.deque[tuple[Batch, int]] = collections.deque()
        devices = itertools.cycle(self._streams)
        for first, last in ((first, stop) for start, stop in ranges for first in range(start, stop, self._size)):
            ahead.append((self._batch(next(devices), first), min(self._size, last - first)))
            if len(ahead) > len(self._streams):
                yield Block(self._columns(*ahead.popleft()))
        for made in ahead:
            yield Block(self._columns(*made))

    def _batch(self, stream: Stream, first: int) -> Batch:
        """The batch that begins with a record, as arrays that are still being computed where the stream is."""
        if self._request.per_structure is None:
            return stream.batch(self._key, 0, first)
        places = np.minimum(first + np.arange(self._size), MAX_RECORDS - 1)
        copies, rows = np.divmod(places, len(self._subset))
        structures = jnp.asarray(self._subset[rows], jnp.int32)
        return stream.simulate(structures, _copy_keys(self._key, structures, jnp.asarray(copies, jnp.uint32)))

    def _columns(self, batch: Batch, count: int) -> Columns:
        """The first records of a batch."""
        structure = np.asarray(batch.structure)[:count]
        columns: dict[str, Any] = {
            "intensity": np.asarray(batch.pattern)[:count] * np.float32(INPUT_MAXIMUM),
            **{name: np.asarray(values)[:count] for name, values in batch.labels.items()},
            "structure": structure,
            "structure_id": self._ids[structure],
            "key_data": np.asarray(batch.key_data)[:count],
        }
        for feature in self._features:
            if feature.name.startswith(CONDITION_PREFIX):
                values = batch.conditions[feature.name.removeprefix(CONDITION_PREFIX)]
                columns[feature.name] = np.asarray(values)[:count]
            elif feature.name in ("phases", "mass_fraction"):
                columns[feature.name] = np.asarray(getattr(batch, feature.name))[:count]
        return columns


_copy_keys = jax.jit(copy_keys)
