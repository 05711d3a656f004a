"""Fixtures that several test modules share."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Iterator

# Most of the suite's time is XLA's: programs are compiled without its costly optimisations, here and in the processes that
# tests start. `make slow`, which holds what is measured, sets 0. JAX reads it once, when it is imported.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")

import jax
import pytest
from jaxtyping import install_import_hook

# Shapes and dtypes of every annotated function are checked while the tests run; in production they are comments.
DEVICE_MODULES = [
    "simxrd_jax.diffraction",
    "simxrd_jax.crystal.cell",
    "simxrd_jax.crystal.displacement",
    "simxrd_jax.crystal.scattering",
    "simxrd_jax.crystal.structure_factor",
    "simxrd_jax.numerics",
    "simxrd_jax.train.losses",
    "simxrd_jax.refine.model",
]
install_import_hook(DEVICE_MODULES, "runtime_types.check")

MOST_MAPS = 45_000
ROOT = pathlib.Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module", autouse=True)
def few_programs() -> Iterator[None]:
    """Drops compiled programs before they take up the memory maps that Linux gives a process (65,530): XLA crashes then."""
    yield
    maps = pathlib.Path("/proc/self/maps")
    if maps.exists() and len(maps.read_bytes().splitlines()) > MOST_MAPS:
        jax.clear_caches()


@pytest.fixture
def x64() -> Iterator[None]:
    """Float64 for one test; otherwise float32, as JAX starts."""
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="session")
def shared_data() -> pathlib.Path:
    """Folder of the measured patterns and large libraries that are not part of the repository; skips without it."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("../shared/data is not here")
    return folder


@pytest.fixture(scope="session")
def cif_folder() -> pathlib.Path:
    """Folder of the small CIFs written for the tests."""
    return ROOT / "tests" / "data" / "cifs"


@pytest.fixture(scope="session")
def datasets() -> pathlib.Path:
    """Folder of the bundled structure libraries."""
    return ROOT / "datasets"


class Answer:
    """Exit code and output of one call of the command."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err


@pytest.fixture
def simxrd(capsys: pytest.CaptureFixture[str], tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch):
    """Calls the command in an empty folder."""
    from simxrd_jax.cli import main  # only now: the import hook above must be there first

    monkeypatch.chdir(tmp_path)

    def call(*arguments: object) -> Answer:
        with pytest.raises(SystemExit) as caught:
            main([str(a) for a in arguments])
        out, err = capsys.readouterr()
        return Answer(int(caught.value.code or 0), out, err)

    return call
