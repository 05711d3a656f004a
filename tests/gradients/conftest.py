"""Precision of the tests in this folder: float32 as JAX starts, float64 where a test asks for the fixture."""

from __future__ import annotations

from collections.abc import Iterator

import jax
import pytest


@pytest.fixture
def x64() -> Iterator[None]:
    """Float64 for one test."""
    with jax.enable_x64(True):
        yield
