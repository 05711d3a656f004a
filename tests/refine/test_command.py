"""`simxrd refine`: what it writes, what it refuses, and in what words."""

from __future__ import annotations

import csv
import dataclasses
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simxrd_jax.errors import InputError
from simxrd_jax.io.cif import read_cif
from simxrd_jax.io.instruments import read_instrument
from simxrd_jax.refine.build import InstrumentStart, PhaseStart, make_model
from simxrd_jax.refine.instruments import INSTRUMENTS
from simxrd_jax.refine.model import pattern

OPTIONS = ("--wavelength", "CuKa", "--background", "2", "--symmetric")


@pytest.fixture(scope="module")
def silicon(datasets: pathlib.Path) -> pathlib.Path:
    return datasets / "cifs" / "Si.cif"


@pytest.fixture(scope="module")
def measured(silicon: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A pattern of silicon with counting noise, its cell 0.3 % larger than the CIF's and its specimen 0.1 mm too low."""
    two_theta = np.round(np.arange(25.0, 60.01, 0.05), 4)
    start = InstrumentStart({"caglioti_w": 0.01}, has_axial_divergence=False)
    with jax.enable_x64(True):
        model = make_model([PhaseStart("Si", read_cif(silicon))], "CuKa", two_theta, instrument=start, background_terms=2)
        truth = {"phases.Si.cell.a": 5.447, "instrument.displacement": 0.1, "phases.Si.scale": 5.0}
        values = model.table.values({**truth, "phases.Si.microstrain": 1e-3, "background.chebyshev.0": 50.0})
        clean = np.asarray(pattern(model.layout, model.arrays, model.settings, jnp.asarray(values)))
    path = tmp_path_factory.mktemp("measured") / "si.xy"
    np.savetxt(path, np.stack([two_theta, np.random.default_rng(0).poisson(clean)], axis=1), fmt="%.4f")
    return path


@pytest.fixture(scope="module")
def refined(silicon, measured, tmp_path_factory) -> pathlib.Path:
    """The folder of a refinement of two files, one of which is broken."""
    from simxrd_jax.commands.refine import refine_files
    from simxrd_jax.commands.refine_setup import Options

    folder = tmp_path_factory.mktemp("refined")
    broken = folder / "broken.xy"
    broken.write_text("10 1\nnothing\n")
    options = Options((str(silicon),), wavelength="CuKa", background=2, axial=False, fixed=("*.biso",))
    failed = refine_files([str(measured), str(broken)], options, str(folder / "out"), say=lambda sentence: None)
    assert failed == [str(broken)]
    return folder / "out"


def test_the_default_plan_finds_a_cell_that_is_off(refined):
    result = json.loads((refined / "si" / "result.json").read_text())
    a, sigma = result["phases"]["Si"]["cell"]["a"]
    assert abs(a - 5.447) < 5 * sigma
    assert result["converged"]
    assert result["gof"] == pytest.approx(1.0, abs=0.1)
    assert result["parameters"]["instrument.displacement"][0] == pytest.approx(0.1, abs=0.02)
    files = {"result.json", "pattern.xy", "fit.png", "instrument.json", "report.html", "refinement.cif", "Si.cif"}
    assert {p.name for p in (refined / "si").iterdir()} == files
    assert read_cif(refined / "si" / "Si.cif").lattice[0, 0] == pytest.approx(a, abs=0.26 * sigma)
    page = (refined / "si" / "report.html").read_text()
    assert "<td>background</td>" in page
    assert "*.biso" in page
    instrument = read_instrument(refined / "si" / "instrument.json")
    assert instrument.values["caglioti_w"] == result["parameters"]["instrument.caglioti_w"][0]
    assert "displacement" not in instrument.values


def test_several_files_get_a_table_and_a_broken_one_stops_no_other(refined):
    rows = list(csv.DictReader((refined / "results.csv").open()))
    assert len(rows) == 2
    assert float(rows[0]["phases.Si.cell.a"]) == pytest.approx(5.447, abs=0.005)
    assert "broken.xy" in rows[1]["error"]
    assert not (refined / "broken").exists()
    overview = (refined / "results.html").read_text()
    assert 'href="./si/report.html"' in overview
    assert "of which 1 failed" in overview


def test_a_series_and_several_starts_give_the_numbers_of_python(silicon, measured, refined, tmp_path):
    """With the model of one file for both: points, options and numbers are the same."""
    from simxrd_jax.commands.refine import refine_files
    from simxrd_jax.commands.refine_setup import Options, prepare
    from simxrd_jax.refine.series import Job, multi_start, refine_sequence

    copy = tmp_path / "again.xy"
    copy.write_bytes(measured.read_bytes())
    shared = {"wavelength": "CuKa", "background": 2, "axial": False, "fixed": ("*.biso",)}
    options = Options((str(silicon),), **shared)
    made: dict = {}
    model, plan, pattern_of, _ = prepare(str(measured), options, made)
    assert prepare(str(copy), options, made)[0] is model
    job = Job(model, pattern_of.intensity, plan, pattern_of.sigma)
    first, second = refine_sequence([job, job])
    silent = lambda sentence: None  # noqa: E731
    in_turn = Options((str(silicon),), **shared, sequential=True)
    refine_files([str(measured), str(copy)], in_turn, str(tmp_path / "s"), say=silent)
    for name, fit in (("si", first), ("again", second)):
        result = json.loads((tmp_path / "s" / name / "result.json").read_text())
        assert [v for v, _ in result["parameters"].values()] == fit.values.tolist()
    before = json.loads((refined / "si" / "result.json").read_text())
    assert before["rwp"] == first.agreement.rwp
    assert before["phases"]["Si"]["mode"] == "rietveld"
    assert 0 < before["phases"]["Si"]["r_bragg"] < 0.1
    refine_files([str(measured)], Options((str(silicon),), **shared, starts=3, seed=5), str(tmp_path / "m"), say=silent)
    search = multi_start(job, 3, seed=5)
    rows = list(csv.DictReader((tmp_path / "m" / "starts.csv").open()))
    assert [float(row["rwp"]) for row in rows] == [fit.agreement.rwp for fit in search.fits]
    assert [row["reached"] for row in rows] == [str(r) for r in search.reached]
    assert float(rows[1]["phases.Si.cell.a start"]) == search.starts[1]["phases.Si.cell.a"]


def test_an_earlier_result_is_kept(simxrd, refined, measured, silicon):
    before = (refined / "si" / "result.json").read_bytes()
    answer = simxrd("refine", measured, "--phase", silicon, *OPTIONS, "-o", refined / "si")
    assert answer.code == 1
    assert "already holds a result; choose another folder" in answer.err
    assert (refined / "si" / "result.json").read_bytes() == before
    other = measured.parent / "other.xy"
    other.write_bytes(measured.read_bytes())
    answer = simxrd("refine", other, refined / "broken.xy", "--phase", silicon, *OPTIONS, "-o", refined)
    assert "already holds a table of results" in answer.err


def test_an_interrupted_series_goes_on(silicon, measured, tmp_path):
    """With one start for all and from one pattern to the next: the same numbers, and nothing is made twice."""
    from simxrd_jax.commands.refine import refine_files
    from simxrd_jax.commands.refine_setup import Options

    files = [str(tmp_path / f"{name}.xy") for name in ("first", "second")]
    for file in files:
        pathlib.Path(file).write_bytes(measured.read_bytes())
    shared: dict = {"wavelength": "CuKa", "background": 2, "axial": False, "fixed": ("*.biso",)}
    said: list[str] = []
    for name, options in (
        ("plain", Options((str(silicon),), **shared)),
        ("in turn", Options((str(silicon),), **shared, sequential=True)),
    ):
        whole, parts = tmp_path / name / "whole", tmp_path / name / "parts"
        refine_files(files, options, str(whole), say=said.append)
        refine_files(files, options, str(parts), say=said.append)
        for lost in (parts / "results.csv", parts / "results.html", *(parts / "second").iterdir()):
            lost.unlink()
        kept = (parts / "first" / "result.json").stat().st_mtime_ns
        with pytest.raises(InputError, match="first: already holds a result"):
            refine_files(files, options, str(parts), say=said.append)
        refine_files(files, options, str(parts), resume=True, say=said.append)
        assert said[-1].endswith("1 of 2 results are there already")
        assert (parts / "first" / "result.json").stat().st_mtime_ns == kept
        expected, found = (list(csv.DictReader((folder / "results.csv").open())) for folder in (whole, parts))
        for row in (*expected, *found):
            del row["seconds"]
        assert found == expected
        assert "second/report.html" in (parts / "results.html").read_text()
        again = dataclasses.replace(options, background=3)
        with pytest.raises(InputError, match="first: holds a result of another background; give the same options"):
            refine_files(files, again, str(parts), resume=True, say=said.append)
    (parts / "first" / "result.json").write_text("{")
    with pytest.raises(InputError, match=r"first/result.json: cannot be read .*delete the folder"):
        refine_files(files, options, str(parts), resume=True, say=said.append)


def test_the_list_has_start_values_as_set_and_help_names_the_instruments(simxrd, measured, silicon):
    listed = simxrd("refine", measured, "--phase", silicon, *OPTIONS, "--set", "phases.Si.cell.a=5.44", "--list")
    (line,) = [row for row in listed.out.splitlines() if row.startswith("phases.Si.cell.a ")]
    assert line.split()[1] == "5.44"
    told = "".join(simxrd("refine", "--help").out.split())
    assert all(name in told for name in INSTRUMENTS)


def test_the_structures_own_file_is_kept(simxrd, measured, silicon, tmp_path):
    (tmp_path / "Si.cif").write_bytes(silicon.read_bytes())
    answer = simxrd("refine", measured, "--phase", "Si.cif", *OPTIONS, "-o", tmp_path)
    assert answer.code == 1
    assert "already holds a file Si.cif, which would be lost" in answer.err
    assert (tmp_path / "Si.cif").read_bytes() == silicon.read_bytes()


def test_the_list_names_every_parameter(simxrd, measured, silicon):
    answer = simxrd("refine", measured, "--phase", f"silicon={silicon}", *OPTIONS, "--list")
    assert answer.code == 0, answer.err
    lines = {line.split()[0]: line for line in answer.out.splitlines()}
    assert {"phases.silicon.cell.a", "instrument.displacement", "background.chebyshev.1"} <= set(lines)
    assert lines["phases.silicon.cell.a"].endswith("cell, blurred by 0.8 deg")
    assert "axial" not in answer.out


def test_effects_are_there_once_they_are_asked_for(simxrd, measured, silicon):
    asked = ("--hump", "40", "6", "--stephens", "Si", "--harmonics", "Si=4")
    stated = ("--set", "phases.Si.absorption_mu_t=0.4", "--set", "instrument.transparency=0.001")
    answer = simxrd("refine", measured, "--phase", silicon, *OPTIONS, *asked, *stated, "--list")
    assert answer.code == 0, answer.err
    start = {line.split()[0]: line.split()[1] for line in answer.out.splitlines()}
    assert start["background.hump_position.0"] == "40"
    assert start["phases.Si.absorption_mu_t"] == "0.4"
    assert start["instrument.transparency"] == "0.001"
    assert {"phases.Si.stephens.400", "phases.Si.stephens.220", "phases.Si.harmonics.4_0"} <= set(start)
    assert "phases.Si.microstrain" not in start
    plain = simxrd("refine", measured, "--phase", silicon, *OPTIONS, "--list").out
    assert not any(name in plain for name in ("hump", "stephens", "harmonics", "absorption", "transparency"))


def test_plans_and_instruments_have_names(simxrd, measured, silicon):
    given = ("refine", measured, "--phase", silicon, "--background", "2", "--symmetric", "--list")
    answer = simxrd(*given, "--instrument", "bragg-brentano-graphite", "--plan", "cell")
    assert answer.code == 0, answer.err
    lines = {line.split()[0]: line.split() for line in answer.out.splitlines()}
    assert lines["instrument.monochromator_two_theta"][1] == "26.6"
    assert lines["instrument.displacement"][-2:] == ["cell,", "position"]
    assert lines["phases.Si.grain_size"][-1] == "width"  # in no stage
    profile = simxrd(*given, "--wavelength", "CuKa", "--plan", "profile").out
    assert "displacement parameters" not in profile
    assert "position, widths" in profile


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--range", "80", "90"), "the pattern runs from 25 to 60 deg; take a part of it"),
        (("--scan", "2"), "has no scan 2; choose one from 1 to 1"),
        (("--free", "phases.Se.*"), r"no parameter matches 'phases.Se.*'"),
        (("--set", "phases.Si.cell.b=5"), "there is no parameter 'phases.Si.cell.b'; did you mean"),
        (("--set", "phases.Si.grain_size=-1"), "must be above 0"),
        (("--set", "cell"), "expected NAME=VALUE"),
        (("--texture", "Ge=0,0,1"), "there is no such phase; choose from Si"),
        (("--texture", "Si=0,0"), "expected PHASE=h,k,l"),
        (("--plan", "none.json"), "none.json: is no plan"),
        (("--instrument", "bragg"), "--instrument bragg: is neither a file nor one of bragg-brentano, "),
        (("--phase", "none.cif"), "none.cif: no such file"),
        (("--fix", "*"), "no parameter is free"),
        (("--exclude", "0", "180"), "no point is left"),
        (("--mode", "lebial"), "--mode lebial: there is no such mode; did you mean lebail"),
        (("--mode", "Ge=lebail"), "--mode Ge: there is no such phase; choose from Si"),
        (("--mode", "lebail", "--mode", "pawley"), "given twice"),
        (("--mode", "lebail", "--texture", "Si=0,0,1"), "free intensities hold its texture"),
        (("--harmonics", "Si=three"), "expected PHASE=NUMBER, such as brucite=4"),
        (("--harmonics", "Si=3"), "must be an even number from 2 to 12"),
        (("--stephens", "Ge"), "--stephens Ge: there is no such phase"),
        (("--grain-diameter", "Si"), "--grain-diameter Si: expected PHASE=NUMBER"),
        (("--grain-diameter", "Si=-2"), "must be a positive number"),
        (("--grain-diameter", "Si=2", "--mode", "lebail"), "tells no weight fractions"),
        (("--hump", "40", "0"), "--hump 40 0: the width must be above 0"),
        (("--starts", "0"), "--starts 0: at least one start is needed"),
        (("--starts", "2", "--spread", "3"), "--spread 3: must be between"),
        (("--batch", "0"), "--batch 0: at least one pattern"),
        (("--sequential", "--starts", "3"), "leave out --starts and --batch"),
    ],
)
def test_what_is_wrong_is_said_in_a_sentence(simxrd, measured, silicon, tmp_path, arguments, words):
    answer = simxrd("refine", measured, "--phase", silicon, *OPTIONS, *arguments, "-o", tmp_path / "out")
    assert answer.code == 1
    assert words in answer.err
    assert "Traceback" not in answer.err
    assert not (tmp_path / "out").exists()


def test_options_that_are_missing(simxrd, measured, silicon, tmp_path):
    assert "name at least one structure" in simxrd("refine", measured, "-o", tmp_path / "x").err
    assert "name a folder" in simxrd("refine", measured, "--phase", silicon).err
    answer = simxrd("refine", measured, "--phase", silicon, "-o", tmp_path / "x")
    assert "does not tell its wavelength; give it with --wavelength" in answer.err
