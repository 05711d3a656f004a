"""Runs: stopped and killed ones against one that was not, what stays on disk, when they end, what they refuse."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import pathlib
import random
import shutil
import struct
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tensorboardX.proto import event_pb2

from simxrd_jax.errors import InputError
from simxrd_jax.library.store import Library
from simxrd_jax.train import evaluation, loop, state
from simxrd_jax.train.checkpoints import Checkpoints, Progress
from simxrd_jax.train.config import TrainConfig, override
from simxrd_jax.train.logs import read_lines
from simxrd_jax.train.loop import claim, train
from simxrd_jax.train.run import Run, read_network, set_up

from .conftest import assert_equal, content_of, killed, lines_of, results_of, steps_of, write_config


@pytest.fixture(scope="module")
def run(config, library) -> Run:
    return set_up(config, library)


def _restored(folder: pathlib.Path, run: Run, step: int):
    """State and progress of a checkpoint."""
    checkpoints = Checkpoints(folder, read_only=True)
    try:
        return checkpoints.restore(state.abstract(run.state), step)
    finally:
        checkpoints.close()


def _assert_same_run(folder: pathlib.Path, trained: pathlib.Path, run: Run) -> None:
    assert lines_of(folder) == lines_of(trained)
    ours, theirs = results_of(folder), results_of(trained)
    for results in (ours, theirs):
        del results["surroundings"]  # the commit, which may be another by now
    assert ours == theirs
    assert steps_of(folder) == steps_of(trained)
    for step in steps_of(trained):
        (mine, its_progress), (other, progress) = _restored(folder, run, step), _restored(trained, run, step)
        assert_equal(mine, other)
        times = {"seconds": 0.0}
        assert vars(its_progress) | times == vars(progress) | times


# --- Stopped and killed ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def stopped(config, tmp_path_factory) -> pathlib.Path:
    """The run of `config`, stopped at steps where there is neither a line of the log nor a checkpoint otherwise."""
    folder = tmp_path_factory.mktemp("runs") / "stopped"
    said: list[str] = []
    for step in (3, 3, 16):
        assert train(config, folder, stop_after=step) == {}
        assert steps_of(folder)[-1] == step
    assert train(config, folder, say=said.append)["test"]["patterns"] == 13
    assert said == [f"{folder}: goes on from step 16 of 30"]
    return folder


def test_a_stopped_run_ends_as_one_that_was_not(stopped, trained, run):
    _assert_same_run(stopped, trained, run)
    kinds = {(line["kind"], line["step"]) for line in lines_of(trained)}
    assert kinds == {("train", n) for n in (7, 10, 14, 20, 21, 28, 30)} | {("validation", n) for n in (10, 20, 30)}
    # The rate of a line is that of all its steps, those before the stop too.
    for line in read_lines(stopped, "train"):
        assert line["seconds"] > 0


def test_muons_moments_go_on_where_they_were(config, tmp_path):
    """Its state has parts for matrices and parts for vectors, and holes between them."""
    config = override(config, {"optimizer.name": "muon", "steps": "4", "checkpoint_every": "2", "validate_every": "4"})
    whole, folder = tmp_path / "whole", tmp_path / "stopped"
    train(config, whole)
    assert train(config, folder, stop_after=2) == {}
    train(config, folder)
    _assert_same_run(folder, whole, set_up(config, loop.open_library(config.data.library)))


def _train_killed(config: TrainConfig, folder: pathlib.Path, when: Callable[[], bool], delay: float) -> int:
    path = folder.parent / "config.py"
    write_config(path, config)
    return killed(["train", str(path), "-o", str(folder)], when, delay)


def test_a_killed_run_ends_as_one_that_was_not(config, trained, run, tmp_path):
    folder = tmp_path / "killed"
    # At the earliest once there is a line that no checkpoint covers, at the latest while it is evaluated.
    code = _train_killed(config, folder, lambda: bool(read_lines(folder)), random.uniform(0, 0.5))
    assert code == -9
    assert not (folder / "results.json").exists()
    train(config, folder)
    _assert_same_run(folder, trained, run)


@pytest.mark.slow
def test_a_run_killed_many_times_ends_as_one_that_was_not(config, tmp_path):
    """Twenty kills from the start of the process to after its end, in a run with all that is drawn and averaged."""
    settings = {
        "optimizer.name": "muon",
        "optimizer.average_decay": "0.9",
        "optimizer.clip_norm": "1",
        "data.copies": "2",
        "patience": "4",
    }
    config = override(config, {**settings, "steps": "60", "checkpoint_every": "1", "model": "cnn4"})
    whole = tmp_path / "whole"
    train(config, whole)
    folder = tmp_path / "killed"
    codes = [_train_killed(config, folder, lambda: True, random.uniform(0, 25)) for _ in range(20)]
    assert -9 in codes
    train(config, folder)
    _assert_same_run(folder, whole, set_up(config, loop.open_library(config.data.library)))


def test_lines_beyond_the_checkpoint_and_cut_ones_are_dropped(stopped, trained, tmp_path):
    from simxrd_jax.train.logs import Log

    folder = tmp_path / "run"
    folder.mkdir()
    text = (trained / "metrics.jsonl").read_text()
    (folder / "metrics.jsonl").write_text(text + '{"kind": "train", "st')
    assert len(read_lines(folder)) == len(text.splitlines())
    log = Log(folder, 14)
    log.write("train", 21, {"loss": 1.0})
    log.close()
    assert [line["step"] for line in read_lines(folder)] == [7, 10, 10, 14, 21]


def _events(folder: pathlib.Path) -> list[event_pb2.Event]:
    """TensorBoard's records (length, its checksum, an event, its checksum), purged as TensorBoard does."""
    found: list[event_pb2.Event] = []
    for path in sorted(folder.iterdir()):
        data = path.read_bytes()
        while data:
            size = struct.unpack("<Q", data[:8])[0]
            event = event_pb2.Event.FromString(data[12 : 12 + size])
            data = data[16 + size :]
            if event.HasField("session_log"):
                found = [e for e in found if e.step < event.step]
            found.append(event)
    return found


