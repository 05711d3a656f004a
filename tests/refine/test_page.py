"""The page of a refinement: its data, its tables, and that nothing in it is taken for markup or fetched."""

from __future__ import annotations

import base64
import dataclasses
import html.parser
import json
import pathlib
import re
import shutil
import subprocess

import numpy as np
import pytest

import simxrd_jax.refine
from simxrd_jax.refine.derived import peak_tables, refined_phases
from simxrd_jax.refine.numbers import with_uncertainty
from simxrd_jax.refine.page import N_COLOURS, Links, overview_html, plot_data, report_html, script_json

LINKS = Links(("a b.cif", None), {"result.json": "numbers"})
FOLDER = pathlib.Path(simxrd_jax.refine.__file__).parent
EMPTY = {"meta", "img", "input", "br"}


class Page(html.parser.HTMLParser):
    """Elements of a page in order, its tables' rows as texts, and its scripts; fails where elements do not nest."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.rows: list[tuple[str, list[str]]] = []
        self.scripts: list[str] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(text)
        assert not self._open

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in EMPTY:
            self._open.append(tag)
        if tag == "tr":
            self.rows.append((dict(attrs).get("class") or "", []))
        if tag in ("td", "th"):
            self.rows[-1][1].append("")
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        if "script" in self._open:
            self.scripts[-1] += data
            return
        self.text += data
        if self._open and {"td", "th"} & set(self._open):
            self.rows[-1][1][-1] += data


@pytest.fixture(scope="module")
def parts(fitted):
    return refined_phases(fitted), peak_tables(fitted)


def page_of(fit, parts, title="mix.xy", settings=None):
    text = report_html(fit, *parts, title=title, links=LINKS, settings=settings or {})
    return Page(text), text


def decoded(text, kind="<f4"):
    return np.frombuffer(base64.b64decode(text), dtype=kind)


def test_the_plot_has_the_fits_numbers(fitted, parts):
    page, text = page_of(fitted, parts)
    data = json.loads(page.scripts[0])
    assert data == plot_data(fitted, parts[1])
    np.testing.assert_array_equal(decoded(data["two_theta"], "<f8"), fitted.two_theta)
    for name in ("observed", "calculated", "background", "weight"):
        np.testing.assert_allclose(decoded(data[name]), getattr(fitted, name), rtol=1e-6)
    for phase, curve, table in zip(data["phases"], fitted.peaks, parts[1], strict=True):
        np.testing.assert_allclose(decoded(phase["peaks"]), curve, rtol=1e-6)
        assert phase["hkl"] == table.hkl.tolist()
        np.testing.assert_allclose(phase["two_theta"], table.two_theta, atol=5.1e-5)
        np.testing.assert_allclose(phase["intensity"], table.intensity, rtol=5.1e-3)
    ((low, high),) = data["excluded"]  # to the middle between points
    assert (low, high) == pytest.approx((29.98, 31.06))
    assert len(text) - len(page.scripts[0]) < 60_000
    alone = plot_data(dataclasses.replace(fitted, peaks=fitted.peaks[:1]), parts[1][:1])
    assert alone["phases"][0]["peaks"] is None


def test_sixteen_thousand_points_stay_below_a_megabyte(fitted, parts):
    x = np.linspace(10.0, 90.0, 16_000)
    many = {name: np.interp(x, fitted.two_theta, getattr(fitted, name)) for name in ("observed", "calculated", "background")}
    fit = dataclasses.replace(fitted, two_theta=x, weight=np.ones(16_000), peaks=np.zeros((2, 16_000)), **many)
    assert len(page_of(fit, parts)[1]) < 1_000_000


def test_every_parameter_is_listed_with_what_was_done_to_it(fitted, parts):
    bound = dataclasses.replace(fitted, at_bound=fitted.at_bound.copy(), sigma=fitted.sigma.copy())
    bound.at_bound[bound.model.table.index("phases.wuestite.scale")] = True
    bound.sigma[bound.model.table.index("phases.calcite.biso")] = np.nan
    page, _ = page_of(bound, parts)
    place, rows = "", {}
    for kind, cells in page.rows:
        if len(cells) == 1:
            place = cells[0]
        elif len(cells) == 5:
            rows[f"{place}.{cells[0]}"] = (kind, *cells[1:])
    assert len(rows) == len(fitted.model.table) + 1  # and the head
    value, sigma = fitted["phases.calcite.cell.a"]
    assert rows["phase calcite.cell.a"] == ("", with_uncertainty(value, sigma), "Å", "cell", "free")
    assert rows["instrument.zero_shift"] == ("held", "0", "°", "position", "fixed")
    tied = rows["phase wuestite.sites.Mg1.occupancy"]
    assert tied[0] == ""
    assert tied[-1] == "tied: 1 - phases.wuestite.sites.Fe1.occupancy"
    assert "(" in tied[1]
    assert rows["phase wuestite.scale"][0] == rows["phase calcite.biso"][0] == "bound"
    assert rows["phase wuestite.scale"][-1] == "free, at its bound"
    assert rows["phase calcite.biso"][-1] == "free, not determined by the data"


def test_statistics_phases_stages_settings(fitted, parts):
    page, _ = page_of(fitted, parts, settings={"data": "mix.xy"})
    cells = {row[0]: row for _, row in page.rows}
    assert cells["Rwp"][1] == f"{100 * fitted.agreement.rwp:.3f} %"
    assert len(cells["Durbin-Watson d"][2]) > 20
    share, sigma = fitted.weight_fractions["calcite"]
    assert cells["calcite"][1] == with_uncertainty(100 * share, 100 * sigma)
    assert cells["calcite"][2] == "R -3 c:H (167)"
    assert cells["data"][1] == "mix.xy"
    assert "simxrd_jax" in cells["program"][1]
    assert cells["without weight"][1] == "30.04 to 31°"
    assert any(row[1:3] == ["all", str(fitted.agreement.n_parameters)] for _, row in page.rows)
    links = [attributes["href"] for tag, attributes in page.elements if tag == "a"]
    assert links == ["./a%20b.cif", "./result.json"]
    assert all(warning in page.text for warning in fitted.warnings)


def test_texts_from_files_are_no_markup(fitted, parts):
    evil = "</script><img src=x onerror=alert(1)>'\" <!--<script>&amp;"
    renamed = dataclasses.replace(fitted, warnings=(evil,), weight_fractions={evil: (1.0, 0.0)})
    phases = [dataclasses.replace(phase, name=evil) for phase in parts[0]]
    tables = [dataclasses.replace(table, name=evil) for table in parts[1]]
    page, _ = page_of(renamed, (phases, tables), title=evil, settings={"data": evil, evil: evil})
    assert sum(tag == "script" for tag, _ in page.elements) == 2
    assert [attributes["id"] for tag, attributes in page.elements if tag == "img"] == ["paper"]
    assert not any("onerror" in attributes for _, attributes in page.elements)
    assert json.loads(page.scripts[0])["phases"][0]["name"] == evil
    assert page.text.count(evil) >= 6
    assert "<" not in script_json({"a": "<!--"})


def test_nothing_is_fetched(fitted, parts):
    page, text = page_of(fitted, parts)
    assert not re.search(r"https?://|url\(|@import|\bfetch\(|XMLHttpRequest", text)
    assert not any(attributes.get("src") for _, attributes in page.elements)
    (policy,) = [a["content"] for _, a in page.elements if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy.startswith("default-src 'none'")


def test_the_overview(fitted):
    rows = [
        {"data": "a.xy", "rwp": 0.0912, "converged": True, "phases.Si.cell.a": 5.43102, "phases.Si.cell.a esd": 0.00003},
        {"data": "<b>.xy", "error": "it failed"},
    ]
    text = overview_html(rows, ["a b/report.html", None])
    page = Page(text)
    assert page.rows[0][1] == ["data", "rwp", "converged", "phases.Si.cell.a", "error"]
    assert page.rows[1] == ("", ["a.xy", "9.12 %", "yes", "5.43102(3)", ""])
    assert page.rows[2] == ("failed", ["<b>.xy", "", "", "", "it failed"])
    assert [a["href"] for tag, a in page.elements if tag == "a"] == ["./a%20b/report.html"]
    assert [a.get("data-value") for tag, a in page.elements if tag == "td"][:2] == ["a.xy", "0.0912"]
    assert "of which 1 failed" in page.text


def test_the_style_has_the_phases_colours():
    style = (FOLDER / "report.css").read_text()
    assert len(re.findall(r"--phase-\d:", style)) == 2 * N_COLOURS


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not here")
@pytest.mark.parametrize("name", ["report.js", "overview.js"])
def test_scripts_parse(name):
    subprocess.run(["node", "--check", FOLDER / name], check=True, capture_output=True)
