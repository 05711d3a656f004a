"""Host zone. The work behind `simxrd refine`."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import pathlib
import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from tqdm import tqdm

from simxrd_jax.commands.refine_setup import Options, phase_name, prepare, settings_of
from simxrd_jax.errors import InputError
from simxrd_jax.io.xy import write_together
from simxrd_jax.refine.build import Model
from simxrd_jax.refine.doubts import LITTLE
from simxrd_jax.refine.fit import Refinement
from simxrd_jax.refine.microabsorption import of_refinement as microabsorption_of
from simxrd_jax.refine.numbers import with_uncertainty
from simxrd_jax.refine.page import overview_html
from simxrd_jax.refine.plans import Plan
from simxrd_jax.refine.report import PAGE_FILE, RESULT_FILE, check_folder, result_dict, write_report
from simxrd_jax.refine.series import Job, MultiStart, multi_start, refine_jobs, refine_sequence

TABLE_FILE, OVERVIEW_FILE, STARTS_FILE = "results.csv", "results.html", "starts.csv"
TABLE_EVERY = 5.0  # seconds between two writings of the table of a series


@dataclasses.dataclass(frozen=True, eq=False)
class _Done:
    """A refined file.

    Attributes:
      fit: its refinement.
      search: the starts that it was the best of, or None.
    """

    fit: Refinement
    search: MultiStart | None = None


def _refined(
    data: Sequence[str], options: Options, known: Mapping[str, dict[str, Any]], say: Callable[[str], None]
) -> Iterator[_Done | InputError]:
    """Refines measurements but those of which a result is known, and yields the result or the error of each, in order."""
    made: dict[Hashable, tuple[Model, Plan]] = {}
    prepared: list[tuple[Job, tuple[str, ...]] | InputError] = []
    series: list[Job | Mapping[str, float]] = []
    for file in data:
        if file in known:
            series.append(handed_on(known[file]))
            continue
        try:
            model, plan, measured, notes = prepare(file, options, made)
        except InputError as error:
            prepared.append(error)
            continue
        job = Job(model, measured.intensity, plan, measured.sigma, options.excluded, options.values)
        series.append(job)
        prepared.append((job, notes))
    jobs = [item[0] for item in prepared if not isinstance(item, InputError)]
    if options.starts > 1:
        results: Iterator[MultiStart | Refinement | InputError] = (_search(job, options, say) for job in jobs)
    elif options.sequential:
        results = refine_sequence(series, say)
    else:
        results = refine_jobs(jobs, options.batch, say)
    for item in prepared:
        if isinstance(item, InputError):
            yield item
            continue
        result = next(results)
        if isinstance(result, InputError):
            yield result
            continue
        search = result if isinstance(result, MultiStart) else None
        fit = result.best if isinstance(result, MultiStart) else result
        corrected = microabsorption_of(fit, options.diameters) if options.diameters else None
        coarse = () if corrected is None else corrected.warnings
        warnings = (*item[1], *fit.warnings, *coarse)
        yield _Done(dataclasses.replace(fit, warnings=warnings, microabsorption=corrected), search)


def _search(job: Job, options: Options, say: Callable[[str], None]) -> MultiStart | InputError:
    try:
        return multi_start(job, options.starts, seed=options.seed, spread=options.spread, batch=options.batch, say=say)
    except InputError as error:
        return error


def refine_files(
    data: Sequence[str], options: Options, output: str, *, resume: bool = False, say: Callable[[str], None]
) -> list[str]:
    """Refines measurements, each into its own folder if there are several, with a table of all.

    Args:
      data: files.
      options: of all of them.
      output: folder.
      resume: whether results that are there already stay and are not made again.
      say: takes one sentence for the user.

    Returns:
      The files that failed; one that fails stops no other, but is an error where it is the only one.

    Raises:
      InputError: a folder that already holds a result (to resume: one of other options), or options that do not go together.
    """
    for place, width in options.humps:
        if not width > 0:
            raise InputError(
                f"--hump {place:g} {width:g}: the width must be above 0 deg; give position and width at half height"
            )
    for name, diameter in options.diameters.items():
        if not (np.isfinite(diameter) and diameter > 0):
            raise InputError(f"--grain-diameter {name}={diameter:g}: must be a positive number of micrometres")
    if options.starts < 1:
        raise InputError(f"--starts {options.starts}: at least one start is needed; give 1 or more")
    if options.batch < 1:
        raise InputError(f"--batch {options.batch}: at least one pattern goes into a call; give 1 or more")
    if options.sequential and (options.starts > 1 or options.batch > 1):
        raise InputError("--sequential takes one pattern after the other from one start; leave out --starts and --batch")
    root = pathlib.Path(output)
    folders = [root] if len(data) == 1 else [root / pathlib.Path(file).stem for file in data]
    if len(set(folders)) < len(folders):
        raise InputError("two files have the same name, and their results would share a folder; rename one")
    if len(data) > 1 and not resume and ((root / TABLE_FILE).exists() or (root / OVERVIEW_FILE).exists()):
        raise InputError(
            f"{root}: already holds a table of results; choose another folder with -o, go on with --resume, or delete it"
        )
    known = {}
    for file, folder in zip(data, folders, strict=True):
        if resume and (folder / RESULT_FILE).exists():
            known[file] = _known_result(folder, settings_of(file, options))
        elif len(data) > 1 and (folder / RESULT_FILE).exists():
            raise InputError(
                f"{folder}: already holds a result; go on with --resume, choose another folder with -o, or delete it"
            )
        else:
            check_folder(folder, [phase_name(text)[0] for text in options.phases])
    if known:
        say(f"{root}: {len(known)} of {len(data)} results are there already")
    failed, rows, pages = [], [], []
    results = _refined(data, options, known, say if len(data) == 1 else lambda sentence: None)
    shown = tqdm(zip(data, folders, strict=True), desc="refine", total=len(data), disable=None if len(data) > 1 else True)
    written = time.monotonic()
    for file, folder in shown:
        if len(data) > 1 and rows and time.monotonic() - written > TABLE_EVERY:
            write_together({root / TABLE_FILE: _table(rows)})
            written = time.monotonic()
        if file in known:
            rows.append({"data": file, **_row(known[file])})
            pages.append(f"{folder.name}/{PAGE_FILE}")
            continue
        done = next(results)
        try:
            if isinstance(done, InputError):
                raise done
            _make(folder)
            write_report(done.fit, folder, pathlib.Path(file).name, settings_of(file, options))
            if done.search is not None:
                write_together({folder / STARTS_FILE: _table(start_rows(done.search))})
        except InputError as error:
            if len(data) == 1:
                raise
            say(f"{file} failed: {error}")
            failed.append(file)
            rows.append({"data": file, "error": str(error)})
            pages.append(None)
            continue
        rows.append({"data": file, **_row(result_dict(done.fit))})
        pages.append(f"{folder.name}/{PAGE_FILE}")
        if len(data) == 1:
            if done.search is not None:
                say(f"{sum(done.search.reached)} of {len(done.search.fits)} starts reached the lowest Rwp")
            say(summary(done.fit))
    if len(data) > 1:
        _make(root)
        write_together({root / TABLE_FILE: _table(rows), root / OVERVIEW_FILE: overview_html(rows, pages)})
    return failed


def _known_result(folder: pathlib.Path, settings: Mapping[str, str]) -> dict[str, Any]:
    """A result that an earlier call has made.

    Raises:
      InputError: it cannot be read, or is of other options.
    """
    try:
        result = json.loads((folder / RESULT_FILE).read_text(encoding="utf-8"))
        made = result["settings"]
    except (OSError, ValueError, KeyError) as error:
        raise InputError(
            f"{folder / RESULT_FILE}: cannot be read ({error}); delete the folder, and it is made again"
        ) from None
    differ = [name for name in {**made, **settings} if name != "data" and made.get(name) != settings.get(name)]
    if differ:
        raise InputError(
            f"{folder}: holds a result of another {', '.join(differ)}; give the same options, or choose another folder with -o"
        )
    return result


def handed_on(result: Mapping[str, Any]) -> dict[str, float]:
    """What the next pattern of a series starts from, of a result in its file; nothing of one that is no good."""
    if not result["converged"] or result["rwp"] >= LITTLE:
        return {}
    names = [name for name in result["parameters"] if name in set(result["free"]) or ".reflections." in name]
    return {name: result["parameters"][name][0] for name in names}


def summary(fit: Refinement) -> str:
    """What a user wants to see first."""
    a = fit.agreement
    lines = [f"Rwp {100 * a.rwp:.2f} %, GOF {a.gof:.2f}, {a.n_parameters} parameters, {fit.seconds:.1f} s"]
    for i in fit.free:
        name = fit.model.table.names[i]
        if not name.startswith("background.") and ".reflections." not in name:
            lines.append(f"  {name} = {with_uncertainty(float(fit.values[i]), float(fit.sigma[i]))}")
    for phase in fit.model.phases:
        share, sigma = fit.weight_fractions[phase.name]
        agreement = fit.r_bragg[phase.name]
        words = [f"R_Bragg {100 * agreement:.2f} %" if np.isfinite(agreement) else "no R_Bragg: it has no intensity"]
        if phase.mode != "rietveld":
            lines_of = sum(name.startswith(f"phases.{phase.name}.reflections.") for name in fit.model.table.names)
            words.append(f"{lines_of} intensities ({phase.mode})")
        elif len(fit.model.phases) > 1:
            words.append(f"{with_uncertainty(100 * share, 100 * sigma)} wt%")
            if fit.microabsorption is not None:
                share, sigma, tau = fit.microabsorption[phase.name]
                words.append(f"{with_uncertainty(100 * share, 100 * sigma)} wt% after Brindley (tau {tau:.3f})")
        lines.append(f"  {phase.name}: {', '.join(words)}")
    return "\n".join([*lines, *(f"warning: {warning}" for warning in fit.warnings)])


def _make(folder: pathlib.Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: cannot be made ({error.strerror}); choose another folder") from None


def _row(result: dict[str, Any]) -> dict[str, Any]:
    """One line of the table of several refinements."""
    row = {name: result[name] for name in ("rwp", "rp", "rexp", "gof", "n_points", "n_parameters", "converged", "seconds")}
    row["warnings"] = len(result["warnings"])
    for name in result["free"]:
        if not name.startswith("background.") and ".reflections." not in name:
            row[name], row[f"{name} esd"] = result["parameters"][name]
    for phase, values in result["phases"].items():
        row[f"{phase} R_Bragg"] = values["r_bragg"]
        if values["weight_fraction"] is not None:
            row[f"{phase} weight fraction"], row[f"{phase} weight fraction esd"] = values["weight_fraction"]
        if "brindley" in values:
            row[f"{phase} weight fraction, Brindley"] = values["brindley"]["weight_fraction"][0]
    return row


def start_rows(search: MultiStart) -> list[dict[str, Any]]:
    """A line for each start: what it ended with, and the values that were drawn, before and after."""
    rows = []
    drawn = list(dict.fromkeys(name for start in search.starts[1:] for name in start))
    for i, (fit, start, reached) in enumerate(zip(search.fits, search.starts, search.reached, strict=True)):
        row: dict[str, Any] = {"start": i, "rwp": fit.agreement.rwp, "gof": fit.agreement.gof}
        row |= {"converged": fit.converged, "reached": reached, "best": fit is search.best}
        begun = fit.model.table.values(start)
        for name in drawn:
            row[f"{name} start"], row[name] = float(begun[fit.model.table.index(name)]), fit[name][0]
        rows.append(row)
    return rows


def _table(rows: Sequence[dict[str, Any]]) -> str:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
