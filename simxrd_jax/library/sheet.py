"""Host zone. A contact sheet: sampled patterns of a library, each under its labels and the conditions that shaped it."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gemmi
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from simxrd_jax.conditions import STRAIN
from simxrd_jax.library.plots import SYSTEM_COLOURS, symbol_text
from simxrd_jax.library.store import Library
from simxrd_jax.plots import INK
from simxrd_jax.presets import Preset, seed_of_key_data

MAX_PANELS = 60  # more would be too small to read, or a picture too long to look at
NANOMETRE = 10.0  # [A]
FROM_NANOMETRES = 100.0  # smaller grains are given in A [A]
GREY = "#555555"
ALARM = "#b00020"  # of labels that depend on the tolerance
MARK = "≠"
SEPARATOR = " · "
# Panels up to a number: columns, inches of a panel's width and of its axes' height, points of its two lines of text.
LAYOUTS = (
    (1, 1, 8.4, 3.2, 10.0, 8.5),
    (4, 2, 5.0, 1.9, 9.0, 7.5),
    (15, 3, 3.9, 1.25, 7.5, 6.5),
    (28, 4, 3.5, 1.0, 7.0, 6.0),
    (MAX_PANELS, 5, 3.2, 0.9, 6.5, 5.8),
)
MARGIN, GUTTER = 0.18, 0.3  # around all panels and between two columns [inch]
LINE = 0.17  # of the caption [inch]
FOOTER = 0.44  # height of the axis labels [inch]
TICK_ROOM = 0.12  # under each axis [inch]
SHORT_LENGTHS = (48, 36, 28, 22, 18, 15, 12, 10, 8, 6, 4)  # letters that an id or formula may take, tried in turn
FILL = 0.2  # opacity under a pattern: on a logarithmic scale the background fills half of a panel
HEADROOM = 1.04  # the axis ends above the highest point by this factor


@dataclass(frozen=True)
class Entry:
    """What is said of one sampled pattern.

    Attributes:
      number: from 1, in the order of the sheet.
      identifier, formula: of the structure.
      space_group: number, 0 where none was found.
      crystal_system: name.
      other_labels: space groups at the tight and at the loose tolerance where they differ, else None.
      seed: as for `presets.key_of_seed`.
    """

    number: int
    identifier: str
    formula: str
    space_group: int
    crystal_system: str
    other_labels: tuple[int, int] | None
    seed: int


def sheet_entries(library: Library, structures: np.ndarray, key_data: np.ndarray) -> list[Entry]:
    """Labels and seeds of sampled patterns.

    Args:
      library: that was sampled.
      structures: index of each pattern's structure [pattern].
      key_data: of each pattern's key [pattern, 2].
    """
    found = []
    for i, (structure, data) in enumerate(zip(structures.tolist(), key_data, strict=True)):
        tight, loose = int(library.space_group_tight[structure]), int(library.space_group_loose[structure])
        found.append(
            Entry(
                number=i + 1,
                identifier=str(library.ids[structure]),
                formula=str(library.formulas[structure]),
                space_group=int(library.space_group[structure]),
                crystal_system=str(library.crystal_system[structure]),
                other_labels=None if tight == loose else (tight, loose),
                seed=seed_of_key_data(data),
            )
        )
    return found


def plain_symbol(number: int) -> str:
    """Short Hermann-Mauguin symbol of a space group in letters: P21/c, Fm-3m, R-3m."""
    group = gemmi.find_spacegroup_by_number(number)
    assert group is not None
    name = group.short_name()
    return "R" + name[1:] if name.startswith("H") else name  # gemmi marks the hexagonal axes of R with an H


def labels_text(labels: tuple[int, int]) -> str:
    """Space groups at the tight and the loose tolerance, "none" where there is none."""
    return " | ".join(str(label) if label else "none" for label in labels)


def condition_parts(values: Mapping[str, Any], preset: Preset) -> list[str]:
    """The drawn conditions that tell most about a pattern, with units; what is the same in every pattern is left out.

    Args:
      values: name -> value of one pattern.
      preset: that drew them.
    """
    return [text(*(np.asarray(values[name], dtype=np.float64) for name in names)) for names, text, _ in _shown(preset)]


def condition_legend(preset: Preset) -> str:
    """What the letters of `condition_parts` mean."""
    return SEPARATOR.join(meaning for _, _, meaning in _shown(preset))


def _size(value: np.ndarray) -> str:
    return f"D {_rounded(value, 3)} Å" if value < FROM_NANOMETRES else f"D {_rounded(value / NANOMETRE, 3)} nm"


def _axis(value: np.ndarray) -> str:
    return " ".join(f"{v:g}" for v in value)


# Conditions that stand together, the text of their values, and what its letter means.
_TELLING: tuple[tuple[tuple[str, ...], Callable[..., str], str], ...] = (
    (("grain_size",), _size, "D grain size"),
    (("microstrain",), lambda e: f"e {_rounded(100 * e, 2)} %", "e microstrain"),
    (STRAIN, lambda *parts: f"E {_signed(100 * _greatest_strain(np.array(parts)), 2)} %", "E greatest principal strain"),
    (("march_dollase", "texture_axis"), lambda r, axis: f"r {r:.2f} ({_axis(axis)})", "r March coefficient (texture axis)"),
    (
        ("orientation_below", "orientation_above"),
        lambda low, high: f"t \N{MINUS SIGN}{_rounded(low, 2)} +{_rounded(high, 2)}",
        "t bounds of the texture factors less 1",
    ),
    (("displacement_rms",), lambda u: f"u {_rounded(u, 2)} Å", "u rms displacement"),
    (("zero_shift",), lambda shift: f"z {_signed(shift, 2)}°", "z zero shift"),
    (("peak_counts",), lambda n: f"{_rounded(n, 3)} counts", "counts at the highest point"),
)


def _shown(preset: Preset) -> list[tuple[tuple[str, ...], Callable[..., str], str]]:
    """Rows of the table whose conditions a preset draws; a strain that keeps the crystal class does not show."""
    drawn = [row for row in _TELLING if set(row[0]) <= set(preset.drawn)]
    return [row for row in drawn if row[0] != STRAIN or preset.split_orbits]


def _greatest_strain(components: np.ndarray) -> float:
    tensor = components.reshape(3, 3)
    return float(max(np.linalg.eigvalsh((tensor + tensor.T) / 2), key=abs))


def _rounded(value: Any, digits: int) -> str:
    """A number with so many significant digits and no exponent."""
    number = float(value)
    if number == 0 or not math.isfinite(number):
        return f"{number:g}"
    decimals = digits - 1 - math.floor(math.log10(abs(number)))
    return f"{round(number, decimals):,.{max(decimals, 0)}f}"


def _signed(value: Any, digits: int) -> str:
    """The same with its sign, a true minus."""
    return ("\N{MINUS SIGN}" if value < 0 else "+") + _rounded(abs(float(value)), digits)


def plot_sheet(
    two_theta: np.ndarray,
    patterns: np.ndarray,
    entries: Sequence[Entry],
    conditions: Sequence[Sequence[str]],
    caption: Sequence[str],
) -> Figure:
    """Panels of patterns in rows, coloured by crystal system, with one 2theta axis for all.

    Args:
      two_theta: grid of all patterns [point]. [deg]
      patterns: [pattern, point]; each panel ends at its own highest point.
      entries: of the patterns, at most MAX_PANELS.
      conditions: what `condition_parts` says of each; parts that find no room are left out from the last.
      caption: lines over the panels, the first is the title.
    """
    columns, width, height, large, small = next(layout[1:] for layout in LAYOUTS if len(entries) <= layout[0])
    columns = min(columns, len(entries))
    rows = math.ceil(len(entries) / columns)
    first_line, second_line = (0.45 * small + 1.4 * small) / 72, 0.45 * small / 72  # over the axes [inch]
    row = height + first_line + 1.5 * large / 72 + TICK_ROOM
    inside = columns * width + (columns - 1) * GUTTER
    page = (inside + 2 * MARGIN, MARGIN + LINE * len(caption) + rows * row + FOOTER)
    figure = Figure(figsize=page, facecolor="white")
    FigureCanvasAgg(figure)
    for i, (entry, parts) in enumerate(zip(entries, conditions, strict=True)):
        left = MARGIN + (i % columns) * (width + GUTTER)
        bottom = FOOTER + (rows - 1 - i // columns) * row
        top = bottom + height
        axes = figure.add_axes((left / page[0], bottom / page[1], width / page[0], height / page[1]))
        is_lowest = i + columns >= len(entries)
        _draw_pattern(axes, two_theta, patterns[i], SYSTEM_COLOURS[entry.crystal_system], large, is_lowest)
        _write_line(figure, (left, top + first_line), width, _titles(entry), large, INK)
        taken = 0.0
        if entry.other_labels is not None:
            mark = f"{MARK} {labels_text(entry.other_labels)}"
            taken = _write_line(figure, (left, top + second_line), width, [mark], small, ALARM) + small / 72
        texts = [SEPARATOR.join(parts[:count]) for count in range(len(parts), 0, -1)]
        _write_line(figure, (left + taken, top + second_line), width - taken, texts, small, GREY)
    for i, line in enumerate(caption):
        look = (10.0, INK) if i == 0 else (8.0, GREY)
        _write_line(figure, (MARGIN, page[1] - MARGIN - LINE * (i + 0.5)), inside, [_literal(line)], *look)
    return figure


def _draw_pattern(
    axes: Axes, two_theta: np.ndarray, pattern: np.ndarray, colour: str, fontsize: float, is_lowest: bool
) -> None:
    """One pattern over a fill of its crystal system's colour; only the lowest panel of a column has numbers on its axis."""
    low, high = min(0.0, float(pattern.min())), float(pattern.max())
    axes.fill_between(two_theta, low, pattern, color=colour, alpha=FILL, linewidth=0)
    axes.plot(two_theta, pattern, color=INK, linewidth=0.5, solid_joinstyle="round")
    axes.set_xlim(float(two_theta[0]), float(two_theta[-1]))
    axes.set_ylim(low, low + HEADROOM * (high - low) if high > low else low + 1.0)
    axes.set_yticks([])
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.spines["left"].set(color=colour, linewidth=3.0)
    axes.spines["bottom"].set_linewidth(0.6)
    axes.tick_params(direction="out", labelbottom=is_lowest, labelsize=fontsize - 0.5, length=2.5, width=0.6, pad=2)
    if is_lowest:
        axes.set_xlabel("2θ (degrees)", fontsize=fontsize, labelpad=2)


