"""Seven ways to train on the long tail of space groups, judged by how frequent a group is in training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.imbalance.config import STEPS, WAYS, configs
from simxrd_jax.train.benchmark import CONSTANTS
from simxrd_jax.train.suite import experiment, markdown

METRICS = (
    ("accuracy", "accuracy"),
    ("macro_f1", "macro F1"),
    ("balanced_accuracy", "balanced acc."),
    ("extinction_group_accuracy", "extinction group acc."),
    ("expected_calibration_error", "calibration error"),
)


def table(results: Mapping[str, Any]) -> str:
    """Main metrics, and the accuracy in each bin of training frequency that the test has samples of."""
    found = {name: results[name]["test"]["targets"]["space_group"] for name in WAYS if name in results}
    if not found:
        return "No run yet."
    bins = [row for row in next(iter(found.values()))["frequency_bins"] if row["samples"]]
    rows = [["way", *(title for _, title in METRICS), *(f"groups of {row['bin']} ({row['samples']})" for row in bins)]]
    for name in WAYS:
        if name not in found:
            rows.append([name.replace("_", " "), *["not run"] * (len(METRICS) + len(bins))])
            continue
        accuracy = {row["bin"]: row["accuracy"] for row in found[name]["frequency_bins"]}
        cells = [f"{found[name][key]:.3f}" for key, _ in METRICS] + [f"{accuracy[row['bin']]:.3f}" for row in bins]
        rows.append([name.replace("_", " "), *cells])
    tested = next(iter(found.values()))
    for title, key in CONSTANTS.items():
        numbers = [f"{tested[key][metric]:.3f}" if metric in tested[key] else "" for metric, _ in METRICS]
        rows.append([title, *numbers, *[""] * len(bins)])
    return markdown(rows)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command."""
    experiment(Path(__file__).parent, lambda steps: configs(steps or STEPS), table, arguments)
