"""Patterns a second that are simulated, that pass through a network's training step, and that do both in one step.

The share of simulation is what the step takes longer than the network's own step on a batch that is there already.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax
from tqdm import tqdm

from experiments.json_file import json_path, write_json
from experiments.training_speed.config import CONFIG, SMOKE, Config
from simxrd_jax.errors import InputError, device_error
from simxrd_jax.library.store import Library, read_library
from simxrd_jax.process import keep_freed_memory
from simxrd_jax.train.config import Data, TrainConfig
from simxrd_jax.train.run import Run, set_up
from simxrd_jax.train.state import Network, TrainState, answers, draw_batch, make_step, network_input, no_totals, run_keys
from simxrd_jax.train.suite import positive, write_table
from simxrd_jax.train.targets import truth


def measure(library: Library, model: str, batch: int, config: Config) -> dict[str, float]:
    """Rates of one network."""
    run = set_up(
        TrainConfig(model=model, targets=(config.target,), batch=batch, seed=config.seed, data=_data(config)), library
    )
    loops = (_simulation(run), _network_step(run), _training(run))
    for loop in loops:
        loop(2)  # compiles
    best = [0.0, 0.0, 0.0]
    for _ in range(config.repeats):
        # In turns, so that a change of the machine's load meets all three alike.
        best = [max(rate, _rate(loop, batch, config.seconds)) for rate, loop in zip(best, loops, strict=True)]
    simulate, network, training = best
    return {
        "simulate_per_second": simulate,
        "model_step_per_second": network,
        "train_per_second": training,
        "simulation_share": max(0.0, 1.0 - training / network),
    }


def _data(config: Config) -> Data:
    return Data(library=str(config.library), split="ool_disjoint", preset=config.preset)


def _rate(loop: Callable[[int], None], batch: int, seconds: float) -> float:
    """Patterns a second of a loop that takes at least so long."""
    steps, taken = 1, 0.0
    while True:
        start = time.perf_counter()
        loop(steps)
        taken = time.perf_counter() - start
        if taken >= seconds:
            return batch * steps / taken
        steps = max(2 * steps, int(1.2 * steps * seconds / max(taken, 1e-6)))


def _simulation(run: Run) -> Callable[[int], None]:
    key = run_keys(run.config.seed)[0]

    @jax.jit
    def patterns(stream: Any, step: Any) -> Any:
        return network_input(draw_batch(stream, key, step, 0, 0))

    def loop(steps: int) -> None:
        made = None
        for step in range(steps):
            made = patterns(run.stream, jnp.asarray(step))
        jax.block_until_ready(made)

    return loop


def _network_step(run: Run) -> Callable[[int], None]:
    """Forward, backward and update on one stored batch."""
    config = run.config
    key, dropout_key = run_keys(config.seed)
    batch = run.stream.batch(key, 0)
    x, wanted = network_input(batch), truth(run.stream, batch, config.targets)
    loss_of_target = run.losses[config.targets[0]]

    @functools.partial(jax.jit, donate_argnums=(0,))
    def step(state: TrainState, x: Any, wanted: Any) -> TrainState:
        def loss_of(parameters: Any) -> Any:
            dropout = jax.random.fold_in(dropout_key, state.step)
            made, statistics = answers(run.definition, parameters, state.network.statistics, x, config.targets, dropout)
            return jnp.mean(loss_of_target(made[config.targets[0]], wanted)), statistics

        gradient, statistics = jax.grad(loss_of, has_aux=True)(state.network.parameters)
        change, moments = run.optimizer.update(gradient, state.moments, state.network.parameters)
        network = Network(optax.apply_updates(state.network.parameters, change), statistics, state.network.average)
        return TrainState(state.step + 1, network, moments)

    state = jax.tree.map(jnp.copy, run.state)

    def loop(steps: int) -> None:
        nonlocal state
        for _ in range(steps):
            state = step(state, x, wanted[config.targets[0]])
        jax.block_until_ready(state)

    return loop


def _training(run: Run) -> Callable[[int], None]:
    step = make_step(run.definition, run.optimizer, run.losses, run.config, run.mesh)
    state, totals = jax.tree.map(jnp.copy, run.state), no_totals()

    def loop(steps: int) -> None:
        nonlocal state, totals
        for _ in range(steps):
            state, totals = step(state, totals, run.stream)
        jax.block_until_ready(state)

    return loop


def measure_all(batch: int, config: Config) -> dict[str, Any]:
    """Rates of every network, those of the first at the top, and what they depend on."""
    library = read_library(config.library)
    rows = {
        model: measure(library, model, batch, config)
        for model in tqdm(config.models, desc="networks", disable=None, leave=False)
    }
    return rows[config.models[0]] | {
        "models": rows,
        "batch": batch,
        "preset": config.preset,
        "structures": len(library),
        "device": str(jax.devices()[0].device_kind),
        "cores": os.cpu_count(),
        "load_average": os.getloadavg()[0],
        "jax": jax.__version__,
    }


def table(results: dict[str, Any]) -> str:
    """The rates as a Markdown table."""
    lines = [
        "| network | simulated patterns/s | network step | both in one step | share of simulation |",
        "|---|---|---|---|---|",
    ]
    for name, row in results["models"].items():
        rates = " | ".join(f"{row[key]:,.0f}" for key in ("simulate_per_second", "model_step_per_second", "train_per_second"))
        lines.append(f"| {name} | {rates} | {100 * row['simulation_share']:.0f} % |")
    lines.append("")
    lines.append(
        f"{results['structures']:,} structures, preset {results['preset']}, batch {results['batch']}, float32, "
        f"{results['device']}, {results['cores']} cores, load {results['load_average']:.1f}."
    )
    return "\n".join(lines)


def main() -> None:
    """Measures, prints a table and writes JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--library", type=Path, help="structure library (default: the bundled one)")
    parser.add_argument("--models", nargs="+", metavar="NAME", help="networks (default: cnn11 cnn4 powdernet)")
    parser.add_argument("--batch", type=positive, help="patterns a step")
    parser.add_argument(
        "--json", type=json_path, metavar="FILE", help="write the numbers here; those of the first network stand at the top"
    )
    parser.add_argument("--table", action="store_true", help="only write the README's table of the results.json that is there")
    parser.add_argument("--smoke", action="store_true", help="the smallest measurement that runs")
    given = parser.parse_args()
    config = SMOKE if given.smoke else CONFIG
    config = dataclasses.replace(config, library=given.library or config.library, models=tuple(given.models or config.models))
    batch = given.batch or (config.batch if jax.default_backend() == "cpu" else config.accelerator_batch)
    here = Path(__file__).parent
    try:
        if given.table:
            write_table(here / "README.md", table(json.loads((here / "results.json").read_text(encoding="utf-8"))))
            return
        keep_freed_memory()  # as `simxrd train` does
        results = measure_all(batch, config)
        print(table(results))
        if given.json:
            write_json(given.json, results)
    except (InputError, jax.errors.JaxRuntimeError) as error:  # the latter where a network does not fit the device
        raise SystemExit(f"training_speed: {device_error(error) or error}") from None
