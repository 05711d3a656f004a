"""Readers of instrument files: values against the raw text of real files, round trips, and every bad input."""

from __future__ import annotations

import dataclasses
import json
import math
import pathlib

import jax
import numpy as np
import pytest

from simxrd_jax.constants import RADIATIONS, Radiation
from simxrd_jax.diffraction.corrections import lorentz_polarization
from simxrd_jax.diffraction.widths import peak_shape
from simxrd_jax.errors import InputError
from simxrd_jax.io.instruments import FIELDS, PROFILES, InstrumentFile, read_instrument, write_instrument
from simxrd_jax.types import Instrument, Specimen

FWHM_SQUARED = 8 * math.log(2) / 1e4  # of a variance in centidegrees squared. [deg^2]


def made(values: dict[str, float], radiation: Radiation) -> Instrument:
    return Instrument(wavelength=np.array(radiation.wavelength), line_weight=np.array(radiation.weight), **values)


def prm(
    kind: int, coefficients: list[float], icons: str = "  1.540593  1.544427       1.5         0       0.5    0       0.5"
) -> str:
    lines = [
        "INS   BANK      1",
        "INS   HTYPE   PXCR",
        f"INS  1 ICONS{icons}",
        f"INS  1PRCF1 {kind:5d}{len(coefficients):5d}   0.01000",
    ]
    for row in range(0, len(coefficients), 4):
        numbers = "".join(f"{c:15.6E}" for c in coefficients[row : row + 4])
        lines.append(f"INS  1PRCF1{row // 4 + 1}{numbers}")
    return "\n".join(line.ljust(80) for line in lines) + "\n"


INSTPRM = """#GSAS-II instrument parameter file; do not add/delete items!
Type:PXC
Bank:1.0
Lam:0.413909
Zero:0.0012
Polariz.:0.99
Azimuth:0.0
U:1.163
V:-0.126
W:0.063
X:0.173
Y:0.05
Z:0.0
SH/L:0.0022
"""


# --- Real files ------------------------------------------------------------------------------------------------------------


def test_prm_of_a_tube(shared_data: pathlib.Path):
    """INST_XRY.PRM: GU 2, GV -2, GW 5, GP 0.1, LX 0, LY 0, S/L 0.01, H/L 0.01."""
    file = read_instrument(shared_data / "experimental" / "lab_fluorapatite_FAP" / "INST_XRY.PRM")
    expected = {
        "zero_shift": 0.0, "polarization_fraction": 0.7, "lorentz_inverse_cos": 0.0, "lorentz_tan": 0.0,
        "caglioti_u": 2.1 * FWHM_SQUARED, "caglioti_v": -2 * FWHM_SQUARED, "caglioti_w": 5.1 * FWHM_SQUARED,
        "axial_source": 0.01, "axial_detector": 0.01,
    }  # fmt: skip
    assert file.values == pytest.approx(expected)
    assert (file.radiation.wavelength, file.radiation.weight) == ((1.5405, 1.5443), (1.0, 0.5))
    assert "+60 ppm" in file.notes[0]


@pytest.mark.parametrize("name", ["11bm_gsas.prm", "NAC-2015A.EXP"])
def test_prm_and_exp_of_a_synchrotron(shared_data: pathlib.Path, name: str):
    """The X-rays of the EXP are its third histogram, behind two of time of flight."""
    file = read_instrument(shared_data / "experimental" / "sync_NAC_11BM" / name)
    expected = {
        "zero_shift": 0.0, "polarization_fraction": 0.99, "lorentz_inverse_cos": 0.00173, "lorentz_tan": 0.0,
        "caglioti_u": 1.163 * FWHM_SQUARED, "caglioti_v": -0.126 * FWHM_SQUARED, "caglioti_w": 0.063 * FWHM_SQUARED,
        "axial_source": 0.0011, "axial_detector": 0.0011,
    }  # fmt: skip
    assert file.values == pytest.approx(expected)
    assert file.radiation.wavelength == (0.413909,)


