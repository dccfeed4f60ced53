"""What the daemon shows of itself and its agents; bodies as the wire contract lists them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

import msgspec

from daemon.agents.instance import AgentInstance
from daemon.agents.logfile import log_path
from daemon.agents.world import AgentWorld
from daemon.model.agent import AgentState, HealthStatus
from daemon.model.moment import rfc3339_or_none
from daemon.model.usage import Usage

T = TypeVar("T", int, float)


class HealthView(msgspec.Struct, frozen=True, kw_only=True):
    """An agent's health: the verdict, why, since when."""

    status: str
    reason: str
    since: str | None


class ExitView(msgspec.Struct, frozen=True, kw_only=True):
    """How an agent's process ended last."""

    code: int | None
    signal: int | None
    reason: str
    at: str | None


class AgentView(msgspec.Struct, frozen=True, kw_only=True):
    """One agent, everything an operator asks about it. Times are RFC 3339 UTC, null when never."""

    id: str
    type: str
    name: str
    binary_path: str
    config_file: str
    work_dir: str
    socket_path: str
    enabled: bool
    wanted: str
    status: str
    pid: int | None
    version: str
    start_time: str | None
    uptime_seconds: float
    restart_count: int
    lifetime_restarts: int
    last_restart: str | None
    next_try: str | None
    created_at: str | None
    updated_at: str | None
    last_heartbeat: str | None
    cpu_percent: float | None
    memory_bytes: int | None
    health: HealthView
    last_exit: ExitView | None
    why: str
    log_file: str
    adopted: bool


def agent_view(agent: AgentInstance, world: AgentWorld, used: Usage | None) -> AgentView:
    """The view of an agent as it is now.

    Args:
        agent: the agent.
        world: clocks and paths.
        used: the newest measurement of its session; what its heartbeats say stands in for a missing one.
    """
    metadata, spec, pulse = agent.metadata, agent.spec, agent.pulse
    now, at = world.clock.seconds(), world.wall()
    process = agent.process if agent.pid else None
    next_try = metadata.next_try_mono
    return AgentView(
        id=agent.agent_id,
        type=agent.type,
        name=spec.name if spec is not None else "",
        binary_path=spec.binary_path if spec is not None else "",
        config_file=spec.config_file if spec is not None else "",
        work_dir=spec.work_dir if spec is not None else "",
        socket_path=(spec.socket_path if spec is not None else "") or world.socket_path,
        enabled=agent.enabled,
        wanted=metadata.wanted.value,
        status=agent.state.value,
        pid=agent.pid or None,
        version=metadata.version,
        start_time=rfc3339_or_none(metadata.started_at) if process is not None else None,
        uptime_seconds=round(now - process.started_mono, 3) if process is not None else 0.0,
        restart_count=metadata.restart_count,
        lifetime_restarts=metadata.lifetime_restarts,
        last_restart=rfc3339_or_none(metadata.last_restart_at),
        next_try=rfc3339_or_none(at + max(0.0, next_try - now)) if next_try is not None else None,
        created_at=rfc3339_or_none(metadata.created_at),
        updated_at=rfc3339_or_none(metadata.updated_at),
        last_heartbeat=rfc3339_or_none(pulse.received_at),
        cpu_percent=_first(used.cpu_percent if used is not None else None, pulse.cpu) if process else None,
        memory_bytes=_first(used.rss_bytes if used is not None else None, pulse.memory) if process else None,
        health=_health(agent, at - (now - agent.book.state_since)),
        last_exit=_last_exit(agent),
        why=_why(agent),
        log_file=str(log_path(world.logs_dir, agent.agent_id)),
        adopted=process is not None and process.adopted,
    )


def _first(measured: T | None, reported: T | None) -> T | None:
    return measured if measured is not None else reported


def health_status(agent: AgentInstance) -> HealthStatus:
    """The last verdict on its process; before the first one, what the process itself shows."""
    verdict = agent.illness.verdict
    if verdict is not None and agent.pid:
        return verdict.status
    if agent.state is AgentState.RUNNING:
        return HealthStatus.HEALTHY
    return HealthStatus.STARTING if agent.state is AgentState.STARTING else HealthStatus.DEAD


def _health(agent: AgentInstance, since_at: float) -> HealthView:
    """The same with its reason."""
    verdict, status = agent.illness.verdict, health_status(agent)
    if verdict is not None and agent.pid:
        reason, since_at = verdict.reason, agent.illness.since_at
    elif status is HealthStatus.HEALTHY:
        reason = f"pid {agent.pid} lives"
    else:
        starting = status is HealthStatus.STARTING
        reason = "it has not lived start_seconds yet" if starting else "no process runs"
    return HealthView(status=status.value, reason=reason, since=rfc3339_or_none(since_at))


def _last_exit(agent: AgentInstance) -> ExitView | None:
    last = agent.metadata.last_exit
    if last is None:
        return None
    return ExitView(code=last.code, signal=last.signal, reason=last.reason, at=rfc3339_or_none(last.at))


def _why(agent: AgentInstance) -> str:
    """Wanted, observed, last decision: what an operator needs to understand the state."""
    observed = f"pid {agent.pid} lives" if agent.pid else "no process"
    decision = agent.decision
    reason = f"; {agent.book.reason}" if agent.book.reason and agent.book.reason != decision.why else ""
    wanted = agent.metadata.wanted.value
    return f"wanted {wanted}, {observed}: {decision.do.value}, because {decision.why}{reason}"


class ConfigState(msgspec.Struct, frozen=True, kw_only=True):
    """The configuration in force and how the last reload went; ``needs_restart`` names what waits for one."""

    path: str
    loaded_at: str | None
    ok: bool
    error: str | None
    needs_restart: tuple[str, ...] = ()


class ManagerState(msgspec.Struct, frozen=True, kw_only=True):
    """The link to the Manager; counts outlive restarts of the daemon."""

    address: str
    connected: bool = False
    since: str | None = None
    last_error: str | None = None
    queued: int = 0
    delivered: int = 0
    dropped: int = 0
    refused: int = 0
    registered_at: str | None = None


class NodeView(msgspec.Struct, frozen=True, kw_only=True):
    """This host and its daemon."""

    node_id: str
    hostname: str
    ip: str
    os: str
    arch: str
    labels: Mapping[str, str]
    daemon_version: str
    agent_version: str
    register_at: str | None
    started_at: str | None
    pid: int
    work_dir: str
    heartbeat_socket: str
    control_socket: str
    config: ConfigState
    manager: ManagerState
    agents: Mapping[str, int]
    alerts: int
    storage_error: str | None
    events_lost: int
