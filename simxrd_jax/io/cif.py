"""Host zone. Reads a crystal structure from a CIF.

The operators come from the file's own list, the one statement of symmetry without ambiguity of setting and origin; only
where it is missing are they looked up by name, and found with spglib where there is no name either. Each choice taken is
a note of the structure.
"""

from __future__ import annotations

import dataclasses
import math
import os
import pathlib
import re
from collections.abc import Callable, Sequence

import gemmi
import numpy as np
from gemmi import cif

from simxrd_jax.crystal import structure as structures
from simxrd_jax.crystal import symmetry
from simxrd_jax.crystal.structure import CrystalStructure
from simxrd_jax.errors import InputError

DEFAULT_SYMPREC = 0.01  # of spglib, where the file states no symmetry. [A]
MIN_VOLUME_FRACTION = 0.01  # V / (a b c) below which the angles are a mistake; real cells stay above 0.3
MAX_CELL_EDGE = 2000.0  # longer is a lost decimal point or another unit. [A]
B_PER_U = 8 * math.pi**2


def read_cif(path: str | os.PathLike[str], symprec: float | None = None, block: str | None = None) -> CrystalStructure:
    """Reads one structure.

    Args:
      path: the file.
      symprec: None keeps the file's operators; a distance makes spglib find the symmetry of the expanded cell anew and
        returns the standard setting. [A]
      block: name of the data block; None takes the first one that has a cell and atoms.

    Returns:
      The structure, its positions snapped onto their special positions.

    Raises:
      InputError: the file cannot be read or describes no physical structure; the message names the file and the reason.
    """
    source = os.fspath(path)
    if symprec is not None and not (math.isfinite(symprec) and symprec > 0):
        raise InputError(f"symprec {symprec} must be a positive distance in Angstrom; take for example 0.01")
    document = _parse(source)
    chosen, notes = _choose_block(document, source, block)
    result = _read_block(chosen, source, notes)
    return result if symprec is None else structures.with_found_symmetry(result, symprec)


def _parse(source: str) -> cif.Document:
    path = pathlib.Path(source)
    if not path.exists():
        raise InputError(f"{source}: no such file; check the path")
    if path.is_dir():
        raise InputError(f"{source}: is a folder, not a CIF; name a file in it")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{source}: cannot be read ({error.strerror}); check its permissions") from None
    if not data.strip():
        raise InputError(f"{source}: the file is empty; a CIF with a cell and atoms is needed")
    if b"\0" in data:
        raise InputError(f"{source}: is a binary file, not a CIF; give a text file")
    # gemmi wants UTF-8; old files hold Latin-1 in names and titles, which are not read.
    text = data.decode("utf-8-sig", errors="replace")
    try:
        return cif.read_string(text)
    except (ValueError, RuntimeError) as error:
        reason = re.sub(r"string:(?=\d)", "line ", re.sub(r"\s+", " ", str(error))).replace("string:", "").strip(" .")
        raise InputError(f"{source}: is not a valid CIF ({reason}); correct that place") from None


def _choose_block(document: cif.Document, source: str, name: str | None) -> tuple[cif.Block, list[str]]:
    blocks = list(document)
    if name is not None:
        for block in blocks:
            if block.name.lower() == name.lower():
                return block, []
        listed = ", ".join(b.name for b in blocks) or "none"
        raise InputError(f"{source}: has no data block {name!r}; choose one of {listed}")
    full = [b for b in blocks if _value(b, "_cell_length_a") is not None and len(_column(b, "_atom_site_fract_x"))]
    if full:
        notes = []
        if len(full) > 1:
            notes.append(f"Block {full[0].name!r} was read; the file also holds {', '.join(repr(b.name) for b in full[1:])}.")
        return full[0], notes
    if not blocks:
        raise InputError(f"{source}: holds no data block; a CIF starts one with data_NAME")
    # The block that comes nearest makes the clearest message.
    with_cell = [b for b in blocks if _value(b, "_cell_length_a") is not None]
    return (with_cell or blocks)[0], []


