"""One step of training: optimisers against their definitions, averages, precision, randomness, and several devices."""

from __future__ import annotations

import dataclasses
import math
import os
import pathlib
import subprocess
import sys
from collections import defaultdict
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from simxrd_jax.errors import InputError
from simxrd_jax.library.store import Library
from simxrd_jax.models.registry import MODELS, create_model
from simxrd_jax.train import state as state_module
from simxrd_jax.train.config import Optimizer, TrainConfig, override
from simxrd_jax.train.run import Run, set_up
from simxrd_jax.train.state import (
    AVERAGE_WARMUP,
    TrainState,
    answers,
    draw_batch,
    make_mesh,
    make_optimizer,
    make_step,
    no_totals,
    part_key,
    replicated,
    run_keys,
)

from . import devices
from .conftest import assert_equal, lines_of, write_config

# --- Optimisers ------------------------------------------------------------------------------------------------------------

PARAMETERS = {"kernel": np.full((2, 3), 2.0, np.float32), "bias": np.full(3, 2.0, np.float32)}


def _moved(config: Optimizer, gradients: list[Any], steps: int = 10, start: Any = PARAMETERS) -> Any:
    optimizer, _ = make_optimizer(config, steps)
    parameters = jax.tree.map(jnp.asarray, start)
    moments = optimizer.init(parameters)
    for gradient in gradients:
        change, moments = optimizer.update(gradient, moments, parameters)
        parameters = optax.apply_updates(parameters, change)
    return parameters


def _gradients(count: int, start: Any = PARAMETERS) -> list[Any]:
    rng = np.random.default_rng(0)
    return [jax.tree.map(lambda v: jnp.asarray(rng.normal(size=v.shape), jnp.float32), start) for _ in range(count)]


def test_adam_is_its_definition():
    """Kingma & Ba (2015), algorithm 1, with the published rates 0.9 and 0.999 and epsilon 1e-8."""
    gradients = _gradients(3)
    found = _moved(Optimizer(learning_rate=0.01), gradients)["kernel"]
    theta = PARAMETERS["kernel"].astype(np.float64)
    m, v = np.zeros_like(theta), np.zeros_like(theta)
    for t, gradient in enumerate(gradients, 1):
        g = np.asarray(gradient["kernel"], np.float64)
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        theta -= 0.01 * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
    np.testing.assert_allclose(found, theta, rtol=1e-5)


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_weight_decay_is_decoupled_and_of_matrices_alone(name):
    gradients = _gradients(1)
    plain = _moved(Optimizer(name=name, learning_rate=0.01), gradients)
    decayed = _moved(Optimizer(name=name, learning_rate=0.01, weight_decay=0.5), gradients)
    np.testing.assert_allclose(decayed["kernel"], plain["kernel"] - 0.01 * 0.5 * 2.0, rtol=1e-6)
    np.testing.assert_array_equal(decayed["bias"], plain["bias"])


def test_adamw_without_weight_decay_is_adam():
    gradients = _gradients(2)
    assert_equal(*(_moved(Optimizer(name=name, learning_rate=0.01), gradients) for name in ("adam", "adamw")))


def test_muon_moves_matrices_by_orthogonal_steps_of_one_size():
    """A first step has the singular vectors of the gradient and singular values of about one (Jordan et al. 2024)."""
    start = {"dense": np.zeros((5, 3), np.float32), "convolution": np.zeros((3, 2, 4), np.float32)}
    (gradient,) = _gradients(1, start)
    moved = _moved(Optimizer(name="muon", learning_rate=0.01), [gradient], start=start)
    for name, value in start.items():
        # All taps and channels that an output is made of are one side of its matrix.
        matrix = np.asarray(gradient[name], np.float64).reshape(-1, value.shape[-1])
        left, _, right = np.linalg.svd(matrix, full_matrices=False)
        unit = 0.01 * 0.2 * math.sqrt(max(matrix.shape))
        values = -left.T @ np.asarray(moved[name]).reshape(matrix.shape) @ right.T / unit
        assert np.diag(values).min() > 0.6
        assert np.diag(values).max() < 1.3
        np.testing.assert_allclose(values, np.diag(np.diag(values)), atol=1e-3)
    # The root mean square of a step is that of the definition whatever the shape and the size of the gradient.
    thousandfold = _moved(Optimizer(name="muon", learning_rate=0.01), [jax.tree.map(lambda g: 1e3 * g, gradient)], start=start)
    for name, value in moved.items():
        np.testing.assert_allclose(thousandfold[name], value, rtol=1e-3, atol=1e-6)