def test_exp_of_profile_two(shared_data: pathlib.Path):
    """FAP.EXP's own instrument: GU 2, GV -2, GW 5, LX 1, LY 1 of profile function 2, without axial terms."""
    file = read_instrument(shared_data / "experimental" / "lab_fluorapatite_FAP" / "FAP.EXP")
    expected = {
        "zero_shift": 0.0, "polarization_fraction": 0.5, "lorentz_inverse_cos": 0.01, "lorentz_tan": 0.01,
        "caglioti_u": 2 * FWHM_SQUARED, "caglioti_v": -2 * FWHM_SQUARED, "caglioti_w": 5 * FWHM_SQUARED,
    }  # fmt: skip
    assert file.values == pytest.approx(expected)


def test_instprm(shared_data: pathlib.Path):
    file = read_instrument(shared_data / "experimental" / "qpa_iucr_cpd" / "cuka.instprm")
    expected = {
        "zero_shift": 0.0, "polarization_fraction": 0.7, "lorentz_inverse_cos": 0.0, "lorentz_tan": 0.0,
        "caglioti_u": 2 * FWHM_SQUARED, "caglioti_v": -2 * FWHM_SQUARED, "caglioti_w": 5 * FWHM_SQUARED,
        "axial_source": 0.001, "axial_detector": 0.001,
    }  # fmt: skip
    assert file.values == pytest.approx(expected)
    assert file.radiation.wavelength == (1.54051, 1.54433)


# --- Conventions -----------------------------------------------------------------------------------------------------------


def test_widths_are_gsas_formulas(tmp_path: pathlib.Path):
    """The simulator's widths of the converted values are GSAS's sigma and gamma, GP/cos^2 included."""
    u, v, w, p, x, y = 4.0, -3.0, 6.0, 1.5, 2.0, 5.0
    path = tmp_path / "a.prm"
    path.write_text(prm(3, [u, v, w, p, x, y, 0.012, 0.008]))
    file = read_instrument(path)
    with jax.enable_x64(True):
        theta = np.radians([5.0, 30.0, 70.0])
        instrument = made(file.values, file.radiation)
        shape = peak_shape(np.sin(theta), instrument, Specimen())
        variance = u * np.tan(theta) ** 2 + v * np.tan(theta) + w + p / np.cos(theta) ** 2
        # The floor under the Caglioti parabola changes it by less than 1e-6 here.
        np.testing.assert_allclose(np.asarray(shape.sigma), np.sqrt(variance) / 100, rtol=1e-5)
        np.testing.assert_allclose(
            2 * np.asarray(shape.hwhm_lorentz), (x / np.cos(theta) + y * np.tan(theta)) / 100, rtol=1e-9
        )
    assert (file.values["axial_source"], file.values["axial_detector"]) == (0.012, 0.008)
    assert file.values["zero_shift"] == pytest.approx(0.015)
    assert file.radiation.wavelength == RADIATIONS["CuKa"].wavelength
    assert file.notes == ()


def test_azimuth_turns_the_polarization(tmp_path: pathlib.Path):
    """GSAS-II: ((1 - p) cos^2 A + p sin^2 A) cos^2(2theta) + (1 - p) sin^2 A + p cos^2 A."""
    path = tmp_path / "a.instprm"
    path.write_text(INSTPRM.replace("Azimuth:0.0", "Azimuth:30.0"))
    file = read_instrument(path)
    turn, share = math.radians(30), 0.99
    two_theta = np.radians([20.0, 60.0, 110.0])
    across = (1 - share) * math.cos(turn) ** 2 + share * math.sin(turn) ** 2
    expected = across * np.cos(two_theta) ** 2 + 1 - across
    fraction = file.values["polarization_fraction"]
    np.testing.assert_allclose(fraction + (1 - fraction) * np.cos(two_theta) ** 2, expected)
    with jax.enable_x64(True):
        instrument = made(file.values, file.radiation)
        sine = np.sin(two_theta / 2)
        factor = np.asarray(lorentz_polarization(sine, instrument)) * sine**2 * np.cos(two_theta / 2)
        np.testing.assert_allclose(factor / factor[0], expected / expected[0], rtol=1e-9)


