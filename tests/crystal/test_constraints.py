"""Host zone tests: what symmetry leaves free of cells, positions and displacement tensors.

Referents: gemmi's constraints of tensors, spglib's site-symmetry symbols, null spaces found numerically, re-expansion with
the operators, and cases of the textbooks.
"""

from __future__ import annotations

import dataclasses
import itertools
import pathlib
from collections.abc import Iterable

import gemmi
import numpy as np
import pytest

from simxrd_jax.crystal import constraints, symmetry
from simxrd_jax.crystal.structure import CrystalStructure
from simxrd_jax.errors import InputError
from simxrd_jax.io.cif import read_cif
from simxrd_jax.io.structures import StructureSet, read_npz

TENSORS = [(0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2)]
BY_SYSTEM = {"triclinic": 6, "monoclinic": 4, "orthorhombic": 3, "tetragonal": 2, "trigonal": 2, "hexagonal": 2, "cubic": 1}
SETTINGS = list(gemmi.spacegroup_table())


def _structure(
    rotations: np.ndarray, translations: np.ndarray, lattice: np.ndarray, frac: Iterable[Iterable[float]], **changed
) -> CrystalStructure:
    x = np.array([list(row) for row in frac], dtype=float)
    n = len(x)
    fields = {"u_aniso": None, "occupancy": np.ones(n), "biso": np.zeros(n), "species": ("Si",) * n, **changed}
    return CrystalStructure(
        name="test",
        source="test.cif",
        lattice=lattice,
        site_labels=tuple(f"Si{i + 1}" for i in range(n)),
        frac=x,
        has_displacement=False,
        rotations=rotations,
        translations=translations,
        space_group_number=1,  # nothing here may look at it
        space_group_symbol="P 1",
        **fields,
    )


def _operators(group: gemmi.SpaceGroup) -> tuple[np.ndarray, np.ndarray]:
    return symmetry.operator_arrays(list(group.operations()))


def _lattice(rotations: np.ndarray, rng: np.random.Generator, size: float = 8.0) -> np.ndarray:
    """Some lattice that the rotations allow, edges of about `size` A."""
    m = np.eye(3) + 0.15 * rng.normal(size=(3, 3))
    metric = np.mean(np.swapaxes(rotations, 1, 2) @ (m @ m.T) @ rotations, axis=0)
    return size * np.linalg.cholesky(metric)


def _in_group(symbol: str, frac: Iterable[Iterable[float]], seed: int = 0) -> CrystalStructure:
    """Sites in a setting of a space group, in some cell of its class."""
    group = gemmi.find_spacegroup_by_name(symbol)
    assert group is not None
    rotations, translations = _operators(group)
    return symmetry.symmetrise(_structure(rotations, translations, _lattice(rotations, np.random.default_rng(seed)), frac))


def _six(basis: constraints.CellBasis, free: np.ndarray) -> np.ndarray:
    return np.where(basis.index >= 0, free[np.maximum(basis.index, 0)], basis.fixed)


def _cell_of(lattice: np.ndarray) -> dict[str, float]:
    return dict(zip(constraints.CELL_NAMES, symmetry.cell_parameters(lattice), strict=True))


