"""A library of 13 structures, a run trained on it once, and programs that are compiled once for all tests of training."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
import pytest
from jaxtyping import install_import_hook
from program_cache import shared_programs

install_import_hook(["simxrd_jax.train.targets"], "runtime_types.check")

from simxrd_jax.io.cif import read_cif  # noqa: E402
from simxrd_jax.library.build import library_of  # noqa: E402
from simxrd_jax.library.store import Library, write_library  # noqa: E402
from simxrd_jax.train.checkpoints import FOLDER  # noqa: E402
from simxrd_jax.train.config import Data, Optimizer, TrainConfig  # noqa: E402
from simxrd_jax.train.run import read_network  # noqa: E402
from simxrd_jax.train.state import Network  # noqa: E402

NAMES = (
    "Al2O3", "AlN", "CeO2", "Fe2O3_ions", "FeS2", "KCl", "LaB6", "Si", "TiO2_rutile", "ZrO2_monoclinic", "aniso_calcite",
    "quartz", "triclinic",
)  # fmt: skip


@pytest.fixture(scope="package", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[pathlib.Path]:
    """Programs are compiled once, for the other tests and the processes they start too."""
    with shared_programs(tmp_path_factory.mktemp("cache")) as folder:
        yield folder


@pytest.fixture(scope="package")
def library(cif_folder: pathlib.Path) -> Library:
    return library_of([read_cif(cif_folder / f"{name}.cif") for name in NAMES], ids=NAMES)


@pytest.fixture(scope="package")
def library_path(library: Library, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("library") / "small.simxrd"
    write_library(library, path)
    return str(path)


@pytest.fixture(scope="package")
def config(library_path: str) -> TrainConfig:
    """Lines of the log, checkpoints and validations at steps that do not coincide."""
    return TrainConfig(
        model="cnn5",
        targets=("crystal_system",),
        batch=8,
        steps=30,
        validate_every=10,
        validation_patterns=0,
        checkpoint_every=6,
        log_every=7,
        data=Data(library=library_path, split="in_library"),
        optimizer=Optimizer(learning_rate=1e-3),
    )


@pytest.fixture(scope="package")
def trained(config: TrainConfig, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """The folder of the run of `config`; nothing may change it."""
    from simxrd_jax.train.loop import train

    folder = tmp_path_factory.mktemp("runs") / "trained"
    train(config, folder)
    return folder


@pytest.fixture(scope="package")
def member(trained: pathlib.Path) -> tuple[Any, Network]:
    return read_network(trained)[2:]


def lines_of(folder: pathlib.Path) -> list[dict[str, Any]]:
    """metrics.jsonl without times."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in ("seconds", "patterns_per_second")} for line in lines]


def results_of(folder: pathlib.Path) -> dict[str, Any]:
    """results.json without times."""
    results = json.loads((folder / "results.json").read_text())
    return {k: v for k, v in results.items() if k != "seconds"}


def steps_of(folder: pathlib.Path) -> list[int]:
    """Steps of the checkpoints on disk."""
    return sorted(int(path.name) for path in (folder / FOLDER).iterdir() if path.name.isdecimal())


def content_of(folder: pathlib.Path) -> dict[str, bytes]:
    """Every file of a folder."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def assert_equal(a: Any, b: Any) -> None:
    """The same trees, bit for bit."""
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(np.asarray(x), np.asarray(y))


def write_config(path: pathlib.Path, config: TrainConfig) -> None:
    """A config file of a config."""
    path.write_text(
        "from simxrd_jax.train.config import from_dict\n"
        f"CONFIG = from_dict({json.loads(json.dumps(dataclasses.asdict(config)))!r}, 'here')\n"
    )


def killed(command: list[str], when: Callable[[], bool], delay: float, timeout: float = 300) -> int:
    """Exit code of a process that is killed a while after something has happened; that of its end if it ends before."""
    process = subprocess.Popen([sys.executable, "-m", "simxrd_jax", *command], stderr=subprocess.DEVNULL)
    end = time.monotonic() + timeout
    while process.poll() is None and not when():
        assert time.monotonic() < end
        time.sleep(0.02)
    time.sleep(delay)
    process.kill()
    return process.wait()