@pytest.mark.parametrize("which", ["trained", "stopped"])
def test_tensorboard_has_the_numbers_of_the_log(which, request):
    folder = request.getfixturevalue(which)
    values = [(e.step, v.tag, v.simple_value) for e in _events(folder / "tensorboard") for v in e.summary.value]
    lines = [line for line in read_lines(folder) if line["kind"] in ("train", "validation")]
    expected = [
        (line["step"], f"{line['kind']}/{name}", np.float32(value))
        for line in lines
        for name, value in line.items()
        if name not in ("kind", "step")
    ]
    assert len(expected) > 30
    assert sorted(values) == sorted((s, t, float(v)) for s, t, v in expected)


def test_what_was_written_before_the_first_checkpoint_is_purged(tmp_path):
    from simxrd_jax.train.logs import Log

    for loss in (1.0, 2.0):
        log = Log(tmp_path, 0)
        log.write("train", 3, {"loss": loss})
        log.close()
        os.rename(next((tmp_path / "tensorboard").iterdir()), tmp_path / f"{loss}")  # both may be of one second
    shutil.rmtree(tmp_path / "tensorboard")
    (tmp_path / "tensorboard").mkdir()
    for loss in (1.0, 2.0):
        os.rename(tmp_path / f"{loss}", tmp_path / "tensorboard" / f"{loss}")
    values = [v.simple_value for e in _events(tmp_path / "tensorboard") for v in e.summary.value]
    assert values == [2.0]


# --- Checkpoints and the end -----------------------------------------------------------------------------------------------


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[int, float]], None]:
    """Validations whose losses are given by step."""

    def script(losses: dict[int, float]) -> None:
        monkeypatch.setattr(loop, "_validation", lambda run, state: {"loss": losses[int(state.step)]})

    return script


