"""A network trained on simulated patterns alone, judged on measured ones; with and without minerals in its library."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.real_patterns.config import LIBRARIES, PATTERNS, STEPS, configs
from simxrd_jax.errors import InputError
from simxrd_jax.io.xy import write_together
from simxrd_jax.train.config import from_dict
from simxrd_jax.train.evaluation import evaluate_measured
from simxrd_jax.train.run import RESULTS, read_network
from simxrd_jax.train.suite import compact, experiment, markdown, read_results

METRICS = (
    ("crystal_system", "accuracy", "crystal system acc."),
    ("space_group", "accuracy", "space group acc."),
    ("space_group", "top_5", "top 5"),
    ("space_group", "macro_f1", "F1"),
    ("space_group", "extinction_group_accuracy", "extinction group acc."),
    ("extinction_group", "accuracy", "its own head acc."),
    ("extinction_group", "top_5", "top 5"),
)


def judge(runs: Path, results: Path) -> None:
    """Adds the metrics on measured patterns to the results of the runs."""
    known = read_results(results)
    if not known:
        return
    for name in LIBRARIES:
        if name not in known or not (runs / name / RESULTS).exists():
            continue
        config, content, definition, network = read_network(runs / name)
        if config != from_dict(known[name]["config"], str(results)):
            print(f"{runs / name} is another run than that of {results}, and not judged", file=sys.stderr)
            continue
        known[name].setdefault("measured", {})
        for patterns in PATTERNS:
            try:
                made = evaluate_measured([(definition, network)], config, content, patterns)
            except InputError as error:
                print(f"{patterns} is left out: {error}", file=sys.stderr)
                continue
            known[name]["measured"][patterns] = compact({"test": {"patterns": made["patterns"], "targets": made["targets"]}})[
                "test"
            ]
    write_together({results: json.dumps(known, indent=1, sort_keys=True) + "\n"})


def table(results: Mapping[str, Any]) -> str:
    """One row for each set and library, and the best constant answer of each set."""
    rows = [["patterns", "library of the training", *(title for _, _, title in METRICS)]]
    for patterns in PATTERNS:
        constant: Mapping[str, Any] | None = None
        for name in LIBRARIES:
            made = results.get(name, {}).get("measured", {}).get(patterns)
            cells = [f"{made['targets'][t][m]:.3f}" if made else "not run" for t, m, _ in METRICS]
            rows.append([f"{patterns} ({made['patterns']})" if made else patterns, name.replace("_", " "), *cells])
            constant = made["targets"] if made else constant
        if constant is not None:
            best = [
                f"{constant[t]['best_constant'][m]:.3f}" if m in constant[t]["best_constant"] else "" for t, m, _ in METRICS
            ]
            rows.append([patterns, "best constant answer", *best])
    return markdown(rows)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command."""
    experiment(Path(__file__).parent, lambda steps: configs(steps or STEPS), table, arguments, after=judge)
