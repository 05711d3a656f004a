"""Measured patterns: resampling against simulated patterns and by hand, readers, and every kind of bad input."""

from __future__ import annotations

import functools
import itertools
import pathlib
from collections.abc import Callable

import jax
import numpy as np
import pytest

import simxrd_jax as sx
from simxrd_jax.constants import Radiation
from simxrd_jax.crystal.structure import CRYSTAL_SYSTEMS
from simxrd_jax.errors import InputError
from simxrd_jax.io.measured import (
    PLACES,
    Measurement,
    OffGridError,
    RawSet,
    load_rruff90_xred,
    load_xred,
    on_grid,
    read_measured,
    to_grid,
)
from simxrd_jax.io.xy import pattern_text, read_xy
from simxrd_jax.presets import get_preset

GRID = 10 + 0.02 * np.arange(3501)
CU, CO, MO = 1.540593, 1.788996, 0.7093171


def peak(x: np.ndarray, centre: float, fwhm: float = 0.1) -> np.ndarray:
    return np.exp(-4 * np.log(2) * ((x - centre) / fwhm) ** 2)


def angle_of(d: float, wavelength: float) -> float:
    return float(2 * np.degrees(np.arcsin(wavelength / (2 * d))))


# --- Resampling ------------------------------------------------------------------------------------------------------------


@functools.cache
def simulated(cif_folder: pathlib.Path, wavelength: float, two_theta: tuple[float, float, float]):
    """Quartz with size broadening alone (an instrument without width), fully polarized beam: exact in any wavelength."""
    with jax.enable_x64(True):
        radiation = Radiation("test", (wavelength,), (1.0,))
        phase = sx.load_phase(cif_folder / "quartz.cif", Radiation("test", (CU,), (1.0,)), (8.0, 100.0, 0.02))
        instrument = sx.Instrument(
            wavelength=np.array(radiation.wavelength), line_weight=np.ones(1), polarization_fraction=1.0
        )
        grid = sx.Grid.uniform(*two_theta)
        specimen = sx.Specimen(grain_size=400.0, size_gauss_fraction=1.0)  # FWHM 0.208/cos(theta) deg at Cu's wavelength
        made = jax.jit(lambda: sx.simulate(phase.crystal, phase.reflections, specimen, instrument, grid).intensity)
        return np.asarray(grid.two_theta), np.asarray(made())


@pytest.mark.parametrize(
    ("wavelength", "two_theta"),
    [
        pytest.param(CU, (10.0, 80.0, 0.02), id="same"),
        pytest.param(CU, (9.0, 85.0, 0.005), id="finer"),
        pytest.param(CU, (9.0, 85.0, 0.013), id="a little finer", marks=pytest.mark.slow),
        pytest.param(CU, (9.0, 85.0, 0.05), id="coarser", marks=pytest.mark.slow),
        pytest.param(CO, (10.0, 99.0, 0.02), id="longer wavelength"),
        pytest.param(MO, (4.0, 40.0, 0.01), id="shorter wavelength"),
    ],
)
def test_simulated_patterns_agree_on_the_grid(cif_folder, wavelength, two_theta):
    """Tolerance: 1 % of the maximum, or what lines between points of the coarser step cut off a peak's top and foot."""
    cut_off = 100 * two_theta[2] ** 2 / 8 * 8 * np.log(2) / 0.208**2  # step^2/8 times the curvature of a Gaussian's top
    _, expected = simulated(cif_folder, CU, (10.0, 80.0, 0.02))
    found, covered = to_grid(*simulated(cif_folder, wavelength, two_theta), wavelength, GRID, CU)
    assert covered == 1
    np.testing.assert_allclose(found, 100 * expected / expected.max(), rtol=0, atol=max(1.0, cut_off))
    assert np.corrcoef(found, expected)[0, 1] > 1 - 1e-4 * max(1.0, cut_off) ** 2


@pytest.mark.parametrize("wavelength", [MO, CU, CO])
@pytest.mark.parametrize("step", [0.004, 0.02, 0.03])
@pytest.mark.parametrize("d", [1.3, 2.2, 4.1])
def test_peaks_land_where_bragg_says(wavelength, step, d):
    place = angle_of(d, wavelength)
    x = np.arange(4.0, 125.0, step)
    # Of a width in 1/d that is 0.2 deg at Cu.
    width = 0.2 * np.cos(np.radians(angle_of(d, CU) / 2)) / np.cos(np.radians(place / 2)) * wavelength / CU
    found, _ = to_grid(x, peak(x, place, width), wavelength, GRID, CU)
    top = int(found.argmax())
    centre = np.average(GRID[top - 25 : top + 26], weights=found[top - 25 : top + 26])
    assert abs(GRID[top] - angle_of(d, CU)) <= 0.5 * 0.02 + 0.5 * step
    assert centre == pytest.approx(angle_of(d, CU), abs=0.002)


