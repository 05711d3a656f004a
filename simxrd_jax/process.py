"""Host zone. How the process of a long command is set up: what it keeps of compiled programs and of memory.

XLA allocates the buffers of a program anew at each call on the CPU. glibc maps every large one into the process and unmaps it
when it is freed, so that the kernel clears the same pages again in each training step.
"""

from __future__ import annotations

import ctypes
import os
import sys

CACHE_VARIABLE = "SIMXRD_CACHE"
# Options of glibc's mallopt (malloc.h) and their values: up to 1 GiB of free memory is kept, the heap grows by 64 MiB, and no
# buffer is mapped alone.
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4
SETTINGS = {M_TRIM_THRESHOLD: 2**30, M_TOP_PAD: 2**26, M_MMAP_MAX: 0}


def prepare_process() -> None:
    """Keeps compiled programs and freed memory; for commands that run long."""
    use_compilation_cache()
    keep_freed_memory()


def use_compilation_cache() -> None:
    """Keeps compiled programs between runs, in the folder that SIMXRD_CACHE names (default: the user's cache)."""
    import jax

    folder = os.environ.get(CACHE_VARIABLE) or os.path.join(os.path.expanduser("~"), ".cache", "simxrd_jax")
    jax.config.update("jax_compilation_cache_dir", folder)


def keep_freed_memory() -> bool:
    """Makes the process keep what it frees for its next allocation; says whether its C library can, as glibc does."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    return all([mallopt(option, value) == 1 for option, value in SETTINGS.items()])
