"""Writes a set again and again, kills it at random moments, and lets it go on: python killed.py FORMAT FOLDER KILLS SEED.

One process imports everything once; its children write and are killed. Each of the kills meets one at work.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import random
import resource
import signal
import sys
import time

from export.made import Bar, make_job
from simxrd_jax.export.database import write_database
from simxrd_jax.export.writer import write_set
from simxrd_jax.library.store import read_library
from simxrd_jax.presets import get_preset

PLACES, SHARD_SIZE = 400, 20
SECONDS = 0.001  # of a block; 200 of them


def write(format_name: str, target: str) -> None:
    """The set of this test, or what is left of it."""
    if format_name == "ase":
        from export.made_database import database_job

        library = read_library(os.environ["SIMXRD_TEST_LIBRARY"])
        job = database_job(library, places=60, shard_size=4)
        write_database(job, target, library, get_preset("ideal"), bar=_bar)
    else:
        write_set(make_job(PLACES, SHARD_SIZE, seconds=SECONDS), target, format_name, bar=_bar)


@contextlib.contextmanager
def _bar(done: int, total: int):
    yield Bar(done, total)


def start(format_name: str, target: str) -> int:
    """A child that writes."""
    child = os.fork()
    if child == 0:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        try:
            write(format_name, target)
        except BaseException as error:
            print(error, file=sys.stderr, flush=True)
            os._exit(3)
        os._exit(0)
    return child


def main(format_name: str, folder: str, kills: int, seed: int) -> None:
    """Writes once in peace to FOLDER/whole, and with kills to FOLDER/killed-0, and so on: a new one when one is finished."""
    place, numbers = pathlib.Path(folder), random.Random(seed)
    begun = time.monotonic()
    if os.waitpid(start(format_name, str(place / "whole")), 0)[1]:
        sys.exit("the first one failed")
    seconds = time.monotonic() - begun
    met = made = 0
    while met < kills:
        child = start(format_name, str(place / f"killed-{made}"))
        # The set takes this long in all: moments within a share of it, so that each meets several kills.
        time.sleep(numbers.uniform(0.02, 0.5) * seconds)
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
        status = os.waitpid(child, 0)[1]
        if os.WIFEXITED(status) and os.WEXITSTATUS(status):
            sys.exit("a run that went on failed")
        met += os.WIFSIGNALED(status)
        made += os.WIFEXITED(status)
    if os.waitpid(start(format_name, str(place / f"killed-{made}")), 0)[1]:
        sys.exit("the last one failed")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
