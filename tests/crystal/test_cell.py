"""Metric, strain and the Laue average, against hand calculations and gemmi."""

from __future__ import annotations

import gemmi
import jax
import jax.numpy as jnp
import jax.test_util
import numpy as np
import pytest

from simxrd_jax.crystal import cell, symmetry
from simxrd_jax.types import Specimen

PARAMETERS = [
    (5.43, 5.43, 5.43, 90.0, 90.0, 90.0),
    (3.1, 3.1, 5.0, 90.0, 90.0, 120.0),
    (5.15, 5.21, 5.32, 90.0, 99.2, 90.0),
    (7.10, 7.85, 5.60, 93.2, 107.4, 115.1),
]
HKL = np.array([[1, 0, 0], [1, 1, 1], [-2, 1, 3], [4, -5, 2], [0, 3, -7], [-1, -1, 9]])


@pytest.mark.parametrize("parameters", PARAMETERS)
def test_lattice_volume_and_d_match_gemmi(x64, parameters):
    other = gemmi.UnitCell(*parameters)
    lattice = cell.cell_to_lattice(jnp.array(parameters[:3]), jnp.array(parameters[3:]))
    metric = cell.metric(lattice)
    # Identities between two float64 programs: a few units in the last place.
    np.testing.assert_allclose(lattice, np.array(other.orth.mat.tolist()).T, rtol=0, atol=1e-13 * 10)
    assert float(cell.volume(metric)) == pytest.approx(other.volume, rel=1e-12)
    ours = cell.inverse_d_squared(cell.reciprocal_metric(metric), jnp.asarray(HKL)) ** -0.5
    np.testing.assert_allclose(ours, [other.calculate_d([int(v) for v in h]) for h in HKL], rtol=1e-12)


def test_float32_d_is_good_to_a_position_error_below_the_last_printed_digit():
    parameters = PARAMETERS[3]
    lattice = cell.cell_to_lattice(jnp.array(parameters[:3], jnp.float32), jnp.array(parameters[3:], jnp.float32))
    ours = cell.inverse_d_squared(cell.reciprocal_metric(cell.metric(lattice)), jnp.asarray(HKL)) ** -0.5
    exact = [gemmi.UnitCell(*parameters).calculate_d([int(v) for v in h]) for h in HKL]
    # 2e-6 in d is 1e-4 deg at 2theta = 45 deg; float32 rounds each of about ten products to 6e-8.
    np.testing.assert_allclose(ours, exact, rtol=2e-6)
    assert ours.dtype == jnp.float32


def test_strain_against_a_cell_worked_out_by_hand(x64):
    # Cubic 4 A. Stretching z by 1 % gives c = 4.04; a shear e_xy = e_yx = 0.01 gives
    # a = b = 4 sqrt(1 + 1e-4) and cos(gamma) = 2 * 0.01/(1 + 1e-4).
    lattice = 4.0 * jnp.eye(3)
    stretched = cell.deformed_lattice(lattice, Specimen(strain=np.diag([0.0, 0.0, 0.01])))
    np.testing.assert_allclose(cell.metric(stretched), np.diag([16.0, 16.0, 4.04**2]), rtol=1e-14)
    shear = np.zeros((3, 3))
    shear[0, 1] = shear[1, 0] = 0.01
    metric = np.asarray(cell.metric(cell.deformed_lattice(lattice, Specimen(strain=shear))))
    assert np.sqrt(metric[0, 0]) == pytest.approx(4 * np.sqrt(1.0001), rel=1e-14)
    assert metric[0, 1] / metric[0, 0] == pytest.approx(0.02 / 1.0001, rel=1e-13)


def test_strain_acts_on_cartesian_axes_not_on_cell_axes(x64):
    # A' = (1 + e) A for column vectors, checked on a cell where transposing e or A would show.
    lattice = np.asarray(cell.cell_to_lattice(jnp.array(PARAMETERS[3][:3]), jnp.array(PARAMETERS[3][3:])))
    strain = np.array([[0.01, 0.02, -0.01], [0.0, -0.02, 0.005], [0.03, 0.0, 0.015]])
    expected = [(np.eye(3) + strain) @ vector for vector in lattice]
    got = cell.deformed_lattice(jnp.asarray(lattice), Specimen(strain=strain))
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-14 * 10)


