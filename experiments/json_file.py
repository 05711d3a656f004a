"""Host zone. The option `--json FILE` of the scripts that measure, checked before the measurement starts."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from simxrd_jax.errors import InputError
from simxrd_jax.io.xy import check_target, write_together


def json_path(text: str) -> Path:
    """A path that can be written, as an argparse type."""
    try:
        return check_target(text)
    except InputError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def write_json(path: Path, content: Any) -> None:
    """Writes numbers beside the file and renames."""
    write_together({path: json.dumps(content, indent=2) + "\n"})
