"""The bodies of answers, as the wire shows them and the description of the API says; times are RFC 3339."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from daemon.control.views import AgentView
from daemon.model.alert import Alert
from daemon.model.event import Event
from daemon.model.moment import rfc3339, rfc3339_or_none
from daemon.model.update import UpdateView
from daemon.model.usage import HostPoint, UsagePoint


class SampleBody(msgspec.Struct, frozen=True, kw_only=True):
    """The latest sample of one collector."""

    name: str
    timestamp: str
    values: Mapping[str, Any]


class AgentsBody(msgspec.Struct, frozen=True, kw_only=True):
    """Agents, in the order of the configuration."""

    agents: tuple[AgentView, ...]


class OperatedBody(AgentView, frozen=True, kw_only=True):
    """An agent after an operation; ``message`` where that goes on, ``warnings`` where there are any."""

    message: str | msgspec.UnsetType = msgspec.UNSET
    warnings: tuple[str, ...] | msgspec.UnsetType = msgspec.UNSET


class ResultBody(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one agent."""

    success: bool
    error: str


class ResultsBody(msgspec.Struct, frozen=True, kw_only=True):
    """What became of each agent, by id."""

    results: Mapping[str, ResultBody]


class PointBody(msgspec.Struct, frozen=True, kw_only=True):
    """One point of an agent's history: see :class:`daemon.model.usage.UsagePoint`."""

    timestamp: str
    cpu: float | None
    cpu_min: float | None
    cpu_max: float | None
    memory_rss: int | None
    memory_rss_min: int | None
    memory_rss_max: int | None
    memory_vms: int | None
    disk_read_bytes: int | None
    disk_write_bytes: int | None
    open_files: int | None
    threads: int | None
    reported_cpu: float | None
    reported_memory: int | None
    samples: int


class PointsBody(msgspec.Struct, frozen=True, kw_only=True):
    """What an agent used, oldest first."""

    agent_id: str
    data_points: tuple[PointBody, ...]


class HostPointBody(msgspec.Struct, frozen=True, kw_only=True):
    """One point of the host's history: see :class:`daemon.model.usage.HostPoint`."""

    timestamp: str
    cpu: float | None
    cpu_max: float | None
    load1: float | None
    memory_used: int | None
    memory_used_max: int | None
    memory_total: int | None
    swap_used: int | None
    disk_used_percent: float | None
    disk_read_per_second: float | None
    disk_written_per_second: float | None
    network_received_per_second: float | None
    network_sent_per_second: float | None
    samples: int


class HostPointsBody(msgspec.Struct, frozen=True, kw_only=True):
    """What the host did, oldest first."""

    data_points: tuple[HostPointBody, ...]


class AlertBody(msgspec.Struct, frozen=True, kw_only=True):
    """One alert; ``cleared_at`` is null while it stands, ``agent_id`` where it is the daemon's own."""

    agent_id: str | None
    type: str
    severity: str
    message: str
    current_value: float | None
    threshold: float | None
    timestamp: str
    cleared_at: str | None


class AlertsBody(msgspec.Struct, frozen=True, kw_only=True):
    """Alerts that stand, then those that are over."""

    alerts: tuple[AlertBody, ...]


class EventBody(msgspec.Struct, frozen=True, kw_only=True):
    """One event."""

    id: str
    at: str
    type: str
    severity: str
    agent_id: str | None
    message: str
    data: Mapping[str, Any]


class EventsBody(msgspec.Struct, frozen=True, kw_only=True):
    """Events, oldest first."""

    events: tuple[EventBody, ...]


class ChangeBody(msgspec.Struct, frozen=True, kw_only=True, rename={"old": "from", "new": "to"}):
    """One change of a reload."""

    agent: str
    key: str
    old: Any
    new: Any
    effect: str


class ReloadBody(msgspec.Struct, frozen=True, kw_only=True):
    """What a reload changed, or would change."""

    applied: bool
    changes: tuple[ChangeBody, ...]
    warnings: tuple[str, ...]


class AcceptedBody(msgspec.Struct, frozen=True, kw_only=True):
    """An update that was taken."""

    id: str


class UpdateAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """One update; ``success`` is null until it is over."""

    id: str
    component: str
    version: str
    state: str
    step: str
    progress: float
    started_at: str | None
    finished_at: str | None
    success: bool | None
    old_version: str | None
    new_version: str | None
    error: str | None
    code: str | None
    rolled_back: bool
    evidence: Mapping[str, Any]


class UpdatesBody(msgspec.Struct, frozen=True, kw_only=True):
    """Updates, the newest first."""

    updates: tuple[UpdateAnswer, ...]


def point_body(point: UsagePoint) -> PointBody:
    """One point of an agent's history."""
    values = msgspec.structs.asdict(point)
    values["timestamp"] = rfc3339(point.timestamp)
    return PointBody(**values)


def host_point_body(point: HostPoint) -> HostPointBody:
    """One point of the host's history."""
    values = msgspec.structs.asdict(point)
    values["timestamp"] = rfc3339(point.timestamp)
    return HostPointBody(**values)


def alert_body(alert: Alert) -> AlertBody:
    """One alert."""
    return AlertBody(
        agent_id=alert.agent_id or None, type=alert.type, severity=alert.severity.value,
        message=alert.message, current_value=alert.current_value, threshold=alert.threshold,
        timestamp=rfc3339(alert.timestamp), cleared_at=rfc3339_or_none(alert.cleared_at),
    )


def event_body(event: Event) -> EventBody:
    """One event."""
    return EventBody(
        id=event.id, at=rfc3339(event.at), type=event.type, severity=event.severity.value,
        agent_id=event.agent_id or None, message=event.message, data=event.data,
    )


def update_body(view: UpdateView) -> UpdateAnswer:
    """One update."""
    return UpdateAnswer(
        id=view.id, component=view.component, version=view.version, state=view.state.value,
        step=view.step.value, progress=round(view.progress, 3),
        started_at=rfc3339_or_none(view.started_at), finished_at=rfc3339_or_none(view.finished_at),
        success=view.success, old_version=view.old_version or None, new_version=view.new_version or None,
        error=view.error or None, code=view.code or None, rolled_back=view.rolled_back,
        evidence=view.evidence,
    )
