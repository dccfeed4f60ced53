"""What the tests of the Manager link share: a link on a Clock, collectors and agents a test writes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from daemon.config.schema import ManagerConfig
from daemon.control.node import NodeFacts
from daemon.events.bus import EventBus
from daemon.model.metrics import Metrics
from daemon.rpc.link_wire import WireState
from daemon.rpc.log_tap import LogTap
from daemon.rpc.manager_link import ManagerLink
from tests.fakes.rpc_manager import FakeManager, InPlace
from tests.fakes.supervised import FakeAlerts
from tests.fakes.threads import InlineThreads

NODE = "4c0a1c52-3f0e-4f0e-8a3b-0d3d0e2a9f11"
FACTS = NodeFacts(node_id=NODE, hostname="host7.example.org", ip="192.0.2.7", os="linux", arch="amd64")
WALL = 1_700_000_000.0


class FakeCollectors:
    """Collectors whose samples a test writes.

    Attributes:
        latest: by name.
    """

    def __init__(self) -> None:
        self.latest: dict[str, Metrics] = {}

    def sample(self, name: str, timestamp: float, **values: Any) -> None:
        """A new sample."""
        self.latest[name] = Metrics(name=name, timestamp=timestamp, values=values or {"usage_percent": 1.5})

    def get_latest(self) -> Mapping[str, Metrics]:
        """See CollectorManager."""
        return dict(self.latest)


class FakeAgents:
    """Agents, as the wire tells of them.

    Attributes:
        states: status by id.
    """

    def __init__(self) -> None:
        self.states: dict[str, str] = {}

    def all(self) -> list[WireState]:
        """All of them."""
        return [WireState(agent_id=name, status=status) for name, status in self.states.items()]


class OneThread(Clock):
    """A Clock that is a reactor, too: calls from threads come at once."""

    def callFromThread(self, call: Any, *args: Any, **kwargs: Any) -> None:
        """See ThreadReactor."""
        call(*args, **kwargs)


class LinkRoom:
    """A link, in place, and everything around it.

    Args:
        directory: of the queue.
        manager: another room's, or a new one.
    """

    def __init__(
        self, directory: Path, manager: FakeManager | None = None, *, clock: OneThread | None = None,
        config: ManagerConfig | None = None, **keys: Any,
    ) -> None:
        self.clock = clock or OneThread()
        self.manager = manager or FakeManager()
        self.threads = InlineThreads(self.clock)
        self.dial = InPlace(self.manager, self.clock)
        self.alerts = FakeAlerts()
        self.collectors = FakeCollectors()
        self.agents = FakeAgents()
        self.bus = EventBus(self.wall)
        self.tap = LogTap(self.wall)
        self.config = config or ManagerConfig(address="127.0.0.1:9090", **keys)
        self.link = ManagerLink(
            reactor=self.clock, clock=self.clock, threads=self.threads, wall=self.wall, config=self.config,
            facts=FACTS, labels={"site": "a"}, versions=lambda: ("2.0.0", "1.1.0"),
            collectors=self.collectors, states=self.agents.all, bus=self.bus, alerts=cast(Any, self.alerts),
            directory=directory, log_tap=self.tap, random_unit=lambda: 0.5, dial=cast(Any, self.dial),
        )

    def wall(self) -> float:
        """Wall time."""
        return WALL + self.clock.seconds()

    def run(self, seconds: float, step: float = 0.25) -> None:
        """Time passes."""
        for _ in range(int(seconds / step)):
            self.clock.advance(step)

    def measure(self, minutes: int) -> list[tuple[str, int]]:
        """So many minutes, in each of which two collectors take a sample; what they took."""
        taken = []
        for _ in range(minutes):
            for name in ("cpu", "memory"):
                self.collectors.sample(name, self.wall())
                taken.append((name, int(self.wall())))
            self.run(60, step=2.0)
        return taken

    def leave(self) -> Deferred[None]:
        """The link stops."""
        return self.link.stopService()
