"""One structure's record: labels at three tolerances, prototype keys, reflections, fixed point, limits."""

from __future__ import annotations

import itertools
import pathlib
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import spglib
from ase import Atoms

from simxrd_jax.crystal import symmetry
from simxrd_jax.crystal.reflections import make_reflections
from simxrd_jax.crystal.structure import CrystalStructure, with_found_symmetry
from simxrd_jax.errors import InputError
from simxrd_jax.io.cif import read_cif
from simxrd_jax.io.structures import DEFAULT_SYMPREC, from_ase, read_npz
from simxrd_jax.library import record
from simxrd_jax.library.build import reach_of_presets
from simxrd_jax.library.record import (
    GivenCell,
    Reach,
    fixed_point,
    join,
    make_record,
    pack,
    prototype_key,
    select,
    space_group_number,
)
from simxrd_jax.library.sources import NpzSet, given_ase, given_structure
from simxrd_jax.presets import get_preset


@pytest.fixture(scope="module")
def reach() -> Reach:
    return reach_of_presets(("laboratory", "simxrd"))[2]


def test_reach_is_the_union_of_the_presets(reach: Reach, cif_folder: pathlib.Path):
    """Every reflection that `make_reflections` lists for either preset is in the record, in the same order."""
    structure = with_found_symmetry(read_cif(cif_folder / "ZrO2_monoclinic.cif"), DEFAULT_SYMPREC)
    made = make_record("x", 0, given_structure(structure), reach)
    listed = {tuple(v): m for v, m in zip(made.hkl.tolist(), made.multiplicity.tolist(), strict=True)}
    for name in ("laboratory", "simxrd"):
        preset = get_preset(name)
        lines = np.array(preset.radiation.wavelength)
        own = make_reflections(
            structure, lines, *preset.two_theta[:2], margin=preset.margin() + preset.max_shift, max_strain=preset.max_strain
        )
        stretch = [tuple(v) for v in np.asarray(own.hkl).tolist()]
        first = made.hkl.tolist().index(list(stretch[0]))
        assert [tuple(v) for v in made.hkl[first : first + len(stretch)].tolist()] == stretch
        assert [listed[v] for v in stretch] == np.asarray(own.multiplicity).tolist()
    margin = get_preset("simxrd").margin() + 1.5
    low, high = (2 * np.sin(np.radians(v / 2)) / 1.54184 for v in (10 - margin, 80 + margin))
    assert reach.inverse_d_min == pytest.approx(low * 0.97, rel=1e-12)
    assert reach.inverse_d_max == pytest.approx(high * 1.03, rel=1e-12)
    assert reach.wavelengths == pytest.approx(((2 * 1.540593 + 1.544427) / 3, 1.54184))


def test_presets_that_do_not_fit_together():
    with pytest.raises(InputError, match=r"differ by more than 1 %.*synchrotron 0\.4139"):
        reach_of_presets(("laboratory", "synchrotron"))
    with pytest.raises(InputError, match="did you mean laboratory"):
        reach_of_presets(("labratory",))
    with pytest.raises(InputError, match="at least one preset"):
        reach_of_presets(())
    assert reach_of_presets(("simxrd", "simxrd"))[0] == ("simxrd",)
    for symprec in (0.0, -1.0, float("nan")):
        with pytest.raises(InputError, match="positive distance"):
            reach_of_presets(("simxrd",), symprec)


def test_gallium_telluride(shared_data: pathlib.Path, reach: Reach):
    """mp-10009 of the SimXRD demo database: without symmetry at 1e-5 A, P 63/mmc at 1e-2 A."""
    import ase.db

    atoms = ase.db.connect(str(shared_data / "simxrd_db" / "demo_mp.db")).get(10).toatoms()
    made = make_record("mp-10009", 0, given_ase(atoms), reach)
    assert (made.space_group, made.space_group_tight, made.space_group_loose) == (194, 1, 194)
    assert made.formula == "GaTe"
    assert made.prototype.startswith("194|")
    tight = make_record("mp-10009", 0, given_ase(atoms), Reach(**(vars(reach) | {"symprec": 1e-5})))
    assert (tight.space_group, tight.space_group_tight, tight.space_group_loose) == (1, 1, 194)


