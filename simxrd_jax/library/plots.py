"""Host zone. A picture of how a library's structures spread over the space groups."""

from __future__ import annotations

import re
from collections.abc import Mapping

import gemmi
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator

from simxrd_jax.crystal.structure import CRYSTAL_SYSTEMS
from simxrd_jax.plots import INK, PHASE_COLOURS

# Six colours of Okabe & Ito and a grey: one for each crystal system, from the lowest symmetry to the highest.
SYSTEM_COLOURS = dict(zip((name for _, name in CRYSTAL_SYSTEMS), ("#8c8c8c", *PHASE_COLOURS), strict=True))
MIN_RANKS = 40  # width of the picture of a library of few space groups
LABELLED = 8  # ranks that get their space group's symbol
LABEL_COLUMN = 0.06  # how far to the right of their bars the symbols stand, as a share of the ranks
LABEL_TOP, LABEL_STEP = 0.96, 0.045  # the first symbol's height and the steps down, as shares of the axis
AXIS_START = 0.7  # structures; a single one still shows


def plot_long_tail(counts: Mapping[int, int], title: str = "") -> Figure:
    """Structures of each space group against its rank, on a logarithmic scale, coloured by crystal system.

    Args:
      counts: space-group number -> structures, at least 1.
      title: over the picture, at the left.
    """
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    numbers = np.array([number for number, _ in ranked])
    values = np.array([count for _, count in ranked])
    rank = np.arange(1, len(ranked) + 1)
    lasts = np.array([last for last, _ in CRYSTAL_SYSTEMS])
    system = np.searchsorted(lasts, numbers)
    figure = Figure(figsize=(8.0, 4.2), facecolor="white")
    FigureCanvasAgg(figure)
    left, right, bottom, top = 0.1, 0.975, 0.12, 0.9
    axes = figure.add_axes((left, bottom, right - left, top - bottom))
    for i, (_, name) in enumerate(CRYSTAL_SYSTEMS):
        mine = system == i
        if not mine.any():
            continue
        share = 100 * values[mine].sum() / values.sum()
        axes.bar(rank[mine], values[mine], 0.8, color=SYSTEM_COLOURS[name], label=f"{name} {share:.1f} %")
    axes.set_yscale("log")
    width = max(len(ranked), MIN_RANKS)
    axes.set_xlim(0.3, width + 0.7)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("rank of the space group")
    axes.set_ylabel("structures")
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.tick_params(direction="out")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    # One column of labels, the lowest above the labelled bars: lines that rise to it cross no bar.
    shown = min(LABELLED, len(ranked))
    lowest = LABEL_TOP - LABEL_STEP * LABELLED
    decades = max(np.log10(values[shown - 1] / AXIS_START) / lowest, np.log10(2 * values.max() / AXIS_START))
    axes.set_ylim(AXIS_START, AXIS_START * 10**decades)
    axes.set_yticks(10.0 ** np.arange(np.ceil(np.log10(values.max() + 1))), minor=False)
    axes.yaxis.set_minor_locator(NullLocator())
    column = shown + LABEL_COLUMN * width
    for i in range(shown):
        height = AXIS_START * 10 ** (decades * (LABEL_TOP - LABEL_STEP * i))
        axes.plot([rank[i], column], [values[i] * 1.03, height], color="#b0b0b0", linewidth=0.5)
        label = f" {symbol_text(int(numbers[i]))}  {values[i]:,}"
        axes.text(column, height, label, ha="left", va="center_baseline", fontsize=7, color=INK)
    axes.legend(loc="upper right", ncols=2, frameon=False, fontsize=8, handlelength=1.0)
    half = int(np.searchsorted(np.cumsum(values), values.sum() / 2)) + 1
    rare = int((values < 10).sum())
    figure.text(left, 0.985, title, ha="left", va="top", fontsize=10)
    note = f"space groups that hold half of the structures: {half}; with fewer than 10 structures: {rare}"
    figure.text(left, 0.945, note, ha="left", va="top", fontsize=8, color="#555555")
    return figure


def symbol_text(number: int) -> str:
    """Short Hermann-Mauguin symbol of a space group as it is printed: bars over digits, screw axes with subscripts."""
    group = gemmi.find_spacegroup_by_number(number)
    assert group is not None
    lattice, *axes = group.hm.split()
    if group.crystal_system_str() == "monoclinic":
        axes = [axis for axis in axes if axis != "1"]
    parts = [re.sub(r"^-(\d)", r"$\\bar{\1}$", re.sub(r"^(\d)(\d)", r"\1$_{\2}$", axis)) for axis in axes]
    return lattice + "".join(parts)
