"""`simxrd library show`: the table and the command it ends with, the picture's words and places, and bad input."""

from __future__ import annotations

import itertools
import os
import pathlib
import shlex

import jax
import numpy as np
import pytest
from ase import Atoms
from click.testing import CliRunner
from matplotlib.colors import to_rgba

from simxrd_jax.cli import _run, cli
from simxrd_jax.commands.library import SheetOptions, show_sheet
from simxrd_jax.io.cif import read_cif
from simxrd_jax.library.build import library_of
from simxrd_jax.library.plots import SYSTEM_COLOURS
from simxrd_jax.library.sheet import MAX_PANELS, Entry, condition_legend, condition_parts, plain_symbol, plot_sheet
from simxrd_jax.library.store import read_library, write_library
from simxrd_jax.library.stream import make_stream
from simxrd_jax.plots import figure_bytes
from simxrd_jax.presets import PRESETS, get_preset, key_of_seed, sample

FILES = ("quartz", "Si", "triclinic", "CeO2")
# Cubic at 1e-2 A, of the lowest symmetry at 1e-5 A.
OFF = Atoms("CsCl", scaled_positions=[[0, 0, 0], [0.5 + 1e-4, 0.5 + 2e-4, 0.5 + 3.5e-4]], cell=[4.12] * 3, pbc=True)


