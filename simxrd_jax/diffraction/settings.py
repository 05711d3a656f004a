"""Host zone. Discrete choices of the forward model: hashable, static under jit.

The accuracy is a named setting of one code path, not a second path. Both rows of numbers were chosen with
`python -m experiments.peak_sum_accuracy`, which prints the error of the FFT sum against the dense sum over grain size,
microstrain, range and width.
"""

from __future__ import annotations

from dataclasses import dataclass, field

PEAK_SUMS = ("dense", "windowed", "fft")
PROFILE_NAMES = ("voigt", "tch")


@dataclass(frozen=True)
class Accuracy:
    """How finely the FFT sum is discretised.

    Attributes:
      nodes_per_fold: width nodes between which kernels are interpolated, for each e-fold of tan(theta) that the grid spans
        (10 to 80 deg: 2.26, 5 to 150 deg: 4.45).
      strain_nodes: nodes over the range of a strain that depends on direction.
      stencil: nodes that take part in the (Lagrange) interpolation for a peak, 4 or 6.
      oversampling: fine grid points per grid point.
      spline_taps: grid points over which a stick is spread (4: cubic, 6: quintic B-spline).
      tail_nodes: Chebyshev nodes of the correction for the periodic Lorentzian tails.
      axial_points, axial_inner_points: quadrature points on the outer and on the inner side of the kink of the axial
        divergence function, in every sum.
      axial_heights: quadrature points of each height where rays are inclined on both sides of the specimen, even.
      axial_frequencies: of each 64 harmonics, at how many the transform of axial divergence is computed; the others are
        interpolated. 64 is all of them.
    """

    nodes_per_fold: float
    strain_nodes: int
    stencil: int
    oversampling: float
    spline_taps: int
    tail_nodes: int
    axial_points: int
    axial_inner_points: int
    axial_heights: int
    axial_frequencies: int

    def __post_init__(self) -> None:
        if self.stencil % 2 or self.spline_taps % 2 or self.oversampling < 1:
            raise ValueError("an Accuracy needs even stencil and spline_taps and oversampling >= 1")


TRAINING = Accuracy(
    nodes_per_fold=3.4,
    strain_nodes=4,
    stencil=4,
    oversampling=1.0,
    spline_taps=4,
    tail_nodes=16,
    axial_points=16,
    axial_inner_points=8,
    axial_heights=6,
    axial_frequencies=8,
)
REFINEMENT = Accuracy(
    nodes_per_fold=7.5,
    strain_nodes=6,
    stencil=6,
    oversampling=1.75,
    spline_taps=6,
    tail_nodes=32,
    axial_points=24,
    axial_inner_points=24,
    axial_heights=8,
    axial_frequencies=64,
)
ACCURACIES = {"training": TRAINING, "refinement": REFINEMENT}


@dataclass(frozen=True)
class Settings:
    """Static choices of `simulate`.

    Attributes:
      peak_sum: "dense" (truth), "windowed" (each peak on its own stretch of the grid) or "fft" (fast, uniform grids).
      profile: "voigt" (exact) or "tch" (Thompson-Cox-Hastings pseudo-Voigt).
      accuracy: discretisation of the FFT sum.
      split_orbits: whether a strain that breaks the crystal class splits orbits into their members; otherwise the metric is
        averaged over the Laue group, so that only the part of the strain that keeps the class acts.
      cut_far_peaks: whether peaks farther outside the window than `widths.tail_margin` are left out, so that a pattern does
        not depend on how far its list of reflections reaches. A refinement, whose list is fixed, keeps all: a peak that
        crosses the limit is a step.
      window: points of a peak's stretch in the windowed sum.
      slit_points: Gauss-Legendre points of a receiving slit in the dense and windowed sums.
      depth_points: points of the depth in a transparent specimen, likewise. 24 err by 3e-7 of the peak where the tail is a
        third as long as the line is wide; where it is as long, 24, 48 and 64 err by 1e-2, 7e-5 and 3e-6.
      chunk: peaks evaluated at once in the dense and windowed sums (memory against speed).
    """

    peak_sum: str = "fft"
    profile: str = "voigt"
    accuracy: Accuracy = field(default=REFINEMENT)
    split_orbits: bool = False
    cut_far_peaks: bool = False
    window: int = 1024
    slit_points: int = 8
    depth_points: int = 24
    chunk: int = 64

    def __post_init__(self) -> None:
        if self.peak_sum not in PEAK_SUMS:
            raise ValueError(f"unknown peak sum {self.peak_sum!r}; choose one of {', '.join(PEAK_SUMS)}")
        if self.profile not in PROFILE_NAMES:
            raise ValueError(f"unknown profile {self.profile!r}; choose one of {', '.join(PROFILE_NAMES)}")
