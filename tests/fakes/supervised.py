"""Agents as health, resources and alerts see them, without any process."""

from __future__ import annotations

from dataclasses import dataclass, field

from daemon.model.agent import AgentState, Identity
from daemon.model.event import Severity
from daemon.model.health import HealthVerdict


@dataclass
class FakeAgent:
    """One agent; a test changes it as starts, heartbeats and exits would.

    Attributes:
        verdicts: what it was told, in order.
    """

    agent_id: str
    state: AgentState = AgentState.RUNNING
    identity: Identity | None = None
    started_mono: float | None = None
    heartbeat_mono: float | None = None
    heartbeat_at: float = 0.0
    ever_heartbeat: bool = False
    reported_cpu: float | None = None
    reported_memory: int | None = None
    verdicts: list[HealthVerdict] = field(default_factory=list)

    def runs(self, pid: int, started_mono: float) -> None:
        """A new process leads it."""
        self.state = AgentState.RUNNING
        self.identity = Identity(boot_id="boot", pid=pid, start_ticks=pid * 10)
        self.started_mono = started_mono

    def ends(self) -> None:
        """No process leads it."""
        self.state = AgentState.RESTARTING
        self.identity = self.started_mono = None

    def beats(self, mono: float) -> None:
        """A heartbeat came."""
        self.heartbeat_mono = mono
        self.heartbeat_at = 1_700_000_000.0 + mono
        self.ever_heartbeat = True

    def judge(self, verdict: HealthVerdict) -> None:
        """See SupervisedAgent."""
        self.verdicts.append(verdict)

    def restore_heartbeat(self, mono: float, at: float) -> None:
        """See SupervisedAgent."""
        if self.heartbeat_mono is None or mono > self.heartbeat_mono:
            self.heartbeat_mono, self.heartbeat_at = mono, at


@dataclass
class FakeRoster:
    """An AgentRoster of such agents."""

    agents: list[FakeAgent] = field(default_factory=list)

    def supervised(self) -> tuple[FakeAgent, ...]:
        """See AgentRoster."""
        return tuple(self.agents)


@dataclass(frozen=True)
class Told:
    """What an alert sink was told; ``cleared`` for the end of an alert."""

    type: str
    agent_id: str
    message: str
    cleared: bool = False
    severity: Severity = Severity.WARN
    current_value: float | None = None
    threshold: float | None = None


class FakeAlerts:
    """An AlertSink that keeps what it is told.

    Attributes:
        told: every call that changed something, in order.
        standing: the alerts that stand, by agent and type.
    """

    def __init__(self) -> None:
        self.told: list[Told] = []
        self.standing: dict[tuple[str, str], Told] = {}

    def raise_alert(
        self, type: str, message: str, *, agent_id: str = "", severity: Severity = Severity.WARN,
        current_value: float | None = None, threshold: float | None = None,
    ) -> None:
        """See AlertSink."""
        new = Told(type, agent_id, message, severity=severity, current_value=current_value, threshold=threshold)
        if (agent_id, type) not in self.standing:
            self.told.append(new)
        self.standing[agent_id, type] = new

    def clear(self, type: str, *, agent_id: str = "", message: str = "") -> None:
        """See AlertSink."""
        if self.standing.pop((agent_id, type), None) is not None:
            self.told.append(Told(type, agent_id, message, cleared=True))

    def forget(self, agent_id: str) -> None:
        """See AlertSink."""
        for owner, type in tuple(self.standing):
            if owner == agent_id:
                self.clear(type, agent_id=agent_id)
