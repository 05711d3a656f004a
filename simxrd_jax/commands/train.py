"""Host zone. The work behind `simxrd train`, `simxrd evaluate` and `simxrd predict`."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from simxrd_jax.errors import InputError
from simxrd_jax.hosts import ONE, Hosts, join, together
from simxrd_jax.io.xy import check_target, write_together
from simxrd_jax.process import prepare_process
from simxrd_jax.train.config import TrainConfig, fields_of, load_config, override

if TYPE_CHECKING:
    from simxrd_jax.library.store import Library

RUNS = "runs"
SHOWN_REASONS = 5  # patterns that are left out, listed with an evaluation


def parse_settings(given: Sequence[str]) -> dict[str, str]:
    """FIELD=VALUE pairs.

    Raises:
      InputError: one without an equals sign, or a field given twice.
    """
    found: dict[str, str] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals:
            raise InputError(f"--set {text}: expected FIELD=VALUE, such as steps=2000")
        name = name.strip()
        if name in found:
            raise InputError(f"--set: {name} is given twice; give it once")
        found[name] = value.strip()
    return found


def train_config(
    source: str, settings: Sequence[str], output: str | None, *, hosts: Hosts = ONE, say: Callable[[str], None]
) -> dict[str, Any]:
    """Trains what a config file says, with fields changed, and reports the result.

    Args:
      source: FILE.py or FILE.py:NAME.
      settings: FIELD=VALUE texts.
      output: folder of the run; None is runs/NAME-SEED.
      hosts: how many train together, and which one this is.
      say: takes one sentence for the user.

    Returns:
      The content of the run's results.json.
    """
    from simxrd_jax.train.loop import train

    join(hosts)
    name, config = load_config(source)
    config = override(config, parse_settings(settings))
    folder = pathlib.Path(output) if output else pathlib.Path(RUNS) / f"{name}-{config.seed}"
    prepare_process()
    try:
        with together(say):
            return train(config, folder, say=say)
    except KeyboardInterrupt:
        say(f"interrupted; the same command goes on from the last checkpoint in {folder}")
        raise


def show_config(source: str, settings: Sequence[str]) -> str:
    """Every field of a config with its value, one a line."""
    config: TrainConfig = override(load_config(source)[1], parse_settings(settings))
    return "\n".join(f"{name} = {_text(value)}" for name, value in fields_of(config).items())


def _text(value: Any) -> str:
    return ",".join(value) if isinstance(value, tuple) else str(value)


def evaluate_runs(
    folders: Sequence[str],
    on: str,
    *,
    library: str | None = None,
    output: str | None = None,
    limit: int = 0,
) -> str:
    """Metrics of trained networks, averaged in probability if there are several, as text.

    Args:
      folders: of runs with the same targets and classes.
      on: a split, SPLIT:PART, or measured patterns by name or path.
      library: of the simulated structures; None is that of the first run.
      output: JSON file of all metrics.
      limit: structures of a split at most; 0 is all.

    Raises:
      InputError: runs that do not go together, an unknown split or set, a checkpoint of another model.
    """
    import dataclasses

    from simxrd_jax.conditions import nearest
    from simxrd_jax.io.measured import PLACES
    from simxrd_jax.library.splits import SPLITS
    from simxrd_jax.train.evaluation import chosen_structures, evaluate_measured, evaluate_part
    from simxrd_jax.train.run import open_library, set_up

    if output is not None:
        check_target(output)
    if limit < 0:
        raise InputError(f"--limit {limit}: give the most structures to take, or 0 for all")
    if not on:
        raise InputError("--on is empty; name a split, a set of measured patterns or a file")
    split, _, part = on.partition(":")
    if split not in SPLITS and on not in PLACES and not pathlib.Path(on).exists():
        places = dict.fromkeys((*SPLITS, *PLACES))
        raise InputError(f"--on {on}: is no split, no set of measured patterns and no file{nearest(split, places)}")
    if on.endswith(".simxrd"):
        raise InputError(f"--on {on}: is a structure library; name it with --library, and one of its splits with --on")
    if split not in SPLITS and (library is not None or limit):
        raise InputError(f"--library and --limit are of a split of a library, and {on} is none; leave them out")
    prepare_process()
    config, content, members, trained_on = _read_members(folders)
    note = ""
    if split in SPLITS:
        if library is not None:
            config = dataclasses.replace(config, data=dataclasses.replace(config.data, library=library))
        run = set_up(config, open_library(config.data.library), content["train_counts"])
        is_known = run.library.meta.fingerprint == content["library"]
        tested = chosen_structures(run, part or "test", split=split, limit=limit)
        note = _seen_in_training(run.library, split, tested, trained_on if is_known else None)
        made = evaluate_part(members, run, part or "test", split=split, limit=limit, progress=True)
    else:
        made = evaluate_measured(members, config, content, on)
    if output is not None:
        write_together({pathlib.Path(output): json.dumps(made, indent=1) + "\n"})
    return "\n".join(filter(None, (note, result_text(made))))


def _seen_in_training(library: Library, split: str, tested: np.ndarray, trained_on: Sequence[str] | None) -> str:
    """A warning where tested structures were trained on; None: it cannot be told, since the library is another one."""
    from simxrd_jax.train.targets import structures_in

    if trained_on is None:
        return "note: structures of another library; whether the networks were trained on some of them is not known"
    if split == "in_library" and set(trained_on) == {split}:
        return ""  # the name of the split says so
    seen = np.unique(np.concatenate([structures_in(library, s, "train") for s in set(trained_on)]))
    count = int(np.isin(tested, seen).sum())
    return f"note: {count:,} of these {len(tested):,} structures were in the training of the networks" if count else ""


def predict_pattern(
    folders: Sequence[str], pattern: str, *, wavelength: str | None = None, scan: int | None = None, count: int = 5
) -> str:
    """The most probable classes of a measured pattern, as text.

    Args:
      folders: of runs, whose networks are averaged in probability.
      pattern: file of a measured pattern, see `io.patterns.read_pattern`.
      wavelength: at which it was measured, a name or a number of A; by default what the file states, else Cu K-alpha.
      scan: which one of the file's scans, from 1; by default those of one range are added up.
      count: classes named.

    Raises:
      InputError: as `evaluate_runs`, or a pattern that cannot be read or does not fit the networks' grid.
    """
    from simxrd_jax.io.measured import to_grid
    from simxrd_jax.io.patterns import read_pattern
    from simxrd_jax.models.lattice import LATTICE, cell_of_numbers
    from simxrd_jax.phases import as_radiation
    from simxrd_jax.train.evaluation import answer, grid_of, most_probable

    if count < 1:
        raise InputError(f"--top {count}: name at least one class")
    config, content, members, _ = _read_members(folders)
    grid, grid_wavelength = grid_of(config.data.preset)
    measured = read_pattern(pattern, index=scan)
    stated = as_radiation(wavelength or measured.radiation or "CuKa")
    patterns, covered = to_grid(
        measured.two_theta, measured.intensity, stated.mean_wavelength, grid, grid_wavelength, names=(pattern,)
    )
    said = answer(members, patterns[None], config.targets)
    is_guess = wavelength is None and measured.radiation is None
    lines = [
        f"{pattern}: {100 * covered:.0f} % of {grid[0]:g} to {grid[-1]:g} deg at {grid_wavelength:.4f} A, measured with "
        f"{stated.name}" + (" (by default: the file does not say)" if is_guess else "")
    ]
    for target, names in content["classes"].items():
        lines.append(f"  {target}")
        lines += [
            f"    {share:7.3f}  {_class_text(target, name)}" for name, share in most_probable(said[target][0], names, count)
        ]
    if LATTICE in said:
        a, b, c, alpha, beta, gamma = cell_of_numbers(said[LATTICE])[0]
        lines += [
            f"  {LATTICE}",
            f"    a, b, c = {a:.3f}, {b:.3f}, {c:.3f} A; angles {alpha:.1f}, {beta:.1f}, {gamma:.1f} deg",
        ]
    return "\n".join(lines)


def _class_text(target: str, name: str) -> str:
    """A class as a reader knows it: space groups with their crystal system."""
    from simxrd_jax.io.measured import system_of

    return f"{name} ({system_of(int(name))})" if target == "space_group" else name


def _read_members(folders: Sequence[str]) -> tuple[TrainConfig, dict[str, Any], list[Any], list[str]]:
    """Config and content of the first run, the networks of all, and the split that each was trained on.

    Raises:
      InputError: runs that do not go together.
    """
    from simxrd_jax.train.run import read_network

    twice = next((folder for i, folder in enumerate(folders) if _same(folder, folders[:i])), None)
    if twice is not None:
        raise InputError(f"{twice} is given twice, and would count twice in the average; leave it out once")
    found = [read_network(folder) for folder in folders]
    config, content = found[0][:2]
    for folder, (other, described, _, _) in zip(folders[1:], found[1:], strict=True):
        if described["classes"] != content["classes"] or other.targets != config.targets:
            raise InputError(f"{folder} has other targets or classes than {folders[0]}; average networks of the same ones")
        if other.data.preset != config.data.preset:
            raise InputError(f"{folder} and {folders[0]} were trained for different presets; leave one out")
        if described["library"] != content["library"]:
            raise InputError(f"{folder} and {folders[0]} were trained on different libraries; leave one out")
    members = [(definition, network) for _, _, definition, network in found]
    return config, content, members, [other.data.split for other, _, _, _ in found]


def _same(folder: str, others: Sequence[str]) -> bool:
    return pathlib.Path(folder).resolve() in {pathlib.Path(other).resolve() for other in others}


def result_text(evaluation: Mapping[str, Any]) -> str:
    """The main numbers of an evaluation, each with those of constant answers beside it."""
    lines = [f"{evaluation['patterns']:,} patterns of {evaluation['name']}"]
    left_out = evaluation.get("left_out", [])
    lines += [f"  left out: {sentence}" for sentence in left_out[:SHOWN_REASONS]]
    if len(left_out) > SHOWN_REASONS:
        lines.append(f"  left out: {len(left_out) - SHOWN_REASONS:,} more, which -o OUT.json lists")
    for target, metrics in evaluation["targets"].items():
        lines.append(f"  {target}")
        baselines = {"majority class of the training": metrics.get("majority", {})}
        baselines["best constant answer"] = metrics.get("best_constant", {})
        for name, value in metrics.items():
            if isinstance(value, int | float):
                known = [f"{title}: {values[name]:.4f}" for title, values in baselines.items() if name in values]
                beside = f"   ({', '.join(known)})" if known else ""
                number = f"{value:10,d}" if isinstance(value, int) else f"{value:10.4f}"
                lines.append(f"    {name.replace('_', ' '):28s}{number}{beside}")
        for row in metrics.get("frequency_bins", []):
            if row["samples"]:
                structures = f"{row['bin']} training structures" if row["bin"][0] in "0123456789>" else row["bin"]
                lines.append(f"    {f'accuracy, {structures}':40s}{row['accuracy']:.4f}   ({row['samples']:,} samples)")
    return "\n".join(lines)
