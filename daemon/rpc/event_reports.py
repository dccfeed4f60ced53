"""Events and the daemon's own warnings on their way to a Manager that offers hostdaemon.v1.Reports.

The journal of events is the queue: a durable position says which of them the Manager has got. Log entries
wait in memory. Both are bounded, and what a bound took is told as a number.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from daemon.aio.reactor import Clock
from daemon.aio.shielded import shielded
from daemon.aio.sleep import sleep
from daemon.aio.threads import LaneBusy, LaneTimeout, Threads
from daemon.durable.cursor import Cursor
from daemon.errors import ErrorCode, StorageError
from daemon.events.bus import EventBus
from daemon.model.event import Event, event_order
from daemon.rpc.link_errors import CallFailed, FaultKind
from daemon.rpc.link_state import Attempts, Notes, Session
from daemon.rpc.link_wire import LogEntry
from daemon.rpc.log_tap import LogTap
from daemon.rpc.wake import Wake

PAGE = 64  # events of 16 KiB at most: 1 MiB
PACE_S = 0.25
COALESCE_S = 1.0
ASK_AGAIN_S = 3600.0  # a Manager that does not offer it may be a newer one by then
READ_AGAIN_S = 60.0  # a journal that cannot be read
LANE = "reports-position"
DEADLINE_S = 10.0
POSITION_FILE = "events"


class EventReporter:
    """Reports until it is cancelled; a Manager without the service is asked again hourly and at each connect.

    Args:
        clock: waits.
        threads: where the position is kept.
        bus: the events.
        tap: log entries.
        node_id: whose they are.
        directory: ``work_dir/state/reports``.
        attempts: of the events.
        notes: hears of a journal that cannot be read.

    Attributes:
        dropped_total: events and entries lost before they were reported.
    """

    log = Logger()

    def __init__(
        self, clock: Clock, threads: Threads, bus: EventBus, tap: LogTap, node_id: str, directory: Path,
        attempts: Attempts, notes: Notes,
    ) -> None:
        self._clock = clock
        self._threads = threads
        self._bus = bus
        self._tap = tap
        self._node_id = node_id
        self._directory = directory
        self._attempts = attempts
        self._notes = notes
        self._cursor: Cursor | None = None
        self._opened: Cursor | None = None  # by the lane, perhaps later than its deadline
        self._position: str | None = None  # the last event the Manager has got
        self._told_to = 0  # of the dropped ones, how many it knows of
        self._gaps = 0  # events lost to the journal's bounds
        self._refused = 0
        self._limit = PAGE
        self._wake = Wake(clock)

    @property
    def dropped_total(self) -> int:
        """See the class."""
        return self._gaps + self._refused + self._tap.dropped_total

    def news(self) -> None:
        """Something was published or logged."""
        self._wake.set()

    async def run(self, session: Session) -> None:
        """Reports until it is cancelled."""
        unsubscribe = self._bus.subscribe(lambda _event: self.news())
        try:
            await self._load()
            while True:
                await self._round(session)
        finally:
            unsubscribe()

    async def _round(self, session: Session) -> None:
        try:
            page = await self._bus.read_after(self._position, self._limit)
        except StorageError as error:
            self._notes.failed("events", error.code, error.message)
            await sleep(self._clock, READ_AGAIN_S)
            return
        logs = self._tap.waiting(self._limit - len(page.events))
        if not (page.events or logs):
            if page.gap:
                self._skip(page.lost, page.position)
            await self._wake.wait()
            await sleep(self._clock, COALESCE_S)
            return
        lost = max(1, page.lost or 0) if page.gap else 0
        dropped = self.dropped_total + lost
        failed = await self._attempts.make(session, session.calls.report_events(
            self._node_id, page.events, logs, max(0, dropped - self._told_to)
        ))
        if failed is not None:
            await self._failed(failed, page.events, logs)
            return
        self._gaps += lost
        self._told_to = dropped
        self._limit = min(PAGE, self._limit * 2)
        await self._done(page.events, logs)
        await sleep(self._clock, PACE_S)

    def _skip(self, lost: int | None, position: str) -> None:
        """Nothing is left of what was published after our position."""
        self._gaps += max(1, lost or 0)
        self._position = position

    async def _done(self, events: Sequence[Event], logs: tuple[LogEntry, ...]) -> None:
        self._tap.done(logs)
        if events:
            self._position = events[-1].id
            await self._keep(self._position)

    async def _failed(
        self, failed: CallFailed, events: tuple[Event, ...], logs: tuple[LogEntry, ...]
    ) -> None:
        if failed.kind is FaultKind.NOT_OFFERED:
            await sleep(self._clock, ASK_AGAIN_S)
            return
        count = len(events) + len(logs)
        if failed.kind is FaultKind.INVALID and count == 1:
            self._refused += 1  # it would be refused again
            await self._done(events, logs)
            await sleep(self._clock, PACE_S)
            return
        if failed.kind in (FaultKind.INVALID, FaultKind.BUSY):
            self._limit = max(1, count // 2)
        if failed.kind is FaultKind.INVALID:
            await sleep(self._clock, PACE_S)
        else:
            await self._attempts.pause(failed)

    # ---------------------------------------------------------------- position

    async def _load(self) -> None:
        if self._cursor is not None:
            return

        def read() -> Cursor:
            if self._opened is None:
                self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
                self._opened = Cursor(self._directory / POSITION_FILE)
            return self._opened  # also what an earlier call opened after its deadline

        try:
            self._cursor = await shielded(self._threads.run(LANE, DEADLINE_S, read))
        except (StorageError, OSError, LaneBusy, LaneTimeout) as error:
            self._not_kept(error)
            return
        if self._cursor.unreadable is not None:
            self.log.warn(
                "D1004 which events were reported was unreadable, and all there are go to the Manager again; "
                "kept as {kept}; check that disk",
                kept=str(self._cursor.unreadable), error_code="D1004",
            )
        kept = self._cursor.values
        if self._position is None and kept:
            self._position = f"{kept.get('epoch', 0)}-{kept.get('number', 0)}"

    async def _keep(self, position: str) -> None:
        cursor = self._cursor
        if cursor is None:
            return
        epoch, number = event_order(position)
        written: Deferred[None] = self._threads.run(
            LANE, DEADLINE_S, cursor.write, {"epoch": epoch, "number": number}
        )
        try:
            await shielded(written)
        except (StorageError, LaneBusy, LaneTimeout) as error:
            self._not_kept(error)

    def _not_kept(self, error: Exception) -> None:
        self._notes.failed(
            "events", ErrorCode.STORAGE,
            f"which events were reported cannot be kept ({error}); a restart now would report some again",
        )

    async def close(self) -> None:
        """Gives the file back."""
        cursor, self._cursor = self._cursor, None
        if cursor is not None:
            try:
                await shielded(self._threads.run(LANE, 0.5, cursor.close))
            except (OSError, LaneBusy, LaneTimeout) as error:
                self.log.debug("the position of events: {error}", error=str(error))
