"""An agent's history as JSON, written piece by piece: a day of it is half a megabyte of text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice

import msgspec

from daemon.model.usage import UsagePoint
from daemon.web.bodies import point_body
from daemon.web.pace import write_pieces
from daemon.web.request import BoundedRequest

PIECE = 100  # points encoded in one go: a millisecond, some 30 KB

_encode = msgspec.json.Encoder().encode


def pieces(agent_id: str, points: Sequence[UsagePoint]) -> Iterator[bytes]:
    """The body ``{"agent_id", "data_points"}`` in pieces."""
    yield b'{"agent_id":' + _encode(agent_id) + b',"data_points":['
    bodies = (_encode(point_body(point)) for point in points)
    comma = b""
    while piece := b",".join(islice(bodies, PIECE)):
        yield comma + piece
        comma = b","
    yield b"]}"


async def serve_points(request: BoundedRequest, agent_id: str, points: Sequence[UsagePoint]) -> None:
    """Writes the body as the client reads it."""
    await write_pieces(request, pieces(agent_id, points))
