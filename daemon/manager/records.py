"""What changes the database: functions of one transaction, called in the writer's thread.

Each raises RequestError before it changes anything, so that many can share a transaction.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import msgspec

from daemon.errors import RequestError, RequestFault
from daemon.manager.model import (
    AgentReport,
    CommandRow,
    CommandState,
    EventEntry,
    NodeState,
    Registration,
    Sample,
)

Names = Collection[str]


def _known(tx: Any, node_id: str, names: Names) -> tuple[str, str]:
    """State and host name of a node, once it is proven that the caller may speak for it.

    Raises:
        RequestError: UNKNOWN; it never registered. FORBIDDEN; it is another's.
    """
    tx.execute("SELECT state, hostname, owner FROM nodes WHERE node_id = ?", (node_id,))
    row = tx.fetchone()
    if row is None:
        raise RequestError(RequestFault.UNKNOWN, f"node {node_id!r} is not registered here; register first")
    _owned(node_id, str(row[2]), names)
    return str(row[0]), str(row[1])


def _owned(node_id: str, owner: str, names: Names) -> None:
    """Without TLS nobody has a name, and nobody is asked for one."""
    if owner and names and owner.casefold() not in {name.casefold() for name in names}:
        raise RequestError(
            RequestFault.FORBIDDEN,
            f"node {node_id!r} was registered with another certificate than {next(iter(names))!r} "
            "(empty: it names nobody); "
            "POST /v1/nodes/{id}/release on the Manager lets go of it",
        )


def register(tx: Any, node: Registration, names: Names, now: float) -> bool:
    """A node is there, for the first time or again; whether it is new."""
    tx.execute("SELECT state, owner FROM nodes WHERE node_id = ?", (node.node_id,))
    row = tx.fetchone()
    facts = (
        node.hostname, node.ip, node.peer, node.os, node.arch,
        msgspec.json.encode(dict(node.labels)).decode(), node.daemon_version, node.agent_version,
    )
    if row is None:
        tx.execute(
            "INSERT INTO nodes (hostname, ip, peer, os, arch, labels, daemon_version, agent_version, node_id,"
            " owner, state, registered_at, first_seen_at, last_heartbeat_at, state_since, reports_lost)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 0)",
            (*facts, node.node_id, node.owner, NodeState.ONLINE.value, now, now, now, now),
        )
        notice(tx, node.node_id, "node.registered", f"{node.hostname or node.node_id} is new here", now)
        return True
    state, owner = str(row[0]), str(row[1])
    _owned(node.node_id, owner, names)
    tx.execute(
        "UPDATE nodes SET hostname = ?, ip = ?, peer = ?, os = ?, arch = ?, labels = ?, daemon_version = ?,"
        " agent_version = ?, owner = ?, registered_at = ?, last_heartbeat_at = ? WHERE node_id = ?",
        (*facts, owner or node.owner, now, now, node.node_id),
    )
    if state != NodeState.ONLINE:
        _online(tx, node.node_id, node.hostname, now)
    return False


def heartbeat(tx: Any, node_id: str, names: Names, now: float) -> None:
    """A node lives."""
    state, hostname = _known(tx, node_id, names)
    tx.execute("UPDATE nodes SET last_heartbeat_at = ? WHERE node_id = ?", (now, node_id))
    if state != NodeState.ONLINE:
        _online(tx, node_id, hostname, now)


def _online(tx: Any, node_id: str, hostname: str, now: float) -> None:
    _set_state(tx, node_id, NodeState.ONLINE, now)
    notice(tx, node_id, "node.online", f"{hostname or node_id} is heard of again", now)


def _set_state(tx: Any, node_id: str, state: NodeState, now: float) -> None:
    tx.execute("UPDATE nodes SET state = ?, state_since = ? WHERE node_id = ?", (state.value, now, node_id))


def offline(tx: Any, node_id: str, silence_s: float, now: float) -> None:
    """A node was silent for too long; it stays, with all that is known of it."""
    tx.execute("SELECT state, hostname FROM nodes WHERE node_id = ?", (node_id,))
    row = tx.fetchone()
    if row is None or row[0] != NodeState.ONLINE:
        return
    _set_state(tx, node_id, NodeState.OFFLINE, now)
    message = f"no heartbeat of {row[1] or node_id} for {silence_s:.0f} s"
    notice(tx, node_id, "node.offline", message, now, severity="warn")


def release(tx: Any, node_id: str, peer: str, now: float) -> None:
    """The next certificate that registers this node owns it."""
    _known(tx, node_id, ())
    tx.execute("UPDATE nodes SET owner = '' WHERE node_id = ?", (node_id,))
    notice(tx, node_id, "node.released", f"{peer} let go of its certificate's name", now)


def report(tx: Any, node_id: str, samples: Sequence[Sample], names: Names, now: float) -> int:
    """Samples of a node; how many of them were repeats, which are dropped."""
    _known(tx, node_id, names)
    kept = 0
    for sample in samples:
        tx.execute(
            "INSERT INTO samples (node_id, type, sampled_at, received_at, numbers) VALUES (?, ?, ?, ?, ?)"
            " ON CONFLICT (node_id, type, sampled_at) DO NOTHING",
            (node_id, sample.type, sample.at, now, sample.values),
        )
        kept += tx.rowcount
    return len(samples) - kept


def sync(
    tx: Any, node_id: str, agents: Sequence[AgentReport], names: Names, now: float, *, gone_after_s: float
) -> None:
    """States of a node's agents, all of them or those that changed; what it no longer names goes."""
    _known(tx, node_id, names)
    for agent in agents:
        tx.execute(
            "SELECT status, since FROM agents WHERE node_id = ? AND agent_id = ?", (node_id, agent.agent_id)
        )
        row = tx.fetchone()
        since = float(row[1]) if row is not None and row[0] == agent.status else now
        facts = (
            agent.type, agent.version, agent.status, agent.pid, agent.last_heartbeat, since, now, node_id,
            agent.agent_id,
        )
        tx.execute(
            "INSERT INTO agents"
            " (type, version, status, pid, last_heartbeat, since, seen_at, node_id, agent_id)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
            if row is None else
            "UPDATE agents SET type = ?, version = ?, status = ?, pid = ?, last_heartbeat = ?, since = ?,"
            " seen_at = ? WHERE node_id = ? AND agent_id = ?",
            facts,
        )
    tx.execute("DELETE FROM agents WHERE node_id = ? AND seen_at < ?", (node_id, now - gone_after_s))


