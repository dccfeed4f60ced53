"""One contract for the Threads seam: the real lanes on the real reactor, and the fake."""

from __future__ import annotations

import threading
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred, gatherResults
from twisted.internet.task import Clock, deferLater
from twisted.trial.unittest import SynchronousTestCase, TestCase

from daemon.aio.threads import AT_ONCE, GROW_S, NO_THREAD_S, LaneBusy, LaneTimeout, ThreadLanes
from tests.fakes.threads import InlineThreads

DEADLINE_S = 0.05


class _Contract:
    """What every implementation must do. A subclass says how its lanes hang and how time passes."""

    timeout = 20
    threads: Any

    def hang(self, lane: str, deadline_s: float = 0.0) -> Deferred[Any]:
        """A call that has begun and does not come back before ``release``."""
        raise NotImplementedError

    async def release(self, lane: str) -> None:
        raise NotImplementedError

    async def pass_time(self, seconds: float) -> None:
        raise NotImplementedError

    async def test_a_call_gives_its_result(self) -> None:
        total = await self.threads.run("a", 1.0, lambda x, y: x + y, 2, y=3)
        self.assertEqual(total, 5)

    async def test_what_a_call_raises_reaches_the_caller(self) -> None:
        with self.assertRaisesRegex(KeyError, "no such"):
            await self.threads.run("a", 1.0, {}.__getitem__, "no such")

    async def test_even_system_exit_only_fails_the_call(self) -> None:
        def leave() -> None:
            raise SystemExit(3)

        with self.assertRaises(SystemExit):
            await self.threads.run("a", 1.0, leave)
        self.assertEqual(await self.threads.run("a", 1.0, lambda: "still here"), "still here")

    async def test_calls_of_one_lane_run_in_order(self) -> None:
        ran: list[int] = []
        await gatherResults([self.threads.run("a", 0, ran.append, number) for number in range(50)])
        self.assertEqual(ran, list(range(50)))

    async def test_a_hanging_lane_holds_no_other(self) -> None:
        hanging = self.hang("a")
        self.assertEqual(await self.threads.run("b", 1.0, lambda: "b"), "b")
        await self.release("a")
        await hanging

    async def test_calls_behind_a_hanging_one_wait_and_then_run(self) -> None:
        hanging = self.hang("a")
        behind = self.threads.run("a", 0, lambda: "ran")
        self.assertFalse(behind.called)
        await self.release("a")
        await hanging
        self.assertEqual(await behind, "ran")

    async def test_an_overdue_call_fails_and_blocks_its_lane_until_it_comes_back(self) -> None:
        hanging = self.hang("a", DEADLINE_S)
        await self.pass_time(2 * DEADLINE_S)
        with self.assertRaisesRegex(LaneTimeout, "0.05 s"):
            await hanging
        self.assertEqual(self.threads.stuck, ("a",))
        with self.assertRaises(LaneBusy):
            await self.threads.run("a", 1.0, lambda: None)
        await self.release("a")
        self.assertEqual(self.threads.stuck, ())
        self.assertEqual(await self.threads.run("a", 1.0, lambda: "again"), "again")

    async def test_a_call_that_became_overdue_while_waiting_never_runs(self) -> None:
        ran: list[str] = []
        hanging = self.hang("a")
        behind = self.threads.run("a", DEADLINE_S, ran.append, "behind")
        await self.pass_time(2 * DEADLINE_S)
        with self.assertRaises(LaneTimeout):
            await behind
        await self.release("a")
        await hanging
        self.assertEqual(await self.threads.run("a", 1.0, lambda: "again"), "again")
        self.assertEqual(ran, [])

    async def test_cancelling_answers_at_once_and_the_late_result_is_dropped(self) -> None:
        hanging = self.hang("a", 5.0)
        hanging.cancel()
        with self.assertRaises(CancelledError):
            await hanging
        await self.release("a")
        self.assertEqual(await self.threads.run("a", 1.0, lambda: "again"), "again")

    async def test_a_lane_with_too_many_calls_waiting_refuses(self) -> None:
        hanging = self.hang("a")
        waiting = [self.threads.run("a", 0, lambda: None) for _ in range(1024)]
        with self.assertRaises(LaneBusy):
            await self.threads.run("a", 0, lambda: None)
        await self.release("a")
        await gatherResults([hanging, *waiting])

    async def test_stop_with_nothing_to_do_is_immediate_and_refuses_new_calls(self) -> None:
        await self.threads.run("a", 0, lambda: None)
        self.assertEqual(await self.threads.stop(5.0), ())
        with self.assertRaises(LaneBusy):
            await self.threads.run("a", 0, lambda: None)

    async def test_stop_waits_for_calls_under_way(self) -> None:
        hanging = self.hang("a")
        stopping = Deferred.fromCoroutine(self.threads.stop(10.0))
        self.assertFalse(stopping.called)
        await self.release("a")
        self.assertEqual(await stopping, ())
        self.assertTrue(hanging.called)

    async def test_stop_names_the_lanes_it_gave_up(self) -> None:
        hanging = self.hang("a")
        overdue = self.hang("b", DEADLINE_S)
        await self.threads.run("c", 0, lambda: None)
        stopping = Deferred.fromCoroutine(self.threads.stop(2 * DEADLINE_S))
        await self.pass_time(3 * DEADLINE_S)
        with self.assertRaises(LaneTimeout):
            await overdue
        self.assertEqual(await stopping, ("a", "b"))
        await self.release("a")
        await self.release("b")
        await hanging


