"""The gate before every route: who asks, from where, with how much."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace
from typing import Any
from urllib.parse import unquote_to_bytes

from twisted.web.resource import IResource, Resource
from zope.interface import implementer

from daemon.errors import RequestError, RequestFault
from daemon.web.access import SAFE_METHODS, Asker, check_access
from daemon.web.api import write_problem
from daemon.web.problems import problem_of
from daemon.web.request import BODY_MAX, BoundedRequest, header_text
from daemon.web.updates import ROUTE

HEARTBEAT = b"/heartbeat"  # agents send without a token; the receiver checks their pid instead

Refuse = Callable[[BoundedRequest, RequestError], bytes]


@implementer(IResource)
class Gate(Resource):
    """Checks a request and hands it to the routes behind it.

    Args:
        inner: the routes.
        token: the bearer token.
        our_names: names of this host, for the Host header.
        local: whether this is the control socket, whose peers were checked when they connected.
        heartbeat_refusal: the form of a refusal on the heartbeat route.
        package_max: bytes of a request that brings a package.
    """

    isLeaf = True

    def __init__(
        self, inner: Any, *, token: str, our_names: Collection[str], local: bool,
        heartbeat_refusal: Callable[[int, str], bytes], package_max: Callable[[], int] = lambda: BODY_MAX,
    ) -> None:
        super().__init__()
        self._inner = inner
        self._token = token
        self._our_names = our_names
        self._local = local
        self._heartbeat_refusal = heartbeat_refusal
        self._package_max = package_max

    def body_room(self, command: bytes, path: bytes, request: BoundedRequest) -> int:
        """Bytes that a body may have: a package's worth for those alone who may send one."""
        if command != b"POST" or path.partition(b"?")[0] != ROUTE:
            return BODY_MAX
        asker = replace(self._asker(request), method="POST")
        try:
            check_access(asker, token=self._token, our_names=self._our_names, mutates=True)
        except RequestError:
            return BODY_MAX  # it is refused when it is there
        return self._package_max()

    def render(self, request: BoundedRequest) -> bytes | int:
        """Refuses, or passes on."""
        asker = self._asker(request)
        request.peer = asker.peer
        is_heartbeat = request.path == HEARTBEAT
        try:
            _check_text(request)
            mutates = asker.method not in SAFE_METHODS and not is_heartbeat
            check_access(asker, token=self._token, our_names=self._our_names, mutates=mutates)
            if request.too_large and not is_heartbeat:
                raise RequestError(RequestFault.TOO_LARGE, f"the body is over {request.body_max} bytes")
        except RequestError as error:
            answer = problem_of(error)
            if is_heartbeat:
                request.setResponseCode(answer.status)
                request.setHeader(b"content-type", b"application/json")
                return self._heartbeat_refusal(answer.status, error.message)
            return write_problem(request, answer)
        result: bytes | int = self._inner.render(request)
        return result

    def _asker(self, request: BoundedRequest) -> Asker:
        transport = request.channel.transport
        certificate = getattr(transport, "getPeerCertificate", None)
        return Asker(
            method=request.method.decode("ascii", "replace"),
            host=header_text(request, b"host"),
            origin=header_text(request, b"origin"),
            authorization=header_text(request, b"authorization"),
            peer=getattr(request.channel, "peer_name", "") or _address(request),
            local=self._local,
            client_certificate=certificate is not None and certificate() is not None,
            secure=bool(request.isSecure()),
        )


def _address(request: BoundedRequest) -> str:
    """``host:port`` of who asks, as in the audit of gRPC; empty on a Unix socket."""
    address: Any = request.getClientAddress()
    host = str(getattr(address, "host", ""))
    return f"[{host}]:{address.port}" if ":" in host else f"{host}:{address.port}" if host else ""


def _check_text(request: BoundedRequest) -> None:
    """Routes are text: what is none would be answered by Klein itself, not by a problem of ours.

    Raises:
        RequestError: INVALID; method, path or Host is not UTF-8.
    """
    for name, data in (
        ("method", request.method), ("path", unquote_to_bytes(request.path)),
        ("Host header", request.getHeader(b"host") or b""),
    ):
        try:
            data.decode("utf-8")
        except UnicodeDecodeError:
            raise RequestError(RequestFault.INVALID, f"the {name} is not UTF-8; correct it") from None
