"""What a network is asked for: classes against the library's labels, lattices against the strained cell."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import spglib

from simxrd_jax.conditions import STRAIN
from simxrd_jax.crystal import cell
from simxrd_jax.errors import InputError
from simxrd_jax.io.measured import system_of
from simxrd_jax.library.extinction import extinction_groups
from simxrd_jax.library.extinction_table import EXTINCTION_GROUP
from simxrd_jax.library.store import read_library
from simxrd_jax.library.stream import Batch, Impurities, Stream, class_names, make_stream
from simxrd_jax.models.lattice import cell_of_numbers, lattice_numbers
from simxrd_jax.presets import LABORATORY, SIMXRD, Preset, Uniform
from simxrd_jax.train.targets import (
    SPACE_GROUPS,
    as_codes,
    codes_of,
    counts_in,
    names_of,
    structures_in,
    truth,
)
from simxrd_jax.types import Specimen

from .conftest import NAMES


@pytest.fixture(scope="module")
def bundled(datasets):
    return read_library(datasets / "mp_library.simxrd")


# --- Classes ---------------------------------------------------------------------------------------------------------------


def test_the_table_of_extinction_groups_is_what_the_operators_give():
    np.testing.assert_array_equal(EXTINCTION_GROUP, extinction_groups().of_space_group[1:])


def test_extinction_codes_are_those_of_a_library(bundled, library):
    """All 230 space groups by name, and those that occur by the label that the library keeps."""
    names = names_of(bundled, "extinction_group")
    assert names == names_of(library, "extinction_group")
    for number in range(1, 231):
        symbol = next(t.international_short for t in map(spglib.get_spacegroup_type, range(1, 531)) if t.number == number)
        system, *members = names[EXTINCTION_GROUP[number - 1]].split(" ")
        assert system == system_of(number)
        assert symbol in members
    for each in (bundled, library):
        groups = np.asarray(each.space_group, dtype=int)
        np.testing.assert_array_equal(codes_of(each, "extinction_group"), EXTINCTION_GROUP[groups - 1])
    assert len(np.unique(np.asarray(bundled.space_group))) > 100


def test_class_codes_are_names(bundled):
    assert names_of(bundled, "space_group") == SPACE_GROUPS == tuple(str(n) for n in range(1, 231))
    assert names_of(bundled, "crystal_system")[0] == "triclinic"
    assert [len(names_of(bundled, t)) for t in ("crystal_system", "space_group", "extinction_group")] == [7, 230, 101]
    groups = np.asarray(bundled.space_group, dtype=int)
    systems = names_of(bundled, "crystal_system")
    assert [systems[c] for c in codes_of(bundled, "crystal_system")] == [system_of(n) for n in groups]
    np.testing.assert_array_equal(codes_of(bundled, "space_group") + 1, groups)
    counts = counts_in(bundled, "space_group", np.arange(100))
    np.testing.assert_array_equal(counts, np.bincount(groups[:100], minlength=231)[1:])
    np.testing.assert_array_equal(as_codes(np.array(["b", "x", "3"]), ["a", "b", "3"]), [1, -1, 2])


def test_parts_are_those_that_streams_draw_from(bundled):
    for split in ("ool_published", "ool_random", "ool_disjoint"):
        parts = [structures_in(bundled, split, part) for part in ("train", "validation", "test")]
        np.testing.assert_array_equal(np.sort(np.concatenate(parts)), np.arange(len(bundled)))
        for part, structures in zip(("train", "validation", "test"), parts, strict=True):
            stream = make_stream(bundled, "laboratory", batch=8, split=split, part=part)
            np.testing.assert_array_equal(stream.subset, structures)
    np.testing.assert_array_equal(structures_in(bundled, "in_library", "test"), np.arange(len(bundled)))
    with pytest.raises(InputError, match=r"no split 'ool_disjont'; did you mean ool_disjoint"):
        structures_in(bundled, "ool_disjont", "test")
    with pytest.raises(InputError, match=r"no part 'tests'; did you mean test"):
        structures_in(bundled, "in_library", "tests")
    with pytest.raises(InputError, match=r"no target 'lattice' with classes"):
        names_of(bundled, "lattice")


# --- Lattices --------------------------------------------------------------------------------------------------------------


def _parameters(lattice: np.ndarray) -> np.ndarray:
    """a, b, c, alpha, beta, gamma of one lattice, by the cosine formula."""
    lengths = np.sqrt((lattice**2).sum(axis=1))
    pairs = ((1, 2), (0, 2), (0, 1))
    angles = [np.degrees(np.arccos(lattice[i] @ lattice[j] / lengths[i] / lengths[j])) for i, j in pairs]
    return np.array([*lengths, *angles])


def test_lattice_numbers_there_and_back():
    lattices = np.random.default_rng(0).normal(0, 4, (50, 3, 3)) + 6 * np.eye(3)
    expected = np.array([_parameters(each) for each in lattices])
    with jax.enable_x64(True):
        np.testing.assert_allclose(cell_of_numbers(lattice_numbers(jnp.asarray(lattices))), expected, rtol=1e-12)
        turned = lattices @ np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))[0]
        np.testing.assert_allclose(lattice_numbers(jnp.asarray(turned)), lattice_numbers(jnp.asarray(lattices)), atol=1e-12)
    single = cell_of_numbers(lattice_numbers(jnp.asarray(lattices, jnp.float32)))
    np.testing.assert_allclose(single, expected, rtol=2e-5)
    # What no lattice can have (a cosine above 1) is still an angle.
    assert cell_of_numbers(np.full((1, 6), 9.0))[0, 3] == 0.0


def test_lattice_numbers_are_about_one(bundled):
    numbers = np.asarray(lattice_numbers(jnp.asarray(make_stream(bundled, "ideal", batch=8).arrays.lattice)))
    assert np.abs(numbers).mean() < 1
    assert 0.3 < numbers[:, :3].std() < 1.5
    assert np.abs(numbers[:, :3].mean()) < 0.5


def _batch(stream: Stream, structures: np.ndarray, conditions: dict[str, np.ndarray]) -> Batch:
    """What `truth` reads of a batch."""
    empty = np.zeros(0)
    return Batch(
        pattern=empty,
        intensity=empty,
        structure=jnp.asarray(structures),
        labels={name: values[structures] for name, values in stream.arrays.labels.items()},
        conditions={name: jnp.asarray(value, jnp.float32) for name, value in conditions.items()},
        phases=empty,
        mass_fraction=empty,
        key_data=empty,
    )


def test_the_truth_of_a_varied_crystal_is_its_cell_under_the_conditions(library):
    stream = make_stream(library, SIMXRD, batch=8, cell_variation=0.2)
    own = np.array([[-0.1, 0.02, 0.0], [0.02, -0.05, 0.01], [0.0, 0.01, -0.2]])
    strain = dict(zip(STRAIN, np.random.default_rng(4).normal(0, 0.01, (9, 1)), strict=True))
    batch = dataclasses.replace(
        _batch(stream, np.array([NAMES.index("quartz")]), strain), cell_strain=jnp.asarray(own[None], jnp.float32)
    )
    found = cell_of_numbers(truth(stream, batch, ("lattice",))["lattice"])[0]
    varied = np.asarray(library.structure(NAMES.index("quartz")).lattice) @ (np.eye(3) + own)
    acting = np.array([strain[name][0] for name in STRAIN]).reshape(3, 3)
    np.testing.assert_allclose(found, _parameters(varied @ (np.eye(3) + acting).T), rtol=1e-5)


@pytest.mark.parametrize("preset", [LABORATORY, SIMXRD], ids=lambda p: p.name)
def test_the_truth_of_a_drawn_batch_is_the_strained_cell(library, preset: Preset):
    """The conditions are the stream's own, so that signs, transposition and order of the strain are too."""
    stream = make_stream(library, preset, batch=8)

    @jax.jit  # the pattern is not asked for, and not computed
    def drawn(stream, key):
        batch = stream.batch(key, 0)
        return truth(stream, batch, ("lattice", "space_group", "crystal_system")), batch.structure, batch.conditions

    found, structures, conditions = jax.device_get(drawn(stream, jax.random.key(3)))
    greatest = 0.0
    for i, structure in enumerate(structures):
        strain = np.array([conditions[name][i] for name in STRAIN], dtype=np.float64).reshape(3, 3)
        lattice = np.asarray(library.structure(int(structure)).lattice, dtype=np.float64)
        with jax.enable_x64(True):
            strained = np.asarray(cell.deformed_lattice(jnp.asarray(lattice), Specimen(strain=jnp.asarray(strain))))
        np.testing.assert_allclose(cell_of_numbers(found["lattice"][i][None])[0], _parameters(strained), rtol=3e-6)
        greatest = max(greatest, np.abs(_parameters(strained) / _parameters(lattice) - 1).max())
        record = library.structure(int(structure))
        assert found["space_group"][i] == record.space_group_number - 1
        assert class_names(library, "crystal_system")[found["crystal_system"][i]] == record.crystal_system
    assert greatest > 1e-3


