"""Readers of measured patterns: values against the raw text of real files, other readings of them, and every bad input."""

from __future__ import annotations

import contextlib
import json
import pathlib
import re
import struct
import zipfile
from collections.abc import Callable

import numpy as np
import pytest

from simxrd_jax.constants import RADIATIONS
from simxrd_jax.errors import InputError
from simxrd_jax.io.formats.scan import tabulated
from simxrd_jax.io.patterns import read_pattern

GRID = np.linspace(10.0, 14.9, 50)
COUNTS = np.random.default_rng(3).poisson(100.0, 50).astype(np.float64)
Write = Callable[..., pathlib.Path]


@pytest.fixture
def write(tmp_path: pathlib.Path) -> Write:
    """Writes a file and gives its path."""

    def make(name: str, content: str | bytes) -> pathlib.Path:
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return make


def rows(*columns: np.ndarray, header: str = "", separator: str = " ") -> str:
    lines = [separator.join(f"{v:.9g}" for v in row) for row in zip(*columns, strict=True)]
    return header + "\n".join(lines) + "\n"


def xrdml(*scans: str, wavelength: str = "", version: str = "2.3") -> str:
    """A file of one measurement; each scan is the content of its dataPoints."""
    body = "".join(f'<scan scanAxis="Gonio"><dataPoints>{scan}</dataPoints></scan>' for scan in scans)
    return (
        f'<?xml version="1.0"?><xrdMeasurements xmlns="http://www.xrdml.com/XRDMeasurement/{version}">'
        f"<sample><id>made</id></sample><xrdMeasurement>{wavelength}{body}</xrdMeasurement></xrdMeasurements>"
    )


def points(intensity: np.ndarray, extra: str = "", tag: str = "counts", start: float = 10.0, stop: float = 14.9) -> str:
    values = " ".join(f"{v:g}" for v in intensity)
    return (
        f'<positions axis="2Theta" unit="deg"><startPosition>{start}</startPosition>'
        f"<endPosition>{stop}</endPosition></positions>"
        f'{extra}<{tag} unit="counts">{values}</{tag}>'
    )


# --- Real files ------------------------------------------------------------------------------------------------------------


def test_xrdml_is_its_raw_text(shared_data: pathlib.Path):
    folder = shared_data / "experimental" / "lab_RbNb2O5F_ozakary"
    pattern = read_pattern(folder / "RbNb2O5F.xrdml")
    text = (folder / "RbNb2O5F.xrdml").read_text(encoding="utf-8-sig")
    found = re.search(r"<intensities[^>]*>([^<]*)", text)
    assert found
    np.testing.assert_array_equal(pattern.intensity, [float(v) for v in found[1].split()])
    # The authors' own export of the same scan, without its first point, with four decimals.
    exported = np.loadtxt(folder / "RbNb2O5F.dat")
    np.testing.assert_allclose(pattern.two_theta[1:], exported[:, 0], atol=6e-5)
    np.testing.assert_array_equal(pattern.intensity[1:], exported[:, 1])
    assert pattern.sigma is None
    assert pattern.radiation == RADIATIONS["CuKa"]
    assert pattern.name == "RbNb2O5F"
    expected = {
        "goniometer_radius": 240.0,
        "divergence_slit": 0.5,
        "soller_incident": np.degrees(0.02),
        "counting_time": 598.995,
    }
    assert {name: pattern.instrument[name] for name in expected} == pytest.approx(expected)
    assert any("1.540598 and 1.544426" in note for note in pattern.notes)


@pytest.mark.parametrize("place", ["qpa_dara_precursors", "unlabelled_dara_binary_reactions"])
def test_xrdml_of_aeris(shared_data: pathlib.Path, place: str):
    for path in sorted((shared_data / "experimental" / place).glob("*.xrdml")):
        pattern = read_pattern(path)
        text = path.read_text(encoding="utf-8-sig")
        start, stop = (float(v) for v in re.findall(r"Position>([\d.]+)</(?:start|end)", text)[:2])
        assert (pattern.two_theta[0], pattern.two_theta[-1]) == (start, stop)
        assert len(pattern.two_theta) > 8000
        assert pattern.radiation == RADIATIONS["CuKa"]
        assert pattern.instrument["goniometer_radius"] == 145


