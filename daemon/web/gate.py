"""The gate before every route: who asks, from where, with how much."""

from __future__ import annotations

from collections.abc import Callable, Collection

from twisted.web.resource import IResource, Resource
from zope.interface import implementer

from daemon.errors import RequestError, RequestFault
from daemon.web.access import SAFE_METHODS, Asker, check_access
from daemon.web.api import write_problem
from daemon.web.problems import problem_of
from daemon.web.request import BODY_MAX, BoundedRequest

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
    """

    isLeaf = True

    def __init__(
        self, inner: IResource, *, token: str, our_names: Collection[str], local: bool,
        heartbeat_refusal: Callable[[int, str], bytes],
    ) -> None:
        super().__init__()
        self._inner = inner
        self._token = token
        self._our_names = our_names
        self._local = local
        self._heartbeat_refusal = heartbeat_refusal

    def render(self, request: BoundedRequest) -> bytes | int:  # type: ignore[override]  # Twisted: untyped
        """Refuses, or passes on."""
        asker = self._asker(request)
        request.peer = asker.peer
        is_heartbeat = request.path == HEARTBEAT
        try:
            mutates = asker.method not in SAFE_METHODS and not is_heartbeat
            check_access(asker, token=self._token, our_names=self._our_names, mutates=mutates)
            if request.too_large and not is_heartbeat:
                raise RequestError(RequestFault.TOO_LARGE, f"the body is over {BODY_MAX} bytes")
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
            host=request.getHeader("host") or "",
            origin=request.getHeader("origin") or "",
            authorization=request.getHeader("authorization") or "",
            peer=getattr(request.channel, "peer_name", "") or str(request.getClientAddress()),
            local=self._local,
            client_certificate=certificate is not None and certificate() is not None,
            secure=bool(request.isSecure()),
        )
