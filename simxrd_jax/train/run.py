"""Host zone. The parts of a run, made from its config: library, stream, network, optimiser, losses."""

from __future__ import annotations

import json
import math
import pathlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh

from simxrd_jax.conditions import nearest
from simxrd_jax.errors import InputError
from simxrd_jax.library.store import Library, read_library
from simxrd_jax.library.stream import LABELS, Impurities, Stream, make_stream
from simxrd_jax.models import MODELS, create_model
from simxrd_jax.models.classifier import FIRST, POINTS, STEP
from simxrd_jax.presets import PRESETS, Uniform, get_preset
from simxrd_jax.train.checkpoints import FOLDER, Checkpoints
from simxrd_jax.train.config import Data, TrainConfig, checked, fields_of, from_dict
from simxrd_jax.train.losses import make_loss
from simxrd_jax.train.state import Network, TrainState, abstract, make_mesh, make_optimizer, replicated, split_network
from simxrd_jax.train.targets import LATTICE, SPACE_GROUPS, TARGETS, counts_in, names_of, structures_in

CONFIG, RESULTS = "config.json", "results.json"
PRECISIONS = {"float32": None, "bfloat16": jnp.bfloat16}
LATTICE_WEIGHT = 1.0  # of the mean Huber loss of the lattice's six numbers beside the cross-entropies
MANY_HEADED = "powdernet"  # the one network with a head for each target
REPOSITORY = pathlib.Path(__file__).parents[2]


@dataclass(frozen=True, eq=False)
class Run:
    """A run before its first step.

    Attributes:
      config: of the run.
      library: of its structures.
      stream: of training batches, each device's part.
      classes: target -> names of its classes.
      train_counts: target -> training structures of each class.
      definition: of the network.
      state: at step 0.
      optimizer, schedule: of the parameters.
      losses: target -> loss of each sample.
      mesh: devices.
    """

    config: TrainConfig
    library: Library
    stream: Stream
    classes: dict[str, tuple[str, ...]]
    train_counts: dict[str, np.ndarray]
    definition: Any
    state: TrainState
    optimizer: optax.GradientTransformation
    schedule: optax.Schedule
    losses: dict[str, Any]
    mesh: Mesh

    @property
    def losses_in_order(self) -> tuple[Any, ...]:
        """The losses in the order of the targets."""
        return tuple(self.losses[target] for target in self.config.targets)

    @property
    def parameter_count(self) -> int:
        """Numbers that training moves."""
        return sum(math.prod(v.shape) for v in jax.tree.leaves(self.state.network.parameters))


def open_library(path: str) -> Library:
    """A library by its path, from the working folder or from the repository's root."""
    given = pathlib.Path(path)
    beside = REPOSITORY / given
    return read_library(beside if not given.exists() and beside.exists() else given)


def set_up(config: TrainConfig, library: Library, train_counts: Mapping[str, Any] | None = None) -> Run:
    """Everything a run needs before its first step.

    Args:
      config: of the run.
      library: of its structures.
      train_counts: target -> training structures of each class, where the network was trained on another library.

    Raises:
      InputError: a value of the config of the wrong type, or one that does not go with the library or with the others.
    """
    config = checked(config)
    _check(config)
    _check_grid(config.data.preset)
    mesh = make_mesh(config.batch)
    stream = training_stream(config, library, config.batch // mesh.size)
    train = structures_in(library, config.data.split, "train")
    classes = {t: names_of(library, t) for t in config.targets if t != LATTICE}
    counts = {t: counts_in(library, t, train) if train_counts is None else np.asarray(train_counts[t]) for t in classes}
    definition, network = split_network(new_model(config, classes), config.optimizer.average_decay > 0)
    optimizer, schedule = make_optimizer(config.optimizer, config.steps)
    state = TrainState(jnp.zeros((), jnp.int32), network, optimizer.init(network.parameters))
    losses: dict[str, Any] = {t: make_loss(config.loss, c) for t, c in counts.items()}
    if LATTICE in config.targets:
        losses[LATTICE] = _lattice_loss
    return Run(
        config=config,
        library=library,
        stream=stream,
        classes=classes,
        train_counts=counts,
        definition=definition,
        state=replicated(state, mesh),
        optimizer=optimizer,
        schedule=schedule,
        losses=losses,
        mesh=mesh,
    )


def training_stream(config: TrainConfig, library: Library, size: int) -> Stream:
    """The stream of a run's training part, with `size` samples a batch."""
    data = config.data
    return make_stream(
        library,
        data.preset,
        batch=size,
        split=data.split,
        part="train",
        sampling=data.sampling,
        classes=next((t for t in config.targets if t in LABELS), "space_group"),
        mode=data.mode,
        impurities=_impurities(data),
        cell_variation=data.cell_variation,
        intensity_variation=data.intensity_variation,
    )


def new_model(config: TrainConfig, classes: dict[str, tuple[str, ...]]) -> nnx.Module:
    """The network of a config with its first parameters.

    Raises:
      InputError: there is no such network, or it cannot have the targets.
    """
    if len(config.targets) > 1 and config.model in MODELS and config.model != MANY_HEADED:
        raise InputError(
            f"targets={','.join(config.targets)}: {config.model} has one head; name one target or set model={MANY_HEADED}"
        )
    widths = {t: len(classes[t]) if t in classes else 6 for t in config.targets}
    model = create_model(
        config.model,
        num_classes=widths if config.model == MANY_HEADED else next(iter(widths.values())),
        variant=config.variant,
        dtype=PRECISIONS[config.precision],
        rngs=nnx.Rngs(params=config.seed),
    )
    if LATTICE in config.targets and getattr(model, "softmaxes", 0):
        raise InputError(
            f"targets={LATTICE}: {config.model} as published ends in a softmax, and its outputs are shares of 1, no lattice; "
            f"set variant=corrected or model={MANY_HEADED}"
        )
    return model


def read_run(folder: str | pathlib.Path) -> tuple[TrainConfig, dict[str, Any]]:
    """Config of a run's folder, and all that config.json says.

    Raises:
      InputError: the folder holds no run, or one whose config.json is damaged.
    """
    path = pathlib.Path(folder) / CONFIG
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        values = content["config"]
        kinds = {"library": str, "classes": dict, "train_counts": dict}
        if not all(isinstance(content[name], kind) for name, kind in kinds.items()):
            raise TypeError
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{folder}: holds no run (there is no readable {CONFIG}); give the folder that `simxrd train` wrote"
        ) from error
    config = from_dict(values, str(path))
    if not _are_of(config.targets, content["classes"], content["train_counts"]):
        raise InputError(
            f"{path}: its classes and train_counts are not those of targets={','.join(config.targets)}; the file is damaged, "
            "restore it or train anew in another folder"
        )
    return config, content


