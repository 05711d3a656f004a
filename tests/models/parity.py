"""The weights and the input that both sides of the comparison with torch make for themselves, from names.

Weights are not stored: a parameter is drawn from a generator seeded by the model's name and the parameter's name in torch, so
that only the input and the outputs are in `torch_parity.npz`.
"""

from __future__ import annotations

import math
import pathlib
import zlib

import numpy as np

ARRAYS = pathlib.Path(__file__).parent / "torch_parity.npz"
SOFTMAXES = {"cnn1": 1, "cnn2": 1, "cnn3": 1, "cnn4": 2, "cnn5": 1, "cnn6": 1, "cnn7": 1, "cnn8": 1, "mlp": 2}
NAMES = (
    *(f"cnn{i}" for i in range(1, 12)),
    *("mlp", "rnn", "lstm", "gru", "birnn", "bilstm", "bigru"),
    *("transformer", "itransformer", "patchtst"),
)
CLASSES = (7, 230)
GRADIENTS = ("gru", "cnn7", "patchtst")
LABELS = (1, 4)  # of the two patterns, for the loss whose gradient is compared
GAIN = 2.0  # keeps the two patterns apart through 14 layers of rectifiers
RECURRENT_GAIN = 1.5  # of a recurrence: spectral radius 0.87, so that 3,501 steps do not amplify rounding


def parameter(model: str, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """A parameter or running statistic in torch's layout, float32."""
    generator = np.random.default_rng([zlib.crc32(model.encode()), zlib.crc32(name.encode())])
    draw = 2 * generator.random(shape, np.float32) - 1
    if len(shape) > 1:
        gain = RECURRENT_GAIN if "weight_hh" in name else GAIN
        return draw * np.float32(gain / math.sqrt(math.prod(shape[1:])))
    is_scale = name.endswith(("weight", "running_var"))
    return np.float32(0.3) * draw + np.float32(is_scale)


def patterns() -> np.ndarray:
    """Two patterns [2, 3501] of 30 and 60 peaks on a background, 0 to 100, float32."""
    generator = np.random.default_rng(20240621)
    two_theta = np.linspace(10, 80, 3501)
    rows = []
    for count in (30, 60):
        centre, width = generator.uniform(12, 80, count), generator.uniform(0.1, 0.3, count)
        height = generator.exponential(1.0, count)
        t = (two_theta[:, None] - centre) / width
        row = (height / (1 + t * t)).sum(axis=1) + 0.05 * height.max() * (1 + np.cos(two_theta / 20))
        row += 0.02 * row.max() * generator.random(3501)
        rows.append(100 * row / row.max())
    return np.stack(rows).astype(np.float32)
