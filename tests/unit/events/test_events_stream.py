"""A reader that follows: backlog, live, overflow, gaps, close; never a repeat, never a silent skip."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from daemon.errors import RequestError, StorageError
from daemon.events.bus import EventBus
from daemon.events.journal import EventJournal
from daemon.events.stream import EventStream, Gap, StreamClosed
from daemon.model.event import Event
from tests.fakes.threads import InlineThreads


class EventStreamTests(SynchronousTestCase):
    def setUp(self) -> None:
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.clock = Clock()
        self.threads = InlineThreads(self.clock)
        self.journal = EventJournal(
            Path(directory.name), lambda: 1000.0, self.threads, segment_bytes=300, segments=3, ring_size=4
        )
        self.addCleanup(self.journal.close)
        self.bus = EventBus(lambda: 1000.0, self.journal)

    def publish(self, count: int = 1) -> None:
        for _n in range(count):
            self.bus.publish("t", "m")

    def stream(self, last_event_id: str | None = None) -> EventStream:
        stream = EventStream(self.bus, last_event_id, queue_size=3, page_size=2)
        self.addCleanup(stream.close)
        return stream

    def ask(self, stream: EventStream) -> Deferred[Event | Gap]:
        return Deferred.fromCoroutine(stream.next())

    def take(self, stream: EventStream, count: int) -> list[int | Gap]:
        """The numbers of the next events, and the gaps."""
        taken: list[int | Gap] = []
        for _n in range(count):
            item = self.successResultOf(self.ask(stream))
            taken.append(item if isinstance(item, Gap) else int(item.id.partition("-")[2]))
        return taken

    def idle(self, stream: EventStream) -> None:
        """Asserts that there is nothing to give now."""
        waiting = self.ask(stream)
        self.assertNoResult(waiting)
        waiting.cancel()
        self.failureResultOf(waiting, CancelledError)

    def test_without_an_id_it_begins_with_the_next_event(self) -> None:
        self.publish(3)
        stream = self.stream()
        self.idle(stream)
        self.publish(2)
        self.assertEqual(self.take(stream, 2), [4, 5])
        self.idle(stream)

    def test_a_waiting_reader_is_given_the_event_as_it_is_published(self) -> None:
        stream = self.stream()
        waiting = self.ask(stream)
        self.assertNoResult(waiting)
        self.publish()
        self.assertEqual(self.successResultOf(waiting), self.bus.latest(1)[0])

    def test_with_an_id_the_backlog_comes_first_and_live_events_follow(self) -> None:
        self.publish(11)
        stream = self.stream("1000-2")
        self.assertEqual(self.take(stream, 5), [3, 4, 5, 6, 7])
        self.publish(2)
        self.assertEqual(self.take(stream, 6), [8, 9, 10, 11, 12, 13])
        self.idle(stream)
        self.publish()
        self.assertEqual(self.take(stream, 1), [14])

    def test_an_id_that_is_up_to_date_just_follows(self) -> None:
        self.publish(3)
        stream = self.stream("1000-3")
        self.idle(stream)
        self.publish()
        self.assertEqual(self.take(stream, 1), [4])

    def test_a_slow_reader_falls_back_to_the_journal_and_loses_nothing(self) -> None:
        stream = self.stream()
        self.publish(11)
        self.assertEqual(self.take(stream, 11), list(range(1, 12)))
        self.publish(1)
        self.assertEqual(self.take(stream, 1), [12])

    def test_memory_for_a_slow_reader_is_bounded(self) -> None:
        stream = self.stream()
        self.publish(100)
        self.assertEqual(len(stream._queue), 3)

    def test_what_the_journal_no_longer_holds_is_told_as_a_gap_of_that_size(self) -> None:
        stream = self.stream()
        self.publish(40)
        oldest = self.journal.dropped_total + 1
        self.assertGreater(oldest, 5)
        self.assertEqual(self.take(stream, 5), [1, 2, 3, Gap(after="1000-3", lost=oldest - 4), oldest])
        self.assertEqual(self.take(stream, 40 - oldest), list(range(oldest + 1, 41)))
        self.idle(stream)

    def test_an_unknown_epoch_is_one_gap_and_then_live(self) -> None:
        stream = self.stream("7-7")
        self.assertEqual(self.take(stream, 1), [Gap(after="7-7", lost=None)])
        self.idle(stream)
        self.publish()
        self.assertEqual(self.take(stream, 1), [1])

    def test_an_id_of_the_future_is_a_gap_and_then_everything_there_is(self) -> None:
        self.publish(3)
        stream = self.stream("99999-1")
        self.assertEqual(self.take(stream, 4), [Gap(after="99999-1", lost=None), 1, 2, 3])
        self.publish()
        self.assertEqual(self.take(stream, 1), [4])

    def test_an_id_written_unusually_is_no_endless_loop(self) -> None:
        self.publish(3)
        stream = self.stream("01000-03")
        self.idle(stream)
        self.publish()
        self.assertEqual(self.take(stream, 1), [4])

    def test_a_bad_id_is_refused_before_anything_is_subscribed(self) -> None:
        with self.assertRaises(RequestError):
            EventStream(self.bus, "bad")
        self.publish()

    def test_events_published_while_the_backlog_is_read_come_once(self) -> None:
        self.publish(9)
        self.threads.hang("events-read")
        stream = self.stream("1000-1")
        waiting = self.ask(stream)
        self.publish(2)
        self.assertNoResult(waiting)
        self.threads.release("events-read")
        self.assertEqual(self.successResultOf(waiting).id, "1000-2")
        self.assertEqual(self.take(stream, 9), list(range(3, 12)))
        self.idle(stream)

    def test_a_stream_made_by_an_observer_in_the_middle_of_a_delivery_repeats_nothing(self) -> None:
        streams: list[EventStream] = []

        def observe(event: Event) -> None:
            if event.id == "1000-1":
                self.publish()  # waits for its turn while the stream already sees it
                streams.extend([self.stream(), self.stream("1000-0")])

        self.bus.subscribe(observe)
        self.publish()
        self.publish()
        self.assertEqual(self.take(streams[0], 1), [3])
        self.assertEqual(self.take(streams[1], 3), [1, 2, 3])

    def test_a_disk_that_fails_is_told_and_the_stream_goes_on_at_the_same_place(self) -> None:
        self.publish(11)
        self.threads.hang("events-read")
        stream = self.stream("1000-2")
        waiting = self.ask(stream)
        self.clock.advance(11)
        self.failureResultOf(waiting, StorageError)
        self.threads.release("events-read")
        self.assertEqual(self.take(stream, 9), list(range(3, 12)))

    def test_close_ends_a_waiting_reader_and_every_later_one(self) -> None:
        stream = self.stream()
        waiting = self.ask(stream)
        stream.close()
        stream.close()
        self.failureResultOf(waiting, StreamClosed)
        self.failureResultOf(self.ask(stream), StreamClosed)
        self.assertTrue(stream.closed)
        self.publish()

    def test_close_while_the_disk_is_read_gives_nothing_any_more(self) -> None:
        self.publish(11)
        self.threads.hang("events-read")
        stream = self.stream("1000-1")
        waiting = self.ask(stream)
        stream.close()
        self.threads.release("events-read")
        self.failureResultOf(waiting, StreamClosed)

    def test_a_reader_that_leaves_while_waiting_loses_nothing(self) -> None:
        stream = self.stream()
        waiting = self.ask(stream)
        waiting.cancel()
        self.failureResultOf(waiting, CancelledError)
        self.publish()
        self.assertEqual(self.take(stream, 1), [1])

    def test_a_second_next_at_the_same_time_is_a_mistake(self) -> None:
        stream = self.stream()
        waiting = self.ask(stream)
        self.failureResultOf(self.ask(stream), RuntimeError)
        self.publish()
        self.successResultOf(waiting)

    def test_streams_do_not_disturb_each_other(self) -> None:
        slow, quick = self.stream(), self.stream()
        for number in range(1, 10):
            self.publish()
            self.assertEqual(self.take(quick, 1), [number])
        slow.close()
        self.publish()
        self.assertEqual(self.take(quick, 1), [10])


pytest.importorskip("hypothesis")
from hypothesis import given, settings  # noqa: E402 - after the check that it is there
from hypothesis import strategies as st  # noqa: E402

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("publish"), st.integers(1, 9)),
        st.tuples(st.just("next"), st.integers(1, 9)),
        st.tuples(st.sampled_from(["hang", "release", "leave", "resume"]), st.just(1)),
    ),
    max_size=30,
)


class _Follower:
    """Reads one stream as the steps say and checks every item against what was published."""

    def __init__(self, bus: EventBus, published: list[str]) -> None:
        self.bus = bus
        self.published = published
        self.at = len(published) - 1  # index of the last event received
        self.gap: Gap | None = None
        self.waiting: Deferred[Event | Gap] | None = None
        self.stream = EventStream(bus, published[-1], queue_size=2, page_size=2)

    def read(self, times: int) -> None:
        for _n in range(times):
            if self.waiting is None:
                self.waiting = Deferred.fromCoroutine(self.stream.next())
            if not self.waiting.called:
                return
            done, self.waiting = self.waiting, None
            done.addCallback(self.receive)
            failures: list[object] = []
            done.addErrback(failures.append)
            assert not failures, failures

    def receive(self, item: Event | Gap) -> None:
        if isinstance(item, Gap):
            assert self.gap is None, "two gaps in a row"
            self.gap = item
            return
        index = self.published.index(item.id)
        missing = index - self.at - 1
        assert missing >= 0, "a repeat"
        same_epoch = item.id.partition("-")[0] == self.published[self.at].partition("-")[0]
        if self.gap is None:
            assert missing == 0, "a silent skip"
        elif same_epoch:
            assert self.gap.lost == missing > 0
        else:
            assert self.gap.lost is None
        self.gap = None
        self.at = index

    def leave(self) -> None:
        """The client goes away, whatever it was waiting for."""
        if self.waiting is not None:
            self.read(int(self.waiting.called))  # what was given already counts as received
        if self.waiting is not None:
            self.waiting.addErrback(lambda _failure: None)
            self.waiting.cancel()
            self.waiting = None

    def resume(self) -> None:
        """It comes back with the last id it has got."""
        self.leave()
        self.stream.close()
        self.gap = None
        self.stream = EventStream(self.bus, self.published[self.at], queue_size=2, page_size=2)


@settings(derandomize=True, deadline=None, max_examples=150)
@given(before=st.integers(1, 15), restart=st.booleans(), steps=STEPS)
def test_whatever_the_interleaving_nothing_is_repeated_or_silently_skipped(
    before: int, restart: bool, steps: list[tuple[str, int]]
) -> None:
    with tempfile.TemporaryDirectory() as name:
        threads = InlineThreads()
        published: list[str] = []

        def start(now: float) -> tuple[EventJournal, EventBus]:
            journal = EventJournal(
                Path(name), lambda: now, threads, segment_bytes=300, segments=3, ring_size=3
            )
            bus = EventBus(lambda: now, journal)
            bus.subscribe(lambda event: published.append(event.id))
            return journal, bus

        journal, bus = start(1000.0)
        for _n in range(before):
            bus.publish("t", "m")
        if restart:
            journal.close()
            journal, bus = start(2000.0)
        follower = _Follower(bus, published)
        for step, count in steps:
            if step == "publish":
                for _n in range(count):
                    bus.publish("t", "m")
            elif step == "next":
                follower.read(count)
            elif step == "hang":
                threads.hang("events-read")
            elif step == "release":
                threads.release("events-read")
            elif step == "leave":
                follower.leave()
            else:
                follower.resume()
        threads.release("events-read")
        follower.read(1000)
        assert published[follower.at] == published[-1]
        follower.leave()
        follower.stream.close()
        journal.close()
