"""Host zone. Refinements of measured patterns with known answers: certified cells, weighed fractions, published fits."""

from __future__ import annotations

import argparse
import dataclasses
import json
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

from experiments.json_file import json_path, write_json
from experiments.refine_reference import journals, laboratory, mixtures, quantitative
from experiments.refine_reference.case import Case, Tools
from simxrd_jax.errors import InputError
from simxrd_jax.io.xy import write_together
from simxrd_jax.plots import figure_bytes
from simxrd_jax.refine.figure import draw_fit
from simxrd_jax.train.suite import markdown, write_table

FOLDER = pathlib.Path(__file__).parent
RESULTS = FOLDER / "results.json"
CASES: dict[str, Case] = {**laboratory.CASES, **quantitative.CASES, **mixtures.CASES, **journals.CASES}
DATA = pathlib.Path("../shared/data/experimental")


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.refine_reference", description=(__doc__ or "").removeprefix("Host zone. ")
    )
    parser.add_argument("--case", action="append", choices=CASES, help="only this one; may be repeated")
    parser.add_argument("--data", type=pathlib.Path, default=DATA, help="folder of the patterns (default %(default)s)")
    parser.add_argument("--times", action="store_true", help="make each fit twice, to tell its time without compilation")
    parser.add_argument("--table", action="store_true", help="only write the tables of the results that are there")
    parser.add_argument("--figures", type=pathlib.Path, default=pathlib.Path("runs/refine_reference"), metavar="FOLDER")
    parser.add_argument("--json", type=json_path, metavar="FILE", help="write the numbers of this run here too")
    given = parser.parse_args(arguments)
    if not given.table and not (given.data / "TRUTH.json").is_file():
        parser.error(f"{given.data}: holds no TRUTH.json; give the folder of the measured patterns with --data")
    made: dict[str, Any] = {}
    for name in () if given.table else given.case or CASES:
        print(f"{name}", flush=True)
        try:
            outcome = CASES[name](Tools(given.data, lambda text: print(f"  {text}", flush=True), given.times))
        except InputError as error:
            print(f"  {name} failed: {error}", file=sys.stderr)
            continue
        made[name] = {
            "findings": [dataclasses.asdict(finding) for finding in outcome.findings],
            "fits": [dataclasses.asdict(fit) for fit in outcome.fits],
            "rows": [list(row) for row in outcome.rows],
        }
        given.figures.mkdir(parents=True, exist_ok=True)
        for title, fit in outcome.drawn.items():
            path = given.figures / f"{name}-{title}.png"
            write_together({path: figure_bytes(draw_fit(fit, title), path.name)})
        for finding in outcome.findings:
            print(f"  {line(finding.__dict__)}", flush=True)
        _keep(made)
    if given.json:
        write_json(given.json, made)
    known = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    write_table(FOLDER / "README.md", tables(known))


def _keep(made: dict[str, Any]) -> None:
    """Adds the cases to the results; times that were not measured anew stay."""
    known = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    for name, case in made.items():
        before = {fit["name"]: fit for fit in known.get(name, {}).get("fits", [])}
        for fit in case["fits"]:
            if fit["compiled_seconds"] is None and fit["name"] in before:
                fit["compiled_seconds"] = before[fit["name"]]["compiled_seconds"]
        known[name] = case
    write_json(RESULTS, {name: known[name] for name in CASES if name in known})


def line(finding: dict[str, Any]) -> str:
    """A finding in words."""
    parts = [f"{finding['what']}: {number(finding['value'])}"]
    parts += [f"{key} {number(finding[key])}" for key in ("sigma", "known", "peer") if finding[key] is not None]
    if finding["bound"]:
        parts.append(f"{finding['bound']} -> {verdict(finding)}")
    return ", ".join(parts)


def verdict(finding: dict[str, Any]) -> str:
    """Whether the bound is kept."""
    return {True: "holds", False: "does not hold", None: ""}[finding["holds"]]


def number(value: float | None) -> str:
    """A number as the tables show it."""
    return "" if value is None else f"{value:.7g}" if abs(value) >= 1 else f"{value:.3g}"


def tables(results: dict[str, Any]) -> str:
    """Findings and fits as Markdown."""
    rows = [["case", "quantity", "found", "s.u.", "known", "best peer", "must hold", ""]]
    for name, case in results.items():
        for f in case["findings"]:
            numbers = [number(f[key]) for key in ("value", "sigma", "known", "peer")]
            rows.append([name, f["what"], *numbers, f["bound"], verdict(f)])
    fits = [["case", "fit", "points", "parameters", "Rwp (%)", "GOF", "CPU s, first", "CPU s, compiled"]]
    for name, case in results.items():
        for f in case["fits"]:
            times = [f"{f['first_seconds']:.1f}", "" if f["compiled_seconds"] is None else f"{f['compiled_seconds']:.1f}"]
            sizes = [str(f["n_points"]), str(f["n_parameters"]), f"{100 * f['rwp']:.2f}", f"{f['gof']:.2f}"]
            fits.append([name, f["name"], *sizes, *times])
    notes = [f"- {name}: {f['note']}" for name, case in results.items() for f in case["findings"] if f["note"]]
    own = [f"{name}:\n\n{markdown(case['rows'])}" for name, case in results.items() if case.get("rows")]
    return "\n\n".join([markdown(rows), *(["\n".join(notes)] if notes else []), *own, markdown(fits)])
