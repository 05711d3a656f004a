"""Bounds, ties and restraints of a user."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from simxrd_jax.errors import InputError
from simxrd_jax.refine.build import Restraint, Tie
from simxrd_jax.refine.constraints import constrained, parse_bounds, parse_restraints, parse_ties
from simxrd_jax.refine.fit import refine
from simxrd_jax.refine.plans import cumulative

A, W = "phases.calcite.cell.a", "phases.wuestite.cell.a"
PLAN = cumulative("test", {"all": ("@scale", "@background", "@cell", "phases.*.biso")})


@pytest.fixture(scope="module")
def counts(fitted):
    return fitted.observed


@pytest.fixture(scope="module")
def plain(mixture, counts):
    return refine(mixture, counts, PLAN)


def test_a_restraint_is_one_more_measurement(mixture, counts, plain):
    """Against the normal equations: the mean of fit and restraint, weighted by their inverse variances."""
    i = plain.free.tolist().index(mixture.table.index(A))
    own, value = float(np.sqrt(plain.covariance[i, i])), plain[A][0]
    stated = value + 0.5 * own
    model = constrained(mixture, restraints=[Restraint({A: 1.0}, stated, own)])
    found = refine(model, counts, PLAN)
    assert found[A][0] == pytest.approx((value + stated) / 2, abs=0.02 * own)
    assert found.covariance[i, i] == pytest.approx(own**2 / 2, rel=0.02)


def test_bounds_ties_and_sums(mixture, counts, plain):
    b = "phases.calcite.biso"
    low, high = plain[b][0] + 0.1, plain[b][0] + 0.5
    ratio = plain[A][0] / plain[W][0]
    model = constrained(
        mixture,
        bounds={b: (low, high)},
        ties=[Tie("phases.wuestite.biso", {b: 2.0}, 0.1)],
        restraints=[Restraint({A: 1.0, W: -ratio}, 0.0, 1e-7)],
    )
    found = refine(model, counts, PLAN)
    assert low <= found[b][0] < low + 0.01 * (high - low)
    assert any(b in warning and "at its bound" in warning for warning in found.warnings)
    assert found["phases.wuestite.biso"][0] == pytest.approx(2 * found[b][0] + 0.1, abs=1e-12)
    assert found[A][0] == pytest.approx(ratio * found[W][0], abs=1e-6)
    assert found.agreement.rwp > plain.agreement.rwp


def test_texts(mixture):
    assert parse_bounds(["phases.*.grain_size=50:5e3"]) == {"phases.*.grain_size": (50.0, 5000.0)}
    model = constrained(mixture, bounds=parse_bounds(["phases.*.grain_size=50:500"]))
    sizes = [p for p in model.table.parameters if p.name.endswith("grain_size")]
    assert [p.kind for p in sizes] == ["bounded", "bounded"]
    assert all(50 < p.value < 500 for p in sizes)
    assert parse_restraints(["phases.*.cell.a=5:0.1"], mixture) == (Restraint({A: 1.0}, 5, 0.1), Restraint({W: 1.0}, 5, 0.1))
    (tie,) = parse_ties(["phases.*.microstrain=0.5*phases.wuestite.microstrain"], mixture)
    assert dataclasses.astuple(tie) == ("phases.calcite.microstrain", {"phases.wuestite.microstrain": 0.5}, 0.0)


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (lambda m: parse_bounds(["biso=1"]), "expected a name and two numbers"),
        (lambda m: parse_restraints(["=1:2"], m), "expected a name and two numbers"),
        (lambda m: parse_restraints(["phases.calcite.cell.q=1:2"], m), "no parameter matches"),
        (lambda m: parse_ties([f"{A}=two*{W}"], m), "expected NAME=OTHER"),
        (lambda m: parse_ties([f"{A}=phases.wuestite.cell.q"], m), "there is no parameter"),
        (lambda m: constrained(m, bounds={A: (5.0, 4.0)}), "the first must be below the second"),
        (lambda m: constrained(m, bounds={"*.grain_size": (-5.0, 4.0)}), "cannot be below 0"),
        (lambda m: constrained(m, restraints=[Restraint({A: 1.0}, 5.0, 0.0)]), "needs a finite sigma above 0"),
        (lambda m: constrained(m, ties=[Tie(A, {W: 1.0}), Tie(W, {A: 1.0})]), "which follows from others itself"),
        (lambda m: constrained(m, ties=[Tie(A, {W: 1.0}), Tie(A, {W: 2.0})]), "follows from others already"),
        (lambda m: constrained(m, ties=[Tie(A, {A: 1.0})]), "which follows from others itself"),
    ],
)
def test_what_is_wrong_is_said(mixture, made, words):
    with pytest.raises(InputError, match="|".join([words.replace("*", ".")])):
        made(mixture)
