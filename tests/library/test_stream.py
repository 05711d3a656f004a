"""Batches on the fly: against one pattern at a time, keys and draws, weights, packing, variations, bad arguments."""

from __future__ import annotations

import dataclasses
import hashlib
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import chisquare

from simxrd_jax.commands.specimen import Options, Source, specimen_patterns
from simxrd_jax.crystal import cell, symmetry
from simxrd_jax.crystal.build import make_crystal
from simxrd_jax.crystal.reflections import make_reflections
from simxrd_jax.crystal.structure import CRYSTAL_SYSTEMS
from simxrd_jax.crystal.structure_factor import f_squared
from simxrd_jax.errors import InputError
from simxrd_jax.io.cif import read_cif
from simxrd_jax.library.arrays import ArrayNeeds, library_f_squared, load_arrays
from simxrd_jax.library.build import library_of
from simxrd_jax.library.store import Library
from simxrd_jax.library.stream import Impurities, class_names, make_stream, sample_keys, scaled
from simxrd_jax.presets import LABORATORY, PRESETS, SIMXRD, Preset, Uniform, seed_of_key_data

NAMES = ("Si", "LaB6", "Al2O3", "quartz", "aniso_calcite", "triclinic", "ZrO2_monoclinic", "TiO2_rutile")
NOISE = ("peak_counts", "uniform_noise", "gaussian_noise")
SLOW = pytest.mark.slow
KEY = jax.random.key(11)
# A coarse grid: what is tested here does not depend on it.
SHORT = dataclasses.replace(LABORATORY, two_theta=(10.0, 80.0, 0.05))


@pytest.fixture(scope="module")
def library(cif_folder: pathlib.Path) -> Library:
    return library_of(
        [read_cif(cif_folder / f"{name}.cif") for name in NAMES], ids=NAMES, presets=("laboratory", "simxrd", "ideal")
    )


@pytest.fixture(scope="module")
def bundled(datasets: pathlib.Path) -> Library:
    from simxrd_jax.library.store import read_library

    return read_library(datasets / "mp_library.simxrd")


def _given(batch, sample: int) -> dict:
    values = {
        name: np.asarray(value[sample], dtype=np.float64) for name, value in batch.conditions.items() if name not in NOISE
    }
    return {name: float(value) if value.ndim == 0 else tuple(value.tolist()) for name, value in values.items()}


def _alone(library: Library, batch, sample: int, preset: str | None, **options) -> np.ndarray:
    """The sample's pattern by `simxrd simulate` with its conditions set by hand, and its key as seed."""
    structure = library.structure(int(batch.structure[sample]))
    chosen = Options(
        preset=preset,
        conditions={**_given(batch, sample), **options.pop("conditions", {})},
        seed=seed_of_key_data(batch.key_data[sample]),
        accuracy="training",
        **options,
    )
    return next(specimen_patterns([structure], chosen)).intensity


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        pytest.param("laboratory", "float64", marks=SLOW),
        ("laboratory", "float32"),
        pytest.param("simxrd", "float32", marks=SLOW),
        pytest.param("simxrd", "float64", marks=SLOW),
        pytest.param("ideal", "float64", marks=SLOW),
        pytest.param("ideal", "float32", marks=SLOW),
    ],
)
def test_a_batch_is_what_the_command_simulates(library, name, dtype):
    """1e-5 of the maximum; in single precision too, where positions alone are good to 1e-4 against double precision."""
    with jax.enable_x64(dtype == "float64"):
        stream = make_stream(library, PRESETS[name], batch=4, mode="atoms", noise=False, scale="none", dtype=dtype)
        batch = jax.device_get(stream.batch(KEY, 3))
    for sample in range(4):
        # SimXRD's strain splits orbits and its noise has no off switch but 0.
        options = {"preset": "simxrd", "conditions": {"uniform_noise": 0.0}} if name == "simxrd" else {"preset": None}
        alone = _alone(library, batch, sample, dtype=dtype, **options)
        assert np.abs(alone - batch.intensity[sample]).max() <= 1e-5 * alone.max()