def perovskite(a: str, b: str, x: str, edge: float) -> Atoms:
    places = [[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]]
    return Atoms([a, b, x, x, x], scaled_positions=places, cell=[edge] * 3, pbc=True)


def key(atoms: Atoms, reach: Reach) -> str:
    return make_record("x", 0, given_ase(atoms), reach).prototype


def test_prototype_keys(reach: Reach):
    """Equal for one type whatever the elements, the origin or the cell that was given; different for another type."""
    one = key(perovskite("Sr", "Ti", "O", 3.905), reach)
    assert one == "221|1 m-3m;1 m-3m;3 4/mm.m"
    other = perovskite("Ni", "C", "Mg", 3.81)
    assert key(other, reach) == one
    other.translate([0.3, 1.1, 0.2])
    assert key(other, reach) == one
    assert key(other.repeat((2, 1, 1)), reach) == one
    rock_salt = Atoms("NaCl", scaled_positions=[[0, 0, 0], [0.5] * 3], cell=(1 - np.eye(3)) * 2.8, pbc=True)
    blende = Atoms("ZnS", scaled_positions=[[0, 0, 0], [0.25] * 3], cell=(1 - np.eye(3)) * 2.7, pbc=True)
    assert key(rock_salt, reach) == "225|4 m-3m;4 m-3m"
    assert key(blende, reach) == "216|4 -43m;4 -43m"


def test_prototype_keys_of_stored_perovskites(datasets: pathlib.Path, reach: Reach):
    library = read_npz(datasets / "mp_sample.npz")
    found = {}
    for i in np.flatnonzero(library.labels(0.01) == 221):
        structure = library[int(i)]
        if len(structure.atoms.frac) == 5 and len(structure.atoms.species) == 3:
            found[structure.formula] = prototype_key(structure)
    keys = list(found.values())
    assert keys.count("221|1 m-3m;1 m-3m;3 4/mm.m") >= 2


def made_of(hall: int, sites: list[tuple[str, np.ndarray]], cell: tuple[float, ...], angle: float = 90.0) -> Atoms:
    """Atoms of the orbits of some sites, without those that coincide."""
    rotations, translations = symmetry.hall_operators(hall)
    symbols: list[str] = []
    places: list[np.ndarray] = []
    for symbol, site in sites:
        images = rotations @ site + translations
        delta = images[:, None] - images
        is_same = (np.abs(delta - np.round(delta)) < 1e-6).all(axis=-1)
        kept = images[np.flatnonzero(is_same.argmax(axis=1) == np.arange(len(images)))]
        symbols += [symbol] * len(kept)
        places.append(kept)
    return Atoms(symbols, scaled_positions=np.concatenate(places), cell=[*cell, 90, 90, angle], pbc=True)


def special(hall: int, rng: np.random.Generator) -> np.ndarray:
    """A random point moved onto an operator's axis, plane or centre, so that it is often of a special position."""
    rotations, translations = symmetry.hall_operators(hall)
    site = rng.uniform(0, 1, 3)
    for i in rng.choice(len(rotations), 2):
        delta = rotations[i] @ site + translations[i] - site
        moved = site + (delta - np.round(delta)) / 2
        image = rotations[i] @ moved + translations[i] - moved
        if np.abs(image - np.round(image)).max() < 1e-9:
            site = moved
    return site


def standard_halls() -> dict[int, int]:
    """The Hall number that spglib takes for each space group."""
    halls: dict[int, int] = {}
    for hall in range(1, 531):
        kind = spglib.get_spacegroup_type(hall)
        assert kind is not None
        halls.setdefault(kind.number, hall)
    return halls


HALLS = standard_halls()


def drawn(number: int, rng: np.random.Generator, cell: tuple[float, ...], angle: float = 90.0) -> Atoms:
    """A structure of a space group with a general and three often special positions, drawn until no two atoms overlap."""
    for _ in range(200):
        sites = [("O", rng.uniform(0, 1, 3)), *((s, special(HALLS[number], rng)) for s in ("Fe", "Al", "Al"))]
        atoms = made_of(HALLS[number], sites, cell, angle)
        distances = atoms.get_all_distances(mic=True)
        np.fill_diagonal(distances, np.inf)
        if distances.min() > 0.8:  # axes of 9 to 12 A change places
            return atoms
    raise AssertionError(f"no structure of space group {number} was found")


