"""Device zone. FFT peak sum: sticks spread on a grid, kernels multiplied in Fourier space at a few width nodes.

Why: a dense sum costs peaks times points; this one costs a handful of transforms, whatever the number of peaks, because
isotropic widths are smooth functions of the Bragg angle. The steps, and what limits each:

1. Nodes. K Bragg angles, spaced so that widths and axial shift change by equal parts of the local peak width from one to
   the next. A stick goes to the 4 or 6 nearest nodes with Lagrange weights (error ~ the 4th or 6th power of that part).
2. Spreading. Each share is spread over neighbouring fine-grid points with a B-spline (4 or 6 taps), whose transform is
   divided out. The aliases left are (f/(1-f))^order of the kernel at frequency f (cycles per fine point).
3. Kernel. At each node the exact transform of the Voigt (or pseudo-Voigt) profile, the slit, axial divergence and
   transparency. Frequencies beyond the fine grid's Nyquist limit are missing: exp(-pi oversampling L/2) for a Lorentzian
   of L points.
4. Sampling. The fine spectrum is folded onto the grid's own frequencies, so the inverse transform has the grid's length
   whatever the oversampling: exact sampling of the fine pattern.
   Strain that depends on direction makes widths differ at one angle: a stick then goes to Chebyshev nodes over the range of
   strain too, each with a kernel at each angle's node (error 2 (a r/4)^n/n! e^-a of the kernel for n nodes, with a the
   decay's exponent at the mean strain and r the range over the mean).
5. Tails. The transform is periodic. The difference between a Lorentzian and its periodic image is smooth inside the
   window, so it is evaluated at a few Chebyshev points and interpolated; peaks beyond the padding enter here alone.

Peaks narrower than MIN_FWHM_POINTS grid points are returned with a Gaussian added that brings them up to 0.7 to 1 times
that width: they keep their area and position, and nothing rings. `python -m experiments.peak_sum_accuracy` prints the error
against the dense sum, values and gradients.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.fft
from flax import struct
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Complex, Float, Int

from simxrd_jax.diffraction.axial_divergence import axial_openings, mean_shift, opening_points
from simxrd_jax.diffraction.profiles import tch_parameters
from simxrd_jax.diffraction.settings import Accuracy, Settings
from simxrd_jax.diffraction.transparency import depth_transform, mean_tail
from simxrd_jax.diffraction.tube_tails import tail_transform
from simxrd_jax.diffraction.widths import PeakShape, peak_shape, voigt_fwhm
from simxrd_jax.errors import InputError
from simxrd_jax.numerics import DEGREE, FWHM_PER_SIGMA, constant, cos_sin
from simxrd_jax.types import Array, Grid, Instrument, PeakList, Scalar, Specimen

# Real and imaginary part of a transform.
_Parts = tuple[Float[Array, "*any"], Float[Array, "*any"]]
# Peaks below this FWHM get a Gaussian floor; 2.5 points is where the accuracy is still promised.
MIN_FWHM_POINTS = 2.5
# Padding on each side of the window as a share of its length: far enough that the wrapped tails seen inside are smooth.
PADDING_SHARE = 0.045
MIN_PADDING_POINTS = 48
# Points of the table that places the nodes.
NODE_TABLE_POINTS = 96
# Share of the node density that is uniform in 2theta, without and with axial divergence, whose change is so concentrated at
# low angles that spacings would otherwise grow too fast from one node to the next for the interpolation.
UNIFORM_NODE_SHARE, UNIFORM_NODE_SHARE_AXIAL = 0.2, 0.3
# Axial divergence changes the kernel's shape besides its width, and takes this many times as many nodes.
AXIAL_NODE_FACTOR = 1.5
# The first node stands no lower than this share of the window's start: peaks further down send only tails into the window,
# while axial divergence, which grows as 1/tan(2theta), would draw most nodes to them.
LOWEST_NODE_SHARE = 0.6
# Bragg angles at which nodes may stand: widths diverge at 180 deg, axial divergence at 0.
NODE_RANGE = (0.5, 176.0)
# Half the range of strain that its nodes span at least, as a share of its middle: that of a form that is isotropic.
LEAST_STRAIN_RANGE = 0.02
# Frequencies are m = PHASE_BLOCK a + b, so that axial phases are products of two short tables.
PHASE_BLOCK = 64


@dataclass(frozen=True)
class _Plan:
    """Host-made constants of a transform: lengths in points, frequencies in cycles per grid point."""

    size: int
    padding: int
    native: int
    fine: int
    taps: int
    frequency: np.ndarray
    inverse_spline: np.ndarray
    tail_points: np.ndarray
    tail_interpolation: np.ndarray


@lru_cache(maxsize=32)
def _make_plan(size: int, accuracy: Accuracy) -> _Plan:
    padding = max(MIN_PADDING_POINTS, int(np.ceil(PADDING_SHARE * size)))
    native = _even_fast_length(size + 2 * padding)
    padding = (native - size) // 2
    fine = native if accuracy.oversampling == 1 else _even_fast_length(int(np.ceil(native * accuracy.oversampling)))
    harmonics = np.arange(fine // 2 + 1)
    spline = np.sinc(harmonics / fine) ** accuracy.spline_taps
    nodes = 0.5 * (1.0 - np.cos((2 * np.arange(accuracy.tail_nodes) + 1) * np.pi / (2 * accuracy.tail_nodes)))
    return _Plan(
        size=size,
        padding=padding,
        native=native,
        fine=fine,
        taps=accuracy.spline_taps,
        frequency=harmonics / native,
        inverse_spline=1.0 / spline,
        tail_points=nodes * (size - 1),
        tail_interpolation=_chebyshev_interpolation(nodes * (size - 1), size),
    )


def _even_fast_length(target: int) -> int:
    length = target
    while True:
        length = int(scipy.fft.next_fast_len(length, real=True) or length)
        if length % 2 == 0:
            return length
        length += 1


def _chebyshev_interpolation(nodes: np.ndarray, size: int) -> np.ndarray:
    """Matrix [2, nodes, size] from values at first-kind Chebyshev nodes of [0, size - 1] to the values of their interpolant
    at the grid points and to its second derivatives there."""
    count = len(nodes)
    to_unit = lambda points: 2.0 * points / (size - 1) - 1.0  # noqa: E731
    analysis = 2.0 / count * np.polynomial.chebyshev.chebvander(to_unit(nodes), count - 1)
    analysis[:, 0] *= 0.5
    points = to_unit(np.arange(size))
    second = np.polynomial.chebyshev.chebder(np.eye(count), 2, scl=2.0 / (size - 1), axis=0)
    values = np.polynomial.chebyshev.chebvander(points, count - 1)
    return np.stack([analysis @ values.T, analysis @ (values[:, : count - 2] @ second).T])


@struct.dataclass
class FourierSum:
    """Peaks that are spread and not yet transformed.

    Attributes:
      nodes: Bragg angles of the width nodes. [deg]
      strains: of the strain nodes, or None where strain is the same in all directions; see `PeakList`. [rad]
      rows: sticks spread on the fine grid, for each set of kernels (one, or one a line with natural widths) and kernel, the
        strain nodes of an angle's node side by side.
      tails: correction of the periodic tails at the Chebyshev points, [2, tail]: values, and strengths of second derivatives.
    """

    nodes: Float[Array, " node"]
    strains: Float[Array, " strain"] | None
    rows: Float[Array, "group kernel fine"]
    tails: Float[Array, "2 tail"]


def start(
    specimen: Specimen,
    instrument: Instrument,
    grid: Grid,
    settings: Settings,
    dtype: DTypeLike,
    strain: Float[Array, "line hkl"] | None = None,
) -> FourierSum:
    """An empty sum.

    Args:
      specimen, instrument, grid, settings: of all peaks.
      dtype: of the sum.
      strain: of all peaks, see `PeakList`.

    Raises:
      InputError: the grid is not uniform.
    """
    if not grid.is_uniform:
        raise InputError(
            "the FFT peak sum needs evenly spaced points; use the dense or windowed sum for a grid with gaps or segments"
        )
    plan = _make_plan(grid.size, settings.accuracy)
    strains = None if strain is None else _strain_nodes(strain, settings.accuracy.strain_nodes)
    middle = None if strains is None else jnp.mean(strains)
    nodes = _node_angles(grid, plan, instrument, specimen, node_count(grid, instrument, settings.accuracy), middle)
    kernels = nodes.shape[0] * (1 if strains is None else strains.shape[0])
    groups = 1 if instrument.line_fwhm is None else instrument.line_fwhm.shape[0]
    return FourierSum(
        nodes=nodes.astype(dtype),
        strains=None if strains is None else strains.astype(dtype),
        rows=jnp.zeros((groups, kernels, plan.fine), dtype=dtype),
        tails=jnp.zeros((2, len(plan.tail_points)), dtype=dtype),
    )


def add(
    total: FourierSum, peaks: PeakList, specimen: Specimen, instrument: Instrument, grid: Grid, settings: Settings
) -> FourierSum:
    """Spreads peaks on the rows of their nodes; linear in the intensities, so blocks of peaks may be added in turn.

    Raises:
      InputError: peaks with a strain that depends on direction, in a sum that was not started with it.
    """
    if peaks.strain is not None and total.strains is None:
        raise InputError("batches of many structures have no strain that depends on direction; leave stephens out")
    plan = _make_plan(grid.size, settings.accuracy)
    bragg, place = peaks.bragg_two_theta, peaks.two_theta
    tails = total.tails + _tails(peaks, (place - grid.start) / grid.step, specimen, instrument, grid, settings, plan)
    openings = axial_openings(instrument)
    if openings is not None:
        # The mean shift moves the stick; only the shape around it is left to the kernel, which then changes less from node
        # to node.
        place = place + mean_shift(bragg.ravel(), openings).reshape(bragg.shape)
    groups, lines = total.rows.shape[0], bragg.shape[0]
    group = np.repeat(np.arange(lines) if groups > 1 else np.zeros(lines, dtype=int), bragg.shape[1])
    place, bragg, intensity = place.ravel(), bragg.ravel(), peaks.intensity.ravel()
    inside = _inside((place - grid.start) / grid.step, plan)
    first_kernel, kernel_weights = _lagrange_weights(bragg, total.nodes, settings.accuracy.stencil)
    if total.strains is not None and peaks.strain is not None:
        strain_weights = _lagrange_product(peaks.strain.ravel(), total.strains[None])
        first_kernel = first_kernel * strain_weights.shape[1]
        kernel_weights = (kernel_weights[:, :, None] * strain_weights[:, None, :]).reshape(bragg.shape[0], -1)
    cell, fraction = _fine_cell(jnp.where(inside, place, grid.start), grid, plan)
    taps = _spline_weights(fraction, plan.taps)
    share = jnp.where(inside, intensity, 0.0)[:, None] * kernel_weights
    updates = share[:, :, None] * taps[:, None, :]
    corner = jnp.stack([jnp.asarray(group, dtype=jnp.int32), first_kernel, cell - (plan.taps // 2 - 1)], axis=1)
    # Each peak adds a rectangle of (kernels, taps).
    dimensions = lax.ScatterDimensionNumbers(
        update_window_dims=(1, 2), inserted_window_dims=(0,), scatter_dims_to_operand_dims=(0, 1, 2)
    )
    rows = lax.scatter_add(total.rows, corner, updates, dimensions, mode=lax.GatherScatterMode.PROMISE_IN_BOUNDS)
    return FourierSum(nodes=total.nodes, strains=total.strains, rows=rows, tails=tails)


def finish(
    total: FourierSum, specimen: Specimen, instrument: Instrument, grid: Grid, settings: Settings
) -> Float[Array, " point"]:
    """Intensity per degree at the grid's points: transforms, kernels, one inverse transform, tails."""
    plan = _make_plan(grid.size, settings.accuracy)
    spectra = jnp.fft.rfft(total.rows)
    parts = []
    skews = _skews(total.nodes, instrument, grid, settings, plan)
    for group in range(total.rows.shape[0]):
        # Natural widths differ from line to line, so each line has kernels of its own.
        line = None if instrument.line_fwhm is None else group
        strains = [None] if total.strains is None else list(total.strains)
        kernels = [_kernels(total.nodes, strain, line, specimen, instrument, grid, settings, plan) for strain in strains]
        for node in range(total.nodes.shape[0]):
            rows = spectra[group, node * len(strains) : (node + 1) * len(strains)]
            parts.append(_product(rows, [kernel[node] for kernel in kernels], skews[node]))
    # Real and imaginary parts apart and node by node: XLA on CPU sums over an axis of complex numbers one by one.
    real, imaginary = sum(part[0] for part in parts), sum(part[1] for part in parts)
    beside = tail_transform(instrument, constant(plan.frequency, total.rows) / grid.step)
    if beside is not None:
        real, imaginary = _complex_product((real, imaginary), beside)
    spectrum = lax.complex(real, imaginary)
    spectrum = spectrum * constant(plan.inverse_spline, total.rows)
    periodic = jnp.fft.irfft(_fold(spectrum, plan), n=plan.native)
    window = lax.slice_in_dim(periodic, plan.padding, plan.padding + plan.size)
    tails = jnp.einsum("dt,dtp->p", total.tails, constant(plan.tail_interpolation, total.tails), precision="highest")
    return (window + tails) / grid.step


