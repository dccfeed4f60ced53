"""The protocols by which subjects meet without importing each other; ``app.py`` hands them over."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from daemon.model.event import Severity
from daemon.model.heartbeat import Heartbeat


class WallClock(Protocol):
    """Wall time, for what is shown and stored; decisions use the reactor's monotonic clock."""

    def __call__(self) -> float:
        """Unix seconds."""
        ...


class EventSink(Protocol):
    """Where subjects announce what happened. Never raises and never blocks."""

    def publish(
        self,
        type: str,
        message: str,
        *,
        severity: Severity = Severity.INFO,
        agent_id: str = "",
        data: Mapping[str, Any] | None = None,
    ) -> None:
        """Announces one event; the bus gives it an id and the time."""
        ...


class HeartbeatTarget(Protocol):
    """One agent, as the heartbeat receivers see it: a process proven to belong to it speaks for it."""

    @property
    def agent_id(self) -> str:
        """The agent's id."""
        ...

    def owns(self, pid: int) -> bool:
        """Whether the live process ``pid`` is the agent's: its leader, in its session, or with its mark."""
        ...

    def record(self, beat: Heartbeat) -> None:
        """Takes an accepted heartbeat. Cheap and never raises: it is called for every message."""
        ...


class AgentDirectory(Protocol):
    """Who is who among processes and agents."""

    def find(self, agent_id: str) -> HeartbeatTarget | None:
        """The agent with that id, or None."""
        ...

    def owner_of(self, pid: int) -> HeartbeatTarget | None:
        """The agent the live process ``pid`` belongs to, or None for a stranger."""
        ...
