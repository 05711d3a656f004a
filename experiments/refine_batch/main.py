"""Host zone. A simulated series of patterns with known truth, refined many at a time: bias, coverage of uncertainties, speed.

Each pattern is corundum at another temperature (cell, grain size, strain, displacement and scale change along the series) with
Poisson noise. Every fit starts from the same values.
"""

from __future__ import annotations

import argparse
import pathlib
import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib
import matplotlib.figure
import numpy as np
from tqdm import tqdm

from experiments.json_file import json_path, write_json
from simxrd_jax.io.cif import read_cif
from simxrd_jax.io.xy import write_together
from simxrd_jax.plots import figure_bytes
from simxrd_jax.refine.build import InstrumentStart, Model, PhaseStart, make_model
from simxrd_jax.refine.fit import Refinement, refine_many
from simxrd_jax.refine.model import pattern
from simxrd_jax.refine.plans import Plan, cumulative
from simxrd_jax.train.suite import markdown, positive, write_table

FOLDER = pathlib.Path(__file__).parent
TWO_THETA = np.round(np.arange(20.0, 80.001, 0.04), 6)
PLAN = cumulative(
    "series",
    {
        "scale, background": ("@scale", "@background"),
        "cell, displacement": ("@cell", "instrument.displacement"),
        "widths": ("*.grain_size", "*.microstrain"),
        "atoms": ("@coordinate", "*.sites.*.biso"),
    },
)
BACKGROUND = {"background.chebyshev.0": 150.0, "background.chebyshev.1": -60.0, "background.chebyshev.2": 25.0}
TOP = 8000.0  # counts at the highest point of the first pattern
BATCHES = (1, 8, 64)


def model_of_series() -> Model:
    """Corundum on 1,501 points, Cu K-alpha."""
    crystal = read_cif(FOLDER.parents[1] / "datasets" / "cifs" / "Al2O3.cif")
    start = InstrumentStart({"caglioti_w": 0.006}, has_axial_divergence=False)
    return make_model([PhaseStart("Al2O3", crystal)], "CuKa", TWO_THETA, instrument=start, background_terms=3)


def truths(model: Model, count: int) -> np.ndarray:
    """Values of every parameter for each pattern, [pattern, parameter]."""
    values = np.repeat(model.table.values(BACKGROUND)[None], count, axis=0)
    along = np.linspace(0.0, 1.0, count)
    a, c = (model.table.values()[model.table.index(f"phases.Al2O3.cell.{axis}")] for axis in "ac")
    changes = {
        "phases.Al2O3.cell.a": a * (1 + 2e-3 * along),
        "phases.Al2O3.cell.c": c * (1 + 3e-3 * along),
        "phases.Al2O3.grain_size": 400.0 + 400.0 * along,
        "phases.Al2O3.microstrain": 1.2e-3 - 4e-4 * along,
        "instrument.displacement": 0.05 - 0.1 * along,
        "phases.Al2O3.scale": 1.0 - 0.3 * along,
    }
    for name, column in changes.items():
        values[:, model.table.index(name)] = column
    return values


def simulated(model: Model, values: np.ndarray) -> np.ndarray:
    """Patterns without noise; the first one's highest point is TOP counts above the background (scales are changed)."""
    at = model.table.index("phases.Al2O3.scale")
    with jax.enable_x64(True):
        calculate = jax.jit(lambda v: pattern(model.layout, model.arrays, model.settings, v))
        no_background = values[0].copy()
        for name in BACKGROUND:
            no_background[model.table.index(name)] = 0.0
        values[:, at] *= TOP / float(jnp.max(calculate(jnp.asarray(no_background))))
        return np.stack([np.asarray(calculate(jnp.asarray(v))) for v in values])


def fitted(model: Model, observed: np.ndarray, sigma: np.ndarray | None, batch: int, plan: Plan = PLAN) -> list[Refinement]:
    """All patterns, `batch` in each call."""
    found: list[Refinement] = []
    for first in tqdm(range(0, len(observed), batch), desc="refine", disable=None):
        part = slice(first, first + batch)
        found += refine_many(model, observed[part], plan, sigma=None if sigma is None else sigma[part])
    return found


def statistics_of(model: Model, fits: Sequence[Refinement], known: np.ndarray) -> dict[str, Any]:
    """Bias and coverage of each free parameter, with uncertainties that are not scaled by GOF."""
    names = [model.table.names[i] for i in fits[0].free]
    values = np.stack([fit.values[fit.free] for fit in fits])
    sigmas = np.stack([fit.sigma[fit.free] / fit.agreement.gof for fit in fits])
    z = (values - known[:, fits[0].free]) / sigmas
    each = {
        name: {
            "bias": float(z[:, i].mean()),
            "spread": float(z[:, i].std(ddof=1)),
            "coverage": float(np.mean(np.abs(z[:, i]) < 1.0)),
        }
        for i, name in enumerate(names)
    }
    return {
        "patterns": len(fits),
        "converged": int(sum(fit.converged for fit in fits)),
        "coverage": float(np.mean(np.abs(z) < 1.0)),
        "gof": float(np.mean([fit.agreement.gof for fit in fits])),
        "parameters": each,
        "z": z.tolist(),
    }