def test_xrdml_attenuator(shared_data: pathlib.Path):
    pattern = read_pattern(shared_data / "vendor_formats" / "panalytical_attenuator.xrdml")
    place = int(np.argmax(pattern.intensity))
    assert pattern.intensity[place - 1 : place + 2].tolist() == [14602, 1877 * 188, 13749]
    assert pattern.sigma is not None
    np.testing.assert_allclose(pattern.sigma[place], 188 * np.sqrt(1877))
    assert pattern.radiation == RADIATIONS["CuKa1"]  # behind a hybrid monochromator of germanium


def test_raw4_is_another_programs_reading(shared_data: pathlib.Path):
    pattern = read_pattern(shared_data / "vendor_formats" / "bruker.raw")
    other = json.loads((shared_data / "vendor_formats" / "aimat.json").read_text())
    np.testing.assert_array_equal(pattern.intensity, other["intensities"])
    np.testing.assert_allclose(pattern.two_theta, other["two_theta_values"], atol=1e-6)
    assert pattern.instrument == {"goniometer_radius": 280.0}
    assert pattern.name == "Cu-12%Ag_500C1700h_P5n5rpm1_RT"


def test_raw4_of_eight_byte_points(shared_data: pathlib.Path):
    pattern = read_pattern(shared_data / "vendor_formats" / "bruker_raw4_scrambled.raw")
    assert len(pattern.two_theta) == 7134
    assert pattern.two_theta[0] == 10
    assert pattern.instrument["goniometer_radius"] == 217.5
    assert pattern.radiation == RADIATIONS["CuKa1"]


def test_brml_absorber(shared_data: pathlib.Path):
    path = shared_data / "vendor_formats" / "bruker_absorber.brml"
    pattern = read_pattern(path)
    raw = zipfile.ZipFile(path).read("Experiment0/RawData0.xml").decode("utf-8-sig")
    table = np.array([[float(v) for v in m.split(",")] for m in re.findall("<Datum>([^<]*)", raw)])
    np.testing.assert_array_equal(pattern.two_theta, table[:, 2])
    np.testing.assert_array_equal(pattern.intensity, table[:, 7])
    assert pattern.sigma is not None
    strongest = np.argmax(pattern.intensity)
    np.testing.assert_allclose(pattern.sigma[strongest], np.sqrt(495559.8 * 8.3))
    # Intensities are continuous where the absorber switches: a factor of 8.3 would show.
    switch = np.flatnonzero(np.diff(table[:, 1]))
    assert np.all(np.abs(np.log(pattern.intensity[switch + 1] / pattern.intensity[switch])) < 0.2)


def test_ras_and_rasx(shared_data: pathlib.Path):
    folder = shared_data / "vendor_formats"
    ras = read_pattern(folder / "rigaku_nims.ras")
    assert (len(ras.two_theta), ras.two_theta[0], ras.two_theta[-1]) == (3501, 25, 60)
    assert ras.intensity[:5].tolist() == [13, 7, 12, 6, 3]
    expected = {"goniometer_radius": 300.0, "soller_incident": 2.5, "soller_diffracted": 2.5, "divergence_slit": 0.3}
    assert {name: ras.instrument[name] for name in expected} == expected
    assert ras.radiation == RADIATIONS["CuKa"]
    zno = read_pattern(folder / "rigaku_zno_counts.rasx")
    assert (len(zno.two_theta), zno.two_theta[0], zno.two_theta[-1]) == (7001, 20, 90)
    assert zno.intensity[:3].tolist() == [253, 265, 260]
    assert zno.radiation == RADIATIONS["CuKa"]
    powder = read_pattern(folder / "rigaku_powder.rasx")
    assert powder.intensity[0] == 170.55354309082
    assert powder.radiation == RADIATIONS["CuKa1"]  # WaveType Ka1, behind Ge(220)x2
    with pytest.raises(InputError, match=r"2 scans of different ranges \(10 to 11, 20 to 21 deg\); choose one by its number"):
        read_pattern(folder / "rigaku_multiscan.ras")
    with pytest.raises(InputError, match="holds 3 points"):
        read_pattern(folder / "rigaku_multiscan.ras", index=2)