def test_a_rotation_moves_no_peak(x64):
    # The antisymmetric part turns the crystal: an exact rotation leaves the metric (identity).
    angle = 0.3
    rotation = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1.0]])
    lattice = cell.cell_to_lattice(jnp.array(PARAMETERS[3][:3]), jnp.array(PARAMETERS[3][3:]))
    turned = cell.deformed_lattice(lattice, Specimen(strain=rotation - np.eye(3)))
    np.testing.assert_allclose(cell.metric(turned), cell.metric(lattice), rtol=1e-13, atol=1e-12)


def test_thermal_expansion(x64):
    # (1 + 2e-5 * 100) times every length; no temperature, no expansion.
    lattice = jnp.asarray(np.diag([3.0, 4.0, 5.0]))
    warm = cell.deformed_lattice(lattice, Specimen(temperature=393.15, thermal_expansion=2e-5))
    np.testing.assert_allclose(warm, np.diag([3.0, 4.0, 5.0]) * 1.002, rtol=1e-14)
    assert np.array_equal(cell.deformed_lattice(lattice, Specimen(thermal_expansion=2e-5)), lattice)


def _laue(hall: str) -> np.ndarray:
    ops = [op.rot for op in gemmi.GroupOps([op for op in gemmi.symops_from_hall(hall)])]
    return symmetry.laue_rotations(np.rint(np.array(ops) / gemmi.Op.DEN).astype(int))


def test_laue_average_projects(x64):
    cubic = jnp.asarray(_laue("-F 4 2 3"))
    shear = np.array([[0.0, 0.01, 0.004], [0.01, 0.0, -0.02], [0.004, -0.02, 0.0]])
    lattice = cell.deformed_lattice(4.0 * jnp.eye(3), Specimen(strain=shear + np.diag([0.01, 0.0, 0.02])))
    metric = cell.metric(lattice)
    average = cell.laue_average(metric, cubic)
    # By hand: a cubic metric is a multiple of 1, and the operator keeps the trace. Idempotent (identity).
    np.testing.assert_allclose(average, np.eye(3) * np.trace(metric) / 3, rtol=1e-14, atol=1e-13)
    np.testing.assert_allclose(cell.laue_average(average, cubic), average, rtol=1e-14, atol=1e-13)
    # The triclinic group projects on everything.
    np.testing.assert_allclose(cell.laue_average(metric, jnp.asarray(_laue("-P 1"))), metric, rtol=1e-14)


@pytest.mark.parametrize(
    ("hall", "parameters"),
    [("-F 4 2 3", PARAMETERS[0]), ("-P 6c 2c", PARAMETERS[1]), ('-R 3 2"c', PARAMETERS[1]), ("-P 2ybc", PARAMETERS[2])],
)
def test_laue_average_keeps_a_metric_that_has_the_symmetry(x64, hall, parameters):
    metric = cell.metric(cell.cell_to_lattice(jnp.array(parameters[:3]), jnp.array(parameters[3:])))
    # Identity, up to rounding of cos(90 deg) and of 24 sums.
    np.testing.assert_allclose(cell.laue_average(metric, jnp.asarray(_laue(hall))), metric, rtol=0, atol=1e-13 * 30)


def test_laue_average_of_a_hexagonal_cell_by_hand(x64):
    # Stretching x of a hexagonal cell by e stretches a by e/2 to first order in e.
    lattice = cell.cell_to_lattice(jnp.array([3.0, 3.0, 5.0]), jnp.array([90.0, 90.0, 120.0]))
    e = 1e-6
    metric = cell.metric(cell.deformed_lattice(lattice, Specimen(strain=np.diag([e, 0.0, 0.0]))))
    average = cell.laue_average(metric, jnp.asarray(_laue("-P 6 2")))
    assert float(average[0, 0]) == pytest.approx(9 * (1 + e), abs=9 * 3 * e**2)
    assert float(average[0, 1] / average[0, 0]) == pytest.approx(-0.5, abs=1e-12)
    assert float(average[2, 2]) == pytest.approx(25.0, rel=1e-12)


def test_gradients_and_vmap(x64):
    def d(parameters):
        metric = cell.metric(cell.cell_to_lattice(parameters[:3], parameters[3:]))
        return cell.inverse_d_squared(cell.reciprocal_metric(metric), jnp.asarray(HKL))

    points = jnp.array(PARAMETERS)
    jax.test_util.check_grads(d, (points[3],), order=1, modes=("fwd", "rev"), rtol=1e-6, eps=1e-5)
    batched = jax.jit(jax.vmap(d))(points)
    np.testing.assert_allclose(batched, [d(p) for p in points], rtol=1e-13)
