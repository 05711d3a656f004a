"""Training on two hosts, two processes on the loopback address: the curve of one, and the same end after a kill."""

from __future__ import annotations

import os
import pathlib
import socket
import subprocess
import sys
import time
from collections.abc import Callable

import jax
import numpy as np
import pytest

from simxrd_jax import hosts
from simxrd_jax.errors import InputError
from simxrd_jax.train import state
from simxrd_jax.train.config import TrainConfig, override
from simxrd_jax.train.logs import read_lines
from simxrd_jax.train.loop import train
from simxrd_jax.train.run import read_network

from .conftest import assert_equal, lines_of, results_of, steps_of, write_config

SECONDS = 150  # within which a host must end


def _start(config: TrainConfig, folder: pathlib.Path, count: int = 2, devices: int = 1) -> list[subprocess.Popen]:
    """The command of each host."""
    path = folder.parent / "config.py"
    write_config(path, config)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    command = [sys.executable, "-m", "simxrd_jax", "train", str(path), "-o", str(folder), "--hosts", str(count)]
    flags = {"XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}", "JAX_PLATFORMS": "cpu"}
    return [
        subprocess.Popen(
            [*command, "--host", str(i), "--coordinator", address],
            env=os.environ | flags,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for i in range(count)
    ]


def _end(processes: list[subprocess.Popen]) -> list[tuple[int, str]]:
    """Exit code and messages of each."""
    try:
        return [(p.returncode, err) for p in processes for _, err in [p.communicate(timeout=SECONDS)]]
    finally:
        for process in processes:
            process.kill()


def _kill_one(processes: list[subprocess.Popen], which: int, when: Callable[[], bool]) -> list[tuple[int, str]]:
    end = time.monotonic() + SECONDS
    while not when() and all(p.poll() is None for p in processes):
        if time.monotonic() > end:
            break
        time.sleep(0.02)
    processes[which].kill()
    return _end(processes)


def _assert_near(folder: pathlib.Path, trained: pathlib.Path) -> None:
    """The curve of one process with one device: patterns agree to rounding, but for single Poisson counts that it turns."""
    ours, theirs = lines_of(folder), lines_of(trained)
    assert [(x["kind"], x["step"]) for x in ours] == [(x["kind"], x["step"]) for x in theirs]
    np.testing.assert_allclose([x["loss"] for x in ours], [x["loss"] for x in theirs], rtol=5e-3)
    assert ours[0]["loss"] == pytest.approx(theirs[0]["loss"], rel=1e-3)
    assert steps_of(folder) == steps_of(trained)


@pytest.mark.slow
def test_two_hosts_train_as_one_and_go_on_after_a_kill(config, trained, tmp_path):
    folder = tmp_path / "two"
    answers = _kill_one(_start(config, folder), 1, lambda: bool(read_lines(folder)))
    assert answers[1][0] == -9
    assert answers[0][0] != 0  # it does not wait for ever
    assert not (folder / "results.json").exists()
    answers = _end(_start(config, folder))
    assert [code for code, _ in answers] == [0, 0], answers
    assert "goes on from step" in answers[0][1]
    assert "goes on" not in answers[1][1]
    _assert_near(folder, trained)
    assert results_of(folder)["surroundings"]["hosts"] == 2


@pytest.mark.slow
@pytest.mark.parametrize("devices", [1, 4])
def test_a_run_of_two_hosts_that_was_killed_ends_as_one_that_was_not(devices, config, trained, tmp_path):
    """Bit for bit; the first host too is killed, which writes the checkpoints."""
    config = override(config, {"checkpoint_every": "2"})
    assert [code for code, _ in _end(_start(config, tmp_path / "whole", devices=devices))] == [0, 0]
    folder = tmp_path / "killed"
    for which, step in ((1, 3), (0, 11), (1, 19)):
        answers = _kill_one(
            _start(config, folder, devices=devices),
            which,
            lambda: any(x["step"] > step for x in read_lines(folder)),  # noqa: B023
        )
        assert answers[which][0] == -9
        assert answers[1 - which][0] != 0
    assert [code for code, _ in _end(_start(config, folder, devices=devices))] == [0, 0]
    assert lines_of(folder) == lines_of(tmp_path / "whole")
    ours, theirs = results_of(folder), results_of(tmp_path / "whole")
    for results in (ours, theirs):
        del results["surroundings"]  # the commit, which may be another by now
    assert ours == theirs
    assert_equal(read_network(folder)[3], read_network(tmp_path / "whole")[3])


@pytest.mark.slow
def test_one_host_goes_on_where_two_were(config, trained, tmp_path):
    folder = tmp_path / "two"
    assert _kill_one(_start(config, folder), 0, lambda: bool(read_lines(folder)))[0][0] == -9
    said: list[str] = []
    train(config, folder, say=said.append)
    assert "goes on from step" in said[0]
    _assert_near(folder, trained)


@pytest.mark.slow
def test_what_the_first_host_refuses_all_refuse(config, tmp_path):
    (tmp_path / "two").mkdir()
    (tmp_path / "two" / "letters.txt").write_text("dear")
    answers = _end(_start(config, tmp_path / "two"))
    for code, message in answers:
        assert code == 1
        assert "is not empty and holds no run; give another folder" in message


# --- Without other processes -----------------------------------------------------------------------------------------------


class _Device:
    """A device of a process."""

    def __init__(self, process: int):
        self.process_index = process


def test_a_mesh_takes_as_many_devices_of_each_host_as_divide_the_batch(monkeypatch):
    """In the order of the hosts, or samples would change places with their keys."""
    monkeypatch.setattr(state, "Mesh", lambda devices, axes: list(devices))
    devices = [_Device(process) for process in (1, 0, 0, 1, 0)]
    found = [[d.process_index for d in state.make_mesh(batch, devices)] for batch in (8, 6)]
    assert found == [[0, 0, 1, 1], [0, 1]]
    with pytest.raises(InputError, match="batch=7 is no multiple of the 2 hosts"):
        state.make_mesh(7, devices)


@pytest.fixture
def two(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """JAX as of two processes, whose broadcasts are those of the first: what it says is kept for the second."""
    said: list[np.ndarray] = []

    def of_first(value: object) -> object:
        if jax.process_index() == 0:
            said.append(np.asarray(value))
            return value
        assert np.shape(value) == said[0].shape
        return said.pop(0)

    monkeypatch.setattr(hosts, "_of_first", of_first)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    return lambda index: monkeypatch.setattr(jax, "process_index", lambda: index)


def test_the_first_host_says_and_the_others_repeat(two):
    value = {"loss": 0.1 + 0.2, "é": [1, None, float("inf")]}
    two(0)
    assert hosts.first_says(lambda: value) == value
    two(1)
    assert hosts.first_says(lambda: pytest.fail("asked of another")) == value


def test_what_the_first_host_refuses_the_others_refuse(two):
    def refuse() -> None:
        raise InputError("a full disk")

    for index in (0, 1):
        two(index)
        with pytest.raises(hosts.Agreed, match="a full disk"):
            hosts.first_says(refuse)


@pytest.mark.parametrize(
    ("error", "code", "sentence"),
    [
        (InputError("a full disk"), 1, "a full disk"),
        (ValueError("UNKNOWN: Gloo all-reduce failed: Connection closed by peer"), 1, "another host of this run has ended"),
        (KeyboardInterrupt(), 130, None),
        (ZeroDivisionError(), 1, None),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_host_that_fails_alone_does_not_wait_for_the_others(error, code, sentence, two, monkeypatch):
    two(1)
    said: list[str] = []

    def leave(code: int) -> None:
        raise SystemExit(code)

    monkeypatch.setattr(os, "_exit", leave)
    with pytest.raises(SystemExit) as caught, hosts.together(said.append):
        raise error
    assert caught.value.code == code
    assert [s.startswith(sentence) for s in said] == ([True] if sentence else [])
    with pytest.raises(hosts.Agreed), hosts.together(said.append):
        raise hosts.Agreed("known to all")
    monkeypatch.setattr(jax, "process_count", lambda: 1)
    with pytest.raises(type(error)), hosts.together(said.append):
        raise error


def test_hosts_need_a_coordinator_to_train(simxrd, config, tmp_path):
    write_config(tmp_path / "config.py", config)
    answer = simxrd("train", tmp_path / "config.py", "--hosts", 2, "--host", 1, "-o", tmp_path / "run")
    assert answer.code == 1
    assert "name with --coordinator ADDRESS:PORT" in answer.err
    assert not (tmp_path / "run").exists()