def test_gsas_std(shared_data: pathlib.Path):
    path = shared_data / "experimental" / "lab_fluorapatite_FAP" / "FAP.XRA"
    pattern = read_pattern(path)
    assert len(pattern.two_theta) == 5753
    np.testing.assert_allclose(pattern.two_theta[[0, 1, -1]], [15.0, 15.02, 15 + 0.02 * 5752])
    words = path.read_text().splitlines()[2:]
    np.testing.assert_array_equal(pattern.intensity, [float(w) for line in words for w in line.split()][:5753])
    assert pattern.sigma is None


def test_gsas_fxye(shared_data: pathlib.Path):
    path = shared_data / "experimental" / "sync_NAC_11BM" / "11BM_NAC.fxye"
    pattern = read_pattern(path)
    table = np.loadtxt(path, skiprows=17)[:59497]  # as its bank says; a last line follows
    np.testing.assert_allclose(pattern.two_theta, table[:, 0] / 100, rtol=1e-14)
    np.testing.assert_array_equal(pattern.intensity, table[:, 1])
    assert pattern.sigma is not None
    np.testing.assert_array_equal(pattern.sigma, table[:, 2])
    assert pattern.radiation is not None
    assert pattern.radiation.wavelength == (0.413909,)


def test_pdcif_of_nist(shared_data: pathlib.Path):
    folder = shared_data / "experimental" / "lab_LaB6_nist_srm660c"
    pattern = read_pattern(folder / "nist_srm660c_100a.cif")
    normalized = np.loadtxt(folder / "normalized" / "nist_srm660c_100a.cif.xy")
    np.testing.assert_allclose(pattern.two_theta, normalized[:, 0], rtol=1e-6)
    np.testing.assert_allclose(pattern.intensity, normalized[:, 1], rtol=1e-5)
    # Mendenhall & Cline: the weight is tau^2/(N + 1), here of the first row 20.300 19.00 1.03e-01.
    assert pattern.sigma is not None
    np.testing.assert_allclose(pattern.sigma[0], 0.103**-0.5)
    assert pattern.radiation == RADIATIONS["CuKa"]  # of another block
    expected = {
        "goniometer_radius": 217.5, "monochromator_two_theta": 26.6, "divergence_slit": 1.05, "receiving_slit": 0.2,
        "source_length": 12.0, "beam_length": 15.0, "temperature": 294.0,
    }  # fmt: skip
    assert {name: pattern.instrument[name] for name in expected} == expected


@pytest.mark.parametrize(
    ("place", "count", "first", "lines"),
    [
        ("lab_AlPO4_593K_iucr", 9652, (15.016, 220, 3.3e-5**-0.5), "CuKa1"),
        ("lab_BaTiO3_iucr", 5245, (15.0632, 327, 18), "CuKa"),
        ("lab_CdBiO2Cl_iucr", 4001, (10.0, 153, 12.369), "CuKa"),
        ("lab_KLaTiO4_iucr", 5879, (9.945, 1161, 0.000861**-0.5), "CuKa"),
        ("lab_LaInO3_iucr", 6501, (10.0, 64, None), "CuKa"),
        ("sync_Mg2Si_spring8", 6801, (7.0, 1710, 41.35), None),
    ],
)
def test_pdcif_of_papers(shared_data: pathlib.Path, place: str, count: int, first: tuple, lines: str | None):
    folder = shared_data / "experimental" / place
    (path,) = folder.glob("*.rtv.combined.cif")
    pattern = read_pattern(path)
    two_theta, intensity, sigma = first
    assert (len(pattern.two_theta), pattern.two_theta[0], pattern.intensity[0]) == (count, two_theta, intensity)
    assert (None if pattern.sigma is None else pattern.sigma[0]) == (None if sigma is None else pytest.approx(sigma))
    assert pattern.radiation is not None
    if lines is not None:
        assert pattern.radiation == RADIATIONS[lines]
    # The table beside it was made by another program; it has no s.u. of the paper's own.
    (table,) = folder.glob("*.xye_ext")
    other = read_pattern(table)
    np.testing.assert_allclose(other.two_theta, pattern.two_theta, rtol=1e-4)
    np.testing.assert_allclose(other.intensity, pattern.intensity, rtol=1e-5)
    if other.sigma is not None and pattern.sigma is not None:
        np.testing.assert_allclose(other.sigma, pattern.sigma, rtol=5e-3)


