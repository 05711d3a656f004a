"""A measured standard, refined: SRM 660c lanthanum hexaboride of NIST, whose cell is certified."""

from __future__ import annotations

import sys
from pathlib import Path

from experiments.refine_reference.laboratory import LAB6_ONE_SIDED, lab6_model, lab6_plan
from simxrd_jax.refine.fit import Refinement, refine

CERTIFIED = 4.156780  # at the temperature of the measurement. [A]


def run(folder: Path) -> Refinement:
    """The plain model of the diffractometer; `experiments.refine_reference` has the one that is closest to the certificate."""
    model, measured = lab6_model(folder, "CuKa", LAB6_ONE_SIDED)
    plan = lab6_plan("instrument.axial_source")
    say = lambda sentence: print(f"   {sentence}", file=sys.stderr)  # noqa: E731
    return refine(model, measured.intensity, plan, sigma=measured.sigma, say=say)
