"""The Debye model against quadrature, its limits, and tabulated B of aluminium."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import quad
from scipy.optimize import brentq

from simxrd_jax.crystal.displacement import biso_from_displacement, debye_biso, debye_phi

ALUMINIUM = 26.9815
# B of aluminium in A^2. 90 and 280 K: Peng, Ren, Dudarev & Whelan (1996), Acta Cryst. A52, 456, table 1, from a measured
# density of states. 295 K: Sears & Shelley (1991), Acta Cryst. A47, 441.
PUBLISHED = {90.0: 0.3374, 280.0: 0.7460, 295.0: 0.81}


@pytest.mark.parametrize("x", [1e-6, 1e-3, 0.1, 1.0, 5.0, 15.0, 40.0])
def test_phi_against_adaptive_quadrature(x64, x):
    integral = quad(lambda t: t / np.expm1(t) if t > 0 else 1.0, 0, x, epsabs=1e-14, epsrel=1e-13, limit=400)[0]
    # Two quadratures of one integral, each good to 1e-13.
    assert float(debye_phi(x)) == pytest.approx(integral / x, rel=1e-12)


def test_one_debye_temperature_gives_tabulated_b_at_three_temperatures(x64):
    mass = jnp.array([ALUMINIUM])
    fitted = {t: brentq(lambda v: float(debye_biso(mass, t, v)[0]) - b, 200, 700) for t, b in PUBLISHED.items()}  # noqa: B023
    # Within one source the two temperatures agree to 1 % in Theta_D; between sources B differs by 4 % at room temperature
    # (0.786 for 0.81 at 295 K), which is 2 % in Theta_D.
    assert fitted[90.0] == pytest.approx(fitted[280.0], rel=0.01)
    assert fitted[295.0] == pytest.approx(fitted[280.0], rel=0.025)
    # 390 K from X-ray intensities at room temperature to 428 K from the heat capacity near 0 K (Kittel) bracket it.
    assert all(390 < v < 428 for v in fitted.values())


def test_high_temperature_limit(x64):
    # B -> 6 h^2 T/(m k Theta^2) (1 + x^2/36), from phi = 1 - x/4 + x^2/36 - ...; the next term is x^4/3600.
    theta, temperature = 200.0, 4000.0
    x = theta / temperature
    h, k, u = 6.62607015e-34, 1.380649e-23, 1.66053906660e-27
    expected = 6 * h**2 * temperature / (50 * u * k * theta**2) * 1e20 * (1 + x**2 / 36)
    assert float(debye_biso(jnp.array([50.0]), temperature, theta)[0]) == pytest.approx(expected, rel=x**4 / 3000)


def test_zero_point_limit(x64):
    # B(0) = 6 h^2/(4 m k Theta); the thermal part left at T = Theta/400 is (pi^2/6)/400^2 of 1/4, 4e-5.
    h, k, u = 6.62607015e-34, 1.380649e-23, 1.66053906660e-27
    zero_point = 6 * h**2 / (4 * ALUMINIUM * u * k * 400.0) * 1e20
    value = float(debye_biso(jnp.array([ALUMINIUM]), 1.0, 400.0)[0])
    assert value == pytest.approx(zero_point * (1 + 4 * np.pi**2 / 6 / 400**2), rel=1e-6)


def test_mass_is_each_elements_own(x64):
    b = debye_biso(jnp.array([10.0, 40.0]), 300.0, 350.0)
    assert float(b[0] / b[1]) == pytest.approx(4.0, rel=1e-14)


def test_derivatives_by_temperature_and_debye_temperature(x64):
    mass = jnp.array([ALUMINIUM, 63.5])
    for temperature in (4.0, 90.0, 1000.0):
        for modes in (jax.jacfwd, jax.jacrev):
            ours = modes(debye_biso, argnums=(1, 2))(mass, temperature, 400.0)
            for i, step in ((0, 1e-4 * temperature), (1, 0.04)):
                up, down = [temperature, 400.0], [temperature, 400.0]
                up[i] += step
                down[i] -= step
                numeric = (debye_biso(mass, *up) - debye_biso(mass, *down)) / (2 * step)
                # Central differences with relative step 1e-4 are good to about 1e-8 of the value's scale.
                np.testing.assert_allclose(ours[i], numeric, rtol=1e-5, atol=1e-11)


def test_float32_stays_float32_and_finite_when_cold(x64):
    mass = jnp.array([ALUMINIUM], jnp.float32)
    one = jnp.float32
    assert debye_biso(mass, one(300.0), one(400.0)).dtype == jnp.float32
    # e^t overflows float32 from t = 89 on.
    slope = jax.grad(lambda t: debye_biso(mass, t, one(400.0))[0])(one(2.0))
    exact = jax.grad(lambda t: debye_biso(jnp.array([ALUMINIUM]), t, 400.0)[0])(2.0)
    # 32 Gauss-Legendre points at x = 200 leave 5e-7 of phi; float32 rounds the sum of 32 terms.
    assert float(slope) == pytest.approx(float(exact), rel=1e-3)
    assert slope.dtype == jnp.float32


def test_biso_of_a_total_displacement():
    # <u_x^2> = u^2/3 for an isotropic atom, B = 8 pi^2 <u_x^2> (identity).
    assert biso_from_displacement(0.3) == pytest.approx(8 * np.pi**2 * 0.3**2 / 3, rel=1e-14)
