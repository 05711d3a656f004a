"""Patterns per second of the forward model under the laboratory preset, its gradient's cost, and peers in the same run.

A pattern here is the whole of it: drawn conditions (grain size, microstrain, strain, texture, displacement parameter,
widths, aberrations), peaks, background and Poisson noise. The first rows have one emission line and no axial divergence;
the row `doublet_axial` has the preset as it is.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
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

from experiments.json_file import json_path, write_json
from experiments.simulator_speed.config import CONFIG, Config
from simxrd_jax.conditions import build
from simxrd_jax.constants import RADIATIONS
from simxrd_jax.crystal.build import stack
from simxrd_jax.crystal.reflections import bucket_size
from simxrd_jax.crystal.structure import CrystalStructure
from simxrd_jax.crystal.structure_factor import f_squared
from simxrd_jax.diffraction.settings import REFINEMENT, TRAINING, Settings
from simxrd_jax.diffraction.simulate import simulate
from simxrd_jax.library.store import Library, read_library
from simxrd_jax.library.stream import make_stream
from simxrd_jax.phases import LoadedPhase, load_phase_for
from simxrd_jax.presets import LABORATORY, Preset, sample
from simxrd_jax.types import Grid

DATA = Path(__file__).parents[2] / "datasets" / "mp_library.simxrd"
ONE_LINE = dataclasses.replace(
    LABORATORY,
    name="laboratory, one line, no axial term",
    radiation=RADIATIONS["SimXRD"],
    drawn={k: v for k, v in LABORATORY.drawn.items() if not k.startswith("axial")},
)
FIRST_PATTERN_CIF = Path(__file__).parents[2] / "tests" / "data" / "cifs" / "LaB6.cif"


def seconds(call: Callable[[int], Any], repeats: int) -> float:
    """Fastest of several timed calls after one that compiles."""
    jax.block_until_ready(call(0))
    times = []
    for i in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(call(i + 1))
        times.append(time.perf_counter() - start)
    return min(times)


def rate(library: Library, preset: Preset, settings: Settings, mode: str, config: Config) -> float:
    """Patterns per second of a stream over all structures of the library."""
    stream = make_stream(library, preset, batch=config.batch, mode=mode, settings=settings, chunk=config.chunk)
    return config.batch / seconds(lambda i: stream.batch(jax.random.key(config.seed), i), config.repeats)


def gradient_cost(library: Library, preset: Preset, config: Config) -> float:
    """Time of value and gradient over time of the value, for the gradient of a random projection of the noise-free pattern
    with respect to every condition, the lattice and all |F|^2."""
    grid, settings = preset.grid(), preset.settings(accuracy=TRAINING)
    phases = _phases_of_one_length(library, preset, config)
    crystals = jax.tree.map(lambda v: jnp.asarray(v, jnp.float32), stack([p.crystal for p in phases]))
    reflections = stack([p.reflections for p in phases])
    values = jax.jit(jax.vmap(f_squared))(crystals, reflections.hkl)
    weights = jnp.asarray(np.random.default_rng(1).normal(size=grid.size), jnp.float32)

    def projection(values, lattice, f_squared, crystal, reflections):
        specimen, instrument, background, _ = build(values, preset.radiation)
        pattern = simulate(
            crystal.replace(lattice=lattice), reflections, specimen, instrument, grid, background, settings, f_squared
        )
        return jnp.vdot(weights, pattern.intensity)

    def chunked(function):
        def one(crystal, reflections, f_squared, key):
            return function(sample(preset, key=key), crystal.lattice, f_squared, crystal, reflections)

        def run(key):
            inputs = (crystals, reflections, values, jax.random.split(key, len(phases)))
            chunks = jax.tree.map(lambda v: v.reshape(-1, config.gradient_chunk, *v.shape[1:]), inputs)
            return jax.lax.map(lambda parts: jax.vmap(one)(*parts), chunks)

        return jax.jit(run)

    forward = chunked(projection)
    gradient = chunked(jax.value_and_grad(projection, argnums=(0, 1, 2)))
    # Taken in turns, so that a change of the machine's load meets both alike.
    times = [[seconds(lambda i, f=f: f(jax.random.key(i)), 2) for f in (forward, gradient)] for _ in range(config.repeats)]
    return min(t[1] for t in times) / min(t[0] for t in times)


def _phases_of_one_length(library: Library, preset: Preset, config: Config) -> list[LoadedPhase]:
    """Structures, with repeats, whose reflection lists are padded to the most frequent length."""
    loaded = [load_phase_for(library.structure(i), preset) for i in range(config.gradient_structures)]
    lengths = [bucket_size(len(p.reflections.hkl)) for p in loaded]
    length = max(set(lengths), key=lengths.count)
    alike = [p for p, n in zip(loaded, lengths, strict=True) if n == length]
    return [alike[i % len(alike)] for i in range(config.batch)]


def first_pattern_seconds() -> float:
    """From process start to the first pattern of a CIF on standard output, imports and compilation included."""
    start = time.perf_counter()
    command = [sys.executable, "-m", "simxrd_jax", "simulate", str(FIRST_PATTERN_CIF), "--preset", "laboratory"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - start


def peak_memory_mib(config: Config) -> float:
    """Peak resident memory of a fresh process that simulates one batch."""
    code = f"from experiments.simulator_speed.main import memory_probe; memory_probe({config.batch})"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return float(done.stdout.strip().splitlines()[-1])


def memory_probe(batch: int) -> None:
    """Runs one batch from the atoms and prints the process's peak memory in MiB."""
    stream = make_stream(read_library(DATA), ONE_LINE, batch=batch, mode="atoms")
    jax.block_until_ready(stream.batch(jax.random.key(0), 0))
    print(_high_water_mib())


