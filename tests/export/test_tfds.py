"""The TensorFlow Datasets builders: what they prepare is read by data sources and Grain, and described."""

from __future__ import annotations

import importlib
import logging
import pathlib
import sys
from typing import Any

import numpy as np
import pytest
import yaml

tfds = pytest.importorskip("tensorflow_datasets")

from simxrd_jax.errors import InputError  # noqa: E402
from simxrd_jax.export.example import encode  # noqa: E402
from simxrd_jax.export.features import TEXT, checked_columns  # noqa: E402
from simxrd_jax.export.tfds import tfds_features  # noqa: E402
from simxrd_jax.io.simxrd_db import SimxrdDatabase  # noqa: E402

from .made import FEATURES, columns_of  # noqa: E402
from .test_released import good_pairs, make_database  # noqa: E402

DATASETS = pathlib.Path(__file__).resolve().parents[2] / "datasets"


def _module(name: str) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(DATASETS)
        return importlib.import_module(f"{name}.{name}_dataset_builder")


@pytest.fixture(scope="module")
def released() -> Any:
    return _module("simxrd")


@pytest.fixture(scope="module")
def synthetic() -> Any:
    return _module("simxrd_synthetic")


@pytest.fixture(scope="module")
def databases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("databases")
    rows = {"train": [good_pairs(1), "bad", good_pairs(2)], "test": [good_pairs(3)]}
    return {split: str(make_database(folder / f"{split}.db", each)) for split, each in rows.items()}


