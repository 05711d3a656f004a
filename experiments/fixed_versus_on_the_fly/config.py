"""python -m experiments.fixed_versus_on_the_fly

Wall time: about 15 minutes on 2 CPU cores. Expected: no difference beyond the spread over seeds.
"""

from __future__ import annotations

from typing import Any

from simxrd_jax.train.config import POWDERNET_VARIATION, Data, TrainConfig, powdernet_optimizer

SEEDS = (100, 200, 300)
WAYS: dict[str, dict[str, Any]] = {
    "ten stored patterns a structure": {"copies": 10},
    "fresh patterns": {},
    "fresh patterns of varied crystals": POWDERNET_VARIATION,
}
STEPS = 800


def configs(steps: int = STEPS, seeds: tuple[int, ...] = SEEDS) -> dict[str, TrainConfig]:
    """Name -> config of every run; they differ in nothing but where the patterns come from."""
    return {
        run_name(label, seed): TrainConfig(
            model="powdernet",
            targets=("space_group", "crystal_system"),
            batch=32,
            steps=steps,
            seed=seed,
            validate_every=max(steps // 5, 1),
            checkpoint_every=max(steps // 5, 1),
            validation_patterns=256,
            data=Data(split="ool_disjoint", preset="laboratory", **way),
            optimizer=powdernet_optimizer(steps),
        )
        for label, way in WAYS.items()
        for seed in seeds
    }


def run_name(label: str, seed: int) -> str:
    """Name of a run, and of its folder."""
    return f"{label.replace(' ', '-')}-{seed}"
