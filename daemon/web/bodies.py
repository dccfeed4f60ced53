"""Values of the model as the wire shows them: times as RFC 3339."""

from __future__ import annotations

from typing import Any

import msgspec

from daemon.model.alert import Alert
from daemon.model.moment import rfc3339, rfc3339_or_none
from daemon.model.usage import UsagePoint


def point_body(point: UsagePoint) -> dict[str, Any]:
    """One point of an agent's history."""
    body: dict[str, Any] = msgspec.structs.asdict(point)
    body["timestamp"] = rfc3339(point.timestamp)
    return body


def alert_body(alert: Alert) -> dict[str, Any]:
    """One alert."""
    return {
        "agent_id": alert.agent_id or None, "type": alert.type, "severity": alert.severity.value,
        "message": alert.message, "current_value": alert.current_value, "threshold": alert.threshold,
        "timestamp": rfc3339(alert.timestamp), "cleared_at": rfc3339_or_none(alert.cleared_at),
    }
