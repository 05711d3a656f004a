"""Host zone. Numbers with standard uncertainties as text: 5.43102(3)."""

from __future__ import annotations

import math


def with_uncertainty(value: float, sigma: float, *, least_decimals: int = 0, digits: int = 6) -> str:
    """A value with its standard uncertainty in brackets, in units of the last digit, 2 to 19 of them: 5.43102(3).

    An uncertainty above 19 has all its digits before the point: 2909(72).

    Args:
      value: number.
      sigma: its standard uncertainty; without one (0, NaN, infinity) the value stands alone.
      least_decimals: decimals that are kept even if the uncertainty needs fewer.
      digits: significant ones of a value that stands alone.

    Reference: the rule of 19 in the Notes for Authors of Acta Crystallographica C.
    """
    if not math.isfinite(value):
        return "?"
    if not math.isfinite(sigma) or sigma <= 0:
        text = f"{value:.{digits}g}"
        return "0" if text == "-0" else text
    decimals = 1 - math.floor(math.log10(sigma))  # two digits of the uncertainty
    if round(sigma * 10.0**decimals) > 19:
        decimals -= 1
    decimals = max(decimals, least_decimals, 0)
    return f"{value:.{decimals}f}({max(round(sigma * 10.0**decimals), 1)})"
