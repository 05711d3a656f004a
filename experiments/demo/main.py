"""The demo: a measured standard refined, reference crystals, thousands of patterns of a library, a fit, and a network."""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
from matplotlib.figure import Figure

from experiments.demo import fit, library, pictures, refinement, training
from experiments.demo.config import CONFIG, Config
from experiments.demo.pictures import space_group_text
from simxrd_jax.commands.simulate import ALPHA, Options, SimulatedPattern, specimen_patterns
from simxrd_jax.phases import as_structure
from simxrd_jax.plots import figure_bytes, plot_pattern
from simxrd_jax.process import keep_freed_memory
from simxrd_jax.refine.figure import draw_fit
from simxrd_jax.refine.numbers import with_uncertainty

LISTED_PEAKS = 3  # peaks of each reference crystal in the table


def main(arguments: Sequence[str] | None = None, config: Config = CONFIG) -> None:
    """Runs the parts, prints their tables and says where the figures are."""
    parser = argparse.ArgumentParser(prog="python -m experiments.demo", description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("demo_output"), help="folder of the figures (default %(default)s)")
    output: Path = parser.parse_args(arguments).output
    output.mkdir(parents=True, exist_ok=True)
    keep_freed_memory()
    begin = time.perf_counter()

    print(f"simxrd_jax demo on {jax.devices()[0].device_kind} ({os.cpu_count()} cores), jax {jax.__version__}\n")
    if config.standard is not None:
        print(_standard(config.standard, output))
    print(_references(config, output))
    print(_library(config, output))
    print(_fit(config, output))
    print(_training(config, output))
    print(f"{len(list(output.rglob('*.png')))} figures in {output.resolve()}; {time.perf_counter() - begin:.0f} s in all")


def _standard(folder: Path, output: Path) -> str:
    fitted = refinement.run(folder)
    _write(draw_fit(fitted, "NIST SRM 660c LaB$_6$"), output / "LaB6.png")
    a, sigma = fitted["phases.LaB6.cell.a"]
    found = fitted.agreement
    off = 1e6 * (a / refinement.CERTIFIED - 1)
    return (
        f"1. Measured LaB6 of NIST (SRM 660c), refined in {fitted.seconds:.0f} s: Rwp {100 * found.rwp:.2f} %, "
        f"{found.n_points:,} points, {found.n_parameters} parameters\n"
        f"   a = {with_uncertainty(a, sigma)} A, {off:+.0f} ppm from the certified {refinement.CERTIFIED:.6f} A\n"
        f"   displacement = {with_uncertainty(*fitted['instrument.displacement'])} mm (NIST: -0.079)\n"
    )


def _references(config: Config, output: Path) -> str:
    lines = ["2. Reference crystals, Cu K-alpha", f"   {'phase':22s}{'space group':14s}strongest peaks (hkl at 2theta)"]
    for path in config.references:
        options = Options(conditions=config.reference_conditions, two_theta=(15.0, 100.0, 0.02))
        made = next(specimen_patterns([str(path)], options))
        table, structure = made.tables[0], as_structure(path)
        title = f"{table.name}, {space_group_text(structure.space_group_symbol)}, Cu K{ALPHA}"
        _write(plot_pattern(made.two_theta, made.intensity, made.tables, title=title), output / f"reference_{path.stem}.png")
        lines.append(f"   {table.name:22s}{structure.space_group_symbol:14s}{_strongest(made)}")
    return "\n".join(lines) + "\n"


def _strongest(made: SimulatedPattern) -> str:
    table = made.tables[0]
    order = np.argsort(-table.intensity)[:LISTED_PEAKS]
    return ", ".join(f"{' '.join(str(v) for v in table.hkl[i])} at {table.two_theta[i]:.3f}" for i in order)


def _library(config: Config, output: Path) -> str:
    result = library.run(config.library)
    preset = config.library.preset
    _write(pictures.contact_sheet(result, preset), output / "library.png")
    plain, whole = result.simulate_seconds, result.simulate_seconds + result.compile_seconds
    return (
        f"3. {result.patterns:,} patterns drawn from {result.structures:,} structures under the preset {preset!r}\n"
        f"   first batch, compilation    {result.compile_seconds:8.1f} s\n"
        f"   simulation                  {plain:8.2f} s\n"
        f"   rate, compiled              {result.patterns / plain:8,.0f} patterns/s\n"
        f"   rate, compilation included  {result.patterns / whole:8,.0f} patterns/s\n"
    )


def _fit(config: Config, output: Path) -> str:
    result = fit.run(config.fit)
    _write(pictures.fit_figure(result, config.fit), output / "fit.png")
    _write(pictures.convergence_figure(result, config.fit), output / "convergence.png")
    lines = [
        f"4. Fit of {config.fit.cif.stem}: {len(result.steps) - 1} steps, reduced chi^2 {result.chi_squared[-1]:.3f}",
        f"   {'parameter':18s}{'true':>10s}{'start':>10s}{'fitted':>12s}{'+-':>10s}  unit",
    ]
    for name, (label, factor, unit) in pictures.SHOWN.items():
        true, start = factor * config.fit.true[name], factor * config.fit.start[name]
        value, sigma = factor * result.steps[-1][name], factor * result.uncertainty[name]
        digits = max(0, 1 - int(np.floor(np.log10(sigma))))
        unit = unit.replace("Å", "A").replace("10⁻³", "1e-3").replace("° 2θ", "deg")
        lines.append(f"   {label:18s}{true:10g}{start:10g}{value:12.{digits}f}{sigma:10.{digits}f}  {unit}".rstrip())
    return "\n".join(lines) + "\n"


def _training(config: Config, output: Path) -> str:
    result = training.run(config.training, output / "training")
    lines = [
        f"5. {config.training.model} after {result.patterns:,} patterns of {result.structures:,} structures, "
        f"{result.seconds:.0f} s: shares of right answers",
        f"   {'patterns':44s}{'crystal system':>16s}{'constant':>10s}{'space group':>13s}{'top 5':>8s}{'constant':>10s}",
    ]
    for name, targets in result.targets.items():
        system, group = targets["crystal_system"], targets["space_group"]
        lines.append(
            f"   {name:44s}{system['accuracy']:16.3f}{system['best_constant']['accuracy']:10.3f}"
            f"{group['accuracy']:13.3f}{group['top_5']:8.3f}{group['best_constant']['accuracy']:10.3f}"
        )
    return "\n".join(lines) + "\n"


def _write(figure: Figure, path: Path) -> None:
    path.write_bytes(figure_bytes(figure, path))
