"""Host zone. A refinement as a page for the browser, and the overview of several.

Why our own plot and no library: the page must open offline and be one of thousands. Plotly's script alone is 4.5 MB, Bokeh's
1 MB, in every page again (a series of 1,000 patterns would write gigabytes) or loaded from a network that is not there. What a
fit needs is a few lines and ticks over one axis: `report.js` draws them on a canvas in 400 lines, 16,000 points in a few
milliseconds, because a line that is denser than pixels is reduced to its extent in each column. The page is 40 kB and 32 bytes
a point (float32 in base64), and five for the curve of each phase of a mixture.

All text from files passes `html.escape`, or is JSON without '<', which the script writes as text and never as markup; a
content security policy forbids every request.
"""

from __future__ import annotations

import base64
import dataclasses
import html
import importlib.resources
import json
import math
import platform
import urllib.parse
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from simxrd_jax import __version__
from simxrd_jax.io.xy import PeakTable
from simxrd_jax.refine.build import Tie
from simxrd_jax.refine.derived import RefinedPhase
from simxrd_jax.refine.figure import runs
from simxrd_jax.refine.fit import Refinement
from simxrd_jax.refine.microabsorption import Microabsorption
from simxrd_jax.refine.numbers import with_uncertainty

POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:"
N_COLOURS = 6  # of phases in report.css, in turn
# Statistic -> how it is called, whether it is a share, and what it says.
STATISTICS: dict[str, tuple[str, bool, str]] = {
    "rwp": ("Rwp", True, "weighted profile R factor: the misfit in units of the weighted pattern, background included"),
    "rexp": ("Rexp", True, "the Rwp that noise alone would leave"),
    "gof": ("GOF", False, "Rwp over Rexp: 1 where the model explains all but noise; uncertainties are scaled by it"),
    "chi_squared": ("reduced chi squared", False, "GOF squared"),
    "rp": ("Rp", True, "profile R factor, without weights"),
    "rwp_without_background": ("Rwp without background", True, "the background taken from the pattern it is measured by"),
    "rp_without_background": ("Rp without background", True, "likewise"),
    "durbin_watson": ("Durbin-Watson d", False, "2 where neighbouring residuals are independent, less where the model errs"),
    "serial_factor": (
        "serial factor",
        False,
        "multiply uncertainties by it to allow for serial correlation (Berar &amp; Lelann)",
    ),
    "n_points": ("points", False, "that count"),
    "n_parameters": ("parameters", False, "free in the last stage"),
}


@dataclasses.dataclass(frozen=True)
class Links:
    """Files beside the page.

    Attributes:
      phases: of each phase its CIF, or None.
      others: name -> what it holds.
    """

    phases: tuple[str | None, ...]
    others: Mapping[str, str]


def report_html(
    fit: Refinement,
    phases: Sequence[RefinedPhase],
    tables: Sequence[PeakTable],
    *,
    title: str,
    links: Links,
    settings: Mapping[str, str],
) -> str:
    """The page of one refinement.

    Args:
      fit: finished.
      phases, tables: of it, see `derived`.
      title: of the pattern, as its file's name.
      links: files beside it.
      settings: what the user asked for, name -> value.
    """
    body = [
        f"<h1>{_text(title)}</h1>",
        _headline(fit),
        _warnings(fit),
        _plot(phases),
        _phase_table(fit, phases, links),
        _parameter_table(fit),
        _statistics_table(fit),
        _stage_table(fit),
        _settings_table(fit, settings, links),
        f'<script type="application/json" id="data">{script_json(plot_data(fit, tables))}</script>',
        f"<script>{_asset('report.js')}</script>",
    ]
    return _page(f"{title}: refinement", body)


