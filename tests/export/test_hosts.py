"""Sets that several devices and hosts write: the bytes of one device on one host, whoever ends last and is killed before."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys

import pytest

from simxrd_jax.errors import InputError
from simxrd_jax.export import writer
from simxrd_jax.export.manifest import MANIFEST, read_manifest
from simxrd_jax.export.reader import verify
from simxrd_jax.export.writer import write_set
from simxrd_jax.hosts import Hosts
from simxrd_jax.io.files import locked

from .made import bar, make_job
from .test_writer import TESTS


def files_of(folder: pathlib.Path) -> dict[str, bytes]:
    """Every file of a folder but the locks, which are empty."""
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir()) if not p.name.startswith(".lock")}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Files of a set of five shards that one host wrote."""
    folder = tmp_path_factory.mktemp("set") / "whole"
    write_set(make_job(), folder, "npz", bar=bar)
    return files_of(folder)


@pytest.mark.parametrize("order", [(0, 1), (1, 0), (2, 0, 1), (5, 0, 3, 1, 6, 2, 4)], ids=str)
def test_the_sum_over_hosts_is_the_set_of_one_host(order, whole, tmp_path):
    """Whichever ends last; with seven hosts two have nothing to do."""
    for index in order:
        assert not (tmp_path / "set" / MANIFEST).exists()
        manifest = write_set(make_job(), tmp_path / "set", "npz", hosts=Hosts(len(order), index), bar=bar)
        assert manifest.complete == (index == order[-1])
        assert len(manifest.shards) == (5 if manifest.complete else len(range(index, 5, len(order))))
    assert files_of(tmp_path / "set") == whole
    verify(tmp_path / "set")


def test_hosts_that_write_at_once_make_the_set(whole, tmp_path):
    """Six processes that start together and are killed once or not: nobody removes what another one writes."""
    code = """
import sys
from export.made import bar, make_job
from simxrd_jax.export.writer import write_set
from simxrd_jax.hosts import Hosts
write_set(make_job(seconds=0.05), sys.argv[1], "npz", hosts=Hosts(3, int(sys.argv[2])), bar=bar)
"""
    environment = {**os.environ, "PYTHONPATH": f"{TESTS.parent}:{TESTS}"}

    def start(index: int) -> subprocess.Popen:
        return subprocess.Popen([sys.executable, "-c", code, tmp_path / "set", str(index)], env=environment)

    processes = [start(index) for index in range(3)]
    first = tmp_path / "set" / "host-00001-of-00003.json"
    while processes[1].poll() is None and not first.exists():
        pass
    processes[1].kill()
    assert processes[1].wait() == -9
    assert [processes[index].wait() for index in (0, 2)] == [0, 0]
    assert not (tmp_path / "set" / MANIFEST).exists()
    assert start(1).wait() == 0
    assert files_of(tmp_path / "set") == whole


def _hosts(folder: pathlib.Path, *indices: int, count: int = 3) -> None:
    for index in indices:
        write_set(make_job(), folder, "npz", hosts=Hosts(count, index), bar=bar)


def test_what_a_kill_leaves_of_a_host_is_replaced_and_nothing_of_another(whole, tmp_path):
    folder = tmp_path / "set"
    _hosts(folder, 0)
    entry = read_manifest(folder / "host-00000-of-00003.json").shards[1]
    (folder / entry.file).write_bytes(b"damaged")
    for name in ("made-train-00001-of-00005.npz", "made-train-00002-of-00005.npz.part", ".simxrd-x7.part"):
        (folder / name).write_bytes(b"half")
    said: list[str] = []
    write_set(make_job(), folder, "npz", hosts=Hosts(3, 0), say=said.append, bar=bar)
    assert "is missing or damaged" in said[0]
    assert (folder / entry.file).read_bytes() == whole[entry.file]
    assert (folder / "made-train-00001-of-00005.npz").read_bytes() == b"half"  # host 1 may be writing it
    _hosts(folder, 1, 2)
    assert files_of(folder) == whole


def test_a_kill_between_the_manifest_and_the_end_leaves_nothing(whole, tmp_path, monkeypatch):
    """All shards are there and none has put them together; or one has, and the parts are still there."""
    folder = tmp_path / "set"
    _hosts(folder, 0, 1)
    parts = {p: p.read_bytes() for p in folder.glob("host-*")}

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(writer, "_gathered", killed)
        with pytest.raises(KeyboardInterrupt):
            _hosts(folder, 2)
    assert not (folder / MANIFEST).exists()
    _hosts(folder, 1)
    assert files_of(folder) == whole
    for path, content in parts.items():
        path.write_bytes(content)
    _hosts(folder, 0)
    assert files_of(folder) == whole


