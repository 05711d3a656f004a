"""Every floating leaf of the model against central differences in float64, forward and reverse, and at the edges."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simxrd_jax.compilation import quick_loops
from simxrd_jax.crystal.build import make_crystal, pad_crystal
from simxrd_jax.crystal.reflections import make_reflections
from simxrd_jax.diffraction.settings import REFINEMENT, Settings
from simxrd_jax.diffraction.simulate import simulate
from simxrd_jax.io.cif import read_cif
from simxrd_jax.types import Background, Crystal, Grid, Instrument, Specimen

WAVELENGTH = np.array([1.540593, 1.544427])
# On both sides of 90 degrees, where axial divergence changes sign; the dense sum needs no fine steps.
GRIDS = {"dense": Grid.uniform(60.0, 96.0, 1.2), "fft": Grid.uniform(60.0, 96.0, 0.1)}
# Derivatives are exact for any number of quadrature points, so few are taken.
COARSE = dataclasses.replace(REFINEMENT, axial_points=4, axial_inner_points=4)
METHODS = {name: Settings(peak_sum=name, accuracy=COARSE, slit_points=3, depth_points=2) for name in ("dense", "fft")}


def _double(tree):
    return jax.tree.map(lambda v: jnp.asarray(v, jnp.float64), tree)


def _crystal(folder, name: str):
    structure = read_cif(folder / f"{name}.cif")
    reflections = make_reflections(structure, WAVELENGTH, 60.0, 96.0, capacity=64, member_capacity=256)
    return _double(pad_crystal(make_crystal(structure, WAVELENGTH), 16, 4)), reflections


def _random_point(folder, method: str) -> tuple[tuple[Crystal, Specimen, Instrument, Background], object]:
    """All effects switched on, at values where nothing is at an edge."""
    crystal, reflections = _crystal(folder, "quartz")
    rng = np.random.default_rng(9)
    u = rng.normal(size=(16, 3, 3)) * 1e-3
    crystal = crystal.replace(u_aniso=jnp.asarray(u + np.swapaxes(u, 1, 2) + 0.01 * np.eye(3)))
    specimen = Specimen(
        scale=1.3, strain=rng.normal(size=(3, 3)) * 1e-3, grain_size=350.0, size_gauss_fraction=0.3, microstrain=1e-3,
        microstrain_gauss_fraction=0.4, march_dollase=0.8, texture_axis=np.array([0.3, 0.1, 1.0]),
        texture_factor=rng.uniform(0.8, 1.2, 64), biso=0.4, temperature=250.0, debye_temperature=420.0,
        thermal_expansion=1.2e-5, absorption_mu_r=0.4, absorption_mu_t=0.4, transmission_mu_t=0.3, roughness_amount=0.3,
        roughness_depth=0.2, stephens=rng.uniform(0.5, 1.0, 15) * 2e-8, harmonics=rng.normal(size=14) * 0.1,
    )  # fmt: skip
    instrument = Instrument(
        wavelength=WAVELENGTH, line_weight=np.array([1.0, 0.5]), line_fwhm=np.array([5e-4, 6e-4]), polarization_fraction=0.6,
        monochromator_two_theta=26.0, caglioti_u=0.02, caglioti_v=-0.01, caglioti_w=0.06, lorentz_inverse_cos=0.01,
        lorentz_tan=0.02, zero_shift=0.02, displacement=0.05, goniometer_radius=217.5, transparency=1e-4,
        equatorial_divergence=0.8, overflow_two_theta=75.0, axial_source=0.02, axial_detector=0.015, slit_width=0.05,
    )  # fmt: skip
    background = Background(
        chebyshev=rng.normal(size=4), polynomial=rng.normal(size=5), polynomial_height=0.5, air_scatter=10.0,
        hump_position=np.array([70.0]), hump_fwhm=np.array([8.0]), hump_height=np.array([0.3]),
        measured=rng.uniform(size=GRIDS[method].size), relative=True,
    )  # fmt: skip
    return (crystal, _double(specimen), _double(instrument), _double(background)), reflections


def _losses(point, reflections, settings):
    """Two random projections of the pattern."""
    crystal, specimen, instrument, background = point
    grid = GRIDS[settings.peak_sum]
    pattern = simulate(crystal, reflections, specimen, instrument, grid, background, settings).intensity
    return jnp.asarray(np.random.default_rng(5).normal(size=(2, grid.size))) @ pattern


_values = jax.jit(_losses, static_argnums=2, compiler_options=quick_loops())


def _reverse(point, reflections, settings):
    return jax.jacrev(_losses)(point, reflections, settings)


_reverse_compiled = jax.jit(_reverse, static_argnums=2, compiler_options=quick_loops())


def _step(name: str, value: np.ndarray) -> float:
    """Central-difference step: 1e-5 of a leaf's own scale where it is a position or a strain, else 1e-4."""
    small = {"strain": 1e-6, "lattice": 1e-5, "frac": 1e-5, "u_aniso": 1e-5, "microstrain": 1e-6, "thermal_expansion": 1e-7,
             "line_fwhm": 1e-6, "transparency": 1e-5, "stephens": 1e-12, "wavelength": 1e-6, "caglioti_u": 1e-5,
             "caglioti_v": 1e-5, "caglioti_w": 1e-5, "axial_source": 1e-5, "axial_detector": 1e-5, "zero_shift": 1e-5,
             "displacement": 1e-4}  # fmt: skip
    return small.get(name, 1e-4 * max(float(np.max(np.abs(value))), 1e-2))


