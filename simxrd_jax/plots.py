"""Host zone. Pictures of patterns, drawn without a display."""

from __future__ import annotations

import io
import os
import pathlib
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

from simxrd_jax.errors import InputError
from simxrd_jax.io.xy import PeakTable

FORMATS = ("png", "pdf", "svg", "jpg")
DPI = 200
# Colours that stay apart for colour-blind readers and in print (Okabe & Ito 2008); the first is the pattern's own.
INK = "#1b1b1b"
PHASE_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MAX_LABELS = 40
MAX_CANDIDATES = 200  # labels tried; measuring one takes about a millisecond
# A label that its neighbours lift above this multiple of its own peak (and this height) would seem to belong to them.
MAX_LIFT, FREE_LIFT = 1.3, 3.0
LABEL_THRESHOLD = 1.5  # peaks below this share of the strongest get no label. [%]
SAME_PLACE = 0.03  # peaks closer than this share one label. [deg]


def check_format(path: str | os.PathLike[str]) -> str:
    """The format that a file name's ending asks for.

    Raises:
      InputError: none that can be written.
    """
    ending = pathlib.Path(path).suffix.lower().lstrip(".")
    if ending not in FORMATS:
        raise InputError(f"{path}: a picture's name must end in .png, .pdf, .svg or .jpg; rename it")
    return ending