def _high_water_mib() -> float:
    """Peak resident memory of this program. The kernel's `ru_maxrss` would count what its parent held before it, too."""
    status = Path("/proc/self/status")
    if status.exists():
        return int(next(line for line in status.read_text().splitlines() if line.startswith("VmHWM")).split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def pymatgen_rate(structures: list[CrystalStructure], grid: Grid) -> float:
    """pymatgen's XRDCalculator plus a Voigt sum in numpy, one process."""
    from pymatgen.analysis.diffraction.xrd import XRDCalculator
    from pymatgen.core import Lattice, Structure
    from scipy.special import voigt_profile

    two_theta = np.asarray(grid.two_theta)
    calculator = XRDCalculator(wavelength="CuKa")  # 1.54184 A
    inputs = []
    for s in structures:
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


def pysimxrd_rate(structures: list[CrystalStructure]) -> float | None:
    """The published simulator's package, when it is installed beside the project; one process."""
    if importlib.util.find_spec("Pysimxrd") is None:
        return None
    from ase import Atoms
    from ase.db import connect
    from Pysimxrd import generator  # pyright: ignore[reportMissingImports]

    name = f"speed_{os.getpid()}.db"
    try:
        database = connect(name)
        for s in structures:
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
    parser.add_argument("--json", type=json_path, metavar="FILE", help="write the numbers here")
    parser.add_argument(
        "--repeats", type=int, default=CONFIG.repeats, help="timed calls, fastest counts (default %(default)s)"
    )
    parser.add_argument("--chunk", type=int, help="patterns mapped at once (default: the library's choice)")
    parser.add_argument("--no-peers", action="store_true", help="leave the other programs out")
    arguments = parser.parse_args()
    config = dataclasses.replace(CONFIG, repeats=arguments.repeats, chunk=arguments.chunk)

    library = read_library(DATA)
    training, accurate = ONE_LINE.settings(), ONE_LINE.settings(accuracy=REFINEMENT)
    cases = {
        "patterns_per_second_cached": (ONE_LINE, training, "cached"),
        "patterns_per_second_cached_accurate": (ONE_LINE, accurate, "cached"),
        "patterns_per_second_atoms": (ONE_LINE, training, "atoms"),
        "patterns_per_second_doublet_axial": (LABORATORY, LABORATORY.settings(), "cached"),
    }
    bar = tqdm(cases.items(), desc="streams", disable=None, leave=False)
    results: dict[str, Any] = {name: rate(library, *case, config) for name, case in bar}
    results |= {
        "gradient_cost_ratio": gradient_cost(library, ONE_LINE, config),
        "first_pattern_seconds": first_pattern_seconds(),
        "peak_memory_mib": peak_memory_mib(config),
    }
    peers: dict[str, float | None] = {}
    if not arguments.no_peers:
        structures = [library.structure(i) for i in range(config.peer_structures)]
        peers["pymatgen + numpy Voigt"] = pymatgen_rate(structures, ONE_LINE.grid())
        peers["Pysimxrd"] = pysimxrd_rate(structures)
    results["peer_patterns_per_second"] = peers
    results["ratio_to"] = {k: results["patterns_per_second_cached"] / v for k, v in peers.items() if v}
    results |= {
        "points": ONE_LINE.grid().size,
        "structures": len(library),
        "mean_unique_reflections": float(np.diff(library.first_reflection).mean()),
        "batch": config.batch,
        "device": str(jax.devices()[0].device_kind),
        "cores": os.cpu_count(),
        "jax": jax.__version__,
        "python": platform.python_version(),
        "load_average": os.getloadavg()[0],
    }
    print(table(results))
    if arguments.json:
        write_json(arguments.json, results)


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
    structures = f"{results['structures']} Materials Project structures, {results['mean_unique_reflections']:.0f} reflections"
    machine = f"{results['device']}, {results['cores']} cores, load {results['load_average']:.1f}"
    run = f"float32, batches of {results['batch']}, {machine}"
    lines.append(f"{structures} on average, {results['points']} points, {run}.")
    return "\n".join(lines)
