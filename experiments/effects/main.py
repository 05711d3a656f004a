"""The figures and tables of docs/physics.md."""

from __future__ import annotations

import argparse
import io
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image
from tqdm import tqdm

from experiments.effects import tables
from experiments.effects.config import CONFIG
from experiments.effects.curves import DENSE, SHARP, TUBE, fwhm, parts, pattern, phase
from simxrd_jax.commands.forward import FAST_COMPILATION
from simxrd_jax.commands.simulate import ALPHA
from simxrd_jax.conditions import build
from simxrd_jax.constants import RADIATIONS
from simxrd_jax.crystal.displacement import debye_biso
from simxrd_jax.diffraction.background import background
from simxrd_jax.diffraction.corrections import cylinder_absorption, lorentz_polarization
from simxrd_jax.diffraction.geometry import observed_two_theta
from simxrd_jax.diffraction.noise import add_noise
from simxrd_jax.diffraction.profiles import tch_pseudo_voigt, voigt
from simxrd_jax.diffraction.settings import REFINEMENT, TRAINING, Settings
from simxrd_jax.diffraction.simulate import simulate, simulate_mixture
from simxrd_jax.diffraction.texture import march_dollase
from simxrd_jax.phases import load_phase, load_phase_for
from simxrd_jax.plots import INK, PHASE_COLOURS
from simxrd_jax.presets import PRESETS, simulate_preset
from simxrd_jax.types import Background, Grid, Noise, Phase

COLOURS = (INK, *PHASE_COLOURS)
ANGLES = np.linspace(10.0, 150.0, 400)


def structure_factor(left: Axes, right: Axes) -> None:
    """Hematite, whose iron is close to its absorption edge at Cu K-alpha, with and without dispersion."""
    for axes, window in ((left, (22.0, 44.0)), (right, (47.0, 66.0))):
        for colour, label, on in ((INK, "with $f'$, $f''$", True), (COLOURS[2], "without", False)):
            x, y = pattern("hematite", window, {"grain_size": 400.0}, dispersion=on)
            axes.plot(x, y / 1e3, color=colour, label=label, linestyle="-" if on else (0, (4, 2)))
        _pattern_axes(axes, "hematite" if axes is left else "")
    left.legend()


def displacement(left: Axes, right: Axes) -> None:
    """An overall B on corundum; the tensors of calcite against the B of the same mean square displacement."""
    for colour, b in zip(COLOURS, (0.0, 1.0, 3.0), strict=False):
        x, y = pattern("Al2O3", (60.0, 100.0), {"biso": b, "grain_size": 400.0})
        left.plot(x, y, color=colour, label=f"biso {b:g} Å²")
    _pattern_axes(left, "corundum")
    window = (60.0, 95.0)
    crystal = phase("calcite", *window).crystal
    mean = 8 * math.pi**2 * np.array([_u_equivalent(u, np.asarray(crystal.lattice)) for u in np.asarray(crystal.u_aniso)])
    isotropic = crystal.replace(u_aniso=None, biso=jnp.asarray(mean))  # pyright: ignore[reportAttributeAccessIssue]
    x, tensors = pattern("calcite", window, {"grain_size": 400.0})
    _, scalars = pattern("calcite", window, {"grain_size": 400.0}, crystal=isotropic)
    right.plot(x, tensors, color=INK, label="tensors $U_{ij}$")
    right.plot(x, 10 * (scalars - tensors), color=COLOURS[2], label=r"(equivalent B $-$ tensors) $\times$ 10")
    low = right.get_ylim()[0]
    _pattern_axes(right, "calcite")
    right.set_ylim(low, 1.3 * tensors.max())
    left.legend()
    right.legend()


def _u_equivalent(u: np.ndarray, lattice: np.ndarray) -> float:
    """A third of the trace of the Cartesian tensor. [A^2]"""
    reciprocal = np.linalg.inv(lattice @ lattice.T)
    n = np.sqrt(np.diag(reciprocal))
    return float(np.sum(u * np.outer(n, n) * (lattice @ lattice.T)) / 3)


