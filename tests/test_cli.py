"""The command: what it writes, what it refuses, and in what words."""

from __future__ import annotations

import csv
import io
import os
import pathlib
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from click.testing import CliRunner

import simxrd_jax as sx
from simxrd_jax.cli import cli
from simxrd_jax.commands.forward import FAST_COMPILATION, compiled
from simxrd_jax.commands.simulate import parse_source
from simxrd_jax.commands.specimen import Options, Source, specimen_patterns
from simxrd_jax.conditions import CONDITIONS

COARSE = ("--two-theta", "20", "70", "0.04")


def read(text: str) -> np.ndarray:
    return np.loadtxt(io.StringIO(text))


def read_peaks(path: str | pathlib.Path) -> list[dict[str, str]]:
    return list(csv.DictReader(pathlib.Path(path).read_text().splitlines()))


CELL = "_cell_length_a 4\n_cell_length_b 4\n_cell_length_c 4\n_space_group_name_H-M_alt 'P 1'\n"
LOOP = "loop_\n_atom_site_label\n_atom_site_type_symbol\n_atom_site_fract_x\n_atom_site_fract_y\n_atom_site_fract_z\n"
BAD_CIFS = {
    "empty": ("", "empty"),
    "binary": ("data_x\0\1\2", "binary"),
    "text": ("hello world", "not a valid CIF"),
    "no_cell": ("data_x\n" + LOOP + "Si1 Si 0 0 0\n", "no unit cell"),
    "no_atoms": ("data_x\n" + CELL, "no atoms"),
    "element": ("data_x\n" + CELL + LOOP + "A1 Qq 0 0 0\n", "unknown element"),
    "loop": ("data_x\n" + CELL + LOOP + "Si1 Si 0 0\n", "not a valid CIF"),
    "overlap": ("data_x\n" + CELL + LOOP + "Si1 Si 0 0 0\nC1 C 0.01 0 0\n", "overlapping"),
    "occupancy": ("data_x\n" + CELL + LOOP.rstrip() + "\n_atom_site_occupancy\nSi1 Si 0 0 0 1.5\n", "occupancy 1.5"),
}


