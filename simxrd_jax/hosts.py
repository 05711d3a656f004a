"""Host zone. Several processes, each with devices of its own, that do one job: which this one is, and what they agree on.

Sets of patterns need no network: the hosts meet in the folder (`export.writer`). Training does: `join` brings up
jax.distributed, then every array over all devices is one array, and what is read from files or decided by a clock is the
first host's word (`first_says`).
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from simxrd_jax.errors import InputError

HEARTBEAT_SECONDS = 30  # after which a host that says nothing is taken for dead; JAX's own 100 hold up a restart
# What XLA's collectives say when another process is gone.
GONE = re.compile(r"Gloo|NCCL|coordination service|peer|collective|DEADLINE_EXCEEDED|UNAVAILABLE", re.IGNORECASE)


@dataclass(frozen=True)
class Hosts:
    """How many processes there are, and which of them this one is.

    Attributes:
      count: of all.
      index: of this one, from 0.
      coordinator: ADDRESS:PORT of the first, where training meets.

    Raises:
      InputError: an index that is none of them, or an address without a port.
    """

    count: int = 1
    index: int = 0
    coordinator: str | None = None

    def __post_init__(self) -> None:
        if self.count < 1:
            raise InputError(f"--hosts {self.count} must be at least 1")
        if not 0 <= self.index < self.count:
            raise InputError(f"--host {self.index} must be from 0 to {self.count - 1}, one of --hosts {self.count}")
        if self.coordinator is not None and not _is_address(self.coordinator):
            raise InputError(f"--coordinator {self.coordinator}: expected ADDRESS:PORT, such as 10.0.0.1:7733")


def _is_address(text: str) -> bool:
    """Whether it is ADDRESS:PORT; JAX ends the whole process at a port that is none."""
    address, _, port = text.rpartition(":")
    return bool(address) and re.fullmatch(r"[0-9]{1,5}", port) is not None and 0 < int(port) < 2**16


ONE = Hosts()


class Agreed(InputError):
    """An error that all hosts know of and end with."""


def join(hosts: Hosts) -> None:
    """Joins the others of a training run; before anything else is asked of JAX.

    Raises:
      InputError: no coordinator is named, or it does not answer.
    """
    if hosts.count == 1:
        return
    if hosts.coordinator is None:
        raise InputError(f"--hosts {hosts.count}: name with --coordinator ADDRESS:PORT where the hosts of a run meet")
    try:
        jax.distributed.initialize(hosts.coordinator, hosts.count, hosts.index, heartbeat_timeout_seconds=HEARTBEAT_SECONDS)
    except (RuntimeError, ValueError, OSError) as error:
        first = str(error).strip().partition("\n")[0][:160]
        raise InputError(f"--coordinator {hosts.coordinator}: the hosts do not meet there ({first})") from error


def is_first() -> bool:
    """Whether this process writes the files of a run."""
    return jax.process_index() == 0


def first_says(make: Callable[[], Any]) -> Any:
    """A JSON value that the first host makes, on all of them; an InputError of its is raised on all of them.

    Args:
      make: called on the first host alone.

    Raises:
      InputError: what `make` raised (of several hosts `Agreed`).
    """
    if jax.process_count() == 1:
        return make()
    said: dict[str, Any] = {}
    if is_first():
        try:
            said = {"value": make()}
        except InputError as error:
            said = {"error": str(error)}
    text = np.frombuffer(json.dumps(said).encode(), np.uint8)
    length = int(_of_first(np.int32(len(text))))
    said = json.loads(np.asarray(_of_first(text if is_first() else np.zeros(length, np.uint8))).tobytes())
    if "error" in said:
        raise Agreed(said["error"])
    return said["value"]


def _of_first(value: Any) -> Any:
    from jax.experimental import multihost_utils

    return multihost_utils.broadcast_one_to_all(value)


@contextlib.contextmanager
def together(say: Callable[[str], None]) -> Iterator[None]:
    """Ends this process at once where it fails and the others do not know.

    At its end a process waits for the others, and these wait for this one: without this a run hangs where one host fails.

    Args:
      say: takes the sentence that is the last of this process.
    """
    try:
        yield
    except Agreed:
        raise
    except BaseException as error:
        if jax.process_count() == 1:
            raise
        if isinstance(error, InputError):
            say(str(error))
        elif isinstance(error, RuntimeError | ValueError) and GONE.search(str(error)):
            say("another host of this run has ended; start all of them again, and they go on from the last checkpoint")
        elif not isinstance(error, KeyboardInterrupt):
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(130 if isinstance(error, KeyboardInterrupt) else 1)