@SLOW
def test_synchrotron_too(cif_folder):
    library = library_of([read_cif(cif_folder / "LaB6.cif")], presets=("synchrotron",))
    preset = dataclasses.replace(PRESETS["synchrotron"], two_theta=(2.0, 25.0, 0.01))
    stream = make_stream(library, preset, batch=1, mode="atoms", noise=False, scale="none")
    batch = jax.device_get(stream.batch(KEY, 0))
    alone = _alone(library, batch, 0, "synchrotron", dtype="float32", two_theta=preset.two_theta)
    # The command has the preset's noise: a Poisson draw of 1e9 counts stands for none.
    alone_quiet = _alone(library, batch, 0, None, dtype="float32", two_theta=preset.two_theta, wavelength=0.4139)
    assert np.abs(alone - alone_quiet).max() > 0
    assert np.abs(alone_quiet - batch.intensity[0]).max() <= 1e-5 * alone_quiet.max()


@pytest.mark.parametrize("preset", [SHORT, pytest.param(SIMXRD, marks=SLOW)], ids=["laboratory", "simxrd"])
def test_the_seed_of_a_sample_draws_the_same_conditions_and_noise(library, preset):
    stream = make_stream(library, preset, batch=2, mode="atoms", scale="none")
    batch = jax.device_get(stream.batch(KEY, 5))
    options = Options(
        preset=preset.name,
        two_theta=preset.two_theta,
        seed=seed_of_key_data(batch.key_data[0]),
        accuracy="training",
        dtype="float32",
    )
    made = next(specimen_patterns([library.structure(int(batch.structure[0]))], options))
    for name, value in made.conditions.items():
        if not name.startswith("strain"):
            np.testing.assert_allclose(value, batch.conditions[name][0], rtol=1e-6, err_msg=name)
    # The laboratory preset's strain acts by the part that keeps the class, which is what the batch reports: the pattern is
    # the same up to the rounding of that strain and, with Poisson noise, single counts.
    count = made.intensity.max() / made.conditions.get("peak_counts", 1e9)
    difference = np.abs(made.intensity - batch.intensity[0])
    assert np.median(difference) <= 1e-4 * made.intensity.max()
    assert difference.max() <= 2.01 * count + 1e-3 * made.intensity.max()


def test_mixture_is_that_of_the_command(library):
    impurities = Impurities(2, 1.0, Uniform(0.05, 0.2))
    with jax.enable_x64(True):
        stream = make_stream(
            library, SIMXRD, batch=2, mode="atoms", noise=False, scale="none", impurities=impurities, dtype=np.float64
        )
        batch = jax.device_get(stream.batch(KEY, 1))
    for sample in range(2):
        assert batch.phases[sample, 0] == batch.structure[sample]
        assert batch.mass_fraction[sample].sum() == pytest.approx(1.0, abs=1e-6)
        sources = [
            Source(library.structure(int(i)), float(w))  # type: ignore[arg-type]
            for i, w in zip(batch.phases[sample], batch.mass_fraction[sample], strict=True)
        ]
        options = Options(
            preset="simxrd",
            conditions={**_given(batch, sample), "uniform_noise": 0.0},
            seed=seed_of_key_data(batch.key_data[sample]),
            accuracy="training",
        )
        alone = next(specimen_patterns(sources, options)).intensity
        assert np.abs(alone - batch.intensity[sample]).max() <= 1e-5 * alone.max()


@SLOW
def test_mixture_that_keeps_its_classes_is_drawn_again_by_its_seed(library):
    with jax.enable_x64(True):
        stream = make_stream(
            library, SHORT, batch=2, mode="atoms", noise=False, scale="none", impurities=Impurities(1, 1.0, Uniform(0.2, 0.4))
        )
        batch = jax.device_get(stream.batch(KEY, 2))
    for sample in range(2):
        sources = [
            Source(library.structure(int(i)), float(w))  # type: ignore[arg-type]
            for i, w in zip(batch.phases[sample], batch.mass_fraction[sample], strict=True)
        ]
        options = Options(
            preset="laboratory",
            two_theta=SHORT.two_theta,
            conditions={"peak_counts": 1e9},
            seed=seed_of_key_data(batch.key_data[sample]),
            accuracy="training",
        )
        alone = next(specimen_patterns(sources, options)).intensity
        # 1e9 counts at the highest point: a standard deviation of 3e-5 of it.
        assert np.abs(alone - batch.intensity[sample]).max() <= 6 * 3.2e-5 * alone.max()


