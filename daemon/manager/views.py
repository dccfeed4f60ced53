"""What the API shows, as JSON bodies; built from rows, pure."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from daemon.errors import RequestError
from daemon.manager.config import ManagerConfig
from daemon.manager.daemons import target_of
from daemon.manager.model import AgentRow, CommandRow, NodeRow
from daemon.manager.queries import EventRow, SampleRow
from daemon.model.moment import rfc3339, rfc3339_or_none


class NodeBody(msgspec.Struct, frozen=True, kw_only=True):
    """A node.

    Attributes:
        state: online or offline, since ``state_since``.
        age_seconds: since its last heartbeat, by the Manager's clock.
        daemon_address: where operations are forwarded to; null where they cannot be.
        certificate: the name its registration was proven with; null without TLS.
        reports_lost: events and log entries the daemon had to drop, by its own count.
        agents: how many, by status.
    """

    node_id: str
    hostname: str
    ip: str
    os: str
    arch: str
    labels: dict[str, str]
    daemon_version: str
    agent_version: str
    state: str
    state_since: str
    last_heartbeat: str | None
    age_seconds: float
    first_seen_at: str
    registered_at: str
    daemon_address: str | None
    certificate: str | None
    reports_lost: int
    agents: dict[str, int]


class AgentBody(msgspec.Struct, frozen=True, kw_only=True):
    """An agent, as its node told last; ``seen_at``: when that was."""

    id: str
    type: str
    version: str
    status: str
    since: str
    pid: int | None
    last_heartbeat: str | None
    seen_at: str
    age_seconds: float


class CommandBody(msgspec.Struct, frozen=True, kw_only=True):
    """An operation; ``success`` is null while it runs, goes on, or its outcome is not known."""

    id: str
    node_id: str
    agent_id: str
    operation: str
    state: str
    success: bool | None
    message: str
    code: str | None
    peer: str
    asked_at: str
    ended_at: str | None


class EventBody(msgspec.Struct, frozen=True, kw_only=True):
    """An event of a node; ``source``: event, log, or manager for what the Manager noticed."""

    id: str
    source: str
    at: str
    received_at: str
    type: str
    severity: str
    agent_id: str | None
    message: str
    data: msgspec.Raw


class SampleBody(msgspec.Struct, frozen=True, kw_only=True):
    """A sample; its time is the node's own."""

    type: str
    timestamp: int
    values: msgspec.Raw


def node_body(
    node: NodeRow, agents: Mapping[str, int], now: float, config: ManagerConfig
) -> NodeBody:
    """A node, and how many agents it has."""
    try:
        address: str | None = str(target_of(node, config))
    except RequestError:
        address = None
    return NodeBody(
        node_id=node.node_id, hostname=node.hostname, ip=node.ip or node.peer, os=node.os, arch=node.arch,
        labels=msgspec.json.decode(node.labels), daemon_version=node.daemon_version,
        agent_version=node.agent_version, state=node.state, state_since=rfc3339(node.state_since),
        last_heartbeat=rfc3339_or_none(node.last_heartbeat_at),
        age_seconds=_age(node.last_heartbeat_at, now), first_seen_at=rfc3339(node.first_seen_at),
        registered_at=rfc3339(node.registered_at), daemon_address=address, certificate=node.owner or None,
        reports_lost=node.reports_lost, agents=dict(agents),
    )


def agent_body(agent: AgentRow, now: float) -> AgentBody:
    """An agent."""
    return AgentBody(
        id=agent.agent_id, type=agent.type, version=agent.version, status=agent.status,
        since=rfc3339(agent.since), pid=agent.pid or None,
        last_heartbeat=rfc3339_or_none(agent.last_heartbeat), seen_at=rfc3339(agent.seen_at),
        age_seconds=_age(agent.seen_at, now),
    )


def command_body(command: CommandRow) -> CommandBody:
    """An operation."""
    return CommandBody(
        id=command.command_id, node_id=command.node_id, agent_id=command.agent_id,
        operation=command.operation, state=command.state,
        success={"done": True, "failed": False}.get(command.state), message=command.message,
        code=command.code or None, peer=command.peer, asked_at=rfc3339(command.asked_at),
        ended_at=rfc3339_or_none(command.ended_at),
    )


def event_body(event: EventRow) -> EventBody:
    """An event."""
    return EventBody(
        id=event.event_id, source=event.source, at=rfc3339(event.happened_at),
        received_at=rfc3339(event.received_at), type=event.type, severity=event.severity,
        agent_id=event.agent_id or None, message=event.message, data=msgspec.Raw(event.data.encode()),
    )


def sample_body(sample: SampleRow) -> SampleBody:
    """A sample."""
    return SampleBody(
        type=sample.type, timestamp=sample.sampled_at, values=msgspec.Raw(sample.numbers.encode())
    )


def sample_place(sample: SampleRow) -> str:
    """Where a list of samples goes on behind this one."""
    return f"{sample.sampled_at}/{sample.type}"


def event_place(event: EventRow) -> str:
    """Where a list of events goes on behind this one."""
    return f"{event.happened_at!r}/{event.source}/{event.event_id}"


def _age(at: float, now: float) -> float:
    return round(max(0.0, now - at), 3)  # the clock may have been set back
