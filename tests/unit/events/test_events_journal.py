"""The event journal: epochs, reading on, gaps, a disk that hangs; and its service."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase, TestCase

from daemon import faults
from daemon.aio.threads import ThreadLanes
from daemon.durable.journal import Journal
from daemon.errors import RequestError, RequestFault, StorageError
from daemon.events.bus import EventBus
from daemon.events.history import EventPage
from daemon.events.journal import EventJournal
from daemon.events.service import EventJournalService
from tests.fakes.threads import InlineThreads


class _JournalCase(SynchronousTestCase):
    """A journal with a ring of 4 events and segments of 4, three of them."""

    def setUp(self) -> None:
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.addCleanup(faults.arm, {})
        self.path = Path(directory.name) / "events"
        self.now = 1000.0
        self.clock = Clock()
        self.threads = InlineThreads(self.clock)
        self.open()

    def open(self, **bounds: int) -> None:
        """A new start of the daemon."""
        bounds = {"segment_bytes": 300, "segments": 3, "ring_size": 4} | bounds
        self.journal = EventJournal(self.path, lambda: self.now, self.threads, **bounds)
        self.addCleanup(self.journal.close)
        self.bus = EventBus(lambda: self.now, self.journal)

    def publish(self, count: int) -> None:
        for _n in range(count):
            self.bus.publish("t", "m")

    def read(self, event_id: str | None, limit: int = 100) -> EventPage:
        return self.successResultOf(Deferred.fromCoroutine(self.bus.read_after(event_id, limit)))

    def ids(self, page: EventPage) -> list[str]:
        return [event.id for event in page.events]


class EpochTests(_JournalCase):
    def test_the_epoch_is_the_second_of_the_start(self) -> None:
        self.assertEqual(self.journal.epoch, 1000)

    def test_two_starts_within_a_second_and_a_clock_gone_back_still_grow(self) -> None:
        epochs = []
        for now in (1000.9, 1000.9, 5.0, 2000.0):
            self.publish(1)
            self.now = now
            self.open()
            epochs.append(self.journal.epoch)
        self.assertEqual(epochs, [1001, 1002, 1003, 2000])

    def test_a_new_start_loads_the_newest_events(self) -> None:
        self.publish(6)
        self.now = 2000.0
        self.open()
        self.publish(1)
        self.assertEqual([event.id for event in self.bus.latest(9)], ["1000-4", "1000-5", "1000-6", "2000-1"])

    def test_lines_that_are_no_events_are_counted_and_passed_over(self) -> None:
        self.publish(2)
        disk = Journal(self.path, segment_bytes=300, segments=3)
        for line in (b"{}", b"not json", b'{"id":"1000-1","at":1,"type":"an old one again"}'):
            disk.append(line)
        disk.close()
        self.open(ring_size=9)
        self.assertEqual([event.id for event in self.bus.latest(9)], ["1000-1", "1000-2"])
        self.assertEqual(self.journal.undecodable_total, 2)
        self.assertEqual(self.journal.epoch, 1001)

    def test_corrupt_lines_are_counted(self) -> None:
        self.publish(2)
        with max(self.path.iterdir()).open("ab") as file:
            file.write(b"\0\xff junk\n half a line")
        self.open()
        self.assertEqual(self.journal.corrupt_total, 2)
        self.assertEqual(len(self.bus.latest(9)), 2)

    def test_a_directory_that_cannot_be_used_is_told_at_the_start(self) -> None:
        self.path.parent.joinpath("file").write_text("")
        with self.assertRaisesRegex(StorageError, "not a directory"):
            EventJournal(self.path.parent / "file", lambda: 1.0, self.threads)


class ReadAfterTests(_JournalCase):
    def test_an_empty_journal_gives_an_empty_page(self) -> None:
        page = self.read(None)
        self.assertEqual((page.events, page.gap, page.lost, page.position), ((), False, 0, "1000-0"))
        self.assertEqual(self.read("1000-0"), page)

    def test_recent_events_come_from_memory(self) -> None:
        self.publish(6)
        for event_id in ("1000-2", "1000-3", "1000-5"):
            first = int(event_id[5:]) + 1
            page = self.read(event_id)
            self.assertEqual(self.ids(page), [f"1000-{n}" for n in range(first, 7)])
            self.assertEqual((page.gap, page.lost), (False, 0))
        page = self.read("1000-6")
        self.assertEqual((page.events, page.gap, page.position), ((), False, "1000-6"))
        self.assertEqual(self.threads.calls, [])

    def test_older_events_come_from_the_disk_and_reading_on_reaches_the_end(self) -> None:
        self.publish(12)
        got: list[str] = []
        position: str | None = "1000-1"
        while True:
            page = self.read(position, 3)
            self.assertFalse(page.gap)
            if not page.events:
                break
            self.assertLessEqual(len(page.events), 3)
            got += self.ids(page)
            position = page.position
        self.assertEqual(got, [f"1000-{n}" for n in range(2, 13)])
        self.assertEqual(position, "1000-12")
        self.assertIn("events-read", self.threads.calls)

    def test_none_reads_from_the_oldest_there_is(self) -> None:
        self.publish(30)
        page = self.read(None, 2)
        self.assertFalse(page.gap)
        self.assertGreater(self.journal.dropped_total, 0)
        self.assertEqual(self.ids(page)[0], f"1000-{self.journal.dropped_total + 1}")

    def test_what_the_bound_took_is_a_gap_with_its_size(self) -> None:
        self.publish(30)
        page = self.read("1000-2", 1)
        self.assertEqual((page.gap, page.lost), (True, self.journal.dropped_total - 2))
        page = self.read(f"1000-{self.journal.dropped_total}", 1)
        self.assertEqual((page.gap, page.lost), (False, 0))

    def test_reading_goes_on_over_a_restart_without_a_gap(self) -> None:
        self.publish(3)
        self.now = 2000.0
        self.open(ring_size=1)
        self.publish(2)
        page = self.read("1000-2")
        self.assertEqual((self.ids(page), page.gap), (["1000-3", "2000-1"], False))
        page = self.read("1000-3")
        self.assertEqual((self.ids(page), page.gap), (["2000-1"], False))

    def test_an_id_at_the_end_of_the_previous_run_gives_nothing_yet_and_no_gap(self) -> None:
        self.publish(3)
        self.now = 2000.0
        self.open()
        page = self.read("1000-3")
        self.assertEqual((page.events, page.gap, page.position), ((), False, "2000-0"))

    def test_an_epoch_nobody_remembers_is_a_gap_of_unknown_size(self) -> None:
        for event_id in ("900-7", "1-1"):
            page = self.read(event_id)
            self.assertEqual((page.events, page.gap, page.lost, page.position), ((), True, None, "1000-0"))
        self.publish(2)
        page = self.read("900-7")
        self.assertEqual((self.ids(page), page.gap, page.lost), (["1000-1", "1000-2"], True, None))

    def test_an_id_never_issued_reads_from_the_oldest_with_a_gap(self) -> None:
        self.publish(12)
        for event_id in ("1000-13", "99999-1", "9" * 30 + "-1"):
            page = self.read(event_id, 2)
            self.assertEqual((self.ids(page), page.gap, page.lost), (["1000-1", "1000-2"], True, None))

    def test_an_id_of_a_run_without_a_journal_is_known_by_its_neighbours(self) -> None:
        self.publish(2)
        faults.arm({"HOSTDAEMON_FAULT": "journal.append:1:enospc"})
        self.publish(1)  # 1000-3 is seen live, never stored
        faults.arm({})
        self.now = 2000.0
        self.open(ring_size=1)
        page = self.read("1000-3")
        self.assertEqual((page.events, page.gap), ((), False))
        self.publish(2)
        page = self.read("1000-3")
        self.assertEqual((self.ids(page), page.gap), (["2000-1"], False))

    def test_a_page_ends_at_a_gap_and_the_next_one_tells_it(self) -> None:
        self.publish(2)
        faults.arm({"HOSTDAEMON_FAULT": "journal.append:1:enospc"})
        self.publish(3)
        faults.arm({})
        self.publish(5)  # the lost ones have left the ring
        page = self.read("1000-1")
        self.assertEqual((self.ids(page), page.gap), (["1000-2"], False))
        page = self.read(page.position)
        self.assertEqual((self.ids(page), page.gap, page.lost), (["1000-6"], True, 3))
        page = self.read(page.position)
        self.assertEqual((self.ids(page)[0], page.gap), ("1000-7", False))

    def test_junk_in_a_segment_is_a_gap_and_not_an_error(self) -> None:
        self.publish(20)
        oldest = min(self.path.iterdir())
        content = oldest.read_bytes().splitlines(keepends=True)
        oldest.write_bytes(content[0] + b"\xff\0 junk\n" + b"".join(content[2:]))
        first = self.journal.dropped_total + 1
        page = self.read(None)
        self.assertEqual(self.ids(page), [f"1000-{first}"])
        page = self.read(page.position)
        self.assertEqual((self.ids(page)[0], page.gap, page.lost), (f"1000-{first + 2}", True, 1))

    def test_undecodable_and_repeated_lines_on_the_disk_are_passed_over(self) -> None:
        self.publish(1)
        disk = Journal(self.path, segment_bytes=300, segments=3)
        disk.append(b"{}")
        disk.append(b'{"id":"1000-1","at":1,"type":"again"}')
        disk.append(b'{"id":"1000-1","at":"broken"}')
        disk.append(b'{"id":"1000-2","at":"broken"}')
        disk.close()
        self.now = 2000.0
        self.open(ring_size=1)
        self.publish(3)
        page = self.read(None)
        self.assertEqual(self.ids(page), ["1000-1", "2000-1", "2000-2"])
        self.assertEqual([event.type for event in page.events], ["t", "t", "t"])

    def test_bad_requests_are_refused(self) -> None:
        for event_id, limit in (("x", 1), ("1-2-3", 1), ("", 1), ("1000-1", 0), (None, -1)):
            reading = Deferred.fromCoroutine(self.bus.read_after(event_id, limit))
            self.assertIs(self.failureResultOf(reading, RequestError).value.fault, RequestFault.INVALID)

    def test_a_disk_that_hangs_is_an_error_after_the_deadline_and_memory_still_answers(self) -> None:
        self.publish(12)
        self.threads.hang("events-read")
        first = Deferred.fromCoroutine(self.bus.read_after("1000-1", 5))
        self.assertNoResult(first)
        self.clock.advance(11)
        second = Deferred.fromCoroutine(self.bus.read_after("1000-1", 5))
        for reading in (first, second):
            message = self.failureResultOf(reading, StorageError).value.message
            self.assertIn("does not answer", message)
            self.assertIn(str(self.path), message)
        self.assertEqual(self.ids(self.read("1000-10")), ["1000-11", "1000-12"])

    def test_events_that_leave_memory_while_the_disk_is_read_are_not_skipped(self) -> None:
        self.publish(12)  # the ring begins with 1000-9
        self.threads.hang("events-read")
        reading = Deferred.fromCoroutine(self.bus.read_after("1000-8", 100))
        self.assertEqual(self.ids(self.successResultOf(reading))[0], "1000-9")
        reading = Deferred.fromCoroutine(self.bus.read_after("1000-7", 100))
        self.publish(3)
        self.threads.release("events-read")
        page = self.successResultOf(reading)
        self.assertEqual((self.ids(page), page.gap), (["1000-8"], False))
        page = self.read(page.position)
        self.assertEqual((self.ids(page)[0], page.gap), ("1000-9", False))

    def test_a_ring_that_moves_on_while_the_disk_has_nothing_is_read_again(self) -> None:
        self.publish(3)
        faults.arm({"HOSTDAEMON_FAULT": "journal.append:1:enospc"})
        self.publish(2)  # 4 and 5 are in memory only; the ring holds 2..5
        faults.arm({})
        self.publish(3)  # the ring holds 5..8, the disk lacks 4 and 5
        self.threads.hang("events-read")
        reading = Deferred.fromCoroutine(self.bus.read_after("1000-3", 100))
        self.publish(2)  # the ring holds 7..10
        self.threads.release("events-read")
        page = self.successResultOf(reading)
        self.assertEqual((self.ids(page), page.gap, page.lost), (["1000-6"], True, 2))

    def test_an_unreadable_directory_is_an_error_of_the_read(self) -> None:
        self.publish(12)
        for segment in self.path.iterdir():
            segment.unlink()
        self.path.rmdir()
        self.path.write_text("in the way")
        reading = Deferred.fromCoroutine(self.bus.read_after("1000-1", 5))
        self.failureResultOf(reading, StorageError)
        self.path.unlink()


class ServiceTests(_JournalCase):
    def setUp(self) -> None:
        super().setUp()
        self.service = EventJournalService(self.clock, self.bus, self.journal)

    def test_it_syncs_a_second_after_events_and_sets_no_timer_while_nothing_happens(self) -> None:
        self.service.startService()
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.publish(3)
        self.clock.advance(1)
        self.assertEqual(self.threads.calls, ["events-sync"])
        self.assertFalse(self.journal.dirty)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.successResultOf(self.service.stopService())

    def test_stop_brings_the_rest_to_the_disk_and_leaves_no_timer(self) -> None:
        self.service.startService()
        self.publish(1)
        self.successResultOf(self.service.stopService())
        self.assertFalse(self.journal.dirty)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.publish(1)
        self.assertEqual(self.bus.lost_total, 0)

    def test_stop_before_start_is_harmless(self) -> None:
        self.publish(1)
        self.successResultOf(self.service.stopService())
        self.assertFalse(self.journal.dirty)

    def test_a_disk_that_refuses_is_counted_and_tried_again(self) -> None:
        self.service.startService()
        self.publish(1)
        faults.arm({"HOSTDAEMON_FAULT": "journal.sync:1:eio"})
        self.clock.pump([1, 1])
        self.assertEqual(self.service.sync_failures_total, 2)
        self.assertTrue(self.journal.dirty)
        faults.arm({})
        self.clock.advance(1)
        self.assertEqual(self.service.sync_failures_total, 2)
        self.assertFalse(self.journal.dirty)
        self.successResultOf(self.service.stopService())

    def test_stop_waits_for_a_sync_under_way_but_not_for_ever(self) -> None:
        self.service.startService()
        self.publish(1)
        self.threads.hang("events-sync")
        self.clock.advance(1)
        stopping = self.service.stopService()
        self.assertNoResult(stopping)
        self.clock.advance(10)
        self.successResultOf(stopping)
        self.assertEqual(self.service.sync_failures_total, 2)
        self.assertEqual(self.clock.getDelayedCalls(), [])


class RealThreadsTests(TestCase):
    """The same on real threads and the real reactor."""

    timeout = 20

    def setUp(self) -> None:
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.threads = ThreadLanes(reactor)  # type: ignore[arg-type]  # the module stands for its content
        self.addCleanup(self.threads.stop, 5.0)
        self.journal = EventJournal(
            Path(directory.name), lambda: 1000.0, self.threads, segment_bytes=4096, segments=4, ring_size=8
        )
        self.addCleanup(self.journal.close)
        self.bus = EventBus(lambda: 1000.0, self.journal)

    async def test_reading_and_syncing_while_events_are_published_misses_none(self) -> None:
        got: list[int] = []
        position: str | None = "1000-0"
        published = 0
        while len(got) < 100:
            if published < 100:
                for _n in range(10):
                    self.bus.publish("t", "m")
                published += 10
            page = await self.bus.read_after(position, 7)
            self.assertFalse(page.gap)
            got += [int(event.id.partition("-")[2]) for event in page.events]
            position = page.position
            await self.journal.sync()
        self.assertEqual(got, list(range(1, 101)))


PUBLISHER = (
    "import os, sys\n"
    "from pathlib import Path\n"
    "from daemon import faults\n"
    "from daemon.events.bus import EventBus\n"
    "from daemon.events.journal import EventJournal\n"
    "faults.arm(os.environ)\n"
    "journal = EventJournal(Path(sys.argv[1]), lambda: 1000.0, None)\n"
    "bus = EventBus(lambda: 1000.0, journal)\n"
    "bus.subscribe(lambda event: os.write(1, event.id.encode() + b'\\n'))\n"
    "for n in range(1000):\n"
    "    bus.publish('t', 'message %d' % n)\n"
)


def _after_a_kill(tmp_path: Path, check: Callable[[list[str], EventJournal], Any]) -> None:
    child = subprocess.run(
        [sys.executable, "-c", PUBLISHER, str(tmp_path / "e")], stdout=subprocess.PIPE, timeout=30,
        env={**os.environ, "HOSTDAEMON_FAULT": "journal.append:300"},
    )
    assert child.returncode == -signal.SIGKILL
    journal = EventJournal(tmp_path / "e", lambda: 1000.0, InlineThreads())
    check(child.stdout.decode().split(), journal)
    journal.close()


def test_every_event_that_an_observer_saw_survives_a_kill_and_ids_go_on_growing(tmp_path: Path) -> None:
    def check(told: list[str], journal: EventJournal) -> None:
        assert told == [f"1000-{n}" for n in range(1, 300)]
        assert [event.id for event in journal.latest(1000)] == told
        assert journal.epoch == 1001

    _after_a_kill(tmp_path, check)
