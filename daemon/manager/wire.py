"""Between protobuf and the Manager's values; protobuf types go no further than here.

Ids and keys must be sound, for they name rows and routes: a request with a bad one is refused. Text that is
only shown is cut and cleaned. Nothing a daemon sends makes an answer fail later.
"""

from __future__ import annotations

import math
import uuid
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import msgspec
from google.protobuf.message import DecodeError

from daemon.errors import RequestError, RequestFault
from daemon.manager.model import AgentReport, EventEntry, Registration, Sample
from daemon.rpc.pb import daemon_pb2, manager_pb2, reports_pb2
from daemon.rpc.status import plain

ID_MAX = 128
TEXT_MAX = 255
SHORT_MAX = 64
LABELS_MAX = 64
MESSAGE_MAX = 4096
DATA_MAX = 16 * 1024
VALUES_MAX = 5000  # numbers in one sample; a host with hundreds of disks has some thousands
ENTRIES_MAX = 10_000  # samples, agents or events in one request
LEVELS_MAX = 8  # of nesting in the JSON of an older daemon
_AT_MAX = 253_402_300_799  # the last second of the year 9999
_NAMESPACE = uuid.UUID("6f1d3c6e-3f0b-4b58-9f0c-2b7f7a1d9c11")  # of ids made for older daemons


class Report(NamedTuple):
    """Samples of a node."""

    node_id: str
    samples: tuple[Sample, ...]


class States(NamedTuple):
    """Agents of a node."""

    node_id: str
    agents: tuple[AgentReport, ...]


class Entries(NamedTuple):
    """Events and log entries of a node, and how many it had to drop."""

    node_id: str
    entries: tuple[EventEntry, ...]
    lost: int


# --- manager.ManagerService ---------------------------------------------------------------------------


def read_node(data: bytes) -> Registration:
    """Reads a manager.RegisterNodeRequest."""
    found = _read(manager_pb2.RegisterNodeRequest, data)
    return _registration(sound_id(found.node_id, "node_id"), found)


def read_beat(data: bytes) -> str:
    """Reads a manager.HeartbeatRequest: the node. Its clock is its own; when it came is ours to say."""
    return sound_id(_read(manager_pb2.HeartbeatRequest, data).node_id, "node_id")


def read_metrics(data: bytes) -> Report:
    """Reads a manager.ReportMetricsRequest."""
    found = _read(manager_pb2.ReportMetricsRequest, data)
    _few(found.metrics, "metrics")
    return Report(
        sound_id(found.node_id, "node_id"),
        tuple(_sample(each.type, each.timestamp, dict(each.values)) for each in found.metrics),
    )


# --- proto.DaemonService ------------------------------------------------------------------------------


def read_old_node(data: bytes) -> Registration:
    """Reads a proto.RegisterRequest; ``node_id`` is empty, see :func:`old_node_id`."""
    found = _read(daemon_pb2.RegisterRequest, data)
    if not found.hostname.strip():
        raise RequestError(RequestFault.INVALID, "hostname is missing; a node without an id is known by it")
    return _registration("", found)


def old_node_id(node: Registration) -> str:
    """The id of a daemon that brings none: the same for the same host at each start.

    Made of the host's name and its certificate's name or, without TLS, its address.
    """
    return str(uuid.uuid5(_NAMESPACE, f"{node.hostname}\n{node.owner or node.ip or node.peer}"))


def read_old_beat(data: bytes) -> str:
    """Reads a proto.HeartbeatRequest: the node."""
    return sound_id(_read(daemon_pb2.HeartbeatRequest, data).node_id, "node_id")


def read_old_metrics(data: bytes) -> Report:
    """Reads a proto.MetricsRequest, whose JSON is one of three forms.

    A list of ``{"type" or "name", "timestamp", "values"}``, the same by name, or just values by name.
    """
    found = _read(daemon_pb2.MetricsRequest, data)
    node_id = sound_id(found.node_id, "node_id")
    try:
        content = msgspec.json.decode(found.data)
    except (msgspec.DecodeError, RecursionError) as error:
        raise RequestError(RequestFault.INVALID, f"data is no JSON: {error}") from error
    named: Iterable[tuple[Any, Any]]
    if isinstance(content, dict):
        named = content.items()
    elif isinstance(content, list):
        named = [(None, each) for each in content]
    else:
        raise RequestError(RequestFault.INVALID, "data must be an object or a list of samples")
    samples = []
    for name, each in named:
        if not isinstance(each, dict):
            raise RequestError(RequestFault.INVALID, f"data: {str(name)[:SHORT_MAX]!r} is no object")
        inner = each.get("values")
        values = inner if isinstance(inner, dict) else each
        stamp = each.get("timestamp") if inner is values else None
        at = int(stamp) if isinstance(stamp, int | float) and math.isfinite(stamp) else found.timestamp
        kind = each.get("type") or each.get("name") or name if inner is values else name
        if not isinstance(kind, str):
            raise RequestError(RequestFault.INVALID, "data: a sample has neither type nor name")
        samples.append(_sample(kind, at, _numbers(values)))
    _few(samples, "data")
    return Report(node_id, tuple(samples))


def _numbers(values: Mapping[str, Any]) -> dict[str, float]:
    """The numbers in nested objects and lists, named as ``disks[0].used``; text is left out."""
    found: dict[str, float] = {}
    waiting: list[tuple[str, Any, int]] = [("", values, 0)]
    while waiting and len(found) <= VALUES_MAX:
        name, value, level = waiting.pop()
        if isinstance(value, bool):
            found[name] = float(value)
        elif isinstance(value, int | float):
            found[name] = _double(value)
        elif level < LEVELS_MAX and isinstance(value, dict):
            prefix = f"{name}." if name else ""
            waiting += [(f"{prefix}{key}", each, level + 1) for key, each in value.items()]
        elif level < LEVELS_MAX and isinstance(value, list):
            waiting += [(f"{name}[{number}]", each, level + 1) for number, each in enumerate(value)]
    return found