def debye(left: Axes, right: Axes) -> None:
    """B(T) of the Debye model for silicon, and its pattern with thermal expansion."""
    kelvin = np.linspace(5.0, 1000.0, 200)
    for colour, theta in zip(COLOURS, (350.0, 540.0, 800.0), strict=False):
        b = [float(debye_biso(jnp.array([28.085]), t, theta)[0]) for t in kelvin]
        left.plot(kelvin, b, color=colour, label=rf"$\Theta_D$ = {theta:g} K")
    left.set(xlabel="temperature (K)", ylabel="B (Å²)", ylim=(0, None), xlim=(0, 1000))
    left.set_title("silicon's mass", loc="left")
    crystal = phase("Si", 85.0, 97.0).crystal
    bare = crystal.replace(biso=jnp.zeros_like(crystal.biso))  # pyright: ignore[reportAttributeAccessIssue]
    for colour, t in zip(COLOURS, (20.0, 300.0, 900.0), strict=False):
        conditions = {"debye_temperature": 540.0, "temperature": t, "thermal_expansion": 3e-6, "grain_size": 400.0}
        x, y = pattern("Si", (85.0, 97.0), conditions, crystal=bare)
        right.plot(x, y, color=colour, label=f"{t:g} K")
    _pattern_axes(right, "silicon")
    left.legend()
    right.legend()


def strain(left: Axes, right: Axes) -> None:
    """An isotropic strain moves peaks; one along x splits a cubic orbit or acts by its mean."""
    for colour, e in zip(COLOURS, (0.0, 0.005, -0.005), strict=False):
        tensor = {f"strain_{i}{i}": e for i in "xyz"}
        x, y = pattern("LaB6", (47.5, 55.0), {**tensor, "grain_size": 600.0})
        left.plot(x, y, color=colour, label=f"{100 * e:+g} %" if e else "none")
    _pattern_axes(left, "isotropic strain, LaB$_6$")
    conditions = {"strain_xx": 0.01, "grain_size": 600.0}
    shown = (
        ("no strain", {"grain_size": 600.0}, DENSE),
        ("class kept", conditions, DENSE),
        ("orbits split", conditions, Settings(peak_sum="dense", split_orbits=True)),
    )
    for colour, (label, values, settings) in zip(COLOURS, shown, strict=False):
        x, y = pattern("LaB6", (47.5, 55.0), values, settings=settings)
        right.plot(x, y, color=colour, label=label)
    _pattern_axes(right, "strain of 1 % along x")
    left.legend(loc="upper right")
    right.legend(loc="upper right")


def size(left: Axes, right: Axes) -> None:
    """Scherrer broadening."""
    rows = [("no broadening", {})] + [(f"D = {d:g} Å", {"grain_size": d}) for d in (1000.0, 300.0, 100.0)]
    _widths(left, rows, "without instrument")
    _compare(right, "LaB6", (46.0, 57.0), rows, "LaB$_6$")


def microstrain(left: Axes, right: Axes) -> None:
    """Strain broadening."""
    rows = [(rf"e = {1e3 * e:g}$\times$10$^{{-3}}$", {"microstrain": e}) for e in (0.0, 5e-4, 2e-3, 5e-3)]
    rows[0] = ("no broadening", {})
    _widths(left, rows, "without instrument")
    _compare(right, "LaB6", (46.0, 57.0), rows, "LaB$_6$")


def texture(left: Axes, right: Axes) -> None:
    """The March-Dollase density, and corundum with platelets or needles along (0 0 1)."""
    angle = np.linspace(0.0, 90.0, 200)
    values = (1.0, 0.7, 1.4)
    for colour, r in zip(COLOURS, values, strict=False):
        left.plot(angle, march_dollase(jnp.cos(jnp.deg2rad(angle)) ** 2, r), color=colour, label=f"r = {r:g}")
    left.set(xlabel="angle to the texture axis (degrees)", ylabel="pole density", xlim=(0, 90), ylim=(0, None))
    rows = [(f"r = {r:g}", {"march_dollase": r, "grain_size": 300.0}) for r in values]
    _compare(right, "Al2O3", (24.0, 46.0), rows, "corundum, axis (0 0 1)", legend=False)
    left.legend()


