"""Host zone. Many runs under one folder: made one after the other, resumed, gathered into one JSON file and a table.

An experiment that compares networks is a dictionary of configs. A run that is complete is not made again, one that was stopped
goes on, and one that fails is reported while the others go on. What a table needs of each run is kept in `results.json`
beside the experiment, so that tables are written from numbers and never by hand.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax

from simxrd_jax.errors import InputError, device_error
from simxrd_jax.io.xy import write_together
from simxrd_jax.process import prepare_process
from simxrd_jax.train.config import TrainConfig, differences, from_dict
from simxrd_jax.train.loop import train

MARKS = "<!-- {name}: begin -->", "<!-- {name}: end -->"  # of the place of a table in a README
NOT_KEPT = ("confusion", "classes")  # of a target's metrics: large, and in each run's own results.json


def run_all(
    configs: Mapping[str, TrainConfig], folder: pathlib.Path, results: pathlib.Path, *, say: Callable[[str], None]
) -> list[str]:
    """Makes every run that `results` does not hold yet.

    Args:
      configs: name -> config.
      folder: of the runs; each has one of its own in it.
      results: JSON file of the experiment; written anew after each run.
      say: takes one sentence for the user.

    Returns:
      Names of the runs that failed.
    """
    failed = []
    known = read_results(results)
    for i, (name, config) in enumerate(configs.items()):
        if name in known and from_dict(known[name]["config"], f"{results} ({name})") == config:
            continue
        say(f"run {i + 1} of {len(configs)}: {name}")
        try:
            made = train(config, folder / name, say=say)
        except (InputError, jax.errors.JaxRuntimeError) as error:  # the latter where a network does not fit the device
            say(f"{name} failed: {device_error(error) or str(error).splitlines()[0]}")
            failed.append(name)
            continue
        finally:
            # A run's programs are of no use to the next. On CPU they take some 1,400 memory maps, of which Linux grants a
            # process 65,530: after forty-odd networks XLA would crash.
            jax.clear_caches()
        known[name] = compact(made)
        write_together({results: json.dumps(known, indent=1, sort_keys=True) + "\n"})
    return failed


def compact(result: Mapping[str, Any]) -> dict[str, Any]:
    """A run's results without what no table shows."""
    kept = dict(result)
    kept["test"] = {**result["test"]}
    kept["test"]["targets"] = {
        target: {name: value for name, value in metrics.items() if name not in NOT_KEPT}
        for target, metrics in result["test"]["targets"].items()
    }
    return kept


def read_results(path: pathlib.Path) -> dict[str, Any]:
    """Name -> results of the runs of an experiment; empty where there is no file yet.

    Raises:
      InputError: the file is damaged, or of another version.
    """
    if not path.exists():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        for name, result in found.items():
            from_dict(result["config"], f"{path} ({name})")
            result["test"]["targets"].items()
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: is no file of results ({error}); restore it or delete it") from error
    return found


