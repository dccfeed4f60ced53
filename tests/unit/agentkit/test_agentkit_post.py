"""Heartbeats over HTTP, against a server that the test is."""

from __future__ import annotations

import json
from typing import Any

import pytest
from agentkit_fakes import FakeHost
from twisted.internet import reactor
from twisted.internet.defer import Deferred, maybeDeferred, succeed
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import deferLater
from twisted.trial.unittest import SynchronousTestCase, TestCase
from twisted.web.client import Agent

from daemon.agentkit.channel import NotDelivered
from daemon.agentkit.post import HttpChannel, retry_after_s
from daemon.agentkit.sender import HeartbeatSender, SenderSettings, open_channel


@pytest.mark.parametrize(
    ("text", "want"),
    [("5", 5.0), (" 7 ", 7.0), ("99999", 300.0), ("", None), (None, None), ("-1", None), ("1.5", None),
     ("Fri, 20 Nov 2026 22:35:00 GMT", None), ("²", None), ("9" * 5000, None)],
)
def test_retry_after_in_seconds_is_honoured_within_reason(text: str | None, want: float | None) -> None:
    assert retry_after_s(text) == want


class _Server(Protocol):
    """Reads one request whole and answers with prepared bytes."""

    factory: Any

    def connectionMade(self) -> None:
        self.seen = b""
        self.factory.lines.append(self)

    def dataReceived(self, data: bytes) -> None:
        self.seen += data
        head, _, body = self.seen.partition(b"\r\n\r\n")
        if b"content-length: %d\r\n" % len(body) in head.lower() + b"\r\n" and body:
            self.factory.requests.append((head, body))
            if self.factory.answer is not None:
                self.transport.write(self.factory.answer)
            if self.factory.hang_up:
                self.transport.loseConnection()

    def connectionLost(self, reason: Any = None) -> None:
        self.factory.lines.remove(self)
        if not self.factory.lines:
            waiting, self.factory.empty = self.factory.empty, []
            for one in waiting:
                one.callback(None)


def answer(code: int, body: bytes = b"", *headers: bytes) -> bytes:
    lines = [b"HTTP/1.1 %d X" % code, b"Content-Length: %d" % len(body), *headers]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


class PostTests(TestCase):
    """One server on a port of its own."""

    timeout = 20

    def setUp(self) -> None:
        self.factory: Any = Factory.forProtocol(_Server)
        self.factory.noisy = False
        self.factory.lines, self.factory.requests, self.factory.empty = [], [], []
        self.factory.answer, self.factory.hang_up = answer(200, b'{"success":true}'), False
        self.port: Any = reactor.listenTCP(0, self.factory, interface="127.0.0.1")
        self.url = f"http://127.0.0.1:{self.port.getHost().port}/heartbeat"
        self.channel = HttpChannel(reactor, self.url)

    async def tearDown(self) -> None:
        await maybeDeferred(self.port.stopListening)
        if self.factory.lines:
            for line in self.factory.lines:
                line.transport.abortConnection()
            empty: Deferred[None] = Deferred()
            self.factory.empty.append(empty)
            await empty
        await deferLater(reactor, 0.01)

    async def fault(self) -> NotDelivered:
        try:
            await self.channel.deliver(b'{"pid":1}\n')
        except NotDelivered as fault:
            return fault
        raise AssertionError("it was delivered")

    async def test_a_heartbeat_is_one_post(self) -> None:
        await self.channel.deliver(b'{"pid":1}\n')
        ((head, body),) = self.factory.requests
        self.assertTrue(head.startswith(b"POST /heartbeat HTTP/1.1\r\n"))
        self.assertIn(b"content-type: application/json", head.lower())
        self.assertEqual(body, b'{"pid":1}\n')

    async def test_an_answer_without_a_body_will_do(self) -> None:
        self.factory.answer = answer(204)
        await self.channel.deliver(b"{}\n")

    async def test_a_refusal_tells_what_the_daemon_said(self) -> None:
        self.factory.answer = answer(404, b'{"success":false,"message":"agent \'a\' is unknown\\n"}')
        fault = await self.fault()
        self.assertEqual(str(fault), "HTTP 404: agent 'a' is unknown?")
        self.assertIsNone(fault.wait_s)

    async def test_a_busy_daemon_says_how_long_to_wait(self) -> None:
        self.factory.answer = answer(503, b"<html>", b"Retry-After: 7")
        fault = await self.fault()
        self.assertEqual((str(fault), fault.wait_s), ("HTTP 503", 7.0))

    async def test_an_endless_answer_is_hung_up_on(self) -> None:
        self.factory.answer = b"HTTP/1.1 500 X\r\n\r\n" + b"x" * 1_000_000
        self.assertEqual(str(await self.fault()), "HTTP 500")

    async def test_rubbish_and_silence_are_failures(self) -> None:
        self.factory.answer = b"rubbish\r\n\r\n"
        self.assertLess(len(str(await self.fault())), 250)
        self.factory.answer, self.factory.hang_up = None, True
        self.assertIn("closed before the answer", str(await self.fault()))

    async def test_nobody_there(self) -> None:
        await self.port.stopListening()
        self.assertIn("refused", str(await self.fault()).lower())

    async def test_closing_gives_up_a_request_without_an_answer(self) -> None:
        self.factory.answer = None
        sent = self.channel.deliver(b"{}\n")
        while not self.factory.requests:
            await deferLater(reactor, 0.01)
        await self.channel.close(1.0)
        await self.assertFailure(sent, NotDelivered)

    async def test_the_sender_takes_this_way_where_a_url_is_set(self) -> None:
        done: Deferred[None] = Deferred()
        settings = SenderSettings(url=self.url, agent_id="a", socket_path="/nowhere")
        sender = HeartbeatSender(
            reactor, lambda: 0.0, settings, on_success=lambda: None if done.called else done.callback(None)
        )
        sender.start()
        await done
        await sender.stop()
        bodies = [json.loads(body) for _, body in self.factory.requests]
        self.assertEqual([body["status"] for body in bodies], ["running", "stopping"])
        self.assertEqual(bodies[0]["agent_id"], "a")