def test_pdcif_of_cod(shared_data: pathlib.Path):
    pattern = read_pattern(shared_data / "vendor_formats" / "data.cif")
    # 8 to 89.994 deg in steps of 0.022: 3728 points, the last without a weight.
    np.testing.assert_allclose(pattern.two_theta[[0, -1]], [8.0, 89.972])
    assert pattern.radiation is not None
    assert pattern.radiation.weight == (1.0, 0.38)
    assert pattern.notes[-1].startswith("1 point was left out")


def test_xye_and_columns(shared_data: pathlib.Path):
    path = shared_data / "experimental" / "lab_LaB6_xrayutilities" / "LaB6_d500_si_psd.xye"
    pattern = read_pattern(path)
    table = np.loadtxt(path)
    good = table[:, 2] > 0
    assert pattern.sigma is not None
    np.testing.assert_array_equal(np.array([pattern.two_theta, pattern.intensity, pattern.sigma]).T, table[good])
    assert "6 points were left out" in pattern.notes[0]
    plain = read_pattern(shared_data / "experimental" / "qpa_iucr_cpd" / "cpd-1a.prn")
    assert (len(plain.two_theta), plain.two_theta[-1], plain.intensity[1]) == (7251, 150.0, 161.0)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("stoe.raw", "RAW file of Stoe, which is not read; export it as .xy or .xrdml"),
        ("single.csv", r"angles go up and down, first at point 1376 \(64.9822 deg\)"),  # two pieces that overlap
        ("data.dat", r"angles go up and down, first at point 2601 \(3 deg\)"),  # several scans under one another
        ("aimat.json", "holds no two columns of numbers"),
    ],
)
def test_real_files_that_are_refused(shared_data: pathlib.Path, name: str, message: str):
    with pytest.raises(InputError, match=message):
        read_pattern(shared_data / "vendor_formats" / name)


# --- Synthesised files -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("separator", [" ", "\t", ",", ";"])
def test_columns_by_any_separator(write: Write, separator: str):
    pattern = read_pattern(write("a.csv", rows(GRID, COUNTS, separator=separator, header="Angle,Intensity\n")))
    np.testing.assert_allclose(pattern.two_theta, GRID)
    np.testing.assert_array_equal(pattern.intensity, COUNTS)
    assert (pattern.sigma, pattern.radiation, pattern.notes, pattern.name) == (None, None, (), "a")


def test_third_columns(write: Write):
    sigma = np.sqrt(COUNTS) + 1
    for name, header, expected in (
        ("a.xye", "", sigma),
        ("b.xy", "# 2theta intensity sigma\n", sigma),
        ("c.xy", "2-Theta (deg), Counts, e.s.d.\n", sigma),
        ("d.xy", "# 2theta obs weight\n", sigma**-0.5),
        ("e.xye", "# 2theta obs calc\n", None),
        ("f.xy", "", None),
    ):
        pattern = read_pattern(write(name, rows(GRID, COUNTS, sigma, header=header)))
        if expected is None:
            assert pattern.sigma is None
        else:
            assert pattern.sigma is not None
            np.testing.assert_allclose(pattern.sigma, expected, rtol=1e-8)
    assert "left out" in pattern.notes[0]  # of the last


def test_columns_in_another_order(write: Write):
    pattern = read_pattern(write("a.txt", rows(np.arange(50.0), GRID, COUNTS, header="number two_theta intensity\n")))
    np.testing.assert_allclose(pattern.two_theta, GRID)
    np.testing.assert_array_equal(pattern.intensity, COUNTS)


def test_what_the_simulator_writes(datasets: pathlib.Path, tmp_path: pathlib.Path):
    """Columns and radiation by its header, with one line and with two."""
    from simxrd_jax.commands.simulate import simulate_files
    from simxrd_jax.commands.specimen import Options

    for wavelength, radiation in (("CuKa", RADIATIONS["CuKa"]), ("0.4959", None)):
        options = Options(two_theta=(20.0, 30.0, 0.02), wavelength=wavelength, dtype="float32", accuracy="training")
        path = tmp_path / f"{wavelength}.xy"
        source = str(datasets / "cifs" / "Si.cif")
        simulate_files([source], options, output=str(path), peaks=None, plot=None, warn=lambda text: None)
        pattern = read_pattern(path)
        assert pattern.two_theta[0] == 20.0
        assert pattern.intensity.max() > 100 * abs(pattern.intensity[0])
        assert pattern.radiation is not None
        if radiation is None:
            assert pattern.radiation.wavelength == (0.4959,)
        else:
            assert pattern.radiation == radiation


