"""Harmonics against scipy's, textures against integrals over the sphere and against March and Dollase's."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import jax.test_util
import numpy as np
import pytest
from scipy.special import sph_harm_y

from simxrd_jax.crystal import cell
from simxrd_jax.crystal.reflections import make_reflections
from simxrd_jax.diffraction.harmonics import harmonic_terms, order_of, real_harmonics
from simxrd_jax.diffraction.harmonics import harmonic_texture as eager_texture
from simxrd_jax.diffraction.texture import orbit_march_dollase
from simxrd_jax.errors import InputError
from simxrd_jax.io.cif import read_cif
from simxrd_jax.refine.forms import harmonics_basis

harmonic_texture = jax.jit(eager_texture)


def test_against_scipy():
    rng = np.random.default_rng(0)
    n = rng.normal(size=(30, 3))
    n /= np.linalg.norm(n, axis=1, keepdims=True)
    theta, phi = np.arccos(n[:, 2]), np.arctan2(n[:, 1], n[:, 0])
    ours = real_harmonics(*n.T, 12)
    for (l, m), value in zip(harmonic_terms(12), ours, strict=True):
        # scipy's are complex, of norm 1 over the sphere, with the sign (-1)^m of Condon and Shortley.
        y = np.sqrt(4 * np.pi) * sph_harm_y(l, abs(m), theta, phi) * (-1) ** m
        expected = y.real if m == 0 else np.sqrt(2) * (y.real if m > 0 else y.imag)
        np.testing.assert_allclose(value, expected, atol=1e-11)


def test_orders_and_their_lengths():
    assert [order_of(len(harmonic_terms(order))) for order in (2, 4, 6, 8, 12)] == [2, 4, 6, 8, 12]
    for length in (0, 1, 4, 6, 9, 15):
        with pytest.raises(InputError, match="reach no order"):
            order_of(length)


def _case(folder, name):
    structure = read_cif(folder / f"{name}.cif")
    reflections = make_reflections(structure, 1.540593, 10.0, 100.0)
    return structure, reflections, cell.reciprocal_metric(cell.metric(jnp.asarray(structure.lattice)))


def test_by_hand(x64, cif_folder):
    """l = 2 of a hexagonal crystal is sqrt(5) (3 cos^2 a - 1)/2 at the angle a to the axis."""
    _, reflections, reciprocal = _case(cif_folder, "AlN")
    coefficients = np.zeros(5)
    coefficients[0] = 0.1
    texture = harmonic_texture(reflections.hkl, coefficients, reciprocal, reflections.laue_rotations)
    hkl = np.asarray(reflections.hkl)
    cos_squared = hkl[:, 2] ** 2 * float(reciprocal[2, 2]) / np.einsum("ni,ij,nj->n", hkl, reciprocal, hkl)
    # The floor, (1e-2)^2/4 of T over T, against itself at T = 1.
    np.testing.assert_allclose(texture, 1 + 0.1 * np.sqrt(5) * (3 * cos_squared - 1) / 2, rtol=2e-5)


@pytest.mark.parametrize("name", ["quartz", "FeS2", "ZrO2_monoclinic"])
def test_invariance_and_random_powder(x64, cif_folder, name):
    structure, reflections, reciprocal = _case(cif_folder, name)
    coefficients = np.random.default_rng(1).normal(size=27) * 0.05
    texture = np.asarray(harmonic_texture(reflections.hkl, coefficients, reciprocal, reflections.laue_rotations))
    members = harmonic_texture(reflections.member_hkl, coefficients, reciprocal, reflections.laue_rotations)
    np.testing.assert_allclose(members, texture[np.asarray(reflections.member_reflection)], rtol=1e-9)
    single = np.asarray(harmonic_texture(reflections.member_hkl, coefficients, reciprocal))
    mean = np.bincount(reflections.member_reflection, single) / np.bincount(reflections.member_reflection)
    # T of a member may be close to the floor, which is not linear.
    np.testing.assert_allclose(mean, texture, rtol=2e-3)
    assert np.array_equal(harmonic_texture(reflections.hkl, np.zeros(14), reciprocal), np.ones(len(texture)))
    basis = harmonics_basis(structure, 6)
    symmetric = basis.matrix @ (basis.matrix.T @ coefficients)
    np.testing.assert_allclose(harmonic_texture(reflections.hkl, symmetric, reciprocal), texture, rtol=1e-9)


def test_mean_over_the_sphere_and_texture_index(x64):
    rng = np.random.default_rng(2)
    coefficients = rng.normal(size=14) * 0.1
    nodes, weights = np.polynomial.legendre.leggauss(20)
    angle = 2 * np.pi * np.arange(40) / 40
    z, phi = (v.ravel() for v in np.meshgrid(nodes, angle, indexing="ij"))
    directions = np.stack([np.sqrt(1 - z**2) * np.cos(phi), np.sqrt(1 - z**2) * np.sin(phi), z], axis=1)
    density = 1 + np.stack(real_harmonics(*directions.T, 4), axis=1) @ coefficients
    weight = np.repeat(weights, 40) / 80
    assert weight @ density == pytest.approx(1.0, abs=1e-12)
    assert weight @ density**2 == pytest.approx(1 + coefficients @ coefficients, rel=1e-12)


def test_a_march_dollase_texture_is_its_series(x64, cif_folder):
    """The pole density of platelets along c, expanded in Legendre polynomials, gives the factors of March and Dollase."""
    _, reflections, reciprocal = _case(cif_folder, "quartz")
    r = 0.8
    nodes, weights = np.polynomial.legendre.leggauss(200)
    density = (r**2 * nodes**2 + (1 - nodes**2) / r) ** -1.5
    terms = harmonic_terms(12)
    coefficients = np.zeros(len(terms))
    for l in range(2, 13, 2):
        polynomial = np.sqrt(2 * l + 1) * np.polynomial.legendre.legval(nodes, np.eye(l + 1)[l])
        coefficients[terms.index((l, 0))] = 0.5 * weights @ (density * polynomial)
    ours = harmonic_texture(reflections.hkl, coefficients, reciprocal, reflections.laue_rotations)
    known = orbit_march_dollase(reflections.hkl, np.array([0, 0, 1.0]), r, reciprocal, reflections.laue_rotations)
    # What l > 12 hold: the coefficients fall by 0.3 from one l to the next.
    np.testing.assert_allclose(ours, known, rtol=1e-4)


def test_a_negative_density_is_floored(x64, cif_folder):
    _, reflections, reciprocal = _case(cif_folder, "AlN")
    coefficients = np.zeros(5)
    coefficients[0] = -3.0
    texture = np.asarray(harmonic_texture(reflections.hkl, coefficients, reciprocal, reflections.laue_rotations))
    assert texture.min() > 0
    assert texture.min() < 1e-4


def test_gradients(x64, cif_folder):
    _, reflections, reciprocal = _case(cif_folder, "quartz")
    rng = np.random.default_rng(3)
    weights = jnp.asarray(rng.normal(size=len(reflections.hkl)))

    def total(c, g):
        return jnp.sum(weights * harmonic_texture(reflections.hkl, c, g, reflections.laue_rotations))

    for c in (np.zeros(14), rng.normal(size=14) * 0.1):
        jax.test_util.check_grads(total, (jnp.asarray(c), reciprocal), order=1, modes=("fwd", "rev"), rtol=1e-6, eps=1e-6)


def test_a_pole_has_a_gradient(x64):
    """(0 0 l), where an angle about the axis has no value."""
    f = lambda g: harmonic_texture(jnp.array([[0, 0, 2]]), jnp.full(14, 0.05), g)[0]  # noqa: E731
    assert np.all(np.isfinite(np.asarray(jax.grad(f)(jnp.diag(jnp.array([0.1, 0.2, 0.3]))))))
