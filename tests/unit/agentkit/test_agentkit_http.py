"""The agent's page, driven through its real factory."""

from __future__ import annotations

import json
from typing import Any

import pytest
from agentkit_fakes import FakeHost
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, succeed
from twisted.internet.testing import StringTransport
from twisted.trial.unittest import SynchronousTestCase

from daemon.agentkit.http import AgentSite, HttpListener, may_reload
from daemon.agentkit.views import HealthView, MetricsView, ReloadView
from daemon.errors import ListenError

Answer = tuple[int, dict[str, str], bytes]


class FakePage:
    """An agent to show."""

    def __init__(self) -> None:
        self.status = "healthy"
        self.reloads = 0
        self.outcome: Deferred[ReloadView] = succeed(
            ReloadView(success=True, message="done", reloaded_at="2026-11-20T00:00:00Z")
        )

    def health(self) -> HealthView:
        return HealthView(status=self.status, uptime=1.0, last_heartbeat=None, agent_id="a")

    def metrics(self) -> MetricsView:
        return MetricsView(
            agent_id="a", version="1", uptime=1.0, heartbeat_count=1, heartbeat_failures=0,
            last_heartbeat=None, cpu_percent=0.5, memory_bytes=2, status="running",
        )

    def metrics_text(self) -> str:
        return "hostagent_info 1\n"

    def reload(self) -> Deferred[ReloadView]:
        self.reloads += 1
        return self.outcome


class Wire(StringTransport):
    """A connection whose end can be seen."""

    gone = False

    def loseConnection(self) -> None:
        self.gone = True
        super().loseConnection()


@pytest.mark.parametrize(
    ("peer", "origin", "want"),
    [
        ("127.0.0.1", None, True), ("127.9.9.9", None, True), ("::1", None, True),
        ("::ffff:127.0.0.1", None, True),
        ("192.0.2.1", None, False), ("::ffff:192.0.2.1", None, False), ("", None, False), (None, None, False),
        ("127.0.0.1", "http://127.0.0.1:8081", False), ("127.0.0.1", "", False),
    ],
)
def test_reload_is_for_this_host_and_not_for_web_pages(
    peer: str | None, origin: str | None, want: bool
) -> None:
    assert may_reload(peer, origin) is want


