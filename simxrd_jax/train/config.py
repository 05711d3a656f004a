"""Host zone. What a training run is: one frozen dataclass, made in an experiment's config file, changed on the command line.

    CONFIG = TrainConfig(model="cnn11", targets=("space_group",), data=Data(split="ool_disjoint"))

A config file may name several of them in a dictionary `CONFIGS`. `simxrd train FILE[:NAME] --set data.preset=simxrd`
changes a field by its dotted name. A run's folder keeps its config as JSON, from which `from_dict` makes it again.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
import numbers
import os
import re
import runpy
import sys
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from simxrd_jax.errors import InputError
from simxrd_jax.train.losses import Loss

ACCEPTED = {int: numbers.Integral, float: numbers.Real, str: str}  # NumPy's numbers too
MISSPELT = re.compile(r"(\w+)\.__init__\(\) got an unexpected keyword argument '(\w+)'")  # what Python says of a dataclass


@dataclass(frozen=True)
class Data:
    """Where the patterns come from.

    Attributes:
      library: structure library.
      split: name of one of its splits.
      preset: conditions.
      mode: "cached" or "atoms", see `make_stream`.
      sampling: "uniform", "balanced" or "square_root", by the classes of the first target.
      copies: 0 draws fresh conditions for every sample; n trains on n fixed patterns of each structure, as stored data
        sets do.
      impurities: further phases a sample may have.
      impurity_probability: of each of them.
      impurity_fraction: greatest mass fraction of each.
      cell_variation, intensity_variation: how far training patterns are of crystals that do not exist, of the same space
        groups, see `make_stream`; validation and test are of the library's own.
    """

    library: str = "datasets/mp_library.simxrd"
    split: str = "ool_disjoint"
    preset: str = "laboratory"
    mode: str = "cached"
    sampling: str = "uniform"
    copies: int = 0
    impurities: int = 0
    impurity_probability: float = 0.5
    impurity_fraction: float = 0.2
    cell_variation: float = 0.0
    intensity_variation: float = 0.0


@dataclass(frozen=True)
class Optimizer:
    """How the parameters are moved.

    Attributes:
      name: "adam"; "adamw", with decoupled weight decay; or "muon" (Jordan et al. 2024), whose steps of matrices and kernels
        are orthogonal, of the size of AdamW's (Liu et al. 2025, arXiv:2502.16982), and whose steps of vectors, and of matrices
        with more than 1,024 rows and columns, are AdamW's.
      learning_rate: the highest of the schedule.
      schedule: "constant", or "cosine" to 0 at the last step.
      warmup_steps: over which the rate rises from 0.
      weight_decay: of "adamw" and "muon"; matrices and kernels only.
      clip_norm: greatest norm of a gradient; 0 leaves gradients as they are.
      average_decay: of the exponential moving average of the parameters that evaluation uses; 0 is none.
    """

    name: str = "adam"
    learning_rate: float = 2.5e-4
    schedule: str = "constant"
    warmup_steps: int = 0
    weight_decay: float = 0.0
    clip_norm: float = 0.0
    average_decay: float = 0.0


# How far the crystals of the training patterns are varied where PowderNet is trained by its own recipe.
POWDERNET_VARIATION: dict[str, Any] = {"cell_variation": 0.15, "intensity_variation": 1.0}


def powdernet_optimizer(steps: int) -> Optimizer:
    """What the experiments train PowderNet by, in a run of so many steps of 16 or 32 patterns."""
    return Optimizer(
        name="muon", learning_rate=3e-3, schedule="cosine", warmup_steps=steps // 20, weight_decay=0.05, clip_norm=1.0
    )


@dataclass(frozen=True)
class TrainConfig:
    """A training run. The defaults of optimiser and batch are those of the published benchmark.

    Attributes:
      model: name, see `simxrd models`.
      variant: "corrected" or "as_published".
      targets: what the network names: crystal_system, space_group or extinction_group, or "lattice"; powdernet, which has a
        head for each, may have several.
      batch: patterns a step, over all devices.
      steps: of the run.
      seed: of parameters, patterns and dropout.
      precision: "float32", or "bfloat16" for the network's arithmetic; parameters stay float32.
      validate_every: steps between validations.
      validation_patterns: at most, one a structure; 0 is all structures of the part.
      patience: validations without improvement of the validation loss after which the run ends; 0 is never.
      minimum_improvement: of the validation loss, that counts as one.
      checkpoint_every: steps between checkpoints; there is one at each validation too.
      keep: checkpoints kept besides the best.
      log_every: steps between lines of metrics.jsonl; there is one at each validation too.
      data, optimizer, loss: see there.
    """

    model: str = "cnn11"
    variant: str = "corrected"
    targets: tuple[str, ...] = ("space_group",)
    batch: int = 128
    steps: int = 10_000
    seed: int = 100
    precision: str = "float32"
    validate_every: int = 1000
    validation_patterns: int = 2048
    patience: int = 0
    minimum_improvement: float = 1e-4
    checkpoint_every: int = 1000
    keep: int = 1
    log_every: int = 50
    data: Data = field(default_factory=Data)
    optimizer: Optimizer = field(default_factory=Optimizer)
    loss: Loss = field(default_factory=Loss)


def load_config(source: str) -> tuple[str, TrainConfig]:
    """The config of a file, with the name it stands under.

    Args:
      source: `FILE.py`, whose `CONFIG` is taken, or `FILE.py:NAME` for one of its `CONFIGS`.

    Raises:
      InputError: no such file, an error in it, no config under that name, or a value of the wrong type.
    """
    path, _, name = source.partition(":") if not os.path.exists(source) else (source, "", "")
    if not os.path.isfile(path):
        raise InputError(f"{path}: there is no such config file; give the path of a config.py")
    try:
        content = runpy.run_path(path)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    except (Exception, SystemExit) as error:
        reason = _misspelt(error) or f"cannot be run ({type(error).__name__}: {error}); correct it"
        raise InputError(f"{path}: {reason}") from error
    several = content.get("CONFIGS", {})
    if not isinstance(several, Mapping):
        raise InputError(f"{path}: CONFIGS is no dictionary of TrainConfig; make it one")
    config = several.get(name) if name else content.get("CONFIG")
    if not isinstance(config, TrainConfig):
        if not name and several:
            raise InputError(f"{path}: holds several configs; add one of :{', :'.join(several)}")
        wanted = f"config {name!r} in its CONFIGS" if name else "CONFIG of type TrainConfig; define one"
        if name and several:
            wanted += _nearest(name, [str(each) for each in several])
        raise InputError(f"{path}: has no {wanted}")
    stem = os.path.splitext(os.path.basename(path))[0]
    folder = os.path.basename(os.path.dirname(os.path.abspath(path)))
    return name or (folder if stem == "config" else stem), checked(config, source)


def checked(config: TrainConfig, source: str = "the config") -> TrainConfig:
    """The config, once every field is of its type, which Python does not look at; lists are made tuples.

    Args:
      config: as somebody wrote it.
      source: of it, named in errors.

    Raises:
      InputError: a value of the wrong type.
    """
    return _from_dict(TrainConfig, config, source)


def override(config: TrainConfig, settings: Mapping[str, str]) -> TrainConfig:
    """A config with fields changed.

    Args:
      config: to start from.
      settings: dotted name -> value as text; a tuple's items are separated by commas.

    Raises:
      InputError: an unknown field (the nearest is named) or a value of the wrong type.
    """
    names = list(fields_of(config))
    for name in settings:
        group = [each for each in names if each.startswith(f"{name}.")]
        if group:
            raise InputError(f"--set: {name} is a group of fields; set one of {', '.join(group)}")
        if name not in names:
            raise InputError(f"--set: there is no field {name!r} in the config{_nearest(name, names)}")
    return _replaced(config, settings, "")


def to_dict(config: TrainConfig) -> dict[str, Any]:
    """What JSON keeps of a config."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def from_dict(values: Mapping[str, Any], source: str) -> TrainConfig:
    """The config that `to_dict` was given.

    Raises:
      InputError: an unknown field, or a value of the wrong type; `source` is named. A field that is missing takes its default.
    """
    return _from_dict(TrainConfig, values, source)


