"""Host zone. What a run writes while it goes on: metrics.jsonl, one JSON object a line, and the same for TensorBoard."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import time
from collections.abc import Mapping
from typing import Any

import jax

from simxrd_jax import __version__
from simxrd_jax.io.xy import write_together

METRICS = "metrics.jsonl"
TENSORBOARD = "tensorboard"
FLUSH_SECONDS = 30.0  # between TensorBoard's looks at a run; each flush waits for the disk


class Log:
    """Lines of a run; those after `step`, which a killed run had written beyond its checkpoint, are dropped first."""

    def __init__(self, folder: pathlib.Path, step: int):
        self._path = folder / METRICS
        kept = [line for line in read_lines(folder) if line["step"] <= step]
        text = "".join(json.dumps(line) + "\n" for line in kept)
        write_together({self._path: text})
        self._file = self._path.open("a", encoding="utf-8")
        self._board = _board(folder, step)

    def write(self, kind: str, step: int, values: Mapping[str, Any]) -> None:
        """One line: its kind (train, validation), the step, and numbers."""
        self._file.write(json.dumps({"kind": kind, "step": step, **values}) + "\n")
        self._file.flush()
        if self._board is not None:
            for name, value in values.items():
                if isinstance(value, int | float):
                    self._board.add(f"{kind}/{name}", value, step)

    def close(self) -> None:
        """Ends both files, the one also where the other cannot be written."""
        with self._file:
            if self._board is not None:
                self._board.close()


def read_lines(folder: pathlib.Path, kind: str | None = None) -> list[dict[str, Any]]:
    """The lines of a run, of one kind or all; a last line that a kill cut short is left out, and what else is no line."""
    path = folder / METRICS
    found = []
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []:
        try:
            line = json.loads(text)
        except json.JSONDecodeError:
            continue
        if _is_line(line) and kind in (None, line["kind"]):
            found.append(line)
    return found


def _is_line(line: Any) -> bool:
    if not isinstance(line, dict) or "kind" not in line or not isinstance(line.get("step"), int):
        return False
    return isinstance(line.get("seconds", 0.0), int | float)


def surroundings() -> dict[str, Any]:
    """What a result depends on besides its config: code, versions, devices."""
    return {
        "simxrd_jax": __version__,
        "git_commit": _git_commit(),
        "jax": jax.__version__,
        "device": str(jax.local_devices()[0].device_kind),
        "devices": jax.device_count(),
        "hosts": jax.process_count(),
        "cores": os.cpu_count(),
    }


def _git_commit() -> str | None:
    """Of this package; "-dirty" where a file of it, not of the results beside it, was changed since."""
    package = pathlib.Path(__file__).parents[1]

    def git(*command: str) -> str:
        run = subprocess.run(["git", *command], cwd=package, capture_output=True, text=True, timeout=10, check=False)
        return run.stdout.strip()

    try:
        commit = git("describe", "--always")
        return f"{commit}-dirty" if commit and git("status", "--porcelain", "--", ".") else commit or None
    except (OSError, subprocess.TimeoutExpired):
        return None


class _Board:
    """TensorBoard's file of a run, without TensorFlow.

    tensorboardX's `SummaryWriter` writes in a thread of its own. On a full disk that thread ends with a traceback, the process
    with another, and once its queue is full the run waits for ever; here an error is raised where it happens.
    """

    def __init__(self, folder: pathlib.Path, step: int):
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto import event_pb2

        folder.mkdir(exist_ok=True)
        self._file = EventsWriter(str(folder / "events"), f".from-{step}")
        self._kinds: Any = event_pb2  # its classes are made when it is imported
        self._flushed = 0.0
        # What a killed run had written beyond its checkpoint is purged, from the first step on if there was none.
        self._write(step + 1, session_log=self._kinds.SessionLog(status=self._kinds.SessionLog.START))

    def add(self, name: str, value: float, step: int) -> None:
        """One point of a curve."""
        from tensorboardX.summary import scalar

        self._write(step, summary=scalar(name, value))

    def _write(self, step: int, **content: Any) -> None:
        self._file.write_event(self._kinds.Event(wall_time=time.time(), step=step, **content))
        if time.monotonic() - self._flushed > FLUSH_SECONDS:
            self._file.flush()
            self._flushed = time.monotonic()

    def close(self) -> None:
        """Ends the file."""
        self._file.close()


def _board(folder: pathlib.Path, step: int) -> _Board | None:
    """TensorBoard's file, or None where tensorboardX is not installed."""
    try:
        return _Board(folder / TENSORBOARD, step)
    except ImportError:
        return None
