"""Host and device. Batches simulated on the fly: structures from a library, conditions from a preset, one pure function.

    stream = make_stream(read_library("mp.simxrd"), get_preset("laboratory"), batch=256)
    batch = stream.batch(key, step)

A `Stream` is a pytree: hand it to a jitted training step as an argument (closed over, the library would be compiled into the
program). Sample i of step n draws everything, its structure too, from fold_in(fold_in(key, n), i): neither the device nor
the chunk nor the order of work changes a draw, and a run that starts again at step n repeats it.

Inside, a batch is sorted by the number of blocks its structures take (`blocks`) and mapped in chunks of similar ones, then
put back in order.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax import lax
from jax.core import Tracer
from jaxtyping import Array as JaxArray
from jaxtyping import Float, Int, Key, UInt

from simxrd_jax.conditions import STRAIN, build, nearest
from simxrd_jax.crystal import cell
from simxrd_jax.crystal.structure import CRYSTAL_SYSTEMS
from simxrd_jax.diffraction.noise import DRAW_DTYPE, add_noise
from simxrd_jax.diffraction.peak_sum import METHODS
from simxrd_jax.diffraction.settings import Settings
from simxrd_jax.diffraction.simulate import with_background
from simxrd_jax.errors import InputError
from simxrd_jax.library.arrays import REFLECTION_BLOCK, ArrayNeeds, LibraryArrays, load_arrays
from simxrd_jax.library.blocks import PhaseOfSample, Variation, add_phase, block_counts
from simxrd_jax.library.store import Library
from simxrd_jax.library.variation import class_keeping_shortening, log_normal_factor
from simxrd_jax.presets import Distribution, Preset, get_preset, number_of_name, sample, split_key, texture_factor
from simxrd_jax.types import Array

# Patterns mapped at once: on CPU a chunk's working set then stays in cache, an accelerator wants enough to fill it.
CPU_CHUNK, ACCELERATOR_CHUNK = 8, 512
MODES = ("cached", "atoms")
SAMPLINGS = ("uniform", "balanced", "square_root")
SCALES = ("none", "maximum", "area", "square_root", "log")
LABELS = ("crystal_system", "space_group", "extinction_group")
PARTS = ("train", "validation", "test")
# A cell shortened by more takes reflections out of the window for good; a factor of e^3 hides most of the others.
MAX_CELL_VARIATION, MAX_INTENSITY_VARIATION = 0.3, 3.0
# Scale "log" is log(1 + g y)/log(1 + g) of a pattern y with its highest point 1: a peak of 1 % gets 0.35.
LOG_GAIN = 1000.0


@dataclass(frozen=True)
class Impurities:
    """Further phases of a sample, drawn from the same structures as its main phase.

    Attributes:
      count: how many at most.
      probability: of each of them to be there.
      mass_fraction: distribution of each one's mass fraction; the main phase has the rest. It gives the label even where
        that rest is less than an impurity's share.
    """

    count: int
    probability: float
    mass_fraction: Distribution


@dataclass(frozen=True)
class StreamOptions:
    """Static choices of a stream, see `make_stream`."""

    preset: Preset
    settings: Settings
    size: int
    chunk: int
    scale: str
    noise: bool
    impurities: Impurities | None
    position_rms: float
    site_biso: float
    cell_variation: float
    intensity_variation: float


@struct.dataclass
class Batch:
    """Patterns and everything behind them; the first axis is the sample.

    Attributes:
      pattern: on the stream's scale.
      intensity: the same in the simulator's own unit, noise included. [electrons^2/A^6 per deg; a mixture's per A^3 u]
      structure: index in the library of the (main) phase; `library.ids[structure]` are the names.
      labels: crystal_system (index into `CRYSTAL_SYSTEMS`), space_group (1 to 230), extinction_group, of that phase.
      conditions: name -> value. A strain is what acts on the cell: of a drawn one the part that keeps the class, unless
        orbits split. With impurities it is the drawn one, of which each phase keeps the part that keeps its own class.
      phases: structures of all phases, -1 where there is none.
      mass_fraction: of each phase.
      key_data: the sample's key; as one number (`presets.seed_of_key_data`) it is the `--seed` that makes
        `simxrd simulate` draw the same pattern.
      cell_strain: symmetric strain of the main phase's cell by the stream's `cell_variation`, before that of the conditions;
        None without such a variation.
    """

    pattern: Float[Array, "batch point"]
    intensity: Float[Array, "batch point"]
    structure: Int[Array, " batch"]
    labels: dict[str, Int[Array, " batch"]]
    conditions: dict[str, Float[Array, "batch ..."]]
    phases: Int[Array, "batch phase"]
    mass_fraction: Float[Array, "batch phase"]
    key_data: UInt[Array, "batch 2"]
    cell_strain: Float[Array, "batch 3 3"] | None = None


@struct.dataclass
class Stream:
    """An endless source of batches.

    Attributes:
      arrays: the library on the device.
      subset: structures that are sampled.
      thresholds: cumulated weights of all of them but the last, as shares of 2^32.
      options: static choices.
    """

    arrays: LibraryArrays
    subset: Int[Array, " subset"]
    thresholds: UInt[Array, " threshold"]
    options: StreamOptions = struct.field(pytree_node=False)

    def batch(self, key: Key[JaxArray, ""], step: Int[Array, ""] | int, first: Int[Array, ""] | int = 0) -> Batch:
        """The batch of a step; pure, and compiled once for each stream's options and shapes.

        Args:
          key: typed random key of the run.
          step: of the run.
          first: global index of the batch's first sample, for a process that makes a part of a greater batch.
        """
        return _batch(self, key, _word(step, "step"), _word(first, "first sample"))

    def batches(self, key: Key[JaxArray, ""], first_step: int = 0, steps: int | None = None) -> Iterator[Batch]:
        """The batches of one step after the other, for a loop that is not a jitted function; see docs/datasets.md.

        The next one is simulated while one is used. Its arrays are read without a copy by NumPy (`np.asarray`, on CPU) and by
        what takes DLPack (`torch.from_dlpack`).

        Args:
          key: typed random key of the run.
          first_step: where to begin, to go on with a run.
          steps: how many; None does not end.
        """
        counted = itertools.count(first_step) if steps is None else range(first_step, first_step + steps)
        ahead: Batch | None = None
        for step in counted:
            made = self.batch(key, step)
            if ahead is not None:
                yield ahead
            ahead = made
        if ahead is not None:
            yield ahead

    def patterns_of(self, structures: Int[Array, " batch"], key: Key[JaxArray, ""], step: Int[Array, ""] | int = 0) -> Batch:
        """The same for given structures (indices in the library) in place of drawn ones, as many as a batch holds.

        Raises:
          InputError: another number of them, or an index that the library does not have (where the values are known).
        """
        if not isinstance(structures, Tracer):
            values = np.asarray(structures)
            if values.shape != (self.options.size,):
                raise InputError(f"{values.size} structures for a batch of {self.options.size}; give as many as it holds")
            if values.dtype.kind not in "iu" or values.min() < 0 or values.max() >= self.arrays.size:
                raise InputError(f"structures are whole numbers from 0 to {self.arrays.size - 1}; correct the indices")
        keys = sample_keys(key, _word(step, "step"), 0, self.options.size)
        return self.simulate(jnp.asarray(structures, dtype=jnp.int32), keys)

    def simulate(self, structures: Int[Array, " batch"], keys: Key[JaxArray, " batch"]) -> Batch:
        """The same with a key for each sample; what is drawn depends on it and on the structure alone."""
        return _simulate_given(self, structures, keys)

    def draw(
        self, key: Key[JaxArray, ""], step: Int[Array, ""] | int, first: Int[Array, ""] | int = 0
    ) -> Int[Array, " batch"]:
        """Structures that `batch` would take, without a pattern."""
        keys = sample_keys(key, _word(step, "step"), _word(first, "first sample"), self.options.size)
        return jax.vmap(lambda k: _draw_structure(self, k))(keys)

    def of_real_crystals(self) -> Stream:
        """The same stream without `cell_variation` and `intensity_variation`."""
        options = replace(self.options, cell_variation=0.0, intensity_variation=0.0)
        return self.replace(options=options)  # pyright: ignore[reportAttributeAccessIssue]

    def reflection_slots(self, structures: Int[Array, " batch"]) -> tuple[Int[Array, ""], Int[Array, ""]]:
        """Reflections of structures, a whole number of chunks of them, and how many places the blocks hold for them."""
        needed, _ = block_counts(self.arrays, self.options.settings.split_orbits)
        ordered = jnp.sort(needed[structures]).reshape(-1, self.options.chunk)
        members = self.arrays.members
        count = members.count if self.options.settings.split_orbits and members is not None else self.arrays.count
        slots = jnp.sum(jnp.max(ordered, axis=1)) * self.options.chunk * REFLECTION_BLOCK
        return jnp.sum(count[structures]), slots


def make_stream(
    library: Library,
    preset: Preset | str,
    *,
    batch: int = 256,
    split: str | None = None,
    part: str = "train",
    sampling: str | Sequence[float] | np.ndarray = "uniform",
    classes: str = "space_group",
    mode: str = "cached",
    scale: str = "maximum",
    noise: bool = True,
    split_orbits: bool | None = None,
    impurities: Impurities | None = None,
    position_rms: float = 0.0,
    site_biso: float = 0.0,
    cell_variation: float = 0.0,
    intensity_variation: float = 0.0,
    settings: Settings | None = None,
    chunk: int | None = None,
    arrays: LibraryArrays | None = None,
    dtype: Any = None,
) -> Stream:
    """A stream of batches of a library under a preset.

    Args:
      library: from `read_library`, `build_library` or `library_of`.
      preset: conditions, or the name of a preset.
      batch: samples a batch.
      split: name of one of the library's splits; None takes all structures. The parts of "in_library" hold the same
        structures: give each part a key of its own, or its batches are the same.
      part: "train", "validation" or "test".
      sampling: "uniform" over structures, "balanced" over classes, "square_root" (a class counts as the root of its size),
        or a weight for each structure of the library.
      classes: which label "balanced" and "square_root" look at.
      mode: "cached" takes |F|^2 of the unstrained cell, with one overall B a sample; "atoms" computes it for each pattern.
      scale: "maximum" (highest point 1), "area" (1), "square_root" and "log" (of the pattern with its highest point 1), or
        "none".
      noise: False leaves the preset's noise out.
      split_orbits: whether a strain breaks the crystal class; None is the preset's choice. The label is that of the
        unstrained structure either way.
      impurities: further phases, or None.
      position_rms: random displacement of each site along the directions its symmetry allows (mode "atoms"). [A]
      site_biso: greatest random addition to each site's B (mode "atoms"). [A^2]
      cell_variation: greatest share by which each crystal's cell is shortened along a direction, at random as far as its
        crystal class allows: the pattern is of a crystal that does not exist, of the same space group. Angles change by
        shears of up to a third of it. Axes are not lengthened, and other directions by shears alone, since of the lines
        that this brings into the window only those within the preset's margins are listed.
      intensity_variation: greatest spread of the logarithm of random factors of |F|^2, one for each reflection (what is
        absent stays absent); a sample's own spread is uniform from 0 to it.
      settings: of the simulator; None is the preset's at training accuracy.
      chunk: samples mapped at once; it must divide the batch. None is CPU_CHUNK or ACCELERATOR_CHUNK.
      arrays: those of another stream of the same library, preset and mode, to share them.
      dtype: of the floating arrays; None is float32, float64 where x64 is enabled.

    Raises:
      InputError: an unknown name, arrays that are not those of this library, preset and mode, a weight vector of the wrong
        length, a part without structures, a chunk that does not divide the batch, variations without atoms, or a library
        whose reach is too short for the preset.
    """
    _check_choices(
        **{"mode": (mode, MODES), "scale": (scale, SCALES), "kind of label": (classes, LABELS), "part": (part, PARTS)}
    )
    if isinstance(preset, str):
        preset = get_preset(preset)
    dtype = _floating(dtype)
    if batch < 1:
        raise InputError(f"a batch of {batch} samples is empty; take at least 1")
    if mode == "cached" and (position_rms or site_biso):
        raise InputError('positions and displacement parameters vary only in the mode "atoms"; take mode="atoms"')
    for what, value in (("position_rms", position_rms), ("site_biso", site_biso)):
        if not (np.isfinite(value) and value >= 0):
            raise InputError(f"{what}={value} must be a number from 0")
    for what, value, most in (
        ("cell_variation", cell_variation, MAX_CELL_VARIATION),
        ("intensity_variation", intensity_variation, MAX_INTENSITY_VARIATION),
    ):
        if not 0 <= value <= most:
            raise InputError(f"{what}={value} must be from 0 to {most}")
    if impurities is not None:
        _check_impurities(impurities)
    chosen = preset.settings() if settings is None else settings
    if split_orbits is not None:
        chosen = Settings(**{**vars(chosen), "split_orbits": split_orbits})
    if chunk is None:
        chunk = _default_chunk(batch)
    if chunk < 1 or batch % chunk:
        raise InputError(f"chunks of {chunk} do not divide a batch of {batch}; choose a divisor")
    weights = _weights(library, split, part, sampling, classes)
    subset = np.flatnonzero(weights > 0)
    relative = weights[subset] / weights[subset].max()
    cumulated = np.cumsum(relative / relative.sum())
    thresholds = np.minimum(np.round(cumulated[:-1] * 2.0**32), 2**32 - 1).astype(np.uint32)
    needs = ArrayNeeds(
        library.meta.fingerprint, preset.inverse_d_bounds(), mode, chosen.split_orbits, position_rms > 0, str(dtype)
    )
    if arrays is None:
        arrays = load_arrays(library, preset, needs)
    elif arrays.needs != needs:
        raise InputError(
            "the arrays given are those of another library, preset or mode; leave them out, or give those of a like stream"
        )
    return Stream(
        arrays=arrays,
        subset=jnp.asarray(subset, dtype=jnp.int32),
        thresholds=jnp.asarray(thresholds),
        options=StreamOptions(
            preset,
            chosen,
            batch,
            chunk,
            scale,
            noise,
            impurities,
            position_rms,
            site_biso,
            cell_variation,
            intensity_variation,
        ),
    )


def _floating(dtype: Any) -> np.dtype:
    """The floating type of a stream, which must be the one that JAX computes in."""
    default = np.dtype(np.float64 if jax.config.read("jax_enable_x64") else np.float32)
    chosen = default if dtype is None else np.dtype(dtype)
    if chosen != default:
        raise InputError(f"dtype {chosen} does not go with x64 {'on' if default.itemsize == 8 else 'off'}; take {default}")
    return chosen


def _word(number: Any, what: str) -> Any:
    """A whole number that `fold_in` takes: 32 bits."""
    if isinstance(number, jax.Array | Tracer):
        return number
    if isinstance(number, bool) or not isinstance(number, int | np.integer) or not 0 <= number < 2**32:
        raise InputError(f"the {what} {number!r} must be a whole number from 0 to 4294967295")
    return jnp.asarray(np.uint32(number))


def class_names(library: Library, label: str) -> tuple[str, ...]:
    """Names of a label's codes: crystal systems, "0" to "230" for space groups, extinction groups.

    Raises:
      InputError: an unknown label.
    """
    _check_choices(label=(label, LABELS))
    if label == "crystal_system":
        return tuple(name for _, name in CRYSTAL_SYSTEMS)
    if label == "space_group":
        return tuple(str(i) for i in range(231))
    return tuple(str(name) for name in library.extinction_group_names)


def _check_choices(**given: tuple[str, Sequence[str]]) -> None:
    for what, (value, choices) in given.items():
        if value not in choices:
            raise InputError(f"there is no {what} {value!r}{nearest(str(value), dict.fromkeys(choices))}")


def _check_impurities(impurities: Impurities) -> None:
    greatest = float(impurities.mass_fraction.quantile(jnp.ones(1))[0])
    least = float(impurities.mass_fraction.quantile(jnp.zeros(1))[0])
    if impurities.count < 1 or not 0 <= impurities.probability <= 1:
        raise InputError(
            f"{impurities.count} impurities with probability {impurities.probability}; take at least one and 0 to 1"
        )
    if least < 0 or impurities.count * greatest >= 1:
        raise InputError(
            f"{impurities.count} impurities of {least:g} to {greatest:g} by mass leave no room for the main phase; "
            "take smaller mass fractions from 0"
        )


def _default_chunk(batch: int) -> int:
    wanted = CPU_CHUNK if jax.default_backend() == "cpu" else ACCELERATOR_CHUNK
    return max(divisor for divisor in range(1, min(wanted, batch) + 1) if batch % divisor == 0)


def _weights(
    library: Library, split: str | None, part: str, sampling: str | Sequence[float] | np.ndarray, classes: str
) -> np.ndarray:
    """Weight of each structure of the library, 0 outside the part."""
    size = len(library)
    inside = np.ones(size, dtype=bool)
    if split is not None:
        if split not in library.splits:
            raise InputError(f"there is no split {split!r}{nearest(split, dict.fromkeys(library.splits))}")
        # In the library every structure is in every part: parts differ by the keys they are drawn with.
        if split != "in_library":
            inside = np.asarray(library.splits[split]) == PARTS.index(part)
    if not isinstance(sampling, str):
        try:
            weights = np.asarray(sampling, dtype=np.float64)
        except (TypeError, ValueError):
            raise InputError(
                f"the weights are no numbers; give one for each structure, or one of {', '.join(SAMPLINGS)}"
            ) from None
        if weights.shape != (size,):
            shape = "x".join(str(n) for n in weights.shape) or "one"
            raise InputError(
                f"{shape} weights for the {size} structures of {library.meta.name}; give one for each, in a flat array"
            )
        if not np.all(np.isfinite(weights)) or np.any(weights < 0) or not weights.any():
            raise InputError("weights must be finite, not negative and not all 0; correct them")
        weights = np.where(inside, weights, 0.0)
    else:
        _check_choices(sampling=(sampling, SAMPLINGS))
        _, code = np.unique(_codes(library, classes), return_inverse=True)
        counts = np.bincount(code, inside)[code]
        power = {"uniform": 0.0, "square_root": 0.5, "balanced": 1.0}[sampling]
        weights = np.where(inside, np.maximum(counts, 1.0) ** -power, 0.0)
    if not weights.any():
        raise InputError(f"{library.meta.name}: the part {part} of {split or 'the library'} holds no structure with a weight")
    return weights


def _codes(library: Library, label: str) -> np.ndarray:
    return np.asarray(
        {"crystal_system": library.crystal_system, "space_group": library.space_group}.get(label, library.extinction_group)
    )


def sample_keys(
    key: Key[JaxArray, ""], step: Int[Array, ""] | int, first: Int[Array, ""] | int, size: int
) -> Key[JaxArray, " batch"]:
    """Keys fold_in(fold_in(key, step), i) of the samples i = first ... first + size - 1."""
    step_key = jax.random.fold_in(key, step)
    return jax.vmap(lambda i: jax.random.fold_in(step_key, i))(first + jnp.arange(size, dtype=jnp.uint32))


def _draw_structure(stream: Stream, key: Key[JaxArray, ""], purpose: str = "structure") -> Int[Array, ""]:
    bits = jax.random.bits(jax.random.fold_in(key, number_of_name(purpose)), (), jnp.uint32)
    return stream.subset[jnp.searchsorted(stream.thresholds, bits, side="right")]


@jax.jit
def _batch(stream: Stream, key: Key[JaxArray, ""], step: Any, first: Any) -> Batch:
    keys = sample_keys(key, step, first, stream.options.size)
    return _simulate(stream, jax.vmap(partial(_draw_structure, stream))(keys), keys)


@jax.jit
def _simulate_given(stream: Stream, structures: Any, keys: Key[JaxArray, " batch"]) -> Batch:
    return _simulate(stream, structures, keys)


def _simulate(stream: Stream, structures: Int[Array, " batch"], keys: Key[JaxArray, " batch"]) -> Batch:
    """Patterns of structures under conditions drawn with keys."""
    options = stream.options
    phases, fractions = jax.vmap(partial(_draw_phases, stream))(structures, keys)
    needed = tuple(
        v[jnp.maximum(phases, 0)] * (phases >= 0) for v in block_counts(stream.arrays, options.settings.split_orbits)
    )
    order = jnp.argsort(jnp.sum(needed[0], axis=1))
    chunks = jax.tree.map(lambda v: v[order].reshape(-1, options.chunk, *v.shape[1:]), (phases, fractions, keys, *needed))

    def chunk(parts):
        phases, fractions, keys, reflection_blocks, atom_blocks = parts
        longest = (jnp.max(reflection_blocks, axis=0), jnp.max(atom_blocks, axis=0))
        return jax.vmap(partial(_simulate_one, stream, longest))(phases, fractions, keys)

    back = jnp.argsort(order)
    made = jax.tree.map(lambda v: v.reshape(-1, *v.shape[2:])[back], lax.map(chunk, chunks))
    intensity, conditions, cell_strain = made
    return Batch(
        pattern=scaled(intensity, options.scale, options.preset.two_theta[2]),
        intensity=intensity,
        structure=structures,
        labels={name: values[structures] for name, values in stream.arrays.labels.items()},
        conditions=conditions,
        phases=phases,
        mass_fraction=fractions,
        key_data=jax.random.key_data(keys),
        cell_strain=cell_strain,
    )


def _draw_phases(
    stream: Stream, structure: Int[Array, ""], key: Key[JaxArray, ""]
) -> tuple[Int[Array, " phase"], Float[Array, " phase"]]:
    """Structures of the phases, -1 where an impurity is absent, and their mass fractions."""
    impurities = stream.options.impurities
    if impurities is None:
        return structure[None], jnp.ones(1, dtype=DRAW_DTYPE)
    others, fractions = [], []
    for i in range(impurities.count):
        other_key = jax.random.fold_in(jax.random.fold_in(key, number_of_name("impurity")), i)
        present, amount = jax.random.uniform(other_key, (2,), DRAW_DTYPE)
        is_there = present < impurities.probability
        others.append(jnp.where(is_there, _draw_structure(stream, other_key), -1))
        fractions.append(jnp.where(is_there, impurities.mass_fraction.quantile(amount[None])[0], 0.0))
    fraction = jnp.stack(fractions)
    return jnp.stack([structure, *others]), jnp.concatenate([1.0 - jnp.sum(fraction)[None], fraction])


def _simulate_one(
    stream: Stream,
    longest: tuple[Int[Array, " phase"], Int[Array, " phase"]],
    phases: Int[Array, " phase"],
    fractions: Float[Array, " phase"],
    key: Key[JaxArray, ""],
) -> tuple[Float[Array, " point"], dict[str, Float[Array, "..."]], Float[Array, "3 3"] | None]:
    """One sample: its pattern, its conditions, and the strain of the main phase's cell by `cell_variation`."""
    options, arrays = stream.options, stream.arrays
    grid, settings = options.preset.grid(), options.settings
    condition_key, noise_key = split_key(key)
    values = sample(options.preset, key=condition_key)
    varied = [_varied_cell(stream, jnp.maximum(phases[i], 0), i, key) for i in range(phases.shape[0])]
    if options.impurities is None and not settings.split_orbits:
        values = _with_acting_strain(values, varied[0][0], arrays.rotations[arrays.laue[phases[0]]])
    specimen, instrument, background, noise = build(values, options.preset.radiation)
    method = METHODS[settings.peak_sum]
    total = method.start(specimen, instrument, grid, settings, arrays.lattice.dtype)
    for i in range(phases.shape[0]):
        structure = jnp.maximum(phases[i], 0)
        rotations = None if settings.split_orbits else arrays.rotations[arrays.laue[structure]]
        deformed = cell.deformed_cell(varied[i][0], specimen, rotations)
        own = specimen
        if phases.shape[0] > 1:
            share = fractions[i] * deformed.volume / arrays.cell_mass[structure]
            own = specimen.replace(scale=specimen.scale * share)  # pyright: ignore[reportAttributeAccessIssue]
        total = add_phase(
            total,
            arrays,
            PhaseOfSample(structure, deformed, rotations, longest[0][i], longest[1][i]),
            own,
            instrument,
            grid,
            settings,
            partial(_reflection_factor, options, values, i, key),
            _variation(options, key, i),
        )
    peaks = method.finish(total, specimen, instrument, grid, settings)
    intensity = with_background(peaks, grid, background).intensity
    if options.noise:
        intensity = add_noise(jnp.asarray(intensity), noise, key=noise_key)
    return intensity, values, varied[0][1]


