"""What a request says in its query, parsed; anything else is the asker's fault."""

from __future__ import annotations

from urllib.parse import unquote_plus

from daemon.config.units import parse_duration
from daemon.errors import RequestError, RequestFault
from daemon.web.request import BoundedRequest


def has(request: BoundedRequest, name: str) -> bool:
    """Whether the query names it, also without a value (``?verbose``), which ``request.args`` leaves out."""
    query = request.uri.partition(b"?")[2]
    return any(part.partition(b"=")[0] == name.encode() for part in query.split(b"&"))


def _bare(request: BoundedRequest, name: str) -> bool:
    """Whether it is named at least once, and never with a value or an empty one."""
    parts = request.uri.partition(b"?")[2].split(b"&")
    return name.encode() in parts and not any(part.startswith(name.encode() + b"=") for part in parts)


def only(request: BoundedRequest, *known: str) -> None:
    """Refuses a query that names anything else: a mistyped one would otherwise answer another question.

    Raises:
        RequestError: INVALID.
    """
    query = request.uri.partition(b"?")[2]
    for part in query.split(b"&"):
        name = unquote_plus(part.partition(b"=")[0].decode("utf-8", "replace"))
        if name and name not in known:
            these = ", ".join(known) if known else "nothing"
            raise RequestError(
                RequestFault.INVALID, f"{name[:40]!r} is not asked for here; known in this query: {these}"
            )


def argument(request: BoundedRequest, name: str) -> str:
    """Its last value, empty for none."""
    values = request.args.get(name.encode(), [])
    return values[-1].decode("utf-8", "replace") if values else ""


def flag(request: BoundedRequest, name: str, default: bool) -> bool:
    """true or false; named alone (``?follow``, without ``=``) it is true.

    Raises:
        RequestError: INVALID.
    """
    if not has(request, name):
        return default
    text = argument(request, name).lower()
    if not text and _bare(request, name):
        return True
    if text in ("true", "1", "yes"):
        return True
    if text in ("false", "0", "no"):
        return False
    raise RequestError(RequestFault.INVALID, f"{name} must be true or false, not {text!r}")


def number(request: BoundedRequest, name: str, default: int, most: int, least: int = 1) -> int:
    """A whole number from ``least`` to ``most``.

    Raises:
        RequestError: INVALID.
    """
    if not has(request, name):
        return default
    text = argument(request, name)
    if not (text.isascii() and text.isdigit() and len(text) <= 9 and least <= int(text) <= most):
        raise RequestError(
            RequestFault.INVALID, f"{name} must be a number from {least} to {most}, not {text!r}"
        )
    return int(text)


def seconds(request: BoundedRequest, name: str) -> int:
    """Whole seconds, written as a number or as a duration such as ``1h``; 0 where it is not written.

    Raises:
        RequestError: INVALID.
    """
    if not has(request, name):
        return 0
    text = argument(request, name)
    try:
        found = parse_duration(float(text) if text.replace(".", "", 1).isdigit() else text)
    except ValueError as error:
        raise RequestError(RequestFault.INVALID, f"{name} {error}") from error
    if not found.is_integer():  # rounded, half a second would be none: another question
        raise RequestError(RequestFault.INVALID, f"{name} must be whole seconds, not {text!r}")
    return int(found)