@SLOW
def test_impurities_are_there_as_often_as_asked(library):
    stream = make_stream(library, SHORT, batch=256, impurities=Impurities(2, 0.3, Uniform(0.01, 0.1)), noise=False)
    batch = jax.device_get(stream.batch(KEY, 0))
    present = batch.phases[:, 1:] >= 0
    assert abs(present.mean() - 0.3) < 4 * np.sqrt(0.3 * 0.7 / present.size)
    fraction = batch.mass_fraction[:, 1:]
    assert np.all(fraction[~present] == 0)
    assert np.all((fraction[present] >= 0.01) & (fraction[present] <= 0.1))


def test_cached_equals_atoms_at_zero_strain(bundled):
    preset = dataclasses.replace(SHORT, drawn={k: v for k, v in SHORT.drawn.items() if not k.startswith("strain")})
    cached, atoms = (
        jax.device_get(make_stream(bundled, preset, batch=16, mode=mode, noise=False, scale="none").batch(KEY, 2))
        for mode in ("cached", "atoms")
    )
    np.testing.assert_array_equal(cached.structure, atoms.structure)
    # |F|^2 is stored to 2e-6 and computed in single precision to 1e-5 of the strongest.
    assert np.all(np.abs(cached.intensity - atoms.intensity).max(axis=1) <= 2e-5 * atoms.intensity.max(axis=1))


def test_cached_intensities_of_another_wavelength_are_computed_anew(library):
    at_simxrd = load_arrays(library, SIMXRD).f_squared
    assert len(library.meta.wavelengths) == 2
    for i in (0, 4, 5):
        with jax.enable_x64(True):
            crystal = make_crystal(library.structure(i), library.meta.wavelengths[1])
            rows = slice(*library.first_reflection[i : i + 2])
            expected = np.asarray(f_squared(crystal, library.hkl[rows].astype(np.int32)))
        np.testing.assert_allclose(np.asarray(at_simxrd)[rows], expected, rtol=3e-6, atol=3e-6 * expected.max())


def test_stored_f_squared_is_the_atoms(library):
    np.testing.assert_allclose(library.f_squared, library_f_squared(library), rtol=2e-6, atol=1e-9)


@pytest.mark.parametrize("preset", [LABORATORY, SIMXRD], ids=["laboratory", "simxrd"])
def test_reflections_and_members_are_those_of_the_simulator(bundled, preset: Preset):
    arrays = load_arrays(bundled, preset)
    rng = np.random.default_rng(2)
    for i in rng.choice(len(bundled), 12, replace=False):
        own = make_reflections(
            bundled.structure(int(i)),
            preset.radiation.wavelength,
            *preset.two_theta[:2],
            margin=preset.margin() + preset.max_shift,
            max_strain=preset.max_strain,
        )
        rows = slice(int(arrays.first[i]), int(arrays.first[i] + arrays.count[i]))
        np.testing.assert_array_equal(arrays.hkl[rows], own.hkl)
        np.testing.assert_array_equal(arrays.multiplicity[rows], own.multiplicity)
        if arrays.members is not None:
            rows = slice(int(arrays.members.first[i]), int(arrays.members.first[i] + arrays.members.count[i]))
            np.testing.assert_array_equal(arrays.members.reflection[rows], own.member_reflection)
            ours, theirs = (
                {(int(r), *max(h, tuple(-v for v in h))) for r, h in zip(reflection, map(tuple, hkl.tolist()), strict=True)}
                for reflection, hkl in (
                    (np.asarray(arrays.members.reflection[rows]), np.asarray(arrays.members.hkl[rows])),
                    (own.member_reflection, np.asarray(own.member_hkl)),
                )
            )
            assert ours == theirs


