"""Patterns per second of the forward model under the laboratory preset, its gradient's cost, and peers in the same run.

A pattern here is the whole of it: drawn conditions (grain size, microstrain, strain, texture, displacement parameter,
widths, aberrations), peaks, background and Poisson noise. The first rows have one emission line and no axial divergence;
the row `doublet_axial` has the preset as it is.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import json
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from experiments.simulator_speed.config import CONFIG, Config
from simxrd_jax.batches import PhaseBatch, group_phases, simulate_batch
from simxrd_jax.conditions import build
from simxrd_jax.constants import RADIATIONS
from simxrd_jax.diffraction.settings import REFINEMENT, TRAINING, Settings
from simxrd_jax.diffraction.simulate import simulate
from simxrd_jax.presets import LABORATORY, Preset, sample
from simxrd_jax.types import Grid

DATA = Path(__file__).parents[2] / "datasets" / "mp_sample.npz"
ONE_LINE = dataclasses.replace(
    LABORATORY,
    name="laboratory, one line, no axial term",
    radiation=RADIATIONS["SimXRD"],
    drawn={k: v for k, v in LABORATORY.drawn.items() if not k.startswith("axial")},
)
FIRST_PATTERN_CIF = Path(__file__).parents[2] / "tests" / "data" / "cifs" / "LaB6.cif"


def load_structures(count: int, preset: Preset) -> tuple[list[Any], list[Any]]:
    """Materials Project structures and their (crystal, reflections) under a preset."""
    from simxrd_jax.errors import InputError
    from simxrd_jax.io.structures import read_npz
    from simxrd_jax.phases import load_phase_for

    structures, phases = [], []
    library = read_npz(DATA)
    for i in tqdm(range(min(count, len(library))), desc="structures", disable=None):
        try:
            loaded = load_phase_for(library[i], preset)
        except InputError:
            continue  # a few actinides have no dispersion table
        structures.append(loaded.structure)
        phases.append((loaded.crystal, loaded.reflections))
    return structures, phases


def seconds(call: Callable[[int], Any], repeats: int) -> float:
    """Fastest of several timed calls after one that compiles."""
    jax.block_until_ready(call(0))
    times = []
    for i in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(call(i + 1))
        times.append(time.perf_counter() - start)
    return min(times)


def resample(group: PhaseBatch, size: int, rng: np.random.Generator) -> PhaseBatch:
    """A batch of `size` structures drawn from a group with replacement."""
    chosen = rng.integers(group.size, size=size)
    return jax.tree.map(lambda v: v[chosen], group)


def rate(groups: list[PhaseBatch], preset: Preset, settings: Settings, cached: bool, config: Config, label: str) -> float:
    """Patterns per second over the structures' own mixture of list lengths."""
    grid, rng = preset.grid(), np.random.default_rng(config.seed)
    total = 0.0
    for group in tqdm(groups, desc=label, disable=None, leave=False):
        batch = resample(group, config.batch, rng)
        run = jax.jit(lambda b, k: simulate_batch(b, preset, grid, settings, cached, config.chunk, key=k)[0].intensity)
        total += group.size * seconds(lambda i: run(batch, jax.random.key(i)), config.repeats) / config.batch  # noqa: B023
    return sum(g.size for g in groups) / total


def gradient_cost(groups: list[PhaseBatch], preset: Preset, config: Config) -> float:
    """Time of value and gradient over time of the value, for the gradient of a random projection of the noise-free pattern
    with respect to every condition, the lattice and all |F|^2."""
    grid, settings = preset.grid(), preset.settings(accuracy=TRAINING)
    group = max(groups, key=lambda g: g.size)
    batch = resample(group, config.batch, np.random.default_rng(config.seed))
    weights = jnp.asarray(np.random.default_rng(1).normal(size=grid.size), jnp.float32)

    def projection(values, lattice, f_squared, crystal, reflections):
        specimen, instrument, background, _ = build(values, preset.radiation)
        pattern = simulate(
            crystal.replace(lattice=lattice), reflections, specimen, instrument, grid, background, settings, f_squared
        )
        return jnp.vdot(weights, pattern.intensity)

    def chunked(function):
        def run(batch, key):
            keys = jax.random.split(key, config.batch)
            inputs = (batch.crystals, batch.reflections, batch.f_squared, keys)
            chunks = jax.tree.map(lambda v: v.reshape(-1, 32, *v.shape[1:]), inputs)

            def one(crystal, reflections, f_squared, key):
                values = sample(preset, key=key)
                return function(values, crystal.lattice, f_squared, crystal, reflections)

            return jax.lax.map(lambda parts: jax.vmap(one)(*parts), chunks)

        return jax.jit(run)

    forward = chunked(projection)
    gradient = chunked(jax.value_and_grad(projection, argnums=(0, 1, 2)))
    # Taken in turns, so that a change of the machine's load meets both alike.
    times = [
        [seconds(lambda i, f=f: f(batch, jax.random.key(i)), 2) for f in (forward, gradient)] for _ in range(config.repeats)
    ]
    return min(t[1] for t in times) / min(t[0] for t in times)


