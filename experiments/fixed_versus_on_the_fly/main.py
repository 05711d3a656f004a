"""The same network and budget on ten stored patterns a structure, as published, on fresh ones, and on varied crystals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.fixed_versus_on_the_fly.config import SEEDS, STEPS, WAYS, configs, run_name
from simxrd_jax.train.benchmark import CONSTANTS
from simxrd_jax.train.suite import experiment, markdown, mean_and_spread

METRICS = (
    ("crystal_system", "accuracy", "crystal system acc."),
    ("crystal_system", "macro_f1", "F1"),
    ("space_group", "accuracy", "space group acc."),
    ("space_group", "macro_f1", "F1"),
    ("space_group", "top_5", "top 5"),
    ("space_group", "extinction_group_accuracy", "extinction group acc."),
)


def table(results: Mapping[str, Any]) -> str:
    """Mean and spread over seeds."""
    rows = [["training patterns", "seeds", *(title for _, _, title in METRICS)]]
    known: Mapping[str, Any] = {}
    for label in WAYS:
        tests = [results[run_name(label, seed)]["test"]["targets"] for seed in SEEDS if run_name(label, seed) in results]
        cells = [
            mean_and_spread([test[target][name] for test in tests]) if tests else "not run" for target, name, _ in METRICS
        ]
        rows.append([label, str(len(tests)), *cells])
        known = tests[0] if tests else known
    for title, key in CONSTANTS.items() if known else ():
        rows.append([title, "", *(_constant(known[target][key], name) for target, name, _ in METRICS)])
    return markdown(rows)


def _constant(metrics: Mapping[str, Any], name: str) -> str:
    return f"{metrics[name]:.3f}" if name in metrics else ""


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command."""
    experiment(Path(__file__).parent, lambda steps: configs(steps or STEPS), table, arguments)