def markdown(rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; the first row is its head."""
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    lines.insert(1, "|" + "---|" * lines[0].count(" | ") + "---|")
    return "\n".join(lines)


def write_table(readme: pathlib.Path, text: str, name: str = "results") -> None:
    """Puts text between the marks of a name in a README.

    Raises:
      InputError: there is no README, or not one pair of marks in it.
    """
    try:
        content = readme.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"{readme}: cannot be read ({error.strerror}); restore it") from error
    begin, end = (mark.format(name=name) for mark in MARKS)
    if not content.count(begin) == content.count(end) == 1 or content.index(end) < content.index(begin):
        raise InputError(f"{readme}: has no place for the table; add the lines {begin} and {end}, once each")
    before, after = content.split(begin)[0], content.split(end)[1]
    write_together({readme: f"{before}{begin}\n{text}\n{end}{after}"})


def mean_and_spread(values: Sequence[float]) -> str:
    """Mean over seeds with their standard deviation."""
    mean = sum(values) / len(values)
    if len(values) < 2:
        return f"{mean:.3f}"
    spread = (sum((v - mean) ** 2 for v in values) / (len(values) - 1)) ** 0.5
    return f"{mean:.3f} ± {spread:.3f}"


def positive(text: str) -> int:
    """A whole number above 0, as an argparse type."""
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text} is no whole number above 0")
    return int(text)


def current(
    results: Mapping[str, Any], configs: Mapping[str, TrainConfig], source: pathlib.Path, *, say: Callable[[str], None]
) -> dict[str, Any]:
    """The results of the runs that an experiment is made of now; those of another config are left out, which is said."""
    kept = {}
    for name, result in results.items():
        if name not in configs:
            continue
        differ = differences(from_dict(result["config"], f"{source} ({name})"), configs[name])
        if differ:
            say(f"{source}: {name} is of a run with another {', '.join(differ)}, and left out; run the experiment again")
        else:
            kept[name] = result
    return kept


def experiment(
    folder: pathlib.Path,
    make_configs: Callable[[int | None], Mapping[str, TrainConfig]],
    make_table: Callable[[Mapping[str, Any]], str],
    arguments: Sequence[str] | None = None,
    *,
    after: Callable[[pathlib.Path, pathlib.Path], None] = lambda runs, results: None,
) -> None:
    """The command of an experiment: trains what is missing, and writes the table into the experiment's README.

    Args:
      folder: of the experiment.
      make_configs: steps of each run, None for the experiment's own number, -> name -> config.
      make_table: results -> Markdown.
      arguments: of the command line.
      after: called with the folder of the runs and the file of results before the table is made.
    """
    parser = argparse.ArgumentParser(prog=f"python -m experiments.{folder.name}")
    parser.add_argument("--steps", type=positive, help="of each run, for a trial: results then stay in the folder of the runs")
    parser.add_argument("--runs", type=pathlib.Path, help=f"folder of the runs (default: runs/{folder.name}[-STEPS-steps])")
    parser.add_argument("--table", action="store_true", help="only write the table of the runs that are there")
    given = parser.parse_args(arguments)
    trial = "" if given.steps is None else f"-{given.steps}-steps"
    runs = given.runs or pathlib.Path("runs") / f"{folder.name}{trial}"
    results = (folder if given.steps is None else runs) / "results.json"
    finish(
        configs=make_configs(given.steps),
        chosen=() if given.table else None,
        runs=runs,
        results=results,
        readme=folder / "README.md" if given.steps is None else None,
        make_table=make_table,
        after=after,
    )


def finish(
    *,
    configs: Mapping[str, TrainConfig],
    runs: pathlib.Path,
    results: pathlib.Path,
    readme: pathlib.Path | None,
    make_table: Callable[[Mapping[str, Any]], str],
    chosen: Iterable[str] | None = None,
    after: Callable[[pathlib.Path, pathlib.Path], None] = lambda runs, results: None,
    place: str = "results",
) -> None:
    """Makes runs, prints their table and puts it into its place in a README; ends the process with 1 if a run failed.

    Args:
      configs: every run of the experiment; results of others are not shown.
      runs: folder of the runs.
      results: JSON file of the experiment.
      readme: with the place of the table; None prints it only.
      make_table: results -> Markdown.
      chosen: runs that are made; None is all of them.
      after: called with `runs` and `results` before the table is made.
      place: of the table in the README.
    """

    def say(sentence: str) -> None:
        print(sentence, file=sys.stderr)

    try:
        prepare_process()
        to_make = configs if chosen is None else {name: configs[name] for name in chosen}
        if not to_make and not results.exists():
            raise InputError(f"{results}: there is no run yet; leave --table out to make them")
        try:
            results.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"{results.parent}: cannot be made a folder ({error.strerror}); give another") from error
        failed = run_all(to_make, runs, results, say=say)
        after(runs, results)
        shown = current(read_results(results), configs, results, say=say)
        try:
            table = make_table(shown)
        except (KeyError, TypeError) as error:
            raise InputError(f"{results}: lacks {error} of a run; restore the file or delete it") from error
        if readme is not None:
            write_table(readme, table, place)
        print(table)
    except InputError as error:
        say(str(error))
        sys.exit(1)
    if failed:
        sys.exit(1)