class ThreadLanesTests(_Contract, TestCase):
    """The contract on the real thing, and what only it has."""

    def setUp(self) -> None:
        self.threads = ThreadLanes(reactor)  # type: ignore[arg-type]  # the module stands for its content
        self._gates: dict[str, threading.Event] = {}
        self.addCleanup(self._finish)

    async def _finish(self) -> None:
        for gate in self._gates.values():
            gate.set()
        await self.threads.stop(5.0)

    def hang(self, lane: str, deadline_s: float = 0.0) -> Deferred[Any]:
        begun = threading.Event()
        gate = self._gates[lane] = threading.Event()

        def blocked() -> None:
            begun.set()
            gate.wait(15)

        result: Deferred[Any] = self.threads.run(lane, deadline_s, blocked)
        self.assertTrue(begun.wait(5), "the lane's thread did not begin")
        return result

    async def release(self, lane: str) -> None:
        self._gates[lane].set()
        for _turn in range(1000):
            await self.pass_time(0.002)
            if lane not in self.threads.lanes:
                return
        self.fail("the lane did not drain")

    async def pass_time(self, seconds: float) -> None:
        await deferLater(reactor, seconds)  # type: ignore[arg-type]  # the module stands for its content

    async def test_calls_run_on_a_daemon_thread_named_after_the_lane(self) -> None:
        def who() -> tuple[str, bool]:
            return threading.current_thread().name, threading.current_thread().daemon

        self.assertEqual(await self.threads.run("cpu", 1.0, who), ("lane-cpu", True))
        self.assertEqual(await self.threads.run("disk", 1.0, who), ("lane-disk", True))

    async def test_stop_joins_idle_threads(self) -> None:
        thread = await self.threads.run("cpu", 1.0, threading.current_thread)
        await self.threads.stop(1.0)
        thread.join(5)
        self.assertFalse(thread.is_alive())
        self.assertEqual(self.threads.workers, 0)

    async def test_idle_threads_end_and_are_made_again(self) -> None:
        self.threads = ThreadLanes(reactor, idle_s=0.01)  # type: ignore[arg-type]  # as above
        first = await self.threads.run("cpu", 1.0, threading.current_thread)
        first.join(5)
        self.assertFalse(first.is_alive())
        self.assertEqual(self.threads.workers, 0)
        second = await self.threads.run("cpu", 1.0, threading.current_thread)
        self.assertIsNot(second, first)

    async def test_many_lanes_with_short_calls_share_a_few_threads_and_leave_nothing(self) -> None:
        served = await gatherResults(
            [self.threads.run(f"logs:{n}", 5.0, threading.current_thread) for n in range(200)]
        )
        self.assertLess(len(set(served)), 10 * AT_ONCE)  # some more where the machine is slow
        self.assertEqual(self.threads.lanes, ())

    async def test_any_number_of_lanes_that_hang_holds_no_other(self) -> None:
        gate = threading.Event()
        self.addCleanup(gate.set)
        hanging = [self.threads.run(f"nfs:{n}", 0.5, gate.wait, 15) for n in range(30)]
        self.assertEqual(await self.threads.run("well", 5.0, lambda: "well"), "well")
        for each in hanging:
            with self.assertRaises(LaneTimeout):
                await each
        self.assertEqual(len(self.threads.stuck), 30)
        self.assertEqual(await self.threads.run("well", 5.0, lambda: "still"), "still")
        gate.set()
        while self.threads.stuck:
            await self.pass_time(0.002)

    async def test_a_thread_that_ends_while_its_lane_is_asked_again_keeps_the_order(self) -> None:
        self.threads = ThreadLanes(reactor, idle_s=0.0)  # type: ignore[arg-type]  # as above
        ran: dict[str, list[int]] = {"a": [], "b": []}
        for number in range(300):
            for lane, row in ran.items():
                self.threads.run(lane, 0, row.append, number)
            if number % 3 == 0:
                await deferLater(reactor, 0, lambda: None)  # type: ignore[arg-type]  # as above
        await gatherResults([self.threads.run(lane, 0, lambda: None) for lane in ran])
        self.assertEqual(ran, {"a": list(range(300)), "b": list(range(300))})


