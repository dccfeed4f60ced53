"""One reader that follows the events: first what it missed, then live, without a gap or a repeat.

The queue of a slow reader is bounded. When it is full the reader simply falls behind and reads the journal
again, so it loses nothing that the journal still holds; what is gone is told as a :class:`Gap`.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from twisted.internet.defer import Deferred

from daemon.events.bus import EventBus
from daemon.events.codec import parse_event_id
from daemon.model.event import Event, event_order

QUEUE_EVENTS = 256
PAGE_EVENTS = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """Events are missing here.

    Attributes:
        after: the last id before the gap.
        lost: how many are missing; None when nobody can tell.
    """

    after: str
    lost: int | None


class StreamClosed(Exception):
    """The stream was closed; nothing more comes."""


class EventStream:
    """A subscription; the edges make one per client and close it when the client leaves.

    Args:
        bus: what is followed.
        last_event_id: the last event the client has got; None follows from now on.
        queue_size: live events kept for a reader that is busy.
        page_size: events read from the history at once.

    Raises:
        RequestError: INVALID; the id is not one.
    """

    def __init__(
        self,
        bus: EventBus,
        last_event_id: str | None = None,
        *,
        queue_size: int = QUEUE_EVENTS,
        page_size: int = PAGE_EVENTS,
    ) -> None:
        if last_event_id is not None:
            parse_event_id(last_event_id)
        self._bus = bus
        self._queue: deque[Event | Gap] = deque()
        self._queue_size = queue_size
        self._page_size = page_size
        self._tail = bus.position if last_event_id is None else last_event_id  # the last id queued
        self._behind = last_event_id is not None  # read the history before live events are taken
        self._waiter: Deferred[None] | None = None
        self._reading = False
        self._closed = False
        self._unsubscribe = bus.subscribe(self._published)

    @property
    def closed(self) -> bool:
        """Whether :meth:`close` was called."""
        return self._closed

    async def next(self) -> Event | Gap:
        """The next event or gap; waits until there is one. One caller at a time.

        Raises:
            StreamClosed: the stream was closed, before or while waiting.
            StorageError: the journal cannot be read; a later call tries again at the same place.
        """
        if self._reading:
            raise RuntimeError("next() is under way already")
        self._reading = True
        try:
            while not self._closed:
                if self._queue:
                    return self._queue.popleft()
                if self._behind:
                    await self._catch_up()
                else:
                    self._waiter = Deferred()
                    await self._waiter
            raise StreamClosed
        finally:
            self._reading = False
            self._waiter = None

    async def _catch_up(self) -> None:
        page = await self._bus.read_after(self._tail, self._page_size)
        if page.gap:
            self._queue.append(Gap(after=self._tail, lost=page.lost))
        self._queue.extend(page.events)
        self._tail = page.position
        self._behind = self._tail != self._bus.position

    def _published(self, event: Event) -> None:
        if self._behind or event_order(event.id) <= event_order(self._tail):
            return  # it comes, or came, out of the history
        if len(self._queue) >= self._queue_size:
            self._behind = True
            return
        self._queue.append(event)
        self._tail = event.id
        self._wake()

    def _wake(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.called:
            waiter.callback(None)

    def close(self) -> None:
        """Ends the subscription; a ``next()`` that waits raises :class:`StreamClosed`."""
        if self._closed:
            return
        self._closed = True
        self._unsubscribe()
        self._queue.clear()
        self._wake()
