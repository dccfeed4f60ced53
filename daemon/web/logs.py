"""An agent's log as plain text: the last lines, or a stream of every new one."""

from __future__ import annotations

from twisted.internet.defer import CancelledError

from daemon.errors import StorageError
from daemon.logs.following import LogFollower, LogStreamClosed
from daemon.web.pace import Pace
from daemon.web.request import BoundedRequest

TEXT = b"text/plain; charset=utf-8"


def log_text(lines: tuple[bytes, ...]) -> bytes:
    """Lines as a body."""
    return b"".join(line + b"\n" for line in lines)


async def serve_log(request: BoundedRequest, follower: LogFollower) -> None:
    """Writes the log to the client until either ends; a client that reads slowly is waited for.

    The caller closes the follower.
    """
    request.setHeader(b"content-type", TEXT)
    request.setHeader(b"cache-control", b"no-store")
    request.setHeader(b"x-accel-buffering", b"no")
    request.write(b"")
    pace = Pace()
    request.registerProducer(pace, True)
    try:
        while not pace.stopped:
            request.write(await follower.next())
            await pace.ready()
    except (LogStreamClosed, CancelledError):
        return
    except StorageError as error:
        request.write(f"hostdaemon: {error}\n".encode())
    finally:
        if request.channel is not None:  # None: the client has gone
            request.unregisterProducer()
