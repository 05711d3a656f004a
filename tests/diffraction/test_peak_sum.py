"""The three peak sums: dense against plain numpy, windowed and FFT against dense, values and gradients.

Errors of a pattern are relative to its highest point, errors of a derivative to the largest value of that derivative. The
bounds of the FFT sum are those its settings promise (REFINEMENT: 2e-4 from 4 grid steps of full width on, 2e-3 down to 2.5).
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import voigt_profile

from simxrd_jax.compilation import quick_loops
from simxrd_jax.diffraction.axial_divergence import axial_points
from simxrd_jax.diffraction.peak_sum import peak_sum as eager_peak_sum
from simxrd_jax.diffraction.profiles import tch_pseudo_voigt
from simxrd_jax.diffraction.settings import REFINEMENT, TRAINING, Settings
from simxrd_jax.diffraction.widths import peak_shape
from simxrd_jax.errors import InputError
from simxrd_jax.types import Grid, Instrument, PeakList, Specimen

peak_sum = jax.jit(eager_peak_sum, static_argnums=4, compiler_options=quick_loops())
STEP = 0.02
BROAD, NARROW = 0.085, 0.052  # instrument FWHM [deg]: 4.25 and 2.6 steps
RANDOM = np.random.default_rng(11)
BRAGG = {"10-80": np.sort(RANDOM.uniform(8.5, 81.5, 24)), "5-150": np.sort(RANDOM.uniform(4.0, 152.0, 24))}
GRIDS = {"10-80": Grid.uniform(10.0, 80.0, STEP), "5-150": Grid.uniform(5.0, 150.0, STEP)}
INTENSITY = RANDOM.uniform(0.05, 1.0, 24)
DENSE, FFT = Settings(peak_sum="dense"), Settings(peak_sum="fft")


def _instrument(fwhm: float = BROAD, **kwargs) -> Instrument:
    # A laboratory-like curve: the given width at its lowest, 1.3 times as wide at 2theta = 120 deg.
    defaults = {"caglioti_u": 0.3 * fwhm**2, "caglioti_v": -0.15 * fwhm**2, "caglioti_w": 1.02 * fwhm**2}
    return Instrument(wavelength=np.array([1.540593]), line_weight=np.ones(1), **{**defaults, **kwargs})


def _peaks(bragg, zero_shift=0.0, stretch=0.0) -> PeakList:
    """Peaks of a lattice stretched by a relative amount, at shifted positions."""
    angle = 2 * jnp.degrees(jnp.arcsin(jnp.sin(jnp.radians(bragg) / 2) / (1 + stretch)))
    return PeakList(two_theta=(angle + zero_shift)[None], bragg_two_theta=angle[None], intensity=jnp.asarray(INTENSITY)[None])


def _pattern(p: dict, bragg, instrument: Instrument, grid: Grid, settings: Settings):
    """A pattern as a function of named parameters."""
    p = dict(p)
    peaks = _peaks(bragg, p.pop("zero_shift", 0.0), p.pop("stretch", 0.0))
    names = {f.name for f in dataclasses.fields(Specimen)}
    specimen = Specimen(**{k: p.pop(k) for k in list(p) if k in names})
    return eager_peak_sum(peaks, specimen, dataclasses.replace(instrument, **p), grid, settings)


_value = jax.jit(_pattern, static_argnums=4)
_jacobian = jax.jit(jax.jacfwd(_pattern), static_argnums=4, compiler_options=quick_loops())


def _floats(**kwargs) -> dict:
    return {k: jnp.asarray(float(v)) for k, v in kwargs.items()}


def _value_error(p: dict, instrument: Instrument, key: str, **settings) -> float:
    dense, fft = (
        np.asarray(_value(p, BRAGG[key], instrument, GRIDS[key], dataclasses.replace(s, **settings))) for s in (DENSE, FFT)
    )
    return float(np.max(np.abs(fft - dense)) / dense.max())


def _gradient_errors(p: dict, instrument: Instrument, key: str, **settings) -> dict[str, float]:
    dense, fft = (_jacobian(p, BRAGG[key], instrument, GRIDS[key], dataclasses.replace(s, **settings)) for s in (DENSE, FFT))
    return {k: float(np.max(np.abs(fft[k] - dense[k])) / np.max(np.abs(dense[k]))) for k in p}


def _by_scipy(instrument: Instrument, specimen: Specimen, grid: Grid, bragg: np.ndarray) -> np.ndarray:
    """A plain double loop with scipy's profile and quadratures of its own over slit and axial divergence."""
    shape = peak_shape(jnp.sin(jnp.radians(bragg) / 2), instrument, specimen)
    total = np.zeros(grid.size)
    slit_nodes, slit_weights = np.polynomial.legendre.leggauss(40)
    for position, intensity, sigma, gamma in zip(bragg, INTENSITY, shape.sigma, shape.hwhm_lorentz, strict=True):
        shifts, weights = np.zeros(1), np.ones(1)
        if instrument.axial_source is not None:
            # Equal weights over a fine rule in h, the paper's variable, written out: W(h)/((1 + h^2) sin 2phi).
            s, h_detector = instrument.axial_source, instrument.axial_detector
            h = (np.arange(4000) + 0.5) / 4000 * (s + h_detector)
            phi = np.arccos(np.cos(np.radians(position)) * np.sqrt(1 + h * h))
            weights = np.minimum(s + h_detector - h, 2 * min(s, h_detector)) / ((1 + h * h) * np.sin(phi))
            weights, shifts = weights / weights.sum(), np.degrees(phi) - position
            shifts, weights = shifts.reshape(-1, 50).mean(axis=1), weights.reshape(-1, 50).sum(axis=1)
        for shift, weight in zip(shifts, weights, strict=True):
            offset = grid.two_theta - position - shift
            if instrument.slit_width is None:
                total += intensity * weight * voigt_profile(offset, sigma, gamma)
                continue
            for node, w in zip(slit_nodes, slit_weights, strict=True):
                box = voigt_profile(offset - 0.5 * instrument.slit_width * node, sigma, gamma)
                total += intensity * weight * 0.5 * w * box
    return total