def _varied_cell(
    stream: Stream, structure: Int[Array, ""], phase: int, key: Key[JaxArray, ""]
) -> tuple[Float[Array, "3 3"], Float[Array, "3 3"] | None]:
    """Rows a, b, c of a phase, and the class-keeping strain that the stream's `cell_variation` brought into them."""
    arrays, most = stream.arrays, stream.options.cell_variation
    lattice = arrays.lattice[structure]
    if not most:
        return lattice, None
    rotations = arrays.rotations[arrays.laue[structure]]
    acting = class_keeping_shortening(lattice, rotations, most, key=_phase_key(key, "cell_variation", phase))
    return lattice + jnp.matmul(lattice, acting, precision=lax.Precision.HIGHEST), acting


def _reflection_factor(
    options: StreamOptions, values: Mapping[str, Any], phase: int, key: Key[JaxArray, ""], place: Int[Array, " hkl"]
) -> Float[Array, " hkl"] | None:
    """Factors of reflections by their places in the structure's list: texture, and the stream's `intensity_variation`."""
    texture = texture_factor(values, place, phase=phase, key=split_key(key)[0])
    if not options.intensity_variation:
        return texture
    factor = log_normal_factor(place, options.intensity_variation, key=_phase_key(key, "intensity_variation", phase))
    return factor if texture is None else texture * factor


