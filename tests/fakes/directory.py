"""Agents and processes as the heartbeat receivers see them, without any process."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from daemon.heartbeat.peer import PeerCredentials
from daemon.model.event import Severity
from daemon.model.heartbeat import Heartbeat


class FakeTarget:
    """One agent: it owns the pids it was given and keeps what it is told.

    Attributes:
        agent_id: its id.
        pids: its live processes; a test adds and removes them.
        beats: what was recorded, in order.
        failing: raised by ``record`` when set.
        questions: how often ``owns`` was asked.
    """

    def __init__(self, agent_id: str, *pids: int) -> None:
        self.agent_id = agent_id
        self.pids = set(pids)
        self.beats: list[Heartbeat] = []
        self.failing: Exception | None = None
        self.questions = 0

    def owns(self, pid: int) -> bool:
        """See HeartbeatTarget."""
        self.questions += 1
        return pid in self.pids

    def record(self, beat: Heartbeat) -> None:
        """See HeartbeatTarget."""
        if self.failing is not None:
            raise self.failing
        self.beats.append(beat)


class FakeDirectory:
    """The agents of one host.

    Attributes:
        agents: by id; a test changes it as reloads and restarts would.
        questions: how often ``owner_of`` was asked.
    """

    def __init__(self, *targets: FakeTarget) -> None:
        self.agents = {target.agent_id: target for target in targets}
        self.questions = 0

    def find(self, agent_id: str) -> FakeTarget | None:
        """See AgentDirectory."""
        return self.agents.get(agent_id)

    def owner_of(self, pid: int) -> FakeTarget | None:
        """See AgentDirectory."""
        self.questions += 1
        return next((target for target in self.agents.values() if pid in target.pids), None)


@dataclass
class FakePeer:
    """A process that connected; ``gone`` = it ended and its pid may be anybody's."""

    pid: int
    uid: int = 1000
    gone: bool = False

    @property
    def credentials(self) -> PeerCredentials:
        """See Peer."""
        return PeerCredentials(pid=self.pid, uid=self.uid, gid=self.uid)

    def holds_pid(self) -> bool:
        """See Peer."""
        return not self.gone


@dataclass(frozen=True)
class Published:
    """One event."""

    type: str
    message: str
    severity: Severity
    agent_id: str
    data: Mapping[str, Any]


@dataclass
class FakeEvents:
    """An EventSink that keeps what it is told."""

    published: list[Published] = field(default_factory=list)
    watcher: Callable[[Published], None] | None = None

    def publish(
        self,
        type: str,
        message: str,
        *,
        severity: Severity = Severity.INFO,
        agent_id: str = "",
        data: Mapping[str, Any] | None = None,
    ) -> None:
        """See EventSink."""
        event = Published(type, message, severity, agent_id, dict(data or {}))
        self.published.append(event)
        if self.watcher is not None:
            self.watcher(event)
