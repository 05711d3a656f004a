"""Host zone. The one error type users see, and the checks and words that several entry points share."""

from __future__ import annotations

import math
import os
import traceback


class InputError(ValueError):
    """Bad input: the message is one sentence that names where, what is wrong and what to do."""


def check_two_theta_range(start: float, stop: float, step: float) -> None:
    """Raises InputError unless 0 <= start < stop < 180 and the step is positive and no longer than the range. [deg]"""
    if not all(math.isfinite(v) for v in (start, stop, step)):
        raise InputError(
            f"the 2theta range {start} {stop} {step} has a value that is not a finite number; give START STOP STEP in degrees"
        )
    if not 0 <= start < stop < 180:
        raise InputError(
            f"the 2theta range {start:g} to {stop:g} deg is empty or outside 0 to 180; give START < STOP within it"
        )
    if not 0 < step <= stop - start:
        raise InputError(
            f"the 2theta step {step:g} deg must be positive and at most {stop - start:g}, the length of the range"
        )
    if (stop - start) / step > MAX_POINTS:
        raise InputError(
            f"the 2theta step {step:g} deg makes more than {MAX_POINTS} points; take a larger step or a shorter range"
        )


MAX_POINTS = 1_000_000  # one float32 pattern of 4 MB; a longer one is a mistyped step


NO_MEMORY = "there is not enough memory; take smaller batches, a shorter 2theta range or a larger step"


def device_error(error: Exception) -> str | None:
    """What a user must know of an error of JAX, or None where it is a fault of the program."""
    message = str(error)
    if "RESOURCE_EXHAUSTED" in message or "Out of memory" in message:
        return NO_MEMORY
    if "Unable to initialize backend" in message:
        reason = message.partition("Unable to initialize backend ")[2].partition(" (set")[0].partition("\n")[0]
        return f"JAX finds no such device ({reason}); correct or unset JAX_PLATFORMS"
    places = traceback.extract_tb(error.__traceback__)
    if isinstance(error, AssertionError) and places and places[-1].filename.endswith("xla_bridge.py"):
        return f"JAX finds no device {os.environ.get('JAX_PLATFORMS', '')}; correct or unset JAX_PLATFORMS"
    return None
