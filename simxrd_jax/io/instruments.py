"""Host zone. Instrument descriptions of GSAS and GSAS-II and our own, in the fields of `types.Instrument`.

Conventions of the GSAS family (Larson & Von Dreele 2004, LAUR 86-748, CW profile functions 2 to 5; GSAS-II has kept them):

- U, V, W and GP make the Gaussian *variance* sigma^2 = U tan^2 + V tan + W + GP/cos^2 in centidegrees squared. Since
  1/cos^2 = 1 + tan^2, GP adds to U and W. FWHM^2 = 8 ln 2 sigma^2.
- X (LX) and Y (LY) make the Lorentzian *FWHM* X/cos + Y tan in centidegrees; GSAS-II adds a constant Z, which has no field
  here.
- S/L and H/L are half heights over the radius, as here. GSAS-II has their sum SH/L alone and splits it in halves.
- POLA (Polariz.) is the share p of p + (1 - p) cos^2(2theta), with the azimuth of the detector 0.
- The zero is added to the calculated 2theta, in GSAS in centidegrees, in GSAS-II in degrees.

Verified on INST_XRY.PRM, 11bm_gsas.prm, FAP.EXP, NAC-2015A.EXP and cuka.instprm. Of the profile functions 4 and 5 and of a
nonzero Z or zero no real file is at hand; they are tested on synthesised ones.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from simxrd_jax.conditions import nearest
from simxrd_jax.constants import Radiation
from simxrd_jax.errors import InputError
from simxrd_jax.io.formats.scan import LINE_TOLERANCE, replaced, single_line, tabulated
from simxrd_jax.io.xy import check_target, write_together
from simxrd_jax.phases import as_radiation
from simxrd_jax.types import Instrument

LINES = ("wavelength", "line_weight", "line_fwhm")
FIELDS = {field.name: field for field in dataclasses.fields(Instrument) if field.name not in LINES}
RADIATION = "radiation"  # key of the emission lines' name in our own files
KEYS = dict.fromkeys((RADIATION, *LINES, *FIELDS))

CENTIDEGREE = 0.01
FWHM_SQUARED = 8 * math.log(2) * CENTIDEGREE**2  # of a variance in centidegrees squared. [deg^2]
KEY = 12  # characters of a record's name in GSAS files
NUMBER = 15  # characters of a profile coefficient
# Coefficients of the profile functions by their names in GSAS, in their order.
PROFILES = {
    2: ("GU", "GV", "GW", "LX", "LY", "trns", "asym", "shft", "GP", "stec", "ptec", "sfec"),
    3: ("GU", "GV", "GW", "GP", "LX", "LY", "S/L", "H/L", "trns", "shft", "stec", "ptec", "sfec"),
    4: ("GU", "GV", "GW", "GP", "LX", "ptec", "trns", "shft", "sfec", "S/L", "H/L", "eta"),
    5: ("GU", "GV", "GW", "GP", "LX", "LY", "S/L", "H/L", "trns", "shft", "stec", "ptec", "sfec"),
}
PREFERRED = (3, 5, 4, 2)  # with Finger, Cox & Jephcoat's asymmetry and LY first
SAMPLE_TERMS = ("trns", "shft", "asym", "stec", "ptec", "sfec", "eta")
INSTPRM_KEYS = (
    "Type", "Bank", "Lam", "Lam1", "Lam2", "I(L2)/I(L1)", "Zero", "Polariz.", "Azimuth", "U", "V", "W", "X", "Y", "Z", "SH/L",
    "Source",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class InstrumentFile:
    """An instrument as a file states it.

    Attributes:
      values: field of `types.Instrument` -> value; fields that the file does not state are absent.
      radiation: emission lines with the file's own wavelengths, since zero and widths were refined with them.
      notes: one sentence for each doubt.
    """

    values: dict[str, float]
    radiation: Radiation
    notes: tuple[str, ...] = ()


def read_instrument(path: str | os.PathLike[str]) -> InstrumentFile:
    """The instrument of a file of GSAS-II (.instprm), GSAS (.prm, .EXP) or ours (JSON), told apart by their content.

    Raises:
      InputError: the file cannot be read, is of another kind, or describes no constant-wavelength X-ray instrument.
    """
    source = pathlib.Path(path)
    if source.is_dir():
        raise InputError(f"{source}: is a folder; give the file of an instrument")
    try:
        data = source.read_bytes()
    except OSError as error:
        raise InputError(f"{source}: cannot be read ({error.strerror}); check the path") from None
    if not data.strip():
        raise InputError(f"{source}: is empty; give the file of an instrument")
    text = data.decode("utf-8-sig", errors="replace")
    try:
        if b"\0" not in data:
            if text.lstrip().startswith("{"):
                return _read_json(text, str(source))
            if re.search(r"^(INS|HST) +\d+ ICONS", text, re.MULTILINE):
                return _read_gsas(text, str(source))
            if re.search(r"^Lam1?\s*:|^Type\s*:", text, re.MULTILINE):
                return _read_instprm(text, str(source))
    except InputError:
        raise
    except (ValueError, IndexError, KeyError, TypeError) as error:
        raise InputError(f"{source}: cannot be read as an instrument ({error}); correct it or write it again") from None
    raise InputError(f"{source}: is no instrument file that is read; give a .instprm, a GSAS .prm or .EXP, or our JSON")


def write_instrument(
    path: str | os.PathLike[str], instrument: InstrumentFile, inputs: Sequence[str | os.PathLike[str]] = ()
) -> None:
    """Writes an instrument as JSON that `read_instrument` reads back exactly, but for the notes.

    Args:
      path: of the file.
      instrument: to write.
      inputs: files that must not be overwritten.

    Raises:
      InputError: a value has no field or is not finite, or the file cannot be written.
    """
    target = check_target(path, inputs)
    write_together({target: instrument_text(instrument, str(target))})


def instrument_text(instrument: InstrumentFile, source: str) -> str:
    """The JSON of an instrument, see `write_instrument`; errors name the source."""
    radiation = instrument.radiation
    document: dict[str, Any] = {
        RADIATION: radiation.name,
        "wavelength": list(radiation.wavelength),
        "line_weight": list(radiation.weight),
    }
    if radiation.fwhm is not None:
        document["line_fwhm"] = list(radiation.fwhm)
    for name, value in instrument.values.items():
        _check_name(name, FIELDS, source)
        document[name] = _finite(name, value, source)
    return json.dumps(document, indent=2) + "\n"


# --- Our own ---------------------------------------------------------------------------------------------------------------


def _read_json(text: str, source: str) -> InstrumentFile:
    try:
        document = json.loads(text)
    except ValueError as error:
        raise InputError(f"{source}: is not sound JSON ({error}); correct it") from None
    for name in document:
        _check_name(name, KEYS, source)
    values = {name: _finite(name, value, source) for name, value in document.items() if name in FIELDS}
    name = document.get(RADIATION)
    if "wavelength" not in document:
        if name is None:
            raise InputError(f'{source}: states neither a radiation nor a wavelength; add one, as "radiation": "CuKa"')
        try:
            return InstrumentFile(values, as_radiation(name))
        except InputError as error:
            raise InputError(f"{source}: {error}") from None
    lines = {key: _list(key, document[key], source) for key in LINES if document.get(key) is not None}
    wavelength = lines["wavelength"]
    lengths = {len(line) for line in lines.values()}
    if len(lengths) > 1 or not wavelength or min(wavelength) <= 0:
        raise InputError(f"{source}: needs as many wavelengths, all above 0, as weights and widths of lines; correct them")
    label = name if isinstance(name, str) else " and ".join(f"{w:.10g}" for w in wavelength) + " A"
    weight = lines.get("line_weight", (1.0,) * len(wavelength))
    return InstrumentFile(values, Radiation(label, wavelength, weight, lines.get("line_fwhm")))


def _check_name(name: str, names: Mapping[str, Any], source: str) -> None:
    if name not in names:
        raise InputError(f"{source}: there is no instrument value {name!r}{nearest(name, names)}")


def _finite(name: str, value: Any, source: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise InputError(f"{source}: {name} is {value!r}, not a finite number; correct it")
    return float(value)


def _list(name: str, value: Any, source: str) -> tuple[float, ...]:
    return tuple(_finite(name, v, source) for v in (value if isinstance(value, list) else [value]))


# --- GSAS-II ---------------------------------------------------------------------------------------------------------------


def _read_instprm(text: str, source: str) -> InstrumentFile:
    notes: list[str] = []
    entries: dict[str, str] = {}
    for line in text.splitlines():
        if re.match(r"#\s*Bank\s*\d+", line, re.IGNORECASE) and entries:
            notes.append("the first of several banks was taken")
            break
        if line.lstrip().startswith("#"):
            continue
        for item in line.split(";"):
            key, colon, value = item.partition(":")
            if colon:
                entries[key.strip()] = value.strip()
    kind = entries.get("Type", "PXC")
    if not kind.startswith("PXC"):
        raise InputError(f"{source}: is of type {kind!r}; only constant-wavelength X-ray instruments (PXC) are read")
    if unread := [key for key in entries if key not in INSTPRM_KEYS]:
        notes.append(f"not read: {', '.join(unread)}")
    given = {key: float(value) for key, value in entries.items() if key in INSTPRM_KEYS and key not in ("Type", "Source")}
    if "Lam" not in given and "Lam1" not in given:
        raise InputError(f"{source}: states no wavelength (Lam, or Lam1 and Lam2); add it")
    radiation, doubts = _lines(given.get("Lam") or given["Lam1"], given.get("Lam2", 0.0), given.get("I(L2)/I(L1)", 0.5))
    notes += doubts
    values: dict[str, float] = {}
    if "Zero" in given:
        values["zero_shift"] = given["Zero"]
    if "Polariz." in given:
        # Turning the detector by the azimuth mixes the two directions of polarization.
        share, turn = given["Polariz."], math.radians(given.get("Azimuth", 0.0))
        values["polarization_fraction"] = share * math.cos(turn) ** 2 + (1 - share) * math.sin(turn) ** 2
    values |= _widths(
        {"GU": given.get("U"), "GV": given.get("V"), "GW": given.get("W"), "LX": given.get("X"), "LY": given.get("Y")}
    )
    if given.get("SH/L"):
        values["axial_source"] = values["axial_detector"] = given["SH/L"] / 2
    if given.get("Z"):
        notes.append(f"the constant Lorentzian width Z = {given['Z']:g} centidegrees was left out")
    return InstrumentFile(values, radiation, tuple(notes))


# --- GSAS ------------------------------------------------------------------------------------------------------------------


def _read_gsas(text: str, source: str) -> InstrumentFile:
    """Records of a name of 12 characters and fixed columns; those of the first X-ray histogram (EXP) or bank (PRM)."""
    records = {line[:KEY].ljust(KEY): line[KEY:].ljust(80 - KEY) for line in text.splitlines()}
    prefix, notes = _histogram(records, source)
    icons = next(value for key, value in records.items() if key.startswith(prefix) and key[6:].strip() == "ICONS")
    fields = [icons[i : i + 10].strip() for i in range(0, 50, 10)] + [icons[50:55].strip(), icons[55:65].strip()]
    first, second, zero, _, share, kind, ratio = fields
    radiation, doubts = _lines(float(first), float(second or 0), float(ratio or 0.5))
    notes += doubts
    values: dict[str, float] = {"zero_shift": CENTIDEGREE * float(zero or 0)}
    if share:
        if kind in ("", "0"):
            values["polarization_fraction"] = float(share)
        else:
            notes.append(f"its polarization correction of type {kind} was not read")
    coefficients = _profile(records, prefix, source)
    values |= _widths(coefficients)
    if coefficients.get("S/L") or coefficients.get("H/L"):
        values |= {"axial_source": coefficients["S/L"], "axial_detector": coefficients["H/L"]}
    if left := [name for name in SAMPLE_TERMS if coefficients.get(name)]:
        notes.append(f"profile terms of the sample were left out: {', '.join(left)}")
    return InstrumentFile(values, radiation, tuple(notes))


def _histogram(records: Mapping[str, str], source: str) -> tuple[str, list[str]]:
    """The first six characters of the records of the first X-ray histogram at constant wavelength, and notes."""
    places = [key[:6] for key in records if re.match(r"(INS|HST) *\d+ ICONS", key)]
    types = " ".join(value for key, value in records.items() if re.match(r" EXPR +HTYP", key)).split()
    if not types:
        types = [value.strip() for key, value in records.items() if key.startswith("INS") and key[6:].strip() == "HTYPE"]
        types = types * len(places)
    known = [place for place in places if len(types) < int(place[3:]) or types[int(place[3:]) - 1].startswith("PXC")]
    if not known:
        raise InputError(
            f"{source}: is of type {', '.join(dict.fromkeys(types))}; only X-rays at constant wavelength (PXC) are read"
        )
    return known[0], [f"the first of {len(known)} histograms or banks was taken"] if len(known) > 1 else []


def _profile(records: Mapping[str, str], prefix: str, source: str) -> dict[str, float]:
    """Coefficients by name, of the preferred profile function where a file has several."""
    found: dict[int, dict[str, float]] = {}
    for key, value in records.items():
        match = re.match(r"PRCF(\d) $", key[6:])
        if not key.startswith(prefix) or not match:
            continue
        kind, count = (int(v) for v in value.split()[:2])
        rows = "".join(records.get(f"{key[:11]}{row}", "")[: 4 * NUMBER].ljust(4 * NUMBER) for row in range(1, 10))
        numbers = [float(rows[i * NUMBER : (i + 1) * NUMBER].strip() or 0) for i in range(count)]
        if kind in PROFILES:
            found[kind] = dict(zip(PROFILES[kind], numbers, strict=False))
    for kind in PREFERRED:
        if kind in found:
            return found[kind]
    raise InputError(f"{source}: has none of GSAS's profile functions 2 to 5; give one with U, V, W")


def _widths(coefficients: Mapping[str, float | None]) -> dict[str, float]:
    """Fields of the widths that are given, from GSAS's variances and centidegrees."""
    variance = coefficients.get("GP") or 0.0
    shares = {"GU": variance, "GW": variance}  # GP/cos^2 = GP + GP tan^2
    fields = {"GU": "caglioti_u", "GV": "caglioti_v", "GW": "caglioti_w"}
    values = {field: FWHM_SQUARED * (c + shares.get(name, 0.0)) for name, field in fields.items()
              if (c := coefficients.get(name)) is not None}  # fmt: skip
    lorentz = {"LX": "lorentz_inverse_cos", "LY": "lorentz_tan"}
    return values | {field: CENTIDEGREE * c for name, field in lorentz.items() if (c := coefficients.get(name)) is not None}


def _lines(first: float, second: float, ratio: float) -> tuple[Radiation, tuple[str, ...]]:
    """Emission lines as stated, and a note where the tabulated ones differ."""
    if first <= 0:
        raise ValueError(f"the wavelength {first:g} A")
    radiation = (
        Radiation(f"{first:.10g} and {second:.10g} A", (first, second), (1.0, ratio)) if second > 0 else single_line(first)
    )
    table, _ = tabulated(first, second or None, ratio)
    if table is None or abs(table.wavelength[0] / first - 1) > LINE_TOLERANCE or table.wavelength == radiation.wavelength:
        return radiation, ()
    if not replaced(radiation.wavelength, table):
        return radiation, ()
    lines = " and ".join(f"{w:.7g}" for w in table.wavelength)
    change = (table.wavelength[0] / first - 1) * 1e6
    return radiation, (
        f"the instrument file's wavelengths are not the tabulated {lines} A ({change:+.0f} ppm), with which cells scale",
    )
