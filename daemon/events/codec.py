"""Events as JSON lines: always encodable, always bounded.

The bus must never raise at its publishers, so whatever they put into ``data`` becomes something that
JSON can say, and an event too large for the journal is shortened rather than lost.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Set
from typing import Any

import msgspec
from msgspec.structs import replace

from daemon.errors import RequestError, RequestFault
from daemon.model.event import Event, event_order

Order = tuple[int, int]
"""An event id as a sort key: epoch, number within it."""

MAX_EVENT_BYTES = 16 * 1024
"""The longest line; the ring of 512 is thereby bounded too."""

_MESSAGE_CHARS = 1024
_NAME_CHARS = 200
_TEXT_CHARS = (512, 64)  # lengths to which the texts in ``data`` are cut, tried in turn
_MAX_DEPTH = 8
_INT_BITS = 1024  # larger numbers are no facts, and JSON readers refuse them
_SHOWN_ID_CHARS = 40


class _IdOnly(msgspec.Struct):
    id: str


_ENCODER = msgspec.json.Encoder()
_DECODER = msgspec.json.Decoder(Event)
_ID_DECODER = msgspec.json.Decoder(_IdOnly)
_UNREADABLE = (msgspec.MsgspecError, ValueError, RecursionError)
_UNENCODABLE = (msgspec.MsgspecError, TypeError, ValueError, OverflowError, RecursionError)


def encode_event(event: Event) -> tuple[Event, bytes]:
    """The event as it reads back from its line, and the line.

    What comes back shares nothing with the publisher's ``data``: a later change of it changes no event.
    """
    try:
        line = _ENCODER.encode(event)
        if len(line) <= MAX_EVENT_BYTES:
            return _DECODER.decode(line), line
    except _UNENCODABLE:
        event = replace(
            event, type=_text(event.type), agent_id=_text(event.agent_id), message=_text(event.message),
            data=_plain(event.data, None),
        )
        line = _ENCODER.encode(event)
    if len(line) > MAX_EVENT_BYTES:
        line = _shortened(event)
    return _DECODER.decode(line), line


def decode_event(line: bytes) -> Event | None:
    """The event of a line, or None when the line is none (another schema, somebody's edit)."""
    try:
        event = _DECODER.decode(line)
        event_order(event.id)
    except _UNREADABLE:
        return None
    return event


def decode_order(line: bytes) -> Order | None:
    """The sort key of a line's event without decoding the rest, or None when the line is none."""
    try:
        return event_order(_ID_DECODER.decode(line).id)
    except _UNREADABLE:
        return None


def parse_event_id(event_id: str) -> Order:
    """The sort key of an id that a client sent.

    Raises:
        RequestError: INVALID; it is not an id of ours.
    """
    try:
        return event_order(event_id)
    except ValueError as error:
        shown = event_id[:_SHOWN_ID_CHARS]
        raise RequestError(
            RequestFault.INVALID, f"Last-Event-ID {shown!r} is not an event id (EPOCH-SEQ); leave it out"
        ) from error


def format_order(order: Order) -> str:
    """The id of a sort key."""
    return f"{order[0]}-{order[1]}"


def _shortened(event: Event) -> bytes:
    event = replace(
        event, type=event.type[:_NAME_CHARS], agent_id=event.agent_id[:_NAME_CHARS],
        message=event.message[:_MESSAGE_CHARS],
    )
    for chars in _TEXT_CHARS:
        data = _plain(event.data, chars) | {"truncated": True}
        line = _ENCODER.encode(replace(event, data=data))
        if len(line) <= MAX_EVENT_BYTES:
            return line
    return _ENCODER.encode(replace(event, data={"truncated": True}))


def _text(value: object) -> str:
    """Text that UTF-8 can say: lone surrogates (undecodable bytes of a log line) become escapes."""
    text = value if isinstance(value, str) else f"<{type(value).__name__}>"
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _plain(data: Mapping[Any, Any], chars: int | None) -> dict[str, Any]:
    plain = _plain_value(data, chars, 0)
    return plain if isinstance(plain, dict) else {}


def _plain_value(value: Any, chars: int | None, depth: int) -> Any:
    """``value`` as JSON can say it, its texts cut to ``chars``; foreign objects become their type's name."""
    if value is None or isinstance(value, bool | float):
        return value
    if isinstance(value, int):
        return int(value) if value.bit_length() <= _INT_BITS else _text(hex(value))[:chars]
    if isinstance(value, bytes | bytearray):
        return bytes(value).decode("utf-8", "backslashreplace")[:chars]
    if isinstance(value, os.PathLike):
        return _text(os.fsdecode(value))[:chars]
    if depth < _MAX_DEPTH:
        if isinstance(value, Mapping):
            return {_key(key)[:chars]: _plain_value(item, chars, depth + 1) for key, item in value.items()}
        if isinstance(value, list | tuple | Set):
            return [_plain_value(item, chars, depth + 1) for item in value]
    return _text(value)[:chars]


def _key(key: object) -> str:
    plain = _plain_value(key, None, _MAX_DEPTH)
    return plain if isinstance(plain, str) else str(plain)
