"""Records as tf.train.Example: against protobuf's own reading and writing of the published message, and damaged bytes."""

from __future__ import annotations

import numpy as np
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from simxrd_jax.errors import InputError
from simxrd_jax.export.example import decode, encode
from simxrd_jax.export.features import TEXT, checked_columns

from .made import FEATURES, columns_of

COLUMNS = checked_columns(columns_of(np.arange(6)), FEATURES)
MESSAGES = list(encode(COLUMNS, FEATURES))


@pytest.fixture(scope="module")
def example():
    """The class of tf.train.Example, of its published definition (feature.proto, example.proto)."""
    file = descriptor_pb2.FileDescriptorProto(name="example.proto", package="tf", syntax="proto3")
    field = descriptor_pb2.FieldDescriptorProto

    def message(name: str, *fields: tuple, parent=None):
        made = (parent.nested_type if parent else file.message_type).add(name=name)
        for number, (label, kind, what, type_name) in enumerate(fields, 1):
            made.field.add(name=what, number=number, label=label, type=kind, type_name=type_name or None)
        return made

    one, many = field.LABEL_OPTIONAL, field.LABEL_REPEATED
    message("BytesList", (many, field.TYPE_BYTES, "value", ""))
    message("FloatList", (many, field.TYPE_FLOAT, "value", ""))
    message("Int64List", (many, field.TYPE_INT64, "value", ""))
    lists = [(one, field.TYPE_MESSAGE, f"{k}_list", f".tf.{n}List") for k, n in
             (("bytes", "Bytes"), ("float", "Float"), ("int64", "Int64"))]  # fmt: skip
    kind = message("Feature", *lists)
    kind.oneof_decl.add(name="kind")
    for each in kind.field:
        each.oneof_index = 0
    features = message("Features", (many, field.TYPE_MESSAGE, "feature", ".tf.Features.FeatureEntry"))
    entry = message(
        "FeatureEntry", (one, field.TYPE_STRING, "key", ""), (one, field.TYPE_MESSAGE, "value", ".tf.Feature"), parent=features
    )
    entry.options.map_entry = True
    message("Example", (one, field.TYPE_MESSAGE, "features", ".tf.Features"))
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("tf.Example"))


def _values(feature) -> list:
    return list(getattr(feature, feature.WhichOneof("kind")).value)


def test_protobuf_reads_what_is_written(example):
    for i, message in enumerate(MESSAGES):
        read = example.FromString(message).features.feature
        assert set(read) == {f.name for f in FEATURES}
        for f in FEATURES:
            value = COLUMNS[f.name][i]
            wanted = [str(value).encode()] if f.dtype == TEXT else np.ravel(value).tolist()
            assert _values(read[f.name]) == wanted, f.name


def test_the_bytes_are_those_of_protobufs_deterministic_serialization(example):
    """Features in order of their names, lists packed: the only thing left to choose."""
    for message in MESSAGES:
        assert example.FromString(message).SerializeToString(deterministic=True) == message


def test_what_protobuf_writes_is_read(example):
    made = example()
    for f in FEATURES:
        values = COLUMNS[f.name][3]
        if f.dtype == TEXT:
            made.features.feature[f.name].bytes_list.value.append(str(values).encode())
        elif f.dtype == "float32":
            made.features.feature[f.name].float_list.value.extend(np.ravel(values).tolist())
        else:
            made.features.feature[f.name].int64_list.value.extend(np.ravel(values).tolist())
    made.features.feature["one more"].int64_list.value.append(1)
    record = decode(made.SerializeToString(), FEATURES)
    assert list(record) == [f.name for f in FEATURES]
    for f in FEATURES:
        np.testing.assert_array_equal(record[f.name], COLUMNS[f.name][3])
        if f.dtype != TEXT:
            assert (record[f.name].dtype, record[f.name].shape) == (np.dtype(f.dtype), f.shape)


def test_negative_numbers_are_kept(example):
    features = (f for f in FEATURES if f.name == "space_group")
    (feature,) = features
    columns = {"space_group": np.array([-1, -(2**31), 0, 2**31 - 1], np.int32)}
    for message, value in zip(encode(columns, (feature,)), columns["space_group"], strict=True):
        assert decode(message, (feature,))["space_group"] == value
        assert _values(example.FromString(message).features.feature["space_group"]) == [value]


def test_damaged_records_are_refused_or_read_never_crash():
    """Any cut and any changed byte: a message of our own, or a record of the right shapes."""
    random = np.random.default_rng(3)
    message = MESSAGES[3]
    damaged = [message[:n] for n in range(len(message))]
    for place in random.integers(0, len(message), 400):
        changed = bytearray(message)
        changed[place] ^= int(random.integers(1, 256))
        damaged.append(bytes(changed))
    refused = 0
    for data in damaged:
        try:
            record = decode(data, FEATURES)
        except InputError:
            refused += 1
            continue
        assert all(f.dtype == TEXT or record[f.name].shape == f.shape for f in FEATURES)
    assert refused > len(message) * 0.9
