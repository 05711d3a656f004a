"""What a pattern costs against structures, atoms, reflections, points, batch and devices; and what the largest sets take.

Each axis is a loop over one number with everything else fixed. Structures of a given size are made up: triclinic cells, so
that every reflection is an orbit of its own, with atoms on a shaken grid. The program of a row is compiled before it is timed.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import ase
import jax
import numpy as np
from tqdm import tqdm

from experiments.json_file import write_json
from experiments.scaling.config import CONFIG, HERE, SMOKE, Config
from experiments.scaling.report import draw, write_tables
from simxrd_jax.errors import InputError
from simxrd_jax.export.generate import Request, make_job
from simxrd_jax.export.manifest import Manifest
from simxrd_jax.export.writer import write_set
from simxrd_jax.library.build import build_library, library_of
from simxrd_jax.library.store import Library, read_library
from simxrd_jax.library.stream import make_stream
from simxrd_jax.presets import get_preset

ELEMENTS = ("Si", "O", "Fe", "Ba")
TURNS = 3  # of simulation alone and with writing, one after the other, so that a change of load meets both
PUBLISHED = {"structures": 119_569, "patterns": 4_065_346}  # SimXRD-4M
MILLION = 1_000_000


# --- Structures of a given size --------------------------------------------------------------------------------------------


def triclinic(volume: float, atoms: int, seed: int) -> ase.Atoms:
    """A cell without symmetry: atoms on a shaken grid. Volume in A^3."""
    rng = np.random.default_rng(seed)
    side = math.ceil(atoms ** (1 / 3))
    grid = np.stack(np.meshgrid(*[np.arange(side)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)[:atoms]
    frac = (grid + rng.uniform(0.1, 0.6, grid.shape)) / side
    cell = np.array([[1.0, 0.0, 0.0], [0.13, 1.1, 0.0], [0.21, 0.17, 0.95]])
    cell *= (volume / np.linalg.det(cell)) ** (1 / 3)
    return ase.Atoms([ELEMENTS[i % len(ELEMENTS)] for i in range(atoms)], scaled_positions=frac, cell=cell, pbc=True)


def volume_of(reflections: int, inverse_d: float) -> float:
    """Volume of a triclinic cell with so many pairs of reflections within 1/d. [A^3]"""
    return reflections / (2 * math.pi / 3 * inverse_d**3)


# --- Rates -----------------------------------------------------------------------------------------------------------------


def fastest(call: Callable[[int], Any], repeats: int) -> float:
    """Seconds of the fastest of some calls, after one that compiles."""
    jax.block_until_ready(call(0))
    seconds = []
    for step in range(1, repeats + 1):
        start = time.perf_counter()
        jax.block_until_ready(call(step))
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def against_structures(library: Library, config: Config) -> list[dict[str, float]]:
    """Patterns a second of structures drawn from the first of a library, by one program."""
    stream, rows = make_stream(library, config.preset, batch=config.batch), []
    rng = np.random.default_rng(config.seed)
    for count in sorted({min(count, len(library)) for count in config.structures}):
        draws = rng.integers(count, size=(config.repeats + 1, config.batch))
        seconds = fastest(lambda n: stream.patterns_of(draws[n], jax.random.key(config.seed), n), config.repeats)  # noqa: B023
        rows.append({"structures": count, "per_second": config.batch / seconds})
    return rows


def against_cells(config: Config) -> tuple[list[dict[str, float]], list[dict[str, float]]]:
    """Milliseconds a pattern of cells with more atoms and with more reflections, from stored |F|^2 and from atoms."""
    reach = get_preset(config.preset).inverse_d_bounds()[1]
    sizes = [(n, config.atom_reflections) for n in config.atoms] + [(8, n) for n in config.reflections]
    cells = [triclinic(volume_of(count, reach), atoms, i) for i, (atoms, count) in enumerate(sizes)]
    library = library_of(cells, presets=(config.preset,))
    rows: list[dict[str, float]] = [{"atoms": atoms} for atoms, _ in sizes]
    for mode in ("cached", "atoms"):
        stream = make_stream(library, config.preset, batch=config.batch, mode=mode)
        for i, row in enumerate(rows):
            same = np.full(config.batch, i)
            seconds = fastest(lambda n: stream.patterns_of(same, jax.random.key(config.seed), n), config.repeats)  # noqa: B023
            row["reflections"] = int(stream.arrays.count[i])
            row[f"{mode}_milliseconds"] = 1e3 * seconds / config.batch
    return rows[: len(config.atoms)], rows[len(config.atoms) :]


def against_points(library: Library, config: Config) -> list[dict[str, float]]:
    """Milliseconds a pattern on finer grids of the same range."""
    rows = []
    for points in config.points:
        preset = dataclasses.replace(get_preset(config.preset), two_theta=(10.0, 80.0, 70.0 / (points - 1)))
        stream = make_stream(library, preset, batch=config.batch)
        seconds = fastest(lambda n: stream.batch(jax.random.key(config.seed), n), config.repeats)  # noqa: B023
        rows.append({"points": preset.grid().size, "milliseconds": 1e3 * seconds / config.batch})
    return rows


def against_batch(library: Library, config: Config) -> list[dict[str, float]]:
    """Patterns a second of smaller and greater batches."""
    rows = []
    for size in config.batches:
        stream = make_stream(library, config.preset, batch=size)
        seconds = fastest(lambda n: stream.batch(jax.random.key(config.seed), n), config.repeats)  # noqa: B023
        rows.append({"batch": size, "per_second": size / seconds})
    return rows


def against_devices(config: Config) -> list[dict[str, float]]:
    """Patterns a second of a set made on several simulated devices of the same cores, each count in a process."""
    rows = []
    for devices in config.devices:
        flags = {"XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}", "JAX_PLATFORMS": "cpu"}
        command = [sys.executable, "-m", "experiments.scaling", "--library", str(config.library)]
        command += ["--only-devices", str(config.device_patterns), str(config.batch)]
        run = subprocess.run(command, capture_output=True, text=True, env=os.environ | flags, check=True)
        rows.append(json.loads(run.stdout))
    return rows


def on_these_devices(library: Library, patterns: int, batch: int, config: Config) -> dict[str, float]:
    """The row of `against_devices` of this process."""
    job = make_job(library, Request(config.preset, count=patterns, shard_size=batch))
    seconds = fastest(lambda _: sum(1 for _ in job.blocks([(0, job.places)])), 2)
    return {"devices": jax.local_device_count(), "per_second": patterns / seconds}


# --- Sets ------------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _no_bar(done: int, total: int) -> Iterator[Any]:
    yield tqdm(disable=True)


def writing(library: Library, config: Config) -> dict[str, float]:
    """Seconds of a set simulated alone, and written as array_record too."""
    job = make_job(library, Request(config.preset, count=config.patterns, seed=config.seed))
    next(job.blocks([(0, 1)]))  # compiles
    alone, written, size = [], [], 0
    for _ in range(TURNS):
        start = time.perf_counter()
        for _ in job.blocks([(0, job.places)]):
            pass
        alone.append(time.perf_counter() - start)
        with tempfile.TemporaryDirectory() as folder:
            start = time.perf_counter()
            made = write_set(job, Path(folder) / "set", "array_record", bar=_no_bar)
            written.append(time.perf_counter() - start)
            size = _bytes(made)
    return {
        "patterns": config.patterns,
        "simulation_seconds": min(alone),
        "array_record_seconds": min(written),
        "writing_share": min(written) / min(alone) - 1.0,
        "bytes_per_pattern": size / config.patterns,
    }


def _bytes(manifest: Manifest) -> int:
    return sum(shard.bytes for shard in manifest.shards)


def published_set(library: Library, config: Config) -> dict[str, float]:
    """What SimXRD-4M's structures and patterns take here: measured on a part, extrapolated."""
    job = make_job(library, Request("simxrd", count=config.patterns, seed=config.seed))
    next(job.blocks([(0, 1)]))  # compiles
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        made = write_set(job, Path(folder) / "set", "array_record", bar=_no_bar)
        seconds = time.perf_counter() - start
    start = time.perf_counter()
    built = build_library([config.build_source], limit=config.build_limit, workers=1)
    build_seconds = time.perf_counter() - start
    cores = os.cpu_count() or 1
    return {
        "measured_patterns": config.patterns,
        "patterns_seconds": seconds,
        "measured_structures": len(built),
        "build_seconds_one_core": build_seconds,
        "hours_of_patterns": PUBLISHED["patterns"] / config.patterns * seconds / 3600,
        "gigabytes_of_patterns": PUBLISHED["patterns"] / config.patterns * _bytes(made) / 1e9,
        "minutes_of_build": PUBLISHED["structures"] / len(built) * build_seconds / cores / 60,
        "cores": cores,
    }


