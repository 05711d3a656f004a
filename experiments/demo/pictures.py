"""Figures of the demo."""

from __future__ import annotations

import re

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from experiments.demo.config import Fit
from experiments.demo.fit import FitResult
from experiments.demo.library import Run, Sample
from simxrd_jax.commands.simulate import ALPHA
from simxrd_jax.plots import INK, PHASE_COLOURS

BLUE, ORANGE, GREEN, PINK = PHASE_COLOURS[:4]
GREY = "#8a8a8a"
COLUMNS = 3
# Parameters of the fit: symbol, factor and unit in which they are shown.
SHOWN = {
    "grain_size": ("grain size", 1.0, "Å"),
    "microstrain": ("microstrain", 1e3, "10⁻³"),
    "lattice_strain": ("lattice strain", 1e3, "10⁻³"),
    "zero_shift": ("zero shift", 1.0, "° 2θ"),
    "scale": ("scale", 1.0, ""),
    "background_level": ("background", 1.0, "max"),
}
COLOURS = (BLUE, ORANGE, GREEN, PINK, PHASE_COLOURS[4], GREY)


def contact_sheet(run: Run, preset: str) -> Figure:
    """The shown patterns of a library, each with its formula, space group and main conditions."""
    rows = -(-len(run.samples) // COLUMNS)
    figure = _figure(9.6, 0.95 + 1.72 * rows)
    grid = figure.subplots(rows, COLUMNS, sharex=True, squeeze=False)
    height = figure.get_figheight()
    figure.subplots_adjust(left=0.035, right=0.985, bottom=0.48 / height, top=1 - 0.78 / height, hspace=0.55, wspace=0.08)
    for axes in grid.flat[len(run.samples) :]:
        axes.set_visible(False)
    for i, (axes, sample) in enumerate(zip(grid.flat, run.samples, strict=False)):
        highest = float(sample.intensity.max())
        axes.plot(sample.two_theta, sample.intensity / highest, color=INK, linewidth=0.6)
        axes.set_xlim(sample.two_theta[0], sample.two_theta[-1])
        axes.set_ylim(-0.02, 1.05)
        axes.set_yticks([])
        axes.tick_params(labelsize=8)
        _strip(axes)
        structure = sample.structure
        size = 9.5 if len(structure.formula) < 22 else 8.0
        axes.set_title(formula_text(structure.formula), loc="left", fontsize=size, pad=14, color=INK)
        axes.set_title(space_group_text(structure.space_group_symbol), loc="right", fontsize=9, pad=14, color=BLUE)
        axes.text(0.0, 1.025, _conditions(sample), transform=axes.transAxes, fontsize=7, color="#555555", va="bottom")
        if i >= len(run.samples) - COLUMNS:
            axes.tick_params(labelbottom=True)
            axes.set_xlabel("2θ (degrees)", fontsize=8.5)
    title = f"{len(run.samples)} of {run.patterns:,} patterns of Materials Project structures, preset “{preset}”"
    figure.text(0.035, 1 - 0.12 / height, title, fontsize=11.5, va="top")
    return figure


def _conditions(sample: Sample) -> str:
    values = sample.conditions
    parts = [
        f"D {float(values['grain_size']):.0f} Å",
        rf"$\epsilon$ {1e3 * float(values['microstrain']):.2f}$\times$10$^{{-3}}$",
        f"March r {float(values['march_dollase']):.2f}",
        f"{_rounded(float(values['peak_counts']))} counts",
    ]
    return "   ".join(parts)


def _rounded(value: float) -> str:
    """Two digits, thousands with a comma."""
    digits = 10 ** max(0, int(np.floor(np.log10(value))) - 1)
    return f"{round(value / digits) * digits:,.0f}"


def fit_figure(result: FitResult, config: Fit) -> Figure:
    """Observed, start and fitted patterns over the difference in standard deviations, with two stretches enlarged."""
    figure = _figure(9.0, 5.6)
    layout = figure.add_gridspec(
        3, 2, height_ratios=(2.5, 0.8, 2.0), left=0.085, right=0.975, bottom=0.095, top=0.9, hspace=0.32, wspace=0.16
    )
    top = figure.add_subplot(layout[0, :])
    below = figure.add_subplot(layout[1, :], sharex=top)
    _curves(top, result)
    top.set_ylabel("counts")
    top.tick_params(labelbottom=False)
    top.set_xlim(result.two_theta[0], result.two_theta[-1])
    handles, labels = top.get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="upper right", bbox_to_anchor=(0.975, 0.99), ncols=3, frameon=False, fontsize=9, markerscale=4
    )
    figure.text(0.085, 0.975, f"Corundum, Cu K{ALPHA}: conditions found again from a wrong start", fontsize=11, va="top")
    deviation = (result.observed - result.fitted) / np.sqrt(np.maximum(result.fitted, 1.0))
    below.plot(result.two_theta, deviation, color=GREY, linewidth=0.4)
    below.axhline(0.0, color=INK, linewidth=0.6)
    below.set_ylim(-5, 5)
    below.set_ylabel(r"(obs $-$ fit)/$\sigma$")
    strongest = float(result.two_theta[np.argmax(result.fitted)])
    last = result.two_theta[-1] - 7.5
    for column, (low, high) in enumerate(((strongest - 3.5, strongest + 3.5), (last - 5.0, last + 5.0))):
        axes = figure.add_subplot(layout[2, column])
        inside = (result.two_theta >= low) & (result.two_theta <= high)
        _curves(axes, result, markers=True)
        axes.set_xlim(low, high)
        axes.set_ylim(0.0, 1.08 * float(max(result.observed[inside].max(), result.initial[inside].max())))
        axes.set_xlabel("2θ (degrees)")
        if column == 0:
            axes.set_ylabel("counts")
    figure.align_ylabels([top, below])
    return figure


