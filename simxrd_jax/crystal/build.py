"""Host zone. Assembles `Crystal` from a structure and the tables, pads it, and stacks several into a batch."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np

from simxrd_jax.crystal.form_factors import form_factors as look_up_form_factors
from simxrd_jax.crystal.reflections import bucket_size, pad_reflections
from simxrd_jax.crystal.structure import CrystalStructure
from simxrd_jax.errors import InputError
from simxrd_jax.types import Crystal, ReflectionList

MIN_ATOM_BUCKET = 16  # the median Materials Project cell has 12 atoms
MIN_SPECIES_BUCKET = 4  # and three elements


def make_crystal(
    structure: CrystalStructure,
    wavelength: float | np.ndarray,
    form_factors: str = "it92",
    dispersion: bool = True,
    n_atom: int | None = None,
    n_species: int | None = None,
    dtype: Any = None,
) -> Crystal:
    """The crystal of a structure at a wavelength, as numpy arrays.

    Args:
      structure: from a reader.
      wavelength: one wavelength, or several lines of which the first decides f' and f''. [A]
      form_factors: "it92" or "waasmaier".
      dispersion: False sets f' = f'' = 0.
      n_atom, n_species: capacities to pad to; None is the exact number.
      dtype: of the arrays; None is float64.

    Raises:
      InputError: an unknown element, or more atoms or species than a capacity.
    """
    atoms = structure.atoms
    tables = look_up_form_factors(atoms.species, float(np.ravel(wavelength)[0]), form_factors, dispersion)
    crystal = Crystal(
        lattice=structure.lattice,
        # Nearest to the origin: single precision then rounds half as much, and alike in whatever cell an atom is given.
        frac=atoms.frac - np.round(atoms.frac),
        occupancy=atoms.occupancy,
        biso=atoms.biso,
        u_aniso=atoms.u_aniso,
        centring=np.array(float(atoms.n_centring)),
        f0_a=tables.a,
        f0_b=tables.b,
        f0_c=tables.c,
        f_prime=tables.f_prime,
        f_double_prime=tables.f_double_prime,
        mass=tables.mass,
    )
    crystal = pad_crystal(crystal, n_atom or len(atoms.frac), n_species or len(atoms.species))
    kind = np.float64 if dtype is None else dtype
    arrays: dict[str, Any] = {}
    for field in dataclasses.fields(crystal):
        value = getattr(crystal, field.name)
        arrays[field.name] = None if value is None else np.array(value, dtype=kind)
    return Crystal(**arrays)


def pad_crystal(crystal: Crystal, n_atom: int, n_species: int) -> Crystal:
    """Pads with atoms of zero occupancy at the origin and species that scatter nothing (a = 0, b = 1, c = 0, mass 1).

    Raises:
      InputError: more atoms or species than the capacity.
    """
    for what, have, room in (("atoms", len(crystal.frac), n_atom), ("species", len(crystal.mass), n_species)):
        if have > room:
            raise InputError(f"the crystal holds {have} {what} but the capacity is {room}; raise it")
    u = crystal.u_aniso
    return dataclasses.replace(
        crystal,
        frac=_pad(crystal.frac, n_atom),
        occupancy=_pad(_pad(crystal.occupancy, n_atom), n_species, axis=1),
        biso=_pad(crystal.biso, n_atom),
        u_aniso=None if u is None else _pad(u, n_atom),
        f0_a=_pad(crystal.f0_a, n_species),
        f0_b=_pad(crystal.f0_b, n_species, value=1.0),
        f0_c=_pad(crystal.f0_c, n_species),
        f_prime=_pad(crystal.f_prime, n_species),
        f_double_prime=_pad(crystal.f_double_prime, n_species),
        mass=_pad(crystal.mass, n_species, value=1.0),
    )


def _pad(values: Any, n: int, axis: int = 0, value: float = 0.0) -> np.ndarray:
    array = np.asarray(values)
    width = [(0, 0)] * array.ndim
    width[axis] = (0, n - array.shape[axis])
    return np.pad(array, width, constant_values=value)


Item = TypeVar("Item", Crystal, ReflectionList)


def stack(items: Sequence[Item]) -> Item:
    """Pads crystals or reflection lists to a common power-of-two bucket and stacks them along a new first axis.

    Where only some crystals have `u_aniso`, the others get zeros.

    Raises:
      InputError: an empty list.
    """
    if not items:
        raise InputError("an empty list cannot be stacked; give at least one crystal or reflection list")
    first = items[0]
    if isinstance(first, Crystal):
        padded: list[Any] = _common_crystals([item for item in items if isinstance(item, Crystal)])
    else:
        lists = [item for item in items if isinstance(item, ReflectionList)]
        n_hkl = bucket_size(max(len(r.hkl) for r in lists))
        n_member = bucket_size(max(len(r.member_hkl) for r in lists))
        padded = [pad_reflections(r, n_hkl, n_member) for r in lists]
    stacked: dict[str, Any] = {}
    for field in dataclasses.fields(first):
        values = [getattr(item, field.name) for item in padded]
        stacked[field.name] = None if values[0] is None else np.stack([np.asarray(v) for v in values])
    return type(first)(**stacked)


def _common_crystals(crystals: list[Crystal]) -> list[Crystal]:
    if any(c.u_aniso is not None for c in crystals):
        crystals = [
            c
            if c.u_aniso is not None
            else dataclasses.replace(c, u_aniso=np.zeros((len(c.frac), 3, 3), np.asarray(c.frac).dtype))
            for c in crystals
        ]
    n_atom = bucket_size(max(len(c.frac) for c in crystals), MIN_ATOM_BUCKET)
    n_species = bucket_size(max(len(c.mass) for c in crystals), MIN_SPECIES_BUCKET)
    return [pad_crystal(c, n_atom, n_species) for c in crystals]