def _product(
    rows: Complex[Array, "strain frequency"],
    kernels: Sequence[Float[Array, " frequency"]],
    skew: _Parts | None,
) -> _Parts:
    """Real and imaginary part of the spectra of an angle's rows times their kernels, and times the skew parts' transform."""
    real = sum(jnp.real(row) * kernel for row, kernel in zip(rows, kernels, strict=True))
    imaginary = sum(jnp.imag(row) * kernel for row, kernel in zip(rows, kernels, strict=True))
    return (real, imaginary) if skew is None else _complex_product((real, imaginary), skew)


def _skews(
    nodes: Float[Array, " node"], instrument: Instrument, grid: Grid, settings: Settings, plan: _Plan
) -> Sequence[_Parts | None]:
    """Transform of what is not even about a line's place, at each node: axial divergence and transparency."""
    openings, found = axial_openings(instrument), None
    if openings is not None:
        found = _axial_transform(nodes, openings, grid, settings, plan)
    if instrument.transparency is not None:
        tail = mean_tail(nodes, instrument.transparency) / grid.step
        depth = depth_transform(tail[:, None] * constant(plan.frequency, nodes))
        found = depth if found is None else _complex_product(found, depth)
    return [None] * len(nodes) if found is None else list(zip(*found, strict=True))


