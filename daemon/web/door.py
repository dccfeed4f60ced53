"""What every API of ours asks before its routes: who it is, from where, with how much."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any
from urllib.parse import unquote_to_bytes

from twisted.web.resource import IResource, Resource
from zope.interface import implementer

from daemon.errors import RequestError, RequestFault
from daemon.web.access import DAEMON, SAFE_METHODS, Asker, Program, check_access
from daemon.web.answers import write_problem
from daemon.web.problems import problem_of
from daemon.web.request import BoundedRequest, header_text

CROWDED_S = 5  # until whoever brought a large body too many should try again


@implementer(IResource)
class Door(Resource):
    """Checks Host and Origin, the token of what changes something, and the size; then the routes answer.

    Args:
        inner: the routes.
        token: the bearer token.
        our_names: names of this host, for the Host header.
        local: whether this is the control socket, whose peers were checked when they connected.
        program: how refusals call the program.
    """

    isLeaf = True

    def __init__(
        self, inner: Any, *, token: str, our_names: Collection[str], local: bool = False,
        program: Program = DAEMON,
    ) -> None:
        super().__init__()
        self._inner = inner
        self._token = token
        self._our_names = our_names
        self._local = local
        self._program = program

    def render(self, request: BoundedRequest) -> bytes | int:
        """Refuses, or passes on."""
        asker = self._asker(request)
        request.peer = asker.peer
        try:
            _check_text(request)
            mutates = self.mutates(request)
            check_access(
                asker, token=self._token, our_names=self._our_names, mutates=mutates, program=self._program
            )
            if request.crowded and request.too_large:
                raise RequestError(
                    RequestFault.BUSY, "other packages are on their way already", retry_after_s=CROWDED_S
                )
            if request.too_large and not self.bounds_itself(request):
                raise RequestError(RequestFault.TOO_LARGE, f"the body is over {request.body_max} bytes")
            self.admit(request, mutates=mutates)
        except RequestError as error:
            if error.retry_after_s is not None:
                request.setHeader(b"retry-after", b"%d" % error.retry_after_s)
            return self.refuse(request, error)
        result: bytes | int = self._inner.render(request)
        return result

    def mutates(self, request: BoundedRequest) -> bool:
        """Whether it may change something, so that it needs the token."""
        return request.method.decode("ascii", "replace") not in SAFE_METHODS

    def bounds_itself(self, request: BoundedRequest) -> bool:
        """Whether its route refuses a body that is too large in words of its own."""
        return False

    def admit(self, request: BoundedRequest, *, mutates: bool) -> None:
        """A last look.

        Raises:
            RequestError: it is not let in.
        """

    def refuse(self, request: BoundedRequest, error: RequestError) -> bytes:
        """The answer to who is not let in."""
        return write_problem(request, problem_of(error), self._program.realm)

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