def fields_of(config: Any, prefix: str = "") -> dict[str, Any]:
    """Dotted name -> value of every field."""
    found: dict[str, Any] = {}
    for each in dataclasses.fields(config):
        value = getattr(config, each.name)
        if dataclasses.is_dataclass(value):
            found |= fields_of(value, f"{prefix}{each.name}.")
        else:
            found[prefix + each.name] = value
    return found


def differences(a: TrainConfig, b: TrainConfig) -> list[str]:
    """Dotted names of the fields in which two configs differ."""
    first, second = fields_of(a), fields_of(b)
    return [name for name in first if first[name] != second[name]]


def _replaced(config: Any, settings: Mapping[str, str], prefix: str) -> Any:
    """All fields of a group at once: what one may be can depend on another."""
    changed: dict[str, Any] = {}
    for name, kind in typing.get_type_hints(type(config)).items():
        whole = prefix + name
        if dataclasses.is_dataclass(kind):
            changed[name] = _replaced(getattr(config, name), settings, f"{whole}.")
        elif whole in settings:
            changed[name] = _parsed(kind, settings[whole], whole)
    return dataclasses.replace(config, **changed)


def _parsed(kind: Any, text: str, name: str) -> Any:
    if typing.get_origin(kind) is tuple:
        return tuple(_parsed(typing.get_args(kind)[0], part.strip(), name) for part in text.split(",") if part.strip())
    try:
        value = kind(text)
    except ValueError:
        raise InputError(f"--set {name}={text}: expected {'a whole number' if kind is int else 'a number'}") from None
    if kind is float and not math.isfinite(value):
        raise InputError(f"--set {name}={text}: expected a finite number")
    return value


