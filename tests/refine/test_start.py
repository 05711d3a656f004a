"""Widths at which fits start, against patterns of known width."""

from __future__ import annotations

import numpy as np
import pytest

from simxrd_jax.io.cif import read_cif
from simxrd_jax.refine.build import InstrumentStart, PhaseStart, make_model
from simxrd_jax.refine.start import observed_width, width_starts

TWO_THETA = np.arange(20.0, 80.0, 0.02)


def lines(fwhm: float, places=(30.0, 45.0, 61.0), background: float = 50.0) -> np.ndarray:
    y = np.full_like(TWO_THETA, background)
    for place in places:
        y += 1000.0 / (1.0 + ((TWO_THETA - place) / (fwhm / 2)) ** 2)
    return y


@pytest.mark.parametrize("fwhm", [0.05, 0.2, 0.8])
def test_the_width_of_lorentzian_lines(fwhm):
    found, place = observed_width(TWO_THETA, lines(fwhm))
    assert found == pytest.approx(fwhm, rel=0.1)
    assert place == pytest.approx(45.0, abs=0.02)


def test_a_flat_pattern_has_no_width():
    assert observed_width(TWO_THETA, np.full_like(TWO_THETA, 7.0))[0] == 0.0


@pytest.fixture(scope="module")
def silicon(datasets):
    start = InstrumentStart({"caglioti_w": 0.03**2}, has_axial_divergence=False)
    phase = PhaseStart("Si", read_cif(datasets / "cifs" / "Si.cif"))
    return make_model([phase], "CuKa", TWO_THETA, instrument=start, background_terms=2)


def test_what_the_instrument_leaves_goes_to_grains_and_strain(silicon):
    free = {"phases.Si.grain_size", "phases.Si.microstrain"}
    values = width_starts(silicon, silicon.table.values(), lines(0.2), np.ones_like(TWO_THETA), set(), free)
    at = dict(zip(silicon.table.names, values, strict=True))
    theta = np.radians(45.0 / 2)
    size = np.degrees(0.94 * silicon.radiation.mean_wavelength / (at["phases.Si.grain_size"] * np.cos(theta)))
    strain = np.degrees(4 * at["phases.Si.microstrain"] * np.tan(theta))
    assert size + strain == pytest.approx(0.2 - 0.03, rel=0.12)
    assert size == pytest.approx(strain, rel=1e-6)
    assert at["instrument.caglioti_w"] == pytest.approx(0.03**2)


def test_values_that_are_given_or_held_stay(silicon):
    free = {"phases.Si.grain_size", "instrument.caglioti_w"}
    values = width_starts(silicon, silicon.table.values(), lines(0.2), np.ones_like(TWO_THETA), {"phases.Si.grain_size"}, free)
    before = dict(zip(silicon.table.names, silicon.table.values(), strict=True))
    at = dict(zip(silicon.table.names, values, strict=True))
    assert at["phases.Si.grain_size"] == before["phases.Si.grain_size"]
    assert at["phases.Si.microstrain"] == before["phases.Si.microstrain"]
    assert at["instrument.caglioti_w"] == pytest.approx(0.1**2, rel=0.3)
