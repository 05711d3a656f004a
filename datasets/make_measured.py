"""Writes measured.npz: measured patterns of one phase whose licences allow it, on their own points, with their space groups.

Run from the repository's root: python datasets/make_measured.py PATH_TO/experimental
"""

from __future__ import annotations

import pathlib
import sys

import numpy as np

from simxrd_jax.io.measured import Measurement, load_xred
from simxrd_jax.io.xy import read_xy

XRED = "XRED: B. Cao and collaborators, github.com/WPEM/XRED; space groups from the CIFs of the Crystallography Open Database."
DARA = (
    "Dara: github.com/CederGroupHub/dara, dataset of weighed precursors; Malvern Panalytical Aeris, Cu K-alpha. 90.0 wt% "
    "Li2CO3 and 10.0 wt% ZrO2 (weighed): the label is that of Li2CO3, C2/c."
)
RBNB2O5F = (
    "RbNb2O5F: O. Zakary, github.com/ozakary/data-RbM2O5F, powder_X-ray_diffraction; Fd-3m as refined there with FullProf."
)
# Means of the doublets that the sources state: 1.540598 and 1.544426 A; 1.54056 and 1.54439 A; two to one.
DARA_WAVELENGTH = (2 * 1.540598 + 1.544426) / 3
RBNB2O5F_WAVELENGTH = (2 * 1.54056 + 1.54439) / 3
LICENCE = """MIT License

XRED: Copyright (c) 2022 daweedkob
Dara: Copyright (c) the authors of CederGroupHub/dara
RbNb2O5F: Copyright (c) 2025 Ouail Zakary

"""


def main(experimental: str) -> None:
    """Writes the file next to this script."""
    folder = pathlib.Path(experimental)
    licence = (folder / "lab_xred" / "LICENSE").read_text()
    terms = licence[licence.index("Permission is hereby granted") :]
    dara = read_xy(folder / "qpa_dara_precursors/normalized/Li2CO3_0p9001-ZrO2_0p1000--8min.xrdml.xy")
    rbnb2o5f = read_xy(folder / "lab_RbNb2O5F_ozakary/RbNb2O5F.dat")
    found = [
        *((m, XRED) for m in load_xred(folder / "lab_xred").measurements),
        (Measurement("dara Li2CO3 (90 wt%) + ZrO2", *dara, DARA_WAVELENGTH, 15), DARA),
        (Measurement("ozakary RbNb2O5F", *rbnb2o5f, RBNB2O5F_WAVELENGTH, 227), RBNB2O5F),
    ]
    target = pathlib.Path(__file__).with_name("measured.npz")
    beside = target.with_suffix(".part.npz")
    np.savez_compressed(
        beside,
        id=np.array([m.id for m, _ in found]),
        ptr=np.cumsum([0, *(len(m.two_theta) for m, _ in found)]),
        two_theta=np.concatenate([m.two_theta for m, _ in found]),
        intensity=np.concatenate([m.intensity for m, _ in found]),
        wavelength=np.array([m.wavelength for m, _ in found]),
        space_group=np.array([m.space_group for m, _ in found]),
        source=np.array([source for _, source in found]),
        licence=np.array(LICENCE + terms),
    )
    beside.replace(target)


if __name__ == "__main__":
    main(sys.argv[1])