@pytest.mark.parametrize(
    ("extra", "bound"),
    [
        ({}, 1e-11),
        ({"slit_width": 0.06}, 1e-9),
        # 80 groups of 50 midpoints in h: the groups' spread is (reach/80)^2/12 against the squared width, under 1e-5.
        ({"axial_source": 0.02, "axial_detector": 0.012}, 1e-4),
    ],
)
def test_dense_against_a_plain_sum(x64, extra, bound):
    instrument = _instrument(lorentz_inverse_cos=0.02, lorentz_tan=0.03, **extra)
    grid = Grid.uniform(10.0, 80.0, 0.1)
    specimen = Specimen(grain_size=300.0, microstrain=1e-3)
    few = BRAGG["10-80"]
    ours = np.asarray(peak_sum(_peaks(jnp.asarray(few)), specimen, instrument, grid, DENSE))
    plain = _by_scipy(instrument, specimen, grid, few)
    assert np.max(np.abs(ours - plain)) < bound * plain.max()


@pytest.mark.parametrize("method", ["dense", "windowed", "fft"])
@pytest.mark.parametrize("profile", ["voigt", "tch"])
def test_area_is_the_integrated_intensity(x64, method, profile):
    grid = Grid.uniform(20.0, 60.0, STEP)
    peaks = PeakList(two_theta=jnp.array([[40.0]]), bragg_two_theta=jnp.array([[40.0]]), intensity=jnp.array([[3.0]]))
    pattern = peak_sum(
        peaks, Specimen(grain_size=2000.0), _instrument(slit_width=0.05), grid, Settings(method, profile, window=10**6)
    )
    shape = peak_shape(jnp.sin(jnp.radians(jnp.array([20.0]))), _instrument(), Specimen(grain_size=2000.0))
    gamma = float(shape.hwhm_lorentz[0])
    # A Lorentzian keeps 1 - 2 gamma/(pi w) inside +-w; its pseudo-Voigt stand-in has up to 1.3 times that tail.
    share = 0.01 if profile == "voigt" else 0.5
    kept = 3.0 * (1 - 2 * gamma / (np.pi * 20))
    assert float(jnp.sum(pattern)) * STEP == pytest.approx(kept, abs=3 * gamma / 20 * share)


