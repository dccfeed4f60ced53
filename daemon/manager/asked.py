"""What a query of the Manager's API says, parsed; anything else is the asker's fault."""

from __future__ import annotations

import math
from datetime import UTC, datetime

from daemon.errors import RequestError, RequestFault
from daemon.web.arguments import argument
from daemon.web.request import BoundedRequest

LAST_MOMENT = 253_402_300_799  # of the year 9999


def one_of(text: str, known: tuple[str, ...], name: str) -> str:
    """A word of those.

    Raises:
        RequestError: INVALID.
    """
    if text not in known:
        raise RequestError(
            RequestFault.INVALID, f"{name} must be one of {', '.join(known)}, not {text[:40]!r}"
        )
    return text


def moment(request: BoundedRequest, name: str, default: float) -> float:
    """A time in the query: Unix seconds or RFC 3339.

    Raises:
        RequestError: INVALID.
    """
    text = argument(request, name)
    if not text:
        return default
    try:
        if text.replace(".", "", 1).isdecimal() and text.isascii():
            found = float(text)
        else:
            read = datetime.fromisoformat(text.replace(" ", "+"))  # an unescaped + arrives as a blank
            found = (read if read.tzinfo else read.replace(tzinfo=UTC)).timestamp()
        if not 0 <= found <= LAST_MOMENT:
            raise ValueError
    except (ValueError, OverflowError):
        raise RequestError(
            RequestFault.INVALID,
            f"{name} must be Unix seconds or RFC 3339, such as 2026-11-20T10:00:00Z, not {text[:40]!r}",
        ) from None
    return found


def span(request: BoundedRequest, begin: float) -> tuple[float, float]:
    """``from`` and ``to`` in the query; without them from ``begin`` to the end of time.

    Raises:
        RequestError: INVALID.
    """
    since, until = moment(request, "from", begin), moment(request, "to", LAST_MOMENT)
    if since > until and argument(request, "from"):
        raise RequestError(RequestFault.INVALID, "from is later than to; exchange them")
    return since, until


def sample_place(request: BoundedRequest) -> tuple[int, str] | None:
    """``after`` in the query, as :func:`daemon.manager.views.sample_place` writes it: timestamp and type.

    Raises:
        RequestError: INVALID.
    """
    text = argument(request, "after")
    if not text:
        return None
    at, _, type = text.partition("/")
    if not (at.isascii() and at.isdigit() and int(at[:13]) <= LAST_MOMENT and type):
        raise _no_place()
    return int(at[:13]), type


def event_place(request: BoundedRequest) -> tuple[float, str, str] | None:
    """``after`` in the query, as :func:`daemon.manager.views.event_place` writes it: time, source, id.

    Raises:
        RequestError: INVALID.
    """
    text = argument(request, "after")
    if not text:
        return None
    try:
        at, source, event_id = text.split("/", 2)
        found = float(at), source, event_id
    except ValueError:
        raise _no_place() from None
    if not math.isfinite(found[0]):
        raise _no_place()
    return found


def _no_place() -> RequestError:
    return RequestError(RequestFault.INVALID, "after must be what the answer before called next")