@pytest.mark.parametrize("name", BAD_CIFS)
def test_bad_files_get_one_sentence(simxrd, name: str):
    content, reason = BAD_CIFS[name]
    path = pathlib.Path(f"{name}.cif")
    path.write_text(content)
    answer = simxrd("simulate", path, "-o", "out.xy", "--plot", "p.png")
    assert answer.code == 1
    assert answer.out == ""
    assert answer.err.count("\n") == 1
    assert answer.err.startswith("simxrd: ")
    assert path.name in answer.err
    assert reason in answer.err
    assert os.listdir() == [path.name]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("--two-theta", "80", "10", "0.02"), "2theta range 80 to 10"),
        (("--two-theta", "10", "10", "0.02"), "empty"),
        (("--two-theta", "10", "180", "0.02"), "outside 0 to 180"),
        (("--two-theta", "-5", "80", "0.02"), "outside 0 to 180"),
        (("--two-theta", "nan", "80", "0.02"), "not a finite number"),
        (("--two-theta", "10", "80", "0"), "must be positive"),
        (("--two-theta", "10", "80", "-0.02"), "must be positive"),
        (("--two-theta", "10", "80", "100"), "at most 70"),
        (("--two-theta", "10", "80", "1e-6"), "more than 1000000 points"),
        (("--two-theta", "10", "20", "0.02"), "no reflection falls within"),
        (("--wavelength", "CuKb"), "did you mean CuKa"),
        (("--wavelength", "0"), "not between"),
        (("--wavelength", "-1.54"), "not between"),
        (("--wavelength", "nan"), "not between"),
        (("--wavelength", "8000"), "not between"),
        (("--preset", "labratory"), "did you mean laboratory"),
        (("--set", "grain_size"), "is not NAME=VALUE"),
        (("--set", "grain_size="), "is not NAME=VALUE"),
        (("--set", "grain_size=-5"), "outside its range"),
        (("--set", "grain_size=abc"), "not a number"),
        (("--set", "grainsize=5"), "did you mean grain_size"),
        (("--set", "grain_size=5", "--set", "grain_size=6"), "given twice"),
        (("--set", "grain_size=5,6"), "takes one number"),
        (("--set", "texture_axis=1,1,1"), "does nothing without march_dollase"),
        (("--set", "axial_source=0.02"), "does nothing without axial_detector"),
        (("--set", "air_scatter=1", "--two-theta", "0", "80", "0.02"), "no value at 2theta = 0"),
        (("--symprec", "-1"), "positive distance"),
        (("--symprec", "nan"), "positive distance"),
        (("--count", "0"), "at least 1"),
        (("--count", "3"), "name a file with -o"),
        (("--seed", "-1"), "must be from 0"),
        (("-o", "no/out.xy"), "does not exist"),
        (("-o", "."), "names no file"),
        (("-o", ".."), "is a folder"),
        (("-o", ""), "names no file"),
        (("-o", "Si.cif"), "is also an input"),
        (("-o", "a.xy", "--peaks", "a.xy"), "two kinds of output"),
        (("--plot", "p.tiff"), "must end in .png"),
    ],
)
def test_bad_options_get_one_sentence(simxrd, cif_folder: pathlib.Path, arguments: tuple[str, ...], reason: str):
    pathlib.Path("Si.cif").write_bytes((cif_folder / "Si.cif").read_bytes())
    answer = simxrd("simulate", "Si.cif", *arguments)
    assert answer.code == 1
    assert answer.out == ""
    assert answer.err.count("\n") == 1
    assert answer.err.startswith("simxrd: ")
    assert reason in answer.err
    assert os.listdir() == ["Si.cif"]
    assert pathlib.Path("Si.cif").read_bytes() == (cif_folder / "Si.cif").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("simulate",), "Missing argument"),
        (("simulate", "a.cif", "--two-theta", "1", "2"), "requires 3 arguments"),
        (("simulate", "a.cif", "--peak-sum", "sparse"), "is not one of"),
        (("simulate", "a.cif", "--seed", "x"), "not a valid integer"),
        (("simulate", "a.cif", "--seed", "1", "--seed", "2"), "--seed is given 2 times"),
        (("simulate", "a.cif", "-o", "x", "--output", "y"), "--output is given 2 times"),
        (("simulate", "a.cif", "--nonsense"), "No such option"),
        (("nonsense",), "No such command"),
    ],
)
def test_wrong_usage_exits_with_2(simxrd, arguments: tuple[str, ...], reason: str):
    answer = simxrd(*arguments)
    assert answer.code == 2
    assert reason in answer.err


@pytest.mark.parametrize("fraction", ["0", "-0.3", "nan", "inf", "much"])
def test_bad_mass_fractions(simxrd, cif_folder: pathlib.Path, fraction: str):
    answer = simxrd("simulate", f"{cif_folder / 'Si.cif'}:{fraction}")
    assert answer.code == 1
    assert "mass fraction" in answer.err


def test_some_mass_fractions_are_not_enough(simxrd, cif_folder: pathlib.Path):
    answer = simxrd("simulate", f"{cif_folder / 'Si.cif'}:0.5", cif_folder / "LaB6.cif")
    assert answer.code == 1
    assert "for all or none" in answer.err


