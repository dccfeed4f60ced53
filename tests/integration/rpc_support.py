"""What the tests of the real gRPC server share: a server over the laboratory's agents, real channels."""

from __future__ import annotations

import shutil
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import grpc
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from grpc_status import rpc_status
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import LoopingCall, deferLater
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import TestCase

from daemon.aio.threads import ThreadLanes
from daemon.config.schema import DaemonConfig, GrpcConfig, GrpcTlsConfig
from daemon.rpc.pb import daemon_pb2 as pb
from daemon.rpc.pb.daemon_pb2_grpc import DaemonServiceStub
from daemon.rpc.server import GrpcServer
from tests.fakes.lab import Lab
from tests.fakes.ports import free_port
from tests.fakes.rpc import FACTS, RpcRoom
from tests.fakes.rpc_certs import Cert
from tests.fakes.supervised import FakeAlerts

TIMEOUT_S = 10.0
SPEED = 20.0  # the laboratory's seconds per second


def reason_of(error: grpc.RpcError) -> tuple[str, str]:
    """Domain and reason of an error's ErrorInfo."""
    for detail in rpc_status.from_call(error).details:
        info = ErrorInfo()
        if detail.Unpack(info):
            return info.domain, info.reason
    raise AssertionError("no ErrorInfo")


def retry_after(error: grpc.RpcError) -> int:
    """Seconds of an error's RetryInfo."""
    for detail in rpc_status.from_call(error).details:
        info = RetryInfo()
        if detail.Unpack(info):
            return int(info.retry_delay.seconds)
    raise AssertionError("no RetryInfo")


class RpcCase(TestCase):
    """A laboratory whose time runs fast, a server on the real reactor, clients in threads."""

    timeout = 30

    def setUp(self) -> None:
        self.lab = Lab()
        self.addCleanup(self.lab.close)
        self.prepare()
        self.lab.boot()
        self.lab.run(2)
        self.room = RpcRoom(self.lab)
        self.alerts = FakeAlerts()
        self.threads = ThreadLanes(cast(Any, reactor))
        self.addCleanup(lambda: Deferred.fromCoroutine(self.threads.stop(2.0)))
        self.folder = Path(tempfile.mkdtemp(prefix="hd-rpc-"))
        self.addCleanup(shutil.rmtree, self.folder)
        time = LoopingCall(lambda: self.lab.clock.advance(SPEED * 0.01))
        time.start(0.01)
        self.addCleanup(time.stop)
        self.port = free_port()
        self.channels: list[grpc.Channel] = []
        self.addCleanup(lambda: [channel.close() for channel in self.channels])

    def prepare(self) -> None:
        """The agents: one that runs."""
        self.lab.spec("web")

    async def serve(self, grpc_config: GrpcConfig | None = None, **how: Any) -> GrpcServer:
        """A server that listens."""
        server = self.make(grpc_config, **how)
        await server.open()
        return server

    def make(self, grpc_config: GrpcConfig | None = None, *, host: str = "127.0.0.1", **how: Any) -> GrpcServer:
        """A server, not opened."""
        config = DaemonConfig(grpc_host=host, grpc_port=self.port, grpc=grpc_config or GrpcConfig())
        server = GrpcServer(
            cast(Any, reactor), self.room.control, cast(Any, self.room.records), FACTS,
            lambda: self.room.effective, config, self.room.bus, self.alerts, threads=self.threads, **how,
        )
        server.startService()
        self.addCleanup(server.stopService)
        self.lab.life.hears = lambda _agent_id: server.agents_changed()
        return server

    # ------------------------------------------------------------------ clients

    def channel(self, credentials: grpc.ChannelCredentials | None = None, **options: Any) -> grpc.Channel:
        """A channel of its own connection."""
        said = [("grpc.use_local_subchannel_pool", 1), *options.items()]
        address = f"localhost:{self.port}" if credentials is not None else f"127.0.0.1:{self.port}"
        found = (
            grpc.secure_channel(address, credentials, options=said) if credentials is not None
            else grpc.insecure_channel(address, options=said)
        )
        self.channels.append(found)
        return found

    def ask(self, method: Callable[..., Any], request: Any = None, timeout: float = TIMEOUT_S) -> Deferred[Any]:
        """One call from a thread: the reactor answers meanwhile."""
        asked = pb.ListAgentsRequest() if request is None else request
        return deferToThread(method, asked, timeout=timeout)

    async def refused(self, method: Callable[..., Any], request: Any = None, timeout: float = TIMEOUT_S) -> grpc.RpcError:
        """The call fails; its error."""
        try:
            answer = await self.ask(method, request, timeout)
        except grpc.RpcError as error:
            return error
        raise AssertionError(f"it was answered: {answer}")

    def stub(self, channel: grpc.Channel | None = None) -> Any:
        """A stub of DaemonService."""
        return DaemonServiceStub(channel or self.channel())

    async def until(self, check: Callable[[], Any], what: str) -> None:
        """Polls until it holds."""
        for _ in range(500):
            if check():
                return
            await deferLater(cast(Any, reactor), 0.01, lambda: None)
        raise AssertionError(f"waited in vain for {what}")


class Many:
    """So many threads that do the same at the same time."""

    def __init__(self, count: int, work: Callable[[int], Any]) -> None:
        self.results: list[Any] = [None] * count
        self._begin = threading.Barrier(count)
        self._work = work
        self._threads = [threading.Thread(target=self._run, args=(n,), daemon=True) for n in range(count)]

    def _run(self, number: int) -> None:
        self._begin.wait()
        try:
            self.results[number] = self._work(number)
        except Exception as error:
            self.results[number] = error

    def run(self) -> list[Any]:
        """All of them, to the end; call it in a thread."""
        for thread in self._threads:
            thread.start()
        for thread in self._threads:
            thread.join()
        return self.results


class Pki:
    """An authority, a server and a client of it, and their files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ca = Cert("test authority", ca=True)
        self.ca_file = folder / "ca.pem"
        self.ca_file.write_bytes(self.ca.pem)
        self.client = Cert("manager.example.org", self.ca)
        self.renew()

    def renew(self, days: float = 90) -> Cert:
        """A new certificate for the server."""
        self.server = Cert("node-1", self.ca, dns=("localhost", "127.0.0.1"), days=days)
        self.cert_file, self.key_file = self.server.write(self.folder, "server")
        return self.server

    def config(self, **more: Any) -> GrpcConfig:
        """Mutual TLS by these files."""
        tls = GrpcTlsConfig(cert_file=self.cert_file, key_file=self.key_file, ca_file=str(self.ca_file))
        return GrpcConfig(tls=tls, **more)

    def credentials(self, client: Cert | None = None, *, bare: bool = False) -> grpc.ChannelCredentials:
        """A client's; ``bare`` shows no certificate."""
        who = client or self.client
        if bare:
            return grpc.ssl_channel_credentials(self.ca.pem)
        return grpc.ssl_channel_credentials(self.ca.pem, who.key_pem(), who.pem)


@contextmanager
def unanswered(port: int) -> Iterator[socket.socket]:
    """A TCP connection that speaks HTTP/2 just so far: preface and settings."""
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\x00\x00\x00\x04\x00\x00\x00\x00\x00")
        yield client
