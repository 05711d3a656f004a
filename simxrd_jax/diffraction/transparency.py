"""Device zone. Transparency of a thick flat specimen: each peak gets a tail to lower angle.

What is reflected at the depth z comes from below the focusing circle and is found at 2theta - 2 z cos(theta)/R, and it is
weakened by exp(-2 mu z/sin(theta)). The shift is therefore exponential, with the mean

    -t sin(2theta),   t = 1/(2 mu R)   (radians),

mu being that of the powder with its voids. Loose powders of light elements have tails as long as their lines are wide: a
symmetrical profile in their place takes intensity from low angles and puts it into displacement parameters.

The mean is part of a peak's position (`geometry`); here is what is left around it, for the direct sums as shifted peaks, for
the FFT sum as a transform, which is exact.

Reference: Langford & Wilson (1962), J. Sci. Instrum. 39, 581; Klug & Alexander (1974), X-ray Diffraction Procedures, ch. 5.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from simxrd_jax.numerics import DEGREE, constant, cos_sin
from simxrd_jax.types import Array, Scalar

# How deep the points of `depth_points` reach, in mean depths: exp(-24) = 4e-11.
REACH = 24.0


def mean_tail(two_theta: Float[Array, "*peak"], transparency: Scalar) -> Float[Array, "*peak"]:
    """Mean length of the tail at Bragg angles [deg], t sin(2theta). [deg]"""
    return jnp.rad2deg(transparency * jnp.sin(DEGREE * two_theta))


def depth_points(
    two_theta: Float[Array, " peak"], transparency: Scalar, points: int
) -> tuple[Float[Array, "peak point"], Float[Array, " point"]]:
    """Shifts from the mean position [deg] and weights that sum to 1, at Gauss-Legendre points of the depth's root."""
    nodes, weights = np.polynomial.legendre.leggauss(points)
    root = 0.5 * (nodes + 1.0)
    depth = REACH * root**2
    share = weights * root * np.exp(-depth)
    share = share / share.sum()
    # Around the rule's own mean, which is 1 but for rounding and the end that is cut.
    shift = -mean_tail(two_theta, transparency)[:, None] * constant(depth - share @ depth, two_theta)
    return shift, constant(share, two_theta)


def depth_transform(turns: Float[Array, "*any"]) -> tuple[Float[Array, "*any"], Float[Array, "*any"]]:
    """Real and imaginary part of the mean of exp(-2 pi i f s) over the shifts s from the mean position.

    With a = 2 pi f times the tail's mean length it is exp(-i a)/(1 - i a).

    Args:
      turns: f times the tail's mean length.
    """
    a = 2.0 * np.pi * turns
    cosine, sine = cos_sin(turns)
    damping = 1.0 / (1.0 + jnp.square(a))
    return (cosine + a * sine) * damping, (a * cosine - sine) * damping