def orientation(left: Axes, right: Axes) -> None:
    """SimXRD's random factor of each reflection, for two widths of the clip."""
    loaded = phase("Al2O3", 24.0, 70.0)
    draws = np.random.default_rng(CONFIG.seed).normal(size=loaded.reflections.hkl.shape[0])
    grid = np.linspace(24.0, 70.0, CONFIG.points)
    for axes, clip in ((left, 0.1), (right, 0.4)):
        for colour, on in ((INK, False), (COLOURS[2], True)):
            values: dict[str, Any] = {**SHARP, "grain_size": 300.0}
            if on:
                values |= {"orientation_draws": draws, "orientation_below": clip, "orientation_above": clip}
            specimen, instrument, _, _ = build(values, TUBE)
            points = Grid(two_theta=grid, size=len(grid))
            y = simulate(loaded.crystal, loaded.reflections, specimen, instrument, points, None, DENSE).intensity
            axes.plot(grid, y, color=colour, label="with the factor" if on else "without", linewidth=1.0)
        axes.margins(y=0.3)
        _pattern_axes(axes, rf"corundum, factor clipped to 1 $\pm$ {clip:g}")
    left.legend(loc="upper left", ncols=2)


def lorentz_polarization_figure(left: Axes, right: Axes) -> None:
    """The Lorentz-polarization factor, and its ratio to that of a tube without monochromator."""
    sine = jnp.sin(jnp.deg2rad(ANGLES / 2))
    rows = (
        ("tube", {}),
        ("graphite monochromator", {"monochromator_two_theta": 26.6}),
        ("synchrotron, p = 0.95", {"polarization_fraction": 0.95}),
    )
    tube = np.asarray(lorentz_polarization(sine, parts({})[1]))
    for colour, (label, conditions) in zip(COLOURS, rows, strict=False):
        y = np.asarray(lorentz_polarization(sine, parts(conditions)[1]))
        left.semilogy(ANGLES, y, color=colour, label=label)
        right.plot(ANGLES, y / tube, color=colour, label=label)
    left.set(ylabel="LP")
    right.set(ylabel="LP / LP of a tube", ylim=(0.0, None))
    for axes in (left, right):
        axes.set(xlabel="2θ (degrees)", xlim=(10, 150))
    left.legend()


def absorption(left: Axes, right: Axes) -> None:
    """Transmission of a capillary, and what it does to the relative intensities."""
    sine = jnp.sin(jnp.deg2rad(ANGLES / 2))
    for colour, mu_r in zip(COLOURS, (0.1, 0.5, 1.0), strict=False):
        a = np.asarray(cylinder_absorption(sine, mu_r))
        left.plot(ANGLES, a, color=colour, label=rf"$\mu R$ = {mu_r:g}")
        right.plot(ANGLES, a / a[0], color=colour)
    left.set(ylabel="transmission A", ylim=(0, 1.05))
    right.set(ylabel="A / A(10°)", ylim=(0.9, None))
    for axes in (left, right):
        axes.set(xlabel="2θ (degrees)", xlim=(10, 150))
    left.legend(ncols=3, loc="upper right")


def positions(left: Axes, right: Axes) -> None:
    """Zero shift, specimen displacement and transparency."""
    rows = (
        ("none", {}),
        ("zero_shift 0.05°", {"zero_shift": 0.05}),
        ("displacement 0.1 mm", {"displacement": 0.1}),
        ("transparency 0.0005 rad", {"transparency": 0.0005}),
    )
    sine = jnp.sin(jnp.deg2rad(ANGLES / 2))
    for colour, (label, conditions) in zip(COLOURS, rows, strict=False):
        shift = np.asarray(observed_two_theta(sine, parts(conditions)[1])) - ANGLES
        left.plot(ANGLES, shift, color=colour, label=label)
        x, y = pattern("LaB6", (48.3, 49.6), conditions)
        right.plot(x, y, color=colour)
    left.set(xlabel="2θ (degrees)", ylabel="shift (degrees)", xlim=(10, 150), ylim=(-0.065, 0.17))
    _pattern_axes(right, "LaB$_6$ (2 1 0)")
    left.legend(ncols=2, loc="upper center")


def emission(left: Axes, right: Axes) -> None:
    """The K-alpha doublet, and natural line widths."""
    window = (86.5, 89.5)
    for colour, name in ((INK, "CuKa1"), (COLOURS[2], "CuKa")):
        x, y = pattern("LaB6", window, {}, radiation=RADIATIONS[name])
        left.plot(x, y, color=colour, label=f"Cu K{ALPHA}" + (r"$_1$" if name.endswith("1") else r"$_{1,2}$"))
    # 2.4 and 3.0 eV, round values for Cu.
    for colour, label, natural in ((INK, "sharp lines", None), (COLOURS[2], "natural widths", (4.6e-4, 5.7e-4))):
        x, y = pattern("LaB6", window, {}, radiation=RADIATIONS["CuKa"], line_fwhm=natural)
        right.plot(x, y, color=colour, label=label)
    for axes in (left, right):
        _pattern_axes(axes, "LaB$_6$ (3 2 1)")
        axes.legend()