@pytest.fixture(scope="module")
def content(cif_folder: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    structures = [*(read_cif(cif_folder / f"{name}.cif") for name in FILES), OFF]
    path = tmp_path_factory.mktemp("show") / "lib.simxrd"
    write_library(library_of(structures, [*FILES, "off"], name="small"), path)
    return path.read_bytes()


@pytest.fixture
def show(content: bytes, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    """Calls the command in a folder that holds lib.simxrd and nothing else."""
    monkeypatch.chdir(tmp_path)
    pathlib.Path("lib.simxrd").write_bytes(content)

    def run(*arguments: object) -> tuple[int, str, str]:
        code = _run(["library", "show", "lib.simxrd", *map(str, arguments)])
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return run


def test_picture_and_table_are_those_of_the_seed(show):
    ideal = ("-n", 3, "--preset", "ideal")
    code, table, err = show(*ideal, "-o", "sheet.png")
    assert (code, err) == (0, "")
    sheet = pathlib.Path("sheet.png").read_bytes()
    assert sheet.startswith(b"\x89PNG")
    assert show(*ideal, "-o", "again.png")[1] == table
    assert pathlib.Path("again.png").read_bytes() == sheet
    assert show(*ideal)[1] == table, "without a picture nothing is simulated, but the draws are the same"
    assert show(*ideal, "--seed", 1, "-o", "other.png")[1] != table
    assert pathlib.Path("other.png").read_bytes() != sheet
    assert show(*ideal, "--scale", "log", "-o", "log.png")[1] == table
    assert pathlib.Path("log.png").read_bytes() != sheet


def test_table(show):
    lines = show("-n", 20)[1].splitlines()
    assert lines[0].split() == ["id", "formula", "space", "group", "crystal", "system", "seed"]
    assert [line.split()[0] for line in lines[1:21]] == [str(i + 1) for i in range(20)]
    told = {line.split()[1]: line for line in lines[1:21]}
    assert set(told) == {*FILES, "off"}, "20 draws balanced over space groups meet every structure"
    assert told["quartz"].split()[2:6] == ["O2Si", "154", "P3221", "trigonal"]
    assert told["off"].endswith("at 1e-05 | 0.01 A: 1 | 221")
    assert [name for name, line in told.items() if "|" in line] == ["off"]


def test_the_command_at_the_end_draws_the_pattern_again(show, cif_folder: pathlib.Path):
    """In mode atoms; a count of the Poisson noise more or less is what rounding may change."""
    preset, seed = "laboratory", 2
    lines = show("-n", 2, "--preset", preset, "--mode", "atoms", "--seed", seed)[1].splitlines()
    identifier = lines[1].split()[1]
    command = shlex.split(lines[-1])
    assert command[:2] == ["simxrd", "simulate"]
    assert _run([str(cif_folder / f"{identifier}.cif") if word == "CIF" else word for word in command[1:]]) == 0
    alone = np.loadtxt("pattern.xy")[:, 1]
    stream = make_stream(read_library("lib.simxrd"), get_preset(preset), batch=2, sampling="balanced", mode="atoms")
    batch = jax.device_get(stream.batch(key_of_seed(seed), 0))
    count = 1.0 / float(batch.conditions["peak_counts"][0])
    difference = np.abs(alone - batch.intensity[0]) / alone.max()
    assert difference.max() < 1e-5 + 1.01 * count
    assert np.median(difference) < 1e-5


def test_the_command_names_what_is_not_the_default(cif_folder: pathlib.Path, tmp_path: pathlib.Path):
    structure = read_cif(cif_folder / "Si.cif")
    other = library_of([structure], ["Si"], symprec=1e-3, form_factors="waasmaier", dispersion=False)
    write_library(other, tmp_path / "other.simxrd")
    command = show_sheet(str(tmp_path / "other.simxrd"), SheetOptions(count=1)).splitlines()[-1]
    assert "--symprec 0.001 --form-factors waasmaier --no-dispersion" in command


def test_split_and_part(show):
    library = read_library("lib.simxrd")
    codes = library.splits["ool_random"]
    for code, part in enumerate(("train", "validation", "test")):
        inside = set(library.ids[codes == code].tolist())
        status, out, err = show("-n", 10, "--split", "ool_random", "--part", part)
        if inside:
            assert {line.split()[1] for line in out.splitlines()[1:11]} <= inside
        else:
            assert status == 1
            assert "holds no structure" in err
    assert show("-n", 10, "--split", "ool_random")[1] == show("-n", 10, "--split", "ool_random", "--part", "train")[1]


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (("--preset", "labratory"), 1, "did you mean laboratory"),
        (("--preset", "synchrotron"), 1, "build one with --preset synchrotron"),
        (("-n", 0), 1, "a sheet of 0 patterns"),
        (("-n", 61), 1, "choose 1 to 60"),
        (("-n", "x"), 2, "not a valid integer"),
        (("-n", 1, "-n", 2), 2, "given 2 times"),
        (("--seed", -1), 1, "the seed -1 must be from 0"),
        (("--seed", 2**64), 1, "must be from 0"),
        (("--split", "ool_disjont"), 1, "did you mean ool_disjoint"),
        (("--part", "test"), 1, "name the split too"),
        (("--split", "ool_random", "--part", "half"), 2, "is not one of"),
        (("--sampling", "even"), 2, "is not one of"),
        (("--scale", "none"), 2, "is not one of"),
        (("--mode", "atom"), 2, "is not one of"),
        (("-o", "sheet.bmp"), 1, "must end in .png"),
        (("-o", "-"), 1, "must end in .png"),
        (("-o", "nowhere/sheet.png"), 1, "does not exist"),
        (("-o", "folder.png"), 1, "is a folder"),
    ],
)
def test_refusals(show, arguments: tuple[object, ...], code: int, sentence: str):
    pathlib.Path("folder.png").mkdir()
    status, out, err = show(*arguments)
    assert status == code
    assert out == ""
    assert sentence in err
    assert "Traceback" not in err
    if code == 1:
        assert err.count("\n") == 1
    assert sorted(os.listdir()) == ["folder.png", "lib.simxrd"]


def test_the_library_is_not_overwritten(show, content: bytes):
    os.link("lib.simxrd", "lib.png")
    status, _, err = show("-o", "lib.png")
    assert status == 1
    assert "is also an input" in err
    assert pathlib.Path("lib.simxrd").read_bytes() == content


def test_a_library_cut_short(show, content: bytes):
    pathlib.Path("lib.simxrd").write_bytes(content[:-10])
    status, _, err = show("-o", "sheet.png")
    assert status == 1
    assert "is truncated" in err
    assert os.listdir() == ["lib.simxrd"]


