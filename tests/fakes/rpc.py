"""What the tests of the gRPC server share: control over the laboratory's agents, a history, a configuration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from daemon.collectors.manager import CollectorManager
from daemon.control.control import Control, NodeSettings
from daemon.control.node import NodeFacts
from daemon.errors import DaemonError, RequestError, RequestFault
from daemon.events.bus import EventBus
from daemon.model.event import Event
from daemon.model.usage import UsagePoint
from daemon.updater.manager import UpdateManager
from tests.fakes.lab import Lab
from tests.fakes.updates import FakeTarget, FakeTargets, UpdateRoom

FACTS = NodeFacts(node_id="node-1", hostname="host7.example.org", ip="192.0.2.7", os="linux", arch="amd64")
EFFECTIVE = {"daemon": {"id": "", "work_dir": "/var/lib/daemon"}, "agents": [{"id": "web", "umask": "022"}]}


class FakeRecords:
    """Histories a test writes.

    Attributes:
        points: by agent; agents without one are unknown.
        asked: duration and step of every question.
        failing: raised in place of an answer when set.
    """

    def __init__(self) -> None:
        self.points: dict[str, tuple[UsagePoint, ...]] = {}
        self.asked: list[tuple[int, int]] = []
        self.failing: DaemonError | None = None

    async def usage(self, agent_id: str, duration_s: int = 0, step_s: int = 0) -> tuple[UsagePoint, ...]:
        """See Records."""
        if agent_id not in self.points:
            raise RequestError(RequestFault.UNKNOWN, f"no agent {agent_id!r}")
        if self.failing is not None:
            raise self.failing
        self.asked.append((duration_s, step_s))
        points = self.points[agent_id]
        return points[:: step_s] if step_s else points

    def latest(self, _agent_id: str) -> None:
        """See Records."""
        return


class RpcRoom:
    """Control, records and configuration of a daemon on the laboratory's host.

    Attributes:
        events: what was published, the newest last.
        effective: what GetConfig shows.
    """

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        life = lab.life
        self.bus = EventBus(lab.wall)
        self.records = FakeRecords()
        self.effective: Mapping[str, Any] = EFFECTIVE
        self.targets = tuple(FakeTarget(agent.agent_id) for agent in life.manager.registry.list())
        self.updates = UpdateManager(
            UpdateRoom(life.work_dir / "updates", wall=lab.wall).tools, FakeTargets(*self.targets)
        )
        self.updates.recall()
        self.updates.startService()
        self.control = Control(
            agents=life.manager, world=life.world,
            collectors=CollectorManager(lab.clock, life.threads, lab.wall, self.bus, ()),
            bus=self.bus, facts=FACTS,
            settings=NodeSettings(
                labels={}, work_dir=str(life.work_dir), heartbeat_socket="", control_socket="",
                manager_address="", started_at=lab.wall(),
            ),
            records=cast(Any, self.records), config=cast(Any, None), updates=self.updates, checks={},
        )

    def calls(self) -> list[Event]:
        """The events of the audit."""
        return [event for event in self.bus.latest(512) if event.type == "grpc.call"]
