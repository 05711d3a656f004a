"""The examples of docs/datasets.md run."""

from __future__ import annotations

import pathlib
import re
import sys

import jax
import numpy as np
import pytest

from simxrd_jax.conditions import CONDITIONS
from simxrd_jax.export.database import write_database
from simxrd_jax.export.formats import FORMATS
from simxrd_jax.export.generate import Request, make_job
from simxrd_jax.export.writer import write_set
from simxrd_jax.library.store import Library
from simxrd_jax.library.stream import make_stream
from simxrd_jax.presets import get_preset

from .made import bar

ROOT = pathlib.Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "datasets.md").read_text(encoding="utf-8")
EXAMPLES = dict(re.findall(r"<!-- example: (\w+) -->\n```python\n(.*?)```", PAGE, flags=re.DOTALL))


def _run(name: str, **replaced: str) -> dict:
    """Runs an example, with other files than it names."""
    code = EXAMPLES[name]
    for old, new in replaced.items():
        assert old in code
        code = code.replace(old, new)
    names: dict = {}
    exec(compile(code, f"docs/datasets.md: {name}", "exec"), names)
    return names


@pytest.fixture(autouse=True)
def folder(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty folder with the bundled data sets."""
    (tmp_path / "datasets").symlink_to(ROOT / "datasets")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path.copy())


def test_every_example_is_tested():
    assert set(EXAMPLES) == {"reading", "database", "torch", "sklearn", "tfds"}
    assert all(f"`{name}`" in PAGE for name in (*FORMATS, "ase"))
    assert "conditions" in PAGE
    assert "grain_size" in CONDITIONS


def test_reading(library: Library):
    write_set(make_job(library, Request("ideal", count=8, shard_size=8)), "patterns", "npz", bar=bar)
    names = _run("reading")
    assert names["columns"]["intensity"].shape == (8, 3501)
    np.testing.assert_array_equal(names["record"]["intensity"], names["columns"]["intensity"][7])
    np.testing.assert_allclose(names["two_theta"], np.asarray(get_preset("ideal").grid().two_theta), rtol=1e-6)


def test_database(library: Library):
    preset = get_preset("ideal")
    job = make_job(library, Request(preset, count=8, shard_size=8))
    write_database(job, "train.db", library, preset, bar=bar)
    assert _run("database")["row"].intensity.shape == (3501,)


def test_scikit_learn_learns_from_the_stream():
    pytest.importorskip("sklearn")
    names = _run("sklearn", laboratory="ideal")
    assert names["model"].coef_.shape == (7, 3501)
    assert names["model"].t_ == 2 * 64 + 1


def test_torch_learns_from_the_stream():
    torch = pytest.importorskip("torch")
    names = _run("torch", laboratory="ideal")
    assert names["patterns"].shape == (64, 3501)
    assert torch.isfinite(names["loss"])
    batch = next(iter(names["stream"].batches(jax.random.key(0))))
    assert torch.from_dlpack(batch.pattern).data_ptr() == batch.pattern.unsafe_buffer_pointer()


@pytest.mark.slow
def test_tensorflow_datasets():
    pytest.importorskip("tensorflow_datasets")
    names = _run("tfds")
    assert len(names["source"]) == len(names["again"].as_data_source("validation")) == 204


# --- Batches of a stream ---------------------------------------------------------------------------------------------------


def test_batches_are_those_of_the_steps(library: Library):
    stream, key = make_stream(library, "ideal", batch=8), jax.random.key(3)
    made = list(stream.batches(key, first_step=4, steps=3))
    assert len(made) == 3
    for step, batch in enumerate(made, 4):
        np.testing.assert_array_equal(batch.pattern, stream.batch(key, step).pattern)
    assert not list(stream.batches(key, steps=0))
    endless = stream.batches(key)
    np.testing.assert_array_equal(next(endless).key_data, stream.batch(key, 0).key_data)
    np.testing.assert_array_equal(next(endless).key_data, stream.batch(key, 1).key_data)


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="the memory is the device's")
def test_numpy_reads_a_batch_without_a_copy(library: Library):
    batch = make_stream(library, "ideal", batch=8).batch(jax.random.key(0), 0)
    for array in (np.asarray(batch.pattern), np.from_dlpack(batch.pattern)):
        assert array.ctypes.data == batch.pattern.unsafe_buffer_pointer()