def _complex_product(first: _Parts, second: _Parts) -> _Parts:
    """Of numbers given as real and imaginary part."""
    (a, b), (c, d) = first, second
    return a * c - b * d, a * d + b * c


def node_count(grid: Grid, instrument: Instrument, accuracy: Accuracy) -> int:
    """Nodes for a grid: widths can change by up to a factor tan(theta_max)/tan(theta_min) over it (microstrain)."""
    low = max(grid.start, 2.0)
    high = min(grid.start + grid.step * (grid.size - 1), 170.0)
    folds = np.log(np.tan(0.5 * DEGREE * high) / np.tan(0.5 * DEGREE * low)) if high > low else 0.0
    if axial_openings(instrument) is not None:
        folds *= AXIAL_NODE_FACTOR
    return max(accuracy.stencil, int(np.ceil(accuracy.nodes_per_fold * folds)))


def _strain_nodes(strain: Float[Array, "line hkl"], count: int) -> Float[Array, " strain"]:
    """Chebyshev nodes over the range of the peaks' strain; where they stand carries no gradient. [rad]"""
    strain = lax.stop_gradient(strain)
    low, high = jnp.min(strain), jnp.max(strain)
    middle = 0.5 * (low + high)
    half = jnp.maximum(0.5 * (high - low), LEAST_STRAIN_RANGE * middle)
    return middle + half * constant(np.cos((2 * np.arange(count) + 1) * np.pi / (2 * count)), middle)


