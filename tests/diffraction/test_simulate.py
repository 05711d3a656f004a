"""The whole forward model: intensities against an independent calculation, transforms, padding, orbits, mixtures."""

from __future__ import annotations

import dataclasses

import independent
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simxrd_jax.crystal import cell
from simxrd_jax.crystal.build import make_crystal, pad_crystal
from simxrd_jax.crystal.reflections import make_reflections
from simxrd_jax.crystal.structure_factor import f_squared
from simxrd_jax.diffraction.settings import Settings
from simxrd_jax.diffraction.simulate import peak_list, simulate, simulate_mixture
from simxrd_jax.io.cif import read_cif
from simxrd_jax.types import Background, Grid, Instrument, Phase, Specimen

WAVELENGTH = 1.540593
GRID = Grid.uniform(10.0, 90.0, 0.05)
FAST = Settings(peak_sum="fft")


def _instrument(**kwargs) -> Instrument:
    return Instrument(wavelength=np.array([WAVELENGTH]), line_weight=np.ones(1), caglioti_w=0.04, **kwargs)


def _phase(folder, name, specimen=None, **kwargs) -> Phase:
    structure = read_cif(folder / f"{name}.cif")
    reflections = make_reflections(structure, WAVELENGTH, 10.0, 90.0, **kwargs)
    return Phase(crystal=make_crystal(structure, WAVELENGTH), reflections=reflections, specimen=specimen or Specimen())


def _double(tree):
    return jax.tree.map(lambda v: jnp.asarray(v, jnp.float64) if np.asarray(v).dtype.kind == "f" else jnp.asarray(v), tree)


def _dispersion(folder, name, crystal) -> dict[str, complex]:
    species = read_cif(folder / f"{name}.cif").atoms.species
    return {s: complex(a, b) for s, a, b in zip(species, crystal.f_prime, crystal.f_double_prime, strict=True)}


_peaks = jax.jit(peak_list, static_argnames="split_orbits")


@pytest.mark.parametrize("name", ["quartz", "aniso_calcite", "triclinic"])
def test_integrated_intensities_against_an_independent_calculation(x64, cif_folder, name):
    phase = _double(_phase(cif_folder, name))
    p1 = independent.read_p1(cif_folder / f"{name}.cif")
    dispersion = _dispersion(cif_folder, name, phase.crystal)
    angle, expected = independent.powder_intensities(p1, WAVELENGTH, 8.0, 92.0, dispersion)
    peaks = _peaks(phase.crystal, phase.reflections, phase.specimen, _instrument())
    ours_angle, ours = independent.merge_lines(np.asarray(peaks.two_theta[0]), np.asarray(peaks.intensity[0]))
    present = expected > 1e-12 * expected.max()
    kept = ours > 1e-12 * ours.max()
    # Two float64 calculations of one formula.
    np.testing.assert_allclose(ours_angle[kept], angle[present], rtol=0, atol=1e-9)
    np.testing.assert_allclose(ours[kept], expected[present], rtol=1e-5)
    single = jax.tree.map(lambda v: v.astype(jnp.float32) if v.dtype == jnp.float64 else v, phase)
    low = _peaks(single.crystal, single.reflections, single.specimen, jax.tree.map(jnp.float32, _instrument()))
    assert {v.dtype for v in jax.tree.leaves(low)} == {jnp.dtype("float32")}
    assert np.max(np.abs(low.intensity - peaks.intensity)) < 1e-4 * float(peaks.intensity.max())
    # Float32 keeps sin(theta) to about 2e-7: 1e-4 deg is a tenth of the finest laboratory step.
    assert np.max(np.abs(low.two_theta - peaks.two_theta)) < 1e-4


