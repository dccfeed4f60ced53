"""The database behind ``twisted.enterprise.adbapi``: one connection that writes, a few that read.

adbapi brings threads of its own beside the reactor's pool. They are made daemon threads here, and the stop
waits for them a bounded time only: a disk that hangs holds neither the reactor's pool nor the exit.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

from twisted.enterprise import adbapi
from twisted.internet.defer import Deferred, succeed
from twisted.logger import Logger
from twisted.python.failure import Failure

from daemon.aio.periodic import Periodic, periodic
from daemon.aio.reactor import Clock
from daemon.errors import StorageError
from daemon.manager.migrations import migrate, pending, version_of

T = TypeVar("T")

READERS = 2
MEASURE_EVERY_S = 15.0  # as often as Prometheus looks
BUSY_S = 10.0  # another process (a backup, sqlite3 at a shell) may hold the file that long
# WAL: readers never wait for the writer. FULL: what is acknowledged is on the disk, a power failure included.
PRAGMAS = ("PRAGMA journal_mode=WAL", "PRAGMA synchronous=FULL", "PRAGMA foreign_keys=ON")


def size_of(path: str) -> int:
    """The file and its journal, in bytes; blocks on the disk.

    Raises:
        StorageError: D1004; the disk does not tell.
    """
    total = 0
    for each in (Path(path), Path(f"{path}-wal")):
        try:
            total += each.stat().st_size
        except FileNotFoundError:
            continue  # the journal is not made yet
        except OSError as error:
            raise StorageError(f"{each} cannot be looked at: {error.strerror}; look at its disk") from error
    return total


class _DaemonThread(threading.Thread):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.daemon = True


class Database:
    """One SQLite file.

    Args:
        reactor: delivers results.
        path: the file; made where it does not exist.
        measure: its size in bytes; called in a reader's thread.

    Attributes:
        transactions_total: transactions that committed.
        failures_total: transactions the database refused.
        size_bytes: of the file and its journal, as of the last look.
        error: why the last transaction was refused, for readiness; empty while it takes them.
    """

    log = Logger()

    def __init__(self, reactor: Any, path: str, measure: Callable[[str], int] = size_of) -> None:
        self.path = path
        self.transactions_total = 0
        self.failures_total = 0
        self.size_bytes = 0
        self.error = "not open yet"
        self._look = measure
        self._clock: Clock = reactor
        self._reactor = reactor
        self._writer: adbapi.ConnectionPool | None = None
        self._readers: adbapi.ConnectionPool | None = None
        self._under_way = 0
        self._drained: Deferred[None] | None = None
        self._measuring: Periodic | None = None

    async def open(self) -> None:
        """Opens the file and brings its schema up to date.

        Raises:
            StorageError: D1004; the file cannot be used, or is of a newer Manager.
        """
        try:  # 0600 from its first byte: addresses and labels of every host are in it
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
        except OSError as error:
            raise StorageError(
                f"{self.path} cannot be opened: {error.strerror}; correct manager.database.path or its rights"
            ) from error
        self._writer = self._pool(1)
        self._readers = self._pool(READERS)
        version = await self.write(version_of)
        for number, statements in pending(version):
            await self.write(migrate, number, statements)
            self.log.info("the database is at schema {number}", number=number)
        self.error = ""
        self._measuring = periodic(
            self._clock, MEASURE_EVERY_S, lambda: Deferred.fromCoroutine(self._measure()),
            name="database size",
        )

    def _pool(self, size: int) -> adbapi.ConnectionPool:
        pool = adbapi.ConnectionPool(
            "sqlite3", self.path, cp_min=1, cp_max=size, cp_openfun=_prepare, cp_reactor=self._reactor,
            timeout=BUSY_S,
            check_same_thread=False,  # one thread uses a connection, but the reactor's closes it at the end
        )
        threads = cast(Any, pool).threadpool
        threads.threadFactory = _DaemonThread
        pool.start()
        return pool

    # ------------------------------------------------------------- transactions

    def write(self, work: Callable[..., T], *args: Any) -> Deferred[T]:
        """Runs ``work(transaction, *args)`` where one writes at a time; fires after the commit.

        Fails with what ``work`` raised, nothing of it being kept, or StorageError.
        """
        return self._run(self._writer, work, args)

    def read(self, work: Callable[..., T], *args: Any) -> Deferred[T]:
        """Runs ``work(transaction, *args)``, which changes nothing, beside the writer."""
        return self._run(self._readers, work, args)

    def _run(
        self, pool: adbapi.ConnectionPool | None, work: Callable[..., T], args: tuple[Any, ...]
    ) -> Deferred[T]:
        if pool is None:
            raise StorageError("the database is closed; the Manager is starting or stopping")
        self._under_way += 1
        done: Deferred[T] = pool.runInteraction(work, *args)
        return done.addBoth(self._ended, pool is self._writer)

    def _ended(self, result: T | Failure, wrote: bool) -> T | Failure:
        self._under_way -= 1
        if not self._under_way and self._drained is not None:
            drained, self._drained = self._drained, None
            drained.callback(None)
        if not isinstance(result, Failure):
            self.transactions_total += 1
            if wrote:  # a full disk is still read from
                self.error = ""
            return result
        # OperationalError: the disk, the file or its lock. Every other kind is a fault of ours.
        if result.check(sqlite3.OperationalError, sqlite3.DatabaseError) and not result.check(
            sqlite3.IntegrityError, sqlite3.ProgrammingError, sqlite3.InterfaceError
        ):
            self.failures_total += 1
            self.error = (
                f"{self.path} refuses: {result.getErrorMessage()}; look at its disk and its rights"
            )
            raise StorageError(self.error) from result.value
        return result

    # -------------------------------------------------------------------- close

    async def close(self, grace_s: float) -> bool:
        """Waits for what is under way, closes the file; False when something still hangs and was left."""
        measuring, self._measuring = self._measuring, None
        measured = measuring.stop() if measuring is not None else succeed(None)
        writer, self._writer = self._writer, None
        readers, self._readers = self._readers, None
        self.error = "closed"
        if self._under_way:
            self._drained = drained = Deferred[None]()
            timer = self._clock.callLater(grace_s, drained.callback, None)
            await drained
            if timer.active():
                timer.cancel()
        if self._under_way:
            self._drained = None
            self.log.warn("{path}: a transaction hangs; leaving without it", path=self.path)
            return False
        await measured
        for pool in (writer, readers):
            if pool is not None:
                pool.close()
        return True

    async def _measure(self) -> None:
        """Looks how large it is, in a reader's thread: a disk that hangs must not hold the reactor."""
        try:
            self.size_bytes = await self.read(lambda _tx: self._look(self.path))
        except StorageError:
            return  # counted, and named in readiness; the size before is the best there is


def _prepare(connection: sqlite3.Connection) -> None:
    for pragma in PRAGMAS:
        connection.execute(pragma).fetchall()
