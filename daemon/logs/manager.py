"""Keeps every agent's log within its bounds, and reads it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred, DeferredList
from twisted.logger import Logger
from twisted.python.failure import Failure

from daemon.aio.notify import Notifier, TakeBack
from daemon.aio.periodic import Periodic, periodic
from daemon.aio.reactor import Clock, DelayedCall
from daemon.aio.threads import LaneBusy, LaneTimeout, Threads
from daemon.config.schema import LogsConfig
from daemon.durable.explain import storage_error
from daemon.errors import StorageError
from daemon.interfaces import AlertSink, EventSink, WallClock
from daemon.logs.agent_log import AgentLog, Look
from daemon.logs.compressing import Press
from daemon.logs.following import LogFollower
from daemon.logs.holding import NotHeldError
from daemon.logs.rotation import Outcome
from daemon.model.event import Severity

log = Logger()

LOOK_S = 1.0  # between two looks at a log that grows
QUIET_LOOKS = 5  # looks at which it did not grow, until the kernel is asked to tell
LOOK_LANE = "logs"
LOOK_DEADLINE_S = 20.0
ROTATE_DEADLINE_S = 300.0
READ_DEADLINE_S = 30.0
SWEEP_S = 3600.0  # for max_age
RETRY_FIRST_S = 5.0
RETRY_MOST_S = 300.0
ALERT = "log_storage"


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


@dataclass(slots=True)
class _Book:
    """One agent's log under care."""

    agent_id: str
    log: AgentLog
    limits: LogsConfig
    size: int = 0
    quiet: int = 0
    uncut: int = -1
    busy: bool = False
    ready: bool = False
    failing: str = ""
    retry_s: float = RETRY_FIRST_S
    not_before_s: float = 0.0
    watch: TakeBack | None = None
    followers: set[LogFollower] = field(default_factory=set)

    @property
    def lane(self) -> str:
        """Its own: a rotation or a reader of one log holds up nobody else's."""
        return f"logs:{self.agent_id}"


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
        self._events = events
        self._alerts = alerts
        self._writers = writers
        self._books: dict[str, _Book] = {}
        self._growing: dict[str, _Book] = {}
        self._tick: DelayedCall | None = None
        self._sweeps: Periodic | None = None
        self._work: set[Deferred[None]] = set()
        self._press = Press(threads)
        self._complained = False
        self._stats = LogStats()

    def stats(self) -> LogStats:
        """The counters at this moment."""
        self._stats.followers = sum(len(book.followers) for book in self._books.values())
        return self._stats

    @property
    def failing(self) -> Mapping[str, str]:
        """The agents whose logs cannot be rotated now, and why."""
        return {book.agent_id: book.failing for book in self._books.values() if book.failing}

    # --------------------------------------------------------------------- life

    def apply(self, limits: Mapping[str, LogsConfig]) -> None:
        """Takes a configuration, by agent. The files of an agent that has left stay where they are."""
        for agent_id in [known for known in self._books if known not in limits]:
            self._let_go(self._books.pop(agent_id))
        for agent_id, each in limits.items():
            book = self._books.get(agent_id)
            if book is None:
                agent_log = AgentLog(self._logs_dir / agent_id, partial(self._writers, agent_id))
                self._books[agent_id] = book = _Book(agent_id, agent_log, each)
                if self.running:
                    self._begin(book)
            elif book.limits != each:
                book.limits = each
                if book.ready:
                    self._grows(book)  # smaller bounds hold at once
                    self._do(book, self._keep(book))

    def startService(self) -> None:
        """Mends what a daemon that died left, then watches."""
        super().startService()
        for book in self._books.values():
            self._begin(book)
        self._sweeps = periodic(self._clock, SWEEP_S, self._sweep, name="ages of logs", phase_s=SWEEP_S)

    def stopService(self) -> Deferred[None]:
        """Ends readers and waits for what is under way; one that hangs is left to its thread."""
        super().stopService()
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        if self._tick is not None:
            self._tick.cancel()
            self._tick = None
        if self._sweeps is not None:
            await self._sweeps.stop()
            self._sweeps = None
        for book in self._books.values():
            self._let_go(book)
        await DeferredList(list(self._work))
        for book in self._books.values():
            book.log.close()

    def process_changed(self, agent_id: str) -> None:
        """A new process writes: its log may have come to be."""
        book = self._books.get(agent_id)
        if book is not None and book.ready and book.watch is None:
            self._grows(book)

    def _let_go(self, book: _Book) -> None:
        self._growing.pop(book.agent_id, None)
        if book.watch is not None:
            book.watch()
            book.watch = None
        for follower in tuple(book.followers):
            follower.close()
        self._alerts.clear(ALERT, agent_id=book.agent_id)

    def _do(self, book: _Book, work: Any) -> None:
        """Work on one log that nobody waits for, but the stop of the service."""
        done: Deferred[None] = Deferred.fromCoroutine(work)
        self._work.add(done)

        def ended(result: Failure | None) -> None:
            self._work.discard(done)
            if isinstance(result, Failure):
                log.failure("the log of agent {agent_id}", failure=result, agent_id=book.agent_id)

        done.addBoth(ended)

    # --------------------------------------------------------------------- looks

    def _begin(self, book: _Book) -> None:
        self._do(book, self._recover(book))

    async def _recover(self, book: _Book) -> None:
        book.busy = True
        try:
            await self._threads.run(book.lane, ROTATE_DEADLINE_S, book.log.recover)
        except (OSError, LaneBusy, LaneTimeout) as error:
            self._failed(book, error)
        finally:
            book.busy = False
        book.ready = True
        if self.running:
            await self._keep(book)
            self._grows(book)

    def _grows(self, book: _Book) -> None:
        """It is looked at from now on."""
        if book.watch is not None:
            book.watch()
            book.watch = None
        book.quiet = 0
        if self._books.get(book.agent_id) is book and self.running:
            self._growing[book.agent_id] = book
            if self._tick is None:
                self._tick = self._clock.callLater(LOOK_S, self._look)

    def _look(self) -> None:
        self._tick = None
        books = [book for book in self._growing.values() if not book.busy]
        if not books:
            self._again()
            return
        for book in books:
            book.busy = True
        done = self._threads.run(LOOK_LANE, LOOK_DEADLINE_S, look_at, [book.log for book in books])
        done.addBoth(self._looked, books)
        done.addErrback(lambda failure: log.failure("a look at logs", failure=failure))

    def _again(self) -> None:
        if self._growing and self._tick is None and self.running:
            self._tick = self._clock.callLater(LOOK_S, self._look)

    def _looked(self, result: list[Look | OSError] | Failure, books: list[_Book]) -> None:
        for book in books:
            book.busy = False
        if isinstance(result, Failure):
            self._again()
            result.trap(LaneBusy, LaneTimeout)
            return  # a disk that hangs: the metadata says so louder
        if self.running:
            for book, look in zip(books, result, strict=True):
                if self._books.get(book.agent_id) is book:
                    self._seen(book, look)
            self._again()

    def _seen(self, book: _Book, look: Look | OSError) -> None:
        if isinstance(look, OSError):
            self._failed(book, look)
            return
        if look.truncated:
            self._truncated(book, look)
        if look.size != book.size:
            book.quiet = 0
            book.size = look.size
        else:
            book.quiet += 1
        due = self._clock.seconds() >= book.not_before_s and look.size != book.uncut
        if look.size > book.limits.max_size and due:
            self._do(book, self._rotate(book))
        elif book.quiet >= QUIET_LOOKS and not book.failing:
            self._rest(book)

    def _rest(self, book: _Book) -> None:
        """It does not grow: the kernel tells when it does again."""
        try:
            book.watch = self._notifier.once(book.log.live, lambda: self._grows(book))
        except FileNotFoundError:
            pass  # it comes with a process, which we hear of
        except OSError as error:
            if not self._complained:
                self._complained = True
                log.warn("logs are looked at every second: {error}", error=str(error))
            return
        self._growing.pop(book.agent_id, None)

    def _truncated(self, book: _Book, look: Look) -> None:
        self._stats.truncations_total += 1
        if look.inode:
            text = (
                f"agent {book.agent_id}: its log was truncated or replaced by somebody else, perhaps by the "
                "agent itself (echo > /dev/stderr does that; >> does not); lines may be lost"
            )
        else:
            text = (
                f"agent {book.agent_id}: its log file was removed while it writes; what it writes is lost "
                "until the agent is restarted"
            )
        log.warn("{text}", text=text, agent_id=book.agent_id)
        self._events.publish(
            "agent.log_truncated", text, severity=Severity.WARN, agent_id=book.agent_id,
            data={"size": look.size},
        )

    # ------------------------------------------------------------------ rotation

    async def _rotate(self, book: _Book) -> None:
        book.busy = True
        try:
            outcome = await self._threads.run(book.lane, ROTATE_DEADLINE_S, book.log.rotate, book.limits)
        except (OSError, NotHeldError, LaneBusy, LaneTimeout) as error:
            self._failed(book, error)
            return
        finally:
            book.busy = False
        if outcome is None:
            book.uncut = book.size  # a line that does not end: nothing to do until more comes
            return
        book.uncut = -1
        self._rotated(book, outcome)
        await self._keep(book)

    def _rotated(self, book: _Book, outcome: Outcome) -> None:
        book.size = max(0, book.size - outcome.taken)
        self._stats.rotations_total += 1
        self._stats.fallback_rotations_total += outcome.way == "truncate"
        book.retry_s, book.not_before_s = RETRY_FIRST_S, 0.0
        if outcome.way != "drop":
            self._well(book)
            log.debug("the log of agent {agent_id} is rotated ({way}, {taken} bytes)",
                      agent_id=book.agent_id, way=outcome.way, taken=outcome.taken)
            return
        self._stats.dropped_bytes_total += outcome.dropped_bytes
        self._stats.dropped_lines_total += outcome.dropped_lines
        text = (
            f"agent {book.agent_id}: no room to keep its log: {outcome.dropped_lines} lines "
            f"({outcome.dropped_bytes} bytes) are dropped; free space on the filesystem of work_dir"
        )
        self._events.publish(
            "agent.log_dropped", text, severity=Severity.ERROR, agent_id=book.agent_id,
            data={"code": "D1004", "bytes": outcome.dropped_bytes, "lines": outcome.dropped_lines},
        )
        self._ill(book, text)

    async def _keep(self, book: _Book) -> None:
        """Bounds, then compression."""
        try:
            removed = await self._threads.run(
                book.lane, ROTATE_DEADLINE_S, book.log.enforce, book.limits, self._wall()
            )
        except (OSError, LaneBusy, LaneTimeout) as error:
            self._failed(book, error)
            return
        self._stats.removed_files_total += removed.files
        self._stats.removed_bytes_total += removed.bytes
        if removed.files:
            log.info(
                "agent {agent_id}: {files} rotated log file(s), {bytes} bytes, removed by its bounds",
                agent_id=book.agent_id, files=removed.files, bytes=removed.bytes,
            )
        if book.limits.compress:
            self._stats.compress_failures_total += await self._press.compress(book.log, book.lane)

    def _sweep(self) -> None:
        """Hourly: what has become too old."""
        for book in self._books.values():
            if book.limits.max_age > 0 and book.ready and not book.busy:
                self._do(book, self._keep(book))

    # ------------------------------------------------------------------- trouble

    def _failed(self, book: _Book, error: Exception) -> None:
        self._stats.rotation_failures_total += 1
        book.not_before_s = self._clock.seconds() + book.retry_s
        book.retry_s = min(RETRY_MOST_S, book.retry_s * 2)
        cause = (error.strerror if isinstance(error, OSError) else None) or str(error)
        self._ill(
            book, f"agent {book.agent_id}: its log cannot be rotated: {cause}; it grows on, and rotation is "
            f"tried again; check the disk of {book.log.folder}",
        )

    def _ill(self, book: _Book, text: str) -> None:
        if not book.failing:
            log.error("D1004 {text}", text=text, error_code="D1004", agent_id=book.agent_id)
        book.failing = text
        self._alerts.raise_alert(ALERT, text, agent_id=book.agent_id, severity=Severity.ERROR)

    def _well(self, book: _Book) -> None:
        if book.failing:
            book.failing = ""
            log.info("the log of agent {agent_id} is rotated again", agent_id=book.agent_id)
            self._alerts.clear(ALERT, agent_id=book.agent_id, message="its log is rotated again")

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
            book.followers.discard,
        )
        book.followers.add(follower)
        return follower


def look_at(logs: Sequence[AgentLog]) -> list[Look | OSError]:
    """A look at each; one that cannot be looked at does not hold up the others. Blocks."""
    found: list[Look | OSError] = []
    for each in logs:
        try:
            found.append(each.look())
        except OSError as error:
            found.append(error)
    return found
