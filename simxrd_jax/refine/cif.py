"""Host zone. A refinement as CIF: a file of each phase, and one pdCIF of everything.

Data names are those of the core dictionary 2.4 and the powder dictionary 1.0 (International Tables for Crystallography G,
ch. 4.1 and 4.3), which programs read; the text is ASCII as CIF 1.1 demands. Standard uncertainties follow the rule of 19 and
are scaled by GOF. Values are rounded to them, so that a structure that is read back differs by a fraction of an uncertainty;
result.json holds all digits.
"""

from __future__ import annotations

import dataclasses
import datetime
import math
import re
import textwrap
import unicodedata
from collections.abc import Sequence

import gemmi
import numpy as np
from gemmi import cif

from simxrd_jax import __version__
from simxrd_jax.crystal.constraints import CELL_NAMES
from simxrd_jax.crystal.structure import CrystalStructure
from simxrd_jax.crystal.symmetry import TRANSLATION_DENOMINATOR
from simxrd_jax.io.xy import PeakTable
from simxrd_jax.refine.derived import RefinedPhase, refined_radiation
from simxrd_jax.refine.figure import runs
from simxrd_jax.refine.fit import Refinement
from simxrd_jax.refine.numbers import with_uncertainty

# Decimals of coordinates and occupancies at least: rounding must leave (x, 2x) on its special position, and the sum of a mixed
# site 1.
LEAST_DECIMALS = 3
DIGITS = 8  # of values without uncertainty: 1/3 is 0.33333333
WIDTH = 78  # of a line of a text
SOFTWARE = f"simxrd_jax {__version__}"
PROFILES = {
    "voigt": "Voigt, Gaussian and Lorentzian parts folded",
    "tch": "pseudo-Voigt of Thompson, Cox & Hastings (1987), J. Appl. Cryst. 20, 79",
}


@dataclasses.dataclass(frozen=True)
class Origin:
    """Where a file comes from.

    Attributes:
      title: of the pattern, as its file's name.
      time: when it was refined, in UTC.
    """

    title: str
    time: datetime.datetime


def phase_cif(fit: Refinement, phase: RefinedPhase, origin: Origin) -> str:
    """The CIF of one phase: cell, symmetry, sites, and how well the pattern was fitted.

    Args:
      fit: finished.
      phase: of it, with atoms.
      origin: see `Origin`.

    Returns:
      Text of a file with one block.
    """
    document = cif.Document()
    block = document.add_new_block(code(phase.name))
    _add_head(block, origin)
    _add_phase(block, fit, phase)
    _add_radiation(block, fit)
    _add_agreement(block, fit)
    return _text(document)


def refinement_cif(fit: Refinement, phases: Sequence[RefinedPhase], tables: Sequence[PeakTable], origin: Origin) -> str:
    """The pdCIF of a refinement: a block of the whole, one of each phase, and one of the pattern.

    Args:
      fit: finished.
      phases: of it.
      tables: their reflections.
      origin: see `Origin`.
    """
    document = cif.Document()
    stem = code(origin.title)
    pattern = f"{stem}_pattern"
    names = unique([code(f"{stem}_phase_{phase.name}") for phase in phases], (f"{stem}_refinement", pattern))
    stamp = origin.time.strftime("%Y-%m-%dT%H:%M")
    identifier = {name: f"{stamp}|{name}|simxrd_jax|unknown" for name in (f"{stem}_refinement", pattern, *names)}

    whole = document.add_new_block(f"{stem}_refinement")
    _add(whole, "_pd_block_id", identifier[f"{stem}_refinement"])
    _add_head(whole, origin)
    _add(whole, "_pd_block_diffractogram_id", identifier[pattern])
    _add_agreement(whole, fit)
    _add_phase_list(whole, fit, phases, [identifier[name] for name in names])
    for name, phase in zip(names, phases, strict=True):
        block = document.add_new_block(name)
        _add(block, "_pd_block_id", identifier[name])
        _add(block, "_pd_block_diffractogram_id", identifier[pattern])
        _add_phase(block, fit, phase)
        texture = f"phases.{phase.name}.march_dollase"
        if texture in fit.model.table.names:
            axis = fit.model.phases[[p.name for p in phases].index(phase.name)].texture_axis
            said = f"March (1932) and Dollase (1986), axis {axis}, r = {_parameter(fit, texture)}"
            _add(block, "_pd_proc_ls_pref_orient_corr", said)
    block = document.add_new_block(pattern)
    _add(block, "_pd_block_id", identifier[pattern])
    _add_radiation(block, fit)
    _add_pattern(block, fit)
    _add_phase_list(block, fit, phases, [identifier[name] for name in names])
    _add_points(block, fit)
    _add_reflections(block, tables)
    return _text(document)


