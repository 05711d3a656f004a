"""Host zone. Checksums of files, databases that are only read, and folders that one process writes to at a time."""

from __future__ import annotations

import contextlib
import hashlib
import pathlib
import sqlite3
import urllib.parse
from collections.abc import Iterator
from typing import Any

from simxrd_jax.errors import InputError

LOCK = ".lock"  # in the folder
BLOCK = 1 << 20  # bytes read at once for a checksum


def file_digest(path: pathlib.Path) -> str:
    """SHA-256 of a file."""
    total = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(BLOCK):
            total.update(block)
    return total.hexdigest()


def read_only(path: pathlib.Path, **options: Any) -> sqlite3.Connection:
    """A connection to an SQLite database that cannot change it; `options` are those of sqlite3.connect."""
    return sqlite3.connect(f"file:{urllib.parse.quote(str(path.resolve()))}?mode=ro", uri=True, **options)


@contextlib.contextmanager
def locked(place: pathlib.Path, doing: str, file: pathlib.Path | None = None, *, wait: bool = False) -> Iterator[None]:
    """Holds the lock of a folder, which the system releases however the process ends; the file stays, and means nothing.

    Args:
      place: a folder that exists, or what else is locked.
      doing: what another process would be doing there, for the message.
      file: of the lock; None is LOCK in the folder.
      wait: for another process that holds it, in place of an error.

    Raises:
      InputError: another process holds it and is not waited for, or its file cannot be written.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    try:
        opened = (place / LOCK if file is None else file).open("a")
    except OSError as error:
        raise InputError(f"{place}: cannot be written ({error.strerror}); open the folder or give another") from error
    with opened:
        try:
            fcntl.flock(opened, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            raise InputError(f"{place}: another process is {doing} there; wait for its end or give another name") from None
        except OSError:
            pass  # some network file systems know no locks; the work goes on without
        yield
