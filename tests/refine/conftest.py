"""A small refinement that several test modules share, since its compilation takes longest."""

from __future__ import annotations

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simxrd_jax.diffraction.settings import Settings
from simxrd_jax.io.cif import read_cif
from simxrd_jax.refine.build import InstrumentStart, Model, PhaseStart, make_model
from simxrd_jax.refine.fit import Refinement, refine
from simxrd_jax.refine.model import pattern
from simxrd_jax.refine.plans import cumulative

TRUTH = {
    "phases.calcite.scale": 800.0,
    "phases.wuestite.scale": 300.0,
    "phases.calcite.sites.O1.x": 0.259,
    "phases.wuestite.sites.Fe1.occupancy": 0.5,
    "phases.wuestite.sites.Mg1.occupancy": 0.5,
    "background.chebyshev.0": 200.0,
    "background.chebyshev.1": -50.0,
}
FREE = (
    "@scale", "@background", "@cell", "phases.calcite.sites.O1.?", "phases.calcite.sites.O1.u??", "phases.calcite.biso",
    "phases.wuestite.sites.Fe1.*",
)  # fmt: skip


@pytest.fixture(scope="session")
def mixture(cif_folder: pathlib.Path) -> Model:
    """Calcite with displacement tensors, and a magnesiowuestite with a mixed site."""
    files = {"calcite": "aniso_calcite.cif", "wuestite": "mixed_FeMgO.cif"}
    return make_model(
        [PhaseStart(name, read_cif(cif_folder / file)) for name, file in files.items()],
        "CuKa",
        np.round(np.arange(22.0, 62.01, 0.12), 6),
        instrument=InstrumentStart({"caglioti_w": 0.02}, has_axial_divergence=False),
        background_terms=2,
        settings=Settings(peak_sum="dense", profile="tch"),
    )


@pytest.fixture(scope="session")
def fitted(mixture: Model) -> Refinement:
    """Its refinement against a pattern with counting noise; 30 to 31 deg do not count."""
    with jax.enable_x64(True):
        values = jnp.asarray(mixture.table.values(TRUTH))
        calculate = jax.jit(lambda v: pattern(mixture.layout, mixture.arrays, mixture.settings, v))
        clean = np.asarray(calculate(values))
    counts = np.random.default_rng(0).poisson(clean * 3e4 / clean.max()).astype(float)
    return refine(mixture, counts, cumulative("test", {"all": FREE}), excluded=[(30.0, 31.0)])