class SilentAgent:
    """An HTTP client whose server never answers."""

    def __init__(self) -> None:
        self.asked = 0

    def request(self, *_args: Any) -> Deferred[Any]:
        self.asked += 1
        return Deferred()


class Stalled:
    """A response whose body stops in the middle."""

    code = 500
    length = 100
    headers: Any = None

    def deliverBody(self, reader: Protocol) -> None:
        reader.dataReceived(b'{"message"')


class DeadlineTests(SynchronousTestCase):
    """Time, by the clock."""

    def test_an_answer_that_does_not_come_is_not_waited_for_longer_than_ten_seconds(self) -> None:
        host = FakeHost()
        channel = HttpChannel(host, "http://h/heartbeat", SilentAgent())
        sent = channel.deliver(b"{}\n")
        host.advance(9.9)
        self.assertNoResult(sent)
        host.advance(0.2)
        self.assertIn("no answer within 10 s", str(self.failureResultOf(sent, NotDelivered).value))
        self.assertEqual(host.getDelayedCalls(), [])

    def test_nor_is_the_rest_of_one(self) -> None:
        class Answering:
            def request(self, *_args: Any) -> Deferred[Any]:
                return succeed(Stalled())

        host = FakeHost()
        sent = HttpChannel(host, "http://h/heartbeat", Answering()).deliver(b"{}\n")
        host.advance(10.1)
        self.assertIn("no answer", str(self.failureResultOf(sent, NotDelivered).value))

    def test_a_server_that_never_answers_has_one_request_waiting(self) -> None:
        host = FakeHost()
        agent = SilentAgent()
        settings = SenderSettings(url="http://h/heartbeat", agent_id="a", interval_s=1.0)
        sender = HeartbeatSender(
            host, lambda: 0.0, settings, channels=lambda r, s, lost: HttpChannel(r, s.url, agent),
            random_unit=lambda: 1.0,
        )
        sender.start()
        host.settle(9.5)
        self.assertEqual(agent.asked, 1)
        self.assertEqual(sender.stats.skipped_total, 9)
        host.settle(1.2)
        self.assertEqual(agent.asked, 2)
        done = Deferred.fromCoroutine(sender.stop())
        host.settle(1.1)
        self.successResultOf(done)
        self.assertEqual(host.getDelayedCalls(), [])

    def test_the_way_follows_the_settings(self) -> None:
        def lost(_reason: str) -> None:
            return None

        channel = open_channel(FakeHost(), SenderSettings(url="http://h/x"), lost)
        self.assertEqual((type(channel).__name__, channel.target), ("HttpChannel", "http://h/x"))
        self.assertIsInstance(channel._agent, Agent)  # type: ignore[attr-defined]  # the default client
        channel = open_channel(FakeHost(), SenderSettings(socket_path="/s"), lost)
        self.assertEqual((type(channel).__name__, channel.target), ("UnixChannel", "/s"))