def found(atoms: Atoms) -> CrystalStructure:
    return from_ase(atoms, 1e-3)


ORTHORHOMBIC = [n if n % 4 == 0 else pytest.param(n, marks=pytest.mark.slow) for n in range(16, 75)]


@pytest.mark.parametrize("number", ORTHORHOMBIC)
def test_prototype_keys_do_not_know_the_names_of_axes(number: int):
    """A type has one key in all its settings and with all orders of its axes' lengths."""
    rng, cell = np.random.default_rng(number), (9.1, 10.3, 11.9)
    for _ in range(3):
        atoms = drawn(number, rng, cell)
        keys = set()
        for permutation in itertools.permutations(range(3)):
            renamed = Atoms(
                atoms.get_chemical_symbols(),
                scaled_positions=atoms.get_scaled_positions()[:, permutation],
                cell=cell,
                pbc=True,
            )
            structure = found(renamed)
            assert structure.space_group_number == number
            keys.add(prototype_key(structure))
        assert len(keys) == 1, keys


def test_prototype_keys_know_which_axes_are_alike():
    """Only what maps the group onto itself is renamed, and all sites together."""
    cell = (5.1, 6.3, 7.9)
    a, b = np.array([0.2, 0, 0]), np.array([0, 0.3, 0.5])
    other = np.array([0.31, 0.5, 0.5])
    general = ("O", np.array([0.11, 0.22, 0.37]))
    crossed = prototype_key(found(made_of(HALLS[16], [("Fe", a), ("Al", b), general], cell)))
    parallel = prototype_key(found(made_of(HALLS[16], [("Fe", a), ("Al", other), general], cell)))
    assert crossed == "16|2 ..2;2 .2.;4 1"
    assert parallel == "16|2 ..2;2 ..2;4 1"
    # P m m a: the mirrors across a and b are of two kinds.
    across_a, across_b = np.array([0.25, 0.21, 0.34]), np.array([0.14, 0.5, 0.37])
    more = [("O", np.array([0.05, 0.13, 0.17])), ("S", np.array([0.0, 0.0, 0.5]))]
    keys = {prototype_key(found(made_of(HALLS[51], [("Fe", x), *more], cell))) for x in (across_a, across_b)}
    assert keys == {"51|2 .2/m.;4 m..;8 1", "51|2 .2/m.;4 .m.;8 1"}
    # Mirrors in P m m 2 are alike.
    plane_a, plane_b = np.array([0.0, 0.21, 0.34]), np.array([0.14, 0.0, 0.34])
    more = [("O", np.array([0.31, 0.13, 0.17])), ("S", np.array([0.5, 0.5, 0.6]))]
    keys = {prototype_key(found(made_of(HALLS[25], [("Fe", x), *more], cell))) for x in (plane_a, plane_b)}
    assert keys == {"25|1 mm2;2 .m.;4 1"}


@pytest.mark.parametrize(("higher", "lower"), sorted(symmetry.LOWER_ENANTIOMORPH.items()))
def test_prototype_keys_do_not_know_the_hand(higher: int, lower: int):
    rng = np.random.default_rng(lower)
    cell, angle = ((9.0, 9.0, 13.0), 120.0) if 143 <= lower <= 194 else ((9.0, 9.0, 9.0 if lower > 194 else 13.0), 90.0)
    for _ in range(3):
        atoms = drawn(lower, rng, cell, angle)
        mirrored = atoms.copy()
        mirrored.set_scaled_positions(-atoms.get_scaled_positions())
        one, other = found(atoms), found(mirrored)
        assert (one.space_group_number, other.space_group_number) == (lower, higher)
        assert prototype_key(one) == prototype_key(other)
        assert prototype_key(one).startswith(f"{lower}|")


def test_prototype_keys_know_occupancies(cif_folder: pathlib.Path):
    """A mixed metal site and a deficient oxygen site are no rock salt; charges play no part."""
    mixed = with_found_symmetry(read_cif(cif_folder / "mixed_FeMgO.cif"), DEFAULT_SYMPREC)
    shares = sorted((o for s, o in zip(mixed.species, mixed.occupancy, strict=True) if s[0] != "O"), reverse=True)
    text = prototype_key(mixed)
    assert text.startswith("225|")
    assert f"4 m-3m ({shares[0]:g} {shares[1]:g})" in text
    ions = with_found_symmetry(read_cif(cif_folder / "Fe2O3_ions.cif"), DEFAULT_SYMPREC)
    corundum = with_found_symmetry(read_cif(cif_folder / "Al2O3.cif"), DEFAULT_SYMPREC)
    assert prototype_key(ions) == prototype_key(corundum) == "167|12 3.;18 .2"


