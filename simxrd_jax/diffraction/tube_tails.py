"""Device zone. Tube tails: weak emission of an X-ray tube's anode beside its focus.

A few thousandths of the rays come from up to some millimetres beside the line focus and reach the detector at angles that are
off by their distance over the radius: each line stands on a low box that may reach farther to one side than to the other.

    (1 - f) delta(x) + f box(x; -z_low/R, z_high/R)

Reference: Bergmann, Kleeberg, Haase & Breidenstein (2000), Mater. Sci. Forum 347-349, 303.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from simxrd_jax.numerics import constant
from simxrd_jax.types import Array, Instrument, Scalar

# Gauss-Legendre points of the box in the dense and windowed sums: 0.04 deg apart for 1 deg, under lines of 0.05 deg, of a few
# thousandths of their height.
POINTS = 24


def tail_box(instrument: Instrument) -> tuple[Scalar, Float[Array, ""], Float[Array, ""]] | None:
    """Share, middle [deg] and half width [deg] of the box, or None without tails."""
    if instrument.tail_fraction is None:
        return None
    degrees = 180.0 / np.pi / instrument.goniometer_radius
    middle = jnp.asarray(0.5 * degrees * (instrument.tail_high - instrument.tail_low))
    return instrument.tail_fraction, middle, jnp.asarray(0.5 * degrees * (instrument.tail_high + instrument.tail_low))


def tail_points(
    instrument: Instrument, like: Float[Array, "..."]
) -> tuple[Float[Array, " point"], Float[Array, " point"]] | None:
    """Shifts [deg] and weights that sum to 1, the line itself first, or None without tails."""
    box = tail_box(instrument)
    if box is None:
        return None
    fraction, middle, half = box
    nodes, weights = (constant(v, like) for v in np.polynomial.legendre.leggauss(POINTS))
    fraction = jnp.asarray(fraction, dtype=nodes.dtype)
    shift = jnp.concatenate([jnp.zeros(1, nodes.dtype), middle + half * nodes])
    return shift, jnp.concatenate([(1.0 - fraction)[None], 0.5 * fraction * weights])


def tail_transform(
    instrument: Instrument, frequency: Float[Array, " frequency"]
) -> tuple[Float[Array, " frequency"], Float[Array, " frequency"]] | None:
    """Real and imaginary part of the transform, sum of w exp(-2 pi i f shift), or None without tails.

    Args:
      frequency: cycles per degree.
    """
    box = tail_box(instrument)
    if box is None:
        return None
    fraction, middle, half = box
    envelope = fraction * jnp.sinc(2.0 * half * frequency)
    phase = 2.0 * np.pi * middle * frequency
    return 1.0 - fraction + envelope * jnp.cos(phase), -envelope * jnp.sin(phase)
