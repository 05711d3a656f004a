"""Host zone. A training run from its config to its results, resumed where it was left.

A run's folder:
    .lock                 held by the process that trains
    config.json           the config, with what made it (versions, commit, device, library)
    metrics.jsonl         a line each `log_every` steps, two at each validation
    tensorboard/          the same
    checkpoints/          the newest and the best
    results.json          metrics of the best checkpoint on the test part
    confusion_TARGET.png

With several hosts (`hosts.join`) each has the whole network and a part of each batch. The first writes the folder, which all
must see; what is read from it or measured by it is its word on all of them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import pathlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from tqdm import tqdm

from simxrd_jax import hosts
from simxrd_jax.errors import InputError
from simxrd_jax.io.files import LOCK, locked
from simxrd_jax.io.xy import write_together
from simxrd_jax.train.checkpoints import FOLDER as CHECKPOINTS
from simxrd_jax.train.checkpoints import Checkpoints, Progress
from simxrd_jax.train.config import TrainConfig, checked, differences, to_dict
from simxrd_jax.train.evaluation import chosen_structures, evaluate_part, report
from simxrd_jax.train.logs import METRICS, Log, read_lines, surroundings
from simxrd_jax.train.run import CONFIG, RESULTS, Run, open_library, read_run, set_up
from simxrd_jax.train.state import Totals, TrainState, abstract, make_step, no_totals, replicated

DISPLAY_EVERY = 10  # steps between updates of the progress bar


def train(
    config: TrainConfig,
    folder: str | pathlib.Path,
    *,
    say: Callable[[str], None] = lambda sentence: None,
    stop_after: int | None = None,
) -> dict[str, Any]:
    """Trains a network, or goes on with a run that was stopped, and evaluates it on the test part of its split.

    On CPU a run that was killed and started again ends with the same parameters, bit for bit, as one that was not; on an
    NVIDIA GPU with XLA_FLAGS=--xla_gpu_deterministic_ops=true.

    Args:
      config: of the run.
      folder: of the run; made if it is not there.
      say: takes one sentence for the user.
      stop_after: step after which to stop with a checkpoint, as a kill would; None runs to the end.

    Returns:
      The content of results.json, empty if the run stopped before its end.

    Raises:
      InputError: a bad config, a folder of another run or of one that goes on, a loss that is no number, a full disk.
    """
    folder = pathlib.Path(folder)
    config = checked(config)
    run = set_up(config, open_library(config.data.library))
    for part in ("validation", "test"):
        chosen_structures(run, part)  # an InputError now rather than after the training
    say = say if hosts.is_first() else _quiet
    if run.mesh.size < jax.device_count():
        used, there = run.mesh.size, jax.device_count()
        say(f"batch={config.batch} is spread over {used} of {there} devices; a multiple of {there} would use all")
    with contextlib.ExitStack() as held:
        hosts.first_says(lambda: bool(held.enter_context(claim(folder, run))))
        if hosts.first_says((folder / RESULTS).exists):
            say(f"{folder}: the run is complete")
            return hosts.first_says(lambda: _read_results(folder / RESULTS))
        return _train(run, folder, say, stop_after)


def _quiet(sentence: str) -> None:
    """What hosts other than the first say."""


def _train(run: Run, folder: pathlib.Path, say: Callable[[str], None], stop_after: int | None) -> dict[str, Any]:
    """What `train` does in a folder that is this process's own."""
    config = run.config
    like = abstract(run.state)  # the first step is given the arrays away
    with contextlib.ExitStack() as opened:
        opened.enter_context(_writing(folder))
        checkpoints = _opened(folder, config, opened)
        state, progress = run.state, Progress()
        begun = hosts.first_says(lambda: max(checkpoints.steps(), default=0))
        if begun:
            found, progress = checkpoints.restore(like, begun)
            state = replicated(found, run.mesh)
            say(f"{folder}: goes on from step {begun:,} of {config.steps:,}")
        log = None
        if hosts.is_first():
            log = Log(folder, begun)
            opened.callback(log.close)
        finished = _steps(run, state, progress, checkpoints, log, stop_after)
        if not finished:
            return {}
    with contextlib.ExitStack() as opened:
        checkpoints = _opened(folder, config, opened)
        last = hosts.first_says(lambda: checkpoints.steps()[-1])
        best = checkpoints.progress(last).best_step
        network = checkpoints.network(like.network, best)
    made = {
        "config": to_dict(config),
        "best_step": best,
        "seconds": round(sum(line.get("seconds", 0.0) for line in read_lines(folder, "train")), 1),
        "patterns": config.batch * last,
        "surroundings": surroundings(),
        "test": evaluate_part([(run.definition, network)], run, "test"),
    }
    if hosts.is_first():
        report(made["test"], run.classes, folder)
        write_together({folder / RESULTS: json.dumps(made, indent=1) + "\n"})
    return made