def test_condition_parts():
    values = {
        "grain_size": 761.2, "microstrain": 0.00208, "march_dollase": 0.989, "texture_axis": (0, 1, -1),
        "zero_shift": -0.01843, "peak_counts": 95574.04, "biso": 0.4,
    }  # fmt: skip
    expected = ["D 76.1 nm", "e 0.21 %", "r 0.99 (0 1 -1)", "z −0.018°", "95,600 counts"]  # noqa: RUF001
    assert condition_parts(values, PRESETS["laboratory"]) == expected
    strain = {f"strain_{i}{j}": 0.0 for i in "xyz" for j in "xyz"} | {"strain_xx": 0.004, "strain_xy": 0.02}
    values = strain | {
        "grain_size": 11.34, "orientation_below": 0.2437, "orientation_above": 0.05, "displacement_rms": 0.2668,
        "zero_shift": 1.0,
    }  # fmt: skip
    # Of [[0.004, 0.01], [0.01, 0]] the greater eigenvalue is 0.002 + sqrt(0.002^2 + 0.01^2) = 0.0122.
    expected = ["D 11.3 Å", "E +1.2 %", "t −0.24 +0.050", "u 0.27 Å", "z +1.0°"]  # noqa: RUF001
    assert condition_parts(values, PRESETS["simxrd"]) == expected
    assert condition_parts({"caglioti_w": 0.01}, PRESETS["ideal"]) == []
    assert condition_legend(PRESETS["ideal"]) == ""


def test_every_letter_is_explained():
    for preset in PRESETS.values():
        values = sample(preset, key=jax.random.key(0))
        letters = [part.split()[0] for part in condition_parts(values, preset) if not part.endswith("counts")]
        meanings = [meaning.split()[0] for meaning in condition_legend(preset).split(" · ") if meaning]
        assert [letter for letter in meanings if letter != "counts"] == letters
        assert len(set(meanings)) == len(meanings)


def test_symbols():
    assert [plain_symbol(n) for n in (1, 14, 166, 225)] == ["P1", "P21/c", "R-3m", "Fm-3m"]


def _entries(count: int) -> list[Entry]:
    """Labels as long and as odd as they come."""
    systems = itertools.cycle(SYSTEM_COLOURS)
    names = itertools.cycle(["mp-1", "a_very_long_name_of_a_file_" * 4, "$x_1$", "50%_{}", "é^2\\alpha"])
    formulas = itertools.cycle(["Si", "Ba12Na2(Lu2Mo)4O27C24H108Cl2N8S4" * 2, "Fe0.25Mg0.75O", "H2$O"])
    labels = itertools.cycle([None, (0, 230), (14, 62)])
    return [Entry(i + 1, next(names), next(formulas), (i * 37) % 231, next(systems), next(labels), i) for i in range(count)]


@pytest.mark.parametrize("count", [1, 2, 4, 5, 12, pytest.param(30, marks=pytest.mark.slow), MAX_PANELS])
def test_words_keep_to_their_places(count: int):
    """No word leaves the page, touches another or another panel, however long the names are."""
    grid = np.linspace(10.0, 80.0, 101)
    entries = _entries(count)
    patterns = np.random.default_rng(0).random((count, 101))
    patterns[0] = 0.0
    parts = ["D 76.1 nm", "e 0.0021 %", "r 0.99 (0 1 0)", "z +0.0184°", "95,600 counts"] * 2
    figure = plot_sheet(grid, patterns, entries, [parts] * count, ["$title$", "note"])
    figure.canvas.draw()
    assert len(figure.axes) == count
    page = figure.bbox
    boxes = [text.get_window_extent() for text in figure.texts if text.get_text()]
    for axes, entry in zip(figure.axes, entries, strict=True):
        assert axes.spines["left"].get_edgecolor() == to_rgba(SYSTEM_COLOURS[entry.crystal_system])
        if axes.get_xlabel():
            boxes += [axes.xaxis.label.get_window_extent(), *(t.get_window_extent() for t in axes.get_xticklabels())]
    assert sum(bool(axes.get_xlabel()) for axes in figure.axes) == len({axes.get_position().x0 for axes in figure.axes})
    for box in boxes:
        assert page.x0 <= box.x0 < box.x1 <= page.x1
        assert page.y0 <= box.y0 < box.y1 <= page.y1
    frames = [axes.get_window_extent() for axes in figure.axes]
    for a, b in itertools.combinations(boxes, 2):
        assert not a.overlaps(b)
    for box, frame in itertools.product(boxes, frames):
        assert not box.overlaps(frame)
    words = [text.get_text() for text in figure.texts]
    assert sum(word.startswith("≠") for word in words) == sum(entry.other_labels is not None for entry in entries)
    for entry in entries:
        assert any(f"No. {entry.space_group}" in word and f"({entry.crystal_system})" in word for word in words)
    assert len(figure_bytes(figure, "a.png")) > 1000


def test_help_has_examples():
    text = CliRunner().invoke(cli, ["library", "show", "--help"]).output
    assert text.count("  simxrd library show structures.simxrd") >= 2
