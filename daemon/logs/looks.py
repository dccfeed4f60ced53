"""Who is looked at, and when: a log that grows once a second, a quiet one not at all."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from twisted.logger import Logger
from twisted.python.failure import Failure

from daemon.aio.notify import Notifier
from daemon.aio.reactor import Clock, DelayedCall
from daemon.aio.threads import LaneBusy, LaneTimeout, Threads
from daemon.logs.agent_log import AgentLog, Look
from daemon.logs.book import LogBook

log = Logger()

LOOK_S = 1.0  # between two looks at a log that grows
LOOK_LANE = "logs"
LOOK_DEADLINE_S = 20.0

Found = Look | OSError | None
"""None: another call is in that log just now."""


class Looks:
    """The looks at all logs that grow, on one lane. Once one does not grow, the kernel is asked to tell.

    Args:
        clock, threads, notifier: the daemon's.
        seen: what a look found; returns whether the log may rest when it did not grow.
        heed: called for each log before it is looked at; returns whether that is due.
    """

    def __init__(
        self, clock: Clock, threads: Threads, notifier: Notifier,
        seen: Callable[[LogBook, Found], bool], heed: Callable[[LogBook], bool],
    ) -> None:
        self._clock = clock
        self._threads = threads
        self._notifier = notifier
        self._seen = seen
        self._heed = heed
        self._growing: dict[str, LogBook] = {}
        self._tick: DelayedCall | None = None
        self._running = False
        self._complained = False

    def start(self) -> None:
        """From now on."""
        self._running = True

    def stop(self) -> None:
        """Nobody is looked at any more."""
        self._running = False
        if self._tick is not None:
            self._tick.cancel()
            self._tick = None

    def grows(self, book: LogBook) -> None:
        """It is looked at from now on."""
        if not self._running:
            return
        self._wake(book)
        self._growing[book.agent_id] = book
        self._again()

    def leave(self, book: LogBook) -> None:
        """It is looked at no more, and the kernel tells nothing."""
        self._wake(book)
        if self._growing.get(book.agent_id) is book:
            del self._growing[book.agent_id]

    def _wake(self, book: LogBook) -> None:
        if book.watch is not None:
            book.watch()
            book.watch = None

    def _again(self) -> None:
        if self._growing and self._tick is None and self._running:
            self._tick = self._clock.callLater(LOOK_S, self._look)

    def _look(self) -> None:
        self._tick = None
        books = [book for book in tuple(self._growing.values()) if not book.busy and self._heed(book)]
        if not books:
            self._again()
            return
        for book in books:
            book.busy = True
        done = self._threads.run(LOOK_LANE, LOOK_DEADLINE_S, look_at, [book.log for book in books])
        done.addBoth(self._looked, books)
        done.addErrback(lambda failure: log.failure("a look at logs", failure=failure))

    def _looked(self, result: Sequence[Found] | Failure, books: list[LogBook]) -> None:
        for book in books:
            book.busy = False
        if isinstance(result, Failure):
            self._again()
            result.trap(LaneBusy, LaneTimeout)
            return  # a disk that hangs: the metadata says so louder
        for book, found in zip(books, result, strict=True):
            if self._growing.get(book.agent_id) is book:
                self._one(book, found)
        self._again()

    def _one(self, book: LogBook, found: Found) -> None:
        before = book.size
        if self._seen(book, found) and book.size == before:
            self._rest(book)

    def _rest(self, book: LogBook) -> None:
        """It does not grow: the kernel tells when it does again."""
        try:
            book.watch = self._notifier.once(book.log.live, lambda: self._written(book))
        except FileNotFoundError:
            pass  # it comes with a process, which we hear of
        except OSError as error:
            if not self._complained:
                self._complained = True
                log.warn("logs are looked at every second: {error}", error=str(error))
            return
        self._growing.pop(book.agent_id, None)

    def _written(self, book: LogBook) -> None:
        book.watch = None
        self.grows(book)


def look_at(logs: Sequence[AgentLog]) -> list[Found]:
    """A look at each; one that cannot be looked at does not hold up the others. Blocks."""
    found: list[Found] = []
    for each in logs:
        try:
            found.append(each.look())
        except OSError as error:
            found.append(error)
    return found

