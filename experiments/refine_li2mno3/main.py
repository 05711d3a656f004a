"""Host zone. Two measured layered oxides, lithium-rich and plain, fitted by gradient: figures and what was found.

The lithium-rich oxide is LiTMO2 (TM: Mn, Ni, Co) with domains of Li2MnO3, whose order of lithium and manganese shows in weak
lines from 20 to 24 deg, and a little spinel, Li4Mn5O12. All three have one packing of oxygen, so that their strong lines fall
together: what is known of the minor phases' cells goes in as restraints, and their microstrain is tied to that of LiTMO2.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import pathlib
from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure

from experiments.json_file import json_path, write_json
from simxrd_jax.io.cif import read_cif
from simxrd_jax.io.patterns import read_pattern
from simxrd_jax.io.xy import write_together
from simxrd_jax.plots import INK, PHASE_COLOURS, figure_bytes
from simxrd_jax.refine.build import Model, PhaseStart, Restraint, Tie, make_model
from simxrd_jax.refine.constraints import constrained
from simxrd_jax.refine.figure import CALCULATED, draw_fit
from simxrd_jax.refine.fit import Refinement, refine
from simxrd_jax.refine.numbers import with_uncertainty
from simxrd_jax.refine.plans import Plan, changed, cumulative, default_plan
from simxrd_jax.train.suite import markdown, write_table

FOLDER = pathlib.Path(__file__).parent
DATA = FOLDER.parents[1] / "datasets" / "refinement"
MAIN, MINOR = "LiTMO2", ("Li2MnO3", "Li4Mn5O12")
# The holder's glass. [deg]
HUMP = (21.3, 6.0)
# Of minor phases' cells beside the published ones, as a share and in degrees: what composition may change.
LENGTHS, ANGLES = 3e-3, 0.2
# Grains of LiTMO2 broaden less than its strain, which depends on direction. [A]
LARGE = 5000.0
# Where lithium and manganese order. [deg]
ORDERED = (19.3, 25.0)


@dataclasses.dataclass(frozen=True)
class Case:
    """A measured pattern.

    Attributes:
      title: of its figure.
      folder: of its files, under `DATA`.
      shown: parameters for the table.
    """

    title: str
    folder: str
    shown: tuple[str, ...]


CASES = {
    "lithium-rich": Case(
        "LiTMO2 with Li2MnO3 and Li4Mn5O12",
        "li_rich_oxide",
        (
            "phases.LiTMO2.cell.a", "phases.LiTMO2.cell.c", "phases.LiTMO2.sites.O1.z", "phases.Li2MnO3.cell.a",
            "phases.Li2MnO3.cell.b", "phases.Li2MnO3.cell.c", "phases.Li2MnO3.cell.beta", "phases.Li2MnO3.grain_size",
            "phases.Li4Mn5O12.cell.a", "instrument.displacement",
        ),
    ),
    "layered": Case(
        "LiTMO2 alone",
        "li_tm_oxide",
        (
            "phases.LiTMO3.cell.a", "phases.LiTMO3.cell.c", "phases.LiTMO3.sites.O1.z", "phases.LiTMO3.march_dollase",
            "instrument.displacement",
        ),
    ),
}  # fmt: skip


def lithium_rich() -> Refinement:
    """Three phases and the holder's hump."""
    folder = DATA / CASES["lithium-rich"].folder
    measured = read_pattern(folder / "intensity.csv")
    phases = [PhaseStart(name, read_cif(folder / f"{name}.cif"), stephens=name == MAIN) for name in (MAIN, *MINOR)]
    model = make_model(phases, "CuKa", measured.two_theta, humps=(HUMP,))
    model = constrained(
        model,
        restraints=[restraint for name in MINOR for restraint in known_cell(model, name)],
        ties=[
            Tie(f"phases.{MINOR[1]}.grain_size", {f"phases.{MINOR[0]}.grain_size": 1.0}),
            Tie(f"phases.{MINOR[1]}.microstrain", {f"phases.{MINOR[0]}.microstrain": 1.0}),
        ],
    )
    start = {f"phases.{MAIN}.grain_size": LARGE, f"phases.{MINOR[0]}.microstrain": 1.8e-3}
    return refine(model, measured.intensity, plan_of_mixture(), sigma=measured.sigma, start=start, say=print)


def known_cell(model: Model, phase: str) -> list[Restraint]:
    """The published cell of a phase, as far as composition leaves it."""
    cell = [p for p in model.table.parameters if p.name.startswith(f"phases.{phase}.cell.")]
    return [Restraint({p.name: 1.0}, p.value, LENGTHS * p.value if p.unit == "A" else ANGLES) for p in cell]


