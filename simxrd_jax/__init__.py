"""simxrd_jax: a differentiable powder X-ray diffraction simulator in JAX.

    import jax
    import simxrd_jax as sx

    preset = sx.get_preset("laboratory")
    phase = sx.load_phase_for("corundum.cif", preset)
    pattern, conditions = sx.simulate_preset(
        phase.crystal, phase.reflections, preset, preset.grid(), preset.settings(), key=jax.random.key(0)
    )

Names are imported when they are first used: the simulator itself then runs on a machine that has JAX and none of the
crystallographic packages that read files.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from simxrd_jax.constants import RADIATIONS
    from simxrd_jax.diffraction.noise import add_noise
    from simxrd_jax.diffraction.settings import REFINEMENT, TRAINING, Settings
    from simxrd_jax.diffraction.simulate import peak_list, simulate, simulate_mixture
    from simxrd_jax.errors import InputError
    from simxrd_jax.library.store import read_library
    from simxrd_jax.library.stream import make_stream
    from simxrd_jax.phases import load_phase, load_phase_for
    from simxrd_jax.presets import PRESETS, get_preset, measure, sample, simulate_preset
    from simxrd_jax.types import (
        Background,
        Crystal,
        Grid,
        Instrument,
        Noise,
        Pattern,
        PeakList,
        Phase,
        ReflectionList,
        Specimen,
    )

__all__ = [
    "PRESETS",
    "RADIATIONS",
    "REFINEMENT",
    "TRAINING",
    "Background",
    "Crystal",
    "Grid",
    "InputError",
    "Instrument",
    "Noise",
    "Pattern",
    "PeakList",
    "Phase",
    "ReflectionList",
    "Settings",
    "Specimen",
    "__version__",
    "add_noise",
    "get_preset",
    "load_phase",
    "load_phase_for",
    "make_stream",
    "measure",
    "peak_list",
    "read_library",
    "sample",
    "simulate",
    "simulate_mixture",
    "simulate_preset",
]

_MODULES = {
    "simxrd_jax.constants": ("RADIATIONS",),
    "simxrd_jax.diffraction.noise": ("add_noise",),
    "simxrd_jax.diffraction.settings": ("REFINEMENT", "TRAINING", "Settings"),
    "simxrd_jax.diffraction.simulate": ("peak_list", "simulate", "simulate_mixture"),
    "simxrd_jax.errors": ("InputError",),
    "simxrd_jax.library.store": ("read_library",),
    "simxrd_jax.library.stream": ("make_stream",),
    "simxrd_jax.phases": ("load_phase", "load_phase_for"),
    "simxrd_jax.presets": ("PRESETS", "get_preset", "measure", "sample", "simulate_preset"),
    "simxrd_jax.types": (
        "Background", "Crystal", "Grid", "Instrument", "Noise", "Pattern", "PeakList", "Phase", "ReflectionList", "Specimen",
    ),
}  # fmt: skip
_HOME = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'simxrd_jax' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