def _opened(folder: pathlib.Path, config: TrainConfig, until: contextlib.ExitStack) -> Checkpoints:
    """The checkpoints of a run; the first host makes their folder before the others look at it."""
    made: list[Checkpoints] = []
    hosts.first_says(lambda: made.append(Checkpoints(folder, config.keep)))
    checkpoints = made[0] if made else Checkpoints(folder, read_only=True)
    until.callback(checkpoints.close)
    return checkpoints


@contextlib.contextmanager
def claim(folder: pathlib.Path, run: Run) -> Iterator[None]:
    """Makes the folder of a run, or checks that it is its own, and keeps other processes from training there meanwhile.

    The folder of a complete run is left as it is.

    Raises:
      InputError: it is of another run, another process trains there, or it cannot be written.
    """
    is_known = _holds(folder, run)  # before anything is written
    if is_known and (folder / RESULTS).exists():
        yield
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: cannot be made ({error.strerror}); give another folder") from error
    with locked(folder, "training"):
        if not _holds(folder, run):  # by now: another process may have come first, and ended
            content = {
                "config": to_dict(run.config),
                "library": run.library.meta.fingerprint,
                "classes": {target: list(names) for target, names in run.classes.items()},
                "train_counts": {target: counts.tolist() for target, counts in run.train_counts.items()},
                "parameters": run.parameter_count,
                **surroundings(),
            }
            write_together({folder / CONFIG: json.dumps(content, indent=1) + "\n"})
        yield


def _holds(folder: pathlib.Path, run: Run) -> bool:
    """Whether the folder is of this run, or is still to be made.

    Raises:
      InputError: it is of another run, or holds something else.
    """
    if (folder / CONFIG).exists():
        known, content = read_run(folder)
        differ = differences(known, run.config)
        if differ and _is_unborn(folder):
            return False
        if differ:
            raise InputError(f"{folder} holds a run with another {', '.join(differ)}; give another folder or delete it")
        if content["library"] != run.library.meta.fingerprint:
            raise InputError(f"{folder} holds a run over another library than {run.config.data.library}; give another folder")
        return True
    if folder.is_dir() and any(each.name != LOCK for each in folder.iterdir()):
        raise InputError(f"{folder} is not empty and holds no run; give another folder")
    return False


@contextlib.contextmanager
def _writing(folder: pathlib.Path) -> Iterator[None]:
    """Says in one sentence that the disk is full or closed."""
    try:
        yield
    except OSError as error:
        raise InputError(
            f"{folder}: cannot be written ({error.strerror or error}); free the disk, open the folder or give another"
        ) from error


def _is_unborn(folder: pathlib.Path) -> bool:
    """Whether a run ended before its first line and checkpoint, as one whose batch is too large: nothing is lost with it."""
    lines, checkpoints = folder / METRICS, folder / CHECKPOINTS
    has_lines = lines.exists() and lines.stat().st_size > 0
    return not has_lines and not (checkpoints.is_dir() and any(checkpoints.iterdir()))


