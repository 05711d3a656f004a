"""Draws mp_sample.npz (512 structures) and mp_library.simxrd (2,048) at random from the full set of the Materials Project.

Run from the repository's root: python datasets/make_materials_project.py PATH_TO/mp_like_28k.npz
"""

from __future__ import annotations

import pathlib
import sys
import tempfile

import numpy as np

from simxrd_jax.library.build import build_library

SEED = 20240607
SAMPLE_SIZE, LIBRARY_SIZE = 512, 2048
PRESETS = ("laboratory", "simxrd")
HERE = pathlib.Path(__file__).parent


def draw(full_set: str, size: int) -> dict[str, np.ndarray]:
    """Arrays of structures drawn without replacement, in the order of the set."""
    data = np.load(full_set, allow_pickle=False)
    chosen = np.sort(np.random.default_rng(SEED).choice(len(data["id"]), size, replace=False))
    ptr = data["ptr"].astype(np.int64)
    counts = ptr[chosen + 1] - ptr[chosen]
    atoms = np.concatenate([np.arange(ptr[i], ptr[i + 1]) for i in chosen])
    arrays = {key: data[key][chosen] for key in ("id", "source", "note", "lattice", "sg_symprec0p01", "sg_symprec0p1")}
    arrays["ptr"] = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    return arrays | {key: data[key][atoms] for key in ("Z", "frac")}


def main(full_set: str) -> None:
    """Writes both files next to this script."""
    np.savez_compressed(HERE / "mp_sample.npz", **draw(full_set, SAMPLE_SIZE))
    with tempfile.TemporaryDirectory() as folder:
        drawn = pathlib.Path(folder) / "materials_project.npz"
        arrays = draw(full_set, LIBRARY_SIZE)
        np.savez(drawn, **{key: arrays[key] for key in ("id", "lattice", "ptr", "Z", "frac")})
        build_library([drawn], PRESETS, output=HERE / "mp_library.simxrd", overwrite=True)


if __name__ == "__main__":
    main(sys.argv[1])
