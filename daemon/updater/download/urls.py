"""Which URLs a package may come from: ``update.allowed_urls`` is a list of prefixes, and text prefixes lie.

``https://good.example`` is also how ``https://good.example@evil.example/``, ``https://good.example.evil/``
and ``https://good.example:8443/`` begin, and ``/packages/%2e%2e/secret`` begins with ``/packages/``. So both
sides are taken apart first (RFC 3986), everything that servers and clients are known to read differently is
refused, and what was compared is put together anew: that text, and no other, is asked for.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from urllib.parse import unquote_to_bytes

URL_MAX = 8192  # characters; links signed by object stores have two thousand
_PORTS = {"http": 80, "https": 443}
_FORM = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?P<rest>[^/?#]*)(?P<path>[^?#]*)(?P<query>\?[^#]*)?(?:#.*)?")
_CHARACTERS = re.compile(r"[A-Za-z0-9._~:/?#\[\]@!$&'()*+,;=%-]*")  # RFC 3986, 2.2 and 2.3
_BROKEN_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_ESCAPE = re.compile(r"%([0-9A-Fa-f]{2})")
_USERINFO = re.compile(r"[A-Za-z0-9._~!$&'()*+,;=:%-]*")
_AUTHORITY = re.compile(r"(?P<host>\[[^\[\]]*\]|[^:\[\]]*)(?::(?P<port>[0-9]{0,5}))?")
_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
_UNRESERVED = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
_NEVER_IN_PATHS = frozenset(b"/\\%") | frozenset(range(0x20)) | {0x7F}  # behind an escape


class BadUrlError(ValueError):
    """A URL that nobody should ask for; the text says what is wrong with it, and holds nothing of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PackageUrl:
    """A URL that was taken apart and has one reading.

    Attributes:
        host: lower case, without a trailing dot; an IPv6 address without brackets.
        path: begins with a slash; no dot segments, no escapes but those that are needed.
        query: with its question mark; empty for none.
        userinfo: ``user:password`` as written, escaped; never part of a comparison and never shown.
    """

    scheme: str
    host: str
    port: int
    path: str
    query: str = field(default="", repr=False)
    userinfo: str = field(default="", repr=False)

    @property
    def text(self) -> str:
        """What to ask for."""
        login = f"{self.userinfo}@" if self.userinfo else ""
        return f"{self.scheme}://{login}{self._authority}{self.path}{self.query}"

    @property
    def shown(self) -> str:
        """For messages: neither user and password, nor a query, which may be a signature."""
        return f"{self.scheme}://{self._authority}{self.path}"

    @property
    def _authority(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"


def parse_url(text: str) -> PackageUrl:
    """Takes a URL apart; a fragment is dropped, for it is never sent.

    Raises:
        BadUrlError: it is no http or https URL, or has more than one reading.
    """
    if len(text) > URL_MAX:
        raise BadUrlError(f"it is longer than {URL_MAX} characters")
    if not text.isascii():
        raise BadUrlError("it is not ASCII; write its host in the xn-- form, and other characters as %XX")
    if _CHARACTERS.fullmatch(text) is None:
        raise BadUrlError("it holds a space, a control character, a backslash or another that URLs have not")
    if _BROKEN_ESCAPE.search(text):
        raise BadUrlError("it holds a % without two hex digits")
    form = _FORM.fullmatch(text)
    if form is None:
        raise BadUrlError("it is not of the form https://host/path")
    scheme = form["scheme"].lower()
    if scheme not in _PORTS:
        raise BadUrlError(f"its scheme is {scheme[:20]}, not http or https")
    userinfo, at, rest = form["rest"].rpartition("@")
    if at and _USERINFO.fullmatch(userinfo) is None:
        raise BadUrlError("what stands before its @ is no user and password")
    authority = _AUTHORITY.fullmatch(rest)
    if authority is None:
        raise BadUrlError("its host or port cannot be read")
    port = int(authority["port"] or _PORTS[scheme])
    if not 1 <= port <= 65535:
        raise BadUrlError("its port is not 1 to 65535")
    return PackageUrl(
        scheme=scheme, host=_host(authority["host"].lower()), port=port, path=_path(form["path"] or "/"),
        query=form["query"] or "", userinfo=userinfo,
    )


def parse_prefix(text: str) -> PackageUrl:
    """Takes an entry of ``allowed_urls`` apart.

    Raises:
        BadUrlError: as for a URL, or it has what a prefix cannot have.
    """
    url = parse_url(text)
    if url.query or "#" in text:
        raise BadUrlError("it has a query or a fragment, and a prefix ends with the path")
    if url.userinfo:
        raise BadUrlError("it has a user or password; these belong into the URL of the update")
    return url


def covers(prefix: PackageUrl, url: PackageUrl) -> bool:
    """Whether ``url`` is ``prefix`` itself or below it: same scheme, host and port, whole path segments."""
    if (prefix.scheme, prefix.host, prefix.port) != (url.scheme, url.host, url.port):
        return False
    folder = prefix.path if prefix.path.endswith("/") else prefix.path + "/"
    return url.path == prefix.path or url.path.startswith(folder)


def allowed_url(text: str, allowed: Iterable[str]) -> PackageUrl:
    """The URL, when ``update.allowed_urls`` permits it.

    Raises:
        BadUrlError: it does not, with why.
    """
    url = parse_url(text)
    unusable = []
    for place, entry in enumerate(allowed):
        try:
            if covers(parse_prefix(entry), url):
                return url
        except BadUrlError as error:
            unusable.append(f"; allowed_urls[{place}] permits nothing: {error}")
    raise BadUrlError(f"{url.shown} is not below any prefix in update.allowed_urls{''.join(unusable)}")


def _host(text: str) -> str:
    if text.startswith("["):
        try:
            address = ipaddress.IPv6Address(text[1:-1])
        except ValueError:
            raise BadUrlError("its host is no IPv6 address") from None
        if address.scope_id is not None:
            raise BadUrlError("its host has a zone")
        return str(address)
    host = text.removesuffix(".")
    labels = host.split(".")
    if len(host) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        raise BadUrlError("its host is no name and no address")
    if _NUMBER.fullmatch(labels[-1]):  # 127.1, 0x7f000001, 2130706433: one address has many spellings
        try:
            ipaddress.IPv4Address(host)
        except ValueError:
            raise BadUrlError("its host is a number but no address of four numbers") from None
    return host


def _path(text: str) -> str:
    for segment in text.split("/"):
        raw = unquote_to_bytes(segment)
        if not _NEVER_IN_PATHS.isdisjoint(raw):
            raise BadUrlError("its path has an escaped slash, backslash, % or control character")
        # "..;x" and ".. " are ".." to some servers, and so may "..." be.
        name = raw.split(b";")[0].strip()
        if raw and not name.strip(b"."):
            raise BadUrlError("its path has a segment of nothing but dots or spaces")
    return _ESCAPE.sub(_needed, text)


def _needed(escape: re.Match[str]) -> str:
    """An escape in its one spelling, or the character itself where none is needed (RFC 3986, 6.2.2)."""
    character = chr(int(escape[1], 16))
    return character if character in _UNRESERVED else escape[0].upper()
