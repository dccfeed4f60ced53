"""Values as people read them: durations, sizes, ages, text that cannot harm a terminal; pure."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from datetime import datetime

# C0 and C1 controls (escape sequences begin with one), bidirectional overrides and marks, invisible
# characters, line and paragraph separators, lone surrogates, tags. Not the tab: see printable.
_UNPRINTABLE = re.compile(
    "[\x00-\x08\x0a-\x1f\x7f-\x9f\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\ud800-\udfff\U000e0000-\U000e007f]"
)
_BARS = "▁▂▃▄▅▆▇█"
NONE = "-"


def _escaped(found: re.Match[str]) -> str:
    code = ord(found[0])
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def printable_line(text: str) -> str:
    """A line from elsewhere, such as a log's: what a terminal would obey is shown as ``\\x1b``; tabs stay."""
    return _UNPRINTABLE.sub(_escaped, text)


def printable(text: object) -> str:
    """As :func:`printable_line`, for a cell: tabs are escaped too, for they would break the columns."""
    return printable_line(str(text)).replace("\t", "\\t")


def width_of(text: str) -> int:
    """Columns of a terminal the text takes (Unicode TR 11: wide characters take two, combining ones none)."""
    if text.isascii():
        return len(text)
    wide = sum(unicodedata.east_asian_width(char) in "WF" for char in text)
    return len(text) + wide - sum(unicodedata.combining(char) != 0 for char in text)


def cut(text: str, width: int) -> str:
    """The text in at most ``width`` columns, with an ellipsis where something was left out."""
    if width_of(text) <= width:
        return text
    kept = text[: max(0, width - 1)]
    while kept and width_of(kept) > width - 1:
        kept = kept[:-1]
    return kept + "…" if width > 0 else ""


def duration(seconds: float | None) -> str:
    """``0.4s 12s 3m20s 5h04m 12d03h``: two units at most; ``-`` for None."""
    if seconds is None:
        return NONE
    seconds = max(0.0, seconds)
    if seconds < 1:
        return f"{seconds:.1f}s"
    whole = int(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    if whole < 86400:
        return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
    return f"{whole // 86400}d{whole % 86400 // 3600:02d}h"


def size(count: float | None) -> str:
    """Bytes as ``512B 36.2M 1.5G`` (powers of 1024); ``-`` for None."""
    if count is None:
        return NONE
    value = float(count)
    for unit in "BKMGTP":
        if abs(value) < 1024 or unit == "P":
            break
        value /= 1024
    return f"{value:.0f}B" if unit == "B" else f"{value:.1f}{unit}"


def percent(value: float | None) -> str:
    """``12.5%``; ``-`` for None."""
    return NONE if value is None else f"{value:.1f}%"


def unix_time(text: str | None) -> float | None:
    """Unix seconds of a time of the API; None for never, or for what is no time."""
    if not text:
        return None
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        return None


def age(text: str | None, now: float) -> str:
    """How long ago a time of the API was; ``-`` for never."""
    at = unix_time(text)
    return NONE if at is None else duration(now - at)


def until(text: str | None, now: float) -> str:
    """How long until a time of the API, ``now`` when it has come; ``-`` for never."""
    at = unix_time(text)
    if at is None:
        return NONE
    return "now" if at <= now else duration(at - now)


def sparkline(values: Sequence[float | None], width: int) -> str:
    """The newest ``width`` values as bars from zero to their highest; a gap where nothing is known."""
    shown = list(values)[-width:] if width > 0 else []
    top = max((value for value in shown if value is not None), default=0.0)
    bars = ""
    for value in shown:
        if value is None:
            bars += " "
        else:
            bars += _BARS[min(7, int(value / top * 7.999))] if top > 0 else _BARS[0]
    return bars.rjust(width)
