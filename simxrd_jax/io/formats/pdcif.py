"""Host zone. Patterns in CIFs of the powder dictionary (Toby 2006, International Tables for Crystallography G, ch. 3.3).

Verified on NIST's SRM 660c, on seven patterns deposited with papers of the IUCr and one of the COD.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import gemmi
import numpy as np

from simxrd_jax.constants import RADIATIONS, Radiation
from simxrd_jax.errors import InputError
from simxrd_jax.io.formats.scan import NOTE_TOLERANCE, Scan, graphite_angle, replaced, sigma_of_weights, tabulated

# In the order of preference: what was measured before what was processed, since zero and background are refined here.
ANGLES = ("_pd_meas_2theta_scan", "_pd_meas_2theta_corrected", "_pd_proc_2theta_corrected")
INTENSITIES = (
    "_pd_meas_counts_total", "_pd_meas_intensity_total", "_pd_proc_intensity_total", "_pd_meas_intensity_net",
    "_pd_proc_intensity_net",
)  # fmt: skip
COUNTS = "_pd_meas_counts_total"
WEIGHT = "_pd_proc_ls_weight"
INSTRUMENT = {
    "monochromator_two_theta": ("_pd_instr_2theta_monochr_post", "_pd_instr_2theta_monochr_pre"),
    "goniometer_radius": ("_pd_instr_dist_spec/detc", "_pd_instr_dist_src/spec"),
    "divergence_slit": ("_pd_instr_divg_eq_src/spec", "_pd_instr_divg_eq_mono/spec"),
    "receiving_slit": ("_pd_instr_slit_eq_spec/anal", "_pd_instr_slit_eq_spec/detc"),
    "soller_incident": ("_pd_instr_divg_ax_src/spec",),
    "soller_diffracted": ("_pd_instr_divg_ax_spec/detc", "_pd_instr_divg_ax_spec/anal"),
    "source_length": ("_pd_instr_source_size_ax",),
    "beam_length": ("_pd_instr_beam_size_ax",),
    "temperature": ("_diffrn_ambient_temperature", "_pd_spec_temperature"),
}
CELSIUS_TAG = "_pd_spec_temperature"  # not of the dictionary; NIST states degrees Celsius there
MONOCHROMATOR = ("_pd_instr_monochr_post_spec", "_pd_instr_monochr_pre_spec", "_diffrn_radiation_monochromator")


def is_cif(text: str, suffix: str) -> bool:
    """Whether a text is a CIF."""
    return suffix in (".cif", ".pdcif", ".rtv") or (re.search(r"^data_\S", text, re.MULTILINE) is not None and "_pd_" in text)


def scans_of_cif(text: str, source: str) -> list[Scan]:
    """The measured pattern of each block that has one; calculated ones are left out where there are others.

    Raises:
      InputError: it is no CIF, or no block has a pattern over 2theta.
    """
    try:
        document = gemmi.cif.read_string(text)
    except (ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0] if str(error) else "no reason"
        raise InputError(f"{source}: cannot be read as a CIF ({reason}); correct it or export the pattern as .xy") from None
    blocks = [block for block in document if _intensity_tag(block)]
    if len(blocks) > 1:
        measured = [
            b for b in blocks if not re.search("calc|simul", f"{b.name} {b.find_value('_pd_block_id')}", re.IGNORECASE)
        ]
        blocks = measured or blocks
    if not blocks:
        raise InputError(f"{source}: is a CIF without a measured pattern (_pd_meas_... or _pd_proc_...); give one that has it")
    return [_scan(document, block, source) for block in blocks]


def _intensity_tag(block: gemmi.cif.Block) -> str:
    """The preferred intensity of a block that lists some, or ''."""
    for tag in INTENSITIES:
        column = block.find_loop(tag)
        if len(column) > 1 and any(v not in ("?", ".") for v in column):
            return tag
    return ""


def _scan(document: gemmi.cif.Document, block: gemmi.cif.Block, source: str) -> Scan:
    tag = _intensity_tag(block)
    intensity, sigma = _values(list(block.find_loop(tag)), source)
    notes: list[str] = []
    if not np.any(sigma > 0):
        sigma = None
    weight = list(block.find_loop(WEIGHT))
    if len(weight) == len(intensity):
        sigma, doubts = sigma_of_weights(np.nan_to_num(_values(weight, source)[0]), intensity)
        notes += doubts
    elif sigma is None and tag != COUNTS:
        notes.append(f"{tag} has no weights, so it was taken for counts")
    two_theta = _two_theta(block, tag, len(intensity), source)
    if np.any(unknown := np.isnan(intensity)):
        two_theta, intensity = two_theta[~unknown], intensity[~unknown]
        sigma = None if sigma is None else sigma[~unknown]
        notes.append(f"points of unknown intensity ('.' or '?') were left out: {np.count_nonzero(unknown)}")
    radiation, doubts = _radiation(document, block)
    instrument = {}
    for name, tags in INSTRUMENT.items():
        for candidate in tags:
            value = _number(_find(document, block, candidate))
            if value is not None:
                instrument[name] = value + 273.15 if candidate == CELSIUS_TAG else value
                break
    monochromator = " ".join(_find(document, block, t) for t in MONOCHROMATOR).lower()
    if "graphite" in monochromator:
        stated = re.search(r"(\d+\.?\d*) *deg", monochromator)
        if angle := float(stated[1]) if stated else graphite_angle(radiation):
            instrument["monochromator_two_theta"] = angle
    name = _find(document, block, "_pd_phase_name") or _find(document, block, "_chemical_name_systematic")
    return Scan(two_theta, intensity, sigma, radiation=radiation, instrument=instrument, name=" ".join(name.split()),
                notes=(*doubts, *notes))  # fmt: skip


def _two_theta(block: gemmi.cif.Block, tag: str, count: int, source: str) -> np.ndarray:
    for angle in ANGLES:
        column = list(block.find_loop(angle))
        if len(column) == count:
            return _values(column, source)[0]
    # The range that belongs to the intensities comes first.
    for kind in ("meas", "proc") if tag.startswith("_pd_meas") else ("proc", "meas"):
        limits = [_number(block.find_value(f"_pd_{kind}_2theta_range_{part}") or "") for part in ("min", "max", "inc")]
        start, stop, step = limits
        if start is None or stop is None:
            continue
        if step is not None and round((stop - start) / step) + 1 != count:
            raise InputError(
                f"{source}: its range {start:g} to {stop:g} deg in steps of {step:g} has {round((stop - start) / step) + 1}"
                f" points, but it lists {count} intensities; correct the range"
            )
        return np.linspace(start, stop, count)
    raise InputError(f"{source}: lists intensities without 2theta (flight times, or d?); give a pattern over 2theta")


def _radiation(document: gemmi.cif.Document, block: gemmi.cif.Block):
    """Emission lines from the wavelengths, their weights and the radiation's type."""
    lengths = _numbers(document, block, "_diffrn_radiation_wavelength")
    if len(lengths) < 2:
        listed = _numbers(document, block, "_pd_proc_wavelength")
        lengths = listed if len(listed) > 1 or not lengths else lengths
    weights = _numbers(document, block, "_diffrn_radiation_wavelength_wt")
    kind = " ".join(_find_all(document, block, "_diffrn_radiation_type")).replace(" ", "")
    known = re.match(r"(Ag|Mo|Cu|Co|Fe|Cr)?K[\\-]*a", kind, re.IGNORECASE)
    anode = (known[1] or "") if known else ""
    is_alpha1_only = bool(re.search(r"a(lpha)?[~_]*1", kind, re.IGNORECASE)) and not re.search(r"a(lpha)?[~_]*2", kind)
    if len(lengths) > 2 and len(weights) == len(lengths):
        return _many_lines(lengths, weights), ()
    if len(lengths) > 1:
        first, second = sorted(lengths)[:2]
        ratio = weights[lengths.index(second)] / weights[lengths.index(first)] if len(weights) == len(lengths) else None
        return tabulated(first, second, ratio, anode)
    if not lengths:
        return tabulated(None, anode=anode, is_alpha1_only=is_alpha1_only)
    radiation, notes = tabulated(lengths[0], anode=anode, is_alpha1_only=is_alpha1_only)
    if known and not is_alpha1_only and radiation is not None and radiation.name.endswith("Ka1"):
        # Papers quote K-alpha1 where they measured with the doublet; only 'K\a~1~' says that there is one line.
        doublet, _ = tabulated(None, anode=radiation.name[:2])
        return doublet, (
            *replaced(lengths[:1], radiation),
            f"the wavelength {lengths[0]:g} A with 'K-alpha' was taken as the whole doublet",
        )
    return radiation, notes


