"""What the agent says of itself over HTTP: the bodies, and which one a client wants. Pure."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

HEALTH_LIMIT_S = 90.0
HEALTH_INTERVALS = 3  # where the interval is long, that many may be missed


class HealthView(msgspec.Struct, frozen=True, kw_only=True):
    """``GET /health``; ``last_heartbeat`` is RFC 3339 or null when none got through yet."""

    status: str
    uptime: float
    last_heartbeat: str | None
    agent_id: str

    @property
    def healthy(self) -> bool:
        """Whether the answer is 200."""
        return self.status == "healthy"


class MetricsView(msgspec.Struct, frozen=True, kw_only=True):
    """``GET /metrics`` as JSON; ``status`` is that of the heartbeats: running or stopping."""

    agent_id: str
    version: str
    uptime: float
    heartbeat_count: int
    heartbeat_failures: int
    last_heartbeat: str | None
    cpu_percent: float
    memory_bytes: int
    status: str


class ReloadView(msgspec.Struct, frozen=True, kw_only=True):
    """``POST /reload``; ``reloaded_at`` is the time of the last reload that succeeded, or null."""

    success: bool
    message: str
    reloaded_at: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Extra:
    """What only the Prometheus text has. Times are Unix seconds; None: never."""

    healthy: bool
    skipped_total: int
    cpu_seconds_total: float
    last_heartbeat_at: float | None
    started_at: float


def is_healthy(silent_s: float, interval_s: float) -> bool:
    """Whether heartbeats get through: one within 90 s, or within three intervals where those are longer."""
    return silent_s <= max(HEALTH_LIMIT_S, HEALTH_INTERVALS * interval_s)


def wants_prometheus(accept: str) -> bool:
    """Whether an Accept header (RFC 9110 section 12.5.1) asks for the text format rather than JSON.

    Only a range that names it does (``text/plain`` or ``application/openmetrics-text``), with a quality
    above 0 and above that of JSON; ``*/*`` and ``text/html`` get JSON.
    """
    text = json = 0.0
    for part in accept[:2000].split(","):
        name, *parameters = (piece.strip().lower() for piece in part.split(";"))
        quality = 1.0
        for parameter in parameters:
            if parameter.startswith("q="):
                try:
                    quality = float(parameter[2:])
                except ValueError:
                    quality = 0.0
                if not 0.0 <= quality <= 1.0:
                    quality = 0.0
        if name in ("text/plain", "application/openmetrics-text"):
            text = max(text, quality)
        elif name == "application/json":
            json = max(json, quality)
    return text > json


def _label(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def prometheus_text(view: MetricsView, extra: Extra) -> str:
    """The Prometheus text format, version 0.0.4; base units."""
    lines: list[str] = []

    def metric(name: str, kind: str, text: str, value: float | None, labels: str = "") -> None:
        if value is not None:
            lines.append(f"# HELP {name} {text}\n# TYPE {name} {kind}\n{name}{labels} {value!r}\n")

    labels = f'{{agent_id="{_label(view.agent_id)}",version="{_label(view.version)}"}}'
    metric("hostagent_info", "gauge", "The agent and its version.", 1, labels)
    metric("hostagent_healthy", "gauge", "Whether heartbeats get through (1) or not (0).", int(extra.healthy))
    metric("hostagent_uptime_seconds", "gauge", "Time since the agent began.", view.uptime)
    metric("hostagent_heartbeats_total", "counter", "Heartbeats that got through.", view.heartbeat_count)
    metric("hostagent_heartbeat_failures_total", "counter", "Attempts at a heartbeat that failed.",
           view.heartbeat_failures)
    metric("hostagent_heartbeats_skipped_total", "counter",
           "Heartbeats left out because the one before was still under way.", extra.skipped_total)
    metric("hostagent_last_heartbeat_timestamp_seconds", "gauge", "When the last heartbeat got through.",
           extra.last_heartbeat_at)
    metric("process_cpu_seconds_total", "counter", "User and system time.", extra.cpu_seconds_total)
    metric("process_resident_memory_bytes", "gauge", "Resident set.", view.memory_bytes)
    metric("process_start_time_seconds", "gauge", "When the agent began.", extra.started_at)
    return "".join(lines)
