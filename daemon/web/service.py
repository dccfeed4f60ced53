"""The HTTP listeners: TCP (or TLS) and the control socket."""

from __future__ import annotations

import os
import resource
import stat
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.endpoints import UNIXServerEndpoint
from twisted.internet.error import CannotListenError
from twisted.logger import Logger

from daemon.aio.notify import Notifier
from daemon.aio.reactor import DescriptorReactor
from daemon.aio.socket_watch import SocketWatch
from daemon.aio.unix_socket import inode_of, make_room
from daemon.errors import ListenError, StorageError
from daemon.heartbeat.http_receiver import HTTPHeartbeatReceiver
from daemon.interfaces import EventSink
from daemon.model.event import Severity
from daemon.web.api import Api
from daemon.web.certificate import HttpCertificate
from daemon.web.gate import Gate
from daemon.web.peers import control_peer, may_control
from daemon.web.room import Room
from daemon.web.site import CountedChannel, QuietSite
from daemon.web.tcp import cause_of, listen_tcp
from daemon.web.updates import body_max

CONNECTIONS_MAX = 1024  # per listener; more are closed at once and counted
CONTROL_MODE = 0o660
OWN_DIRECTORY_MODES = (0o700, 0o750)  # of the control socket's directory, when it is ours alone


def http_connections_max() -> int:
    """Per listener; a quarter of the descriptors, so that connections never cost agents their restarts."""
    soft, _hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return CONNECTIONS_MAX if soft == resource.RLIM_INFINITY else min(CONNECTIONS_MAX, max(8, soft // 4))


class HttpService(Service):
    """Serves the API on ``http_host:http_port`` and on the control socket.

    Args:
        reactor: listens.
        api: the routes.
        heartbeats: words refusals on its route.
        token: the bearer token.
        host, port: where TCP is served; port 0 means not at all.
        certificate: for TCP, where one is configured; it ends with this service.
        control_path: the control socket.
        control_gid: the group that may use it, None for none.
        our_names: names of this host.
        notifier: tells when the file of the control socket goes from its place.
        events: hears of that.
        connections_max: per listener, so that a crowd on TCP cannot shut the control socket.
        inline_max: bytes that ``update_data`` of a request may have.
    """

    log = Logger()
    name = "http"

    def __init__(
        self, reactor: DescriptorReactor, api: Api, heartbeats: HTTPHeartbeatReceiver, *, token: str,
        host: str, port: int, certificate: HttpCertificate, control_path: str, control_gid: int | None,
        our_names: Collection[str], notifier: Notifier, events: EventSink,
        connections_max: int = CONNECTIONS_MAX, inline_max: Callable[[], int] = lambda: 0,
    ) -> None:
        self._reactor: Any = reactor
        self._api = api
        self._heartbeats = heartbeats
        self._token = token
        self._host = host
        self._port = port
        self._certificate = certificate
        self._control_path = control_path
        self._control_gid = control_gid
        self._our_names = our_names
        self._events = events
        self._watch = SocketWatch(control_path, reactor, notifier, self._look)
        self._rebinding: Deferred[None] | None = None
        self._closed = False
        self._ports: list[Any] = []
        self._connections_max = connections_max
        self._inline_max = inline_max
        self._channels: set[CountedChannel] = set()
        self._local_channels: set[CountedChannel] = set()
        self._control_port: Any = None
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
        self._watch.start()

    async def _open_tcp(self) -> None:
        if not self._port:
            return
        site = self._site(local=False)
        try:
            port = await listen_tcp(
                self._reactor, self._host, self._port, self._certificate, site, key="daemon.http_port"
            )
        except ListenError as error:
            self.tcp_error = error.message
            raise
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
            self._ports.append(port)
            self._control_port, self._control_inode = port, inode_of(path)
            os.chmod(path, CONTROL_MODE)  # noqa: PTH101 - umask has no say here
            if self._control_gid is not None:
                os.chown(path, -1, self._control_gid)
        except (ListenError, StorageError) as error:
            self.control_error = error.message
            raise ListenError(error.message) from error
        except (CannotListenError, OSError) as error:
            self.control_error = f"control socket {path} cannot be listened to: {cause_of(error)}"
            raise ListenError(self.control_error) from error
        self.control_error = ""

    def _in_place(self) -> bool:
        return self._control_inode is not None and inode_of(self._control_path) == self._control_inode

    def _look(self) -> None:
        """Something happened at the place of the control socket."""
        if self._rebinding is not None or self._in_place():
            return
        self._rebinding = work = Deferred.fromCoroutine(self._bind_anew())
        work.addErrback(lambda failure: self.log.failure("control socket", failure=failure))
        work.addCallback(self._rebound)

    def _rebound(self, _done: None) -> None:
        self._rebinding = None

    async def _bind_anew(self) -> None:
        known = self.control_error
        self.control_error = f"the file of the control socket {self._control_path} is gone from its place"
        await self._close_control()
        if self._closed:
            return
        try:
            await self._open_control()
        except ListenError as error:
            if not self._closed:
                self._watch.again()
            if error.message != known:
                self.log.error("D1003 {error}", error=error.message, error_code="D1003")
                self._events.publish(
                    "daemon.socket_failed", error.message, severity=Severity.ERROR, data={"code": "D1003"}
                )
            return
        text = f"control socket {self._control_path}: its file was gone or somebody else's; it is bound anew"
        self.log.warn("{text}", text=text)
        self._events.publish("daemon.socket_restored", text, severity=Severity.WARN)

    def _make_control_directory(self, directory: Path) -> None:
        """0700, or 0750 with a control group: the directory guards the socket.

        One that others use too (/run, /tmp) is left as it is: there the check of peers alone guards it.
        """
        try:
            directory.mkdir(mode=0o700, parents=True)
            rights = OWN_DIRECTORY_MODES[0]
        except FileExistsError:
            rights = stat.S_IMODE(directory.stat().st_mode)
        if directory.stat().st_uid != os.geteuid():
            raise StorageError(
                f"{directory} belongs to another user; remove it or change daemon.control_socket"
            )
        if rights not in OWN_DIRECTORY_MODES:
            self.log.warn(
                "control socket: {directory} has mode {mode} and is left so; a directory of its own is safer",
                directory=str(directory), mode=f"{rights:o}",
            )
        elif self._control_gid is not None:
            os.chown(directory, -1, self._control_gid)
            directory.chmod(0o750)
        else:
            directory.chmod(0o700)

    def _site(self, *, local: bool) -> QuietSite:
        gate = Gate(
            self._api.app.resource(), token=self._token, our_names=self._our_names, local=local,
            heartbeat_refusal=lambda status, message: self._heartbeats.refuse(status, message).body(),
            package_max=lambda: body_max(self._inline_max()), room=Room(),
        )
        if local:
            return QuietSite(gate, self._local_channels, self._admit_local, self._reactor, gate.body_room)
        return QuietSite(gate, self._channels, self._admit, self._reactor, gate.body_room)

    def _admit(self, _transport: Any) -> str | None:
        """TCP: everybody while there is room; the gate decides per request."""
        return "" if self._room(self._channels) else None

    def _room(self, channels: set[CountedChannel]) -> bool:
        if len(channels) < self._connections_max:
            return True
        self.refused_total += 1
        return False

    def _admit_local(self, transport: Any) -> str | None:
        """The control socket: root, the daemon's user, or the control group."""
        if not self._room(self._local_channels):
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
        self._closed = True
        self._watch.stop()
        if self._rebinding is not None:
            await self._rebinding
        await self._close_control()
        ports, self._ports = self._ports, []
        for port in ports:
            await maybeDeferred(port.stopListening)
        for channel in (*self._channels, *self._local_channels):
            channel.end()
        await self._certificate.stop()

    async def _close_control(self) -> None:
        """Stops listening and removes our socket; a file somebody else put there stays."""
        port, self._control_port = self._control_port, None
        if port is None:
            return
        if not self._in_place():
            # Twisted's port removes whatever is at its path, and never ends when nothing is. Only a path
            # in the abstract namespace keeps it from that.
            port._bindPath = b"\0removed"
        self._control_inode = None
        self._ports.remove(port)
        await maybeDeferred(port.stopListening)