def test_wavelengths_of_a_header(write: Write):
    header = "K-Alpha1 wavelength,1.5405980\nK-Alpha2 wavelength,1.5444260\n"
    assert read_pattern(write("a.csv", rows(GRID, COUNTS, header=header, separator=","))).radiation == RADIATIONS["CuKa"]
    pattern = read_pattern(write("b.xy", rows(GRID, COUNTS, header="# wavelength = 0.4959 A\n")))
    assert pattern.radiation is not None
    assert pattern.radiation.wavelength == (0.4959,)


def test_falling_and_repeated_angles(write: Write):
    falling = read_pattern(write("a.xye", rows(GRID[::-1], COUNTS[::-1], COUNTS[::-1] / 2)))
    np.testing.assert_allclose(falling.two_theta, GRID)
    np.testing.assert_array_equal(falling.intensity, COUNTS)
    assert falling.sigma is not None
    np.testing.assert_allclose(falling.sigma, COUNTS / 2)
    twice = read_pattern(
        write("b.xye", rows(np.repeat(GRID, 2), np.repeat(COUNTS, 2) + np.tile([0.0, 2.0], 50), np.full(100, 3.0)))
    )
    np.testing.assert_allclose(twice.two_theta, GRID)
    np.testing.assert_allclose(twice.intensity, COUNTS + 1)
    assert twice.sigma is not None
    np.testing.assert_allclose(twice.sigma, 3 / np.sqrt(2))
    assert twice.notes == ("50 repeated angles were averaged",)


def test_a_low_scan_downwards_is_no_list_of_d_spacings(write: Write):
    """Angles with two decimals, whose steps round to 0.01 and 0.02 deg."""
    angles = np.round(np.linspace(12.0, 5.0, 500), 2)
    pattern = read_pattern(write("a.xy", rows(angles, np.resize(COUNTS, 500))))
    assert pattern.two_theta[0] == 5


def test_several_scans(write: Write):
    other = COUNTS + 7
    same = write("same.xrdml", xrdml(points(COUNTS), points(other)))
    total = read_pattern(same)
    np.testing.assert_array_equal(total.intensity, COUNTS + other)
    assert total.sigma is None
    assert "2 scans of one range were added up" in total.notes
    np.testing.assert_array_equal(read_pattern(same, index=2).intensity, other)
    for index in (0, 3, -1):
        with pytest.raises(InputError, match=f"has no scan {index}; choose one from 1 to 2"):
            read_pattern(same, index=index)
    apart = write("apart.xrdml", xrdml(points(COUNTS), points(other, start=20.0, stop=24.9)))
    with pytest.raises(
        InputError, match=r"2 scans of different ranges \(10 to 14.9, 20 to 24.9 deg\); choose one by its number"
    ):
        read_pattern(apart)
    assert read_pattern(apart, index=2).two_theta[0] == 20


def test_counting_times(write: Write):
    """Rates of repeats: time-weighted mean, and the uncertainty of all counts together."""
    rate = [
        points(COUNTS / t, f"<commonCountingTime>{t}</commonCountingTime>").replace('"counts"', '"cps"') for t in (2.0, 6.0)
    ]
    pattern = read_pattern(write("rate.xrdml", xrdml(*rate)))
    np.testing.assert_allclose(pattern.intensity, COUNTS * 2 / 8, rtol=1e-4)
    assert pattern.sigma is not None
    np.testing.assert_allclose(pattern.sigma, np.sqrt(2 * COUNTS) / 8, rtol=1e-4)
    assert pattern.instrument["counting_time"] == 8
    times = np.linspace(1.0, 2.0, 50)
    listed = points(COUNTS, f"<countingTimes>{' '.join(map(str, times))}</countingTimes>")
    pattern = read_pattern(write("times.xrdml", xrdml(listed)))
    np.testing.assert_allclose(pattern.intensity, COUNTS / times)
    assert pattern.sigma is not None
    np.testing.assert_allclose(pattern.sigma, np.sqrt(COUNTS) / times)


def test_listed_positions(write: Write):
    uneven = GRID + 0.01 * np.arange(50) ** 2
    listed = f"<listPositions>{' '.join(f'{v:.6f}' for v in uneven)}</listPositions>"
    span = "<startPosition>10.0</startPosition><endPosition>14.9</endPosition>"
    pattern = read_pattern(write("a.xrdml", xrdml(points(COUNTS).replace(span, listed))))
    np.testing.assert_allclose(pattern.two_theta, uneven, atol=1e-6)


