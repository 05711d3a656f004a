"""Device zone. Peak widths as smooth functions of the Bragg angle.

Isotropic widths depend on the angle alone, which is what lets the FFT sum (peak_sum/fourier.py) work from a few nodes; strain
that depends on direction (`anisotropic_strain`) comes in as a number of each peak.
All emission lines share the width function at the lines' mean wavelength: the Scherrer equation's K is known to a few per
cent, the lines of a doublet differ by 0.25 %. Natural line widths differ between lines and are added per line.
"""

from __future__ import annotations

import jax.numpy as jnp
from flax import struct
from jaxtyping import Float

from simxrd_jax.crystal.reflections import DEFAULT_MARGIN
from simxrd_jax.numerics import DEGREE, FWHM_PER_SIGMA, smooth_floor
from simxrd_jax.types import Array, Instrument, Scalar, Specimen

# Scale of the smooth floor under the Caglioti parabola: an FWHM of 0.7 millidegrees is left where it touches zero, and an
# FWHM of 0.02 deg is changed by 2e-6 of its square.
CAGLIOTI_FLOOR = 1e-6  # deg^2
# Peaks up to three widths outside the window count: a Lorentzian is 1/37 of its height there. [FWHM], [deg]
MARGIN_WIDTHS, MAX_MARGIN = 3.0, 30.0


@struct.dataclass
class PeakShape:
    """Gaussian and Lorentzian parts of a peak.

    Attributes:
      sigma: standard deviation of the Gaussian part. [deg]
      hwhm_lorentz: half width at half maximum of the Lorentzian part. [deg]
    """

    sigma: Float[Array, "*peak"]
    hwhm_lorentz: Float[Array, "*peak"]


def mean_wavelength(instrument: Instrument) -> Float[Array, ""]:
    """Intensity-weighted mean of the emission lines. [A]"""
    weight = jnp.asarray(instrument.line_weight)
    return jnp.sum(weight * jnp.asarray(instrument.wavelength)) / jnp.sum(weight)


def caglioti_fwhm_squared(tangent: Float[Array, "*peak"], instrument: Instrument) -> Float[Array, "*peak"]:
    """Instrument's Gaussian FWHM^2 = U tan^2 + V tan + W, held above zero smoothly. [deg^2]

    Reference: Caglioti, Paoletti & Ricci (1958), Nucl. Instrum. 3, 223.
    """
    parabola = (instrument.caglioti_u * tangent + instrument.caglioti_v) * tangent + instrument.caglioti_w
    return smooth_floor(parabola, CAGLIOTI_FLOOR)


def peak_shape(
    sine: Float[Array, "*peak"],
    instrument: Instrument,
    specimen: Specimen,
    line_fwhm: Float[Array, "..."] | float | None = None,
    line_wavelength: Float[Array, "..."] | float | None = None,
    strain: Float[Array, "*peak"] | None = None,
) -> PeakShape:
    """Widths at sin(theta).

    Size: FWHM = K lambda/(D cos theta) (Scherrer; D and K belong to the FWHM, not the integral breadth). Microstrain:
    FWHM = 4 e tan(theta). Each is split into a Gaussian share g, whose FWHM^2 adds, and a Lorentzian share 1 - g, whose
    FWHM adds. Natural line width: FWHM = 2 tan(theta) d(lambda)/lambda.

    Args:
      sine: sin(theta).
      line_fwhm, line_wavelength: natural width and wavelength of the line that makes each peak, or None. [A]
      strain: FWHM of the strain broadening over tan(theta) in place of 4 e, see `anisotropic_strain`. [rad]

    Returns:
      Widths in degrees 2theta.

    Reference: Scherrer (1918); Stokes & Wilson (1944), Proc. Phys. Soc. 56, 174; Thompson, Cox & Hastings (1987), J. Appl.
    Cryst. 20, 79 (the form of the angular terms).
    """
    cosine = jnp.sqrt(1.0 - jnp.square(sine))
    tangent = sine / cosine
    # Divided by the size first: a product with an infinite size would make the gradient of the cosine 0 * inf.
    size = jnp.rad2deg(specimen.scherrer_constant * mean_wavelength(instrument) / specimen.grain_size / cosine)
    strained = jnp.rad2deg((4.0 * specimen.microstrain if strain is None else strain) * tangent)
    g_size, g_strain = specimen.size_gauss_fraction, specimen.microstrain_gauss_fraction
    gauss_squared = caglioti_fwhm_squared(tangent, instrument) + (g_size * size) ** 2 + (g_strain * strained) ** 2
    lorentz = (
        (1.0 - g_size) * size
        + (1.0 - g_strain) * strained
        + instrument.lorentz_inverse_cos / cosine
        + instrument.lorentz_tan * tangent
    )
    if line_fwhm is not None and line_wavelength is not None:
        lorentz = lorentz + jnp.rad2deg(2.0 * tangent * line_fwhm / line_wavelength)
    return PeakShape(sigma=jnp.sqrt(gauss_squared) / FWHM_PER_SIGMA, hwhm_lorentz=0.5 * jnp.asarray(lorentz))


def voigt_fwhm(shape: PeakShape) -> Float[Array, "*peak"]:
    """FWHM of the Voigt profile, to 0.02 %: 0.5346 L + sqrt(0.2166 L^2 + G^2). [deg]

    Reference: Olivero & Longbothum (1977), J. Quant. Spectrosc. Radiat. Transf. 17, 233.
    """
    gauss = FWHM_PER_SIGMA * shape.sigma
    lorentz = 2.0 * shape.hwhm_lorentz
    return 0.5346 * lorentz + jnp.sqrt(0.2166 * jnp.square(lorentz) + jnp.square(gauss))


def tail_margin(
    specimen: Specimen, instrument: Instrument, stop: Scalar, strain: Float[Array, "*peak"] | None = None
) -> Float[Array, ""]:
    """How far outside a window peaks still count, from the widths at its end (taken at 160 deg at most). [deg]

    Args:
      specimen, instrument: conditions.
      stop: last angle of the window. [deg]
      strain: see `peak_shape`; the widest counts. [rad]
    """
    theta = 0.5 * DEGREE * jnp.minimum(stop, 160.0)
    cosine, tangent = jnp.cos(theta), jnp.tan(theta)
    size = specimen.scherrer_constant * mean_wavelength(instrument) / specimen.grain_size / cosine
    strained = 4.0 * specimen.microstrain if strain is None else jnp.max(strain)
    width = jnp.rad2deg(size + strained * tangent)
    width = width + instrument.lorentz_inverse_cos / cosine + instrument.lorentz_tan * tangent
    return jnp.clip(MARGIN_WIDTHS * width, DEFAULT_MARGIN, MAX_MARGIN)
