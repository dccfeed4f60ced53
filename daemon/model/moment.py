"""Wall time as text: RFC 3339 in UTC, as every answer and file of ours writes it."""

from __future__ import annotations

from datetime import UTC, datetime


def rfc3339(at: float) -> str:
    """Unix seconds as ``2026-11-20T10:00:00.123Z``.

    Raises:
        ValueError, OverflowError: beyond the years 1 to 9999.
    """
    moment = datetime.fromtimestamp(at, UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03d}Z"


def rfc3339_or_none(at: float | None) -> str | None:
    """Like :func:`rfc3339`; None and 0 mean never and stay None."""
    return rfc3339(at) if at else None
