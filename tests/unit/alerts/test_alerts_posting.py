"""What the webhook says, and what it makes of an answer."""

from __future__ import annotations

import json
import math

import pytest

from daemon.alerts.posting import (
    MAX_DELAY_S,
    RETRY_AFTER_MAX_S,
    Outcome,
    alert_json,
    judge,
    pause_s,
    without_secrets,
)
from daemon.model.alert import Alert
from daemon.model.event import Severity


def test_a_body_says_what_where_and_since_when() -> None:
    alert = Alert(
        agent_id="web", type="cpu", severity=Severity.ERROR, message="uses 80 %", current_value=80.5,
        threshold=50.0, timestamp=1_700_000_000.25, cleared_at=1_700_000_090.0,
    )
    assert json.loads(alert_json(alert, "node-1", "host-1")) == {
        "agent_id": "web", "type": "cpu", "current_value": 80.5, "threshold": 50.0,
        "timestamp": "2023-11-14T22:13:20.250Z", "cleared_at": "2023-11-14T22:14:50.000Z", "severity": "error",
        "message": "uses 80 %", "node_id": "node-1", "hostname": "host-1",
    }


@pytest.mark.parametrize("value", [None, math.nan, math.inf])
def test_a_value_that_json_does_not_know_is_null(value: float | None) -> None:
    said = json.loads(alert_json(Alert(agent_id="", type="x", current_value=value, timestamp=1.0), "n", "h"))
    assert (said["current_value"], said["threshold"], said["cleared_at"]) == (None, None, None)


@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        *((status, Outcome.DELIVERED) for status in (200, 201, 202, 204, 299)),
        *((status, Outcome.REFUSED) for status in (300, 301, 308, 400, 401, 403, 404, 410, 413, 422, 499)),
        *((status, Outcome.AGAIN) for status in (100, 199, 408, 425, 429, 500, 502, 503, 504, 599, 999)),
    ],
)
def test_a_status_decides(status: int, outcome: Outcome) -> None:
    assert judge(status) is outcome


def test_delays_double_up_to_a_bound_and_are_spread() -> None:
    assert [pause_s(n, None, lambda: 0.5) for n in range(4)] == [0.5, 1.0, 2.0, 4.0]
    assert pause_s(5000, None, lambda: 1.0) == MAX_DELAY_S
    assert pause_s(3, None, lambda: 0.0) == 0.0


def test_what_the_receiver_asks_for_is_the_least_and_is_bounded() -> None:
    assert pause_s(0, 30.0, lambda: 0.0) == 30.0
    assert pause_s(1, 30.0, lambda: 0.5) == 31.0
    assert pause_s(0, 1e9, lambda: 0.0) == RETRY_AFTER_MAX_S
    assert pause_s(0, 0.0, lambda: 0.5) == 0.5


@pytest.mark.parametrize(
    ("text", "url", "shown"),
    [
        ("the name u:p@h does not resolve", "http://u:p@h/", "the name <redacted>@h does not resolve"),
        ("bad /services/T0/B0/xyz12", "https://h/services/T0/B0/xyz12", "bad <redacted>"),
        ("it disliked xyz12", "https://h/services/xyz12", "it disliked <redacted>"),
        ("bad /hook?token=abc", "https://h/hook?token=abc", "bad <redacted>"),
        ("bad token=abc", "https://h/hook?token=abc", "bad <redacted>"),
        ("connection refused", "https://h/", "connection refused"),
        ("no answer within 10 s", "https://h:8080/a/s", "no answer within 10 s"),
        ("", "https://h", ""),
    ],
)
def test_an_error_is_told_without_the_secrets_of_the_url(text: str, url: str, shown: str) -> None:
    assert without_secrets(text, url) == shown
