"""Host and device. Presets: named distributions of conditions.

Sampling a preset with a key gives conditions, and conditions give a pattern; both are returned, so that every number
behind a pattern is known. Each condition draws from its own key, folded from its name, by inverting its distribution: adding
one changes no other's draws.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Container, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Float, Int, Key

from simxrd_jax.conditions import CONDITIONS, build, nearest
from simxrd_jax.constants import RADIATIONS, Radiation
from simxrd_jax.crystal.reflections import inverse_d_bounds
from simxrd_jax.diffraction.noise import DRAW_DTYPE, add_noise
from simxrd_jax.diffraction.settings import TRAINING, Settings
from simxrd_jax.diffraction.simulate import simulate
from simxrd_jax.diffraction.texture import clipped_normal_factor
from simxrd_jax.diffraction.widths import tail_margin
from simxrd_jax.errors import InputError
from simxrd_jax.types import Array, Crystal, Grid, Pattern, ReflectionList


@dataclass(frozen=True)
class Uniform:
    """Uniform between two bounds."""

    low: float
    high: float

    def quantile(self, u: Float[Array, "..."]) -> Float[Array, "..."]:
        return self.low + (self.high - self.low) * u

    def __str__(self) -> str:
        return f"uniform {self.low:g} to {self.high:g}"


@dataclass(frozen=True)
class LogUniform:
    """Uniform in the logarithm between two positive bounds."""

    low: float
    high: float

    def quantile(self, u: Float[Array, "..."]) -> Float[Array, "..."]:
        return self.low * jnp.exp(math.log(self.high / self.low) * u)

    def __str__(self) -> str:
        return f"log-uniform {self.low:g} to {self.high:g}"


@dataclass(frozen=True)
class Normal:
    """Normal distribution cut off at three standard deviations."""

    mean: float
    sigma: float

    def quantile(self, u: Float[Array, "..."]) -> Float[Array, "..."]:
        # erf(3/sqrt 2) is the share of a normal distribution within three standard deviations.
        return self.mean + self.sigma * math.sqrt(2.0) * lax.erf_inv(math.erf(3.0 / math.sqrt(2.0)) * (2.0 * u - 1.0))

    def __str__(self) -> str:
        return f"normal {self.mean:g} +- {self.sigma:g} (within 3 sigma)"


@dataclass(frozen=True)
class Choice:
    """One of several values (numbers or vectors) with equal probability."""

    values: tuple[Any, ...]

    def quantile(self, u: Float[Array, "..."]) -> Float[Array, "..."]:
        place = jnp.minimum((u.ravel()[0] * len(self.values)).astype(jnp.int32), len(self.values) - 1)
        return jnp.asarray(self.values, dtype=DRAW_DTYPE)[place]

    def __str__(self) -> str:
        return "one of " + ", ".join(str(v) for v in self.values)


Distribution = Uniform | LogUniform | Normal | Choice


@dataclass(frozen=True)
class Preset:
    """A distribution of measurement conditions.

    Attributes:
      name: as in `--preset NAME`.
      meaning: one line.
      radiation: emission lines.
      two_theta: start, stop and step of the preset's grid. [deg]
      fixed: conditions that do not vary.
      drawn: conditions that vary.
      split_orbits: whether strain breaks the crystal class (then orbits split) or is projected on it.
      max_strain: greatest relative change of a d-spacing, for listing reflections.
      max_shift: greatest shift of a peak, for listing reflections. [deg]
    """

    name: str
    meaning: str
    radiation: Radiation
    two_theta: tuple[float, float, float]
    fixed: Mapping[str, Any] = field(default_factory=dict)
    drawn: Mapping[str, Distribution] = field(default_factory=dict)
    split_orbits: bool = False
    max_strain: float = 0.0
    max_shift: float = 0.0

    def __hash__(self) -> int:
        """Of the name and numbers, so that a preset can be a static argument though it holds dictionaries."""
        return hash((self.name, self.radiation, self.two_theta, *self.fixed.items(), *self.drawn.items()))

    def grid(self) -> Grid:
        """The preset's uniform grid."""
        return Grid.uniform(*self.two_theta)

    def settings(self, **changes: Any) -> Settings:
        """Static choices for batches: training accuracy and the preset's orbit splitting, with changes."""
        return replace(Settings(accuracy=TRAINING, split_orbits=self.split_orbits, cut_far_peaks=True), **changes)

    def margin(self) -> float:
        """How far outside the window the tails of the broadest peaks of the preset count, for listing reflections. [deg]"""
        ends = {
            name: self._ends(name)
            for name in ("grain_size", "scherrer_constant", "microstrain", "lorentz_inverse_cos", "lorentz_tan")
        }
        values = {name: low if name == "grain_size" else high for name, (low, high) in ends.items()}
        specimen, instrument, _, _ = build(values, self.radiation)
        # Rounded up, so that a library made in single precision serves double precision too.
        return math.ceil(100.0 * float(tail_margin(specimen, instrument, self.two_theta[1]))) / 100.0

    def _ends(self, name: str) -> tuple[float, float]:
        """Least and greatest value of a condition that is one number."""
        if name in self.drawn:
            low, high = (float(self.drawn[name].quantile(jnp.full(1, u))[0]) for u in (0.0, 1.0))
            return low, high
        value = float(self.fixed.get(name, CONDITIONS[name].default))
        return value, value

    def inverse_d_bounds(self) -> tuple[float, float]:
        """Bounds of 1/d of the unstrained cell for reflections that the preset can bring near its window. [1/A]"""
        margin = self.margin() + self.max_shift
        return inverse_d_bounds(self.radiation.wavelength, *self.two_theta[:2], margin, self.max_strain)