def test_a_pattern_on_the_grid_is_only_scaled():
    y = np.random.default_rng(0).uniform(5, 50, len(GRID))
    found, covered = to_grid(GRID, y, CU, GRID, CU)
    np.testing.assert_allclose(found, 100 * y / y.max(), rtol=1e-9)
    assert (found.max(), covered) == (100.0, 1.0)


def test_scale_of_the_intensities_does_not_matter():
    y = np.random.default_rng(0).uniform(5, 50, len(GRID))
    np.testing.assert_allclose(to_grid(GRID, 1e6 * y, CU, GRID, CU)[0], to_grid(GRID, y, CU, GRID, CU)[0], rtol=1e-12)


@pytest.mark.parametrize("offset", np.linspace(0, 0.02, 5))
def test_peaks_narrower_than_the_grid_keep_their_area(offset):
    """A peak of 0.004 deg between grid points of 0.02: interpolation would miss it or double it."""
    x = np.arange(10.0, 80.0, 0.001)
    background = 1e-3
    two = peak(x, 40.0 + offset, 0.004) + 0.5 * peak(x, 60.0, 0.3) + background
    found, _ = to_grid(x, two, CU, GRID, CU)
    found = found * (0.5 + background) / found[(GRID > 59) & (GRID < 61)].max() - background
    area = found[(GRID > 39.5) & (GRID < 40.5)].sum() * 0.02
    assert area == pytest.approx(0.004 * np.sqrt(np.pi / np.log(2)) / 2, rel=0.02)


def test_means_are_those_of_the_lines_between_points():
    """Against quadrature of numpy's own interpolation, on uneven points, some of them wider apart than the grid's."""
    rng = np.random.default_rng(4)
    x = np.unique(np.round(rng.uniform(9.9, 80.1, 12_000), 5))
    y = rng.uniform(1, 2, len(x))
    found, _ = to_grid(x, y, CU, GRID, CU)
    step = np.diff(x)[np.searchsorted(x, GRID, side="right") - 1]
    across = np.linspace(-0.01, 0.01, 4001)
    chosen = [*range(1, 3500, 60), int(found.argmax())]
    means = np.array([np.trapezoid(np.interp(GRID[i] + across, x, y), across) / 0.02 for i in chosen])
    expected = np.where(step[chosen] < 0.99 * 0.02, means, np.interp(GRID[chosen], x, y))
    assert 5 < np.sum(expected != means) < len(chosen) - 5
    np.testing.assert_allclose(found[chosen], 100 * expected / expected[-1], rtol=1e-6)


def test_what_is_not_covered_gets_the_least_value():
    x = np.arange(20.0, 70.0, 0.02)
    y = 7 + 93 * peak(x, 40.0)
    found, covered = to_grid(x, y, CU, GRID, CU)
    outside = (GRID < 19.98) | (GRID > 70.0)
    np.testing.assert_allclose(found[outside], 7.0, rtol=1e-6)
    assert covered == pytest.approx(np.mean(~outside), abs=2 / len(GRID))


def test_points_whose_d_is_out_of_reach_fall_out():
    """Mo reaches d = 0.5 A; Cu's shortest is 0.77 A."""
    grid = np.arange(10.0, 175.0, 0.02)
    x = np.arange(4.0, 170.0, 0.01)
    found, covered = to_grid(x, 1 + peak(x, angle_of(1.0, MO)) + 50 * peak(x, angle_of(0.5, MO)), MO, grid, CU)
    assert covered == 1
    assert grid[found.argmax()] == pytest.approx(angle_of(1.0, CU), abs=0.02)
    away = np.abs(grid - grid[found.argmax()]) > 2
    np.testing.assert_allclose(found[away], 50.0, atol=0.3)  # the top lies between grid points