def test_xrdml_intensities_are_corrected_already(write: Write):
    factors = np.where(np.arange(50) < 25, 1.0, 10.0)
    extra = f"<beamAttenuationFactors>{' '.join(map(str, factors))}</beamAttenuationFactors>"
    counts = read_pattern(write("a.xrdml", xrdml(points(COUNTS, extra))))
    stored = read_pattern(write("b.xrdml", xrdml(points(COUNTS * factors, extra, "intensities"))))
    np.testing.assert_allclose(counts.intensity, stored.intensity)
    assert counts.sigma is not None
    assert stored.sigma is not None
    np.testing.assert_allclose(counts.sigma, factors * np.sqrt(COUNTS))
    np.testing.assert_allclose(stored.sigma, counts.sigma)


def raw_version_3(scan_type: int = 0) -> bytes:
    """A RAW1.01 file after the published layout: 712 bytes, a range header of 304, an extra record of 40, float32 points."""
    head = bytearray(712)
    head[:7] = b"RAW1.01"
    struct.pack_into("<i", head, 12, 1)
    head[326:330] = b"made"
    head[608:610] = b"Cu"
    struct.pack_into("<5d", head, 616, 1.5418, 1.5406, 1.54439, 1.39222, 0.5)
    part = bytearray(304)
    struct.pack_into("<iidd", part, 0, 304, 50, 5.0, 10.0)
    struct.pack_into("<d", part, 176, 0.1)
    struct.pack_into("<fi", part, 192, 2.5, scan_type)
    struct.pack_into("<iii", part, 248, 0, 4, 40)
    return bytes(head) + bytes(part) + bytes(40) + COUNTS.astype("<f4").tobytes()


def test_raw_version_3(write: Write):
    pattern = read_pattern(write("a.raw", raw_version_3()))
    np.testing.assert_allclose(pattern.two_theta, GRID)
    np.testing.assert_array_equal(pattern.intensity, COUNTS)
    assert pattern.radiation == RADIATIONS["CuKa"]
    assert (pattern.name, pattern.instrument["counting_time"]) == ("made", 2.5)
    with pytest.raises(InputError, match="a scan of type 3 holds no 2theta"):
        read_pattern(write("b.raw", raw_version_3(scan_type=3)))
    with pytest.raises(InputError, match="ends before the 50 points that it announces"):
        read_pattern(write("c.raw", raw_version_3()[:-4]))


def gsas_bank(kind: str, body: str, binning: str = "CONST 1000.0 10.0 0 0") -> str:
    return f"{'made':<80}\nBANK 1 50 10 {binning} {kind}\n{body}"


def test_gsas_types(write: Write):
    esd = "".join(f"{c:8.1f}{2 * np.sqrt(c):8.3f}" for c in COUNTS)
    pattern = read_pattern(write("a.gsas", gsas_bank("ESD", "\n".join(esd[i : i + 80] for i in range(0, len(esd), 80)))))
    np.testing.assert_allclose(pattern.two_theta, GRID)
    np.testing.assert_array_equal(pattern.intensity, COUNTS)
    assert pattern.sigma is not None
    np.testing.assert_allclose(pattern.sigma, 2 * np.sqrt(COUNTS), atol=1e-3)
    assert pattern.name == "made"
    pattern = read_pattern(write("b.raw", gsas_bank("FXY", rows(100 * GRID, COUNTS))))
    np.testing.assert_allclose(pattern.two_theta, GRID)
    assert pattern.sigma is None
    averaged = "".join(f"{4:2d}{c:6.0f}" for c in COUNTS)  # each the mean of four detectors
    pattern = read_pattern(
        write("c.gsa", gsas_bank("STD", "\n".join(averaged[i : i + 80] for i in range(0, len(averaged), 80))))
    )
    np.testing.assert_array_equal(pattern.intensity, COUNTS)
    assert pattern.sigma is not None
    np.testing.assert_allclose(pattern.sigma, np.sqrt(COUNTS) / 2)


