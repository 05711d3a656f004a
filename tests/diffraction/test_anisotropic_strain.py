"""Stephens' form by hand, its symmetry, and the peak sums that take it."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simxrd_jax.crystal import cell
from simxrd_jax.crystal.build import make_crystal
from simxrd_jax.crystal.reflections import make_reflections
from simxrd_jax.diffraction.anisotropic_strain import EXPONENTS, anisotropic_strain
from simxrd_jax.diffraction.settings import REFINEMENT, TRAINING, Settings
from simxrd_jax.diffraction.simulate import peak_list, simulate
from simxrd_jax.diffraction.widths import peak_shape
from simxrd_jax.errors import InputError
from simxrd_jax.io.cif import read_cif
from simxrd_jax.refine.forms import stephens_basis
from simxrd_jax.types import Grid, Instrument, Specimen

CU = np.array([1.540593])
GRID = Grid.uniform(30.0, 80.0, 0.025)
# Floor of the squared width, against 16 e^2 of the smallest e here, 1e-3.
FLOORED = 1e-9


def _case(folder, name: str, stop: float = 110.0):
    structure = read_cif(folder / f"{name}.cif")
    reflections = make_reflections(structure, CU, 20.0, stop)
    reciprocal = cell.reciprocal_metric(cell.metric(jnp.asarray(structure.lattice)))
    return structure, reflections, reciprocal


@pytest.mark.parametrize("name", ["CeO2", "quartz", "ZrO2_monoclinic", "triclinic"])
def test_the_isotropic_form_is_the_isotropic_strain(x64, cif_folder, name):
    structure, reflections, reciprocal = _case(cif_folder, name)
    basis = stephens_basis(structure, 1e-3)
    strain = anisotropic_strain(reflections.hkl, basis.matrix @ basis.start, 0.0, reciprocal, reflections.laue_rotations)
    np.testing.assert_allclose(strain, 4e-3, rtol=FLOORED)
    # As forms the two add up: 16 (3^2 + 4^2) = 16 5^2.
    both = anisotropic_strain(reflections.hkl, 9 * basis.matrix @ basis.start, 4e-3, reciprocal, reflections.laue_rotations)
    np.testing.assert_allclose(both, 20e-3, rtol=FLOORED)


def test_a_cubic_form_by_hand(x64):
    # Stephens (1999): sigma^2(M) = S400 (h^4 + k^4 + l^4) + 3 S220 (h^2 k^2 + ...), here with 1 in place of 3, and a = 4 A.
    a, s400, s220 = 4.0, 5e-7, 2e-7
    coefficients = np.array([s400 if max(e) == 4 else s220 if sorted(e) == [0, 2, 2] else 0.0 for e in EXPONENTS])
    hkl = jnp.array([[1, 0, 0], [1, 1, 0], [1, 1, 1], [0, 0, 2], [2, 1, 0]])
    form = np.array([s400, 2 * s400 + s220, 3 * s400 + 3 * s220, 16 * s400, 17 * s400 + 4 * s220])
    d = a / np.sqrt(np.array([1, 2, 3, 4, 5]))
    strain = anisotropic_strain(hkl, coefficients, 0.0, jnp.eye(3) / a**2)
    np.testing.assert_allclose(strain, d**2 * np.sqrt(form), rtol=FLOORED)
    # And into degrees 2theta: FWHM = strain tan(theta), all Lorentzian, for (2 1 0) at 2theta = 50.98 deg.
    sine = jnp.asarray([1.540593 / 2 / d[4]])
    shape = peak_shape(sine, Instrument(wavelength=CU, line_weight=np.ones(1)), Specimen(), strain=strain[4:])
    width = np.degrees(d[4] ** 2 * np.sqrt(form[4]) * np.tan(np.arcsin(float(sine[0]))))
    np.testing.assert_allclose(2 * shape.hwhm_lorentz, [width], rtol=FLOORED)


@pytest.mark.parametrize("name", ["CeO2", "FeS2", "quartz", "TiO2_rutile", "ZrO2_monoclinic"])
def test_any_coefficients_act_by_their_symmetric_part(x64, cif_folder, name):
    """All members of an orbit have one width, which is the mean of the form over them."""
    structure, reflections, reciprocal = _case(cif_folder, name)
    scale = np.array([np.prod(np.linalg.norm(structure.lattice, axis=1) ** -np.array(e, dtype=float)) for e in EXPONENTS])
    coefficients = 1e-4 * scale * np.random.default_rng(0).uniform(0.5, 1.0, 15)
    strain = np.asarray(anisotropic_strain(reflections.hkl, coefficients, 0.02, reciprocal, reflections.laue_rotations))
    members = np.asarray(reflections.member_hkl)
    by_member = anisotropic_strain(jnp.asarray(members), coefficients, 0.02, reciprocal, reflections.laue_rotations)
    np.testing.assert_allclose(by_member, strain[np.asarray(reflections.member_reflection)], rtol=1e-12)
    single = np.square(np.asarray(anisotropic_strain(jnp.asarray(members), coefficients, 0.02, reciprocal)))
    count = np.bincount(reflections.member_reflection)
    np.testing.assert_allclose(np.bincount(reflections.member_reflection, single) / count, strain**2, rtol=1e-7)
    # The free coefficients of the class do the same as the whole set, whose symmetric part they are.
    basis = stephens_basis(structure)
    symmetric = basis.matrix @ np.linalg.lstsq(basis.matrix, coefficients, rcond=None)[0]
    alone = anisotropic_strain(reflections.hkl, symmetric, 0.02, reciprocal)
    averaged = anisotropic_strain(reflections.hkl, symmetric, 0.02, reciprocal, reflections.laue_rotations)
    np.testing.assert_allclose(alone, averaged, rtol=1e-12)


def test_a_negative_form_leaves_a_width_and_a_gradient(x64):
    def width(s):
        return anisotropic_strain(jnp.array([[1, 0, 0]]), jnp.zeros(15).at[0].set(s), 0.0, jnp.eye(3))[0]

    assert 0 < float(width(-1e-5)) < 1e-5
    for s in (-1e-8, 0.0, 1e-6):
        slope = float(jax.grad(width)(s))
        assert slope == pytest.approx(float(width(s + 1e-13) - width(s - 1e-13)) / 2e-13, rel=1e-4)


@pytest.fixture(scope="module")
def simulated(cif_folder):
    """Pattern of corundum as a function of its free coefficients and other numbers, and coefficients far from isotropic."""
    structure, reflections, _ = _case(cif_folder, "Al2O3")
    crystal = make_crystal(structure, CU)
    basis = stephens_basis(structure, 1.2e-3)
    instrument = Instrument(wavelength=CU, line_weight=np.ones(1), caglioti_w=0.006)

    def pattern(p, settings, split=False):
        specimen = Specimen(
            grain_size=1200.0, microstrain=p["microstrain"], microstrain_gauss_fraction=0.3, stephens=basis.matrix @ p["free"]
        )
        own = dataclasses.replace(instrument, zero_shift=p["zero_shift"], **({} if "s" not in p else {"axial_source": p["s"]}))
        own = own if "s" not in p else dataclasses.replace(own, axial_detector=0.02)
        settings = dataclasses.replace(settings, split_orbits=split)
        return simulate(crystal, reflections, specimen, own, GRID, None, settings).intensity

    free = basis.start * np.array([0.25, 2.5, 1.0, 0.5])
    return pattern, {"free": jnp.asarray(free), "microstrain": jnp.asarray(2e-4), "zero_shift": jnp.asarray(0.01)}


@pytest.mark.parametrize(
    ("accuracy", "value", "slope"), [(REFINEMENT, 2e-4, 2e-3), pytest.param(TRAINING, 5e-3, 5e-2, marks=pytest.mark.slow)]
)
def test_fft_against_dense(x64, simulated, accuracy, value, slope):
    """The promise of the isotropic sum, for strains that differ by a factor of three."""
    pattern, p = simulated
    p = jax.tree.map(lambda v: jnp.asarray(v, jnp.float64), p)
    compiled = [jax.jit(lambda p, s=s: (pattern(p, s), jax.jacfwd(pattern)(p, s))) for s in _settings(accuracy)]
    (dense, by_dense), (fft, by_fft) = (f(p) for f in compiled)
    assert np.max(np.abs(fft - dense)) < value * np.max(dense)
    for key in p:
        a, b = (np.asarray(v[key]).reshape(GRID.size, -1) for v in (by_fft, by_dense))
        assert np.all(np.max(np.abs(a - b), axis=0) < slope * np.max(np.abs(b), axis=0)), key


def _settings(accuracy):
    return Settings("dense"), Settings("fft", accuracy=accuracy)


@pytest.mark.slow
def test_axial_divergence_beside_it(x64, simulated):
    pattern, p = simulated
    p = {**p, "s": jnp.asarray(0.02)}
    dense, fft = (np.asarray(jax.jit(lambda p, s=s: pattern(p, s))(p)) for s in _settings(REFINEMENT))
    assert np.max(np.abs(fft - dense)) < 2e-4 * dense.max()


def test_split_orbits_have_the_same_widths(x64, simulated):
    pattern, p = simulated
    compiled = [jax.jit(lambda p, split=split: pattern(p, Settings("dense"), split)) for split in (False, True)]
    whole, split = (np.asarray(f(p)) for f in compiled)
    np.testing.assert_allclose(split, whole, atol=1e-9 * whole.max())
    # Guards the others: without the form the pattern is another.
    none = np.asarray(compiled[0]({**p, "free": 0 * p["free"]}))
    assert np.max(np.abs(none - whole)) > 0.05 * whole.max()


def test_peak_list_carries_it_and_is_none_without(cif_folder):
    structure, reflections, _ = _case(cif_folder, "CeO2")
    crystal, instrument = make_crystal(structure, CU), Instrument(wavelength=CU, line_weight=np.ones(1))
    listed = lambda specimen: jax.eval_shape(peak_list, crystal, reflections, specimen, instrument)  # noqa: E731
    assert listed(Specimen()).strain is None
    peaks = listed(Specimen(stephens=np.full(15, 1e-8)))
    assert peaks.strain is not None
    assert peaks.strain.shape == peaks.two_theta.shape


def test_batches_of_many_structures_refuse_it(cif_folder):
    from simxrd_jax.diffraction.peak_sum import METHODS

    structure, reflections, _ = _case(cif_folder, "CeO2")
    instrument, specimen = Instrument(wavelength=CU, line_weight=np.ones(1)), Specimen(stephens=np.full(15, 1e-8))
    crystal, shared = make_crystal(structure, CU), (specimen, instrument, GRID, Settings())

    @jax.jit
    def added():
        total = METHODS["fft"].start(*shared, jnp.float32)
        return METHODS["fft"].add(total, peak_list(crystal, reflections, specimen, instrument), *shared)

    with pytest.raises(InputError, match="leave stephens out"):
        added()
