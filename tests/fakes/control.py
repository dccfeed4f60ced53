"""A real Control over the laboratory's agents, and the real Site over a StringTransport."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Mapping
from http.client import HTTPResponse
from io import BytesIO
from typing import Any

from twisted.internet.address import IPv4Address
from twisted.internet.error import ConnectionDone
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from daemon.alerts.book import AlertBook
from daemon.collectors.manager import CollectorManager
from daemon.config.load import load
from daemon.config.schema import LogsConfig
from daemon.control.config_manager import ConfigManager
from daemon.control.control import Control, NodeSettings
from daemon.control.node import NodeFacts
from daemon.control.records import Records
from daemon.events.bus import EventBus
from daemon.heartbeat.http_receiver import HTTPHeartbeatReceiver
from daemon.logs.manager import LogManager
from daemon.model.agent import Identity
from daemon.model.metrics import Metrics
from daemon.model.usage import Usage
from daemon.resources.history import History
from daemon.resources.host import HostHistory
from daemon.resources.monitor import ResourceMonitor
from daemon.updater.manager import UpdateManager
from daemon.web.api import Api
from daemon.web.exposition import DaemonMetrics
from daemon.web.gate import Gate
from daemon.web.host_families import HostMetrics
from daemon.web.names import names_of_host
from daemon.web.room import Room
from daemon.web.scrape import Exposition
from daemon.web.site import CountedChannel, QuietSite
from daemon.web.updates import body_max
from tests.fakes.lab import Lab
from tests.fakes.notify import FakeNotifier
from tests.fakes.updates import FakeTarget, FakeTargets, UpdateRoom

TOKEN = "f" * 64
FACTS = NodeFacts(node_id="node-1", hostname="Host7.example.org", ip="192.0.2.7", os="linux", arch="amd64")


class FakeCollector:
    """A collector of one sample after another; an exception in their place fails that round."""

    interval_s = 60.0
    timeout_s = 10.0

    def __init__(self, name: str, *rounds: Mapping[str, Any] | Exception) -> None:
        self.name = name
        self.rounds = list(rounds)

    def collect(self) -> Metrics | Awaitable[Metrics]:
        """See Collector."""
        values = self.rounds.pop(0) if len(self.rounds) > 1 else self.rounds[0]
        if isinstance(values, Exception):
            raise values
        return Metrics(name=self.name, timestamp=1_700_000_000.5, values=values)


class FakeMeter:
    """Reads what a test says an agent uses, by the pid of its leader."""

    def __init__(self, used: Mapping[int, Usage], leader: Identity) -> None:
        self._used = used
        self._pid = leader.pid

    def full(self, now_s: float) -> Usage | None:
        """See daemon.resources.monitor.Meter."""
        return self._used.get(self._pid, Usage(cpu_percent=None, rss_bytes=1_000_000))


class Rig:
    """A daemon without a socket: the laboratory, control, receivers and routes.

    Attributes:
        lab: agents and their processes; call ``lab.boot()`` before the rig is made.
        failing: readiness checks that fail, by name.
    """

    def __init__(self, lab: Lab, *, collectors: tuple[FakeCollector, ...] = ()) -> None:
        self.lab = lab
        self.failing: dict[str, str] = {}
        life = lab.life
        self.bus = EventBus(lab.wall)
        self.collectors = CollectorManager(lab.clock, life.threads, lab.wall, self.bus, collectors)
        self.alerts = AlertBook(lab.wall, self.bus)
        self.notifier = FakeNotifier()
        self.used: dict[int, Usage] = {}
        self.resources = ResourceMonitor(
            life.clock, lab.wall, life.threads, life.manager, lambda leader, _age: FakeMeter(self.used, leader),
            History(life.work_dir / "state" / "resources"), self.bus, self.alerts,
        )
        self.host_history = HostHistory(
            life.work_dir / "state" / "host.ring", life.clock, lab.wall, life.threads, self.collectors.get_latest,
            self.bus, self.alerts,
        )
        self.logs = LogManager(
            life.work_dir / "logs", life.clock, lab.wall, life.threads, self.notifier, self.bus, self.alerts,
            lambda agent_id: (),
        )
        self.config_file = lab.root / "daemon.yaml"
        if not self.config_file.exists():
            self.config_file.write_text(f"daemon: {{work_dir: {life.work_dir}}}\n")
        self.config = ConfigManager(
            load(self.config_file), load, life.threads, lab.wall, self.bus, self.alerts,
            life.work_dir / "state" / "last-good.yaml",
        )
        ids = [agent.agent_id for agent in life.manager.registry.list()]
        self.resources.apply(self.config.in_force.resources, ids)
        self.logs.apply(dict.fromkeys(ids, LogsConfig()))
        self.updates = UpdateRoom(life.work_dir / "updates", wall=lab.wall)
        self.targets = tuple(FakeTarget(agent_id) for agent_id in ids)
        self.update_manager = UpdateManager(self.updates.tools, FakeTargets(*self.targets))
        self.update_manager.recall()
        self.update_manager.startService()
        self.control = Control(
            agents=life.manager, world=life.world, collectors=self.collectors, bus=self.bus, facts=FACTS,
            settings=NodeSettings(
                labels={"rack": "7"}, work_dir=str(life.work_dir),
                heartbeat_socket="/run/hb.sock", control_socket="/run/control.sock",
                manager_address="", started_at=lab.wall(),
            ),
            records=Records(life.manager.registry, self.resources, self.host_history, self.logs, self.alerts),
            config=self.config,
            updates=self.update_manager,
            checks={
                "config": lambda: self.failing.get("config", ""),
                "agents": lambda: self.failing.get("agents", ""),
            },
        )
        self.heartbeats = HTTPHeartbeatReceiver(lab.clock, lab.wall, life.manager, queue_size=2, workers=1)
        self.heartbeats.startService()
        exposition = Exposition(DaemonMetrics(self.control, lab.clock.seconds))
        host = Exposition(HostMetrics(self.collectors, lab.wall), process=False)
        self.api = Api(lab.clock, self.control, self.heartbeats, exposition, host, life.threads)
        self.packages = Room()
        self.channels: set[CountedChannel] = set()

    def connect(
        self, *, local: bool = False, peer: str | None = "", transport: StringTransport | None = None
    ) -> Connection:
        """A client connects; ``peer`` None is turned away at the door."""
        gate = Gate(
            self.api.app.resource(), token=TOKEN, our_names=names_of_host(FACTS.hostname, "127.0.0.1"),
            local=local,
            heartbeat_refusal=lambda status, message: self.heartbeats.refuse(status, message).body(),
            package_max=lambda: body_max(self.updates.config.max_inline_size), room=self.packages,
        )
        site = QuietSite(gate, self.channels, lambda _transport: peer, self.lab.clock, gate.body_room)
        return Connection(self, site.buildProtocol(None), transport or LenientTransport())


class LenientTransport(StringTransport):
    """As lenient about producers after the end as TCP's own transport."""

    def __init__(self) -> None:
        super().__init__(lenient=True)  # type: ignore[no-untyped-call]  # Twisted's is untyped

    def unregisterProducer(self) -> None:
        """See IConsumer."""
        if self.producer is not None:
            super().unregisterProducer()  # type: ignore[no-untyped-call]  # Twisted's is untyped


