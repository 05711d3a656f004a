"""Host zone. Ten weighed mixtures of precursors on a laboratory diffractometer with a nickel filter and a strip detector.

No pure powders were measured, so that each pattern is refined alone: by the default plan for mixtures, then with the K-beta
line that the filter lets through, then with textures by spherical harmonics, then after Brindley's correction. What each step
changes is shown; which of them is right the mixtures cannot tell, since purity and hydration of the powders are not certified.
"""

from __future__ import annotations

import dataclasses
import pathlib
import re

import numpy as np

from experiments.refine_reference.case import Case, Finding, Outcome, Tools
from simxrd_jax.constants import RADIATIONS
from simxrd_jax.diffraction.settings import TRAINING, Settings
from simxrd_jax.io.cif import read_cif
from simxrd_jax.io.patterns import MeasuredPattern, read_pattern
from simxrd_jax.refine.build import InstrumentStart, PhaseStart, make_model
from simxrd_jax.refine.fit import Refinement
from simxrd_jax.refine.microabsorption import of_refinement
from simxrd_jax.refine.plans import Stage, changed, default_plan

FOLDER = "qpa_dara_precursors"
# What the file names call the phases -> files of structures; titania is anatase by the places of its lines.
STRUCTURES = {"TiO2": "TiO2_anatase", "La(OH)3": "LaOH3"}
K_BETA_START = 2e-3  # share of K-beta, which is refined
K_BETA_WEIGHT = "instrument.line_weight.2"
ORDER = 4  # of spherical harmonics
DIAMETER = 5.0  # of all grains, for Brindley's correction [um]
NOTHING = 1e-9  # share of K-beta that no one sees
# What the steps hold.
HELD = {"plain": (K_BETA_WEIGHT, "@texture"), "K-beta": ("@texture",), "texture": ()}
STEPS = (*HELD, f"Brindley, {DIAMETER:g} um")
# Scans of eight minutes: the sum's error is far below their noise, and it compiles in half the time.
SETTINGS = Settings(accuracy=TRAINING)


@dataclasses.dataclass(frozen=True)
class Mixture:
    """A file and its phases: name -> weighed share. [wt%]"""

    path: pathlib.Path
    weighed: dict[str, float]


def mixtures(tools: Tools) -> list[Mixture]:
    """All of the folder, in the order of TRUTH.json."""
    entry = tools.truth(FOLDER)["weighed_wt_pct"]
    return [Mixture(tools.data / FOLDER / name, weighed) for name, weighed in entry.items()]


def refined(tools: Tools, mixture: Mixture, measured: MeasuredPattern) -> dict[str, Refinement]:
    """The fits of all steps, by one program."""
    radius = measured.instrument["goniometer_radius"]
    # Fixed slit of 1 deg; the detector sees heights as the mask of the beam leaves them on the specimen.
    half = 0.5 * measured.instrument["beam_mask"] / radius
    values = {"goniometer_radius": radius, "axial_source": half, "axial_detector": half}
    lines = dataclasses.replace(RADIATIONS["CuKa+Kb"], weight=(1.0, 0.5, K_BETA_START))
    phases = [
        PhaseStart(
            re.sub(r"\W", "", name),
            read_cif(tools.data.parent / "phase_cifs" / f"{STRUCTURES.get(name, name)}.cif"),
            harmonics_order=ORDER,
        )
        for name in mixture.weighed
    ]
    start = InstrumentStart(values)
    model = make_model(phases, lines, measured.two_theta, instrument=start, background_terms=10, settings=SETTINGS)
    whole = changed(default_plan(model), (K_BETA_WEIGHT, "@texture"), ())
    fits = {}
    for step, held in HELD.items():
        # The first stage does nothing but make room for all that is free in any step: all steps then share one program.
        room = Stage("room", whole.stages[-1].free, max_iterations=0)
        plan = changed(whole, (), held)
        plan = dataclasses.replace(plan, stages=(room, *plan.stages))
        begin = {K_BETA_WEIGHT: NOTHING} if K_BETA_WEIGHT in held else {}
        name = f"{mixture.path.stem}, {step}"
        fits[step], _ = tools.fit(name, model, measured.intensity, plan, start=begin)
    return fits


def dara(tools: Tools) -> Outcome:
    """The table of all."""
    rows = [["mixture", "phase", "weighed (wt%)", *STEPS, "Rwp (%), plain", "Rwp (%), texture"]]
    errors: dict[str, list[float]] = {step: [] for step in STEPS}
    drawn = {}
    for mixture in mixtures(tools):
        measured = read_pattern(mixture.path)
        fits = refined(tools, mixture, measured)
        last = fits["texture"]
        corrected = of_refinement(last, {phase.name: DIAMETER for phase in last.model.phases})
        for i, (phase, weighed) in enumerate(mixture.weighed.items()):
            key = last.model.phases[i].name
            found = [100 * fit.weight_fractions[key][0] for fit in fits.values()] + [100 * corrected[key][0]]
            for step, value in zip(STEPS, found, strict=True):
                errors[step].append(value - weighed)
            rwp = [f"{100 * fits[step].agreement.rwp:.2f}" for step in ("plain", "texture")] if i == 0 else ["", ""]
            name = mixture.path.stem.partition("--")[0] if i == 0 else ""
            rows.append([name, phase, f"{weighed:.2f}", *(f"{value:.1f}" for value in found), *rwp])
        drawn[mixture.path.stem] = last
    findings = [
        Finding(f"RMS error, {step} (wt%)", float(np.sqrt(np.mean(np.square(values))))) for step, values in errors.items()
    ]
    return Outcome(tuple(findings), (), drawn, rows)


CASES: dict[str, Case] = {"Dara": dara}
