"""What the tests of the real Manager share: one on loopback, daemons' stubs, and clients of its API."""

from __future__ import annotations

import http.client
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any, cast

import grpc
import msgspec
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import TestCase

from daemon.aio.logsink import LogSink
from daemon.durable.lock import DirectoryLock
from daemon.manager.config import ManagerConfig
from daemon.manager.load import LoadedConfig
from daemon.manager.service import HostManager
from daemon.rpc.pb import manager_pb2 as m
from daemon.rpc.pb.daemon_pb2_grpc import DaemonServiceStub
from daemon.rpc.pb.manager_pb2_grpc import ManagerServiceStub
from daemon.rpc.pb.reports_pb2_grpc import ReportsStub
from tests.fakes.ports import free_port

TIMEOUT_S = 10.0


class Client:
    """A daemon's stubs on a connection of its own."""

    def __init__(self, channel: grpc.Channel) -> None:
        self.channel = channel
        self.manager = ManagerServiceStub(channel)
        self.daemon = DaemonServiceStub(channel)
        self.reports = ReportsStub(channel)

    def register(self, node_id: str = "n1", **facts: Any) -> Any:
        """RegisterNode."""
        known: dict[str, Any] = {"hostname": "localhost", "ip": "127.0.0.1", "os": "linux", "arch": "amd64"}
        return self.manager.RegisterNode(m.RegisterNodeRequest(node_id=node_id, **known | facts), timeout=TIMEOUT_S)

    def beat(self, node_id: str = "n1") -> Any:
        """Heartbeat."""
        return self.manager.Heartbeat(m.HeartbeatRequest(node_id=node_id, timestamp=1), timeout=TIMEOUT_S)

    def report(self, *stamps: int, node_id: str = "n1") -> Any:
        """ReportMetrics with a sample for each time."""
        metrics = [m.MetricData(type="cpu", timestamp=at, values={"user": 1.5}) for at in stamps]
        return self.manager.ReportMetrics(m.ReportMetricsRequest(node_id=node_id, metrics=metrics), timeout=TIMEOUT_S)


def code_of(call: Any, *args: Any) -> tuple[str, str]:
    """How a call is refused: status and details."""
    try:
        answer = call(*args)
    except grpc.RpcError as error:
        return error.code().name, error.details()
    return "OK", str(answer)


class ManagerCase(TestCase):
    """A Manager on the real reactor, with its database in a folder that goes with the test."""

    timeout = 30

    def setUp(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="hd-manager-"))
        self.addCleanup(shutil.rmtree, self.folder)
        self.config = ManagerConfig(
            work_dir=str(self.folder), grpc_port=free_port(), http_port=free_port(), id="fleet"
        )
        self.channels: list[grpc.Channel] = []
        self.addCleanup(lambda: [channel.close() for channel in self.channels])

    def configure(self, **changes: Any) -> None:
        """Other keys, before the start."""
        self.config = msgspec.structs.replace(self.config, **changes)

    async def serve(self) -> HostManager:
        """A Manager that is ready."""
        loaded = LoadedConfig(config=self.config, path=self.folder / "manager.yaml", warnings=())
        sink = LogSink("error", False, open(self.folder / "log", "ab", buffering=0))  # noqa: SIM115
        lock = DirectoryLock(self.folder)
        lock.acquire()
        manager = HostManager(loaded, reactor, sink, lock, leave=lambda _status: None)
        manager.startService()
        left: list[bool] = []

        async def leave() -> None:
            if not left:
                left.append(True)
                await manager.leave()
                lock.release()
                sink.close()

        self.leave = leave
        self.addCleanup(lambda: Deferred.fromCoroutine(leave()))
        await self.until(lambda: manager.rpc.listening and not manager.database.error, "the Manager")
        return manager

    def client(self, credentials: grpc.ChannelCredentials | None = None) -> Client:
        """A daemon."""
        options = [("grpc.use_local_subchannel_pool", 1)]
        address = f"localhost:{self.config.grpc_port}" if credentials else f"127.0.0.1:{self.config.grpc_port}"
        channel = (
            grpc.secure_channel(address, credentials, options=options) if credentials is not None
            else grpc.insecure_channel(address, options=options)
        )
        self.channels.append(channel)
        return Client(channel)

    def call(self, work: Any, *args: Any, **kwargs: Any) -> Deferred[Any]:
        """A blocking call, in a thread."""
        return deferToThread(work, *args, **kwargs)

    def get(self, path: str) -> Deferred[Any]:
        """GET: the JSON."""
        return deferToThread(lambda: self._ask("GET", path)[1])

    def post(self, path: str) -> Deferred[tuple[int, Any]]:
        """POST with the token: status and JSON."""
        return deferToThread(self._ask, "POST", path)

    def _ask(self, method: str, path: str) -> tuple[int, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.config.http_port, timeout=TIMEOUT_S)
        try:
            token = (self.folder / "api.token").read_text().strip()
            connection.request(method, path, headers={"Authorization": f"Bearer {token}"})
            response = connection.getresponse()
            return response.status, json.loads(response.read())
        finally:
            connection.close()

    async def until(self, check: Any, what: str) -> None:
        """Polls until it holds."""
        for _ in range(500):
            if check():
                return
            await deferLater(cast(Any, reactor), 0.01, lambda: None)
        raise AssertionError(f"waited in vain for {what}")