class Answer:
    """One answer, read to its end."""

    def __init__(self, response: HTTPResponse, body: bytes) -> None:
        self.status = response.status
        self.headers = {name.lower(): value for name, value in response.getheaders()}
        self.body = body

    @property
    def type(self) -> str:
        """Its content type."""
        return self.headers.get("content-type", "")

    @property
    def json(self) -> Any:
        """Its body as JSON."""
        return json.loads(self.body)


class Connection:
    """One client of the Site."""

    def __init__(self, rig: Rig, channel: CountedChannel, transport: StringTransport) -> None:
        self.rig = rig
        self.channel = channel
        self.transport = transport
        transport.peerAddr = IPv4Address("TCP", "127.0.0.1", 40001)
        transport.hostAddr = IPv4Address("TCP", "127.0.0.1", 8084)
        channel.makeConnection(transport)

    def send(self, data: bytes) -> None:
        """Bytes as they come off the wire."""
        self.channel.dataReceived(data)
        self.rig.lab.settle()

    @property
    def closing(self) -> bool:
        """Whether the server has ended the connection."""
        return self.transport.disconnecting or self.transport.disconnected

    def leave(self) -> None:
        """The client is gone."""
        self.channel.connectionLost(Failure(ConnectionDone()))

    def answers(self, *methods: str) -> list[Answer]:
        """All that was answered since the last call, one per method."""
        file = _Unclosing(self.transport.value())
        self.transport.clear()
        found = []
        for method in methods:
            response = HTTPResponse(_Socket(file), method=method)  # type: ignore[arg-type]  # makefile is all it uses
            response.begin()
            found.append(Answer(response, response.read()))
        rest = file.read()
        assert not rest, f"more than {len(methods)} answers: {rest!r}"
        return found

    def ask(
        self, method: str, target: str, *, body: bytes | None = None, token: str = "", host: str = "localhost:8084",
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """One request and its answer."""
        self.request(method, target, body=body, token=token, host=host, headers=headers)
        (answer,) = self.answers(method)
        return answer

    def request(
        self, method: str, target: str, *, body: bytes | None = None, token: str = "", host: str = "localhost:8084",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """One request, its answer left where it is."""
        lines = [f"{method} {target} HTTP/1.1"]
        if host:
            lines.append(f"Host: {host}")
        if token:
            lines.append(f"Authorization: Bearer {token}")
        if body is not None:
            lines.append(f"Content-Length: {len(body)}")
        lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
        self.send("\r\n".join(lines).encode("utf-8", "surrogateescape") + b"\r\n\r\n" + (body or b""))

    def get(self, target: str, **how: Any) -> Answer:
        """GET."""
        return self.ask("GET", target, **how)

    def post(self, target: str, **how: Any) -> Answer:
        """POST with the token."""
        return self.ask("POST", target, **{"token": TOKEN, "body": b""} | how)

    def streamed(self) -> bytes:
        """What has come so far of an answer that does not end, without head and chunk sizes."""
        head, _, rest = self.transport.value().partition(b"\r\n\r\n")
        assert b"transfer-encoding: chunked" in head.lower(), head
        body = b""
        while rest:
            size, _, rest = rest.partition(b"\r\n")
            length = int(size, 16)
            body += rest[:length]
            rest = rest[length + 2 :]
        return body


class _Unclosing(BytesIO):
    """Several answers share one file; HTTPResponse closes it after each."""

    def close(self) -> None:
        """Stays open."""


class _Socket:
    def __init__(self, file: BytesIO) -> None:
        self._file = file

    def makefile(self, _mode: str) -> BytesIO:
        return self._file


class RigCase(SynchronousTestCase):
    """A test with a rig; ``specs`` and ``collectors`` say of what."""

    collectors: tuple[FakeCollector, ...] = ()

    def setUp(self) -> None:
        self.lab = Lab()
        self.addCleanup(self.lab.close)
        self.prepare()
        self.lab.boot()
        self.lab.run(2)
        self.rig = Rig(self.lab, collectors=self.collectors)
        self.client = self.rig.connect()

    def prepare(self) -> None:
        """The agents: one that runs; others override."""
        self.lab.spec("web")

    def check_problem(self, answer: Answer, status: int, code: str | None, words: str = "") -> None:
        """The answer is a problem of ours and nothing else."""
        self.assertEqual(answer.status, status, answer.body)
        self.assertEqual(answer.type, "application/problem+json")
        self.assertEqual(set(answer.json), {"type", "title", "status", "detail", "code"})
        self.assertEqual((answer.json["status"], answer.json["code"]), (status, code))
        self.assertIn(words, answer.json["detail"])
        self.check_clean(answer)

    def check_clean(self, answer: Answer) -> None:
        """Neither a page nor a traceback."""
        text = answer.body.lower()
        self.assertNotIn(b"<html", text)
        self.assertNotIn(b"traceback", text)
        self.assertNotIn("html", answer.type)
