"""python -m experiments.effects

Wall time: about 80 s on 2 CPU cores. Writes docs/figures/*.png (each below 60 kB) and the generated tables of
docs/physics.md. With names as arguments only those figures are drawn: python -m experiments.effects size slit
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Config:
    """Where things are, and the look of the figures.

    Attributes:
      cifs: crystals.
      figures, page: what is written.
      points: grid points of a curve.
      width, height: of a figure. [inch]
      dpi: pixels per inch.
      max_bytes: a figure above this size is an error.
      seed: of noise and presets.
    """

    cifs: Path = ROOT / "datasets" / "cifs"
    figures: Path = ROOT / "docs" / "figures"
    page: Path = ROOT / "docs" / "physics.md"
    points: int = 900
    width: float = 7.4
    height: float = 2.5
    dpi: int = 120
    max_bytes: int = 60_000
    seed: int = 3


CONFIG = Config()