def speeds(model: Model, observed: np.ndarray, sigma: np.ndarray, batches: Sequence[int]) -> list[dict[str, Any]]:
    """Seconds of a call, and processor seconds, for each batch size; compiled."""
    rows = []
    for batch in batches:
        before = time.process_time()
        refine_many(model, observed[:batch], PLAN, sigma=sigma[:batch])
        first = time.process_time() - before
        calls = max(1, 16 // batch)
        wall, cpu = time.perf_counter(), time.process_time()
        for _ in range(calls):
            refine_many(model, observed[:batch], PLAN, sigma=sigma[:batch])
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        rows.append(
            {
                "batch": batch,
                "first_cpu_seconds": first,
                "cpu_seconds_per_fit": cpu / calls / batch,
                "fits_per_second": calls * batch / wall,
            }
        )
    return rows


def tables(result: dict[str, Any]) -> str:
    """The results as Markdown."""
    head = ["parameter", "bias (s.u.)", "spread (s.u.)", "within 1 s.u.", "bias, weights 1/y observed"]
    rows = [head]
    for name, p in result["known_sigmas"]["parameters"].items():
        counted = result["observed_weights"]["parameters"].get(name, {"bias": float("nan")})
        rows.append([name, f"{p['bias']:+.2f}", f"{p['spread']:.2f}", f"{p['coverage']:.3f}", f"{counted['bias']:+.2f}"])
    known = result["known_sigmas"]
    sentence = (
        f"{known['patterns']} patterns, {known['converged']} converged; {known['coverage']:.3f} of all values lie within one "
        f"standard uncertainty (normal: 0.683), mean GOF {known['gof']:.3f}."
    )
    speed = [["fits in a call", "CPU s, first call", "CPU s a fit", "fits/s"]]
    for row in result["speed"]:
        numbers = [f"{row['first_cpu_seconds']:.1f}", f"{row['cpu_seconds_per_fit']:.3f}", f"{row['fits_per_second']:.2f}"]
        speed.append([str(row["batch"]), *numbers])
    return "\n\n".join([sentence, markdown(rows), f"On {result['device']}:", markdown(speed)])


def draw(result: dict[str, Any]) -> matplotlib.figure.Figure:
    """Histogram of all deviations over their standard uncertainties, and bias of each parameter."""
    figure = matplotlib.figure.Figure(figsize=(9.0, 4.0), layout="constrained")
    left, right = figure.subplots(1, 2)
    z = np.array(result["known_sigmas"]["z"]).ravel()
    left.hist(z, bins=np.linspace(-4, 4, 41), density=True, color="0.75", label="all parameters")
    x = np.linspace(-4, 4, 200)
    left.plot(x, np.exp(-x * x / 2) / np.sqrt(2 * np.pi), color="black", lw=1.0, label="normal")
    left.set_xlabel("(fitted - true) / standard uncertainty")
    left.set_ylabel("density")
    left.legend(frameon=False)
    names = list(result["known_sigmas"]["parameters"])
    places = np.arange(len(names))
    for key, marker, label in (("known_sigmas", "o", "known sigmas"), ("observed_weights", "x", "weights 1/y observed")):
        bias = [result[key]["parameters"][name]["bias"] for name in names]
        right.plot(bias, places, marker, color="black", label=label, markersize=5)
    right.set_yticks(places, [name.removeprefix("phases.Al2O3.") for name in names], fontsize=8)
    right.axvline(0.0, color="0.7", lw=0.8)
    right.set_xlabel("bias / standard uncertainty")
    right.legend(frameon=False, fontsize=8)
    return figure


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.refine_batch", description=(__doc__ or "").removeprefix("Host zone. ").split("\n\n")[0]
    )
    parser.add_argument("--patterns", type=positive, default=1000, help="in the series (default %(default)s)")
    parser.add_argument("--batch", type=positive, default=16, help="fits in a call (default %(default)s)")
    parser.add_argument("--speed", type=positive, nargs="*", default=BATCHES, metavar="BATCH", help="batch sizes to time")
    parser.add_argument("--json", type=json_path, metavar="FILE", help="write the numbers here; the README then stays")
    parser.add_argument("--figures", type=pathlib.Path, default=pathlib.Path("runs/refine_batch"), metavar="FOLDER")
    given = parser.parse_args(arguments)
    model = model_of_series()
    known = truths(model, given.patterns)
    clean = simulated(model, known)
    observed = np.random.default_rng(7).poisson(clean).astype(float)
    sigma = np.sqrt(clean)
    result: dict[str, Any] = {
        "device": str(jax.devices()[0].device_kind),
        "speed": speeds(model, observed, sigma, given.speed),  # first, so that each first call compiles
        "known_sigmas": statistics_of(model, fitted(model, observed, sigma, given.batch), known),
        "observed_weights": statistics_of(model, fitted(model, observed, None, given.batch), known),
    }
    given.figures.mkdir(parents=True, exist_ok=True)
    path = given.figures / "series.png"
    write_together({path: figure_bytes(draw(result), path.name)})
    text = tables(result)
    print(text)
    for key in ("known_sigmas", "observed_weights"):
        del result[key]["z"]
    if given.json:
        write_json(given.json, result)
    else:
        write_json(FOLDER / "results.json", result)
        write_table(FOLDER / "README.md", text)
