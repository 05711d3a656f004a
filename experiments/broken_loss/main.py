"""CNN4 as published, with softmaxes before a loss that has one, and with logits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.broken_loss.config import FLOORS, STEPS, TASKS, VARIANTS, configs
from simxrd_jax.train.benchmark import CONSTANTS
from simxrd_jax.train.suite import experiment, markdown

METRICS = ("accuracy", "macro_f1")


def table(results: Mapping[str, Any]) -> str:
    """Each variant beside the constant answers, for one task after the other."""
    rows = [["task", "network", "accuracy", "macro F1", "loss on the test", "lowest loss possible", "minutes"]]
    for task in TASKS:
        title = task.replace("_", " ")
        for variant in VARIANTS:
            name = f"CNN4 {variant.replace('_', ' ')}"
            floor = f"{FLOORS[task]:.3f}" if variant == "as_published" else "0"
            result = results.get(f"{variant}-{task}")
            if result is None:
                rows.append([title, name, *["not run"] * 3, floor, ""])
                continue
            made = result["test"]["targets"][task]
            loss, minutes = f"{result['test']['loss']:.3f}", f"{result['seconds'] / 60:.1f}"
            rows.append([title, name, *(f"{made[metric]:.3f}" for metric in METRICS), loss, floor, minutes])
        tested = [results[f"{v}-{task}"]["test"]["targets"][task] for v in VARIANTS if f"{v}-{task}" in results]
        for made in tested[:1]:  # constant answers are the same for all
            for name, key in CONSTANTS.items():
                rows.append([title, name, *(f"{made[key][metric]:.3f}" for metric in METRICS), "", "", ""])
    return markdown(rows)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command."""
    experiment(Path(__file__).parent, lambda steps: configs(steps or STEPS), table, arguments)
