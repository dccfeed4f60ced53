"""The newest events in memory, and the rules for reading on after an id without a silent gap.

:class:`EventHistory` alone serves a daemon whose disk cannot be used; the journal adds what is older.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, replace

from daemon.errors import RequestError, RequestFault
from daemon.events.codec import Order, format_order, parse_event_id
from daemon.model.event import Event, event_order

RING_EVENTS = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class EventPage:
    """A run of events, nothing missing between them.

    Attributes:
        events: oldest first.
        gap: whether events are missing between the id that was asked for and the first of these.
        lost: how many are missing; None when nobody can tell.
        position: read on after this id. Equal to the history's own position when there is no more.
    """

    events: tuple[Event, ...]
    gap: bool
    lost: int | None
    position: str


def is_next(order: Order, following: Order) -> bool:
    """Whether nothing can have been published between two events next to each other in the journal."""
    if following[0] == order[0]:
        return following[1] == order[1] + 1
    return following[0] > order[0] and following[1] == 1


def find_gap(
    cursor: Order, previous: Order | None, following: Order | None, epoch: int
) -> tuple[bool, int | None]:
    """Whether events after ``cursor`` are gone, and how many.

    Args:
        cursor: the id the reader has got.
        previous: the last known event at or before the cursor.
        following: the first known event after it.
        epoch: the current one.

    Returns:
        gap, and the number of lost events (None: unknown). Where the cursor's epoch is still on record
        and the next known event begins another one, nothing is known to be lost.
    """
    if following is not None and following[0] == cursor[0]:
        lost = following[1] - cursor[1] - 1
        return lost > 0, lost
    of_known_epoch = cursor[0] == epoch or (previous is not None and previous[0] == cursor[0])
    if of_known_epoch and (following is None or following[1] == 1):
        return False, 0
    return True, None


class EventHistory:
    """Ids and a ring of the newest events.

    Args:
        epoch: the first half of the ids issued from now on; larger than every one before.
        ring_size: how many events are kept in memory.
    """

    def __init__(self, epoch: int, ring_size: int = RING_EVENTS) -> None:
        self.epoch = epoch
        self._issued: Order = (epoch, 0)
        self._ring: deque[tuple[Order, Event]] = deque(maxlen=ring_size)

    @property
    def position(self) -> str:
        """The newest id issued; ``EPOCH-0`` before the first."""
        return format_order(self._issued)

    def issue(self) -> str:
        """The next id."""
        self._issued = (self._issued[0], self._issued[1] + 1)
        return format_order(self._issued)

    def store(self, event: Event, line: bytes) -> None:
        """Keeps the event that got the newest id.

        Raises:
            StorageError: it is kept in memory only (never raised without a disk).
        """
        self._ring.append((event_order(event.id), event))

    def latest(self, limit: int) -> tuple[Event, ...]:
        """The newest ``limit`` events, oldest first; not more than the ring holds."""
        return tuple(event for _order, event in list(self._ring)[max(0, len(self._ring) - limit):])

    async def read_after(self, event_id: str | None, limit: int) -> EventPage:
        """Up to ``limit`` events after an id, up to the next gap.

        An id that was never issued (the journal was deleted, and the clock went back) reads from the
        oldest event, with a gap.

        Args:
            event_id: the last one the reader has got; None reads from the oldest event there is.
            limit: at least 1.

        Raises:
            RequestError: INVALID; the id or the limit is not one.
            StorageError: the journal cannot be read.
        """
        if limit < 1:
            raise RequestError(RequestFault.INVALID, "limit must be at least 1")
        cursor = None if event_id is None else parse_event_id(event_id)
        if cursor is not None and cursor > self._issued:
            return replace(await self._read(None, limit), gap=True, lost=None)
        return await self._read(cursor, limit)

    async def _read(self, cursor: Order | None, limit: int) -> EventPage:
        while True:
            if self._ring_reaches(cursor):
                return self._from_ring(cursor, None, limit)
            oldest = self._ring[0][0]
            previous, older = await self._older(cursor, oldest, limit)
            if older:
                return self._page(cursor, previous, older, limit)
            if self._ring[0][0] == oldest:
                return self._from_ring(cursor, previous, limit)
            # The ring moved on while the disk was read: what it lost is on the disk by now.

    async def _older(
        self, cursor: Order | None, before: Order, limit: int
    ) -> tuple[Order | None, tuple[Event, ...]]:
        """What memory does not hold: the last event up to the cursor, and those between it and ``before``."""
        return None, ()

    def _ring_reaches(self, cursor: Order | None) -> bool:
        if not self._ring:
            return True
        oldest = self._ring[0][0]
        if cursor is None:
            return False
        return cursor >= oldest or (cursor[0] == oldest[0] and is_next(cursor, oldest))

    def _from_ring(self, cursor: Order | None, previous: Order | None, limit: int) -> EventPage:
        newer: list[Event] = []
        for order, event in self._ring:
            if cursor is not None and order <= cursor:
                previous = order
            else:
                newer.append(event)
        return self._page(cursor, previous, newer, limit)

    def _page(
        self, cursor: Order | None, previous: Order | None, candidates: Iterable[Event], limit: int
    ) -> EventPage:
        events: list[Event] = []
        last: Order | None = None
        first: Order | None = None
        for event in candidates:
            order = event_order(event.id)
            if len(events) >= limit or (last is not None and not is_next(last, order)):
                break
            first = first or order
            last = order
            events.append(event)
        gap, lost = (False, 0) if cursor is None else find_gap(cursor, previous, first, self.epoch)
        position = self.position if last is None else format_order(last)
        return EventPage(events=tuple(events), gap=gap, lost=lost, position=position)