def sample(preset: Preset, *, key: Key[Array, ""]) -> dict[str, Float[Array, "..."]]:
    """One draw of every condition of a preset; a batch by `jax.vmap` over keys.

    Args:
      preset: static.
      key: typed random key.

    Returns:
      Name -> value, fixed conditions included. float32.
    """
    values = {name: jnp.asarray(value, dtype=DRAW_DTYPE) for name, value in preset.fixed.items()}
    # One vectorised draw for all conditions: as many draws one by one would double the compile time.
    numbers = jnp.asarray([number_of_name(name) for name in preset.drawn], dtype=jnp.uint32)
    longest = max((math.prod(CONDITIONS[name].shape) for name in preset.drawn), default=1)
    draw = lambda number: jax.random.uniform(jax.random.fold_in(key, number), (longest,), DRAW_DTYPE)  # noqa: E731
    uniform = jax.vmap(draw)(numbers)
    for i, (name, distribution) in enumerate(preset.drawn.items()):
        shape = CONDITIONS[name].shape
        values[name] = distribution.quantile(uniform[i, : math.prod(shape)].reshape(shape))
    return values


def has_texture_factor(names: Container[str]) -> bool:
    """Whether conditions of these names switch SimXRD's texture on."""
    return "orientation_below" in names or "orientation_above" in names


def texture_factor(
    values: Mapping[str, Any], reflection: Int[Array, " hkl"], phase: Int[Array, ""] | int = 0, *, key: Key[Array, ""]
) -> Float[Array, " hkl"] | None:
    """SimXRD's texture: a factor for each reflection, or None where no condition asks for it.

    Each reflection draws from a key of its own, folded from its place in the phase's list, so that any part of a list can be
    drawn alone.

    Args:
      values: conditions by name; of `orientation_below` and `orientation_above` one alone holds on both sides, as the
        published script uses it.
      reflection: places in the phase's list.
      phase: place of the phase in a mixture.
      key: that of the conditions.
    """
    if not has_texture_factor(values):
        return None
    below, above = (values.get(f"orientation_{side}") for side in ("below", "above"))
    below, above = (above if below is None else below), (below if above is None else above)
    phase_key = jax.random.fold_in(jax.random.fold_in(key, number_of_name("orientation_draws")), phase)
    draw = lambda place: jax.random.normal(jax.random.fold_in(phase_key, place), (), DRAW_DTYPE)  # noqa: E731
    return clipped_normal_factor(jax.vmap(draw)(jnp.asarray(reflection)), below, above)  # pyright: ignore[reportArgumentType]