def test_a_long_key_is_a_hash(reach: Reach):
    rng = np.random.default_rng(4)
    elements = ["Li", "Be", "B", "C", "N", "O", "F", "Na", "Mg", "Al", "Si", "P", "S", "Cl", "K", "Ca", "Sc", "Ti", "V", "Cr"]
    grid = np.stack(np.meshgrid(*[np.arange(6)] * 3, indexing="ij"), -1).reshape(-1, 3)
    frac = (grid + 0.5 + rng.uniform(-0.1, 0.1, grid.shape)) / 6
    symbols = [elements[int(v)] for v in np.sqrt(rng.uniform(0, 400, len(frac)))]
    text = key(Atoms(symbols, scaled_positions=frac, cell=[14, 15, 16], pbc=True), reach)
    assert text.startswith("1|")
    assert len(text) <= 2 + record.MAX_KEY
    symbols[0] = "Ga"
    assert key(Atoms(symbols, scaled_positions=frac, cell=[14, 15, 16], pbc=True), reach) != text


def test_fixed_point():
    rng = np.random.default_rng(0)
    frac = np.concatenate([rng.uniform(-2, 2, 3000), [0.0, 1.0, -1e-12, 1 - 1e-12, 1 / 3, 2 / 3, 0.5, -0.25]])
    stored = fixed_point(frac)
    assert stored.dtype == np.uint32
    delta = stored / 2.0**32 - frac
    assert np.abs(delta - np.round(delta)).max() <= 1.2e-10
    assert fixed_point(np.array([0.5, 0.25])).tolist() == [2**31, 2**30]


def jittered(n: tuple[int, int, int], cell: tuple[float, float, float]) -> Atoms:
    """Atoms without symmetry on a jittered grid."""
    grid = np.stack(np.meshgrid(*[np.arange(k) for k in n], indexing="ij"), -1).reshape(-1, 3)
    frac = (grid + 0.5 + np.random.default_rng(1).uniform(-0.1, 0.1, grid.shape)) / n
    return Atoms([("Al", "O")[i % 2] for i in range(len(frac))], scaled_positions=frac, cell=cell, pbc=True)


def mirrored() -> Atoms:
    """2,000 atoms, 250 of them independent, of symmetry mmm."""
    eighth = jittered((5, 5, 10), (11, 12, 24)).get_scaled_positions() / 2
    signs = np.array(np.meshgrid([1, -1], [1, -1], [1, -1])).reshape(3, -1).T
    frac = np.concatenate([eighth * s for s in signs])
    return Atoms(["Al", "O"] * 1000, scaled_positions=frac, cell=[22, 24, 48], pbc=True)


def test_two_thousand_atoms(reach: Reach):
    made = make_record("x", 0, given_ase(mirrored()), reach)
    assert made.space_group == 47
    assert made.site_atoms.sum() == len(made.atom_operator) == 2000
    assert 8000 < len(made.hkl) <= record.MAX_REFLECTIONS


def test_a_long_axis(reach: Reach):
    made = make_record("x", 0, given_ase(jittered((1, 1, 40), (5, 5, 200))), reach)
    assert made.space_group == 1
    assert np.abs(made.hkl).max() > 127
    # In space group 1 the list is half of the reciprocal-lattice points of the shell.
    h, k, l = np.meshgrid(np.arange(-6, 7), np.arange(-6, 7), np.arange(-200, 201))
    inverse_d = np.sqrt((h / 5) ** 2 + (k / 5) ** 2 + (l / 200) ** 2)
    assert 2 * len(made.hkl) == np.sum((inverse_d >= reach.inverse_d_min) & (inverse_d <= reach.inverse_d_max))