def instrument_widths(left: Axes, right: Axes) -> None:
    """The Caglioti parabola and the two Lorentzian terms."""
    caglioti = (
        ("W = 0.006", {"caglioti_w": 0.006}),
        ("+ U = 0.004", {"caglioti_w": 0.006, "caglioti_u": 0.004}),
        (r"+ V = $-$0.006", {"caglioti_w": 0.006, "caglioti_u": 0.004, "caglioti_v": -0.006}),
    )
    _widths(left, caglioti, "Gaussian: U, V, W in deg$^2$")
    lorentz = (
        ("1/cos 0.02°", {"lorentz_inverse_cos": 0.02}),
        ("tan 0.02°", {"lorentz_tan": 0.02}),
        ("both", {"lorentz_inverse_cos": 0.02, "lorentz_tan": 0.02}),
    )
    _widths(right, lorentz, "Lorentzian terms")


def profiles(left: Axes, right: Axes) -> None:
    """The Voigt profile and the pseudo-Voigt that stands for it, at equal Gaussian and Lorentzian FWHM."""
    x = np.linspace(-4.0, 4.0, 601)
    for colour, ratio in zip(COLOURS, (0.25, 1.0, 4.0), strict=False):
        sigma, gamma = jnp.asarray(1.0 / 2.3548), jnp.asarray(0.5 * ratio)
        exact = np.asarray(voigt(jnp.asarray(x), sigma, gamma))
        pseudo = np.asarray(tch_pseudo_voigt(jnp.asarray(x), sigma, gamma))
        left.plot(x, exact, color=colour, label=f"L/G = {ratio:g}")
        left.plot(x, pseudo, color=colour, linestyle=(0, (2, 2)))
        right.plot(x, 100 * (pseudo - exact) / exact.max(), color=colour)
    left.set_title("Voigt (lines), pseudo-Voigt (dashes)", loc="left")
    right.set_title("difference, % of the peak", loc="left")
    for axes in (left, right):
        axes.set(xlabel="offset / Gaussian FWHM", xlim=(-4, 4))
    left.legend()


def axial_divergence(left: Axes, right: Axes) -> None:
    """Finger-Cox-Jephcoat asymmetry at low angle, and its reversal at high angle."""
    for axes, window, label in ((left, (20.6, 21.7), "LaB$_6$ (1 0 0)"), (right, (147.9, 149.5), "LaB$_6$ (5 1 0)")):
        for colour, a in zip(COLOURS, (0.0, 0.02, 0.04), strict=False):
            conditions = {"axial_source": a, "axial_detector": a} if a else {}
            x, y = pattern("LaB6", window, conditions)
            axes.plot(x, y, color=colour, label=f"S/L = H/L = {a:g}" if a else "none")
        _pattern_axes(axes, label)
    left.legend(loc="upper left")


def slit(left: Axes, right: Axes) -> None:
    """A receiving slit."""
    rows = [("no slit", {})] + [(f"{w:g}°", {"slit_width": w}) for w in (0.1, 0.3)]
    _compare(left, "LaB6", (20.9, 21.8), rows, "LaB$_6$ (1 0 0)")
    _compare(right, "LaB6", (86.8, 89.0), rows, "LaB$_6$ (3 2 1)", legend=False)


def backgrounds(left: Axes, right: Axes) -> None:
    """The parts of a background, and a pattern over their sum."""
    x = np.linspace(10.0, 80.0, CONFIG.points)
    rows = {
        "Chebyshev": Background(chebyshev=np.array([0.06, -0.04, 0.01])),
        "polynomial": Background(polynomial=np.array([0.3, -1.0, 0.5, 1.2, -0.4, 0.0, 0.6]), polynomial_height=0.05),
        "air scatter": Background(air_scatter=0.8),
        "hump": Background(hump_position=np.array([24.0]), hump_fwhm=np.array([10.0]), hump_height=np.array([0.05])),
    }
    total = np.zeros_like(x)
    for colour, (label, row) in zip(COLOURS[1:], rows.items(), strict=False):
        y = np.asarray(background(row, jnp.asarray(x)))
        total += y
        left.plot(x, y, color=colour, label=label)
    left.set(xlabel="2θ (degrees)", ylabel="share of the highest peak", xlim=(10, 80), ylim=(0, 0.16))
    left.legend(ncols=2, loc="upper right")
    _, peaks = pattern("Al2O3", (10.0, 80.0), {"grain_size": 300.0})
    peaks = peaks / peaks.max()
    right.plot(x, peaks + total, color=INK, linewidth=0.9)
    right.plot(x, total, color=COLOURS[2])
    _pattern_axes(right, "corundum over their sum", (10.0, 80.0))


