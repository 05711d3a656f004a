"""Host zone. Plans: the stages of a refinement as data."""

from __future__ import annotations

import dataclasses
import fnmatch
import json
import os
import pathlib
from collections.abc import Sequence

import numpy as np

from simxrd_jax.conditions import nearest
from simxrd_jax.errors import InputError
from simxrd_jax.refine.build import Model


@dataclasses.dataclass(frozen=True)
class Stage:
    """Least squares with some parameters free.

    Attributes:
      name: what is said of it.
      free: patterns of parameters: names, shell patterns, "@group".
      fixed: patterns of those of them that stay.
      blur: FWHM of a Gaussian with which pattern and model are folded, so that lines farther apart than their widths find each
        other; 0 for none. [deg]
      max_iterations: turns at most.
      least_share: of the area of all peaks; a phase that gave less in the stage before keeps all but its scale.
      cycles: of a model with intensities that are neither free nor fixed, how often at most Le Bail's partition and least
        squares follow each other.
    """

    name: str
    free: tuple[str, ...]
    fixed: tuple[str, ...] = ()
    blur: float = 0.0
    max_iterations: int = 30
    least_share: float = 0.0
    cycles: int = 40


@dataclasses.dataclass(frozen=True)
class Plan:
    """Stages in order; each starts where the last ended."""

    name: str
    stages: tuple[Stage, ...]


def cumulative(name: str, steps: dict[str, tuple[str, ...]], max_iterations: int = 30) -> Plan:
    """A plan in which every stage keeps what the ones before have freed."""
    free: tuple[str, ...] = ()
    stages = []
    for title, more in steps.items():
        free = (*free, *more)
        stages.append(Stage(title, free, max_iterations=max_iterations))
    return Plan(name, tuple(stages))


# Widths of the Gaussians with which the first stages fold pattern and model: a line at 60 deg of a cell that is 0.5 % off
# starts 0.3 deg away. [deg]
FIRST_BLURS = (0.8, 0.25)
LOW_TERMS = 3
FAINT = 0.02  # share of the peaks' area below which a phase's cell, widths and sites are not refined


def default_plan(model: Model, *, position: str = "instrument.displacement", refines_instrument: bool = True) -> Plan:
    """Stages for a plain case: lines find each other, then widths, position, asymmetry, texture, displacements, sites.

    With intensities that are parameters, the first stages refine the first `LOW_TERMS` terms of the background, because more
    could take over what peaks that are still off their places leave; Pawley's intensities are free in a last stage.

    Sites are refined where there is one phase alone and at least three reflections for each parameter of its atoms; with
    several phases displacement parameters stay as they are too. Of a phase with hardly any intensity the scale alone moves.

    Args:
      model: whose parameters decide which stages there are.
      position: the aberration that is refined; displacement for a flat specimen, zero shift for a capillary.
      refines_instrument: whether the instrument's Gaussian width is refined, as where no file states it.
    """
    groups = {p.group for p in model.table.parameters}
    names = set(model.table.names)
    modes = {phase.mode for phase in model.phases}
    scale = ("@scale",) if "scale" in groups else ()
    low = tuple(p.name for p in model.table.parameters if p.group == "background")[:LOW_TERMS]
    first = (*scale, "@cell", *(("@background",) if modes == {"rietveld"} else low))
    stages = [Stage(f"cell, blurred by {blur:g} deg", first, blur=blur) for blur in FIRST_BLURS]
    if len(model.phases) > 1 and modes == {"rietveld"}:
        stages.insert(0, Stage("scale, background", ("@scale", "@background")))
    free: tuple[str, ...] = (*scale, "@background", "@cell")
    widths = ("phases.*.grain_size", *(("instrument.caglioti_w",) if refines_instrument else ()))
    strains = ("phases.*.microstrain", "phases.*.stephens.*")
    widths += tuple(pattern for pattern in strains if any(fnmatch.fnmatchcase(name, pattern) for name in names))
    steps: list[tuple[str, tuple[str, ...]]] = [("position, widths", (position, *widths))]
    if "instrument.axial_source" in names:
        steps.append(("asymmetry", ("instrument.axial_source",)))
    if "texture" in groups:
        steps.append(("texture", ("@texture",)))
    single = len(model.phases) == 1 and modes == {"rietveld"}
    structure = tuple(group for group in ("coordinate", "displacement") if group in groups)
    sites = [p for p in model.table.parameters if p.group in structure and ".sites." in p.name]
    lines = int(np.sum(np.asarray(model.arrays.phases[0].reflections.multiplicity) > 0))
    if single and lines >= 3 * len(sites):
        steps.append(("displacement parameters", ("*.sites.*.biso", *(("*.sites.*.u??",) if _has_tensors(names) else ()))))
        if "coordinate" in groups:
            steps.append(("sites", ("@coordinate",)))
    elif single:
        steps.append(("displacement parameters", tuple(f"phases.{phase.name}.biso" for phase in model.phases)))
    for phase in model.phases:
        if phase.mode == "pawley":
            steps.append((f"intensities of {phase.name}", (f"phases.{phase.name}.reflections.*",)))
    if modes != {"rietveld"}:
        # Intensities follow lines that are off as well as lines in place: positions settle before widths do.
        stages.append(Stage("position, blurred by 0.1 deg", (*free, position), blur=0.1))
    for title, more in steps:
        free = (*free, *more)
        stages.append(Stage(title, free))
    return Plan("default", tuple(dataclasses.replace(stage, least_share=FAINT) for stage in stages))


