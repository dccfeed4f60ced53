"""Protobuf by hand, from the numbers of the contract alone: nothing of the generated code is in it.

A message is a mapping from field number to value: bytes and text are length-delimited, whole numbers are
varints, floats are doubles, a list repeats its field, a mapping is a message of its own. See
https://protobuf.dev/programming-guides/encoding/.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any

VARINT, DOUBLE, BYTES = 0, 1, 2

UNKNOWN: Mapping[int, Any] = {99: "from a later version", 100: 2**40, 101: 1.5, 2000: {1: [b"\x00\xff", "x"]}}
"""Fields no contract knows yet."""


def write(message: Mapping[int, Any]) -> bytes:
    """The message on the wire; what is zero or empty is left out, as proto3 has it."""
    return b"".join(_field(number, value) for number, value in message.items())


def read(data: bytes) -> dict[int, list[Any]]:
    """Every field of a message, in order; what is length-delimited stays bytes."""
    found: dict[int, list[Any]] = {}
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        number, kind = key >> 3, key & 7
        value: Any
        if kind == VARINT:
            value, at = _varint(data, at)
        elif kind == DOUBLE:
            (value,), at = struct.unpack_from("<d", data, at), at + 8
        else:
            assert kind == BYTES, f"field {number} is of kind {kind}"
            size, at = _varint(data, at)
            assert at + size <= len(data), f"field {number} ends beyond the message"
            value, at = data[at: at + size], at + size
        found.setdefault(number, []).append(value)
    return found


def one(message: Mapping[int, list[Any]], number: int, absent: Any = b"") -> Any:
    """A field that comes once or not at all."""
    values = message.get(number, [absent])
    assert len(values) == 1, f"field {number} came {len(values)} times"
    return values[0]


def entries(message: Mapping[int, list[Any]], number: int) -> dict[str, Any]:
    """A map field: its keys are text."""
    pairs = [read(each) for each in message.get(number, [])]
    return {one(pair, 1).decode(): one(pair, 2, 0) for pair in pairs}


def _field(number: int, value: Any) -> bytes:
    if isinstance(value, list):
        return b"".join(_field(number, each) for each in value)
    if isinstance(value, bool | int):
        return _key(number, VARINT) + _number(value) if value else b""
    if isinstance(value, float):
        return _key(number, DOUBLE) + struct.pack("<d", value)
    data = write(value) if isinstance(value, Mapping) else value.encode() if isinstance(value, str) else value
    return _key(number, BYTES) + _number(len(data)) + data


def _key(number: int, kind: int) -> bytes:
    return _number(number << 3 | kind)


def _number(value: int) -> bytes:
    value &= 2**64 - 1  # negative numbers take ten bytes
    found = bytearray()
    while value > 127:
        found.append(value & 127 | 128)
        value >>= 7
    return bytes(found) + bytes([value])


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value, shift, at = value | (byte & 127) << shift, shift + 7, at + 1
        if byte < 128:
            return value - 2**64 if value >= 2**63 else value, at
