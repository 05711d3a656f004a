"""python -m simxrd_jax is the command `simxrd`."""

from __future__ import annotations

from simxrd_jax.cli import main

if __name__ == "__main__":  # worker processes import this file again
    main()