def number_of_name(name: str) -> np.uint32:
    """What is folded into a key for the draws of that name."""
    return np.uint32(zlib.crc32(name.encode()))


def measure(
    crystal: Crystal,
    reflections: ReflectionList,
    values: Mapping[str, Any],
    radiation: Radiation,
    grid: Grid,
    settings: Settings,
    f_squared: Float[Array, " hkl"] | None = None,
    *,
    key: Key[Array, ""],
) -> Pattern:
    """The pattern of one crystal under a set of conditions, with SimXRD's texture if they have it, and its noise.

    Args:
      crystal, reflections: one structure.
      values: conditions by name.
      radiation: emission lines.
      grid, settings: static choices.
      f_squared: cached |F|^2, or None.
      key: of texture and noise, see `split_key`.
    """
    specimen, instrument, background, noise = build(values, radiation)
    condition_key, noise_key = split_key(key)
    places = jnp.arange(reflections.hkl.shape[0])
    specimen = replace(specimen, texture_factor=texture_factor(values, places, key=condition_key))
    pattern = simulate(crystal, reflections, specimen, instrument, grid, background, settings, f_squared)
    return pattern.replace(intensity=add_noise(jnp.asarray(pattern.intensity), noise, key=noise_key))  # pyright: ignore[reportAttributeAccessIssue]


def simulate_preset(
    crystal: Crystal,
    reflections: ReflectionList,
    preset: Preset,
    grid: Grid,
    settings: Settings,
    f_squared: Float[Array, " hkl"] | None = None,
    *,
    key: Key[Array, ""],
) -> tuple[Pattern, dict[str, Float[Array, "..."]]]:
    """One sampled pattern of a preset and the conditions behind it; a batch by `jax.vmap` over crystals and keys."""
    values = sample(preset, key=split_key(key)[0])
    return measure(crystal, reflections, values, preset.radiation, grid, settings, f_squared, key=key), values


def split_key(key: Key[Array, ""]) -> tuple[Key[Array, ""], Key[Array, ""]]:
    """The keys of a pattern's conditions (and texture) and of its noise."""
    condition_key, noise_key = jax.random.split(key)
    return condition_key, noise_key


def key_of_seed(seed: int) -> Key[Array, ""]:
    """The key that a seed from 0 to 2^64 - 1 stands for: its two halves are the key's data.

    Every threefry key is one such number, so that a pattern of a batch can be asked for by the number of its own key.
    """
    data = np.array([seed >> 32, seed & 0xFFFFFFFF], dtype=np.uint32)
    return jax.random.wrap_key_data(jnp.asarray(data), impl="threefry2x32")


def seed_of_key_data(data: Any) -> int:
    """The seed of a key's data, two 32-bit words."""
    high, low = (int(v) for v in np.asarray(data, dtype=np.uint32))
    return high << 32 | low


def get_preset(name: str) -> Preset:
    """The preset of that name.

    Raises:
      InputError: there is none; the nearest names are offered.
    """
    known = PRESETS | RECIPE_PRESETS
    if name not in known:
        raise InputError(f"there is no preset {name!r}{nearest(name, PRESETS)}")
    return known[name]


_SHEARS = ("strain_xy", "strain_xz", "strain_yx", "strain_yz", "strain_zx", "strain_zy")
_STRETCHES = ("strain_xx", "strain_yy", "strain_zz")

