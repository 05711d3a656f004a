"""Configs: every kind of field, files, JSON, and what is said of mistakes."""

from __future__ import annotations

import dataclasses
import json
import math
import pathlib
from typing import Any

import numpy as np
import pytest

from simxrd_jax.errors import InputError
from simxrd_jax.train.config import (
    Data,
    Optimizer,
    TrainConfig,
    checked,
    differences,
    fields_of,
    from_dict,
    load_config,
    override,
    to_dict,
)
from simxrd_jax.train.losses import Loss

CONFIG = TrainConfig(
    model="cnn4",
    targets=("space_group", "lattice"),
    steps=77,
    data=Data(copies=10, sampling="balanced"),
    optimizer=Optimizer(name="adamw", weight_decay=0.05, schedule="cosine"),
    loss=Loss(name="focal", focal_gamma=1.5),
)


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("model", "cnn3", "cnn3"),
        ("steps", "1_000", 1000),
        ("minimum_improvement", "1e-3", 1e-3),
        ("minimum_improvement", "2", 2.0),
        ("targets", "crystal_system", ("crystal_system",)),
        ("targets", "space_group, lattice,", ("space_group", "lattice")),
        ("targets", "", ()),
        ("data.library", "a.b=c.simxrd", "a.b=c.simxrd"),
        ("data.impurities", "-1", -1),
        ("optimizer.learning_rate", "3e-4", 3e-4),
        ("loss.label_smoothing", "0.1", 0.1),
    ],
)
def test_override_changes_one_field_and_no_other(name, text, value):
    changed = override(TrainConfig(), {name: text})
    found = fields_of(changed)[name]
    assert found == value
    assert type(found) is type(value)
    assert differences(TrainConfig(), changed) == [name]


def test_every_field_can_be_set_to_what_it_is():
    text = {name: ",".join(v) if isinstance(v, tuple) else str(v) for name, v in fields_of(CONFIG).items()}
    assert override(TrainConfig(), text) == CONFIG
    assert len(text) == sum(len(dataclasses.fields(kind)) for kind in (TrainConfig, Data, Optimizer, Loss)) - 3


def test_fields_that_depend_on_each_other_are_set_together_in_any_order():
    """Smoothed labels and the focal loss exclude each other: neither field can be set before the other."""
    to_focal = {"loss.name": "focal", "loss.label_smoothing": "0"}
    back = {"loss.label_smoothing": "0.1", "loss.name": "cross_entropy"}
    smooth = override(TrainConfig(), {"loss.label_smoothing": "0.1"})
    for settings, start, end in ((to_focal, smooth, "focal"), (back, override(smooth, to_focal), "cross_entropy")):
        for order in (list(settings), list(settings)[::-1]):
            assert override(start, {name: settings[name] for name in order}).loss.name == end


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("stepps", "did you mean steps?"),
        ("data.presett", "did you mean data.preset?"),
        ("learning_rat", "did you mean optimizer.learning_rate?"),
        ("optimiser.learning_rate", "did you mean optimizer.learning_rate?"),
        ("optimizer.learningrate", "did you mean optimizer.learning_rate?"),
        ("preset", "did you mean data.preset?"),
        ("steps.x", "did you mean steps?"),
        ("zzz", "choose from model, variant"),
        ("data", "data is a group of fields; set one of data.library, data.split"),
    ],
)
def test_misspelt_fields_are_named_with_the_nearest(name, nearest):
    with pytest.raises(InputError) as caught:
        override(TrainConfig(), {name: "1"})
    assert nearest in str(caught.value)
    assert name in str(caught.value)


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("steps", "1.5", "a whole number"),
        ("steps", "many", "a whole number"),
        ("steps", "", "a whole number"),
        ("optimizer.learning_rate", "fast", "a number"),
        ("optimizer.weight_decay", "nan", "a finite number"),
        ("data.impurity_fraction", "inf", "a finite number"),
        ("loss.name", "focall", "did you mean focal"),
        ("loss.label_smoothing", "1", "from 0 to below 1"),
    ],
)
def test_wrong_values_are_refused(name, text, expected):
    with pytest.raises(InputError, match=expected):
        override(TrainConfig(), {name: text})


def test_json_gives_the_config_back():
    for config in (TrainConfig(), CONFIG):
        assert from_dict(json.loads(json.dumps(to_dict(config))), "x") == config
    assert from_dict({}, "x") == TrainConfig()
    assert from_dict({"optimizer": {"learning_rate": 1}}, "x").optimizer.learning_rate == 1.0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"stepps": 1}, "did you mean steps?"),
        ({"data": {"presett": "ideal"}}, "'data.presett' in the config; did you mean data.preset?"),
        ({"steps": "1"}, "steps = '1' is no int"),
        ({"steps": True}, "steps = True is no int"),
        ({"steps": 1.0}, "steps = 1.0 is no int"),
        ({"model": 4}, "model = 4 is no str"),
        ({"optimizer": {"learning_rate": None}}, "optimizer.learning_rate = None is no float"),
        ({"targets": "space_group"}, "targets = 'space_group' is no tuple of names; write ('space_group',)"),
        ({"targets": 3}, "targets = 3 is no tuple of names; correct it"),
        ({"targets": [1]}, "is no tuple of names"),
        ({"optimiser": {}}, "'optimiser' in the config; did you mean optimizer?"),
        ({"optimizer": {"clip_norm": math.nan}}, "optimizer.clip_norm = nan is no finite number"),
        ({"data": 3}, "data is no group"),
        ({"loss": {"name": "focall"}}, "did you mean focal"),
    ],
)
def test_json_of_another_config_is_refused(change, message):
    with pytest.raises(InputError) as caught:
        from_dict(to_dict(CONFIG) | change, "run/config.json")
    assert message in str(caught.value)
    assert str(caught.value).startswith("run/config.json: ")
    with pytest.raises(InputError, match="the config is no group"):
        from_dict([], "x")  # type: ignore[arg-type]


