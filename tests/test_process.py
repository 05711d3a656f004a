"""Freed memory is kept: buffers that come and go cost no page faults."""

import platform
import subprocess
import sys

import pytest

# 20 buffers of 64 MiB, each written and freed; prints how often the kernel had to bring pages.
PROGRAM = """
import resource, sys
from simxrd_jax.process import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
count = 64 * 2**20
b"1" * count
before = faults()
for _ in range(20):
    b"1" * count
print(faults() - before)
"""


def page_faults(word: str) -> int:
    made = subprocess.run([sys.executable, "-c", PROGRAM, word], capture_output=True, text=True, check=True)
    return int(made.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_memory_that_is_freed_is_used_again():
    assert page_faults("keep") < 100
    assert page_faults("give back") > 500  # huge pages are 2 MiB: what is measured is there without it
