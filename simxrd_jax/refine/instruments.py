"""Host zone. Instruments that have a name, for `--instrument`: where a refinement starts that has no file of its own.

They state geometry and emission lines, and no widths: those are refined. What the measurement's own file states goes first.
"""

from __future__ import annotations

from simxrd_jax.constants import RADIATIONS
from simxrd_jax.io.instruments import InstrumentFile

GRAPHITE = 26.6  # 2theta of graphite (002) for Cu K-alpha [deg]

INSTRUMENTS = {
    "bragg-brentano": InstrumentFile({"goniometer_radius": 217.5}, RADIATIONS["CuKa"]),
    "bragg-brentano-graphite": InstrumentFile(
        {"goniometer_radius": 217.5, "monochromator_two_theta": GRAPHITE}, RADIATIONS["CuKa"]
    ),
    "bragg-brentano-ka1": InstrumentFile({"goniometer_radius": 217.5}, RADIATIONS["CuKa1"]),
    "capillary-mo": InstrumentFile({"goniometer_radius": 217.5}, RADIATIONS["MoKa"]),
    "capillary-mo-ka1": InstrumentFile({"goniometer_radius": 217.5}, RADIATIONS["MoKa1"]),
}
