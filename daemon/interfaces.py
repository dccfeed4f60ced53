"""The protocols by which subjects meet without importing each other; ``app.py`` hands them over."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol

from daemon.model.agent import AgentState, BinaryTrial, Identity, LastExit
from daemon.model.event import Severity
from daemon.model.health import HealthVerdict
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


class AlertSink(Protocol):
    """Where subjects say what is wrong, until it is no longer. Never raises and never blocks."""

    def raise_alert(
        self,
        type: str,
        message: str,
        *,
        agent_id: str = "",
        severity: Severity = Severity.WARN,
        current_value: float | None = None,
        threshold: float | None = None,
    ) -> None:
        """An alert stands; one that stands already (same agent and type) takes the new message and value."""
        ...

    def clear(self, type: str, *, agent_id: str = "", message: str = "") -> None:
        """An alert is over; nothing happens when none stands."""
        ...

    def forget(self, agent_id: str) -> None:
        """The agent has left the configuration: every alert of it is over."""
        ...


class SupervisedAgent(Protocol):
    """One agent, as those who watch over its health and its use of the host see it."""

    @property
    def agent_id(self) -> str:
        """The agent's id."""
        ...

    @property
    def state(self) -> AgentState:
        """Its state."""
        ...

    @property
    def identity(self) -> Identity | None:
        """Its live leader; None when no process runs. Another identity is another process."""
        ...

    @property
    def started_mono(self) -> float | None:
        """Monotonic seconds at which its live leader began; None when no process runs."""
        ...

    @property
    def heartbeat_mono(self) -> float | None:
        """Monotonic seconds of the last heartbeat, None before the first; outlives its processes."""
        ...

    @property
    def heartbeat_at(self) -> float:
        """Wall time of it, Unix seconds; 0 for none."""
        ...

    @property
    def ever_heartbeat(self) -> bool:
        """Whether one ever came, also to an earlier daemon."""
        ...

    @property
    def reported_cpu(self) -> float | None:
        """Percent of one core, as the present process said of itself."""
        ...

    @property
    def reported_memory(self) -> int | None:
        """Resident bytes, as the present process said of itself."""
        ...

    def judge(self, verdict: HealthVerdict) -> None:
        """Takes a verdict on the process that leads it now; the reconcile rule decides what follows."""
        ...

    def restore_heartbeat(self, mono: float, at: float) -> None:
        """Takes the last heartbeat an earlier daemon of this boot got; a newer one wins."""
        ...


class AgentRoster(Protocol):
    """Every agent there is, in the order of the configuration."""

    def supervised(self) -> Sequence[SupervisedAgent]:
        """All of them."""
        ...


class UpdatableAgent(Protocol):
    """One agent, as an update of its binary sees it."""

    @property
    def agent_id(self) -> str:
        """The agent's id."""
        ...

    @property
    def type(self) -> str:
        """Its type."""
        ...

    @property
    def binary_path(self) -> str:
        """Its binary as configured, resolved; empty when it has left the configuration."""
        ...

    @property
    def down(self) -> bool:
        """Whether intent or configuration want it down: it is not started after an update either."""
        ...

    @property
    def state(self) -> AgentState:
        """Its state."""
        ...

    @property
    def identity(self) -> Identity | None:
        """Its live leader; None when no process runs."""
        ...

    @property
    def version(self) -> str:
        """What its binary last said of itself; empty for nothing."""
        ...

    @property
    def verdict(self) -> HealthVerdict | None:
        """The last verdict of the health checks on its present process; None where nobody checks."""
        ...

    @property
    def last_exit(self) -> LastExit | None:
        """How its process before this one ended."""
        ...

    @property
    def exits_total(self) -> int:
        """Exits nobody asked for and failed spawns that this daemon saw."""
        ...

    def hold(self, why: str) -> Awaitable[None]:
        """Ends it and keeps it down whatever is wanted, until :meth:`release`; what operators ask meanwhile
        is kept and carried out then. Ends when nothing of it is left.

        While it is held and wanted running, its state is ``restarting`` with ``why`` as the reason. A hold is
        not remembered: it ends with the daemon, which leaves no agent down that is wanted running.

        Raises:
            AgentStopError: D3002, something of it would not end; it is not held.
            RequestError: the daemon stops, or it was released meanwhile.
        """
        ...

    def release(self) -> None:
        """From now on it is again what is wanted; a start forgets earlier failures. Nothing when not held."""
        ...

    async def try_binary(self, path: str) -> BinaryTrial | None:
        """Runs another binary's version command as the agent's user, in the agent's small environment.

        Returns:
            what came of it; None where the agent has no version command.
        """
        ...

    def last_lines(self) -> Sequence[str]:
        """The last lines of its log, at most 20. Blocks on the disk."""
        ...

    def watch(self, changed: Callable[[], None]) -> Callable[[], None]:
        """``changed`` is called, on a turn of its own, after each change of state, process, verdict,
        configuration or intent.

        Returns:
            ends that.
        """
        ...


class UpdatableAgents(Protocol):
    """The agents an update may be for."""

    def updatable(self) -> Sequence[UpdatableAgent]:
        """All that are configured."""
        ...
