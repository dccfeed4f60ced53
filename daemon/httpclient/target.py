"""What is asked for, and who asks."""

from __future__ import annotations

import base64
from urllib.parse import quote, unquote_to_bytes, urlsplit, urlunsplit

from daemon import __version__
from daemon.httpclient.errors import HttpError

USER_AGENT = f"hostdaemon/{__version__}"
_URL_SAFE = "/?#[]@!$&'()*+,;=:%~"  # RFC 3986: what is not to be quoted in a path or query


def split_target(url: str) -> tuple[bytes, str]:
    """What to ask, without user and password, and the Authorization header that these two make (RFC 7617).

    Raises:
        HttpError: the host is not ASCII.
    """
    parts = urlsplit(url)
    login, _, netloc = parts.netloc.rpartition("@")
    if not netloc.isascii():
        raise HttpError(f"the host {netloc} is not ASCII; write it in its xn-- form")
    path, query = quote(parts.path, safe=_URL_SAFE), quote(parts.query, safe=_URL_SAFE)
    target = urlunsplit((parts.scheme, netloc, path, query, "")).encode("ascii")
    if not login:
        return target, ""
    return target, basic(login)


def basic(login: str) -> str:
    """The value of a header that shows ``user:password``, escaped as in a URL (RFC 7617)."""
    user, _, password = login.partition(":")
    pair = unquote_to_bytes(user) + b":" + unquote_to_bytes(password)
    return "Basic " + base64.b64encode(pair).decode("ascii")
