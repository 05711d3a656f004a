"""CIFs of a refinement: the dictionaries' names, and what our reader, gemmi and pymatgen read back."""

from __future__ import annotations

import dataclasses
import datetime
import pathlib

import gemmi
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simxrd_jax.constants import RADIATIONS
from simxrd_jax.crystal.build import make_crystal
from simxrd_jax.crystal.structure_factor import f_squared
from simxrd_jax.io.cif import read_cif
from simxrd_jax.io.patterns import read_pattern
from simxrd_jax.refine.build import PhaseStart, make_model
from simxrd_jax.refine.cif import Origin, code, phase_cif, plain, refinement_cif, unique
from simxrd_jax.refine.derived import peak_tables, refined_phases

ORIGIN = Origin("mix.xy", datetime.datetime(2026, 1, 2, 3, 4, tzinfo=datetime.UTC))
NAMES = {name.lower() for name in (pathlib.Path(__file__).parents[1] / "data" / "cif_names.txt").read_text().split("\n")}


@pytest.fixture(scope="module")
def phases(fitted):
    return refined_phases(fitted)


@pytest.fixture(scope="module")
def tables(fitted):
    return peak_tables(fitted)


@pytest.fixture(scope="module")
def whole(fitted, phases, tables):
    return refinement_cif(fitted, phases, tables, ORIGIN)


def written(text, tmp_path, name="x.cif"):
    path = tmp_path / name
    path.write_text(text, encoding="ascii")
    return path


def tags_of(text):
    for block in gemmi.cif.read_string(text):
        for item in block:
            yield from [item.pair[0]] if item.pair else item.loop.tags


def test_names_are_in_the_dictionaries_and_the_text_is_ascii(fitted, phases, whole):
    for text in (whole, *(phase_cif(fitted, phase, ORIGIN) for phase in phases)):
        unknown = {tag for tag in tags_of(text) if tag.lower() not in NAMES}
        assert not unknown
        assert text.isascii()
        assert max(map(len, text.splitlines())) <= 2048


def test_values_and_their_uncertainties(fitted, phases):
    block = gemmi.cif.read_string(phase_cif(fitted, phases[0], ORIGIN)).sole_block()
    a, sigma = fitted["phases.calcite.cell.a"]
    text = block.find_value("_cell_length_a")
    assert gemmi.cif.as_number(text) == pytest.approx(a, abs=0.26 * sigma)
    assert text == block.find_value("_cell_length_b")
    assert "(" in text
    assert [block.find_value(f"_cell_angle_{name}") for name in ("alpha", "beta", "gamma")] == ["90", "90", "120"]
    assert "(" in block.find_value("_cell_volume")
    assert block.find_value("_cell_formula_units_Z") == "6"
    assert float(block.find_value("_pd_proc_ls_prof_wR_factor")) == pytest.approx(fitted.agreement.rwp, abs=1e-5)
    rows = {row.str(0): [*row] for row in block.find("_atom_site_", ["label", "fract_x", "fract_y", "fract_z", "adp_type"])}
    assert rows["C1"] == ["C1", "0", "0", "0.25", "Uani"]
    assert "(" in rows["O1"][1]
    assert rows["O1"][2:] == ["0", "0.25", "Uani"]


def test_the_structure_reads_back(fitted, phases, tables, tmp_path):
    for phase, table in zip(phases, tables, strict=True):
        path = written(phase_cif(fitted, phase, ORIGIN), tmp_path)
        found = read_cif(path)
        assert found.space_group_number == phase.structure.space_group_number
        assert found.site_labels == phase.atoms.labels
        assert found.species == phase.structure.species
        assert found.has_displacement
        assert not found.notes
        np.testing.assert_array_equal(found.rotations, phase.structure.rotations)
        near = lambda a, b, sigma: np.testing.assert_array_less(np.abs(a - b), 0.26 * sigma + 5e-4)  # noqa: E731
        near(found.frac, phase.atoms.frac.value, phase.atoms.frac.sigma)
        near(found.occupancy, phase.atoms.occupancy.value, phase.atoms.occupancy.sigma)
        small = gemmi.read_small_structure(str(path))
        assert small.spacegroup.number == phase.structure.space_group_number
        assert small.cell.volume == pytest.approx(float(phase.volume.value), rel=1e-4)
        assert len(small.get_all_unit_cell_sites()) == phase.atoms.multiplicity.sum()

        from pymatgen.core import Structure

        composition = Structure.from_file(path).composition
        counts = {}
        for species, number in zip(phase.structure.species, phase.atoms.multiplicity * phase.structure.occupancy, strict=True):
            element = species.rstrip("+-0123456789")
            counts[element] = counts.get(element, 0.0) + number
        for element, count in counts.items():
            assert composition.get_el_amt_dict()[element] == pytest.approx(count, abs=0.01)
        with jax.enable_x64(True):
            crystal = make_crystal(found, fitted.model.radiation.mean_wavelength)
            again = np.asarray(jax.jit(f_squared)(crystal, jnp.asarray(table.hkl)))
        # What rounding to the uncertainties changes.
        np.testing.assert_allclose(again, table.f_squared, rtol=0.02, atol=0.01 * table.f_squared.max())


