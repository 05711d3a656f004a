"""Host zone. The picture of a confusion matrix."""

from __future__ import annotations

import itertools
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Int
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from simxrd_jax.crystal.structure import CRYSTAL_SYSTEMS
from simxrd_jax.errors import InputError
from simxrd_jax.io.xy import check_target, write_together
from simxrd_jax.plots import INK, PHASE_COLOURS, figure_bytes
from simxrd_jax.train.metrics import checked_confusion

MAX_CELL_NUMBERS = 12  # classes up to which the share is printed in each cell
MAX_TICKS = 24
LEAST_SHARE = 1e-3  # end of the logarithmic colours


def draw_confusion(
    confusion: Int[np.ndarray, "class class"], class_names: Sequence[str], path: str | os.PathLike[str]
) -> None:
    """Writes a picture of a confusion matrix, each row divided by its sum.

    Few classes get linear colours and the per cents in the cells; many get logarithmic colours, so that the rare mistakes
    show, and lines between the crystal systems. Rows of classes without samples are grey.

    Args:
      confusion: samples by label (row) and prediction (column).
      class_names: space groups by their numbers, others by a name; a first word that is a crystal system sorts them in.
      path: of the picture.

    Raises:
      InputError: no samples, names of another number, or a path that cannot be written.
    """
    matrix = checked_confusion(confusion)
    if len(class_names) != len(matrix):
        raise InputError(f"there are {len(class_names)} names for {len(matrix)} classes; give one for each")
    target = check_target(path)
    write_together({target: figure_bytes(_confusion_figure(matrix, class_names), pathlib.Path(target))})


def _confusion_figure(matrix: np.ndarray, class_names: Sequence[str]) -> Figure:
    is_small = len(matrix) <= MAX_CELL_NUMBERS
    support = matrix.sum(axis=1)
    shares = np.where(support[:, None] > 0, matrix / np.maximum(support, 1)[:, None], np.nan)
    figure = Figure(figsize=(6.4, 5.6) if is_small else (8.6, 7.6), facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set_facecolor("#d9d9d9")
    if is_small:
        image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        _print_shares(axes, shares)
    else:
        colours = colormaps["magma_r"].with_extremes(under="white")
        # Below the scale's end stands nothing but 0.
        shown = np.where(shares == 0, 0.1 * LEAST_SHARE, np.maximum(shares, LEAST_SHARE))
        image = axes.imshow(shown, cmap=colours, norm=LogNorm(LEAST_SHARE, 1), interpolation="none")
    every = -(-len(matrix) // MAX_TICKS)
    systems = [_crystal_system(name) for name in class_names]
    is_grouped = not is_small and None not in systems
    ticks = np.arange(0, len(matrix), every)
    # Names of extinction groups are too long for ticks: there the system's own label tells where one is.
    is_short = max(len(name) for name in class_names) <= 14
    labels = [name if is_short else str(i + 1) for i, name in enumerate(class_names)][::every]
    axes.set_xticks(ticks, labels, rotation=90 if every > 1 else 45, ha="center" if every > 1 else "right")
    axes.set_yticks(ticks, labels)
    axes.tick_params(labelsize=7 if every > 1 else 9, length=2, rotation_mode="anchor" if every == 1 else "default")
    unit = "" if is_short else " (number in the list of classes)"
    axes.set_xlabel("predicted" + unit)
    axes.set_ylabel("labelled" + unit)
    if is_grouped:
        _mark_systems(axes, [str(system) for system in systems])
    right = np.trace(matrix) / matrix.sum()
    note = "" if support.all() else "; grey rows hold no samples"
    axes.set_title(f"{matrix.sum():,} samples, {100 * right:.1f} % on the diagonal{note}", loc="left", fontsize=9, pad=16)
    bar = figure.colorbar(image, ax=axes, fraction=0.046, pad=0.02, extend="neither" if is_small else "min")
    bar.set_label("share of the label's samples", fontsize=8)
    bar.ax.tick_params(labelsize=7)
    figure.tight_layout()
    return figure


def _print_shares(axes: Any, shares: np.ndarray) -> None:
    for (i, j), share in np.ndenumerate(shares):
        if np.isfinite(share) and share > 0:
            text = f"{100 * share:.0f}" if share >= 0.01 else "<1"
            axes.text(j, i, text, ha="center", va="center", fontsize=8, color="white" if share > 0.55 else INK)


def _mark_systems(axes: Any, systems: Sequence[str]) -> None:
    """Lines where the crystal system changes, and its name over its columns."""
    edges = [0, *(i for i in range(1, len(systems)) if systems[i] != systems[i - 1]), len(systems)]
    for first, last in itertools.pairwise(edges):
        name = systems[first]
        is_narrow = last - first < len(systems) / 12
        # The triclinic column is too narrow even for a short name, which then stands to its left.
        place, side = (last - 0.5, "right") if not first else ((first + last - 1) / 2, "center")
        text = f"{name[:4]}." if is_narrow else name
        axes.text(place, -1.5, text, ha=side, va="bottom", fontsize=7, color=INK)
        if first:
            axes.axhline(first - 0.5, color=PHASE_COLOURS[0], linewidth=0.5)
            axes.axvline(first - 0.5, color=PHASE_COLOURS[0], linewidth=0.5)


def _crystal_system(class_name: str) -> str | None:
    """Crystal system of a class that is a space-group number or whose first word is one; None of others."""
    first = class_name.split(" ", 1)[0]
    if first.isdecimal():
        return next((system for last, system in CRYSTAL_SYSTEMS if 1 <= int(first) <= last), None)
    return first if first in {system for _, system in CRYSTAL_SYSTEMS} else None
