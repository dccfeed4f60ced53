"""Which lines of a log are from a moment on; pure.

The daemon keeps agents' logs as they are written and knows no times of lines, so ``--since`` reads the times
that the lines themselves carry: ISO 8601 / RFC 3339 anywhere in their first 200 characters (telegraf,
filebeat, Go's ``ts=``, JSON's ``"time"`` and ``"@timestamp"``), the same with slashes (Go's ``log``), or Unix
seconds under the keys ``ts`` and ``time`` of JSON. A line without a time belongs to the one before it, as the
lines of a trace do.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime

import click

from daemon.config.units import parse_duration

_LOOKED_AT = 200
_MOMENT = re.compile(
    rb"(?<![0-9])([0-9]{4})[-/]([0-9]{2})[-/]([0-9]{2})[T ]([0-9]{2}:[0-9]{2}:[0-9]{2})(?:[.,]([0-9]{1,9}))?"
    rb" ?(Z|[+-][0-9]{2}:?[0-9]{2})?"
)
_UNIX = re.compile(rb'"(?:ts|time)": ?([0-9]{10})(?:\.[0-9]+)?[,}]')


def moment(text: str, now: float) -> float:
    """Unix seconds of ``15m`` (ago) or of a date and time, local where no zone is written.

    Raises:
        click.UsageError: neither.
    """
    try:
        return now - parse_duration(text)
    except ValueError:
        pass  # no duration; perhaps a time
    try:
        return datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError) as error:
        raise click.UsageError(
            f"--since takes how long ago (30s, 15m, 2h) or a time (2026-11-20T10:00:00Z), not {text!r}"
        ) from error


def time_of(line: bytes) -> float | None:
    """Unix seconds of a line; None where it carries no time. Without a zone it is local time."""
    head = line[:_LOOKED_AT]
    found = _MOMENT.search(head)
    if found is None:
        unix = _UNIX.search(head)
        return float(unix[1]) if unix else None
    year, month, day, clock, fraction, zone = (part.decode() if part else "" for part in found.groups())
    text = f"{year}-{month}-{day}T{clock}.{(fraction or '0')[:6].ljust(6, '0')}{zone}"
    try:
        return datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError):
        return None  # the 31st of February


def newer(lines: Sequence[bytes], after: float) -> list[bytes] | None:
    """The lines at or after a moment; None when no line carries a time, [] when all are older."""
    kept: list[bytes] = []
    told, shown = not lines, False
    for line in lines:
        at = time_of(line)
        if at is not None:
            told, shown = True, at >= after
        if shown:
            kept.append(line)
    return kept if told else None
