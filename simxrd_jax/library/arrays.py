"""Host zone. A library's arrays on the device: flat, one structure after the other, without padding.

Structures differ in size by two orders of magnitude, so nothing is stacked: a structure is a first row and a count, and the
device code (`blocks`) reads fixed blocks of rows from there. Rows of padding stand only at the end of each array, so that
a block that begins in the last structure never ends outside.

What symmetry regenerates is made here: coordinates of atoms, members of orbits.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Float, Int, Integer

from simxrd_jax.crystal import symmetry
from simxrd_jax.crystal.structure import CRYSTAL_SYSTEMS
from simxrd_jax.errors import InputError
from simxrd_jax.library.store import FIXED_POINT, LATTICE_POINT_U, Library
from simxrd_jax.presets import Preset
from simxrd_jax.types import Array

# Rows that one step of a loop takes; `python -m experiments.stream_speed` measures another choice.
REFLECTION_BLOCK = 32
ATOM_BLOCK = 16
# Wavelengths closer than this share |F|^2. [A]
SAME_WAVELENGTH = 1e-7
# Images of a site closer than this are one atom: coordinates are stored to 2e-10 of a cell. [A]
SAME_PLACE = 1e-3
LAST_OF_SYSTEM = tuple(last for last, _ in CRYSTAL_SYSTEMS)


@struct.dataclass
class Members:
    """Orbit members, for strains that break the class: each is a reflection of its own.

    Attributes:
      first, count: rows of each structure.
      hkl: one of each Friedel pair.
      reflection: place of the orbit in the structure's list.
    """

    first: Int[Array, " structure"]
    count: Int[Array, " structure"]
    hkl: Integer[Array, "member 3"]
    reflection: Integer[Array, " member"]


@struct.dataclass
class AtomArrays:
    """Atoms of one lattice point of each structure, for |F|^2 computed on the fly.

    Attributes:
      first, count: rows of each structure.
      frac: fractional coordinates.
      slot: index of the atom's species among those of its structure.
      site: place of its position in the structure's list; all atoms, and all species, of one position move together.
      occupancy: [atom]
      biso: [A^2]
      u_aniso: tensors in the CIF's convention, or None if no structure has any. [A^2]
      motion: [atom, 3, 3] fractional displacement of an atom per fractional displacement of its site, R P: P keeps what
        the site's symmetry allows, R turns it to the atom. None unless positions vary.
      species: species of each structure, index into the tables; unused slots point to a species that scatters nothing.
      f0_a, f0_b, f0_c, f_prime, f_double_prime, mass: tables, as in `Crystal`.
    """

    first: Int[Array, " structure"]
    count: Int[Array, " structure"]
    frac: Float[Array, "atom 3"]
    slot: Integer[Array, " atom"]
    site: Integer[Array, " atom"]
    occupancy: Float[Array, " atom"]
    biso: Float[Array, " atom"]
    u_aniso: Float[Array, "atom 3 3"] | None
    motion: Float[Array, "atom 3 3"] | None
    species: Integer[Array, "structure slot"]
    f0_a: Float[Array, "species term"]
    f0_b: Float[Array, "species term"]
    f0_c: Float[Array, " species"]
    f_prime: Float[Array, " species"]
    f_double_prime: Float[Array, " species"]
    mass: Float[Array, " species"]


class ArrayNeeds(NamedTuple):
    """What a stream asks of a library's arrays; streams that ask for the same may share them.

    Attributes:
      library: fingerprint.
      reach: bounds of 1/d. [1/A]
      mode: "cached" takes |F|^2 of the unstrained cells, "atoms" keeps the atoms to compute it for each pattern.
      split_orbits: whether orbit members are needed.
      vary_positions: whether atoms will be displaced (mode "atoms").
      dtype: of the floating arrays.
    """

    library: str
    reach: tuple[float, float]
    mode: str = "cached"
    split_orbits: bool = False
    vary_positions: bool = False
    dtype: str = "float32"


@struct.dataclass
class LibraryArrays:
    """A library on the device, for one preset.

    Attributes:
      lattice: rows are a, b, c. [A]
      centring: lattice points a cell.
      cell_mass: [u]
      laue: index into `rotations`.
      rotations: Laue groups modulo inversion, each filled up to 24 places as in `ReflectionList`.
      first, count: rows of each structure's reflections, those that the preset's reach holds.
      hkl, multiplicity: reflections.
      f_squared: at the preset's wavelength, or None where it is computed from the atoms. [electrons^2]
      members: or None.
      atoms: or None.
      labels: crystal_system (index into `CRYSTAL_SYSTEMS`), space_group (1 to 230), extinction_group.
      needs: (static) what they were made for.
    """

    lattice: Float[Array, "structure 3 3"]
    centring: Float[Array, " structure"]
    cell_mass: Float[Array, " structure"]
    laue: Int[Array, " structure"]
    rotations: Integer[Array, "laue 24 3 3"]
    first: Int[Array, " structure"]
    count: Int[Array, " structure"]
    hkl: Integer[Array, "reflection 3"]
    multiplicity: Integer[Array, " reflection"]
    f_squared: Float[Array, " reflection"] | None
    members: Members | None
    atoms: AtomArrays | None
    labels: dict[str, Int[Array, " structure"]]
    needs: ArrayNeeds = struct.field(pytree_node=False)

    @property
    def size(self) -> int:
        """Number of structures."""
        return int(self.first.shape[0])

    @property
    def nbytes(self) -> int:
        """Bytes on the device."""
        return sum(int(leaf.nbytes) for leaf in jax.tree.leaves(self))


def load_arrays(library: Library, preset: Preset, needs: ArrayNeeds | None = None) -> LibraryArrays:
    """Puts what a preset needs of a library on the default device.

    Args:
      library: with a reach that holds the preset's.
      preset: decides which reflections and the wavelength.
      needs: what else is asked; None is |F|^2 cached and the preset's choice of splitting orbits, in single precision.

    Raises:
      InputError: the library's reach is too short for the preset, or it was made for another wavelength.
    """
    if needs is None:
        needs = ArrayNeeds(library.meta.fingerprint, preset.inverse_d_bounds(), split_orbits=preset.split_orbits)
    dtype = np.dtype(needs.dtype)
    place = check_reach(library, preset)
    first, count = _window(library, *needs.reach)
    laue, rotations = _laue_groups(library)
    f_squared = None
    if needs.mode == "cached":
        f_squared = library.f_squared if place == 0 else library_f_squared(library, place)
        f_squared = jnp.asarray(_tail(f_squared.astype(dtype), REFLECTION_BLOCK, 0))
    return LibraryArrays(
        lattice=jnp.asarray(library.lattice.astype(dtype)),
        centring=jnp.asarray(_centring(library).astype(dtype)),
        cell_mass=jnp.asarray(_cell_mass(library).astype(dtype)),
        laue=jnp.asarray(laue, dtype=jnp.int32),
        rotations=jnp.asarray(rotations, dtype=jnp.int8),
        first=jnp.asarray(first, dtype=jnp.int32),
        count=jnp.asarray(count, dtype=jnp.int32),
        hkl=jnp.asarray(_tail(library.hkl, REFLECTION_BLOCK, (0, 0, 1))),
        multiplicity=jnp.asarray(_tail(library.multiplicity, REFLECTION_BLOCK, 0)),
        f_squared=f_squared,
        members=_members(library, first, count, laue, rotations) if needs.split_orbits else None,
        atoms=_atoms(library, place, needs.vary_positions, dtype) if needs.mode == "atoms" else None,
        labels={
            "crystal_system": jnp.asarray(np.searchsorted(LAST_OF_SYSTEM, library.space_group), dtype=jnp.int32),
            "space_group": jnp.asarray(library.space_group, dtype=jnp.int32),
            "extinction_group": jnp.asarray(library.extinction_group, dtype=jnp.int32),
        },
        needs=needs,
    )


def check_reach(library: Library, preset: Preset) -> int:
    """Place of the preset's wavelength among the library's.

    Raises:
      InputError: the library cannot serve the preset.
    """
    wavelengths = np.asarray(library.meta.wavelengths)
    gap = np.abs(wavelengths - preset.radiation.mean_wavelength)
    place = int(np.argmin(gap))
    built = ", ".join(library.meta.presets)
    if gap[place] > SAME_WAVELENGTH:
        raise InputError(
            f"the library {library.meta.name} is for the presets {built} and not for the wavelength "
            f"{preset.radiation.mean_wavelength:.6g} A of {preset.name}; build one with --preset {preset.name}"
        )
    low, high = preset.inverse_d_bounds()
    if low < library.meta.inverse_d_min * (1 - 1e-9) or high > library.meta.inverse_d_max * (1 + 1e-9):
        raise InputError(
            f"the library {library.meta.name} holds reflections from 1/d = {library.meta.inverse_d_min:.4f} to "
            f"{library.meta.inverse_d_max:.4f} 1/A (presets {built}) and {preset.name} needs {low:.4f} to {high:.4f}; "
            f"build one with --preset {preset.name}"
        )
    return place


def _window(library: Library, low: float, high: float) -> tuple[np.ndarray, np.ndarray]:
    """First row and count of each structure's reflections with low <= 1/d <= high: lists are sorted, so they are stretches."""
    first, count = library.first_reflection[:-1].copy(), library.n_reflection.astype(np.int64)
    if low <= library.meta.inverse_d_min and high >= library.meta.inverse_d_max:
        return first, count
    lattice = library.lattice
    reciprocal = np.linalg.inv(lattice @ np.swapaxes(lattice, 1, 2))
    structure = np.repeat(np.arange(len(library)), library.n_reflection)
    h, k, l = library.hkl.T.astype(np.float64)
    total = np.zeros(len(h))
    for i, j, product in (
        (0, 0, h * h),
        (1, 1, k * k),
        (2, 2, l * l),
        (1, 2, 2 * k * l),
        (0, 2, 2 * h * l),
        (0, 1, 2 * h * k),
    ):
        total += product * reciprocal[:, i, j][structure]
    below = np.bincount(structure, total < low**2 * (1 - 1e-12), minlength=len(library)).astype(np.int64)
    above = np.bincount(structure, total > high**2 * (1 + 1e-12), minlength=len(library)).astype(np.int64)
    return first + below, count - below - above


