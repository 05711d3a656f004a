"""Host zone. The published benchmark's protocol: which runs it is made of, and the table of their results.

Every model is trained in both variants for both tasks with the published optimiser (Adam, rate 2.5e-4, no schedule, batch 128
where the size is full) and judged by the checkpoint of lowest validation loss. Networks without a fault are the same in both
variants and are trained once. Our own network has the same number of patterns, batches and an optimiser of its own, and is
trained once with all its heads. Unlike in the published runs, no pattern is seen twice.
"""

from __future__ import annotations

import argparse
import dataclasses
import pathlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from simxrd_jax.errors import InputError
from simxrd_jax.models.registry import MODELS
from simxrd_jax.train.config import POWDERNET_VARIATION, Data, TrainConfig, powdernet_optimizer
from simxrd_jax.train.suite import finish, markdown, mean_and_spread, positive
from simxrd_jax.train.targets import TARGETS

TASKS = ("crystal_system", "space_group")
# Networks whose published code has no fault that the corrected variant mends.
SAME_IN_BOTH = ("cnn9", "cnn10", "cnn11", "rnn", "lstm", "gru", "birnn", "bilstm", "bigru", "patchtst")
OWN = "powdernet"
# Answers that a network must beat, by their keys in the metrics.
CONSTANTS = {"majority class of the training": "majority", "best constant answer to the test": "best_constant"}
ENSEMBLE = " †"  # behind the name of a network that is an ensemble in the published table
# In place of a variant: corrected, trained on the crystals that the network is not trained on otherwise.
VARIED, REAL = "varied", "real"
ALL_HEADS = "all_heads"  # in place of a task: our own network is trained once, with every head
Published = Callable[[str, str], Mapping[str, float]]


@dataclass(frozen=True)
class Size:
    """How much is trained.

    Attributes:
      steps: of each run; the number that sizes a benchmark.
      batch: patterns a step.
      library: of the structures.
      models: names.
      only_models: whether the table leaves the other networks out.
      seeds: runs of each cell.
      validations: in a run.
      validation_patterns: in each.
      ablated: networks that are trained on the other crystals too, published ones on varied, ours on the library's own, to
        tell what varied crystals are worth from what a network is.
    """

    steps: int
    batch: int
    library: str
    models: tuple[str, ...]
    only_models: bool = False
    seeds: tuple[int, ...] = (100,)
    validations: int = 5
    validation_patterns: int = 2048
    ablated: tuple[str, ...] = ()


# Without the slowest networks: recurrent ones, the Transformer, wide convolutions.
CPU_MODELS = (
    "cnn1", "cnn2", "cnn3", "cnn4", "cnn5", "cnn8", "cnn9", "cnn10", "cnn11", "mlp", "itransformer", "patchtst", "powdernet",
)  # fmt: skip
SHIPPED, LARGE, FULL = "datasets/mp_library.simxrd", "materials_project.simxrd", "full.simxrd"
SIZES = {
    "smoke": Size(3, batch=8, library=SHIPPED, models=tuple(MODELS), validations=1, validation_patterns=8),
    "cpu": Size(500, batch=32, library=SHIPPED, models=CPU_MODELS, validation_patterns=256, ablated=("cnn11", OWN)),
    # The best of the published networks at the size above, and ours, on four times as many patterns.
    "cpu_best": Size(
        2000, 32, SHIPPED, models=("cnn11", "powdernet"), only_models=True, validation_patterns=256, ablated=("cnn11", OWN)
    ),
    # On so many structures that a test of each tells networks apart by hundredths.
    "cpu_large": Size(2000, 32, LARGE, models=("cnn11", "powdernet"), only_models=True, validation_patterns=1024),
    "full": Size(
        steps=100_000, batch=128, library=FULL, models=tuple(MODELS), seeds=(100, 200, 300, 400, 500), validations=20
    ),
}


