"""Host zone. Tables of scattering: coefficients of f0, anomalous dispersion f' and f'', atomic masses.

Two sets of f0 are offered: the four Gaussians and a constant of International Tables C (1992), valid to s = 2 1/A, which
most programs use, and the five of Waasmaier & Kirfel (1995), valid to s = 6 1/A. Both come from other packages' tables
(gemmi 0.7.5; xraydb 4.5.8), as does dispersion (Chantler 1995, 2000). xraydb's table is opened as the SQLite file it is:
importing the package is slow and a query is not.

References: International Tables for Crystallography C (1992), table 6.1.1.4; Waasmaier & Kirfel (1995), Acta Cryst. A51,
416; Chantler (1995), J. Phys. Chem. Ref. Data 24, 71, and (2000), 29, 597.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import importlib.util
import json
import pathlib
import sqlite3
from collections.abc import Sequence

import gemmi
import numpy as np

from simxrd_jax.constants import HC_EV_ANGSTROM
from simxrd_jax.crystal.structure import charge_of, element_of
from simxrd_jax.errors import InputError

N_GAUSS = 5  # terms of Waasmaier & Kirfel; the four of IT92 are padded with a = 0, b = 1
LAST_CHANTLER = 92  # uranium; heavier elements (under 1 % of the Materials Project's entries) go without dispersion
TABLES = ("it92", "waasmaier")


@dataclasses.dataclass(frozen=True, eq=False)
class FormFactors:
    """Coefficients of each species, in order.

    Attributes:
      a, b: [species, term]; f0(s) = sum a exp(-b s^2) + c, s = sin(theta)/lambda in 1/A. [electrons, A^2]
      c: [electrons]
      f_prime, f_double_prime: dispersion at the wavelength. [electrons]
      mass: [u]
      notes: species for which the neutral atom stands in, or that go without dispersion.
    """

    a: np.ndarray
    b: np.ndarray
    c: np.ndarray
    f_prime: np.ndarray
    f_double_prime: np.ndarray
    mass: np.ndarray
    notes: tuple[str, ...]


def form_factors(species: Sequence[str], wavelength: float, table: str = "it92", dispersion: bool = True) -> FormFactors:
    """Looks up everything that scattering needs to know of a list of species.

    Args:
      species: "Si", "Fe3+", "D", ...
      wavelength: at which dispersion is taken. [A]
      table: "it92" or "waasmaier".
      dispersion: False sets f' = f'' = 0.

    Raises:
      InputError: an unknown element or table, or an element that the table does not have.
    """
    if table not in TABLES:
        raise InputError(f"the form-factor table {table!r} is unknown; choose one of {', '.join(TABLES)}")
    n = len(species)
    a, b, c = np.zeros((n, N_GAUSS)), np.ones((n, N_GAUSS)), np.zeros(n)
    f_prime, f_double_prime, mass = np.zeros(n), np.zeros(n), np.zeros(n)
    notes = []
    for i, name in enumerate(species):
        element = element_of(name)
        mass[i] = atomic_mass(element)
        symbol = "H" if element == "D" else element
        look_up = _it92 if table == "it92" else _waasmaier
        coefficients = look_up(symbol, charge_of(name))
        if coefficients is None:
            coefficients = look_up(symbol, 0)
            notes.append(f"{name} is not in the {table} table: the neutral atom's form factor is used.")
        if coefficients is None:
            raise InputError(f"the {table} table has no form factor of {element}; choose another table or replace the atom")
        terms = len(coefficients[0])
        a[i, :terms], b[i, :terms], c[i] = coefficients
        if dispersion and gemmi.Element(symbol).atomic_number > LAST_CHANTLER:
            notes.append(f"{element} is beyond the Chantler table: its f' and f'' are 0.")
        elif dispersion:
            f_prime[i], f_double_prime[i] = chantler(symbol, wavelength)
    return FormFactors(a, b, c, f_prime, f_double_prime, mass, tuple(notes))


def atomic_mass(element: str) -> float:
    """Atomic mass from gemmi's table (IUPAC); deuterium has its own. [u]

    Raises:
      InputError: an unknown element.
    """
    entry = gemmi.Element(element)
    if entry.atomic_number == 0:
        raise InputError(f"{element!r} is no element; correct its symbol")
    return float(entry.weight)


Coefficients = tuple[Sequence[float], Sequence[float], float]


def _it92(element: str, charge: int) -> Coefficients | None:
    # gemmi ignores charges unless told otherwise; the switch is global, so it goes back to what it was.
    was_ignored = gemmi.IT92_get_ignore_charge()
    gemmi.IT92_set_ignore_charge(False)
    try:
        entry = gemmi.IT92_get_exact(gemmi.Element(element), charge)
    finally:
        gemmi.IT92_set_ignore_charge(was_ignored)
    return None if entry is None else (list(entry.a), list(entry.b), float(entry.c))


def _waasmaier(element: str, charge: int) -> Coefficients | None:
    ion = f"{element}{abs(charge)}{'+' if charge > 0 else '-'}" if charge else element
    row = _query("select scale, exponents, offset from Waasmaier where ion = ?", ion)
    return None if row is None else (json.loads(str(row[0])), json.loads(str(row[1])), float(row[2]))


def chantler(element: str, wavelength: float) -> tuple[float, float]:
    """Dispersion corrections f' and f'' of an element. [electrons]

    f' is interpolated by the cubic through the four nearest energies of the table, f'' linearly in log-log; the relativistic
    and nuclear Thomson terms are those of xraydb's table.

    Args:
      element: symbol.
      wavelength: [A]

    Raises:
      InputError: the table does not have the element (Z above 92) or the energy.
    """
    row = _chantler_table(element)
    energy = HC_EV_ANGSTROM / wavelength
    if row is None:
        raise InputError(f"the Chantler table has no dispersion correction of {element}; switch dispersion off")
    energies, f1, f2 = row
    if not energies[2] < energy < energies[-3]:
        raise InputError(
            f"the Chantler table of {element} does not reach {wavelength:g} A; check the wavelength or switch dispersion off"
        )
    i = int(np.searchsorted(energies, energy))
    near = slice(i - 2, i + 2)
    x, y = np.log(energies[near]), f1[near]
    position = np.log(energy)
    f_prime = 0.0
    for j in range(4):
        others = np.delete(x, j)
        f_prime += float(y[j] * np.prod((position - others) / (x[j] - others)))
    f_double_prime = float(np.exp(np.interp(position, x, np.log(np.maximum(f2[near], 1e-99)))))
    return f_prime, f_double_prime


@functools.lru_cache(maxsize=128)
def _chantler_table(element: str) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    row = _query("select energy, f1, f2 from Chantler where element = ?", element)
    if row is None:
        return None
    energies, f1, f2 = (np.array(json.loads(str(v)), dtype=np.float64) for v in row)
    return energies, f1, f2


def mass_absorption(element: str, wavelength: float) -> float:
    """Mass absorption coefficient mu/rho of an element, scattering included, linear in log-log. [cm^2/g]

    Args:
      element: symbol.
      wavelength: [A]

    Raises:
      InputError: the table does not have the element (Z above 92) or the energy.

    Reference: Chantler (1995, 2000), as f''.
    """
    row = _query("select energy, mu_total from Chantler where element = ?", "H" if element == "D" else element)
    energy = HC_EV_ANGSTROM / wavelength
    if row is None:
        raise InputError(f"the Chantler table has no absorption coefficient of {element}; leave its phase uncorrected")
    energies, total = (np.array(json.loads(str(v)), dtype=np.float64) for v in row)
    if not energies[0] < energy < energies[-1]:
        raise InputError(f"the Chantler table of {element} does not reach {wavelength:g} A; check the wavelength")
    per_gram = float(np.exp(np.interp(np.log(energy), np.log(energies), np.log(np.maximum(total, 1e-99)))))
    # A gram of deuterium has half the atoms.
    return per_gram * atomic_mass("H") / atomic_mass("D") if element == "D" else per_gram


@functools.lru_cache(maxsize=512)
def _query(statement: str, argument: str) -> tuple[str | float, ...] | None:
    spec = importlib.util.find_spec("xraydb")
    if spec is None or spec.origin is None:
        raise InputError("the tables of f' and f'' need the package xraydb; install it with pip install xraydb")
    path = pathlib.Path(spec.origin).with_name("xraydb.sqlite")
    with contextlib.closing(sqlite3.connect(f"file:{path.as_posix()}?mode=ro&immutable=1", uri=True)) as connection:
        return connection.execute(statement, (argument,)).fetchone()