@pytest.fixture(scope="module")
def prepared(released: Any, databases: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The builder of a small released set, prepared."""
    config = released.SimxrdConfig(name="mine", databases=databases)
    builder = released.Builder(config=config, data_dir=tmp_path_factory.mktemp("tfds"))
    builder.download_and_prepare()
    return builder


@pytest.fixture(scope="module")
def simulated(synthetic: Any, library_path: str, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The builder of a small simulated set, prepared."""
    patterns = {"train": 2, "test": 1}
    config = synthetic.SyntheticConfig(name="x", library=library_path, preset="ideal", split="in_library", patterns=patterns)
    builder = synthetic.Builder(config=config, data_dir=tmp_path_factory.mktemp("tfds"))
    builder.download_and_prepare()
    return builder


def test_tensorflow_datasets_reads_the_records_of_simxrd_generate():
    """Their message is the one that its own files hold."""
    columns = checked_columns(columns_of(np.arange(4)), FEATURES)
    features = tfds_features(FEATURES)
    for i, message in enumerate(encode(columns, FEATURES)):
        read = features.deserialize_example_np(message)
        for f in FEATURES:
            value = read["conditions"][f.name.split("/")[1]] if "/" in f.name else read[f.name]
            wanted = columns[f.name][i]
            np.testing.assert_array_equal(value.decode() if f.dtype == TEXT else value, wanted)


def test_released_rows_are_prepared_without_tensorflow(prepared, databases):
    assert "tensorflow" not in sys.modules
    assert {name: split.num_examples for name, split in prepared.info.splits.items()} == {"train": 2, "test": 1}
    assert all(path.name.startswith("simxrd-") for path in prepared.data_path.glob("*array_record*"))
    for split, kept in (("train", (0, 2)), ("test", (0,))):
        rows, source = SimxrdDatabase(databases[split]), prepared.as_data_source(split)
        assert len(source) == len(kept)
        for record, index in zip(source, kept, strict=True):
            np.testing.assert_array_equal(record["intensity"], rows[index].intensity.astype(np.float32))
            assert record["space_group"] == 62
            assert record["row"] == index + 1
            assert prepared.info.features["crystal_system"].int2str(int(record["crystal_system"])) == "orthorhombic"
            assert record["conditions"]["zero_shift"] == np.float32(-0.6)


def test_a_prepared_folder_is_read_without_its_builder(prepared, simulated):
    for builder in (prepared, simulated):
        again = tfds.builder_from_directory(builder.data_path)
        a, b = (each.as_data_source("train")[1] for each in (again, builder))
        np.testing.assert_array_equal(a["intensity"], b["intensity"])


def test_simulated_splits_are_those_of_training(simulated, library):
    train, test = (list(simulated.as_data_source(part)) for part in ("train", "test"))
    assert [int(r["structure"]) for r in train] == [*range(5), *range(5)]
    assert [r["structure_id"].decode() for r in test] == list(library.ids)
    keys = [{tuple(r["key_data"].tolist()) for r in each} for each in (train, test)]
    assert not keys[0] & keys[1]
    assert all(r["intensity"].max() == 100 for r in train)
    names = simulated.info.features["extinction_group"].names
    assert [names[int(r["extinction_group"])] for r in test] == [
        library.extinction_group_names[int(code)] for code in library.extinction_group
    ]


def test_grain_reads_what_is_prepared(simulated):
    grain = pytest.importorskip("grain.python")
    dataset = grain.MapDataset.source(simulated.as_data_source("train")).shuffle(seed=1).batch(5)
    assert dataset[0]["intensity"].shape == (5, 3501)
    assert sorted(np.concatenate([batch["structure"] for batch in dataset]).tolist()) == sorted([*range(5)] * 2)


def test_the_card_says_what_is_there(prepared, simulated):
    for builder, splits in ((prepared, {"train": 2, "test": 1}), (simulated, {"train": 10, "test": 5})):
        text = (builder.data_path / "README.md").read_text()
        _, header, body = text.split("---\n", 2)
        assert yaml.safe_load(header)["pretty_name"] == builder.description().title
        for split, count in splits.items():
            assert f"| {split} | {count} |" in body
        for feature in builder.description().features:
            assert f"| `{feature.name}` | {feature.dtype} |" in body
    assert "Left out of train: row 2, its key-value pairs are no JSON" in (prepared.data_path / "README.md").read_text()


def test_croissant_is_valid_and_complete(prepared, simulated, caplog):
    mlc = pytest.importorskip("mlcroissant")
    from simxrd_jax.io.files import file_digest

    for builder in (prepared, simulated):
        with caplog.at_level(logging.ERROR):
            metadata = mlc.Dataset(jsonld=str(builder.data_path / "croissant.json")).metadata
        assert not list(metadata.issues.errors)
        (shards,) = [each for each in metadata.distribution if isinstance(each, mlc.FileSet)]
        files = {each.content_url: each.sha256 for each in metadata.distribution if each is not shards}
        assert set(shards.contained_in) == set(files)
        assert {each.source.file_set for each in metadata.record_sets[0].fields} == {shards.id}
        paths = builder.data_path.glob("*.array_record-*")
        assert files == {path.name: file_digest(pathlib.Path(path)) for path in paths}
        features = {f.name: f for f in builder.description().features}
        assert {each.name for each in metadata.record_sets[0].fields} == set(features)
        (intensity,) = [each for each in metadata.record_sets[0].fields if each.name == "intensity"]
        assert intensity.array_shape_tuple == features["intensity"].shape


def test_bad_configs_are_refused(released, synthetic, library_path, databases, tmp_path):
    def refuse(module, config, message: str) -> None:
        with pytest.raises(InputError, match=message):
            module.Builder(config=config, data_dir=tmp_path).download_and_prepare()

    refuse(released, released.SimxrdConfig(name="a"), "no database is named")
    refuse(released, released.SimxrdConfig(name="a", databases={"dev": databases["train"]}), "no split 'dev'")
    refuse(released, released.SimxrdConfig(name="a", databases={"train": "none.db"}), r"none\.db: no such file")
    refuse(synthetic, synthetic.SyntheticConfig(name="a"), "no library is named")
    refuse(synthetic, synthetic.SyntheticConfig(name="a", library=library_path, patterns={"dev": 1}), "no part 'dev'")
    refuse(synthetic, synthetic.SyntheticConfig(name="a", library=library_path, split="x"), "no split 'x'")


def test_other_settings_under_a_prepared_name_are_refused(released, prepared, databases):
    folder = pathlib.Path(prepared.data_path).parents[2]
    again = released.Builder(config=released.SimxrdConfig(name="mine", databases=databases), data_dir=folder)
    assert len(again.as_data_source("train")) == 2
    other = released.SimxrdConfig(name="mine", databases={"train": databases["test"], "test": databases["train"]})
    builder = released.Builder(config=other, data_dir=folder)
    for action in (builder.download_and_prepare, lambda: builder.as_data_source("train")):
        with pytest.raises(InputError, match="was prepared under other settings of the same name"):
            action()
