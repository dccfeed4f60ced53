"""The Manager's HTTP listener, and the gate before its routes."""

from __future__ import annotations

import os
from collections.abc import Collection
from typing import Any
from urllib.parse import unquote_to_bytes

from twisted.application.service import Service
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.endpoints import TCP4ServerEndpoint, TCP6ServerEndpoint
from twisted.internet.error import CannotListenError
from twisted.web.resource import IResource, Resource
from zope.interface import implementer

from daemon.errors import ListenError, RequestError, RequestFault
from daemon.manager.api import ManagerApi, write_problem
from daemon.manager.config import ManagerConfig
from daemon.web.access import SAFE_METHODS, Asker, check_access
from daemon.web.problems import problem_of
from daemon.web.request import BODY_MAX, BoundedRequest, header_text
from daemon.web.site import CountedChannel, QuietSite

CONNECTIONS_MAX = 512
_HEADERS = {
    b"x-content-type-options": b"nosniff",
    b"referrer-policy": b"no-referrer",
    b"cache-control": b"no-store",
    b"content-security-policy": b"default-src 'none'; frame-ancestors 'none'",
}


@implementer(IResource)
class ManagerGate(Resource):
    """Checks a request and hands it to the routes: Host and Origin, the token of mutations, the body's size.

    Args:
        inner: the routes.
        token: the bearer token.
        our_names: names of this host, for the Host header.
    """

    isLeaf = True

    def __init__(self, inner: Any, *, token: str, our_names: Collection[str]) -> None:
        super().__init__()
        self._inner = inner
        self._token = token
        self._our_names = our_names
        self.stopping = False

    def render(self, request: BoundedRequest) -> bytes | int:
        """Refuses, or passes on."""
        for name, value in _HEADERS.items():
            request.setHeader(name, value)
        asker = self._asker(request)
        request.peer = asker.peer
        mutates = asker.method not in SAFE_METHODS
        try:
            self._check_text(request)
            check_access(asker, token=self._token, our_names=self._our_names, mutates=mutates)
            if request.too_large:
                raise RequestError(RequestFault.TOO_LARGE, f"the body is over {BODY_MAX} bytes")
            if self.stopping and mutates:
                raise RequestError(RequestFault.STOPPING, "the Manager is stopping", retry_after_s=5)
        except RequestError as error:
            if error.fault is RequestFault.UNAUTHORIZED:
                error = RequestError(
                    error.fault,
                    "this needs 'Authorization: Bearer TOKEN'; the token is in api.token of manager.work_dir",
                )
            return write_problem(request, problem_of(error))
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
            peer=str(getattr(request.getClientAddress(), "host", "")),
            client_certificate=certificate is not None and certificate() is not None,
            secure=bool(request.isSecure()),
        )

    def _check_text(self, request: BoundedRequest) -> None:
        """Routes are text: what is none would be answered by Klein itself, not by a problem of ours."""
        for name, data in (
            ("method", request.method), ("path", unquote_to_bytes(request.path)),
            ("Host header", request.getHeader(b"host") or b""),
        ):
            try:
                data.decode("utf-8")
            except UnicodeDecodeError:
                raise RequestError(RequestFault.INVALID, f"the {name} is not UTF-8; correct it") from None


class ManagerHttp(Service):
    """Serves the API and the page on ``http_host:http_port``.

    Args:
        reactor: listens.
        api: the routes.
        config: where, and with which certificate.
        token: for mutations.
        our_names: names of this host.

    Attributes:
        error: why it does not listen; empty when it does or is off.
        port: where it does, 0 when not.
    """

    name = "http"

    def __init__(
        self, reactor: Any, api: ManagerApi, config: ManagerConfig, *, token: str, our_names: Collection[str]
    ) -> None:
        self.error = "not listening yet" if config.http_port else ""
        self.port = 0
        self._reactor = reactor
        self._config = config
        self._gate = ManagerGate(api.app.resource(), token=token, our_names=our_names)
        self._channels: set[CountedChannel] = set()
        self._listening: Any = None

    async def open(self) -> None:
        """Listens, where a port is configured.

        Raises:
            ListenError: D1003; the port is taken, or the certificate cannot be used.
        """
        host, port, tls = self._config.http_host, self._config.http_port, self._config.http_tls
        if not port:
            return
        endpoint: Any
        try:
            if tls.cert_file:
                from daemon.web.tls import tls_endpoint  # pyOpenSSL only where it is configured

                endpoint = tls_endpoint(self._reactor, host, port, tls)
            elif ":" in host:
                endpoint = TCP6ServerEndpoint(self._reactor, port, interface=host)
            else:
                endpoint = TCP4ServerEndpoint(self._reactor, port, interface=host)
            self._listening = await endpoint.listen(
                QuietSite(self._gate, self._channels, self._admit, self._reactor)
            )
        except CannotListenError as error:
            cause = os.strerror(getattr(error.socketError, "errno", None) or 0)
            self.error = (
                f"HTTP: {host}:{port} cannot be listened to: {cause}; free the port (ss -ltnp shows who has"
                " it) or change manager.http_port"
            )
            raise ListenError(self.error) from error
        except ListenError as error:
            self.error = error.message
            raise
        self.error = ""
        self.port = self._listening.getHost().port

    def _admit(self, _transport: Any) -> str | None:
        return "" if len(self._channels) < CONNECTIONS_MAX else None

    def refuse(self) -> None:
        """Refuses mutations from now on."""
        self._gate.stopping = True

    def stopService(self) -> Deferred[None]:
        """Closes the listener and the connections."""
        super().stopService()
        return Deferred.fromCoroutine(self._close())

    async def _close(self) -> None:
        self.refuse()
        listening, self._listening = self._listening, None
        if listening is not None:
            await maybeDeferred(listening.stopListening)
        for channel in tuple(self._channels):
            channel.end()
        self.port = 0