def _laue_groups(library: Library) -> tuple[np.ndarray, np.ndarray]:
    """Laue group of each structure, and the groups' rotations [laue, 24, 3, 3]."""
    halls, hall_of_structure = np.unique(library.hall, return_inverse=True)
    groups = [symmetry.laue_rotations(library.operators(int(hall))[0]) for hall in halls]
    # The same group in the same axes occurs under many Hall numbers.
    keys = [b"".join(sorted({r.tobytes() for r in group})) for group in groups]
    unique = sorted(set(keys))
    laue_of_hall = np.array([unique.index(key) for key in keys])
    return laue_of_hall[hall_of_structure], np.stack([groups[keys.index(key)] for key in unique])


def _members(library: Library, first: np.ndarray, count: np.ndarray, laue: np.ndarray, rotations: np.ndarray) -> Members:
    """Orbits of the reflections in reach, made anew from the Laue groups."""
    structure = np.repeat(np.arange(len(library)), count)
    place = np.arange(len(structure)) - np.repeat(np.cumsum(count) - count, count)
    row = first[structure] + place
    member_count = np.zeros(len(structure), dtype=np.int64)
    pieces: list[tuple[np.ndarray, np.ndarray]] = []  # index of the reflection, hkl
    base = 2 * int(np.abs(library.hkl).max(initial=1)) * 3 + 1
    weights = np.array([base * base, base, 1], dtype=np.int64)
    for group in np.unique(laue):
        chosen = np.flatnonzero(laue[structure] == group)
        distinct = rotations[group][: len({r.tobytes() for r in rotations[group]})].astype(np.int16)
        hkl = library.hkl[row[chosen]].astype(np.int16)
        keys: list[np.ndarray] = []
        for rotation in distinct:
            image = hkl @ rotation
            key = np.abs(image @ weights)  # of the pair: its Friedel mate has the negative key
            is_new = np.ones(len(key), dtype=bool)
            for other in keys:
                is_new &= key != other
            keys.append(key)
            member_count[chosen] += is_new
            pieces.append((chosen[is_new], image[is_new]))
    index = np.concatenate([piece[0] for piece in pieces])
    hkl = np.concatenate([piece[1] for piece in pieces])
    order = np.argsort(index, kind="stable")
    index, hkl = index[order], hkl[order]
    per_structure = np.bincount(structure, member_count, minlength=len(library)).astype(np.int64)
    kind = np.int8 if np.abs(hkl).max(initial=0) <= 127 else np.int16
    return Members(
        first=jnp.asarray(np.cumsum(per_structure) - per_structure, dtype=jnp.int32),
        count=jnp.asarray(per_structure, dtype=jnp.int32),
        hkl=jnp.asarray(_tail(hkl.astype(kind), REFLECTION_BLOCK, (0, 0, 1))),
        reflection=jnp.asarray(_tail(place[index].astype(np.uint16), REFLECTION_BLOCK, 0)),
    )


