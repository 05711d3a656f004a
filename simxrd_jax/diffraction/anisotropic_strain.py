"""Device zone. Microstrain that depends on direction: Stephens' quartic form.

1/d^2 = M varies from grain to grain; its variance is a quartic form of the indices, whose 15 coefficients the Laue group
leaves 2 (cubic) to 15 (triclinic) of. The isotropic microstrain is the form 16 e^2 M^2, so the two add up here, as forms.

Reference: Stephens (1999), J. Appl. Cryst. 32, 281.
"""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Float, Int, Num

from simxrd_jax.crystal import cell
from simxrd_jax.numerics import smooth_floor
from simxrd_jax.types import Array, Scalar

# Powers H, K, L of h, k, l in each term, in Stephens' order.
EXPONENTS = (
    (4, 0, 0), (0, 4, 0), (0, 0, 4), (2, 2, 0), (2, 0, 2), (0, 2, 2), (3, 1, 0), (1, 0, 3), (0, 3, 1), (1, 3, 0), (3, 0, 1),
    (0, 1, 3), (2, 1, 1), (1, 2, 1), (1, 1, 2),
)  # fmt: skip
# Scale of the smooth floor under the squared FWHM over tan(theta): a form that is 0 or negative in a direction, which no
# strain makes, leaves e = 1.8e-6; at e = 5e-4 the floor adds 1e-7 of the width.
FLOOR = 1e-10  # rad^2


def quartic_terms(
    hkl: Num[Array, "hkl 3"], rotations: Int[Array, "op 3 3"] | None, dtype: jnp.dtype
) -> Float[Array, "hkl 15"]:
    """h^H k^K l^L of each term, the mean over the images h R of a reflection; a form times them has the group's symmetry."""
    images = hkl[None] if rotations is None else jnp.einsum("hi,rij->rhj", hkl, rotations)
    h, k, l = (images[..., i].astype(dtype) for i in range(3))
    powers = [[jnp.ones_like(x), x, x * x, x * x * x, (x * x) * (x * x)] for x in (h, k, l)]
    return jnp.stack([jnp.mean(powers[0][a] * powers[1][b] * powers[2][c], axis=0) for a, b, c in EXPONENTS], axis=-1)


def anisotropic_strain(
    hkl: Num[Array, "hkl 3"],
    coefficients: Float[Array, "15"],
    microstrain: Scalar,
    reciprocal: Float[Array, "3 3"],
    rotations: Int[Array, "op 3 3"] | None = None,
) -> Float[Array, " hkl"]:
    """FWHM of the strain broadening over tan(theta) [rad]: sqrt(16 e^2 + d^4 sum S_HKL h^H k^K l^L).

    An isotropic e thus is S_HKL with sum S_HKL h^H k^K l^L = 16 e^2/d^4. In the symbols of the paper the sum is the squared
    FWHM of M = 1/d^2, and the FWHM of 2theta is sqrt(sum) tan(theta)/M. GSAS-II's coefficients are these times 10^12.

    Args:
      hkl: one reflection of each orbit.
      coefficients: S_HKL in the order of `EXPONENTS`; the part that the Laue group keeps counts. [1/A^4]
      microstrain: isotropic e.
      reciprocal: metric that the rotations keep. [1/A^2]
      rotations: of the Laue group; None takes the coefficients as they are.

    Returns:
      FWHM/tan(theta), held above zero by `FLOOR`. [rad]

    Reference: Stephens (1999), J. Appl. Cryst. 32, 281.
    """
    form = jnp.sum(quartic_terms(hkl, rotations, reciprocal.dtype) * coefficients, axis=-1)
    variance = 16.0 * jnp.square(microstrain) + form / jnp.square(cell.inverse_d_squared(reciprocal, hkl))
    return jnp.sqrt(smooth_floor(variance, FLOOR))
