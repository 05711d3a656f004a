"""Host zone. The work behind `simxrd simulate`: from file names and options to files.

`specimen.specimen_patterns` gives patterns to a Python caller; `simulate_files` writes them as the command does.
"""

from __future__ import annotations

import math
import os
import pathlib
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from simxrd_jax.commands.specimen import MAX_SEED, Options, SimulatedPattern, Source, check_options, specimen_patterns
from simxrd_jax.conditions import check_conditions
from simxrd_jax.errors import InputError
from simxrd_jax.io.xy import check_target, pattern_text, peaks_text, write_together

ALPHA = "\N{GREEK SMALL LETTER ALPHA}"


@dataclass(frozen=True)
class Outcome:
    """What `simulate_files` did: files written, and (file, reason) of those it skipped."""

    written: tuple[str, ...]
    failed: tuple[tuple[str, str], ...]


def parse_source(argument: str) -> Source:
    """FILE.cif or FILE.cif:MASS_FRACTION; a path that exists as it stands is never split.

    Raises:
      InputError: a mass fraction that is not a positive number.
    """
    path, colon, text = argument.rpartition(":")
    if os.path.exists(argument) or not colon:
        return Source(argument)
    try:
        fraction = float(text)
    except ValueError:
        if os.path.exists(path):
            raise InputError(f"{argument}: the mass fraction {text!r} is not a number; write FILE.cif:0.3") from None
        return Source(argument)
    if not (math.isfinite(fraction) and fraction > 0):
        raise InputError(f"{argument}: the mass fraction must be a positive number; leave the phase out if it is absent")
    return Source(path, fraction)


def parse_conditions(settings: Sequence[str]) -> dict[str, Any]:
    """Conditions of NAME=VALUE texts; a vector's values are separated by commas.

    Raises:
      InputError: no '=', a name given twice, or what `check_conditions` finds.
    """
    values: dict[str, Any] = {}
    for text in settings:
        name, equals, value = (part.strip() for part in text.partition("="))
        if not equals or not name or not value:
            raise InputError(f"--set {text}: is not NAME=VALUE; write for example --set grain_size=200")
        if name in values:
            raise InputError(f"--set {name}: is given twice; give it once")
        values[name] = value.split(",") if "," in value else value
    return check_conditions(values, "--set")


def simulate_files(
    arguments: Sequence[str],
    options: Options = Options(),  # noqa: B008 (frozen)
    *,
    output: str | None = None,
    peaks: str | None = None,
    plot: str | None = None,
    warn: Callable[[str], None] = lambda sentence: None,
) -> Outcome:
    """Simulates a specimen or a folder of CIFs and writes what is asked for.

    Args:
      arguments: FILE.cif or FILE.cif:MASS_FRACTION of each phase, or one folder.
      options: what to simulate.
      output: pattern file; None or "-" is standard output. With a count its patterns are numbered; with a folder it is one.
      peaks, plot: peak table and picture, likewise.
      warn: takes one sentence for the user.

    Raises:
      InputError: bad input; in a folder a bad file is skipped and reported in the outcome instead.
    """
    if len(arguments) == 1 and pathlib.Path(arguments[0]).is_dir():
        return _simulate_folder(pathlib.Path(arguments[0]), options, output, peaks, plot, warn)
    for argument in arguments:
        if pathlib.Path(argument).is_dir():
            raise InputError(f"{argument}: is a folder; give it alone, or name the files of a mixture")
    sources = [parse_source(argument) for argument in arguments]
    targets = None if output in (None, "-") else output
    if options.count > 1 and targets is None:
        raise InputError(f"{options.count} patterns do not fit on standard output; name a file with -o, they are numbered")
    written: list[str] = []
    names = _numbered(targets, peaks, plot, options.count, [s.path for s in sources])
    warned: set[str] = set()
    for one, made in zip(names, specimen_patterns(sources, options), strict=True):
        for sentence in made.warnings:
            if sentence not in warned:
                warn(sentence)
                warned.add(sentence)
        written += _write(made, *one)
        if one[0] is None:
            sys.stdout.write(_text(made))
            sys.stdout.flush()
    return Outcome(tuple(written), ())


Targets = tuple[pathlib.Path | None, pathlib.Path | None, pathlib.Path | None]


