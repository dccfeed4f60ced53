"""Who is at the other end of the control socket."""

from __future__ import annotations

import grp
import os
import pwd
import socket
from collections.abc import Callable
from dataclasses import dataclass

from daemon.heartbeat.peer import peer_credentials

GID_MAX = 2**32 - 2  # gid_t; one more means "as it is" to chown(2)


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlPeer:
    """The process that connected."""

    pid: int
    uid: int
    gid: int

    def __str__(self) -> str:
        return f"uid {self.uid} pid {self.pid}"


def control_peer(connection: socket.socket) -> ControlPeer:
    """Reads SO_PEERCRED.

    Raises:
        OSError: it is not a Unix socket.
    """
    found = peer_credentials(connection)
    return ControlPeer(pid=found.pid, uid=found.uid, gid=found.gid)


def groups_of(uid: int, gid: int) -> frozenset[int]:
    """The groups of a user by the user database, with the one it connected with."""
    try:
        name = pwd.getpwuid(uid).pw_name
    except KeyError:
        return frozenset({gid})
    return frozenset({gid, *os.getgrouplist(name, gid)})


def group_id(name: str) -> int | None:
    """The number of a group, None when there is none of that name."""
    if not name:
        return None
    if name.isdigit():
        return int(name) if int(name) <= GID_MAX else None
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        return None


def may_control(
    peer: ControlPeer, *, own_uid: int, control_gid: int | None,
    groups: Callable[[int, int], frozenset[int]] = groups_of,
) -> bool:
    """Whether a peer may use the control socket: root, the daemon's own user, or of the control group."""
    if peer.uid in (0, own_uid):
        return True
    return control_gid is not None and control_gid in groups(peer.uid, peer.gid)
