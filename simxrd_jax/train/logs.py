"""Host zone. What a run writes while it goes on: metrics.jsonl, one JSON object a line, and the same for TensorBoard."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
from collections.abc import Mapping
from typing import Any

import jax

from simxrd_jax import __version__
from simxrd_jax.io.xy import write_together

METRICS = "metrics.jsonl"
TENSORBOARD = "tensorboard"


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
                    self._board.add_scalar(f"{kind}/{name}", value, step)

    def close(self) -> None:
        """Ends both files."""
        self._file.close()
        if self._board is not None:
            self._board.close()


def read_lines(folder: pathlib.Path, kind: str | None = None) -> list[dict[str, Any]]:
    """The lines of a run, of one kind or all; a last line that a kill cut short is left out."""
    path = folder / METRICS
    found = []
    for text in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            line = json.loads(text)
        except json.JSONDecodeError:
            continue
        if kind is None or line["kind"] == kind:
            found.append(line)
    return found


def surroundings() -> dict[str, Any]:
    """What a result depends on besides its config: code, versions, devices."""
    return {
        "simxrd_jax": __version__,
        "git_commit": _git_commit(),
        "jax": jax.__version__,
        "device": str(jax.devices()[0].device_kind),
        "devices": jax.local_device_count(),
        "cores": os.cpu_count(),
    }


def _git_commit() -> str | None:
    here = pathlib.Path(__file__).parent
    try:
        command = ["git", "describe", "--always", "--dirty"]
        run = subprocess.run(command, cwd=here, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return run.stdout.strip() or None


def _board(folder: pathlib.Path, step: int) -> Any:
    """A TensorBoard writer that does without TensorFlow, or None where it is not installed."""
    try:
        from tensorboardX import SummaryWriter
    except ImportError:
        return None
    # What a killed run had written beyond its checkpoint is purged, from the first step on if there was none.
    return SummaryWriter(str(folder / TENSORBOARD), purge_step=step + 1, filename_suffix=f".from-{step}")