def test_windowed_equals_dense_where_the_window_covers_the_grid(x64):
    grid = Grid.uniform(10.0, 80.0, 0.1)
    p = _floats(grain_size=100.0, microstrain=2e-3)
    bragg = BRAGG["10-80"]
    whole = Settings(peak_sum="windowed", window=grid.size)
    dense, windowed = (np.asarray(_value(p, bragg, _instrument(), grid, s)) for s in (DENSE, whole))
    np.testing.assert_allclose(windowed, dense, rtol=0, atol=1e-13 * dense.max())
    slopes = [_jacobian(p, bragg, _instrument(), grid, s) for s in (DENSE, whole)]
    for k in p:
        np.testing.assert_allclose(slopes[1][k], slopes[0][k], rtol=0, atol=1e-12 * np.abs(slopes[0][k]).max())


def test_windowed_loses_the_documented_tail(x64):
    grid = Grid.uniform(20.0, 60.0, STEP)
    peaks = PeakList(two_theta=jnp.array([[40.0]]), bragg_two_theta=jnp.array([[40.0]]), intensity=jnp.array([[1.0]]))
    specimen = Specimen(grain_size=1000.0)
    gamma = float(peak_shape(jnp.sin(jnp.radians(jnp.array([20.0]))), _instrument(), specimen).hwhm_lorentz[0])
    kept = float(jnp.sum(peak_sum(peaks, specimen, _instrument(), grid, Settings(peak_sum="windowed", window=400)))) * STEP
    # Half width 4 deg; the next term of the tail is (gamma/w)^3.
    assert 1 - kept == pytest.approx(2 * gamma / (np.pi * 4.0), rel=0.01)


@pytest.mark.parametrize("method", ["dense", "windowed"])
def test_uneven_grid_with_a_gap(x64, method):
    points = np.concatenate([np.arange(10, 30, 0.05), np.arange(45, 60, 0.02), np.arange(60.013, 80, 0.11)])
    grid = Grid.from_points(points)
    assert not grid.is_uniform
    instrument, specimen = _instrument(), Specimen(grain_size=300.0)
    ours = peak_sum(
        _peaks(jnp.asarray(BRAGG["10-80"])), specimen, instrument, grid, Settings(peak_sum=method, window=len(points))
    )
    np.testing.assert_allclose(ours, _by_scipy(instrument, specimen, grid, BRAGG["10-80"]), rtol=1e-9)
    with pytest.raises(InputError, match="evenly spaced"):
        peak_sum(_peaks(jnp.asarray(BRAGG["10-80"])), specimen, instrument, grid, FFT)


@pytest.mark.parametrize("key", ["10-80", "5-150"])
@pytest.mark.parametrize(("fwhm", "bound"), [(BROAD, 2e-4), (NARROW, 2e-3)])
def test_fft_values_over_size_and_strain(x64, key, fwhm, bound):
    for size in (20.0, 60.0, 300.0, 2000.0, 1e4, np.inf):
        for strain in (0.0, 1e-3, 3e-3, 1e-2):
            p = _floats(grain_size=size, microstrain=strain)
            assert _value_error(p, _instrument(fwhm), key) <= bound, (size, strain)


GRADIENT_BOUNDS = [(BROAD, 2e-3), pytest.param(NARROW, 2e-2, marks=pytest.mark.slow)]


@pytest.mark.parametrize("key", ["10-80", "5-150"])
@pytest.mark.parametrize(("fwhm", "bound"), GRADIENT_BOUNDS)
def test_fft_gradients_over_size_and_strain(x64, key, fwhm, bound):
    for size, strain in ((30.0, 0.0), (300.0, 1e-3), (3000.0, 0.0), (300.0, 1e-2), (1e4, 1e-4)):
        p = _floats(
            zero_shift=0.013, stretch=1e-3, grain_size=size, microstrain=strain, caglioti_u=0.3 * fwhm**2,
            caglioti_v=-0.15 * fwhm**2, caglioti_w=1.02 * fwhm**2, lorentz_inverse_cos=0.003, lorentz_tan=0.004,
        )  # fmt: skip
        errors = _gradient_errors(p, _instrument(fwhm), key)
        assert max(errors.values()) <= bound, (size, strain, errors)


