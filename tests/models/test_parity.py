"""Every published network against torch with the same weights: outputs, logits and gradients.

The referent is the float64 result of `torch_reference`; the tolerance is 1e-4 of the range of the outputs, and of the
difference between the two patterns, since outputs that hardly depend on the input would agree whatever the network did.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from .conftest import loaded
from .parity import ARRAYS, CLASSES, GRADIENTS, LABELS, NAMES, SOFTMAXES, patterns

TOLERANCE = 1e-4
SLOW = pytest.mark.slow
STORED = np.load(ARRAYS)


def test_every_model_has_its_arrays():
    names = {f"{name}/{classes}/logits" for name in NAMES for classes in CLASSES}
    names |= {f"{name}/{classes}/output" for name in SOFTMAXES for classes in CLASSES}
    assert names | {f"{name}/gradient" for name in GRADIENTS} | {"input"} == set(STORED.files)
    np.testing.assert_array_equal(STORED["input"], patterns())
    assert patterns().min() >= 0
    assert patterns().max() == 100


def check(value: np.ndarray, reference: np.ndarray) -> None:
    assert value.shape == reference.shape
    assert value.dtype == np.float32
    error = np.abs(value - reference).max()
    assert error <= TOLERANCE * np.ptp(reference)
    assert error <= TOLERANCE * np.abs(reference[0] - reference[1]).max()


@pytest.mark.parametrize(
    ("name", "classes"), [(n, c) if c == 7 else pytest.param(n, c, marks=SLOW) for n in NAMES for c in CLASSES]
)
def test_outputs_are_those_of_torch(name: str, classes: int, evaluate):
    ours = evaluate(name, "as_published", STORED["input"], classes)
    reference = STORED[f"{name}/{classes}/logits"]
    check(ours["logits"], reference)
    if name in SOFTMAXES:
        reference = STORED[f"{name}/{classes}/output"]
        np.testing.assert_allclose(ours["output"].sum(axis=1), 1.0, rtol=1e-5)
        error = np.abs(ours["output"] - reference).max()
        assert error <= TOLERANCE * np.ptp(reference)
    else:
        np.testing.assert_array_equal(ours["output"], ours["logits"])


@pytest.mark.parametrize("name", GRADIENTS)
def test_gradients_are_those_of_torch(name: str):
    graph, state = nnx.split(loaded(name, 7, "as_published"))

    def loss(x):
        logits = nnx.merge(graph, state).logits(x)  # pyright: ignore[reportAttributeAccessIssue]
        return -jnp.sum(jax.nn.log_softmax(logits)[jnp.arange(2), jnp.asarray(LABELS)])

    ours = np.asarray(jax.jit(jax.grad(loss))(jnp.asarray(STORED["input"])))
    reference = STORED[f"{name}/gradient"]
    assert np.abs(reference).max() > 0
    assert np.abs(ours - reference).max() <= TOLERANCE * np.abs(reference).max()


@pytest.mark.parametrize("name", [n if n in ("cnn5", "gru", "patchtst") else pytest.param(n, marks=SLOW) for n in NAMES])
def test_stored_arrays_are_those_of_the_script(name: str):
    pytest.importorskip("torch")
    from .torch_reference.compute import gradient, outputs

    for classes in CLASSES:
        for what, value in outputs(name, classes).items():
            stored = STORED[f"{name}/{classes}/{what}"]
            np.testing.assert_allclose(value, stored, rtol=1e-6, atol=1e-6 * np.ptp(stored))
    if name in GRADIENTS:
        stored = STORED[f"{name}/gradient"]
        np.testing.assert_allclose(gradient(name), stored, atol=1e-6 * np.abs(stored).max())
