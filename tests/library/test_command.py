"""`simxrd library build` and `simxrd library info`: what they write, what they say, what they refuse."""

from __future__ import annotations

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from simxrd_jax.library.build import library_of
from simxrd_jax.library.plots import plot_long_tail, symbol_text
from simxrd_jax.library.store import read_library
from simxrd_jax.plots import figure_bytes


@pytest.fixture
def folder(cif_folder: pathlib.Path, tmp_path: pathlib.Path) -> pathlib.Path:
    """Four structures, two of them of one space group, and eight bad files."""
    made = tmp_path / "cifs"
    made.mkdir()
    for name in ("Si", "KCl", "CeO2", "quartz"):
        (made / f"{name}.cif").write_bytes((cif_folder / f"{name}.cif").read_bytes())
    for i in range(8):
        (made / f"bad{i}.cif").write_text("")
    return made


def test_build_and_info(simxrd, folder: pathlib.Path):
    answer = simxrd("library", "build", "cifs", "-o", "lib.simxrd", "--preset", "simxrd", "--workers", 1)
    assert answer.code == 0
    assert answer.out == ""
    lines = answer.err.splitlines()
    assert all(line.startswith("simxrd: ") for line in lines)
    assert sum("the file is empty" in line for line in lines) == 5
    assert any("skipped 3 more, `simxrd library info lib.simxrd --skipped` lists them" in line for line in lines)
    assert "4 structures written to lib.simxrd" in lines[-1]
    assert sorted(os.listdir()) == ["cifs", "lib.simxrd"]
    text = simxrd("library", "info", "lib.simxrd").out
    assert "structures         4 (8 skipped)" in text
    assert "presets            simxrd (SimXRD)" in text
    assert "225: 2   154: 1   227: 1" in text
    assert "split ool_disjoint" in text
    assert all(len(line) < 128 for line in text.splitlines())
    listed = simxrd("library", "info", "lib.simxrd", "--skipped").out.splitlines()
    assert [line.split(":")[0] for line in listed] == [f"bad{i}" for i in range(8)]


def test_json(simxrd, folder: pathlib.Path):
    assert simxrd("library", "build", "cifs", "-o", "lib.simxrd", "--preset", "simxrd").code == 0
    info = json.loads(simxrd("library", "info", "lib.simxrd", "--json").out)
    library = read_library("lib.simxrd")
    assert info["structures"] == 4
    assert info["skipped"] == 8
    assert "skipped_structures" not in info
    assert info["file_bytes"] == pathlib.Path("lib.simxrd").stat().st_size
    expected = 3 * len(library.hkl) * library.hkl.itemsize + len(library.hkl) * (1 + 4) + 4 * 9 * 8
    assert info["device_bytes"] == expected
    assert info["space_groups"] == {"225": 2, "154": 1, "227": 1}
    assert info["crystal_systems"]["cubic"] == 3
    assert info["atoms"]["max"] == 9.0
    assert info["reflections"]["max"] == float(library.n_reflection.max())
    assert info["meta"]["sources"] == ["cifs"]
    assert set(info["splits"]) == {"in_library", "ool_published", "ool_random", "ool_disjoint"}
    also = json.loads(simxrd("library", "info", "lib.simxrd", "--json", "--skipped").out)
    assert [row[0] for row in also["skipped_structures"]] == [f"bad{i}" for i in range(8)]


def test_labels_that_disagree(simxrd, tmp_path: pathlib.Path):
    """One atom 1e-3 A off its place: primitive at 1e-5, cubic at 1e-2."""
    from ase import Atoms

    from simxrd_jax.library.store import write_library

    off = Atoms("CsCl", scaled_positions=[[0, 0, 0], [0.5 + 1e-4, 0.5 + 2e-4, 0.5 + 3.5e-4]], cell=[4.12] * 3, pbc=True)
    exact = Atoms("CsCl", scaled_positions=[[0, 0, 0], [0.5] * 3], cell=[4.12] * 3, pbc=True)
    library = library_of([off, exact], ["off", "exact"])
    assert library.space_group_tight.tolist() == [1, 221]
    assert library.space_group_loose.tolist() == [221, 221]
    assert library.labels_agree.tolist() == [False, True]
    write_library(library, "lib.simxrd")
    text = simxrd("library", "info", "lib.simxrd").out
    assert (
        "space groups at 1e-05 and 0.01 A agree for 50.00 % of the structures; where not, most often:\n  1 -> 221: 1" in text
    )


def test_plot(simxrd, folder: pathlib.Path):
    assert simxrd("library", "build", "cifs", "-o", "lib.simxrd", "--preset", "simxrd").code == 0
    assert simxrd("library", "info", "lib.simxrd", "--plot", "tail.png").code == 0
    assert pathlib.Path("tail.png").read_bytes()[:4] == b"\x89PNG"
    answer = simxrd("library", "info", "lib.simxrd", "--plot", "tail.txt")
    assert answer.code == 1
    assert "must end in .png" in answer.err
    assert sorted(os.listdir()) == ["cifs", "lib.simxrd", "tail.png"]