def memory(library: Library, config: Config) -> dict[str, float]:
    """Bytes of a structure in the file and on the device, and of a million of them."""
    of_file = config.library.stat().st_size / len(library)
    found: dict[str, float] = {"structures": len(library), "file_bytes": of_file}
    for mode in ("cached", "atoms"):
        stream = make_stream(library, config.preset, batch=config.batch, mode=mode)
        found[f"{mode}_bytes"] = stream.arrays.nbytes / len(library)
    return found | {f"million_{name[:-6]}_gigabytes": found[name] * MILLION / 1e9 for name in list(found)[1:]}


# --- All -------------------------------------------------------------------------------------------------------------------


def run(config: Config) -> dict[str, Any]:
    """All axes."""
    library = read_library(config.library)
    results: dict[str, Any] = {}
    parts: Sequence[tuple[str, Callable[[], Any]]] = (
        ("structures", lambda: against_structures(library, config)),
        ("cells", lambda: dict(zip(("atoms", "reflections"), against_cells(config), strict=True))),
        ("points", lambda: against_points(library, config)),
        ("batch", lambda: against_batch(library, config)),
        ("devices", lambda: against_devices(config)),
        ("writing", lambda: writing(library, config)),
        ("published", lambda: published_set(library, config)),
        ("memory", lambda: memory(library, config)),
    )
    for name, make in tqdm(parts, desc="axes", disable=None, leave=False):
        results[name] = make()
    return results | {
        "library": library.meta.name,
        "preset": config.preset,
        "batch_size": config.batch,
        "device": str(jax.devices()[0].device_kind),
        "cores": os.cpu_count(),
        "load_average": os.getloadavg()[0],
        "jax": jax.__version__,
        "accelerator": "not measured",
    }


def main() -> None:
    """Measures, and writes results.json, the figure and the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--library", type=Path, default=CONFIG.library, help="library file (default: the bundled one)")
    parser.add_argument("--output", type=Path, default=HERE, help="folder of what is written (default: the experiment's own)")
    parser.add_argument("--smoke", action="store_true", help="the smallest numbers")
    parser.add_argument("--report", action="store_true", help="draw and write the tables again from results.json")
    parser.add_argument("--only-devices", type=int, nargs=2, metavar=("PATTERNS", "BATCH"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    config = dataclasses.replace(SMOKE if given.smoke else CONFIG, library=given.library)
    try:
        if given.only_devices:
            patterns, batch = given.only_devices
            print(json.dumps(on_these_devices(read_library(config.library), patterns, batch, config)))
            return
        file = given.output / "results.json"
        if not given.report:
            write_json(file, run(config))
        results = json.loads(file.read_text())
        draw(results, given.output / "scaling.png")
        write_tables(results, given.output / "README.md")
    except InputError as error:
        raise SystemExit(f"scaling: {error}") from None
