"""The queue of reports: disk first, memory while the disk refuses, counts that stay exact."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any, cast

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from daemon import faults
from daemon.config.schema import QueueConfig
from daemon.rpc.report_queue import LANE, MEMORY_REPORTS, STORAGE_ALERT, ReportQueue
from tests.fakes.rpc_link import WALL, OneThread
from tests.fakes.supervised import FakeAlerts
from tests.fakes.threads import InlineThreads


class QueueCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="hd-queue-"))
        self.addCleanup(shutil.rmtree, self.folder)
        self.addCleanup(faults.arm, {})
        self.clock = OneThread()
        self.threads = InlineThreads(self.clock)
        self.alerts = FakeAlerts()
        self.news = 0
        self.queue = self.make()

    def make(self, **bounds: Any) -> ReportQueue:
        queue = ReportQueue(
            self.folder / "reports", self.clock, self.threads, lambda: WALL + self.clock.seconds(),
            QueueConfig(**bounds), cast(Any, self.alerts),
        )

        def heard() -> None:
            self.news += 1

        queue.on_news = heard
        return queue

    def take(self, count: int = 100) -> Any:
        return self.successResultOf(Deferred.fromCoroutine(self.queue.take(count, 10**6)))

    def settle(self, batch: Any, **counts: int) -> None:
        self.successResultOf(Deferred.fromCoroutine(self.queue.settle(batch, **counts)))

    def close(self) -> None:
        self.successResultOf(Deferred.fromCoroutine(self.queue.close()))

    def fault(self, text: str) -> None:
        faults.arm({faults.VARIABLE: text})

    @property
    def ill(self) -> bool:
        return ("", STORAGE_ALERT) in self.alerts.standing


class DiskTest(QueueCase):
    def test_reports_go_to_the_disk_and_tell_it(self) -> None:
        self.queue.put([b"a", b"b"])
        self.assertEqual(self.news, 1)
        batch = self.take()
        self.assertEqual((batch.lines, batch.through), ((b"a", b"b"), 2))
        self.settle(batch, delivered=2)
        self.assertIsNone(self.take())
        self.assertEqual(self.queue.counts.delivered_total, 2)

    def test_what_is_released_comes_again(self) -> None:
        self.queue.put([b"a"])
        self.take()
        self.queue.release()
        self.assertEqual(self.take().lines, (b"a",))

    def test_the_files_are_synced_once_a_second_after_news_and_not_without(self) -> None:
        self.queue.put([b"a"])
        self.queue.put([b"b"])
        self.assertEqual(self.threads.calls.count("reports-sync"), 0)
        self.clock.advance(1)
        self.assertEqual(self.threads.calls.count("reports-sync"), 1)
        self.clock.advance(100)
        self.assertEqual(self.threads.calls.count("reports-sync"), 1)

    def test_a_wall_clock_that_is_set_ages_nothing(self) -> None:
        wall = [WALL]
        queue = ReportQueue(self.folder / "r", self.clock, self.threads, lambda: wall[0], QueueConfig(),
                            cast(Any, self.alerts))
        queue.put([b"a"])
        wall[0] += 10 * 86400
        queue.put([b"b"])
        self.assertEqual(queue.counts.dropped_total, 0)
        self.assertEqual(queue.counts.waiting, 2)

    def test_a_report_too_large_for_the_queue_is_dropped_and_counted(self) -> None:
        self.queue.put([b"x" * 300_000, b"small"])
        self.assertEqual(self.take().lines, (b"small",))
        self.assertEqual(self.queue.counts.dropped_total, 1)


class RefusingTest(QueueCase):
    def test_a_full_disk_keeps_reports_in_memory_in_order_and_says_so(self) -> None:
        self.queue.put([b"a"])
        self.fault("journal.append:1:enospc")
        self.queue.put([b"b"])
        self.queue.put([b"c"])
        self.assertTrue(self.ill)
        self.assertEqual(self.queue.counts.waiting, 3)
        batch = self.take()
        self.assertEqual(batch.lines, (b"a",))
        self.settle(batch, delivered=1)
        batch = self.take()
        self.assertEqual((batch.lines, batch.through), ((b"b", b"c"), 0))
        self.settle(batch, delivered=1, refused=1)
        self.queue.put([b"d"])
        self.fault("")
        self.queue.put([b"e"])
        self.assertFalse(self.ill)
        self.assertEqual(self.take().lines, (b"d", b"e"))
        counts = self.queue.counts
        self.assertEqual((counts.delivered_total, counts.refused_total, counts.waiting), (2, 1, 2))
        self.assertEqual(self.make_again().delivered_total, 2)

    def make_again(self) -> Any:
        self.queue = self.make()
        self.queue.open()
        return self.queue.counts

    def test_memory_is_bounded_by_number_and_bytes_and_counts_what_goes(self) -> None:
        self.queue.put([b"a"])
        self.fault("journal.append:1:enospc")
        for _ in range(MEMORY_REPORTS + 100):
            self.queue.put([b"x"])
        counts = self.queue.counts
        self.assertEqual((counts.dropped_total, counts.waiting), (100, MEMORY_REPORTS + 1))
        self.queue.put([b"y" * 1_500_000] * 2)
        self.assertLessEqual(sum(map(len, self.queue._memory)), 2 * 1024 * 1024)
        counts = self.queue.counts
        self.assertEqual(counts.dropped_total + counts.waiting, MEMORY_REPORTS + 103)
        self.fault("")
        self.queue.put([b"z"])
        self.assertEqual(self.make_again().dropped_total, counts.dropped_total)

    def test_reports_from_memory_that_are_released_keep_their_place(self) -> None:
        self.queue.put([b"a"])
        self.settle(self.take(), delivered=1)
        self.fault("journal.append:1:enospc")
        self.queue.put([b"b"])
        self.assertEqual(self.take().lines, (b"b",))
        self.queue.put([b"c"])
        self.fault("")
        self.queue.release()
        self.assertEqual(self.take().lines, (b"b", b"c"))

    def test_a_disk_that_hangs_is_asked_once_and_loses_nothing_when_it_comes_back(self) -> None:
        self.queue.put([b"a"])
        self.threads.hang(LANE)
        self.queue.put([b"b"])
        self.clock.advance(11)
        self.assertTrue(self.ill)
        for _ in range(20):
            self.queue.put([b"c"])
            self.clock.advance(60)
        self.assertEqual(self.queue.counts.waiting, 22)
        self.threads.release(LANE)
        self.queue.put([b"d"])
        self.assertFalse(self.ill)
        self.assertEqual(self.take().lines, (b"a", b"b", *[b"c"] * 20, b"d"))

    def test_a_disk_that_opened_after_its_deadline_is_used_and_not_opened_twice(self) -> None:
        self.threads.hang(LANE)
        self.queue.put([b"a"])
        self.clock.advance(60)
        self.assertTrue(self.ill)
        self.threads.release(LANE)
        self.queue.put([b"b"])
        self.assertEqual(self.take().lines, (b"a", b"b"))
        self.assertFalse(self.ill)

    def test_a_close_after_a_late_open_still_brings_memory_to_the_disk(self) -> None:
        self.queue.put([b"old"])
        self.close()
        self.queue = self.make()
        self.threads.hang(LANE)
        self.queue.put([b"a"])
        self.clock.advance(60)
        self.threads.release(LANE)
        self.close()
        self.queue = self.make()
        self.queue.open()
        self.assertEqual(self.take().lines, (b"old", b"a"))

    def test_a_close_before_the_open_is_heard_of_brings_memory_to_the_disk(self) -> None:
        """It is open on the lane, and the loop has yet to hear of that: whoever comes first closes it, once."""
        opened: list[Deferred[Any]] = []
        heard: Deferred[Any] = Deferred()
        run = self.threads.run

        def late(*call: Any) -> Any:
            opened.append(run(*call))
            return heard

        self.threads.run = late  # type: ignore[method-assign]
        self.queue.put([b"a"])
        self.threads.run = run  # type: ignore[method-assign]
        self.threads.hang(LANE)
        closing = Deferred.fromCoroutine(self.queue.close())
        opened[0].chainDeferred(heard)
        self.threads.release(LANE)
        self.successResultOf(closing)
        self.queue = self.make()
        self.queue.open()
        self.assertEqual(self.take().lines, (b"a",))

    def test_what_is_released_while_the_disk_hangs_comes_again_when_it_is_back(self) -> None:
        self.queue.put([b"a"])
        self.take()
        self.threads.hang(LANE)
        self.queue.put([b"b"])  # occupies the lane
        self.clock.advance(60)
        self.queue.release()
        self.threads.release(LANE)
        self.queue.put([b"c"])
        self.assertEqual(self.take().lines, (b"a", b"b", b"c"))

    def test_an_acknowledgement_the_disk_refuses_raises_the_alert_until_it_is_stored(self) -> None:
        self.queue.put([b"a", b"b"])
        self.fault("cursor.write:1:eio")
        self.settle(self.take(1), delivered=1)
        self.assertTrue(self.ill)
        self.assertEqual(self.queue.counts.delivered_total, 1)
        self.fault("")
        self.settle(self.take(), delivered=1)
        self.assertFalse(self.ill)
        self.assertEqual(self.make_again().delivered_total, 2)

    def test_a_close_brings_memory_to_the_disk(self) -> None:
        self.queue.put([b"a"])
        self.fault("journal.append:1:enospc")
        self.queue.put([b"b"])
        self.fault("")
        self.close()
        self.make_again()
        self.assertEqual(self.take().lines, (b"a", b"b"))

    def test_what_comes_after_the_close_is_counted_as_dropped(self) -> None:
        self.close()
        self.queue.put([b"a"])
        self.assertEqual(self.queue.counts.dropped_total, 1)
