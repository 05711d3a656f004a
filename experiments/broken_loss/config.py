"""python -m experiments.broken_loss      or one: simxrd train experiments/broken_loss/config.py:corrected-space_group-500-100

Wall time: about 10 minutes on 2 CPU cores for 500 steps, 35 more for 4,000. Expected: after 500 steps CNN4 corrected tells
classes apart and the published variant hardly; in 4,000 steps the corrected one learns its 1,433 training structures by
heart, which the published loss hinders.
"""

from __future__ import annotations

from simxrd_jax.train.config import Data, TrainConfig

# Steps -> seeds of the runs.
BUDGETS: dict[int, tuple[int, ...]] = {500: (100, 200, 300), 4000: (100,)}
VARIANTS = ("as_published", "corrected")
TASKS = ("crystal_system", "space_group")
# Lowest loss of the published variant: log sum exp(p) - max(p), p = softmax(one-hot), all that a second softmax lets through.
FLOORS = {"crystal_system": 1.7795, "space_group": 5.4307}


def configs(steps: int | None = None) -> dict[str, TrainConfig]:
    """Name -> config; a pair differs in nothing but the variant. The optimiser is the published one."""
    budgets = BUDGETS if steps is None else {steps: (100,)}
    return {
        run_name(variant, task, count, seed): TrainConfig(
            model="cnn4",
            variant=variant,
            targets=(task,),
            batch=32,
            steps=count,
            seed=seed,
            validate_every=max(count // 5, 1),
            checkpoint_every=max(count // 5, 1),
            validation_patterns=256,
            data=Data(split="ool_disjoint", preset="laboratory"),
        )
        for count, seeds in budgets.items()
        for seed in seeds
        for task in TASKS
        for variant in VARIANTS
    }


def run_name(variant: str, task: str, steps: int, seed: int) -> str:
    """Name of a run, and of its folder."""
    return f"{variant}-{task}-{steps}-{seed}"


CONFIGS = configs()
