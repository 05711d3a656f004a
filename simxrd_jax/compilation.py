"""Host zone. How large programs are compiled for the CPU."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp


@functools.cache
def quick_loops() -> dict[str, bool]:
    """Options for `jax.jit(..., compiler_options=...)` under which XLA compiles fused loops for the CPU as it did before 2025.

    A refinement's program compiles in two thirds of the time then and is as fast (`experiments/refine_reference --case
    fluorapatite --times`, with the options and without); training steps keep XLA's choice.

    Returns:
      The options, or none where this XLA does not know them.
    """
    options = {"xla_cpu_use_fusion_emitters": False}
    try:
        jax.jit(jnp.zeros, static_argnums=0, compiler_options=options)(1)
    except (jax.errors.JaxRuntimeError, ValueError):
        return {}
    return options