def overview_html(rows: Sequence[Mapping[str, Any]], pages: Sequence[str | None]) -> str:
    """The table of several refinements; a click on a column's name sorts by it.

    Args:
      rows: column -> value, as of results.csv; an uncertainty stands in the column "NAME esd".
      pages: of each row its page, as a path from here, or None.
    """
    names = list(dict.fromkeys(name for row in rows for name in row))
    shown = [name for name in names if not (name.endswith(" esd") and name.removesuffix(" esd") in names)]
    lines = []
    for row, page in zip(rows, pages, strict=True):
        cells = []
        for name in shown:
            value = row.get(name, "")
            text = _text(_shown(name, value, row.get(f"{name} esd")))
            if name == "data" and page is not None:
                text = f'<a href="{_path(page)}">{text}</a>'
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            cells.append(_cell(text, "number" if is_number else "", value))
        lines.append(_row(cells, "failed" if "error" in row else ""))
    failed = sum("error" in row for row in rows)
    said = f"{len(rows)} patterns" + (f", of which {failed} failed" if failed else "")
    heads = {f'<button type="button">{_text(name)}</button>': "" for name in shown}
    body = [
        "<h1>Refinements</h1>",
        f'<p class="quiet">{said}; results.csv holds the same numbers. Click a column to sort by it.</p>',
        _table(heads, [f"<tbody>{''.join(lines)}</tbody>"]),
        f"<script>{_asset('overview.js')}</script>",
    ]
    return _page("Refinements", body)


