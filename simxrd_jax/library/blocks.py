"""Device zone. The forward model over ragged structures: reflections, and atoms, in blocks of fixed length.

Why: structures hold from a handful to thousands of reflections. Stacked, all would be padded to the longest; in buckets of
powers of two a third of the work is padding and each bucket is a program of its own. Here one program serves all: a loop
takes as many blocks as the structure needs, and the peak sums, being linear, take one block after the other. Under `vmap`
the loop lasts as long as the longest structure of the chunk, so the caller sorts a batch by size (`stream`).

The physics is that of `diffraction.simulate` and `crystal.structure_factor`, called on blocks. A loop of a traced length has
no reverse-mode derivative: gradients are for `simulate`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax import lax
from jaxtyping import Array as JaxArray
from jaxtyping import Float, Int, Integer, Key

from simxrd_jax.crystal import cell
from simxrd_jax.crystal.structure_factor import combine, geometric_factors, powder_f_squared
from simxrd_jax.diffraction.geometry import flat_specimen
from simxrd_jax.diffraction.noise import DRAW_DTYPE
from simxrd_jax.diffraction.peak_sum import METHODS
from simxrd_jax.diffraction.settings import Settings
from simxrd_jax.diffraction.simulate import cut_far_peaks, peaks_of_cell
from simxrd_jax.library.arrays import ATOM_BLOCK, REFLECTION_BLOCK, AtomArrays, LibraryArrays
from simxrd_jax.types import Array, Crystal, Grid, Instrument, Specimen

# Blocks of reflections mapped at once where |F|^2 of a whole library is computed.
F_SQUARED_CHUNK = 128


@struct.dataclass
class Variation:
    """Random displacements of the atoms of one phase, the same for all atoms of a site.

    Attributes:
      key: typed random key; each site folds its place into it.
      position_rms: standard deviation of a site's displacement along each direction that its symmetry allows. [A]
      site_biso: each site's B grows by a uniform number from 0 to this. [A^2]
    """

    key: Key[JaxArray, ""]
    position_rms: Float[Array, ""] | float
    site_biso: Float[Array, ""] | float


@struct.dataclass
class PhaseOfSample:
    """One phase of a sample.

    Attributes:
      structure: its index in the library.
      cell: deformed.
      rotations: of its Laue group; None where orbits are split.
      reflection_blocks, atom_blocks: how many blocks to take; the same for all samples that are mapped together.
    """

    structure: Int[Array, ""]
    cell: cell.DeformedCell
    rotations: Integer[Array, "24 3 3"] | None
    reflection_blocks: Int[Array, ""]
    atom_blocks: Int[Array, ""]


def block_counts(arrays: LibraryArrays, split_orbits: bool) -> tuple[Int[Array, " structure"], Int[Array, " structure"]]:
    """Blocks of reflections (members with split orbits) and of atoms that each structure takes."""
    count = arrays.members.count if split_orbits and arrays.members is not None else arrays.count
    atoms = jnp.zeros_like(count) if arrays.atoms is None else -(-arrays.atoms.count // ATOM_BLOCK)
    return -(-count // REFLECTION_BLOCK), atoms


def add_phase(
    total: Any,
    arrays: LibraryArrays,
    phase: PhaseOfSample,
    specimen: Specimen,
    instrument: Instrument,
    grid: Grid,
    settings: Settings,
    texture: Callable[[Int[Array, " hkl"]], Float[Array, " hkl"] | None],
    variation: Variation | None = None,
) -> Any:
    """Adds the peaks of one phase to a peak sum.

    Args:
      total: state of the peak sum `settings.peak_sum`.
      arrays: the library.
      phase: which structure, and its cell.
      specimen, instrument, grid, settings: as in `simulate`; `specimen.scale` carries the phase's share.
      texture: factor of reflections by their places in the structure's list, or None.
      variation: of the atoms; None leaves them.

    Returns:
      The state with the phase in it.
    """
    add = METHODS[settings.peak_sum].add
    offsets = jnp.arange(REFLECTION_BLOCK, dtype=jnp.int32)
    first = arrays.first[phase.structure]

    def body(block, total):
        begin = block * REFLECTION_BLOCK
        if settings.split_orbits:
            members = arrays.members
            assert members is not None
            row = members.first[phase.structure] + begin
            hkl = _rows(members.hkl, row)
            place = _rows(members.reflection, row).astype(jnp.int32)
            own = begin + offsets < members.count[phase.structure]
            # A member stands for itself and its Friedel mate.
            multiplicity = jnp.where(own, 2, 0)
            cached = None if arrays.f_squared is None else arrays.f_squared[first + jnp.where(own, place, 0)]
        else:
            hkl = _rows(arrays.hkl, first + begin)
            place = begin + offsets
            own = place < arrays.count[phase.structure]
            multiplicity = jnp.where(own, _rows(arrays.multiplicity, first + begin).astype(jnp.int32), 0)
            cached = None if arrays.f_squared is None else _rows(arrays.f_squared, first + begin)
        f_squared = cached
        if f_squared is None:
            s_squared = cell.inverse_d_squared(phase.cell.reciprocal, hkl) / 4.0
            f_squared = _f_squared(arrays, phase, hkl, s_squared, specimen, variation)
        one = specimen.replace(texture_factor=texture(place))  # pyright: ignore[reportAttributeAccessIssue]
        peaks = peaks_of_cell(phase.cell, hkl, multiplicity, f_squared, one, instrument, phase.rotations)
        if settings.cut_far_peaks:
            peaks = cut_far_peaks(peaks, specimen, instrument, grid)
        peaks = flat_specimen(peaks, instrument)
        return add(total, peaks, specimen, instrument, grid, settings)

    return lax.fori_loop(0, phase.reflection_blocks, body, total)


def _rows(values: Any, first: Int[Array, ""]) -> Any:
    return lax.dynamic_slice_in_dim(values, first, REFLECTION_BLOCK)


def _f_squared(
    arrays: LibraryArrays,
    phase: PhaseOfSample,
    hkl: Integer[Array, "hkl 3"],
    s_squared: Float[Array, " hkl"],
    specimen: Specimen,
    variation: Variation | None,
) -> Float[Array, " hkl"]:
    assert arrays.atoms is not None
    lattice, centring = arrays.lattice[phase.structure], arrays.centring[phase.structure]
    block = partial(_atom_block, arrays.atoms, phase.structure, lattice, centring, variation)
    return _sum_over_atoms(block, phase.atom_blocks, hkl, s_squared, phase.cell.reciprocal, specimen)


def _sum_over_atoms(
    block: Callable[[Any], Crystal],
    count: Int[Array, ""],
    hkl: Integer[Array, "hkl 3"],
    s_squared: Float[Array, " hkl"],
    reciprocal: Float[Array, "3 3"],
    specimen: Specimen,
) -> Float[Array, " hkl"]:
    """|F|^2 from atoms in blocks."""
    first = block(0)
    start = jnp.zeros((hkl.shape[0], first.mass.shape[0]), dtype=jnp.result_type(first.frac, 1j))
    add = lambda i, total: total + geometric_factors(block(i), hkl, s_squared, reciprocal)  # noqa: E731
    return powder_f_squared(*combine(first, lax.fori_loop(0, count, add, start), s_squared, specimen))


def _atom_block(
    atoms: AtomArrays,
    structure: Int[Array, ""],
    lattice: Float[Array, "3 3"],
    centring: Float[Array, ""],
    variation: Variation | None,
    block: Any,
) -> Crystal:
    """ATOM_BLOCK atoms of a structure as a crystal; those beyond its last have no occupancy."""
    begin = block * ATOM_BLOCK
    rows = lambda values: lax.dynamic_slice_in_dim(values, atoms.first[structure] + begin, ATOM_BLOCK)  # noqa: E731
    own = begin + jnp.arange(ATOM_BLOCK) < atoms.count[structure]
    species = atoms.species[structure]
    is_slot = rows(atoms.slot)[:, None] == jnp.arange(species.shape[0])
    frac, biso = rows(atoms.frac), rows(atoms.biso)
    if variation is not None:
        site = rows(atoms.site).astype(jnp.int32)
        if atoms.motion is not None:
            frac = frac + _displacements(variation, site, rows(atoms.motion), lattice)
        biso = biso + variation.site_biso * jax.vmap(lambda s: jax.random.uniform(_site_key(variation, s, 1), (), DRAW_DTYPE))(
            site
        )
    return Crystal(
        lattice=lattice,
        frac=frac,
        occupancy=jnp.where(own, rows(atoms.occupancy), 0.0)[:, None] * is_slot,
        biso=biso,
        u_aniso=None if atoms.u_aniso is None else rows(atoms.u_aniso),
        centring=centring,
        f0_a=atoms.f0_a[species],
        f0_b=atoms.f0_b[species],
        f0_c=atoms.f0_c[species],
        f_prime=atoms.f_prime[species],
        f_double_prime=atoms.f_double_prime[species],
        mass=atoms.mass[species],
    )


def _site_key(variation: Variation, site: Int[Array, ""], purpose: int) -> Key[JaxArray, ""]:
    return jax.random.fold_in(jax.random.fold_in(variation.key, site), purpose)


def _displacements(
    variation: Variation, site: Int[Array, " atom"], motion: Float[Array, "atom 3 3"], lattice: Float[Array, "3 3"]
) -> Float[Array, "atom 3"]:
    """Fractional displacements that keep the space group: the site's draw, projected on what its symmetry allows and turned
    to the atom."""
    draw = jax.vmap(lambda s: jax.random.normal(_site_key(variation, s, 0), (3,), DRAW_DTYPE))(site)
    cartesian = variation.position_rms * draw
    reciprocal = cell.reciprocal_metric(cell.metric(lattice))
    # x = G* A d for the rows A of the lattice: the inverse of d = A^T x.
    fractional = jnp.einsum("ij,jk,nk->ni", reciprocal, lattice, cartesian, precision="highest")
    return jnp.einsum("nij,nj->ni", motion, fractional, precision="highest")


@jax.jit
def _f_squared_of_chunks(atoms, lattice, centring, hkl, structure, first):
    def one(structure, first, atom_blocks):
        rows = lax.dynamic_slice_in_dim(hkl, first, REFLECTION_BLOCK)
        block = partial(_atom_block, atoms, structure, lattice[structure], centring[structure], None)
        reciprocal = cell.reciprocal_metric(cell.metric(lattice[structure]))
        s_squared = cell.inverse_d_squared(reciprocal, rows) / 4.0
        return _sum_over_atoms(block, atom_blocks, rows, s_squared, reciprocal, Specimen())

    def chunk(parts):
        structure, first = parts
        blocks = jnp.max(-(-atoms.count[structure] // ATOM_BLOCK))
        return jax.vmap(one, in_axes=(0, 0, None))(structure, first, blocks)

    return lax.map(chunk, (structure, first))


def f_squared_of_blocks(
    atoms: AtomArrays,
    lattice: Float[Array, "structure 3 3"],
    centring: Float[Array, " structure"],
    hkl: Integer[Array, "reflection 3"],
    structure: np.ndarray,
    first: np.ndarray,
) -> np.ndarray:
    """|F|^2 of blocks of reflections of unstrained cells.

    Args:
      atoms, lattice, centring, hkl: of the library.
      structure: which structure each block is of, best sorted by its number of atoms.
      first: row of the block's first reflection.

    Returns:
      [block, REFLECTION_BLOCK]; rows beyond a structure's last reflection are those of another. [electrons^2]
    """
    count = len(structure)
    extra = -count % F_SQUARED_CHUNK
    chunked = [
        jnp.asarray(np.concatenate([v, np.repeat(v[:1], extra)]).reshape(-1, F_SQUARED_CHUNK), dtype=jnp.int32)
        for v in (structure, first)
    ]
    values = _f_squared_of_chunks(atoms, lattice, centring, hkl, *chunked)
    return np.asarray(values).reshape(-1, REFLECTION_BLOCK)[:count]
