"""Named timers of one agent."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from daemon.agents.timers import Timers


class TimersTest(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.timers = Timers(self.clock)
        self.fired: list[str] = []

    def fire(self, name: str) -> None:
        self.fired.append(name)

    def test_a_timer_fires_once_at_its_time(self) -> None:
        self.timers.set("a", 5.0, lambda: self.fire("a"))
        self.assertTrue(self.timers.pending("a"))
        self.clock.advance(4.9)
        self.assertEqual(self.fired, [])
        self.clock.advance(0.1)
        self.assertEqual(self.fired, ["a"])
        self.assertFalse(self.timers.pending("a"))
        self.clock.advance(100)
        self.assertEqual(self.fired, ["a"])

    def test_setting_it_again_moves_it(self) -> None:
        self.timers.set("a", 5.0, lambda: self.fire("old"))
        self.timers.set("a", 10.0, lambda: self.fire("new"))
        self.clock.advance(9)
        self.assertEqual(self.fired, [])
        self.clock.advance(1)
        self.assertEqual(self.fired, ["new"])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_cancelling_leaves_no_call_and_an_unset_one_is_no_error(self) -> None:
        self.timers.cancel("never set")
        self.timers.set("a", 1.0, lambda: self.fire("a"))
        self.timers.cancel("a")
        self.timers.cancel("a")
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertFalse(self.timers.pending("a"))

    def test_all_are_taken_back_at_once(self) -> None:
        for name in "abc":
            self.timers.set(name, 1.0, lambda name=name: self.fire(name))  # type: ignore[misc]  # late binding
        self.timers.cancel_all()
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.clock.advance(2)
        self.assertEqual(self.fired, [])

    def test_a_timer_may_set_itself_again(self) -> None:
        def tick() -> None:
            self.fire("tick")
            if len(self.fired) < 3:
                self.timers.set("a", 1.0, tick)

        self.timers.set("a", 1.0, tick)
        self.clock.pump([1, 1, 1, 1])
        self.assertEqual(self.fired, ["tick"] * 3)
        self.assertFalse(self.timers.pending("a"))

    def test_names_do_not_disturb_each_other(self) -> None:
        self.timers.set("a", 1.0, lambda: self.fire("a"))
        self.timers.set("b", 2.0, lambda: self.fire("b"))
        self.timers.cancel("a")
        self.clock.advance(2)
        self.assertEqual(self.fired, ["b"])
