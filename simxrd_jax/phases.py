"""Host zone. From a CIF or a structure object to the phase that the forward model takes, in one call."""

from __future__ import annotations

import dataclasses
import difflib
import math
import os
from typing import Any, NamedTuple

import numpy as np

from simxrd_jax.constants import RADIATIONS, Radiation
from simxrd_jax.crystal.build import make_crystal
from simxrd_jax.crystal.form_factors import form_factors as look_up_form_factors
from simxrd_jax.crystal.reflections import DEFAULT_MARGIN, bucket_size, make_reflections, pad_reflections
from simxrd_jax.crystal.structure import CrystalStructure
from simxrd_jax.errors import InputError, check_two_theta_range
from simxrd_jax.io.structures import DEFAULT_SYMPREC
from simxrd_jax.presets import Preset
from simxrd_jax.types import Crystal, ReflectionList

# X-ray wavelengths that a number may mean; outside it is in nanometres or an energy. [A]
WAVELENGTH_RANGE = (0.01, 10.0)
# Smallest buckets. A structure below all of them shares one compiled program with the others below; the padded atoms and
# reflections cost less than a millisecond a pattern, a compilation more than a second.
MIN_BUCKET = {"atom": 64, "species": 8, "hkl": 256, "member": 1024}
# Where the tables of f0 end, in sin(theta)/lambda. [1/A]
TABLE_LIMIT = {"it92": 2.0, "waasmaier": 6.0}


class LoadedPhase(NamedTuple):
    """A structure with what the forward model takes of it."""

    structure: CrystalStructure
    crystal: Crystal
    reflections: ReflectionList


def load_phase(
    source: Any,
    radiation: Radiation | str | float,
    two_theta: tuple[float, ...],
    *,
    symprec: float | None = None,
    form_factors: str = "it92",
    dispersion: bool = True,
    max_strain: float = 0.0,
    max_shift: float = 0.0,
    margin: float = DEFAULT_MARGIN,
    bucket: bool = False,
    dtype: Any = None,
) -> LoadedPhase:
    """Reads a structure and lists its reflections for a radiation and a 2theta range.

    Args:
      source: path of a CIF, `CrystalStructure`, pymatgen `Structure` or ASE `Atoms`.
      radiation: emission lines, their name, or one wavelength [A]; dispersion is taken at the mean wavelength.
      two_theta: start and stop, or start, stop and step. [deg]
      symprec: tolerance at which spglib finds the symmetry; None keeps the operators of a CIF or `CrystalStructure` and takes
        the default for objects that state none. [A]
      form_factors: "it92" or "waasmaier".
      dispersion: False sets f' = f'' = 0.
      max_strain: greatest relative change of a d-spacing that the conditions will bring.
      max_shift: greatest shift of a peak that they will bring. [deg]
      margin: reflections this far outside the range are listed for their tails. [deg]
      bucket: pad everything to power-of-two lengths, so that different structures share compiled programs.
      dtype: of the crystal's arrays; None is float64.

    Returns:
      Structure (its notes extended by those of the form factors), crystal and reflections.

    Raises:
      InputError: the source describes no structure, an element is not in the tables, or no reflection can reach the range.
    """
    radiation = as_radiation(radiation)
    lines = np.asarray(radiation.wavelength)
    start, stop = float(two_theta[0]), float(two_theta[1])
    check_two_theta_range(start, stop, stop - start)
    structure = as_structure(source, symprec)
    try:
        tables = look_up_form_factors(structure.atoms.species, radiation.mean_wavelength, form_factors, dispersion)
        structure = dataclasses.replace(structure, notes=(*structure.notes, *tables.notes))
        atoms = structure.atoms
        crystal = make_crystal(
            structure,
            radiation.mean_wavelength,
            form_factors,
            dispersion,
            n_atom=bucket_size(len(atoms.frac), MIN_BUCKET["atom"]) if bucket else None,
            n_species=bucket_size(len(atoms.species), MIN_BUCKET["species"]) if bucket else None,
            dtype=dtype,
        )
        reachable = make_reflections(structure, lines, start, stop, margin=max_shift, max_strain=max_strain)
        if not np.any(reachable.multiplicity):
            raise InputError(_no_reflection(structure, radiation, start, stop))
        reflections = make_reflections(structure, lines, start, stop, margin=margin + max_shift, max_strain=max_strain)
    except InputError as error:
        message = str(error)
        raise InputError(message if message.startswith(structure.source) else f"{structure.source}: {message}") from None
    s_max = _largest_s(crystal, reflections, lines, stop)
    if s_max > TABLE_LIMIT[form_factors]:
        end = f"the {form_factors} form factors end at {TABLE_LIMIT[form_factors]:g}"
        remedy = "shorten the range" if form_factors == "waasmaier" else "take the table waasmaier or a shorter range"
        note = f"sin(theta)/lambda reaches {s_max:.2g} 1/A, {end}: {remedy}."
        structure = dataclasses.replace(structure, notes=(*structure.notes, note))
    if bucket:
        n_hkl = bucket_size(len(reflections.hkl), MIN_BUCKET["hkl"])
        n_member = bucket_size(len(reflections.member_hkl), MIN_BUCKET["member"])
        reflections = pad_reflections(reflections, n_hkl, n_member)
    return LoadedPhase(structure, crystal, reflections)