def _same_span(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether the columns of two matrices span one space, b of full rank."""
    if a.shape[1] != b.shape[1]:
        return False
    if not b.shape[1]:
        return True
    q_a, q_b = np.linalg.qr(a)[0], np.linalg.qr(b)[0]
    return bool(np.abs(q_a @ q_a.T - q_b @ q_b.T).max() < 1e-9)


# Cells.


def _check_cell(structure: CrystalStructure, rng: np.random.Generator) -> constraints.CellBasis:
    """The free parameters give back the cell, any other values of them a cell that the rotations keep, and no others do."""
    basis = constraints.cell_parameters(structure)
    cell = _cell_of(structure.lattice)
    start = np.array([cell[name] for name in basis.names])
    np.testing.assert_allclose(_six(basis, start), list(cell.values()), rtol=1e-9, atol=0)
    for _ in range(3):
        lattice = symmetry.lattice_from_parameters(*_six(basis, start * (1 + 0.03 * rng.normal(size=len(start)))))
        metric = lattice @ lattice.T
        images = np.swapaxes(structure.rotations, 1, 2) @ metric @ structure.rotations
        np.testing.assert_allclose(images, np.broadcast_to(metric, images.shape), rtol=0, atol=1e-12 * metric.max())
    # The dimension by a projection, its trace, where the module counts equations.
    r = np.swapaxes(structure.rotations, 1, 2)
    characters = np.trace(r, axis1=1, axis2=2) ** 2 + np.trace(r @ r, axis1=1, axis2=2)
    assert len(basis.names) == round(float(characters.mean() / 2))
    return basis


def test_free_cell_parameters_of_every_setting() -> None:
    rng = np.random.default_rng(1)
    for group in SETTINGS:
        rotations, translations = _operators(group)
        basis = _check_cell(_structure(rotations, translations, _lattice(rotations, rng), [(0.1, 0.2, 0.3)]), rng)
        system = group.crystal_system_str()
        if group.ext == "R":
            expected, fixed = ("a", "alpha"), set()
        elif system == "monoclinic":
            angle = {"a": "alpha", "b": "beta", "c": "gamma"}[group.monoclinic_unique_axis()]
            expected, fixed = ("a", "b", "c", angle), {90.0}
        else:
            expected, fixed = {
                "triclinic": (constraints.CELL_NAMES, set()),
                "orthorhombic": (("a", "b", "c"), {90.0}),
                "tetragonal": (("a", "c"), {90.0}),
                "trigonal": (("a", "c"), {90.0, 120.0}),
                "hexagonal": (("a", "c"), {90.0, 120.0}),
                "cubic": (("a",), {90.0}),
            }[system]
        assert (basis.names, set(basis.fixed[basis.index < 0])) == (expected, fixed), group.xhm()
        assert np.all(basis.fixed[basis.index >= 0] == 0)


def test_arrays_of_known_cells() -> None:
    for symbol, index, fixed in (
        ("P 63/m m c", [0, 0, 1, -1, -1, -1], [0, 0, 0, 90, 90, 120]),
        ("R -3 m:R", [0, 0, 0, 1, 1, 1], [0, 0, 0, 0, 0, 0]),
        ("P 1 21/c 1", [0, 1, 2, -1, 3, -1], [0, 0, 0, 90, 0, 90]),
        ("P 21/b 1 1", [0, 1, 2, 3, -1, -1], [0, 0, 0, 0, 90, 90]),
        ("F d -3 m:2", [0, 0, 0, -1, -1, -1], [0, 0, 0, 90, 90, 90]),
    ):
        basis = constraints.cell_parameters(_in_group(symbol, [(0.1, 0.2, 0.3)]))
        # Exact: 120 is not acos(-1/2) = 120.00000000000001.
        assert (basis.index.tolist(), basis.fixed.tolist()) == (index, fixed)


def test_cell_follows_renamed_axes() -> None:
    """A tetragonal or hexagonal axis along a or b: the first of the equal lengths represents them."""
    rng = np.random.default_rng(2)
    expected = {0: ("a", "b"), 1: ("a", "b"), 2: ("a", "c")}
    for symbol in ("P 4/m m m", "P 63/m"):
        original = _in_group(symbol, [(0.1, 0.2, 0.3)])
        for p in itertools.permutations(range(3)):
            renamed = dataclasses.replace(
                original,
                lattice=original.lattice[list(p)],
                rotations=original.rotations[:, p][:, :, p],
                translations=original.translations[:, p],
                frac=original.frac[:, p],
            )
            assert _check_cell(renamed, rng).names == expected[p.index(2)]


# Rows are the primitive vectors in the conventional cell.
FACE = np.array([[0, 1, 1], [1, 0, 1], [1, 1, 0]]) / 2
BODY = np.array([[-1, 1, 1], [1, -1, 1], [1, 1, -1]]) / 2
BASE = np.array([[1, 1, 0], [-1, 1, 0], [0, 0, 2]]) / 2
SKEW = np.array([[2, 0, 0], [1, 1, 0], [0, 0, 2]]) / 2


def _in_cell(original: CrystalStructure, vectors: np.ndarray) -> CrystalStructure:
    """The same structure in the primitive cell of the given rows."""
    rotations, translations, _ = symmetry.split_centring(original.rotations, original.translations)
    to_new = np.linalg.inv(vectors.T)
    new = to_new @ rotations @ vectors.T
    np.testing.assert_allclose(new, np.rint(new), rtol=0, atol=1e-9)
    return dataclasses.replace(
        original,
        lattice=vectors @ original.lattice,
        rotations=np.rint(new).astype(np.int64),
        translations=translations @ to_new.T,
        frac=original.frac @ to_new.T,
    )


def test_primitive_cells() -> None:
    rng = np.random.default_rng(3)
    tetrahedral = np.degrees(np.arccos(-1 / 3))
    for symbol, vectors, names, fixed in (
        ("F m -3 m", FACE, ("a",), [60.0, 60.0, 60.0]),
        ("I m -3 m", BODY, ("a",), [tetrahedral] * 3),
        ("C m c m", BASE, ("a", "c", "gamma"), [90.0, 90.0, 0.0]),
    ):
        basis = constraints.cell_parameters(_in_cell(_in_group(symbol, [(0.1, 0.2, 0.3)]), vectors))
        assert basis.names == names
        np.testing.assert_allclose(basis.fixed[3:], fixed, rtol=1e-14)
    # Base-centred monoclinic: alpha and beta are equal with this choice of the primitive vectors, supplements with `BASE`.
    monoclinic = _in_cell(_in_group("C 1 2/m 1", [(0.1, 0.2, 0.3)]), np.array([[1, 1, 0], [1, -1, 0], [0, 0, 2]]) / 2)
    assert _check_cell(monoclinic, rng).index.tolist() == [0, 0, 1, 2, 2, 3]


def test_cells_with_other_relations_raise() -> None:
    # In the last one a . b = a^2/2: gamma is acos(a/2b), as many free numbers as a fixed angle would leave.
    cells = (("I 4/m m m", BODY), ("F m m m", FACE), ("I m m m", BODY), ("C 1 2/m 1", BASE), ("C m c m", SKEW))
    for symbol, vectors in cells:
        with pytest.raises(InputError, match=r"test.cif: the operators allow \d free cell parameters but"):
            constraints.cell_parameters(_in_cell(_in_group(symbol, [(0.1, 0.2, 0.3)]), vectors))


# Sites.


def _full_stabiliser(structure: CrystalStructure, x: np.ndarray) -> np.ndarray:
    """Rotations of all operators that map a position to itself modulo whole translations, to 1e-6."""
    delta = structure.rotations @ x + structure.translations - x
    return structure.rotations[(np.abs(delta - np.round(delta)) < 1e-6).all(axis=1)]


def _multiplicity(structure: CrystalStructure, x: np.ndarray) -> int:
    """Number of different images modulo whole translations, to 1e-6."""
    images = structure.rotations @ x + structure.translations
    delta = images[:, None] - images
    same = (np.abs(delta - np.round(delta)) < 1e-6).all(axis=-1)
    return len(np.unique(same.argmax(axis=1)))


def _null_space(equations: np.ndarray) -> np.ndarray:
    _, values, right = np.linalg.svd(equations)
    rank = int((values > 1e-8).sum())
    return right[rank:].T


def _tensor(components: np.ndarray) -> np.ndarray:
    u = np.zeros((*components.shape[:-1], 3, 3))
    for k, (i, j) in enumerate(TENSORS):
        u[..., i, j] = u[..., j, i] = components[..., k]
    return u


def _components(tensor: np.ndarray) -> np.ndarray:
    return np.stack([tensor[..., i, j] for i, j in TENSORS], axis=-1)


def _check_echelon(matrix: np.ndarray, names: tuple[str, ...], all_names: tuple[str, ...]) -> None:
    pivots = [all_names.index(name) for name in names]
    assert pivots == sorted(pivots)
    np.testing.assert_array_equal(matrix[pivots], np.eye(len(pivots)))
    for column, pivot in zip(matrix.T, pivots, strict=True):
        assert np.all(column[:pivot] == 0)


def _check_sites(structure: CrystalStructure, rng: np.random.Generator) -> None:
    """Both bases of every entry against numerical null spaces; moves along and across the directions by re-expansion."""
    maps = constraints.atom_maps(structure)
    atoms = structure.atoms
    np.testing.assert_array_equal(maps.site, atoms.site)
    for entry, x in enumerate(structure.frac):
        basis = constraints.site_basis(structure, entry)
        stabiliser = _full_stabiliser(structure, x)
        kept = symmetry.split_centring(structure.rotations, structure.translations)[0][basis.operators]
        assert {r.tobytes() for r in kept} == {r.tobytes() for r in stabiliser}
        _check_echelon(basis.coordinates, basis.coordinate_names, constraints.COORDINATE_NAMES)
        _check_echelon(basis.u_tensor, basis.u_names, constraints.U_NAMES)
        directions = _null_space((stabiliser - np.eye(3)).reshape(-1, 3))
        assert _same_span(basis.coordinates, directions)
        # The tensors as the structure's expansion rotates them.
        rotated = [_components(symmetry.rotate_u(_tensor(unit), stabiliser, structure.lattice)) for unit in np.eye(6)]
        assert _same_span(basis.u_tensor, _null_space((np.stack(rotated, axis=-1) - np.eye(6)).reshape(-1, 6)))
        tensor = _tensor(basis.u_tensor @ rng.normal(size=len(basis.u_names)))
        images = symmetry.rotate_u(tensor, stabiliser, structure.lattice)
        np.testing.assert_allclose(images, np.broadcast_to(tensor, images.shape), rtol=0, atol=1e-12 * np.abs(tensor).max())

        mine = np.flatnonzero(maps.site == entry)
        multiplicity = _multiplicity(structure, x)
        assert multiplicity == len(structure.rotations) // len(stabiliser) == len(mine) * atoms.n_centring
        for move in [*basis.coordinates.T, basis.coordinates @ rng.normal(size=len(basis.coordinate_names))]:
            moved = x + 0.01 * move
            if _multiplicity(structure, moved) < multiplicity:
                moved = x + 0.0123 * move  # the way led to a more special position
            assert _multiplicity(structure, moved) == multiplicity
            images = atoms.frac[mine] + maps.rotation[mine] @ (moved - x)
            expected = structure.rotations @ moved + structure.translations
            delta = images[:, None, None] + atoms.centring[None, :, None] - expected
            delta = np.abs(delta - np.round(delta)).max(axis=-1)
            # Each image is one atom's and each atom's is an image: identity.
            assert delta.min(axis=-1).max() < 1e-9
            assert delta.reshape(-1, len(expected)).min(axis=0).max() < 1e-9
        across = rng.normal(size=3)
        across -= directions @ (directions.T @ across)
        if len(basis.coordinate_names) < 3:
            assert _multiplicity(structure, x + 0.01 * across / np.linalg.norm(across)) > multiplicity


def _random_special_positions(rotations: np.ndarray, translations: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """Points on randomly chosen elements of symmetry and intersections of such, and one general point."""
    points = [rng.random(3)]
    for _ in range(20 * n):
        if len(points) > n:
            break
        x = rng.random(3)
        for _ in range(rng.integers(1, 4)):
            k = rng.integers(len(rotations))
            shift = translations[k] + rng.integers(-1, 2, size=3)
            orbit = [x]
            while len(orbit) < 12:  # every order of a rotation divides 12
                orbit.append(rotations[k] @ orbit[-1] + shift)
            x = np.mean(orbit, axis=0)
        x = x - np.floor(x)
        if _full_stabiliser(_structure(rotations, translations, np.eye(3), [x]), x).shape[0] > 1:
            points.append(x)
    return np.array(points)


def _check_setting(group: gemmi.SpaceGroup, n: int, rng: np.random.Generator) -> None:
    rotations, translations = _operators(group)
    lattice = _lattice(rotations, rng)
    for x in _random_special_positions(rotations, translations, n, rng):  # one at a time: some coincide
        _check_sites(symmetry.symmetrise(_structure(rotations, translations, lattice, [x])), rng)


def test_sites_of_some_settings() -> None:
    rng = np.random.default_rng(4)
    for group in SETTINGS[::11]:
        _check_setting(group, 3, rng)


@pytest.mark.slow
def test_sites_of_every_setting() -> None:
    rng = np.random.default_rng(5)
    for group in SETTINGS:
        _check_setting(group, 12, rng)


def test_sites_of_primitive_cells() -> None:
    """Here operators mix axes of different reciprocal length, so that the CIF's normalisation counts."""
    rng = np.random.default_rng(13)
    # On a twofold axis, a mirror, a point of highest symmetry.
    for symbol, vectors, frac in (
        ("I m m m", BODY, [(0.1, 0, 0), (0, 0.1, 0.2), (0, 0, 0)]),
        ("C 1 2/m 1", SKEW, [(0, 0.2, 0), (0.1, 0, 0.2), (0, 0, 0)]),
    ):
        structure = _in_cell(_in_group(symbol, frac), vectors)
        _check_sites(structure, rng)
        basis, maps = constraints.site_basis(structure, 0), constraints.atom_maps(structure)
        u = basis.u_tensor @ rng.normal(size=len(basis.u_names))
        atoms = dataclasses.replace(structure, u_aniso=_tensor(np.stack([u, u, u]))).atoms
        assert atoms.u_aniso is not None
        mine = maps.site == 0
        np.testing.assert_allclose(maps.u_map[mine] @ u, _components(atoms.u_aniso[mine]), rtol=0, atol=1e-13)
        assert np.abs(4 * basis.u_tensor - np.round(4 * basis.u_tensor)).max() > 1e-3


@pytest.mark.parametrize("name", ["quartz", "Al2O3", "TiO2_rutile", "ZrO2_monoclinic", "aniso_calcite", "FeS2", "triclinic"])
def test_sites_of_files(cif_folder: pathlib.Path, name: str) -> None:
    _check_sites(read_cif(cif_folder / f"{name}.cif"), np.random.default_rng(6))


def _library_structure(library: StructureSet, index: int) -> CrystalStructure:
    """A cell of a library in its standard setting; its species are placeholders."""
    lattice, frac, numbers = library.cell(index)
    cell = symmetry.find_symmetry(lattice, frac, [int(z) for z in numbers], 0.01)
    found = _structure(cell.rotations, cell.translations, cell.lattice, cell.frac[cell.asymmetric])
    found = dataclasses.replace(
        found, space_group_number=cell.number, site_symmetry=tuple(cell.site_symmetry[i] for i in cell.asymmetric)
    )
    return symmetry.symmetrise(found)


# Free coordinates and components of U by the point group of a site, whatever its orientation.
FREE_COORDINATES = {"1": 3, "m": 2} | dict.fromkeys(["2", "3", "4", "6", "mm2", "m2m", "2mm", "3m", "4mm", "6mm"], 1)
COMPONENTS = ((6, "1 -1"), (4, "2 m 2/m"), (3, "222 mm2 m2m 2mm mmm"), (1, "23 m-3 432 -43m m-3m"))
FREE_COMPONENTS = {point_group: n for n, point_groups in COMPONENTS for point_group in point_groups.split()}


def _check_library(library: StructureSet, indices: Iterable[int], rng: np.random.Generator) -> set[int]:
    """Counts against spglib's labels for all, everything else for a few sites of each."""
    groups = set()
    for index in indices:
        structure = _library_structure(library, index)
        groups.add(structure.space_group_number)
        assert len(constraints.cell_parameters(structure).names) == BY_SYSTEM[structure.crystal_system]
        assert structure.site_symmetry is not None
        kinds: dict[str, int] = {}
        for entry, symbol in enumerate(structure.site_symmetry):
            kinds.setdefault(symbol, entry)
        chosen = list(kinds.values())
        one_of_each = dataclasses.replace(
            structure,
            site_labels=tuple(structure.site_labels[i] for i in chosen),
            species=("Si",) * len(chosen),
            frac=structure.frac[chosen],
            occupancy=np.ones(len(chosen)),
            biso=np.zeros(len(chosen)),
        )
        for entry, symbol in enumerate(kinds):
            basis = constraints.site_basis(one_of_each, entry)
            point_group = symbol.replace(".", "")
            assert len(basis.coordinate_names) == FREE_COORDINATES.get(point_group, 0), (index, symbol)
            assert len(basis.u_names) == FREE_COMPONENTS.get(point_group, 2), (index, symbol)
        _check_sites(one_of_each, rng)
    return groups


def test_counts_against_spglib(datasets: pathlib.Path) -> None:
    library = read_npz(datasets / "spglib_symmetry_tests.npz")
    _check_library(library, range(0, len(library), 15), np.random.default_rng(7))


@pytest.mark.slow
def test_counts_against_spglib_in_220_groups(datasets: pathlib.Path) -> None:
    library = read_npz(datasets / "spglib_symmetry_tests.npz")
    assert len(_check_library(library, range(len(library)), np.random.default_rng(8))) >= 220


def test_tensors_against_gemmi() -> None:
    """A site whose symmetry is the whole point group: gemmi's constraints of a tensor in reciprocal space are on beta."""
    rng = np.random.default_rng(9)
    seen = set()
    for group in SETTINGS:
        rotations = np.unique(_operators(group)[0], axis=0)
        if rotations.tobytes() in seen:
            continue
        seen.add(rotations.tobytes())
        identity = (rotations == np.eye(3)).all(axis=(1, 2))
        rotations = np.concatenate([rotations[identity], rotations[~identity]])
        lattice = _lattice(rotations, rng)
        basis = constraints.site_basis(_structure(rotations, np.zeros((len(rotations), 3)), lattice, [(0, 0, 0)]), 0)
        n = np.linalg.norm(np.linalg.inv(lattice), axis=0)
        beta = basis.u_tensor * np.array([n[i] * n[j] for i, j in TENSORS])[:, None]
        assert _same_span(beta, np.array(gemmi.adp_symmetry_constraints(group)).T), group.xhm()
    assert len(seen) > 32  # point groups, some in several orientations


def _rows(names: tuple[str, ...], matrix: np.ndarray) -> dict[str, list[float]]:
    return {name: [round(float(v), 12) for v in column] for name, column in zip(names, matrix.T, strict=True)}


def _coordinates(structure: CrystalStructure, entry: int = 0) -> dict[str, list[float]]:
    basis = constraints.site_basis(structure, entry)
    return _rows(basis.coordinate_names, basis.coordinates)


def _u(structure: CrystalStructure, entry: int = 0) -> dict[str, list[float]]:
    basis = constraints.site_basis(structure, entry)
    return _rows(basis.u_names, basis.u_tensor)


def test_coordinates_of_textbook_sites(cif_folder: pathlib.Path) -> None:
    corundum = read_cif(cif_folder / "Al2O3.cif")
    assert _coordinates(corundum, 0) == {"z": [0, 0, 1]}
    assert _coordinates(corundum, 1) == {"x": [1, 0, 0]}
    assert _coordinates(read_cif(cif_folder / "TiO2_rutile.cif"), 1) == {"x": [1, 1, 0]}
    quartz = read_cif(cif_folder / "quartz.cif")
    assert _coordinates(quartz, 0) == {"x": [1, 0, 0]}
    assert list(_coordinates(quartz, 1)) == ["x", "y", "z"]
    spinel = _in_group("F d -3 m:2", [(0.125, 0.125, 0.125), (0.5, 0.5, 0.5), (0.2624, 0.2624, 0.2624), (0.4, 0.125, 0.125)])
    assert [_coordinates(spinel, i) for i in range(4)] == [{}, {}, {"x": [1, 1, 1]}, {"x": [1, 0, 0]}]
    # Garnet's 48g (1/8, y, 1/4 - y), International Tables vol. A, I a -3 d.
    assert _coordinates(_in_group("I a -3 d", [(0.125, 0.3, 0.95)])) == {"y": [0, 1, -1]}
    # The two mirrors of P 6 m m.
    assert _coordinates(_in_group("P 6 m m", [(0.15, 0.3, 0.4)])) == {"x": [1, 2, 0], "z": [0, 0, 1]}
    assert _coordinates(_in_group("P 6 m m", [(0.3, 0.15, 0.4)])) == {"x": [1, 0.5, 0], "z": [0, 0, 1]}
    assert _coordinates(_in_group("P 6 m m", [(0.2, 0.0, 0.4)])) == {"x": [1, 0, 0], "z": [0, 0, 1]}
    # Calcite on rhombohedral axes: Ca at the origin, C on a 32 and O (x, 1/2 - x, 1/4) on a twofold axis.
    calcite = _in_group("R -3 c:R", [(0, 0, 0), (0.25, 0.25, 0.25), (0.507, 0.993, 0.25)])
    assert [_coordinates(calcite, i) for i in range(3)] == [{}, {}, {"x": [1, -1, 0]}]


def test_tensors_of_textbook_sites(cif_folder: pathlib.Path) -> None:
    """Peterse & Palm (1966); in the order u11, u22, u33, u12, u13, u23."""
    uniaxial = {"u11": [1, 1, 0, 0.5, 0, 0], "u33": [0, 0, 1, 0, 0, 0]}
    # On a twofold axis along a of a hexagonal cell u12 = u22/2 and u13 = u23/2, on the mirror (x, 2x, z) u23 = 2 u13 too.
    on_axis = {
        "u11": [1, 0, 0, 0, 0, 0],
        "u22": [0, 1, 0, 0.5, 0, 0],
        "u33": [0, 0, 1, 0, 0, 0],
        "u13": [0, 0, 0, 0, 1, 2],
    }
    corundum = read_cif(cif_folder / "Al2O3.cif")
    assert [_u(corundum, i) for i in range(2)] == [uniaxial, on_axis]
    assert _u(read_cif(cif_folder / "quartz.cif"), 0) == on_axis
    assert _u(_in_group("P 6 m m", [(0.15, 0.3, 0.4)])) == on_axis
    # (x, -x, z): u11 = u22, u13 = -u23, and u12 is free.
    assert _u(_in_group("P 6 m m", [(0.15, -0.15, 0.4)])) == {
        "u11": [1, 1, 0, 0, 0, 0],
        "u33": [0, 0, 1, 0, 0, 0],
        "u12": [0, 0, 0, 1, 0, 0],
        "u13": [0, 0, 0, 0, 1, -1],
    }
    rutile = {"u11": [1, 1, 0, 0, 0, 0], "u33": [0, 0, 1, 0, 0, 0], "u12": [0, 0, 0, 1, 0, 0]}
    assert _u(read_cif(cif_folder / "TiO2_rutile.cif"), 1) == rutile
    spinel = _in_group("F d -3 m:2", [(0.125, 0.125, 0.125), (0.2624, 0.2624, 0.2624)])
    threefold = {"u11": [1, 1, 1, 0, 0, 0], "u12": [0, 0, 0, 1, 1, 1]}
    assert [_u(spinel, i) for i in range(2)] == [{"u11": [1, 1, 1, 0, 0, 0]}, threefold]
    assert _u(_in_group("R -3 c:R", [(0.1, 0.1, 0.1)])) == threefold
    assert list(_u(_in_group("P -1", [(0, 0, 0)]))) == list(constraints.U_NAMES)


def test_tensor_of_an_isotropic_atom_is_free_in_every_setting() -> None:
    """U_ij = u cos(a*_i, a*_j) of an isotropic atom, in the CIF's convention, obeys any site symmetry."""
    rng = np.random.default_rng(10)
    for group in SETTINGS[::5]:
        rotations, translations = _operators(group)
        structure = _structure(rotations, translations, _lattice(rotations, rng), [(0, 0, 0)])
        reciprocal = np.linalg.inv(structure.lattice)
        unit = reciprocal / np.linalg.norm(reciprocal, axis=0)
        isotropic = _components(unit.T @ unit)
        basis = constraints.site_basis(structure, 0)
        free = isotropic[[constraints.U_NAMES.index(name) for name in basis.u_names]]
        np.testing.assert_allclose(basis.u_tensor @ free, isotropic, rtol=0, atol=1e-12)


def test_tensor_maps_hold_for_every_cell_of_the_class() -> None:
    """A refinement changes the cell under maps made once: in conventional cells they hold whole numbers and halves."""
    rng = np.random.default_rng(11)
    for group in SETTINGS[::5]:
        rotations, translations = _operators(group)
        first = _structure(rotations, translations, _lattice(rotations, rng), [(0, 0, 0), (0.11, 0.23, 0.37)])
        other = dataclasses.replace(first, lattice=_lattice(rotations, rng))
        np.testing.assert_allclose(
            constraints.site_basis(first, 0).u_tensor, constraints.site_basis(other, 0).u_tensor, rtol=1e-12
        )
        np.testing.assert_allclose(constraints.atom_maps(first).u_map, constraints.atom_maps(other).u_map, rtol=1e-12)
        for matrix in (constraints.site_basis(first, 0).u_tensor, constraints.atom_maps(first).u_map):
            np.testing.assert_allclose(2 * matrix, np.round(2 * matrix), rtol=0, atol=1e-13)


# Atoms.


def test_atom_maps_give_the_expanded_tensors(cif_folder: pathlib.Path) -> None:
    structure = read_cif(cif_folder / "aniso_calcite.cif")
    maps = constraints.atom_maps(structure)
    assert structure.u_aniso is not None
    atoms = structure.atoms
    assert atoms.u_aniso is not None
    mapped = np.einsum("aij,aj->ai", maps.u_map, _components(structure.u_aniso)[maps.site])
    np.testing.assert_allclose(mapped, _components(atoms.u_aniso), rtol=0, atol=1e-15)
    # Free components as they stand in the structure give its tensors back.
    for entry, u in enumerate(_components(structure.u_aniso)):
        basis = constraints.site_basis(structure, entry)
        free = u[[constraints.U_NAMES.index(name) for name in basis.u_names]]
        np.testing.assert_allclose(basis.u_tensor @ free, u, rtol=0, atol=1e-15)


def test_moved_sites_expand_to_mapped_atoms(cif_folder: pathlib.Path) -> None:
    """The package's own expansion, atom by atom in its order, of a structure whose free coordinates all change."""
    rng = np.random.default_rng(12)
    for name in ("quartz", "Al2O3", "LaB6", "long_axis", "AlN", "aniso_calcite", "FeS2"):
        structure = read_cif(cif_folder / f"{name}.cif")
        maps = constraints.atom_maps(structure)
        moves = np.zeros_like(structure.frac)
        for entry in range(len(moves)):
            directions = constraints.site_basis(structure, entry).coordinates
            moves[entry] = directions @ (0.01 * rng.uniform(-1, 1, size=directions.shape[1]))
        atoms = dataclasses.replace(structure, frac=structure.frac + moves).atoms
        np.testing.assert_array_equal(atoms.operator, structure.atoms.operator)
        expected = structure.atoms.frac + np.einsum("aij,aj->ai", maps.rotation, moves[maps.site])
        delta = atoms.frac - expected
        np.testing.assert_allclose(delta, np.round(delta), rtol=0, atol=1e-12)


def test_split_site_is_general_and_merged_site_special() -> None:
    """0.06 A off a mirror: half occupied it is two atoms that move freely, fully occupied one on the mirror."""
    rotations = np.array([np.eye(3), np.diag([1, 1, -1])], dtype=np.int64)
    for occupancy, names in ((0.5, ("x", "y", "z")), (1.0, ("x", "y"))):
        structure = _structure(
            rotations, np.zeros((2, 3)), 6.0 * np.eye(3), [(0.2, 0.3, 0.005)], occupancy=np.array([occupancy])
        )
        assert constraints.site_basis(symmetry.symmetrise(structure), 0).coordinate_names == names
        # As the expansion decides, also before symmetrisation.
        assert constraints.site_basis(structure, 0).coordinate_names == names
        assert len(structure.atoms.frac) * len(constraints.site_basis(structure, 0).operators) == 2


def test_mixed_sites(cif_folder: pathlib.Path) -> None:
    structure = read_cif(cif_folder / "mixed_FeMgO.cif")
    assert constraints.occupancy_groups(structure) == ((0, 1),)
    maps = constraints.atom_maps(structure)
    assert (maps.site.tolist(), maps.position.tolist()) == ([0, 2], [0, 2])
    # Different displacement parameters make two atoms of one position.
    apart = dataclasses.replace(structure, biso=np.array([0.3, 0.5, 0.4]))
    assert constraints.occupancy_groups(apart) == ((0, 1),)
    maps = constraints.atom_maps(apart)
    assert (maps.site.tolist(), maps.position.tolist()) == ([0, 1, 2], [0, 0, 2])
    np.testing.assert_array_equal(maps.rotation, maps.position_rotation)
    assert constraints.occupancy_groups(read_cif(cif_folder / "quartz.cif")) == ()


def test_mixed_site_written_on_two_images() -> None:
    group = gemmi.find_spacegroup_by_name("I 4/m m m")
    assert group is not None
    rotations, translations = _operators(group)
    lattice = np.diag([7.0, 7.0, 9.0])
    # (x, x, z), an image of it beyond the body centring, and a site apart.
    frac = np.array([(0.15, 0.15, 0.2), (0.35, 0.65, 0.3), (0.5, 0.0, 0.1)])
    structure = _structure(rotations, translations, lattice, frac, occupancy=np.array([0.5, 0.5, 1.0]))
    assert constraints.occupancy_groups(structure) == ((0, 1),)
    maps = constraints.atom_maps(structure)
    assert set(maps.position[maps.site < 2]) == {0}
    basis = constraints.site_basis(structure, 0)
    change = basis.coordinates @ np.array([0.013, -0.007])
    moved = structure.atoms.frac + maps.position_rotation @ change
    # Both entries keep one set of atoms: each of the second lies on one of the first.
    between = symmetry.distances(moved[maps.site == 1], moved[maps.site == 0], lattice, structure.atoms.centring)
    assert between.min(axis=1).max() < 1e-12 * 9
    # And that set is the moved first entry's.
    expected = rotations @ (frac[0] + change) + translations
    assert symmetry.distances(moved[maps.site == 0], expected, lattice, np.zeros((1, 3))).min(axis=1).max() < 1e-12 * 9