def noise(left: Axes, right: Axes) -> None:
    """Counting statistics, and SimXRD's uniform noise."""
    x, y = pattern("Al2O3", (20.0, 60.0), {"grain_size": 300.0, "background_level": 0.05})
    y = y / y.max()
    kinds = (
        (left, "100 counts, 10,000 counts", (Noise(peak_counts=100.0), Noise(peak_counts=10000.0))),
        (right, "normal 0.02, uniform 0.02", (Noise(gaussian=0.02), Noise(uniform=0.02))),
    )
    for axes, title, pair in kinds:
        for offset, colour, kind in zip((0.0, 0.55), (INK, COLOURS[1]), pair, strict=True):
            drawn = add_noise(jnp.asarray(y), kind, key=jax.random.key(CONFIG.seed))
            axes.plot(x, np.asarray(drawn) + offset, color=colour, linewidth=0.7)
        _pattern_axes(axes, f"{title} (upper)", (20.0, 60.0))


def mixtures(left: Axes, right: Axes) -> None:
    """Quartz and corundum: pure, and in two proportions by mass."""
    window = (20.0, 40.0)
    names = ("quartz", "Al2O3")
    x = np.linspace(*window, CONFIG.points)
    grid = Grid(two_theta=x, size=len(x))
    specimen, instrument, _, _ = build({**SHARP, "grain_size": 400.0}, TUBE)
    phases = [Phase(p.crystal, p.reflections, specimen) for p in (phase(n, *window) for n in names)]
    names_of = {1.0: "quartz", 0.7: "70 % quartz, 30 % corundum", 0.3: "30 % quartz, 70 % corundum", 0.0: "corundum"}
    for colour, share in zip(COLOURS, names_of, strict=False):
        y = simulate_mixture(phases, jnp.array([share, 1.0 - share]), instrument, grid, None, DENSE).intensity
        axes = left if share in (1.0, 0.0) else right
        axes.plot(x, y, color=colour, label=names_of[share])
    _pattern_axes(left, "pure phases, equal mass", window)
    _pattern_axes(right, "mixtures", window)
    top = 1.08 * max(left.get_ylim()[1], right.get_ylim()[1])
    for axes in (left, right):
        axes.set_ylim(0, top)
        axes.legend(loc="upper right")


def peak_sums(left: Axes, right: Axes) -> None:
    """What the FFT sum returns for a peak of 1.2 grid points, and its error against the width."""
    step = 0.02
    loaded = load_phase(CONFIG.cifs / "LaB6.cif", TUBE, (25.0, 35.0), margin=3.0)
    grid = Grid.uniform(25.0, 35.0, step)
    fine = np.linspace(30.2, 30.57, 400)

    def curve(width: float, settings: Settings, points: Any = grid) -> np.ndarray:
        specimen, instrument, _, _ = build({"caglioti_w": width**2}, TUBE)
        run = simulate(loaded.crystal, loaded.reflections, specimen, instrument, points, None, settings)
        return np.asarray(run.intensity)

    width = 1.2 * step
    exact = curve(width, DENSE, Grid(two_theta=fine, size=len(fine)))
    left.plot(fine, exact / exact.max(), color=INK, label="true profile")
    x = np.asarray(grid.two_theta)
    inside = (x > fine[0]) & (x < fine[-1])
    for colour, label, settings in ((COLOURS[1], "dense", DENSE), (COLOURS[2], "fft", Settings())):
        y = curve(width, settings)
        left.plot(x[inside], y[inside] / exact.max(), color=colour, marker="o", markersize=3, linewidth=0.6, label=label)
    _pattern_axes(left, "FWHM of 1.2 grid points", (fine[0], fine[-1]))
    left.legend()
    widths = np.array([1.0, 1.3, 1.6, 2.0, 2.5, 3.0, 4.0, 6.0, 10.0])
    for colour, label, accuracy in ((COLOURS[2], "fft, training", TRAINING), (COLOURS[1], "fft, refinement", REFINEMENT)):
        errors = []
        for points in widths:
            truth = curve(points * step, DENSE)
            errors.append(float(np.abs(curve(points * step, Settings(accuracy=accuracy)) - truth).max() / truth.max()))
        right.loglog(widths, errors, color=colour, marker="o", markersize=3, label=label)
    right.axvline(2.5, color="#8a8a8a", linewidth=0.8, linestyle=(0, (4, 2)))
    right.set(xlabel="FWHM (grid points)", ylabel="greatest error / peak")
    right.set_xticks([1, 2, 2.5, 4, 6, 10], labels=["1", "2", "2.5", "4", "6", "10"])
    right.set_xticks([], minor=True)
    right.legend()


