"""Patterns per second of batches simulated on the fly, by preset, mode and batch size.

Each row is a stream as training uses it: structures drawn from the library, conditions from the preset, |F|^2 cached or
computed from the atoms, all effects of the preset, noise, scaling. Padding is the share of reflection places that the blocks
hold and no reflection fills.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from experiments.json_file import json_path, write_json
from experiments.stream_speed.config import CONFIG, SMOKE, Config
from simxrd_jax.errors import InputError
from simxrd_jax.library.arrays import LibraryArrays
from simxrd_jax.library.store import Library, read_library
from simxrd_jax.library.stream import make_stream
from simxrd_jax.presets import get_preset


def measure(library: Library, preset: str, mode: str, batch: int, arrays: LibraryArrays | None, config: Config) -> Any:
    """One row: rates, padding, compilations; and the arrays, to be shared by the next batch size."""
    stream = make_stream(library, get_preset(preset), batch=batch, mode=mode, chunk=config.chunk, arrays=arrays)
    key = jax.random.key(config.seed)
    compilations = _count_compilations(lambda: jax.block_until_ready(stream.batch(key, 0)))
    again = _count_compilations(lambda: jax.block_until_ready(stream.batch(jax.random.key(config.seed + 1), 1)))
    seconds, shares = [], []
    for step in range(1, config.repeats + 1):
        start = time.perf_counter()
        jax.block_until_ready(stream.batch(key, step))
        seconds.append(time.perf_counter() - start)
        used, slots = stream.reflection_slots(stream.draw(key, step))
        shares.append(1.0 - int(used) / int(slots))
    row = {
        "preset": preset,
        "mode": mode,
        "batch": batch,
        "chunk": stream.options.chunk,
        "per_second": batch / min(seconds),
        "median_per_second": batch / float(np.median(seconds)),
        "padding_share": float(np.mean(shares)),
        "first_batch_compilations": compilations,
        "later_compilations": again,
        "library_bytes_on_device": stream.arrays.nbytes,
    }
    return row, stream.arrays


def _count_compilations(call: Any) -> int:
    """How many programs a call compiles, by JAX's own events."""
    events: list[str] = []
    listen = lambda event, *_, **__: events.append(event)  # noqa: E731
    jax.monitoring.register_event_duration_secs_listener(listen)
    call()
    jax.monitoring.unregister_event_duration_listener(listen)
    return sum(event == "/jax/core/compile/backend_compile_duration" for event in events)


def run(config: Config) -> dict[str, Any]:
    """All rows and the figures that stand for them."""
    start = time.perf_counter()
    library = read_library(config.library)
    opening = time.perf_counter() - start
    batches = config.batches if jax.default_backend() == "cpu" else config.accelerator_batches
    rows = []
    with tqdm(total=len(config.cases) * len(batches), desc="streams", unit="row", disable=None, leave=False) as bar:
        for preset, mode in config.cases:
            arrays = None
            for batch in batches:
                row, arrays = measure(library, preset, mode, batch, arrays, config)
                rows.append(row)
                bar.update()
    best = {
        (preset, mode): max((r for r in rows if (r["preset"], r["mode"]) == (preset, mode)), key=lambda r: r["per_second"])
        for preset, mode in config.cases
    }
    results: dict[str, Any] = {f"{p}_{m}_per_second": row["per_second"] for (p, m), row in best.items()}
    main_row = best[config.cases[0]]
    return results | {
        "padding_share": main_row["padding_share"],
        "compilations": main_row["first_batch_compilations"],
        "later_compilations": max(r["later_compilations"] for r in rows),
        "library_bytes_on_device": max(r["library_bytes_on_device"] for r in rows),
        "library": library.meta.name,
        "structures": len(library),
        "opening_seconds": opening,
        "device": str(jax.devices()[0].device_kind),
        "cores": os.cpu_count(),
        "load_average": os.getloadavg()[0],
        "jax": jax.__version__,
        "rows": rows,
    }


def table(results: dict[str, Any]) -> str:
    """The rows as a Markdown table."""
    lines = ["| preset | mode | batch | patterns/s, best | median | padding |", "|---|---|---|---|---|---|"]
    for r in results["rows"]:
        rates = f"{r['per_second']:,.0f} | {r['median_per_second']:,.0f}"
        lines.append(f"| {r['preset']} | {r['mode']} | {r['batch']} | {rates} | {100 * r['padding_share']:.0f} % |")
    lines.append("")
    size = f"{results['structures']:,} structures, {results['library_bytes_on_device'] / 2**20:.0f} MiB on the device at most"
    compiled = f"{results['compilations']} compilation for a stream's first batch, {results['later_compilations']} after"
    machine = f"{results['device']}, {results['cores']} cores, load {results['load_average']:.1f}"
    lines.append(f"{size}, opened in {results['opening_seconds']:.2f} s; {compiled}; {machine}.")
    return "\n".join(lines)


def main() -> None:
    """Measures, prints a table and writes JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--library", type=Path, default=CONFIG.library, help="library file (default: the bundled one)")
    parser.add_argument("--json", type=json_path, metavar="FILE", help="write the numbers here")
    parser.add_argument("--batch", type=int, action="append", help="samples a batch; may be repeated")
    parser.add_argument("--chunk", type=int, help="samples mapped at once (default: the library's choice)")
    parser.add_argument("--repeats", type=int, help="timed batches of each row")
    parser.add_argument("--smoke", action="store_true", help="one small row")
    given = parser.parse_args()
    config = dataclasses.replace(SMOKE if given.smoke else CONFIG, library=given.library, chunk=given.chunk)
    if given.batch:
        config = dataclasses.replace(config, batches=tuple(given.batch), accelerator_batches=tuple(given.batch))
    if given.repeats:
        config = dataclasses.replace(config, repeats=given.repeats)
    try:
        results = run(config)
    except InputError as error:
        raise SystemExit(f"stream_speed: {error}") from None
    print(table(results))
    if given.json:
        write_json(given.json, results)
