"""Group commit: while one transaction is written, what comes meanwhile gathers for the next.

A commit waits for the disk, whatever is in it. A thousand daemons that report in the same second thus cost
a few dozen commits, and a single report on an idle Manager is committed at once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, TypeVar

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from daemon.errors import RequestError, RequestFault, StorageError

T = TypeVar("T")
Work = Callable[[Any], Any]
Write = Callable[..., Deferred[Any]]

BATCH_MAX = 256
BACKLOG_MAX = 4096  # more means that the disk does not keep up; callers hear it and try again


class Intake:
    """Runs pieces of work, many to a transaction, in the order they came.

    Args:
        write: runs a function in a transaction.

    Attributes:
        batches_total, works_total: transactions begun, and the pieces in them.
    """

    log = Logger()

    def __init__(self, write: Write) -> None:
        self.batches_total = 0
        self.works_total = 0
        self._write = write
        self._waiting: deque[tuple[Work, Deferred[Any]]] = deque()
        self._writing = False
        self._idle: list[Deferred[None]] = []

    @property
    def waiting(self) -> int:
        """Pieces that wait for their transaction."""
        return len(self._waiting)

    def submit(self, work: Callable[[Any], T]) -> Deferred[T]:
        """Runs ``work(transaction)``; fires after the commit.

        ``work`` may raise RequestError only before it changed anything, for the others in its transaction
        are committed all the same.

        Raises:
            RequestError: BUSY; too much waits already.
        """
        if len(self._waiting) >= BACKLOG_MAX:
            raise RequestError(
                RequestFault.BUSY, "the database does not keep up; try again", retry_after_s=5
            )
        # A caller that leaves takes nothing back: what is on its way is written all the same.
        answer: Deferred[T] = Deferred(lambda _deferred: None)
        self._waiting.append((work, answer))
        self._next()
        return answer

    def _next(self) -> None:
        if self._writing:
            return
        if not self._waiting:
            waiters, self._idle = self._idle, []
            for waiter in waiters:
                waiter.callback(None)
            return
        batch = [self._waiting.popleft() for _ in range(min(len(self._waiting), BATCH_MAX))]
        self._begin(batch)

    def _begin(self, batch: list[tuple[Work, Deferred[Any]]]) -> None:
        self._writing = True
        self.batches_total += 1
        self.works_total += len(batch)
        Deferred.fromCoroutine(self._commit(batch)).addErrback(self._broken)

    async def _commit(self, batch: list[tuple[Work, Deferred[Any]]]) -> None:
        try:
            outcomes = await self._write(_all, [work for work, _ in batch])
        except StorageError:
            outcomes = [Failure()] * len(batch)  # the disk: nobody fares better alone
        except Exception:  # noqa: BLE001 - it travels to whoever caused it
            outcomes = [await self._alone(work) for work, _ in batch] if len(batch) > 1 else [Failure()]
        self._writing = False
        for (_work, answer), outcome in zip(batch, outcomes, strict=True):
            if not answer.called:
                answer.callback(outcome)
        self._next()

    async def _alone(self, work: Work) -> Any:
        """One of them broke the transaction of all: each gets its own."""
        try:
            return (await self._write(_all, [work]))[0]
        except Exception:  # noqa: BLE001 - as above
            return Failure()

    def _broken(self, failure: Failure) -> None:
        self.log.failure("the intake", failure=failure)

    async def drain(self) -> None:
        """Waits until nothing waits any more."""
        if self._writing or self._waiting:
            waiter: Deferred[None] = Deferred()
            self._idle.append(waiter)
            await waiter


def _all(tx: Any, works: list[Work]) -> list[Any]:
    """In the writer's thread."""
    outcomes: list[Any] = []
    for work in works:
        try:
            outcomes.append(work(tx))
        except RequestError:
            outcomes.append(Failure())
    return outcomes
