"""Options of the compiler change how long it takes, not what comes out."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simxrd_jax import compilation
from simxrd_jax.compilation import quick_loops


def test_results_are_the_same_with_the_options(x64):
    def chain(x):
        return jnp.cumsum(jnp.exp(-jnp.square(x)) * jnp.sin(3 * x)) / (1 + jnp.abs(x))

    x = jnp.linspace(-3.0, 3.0, 501)
    plain, quick = (jax.jit(jax.jacfwd(chain), compiler_options=options)(x) for options in ({}, quick_loops()))
    np.testing.assert_allclose(quick, plain, rtol=1e-12, atol=1e-14)


def test_a_compiler_that_does_not_know_them_gets_none(monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(jax.errors.JaxRuntimeError, match="No such compile option"):
        jax.jit(jnp.zeros, static_argnums=0, compiler_options={"xla_cpu_no_such_option": False})(3)

    def refuse(*_args, **_options):
        raise jax.errors.JaxRuntimeError("No such compile option")

    monkeypatch.setattr(compilation.jax, "jit", refuse)
    quick_loops.cache_clear()
    try:
        assert quick_loops() == {}
    finally:
        quick_loops.cache_clear()
