"""Host and device. A network's answers to simulated and to measured patterns, and the metrics of them.

Several networks are averaged in probability: that is what an ensemble is here. Each structure of a part is simulated under
conditions that belong to it and to the part: its pattern is the same whatever the batch and however many structures are taken.
(The published Transformer, which attends across a batch, answers differently in another batch all the same.)
"""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from tqdm import tqdm

from simxrd_jax.errors import InputError
from simxrd_jax.io.measured import read_measured, system_of
from simxrd_jax.library.extinction_table import EXTINCTION_GROUP
from simxrd_jax.library.stream import Stream
from simxrd_jax.models.lattice import LATTICE, cell_of_numbers
from simxrd_jax.presets import get_preset
from simxrd_jax.train.config import TrainConfig
from simxrd_jax.train.metrics import NOT_FINITE, collapse, constant_predictor, empty_evaluation, summarize, update
from simxrd_jax.train.state import Network, copy_keys, network_input, part_key
from simxrd_jax.train.targets import as_codes, structures_in, truth

if TYPE_CHECKING:
    from simxrd_jax.train.run import Run

Member = tuple[Any, Network]  # the definition of a network and its arrays
EVALUATION_BATCH = 256
EVALUATION_SEED = 2024  # of the conditions of evaluation, the same for all runs
SHUFFLE_SEED = 0  # of the order in which a limited evaluation takes the structures of a part