class PageTests(SynchronousTestCase):
    """Requests and answers."""

    def setUp(self) -> None:
        self.host = FakeHost()
        self.page = FakePage()
        self.site = AgentSite(self.host, lambda: 0.0, self.page)
        self.peer = "127.0.0.1"

    def connect(self) -> tuple[Any, Wire]:
        wire = Wire(peerAddress=IPv4Address("TCP", self.peer, 5))
        channel = self.site.buildProtocol(None)
        channel.makeConnection(wire)
        self.addCleanup(lambda: channel._channel.setTimeout(None))
        return channel, wire

    def ask(self, raw: bytes) -> Answer:
        channel, wire = self.connect()
        channel.dataReceived(raw)
        return self.read(wire)

    def read(self, wire: Wire) -> Answer:
        head, _, body = wire.value().partition(b"\r\n\r\n")
        first, *lines = head.decode().split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in lines)
        return int(first.split()[1]), headers, body

    def request(self, method: str, path: str, *headers: str, body: bytes = b"") -> Answer:
        lines = [f"{method} {path} HTTP/1.1", "Host: x", *headers]
        if body:
            lines.append(f"Content-Length: {len(body)}")
        return self.ask("\r\n".join([*lines, "", ""]).encode() + body)

    def test_health(self) -> None:
        code, headers, body = self.request("GET", "/health")
        self.assertEqual(code, 200)
        self.assertEqual(headers["content-type"], "application/json")
        self.assertEqual(headers["date"], "thu, 01 jan 1970 00:00:00 gmt")
        self.assertEqual(
            json.loads(body), {"status": "healthy", "uptime": 1.0, "last_heartbeat": None, "agent_id": "a"}
        )
        self.page.status = "unhealthy"
        self.assertEqual(self.request("GET", "/health?x=1")[0], 503)

    def test_head_has_headers_alone(self) -> None:
        code, headers, body = self.request("HEAD", "/health")
        self.assertEqual((code, body), (200, b""))
        self.assertGreater(int(headers["content-length"]), 10)

    def test_metrics_as_json_or_as_text(self) -> None:
        code, headers, body = self.request("GET", "/metrics")
        self.assertEqual((code, headers["vary"]), (200, "accept"))
        self.assertEqual(list(json.loads(body)), [
            "agent_id", "version", "uptime", "heartbeat_count", "heartbeat_failures", "last_heartbeat",
            "cpu_percent", "memory_bytes", "status",
        ])
        code, headers, body = self.request("GET", "/metrics", "Accept: text/plain")
        self.assertEqual((code, body), (200, b"hostagent_info 1\n"))
        self.assertEqual(headers["content-type"], "text/plain; version=0.0.4; charset=utf-8")

    def test_reload_answers_with_its_outcome(self) -> None:
        code, _, body = self.request("POST", "/reload", body=b'{"any": "body"}')
        self.assertEqual(code, 200)
        self.assertEqual(
            json.loads(body), {"success": True, "message": "done", "reloaded_at": "2026-11-20T00:00:00Z"}
        )
        self.page.outcome = succeed(ReloadView(success=False, message="D1002 no", reloaded_at=None))
        code, _, body = self.request("POST", "/reload")
        self.assertEqual((code, json.loads(body)["message"]), (500, "D1002 no"))

    def test_a_form_is_no_trouble(self) -> None:
        code, _, _ = self.request(
            "POST", "/reload", "Content-Type: multipart/form-data; boundary=x", body=b"--x\r\nrubbish"
        )
        self.assertEqual(code, 200)

    def test_reload_from_elsewhere_or_from_a_web_page_is_refused(self) -> None:
        self.assertEqual(self.request("POST", "/reload", "Origin: http://evil")[0], 403)
        self.peer = "192.0.2.1"
        self.assertEqual(self.request("POST", "/reload")[0], 403)
        self.assertEqual(self.request("GET", "/health")[0], 200)
        self.assertEqual(self.page.reloads, 0)

    def test_a_client_that_leaves_during_a_reload_leaves_nothing_behind(self) -> None:
        from twisted.internet.error import ConnectionLost
        from twisted.python.failure import Failure

        self.page.outcome = Deferred()
        channel, _wire = self.connect()
        channel.dataReceived(b"POST /reload HTTP/1.1\r\nHost: x\r\n\r\n")
        channel.connectionLost(Failure(ConnectionLost()))
        self.page.outcome.callback(ReloadView(success=True, message="", reloaded_at=None))
        self.assertEqual(self.flushLoggedErrors(), [])

    def test_other_paths_and_methods(self) -> None:
        self.assertEqual(self.request("GET", "/")[0], 404)
        self.assertEqual(self.request("GET", "/health/../reload")[0], 404)
        code, headers, _ = self.request("GET", "/reload")
        self.assertEqual((code, headers["allow"]), (405, "post"))
        self.assertEqual(self.request("DELETE", "/health")[0], 405)
        self.assertEqual(self.page.reloads, 0)

    def test_a_body_over_the_limit_is_dropped_and_refused(self) -> None:
        self.assertEqual(self.request("POST", "/reload", body=b"x" * 16384)[0], 200)
        self.assertEqual(self.request("POST", "/reload", body=b"x" * 16385)[0], 413)
        self.assertEqual(self.page.reloads, 1)

    def test_a_body_announced_as_huge_is_not_waited_for(self) -> None:
        channel, wire = self.connect()
        channel.dataReceived(b"POST /reload HTTP/1.1\r\nHost: x\r\nContent-Length: 2000000\r\n\r\n")
        self.assertEqual(self.read(wire)[0], 413)
        self.assertTrue(wire.gone)
        channel.dataReceived(b"x" * 2000000)
        self.assertEqual(self.page.reloads, 0)

    def test_an_endless_chunked_body_is_cut_off_and_none_of_it_kept(self) -> None:
        channel, wire = self.connect()
        channel.dataReceived(b"POST /reload HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        chunk = b"10000\r\n" + b"x" * 65536 + b"\r\n"
        sent = 0
        while not wire.gone and sent < 100:
            channel.dataReceived(chunk)
            sent += 1
        self.assertEqual(sent, 17)
        self.assertEqual(self.read(wire)[0], 413)
        channel.dataReceived(chunk)
        self.assertEqual(self.page.reloads, 0)

    def test_rubbish_closes_the_connection(self) -> None:
        for raw in (b"\x16\x03\x01\x02\x00\r\n\r\n", b"GET\r\n\r\n", b"GET / HTTP/1.1\r\nX: " + b"y" * 20000):
            channel, wire = self.connect()
            channel.dataReceived(raw)
            self.assertTrue(wire.value().startswith(b"HTTP/1.1 400") or wire.gone, raw[:20])

    def test_an_idle_connection_is_closed(self) -> None:
        channel, wire = self.connect()
        channel.dataReceived(b"GET /hea")
        self.host.advance(31)
        self.assertTrue(wire.gone)
        self.host.advance(60)  # the connection's own last resort

    def test_the_site_keeps_no_timer_of_its_own(self) -> None:
        self.site.doStart()
        self.assertEqual(self.host.getDelayedCalls(), [])
        self.site.doStop()


class ListenerTests(SynchronousTestCase):
    """Ports that are free, and ports that are not."""

    def setUp(self) -> None:
        self.host = FakeHost()
        self.site = AgentSite(self.host, lambda: 0.0, FakePage())

    def listener(self, port: int = 8081) -> HttpListener:
        listener = HttpListener(self.host, self.site, "127.0.0.1", port)
        listener.start()
        return listener

    def stop(self, listener: HttpListener) -> None:
        self.successResultOf(Deferred.fromCoroutine(listener.stop()))
        self.assertEqual(self.host.getDelayedCalls(), [])
        self.assertEqual(self.host.listening, {})

    def test_it_listens_and_stops(self) -> None:
        listener = self.listener()
        self.assertEqual(list(self.host.listening), [("127.0.0.1", 8081)])
        self.assertEqual(listener.address, ("127.0.0.1", 8081))
        self.stop(listener)
        self.assertIsNone(listener.address)

    def test_port_zero_is_off(self) -> None:
        listener = self.listener(0)
        self.assertEqual(self.host.listening, {})
        self.stop(listener)

    def test_a_taken_port_is_tried_again_until_it_is_free(self) -> None:
        self.host.taken.add(8081)
        listener = self.listener()
        self.host.settle(200)
        self.assertIsNone(listener.address)
        self.host.taken.clear()
        self.host.settle(60.1)
        self.assertIsNotNone(listener.address)
        self.stop(listener)

    def test_a_stop_ends_the_tries(self) -> None:
        self.host.taken.add(8081)
        self.stop(self.listener())

    def test_it_moves_to_a_free_port_and_stays_where_the_new_one_is_taken(self) -> None:
        listener = self.listener()
        listener.move("127.0.0.1", 8082)
        self.assertEqual(list(self.host.listening), [("127.0.0.1", 8082)])
        self.host.taken.add(8083)
        with self.assertRaises(ListenError) as caught:
            listener.move("127.0.0.1", 8083)
        self.assertIn("D1003", str(caught.exception))
        self.assertIn("Address already in use", str(caught.exception))
        self.assertEqual((listener.port, listener.address), (8082, ("127.0.0.1", 8082)))
        listener.move("127.0.0.1", 0)
        self.assertEqual(self.host.listening, {})
        self.stop(listener)

    def test_a_move_from_a_port_still_waited_for_ends_the_wait(self) -> None:
        self.host.taken.add(8081)
        listener = self.listener()
        listener.move("127.0.0.1", 8082)
        self.assertEqual(self.host.getDelayedCalls(), [])
        self.stop(listener)
