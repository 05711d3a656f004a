"""Type checks of the models, and models with the weights that torch has, made once."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx
from jaxtyping import install_import_hook

install_import_hook(["simxrd_jax.models"], "runtime_types.check")

from simxrd_jax.models import create_model  # noqa: E402

from .loading import load  # noqa: E402


@cache
def loaded(name: str, classes: int, variant: str) -> nnx.Module:
    """A model with the weights of `parity.parameter`, no initial weights being drawn."""
    model = nnx.eval_shape(lambda: create_model(name, num_classes=classes, variant=variant, rngs=nnx.Rngs(params=0)))
    load(model, name)
    return model


@cache
def evaluator(name: str, variant: str, classes: int = 7) -> Callable[[Any], dict[str, np.ndarray]]:
    """Logits and outputs of a loaded model in evaluation, compiled once for all tests."""
    graph, state = nnx.split(loaded(name, classes, variant))

    @jax.jit
    def run(state: Any, x: Any) -> dict[str, Any]:
        model: Any = nnx.merge(graph, state)
        return {"logits": model.logits(x), "output": model(x)}

    return lambda x: jax.tree.map(np.asarray, run(state, x))


@pytest.fixture(scope="session")
def evaluate() -> Callable[..., dict[str, np.ndarray]]:
    """evaluate(name, variant, x) or (name, variant, x, classes)."""

    def call(name: str, variant: str, x: Any, classes: int = 7) -> dict[str, np.ndarray]:
        return evaluator(name, variant, classes)(x)

    return call