def test_of_a_mixture_the_lattice_keeps_the_class_of_its_main_phase(library):
    """A mixture's batch reports the drawn strain, which its phases do not all follow."""
    impurities = Impurities(1, 1.0, Uniform(0.1, 0.2))
    strain = dict(zip(STRAIN, np.random.default_rng(2).normal(0, 0.01, (9, 2)), strict=True))
    structures = np.array([NAMES.index("Si"), NAMES.index("Al2O3")])
    mixed = make_stream(library, LABORATORY, batch=8, impurities=impurities)
    of_lattice = jax.jit(lambda stream, batch: truth(stream, batch, ("lattice",))["lattice"])
    found = cell_of_numbers(of_lattice(mixed, _batch(mixed, structures, strain)))
    np.testing.assert_allclose(found[0, :3], found[0, 0], rtol=1e-6)
    np.testing.assert_allclose(found[0, 3:], 90.0, rtol=1e-6)
    np.testing.assert_allclose(found[1, 3:], [90.0, 90.0, 120.0], rtol=1e-6)
    for i, structure in enumerate(structures):
        e = np.array([strain[name][i] for name in STRAIN]).reshape(3, 3)
        rotations = mixed.arrays.rotations[mixed.arrays.laue[structure]]
        deformed = cell.deformed_cell(mixed.arrays.lattice[structure], Specimen(strain=jnp.asarray(e)), rotations)
        assert np.prod(found[i, :3]) * (1 if i == 0 else np.sqrt(0.75)) == pytest.approx(float(deformed.volume), rel=1e-5)
    # Where strain breaks the class the label of the lattice is that of the broken one.
    split = make_stream(library, SIMXRD, batch=8, impurities=impurities)
    broken = cell_of_numbers(of_lattice(split, _batch(split, structures, strain)))
    assert np.ptp(broken[0, :3]) > 1e-2


def test_without_strain_the_lattice_is_the_librarys(library):
    stream = make_stream(library, dataclasses.replace(LABORATORY, drawn={}), batch=8)
    found = truth(stream, _batch(stream, np.arange(len(NAMES)), {}), ("lattice",))["lattice"]
    expected = [_parameters(np.asarray(library.structure(i).lattice)) for i in range(len(NAMES))]
    np.testing.assert_allclose(cell_of_numbers(found), expected, rtol=3e-6)