# Plans that have a name, and what they do.
PLANS = {
    "default": "everything that the data of a plain case tell",
    "profile": "the same without displacement parameters and sites",
    "cell": "scale, background, cell and position; widths as they start",
}


def named_plan(name: str, model: Model, *, position: str, refines_instrument: bool) -> Plan:
    """One of `PLANS`; arguments as of `default_plan`.

    Raises:
      InputError: there is none of that name.
    """
    plan = default_plan(model, position=position, refines_instrument=refines_instrument)
    if name == "default":
        return plan
    if name == "profile":
        left_out = ("displacement parameters", "sites")
        return Plan(name, tuple(stage for stage in plan.stages if stage.name not in left_out))
    if name == "cell":
        blurred = tuple(stage for stage in plan.stages if stage.blur)
        scale = ("@scale",) if any(p.group == "scale" for p in model.table.parameters) else ()
        return Plan(name, (*blurred, Stage("cell, position", (*scale, "@background", "@cell", position))))
    raise InputError(f"there is no plan {name!r}{nearest(name, PLANS)}")


def _has_tensors(names: set[str]) -> bool:
    return any(name.endswith(".u11") for name in names)


def changed(plan: Plan, free: Sequence[str], fixed: Sequence[str]) -> Plan:
    """A plan whose last stage frees more, and whose stages all hold what is fixed."""
    stages = [dataclasses.replace(stage, fixed=(*stage.fixed, *fixed)) for stage in plan.stages]
    if free:
        last = stages[-1]
        stages.append(dataclasses.replace(last, name="more", free=(*last.free, *free)))
    return dataclasses.replace(plan, stages=tuple(stages))


# Field of a stage, its types in a file, and what it must be.
FIELDS = (
    ("name", (str,), "a text"),
    ("free", (list,), "a list of patterns"),
    ("fixed", (list,), "a list of patterns"),
    ("blur", (int, float), "a number of degrees"),
    ("least_share", (int, float), "a number"),
    ("max_iterations", (int,), "a whole number"),
    ("cycles", (int,), "a whole number"),
)


def read_plan(path: str | os.PathLike[str]) -> Plan:
    """A plan from a JSON file: {"name": ..., "stages": [{"name": ..., "free": [...], ...}]}.

    Raises:
      InputError: a file that cannot be read, or a stage with a field that there is not.
    """
    try:
        content = json.loads(pathlib.Path(path).read_text(encoding="utf-8"))
        stages = []
        for given in content["stages"]:
            known = {field.name: None for field in dataclasses.fields(Stage)}
            for field in given:
                if field not in known:
                    raise InputError(f"{path}: a stage has no field {field!r}{nearest(field, known)}")
            for field, kinds, need in FIELDS:
                if field in given and (not isinstance(given[field], kinds) or isinstance(given[field], bool)):
                    raise InputError(f"{path}: {field!r} of a stage is {given[field]!r}; it must be {need}")
            if given.get("max_iterations", 1) < 1 or given.get("cycles", 1) < 1:
                raise InputError(
                    f"{path}: a stage needs at least one turn; leave out max_iterations and cycles, or raise them"
                )
            lists = {field: tuple(given[field]) for field in ("free", "fixed") if field in given}
            stages.append(Stage(**{**given, **lists}))
        return Plan(str(content.get("name", pathlib.Path(path).stem)), tuple(stages))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: is no plan ({error}); see docs/refinement.md for an example") from None
