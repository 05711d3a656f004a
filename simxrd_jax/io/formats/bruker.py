"""Host zone. Bruker's RAW (versions 3, "RAW1.01", and 4, "RAW4.00") and BRML (zip of XML).

Version 4 is verified on two files (DIFFRAC.EVA, V5Converter), of one of which another program's reading is at hand; BRML on
one file of a point detector with an absorber. Version 3 is tested on synthesised files alone, after its published layout.
Stored BRML intensities are already multiplied by the absorber's factor: in the file at hand they are continuous where it
switches.
"""

from __future__ import annotations

import re
import struct
import xml.etree.ElementTree as ET
import zipfile
from typing import Any

import numpy as np

from simxrd_jax.errors import InputError
from simxrd_jax.io.formats.scan import Scan, not_readable, numbers, tabulated

RAW_DATA = re.compile(r"RawData\d+\.xml$")
# Drives whose start is a 2theta; codes of version 3: locked coupled, unlocked coupled, detector scan.
SCAN_TYPES = re.compile(r"coupled|2 ?theta|two ?theta|detector|psd", re.IGNORECASE)
SCAN_CODES = (0, 1, 2)
HEADER_V3, RANGE_V3 = 712, 304
HEADER_V4, RANGE_V4 = 61, 160
TEXT_RECORD, INSTRUMENT_RECORD, RANGE_RECORDS = 10, 30, (0, 160)


def scans_of_raw(data: bytes, source: str) -> list[Scan]:
    """All ranges of a binary RAW file of Bruker.

    Raises:
      InputError: another maker's or an older version, a range that is no scan over 2theta, or a file that is cut short.
    """
    if data.startswith(b"RAW4.00"):
        return _version_4(data, source)
    if data.startswith(b"RAW1.01"):
        return _version_3(data, source)
    if data.startswith(b"RAW_"):
        raise not_readable(source, "a RAW file of Stoe")
    if data.startswith((b"RAW ", b"RAW2")):
        raise not_readable(source, "a RAW file of version 1 or 2")
    raise not_readable(source, "a RAW file of an unknown version")


def _version_4(data: bytes, source: str) -> list[Scan]:
    """Records of a kind and a length after a fixed header; a range is a header, drive records and points."""
    scans: list[Scan] = []
    name, radiation, notes = "", None, ()
    instrument: dict[str, float] = {}
    place = HEADER_V4
    while place + 8 <= len(data):
        kind, length = struct.unpack_from("<ii", data, place)
        if kind in RANGE_RECORDS:
            scan, place = _range_4(data, place, source)
            scans.append(Scan(*scan, radiation=radiation, instrument=dict(instrument), name=name, notes=notes))
            continue
        if length < 8:
            raise ValueError(f"a record of length {length} at byte {place}")
        record = data[place : place + length]
        if kind == TEXT_RECORD and _text(record[12:36]) == "SAMPLEID":
            name = _text(record[36:])
        elif kind == INSTRUMENT_RECORD:
            _, alpha1, alpha2, _, ratio = struct.unpack_from("<5d", record, 72)
            radiation, notes = tabulated(alpha1 or None, alpha2 or None, ratio, _text(record[116:120]))
            # The record states the diameter of the measuring circle (435, 500, 560 or 600 mm).
            if (diameter := struct.unpack_from("<f", record, 24)[0]) > 0:
                instrument["goniometer_radius"] = diameter / 2
        place += length
    if not scans:
        raise InputError(f"{source}: is a RAW file without a range; export it again")
    return scans


def _range_4(data: bytes, place: int, source: str) -> tuple[tuple[np.ndarray, np.ndarray], int]:
    scan_type = _text(data[place + 32 : place + 56])
    start, step, count = struct.unpack_from("<ddi", data, place + 72)
    size, extra = struct.unpack_from("<ii", data, place + 136)
    if not SCAN_TYPES.search(scan_type):
        raise InputError(f"{source}: a scan of type {scan_type!r} holds no 2theta; give a scan over 2theta")
    if extra < 0:
        raise ValueError(f"a record of length {extra} at byte {place}")
    # An 8-byte point is its intensity and an integer of unknown meaning, 1 in the file at hand.
    if size not in (4, 8):
        raise not_readable(source, f"a RAW file whose points have {size} bytes")
    first = place + RANGE_V4 + extra
    intensity = _floats(data, first, count, size, source)
    return (start + step * np.arange(count), intensity), first + count * size


