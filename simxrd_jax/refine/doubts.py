"""Host zone. What makes a refinement doubtful, one sentence each."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from simxrd_jax.diffraction.peak_sum.fourier import MIN_FWHM_POINTS
from simxrd_jax.refine import statistics
from simxrd_jax.refine.build import Model
from simxrd_jax.refine.start import observed_width

# Highest intensity below which it may be no count, and how little a value moves that did not.
FEW_COUNTS, STILL = 100.0, 1e-12
MOVING = ("position", "cell", "width", "texture", "coordinate", "displacement", "occupancy")
BACKGROUND = "background.chebyshev."
# R factors above which a model explains too little.
LITTLE = 0.5


def doubts_of_data(model: Model, observed: np.ndarray, weight: np.ndarray, *, is_stated: bool) -> list[str]:
    """What of a measurement makes its fit doubtful, one sentence each."""
    said, counts = [], weight > 0
    seen = observed[counts]
    if not is_stated and np.any(seen < 0):
        said.append(
            f"{int(np.sum(seen < 0))} intensities are below 0, as after a background was subtracted: weights of counts do not "
            "hold for them; give uncertainties, as in .xye."
        )
    elif not is_stated and np.max(seen) < FEW_COUNTS:
        said.append(
            f"The highest intensity is {np.max(seen):.3g}: if these are no counts, weights and uncertainties do not hold; "
            "give uncertainties, as in .xye."
        )
    two_theta = np.asarray(model.arrays.two_theta)[counts]
    width, _ = observed_width(two_theta, seen) if len(seen) > 2 else (0.0, 0.0)
    if 0 < width < MIN_FWHM_POINTS * np.median(np.diff(two_theta)) and model.settings.peak_sum == "fft":
        said.append(
            f"Lines are {width / np.median(np.diff(two_theta)):.1f} points wide; below {MIN_FWHM_POINTS:g} the sum of peaks "
            "widens them: measure in smaller steps."
        )
    return said


def doubts_of_fit(
    model: Model,
    values: np.ndarray,
    start: np.ndarray,
    free: np.ndarray,
    certainty: statistics.Uncertainty,
    found: statistics.Agreement,
    r_braggs: Sequence[float],
    *,
    has_converged: bool,
) -> list[str]:
    """What makes a finished fit doubtful, the gravest first.

    Args:
      model: that was fitted.
      values, start: at the end and at the start.
      free: indices of what was free.
      certainty: of the free ones.
      found: R factors.
      r_braggs: of each phase.
      has_converged: in the last stage.
    """
    said = []
    if found.rwp > LITTLE or not any(r < LITTLE for r in r_braggs):
        said.append("No peak is explained well; check the phases, their cells and the wavelength.")
    if not has_converged:
        said.append("The fit did not converge; its values are those of the last step.")
    names = [model.table.names[i] for i in free]
    lost = list(itertools.compress(names, certainty.undetermined))
    if lost:
        said.append(f"The data do not determine {', '.join(lost)}; fix one of them.")
    said += _correlations(certainty, names)
    without = [phase.name for phase in model.phases if phase.mode != "rietveld"]
    if without and len(model.phases) > 1:
        said.append(
            f"Free intensities tell no amount of {', '.join(without)}: weight fractions are shares of the other phases."
        )
    at_bound = model.table.at_bound(values, start)
    said += [
        f"{model.table.names[i]} = {values[i]:.4g} is at its bound; its uncertainty means little." for i in free if at_bound[i]
    ]
    still = np.abs(values[free] - start[free]) <= STILL * np.abs(values[free])
    still &= ~certainty.undetermined & np.array([model.table.parameters[i].group in MOVING for i in free], dtype=bool)
    if still.any():
        said.append(f"{', '.join(itertools.compress(names, still))} did not move from the start.")
    if found.n_points <= found.n_parameters:
        said.append(f"{found.n_points} points do not determine {found.n_parameters} parameters; take a wider range.")
    return said


def _correlations(certainty: statistics.Uncertainty, names: Sequence[str]) -> list[str]:
    """Pairs that are one parameter for these data; those that concern nobody are counted."""
    said, overlapped, curved = [], 0, 0
    for first, second, correlation in statistics.high_correlations(certainty.covariance, names):
        if ".reflections." in first and ".reflections." in second:
            overlapped += 1
        elif first.startswith(BACKGROUND) and second.startswith(BACKGROUND):
            curved += 1
        else:
            said.append(f"{first} and {second} are correlated by {correlation:.3f}.")
    if overlapped:
        said.append(f"{overlapped} pairs of reflections overlap so far that their intensities are correlated beyond 0.95.")
    if curved:
        said.append(
            f"{curved} pairs of background terms are correlated beyond 0.95; fewer terms (--background) would do as well."
        )
    return said
