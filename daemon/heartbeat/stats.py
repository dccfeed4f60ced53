"""What the heartbeat receivers count; web, metrics and diagnostics show it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

import msgspec


class Reason(Enum):
    """Why a message was refused; also the label of the error counter."""

    MALFORMED = "malformed"  # no JSON, or cut short by a line end
    INVALID = "invalid"  # a field is missing, of the wrong type or out of range
    TOO_LONG = "too_long"
    TRUNCATED = "truncated"  # the connection ended within a message
    REQUEST = "request"  # JSON-RPC that is no request we know
    STRANGER = "stranger"  # the peer belongs to no agent
    FOREIGN_PID = "foreign_pid"  # the pid inside is not the agent's
    FOREIGN_AGENT = "foreign_agent"  # the agent_id inside is not the peer's
    UNNAMED = "unnamed"  # an unknown peer that does not say for whom it speaks
    UNKNOWN_AGENT = "unknown_agent"
    INTERNAL = "internal"  # our own fault, logged


@dataclass(slots=True)
class Tally:
    """The running counters of the socket receiver."""

    connections_total: int = 0
    refused_total: int = 0
    received_total: int = 0
    accepted_total: int = 0
    errors: dict[Reason, int] = field(default_factory=dict)

    def count_error(self, reason: Reason) -> None:
        """One more message refused for that reason."""
        self.errors[reason] = self.errors.get(reason, 0) + 1


@dataclass(frozen=True, slots=True, kw_only=True)
class SocketStats:
    """The Unix socket at one moment.

    Attributes:
        listening: the paths listened to.
        connections: open now.
        connections_total: accepted since the start, refused ones included.
        refused_total: connections closed because there were too many.
        received_total: messages, good or bad.
        accepted_total: heartbeats recorded.
        errors_total: messages refused, by :class:`Reason` value.
    """

    listening: tuple[str, ...]
    connections: int
    connections_total: int
    refused_total: int
    received_total: int
    accepted_total: int
    errors_total: Mapping[str, int]


class HeartbeatStats(msgspec.Struct, frozen=True, kw_only=True):
    """``GET /heartbeat/stats``, with exactly these keys.

    Attributes:
        total_received: requests that reached ``POST /heartbeat``, refused ones included.
        total_processed: heartbeats recorded.
        total_errors: requests refused, and heartbeats that could not be recorded.
        last_received_time: RFC 3339, or None.
        average_latency: mean seconds from acceptance to record.
        queue_depth: heartbeats that wait.
        queue_size: the most that may wait.
        workers: cooperative workers.
    """

    total_received: int
    total_processed: int
    total_errors: int
    last_received_time: str | None
    average_latency: float
    queue_depth: int
    queue_size: int
    workers: int