def test_pdcif_with_brackets_and_steps(write: Write):
    loop = "loop_\n_pd_meas_intensity_total\n" + "\n".join(f"{c:.1f}({int(c)})" for c in COUNTS)
    head = "data_x\n_pd_meas_2theta_range_min 10\n_pd_meas_2theta_range_max 14.9\n_pd_meas_2theta_range_inc 0.1\n"
    pattern = read_pattern(write("a.cif", head + loop))
    np.testing.assert_allclose(pattern.two_theta, GRID)
    assert pattern.sigma is not None
    np.testing.assert_allclose(pattern.sigma, COUNTS.astype(int) / 10)
    wrong = head.replace("inc 0.1", "inc 0.2")
    with pytest.raises(InputError, match="has 25 points, but it lists 50 intensities"):
        read_pattern(write("b.cif", wrong + loop))
    gap = loop.replace(f"{COUNTS[3]:.1f}({int(COUNTS[3])})", ".", 1)
    holed = read_pattern(write("gap.cif", head + gap))
    assert len(holed.two_theta) == 49
    assert holed.notes[0] == "points of unknown intensity ('.' or '?') were left out: 1"
    with pytest.raises(InputError, match="without 2theta"):
        read_pattern(write("c.cif", "data_x\n" + loop))


def test_tabulated_lines():
    """Old tables give way to the tabulated wavelengths, other sources do not."""
    for stated in ((1.5405, 1.5443), (1.54051, 1.54433), (1.54056, 1.54439), (1.540598, 1.544426)):
        assert tabulated(*stated)[0] == RADIATIONS["CuKa"]
    assert tabulated(1.5418)[0] == tabulated(1.54178)[0] == tabulated(1.54184)[0] == RADIATIONS["CuKa"]
    assert tabulated(0.709319, 0.713609)[0] == RADIATIONS["MoKa"]
    assert tabulated(None, anode="co")[0] == RADIATIONS["CoKa"]
    assert tabulated(1.540593, 1.544427, is_alpha1_only=True)[0] == RADIATIONS["CuKa1"]
    assert tabulated(1.540593, 1.544427) == (RADIATIONS["CuKa"], ())
    other, notes = tabulated(1.5409)  # 200 ppm from Cu: a synchrotron
    assert other is not None
    assert (other.wavelength, notes) == ((1.5409,), ())
    assert tabulated(None)[0] is None


# --- Bad input -------------------------------------------------------------------------------------------------------------

FALLING_D = 1.54 / (2 * np.sin(np.radians(GRID / 2)))

