"""Cells, atoms and reflections of a refinement: uncertainties against the device's own derivatives."""

from __future__ import annotations

import dataclasses

import gemmi
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simxrd_jax.constants import ATOMIC_MASS
from simxrd_jax.crystal.build import make_crystal
from simxrd_jax.crystal.structure_factor import f_squared
from simxrd_jax.io.cif import read_cif
from simxrd_jax.refine.build import PhaseStart, make_model
from simxrd_jax.refine.derived import B_PER_U, SIX, covariance, peak_tables, refined_phases
from simxrd_jax.refine.model import build_phases
from simxrd_jax.refine.plans import Stage
from simxrd_jax.refine.stages import stage_indices, tie_arrays

# Site 6l (x, 2x, 0) of P6/mmm, mixed, with a tensor of which symmetry ties u12 and u22.
SPECIAL = """data_special
_cell_length_a 6.1
_cell_length_b 6.1
_cell_length_c 4.2
_cell_angle_gamma 120
_space_group_name_H-M_alt 'P 6/m m m'
loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
_atom_site_occupancy
Al1 Al 0.21 0.42 0 0.3
Si1 Si 0.21 0.42 0 0.7
O1 O 0.5 0 0.5 1
loop_
_atom_site_aniso_label
_atom_site_aniso_U_11
_atom_site_aniso_U_22
_atom_site_aniso_U_33
_atom_site_aniso_U_12
_atom_site_aniso_U_13
_atom_site_aniso_U_23
Al1 0.010 0.012 0.008 0.006 0 0
Si1 0.010 0.012 0.008 0.006 0 0
"""


def with_covariance(fit, model, free=("phases.*",), seed=0):
    """The refinement as if it were one of another model, whose values and covariance are drawn."""
    rng = np.random.default_rng(seed)
    indices = stage_indices(model, Stage("all", free))
    scale = np.array([model.table.parameters[i].scale for i in indices])
    root = rng.normal(size=(len(indices), len(indices))) * scale[:, None] * 1e-2
    values = model.table.values()
    values[indices] += 0.1 * scale * rng.uniform(0, 1, len(indices))
    ties = tie_arrays(model)
    fit = dataclasses.replace(
        fit, model=model, values=np.asarray(ties.matrix @ values + ties.offset), free=indices, covariance=root @ root.T
    )
    return dataclasses.replace(fit, sigma=np.sqrt(np.diag(covariance(fit))))


def propagated(fit, function):
    """Named functions of all parameters: name -> (values, uncertainties by their derivatives)."""
    with jax.enable_x64(True):
        values, jacobian = jax.jit(lambda v: (function(v), jax.jacfwd(function)(v)))(jnp.asarray(fit.values))
        spread = covariance(fit)
        sigma = {name: np.sqrt(np.einsum("...i,ij,...j->...", j, spread, j)) for name, j in jacobian.items()}
        return {name: (np.asarray(value), sigma[name]) for name, value in values.items()}


def drawn_from(fitted, path):
    return with_covariance(fitted, make_model([PhaseStart("a.b", read_cif(path))], "CuKa", np.arange(20.0, 40.0, 0.1)))


@pytest.fixture(scope="module")
def special(fitted, tmp_path_factory):
    path = tmp_path_factory.mktemp("cif") / "special.cif"
    path.write_text(SPECIAL)
    return drawn_from(fitted, path)


@pytest.fixture(scope="module", params=["mixture", "special", "triclinic"])
def drawn(request, fitted, special, cif_folder):
    if request.param == "mixture":
        return with_covariance(fitted, fitted.model)
    return special if request.param == "special" else drawn_from(fitted, cif_folder / "triclinic.cif")


def test_uncertainties_are_those_of_the_fit(fitted):
    np.testing.assert_allclose(np.sqrt(np.diag(covariance(fitted))), fitted.sigma, rtol=1e-9)
    occupancy = refined_phases(fitted)[1].atoms.occupancy
    assert occupancy.value[0] + occupancy.value[1] == pytest.approx(1.0, abs=1e-12)
    np.testing.assert_allclose(occupancy.sigma[:2], fitted["phases.wuestite.sites.Fe1.occupancy"][1], rtol=1e-12)
    assert occupancy.sigma[0] > 0
    assert occupancy.sigma[2] == 0.0


