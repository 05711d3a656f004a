"""The table of conditions, its checks, and what they mean to the forward model."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from simxrd_jax.conditions import CONDITIONS, build, check_conditions
from simxrd_jax.constants import RADIATIONS
from simxrd_jax.errors import InputError
from simxrd_jax.types import Instrument, Specimen

CU = RADIATIONS["CuKa"]


def test_defaults_are_those_of_the_types():
    specimen, instrument, background, noise = build({}, CU)
    assert background is None
    assert all(part is None for part in (noise.peak_counts, noise.gaussian, noise.uniform))
    bare = Instrument(np.asarray(CU.wavelength), np.asarray(CU.weight))
    for made, expected in ((specimen, Specimen()), (instrument, bare)):
        for field in dataclasses.fields(expected):
            value, want = getattr(made, field.name), getattr(expected, field.name)
            if want is None:
                assert value is None, field.name
            else:
                np.testing.assert_array_equal(value, want, err_msg=field.name)


def test_rows_are_sound():
    for name, row in CONDITIONS.items():
        assert row.name == name
        assert row.low < row.high
        assert row.meaning
        assert row.group in ("specimen", "instrument", "background", "noise")
        if row.default is not None:
            assert np.shape(row.default) == row.shape
            assert np.all(np.asarray(row.default) >= row.low)
            assert np.all(np.asarray(row.default) <= row.high)


def test_strain_components_go_where_they_say():
    specimen = build({"strain_xy": 0.001, "strain_zz": -0.002}, CU).specimen
    expected = np.zeros((3, 3))
    expected[0, 1], expected[2, 2] = 0.001, -0.002
    np.testing.assert_allclose(specimen.strain, expected, rtol=1e-6)


def test_displacements_add_up():
    biso = build({"biso": 0.5, "displacement_rms": 0.1}, CU).specimen.biso
    assert float(biso) == pytest.approx(0.5 + 8 / 3 * math.pi**2 * 0.01, rel=1e-6)


def test_a_level_adds_to_the_chebyshev_series():
    parts = build({"background_level": 0.1, "background_chebyshev": np.array([0.2, 0, 0, 0, 0, 0.3])}, CU).background
    assert parts is not None
    assert parts.relative
    assert parts.chebyshev is not None
    np.testing.assert_allclose(parts.chebyshev, [0.3, 0, 0, 0, 0, 0.3], rtol=1e-6)


def test_texts_become_numbers():
    checked = check_conditions({"grain_size": "200", "texture_axis": ["1", "1", "0"], "march_dollase": 0.8})
    assert checked == {"grain_size": 200.0, "texture_axis": (1.0, 1.0, 0.0), "march_dollase": 0.8}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"grain_sise": 1}, "no condition 'grain_sise'; did you mean grain_size"),
        ({"zzz": 1}, "choose from scale"),
        ({"grain_size": -1}, "outside its range"),
        ({"grain_size": "nan"}, "outside its range"),
        ({"grain_size": "big"}, "not a number"),
        ({"grain_size": [1, 2]}, "takes one number, not 2"),
        ({"texture_axis": 1}, "takes 3 numbers"),
        ({"march_dollase": 1, "texture_axis": (0, 0, 0)}, "no direction"),
        ({"polarization_fraction": 1.5}, "outside its range 0 to 1"),
    ],
)
def test_bad_values(values: dict, message: str):
    with pytest.raises(InputError, match=message):
        check_conditions(values, "here")
