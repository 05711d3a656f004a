"""Host zone. Records as `tf.train.Example` messages: what TensorFlow Datasets keeps in ArrayRecord files.

Why by hand: the wire format is three nested messages of a few bytes around the numbers. Written so, a pattern is one copy of
its array; protobuf's Python classes take a number at a time, which costs more than simulating the pattern. Equal records have
equal bytes: features stand in order of their names. Reference: protobuf.dev/programming-guides/encoding and
tensorflow/core/example/{example,feature}.proto.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence

import numpy as np

from simxrd_jax.errors import InputError
from simxrd_jax.export.features import TEXT, Columns, Feature, Record

BYTES_LIST, FLOAT_LIST, INT64_LIST = 1, 2, 3  # fields of Feature
LENGTH_DELIMITED = 2  # wire type


def encode(columns: Columns, features: Sequence[Feature]) -> Iterator[bytes]:
    """One message for each record.

    Args:
      columns: see `features.checked_columns`.
      features: of the set.
    """
    ordered = sorted(features, key=lambda f: f.name)
    # Floats take the same bytes in each record but for the numbers: neighbours are laid out for all records at once.
    groups = itertools.groupby(ordered, key=lambda f: f.dtype == "float32")
    pieces: list[Sequence[bytes]] = []
    for are_floats, members in groups:
        if are_floats:
            pieces.append(_float_entries([(f.name, columns[f.name]) for f in members]))
        else:
            pieces += [_other_entries(f, columns[f.name]) for f in members]
    for parts in zip(*pieces, strict=True):
        yield _field(1, b"".join(parts))


def _entry(name: str, content: bytes) -> bytes:
    """One entry of the map from names to features."""
    return _field(1, _field(1, name.encode()) + _field(2, content))


def _float_entries(named: Sequence[tuple[str, np.ndarray]]) -> list[bytes]:
    """The entries of some features of floats, one after the other, of each record."""
    parts = []
    for name, values in named:
        width = math.prod(values.shape[1:])
        numbers = np.ascontiguousarray(values, dtype="<f4").reshape(len(values), width).view(np.uint8)
        blank = _entry(name, _field(FLOAT_LIST, _field(1, bytes(numbers.shape[1]))))
        head = np.frombuffer(blank[: len(blank) - numbers.shape[1]], dtype=np.uint8)
        parts += [np.broadcast_to(head, (len(values), head.size)), numbers]
    rows = np.concatenate(parts, axis=1)
    return [row.tobytes() for row in rows]


def _other_entries(feature: Feature, values: np.ndarray) -> list[bytes]:
    """The entry of a feature of whole numbers or text, of each record; most values are there many times."""
    if feature.dtype == TEXT:
        contents = ((text, _field(BYTES_LIST, _field(1, text.encode()))) for text in set(values.tolist()))
        known = {text: _entry(feature.name, content) for text, content in contents}
        return [known[text] for text in values.tolist()]
    rows = [tuple(row) for row in values.reshape(len(values), math.prod(values.shape[1:])).tolist()]
    known = {row: _entry(feature.name, _field(INT64_LIST, _field(1, b"".join(map(_varint, row))))) for row in set(rows)}
    return [known[row] for row in rows]


def _field(number: int, body: bytes) -> bytes:
    return bytes([number << 3 | LENGTH_DELIMITED]) + _varint(len(body)) + body


def _varint(value: int) -> bytes:
    """Seven bits a byte, the lowest first; a negative number as its two's complement of 64 bits."""
    value &= 0xFFFFFFFFFFFFFFFF
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def decode(message: bytes, features: Sequence[Feature]) -> Record:
    """The values of one message.

    Raises:
      InputError: it is no such message, or lacks a feature.
    """
    known = {f.name: f for f in features}
    record: Record = {}
    try:
        for inner in _bodies(memoryview(message), 1):
            for entry in _bodies(inner, 1):
                name = bytes(next(_bodies(entry, 1))).decode()
                if name in known:
                    record[name] = _value(next(_bodies(entry, 2)), known[name])
    except (IndexError, StopIteration, UnicodeDecodeError, ValueError) as error:
        raise InputError(
            f"a record is damaged ({error or type(error).__name__}); check the set with `simxrd verify`"
        ) from None
    missing = [name for name in known if name not in record]
    if missing:
        raise InputError(f"a record lacks {', '.join(missing)}; check the set with `simxrd verify`")
    return {f.name: record[f.name] for f in features}


def _value(content: memoryview, feature: Feature) -> np.ndarray | str:
    if feature.dtype == TEXT:
        return bytes(next(_bodies(next(_bodies(content, BYTES_LIST)), 1))).decode()
    if feature.dtype == "float32":
        values = np.frombuffer(next(_bodies(next(_bodies(content, FLOAT_LIST)), 1)), dtype="<f4")
        return values.astype(np.float32).reshape(feature.shape)  # a copy that may be written to: PyTorch warns of others
    body, place, numbers = next(_bodies(next(_bodies(content, INT64_LIST)), 1)), 0, []
    while place < len(body):
        number, place = _read_varint(body, place)
        numbers.append(number - (1 << 64) if number >> 63 else number)
    return np.array(numbers, dtype=np.int64).astype(feature.dtype).reshape(feature.shape)


def _bodies(message: memoryview, wanted: int) -> Iterator[memoryview]:
    """Bodies of the fields of one number; a message here has no fields but length-delimited ones."""
    place = 0
    while place < len(message):
        tag, place = _read_varint(message, place)
        if tag & 7 != LENGTH_DELIMITED:
            raise ValueError(f"a field of wire type {tag & 7}")
        length, place = _read_varint(message, place)
        if place + length > len(message):
            raise ValueError("a field that is longer than its message")
        if tag >> 3 == wanted:
            yield message[place : place + length]
        place += length


def _read_varint(message: memoryview, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[place]
        value |= (byte & 0x7F) << shift
        place += 1
        if byte < 0x80:
            return value, place
        shift += 7
        if shift > 63:
            raise ValueError("a number of more than 64 bits")
