"""The bus: ids, order of delivery, observers that misbehave, a disk that refuses."""

from __future__ import annotations

import tempfile
from pathlib import Path

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from daemon import faults
from daemon.events.bus import EventBus
from daemon.events.history import EventPage
from daemon.events.journal import EventJournal
from daemon.interfaces import EventSink
from daemon.model.event import Event, Severity
from tests.fakes.threads import InlineThreads


class EventBusTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.now = 1000.25
        self.bus = EventBus(lambda: self.now)
        self.seen: list[str] = []

    def test_it_is_an_event_sink(self) -> None:
        sink: EventSink = self.bus
        sink.publish("agent.exited", "a exited", severity=Severity.WARN, agent_id="a", data={"code": 1})
        self.assertEqual(self.bus.latest(9), (
            Event(id="1000-1", at=1000.25, type="agent.exited", severity=Severity.WARN, agent_id="a",
                  message="a exited", data={"code": 1}),
        ))

    def test_ids_count_up_within_the_epoch(self) -> None:
        self.assertEqual(self.bus.position, "1000-0")
        for _n in range(3):
            self.now += 100
            self.bus.publish("t", "m")
        self.assertEqual([event.id for event in self.bus.latest(9)], ["1000-1", "1000-2", "1000-3"])
        self.assertEqual(self.bus.position, "1000-3")
        self.assertEqual(self.bus.published_total, 3)

    def test_latest_gives_the_newest_and_memory_is_bounded(self) -> None:
        for _n in range(600):
            self.bus.publish("t", "m")
        self.assertEqual([event.id for event in self.bus.latest(2)], ["1000-599", "1000-600"])
        self.assertEqual(self.bus.latest(0), ())
        self.assertEqual(len(self.bus.latest(10_000)), 512)

    def test_observers_are_called_within_publish_in_order(self) -> None:
        self.bus.subscribe(lambda event: self.seen.append("first " + event.id))
        self.bus.subscribe(lambda event: self.seen.append("second " + event.id))
        self.bus.publish("t", "m")
        self.assertEqual(self.seen, ["first 1000-1", "second 1000-1"])

    def test_unsubscribing_ends_it_and_twice_is_harmless(self) -> None:
        unsubscribe = self.bus.subscribe(lambda event: self.seen.append(event.id))
        self.bus.publish("t", "m")
        unsubscribe()
        unsubscribe()
        self.bus.publish("t", "m")
        self.assertEqual(self.seen, ["1000-1"])

    def test_the_same_callback_may_subscribe_twice(self) -> None:
        def note(event: Event) -> None:
            self.seen.append(event.id)

        first = self.bus.subscribe(note)
        self.bus.subscribe(note)
        first()
        self.bus.publish("t", "m")
        self.assertEqual(self.seen, ["1000-1"])

    def test_an_observer_that_raises_hurts_neither_publisher_nor_the_others(self) -> None:
        def broken(_event: Event) -> None:
            raise ZeroDivisionError

        self.bus.subscribe(broken)
        self.bus.subscribe(lambda event: self.seen.append(event.id))
        self.bus.publish("t", "m")
        self.bus.publish("t", "m")
        self.assertEqual(self.seen, ["1000-1", "1000-2"])
        self.assertEqual(self.bus.observer_failures_total, 2)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 2)

    def test_an_observer_that_publishes_does_not_disturb_the_order(self) -> None:
        def answer(event: Event) -> None:
            if event.type == "question":
                self.bus.publish("answer", "m")

        self.bus.subscribe(answer)
        self.bus.subscribe(lambda event: self.seen.append(event.type))
        self.bus.publish("question", "m")
        self.assertEqual(self.seen, ["question", "answer"])

    def test_an_observer_taken_away_during_delivery_is_not_called(self) -> None:
        self.bus.subscribe(lambda _event: unsubscribe())
        unsubscribe = self.bus.subscribe(lambda event: self.seen.append(event.id))
        self.bus.publish("t", "m")
        self.assertEqual(self.seen, [])

    def test_an_observer_added_during_delivery_begins_with_the_next_event(self) -> None:
        def add(_event: Event) -> None:
            if not self.seen:
                self.seen.append("added")
                self.bus.subscribe(lambda event: self.seen.append(event.id))

        self.bus.subscribe(add)
        self.bus.publish("t", "m")
        self.bus.publish("t", "m")
        self.assertEqual(self.seen, ["added", "1000-2"])

    def test_data_nobody_can_encode_does_not_reach_the_publisher(self) -> None:
        self.bus.publish("t", "\udcff", data={"o": object()})
        self.assertEqual(self.bus.latest(1)[0].data, {"o": "<object>"})

    def test_without_a_disk_reading_on_works_from_memory_and_tells_what_is_gone(self) -> None:
        for _n in range(600):
            self.bus.publish("t", "m")
        page = self.successResultOf(self._read("1000-1", 1000))
        self.assertEqual((page.gap, page.lost, len(page.events)), (True, 87, 512))
        page = self.successResultOf(self._read("1000-598", 1000))
        self.assertEqual((page.gap, page.lost, len(page.events)), (False, 0, 2))

    def _read(self, event_id: str, limit: int) -> Deferred[EventPage]:
        return Deferred.fromCoroutine(self.bus.read_after(event_id, limit))


class EventBusOnAFullDiskTests(SynchronousTestCase):
    def setUp(self) -> None:
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.addCleanup(faults.arm, {})
        self.path = Path(directory.name)
        self.journal = EventJournal(self.path, lambda: 1000.0, InlineThreads())
        self.addCleanup(self.journal.close)
        self.bus = EventBus(lambda: 1000.0, self.journal)

    def test_events_are_counted_as_lost_but_still_delivered_and_kept_in_memory(self) -> None:
        seen: list[str] = []
        self.bus.subscribe(lambda event: seen.append(event.id))
        self.bus.publish("t", "before")
        faults.arm({"HOSTDAEMON_FAULT": "journal.append:1:enospc"})
        self.bus.publish("t", "lost")
        self.bus.publish("t", "lost")
        faults.arm({})
        self.bus.publish("t", "after")
        self.assertEqual(seen, ["1000-1", "1000-2", "1000-3", "1000-4"])
        self.assertEqual((self.bus.published_total, self.bus.lost_total), (4, 2))
        self.assertEqual(len(self.bus.latest(9)), 4)
        again = EventJournal(self.path, lambda: 1000.0, InlineThreads())
        self.addCleanup(again.close)
        self.assertEqual([event.message for event in again.latest(9)], ["before", "after"])

    def test_an_event_larger_than_a_segment_is_lost_not_raised(self) -> None:
        tiny = EventJournal(self.path / "tiny", lambda: 1000.0, InlineThreads(), segment_bytes=64)
        self.addCleanup(tiny.close)
        bus = EventBus(lambda: 1000.0, tiny)
        bus.publish("t", "m" * 500)
        self.assertEqual(bus.lost_total, 1)

    def test_after_close_events_are_lost_not_raised(self) -> None:
        self.journal.close()
        self.bus.publish("t", "m")
        self.assertEqual((self.bus.lost_total, len(self.bus.latest(9))), (1, 1))
