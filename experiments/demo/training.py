"""A small network trained on patterns simulated in its training step, judged on unseen structures and measured patterns."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from simxrd_jax.train.config import TrainConfig
from simxrd_jax.train.evaluation import evaluate_measured
from simxrd_jax.train.loop import train
from simxrd_jax.train.run import open_library, read_network
from simxrd_jax.train.targets import structures_in

MEASURED = "measured"  # the patterns that ship in datasets/


@dataclass(frozen=True, eq=False)
class Result:
    """What a training gave.

    Attributes:
      patterns, structures: that it was trained on.
      seconds: it took.
      targets: what was judged -> target -> metrics.
    """

    patterns: int
    structures: int
    seconds: float
    targets: dict[str, Any]


def run(config: TrainConfig, folder: Path) -> Result:
    """Trains, or takes up a training that was stopped, and judges it."""
    made = train(config, folder, say=lambda sentence: print(sentence, file=sys.stderr))
    config, content, definition, network = read_network(folder)
    measured = evaluate_measured([(definition, network)], config, content, MEASURED)
    structures = structures_in(open_library(config.data.library), config.data.split, "train")
    targets = {
        f"{made['test']['patterns']} simulated, of unseen structures": made["test"]["targets"],
        f"{measured['patterns']} measured": measured["targets"],
    }
    return Result(made["patterns"], len(structures), made["seconds"], targets)
