"""Names, bounds and the solver's numbers."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simxrd_jax.errors import InputError
from simxrd_jax.refine.parameters import Parameter, ParameterTable, to_internal, to_values

PARAMETERS = (
    Parameter("a.linear", 5.0, "one", scale=0.1),
    Parameter("a.positive", 2e-3, "two", kind="positive", scale=5e-4),
    Parameter("b.inverse", 1500.0, "two", kind="inverse", scale=1e-3),
    Parameter("b.bounded", 0.3, "three", kind="bounded", lower=-1.0, upper=2.0),
)


@pytest.fixture
def table() -> ParameterTable:
    return ParameterTable(PARAMETERS)


def test_values_lead_to_numbers_and_back(x64, table):
    values = np.array([5.3, 1e-5, 80.0, 1.99])
    transforms = table.transforms(table.values())
    np.testing.assert_allclose(to_values(to_internal(values, transforms), transforms), values, rtol=1e-12)
    np.testing.assert_allclose(to_internal(table.values(), transforms)[0], 0.0, atol=1e-15)


@pytest.mark.parametrize("u", [-40.0, -3.0, 0.0, 5.0, 60.0])
def test_values_keep_to_their_bounds_and_have_sound_derivatives(x64, table, u):
    transforms = table.transforms(table.values())
    values, slope = jax.jvp(lambda x: to_values(x, transforms), (jnp.full(4, u),), (jnp.ones(4),))
    assert values[1] > 0
    assert values[2] > 0
    assert -1.0 <= values[3] <= 2.0
    assert np.all(np.isfinite(slope))
    step = 1e-5
    up, down = (np.asarray(to_values(jnp.full(4, u + s), transforms)) for s in (step, -step))
    np.testing.assert_allclose(slope, (up - down) / (2 * step), rtol=1e-6, atol=1e-12 + 1e-10 * np.abs(values).max() / step)


LIMITED = ParameterTable(
    [
        Parameter("c.near", 4.0, "one", kind="near", scale=0.004, limit=0.16),
        Parameter("c.positive", 2e-3, "two", kind="positive", scale=5e-4, limit=0.05),
        Parameter("c.inverse", 1500.0, "two", kind="inverse", scale=1e-3, limit=1 / 15),
    ]
)


def test_limits_are_kept_and_values_come_back(x64):
    transforms = LIMITED.transforms(LIMITED.values())
    values = np.array([4.1, 0.03, 40.0])
    np.testing.assert_allclose(to_values(to_internal(values, transforms), transforms), values, rtol=1e-10)
    # Close to the start a limit is not felt: tanh(x) = x - x^3/3.
    assert float(to_values(jnp.full(3, 1.0), transforms)[0]) == pytest.approx(4.004, rel=1e-6)
    ends = np.asarray(to_values(jnp.full(3, 1e6), transforms)), np.asarray(to_values(jnp.full(3, -1e6), transforms))
    assert ends[0] == pytest.approx([4.16, 0.05, 15.0])
    assert ends[1][0] == pytest.approx(3.84)
    _, slope = jax.jvp(lambda x: to_values(x, transforms), (jnp.full(3, 200.0),), (jnp.ones(3),))
    assert np.all(np.isfinite(slope))
    assert LIMITED.at_bound(np.array([4.159, 0.0499, 15.01]), LIMITED.values()).all()
    assert not LIMITED.at_bound(np.array([4.159, 2e-3, 1500.0]), np.array([4.1, 2e-3, 1500.0])).any()
    assert not LIMITED.at_bound(LIMITED.values(), LIMITED.values()).any()


def test_names_are_matched_by_name_pattern_and_group(table):
    assert table.matching(["a.*"]).tolist() == [True, True, False, False]
    assert table.matching(["@two", "b.bounded"]).tolist() == [False, True, True, True]
    with pytest.raises(InputError, match=r"no parameter matches 'a\.lineal'; did you mean a\.linear"):
        table.matching(["a.lineal"])
    with pytest.raises(InputError, match=r"no parameter matches '@tow'; did you mean @two"):
        table.matching(["@tow"])
    with pytest.raises(InputError, match=r"there is no parameter 'b\.inverted'; did you mean b\.inverse"):
        table.index("b.inverted")


def test_start_values(table):
    assert table.values({"b.bounded": 1.0}).tolist() == [5.0, 2e-3, 1500.0, 1.0]
    for name, value, need in (
        ("a.positive", -1.0, "above 0"),
        ("b.inverse", 0.0, "above 0"),
        ("b.bounded", 2.5, "between -1 and 2"),
        ("a.linear", float("nan"), "finite"),
    ):
        with pytest.raises(InputError, match=f"{name} = .* must be {need}"):
            table.values({name: value})
    with pytest.raises(InputError, match=r"a\.linear occurs twice"):
        ParameterTable([PARAMETERS[0], PARAMETERS[0]])


def test_bounds_are_noticed(table):
    assert not table.at_bound(table.values(), table.values()).any()
    assert table.at_bound(np.array([5.0, 1e-8, 1e8, 1.9999]), table.values()).tolist() == [False, True, True, True]