def test_colons_in_paths(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    pathlib.Path("a:0.3").write_text("")
    assert parse_source("a:0.3").mass_fraction is None
    assert parse_source("a:0.3:0.25").path == "a:0.3"
    assert parse_source("C:\\x.cif").path == "C:\\x.cif"
    assert parse_source("b.cif:2").mass_fraction == 2.0


def test_missing_file(simxrd):
    answer = simxrd("simulate", "gone.cif")
    assert answer.code == 1
    assert "gone.cif: no such file" in answer.err


def test_ideal_silicon(simxrd, cif_folder: pathlib.Path):
    """Positions against Bragg's law for the cell in the file; heights where the peaks are; a header that says it all."""
    answer = simxrd(
        "simulate", cif_folder / "Si.cif", *COARSE, "--wavelength", "CuKa1", "--peaks", "peaks.csv", "-o", "out.xy"
    )
    assert (answer.code, answer.out, answer.err) == (0, "", "")
    data = np.loadtxt("out.xy")
    np.testing.assert_allclose(data[:, 0], 20 + 0.04 * np.arange(1251), atol=1e-9)
    rows = read_peaks("peaks.csv")
    assert [tuple(int(r[i]) for i in "hkl") for r in rows] == [(1, 1, 1), (2, 2, 0), (3, 1, 1), (2, 2, 2), (4, 0, 0)]
    assert [int(r["multiplicity"]) for r in rows] == [8, 12, 24, 8, 6]
    a = float(next(line for line in pathlib.Path("out.xy").read_text().splitlines() if "cell:" in line).split()[2])
    for row in rows:
        d = a / np.sqrt(sum(int(row[i]) ** 2 for i in "hkl"))
        assert float(row["d_spacing"]) == pytest.approx(d, rel=1e-5)
        assert float(row["two_theta"]) == pytest.approx(2 * np.degrees(np.arcsin(1.540593 / 2 / d)), abs=1e-3)
    assert max(float(r["intensity"]) for r in rows) == 100
    assert abs(data[np.argmax(data[:, 1]), 0] - float(rows[0]["two_theta"])) < 0.02
    # The area under the strongest peak and its integrated intensity: both relative to the second.
    areas = [data[abs(data[:, 0] - float(r["two_theta"])) < 1, 1].sum() for r in rows[:2]]
    assert areas[1] / areas[0] == pytest.approx(float(rows[1]["intensity"]) / 100, rel=1e-4)
    header = pathlib.Path("out.xy").read_text()
    for words in (
        "Si.cif",
        "F d -3 m",
        "(No. 227)",
        "the file's operators",
        "1.540593 A (1)",
        "it92",
        "Chantler",
        "seed: 0",
        "fft",
    ):
        assert words in header
    for name in CONDITIONS:
        assert f"#   {name} = " in header


def test_standard_output_and_file_agree(simxrd, cif_folder: pathlib.Path):
    printed = simxrd("simulate", cif_folder / "LaB6.cif", *COARSE)
    simxrd("simulate", cif_folder / "LaB6.cif", *COARSE, "-o", "out.xy")
    assert printed.code == 0
    assert printed.out == pathlib.Path("out.xy").read_text()


def test_dense_and_fft_agree(simxrd, cif_folder: pathlib.Path):
    fft, dense = (
        read(simxrd("simulate", cif_folder / "LaB6.cif", "--two-theta", 20, 50, 0.02, "--peak-sum", p).out)[:, 1]
        for p in ("fft", "dense")
    )
    np.testing.assert_allclose(fft, dense, rtol=0, atol=1e-5 * dense.max())


def test_preset_is_simulate_preset_with_the_same_seed(cif_folder: pathlib.Path):
    """The command at training accuracy in float32 against the function that makes training batches."""
    preset = sx.get_preset("simxrd")
    path = cif_folder / "quartz.cif"
    phase = sx.load_phase_for(path, preset, dtype=np.float32)
    run = jax.jit(
        lambda key: sx.simulate_preset(phase.crystal, phase.reflections, preset, preset.grid(), preset.settings(), key=key),
        compiler_options=FAST_COMPILATION,
    )
    pattern, values = run(jax.random.key(11))
    made = next(specimen_patterns([path], Options(preset="simxrd", seed=11, accuracy="training", dtype="float32")))
    for name, value in made.conditions.items():
        np.testing.assert_allclose(value, values[name], rtol=1e-6, err_msg=name)
    np.testing.assert_allclose(made.intensity, pattern.intensity, rtol=0, atol=2e-5 * float(pattern.intensity.max()))


def test_seeds_count_up_and_settings_win(simxrd, cif_folder: pathlib.Path):
    common = ("--preset", "simxrd", "--set", "grain_size=12.5", *COARSE)
    assert simxrd("simulate", cif_folder / "LaB6.cif", *common, "--seed", 4, "--count", 2, "-o", "out.xy").code == 0
    assert sorted(os.listdir()) == ["out_0001.xy", "out_0002.xy"]
    alone = simxrd("simulate", cif_folder / "LaB6.cif", *common, "--seed", 5).out
    second = pathlib.Path("out_0002.xy").read_text()
    assert alone == second
    assert pathlib.Path("out_0001.xy").read_text() != second
    assert "# seed: 5" in second
    assert "grain_size = 12.5 A, set" in second
    assert "zero_shift" in second
    assert "deg, drawn" in second


def test_a_hand_set_texture_has_its_draws(simxrd, cif_folder: pathlib.Path):
    plain, textured = (
        read(simxrd("simulate", cif_folder / "LaB6.cif", *COARSE, *extra).out)[:, 1]
        for extra in ((), ("--set", "orientation_below=0.4", "--set", "orientation_above=0.4"))
    )
    ratio = textured[plain > 0.1 * plain.max()] / plain[plain > 0.1 * plain.max()]
    assert ratio.min() > 0.599
    assert ratio.max() < 1.401
    assert np.ptp(ratio) > 0.01


@pytest.mark.parametrize(
    ("strain", "splits"), [(("strain_xx=0.01",), True), (tuple(f"strain_{x}{x}=0.01" for x in "xyz"), False)]
)
def test_a_strain_that_breaks_the_class_splits_orbits(simxrd, cif_folder: pathlib.Path, strain: tuple[str, ...], splits: bool):
    arguments = [v for s in strain for v in ("--set", s)]
    answer = simxrd("simulate", cif_folder / "LaB6.cif", *COARSE, *arguments, "--peaks", "p.csv")
    assert ("orbits: split into their members, the strain breaks the symmetry of" in answer.out) == splits
    first = [r for r in read_peaks("p.csv") if sum(abs(int(r[i])) for i in "hkl") == 1]
    assert len(first) == (3 if splits else 1)
    wide = max(float(r["d_spacing"]) for r in first)
    assert wide == pytest.approx(4.156826 * 1.01, rel=1e-6)


def test_mixture_weights(simxrd, cif_folder: pathlib.Path):
    """Equal shares are the default, and a mixture of a phase with itself is that phase."""
    si, other = cif_folder / "Si.cif", cif_folder / "LaB6.cif"
    equal = simxrd("simulate", si, other, *COARSE).out
    given = simxrd("simulate", f"{si}:3", f"{other}:3", *COARSE, "--peaks", "p.csv", "--plot", "mix.png").out
    np.testing.assert_array_equal(read(equal), read(given))
    assert "mass fraction: 0.5" in given
    assert {r["phase"] for r in read_peaks("p.csv")} >= {"lanthanum hexaboride"}
    assert pathlib.Path("mix.png").read_bytes()[:4] == b"\x89PNG"
    once, twice = (read(simxrd("simulate", *names, *COARSE).out)[:, 1] for names in ((si,), (si, si)))
    shape = twice / twice.max()
    np.testing.assert_allclose(shape, once / once.max(), rtol=0, atol=1e-8)  # nine digits are written


def test_narrow_peaks_are_noted(simxrd, cif_folder: pathlib.Path):
    answer = simxrd("simulate", cif_folder / "LaB6.cif", "--two-theta", 20, 70, 0.05)
    assert answer.code == 0
    assert answer.err.count("\n") == 1
    assert "take a step below 0.04 deg or --peak-sum dense" in answer.err
    assert "# note: the narrowest peak" in answer.out


def test_noise_alone_is_random(simxrd, cif_folder: pathlib.Path):
    answer = simxrd("simulate", cif_folder / "LaB6.cif", *COARSE, "--count", 2, "-o", "o.xy")
    assert "nothing is random" in answer.err
    answer = simxrd("simulate", cif_folder / "LaB6.cif", *COARSE, "--count", 2, "-o", "o.xy", "--set", "peak_counts=1000")
    assert answer.err == ""
    first, second = (np.loadtxt(f"o_000{i}.xy")[:, 1] for i in (1, 2))
    assert not np.array_equal(first, second)


def test_folder(simxrd, cif_folder: pathlib.Path):
    """Good files are simulated, bad ones skipped with a reason each, and structures share compiled programs."""
    folder = pathlib.Path("cifs")
    folder.mkdir()
    names = ("Si", "LaB6", "quartz", "TiO2_rutile", "Al2O3", "AlN")
    for name in names:
        (folder / f"{name}.cif").write_bytes((cif_folder / f"{name}.cif").read_bytes())
    (folder / "broken.cif").write_text("")
    (folder / "notes.txt").write_text("not a CIF")
    before = compiled("fft", "float64")._cache_size()  # type: ignore[attr-defined]
    answer = simxrd("simulate", folder, *COARSE, "-o", "out", "--peaks", "out", "--plot", "pictures", "--seed", 3)
    assert compiled("fft", "float64")._cache_size() - before <= 2  # type: ignore[attr-defined]
    assert answer.code == 1
    assert sorted(os.listdir("out")) == sorted(f"{n}.{e}" for n in names for e in ("csv", "xy"))
    assert sorted(os.listdir("pictures")) == sorted(f"{n}.png" for n in names)
    assert answer.err.count("skipped cifs/broken.cif: the file is empty") == 1
    assert "6 patterns of 6 files written to out; 1 files skipped" in answer.err
    alone = simxrd("simulate", folder / "Al2O3.cif", *COARSE, "--seed", 3).out
    assert alone == pathlib.Path("out/Al2O3.xy").read_text()


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("cifs",), "name it with -o"),
        (("cifs", "cifs"), "give it alone"),
        (("cifs", "-o", "out"), "holds no .cif file"),
        (("cifs", "-o", "no/out"), "cannot be made"),
        (("cifs", "-o", "out", "--preset", "x"), "there is no preset"),
    ],
)
def test_bad_folders(simxrd, arguments: tuple[str, ...], reason: str):
    pathlib.Path("cifs").mkdir()
    if "no/out" in arguments:
        pathlib.Path("cifs/a.cif").write_text("")
    answer = simxrd("simulate", *arguments)
    assert answer.code == 1
    assert reason in answer.err
    assert os.listdir() == ["cifs"]


