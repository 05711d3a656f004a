"""Weights of `parity.parameter` in models of ours."""

from __future__ import annotations

import re

import jax.numpy as jnp
import numpy as np
from flax import nnx

from .parity import parameter


def load(model: nnx.Module, name: str) -> None:
    """Gives a model of ours the weights that torch has."""
    state = nnx.state(model, (nnx.Param, nnx.BatchStat))
    for path, variable in nnx.to_flat_state(state):
        value = _of_torch(name, [str(part) for part in path[1:]], variable.shape)
        assert value.shape == variable.shape, path
        variable.set_value(jnp.asarray(value))
    nnx.update(model, state)


def _of_torch(model: str, path: list[str], shape: tuple[int, ...]) -> np.ndarray:
    """The value of one of our parameters, by its path, from the parameter that torch has for it."""
    where, leaf = path[:-1], path[-1]

    def draw(name: str, torch_shape: tuple[int, ...]) -> np.ndarray:
        return parameter(model, name, torch_shape)

    if leaf in ("input_kernel", "input_bias", "hidden_kernel", "hidden_bias"):
        kind = ("weight" if leaf.endswith("kernel") else "bias") + ("_ih" if leaf.startswith("input") else "_hh")
        layer, direction = int(where[-3]), int(where[-1])  # layers.L.directions.D
        return draw(f"rnn.{kind}_l{layer}{('', '_reverse')[direction]}", shape[::-1]).T
    if leaf.startswith("embedding_"):
        return draw("embedding.weight", shape[::-1]).T if leaf == "embedding_kernel" else draw("embedding.bias", shape)
    prefix = re.sub(r"^layers\.", "encoder.layers.", ".".join(where)).replace("attention.output", "attention.out_proj")
    if model == "transformer":
        prefix = prefix.replace(".attention", ".self_attn").replace(".fc", ".linear")
    if where[-1] in ("query", "key", "value"):
        block, d = ("query", "key", "value").index(where[-1]), shape[-1]
        joint = prefix.rsplit(".", 1)[0]
        if leaf == "bias":
            return draw(f"{joint}.in_proj_bias", (3 * d,))[block * d : (block + 1) * d]
        return draw(f"{joint}.in_proj_weight", (3 * d, d))[block * d : (block + 1) * d].T
    statistics = {"mean": "running_mean", "variance": "running_var", "scale": "weight", "bias": "bias", "kernel": "weight"}
    name = f"{prefix}.{statistics[leaf]}"
    return draw(name, shape[::-1]).T if leaf == "kernel" else draw(name, shape)