def _leaves(point) -> list[tuple[int, str]]:
    return [(i, path[0].name) for i, part in enumerate(point) for path, _ in jax.tree_util.tree_leaves_with_path(part)]


def _check(point, reflections, settings, leaves):
    # Central differences at these steps are good to 2e-4. In the FFT sum they also move the width nodes, which carry no
    # gradient: they differ by the derivative of its interpolation error, bounded by its promise of 2e-3.
    rtol = 2e-4 if settings.peak_sum == "dense" else 2e-3
    rng = np.random.default_rng(2)
    gradient = _reverse_compiled(point, reflections, settings)
    assert all(np.all(np.isfinite(v)) for v in jax.tree.leaves(gradient))
    along = lambda p, t: jax.jvp(lambda q: _losses(q, reflections, settings), (p,), (t,))[1]  # noqa: E731
    push = jax.jit(along, compiler_options=quick_loops())
    zero = jax.tree.map(jnp.zeros_like, point)
    failures = []
    for i, name in leaves:
        leaf = jnp.asarray(getattr(point[i], name))
        direction = jnp.asarray(rng.uniform(0.5, 1.0, size=leaf.shape) * rng.choice([-1, 1], size=leaf.shape))

        def moved(by, i=i, name=name):
            return tuple(part.replace(**{name: by}) if j == i else part for j, part in enumerate(point))

        step = _step(name, np.asarray(leaf))
        ends = [np.asarray(_values(moved(leaf + sign * step * direction), reflections, settings)) for sign in (1, -1)]
        numeric = (ends[0] - ends[1]) / (2 * step)
        tangent = tuple(part.replace(**{name: direction}) if j == i else part for j, part in enumerate(zero))
        forward = np.asarray(push(point, tangent))
        reverse = np.sum(np.asarray(getattr(gradient[i], name)) * np.asarray(direction), axis=tuple(range(1, 1 + leaf.ndim)))
        # Differences of sums of size |loss| carry 1e-13 of it over the step; the truncation is (step/scale)^2.
        noise = 1e-13 * np.abs(ends[0]).max() / step * 100
        scale = np.abs(numeric).max()
        if not np.allclose(forward, reverse, rtol=1e-7, atol=1e-9 * scale + 1e-12):
            failures.append((name, "forward and reverse", forward, reverse))
        if not np.allclose(reverse, numeric, rtol=rtol, atol=rtol * scale + noise):
            failures.append((name, "central differences", reverse, numeric))
    assert not failures, failures


