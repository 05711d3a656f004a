"""Host zone. Malvern Panalytical's XRDML.

Verified on files of the schemas 1.6, 1.7, 2.1, 2.2 and 2.3 (Aeris, Empyrean, X'Pert); several scans, listed positions, listed
counting times and rates on synthesised ones. `intensities` are what the maker's
programs show, corrected for the beam attenuator; `counts` are what the detector counted, so they are multiplied by the
attenuation factors here, and their uncertainty with them.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from typing import Any

import numpy as np

from simxrd_jax.errors import InputError
from simxrd_jax.io.formats.scan import Scan, numbers, poisson_sigma, tabulated


def is_xrdml(root: ET.Element) -> bool:
    """Whether an XML tree is of this format."""
    return root.tag.rpartition("}")[2] == "xrdMeasurements"


def scans_of_xrdml(root: ET.Element, source: str) -> list[Scan]:
    """All scans of all measurements.

    Raises:
      InputError: a scan is not one over 2theta.
    """
    name = (_text(root, "sample/id") or _text(root, "sample/name")).strip()
    scans = []
    for measurement in root.findall("{*}xrdMeasurement"):
        radiation, notes = _radiation(measurement)
        instrument = _instrument(measurement)
        for element in measurement.findall("{*}scan"):
            points = element.find("{*}dataPoints")
            if points is None:
                continue
            values = _intensities(points)
            two_theta = _positions(points, len(values["intensity"]), source, element.get("scanAxis", ""))
            seconds = values.pop("seconds")
            scan_notes = (*notes, *values.pop("notes"))
            if seconds is not None:
                instrument = {**instrument, "counting_time": seconds}
            scans.append(Scan(two_theta, **values, seconds=seconds, radiation=radiation, instrument=instrument, name=name,
                              notes=scan_notes))  # fmt: skip
    if not scans:
        raise InputError(f"{source}: is an XRDML file without a scan; check that the measurement was finished")
    return scans


def _intensities(points: ET.Element) -> dict[str, Any]:
    """Keyword arguments of a Scan."""
    notes: list[str] = []
    raw = points.find("{*}counts")
    element = points.find("{*}intensities") if raw is None else raw
    if element is None:
        raise ValueError("it has neither counts nor intensities")
    intensity = numbers(element.text)
    seconds = numbers(_text(points, "commonCountingTime") or _text(points, "countingTimes"))
    factor = numbers(_text(points, "commonBeamAttenuationFactor") or _text(points, "beamAttenuationFactors"))
    sigma = None
    if raw is not None and factor.size and np.any(factor != 1):
        sigma = poisson_sigma(intensity, factor)
        intensity = intensity * factor
        notes.append(f"counts were multiplied by the beam attenuator's factors, up to {factor.max():g}")
    elif factor.size and np.any(factor != 1):
        sigma = np.sqrt(np.maximum(intensity, factor) * factor)
    if any(v.tag.rpartition("}")[2].lower().endswith(("divergencecorrection", "divergencecorrections")) for v in points):
        notes.append("the file's divergence corrections were not applied")
    is_rate = element.get("unit", "counts").lower() in ("cps", "counts per second")
    if seconds.size > 1 and np.ptp(seconds) > 0:
        if not is_rate:
            sigma = (poisson_sigma(intensity) if sigma is None else sigma) / seconds
            intensity = intensity / seconds
            notes.append("counting times differ between points, so intensities are counts per second")
        else:
            sigma = poisson_sigma(intensity * seconds) / seconds
        return {"intensity": intensity, "sigma": sigma, "is_rate": True, "seconds": None, "notes": notes}
    return {
        "intensity": intensity,
        "sigma": sigma,
        "is_rate": is_rate,
        "seconds": float(seconds[0]) if seconds.size else None,
        "notes": notes,
    }


def _positions(points: ET.Element, count: int, source: str, scan_axis: str) -> np.ndarray:
    for element in points.findall("{*}positions"):
        if element.get("axis", "").lower() not in ("2theta", "twotheta"):
            continue
        if listed := _text(element, "listPositions"):
            return numbers(listed)
        start, stop = _text(element, "startPosition"), _text(element, "endPosition")
        if start and stop:
            return np.linspace(float(start), float(stop), count)
    raise InputError(f"{source}: a scan along {scan_axis or 'an unnamed axis'} holds no 2theta; give a scan over 2theta")


def _radiation(measurement: ET.Element):
    wavelength = measurement.find("{*}usedWavelength")
    anode = _text(measurement, "incidentBeamPath/xRayTube/anodeMaterial")
    # A graded mirror lets the doublet pass; crystals of germanium do not.
    crystals = measurement.findall("{*}incidentBeamPath/{*}monochromator/{*}crystal")
    is_alpha1_only = any((crystal.text or "").strip() == "Ge" for crystal in crystals)
    if wavelength is None:
        return tabulated(None, anode=anode, is_alpha1_only=is_alpha1_only)
    values = {name: _text(wavelength, name) for name in ("kAlpha1", "kAlpha2", "ratioKAlpha2KAlpha1")}
    alpha1, alpha2, ratio = (float(v) if v else None for v in values.values())
    return tabulated(alpha1, alpha2, ratio, anode, is_alpha1_only)


def _instrument(measurement: ET.Element) -> dict[str, float]:
    found = {
        "goniometer_radius": _text(measurement, "incidentBeamPath/radius"),
        "divergence_slit": _text(measurement, "incidentBeamPath/divergenceSlit/angle"),
        "beam_mask": _text(measurement, "incidentBeamPath/mask/width"),
        "receiving_slit": _text(measurement, "diffractedBeamPath/receivingSlit/height"),
        "detector_length": _text(measurement, "diffractedBeamPath/detector/activeLength"),
    }
    instrument = {name: float(text) for name, text in found.items() if text}
    for name, path in (("soller_incident", "incidentBeamPath"), ("soller_diffracted", "diffractedBeamPath")):
        if opening := _text(measurement, f"{path}/sollerSlit/opening"):
            instrument[name] = float(np.degrees(float(opening)))
    return instrument


def _text(element: ET.Element, path: str) -> str:
    return (element.findtext("/".join(f"{{*}}{tag}" for tag in path.split("/"))) or "").strip()