def test_help_and_lists():
    runner = CliRunner()
    assert "simxrd simulate quartz.cif" in runner.invoke(cli, ["--help"]).output
    text = runner.invoke(cli, ["simulate", "--help"]).output
    for option in ("--two-theta", "--wavelength", "--preset", "--set", "--peak-sum", "--symprec", "--form-factors", "--seed"):
        assert option in text
    listed = runner.invoke(cli, ["conditions"]).output
    assert all(f"\n{name} " in listed for name in CONDITIONS)
    presets = runner.invoke(cli, ["presets"]).output
    assert all(f"{name}: " in presets for name in sx.PRESETS)
    assert sx.__version__ in runner.invoke(cli, ["--version"]).output


def test_interruption(simxrd, cif_folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch):
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("simxrd_jax.commands.simulate.write_together", interrupt)
    answer = simxrd("simulate", cif_folder / "LaB6.cif", *COARSE, "-o", "out.xy")
    assert answer.code == 130
    assert "Traceback" not in answer.err
    assert os.listdir() == []


def test_process(cif_folder: pathlib.Path, tmp_path: pathlib.Path):
    """A process of its own: the first pattern comes soon, help sooner, and a closed pipe is no error."""
    program = [sys.executable, "-m", "simxrd_jax"]
    begin = time.perf_counter()
    done = subprocess.run(
        [*program, "simulate", cif_folder / "Al2O3.cif", "-o", "a.xy"], cwd=tmp_path, check=True, capture_output=True
    )
    seconds = time.perf_counter() - begin
    assert done.stdout == done.stderr == b""
    assert np.loadtxt(tmp_path / "a.xy").shape == (3501, 2)
    assert seconds < 10 * max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))
    command = f"'{sys.executable}' -m simxrd_jax simulate '{cif_folder / 'Al2O3.cif'}' | head -1; exit ${{PIPESTATUS[0]}}"
    piped = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, check=False)
    assert piped.returncode == 0
    assert piped.stderr == b""
    assert piped.stdout.startswith(b"# simxrd_jax")


def test_doubts_about_a_structure_reach_the_terminal(tmp_path):
    """A displacement parameter that is physically impossible is simulated, but not in silence."""
    cif = tmp_path / "doubtful.cif"
    cif.write_text(
        "data_x\n_cell_length_a 4\n_cell_length_b 4\n_cell_length_c 4\n_cell_angle_alpha 90\n_cell_angle_beta 90\n"
        "_cell_angle_gamma 90\nloop_\n_space_group_symop_operation_xyz\nx,y,z\nloop_\n_atom_site_label\n"
        "_atom_site_type_symbol\n_atom_site_fract_x\n_atom_site_fract_y\n_atom_site_fract_z\n_atom_site_U_iso_or_equiv\n"
        "Fe1 Fe 0 0 0 99\nO1 O 0.5 0.5 0.5 -0.04\n"
    )
    sentences = [w for made in specimen_patterns([Source(str(cif))], Options()) for w in made.warnings]
    assert any("is it given as U?" in s and "Fe1" in s for s in sentences)
    assert any("is negative for O1" in s for s in sentences)
