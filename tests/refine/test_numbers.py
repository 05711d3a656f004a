"""Numbers with uncertainties against the rule of 19."""

from __future__ import annotations

import numpy as np
import pytest

from simxrd_jax.refine.numbers import with_uncertainty


@pytest.mark.parametrize(
    ("value", "sigma", "text"),
    [
        (5.431021, 0.000034, "5.43102(3)"),
        (5.431021, 0.00014, "5.43102(14)"),
        (2908.9, 71.7, "2909(72)"),
        (1.5, 0.0194, "1.500(19)"),
        (1.5, 0.0196, "1.50(2)"),
        (1.5, 0.00996, "1.500(10)"),
        (1.5, 0.096, "1.50(10)"),
        (-0.00004, 0.001, "-0.0000(10)"),
        (1.5, float("nan"), "1.5"),
        (1.5, float("inf"), "1.5"),
        (1.5, 0.0, "1.5"),
        (-0.0, 0.0, "0"),
        (float("nan"), 0.1, "?"),
    ],
)
def test_known_numbers(value, sigma, text):
    assert with_uncertainty(value, sigma) == text


def test_every_number_reads_back_to_a_quarter_of_its_uncertainty():
    rng = np.random.default_rng(0)
    for value, sigma in zip(rng.normal(size=2000), 10 ** rng.uniform(-9, 0, 2000), strict=True):
        number, _, digits = with_uncertainty(value, sigma).rstrip(")").partition("(")
        unit = 10.0 ** -len(number.partition(".")[2])
        assert 2 <= int(digits) <= 19
        assert abs(float(number) - value) <= 0.5 * unit * (1 + 1e-6) <= 0.26 * sigma
        assert abs(int(digits) * unit - sigma) <= 0.5 * unit * (1 + 1e-6)


def test_decimals_that_are_kept():
    assert with_uncertainty(0.41234, 0.2, least_decimals=3) == "0.412(200)"
    assert with_uncertainty(1 / 3, 0.0, digits=8) == "0.33333333"