def _node_angles(
    grid: Grid, plan: _Plan, instrument: Instrument, specimen: Specimen, count: int, strain: Float[Array, ""] | None
) -> Float[Array, " node"]:
    """Bragg angles of the nodes, over the window and its padding. [deg]

    Where nodes stand is a choice of discretisation, so no gradient flows through it; kernels at the nodes are
    differentiated in full.
    """
    specimen, instrument = lax.stop_gradient((specimen, instrument))
    margin = plan.padding * grid.step
    shift = jnp.asarray(instrument.zero_shift)
    low = jnp.clip(jnp.maximum(grid.start - margin, LOWEST_NODE_SHARE * grid.start) - shift, *NODE_RANGE)
    high = jnp.clip(grid.start + grid.step * (grid.size - 1) + margin - shift, *NODE_RANGE)
    fraction = constant(np.linspace(0.0, 1.0, NODE_TABLE_POINTS), low)
    table = low + (high - low) * fraction
    sine = jnp.sin(0.5 * DEGREE * table)
    shape = _mean_line_shape(sine, instrument, specimen, None if strain is None else jnp.broadcast_to(strain, sine.shape))
    width = voigt_fwhm(shape)
    uniform_share = UNIFORM_NODE_SHARE
    change = jnp.abs(jnp.diff(FWHM_PER_SIGMA * shape.sigma)) + jnp.abs(jnp.diff(2.0 * shape.hwhm_lorentz))
    openings = axial_openings(instrument)
    if openings is not None:
        uniform_share = UNIFORM_NODE_SHARE_AXIAL
        opening = sum(openings[:3])
        reach = jnp.rad2deg(0.5 * opening**2 / jnp.tan(DEGREE * jnp.clip(table, 1.0, 179.0)))
        change = change + jnp.abs(jnp.diff(reach))
    if instrument.transparency is not None:
        change = change + jnp.abs(jnp.diff(mean_tail(table, instrument.transparency)))
    # Widths are compared with at least two grid points: finer structure than that is not on the grid.
    change = change / jnp.maximum(0.5 * (width[1:] + width[:-1]), 2.0 * grid.step)
    total = jnp.sum(change)
    floor = (uniform_share * total + 1e-3) / (NODE_TABLE_POINTS - 1)
    cumulative = jnp.concatenate([jnp.zeros(1, dtype=table.dtype), jnp.cumsum(change + floor)])
    return jnp.interp(constant(np.linspace(0.0, 1.0, count), table) * cumulative[-1], cumulative, table)


