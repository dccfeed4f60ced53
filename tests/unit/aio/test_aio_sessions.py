"""Sessions remembered for a while: renewed in the background, one look at a time."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from daemon.aio.sessions import DEADLINE_S, LANE, SessionIndex
from tests.fakes.threads import InlineThreads


class SessionIndexTest(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.threads = InlineThreads(self.clock)
        self.looks = 0
        self.sessions: dict[int, tuple[int, ...]] = {7: (7, 8)}
        self.index = SessionIndex(self.clock, self.threads, self.scan)

    def scan(self) -> dict[int, tuple[int, ...]]:
        self.looks += 1
        return dict(self.sessions)

    def test_members_are_those_of_the_last_look_and_at_least_the_leader(self) -> None:
        self.assertEqual(self.index.members(7, 30), (7, 8))
        self.assertEqual(self.index.members(9, 30), (9,))
        self.assertEqual(self.looks, 1)

    def test_a_look_is_renewed_when_it_is_older_than_asked_for(self) -> None:
        self.index.members(7, 30)
        self.sessions[7] = (7, 8, 9)
        self.clock.advance(29)
        self.assertEqual(self.index.members(7, 30), (7, 8))
        self.clock.advance(2)
        self.assertEqual(self.index.members(7, 30), (7, 8, 9))
        self.assertEqual(self.looks, 2)

    def test_a_proc_that_hangs_holds_nobody_and_is_asked_once_at_a_time(self) -> None:
        self.index.members(7, 30)
        self.threads.hang(LANE)
        self.clock.advance(31)
        for _ in range(5):
            self.assertEqual(self.index.members(7, 30), (7, 8))
        self.clock.advance(DEADLINE_S + 1)
        self.assertEqual(self.index.members(7, 30), (7, 8))
        self.assertEqual(self.threads.calls.count(LANE), 2)
        self.clock.advance(31)
        self.index.members(7, 30)  # the lane is stuck: refused at once, no complaint more
        self.threads.release(LANE)
        self.clock.advance(31)
        self.sessions[7] = (7,)
        self.assertEqual(self.index.members(7, 30), (7,))

    def test_who_waits_for_a_refresh_hears_of_it(self) -> None:
        self.threads.hang(LANE)
        first, second = self.index.refresh(), self.index.refresh()
        self.assertNoResult(first)
        self.threads.release(LANE)
        self.successResultOf(first)
        self.successResultOf(second)
        self.successResultOf(self.index.refresh())
        self.assertEqual(self.looks, 2)

    def test_a_fresh_look_is_waited_for_with_patience_and_no_longer(self) -> None:
        self.successResultOf(self.index.fresh(30, 1.0))
        self.assertEqual(self.looks, 1)
        self.sessions[7] = (7,)
        self.successResultOf(self.index.fresh(30, 1.0))  # young enough
        self.assertEqual(self.looks, 1)
        self.clock.advance(31)
        self.threads.hang(LANE)
        waiting = self.index.fresh(30, 1.0)
        self.clock.advance(0.9)
        self.assertNoResult(waiting)
        self.clock.advance(0.2)
        self.successResultOf(waiting)
        self.assertEqual(self.index.members(7, 60), (7, 8))
        self.threads.release(LANE)
        self.assertEqual(self.index.members(7, 60), (7,))
        self.assertEqual(self.clock.getDelayedCalls(), [])
