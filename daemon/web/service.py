"""The HTTP listeners: TCP (or TLS) and the control socket."""

from __future__ import annotations

import os
import stat
from collections.abc import Collection
from pathlib import Path
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.endpoints import TCP4ServerEndpoint, TCP6ServerEndpoint, UNIXServerEndpoint
from twisted.internet.error import CannotListenError
from twisted.logger import Logger

from daemon.aio.reactor import DescriptorReactor
from daemon.aio.unix_socket import inode_of, make_room
from daemon.config.schema import HttpTlsConfig
from daemon.errors import ListenError, StorageError
from daemon.heartbeat.http_receiver import HTTPHeartbeatReceiver
from daemon.web.api import Api
from daemon.web.gate import Gate
from daemon.web.peers import control_peer, may_control
from daemon.web.site import CountedChannel, QuietSite

CONNECTIONS_MAX = 1024  # per listener; more are closed at once and counted
CONTROL_MODE = 0o660


class HttpService(Service):
    """Serves the API on ``http_host:http_port`` and on the control socket.

    Args:
        reactor: listens.
        api: the routes.
        heartbeats: words refusals on its route.
        token: the bearer token.
        host, port: where TCP is served; port 0 means not at all.
        tls: certificate and key for TCP, where configured.
        control_path: the control socket.
        control_gid: the group that may use it, None for none.
        our_names: names of this host.
    """

    log = Logger()
    name = "http"

    def __init__(
        self, reactor: DescriptorReactor, api: Api, heartbeats: HTTPHeartbeatReceiver, *, token: str,
        host: str, port: int, tls: HttpTlsConfig, control_path: str, control_gid: int | None,
        our_names: Collection[str],
    ) -> None:
        self._reactor: Any = reactor
        self._api = api
        self._heartbeats = heartbeats
        self._token = token
        self._host = host
        self._port = port
        self._tls = tls
        self._control_path = control_path
        self._control_gid = control_gid
        self._our_names = our_names
        self._ports: list[Any] = []
        self._channels: set[CountedChannel] = set()
        self._control_inode: tuple[int, int] | None = None
        self.refused_total = 0
        self.tcp_error = "not listening yet" if port else ""
        self.control_error = "not listening yet"
        self.tcp_port = 0

    # ------------------------------------------------------------------- open

    async def open(self) -> None:
        """Listens everywhere it can.

        Raises:
            ListenError: D1003; what could be listened to is listened to all the same.
        """
        errors: list[ListenError] = []
        for listen in (self._open_control, self._open_tcp):
            try:
                await listen()
            except ListenError as error:
                errors.append(error)
        if errors:
            raise ListenError("; ".join(error.message for error in errors))

    async def _open_tcp(self) -> None:
        if not self._port:
            return
        site = self._site(local=False)
        endpoint: Any
        if self._tls.cert_file:
            from daemon.web.tls import tls_endpoint  # pyOpenSSL only where it is configured

            endpoint = tls_endpoint(self._reactor, self._host, self._port, self._tls)
        elif ":" in self._host:
            endpoint = TCP6ServerEndpoint(self._reactor, self._port, interface=self._host)
        else:
            endpoint = TCP4ServerEndpoint(self._reactor, self._port, interface=self._host)
        try:
            port = await endpoint.listen(site)
        except CannotListenError as error:
            self.tcp_error = (
                f"{self._host}:{self._port} cannot be listened to: {_cause(error)}; "
                "free the port (ss -ltnp shows who has it) or change daemon.http_port"
            )
            raise ListenError(self.tcp_error) from error
        self._ports.append(port)
        self.tcp_port = port.getHost().port
        self.tcp_error = ""

    async def _open_control(self) -> None:
        path = self._control_path
        try:
            self._make_control_directory(Path(path).parent)
            make_room(path)
            endpoint = UNIXServerEndpoint(self._reactor, path, mode=0o600)
            port = await endpoint.listen(self._site(local=True))
            os.chmod(path, CONTROL_MODE)  # noqa: PTH101 - umask has no say here
            if self._control_gid is not None:
                os.chown(path, -1, self._control_gid)
        except (ListenError, StorageError) as error:
            self.control_error = error.message
            raise ListenError(error.message) from error
        except (CannotListenError, OSError) as error:
            self.control_error = f"control socket {path} cannot be listened to: {_cause(error)}"
            raise ListenError(self.control_error) from error
        self._control_inode = inode_of(path)
        self._ports.append(port)
        self.control_error = ""

    def _make_control_directory(self, directory: Path) -> None:
        """0700, or 0750 with a control group: the directory guards the socket."""
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if directory.stat().st_uid != os.geteuid():
            raise StorageError(
                f"{directory} belongs to another user; remove it or change daemon.control_socket"
            )
        if self._control_gid is not None:
            os.chown(directory, -1, self._control_gid)
            directory.chmod(0o750)
        elif stat.S_IMODE(directory.stat().st_mode) & 0o077:
            directory.chmod(0o700)

    def _site(self, *, local: bool) -> QuietSite:
        gate = Gate(
            self._api.app.resource(), token=self._token, our_names=self._our_names, local=local,
            heartbeat_refusal=lambda status, message: self._heartbeats.refuse(status, message).body(),
        )
        doorkeeper = self._admit_local if local else self._admit
        return QuietSite(gate, self._channels, doorkeeper, self._reactor)

    def _admit(self, _transport: Any) -> str | None:
        """TCP: everybody while there is room; the gate decides per request."""
        if len(self._channels) >= CONNECTIONS_MAX:
            self.refused_total += 1
            return None
        return ""

    def _admit_local(self, transport: Any) -> str | None:
        """The control socket: root, the daemon's user, or the control group."""
        if self._admit(transport) is None:
            return None
        peer = control_peer(transport.socket)
        if may_control(peer, own_uid=os.geteuid(), control_gid=self._control_gid):
            return str(peer)
        self.refused_total += 1
        self.log.warn(
            "control socket: {peer} is neither root, the daemon's user nor in control_group", peer=str(peer)
        )
        return None

    # ------------------------------------------------------------------ close

    def refuse(self) -> None:
        """Refuses new work; answers under way go on."""
        self._api.stop()

    def stopService(self) -> Deferred[None]:
        """Closes listeners and connections and removes the control socket."""
        super().stopService()
        return Deferred.fromCoroutine(self._close())

    async def _close(self) -> None:
        self.refuse()
        ports, self._ports = self._ports, []
        for port in ports:
            await maybeDeferred(port.stopListening)
        for channel in tuple(self._channels):
            channel.end()
        if self._control_inode is not None and inode_of(self._control_path) == self._control_inode:
            Path(self._control_path).unlink(missing_ok=True)


def _cause(error: Exception) -> str:
    cause = getattr(error, "socketError", error)
    return getattr(cause, "strerror", None) or str(cause)

