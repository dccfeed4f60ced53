"""The manager: timers, deadlines, overlap, failures, stopping and replacing."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from collectors_support import RecordingEvents
from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.logger import capturedLogs
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase, TestCase

from daemon.aio.sleep import sleep
from daemon.aio.threads import LaneBusy, LaneTimeout, ThreadLanes
from daemon.collectors.manager import CollectorManager
from daemon.collectors.runner import STOP_GRACE_S, as_collect_error
from daemon.errors import CollectError, StorageError
from daemon.model.event import Severity
from daemon.model.metrics import Metrics
from tests.fakes.threads import InlineThreads


class FakeCollector:
    """A collector whose answer is a function of how often it was asked."""

    def __init__(
        self,
        name: str,
        answer: Callable[[int], Any] | None = None,
        interval_s: float = 60,
        timeout_s: float = 10,
    ) -> None:
        self.name = name
        self.interval_s = interval_s
        self.timeout_s = timeout_s
        self.asked = 0
        self._answer = answer

    def collect(self) -> Any:
        self.asked += 1
        if self._answer is not None:
            return self._answer(self.asked)
        return Metrics(name=self.name, timestamp=float(self.asked), values={"n": self.asked})


class Hanging(FakeCollector):
    """Answers when told to; says whether it was cancelled."""

    def __init__(self, name: str, timeout_s: float = 10, stubborn: bool = False) -> None:
        super().__init__(name, self._hang, timeout_s=timeout_s)
        self.pending: list[Deferred[Metrics]] = []
        self.cancelled = 0
        self._stubborn = stubborn

    async def _hang(self, _asked: int) -> Metrics:
        while True:
            answer: Deferred[Metrics] = Deferred()
            self.pending.append(answer)
            try:
                return await answer
            except CancelledError:
                self.cancelled += 1
                if not self._stubborn:
                    raise

    def answer(self) -> None:
        self.pending[-1].callback(Metrics(name=self.name, timestamp=0.0, values={"late": 1}))


def failing(name: str, error: BaseException, until: int = 10**9, **kwargs: Any) -> FakeCollector:
    """Raises in its first ``until`` rounds."""

    def answer(asked: int) -> Metrics:
        if asked <= until:
            raise error
        return Metrics(name=name, timestamp=0.0, values={})

    return FakeCollector(name, answer, **kwargs)


class ManagerTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.events = RecordingEvents()
        self.threads = InlineThreads(self.clock)

    def manager(self, *collectors: Any) -> CollectorManager:
        made = CollectorManager(
            self.clock, self.threads, lambda: 1000.0 + self.clock.seconds(), self.events, collectors
        )
        made.startService()
        return made

    def minutes(self, count: int) -> None:
        for _minute in range(count):
            self.clock.advance(60)

    def stop(self, manager: CollectorManager) -> None:
        self.successResultOf(manager.stopService())
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_nothing_is_collected_before_the_start(self) -> None:
        one = FakeCollector("a")
        manager = CollectorManager(self.clock, self.threads, lambda: 0.0, self.events, [one])
        self.assertEqual((one.asked, manager.get_latest()), (0, {}))
        self.assertFalse(manager.stats()["a"].success)

    def test_first_round_of_all_comes_within_the_start(self) -> None:
        manager = self.manager(FakeCollector("a"), FakeCollector("b"))
        self.assertEqual(
            {n: m.values for n, m in manager.get_latest().items()}, {"a": {"n": 1}, "b": {"n": 1}}
        )
        self.stop(manager)

    def test_each_has_its_own_timer(self) -> None:
        slow, fast = FakeCollector("slow", interval_s=60), FakeCollector("fast", interval_s=20)
        manager = self.manager(slow, fast)
        for _step in range(6):
            self.clock.advance(20)
        self.assertEqual((slow.asked, fast.asked), (3, 7))
        self.assertEqual(manager.get_latest()["fast"].values, {"n": 7})
        self.stop(manager)
        self.minutes(2)
        self.assertEqual(slow.asked, 3)

    def test_two_of_one_name_are_refused(self) -> None:
        with self.assertRaises(ValueError):
            self.manager(FakeCollector("a"), FakeCollector("a"))

    def test_duration_and_success_are_published(self) -> None:
        slow = Hanging("slow")
        manager = self.manager(slow)
        self.clock.advance(1.5)
        slow.answer()
        stats = manager.stats()["slow"]
        self.assertEqual((stats.duration_s, stats.success, stats.last_success_at), (1.5, True, 1001.5))
        self.assertEqual((stats.rounds_total, stats.failures_total, stats.skipped_total), (1, 0, 0))
        self.stop(manager)

    def test_failing_collector_touches_no_other(self) -> None:
        good = FakeCollector("good")
        manager = self.manager(failing("bad", CollectError("no disk")), good)
        self.minutes(3)
        self.assertEqual(good.asked, 4)
        self.assertEqual(list(manager.get_latest()), ["good"])
        stats = manager.stats()["bad"]
        self.assertEqual((stats.success, stats.failures_total, stats.last_error), (False, 4, "D5001 no disk"))
        self.stop(manager)

    def test_failure_is_told_once_per_change_of_state(self) -> None:
        with capturedLogs() as logs:
            manager = self.manager(failing("bad", CollectError("no disk"), until=5))
            self.minutes(4)
            self.assertEqual(self.events.types, ["collector.failed"])
            self.minutes(3)
        self.assertEqual(self.events.types, ["collector.failed", "collector.recovered"])
        self.assertEqual(
            self.events.heard[0][1:],
            (Severity.WARN, {"collector": "bad", "code": "D5001", "error": "no disk"}),
        )
        self.assertEqual([entry.get("error_code") for entry in logs], ["D5001", None])
        stats = manager.stats()["bad"]
        self.assertEqual((stats.success, stats.failures_total, stats.rounds_total), (True, 5, 8))
        self.assertEqual(stats.last_error, "D5001 no disk")
        self.stop(manager)

    def test_last_sample_stays_while_a_collector_fails(self) -> None:
        def answer(asked: int) -> Metrics:
            if asked > 1:
                raise CollectError("gone")
            return Metrics(name="a", timestamp=1.0, values={})

        manager = self.manager(FakeCollector("a", answer))
        self.minutes(2)
        self.assertEqual(manager.get_latest()["a"].timestamp, 1.0)
        self.stop(manager)

    def test_a_bug_is_logged_once_with_its_traceback(self) -> None:
        manager = self.manager(failing("bad", ZeroDivisionError("oops")))
        self.minutes(3)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.assertEqual(manager.stats()["bad"].last_error, "D5001 ZeroDivisionError: oops")
        self.stop(manager)

    def test_answer_that_is_no_metrics_is_a_failure(self) -> None:
        manager = self.manager(FakeCollector("bad", lambda _asked: {"n": 1}))
        self.assertIn("returned dict, not Metrics", manager.stats()["bad"].last_error)
        self.stop(manager)

    def test_overdue_round_fails_at_its_deadline_and_is_cancelled(self) -> None:
        slow = Hanging("slow", timeout_s=10)
        manager = self.manager(slow, FakeCollector("good"))
        self.clock.advance(9.9)
        self.assertEqual(manager.stats()["slow"].failures_total, 0)
        self.clock.advance(0.1)
        stats = manager.stats()["slow"]
        self.assertEqual((slow.cancelled, stats.failures_total, stats.duration_s), (1, 1, 10.0))
        self.assertIn("no answer within 10 s", stats.last_error)
        self.clock.advance(50)
        self.assertEqual((slow.asked, manager.stats()["slow"].skipped_total), (2, 0))
        slow.answer()
        self.assertEqual(self.events.types, ["collector.failed", "collector.recovered"])
        self.stop(manager)

    def test_overlap_is_skipped_and_counted(self) -> None:
        slow = Hanging("slow", timeout_s=150)
        manager = self.manager(slow)
        self.minutes(2)
        stats = manager.stats()["slow"]
        self.assertEqual((slow.asked, stats.rounds_total, stats.skipped_total), (1, 1, 2))
        slow.answer()
        self.minutes(1)
        self.assertEqual((slow.asked, manager.stats()["slow"].skipped_total), (2, 2))
        self.stop(manager)

    def test_round_that_ignores_its_deadline_is_not_begun_again_and_its_late_answer_is_dropped(self) -> None:
        slow = Hanging("slow", stubborn=True)
        manager = self.manager(slow)
        self.minutes(3)
        stats = manager.stats()["slow"]
        self.assertEqual((slow.asked, stats.failures_total, stats.skipped_total), (1, 1, 3))
        slow.answer()
        self.assertEqual(manager.get_latest(), {})
        self.minutes(1)
        self.assertEqual(slow.asked, 2)
        slow.answer()
        self.assertEqual(manager.get_latest()["slow"].values, {"late": 1})
        self.stop(manager)

    def test_stop_cancels_what_is_under_way_and_tells_nobody(self) -> None:
        slow = Hanging("slow")
        manager = self.manager(slow)
        self.stop(manager)
        self.assertEqual((slow.cancelled, self.events.types), (1, []))

    def test_stop_waits_for_a_stubborn_round_but_not_for_ever(self) -> None:
        slow, ending = Hanging("slow", stubborn=True), Hanging("ending", stubborn=True)
        manager = self.manager(slow, ending)
        stopped = manager.stopService()
        self.assertNoResult(stopped)
        ending.answer()
        self.assertNoResult(stopped)
        with capturedLogs() as logs:
            self.clock.advance(STOP_GRACE_S)
        self.assertEqual([entry["collector"] for entry in logs], ["slow"])
        self.successResultOf(stopped)
        self.assertEqual(manager.get_latest(), {})

    def test_it_can_be_started_again(self) -> None:
        one = FakeCollector("a")
        manager = self.manager(one)
        self.stop(manager)
        manager.startService()
        self.assertEqual(one.asked, 2)
        self.stop(manager)

    def test_blocking_collector_runs_in_its_own_lane_within_its_timeout(self) -> None:
        one = FakeCollector("raid", timeout_s=3)
        one.blocking = True  # type: ignore[attr-defined]  # optional in a collector
        manager = self.manager(one, FakeCollector("a"))
        self.assertEqual(self.threads.calls, ["collector:raid"])
        self.threads.hang("collector:raid")
        self.minutes(1)
        self.clock.advance(3)
        self.assertIn("does not answer", manager.stats()["raid"].last_error)
        self.stop(manager)

    def test_replace_leaves_the_same_object_undisturbed(self) -> None:
        stays, goes, comes = FakeCollector("stays"), FakeCollector("goes"), FakeCollector("comes")
        manager = self.manager(stays, goes)
        self.clock.advance(30)
        manager.replace([comes, stays])
        self.assertEqual((stays.asked, comes.asked), (1, 1))
        self.assertEqual(list(manager.get_latest()), ["comes", "stays"])
        self.assertEqual(list(manager.stats()), ["comes", "stays"])
        self.clock.advance(30)
        self.assertEqual((stays.asked, goes.asked, comes.asked), (2, 1, 1))
        self.stop(manager)

    def test_replace_by_name_keeps_the_latest_and_the_counts(self) -> None:
        manager = self.manager(failing("a", CollectError("x")), FakeCollector("b"))
        new_a, new_b = FakeCollector("a"), Hanging("b")
        manager.replace([new_a, new_b])
        self.assertEqual(self.events.types, ["collector.failed", "collector.recovered"])
        self.assertEqual(manager.get_latest()["b"].values, {"n": 1})
        stats = manager.stats()
        self.assertEqual((stats["a"].rounds_total, stats["a"].failures_total), (2, 1))
        self.assertEqual(stats["b"].rounds_total, 2)
        self.stop(manager)

    def test_stop_waits_for_what_was_replaced_too(self) -> None:
        old = Hanging("old", stubborn=True)
        manager = self.manager(old)
        manager.replace([])
        stopped = manager.stopService()
        self.assertNoResult(stopped)
        old.answer()
        self.successResultOf(stopped)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_refused_replacement_changes_nothing(self) -> None:
        one = FakeCollector("a")
        manager = self.manager(one)
        with self.assertRaises(ValueError):
            manager.replace([FakeCollector("b"), FakeCollector("b")])
        self.minutes(1)
        self.assertEqual(one.asked, 2)
        self.stop(manager)

    def test_replace_before_the_start_starts_nothing(self) -> None:
        manager = CollectorManager(self.clock, self.threads, lambda: 0.0, self.events, [])
        one = FakeCollector("a")
        manager.replace([one])
        self.assertEqual(one.asked, 0)
        manager.startService()
        self.assertEqual(one.asked, 1)
        self.stop(manager)

    def test_causes_are_told_as_d5001(self) -> None:
        for error, text in (
            (CollectError("own"), "D5001 own"),
            (StorageError("full"), "D5001 full"),
            (
                LaneTimeout("collector:disk: no answer within 10 s"),
                "D5001 collector:disk: no answer within 10 s;",
            ),
            (LaneBusy("collector:disk: stuck"), "D5001 collector:disk: stuck;"),
            (PermissionError(13, "Permission denied", "/x"), "D5001 Permission denied (/x)"),
        ):
            self.assertTrue(str(as_collect_error(Failure(error))).startswith(text))
        self.assertIsNone(as_collect_error(Failure(KeyError("bug"))))


class RealThreadTests(TestCase):
    """A call that hangs in a real thread neither stops the others nor the stopping."""

    timeout = 20

    async def test_hung_thread_costs_its_own_collector_alone(self) -> None:
        release, hung = threading.Event(), FakeCollector("hung", interval_s=0.05, timeout_s=0.1)
        hung.blocking = True  # type: ignore[attr-defined]  # optional in a collector
        hung._answer = lambda _asked: release.wait(15)
        good = FakeCollector("good", interval_s=0.02)
        lanes = ThreadLanes(reactor)
        manager = CollectorManager(reactor, lanes, lambda: 0.0, RecordingEvents(), [hung, good])  # type: ignore[arg-type]  # the reactor module
        manager.startService()
        try:
            await sleep(reactor, 0.3)  # type: ignore[arg-type]  # the reactor module
            self.assertEqual(hung.asked, 1)
            self.assertGreaterEqual(good.asked, 5)
            self.assertGreaterEqual(manager.stats()["hung"].failures_total, 1)
            await manager.stopService()
            self.assertEqual(lanes.stuck, ("collector:hung",))
        finally:
            release.set()
            await lanes.stop(5)
