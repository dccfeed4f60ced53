"""Parsers of single configuration values; each takes what YAML or the environment gave.

They share one signature, ``(value, start) -> value``, with ``start`` the directory a relative path
begins at, and say what is wrong in a :class:`ValueFault`.
"""

from __future__ import annotations

import ipaddress
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

MAX_SOCKET_PATH_BYTES = 103  # sun_path holds 104 on the smallest system, with its NUL (unix(7): 108)
MAX_TEXT = 200
MIN_INTERVAL_S = 0.1
MAX_INTERVAL_S = 3600.0

_AGENT_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_DURATION = re.compile(r"(?:\d{1,9}(?:\.\d{1,6})?(?:ms|s|m|h))+")
_DURATION_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h)")
_UNIT_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


class ValueFault(Exception):
    """What is wrong with one value, for a person."""


def _shown(value: Any) -> str:
    """A value in a message: short, and never a container (aliases can make those huge)."""
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list | tuple | set):
        return "a list"
    if isinstance(value, int) and abs(value) > 10**18:
        return "a very large number"
    return repr(value if not isinstance(value, str) else value[:60])


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueFault(f"must be text, not {_shown(value)}; write it in quotes")
    if len(value) > MAX_TEXT or not value.isprintable():
        raise ValueFault(f"must be at most {MAX_TEXT} printable characters")
    return value


def agent_id(value: Any, start: Path) -> str:
    """An agent id as the daemon's configuration allows it."""
    text = _text(value)
    if not _AGENT_ID.fullmatch(text):
        raise ValueFault(
            f"{_shown(text)} must be 1 to 63 of A-Z a-z 0-9 . _ -, beginning with a letter or digit"
        )
    return text


def version_text(value: Any, start: Path) -> str:
    """A version; numbers are refused because YAML reads 1.10 as 1.1."""
    return _text(value)


def path_text(value: Any, start: Path) -> str:
    """An absolute path."""
    text = value if isinstance(value, str) else _text(value)
    if len(text) > 4095 or "\0" in text:
        raise ValueFault("is no path: too long, or with a NUL in it")
    return str(start / text)


def socket_path(value: Any, start: Path) -> str:
    """An absolute path that fits into a socket address."""
    path = path_text(value, start)
    length = len(path.encode("utf-8", "surrogateescape"))
    if length > MAX_SOCKET_PATH_BYTES:
        raise ValueFault(f"is {length} bytes long, a socket's path may have {MAX_SOCKET_PATH_BYTES}")
    return path


def http_url(value: Any, start: Path) -> str:
    """A whole http or https URL."""
    text = _text(value)
    try:
        parts = urlsplit(text)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        good = False
    if not good or not text.isascii() or " " in text:
        raise ValueFault(f"{_shown(text)} must be a URL such as http://127.0.0.1:8084/heartbeat")
    if parts.username is not None or parts.password is not None:
        raise ValueFault("must not hold a user name or password; the daemon asks for none")
    return text


def duration_s(value: Any, start: Path) -> float:
    """Seconds of ``500ms 30s 1m30s 2h`` or a number of seconds, 0.1 s to 1 h."""
    seconds = math.nan
    if isinstance(value, int | float) and not isinstance(value, bool):
        # Compared before it is converted: an int may be too large for a float.
        seconds = float(value) if -1 < value <= MAX_INTERVAL_S else math.inf
    elif isinstance(value, str) and _DURATION.fullmatch(value):
        seconds = sum(float(number) * _UNIT_S[unit] for number, unit in _DURATION_PART.findall(value))
    elif isinstance(value, str) and re.fullmatch(r"\d{1,9}(?:\.\d{1,6})?", value):
        seconds = float(value)
    if math.isnan(seconds):
        raise ValueFault(f"{_shown(value)} must be a duration such as 500ms, 30s or 1m30s")
    if not MIN_INTERVAL_S <= seconds <= MAX_INTERVAL_S:
        raise ValueFault(f"{_shown(value)} must be from 100ms to 1h")
    return seconds


def host(value: Any, start: Path) -> str:
    """An IP address to listen on; a name would need the resolver."""
    text = _text(value)
    if text == "localhost":
        return "127.0.0.1"
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        raise ValueFault(f"{_shown(text)} must be an IP address, such as 127.0.0.1 or ::1") from None


def port(value: Any, start: Path) -> int:
    """A TCP port; 0 means off."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= 5:
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= 65535:
        raise ValueFault(f"{_shown(value)} must be a port from 0 (off) to 65535")
    return value


def choice(*allowed: str) -> Callable[[Any, Path], str]:
    """A parser for one of a few words."""

    def parse(value: Any, start: Path) -> str:
        if value not in allowed or not isinstance(value, str):
            raise ValueFault(f"{_shown(value)} must be one of {', '.join(allowed)}")
        return value

    return parse
