"""Who is at the other end of a Unix socket, by the kernel's word (unix(7))."""

from __future__ import annotations

import os
import signal
import socket
import struct
from dataclasses import dataclass
from typing import Protocol

from daemon.procfs.stat import read_stat

# include/uapi/asm-generic/socket.h, Linux 6.5; not yet a name in Python's socket module.
SO_PEERPIDFD = 77
_UCRED = struct.Struct("=iII")  # struct ucred: pid_t, uid_t, gid_t


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerCredentials:
    """The process that connected, as the kernel noted it then.

    Attributes:
        pid: 0 when it lives in a pid namespace that we cannot see into.
        uid: its effective user id.
        gid: its effective group id.
    """

    pid: int
    uid: int
    gid: int


class Peer(Protocol):
    """One peer, for as long as its connection lasts."""

    @property
    def credentials(self) -> PeerCredentials:
        """Who connected."""
        ...

    def holds_pid(self) -> bool:
        """Whether its pid is still its own: it lives, or is a zombie that nobody reaped.

        Asked *after* something was learned by the pid, a yes proves that it was learned of the peer
        and not of a later process with the same pid.
        """
        ...


def peer_credentials(sock: socket.socket) -> PeerCredentials:
    """Reads ``SO_PEERCRED``.

    Raises:
        OSError: it is no connected Unix socket.
    """
    pid, uid, gid = _UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    return PeerCredentials(pid=pid, uid=uid, gid=gid)


class SocketPeer:
    """The :class:`Peer` of a connected Unix socket.

    ``SO_PEERPIDFD`` names the very process that connected. Before Linux 6.5 its start time, read at
    once after accept, has to do.

    Raises:
        OSError: it is no connected Unix socket.
    """

    def __init__(self, sock: socket.socket) -> None:
        self.credentials: PeerCredentials = peer_credentials(sock)
        self._sock = sock
        stat = read_stat(self.credentials.pid)
        self._start_ticks = None if stat is None else stat.start_ticks

    def holds_pid(self) -> bool:
        """See :class:`Peer`."""
        if self.credentials.pid <= 0:
            return False
        try:
            pidfd = self._sock.getsockopt(socket.SOL_SOCKET, SO_PEERPIDFD)
        except ProcessLookupError:
            return False
        except OSError:  # ENOPROTOOPT: an older kernel; EINVAL: reaped, on some
            return self._same_start()
        try:
            signal.pidfd_send_signal(pidfd, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            return True  # somebody else's process, and there
        finally:
            os.close(pidfd)
        return True

    def _same_start(self) -> bool:
        stat = read_stat(self.credentials.pid)
        return stat is not None and stat.start_ticks == self._start_ticks
