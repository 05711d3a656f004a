"""Brindley's correction: absorption coefficients, tau against integrals over a sphere, fractions of a known mixture."""

from __future__ import annotations

import numpy as np
import pytest
import xraydb
from scipy.integrate import quad

from simxrd_jax.crystal.form_factors import mass_absorption
from simxrd_jax.errors import InputError
from simxrd_jax.io.cif import read_cif
from simxrd_jax.refine.microabsorption import brindley_tau, corrected_fractions, linear_absorption

CU = 1.54184


@pytest.mark.parametrize("element", ["C", "O", "Al", "Si", "Fe", "Cu", "La", "Pb"])
def test_mass_absorption_against_another_table(element):
    """Elam, Ravel & Sieber (2002) against Chantler (2000): tabulations of mu/rho agree to a few per cent."""
    energy = 12398.42 / CU
    assert mass_absorption(element, CU) == pytest.approx(float(xraydb.mu_elam(element, energy)), rel=0.06)


def test_deuterium_and_what_the_table_lacks():
    assert mass_absorption("D", CU) == pytest.approx(mass_absorption("H", CU) * 1.008 / 2.014, rel=1e-3)
    with pytest.raises(InputError, match="no absorption coefficient"):
        mass_absorption("Pu", CU)
    with pytest.raises(InputError, match="does not reach"):
        mass_absorption("Si", 1e-5)


@pytest.mark.parametrize(("name", "density"), [("Al2O3", 3.987), ("hematite", 5.27), ("quartz", 2.65), ("LaB6", 4.71)])
def test_linear_absorption_from_the_density(datasets, name, density):
    """Densities from handbooks to 1 %; mu = rho sum w mu/rho."""
    structure = read_cif(datasets / "cifs" / f"{name}.cif")
    formulas = {"Al2O3": {"Al": 2, "O": 3}, "hematite": {"Fe": 2, "O": 3}, "quartz": {"Si": 1, "O": 2}}
    mass = {e: n * xraydb.atomic_mass(e) for e, n in formulas.get(name, {"La": 1, "B": 6}).items()}
    per_gram = sum(m * mass_absorption(e, CU) for e, m in mass.items()) / sum(mass.values())
    assert linear_absorption(structure, CU) == pytest.approx(1e-4 * density * per_gram, rel=0.01)


@pytest.mark.parametrize("contrast", [-1.0, -0.1, 1e-6, 0.1, 0.5, 2.0])
def test_tau_where_the_integral_is_a_line(contrast):
    """Forwards the path is the whole chord 2 R m, backwards twice the way to the surface; m is the cosine at the sphere."""
    forwards = 3 * quad(lambda m: m * m * np.exp(-contrast * m), 0, 1)[0]
    backwards = 3 * quad(lambda m: m * -np.expm1(-2 * contrast * m) / (2 * contrast), 0, 1)[0]
    assert brindley_tau(contrast, 0.0) == pytest.approx(forwards, rel=2e-4)
    assert brindley_tau(contrast, 180.0) == pytest.approx(backwards, rel=2e-4)
    between = brindley_tau(contrast)
    assert min(forwards, backwards) - 1e-6 <= between <= max(forwards, backwards) + 1e-6


def test_tau_at_a_right_angle_against_random_points():
    rng = np.random.default_rng(0)
    p = rng.normal(size=(400_000, 3))
    p *= (rng.uniform(size=len(p)) ** (1 / 3) / np.linalg.norm(p, axis=1))[:, None]
    path = 0.0
    for axis in (0, 1):
        path = path + np.sqrt(1 - np.sum(np.delete(p, axis, axis=1) ** 2, axis=1)) - p[:, axis]
    for contrast in (-0.5, 0.3, 1.0):
        expected = np.exp(-0.5 * contrast * path)
        spread = expected.std() / np.sqrt(len(p))
        assert brindley_tau(contrast) == pytest.approx(expected.mean(), abs=4 * spread)
    # First order: the mean path is 3 D/4.
    assert brindley_tau(1e-4) == pytest.approx(1 - 0.75e-4, rel=1e-8)


def test_a_known_mixture_comes_back():
    """Scales as a mixture of corundum and hematite in grains of 5 um would show them."""
    volume, mass_per_scale = np.array([0.7, 0.3]), np.array([4.0, 5.3])
    mu, diameter = np.array([0.0126, 0.113]), np.array([5.0, 5.0])
    mean = volume @ mu
    shown = volume * [brindley_tau(c) for c in (mu - mean) * diameter]
    covariance = np.diag((1e-3 * shown) ** 2)
    found = corrected_fractions(["A", "B"], 7 * shown, 49 * covariance, mass_per_scale, mu, {"A": 5.0, "B": 5.0})
    truth = volume * mass_per_scale / np.sum(volume * mass_per_scale)
    np.testing.assert_allclose(found.fraction, truth, rtol=1e-9)
    assert found.mean_absorption == pytest.approx(mean, rel=1e-9)
    apparent = shown * mass_per_scale / np.sum(shown * mass_per_scale)
    assert apparent[1] < truth[1] - 0.05  # the heavier absorber hides
    # d w_1 = w_1 w_2 (d ln S_1 - d ln S_2).
    np.testing.assert_allclose(found.sigma, truth.prod() * 1e-3 * np.sqrt(2), rtol=1e-6)
    assert found.warnings == ()


def test_fine_grains_change_nothing_and_coarse_ones_warn():
    arguments = (["A", "B"], np.array([1.0, 2.0]), np.zeros((2, 2)), np.array([4.0, 5.3]), np.array([0.0126, 0.113]))
    fine = corrected_fractions(*arguments, {})
    np.testing.assert_allclose(fine.fraction, np.array([4.0, 10.6]) / 14.6, rtol=1e-12)
    assert np.array_equal(fine.tau, [1.0, 1.0])
    coarse = corrected_fractions(*arguments, {"A": 40.0})
    assert len(coarse.warnings) == 1
    assert coarse.warnings[0].startswith("A: grains of 40 um")
    with pytest.raises(InputError, match="is no phase"):
        corrected_fractions(*arguments, {"C": 1.0})
    with pytest.raises(InputError, match="positive number"):
        corrected_fractions(*arguments, {"A": -1.0})