def test_sets_on_one_axis_are_resampled_as_one_by_one():
    rng = np.random.default_rng(2)
    x = np.arange(9.0, 82.0, 0.013)
    rows = rng.uniform(0, 1, (3, len(x)))
    together, covered = to_grid(x, rows, CO, GRID, CU)
    assert together.shape == (3, len(GRID))
    for row, expected in zip(rows, together, strict=True):
        alone, same = to_grid(x, row, CO, GRID, CU)
        np.testing.assert_allclose(alone, expected, rtol=1e-12)
        assert same == covered


def test_small_negative_values_are_set_to_zero():
    y = 100 * peak(GRID, 40.0)
    y[100] = -9.0
    found, _ = to_grid(GRID, y, CU, GRID, CU)
    assert found[100] == 0
    assert found.min() == 0


def good() -> tuple[np.ndarray, np.ndarray]:
    return GRID.copy(), 5 + 100 * peak(GRID, 40.0)


def changed(change: Callable[[np.ndarray, np.ndarray], object]) -> tuple[np.ndarray, np.ndarray]:
    x, y = good()
    change(x, y)
    return x, y


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        (lambda: (GRID[:99], good()[1][:99]), "sample: has 99 points; at least 100"),
        (lambda: (GRID[:-1], good()[1]), "3500 angles and 3501 intensities"),
        (lambda: changed(lambda x, y: y.__setitem__(7, np.nan)), r"sample: the intensity at 10.14 deg is no finite number"),
        (lambda: changed(lambda x, y: y.__setitem__(7, np.inf)), r"the intensity at 10.14 deg is no finite number"),
        (lambda: changed(lambda x, y: x.__setitem__(7, np.nan)), "point 8 has a 2theta that is no finite number"),
        (lambda: (GRID[::-1], good()[1]), "2theta does not rise from point 1"),
        (
            lambda: changed(lambda x, y: x.__setitem__(11, x[10])),
            r"does not rise from point 11 \(10.2 deg\) to the next \(10.2",
        ),
        (lambda: changed(lambda x, y: y.__setitem__(7, -11.0)), "-11 is below -10 % of the maximum"),
        (lambda: (GRID, np.zeros(3501)), "holds no intensity above 0"),
        (lambda: (GRID, -good()[1]), "holds no intensity above 0"),
        (lambda: (GRID + 120, good()[1]), "is not within 0 to 180"),
        (lambda: (GRID - 20, good()[1]), "is not within 0 to 180"),
        (lambda: (GRID + 65, good()[1]), "covers 7.2 % of the grid, less than 50 %"),
        (lambda: (np.linspace(100, 150, 3501), good()[1]), "no point falls on the grid's 10 to 80 deg"),
        (lambda: (np.linspace(5, 120, 150), np.ones(150)), "only 9[01] points fall on the grid's 10 to 80 deg"),
        (lambda: (GRID * 2, np.where(GRID > 45, 1.0, 0.0)), "is 0 on the whole grid"),
    ],
)
def test_bad_patterns_are_refused(pattern, words):
    x, y = pattern()
    with pytest.raises(InputError, match=words):
        to_grid(x, y, CU, GRID, CU, ["sample"])


@pytest.mark.parametrize("wavelength", [0.0, 0.05, 8000.0, np.nan, -1.5])
def test_bad_wavelengths_are_refused(wavelength):
    with pytest.raises(InputError, match=r"sample: the wavelength .* is not within 0.1 to 5 A"):
        to_grid(*good(), wavelength, GRID, CU, ["sample"])
    with pytest.raises(InputError, match="the grid: the wavelength"):
        to_grid(*good(), CU, GRID, wavelength)


def test_the_bad_one_of_several_is_named():
    rows = np.stack([good()[1]] * 3)
    rows[1, 5] = np.nan
    with pytest.raises(InputError, match=r"^second: the intensity"):
        to_grid(GRID, rows, CU, GRID, CU, ["first", "second", "third"])


def test_one_that_covers_too_little_is_left_out_of_a_set_and_named():
    x, y = good()
    half = Measurement("short", x[:1000], y[:1000], CU, 225)
    made = on_grid(RawSet("two", [Measurement("whole", x, y, CU, 14), half], "", ""), GRID, CU)
    assert made.ids == ("whole",)
    assert made.crystal_system == ("monoclinic",)
    assert made.left_out[0].startswith("short: covers 28.6 % of the grid")
    with pytest.raises(InputError, match="no pattern is left of it; the first reason: short"):
        on_grid(RawSet("one", [half], "", ""), GRID, CU)
    with pytest.raises(OffGridError):
        to_grid(x[:1000], y[:1000], CU, GRID, CU)