def test_long_tail_of_every_size():
    rng = np.random.default_rng(0)
    every = dict(zip(range(1, 231), np.sort(rng.geometric(0.005, 230))[::-1].tolist(), strict=True))
    for counts in ({1: 1}, {225: 10, 14: 10, 2: 9}, every):
        figure = plot_long_tail(counts, "title")
        bars = figure.axes[0].patches
        assert sorted(round(bar.get_height()) for bar in bars) == sorted(counts.values())  # type: ignore[attr-defined]
        assert len(figure_bytes(figure, "a.png")) > 1000
    assert symbol_text(14) == "P2$_{1}$/c"
    assert symbol_text(225) == r"Fm$\bar{3}$m"
    assert symbol_text(194) == "P6$_{3}$/mmc"
    assert symbol_text(157) == "P31m"
    assert symbol_text(1) == "P1"


@pytest.mark.parametrize(
    ("arguments", "code", "reason"),
    [
        (("build",), 2, "Missing argument"),
        (("build", "cifs"), 2, "-o LIB.simxrd"),
        (("build", "cifs", "-o", "a", "-o", "b"), 2, "given 2 times"),
        (("build", "cifs", "-o", "a", "--form-factors", "x"), 2, "is not one of"),
        (("build", "cifs", "-o", "a", "--workers", "x"), 2, "not a valid integer"),
        (("build", "cifs", "-o", "a", "--workers", "0"), 1, "number of workers is 0"),
        (("build", "cifs", "-o", "a", "--limit", "-3"), 1, "the limit is -3"),
        (("build", "cifs", "-o", "a", "--symprec", "nan"), 1, "positive distance"),
        (("build", "cifs", "-o", "a", "--preset", "labratory"), 1, "did you mean laboratory"),
        (("build", "cifs", "-o", "a", "--preset", "laboratory", "--preset", "synchrotron"), 1, "one library for each"),
        (("build", "cifs", "-o", "no/a"), 1, "does not exist"),
        (("build", "cifs", "-o", "cifs"), 1, "is a folder"),
        (("build", "cifs/bad0.cif", "-o", "a"), 1, "none of the 1 structures"),
        (("build", "nothing", "-o", "a"), 1, "no such file or folder"),
        (("build", "empty", "-o", "a"), 1, "holds no .cif file"),
        (("build", "old.simxrd", "-o", "a"), 1, "is a library already"),
        (("build", "cifs", "-o", "old.simxrd"), 1, "add --overwrite"),
        (("info",), 2, "Missing argument"),
        (("info", "nothing"), 1, "no such file"),
        (("info", "cifs"), 1, "is a folder"),
        (("info", "cifs/Si.cif"), 1, "is not a library"),
        (("info", "old.simxrd"), 1, "is not a library"),
    ],
)
def test_refusals(simxrd, folder: pathlib.Path, arguments: tuple[str, ...], code: int, reason: str):
    pathlib.Path("old.simxrd").write_bytes(b"something old")
    pathlib.Path("empty").mkdir()
    answer = simxrd("library", *arguments)
    assert answer.code == code
    assert answer.out == ""
    assert reason in answer.err
    assert "Traceback" not in answer.err
    if code == 1:
        assert answer.err.count("\n") == 1
    assert sorted(os.listdir()) == ["cifs", "empty", "old.simxrd"]
    assert pathlib.Path("old.simxrd").read_bytes() == b"something old"


def test_interruption(datasets: pathlib.Path, tmp_path: pathlib.Path):
    """Ctrl-C in a terminal reaches every process of the group: one sentence, no traceback, and the build resumes."""
    small = "import simxrd_jax.library.build as build; build.build_library.__kwdefaults__['shard_size'] = 3"
    program = f"{small}; from simxrd_jax.cli import main; main()"
    command = [sys.executable, "-c", program, "library", "build", str(datasets / "mp_sample.npz"), "-o", "lib.simxrd"]
    command += ["--workers", "2", "--preset", "simxrd"]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True, start_new_session=True)
    part = tmp_path / "lib.simxrd.part"
    deadline = time.monotonic() + 60
    # Enough that both workers have started: while they do, Ctrl-C is ignored.
    while len(list(part.glob("*.npz"))) < 12:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.002)
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    sentence = "simxrd: lib.simxrd: stopped; the same command resumes the build, and deleting lib.simxrd.part forgets it"
    assert err.split("\n") == [sentence, "", "simxrd: interrupted", ""]  # click ends the line of the ^C
    assert os.listdir(tmp_path) == ["lib.simxrd.part"]
    done = subprocess.run(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True, check=True)
    assert "resumes an interrupted build" in done.stderr
    assert "512 structures written" in done.stderr
    assert os.listdir(tmp_path) == ["lib.simxrd"]