def _shown(name: str, value: Any, sigma: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if name == "rwp" and isinstance(value, float):
        return f"{100 * value:.2f} %"
    if isinstance(value, float):
        return with_uncertainty(value, math.nan if sigma is None else float(sigma))
    return str(value)


# --- Parts -----------------------------------------------------------------------------------------------------------------


def _headline(fit: Refinement) -> str:
    found = fit.agreement
    rows = {
        "Rwp": f"{100 * found.rwp:.2f} %",
        "GOF": f"{found.gof:.2f}",
        "points": str(found.n_points),
        "free parameters": str(found.n_parameters),
        "converged": "yes" if fit.converged else "no",
    }
    return f'<p class="headline">{"".join(f"<span>{name} <b>{value}</b></span>" for name, value in rows.items())}</p>'


def _warnings(fit: Refinement) -> str:
    if not fit.warnings:
        return ""
    return f'<ul class="warnings">{"".join(f"<li>{_text(warning)}</li>" for warning in fit.warnings)}</ul>'


def _plot(phases: Sequence[RefinedPhase]) -> str:
    def switch(attribute: str, value: str, text: str, is_on: bool) -> str:
        return f'<button type="button" data-{attribute}="{value}" aria-pressed="{str(is_on).lower()}">{text}</button>'

    scales = "".join(switch("scale", name, name, name == "linear") for name in ("linear", "sqrt", "log"))
    lower = switch("weighted", "false", "difference", True) + switch("weighted", "true", "difference / &sigma;", False)
    keys = [
        f'<button type="button" class="key" data-curve="{name}" aria-pressed="true">'
        f'<i{" class=dot" if name == "observed" else ""} style="background:var(--{colour})"></i>{name}</button>'
        for name, colour in (("observed", "ink"), ("calculated", "calculated"), ("background", "background"))
    ]
    if len(phases) > 1:
        keys += [
            f'<button type="button" class="key" data-phase="{i}" aria-pressed="false" title="its share of the pattern">'
            f'<i style="background:var(--phase-{i % N_COLOURS})"></i>{_text(phase.name)}</button>'
            for i, phase in enumerate(phases)
        ]
    return f"""<div class="controls"><fieldset aria-label="scale of intensities">{scales}</fieldset>
<fieldset aria-label="lower panel">{lower}</fieldset><button type="button" id="reset">reset zoom</button></div>
<div class="controls">{"".join(keys)}</div>
<output id="readout">Point at the plot to read values; point at a tick to read its reflection.</output>
<div id="plot"><canvas id="curves" tabindex="0" role="img" aria-label="observed and calculated pattern, ticks of the phases, \
difference"></canvas><canvas id="marks"></canvas><img id="paper" alt=""><div id="tip"></div></div>
<p class="quiet help">Drag to zoom into a range or a box, double-click or press 0 to see all; shift and drag, or drag the axis,
to move; Ctrl and wheel, or + and &minus;, to zoom. Ticks stand at the first emission line.</p>
<noscript><p class="quiet">The plot needs JavaScript; fit.png shows the whole pattern.</p></noscript>"""


def _phase_table(fit: Refinement, phases: Sequence[RefinedPhase], links: Links) -> str:
    heads = {"phase": "", "weight (%)": "number", "space group": ""}
    corrected = fit.microabsorption
    if corrected is not None:
        heads["after Brindley (%)"] = "number"
    heads |= dict.fromkeys(("a", "b", "c (Å)", "&alpha;", "&beta;", "&gamma; (°)"), "number")
    heads |= {"volume (Å³)": "number", "density (g/cm³)": "number", "R<sub>Bragg</sub> (%)": "number", "": ""}
    lines = []
    agreements = fit.r_bragg.values()
    for i, (phase, link, r_bragg) in enumerate(zip(phases, links.phases, agreements, strict=True)):
        share, sigma = fit.weight_fractions[phase.name]
        six = zip(phase.cell.value.tolist(), phase.cell.sigma.tolist(), strict=True)
        volume = with_uncertainty(float(phase.volume.value), float(phase.volume.sigma))
        density = with_uncertainty(float(phase.density.value), float(phase.density.sigma), digits=5) if phase.atoms else ""
        group = f"{phase.structure.space_group_symbol} ({phase.structure.space_group_number})"
        swatch = f'<i class="phase" style="background:var(--phase-{i % N_COLOURS})"></i>'
        cells = [
            _cell(swatch + _text(phase.name), "name"),
            _cell(with_uncertainty(100 * share, 100 * sigma), "number"),
            _cell(_text(group), "group"),
            *([] if corrected is None else [_cell(_corrected(corrected, phase.name), "number")]),
            *(_cell(with_uncertainty(value, sigma), "number") for value, sigma in six),
            _cell(volume, "number"),
            _cell(density, "number"),
            _cell(f"{100 * r_bragg:.2f}", "number"),
            _cell("" if link is None else f'<a href="{_path(link)}">CIF</a>'),
        ]
        lines.append(_row(cells))
    return "<h2>Phases</h2>" + _table(heads, [f"<tbody>{''.join(lines)}</tbody>"], 'id="phases"')


def _corrected(corrected: Microabsorption, phase: str) -> str:
    share, sigma, _ = corrected[phase]
    return with_uncertainty(100 * share, 100 * sigma)


def _parameter_table(fit: Refinement) -> str:
    sections: dict[str, list[tuple[bool, str]]] = {}
    for i, parameter in enumerate(fit.model.table.parameters):
        place, _, rest = parameter.name.partition(".")
        phase = next((p.name for p in fit.model.phases if parameter.name.startswith(f"phases.{p.name}.")), None)
        if phase is not None:
            place, rest = f"phase {phase}", parameter.name.removeprefix(f"phases.{phase}.")
        state, is_held, is_doubtful = _state(fit, i, bool(fit.at_bound[i]))
        value = with_uncertainty(float(fit.values[i]), float(fit.sigma[i]))
        cells = [
            _cell(_text(rest), "name"),
            _cell(value, "number"),
            _cell(_text(_unit(parameter.unit))),
            _cell(_text(parameter.group)),
            _cell(_text(state), "state"),
        ]
        kind = "held" if is_held else "bound" if is_doubtful else ""
        sections.setdefault(place, []).append((is_held, _row(cells, kind)))
    bodies = []
    for place, rows in sections.items():
        head = _row([f'<th colspan="5">{_text(place)}</th>'], "held" if all(is_held for is_held, _ in rows) else "")
        bodies.append(f'<tbody class="section">{head}{"".join(row for _, row in rows)}</tbody>')
    heads = {"name": "", "value": "number", "unit": "", "group": "", "state": ""}
    return f"""<h2>Parameters</h2>
<div class="controls"><label><input type="checkbox" id="all"> those that were not refined, too</label></div>
{_table(heads, bodies, 'id="parameters" class="refined"')}
<p class="quiet">In brackets: standard uncertainty in the last digits, scaled by GOF.</p>"""


def _state(fit: Refinement, i: int, is_at_bound: bool) -> tuple[str, bool, bool]:
    """What a fit did with a parameter: in words, whether it was held, and whether its uncertainty means little."""
    tie = next((tie for tie in fit.model.ties if tie.name == fit.model.table.names[i]), None)
    if tie is not None:
        return f"tied: {_relation(tie)}", False, False
    if i not in np.asarray(fit.free):
        return "fixed", True, False
    if math.isnan(fit.sigma[i]):
        return "free, not determined by the data", False, True
    return ("free, at its bound", False, True) if is_at_bound else ("free", False, False)


def _relation(tie: Tie) -> str:
    """A tie as text: "1 - phases.x.sites.Fe1.occupancy"."""
    text = f"{tie.offset:g}" if tie.offset else ""
    for name, factor in tie.factors.items():
        size = "" if abs(factor) == 1 else f"{abs(factor):g} "
        text += f" {'-' if factor < 0 else '+'} {size}{name}"
    return text.removeprefix(" + ").strip()


def _unit(unit: str) -> str:
    return unit.replace("deg", "°").replace("A", "Å").replace("^2", "²")


def _statistics_table(fit: Refinement) -> str:
    lines = []
    for name, (title, is_share, meaning) in STATISTICS.items():
        value = getattr(fit.agreement, name)
        text = str(value) if isinstance(value, int) else f"{100 * value:.3f} %" if is_share else f"{value:.3f}"
        lines.append(_row([_cell(title), _cell(text, "number"), _cell(meaning, "quiet")]))
    return "<h2>Statistics</h2>" + _table({}, [f"<tbody>{''.join(lines)}</tbody>"])


def _stage_table(fit: Refinement) -> str:
    heads = {"": "number", "stage": "", "free": "number", "Rwp": "number", "iterations": "number", "converged": ""}
    lines = []
    for i, stage in enumerate(fit.stages):
        texts = [
            i + 1,
            stage.name,
            stage.n_free,
            f"{100 * stage.rwp:.2f} %",
            stage.iterations,
            "yes" if stage.converged else "no",
        ]
        lines.append(_row([_cell(_text(text), kind) for text, kind in zip(texts, heads.values(), strict=True)]))
    said = "Rwp of a blurred stage is that of the blurred pattern; all but the last end early."
    return f'<h2>Stages</h2>{_table(heads, [f"<tbody>{chr(10).join(lines)}</tbody>"])}<p class="quiet">{said}</p>'


def _settings_table(fit: Refinement, settings: Mapping[str, str], links: Links) -> str:
    x, radiation = fit.two_theta, fit.model.radiation
    excluded = ", ".join(f"{x[a]:g} to {x[b]:g}" for a, b in runs(fit.weight <= 0))
    lines = ", ".join(f"{fit[f'instrument.wavelength.{i}'][0]:.7g}" for i in range(len(radiation.wavelength))) + " Å"
    rows = {
        **settings,
        "points": f"{len(x)} from {x[0]:g} to {x[-1]:g}°",
        "without weight": f"{excluded}°" if excluded else "none",
        "radiation": lines if radiation.name.endswith(" A") else f"{radiation.name}: {lines}",
        "peak sum, profile": f"{fit.model.settings.peak_sum}, {fit.model.settings.profile}",
        "structures": ", ".join(f"{phase.name}: {phase.structure.source}" for phase in fit.model.phases),
        "time": f"{fit.seconds:.1f} s, compilation included",
        "program": f"simxrd_jax {__version__}, JAX {jax.__version__}, Python {platform.python_version()}",
    }
    asked = [_row([_cell(_text(name)), _cell(_text(value), "name")]) for name, value in rows.items()]
    files = [
        _row([_cell(f'<a href="{_path(name)}">{_text(name)}</a>'), _cell(_text(what))]) for name, what in links.others.items()
    ]
    return (
        f"<h2>Settings</h2>{_table({}, [f'<tbody>{chr(10).join(asked)}</tbody>'])}"
        f"<h2>Files</h2>{_table({}, [f'<tbody>{chr(10).join(files)}</tbody>'])}"
    )


# --- Data ------------------------------------------------------------------------------------------------------------------


def plot_data(fit: Refinement, tables: Sequence[PeakTable]) -> dict[str, Any]:
    """What the plot draws; arrays are little-endian in base64, angles float64 and intensities float32."""
    x = fit.two_theta
    is_mixture = len(tables) > 1
    edges = np.concatenate([x[:1], (x[1:] + x[:-1]) / 2, x[-1:]])
    return {
        "two_theta": _packed(x, "<f8"),
        "observed": _packed(fit.observed),
        "calculated": _packed(fit.calculated),
        "background": _packed(fit.background),
        "weight": _packed(fit.weight),
        "excluded": [[float(edges[a]), float(edges[b + 1])] for a, b in runs(fit.weight <= 0)],
        "wavelength": fit["instrument.wavelength.0"][0],
        "phases": [
            {
                "name": table.name,
                "peaks": _packed(fit.peaks[i]) if is_mixture else None,
                "hkl": table.hkl.tolist(),
                "multiplicity": table.multiplicity.tolist(),
                "d": np.round(table.d_spacing, 5).tolist(),
                "two_theta": np.round(table.two_theta, 4).tolist(),
                "intensity": [float(f"{v:.3g}") for v in table.intensity],
            }
            for i, table in enumerate(tables)
        ],
    }


def _packed(values: np.ndarray, kind: str = "<f4") -> str:
    return base64.b64encode(np.ascontiguousarray(values, dtype=kind).tobytes()).decode()


def script_json(value: Any) -> str:
    """JSON that may stand in a script element: nothing in it ends the element or opens a comment."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


# --- Text ------------------------------------------------------------------------------------------------------------------


def _text(value: Any) -> str:
    return html.escape(str(value))


def _cell(markup: str, kind: str = "", value: Any = None) -> str:
    """A cell of a table; the value is what the overview sorts by."""
    attributes = (f' class="{kind}"' if kind else "") + ("" if value is None else f' data-value="{_text(value)}"')
    return f"<td{attributes}>{markup}</td>"


def _row(cells: Sequence[str], kind: str = "") -> str:
    return f"<tr{f' class={kind}' if kind else ''}>{''.join(cells)}</tr>"


def _table(heads: Mapping[str, str], bodies: Sequence[str], attributes: str = "") -> str:
    """A table; heads are markup -> class."""
    head = "".join(f"<th{f' class={kind}' if kind else ''}>{name}</th>" for name, kind in heads.items())
    top = f"<thead><tr>{head}</tr></thead>" if heads else ""
    return f'<div class="scroll"><table {attributes}>{top}{"".join(bodies)}</table></div>'


def _path(name: str) -> str:
    """A relative path as a link."""
    return html.escape("./" + urllib.parse.quote(name))


def _asset(name: str) -> str:
    return importlib.resources.files("simxrd_jax.refine").joinpath(name).read_text(encoding="utf-8")


def _page(title: str, body: Iterable[str]) -> str:
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{_text(title)}</title>
<style>
{_asset("report.css")}</style>
</head>
<body>
{chr(10).join(part for part in body if part)}
</body>
</html>
"""
