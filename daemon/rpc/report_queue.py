"""Reports that wait for the Manager: on disk, and in a small memory while the disk refuses.

Every report goes through here, so a ``kill -9`` after a sample was taken costs nothing. All work on the disk
is done on one lane, in order, and never taken back half-way: a caller that is cancelled leaves without it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from daemon.aio.reactor import Clock, DelayedCall
from daemon.aio.shielded import shielded
from daemon.aio.threads import LaneBusy, LaneTimeout, Threads
from daemon.config.schema import QueueConfig
from daemon.durable.queue import DurableQueue, QueueCounts, QueueItem
from daemon.errors import StorageError
from daemon.interfaces import AlertSink, WallClock
from daemon.model.event import Severity

T = TypeVar("T")

STORAGE_ALERT = "reports_storage"
LANE = "reports"
SYNC_LANE = "reports-sync"  # apart: a slow fsync must not hold deliveries
DEADLINE_S = 10.0
SYNC_DELAY_S = 1.0  # a power failure may cost that much; a kill costs nothing
CLOSE_S = 0.5
MEMORY_REPORTS = 500
MEMORY_BYTES = 2 * 1024 * 1024
_NONE = QueueCounts(waiting=0, delivered_total=0, refused_total=0, dropped_total=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Reports in hand.

    Attributes:
        lines: the reports, oldest first.
        through: the number of the last one on disk; 0 for reports from memory.
    """

    lines: tuple[bytes, ...]
    through: int = 0


