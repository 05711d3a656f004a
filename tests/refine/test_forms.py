"""What symmetry leaves free of a quartic form and of harmonics, against tables and against the group itself."""

from __future__ import annotations

import dataclasses

import gemmi
import jax.numpy as jnp
import numpy as np
import pytest

from simxrd_jax.crystal import symmetry
from simxrd_jax.diffraction.anisotropic_strain import EXPONENTS
from simxrd_jax.diffraction.harmonics import cartesian_frame, harmonic_terms, real_harmonics
from simxrd_jax.errors import InputError
from simxrd_jax.io.cif import read_cif
from simxrd_jax.refine.forms import harmonics_basis, stephens_basis

CUBIC = (4.0, 4.0, 4.0, 90, 90, 90)
HEXAGONAL = (4.0, 4.0, 6.0, 90, 90, 120)
# Space group of each Laue class, a cell that it keeps, and how many coefficients Stephens (1999) leaves it.
CLASSES = {
    "P -1": ((4, 5, 6, 80, 95, 103), 15),
    "P 1 2/m 1": ((4, 5, 6, 90, 95, 90), 9),
    "P m m m": ((4, 5, 6, 90, 90, 90), 6),
    "P 4/m": ((4, 4, 6, 90, 90, 90), 5),
    "P 4/m m m": ((4, 4, 6, 90, 90, 90), 4),
    "P -3": (HEXAGONAL, 5),
    "P -3 m 1": (HEXAGONAL, 4),
    "P -3 1 m": (HEXAGONAL, 4),
    "P 6/m": (HEXAGONAL, 3),
    "P 6/m m m": (HEXAGONAL, 3),
    "P m -3": (CUBIC, 2),
    "P m -3 m": (CUBIC, 2),
    "R -3 m:R": ((5, 5, 5, 70, 70, 70), 4),
}


def _structure(cif_folder, group: str, cell):
    """A stand-in with a group's rotations and a cell that has its symmetry."""
    found = gemmi.find_spacegroup_by_name(group)
    rotations = np.array([np.array(op.rot) // op.DEN for op in found.operations().sym_ops])
    lattice = np.array(gemmi.UnitCell(*cell).orth.mat.tolist()).T
    base = read_cif(cif_folder / "Si.cif")
    return dataclasses.replace(base, rotations=rotations, lattice=lattice)


@pytest.mark.parametrize("group", CLASSES)
def test_counts_and_invariance(x64, cif_folder, group):
    cell, coefficients = CLASSES[group]
    structure = _structure(cif_folder, group, cell)
    laue = np.unique(symmetry.laue_rotations(structure.rotations), axis=0)
    form = stephens_basis(structure)
    assert len(form.names) == coefficients
    hkl = np.random.default_rng(0).integers(-5, 6, size=(20, 3))
    monomials = lambda h: np.prod(h[:, None, :] ** np.array(EXPONENTS)[None], axis=2)  # noqa: E731
    plain = monomials(hkl) @ form.matrix
    for rotation in laue:
        np.testing.assert_allclose(monomials(hkl @ rotation) @ form.matrix, plain, atol=1e-9)
    # A free coefficient is S_HKL itself.
    free = [["".join(map(str, e)) for e in EXPONENTS].index(name) for name in form.names]
    np.testing.assert_array_equal(form.matrix[free], np.eye(len(free)))

    basis = harmonics_basis(structure, 6)
    for l in (2, 4, 6):
        # The mean over the group of the character sin((l + 1/2) w)/sin(w/2) of rotations by w.
        turn = np.arccos(np.clip((np.array([np.linalg.det(r) * np.trace(r) for r in laue]) - 1) / 2, -1, 1))
        half = np.where(turn > 0, turn, 1.0) / 2
        characters = np.where(turn > 0, np.sin((2 * l + 1) * half) / np.sin(half), 2 * l + 1)
        assert sum(name.startswith(f"{l}_") for name in basis.names) == pytest.approx(np.mean(characters), abs=1e-9)
    np.testing.assert_allclose(basis.matrix.T @ basis.matrix, np.eye(len(basis.names)), atol=1e-12)
    vectors = hkl[np.any(hkl, axis=1)]
    reciprocal = np.linalg.inv(structure.lattice @ structure.lattice.T)
    (a_x, a_y, a_z), (b_y, b_z), c_z = cartesian_frame(jnp.asarray(reciprocal))
    frame = np.array([[a_x, a_y, a_z], [0.0, b_y, b_z], [0.0, 0.0, c_z]], dtype=float)
    np.testing.assert_allclose(frame @ frame.T, reciprocal, atol=1e-9)

    def values(h):
        n = h @ frame
        n = n / np.linalg.norm(n, axis=1, keepdims=True)
        return np.stack(real_harmonics(*n.T, 6), axis=1) @ basis.matrix

    for rotation in laue:
        np.testing.assert_allclose(values(vectors @ rotation), values(vectors), atol=1e-6)


def test_names(cif_folder):
    quartz = read_cif(cif_folder / "quartz.cif")
    assert stephens_basis(quartz).names == ("400", "004", "202", "031")
    assert harmonics_basis(quartz, 4).names == ("2_0", "4_0", "4_-3")
    silicon = read_cif(cif_folder / "Si.cif")
    assert stephens_basis(silicon).names == ("400", "220")
    # Von der Lage & Bethe (1947), Phys. Rev. 71, 612: sqrt(7/12) Y_40 + sqrt(5/12) Y_44.
    basis = harmonics_basis(silicon, 4)
    assert basis.names == ("4_0",)
    terms = harmonic_terms(4)
    expected = [np.sqrt(7 / 12) if t == (4, 0) else np.sqrt(5 / 12) if t == (4, 4) else 0.0 for t in terms]
    np.testing.assert_allclose(basis.matrix[:, 0], expected, atol=1e-12)


@pytest.mark.parametrize("order", [0, 3, 14])
def test_bad_orders(cif_folder, order):
    with pytest.raises(InputError, match="even number from 2 to 12"):
        harmonics_basis(read_cif(cif_folder / "quartz.cif"), order)


def test_cubic_crystals_have_no_harmonic_of_order_two(cif_folder):
    with pytest.raises(InputError, match="take order 4"):
        harmonics_basis(read_cif(cif_folder / "Si.cif"), 2)