def _read_results(path: pathlib.Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(found, dict) or not isinstance(found.get("test"), dict) or "targets" not in found["test"]:
            raise ValueError("it holds no results")
        return found
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({error}); delete it, and the same command makes it again") from error


def _steps(
    run: Run, state: TrainState, progress: Progress, checkpoints: Checkpoints, log: Log | None, stop_after: int | None
) -> bool:
    """Runs to the last step, or to `stop_after`; says whether it is the end of the run. Without a log nothing is written."""
    config = run.config
    step_function = make_step(run.definition, run.optimizer, run.losses, config, run.mesh)
    stream = replicated(run.stream, run.mesh)
    totals = replicated(_totals_of(progress), run.mesh)
    begin = int(state.step)
    start = time.perf_counter() - progress.seconds
    if stop_after is not None and begin >= stop_after:
        return False
    name, is_shown = f"{config.model} {config.variant}", None if log is not None else True
    bar = tqdm(total=config.steps, initial=begin, unit="step", desc=name, disable=is_shown)
    with bar:
        for done in range(begin + 1, config.steps + 1):
            if _has_ended(config, progress):
                break
            state, totals = step_function(state, totals, stream)
            is_validated = done % config.validate_every == 0 or done == config.steps
            if done % config.log_every == 0 or is_validated:
                sums = jax.device_get(totals)
                values = _line(run, sums, time.perf_counter() - start, done)
                if log is not None:
                    log.write("train", done, values)
                bar.set_postfix_str(f"loss {values['loss']:.4f}, {values['patterns_per_second']:,.0f} patterns/s")
                totals, start = replicated(no_totals(), run.mesh), time.perf_counter()
            if done % DISPLAY_EVERY == 0 or done == config.steps:
                bar.update(done - bar.n)
            validated = None
            if is_validated:
                own = _validation(run, state)
                validated = hosts.first_says(lambda: own)  # noqa: B023
                if log is not None:
                    log.write("validation", done, validated)
                progress = _after(progress, validated["loss"], done, config.minimum_improvement)
                start = time.perf_counter()
            if is_validated or done % config.checkpoint_every == 0 or done == stop_after:
                sums = jax.device_get(totals)
                _check_finite(sums, done)
                seconds = time.perf_counter() - start
                progress = dataclasses.replace(progress, **_sums_of(sums), seconds=seconds)
                if log is not None:
                    checkpoints.save(state, progress, None if validated is None else validated["loss"])
                start = time.perf_counter() - seconds  # a line's rate is that of its steps
            if done == stop_after:
                return done == config.steps
    return True


def _sums_of(totals: Totals) -> dict[str, float]:
    """As a checkpoint keeps them: float32 as float64 and back is the same number."""
    return {"loss": float(totals.loss), **{name: int(getattr(totals, name)) for name in ("hits", "samples", "steps")}}


def _totals_of(progress: Progress) -> Totals:
    return Totals(
        jnp.asarray(progress.loss, jnp.float32),
        *(jnp.array(n, jnp.int32) for n in (progress.hits, progress.samples, progress.steps)),
    )


def _check_finite(sums: Totals, step: int) -> None:
    if not math.isfinite(float(sums.loss)):
        raise InputError(
            f"the loss at step {step} is not finite; lower optimizer.learning_rate or set optimizer.clip_norm, and start the "
            "run in a new folder"
        )


def _line(run: Run, sums: Totals, seconds: float, step: int) -> dict[str, float]:
    _check_finite(sums, step)
    return {
        "loss": float(sums.loss) / max(int(sums.steps), 1),
        "accuracy": int(sums.hits) / max(int(sums.samples), 1),
        "learning_rate": float(jnp.asarray(run.schedule(step - 1))),  # of the step that was just made
        "seconds": round(seconds, 3),
        "patterns_per_second": round(int(sums.samples) / seconds, 1),
    }


def _validation(run: Run, state: TrainState) -> dict[str, float]:
    """Loss and main metrics on the validation part."""
    limit = run.config.validation_patterns
    made = evaluate_part([(run.definition, jax.device_get(state.network))], run, "validation", limit=limit)
    values = {"loss": made["loss"]}
    for target, metrics in made["targets"].items():
        for name in ("accuracy", "macro_f1", "median_length_error"):
            if name in metrics:
                values[f"{target}_{name}"] = metrics[name]
        if "majority" in metrics:
            values[f"{target}_majority_accuracy"] = metrics["majority"]["accuracy"]
    return values


def _after(progress: Progress, loss: float, step: int, minimum: float) -> Progress:
    """The progress after a validation."""
    counts = progress.reference_loss is None or loss < progress.reference_loss - minimum
    is_best = progress.best_loss is None or loss < progress.best_loss
    return dataclasses.replace(
        progress,
        best_loss=loss if is_best else progress.best_loss,
        best_step=step if is_best else progress.best_step,
        reference_loss=loss if counts else progress.reference_loss,
        worse=0 if counts else progress.worse + 1,
    )


def _has_ended(config: TrainConfig, progress: Progress) -> bool:
    return bool(config.patience) and progress.worse >= config.patience
