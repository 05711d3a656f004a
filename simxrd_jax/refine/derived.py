"""Host zone. What follows from a refinement's values: cells, atoms, densities and reflections, with uncertainties.

Coordinates, displacement parameters and occupancies are linear in the parameters (`model.PhaseArrays` holds the maps), and so
are standard uncertainties propagated through the same rows: of a position (x, 2x, 1/4) they are s, 2s and 0. Only volume and
density are not linear; their derivatives are written out. Uncertainties are those of `Refinement.sigma`, scaled by GOF.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from simxrd_jax.constants import ATOMIC_MASS, Radiation
from simxrd_jax.crystal import cell as cells
from simxrd_jax.crystal import symmetry
from simxrd_jax.crystal.constraints import COORDINATE_NAMES, U_NAMES
from simxrd_jax.crystal.structure import CrystalStructure, common_divisor, element_of, hill_formula
from simxrd_jax.crystal.structure_factor import f_squared
from simxrd_jax.io.xy import PeakTable
from simxrd_jax.refine.fit import Refinement
from simxrd_jax.refine.model import Layout, ModelArrays, build_phases
from simxrd_jax.refine.stages import tie_arrays
from simxrd_jax.types import Array

B_PER_U = 8 * math.pi**2
DENSITY = ATOMIC_MASS * 1e3 / 1e-24  # g/cm^3 of 1 u/A^3
SIX = ((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2))  # axes of the components U_NAMES


@dataclasses.dataclass(frozen=True, eq=False)
class Estimate:
    """Values and their standard uncertainties; 0 of what is held, NaN of what the data do not determine."""

    value: Float[np.ndarray, "..."]
    sigma: Float[np.ndarray, "..."]


@dataclasses.dataclass(frozen=True, eq=False)
class Atoms:
    """The asymmetric unit of a refined phase, one row an entry of its structure.

    Attributes:
      labels: as in the parameters' names; all differ.
      frac: coordinates.
      occupancy: 1 is full.
      multiplicity: atoms of the site in the cell.
      is_aniso: which entries have a tensor.
      u: U_iso, the equivalent one of tensors; the overall B of the phase included. [A^2]
      u_aniso: U11, U22, U33, U12, U13, U23 in the CIF's convention, likewise; 0 where there is none. [A^2]
    """

    labels: tuple[str, ...]
    frac: Estimate
    occupancy: Estimate
    multiplicity: Int[np.ndarray, " entry"]
    is_aniso: Bool[np.ndarray, " entry"]
    u: Estimate
    u_aniso: Estimate


@dataclasses.dataclass(frozen=True, eq=False)
class RefinedPhase:
    """A phase after a refinement.

    Attributes:
      name: of the phase.
      structure: with the refined values.
      cell: a, b, c, alpha, beta, gamma. [A, deg]
      volume: of the cell. [A^3]
      atoms: None of a phase that is refined without a model of its atoms.
      formula: of one formula unit, in the order of Hill.
      units: formula units in the cell, Z.
      mass: of a formula unit. [u]
      density: [g/cm^3]
    """

    name: str
    structure: CrystalStructure
    cell: Estimate
    volume: Estimate
    atoms: Atoms | None
    formula: str
    units: int
    mass: float
    density: Estimate


def covariance(fit: Refinement) -> Float[np.ndarray, "parameter parameter"]:
    """Covariance of all parameters, tied ones included, scaled by GOF^2; 0 of what was not free."""
    spread = np.asarray(tie_arrays(fit.model).matrix)[:, np.asarray(fit.free)]
    return fit.agreement.gof**2 * spread @ fit.covariance @ spread.T


def refined_radiation(fit: Refinement) -> Radiation:
    """The emission lines with their wavelengths and weights as refined."""
    radiation = fit.model.radiation
    lines = tuple(fit[f"instrument.wavelength.{i}"][0] for i in range(len(radiation.wavelength)))
    others = (fit[f"instrument.line_weight.{i}"][0] for i in range(1, len(radiation.weight)))
    return dataclasses.replace(radiation, wavelength=lines, weight=(radiation.weight[0], *others))


def refined_phases(fit: Refinement) -> tuple[RefinedPhase, ...]:
    """Every phase of a refinement, in the model's order."""
    spread = covariance(fit)
    return tuple(_refined_phase(fit, i, spread) for i in range(len(fit.model.phases)))