def test_limits(reach: Reach, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(InputError, match=r"4913 atoms of a lattice point, more than the limit of 4096"):
        make_record("x", 0, given_ase(jittered((17, 17, 17), (36, 37, 38))), reach)
    with pytest.raises(InputError, match=r"17576 atoms, more than the limit of 16384"):
        make_record("x", 0, given_ase(jittered((26, 26, 26), (60, 61, 62))), reach)
    with pytest.raises(InputError, match=r"unique reflections within reach, more than the limit of 16384"):
        make_record("x", 0, given_ase(jittered((2, 2, 2), (30, 31, 32))), reach)
    # Between the limit and the estimate that saves the enumeration the list itself decides.
    monkeypatch.setattr(record, "MAX_REFLECTIONS", 100)
    with pytest.raises(InputError, match=r"has 1\d\d unique reflections within reach, more than the limit of 100"):
        make_record("x", 0, given_ase(jittered((1, 1, 2), (4.6, 4.7, 5.5))), reach)
    monkeypatch.setattr(record, "MAX_REFLECTIONS", 10**6)
    monkeypatch.setattr(record, "MAX_INDEX", 30)
    with pytest.raises(InputError, match="index above the limit of 30"):
        make_record("x", 0, given_ase(jittered((1, 1, 8), (5, 5, 60))), reach)


def test_what_no_library_can_hold(reach: Reach):
    nan = given_ase(perovskite("Sr", "Ti", "O", 3.9))
    nan.frac[1, 1] = np.nan
    with pytest.raises(InputError, match="not a finite number"):
        make_record("x", 0, nan, reach)
    flat = GivenCell(np.diag([3.0, 3.0, 1e-3]), np.zeros((1, 3)), [1], SimpleNamespace())  # pyright: ignore[reportArgumentType]
    with pytest.raises(InputError, match="too small to hold an atom"):
        make_record("x", 0, flat, reach)
    with pytest.raises(InputError, match="no form factor of Fm"):
        make_record("x", 0, given_ase(Atoms("Fm", cell=[4, 4, 4], pbc=True)), reach)
    with pytest.raises(InputError, match="spglib finds no symmetry"):
        make_record("x", 0, given_ase(Atoms("OO", positions=[[0, 0, 0], [1e-3, 0, 0]], cell=[4, 4, 4], pbc=True)), reach)
    narrow = Reach(**(vars(reach) | {"inverse_d_min": 0.30, "inverse_d_max": 0.31}))
    with pytest.raises(InputError, match="no reflection within the reach"):
        make_record("x", 0, given_ase(Atoms("Po", cell=[3.4] * 3, pbc=True)), narrow)


def test_pack_join_select(reach: Reach, cif_folder: pathlib.Path):
    names = ("Si", "aniso_calcite", "mixed_FeMgO", "LaB6")
    made = [make_record(n, 0, given_structure(read_cif(cif_folder / f"{n}.cif")), reach) for n in names]
    whole = pack(made)
    parts = join([pack(made[:1]), pack([]), pack(made[1:])])
    assert whole.keys() == parts.keys()
    for name, values in whole.items():
        assert parts[name].dtype.kind == values.dtype.kind
        np.testing.assert_array_equal(parts[name], values, err_msg=name)
    kept = np.array([True, False, True, False])
    for name, values in select(whole, kept).items():
        np.testing.assert_array_equal(values, pack([made[0], made[2]])[name], err_msg=name)
    assert whole["site_u"][whole["site_u"].any(axis=1)].shape == (made[1].site_u.shape[0], 6)  # type: ignore[union-attr]


def test_labels_of_the_materials_project(shared_data: pathlib.Path, reach: Reach):
    """At symprec 0.1 the labels are those the set was stored with, for at least 99.9 % of 1,000 drawn structures."""
    path = shared_data / "structures" / "mp_like_28k.npz"
    source, labels = NpzSet(path), read_npz(path).labels(0.1)
    coarse = Reach(**(vars(reach) | {"symprec": 0.1}))
    good = 0
    for number, i in enumerate(np.random.default_rng(7).choice(len(source), 1000, replace=False)):
        item = next(source.items(int(i), int(i) + 1))
        given = item.load()
        found = space_group_number(given, 0.1)
        good += found == labels[i]
        if number < 50:
            assert make_record(item.id, 0, given, coarse).space_group == found
    assert good >= 999


def test_no_jax_in_the_processes_of_a_build():
    """What a process of a build imports; JAX would cost each a second and 150 MB."""
    program = "import sys, simxrd_jax.library.build; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
