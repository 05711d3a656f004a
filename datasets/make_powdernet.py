"""Writes powdernet/: the trained network of a run, without what only its training needs (the state of the optimiser, logs).

Run from the repository's root, once the experiment's runs are made:

    python -m experiments.real_patterns
    python datasets/make_powdernet.py runs/real_patterns/materials_project
"""

from __future__ import annotations

import pathlib
import shutil
import sys

from simxrd_jax.train.checkpoints import FOLDER, Checkpoints
from simxrd_jax.train.run import CONFIG, read_network

PATHS = "commit_success.txt"  # holds the path of the folder, and is read on cloud storage alone
TARGET = pathlib.Path(__file__).with_name("powdernet")


def main(run: str) -> None:
    """Writes the folder next to this script; the one that is there is replaced."""
    source = pathlib.Path(run)
    checkpoints = Checkpoints(source, read_only=True)
    best = checkpoints.progress(checkpoints.steps()[-1]).best_step
    checkpoints.close()
    beside = TARGET.with_suffix(".part")
    shutil.rmtree(beside, ignore_errors=True)
    shutil.copytree(source / FOLDER / str(best), beside / FOLDER / str(best), ignore=shutil.ignore_patterns("moments", PATHS))
    shutil.copy(source / CONFIG, beside / CONFIG)
    read_network(beside)  # an InputError where something is missing
    shutil.rmtree(TARGET, ignore_errors=True)
    beside.rename(TARGET)


if __name__ == "__main__":
    main(sys.argv[1])
