"""March-Dollase: normalisation, limits, orbit means by brute force, choice of axis."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import jax.test_util
import numpy as np
import pytest

from simxrd_jax.crystal import cell
from simxrd_jax.crystal.reflections import make_reflections
from simxrd_jax.diffraction.texture import clipped_normal_factor, cos_squared_to_axis, march_dollase, orbit_march_dollase
from simxrd_jax.io.cif import read_cif


@pytest.mark.parametrize("r", [0.3, 0.8, 1.0, 2.5])
def test_mean_over_the_sphere_is_one(x64, r):
    nodes, weights = np.polynomial.legendre.leggauss(400)
    mean = 0.5 * np.sum(weights * np.asarray(march_dollase(jnp.asarray(nodes**2), r)))
    # Dollase (1986), eq. 4 is normalised exactly; 400 nodes resolve it to rounding.
    assert mean == pytest.approx(1.0, abs=1e-12)


def test_values_by_hand(x64):
    # Along the axis r^-3, across it r^(3/2).
    np.testing.assert_allclose(march_dollase(jnp.array([1.0, 0.0]), 0.7), [0.7**-3, 0.7**1.5], rtol=1e-13)
    assert np.array_equal(march_dollase(jnp.array([0.0, 0.3, 1.0]), 1.0), np.ones(3))


@pytest.mark.parametrize("name", ["Al2O3", "quartz", "ZrO2_monoclinic", "Si"])
def test_orbit_mean_against_all_images(x64, cif_folder, name):
    structure = read_cif(cif_folder / f"{name}.cif")
    reflections = make_reflections(structure, 1.540593, 10.0, 80.0)
    axis, r = np.array([1.0, 0.0, 2.0]), 0.6
    reciprocal_vectors = np.linalg.inv(structure.lattice).T
    normal = axis @ reciprocal_vectors
    expected = []
    for hkl in np.asarray(reflections.hkl):
        images = {tuple(sign * (hkl @ rotation)) for rotation in structure.rotations for sign in (1, -1)}
        vectors = np.array(sorted(images)) @ reciprocal_vectors
        cosine = vectors @ normal / np.linalg.norm(vectors, axis=1) / np.linalg.norm(normal)
        expected.append(np.mean((r**2 * cosine**2 + (1 - cosine**2) / r) ** -1.5))
    reciprocal = cell.reciprocal_metric(cell.metric(jnp.asarray(structure.lattice)))
    hkl, rotations = reflections.hkl, reflections.laue_rotations
    ours = orbit_march_dollase(hkl, axis, r, reciprocal, rotations)
    np.testing.assert_allclose(ours, expected, rtol=1e-11)
    # Identity: an axis and its symmetry images are one texture.
    for rotation in structure.rotations[:: max(1, len(structure.rotations) // 5)]:
        turned = orbit_march_dollase(hkl, axis @ rotation, r, reciprocal, rotations)
        np.testing.assert_allclose(turned, expected, rtol=1e-9)
    np.testing.assert_allclose(orbit_march_dollase(hkl, -2.0 * axis, r, reciprocal, rotations), expected, rtol=1e-9)
    np.testing.assert_allclose(orbit_march_dollase(hkl, axis, 1.0, reciprocal, rotations), 1.0, rtol=1e-12)
    # The mean over listed members is the mean over the group.
    members = orbit_march_dollase(reflections.member_hkl, axis, r, reciprocal)
    counts = np.bincount(reflections.member_reflection)
    np.testing.assert_allclose(np.bincount(reflections.member_reflection, members) / counts, expected, rtol=1e-11)


def test_gradients(x64, cif_folder):
    structure = read_cif(cif_folder / "Al2O3.cif")
    reflections = make_reflections(structure, 1.540593, 10.0, 80.0)
    reciprocal = cell.reciprocal_metric(cell.metric(jnp.asarray(structure.lattice)))
    axis = jnp.array([0.0, 0.0, 1.0])
    weights = jnp.asarray(np.random.default_rng(1).normal(size=len(reflections.hkl)))
    hkl, rotations = reflections.hkl, reflections.laue_rotations
    total = lambda r, a, g: jnp.sum(weights * orbit_march_dollase(hkl, a, r, g, rotations))  # noqa: E731
    for r in (0.6, 1.0):
        jax.test_util.check_grads(
            total, (jnp.asarray(r), axis, reciprocal), order=1, modes=("fwd", "rev"), rtol=1e-6, eps=1e-6
        )


def test_angle_by_hand(x64):
    # Hexagonal c/a = 2: the normal of (101) makes tan(a) = (2/sqrt 3) (c/a) with c*.
    metric = cell.metric(cell.cell_to_lattice(jnp.array([3.0, 3.0, 6.0]), jnp.array([90.0, 90.0, 120.0])))
    cos2 = cos_squared_to_axis(jnp.array([[1, 0, 1]]), jnp.array([0.0, 0.0, 1.0]), cell.reciprocal_metric(metric))
    assert float(cos2[0]) == pytest.approx(1 / (1 + (4 / np.sqrt(3)) ** 2), rel=1e-12)


def test_clipped_normal():
    z = jnp.array([-10.0, -1.0, 0.0, 0.5, 10.0])
    np.testing.assert_allclose(clipped_normal_factor(z, 0.3, 0.4), [0.7, 0.8, 1.0, 1.1, 1.4], rtol=1e-6)
