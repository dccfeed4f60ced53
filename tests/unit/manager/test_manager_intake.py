"""Group commit: order, one transaction for many, and nobody pays for another's fault."""

from __future__ import annotations

import sqlite3
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.trial.unittest import SynchronousTestCase

from daemon.errors import RequestError, RequestFault, StorageError
from daemon.manager.intake import BACKLOG_MAX, BATCH_MAX, Intake
from tests.fakes.manager import MemoryDatabase


def add(number: int) -> Any:
    """Work that writes a row."""
    def work(tx: Any) -> int:
        tx.execute("INSERT INTO rows (number) VALUES (?)", (number,))
        return number

    return work


def refuse(_tx: Any) -> None:
    raise RequestError(RequestFault.UNKNOWN, "no")


class IntakeTest(SynchronousTestCase):
    def setUp(self) -> None:
        self.database = MemoryDatabase()
        self.addCleanup(self.database.close)
        self.database.connection.execute("CREATE TABLE rows (number INTEGER PRIMARY KEY)")
        self.database.writes = 0
        self.intake = Intake(self.database.write)

    def rows(self) -> list[int]:
        return [row[0] for row in self.database.connection.execute("SELECT number FROM rows ORDER BY rowid")]

    def test_a_single_write_is_committed_at_once(self) -> None:
        self.assertEqual(self.successResultOf(self.intake.submit(add(1))), 1)
        self.assertEqual(self.rows(), [1])

    def test_what_comes_during_a_commit_shares_the_next_one(self) -> None:
        self.database.held = []
        first = self.intake.submit(add(1))
        others = [self.intake.submit(add(number)) for number in range(2, 50)]
        self.assertNoResult(first)
        self.database.let_go()
        self.successResultOf(first)
        self.assertNoResult(others[0])
        self.database.let_go()
        self.assertEqual([self.successResultOf(each) for each in others], list(range(2, 50)))
        self.assertEqual((self.intake.batches_total, self.intake.works_total), (2, 49))

    def test_a_transaction_is_bounded(self) -> None:
        self.database.held = []
        waiting = [self.intake.submit(add(number)) for number in range(BATCH_MAX + 10)]
        self.database.let_go()
        self.database.let_go()
        self.assertNoResult(waiting[-1])
        self.database.let_go()
        self.successResultOf(waiting[-1])

    def test_a_request_that_cannot_be_granted_costs_the_others_nothing(self) -> None:
        self.database.held = []
        first = self.intake.submit(add(1))
        second, third = self.intake.submit(refuse), self.intake.submit(add(3))
        self.database.let_go()
        self.database.let_go()
        self.successResultOf(first)
        self.failureResultOf(second, RequestError)
        self.assertEqual(self.successResultOf(third), 3)
        self.assertEqual(self.database.writes, 2)

    def test_a_write_that_breaks_the_transaction_is_found_and_the_others_are_kept(self) -> None:
        self.database.held = []
        first = self.intake.submit(add(1))
        others = [self.intake.submit(add(number)) for number in (2, 1, 3)]
        self.database.let_go()
        self.database.release()
        self.successResultOf(first)
        self.assertEqual(self.successResultOf(others[0]), 2)
        self.failureResultOf(others[1], sqlite3.IntegrityError)
        self.assertEqual(self.successResultOf(others[2]), 3)
        self.assertEqual(self.rows(), [1, 2, 3])

    def test_a_disk_that_refuses_is_told_to_everybody_once(self) -> None:
        self.database.held = []
        first = self.intake.submit(add(1))
        others = [self.intake.submit(add(number)) for number in (2, 3)]
        self.database.let_go()
        self.successResultOf(first)
        self.database.refusing = sqlite3.OperationalError("disk full")
        self.database.let_go()
        for each in others:
            self.failureResultOf(each, StorageError)
        self.assertEqual(self.database.writes, 2)
        self.database.refusing, self.database.held = None, None
        self.successResultOf(self.intake.submit(add(4)))

    def test_a_caller_that_left_is_written_all_the_same(self) -> None:
        self.database.held = []
        gone = self.intake.submit(add(1))
        gone.cancel()
        self.failureResultOf(gone, CancelledError)
        self.database.let_go()
        self.assertEqual(self.rows(), [1])

    def test_too_many_are_told_to_come_again(self) -> None:
        self.database.held = []
        waiting = [self.intake.submit(add(number)) for number in range(BACKLOG_MAX + 1)]
        with self.assertRaises(RequestError) as caught:
            self.intake.submit(add(-1))
        self.assertEqual((caught.exception.fault, caught.exception.retry_after_s), (RequestFault.BUSY, 5))
        while self.database.held:
            self.database.let_go()
        self.successResultOf(waiting[-1])

    def test_drain_waits_for_the_last(self) -> None:
        self.successResultOf(Deferred.fromCoroutine(self.intake.drain()))
        self.database.held = []
        self.intake.submit(add(1))
        self.intake.submit(add(2))
        drained = Deferred.fromCoroutine(self.intake.drain())
        self.database.let_go()
        self.assertNoResult(drained)
        self.database.let_go()
        self.successResultOf(drained)
