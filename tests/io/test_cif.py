"""Host zone tests: what a CIF may say in how many ways, and one clear sentence for each way it can be wrong."""

from __future__ import annotations

import math
import pathlib

import gemmi
import numpy as np
import pytest

from simxrd_jax.crystal.reflections import make_reflections
from simxrd_jax.errors import InputError
from simxrd_jax.io.cif import read_cif

CELL = """_cell_length_a 4.0
_cell_length_b 4.0
_cell_length_c 4.0
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 90
"""
OPERATORS = "loop_\n_space_group_symop_operation_xyz\n'x,y,z'\n'-x,-y,-z'\n"
LOOP = "loop_\n" + "".join(f"_atom_site_{v}\n" for v in ["label", "type_symbol", "fract_x", "fract_y", "fract_z", "occupancy"])
GOOD = "data_test\n" + CELL + OPERATORS + LOOP + "Na1 Na 0 0 0 1\n"


def _write(folder: pathlib.Path, text: str | bytes) -> pathlib.Path:
    path = folder / "case.cif"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


BAD = {
    "empty": ("", "the file is empty"),
    "blank": (" \n\n", "the file is empty"),
    "binary": (b"\x89PNG\0\0\x01\x02", "is a binary file"),
    "text": ("two theta intensity\n10 20\n", "is not a valid CIF"),
    "no block": ("# only a comment\n", "holds no data block"),
    "broken loop": (GOOD + "Cl1 Cl 0.5 0.5\n", "is not a valid CIF"),
    "unclosed quote": (GOOD + "_chemical_name_common 'salt\n", "is not a valid CIF"),
    "no cell": ("data_test\n" + OPERATORS + LOOP + "Na1 Na 0 0 0 1\n", "has no unit cell"),
    "cell without value": (GOOD.replace("_cell_length_b 4.0", "_cell_length_b ?"), "_cell_length_b is missing"),
    "cell of words": (GOOD.replace("_cell_length_b 4.0", "_cell_length_b four"), "_cell_length_b is 'four'"),
    "negative cell": (GOOD.replace("_cell_length_b 4.0", "_cell_length_b -4.0"), "an edge that is not within"),
    "zero cell": (GOOD.replace("_cell_length_b 4.0", "_cell_length_b 0"), "an edge that is not within"),
    "huge cell": (GOOD.replace("_cell_length_b 4.0", "_cell_length_b 40000"), "an edge that is not within"),
    "flat angles": (GOOD.replace("_alpha 90", "_alpha 40").replace("_beta 90", "_beta 150"), "impossible angles"),
    "angle 180": (GOOD.replace("_alpha 90", "_alpha 180"), "impossible angles"),
    "no atoms": ("data_test\n" + CELL + OPERATORS, "has no atoms"),
    "missing coordinates": (GOOD.replace("0 0 0 1", "0 ? 0 1"), r"atom Na1 has no coordinates \(0 \? 0\)"),
    "water as Wat": (GOOD.replace("Na1 Na ", "Na1 Wat "), "atom Na1 is of an unknown element 'Wat'"),
    "water in full": (GOOD.replace("Na1 Na ", "Na1 Water "), "atom Na1 is of an unknown element 'Water'"),
    "unknown element": (GOOD.replace("Na1 Na ", "Na1 Qx "), "atom Na1 is of an unknown element 'Qx'"),
    "unknown label": (GOOD.replace("Na1 Na ", "Zz1 ? "), "the element of atom Zz1 is unknown"),
    "occupancy over 1": (GOOD.replace("0 0 0 1", "0 0 0 1.2"), "atom Na1 has occupancy 1.2"),
    "occupancy negative": (GOOD.replace("0 0 0 1", "0 0 0 -0.1"), "atom Na1 has occupancy -0.1"),
    "occupancy of words": (GOOD.replace("0 0 0 1", "0 0 0 full"), "atom Na1 has occupancy full"),
    "only empty sites": (GOOD.replace("0 0 0 1", "0 0 0 0"), "has no atom with coordinates and an occupancy above 0"),
    "mixed site over 1": (GOOD.replace("0 0 0 1", "0 0 0 0.6") + "K1 K 0 0 0 0.6\n", "overlapping sites Na1 and K1 .* 1.2"),
    "overlap": (GOOD + "K1 K 0.05 0 0 1\n", "overlapping sites"),
    "own images": (GOOD.replace("0 0 0 1", "0.05 0 0 1"), "overlapping its own symmetry images"),
    "operator typo": (GOOD.replace("-x,-y,-z", "-x,-y,-q"), "operator '-x,-y,-q' cannot be read"),
    "operator singular": (GOOD.replace("-x,-y,-z", "x,x,z"), "operator 'x,x,z' is no symmetry operation"),
    "no group": (GOOD.replace("-x,-y,-z", "-y,x,z"), "2 symmetry operators do not form a group"),
    "no identity": (GOOD.replace("'x,y,z'\n", ""), "lack the identity"),
    "cell against operators": (
        GOOD.replace("'-x,-y,-z'", "'y,z,x'\n'z,x,y'").replace("length_c 4.0", "length_c 4.5"),
        "the cell 4 4 4.5 90 90 90 contradicts the symmetry operators",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_files_raise_one_clear_sentence(tmp_path: pathlib.Path, case: str) -> None:
    text, message = BAD[case]
    with pytest.raises(InputError, match=message) as info:
        read_cif(_write(tmp_path, text))
    said = str(info.value)
    assert str(tmp_path / "case.cif") in said
    assert "\n" not in said
    assert len(said) < 400


def test_bad_arguments(tmp_path: pathlib.Path) -> None:
    path = _write(tmp_path, GOOD)
    with pytest.raises(InputError, match="no such file"):
        read_cif(tmp_path / "missing.cif")
    with pytest.raises(InputError, match="is a folder"):
        read_cif(tmp_path)
    with pytest.raises(InputError, match="has no data block 'other'; choose one of test"):
        read_cif(path, block="other")
    with pytest.raises(InputError, match="symprec -1 must be a positive distance"):
        read_cif(path, symprec=-1)


def test_good_file_and_no_notes(tmp_path: pathlib.Path) -> None:
    s = read_cif(_write(tmp_path, GOOD))
    assert (s.space_group_number, s.space_group_symbol, s.formula, s.notes) == (2, "P -1", "Na", ())
    assert not s.has_displacement
    assert s.symprec is None
    assert s.name == "case"


@pytest.mark.parametrize(
    ("symbol", "label", "species"),
    [
        ("Fe3+", "M1", "Fe3+"),
        ("FE+3", "M1", "Fe3+"),
        ("fe", "M1", "Fe"),
        ("O2-", "X1", "O2-"),
        ("Na+", "X1", "Na1+"),
        ("Cl1-", "X1", "Cl1-"),
        ("Si0+", "X1", "Si"),
        ("D", "X1", "D"),
        ("?", "Fe2A", "Fe"),
        (".", "OW1", "O"),
        ("?", "Fe3+", "Fe3+"),
        ("Cval", "C1", "C"),
    ],
)
def test_species(tmp_path: pathlib.Path, symbol: str, label: str, species: str) -> None:
    s = read_cif(_write(tmp_path, GOOD.replace("Na1 Na ", f"{label} {symbol} ")))
    assert s.species == (species,)


def test_label_is_read_with_the_help_of_the_formula(tmp_path: pathlib.Path) -> None:
    for formula, element in (("C6 H6", "C"), ("Ca O", "Ca")):
        text = GOOD.replace("Na1 Na ", "CA1 ? ") + f"_chemical_formula_sum '{formula}'\n"
        assert read_cif(_write(tmp_path, text)).species == (element,)


def test_numbers_with_uncertainties_and_placeholders(tmp_path: pathlib.Path) -> None:
    text = GOOD.replace("_cell_length_a 4.0", "_cell_length_a 4.1234(15)").replace("0 0 0 1", "0.2500(3) .3(1) -0.1 .")
    s = read_cif(_write(tmp_path, text))
    assert np.linalg.norm(s.lattice[0]) == pytest.approx(4.1234, abs=1e-12)
    np.testing.assert_allclose(s.frac[0], [0.25, 0.3, -0.1], rtol=0, atol=1e-12)
    assert s.occupancy.tolist() == [1.0]


def test_displacements_in_every_form(tmp_path: pathlib.Path) -> None:
    """B, U, tensors as U, B and beta: the same atom each time."""
    head = "data_test\n" + CELL + "loop_\n_space_group_symop_operation_xyz\nx,y,z\n"
    loop = "loop_\n_atom_site_label\n_atom_site_fract_x\n_atom_site_fract_y\n_atom_site_fract_z\n"
    u = 0.01
    for tag, value in (("U_iso_or_equiv", u), ("B_iso_or_equiv", u * 8 * math.pi**2)):
        s = read_cif(_write(tmp_path, head + loop + f"_atom_site_{tag}\nNa1 0 0 0 {value}(1)\nCl1 .5 .5 .5 ?\n"))
        np.testing.assert_allclose(s.biso, [u * 8 * math.pi**2, 0.0], rtol=1e-12)
        assert s.has_displacement
        assert s.u_aniso is None
        assert "B = 0, for Cl1" in s.notes[0]
    scale = {"U": 1.0, "B": 8 * math.pi**2, "beta": 2 * math.pi**2 / 16}  # a* = 1/4
    for kind, factor in scale.items():
        tags = "".join(f"_atom_site_aniso_{kind}_{ij}\n" for ij in ("11", "22", "33", "12", "13", "23"))
        values = " ".join(f"{v * factor:.10f}" for v in (0.01, 0.02, 0.03, 0.001, 0.002, -0.003))
        text = head + loop + "Na1 0 0 0\nCl1 .5 .5 .5\nloop_\n_atom_site_aniso_label\n" + tags + f"Na1 {values}\n"
        s = read_cif(_write(tmp_path, text))
        assert s.u_aniso is not None
        expected = [[0.01, 0.001, 0.002], [0.001, 0.02, -0.003], [0.002, -0.003, 0.03]]
        np.testing.assert_allclose(s.u_aniso[0], expected, rtol=1e-6)
        assert np.all(s.u_aniso[1] == 0)
        assert np.all(s.biso == 0)


def test_negative_b_is_kept_and_noted(tmp_path: pathlib.Path) -> None:
    text = GOOD.replace("_atom_site_occupancy\n", "_atom_site_B_iso_or_equiv\n").replace("0 0 0 1", "0 0 0 -0.2")
    s = read_cif(_write(tmp_path, text))
    assert s.biso.tolist() == [-0.2]
    assert "negative for Na1" in s.notes[0]


def test_several_blocks(tmp_path: pathlib.Path) -> None:
    other = GOOD.replace("data_test", "data_second").replace("4.0", "5.0")
    path = _write(tmp_path, "data_publication\n_journal_year 2000\n" + GOOD + other)
    s = read_cif(path)
    assert s.volume == pytest.approx(64)
    assert "'second'" in s.notes[0]
    assert read_cif(path, block="second").volume == pytest.approx(125)


def test_dummy_atoms_and_unplaced_hydrogen_are_left_out(tmp_path: pathlib.Path) -> None:
    text = GOOD.replace("_atom_site_occupancy\n", "_atom_site_calc_flag\n").replace("0 0 0 1", "0 0 0 d")
    s = read_cif(_write(tmp_path, text + "Ar1 Ar 0.5 0.5 0.5 dum\nH1 H ? ? ? d\n"))
    assert s.species == ("Na",)
    assert "Ar1, H1" in s.notes[0]


def _without_symmetry(text: str) -> str:
    lines = [v for v in text.splitlines() if "symop" not in v and not v.startswith(("'", "_space_group"))]
    return "\n".join(lines).replace("loop_\nloop_", "loop_")


def test_symmetry_from_names(tmp_path: pathlib.Path, cif_folder: pathlib.Path) -> None:
    """Without operators: by Hall symbol, Hermann-Mauguin symbol, number; without any: by spglib."""
    bare = _without_symmetry((cif_folder / "Si.cif").read_text())
    expected = make_reflections(read_cif(cif_folder / "Si.cif"), 1.5406, 10, 90)
    for tag in (
        "_space_group_name_H-M_alt 'F d -3 m:2'",
        "_symmetry_space_group_name_H-M 'F d -3 m'",
        "_space_group_name_Hall '-F 4vw 2vw 3'",
        "_symmetry_Int_Tables_number 227",
    ):
        s = read_cif(_write(tmp_path, bare.replace("data_Si", f"data_Si\n{tag}")))
        assert len(s.atoms.frac) == 2
        assert s.space_group_symbol == "F d -3 m:2"
        assert "lists no symmetry operators" in s.notes[0]
        np.testing.assert_array_equal(make_reflections(s, 1.5406, 10, 90).multiplicity, expected.multiplicity)
    s = read_cif(_write(tmp_path, bare))
    assert s.space_group_number == 221
    assert s.symprec == 0.01
    assert "spglib found it" in s.notes[0]


@pytest.mark.parametrize("symbol", ["R -3 c", "R -3 c:H", "R-3c", "r -3 c"])
def test_rhombohedral_group_by_name_takes_the_axes_of_the_cell(
    tmp_path: pathlib.Path, cif_folder: pathlib.Path, symbol: str
) -> None:
    bare = _without_symmetry((cif_folder / "Al2O3.cif").read_text())
    s = read_cif(_write(tmp_path, bare.replace("data_Al2O3", f"data_Al2O3\n_symmetry_space_group_name_H-M '{symbol}'")))
    assert s.space_group_symbol == "R -3 c:H"
    assert len(s.atoms.frac) == 10


@pytest.mark.parametrize("symbol", ["P 1 21/c 1", "P 21/c", "P21/c", "P2_1/c", "P2(1)/c"])
def test_monoclinic_symbols(tmp_path: pathlib.Path, cif_folder: pathlib.Path, symbol: str) -> None:
    bare = _without_symmetry((cif_folder / "ZrO2_monoclinic.cif").read_text())
    s = read_cif(_write(tmp_path, bare.replace("data_ZrO2_monoclinic", f"data_x\n_symmetry_space_group_name_H-M '{symbol}'")))
    assert s.space_group_symbol == "P 1 21/c 1"
    assert len(s.atoms.frac) == 12


@pytest.mark.parametrize(("tag", "value"), [("space_group_name_H-M", "'P 21/nonsense'"), ("Int_Tables_number", "231")])
def test_unknown_space_group_without_operators_raises(
    tmp_path: pathlib.Path, cif_folder: pathlib.Path, tag: str, value: str
) -> None:
    bare = _without_symmetry((cif_folder / "ZrO2_monoclinic.cif").read_text())
    with pytest.raises(InputError, match="is unknown and no operators are listed"):
        read_cif(_write(tmp_path, bare.replace("data_ZrO2_monoclinic", f"data_x\n_symmetry_{tag} {value}")))


def test_numbered_operators(tmp_path: pathlib.Path) -> None:
    numbered = GOOD.replace("'x,y,z'", "'1 x,y,z'").replace("'-x,-y,-z'", "'2 -x,-y,-z'")
    assert read_cif(_write(tmp_path, numbered)).space_group_number == 2


def test_origin_one_is_found_from_the_atoms(tmp_path: pathlib.Path, cif_folder: pathlib.Path) -> None:
    bare = _without_symmetry((cif_folder / "Si.cif").read_text().replace("0.125 0.125 0.125", "0 0 0"))
    s = read_cif(_write(tmp_path, bare.replace("data_Si", "data_Si\n_symmetry_space_group_name_H-M 'F d -3 m'")))
    assert s.space_group_symbol == "F d -3 m:1"
    assert len(s.atoms.frac) == 2


def test_stated_number_that_contradicts_the_operators_is_noted(tmp_path: pathlib.Path) -> None:
    s = read_cif(_write(tmp_path, GOOD + "_symmetry_Int_Tables_number 221\n"))
    assert s.space_group_number == 2
    assert "states space group 221" in s.notes[0]


def test_dotted_tags_and_latin_1(tmp_path: pathlib.Path) -> None:
    text = GOOD.replace("_cell_", "_cell.").replace("_atom_site_", "_atom_site.") + "_chemical_name_common 'M\xfcller salt'\n"
    s = read_cif(_write(tmp_path, text.encode("latin-1")))
    assert s.volume == pytest.approx(64)
    assert s.species == ("Na",)


def test_symprec_finds_the_higher_symmetry(tmp_path: pathlib.Path) -> None:
    """Rock salt written in P1 with one atom 0.02 A off: triclinic or lower at 0.001 A, Fm-3m at 0.1 A."""
    p1 = "data_test\n" + CELL.replace("4.0", "5.64") + "loop_\n_space_group_symop_operation_xyz\nx,y,z\n" + LOOP
    rows, i = "", 0
    for a, shift in (("Na", 0.0), ("Cl", 0.5)):
        for x, y, z in ((0, 0, 0), (0.5, 0.5, 0), (0.5, 0, 0.5), (0, 0.5, 0.5)):
            i += 1
            off = 0.02 / 5.64 if i == 1 else 0.0
            rows += f"{a}{i} {a} {x + shift + off} {y} {z} 1\n"
    path = _write(tmp_path, p1 + rows)
    assert read_cif(path).space_group_number == 1
    assert read_cif(path, symprec=0.001).space_group_number < 195
    high = read_cif(path, symprec=0.1)
    assert (high.space_group_number, high.symprec, len(high.atoms.frac)) == (225, 0.1, 2)


def test_own_files(cif_folder: pathlib.Path) -> None:
    """Cell and content of each file as gemmi's own reader counts them."""
    for path in sorted(cif_folder.glob("*.cif")):
        s = read_cif(path)
        small = gemmi.read_small_structure(str(path))
        assert s.volume == pytest.approx(small.cell.volume, rel=1e-9)
        found = float(s.atoms.occupancy.sum()) * s.atoms.n_centring
        assert found == pytest.approx(sum(a.occ for a in small.get_all_unit_cell_sites()), rel=1e-6), path.name


def test_measured_cases_read(shared_data: pathlib.Path) -> None:
    files = sorted(shared_data.glob("**/*.cif"))
    assert len(files) > 40
    for path in files:
        s = read_cif(path)
        assert len(s.atoms.frac)
        assert len(make_reflections(s, 1.5406, 10, 60).hkl)