def _numbered(output: str | None, peaks: str | None, plot: str | None, count: int, inputs: Sequence[str]) -> list[Targets]:
    """Paths of each pattern's output, peaks and plot, all checked before anything is computed."""
    if plot is not None:
        from simxrd_jax.plots import check_format

        check_format(plot)
    digits = max(4, len(str(count)))
    result: list[Targets] = []
    for i in range(count):
        paths: list[pathlib.Path | None] = []
        for name in (output, peaks, plot):
            if name is None:
                paths.append(None)
                continue
            path = pathlib.Path(name)
            if not path.name:
                raise InputError(f"{name!r} names no file to write; give a name such as out.xy")
            if count > 1:
                path = path.with_name(f"{path.stem}_{i + 1:0{digits}d}{path.suffix}")
            paths.append(check_target(path, inputs))
        used = [p.resolve() for p in paths if p is not None]
        if len(set(used)) < len(used):
            raise InputError(f"{used[-1].name}: is asked for as two kinds of output; give each its own name")
        result.append((paths[0], paths[1], paths[2]))
    return result


def _text(made: SimulatedPattern) -> str:
    return pattern_text(made.two_theta, made.intensity, made.header, made.step)


def _write(
    made: SimulatedPattern, output: pathlib.Path | None, peaks: pathlib.Path | None, plot: pathlib.Path | None
) -> list[str]:
    contents: dict[pathlib.Path, str | bytes] = {}
    if output is not None:
        contents[output] = _text(made)
    if peaks is not None:
        contents[peaks] = peaks_text(made.tables)
    if plot is not None:
        from simxrd_jax.plots import figure_bytes, plot_pattern

        names = " + ".join(t.name for t in made.tables)
        title = f"{names}, {made.radiation.name.replace('Ka', ' K' + ALPHA)}"
        figure = plot_pattern(made.two_theta, made.intensity, made.tables, title=title)
        contents[plot] = figure_bytes(figure, plot)
    write_together(contents)
    return [str(path) for path in contents]


def _simulate_folder(
    folder: pathlib.Path,
    options: Options,
    output: str | None,
    peaks: str | None,
    plot: str | None,
    warn: Callable[[str], None],
) -> Outcome:
    from tqdm import tqdm

    if output in (None, "-"):
        raise InputError(f"{folder}: the patterns of a folder need a folder of their own; name it with -o")
    check_options(options)  # a bad option is one error, not one a file
    try:
        files = sorted(p for p in folder.iterdir() if p.suffix.lower() == ".cif" and not p.is_dir())
    except OSError as error:
        raise InputError(f"{folder}: cannot be read ({error.strerror}); check its permissions") from None
    if not files:
        raise InputError(f"{folder}: holds no .cif file; name a folder that does")
    if options.seed + len(files) * options.count > MAX_SEED:
        raise InputError(f"the seed {options.seed} is too great for {len(files)} files; choose a smaller one")
    homes = [None if name is None else _make_folder(name) for name in (output, peaks, plot)]
    written: list[str] = []
    failed: list[tuple[str, str]] = []
    taken: dict[str, str] = {}
    with tqdm(total=len(files) * options.count, unit="pattern", desc="simulate", file=sys.stderr, leave=False) as bar:
        for number, path in enumerate(files):
            before = bar.n
            try:
                if path.stem in taken:
                    raise InputError(f"{path}: its patterns would replace those of {taken[path.stem]}; rename one of the two")
                taken[path.stem] = path.name
                own = replace(options, seed=options.seed + number * options.count)
                wanted = [
                    None if home is None else str(home / f"{path.stem}{ending}")
                    for home, ending in zip(homes, (".xy", ".csv", ".png"), strict=True)
                ]
                names = _numbered(*wanted, options.count, [str(p) for p in files])  # type: ignore[arg-type]
                for one, made in zip(names, specimen_patterns([Source(str(path))], own), strict=True):
                    written += _write(made, *one)
                    bar.update()
                    for sentence in made.warnings[: 1 if one is names[0] else 0]:
                        bar.write(f"simxrd: {path.name}: {sentence}", file=sys.stderr)
            except InputError as error:
                failed.append((str(path), str(error)))
                bar.write(f"simxrd: skipped {error}", file=sys.stderr)
                bar.update(options.count - (bar.n - before))
    patterns = sum(name.endswith(".xy") for name in written)
    warn(f"{patterns} patterns of {len(files) - len(failed)} files written to {output}; {len(failed)} files skipped")
    return Outcome(tuple(written), tuple(failed))


def _make_folder(name: str) -> pathlib.Path:
    folder = pathlib.Path(name)
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: the output folder cannot be made ({error.strerror}); choose another place") from None
    if not os.access(folder, os.W_OK | os.X_OK):
        raise InputError(f"{folder}: the output folder cannot be written to; change its permissions or choose another")
    return folder
