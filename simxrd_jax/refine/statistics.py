"""Host zone. What a fit is worth: R factors, standard uncertainties, correlations, serial correlation, weight fractions.

R factors as in Toby (2006), Powder Diffr. 21, 67, and Young (1993), The Rietveld Method, with w = 1/sigma^2:

    Rwp^2 = sum w (yo - yc)^2 / sum w yo^2      Rp = sum |yo - yc| / sum |yo|
    Rexp^2 = (N - P) / sum w yo^2               GOF = Rwp / Rexp

and, without background, with yo - yb in the denominators. All points that count are used, none twice.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float

from simxrd_jax.refine.least_squares import UNSEEN

# Correlations that are named: beyond, two parameters are one for these data.
HIGH_CORRELATION = 0.95
# Share of the largest eigenvalue of the scaled normal matrix below which a combination of parameters is not determined.
UNDETERMINED = 1e-11


@dataclasses.dataclass(frozen=True)
class Agreement:
    """Agreement of a calculated with an observed pattern; shares, not per cent.

    Attributes:
      rwp, rp: with the background.
      rwp_without_background, rp_without_background: the background taken from both.
      rexp, gof: expected Rwp, and Rwp over it.
      chi_squared: reduced, gof^2.
      durbin_watson: sum (d_i - d_(i-1))^2 / sum d_i^2 of weighted residuals; 2 where neighbours are independent.
      serial_factor: by which Berar & Lelann (1991) enlarge standard uncertainties for serial correlation.
      n_points, n_parameters: that count.
    """

    rwp: float
    rp: float
    rwp_without_background: float
    rp_without_background: float
    rexp: float
    gof: float
    chi_squared: float
    durbin_watson: float
    serial_factor: float
    n_points: int
    n_parameters: int


def agreement(
    observed: Float[np.ndarray, " point"],
    calculated: Float[np.ndarray, " point"],
    background: Float[np.ndarray, " point"],
    weight: Float[np.ndarray, " point"],
    n_parameters: int,
) -> Agreement:
    """R factors of a fit over the points with a weight.

    Args:
      observed, calculated, background: intensities.
      weight: 1/sigma^2; 0 leaves a point out.
      n_parameters: that were free.
    """
    counts = weight > 0
    yo, yc, yb, w = (v[counts] for v in (observed, calculated, background, weight))
    difference = yo - yc
    chi = float(np.sum(w * difference**2))
    total, net = float(np.sum(w * yo**2)), float(np.sum(w * (yo - yb) ** 2))
    freedom = max(len(yo) - n_parameters, 1)
    rwp, rexp = np.sqrt(chi / total), np.sqrt(freedom / total)
    return Agreement(
        rwp=float(rwp),
        rp=float(np.sum(np.abs(difference)) / np.sum(np.abs(yo))),
        rwp_without_background=float(np.sqrt(chi / net)) if net > 0 else float("nan"),
        rp_without_background=float(np.sum(np.abs(difference)) / max(np.sum(np.abs(yo - yb)), 1e-300)),
        rexp=float(rexp),
        gof=float(rwp / rexp),
        chi_squared=chi / freedom,
        durbin_watson=durbin_watson(np.sqrt(w) * difference),
        serial_factor=serial_factor(np.sqrt(w) * difference),
        n_points=len(yo),
        n_parameters=n_parameters,
    )


def durbin_watson(residuals: Float[np.ndarray, " point"]) -> float:
    """d = sum (r_i - r_(i-1))^2 / sum r_i^2.

    Reference: Hill & Flack (1987), J. Appl. Cryst. 20, 356.
    """
    total = float(np.sum(residuals**2))
    return float(np.sum(np.diff(residuals) ** 2) / total) if total > 0 else 2.0


def serial_factor(residuals: Float[np.ndarray, " point"]) -> float:
    """By how much serial correlation enlarges standard uncertainties, at least 1.

    Runs of residuals of one sign count as one observation: sqrt(A/B), A = sum over runs of (sum |r|)^2, B = sum r^2. For
    independent normal residuals A/B is 2.27 (mean run of two, E|r|^2 = 2/pi), which is divided out.

    Reference: Berar & Lelann (1991), J. Appl. Cryst. 24, 1.
    """
    total = float(np.sum(residuals**2))
    if total == 0:
        return 1.0
    run = np.concatenate([[0], np.cumsum(np.diff(np.sign(residuals)) != 0)])
    sums = np.bincount(run, weights=np.abs(residuals))
    return float(np.sqrt(max(np.sum(sums**2) / total / INDEPENDENT_RUNS, 1.0)))


# E(run sum^2)/E(sum r^2) of independent standard normal residuals: runs have lengths 1, 2, ... with chances 1/2, 1/4, ...,
# mean 2, so that (E n E r^2 + E n(n-1) (E|r|)^2) / (E n E r^2) = 1 + (4/2)(2/pi).
INDEPENDENT_RUNS = 1.0 + 4.0 / np.pi


@dataclasses.dataclass(frozen=True, eq=False)
class Uncertainty:
    """Standard uncertainties and what limits them.

    Attributes:
      covariance: of the free parameters, unscaled.
      undetermined: which free parameters take part in a combination that the data do not determine.
    """

    covariance: Float[np.ndarray, "free free"]
    undetermined: Bool[np.ndarray, " free"]

    @property
    def sigma(self) -> Float[np.ndarray, " free"]:
        """Standard uncertainties; NaN of what is not determined."""
        variance = np.where(self.undetermined, np.nan, np.diag(self.covariance))
        return np.sqrt(np.maximum(variance, 0.0))


def uncertainty(normal: Float[np.ndarray, "free free"]) -> Uncertainty:
    """Covariance (J^T J)^-1 of weighted residuals' Jacobian, without the combinations that are not determined."""
    length = np.sqrt(np.diag(normal))
    is_seen = length > UNSEEN * np.max(length, initial=0.0)
    safe = np.where(is_seen, length, 1.0)
    scaled = normal / safe / safe[:, None] + np.diag(np.where(is_seen, 0.0, 1.0))
    value, vector = np.linalg.eigh(scaled)
    is_sound = value > UNDETERMINED * value[-1]
    inverse = (vector[:, is_sound] / value[is_sound]) @ vector[:, is_sound].T
    lost = np.sum(vector[:, ~is_sound] ** 2, axis=1) > 1e-2
    return Uncertainty(covariance=inverse / safe / safe[:, None], undetermined=lost | ~is_seen)


