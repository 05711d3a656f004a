"""Host zone. The work behind `simxrd models`: which models there are, and how large."""

from __future__ import annotations

import json

from simxrd_jax.models.registry import CRYSTAL_SYSTEMS, MODELS, SPACE_GROUPS, parameter_count

COLUMNS = ("name", "title", "reference", "variant", f"{CRYSTAL_SYSTEMS} classes", f"{SPACE_GROUPS} classes")


def show_models(*, as_json: bool) -> str:
    """A table of the models with their parameters, or the same as JSON.

    Args:
      as_json: a list of {name, variant, num_classes, parameters} instead of the table.
    """
    counts = {
        (card.name, variant): {n: parameter_count(card.name, num_classes=n, variant=variant) for n in _CLASSES}
        for card in MODELS.values()
        for variant in card.variants
    }
    if as_json:
        rows = [
            {"name": name, "variant": variant, "num_classes": classes, "parameters": parameters}
            for (name, variant), of_classes in counts.items()
            for classes, parameters in of_classes.items()
        ]
        return json.dumps(rows, indent=2)
    table: list[tuple[str, ...]] = [COLUMNS]
    for (name, variant), of_classes in counts.items():
        card = MODELS[name]
        table.append((name, card.title, card.reference, variant, *(f"{n:,}" for n in of_classes.values())))
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return "\n".join(_line(row, widths) for row in table)


def _line(row: tuple[str, ...], widths: list[int]) -> str:
    """Words to the left, numbers to the right."""
    words = [cell.ljust(width) for cell, width in zip(row[:4], widths[:4], strict=True)]
    return "  ".join(words + [cell.rjust(width) for cell, width in zip(row[4:], widths[4:], strict=True)])


_CLASSES = (CRYSTAL_SYSTEMS, SPACE_GROUPS)
