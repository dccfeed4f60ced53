"""Server-sent events out of pieces of a stream (WHATWG HTML 9.2.6); pure."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One message: its type (``message`` when it names none), its id (empty for none) and its JSON."""

    event: str
    id: str
    data: Any


class SseParser:
    """Takes a stream piece by piece, wherever it is cut."""

    def __init__(self) -> None:
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        self._rest = ""
        self._event, self._id = "", ""
        self._data: list[str] = []

    def feed(self, piece: bytes) -> Iterator[Message]:
        """The messages that this piece completes.

        Raises:
            ValueError: data that is no JSON; this is no stream of ours.
        """
        text = self._rest + self._decode(piece)
        *lines, self._rest = text.split("\n")
        for line in lines:
            message = self._line(line.removesuffix("\r"))
            if message is not None:
                yield message

    def _line(self, line: str) -> Message | None:
        if not line:
            event, data, number = self._event, self._data, self._id
            self._event, self._data, self._id = "", [], ""
            if not data:
                return None
            return Message(event=event or "message", id=number, data=json.loads("\n".join(data)))
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "event":
            self._event = value
        elif field == "id":
            self._id = value
        elif field == "data":
            self._data.append(value)
        return None  # comments and retry: we keep our own time