def _phase_key(key: Key[JaxArray, ""], purpose: str, phase: int) -> Key[JaxArray, ""]:
    return jax.random.fold_in(jax.random.fold_in(key, number_of_name(purpose)), phase)


def _variation(options: StreamOptions, key: Key[JaxArray, ""], phase: int) -> Variation | None:
    if not (options.position_rms or options.site_biso):
        return None
    return Variation(_phase_key(key, "variation", phase), options.position_rms, options.site_biso)


def _with_acting_strain(
    values: Mapping[str, Any], lattice: Float[Array, "3 3"], rotations: Int[Array, "24 3 3"]
) -> dict[str, Float[Array, "..."]]:
    """Conditions whose strain is what is left of it after the average over the Laue group."""
    if not any(name in values for name in STRAIN):
        return dict(values)
    drawn = jnp.stack([jnp.asarray(values.get(name, 0.0), dtype=DRAW_DTYPE) for name in STRAIN]).reshape(3, 3)
    acting = cell.class_keeping_strain(lattice, drawn.astype(lattice.dtype), rotations)
    return {**values, **{name: acting.ravel()[i] for i, name in enumerate(STRAIN)}}


def scaled(intensity: Float[Array, "*batch point"], scale: str, step: float) -> Float[Array, "*batch point"]:
    """Patterns on the scale a network is given; counts below 0 (noise) are 0 under a root or a logarithm.

    Args:
      intensity: patterns.
      scale: "none", "maximum", "area", "square_root" or "log".
      step: of the grid, for the area. [deg]
    """
    if scale == "none":
        return intensity
    if scale == "area":
        total = step * jnp.sum(intensity, axis=-1, keepdims=True)
        return intensity / jnp.where(total > 0, total, 1.0)
    highest = jnp.max(intensity, axis=-1, keepdims=True)
    unit = intensity / jnp.where(highest > 0, highest, 1.0)
    if scale == "maximum":
        return unit
    unit = jnp.maximum(unit, 0.0)
    return jnp.sqrt(unit) if scale == "square_root" else jnp.log1p(LOG_GAIN * unit) / np.log1p(LOG_GAIN)