def test_a_structure_without_uncertainties_has_the_same_intensities(fitted, tables, tmp_path):
    """All digits then stand in the file, and only they are lost."""
    exact = dataclasses.replace(fitted, sigma=np.zeros_like(fitted.sigma), covariance=np.zeros_like(fitted.covariance))
    for phase, table in zip(refined_phases(exact), tables, strict=True):
        found = read_cif(written(phase_cif(exact, phase, ORIGIN), tmp_path))
        with jax.enable_x64(True):
            crystal = make_crystal(found, fitted.model.radiation.mean_wavelength)
            again = np.asarray(jax.jit(f_squared)(crystal, jnp.asarray(table.hkl)))
        np.testing.assert_allclose(again, table.f_squared, rtol=1e-6, atol=1e-6 * table.f_squared.max())


def test_the_pattern_reads_back(fitted, whole, tmp_path):
    found = read_pattern(written(whole, tmp_path, "refinement.cif"))
    counts = fitted.weight > 0
    np.testing.assert_allclose(found.two_theta, fitted.two_theta[counts], rtol=1e-9)
    np.testing.assert_allclose(found.intensity, fitted.observed[counts], rtol=1e-9)
    np.testing.assert_allclose(found.sigma, fitted.weight[counts] ** -0.5, rtol=1e-6)
    assert found.radiation == fitted.model.radiation
    assert found.instrument == {}


def test_the_pattern_block(fitted, phases, tables, whole):
    document = gemmi.cif.read_string(whole)
    assert [block.name for block in document] == [
        "mix_xy_refinement", "mix_xy_phase_calcite", "mix_xy_phase_wuestite", "mix_xy_pattern"
    ]  # fmt: skip
    block = document[-1]
    assert gemmi.cif.as_string(block.find_value("_pd_proc_info_excluded_regions")) == "30.04 to 31 deg 2theta"
    for tag, values in (
        ("_pd_calc_intensity_total", fitted.calculated),
        ("_pd_proc_intensity_bkg_calc", fitted.background),
        ("_pd_proc_ls_weight", fitted.weight),
    ):
        np.testing.assert_allclose([float(v) for v in block.find_values(tag)], values, rtol=1e-5)
    hkl = np.array([[int(v) for v in row] for row in block.find("_refln_index_", ["h", "k", "l"])])
    np.testing.assert_array_equal(hkl, np.concatenate([table.hkl for table in tables]))
    squares = [float(v) for v in block.find_values("_refln_F_squared_calc")]
    np.testing.assert_allclose(squares, np.concatenate([table.f_squared for table in tables]), rtol=1e-5)
    which = [int(v) for v in block.find_values("_pd_refln_phase_id")]
    assert which == [1] * len(tables[0].hkl) + [2] * len(tables[1].hkl)
    identifiers = {gemmi.cif.as_string(b.find_value("_pd_block_id")) for b in document}
    assert len(identifiers) == 4
    for place in (document[0], block):
        assert {gemmi.cif.as_string(v) for v in place.find_values("_pd_phase_block_id")} < identifiers
    for b in document[0], document[1], document[2]:
        assert gemmi.cif.as_string(b.find_value("_pd_block_diffractogram_id")) in identifiers
    shares = [gemmi.cif.as_number(v) for v in block.find_values("_pd_phase_mass_%")]
    assert sum(shares) == pytest.approx(100.0, abs=0.2)


def test_more_lines_and_a_monochromator_read_back(fitted, phases, tables, cif_folder, tmp_path):
    model = make_model([PhaseStart("Si", read_cif(cif_folder / "Si.cif"))], "CuKa4", fitted.two_theta)
    values = model.table.values({"instrument.monochromator_two_theta": 26.4, "instrument.displacement": 0.1})
    other = dataclasses.replace(
        fitted,
        model=model,
        values=values,
        sigma=np.zeros(len(values)),
        free=np.array([0]),
        covariance=np.zeros((1, 1)),
        weight_fractions={"Si": (1.0, 0.0)},
    )
    text = refinement_cif(other, refined_phases(other), (), ORIGIN)
    found = read_pattern(written(text, tmp_path))
    assert found.radiation == RADIATIONS["CuKa4"]
    assert found.instrument == {"monochromator_two_theta": 26.4, "goniometer_radius": 217.5}


def test_texts_of_users_break_nothing(fitted, phases, tables):
    hostile = 'it\'s "a"\n;data_x _loop über 2θ \\ #'
    origin = dataclasses.replace(ORIGIN, title=hostile)
    renamed = [dataclasses.replace(phase, name=hostile) for phase in phases]
    other = dataclasses.replace(
        fitted,
        weight_fractions=dict.fromkeys([hostile], (0.5, 0.1)),
        warnings=(hostile, ";\n;\ndata_y", "x" * 3000),
    )
    document = gemmi.cif.read_string(refinement_cif(other, renamed, tables, origin))
    assert len(document) == 4
    assert all(tag.lower() in NAMES for tag in tags_of(document.as_string()))
    alone = gemmi.cif.read_string(phase_cif(fitted, phases[0], ORIGIN)).sole_block()
    assert document[1].find_value("_cell_length_a") == alone.find_value("_cell_length_a")


def test_a_phase_without_atoms_has_no_sites(fitted, phases, tables):
    bare = [dataclasses.replace(phases[0], atoms=None), phases[1]]
    document = gemmi.cif.read_string(refinement_cif(fitted, bare, tables, ORIGIN))
    assert not len(document[1].find_values("_atom_site_label"))
    assert document[1].find_value("_cell_formula_units_Z") is None
    assert len(document[2].find_values("_atom_site_label")) == 3


def test_codes():
    assert code("a b/c.xy") == "a_b_c_xy"
    assert code("...") == "unnamed"
    assert code("ü") == "u"
    assert plain("Grün\t2θ") == "Grun 2?"
    assert unique(["a", "A", "b", "a"], ("B",)) == ["a", "A_2", "b_2", "a_3"]