@pytest.mark.parametrize(
    ("what", "p"),
    [
        ("axial", {"axial_source": 0.02, "axial_detector": 0.015, "zero_shift": 0.0, "grain_size": 2000.0}),
        ("slit", {"slit_width": 0.06, "grain_size": 2000.0, "stretch": 0.0}),
        ("transparency", {"transparency": 1.2e-3, "grain_size": 2000.0, "microstrain": 2e-4}),
        ("tch", {"grain_size": 500.0, "microstrain": 1e-3, "caglioti_w": 0.008, "zero_shift": 0.0}),
        ("tch and axial", {"axial_source": 0.01, "axial_detector": 0.01, "grain_size": 1000.0}),
    ],
)
def test_fft_with_other_instrument_functions(x64, what, p):
    settings: dict = {"profile": "tch"} if "tch" in what else {}
    if "transparency" in p:
        settings["depth_points"] = 64
    assert _value_error(_floats(**p), _instrument(), "10-80", **settings) <= 2e-4
    errors = _gradient_errors(_floats(**p), _instrument(), "10-80", **settings)
    assert max(errors.values()) <= 2e-3, errors


def test_fft_with_a_doublet_and_natural_widths(x64):
    instrument = Instrument(
        wavelength=np.array([1.540593, 1.544427]), line_weight=np.array([1.0, 0.5]), line_fwhm=np.array([5.8e-4, 7.7e-4]),
        caglioti_w=BROAD**2,
    )  # fmt: skip
    sine = jnp.sin(jnp.radians(jnp.asarray(BRAGG["10-80"])) / 2) * jnp.array([[1.0], [1.544427 / 1.540593]])
    angle = 2 * jnp.degrees(jnp.arcsin(sine))
    peaks = PeakList(two_theta=angle, bragg_two_theta=angle, intensity=jnp.array([[1.0], [0.5]]) * INTENSITY)

    def pattern(line_fwhm, settings):
        replaced = dataclasses.replace(instrument, line_fwhm=line_fwhm)
        return eager_peak_sum(peaks, Specimen(grain_size=3000.0), replaced, GRIDS["10-80"], settings)

    slope = jax.jit(jax.jacfwd(pattern), static_argnums=1, compiler_options=quick_loops())
    pattern_of = jax.jit(pattern, static_argnums=1)
    for natural in (jnp.asarray(instrument.line_fwhm), None):
        dense, fft = (np.asarray(pattern_of(natural, s)) for s in (DENSE, FFT))
        assert np.max(np.abs(fft - dense)) <= 2e-4 * dense.max()
    dense, fft = (np.asarray(slope(jnp.asarray(instrument.line_fwhm), s)) for s in (DENSE, FFT))
    assert np.max(np.abs(fft - dense)) <= 2e-3 * np.abs(dense).max()


@pytest.mark.parametrize("fwhm", [0.03, 0.01, 1e-3])
def test_narrow_peaks_keep_area_and_position(x64, fwhm):
    grid = Grid.uniform(20.0, 60.0, STEP)
    for position in (40.0, 40.0066, 40.013):
        peaks = PeakList(
            two_theta=jnp.array([[position]]), bragg_two_theta=jnp.array([[position]]), intensity=jnp.array([[1.0]])
        )
        instrument = Instrument(wavelength=np.array([1.540593]), line_weight=np.ones(1), caglioti_w=fwhm**2)
        pattern = np.asarray(peak_sum(peaks, Specimen(), instrument, grid, FFT))
        area = pattern.sum() * STEP
        centroid = (pattern * grid.two_theta).sum() * STEP / area
        # The aliases that the quintic spline leaves move the centroid by 3e-4 of a step, 6e-6 deg. A Gaussian has no tails
        # to lose. 2e-3 of the highest point is the ringing that 1.8 to 2.5 steps leave.
        assert area == pytest.approx(1.0, abs=1e-6)
        assert centroid == pytest.approx(position, abs=3e-4 * STEP)
        assert pattern.min() > -2e-3 * pattern.max()


def test_peaks_outside_the_grid_send_in_their_tails(x64):
    outside = jnp.array([9.9, 9.0, 4.0, 80.05, 81.0, 100.0, 150.0, 179.0])
    p = PeakList(two_theta=outside[None], bragg_two_theta=outside[None], intensity=jnp.ones((1, 8)))
    for size in (50.0, 1000.0):
        dense, fft = (
            np.asarray(peak_sum(p, Specimen(grain_size=size), _instrument(), GRIDS["10-80"], s)) for s in (DENSE, FFT)
        )
        assert np.max(np.abs(fft - dense)) <= 2e-4 * dense.max()
        # Far from every peak the tails alone are left; relative to them.
        middle = slice(1000, 2500)
        np.testing.assert_allclose(fft[middle], dense[middle], rtol=1e-3)