def test_doublet_shares_and_overall_factors(x64, cif_folder):
    phase = _double(_phase(cif_folder, "quartz"))
    one = _peaks(phase.crystal, phase.reflections, phase.specimen, _instrument())
    doublet = Instrument(wavelength=np.array([WAVELENGTH, WAVELENGTH]), line_weight=np.array([1.0, 0.5]))
    two = _peaks(phase.crystal, phase.reflections, phase.specimen, doublet)
    np.testing.assert_allclose(two.intensity, np.array([[2 / 3], [1 / 3]]) * one.intensity, rtol=1e-12)
    factor = jnp.linspace(0.5, 1.5, len(phase.reflections.hkl))
    changed = phase.specimen.replace(scale=3.0, biso=0.7, texture_factor=factor)
    other = _peaks(phase.crystal, phase.reflections, changed, _instrument())
    s2 = (np.sin(np.radians(one.bragg_two_theta) / 2) / WAVELENGTH) ** 2
    np.testing.assert_allclose(other.intensity, 3.0 * factor * np.exp(-2 * 0.7 * s2) * one.intensity, rtol=1e-11)


def _pattern(crystal, reflections, specimen, instrument, settings=FAST):
    return simulate(crystal, reflections, specimen, instrument, GRID, settings=settings).intensity


_compiled = jax.jit(_pattern, static_argnames="settings")


def test_eager_jit_vmap_and_one_compilation(x64, cif_folder):
    phase = _double(_phase(cif_folder, "quartz"))
    traced = []
    plain = Settings(peak_sum="windowed", window=GRID.size)

    @jax.jit
    def counted(specimen):
        traced.append(1)
        return _pattern(phase.crystal, phase.reflections, specimen, _instrument(), plain)

    specimens = [_double(Specimen(grain_size=d, microstrain=e)) for d, e in ((200.0, 0.0), (3000.0, 2e-3), (50.0, 1e-3))]
    loop = np.stack([counted(s) for s in specimens])
    assert len(traced) == 1
    eager = _pattern(phase.crystal, phase.reflections, specimens[0], _instrument(), plain)
    # Identities, to the rounding of sums taken in another order.
    np.testing.assert_allclose(eager, loop[0], rtol=0, atol=1e-11 * loop.max())
    stacked = jax.tree.map(lambda *v: jnp.stack(v), *specimens)
    batched = jax.jit(jax.vmap(lambda s: _pattern(phase.crystal, phase.reflections, s, _instrument(), plain)))(stacked)
    np.testing.assert_allclose(batched, loop, rtol=0, atol=1e-11 * loop.max())


@pytest.mark.parametrize("method", [pytest.param("dense", marks=pytest.mark.slow), "fft"])
def test_padding_changes_neither_values_nor_gradients(x64, cif_folder, method):
    exact = _phase(cif_folder, "quartz", _double(Specimen(grain_size=300.0, march_dollase=0.8)))
    padded = _phase(cif_folder, "quartz", exact.specimen, capacity=128, member_capacity=1024)
    padded = dataclasses.replace(padded, crystal=pad_crystal(exact.crystal, 32, 8))
    weights = jnp.asarray(np.random.default_rng(3).normal(size=GRID.size))
    settings = Settings(peak_sum=method)

    @jax.jit
    def value_and_grad(phase):
        def loss(crystal, specimen):
            pattern = _pattern(crystal, phase.reflections, specimen, _instrument(), settings)
            return weights @ pattern, pattern

        return jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(phase.crystal, phase.specimen)

    (_, plain), (by_crystal, by_specimen) = value_and_grad(_double(exact))
    (_, other), (by_padded, by_specimen_padded) = value_and_grad(_double(padded))
    np.testing.assert_allclose(other, plain, rtol=0, atol=1e-12 * float(plain.max()))
    atoms, species = exact.crystal.occupancy.shape
    for field in dataclasses.fields(by_crystal):
        a, b = getattr(by_crystal, field.name), getattr(by_padded, field.name)
        if a is None:
            continue
        assert np.all(np.isfinite(b)), field.name
        b = b[tuple(slice(n) for n in a.shape)]
        np.testing.assert_allclose(b, a, rtol=0, atol=1e-10 * float(np.abs(a).max()) + 1e-300, err_msg=field.name)
    for a, b in zip(jax.tree.leaves(by_specimen), jax.tree.leaves(by_specimen_padded), strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-9, atol=1e-12 * float(plain.max()))
    assert atoms < 32
    assert species < 8


