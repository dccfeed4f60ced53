"""Keeps every agent's log within its bounds, and reads it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred, DeferredList
from twisted.logger import Logger
from twisted.python.failure import Failure

from daemon.aio.notify import Notifier
from daemon.aio.periodic import Periodic, periodic
from daemon.aio.reactor import Clock
from daemon.aio.threads import LaneBusy, LaneTimeout, Threads
from daemon.config.schema import LogsConfig
from daemon.durable.explain import storage_error
from daemon.errors import StorageError
from daemon.interfaces import AlertSink, EventSink, WallClock
from daemon.logs.agent_log import AgentLog, Look, Removed
from daemon.logs.book import Illness, LogBook
from daemon.logs.compressing import Press
from daemon.logs.following import LogFollower
from daemon.logs.holding import NotHeldError
from daemon.logs.looks import Found, Looks
from daemon.logs.rotation import Outcome
from daemon.logs.trouble import LogTrouble

log = Logger()

CARE_LANE = "logs-care"  # what concerns all logs, one after another: a hundred agents need no hundred threads
CARE_DEADLINE_S = 20.0  # for one log; a disk that takes longer holds the others up no further
ROTATE_DEADLINE_S = 300.0
READ_DEADLINE_S = 30.0
SWEEP_S = 3600.0  # for max_age


@dataclass(slots=True, kw_only=True)
class LogStats:
    """Counters of all logs since the daemon began."""

    rotations_total: int = 0
    fallback_rotations_total: int = 0
    dropped_bytes_total: int = 0
    dropped_lines_total: int = 0
    removed_files_total: int = 0
    removed_bytes_total: int = 0
    truncations_total: int = 0
    rotation_failures_total: int = 0
    compress_failures_total: int = 0
    followers: int = 0


class LogManager(Service):
    """The service.

    A log that does not grow costs nothing: the kernel tells when it is written to. While it grows, its size
    is looked at once a second.

    Args:
        logs_dir: ``work_dir/logs``.
        clock, wall, threads, notifier: the daemon's.
        events: hears of lines that were dropped and of files that somebody truncated.
        alerts: hears of a disk that refuses.
        writers: the pids of an agent's processes; asked on a thread, by the fallback alone.
    """

    def __init__(
        self, logs_dir: Path, clock: Clock, wall: WallClock, threads: Threads, notifier: Notifier,
        events: EventSink, alerts: AlertSink, writers: Callable[[str], Sequence[int]],
    ) -> None:
        self._logs_dir = logs_dir
        self._clock = clock
        self._wall = wall
        self._threads = threads
        self._notifier = notifier
        self._writers = writers
        self._trouble = LogTrouble(clock, events, alerts)
        self._looks = Looks(clock, threads, notifier, self._seen, self._heed)
        self._books: dict[str, LogBook] = {}
        self._waiting: deque[LogBook] = deque()
        self._caring = False
        self._sweeps: Periodic | None = None
        self._work: set[Deferred[None]] = set()
        self._press = Press(threads)
        self._stats = LogStats()

    def stats(self) -> LogStats:
        """The counters at this moment."""
        self._stats.followers = sum(len(book.followers) for book in self._books.values())
        return self._stats

    @property
    def failing(self) -> Mapping[str, str]:
        """The agents with whose logs something is wrong now, and what."""
        return {book.agent_id: list(book.ills.values())[-1] for book in self._books.values() if book.ills}

    # --------------------------------------------------------------------- life

    def apply(self, limits: Mapping[str, LogsConfig]) -> None:
        """Takes a configuration, by agent. The files of an agent that has left stay where they are."""
        for agent_id in [each for each in self._books if each not in limits]:
            book = self._books.pop(agent_id)
            self._let_go(book)
            book.log.close()
        for agent_id, each in limits.items():
            known = self._books.get(agent_id)
            if known is None:
                agent_log = AgentLog(self._logs_dir / agent_id, partial(self._writers, agent_id))
                self._books[agent_id] = book = LogBook(agent_id, agent_log, each)
                self._care_for(book)
            elif known.limits != each:
                known.limits = each
                if known.ready:
                    self._looks.grows(known)  # smaller bounds hold at once
                    self._care_for(known)

    def startService(self) -> None:
        """Mends what a daemon that died left, then watches."""
        super().startService()
        self._looks.start()
        for book in self._books.values():
            self._care_for(book)
        self._sweeps = periodic(self._clock, SWEEP_S, self._sweep, name="ages of logs", phase_s=SWEEP_S)

    def stopService(self) -> Deferred[None]:
        """Ends readers and waits for what is under way; one that hangs is left to its thread."""
        super().stopService()
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        self._looks.stop()
        if self._sweeps is not None:
            await self._sweeps.stop()
            self._sweeps = None
        for book in self._books.values():
            self._let_go(book)
        while self._work:
            await DeferredList(list(self._work))
        for book in self._books.values():
            book.log.close()

    def process_changed(self, agent_id: str) -> None:
        """A new process writes: its log may have come to be."""
        book = self._books.get(agent_id)
        if book is not None and book.ready and book.watch is None:
            self._looks.grows(book)

    def _let_go(self, book: LogBook) -> None:
        self._looks.leave(book)
        for follower in book.followers:
            follower.close()
        self._trouble.forget(book)

    def _do(self, work: Any) -> None:
        """Work that nobody waits for, but the stop of the service."""
        done: Deferred[None] = Deferred.fromCoroutine(work)
        self._work.add(done)

        def ended(result: Failure | None) -> None:
            self._work.discard(done)
            if isinstance(result, Failure):
                log.failure("the care of agents' logs", failure=result)

        done.addBoth(ended)

    def _under_care(self, book: LogBook) -> bool:
        return bool(self.running) and self._books.get(book.agent_id) is book

    # ---------------------------------------------------------------------- care

    def _care_for(self, book: LogBook) -> None:
        """It is mended, where that is to come, and kept within its bounds: after those that came before."""
        if not self.running or book in self._waiting:
            return
        self._waiting.append(book)
        self._go_on()

    def _go_on(self) -> None:
        if self._waiting and not self._caring and self.running:
            self._caring = True
            self._do(self._care())

    async def _care(self) -> None:
        """One log after another, on one thread. One that hangs is told after its deadline, and holds that
        thread; the others then go on without waiting for each other, each on its own.
        """
        try:
            while self._waiting:
                book = self._waiting.popleft()
                if self._under_care(book) and not await self._cared(book, CARE_LANE, CARE_DEADLINE_S):
                    self._do(self._cared(book, book.lane, ROTATE_DEADLINE_S))
        finally:
            self._caring = False
            self._go_on()  # a fault in one is logged, and no reason to leave the others

    async def _cared(self, book: LogBook, lane: str, deadline_s: float) -> bool:
        """False where the lane took no call."""
        if book.ready:
            return await self._bound(book, lane, deadline_s)
        found: tuple[Look, Removed | OSError] | None = None
        try:
            found = await self._threads.run(
                lane, deadline_s, take_over, book.log, book.limits, self._wall()
            )
        except (OSError, LaneBusy, LaneTimeout) as error:
            if self._elsewhere(lane, error):
                return False
            self._failed(book, Illness.UNMENDED, error)
        book.ready = True
        if self._under_care(book):
            self._looks.grows(book)
            self._hear(book)
            if found is not None:
                self._seen(book, found[0])
                self._bounded(book, found[1])
        return True

    def _elsewhere(self, lane: str, error: Exception) -> bool:
        """Whether another log holds that lane, so that this one is to be asked on its own."""
        return lane == CARE_LANE and isinstance(error, LaneBusy) and bool(self.running)

    async def _bound(self, book: LogBook, lane: str, deadline_s: float) -> bool:
        """Its bounds hold, then it is compressed. False where the lane took no call."""
        removed: Removed | Exception
        try:
            removed = await self._threads.run(lane, deadline_s, enforced, book.log, book.limits, self._wall())
        except (LaneBusy, LaneTimeout) as error:
            if self._elsewhere(lane, error):
                return False
            removed = error
        self._bounded(book, removed)
        return True

    def _bounded(self, book: LogBook, removed: Removed | Exception) -> None:
        if isinstance(removed, Exception):
            self._failed(book, Illness.UNBOUNDED, removed)
            self._looks.grows(book)  # the looks try it again
            return
        self._trouble.over(book, Illness.UNBOUNDED)
        self._stats.removed_files_total += removed.files
        self._stats.removed_bytes_total += removed.bytes
        if removed.files:
            log.debug(
                "agent {agent_id}: {files} rotated log file(s), {bytes} bytes, removed by its bounds",
                agent_id=book.agent_id, files=removed.files, bytes=removed.bytes,
            )
        if book.limits.compress and removed.plain and self.running:
            self._do(self._compress(book))

    async def _compress(self, book: LogBook) -> None:
        self._stats.compress_failures_total += await self._press.compress(book.log, book.lane)

    def _sweep(self) -> None:
        """Hourly: what has become too old."""
        for book in self._books.values():
            if book.limits.max_age > 0 and book.ready and not book.busy:
                self._care_for(book)

    # --------------------------------------------------------------------- looks

    def _heed(self, book: LogBook) -> bool:
        """Takes what happened to a log, also in calls whose end nobody waited for; whether a look is due."""
        if self._hear(book):
            self._care_for(book)  # as after every rotation
        return not book.refused or self._clock.seconds() >= book.not_before_s

    def _hear(self, book: LogBook, awaited: Outcome | None = None) -> bool:
        """Takes what happened to a log; whether there was a rotation besides the one that was waited for."""
        late = False
        for news in book.log.take_news():
            if isinstance(news, Look):
                self._stats.truncations_total += 1
                self._trouble.truncated(book, news)
            else:
                late |= news is not awaited
                self._rotated(book, news, late=news is not awaited)
        return late

    def _seen(self, book: LogBook, found: Found) -> bool:
        """Acts on a look; whether the kernel may tell from now on."""
        self._heed(book)
        if found is None:
            return False
        if isinstance(found, OSError):
            self._failed(book, Illness.UNSEEN, found)
            return False
        self._trouble.over(book, Illness.UNSEEN, Illness.UNMENDED)
        book.size = found.size
        if found.size <= book.limits.max_size:
            self._trouble.over(book, Illness.UNROTATED, how="its log is within its size again")
        elif found.size != book.uncut:
            self._do(self._rotate(book))
            return False
        if Illness.UNBOUNDED in book.ills:
            self._care_for(book)
        return not book.refused

    # ------------------------------------------------------------------ rotation

    async def _rotate(self, book: LogBook) -> None:
        book.busy = True
        try:
            outcome = await self._threads.run(book.lane, ROTATE_DEADLINE_S, book.log.rotate, book.limits)
        except (OSError, NotHeldError, LaneBusy, LaneTimeout) as error:
            self._hear(book)
            self._failed(book, Illness.UNROTATED, error)
            return
        finally:
            book.busy = False
        if outcome is None:
            book.uncut = book.size  # a line that does not end: nothing to do until more comes
            return
        self._hear(book, outcome)
        await self._bound(book, book.lane, ROTATE_DEADLINE_S)

    def _rotated(self, book: LogBook, outcome: Outcome, *, late: bool) -> None:
        """Each rotation comes here once, whoever finished it."""
        book.uncut = -1
        book.size = max(0, book.size - outcome.taken)
        self._stats.rotations_total += 1
        self._stats.fallback_rotations_total += outcome.way == "truncate"
        amount = f"({outcome.way}, {outcome.taken} bytes)"
        how = ""
        if outcome.mended:
            how = f"a rotation of its log that had broken off is finished {amount}"
        elif late:
            how = f"a rotation of its log has ended after its deadline {amount}"
        ends = [Illness.UNROTATED] if outcome.way == "drop" else [Illness.UNROTATED, Illness.DROPPING]
        if not self._trouble.over(book, *ends, how=how):
            (log.info if how else log.debug)(
                "agent {agent_id}: {how}", agent_id=book.agent_id, how=how or f"its log is rotated {amount}"
            )
        if outcome.way == "drop":
            self._stats.dropped_bytes_total += outcome.dropped_bytes
            self._stats.dropped_lines_total += outcome.dropped_lines
            self._trouble.dropped(book, outcome)

    def _failed(self, book: LogBook, illness: Illness, error: Exception) -> None:
        self._stats.rotation_failures_total += illness in (Illness.UNROTATED, Illness.UNMENDED)
        if self._under_care(book):
            self._trouble.failed(book, illness, error)

    # ------------------------------------------------------------------- reading

    async def tail(self, agent_id: str, lines: int, grep: str = "") -> tuple[bytes, ...]:
        """The last lines of an agent's log that hold ``grep`` (plain text, as it is), oldest first.

        At most 8 MiB; a line longer than 64 KiB is cut. None for an agent without a log.

        Raises:
            StorageError: the log cannot be read.
        """
        book = self._books.get(agent_id)
        if book is None or lines <= 0:
            return ()
        try:
            return await self._threads.run(
                book.lane, READ_DEADLINE_S, book.log.tail, lines, grep.encode("utf-8", "surrogateescape")
            )
        except OSError as error:
            raise storage_error("read the log in", book.log.folder, error) from error
        except (LaneBusy, LaneTimeout) as error:
            raise StorageError(f"the log in {book.log.folder} does not answer: {error}") from error

    def follow(self, agent_id: str, lines: int, grep: str = "") -> LogFollower:
        """The last lines, then every new one; the caller closes it.

        Raises:
            KeyError: an agent whose log is not under care.
        """
        book = self._books[agent_id]
        follower = LogFollower(
            book.log, book.lane, lines, grep, self._clock, self._threads, self._notifier,
            lambda ended: _without(book, ended),
        )
        book.followers |= {follower}
        return follower


def _without(book: LogBook, follower: LogFollower) -> None:
    book.followers -= {follower}


def take_over(agent_log: AgentLog, limits: LogsConfig, now_at: float) -> tuple[Look, Removed | OSError]:
    """Mends a log and holds its bounds. Blocks.

    Raises:
        OSError: it cannot be mended.
    """
    look = agent_log.recover()
    return look, enforced(agent_log, limits, now_at)


def enforced(agent_log: AgentLog, limits: LogsConfig, now_at: float) -> Removed | OSError:
    """Holds the bounds of a log. Blocks."""
    try:
        return agent_log.enforce(limits, now_at)
    except OSError as error:
        return error