def _version_3(data: bytes, source: str) -> list[Scan]:
    """A header of 712 bytes, then ranges of a header, an extra record and points."""
    (ranges,) = struct.unpack_from("<i", data, 12)
    _, alpha1, alpha2, _, ratio = struct.unpack_from("<5d", data, 616)
    radiation, notes = tabulated(alpha1 or None, alpha2 or None, ratio, _text(data[608:612]))
    name = _text(data[326:386])
    scans = []
    place = HEADER_V3
    for _ in range(ranges):
        length, count = struct.unpack_from("<ii", data, place)
        (start,) = struct.unpack_from("<d", data, place + 16)
        (step,) = struct.unpack_from("<d", data, place + 176)
        seconds, code = struct.unpack_from("<fi", data, place + 192)
        varying, size, extra = struct.unpack_from("<iii", data, place + 248)
        if code not in SCAN_CODES:
            raise InputError(f"{source}: a scan of type {code} holds no 2theta; give a scan over 2theta")
        if length < 0 or extra < 0:
            raise ValueError(f"a record of length {min(length, extra)} at byte {place}")
        if varying or size != 4:
            raise not_readable(source, "a RAW file that lists more than intensities")
        first = place + length + extra
        intensity = _floats(data, first, count, size, source)
        instrument = {"counting_time": float(seconds)} if seconds > 0 else {}
        scans.append(
            Scan(start + step * np.arange(count), intensity, seconds=float(seconds) or None, radiation=radiation,
                 instrument=instrument, name=name, notes=notes)
        )  # fmt: skip
        place = first + count * size
    if not scans:
        raise InputError(f"{source}: is a RAW file without a range; export it again")
    return scans


def _floats(data: bytes, first: int, count: int, size: int, source: str) -> np.ndarray:
    if count < 0 or first < 0 or first + count * size > len(data):
        raise InputError(f"{source}: ends before the {count} points that it announces; copy or export it again")
    with np.errstate(invalid="ignore"):  # a NaN of a damaged file is found later
        return np.frombuffer(data, "<f4", count * size // 4, first)[:: size // 4].astype(np.float64)


def _text(data: bytes) -> str:
    return data.split(b"\0")[0].decode("latin-1").strip()


def scans_of_brml(archive: zipfile.ZipFile, source: str) -> list[Scan]:
    """The measured route of every raw-data member of a BRML file.

    Raises:
      InputError: none is a scan over 2theta with one recorded intensity a point.
    """
    members = sorted(name for name in archive.namelist() if RAW_DATA.search(name))
    scans = []
    for member in members:
        root = ET.fromstring(archive.read(member))
        routes = [route for route in root.iter("DataRoute") if route.find("Datum") is not None]
        route = next((r for r in routes if r.get("RouteFlag") == "Measured"), routes[0] if routes else None)
        if route is not None:
            scans.append(_route(root, route, source))
    if not scans:
        raise InputError(f"{source}: is a BRML file without measured points; check that the measurement was finished")
    return scans


def _route(root: ET.Element, route: ET.Element, source: str) -> Scan:
    columns: dict[str, int] = {}
    recorded: list[int] = []
    for view in route.iter("RawDataView"):
        first = int(view.get("Start", "-1"))
        fields = [f.get("FieldName", "") for f in view.iter("FieldDefinitions")] or [view.get("LogicName", "")]
        columns |= {field: first + i for i, field in enumerate(fields)}
        if view.find("Recording") is not None:
            if int(view.get("Length", "1")) != 1:
                raise not_readable(source, "a BRML file of an area detector")
            recorded.append(first)
    if "TwoTheta" not in columns or not recorded:
        raise InputError(f"{source}: a scan without a 2theta and an intensity for each point; give a scan over 2theta")
    table = np.array([numbers(datum.text) for datum in route.findall("Datum")])
    notes: list[str] = []
    if len(recorded) > 1:
        notes.append(f"{len(recorded)} intensities were recorded and the first was taken")
    intensity, sigma = table[:, recorded[0]], None
    if "AbsorptionFactor" in columns and np.any((factor := table[:, columns["AbsorptionFactor"]]) != 1):
        sigma = np.sqrt(np.maximum(intensity, factor) * factor)
        notes.append(f"the absorber's factor, up to {factor.max():g}, is in the uncertainties")
    optics: dict[str, Any] = {e.tag: e.get("Value") for e in root.iter() if e.tag.startswith(("WaveLength", "TubeMaterial"))}
    alpha1, alpha2, ratio = (float(optics.get(f"WaveLength{part}") or 0) or None for part in ("Alpha1", "Alpha2", "Ratio"))
    radiation, replaced = tabulated(alpha1, alpha2, ratio, optics.get("TubeMaterial") or "")
    instrument: dict[str, float] = {}
    if seconds := float(route.findtext("ScanInformation/TimePerStep") or 0):
        instrument["counting_time"] = seconds
    return Scan(
        table[:, columns["TwoTheta"]],
        intensity,
        sigma,
        seconds=seconds or None,
        radiation=radiation,
        instrument=instrument,
        notes=(*replaced, *notes),
    )
