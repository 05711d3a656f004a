"""CNN4 as published, with softmaxes before a loss that has one, and with logits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.broken_loss.config import BUDGETS, FLOORS, TASKS, VARIANTS, configs, run_name
from simxrd_jax.train.benchmark import CONSTANTS
from simxrd_jax.train.suite import experiment, markdown, mean_and_spread

METRICS = ("accuracy", "macro_f1")
HEAD: str = "task, network, steps, seeds, judged at, accuracy, macro F1, loss on the test, lowest possible, minutes"


def table(results: Mapping[str, Any]) -> str:
    """Each variant after each budget, mean and spread over seeds, beside the constant answers."""
    rows = [HEAD.split(", ")]
    for task in TASKS:
        title = task.replace("_", " ")
        tested: Mapping[str, Any] = {}
        for steps, seeds in BUDGETS.items():
            for variant in VARIANTS:
                names = [run_name(variant, task, steps, seed) for seed in seeds]
                found = [results[name] for name in names if name in results]
                floor = f"{FLOORS[task]:.3f}" if variant == "as_published" else "0"
                row = [title, f"CNN4 {variant.replace('_', ' ')}", f"{steps:,}", str(len(found))]
                if not found:
                    rows.append([*row, "", *["not run"] * 3, floor, ""])
                    continue
                row.append(", ".join(f"{result['best_step']:,}" for result in found))
                made = [result["test"]["targets"][task] for result in found]
                tested = made[0]
                cells = [mean_and_spread([metrics[name] for metrics in made]) for name in METRICS]
                loss = mean_and_spread([result["test"]["loss"] for result in found])
                minutes = sum(result["seconds"] for result in found) / len(found) / 60
                rows.append([*row, *cells, loss, floor, f"{minutes:.1f}"])
        for name, key in CONSTANTS.items() if tested else ():
            rows.append([title, name, "", "", "", *(f"{tested[key][metric]:.3f}" for metric in METRICS), "", "", ""])
    return markdown(rows)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command."""
    experiment(Path(__file__).parent, configs, table, arguments)