def _centring(library: Library) -> np.ndarray:
    """Lattice points a cell of each structure."""
    halls, hall_of_structure = np.unique(library.hall, return_inverse=True)
    return np.array([len(symmetry.split_centring(*library.operators(int(h)))[2]) for h in halls])[hall_of_structure]


def _cell_mass(library: Library) -> np.ndarray:
    """Mass of each cell's content. [u]"""
    site_mass = library.mass[library.site_species] * library.site_occupancy * library.site_atoms
    structure = np.repeat(np.arange(len(library)), library.n_site)
    return np.bincount(structure, site_mass, minlength=len(library)) * _centring(library)


def _atoms(library: Library, place: int, vary_positions: bool, dtype: Any) -> AtomArrays:
    """Atoms from their sites and operators; `place` says which wavelength's dispersion is taken."""
    site = np.repeat(np.arange(len(library.site_species)), library.site_atoms)
    structure_of_site = np.repeat(np.arange(len(library)), library.n_site)
    structure = structure_of_site[site]
    site_frac = library.site_frac / FIXED_POINT
    frac = np.zeros((len(site), 3))
    rotation = np.zeros((len(site), 3, 3))
    projection = np.zeros((len(site_frac), 3, 3))
    for hall in np.unique(library.hall):
        rotations, translations, centring = symmetry.split_centring(*library.operators(int(hall)))
        chosen = np.flatnonzero(library.hall[structure] == hall)
        operator = library.atom_operator[chosen]
        rotation[chosen] = rotations[operator]
        frac[chosen] = np.einsum("nij,nj->ni", rotation[chosen], site_frac[site[chosen]]) + translations[operator]
        if vary_positions:
            sites = np.flatnonzero(library.hall[structure_of_site] == hall)
            lattices = library.lattice[structure_of_site[sites]]
            projection[sites] = _site_projections(site_frac[sites], lattices, rotations, translations, centring)
    u_aniso = None
    if library.site_u is not None:
        tensors = np.zeros((len(site_frac), 3, 3))
        for column, (i, j) in enumerate(LATTICE_POINT_U):
            tensors[:, i, j] = tensors[:, j, i] = library.site_u[:, column]
        # U' = N^-1 R N U N R^T N^-1, N = diag(a*, b*, c*), as `symmetry.rotate_u` has it for one structure.
        n = np.linalg.norm(np.linalg.inv(library.lattice), axis=1)[structure]
        beta = tensors[site] * n[:, :, None] * n[:, None, :]
        turned = rotation @ beta @ np.swapaxes(rotation, 1, 2)
        u_aniso = jnp.asarray(_tail((turned / (n[:, :, None] * n[:, None, :])).astype(dtype), ATOM_BLOCK, 0))
    motion = None
    if vary_positions:
        motion = jnp.asarray(_tail((rotation @ projection[site]).astype(dtype), ATOM_BLOCK, 0))
    species, slot_of_site = _species_slots(library, structure_of_site)
    # One more row stands for "no species": a = 0, b = 1, c = 0, mass 1, as in `build.pad_crystal`.
    table = lambda values, filler: jnp.asarray(_tail(np.asarray(values), 1, filler).astype(dtype))  # noqa: E731
    float_tail = lambda values, filler: jnp.asarray(_tail(values.astype(dtype), ATOM_BLOCK, filler))  # noqa: E731
    return AtomArrays(
        first=jnp.asarray(library.first_atom[:-1], dtype=jnp.int32),
        count=jnp.asarray(library.n_atom, dtype=jnp.int32),
        frac=float_tail(frac - np.round(frac), 0.0),
        slot=jnp.asarray(_tail(slot_of_site[site].astype(np.uint8), ATOM_BLOCK, 0)),
        site=jnp.asarray(_tail(_positions(library, structure_of_site)[site].astype(np.uint16), ATOM_BLOCK, 0)),
        occupancy=float_tail(library.site_occupancy[site], 0.0),
        biso=float_tail(library.site_biso[site], 0.0),
        u_aniso=u_aniso,
        motion=motion,
        species=jnp.asarray(species),
        f0_a=table(library.f0_a, 0.0),
        f0_b=table(library.f0_b, 1.0),
        f0_c=table(library.f0_c, 0.0),
        f_prime=table(library.f_prime[place], 0.0),
        f_double_prime=table(library.f_double_prime[place], 0.0),
        mass=table(library.mass, 1.0),
    )