def _mean_line_shape(
    sine: Float[Array, " peak"], instrument: Instrument, specimen: Specimen, strain: Float[Array, " peak"] | None
) -> PeakShape:
    """Peak widths at the strongest line's natural width, for placing nodes."""
    if instrument.line_fwhm is None:
        return peak_shape(sine, instrument, specimen, strain=strain)
    return peak_shape(sine, instrument, specimen, jnp.max(instrument.line_fwhm), jnp.min(instrument.wavelength), strain)


def _fine_cell(place: Float[Array, " peak"], grid: Grid, plan: _Plan) -> tuple[Int[Array, " peak"], Float[Array, " peak"]]:
    """Cell of the fine grid that a peak stands in, and how far into it.

    The distance to the cell's edge is a difference of numbers that single precision holds exactly: the fine step is split
    into a part of so few digits that its product with a cell's number is exact, and a rest. A quotient by the step would
    lose two digits more, and lose them differently wherever a compiler fuses a product with a sum.
    """
    step = grid.step * plan.native / plan.fine
    digits = 24 - int(plan.fine).bit_length()
    unit = 2.0 ** (np.floor(np.log2(step)) - digits + 1)
    coarse = float(np.round(step / unit) * unit)
    distance = place - (grid.start - plan.padding * grid.step)
    number = jnp.floor(lax.stop_gradient(distance) * (1.0 / step))
    fraction = ((distance - number * coarse) - number * (step - coarse)) * (1.0 / step)
    return number.astype(jnp.int32), fraction


def _inside(position: Float[Array, " peak"], plan: _Plan) -> Array:
    """Whether a peak stands in the window or its padding, with room for the spline. [points from the first]"""
    room = plan.padding - plan.taps
    return (position >= -room) & (position <= plan.size - 1 + room)


def _lagrange_weights(
    angle: Float[Array, " peak"], nodes: Float[Array, " node"], stencil: int
) -> tuple[Int[Array, " peak"], Float[Array, "peak near"]]:
    """First of the `stencil` nodes around each angle and their Lagrange weights (which sum to 1)."""
    half = stencil // 2
    # Which nodes are taken is discrete, their weights are not.
    inner = nodes[half : nodes.shape[0] - half]
    first = jnp.sum(lax.stop_gradient(angle)[:, None] >= inner, axis=1).astype(jnp.int32)
    near = nodes[first[:, None] + jnp.arange(stencil)]
    return first, _lagrange_product(jnp.clip(angle, nodes[0], nodes[-1]), near)


