"""Which proxy the environment asks for: http_proxy, https_proxy, no_proxy, read as curl does. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from daemon.httpclient.errors import HttpError
from daemon.httpclient.target import basic

_PORT = 80  # of a proxy whose URL names none
_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True, kw_only=True)
class Proxy:
    """A proxy that speaks HTTP.

    Attributes:
        authorization: value of Proxy-Authorization; empty for none.
    """

    host: str
    port: int
    authorization: str = field(default="", repr=False)


def proxy_for(url: str, environ: Mapping[str, str]) -> Proxy | None:
    """The proxy to ask ``url`` through; None for a direct connection.

    The lower-case name of a variable wins over the upper-case one. ``HTTP_PROXY`` is not read beside
    ``REQUEST_METHOD``: in a CGI program it is a header of whoever asks (httpoxy).

    Raises:
        HttpError: final; what the environment says is no proxy we can use. Going round it would be worse.
    """
    parts = urlsplit(url)
    scheme, host = parts.scheme.lower(), (parts.hostname or "").rstrip(".")
    name = f"{scheme}_proxy"
    written = environ.get(name)
    if written is None and not (scheme == "http" and "REQUEST_METHOD" in environ):
        name = name.upper()
        written = environ.get(name)
    if not written or _excepted(host, parts.port or _PORTS.get(scheme, 0), environ):
        return None
    return _parse(written.strip(), name)


def _parse(text: str, name: str) -> Proxy:
    try:
        parts = urlsplit(text if "://" in text else f"http://{text}")
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
        parts = urlsplit("http://")
    if parts.scheme != "http":
        raise HttpError(f"the proxy in {name} must be spoken to by http, not {parts.scheme[:20]}", final=True)
    if not host or not host.isascii() or port == 0:
        raise HttpError(f"{name} is no URL such as http://proxy.example:3128", final=True)
    login = parts.netloc.rpartition("@")[0]
    return Proxy(host=host, port=_PORT if port is None else port, authorization=basic(login) if login else "")


def _excepted(host: str, port: int, environ: Mapping[str, str]) -> bool:
    """Whether ``no_proxy`` names the host: itself or a domain above it, an address or network, ``*``; an
    entry with a port is for that port alone."""
    listed = environ.get("no_proxy", environ.get("NO_PROXY", ""))
    return any(_names(entry, host.lower(), port) for entry in listed.lower().replace(",", " ").split())


def _names(entry: str, host: str, port: int) -> bool:
    if entry == "*":
        return True
    network = _network(entry)
    if network is None:
        name, colon, digits = entry.rpartition(":")
        if colon and digits.isdigit():
            if int(digits) != port:
                return False
            entry = name
            network = _network(entry)
    if network is not None:
        try:
            return ipaddress.ip_address(host) in network
        except ValueError:
            return False
    domain = entry.removeprefix("*").strip(".")
    return bool(domain) and (host == domain or host.endswith("." + domain))


def _network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    try:
        return ipaddress.ip_network(text.strip("[]"), strict=False)
    except ValueError:
        return None
