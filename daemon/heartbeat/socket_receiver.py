"""The heartbeat socket: a service that listens, admits connections and ends them in good order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

from twisted.application.service import Service
from twisted.internet.defer import Deferred, DeferredLock
from twisted.internet.endpoints import UNIXServerEndpoint
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IAddress
from twisted.internet.protocol import Factory
from twisted.logger import Logger

from daemon.aio.notify import Notifier
from daemon.aio.sleep import sleep
from daemon.aio.socket_watch import SocketWatch
from daemon.aio.unix_socket import SHARED_MODE, inode_of, make_room
from daemon.errors import DaemonError, ListenError
from daemon.heartbeat.connection import Desk, HeartbeatConnection
from daemon.heartbeat.crowd import Crowd, connection_limit
from daemon.heartbeat.intake import Books
from daemon.heartbeat.message import BeatReader
from daemon.heartbeat.notices import Notices
from daemon.heartbeat.peer import Peer, SocketPeer
from daemon.heartbeat.stats import SocketStats, Tally
from daemon.heartbeat.turns import Turns
from daemon.interfaces import AgentDirectory, EventSink, WallClock
from daemon.model.event import Severity

log = Logger()

BACKLOG = 1024  # connections that may wait to be accepted; the kernel cuts it to net.core.somaxconn
LINGER_S = 1.0  # at the end, for answers that are not sent yet


def _peer_of(transport: Any) -> Peer:
    return SocketPeer(transport.getHandle())


class _Connections(Factory):
    """Makes a connection's protocol."""

    noisy = False

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    def buildProtocol(self, addr: IAddress | None) -> HeartbeatConnection:
        """One protocol per connection."""
        return HeartbeatConnection(self._desk)


class _Port:
    """A path that is listened to, and which file our socket is."""

    def __init__(self, port: Any, inode: tuple[int, int] | None) -> None:
        self.port = port
        self.inode = inode