def presets(left: Axes, right: Axes) -> None:
    """Three patterns of corundum under two presets."""
    for axes, name in ((left, "simxrd"), (right, "laboratory")):
        preset = PRESETS[name]
        loaded = load_phase_for(CONFIG.cifs / "Al2O3.cif", preset)
        grid = preset.grid()
        draw = jax.jit(
            lambda k, p=preset, a=loaded, g=grid: simulate_preset(a.crystal, a.reflections, p, g, p.settings(), key=k)[0],
            compiler_options=FAST_COMPILATION,
        )
        for i, colour in enumerate(COLOURS[:3]):
            y = np.asarray(draw(jax.random.key(CONFIG.seed + i)).intensity)
            axes.plot(np.asarray(grid.two_theta), y / y.max() + 0.9 * i, color=colour, linewidth=0.6)
        _pattern_axes(axes, f"corundum, preset {name}", preset.two_theta[:2])


def readme() -> Figure:
    """Corundum, and the exact derivatives of its pattern with respect to grain size and to the c axis."""
    window = (24.0, 70.0)
    loaded = phase("Al2O3", *window, RADIATIONS["CuKa"])
    x = np.linspace(*window, 2 * CONFIG.points)
    grid = Grid(two_theta=x, size=len(x))

    def intensity(grain_size: Any, stretch: Any) -> Any:
        strain = {"strain_xx": 0.0, "strain_zz": stretch}
        specimen, instrument, _, _ = build({**SHARP, **strain, "grain_size": grain_size}, RADIATIONS["CuKa"])
        return simulate(loaded.crystal, loaded.reflections, specimen, instrument, grid, None, DENSE).intensity

    at = (jnp.asarray(300.0), jnp.asarray(0.0))
    y = np.asarray(intensity(*at))
    by_size, by_axis = (np.asarray(v) for v in jax.jacfwd(intensity, argnums=(0, 1))(*at))
    figure = _figure(CONFIG.width, 4.4)
    rows = figure.subplots(3, 1, sharex=True, height_ratios=(2.0, 1.0, 1.0))
    figure.subplots_adjust(left=0.03, right=0.985, bottom=0.095, top=0.95, hspace=0.28)
    titles = (
        f"corundum, Cu K{ALPHA}, 300 Å grains",
        "derivative with respect to grain size",
        "derivative with respect to the length of the c axis",
    )
    for axes, values, title, colour in zip(rows, (y, by_size, by_axis), titles, (INK, COLOURS[1], COLOURS[2]), strict=True):
        axes.plot(x, values / np.abs(values).max(), color=colour, linewidth=1.0)
        axes.set_title(title, loc="left", color=colour)
        axes.set_yticks([])
        if values is not y:
            axes.axhline(0.0, color="#8a8a8a", linewidth=0.5)
            axes.spines["bottom"].set_visible(False)
            axes.tick_params(bottom=False)
    rows[0].set_ylim(-0.01, 1.05)
    rows[2].spines["bottom"].set_visible(True)
    rows[2].tick_params(bottom=True)
    rows[2].set(xlim=window, xlabel="2θ (degrees)")
    return figure


EFFECTS: Mapping[str, Callable[[Axes, Axes], None]] = {
    "structure_factor": structure_factor,
    "displacement": displacement,
    "debye": debye,
    "strain": strain,
    "size": size,
    "microstrain": microstrain,
    "texture": texture,
    "orientation": orientation,
    "lorentz_polarization": lorentz_polarization_figure,
    "absorption": absorption,
    "positions": positions,
    "emission": emission,
    "instrument_widths": instrument_widths,
    "profiles": profiles,
    "axial_divergence": axial_divergence,
    "slit": slit,
    "backgrounds": backgrounds,
    "noise": noise,
    "mixtures": mixtures,
    "peak_sums": peak_sums,
    "presets": presets,
}