def test_split_orbits_equal_unsplit_for_a_strain_that_keeps_the_class(x64, cif_folder):
    specimen = _double(Specimen(strain=np.diag([0.004, 0.004, -0.006]), march_dollase=0.7, grain_size=500.0))
    phase = _double(_phase(cif_folder, "aniso_calcite", specimen))
    together, split = (
        np.asarray(
            _compiled(phase.crystal, phase.reflections, specimen, _instrument(), Settings(peak_sum="dense", split_orbits=s))
        )
        for s in (False, True)
    )
    np.testing.assert_allclose(split, together, rtol=0, atol=1e-10 * together.max())


def test_split_orbits_equal_p1_for_a_strain_that_breaks_the_class(x64, cif_folder):
    strain = np.array([[0.008, 0.005, 0.002], [0.005, -0.004, 0.0], [0.002, 0.0, 0.006]])
    phase = _double(_phase(cif_folder, "quartz", max_strain=0.02))
    p1 = independent.read_p1(cif_folder / "quartz.cif")
    dispersion = _dispersion(cif_folder, "quartz", phase.crystal)
    p1.lattice = p1.lattice @ (np.eye(3) + strain).T
    angle, expected = independent.powder_intensities(p1, WAVELENGTH, 10.0, 90.0, dispersion)
    specimen = _double(Specimen(strain=strain))
    peaks = _peaks(phase.crystal, phase.reflections, specimen, _instrument(), split_orbits=True)
    ours_angle, ours = independent.merge_lines(np.asarray(peaks.two_theta[0]), np.asarray(peaks.intensity[0]))
    inside = (ours_angle >= 10.0) & (ours_angle <= 90.0) & (ours > 1e-9 * ours.max())
    present = expected > 1e-9 * expected.max()
    np.testing.assert_allclose(ours_angle[inside], angle[present], rtol=0, atol=1e-9)
    np.testing.assert_allclose(ours[inside], expected[present], rtol=1e-5)
    # Without splitting only the part that keeps the class acts: (e_xx + e_yy)/2 in the plane, e_zz along c.
    kept = _double(Specimen(strain=np.diag([0.002, 0.002, 0.006])))
    averaged, by_hand = (
        np.asarray(_peaks(phase.crystal, phase.reflections, s, _instrument()).two_theta) for s in (specimen, kept)
    )
    # Second order in the strain: 2theta moves by 2 tan(theta) e^2, 0.006 deg for e = 0.008 at 90 deg.
    assert np.max(np.abs(averaged - by_hand)) < 0.012


def test_cached_f_squared_equals_the_sum_over_atoms(x64, cif_folder):
    specimen = _double(Specimen(biso=0.3, march_dollase=0.8, grain_size=400.0))
    phase = _double(_phase(cif_folder, "aniso_calcite", specimen))
    cached = f_squared(phase.crystal, phase.reflections.hkl)
    for split in (False, True):
        a = _peaks(phase.crystal, phase.reflections, specimen, _instrument(), None, split_orbits=split)
        b = _peaks(phase.crystal, phase.reflections, specimen, _instrument(), cached, split_orbits=split)
        np.testing.assert_allclose(b.intensity, a.intensity, rtol=1e-8, atol=1e-12 * float(a.intensity.max()))


def test_mixture_of_two_halves_is_the_phase(x64, cif_folder):
    phase = _double(_phase(cif_folder, "CeO2", Specimen(grain_size=400.0)))
    run = jax.jit(lambda phases, share: simulate_mixture(phases, share, _instrument(), GRID, settings=FAST).intensity)
    one, two = run([phase], jnp.array([5.0])), run([phase, phase], jnp.array([2.0, 2.0]))
    np.testing.assert_allclose(two, one, rtol=0, atol=1e-12 * float(one.max()))


