"""Compiled programs of tests that are about other things than speed."""

from __future__ import annotations

import contextlib
import pathlib
from collections.abc import Iterator

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache

from simxrd_jax.train.cache import CACHE_VARIABLE


@contextlib.contextmanager
def plain_programs(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    """Programs are compiled without optimisation, and kept in a folder for other tests and the processes they start."""
    before = jax.config.jax_compilation_cache_dir
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(CACHE_VARIABLE, str(folder))
        patch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
        _configure(str(folder), plain=True)
        yield folder
        _configure(before, plain=False)


def _configure(folder: str | None, plain: bool) -> None:
    compilation_cache.reset_cache()
    jax.clear_caches()
    jax.config.update("jax_compilation_cache_dir", folder)
    jax.config.update("jax_disable_most_optimizations", plain)
