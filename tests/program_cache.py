"""Compiled programs that the tests of a package share with each other and with the processes they start."""

from __future__ import annotations

import contextlib
import pathlib
from collections.abc import Iterator

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache

from simxrd_jax.process import CACHE_VARIABLE


@contextlib.contextmanager
def shared_programs(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    """Programs that are compiled meanwhile are kept in a folder."""
    before = jax.config.jax_compilation_cache_dir
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(CACHE_VARIABLE, str(folder))
        _keep(str(folder))
        yield folder
        _keep(before)


def _keep(folder: str | None) -> None:
    compilation_cache.reset_cache()
    jax.config.update("jax_compilation_cache_dir", folder)