def _refined_phase(fit: Refinement, number: int, spread: np.ndarray) -> RefinedPhase:
    start, arrays = fit.model.phases[number], fit.model.arrays.phases[number]
    names, prefix = fit.model.table.names, f"phases.{start.name}."
    # Of each parameter of the phase: its index and the parts of its name, ("sites", "O1", "x").
    own = [(i, name.removeprefix(prefix).split(".")) for i, name in enumerate(names) if name.startswith(prefix)]

    def estimate(value: np.ndarray, rows: np.ndarray) -> Estimate:
        """Uncertainties of values whose derivatives with respect to all parameters are the rows."""
        sigma = np.sqrt(np.maximum(np.einsum("...i,ij,...j->...", rows, spread, rows), 0.0))
        return Estimate(value, np.where(np.any(rows[..., np.isnan(fit.sigma)] != 0, axis=-1), np.nan, sigma))

    free_cell = [i for i, parts in own if parts[0] == "cell"]
    index = np.asarray(arrays.cell_index)
    cell_rows, six = np.zeros((6, len(names))), np.array(arrays.cell_fixed, dtype=float)
    for i in np.flatnonzero(index >= 0):
        cell_rows[i, free_cell[index[i]]] = 1.0
        six[i] = fit.values[free_cell[index[i]]]
    lattice = symmetry.lattice_from_parameters(*six)
    volume, slope = _volume(six)
    volume_rows = slope @ cell_rows

    structure = dataclasses.replace(start.structure, lattice=lattice)
    sites = [(i, parts) for i, parts in own if parts[0] == "sites"]
    atoms, occupancy_rows = None, np.zeros((len(structure.species), len(names)))
    if sites:
        overall = next((i for i, parts in own if parts == ["biso"]), None)
        atoms, occupancy_rows = _atoms(fit, number, lattice, sites, overall, estimate)
        structure = dataclasses.replace(
            structure,
            frac=atoms.frac.value,
            occupancy=atoms.occupancy.value,
            biso=np.where(atoms.is_aniso, 0.0, B_PER_U * atoms.u.value),
            u_aniso=_tensors(atoms.u_aniso.value) if atoms.is_aniso.any() else None,
            has_displacement=True,
        )
    kinds = start.structure.atoms
    weights = np.asarray(arrays.crystal.mass)[[kinds.species.index(species) for species in structure.species]]
    per_entry = _multiplicity(start.structure)
    content = float(np.sum(per_entry * weights * structure.occupancy))
    content_rows = (per_entry * weights) @ occupancy_rows
    density = DENSITY * content / volume
    units, formula = _formula(structure, per_entry)
    return RefinedPhase(
        name=start.name,
        structure=structure,
        cell=estimate(six, cell_rows),
        volume=estimate(np.array(volume), volume_rows),
        atoms=atoms,
        formula=formula,
        units=units,
        mass=content / units,
        density=estimate(np.array(density), density * (content_rows / content - volume_rows / volume)),
    )


