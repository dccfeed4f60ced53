"""Who may do what over HTTP: pure decisions about one request."""

from __future__ import annotations

import hmac
import ipaddress
import re
from collections.abc import Collection
from dataclasses import dataclass

from daemon.errors import RequestError, RequestFault

SAFE_METHODS = frozenset({"GET", "HEAD"})
_HOST = re.compile(r"(?:\[(?P<address>[0-9a-z:.%_-]+)\]|(?P<name>[^\[\]:@/?#\s]+))(?::[0-9]*)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Asker:
    """What is known of a request.

    Attributes:
        peer: for the audit: address, or uid and pid.
        local: it came over the control socket, whose peer was checked when it connected.
        client_certificate: a certificate signed by the configured client CA was shown.
    """

    method: str
    host: str
    origin: str
    authorization: str
    peer: str
    local: bool = False
    client_certificate: bool = False
    secure: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """How refusals call the program that answers.

    Attributes:
        name: such as ``daemon``.
        realm: of its token.
        credentials: where the token is, and what serves instead of it.
    """

    name: str
    realm: str
    credentials: str


DAEMON = Program(
    name="daemon", realm="hostdaemon",
    credentials="with the token in work_dir/api.token, or use the control socket",
)


def host_name(host: str) -> str:
    """The name in a Host header, lower case, port and brackets taken off (RFC 9110, 7.2); empty for none."""
    found = _HOST.fullmatch(host.strip().lower())
    return "" if found is None else found["address"] or found["name"]


def names_us(host: str, our_names: Collection[str]) -> bool:
    """Whether a Host header names us: an address, localhost, or a name of this host.

    A page that had its own name resolve to our address (DNS rebinding) shows its own name here.
    """
    name = host_name(host)
    if name == "localhost" or name.endswith(".localhost") or name in our_names:
        return True
    try:
        ipaddress.ip_address(name.partition("%")[0])
    except ValueError:
        return False
    return True


def check_access(
    asker: Asker, *, token: str, our_names: Collection[str], mutates: bool, program: Program = DAEMON
) -> None:
    """Lets a request pass or says why not.

    Args:
        asker: the request.
        token: the bearer token of this program.
        our_names: names of this host.
        mutates: whether it may change something; the heartbeat route counts as reading.
        program: how refusals call us.

    Raises:
        RequestError: FORBIDDEN (foreign Host or Origin) or UNAUTHORIZED (no valid token).
    """
    if asker.local:
        return
    if asker.host and not names_us(asker.host, our_names):
        raise RequestError(
            RequestFault.FORBIDDEN,
            f"Host {asker.host!r} is not a name of this {program.name}; use its address or localhost",
        )
    if asker.origin:
        scheme = "https" if asker.secure else "http"
        if asker.origin.lower() != f"{scheme}://{asker.host.strip().lower()}":
            raise RequestError(
                RequestFault.FORBIDDEN,
                f"a page of {asker.origin!r} may not use this {program.name} from a browser",
            )
    if not mutates or asker.client_certificate:
        return
    scheme, _, given = asker.authorization.partition(" ")
    if token and scheme.lower() == "bearer" and hmac.compare_digest(given.strip().encode(), token.encode()):
        return
    raise RequestError(
        RequestFault.UNAUTHORIZED, f"this needs 'Authorization: Bearer TOKEN' {program.credentials}"
    )
