"""python -m experiments.demo --output demo_output

Wall time: about 3 minutes on 2 CPU cores, most of it training. Expected: 4,096 patterns at over 2,000 patterns/s once
compiled, a fit whose parameters lie within three standard uncertainties of the truth, and a network
that names crystal systems of unseen structures better than the best constant answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from simxrd_jax.train.config import POWDERNET_VARIATION, Data, TrainConfig, powdernet_optimizer

DATASETS = Path(__file__).parents[2] / "datasets"


@dataclass(frozen=True)
class Library:
    """The patterns of many structures.

    Attributes:
      path: structure library.
      batch: patterns a batch.
      batches: how many are timed.
      preset: distribution of the conditions.
      shown: patterns in the contact sheet.
      seed: of structures and conditions.
    """

    path: Path = DATASETS / "mp_library.simxrd"
    batch: int = 256
    batches: int = 16
    preset: str = "laboratory"
    shown: int = 12
    seed: int = 20


@dataclass(frozen=True)
class Fit:
    """One noisy pattern whose conditions are found again.

    Attributes:
      cif: crystal.
      two_theta: start, stop, step. [deg]
      known: conditions that the fit is told.
      true, start: conditions that it finds: the truth and the wrong start. `lattice_strain` is the isotropic strain.
      iterations: steps at most.
      seed: of the noise.
    """

    cif: Path = DATASETS / "cifs" / "Al2O3.cif"
    two_theta: tuple[float, float, float] = (20.0, 100.0, 0.02)
    known: Mapping[str, float] = field(
        default_factory=lambda: {"caglioti_u": 0.004, "caglioti_v": -0.002, "caglioti_w": 0.006, "peak_counts": 5000.0}
    )
    true: Mapping[str, float] = field(
        default_factory=lambda: {
            "grain_size": 320.0,
            "microstrain": 8e-4,
            "lattice_strain": 2e-3,
            "zero_shift": 0.06,
            "scale": 1.0,
            "background_level": 0.04,
        }
    )
    start: Mapping[str, float] = field(
        default_factory=lambda: {
            "grain_size": 100.0,
            "microstrain": 3e-3,
            "lattice_strain": 0.0,
            "zero_shift": 0.0,
            "scale": 0.6,
            "background_level": 0.1,
        }
    )
    iterations: int = 30
    seed: int = 4


STEPS = 1200
TRAINING = TrainConfig(
    model="powdernet",
    targets=("crystal_system", "space_group"),
    batch=32,
    steps=STEPS,
    validate_every=400,
    checkpoint_every=400,
    validation_patterns=256,
    data=Data(library="datasets/mp_library.simxrd", split="ool_disjoint", preset="laboratory", **POWDERNET_VARIATION),
    optimizer=powdernet_optimizer(STEPS),
)


@dataclass(frozen=True)
class Config:
    """What the demo does.

    Attributes:
      standard: folder of the measured standard that is refined, or None to leave it out.
      references: crystals whose ideal patterns are drawn.
      reference_conditions: under which.
      library, fit, training: the other parts.
    """

    standard: Path | None = DATASETS / "refinement"
    references: tuple[Path, ...] = tuple(DATASETS / "cifs" / f"{name}.cif" for name in ("Si", "LaB6", "Al2O3"))
    reference_conditions: Mapping[str, float] = field(
        default_factory=lambda: {
            "grain_size": 1500.0,
            "caglioti_u": 0.004,
            "caglioti_v": -0.002,
            "caglioti_w": 0.006,
            "monochromator_two_theta": 26.6,
            "axial_source": 0.02,
            "axial_detector": 0.02,
        }
    )
    library: Library = field(default_factory=Library)
    fit: Fit = field(default_factory=Fit)
    training: TrainConfig = TRAINING


CONFIG = Config()
