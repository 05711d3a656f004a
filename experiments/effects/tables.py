"""The tables of docs/physics.md, from the tables of the code."""

from __future__ import annotations

import math
import re
from typing import Any

from simxrd_jax.conditions import CONDITIONS
from simxrd_jax.presets import PRESETS


def conditions_table() -> str:
    """Every condition: unit, default, limits, meaning."""
    lines = ["| name | group | unit | default | limits | meaning |", "|---|---|---|---|---|---|"]
    for row in CONDITIONS.values():
        default = "off" if row.default is None else _numbers(row.default)
        meaning = row.meaning + (f" ({row.shape[0]} values)" if row.shape else "")
        limits = f"{_number(row.low)} to {_number(row.high)}"
        lines.append(f"| `{row.name}` | {row.group} | {row.unit or '1'} | {default} | {limits} | {meaning} |")
    return "\n".join(lines)


def presets_table() -> str:
    """Every condition that a preset fixes or draws, side by side."""
    names = [name for name in CONDITIONS if any(name in p.fixed or name in p.drawn for p in PRESETS.values())]
    lines = ["| | " + " | ".join(f"`{name}`" for name in PRESETS) + " |", "|---" * (len(PRESETS) + 1) + "|"]
    radiation = [f"{p.radiation.name}: {', '.join(f'{w:g}' for w in p.radiation.wavelength)} Å" for p in PRESETS.values()]
    lines.append("| emission lines | " + " | ".join(radiation) + " |")
    lines.append("| 2θ start, stop, step (deg) | " + " | ".join(_numbers(p.two_theta) for p in PRESETS.values()) + " |")
    lines.append(
        "| strain | " + " | ".join("splits orbits" if p.split_orbits else "keeps the class" for p in PRESETS.values()) + " |"
    )
    for name in names:
        unit = CONDITIONS[name].unit
        cells = []
        for preset in PRESETS.values():
            if name in preset.drawn:
                cells.append(_choice(str(preset.drawn[name])))
            else:
                cells.append(_numbers(preset.fixed[name]) if name in preset.fixed else "")
        lines.append(f"| `{name}`{f' ({unit})' if unit else ''} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


TABLES = {"conditions": conditions_table, "presets": presets_table}


def renew(text: str) -> str:
    """A page with everything between `<!-- NAME: generated -->` and `<!-- NAME: end -->` written anew."""
    for name, table in TABLES.items():
        pattern = rf"(<!-- {name}: generated[^>]*-->\n).*?(<!-- {name}: end -->)"
        if not re.search(pattern, text, flags=re.DOTALL):
            raise ValueError(f"the page has no place for the table {name}; put the comments that mark it back")
        text = re.sub(pattern, lambda m, t=table: f"{m[1]}{t()}\n{m[2]}", text, flags=re.DOTALL)
    return text


def _number(value: float) -> str:
    return "inf" if math.isinf(value) else f"{value:g}"


def _numbers(value: Any) -> str:
    return ", ".join(_number(v) for v in value) if isinstance(value, tuple) else _number(float(value))


def _choice(text: str) -> str:
    return text.replace("|", "&#124;")
