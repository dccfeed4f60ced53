"""Who this node is: its kept id, its addresses, its platform."""

from __future__ import annotations

import platform
import socket
import uuid
from dataclasses import dataclass
from pathlib import Path

from daemon.durable.atomic import read_bounded, write_atomic
from daemon.errors import StorageError
from daemon.model.platform import OS, architecture

MACHINE_ID = Path("/etc/machine-id")
ID_MAX = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeFacts:
    """What does not change while the daemon runs.

    Attributes:
        replaced: the id of another machine that was found (a cloned image), empty otherwise.
    """

    node_id: str
    hostname: str
    ip: str
    os: str
    arch: str
    replaced: str = ""


def local_address(towards: str) -> str:
    """Our address on the route to a host, else on the route to anywhere."""
    return address_towards(towards) or address_towards("2001:db8::1") or "127.0.0.1"


def address_towards(host: str) -> str:
    """Our address on the route to a host; empty where there is none, and for a name that is not found.

    Connecting a UDP socket sends nothing. Looking a name up may block.
    """
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as probe:
                probe.connect((host, 9))
                return str(probe.getsockname()[0])
        except OSError:
            continue
    return ""


def kept_node_id(work_dir: Path, machine_id: str) -> tuple[str, str]:
    """The node's UUID in ``work_dir/node_id``, with the machine-id beside it.

    A clone of the disk on another machine gets a new id, so that two nodes never share one.

    Returns:
        the id, and the one it replaced (empty when it was kept or is the first).

    Raises:
        StorageError: it cannot be stored.
    """
    path = work_dir / "node_id"
    old = ""
    try:
        fields = read_bounded(path, ID_MAX).decode("ascii").split()
        old = str(uuid.UUID(fields[0]))
        if len(fields) < 2 and machine_id:
            write_atomic(path, f"{old}\n{machine_id}\n".encode())  # from now on a clone is noticed
        if len(fields) < 2 or not machine_id or fields[1] == machine_id:
            return old, ""
    except (FileNotFoundError, IndexError, ValueError, StorageError):
        pass  # none yet, or not readable as one: a new one is made below
    new = str(uuid.uuid4())
    write_atomic(path, f"{new}\n{machine_id}\n".encode())
    return new, old


def node_facts(work_dir: Path, configured_id: str, manager_host: str = "") -> NodeFacts:
    """Finds out who we are; for the start only.

    Raises:
        StorageError: see :func:`kept_node_id`.
    """
    replaced = ""
    node_id = configured_id
    if not node_id:
        try:
            machine_id = MACHINE_ID.read_text(encoding="ascii").strip()
        except (OSError, ValueError):
            machine_id = ""
        node_id, replaced = kept_node_id(work_dir, machine_id)
    return NodeFacts(
        node_id=node_id,
        hostname=socket.gethostname(),
        ip=local_address(manager_host or "192.0.2.1"),
        os=OS,
        arch=architecture(platform.machine()),
        replaced=replaced,
    )
