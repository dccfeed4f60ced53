"""The database: one contract for the real one and the one in memory, and what only the real one can meet."""

from __future__ import annotations

import shutil
import sqlite3
import stat
import tempfile
import threading
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.trial.unittest import TestCase

from daemon.errors import RequestError, RequestFault, StorageError
from daemon.manager import queries, records
from daemon.manager.database import Database, size_of
from tests.fakes.manager import BEGIN, MemoryDatabase, node


def known(tx: Any) -> list[str]:
    return [row.node_id for row in queries.nodes(tx)]


def add(tx: Any, node_id: str) -> None:
    records.register(tx, node(node_id), (), BEGIN)


def add_and_fail(tx: Any, node_id: str, error: Exception) -> None:
    add(tx, node_id)
    raise error


class DatabaseContract:
    """Both of them."""

    database: Any

    async def test_what_is_written_is_read(self: Any) -> None:
        await self.database.write(add, "n1")
        self.assertEqual(await self.database.read(known), ["n1"])

    async def test_a_write_that_fails_leaves_nothing(self: Any) -> None:
        for error in (RequestError(RequestFault.INVALID, "no"), ZeroDivisionError()):
            with self.assertRaises(type(error)):
                await self.database.write(add_and_fail, "n1", error)
        self.assertEqual(await self.database.read(known), [])
        await self.database.write(add, "n1")

    async def test_sqlites_refusal_is_a_storage_error_and_our_fault_is_not(self: Any) -> None:
        with self.assertRaises(StorageError):
            await self.database.write(lambda tx: tx.execute("SELECT * FROM nothing"))
        with self.assertRaises(sqlite3.IntegrityError):
            await self.database.write(
                lambda tx: tx.execute("INSERT INTO samples VALUES ('nobody', 'cpu', 1, 1, '{}')")
            )
        await self.database.write(add, "n1")


class MemoryTest(DatabaseContract, TestCase):
    def setUp(self) -> None:
        self.database = MemoryDatabase()
        self.addCleanup(self.database.close)


class RealTest(DatabaseContract, TestCase):
    timeout = 20

    def setUp(self) -> Deferred[None]:
        self.folder = Path(tempfile.mkdtemp(prefix="hd-manager-db-"))
        self.addCleanup(shutil.rmtree, self.folder)
        self.path = self.folder / "manager.db"
        self.database = Database(reactor, str(self.path))
        self.addCleanup(lambda: Deferred.fromCoroutine(self.database.close(2.0)))
        return Deferred.fromCoroutine(self.database.open())

    async def test_it_is_kept_for_the_next_and_only_for_us(self) -> None:
        await self.database.write(add, "n1")
        self.assertTrue(await self.database.close(2.0))
        self.assertEqual(stat.S_IMODE(self.path.stat().st_mode), 0o600)
        again = Database(reactor, str(self.path))
        await again.open()
        self.assertEqual(await again.read(known), ["n1"])
        self.assertTrue(await again.close(2.0))

    async def test_its_size_is_looked_at_beside_the_reactor(self) -> None:
        looked: list[bool] = []

        def look(path: str) -> int:
            looked.append(threading.current_thread() is threading.main_thread())
            return size_of(path)

        database = Database(reactor, str(self.path), measure=look)
        self.addCleanup(lambda: Deferred.fromCoroutine(database.close(2.0)))
        await database.open()
        await database.read(known)
        self.assertEqual(looked, [False])
        self.assertGreaterEqual(database.size_bytes, self.path.stat().st_size)

    async def test_readers_do_not_wait_for_the_writer(self) -> None:
        inside, go_on = threading.Event(), threading.Event()

        def slow(tx: Any) -> None:
            add(tx, "n1")
            inside.set()
            go_on.wait(5)

        writing = self.database.write(slow)
        while not inside.wait(0.01):
            pass
        self.assertEqual(await self.database.read(known), [])
        go_on.set()
        await writing
        self.assertEqual(await self.database.read(known), ["n1"])

    async def test_a_disk_that_refuses_writes_stays_told_however_much_is_read(self) -> None:
        def refuse(tx: Any) -> None:
            raise sqlite3.OperationalError("database or disk is full")

        with self.assertRaises(StorageError):
            await self.database.write(refuse)
        await self.database.read(known)
        self.assertIn("disk is full", self.database.error)
        await self.database.write(add, "n1")
        self.assertEqual(self.database.error, "")

    async def test_writers_take_turns(self) -> None:
        await gatherResults([self.database.write(add, f"n{number}") for number in range(50)])
        self.assertEqual(len(await self.database.read(known)), 50)
        self.assertEqual(self.database.failures_total, 0)

    async def test_a_transaction_that_hangs_is_left(self) -> None:
        go_on = threading.Event()
        writing = self.database.write(lambda tx: go_on.wait(10))
        self.assertFalse(await self.database.close(0.1))
        with self.assertRaises(StorageError):
            self.database.write(add, "n1")
        go_on.set()
        await writing

    async def test_its_threads_never_hold_the_exit(self) -> None:
        found: list[bool] = []
        await self.database.write(lambda tx: found.append(threading.current_thread().daemon))
        await self.database.read(lambda tx: found.append(threading.current_thread().daemon))
        self.assertEqual(found, [True, True])

    async def refused(self, path: Path) -> str:
        database = Database(reactor, str(path))
        with self.assertRaises(StorageError) as caught:
            await database.open()
        await database.close(1.0)
        return caught.exception.message

    async def test_what_cannot_be_opened_says_why(self) -> None:
        self.assertIn("cannot be opened", await self.refused(self.folder))
        self.assertIn("No such file", await self.refused(self.folder / "none" / "m.db"))
        (self.folder / "text.db").write_text("this is no database, but long enough to be taken for one\n" * 30)
        self.assertIn("file is not a database", await self.refused(self.folder / "text.db"))
        (self.folder / "link.db").symlink_to(self.path)
        self.assertIn("cannot be opened", await self.refused(self.folder / "link.db"))

    async def test_a_newer_schema_is_refused(self) -> None:
        await self.database.write(lambda tx: tx.execute("UPDATE schema_version SET version = 99"))
        self.assertIn("schema 99", await self.refused(self.path))
