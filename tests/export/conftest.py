"""A library of five structures, and programs that are compiled once for all tests of sets of patterns."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator

import pytest
from program_cache import shared_programs

from simxrd_jax.io.cif import read_cif
from simxrd_jax.library.build import library_of
from simxrd_jax.library.store import Library, write_library

NAMES = ("Si", "Al2O3", "quartz", "triclinic", "TiO2_rutile")


@pytest.fixture(scope="package", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[pathlib.Path]:
    """Programs are compiled once, for the other tests and the processes they start too."""
    with shared_programs(tmp_path_factory.mktemp("cache")) as folder:
        yield folder


@pytest.fixture(scope="package")
def library(cif_folder: pathlib.Path) -> Library:
    return library_of([read_cif(cif_folder / f"{name}.cif") for name in NAMES], ids=NAMES, presets=("simxrd", "ideal"))


@pytest.fixture(scope="package")
def library_path(library: Library, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("library") / "small.simxrd"
    write_library(library, path)
    return str(path)


@pytest.fixture(scope="package")
def laboratory_path(cif_folder: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The same structures for the preset with all effects."""
    made = library_of([read_cif(cif_folder / f"{name}.cif") for name in NAMES], ids=NAMES, presets=("laboratory",))
    path = tmp_path_factory.mktemp("library") / "laboratory.simxrd"
    write_library(made, path)
    return str(path)
