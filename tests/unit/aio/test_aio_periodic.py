"""Periodic work: failures, overlap, phase, stop."""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from daemon.aio.periodic import periodic


class PeriodicTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.times: list[float] = []

    def note(self) -> None:
        self.times.append(self.clock.seconds())

    def test_the_first_round_comes_at_once_and_the_others_each_interval(self) -> None:
        timer = periodic(self.clock, 10, self.note, name="note")
        self.clock.pump([5, 5, 5, 5])
        self.assertEqual(self.times, [0, 10, 20])
        self.assertEqual(timer.rounds_total, 3)
        self.successResultOf(timer.stop())

    def test_the_phase_delays_the_first_round(self) -> None:
        timer = periodic(self.clock, 10, self.note, name="note", phase_s=3)
        self.assertTrue(timer.running)
        self.clock.pump([2.5, 0.5, 10])
        self.assertEqual(self.times, [3, 13])
        self.successResultOf(timer.stop())

    def test_jitter_spreads_the_phase_over_its_part_of_the_interval(self) -> None:
        timer = periodic(
            self.clock, 10, self.note, name="note", phase_s=1, jitter=0.5, random_unit=lambda: 0.8
        )
        self.clock.advance(4.9)
        self.assertEqual(self.times, [])
        self.clock.advance(0.2)
        self.assertEqual(len(self.times), 1)
        self.successResultOf(timer.stop())

    def test_a_round_that_raises_is_logged_counted_and_followed_by_the_next(self) -> None:
        def fail() -> None:
            self.note()
            raise ZeroDivisionError("this round")

        timer = periodic(self.clock, 10, fail, name="division")
        self.clock.pump([10, 10])
        self.assertEqual(self.times, [0, 10, 20])
        self.assertEqual(timer.failures_total, 3)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 3)
        self.successResultOf(timer.stop())

    def test_a_coroutine_function_is_awaited_and_its_failure_counted(self) -> None:
        gate: Deferred[None] = Deferred()

        async def work() -> None:
            self.note()
            await gate
            raise ZeroDivisionError

        timer = periodic(self.clock, 10, work, name="division")
        self.assertEqual(timer.failures_total, 0)
        gate.callback(None)
        self.assertEqual(timer.failures_total, 1)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.successResultOf(timer.stop())

    def test_a_round_under_way_is_not_overlapped_and_missed_beats_are_skipped(self) -> None:
        gates: list[Deferred[None]] = []

        def slow() -> Deferred[None]:
            self.note()
            gates.append(Deferred())
            return gates[-1]

        timer = periodic(self.clock, 10, slow, name="slow")
        self.clock.pump([10, 10, 5])
        self.assertEqual(self.times, [0])
        gates[0].callback(None)
        self.clock.advance(5)
        self.assertEqual(self.times, [0, 30])
        gates[1].callback(None)
        self.successResultOf(timer.stop())

    def test_stop_waits_for_the_round_under_way(self) -> None:
        gate: Deferred[None] = Deferred()
        timer = periodic(self.clock, 10, lambda: gate, name="slow")
        first, second = timer.stop(), timer.stop()
        self.assertNoResult(first)
        gate.callback(None)
        self.successResultOf(first)
        self.successResultOf(second)
        self.assertFalse(timer.running)

    def test_stop_before_the_first_round_takes_the_timer_away(self) -> None:
        timer = periodic(self.clock, 10, self.note, name="note", phase_s=3)
        self.successResultOf(timer.stop())
        self.assertFalse(timer.running)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_nothing_is_left_on_the_clock_after_stop_and_a_second_stop_is_harmless(self) -> None:
        timer = periodic(self.clock, 10, self.note, name="note")
        self.successResultOf(timer.stop())
        self.successResultOf(timer.stop())
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_it_can_be_started_again(self) -> None:
        timer = periodic(self.clock, 10, self.note, name="note")
        self.successResultOf(timer.stop())
        timer.start(phase_s=1)
        self.clock.advance(1)
        self.assertEqual(self.times, [0, 1])
        self.successResultOf(timer.stop())
