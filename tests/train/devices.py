"""Five steps of a run on all devices of a process: python devices.py CONFIG.py OUT.npz CACHE."""

from __future__ import annotations

import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from simxrd_jax.train.config import TrainConfig, load_config
from simxrd_jax.train.run import open_library, set_up
from simxrd_jax.train.state import draw_on, make_step, no_totals, part_key, replicated, run_keys

STEPS = 5


def five_steps(config: TrainConfig) -> dict[str, Any]:
    """Devices, structures of each step, sums of losses, parameters and statistics, and the first step's gradient."""
    run = set_up(config, open_library(config.data.library))
    step = make_step(run.definition, run.optimizer, run.losses, config, run.mesh)
    state, totals, stream = run.state, replicated(no_totals(), run.mesh), replicated(run.stream, run.mesh)
    losses, gradient = [], {}
    for _ in range(STEPS):
        state, totals = step(state, totals, stream)
        losses.append(float(totals.loss))
        # Adam's first moments are 0.1 of the first gradient then; the parameters would not tell its scale.
        gradient = gradient or {f"gradient {i}": np.asarray(v) for i, v in enumerate(jax.tree.leaves(state.moments))}
    key = part_key(run_keys(config.seed)[0], "train")
    draw = jax.jit(lambda s, n: draw_on(run.mesh, s, key, n, config.data.copies).structure)
    structures = [np.asarray(draw(stream, jnp.asarray(n, jnp.int32))) for n in range(STEPS)]
    leaves = jax.tree.leaves((state.network.parameters, state.network.statistics))
    named = {f"leaf {i}": np.asarray(v) for i, v in enumerate(leaves)}
    return {"devices": run.mesh.size, "losses": losses, "structures": structures, **gradient, **named}


if __name__ == "__main__":
    jax.config.update("jax_compilation_cache_dir", sys.argv[3])
    np.savez(sys.argv[2], **five_steps(load_config(sys.argv[1])[1]))