def test_mass_fractions_by_hand(x64, cif_folder):
    first, second = (_double(_phase(cif_folder, n, Specimen(grain_size=400.0))) for n in ("Si", "CeO2"))
    run = jax.jit(lambda phases, share: simulate_mixture(phases, share, _instrument(), GRID, settings=FAST).intensity)
    ours = run([first, second], jnp.array([0.3, 0.7]))
    si = _compiled(first.crystal, first.reflections, first.specimen, _instrument())
    ceria = _compiled(second.crystal, second.reflections, second.specimen, _instrument())
    # w V/(Z M) by hand: 8 Si of 28.085 u in 5.4311946^3 A^3, 4 CeO2 of 140.116 + 2 * 15.999 u; weights have five digits.
    volumes = [float(np.linalg.det(p.crystal.lattice)) for p in (first, second)]
    by_hand = 0.3 * volumes[0] / (8 * 28.085) * si + 0.7 * volumes[1] / (4 * (140.116 + 2 * 15.999)) * ceria
    np.testing.assert_allclose(ours, by_hand, rtol=2e-5)
    assert volumes[0] == pytest.approx(5.4311946**3, rel=1e-6)


def test_background_relative_and_absolute(x64, cif_folder):
    phase = _double(_phase(cif_folder, "Si", Specimen(grain_size=400.0)))
    for relative in (False, True):
        flat = Background(chebyshev=np.array([0.05]), relative=relative)
        settings = Settings(peak_sum="windowed", window=200)
        pattern = simulate(phase.crystal, phase.reflections, phase.specimen, _instrument(), GRID, flat, settings)
        level = 0.05 * (float(pattern.peaks.max()) if relative else 1.0)
        np.testing.assert_allclose(pattern.background, level, rtol=1e-12)
        np.testing.assert_allclose(pattern.intensity, pattern.peaks + pattern.background, rtol=1e-14)


@pytest.mark.parametrize("mixture", [False, True])
def test_float32_inputs_give_a_float32_pattern_even_with_x64(x64, cif_folder, mixture):
    specimen = Specimen(
        grain_size=400.0, march_dollase=0.8, temperature=200.0, debye_temperature=400.0, thermal_expansion=1e-5
    )
    phase = _phase(cif_folder, "quartz", specimen)
    single = lambda tree: jax.tree.map(lambda v: jnp.asarray(v, jnp.float32) if np.asarray(v).dtype.kind == "f" else v, tree)  # noqa: E731
    phase, instrument, parts = single(phase), single(_instrument()), single(Background(chebyshev=np.ones(2)))
    if mixture:
        run = jax.jit(lambda p, i, b: simulate_mixture([p, p], jnp.ones(2, jnp.float32), i, GRID, b, FAST))
    else:
        run = jax.jit(lambda p, i, b: simulate(p.crystal, p.reflections, p.specimen, i, GRID, b, FAST))
    pattern = run(phase, instrument, parts)
    assert {k: getattr(pattern, k).dtype for k in ("two_theta", "intensity", "peaks", "background")} == dict.fromkeys(
        ("two_theta", "intensity", "peaks", "background"), jnp.dtype("float32")
    )


def test_thermal_expansion_and_strain_agree(x64, cif_folder):
    # Identity: an isotropic expansion is an isotropic strain.
    phase = _double(_phase(cif_folder, "Si"))
    warm = Specimen(temperature=393.15, thermal_expansion=2e-5)
    strained = Specimen(strain=0.002 * np.eye(3))
    a, b = (_peaks(phase.crystal, phase.reflections, _double(s), _instrument()) for s in (warm, strained))
    np.testing.assert_allclose(a.two_theta, b.two_theta, rtol=1e-13)
    lattice = np.asarray(cell.deformed_lattice(phase.crystal.lattice, strained))
    assert np.linalg.det(lattice) == pytest.approx(1.002**3 * np.linalg.det(phase.crystal.lattice), rel=1e-12)