def load_phase_for(source: Any, preset: Preset, **options: Any) -> LoadedPhase:
    """`load_phase` with the radiation, range, strains, shifts and margin of a preset; `options` are its other arguments."""
    reach: dict[str, Any] = {"max_strain": preset.max_strain, "max_shift": preset.max_shift, "margin": preset.margin()}
    return load_phase(source, preset.radiation, preset.two_theta, **{**reach, **options})


def _largest_s(crystal: Crystal, reflections: ReflectionList, lines: np.ndarray, stop: float) -> float:
    """Greatest sin(theta)/lambda of a listed reflection that falls within the range. [1/A]"""
    lattice = np.asarray(crystal.lattice, dtype=np.float64)
    s = 0.5 * np.linalg.norm(np.linalg.solve(lattice, np.asarray(reflections.hkl).T.astype(np.float64)), axis=0)
    return float(np.max(s[s * lines.min() <= np.sin(np.radians(stop / 2))], initial=0.0))


def as_structure(source: Any, symprec: float | None = None) -> CrystalStructure:
    """A `CrystalStructure` from a CIF path, itself, a pymatgen `Structure` or ASE `Atoms`.

    The packages of those objects are not imported: an object is known by what it offers.

    Raises:
      InputError: another kind of object, or one that describes no crystal.
    """
    if symprec is not None and not (math.isfinite(symprec) and symprec > 0):
        raise InputError(f"symprec {symprec:g} must be a positive distance in Angstrom; take for example 0.01")
    if isinstance(source, str | os.PathLike):
        from simxrd_jax.io.cif import read_cif

        return read_cif(source, symprec)
    if isinstance(source, CrystalStructure):
        from simxrd_jax.crystal.structure import with_found_symmetry

        return source if symprec is None else with_found_symmetry(source, symprec)
    from simxrd_jax.io.structures import from_ase, from_pymatgen

    tolerance = DEFAULT_SYMPREC if symprec is None else symprec
    if hasattr(source, "species_and_occu"):
        return from_pymatgen(source, tolerance)
    if hasattr(source, "get_scaled_positions"):
        return from_ase(source, tolerance)
    kind = type(source).__name__
    raise InputError(f"a phase cannot be made of a {kind}; give a CIF path, a pymatgen Structure or an ASE Atoms object")


def as_radiation(value: Radiation | str | float) -> Radiation:
    """Emission lines by name (in any case) or by one wavelength in A.

    Raises:
      InputError: an unknown name (the nearest are offered) or a wavelength that is no X-ray wavelength in Angstrom.
    """
    if isinstance(value, Radiation):
        return value
    by_lower_case = {name.lower(): radiation for name, radiation in RADIATIONS.items()}
    if isinstance(value, str):
        text = value.strip()
        if text.lower() in by_lower_case:
            return by_lower_case[text.lower()]
        try:
            number = float(text)
        except ValueError:
            close = [by_lower_case[c].name for c in difflib.get_close_matches(text.lower(), by_lower_case, n=3, cutoff=0.5)]
            offer = f"did you mean {' or '.join(close)}?" if close else f"choose from {', '.join(RADIATIONS)}"
            raise InputError(f"there is no wavelength {value!r}; {offer} A number is taken in Angstrom.") from None
    else:
        number = float(value)
    low, high = WAVELENGTH_RANGE
    if not low < number < high:
        raise InputError(
            f"the wavelength {number:g} A is not between {low:g} and {high:g}; give an X-ray wavelength in Angstrom"
        )
    return Radiation(f"{number:.10g} A", (number,), (1.0,))


def _no_reflection(structure: CrystalStructure, radiation: Radiation, start: float, stop: float) -> str:
    """The sentence for a range without reflections, with the first reflection's place where there is one."""
    lines = ", ".join(f"{w:.6g}" for w in radiation.wavelength)
    sentence = f"no reflection falls within 2theta {start:g} to {stop:g} deg at {lines} A"
    try:
        every = make_reflections(structure, radiation.wavelength[0], 0.0, 179.5, margin=0.0)
    except InputError:
        return f"{sentence}; widen the range"
    if not np.any(every.multiplicity):
        return f"{sentence}, whose wavelength is too long for this cell; take a shorter one"
    inverse_d = np.linalg.norm(np.linalg.solve(structure.lattice, np.asarray(every.hkl).T.astype(np.float64)), axis=0)
    angles = np.degrees(2 * np.arcsin(np.minimum(radiation.wavelength[0] * inverse_d / 2, 1.0)))
    nearest = float(angles[np.argmin(np.minimum(np.abs(angles - start), np.abs(angles - stop)))])
    return f"{sentence}; widen the range to hold the nearest one, at {nearest:.2f} deg"
