"""Reads and writes `tf.train.Example`, the records of TensorFlow Datasets.

A protocol buffer: field 1 of an Example is the Features, field 1 of those an
entry of a map for each feature, with the name in field 1 and the Feature in
field 2. A Feature is one of: field 1, bytes; field 2, floats; field 3, ints; of
each field 1 has the values, numbers packed or not. Source: TensorFlow's
`example.proto` and `feature.proto`, and the encoding of protocol buffers.
"""

from collections.abc import Iterator, Mapping
from typing import Any

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_SIGN = 2**63


def read_example(record: bytes) -> dict[str, list[Any]]:
    """Returns the features of an Example by name; floats are left out.

    Args:
      record: the serialized Example.

    Returns:
      Lists of bytes or of ints.

    Raises:
      ValueError: if it is none.
    """
    found: dict[str, list[Any]] = {}
    for features in _parts(record, 1):
        for entry in _parts(features, 1):
            name = b''.join(_parts(entry, 1)).decode()
            for feature in _parts(entry, 2):
                values: list[Any] = []
                for kind, _, value in _fields(feature):
                    if kind == 1:
                        values += _parts(value, 1)
                    elif kind == 3:
                        values += _integers(value)
                found[name] = values
    return found


def write_example(features: Mapping[str, bytes | int]) -> bytes:
    """Returns a serialized Example of features of one value each.

    Args:
      features: bytes, or an int of at least 0, by name.
    """
    entries = []
    for name, value in features.items():
        if isinstance(value, bytes):
            feature = _field(1, _field(1, value))
        else:
            feature = _field(3, _field(1, _varint(value)))
        entries.append(_field(1, _field(1, name.encode()) + _field(2, feature)))
    return _field(1, b''.join(entries))


def _field(number: int, data: bytes) -> bytes:
    return bytes([number << 3 | _BYTES]) + _varint(len(data)) + data


def _varint(value: int) -> bytes:
    made = bytearray()
    while value > 127:
        made.append(value & 127 | 128)
        value >>= 7
    return bytes([*made, value])


def _read_varint(data: bytes, start: int) -> tuple[int, int]:
    value = 0
    for i in range(10):
        if start + i >= len(data):
            break
        byte = data[start + i]
        value |= (byte & 127) << (7 * i)
        if byte < 128:
            return value, start + i + 1
    raise ValueError('is no tf.train.Example')


def _fields(data: bytes) -> Iterator[tuple[int, int, Any]]:
    """Yields number, type of wire and value of each field."""
    position = 0
    while position < len(data):
        tag, position = _read_varint(data, position)
        wire, size = tag & 7, 0
        if wire == _VARINT:
            value, position = _read_varint(data, position)
            yield tag >> 3, wire, value
            continue
        if wire == _BYTES:
            size, position = _read_varint(data, position)
        elif wire in (_FIXED64, _FIXED32):
            size = 8 if wire == _FIXED64 else 4
        else:
            raise ValueError('is no tf.train.Example')
        if position + size > len(data):
            raise ValueError('is no tf.train.Example')
        yield tag >> 3, wire, data[position : position + size]
        position += size


def _parts(data: bytes, number: int) -> list[bytes]:
    """Returns the values of a field that are bytes."""
    return [v for n, wire, v in _fields(data) if (n, wire) == (number, _BYTES)]


def _integers(data: bytes) -> list[int]:
    found: list[int] = []
    for number, wire, value in _fields(data):
        if number != 1:
            continue
        if wire == _VARINT:
            found.append(value)
        elif wire == _BYTES:
            position = 0
            while position < len(value):
                one, position = _read_varint(value, position)
                found.append(one)
    return [v - 2 * _SIGN if v >= _SIGN else v for v in found]