# --- Text files ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "10.0 1\n10.5 2.5\n11 3e2\n",
        "# made by\n10.0,1\n10.5,2.5\n11,3e2\n",
        "angle,intensity\n10.0 , 1 ,9\n10.5 , 2.5, 9\n11 , 3e2, 9\n",
        "\ufeff2theta;I\n10.0;1\n\n10.5;2.5\n11;3e2",
        "Sample 7, 2 theta\n'comment'\n! note\n10.0\t1\t0.1\r\n10.5\t2.5\t0.1\r\n# in between\r\n11\t3e2\t0.1\r\n",
    ],
)
def test_text_files_of_many_kinds_read_the_same(text, tmp_path):
    path = tmp_path / "pattern.xy"
    path.write_text(text, encoding="utf-8")
    two_theta, intensity = read_xy(path)
    np.testing.assert_array_equal(two_theta, [10, 10.5, 11])
    np.testing.assert_array_equal(intensity, [1, 2.5, 300])


def test_a_written_pattern_reads_back(tmp_path):
    path = tmp_path / "pattern.xy"
    path.write_text(pattern_text(GRID, good()[1], ["header 1 2", "3 4"], 0.02))
    found, covered = to_grid(*read_xy(path), CU, GRID, CU)
    np.testing.assert_allclose(found, 100 * good()[1] / good()[1].max(), atol=1e-5)
    assert covered == 1


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "holds no two columns"),
        (b"title\nno numbers here\n", "holds no two columns"),
        (b"10\n11\n12\n", "holds no two columns"),
        (b"10 1\n11 2\nend of scan\n", "line 3, 'end of scan', is not two numbers"),
        (b"10 1\n11\n", "line 2, '11', is not two numbers"),
        (b"10,00 5,5\n10,02 6\n", "line 1, '10,00 5,5', has decimal commas; write decimal points"),
        (b"\x00\x01RAW4.00", "is a binary file"),
        (b"10 1\n11 2\n", "has 2 points"),
    ],
)
def test_bad_text_files_are_refused(data, words, tmp_path):
    path = tmp_path / "pattern.csv"
    path.write_bytes(data)
    with pytest.raises(InputError, match=words):
        to_grid(*read_xy(path), CU, GRID, CU)


# --- Sets ------------------------------------------------------------------------------------------------------------------


def bad_path(kind: str, folder: pathlib.Path) -> pathlib.Path:
    path = folder / f"{kind}.npz"
    if kind == "text":
        path.write_text("no archive")
    elif kind == "other":
        np.savez(path, a=np.ones(3))
    elif kind == "empty folder":
        path.mkdir()
    elif kind == "bad csv":
        path.mkdir()
        (path / "labels_with_sg.csv").write_text("id,name\n1,a\n")
    return path


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("text", "cannot be read as a set of measured patterns"),
        ("other", "lacks source_index, intensity"),
        ("empty folder", "holds no folders with one CSV and one CIF"),
        ("bad csv", "lacks the columns cs, sg, r"),
        ("missing", "is no file and no set of measured patterns; choose from|did you mean"),
    ],
)
def test_bad_sets_are_refused(kind, words, tmp_path):
    with pytest.raises(InputError, match=words):
        read_measured(bad_path(kind, tmp_path), GRID, CU)


def test_unknown_names_offer_the_known_ones():
    with pytest.raises(InputError, match=r"did you mean .*rruff908"):
        read_measured("rruf908", GRID, CU)
    with pytest.raises(InputError, match="choose from measured, rruff908, rruff90_xred, xred"):
        read_measured("?", GRID, CU)


def test_a_pattern_alone_is_no_set(tmp_path):
    path = tmp_path / "pattern.xy"
    path.write_text(pattern_text(*good()))
    with pytest.raises(InputError, match="is one pattern whose space group is not known, no set; `simxrd predict`"):
        read_measured(path, GRID, CU)


def check_set(found, names: set[str] | None = None) -> None:
    systems = [system for _, system in CRYSTAL_SYSTEMS]
    lasts = [last for last, _ in CRYSTAL_SYSTEMS]
    assert found.patterns.shape == (len(found.ids), len(GRID))
    assert len(set(found.ids)) == len(found.ids) == len(found.space_group) == len(found.covered)
    np.testing.assert_array_equal(found.patterns.max(axis=1), 100)
    assert found.patterns.min() >= 0
    assert found.crystal_system == tuple(systems[np.searchsorted(lasts, n)] for n in found.space_group)
    assert found.covered.min() >= 0.5
    assert found.source
    assert found.licence


