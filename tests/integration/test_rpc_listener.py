"""A gRPC server whose certificates cannot be used: what it says, when it looks again, and that it ends well."""

from __future__ import annotations

import shutil
import socket
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from daemon.config.schema import GrpcTlsConfig
from daemon.errors import ListenError
from daemon.rpc.listener import AGAIN_S, LISTEN_ALERT, LOOK_S, Listening, RpcListener
from daemon.rpc.refusals import DAEMON_WORDS
from tests.fakes.directory import FakeEvents
from tests.fakes.ports import free_port
from tests.fakes.rpc_certs import DAY, Cert
from tests.fakes.supervised import FakeAlerts
from tests.fakes.threads import InlineThreads

DAY_S = DAY.total_seconds()


class Reactor(Clock):
    """Time of the test; what threads post runs at once."""

    def callFromThread(self, callable: Callable[..., Any], *args: Any, **kw: Any) -> None:
        """See IReactorFromThreads."""
        callable(*args, **kw)


class WaitingTest(SynchronousTestCase):
    def setUp(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="hd-listen-"))
        self.addCleanup(shutil.rmtree, self.folder)
        self.ca = Cert("authority", ca=True)
        (self.folder / "ca.pem").write_bytes(self.ca.pem)
        self.reactor, self.alerts = Reactor(), FakeAlerts()
        self.threads = InlineThreads(self.reactor)
        self.offset_s = 0.0
        self.port = free_port()

    def write(self, **how: Any) -> None:
        Cert("node-1", self.ca, dns=("localhost",), **how).write(self.folder, "own")

    def listener(self) -> RpcListener:
        tls = GrpcTlsConfig(
            cert_file=str(self.folder / "own.pem"), key_file=str(self.folder / "own.key"),
            ca_file=str(self.folder / "ca.pem"),
        )
        listening = Listening(
            program="daemon", host="127.0.0.1", port=self.port, tls=tls, allowed_clients=(), words=DAEMON_WORDS,
            message_max_bytes=65536,
        )
        made = RpcListener(
            self.reactor, listening, lambda _gate: {}, FakeEvents(), self.alerts, threads=self.threads,
            wall=lambda: time.time() + self.offset_s,
        )
        self.addCleanup(self.close, made)
        return made

    def opened(self) -> RpcListener:
        made = self.listener()
        self.successResultOf(Deferred.fromCoroutine(made.open()))
        return made

    def close(self, listener: RpcListener) -> None:
        self.successResultOf(Deferred.fromCoroutine(listener.close()))
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def reads(self) -> int:
        """How often the files were read, one look at the port before each."""
        return self.threads.calls.count("grpc")

    def test_files_are_read_again_when_they_change_and_every_half_minute(self) -> None:
        listener = self.opened()
        self.assertIn("D1003 daemon.grpc.tls: ", listener.error)
        before = self.reads()
        self.reactor.pump([LOOK_S] * 10)
        self.assertEqual(self.reads(), before)
        self.reactor.pump([LOOK_S] * 6)
        self.assertEqual(self.reads(), before + 1)
        for name in ("own.pem", "own.key"):
            (self.folder / name).write_bytes(b"half")
        self.reactor.advance(LOOK_S)
        self.assertEqual(self.reads(), before + 2)
        self.assertIn("holds no PEM", listener.error)
        self.assertIn("holds no PEM", self.alerts.standing["", LISTEN_ALERT].message)
        self.write()
        self.reactor.advance(LOOK_S)
        self.assertEqual((listener.error, self.alerts.standing), ("", {}))
        self.assertIn(f"127.0.0.1:{self.port} (mutual TLS 1.3)", listener.address)
        socket.create_connection(("127.0.0.1", self.port), timeout=5).close()
        before = self.reads()
        self.reactor.pump([AGAIN_S] * 3)
        self.assertEqual(self.reads(), before)  # it looks no more

    def test_a_certificate_that_becomes_valid_is_served_without_a_change_of_its_files(self) -> None:
        self.write(begins=1, days=60)
        listener = self.opened()
        self.assertIn("is valid only from", listener.error)
        self.offset_s = 2 * DAY_S
        self.reactor.pump([LOOK_S] * 16)
        self.assertEqual(listener.error, "")

    def test_a_port_that_was_taken_meanwhile_is_the_next_cause(self) -> None:
        listener = self.opened()
        self.write()
        with socket.create_server(("127.0.0.1", self.port)):
            self.reactor.advance(LOOK_S)
            self.assertIn("Address already in use", listener.error)
            self.assertIn("Address already in use", self.alerts.standing["", LISTEN_ALERT].message)
        self.reactor.pump([LOOK_S] * 16)
        self.assertEqual(listener.error, "")

    def test_a_port_that_is_taken_at_the_start_is_an_error_whatever_the_certificates(self) -> None:
        with socket.create_server(("127.0.0.1", self.port)):
            listener = self.listener()
            failed = self.failureResultOf(Deferred.fromCoroutine(listener.open()), ListenError)
        self.assertIn("Address already in use", str(failed.value))
        self.assertEqual(self.alerts.standing, {})

    def test_a_disk_that_hangs_holds_neither_the_start_nor_the_end(self) -> None:
        self.write()
        self.threads.hang("grpc-tls")
        listener = self.listener()
        opening = Deferred.fromCoroutine(listener.open())
        self.reactor.pump([1.0] * 25)
        self.successResultOf(opening)
        self.assertIn("check the disk they are on", listener.error)
        self.reactor.pump([LOOK_S] * 16)
        self.assertEqual(listener.address, "")

    def test_the_end_comes_in_the_middle_of_a_try(self) -> None:
        listener = self.opened()
        self.write()
        self.threads.hang("grpc-tls")
        self.reactor.advance(LOOK_S)
        self.successResultOf(Deferred.fromCoroutine(listener.close()))
        self.threads.release("grpc-tls")
        self.assertEqual((listener.address, listener.error), ("", "stopped"))
        with self.assertRaises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", self.port), timeout=5)
