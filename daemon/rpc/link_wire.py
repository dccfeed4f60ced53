"""Between our values and the messages to the Manager; and the lines in which reports wait on disk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from daemon.collectors.flatten import flatten
from daemon.model.event import Event
from daemon.model.metrics import Metrics
from daemon.rpc.pb import daemon_pb2, manager_pb2, reports_pb2

_INT64_MAX = 2**63 - 1

WireState = daemon_pb2.AgentState
"""One agent as SyncAgentStates tells of it."""


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """One sample of one collector, as it waits on disk and as MetricData holds it.

    Attributes:
        type: the collector's name.
        timestamp: Unix seconds; with node and type the key by which the Manager knows repeats.
        values: numbers, flattened.
    """

    type: str
    timestamp: int
    values: dict[str, float]


class LogEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One entry of the daemon's own log.

    Attributes:
        id: ``EPOCH-SEQ``, apart from the events' ids.
        at: Unix seconds.
        level: warn or error.
        message: what it says.
        fields: its facts.
    """

    id: str
    at: float
    level: str
    message: str
    fields: dict[str, str]


class NodeCard(msgspec.Struct, frozen=True, kw_only=True):
    """Who registers."""

    node_id: str
    hostname: str
    ip: str
    os: str
    arch: str
    labels: Mapping[str, str]
    daemon_version: str
    agent_version: str


_SAMPLES = msgspec.json.Decoder(Sample)
_encode = msgspec.json.encode


def sample_of(metrics: Metrics) -> Sample:
    """A collector's sample as plain numbers."""
    stamp = max(0, min(int(metrics.timestamp), _INT64_MAX))
    values = {_text(name): value for name, value in flatten(metrics).items()}
    return Sample(type=_text(metrics.name), timestamp=stamp, values=values)


def write_line(sample: Sample) -> bytes:
    """The sample as one line of JSON."""
    return _encode(sample)


def read_line(line: bytes) -> Sample | None:
    """The sample of a line, None for a line that is none: another version's, or somebody's edit."""
    try:
        sample = _SAMPLES.decode(line)
    except (msgspec.MsgspecError, UnicodeError):
        return None
    return sample if 0 <= sample.timestamp <= _INT64_MAX else None


def node_request(card: NodeCard) -> Any:
    """RegisterNodeRequest."""
    return manager_pb2.RegisterNodeRequest(
        node_id=card.node_id, hostname=_text(card.hostname), ip=card.ip, os=card.os, arch=card.arch,
        labels={_text(name): _text(value) for name, value in card.labels.items()},
        daemon_version=_text(card.daemon_version), agent_version=_text(card.agent_version),
    )


def beat_request(node_id: str, at: float) -> Any:
    """HeartbeatRequest."""
    return manager_pb2.HeartbeatRequest(node_id=node_id, timestamp=int(at))


def metrics_request(node_id: str, samples: Sequence[Sample]) -> Any:
    """ReportMetricsRequest."""
    return manager_pb2.ReportMetricsRequest(node_id=node_id, metrics=[
        manager_pb2.MetricData(type=each.type, timestamp=each.timestamp, values=each.values)
        for each in samples
    ])


def states_request(node_id: str, states: Sequence[WireState]) -> Any:
    """SyncAgentStatesRequest."""
    return daemon_pb2.SyncAgentStatesRequest(node_id=node_id, states=states)


def events_request(node_id: str, events: Sequence[Event], logs: Sequence[LogEntry], dropped: int) -> Any:
    """ReportEventsRequest."""
    return reports_pb2.ReportEventsRequest(
        node_id=node_id, events=[_event(each) for each in events], logs=[_entry(each) for each in logs],
        dropped=max(0, min(dropped, 2**64 - 1)),
    )


def _event(event: Event) -> Any:
    return reports_pb2.EventRecord(
        id=event.id, at=event.at, type=_text(event.type), severity=event.severity.value,
        agent_id=_text(event.agent_id), message=_text(event.message), data=_encode(event.data),
    )


def _entry(entry: LogEntry) -> Any:
    return reports_pb2.LogRecord(
        id=entry.id, at=entry.at, level=entry.level, message=_text(entry.message),
        fields={_text(name): _text(value) for name, value in entry.fields.items()},
    )


def _text(text: str) -> str:
    """What UTF-8 can say of it: a mount point may have any bytes in its name."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")