def _lagrange_product(place: Float[Array, " peak"], near: Float[Array, "#peak near"]) -> Float[Array, "peak near"]:
    """Weights of the polynomial through all nodes of a row."""
    distance = place[:, None] - near
    count = near.shape[1]
    weights = []
    for i in range(count):
        weight = jnp.ones_like(place)
        for j in range(count):
            if j != i:
                weight = weight * (distance[:, j] / (near[:, i] - near[:, j]))
        weights.append(weight)
    return jnp.stack(weights, axis=1)


def _spline_weights(t: Float[Array, " peak"], taps: int) -> Float[Array, "peak tap"]:
    """Values of the uniform B-spline with `taps` pieces at its `taps` grid points around fraction t of a cell.

    Reference: de Boor (1978), A Practical Guide to Splines, ch. X (the recurrence on uniform knots).
    """
    weights = [jnp.ones_like(t)]
    for degree in range(1, taps):
        saved = jnp.zeros_like(t)
        raised = []
        for r in range(degree):
            part = weights[r] / degree
            raised.append(saved + (r + 1.0 - t) * part)
            saved = (t + (degree - r - 1.0)) * part
        weights = [*raised, saved]
    return jnp.stack(weights, axis=1)


def _kernels(
    nodes: Float[Array, " node"],
    strain: Float[Array, ""] | None,
    line: int | None,
    specimen: Specimen,
    instrument: Instrument,
    grid: Grid,
    settings: Settings,
    plan: _Plan,
) -> Float[Array, "node frequency"]:
    """Transform of the unit-area profile at each node, which is real: what is not even is left to `_skews`."""
    sine = jnp.sin(0.5 * DEGREE * nodes)
    own = None if strain is None else jnp.broadcast_to(strain, sine.shape)
    if line is None:
        shape = peak_shape(sine, instrument, specimen, strain=own)
    else:
        shape = peak_shape(sine, instrument, specimen, instrument.line_fwhm[line], instrument.wavelength[line], own)  # type: ignore[index]
    shape = PeakShape(sigma=shape.sigma / grid.step, hwhm_lorentz=shape.hwhm_lorentz / grid.step)
    variance, extra = jnp.square(shape.sigma), jnp.square(_floor_sigma(voigt_fwhm(shape)))
    frequency = constant(plan.frequency, variance)
    if settings.profile == "voigt":
        kernel = jnp.exp(_decay(variance + extra, shape.hwhm_lorentz, frequency))
    else:
        fwhm, eta = tch_parameters(shape.sigma, shape.hwhm_lorentz)
        kernel = eta[:, None] * jnp.exp(_decay(extra, 0.5 * fwhm, frequency)) + (1.0 - eta)[:, None] * jnp.exp(
            _decay(jnp.square(fwhm / FWHM_PER_SIGMA) + extra, jnp.zeros_like(fwhm), frequency)
        )
    if instrument.slit_width is not None:
        kernel = kernel * jnp.sinc(instrument.slit_width / grid.step * frequency)
    return kernel


def _decay(
    variance: Float[Array, " node"], hwhm: Float[Array, " node"], frequency: Float[Array, " frequency"]
) -> Float[Array, "node frequency"]:
    """Logarithm of the transform of a Voigt profile, -2 pi^2 variance f^2 - 2 pi hwhm |f|.

    A matrix product on purpose: XLA on CPU would otherwise repeat the widths' own arithmetic for every frequency,
    which then takes most of the time.
    """
    table = jnp.stack([-2.0 * np.pi**2 * frequency**2, -2.0 * np.pi * frequency])
    return jnp.matmul(jnp.stack([variance, hwhm], axis=1), table, precision="highest")


def _floor_sigma(fwhm: Float[Array, " node"]) -> Float[Array, " node"]:
    """Standard deviation of the Gaussian added to peaks under MIN_FWHM_POINTS, 0 with derivative 0 above. [points]

    The square of the width, u in units of the floor's, becomes (1 + u^2)/2 for u < 1: monotonic, continuous with its slope.
    """
    u = jnp.minimum(jnp.square(fwhm / MIN_FWHM_POINTS), 1.0)
    deficit = 0.5 * jnp.square(1.0 - u)
    narrow = deficit > 0
    return jnp.where(narrow, jnp.sqrt(jnp.where(narrow, deficit, 1.0)), 0.0) * (MIN_FWHM_POINTS / FWHM_PER_SIGMA)