def plan_of_mixture() -> Plan:
    """The main phase first, then the minor ones one by one."""
    main = f"phases.{MAIN}"
    return cumulative(
        "lithium-rich",
        {
            "scale, background, hump": ("@scale", "@background", "@hump"),
            "cell": (f"{main}.cell.*",),
            "position, widths": ("instrument.displacement", "instrument.caglioti_w", f"{main}.stephens.*"),
            "asymmetry": ("instrument.axial_source",),
            MINOR[0]: (f"phases.{MINOR[0]}.cell.*", f"phases.{MINOR[0]}.grain_size"),
            MINOR[1]: (f"phases.{MINOR[1]}.cell.*",),
            "oxygen": (f"{main}.sites.O1.z",),
        },
    )


def layered() -> Refinement:
    """One phase, textured, by the default plan; B are held, since 35 deg tell little of them, and the grains are large."""
    folder = DATA / CASES["layered"].folder
    measured = read_pattern(folder / "intensity.csv")
    phase = PhaseStart("LiTMO3", read_cif(folder / "LiTMO3.cif"), texture_axis=(0.0, 0.0, 1.0))
    model = make_model([phase], "CuKa", measured.two_theta)
    plan = changed(default_plan(model), ("phases.LiTMO3.sites.O1.z",), ("*biso", "*.grain_size"))
    start = {"phases.LiTMO3.grain_size": LARGE}
    return refine(model, measured.intensity, plan, sigma=measured.sigma, start=start, say=print)


def found(name: str, fit: Refinement) -> dict[str, Any]:
    """The numbers of a fit."""
    a = fit.agreement
    return {
        "title": CASES[name].title,
        "rwp": a.rwp,
        "rexp": a.rexp,
        "gof": a.gof,
        "n_points": a.n_points,
        "n_parameters": a.n_parameters,
        "converged": fit.converged,
        "parameters": {shown: fit[shown] for shown in CASES[name].shown},
        "weight_fractions": {phase: fit.weight_fractions[phase] for phase in fit.weight_fractions},
        "warnings": list(fit.warnings),
    }


def draw(name: str, fit: Refinement) -> Figure:
    """The fit; of the lithium-rich oxide the lines of order are enlarged."""
    figure = draw_fit(fit, CASES[name].title)
    if name != "lithium-rich":
        return figure
    inset = figure.axes[0].inset_axes((0.57, 0.28, 0.42, 0.5))
    x = fit.two_theta
    near = (x >= ORDERED[0]) & (x <= ORDERED[1])
    inset.plot(x[near], fit.observed[near], ".", color=INK, markersize=2.0)
    ordered = fit.peaks[[phase.name for phase in fit.model.phases].index(MINOR[0])]
    rest = fit.calculated - ordered
    inset.fill_between(x[near], rest[near], fit.calculated[near], color=PHASE_COLOURS[1], alpha=0.25, label=MINOR[0])
    inset.plot(x[near], fit.calculated[near], color=CALCULATED, linewidth=1.0)
    inset.set_xlim(*ORDERED)
    inset.legend(frameon=False, fontsize=7)
    inset.tick_params(labelsize=7)
    return figure


def tables(results: dict[str, Any]) -> str:
    """The results as Markdown."""
    parts = []
    for case in results.values():
        rows = [["quantity", "found"]]
        rows += [[name, with_uncertainty(*pair)] for name, pair in case["parameters"].items()]
        if len(case["weight_fractions"]) > 1:
            rows += [[f"{p} (wt%)", with_uncertainty(100 * w, 100 * s)] for p, (w, s) in case["weight_fractions"].items()]
        sentence = (
            f"**{case['title']}**: Rwp {100 * case['rwp']:.2f} %, Rexp {100 * case['rexp']:.2f} %, GOF {case['gof']:.2f}, "
            f"{case['n_points']} points, {case['n_parameters']} parameters."
        )
        parts += [sentence, markdown(rows)]
        if case["warnings"]:
            parts.append("\n".join(f"- {warning}" for warning in case["warnings"]))
    return "\n\n".join(parts)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.refine_li2mno3",
        description=(__doc__ or "").removeprefix("Host zone. ").split("\n\n")[0],
    )
    parser.add_argument("--case", action="append", choices=CASES, help="only this one; may be repeated")
    parser.add_argument("--figures", type=pathlib.Path, default=FOLDER, metavar="FOLDER", help="default: beside the README")
    parser.add_argument("--json", type=json_path, metavar="FILE", help="write the numbers here; the README then stays")
    given = parser.parse_args(arguments)
    made = {}
    given.figures.mkdir(parents=True, exist_ok=True)
    for name in given.case or CASES:
        print(CASES[name].title)
        fit = lithium_rich() if name == "lithium-rich" else layered()
        made[name] = found(name, fit)
        print(f"  Rwp {100 * fit.agreement.rwp:.2f} %, GOF {fit.agreement.gof:.2f}")
        path = given.figures / f"{CASES[name].folder}.png"
        write_together({path: figure_bytes(draw(name, fit), path.name)})
    if given.json:
        write_json(given.json, made)
        return
    results = FOLDER / "results.json"
    known = json.loads(results.read_text(encoding="utf-8")) if results.exists() else {}
    known = {name: {**known, **made}[name] for name in CASES if name in {**known, **made}}
    write_json(results, known)
    write_table(FOLDER / "README.md", tables(known))
