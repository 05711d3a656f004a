"""Writes torch_parity.npz: the input and what the torch networks make of it, in float64.

    python -m tests.models.torch_reference

wants torch (the extra `torch` of the package) and takes about two minutes.
"""

from __future__ import annotations

import numpy as np

from ..parity import ARRAYS, CLASSES, GRADIENTS, NAMES, patterns
from .compute import gradient, outputs


def main() -> None:
    """Computes and writes every array."""
    arrays: dict[str, np.ndarray] = {"input": patterns()}
    for name in NAMES:
        for classes in CLASSES:
            arrays |= {f"{name}/{classes}/{what}": value for what, value in outputs(name, classes).items()}
        print(name, flush=True)
    arrays |= {f"{name}/gradient": gradient(name) for name in GRADIENTS}
    np.savez_compressed(ARRAYS, **{key: value.astype(np.float32) for key, value in arrays.items()})


if __name__ == "__main__":
    main()