# The published script takes FWHM = 0.888 lambda/(D cos theta), a number of radians, as degrees, and makes of it a Voigt
# with a Lorentzian of that FWHM and a Gaussian of variance FWHM^2/(8 sqrt 2). Both shares are one Scherrer term here, its
# constant K enlarged to carry both.
_SIMXRD_GAUSS = math.sqrt(math.log(2.0) / math.sqrt(2.0))  # Gaussian FWHM over Lorentzian FWHM
_SIMXRD_SCHERRER = 0.888 * (1.0 + _SIMXRD_GAUSS) * math.pi / 180.0

SIMXRD = Preset(
    name="simxrd",
    meaning="the published SimXRD-4M script's ranges, width units, strain, texture, background and noise, on correct physics",
    radiation=RADIATIONS["SimXRD"],
    two_theta=(10.0, 80.0, 0.02),
    fixed={
        "scherrer_constant": _SIMXRD_SCHERRER,
        "size_gauss_fraction": _SIMXRD_GAUSS / (1.0 + _SIMXRD_GAUSS),
        "caglioti_w": 8.0 * math.log(2.0) * 0.001,  # fixed Gaussian of variance 0.001 deg^2
        "slit_width": 0.1,
        "axial_source": 2.5 / 500.0,  # S = 2.5 mm, H = 5 mm, L = 500 mm
        "axial_detector": 5.0 / 500.0,
        "polynomial_height": 0.05,
        "uniform_noise": 0.02,
    },
    drawn={
        "grain_size": Uniform(2.0, 20.0),
        "orientation_below": Uniform(0.0, 0.4),
        "orientation_above": Uniform(0.0, 0.4),
        "displacement_rms": Uniform(0.0, 0.3),
        "zero_shift": Uniform(-1.5, 1.5),
        **dict.fromkeys(_STRETCHES, Uniform(-0.01, 0.01)),
        **dict.fromkeys(_SHEARS, Uniform(0.0, 0.01)),
        "polynomial_coefficients": Normal(0.0, 1.0),
    },
    split_orbits=True,
    max_strain=0.03,
    max_shift=1.5,
)

# Ranges: a diffractometer with a diffracted-beam monochromator or a strip detector, instrument FWHM 0.06 to 0.12 deg
# (Kaduk & Reid 2011, Powder Diffr. 26, 88, give such Caglioti values); packed powders with some texture.
LABORATORY = Preset(
    name="laboratory",
    meaning="a Cu K-alpha Bragg-Brentano diffractometer and an ordinary powder",
    radiation=RADIATIONS["CuKa"],
    two_theta=(10.0, 80.0, 0.02),
    fixed={"goniometer_radius": 217.5, "caglioti_v": -0.002, "hump_fwhm": 10.0},
    drawn={
        "grain_size": LogUniform(100.0, 5000.0),
        "microstrain": LogUniform(1e-5, 3e-3),
        **dict.fromkeys(_STRETCHES, Normal(0.0, 2e-3)),
        **dict.fromkeys(_SHEARS, Normal(0.0, 5e-4)),
        "march_dollase": LogUniform(0.6, 1.3),
        "texture_axis": Choice(((0, 0, 1), (1, 0, 0), (0, 1, 0), (1, 1, 0), (1, 0, 1), (0, 1, 1), (1, 1, 1))),
        "biso": Uniform(0.2, 1.5),
        "monochromator_two_theta": Choice((0.0, 26.6)),
        "caglioti_u": Uniform(0.002, 0.008),
        "caglioti_w": Uniform(0.004, 0.012),
        "lorentz_inverse_cos": Uniform(0.0, 0.02),
        "lorentz_tan": Uniform(0.01, 0.05),
        "zero_shift": Uniform(-0.05, 0.05),
        "displacement": Uniform(-0.15, 0.15),
        "axial_source": Uniform(0.01, 0.03),
        "axial_detector": Uniform(0.01, 0.03),
        "background_level": LogUniform(0.003, 0.15),
        "polynomial_height": LogUniform(0.001, 0.1),
        "polynomial_coefficients": Normal(0.0, 1.0),
        "air_scatter": LogUniform(0.02, 2.0),
        "hump_position": Uniform(15.0, 35.0),
        "hump_height": LogUniform(0.001, 0.1),
        "peak_counts": LogUniform(300.0, 1e5),
    },
    max_strain=0.01,
    max_shift=0.25,
)

