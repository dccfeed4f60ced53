"""Holds a stream while its client does not read (IPushProducer)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IPushProducer
from zope.interface import implementer

from daemon.web.request import BoundedRequest


@implementer(IPushProducer)
class Pace:
    """Registered as the producer of a request whose body is written bit by bit.

    Attributes:
        stopped: the client has gone.
    """

    def __init__(self) -> None:
        self.stopped = False
        self._waiter: Deferred[None] | None = None

    def pauseProducing(self) -> None:
        """The client's buffer is full."""
        if self._waiter is None:
            self._waiter = Deferred()

    def resumeProducing(self) -> None:
        """The client reads again."""
        waiter, self._waiter = self._waiter, None
        if waiter is not None:
            waiter.callback(None)

    def stopProducing(self) -> None:
        """The client has gone."""
        self.stopped = True
        self.resumeProducing()

    async def ready(self) -> None:
        """Waits until the client reads."""
        if self._waiter is not None:
            await self._waiter


async def write_pieces(
    request: BoundedRequest, pieces: Iterable[bytes], turn: Callable[[], Awaitable[None]] | None = None
) -> None:
    """Writes a body as the client reads it.

    Args:
        request: what is answered.
        pieces: made one by one, when the client has room for them.
        turn: awaited after each, for pieces that take long to make.
    """
    pace = Pace()
    request.registerProducer(pace, True)
    try:
        for piece in pieces:
            request.write(piece)
            if turn is not None:
                await turn()
            await pace.ready()
            if pace.stopped:
                return
    except CancelledError:
        return  # the client has gone
    finally:
        if request.channel is not None:
            request.unregisterProducer()