def figure_bytes(figure: Figure, path: str | os.PathLike[str]) -> bytes:
    """The file's content, in the format of its name."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format=check_format(path), dpi=DPI)
    return buffer.getvalue()


def plot_pattern(two_theta: np.ndarray, intensity: np.ndarray, tables: Sequence[PeakTable], title: str = "") -> Figure:
    """A pattern over one row of tick marks for each phase, its strong peaks labelled with their indices.

    Args:
      two_theta, intensity: the pattern. [deg]
      tables: peaks of each phase.
      title: over the picture, at the left.
    """
    row_height = 0.17  # inch
    ticks_height = row_height * (len(tables) + 0.6)
    height = 3.9 + ticks_height
    figure = Figure(figsize=(8.0, height), facecolor="white")
    FigureCanvasAgg(figure)
    left, right = 0.085, 0.975
    bottom, gap = 0.52 / height, 0.0
    axes = figure.add_axes((left, bottom + ticks_height / height + gap, right - left, 3.0 / height))
    rows = figure.add_axes((left, bottom, right - left, ticks_height / height), sharex=axes)
    highest = float(np.max(intensity))
    scale = 100.0 / highest if highest > 0 else 1.0
    curve = intensity * scale
    low = min(0.0, float(np.min(curve)))
    axes.plot(two_theta, curve, color=INK, linewidth=0.8, solid_joinstyle="round")
    axes.set_xlim(float(two_theta[0]), float(two_theta[-1]))
    axes.set_ylim(low - 2.0, 122.0)
    axes.set_yticks(range(0, 101, 20))
    axes.set_ylabel("intensity (highest point = 100)")
    axes.tick_params(labelbottom=False, bottom=False, direction="in")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_visible(False)
    axes.spines["left"].set_bounds(low - 2.0, 100.0)
    for side in ("top", "right", "left"):
        rows.spines[side].set_visible(False)
    rows.set_ylim(-len(tables) - 0.1, 0.5)
    rows.set_yticks([])
    rows.tick_params(direction="out")
    rows.set_xlabel("2θ (degrees)")
    for i, table in enumerate(tables):
        colour = PHASE_COLOURS[i % len(PHASE_COLOURS)]
        # A reflection that only the atoms' places extinguish (Si 222) is no peak to mark.
        shown = table.two_theta[table.intensity > 1e-10]
        rows.vlines(shown, -i - 0.8, -i - 0.1, color=colour, linewidth=0.9, label=table.name)
    figure.text(left, 1 - 0.1 / height, title, ha="left", va="top", fontsize=10)
    occupied: list[Bbox] = []
    if len(tables) > 1:
        legend = rows.legend(
            loc="upper right",
            bbox_to_anchor=(right, 1 - 0.28 / height),
            bbox_transform=figure.transFigure,
            ncols=min(len(tables), 4),
            frameon=False,
            fontsize=8,
            borderaxespad=0,
            handlelength=1.2,
        )
        occupied.append(legend.get_window_extent())
    _label_peaks(figure, axes, two_theta, curve, tables, occupied)
    return figure


def _label_peaks(
    figure: Figure,
    axes: Axes,
    two_theta: np.ndarray,
    curve: np.ndarray,
    tables: Sequence[PeakTable],
    occupied: Sequence[Bbox],
) -> None:
    """Labels peaks from the strongest down, leaving out labels that would touch another, the curve or an occupied box."""
    candidates = _label_candidates(tables)[:MAX_CANDIDATES]
    renderer = figure.canvas.get_renderer()  # type: ignore[attr-defined]
    frame = axes.get_window_extent(renderer)
    taken = list(occupied)
    pixel = figure.dpi / 72.0
    for position, text, colour in candidates:
        if len(taken) - len(occupied) >= MAX_LABELS:
            break
        label = axes.text(position, 0.0, text, rotation=90, ha="center", va="bottom", fontsize=7, color=colour)
        box = label.get_window_extent(renderer)
        half_width = 0.5 * box.width + 0.5 * pixel
        centre = axes.transData.transform((position, 0.0))[0]
        edges = axes.transData.inverted().transform([(centre - half_width, 0.0), (centre + half_width, 0.0)])[:, 0]
        under = curve[(two_theta >= edges[0]) & (two_theta <= edges[1])]
        top = float(under.max()) if under.size else float(np.interp(position, two_theta, curve))
        base = axes.transData.transform((position, top))[1] + 2.5 * pixel
        place = Bbox.from_extents(centre - half_width, base, centre + half_width, base + box.height + pixel)
        own = float(np.interp(position, two_theta, curve))
        inside = place.x0 >= frame.x0 and place.x1 <= frame.x1 and place.y1 <= frame.y1 + 8 * pixel
        if not inside or top > MAX_LIFT * own + FREE_LIFT or any(place.overlaps(other) for other in taken):
            label.remove()
            continue
        label.set_y(axes.transData.inverted().transform((0.0, base))[1])
        taken.append(place)


def _label_candidates(tables: Sequence[PeakTable]) -> list[tuple[float, str, str]]:
    """Position, text and colour of labels, strongest first; peaks of one phase at one place share a label."""
    found: list[tuple[float, float, str, str]] = []
    for i, table in enumerate(tables):
        colour = PHASE_COLOURS[i % len(PHASE_COLOURS)] if len(tables) > 1 else INK
        is_done = np.zeros(len(table.hkl), dtype=bool)
        for j in np.argsort(-table.intensity, kind="stable"):
            if is_done[j] or table.intensity[j] < LABEL_THRESHOLD:
                continue
            near = np.flatnonzero((np.abs(table.two_theta - table.two_theta[j]) < SAME_PLACE) & ~is_done)
            is_done[near] = True
            ranked = near[np.argsort(-table.intensity[near], kind="stable")]
            strong = ranked[table.intensity[ranked] >= LABEL_THRESHOLD]
            text = ", ".join(hkl_text(table.hkl[n]) for n in strong[:2]) + (", ..." if len(strong) > 2 else "")
            found.append((float(table.intensity[near].sum()), float(table.two_theta[j]), text, colour))
    found.sort(key=lambda f: -f[0])
    return [(position, text, colour) for _, position, text, colour in found]


def hkl_text(hkl: np.ndarray) -> str:
    """Indices as they are printed, minus signs as bars over the digits."""
    parts = [rf"\bar{{{-v}}}" if v < 0 else str(v) for v in (int(x) for x in hkl)]
    space = r"\ " if np.any(np.abs(hkl) > 9) else r"\,"  # 1 1 10 must not read as 1 1 1 0
    return "$" + space.join(parts) + "$"
