"""Sets of simulated patterns: against the stream itself, what decides a record, what is written of it, what is refused."""

from __future__ import annotations

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simxrd_jax.conditions import STRAIN
from simxrd_jax.errors import InputError
from simxrd_jax.export.features import CONDITION_PREFIX, Columns, checked_columns, joined
from simxrd_jax.export.generate import Request, features_of, make_job, with_values
from simxrd_jax.export.recipes import RECIPES, get_recipe
from simxrd_jax.export.writer import Job
from simxrd_jax.library.store import Library, read_library
from simxrd_jax.library.stream import Impurities, make_stream
from simxrd_jax.presets import PRESETS, Choice, Uniform, get_preset, key_of_seed
from simxrd_jax.train.state import network_input, part_key

# A coarse grid and few effects: what is tested here does not depend on them.
PLAIN = dataclasses.replace(
    PRESETS["ideal"],
    two_theta=(10.0, 80.0, 0.1),
    fixed={"caglioti_w": 0.04},
    drawn={
        "grain_size": Uniform(100.0, 300.0),
        "strain_xx": Uniform(-0.01, 0.01),
        "march_dollase": Uniform(0.5, 1.5),
        "texture_axis": Choice(((0, 0, 1), (1, 1, 0))),
        "uniform_noise": Uniform(0.0, 0.1),
    },
    max_strain=0.01,
)
MIXED = Impurities(1, 0.5, Uniform(0.2, 0.3))
DRAWN = Request(PLAIN, count=21, seed=5, shard_size=16)


def records_of(job: Job, start: int = 0, stop: int | None = None) -> Columns:
    """All records of a job, or some, made as the writer makes them."""
    blocks = [checked_columns(b.columns, job.features) for b in job.blocks([job.range_of(i) for i in range(job.shard_count)])]
    return {name: values[start:stop] for name, values in joined(blocks, job.features).items()}


@pytest.fixture(scope="module")
def drawn(library: Library) -> Columns:
    return records_of(make_job(library, DRAWN))


def test_drawn_records_are_those_of_the_stream(library, drawn):
    """Whatever the batches: here three of 8 in place of 16 and 5."""
    stream = make_stream(library, PLAIN, batch=8)
    batches = [jax.device_get(stream.batch(key_of_seed(5), 0, first)) for first in (0, 8, 16)]
    batch = jax.tree.map(lambda *parts: np.concatenate(parts), *batches)
    np.testing.assert_allclose(drawn["intensity"], np.asarray(network_input(batch))[:21], atol=2e-3)
    np.testing.assert_array_equal(drawn["structure"], batch.structure[:21])
    np.testing.assert_array_equal(drawn["key_data"], batch.key_data[:21])
    np.testing.assert_array_equal(drawn["structure_id"], library.ids[batch.structure[:21]])
    for name, values in batch.labels.items():
        np.testing.assert_array_equal(drawn[name], values[:21])
    for name, values in drawn.items():
        if name.startswith(CONDITION_PREFIX):
            np.testing.assert_array_equal(values, batch.conditions[name.removeprefix(CONDITION_PREFIX)][:21])
    assert drawn["intensity"].max() == 100.0
    assert len(set(drawn["structure"])) > 2


def test_the_same_shard_has_the_same_bits(library, drawn):
    """What a resumed run rests on."""
    job = make_job(library, DRAWN)
    again = [checked_columns(b.columns, job.features) for b in job.blocks([(16, 21)])]
    for name, values in joined(again, job.features).items():
        np.testing.assert_array_equal(values, drawn[name][16:])


def test_features_are_the_conditions_that_vary(library):
    """Every condition of the batch is among the features or the same in all samples."""
    for impurities in (None, MIXED):
        stream = make_stream(library, PLAIN, batch=8, impurities=impurities)
        batch = jax.device_get(stream.batch(key_of_seed(0), 0))
        features = {f.name: f for f in features_of(stream, library)}
        listed = {name.removeprefix(CONDITION_PREFIX) for name in features if name.startswith(CONDITION_PREFIX)}
        varying = {name for name, values in batch.conditions.items() if np.ptp(values, axis=0).any()}
        assert varying <= listed <= set(batch.conditions)
        for name in listed:
            assert features[CONDITION_PREFIX + name].shape == batch.conditions[name].shape[1:]
        assert ("phases" in features) == (impurities is not None)
        # Of a drawn strain each structure keeps what its class allows; a mixture has the drawn one.
        assert set(STRAIN) & listed == (set(STRAIN) if impurities is None else {"strain_xx"})