def _read_block(block: cif.Block, source: str, notes: list[str]) -> CrystalStructure:
    lattice = _lattice(block, source)
    sites = _sites(block, source, notes)
    biso, u_aniso, has_displacement = _displacements(block, source, sites, lattice, notes)

    def with_operators(rotations: np.ndarray, translations: np.ndarray, number: int, symbol: str) -> CrystalStructure:
        return CrystalStructure(
            name=_name(block, source),
            source=source,
            lattice=lattice,
            site_labels=sites.labels,
            species=sites.species,
            frac=sites.frac,
            occupancy=sites.occupancy,
            biso=biso,
            u_aniso=u_aniso,
            has_displacement=has_displacement,
            rotations=rotations,
            translations=translations,
            space_group_number=number,
            space_group_symbol=symbol,
            notes=tuple(notes),
        )

    listed = _listed_operators(block, source)
    if listed is not None:
        group = symmetry.group_from_operators(*listed, lattice)
        if group is None:
            raise InputError(
                f"{source}: the {len(listed[0])} symmetry operators are not those of a space group; correct the list"
            )
        _compare_number(block, group[0], notes)
        return structures.finish(with_operators(*listed, *group))
    named = _named_groups(block, lattice, source)
    if named:
        return _from_names(block, named, with_operators, notes)
    notes.append(f"The file states no symmetry: spglib found it at symprec {DEFAULT_SYMPREC} A.")
    identity = with_operators(np.eye(3, dtype=np.int64)[None], np.zeros((1, 3)), 1, "P 1")
    return structures.with_found_symmetry(structures.finish(identity), DEFAULT_SYMPREC)


def _name(block: cif.Block, source: str) -> str:
    for tag in ("_chemical_name_mineral", "_chemical_name_common", "_pd_phase_name", "_chemical_formula_sum"):
        value = _value(block, tag)
        if value:
            return " ".join(value.split())
    return pathlib.Path(source).stem


def _lattice(block: cif.Block, source: str) -> np.ndarray:
    tags = [f"_cell_length_{v}" for v in "abc"] + [f"_cell_angle_{v}" for v in ("alpha", "beta", "gamma")]
    if _value(block, tags[0]) is None:
        raise InputError(f"{source}: has no unit cell (_cell_length_a); a crystal structure is needed")
    values = []
    for tag in tags:
        text = _value(block, tag)
        value = math.nan if text is None else cif.as_number(text)
        if text is None and tag.startswith("_cell_angle"):
            value = 90.0  # the CIF core dictionary's default
        if not math.isfinite(value):
            raise InputError(f"{source}: {tag} is {'missing' if text is None else repr(text)}; give a number")
        values.append(value)
    a, b, c, alpha, beta, gamma = values
    shown = " ".join(f"{v:g}" for v in values)
    if min(a, b, c) <= 0 or max(a, b, c) > MAX_CELL_EDGE:
        raise InputError(f"{source}: the cell {shown} has an edge that is not within 0 to {MAX_CELL_EDGE:g} A; correct it")
    cosine = [math.cos(math.radians(v)) for v in (alpha, beta, gamma)]
    squared = 1 - sum(v * v for v in cosine) + 2 * math.prod(cosine)
    if not all(0 < v < 180 for v in (alpha, beta, gamma)) or squared < MIN_VOLUME_FRACTION**2:
        raise InputError(f"{source}: the cell {shown} has impossible angles; correct them")
    return symmetry.lattice_from_parameters(a, b, c, alpha, beta, gamma)


@dataclasses.dataclass(frozen=True, eq=False)
class _Sites:
    labels: tuple[str, ...]
    species: tuple[str, ...]
    frac: np.ndarray
    occupancy: np.ndarray
    rows: tuple[int, ...]  # of the file's atom loop


def _sites(block: cif.Block, source: str, notes: list[str]) -> _Sites:
    xyz = [_column(block, f"_atom_site_fract_{v}") for v in "xyz"]
    n = len(xyz[0])
    if n == 0 or any(len(v) != n for v in xyz):
        what = "no atoms with fractional coordinates (_atom_site_fract_x, y, z)"
        raise InputError(f"{source}: has {what}; a crystal structure is needed")
    labels = _column(block, "_atom_site_label") or [f"atom{i + 1}" for i in range(n)]
    symbols = _column(block, "_atom_site_type_symbol")
    occupancies = _column(block, "_atom_site_occupancy")
    flags = _column(block, "_atom_site_calc_flag")
    elements = set(re.findall(r"[A-Z][a-z]?", _value(block, "_chemical_formula_sum") or ""))
    kept: list[tuple[int, str, str, list[float], float]] = []
    skipped = []
    for row in range(n):
        label = labels[row]
        if flags and flags[row].lower() == "dum":
            skipped.append(label)
            continue
        species = _species(symbols[row] if symbols else "", label, elements, source)
        position = [cif.as_number(v[row]) for v in xyz]
        if not all(math.isfinite(v) for v in position):
            if structures.element_of(species) in ("H", "D"):
                skipped.append(label)
                continue
            texts = " ".join(v[row] for v in xyz)
            raise InputError(f"{source}: atom {label} has no coordinates ({texts}); give three numbers or remove it")
        text = occupancies[row] if occupancies else "1"
        if text == "?":
            notes.append(f"The occupancy of {label} is not stated: 1 was taken.")
        occupancy = 1.0 if text in (".", "?") else cif.as_number(text)
        if not math.isfinite(occupancy) or not 0 <= occupancy <= 1 + structures.OCCUPANCY_TOLERANCE:
            raise InputError(f"{source}: atom {label} has occupancy {text}; give a number from 0 to 1")
        if occupancy > 0:
            kept.append((row, label, species, position, min(occupancy, 1.0)))
    if skipped:
        notes.append(f"Atoms without a position were left out: {', '.join(skipped)}.")
    if not kept:
        raise InputError(f"{source}: has no atom with coordinates and an occupancy above 0; a crystal structure is needed")
    return _Sites(
        labels=tuple(k[1] for k in kept),
        species=tuple(k[2] for k in kept),
        frac=np.array([k[3] for k in kept], dtype=np.float64),
        occupancy=np.array([k[4] for k in kept], dtype=np.float64),
        rows=tuple(k[0] for k in kept),
    )


