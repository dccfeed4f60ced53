"""The heartbeat as it goes over the wire."""

from __future__ import annotations

import msgspec

RUNNING = "running"
STOPPING = "stopping"


class HeartbeatMessage(msgspec.Struct, frozen=True, kw_only=True):
    """One heartbeat; the field order is that of the protocol's example.

    Attributes:
        pid: our process id.
        timestamp: RFC 3339, UTC.
        version: the agent's version.
        status: ``running`` or ``stopping``.
        cpu: percent of one core.
        memory: resident bytes.
        agent_id: our id at the daemon; left out where we do not know it (the socket does not need it).
    """

    pid: int
    timestamp: str
    version: str
    status: str
    cpu: float
    memory: int
    agent_id: str | msgspec.UnsetType = msgspec.UNSET


def encode(message: HeartbeatMessage) -> bytes:
    """JSON on one line, ended by a newline: whole for a reader of lines and for a reader of objects."""
    return msgspec.json.encode(message) + b"\n"
