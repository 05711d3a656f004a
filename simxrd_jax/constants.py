"""Host and device. Physical constants and emission lines, each with its source and unit."""

from __future__ import annotations

from dataclasses import dataclass

# CODATA 2018; h, k exact in the SI since 2019.
PLANCK = 6.62607015e-34  # J s
BOLTZMANN = 1.380649e-23  # J/K
ATOMIC_MASS = 1.66053906660e-27  # kg
HC_EV_ANGSTROM = 12398.419843320026  # eV A, exact since 2019; lambda[A] = hc / E[eV]


@dataclass(frozen=True)
class Radiation:
    """Emission lines of a source: wavelengths in A (primary line first), their relative intensities, natural widths or None.

    A width is the Lorentzian FWHM in A; without widths a line is sharp.
    """

    name: str
    wavelength: tuple[float, ...]
    weight: tuple[float, ...]
    fwhm: tuple[float, ...] | None = None

    @property
    def mean_wavelength(self) -> float:
        """Intensity-weighted mean. [A]"""
        return sum(w * x for w, x in zip(self.weight, self.wavelength, strict=True)) / sum(self.weight)


# K-alpha1, K-alpha2 of Cu: 1.540593 and 1.544427 A (Hoelzer et al. 1997, Phys. Rev. A 56, 4554, peak positions on the
# scale of NIST SRM certificates). The other elements: International Tables for Crystallography C (2004), table 4.2.2.4.
# K-alpha2/K-alpha1 = 0.5 before a monochromator.
_DOUBLETS = {
    "Cr": (2.289726, 2.293651),
    "Fe": (1.936041, 1.939973),
    "Co": (1.788996, 1.792835),
    "Cu": (1.540593, 1.544427),
    "Mo": (0.7093171, 0.713607),
    "Ag": (0.5594218, 0.5638131),
}
RADIATIONS = {
    **{f"{e}Ka": Radiation(f"{e}Ka", lines, (1.0, 0.5)) for e, lines in _DOUBLETS.items()},
    **{f"{e}Ka1": Radiation(f"{e}Ka1", lines[:1], (1.0,)) for e, lines in _DOUBLETS.items()},
    **{f"{e}Ka2": Radiation(f"{e}Ka2", lines[1:], (1.0,)) for e, lines in _DOUBLETS.items()},
    # Cu K-alpha as four Lorentzians (Hoelzer et al. 1997, table II and III): energies 8047.8372, 8045.3672, 8027.9935 and
    # 8026.5041 eV, FWHM 2.285, 3.358, 2.666 and 3.571 eV, integrated intensities.
    "CuKa4": Radiation(
        "CuKa4",
        tuple(HC_EV_ANGSTROM / energy for energy in (8047.8372, 8045.3672, 8027.9935, 8026.5041)),
        (0.579, 0.080, 0.236, 0.105),
        tuple(
            HC_EV_ANGSTROM / energy * width / energy
            for energy, width in ((8047.8372, 2.285), (8045.3672, 3.358), (8027.9935, 2.666), (8026.5041, 3.571))
        ),
    ),
    # With K-beta1,3 (8905.413 eV, Hoelzer et al. 1997) as a Ni filter leaves it, and W L-alpha1 of an old tube (8398.242 eV,
    # Deslattes et al. 2003, Rev. Mod. Phys. 75, 35). Their weights differ from tube to tube and are to be refined.
    "CuKa+Kb": Radiation("CuKa+Kb", (*_DOUBLETS["Cu"], HC_EV_ANGSTROM / 8905.413), (1.0, 0.5, 0.01)),
    "CuKa+Kb+WLa": Radiation(
        "CuKa+Kb+WLa", (*_DOUBLETS["Cu"], HC_EV_ANGSTROM / 8905.413, HC_EV_ANGSTROM / 8398.242), (1.0, 0.5, 0.01, 0.005)
    ),
    # The single Cu line of the SimXRD-4M patterns, the mean of the doublet.
    "SimXRD": Radiation("SimXRD", (1.54184,), (1.0,)),
}