def test_zero_is_in_degrees_in_gsas_ii(tmp_path: pathlib.Path):
    path = tmp_path / "a.instprm"
    path.write_text(INSTPRM)
    file = read_instrument(path)
    assert file.values["zero_shift"] == 0.0012
    assert file.values["lorentz_tan"] == pytest.approx(0.0005)
    assert file.values["axial_source"] == file.values["axial_detector"] == 0.0011
    assert file.notes == ()


def test_every_profile_function_by_names(tmp_path: pathlib.Path):
    """One value a term: it arrives in its field, and terms of the sample are named and left out."""
    fields = {
        "LX": ("lorentz_inverse_cos", 0.01),
        "LY": ("lorentz_tan", 0.01),
        "S/L": ("axial_source", 1),
        "H/L": ("axial_detector", 1),
    }
    for kind, names in PROFILES.items():
        path = tmp_path / f"{kind}.prm"
        path.write_text(prm(kind, [0.1 * (i + 1) for i in range(len(names))]))
        file = read_instrument(path)
        coefficients = {name: 0.1 * (i + 1) for i, name in enumerate(names)}
        for name, (field, unit) in fields.items():
            assert file.values.get(field) == (pytest.approx(unit * coefficients[name]) if name in names else None)
        assert file.values["caglioti_v"] == pytest.approx(coefficients["GV"] * FWHM_SQUARED)
        assert file.values["caglioti_w"] == pytest.approx((coefficients["GW"] + coefficients["GP"]) * FWHM_SQUARED)
        assert file.notes[-1].startswith("profile terms of the sample were left out: trns, shft") or kind == 2 or kind == 4


def test_doubts_are_noted(tmp_path: pathlib.Path):
    path = tmp_path / "a.instprm"
    path.write_text(INSTPRM.replace("Z:0.0", "Z:0.4") + "alpha:1.0\n#Bank 2\nU:7\n")
    notes = " ".join(read_instrument(path).notes)
    assert "first of several banks" in notes
    assert "not read: alpha" in notes
    assert "Z = 0.4" in notes
    path = tmp_path / "b.prm"
    path.write_text(prm(3, [1.0] * 8, "  0.413909       0.0       0.0         0       0.9    1       0.5"))
    file = read_instrument(path)
    assert "polarization correction of type 1" in file.notes[0]
    assert "polarization_fraction" not in file.values


# --- Our own ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["CuKa", "CuKa4", "MoKa1", "SimXRD"])
def test_round_trip(tmp_path: pathlib.Path, name: str):
    """Every field with a value that no short decimal holds."""
    generator = np.random.default_rng(0)
    values = {field: float(v) for field, v in zip(FIELDS, generator.normal(size=len(FIELDS)) / 3, strict=True)}
    instrument = InstrumentFile(values, RADIATIONS[name])
    write_instrument(tmp_path / "a.json", instrument)
    assert read_instrument(tmp_path / "a.json") == instrument
    own = dataclasses.replace(instrument, radiation=Radiation("mine", (0.1 + 0.2, 1 / 3), (1.0, 0.1)))
    write_instrument(tmp_path / "a.json", own)
    assert read_instrument(tmp_path / "a.json") == own


def test_written_by_hand(tmp_path: pathlib.Path):
    path = tmp_path / "a.json"
    path.write_text('{"radiation": "cuka", "goniometer_radius": 240}')
    assert read_instrument(path) == InstrumentFile({"goniometer_radius": 240.0}, RADIATIONS["CuKa"])
    path.write_text('{"wavelength": 0.41}')
    assert read_instrument(path).radiation.wavelength == (0.41,)


