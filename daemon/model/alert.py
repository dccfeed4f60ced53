"""An alert: something that is wrong until it is cleared."""

from __future__ import annotations

import msgspec

from daemon.model.event import Severity


class Alert(msgspec.Struct, frozen=True, kw_only=True):
    """One alert of the list.

    Attributes:
        agent_id: the agent it is about; empty for the daemon itself.
        type: lower-case name, such as ``no_heartbeat``, ``cpu``, ``storage``; one alert per agent and type.
        severity: warn or error.
        message: one sentence: the cause and the next step.
        current_value: the newest measured value, None where there is none to measure.
        threshold: what it is held against.
        timestamp: since when, wall time, Unix seconds.
        cleared_at: until when; None while it stands.
    """

    agent_id: str
    type: str
    severity: Severity = Severity.WARN
    message: str = ""
    current_value: float | None = None
    threshold: float | None = None
    timestamp: float = 0.0
    cleared_at: float | None = None
