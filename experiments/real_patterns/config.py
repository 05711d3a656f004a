"""python -m experiments.real_patterns

Needs two libraries, made once (about 5 minutes each):

    simxrd library build mp_like_28k.npz -o materials_project.simxrd
    simxrd library build mp_like_28k.npz amcsd_ordered.npz -o materials_project_minerals.simxrd

Wall time: about 15 minutes on 2 CPU cores. Expected: minerals in the library help little on the RRUFF patterns, which are of
minerals.
"""

from __future__ import annotations

from simxrd_jax.train.config import POWDERNET_VARIATION, Data, TrainConfig, powdernet_optimizer

STEPS = 4000
LIBRARIES = {
    "materials_project": "materials_project.simxrd",
    "materials_project_and_minerals": "materials_project_minerals.simxrd",
}
PATTERNS = ("rruff908", "rruff90_xred", "measured")


def configs(steps: int = STEPS) -> dict[str, TrainConfig]:
    """Name -> config; all structures of a library are trained on, since the test is measured."""
    return {
        name: TrainConfig(
            model="powdernet",
            targets=("space_group", "crystal_system", "extinction_group", "lattice"),
            batch=16,
            steps=steps,
            validate_every=max(steps // 5, 1),
            checkpoint_every=max(steps // 5, 1),
            validation_patterns=1024,
            data=Data(library=library, split="in_library", preset="laboratory", **POWDERNET_VARIATION),
            optimizer=powdernet_optimizer(steps),
        )
        for name, library in LIBRARIES.items()
    }


CONFIGS = configs()
