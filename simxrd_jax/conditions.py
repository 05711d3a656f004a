"""Host and device. Conditions of a measurement by name: the one table behind presets, `--set` and the documentation.

A set of conditions is a flat dictionary from name to number (or short vector). `build` turns it into the specimen,
instrument, background and noise that the forward model takes; it is pure, so it works on traced values and under `vmap`.
A name that is absent takes its default; optional effects without a default are then switched off.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from simxrd_jax.constants import Radiation
from simxrd_jax.crystal.displacement import biso_from_displacement
from simxrd_jax.errors import InputError
from simxrd_jax.types import Background, Instrument, Noise, Specimen


@dataclass(frozen=True)
class Condition:
    """One named condition.

    Attributes:
      name: as in `--set NAME=VALUE`.
      group: "specimen", "instrument", "background" or "noise".
      unit: "" for a pure number.
      default: value when the name is not set; None switches the effect off.
      low, high: physical limits, inclusive.
      meaning: one line.
      shape: () or the length of a vector.
    """

    name: str
    group: str
    unit: str
    default: float | tuple[float, ...] | None
    low: float
    high: float
    meaning: str
    shape: tuple[int, ...] = ()


_INF = math.inf
STRAIN = tuple(f"strain_{i}{j}" for i in "xyz" for j in "xyz")


def _table() -> dict[str, Condition]:
    s, i, b, n = "specimen", "instrument", "background", "noise"
    rows = [
        Condition("scale", s, "", 1.0, 0.0, _INF, "multiplies the Bragg peaks"),
        Condition("grain_size", s, "A", _INF, 1e-3, _INF, "column length D of the Scherrer equation"),
        Condition("scherrer_constant", s, "", 0.94, 1e-6, 10.0, "K in FWHM = K lambda/(D cos theta)"),
        Condition("size_gauss_fraction", s, "", 0.0, 0.0, 1.0, "Gaussian share of the size broadening"),
        Condition("microstrain", s, "", 0.0, 0.0, 0.2, "e in FWHM = 4 e tan(theta)"),
        Condition("microstrain_gauss_fraction", s, "", 0.0, 0.0, 1.0, "Gaussian share of the strain broadening"),
        Condition(
            "stephens", s, "A^-4", None, -1.0, 1.0, "S_HKL of microstrain by direction, in the order of Stephens (1999)", (15,)
        ),
        *(Condition(x, s, "", 0.0, -0.2, 0.2, "component of the macroscopic strain tensor, A' = (1 + e) A") for x in STRAIN),
        Condition("march_dollase", s, "", None, 0.05, 20.0, "March coefficient r; 1 random, below 1 platelets lying flat"),
        Condition("texture_axis", s, "hkl", (0.0, 0.0, 1.0), -50.0, 50.0, "plane normal that is the texture axis", (3,)),
        Condition("harmonics", s, "", None, -10.0, 10.0, "texture by harmonics: c_lm of l = 2 and 4", (14,)),
        Condition(
            "orientation_below", s, "", None, 0.0, 1.0, "SimXRD texture: factor of each reflection is at least 1 - this"
        ),
        Condition(
            "orientation_above", s, "", None, 0.0, 10.0, "SimXRD texture: factor of each reflection is at most 1 + this"
        ),
        Condition("biso", s, "A^2", 0.0, 0.0, 50.0, "overall isotropic displacement parameter, added to each atom's own"),
        Condition("displacement_rms", s, "A", 0.0, 0.0, 2.0, "root mean square displacement u, adds B = (8/3) pi^2 u^2"),
        Condition("temperature", s, "K", None, 1.0, 5000.0, "of the Debye model and of thermal expansion"),
        Condition("debye_temperature", s, "K", None, 10.0, 5000.0, "Debye temperature; switches the Debye model on"),
        Condition("thermal_expansion", s, "1/K", None, -1e-3, 1e-3, "linear expansion relative to 293.15 K"),
        Condition("absorption_mu_r", s, "", None, 0.0, 1.0, "mu R of a capillary"),
        Condition("absorption_mu_t", s, "", None, 1e-6, 1e6, "mu t of a thin flat specimen in reflection"),
        Condition("transmission_mu_t", s, "", None, 0.0, 100.0, "mu t of a flat specimen in symmetrical transmission"),
        Condition("roughness_amount", s, "", None, 0.0, 1.0, "a of a rough surface; 0 smooth"),
        Condition("roughness_depth", s, "", None, 0.0, 100.0, "q of a rough surface, mu times its depth"),
        Condition("polarization_fraction", i, "", 0.5, 0.0, 1.0, "share polarized perpendicular to the diffraction plane"),
        Condition(
            "monochromator_two_theta",
            i,
            "deg",
            0.0,
            0.0,
            89.0,
            "diffraction angle 2theta of the monochromator (graphite, Cu K-alpha: 26.6); 0 none",
        ),
        Condition("caglioti_u", i, "deg^2", 0.0, -10.0, 10.0, "Gaussian FWHM^2, coefficient of tan^2(theta)"),
        Condition("caglioti_v", i, "deg^2", 0.0, -10.0, 10.0, "Gaussian FWHM^2, coefficient of tan(theta)"),
        Condition("caglioti_w", i, "deg^2", 0.0, 0.0, 10.0, "Gaussian FWHM^2, constant"),
        Condition("lorentz_inverse_cos", i, "deg", 0.0, 0.0, 10.0, "Lorentzian FWHM, coefficient of 1/cos(theta)"),
        Condition("lorentz_tan", i, "deg", 0.0, 0.0, 10.0, "Lorentzian FWHM, coefficient of tan(theta)"),
        Condition("zero_shift", i, "deg", 0.0, -5.0, 5.0, "added to every 2theta"),
        Condition("displacement", i, "mm", 0.0, -5.0, 5.0, "specimen displacement; positive moves lines to lower angle"),
        Condition("goniometer_radius", i, "mm", 217.5, 10.0, 1e5, "specimen to detector"),
        Condition("transparency", i, "rad", None, 0.0, 0.1, "1/(2 mu R) of a thick flat specimen"),
        Condition("equatorial_divergence", i, "deg", None, 0.0, 5.0, "full divergence of the beam on a flat specimen"),
        Condition("overflow_two_theta", i, "deg", None, 0.1, 179.0, "2theta below which the beam is longer than the specimen"),
        Condition("illuminated_length", i, "mm", None, 0.0, 100.0, "length of specimen that automatic slits keep lit"),
        Condition("axial_source", i, "", None, 0.0, 0.2, "S/L, half height of the lit specimen over the radius"),
        Condition("axial_detector", i, "", None, 0.0, 0.2, "H/L, half height of the detector slit over the radius"),
        Condition("axial_tube", i, "", None, 0.0, 0.2, "half height of the source over the radius, for both sides"),
        Condition("soller", i, "deg", None, 0.1, 60.0, "full opening of Soller slits on both sides, with axial_tube"),
        Condition("slit_width", i, "deg", None, 0.0, 5.0, "receiving slit, a box in 2theta"),
        Condition("tail_fraction", i, "", None, 0.0, 1.0, "share of the rays from beside the tube's focus"),
        Condition("tail_low", i, "mm", 0.0, 0.0, 20.0, "length of the tail of the focus that shows below a line"),
        Condition("tail_high", i, "mm", 0.0, 0.0, 20.0, "length of the tail of the focus that shows above a line"),
        Condition("background_level", b, "max", None, 0.0, 100.0, "constant background"),
        Condition("background_chebyshev", b, "max", None, -100.0, 100.0, "Chebyshev coefficients c0 ... c5", (6,)),
        Condition("polynomial_height", b, "max", None, 0.0, 100.0, "height of a random polynomial background"),
        Condition("polynomial_coefficients", b, "", None, -100.0, 100.0, "its shape, powers 0 ... 6", (7,)),
        Condition("air_scatter", b, "max deg", None, 0.0, 1000.0, "coefficient of 1/(2theta)"),
        Condition("hump_position", b, "deg", None, 0.0, 180.0, "centre of an amorphous hump"),
        Condition("hump_fwhm", b, "deg", 10.0, 0.1, 180.0, "its width"),
        Condition("hump_height", b, "max", 0.1, 0.0, 100.0, "its height"),
        Condition("peak_counts", n, "counts", None, 1.0, 1e9, "counts at the highest point; switches Poisson noise on"),
        Condition("gaussian_noise", n, "max", None, 0.0, 10.0, "standard deviation of normal noise"),
        Condition("uniform_noise", n, "max", None, 0.0, 10.0, "uniform noise from 0 to this (SimXRD)"),
    ]
    return {row.name: row for row in rows}


CONDITIONS = _table()


class Measurement(NamedTuple):
    """What a set of conditions means to the forward model."""

    specimen: Specimen
    instrument: Instrument
    background: Background | None
    noise: Noise


def check_conditions(values: Mapping[str, Any], where: str = "conditions") -> dict[str, Any]:
    """Host check of names, shapes and limits.

    Returns:
      The same values as floats or tuples.

    Raises:
      InputError: an unknown name (the nearest are offered), a wrong length, or a value that is no number or out of range.
    """
    checked: dict[str, Any] = {}
    for name, value in values.items():
        row = CONDITIONS.get(name)
        if row is None:
            raise InputError(f"{where}: there is no condition {name!r}{nearest(name, CONDITIONS)}")
        try:
            array = np.asarray(value, dtype=np.float64)
        except (TypeError, ValueError):
            raise InputError(
                f"{where}: {name}={value} is not a number; give a value in {row.unit or 'plain numbers'}"
            ) from None
        if array.shape != row.shape:
            wanted = "one number" if not row.shape else f"{row.shape[0]} numbers separated by commas"
            raise InputError(f"{where}: {name} takes {wanted}, not {array.size}")
        if np.isnan(array).any() or (array < row.low).any() or (array > row.high).any():
            unit = f" {row.unit}" if row.unit else ""
            raise InputError(
                f"{where}: {name}={value} is outside its range {row.low:g} to {row.high:g}{unit}; choose a value within it"
            )
        checked[name] = array.item() if not row.shape else tuple(array.tolist())
    if "march_dollase" in checked and not any(checked.get("texture_axis", (0.0, 0.0, 1.0))):
        raise InputError(f"{where}: texture_axis=0,0,0 has no direction; give the Miller indices of a plane normal")
    for name in ("equatorial_divergence", "overflow_two_theta"):
        if "illuminated_length" in checked and name in checked:
            raise InputError(f"{where}: illuminated_length is of automatic slits and {name} of fixed ones; set one of them")
    return checked


def nearest(name: str, names: Mapping[str, Any]) -> str:
    """'; did you mean A or B?', or the list of names when none is near."""
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    return f"; did you mean {' or '.join(close)}?" if close else f"; choose from {', '.join(names)}"


def build(values: Mapping[str, Any], radiation: Radiation) -> Measurement:
    """Specimen, instrument, background and noise of a set of conditions.

    Background heights are shares of the highest point of the peaks, since a simulated intensity has no scale of its own.
    SimXRD's texture is left out, since it is drawn for each reflection: see `presets.texture_factor`.

    Args:
      values: name -> number; traced values are fine. Names are not checked here (`check_conditions` does).
      radiation: emission lines.
    """

    def get(name: str) -> Any:
        row = CONDITIONS[name]
        value = values.get(name, row.default)
        return jnp.asarray(value) if isinstance(value, tuple) else value

    given = [values[name] for name in STRAIN if name in values]
    dtype = jnp.result_type(*given) if given else None
    strain = jnp.stack([jnp.asarray(get(name), dtype=dtype) for name in STRAIN]).reshape(3, 3)
    specimen_names = (
        "scale", "grain_size", "scherrer_constant", "size_gauss_fraction", "microstrain", "microstrain_gauss_fraction",
        "stephens", "march_dollase", "texture_axis", "harmonics", "temperature", "debye_temperature", "thermal_expansion",
        "absorption_mu_r", "absorption_mu_t", "transmission_mu_t", "roughness_amount", "roughness_depth",
    )  # fmt: skip
    specimen = Specimen(
        **{name: get(name) for name in specimen_names},
        strain=strain,
        biso=get("biso") + biso_from_displacement(get("displacement_rms")),
    )
    instrument = Instrument(
        wavelength=np.asarray(radiation.wavelength),
        line_weight=np.asarray(radiation.weight),
        **{name: get(name) for name, row in CONDITIONS.items() if row.group == "instrument"},
    )
    return Measurement(specimen, instrument, _background(get), _noise(get))


def _background(get: Any) -> Background | None:
    level, chebyshev = get("background_level"), get("background_chebyshev")
    if level is not None:
        constant = jnp.atleast_1d(jnp.asarray(level))
        chebyshev = constant if chebyshev is None else jnp.asarray(chebyshev).at[0].add(level)
    hump = {}
    if get("hump_position") is not None:
        hump = {name: jnp.atleast_1d(jnp.asarray(get(name))) for name in ("hump_position", "hump_fwhm", "hump_height")}
    polynomial = get("polynomial_coefficients")
    if chebyshev is None and polynomial is None and get("air_scatter") is None and not hump:
        return None
    return Background(
        chebyshev=chebyshev,
        polynomial=polynomial,
        polynomial_height=0.0 if get("polynomial_height") is None else get("polynomial_height"),
        air_scatter=get("air_scatter"),
        relative=True,
        **hump,
    )


def _noise(get: Any) -> Noise:
    return Noise(peak_counts=get("peak_counts"), gaussian=get("gaussian_noise"), uniform=get("uniform_noise"))
