"""Events to a browser or a program as they happen (server-sent events, WHATWG HTML 9.2)."""

from __future__ import annotations

import msgspec
from twisted.internet.defer import CancelledError

from daemon.aio.periodic import periodic
from daemon.aio.reactor import Clock
from daemon.errors import StorageError
from daemon.events.stream import EventStream, Gap, StreamClosed
from daemon.model.event import Event
from daemon.web.bodies import event_body
from daemon.web.pace import Pace
from daemon.web.request import BoundedRequest

EVENTS_TYPE = b"text/event-stream; charset=utf-8"
KEEP_ALIVE_S = 15.0  # a comment, so that proxies and clients see that the stream lives

_encode = msgspec.json.Encoder(enc_hook=str).encode


def frame(item: Event | Gap) -> bytes:
    """One event, or the notice of a gap, as the stream shows it."""
    if isinstance(item, Gap):
        return b"event: gap\ndata: " + _encode({"after": item.after, "lost": item.lost}) + b"\n\n"
    # JSON has no raw line breaks, so one data line always serves.
    head = f"id: {item.id}\nevent: {item.type}\ndata: ".encode()
    return head + _encode(event_body(item)) + b"\n\n"


async def serve_events(clock: Clock, request: BoundedRequest, stream: EventStream) -> None:
    """Writes the stream to the client until either ends; never holds more than the stream's bound for it."""
    request.setHeader(b"content-type", EVENTS_TYPE)
    request.setHeader(b"cache-control", b"no-store")
    request.write(b"retry: 2000\n\n")
    pace = Pace()
    request.registerProducer(pace, True)
    keep_alive = periodic(
        clock, KEEP_ALIVE_S, lambda: request.write(b": alive\n\n"), name="event stream", phase_s=KEEP_ALIVE_S
    )
    try:
        while not pace.stopped:
            item = await stream.next()
            request.write(frame(item))
            await pace.ready()
    except (StreamClosed, CancelledError):
        return
    except StorageError as error:
        body = _encode({"code": error.code.value, "detail": error.message})
        request.write(b"event: error\ndata: " + body + b"\n\n")
    finally:
        await keep_alive.stop()
        if request.channel is not None:  # None: the client has gone
            request.unregisterProducer()