# --- Parts -----------------------------------------------------------------------------------------------------------------


def _add_head(block: cif.Block, origin: Origin) -> None:
    _add(block, "_audit_creation_method", SOFTWARE)
    _add(block, "_audit_creation_date", origin.time.strftime("%Y-%m-%d"))
    _add(block, "_computing_structure_refinement", f"{SOFTWARE} (Rietveld refinement)")


def _add_phase(block: cif.Block, fit: Refinement, phase: RefinedPhase) -> None:
    _add(block, "_pd_phase_name", phase.name)
    if phase.atoms is not None:
        _add(block, "_chemical_formula_sum", phase.formula)
        _add(block, "_chemical_formula_weight", f"{phase.mass:.3f}")
    for i, name in enumerate(CELL_NAMES):
        kind = "length" if i < 3 else "angle"
        _add_number(block, f"_cell_{kind}_{name}", phase.cell.value[i], phase.cell.sigma[i])
    _add_number(block, "_cell_volume", float(phase.volume.value), float(phase.volume.sigma))
    if phase.atoms is not None:
        _add(block, "_cell_formula_units_Z", str(phase.units))
        _add_number(block, "_exptl_crystal_density_diffrn", float(phase.density.value), float(phase.density.sigma), digits=5)
    r_bragg = fit.r_bragg.get(phase.name, math.nan)
    if math.isfinite(r_bragg):
        _add(block, "_refine_ls_R_I_factor", f"{r_bragg:.4f}")
    _add_symmetry(block, phase.structure)
    if phase.atoms is not None:
        _add_atoms(block, phase)


def _add_symmetry(block: cif.Block, structure: CrystalStructure) -> None:
    operators = [_operator(r, t) for r, t in zip(structure.rotations, structure.translations, strict=True)]
    group = gemmi.find_spacegroup_by_ops(gemmi.GroupOps(operators))
    _add(block, "_space_group_crystal_system", structure.crystal_system)
    _add(block, "_space_group_IT_number", str(structure.space_group_number))
    _add(block, "_space_group_name_H-M_alt", structure.space_group_symbol)
    if group is not None:  # gemmi's table holds 564 settings; the operators say all
        _add(block, "_space_group_name_Hall", group.hall)
    _add_loop(
        block,
        ["_space_group_symop_id", "_space_group_symop_operation_xyz"],
        [[str(i + 1) for i in range(len(operators))], [cif.quote(op.triplet()) for op in operators]],
    )


def _operator(rotation: np.ndarray, translation: np.ndarray) -> gemmi.Op:
    operator = gemmi.Op()
    operator.rot = (rotation * gemmi.Op.DEN).astype(int).tolist()
    operator.tran = np.round(translation * TRANSLATION_DENOMINATOR).astype(int).tolist()
    return operator


def _add_atoms(block: cif.Block, phase: RefinedPhase) -> None:
    atoms = phase.atoms
    assert atoms is not None
    labels = [cif.quote(plain(label)) for label in atoms.labels]
    columns = {
        "label": labels,
        "type_symbol": [cif.quote(species) for species in phase.structure.species],
        **{f"fract_{axis}": _numbers(atoms.frac.value[:, i], atoms.frac.sigma[:, i], True) for i, axis in enumerate("xyz")},
        "occupancy": _numbers(atoms.occupancy.value, atoms.occupancy.sigma, True),
        "U_iso_or_equiv": _numbers(atoms.u.value, atoms.u.sigma),
        "adp_type": ["Uani" if is_aniso else "Uiso" for is_aniso in atoms.is_aniso],
        "site_symmetry_multiplicity": [str(m) for m in atoms.multiplicity],
    }
    _add_loop(block, [f"_atom_site_{name}" for name in columns], list(columns.values()))
    if atoms.is_aniso.any():
        some = np.flatnonzero(atoms.is_aniso)
        tensors = {
            f"U_{pair}": _numbers(atoms.u_aniso.value[some, k], atoms.u_aniso.sigma[some, k])
            for k, pair in enumerate(("11", "22", "33", "12", "13", "23"))
        }
        tags = [f"_atom_site_aniso_{name}" for name in ("label", *tensors)]
        _add_loop(block, tags, [[labels[i] for i in some], *tensors.values()])