class ReportQueue:
    """The queue. Used on the reactor's thread only.

    Args:
        directory: ``work_dir/state/reports``.
        clock: measures ages and waits.
        threads: where the disk is worked on.
        wall: read once; the age of what an earlier daemon left is measured by it.
        bounds: of what waits on disk.
        alerts: hears when the disk refuses.

    Attributes:
        on_news: called when reports have come.
    """

    log = Logger()

    def __init__(
        self, directory: Path, clock: Clock, threads: Threads, wall: WallClock, bounds: QueueConfig,
        alerts: AlertSink,
    ) -> None:
        self.on_news: Callable[[], None] = lambda: None
        self._directory = directory
        self._clock = clock
        self._threads = threads
        self._bounds = bounds
        self._alerts = alerts
        self._steady = wall() - clock.seconds()  # a wall clock that is set later ages no report
        self._disk: DurableQueue | None = None
        self._opened: DurableQueue | None = None  # by the lane, perhaps later than its deadline
        self._seen = (_NONE, 1)  # the disk's counts and next number after its last work
        self._memory: deque[bytes] = deque()
        self._moving: tuple[bytes, ...] = ()  # on their way to the disk; whether they got there is not known
        self._first = 0  # the number of the first of them
        self._hand: tuple[bytes, ...] = ()  # taken from memory and not settled
        self._own = _NONE  # counts the disk does not know yet
        self._mover: Deferred[None] | None = None
        self._waiters: list[Deferred[None]] = []
        self._sync: DelayedCall | None = None
        self._problems: dict[str, str] = {}  # by what the disk did not do
        self._news = False
        self._closed = False
        self._release_due = False  # what was in hand counts as waiting again

    # ------------------------------------------------------------------ facts

    @property
    def counts(self) -> QueueCounts:
        """The numbers at this moment, over all restarts."""
        (disk, following), own = self._seen, self._own
        moving = len(self._moving) - max(0, following - self._first) if self._moving else 0
        return QueueCounts(
            waiting=disk.waiting + max(0, moving) + len(self._memory) + len(self._hand),
            delivered_total=disk.delivered_total + own.delivered_total,
            refused_total=disk.refused_total + own.refused_total,
            dropped_total=disk.dropped_total + own.dropped_total,
        )

    @property
    def problem(self) -> str:
        """What the disk does not do; empty when it is well."""
        return next(iter(self._problems.values()), "")

    # ---------------------------------------------------------------- arriving

    def open(self) -> None:
        """Opens what is on disk, on its lane; reports that come before wait in memory."""
        self._move()

    def put(self, lines: Sequence[bytes]) -> None:
        """Takes reports; never blocks, never raises."""
        if self._closed:
            self._count(dropped=len(lines))
            return
        self._memory.extend(lines)
        self._bound_memory()
        self._news = True
        self._move()

    def _bound_memory(self) -> None:
        size = sum(map(len, self._memory))
        while self._memory and (len(self._memory) > MEMORY_REPORTS or size > MEMORY_BYTES):
            size -= len(self._memory.popleft())
            self._count(dropped=1)

    def _count(self, *, delivered: int = 0, refused: int = 0, dropped: int = 0) -> None:
        own = self._own
        self._own = QueueCounts(
            waiting=0, delivered_total=own.delivered_total + delivered,
            refused_total=own.refused_total + refused, dropped_total=own.dropped_total + dropped,
        )

    def _move(self) -> None:
        """Brings what is in memory to the disk, in the background, unless that is under way."""
        if self._mover is None and not self._hand and not self._closed:
            self._mover = done = Deferred.fromCoroutine(self._move_all())
            done.addErrback(lambda failure: self.log.failure("the queue of reports", failure=failure))
            done.addCallback(self._moved)

    def _moved(self, _result: object) -> None:
        self._mover = None
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.called:
                waiter.callback(None)
        if self._disk is not None and self._sync is None and not self._closed and self._disk.dirty:
            self._sync = self._clock.callLater(SYNC_DELAY_S, self._sync_now)
        if self._news:
            self._news = False
            self.on_news()

    async def _move_all(self) -> None:
        try:
            if self._disk is None:
                await self._open()
            while (self._moving or self._memory or self._own is not _NONE) and not self._closed:
                await self._move_some()
        except StorageError as error:
            # Certainly not on disk: they wait here, in front of those that came later.
            known = max(0, self._seen[1] - self._first)
            self._memory.extendleft(reversed(self._moving[known:]))
            self._moving = ()
            self._bound_memory()
            self._ill("write", error.message)
        except (LaneBusy, LaneTimeout) as error:
            self._ill("write", f"the disk of {self._directory} does not answer ({error}); check that disk")
        else:
            self._well("write")

    async def _open(self) -> None:
        bounds = self._bounds

        def opened() -> DurableQueue:
            if self._opened is None:
                self._opened = DurableQueue(
                    self._directory, max_bytes=bounds.max_size, max_age_s=bounds.max_age
                )
            return self._opened  # a disk that was slower than the deadline: what it opened then is used now

        disk = await shielded(self._threads.run(LANE, DEADLINE_S, opened))
        if self._closed:
            if self._disk is not disk:  # else the close has it in hand, for what is in memory
                disk.close()
            raise StorageError("the daemon is stopping")
        self._disk, self._seen = disk, (disk.counts, disk.next_number)
        if disk.unreadable is not None:
            self.log.warn(
                "D1004 the counts of reports were unreadable and begin anew; kept as {kept}; check that disk",
                kept=str(disk.unreadable), error_code="D1004",
            )
        if disk.corrupt_total:
            self.log.warn(
                "D1004 {count} waiting reports are unreadable and lost; check that disk",
                count=disk.corrupt_total, error_code="D1004",
            )

    async def _move_some(self) -> None:
        disk = self._disk
        assert disk is not None
        if not self._moving:
            most = disk.max_payload_bytes
            large = [len(line) for line in self._memory if len(line) > most]
            if large:
                self._count(dropped=len(large))
                self.log.warn(
                    "D2003 {count} reports are dropped: the largest has {size} bytes, and {most} fit into "
                    "the queue; collect less at once or raise manager.queue.max_size",
                    count=len(large), size=max(large), most=most, error_code="D2003",
                )
            self._moving = tuple(line for line in self._memory if len(line) <= most)
            self._memory.clear()
            self._first = self._seen[1]
        lines, first, at, own = self._moving, self._first, self._now(), self._own

        def work(disk: DurableQueue) -> None:
            disk.append(lines, at, first=first)

        await self._on_disk(work)
        self._moving = ()
        if own is not _NONE:
            await self._note(own)

    async def _note(self, own: QueueCounts) -> None:
        """The disk takes over what was counted here."""
        await self._on_disk(lambda disk: disk.note(
            delivered=own.delivered_total, refused=own.refused_total, dropped=own.dropped_total
        ))
        now = self._own
        left = QueueCounts(
            waiting=0, delivered_total=now.delivered_total - own.delivered_total,
            refused_total=now.refused_total - own.refused_total,
            dropped_total=now.dropped_total - own.dropped_total,
        )
        self._own = _NONE if left == _NONE else left

    # ----------------------------------------------------------------- leaving

    async def take(self, count: int, max_bytes: int) -> Batch | None:
        """The oldest reports, held until they are settled or released; None when none waits."""
        if self._memory or self._moving:
            self._move()
        if self._mover is not None:
            waiter: Deferred[None] = Deferred()
            self._waiters.append(waiter)
            await waiter
        if self._disk is not None:
            items: tuple[QueueItem, ...] = ()
            at = self._now()
            try:
                items = await self._on_disk(lambda disk: disk.peek(at, count, max_bytes))
            except (StorageError, LaneBusy, LaneTimeout) as error:
                self._ill("read", f"reports on disk cannot be read ({error}); check that disk")
            else:
                self._well("read")
            if items:
                return Batch(lines=tuple(item.payload for item in items), through=items[-1].number)
        if self._memory and self._mover is None and not self._hand:
            self._hand = self._some(count, max_bytes)
            return Batch(lines=self._hand)
        return None

    def _some(self, count: int, max_bytes: int) -> tuple[bytes, ...]:
        found: list[bytes] = []
        while self._memory and len(found) < count:
            max_bytes -= len(self._memory[0])
            if found and max_bytes < 0:
                break
            found.append(self._memory.popleft())
        return tuple(found)

    async def settle(self, batch: Batch, *, delivered: int = 0, refused: int = 0) -> None:
        """These reports are done; what is in neither count is dropped. Never raises."""
        if not batch.through:
            self._hand = ()
            dropped = len(batch.lines) - delivered - refused
            self._count(delivered=delivered, refused=refused, dropped=dropped)
            return
        try:
            await self._on_disk(
                lambda disk: disk.settle(batch.through, delivered=delivered, refused=refused)
            )
        except (StorageError, LaneBusy, LaneTimeout) as error:
            self._ill(
                "note", f"what was delivered cannot be noted ({error}); a restart now would deliver it again"
            )
        else:
            self._well("note")

    def release(self) -> None:
        """Whatever is in hand goes back: it is still the oldest, and the bounds may take it again."""
        self._memory.extendleft(reversed(self._hand))
        self._hand = ()
        if self._disk is not None and not self._closed:
            self._release_due = True  # on the lane, with whatever comes first: a stuck lane refuses this one
            self._on_disk(lambda disk: None).addErrback(
                lambda failure: self.log.debug("the queue: {error}", error=failure.getErrorMessage())
            )

    # ----------------------------------------------------------------- pieces

    def apply(self, bounds: QueueConfig) -> None:
        """Other bounds from now on."""
        self._bounds = bounds
        if self._disk is not None and not self._closed:
            self._on_disk(
                lambda disk: disk.set_bounds(max_bytes=bounds.max_size, max_age_s=bounds.max_age)
            ).addErrback(lambda failure: self.log.warn(
                "D1004 the bounds of manager.queue are not in force: {error}",
                error=failure.getErrorMessage(), error_code="D1004",
            ))

    def _now(self) -> float:
        return self._clock.seconds() + self._steady

    def _on_disk(self, work: Callable[[DurableQueue], T]) -> Deferred[T]:
        disk = self._disk
        assert disk is not None

        def on_lane() -> T:
            try:
                if self._release_due:
                    self._release_due = False
                    disk.release()
                return work(disk)
            finally:
                self._seen = (disk.counts, disk.next_number)

        return shielded(self._threads.run(LANE, DEADLINE_S, on_lane))

    def _sync_now(self) -> None:
        self._sync = None
        disk = self._disk
        if disk is not None:
            done = self._threads.run(SYNC_LANE, DEADLINE_S, disk.sync)
            done.addCallbacks(lambda _none: self._well("sync"), lambda failure: self._ill(
                "sync", f"a power failure may cost reports ({failure.getErrorMessage()}); check that disk"
            ))

    def _ill(self, what: str, problem: str) -> None:
        if self._closed:
            return
        if what not in self._problems:
            self.log.error("D1004 reports: {problem}", problem=problem, error_code="D1004")
        self._problems[what] = problem
        self._alerts.raise_alert(STORAGE_ALERT, self.problem, severity=Severity.ERROR)

    def _well(self, what: str) -> None:
        if self._problems.pop(what, "") and not self._problems:
            self.log.info("reports are kept on disk again")
            self._alerts.clear(STORAGE_ALERT, message="reports are kept on disk again")

    async def close(self) -> None:
        """Brings what is in memory to the disk as far as that is quick, and gives the files back."""
        self.release()
        self._closed = True
        if self._sync is not None:
            self._sync.cancel()
            self._sync = None
        disk, lines, first, own = self._disk, (*self._moving, *self._memory), self._first, self._own
        if disk is None and self._opened is not None:  # by the lane, after its deadline, or not told yet
            self._disk = disk = self._opened
            first = disk.next_number
        elif not self._moving:
            first = self._seen[1]
        at = self._now()

        def finish(disk: DurableQueue) -> None:
            try:
                disk.append([line for line in lines if len(line) <= disk.max_payload_bytes], at, first=first)
                disk.note(
                    delivered=own.delivered_total, refused=own.refused_total, dropped=own.dropped_total
                )
                if disk.dirty:
                    disk.sync()
            finally:
                disk.close()
                self._seen = (disk.counts, disk.next_number)

        try:
            if disk is not None:
                await shielded(self._threads.run(LANE, CLOSE_S, finish, disk))
            elif lines:
                raise StorageError(self.problem or "the disk was not ready yet")
        except (StorageError, LaneBusy, LaneTimeout) as error:
            self.log.warn(
                "D1004 the daemon ends and {count} reports in memory may be lost: {error}",
                count=len(lines), error=str(error), error_code="D1004",
            )