def benchmark_configs(split: str, preset: str, size: Size) -> dict[str, TrainConfig]:
    """Name -> config of every run of a benchmark."""
    configs = {}
    for model in size.models:
        for variant in variants_of(model):
            for task in (ALL_HEADS,) if model == OWN else TASKS:
                for seed in size.seeds:
                    config = TrainConfig(
                        model=model,
                        variant=variant,
                        targets=TARGETS if model == OWN else (task,),
                        batch=size.batch,
                        steps=size.steps,
                        seed=seed,
                        validate_every=max(size.steps // size.validations, 1),
                        validation_patterns=size.validation_patterns,
                        checkpoint_every=max(size.steps // size.validations, 1),
                        log_every=max(size.steps // 50, 1),
                        data=Data(library=size.library, split=split, preset=preset),
                    )
                    configs[run_name(model, variant, task, seed)] = own_recipe(config) if model == OWN else config
                    if model in size.ablated and variant == "corrected":
                        if model == OWN:
                            other = dataclasses.replace(own_recipe(config), data=config.data)
                        else:
                            other = on_varied_crystals(config)
                        configs[run_name(model, _other_crystals(model), task, seed)] = other
    return configs


def _other_crystals(model: str) -> str:
    """Those that a network is not trained on, unless to tell what they are worth."""
    return REAL if model == OWN else VARIED


def own_recipe(config: TrainConfig) -> TrainConfig:
    """As many patterns, of varied crystals, in twice as many steps of the optimiser that our own network is meant for."""
    steps = 2 * config.steps
    return dataclasses.replace(
        config,
        batch=config.batch // 2,
        steps=steps,
        validate_every=2 * config.validate_every,
        checkpoint_every=2 * config.checkpoint_every,
        log_every=2 * config.log_every,
        optimizer=powdernet_optimizer(steps),
        data=on_varied_crystals(config).data,
    )


def on_varied_crystals(config: TrainConfig) -> TrainConfig:
    """The same run on patterns of varied crystals."""
    return dataclasses.replace(config, data=dataclasses.replace(config.data, **POWDERNET_VARIATION))


def variants_of(model: str) -> tuple[str, ...]:
    """Variants that are networks of their own."""
    variants = MODELS[model].variants
    return ("corrected",) if model in SAME_IN_BOTH else variants


def run_name(model: str, variant: str, task: str, seed: int) -> str:
    """Name of a run, and of its folder."""
    return f"{model}-{variant}-{task}-{seed}"


def select(names: Sequence[str], size: Size) -> Size:
    """A size with only some of its models.

    Raises:
      InputError: one that the size does not have.
    """
    for name in names:
        if name not in size.models:
            raise InputError(f"--models: {name!r} is not in this size; choose from {', '.join(size.models)}")
    return dataclasses.replace(size, models=tuple(names)) if names else size


def benchmark_table(results: Mapping[str, Any], split: str, size: Size, published: Published) -> str:
    """The table of a task after the other: ours in both variants, with the published numbers beside."""
    parts = []
    for task in TASKS:
        head = ["model", "published acc.", "F1", "as published acc.", "F1", "corrected acc.", "F1"]
        if task == "space_group":
            head.append("corrected, extinction group acc.")
        scores = ("accuracy", "macro_f1", "extinction_group_accuracy")[: len(head) - 5]
        rows: list[list[str]] = [head]
        tested: list[Mapping[str, Any]] = []
        for model in size.models if size.only_models else MODELS:
            found = {v: _of_cell(results, model, v, task, size.seeds) for v in ("as_published", "corrected")}
            if model in SAME_IN_BOTH:
                found["as_published"] = found["corrected"]
            row = [MODELS[model].title + (ENSEMBLE if MODELS[model].ensemble else "")]
            row += ["", ""] if model == OWN else [f"{published(model, task)[m]:.3f}" for m in ("accuracy", "macro_f1")]
            for variant in ("as_published", "corrected"):
                if model == OWN and variant == "as_published":
                    row += ["", ""]
                    continue
                cell = found[variant]
                row += [_mean(cell, "accuracy"), _mean(cell, "macro_f1")]
            if task == "space_group":
                row.append(_mean(found["corrected"], "extinction_group_accuracy"))
            rows.append(row)
            for cell in found.values():
                tested += cell[:1]
            if model in size.ablated:
                crystals = _other_crystals(model)
                cell = _of_cell(results, model, crystals, task, size.seeds)
                row = [f"{MODELS[model].title}, {crystals} crystals", "", "", "", ""]
                rows.append(row + [_mean(cell, score) for score in scores])
        for title, key in CONSTANTS.items():
            if tested:
                found = [next((m[key][score] for m in tested if score in m.get(key, {})), None) for score in scores]
                rows.append([title, "", "", "", "", *("" if value is None else f"{value:.3f}" for value in found)])
        parts.append(f"**{task.replace('_', ' ').capitalize()}**, {split}\n\n{markdown(rows)}")
    return "\n\n".join(parts)


def _of_cell(results: Mapping[str, Any], model: str, variant: str, task: str, seeds: Sequence[int]) -> list[Any]:
    names = [run_name(model, variant, ALL_HEADS if model == OWN else task, seed) for seed in seeds]
    return [results[name]["test"]["targets"][task] for name in names if name in results]


def _mean(cell: Sequence[Mapping[str, Any]], metric: str) -> str:
    return mean_and_spread([metrics[metric] for metrics in cell]) if cell else "not run"


def main(split: str, preset: str, folder: pathlib.Path, published: Published, arguments: Sequence[str] | None = None) -> None:
    """The command of a benchmark: trains what is missing, and writes its table into its README.

    Args:
      split: of the library.
      preset: of the patterns.
      folder: of the experiment.
      published: (model, task) -> published metrics.
      arguments: of the command line.
    """
    parser = argparse.ArgumentParser(prog=f"python -m experiments.{folder.name}")
    parser.add_argument("--size", choices=SIZES, default="smoke", help="how much is trained (default %(default)s)")
    parser.add_argument("--steps", type=positive, help="of each run, for a trial: results then stay in the folder of the runs")
    parser.add_argument("--models", nargs="+", default=(), metavar="NAME", help="only these")
    parser.add_argument("--library", help="other structures, for a trial likewise")
    parser.add_argument(
        "--runs", type=pathlib.Path, help="folder of the runs (default: runs/EXPERIMENT-SIZE, and what a trial changes)"
    )
    parser.add_argument("--table", action="store_true", help="only write the table of the runs that are there")
    given = parser.parse_args(arguments)
    size = SIZES[given.size]
    size = dataclasses.replace(size, steps=given.steps or size.steps, library=given.library or size.library)
    # A trial's runs lie apart, since a folder takes no run of another config.
    trial = (given.steps and f"{given.steps}-steps", given.library and pathlib.Path(given.library).stem)
    runs = given.runs or pathlib.Path("runs") / "-".join(filter(None, (folder.name, given.size, *trial)))
    is_trial = given.size == "smoke" or given.steps is not None or given.library is not None
    try:
        chosen = {} if given.table else benchmark_configs(split, preset, select(given.models, size))
    except InputError as error:
        parser.error(str(error))
    finish(
        configs=benchmark_configs(split, preset, size),
        chosen=chosen,
        runs=runs,
        results=(runs if is_trial else folder) / f"results_{given.size}.json",
        readme=None if is_trial else folder / "README.md",
        make_table=lambda results: benchmark_table(results, split, size, published),
        place=f"results {given.size}",
    )