# U = 1 A^2; a greater one is usually a B in the column of U. [A^2]
GREATEST_B = 79.0
ION = re.compile(r"([A-Za-z]{1,2})(?:(\d*)([+-])|([+-])(\d+))?$")


def _species(symbol: str, label: str, elements: set[str], source: str) -> str:
    """Species of an atom: from its type symbol, else from the letters of its label."""
    if symbol not in ("", ".", "?"):
        match = ION.match(symbol)
        if match:
            element = _element(match[1])
            if element is not None:
                sign = match[3] or match[4]
                size = int((match[2] or match[5]) or "1") if sign else 0
                return structures.species_name(element, -size if sign == "-" else size)
        # A type such as "Fe1" is an element with a number; one such as "Cval" begins with an element that the formula lists.
        # Anything looser would take "Wat" for tungsten.
        letters = re.match(r"[A-Za-z]*", symbol)[0]  # type: ignore[index]
        element = _element(letters)
        if element is None and len(letters) > 2:
            begins = _element_from_letters(letters.removesuffix("val"), elements)
            element = begins if begins in elements or letters.endswith("val") else None
        if element is None:
            raise InputError(f"{source}: atom {label} is of an unknown element {symbol!r}; correct its type symbol")
        return element
    letters = re.match(r"[A-Za-z]*", label)
    element = _element_from_letters(letters[0] if letters else "", elements)
    if element is None:
        raise InputError(f"{source}: the element of atom {label} is unknown; add _atom_site_type_symbol")
    charge = re.match(r"[A-Za-z]{1,2}(\d+)([+-])$", label)
    if charge and charge[0].startswith(label[: len(element)]):
        return structures.species_name(element, int(charge[1]) * (1 if charge[2] == "+" else -1))
    return element


def _element(letters: str) -> str | None:
    entry = gemmi.Element(letters.capitalize())
    return None if entry.atomic_number == 0 else entry.name


def _element_from_letters(letters: str, elements: set[str]) -> str | None:
    """Element that a label's letters begin with; the file's formula decides between "CA" carbon and calcium."""
    options = [e for e in (_element(letters[:2]) if len(letters) > 1 else None, _element(letters[:1])) if e is not None]
    listed = [e for e in options if e in elements]
    return (listed or options or [None])[0]


def _displacements(
    block: cif.Block, source: str, sites: _Sites, lattice: np.ndarray, notes: list[str]
) -> tuple[np.ndarray, np.ndarray | None, bool]:
    """B of each site, tensors of those that have one, and whether the file states any."""
    n = len(sites.rows)
    biso = np.full(n, np.nan)
    for tag, factor in (("_atom_site_B_iso_or_equiv", 1.0), ("_atom_site_U_iso_or_equiv", B_PER_U)):
        column = _column(block, tag)
        if column:
            values = np.array([cif.as_number(column[row]) for row in sites.rows]) * factor
            biso = np.where(np.isnan(values), biso, values)
    tensors = _tensors(block, lattice)
    is_aniso = np.array([label in tensors for label in sites.labels])
    stated = is_aniso | ~np.isnan(biso)
    u_aniso = None
    if is_aniso.any():
        u_aniso = np.array([tensors.get(label, np.zeros((3, 3))) for label in sites.labels])
        weak = [sites.labels[i] for i in np.flatnonzero(is_aniso) if np.linalg.eigvalsh(u_aniso[i])[0] < -1e-6]
        if weak:
            notes.append(f"The displacement tensor is not positive for {', '.join(weak)}.")
        biso = np.where(is_aniso, 0.0, biso)
    if stated.any() and not stated.all():
        missing = [sites.labels[i] for i in np.flatnonzero(~stated)]
        notes.append(f"No displacement parameter, so B = 0, for {', '.join(missing)}.")
    biso = np.where(np.isnan(biso), 0.0, biso)
    negative = [sites.labels[i] for i in np.flatnonzero(biso < 0)]
    if negative:
        notes.append(f"The displacement parameter B is negative for {', '.join(negative)}.")
    great = [label for label, b in zip(sites.labels, biso, strict=True) if b > GREATEST_B]
    if great:
        notes.append(f"B is above {GREATEST_B:.0f} A^2 for {', '.join(great)}: is it given as U?")
    return biso, u_aniso, bool(stated.any())


