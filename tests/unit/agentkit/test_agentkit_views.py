"""Bodies of the agent's page, and the choice between them."""

from __future__ import annotations

import pytest
from prometheus_client.parser import text_string_to_metric_families

from daemon.agentkit.views import Extra, MetricsView, is_healthy, prometheus_text, wants_prometheus

PROMETHEUS = (
    "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.4,*/*;q=0.1"
)


@pytest.mark.parametrize(
    ("accept", "want"),
    [
        ("", False), ("*/*", False), ("text/html,application/xhtml+xml,*/*;q=0.8", False),
        ("application/json", False), ("text/plain", True), (PROMETHEUS, True), ("TEXT/PLAIN", True),
        ("text/plain;q=0", False), ("application/json, text/plain;q=0.5", False),
        ("application/json;q=0.1, text/plain", True), ("text/plain;q=x", False), ("text/plain;q=nan", False),
        ("text/plain;q=7", False), (";;,,;q=", False), ("," * 100_000, False),
    ],
)
def test_the_text_format_goes_to_those_who_name_it(accept: str, want: bool) -> None:
    assert wants_prometheus(accept) is want


@pytest.mark.parametrize(
    ("silent_s", "interval_s", "want"),
    [(0, 30, True), (90, 30, True), (90.1, 30, False), (90.1, 1, False), (200, 120, True), (361, 120, False)],
)
def test_health_ends_after_ninety_silent_seconds_or_three_long_intervals(
    silent_s: float, interval_s: float, want: bool
) -> None:
    assert is_healthy(silent_s, interval_s) is want


def metrics(agent_id: str = "a") -> MetricsView:
    return MetricsView(
        agent_id=agent_id, version="1.0", uptime=2.5, heartbeat_count=3, heartbeat_failures=1,
        last_heartbeat=None, cpu_percent=1.0, memory_bytes=4096, status="running",
    )


def extra(last: float | None = 5.0) -> Extra:
    return Extra(healthy=True, skipped_total=2, cpu_seconds_total=0.5, last_heartbeat_at=last, started_at=1.0)


def test_the_text_is_read_back_by_a_prometheus_parser() -> None:
    hostile = 'q"\\\n'
    families = {f.name: f for f in text_string_to_metric_families(prometheus_text(metrics(hostile), extra()))}
    assert families["hostagent_info"].samples[0].labels == {"agent_id": hostile, "version": "1.0"}
    assert families["hostagent_heartbeats"].samples[0].value == 3
    assert families["process_resident_memory_bytes"].samples[0].value == 4096
    assert families["hostagent_last_heartbeat_timestamp_seconds"].samples[0].value == 5.0


def test_a_heartbeat_that_never_was_has_no_time() -> None:
    assert "last_heartbeat" not in prometheus_text(metrics(), extra(None))
