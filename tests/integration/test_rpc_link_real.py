"""The Manager link over real gRPC: a Manager that comes, goes, hangs and refuses; TLS and its mistakes."""

from __future__ import annotations

import os
import shutil
import socket
import ssl
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent import futures
from pathlib import Path
from typing import Any, cast

import grpc
from msgspec.structs import replace
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock, deferLater
from twisted.trial.unittest import TestCase

from daemon.aio.threads import ThreadLanes
from daemon.config.schema import ManagerConfig, ManagerTlsConfig
from daemon.events.bus import EventBus
from daemon.rpc.channel import ManagerChannel
from daemon.rpc.link_errors import CallFailed, FaultKind
from daemon.rpc.link_identity import EXPIRY_ALERT
from daemon.rpc.log_tap import LogTap
from daemon.rpc.manager_link import ManagerLink
from tests.fakes.ports import free_port
from tests.fakes.rpc_certs import Cert
from tests.fakes.rpc_link import FACTS, NODE, FakeAgents, FakeCollectors
from tests.fakes.rpc_manager import (
    EVENTS,
    HEARTBEAT,
    REGISTER,
    REPORT,
    SYNC,
    FakeManager,
    InPlace,
    RealManager,
    Refused,
)
from tests.fakes.supervised import FakeAlerts

Code = grpc.StatusCode
REACTOR = cast(Any, reactor)


def descriptors() -> int:
    """Open descriptors of this process."""
    return len(os.listdir("/proc/self/fd"))


class LinkCase(TestCase):
    timeout = 30

    def setUp(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="hd-link-"))
        self.addCleanup(shutil.rmtree, self.folder)
        self.threads = ThreadLanes(REACTOR)
        self.addCleanup(lambda: Deferred.fromCoroutine(self.threads.stop(2.0)))
        self.manager = FakeManager()
        self.port = free_port()
        self.server: RealManager | None = None
        self.addCleanup(self.away)
        self.alerts = FakeAlerts()
        self.collectors = FakeCollectors()
        self.agents = FakeAgents()
        self.bus = EventBus(time.time)
        self.keys: list[tuple[str, int]] = []

    def there(self, **how: Any) -> None:
        """The Manager comes up."""
        self.server = RealManager(self.manager, self.port, **how)
        assert self.server.port == self.port

    def away(self) -> None:
        """The Manager goes."""
        server, self.server = self.server, None
        if server is not None:
            server.stop()

    def config(self, **keys: Any) -> ManagerConfig:
        quick = {
            "address": f"localhost:{self.port}", "heartbeat_interval": 0.2, "report_interval": 0.02,
            "sync_interval": 0.3, "reconnect_interval": 0.05, "reconnect_max": 0.2, "timeout": 2.0,
        }
        return ManagerConfig(**cast(Any, quick | keys))

    def link(self, config: ManagerConfig | None = None, **keys: Any) -> ManagerLink:
        """A link that runs."""
        self.made = ManagerLink(
            reactor=REACTOR, clock=REACTOR, threads=self.threads, wall=time.time,
            config=config or self.config(), facts=FACTS, labels={}, versions=lambda: ("2.0.0", ""),
            collectors=self.collectors, states=self.agents.all, bus=self.bus,
            alerts=cast(Any, self.alerts), directory=self.folder / "reports", log_tap=LogTap(time.time),
            **keys,
        )
        self.made.startService()
        self.addCleanup(lambda: self.made.stopService() if self.made.running else None)
        return self.made

    def sample(self) -> None:
        """A collector takes its next sample."""
        stamp = 1_700_000_000 + len(self.keys)
        self.collectors.sample("cpu", stamp)
        self.keys.append(("cpu", stamp))

    async def measure(self, count: int) -> None:
        """So many samples, each of which the link takes."""
        for _ in range(count):
            taken = self.made.state
            self.sample()
            before = taken.queued + taken.delivered + taken.refused
            await self.until(lambda before=before: self.total() > before, "the sample is taken")

    def total(self) -> int:
        state = self.made.state
        return state.queued + state.delivered + state.refused + state.dropped

    async def until(self, check: Callable[[], Any], what: str) -> None:
        """Polls until it holds."""
        for _ in range(1000):
            if check():
                return
            await deferLater(REACTOR, 0.01, lambda: None)
        raise AssertionError(f"waited in vain: {what}; {self.made.state}")

    async def rest(self, seconds: float) -> None:
        """That long."""
        await deferLater(REACTOR, seconds, lambda: None)


