"""An event: something an operator may want to know later."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Any

import msgspec


class Severity(Enum):
    """How much an event matters."""

    INFO = "info"
    WARN = "warn"
    ERROR = "error"


class Event(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One entry of the event journal.

    Attributes:
        id: ``EPOCH-SEQ``: the daemon start it belongs to and its number within it; both only grow.
        at: wall time, Unix seconds.
        type: dotted lower-case name, such as ``agent.exited``.
        severity: info, warn or error.
        agent_id: the agent it is about, or empty.
        message: one sentence for people.
        data: the facts for programs.
    """

    id: str
    at: float
    type: str
    severity: Severity = Severity.INFO
    agent_id: str = ""
    message: str = ""
    data: Mapping[str, Any] = {}


def event_order(event_id: str) -> tuple[int, int]:
    """The sort key of an event id.

    Raises:
        ValueError: it is not ``EPOCH-SEQ``.
    """
    epoch, dash, seq = event_id.partition("-")
    if not dash or not (epoch.isascii() and epoch.isdigit() and seq.isascii() and seq.isdigit()):
        raise ValueError(f"{event_id!r} is not an event id (EPOCH-SEQ)")
    return int(epoch), int(seq)