README = "readme"  # the figure of README.md
NAMES = (*EFFECTS, README)


def _compare(
    axes: Axes,
    name: str,
    window: tuple[float, float],
    rows: Sequence[tuple[str, Mapping[str, Any]]],
    title: str,
    legend: bool = True,
) -> None:
    for colour, (label, conditions) in zip(COLOURS, rows, strict=False):
        x, y = pattern(name, window, conditions)
        axes.plot(x, y, color=colour, label=label)
    _pattern_axes(axes, title)
    if legend:
        axes.legend()


def _widths(axes: Axes, rows: Sequence[tuple[str, Mapping[str, Any]]], title: str) -> None:
    for colour, (label, conditions) in zip(COLOURS, rows, strict=False):
        axes.plot(ANGLES, fwhm(ANGLES, conditions), color=colour, label=label)
    axes.set(xlabel="2θ (degrees)", ylabel="FWHM (degrees)", xlim=(10, 150), ylim=(0, None))
    axes.set_title(title, loc="left")
    axes.legend(loc="upper left")


def _pattern_axes(axes: Axes, title: str, window: tuple[float, float] | None = None) -> None:
    lines = axes.get_lines()
    axes.set_xlim(*(window or (float(np.min(lines[0].get_xdata())), float(np.max(lines[0].get_xdata())))))
    axes.set_ylim(0, None)
    axes.set(xlabel="2θ (degrees)", ylabel="intensity")
    axes.set_yticks([])
    axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))
    axes.set_title(title, loc="left")


STYLE: dict[Any, Any] = {
    "font.size": 8.0, "axes.titlesize": 8.5, "legend.fontsize": 7.5, "legend.frameon": False, "lines.linewidth": 1.1,
    "axes.spines.top": False, "axes.spines.right": False, "legend.borderaxespad": 0.1, "legend.handlelength": 1.6,
}  # fmt: skip


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def draw(name: str) -> bytes:
    """A figure as the bytes of a PNG."""
    with mpl.rc_context(STYLE):
        if name == README:
            figure = readme()
        else:
            figure = _figure(CONFIG.width, CONFIG.height)
            left, right = figure.subplots(1, 2)
            figure.subplots_adjust(left=0.085, right=0.98, bottom=0.17, top=0.9, wspace=0.2)
            EFFECTS[name](left, right)
        raw, buffer = io.BytesIO(), io.BytesIO()
        figure.savefig(raw, format="png", dpi=CONFIG.dpi)
    # A palette of 64 colours holds lines and their smoothed edges in a third of the bytes.
    Image.open(raw).convert("RGB").quantize(64).save(buffer, format="png", optimize=True)
    content = buffer.getvalue()
    if len(content) > CONFIG.max_bytes:
        raise ValueError(f"the figure {name} has {len(content)} bytes, more than {CONFIG.max_bytes}; lower its dpi")
    return content


def main(arguments: Sequence[str] | None = None) -> None:
    """Draws the figures that are asked for (all by default) and renews the tables of docs/physics.md."""
    parser = argparse.ArgumentParser(prog="python -m experiments.effects", description=__doc__)
    parser.add_argument("names", nargs="*", help=f"figures to draw, of {', '.join(NAMES)} (default: all)")
    names: list[str] = parser.parse_args(arguments).names or list(NAMES)
    unknown = [name for name in names if name not in NAMES]
    if unknown:
        parser.error(f"there is no figure {unknown[0]}; choose from {', '.join(NAMES)}")
    CONFIG.figures.mkdir(parents=True, exist_ok=True)
    with jax.enable_x64(True):
        for name in tqdm(names, desc="figures", unit="", disable=None):
            (CONFIG.figures / f"{name}.png").write_bytes(draw(name))
    CONFIG.page.write_text(tables.renew(CONFIG.page.read_text(encoding="utf-8")), encoding="utf-8")
    print(
        f"{len(names)} figures in {CONFIG.figures.relative_to(CONFIG.figures.parents[1])}, tables in docs/{CONFIG.page.name}"
    )
