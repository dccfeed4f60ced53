"""A heartbeat, however it arrived."""

from __future__ import annotations

import msgspec


class Heartbeat(msgspec.Struct, frozen=True, kw_only=True):
    """What an agent said of itself.

    Attributes:
        pid: the sender's process id, in its own words; checked against the peer before it gets here.
        timestamp: the sender's wall time, Unix seconds; the receiver's where the sender gave none.
        version: the agent's version, or empty.
        status: ``running``, ``stopping`` or whatever the agent says; an announced ``stopping`` makes the
            exit that follows no crash.
        cpu: percent of one core, 0 to 100 x cores, or None when not said.
        memory: resident bytes, or None when not said.
    """

    pid: int
    timestamp: float
    version: str = ""
    status: str = ""
    cpu: float | None = None
    memory: int | None = None
