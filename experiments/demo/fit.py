"""Finds the conditions of one noisy pattern again: damped Gauss-Newton with the exact Jacobian of the simulator.

Levenberg-Marquardt because it is short and robust here: the residuals are weighted counts, the Jacobian comes from forward
mode at the cost of a few patterns, and the damping carries the fit from a start whose peaks are too wide and off by up to
0.3 deg.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from experiments.demo.config import Fit
from simxrd_jax.conditions import build
from simxrd_jax.constants import RADIATIONS
from simxrd_jax.diffraction.noise import add_noise
from simxrd_jax.diffraction.simulate import simulate
from simxrd_jax.phases import load_phase
from simxrd_jax.types import Grid

RADIATION = RADIATIONS["CuKa"]
# Positive parameters are fitted through their logarithms: no step can make them negative.
POSITIVE = ("grain_size", "microstrain", "scale", "background_level")
MAX_STRAIN, MAX_SHIFT = 0.01, 0.3  # for listing reflections
FIRST_DAMPING, LESS, MORE, MAX_DAMPING = 1e-2, 0.2, 5.0, 1e8
# A step that lowers chi^2 by a smaller share than this is the last.
TOLERANCE = 1e-7


@dataclass(frozen=True, eq=False)
class FitResult:
    """A fit, step by step.

    Attributes:
      two_theta, observed, initial, fitted: the pattern as measured, at the start and at the end. [deg, counts]
      steps: parameters after each step, the start first.
      chi_squared: reduced chi^2 after each step.
      uncertainty: standard uncertainty of each parameter.
    """

    two_theta: np.ndarray
    observed: np.ndarray
    initial: np.ndarray
    fitted: np.ndarray
    steps: list[dict[str, float]]
    chi_squared: list[float]
    uncertainty: dict[str, float]


def run(config: Fit) -> FitResult:
    """Simulates the measurement and fits it, in float64."""
    with jax.enable_x64(True):
        return _run(config)


def _run(config: Fit) -> FitResult:
    phase = load_phase(config.cif, RADIATION, config.two_theta, max_strain=MAX_STRAIN, max_shift=MAX_SHIFT)
    grid = Grid.uniform(*config.two_theta)
    names = tuple(config.true)

    def pattern(vector: jax.Array) -> tuple[jax.Array, jax.Array]:
        values = {**config.known, **_unpack(names, vector)}
        strain = values.pop("lattice_strain")
        values |= {"strain_xx": strain, "strain_yy": strain, "strain_zz": strain}
        specimen, instrument, background, _ = build(values, RADIATION)
        curve = jnp.asarray(simulate(phase.crystal, phase.reflections, specimen, instrument, grid, background).intensity)
        return curve, curve

    # One program for the pattern and its derivatives, so that one compilation serves the whole fit.
    evaluate = jax.jit(jax.jacfwd(pattern, has_aux=True))

    _, truth = evaluate(_pack(names, config.true))
    noise = build(config.known, RADIATION).noise
    counts = config.known["peak_counts"] / jnp.max(truth)
    observed = counts * add_noise(truth, noise, key=jax.random.key(config.seed))
    weight = 1.0 / jnp.sqrt(jnp.maximum(observed, 1.0))

    def residual(vector: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        derivative, curve = evaluate(vector)
        return weight * (observed - counts * curve), -counts * weight[:, None] * derivative, counts * curve

    vector = _pack(names, config.start)
    (r, j, initial), damping = residual(vector), FIRST_DAMPING
    fitted = initial
    steps, history = [dict(config.start)], [float(r @ r)]
    for _ in tqdm(range(config.iterations), desc="fit", unit="", disable=None, leave=False):
        normal, gradient = j.T @ j, j.T @ r
        while damping < MAX_DAMPING:  # shorten the step until chi^2 falls
            trial = vector - jnp.linalg.solve(normal + damping * jnp.diag(jnp.diag(normal)), gradient)
            trial_r, trial_j, curve = residual(trial)
            if trial_r @ trial_r < r @ r:
                break
            damping *= MORE
        else:
            break
        vector, r, j, fitted, damping = trial, trial_r, trial_j, curve, damping * LESS
        steps.append(_numbers(names, vector))
        history.append(float(r @ r))
        if history[-2] - history[-1] < TOLERANCE * history[-1]:
            break
    degrees_of_freedom = grid.size - len(names)
    final = steps[-1]
    sigma = np.sqrt(np.diag(np.linalg.inv(np.asarray(j.T @ j))))
    uncertainty = {n: float(s * (final[n] if n in POSITIVE else 1.0)) for n, s in zip(names, sigma, strict=True)}
    return FitResult(
        two_theta=np.asarray(grid.two_theta),
        observed=np.asarray(observed),
        initial=np.asarray(initial),
        fitted=np.asarray(fitted),
        steps=steps,
        chi_squared=[v / degrees_of_freedom for v in history],
        uncertainty=uncertainty,
    )


def _pack(names: tuple[str, ...], values: Mapping[str, float]) -> jax.Array:
    return jnp.array([np.log(values[n]) if n in POSITIVE else values[n] for n in names])


def _unpack(names: tuple[str, ...], vector: jax.Array) -> dict[str, jax.Array]:
    return {n: jnp.exp(v) if n in POSITIVE else v for n, v in zip(names, vector, strict=True)}


def _numbers(names: tuple[str, ...], vector: jax.Array) -> dict[str, float]:
    return {n: float(v) for n, v in _unpack(names, vector).items()}