def _curves(axes, result: FitResult, markers: bool = False) -> None:
    style = {"linestyle": "none", "marker": ".", "markersize": 2.5 if markers else 1.5, "markeredgewidth": 0}
    axes.plot(result.two_theta, result.observed, color=GREY, label="observed", **style)
    axes.plot(result.two_theta, result.initial, color=ORANGE, linewidth=0.9, linestyle=(0, (4, 2)), label="start")
    axes.plot(result.two_theta, result.fitted, color=BLUE, linewidth=1.0, label="fitted")
    _strip(axes)


def convergence_figure(result: FitResult, config: Fit) -> Figure:
    """Reduced chi^2 and each parameter's distance from the truth, step by step."""
    figure = _figure(9.0, 3.3)
    left, right = figure.subplots(1, 2)
    figure.subplots_adjust(left=0.08, right=0.80, bottom=0.16, top=0.88, wspace=0.3)
    steps = np.arange(len(result.steps))
    left.semilogy(steps, result.chi_squared, color=INK, marker="o", markersize=4, linewidth=1.1)
    left.axhline(1.0, color=GREY, linewidth=0.8, linestyle=(0, (4, 2)))
    left.set_ylim(0.6, None)
    left.set_title(r"reduced $\chi^2$", loc="left", fontsize=10)
    for name, colour in zip(config.true, COLOURS, strict=True):
        scale = abs(config.start[name] - config.true[name])
        distance = [abs(step[name] - config.true[name]) / scale for step in result.steps]
        right.semilogy(steps, distance, color=colour, marker="o", markersize=3, linewidth=1.1, label=SHOWN[name][0])
    right.set_title("distance from the truth (start = 1)", loc="left", fontsize=10)
    right.legend(frameon=False, fontsize=9, loc="center left", bbox_to_anchor=(1.02, 0.5))
    for axes in (left, right):
        axes.set_xlabel("step")
        axes.set_xticks(steps)
        _strip(axes)
    return figure


def formula_text(formula: str) -> str:
    """A formula as it is printed: "Al2 O3" with its numbers lowered."""
    return "".join(re.sub(r"([\d.]+)$", r"$_{\1}$", part) for part in formula.split())


def space_group_text(symbol: str) -> str:
    """A Hermann-Mauguin symbol as it is printed: screw axes lowered, minus signs as bars."""
    parts = []
    for part in symbol.split(":")[0].split():
        part = re.sub(r"^-(\d)", r"\\bar{\1}", part)
        parts.append(re.sub(r"^([2346])([1-5])", r"\1_{\2}", part))
    return "$" + "".join(parts) + "$"


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def _strip(axes) -> None:
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