class AwayTest(LinkCase):
    async def test_down_from_the_start_and_up_later(self) -> None:
        link = self.link()
        await self.measure(6)
        self.assertFalse(link.state.connected)
        self.assertIn("D2001 nobody listens", link.state.last_error)
        self.there()
        await self.until(lambda: len(self.manager.samples) >= 6, "reports arrive")
        self.assertEqual(self.manager.samples, self.keys)
        await self.until(lambda: link.state.queued == 0, "the queue is empty")
        self.assertEqual((link.state.delivered, link.state.last_error), (6, ""))
        self.assertEqual(self.manager.registrations[0].ip, "127.0.0.1")
        self.assertEqual(self.manager.registrations[0].node_id, NODE)
        await self.until(lambda: self.manager.events, "events arrive")

    async def test_flapping_loses_nothing_and_keeps_one_channel(self) -> None:
        made = []

        def dial(config: ManagerConfig, _pem: Any) -> ManagerChannel:
            made.append(ManagerChannel(REACTOR, config, None))
            return made[-1]

        link = self.link(dial=dial)
        self.there()
        for _ in range(5):
            await self.measure(3)
            self.away()
            await self.measure(3)
            self.there()
        await self.until(lambda: link.state.queued == 0, "the queue is empty")
        seen = list(dict.fromkeys(self.manager.samples))
        self.assertEqual(seen, self.keys)
        self.assertLess(len(self.manager.samples) - len(seen), 6)  # answers lost by the flapping
        self.assertEqual(len(made), 1)

    async def test_many_failed_connects_leave_nothing_behind(self) -> None:
        link = self.link(self.config(reconnect_interval=0.001, reconnect_max=0.002))
        await self.until(lambda: link.state.failures_total > 50, "some failures")
        before, threads = descriptors(), threading.active_count()
        await self.until(lambda: link.state.failures_total > 350, "many failures")
        self.assertLessEqual(descriptors(), before + 3)
        self.assertLessEqual(threading.active_count(), threads + 2)

    async def test_a_port_that_accepts_and_never_answers_costs_one_call(self) -> None:
        with socket.socket() as silent:
            silent.bind(("127.0.0.1", self.port))
            silent.listen()
            link = self.link(self.config(timeout=0.1))
            await self.measure(4)
            await self.until(lambda: link.state.failures_total > 2, "deadlines pass")
            self.assertIn("D2001 the Manager did not answer within 0.1 s", link.state.last_error)
            begun = time.monotonic()
            await self.made.stopService()
            self.assertLess(time.monotonic() - begun, 1.0)


class MisbehavingTest(LinkCase):
    async def test_hanging_calls_hold_neither_each_other_nor_the_stop(self) -> None:
        self.there()
        link = self.link()
        await self.until(lambda: link.state.connected, "connected")
        self.manager.hanging |= {REPORT, SYNC, EVENTS}
        self.sample()
        self.bus.publish("test.event", "x")
        beats = self.manager.calls[HEARTBEAT]
        await self.until(lambda: self.manager.calls[HEARTBEAT] > beats + 3, "heartbeats go on")
        self.assertEqual(self.manager.calls[REPORT], 1)
        self.manager.hanging.add(HEARTBEAT)
        beats = self.manager.calls[HEARTBEAT]
        await self.until(lambda: self.manager.calls[HEARTBEAT] > beats, "a heartbeat hangs too")
        begun = time.monotonic()
        await link.stopService()
        self.assertLess(time.monotonic() - begun, 1.0)
        self.assertEqual(link.state.queued, 1)

    async def test_success_false_everywhere_and_its_end(self) -> None:
        self.manager.unwilling |= {REGISTER, HEARTBEAT, REPORT, SYNC, EVENTS}
        self.there()
        link = self.link()
        await self.measure(4)
        await self.until(lambda: link.state.failures_total > 2, "refusals")
        self.assertIn("D2002 the Manager answered success=false: not today", link.state.last_error)
        self.manager.calm()
        await self.until(lambda: link.state.delivered == 4, "reports arrive")
        self.assertEqual(self.manager.samples, self.keys)

    async def test_a_manager_of_the_three_calls_alone_is_enough(self) -> None:
        self.there(without=(SYNC, EVENTS))
        self.agents.states["web"] = "running"
        link = self.link()
        await self.measure(5)
        await self.until(lambda: link.state.delivered == 5, "reports arrive")
        self.assertEqual((link.state.connected, link.state.last_error), (True, ""))

    async def test_states_arrive_on_change_and_periodically(self) -> None:
        self.there()
        self.agents.states.update(web="running", db="running")
        self.link()
        await self.until(lambda: len(self.manager.syncs) >= 3, "periodic states")
        self.assertEqual(self.manager.syncs[0], {"web": "running", "db": "running"})

    async def test_RESOURCE_EXHAUSTED_with_RetryInfo(self) -> None:
        self.manager.refusing[REPORT] = Refused(Code.RESOURCE_EXHAUSTED, "too much", retry_s=0.5)
        self.there()
        link = self.link()
        await self.until(lambda: link.state.connected, "connected")
        self.sample()
        await self.until(lambda: self.manager.calls[REPORT] == 1, "asked")
        begun = time.monotonic()
        self.manager.calm()
        await self.until(lambda: link.state.delivered == 1, "delivered")
        self.assertGreater(time.monotonic() - begun, 0.45)

    async def test_INVALID_ARGUMENT_for_one_report(self) -> None:
        link = self.link()
        await self.measure(3)
        bad = self.keys[1]
        self.manager.invalid = lambda sample: sample.timestamp == bad[1]
        self.there()
        await self.until(lambda: link.state.queued == 0, "the queue is empty")
        self.assertEqual(self.manager.samples, [key for key in self.keys if key != bad])
        self.assertEqual((link.state.refused, link.state.delivered), (1, 2))

    async def test_an_unknown_node_registers_again(self) -> None:
        self.there()
        link = self.link()
        await self.until(lambda: link.state.heartbeats_total > 1, "connected")
        self.manager.known.clear()
        await self.until(lambda: len(self.manager.registrations) > 1, "registered again")
        self.assertTrue(link.state.connected)

    async def test_hostile_answers_and_details_never_raise(self) -> None:
        link = self.link()
        server = grpc.server(futures.ThreadPoolExecutor(2))

        def bad(_request: bytes, context: Any) -> bytes:
            context.set_trailing_metadata((("grpc-status-details-bin", b"\xff\xff\x00junk"),))
            context.abort(Code.RESOURCE_EXHAUSTED, "\x1b[31m" + "ü" * 3000)
            return b""

        class Everything(grpc.GenericRpcHandler):
            def service(self, details: Any) -> Any:
                if details.method.endswith("RegisterNode"):
                    return grpc.unary_unary_rpc_method_handler(bad)
                return grpc.unary_unary_rpc_method_handler(lambda _request, _context: b"\xff" * 100)

        server.add_generic_rpc_handlers((Everything(),))
        server.add_insecure_port(f"127.0.0.1:{self.port}")
        server.start()
        await self.until(lambda: "RESOURCE_EXHAUSTED" in link.state.last_error, "the refusal shows")
        self.assertTrue(link.state.last_error.isprintable())
        self.assertLess(len(link.state.last_error), 500)
        server.stop(0).wait(2)