# Ranges: a capillary on a high-resolution beam line with analyser crystals, instrument FWHM 0.006 to 0.01 deg (Wang et al.
# 2008, Rev. Sci. Instrum. 79, 085105, describe one).
SYNCHROTRON = Preset(
    name="synchrotron",
    meaning="a capillary on a high-resolution synchrotron beam line at 0.4139 A",
    radiation=Radiation("synchrotron", (0.4139,), (1.0,)),
    two_theta=(2.0, 25.0, 0.002),
    fixed={"displacement": 0.0, "caglioti_v": 0.0},
    drawn={
        "grain_size": LogUniform(300.0, 2e4),
        "microstrain": LogUniform(1e-5, 2e-3),
        **dict.fromkeys(_STRETCHES, Normal(0.0, 1e-3)),
        **dict.fromkeys(_SHEARS, Normal(0.0, 2e-4)),
        "biso": Uniform(0.2, 1.5),
        "absorption_mu_r": Uniform(0.05, 0.8),
        "polarization_fraction": Uniform(0.9, 0.99),
        "caglioti_u": Uniform(2e-4, 8e-4),
        "caglioti_w": Uniform(3e-5, 1e-4),
        "lorentz_inverse_cos": Uniform(0.0, 1e-3),
        "lorentz_tan": Uniform(0.0, 1e-2),
        "zero_shift": Uniform(-0.005, 0.005),
        "axial_source": Uniform(0.001, 0.002),
        "axial_detector": Uniform(0.001, 0.002),
        "background_level": LogUniform(1e-3, 0.03),
        "polynomial_height": LogUniform(1e-3, 0.03),
        "polynomial_coefficients": Normal(0.0, 1.0),
        "hump_position": Uniform(4.0, 9.0),
        "hump_fwhm": Uniform(2.0, 4.0),
        "hump_height": LogUniform(1e-3, 0.05),
        "peak_counts": LogUniform(3e3, 1e6),
    },
    max_strain=0.005,
    max_shift=0.02,
)

# What `simxrd simulate` draws without a preset: no specimen broadening, no aberrations, no background, no noise.
IDEAL = Preset(
    name="ideal",
    meaning="no specimen broadening, aberrations, background or noise; a constant Gaussian width of 0.1 deg",
    radiation=RADIATIONS["CuKa"],
    two_theta=(10.0, 80.0, 0.02),
    fixed={"caglioti_w": 0.01},
)

PRESETS = {preset.name: preset for preset in (IDEAL, SIMXRD, LABORATORY, SYNCHROTRON)}

# Of a recipe (export/recipes.py). The repository of XRD-AutoAnalyzer (Szymanski et al. 2021, Chem. Mater. 33, 4204) states
# Cu K-alpha, 10 to 80 deg, strain up to 3 % of each lattice parameter, domains of 5 to 30 nm, and texture that changes a peak
# by up to 50 %; its networks take 4,501 points.
XRD_AUTOANALYZER = Preset(
    name="xrd-autoanalyzer",
    meaning="the augmentation that the repository of XRD-AutoAnalyzer states, without background and noise",
    radiation=RADIATIONS["CuKa"],
    two_theta=(10.0, 80.0, 70.0 / 4500.0),
    fixed={"caglioti_w": 0.01},
    drawn={
        **dict.fromkeys(_STRETCHES, Uniform(-0.03, 0.03)),
        "grain_size": Uniform(50.0, 300.0),
        "orientation_below": Uniform(0.0, 0.5),
        "orientation_above": Uniform(0.0, 0.5),
    },
    max_strain=0.03,
)
RECIPE_PRESETS = {preset.name: preset for preset in (XRD_AUTOANALYZER,)}