def first_pattern_seconds() -> float:
    """From process start to the first pattern of a CIF on standard output, imports and compilation included."""
    start = time.perf_counter()
    command = [sys.executable, "-m", "simxrd_jax.cli", "simulate", str(FIRST_PATTERN_CIF), "--preset", "laboratory"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - start


def peak_memory_mib(config: Config) -> float:
    """Peak resident memory of a fresh process that simulates one batch."""
    code = f"from experiments.simulator_speed.main import memory_probe; memory_probe({config.batch})"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return float(done.stdout.strip().splitlines()[-1])


def memory_probe(batch_size: int) -> None:
    """Runs one batch of the longest reflection lists and prints the process's peak memory in MiB."""
    _, phases = load_structures(128, ONE_LINE)
    groups = group_phases(phases)
    batch = resample(groups[-1], batch_size, np.random.default_rng(0))
    grid, settings = ONE_LINE.grid(), ONE_LINE.settings()
    run = jax.jit(lambda b, k: simulate_batch(b, ONE_LINE, grid, settings, key=k)[0].intensity)
    jax.block_until_ready(run(batch, jax.random.key(0)))
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def pymatgen_rate(structures: list[Any], grid: Grid, config: Config) -> float:
    """pymatgen's XRDCalculator plus a Voigt sum in numpy, one process."""
    from pymatgen.analysis.diffraction.xrd import XRDCalculator
    from pymatgen.core import Lattice, Structure
    from scipy.special import voigt_profile

    two_theta = np.asarray(grid.two_theta)
    calculator = XRDCalculator(wavelength="CuKa")  # 1.54184 A
    inputs = []
    for s in structures[: config.peer_structures]:
        numbers = [name.rstrip("+-0123456789") for name in s.atoms.species]
        kinds = [numbers[int(np.argmax(row))] for row in s.atoms.occupancy]
        frac = np.concatenate([s.atoms.frac + shift for shift in s.atoms.centring])
        inputs.append(Structure(Lattice(s.lattice), kinds * len(s.atoms.centring), frac))
    start, total = time.perf_counter(), 0.0
    for structure in tqdm(inputs, desc="pymatgen", disable=None, leave=False):
        peaks = calculator.get_pattern(structure, two_theta_range=(10, 80))
        profile = voigt_profile(two_theta[:, None] - np.asarray(peaks.x)[None], 0.035, 0.03)
        total += float((profile @ np.asarray(peaks.y)).max())
    return len(inputs) / (time.perf_counter() - start)


def pysimxrd_rate(structures: list[Any], config: Config) -> float | None:
    """The published simulator's package, when it is installed beside the project; one process."""
    if importlib.util.find_spec("Pysimxrd") is None:
        return None
    from ase import Atoms
    from ase.db import connect
    from Pysimxrd import generator  # pyright: ignore[reportMissingImports]

    name = f"speed_{os.getpid()}.db"
    try:
        database = connect(name)
        for s in structures[: config.peer_structures]:
            numbers = [name.rstrip("+-0123456789") for name in s.atoms.species]
            kinds = [numbers[int(np.argmax(row))] for row in s.atoms.occupancy]
            frac = np.concatenate([s.atoms.frac + shift for shift in s.atoms.centring]) % 1.0
            database.write(Atoms(kinds * len(s.atoms.centring), scaled_positions=frac, cell=s.lattice, pbc=True))
        start = time.perf_counter()
        for i in tqdm(range(len(database)), desc="Pysimxrd", disable=None, leave=False):
            generator.parser(database, i + 1)
        return len(database) / (time.perf_counter() - start)
    finally:
        Path(name).unlink(missing_ok=True)


def main() -> None:
    """Measures, prints a table and writes JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the numbers here")
    parser.add_argument("--structures", type=int, default=CONFIG.structures, help="structures taken (default %(default)s)")
    parser.add_argument(
        "--repeats", type=int, default=CONFIG.repeats, help="timed calls, fastest counts (default %(default)s)"
    )
    parser.add_argument("--chunk", type=int, help="patterns mapped at once (default: the library's choice)")
    parser.add_argument("--no-peers", action="store_true", help="leave the other programs out")
    arguments = parser.parse_args()
    config = dataclasses.replace(CONFIG, structures=arguments.structures, repeats=arguments.repeats, chunk=arguments.chunk)

    structures, phases = load_structures(config.structures, ONE_LINE)
    groups = group_phases(phases)
    accurate = ONE_LINE.settings(accuracy=REFINEMENT)
    _, doublet_phases = load_structures(config.structures, LABORATORY)
    doublet = group_phases(doublet_phases)
    results: dict[str, Any] = {
        "patterns_per_second_cached": rate(groups, ONE_LINE, ONE_LINE.settings(), True, config, "cached"),
        "patterns_per_second_cached_accurate": rate(groups, ONE_LINE, accurate, True, config, "cached, accurate"),
        "patterns_per_second_atoms": rate(groups, ONE_LINE, ONE_LINE.settings(), False, config, "atoms"),
        "patterns_per_second_doublet_axial": rate(doublet, LABORATORY, LABORATORY.settings(), True, config, "doublet, axial"),
        "gradient_cost_ratio": gradient_cost(groups, ONE_LINE, config),
        "first_pattern_seconds": first_pattern_seconds(),
        "peak_memory_mib": peak_memory_mib(config),
    }
    peers: dict[str, float | None] = {}
    if not arguments.no_peers:
        peers["pymatgen + numpy Voigt"] = pymatgen_rate(structures, ONE_LINE.grid(), config)
        peers["Pysimxrd"] = pysimxrd_rate(structures, config)
    results["peer_patterns_per_second"] = peers
    results["ratio_to"] = {k: results["patterns_per_second_cached"] / v for k, v in peers.items() if v}
    lengths = [len(r.hkl) for _, r in phases]
    results |= {
        "points": ONE_LINE.grid().size,
        "structures": len(phases),
        "mean_unique_reflections": float(np.mean(lengths)),
        "batch": config.batch,
        "device": str(jax.devices()[0].device_kind),
        "cores": os.cpu_count(),
        "jax": jax.__version__,
        "python": platform.python_version(),
        "load_average": os.getloadavg()[0],
    }
    print(table(results))
    if arguments.json:
        beside = arguments.json.with_name(arguments.json.name + ".part")
        beside.write_text(json.dumps(results, indent=2) + "\n")
        beside.replace(arguments.json)


def table(results: dict[str, Any]) -> str:
    """The numbers as a Markdown table."""
    rows = [
        ("cached &#124;F&#124;^2, training accuracy", "patterns_per_second_cached", "patterns/s"),
        ("cached &#124;F&#124;^2, refinement accuracy", "patterns_per_second_cached_accurate", "patterns/s"),
        ("&#124;F&#124;^2 from the atoms, training accuracy", "patterns_per_second_atoms", "patterns/s"),
        ("K-alpha doublet and axial divergence, cached", "patterns_per_second_doublet_axial", "patterns/s"),
        ("value and gradient over value", "gradient_cost_ratio", "x"),
        ("first pattern from process start", "first_pattern_seconds", "s"),
        ("peak memory of a batch of 256", "peak_memory_mib", "MiB"),
    ]
    lines = ["| what | value |", "|---|---|"]
    lines += [f"| {what} | {results[key]:,.3g} {unit} |" for what, key, unit in rows]
    for peer, value in results["peer_patterns_per_second"].items():
        text = "not installed" if value is None else f"{value:.3g} patterns/s, {results['ratio_to'][peer]:,.0f} times fewer"
        lines.append(f"| {peer}, one process | {text} |")
    lines.append("")
    structures = (
        f"{results['structures']} Materials Project structures, {results['mean_unique_reflections']:.0f} unique reflections"
    )
    machine = f"{results['device']}, {results['cores']} cores, load {results['load_average']:.1f}"
    run = f"float32, batches of {results['batch']}, {machine}"
    lines.append(f"{structures} on average, {results['points']} points, {run}.")
    return "\n".join(lines)