def test_shipped_set(datasets):
    preset = get_preset("laboratory")
    found = read_measured("measured", np.asarray(preset.grid().two_theta), preset.radiation.mean_wavelength)
    check_set(found)
    assert dict(zip(found.ids, found.space_group.tolist(), strict=True)) == {
        "xred Al2O3": 167,
        "xred LiTMO3": 166,
        "xred Mn2O3": 206,
        "xred Ni(OH)2": 164,
        "xred RuO2": 136,
        "xred Sn": 141,
        "xred ZnS": 216,
        "dara Li2CO3 (90 wt%) + ZrO2": 15,
        "ozakary RbNb2O5F": 227,
    }
    assert found.left_out == ()
    for name in ("XRED", "Dara", "RbNb2O5F"):
        assert name in found.source
        assert name in found.licence
    assert "Permission is hereby granted" in found.licence
    assert (datasets / "measured.npz").stat().st_size < 1_000_000


def test_shipped_peaks_are_those_of_the_structures(datasets):
    """Strongest reflections from published cells, within the displacement of a laboratory specimen."""
    found = read_measured(datasets / "measured.npz", GRID, 1.54187)
    strongest = {"xred Al2O3": 2.551, "xred Sn": 2.916, "ozakary RbNb2O5F": 10.4956 / np.sqrt(11)}
    for name, d in strongest.items():
        top = GRID[found.patterns[found.ids.index(name)].argmax()]
        assert top == pytest.approx(angle_of(d, 1.5406), abs=0.15), name


def test_rruff908(shared_data):
    found = read_measured(shared_data / "rruff908", GRID, CU)
    check_set(found)
    assert len(found.ids) == 454
    assert "trigonal" not in found.crystal_system
    assert (found.covered == 1).all()
    assert "evaluation only" in found.licence
    same = read_measured(shared_data / "rruff908" / "rruff908_dev.npz", GRID, CU)
    np.testing.assert_array_equal(same.patterns, found.patterns)


def test_rruff90_labels_are_trusted_from_a_correlation_on(shared_data):
    folder = shared_data / "experimental" / "rruff90_xred"
    found = read_measured(folder, GRID, CU)
    check_set(found)
    assert (len(found.ids), len(found.left_out)) == (32, 13)
    assert found.correlation.min() >= 0.7
    assert dict(zip(found.ids, found.space_group.tolist(), strict=True))["R100131"] == 167  # corundum
    strict = on_grid(load_rruff90_xred(folder, min_correlation=0.9), GRID, CU)
    assert set(strict.ids) < set(found.ids)
    assert strict.correlation.min() >= 0.9
    every = load_rruff90_xred(folder, min_correlation=0.0)
    assert len(every.measurements) + len(every.left_out) == 45


def test_xred_is_what_is_shipped(shared_data, datasets):
    """`datasets/make_measured.py` changed nothing of the sources."""
    found = load_xred(shared_data / "experimental" / "lab_xred").measurements
    with np.load(datasets / "measured.npz") as shipped:
        ends = shipped["ptr"]
        for m, (first, last) in zip(found, itertools.pairwise(ends), strict=False):
            np.testing.assert_array_equal(shipped["two_theta"][first:last], m.two_theta)
            np.testing.assert_array_equal(shipped["intensity"][first:last], m.intensity)
        assert [m.space_group for m in found] == shipped["space_group"][: len(found)].tolist()
    check_set(read_measured(shared_data / "experimental" / "lab_xred", GRID, CU))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a.update(ptr=a["ptr"][:-1]), "its ptr does not divide its points"),
        (lambda a: a.update(ptr=a["ptr"][::-1]), "its ptr does not divide its points"),
        (lambda a: a.update(ptr=a["ptr"] + 1), "its ptr does not divide its points"),
        (lambda a: a.update(intensity=a["intensity"][:-5]), "arrays have different lengths"),
        (lambda a: a.update(space_group=a["space_group"][:-1]), "arrays have different lengths"),
        (lambda a: a.update(space_group=a["space_group"] + 400), "has the space group .* not 1 to 230"),
    ],
)
def test_malformed_sets_are_refused_in_a_sentence(change, message, datasets, tmp_path):
    with np.load(datasets / "measured.npz") as data:
        arrays = dict(data)
    change(arrays)
    np.savez(tmp_path / "set.npz", **arrays)
    with pytest.raises(InputError, match=message):
        read_measured(tmp_path / "set.npz", GRID, CU)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a.update(intensity=a["intensity"][:-1]), "arrays have different lengths"),
        (lambda a: a.update(two_theta=a["two_theta"][:-1]), "do not have a point for each 2theta"),
        (lambda a: a.update(space_group=a["space_group"] + 300), "correct its labels"),
    ],
)
def test_malformed_rruff908_is_refused_in_a_sentence(change, message, tmp_path):
    arrays = {
        "source_index": np.arange(2),
        "intensity": np.ones((2, GRID.size)) + np.arange(GRID.size),
        "space_group": np.array([225, 62]),
        "crystal_system": np.array(["cubic", "orthorhombic"]),
        "two_theta": GRID,
    }
    np.savez(tmp_path / "set.npz", **arrays)
    assert read_measured(tmp_path / "set.npz", GRID, CU).ids == ("rruff908 0", "rruff908 1")
    change(arrays)
    np.savez(tmp_path / "set.npz", **arrays)
    with pytest.raises(InputError, match=message):
        read_measured(tmp_path / "set.npz", GRID, CU)


