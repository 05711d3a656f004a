"""Host and device. The state of a run, one step of it, and how both lie on several devices.

A step is one jitted function of (state, totals, stream): it draws structures and conditions, simulates, runs the network
forward and backward and moves the parameters. Everything random comes from fold_in(key, step), so that a run that starts
again at a step repeats it bit for bit; nothing is transferred.

On several devices each simulates its own part of the global batch (`shard_map`: samples keep their global indices, and with
them their keys), and the network's part is one program over the sharded batch, so that statistics over the batch are those
of the whole of it. The devices of several processes (`hosts.join`) are one mesh; each process holds the whole state.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
from flax import nnx, struct
from jax.sharding import Mesh, NamedSharding, SingleDeviceSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Float, Int, Key

from simxrd_jax.conditions import nearest
from simxrd_jax.errors import InputError
from simxrd_jax.library.stream import Batch, Stream, sample_keys
from simxrd_jax.presets import number_of_name
from simxrd_jax.train.config import Optimizer, TrainConfig
from simxrd_jax.train.targets import truth
from simxrd_jax.types import Array

INPUT_MAXIMUM = 100.0  # the highest point of a pattern that a network is given, as in the published data
OPTIMIZERS = ("adam", "adamw", "muon")
MUON_RMS = 0.2  # of Muon's step at rate 1, about that of Adam's: AdamW's rates and weight decays serve (Liu et al. 2025)
# Smaller side of the largest matrix that Muon moves. An orthogonal step of m x n takes 20 m^2 n operations or more: 1.4e12 for
# the 2,300 x 12,160 of CNN11, far more than all else of a step with 16 patterns.
MUON_SIDE = 1024
AVERAGE_WARMUP = 10  # steps after which the average forgets the first parameters: its decay is at most (1 + n)/(10 + n)
BATCH_AXIS = "batch"

Losses = Mapping[str, Callable[[Any, Any], Any]]


@struct.dataclass
class Network:
    """What evaluation needs of a network.

    Attributes:
      parameters: tree of weights.
      statistics: what else the network holds: running statistics and constants.
      average: moving average of the parameters, or None.
    """

    parameters: Any
    statistics: Any
    average: Any

    @property
    def evaluated(self) -> Any:
        """The parameters that evaluation uses."""
        return self.parameters if self.average is None else self.average


@struct.dataclass
class TrainState:
    """A run between two steps.

    Attributes:
      step: steps done.
      network: see there.
      moments: state of the optimiser.
    """

    step: Int[Array, ""]
    network: Network
    moments: Any


@struct.dataclass
class Totals:
    """Sums since the last line of the log.

    Attributes:
      loss: of the steps' mean losses.
      hits: right answers of the first target with classes.
      samples, steps: how many.
    """

    loss: Float[Array, ""]
    hits: Int[Array, ""]
    samples: Int[Array, ""]
    steps: Int[Array, ""]


def no_totals() -> Totals:
    """Sums of nothing."""
    # Arrays of their own, since the step is given them away.
    return Totals(jnp.zeros(()), *(jnp.zeros((), jnp.int32) for _ in range(3)))


def make_optimizer(config: Optimizer, steps: int) -> tuple[optax.GradientTransformation, optax.Schedule]:
    """The optimiser of a run of so many steps, and its learning rate.

    Raises:
      InputError: an unknown name or schedule, or a number out of its range.
    """
    if config.name not in OPTIMIZERS:
        raise InputError(f"there is no optimizer {config.name!r}{nearest(config.name, dict.fromkeys(OPTIMIZERS))}")
    if config.schedule not in ("constant", "cosine"):
        raise InputError(f"there is no schedule {config.schedule!r}; choose from constant, cosine")
    if not 0 < config.learning_rate < 10:
        raise InputError(f"optimizer.learning_rate={config.learning_rate:g} must be between 0 and 10")
    if not 0 <= config.warmup_steps <= steps:
        raise InputError(f"optimizer.warmup_steps={config.warmup_steps} must be from 0 to the {steps} steps of the run")
    is_sound = all(math.isfinite(v) and v >= 0 for v in (config.clip_norm, config.weight_decay))
    if not is_sound or not 0 <= config.average_decay < 1:
        raise InputError("optimizer: clip_norm and weight_decay must be at least 0, average_decay from 0 to below 1")
    if config.name == "adam" and config.weight_decay:
        raise InputError("optimizer.weight_decay is of adamw and muon; set optimizer.name to one of them too")
    rise = optax.linear_schedule(0.0, config.learning_rate, max(config.warmup_steps, 1))
    left = max(steps - config.warmup_steps, 1)
    main = optax.cosine_decay_schedule(config.learning_rate, left)
    if config.schedule == "constant":
        main = optax.constant_schedule(config.learning_rate)
    schedule = optax.join_schedules([rise, main], [config.warmup_steps]) if config.warmup_steps else main
    parts = [optax.clip_by_global_norm(config.clip_norm)] if config.clip_norm else []
    if config.name == "adam":
        parts.append(optax.adam(schedule))
    else:
        # Biases, scales and other vectors do not decay, as usual.
        mask = partial(jax.tree.map, lambda v: v.ndim > 1)
        adamw = optax.adamw(schedule, weight_decay=config.weight_decay, mask=mask)
        parts.append(adamw if config.name == "adamw" else _muon(schedule, config.weight_decay, adamw))
    return optax.chain(*parts), schedule


def _muon(schedule: optax.Schedule, weight_decay: float, others: optax.GradientTransformation) -> optax.GradientTransformation:
    """Muon for kernels, as matrices of all axes but the last against the last; `others` for vectors and large matrices."""

    def kind(value: Any) -> str:
        is_small = value.ndim > 1 and min(math.prod(value.shape[:-1]), value.shape[-1]) <= MUON_SIDE
        return "muon" if is_small else "others"

    def axes(value: Any) -> optax.contrib.MuonDimensionNumbers:
        return optax.contrib.MuonDimensionNumbers(tuple(range(value.ndim - 1)), value.ndim - 1)

    muon = optax.contrib.muon(
        schedule,
        weight_decay=weight_decay,
        muon_weight_dimension_numbers=partial(jax.tree.map, axes),
        consistent_rms=MUON_RMS,
    )
    return optax.partition({"muon": muon, "others": others}, partial(jax.tree.map, kind))


def split_network(model: nnx.Module, average: bool) -> tuple[Any, Network]:
    """The static definition of a network and its arrays as plain trees."""
    definition, parameters, statistics = nnx.split(model, nnx.Param, ...)
    parameters, statistics = nnx.to_pure_dict(parameters), nnx.to_pure_dict(statistics)
    return definition, Network(parameters, statistics, jax.tree.map(jnp.copy, parameters) if average else None)


def run_keys(seed: int) -> tuple[Key[Array, ""], Key[Array, ""]]:
    """Keys of the patterns and of dropout of a run."""
    root = jax.random.key(seed)
    patterns, dropout = (jax.random.fold_in(root, number_of_name(name)) for name in ("patterns", "dropout"))
    return patterns, dropout


def part_key(key: Key[Array, ""], part: str) -> Key[Array, ""]:
    """Key of the patterns of a part, so that parts that share structures share no pattern."""
    return jax.random.fold_in(key, number_of_name(part))


def copy_keys(key: Key[Array, ""], structures: Int[Array, " batch"], copies: Int[Array, " batch"]) -> Key[Array, " batch"]:
    """Keys of fixed patterns: the n-th one of a structure is the same whenever it is asked for."""
    return jax.vmap(lambda s, n: jax.random.fold_in(jax.random.fold_in(key, s), n))(structures, copies)


def draw_batch(stream: Stream, key: Key[Array, ""], step: Int[Array, ""], first: Int[Array, ""] | int, copies: int) -> Batch:
    """The batch of a step: fresh patterns, or one of `copies` fixed ones of each drawn structure."""
    if not copies:
        return stream.batch(key, step, first)
    keys = sample_keys(key, step, jnp.asarray(first, jnp.uint32), stream.options.size)
    chosen = jax.vmap(lambda k: jax.random.randint(jax.random.fold_in(k, number_of_name("copy")), (), 0, copies))(keys)
    structures = stream.draw(key, step, first)
    return stream.simulate(structures, copy_keys(key, structures, chosen))


def draw_on(mesh: Mesh, stream: Stream, key: Key[Array, ""], step: Int[Array, ""], copies: int) -> Batch:
    """The global batch, each device's part simulated there; the stream's batch is the part of one device."""
    if mesh.size == 1:
        return draw_batch(stream, key, step, 0, copies)

    def own(stream: Stream, key: Any, step: Any) -> Batch:
        first = jax.lax.axis_index(BATCH_AXIS) * stream.options.size
        return draw_batch(stream, key, step, first.astype(jnp.uint32), copies)

    return jax.shard_map(own, mesh=mesh, in_specs=P(), out_specs=P(BATCH_AXIS), check_vma=False)(stream, key, step)


def network_input(batch: Batch) -> Float[Array, "batch point"]:
    """Patterns as the networks take them: highest point 100."""
    return INPUT_MAXIMUM * batch.pattern


def answers(definition: Any, parameters: Any, statistics: Any, x: Any, targets: tuple[str, ...], dropout: Any) -> Any:
    """Outputs of each head, and the statistics after the call."""
    model = nnx.merge(definition, parameters, statistics)
    made = model(x, dropout=dropout)
    _, _, after = nnx.split(model, nnx.Param, ...)
    return made if isinstance(made, dict) else {targets[0]: made}, nnx.to_pure_dict(after)


def make_step(
    definition: Any, optimizer: optax.GradientTransformation, losses: Losses, config: TrainConfig, mesh: Mesh
) -> Callable[[TrainState, Totals, Stream], tuple[TrainState, Totals]]:
    """The jitted step of a run; state and totals are donated.

    Args:
      definition: of the network.
      optimizer: from `make_optimizer`.
      losses: target -> function of (outputs, truth) that returns the loss of each sample.
      config: of the run.
      mesh: devices over which the batch is spread.
    """
    pattern_key, dropout_key = run_keys(config.seed)
    pattern_key = part_key(pattern_key, "train")
    decay = config.optimizer.average_decay
    counted = next((t for t in config.targets if t != "lattice"), None)

    @partial(jax.jit, donate_argnums=(0, 1))
    def step(state: TrainState, totals: Totals, stream: Stream) -> tuple[TrainState, Totals]:
        batch = draw_on(mesh, stream, pattern_key, state.step, config.data.copies)
        x, wanted = network_input(batch), truth(stream, batch, config.targets)
        network = state.network

        def loss_of(parameters):
            dropout = jax.random.fold_in(dropout_key, state.step)
            made, statistics = answers(definition, parameters, network.statistics, x, config.targets, dropout)
            return sum(jnp.mean(losses[t](made[t], wanted[t])) for t in config.targets), (made, statistics)

        (loss, (made, statistics)), gradient = jax.value_and_grad(loss_of, has_aux=True)(network.parameters)
        change, moments = optimizer.update(gradient, state.moments, network.parameters)
        parameters = optax.apply_updates(network.parameters, change)
        average = network.average
        if average is not None:
            share = 1 - jnp.minimum(decay, (1 + state.step) / (AVERAGE_WARMUP + state.step))
            average = optax.incremental_update(parameters, average, share)
        hits = 0 if counted is None else jnp.sum(jnp.argmax(made[counted], axis=-1) == wanted[counted])
        totals = Totals(totals.loss + loss, totals.hits + hits, totals.samples + x.shape[0], totals.steps + 1)
        return TrainState(state.step + 1, Network(parameters, statistics, average), moments), totals

    return step


def make_mesh(batch: int, devices: list[Any] | None = None) -> Mesh:
    """All devices of all hosts in a row, or as many of each host as divide the batch.

    Raises:
      InputError: an empty batch, or one that the hosts do not divide.
    """
    if batch < 1:
        raise InputError(f"a batch of {batch} patterns is empty; take at least 1")
    of_host: dict[int, list[Any]] = {}
    for device in jax.devices() if devices is None else devices:
        of_host.setdefault(device.process_index, []).append(device)
    hosts, least = len(of_host), min(map(len, of_host.values()))
    if batch % hosts:
        raise InputError(f"batch={batch} is no multiple of the {hosts} hosts; set one that is")
    count = max(n for n in range(1, least + 1) if batch % (n * hosts) == 0)
    return Mesh([device for index in sorted(of_host) for device in of_host[index][:count]], (BATCH_AXIS,))


def replicated(tree: Any, mesh: Mesh) -> Any:
    """The same arrays on every device of a mesh; every process gives the same ones."""
    if mesh.size == 1:
        return jax.device_put(tree, mesh.devices.flat[0])
    placement = NamedSharding(mesh, P())
    if jax.process_count() == 1:
        return jax.device_put(tree, placement)

    def place(value: Any) -> Any:
        own = np.asarray(value)
        return jax.make_array_from_callback(own.shape, placement, lambda index: own[index])

    return jax.tree.map(place, tree)


def abstract(tree: Any) -> Any:
    """Shapes and types of arrays, which outlive them, to be placed on one device of this process."""
    here = SingleDeviceSharding(jax.local_devices()[0])
    return jax.tree.map(lambda v: jax.ShapeDtypeStruct(v.shape, v.dtype, sharding=here), tree)