def _many_lines(lengths: Sequence[float], weights: Sequence[float]) -> Radiation:
    """Three and more emission lines; with their widths where a table holds the same ones."""
    for table in RADIATIONS.values():
        if len(table.wavelength) == len(lengths) and np.allclose(table.wavelength, lengths, rtol=NOTE_TOLERANCE, atol=0):
            return table
    return Radiation(" and ".join(f"{v:.10g}" for v in lengths) + " A", tuple(lengths), tuple(weights))


def _find_all(document: gemmi.cif.Document, block: gemmi.cif.Block, tag: str) -> list[str]:
    """Values of a tag in a block, or in the first other block that has it: NIST keeps the instrument in one of its own."""
    for place in (block, *(b for b in document if b.name != block.name)):
        values = [gemmi.cif.as_string(v) for v in place.find_values(tag)]
        if values := [v for v in values if v.strip(" ?.")]:
            return values
    return []


def _find(document: gemmi.cif.Document, block: gemmi.cif.Block, tag: str) -> str:
    return next(iter(_find_all(document, block, tag)), "")


def _numbers(document: gemmi.cif.Document, block: gemmi.cif.Block, tag: str) -> list[float]:
    values = (_number(v) for v in _find_all(document, block, tag))
    return [v for v in values if v is not None and v > 0]


def _number(text: str) -> float | None:
    value = gemmi.cif.as_number(text) if text else float("nan")
    return None if np.isnan(value) else value


def _values(texts: Sequence[str], source: str) -> tuple[np.ndarray, np.ndarray]:
    """Numbers and the uncertainties in their brackets, 0 where there is none; '.' and '?' are NaN."""
    values, sigmas = np.empty(len(texts)), np.zeros(len(texts))
    for i, text in enumerate(texts):
        bare, bracket, digits = text.partition("(")
        try:
            values[i] = float(bare) if bare not in (".", "?") else np.nan
            if bracket:
                decimals = len(bare.partition(".")[2])
                sigmas[i] = float(digits.rstrip(")")) * 10.0**-decimals
        except ValueError:
            raise InputError(f"{source}: the value {text[:40]!r} in its pattern is no number; correct it") from None
    return values, sigmas