def _axial_transform(
    nodes: Float[Array, " node"], openings: tuple[Scalar, ...], grid: Grid, settings: Settings, plan: _Plan
) -> tuple[Float[Array, "node frequency"], Float[Array, "node frequency"]]:
    """Transform of the axial divergence function at each node, with a derivative that is linear in few arrays.

    Forward derivatives along many directions at once, of a refinement's Jacobian, would otherwise each repeat the sum over
    quadrature points; here the derivatives by the openings are made once, and a direction is their combination. The
    nodes' places carry no derivative, see `_node_angles`.
    """
    traced = [i for i, opening in enumerate(openings) if not (isinstance(opening, float) and np.isinf(opening))]

    def plain(nodes: Array, given: tuple[Array, ...]) -> tuple[Array, Array]:
        every = [*openings]
        for i, value in zip(traced, given, strict=True):
            every[i] = value
        return _axial_sum(nodes, tuple(every), grid, settings, plan)

    transform = jax.custom_jvp(plain)

    @transform.defjvp
    def _(at: Any, tangents: Any) -> tuple[Any, Any]:
        nodes, given = at
        values, along = None, None
        for i in range(len(given)):
            unit = tuple(jnp.full_like(value, float(i == k)) for k, value in enumerate(given))
            values, slope = jax.jvp(lambda given: plain(nodes, given), (given,), (unit,))
            part = [s * tangents[1][i] for s in slope]
            along = part if along is None else [a + b for a, b in zip(along, part, strict=True)]
        return values, tuple(along or ())

    return transform(nodes, tuple(jnp.asarray(openings[i], nodes.dtype) for i in traced))


