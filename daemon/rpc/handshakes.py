"""Connections that come to nothing: TLS handshakes begun, against connections calls came over.

gRPC tells a program neither that a handshake failed nor why: its core writes a line to stderr, in words of
its own and without the peer, which is shut off (:mod:`daemon.rpc.grpc_env`). What can be known is that it
asked for the certificate, as it does for each connection, and which connections made a call. The side that
connects knows the cause, and our own link says it.
"""

from __future__ import annotations

import threading

from twisted.logger import Logger

from daemon.aio.reactor import DelayedCall, ThreadReactor
from daemon.rpc.listen import HANDSHAKE_S

DECIDED_S = HANDSHAKE_S + 5.0  # by then a handshake has ended, and its client has made its first call
TELL_EVERY_S = 3600.0
PEERS_MAX = 4096  # connections remembered; of more than that some are counted again


class Handshakes:
    """The counts, and one line in the log an hour while connections come to nothing.

    Args:
        reactor: the timer; idle while no handshake is undecided.

    Attributes:
        begun_total: handshakes. Two at the same moment may count as one.
        connections_total: connections over which a call came.
    """

    log = Logger()

    def __init__(self, reactor: ThreadReactor) -> None:
        self.begun_total = 0
        self.connections_total = 0
        self._reactor = reactor
        self._lock = threading.Lock()
        self._peers: dict[str, None] = {}
        self._armed = False
        self._timer: DelayedCall | None = None
        self._undecided = 0  # how many had begun when the timer was set: all of them decided when it fires
        self._told = 0  # in the log, or waiting for the next line
        self._untold = 0
        self._quiet_until = float("-inf")
        self._stopped = False

    def begun(self) -> None:
        """gRPC asked for the certificate; in a thread of its own."""
        self.begun_total += 1
        if not self._armed:
            self._armed = True
            self._reactor.callFromThread(self._arm)

    def called(self, peer: str) -> None:
        """A call came, in a worker.

        Args:
            peer: as gRPC writes it: address and port, so that each connection has its own.
        """
        if peer in self._peers:
            return
        with self._lock:
            if peer in self._peers:
                return
            while len(self._peers) >= PEERS_MAX:
                del self._peers[next(iter(self._peers))]
            self._peers[peer] = None
            self.connections_total += 1

    def stop(self) -> None:
        """Looks no more."""
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _arm(self) -> None:
        if self._timer is None and not self._stopped:
            self._undecided = self.begun_total
            self._timer = self._reactor.callLater(DECIDED_S, self._look)

    def _look(self) -> None:
        self._timer = None
        self._armed = False
        lost = self._undecided - self.connections_total - self._told
        if lost > 0:
            self._told += lost
            self._untold += lost
        self._tell()
        if self.begun_total > self._undecided:
            self._armed = True
            self._arm()

    def _tell(self) -> None:
        now = self._reactor.seconds()
        if not self._untold or now < self._quiet_until:
            return
        count, self._untold = self._untold, 0
        self._quiet_until = now + TELL_EVERY_S
        self.log.warn(
            "gRPC: {count} connections came and made no call: their TLS handshake failed (a client without a "
            "certificate, with an expired one or one of another authority, or without TLS 1.3), or somebody "
            "only looked whether the port is open. gRPC does not tell which; the client's own log does. Told "
            "once an hour",
            count=count,
        )