TENSOR_INDICES = ((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2))


def _tensors(block: cif.Block, lattice: np.ndarray) -> dict[str, np.ndarray]:
    """U tensors by site label; B_ij is 8 pi^2 U_ij, beta_ij is 2 pi^2 a*_i a*_j U_ij. Incomplete rows are left out."""
    labels = _column(block, "_atom_site_aniso_label")
    reciprocal = np.linalg.norm(np.linalg.inv(lattice), axis=0)
    scales = {"U": np.ones((3, 3)), "B": np.full((3, 3), 1 / B_PER_U)}
    scales["beta"] = 1 / (2 * math.pi**2 * np.outer(reciprocal, reciprocal))
    tensors = {}
    for kind, scale in scales.items():
        columns = [_column(block, f"_atom_site_aniso_{kind}_{i + 1}{j + 1}") for i, j in TENSOR_INDICES]
        if any(len(c) != len(labels) for c in columns):
            continue
        for row, label in enumerate(labels):
            values = [cif.as_number(c[row]) for c in columns]
            if label in tensors or not all(math.isfinite(v) for v in values):
                continue
            u = np.zeros((3, 3))
            for (i, j), value in zip(TENSOR_INDICES, values, strict=True):
                u[i, j] = u[j, i] = value * scale[i, j]
            tensors[label] = u
    return tensors


def _listed_operators(block: cif.Block, source: str) -> tuple[np.ndarray, np.ndarray] | None:
    """The file's operator list, identity first, or None."""
    for tag in ("_space_group_symop_operation_xyz", "_symmetry_equiv_pos_as_xyz"):
        triplets = [t for t in _column(block, tag) if t not in (".", "?", "")]
        if triplets:
            break
    else:
        return None
    ops = []
    for triplet in triplets:
        try:
            op = gemmi.Op(re.sub(r"^\s*\d+\s+", "", triplet)).wrap()  # some programs number the list
        except (ValueError, RuntimeError):
            raise InputError(
                f"{source}: the symmetry operator {triplet!r} cannot be read; write it like 'x,y+1/2,-z'"
            ) from None
        if abs(op.det_rot()) != gemmi.Op.DEN**3:
            raise InputError(f"{source}: the symmetry operator {triplet!r} is no symmetry operation; correct it")
        if op not in ops:
            ops.append(op)
    identity = gemmi.Op()
    if identity not in ops:
        raise InputError(f"{source}: the symmetry operators lack the identity x,y,z; complete the list")
    ops.sort(key=lambda op: op != identity)
    rotations, translations = symmetry.operator_arrays(ops)
    if not _is_closed(rotations, translations):
        raise InputError(f"{source}: the {len(ops)} symmetry operators do not form a group; complete the list")
    return rotations, translations


def _is_closed(rotations: np.ndarray, translations: np.ndarray) -> bool:
    """Whether the product of any two operators is in the list, modulo lattice translations."""
    products = np.einsum("aij,bjk->abik", rotations, rotations)
    shifts = np.einsum("aij,bj->abi", rotations, translations) + translations[:, None, :]

    def codes(r: np.ndarray, t: np.ndarray) -> np.ndarray:
        steps = np.round(t * gemmi.Op.DEN).astype(np.int64) % gemmi.Op.DEN
        digits = np.concatenate([r.reshape(*r.shape[:-2], 9) + 2, steps], axis=-1)
        return digits @ (32 ** np.arange(12, dtype=np.int64))

    return bool(np.isin(codes(products, shifts), codes(rotations, translations)).all())


