"""The webhook over real connections: to a receiver that takes, fails, refuses, hangs, hangs up or is not there."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

from twisted.internet import reactor
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Site

from daemon.aio.threads import ThreadLanes
from daemon.alerts.book import AlertBook
from daemon.alerts.webhook import Webhook
from daemon.httpclient import HttpClient
from tests.fakes.directory import FakeEvents

HANGS, HANGS_UP = -1, -2


class Receiver(Resource):
    """Answers what it is told to, one mood after the other; the last one stays.

    Attributes:
        moods: statuses to come; HANGS says nothing, HANGS_UP closes the connection.
        bodies: what came.
        heads: path, content type and user of every request.
    """

    isLeaf = True

    def __init__(self) -> None:
        super().__init__()
        self.moods = [204]
        self.bodies: list[dict[str, Any]] = []
        self.heads: list[tuple[bytes, str | None, bytes]] = []

    def render_POST(self, request: Any) -> Any:
        mood = self.moods.pop(0) if len(self.moods) > 1 else self.moods[0]
        self.bodies.append(json.loads(request.content.read()))
        self.heads.append((request.uri, request.getHeader("Content-Type"), request.getUser()))
        if mood == HANGS:
            return NOT_DONE_YET
        if mood == HANGS_UP:
            request.transport.abortConnection()
            return NOT_DONE_YET
        if mood == 429:
            request.setHeader("Retry-After", "1")
        request.setResponseCode(mood)
        return b"x" * 100_000  # nobody reads it


class WebhookRealTest(TestCase):
    timeout = 30

    def setUp(self) -> None:
        self.receiver = Receiver()
        self.site = Site(self.receiver)
        self.port = reactor.listenTCP(0, self.site, interface="127.0.0.1")
        self.number = self.port.getHost().port
        self.threads = ThreadLanes(reactor)
        self.events = FakeEvents()
        self.webhook = Webhook(
            reactor, HttpClient(reactor, self.threads), self.events, node_id="node-1", hostname="host-1",
            random_unit=lambda: 0.02,  # delays of 20 ms and more, for a quick test
        )
        self.book = AlertBook(time.time, FakeEvents())
        self.book.subscribe(self.webhook.take)
        self.webhook.apply(f"http://ops:s3cret@localhost:{self.number}/hooks/T0SECRET?x=1")
        self.webhook.startService()

    async def tearDown(self) -> None:
        await self.webhook.stopService()
        await self.threads.stop(5.0)
        await self.port.stopListening()
        await self.until(lambda: not self.connections())
        for event in self.events.published:
            self.assertNotIn("SECRET", event.message)
            self.assertNotIn("s3cret", event.message)

    def connections(self) -> list[Any]:
        """Of the receiver: those still open."""
        return [r for r in reactor.getReaders() if getattr(getattr(r, "protocol", None), "site", None) is self.site]

    async def until(self, check: Callable[[], Any]) -> None:
        for _ in range(1000):
            if check():
                return
            await deferLater(reactor, 0.01, lambda: None)
        self.fail("it did not happen within 10 s")

    async def test_an_alert_and_its_end_arrive_with_all_they_say(self) -> None:
        self.book.raise_alert("cpu", "uses 80 % \N{EM DASH} much", agent_id="web", current_value=80.0, threshold=50.0)
        self.book.clear("cpu", agent_id="web")
        await self.until(lambda: self.webhook.stats().delivered_total == 2)
        raised, cleared = self.receiver.bodies
        self.assertEqual((raised["agent_id"], raised["type"], raised["cleared_at"]), ("web", "cpu", None))
        self.assertEqual((raised["message"], raised["node_id"]), ("uses 80 % \N{EM DASH} much", "node-1"))
        self.assertIsNotNone(cleared["cleared_at"])
        self.assertEqual(self.receiver.heads, [(b"/hooks/T0SECRET?x=1", "application/json", b"ops")] * 2)
        self.assertEqual(self.events.published, [])

    async def test_whatever_a_receiver_does_alerts_arrive_in_order_once_it_takes_them(self) -> None:
        self.receiver.moods = [500, HANGS_UP, 503, 429, 204]
        begun = time.monotonic()
        for number in range(20):
            self.book.raise_alert(f"t{number}", "x")
        await self.until(lambda: self.webhook.stats().delivered_total == 20)
        self.assertEqual([body["type"] for body in self.receiver.bodies[4:]], [f"t{n}" for n in range(20)])
        self.assertGreaterEqual(time.monotonic() - begun, 1.0, "Retry-After is honoured")
        self.assertEqual(self.webhook.stats().failures_total, 4)
        self.assertEqual([e.type for e in self.events.published], ["webhook.failed", "webhook.recovered"])

    async def test_what_is_refused_does_not_hold_the_next(self) -> None:
        self.receiver.moods = [404, 301, 204]
        for type in ("one", "two", "three"):
            self.book.raise_alert(type, "x")
        await self.until(lambda: self.webhook.stats().delivered_total == 1)
        self.assertEqual((self.webhook.stats().refused_total, self.webhook.stats().failures_total), (2, 0))

    async def test_a_receiver_that_hangs_delays_neither_the_loop_nor_a_reload_nor_the_stop(self) -> None:
        self.receiver.moods = [HANGS]
        self.book.raise_alert("one", "x")
        await self.until(lambda: self.receiver.bodies)
        slowest = 0.0
        for _ in range(50):
            begun = time.monotonic()
            self.book.raise_alert("two", "x")
            self.book.clear("two")
            await deferLater(reactor, 0, lambda: None)
            slowest = max(slowest, time.monotonic() - begun)
        self.assertLess(slowest, 0.5)
        self.webhook.apply(f"http://127.0.0.1:{self.number}/other")
        await self.until(lambda: len(self.receiver.bodies) == 2)
        begun = time.monotonic()
        await self.webhook.stopService()
        self.assertLess(time.monotonic() - begun, 2.0)
        self.assertEqual((self.webhook.stats().dropped_total, self.webhook.stats().queued), (101, 0))

    async def test_a_receiver_that_is_not_there_yet_gets_what_waited(self) -> None:
        await self.port.stopListening()
        self.book.raise_alert("one", "x")
        await self.until(lambda: self.webhook.stats().failures_total >= 2)
        self.assertIn("refused", self.webhook.stats().last_error)
        self.port = reactor.listenTCP(self.number, self.site, interface="127.0.0.1")
        await self.until(lambda: self.webhook.stats().delivered_total == 1)
        self.assertEqual(self.webhook.stats().last_error, "")

    async def test_a_name_that_does_not_exist_is_a_failure_like_any_other(self) -> None:
        self.webhook.apply("http://ops:s3cret@no-such-host.invalid/hooks/T0SECRET")
        self.book.raise_alert("one", "x")
        await self.until(lambda: self.webhook.stats().failures_total)
        self.assertEqual((self.webhook.stats().queued, len(self.events.published)), (1, 1))