def test_muon_leaves_vectors_and_large_matrices_to_adamw():
    start = {**PARAMETERS, "large": np.ones((1025, 1025), np.float32), "long": np.ones((1024, 1026), np.float32)}
    gradients = _gradients(2, start)
    muon, adamw = (_moved(Optimizer(name, 0.01, weight_decay=0.5), gradients, start=start) for name in ("muon", "adamw"))
    assert {name for name in start if np.array_equal(muon[name], adamw[name])} == {"bias", "large"}


@pytest.mark.parametrize("name", sorted(MODELS))
def test_biases_of_networks_are_vectors_and_kernels_are_not(name):
    """What decays, and what Muon orthogonalises, is told by the number of axes."""
    for variant in MODELS[name].variants:
        model = nnx.eval_shape(lambda v=variant: create_model(name, num_classes=7, variant=v, rngs=nnx.Rngs(0)))
        for path, value in jax.tree_util.tree_leaves_with_path(nnx.to_pure_dict(nnx.state(model, nnx.Param))):
            is_kernel = path[-1].key.endswith("kernel")
            assert is_kernel or path[-1].key.endswith(("bias", "scale")), path
            assert (value.ndim > 1) == is_kernel, path


def test_clipping_scales_the_whole_gradient():
    """Adam does not see the scale of a gradient, but sees that of one after another."""
    small, large = _gradients(2)
    large = jax.tree.map(lambda g: 1000 * g, large)
    norm = math.sqrt(sum(float(jnp.sum(g**2)) for g in jax.tree.leaves(large)))
    clipped = _moved(Optimizer(learning_rate=0.01, clip_norm=0.1), [small, large])
    norm_of_small = math.sqrt(sum(float(jnp.sum(g**2)) for g in jax.tree.leaves(small)))
    by_hand = [
        jax.tree.map(lambda g: g * 0.1 / norm_of_small, small),
        jax.tree.map(lambda g: g * 0.1 / norm, large),
    ]
    for a, b in zip(*(jax.tree.leaves(t) for t in (clipped, _moved(Optimizer(learning_rate=0.01), by_hand))), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)
    not_clipped = _moved(Optimizer(learning_rate=0.01), [small, large])
    assert np.abs(not_clipped["kernel"] - clipped["kernel"]).max() > 1e-4
    assert_equal(_moved(Optimizer(learning_rate=0.01, clip_norm=1e6), [small, large]), not_clipped)