@pytest.fixture
def evaluated(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The networks that runs evaluate at their end, which are not evaluated."""
    networks: list[Any] = []
    monkeypatch.setattr(
        loop, "evaluate_part", lambda members, run, part: networks.append(members[0][1]) or {"part": part, "targets": {}}
    )
    monkeypatch.setattr(loop, "report", lambda *_: None)
    return networks


def test_the_newest_and_the_best_checkpoint_are_kept_and_the_best_is_evaluated(
    config, trained, run, tmp_path, scripted, evaluated
):
    """The best is far behind the limit, equal to a later one, and older than a restart."""
    scripted({5: 0.5, 10: 0.3, 15: 0.3, 20: 0.9, 25: 0.8, 30: 0.7})
    config = override(config, {"validate_every": "5", "keep": "2"})
    train(config, tmp_path / "run", stop_after=12)
    assert steps_of(tmp_path / "run") == [10, 12]
    train(config, tmp_path / "run", stop_after=19)
    assert steps_of(tmp_path / "run") == [10, 18, 19]
    results = train(config, tmp_path / "run")
    assert steps_of(tmp_path / "run") == [10, 25, 30]
    assert results["best_step"] == 10
    (network,) = evaluated
    best, progress = _restored(tmp_path / "run", run, 10)
    assert_equal(network, best.network)
    last, end = _restored(tmp_path / "run", run, 30)
    assert any(np.any(a != b) for a, b in zip(*(jax.tree.leaves(s.network) for s in (best, last)), strict=True))
    assert (progress.best_step, progress.best_loss, end.best_step, end.best_loss) == (10, 0.3, 10, 0.3)
    # What was validated has no influence on what is trained.
    assert_equal(last, _restored(trained, run, 30)[0])
    assert_equal(read_network(tmp_path / "run")[3], best.network)


def test_improvements_are_measured_from_the_last_one_that_counts():
    """Steps of less than the minimum add up to one that counts; the best is the lowest all the same."""
    progress, worse, best = Progress(), [], []
    for i, loss in enumerate((1.0, 0.95, 0.92, 0.88, 0.88, 0.9), 1):
        progress = loop._after(progress, loss, i, 0.1)
        worse.append(progress.worse)
        best.append(progress.best_step)
    assert worse == [0, 1, 2, 0, 1, 2]
    assert best == [1, 2, 3, 4, 4, 4]


def test_patience_ends_a_run_and_it_is_not_trained_again(config, tmp_path, scripted, evaluated, monkeypatch):
    scripted({2: 1.0, 4: 0.5, 6: 0.6, 8: 0.49, 10: 0.1})
    settings = {"patience": "2", "validate_every": "2", "log_every": "100", "minimum_improvement": "0.1"}
    config, folder = override(config, settings), tmp_path / "run"
    results = train(config, folder)
    assert (results["best_step"], results["patterns"]) == (8, 8 * 8)
    assert [line["step"] for line in read_lines(folder, "train")] == [2, 4, 6, 8]
    assert steps_of(folder) == [8]
    files = content_of(folder)
    # Complete, or killed between its last step and its results: no step is made.
    monkeypatch.setattr(loop, "make_step", lambda *_: pytest.fail)
    said: list[str] = []
    assert train(config, folder, say=said.append) == json.loads(json.dumps(results))
    assert said == [f"{folder}: the run is complete"]
    assert content_of(folder) == files
    (folder / "results.json").unlink()
    again = train(config, folder)
    assert again == json.loads(json.dumps(results))
    assert_equal(*evaluated)
    (folder / "results.json").write_text("{")
    with pytest.raises(InputError, match=r"results.json: cannot be read .*delete it"):
        train(config, folder)


def test_a_loss_that_is_no_number_ends_the_run_before_a_checkpoint_of_it(config, run, tmp_path, monkeypatch):
    def draw_on(mesh, stream, key, step, copies):
        x = jnp.where(step >= 8, jnp.nan, 1.0) * jax.random.uniform(jax.random.key(0), (8, 3501))
        structure = jnp.arange(8, dtype=jnp.int32)
        labels = {name: values[structure] for name, values in stream.arrays.labels.items()}
        return state.Batch(x, x, structure, labels, {}, structure[:, None], jnp.ones((8, 1)), jnp.zeros((8, 2), jnp.uint32))

    monkeypatch.setattr(state, "draw_on", draw_on)
    config = override(config, {"validate_every": "30", "log_every": "30"})
    for _ in range(2):  # and once more when it goes on
        with pytest.raises(InputError, match=r"^the loss at step 12 is not finite; lower optimizer.learning_rate") as caught:
            train(config, tmp_path / "run")
        assert "\n" not in str(caught.value)
        assert steps_of(tmp_path / "run") == [6]
    last, progress = _restored(tmp_path / "run", run, 6)
    assert all(np.isfinite(v).all() for v in jax.tree.leaves(last))
    assert (progress.steps, progress.samples) == (6, 48)


# --- Folders that are refused ----------------------------------------------------------------------------------------------


def _claim(folder: pathlib.Path, config: TrainConfig, library: Library, run: Run) -> None:
    with claim(folder, dataclasses.replace(run, config=config, library=library)):
        pass


def _refused(folder: pathlib.Path, config: TrainConfig, library, run: Run, message: str) -> None:
    before = content_of(folder)
    with pytest.raises(InputError, match=message) as caught:
        _claim(folder, config, library, run)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert content_of(folder) == before


def test_folders_of_other_runs_are_refused_and_left_alone(config, library, run, trained, tmp_path):
    _claim(trained, config, library, run)
    other = override(config, {"data.copies": "1", "seed": "3"})
    _refused(trained, other, library, run, "another seed, data.copies; give another folder")
    folder = tmp_path / "run"
    shutil.copytree(trained, folder)
    known = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(known | {"library": "0" * 64}))
    _refused(folder, config, library, run, "over another library")
    for text in ("{", "[]", "{}", '{"config": {}}'):
        (folder / "config.json").write_text(text)
        _refused(folder, config, library, run, "holds no run")
    misspelt = {**known, "config": {**known["config"], "stepps": 3}}
    (folder / "config.json").write_text(json.dumps(misspelt))
    _refused(folder, config, library, run, "did you mean steps")
    (folder / "config.json").unlink()
    _refused(folder, config, library, run, "is not empty and holds no run")
    empty = tmp_path / "empty"
    empty.mkdir()
    _claim(empty, config, library, run)
    commit = {"git_commit": None}  # which may be another by now
    assert json.loads((empty / "config.json").read_text()) | commit == known | commit
    file = tmp_path / "file"
    file.write_text("x")
    for place in (file, file / "run"):
        with pytest.raises(InputError, match="cannot be made"):
            _claim(place, config, library, run)
    assert file.read_text() == "x"


def test_a_run_that_ended_before_its_first_line_is_taken_over(config, library, run, tmp_path):
    """As one whose batch does not fit the memory: there is nothing in it that could be lost."""
    folder = tmp_path / "run"
    _claim(folder, config, library, run)
    (folder / "checkpoints").mkdir()
    (folder / "metrics.jsonl").touch()
    other = override(config, {"seed": "3"})
    _claim(folder, other, library, run)
    assert json.loads((folder / "config.json").read_text())["config"]["seed"] == 3
    (folder / "metrics.jsonl").write_text('{"kind": "train"}\n')
    _refused(folder, config, library, run, "another seed")
    (folder / "metrics.jsonl").write_text("")
    (folder / "checkpoints" / "10").mkdir()
    _refused(folder, config, library, run, "another seed")


def test_one_process_trains_in_a_folder(config, library, run, trained, tmp_path):
    folder = tmp_path / "run"
    with claim(folder, run):
        before = content_of(folder)
        # The second one, as another process would: its lock is another one of the same file.
        for _ in range(2):
            _refused(folder, config, library, run, "another process is training there; wait for its end")
        with pytest.raises(InputError, match="another process"):
            train(config, folder)
        _refused(folder, override(config, {"seed": "3"}), library, run, "another process is training there")
        assert content_of(folder) == before
    with claim(folder, run):  # free again, as it is after a kill
        pass
    with claim(trained, run), claim(trained, run):  # a complete run is only read
        pass
    # One that was stopped before it wrote its config is no run yet.
    (folder / "config.json").unlink()
    _claim(folder, config, library, run)
    assert (folder / "config.json").exists()


def test_a_lock_ends_with_its_process(run, tmp_path):
    folder = tmp_path / "run"
    _claim(folder, run.config, run.library, run)
    code = f"import fcntl, time; f = open({str(folder / loop.LOCK)!r}, 'a'); fcntl.flock(f, fcntl.LOCK_EX); print(flush=True)"
    with subprocess.Popen([sys.executable, "-c", f"{code}; time.sleep(60)"], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        _refused(folder, run.config, run.library, run, "another process")
        process.kill()
    _claim(folder, run.config, run.library, run)


def test_a_file_system_without_locks(run, tmp_path, monkeypatch):
    def flock(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", flock)
    _claim(tmp_path / "run", run.config, run.library, run)
    monkeypatch.setitem(sys.modules, "fcntl", None)
    _claim(tmp_path / "run", run.config, run.library, run)


def test_nothing_is_written_for_a_config_of_wrong_types(config, tmp_path):
    with pytest.raises(InputError, match="steps = 'abc' is no int"):
        train(dataclasses.replace(config, steps="abc"), tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ValueError(f"RESOURCE_EXHAUSTED: {'/a' * 2000} [os_error_code='28']"), r"written \(No space left on device\)"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), r"written \(Disk quota exceeded\)"),
        (ValueError("shapes"), None),
    ],
    ids=["full", "quota", "other"],
)
def test_what_is_said_of_a_checkpoint_that_cannot_be_written(run, tmp_path, monkeypatch, error, message):
    def save(*_: object, **__: object) -> None:
        raise error

    checkpoints = Checkpoints(tmp_path)
    monkeypatch.setattr(checkpoints._manager, "save", save)
    with pytest.raises(InputError if message else ValueError, match=message or "^shapes$") as caught:
        checkpoints.save(run.state, Progress(), None)
    assert len(str(caught.value)) < 300 + len(str(tmp_path))
    checkpoints.close()


def test_a_full_disk_is_said_where_it_is_met(tmp_path):
    """TensorBoard's file too is written in this thread: a thread of its own would end with a traceback."""
    from simxrd_jax.train.logs import Log

    log = Log(tmp_path, 0)
    assert log._board is not None
    writer = log._board._file._py_recordio_writer
    writer._writer.close()
    writer._writer = open("/dev/full", "wb")  # noqa: SIM115
    log.write("train", 1, {"loss": 1.0})
    with pytest.raises(OSError, match="No space left"):
        log.close()
    assert log._file.closed
    assert len(read_lines(tmp_path)) == 1
    assert not [thread for thread in threading.enumerate() if type(thread).__module__.startswith("tensorboardX")]


def test_the_learning_rate_of_a_line_is_that_of_its_step(run):
    sums = jax.device_get(state.no_totals())
    line = loop._line(dataclasses.replace(run, schedule=lambda step: 0.5 * step), sums, 1.0, 7)
    assert line["learning_rate"] == 3.0  # optax counts from 0: the seventh step used schedule(6)


NO_LINES = (
    "[]",
    '{"kind": "train"}',
    '{"kind": "train", "step": "x"}',
    '{"kind": "train", "step": 1, "seconds": []}',
    "3",
    "\xff",
)


@pytest.mark.parametrize("text", NO_LINES)
def test_lines_that_are_no_lines_are_left_out(text, tmp_path):
    (tmp_path / "metrics.jsonl").write_bytes(f'{text}\n{{"kind": "train", "step": 1}}\n'.encode("latin-1"))
    assert read_lines(tmp_path, "train") == [{"kind": "train", "step": 1}]


def test_a_folder_that_cannot_be_written(config, trained, tmp_path):
    folder = pathlib.Path(shutil.copytree(trained, tmp_path / "run"))
    (folder / "results.json").unlink()
    shutil.rmtree(folder / "checkpoints")
    (folder / "checkpoints").write_text("in the way")
    with pytest.raises(InputError, match="cannot be written") as caught:
        train(config, folder)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission(config, tmp_path):
    folder = tmp_path / "run"
    train(config, folder, stop_after=1)
    for path in (folder / "checkpoints", folder):
        path.chmod(0o500)
    with pytest.raises(InputError, match="cannot be written"):
        train(config, folder)
    for path in (folder, folder / "checkpoints"):
        path.chmod(0o700)


def test_a_part_without_structures_is_refused_before_anything_is_trained(config, tmp_path, monkeypatch):
    monkeypatch.setattr(evaluation, "structures_in", lambda library, split, part: np.arange(0 if part == "test" else 3))
    with pytest.raises(InputError, match="the part test of in_library is empty"):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_devices_that_a_batch_does_not_divide_are_said(config, tmp_path, scripted, monkeypatch):
    scripted({})
    said: list[str] = []
    monkeypatch.setattr(loop.jax, "device_count", lambda: 3)
    train(config, tmp_path / "run", say=said.append, stop_after=1)
    assert said[0] == "batch=8 is spread over 1 of 3 devices; a multiple of 3 would use all"