def _axial_sum(
    nodes: Float[Array, " node"], openings: tuple[Scalar, ...], grid: Grid, settings: Settings, plan: _Plan
) -> tuple[Float[Array, "node frequency"], Float[Array, "node frequency"]]:
    """Transform of the axial divergence function at each node, sum of w exp(-2 pi i f shift): real and imaginary part.

    With m = PHASE_BLOCK a + b the phase is a product of one factor for a and one for b, so the sum over quadrature points
    is a small matrix product and only (M/PHASE_BLOCK + PHASE_BLOCK) sines a point are taken. The transform changes by little
    over a block, since shifts are short against the pattern: at training accuracy it is computed at `axial_frequencies`
    Chebyshev points of each block and interpolated. With a shift of r grid points the phase runs over +-x,
    x = pi PHASE_BLOCK r/native, within a block, and n points err by 2 (x/2)^n/n!: 1e-6 for 12 points and r = 60 of 3840.
    Products are real because a complex product of small matrices takes XLA on CPU several times as long.
    """
    accuracy = settings.accuracy
    shift, weight = opening_points(nodes, openings, accuracy)
    shift = shift - mean_shift(nodes, openings)[:, None]
    cycles = shift / (grid.step * plan.native)  # per harmonic
    count = plan.fine // 2 + 1
    blocks = -(-count // PHASE_BLOCK)
    places, interpolation = _block_places(accuracy.axial_frequencies)
    cos_a, sin_a = cos_sin(cycles[:, None, :] * constant(np.arange(blocks) * PHASE_BLOCK, cycles)[:, None])
    cos_b, sin_b = cos_sin(cycles[:, None, :] * constant(places, cycles)[:, None])
    cos_a, sin_a = cos_a * weight[:, None, :], sin_a * weight[:, None, :]
    product = lambda a, b: jnp.einsum("kap,kbp->kab", a, b, precision="highest")  # noqa: E731
    parts = (product(cos_a, cos_b) - product(sin_a, sin_b), -product(sin_a, cos_b) - product(cos_a, sin_b))
    if interpolation is not None:
        table = constant(interpolation, cycles)
        parts = tuple(jnp.matmul(part, table, precision="highest") for part in parts)
    even, odd = (part.reshape(nodes.shape[0], -1)[:, :count] for part in parts)
    return even, odd


@lru_cache(maxsize=8)
def _block_places(count: int) -> tuple[np.ndarray, np.ndarray | None]:
    """Harmonics within a block at which the axial transform is computed, and the matrix [place, harmonic] that interpolates
    between them; all of them and no matrix if `count` is PHASE_BLOCK."""
    harmonics = np.arange(PHASE_BLOCK)
    if count >= PHASE_BLOCK:
        return harmonics.astype(float), None
    middle = 0.5 * (PHASE_BLOCK - 1)
    places = middle * (1.0 - np.cos((2 * np.arange(count) + 1) * np.pi / (2 * count)) / np.cos(np.pi / (2 * count)))
    matrix = np.ones((count, PHASE_BLOCK))
    for i in range(count):
        for j in range(count):
            if j != i:
                matrix[i] *= (harmonics - places[j]) / (places[i] - places[j])
    return places, matrix


def _fold(spectrum: Complex[Array, " frequency"], plan: _Plan) -> Complex[Array, " native"]:
    """Spectrum of the fine pattern sampled at grid points: harmonics above the grid's Nyquist limit alias below it."""
    if plan.fine == plan.native:
        return spectrum
    half = plan.native // 2
    low, high = spectrum[: half + 1], spectrum[half + 1 : plan.fine // 2]
    # Harmonic m > half aliases to native - m with the conjugate value; the Nyquist harmonic meets its own mirror image.
    low = low.at[half].add(jnp.conj(low[half]))
    aliased = jnp.conj(high[::-1])
    return low.at[half - aliased.shape[0] : half].add(aliased)


def _tails(
    peaks: PeakList,
    position: Float[Array, "line hkl"],
    specimen: Specimen,
    instrument: Instrument,
    grid: Grid,
    settings: Settings,
    plan: _Plan,
) -> Float[Array, "2 tail"]:
    """What periodic tails get wrong at the Chebyshev points: the Lorentzian minus its periodic sum for peaks in the window and
    its padding, the whole Lorentzian for peaks beyond. [per grid point]

    A Gaussian part of variance v adds v/2 times the second derivative, which matters to the gradient with respect to v when
    the Lorentzian is hundreds of points wide.
    """
    sine_bragg = jnp.sin(0.5 * DEGREE * peaks.bragg_two_theta)
    line = None if instrument.line_fwhm is None else jnp.asarray(instrument.line_fwhm)[:, None]
    shape = peak_shape(sine_bragg, instrument, specimen, line, jnp.asarray(instrument.wavelength)[:, None], peaks.strain)
    strength, gamma, variance = peaks.intensity, shape.hwhm_lorentz, jnp.square(shape.sigma / grid.step)
    if settings.profile == "tch":
        fwhm, eta = tch_parameters(shape.sigma, shape.hwhm_lorentz)
        strength, gamma, variance = strength * eta, 0.5 * fwhm, jnp.zeros_like(fwhm)
    gamma = (gamma / grid.step).ravel()
    strengths = jnp.stack([strength, 0.5 * strength * variance]).reshape(2, -1)
    position = position.ravel()
    # sum over images of the Lorentzian: sinh(a) cosh(a)/(sinh^2(a) + sin^2(pi offset/N))/N, a = pi gamma/N.
    a = jnp.minimum(np.pi * gamma / plan.native, 40.0)
    sinh_squared, product = jnp.square(jnp.sinh(a)), 0.5 * jnp.sinh(2.0 * a) / plan.native
    inside = _inside(position, plan)
    offset = constant(plan.tail_points, position)[:, None] - position
    # Peaks far outside must not come close to the points: their distance is at least the padding by construction.
    lorentz = gamma / (np.pi * (jnp.square(offset) + jnp.square(gamma) + TINY_AREA))
    _, sine = cos_sin(offset / (2 * plan.native))
    periodic = product / (sinh_squared + jnp.square(sine) + TINY_AREA * (np.pi / plan.native) ** 2)
    difference = jnp.where(inside, lorentz - periodic, lorentz)
    return jnp.einsum("dp,tp->dt", strengths, difference, precision="highest")


# Regularises the Lorentzian and its periodic sum alike at zero width on a Chebyshev point. [points^2]
TINY_AREA = 1e-4