class TlsTest(LinkCase):
    def setUp(self) -> None:
        super().setUp()
        self.ca = Cert("authority", ca=True)
        self.write("ca", self.ca)
        self.own = Cert("node-7", self.ca)
        self.own.write(self.folder, "own")

    def write(self, name: str, cert: Cert) -> None:
        (self.folder / f"{name}.pem").write_bytes(cert.pem)

    def credentials(self, cert: Cert | None = None) -> Any:
        cert = cert or Cert("manager", self.ca, dns=("localhost",))
        return grpc.ssl_server_credentials([(cert.key_pem(), cert.pem)], self.ca.pem, True)

    def tls(self, **keys: str) -> ManagerTlsConfig:
        files = {name: str(self.folder / file) for name, file in
                 (("cert_file", "own.pem"), ("key_file", "own.key"), ("ca_file", "ca.pem"))}
        return ManagerTlsConfig(**(files | keys))

    async def fails(self, part: str, **keys: str) -> None:
        link = self.link(self.config(tls=self.tls(**keys)))
        await self.until(lambda: link.state.last_error, "it fails")
        self.assertIn(part, link.state.last_error)
        self.assertTrue(link.state.last_error.startswith("D2001 "))
        await link.stopService()

    async def test_mutual_tls(self) -> None:
        self.there(credentials=self.credentials())
        link = self.link(self.config(tls=self.tls()))
        await self.measure(3)
        await self.until(lambda: link.state.delivered == 3, "reports arrive")
        state = link.state
        self.assertTrue(state.secure)
        self.assertLess(abs((state.certificate_not_after or 0) - time.time() - 90 * 86400), 3600)

    async def test_each_mistake_has_its_own_words(self) -> None:
        self.there(credentials=self.credentials())
        self.write("other", Cert("other", ca=True))
        await self.fails("write the authority that signed it", ca_file=str(self.folder / "other.pem"))
        await self.fails("cannot be read", cert_file=str(self.folder / "none.pem"))
        Cert("stranger", Cert("other", ca=True)).write(self.folder, "stranger")
        await self.fails("does not accept our certificate", cert_file=str(self.folder / "stranger.pem"),
                         key_file=str(self.folder / "stranger.key"))
        Cert("old", self.ca, days=-1).write(self.folder, "old")
        await self.fails("expired", cert_file=str(self.folder / "old.pem"), key_file=str(self.folder / "old.key"))
        self.away()
        self.there(credentials=self.credentials(Cert("manager", self.ca, dns=("elsewhere",))))
        await self.fails("does not name localhost")
        link = self.link(self.config(tls=self.tls(server_name="elsewhere")))
        await self.until(lambda: link.state.connected, "server_name helps")

    async def test_a_manager_without_tls_1_3_is_told_to_turn_it_on(self) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["h2"])
        context.load_cert_chain(*Cert("manager", self.ca, dns=("localhost",)).write(self.folder, "old-manager"))
        listener = socket.create_server(("127.0.0.1", self.port))
        self.addCleanup(listener.close)
        self.addCleanup(listener.shutdown, socket.SHUT_RDWR)  # wakes the thread that accepts

        def shake() -> None:
            while True:
                try:
                    plain, _peer = listener.accept()
                except OSError:
                    return  # closed: the test is over
                try:
                    context.wrap_socket(plain, server_side=True).close()
                except OSError:
                    plain.close()

        threading.Thread(target=shake, daemon=True).start()
        await self.fails("speaks no TLS 1.3; turn it on there")

    async def test_a_plain_manager_and_a_plain_link_are_told_apart(self) -> None:
        self.there()
        await self.fails("speaks no TLS")
        self.away()
        self.there(credentials=self.credentials())
        link = self.link()
        await self.until(lambda: "wants TLS" in link.state.last_error, "it says what to write")

    async def test_renewed_files_are_taken_without_a_failed_call(self) -> None:
        self.there(credentials=self.credentials())
        link = self.link(self.config(tls=self.tls()))
        await self.until(lambda: link.state.connected, "connected")
        first = link._channel.calls
        (self.folder / "own.key").write_bytes(b"-----BEGIN PRIVATE KEY-----\nhalf")
        look = link._channel._look  # what the timer does every half minute
        await self.until(lambda: [look(), "before stays in use" in link.state.last_error][1], "noted")
        await self.measure(2)
        self.own.write(self.folder, "own")  # the old pair is back: nothing new, and no more to complain of
        await self.until(lambda: [look(), link.state.last_error == ""][1], "well again")
        self.assertIs(link._channel.calls, first)
        Cert("node-7", self.ca, days=200).write(self.folder, "own")
        await self.until(lambda: [look(), link._channel.calls is not first][1], "a new channel")
        await self.measure(4)
        await self.until(lambda: link.state.delivered == 6, "reports arrive")
        self.assertEqual((link.state.failures_total, link.state.connects_total), (0, 1))
        self.assertEqual(link.state.last_error, "")
        self.assertGreater(link.state.certificate_not_after or 0, time.time() + 190 * 86400)

    async def test_a_reload_that_leaves_a_certificate_leaves_its_expiry_alert(self) -> None:
        self.there(credentials=self.credentials())
        Cert("node-7", self.ca, days=3).write(self.folder, "own")
        link = self.link(self.config(tls=self.tls()))
        await self.until(lambda: ("", EXPIRY_ALERT) in self.alerts.standing, "it ends soon")
        link.apply(self.config())
        self.assertNotIn(("", EXPIRY_ALERT), self.alerts.standing)

    async def test_a_reload_turns_tls_on(self) -> None:
        self.there(credentials=self.credentials())
        link = self.link()
        await self.until(lambda: link.state.last_error, "plain is refused")
        link.apply(replace(self.config(), tls=self.tls()))
        await self.until(lambda: link.state.connected, "connected")


