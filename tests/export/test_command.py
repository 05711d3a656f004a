"""`simxrd generate`, `import` and `verify`: what they write and print, what they refuse, and in what words."""

from __future__ import annotations

import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import time

import ase.db
import numpy as np
import pytest

from simxrd_jax.commands import generate as commands
from simxrd_jax.export.formats import FORMATS
from simxrd_jax.export.reader import read_patterns
from simxrd_jax.export.recipes import RECIPES

from .test_released import good_pairs, make_database
from .test_writer import files_of

GENERATE = ("generate", "{library}", "-n", "20", "--preset", "ideal", "--shard-size", "8", "--seed", "3")


@pytest.fixture
def call(simxrd, library_path):
    """The command on the library of these tests."""
    return lambda *arguments: simxrd(*(library_path if a == "{library}" else a for a in arguments))


def _refused(answer, *parts: object) -> None:
    """One sentence, exit code 1, nothing on standard output."""
    assert answer.code == 1, answer.err
    assert answer.out == ""
    assert answer.err.count("\n") == 1, answer.err
    assert answer.err.startswith("simxrd: ")
    for part in parts:
        assert str(part) in answer.err


@pytest.mark.parametrize("command", ["generate", "import", "verify"])
def test_help_has_examples(simxrd, command):
    answer = simxrd(command, "--help")
    assert answer.code == 0
    assert f"  simxrd {command} " in answer.out.split("Examples:")[1]


def test_a_set_is_written_in_every_format(call):
    """The same records in each; a second call leaves a set alone."""
    sets = []
    for name in FORMATS:
        answer = call(*GENERATE, "--format", name, "-o", name)
        assert answer.code == 0, answer.err
        assert f"20 patterns in {name} (" in answer.err
        assert call("verify", name).out.startswith(f"{name}: 20 records in 3 files (")
        sets.append(read_patterns(name).columns("intensity", "key_data", "structure_id", "space_group"))
        shard = next(each for each in pathlib.Path(name).iterdir() if "00001-of-00003" in each.name)
        stranger = shard.with_name(shard.name.replace("00001-of-00003", "00007-of-00009"))
        shutil.copy(shard, stranger)
        answer = call("verify", name)
        assert answer.code == 0
        assert answer.out.endswith(f"\nnot of this set, though in its folder: {stranger.name}\n")
        stranger.unlink()
    for other in sets[1:]:
        for key, values in other.items():
            np.testing.assert_array_equal(values, sets[0][key])
    before = files_of(pathlib.Path("npz"))
    assert "the set is complete" in call(*GENERATE, "--format", "npz", "-o", "npz").err
    assert files_of(pathlib.Path("npz")) == before
    manifest = json.loads(before["manifest.json"])
    assert manifest["config"]["seed"] == 3
    assert manifest["about"]["wavelength"]["unit"] == "A"
    assert {f["name"] for f in manifest["features"]} >= {"intensity", "space_group", "crystal_system", "extinction_group"}


def test_an_ase_database_is_one_file(call):
    answer = call(*GENERATE, "--format", "ase", "-o", "train.db")
    assert answer.code == 0, answer.err
    assert sorted(p.name for p in pathlib.Path().iterdir()) == ["train.db", "train.db.manifest.json"]
    assert ase.db.connect("train.db").count() == 20
    assert call("verify", "train.db").out.startswith("train.db: 20 records in 1 file (")
    answer = call("import", "train.db", "-o", "back", "--part", "test")
    assert answer.code == 0, answer.err
    assert "0 rows skipped" in answer.err
    assert len(read_patterns("back")) == 20
    pathlib.Path("train.db").write_bytes(b"")
    _refused(call("verify", "train.db"), "train.db has 0 bytes")


def test_the_rows_of_an_import_that_are_skipped_are_named(call, tmp_path):
    make_database(tmp_path / "rows.db", [good_pairs(), *["bad"] * 7])
    answer = call("import", "rows.db", "-o", "set", "--format", "npz")
    assert answer.code == 0
    assert "skipped row 2: its key-value pairs are no JSON" in answer.err
    assert "skipped 2 more, set/manifest.json lists them" in answer.err
    assert "1 pattern in set" in answer.err
    assert "7 rows skipped" in answer.err


