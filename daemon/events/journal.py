"""The durable journal of events: JSON lines that survive ``kill -9``.

It feeds the resumption of event streams, the Manager and diagnostics alike.
"""

from __future__ import annotations

from pathlib import Path

from daemon.aio.threads import LaneBusy, LaneTimeout, Threads
from daemon.durable.journal import Journal, Position
from daemon.errors import StorageError
from daemon.events.codec import Order, decode_event, decode_order
from daemon.events.history import RING_EVENTS, EventHistory, is_next
from daemon.interfaces import WallClock
from daemon.model.event import Event, event_order

READ_LANE = "events-read"
SYNC_LANE = "events-sync"  # apart: a slow fsync must not hold readers, whom the page cache serves
READ_DEADLINE_S = 10.0
SYNC_DEADLINE_S = 10.0


class EventJournal(EventHistory):
    """Opens the journal of a directory and loads its newest events into the ring. Blocks: made at start.

    The epoch is the wall clock's second, or one more than the last epoch on record where that is larger
    (two starts within a second, a clock that went back): ids only grow.

    Args:
        directory: holds nothing else; made when it is missing.
        wall: read once.
        threads: where older events are read and fsync is called.
        segment_bytes: see :class:`Journal`.
        segments: see :class:`Journal`.
        ring_size: how many events are kept in memory.

    Raises:
        StorageError: the directory cannot be used.

    Attributes:
        undecodable_total: intact lines among the newest that are no events, found at opening.
    """

    def __init__(
        self,
        directory: Path,
        wall: WallClock,
        threads: Threads,
        *,
        segment_bytes: int = 1024 * 1024,
        segments: int = 8,
        ring_size: int = RING_EVENTS,
    ) -> None:
        self._disk = Journal(directory, segment_bytes=segment_bytes, segments=segments)
        self._threads = threads
        self.undecodable_total = 0
        loaded: list[tuple[Order, Event]] = []
        for line in self._disk.tail(ring_size):
            event = decode_event(line)
            if event is None:
                self.undecodable_total += 1
                continue
            order = event_order(event.id)
            if not loaded or order > loaded[-1][0]:
                loaded.append((order, event))
        last_epoch = loaded[-1][0][0] if loaded else 0
        super().__init__(max(last_epoch + 1, int(wall())), ring_size)
        self._ring.extend(loaded)

    @property
    def directory(self) -> Path:
        """Where the segments are."""
        return self._disk.directory

    @property
    def corrupt_total(self) -> int:
        """Unreadable lines found at opening."""
        return self._disk.corrupt_total

    @property
    def dropped_total(self) -> int:
        """Events that the journal's bound took since opening."""
        return self._disk.dropped_total

    @property
    def dirty(self) -> bool:
        """Whether something waits for :meth:`sync`."""
        return self._disk.dirty

    def store(self, event: Event, line: bytes) -> None:
        """See :meth:`EventHistory.store`; one write into the page cache, on the reactor."""
        super().store(event, line)
        if len(line) > self._disk.max_line_bytes:
            raise StorageError(
                f"event {event.id} is too large for the journal in {self._disk.directory}; "
                "configure larger segments", errno=0, path=str(self._disk.directory),
            )
        self._disk.append(line)

    async def sync(self) -> None:
        """Makes every event so far survive a power failure.

        Raises:
            StorageError: the disk refuses or does not answer within 10 s.
        """
        try:
            await self._threads.run(SYNC_LANE, SYNC_DEADLINE_S, self._disk.sync)
        except (LaneTimeout, LaneBusy) as error:
            raise self._no_answer(error) from error

    def close(self) -> None:
        """Gives the descriptor back; later events are kept in memory only and count as lost."""
        self._disk.close()

    async def _older(
        self, cursor: Order | None, before: Order, limit: int
    ) -> tuple[Order | None, tuple[Event, ...]]:
        try:
            return await self._threads.run(
                READ_LANE, READ_DEADLINE_S, read_older, self._disk, cursor, before, limit
            )
        except (LaneTimeout, LaneBusy) as error:
            raise self._no_answer(error) from error

    def _no_answer(self, error: Exception) -> StorageError:
        return StorageError(
            f"the event journal in {self._disk.directory} does not answer ({error}); check that disk",
            errno=0, path=str(self._disk.directory),
        )


def read_older(
    disk: Journal, cursor: Order | None, before: Order, limit: int
) -> tuple[Order | None, tuple[Event, ...]]:
    """Reads from the disk; see ``EventHistory._older``. Runs on a thread while appends go on.

    Raises:
        StorageError: the journal cannot be read.
    """
    previous: Order | None = None
    events: list[Event] = []
    newest = cursor
    for entry in disk.read_from(_segment_of(disk, cursor)):
        order = decode_order(entry.line)
        if order is None:
            continue
        if order >= before:
            break
        if cursor is not None and order <= cursor:
            previous = order if previous is None else max(previous, order)
            continue
        if newest is not None and order <= newest:
            continue  # out of order: somebody's edit
        event = decode_event(entry.line)
        if event is None:
            continue
        if events and newest is not None and not is_next(newest, order):
            break  # a page ends at a gap
        newest = order
        events.append(event)
        if len(events) >= limit:
            break
    return previous, tuple(events)


def _segment_of(disk: Journal, cursor: Order | None) -> Position | None:
    """Where to begin reading: the last segment whose first event is not after the cursor."""
    if cursor is None:
        return None
    found: Position | None = None
    for start in disk.starts():
        first = next((order for entry in disk.read_from(start) if (order := decode_order(entry.line))), None)
        if first is None or first > cursor:
            break
        found = start
    return found