def _atoms(
    fit: Refinement,
    number: int,
    lattice: np.ndarray,
    sites: Sequence[tuple[int, list[str]]],
    overall: int | None,
    estimate: Callable[[np.ndarray, np.ndarray], Estimate],
) -> tuple[Atoms, np.ndarray]:
    """The asymmetric unit, and the derivatives of its occupancies.

    Args:
      fit, number: which phase.
      lattice: refined. [A]
      sites: index and parts of the name of each parameter of the sites.
      overall: index of the phase's overall B, or None.
      estimate: propagates uncertainties.
    """
    structure, arrays = fit.model.phases[number].structure, fit.model.arrays.phases[number]
    expanded, count = structure.atoms, len(fit.values)
    kinds = {"frac": COORDINATE_NAMES, "biso": ("biso",), "u": U_NAMES, "occupancy": ("occupancy",)}
    at = {kind: [i for i, parts in sites if parts[-1] in last] for kind, last in kinds.items()}
    n_entry = len(structure.species)
    # The first atom of a row is the entry itself: operators begin with the identity.
    first = [int(np.flatnonzero(expanded.site == row)[0]) for row in expanded.site_of_entry]

    frac_rows = np.zeros((n_entry, 3, count))
    frac_rows[:, :, at["frac"]] = np.asarray(arrays.coordinate_map)[first]
    frac = structure.frac + frac_rows[:, :, at["frac"]] @ (fit.values[at["frac"]] - np.asarray(arrays.coordinate_start))
    occupancy_rows = np.zeros((n_entry, count))
    occupancy_rows[np.arange(n_entry), at["occupancy"]] = 1.0

    site = np.asarray(arrays.biso_site)[first]
    u_rows, u = np.zeros((n_entry, count)), np.asarray(arrays.crystal.biso)[first] / B_PER_U
    for entry in np.flatnonzero(site >= 0):
        i = at["biso"][site[entry]]
        u[entry], u_rows[entry, i] = fit.values[i] / B_PER_U, 1 / B_PER_U
    if overall is not None:
        u = u + fit.values[overall] / B_PER_U
        u_rows[:, overall] = 1 / B_PER_U

    is_aniso = np.zeros(n_entry, dtype=bool)
    six_rows, six = np.zeros((n_entry, 6, count)), np.zeros((n_entry, 6))
    if at["u"]:
        u_map = np.stack([np.asarray(arrays.u_map)[first][:, i, j] for i, j in SIX], axis=1)
        is_aniso = np.any(u_map != 0, axis=(1, 2))
        # An isotropic U is the tensor U cos(a*_i, a*_j); how that depends on the cell is left out of the uncertainty.
        cosines = _reciprocal_cosines(lattice)
        six_rows[:, :, at["u"]] = u_map
        six_rows = six_rows + cosines[:, None] * u_rows[:, None, :]
        six = u_map @ fit.values[at["u"]] + u[:, None] * cosines
        six_rows[~is_aniso], six[~is_aniso] = 0.0, 0.0
        equivalent = _equivalent(lattice)
        u = np.where(is_aniso, six @ equivalent, u)
        u_rows = np.where(is_aniso[:, None], np.einsum("eip,i->ep", six_rows, equivalent), u_rows)
    return Atoms(
        labels=tuple(".".join(parts[1:-1]) for _, parts in sites if parts[-1] == "occupancy"),
        frac=estimate(frac, frac_rows),
        occupancy=estimate(fit.values[at["occupancy"]], occupancy_rows),
        multiplicity=_multiplicity(structure),
        is_aniso=is_aniso,
        u=estimate(u, u_rows),
        u_aniso=estimate(six, six_rows),
    ), occupancy_rows


def _volume(six: np.ndarray) -> tuple[float, np.ndarray]:
    """V = abc sqrt(1 - sum cos^2 + 2 prod cos) and its derivatives. [A^3], per A and per deg"""
    angles = np.radians(six[3:])
    cosine, sine = np.cos(angles), np.sin(angles)
    square = 1 - np.sum(cosine**2) + 2 * np.prod(cosine)
    volume = float(np.prod(six[:3]) * np.sqrt(square))
    others = np.array([cosine[1] * cosine[2], cosine[0] * cosine[2], cosine[0] * cosine[1]])
    turning = volume * sine * (cosine - others) / square
    return volume, np.concatenate([volume / six[:3], np.radians(turning)])


def _reciprocal_cosines(lattice: np.ndarray) -> np.ndarray:
    """Cosines between reciprocal axes, in the order of U_NAMES."""
    reciprocal = np.linalg.inv(lattice)
    unit = reciprocal / np.linalg.norm(reciprocal, axis=0)
    cosines = unit.T @ unit
    return np.array([cosines[i, j] for i, j in SIX])


