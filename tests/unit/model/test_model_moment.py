"""Wall time as text."""

from __future__ import annotations

from daemon.model.moment import rfc3339, rfc3339_or_none


def test_rfc3339_is_utc_to_the_millisecond() -> None:
    assert rfc3339(1795140000.5) == "2026-11-20T02:00:00.500Z"
    assert rfc3339(0) == "1970-01-01T00:00:00.000Z"


def test_never_is_none() -> None:
    assert rfc3339_or_none(None) is None
    assert rfc3339_or_none(0) is None
    assert rfc3339_or_none(1.25) == "1970-01-01T00:00:01.250Z"
