"""Host zone. Rigaku's RAS (text) and RASX (zip of XML and text).

Verified on SmartLab files, one RAS and two RASX. The third column is the attenuator's factor. No file says whether intensities
are already multiplied by it, so a scan in which it changes is refused.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
import zipfile
from collections.abc import Mapping

import numpy as np

from simxrd_jax.errors import InputError
from simxrd_jax.io.formats.scan import EXPORT, Scan, numbers, tabulated

PROFILE = re.compile(r"Data(\d+)/Profile\d+\.txt$")
ANGLE_AXES = ("twotheta", "twothetatheta", "twothetaomega", "2theta", "2theta/theta", "2θ", "2θ/θ", "θ/2θ", "theta/2-theta")
SOURCE_TO_SPECIMEN = 3  # among HW_GONIOMETER_RADIUS-0 ... -7, which list RASX's Distances in their order


def scans_of_ras(text: str, source: str) -> list[Scan]:
    """All scans of a RAS file."""
    scans = []
    header: dict[str, str] = {}
    rows: list[str] | None = None
    for number, line in enumerate(text.splitlines(), 1):
        line = line.strip()
        if line.startswith("*RAS_HEADER_START"):
            header = {}
        elif line.startswith("*RAS_INT_START"):
            rows = []
        elif line.startswith("*RAS_INT_END"):
            if rows is None:
                raise InputError(f"{source}: line {number} ends intensities that never began; export it again")
            scans.append(_scan(header, rows, source))
            rows = None
        elif rows is not None and line:
            rows.append(line)
        elif line.startswith("*"):
            key, _, value = line[1:].partition(" ")
            header[key] = value.strip().strip('"')
    if rows is not None or not scans:
        raise InputError(f"{source}: is a RAS file that ends before its intensities do; export it again")
    return scans


def scans_of_rasx(archive: zipfile.ZipFile, source: str) -> list[Scan]:
    """All scans of a RASX file."""
    members = sorted((int(match[1]), name) for name in archive.namelist() if (match := PROFILE.search(name)))
    scans = []
    for place, name in members:
        conditions = [n for n in archive.namelist() if n.startswith(f"Data{place}/") and n.endswith(".xml")]
        header = _pairs(ET.fromstring(archive.read(conditions[0]))) if conditions else {}
        rows = archive.read(name).decode("utf-8-sig").splitlines()
        scans.append(_scan(header, [row for row in rows if row.strip()], source))
    return scans


def _pairs(root: ET.Element) -> dict[str, str]:
    """The RAS header that the XML of measurement conditions carries, and its elements under the same keys."""
    header = {}
    for pair in root.iter("Pair"):
        key, value = ((e.text or "") for e in pair.findall("string"))
        header[key.lstrip("*")] = value
    elements = {
        "HW_XG_TARGET_NAME": "HWConfigurations/XrayGenerator/TargetName",
        "HW_XG_WAVE_LENGTH_ALPHA1": "HWConfigurations/XrayGenerator/WavelengthKalpha1",
        "HW_XG_WAVE_LENGTH_ALPHA2": "HWConfigurations/XrayGenerator/WavelengthKalpha2",
        "MEAS_COND_XG_WAVE_TYPE": "HWConfigurations/XrayGenerator/WaveType",
        "MEAS_SCAN_AXIS_X_INTERNAL": "ScanInformation/AxisName",
        "MEAS_SCAN_UNIT_Y": "ScanInformation/IntensityUnit",
        "MEAS_DATA_COUNT": "ScanInformation/DataCount",
        "FILE_SAMPLE": "GeneralInformation/SampleName",
    }
    header |= {key: text for key, path in elements.items() if (text := root.findtext(path))}
    for distance in root.findall("HWConfigurations/Distances/Distance"):
        if (distance.get("From"), distance.get("To"), distance.get("Unit")) == ("XrayGenerator", "AttachmentStage", "mm"):
            header[f"HW_GONIOMETER_RADIUS-{SOURCE_TO_SPECIMEN}"] = distance.get("Value", "")
    return header


def _scan(header: Mapping[str, str], rows: list[str], source: str) -> Scan:
    axis = header.get("MEAS_SCAN_AXIS_X_INTERNAL") or header.get("MEAS_SCAN_AXIS_X", "")
    if axis and axis.lower().replace(" ", "") not in ANGLE_AXES:
        raise InputError(f"{source}: a scan along {axis} holds no 2theta; give a scan over 2theta")
    table = np.array([numbers(row) for row in rows])
    if table.ndim != 2 or table.shape[1] < 2:
        raise ValueError("its intensities are not two or three columns of numbers")
    stated = header.get("MEAS_DATA_COUNT", "")
    if stated.isdigit() and int(stated) != len(table):
        raise InputError(f"{source}: holds {len(table)} of the {stated} points that it announces; export it again")
    if table.shape[1] > 2 and np.ptp(table[:, 2]) > 0:
        raise InputError(
            f"{source}: was measured with an attenuator that switched, and does not say whether its intensities are corrected;"
            f" {EXPORT}"
        )
    radiation, notes = tabulated(
        float(header.get("HW_XG_WAVE_LENGTH_ALPHA1") or 0) or None,
        float(header.get("HW_XG_WAVE_LENGTH_ALPHA2") or 0) or None,
        anode=header.get("HW_XG_TARGET_NAME", ""),
        is_alpha1_only=header.get("MEAS_COND_XG_WAVE_TYPE", "").lower() == "ka1",
    )
    return Scan(
        table[:, 0],
        table[:, 1],
        is_rate=header.get("MEAS_SCAN_UNIT_Y", "counts").lower() in ("cps", "counts/sec", "counts/s"),
        radiation=radiation,
        instrument=_instrument(header),
        name=header.get("FILE_SAMPLE", ""),
        notes=notes,
    )


def _instrument(header: Mapping[str, str]) -> dict[str, float]:
    """Radius, and the openings that are written into the names of slits, as 'Soller_slit_2.5deg'."""
    instrument = {}
    if radius := header.get(f"HW_GONIOMETER_RADIUS-{SOURCE_TO_SPECIMEN}"):
        instrument["goniometer_radius"] = float(radius)
    internal = "MEAS_COND_AXIS_NAME_INTERNAL-"
    for key, axis in header.items():
        if not key.startswith(internal):
            continue
        position = header.get(f"MEAS_COND_AXIS_POSITION-{key.removeprefix(internal)}", "")
        for name, wanted, pattern in (
            ("soller_incident", "IncidentSollerSlit", r"([\d.]+)deg"),
            ("soller_diffracted", "ReceivingSollerSlit", r"([\d.]+)deg"),
            ("divergence_slit", "IncidentSlitBox", r"^([\d.]+)deg"),
            ("beam_mask", "IncidentAxdSlit", r"^([\d.]+)mm"),
        ):
            if axis == wanted and (match := re.search(pattern, position)):
                instrument[name] = float(match[1])
    return instrument
