"""The webhook against a receiver that takes, refuses, fails, hangs and asks for patience."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.logger import formatEvent, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from daemon.alerts.book import AlertBook
from daemon.alerts.posting import MAX_DELAY_S
from daemon.alerts.webhook import POST_TIMEOUT_S, QUEUE_MAX, Webhook
from daemon.httpclient import HttpAnswer, HttpError
from daemon.model.alert import Alert
from tests.fakes.directory import FakeEvents

URL = "https://chat.example/services/T0SECRET"
OTHER = "https://other.example/hook"

Answer = HttpAnswer | Exception | None


class Receiver:
    """Somebody who takes posts.

    Attributes:
        mood: what it answers: an answer, an exception, or None to hang.
        posts: url and body of each post, in order.
        open: posts that hang at this moment.
        most_open: the most at one time.
        cancelled_as: what a hanging post fails with when it is cancelled; None for Twisted's own.
    """

    def __init__(self, clock: Clock) -> None:
        self.mood: Answer | Callable[[dict[str, Any]], Answer] = HttpAnswer(status=204)
        self.posts: list[tuple[str, dict[str, Any]]] = []
        self.open: list[Deferred[HttpAnswer]] = []
        self.most_open = 0
        self.cancelled_as: Exception | None = None
        self._clock = clock

    async def post(self, url: str, body: bytes, content_type: str, timeout_s: float) -> HttpAnswer:
        """See Poster."""
        assert content_type == "application/json"
        said = json.loads(body)
        self.posts.append((url, said))
        mood = self.mood(said) if callable(self.mood) else self.mood
        if isinstance(mood, Exception):
            raise mood
        if mood is not None:
            return mood
        return await self._hang(timeout_s)

    async def _hang(self, timeout_s: float) -> HttpAnswer:
        waiting: Deferred[HttpAnswer] = Deferred(
            lambda d: d.errback(self.cancelled_as) if self.cancelled_as is not None else None
        )
        self.open.append(waiting)
        self.most_open = max(self.most_open, len(self.open))
        timer = self._clock.callLater(
            timeout_s, lambda: waiting.errback(HttpError(f"no answer within {timeout_s:g} s"))
        )
        try:
            return await waiting
        finally:
            self.open.remove(waiting)
            if timer.active():
                timer.cancel()

    def types(self) -> list[str]:
        """Of every post, in order."""
        return [said["type"] for _url, said in self.posts]


class WebhookCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.receiver = Receiver(self.clock)
        self.events = FakeEvents()
        self.lines: list[str] = []
        globalLogPublisher.addObserver(self.heard)
        self.addCleanup(globalLogPublisher.removeObserver, self.heard)
        self.webhook = Webhook(
            self.clock, self.receiver, self.events, node_id="node-1", hostname="host-1",
            random_unit=lambda: 0.5,
        )
        self.webhook.apply(URL)
        self.webhook.startService()

    def tearDown(self) -> None:
        if self.webhook.running:
            self.successResultOf(self.webhook.stopService())
        self.assertEqual(self.clock.getDelayedCalls(), [], "a timer is left")
        self.assertEqual(self.receiver.open, [], "a call is left")
        for text in (*self.lines, *(event.message for event in self.events.published)):
            self.assertNotIn("SECRET", text)

    def heard(self, event: dict[str, Any]) -> None:
        self.lines.append(formatEvent(event))

    def take(self, *types: str) -> None:
        for type in types:
            self.webhook.take(Alert(agent_id="web", type=type, timestamp=1_700_000_000.0))

    def announced(self) -> list[str]:
        return [event.type for event in self.events.published]

    def counters(self) -> dict[str, int]:
        stats = self.webhook.stats()
        found = {
            "queued": stats.queued, "delivered": stats.delivered_total, "dropped": stats.dropped_total,
            "refused": stats.refused_total, "failures": stats.failures_total,
        }
        return {name: value for name, value in found.items() if value}


class Delivery(WebhookCase):
    def test_what_the_book_announces_is_posted_with_who_we_are(self) -> None:
        book = AlertBook(lambda: 1_700_000_000.0, FakeEvents())
        book.subscribe(self.webhook.take)
        book.raise_alert("cpu", "uses 80 %", agent_id="web", current_value=80.0, threshold=50.0)
        book.raise_alert("cpu", "uses 81 %", agent_id="web", current_value=81.0, threshold=50.0)
        book.clear("cpu", agent_id="web")
        raised, cleared = (said for _url, said in self.receiver.posts)
        self.assertEqual(
            (raised["node_id"], raised["hostname"], raised["current_value"], raised["cleared_at"]),
            ("node-1", "host-1", 80.0, None),
        )
        self.assertEqual((cleared["current_value"], cleared["cleared_at"]), (81.0, "2023-11-14T22:13:20.000Z"))
        self.assertEqual(self.counters(), {"delivered": 2})
        self.assertEqual(self.announced(), [])

    def test_one_at_a_time_and_in_order(self) -> None:
        self.receiver.mood = None
        self.take("one", "two", "three")
        self.assertEqual(self.receiver.types(), ["one"])
        while self.receiver.open:
            self.receiver.open[0].callback(HttpAnswer(status=200))
        self.assertEqual(self.receiver.types(), ["one", "two", "three"])
        self.assertEqual((self.receiver.most_open, self.counters()), (1, {"delivered": 3}))

    def test_nothing_is_posted_before_the_start(self) -> None:
        self.successResultOf(self.webhook.stopService())
        waiting = Webhook(
            self.clock, self.receiver, self.events, node_id="n", hostname="h", random_unit=lambda: 0.5
        )
        waiting.apply(URL)
        waiting.take(Alert(agent_id="", type="early"))
        self.assertEqual((self.receiver.posts, waiting.stats().queued), ([], 1))
        waiting.startService()
        self.assertEqual(self.receiver.types(), ["early"])
        self.successResultOf(waiting.stopService())


class Trouble(WebhookCase):
    def test_a_receiver_that_fails_is_asked_again_with_growing_delays_and_nothing_is_lost(self) -> None:
        self.receiver.mood = HttpAnswer(status=500)
        self.take("one", "two")
        pauses = []
        for _ in range(12):
            (call,) = self.clock.getDelayedCalls()
            pauses.append(call.getTime() - self.clock.seconds())
            self.clock.advance(pauses[-1])
        self.assertEqual(pauses[:4], [0.5, 1.0, 2.0, 4.0])
        self.assertEqual(pauses[-1], MAX_DELAY_S / 2)
        self.assertEqual((self.receiver.types(), self.counters()), (["one"] * 13, {"queued": 2, "failures": 13}))
        self.receiver.mood = HttpAnswer(status=200)
        self.clock.advance(MAX_DELAY_S)
        self.assertEqual(self.receiver.types()[-2:], ["one", "two"])
        self.assertEqual(self.counters(), {"delivered": 2, "failures": 13})
        self.assertEqual(self.webhook.stats().last_error, "")

    def test_it_is_said_once_that_it_fails_and_once_that_it_recovers(self) -> None:
        for error in (HttpError("connection refused"), HttpAnswer(status=503), HttpError("no answer within 10 s")):
            self.receiver.mood = error
            self.take("one")
            self.clock.pump([MAX_DELAY_S] * 3)
        self.assertEqual(self.announced(), ["webhook.failed"])
        self.assertIn("https://chat.example/<redacted>: connection refused", self.events.published[0].message)
        self.assertEqual(self.webhook.stats().last_error, "no answer within 10 s")
        self.receiver.mood = HttpAnswer(status=200)
        self.clock.advance(MAX_DELAY_S)
        self.take("two")
        self.assertEqual(self.announced(), ["webhook.failed", "webhook.recovered"])
        self.assertEqual(len([line for line in self.lines if "webhook" in line]), 2)
        self.receiver.mood = HttpAnswer(status=500)
        self.take("three")
        self.assertEqual(self.announced()[2:], ["webhook.failed"])

    def test_the_first_delay_is_short_again_for_the_next_alert(self) -> None:
        self.receiver.mood = HttpAnswer(status=500)
        self.take("one")
        self.clock.pump([0.5, 1.0, 2.0])
        self.receiver.mood = lambda said: HttpAnswer(status=200 if said["type"] == "one" else 500)
        self.take("two")
        self.clock.advance(4.0)
        (call,) = self.clock.getDelayedCalls()
        self.assertEqual(call.getTime() - self.clock.seconds(), 0.5)

    def test_retry_after_is_honoured(self) -> None:
        self.receiver.mood = HttpAnswer(status=429, retry_after_s=60.0)
        self.take("one")
        self.clock.advance(60.0)
        self.assertEqual(len(self.receiver.posts), 1)
        self.receiver.mood = HttpAnswer(status=200)
        self.clock.advance(0.5)
        self.assertEqual(self.counters(), {"delivered": 1, "failures": 1})

    def test_a_receiver_that_hangs_holds_its_own_queue_alone(self) -> None:
        self.receiver.mood = None
        self.take("one", "two")
        self.clock.advance(POST_TIMEOUT_S)
        self.assertEqual(self.counters(), {"queued": 2, "failures": 1})
        self.clock.advance(0.5)
        self.assertEqual((self.receiver.types(), self.receiver.most_open), (["one", "one"], 1))

    def test_a_fault_of_the_client_is_a_failed_attempt(self) -> None:
        self.receiver.mood = OverflowError("/services/T0SECRET: port must be 0-65535")
        self.take("one")
        self.clock.pump([0.5, 1.0])
        self.assertEqual(self.counters(), {"queued": 1, "failures": 3})
        self.assertEqual(self.webhook.stats().last_error, "OverflowError: <redacted>: port must be 0-65535")
        self.receiver.mood = HttpAnswer(status=200)
        self.clock.advance(2.0)
        self.assertEqual(self.counters(), {"delivered": 1, "failures": 3})


class Loss(WebhookCase):
    def test_what_is_refused_is_dropped_counted_and_reported_once(self) -> None:
        self.receiver.mood = HttpAnswer(status=404)
        self.take("one", "two", "three")
        self.assertEqual(self.receiver.types(), ["one", "two", "three"])
        self.assertEqual(self.counters(), {"refused": 3})
        self.assertEqual(self.announced(), ["webhook.failed"])
        self.assertIn("answered 404 to alert one, which is dropped", self.events.published[0].message)
        self.assertEqual(self.webhook.stats().last_error, "it answered 404")

    def test_a_loss_is_reported_although_a_failure_was(self) -> None:
        self.receiver.mood = HttpAnswer(status=500)
        self.take("one")
        self.receiver.mood = HttpAnswer(status=410)
        self.clock.advance(0.5)
        self.assertEqual(self.announced(), ["webhook.failed", "webhook.failed"])
        self.assertIn("410", self.events.published[1].message)

    def test_a_full_queue_drops_the_oldest_and_says_so_once(self) -> None:
        self.receiver.mood = HttpAnswer(status=500)
        self.take(*(f"t{number}" for number in range(QUEUE_MAX + 5)))
        self.assertEqual(self.counters(), {"queued": QUEUE_MAX, "dropped": 5, "failures": 1})
        self.assertEqual(len([e for e in self.events.published if "the oldest are dropped" in e.message]), 1)
        self.receiver.mood = HttpAnswer(status=200)
        self.clock.advance(0.5)
        self.assertEqual(self.receiver.types()[1:], [f"t{number}" for number in range(5, QUEUE_MAX + 5)])

    def test_a_full_queue_never_drops_the_one_on_its_way(self) -> None:
        self.receiver.mood = None
        self.take(*(f"t{number}" for number in range(QUEUE_MAX + 1)))
        self.assertEqual(self.counters(), {"queued": QUEUE_MAX, "dropped": 1})
        self.receiver.mood = HttpAnswer(status=200)
        self.receiver.open[0].callback(HttpAnswer(status=200))
        self.assertEqual(self.receiver.types()[:2], ["t0", "t2"])
        self.assertEqual(self.counters(), {"delivered": QUEUE_MAX, "dropped": 1})

    def test_an_alert_that_cannot_be_written_down_does_not_hold_the_others(self) -> None:
        self.webhook.take(Alert(agent_id="", type="beyond", timestamp=1e18))
        self.take("one")
        self.assertEqual((self.receiver.types(), self.counters()), (["one"], {"dropped": 1, "delivered": 1}))
        self.assertTrue(any("cannot be written down" in line for line in self.lines))


class Reload(WebhookCase):
    def test_what_waits_goes_to_the_new_url_at_once(self) -> None:
        self.receiver.mood = HttpAnswer(status=500)
        self.take("one")
        self.clock.pump([MAX_DELAY_S] * 5)
        self.receiver.posts.clear()
        self.receiver.mood = HttpAnswer(status=200)
        self.webhook.apply(OTHER)
        self.assertEqual([url for url, _said in self.receiver.posts], [OTHER])
        self.assertEqual((self.webhook.stats().queued, self.webhook.stats().last_error), (0, ""))

    def test_a_call_under_way_to_the_old_url_is_given_up(self) -> None:
        for cancelled_as in (None, HttpError("given up"), RuntimeError("connecting was cancelled")):
            self.receiver.cancelled_as = cancelled_as
            self.receiver.mood = None
            self.webhook.apply(URL)
            self.take("one")
            self.receiver.mood = HttpAnswer(status=200)
            self.webhook.apply(OTHER)
            self.assertEqual([url for url, _said in self.receiver.posts[-2:]], [URL, OTHER])
        self.assertEqual(self.counters(), {"delivered": 3})
        self.assertEqual(self.announced(), [])

    def test_off_drops_what_waits_and_on_begins_anew(self) -> None:
        self.receiver.mood = None
        self.take("one", "two")
        self.webhook.apply("")
        self.take("three")
        self.assertEqual(self.counters(), {"dropped": 2})
        self.assertTrue(any("2 alerts are dropped undelivered" in line for line in self.lines))
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.receiver.mood = HttpAnswer(status=200)
        self.webhook.apply(URL)
        self.take("four")
        self.assertEqual(self.receiver.types(), ["one", "four"])

    def test_the_same_url_changes_nothing(self) -> None:
        self.receiver.mood = HttpAnswer(status=500)
        self.take("one")
        self.webhook.apply(URL)
        self.assertEqual(len(self.receiver.posts), 1)
        self.assertEqual(self.webhook.stats().last_error, "it answered 500")


class Broken(WebhookCase):
    def test_a_bug_is_logged_once_and_the_next_alert_begins_again(self) -> None:
        """Not even a source of jitter that fails may turn posting into a loop that eats the reactor."""
        self.receiver.mood = HttpAnswer(status=500)
        faults = iter([RuntimeError("a bug")])

        def random_unit() -> float:
            for fault in faults:
                raise fault
            return 0.5

        webhook = Webhook(
            self.clock, self.receiver, self.events, node_id="n", hostname="h", random_unit=random_unit
        )
        webhook.apply(URL)
        webhook.startService()
        webhook.take(Alert(agent_id="", type="one"))
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)
        self.assertEqual(len(self.receiver.posts), 1)
        self.receiver.mood = HttpAnswer(status=200)
        webhook.take(Alert(agent_id="", type="two"))
        self.assertEqual((self.receiver.types(), webhook.stats().queued), (["one", "one", "two"], 0))
        self.successResultOf(webhook.stopService())


class Stop(WebhookCase):
    def test_a_stop_ends_a_call_that_hangs_and_counts_what_is_lost(self) -> None:
        for cancelled_as in (None, HttpError("given up"), RuntimeError("connecting was cancelled")):
            self.receiver.cancelled_as = cancelled_as
            self.receiver.mood = None
            before = self.webhook.stats().dropped_total
            self.webhook.startService()
            self.take("one", "two")
            self.successResultOf(self.webhook.stopService())
            self.assertEqual(self.webhook.stats().dropped_total - before, 2)
            self.assertEqual((self.receiver.open, self.clock.getDelayedCalls()), ([], []))
        self.assertEqual(self.webhook.stats().failures_total, 0)
        self.assertEqual(len([line for line in self.lines if "2 alerts are dropped undelivered" in line]), 3)

    def test_a_stop_ends_a_wait(self) -> None:
        self.receiver.mood = HttpAnswer(status=500)
        self.take("one")
        self.successResultOf(self.webhook.stopService())
        self.assertEqual(self.counters(), {"dropped": 1, "failures": 1})

    def test_alerts_after_the_stop_are_counted(self) -> None:
        self.successResultOf(self.webhook.stopService())
        self.take("late")
        self.assertEqual((self.receiver.posts, self.counters()), ([], {"dropped": 1}))

    def test_an_idle_stop_says_nothing(self) -> None:
        self.take("one")
        self.successResultOf(self.webhook.stopService())
        self.assertEqual((self.counters(), [line for line in self.lines if "webhook" in line]), ({"delivered": 1}, []))