def _equivalent(lattice: np.ndarray) -> np.ndarray:
    """Coefficients of U_eq = 1/3 sum_ij U_ij a*_i a*_j (a_i . a_j), in the order of U_NAMES.

    Reference: Fischer & Tillmanns (1988), Acta Cryst. C44, 775.
    """
    metric, lengths = lattice @ lattice.T, np.linalg.norm(np.linalg.inv(lattice), axis=0)
    return np.array([(1 if i == j else 2) * metric[i, j] * lengths[i] * lengths[j] / 3 for i, j in SIX])


def _tensors(six: np.ndarray) -> np.ndarray:
    """Symmetric tensors [entry, 3, 3] of components [entry, 6]."""
    return six[:, np.array([[0, 3, 4], [3, 1, 5], [4, 5, 2]])]


def _multiplicity(structure: CrystalStructure) -> np.ndarray:
    """Atoms of each entry's site in the cell."""
    atoms = structure.atoms
    return np.array([np.sum(atoms.site == row) * atoms.n_centring for row in atoms.site_of_entry])


def _formula(structure: CrystalStructure, multiplicity: np.ndarray) -> tuple[int, str]:
    """Formula units in the cell and the formula of one; of partly occupied sites the multiplicities decide."""
    counts: dict[str, float] = {}
    for species, total in zip(structure.species, multiplicity * structure.occupancy, strict=True):
        counts[element_of(species)] = counts.get(element_of(species), 0.0) + float(total)
    units = common_divisor(counts)
    if units:
        return units, hill_formula({element: round(count) / units for element, count in counts.items()})
    units = math.gcd(*(int(m) for m in multiplicity))
    return units, hill_formula({element: count / units for element, count in counts.items()})


def peak_tables(fit: Refinement) -> tuple[PeakTable, ...]:
    """Reflections of each phase within the range, at the first emission line; intensities are shares of the phase's strongest.

    F^2 includes the refined displacement parameters, the overall B of the phase too.
    """
    with jax.enable_x64(True):
        squares = [np.asarray(f) for f in _f_squared(fit.model.layout, fit.model.arrays, jnp.asarray(fit.values))]
    wavelength = fit["instrument.wavelength.0"][0]
    tables = []
    for phase, arrays, peaks, square in zip(fit.model.phases, fit.model.arrays.phases, fit.peak_lists, squares, strict=True):
        place, intensity = np.asarray(peaks.two_theta)[0], np.asarray(peaks.intensity)[0]
        seen = np.flatnonzero((intensity > 0) & (place >= fit.two_theta[0]) & (place <= fit.two_theta[-1]))
        seen = seen[np.argsort(place[seen], kind="stable")]
        half = np.radians(np.asarray(peaks.bragg_two_theta)[0][seen]) / 2
        tables.append(
            PeakTable(
                name=phase.name,
                hkl=np.asarray(arrays.reflections.hkl)[seen],
                multiplicity=np.asarray(arrays.reflections.multiplicity)[seen],
                d_spacing=wavelength / (2 * np.sin(half)),
                two_theta=place[seen],
                f_squared=square[seen],
                intensity=100 * intensity[seen] / max(intensity[seen].max(initial=0.0), 1e-300),
            )
        )
    return tuple(tables)


@partial(jax.jit, static_argnums=0)
def _f_squared(layout: Layout, arrays: ModelArrays, values: Float[Array, " parameter"]) -> tuple[Float[Array, " hkl"], ...]:
    """<|F|^2> of each phase's reflections with all displacement parameters. [electrons^2]"""
    found = []
    for phase in build_phases(layout, arrays, values):
        hkl = phase.reflections.hkl
        square = f_squared(phase.crystal, hkl, phase.specimen) if phase.f_squared is None else phase.f_squared
        reciprocal = cells.reciprocal_metric(cells.metric(cells.deformed_lattice(phase.crystal.lattice, phase.specimen)))
        damping = jnp.exp(-phase.specimen.biso * cells.inverse_d_squared(reciprocal, hkl) / 2.0)
        found.append(square * damping)
    return tuple(found)