def _named_groups(block: cif.Block, lattice: np.ndarray, source: str) -> list[gemmi.SpaceGroup]:
    """Candidate groups by Hall symbol, Hermann-Mauguin symbol or number; two where the origin is left open.

    Raises:
      InputError: the file states a group that does not exist; taking it for P 1 would lose most of the atoms.
    """
    stated = []
    for tag in ("_space_group_name_Hall", "_symmetry_space_group_name_Hall"):
        hall = _value(block, tag)
        if hall:
            stated.append(hall)
            try:
                group = gemmi.find_spacegroup_by_ops(gemmi.symops_from_hall(hall))
            except (ValueError, RuntimeError):
                group = None
            if group is not None:
                return [group]
    angles = symmetry.cell_parameters(lattice)[3:]
    found = None
    for tag in ("_space_group_name_H-M_alt", "_symmetry_space_group_name_H-M", "_space_group_name_H-M_full"):
        name = _value(block, tag)
        if name and found is None:
            stated.append(name)
            plain = re.sub(r"\((\d)\)", r"\1", name.replace("_", "")).strip()  # P2_1/c and P2(1)/c are P21/c
            found = gemmi.find_spacegroup_by_name(plain, angles[0], angles[2])
            if found is not None and ":" in name:
                return [found]
    if found is None:
        for tag in ("_space_group_IT_number", "_symmetry_Int_Tables_number"):
            text = _value(block, tag)
            if text is None:
                continue
            stated.append(text)
            number = cif.as_number(text)
            if number in range(1, 231):
                found = gemmi.find_spacegroup_by_number(int(number))
                if found is not None:
                    found = gemmi.find_spacegroup_by_name(found.hm, angles[0], angles[2]) or found
                break
    if found is None and stated:
        raise InputError(f"{source}: the space group {stated[0]!r} is unknown and no operators are listed; add the operators")
    if found is None:
        return []
    if found.ext in ("1", "2"):
        return [g for g in gemmi.spacegroup_table() if g.hm == found.hm and g.ext in ("1", "2")]
    return [found]


def _from_names(
    block: cif.Block,
    groups: Sequence[gemmi.SpaceGroup],
    with_operators: Callable[[np.ndarray, np.ndarray, int, str], CrystalStructure],
    notes: list[str],
) -> CrystalStructure:
    """The structure with the operators of a named group; of two origins the one that gives fewer atoms."""
    notes.append(f"The file lists no symmetry operators: those of its space group {groups[0].hm} were taken.")
    if len(groups) > 1:
        notes.append("Its origin is not stated: the one that leaves fewer atoms in the cell was taken.")
    results: list[CrystalStructure] = []
    error: InputError | None = None
    for group in groups:
        rotations, translations = symmetry.operator_arrays(list(group.operations()))
        try:
            results.append(structures.finish(with_operators(rotations, translations, group.number, group.xhm())))
        except InputError as failure:
            error = failure
    if not results:
        assert error is not None
        raise error
    _compare_number(block, results[0].space_group_number, notes)
    best = min(results, key=lambda s: len(s.atoms.frac))
    return dataclasses.replace(best, notes=tuple(notes))


def _compare_number(block: cif.Block, number: int, notes: list[str]) -> None:
    """Notes a space-group number that contradicts the operators, which count."""
    for tag in ("_space_group_IT_number", "_symmetry_Int_Tables_number"):
        stated = cif.as_number(_value(block, tag) or "?")
        if math.isfinite(stated) and int(stated) != number:
            notes.append(
                f"The file states space group {int(stated)}, its operators are those of {number}: the operators count."
            )
            return


def _variants(tag: str) -> tuple[str, str]:
    """A tag of the old dictionary and its dotted form, as _cell_length_a and _cell.length_a."""
    for category in ("_atom_site_aniso", "_atom_site", "_cell", "_space_group_symop", "_space_group"):
        if tag.startswith(category + "_"):
            return tag, f"{category}.{tag[len(category) + 1 :]}"
    return tag, tag


def _value(block: cif.Block, tag: str) -> str | None:
    """Text of a single value, also if it stands in a loop; None if it is missing, '?' or '.'."""
    for variant in _variants(tag):
        column = block.find_values(variant)
        if len(column):
            text = column.str(0)
            return text if text not in ("", "?", ".") else None
    return None


def _column(block: cif.Block, tag: str) -> list[str]:
    """Texts of a loop column (or of a single value), empty if it is missing."""
    for variant in _variants(tag):
        column = block.find_values(variant)
        if len(column):
            return [column.str(i) if column[i] not in ("?", ".") else column[i] for i in range(len(column))]
    return []
