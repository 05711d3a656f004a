"""python -m experiments.imbalance        or one of them: simxrd train experiments/imbalance/config.py:focal

Wall time: 10 to 20 minutes on 2 CPU cores. Expected: focal loss has the highest accuracy, balanced sampling the highest macro
F1 at a third of it; the rarest space groups are hardly named.
"""

from __future__ import annotations

from simxrd_jax.train.config import Data, TrainConfig, powdernet_optimizer
from simxrd_jax.train.losses import Loss

STEPS = 800
DATA = Data(split="ool_disjoint", preset="laboratory")
WAYS: dict[str, tuple[Loss, str]] = {
    "cross_entropy": (Loss(), "uniform"),
    "label_smoothing": (Loss(label_smoothing=0.1), "uniform"),
    "focal": (Loss(name="focal"), "uniform"),
    "class_balanced": (Loss(name="class_balanced"), "uniform"),
    "logit_adjusted": (Loss(name="logit_adjusted"), "uniform"),
    "square_root_sampling": (Loss(), "square_root"),
    "balanced_sampling": (Loss(), "balanced"),
}


def configs(steps: int = STEPS) -> dict[str, TrainConfig]:
    """Name -> config; they differ in nothing but the loss or the sampling."""
    return {
        name: TrainConfig(
            model="powdernet",
            targets=("space_group",),
            batch=32,
            steps=steps,
            validate_every=max(steps // 5, 1),
            checkpoint_every=max(steps // 5, 1),
            validation_patterns=256,
            data=Data(split=DATA.split, preset=DATA.preset, sampling=sampling),
            optimizer=powdernet_optimizer(steps),
            loss=loss,
        )
        for name, (loss, sampling) in WAYS.items()
    }


CONFIGS = configs()
