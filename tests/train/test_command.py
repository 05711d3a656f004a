"""`simxrd train`, `evaluate` and `predict`: what they print and write, what they refuse, and in what words."""

from __future__ import annotations

import gc
import json
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest

from simxrd_jax.commands.train import _seen_in_training
from simxrd_jax.io.xy import read_xy
from simxrd_jax.library.build import library_of
from simxrd_jax.library.store import read_library, write_library
from simxrd_jax.train import evaluation, state
from simxrd_jax.train.config import TrainConfig
from simxrd_jax.train.targets import structures_in

from .conftest import content_of, write_config


@pytest.fixture
def run(trained: pathlib.Path, tmp_path: pathlib.Path) -> pathlib.Path:
    """A run that may be damaged."""
    return pathlib.Path(shutil.copytree(trained, tmp_path / "run"))


@pytest.fixture(scope="module")
def pattern(cif_folder: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A pattern that `simxrd simulate` wrote."""
    from simxrd_jax.commands.simulate import simulate_files
    from simxrd_jax.commands.specimen import Options

    path = tmp_path_factory.mktemp("pattern") / "quartz.xy"
    options = Options(two_theta=(10.0, 80.0, 0.02), dtype="float32", accuracy="training")
    simulate_files([str(cif_folder / "quartz.cif")], options, output=str(path), peaks=None, plot=None, warn=lambda text: None)
    return path


def _refused(answer, *parts: object) -> None:
    """One sentence, exit code 1, nothing on standard output."""
    assert answer.code == 1, answer.err
    assert answer.out == ""
    assert answer.err.count("\n") == 1, answer.err
    assert answer.err.startswith("simxrd: ")
    assert "Traceback" not in answer.err
    for part in parts:
        assert str(part) in answer.err


@pytest.mark.parametrize("command", ["train", "evaluate", "predict"])
def test_help_has_examples(simxrd, command):
    answer = simxrd(command, "--help")
    assert answer.code == 0
    assert f"  simxrd {command} " in answer.out.split("Examples:")[1]


# --- train -----------------------------------------------------------------------------------------------------------------


def test_train_goes_on_and_reports(simxrd, config, trained, run, tmp_path):
    write_config(tmp_path / "config.py", config)
    answer = simxrd("train", "config.py", "-o", run)
    assert answer.code == 0
    assert answer.err == f"simxrd: {run}: the run is complete\n"
    results = json.loads((trained / "results.json").read_text())["test"]
    lines = answer.out.splitlines()
    assert lines[0] == "13 patterns of in_library test, laboratory"
    accuracy = results["targets"]["crystal_system"]["accuracy"]
    majority = results["targets"]["crystal_system"]["majority"]["accuracy"]
    best = results["targets"]["crystal_system"]["best_constant"]["accuracy"]
    constants = f"(majority class of the training: {majority:.4f}, best constant answer: {best:.4f})"
    assert f"    accuracy{'':20s}{accuracy:10.4f}   {constants}" in lines
    assert f"    samples{'':21s}{13:10d}" in lines
    assert content_of(run) == content_of(trained)


def test_list_prints_every_field_and_trains_nothing(simxrd, config, tmp_path):
    write_config(tmp_path / "config.py", config)
    answer = simxrd("train", "config.py", "--list", "--set", "targets=space_group,lattice", "--set", "data.copies=2")
    assert answer.code == 0
    assert {"targets = space_group,lattice", "data.copies = 2", "optimizer.learning_rate = 0.001"} <= set(
        answer.out.splitlines()
    )
    assert [p.name for p in tmp_path.iterdir()] == ["config.py"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("none.py",), "no such config file"),
        (("config.py", "--set", "optimizer.learningrate=1"), "did you mean optimizer.learning_rate?"),
        (("config.py", "--set", "steps"), "expected FIELD=VALUE"),
        (("config.py", "--set", "steps=1", "--set", "steps=2"), "given twice"),
        (("config.py", "--set", "steps=1", "--set", "steps =2"), "steps is given twice"),
        (("config.py", "--set", "model=cnn55"), "did you mean"),
        (("config.py", "--set", "data.library=none.simxrd"), "none.simxrd"),
        (("config.py", "--set", "steps=5", "-o", "run"), "run holds a run with another steps"),
        (("config.py", "-o", "full"), "full is not empty and holds no run"),
        (("config.py", "-o", "config.py"), "config.py: cannot be made"),
    ],
)
def test_train_refuses(simxrd, config: TrainConfig, run, tmp_path, arguments, message):
    write_config(tmp_path / "config.py", config)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    before = content_of(tmp_path)
    _refused(simxrd("train", *arguments), message)
    assert content_of(tmp_path) == before


# --- evaluate --------------------------------------------------------------------------------------------------------------


def test_evaluate_gives_the_results_of_the_run(simxrd, trained):
    answer = simxrd("evaluate", trained, "--on", "in_library", "-o", "out.json")
    assert answer.code == 0, answer.err
    assert answer.out.startswith("13 patterns of in_library test, laboratory\n")
    found = json.loads(pathlib.Path("out.json").read_text())
    assert found == json.loads((trained / "results.json").read_text())["test"]


def test_evaluate_measured_patterns(simxrd, trained, run):
    answer = simxrd("evaluate", trained, run, "--on", "measured", "-o", "out.json")
    assert answer.code == 0, answer.err
    assert "patterns of measured, measured" in answer.out
    found = json.loads(pathlib.Path("out.json").read_text())
    assert len(found["answers"]) >= found["patterns"] > 5


def test_baselines_of_another_library_are_those_of_training(simxrd, trained, library, tmp_path, monkeypatch):
    """The majority and the bins by frequency are of what the network has seen, wherever it is evaluated."""
    seen = []
    monkeypatch.setattr(evaluation, "evaluate_part", lambda members, run, *a, **k: seen.append(run) or STAND_IN)
    write_library(library_of([library.structure(i) for i in (9, 12)], ids=("a", "b")), tmp_path / "other.simxrd")
    for given in ((), ("--library", "other.simxrd")):
        assert simxrd("evaluate", trained, "--on", "in_library", *given).code == 0
    counts = json.loads((trained / "config.json").read_text())["train_counts"]["crystal_system"]
    assert [len(run.library) for run in seen] == [13, 2]
    assert [run.train_counts["crystal_system"].tolist() for run in seen] == [counts, counts]


STAND_IN = {"name": "nothing", "patterns": 0, "targets": {}}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("run", "--on", "ool_disjont"), "did you mean ool_disjoint"),
        (("run", "--on", "mesured"), "did you mean measured"),
        (("run", "--on", "in_library:tests"), "no part 'tests'; did you mean test"),
        (("run", "--on", "in_library", "--limit", "-1"), "--limit -1"),
        (("run", "--on", "ool_disjoin", "--limit", "3"), "did you mean ool_disjoint"),
        (("run", "run", "--on", "in_library"), "run is given twice"),
        (("run", "--on", "measured", "--limit", "3"), "leave them out"),
        (("run", "--on", "measured", "--library", "x.simxrd"), "leave them out"),
        (("run", "--on", "in_library", "--library", "x.simxrd"), "x.simxrd"),
        (("run", "--on", "in_library", "-o", "none/out.json"), "its folder none does not exist"),
        (("nowhere", "--on", "in_library"), "nowhere: holds no run"),
        (("run", "full", "--on", "in_library"), "full: holds no run"),
        (("run", "--on", "config.json"), "config.json"),
    ],
)
def test_evaluate_refuses(simxrd, run, tmp_path, arguments, message):
    (tmp_path / "full").mkdir()
    (tmp_path / "config.json").write_text("{}")
    before = content_of(tmp_path)
    _refused(simxrd("evaluate", *arguments), message)
    assert content_of(tmp_path) == before


def test_wrong_usage(simxrd, trained):
    assert simxrd("evaluate", trained).code == 2
    assert simxrd("predict", trained).code == 2
    assert simxrd("evaluate", trained, "--on", "measured", "--on", "xred").code == 2


# --- predict ---------------------------------------------------------------------------------------------------------------


def _shares(text: str) -> list[tuple[float, str]]:
    rows = [line.split(maxsplit=1) for line in text.splitlines() if line.startswith("    ")]
    return [(float(share), name) for share, name in rows]


def test_predict_a_simulated_pattern(simxrd, trained, run, pattern):
    answer = simxrd("predict", trained, pattern)
    assert answer.code == 0, answer.err
    head, target, *_ = answer.out.splitlines()
    assert head == f"{pattern}: 100 % of 10 to 80 deg at 1.5419 A, measured with CuKa"
    assert target == "  crystal_system"
    shares = _shares(answer.out)
    assert len(shares) == 5
    assert shares == sorted(shares, key=lambda row: -row[0])
    whole = _shares(simxrd("predict", trained, run, pattern, "--top", "10").out)
    assert len(whole) == 7
    assert whole[:5] == shares
    assert sum(share for share, _ in whole) == pytest.approx(1.0, abs=5e-3)


def test_predict_at_another_wavelength(simxrd, trained, pattern, tmp_path):
    """The same d at Mo's angles is the same pattern; taken for Cu's it covers too little."""
    two_theta, intensity = read_xy(pattern)
    sine = np.sin(np.radians(two_theta / 2)) * 0.710730 / 1.541838
    columns = np.column_stack([2 * np.degrees(np.arcsin(sine)), np.maximum(intensity, 0)])
    np.savetxt(tmp_path / "mo.xy", columns, fmt="%.6f")
    cu, mo = (_shares(simxrd("predict", trained, *a).out) for a in ((pattern,), ("mo.xy", "--wavelength", "MoKa")))
    for a, b in zip(cu, mo, strict=True):
        assert a[1] == b[1]
        assert a[0] == pytest.approx(b[0], abs=0.02)
    _refused(simxrd("predict", trained, "mo.xy"), "mo.xy", "of the grid")
    # Text that says nothing is taken for Cu's.
    np.savetxt(tmp_path / "cu.xy", np.column_stack([two_theta, np.maximum(intensity, 0)]), fmt="%.6f")
    assert "measured with CuKa (by default: the file does not say)" in simxrd("predict", trained, "cu.xy").out
    # A file that states its wavelength needs no option.
    np.savetxt(tmp_path / "stated.xy", columns, fmt="%.6f", header="wavelength: MoKa: as simulated")
    stated = simxrd("predict", trained, "stated.xy")
    assert stated.out.splitlines()[0].endswith("measured with MoKa")
    assert _shares(stated.out) == mo


BAD_PATTERNS = {
    "short": ("10 1\n11 2\n12 3\n", "holds 3 points"),
    "nan": (lambda x, y: (x, np.where(x < 30, y, np.nan)), "2501 points are not finite"),
    "angle": (lambda x, y: (np.where(np.arange(len(x)) == 9, np.inf, x), y), "not finite numbers, the first at number 10"),
    "unsorted": (lambda x, y: (np.roll(x, 9), y), "up and down"),
    "outside": (lambda x, y: (x + 75, y), "grid"),
    "negative": (lambda x, y: (x, -y), "intensities fall to"),
    "empty": ("", "is empty"),
    "words": ("two theta and\nintensity\n", "no two columns"),
    "one column": ("1\n2\n3\n", "no two columns"),
    "binary": ("\0\1", "binary"),
    "zero": (lambda x, y: (x, 0 * y), "all intensities are 0"),
}


@pytest.mark.parametrize("name", BAD_PATTERNS)
def test_predict_refuses_patterns(simxrd, trained, pattern, tmp_path, name):
    content, message = BAD_PATTERNS[name]
    path = tmp_path / "bad.xy"
    if callable(content):
        np.savetxt(path, np.column_stack(content(*read_xy(pattern))))
    else:
        path.write_text(content)
    _refused(simxrd("predict", trained, path), path, message)
    _refused(simxrd("predict", trained, "none.xy"), "none.xy: cannot be read")
    _refused(simxrd("predict", trained, pattern, "--top", "0"), "--top 0")
    _refused(simxrd("predict", trained, pattern, "--wavelength", "CuKx"), "CuKx")


def test_predict_refuses_a_run_without_a_checkpoint(simxrd, run, pattern):
    shutil.rmtree(run / "checkpoints")
    before = content_of(run.parent)
    _refused(simxrd("predict", run, pattern), run, "no checkpoint yet")
    (run / "checkpoints").mkdir()
    _refused(simxrd("predict", run, pattern), run, "no checkpoint yet")
    assert content_of(run.parent) == before


def _edit(run: pathlib.Path, **values: object) -> None:
    path = run / "config.json"
    content = json.loads(path.read_text())
    for name, value in values.items():
        group = content["config"] if name in content["config"] else content
        group[name] = value
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"model": "cnn3"}, "does not fit the network"),
        ({"model": "cnn55"}, "did you mean"),
        ({"classes": {"crystal_system": ["a", "b"]}, "train_counts": {"crystal_system": [1, 1]}}, "does not fit the network"),
        ({"classes": {"crystal_system": ["a", "b"]}}, "train_counts are not those of targets=crystal_system"),
        ({"classes": {}}, "train_counts are not those of targets=crystal_system"),
        ({"train_counts": {}}, "train_counts are not those of targets=crystal_system"),
        ({"train_counts": {"crystal_system": [1.5] * 7}}, "train_counts are not those of targets=crystal_system"),
        ({"train_counts": {"crystal_system": 7}}, "train_counts are not those of targets=crystal_system"),
        ({"classes": 3}, "holds no run"),
        ({"config": 3}, "no group of fields"),
        ({"optimizer": {"average_decay": 0.9}}, "does not fit the network"),
    ],
    ids=str,
)
def test_predict_refuses_checkpoints_of_another_model(simxrd, run, pattern, values, message):
    _edit(run, **values)
    before = content_of(run)
    _refused(simxrd("predict", run, pattern), message)
    _refused(simxrd("evaluate", run, "--on", "in_library"), message)
    assert content_of(run) == before


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # reads that Orbax leaves behind
@pytest.mark.parametrize("damage", ["truncated", "missing", "progress", "checksum"])
def test_damaged_checkpoints_are_named(simxrd, config, run, pattern, tmp_path, damage):
    step = max(int(p.name) for p in (run / "checkpoints").iterdir())
    folder = run / "checkpoints" / str(step)
    files = [p for p in folder.rglob("*") if p.is_file() and p.parent.name == "d"]
    if damage == "truncated":
        for path in files:
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif damage == "missing":
        shutil.rmtree(folder / "network")
    elif damage == "checksum":
        sums = json.loads((folder / "sha256" / "metadata").read_text())
        assert set(sums) == {"network", "moments"}
        (folder / "sha256" / "metadata").write_text(json.dumps(dict.fromkeys(sums, "0")))
    else:
        (folder / "progress" / "metadata").write_text("{")
    (run / "results.json").unlink()
    before = content_of(tmp_path)
    _refused(simxrd("predict", run, pattern), folder, "damaged")
    assert content_of(tmp_path) == before
    write_config(tmp_path / "config.py", config)
    _refused(simxrd("train", "config.py", "-o", run), folder, "damaged")
    gc.collect()


@pytest.mark.parametrize("content", ["{}", "[1]", "{", '"test"'])
def test_damaged_results_of_a_run_are_named(simxrd, config, run, tmp_path, content):
    (run / "results.json").write_text(content)
    write_config(tmp_path / "config.py", config)
    answer = simxrd("train", "config.py", "-o", run)
    assert answer.code == 1
    assert "results.json: cannot be read" in answer.err
    assert "delete it, and the same command makes it again" in answer.err
    assert "Traceback" not in answer.err


def test_patterns_that_are_left_out_are_said(simxrd, run, datasets, tmp_path):
    """LiTMO3 ends where half of the grid begins once its wavelength is another."""
    with np.load(datasets / "measured.npz") as data:
        arrays = dict(data)
    arrays["wavelength"] = np.where(np.arange(len(arrays["id"])) == 1, 4.9, arrays["wavelength"])
    np.savez(tmp_path / "set.npz", **arrays)
    answer = simxrd("evaluate", run, "--on", tmp_path / "set.npz")
    assert answer.code == 0, answer.err
    assert f"  left out: {arrays['id'][1]}: " in answer.out


@pytest.mark.slow
def test_a_damaged_checkpoint_leaves_no_traceback_in_the_terminal(run, pattern):
    """Orbax reads many arrays at once; those that go on when one has failed must not complain."""
    for path in (run / "checkpoints").rglob("d/*"):
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    for _ in range(5):
        command = [sys.executable, "-m", "simxrd_jax", "predict", str(run), str(pattern)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 1
        assert done.stderr.count("\n") == 1, done.stderr


def test_one_scan_of_several(simxrd, run, pattern):
    """Text has one scan, so another one is not there."""
    assert simxrd("predict", run, pattern, "--scan", "1").out == simxrd("predict", run, pattern).out
    _refused(simxrd("predict", run, pattern, "--scan", "2"), pattern, "has no scan 2; choose one from 1 to 1")


def test_runs_that_do_not_go_together(simxrd, trained, run, pattern):
    names = json.loads((run / "config.json").read_text())["classes"]["crystal_system"]
    _edit(run, classes={"crystal_system": names[::-1]})
    _refused(simxrd("predict", trained, run, pattern), run, "other targets or classes")
    _edit(run, classes={"crystal_system": names}, data={"preset": "simxrd"})
    _refused(simxrd("predict", trained, run, pattern), "different presets")


def test_what_reads_a_run_does_not_disturb_one_that_goes_on(simxrd, run, pattern):
    """A checkpoint that another process is about to write is a folder of another name."""
    beside = run / "checkpoints" / "31.orbax-checkpoint-tmp-1"
    beside.mkdir()
    (beside / "half").write_text("x")
    assert simxrd("predict", run, pattern).code == 0
    assert (beside / "half").read_text() == "x"


def test_the_highest_point_that_networks_see():
    assert state.INPUT_MAXIMUM == 100.0


def test_structures_that_were_trained_on_are_told(datasets):
    library = read_library(datasets / "mp_library.simxrd")
    tested, trained = (structures_in(library, s, p) for s, p in (("ool_published", "test"), ("ool_disjoint", "train")))
    told = _seen_in_training(library, "ool_published", tested, ["ool_disjoint"])
    both = len(set(tested.tolist()) & set(trained.tolist()))
    assert 0 < both < len(tested)
    unseen = structures_in(library, "ool_disjoint", "test")
    assert told == f"note: {both} of these {len(tested)} structures were in the training of the networks"
    assert not _seen_in_training(library, "ool_disjoint", unseen, ["ool_disjoint"])
    assert not _seen_in_training(library, "in_library", tested, ["in_library"])  # its name says so
    everything = structures_in(library, "in_library", "test")
    told = _seen_in_training(library, "in_library", everything, ["ool_disjoint"])
    assert told.startswith(f"note: {len(trained):,} of these {len(library):,} structures")
    assert "is not known" in _seen_in_training(library, "ool_disjoint", tested, None)


def test_a_library_that_was_replaced_is_told(simxrd, config, run, datasets, tmp_path):
    _edit(run, data={"library": str(datasets / "mp_library.simxrd"), "split": "ool_disjoint"})
    answer = simxrd("evaluate", run, "--on", "ool_disjoint", "--limit", "8")
    assert answer.out.startswith("note: structures of another library"), answer.err


@pytest.mark.parametrize("change", [{"precision": "zz"}, {"train_counts": {"crystal_system": [0] * 7}}])
def test_a_run_whose_config_makes_no_sense_is_named(simxrd, run, pattern, change):
    path = run / "config.json"
    content = json.loads(path.read_text())
    content |= {"config": content["config"] | change} if "precision" in change else change
    path.write_text(json.dumps(content))
    _refused(simxrd("predict", run, pattern), "precision 'zz'" if "precision" in change else "config.json")


def test_a_checkpoint_without_its_metrics_is_named(simxrd, run, pattern):
    for path in (run / "checkpoints").glob("*/metrics/metrics"):
        path.write_text("")
    _refused(simxrd("predict", run, pattern), "checkpoints: cannot be read", "delete the damaged checkpoint")


def test_an_empty_place_is_no_place(simxrd, run):
    _refused(simxrd("evaluate", run, "--on", ""), "--on is empty")
