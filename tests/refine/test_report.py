"""The files that a refinement leaves."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from simxrd_jax.errors import InputError
from simxrd_jax.io.instruments import read_instrument
from simxrd_jax.refine import report
from simxrd_jax.refine.microabsorption import of_refinement
from simxrd_jax.refine.report import FILES, PAGE_FILE, phase_files, write_report


def test_all_files_are_written_and_none_over_others(fitted, tmp_path):
    write_report(fitted, tmp_path, "mix.xy")
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {*FILES, PAGE_FILE, "calcite.cif", "wuestite.cif"}
    before = {name: (tmp_path / name).read_bytes() for name in names}
    with pytest.raises(InputError, match="already holds a result"):
        write_report(fitted, tmp_path)
    assert before == {path.name: path.read_bytes() for path in tmp_path.iterdir()}


def test_brindleys_fractions_stand_beside_the_plain_ones(fitted):
    fine = dataclasses.replace(fitted, microabsorption=of_refinement(fitted, {}))
    for phase in report.result_dict(fine)["phases"].values():
        assert phase["brindley"]["tau"] == 1.0
        assert phase["brindley"]["weight_fraction"][0] == pytest.approx(phase["weight_fraction"][0], rel=1e-12)
    coarse = report.result_dict(dataclasses.replace(fitted, microabsorption=of_refinement(fitted, {"wuestite": 5.0})))
    phase = coarse["phases"]["wuestite"]
    assert phase["brindley"]["tau"] < 1.0
    assert phase["brindley"]["weight_fraction"][0] > phase["weight_fraction"][0]
    assert sum(p["brindley"]["weight_fraction"][0] for p in coarse["phases"].values()) == pytest.approx(1.0)
    assert "brindley" not in report.result_dict(fitted)["phases"]["wuestite"]


def test_a_users_own_cif_is_not_overwritten(fitted, tmp_path):
    (tmp_path / "calcite.cif").write_text("mine")
    with pytest.raises(InputError, match=r"already holds a file calcite\.cif, which would be lost"):
        write_report(fitted, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["calcite.cif"]


def test_a_file_that_cannot_be_made_leaves_none(fitted, tmp_path, monkeypatch):
    monkeypatch.setattr(report, "report_html", lambda *a, **k: (_ for _ in ()).throw(InputError("no")))
    with pytest.raises(InputError, match="no"):
        write_report(fitted, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_phase_without_atoms_gets_no_file(fitted, tmp_path, monkeypatch):
    bare = lambda fit: [dataclasses.replace(p, atoms=None) for p in report_phases(fit)]  # noqa: E731
    report_phases = report.refined_phases
    monkeypatch.setattr(report, "refined_phases", bare)
    write_report(fitted, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {*FILES, PAGE_FILE}


def test_names_of_phase_files():
    assert phase_files(["Si", "si", "refinement", "a/b", "../x", "", "Fe3O4-x+"]) == (
        "Si.cif", "si_2.cif", "refinement_2.cif", "a_b.cif", "x.cif", "phase.cif", "Fe3O4-x+.cif"
    )  # fmt: skip


def test_a_refined_wavelength_is_the_instruments(fitted, tmp_path):
    values = fitted.values.copy()
    values[fitted.model.table.index("instrument.wavelength.0")] = 1.5407
    write_report(dataclasses.replace(fitted, values=np.array(values)), tmp_path)
    assert read_instrument(tmp_path / "instrument.json").radiation.wavelength == (1.5407, 1.544427)