@pytest.mark.parametrize("method", ["dense", pytest.param("windowed", marks=pytest.mark.slow), "fft"])
def test_float32_inputs_give_float32_even_with_x64(x64, method):
    single = lambda tree: jax.tree.map(lambda v: jnp.asarray(v, jnp.float32), tree)  # noqa: E731
    instrument = single(_instrument(axial_source=0.01, axial_detector=0.02, slit_width=0.03))
    peaks, specimen = single(_peaks(BRAGG["10-80"])), single(Specimen(grain_size=300.0, microstrain=1e-3))
    settings = Settings(peak_sum=method, window=4000)
    ours = peak_sum(peaks, specimen, instrument, GRIDS["10-80"], settings)
    assert ours.dtype == jnp.float32
    exact = np.asarray(
        peak_sum(_peaks(jnp.asarray(BRAGG["10-80"])), Specimen(grain_size=300.0, microstrain=1e-3),
                 _instrument(axial_source=0.01, axial_detector=0.02, slit_width=0.03), GRIDS["10-80"], settings)
    )  # fmt: skip
    # A position near 80 deg is rounded to 4e-6 deg, 5e-5 of a width of 0.09 deg.
    assert np.max(np.abs(ours - exact)) < 3e-4 * exact.max()


@pytest.mark.parametrize("method", ["dense", "windowed", pytest.param("fft", marks=pytest.mark.slow)])
def test_vmap_equals_a_loop_and_jit_equals_eager(x64, method):
    settings = Settings(peak_sum=method, window=500)
    grid = Grid.uniform(10.0, 80.0, 0.1)
    sizes = jnp.array([50.0, 4000.0])
    one = lambda size: _pattern({"grain_size": size}, BRAGG["10-80"], _instrument(), grid, settings)  # noqa: E731
    loop = np.stack([jax.jit(one)(s) for s in sizes])
    np.testing.assert_allclose(jax.vmap(one)(sizes), loop, rtol=0, atol=1e-12 * loop.max())
    np.testing.assert_allclose(one(sizes[0]), loop[0], rtol=0, atol=1e-12 * loop.max())


def test_axial_and_tch_pieces_are_the_modules_own(x64):
    """The dense sum of one TCH peak with axial divergence, put together by hand from its parts."""
    instrument = _instrument(axial_source=0.02, axial_detector=0.01)
    grid = Grid.uniform(10.0, 20.0, 0.01)
    peak = jnp.array([[15.0]])
    ours = peak_sum(
        PeakList(peak, peak, jnp.ones((1, 1))), Specimen(grain_size=900.0), instrument, grid, Settings("dense", "tch")
    )
    shape = peak_shape(jnp.sin(jnp.radians(jnp.array([7.5]))), instrument, Specimen(grain_size=900.0))
    shift, weight = axial_points(jnp.array([15.0]), 0.02, 0.01, DENSE.accuracy.axial_points)
    offset = jnp.asarray(grid.two_theta)[:, None] - 15.0 - shift
    by_hand = jnp.sum(weight * tch_pseudo_voigt(offset, shape.sigma, shape.hwhm_lorentz), axis=1)
    np.testing.assert_allclose(ours, by_hand, rtol=1e-11)


def test_axial_quadrature_of_both_accuracies_in_the_laboratory_presets_worst_corner(x64):
    """Widest openings, narrowest width, 12 deg: against 96 points on each side of the kink."""
    grid = Grid.uniform(10.0, 14.0, STEP)
    angle = jnp.array([[12.0]])
    peaks = PeakList(two_theta=angle, bragg_two_theta=angle, intensity=jnp.ones((1, 1)))
    instrument = Instrument(
        wavelength=np.array([1.540593]), line_weight=np.ones(1), caglioti_w=0.065**2, axial_source=0.03, axial_detector=0.03
    )

    def dense(accuracy):
        return peak_sum(peaks, Specimen(), instrument, grid, Settings(peak_sum="dense", accuracy=accuracy))

    truth = dense(dataclasses.replace(REFINEMENT, axial_points=96, axial_inner_points=96))
    for accuracy, bound in ((TRAINING, 5e-3), (REFINEMENT, 2e-4)):
        assert float(jnp.max(jnp.abs(dense(accuracy) - truth)) / jnp.max(truth)) < bound