def test_other_hosts_other_sets_and_other_versions_are_refused(tmp_path, monkeypatch):
    folder = tmp_path / "set"
    _hosts(folder, 0)
    before = files_of(folder)
    for count in (1, 2):
        with pytest.raises(InputError, match="was begun by 3 hosts; go on with --hosts 3"):
            _hosts(folder, 0, count=count)
    with pytest.raises(InputError, match="another seed"):
        write_set(make_job(seed=4), folder, "npz", hosts=Hosts(3, 1), bar=bar)
    with locked(folder, "writing", folder / ".lock-host-00000-of-00003"), pytest.raises(InputError, match="another process"):
        _hosts(folder, 0)
    other = {**read_manifest(folder / "host-00000-of-00003.json").made_by, "jax": "0.1"}
    with monkeypatch.context() as patch:
        patch.setattr(writer, "surroundings", lambda: other)
        with pytest.raises(InputError, match=r"was begun under jax .* \(now 0.1\)"):
            _hosts(folder, 1)
    assert files_of(folder) == before
    write_set(make_job(), tmp_path / "one", "npz", bar=bar)
    content = (tmp_path / "one" / MANIFEST).read_text().replace('"complete": true', '"complete": false')
    (tmp_path / "one" / MANIFEST).write_text(content)
    with pytest.raises(InputError, match="was begun by one host"):
        _hosts(tmp_path / "one", 0)
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "dear.txt").write_text("you")
    with pytest.raises(InputError, match="is not empty"):
        _hosts(tmp_path / "letters", 0)


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (("--hosts", "2"), 2, "say with --host which of them"),
        (("--hosts", "2", "--host", "2"), 1, "--host 2 must be from 0 to 1"),
        (("--hosts", "0", "--host", "0"), 1, "--hosts 0 must be at least 1"),
        (("--host", "1"), 1, "--host 1 must be from 0 to 0"),
        (("--hosts", "2", "--host", "1", "--coordinator", "here"), 1, "expected ADDRESS:PORT"),
        (("--hosts", "2", "--host", "1", "--coordinator", "localhost:99999"), 1, "expected ADDRESS:PORT"),
        (("--hosts", "2", "--host", "1", "--coordinator", "localhost:0"), 1, "expected ADDRESS:PORT"),
        (("--hosts", "2", "--host", "1", "--format", "ase"), 1, "which one host writes"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_bad_flags_are_refused_in_a_sentence(options, code, message, simxrd, library_path):
    answer = simxrd("generate", library_path, "-n", "4", "--preset", "ideal", "-o", "set", *options)
    assert (answer.code, answer.out) == (code, "")
    assert message in answer.err


def _generate(library: str, folder: pathlib.Path, *options: object, devices: int) -> None:
    """The command in a process with so many devices."""
    flags = f"--xla_force_host_platform_device_count={devices}"
    environment = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-m", "simxrd_jax", "generate", library, "-o", folder, *options]
    subprocess.run([str(part) for part in command], check=True, capture_output=True, env=environment)


def test_a_host_of_eight_devices_and_one_of_one_write_the_bytes_of_one(simxrd, library_path, tmp_path):
    """Four shards and batches of 8: eight devices take several shards at once."""
    options = ("-n", 29, "--preset", "ideal", "--shard-size", 8, "--format", "npz")
    assert simxrd("generate", library_path, *options, "-o", "one").code == 0
    answer = simxrd("generate", library_path, *options, "-o", "two", "--hosts", 2, "--host", 1)
    assert "two: host 1 has its 13 patterns; the set is complete once all 2 hosts are done" in answer.err
    assert simxrd("verify", "two").code == 1
    _generate(library_path, tmp_path / "two", *options, "--hosts", 2, "--host", 0, devices=8)
    assert files_of(tmp_path / "two") == files_of(tmp_path / "one")
    assert simxrd("verify", "two").code == 0


@pytest.mark.slow
@pytest.mark.parametrize("count", [("-n", 85), ("--per-structure", 17)], ids=str)
def test_eight_devices_and_two_hosts_write_the_bytes_of_one_with_all_effects(count, laboratory_path, tmp_path):
    options = (*count, "--preset", "laboratory", "--shard-size", 24, "--seed", 3)
    _generate(laboratory_path, tmp_path / "one", *options, devices=1)
    _generate(laboratory_path, tmp_path / "eight", *options, devices=8)
    for index, devices in ((1, 1), (0, 8)):
        _generate(laboratory_path, tmp_path / "two", *options, "--hosts", 2, "--host", index, devices=devices)
    verify(tmp_path / "one")
    assert files_of(tmp_path / "eight") == files_of(tmp_path / "one")
    assert files_of(tmp_path / "two") == files_of(tmp_path / "one")