def test_a_number_of_patterns_of_each_structure(library):
    request = Request(PLAIN, per_structure=3, shard_size=8)
    made = records_of(make_job(library, request))
    np.testing.assert_array_equal(made["structure"], np.tile(np.arange(5), 3))
    key = key_of_seed(0)
    for i in (0, 7, 14):
        wanted = jax.random.fold_in(jax.random.fold_in(key, i % 5), i // 5)
        np.testing.assert_array_equal(made["key_data"][i], jax.random.key_data(wanted))
    fewer = records_of(make_job(library, dataclasses.replace(request, per_structure=2)))
    for name, values in fewer.items():
        np.testing.assert_array_equal(values[:8], made[name][:8])
    assert len(np.unique(made["conditions/grain_size"])) == 15


def test_a_mixture_has_its_phases(library):
    request = Request(PLAIN, count=32, impurities=MIXED, shard_size=8)
    made = records_of(make_job(library, request))
    np.testing.assert_array_equal(made["phases"][:, 0], made["structure"])
    alone = made["phases"][:, 1] < 0
    assert 5 < alone.sum() < 27
    np.testing.assert_allclose(made["mass_fraction"].sum(axis=1), 1.0, rtol=1e-6)
    np.testing.assert_array_equal(made["mass_fraction"][alone, 1], 0.0)


def test_parts_that_share_structures_share_no_pattern(library):
    parts = [
        records_of(make_job(library, Request(PLAIN, per_structure=1, split="in_library", part=part, shard_size=8)))
        for part in ("train", "test")
    ]
    np.testing.assert_array_equal(parts[0]["structure"], parts[1]["structure"])
    assert not set(map(tuple, parts[0]["key_data"].tolist())) & set(map(tuple, parts[1]["key_data"].tolist()))
    key = jax.random.fold_in(jax.random.fold_in(part_key(key_of_seed(0), "in_library test"), 0), 0)
    np.testing.assert_array_equal(parts[1]["key_data"][0], jax.random.key_data(key))


def test_a_part_of_a_split_holds_its_structures(library):
    job = make_job(library, Request(PLAIN, per_structure=1, split="ool_published", part="test", shard_size=8))
    wanted = np.flatnonzero(library.splits["ool_published"] == 2)
    assert job.part == "test"
    np.testing.assert_array_equal(records_of(job)["structure"], wanted)


def test_conditions_set_by_hand_are_fixed_and_widen_the_reach():
    preset = with_values(get_preset("laboratory"), {"grain_size": 321.0, "zero_shift": 1.0, "strain_xx": 0.05})
    assert preset.fixed["grain_size"] == 321.0
    assert "grain_size" not in preset.drawn
    assert preset.max_shift == 1.0
    assert preset.max_strain > 0.05
    assert with_values(preset, {}) is preset
    with pytest.raises(InputError, match="no condition 'grainsize'"):
        with_values(preset, {"grainsize": 1.0})
    with pytest.raises(InputError, match="march_dollase"):
        with_values(get_preset("ideal"), {"texture_axis": (0.0, 0.0, 1.0)})


def test_the_config_says_all_that_decides(library):
    """Every change of a request but the recipe's name changes it, and it is JSON."""
    base = Request(PLAIN, count=16)
    configs = [
        json.dumps(make_job(library, request).config, sort_keys=True)
        for request in (
            base,
            dataclasses.replace(base, count=17),
            dataclasses.replace(base, count=None, per_structure=2),
            dataclasses.replace(base, seed=1),
            dataclasses.replace(base, split="in_library"),
            dataclasses.replace(base, split="in_library", part="test"),
            dataclasses.replace(base, sampling="balanced"),
            dataclasses.replace(base, shard_size=8),
            dataclasses.replace(base, values={"grain_size": 200.0}),
            dataclasses.replace(base, impurities=Impurities(1, 0.5, Uniform(0.1, 0.3))),
            dataclasses.replace(base, preset=dataclasses.replace(PLAIN, drawn={"grain_size": Uniform(100.0, 300.1)})),
        )
    ]
    assert len(set(configs)) == len(configs)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"count": None}, "how many patterns"),
        ({"per_structure": 2}, "how many patterns"),
        ({"count": 0}, "the count 0 must be at least 1"),
        ({"count": None, "per_structure": 0}, "the number per structure 0 must be at least 1"),
        ({"count": 2**32 + 1}, "give each part of them a seed of its own"),
        ({"seed": -1}, "the seed -1 must be from 0"),
        ({"seed": 2**64}, "must be from 0 to 18446744073709551615"),
        ({"shard_size": 0}, "a shard size of 0 must be at least 1"),
        ({"count": None, "per_structure": 1, "sampling": "balanced"}, "leaves nothing to sample"),
        ({"preset": "labratory"}, "did you mean laboratory"),
        ({"split": "ool"}, "no split 'ool'"),
        ({"values": {"grain_size": -1.0}}, "outside its range"),
        ({"preset": "synchrotron"}, "wavelength"),
    ],
)
def test_bad_requests_are_refused_in_a_sentence(library, changes, message):
    with pytest.raises(InputError, match=message) as caught:
        make_job(library, dataclasses.replace(Request(PLAIN, count=8), **changes))
    assert "\n" not in str(caught.value)


