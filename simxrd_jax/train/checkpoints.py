"""Host zone. Checkpoints of a run, by Orbax: complete or not there at all, however the process ends.

A checkpoint holds the network (which evaluation reads), the optimiser's state, the run's progress, checksums of the first two,
and its validation loss if there was a validation. The newest ones and the one of the lowest validation loss are kept.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import logging
import os
import pathlib
import re
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as policies

from simxrd_jax.errors import InputError
from simxrd_jax.train.state import Network, TrainState

FOLDER = "checkpoints"


@dataclass(frozen=True)
class Progress:
    """What a run remembers of its validations, and of its steps since the last line of the log.

    Attributes:
      best_loss: lowest validation loss, or None before the first.
      best_step: where it was.
      reference_loss: the loss that the next improvement is measured from.
      worse: validations since an improvement that counts.
      loss, hits, samples, steps: see `Totals`.
      seconds: that those steps took.
    """

    best_loss: float | None = None
    best_step: int = 0
    reference_loss: float | None = None
    worse: int = 0
    loss: float = 0.0
    hits: int = 0
    samples: int = 0
    steps: int = 0
    seconds: float = 0.0


class Checkpoints:
    """The checkpoints of a run's folder; `read_only` leaves it as it is, so that a run that goes on there is not disturbed."""

    def __init__(self, folder: pathlib.Path, keep: int = 1, *, read_only: bool = False):
        _quieten()
        kept = policies.AnyPreservationPolicy(
            [
                policies.LatestN(max(keep, 1)),
                policies.BestN(get_metric_fn=_rank, n=1, keep_checkpoints_without_metrics=False),
            ]
        )
        self.folder = folder / FOLDER
        if not read_only:
            self.folder.mkdir(exist_ok=True)
        options = ocp.CheckpointManagerOptions(
            preservation_policy=kept,
            best_fn=_rank,  # or metrics would not be written, and a run that starts again would forget its best checkpoint
            enable_async_checkpointing=False,
            cleanup_tmp_directories=not read_only,
            create=False,
            read_only=read_only,
        )
        if jax.process_count() > 1:
            # Each process has the whole state: the first writes it, each reads it, and none waits for another here.
            own = jax.process_index()
            options.multiprocessing_options = ocp.options.MultiprocessingOptions(
                primary_host=own, active_processes={own}, barrier_sync_key_prefix=f"host{own}"
            )
        try:
            self._manager = ocp.CheckpointManager(self.folder.absolute(), options=options)
        except Exception as error:  # of any file that a crash has left half written
            raise InputError(
                f"{self.folder}: cannot be read ({_first_line(error)}); delete the damaged checkpoint, which is the "
                "folder with an empty or broken file in it"
            ) from error

    def steps(self) -> list[int]:
        """Steps of the complete checkpoints, oldest first."""
        return sorted(self._manager.all_steps())

    def save(self, state: TrainState, progress: Progress, validation_loss: float | None) -> None:
        """Writes a checkpoint; one of the same step is left as it is.

        Raises:
          InputError: the disk is full or the folder cannot be written.
        """
        step = int(state.step)
        state = jax.device_get(state)  # one copy, however many devices have one
        if step in self._manager.all_steps():
            return
        saved = {"network": _as_saved(state.network), "moments": jax.tree.leaves(state.moments)}
        items = {
            **{name: ocp.args.StandardSave(tree) for name, tree in saved.items()},
            "progress": ocp.args.JsonSave(asdict(progress)),
            "sha256": ocp.args.JsonSave({name: _digest(tree) for name, tree in saved.items()}),
        }
        metrics = None if validation_loss is None else {"loss": validation_loss, "step": step}
        try:
            self._manager.save(step, args=ocp.args.Composite(**items), metrics=metrics, force=True)
            self._manager.wait_until_finished()
        except (OSError, ValueError) as error:
            reason = _reason(error)
            if reason is None:
                raise
            raise InputError(
                f"{self.folder}: the checkpoint of step {step} cannot be written ({reason}); earlier ones are whole: free the "
                "disk and start the run again"
            ) from error

    def restore(self, like: TrainState, step: int) -> tuple[TrainState, Progress]:
        """The state at a step, with the shapes and placement of another.

        Raises:
          InputError: the checkpoint is of another network or damaged.
        """
        leaves, shape = jax.tree.flatten(like.moments)
        items = {
            "network": ocp.args.StandardRestore(_as_saved(like.network)),
            "moments": ocp.args.StandardRestore(leaves),
            "progress": ocp.args.JsonRestore(),
        }
        with self._reading(step):
            found = self._restored(step, items)
        network = _from_saved(found["network"], like.network)
        moments = jax.tree.unflatten(shape, found["moments"])
        number = jax.device_put(np.asarray(step, dtype=like.step.dtype), like.step.sharding)
        return TrainState(number, network, moments), Progress(**found["progress"])

    def network(self, like: Network, step: int) -> Network:
        """The network alone.

        Raises:
          InputError: as `restore`.
        """
        with self._reading(step):
            items = {"network": ocp.args.StandardRestore(_as_saved(like))}
            return _from_saved(self._restored(step, items)["network"], like)

    def progress(self, step: int) -> Progress:
        """What the run remembered at a step."""
        with self._reading(step):
            return Progress(
                **self._manager.restore(step, args=ocp.args.Composite(progress=ocp.args.JsonRestore()))["progress"]
            )

    def close(self) -> None:
        """Ends Orbax's threads."""
        self._manager.close()

    def _restored(self, step: int, items: dict[str, Any]) -> Any:
        """Items of a checkpoint; a ValueError where one is not what was written."""
        found = self._manager.restore(step, args=ocp.args.Composite(**items, sha256=ocp.args.JsonRestore()))
        for name in ("network", "moments"):
            if name in items and _digest(found[name]) != found["sha256"][name]:
                raise ValueError(f"the checksum of its {name} is another")
        return found

    @contextlib.contextmanager
    def _reading(self, step: int) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            raise InputError(
                f"{self.folder / str(step)}: the checkpoint does not fit the network of the config, or is damaged "
                f"({_first_line(error)}); give the folder of a run of this model, or delete the checkpoint: training goes on "
                "from the one before, if there is one"
            ) from error


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:160] if str(error).strip() else type(error).__name__