def test_schedules():
    rate = 0.4
    _, constant = make_optimizer(Optimizer(learning_rate=rate), 100)
    _, cosine = make_optimizer(Optimizer(learning_rate=rate, schedule="cosine", warmup_steps=20), 100)
    _, warm = make_optimizer(Optimizer(learning_rate=rate, warmup_steps=20), 100)
    for step in (0, 50, 100):
        assert float(jnp.asarray(constant(step))) == pytest.approx(rate)
    for step, expected in ((0, 0.0), (5, 0.25), (20, 1.0), (60, 0.5), (80, (1 + math.cos(0.75 * math.pi)) / 2), (100, 0.0)):
        assert float(jnp.asarray(cosine(step))) == pytest.approx(rate * expected, abs=1e-7)
    assert [float(jnp.asarray(warm(step))) for step in (0, 10, 20, 99)] == pytest.approx([0, rate / 2, rate, rate])
    # The optimiser moves by the schedule: not at all in a first step at rate 0.
    assert_equal(_moved(Optimizer(learning_rate=rate, warmup_steps=5), _gradients(1)), PARAMETERS)
    assert not np.array_equal(_moved(Optimizer(learning_rate=rate), _gradients(1))["bias"], PARAMETERS["bias"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "adamm"}, "did you mean adam"),
        ({"name": "moun"}, "did you mean muon"),
        ({"schedule": "linear"}, "no schedule 'linear'; choose from constant, cosine"),
        ({"learning_rate": 0.0}, "learning_rate=0 must be between"),
        ({"learning_rate": math.nan}, "learning_rate=nan must be between"),
        ({"warmup_steps": 11}, "warmup_steps=11 must be from 0 to the 10"),
        ({"clip_norm": -1.0}, "must be at least 0"),
        ({"clip_norm": math.nan}, "must be at least 0"),
        ({"name": "adamw", "weight_decay": math.inf}, "must be at least 0"),
        ({"average_decay": 1.0}, "average_decay from 0 to below 1"),
        ({"weight_decay": 0.1}, "weight_decay is of adamw and muon; set optimizer.name"),
    ],
)
def test_optimizers_that_are_refused(change, message):
    with pytest.raises(InputError, match=message):
        make_optimizer(Optimizer(**change), 10)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"targets": ""}, "targets is empty"),
        ({"targets": "space_grup"}, "no target 'space_grup'; did you mean space_group"),
        ({"targets": "lattice,lattice"}, "names one twice"),
        ({"targets": "lattice,space_group"}, "cnn5 has one head; name one target or set model=powdernet"),
        ({"targets": "lattice", "variant": "as_published"}, "softmax.*; set variant=corrected or model=powdernet"),
        ({"precision": "float16"}, "no precision 'float16'; did you mean"),
        ({"model": "cnn55"}, "no model 'cnn55'; did you mean"),
        ({"variant": "fixed"}, "no variant 'fixed'"),
        ({"steps": "0"}, "steps=0 must be at least 1"),
        ({"keep": "0"}, "keep=0 must be at least 1"),
        ({"log_every": "-1"}, "log_every=-1"),
        ({"patience": "-1"}, "patience=-1 must be at least 0"),
        ({"seed": "-1"}, "seed=-1 must be from 0"),
        ({"seed": str(2**32)}, "seed=4294967296 must be from 0 to 4294967295"),  # JAX would take 0
        ({"batch": "0"}, "batch of 0"),
        ({"data.copies": "-1"}, "data.copies=-1 must be 0"),
        ({"data.copies": "3000000000"}, "data.copies=3000000000 must be below"),
        ({"steps": str(2**31)}, "steps=2147483648 must be below"),
        ({"data.impurities": "-1"}, "data.impurities=-1 must be 0 or more"),
        ({"data.impurity_probability": "1.5"}, "data.impurity_probability=1.5 must be above 0 and at most 1"),
        ({"data.impurity_fraction": "0"}, "data.impurity_fraction=0 must be above 0 and at most 1"),
        ({"data.split": "ool_disjont"}, "did you mean ool_disjoint"),
        ({"data.preset": "synchrotron"}, "networks read 10 to 80 in steps of 0.02; choose from ideal, simxrd, laboratory"),
        ({"data.mode": "fast"}, "no mode 'fast'"),
        ({"data.sampling": "even"}, "no sampling 'even'"),
    ],
)
def test_configs_that_are_refused(config, library, settings, message):
    with pytest.raises(InputError, match=message) as caught:
        set_up(override(config, settings), library)
    assert "\n" not in str(caught.value)


# --- The step --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fixed(config: TrainConfig, library: Library):
    """A batch that stands in for all that a stream draws: the step is then compiled without the simulator."""
    run = set_up(config, library)
    key = jax.random.key(0)
    x = jax.random.uniform(key, (8, 3501))
    structure = jnp.arange(8, dtype=jnp.int32)
    empty = jnp.zeros((8, 1))
    labels = {name: values[structure] for name, values in run.stream.arrays.labels.items()}
    return state_module.Batch(x, x, structure, labels, {}, structure[:, None], empty, jnp.zeros((8, 2), jnp.uint32))