def outputs_of(member: Member, x: Any, targets: tuple[str, ...]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Outputs of each head, and what they say: class probabilities, and the lattice's numbers."""
    definition, network = member
    model = nnx.merge(definition, network.evaluated, network.statistics)
    made = model(x, dropout=None)
    raw = made if isinstance(made, dict) else {targets[0]: made}
    # The published variants end in softmaxes: their outputs are probabilities already.
    is_probability = getattr(model, "softmaxes", 0) > 0
    said = {t: y if t == LATTICE or is_probability else jax.nn.softmax(y, axis=-1) for t, y in raw.items()}
    return raw, said


def ensemble(members: Sequence[Member], x: Any, targets: tuple[str, ...]) -> dict[str, Any]:
    """What several networks say on average."""
    every = [outputs_of(member, x, targets)[1] for member in members]
    return {t: sum(said[t] for said in every) / len(every) for t in every[0]}


def chosen_structures(run: Run, part: str, *, split: str = "", limit: int = 0) -> np.ndarray:
    """Structures of a part of a split, by default the run's own, in the order in which a limited evaluation takes them.

    Raises:
      InputError: there are none.
    """
    split = split or run.config.data.split
    structures = np.random.default_rng(SHUFFLE_SEED).permutation(structures_in(run.library, split, part))
    if not structures.size:
        raise InputError(f"{run.config.data.library}: the part {part} of {split} is empty; take another split or library")
    return structures[:limit] if limit else structures


def evaluate_part(
    members: Sequence[Member], run: Run, part: str, *, split: str = "", limit: int = 0, progress: bool = False
) -> dict[str, Any]:
    """Metrics on one pattern of each structure of a part of the run's split.

    Args:
      members: networks whose probabilities are averaged.
      run: whose split, preset, targets and losses are used.
      part: "train", "validation" or "test".
      split: of the library; the run's own by default.
      limit: structures at most, chosen by a fixed shuffle; 0 is all.
      progress: draw a progress bar.

    Returns:
      split, part, preset, patterns, loss (mean over members), and `targets`: target -> metrics, see `metrics.summarize`.

    Raises:
      InputError: the part is empty.
    """
    config = run.config
    split = split or config.data.split
    structures = chosen_structures(run, part, split=split, limit=limit)
    key = part_key(jax.random.key(EVALUATION_SEED), f"{split} {part}")
    stream = jax.device_put(run.stream.of_real_crystals(), jax.local_devices()[0])
    definitions, networks = zip(*members, strict=True)
    chunk = stream.options.chunk
    size = -(-min(EVALUATION_BATCH, len(structures)) // chunk) * chunk
    found: list[tuple[dict[str, Any], dict[str, Any], Any]] = []
    for first in tqdm(range(0, len(structures), size), desc=part, disable=None if progress else True, leave=False):
        rows = structures[first : first + size]
        padded = jnp.asarray(np.resize(rows, size), jnp.int32)
        keys = copy_keys(key, padded, jnp.zeros(size, jnp.int32))
        made = _simulated(definitions, config.targets, run.losses_in_order, networks, stream, padded, keys)
        found.append(jax.tree.map(lambda v: np.asarray(v)[: len(rows)], made))  # noqa: B023
    said, wanted, losses = (jax.tree.map(lambda *v: np.concatenate(v), *parts) for parts in zip(*found, strict=True))
    return {
        "name": f"{split} {part}, {config.data.preset}",
        "split": split,
        "part": part,
        "preset": config.data.preset,
        "patterns": len(structures),
        "loss": float(losses.mean()),
        "targets": {t: metrics_of(said[t], wanted[t], t, run.classes, run.train_counts) for t in config.targets},
    }


@partial(jax.jit, static_argnums=(0, 1, 2))
def _simulated(
    definitions: tuple[Any, ...],
    targets: tuple[str, ...],
    losses: tuple[Callable[..., Any], ...],
    networks: tuple[Network, ...],
    stream: Stream,
    structures: Any,
    keys: Any,
) -> tuple[dict[str, Any], dict[str, Any], Any]:
    """What networks say of simulated patterns, the truth, and each sample's loss, the mean over the networks."""
    batch = stream.simulate(structures, keys)
    x, wanted = network_input(batch), truth(stream, batch, targets)
    members = tuple(zip(definitions, networks, strict=True))
    raw = [outputs_of(member, x, targets)[0] for member in members]
    loss = sum(loss(made[t], wanted[t]) for made in raw for t, loss in zip(targets, losses, strict=True)) / len(raw)
    return ensemble(members, x, targets), wanted, loss


def metrics_of(
    said: np.ndarray,
    wanted: np.ndarray,
    target: str,
    classes: Mapping[str, Sequence[str]],
    train_counts: Mapping[str, np.ndarray],
) -> dict[str, Any]:
    """Metrics of one head: of classes as `metrics.summarize`, with the best constant answer to the very samples, space groups
    collapsed to extinction groups too; of lattices the median and the 90 % quantile of the relative errors of the lengths, and
    the mean error of the angles. [deg]"""
    if target == LATTICE:
        return _lattice_metrics(said, wanted)
    evaluation = update(empty_evaluation(len(classes[target])), said, wanted)
    metrics = summarize(evaluation, classes[target], train_counts[target])
    support = np.asarray(evaluation.confusion).sum(axis=1)
    is_space_group = target == "space_group"
    groups = EXTINCTION_GROUP if is_space_group else None
    metrics["majority"] |= constant_predictor(support, train_counts[target], groups)
    metrics["best_constant"] = constant_predictor(support, groups=groups)
    metrics["confusion"] = np.asarray(evaluation.confusion).tolist()
    if is_space_group:
        metrics["extinction_group_accuracy"] = collapse(evaluation, EXTINCTION_GROUP)
    return metrics


def evaluate_measured(
    members: Sequence[Member], config: TrainConfig, content: Mapping[str, Any], where: str
) -> dict[str, Any]:
    """Metrics on measured patterns, brought to the networks' grid; see `io.measured`.

    Args:
      members: networks whose probabilities are averaged.
      config: of the first.
      content: of its config.json: names and training counts of the classes.
      where: name or path of a set of patterns.

    Returns:
      As `evaluate_part`, and `answers`: id -> target -> the most probable classes with their probabilities.

    Raises:
      InputError: patterns that cannot be read or do not fit the grid, or networks that name no class.
    """
    if not content["classes"]:
        raise InputError(f"the networks name no class that patterns of {where} are labelled with; take other ones")
    two_theta, grid_wavelength = grid_of(config.data.preset)
    measured = read_measured(where, two_theta, grid_wavelength)
    is_labelled = measured.space_group > 0
    said = answer(members, measured.patterns, config.targets)
    metrics = {}
    for target, names in content["classes"].items():
        wanted = _codes_of_groups(measured.space_group, target, names)
        counts = {target: np.asarray(content["train_counts"][target])}
        metrics[target] = metrics_of(said[target][is_labelled], wanted[is_labelled], target, {target: names}, counts)
    return {
        "name": f"{measured.name}, measured",
        "patterns": int(is_labelled.sum()),
        "source": measured.source,
        "left_out": list(measured.left_out),
        "targets": metrics,
        "answers": {
            name: {target: most_probable(said[target][i], names) for target, names in content["classes"].items()}
            for i, name in enumerate(measured.ids)
        },
    }


def answer(members: Sequence[Member], patterns: np.ndarray, targets: tuple[str, ...]) -> dict[str, np.ndarray]:
    """What networks say, on average, of patterns on their grid: probabilities, and the lattice's numbers.

    Args:
      members: networks.
      patterns: highest point 100 [pattern, point].
      targets: of the networks.

    Raises:
      InputError: outputs that are not finite.
    """
    definitions, networks = zip(*members, strict=True)
    size = min(EVALUATION_BATCH, len(patterns))
    found = []
    for first in range(0, len(patterns), size):
        rows = np.asarray(patterns[first : first + size], np.float32)
        padded = np.concatenate([rows, np.repeat(rows[-1:], size - len(rows), axis=0)])
        made = _answer(definitions, targets, networks, jnp.asarray(padded))
        found.append(jax.tree.map(lambda v: np.asarray(v)[: len(rows)], made))  # noqa: B023
    said = {t: np.concatenate([part[t] for part in found]) for t in targets}
    if not all(np.isfinite(values).all() for values in said.values()):
        raise InputError(NOT_FINITE)
    return said


@partial(jax.jit, static_argnums=(0, 1))
def _answer(definitions: tuple[Any, ...], targets: tuple[str, ...], networks: tuple[Network, ...], x: Any) -> dict[str, Any]:
    return ensemble(tuple(zip(definitions, networks, strict=True)), x, targets)


def most_probable(probabilities: np.ndarray, names: Sequence[str], count: int = 5) -> list[tuple[str, float]]:
    """The most probable classes, best first, with their probabilities."""
    return [(str(names[i]), float(probabilities[i])) for i in np.argsort(-probabilities, kind="stable")[:count]]


def grid_of(preset: str) -> tuple[np.ndarray, float]:
    """2theta [deg] and mean wavelength [A] of the patterns of a preset."""
    chosen = get_preset(preset)
    return np.asarray(chosen.grid().two_theta, dtype=np.float64), chosen.radiation.mean_wavelength


def _codes_of_groups(space_groups: np.ndarray, target: str, names: Sequence[str]) -> np.ndarray:
    """Classes of space-group numbers; -1 where a network has no such class."""
    if target == "extinction_group":
        return np.where(space_groups > 0, EXTINCTION_GROUP[np.maximum(space_groups, 1) - 1], -1)
    values = [system_of(int(n)) if target == "crystal_system" else str(n) for n in space_groups]
    return as_codes(values, names)


def _lattice_metrics(said: np.ndarray, wanted: np.ndarray) -> dict[str, float]:
    with np.errstate(over="ignore"):  # of a network that has gone astray
        found, true = cell_of_numbers(said), cell_of_numbers(wanted)
    lengths = np.abs(found[:, :3] / true[:, :3] - 1.0)
    if not np.isfinite(lengths).all() or not np.isfinite(found).all():
        raise InputError(NOT_FINITE)
    angles = np.abs(found[:, 3:] - true[:, 3:])
    return {
        "median_length_error": float(np.median(lengths)),
        "length_error_90": float(np.quantile(lengths, 0.9)),
        "mean_angle_error": float(angles.mean()),
    }


def report(evaluation: Mapping[str, Any], classes: Mapping[str, Sequence[str]], folder: pathlib.Path) -> None:
    """Draws the confusion matrices of an evaluation into a folder, confusion_TARGET.png."""
    from simxrd_jax.train.confusion_plot import draw_confusion  # training does without Matplotlib until here

    for target, names in classes.items():
        draw_confusion(np.asarray(evaluation["targets"][target]["confusion"]), names, folder / f"confusion_{target}.png")