def _add_radiation(block: cif.Block, fit: Refinement) -> None:
    radiation = refined_radiation(fit)
    _add(block, "_diffrn_radiation_probe", "x-ray")
    if match := re.match(r"([A-Z][a-z]?)Ka([12]?)", radiation.name):
        _add(block, "_diffrn_radiation_type", rf"{match[1]} K\a" + (f"~{match[2]}~" if match[2] else ""))
    count = len(radiation.wavelength)
    lines = [_parameter(fit, f"instrument.wavelength.{i}") for i in range(count)]
    if count == 1:
        _add(block, "_diffrn_radiation_wavelength", lines[0])
        return
    tags = [f"_diffrn_radiation_wavelength{tail}" for tail in ("_id", "", "_wt")]
    _add_loop(block, tags, [[str(i + 1) for i in range(count)], lines, [f"{w:.6g}" for w in radiation.weight]])


def _add_agreement(block: cif.Block, fit: Refinement) -> None:
    found = fit.agreement
    _add(block, "_pd_proc_ls_prof_R_factor", f"{found.rp:.5f}")
    _add(block, "_pd_proc_ls_prof_wR_factor", f"{found.rwp:.5f}")
    _add(block, "_pd_proc_ls_prof_wR_expected", f"{found.rexp:.5f}")
    _add(block, "_refine_ls_structure_factor_coef", "Inet")
    _add(block, "_refine_ls_matrix_type", "full")
    _add(block, "_refine_ls_weighting_scheme", "sigma")
    _add(block, "_refine_ls_number_parameters", str(found.n_parameters))
    _add(block, "_refine_ls_number_constraints", str(len(fit.model.ties)))
    _add(block, "_refine_ls_number_restraints", str(len(fit.model.restraints)))
    _add(block, "_refine_ls_goodness_of_fit_all", f"{found.gof:.4f}")
    _add(
        block,
        "_refine_special_details",
        "Standard uncertainties are scaled by the goodness of fit. For serial correlation (Berar & Lelann 1991) they are to "
        f"be multiplied by {found.serial_factor:.2f}. Without the background Rwp is {found.rwp_without_background:.5f} and Rp "
        f"{found.rp_without_background:.5f}; the Durbin-Watson statistic is {found.durbin_watson:.3f}.",
        *fit.warnings,
    )


def _add_pattern(block: cif.Block, fit: Refinement) -> None:
    x, names = fit.two_theta, fit.model.table.names
    _add(block, "_pd_meas_number_of_points", str(len(x)))
    _add(block, "_pd_meas_2theta_range_min", f"{x[0]:.10g}")
    _add(block, "_pd_meas_2theta_range_max", f"{x[-1]:.10g}")
    if fit.model.arrays.interpolation is None:
        _add(block, "_pd_meas_2theta_range_inc", f"{(x[-1] - x[0]) / (len(x) - 1):.10g}")
    if fit["instrument.displacement"][0] != 0:  # its radius acts on nothing else
        _add(block, "_pd_instr_dist_spec/detc", _parameter(fit, "instrument.goniometer_radius"))
    if fit["instrument.monochromator_two_theta"][0] != 0:
        _add(block, "_pd_instr_2theta_monochr_post", _parameter(fit, "instrument.monochromator_two_theta"))
    excluded = [f"{x[a]:.10g} to {x[b]:.10g} deg 2theta" for a, b in runs(fit.weight <= 0)]
    _add(block, "_pd_proc_info_excluded_regions", *(excluded or ["none"]))
    terms = [name for name in names if name.startswith("background.")]
    _add(
        block,
        "_pd_proc_ls_background_function",
        "Chebyshev polynomials of the first kind over the range of 2theta mapped to [-1, 1]"
        + (", and Gaussian humps" if any("hump" in name for name in terms) else "")
        + "; coefficients:",
        *(f"{name.removeprefix('background.')} = {_parameter(fit, name)}" for name in terms),
    )
    widths = [p for p in fit.model.table.parameters if p.group == "width"]
    _add(
        block,
        "_pd_proc_ls_profile_function",
        f"{PROFILES.get(fit.model.settings.profile, fit.model.settings.profile)}. The Gaussian FWHM^2 of the instrument is "
        "u tan^2 + v tan + w, its Lorentzian FWHM lorentz_inverse_cos/cos + lorentz_tan tan. Size: FWHM = "
        "0.94 lambda/(D cos); microstrain e: FWHM = 4 e tan. "
        "Axial divergence as Finger, Cox & Jephcoat (1994), J. Appl. Cryst. 27, 892, where it is listed.",
        *(f"{p.name} = {_parameter(fit, p.name)} {p.unit}".rstrip() for p in widths),
    )
    moved = [p for p in fit.model.table.parameters if p.group == "position"]
    _add(block, "_pd_proc_ls_special_details", *(f"{p.name} = {_parameter(fit, p.name)} {p.unit}".rstrip() for p in moved))
    _add(block, "_pd_proc_ls_peak_cutoff", "none")