def events(
    tx: Any, node_id: str, entries: Sequence[EventEntry], lost: int, names: Names, now: float
) -> int:
    """Events and log entries of a node; how many were repeats."""
    _known(tx, node_id, names)
    kept = sum(_add_event(tx, node_id, entry, now) for entry in entries)
    if lost and (kept or not entries):  # a call whose every entry is known was told before, its losses too
        tx.execute("UPDATE nodes SET reports_lost = reports_lost + ? WHERE node_id = ?", (lost, node_id))
    return len(entries) - kept


def notice(
    tx: Any, node_id: str, type: str, message: str, now: float, *, severity: str = "info", agent_id: str = ""
) -> None:
    """Something the Manager itself noticed of a node becomes one of its events."""
    _add_event(tx, node_id, EventEntry(
        source="manager", event_id=f"{type}-{now:.6f}", at=now, type=type, severity=severity,
        agent_id=agent_id, message=message, data="{}",
    ), now)


def _add_event(tx: Any, node_id: str, entry: EventEntry, now: float) -> int:
    tx.execute(
        "INSERT INTO node_events (node_id, source, event_id, happened_at, received_at, type, severity,"
        " agent_id, message, data) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
        " ON CONFLICT (node_id, source, event_id) DO NOTHING",
        (
            node_id, entry.source, entry.event_id, entry.at, now, entry.type, entry.severity, entry.agent_id,
            entry.message, entry.data,
        ),
    )
    return int(tx.rowcount)


# --- commands -----------------------------------------------------------------------------------------


def begin_command(tx: Any, command: CommandRow) -> None:
    """An operation is about to be forwarded; its node is known."""
    tx.execute(
        "INSERT INTO commands (command_id, node_id, agent_id, operation, peer, state, message, code,"
        " asked_at, ended_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        tuple(command),
    )


def end_command(
    tx: Any, command_id: str, state: CommandState, message: str, code: str, now: float
) -> None:
    """What came of it."""
    tx.execute(
        "UPDATE commands SET state = ?, message = ?, code = ?, ended_at = ? WHERE command_id = ?",
        (state.value, message, code, now, command_id),
    )


def abandon_commands(tx: Any, now: float) -> int:
    """At the start: operations whose answer the Manager before did not live to hear."""
    tx.execute(
        "UPDATE commands SET state = ?, message = ?, ended_at = ? WHERE state = ?",
        (
            CommandState.UNKNOWN.value, "the Manager ended before the answer came; look at the agent", now,
            CommandState.RUNNING.value,
        ),
    )
    return int(tx.rowcount)


# --- retention ----------------------------------------------------------------------------------------

SLICE_S = 600.0
"""Of what came in at once at most: a thousand nodes send some forty thousand samples in that time."""

_EXPIRING = {
    "samples": ("SELECT MIN(received_at) FROM samples", "DELETE FROM samples WHERE received_at < ?"),
    "node_events": (
        "SELECT MIN(received_at) FROM node_events", "DELETE FROM node_events WHERE received_at < ?",
    ),
    "commands": ("SELECT MIN(asked_at) FROM commands", "DELETE FROM commands WHERE asked_at < ?"),
}


def expire(tx: Any, table: str, before: float) -> tuple[int, bool]:
    """Deletes the oldest slice of what came in before that; how many rows, and whether more is left."""
    oldest, delete = _EXPIRING[table]
    tx.execute(oldest)
    begin = tx.fetchone()[0]
    if begin is None or begin >= before:
        return 0, False
    end = min(before, begin + SLICE_S)
    tx.execute(delete, (end,))
    return int(tx.rowcount), end < before
