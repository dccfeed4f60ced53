"""Durations and sizes as people write them; pure, and shared by every reader of such values.

Durations: ``500ms 30s 1m30s 2h 7d`` or a number of seconds. Sizes: a number of bytes, ``500MB``
(10^6) or ``500MiB`` (2^20). Both refuse booleans (YAML's ``yes`` is one), negative numbers, NaN and
infinity, and anything beyond what a timer or a file could hold.
"""

from __future__ import annotations

import math
import re

MAX_SECONDS = 10 * 365 * 86400.0
"""Ten years. Longer is a slip of the unit, and timers of the system overflow on such numbers."""
MAX_BYTES = 1 << 60
"""1 EiB: larger than any file, smaller than a signed 64 bit number."""
MAX_TEXT = 64
"""Characters; no sensible value is longer, and long digit strings are slow to convert."""

_NUMBER = r"[0-9]+(?:\.[0-9]+)?"
DURATION_PATTERN = "".join(rf"(?:({_NUMBER}){unit})?" for unit in ("d", "h", "m(?!s)", "s", "ms"))
SIZE_PATTERN = r"([0-9]+)(?:\.([0-9]+))? ?(B|[kK]B|MB|GB|TB|[kK]iB|KIB|MiB|GiB|TiB)?"
_DURATION = re.compile(DURATION_PATTERN)
_SIZE = re.compile(SIZE_PATTERN)
_BARE_NUMBER = re.compile(_NUMBER)
_SECONDS = (86400.0, 3600.0, 60.0, 1.0)
_FACTOR = {
    "": 1, "B": 1,
    "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12,
    "KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40,
}  # fmt: skip


def parse_duration(value: object) -> float:
    """Seconds, from text such as ``1m30s`` or a number of seconds.

    Raises:
        ValueError: it is not a duration; the message says what to write.
    """
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        seconds = _finite(value)
    elif isinstance(value, str):
        seconds = _duration_text(value)
    else:
        raise ValueError(f"must be a duration such as 1m30s, or a number of seconds, not {_shown(value)}")
    if seconds > MAX_SECONDS:
        raise ValueError(f"must be at most ten years, not {_shown(value)}")
    return seconds


def parse_size(value: object) -> int:
    """Bytes, from text such as ``500MB`` or ``64MiB`` or a number of bytes.

    Raises:
        ValueError: it is not a size; the message says what to write.
    """
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        number = _finite(value)
        if not number.is_integer():
            raise ValueError(f"must be a whole number of bytes, not {_shown(value)}")
        size = int(value)
    elif isinstance(value, str):
        size = _size_text(value)
    else:
        raise ValueError(f"must be a size such as 64MiB, or a number of bytes, not {_shown(value)}")
    if size > MAX_BYTES:
        raise ValueError(f"must be at most 1 EiB, not {_shown(value)}")
    return size


def _finite(value: float) -> float:
    try:
        number = float(value)
    except OverflowError:
        raise ValueError("is too large") from None
    if not math.isfinite(number):
        raise ValueError(f"must be a finite number, not {number}")
    if number < 0:
        raise ValueError(f"must not be negative, not {_shown(value)}")
    return number


def _duration_text(text: str) -> float:
    if len(text) <= MAX_TEXT:
        if _BARE_NUMBER.fullmatch(text):
            return float(text)
        match = _DURATION.fullmatch(text)
        if text and match is not None:
            *whole, millis = match.groups()
            seconds = sum(float(n) * unit for n, unit in zip(whole, _SECONDS, strict=True) if n is not None)
            return seconds + (float(millis) / 1000 if millis is not None else 0.0)
    if text.lstrip().startswith("-"):
        raise ValueError(f"must not be negative, not {_shown(text)}")
    raise ValueError(
        f"{_shown(text)} is not a duration; write 500ms, 30s, 1m30s, 2h (d h m s ms, largest first)"
        " or a number of seconds"
    )


def _size_text(text: str) -> int:
    match = _SIZE.fullmatch(text) if len(text) <= MAX_TEXT else None
    if match is None:
        if text.lstrip().startswith("-"):
            raise ValueError(f"must not be negative, not {_shown(text)}")
        message = "is not a size; write 500MB (10^6), 500MiB (2^20) or a number of bytes"
        raise ValueError(f"{_shown(text)} {message}")
    whole, part, unit = match.groups(default="")
    scale: int = 10 ** len(part)
    size, rest = divmod(int(whole + part) * _FACTOR[unit.upper()], scale)
    if rest:
        raise ValueError(f"{_shown(text)} is not a whole number of bytes")
    return size


def _shown(value: object) -> str:
    if isinstance(value, int) and value.bit_length() > MAX_TEXT * 3:
        return "such a number"
    text = repr(value)
    return text if len(text) <= MAX_TEXT else text[: MAX_TEXT - 3] + "..."
