"""Host zone. What a case of the reference refinements is, and what it leaves."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from simxrd_jax.refine.build import Model
from simxrd_jax.refine.fit import Refinement, refine
from simxrd_jax.refine.plans import Plan


@dataclasses.dataclass(frozen=True)
class Finding:
    """A number of a case beside what is known of it.

    Attributes:
      what: quantity, with its unit.
      value: found.
      sigma: its standard uncertainty, or None.
      known: certified, weighed or published value, or None.
      peer: what the best other program finds, or None.
      bound: what must hold, in words, or "".
      holds: whether it does; None where nothing is promised.
      note: one sentence, or "".
    """

    what: str
    value: float
    sigma: float | None = None
    known: float | None = None
    peer: float | None = None
    bound: str = ""
    holds: bool | None = None
    note: str = ""


@dataclasses.dataclass(frozen=True)
class FitRecord:
    """A fit in numbers: processor seconds with compilation, and of the same fit again."""

    name: str
    n_points: int
    n_parameters: int
    rwp: float
    gof: float
    first_seconds: float
    compiled_seconds: float | None
    converged: bool
    warnings: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a case gives: its findings, its fits, the fits to draw (name -> fit), and a table of its own."""

    findings: tuple[Finding, ...]
    fits: tuple[FitRecord, ...]
    drawn: dict[str, Refinement] = dataclasses.field(default_factory=dict)
    rows: Sequence[Sequence[str]] = ()


@dataclasses.dataclass(frozen=True)
class Tools:
    """What a case is handed.

    Attributes:
      data: folder of the measured patterns, with TRUTH.json.
      say: takes one sentence.
      times_again: whether each fit is made a second time for its compiled time.
    """

    data: pathlib.Path
    say: Callable[[str], None]
    times_again: bool = False

    def truth(self, name: str) -> Any:
        """The entry of TRUTH.json."""
        return json.loads((self.data / "TRUTH.json").read_text(encoding="utf-8"))[name]

    def fit(
        self,
        name: str,
        model: Model,
        observed: np.ndarray,
        plan: Plan,
        *,
        sigma: np.ndarray | None = None,
        excluded: Sequence[tuple[float, float]] = (),
        start: dict[str, float] | None = None,
    ) -> tuple[Refinement, FitRecord]:
        """A timed refinement."""
        run = lambda: refine(model, observed, plan, sigma=sigma, excluded=excluded, start=start, say=self.say)  # noqa: E731
        before = time.process_time()
        found = run()
        first = time.process_time() - before
        again = None
        if self.times_again:
            before = time.process_time()
            run()
            again = time.process_time() - before
        a = found.agreement
        self.say(f"{name}: Rwp {100 * a.rwp:.2f} %, GOF {a.gof:.2f}, {a.n_parameters} parameters, {first:.1f} CPU s")
        record = FitRecord(name, a.n_points, a.n_parameters, a.rwp, a.gof, first, again, found.converged, found.warnings)
        return found, record


Case = Callable[[Tools], Outcome]