def _reason(error: OSError | ValueError) -> str | None:
    """What the system said of a write that failed, or None where it is another error.

    TensorStore's errors are ValueErrors, whose text names many files before it comes to the number of the system's error.
    """
    if isinstance(error, OSError):
        return error.strerror or str(error)
    number = re.search(r"os_error_code='(\d+)'", str(error))
    return os.strerror(int(number[1])) if number else None


@functools.cache
def _quieten() -> None:
    """Orbax says much about its choices, each of its threads logs the traceback of a write that failed, and reads that still
    go on when one has failed each end with a traceback that says that nobody waits for them; what a user must know is said
    here."""
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    before = sys.unraisablehook

    def hook(unraisable: Any) -> None:
        if "Event loop is closed" not in str(unraisable.exc_value):
            before(unraisable)

    sys.unraisablehook = hook


def _rank(metrics: Any) -> Any:
    """Orbax keeps the greatest: the lowest loss, and of equal ones the earliest, which is the one a run remembers."""
    return -float(metrics["loss"]), -int(metrics["step"])


def _digest(tree: Any) -> str:
    """SHA-256 of the arrays of a tree, in its order, with their shapes and types."""
    total = hashlib.sha256()
    for leaf in map(np.asarray, jax.tree.leaves(tree)):
        total.update(f"{leaf.dtype} {leaf.shape} ".encode())
        total.update(np.ascontiguousarray(leaf).view(np.uint8).data)
    return total.hexdigest()


def _as_saved(network: Network) -> dict[str, Any]:
    """Trees that are empty are left out: Orbax does not keep them."""
    trees = {"parameters": network.parameters, "statistics": network.statistics, "average": network.average}
    return {name: tree for name, tree in trees.items() if jax.tree.leaves(tree)}


def _from_saved(found: dict[str, Any], like: Network) -> Network:
    return Network(found["parameters"], found.get("statistics", like.statistics), found.get("average", like.average))