def test_keys_are_the_ones_promised(library):
    stream = make_stream(library, SHORT, batch=8)
    batch = stream.batch(KEY, 7)
    for i in (0, 5):
        expected = jax.random.fold_in(jax.random.fold_in(KEY, 7), i)
        np.testing.assert_array_equal(batch.key_data[i], jax.random.key_data(expected))
    later = sample_keys(KEY, 7, 4, 3)
    np.testing.assert_array_equal(jax.random.key_data(later), batch.key_data[4:7])


@pytest.mark.parametrize("chunk", [pytest.param(1, marks=SLOW), pytest.param(4, marks=SLOW), 12])
def test_neither_chunks_nor_parts_of_a_batch_change_a_draw(library, chunk):
    options = {"noise": False, "cell_variation": 0.1, "intensity_variation": 1.0}
    whole = jax.device_get(make_stream(library, SHORT, batch=12, chunk=12, **options).batch(KEY, 4))
    other = jax.device_get(make_stream(library, SHORT, batch=12, chunk=chunk, **options).batch(KEY, 4))
    part = jax.device_get(make_stream(library, SHORT, batch=4, **options).batch(KEY, 4, first=8))
    np.testing.assert_allclose(other.cell_strain, whole.cell_strain, atol=1e-6)
    np.testing.assert_allclose(part.cell_strain, whole.cell_strain[8:], atol=1e-6)
    for name, value in whole.conditions.items():
        np.testing.assert_array_equal(other.conditions[name], value, err_msg=name)
        np.testing.assert_array_equal(part.conditions[name], value[8:], err_msg=name)
    np.testing.assert_array_equal(other.structure, whole.structure)
    np.testing.assert_array_equal(part.structure, whole.structure[8:])
    # Sums over more or fewer samples at once may be ordered otherwise.
    assert np.abs(other.pattern - whole.pattern).max() < 1e-5
    assert np.abs(part.pattern - whole.pattern[8:]).max() < 1e-5


def test_bit_equal_between_calls_streams_and_whatever_ran_before(library):
    stream = make_stream(library, SHORT, batch=8)
    first = jax.device_get(stream.batch(KEY, 9))
    for step in range(3):
        stream.batch(KEY, step)
    again = jax.device_get(stream.batch(KEY, 9))
    anew = jax.device_get(make_stream(library, SHORT, batch=8).batch(KEY, jnp.asarray(9)))
    inside = jax.device_get(jax.jit(lambda s, k, n: s.batch(k, n))(stream, KEY, 9))
    for other in (again, anew, inside):
        for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(other), strict=True):
            np.testing.assert_array_equal(a, b)


