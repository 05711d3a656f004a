"""Worst error of the FFT peak sum against the dense sum, in float64.

Values: greatest difference over the highest point. Gradients: for each parameter, the greatest difference of d(pattern)/
d(parameter) over its greatest value, the worst of zero shift (positions), grain size, microstrain, Gaussian and Lorentzian
instrument width.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from experiments.json_file import json_path, write_json
from experiments.peak_sum_accuracy.config import CONFIG, SMOKE, Config
from simxrd_jax.diffraction.peak_sum import peak_sum
from simxrd_jax.diffraction.settings import REFINEMENT, TRAINING, Settings
from simxrd_jax.types import Grid, Instrument, PeakList, Specimen

WAVELENGTH = 1.540593
SETTINGS = {
    "dense": Settings(peak_sum="dense"),
    "refinement": Settings(accuracy=REFINEMENT),
    "training": Settings(accuracy=TRAINING),
}
PARAMETERS = ("zero_shift", "log grain_size", "microstrain", "caglioti_w", "lorentz_inverse_cos")


def random_peaks(low: float, high: float, config: Config) -> PeakList:
    """Peaks at random Bragg angles from 2 deg below to 2 deg above a window, one in six of full height."""
    rng = np.random.default_rng(config.seed)
    angles = np.sort(rng.uniform(max(low - 2.0, 1.0), min(high + 2.0, 170.0), config.peaks))[None]
    heights = rng.uniform(0.05, 1.0, angles.shape)
    heights[:, ::6] = 1.0
    return PeakList(two_theta=jnp.asarray(angles), bragg_two_theta=jnp.asarray(angles), intensity=jnp.asarray(heights))


def pattern(parameters: jax.Array, peaks: PeakList, grid: Grid, settings: Settings, axial: float | None) -> jax.Array:
    """The sum as a function of PARAMETERS."""
    shift, log_size, strain, w, lorentz = parameters
    instrument = Instrument(
        wavelength=np.array([WAVELENGTH]),
        line_weight=np.array([1.0]),
        caglioti_w=w,
        lorentz_inverse_cos=lorentz,
        axial_source=axial,
        axial_detector=axial,
    )
    specimen = Specimen(grain_size=jnp.exp(log_size), microstrain=strain)
    shifted = PeakList(peaks.two_theta + shift, peaks.bragg_two_theta, peaks.intensity)
    return peak_sum(shifted, specimen, instrument, grid, settings)


def value_and_jacobian(peaks: PeakList, grid: Grid, settings: Settings, axial: float | None) -> Any:
    """Jitted pattern and its derivatives [point, parameter]."""
    function = lambda p: pattern(p, peaks, grid, settings, axial)  # noqa: E731
    return jax.jit(lambda p: (function(p), jax.jacfwd(function)(p)))


def cases(config: Config) -> Iterator[tuple[tuple[float, float], float, bool, float, float]]:
    """All combinations: window, FWHM in points, Lorentzian or not, grain size, microstrain."""
    yield from itertools.product(config.ranges, config.fwhm_points, config.lorentzian, config.grain_sizes, config.microstrains)


def compare(config: Config, axial: float | None = None) -> list[dict[str, Any]]:
    """Errors of each case and accuracy."""
    rows = []
    functions: dict[tuple[float, float], dict[str, Any]] = {}
    for window in config.ranges:
        peaks, grid = random_peaks(*window, config), Grid.uniform(*window, config.step)

        functions[window] = {name: value_and_jacobian(peaks, grid, s, axial) for name, s in SETTINGS.items()}
    total = len(list(cases(config)))
    for window, fwhm_points, lorentzian, size, strain in tqdm(cases(config), total=total, disable=None):
        width = fwhm_points * config.step
        w, lorentz = (1e-5, width) if lorentzian else (width**2, 0.0)
        parameters = jnp.asarray([0.0123, np.log(size), strain, w, lorentz])
        truth, jacobian = functions[window]["dense"](parameters)
        for name in ("refinement", "training"):
            value, slope = functions[window][name](parameters)
            gradient_errors = jnp.max(jnp.abs(slope - jacobian), axis=0) / jnp.max(jnp.abs(jacobian), axis=0)
            rows.append(
                {
                    "accuracy": name,
                    "window": window,
                    "fwhm_points": fwhm_points,
                    "profile": "Lorentzian" if lorentzian else "Gaussian",
                    "grain_size": size,
                    "microstrain": strain,
                    "value_error": float(jnp.max(jnp.abs(value - truth)) / jnp.max(truth)),
                    "gradient_error": float(jnp.max(gradient_errors)),
                    "worst_gradient": PARAMETERS[int(jnp.argmax(gradient_errors))],
                }
            )
    return rows


def worst(rows: list[dict[str, Any]], **where: Any) -> tuple[float, float]:
    """Greatest value and gradient error among the rows that match."""
    chosen = [r for r in rows if all(r[k] == v for k, v in where.items())]
    return max(r["value_error"] for r in chosen), max(r["gradient_error"] for r in chosen)


def table(rows: list[dict[str, Any]], config: Config) -> str:
    """Worst errors over grain sizes and microstrains as a Markdown table."""
    lines = ["| window | instrument FWHM | profile | refinement: values | gradients | training: values | gradients |"]
    lines.append("|---|---|---|---|---|---|---|")
    for window, points, lorentzian in itertools.product(config.ranges, config.fwhm_points, config.lorentzian):
        profile = "Lorentzian" if lorentzian else "Gaussian"
        cells = []
        for accuracy in ("refinement", "training"):
            cells += [f"{e:.1e}" for e in worst(rows, accuracy=accuracy, window=window, fwhm_points=points, profile=profile)]
        lines.append(f"| {window[0]:g} to {window[1]:g} deg | {points:g} points | {profile} | {' | '.join(cells)} |")
    laboratory = [r for r in rows if r["microstrain"] <= 3e-3 and r["grain_size"] >= 100 and r["window"] == config.ranges[0]]
    if laboratory:
        value, _ = worst(laboratory, accuracy="training")
        lines += [
            "",
            f"Training accuracy within the laboratory preset's sizes and strains on {config.ranges[0]}: {value:.1e}.",
        ]
    return "\n".join(lines)


def main() -> None:
    """Compares, prints a table and writes JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=json_path, metavar="FILE", help="write every case here")
    parser.add_argument("--axial", type=float, help="S/L = H/L of axial divergence (default: none)")
    parser.add_argument("--smoke", action="store_true", help="a few cases only")
    arguments = parser.parse_args()
    config = SMOKE if arguments.smoke else CONFIG
    with jax.enable_x64(True):
        rows = compare(config, arguments.axial)
    print(table(rows, config))
    if arguments.json:
        write_json(arguments.json, rows)