@pytest.mark.parametrize(
    ("label", "message"),
    [("999,0.9", "not 1 to 230"), ("abc,0.9", "not numbers"), ("62,abc", "not numbers"), ("-1,0.9", "not 1 to 230")],
)
def test_malformed_labels_are_refused_in_a_sentence(label, message, tmp_path):
    (tmp_path / "labels_with_sg.csv").write_text(f"id,cs,sg,r\nR1,orthorhombic,{label}\n")
    with pytest.raises(InputError, match=message):
        read_measured(tmp_path, GRID, CU)


@pytest.mark.slow
def test_mn2o3_of_xred_is_bixbyite(shared_data):
    """The reason for XRED_CORRECTED: its pattern is that of Ia-3, not of the I2_13 of the CIF beside it."""
    folder = shared_data / "experimental"
    measured = read_measured(folder / "lab_xred", GRID, 1.54187)
    pattern = measured.patterns[measured.ids.index("xred Mn2O3")]
    inside = GRID >= 20.0
    root = np.sqrt(np.maximum(pattern - np.percentile(pattern[inside], 10), 0))[inside]
    radiation = sx.RADIATIONS["CuKa"]
    lines = {"wavelength": np.array(radiation.wavelength), "line_weight": np.array(radiation.weight)}
    correlation = {}
    for number, path in ((199, "lab_xred/Mn2O3/Mn2O3.cif"), (206, "lab_xrdautoanalyzer/Mn2O3_206.cif")):
        phase = sx.load_phase(folder / path, radiation, (20.0, 80.0, 0.02))
        instrument, grid = sx.Instrument(**lines, caglioti_w=0.01), sx.Grid.uniform(20.0, 80.0, 0.02)
        specimen = sx.Specimen(grain_size=400.0)
        make = jax.jit(lambda c, r: sx.simulate(c, r, specimen, instrument, grid).intensity)  # noqa: B023
        made = make(phase.crystal, phase.reflections)
        correlation[number] = np.corrcoef(np.sqrt(np.maximum(made, 0)), root)[0, 1]
    assert correlation[199] == pytest.approx(0.84, abs=0.01)
    assert correlation[206] == pytest.approx(0.94, abs=0.01)


def test_names_lead_to_the_sets(shared_data):
    for name in PLACES:
        assert read_measured(name, GRID, CU).name == name


def test_gaps_of_a_measurement_are_not_covered():
    x = GRID[(GRID < 30) | (GRID > 60)]
    found, covered = to_grid(x, 1 + peak(x, 20.0) + 0.5 * peak(x, 70.0), CU, GRID, CU)
    assert covered == pytest.approx(40 / 70, abs=0.002)
    assert np.all(found[(GRID > 30.1) & (GRID < 59.9)] == found.min())
    short = GRID[(GRID < 25) | (GRID > 70)]
    with pytest.raises(OffGridError, match=r"covers 35\.\d % of the grid"):
        to_grid(short, 1 + peak(short, 20.0), CU, GRID, CU)
    # A coarse pattern has steps, not gaps.
    coarse = np.arange(10.0, 80.1, 0.4)
    assert to_grid(coarse, 1 + peak(coarse, 20.0, 2.0), CU, GRID, CU)[1] == 1
