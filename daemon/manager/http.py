"""The Manager's HTTP listener, and the door before its routes."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred, maybeDeferred

from daemon.errors import ListenError, RequestError, RequestFault
from daemon.manager.api import ManagerApi
from daemon.manager.config import ManagerConfig
from daemon.web.access import Program
from daemon.web.certificate import HttpCertificate
from daemon.web.door import Door
from daemon.web.request import BoundedRequest
from daemon.web.site import CountedChannel, QuietSite
from daemon.web.tcp import listen_tcp

CONNECTIONS_MAX = 512
MANAGER = Program(
    name="Manager", realm="hostmanager", credentials="with the token in api.token of manager.work_dir"
)
_HEADERS = {
    b"x-content-type-options": b"nosniff",
    b"referrer-policy": b"no-referrer",
    b"cache-control": b"no-store",
    b"content-security-policy": b"default-src 'none'; frame-ancestors 'none'",
}


class ManagerGate(Door):
    """See :class:`daemon.web.door.Door`; browsers are told to trust nothing, and a stop refuses mutations.

    Args:
        inner, token, our_names: as there.
    """

    def __init__(self, inner: Any, *, token: str, our_names: Collection[str]) -> None:
        super().__init__(inner, token=token, our_names=our_names, program=MANAGER)
        self.stopping = False

    def render(self, request: BoundedRequest) -> bytes | int:
        """See Door."""
        for name, value in _HEADERS.items():
            request.setHeader(name, value)
        return super().render(request)

    def admit(self, request: BoundedRequest, *, mutates: bool) -> None:
        """See Door."""
        if self.stopping and mutates:
            raise RequestError(RequestFault.STOPPING, "the Manager is stopping", retry_after_s=5)


class ManagerHttp(Service):
    """Serves the API and the page on ``http_host:http_port``.

    Args:
        reactor: listens.
        api: the routes.
        config: where.
        certificate: with which; it ends with this service.
        token: for mutations.
        our_names: names of this host.

    Attributes:
        error: why it does not listen; empty when it does or is off.
        port: where it does, 0 when not.
    """

    name = "http"

    def __init__(
        self, reactor: Any, api: ManagerApi, config: ManagerConfig, certificate: HttpCertificate, *,
        token: str, our_names: Collection[str],
    ) -> None:
        self.error = "not listening yet" if config.http_port else ""
        self.port = 0
        self._reactor = reactor
        self._config = config
        self._certificate = certificate
        self._gate = ManagerGate(api.app.resource(), token=token, our_names=our_names)
        self._channels: set[CountedChannel] = set()
        self._listening: Any = None

    async def open(self) -> None:
        """Listens, where a port is configured.

        Raises:
            ListenError: D1003; the port is taken, or the certificate cannot be used.
        """
        config = self._config
        if not config.http_port:
            return
        site = QuietSite(self._gate, self._channels, self._admit, self._reactor)
        try:
            self._listening = await listen_tcp(
                self._reactor, config.http_host, config.http_port, self._certificate, site,
                key="manager.http_port",
            )
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
        await self._certificate.stop()
        self.port = 0
