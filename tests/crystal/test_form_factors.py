"""Host zone tests: f0, f', f'' and masses against the packages' own functions and against known limits."""

from __future__ import annotations

import pathlib
from typing import Any

import gemmi
import jax.numpy as jnp
import numpy as np
import pytest
import xraydb

from simxrd_jax.constants import HC_EV_ANGSTROM
from simxrd_jax.crystal.build import make_crystal
from simxrd_jax.crystal.form_factors import atomic_mass, chantler, form_factors
from simxrd_jax.crystal.scattering import f0
from simxrd_jax.errors import InputError
from simxrd_jax.io.cif import read_cif

CU, MO = 1.540593, 0.709319
NEUTRAL = [gemmi.Element(z).name for z in range(1, 93)]


def _f0(table: str, species: list[str], s: np.ndarray) -> np.ndarray:
    t = form_factors(species, CU, table, dispersion=False)
    return (t.a * np.exp(-t.b * s[:, None, None] ** 2)).sum(axis=-1) + t.c


@pytest.mark.parametrize(("table", "tolerance"), [("it92", 0.07), ("waasmaier", 0.04)])
def test_f0_at_zero_is_the_number_of_electrons(table: str, tolerance: float) -> None:
    """The fits leave up to 0.06 (IT92) and 0.038 (Waasmaier & Kirfel) electrons."""
    species = [*NEUTRAL, "Fe3+", "O2-", "Cl1-", "Ce4+", "Na1+"]
    electrons = np.array([*range(1, 93), 23, 10, 18, 54, 10], dtype=float)
    if table == "it92":
        assert form_factors(species, CU, table, dispersion=False).notes == ()
    np.testing.assert_allclose(_f0(table, species, np.zeros(1))[0], electrons, rtol=0, atol=tolerance)


def test_the_two_tables_agree() -> None:
    """Independent fits to the same calculations: within 0.25 electrons where powder data lie (s < 0.65)."""
    s = np.linspace(0, 0.65, 14)
    species = [e for e in NEUTRAL if e != "H"]
    assert np.abs(_f0("it92", species, s) - _f0("waasmaier", species, s)).max() < 0.25


def test_waasmaier_is_xraydbs() -> None:
    s = np.linspace(0, 2, 9)
    for ion in ("Si", "O2-", "Fe3+", "La", "Cl1-"):
        np.testing.assert_allclose(_f0("waasmaier", [ion], s)[:, 0], xraydb.f0(ion, s), rtol=1e-12)


def test_it92_is_gemmis() -> None:
    for element in ("Si", "La", "U"):
        table = gemmi.Element(element).it92
        expected = [table.calculate_sf(stol2=v) for v in (0.0, 0.04, 0.25)]
        np.testing.assert_allclose(_f0("it92", [element], np.sqrt([0.0, 0.04, 0.25]))[:, 0], expected, rtol=1e-6)


def test_missing_ion_falls_back_to_the_atom_and_says_so() -> None:
    ion, atom = form_factors(["Fe6+"], CU), form_factors(["Fe"], CU)
    np.testing.assert_array_equal(ion.a, atom.a)
    assert "Fe6+" in ion.notes[0]
    assert atom.notes == ()


def test_gemmis_switch_is_left_as_it_was() -> None:
    before = gemmi.IT92_get_ignore_charge()
    form_factors(["Fe3+"], CU)
    assert gemmi.IT92_get_ignore_charge() == before


def _scalar(value: Any) -> float:
    return float(np.asarray(value))


@pytest.mark.parametrize("wavelength", [CU, MO, 1.78900, 2.28973, 0.413909])
def test_dispersion_is_xraydbs(wavelength: float) -> None:
    energy = HC_EV_ANGSTROM / wavelength
    for element in NEUTRAL[2:]:
        f1, f2 = chantler(element, wavelength)
        # xraydb draws a spline through some more points: next to an edge (Ho at Cu K-alpha) 0.5 % apart.
        assert f1 == pytest.approx(_scalar(xraydb.f1_chantler(element, energy)), abs=0.02, rel=0.01)
        assert f2 == pytest.approx(_scalar(xraydb.f2_chantler(element, energy)), rel=2e-3, abs=1e-6)


def test_dispersion_against_cromer_liberman() -> None:
    """Another theory (gemmi's Cromer-Liberman): sign and zero of f' are right, f'' agrees within 3 %."""
    for element in ("Si", "Al", "O", "Fe", "Ti", "Ce"):
        f1, f2 = chantler(element, CU)
        fp, fpp = gemmi.cromer_liberman(z=gemmi.Element(element).atomic_number, energy=HC_EV_ANGSTROM / CU)
        assert f1 == pytest.approx(fp, abs=0.25)
        assert f2 == pytest.approx(fpp, rel=0.03)


def test_transuranium_elements_go_without_dispersion_and_say_so() -> None:
    t = form_factors(["Pu", "U"], CU)
    assert t.f_double_prime[0] == 0.0
    assert t.f_double_prime[1] > 10.0
    assert len(t.notes) == 1
    assert "Pu is beyond the Chantler table" in t.notes[0]


def test_deuterium() -> None:
    d, h = form_factors(["D"], CU), form_factors(["H"], CU)
    np.testing.assert_array_equal(d.a, h.a)
    assert d.mass[0] == pytest.approx(2.0141, abs=1e-3)
    assert h.mass[0] == pytest.approx(1.008, abs=1e-3)


def test_masses() -> None:
    """IUPAC abridged standard atomic weights 2021."""
    for element, mass in (("C", 12.011), ("O", 15.999), ("Fe", 55.845), ("U", 238.03)):
        assert atomic_mass(element) == pytest.approx(mass, abs=2e-3)


def test_errors() -> None:
    with pytest.raises(InputError, match="'Qq' is no element"):
        form_factors(["Qq"], CU)
    with pytest.raises(InputError, match="table 'nist' is unknown"):
        form_factors(["Si"], CU, "nist")
    with pytest.raises(InputError, match="does not reach 100000 A"):
        form_factors(["Si"], 1e5)


def test_device_function(cif_folder: pathlib.Path) -> None:
    crystal = make_crystal(read_cif(cif_folder / "Fe2O3_ions.cif"), CU)
    s = np.array([0.0, 0.1, 0.5])
    value = f0(crystal, jnp.asarray(s**2))
    np.testing.assert_allclose(value, _f0("it92", ["Fe3+", "O2-"], s), rtol=1e-5)
