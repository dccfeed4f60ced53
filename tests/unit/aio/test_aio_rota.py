"""Jobs of one interval and phase share their wakes, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from daemon.aio.rota import PHASE_MIN_S, Member, Rota, until_beat_s


@pytest.mark.parametrize(
    ("now_s", "interval_s", "phase", "wait_s"),
    [(0.0, 30.0, 0.0, PHASE_MIN_S), (1.0, 30.0, 0.0, 29.0), (31.0, 30.0, 0.5, 14.0), (59.0, 30.0, 0.25, 8.5)],
)
def test_beats_stand_at_multiples_of_the_interval(
    now_s: float, interval_s: float, phase: float, wait_s: float
) -> None:
    assert until_beat_s(now_s, interval_s, phase) == pytest.approx(wait_s)


class RotaTest(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.advance(1000.0)
        self.rota = Rota(self.clock)
        self.calls: list[tuple[str, float]] = []

    def join(self, name: str, interval_s: float = 30.0, phase: float = 0.0, **how: Any) -> Member:
        work = how.get("work", lambda: self.calls.append((name, self.clock.seconds())))
        return self.rota.join(interval_s, phase, work, name=name)

    def wait(self, seconds: int) -> None:
        for _ in range(seconds):
            self.clock.advance(1)

    def test_those_of_one_interval_and_phase_are_called_in_one_wake_whenever_they_came(self) -> None:
        self.join("a")
        self.wait(7)
        self.join("b")
        self.join("c", phase=0.5)
        self.assertEqual((self.rota.shifts, len(self.clock.getDelayedCalls())), (2, 2))
        self.wait(60)
        self.assertEqual(
            self.calls,
            [("a", 1020.0), ("b", 1020.0), ("c", 1035.0), ("a", 1050.0), ("b", 1050.0), ("c", 1065.0)],
        )

    def test_who_fails_is_called_again_and_holds_nobody_up(self) -> None:
        broken = self.join("broken", work=self.broken)
        self.join("well")
        self.wait(61)
        self.assertEqual([name for name, _at in self.calls], ["well", "well"])
        self.assertEqual((broken.failures_total, len(self.flushLoggedErrors(ZeroDivisionError))), (2, 2))

    def broken(self) -> None:
        raise ZeroDivisionError

    def test_who_left_is_not_called_any_more_and_the_last_one_ends_the_timer(self) -> None:
        first, second = self.join("first"), self.join("second")
        first.leave()
        self.wait(30)
        second.leave()
        second.leave()
        self.assertEqual((self.rota.shifts, self.clock.getDelayedCalls()), (0, []))
        self.join("third")
        self.wait(30)
        self.assertEqual([name for name, _at in self.calls], ["second", "third"])

    def test_who_is_taken_out_within_the_round_is_not_called_in_it(self) -> None:
        members: dict[str, Member] = {}
        members["a"] = self.join("a", work=lambda: members["b"].leave())
        members["b"] = self.join("b")
        members["c"] = self.join("c", work=lambda: members["c"].leave())
        self.wait(61)
        self.assertEqual(self.calls, [])
        members["a"].leave()
        self.assertEqual(self.clock.getDelayedCalls(), [])
