"""Host zone. Many runs under one folder: made one after the other, resumed, gathered into one JSON file and a table.

An experiment that compares networks is a dictionary of configs. A run that is complete is not made again, one that was stopped
goes on, and one that fails is reported while the others go on. What a table needs of each run is kept in `results.json`
beside the experiment, so that tables are written from numbers and never by hand.
"""

from __future__ import annotations

import json
import pathlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from simxrd_jax.errors import InputError
from simxrd_jax.io.xy import write_together
from simxrd_jax.train.config import TrainConfig, from_dict
from simxrd_jax.train.loop import train

BEGIN, END = "<!-- results: begin -->", "<!-- results: end -->"
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
        except InputError as error:
            say(f"{name} failed: {error}")
            failed.append(name)
            continue
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


def write_table(readme: pathlib.Path, text: str) -> None:
    """Puts text between the marks of a README.

    Raises:
      InputError: the README has no marks.
    """
    content = readme.read_text(encoding="utf-8")
    if BEGIN not in content or END not in content:
        raise InputError(f"{readme}: has no place for the table; add the lines {BEGIN} and {END}")
    made = re.sub(f"{re.escape(BEGIN)}.*{re.escape(END)}", lambda _: f"{BEGIN}\n{text}\n{END}", content, flags=re.DOTALL)
    write_together({readme: made})


def number(value: float | None, digits: int = 3) -> str:
    """A metric as a cell."""
    return "not run" if value is None else f"{value:.{digits}f}"


def mean_and_spread(values: Sequence[float]) -> str:
    """Mean over seeds with their standard deviation."""
    mean = sum(values) / len(values)
    if len(values) < 2:
        return f"{mean:.3f}"
    spread = (sum((v - mean) ** 2 for v in values) / (len(values) - 1)) ** 0.5
    return f"{mean:.3f} ± {spread:.3f}"