def _titles(entry: Entry) -> Iterator[str]:
    """A panel's title, then shorter ones: formula and id lose letters, the label none."""
    symbol = f" {symbol_text(entry.space_group)}" if entry.space_group else ""
    label = f"No. {entry.space_group}{symbol} ({entry.crystal_system})"
    for length in SHORT_LENGTHS:
        identifier, formula = _shortened(entry.identifier, length), _shortened(entry.formula, length)
        yield f"{entry.number}   {_literal(identifier)}   {_with_subscripts(formula)}   {label}"


def _shortened(text: str, length: int) -> str:
    """The text with its middle left out where it is longer; ids often differ at their ends."""
    if len(text) <= length:
        return text
    kept = length - 1
    return text[: kept - kept // 3] + "…" + text[len(text) - kept // 3 :]


def _literal(text: str) -> str:
    """The text with its dollar signs kept from meaning a formula."""
    return text.replace("$", r"\$")


def _with_subscripts(formula: str) -> str:
    return re.sub(r"(\d+(?:\.\d+)?)", r"$_{\1}$", _literal(formula))


def _write_line(
    figure: Figure, place: tuple[float, float], width: float, texts: Iterable[str], fontsize: float, colour: str
) -> float:
    """Writes the first of some texts that is no wider than it may be, or the last; returns its width. [inch]"""
    page = figure.get_size_inches()
    line = figure.text(place[0] / page[0], place[1] / page[1], "", fontsize=fontsize, color=colour, va="baseline")
    taken = 0.0
    for text in texts:
        line.set_text(text)
        taken = line.get_window_extent().width / figure.dpi
        if taken <= width:
            break
    return taken
