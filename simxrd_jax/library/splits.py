"""Host zone. Splits of a library into training, validation and test, their class counts and their baselines.

Why four: a network can be asked about structures it has seen in other patterns (in_library), about new ones cut as the
published benchmark cut them (ool_published), about new ones drawn at random (ool_random), and about new ones of which it
has seen neither the compound nor the structure type (ool_disjoint). Only the last asks for symmetry alone: by chance or in
the order of identifiers, most test structures are of a prototype that training holds too.

Why hashes of identifiers: the order of a library, the number of processes that built it and the version of a random
generator then change nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from simxrd_jax.crystal.structure import CRYSTAL_SYSTEMS
from simxrd_jax.crystal.symmetry import LOWER_ENANTIOMORPH
from simxrd_jax.errors import InputError
from simxrd_jax.library.extinction import extinction_groups

PARTS = ("train", "validation", "test")  # codes 0, 1, 2
SPLITS = ("in_library", "ool_published", "ool_random", "ool_disjoint")
CUTS = ((0, 1), (0, 2), (1, 2))  # pairs of parts between which something can leak

_RULES = {
    "in_library": "every structure is in every part; the parts differ by the random keys of their patterns",
    "ool_published": (
        "contiguous cut in string order of the ids: the first part and the second hold the whole number below their share "
        "(the first at least one structure), the last holds the rest"
    ),
    "ool_random": (
        "each structure by itself, by a hash of seed and id against the cumulative fractions: the same id falls on the same "
        "side in every library, and stays there when structures are added; sizes are those of a random draw. If no structure "
        "falls into train, the one with the lowest hash does"
    ),
    "ool_disjoint": (
        "structures that share formula and space group (an enantiomorphic pair counts as one), or the prototype, are "
        "connected, and connected components stay whole: one larger than every part goes to train; the largest of each "
        "space group goes to train while it fits there (else the next that fits; space groups of many components first); the "
        "others, largest first, go to a part where they fit, drawn in proportion to the room that is left, or where most room "
        "is left if they fit nowhere. Adding structures can move others"
    ),
}


def make_splits(
    ids: Sequence[str] | np.ndarray,
    formulas: Sequence[str] | np.ndarray,
    space_groups: Sequence[int] | np.ndarray,
    prototypes: Sequence[str] | np.ndarray,
    seed: int = 0,
    fractions: tuple[float, float, float] = (0.7, 0.1, 0.2),
) -> tuple[dict[str, np.ndarray], dict[str, dict[str, Any]]]:
    """The four splits of a library and what there is to know about them.

    None of them depends on the order of the structures. Train is never empty; validation and test are in a library too
    small for their share.

    Args:
      ids: unique identifiers, [N].
      formulas: reduced formulas, [N].
      space_groups: numbers, 1 to 230, [N].
      prototypes: anonymised prototype keys, [N].
      seed: of ool_random and ool_disjoint.
      fractions: shares of train, validation and test, which add up to 1.

    Returns:
      For each name of SPLITS the codes (0 train, 1 validation, 2 test; all 0 for in_library, whose parts hold the same
      structures), uint8 [N], and a dictionary that JSON can hold:
        rule: how it was made; seed, fractions: None where they play no part.
        sizes: number of structures of each part.
        classes: for crystal_system, space_group and extinction_group (within the crystal system) the `names` of the classes
          in the library, their `count` in the library and in each part, the `majority` class of train, the `baseline`
          accuracy that always answering it has in each part (None if the part is empty), and `missing_in_train`, the
          classes of test that train lacks.
        leakage: what `check_leakage` says (for in_library: everything).
        components (ool_disjoint): their `count`, how many are a `single` structure, the size of the `largest` and its
          `largest_share` of the library.

    Raises:
      InputError: an empty library, lists of different length, an id twice, a space group that is none, bad fractions.
    """
    names = [str(v) for v in ids]
    groups = _check(names, formulas, space_groups, prototypes, seed, fractions)
    pairs, kinds = _pair_numbers(formulas, groups), _numbers(prototypes)
    n = len(names)
    targets = _targets(n, fractions)
    components = _components(pairs, kinds)
    codes = {
        "in_library": np.zeros(n, dtype=np.uint8),
        "ool_published": _published(names, targets),
        "ool_random": _random(names, seed, fractions),
        "ool_disjoint": _disjoint(names, groups, components, targets, seed),
    }
    labels = _labels(groups)
    meta: dict[str, dict[str, Any]] = {}
    for split in SPLITS:
        is_shared = split == "in_library"
        parts = [np.ones(n, dtype=bool) if is_shared else codes[split] == part for part in range(3)]
        meta[split] = {
            "rule": _RULES[split],
            "seed": int(seed) if split in ("ool_random", "ool_disjoint") else None,
            "fractions": None if is_shared else [float(v) for v in fractions],
            "sizes": {part: int(mask.sum()) for part, mask in zip(PARTS, parts, strict=True)},
            "classes": {label: _class_table(values, names_of, parts) for label, (values, names_of) in labels.items()},
            "leakage": _leakage(parts, pairs, kinds),
        }
    size = np.bincount(components)
    meta["ool_disjoint"]["components"] = {
        "count": len(size),
        "single": int((size == 1).sum()),
        "largest": int(size.max()),
        "largest_share": float(size.max() / n),
    }
    return codes, meta


def check_leakage(
    codes: np.ndarray,
    formulas: Sequence[str] | np.ndarray,
    space_groups: Sequence[int] | np.ndarray,
    prototypes: Sequence[str] | np.ndarray,
) -> dict[str, dict[str, dict[str, int]]]:
    """What the parts of a split have in common.

    Args:
      codes: 0 train, 1 validation, 2 test, [N]. The codes of in_library are no cut: nothing leaks between them because all
        structures are in all parts.
      formulas, space_groups, prototypes: as in `make_splits`, [N].

    Returns:
      For each cut ("train/validation", "train/test", "validation/test"), for `formula_space_group` (an enantiomorphic pair
      of space groups counts as one) and `prototype`: how many are `shared` by both sides, and how many `structures` of the
      second side have one that the first holds.

    Raises:
      InputError: lists of different length.
    """
    _check_lengths(codes=codes, formulas=formulas, space_groups=space_groups, prototypes=prototypes)
    pairs = _pair_numbers(formulas, np.asarray(space_groups))
    return _leakage([np.asarray(codes) == part for part in range(3)], pairs, _numbers(prototypes))


def _check(
    ids: list[str],
    formulas: Sequence[str] | np.ndarray,
    space_groups: Sequence[int] | np.ndarray,
    prototypes: Sequence[str] | np.ndarray,
    seed: int,
    fractions: Sequence[float],
) -> np.ndarray:
    """Refuses bad input and returns the space groups as integers."""
    _check_lengths(ids=ids, formulas=formulas, space_groups=space_groups, prototypes=prototypes)
    if not ids:
        raise InputError("splits: the library holds no structure; build it from at least one")
    if len(set(ids)) < len(ids):
        seen: set[str] = set()
        twice = next(name for name in ids if name in seen or seen.add(name))
        raise InputError(f"splits: the id '{twice}' occurs twice; give every structure its own")
    groups = np.asarray(space_groups)
    if not (np.issubdtype(groups.dtype, np.integer) and groups.min() >= 1 and groups.max() <= 230):
        raise InputError("splits: a space group is not a whole number from 1 to 230; leave such structures out")
    if not isinstance(seed, (int, np.integer)):
        raise InputError(f"splits: the seed {seed!r} is not a whole number; give one")
    values = np.asarray(fractions, dtype=float)
    is_good = values.shape == (3,) and np.isfinite(values).all() and values.min() >= 0 and abs(values.sum() - 1) < 1e-6
    if not (is_good and values[0] > 0):
        raise InputError(
            f"splits: the fractions {fractions} are not three shares of train, validation and test; "
            "give numbers that are not negative and add up to 1, train's above 0"
        )
    return groups.astype(np.int64)


def _check_lengths(**columns: Sequence[Any] | np.ndarray) -> None:
    if len({len(column) for column in columns.values()}) > 1:
        shown = ", ".join(f"{len(column)} {name}" for name, column in columns.items())
        raise InputError(f"splits: {shown}; give one of each for every structure")


def _numbers(texts: Iterable[str]) -> np.ndarray:
    """A whole number for each distinct text."""
    known: dict[str, int] = {}
    return np.array([known.setdefault(str(text), len(known)) for text in texts], dtype=np.int64)


def _pair_numbers(formulas: Iterable[str], space_groups: np.ndarray) -> np.ndarray:
    """A whole number for each distinct pair of formula and space group, the two hands of one crystal alike."""
    hands = np.arange(256)
    hands[list(LOWER_ENANTIOMORPH)] = list(LOWER_ENANTIOMORPH.values())
    pairs = _numbers(formulas) * 256 + hands[space_groups.astype(np.int64)]
    return np.unique(pairs, return_inverse=True)[1]


def _targets(n: int, fractions: Sequence[float]) -> list[int]:
    """Sizes of the parts. The published benchmark cut 119,569 structures into 83,698, 11,956 and 23,915."""
    train = max(1, int(n * fractions[0] + 1e-6))
    validation = min(int(n * fractions[1] + 1e-6), n - train)
    if fractions[2] == 0:
        train = n - validation
    return [train, validation, n - train - validation]


def _uniform(purpose: str, seed: int, names: Iterable[str]) -> np.ndarray:
    """A number in [0, 1) that follows from seed and name alone."""
    digests = b"".join(hashlib.blake2b(f"{purpose}:{seed}:{name}".encode(), digest_size=8).digest() for name in names)
    return (np.frombuffer(digests, dtype="<u8") >> 11) / 2.0**53


def _published(names: list[str], targets: list[int]) -> np.ndarray:
    codes = np.empty(len(names), dtype=np.uint8)
    codes[np.argsort(np.array(names))] = np.repeat(np.arange(3, dtype=np.uint8), targets)
    return codes


def _random(names: list[str], seed: int, fractions: Sequence[float]) -> np.ndarray:
    value = _uniform("ool_random", seed, names)
    bounds = np.cumsum(fractions)[:2]
    if fractions[2] == 0:
        bounds[1] = 1.0
    codes = np.searchsorted(bounds, value, side="right").astype(np.uint8)
    codes[value.argmin()] = 0
    return codes


def _components(pairs: np.ndarray, prototypes: np.ndarray) -> np.ndarray:
    """Number of the connected component of each structure, an edge between a pair and a prototype of the graph."""
    n_pair = int(pairs.max()) + 1
    n_node = n_pair + int(prototypes.max()) + 1
    graph = coo_array((np.ones(len(pairs), dtype=np.int8), (pairs, n_pair + prototypes)), shape=(n_node, n_node))
    return connected_components(graph.tocsr(), directed=False)[1][pairs]


def _disjoint(names: list[str], space_groups: np.ndarray, components: np.ndarray, targets: list[int], seed: int) -> np.ndarray:
    """Codes of ool_disjoint; see its rule."""
    by_name = np.argsort(np.array(names))
    first_of = by_name[np.unique(components[by_name], return_index=True)[1]]
    first_names = [names[i] for i in first_of]  # the least id of a component is its name
    size = np.bincount(components)
    draw = _uniform("ool_disjoint part", seed, first_names)
    order = np.lexsort((_uniform("ool_disjoint order", seed, first_names), -size))
    room = list(targets)
    part = np.full(len(size), -1)

    def put(component: int, where: int) -> None:
        part[component] = where
        room[where] -= int(size[component])

    for component in order[size[order] > max(targets)]:
        put(component, 0)
    for candidates in _components_of_space_groups(space_groups, components, order):
        if not (part[candidates] == 0).any():
            free = [c for c in candidates if part[c] < 0 and size[c] <= room[0]]
            if free:
                put(free[0], 0)
    if not (part == 0).any():
        put(order[-1], 0)
    for component in order:
        if part[component] < 0:
            weight = np.where(np.array(room) >= size[component], room, 0).clip(0)
            if weight.any():
                put(component, int(np.searchsorted(np.cumsum(weight), draw[component] * weight.sum(), side="right")))
            else:
                put(component, int(np.argmax(room)))
    return part[components].astype(np.uint8)


def _components_of_space_groups(space_groups: np.ndarray, components: np.ndarray, order: np.ndarray) -> list[np.ndarray]:
    """The components of each space group in the given order; space groups of many components first."""
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    found = np.unique(np.stack([space_groups, rank[components]], axis=1), axis=0)
    starts = np.unique(found[:, 0], return_index=True)[1]
    lists = [order[ranks] for ranks in np.split(found[:, 1], starts[1:])]
    return sorted(lists, key=lambda v: (-len(v), rank[v[0]]))


def _labels(space_groups: np.ndarray) -> dict[str, tuple[np.ndarray, Sequence[Any]]]:
    """For each kind of label the class of each structure and the names of all classes."""
    extinction = extinction_groups()
    lasts = [last for last, _ in CRYSTAL_SYSTEMS]
    return {
        "crystal_system": (np.searchsorted(lasts, space_groups), [system for _, system in CRYSTAL_SYSTEMS]),
        "space_group": (space_groups, range(231)),
        "extinction_group": (extinction.of_space_group[space_groups], extinction.names),
    }


def _class_table(values: np.ndarray, names: Sequence[Any], parts: list[np.ndarray]) -> dict[str, Any]:
    """Class counts and baseline of one kind of label; see `make_splits`."""
    present = np.unique(values)
    index = np.searchsorted(present, values)
    in_library = np.bincount(index)
    counts = [np.bincount(index[mask], minlength=len(present)) for mask in parts]
    majority = int(counts[0].argmax())
    return {
        "names": [names[v] for v in present],
        "count": {"library": in_library.tolist()} | {p: c.tolist() for p, c in zip(PARTS, counts, strict=True)},
        "majority": names[present[majority]],
        "baseline": {p: float(c[majority] / c.sum()) if c.any() else None for p, c in zip(PARTS, counts, strict=True)},
        "missing_in_train": [names[v] for v in present[(counts[2] > 0) & (counts[0] == 0)]],
    }


def _leakage(parts: list[np.ndarray], pairs: np.ndarray, prototypes: np.ndarray) -> dict[str, dict[str, dict[str, int]]]:
    """See `check_leakage`."""
    found: dict[str, dict[str, dict[str, int]]] = {f"{PARTS[a]}/{PARTS[b]}": {} for a, b in CUTS}
    for name, values in (("formula_space_group", pairs), ("prototype", prototypes)):
        n = int(values.max(initial=-1)) + 1
        counts = [np.bincount(values[mask], minlength=n) for mask in parts]
        for a, b in CUTS:
            is_shared = (counts[a] > 0) & (counts[b] > 0)
            found[f"{PARTS[a]}/{PARTS[b]}"][name] = {
                "shared": int(is_shared.sum()),
                "structures": int(counts[b][is_shared].sum()),
            }
    return found