def _double(value: float) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf  # left out later, as what no number can say


def read_states(data: bytes) -> States:
    """Reads a proto.SyncAgentStatesRequest; no states are legal."""
    found = _read(daemon_pb2.SyncAgentStatesRequest, data)
    _few(found.states, "states")
    return States(sound_id(found.node_id, "node_id"), tuple(_agent(each) for each in found.states))


def _agent(found: Any) -> AgentReport:
    return AgentReport(
        agent_id=sound_id(found.agent_id, "agent_id"),
        type=plain(found.type, SHORT_MAX - 3),
        version=plain(found.version, SHORT_MAX - 3),
        status=plain(found.status, 28),
        pid=max(0, found.pid),
        last_heartbeat=max(0, min(found.last_heartbeat, _AT_MAX)),
    )


# --- hostdaemon.v1.Reports ----------------------------------------------------------------------------


def read_entries(data: bytes) -> Entries:
    """Reads a hostdaemon.v1.ReportEventsRequest."""
    found = _read(reports_pb2.ReportEventsRequest, data)
    _few([*found.events, *found.logs], "events and logs")
    entries = [
        EventEntry(
            source="event", event_id=_key(each.id, "events.id"), at=_moment(each.at),
            type=plain(each.type, SHORT_MAX), severity=plain(each.severity, 12),
            agent_id=plain(each.agent_id, ID_MAX - 3), message=plain(each.message, MESSAGE_MAX),
            data=_json_object(each.data),
        )
        for each in found.events
    ]
    entries += [
        EventEntry(
            source="log", event_id=_key(each.id, "logs.id"), at=_moment(each.at), type="log",
            severity=plain(each.level, 12), agent_id=plain(each.fields.get("agent_id", ""), ID_MAX - 3),
            message=plain(each.message, MESSAGE_MAX),
            data=_json_object(msgspec.json.encode(dict(each.fields))),
        )
        for each in found.logs
    ]
    return Entries(sound_id(found.node_id, "node_id"), tuple(entries), min(found.dropped, 2**53))


# --- pieces -------------------------------------------------------------------------------------------


def _read(kind: Any, data: bytes) -> Any:
    try:
        return kind.FromString(data)
    except DecodeError as error:
        name = kind.DESCRIPTOR.full_name
        raise RequestError(
            RequestFault.INVALID, f"the message is no {name}; compare your proto files with ours"
        ) from error


def _key(text: str, name: str) -> str:
    """Text that tells one row from another.

    Raises:
        RequestError: INVALID; it is missing, too long, or cannot be shown.
    """
    if not text or text.isspace():
        raise RequestError(RequestFault.INVALID, f"{name} is missing")
    if len(text) > ID_MAX or not text.isprintable():
        raise RequestError(RequestFault.INVALID, f"{name} must be up to {ID_MAX} printable characters")
    return text


def sound_id(text: str, name: str) -> str:
    """A key that is a part of routes, too.

    Raises:
        RequestError: INVALID; see :func:`_key`, or it holds a slash.
    """
    if "/" in _key(text, name) or text in (".", ".."):
        raise RequestError(RequestFault.INVALID, f"{name} must not hold a slash, nor be . or ..")
    return text


def _few(entries: Any, name: str) -> None:
    if len(entries) > ENTRIES_MAX:
        raise RequestError(
            RequestFault.INVALID, f"{name}: {len(entries)} entries; at most {ENTRIES_MAX} fit one request"
        )


def _registration(node_id: str, found: Any) -> Registration:
    if len(found.labels) > LABELS_MAX:
        raise RequestError(RequestFault.INVALID, f"labels: {len(found.labels)}; at most {LABELS_MAX}")
    return Registration(
        node_id=node_id,
        hostname=plain(found.hostname, TEXT_MAX - 3),
        ip=plain(found.ip, SHORT_MAX - 3),
        os=plain(found.os, SHORT_MAX - 3),
        arch=plain(found.arch, SHORT_MAX - 3),
        labels={plain(k, TEXT_MAX): plain(v, TEXT_MAX) for k, v in found.labels.items()},
        daemon_version=plain(found.daemon_version, SHORT_MAX - 3),
        agent_version=plain(found.agent_version, SHORT_MAX - 3),
    )


def _sample(type: str, at: int, values: Mapping[str, float]) -> Sample:
    if not 0 <= at <= _AT_MAX:
        raise RequestError(RequestFault.INVALID, f"timestamp {at} is no time in Unix seconds")
    if len(values) > VALUES_MAX:
        raise RequestError(RequestFault.INVALID, f"{len(values)} values; a sample has {VALUES_MAX} at most")
    finite = {
        name if name.isprintable() and len(name) <= TEXT_MAX else plain(name, TEXT_MAX): value
        for name, value in values.items() if math.isfinite(value)  # JSON knows neither NaN nor infinity
    }
    return Sample(_key(type, "type"), at, msgspec.json.encode(finite).decode())


def _moment(at: float) -> float:
    return at if math.isfinite(at) and 0 <= at <= _AT_MAX else 0.0


def _json_object(data: bytes) -> str:
    """The JSON object as it came; ``{}`` for anything else: events are kept for their words."""
    if not data or len(data) > DATA_MAX:
        return "{}"
    try:
        found = msgspec.json.decode(data)
        return msgspec.json.encode(found).decode() if isinstance(found, dict) else "{}"
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return "{}"