class InlineThreadsTests(_Contract, TestCase):
    """The contract on the fake; a SynchronousTestCase would pass ``async def`` tests without running them."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.threads = InlineThreads(self.clock)

    def hang(self, lane: str, deadline_s: float = 0.0) -> Deferred[Any]:
        self.threads.hang(lane)
        result: Deferred[Any] = self.threads.run(lane, deadline_s, lambda: None)
        return result

    async def release(self, lane: str) -> None:
        self.threads.release(lane)

    async def pass_time(self, seconds: float) -> None:
        self.clock.advance(seconds)

    def test_without_a_clock_there_are_no_deadlines(self) -> None:
        self.threads = InlineThreads()
        hanging = self.hang("a", 0.01)
        self.assertNoResult(hanging)
        self.threads.release("a")
        self.assertIsNone(self.successResultOf(hanging))


class _Deaf(Clock):
    """A reactor that takes what threads say and never acts on it."""

    def callFromThread(self, callable: Any, *args: Any, **kw: Any) -> None:
        return None


class NoThreads(SynchronousTestCase):
    def test_a_thread_that_cannot_start_fails_the_call_and_the_next_one_tries_again(self) -> None:
        lanes = ThreadLanes(_Deaf())
        real = threading.Thread.start
        self.addCleanup(setattr, threading.Thread, "start", real)

        def refuse(_thread: threading.Thread) -> None:
            raise RuntimeError("can't start new thread")

        threading.Thread.start = refuse  # type: ignore[method-assign]  # the kernel's limit of tasks
        self.failureResultOf(lanes.run("lane", 1.0, int), LaneBusy)
        threading.Thread.start = real  # type: ignore[method-assign]
        done = threading.Event()
        lanes.run("lane", 0, done.set)
        self.assertTrue(done.wait(10))

    def test_where_some_threads_are_a_call_waits_for_the_next_one(self) -> None:
        clock = _Deaf()
        lanes = ThreadLanes(clock)
        gate, begun, done = threading.Event(), threading.Event(), threading.Event()
        self.addCleanup(gate.set)
        lanes.run("first", 0, lambda: begun.set() or gate.wait(15))
        self.assertTrue(begun.wait(5))
        real = threading.Thread.start
        self.addCleanup(setattr, threading.Thread, "start", real)

        def refuse(_thread: threading.Thread) -> None:
            raise RuntimeError("can't start new thread")

        threading.Thread.start = refuse  # type: ignore[method-assign]  # the kernel's limit of tasks
        waiting = lanes.run("second", 0, done.set)
        clock.advance(GROW_S)
        self.assertNoResult(waiting)
        threading.Thread.start = real  # type: ignore[method-assign]
        clock.advance(NO_THREAD_S)
        self.assertTrue(done.wait(5))