class ContractTest(LinkCase):
    """The Manager in place answers as the real one does."""

    async def test_kinds_are_the_same_over_the_wire(self) -> None:
        self.there()
        real = ManagerChannel(REACTOR, self.config(), None)
        self.addCleanup(real.close)
        fake = InPlace(self.manager, Clock())(self.config(), None)
        for refused, kind in (
            (Refused(Code.NOT_FOUND), FaultKind.UNKNOWN_NODE), (Refused(Code.INVALID_ARGUMENT), FaultKind.INVALID),
            (Refused(Code.RESOURCE_EXHAUSTED, "x", 2.5), FaultKind.BUSY), (Refused(Code.INTERNAL), FaultKind.FAULT),
            (Refused(Code.UNIMPLEMENTED), FaultKind.NOT_OFFERED), (None, FaultKind.REFUSED),
        ):
            self.manager.calm()
            if refused is None:
                self.manager.unwilling.add(REPORT)
            else:
                self.manager.refusing[REPORT] = refused
            for calls in (real, fake):
                with self.assertRaises(CallFailed) as caught:
                    await calls.report(NODE, [])
                self.assertEqual(caught.exception.kind, kind)
                self.assertEqual(caught.exception.retry_after_s, refused.retry_s if refused else 0.0)
        self.manager.calm()
        self.manager.known.clear()
        for calls in (real, fake):
            with self.assertRaises(CallFailed) as caught:
                await calls.heartbeat(NODE, 1.0)
            self.assertEqual(caught.exception.kind, FaultKind.UNKNOWN_NODE)