def test_checking_brings_fields_to_their_types_and_no_more():
    """NumPy's numbers are numbers, of which JSON knows nothing, and a list of targets is as good as a tuple."""
    written: Any = TrainConfig(targets=["space_group"], steps=np.int64(5), optimizer=Optimizer(learning_rate=1))  # type: ignore
    found = checked(written)
    assert found == TrainConfig(steps=5, optimizer=Optimizer(learning_rate=1.0))
    assert [type(v) for v in (found.targets, found.steps, found.optimizer.learning_rate)] == [tuple, int, float]
    assert checked(CONFIG) == CONFIG
    assert json.loads(json.dumps(to_dict(found)))["steps"] == 5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": "abc"}, "steps = 'abc' is no int"),
        ({"steps": 2.5}, "steps = 2.5 is no int"),
        ({"steps": True}, "steps = True is no int"),
        ({"targets": "space_group"}, "targets = 'space_group' is no tuple of names; write ('space_group',)"),
        ({"targets": None}, "targets = None is no tuple of names"),
        ({"data": Optimizer()}, "data is no group of fields"),
        ({"data": Data(library=pathlib.Path("a"))}, "data.library = "),  # type: ignore[arg-type]
        ({"data": Data(copies="3")}, "data.copies = '3' is no int"),  # type: ignore[arg-type]
        ({"minimum_improvement": 10**400}, "is no finite number"),
    ],
)
def test_fields_of_another_type_are_refused(change: Any, message: str):
    with pytest.raises(InputError) as caught:
        checked(dataclasses.replace(CONFIG, **change))
    assert str(caught.value).startswith("the config: ")
    assert message in str(caught.value)


def test_differences_name_fields_of_groups():
    other = dataclasses.replace(CONFIG, seed=1, data=dataclasses.replace(CONFIG.data, mode="atoms"))
    assert differences(CONFIG, other) == ["seed", "data.mode"]
    assert differences(CONFIG, CONFIG) == []


HEAD = "from simxrd_jax.train.config import TrainConfig, Data\n"


def test_config_files(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch):
    folder = tmp_path / "mine"
    folder.mkdir()
    one, several = folder / "one.py", folder / "several.py"
    one.write_text(HEAD + "CONFIG = TrainConfig(steps=3)")
    several.write_text(HEAD + "CONFIGS = {'a': TrainConfig(steps=4), 'long_name': TrainConfig(steps=5)}")
    assert load_config(str(one)) == ("one", TrainConfig(steps=3))
    assert load_config(f"{several}:long_name") == ("long_name", TrainConfig(steps=5))
    monkeypatch.chdir(folder)
    assert load_config("one.py")[0] == "one"
    (folder / "config.py").write_text(one.read_text())
    assert load_config("config.py")[0] == "mine"  # the folder of an experiment
    with pytest.raises(InputError, match=r"several configs; add one of :a, :long_name$"):
        load_config(str(several))
    with pytest.raises(InputError, match=r"has no config 'long_nam' in its CONFIGS; did you mean long_name\?"):
        load_config(f"{several}:long_nam")
    with pytest.raises(InputError, match=r"has no config 'a' in its CONFIGS$"):
        load_config(f"{one}:a")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "has no CONFIG of type TrainConfig"),
        ("CONFIG = {'steps': 3}", "has no CONFIG of type TrainConfig"),
        ("CONFIGS = [1]", "CONFIGS is no dictionary"),
        ("def (", "SyntaxError"),
        ("import there_is_no_such_module", "there_is_no_such_module"),
        (HEAD + "CONFIG = TrainConfig(stepps=3)", "there is no field 'stepps' in the config; did you mean steps?"),
        (HEAD + "CONFIG = TrainConfig(modle='cnn4')", "did you mean model?"),
        (HEAD + "CONFIG = TrainConfig(optimiser=1)", "did you mean optimizer?"),
        (HEAD + "CONFIG = TrainConfig(data=Data(presett='ideal'))", "did you mean data.preset?"),
        (HEAD + "class A:\n def __init__(self): pass\nA(modle=1)", "cannot be run (TypeError"),
        (HEAD + "CONFIG = TrainConfig(steps='abc')", "config.py: steps = 'abc' is no int"),
        (HEAD + "CONFIG = TrainConfig(targets='space_group')", "write ('space_group',)"),
        ("from simxrd_jax.train.losses import Loss\nLoss(name='focall')", "did you mean focal"),
        ("raise SystemExit(3)", "cannot be run"),
    ],
)
def test_bad_config_files_are_named(tmp_path, content, message):
    path = tmp_path / "config.py"
    path.write_text(content)
    with pytest.raises(InputError) as caught:
        load_config(str(path))
    assert message in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("source", ["nowhere.py", "nowhere.py:a", "", ":a", "."])
def test_missing_config_files(source):
    with pytest.raises(InputError, match="no such config file"):
        load_config(source)