def _are_of(targets: Sequence[str], classes: dict[str, Any], train_counts: dict[str, Any]) -> bool:
    """Whether each target with classes has its names, and each name its number of training structures."""
    if not classes.keys() == train_counts.keys() == set(targets) - {LATTICE}:
        return False
    return all(
        isinstance(names, list)
        and isinstance(train_counts[target], list)
        and [type(name) for name in names] == [str] * len(names)
        and (target != "space_group" or tuple(names) == SPACE_GROUPS)
        and [type(count) for count in train_counts[target]] == [int] * len(names)
        and min(train_counts[target], default=0) >= 0 < sum(train_counts[target])
        for target, names in classes.items()
    )


def _check(config: TrainConfig) -> None:
    if not config.targets:
        raise InputError(f"targets is empty; name at least one of {', '.join(TARGETS)}")
    for target in config.targets:
        if target not in TARGETS:
            raise InputError(f"there is no target {target!r}{nearest(target, dict.fromkeys(TARGETS))}")
    if len(set(config.targets)) < len(config.targets):
        raise InputError(f"targets={','.join(config.targets)} names one twice; name each once")
    if config.precision not in PRECISIONS:
        raise InputError(f"there is no precision {config.precision!r}{nearest(config.precision, PRECISIONS)}")
    for name in ("steps", "validate_every", "checkpoint_every", "log_every", "keep"):
        if getattr(config, name) < 1:
            raise InputError(f"{name}={getattr(config, name)} must be at least 1")
    for name in ("validation_patterns", "patience", "minimum_improvement"):
        if not getattr(config, name) >= 0:
            raise InputError(f"{name}={getattr(config, name)} must be at least 0")
    if not 0 <= config.seed < 2**32:  # JAX would take the rest of the division by 2^32 without a word
        raise InputError(f"seed={config.seed} must be from 0 to {2**32 - 1}")
    for name, value in fields_of(config).items():
        if name != "seed" and isinstance(value, int) and value >= 2**31:  # JAX counts in int32
            raise InputError(f"{name}={value} must be below 2^31 = {2**31}")
    if config.data.copies < 0:
        raise InputError(
            f"data.copies={config.data.copies} must be 0 (fresh patterns) or the number of stored ones a structure"
        )


def _check_grid(preset: str) -> None:
    window = get_preset(preset).two_theta
    grid = (FIRST, FIRST + (POINTS - 1) * STEP, STEP)
    if not np.allclose(window, grid):
        fitting = [name for name, each in PRESETS.items() if np.allclose(each.two_theta, grid)]
        raise InputError(
            f"data.preset={preset} has patterns from {window[0]:g} to {window[1]:g} deg in steps of {window[2]:g}, and "
            f"networks read {grid[0]:g} to {grid[1]:g} in steps of {grid[2]:g}; choose from {', '.join(fitting)}"
        )


def _impurities(data: Data) -> Impurities | None:
    if data.impurities < 0:
        raise InputError(f"data.impurities={data.impurities} must be 0 or more")
    for name in ("impurity_probability", "impurity_fraction"):
        if not 0 < (value := getattr(data, name)) <= 1:
            raise InputError(f"data.{name}={value:g} must be above 0 and at most 1")
    if data.impurities == 0:
        return None
    return Impurities(data.impurities, data.impurity_probability, Uniform(0.0, data.impurity_fraction))


def _lattice_loss(numbers: Any, wanted: Any) -> Any:
    return LATTICE_WEIGHT * jnp.mean(optax.huber_loss(numbers, wanted), axis=-1)


def read_network(folder: str | pathlib.Path) -> tuple[TrainConfig, dict[str, Any], Any, Network]:
    """The trained network of a run: that of the lowest validation loss, or the last one.

    Returns:
      Its config, what else config.json says (its classes), its definition and its arrays.

    Raises:
      InputError: the folder holds no run, no checkpoint yet, or one of another model.
    """
    config, content = read_run(folder)
    _check(config)
    classes = {t: tuple(names) for t, names in content["classes"].items()}
    definition, network = split_network(new_model(config, classes), config.optimizer.average_decay > 0)
    if not (pathlib.Path(folder) / FOLDER).is_dir():
        raise InputError(f"{folder}: the run has no checkpoint yet; train it first")
    checkpoints = Checkpoints(pathlib.Path(folder), read_only=True)
    try:
        if not checkpoints.steps():
            raise InputError(f"{folder}: the run has no checkpoint yet; train it first")
        last = checkpoints.steps()[-1]
        return (
            config,
            content,
            definition,
            checkpoints.network(abstract(network), checkpoints.progress(last).best_step or last),
        )
    finally:
        checkpoints.close()
