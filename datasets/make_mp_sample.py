"""Draws mp_sample.npz: 512 structures of the Materials Project, at random with a fixed seed, from the full library.

Run from the repository's root: python datasets/make_mp_sample.py PATH_TO/mp_like_28k.npz
"""

from __future__ import annotations

import pathlib
import sys

import numpy as np

SEED = 20240607
SIZE = 512


def main(library: str) -> None:
    """Writes the sample next to this script."""
    data = np.load(library, allow_pickle=False)
    chosen = np.sort(np.random.default_rng(SEED).choice(len(data["id"]), SIZE, replace=False))
    ptr = data["ptr"].astype(np.int64)
    counts = ptr[chosen + 1] - ptr[chosen]
    atoms = np.concatenate([np.arange(ptr[i], ptr[i + 1]) for i in chosen])
    arrays = {key: data[key][chosen] for key in ("id", "source", "note", "lattice", "sg_symprec0p01", "sg_symprec0p1")}
    arrays["ptr"] = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    arrays["Z"] = data["Z"][atoms]
    arrays["frac"] = data["frac"][atoms]
    np.savez_compressed(pathlib.Path(__file__).with_name("mp_sample.npz"), **arrays)


if __name__ == "__main__":
    main(sys.argv[1])
