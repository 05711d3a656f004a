"""Splits: no leak where none may be, sizes, independence of order, and tables that can be recounted by hand."""

from __future__ import annotations

import json
import pathlib
import time
from collections import Counter
from typing import Any

import gemmi
import numpy as np
import pytest

from simxrd_jax.errors import InputError
from simxrd_jax.library.extinction import extinction_groups
from simxrd_jax.library.splits import PARTS, SPLITS, check_leakage, make_splits

Columns = tuple[list[str], list[str], np.ndarray, list[str]]


def _library(n: int, seed: int, n_formula: int = 0, n_prototype: int = 0) -> Columns:
    """Structures of random formulas and prototypes in a dozen space groups, the low ones frequent."""
    rng = np.random.default_rng(seed)
    numbers = np.array([225, 62, 14, 2, 12, 166, 205, 152, 19, 87, 1, 230])
    groups = numbers[np.minimum(rng.geometric(0.3, n) - 1, len(numbers) - 1)]
    formulas = [f"F{v}" for v in rng.integers(0, n_formula or n, n)]
    prototypes = [f"{g}|{v}" for g, v in zip(groups, rng.integers(0, n_prototype or max(1, n // 20), n), strict=True)]
    return [f"mp-{v}" for v in rng.choice(10 * n, n, replace=False)], formulas, groups, prototypes


def _shared(codes: np.ndarray, keys: list[Any], first: int, second: int) -> tuple[int, int]:
    """Keys on both sides and structures of the second side that have one, counted with sets."""
    on_first = {k for k, c in zip(keys, codes, strict=True) if c == first}
    affected = [k for k, c in zip(keys, codes, strict=True) if c == second and k in on_first]
    return len(set(affected)), len(affected)


def test_codes_and_names():
    codes, meta = make_splits(*_library(200, 0))
    assert tuple(codes) == tuple(meta) == SPLITS
    for values in codes.values():
        assert values.dtype == np.uint8
        assert values.shape == (200,)
        assert values.max() <= 2
    assert not codes["in_library"].any()
    assert meta["in_library"]["sizes"] == dict.fromkeys(PARTS, 200)


@pytest.mark.parametrize("seed", range(12))
def test_disjoint_leaks_nothing_and_random_does(seed: int):
    ids, formulas, groups, prototypes = _library(400, seed, n_formula=300)
    codes, meta = make_splits(ids, formulas, groups, prototypes, seed=seed)
    pairs = list(zip(formulas, groups.tolist(), strict=True))
    for split in SPLITS[1:]:
        found = check_leakage(codes[split], formulas, groups, prototypes)
        assert found == meta[split]["leakage"]
        for a, b in ((0, 1), (0, 2), (1, 2)):
            for name, keys in (("formula_space_group", pairs), ("prototype", prototypes)):
                entry = found[f"{PARTS[a]}/{PARTS[b]}"][name]
                assert (entry["shared"], entry["structures"]) == _shared(codes[split], keys, a, b)
                if split == "ool_disjoint":
                    assert entry["shared"] == 0
    assert meta["ool_random"]["leakage"]["train/test"]["prototype"]["shared"] > 10
    assert meta["ool_random"]["leakage"]["train/test"]["formula_space_group"]["shared"] > 0
    assert meta["in_library"]["leakage"]["train/test"]["prototype"] == {"shared": len(set(prototypes)), "structures": 400}


@pytest.mark.parametrize("seed", range(12))
def test_components_are_those_of_a_plain_search(seed: int):
    ids, formulas, groups, prototypes = _library(60, seed, n_formula=40, n_prototype=12)
    label = list(range(60))
    has_changed = True
    while has_changed:
        has_changed = False
        for i in range(60):
            for j in range(60):
                is_linked = prototypes[i] == prototypes[j] or (formulas[i] == formulas[j] and groups[i] == groups[j])
                if is_linked and label[i] != label[j]:
                    label[i] = label[j] = min(label[i], label[j])
                    has_changed = True
    sizes = Counter(label)
    codes, meta = make_splits(ids, formulas, groups, prototypes)
    assert meta["ool_disjoint"]["components"] == {
        "count": len(sizes),
        "single": sum(v == 1 for v in sizes.values()),
        "largest": max(sizes.values()),
        "largest_share": max(sizes.values()) / 60,
    }
    parts_of = {(component, part) for component, part in zip(label, codes["ool_disjoint"].tolist(), strict=True)}
    assert len(parts_of) == len(sizes)


def test_a_chain_of_formulas_and_prototypes_is_one_component():
    formulas = ["A", "A", "B", "B", "C"]
    prototypes = ["p", "q", "q", "r", "r"]
    codes, meta = make_splits(list("abcde"), formulas, [1] * 5, prototypes)
    assert meta["ool_disjoint"]["components"]["count"] == 1
    assert not codes["ool_disjoint"].any()  # larger than every part: all in train
    _, meta = make_splits(list("abcde"), formulas, [1, 1, 2, 2, 3], prototypes)  # the links by prototype remain
    assert meta["ool_disjoint"]["components"]["count"] == 1
    _, meta = make_splits(list("abcde"), formulas, [1, 2, 3, 4, 5], list("pqrst"))  # a formula alone links nothing
    assert meta["ool_disjoint"]["components"]["count"] == 5


@pytest.mark.parametrize("groups", [[152, 154], [213, 212], [76, 78]])
def test_the_two_hands_of_a_crystal_are_one_pair(groups: list[int]):
    codes, meta = make_splits(["a", "b"], ["SiO2", "SiO2"], groups, ["p", "q"])
    assert meta["ool_disjoint"]["components"]["count"] == 1
    assert not codes["ool_disjoint"].any()
    assert meta["in_library"]["classes"]["space_group"]["names"] == sorted(groups)  # the label keeps the hand
    found = check_leakage(np.array([0, 2]), ["SiO2", "SiO2"], groups, ["p", "q"])
    assert found["train/test"]["formula_space_group"] == {"shared": 1, "structures": 1}
    _, meta = make_splits(["a", "b"], ["SiO2", "SiO2"], [152, 151], ["p", "q"])
    assert meta["ool_disjoint"]["components"]["count"] == 2


def test_published_cut_is_in_string_order():
    names = ["mp-2", "mp-1000", "mp-10", "mp-1", "mp-10003", "mp-100", "mp-9", "mp-10000", "mp-11", "mp-3"]
    codes, _ = make_splits(names, names, [1] * 10, names)
    order = ["mp-1", "mp-10", "mp-100", "mp-1000", "mp-10000", "mp-10003", "mp-11", "mp-2", "mp-3", "mp-9"]
    assert [int(codes["ool_published"][names.index(v)]) for v in order] == [0] * 7 + [1] + [2] * 2


def test_published_sizes_and_speed():
    n = 119_569
    names = [f"mp-{i}" for i in range(n)]
    groups = np.random.default_rng(0).integers(1, 231, n)
    start = time.perf_counter()
    _, meta = make_splits(names, names, groups, names)  # every structure a component: the slowest case
    assert time.perf_counter() - start < 5.0  # 1.9 s on two cores
    assert meta["ool_published"]["sizes"] == {"train": 83_698, "validation": 11_956, "test": 23_915}
    assert meta["ool_disjoint"]["sizes"] == {"train": 83_698, "validation": 11_956, "test": 23_915}
    for part, share in zip(PARTS, (0.7, 0.1, 0.2), strict=True):  # six standard deviations of a binomial draw
        assert abs(meta["ool_random"]["sizes"][part] / n - share) < 6 * np.sqrt(share * (1 - share) / n)


def test_codes_do_not_change_between_versions():
    """Of the ids alone, so a library that was published keeps its meaning."""
    names = [f"mp-{i}" for i in range(24)]
    codes, _ = make_splits(names, names, [1] * 24, names, seed=7)
    assert "".join(map(str, codes["ool_random"])) == "100000001000020012200000"
    assert "".join(map(str, codes["ool_disjoint"])) == "000110020000022000202002"


@pytest.mark.parametrize("seed", range(4))
def test_order_of_the_library_does_not_matter(seed: int):
    ids, formulas, groups, prototypes = _library(500, seed, n_formula=300)
    order = np.random.default_rng(seed + 100).permutation(500)
    moved: list[Any] = [[column[i] for i in order] for column in (ids, formulas, groups, prototypes)]
    codes, meta = make_splits(ids, formulas, groups, prototypes, seed=3)
    moved_codes, moved_meta = make_splits(*moved, seed=3)
    assert moved_meta == meta
    for split in SPLITS:
        np.testing.assert_array_equal(moved_codes[split], codes[split][order])


def test_seeds_and_repeats():
    columns = _library(500, 5)
    codes, meta = make_splits(*columns, seed=1)
    again, meta_again = make_splits(*columns, seed=1)
    other, _ = make_splits(*columns, seed=2)
    assert meta == meta_again
    for split in SPLITS:
        np.testing.assert_array_equal(codes[split], again[split])
        assert (codes[split] != other[split]).any() == (split in ("ool_random", "ool_disjoint"))


def test_random_stays_when_structures_are_added():
    ids, formulas, groups, prototypes = _library(1000, 8)
    few, _ = make_splits(ids[:300], formulas[:300], groups[:300], prototypes[:300])
    many, _ = make_splits(ids, formulas, groups, prototypes)
    np.testing.assert_array_equal(few["ool_random"], many["ool_random"][:300])


@pytest.mark.parametrize("n", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("seed", range(6))
def test_tiny_libraries(n: int, seed: int):
    columns = _library(n, seed)
    codes, meta = make_splits(*columns, seed=seed)
    json.dumps(meta, allow_nan=False)
    for split in SPLITS:
        assert (codes[split] == 0).any()
        assert meta[split]["sizes"]["train"] > 0
        for table in meta[split]["classes"].values():
            for part in PARTS:
                assert (table["baseline"][part] is None) == (meta[split]["sizes"][part] == 0)


def test_three_unrelated_structures_make_a_test_set():
    codes, _ = make_splits(list("abc"), list("abc"), [1, 2, 3], list("abc"))
    assert sorted(codes["ool_disjoint"].tolist()) == [0, 0, 2]
    assert codes["ool_published"].tolist() == [0, 0, 2]


def test_components_too_large_for_a_part():
    """90 of 100 go to train, which is then full: the others fill validation and test in proportion."""
    names = [f"s{i}" for i in range(100)]
    prototypes = ["giant"] * 90 + names[90:]
    codes, meta = make_splits(names, names, [225] * 100, prototypes)
    assert not codes["ool_disjoint"][:90].any()
    assert meta["ool_disjoint"]["components"]["largest_share"] == 0.9
    assert (codes["ool_disjoint"][90:] != 0).all()
    # 60 fit only train; 35 fit nowhere then and go where most room is left.
    prototypes = ["a"] * 60 + ["b"] * 35 + names[95:]
    codes, _ = make_splits(names, names, [225] * 100, prototypes)
    assert not codes["ool_disjoint"][:60].any()
    assert (codes["ool_disjoint"][60:95] == 2).all()
    assert (codes["ool_disjoint"][95:] != 2).all()


def test_train_is_not_empty_when_its_share_is_small():
    names = [f"s{i}" for i in range(10)]
    codes, _ = make_splits(names, names, [1] * 10, ["a"] * 5 + ["b"] * 5, fractions=(0.1, 0.1, 0.8))
    assert sorted(np.bincount(codes["ool_disjoint"], minlength=3).tolist()) == [0, 5, 5]
    assert (codes["ool_disjoint"] == 0).any()


@pytest.mark.parametrize("seed", range(5))
def test_space_groups_of_many_components_come_first_when_train_is_small(seed: int):
    names = [f"s{i}" for i in range(10)]
    groups = [1, 2, 3, 4, 5, 6, 225, 225, 225, 225]
    codes, _ = make_splits(names, names, groups, names, seed=seed, fractions=(0.1, 0.1, 0.8))
    assert np.flatnonzero(codes["ool_disjoint"] == 0).tolist()[0] >= 6
    assert (codes["ool_disjoint"] == 0).sum() == 1


@pytest.mark.parametrize("seed", range(5))
def test_classes_of_three_components_are_in_train(seed: int):
    ids, formulas, groups, prototypes = _library(600, seed, n_prototype=12)
    codes, meta = make_splits(ids, formulas, groups, prototypes, seed=seed)
    for group in np.unique(groups):
        members = [p for p, g in zip(prototypes, groups, strict=True) if g == group]
        if len(set(members)) >= 3:
            assert (codes["ool_disjoint"][groups == group] == 0).any()
    table = meta["ool_disjoint"]["classes"]["space_group"]
    assert all(Counter(groups.tolist())[name] == 1 for name in table["missing_in_train"])


@pytest.mark.parametrize("fractions", [(0.5, 0.25, 0.25), (0.8, 0.2, 0.0), (0.9, 0.0, 0.1), (1.0, 0.0, 0.0), (0.2, 0.3, 0.5)])
def test_other_fractions(fractions: tuple[float, float, float]):
    _, meta = make_splits(*_library(1001, 4), fractions=fractions)
    for split in SPLITS[1:]:
        sizes = meta[split]["sizes"]
        assert meta[split]["fractions"] == list(fractions)
        assert sum(sizes.values()) == 1001
        for part, share in zip(PARTS, fractions, strict=True):
            assert abs(sizes[part] / 1001 - share) < (0.06 if split == "ool_random" else 0.002)
            assert (sizes[part] == 0) == (share == 0)


def _number_of_system(number: int) -> str:
    return gemmi.find_spacegroup_by_number(number).crystal_system_str()


def test_tables_add_up():
    ids, formulas, groups, prototypes = _library(300, 9)
    codes, meta = make_splits(ids, formulas, groups, prototypes)
    extinction = extinction_groups()
    labels = {
        "crystal_system": [_number_of_system(int(g)) for g in groups],
        "space_group": groups.tolist(),
        "extinction_group": [extinction.names[extinction.of_space_group[g]] for g in groups],
    }
    for split in SPLITS:
        assert set(meta[split]["classes"]) == set(labels)
        for label, values in labels.items():
            table = meta[split]["classes"][label]
            assert sorted(table["names"]) == sorted(set(values))
            counts = {}
            for part, code in zip(PARTS, range(3), strict=True):
                chosen = (
                    values if split == "in_library" else [v for v, c in zip(values, codes[split], strict=True) if c == code]
                )
                counts[part] = Counter(chosen)
                assert table["count"][part] == [counts[part][name] for name in table["names"]]
                assert sum(table["count"][part]) == meta[split]["sizes"][part]
            assert table["count"]["library"] == [values.count(name) for name in table["names"]]
            assert counts["train"][table["majority"]] == max(counts["train"].values())
            for part in PARTS:
                baseline = counts[part][table["majority"]] / counts[part].total()
                assert table["baseline"][part] == pytest.approx(baseline, rel=1e-12)
            missing = [name for name in table["names"] if counts["test"][name] and not counts["train"][name]]
            assert table["missing_in_train"] == missing


def test_json_and_arrays():
    ids, formulas, groups, prototypes = _library(50, 2)
    _, meta = make_splits(ids, formulas, groups, prototypes)
    assert json.loads(json.dumps(meta, allow_nan=False)) == meta
    arrays = np.array(ids), np.array(formulas), groups.astype(np.uint8), np.array(prototypes)
    assert make_splits(*arrays, seed=np.int64(0))[1] == meta  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    "fractions",
    [(0.7, 0.2), (0.7, 0.1, 0.1), (0.7, 0.4, -0.1), (0.0, 0.5, 0.5), (float("nan"), 0.5, 0.5), (7, 1, 2), (0.25,) * 4],
)
def test_bad_fractions(fractions: Any):
    with pytest.raises(InputError, match="fractions"):
        make_splits(*_library(10, 0), fractions=fractions)


def test_bad_input():
    ids, formulas, groups, prototypes = _library(10, 0)
    with pytest.raises(InputError, match="no structure"):
        make_splits([], [], [], [])
    with pytest.raises(InputError, match="'mp-x' occurs twice"):
        make_splits(["mp-x", *ids[1:-1], "mp-x"], formulas, groups, prototypes)
    with pytest.raises(InputError, match="9 formulas"):
        make_splits(ids, formulas[1:], groups, prototypes)
    with pytest.raises(InputError, match="9 codes"):
        check_leakage(np.zeros(9), formulas, groups, prototypes)
    for bad in (0, 231, 2.5):
        numbers: Any = [*groups[1:].tolist(), bad]
        with pytest.raises(InputError, match="space group"):
            make_splits(ids, formulas, numbers, prototypes)
    with pytest.raises(InputError, match="seed"):
        make_splits(ids, formulas, groups, prototypes, seed=0.5)  # pyright: ignore[reportArgumentType]


def test_materials_project(shared_data: pathlib.Path):
    """28,661 structures with a prototype coarser than the library's: space group and counts of the formula."""
    path = shared_data / "structures" / "mp_like_28k.npz"
    if not path.is_file():
        pytest.skip("mp_like_28k.npz is not here")
    with np.load(path) as data:
        ids, groups, ptr, z = data["id"], data["sg_symprec0p01"], data["ptr"], data["Z"]
    formulas, prototypes = [], []
    for i, group in enumerate(groups):
        numbers, counts = np.unique(z[ptr[i] : ptr[i + 1]], return_counts=True)
        counts //= np.gcd.reduce(counts)
        formulas.append(" ".join(f"{a}:{b}" for a, b in zip(numbers, counts, strict=True)))
        prototypes.append(f"{group}|{ptr[i + 1] - ptr[i]}|{sorted(counts.tolist())}")
    codes, meta = make_splits(ids, formulas, groups, prototypes)
    for split in SPLITS[1:]:
        for part, share in zip(PARTS, (0.7, 0.1, 0.2), strict=True):
            assert abs(meta[split]["sizes"][part] / len(ids) - share) < 0.03
    leakage = {split: meta[split]["leakage"]["train/test"] for split in SPLITS}
    assert leakage["ool_disjoint"]["prototype"]["shared"] == leakage["ool_disjoint"]["formula_space_group"]["shared"] == 0
    n_test = meta["ool_random"]["sizes"]["test"]
    assert leakage["ool_random"]["prototype"]["structures"] > 0.5 * n_test
    assert meta["ool_disjoint"]["classes"]["space_group"]["missing_in_train"] == []
    # The largest set of one prototype in each space group is in train.
    largest = {group: Counter(p for p, g in zip(prototypes, groups, strict=True) if g == group) for group in (225, 62, 14)}
    for group, counts in largest.items():
        name = counts.most_common(1)[0][0]
        assert {int(c) for c, p in zip(codes["ool_disjoint"], prototypes, strict=True) if p == name} == {0}, group
