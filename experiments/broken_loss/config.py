"""python -m experiments.broken_loss      or one of them: simxrd train experiments/broken_loss/config.py:corrected-space_group

Wall time: about 15 minutes on 2 CPU cores. Expected: with logits CNN4 learns; with its two softmaxes and the one in the loss
it stays near the loss it starts from, and answers little but the majority class.
"""

from __future__ import annotations

from simxrd_jax.train.config import Data, TrainConfig

STEPS = 4000
VARIANTS = ("as_published", "corrected")
TASKS = ("crystal_system", "space_group")
# Lowest loss of the published variant: log sum exp(p) - max(p), p = softmax(one-hot), all that a second softmax lets through.
FLOORS = {"crystal_system": 1.7795, "space_group": 5.4307}


def configs(steps: int = STEPS) -> dict[str, TrainConfig]:
    """Name -> config; a pair differs in nothing but the variant. The optimiser is the published one."""
    return {
        f"{variant}-{task}": TrainConfig(
            model="cnn4",
            variant=variant,
            targets=(task,),
            batch=32,
            steps=steps,
            validate_every=max(steps // 5, 1),
            checkpoint_every=max(steps // 5, 1),
            validation_patterns=256,
            data=Data(split="ool_disjoint", preset="laboratory"),
        )
        for task in TASKS
        for variant in VARIANTS
    }


CONFIGS = configs()
