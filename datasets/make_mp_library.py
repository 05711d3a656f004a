"""Builds mp_library.simxrd: 2,048 structures of the Materials Project, drawn at random with a fixed seed from the full set.

Run from the repository's root: python datasets/make_mp_library.py PATH_TO/mp_like_28k.npz
"""

from __future__ import annotations

import pathlib
import sys
import tempfile

import numpy as np

from simxrd_jax.library.build import build_library

SEED = 20240607
SIZE = 2048


def main(full_set: str) -> None:
    """Writes the library next to this script."""
    data = np.load(full_set, allow_pickle=False)
    chosen = np.sort(np.random.default_rng(SEED).choice(len(data["id"]), SIZE, replace=False))
    ptr = data["ptr"].astype(np.int64)
    counts = ptr[chosen + 1] - ptr[chosen]
    atoms = np.concatenate([np.arange(ptr[i], ptr[i + 1]) for i in chosen])
    with tempfile.TemporaryDirectory() as folder:
        drawn = pathlib.Path(folder) / "materials_project.npz"
        np.savez(
            drawn,
            id=data["id"][chosen],
            lattice=data["lattice"][chosen],
            ptr=np.concatenate([[0], np.cumsum(counts)]).astype(np.int32),
            Z=data["Z"][atoms],
            frac=data["frac"][atoms],
        )
        output = pathlib.Path(__file__).with_name("mp_library.simxrd")
        build_library([drawn], ("laboratory", "simxrd"), output=output, overwrite=True)


if __name__ == "__main__":
    main(sys.argv[1])
