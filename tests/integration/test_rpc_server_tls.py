"""Mutual TLS of the gRPC server: who gets in, which version, and certificates renewed under load."""

from __future__ import annotations

import socket
import ssl
import threading
from pathlib import Path
from typing import Any

import grpc
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread
from twisted.logger import globalLogPublisher

from daemon.config.schema import GrpcConfig, GrpcTlsConfig
from daemon.model.event import Severity
from daemon.rpc.pb import daemon_pb2 as pb
from daemon.rpc.pb.daemon_pb2_grpc import DaemonServiceStub
from daemon.rpc.tls import client_credentials, load_identity
from tests.fakes.rpc_certs import Cert
from tests.integration.rpc_support import Pki, RpcCase, reason_of

Code = grpc.StatusCode
DAY_S = 86400.0


class TlsTest(RpcCase):
    def setUp(self) -> None:
        super().setUp()
        self.pki = Pki(self.folder)

    def secure(self, credentials: grpc.ChannelCredentials | None = None) -> grpc.Channel:
        return self.channel(credentials or self.pki.credentials())

    async def turned_away(self, credentials: grpc.ChannelCredentials) -> None:
        error = await self.refused(self.stub(self.secure(credentials)).ListAgents, timeout=3)
        self.assertIs(error.code(), Code.UNAVAILABLE)

    def handshake(self, version: ssl.TLSVersion) -> tuple[str, bytes]:
        """A handshake with one version of TLS: the version spoken and the server's certificate."""
        context = ssl.create_default_context(cadata=self.pki.ca.pem.decode())
        context.minimum_version = context.maximum_version = version
        context.set_alpn_protocols(["h2"])
        context.load_cert_chain(*self.pki.client.write(self.folder, "client"))
        with socket.create_connection(("127.0.0.1", self.port), timeout=5) as plain, \
                context.wrap_socket(plain, server_hostname="localhost") as client:
            client.recv(1)
            return client.version() or "", client.getpeercert(binary_form=True) or b""

    async def test_a_client_of_the_authority_is_served(self) -> None:
        server = await self.serve(self.pki.config())
        self.assertTrue((await self.ask(self.stub(self.secure()).ListAgents)).agents)
        self.assertIn("mutual TLS 1.3", server.listening)
        self.assertAlmostEqual(server.certificate_not_after or 0, self.pki.server.certificate.not_valid_after_utc.timestamp())
        self.assertEqual(self.alerts.told, [])

    async def test_the_operator_of_a_change_is_named_by_his_certificate(self) -> None:
        await self.serve(self.pki.config())
        await self.ask(
            self.stub(self.secure()).OperateAgent, pb.AgentOperationRequest(agent_id="web", operation="restart")
        )
        (event,) = self.room.calls()
        self.assertEqual(event.data["peer"], "manager.example.org at 127.0.0.1")

    async def test_strangers_are_turned_away_and_the_others_served(self) -> None:
        server = await self.serve(self.pki.config())
        foreign = Cert("foreign authority", ca=True)
        posing = Cert("test authority", ca=True)  # the right name, another key
        for client in (
            Cert("manager.example.org", foreign), Cert("manager.example.org", posing),
            Cert("manager.example.org"), Cert("old", self.pki.ca, days=-1),
        ):
            await self.turned_away(self.pki.credentials(client))
        await self.turned_away(self.pki.credentials(bare=True))
        self.assertEqual(server.stats().calls_total, {})
        self.assertGreaterEqual(server.stats().handshakes_total, 5)
        self.assertTrue((await self.ask(self.stub(self.secure()).ListAgents)).agents)

    async def test_plain_text_is_not_spoken(self) -> None:
        await self.serve(self.pki.config())
        error = await self.refused(self.stub(self.channel()).ListAgents, timeout=3)
        self.assertIs(error.code(), Code.UNAVAILABLE)

    async def test_tls_1_3_is_the_only_version(self) -> None:
        await self.serve(self.pki.config())
        version, _ = await deferToThread(self.handshake, ssl.TLSVersion.TLSv1_3)
        self.assertEqual(version, "TLSv1.3")
        with self.assertRaises((ssl.SSLError, ConnectionError)):
            await deferToThread(self.handshake, ssl.TLSVersion.TLSv1_2)

    async def test_names_that_are_not_listed_are_refused_and_logged_once(self) -> None:
        config = self.pki.config(allowed_clients=("MANAGER.example.org", "spiffe://fleet/manager", "10.0.0.7"))
        await self.serve(config)
        ca = self.pki.ca
        for client in (
            Cert("manager.example.org", ca), Cert("other", ca, dns=("spiffe://fleet/manager",)),
            Cert("", ca, dns=("10.0.0.7",)),
        ):
            self.assertTrue((await self.ask(self.stub(self.secure(self.pki.credentials(client))).ListAgents)).agents)
        logged: list[str] = []

        def observe(event: Any) -> None:
            if "was refused" in (event.get("log_format") or ""):
                logged.append(event["peer"])

        globalLogPublisher.addObserver(observe)
        self.addCleanup(globalLogPublisher.removeObserver, observe)
        for client in (
            Cert("evil", ca), Cert("manager.example.org.evil", ca, dns=("x.manager.example.org",)), Cert("", ca),
        ):
            stub = self.stub(self.secure(self.pki.credentials(client)))
            requests: list[tuple[Any, Any]] = [
                (stub.ListAgents, None), (stub.GetConfig, pb.ConfigRequest(config_type="daemon")),
                (stub.OperateAgent, pb.AgentOperationRequest(agent_id="web", operation="stop")),
            ]
            for method, request in requests:
                error = await self.refused(method, request)
                self.assertEqual((error.code(), reason_of(error)), (Code.PERMISSION_DENIED, ("hostdaemon", "FORBIDDEN")))
        self.assertEqual(logged, ["evil at 127.0.0.1", "manager.example.org.evil at 127.0.0.1", "127.0.0.1"])
        self.assertEqual(self.lab.life.agent("web").state.value, "running")
        health = await self.refused(self.secure(self.pki.credentials(Cert("evil", ca))).unary_unary("/grpc.health.v1.Health/Check"), b"")
        self.assertIs(health.code(), Code.PERMISSION_DENIED)

    async def test_files_renewed_under_load_fail_no_call_and_serve_the_next_handshake(self) -> None:
        server = await self.serve(self.pki.config())
        done = threading.Event()
        channel, failures, calls = self.secure(), [], [0]

        def load(fresh: bool) -> None:
            stub = DaemonServiceStub(channel)
            while not done.is_set():
                try:
                    if fresh:  # a handshake for each
                        with grpc.secure_channel(
                            f"localhost:{self.port}", self.pki.credentials(),
                            options=[("grpc.use_local_subchannel_pool", 1)],
                        ) as own:
                            DaemonServiceStub(own).ListAgents(pb.ListAgentsRequest(), timeout=10)
                    else:
                        stub.ListAgents(pb.ListAgentsRequest(), timeout=10)
                    calls[0] += 1
                except grpc.RpcError as error:
                    failures.append(error)

        threads = [threading.Thread(target=load, args=(n % 2 == 0,), daemon=True) for n in range(4)]
        for thread in threads:
            thread.start()
        for days in (60, 70, 80):
            await self.until(lambda seen=calls[0]: calls[0] > seen + 20, "calls")
            renewed = self.pki.renew(days)
            _, certificate = await deferToThread(self.handshake, ssl.TLSVersion.TLSv1_3)
            self.assertEqual(ssl.DER_cert_to_PEM_cert(certificate).encode(), renewed.pem)
        done.set()
        await deferToThread(lambda: [thread.join() for thread in threads])
        self.assertEqual(failures, [])
        ends = renewed.certificate.not_valid_after_utc.timestamp()
        await self.until(lambda: server.certificate_not_after == ends, "the new end")

    async def test_the_authority_is_renewed_without_a_restart(self) -> None:
        await self.serve(self.pki.config())
        successor = Cert("next authority", ca=True)
        client = Cert("manager.example.org", successor)
        await self.turned_away(self.pki.credentials(client))
        self.pki.ca_file.write_bytes(self.pki.ca.pem + successor.pem)
        for who in (client, self.pki.client):
            self.assertTrue((await self.ask(self.stub(self.secure(self.pki.credentials(who))).ListAgents)).agents)

    async def test_half_written_files_leave_the_old_certificate_in_use(self) -> None:
        server = await self.serve(self.pki.config())
        good, first = Path(self.pki.cert_file).read_bytes(), self.pki.server
        for broken in (good[: len(good) // 2], b"", b"no PEM"):
            Path(self.pki.cert_file).write_bytes(broken)
            _, certificate = await deferToThread(self.handshake, ssl.TLSVersion.TLSv1_3)
            self.assertEqual(ssl.DER_cert_to_PEM_cert(certificate).encode(), first.pem)
        await self.until(lambda: ("", "certificate_files") in self.alerts.standing, "the alert")
        alert = self.alerts.standing["", "certificate_files"]
        self.assertIn("server.pem", alert.message)
        renewed = self.pki.renew()
        _, certificate = await deferToThread(self.handshake, ssl.TLSVersion.TLSv1_3)
        self.assertEqual(ssl.DER_cert_to_PEM_cert(certificate).encode(), renewed.pem)
        await self.until(lambda: ("", "certificate_files") not in self.alerts.standing, "its end")
        self.assertEqual(server.error, "")

    async def test_an_end_within_30_days_is_an_alert_until_it_is_renewed(self) -> None:
        self.pki.renew(days=20)
        server = await self.serve(self.pki.config())
        alert = self.alerts.standing["", "certificate_expiry"]
        self.assertIn("daemon.grpc.tls expires at", alert.message)
        self.assertEqual((round(alert.current_value or 0), alert.threshold), (20, 30.0))
        renewed = self.pki.renew()
        await Deferred.fromCoroutine(server._listener._identity.look_again())  # the daily look, no handshake needed
        self.assertEqual(self.alerts.standing, {})
        self.assertEqual(server.certificate_not_after, renewed.certificate.not_valid_after_utc.timestamp())
        _, certificate = await deferToThread(self.handshake, ssl.TLSVersion.TLSv1_3)
        self.assertEqual(ssl.DER_cert_to_PEM_cert(certificate).encode(), renewed.pem)

    async def test_wrong_files_are_told_and_gRPC_is_served_when_they_are_mended(self) -> None:
        missing = str(self.folder / "none.pem")
        expired = Cert("node-1", self.pki.ca, dns=("localhost",), days=-1).write(self.folder, "expired")
        good = self.pki.config().tls
        for tls, words in (
            (GrpcTlsConfig(cert_file=missing, key_file=good.key_file, ca_file=good.ca_file), "none.pem cannot be read"),
            (GrpcTlsConfig(cert_file=good.cert_file, key_file=expired[1], ca_file=good.ca_file), "does not belong"),
            (GrpcTlsConfig(cert_file=expired[0], key_file=expired[1], ca_file=good.ca_file), "expired at"),
        ):
            server = await self.serve(GrpcConfig(tls=tls))
            self.assertIn("D1003 daemon.grpc.tls: ", server.error)
            self.assertIn(words, server.error)
            self.assertEqual((server.listening, server.certificate_not_after), ("", None))
            alert = self.alerts.standing["", "grpc_not_listening"]
            self.assertEqual(alert.severity, Severity.ERROR)
            self.assertIn(words, alert.message)
            with self.assertRaises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", self.port), timeout=5).close()
            if tls.cert_file != expired[0]:
                await server.stopService()
        Cert("node-1", self.pki.ca, dns=("localhost",)).write(self.folder, "expired")
        look: Any = server._listener._look  # what the timer does every two seconds
        await self.until(lambda: [look(), server.listening][1], "gRPC to be served")
        self.assertEqual((server.error, self.alerts.standing), ("", {}))
        self.assertTrue((await self.ask(self.stub(self.secure()).ListAgents)).agents)

    async def test_our_own_client_credentials_reach_it(self) -> None:
        await self.serve(self.pki.config())
        cert, key = self.pki.client.write(self.folder, "own")
        pem = load_identity(cert, key, str(self.pki.ca_file))
        self.assertTrue((await self.ask(self.stub(self.secure(client_credentials(pem))).ListAgents)).agents)
