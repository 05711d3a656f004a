"""Host zone. Compiled programs kept between runs."""

from __future__ import annotations

import os

import jax

CACHE_VARIABLE = "SIMXRD_CACHE"


def use_compilation_cache() -> None:
    """Keeps compiled programs between runs, in the folder that SIMXRD_CACHE names (default: the user's cache)."""
    folder = os.environ.get(CACHE_VARIABLE) or os.path.join(os.path.expanduser("~"), ".cache", "simxrd_jax")
    jax.config.update("jax_compilation_cache_dir", folder)