def _positions(library: Library, structure_of_site: np.ndarray) -> np.ndarray:
    """Place of each site's position in its structure's list: the species of a mixed position, which follow one another, share
    one."""
    is_new = np.ones(len(structure_of_site), dtype=bool)
    same = (library.site_frac[1:] == library.site_frac[:-1]).all(axis=1) & (structure_of_site[1:] == structure_of_site[:-1])
    is_new[1:] = ~same
    number = np.cumsum(is_new) - 1
    return number - number[library.first_site[:-1]][structure_of_site]


def _species_slots(library: Library, structure_of_site: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Species of each structure [structure, slot], padded with the index after the last, and the slot of each site."""
    n = len(library.species_names)
    pairs, pair_of_site = np.unique(structure_of_site * n + library.site_species, return_inverse=True)
    structure = pairs // n
    counts = np.bincount(structure, minlength=len(library))
    slot = np.arange(len(pairs)) - np.repeat(np.cumsum(counts) - counts, counts)
    species = np.full((len(library), int(counts.max(initial=1))), n, dtype=np.int16)
    species[structure, slot] = pairs % n
    return species, slot[pair_of_site]


def _site_projections(
    x: np.ndarray, lattices: np.ndarray, rotations: np.ndarray, translations: np.ndarray, centring: np.ndarray
) -> np.ndarray:
    """For each site the mean of the rotations that leave it in place: what a displacement may keep, [site, 3, 3]."""
    total, count = np.zeros((len(x), 3, 3)), np.zeros(len(x))
    for rotation, translation in zip(rotations, translations, strict=True):
        delta = (x @ rotation.T + translation - x)[:, None, :] + centring
        delta -= np.round(delta)
        distance = np.sqrt((np.einsum("nci,nij->ncj", delta, lattices) ** 2).sum(axis=2).min(axis=1))
        keeps = distance < SAME_PLACE
        total[keeps] += rotation
        count += keeps
    return total / count[:, None, None]


def _tail(values: np.ndarray, rows: int, filler: Any) -> np.ndarray:
    """The array with rows of a filler at its end."""
    end = np.broadcast_to(np.asarray(filler, dtype=values.dtype), (rows, *values.shape[1:]))
    return np.concatenate([values, end])


def library_f_squared(library: Library, place: int = 0) -> np.ndarray:
    """|F|^2 of every reflection of the unstrained cells, computed in double precision.

    Args:
      library: its `f_squared` is not read.
      place: which of the library's wavelengths decides dispersion.

    Returns:
      float64 [reflection]. [electrons^2]
    """
    from simxrd_jax.library.blocks import f_squared_of_blocks

    count = -(-library.n_reflection.astype(np.int64) // REFLECTION_BLOCK)
    structure = np.repeat(np.arange(len(library)), count)
    block = np.arange(len(structure)) - np.repeat(np.cumsum(count) - count, count)
    # Blocks of like numbers of atoms stand together, because a loop over atoms lasts as long as its longest member.
    order = np.argsort(library.n_atom[structure], kind="stable")
    structure, block = structure[order], block[order]
    first = library.first_reflection[structure] + block * REFLECTION_BLOCK
    with jax.enable_x64(True):
        atoms = _atoms(library, place, False, np.float64)
        values = f_squared_of_blocks(
            atoms,
            jnp.asarray(library.lattice),
            jnp.asarray(_centring(library).astype(np.float64)),
            jnp.asarray(_tail(library.hkl, REFLECTION_BLOCK, (0, 0, 1))),
            structure,
            first,
        )
    result = np.zeros(len(library.hkl))
    rows = first[:, None] + np.arange(REFLECTION_BLOCK)
    is_own = rows < (library.first_reflection[1:][structure])[:, None]
    result[rows[is_own]] = values[is_own]
    return result