def high_correlations(covariance: Float[np.ndarray, "free free"], names: Sequence[str]) -> list[tuple[str, str, float]]:
    """Pairs of parameters correlated beyond HIGH_CORRELATION, the strongest first."""
    sigma = np.sqrt(np.maximum(np.diag(covariance), 0.0))
    safe = np.where(sigma > 0, sigma, 1.0)
    correlation = covariance / safe / safe[:, None]
    first, second = np.nonzero(np.triu(np.abs(correlation) > HIGH_CORRELATION, 1))
    pairs = zip(first.tolist(), second.tolist(), strict=True)
    found = [(names[i], names[j], float(correlation[i, j])) for i, j in pairs]
    return sorted(found, key=lambda pair: -abs(pair[2]))


def weight_fractions(
    scales: Float[np.ndarray, " phase"],
    covariance: Float[np.ndarray, "phase phase"],
    masses: Float[np.ndarray, " phase"],
    volumes: Float[np.ndarray, " phase"],
) -> tuple[Float[np.ndarray, " phase"], Float[np.ndarray, " phase"]]:
    """Mass fraction of each crystalline phase, w proportional to S Z M / V, and its standard uncertainty.

    Args:
      scales: `Specimen.scale`, the factor of m |F|^2 / V^2; proportional to the irradiated volume over V.
      covariance: of the scales.
      masses: Z M of the cells. [u]
      volumes: of the cells. [A^3]

    Returns:
      Both NaN where no phase scatters.

    Reference: Hill & Howard (1987), J. Appl. Cryst. 20, 467, whose scale is S/V^2: w proportional to (S/V^2) Z M V.
    """
    per_scale = masses / volumes
    total = float(np.sum(scales * per_scale))
    if total <= 0:
        return np.full(len(scales), np.nan), np.full(len(scales), np.nan)
    share = scales * per_scale / total
    # d w_i / d S_j = (delta_ij - w_i) per_scale_j / total
    slope = (np.eye(len(scales)) - share[:, None]) * per_scale / total
    return share, np.sqrt(np.maximum(np.diag(slope @ covariance @ slope.T), 0.0))
