"""Outputs and gradients of the torch networks with the weights of `parity.parameter`."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from ..parity import LABELS, SOFTMAXES, parameter, patterns
from .networks import network


def loaded(name: str, classes: int) -> torch.nn.Module:
    """The network in evaluation, in float64."""
    model = network(name, classes).double().eval()
    for key, value in model.state_dict(keep_vars=True).items():
        if key.endswith("num_batches_tracked"):
            continue
        with torch.no_grad():
            value.copy_(torch.from_numpy(parameter(name, key, tuple(value.shape))))
    return model


def softmaxed(logits: torch.Tensor, name: str) -> torch.Tensor:
    """With the softmaxes of the published code."""
    for _ in range(SOFTMAXES.get(name, 0)):
        logits = torch.softmax(logits, dim=-1)
    return logits


def outputs(name: str, classes: int) -> dict[str, np.ndarray]:
    """Logits and, where the published network takes softmaxes, what they make of them."""
    with torch.no_grad():
        logits = loaded(name, classes)(torch.from_numpy(patterns()).double())
    found = {"logits": logits.numpy()}
    return found | {"output": softmaxed(logits, name).numpy()} if name in SOFTMAXES else found


def gradient(name: str) -> np.ndarray:
    """d loss / d input of the 7-class network's logits, the loss being the sum of the patterns' cross entropies."""
    x = torch.from_numpy(patterns()).double().requires_grad_()
    F.cross_entropy(loaded(name, 7)(x), torch.tensor(LABELS), reduction="sum").backward()
    assert x.grad is not None
    return x.grad.numpy()
