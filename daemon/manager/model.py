"""The values the Manager's parts hand each other; frozen, times as Unix seconds."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import NamedTuple


class Registration(NamedTuple):
    """What a node says of itself.

    Attributes:
        owner: the first name in the certificate it came with, empty without TLS.
        peer: the address it came from.
    """

    node_id: str
    hostname: str
    ip: str
    os: str
    arch: str
    labels: Mapping[str, str]
    daemon_version: str
    agent_version: str
    owner: str = ""
    peer: str = ""


class Sample(NamedTuple):
    """One sample of one collector; ``values`` is a JSON object of numbers."""

    type: str
    at: int
    values: str


class AgentReport(NamedTuple):
    """One agent, as its node tells of it; pid 0: not running, last_heartbeat 0: never."""

    agent_id: str
    type: str
    version: str
    status: str
    pid: int
    last_heartbeat: int


class EventEntry(NamedTuple):
    """An event of a node, or an entry of its log.

    Attributes:
        source: ``event``, ``log``, or ``manager`` for what the Manager itself noticed.
        event_id: unique in that node and source.
        data: a JSON object.
    """

    source: str
    event_id: str
    at: float
    type: str
    severity: str
    agent_id: str
    message: str
    data: str


class NodeRow(NamedTuple):
    """A node as it is stored; columns of ``nodes`` in their order."""

    node_id: str
    hostname: str
    ip: str
    peer: str
    owner: str
    os: str
    arch: str
    labels: str
    daemon_version: str
    agent_version: str
    state: str
    registered_at: float
    first_seen_at: float
    last_heartbeat_at: float
    state_since: float
    reports_lost: int


class AgentRow(NamedTuple):
    """An agent as it is stored."""

    node_id: str
    agent_id: str
    type: str
    version: str
    status: str
    pid: int
    last_heartbeat: int
    since: float
    seen_at: float


class CommandState(StrEnum):
    """How far an operation is; ``unknown``: the Manager did not live to hear the answer."""

    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    IN_PROGRESS = "in_progress"
    UNKNOWN = "unknown"


class CommandRow(NamedTuple):
    """An operation that somebody asked for, and what came of it."""

    command_id: str
    node_id: str
    agent_id: str
    operation: str
    peer: str
    state: str
    message: str
    code: str
    asked_at: float
    ended_at: float


class NodeState(StrEnum):
    """Whether a node's heartbeats come."""

    ONLINE = "online"
    OFFLINE = "offline"
