"""Builds: the same bytes however they are made, nothing lost when they are killed, bad structures and bad input."""

from __future__ import annotations

import hashlib
import os
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np
import pytest
from ase import Atoms

from simxrd_jax.crystal.form_factors import form_factors
from simxrd_jax.crystal.structure import with_found_symmetry
from simxrd_jax.errors import InputError
from simxrd_jax.io.cif import read_cif
from simxrd_jax.io.structures import DEFAULT_SYMPREC, read_npz
from simxrd_jax.library import build
from simxrd_jax.library.build import F_SQUARED_BITS, Progress, build_library, library_of
from simxrd_jax.library.store import Library, read_library

SIZE, SHARD = 60, 7


@pytest.fixture(scope="module")
def source(datasets: pathlib.Path) -> pathlib.Path:
    return datasets / "mp_sample.npz"


@pytest.fixture(scope="module")
def plain(source: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A library built in one process and one go."""
    path = tmp_path_factory.mktemp("plain") / "lib.simxrd"
    build_library([source], output=path, limit=SIZE)
    return path


def test_content(plain: pathlib.Path, source: pathlib.Path):
    library, structures = read_library(plain), read_npz(source)
    assert len(library) == SIZE
    assert library.ids.tolist() == structures.ids[:SIZE].tolist()
    np.testing.assert_array_equal(library.space_group, structures.labels(0.01)[:SIZE])
    np.testing.assert_array_equal(library.space_group_loose, library.space_group)
    assert library.hkl.dtype == np.int8
    assert library.meta.presets == ("laboratory", "simxrd")
    assert library.meta.sources == ("mp_sample.npz",)
    assert library.meta.name == "lib"
    assert library.meta.skipped == ()
    assert str(plain.parent) not in plain.read_bytes().decode("latin-1")
    assert os.listdir(plain.parent) == ["lib.simxrd"]
    for i in (0, 17, 59):
        mine, theirs = library.structure(i), structures[i]
        np.testing.assert_allclose(mine.atoms.frac, theirs.atoms.frac, rtol=0, atol=1e-8)
        assert library.formulas[i] == theirs.formula.replace(" ", "")


def test_f_squared(plain: pathlib.Path):
    """|F|^2 against a complex sum over all atoms of the cell, mean of Friedel mates, to the bits that are kept."""
    library = read_library(plain)
    bits = library.f_squared.view(np.uint32)
    assert not np.any(bits & ((1 << (23 - F_SQUARED_BITS)) - 1))
    for i in (0, 5, 31, 59):
        structure = library.structure(i)
        atoms = structure.atoms
        tables = form_factors(atoms.species, library.meta.wavelengths[0])
        rows = slice(*library.first_reflection[i : i + 2])
        hkl = library.hkl[rows].astype(np.float64)
        s_squared = np.einsum("ni,ij,nj->n", hkl, np.linalg.inv(structure.lattice @ structure.lattice.T), hkl) / 4
        f0 = (tables.a * np.exp(-tables.b * s_squared[:, None, None])).sum(-1) + tables.c
        f = (f0 + tables.f_prime + 1j * tables.f_double_prime) @ atoms.occupancy.T
        x = (atoms.frac[None, :, :] + atoms.centring[:, None, :]).reshape(-1, 3)
        phases = np.exp(2j * np.pi * hkl @ x.T).reshape(len(hkl), len(atoms.centring), -1).sum(axis=1)
        expected = 0.5 * (np.abs((f * phases).sum(axis=1)) ** 2 + np.abs((f * phases.conj()).sum(axis=1)) ** 2)
        error = np.abs(library.f_squared[rows] - expected)
        assert np.all(error <= 2.0 ** -(F_SQUARED_BITS + 1) * 1.01 * expected + 1e-11 * expected.max())


@pytest.mark.parametrize("workers", [1, 2])
def test_same_bytes_from_shards_and_processes(source: pathlib.Path, plain: pathlib.Path, tmp_path: pathlib.Path, workers: int):
    path = tmp_path / "lib.simxrd"
    counts: list[tuple[int, int]] = []
    progress = Progress(advance=lambda done, total: counts.append((done, total)))
    build_library([source], output=path, limit=SIZE, shard_size=SHARD, workers=workers, progress=progress)
    assert path.read_bytes() == plain.read_bytes()
    assert os.listdir(tmp_path) == ["lib.simxrd"]
    assert {total for _, total in counts} == {SIZE}
    assert sorted(counts) == counts
    assert counts[-1][0] > 0


def test_in_memory_equals_the_file(source: pathlib.Path, plain: pathlib.Path):
    made, read = build_library([source], limit=SIZE, name="lib"), read_library(plain)
    assert made.meta == read.meta
    for name in ("lattice", "site_frac", "hkl", "f_squared", "prototypes"):
        np.testing.assert_array_equal(getattr(made, name), getattr(read, name))


SCRIPT = """
import sys
from simxrd_jax.library.build import build_library
build_library([sys.argv[1]], output=sys.argv[2], limit=int(sys.argv[3]), shard_size=int(sys.argv[4]), workers=int(sys.argv[5]))
"""


def interrupt(
    source: pathlib.Path, path: pathlib.Path, workers: int, how: signal.Signals, limit: int = SIZE
) -> subprocess.CompletedProcess[str]:
    """Starts a build and signals it once two shards are there."""
    arguments = [sys.executable, "-c", SCRIPT, str(source), str(path), str(limit), "2", str(workers)]
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)
    part = path.with_name(path.name + ".part")
    deadline = time.monotonic() + 60
    while len(list(part.glob("*.npz"))) < 2:
        assert process.poll() is None, process.stderr and process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.001)
    process.send_signal(how)
    out, err = process.communicate(timeout=60)
    return subprocess.CompletedProcess(arguments, process.returncode, out, err)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_killed_build_resumes(source: pathlib.Path, plain: pathlib.Path, tmp_path: pathlib.Path, workers: int):
    path = tmp_path / "lib.simxrd"
    killed = interrupt(source, path, workers, signal.SIGKILL)
    assert killed.returncode == -signal.SIGKILL
    assert not path.exists()
    part = tmp_path / "lib.simxrd.part"
    time.sleep(1.0)
    kept = sorted(file.name for file in part.glob("*.npz"))
    assert 2 <= len(kept) < SIZE // 2
    time.sleep(0.5)
    assert sorted(file.name for file in part.glob("*.npz")) == kept, "a process outlived its parent"
    said: list[str] = []
    first: list[int] = []
    progress = Progress(said.append, lambda done, total: first.append(done))
    build_library([source], output=path, limit=SIZE, shard_size=2, progress=progress)
    assert said == [f"{path}: resumes an interrupted build, {2 * len(kept)} of {SIZE} structures are done"]
    assert first[0] == 2 * len(kept) + 1
    assert path.read_bytes() == plain.read_bytes()
    assert os.listdir(tmp_path) == ["lib.simxrd"]


def test_damaged_shards_are_made_again(source: pathlib.Path, plain: pathlib.Path, tmp_path: pathlib.Path):
    path = tmp_path / "lib.simxrd"
    interrupt(source, path, 1, signal.SIGKILL)
    shards = sorted((tmp_path / "lib.simxrd.part").glob("*.npz"))
    shards[0].write_bytes(shards[0].read_bytes()[:-100])
    shards[1].write_bytes(b"")
    (tmp_path / "lib.simxrd.part" / ".simxrd-abc.part").write_bytes(b"half")
    build_library([source], output=path, limit=SIZE, shard_size=2)
    assert path.read_bytes() == plain.read_bytes()
    assert os.listdir(tmp_path) == ["lib.simxrd"]


@pytest.mark.parametrize("change", [{"symprec": 0.1}, {"presets": ("simxrd",)}, {"dispersion": False}, {"limit": SIZE - 1}])
def test_another_build_starts_afresh(source: pathlib.Path, tmp_path: pathlib.Path, change: dict):
    path = tmp_path / "lib.simxrd"
    interrupt(source, path, 1, signal.SIGKILL)
    (tmp_path / "lib.simxrd.part" / "mine.txt").write_text("somebody else's")
    said: list[str] = []
    library = build_library([source], output=path, shard_size=2, progress=Progress(said.append), **({"limit": SIZE} | change))
    assert said == [f"{path}: the sources or options differ from those of the interrupted build: it starts afresh"]
    assert os.listdir(tmp_path / "lib.simxrd.part") == ["mine.txt"]
    fresh = build_library([source], **({"limit": SIZE} | change), name="lib")
    assert library.meta == fresh.meta
    np.testing.assert_array_equal(library.hkl, fresh.hkl)


def test_a_changed_source_starts_afresh(cif_folder: pathlib.Path, tmp_path: pathlib.Path):
    folder = tmp_path / "cifs"
    folder.mkdir()
    (folder / "a.cif").write_bytes((cif_folder / "Si.cif").read_bytes())
    one = build_library([folder]).meta.fingerprint
    assert build_library([folder]).meta.fingerprint == one
    (folder / "a.cif").write_bytes((cif_folder / "LaB6.cif").read_bytes())
    assert build_library([folder]).meta.fingerprint != one


def test_an_existing_library_survives(source: pathlib.Path, tmp_path: pathlib.Path):
    path = tmp_path / "lib.simxrd"
    path.write_bytes(b"precious")
    with pytest.raises(InputError, match="add --overwrite"):
        build_library([source], output=path, limit=3)
    assert path.read_bytes() == b"precious"
    assert os.listdir(tmp_path) == ["lib.simxrd"]
    broken = tmp_path / "broken.cif"
    broken.write_text("")
    with pytest.raises(InputError, match="nothing is written"):
        build_library([broken], output=path, overwrite=True)
    assert path.read_bytes() == b"precious"
    build_library([source], output=path, limit=3, overwrite=True)
    assert len(read_library(path)) == 3


def test_bad_structures_are_skipped_with_reasons(cif_folder: pathlib.Path, tmp_path: pathlib.Path):
    folder = tmp_path / "cifs"
    (folder / "more").mkdir(parents=True)
    for name in ("Si", "LaB6", "quartz"):
        (folder / f"{name}.cif").write_bytes((cif_folder / f"{name}.cif").read_bytes())
    (folder / "more" / "Si.cif").write_bytes((cif_folder / "KCl.cif").read_bytes())
    (folder / "broken.cif").write_text("data_x\n_cell_length_a 4\n")
    (folder / "empty.cif").write_text("")
    library = build_library([folder], output=tmp_path / "lib.simxrd")
    # In order of their paths; a name that occurs twice stands with its folder.
    assert library.ids.tolist() == ["LaB6", "Si", "more/Si", "quartz"]
    assert library.space_group.tolist() == [221, 227, 225, 154]
    skipped = dict(library.meta.skipped)
    assert set(skipped) == {"broken", "empty"}
    assert skipped["empty"].startswith("the file is empty")
    assert not any(str(tmp_path) in reason for reason in skipped.values())
    assert read_library(tmp_path / "lib.simxrd").meta == library.meta


def test_file_names_that_are_no_text(cif_folder: pathlib.Path, tmp_path: pathlib.Path):
    folder = tmp_path / "cifs"
    folder.mkdir()
    (pathlib.Path(os.fsdecode(os.fsencode(folder) + b"/a\xff.cif"))).write_bytes((cif_folder / "Si.cif").read_bytes())
    build_library([folder], output=tmp_path / "lib.simxrd")
    assert read_library(tmp_path / "lib.simxrd").ids.tolist() == ["a\\udcff"]


def test_duplicates_keep_the_first(source: pathlib.Path, cif_folder: pathlib.Path, tmp_path: pathlib.Path):
    """Rows of the flat arrays follow when structures in the middle are left out."""
    path = tmp_path / "mp_sample.npz"
    data = dict(np.load(source))
    data["id"] = data["id"].copy()
    data["id"][[4, 9]] = data["id"][2]
    np.savez(path, **data)
    library = build_library([path, cif_folder / "Si.cif"], limit=520, shard_size=100)
    assert len(library) == 511
    assert library.origin.tolist() == [0] * 510 + [1]
    assert len(library.meta.skipped) == 2
    whole = build_library([source], limit=20)
    for name in whole.ids[[2, 3, 5, 10, 19]]:
        a, b = library.structure(library.index_of(name)), whole.structure(whole.index_of(name))
        np.testing.assert_array_equal(a.atoms.frac, b.atoms.frac)
        i, j = library.index_of(name), whole.index_of(name)
        rows = [slice(*lib.first_reflection[k : k + 2]) for lib, k in ((library, i), (whole, j))]
        np.testing.assert_array_equal(library.hkl[rows[0]], whole.hkl[rows[1]])
        np.testing.assert_array_equal(library.f_squared[rows[0]], whole.f_squared[rows[1]])


def test_unforeseen_errors_skip_one_structure(source: pathlib.Path, monkeypatch: pytest.MonkeyPatch):
    real = build.records.make_record

    def fail(identifier: str, *rest: object) -> object:
        if identifier == "mp-697451":
            raise ZeroDivisionError("by\nchance")
        return real(identifier, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(build.records, "make_record", fail)
    library = build_library([source], limit=4)
    assert library.meta.skipped == (("mp-697451", "unexpected ZeroDivisionError (by chance); please report it"),)


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        (lambda tmp, cif: build_library([]), "at least one source"),
        (lambda tmp, cif: build_library([tmp]), "holds no .cif file"),
        (lambda tmp, cif: build_library([cif], limit=0), "the limit is 0"),
        (lambda tmp, cif: build_library([cif], workers=0), "the number of workers is 0"),
        (lambda tmp, cif: build_library([cif], form_factors="x"), "table 'x' is unknown"),
        (lambda tmp, cif: build_library([cif] * 257), "more than the limit of 256"),
        (lambda tmp, cif: build_library([cif], output=tmp / "no" / "a.simxrd"), "does not exist"),
        (lambda tmp, cif: build_library([cif], output=tmp), "is a folder"),
        (lambda tmp, cif: build_library([cif], output=cif, overwrite=True), "is also an input"),
        (lambda tmp, cif: build_library([cif], output=""), "name of an output file is empty"),
        (lambda tmp, cif: build_library([cif], output=f"{tmp}/lib/"), "names a folder"),
        (lambda tmp, cif: build_library([cif], output=os.devnull, overwrite=True), "is no place for a library"),
    ],
)
def test_bad_input(
    tmp_path: pathlib.Path, cif_folder: pathlib.Path, call: Callable[[pathlib.Path, pathlib.Path], Library], reason: str
):
    with pytest.raises(InputError, match=reason):
        call(tmp_path, cif_folder / "Si.cif")
    assert os.listdir(tmp_path) == []


def test_every_structure_bad(tmp_path: pathlib.Path):
    for i in range(3):
        (tmp_path / f"{i}.cif").write_text("")
    with pytest.raises(InputError, match=r"none of the 3 structures can be used \(0: the file is empty.*nothing is written"):
        build_library([tmp_path], output=tmp_path / "lib.simxrd")
    assert sorted(os.listdir(tmp_path)) == ["0.cif", "1.cif", "2.cif"]


def test_library_of(cif_folder: pathlib.Path):
    from pymatgen.core import Lattice, Structure

    salt = Structure(Lattice.cubic(4.12), ["Cs", "Cl"], [[0, 0, 0], [0.5] * 3])
    polonium = Atoms("Po", cell=[3.4] * 3, pbc=True)
    silicon = read_cif(cif_folder / "Si.cif")
    library = library_of([salt, polonium, silicon], presets=("simxrd",))
    assert library.ids.tolist() == ["structure-1", "structure-2", "structure-3"]
    assert library.formulas.tolist() == ["ClCs", "Po", "Si"]
    assert library.space_group.tolist() == [221, 221, 227]
    assert library.species_names.tolist() == ["Si", "Cl", "Cs", "Po"]
    assert library.meta.wavelengths == (1.54184,)
    np.testing.assert_allclose(library.structure(2).lattice, with_found_symmetry(silicon, DEFAULT_SYMPREC).lattice)
    with pytest.raises(InputError, match="one id of its own"):
        library_of([salt, polonium], ["a", "a"])
    with pytest.raises(InputError, match="one id of its own"):
        library_of([salt, polonium], ["a"])
    with pytest.raises(InputError, match="b: a int is no structure"):
        library_of([salt, 3], ["a", "b"])
    with pytest.raises(InputError, match="there is no structure"):
        library_of([])


def test_wide_indices_and_dispersion(tmp_path: pathlib.Path):
    """An axis of 200 A beside a small cell: int16, the same file format; without dispersion f' and f'' are 0."""
    long = Atoms("AlO", scaled_positions=[[0.1, 0.2, 0.3], [0.6, 0.7, 0.35]], cell=[5, 5, 200], pbc=True)
    library = library_of([long, Atoms("Po", cell=[3.4] * 3, pbc=True)], dispersion=False)
    assert library.hkl.dtype == np.int16
    assert not library.f_prime.any()
    assert not library.f_double_prime.any()
    assert library.f0_c.any()


def test_the_shipped_library(datasets: pathlib.Path, shared_data: pathlib.Path):
    """It is what its script makes of the present presets: structures are those of the full set, and it serves both."""
    library = read_library(datasets / "mp_library.simxrd")
    assert len(library) == 2048
    names, _, reach = build.reach_of_presets(("laboratory", "simxrd"))
    assert library.meta.presets == names
    assert (library.meta.inverse_d_min, library.meta.inverse_d_max) == (reach.inverse_d_min, reach.inverse_d_max)
    full = read_npz(shared_data / "structures" / "mp_like_28k.npz")
    place = {identifier: i for i, identifier in enumerate(full.ids.tolist())}
    for i in (0, 1000, 2047):
        structure = full[place[str(library.ids[i])]]
        np.testing.assert_allclose(library.structure(i).atoms.frac, structure.atoms.frac, rtol=0, atol=1e-8)
    assert (datasets / "mp_library.simxrd").stat().st_size < 3e6


@pytest.mark.slow
def test_the_full_set(shared_data: pathlib.Path, tmp_path: pathlib.Path):
    """28,661 structures: in 25 minutes on 2 cores at most, 30 MiB at most, opened and decoded in 2 s."""
    path = tmp_path / "full.simxrd"
    begin = time.perf_counter()
    build_library([shared_data / "structures" / "mp_like_28k.npz"], output=path, workers=2)
    assert time.perf_counter() - begin < 25 * 60
    assert path.stat().st_size < 30 * 2**20
    begin = time.perf_counter()
    library = read_library(path)
    opened = time.perf_counter() - begin
    assert library.ids.size == 28661
    digest = hashlib.sha256()
    for name in ("hkl", "f_squared", "multiplicity", "site_frac", "lattice", "prototypes"):
        digest.update(getattr(library, name).tobytes())
    assert opened < 2.0
    assert time.perf_counter() - begin < 3.0
    assert library.meta.skipped == ()
    stored = read_npz(shared_data / "structures" / "mp_like_28k.npz").labels(0.01)
    assert np.mean(library.space_group == stored) >= 0.999