def test_a_recipe_gives_number_and_conditions(call, monkeypatch):
    """Its count is published, its preset is its own; a number given goes before."""
    seen = []
    monkeypatch.setattr("simxrd_jax.export.generate.make_job", lambda library, request: seen.append(request))
    monkeypatch.setattr("simxrd_jax.export.writer.write_set", lambda *given, **more: pytest.skip("seen"))
    for more in ((), ("-n", "7"), ("--per-structure", "2")):
        with pytest.raises(pytest.skip.Exception):
            call("generate", "{library}", "--recipe", "cnn-sr-li-al-o", *more, "-o", "set")
    assert [(r.count, r.per_structure) for r in seen] == [(1_785_405, None), (7, None), (None, 2)]
    assert all(r.preset is RECIPES["cnn-sr-li-al-o"].preset and r.impurities.count == 2 for r in seen)
    _refused(call("generate", "{library}", "--recipe", "xrdsp", "--preset", "ideal", "-o", "set"), "leave the preset out")
    _refused(call("generate", "{library}", "--recipe", "xrd", "-o", "set"), "no recipe 'xrd'")


def test_recipes_are_listed(call):
    answer = call("generate", "--list-recipes")
    assert answer.code == 0
    for recipe in RECIPES.values():
        assert f"{recipe.name}: preset {recipe.preset.name}, " in answer.out
        assert recipe.unknown in answer.out


def test_what_is_refused(call, tmp_path):
    _refused(call("generate", "{library}", "-o", "set"), "how many patterns")
    _refused(call("generate", "{library}", "-n", "5", "--part", "test", "-o", "set"), "name the split too")
    _refused(call("generate", "{library}", "-n", "5", "--preset", "synchrotron", "-o", "set"), "wavelength")
    _refused(call("generate", "{library}", "-n", "5", "--set", "grainsize=1", "-o", "set"), "did you mean grain_size")
    _refused(call("generate", "none.simxrd", "-n", "5", "-o", "set"), "none.simxrd: no such file")
    (tmp_path / "file").write_text("")
    _refused(call("generate", "{library}", "-n", "5", "-o", "file"), "file: is a file")
    _refused(call("verify", "none"), "none/manifest.json: no such file")
    _refused(call("import", "file", "-o", "set"), "file: is not an ASE database")
    assert call("generate", "-n", "5", "-o", "set").code == 2
    assert call("generate", "{library}", "-n", "5").code == 2
    assert call("import", "x.db").code == 2
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file"]


def test_a_preset_that_the_library_does_not_reach_says_what_to_do(call):
    _refused(call("generate", "{library}", "--recipe", "xrd-autoanalyzer", "-o", "set"), "--preset xrd-autoanalyzer")


def test_an_interrupt_says_how_to_go_on(call, monkeypatch):
    def interrupt(*given, **more):
        raise KeyboardInterrupt

    monkeypatch.setattr("simxrd_jax.export.writer.write_set", interrupt)
    answer = call(*GENERATE, "-o", "set")
    assert answer.code == 130
    assert "set: stopped; the same command goes on" in answer.err


def test_formats_of_the_command_are_those_of_the_writers():
    assert set(commands.FORMATS) == {*FORMATS, "ase"}


@pytest.mark.slow
def test_the_command_killed_twenty_times_makes_the_same_files(tmp_path, library_path, cache):
    """From start to end, compilation included: programs come from the cache."""
    command = [sys.executable, "-m", "simxrd_jax", "generate", library_path, "-n", "3000", "--preset", "ideal"]
    command += ["--shard-size", "100", "-o"]
    begun = time.monotonic()
    subprocess.run([*command, str(tmp_path / "whole")], check=True, capture_output=True)
    seconds, numbers, met = time.monotonic() - begun, random.Random(5), 0
    for _ in range(20):
        child = subprocess.Popen([*command, str(tmp_path / "killed")], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(numbers.uniform(0.2, 0.9) * seconds)
        child.send_signal(signal.SIGKILL)
        met += child.wait() == -signal.SIGKILL
    subprocess.run([*command, str(tmp_path / "killed")], check=True, capture_output=True)
    assert met >= 3
    assert files_of(tmp_path / "killed") == files_of(tmp_path / "whole")
    assert os.path.exists(tmp_path / "killed" / "manifest.json")
