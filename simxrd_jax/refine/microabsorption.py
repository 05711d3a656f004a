"""Host zone. Microabsorption in a mixture of grains: Brindley's correction of weight fractions.

A grain that absorbs more than its surroundings shows less of its volume, by the factor

    tau = (1/V) integral over the grain of exp(-(mu - mean mu) x) dV,

x being the path of the rays in and out of it, and mean mu that of the solid mixture. Grains are spheres. In a mixture the
apparent volumes are divided by their tau, and the mean follows from the volumes: both are found together.

Where it holds: grains that are small against the depth to which the rays reach. Brindley calls powders with mu D below 0.01
fine, up to 0.1 medium, up to 1 coarse; beyond, he gives no correction.

Reference: Brindley (1945), Philos. Mag. 36, 347; Klug & Alexander (1974), X-ray Diffraction Procedures, ch. 7.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from simxrd_jax.constants import ATOMIC_MASS
from simxrd_jax.crystal.form_factors import atomic_mass, mass_absorption
from simxrd_jax.crystal.structure import CrystalStructure, element_of
from simxrd_jax.errors import InputError
from simxrd_jax.refine.statistics import weight_fractions

if TYPE_CHECKING:
    from simxrd_jax.refine.fit import Refinement

# Beyond this |mu - mean mu| D the correction is not to be trusted: Brindley's "very coarse".
COARSE = 1.0
# Rules of Gauss and Legendre in the radius and the polar angle, and of equal steps in the azimuth: tau to 1e-5 at
# |mu - mean mu| D = 1 and to 3e-5 at 2.
RADIAL, POLAR, AZIMUTHAL = 24, 24, 24
# Of the fixed point of fractions and mean coefficient.
TOLERANCE, MAX_TURNS = 1e-12, 200


def linear_absorption(structure: CrystalStructure, wavelength: float) -> float:
    """Linear absorption coefficient of a crystal without pores. [1/um]

    Args:
      structure: its atoms and cell.
      wavelength: [A]

    Raises:
      InputError: an element or a wavelength that the table does not have.
    """
    atoms = structure.atoms
    # [u cm^2/g] of the atoms of one lattice point, times their number in the cell.
    per_species = [atomic_mass(element_of(name)) * mass_absorption(element_of(name), wavelength) for name in atoms.species]
    area = len(atoms.centring) * float(np.sum(np.asarray(atoms.occupancy) @ np.array(per_species)))
    # u -> g is 1e3 ATOMIC_MASS, A^-3 -> cm^-3 is 1e24, 1/cm -> 1/um is 1e-4.
    return area * ATOMIC_MASS * 1e23 / abs(float(np.linalg.det(structure.lattice)))


def brindley_tau(contrast: float, two_theta: float = 90.0) -> float:
    """Absorption factor of a spherical grain.

    The mean path is 3 D/4 in and out together at every angle, tau = 1 - (3/4)(mu - mean mu) D + ...; the angle matters in
    second order only, by 0.05 % at a contrast of 0.1 and 0.5 % at 0.3, and the middle of a pattern stands for all.

    Args:
      contrast: (mu - mean mu) D, D being the diameter; negative for a grain that absorbs less than its surroundings.
      two_theta: [deg]
    """
    nodes, weights = np.polynomial.legendre.leggauss(RADIAL)
    r, w_r = 0.5 * (nodes + 1.0), 0.5 * weights
    nodes, weights = np.polynomial.legendre.leggauss(POLAR)
    phi = 2.0 * np.pi * (np.arange(AZIMUTHAL) + 0.5) / AZIMUTHAL
    r, u, phi = np.meshgrid(r, nodes, phi, indexing="ij")
    weight = w_r[:, None, None] * weights[None, :, None] * r**2
    across = r * np.sqrt(1.0 - u**2)
    point = np.stack([across * np.cos(phi), across * np.sin(phi), r * u], axis=-1)
    # Both rays from the point outwards; the polar axis halves their angle, so that the sum of paths is smooth about it.
    half = np.radians(180.0 - two_theta) / 2.0
    path = np.zeros(r.shape)
    for sign in (1.0, -1.0):
        along = point @ np.array([sign * np.sin(half), 0.0, np.cos(half)])
        path += -along + np.sqrt(np.maximum(1.0 - np.sum(point**2, axis=-1) + along**2, 0.0))
    return float(np.sum(weight * np.exp(-0.5 * contrast * path)) / (np.sum(weight)))


@dataclasses.dataclass(frozen=True, eq=False)
class Microabsorption:
    """Weight fractions with and without the correction, of each phase.

    Attributes:
      names: of the phases.
      fraction: corrected.
      sigma: its standard uncertainty, that of the scale factors alone.
      tau: absorption factor.
      absorption: linear coefficient of each phase. [1/um]
      mean_absorption: of the solid mixture. [1/um]
      diameter: of the grains. [um]
      warnings: one sentence each.
    """

    names: tuple[str, ...]
    fraction: Float[np.ndarray, " phase"]
    sigma: Float[np.ndarray, " phase"]
    tau: Float[np.ndarray, " phase"]
    absorption: Float[np.ndarray, " phase"]
    mean_absorption: float
    diameter: Float[np.ndarray, " phase"]
    warnings: tuple[str, ...]

    def __getitem__(self, name: str) -> tuple[float, float, float]:
        """Corrected fraction, its standard uncertainty, and tau of a phase."""
        i = self.names.index(name)
        return float(self.fraction[i]), float(self.sigma[i]), float(self.tau[i])


def corrected_fractions(
    names: Sequence[str],
    scales: Float[np.ndarray, " phase"],
    covariance: Float[np.ndarray, "phase phase"],
    mass_per_scale: Float[np.ndarray, " phase"],
    absorption: Float[np.ndarray, " phase"],
    diameters: Mapping[str, float],
) -> Microabsorption:
    """Weight fractions of a mixture of spherical grains, w proportional to (S Z M/V)/tau.

    A scale S is proportional to the volume that seems to be there, so that S/tau is to the volume itself, which decides the
    mean coefficient.

    Args:
      names: of the phases.
      scales: `Specimen.scale` of each.
      covariance: of the scales.
      mass_per_scale: Z M/V, in any one unit.
      absorption: linear coefficients. [1/um]
      diameters: of the grains; a phase that is not named is fine (tau = 1). [um]

    Raises:
      InputError: a diameter of a phase that there is not, or one that is no positive number.
    """
    for name, diameter in diameters.items():
        if name not in names:
            raise InputError(f"a grain diameter is given for {name!r}, which is no phase; choose from {', '.join(names)}")
        if not (np.isfinite(diameter) and diameter > 0):
            raise InputError(f"the grain diameter {diameter:g} of {name} must be a positive number; give it in micrometres")
    diameter = np.array([diameters.get(name, 0.0) for name in names])
    tau, mean = np.ones(len(names)), 0.0
    for _ in range(MAX_TURNS):
        before, volume = tau, scales / tau
        mean = float(volume @ absorption / np.sum(volume))
        tau = np.array([brindley_tau(c) for c in (absorption - mean) * diameter])
        if np.max(np.abs(tau - before)) < TOLERANCE:
            break
    fraction, sigma = weight_fractions(
        scales / tau, covariance / tau / tau[:, None], np.asarray(mass_per_scale), np.ones(len(names))
    )
    return Microabsorption(
        names=tuple(names),
        fraction=fraction,
        sigma=sigma,
        tau=tau,
        absorption=np.asarray(absorption),
        mean_absorption=mean,
        diameter=diameter,
        warnings=tuple(
            f"{name}: grains of {d:g} um with (mu - mean mu) D = {c:.2g} are too coarse for Brindley's correction."
            for name, d, c in zip(names, diameter, (absorption - mean) * diameter, strict=True)
            if abs(c) > COARSE
        ),
    )


def of_refinement(fit: Refinement, diameters: Mapping[str, float]) -> Microabsorption:
    """The correction of a finished refinement, whose own fractions stay beside it.

    Args:
      fit: finished.
      diameters: phase -> diameter of its grains. [um]

    Raises:
      InputError: see `corrected_fractions` and `linear_absorption`.
    """
    names = [phase.name for phase in fit.model.phases]
    at = [fit.model.table.index(f"phases.{name}.scale") for name in names]
    scales = fit.values[at]
    # A scale that was not free, or is tied, is exact.
    place = {int(index): i for i, index in enumerate(fit.free)}
    pick = np.zeros((len(at), len(place)))
    for row, index in enumerate(at):
        if index in place:
            pick[row, place[index]] = 1.0
    return corrected_fractions(
        names,
        scales,
        pick @ fit.covariance @ pick.T * fit.agreement.gof**2,
        np.array([fit.weight_fractions[name][0] for name in names]) / scales,
        np.array([linear_absorption(phase.structure, fit.model.radiation.mean_wavelength) for phase in fit.model.phases]),
        diameters,
    )