def _from_dict(kind: Any, values: Any, source: str, prefix: str = "") -> Any:
    """A config or one of its groups, from a mapping or from an instance whose fields may hold anything."""
    hints = typing.get_type_hints(kind)
    if isinstance(values, kind):
        values = {each.name: getattr(values, each.name) for each in dataclasses.fields(kind)}
    if not isinstance(values, Mapping):
        raise InputError(f"{source}: {prefix[:-1] or 'the config'} is no group of fields; correct it")
    for name in values:
        if name not in hints:
            raise InputError(f"{source}: {_no_field(f'{prefix}{name}')}")
    made = {}
    for name, hint in hints.items():
        if name not in values:
            continue  # younger than the file: the run had what is now the default
        value = values[name]
        if dataclasses.is_dataclass(hint):
            made[name] = _from_dict(hint, value, source, f"{prefix}{name}.")
        elif typing.get_origin(hint) is tuple:
            if not isinstance(value, list | tuple) or not all(isinstance(each, str) for each in value):
                remedy = f"write ({value!r},)" if isinstance(value, str) else "correct it"
                raise InputError(f"{source}: {prefix}{name} = {value!r} is no tuple of names; {remedy}")
            made[name] = tuple(value)
        else:
            if isinstance(value, bool) or not isinstance(value, ACCEPTED[hint]):
                raise InputError(f"{source}: {prefix}{name} = {value!r} is no {hint.__name__}; correct it")
            if hint is float and not -sys.float_info.max <= value <= sys.float_info.max:
                raise InputError(f"{source}: {prefix}{name} = {value!r} is no finite number; correct it")
            made[name] = hint(value)
    try:
        return kind(**made)
    except InputError as error:
        raise InputError(f"{source}: {error}") from error


def _misspelt(error: BaseException) -> str | None:
    """What is said of a field that no dataclass of the config has, where that is the error."""
    found = MISSPELT.match(str(error)) if isinstance(error, TypeError) else None
    groups = {kind.__name__: f"{name}." for name, kind in _groups().items()} | {TrainConfig.__name__: ""}
    return _no_field(groups[found[1]] + found[2]) if found and found[1] in groups else None


def _no_field(name: str) -> str:
    return f"there is no field {name!r} in the config{_nearest(name, [*fields_of(TrainConfig()), *_groups()])}"


def _groups() -> dict[str, Any]:
    """Name -> class of each group of fields."""
    return {name: kind for name, kind in typing.get_type_hints(TrainConfig).items() if dataclasses.is_dataclass(kind)}


def _nearest(name: str, names: list[str]) -> str:
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    if not close:
        tails = {n.rpartition(".")[2]: n for n in names}
        close = [tails[t] for t in difflib.get_close_matches(name.rpartition(".")[2], tails, n=1, cutoff=0.5)]
    return f"; did you mean {close[0]}?" if close else f"; choose from {', '.join(names)}"