@pytest.fixture
def still(fixed, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every step takes the fixed batch."""
    monkeypatch.setattr(state_module, "draw_on", lambda *_: fixed)


def _step(run: Run):
    return make_step(run.definition, run.optimizer, run.losses, run.config, run.mesh)


def _states(run: Run, count: int) -> list[TrainState]:
    """The first and those after each step; copies, since a step is given its state away."""
    step, state, totals = _step(run), run.state, no_totals()
    found = [jax.device_get(state)]
    for _ in range(count):
        state, totals = step(state, totals, run.stream)
        found.append(jax.device_get(state))
    return found


def test_one_compilation_for_all_steps(config, library, still):
    run = set_up(override(config, {"optimizer.average_decay": "0.5", "optimizer.schedule": "cosine"}), library)
    events: list[str] = []
    jax.monitoring.register_event_duration_secs_listener(lambda event, *_, **__: events.append(event))
    compiled = lambda: sum("backend_compile" in event for event in events)  # noqa: E731
    step, state, totals = _step(run), run.state, replicated(no_totals(), run.mesh)
    stream = replicated(run.stream, run.mesh)
    state, totals = step(state, totals, stream)
    first = compiled()
    for _ in range(4):
        state, totals = step(state, totals, stream)
    assert first >= 1
    assert compiled() == first
    assert (int(state.step), int(totals.steps), int(totals.samples)) == (5, 5, 40)


def test_a_step_is_the_gradient_of_the_mean_loss(config, library, fixed, still):
    """Against the optimiser called by hand with a gradient that is made without the step."""
    run = set_up(config, library)
    before, after = _states(run, 1)
    x, wanted = 100 * fixed.pattern, fixed.labels["crystal_system"]

    def loss(parameters):
        dropout = jax.random.fold_in(run_keys(config.seed)[1], 0)
        made, _ = answers(run.definition, parameters, before.network.statistics, x, config.targets, dropout)
        chosen = jax.nn.log_softmax(made["crystal_system"])[jnp.arange(8), wanted]
        return -jnp.mean(chosen)

    gradient = jax.jit(jax.grad(loss))(before.network.parameters)
    change, _ = run.optimizer.update(gradient, run.optimizer.init(before.network.parameters))
    expected = optax.apply_updates(before.network.parameters, change)
    for a, b in zip(jax.tree.leaves(after.network.parameters), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)  # Adam's first step is 1e-3 whatever the gradient's size
    assert after.network.average is None


def test_the_moving_average_is_its_recurrence(config, library, still):
    run = set_up(override(config, {"optimizer.average_decay": "0.25"}), library)
    states = _states(run, 4)
    average = states[0].network.parameters
    assert_equal(states[0].network.average, average)
    for n, state in enumerate(states[1:]):
        decay = min(0.25, (1 + n) / (AVERAGE_WARMUP + n))
        average = jax.tree.map(lambda a, p: decay * a + (1 - decay) * p, average, state.network.parameters)  # noqa: B023
        for a, b in zip(jax.tree.leaves(state.network.average), jax.tree.leaves(average), strict=True):
            np.testing.assert_allclose(a, b, atol=1e-6)
        assert_equal(state.network.evaluated, state.network.average)
    assert decay == 0.25


def test_bfloat16_keeps_single_precision_parameters(config, library, fixed, still):
    """Every parameter moves by less than bfloat16 could resolve, and its loss is close to that of float32."""
    run = set_up(override(config, {"precision": "bfloat16", "optimizer.learning_rate": "1e-6"}), library)
    before, after = _states(run, 1)
    for a, b in zip(jax.tree.leaves(before.network.parameters), jax.tree.leaves(after.network.parameters), strict=True):
        assert a.dtype == b.dtype == np.float32
        assert np.abs(a - b).max() <= 1.01e-6 + 1e-7 * np.abs(a).max()
    moved = [np.any(a != b) for a, b in zip(*(jax.tree.leaves(s.network.parameters) for s in (before, after)), strict=True)]
    assert all(moved)
    plain = set_up(config, library)
    x = jnp.asarray(100 * fixed.pattern)
    parameters = before.network.parameters
    made = [answers(r.definition, parameters, {}, x, config.targets, None)[0] for r in (run, plain)]
    outputs = [each["crystal_system"] for each in made]
    assert outputs[0].dtype == jnp.float32
    difference = float(jnp.abs(outputs[0] - outputs[1]).max())
    assert 0 < difference < 0.05 * float(jnp.abs(outputs[1]).max())


def test_dropout_differs_between_steps_and_repeats_on_restart(config, library, still):
    run = set_up(config, library)
    step = _step(run)

    def loss_at(number: int, seed: int = config.seed) -> float:
        state = dataclasses.replace(jax.tree.map(jnp.copy, run.state), step=jnp.asarray(number, jnp.int32))
        return float(step(state, no_totals(), run.stream)[1].loss)

    losses = [loss_at(n) for n in (3, 4, 5)]
    assert len(set(losses)) == 3
    assert [loss_at(n) for n in (3, 4, 5)] == losses
    other = set_up(override(config, {"seed": "101"}), library)
    again = dataclasses.replace(jax.tree.map(jnp.copy, run.state), step=jnp.asarray(3, jnp.int32))
    assert float(_step(other)(again, no_totals(), run.stream)[1].loss) != losses[0]


def test_the_loss_decreases(trained):
    lines = [line for line in lines_of(trained) if line["kind"] == "train"]
    assert lines[-1]["loss"] < 0.8 * lines[0]["loss"]
    validations = [line["loss"] for line in lines_of(trained) if line["kind"] == "validation"]
    assert validations[-1] < validations[0]


# --- Patterns --------------------------------------------------------------------------------------------------------------


@partial(jax.jit, static_argnums=(3, 4))
def _draw(stream: Any, key: Any, step: Any, copies: int, only_keys: bool) -> Any:
    batch = draw_batch(stream, key, step, 0, copies)
    return (batch.structure, batch.key_data) if only_keys else (batch.structure, batch.pattern)


def _drawn(run: Run, copies: int, seed: int, steps: int, only_keys: bool = False) -> dict[int, list[bytes]]:
    """Structure -> its patterns, or their keys, in the order of the steps."""
    key = part_key(run_keys(seed)[0], "train")
    found: dict[int, list[bytes]] = defaultdict(list)
    for step in range(steps):
        drawn = _draw(run.stream, key, jnp.asarray(step, jnp.int32), copies, only_keys)
        for structure, value in zip(*jax.device_get(drawn), strict=True):
            found[int(structure)].append(value.tobytes())
    return found


def test_copies_are_so_many_patterns_of_each_structure(config, library):
    run = set_up(override(config, {"data.copies": "3"}), library)
    first = _drawn(run, 3, 100, 40)
    assert len(first) == len(library)
    assert all(len(set(patterns)) == 3 for patterns in first.values())
    every = [pattern for patterns in first.values() for pattern in set(patterns)]
    assert len(set(every)) == 3 * len(library)
    # Another run of the seed, and more of its steps, have no other patterns.
    again = _drawn(set_up(run.config, library), 3, 100, 60)
    assert all(set(patterns) == set(first[structure]) for structure, patterns in again.items())


def test_more_copies_are_the_same_and_others_and_none_repeats(config, library):
    run = set_up(config, library)
    two, five, other = (
        {s: set(v) for s, v in _drawn(run, copies, seed, 150, only_keys=True).items()}
        for copies, seed in ((2, 100), (5, 100), (2, 101))
    )
    assert all(len(two[s]) == 2 and len(five[s]) == 5 and two[s] < five[s] for s in two)
    assert all(not two[s] & other[s] for s in two)
    fresh = [key for keys in _drawn(run, 0, 100, 60, only_keys=True).values() for key in keys]
    assert len(fresh) == len(set(fresh)) == 60 * 8


# --- Several devices -------------------------------------------------------------------------------------------------------


def test_a_mesh_takes_as_many_devices_as_divide_the_batch():
    devices = jax.local_devices() * 8
    assert [make_mesh(n, devices[:8]).size for n in (8, 12, 7, 1, 32)] == [8, 6, 7, 1, 8]
    with pytest.raises(InputError, match="batch of 0"):
        make_mesh(0)


def _on_eight_devices(config: TrainConfig, folder: pathlib.Path, cache: pathlib.Path) -> dict[str, np.ndarray]:
    path, file = folder / "config.py", folder / "out.npz"
    write_config(path, config)
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "cpu"}
    subprocess.run([sys.executable, devices.__file__, path, file, cache], check=True, env=os.environ | flags)
    return dict(np.load(file))


def _check_devices(config: TrainConfig, folder: pathlib.Path, cache: pathlib.Path) -> None:
    one, eight = devices.five_steps(config), _on_eight_devices(config, folder, cache)
    assert (one["devices"], int(eight["devices"])) == (1, 8)
    np.testing.assert_array_equal(one["structures"], eight["structures"])
    assert len(np.unique(one["structures"])) > 3
    assert one["losses"][0] == pytest.approx(eight["losses"][0], rel=1e-4)
    np.testing.assert_allclose(one["losses"], eight["losses"], rtol=1e-3, equal_nan=False)
    gradients = [name for name in one if name.startswith("gradient")]
    greatest = max(np.abs(one[name]).max() for name in gradients)
    for name in gradients:
        # Patterns agree to 3e-7 but for single Poisson counts, which rounding turns: 0.4 % of a gradient here. Biases before a
        # batch normalisation have no gradient but rounding.
        tolerance = 1e-2 * np.abs(one[name]).max() + 1e-6 * greatest
        np.testing.assert_allclose(eight[name], one[name], atol=tolerance, err_msg=name, equal_nan=False)
    # Adam divides by a gradient's size: where that is rounding, a step of the learning rate can turn.
    difference = np.concatenate([np.abs(eight[name] - one[name]).ravel() for name in one if name.startswith("leaf")])
    assert np.mean(difference <= 0.1 * config.optimizer.learning_rate) > 0.98
    assert difference.max() <= 2 * devices.STEPS * config.optimizer.learning_rate + 1e-3 * config.optimizer.learning_rate


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"model": "cnn7", "data.preset": "simxrd", "optimizer.learning_rate": "1e-5"},
        {"data.copies": "2"},
        {"model": "powdernet"},
        {"targets": "lattice", "data.cell_variation": "0.15", "data.intensity_variation": "1"},
    ],
    ids=str,
)
def test_eight_devices_train_as_one(config, tmp_path, cache, settings):
    _check_devices(override(config, settings), tmp_path, cache)