def test_uncertainties_follow_the_models_derivatives(drawn):
    model = drawn.model
    for number, phase in enumerate(refined_phases(drawn)):
        structure = model.phases[number].structure
        atoms = structure.atoms
        first = np.array([np.flatnonzero(atoms.site == row)[0] for row in atoms.site_of_entry])
        column = jnp.array([atoms.species.index(species) for species in structure.species])
        reciprocal = gemmi.UnitCell(*phase.cell.value).reciprocal()
        cosines = jnp.array([1, 1, 1, *np.cos(np.radians([reciprocal.gamma, reciprocal.beta, reciprocal.alpha]))])

        def quantities(values, number=number, first=first, column=column, cosines=cosines):
            made = build_phases(model.layout, model.arrays, values)[number]
            crystal = made.crystal
            lengths = jnp.linalg.norm(crystal.lattice, axis=1)
            unit = crystal.lattice / lengths[:, None]
            between = jnp.stack([unit[1] @ unit[2], unit[0] @ unit[2], unit[0] @ unit[1]])
            u = (crystal.biso[first] + made.specimen.biso) / B_PER_U
            tensor = jnp.zeros((len(first), 6))
            if crystal.u_aniso is not None:
                tensor = crystal.u_aniso[first][:, [i for i, _ in SIX], [j for _, j in SIX]] + u[:, None] * cosines
            return {
                "cell": jnp.concatenate([lengths, jnp.degrees(jnp.arccos(between))]),
                "volume": jnp.linalg.det(crystal.lattice),
                "frac": crystal.frac[first],
                "occupancy": crystal.occupancy[first, column],
                "u": u,
                "tensor": tensor,
            }

        known = propagated(drawn, quantities)
        is_aniso = phase.atoms.is_aniso
        found = {
            "cell": phase.cell,
            "volume": phase.volume,
            "frac": phase.atoms.frac,
            "occupancy": phase.atoms.occupancy,
            "u": phase.atoms.u,
            "tensor": phase.atoms.u_aniso,
        }
        for name, (value, sigma) in known.items():
            rows = {"u": ~is_aniso, "tensor": is_aniso}.get(name, ...)
            turns = np.round(found[name].value[rows] - value[rows]) if name == "frac" else 0.0
            np.testing.assert_allclose(found[name].value[rows] - turns, value[rows], rtol=1e-12, atol=1e-12, err_msg=name)
            np.testing.assert_allclose(found[name].sigma[rows], sigma[rows], rtol=1e-7, atol=1e-12, err_msg=name)
        assert not phase.atoms.u_aniso.value[~is_aniso].any()
        assert np.any(phase.cell.sigma > 0)


def test_special_positions_keep_their_relations(special):
    (phase,) = refined_phases(special)
    frac = phase.atoms.frac
    np.testing.assert_allclose(frac.value[:2, 1], 2 * frac.value[:2, 0], rtol=1e-14)
    np.testing.assert_allclose(frac.sigma[:2], frac.sigma[:2, :1] * [1, 2, 0], rtol=1e-12)
    assert frac.sigma[0, 0] > 0
    assert not frac.sigma[2].any()
    assert phase.atoms.labels == ("Al1", "Si1", "O1")
    assert phase.atoms.multiplicity.tolist() == [6, 6, 3]
    u = phase.atoms.u_aniso
    np.testing.assert_allclose(u.value[0, 3], u.value[0, 1] / 2, rtol=1e-9)  # of (x, 2x, 0): u12 = u22/2
    np.testing.assert_allclose(u.sigma[0, 3], u.sigma[0, 1] / 2, rtol=1e-9)


def test_equivalent_u_is_gemmis(fitted):
    phase = refined_phases(fitted)[0]
    for value, six in zip(phase.atoms.u.value, phase.atoms.u_aniso.value, strict=True):
        site = gemmi.SmallStructure.Site()
        site.aniso = gemmi.SMat33d(*six)
        tensor = gemmi.UnitCell(*phase.cell.value).calculate_u_eq(site.aniso)
        assert value == pytest.approx(tensor, rel=1e-12)


def test_formula_mass_and_density(fitted):
    calcite, wuestite = refined_phases(fitted)
    assert (calcite.formula, calcite.units) == ("C Ca O3", 6)
    iron = float(wuestite.atoms.occupancy.value[0])
    assert wuestite.formula == f"Fe{iron:.4g} Mg{1 - iron:.4g} O0.98"
    assert wuestite.units == 4
    weight = sum(gemmi.Element(e).weight * n for e, n in (("Ca", 1), ("C", 1), ("O", 3)))
    assert calcite.mass == pytest.approx(weight, rel=1e-4)
    assert calcite.density.value == pytest.approx(
        6 * weight * ATOMIC_MASS * 1e3 / (float(calcite.volume.value) * 1e-24), rel=1e-4
    )
    relative = float(calcite.volume.sigma / calcite.volume.value)
    assert calcite.density.sigma == pytest.approx(relative * float(calcite.density.value), rel=1e-9)
    # That of a mixed site comes from both.
    metals = float(wuestite.atoms.occupancy.sigma[0]) * (gemmi.Element("Fe").weight - gemmi.Element("Mg").weight)
    assert wuestite.density.sigma / wuestite.density.value == pytest.approx(metals / wuestite.mass, rel=0.02)


def test_what_the_data_do_not_determine_has_no_uncertainty(fitted):
    sigma = fitted.sigma.copy()
    sigma[fitted.model.table.index("phases.calcite.sites.O1.x")] = np.nan
    atoms = refined_phases(dataclasses.replace(fitted, sigma=sigma))[0].atoms
    assert np.isnan(atoms.frac.sigma[2]).tolist() == [True, False, False]
    assert not np.isnan(atoms.u_aniso.sigma).any()


def test_reflections(fitted):
    """Spacings against gemmi, |F|^2 against the refined structure's own, which has the overall B in its sites."""
    for phase, table in zip(refined_phases(fitted), peak_tables(fitted), strict=True):
        cell = gemmi.UnitCell(*phase.cell.value)
        np.testing.assert_allclose(table.d_spacing, [cell.calculate_d(hkl) for hkl in table.hkl.tolist()], rtol=1e-12)
        assert np.all(np.diff(table.two_theta) >= 0)
        assert table.intensity.max() == pytest.approx(100.0)
        wavelength = fitted.model.radiation.wavelength[0]
        angles = 2 * np.degrees(np.arcsin(wavelength / 2 / table.d_spacing))
        np.testing.assert_allclose(table.two_theta, angles, atol=1e-9)
        with jax.enable_x64(True):
            crystal = make_crystal(phase.structure, fitted.model.radiation.mean_wavelength)
            np.testing.assert_allclose(table.f_squared, jax.jit(f_squared)(crystal, jnp.asarray(table.hkl)), rtol=1e-9)
