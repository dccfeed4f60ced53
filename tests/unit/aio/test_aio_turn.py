"""The budget of a turn: work at once while it lasts, then in order, never nested, never lost."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from daemon.aio.turn import TurnBudget


class Turns(Clock):
    """A Clock that runs one turn at a time: what a call schedules comes in the next."""

    def turn(self) -> int:
        """Runs what was scheduled before; how many calls that were."""
        due, self.calls = self.calls, []
        for call in due:
            call.called = 1
            call.func(*call.args, **call.kw)
        return len(due)


class TurnBudgetTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Turns()
        self.cpu_s = 0.0
        self.done: list[int] = []
        self.budget = TurnBudget(self.clock, lambda: self.cpu_s, budget_s=0.010)

    def work(self, number: int, cost_s: float = 0.004) -> Callable[[], None]:
        def run() -> None:
            self.cpu_s += cost_s
            self.done.append(number)

        return run

    def test_work_runs_at_once(self) -> None:
        self.budget.run(self.work(1))
        self.assertEqual(self.done, [1])

    def test_beyond_the_budget_it_waits_for_the_next_turns_in_order(self) -> None:
        for number in range(8):
            self.budget.run(self.work(number))
        self.assertEqual(self.done, [0, 1, 2])  # the third began within the budget
        self.clock.turn()
        self.assertEqual(self.done, [0, 1, 2, 3, 4, 5])
        self.clock.turn()
        self.assertEqual(self.done, list(range(8)))

    def test_who_comes_later_does_not_overtake(self) -> None:
        for number in range(4):
            self.budget.run(self.work(number))
        self.clock.turn()
        for number in range(4, 8):
            self.budget.run(self.work(number))
        while self.clock.calls:
            self.clock.turn()
        self.assertEqual(self.done, list(range(8)))

    def test_an_idle_budget_keeps_no_timer(self) -> None:
        self.budget.run(self.work(1))
        self.clock.turn()
        self.clock.turn()
        self.assertEqual(self.clock.calls, [])
        self.budget.run(self.work(2))
        self.assertEqual(self.done, [1, 2])

    def test_a_new_turn_has_a_new_budget(self) -> None:
        self.budget.run(self.work(1, 0.5))
        self.clock.turn()
        self.budget.run(self.work(2))
        self.assertEqual(self.done, [1, 2])

    def test_work_that_raises_is_logged_and_holds_nobody(self) -> None:
        def fail() -> None:
            raise ZeroDivisionError

        self.budget.run(fail)
        self.budget.run(self.work(1))
        self.assertEqual(self.done, [1])
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_work_that_asks_for_itself_again_gets_one_turn_each(self) -> None:
        def again() -> None:
            self.done.append(len(self.done))
            if len(self.done) < 2000:
                self.budget.run(again)

        self.budget.run(again)
        self.assertEqual(self.done, [0])
        turns = 0
        while self.clock.calls:
            self.assertLessEqual(self.clock.turn(), 1)  # never two timers at once
            turns += 1
        self.assertEqual(len(self.done), 2000)
        self.assertGreaterEqual(turns, 1999)

    def test_a_burst_of_work_that_asks_for_more_keeps_to_the_budget(self) -> None:
        def parent(number: int) -> Callable[[], None]:
            def run() -> None:
                self.work(number)()
                self.budget.run(self.work(100 + number))

            return run

        for number in range(10):
            self.budget.run(parent(number))
        before = len(self.done)
        while self.clock.calls:
            self.clock.turn()
            self.assertLessEqual(len(self.done) - before, 3)
            before = len(self.done)
        self.assertEqual(sorted(self.done), [*range(10), *range(100, 110)])