@pytest.mark.parametrize("method", ["dense", pytest.param("fft", marks=pytest.mark.slow)])
def test_every_leaf_at_a_random_point(x64, cif_folder, method):
    point, reflections = _random_point(cif_folder, method)
    leaves = _leaves(point)
    assert len(leaves) == 12 + 21 + 21 + 8
    _check(point, reflections, METHODS[method], leaves)


@pytest.mark.slow
def test_leaves_that_take_many_points(x64, cif_folder):
    """Rays on both sides of the specimen, automatic slits and tube tails, whose dense sums would take minutes."""
    crystal, reflections = _crystal(cif_folder, "quartz")
    instrument = Instrument(
        wavelength=WAVELENGTH, line_weight=np.array([1.0, 0.5]), caglioti_w=0.1, illuminated_length=18.0, axial_source=0.03,
        axial_detector=0.02, axial_tube=0.025, soller=5.0, tail_fraction=0.05, tail_low=1.5, tail_high=0.8,
    )  # fmt: skip
    point = (crystal, _double(Specimen(grain_size=400.0)), _double(instrument), _double(Background()))
    leaves = [leaf for leaf in _leaves(point) if leaf[0] == 2]
    assert len(leaves) == 2 + 9 + 9
    _check(point, reflections, METHODS["fft"], leaves)


@pytest.mark.parametrize("method", [pytest.param("dense", marks=pytest.mark.slow), "fft"])
def test_every_leaf_at_the_edges(x64, cif_folder, method):
    """Zero strain, zero microstrain, r = 1, atoms on special positions, padding, S = H, lines on both sides of 90 degrees."""
    crystal, reflections = _crystal(cif_folder, "quartz")
    specimen = Specimen(grain_size=1e4, march_dollase=1.0, biso=0.0)
    instrument = Instrument(
        wavelength=WAVELENGTH, line_weight=np.array([1.0, 0.5]), caglioti_w=0.06, axial_source=0.02, axial_detector=0.02
    )
    background = Background(chebyshev=np.zeros(3))
    point = (crystal, _double(specimen), _double(instrument), _double(background))

    _check(point, reflections, METHODS[method], _leaves(point))


@pytest.mark.parametrize("method", [pytest.param("dense", marks=pytest.mark.slow), "fft"])
def test_infinite_grains_closed_slits_and_padding(x64, cif_folder, method):
    crystal, reflections = _crystal(cif_folder, "CeO2")
    for source, detector in ((0.0, 0.0), (0.0, 0.02)):
        specimen = Specimen(grain_size=np.inf)
        instrument = Instrument(
            wavelength=WAVELENGTH,
            line_weight=np.array([1.0, 0.5]),
            caglioti_w=0.06,
            axial_source=source,
            axial_detector=detector,
        )
        point = (crystal, _double(specimen), _double(instrument), _double(Background(chebyshev=np.zeros(2))))
        gradient = _reverse_compiled(point, reflections, METHODS[method])
        assert all(np.all(np.isfinite(v)) for v in jax.tree.leaves(gradient))
        # 1/D is flat at infinity; the profile is even in S.
        assert np.all(np.asarray(gradient[1].grain_size) == 0)
        largest = float(np.abs(gradient[2].zero_shift).max())
        assert float(np.abs(gradient[2].axial_source).max()) <= 1e-6 * largest
        # Padding atoms and species have no say, except that giving them weight would: only occupancy may differ from 0.
        count = int((np.asarray(crystal.occupancy).sum(axis=1) > 0).sum())
        assert count < 16
        assert np.all(np.asarray(gradient[0].frac)[:, count:] == 0)
        some = [(0, "lattice"), (0, "biso"), (1, "microstrain"), (2, "caglioti_w"), (2, "zero_shift")]
        _check(point, reflections, METHODS[method], some)
