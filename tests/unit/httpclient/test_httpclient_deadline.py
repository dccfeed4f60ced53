"""A deadline holds, and a caller may leave, whatever the work says to that."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectingCancelledError
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from daemon.httpclient import Overdue, by_deadline


async def waiting_for(done: Deferred[int]) -> int:
    return await done


class DeadlineTest(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()

    def start(self, canceller: Callable[[Deferred[int]], Any] | None = None) -> tuple[Deferred[int], Deferred[int]]:
        done: Deferred[int] = Deferred(canceller)
        return by_deadline(self.clock, 5.0, waiting_for(done)), done

    def test_a_result_in_time_passes_and_leaves_no_timer(self) -> None:
        answer, done = self.start()
        self.clock.advance(4.9)
        done.callback(7)
        self.assertEqual(self.successResultOf(answer), 7)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_a_failure_passes_as_it_is(self) -> None:
        answer, done = self.start()
        done.errback(KeyError("x"))
        self.failureResultOf(answer, KeyError)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_work_that_is_done_at_once(self) -> None:
        async def at_once() -> int:
            return 3

        self.assertEqual(self.successResultOf(by_deadline(self.clock, 5.0, at_once())), 3)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_at_the_deadline_the_work_is_cancelled(self) -> None:
        cancelled: list[object] = []
        answer, _done = self.start(cancelled.append)
        self.clock.advance(4.9)
        self.assertNoResult(answer)
        self.clock.advance(0.2)
        self.failureResultOf(answer, Overdue)
        self.assertEqual(len(cancelled), 1)

    def test_work_that_fails_in_its_own_way_when_cancelled_is_overdue_all_the_same(self) -> None:
        answer, _done = self.start(lambda done: done.errback(ConnectingCancelledError("127.0.0.1")))
        self.clock.advance(5.0)
        self.failureResultOf(answer, Overdue)
        answer, _done = self.start(lambda done: done.errback(RuntimeError("a fault")))
        self.clock.advance(5.0)
        self.failureResultOf(answer, Overdue)

    def test_work_that_does_not_listen_holds_nobody(self) -> None:
        async def deaf() -> int:
            while True:
                try:
                    return await again[-1]
                except CancelledError:
                    again.append(Deferred())

        again: list[Deferred[int]] = [Deferred()]
        answer = by_deadline(self.clock, 5.0, deaf())
        self.clock.advance(5.0)
        self.failureResultOf(answer, Overdue)
        again[-1].callback(1)  # an answer nobody waits for

    def test_a_caller_that_leaves_hears_of_nothing_else_and_leaves_no_timer(self) -> None:
        answer, _done = self.start(lambda done: done.errback(ConnectingCancelledError("127.0.0.1")))
        answer.cancel()
        self.failureResultOf(answer, CancelledError)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_a_deadline_of_the_work_itself_fires_first_for_it_says_more(self) -> None:
        async def with_its_own() -> int:
            inner: Deferred[int] = Deferred()
            self.clock.callLater(5.0, inner.errback, ValueError("the name server is silent"))
            return await inner

        answer = by_deadline(self.clock, 5.0, with_its_own())
        self.clock.advance(5.0)
        self.failureResultOf(answer, ValueError)