def _add_phase_list(block: cif.Block, fit: Refinement, phases: Sequence[RefinedPhase], identifiers: Sequence[str]) -> None:
    tags = [f"_pd_phase_{name}" for name in ("id", "block_id", "mass_%")]
    shares = [fit.weight_fractions[phase.name] for phase in phases]
    columns = [
        [str(i + 1) for i in range(len(phases))],
        [cif.quote(identifier) for identifier in identifiers],
        [with_uncertainty(100 * share, 100 * sigma) for share, sigma in shares],
    ]
    _add_loop(block, tags, columns)


def _add_points(block: cif.Block, fit: Refinement) -> None:
    columns = {
        "_pd_meas_2theta_scan": (fit.two_theta, 10),
        "_pd_meas_intensity_total": (fit.observed, 10),
        "_pd_calc_intensity_total": (fit.calculated, 6),
        "_pd_proc_intensity_bkg_calc": (fit.background, 6),
        "_pd_proc_ls_weight": (fit.weight, 7),
    }
    _add_loop(block, list(columns), [[f"{v:.{digits}g}" for v in values.tolist()] for values, digits in columns.values()])


def _add_reflections(block: cif.Block, tables: Sequence[PeakTable]) -> None:
    """Reflections of all phases, in the phases' order and then in rising angle."""

    def column(field: str, form: str, axis: int | None = None) -> list[str]:
        arrays = [getattr(table, field) for table in tables]
        return [format(v, form) for a in arrays for v in (a if axis is None else a[:, axis]).tolist()]

    columns = {
        **{f"_refln_index_{axis}": column("hkl", "d", i) for i, axis in enumerate("hkl")},
        "_pd_refln_phase_id": [str(i + 1) for i, table in enumerate(tables) for _ in table.hkl],
        "_refln_d_spacing": column("d_spacing", ".6f"),
        "_refln_symmetry_multiplicity": column("multiplicity", "d"),
        "_refln_F_squared_calc": column("f_squared", ".6g"),
    }
    if columns["_refln_index_h"]:
        _add_loop(block, list(columns), list(columns.values()))


# --- Text ------------------------------------------------------------------------------------------------------------------


def code(text: str) -> str:
    """A name for a data block, of letters, digits, '-' and '_'."""
    return re.sub(r"[^A-Za-z0-9_-]+", "_", plain(text)).strip("_")[:60] or "unnamed"


def unique(names: Sequence[str], taken: Sequence[str] = ()) -> list[str]:
    """The names, those that occur before (in any case) or are taken with a number."""
    found: list[str] = []
    seen = {name.lower() for name in taken}
    for name in names:
        count, tried = 1, name
        while tried.lower() in seen:
            count += 1
            tried = f"{name}_{count}"
        seen.add(tried.lower())
        found.append(tried)
    return found


def plain(text: str) -> str:
    """A text in printable ASCII: accents dropped, what has no letter a question mark."""
    bare = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
    return "".join(c if " " <= c <= "~" else "?" for c in " ".join(bare.split()))


def _add(block: cif.Block, tag: str, *lines: str) -> None:
    """A value; several lines are a text of so many paragraphs."""
    kept = [plain(line) for line in lines]
    if len(kept) == 1 and len(kept[0]) + len(tag) < WIDTH:
        block.set_pair(tag, cif.quote(kept[0]))
        return
    # Indented, because a line that begins with a semicolon would end the text.
    wrapped = [part for line in kept for part in textwrap.wrap(line, WIDTH, initial_indent=" ", subsequent_indent=" ")]
    block.set_pair(tag, "\n".join([";", *wrapped, ";"]))


def _add_number(block: cif.Block, tag: str, value: float, sigma: float, digits: int = DIGITS) -> None:
    block.set_pair(tag, with_uncertainty(float(value), float(sigma), digits=digits))


def _add_loop(block: cif.Block, tags: list[str], columns: list[list[str]]) -> None:
    block.init_loop("", tags).set_all_values(columns)


def _numbers(values: np.ndarray, sigmas: np.ndarray, is_position: bool = False) -> list[str]:
    least = LEAST_DECIMALS if is_position else 0
    pairs = zip(values.tolist(), sigmas.tolist(), strict=True)
    return [with_uncertainty(v, s, least_decimals=least, digits=DIGITS) for v, s in pairs]


def _parameter(fit: Refinement, name: str) -> str:
    value, sigma = fit[name]
    return with_uncertainty(value, sigma, digits=DIGITS)


def _text(document: cif.Document) -> str:
    options = cif.WriteOptions()
    options.align_pairs = 34
    options.align_loops = 12
    return document.as_string(options)