def test_writing_is_checked(tmp_path: pathlib.Path):
    path = tmp_path / "a.json"
    with pytest.raises(InputError, match=r"no instrument value 'caglioti_x'; did you mean caglioti_"):
        write_instrument(path, InstrumentFile({"caglioti_x": 1.0}, RADIATIONS["CuKa"]))
    with pytest.raises(InputError, match="caglioti_u is nan, not a finite number"):
        write_instrument(path, InstrumentFile({"caglioti_u": math.nan}, RADIATIONS["CuKa"]))
    assert not path.exists()
    path.write_text("{}")
    with pytest.raises(InputError, match="is also an input"):
        write_instrument(path, InstrumentFile({}, RADIATIONS["CuKa"]), inputs=[path])
    with pytest.raises(InputError, match="does not exist; create it"):
        write_instrument(tmp_path / "no" / "a.json", InstrumentFile({}, RADIATIONS["CuKa"]))


# --- Bad input -------------------------------------------------------------------------------------------------------------

BAD = {
    "empty.instprm": ("", "is empty"),
    "other.txt": ("10 20\n11 30\n", "is no instrument file that is read"),
    "tof.instprm": (INSTPRM.replace("PXC", "PNT"), "is of type 'PNT'; only constant-wavelength X-ray"),
    "word.instprm": (INSTPRM.replace("U:1.163", "U:many"), "cannot be read as an instrument .*many"),
    "dark.instprm": (INSTPRM.replace("Lam:0.413909\n", ""), "states no wavelength"),
    "zero.instprm": (INSTPRM.replace("Lam:0.413909", "Lam:0"), "cannot be read as an instrument"),
    "tof.prm": (prm(3, [1.0] * 8).replace("PXCR", "PNTR"), "is of type PNTR; only X-rays"),
    "gauss.prm": (prm(1, [1.0] * 6), "has none of GSAS's profile functions 2 to 5"),
    "word.prm": (prm(3, [1.0] * 8).replace("1.540593", " copper "), "cannot be read as an instrument"),
    "broken.json": ('{"radiation": ', "is not sound JSON"),
    "key.json": (
        '{"radiation": "CuKa", "caglioti_y": 1}',
        "there is no instrument value 'caglioti_y'; did you mean caglioti_",
    ),
    "text.json": ('{"radiation": "CuKa", "caglioti_u": "1"}', "caglioti_u is '1', not a finite number"),
    "truth.json": ('{"radiation": "CuKa", "caglioti_u": true}', "caglioti_u is True, not a finite number"),
    "nan.json": ('{"radiation": "CuKa", "caglioti_u": NaN}', "not a finite number"),
    "dark.json": ("{}", "states neither a radiation nor a wavelength"),
    "name.json": ('{"radiation": "Cu"}', "there is no wavelength 'Cu'"),
    "kind.json": ('{"radiation": ["CuKa"]}', "cannot be read as an instrument"),
    "uneven.json": ('{"wavelength": [1.54, 1.55], "line_weight": [1]}', "needs as many wavelengths"),
    "negative.json": ('{"wavelength": [-1.54]}', "needs as many wavelengths, all above 0"),
    "binary.prm": ("INS  1 ICONS\0", "is no instrument file that is read"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_files_are_one_sentence(tmp_path: pathlib.Path, name: str):
    content, message = BAD[name]
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(InputError, match=message) as caught:
        read_instrument(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_bad_paths(tmp_path: pathlib.Path):
    with pytest.raises(InputError, match="is a folder"):
        read_instrument(tmp_path)
    with pytest.raises(InputError, match="cannot be read"):
        read_instrument(tmp_path / "none.prm")


def test_json_lists_no_field_twice(tmp_path: pathlib.Path):
    """What is written names each field once and nothing else."""
    write_instrument(tmp_path / "a.json", InstrumentFile({"zero_shift": 0.1}, RADIATIONS["CuKa"]))
    document = json.loads((tmp_path / "a.json").read_text())
    assert list(document) == ["radiation", "wavelength", "line_weight", "zero_shift"]
