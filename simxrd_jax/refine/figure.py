"""Host zone. The picture of a refinement: observed, calculated, background, difference, ticks of each phase."""

from __future__ import annotations

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from simxrd_jax.plots import INK, PHASE_COLOURS
from simxrd_jax.refine.fit import Refinement

CALCULATED, BACKGROUND, EXCLUDED = "#D55E00", "#8a8a8a", "#e8e8e8"


def draw_fit(fit: Refinement, title: str = "") -> Figure:
    """Observed points under the calculated line, ticks of the phases, and the difference; excluded ranges are grey."""
    count = len(fit.model.phases)
    figure = Figure(figsize=(9.0, 5.2 + 0.15 * count), facecolor="white")
    FigureCanvasAgg(figure)
    top, ticks, bottom = figure.subplots(
        3, 1, sharex=True, gridspec_kw={"height_ratios": [4.0, 0.18 * count + 0.1, 1.3], "hspace": 0.03}
    )
    x, counts = fit.two_theta, fit.weight > 0
    top.plot(x[counts], fit.observed[counts], ".", color=INK, markersize=2.0, label="observed")
    top.plot(x, fit.calculated, color=CALCULATED, linewidth=0.9, label="calculated")
    top.plot(x, fit.background, color=BACKGROUND, linewidth=0.8, label="background")
    top.set_ylabel("intensity")
    top.legend(frameon=False, fontsize=8, loc="upper right")
    a = fit.agreement
    top.set_title(f"{title}   Rwp {100 * a.rwp:.2f} %, GOF {a.gof:.2f}", loc="left", fontsize=10)
    for i, (name, places) in enumerate(tick_places(fit).items()):
        colour = PHASE_COLOURS[i % len(PHASE_COLOURS)]
        ticks.vlines(places, -i - 0.75, -i - 0.1, color=colour, linewidth=0.8)
        ticks.text(x[0], -i - 0.45, f"{name} ", ha="right", va="center", fontsize=8, color=colour)
    ticks.set_ylim(-count - 0.05, 0.1)
    ticks.set_yticks([])
    difference = np.where(counts, fit.observed - fit.calculated, np.nan)
    bottom.plot(x, difference, color=PHASE_COLOURS[0], linewidth=0.7)
    bottom.axhline(0.0, color=INK, linewidth=0.4)
    bottom.set_ylabel("difference")
    bottom.set_xlabel("2θ (degrees)")
    bottom.set_xlim(float(x[0]), float(x[-1]))
    for axes in (top, ticks, bottom):
        for first, last in runs(~counts):
            axes.axvspan(x[first], x[last], color=EXCLUDED, linewidth=0)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        ticks.spines[side].set_visible(False)
    top.spines["bottom"].set_visible(False)
    digits = len(f"{np.max(fit.observed):.0f}")
    figure.subplots_adjust(left=0.06 + 0.0075 * digits, right=0.985, top=0.93, bottom=0.1)
    top.tick_params(bottom=False)
    ticks.tick_params(bottom=False)
    return figure


def tick_places(fit: Refinement) -> dict[str, np.ndarray]:
    """Phase -> places of its reflections at the first emission line, within the range. [deg]"""
    found = {}
    for phase, peaks in zip(fit.model.phases, fit.peak_lists, strict=True):
        places = np.asarray(peaks.two_theta)[0][np.asarray(peaks.intensity)[0] > 0]
        found[phase.name] = places[(places >= fit.two_theta[0]) & (places <= fit.two_theta[-1])]
    return found


def runs(flags: np.ndarray) -> list[tuple[int, int]]:
    """First and last index of each run of true values."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flags.astype(int), [0]])))
    return [(int(a), int(b) - 1) for a, b in edges.reshape(-1, 2)]