class HeartbeatReceiver(Service):
    """Heartbeats over Unix sockets.

    Args:
        reactor: IReactorUNIX and IReactorTime.
        wall: our wall clock.
        directory: who is who among processes and agents.
        events: where attempts to speak for another's agent are told, and sockets that were lost.
        paths: sockets to listen on, the default one first, then agents' own; their directories exist.
        notifier: tells when the file of a socket goes from its place.
        make_folder: makes the folder of our own sockets again, where that is gone too; raises DaemonError.
        require_pid_match: False relaxes the peer rules for agents in another pid namespace.
        max_rate: messages per second and connection, 0 for no limit.
        cores: CPUs of this host.
        connections_max: None takes what the descriptor limit allows.
        peer_of: the peer of a transport.
    """

    name = "heartbeat-socket"

    def __init__(
        self,
        reactor: Any,
        wall: WallClock,
        directory: AgentDirectory,
        events: EventSink,
        paths: Sequence[str],
        *,
        notifier: Notifier,
        make_folder: Callable[[], None] = lambda: None,
        require_pid_match: bool = True,
        max_rate: int = 0,
        cores: int = 1,
        connections_max: int | None = None,
        peer_of: Callable[[Any], Peer] = _peer_of,
    ) -> None:
        self._reactor = reactor
        self._events = events
        self._notifier = notifier
        self._make_folder = make_folder
        self._paths = tuple(dict.fromkeys(paths))
        self._ports: dict[str, _Port] = {}
        self._watches: dict[str, SocketWatch] = {}
        self._lost: dict[str, str] = {}  # sockets that could not be bound anew, and why
        self._lock = DeferredLock()
        self._stopped = False
        self._all_gone: Deferred[None] | None = None
        self._tally = Tally()
        self._turns = Turns(reactor)
        self._crowd: Crowd[HeartbeatConnection] = Crowd(
            connection_limit() if connections_max is None else connections_max
        )
        self.factory = _Connections(
            Desk(
                clock=reactor,
                books=Books(
                    directory=directory,
                    events=events,
                    reader=BeatReader(wall, cores),
                    tally=self._tally,
                    notices=Notices(reactor),
                ),
                turns=self._turns,
                crowd=self._crowd,
                peer_of=peer_of,
                require_pid_match=require_pid_match,
                max_rate=max_rate,
                gone=self._gone,
            )
        )

    @property
    def paths(self) -> tuple[str, ...]:
        """The sockets that should be listened to."""
        return self._paths

    @property
    def listening(self) -> tuple[str, ...]:
        """The sockets that are listened to."""
        return tuple(path for path in self._paths if path in self._ports)

    @property
    def error(self) -> str:
        """Why the default socket is not listened to; empty when it is. Agents' own do not count."""
        default = self._paths[0] if self._paths else ""
        return "" if default in self._ports else self._lost.get(default, "not listening")

    def stats(self) -> SocketStats:
        """The counters at this moment."""
        return SocketStats(
            listening=self.listening,
            connections=len(self._crowd),
            connections_total=self._tally.connections_total,
            refused_total=self._tally.refused_total,
            received_total=self._tally.received_total,
            accepted_total=self._tally.accepted_total,
            errors_total={reason.value: count for reason, count in self._tally.errors.items()},
        )

    async def open(self) -> None:
        """Listens on every path.

        Raises:
            ListenError: one or more could not be listened on; the others are.
        """
        await self.set_paths(self._paths)

    async def set_paths(self, paths: Sequence[str]) -> None:
        """Listens on exactly these from now on. Open connections stay, whichever path they came by.

        Raises:
            ListenError: one or more could not be listened on; the others are. A later call tries again.
        """
        await self._lock.acquire()
        try:
            if self._stopped:
                raise ListenError("the heartbeat socket is stopping")
            self._paths = tuple(dict.fromkeys(paths))
            for path in [path for path in self._watches if path not in self._paths]:
                self._watches.pop(path).stop()
                self._lost.pop(path, None)
            for path in [path for path in self._ports if path not in self._paths]:
                await self._close(path)
            faults: list[ListenError] = []
            for path in self._paths:
                if path not in self._ports:
                    try:
                        await self._listen(path)
                    except ListenError as error:
                        faults.append(error)
                        self._lost[path] = error.message
                self._watch(path)
            if faults:
                message = "; ".join(fault.message for fault in faults)
                raise ListenError(message, paths=[fault.details["path"] for fault in faults]) from faults[0]
        finally:
            self._lock.release()

    async def _listen(self, path: str) -> None:
        make_room(path)
        # The port makes the mode explicit by chmod once it is bound, so the umask does not matter.
        endpoint = UNIXServerEndpoint(self._reactor, path, backlog=BACKLOG, mode=SHARED_MODE, wantPID=0)
        try:
            port = await endpoint.listen(self.factory)
        except (CannotListenError, OSError) as error:
            cause = getattr(error, "socketError", error)
            raise ListenError(f"the socket {path} cannot be listened on: {cause}", path=path) from error
        self._ports[path] = _Port(cast(Any, port), inode_of(path))
        self._lost.pop(path, None)
        log.info("heartbeat socket: listening on {path}", path=path)

    # ------------------------------------------------------------------ sockets that went from their place

    def _watch(self, path: str) -> None:
        if path not in self._watches:
            self._watches[path] = watch = SocketWatch(
                path, self._reactor, self._notifier, lambda: self._look(path)
            )
            watch.start()

    def _in_place(self, path: str) -> bool:
        held = self._ports.get(path)
        return held is not None and held.inode is not None and inode_of(path) == held.inode

    def _look(self, path: str) -> None:
        """Something happened at that path."""
        if not self._in_place(path):
            Deferred.fromCoroutine(self._bind_anew(path)).addErrback(
                lambda failure: log.failure("heartbeat socket {path}", failure=failure, path=path)
            )

    async def _bind_anew(self, path: str) -> None:
        await self._lock.acquire()
        try:
            watch = self._watches.get(path)
            if watch is None or self._in_place(path):
                return  # we stop, or it was taken out or bound meanwhile
            if path in self._ports:
                await self._close(path)
            try:
                if path == self._paths[0]:
                    self._make_folder()
                await self._listen(path)
            except DaemonError as error:
                watch.again()
                self._told_lost(path, error.message)
                return
        finally:
            self._lock.release()
        text = f"heartbeat socket {path}: its file was gone or somebody else's; it is bound anew"
        log.warn("{text}", text=text)
        self._events.publish("daemon.socket_restored", text, severity=Severity.WARN)

    def _told_lost(self, path: str, why: str) -> None:
        if self._lost.get(path) == why:
            return
        self._lost[path] = why
        log.error("D1003 heartbeat socket: {error}", error=why, error_code="D1003")
        self._events.publish("daemon.socket_failed", why, severity=Severity.ERROR, data={"code": "D1003"})

    # ------------------------------------------------------------------------------------------------- end

    async def _close(self, path: str) -> None:
        """Stops listening and removes our socket; a file somebody else put there stays."""
        held = self._ports.pop(path)
        if held.inode is None or inode_of(path) != held.inode:
            # Twisted's port removes whatever is at its path, and fails when nothing is. Only a path
            # in the abstract namespace keeps it from that.
            held.port._bindPath = b"\0removed"
        await held.port.stopListening()

    def stopService(self) -> Deferred[None]:
        """Closes sockets and connections; fires when all are gone. What had arrived is recorded."""
        super().stopService()
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        # Who connected before we were told to stop is let in: one whole turn of the loop lies within two.
        for _ in range(2):
            await sleep(self._reactor, 0)
        await self._lock.acquire()
        try:
            self._stopped = True
            for watch in self._watches.values():
                watch.stop()
            self._watches.clear()
            for path in tuple(self._ports):
                await self._close(path)
        finally:
            self._lock.release()
        # And what lies in the sockets already is read.
        for _ in range(2):
            await sleep(self._reactor, 0)
        for connection in self._crowd:
            connection.finish()
        if len(self._crowd):
            self._all_gone = Deferred()
            timer = self._reactor.callLater(LINGER_S, self._abort_all)
            await self._all_gone
            if timer.active():
                timer.cancel()
        self._turns.stop()

    def _abort_all(self) -> None:
        for connection in self._crowd:
            connection.abort()

    def _gone(self) -> None:
        if self._all_gone is not None and not len(self._crowd):
            waiter, self._all_gone = self._all_gone, None
            waiter.callback(None)
