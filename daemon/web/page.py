"""The dashboard: files beside this module, read when they are asked for and not kept."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import ParamSpec

from daemon.aio.threads import LaneBusy, LaneTimeout, Threads
from daemon.errors import RequestError, RequestFault
from daemon.web.request import BoundedRequest, header_text

LANE = "page"
DEADLINE_S = 10.0
FOLDER = Path(__file__).with_name("static")
INDEX_FILE = "index.html"
HTML = b"text/html; charset=utf-8"
TYPES = {
    ".html": HTML,
    ".css": b"text/css; charset=utf-8",
    ".js": b"text/javascript; charset=utf-8",
    ".LICENSE": b"text/plain; charset=utf-8",
    ".sha256": b"text/plain; charset=utf-8",
}
POLICY = (
    b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    b"frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)
P = ParamSpec("P")
_NAME = re.compile(r"(?=.{1,64}$)[A-Za-z0-9]+(?:\.[A-Za-z0-9]+)+")  # one folder, so no name leads out of it


def wants_html(accept: str) -> bool:
    """Whether an Accept header names HTML itself, as browsers do; ``*/*`` is a program, which gets JSON."""
    for part in accept.split(","):
        kind, *parameters = (piece.strip().lower() for piece in part.split(";"))
        if kind == "text/html":
            return not any(re.fullmatch(r"q=0(\.0*)?", parameter) for parameter in parameters)
    return False


def read_file(name: str) -> bytes:
    """The bytes of a file; blocks.

    Raises:
        RequestError: UNKNOWN, there is none of that name.
    """
    suffix = Path(name).suffix
    try:
        if _NAME.fullmatch(name) is None or suffix not in TYPES:
            raise FileNotFoundError(name)
        return (FOLDER / name).read_bytes()
    except FileNotFoundError:
        raise RequestError(RequestFault.UNKNOWN, f"the page has no file {name!r}") from None


async def asked_for(threads: Threads, make: Callable[P, bytes], *args: P.args, **kwargs: P.kwargs) -> bytes:
    """What is made in the page's lane.

    Raises:
        RequestError: BUSY, when the disk does not answer; and what ``make`` raises.
    """
    try:
        return await threads.run(LANE, DEADLINE_S, make, *args, **kwargs)
    except (LaneBusy, LaneTimeout) as error:
        raise RequestError(
            RequestFault.BUSY, "the disk with the daemon's own files does not answer", retry_after_s=5
        ) from error


async def serve_file(request: BoundedRequest, threads: Threads, name: str) -> bytes:
    """Answers with a file of the page.

    Browsers ask each time whether their copy is still good (no-cache, ETag): an update of the daemon must not
    meet the scripts of the version before.

    Raises:
        RequestError: UNKNOWN, or BUSY when the disk does not answer.
    """
    body = await asked_for(threads, read_file, name)
    for header, value in (
        (b"content-type", TYPES[Path(name).suffix]), (b"content-security-policy", POLICY),
        (b"x-content-type-options", b"nosniff"), (b"referrer-policy", b"no-referrer"),
        (b"cross-origin-resource-policy", b"same-origin"), (b"cache-control", b"no-cache"),
    ):
        request.setHeader(header, value)
    tag = hashlib.sha256(body).hexdigest()[:32]
    # setETag answers 304 by itself; a weak tag, as a proxy that compresses sends it back, is the same to us.
    sent = header_text(request, b"if-none-match").replace("W/", "")
    request.requestHeaders.setRawHeaders(b"if-none-match", [sent.replace(",", " ")] if sent else [])
    return b"" if request.setETag(f'"{tag}"'.encode()) else body