# --- Recipes ---------------------------------------------------------------------------------------------------------------


def test_recipes_are_the_simulated_sets_of_the_table():
    """Counts of the table of data sets: patterns and structures."""
    each = {name: r.per_structure for name, r in RECIPES.items() if r.per_structure}
    structures = {
        "xrdsp": 169_536,
        "xrd-autoanalyzer": 255,
        "xrd-is-all-you-need-icsd": 189_476,
        "xrd-is-all-you-need-mp": 139_027,
        "advanced-xrd-analysis": 197_131,
        "crystinet": 100,
        "cpicann": 23_073,
        "simxrd-4m": 119_569,
    }
    totals = {name: each[name] * count for name, count in structures.items()}
    assert set(each) == set(structures)
    assert totals["xrdsp"] == 169_536
    assert totals["xrd-autoanalyzer"] == 38_250
    assert totals["xrd-is-all-you-need-icsd"] + totals["xrd-is-all-you-need-mp"] == 328_503
    assert totals["advanced-xrd-analysis"] == 29_569_650
    assert totals["crystinet"] == 100
    assert totals["cpicann"] == 692_190
    assert totals["simxrd-4m"] == 4_065_346
    assert RECIPES["cnn-sr-li-al-o"].count == 1_785_405
    assert RECIPES["pqnet"].count == 250_000
    assert len(RECIPES) == 10


def test_recipes_say_what_is_not_known_and_what_library_they_need(datasets):
    meta = read_library(datasets / "mp_library.simxrd").meta
    for recipe in RECIPES.values():
        assert (recipe.count is None) != (recipe.per_structure is None)
        assert recipe.reference
        assert recipe.published
        assert recipe.unknown
        low, high = recipe.preset.inverse_d_bounds()
        suffices = meta.inverse_d_min <= low < high <= meta.inverse_d_max
        assert suffices != (f"build the library with --preset {recipe.preset.name}" in recipe.conditions)
        assert get_preset(recipe.preset.name) is recipe.preset
    assert get_recipe("simxrd-4m").preset is PRESETS["simxrd"]
    with pytest.raises(InputError, match="did you mean simxrd-4m"):
        get_recipe("simxrd4m")


def test_autoanalyzer_has_the_points_of_its_networks():
    grid = RECIPES["xrd-autoanalyzer"].preset.grid()
    assert grid.size == 4501
    assert jnp.asarray(grid.two_theta)[-1] == pytest.approx(80.0)
