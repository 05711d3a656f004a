"""Batches: grouping, chunking, keys, and equality with one pattern at a time."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest

from simxrd_jax.batches import group_phases, simulate_batch, stack_phases
from simxrd_jax.phases import load_phase
from simxrd_jax.presets import get_preset, simulate_preset

NAMES = ("Si", "LaB6", "Al2O3", "quartz", "aniso_calcite", "triclinic")
PRESET = dataclasses.replace(get_preset("laboratory"), two_theta=(10.0, 60.0, 0.05))
GRID, SETTINGS = PRESET.grid(), PRESET.settings()


@pytest.fixture(scope="module")
def phases(cif_folder):
    loaded = [load_phase(cif_folder / f"{n}.cif", PRESET.radiation, PRESET.two_theta, max_strain=0.01) for n in NAMES]
    return [(p.crystal, p.reflections) for p in loaded]


@pytest.fixture(scope="module")
def batch(phases):
    return stack_phases(phases)


@pytest.fixture(scope="module")
def whole(batch):
    return jax.jit(lambda k: simulate_batch(batch, PRESET, GRID, SETTINGS, key=k))(jax.random.key(7))


def test_same_key_same_batch_bit_for_bit(batch, whole):
    run = jax.jit(lambda k: simulate_batch(batch, PRESET, GRID, SETTINGS, key=k))
    again, conditions = run(jax.random.key(7))
    np.testing.assert_array_equal(again.intensity, whole[0].intensity)
    for name, values in conditions.items():
        np.testing.assert_array_equal(values, whole[1][name])
    other, _ = run(jax.random.key(8))
    assert np.abs(other.intensity - whole[0].intensity).max() > 0


def test_every_sample_differs_and_all_conditions_return(whole):
    pattern, conditions = whole
    assert pattern.intensity.shape == (len(NAMES), GRID.size)
    assert set(conditions) == {*PRESET.drawn, *PRESET.fixed}
    assert len(np.unique(conditions["grain_size"])) == len(NAMES)


def test_chunks_do_not_change_what_is_drawn(batch, whole):
    pattern, conditions = jax.jit(lambda k: simulate_batch(batch, PRESET, GRID, SETTINGS, chunk=2, key=k))(jax.random.key(7))
    for name, values in conditions.items():
        np.testing.assert_array_equal(values, whole[1][name])
    # Compiled for another shape, sums may be ordered otherwise: float32 rounding of the noise-free pattern.
    difference = np.abs(pattern.peaks - whole[0].peaks).max(axis=1) / np.asarray(whole[0].peaks).max(axis=1)
    assert difference.max() < 1e-4


@pytest.mark.parametrize("place", [0, 3])
def test_a_batch_is_its_samples(phases, whole, place):
    crystal, reflections = phases[place]
    crystal = jax.tree.map(lambda v: np.asarray(v, np.float32), crystal)
    key = jax.random.fold_in(jax.random.key(7), place)
    one, _ = jax.jit(lambda k: simulate_preset(crystal, reflections, PRESET, GRID, SETTINGS, key=k))(key)
    truth = np.asarray(one.peaks)
    # The batch takes cached |F|^2 of the unstrained cell; f0 at a strain of 0.5 % moves |F|^2 by up to a few per cent.
    assert np.abs(whole[0].peaks[place] - truth).max() < 0.03 * truth.max()


def test_cached_equals_atoms_without_strain(batch):
    drawn = {k: v for k, v in PRESET.drawn.items() if not k.startswith("strain")}
    preset = dataclasses.replace(PRESET, drawn=drawn)
    cached, atoms = (
        jax.jit(lambda k, c=c: simulate_batch(batch, preset, GRID, SETTINGS, cached=c, key=k))(jax.random.key(3))[0].peaks
        for c in (True, False)
    )
    assert np.abs(cached - atoms).max() < 2e-5 * np.asarray(atoms).max()


def test_groups_cover_all_structures_once(phases):
    groups = group_phases(phases)
    index = np.concatenate([g.index for g in groups])
    assert sorted(index.tolist()) == list(range(len(phases)))
    for group in groups:
        used = np.asarray(group.reflections.multiplicity > 0).sum(axis=1)
        length = group.f_squared.shape[1]
        assert (used <= length).all()
        assert length <= 64 or (used > length // 2).all()


def test_one_compilation_for_all_keys_and_structures_of_a_group(phases, batch):
    count = 0

    def counted(b, key):
        nonlocal count
        count += 1  # runs only while it is traced
        return simulate_batch(b, PRESET, GRID, SETTINGS, key=key)[0].intensity

    run = jax.jit(counted)
    turned = jax.tree.map(lambda v: v[::-1], batch)
    for b, seed in ((batch, 0), (batch, 1), (turned, 2)):
        run(b, jax.random.key(seed)).block_until_ready()
    assert count == 1
