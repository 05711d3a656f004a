"""`simxrd library show`: a picture, a table, the same for a seed, and bad input."""

from __future__ import annotations

import pathlib

import pytest
from click.testing import CliRunner

from simxrd_jax.cli import _run


@pytest.fixture
def show(datasets: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> tuple[int, str, str]:
        code = _run(["library", "show", str(datasets / "mp_library.simxrd"), *map(str, arguments)])
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return run


def test_sheet_and_table(show):
    code, out, _ = show("-n", 3, "--preset", "laboratory", "-o", "sheet.png")
    assert code == 0
    assert pathlib.Path("sheet.png").read_bytes().startswith(b"\x89PNG")
    rows = out.splitlines()
    assert [row.split()[0] for row in rows[1:4]] == ["1", "2", "3"]
    seed = rows[1].split("  ")
    assert "--seed" in out
    assert any(part.strip().isdigit() and part.strip() in out.split("--seed ")[1] for part in seed)
    again = show("-n", 3, "--preset", "laboratory", "-o", "again.png")
    assert again[1] == out
    assert pathlib.Path("again.png").read_bytes() == pathlib.Path("sheet.png").read_bytes()
    other = show("-n", 3, "--seed", 1, "-o", "other.png")
    assert other[1] != out


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--preset", "labratory"), "did you mean laboratory"),
        (("--preset", "synchrotron"), "build one with --preset synchrotron"),
        (("-n", 0), "a sheet of 0 patterns"),
        (("-n", 1000), "a sheet of 1000 patterns"),
        (("--split", "ool_disjont"), "did you mean ool_disjoint"),
        (("--part", "test"), "name the split too"),
        (("-o", "sheet.bmp"), "must end in .png"),
        (("-o", "nowhere/sheet.png"), "nowhere"),
    ],
)
def test_bad_input_is_one_sentence(show, arguments, sentence):
    code, _, err = show(*arguments)
    assert code != 0
    assert sentence in err
    assert "Traceback" not in err
    assert not list(pathlib.Path().iterdir())


def test_help_has_examples():
    from simxrd_jax.cli import cli

    text = CliRunner().invoke(cli, ["library", "show", "--help"]).output
    assert "simxrd library show" in text