BAD = {
    "empty.xy": ("", "is empty"),
    "blank.xy": (" \n\n", "is empty"),
    "words.xy": ("no numbers here\n", "holds no two columns of numbers"),
    "short.xy": (rows(GRID[:19], COUNTS[:19]), "holds 19 points, but a pattern needs at least 20"),
    "broken.xy": (rows(GRID, COUNTS) + "15.0 x\n", "is not two numbers"),
    "nan.xy": (rows(GRID, np.where(GRID > 12, np.nan, COUNTS)), "29 points are not finite numbers, the first at number 22"),
    "swapped.xy": (rows(COUNTS, GRID), "the columns seem swapped; give 2theta first"),
    "unsorted.xy": (rows(np.roll(GRID, 5), COUNTS), r"angles go up and down, first at point 6 \(10 deg\)"),
    "still.xy": (rows(np.full(50, 20.0), COUNTS), "all angles are 20 deg"),
    "d.xy": (rows(FALLING_D, COUNTS), "the first column falls .* as d-spacings do; convert it to 2theta"),
    "named_d.csv": (rows(GRID, COUNTS, header="d-spacing,Intensity\n", separator=","), "its columns hold d-spacings"),
    "q.txt": (rows(GRID, COUNTS, header="# Q I\n"), "its columns hold scattering vectors"),
    "energy.txt": (rows(GRID, COUNTS, header="Energy Counts\n"), "its columns hold energies"),
    "large.xy": (rows(100 * GRID, COUNTS), r"values from 1000 to 1490 are no 2theta.*hundredths of a degree\?"),
    "negative_angle.xy": (rows(GRID - 12, COUNTS), "values from -2 to 2.9 are no 2theta"),
    "flat.xy": (rows(GRID, np.full(50, 7.0)), "all intensities are 7"),
    "negative.xy": (rows(GRID, COUNTS - COUNTS.mean()), "more than noise about a subtracted background"),
    "none.xye": (rows(GRID, COUNTS, np.zeros(50)), "none of its uncertainties is a positive number"),
    "comma.csv": ("10,1;100\n" * 50, "decimal commas"),
    "noise.bin": (bytes(range(256)) * 4, "a binary file, which is not read; export it"),
    "rigaku.raw": (b"FI\0\0\1" + bytes(100), "a binary RAW file of Rigaku"),
    "old.raw": (b"RAW2" + bytes(100), "a RAW file of version 1 or 2"),
    "cut.raw": (b"RAW4.00\0" + bytes(30), "RAW file without a range"),
    "loop.raw": (b"RAW4.00\0" + bytes(53) + struct.pack("<ii", 10, 0) + bytes(20), "damaged"),
    "v3_cut.raw": (b"RAW1.01\0\1\0\0\0\1\0\0\0", "damaged"),
    "bad.xrdml": ("<xrdMeasurements><scan>", "damaged"),
    "empty.xrdml": (xrdml(), "XRDML file without a scan"),
    "letters.xrdml": (xrdml(points(COUNTS).replace("counts\">", "counts\">x ")), "damaged"),
    "omega.xrdml": (xrdml(points(COUNTS).replace("2Theta", "Omega")), "a scan along Gonio holds no 2theta"),
    "other.xml": ("<html></html>", "XML of an unknown kind"),
    "cut.ras": ("*RAS_DATA_START\n*RAS_INT_START\n10 1\n", "ends before its intensities do"),
    "phi.ras": ('*RAS_HEADER_START\n*MEAS_SCAN_AXIS_X "Phi"\n*RAS_INT_START\n1 2 1\n*RAS_INT_END', "a scan along Phi holds"),
    "count.ras": ('*RAS_HEADER_START\n*MEAS_DATA_COUNT "9"\n*RAS_INT_START\n1 2 1\n*RAS_INT_END', "holds 1 of the 9 points"),
    "switched.ras": ("*RAS_DATA_START\n*RAS_INT_START\n10 5 1\n11 5 8\n*RAS_INT_END", "an attenuator that switched"),
    "zip.rasx": (b"PK\3\4" + bytes(200), "damaged"),
    "tof.gsa": (gsas_bank("ALT", "", "RALF 1000 32 1000 0.001"), "is of time of flight"),
    "cut.gsa": (gsas_bank("STD", "     609     612"), "holds 2 of the 50 points"),
    "coded.gsa": (gsas_bank("STD", "  a"), "damaged"),
    "slog.gsa": (gsas_bank("STD", "", "XYZ 1 2 3 4"), "has the binning 'XYZ'"),
    "broken.cif": ("data_x\nloop_\n_a\n_b\n1\n", "cannot be read as a CIF"),
    "structure.cif": ("data_x\n_cell_length_a 4.1\n", "is a CIF without a measured pattern"),
    "letter.cif": ("data_x\nloop_\n_pd_proc_2theta_corrected\n_pd_proc_intensity_total\n1 2\n2 b\n", "is no number"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_files_are_one_sentence(write: Write, name: str):
    content, message = BAD[name]
    path = write(name, content)
    with pytest.raises(InputError, match=message) as caught:
        read_pattern(path)
    text = str(caught.value)
    assert text.startswith(f"{path}: ")
    assert "\n" not in text


def test_bad_paths(tmp_path: pathlib.Path):
    with pytest.raises(InputError, match="is a folder"):
        read_pattern(tmp_path)
    with pytest.raises(InputError, match="cannot be read"):
        read_pattern(tmp_path / "none.xy")


def test_damage_is_never_a_traceback(shared_data: pathlib.Path, write: Write):
    """Real files cut short and with bytes changed: a pattern or a sentence, nothing else."""
    generator = np.random.default_rng(0)
    for name in (
        "bruker.raw",
        "bruker_absorber.brml",
        "rigaku_zno_counts.rasx",
        "rigaku_nims.ras",
        "panalytical_powder.xrdml",
    ):
        data = (shared_data / "vendor_formats" / name).read_bytes()
        for trial in range(6):
            damaged = bytearray(data[: int(generator.uniform(0.05, 1) * len(data))] if trial % 2 else data)
            for place in generator.integers(0, min(len(damaged), 2000), 5):
                damaged[place] = int(generator.integers(0, 256))
            path = write(f"{trial}_{name}", bytes(damaged))
            with contextlib.suppress(InputError):
                assert len(read_pattern(path).two_theta) >= 20
