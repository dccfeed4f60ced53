"""A history as JSON, written piece by piece: a day of it is half a megabyte of text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

import msgspec

from daemon.model.usage import HostPoint, UsagePoint
from daemon.web.answers import JSON
from daemon.web.bodies import host_point_body, point_body
from daemon.web.pace import write_pieces
from daemon.web.request import BoundedRequest

PIECE = 100  # points encoded in one go: a millisecond, some 30 KB

_encode = msgspec.json.Encoder().encode


def pieces(agent_id: str, points: Sequence[UsagePoint]) -> Iterator[bytes]:
    """The body ``{"agent_id", "data_points"}`` in pieces."""
    return _pieces(b'{"agent_id":' + _encode(agent_id) + b",", map(point_body, points))


def host_pieces(points: Sequence[HostPoint]) -> Iterator[bytes]:
    """The body ``{"data_points"}`` in pieces."""
    return _pieces(b"{", map(host_point_body, points))


def _pieces(head: bytes, bodies: Iterable[msgspec.Struct]) -> Iterator[bytes]:
    yield head + b'"data_points":['
    texts = map(_encode, bodies)
    comma = b""
    while piece := b",".join(islice(texts, PIECE)):
        yield comma + piece
        comma = b","
    yield b"]}"


async def serve_points(request: BoundedRequest, body: Iterator[bytes]) -> None:
    """Writes the body as the client reads it."""
    request.setHeader(b"content-type", JSON)
    if request.method != b"HEAD":
        await write_pieces(request, body)