def test_bit_equal_in_another_process(datasets, bundled):
    code = (
        "import sys, hashlib, jax, numpy as np\n"
        "from simxrd_jax.library.store import read_library\n"
        "from simxrd_jax.library.stream import make_stream\n"
        "from simxrd_jax.presets import get_preset\n"
        f"stream = make_stream(read_library({str(datasets / 'mp_library.simxrd')!r}), get_preset('laboratory'), batch=8)\n"
        "print(hashlib.sha256(np.asarray(stream.batch(jax.random.key(1), 40).pattern).tobytes()).hexdigest())\n"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    stream = make_stream(bundled, LABORATORY, batch=8)
    stream.batch(jax.random.key(1), 0)
    here = np.asarray(stream.batch(jax.random.key(1), 40).pattern)
    assert done.stdout.strip() == hashlib.sha256(here.tobytes()).hexdigest()


def test_one_compilation_for_all_steps_and_keys(library):
    stream = make_stream(library, SHORT, batch=5)  # a size that no other test has compiled
    events: list[str] = []
    jax.monitoring.register_event_duration_secs_listener(lambda event, *_, **__: events.append(event))
    compiled = lambda: sum("backend_compile" in event for event in events)  # noqa: E731
    jax.block_until_ready(stream.batch(KEY, 0))
    first = compiled()
    for step in range(1, 4):
        jax.block_until_ready(stream.batch(jax.random.key(step), step))
    assert 1 <= first <= 3
    assert compiled() == first


def _many(stream, draws: int) -> np.ndarray:
    take = jax.jit(lambda s, n: s.draw(KEY, n))
    steps = draws // stream.options.size
    return np.concatenate([np.asarray(take(stream, n)) for n in range(steps)])


@pytest.mark.parametrize("sampling", ["uniform", "balanced", "square_root", "given"])
def test_a_hundred_thousand_draws_follow_the_weights(bundled, sampling):
    groups = bundled.space_group.astype(np.int64)
    counts = np.bincount(groups, minlength=231)
    weights = {
        "uniform": np.ones(len(bundled)),
        "balanced": 1.0 / counts[groups],
        "square_root": counts[groups] ** -0.5,
        "given": np.random.default_rng(0).uniform(0, 1, len(bundled)),
    }[sampling]
    stream = make_stream(bundled, LABORATORY, batch=1000, chunk=8, sampling=weights if sampling == "given" else sampling)
    drawn = _many(stream, 100_000)
    seen = np.bincount(groups, np.bincount(drawn, minlength=len(bundled)), minlength=231)
    expected = np.bincount(groups, weights, minlength=231) / weights.sum() * len(drawn)
    large = expected > 10
    pooled = lambda v: np.append(v[large], [v[~large].sum()] if v[~large].any() else [])  # noqa: E731
    assert chisquare(pooled(seen), pooled(expected)).pvalue > 1e-3
    if sampling == "uniform":
        assert chisquare(np.bincount(drawn, minlength=len(bundled))).pvalue > 1e-3


def test_parts_of_a_split_are_kept_apart(bundled):
    codes = bundled.splits["ool_disjoint"]
    for code, part in enumerate(("train", "validation", "test")):
        stream = make_stream(bundled, LABORATORY, batch=200, chunk=8, split="ool_disjoint", part=part)
        assert np.all(codes[_many(stream, 2000)] == code)
    whole = make_stream(bundled, LABORATORY, batch=200, chunk=8, split="in_library", part="test")
    assert whole.subset.shape[0] == len(bundled)


def test_labels_and_ids(bundled):
    stream = make_stream(bundled, SHORT, batch=16, noise=False)
    batch = jax.device_get(stream.batch(KEY, 0))
    names = class_names(bundled, "crystal_system")
    assert names == tuple(name for _, name in CRYSTAL_SYSTEMS)
    for i, structure in enumerate(batch.structure):
        record = bundled.structure(int(structure))
        assert record.name == bundled.ids[structure]
        assert batch.labels["space_group"][i] == record.space_group_number
        assert names[batch.labels["crystal_system"][i]] == record.crystal_system
        group = batch.labels["extinction_group"][i]
        assert class_names(bundled, "extinction_group")[group].startswith(record.crystal_system)
    assert class_names(bundled, "space_group")[225] == "225"


def test_strain_keeps_the_class_or_breaks_it(library):
    index = library.index_of("Si")
    keeping = make_stream(library, SHORT, batch=2, mode="atoms", noise=False)
    batch = jax.device_get(keeping.patterns_of(np.full(2, index), KEY))
    e = np.array([[batch.conditions[f"strain_{i}{j}"] for j in "xyz"] for i in "xyz"])
    # A cubic cell keeps its class under a pure expansion only.
    np.testing.assert_allclose(e, np.eye(3)[:, :, None] * e[0, 0], atol=1e-7)
    assert np.abs(e[0, 0]).min() > 1e-5
    breaking = make_stream(library, SHORT, batch=2, mode="atoms", noise=False, split_orbits=True)
    split = jax.device_get(breaking.patterns_of(np.full(2, index), KEY))
    assert np.abs(split.conditions["strain_xy"]).min() > 0
    assert np.all(split.labels["space_group"] == 227)


@pytest.mark.parametrize("name", ["Al2O3", "ZrO2_monoclinic", "Si", "triclinic"])
def test_acting_strain_gives_the_averaged_cell(library, name):
    structure = library.structure(library.index_of(name))
    with jax.enable_x64(True):
        rotations = jnp.asarray(symmetry.laue_rotations(structure.rotations))
        strain = jnp.asarray(np.random.default_rng(3).normal(0, 0.01, (3, 3)))
        lattice = jnp.asarray(structure.lattice)
        expected = cell.laue_average(cell.metric(lattice @ (jnp.eye(3) + strain).T), rotations)
        acting = cell.class_keeping_strain(lattice, strain, rotations)
        np.testing.assert_allclose(acting, acting.T, atol=1e-12)
        ours = cell.metric(lattice @ (jnp.eye(3) + acting).T)
        # The first term that the series of the square root leaves out is 7 E^5/256; it counts twice in the metric.
        size = float(jnp.linalg.norm(strain + strain.T + strain.T @ strain, 2))
        np.testing.assert_allclose(ours, expected, rtol=0, atol=14 / 256 * size**5 * float(jnp.linalg.norm(expected, 2)))


def test_displaced_atoms_keep_the_space_group(library):
    preset = dataclasses.replace(SHORT, drawn={k: v for k, v in SHORT.drawn.items() if not k.startswith("strain")})
    plain = make_stream(library, preset, batch=2, mode="atoms", noise=False, scale="none")
    moved = make_stream(library, preset, batch=2, mode="atoms", noise=False, scale="none", position_rms=0.05)
    for name, free in (("LaB6", True), ("Si", False)):
        index = np.full(2, library.index_of(name))
        a, b = (jax.device_get(s.patterns_of(index, KEY)).intensity for s in (plain, moved))
        change = np.abs(a - b).max() / a.max()
        # Silicon's site leaves no freedom; boron's x in LaB6 is free.
        assert change > 1e-3 if free else change < 2e-6
    # The atoms of a site move as its symmetry has it: |F|^2 stays equal over an orbit of the Laue group.
    needs = ArrayNeeds(library.meta.fingerprint, LABORATORY.inverse_d_bounds(), "atoms", vary_positions=True)
    arrays = load_arrays(library, LABORATORY, needs)
    assert arrays.atoms is not None
    index = library.index_of("quartz")
    rows = slice(int(arrays.atoms.first[index]), int(arrays.atoms.first[index] + arrays.atoms.count[index]))
    draws = {int(s): np.random.default_rng(int(s)).normal(0, 0.01, 3) for s in np.unique(arrays.atoms.site[rows])}
    shift = [m @ draws[int(s)] for m, s in zip(np.asarray(arrays.atoms.motion[rows]), arrays.atoms.site[rows], strict=True)]
    frac = np.asarray(arrays.atoms.frac[rows]) + np.array(shift)
    structure = library.structure(index)
    rotations, translations, centring = symmetry.split_centring(structure.rotations, structure.translations)
    for rotation, translation in zip(rotations, translations, strict=True):
        distance = symmetry.distances(frac @ rotation.T + translation, frac, structure.lattice, centring)
        assert distance.min(axis=1).max() < 1e-5


@SLOW
def test_site_displacement_parameters_vary(library):
    plain = make_stream(library, SHORT, batch=2, mode="atoms", noise=False, scale="none")
    varied = make_stream(library, SHORT, batch=2, mode="atoms", noise=False, scale="none", site_biso=2.0)
    index = np.full(2, library.index_of("Al2O3"))
    a, b = (jax.device_get(s.patterns_of(index, KEY)).intensity for s in (plain, varied))
    assert np.all(b.sum(axis=1) < a.sum(axis=1))


def test_scales():
    y = jnp.asarray([[0.0, 1.0, 4.0], [-1.0, 2.0, 8.0]])
    np.testing.assert_allclose(scaled(y, "none", 0.5), y)
    np.testing.assert_allclose(scaled(y, "maximum", 0.5), [[0, 0.25, 1], [-0.125, 0.25, 1]])
    np.testing.assert_allclose(scaled(y, "area", 0.5), y / np.array([[2.5], [4.5]]), rtol=1e-6)
    np.testing.assert_allclose(scaled(y, "square_root", 0.5), [[0, 0.5, 1], [0, 0.5, 1]])
    log = np.asarray(scaled(y, "log", 0.5))
    assert log[0, 0] == log[1, 0] == 0
    np.testing.assert_allclose(log[:, 2], 1.0)
    assert log[0, 1] == pytest.approx(np.log(251) / np.log(1001))
    assert np.all(np.isfinite(scaled(jnp.zeros((1, 4)), "log", 0.5)))


def test_padding_is_a_small_share(bundled):
    stream = make_stream(bundled, LABORATORY, batch=512)
    shares = []
    for step in range(5):
        used, slots = stream.reflection_slots(stream.draw(KEY, step))
        shares.append(1 - int(used) / int(slots))
    assert 0 < np.mean(shares) <= 0.25


def test_bad_arguments(library, bundled):
    def refuse(match: str, of: Library = library, preset: Preset = LABORATORY, **arguments):
        with pytest.raises(InputError, match=match):
            make_stream(of, preset, **{"batch": 8, **arguments})

    refuse("3 weights for the 8 structures", sampling=np.ones(3))
    refuse("not negative", sampling=-np.ones(8))
    refuse("not all 0", sampling=np.zeros(8))
    refuse("no sampling 'balancd'; did you mean balanced", sampling="balancd")
    refuse("no split 'ool_disjont'; did you mean ool_disjoint", split="ool_disjont")
    refuse("no part 'tests'; did you mean test", split="ool_random", part="tests")
    refuse("no mode 'fast'", mode="fast")
    refuse("no scale 'max'", scale="max")
    refuse("do not divide", chunk=3)
    refuse("is empty", batch=0)
    refuse('only in the mode "atoms"', position_rms=0.1)
    refuse("leave no room", impurities=Impurities(2, 0.5, Uniform(0.1, 0.6)))
    refuse("wavelength 0.4139", preset=PRESETS["synchrotron"])
    refuse(
        "needs .* build one with --preset laboratory", preset=dataclasses.replace(LABORATORY, two_theta=(10.0, 100.0, 0.02))
    )
    stream = make_stream(bundled, SHORT, batch=8)
    with pytest.raises(InputError, match="3 structures for a batch of 8"):
        stream.patterns_of(np.arange(3), KEY)
    for wrong in (np.full(8, -1), np.full(8, 2048), np.full(8, 1.7)):
        with pytest.raises(InputError, match="whole numbers from 0 to 2047"):
            stream.patterns_of(wrong, KEY)
    for step in (-1, 2**32, 1.5, True):
        with pytest.raises(InputError, match=r"step .* must be a whole number"):
            stream.batch(KEY, step)
    assert np.all(np.isfinite(stream.batch(KEY, 2**32 - 1).pattern))
    cached = make_stream(library, LABORATORY, batch=8).arrays
    for changed in ({"mode": "atoms"}, {"preset": SIMXRD}, {"of": bundled}):
        refuse("another library, preset or mode", arrays=cached, **changed)
    refuse("x64 off", dtype=np.float64)
    refuse("no preset 'laboratry'; did you mean laboratory", preset="laboratry")
    refuse("weights are no numbers", sampling=["a"] * 8)
    with jax.enable_x64(True):
        refuse("x64 on", dtype=np.float32)


def test_great_weights_and_single_structures(bundled):
    stream = make_stream(bundled, "laboratory", batch=512, sampling=np.full(len(bundled), 1e308))
    assert len(np.unique(stream.draw(KEY, 0))) > 400
    one = np.zeros(len(bundled))
    one[17] = 1e-300
    assert np.all(np.asarray(make_stream(bundled, "laboratory", batch=8, sampling=one).draw(KEY, 0)) == 17)


def test_species_of_a_mixed_position_move_together():
    from pymatgen.core import Lattice, Structure

    lattice = Lattice.from_parameters(5, 6, 7, 80, 85, 95)
    mixed = Structure(lattice, [{"Fe": 0.5, "Co": 0.5}, "O"], [[0.1, 0.2, 0.3], [0.6, 0.5, 0.8]])
    library = library_of([mixed])
    needs = ArrayNeeds(library.meta.fingerprint, LABORATORY.inverse_d_bounds(), "atoms", vary_positions=True)
    arrays = load_arrays(library, LABORATORY, needs)
    assert arrays.atoms is not None
    sites = np.asarray(arrays.atoms.site)[: int(arrays.atoms.count[0])]
    assert len(sites) == 3
    assert len(np.unique(sites)) == 2


def _varied(library: Library, name: str, count: int = 4, **options):
    """A stream of ideal patterns without noise, and a batch of one structure from it."""
    stream = make_stream(library, _sharp(), batch=count, noise=False, scale="none", settings=None, **options)
    structures = jnp.full(count, library.index_of(name), jnp.int32)
    return stream, stream.patterns_of(structures, KEY)


def _sharp() -> Preset:
    """Lines of one width, alike for all crystals, and nothing that is drawn."""
    return dataclasses.replace(PRESETS["ideal"], two_theta=(10.0, 80.0, 0.05))


def test_varied_cells_keep_their_class_and_are_not_lengthened(library):
    names = {"LaB6": "cubic", "TiO2_rutile": "tetragonal", "quartz": "trigonal", "ZrO2_monoclinic": "monoclinic"}
    for name, system in names.items():
        stream, made = _varied(library, name, cell_variation=0.15)
        strain = np.asarray(made.cell_strain, dtype=np.float64)
        lattice = np.asarray(stream.arrays.lattice[library.index_of(name)], dtype=np.float64)
        for each in strain:
            np.testing.assert_allclose(each, each.T, atol=1e-6)
            a, b, c, alpha, beta, gamma = symmetry.cell_parameters(lattice @ (np.eye(3) + each))
            if system == "cubic":
                np.testing.assert_allclose([b, c, alpha, beta, gamma], [a, a, 90, 90, 90], rtol=1e-5)
            elif system == "tetragonal":
                np.testing.assert_allclose([b, alpha, beta, gamma], [a, 90, 90, 90], rtol=1e-5)
            elif system == "trigonal":
                np.testing.assert_allclose([b, alpha, beta, gamma], [a, 90, 90, 120], rtol=1e-5)
            else:
                np.testing.assert_allclose([alpha, gamma], [90, 90], rtol=1e-5)
        assert np.diagonal(strain, axis1=1, axis2=2).max() < 1e-6
        assert strain.min() > -0.2
        assert np.unique(np.round(strain[:, 0, 0], 6)).size == len(strain)  # each sample has its own


def test_a_varied_crystal_is_the_crystal_with_that_cell(library):
    """Its pattern is that of the other cell with the same |F|^2."""
    stream, made = _varied(library, "TiO2_rutile", cell_variation=0.1)
    index = library.index_of("TiO2_rutile")
    lattice = np.asarray(stream.arrays.lattice[index], dtype=np.float64)
    for sample in range(2):
        lattice_of_sample = lattice @ (np.eye(3) + np.asarray(made.cell_strain[sample], dtype=np.float64))
        moved = dataclasses.replace(stream.arrays, lattice=stream.arrays.lattice.at[index].set(lattice_of_sample))
        plain = stream.of_real_crystals().replace(arrays=moved)
        other = plain.patterns_of(made.structure, KEY)
        highest = float(other.intensity[sample].max())
        np.testing.assert_allclose(made.intensity[sample], other.intensity[sample], atol=2e-4 * highest)
    assert plain.patterns_of(made.structure, KEY).cell_strain is None


def test_varied_intensities_leave_places_and_absences(library):
    _, real = _varied(library, "Si")
    _, varied = _varied(library, "Si", intensity_variation=1.0)
    highest = float(real.intensity.max())
    assert varied.cell_strain is None
    for sample in range(4):
        ratio = np.asarray(varied.intensity[sample]) / np.asarray(real.intensity[sample])
        seen = np.asarray(real.intensity[sample]) > 0.02 * highest
        # Diamond has five lines here; where there is none, there is none now.
        assert np.asarray(varied.intensity[sample])[np.asarray(real.intensity[sample]) < 1e-6 * highest].max() < 1e-3 * highest
        assert np.ptp(np.log(ratio[seen])) > 0.01
    assert np.ptp(np.log(np.asarray(varied.intensity).max(axis=1))) > 0.01


def test_variations_of_crystals_are_checked(library):
    for name, value in (("cell_variation", 0.5), ("intensity_variation", -1.0), ("cell_variation", float("nan"))):
        with pytest.raises(InputError, match=f"{name}={value} must be from 0 to"):
            make_stream(library, "laboratory", batch=2, **{name: value})
