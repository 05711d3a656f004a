"""An independent powder calculation in plain numpy: P1, every reflection of the sphere, complex sums, no symmetry used.

It shares nothing with the package but the CIF files and, for f' and f'' alone, the numbers the caller passes in. Form factors
are gemmi's table of International Tables C (1992); operators and sites are expanded here with gemmi's reader.
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping

import gemmi
import numpy as np


@dataclasses.dataclass
class P1Cell:
    """All atoms of the unit cell. `beta` is that of exp(-h beta h)."""

    lattice: np.ndarray
    species: list[str]
    frac: np.ndarray
    occupancy: np.ndarray
    biso: np.ndarray
    beta: np.ndarray


def read_p1(path: pathlib.Path) -> P1Cell:
    """Expands a CIF over its listed operators; images of a site within 0.05 A are one atom."""
    block = gemmi.cif.read(str(path)).sole_block()
    cell = gemmi.UnitCell(*(gemmi.cif.as_number(block.find_value(f"_cell_{k}")) for k in CELL_TAGS))
    lattice = np.array(cell.orth.mat.tolist()).T
    ops = [gemmi.Op(row.str(0)) for row in block.find(["_space_group_symop_operation_xyz"])]
    if not ops:
        tags = ("_space_group_name_H-M_alt", "_symmetry_space_group_name_H-M", "_space_group_name_Hall")
        names = [gemmi.cif.as_string(block.find_value(t)) for t in tags if block.find_value(t)]
        ops = list(gemmi.find_spacegroup_by_name(names[0]).operations())
    rotations = np.array([op.rot for op in ops]) / gemmi.Op.DEN
    translations = np.array([op.tran for op in ops]) / gemmi.Op.DEN
    recip = np.linalg.norm(np.linalg.inv(lattice), axis=0)
    names = [
        "type_symbol",
        "fract_x",
        "fract_y",
        "fract_z",
        "occupancy",
        "?B_iso_or_equiv",
        "?U_iso_or_equiv",
        "?adp_type",
        "label",
    ]
    table = block.find("_atom_site_", names)
    tensors = {}
    aniso = ["label", *(f"U_{k}" for k in ("11", "22", "33", "12", "13", "23"))]
    for row in block.find("_atom_site_aniso_", aniso):
        u11, u22, u33, u12, u13, u23 = (gemmi.cif.as_number(row[i]) for i in range(1, 7))
        tensors[row.str(0)] = np.array([[u11, u12, u13], [u12, u22, u23], [u13, u23, u33]])
    species, frac, occupancy, biso, betas = [], [], [], [], []
    for row in table:
        x = np.array([_fraction(gemmi.cif.as_number(row[i])) for i in (1, 2, 3)])
        u = tensors.get(row.str(8))
        b = 0.0
        if u is None and row.has(5):
            b = gemmi.cif.as_number(row[5])
        elif u is None and row.has(6):
            b = 8 * np.pi**2 * gemmi.cif.as_number(row[6])
        beta = np.zeros((3, 3)) if u is None else 2 * np.pi**2 * u * np.outer(recip, recip)
        images: list[np.ndarray] = []
        for r, t in zip(rotations, translations, strict=True):
            image = r @ x + t
            delta = np.array([image - other for other in images]).reshape(-1, 3)
            if np.all(np.linalg.norm((delta - np.round(delta)) @ lattice, axis=1) > 0.05):
                images.append(image)
                betas.append(r @ beta @ r.T)
        occ = gemmi.cif.as_number(row[4])
        n = len(images)
        species += [row.str(0)] * n
        frac += images
        occupancy += [1.0 if np.isnan(occ) else occ] * n
        biso += [b] * n
    return P1Cell(lattice, species, np.array(frac), np.array(occupancy), np.array(biso), np.array(betas))


CELL_TAGS = ("length_a", "length_b", "length_c", "angle_alpha", "angle_beta", "angle_gamma")


def _fraction(value: float) -> float:
    """A third or a sixth that the file writes with three or four digits (crystallographers' 0.333) as the exact fraction."""
    nearest = round(value * 6) / 6
    return nearest if abs(value - nearest) < 5e-4 else value


def f0_it92(species: str, s_squared: np.ndarray) -> np.ndarray:
    """Form factor of an atom or ion from gemmi's coefficients; the neutral atom where the ion is not tabulated."""
    element = species.rstrip("+-").rstrip("0123456789")
    charge = 0
    if species[-1] in "+-":
        charge = int(species[len(element) : -1] or 1) * (1 if species[-1] == "+" else -1)
    gemmi.IT92_set_ignore_charge(False)
    entry = gemmi.IT92_get_exact(gemmi.Element(element), charge) or gemmi.IT92_get_exact(gemmi.Element(element), 0)
    return sum(a * np.exp(-b * s_squared) for a, b in zip(entry.a, entry.b, strict=True)) + entry.c


def structure_factors(cell: P1Cell, hkl: np.ndarray, dispersion: Mapping[str, complex] | None = None) -> np.ndarray:
    """Complex F(h) with f' + i f'' of each species from `dispersion`."""
    s_squared = ((hkl @ np.linalg.inv(cell.lattice).T) ** 2).sum(axis=1) / 4
    total = np.zeros(len(hkl), dtype=complex)
    for i, name in enumerate(cell.species):
        f = f0_it92(name, s_squared) + (0.0 if dispersion is None else dispersion[name])
        damping = np.exp(-cell.biso[i] * s_squared - np.einsum("hi,ij,hj->h", hkl, cell.beta[i], hkl))
        total += cell.occupancy[i] * f * damping * np.exp(2j * np.pi * (hkl @ cell.frac[i]))
    return total


def sphere(lattice: np.ndarray, wavelength: float, low: float, high: float) -> np.ndarray:
    """Every hkl whose Bragg angle 2theta lies between two angles in degrees."""
    low_d, high_d = (2 * np.sin(np.radians(v) / 2) / wavelength for v in (low, high))
    limit = np.ceil(np.linalg.norm(lattice, axis=1) * high_d).astype(int)
    hkl = np.stack(np.meshgrid(*[np.arange(-n, n + 1) for n in limit], indexing="ij"), axis=-1).reshape(-1, 3)
    length = np.linalg.norm(hkl @ np.linalg.inv(lattice).T, axis=1)
    return hkl[(length >= low_d) & (length <= high_d) & (length > 0)]


def two_theta(lattice: np.ndarray, hkl: np.ndarray, wavelength: float) -> np.ndarray:
    """Bragg angles. [deg]"""
    return 2 * np.degrees(np.arcsin(wavelength / 2 * np.linalg.norm(hkl @ np.linalg.inv(lattice).T, axis=1)))


def powder_intensities(
    cell: P1Cell, wavelength: float, low: float, high: float, dispersion: Mapping[str, complex] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Lines of distinct angle and their intensities sum |F|^2 LP/V^2, LP = (1 + cos^2 2t)/(2 sin^2 t cos t)."""
    hkl = sphere(cell.lattice, wavelength, low, high)
    angle = two_theta(cell.lattice, hkl, wavelength)
    theta = np.radians(angle) / 2
    lp = (1 + np.cos(2 * theta) ** 2) / (2 * np.sin(theta) ** 2 * np.cos(theta))
    each = np.abs(structure_factors(cell, hkl, dispersion)) ** 2 * lp / np.linalg.det(cell.lattice) ** 2
    return merge_lines(angle, each)


def merge_lines(angle: np.ndarray, intensity: np.ndarray, closer: float = 1e-6) -> tuple[np.ndarray, np.ndarray]:
    """Adds up intensities whose angles differ by less than `closer` degrees."""
    order = np.argsort(angle)
    angle, intensity = angle[order], intensity[order]
    starts = np.flatnonzero(np.concatenate([[True], np.diff(angle) > closer]))
    return angle[starts], np.add.reduceat(intensity, starts)
