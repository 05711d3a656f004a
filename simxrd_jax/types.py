"""Device zone. The data the simulator passes around: frozen dataclasses whose arrays are pytree leaves.

All floating leaves are differentiable; everything discrete (Miller indices, multiplicities) lives in `ReflectionList`, so
that `jax.grad(f)(crystal)` and `jax.jacfwd(f)(specimen)` work as they read. A leaf of ``None`` switches its effect off
when the function is traced: it costs nothing and needs no flag.

Dimension names, used everywhere: `hkl` (unique reflections), `member` (orbit members), `atom`, `species`, `line`
(emission lines), `point` (grid points), `term` (polynomial terms), `hump`, `batch`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from flax import struct
from jaxtyping import Float, Int

if TYPE_CHECKING:
    Array = Any  # a jax.Array, or a numpy array that JAX converts where it is used
else:
    Array = jax.Array | np.ndarray
Scalar = Float[Array, ""] | float


@struct.dataclass
class Crystal:
    """One crystal structure as the atoms of one lattice point, padded to a capacity with atoms of zero occupancy.

    For a centred cell only one atom of each set related by centring is listed; `centring` (1, 2, 3 or 4 lattice points a
    cell) multiplies the sum, which is exact for every reflection that the centring allows.

    Attributes:
      lattice: rows are the lattice vectors a, b, c. [A]
      frac: fractional coordinates in that cell.
      occupancy: fraction of each species on each atom; zero rows are padding.
      biso: isotropic displacement parameter B = 8 pi^2 U of each atom. [A^2]
      u_aniso: anisotropic displacement tensor U (CIF convention, dimension A^2) of each atom, or None when no atom has one.
      centring: lattice points per cell.
      f0_a, f0_b, f0_c: f0(s) = sum_i a_i exp(-b_i s^2) + c of each species, s = sin(theta)/lambda in 1/A. [electrons]
      f_prime, f_double_prime: anomalous dispersion corrections at the wavelength used. [electrons]
      mass: atomic mass of each species. [u]
    """

    lattice: Float[Array, "3 3"]
    frac: Float[Array, "atom 3"]
    occupancy: Float[Array, "atom species"]
    biso: Float[Array, " atom"]
    u_aniso: Float[Array, "atom 3 3"] | None
    centring: Float[Array, ""]
    f0_a: Float[Array, "species term"]
    f0_b: Float[Array, "species term"]
    f0_c: Float[Array, " species"]
    f_prime: Float[Array, " species"]
    f_double_prime: Float[Array, " species"]
    mass: Float[Array, " species"]


@struct.dataclass
class ReflectionList:
    """Unique reflections of a crystal with their orbits, strongest d first, padded with reflections of multiplicity 0.

    Attributes:
      hkl: one representative of each orbit of the Laue group, sorted by falling d; absent reflections are not listed.
      multiplicity: number of reflections in the orbit, Friedel mates included; 0 on padding.
      member_hkl: all members of all orbits, one of each Friedel pair. Padding repeats the last reflection.
      member_reflection: index into `hkl` of the orbit that a member belongs to.
      member_count: how many reflections a member stands for: 2 (itself and its Friedel mate), 0 on padding.
      laue_rotations: the rotations of the Laue group modulo inversion, acting on fractional coordinates, each repeated
        equally often to fill 24 places (the orders 1, 2, 3, 4, 6, 8, 12 and 24 all divide 24).
    """

    hkl: Int[Array, "hkl 3"]
    multiplicity: Int[Array, " hkl"]
    member_hkl: Int[Array, "member 3"]
    member_reflection: Int[Array, " member"]
    member_count: Int[Array, " member"]
    laue_rotations: Int[Array, "24 3 3"]


@struct.dataclass
class Specimen:
    """What the sample does to the pattern of one phase.

    Attributes:
      scale: multiplies the pattern. For a phase of a mixture: its irradiated volume, w V / (Z M).
      strain: macroscopic strain tensor e; the lattice becomes (1 + e) A. Rows and columns are x, y, z.
      grain_size: mean column length D of the Scherrer equation; infinity means no size broadening. [A]
      scherrer_constant: K in FWHM = K lambda / (D cos theta), in radians.
      size_gauss_fraction: share of the size broadening's FWHM that is Gaussian (0 Lorentzian, 1 Gaussian).
      microstrain: e in FWHM = 4 e tan(theta), in radians.
      microstrain_gauss_fraction: share of that FWHM that is Gaussian.
      stephens: coefficients S_HKL of microstrain that depends on direction, FWHM = d^2 sqrt(sum S_HKL h^H k^K l^L) tan(theta)
        in radians, in the order of `anisotropic_strain.EXPONENTS`, or None; the part that the Laue group keeps counts, and
        `microstrain` adds to it as the form 16 e^2/d^4. [1/A^4]
      march_dollase: March coefficient r; 1 is a random powder, below 1 platelets lying flat; None switches texture off.
      texture_axis: Miller indices (real numbers allowed) of the plane normal that is the preferred-orientation axis.
      harmonics: coefficients c_lm of a texture with cylindrical symmetry about the normal of a flat specimen, in the order of
        `harmonics.harmonic_terms`, or None; their number (5, 14, 27, ...) decides the order.
      texture_factor: free multiplier of each unique reflection (SimXRD's "grain orientation"), or None.
      biso: overall isotropic displacement parameter, added to every atom's own. [A^2]
      temperature: for the Debye model, or None. [K]
      debye_temperature: for the Debye model; None switches the model off. [K]
      thermal_expansion: linear expansion coefficient applied to the cell relative to 293.15 K, or None. [1/K]
      absorption_mu_r: mu R of a cylindrical specimen (capillary), or None.
      absorption_mu_t: mu t of a flat specimen in reflection that is not infinitely thick, or None.
      transmission_mu_t: mu t of a flat specimen in symmetrical transmission, or None.
      roughness_amount, roughness_depth: a and q of a rough surface, which takes intensity at low angle; None of either
        switches it off.
    """

    scale: Scalar = 1.0
    strain: Float[Array, "3 3"] = struct.field(default_factory=lambda: np.zeros((3, 3)))
    grain_size: Scalar = float("inf")
    scherrer_constant: Scalar = 0.94
    size_gauss_fraction: Scalar = 0.0
    microstrain: Scalar = 0.0
    microstrain_gauss_fraction: Scalar = 0.0
    stephens: Float[Array, "15"] | None = None
    march_dollase: Scalar | None = None
    texture_axis: Float[Array, "3"] = struct.field(default_factory=lambda: np.array([0.0, 0.0, 1.0]))
    harmonics: Float[Array, " harmonic"] | None = None
    texture_factor: Float[Array, " hkl"] | None = None
    biso: Scalar = 0.0
    temperature: Scalar | None = None
    debye_temperature: Scalar | None = None
    thermal_expansion: Scalar | None = None
    absorption_mu_r: Scalar | None = None
    absorption_mu_t: Scalar | None = None
    transmission_mu_t: Scalar | None = None
    roughness_amount: Scalar | None = None
    roughness_depth: Scalar | None = None


@struct.dataclass
class Instrument:
    """Source, optics and alignment.

    Attributes:
      wavelength: emission lines; the first is the one peak tables quote. [A]
      line_weight: relative intensities of the lines (normalised to sum 1 where they are used).
      line_fwhm: natural Lorentzian FWHM of each line in wavelength, or None. [A]
      polarization_fraction: share p of the intensity polarized perpendicular to the diffraction plane; 0.5 for a tube.
      monochromator_two_theta: diffraction angle 2theta of the monochromator (graphite at Cu K-alpha: 26.6); 0 means
        none. [deg]
      caglioti_u, caglioti_v, caglioti_w: Gaussian FWHM^2 = u tan^2(theta) + v tan(theta) + w. [deg^2]
      lorentz_inverse_cos: Lorentzian FWHM part that grows as 1/cos(theta). [deg]
      lorentz_tan: Lorentzian FWHM part that grows as tan(theta). [deg]
      zero_shift: added to every Bragg angle. [deg 2theta]
      displacement: specimen displacement from the goniometer axis, positive away from source and detector (lines move
        to lower angle). [mm]
      goniometer_radius: [mm]
      transparency: 1/(2 mu R) of a thick flat specimen, or None; lines get an exponential tail to lower angle, of mean
        length transparency sin(2theta). [rad]
      equatorial_divergence: full angle of the beam that lights a flat specimen, which lies on the focusing circle in its
        middle only, or None; smears lines to lower angle. [deg]
      overflow_two_theta: 2theta below which the beam of a fixed slit is longer than the specimen, or None. [deg]
      illuminated_length: of the specimen, which automatic slits keep lit, or None for fixed slits. [mm]
      axial_source: S/L, half height of the illuminated specimen over the radius, or None (no axial divergence).
      axial_detector: H/L, half height of the detector slit over the radius, or None.
      axial_tube: half height of the source over the radius, or None: the beam is parallel in the axial plane before the
        specimen.
      soller: full opening of the Soller slits before and behind the specimen, or None; only with `axial_tube`. [deg]
      slit_width: full width of the receiving slit, a box in 2theta, or None. [deg]
      tail_fraction: share of the rays that come from beside the tube's focus, or None (no tube tails).
      tail_low, tail_high: length of the tail of the focus that makes intensity below and above a line. [mm]
    """

    wavelength: Float[Array, " line"]
    line_weight: Float[Array, " line"]
    line_fwhm: Float[Array, " line"] | None = None
    polarization_fraction: Scalar = 0.5
    monochromator_two_theta: Scalar = 0.0
    caglioti_u: Scalar = 0.0
    caglioti_v: Scalar = 0.0
    caglioti_w: Scalar = 0.0
    lorentz_inverse_cos: Scalar = 0.0
    lorentz_tan: Scalar = 0.0
    zero_shift: Scalar = 0.0
    displacement: Scalar = 0.0
    goniometer_radius: Scalar = 217.5
    transparency: Scalar | None = None
    equatorial_divergence: Scalar | None = None
    overflow_two_theta: Scalar | None = None
    illuminated_length: Scalar | None = None
    axial_source: Scalar | None = None
    axial_detector: Scalar | None = None
    axial_tube: Scalar | None = None
    soller: Scalar | None = None
    slit_width: Scalar | None = None
    tail_fraction: Scalar | None = None
    tail_low: Scalar = 0.0
    tail_high: Scalar = 0.0


@struct.dataclass
class Background:
    """Smooth background under the peaks; a None part is absent.

    Attributes:
      relative: (static) whether heights are shares of the highest point of the peaks rather than intensities.
      chebyshev: coefficients of Chebyshev polynomials of the first kind on the grid's range mapped to [-1, 1].
      polynomial: coefficients of a random polynomial shape, rising powers of the range mapped to [-1, 1]; the shape is
        shifted and scaled to run from 0 to `polynomial_height` (SimXRD's background).
      polynomial_height: greatest value of that shape.
      air_scatter: coefficient of 1/(2theta). [intensity deg]
      hump_position, hump_fwhm, hump_height: amorphous humps, Gaussians in 2theta. [deg, deg, intensity]
      measured: a background given at every grid point.
    """

    chebyshev: Float[Array, " term"] | None = None
    polynomial: Float[Array, " term"] | None = None
    polynomial_height: Scalar = 1.0
    air_scatter: Scalar | None = None
    hump_position: Float[Array, " hump"] | None = None
    hump_fwhm: Float[Array, " hump"] | None = None
    hump_height: Float[Array, " hump"] | None = None
    measured: Float[Array, " point"] | None = None
    relative: bool = struct.field(pytree_node=False, default=False)


@struct.dataclass
class Noise:
    """Counting statistics and other noise; a None part is absent.

    Attributes:
      peak_counts: counts at the highest point of the pattern; every point becomes a Poisson draw at that scale.
      gaussian: standard deviation of normal noise, as a fraction of the highest point.
      uniform: upper end of uniform noise from 0, as a fraction of the highest point (SimXRD's noise).
    """

    peak_counts: Scalar | None = None
    gaussian: Scalar | None = None
    uniform: Scalar | None = None


@struct.dataclass
class Grid:
    """Points of the pattern on 2theta.

    Build it with `Grid.uniform` or `Grid.from_points`; `start`, `step` and `size` are static; the step is 0 on an
    uneven grid.
    """

    two_theta: Float[Array, " point"]
    start: float = struct.field(pytree_node=False, default=0.0)
    step: float = struct.field(pytree_node=False, default=0.0)
    size: int = struct.field(pytree_node=False, default=0)

    # Relative deviation of a step below which points count as evenly spaced: a tenth of what a 0.001 deg grid printed
    # with six decimals shows.
    EVEN_TOLERANCE = 1e-4

    @property
    def is_uniform(self) -> bool:
        """Whether the points are evenly spaced."""
        return self.step > 0

    @classmethod
    def uniform(cls, start: float, stop: float, step: float) -> Grid:
        """Evenly spaced points from `start` to `stop` inclusive. [deg]

        Raises:
          InputError: the range is empty, reversed or outside 0 to 180 degrees, or the step is not positive.
        """
        from simxrd_jax.errors import check_two_theta_range

        check_two_theta_range(start, stop, step)
        size = int(np.floor((stop - start) / step + 1e-6)) + 1
        return cls(two_theta=start + step * np.arange(size), start=float(start), step=float(step), size=size)

    @classmethod
    def from_points(cls, two_theta: Any) -> Grid:
        """A grid at the given points, which must rise; recognised as uniform where their steps agree. [deg]

        Raises:
          InputError: fewer than two points, or points that do not rise.
        """
        from simxrd_jax.errors import InputError

        points = np.asarray(two_theta, dtype=np.float64)
        if points.ndim != 1 or points.size < 2 or not np.all(np.isfinite(points)) or np.any(np.diff(points) <= 0):
            raise InputError(
                "a grid needs at least two finite 2theta values in rising order; sort the points and drop repeats"
            )
        steps = np.diff(points)
        step = float((points[-1] - points[0]) / (points.size - 1))
        # The accumulated deviation matters, not that of single steps: rounding in a file must not tilt the grid.
        drift = np.abs(points - (points[0] + step * np.arange(points.size)))
        if drift.max() <= cls.EVEN_TOLERANCE * step and steps.min() > 0:
            return cls(two_theta=points, start=float(points[0]), step=step, size=points.size)
        return cls(two_theta=points, size=points.size)


@struct.dataclass
class PeakList:
    """Peaks of a powder pattern, one for each emission line and reflection (or orbit member), before broadening.

    Attributes:
      two_theta: observed positions. [deg]
      bragg_two_theta: Bragg angles, on which widths and axial divergence depend. [deg]
      intensity: integrated intensities; 0 on padding and beyond the wavelength's limit.
      strain: FWHM of the strain broadening over tan(theta) where it depends on direction, or None. [rad]
    """

    two_theta: Float[Array, "line hkl"]
    bragg_two_theta: Float[Array, "line hkl"]
    intensity: Float[Array, "line hkl"]
    strain: Float[Array, "line hkl"] | None = None


@struct.dataclass
class Phase:
    """One phase of a specimen, as the forward model takes it.

    Attributes:
      crystal, reflections: what diffracts.
      specimen: this phase's grains, strain and texture; its `scale` is set from the mass fraction in a mixture.
      f_squared: cached |F|^2 of each unique reflection, without overall B, or None to compute it from the atoms.
    """

    crystal: Crystal
    reflections: ReflectionList
    specimen: Specimen
    f_squared: Float[Array, " hkl"] | None = None


@struct.dataclass
class Pattern:
    """A simulated pattern.

    Attributes:
      two_theta: grid points. [deg]
      intensity: what a detector would record: peaks, background and noise.
      peaks: Bragg peaks alone.
      background: background alone.
    """

    two_theta: Float[Array, " point"]
    intensity: Float[Array, " point"]
    peaks: Float[Array, " point"]
    background: Float[Array, " point"]
