"""What reads the database: functions of one transaction, called in a reader's thread."""

from __future__ import annotations

from typing import Any, NamedTuple

from daemon.errors import RequestError, RequestFault
from daemon.manager.model import AgentRow, CommandRow, NodeRow

_NODE = ", ".join(NodeRow._fields)
_AGENT = ", ".join(AgentRow._fields)
_COMMAND = ", ".join(CommandRow._fields)


class SampleRow(NamedTuple):
    """A stored sample; ``numbers`` is a JSON object."""

    type: str
    sampled_at: int
    received_at: float
    numbers: str


class EventRow(NamedTuple):
    """A stored event; ``data`` is a JSON object."""

    source: str
    event_id: str
    happened_at: float
    received_at: float
    type: str
    severity: str
    agent_id: str
    message: str
    data: str


def nodes(tx: Any) -> list[NodeRow]:
    """Every node, by host name."""
    tx.execute(f"SELECT {_NODE} FROM nodes ORDER BY hostname, node_id")
    return [NodeRow(*row) for row in tx.fetchall()]


def node(tx: Any, node_id: str) -> NodeRow:
    """One node.

    Raises:
        RequestError: UNKNOWN.
    """
    tx.execute(f"SELECT {_NODE} FROM nodes WHERE node_id = ?", (node_id,))
    row = tx.fetchone()
    if row is None:
        raise RequestError(RequestFault.UNKNOWN, f"no node {node_id!r}; /v1/nodes lists them")
    return NodeRow(*row)


def agents(tx: Any, node_id: str = "") -> list[AgentRow]:
    """The agents of a node, or of all."""
    where = " WHERE node_id = ?" if node_id else ""
    tx.execute(
        f"SELECT {_AGENT} FROM agents{where} ORDER BY node_id, agent_id", (node_id,) if node_id else ()
    )
    return [AgentRow(*row) for row in tx.fetchall()]


def agents_of(tx: Any, node_id: str) -> list[AgentRow]:
    """The agents of a node there is.

    Raises:
        RequestError: UNKNOWN.
    """
    node(tx, node_id)
    return agents(tx, node_id)


def fleet(tx: Any) -> tuple[list[NodeRow], list[AgentRow]]:
    """All nodes and agents."""
    return nodes(tx), agents(tx)


def agent_counts(tx: Any) -> dict[str, dict[str, int]]:
    """By node and status, how many agents."""
    tx.execute("SELECT node_id, status, COUNT(*) FROM agents GROUP BY node_id, status")
    found: dict[str, dict[str, int]] = {}
    for node_id, status, count in tx.fetchall():
        found.setdefault(node_id, {})[status] = count
    return found


def nodes_and_counts(tx: Any) -> tuple[list[NodeRow], dict[str, dict[str, int]]]:
    """All nodes, and how many agents each has."""
    return nodes(tx), agent_counts(tx)


def node_with_agents(tx: Any, node_id: str) -> tuple[NodeRow, list[AgentRow]]:
    """A node and its agents.

    Raises:
        RequestError: UNKNOWN.
    """
    return node(tx, node_id), agents(tx, node_id)


def samples(
    tx: Any, node_id: str, type: str, since: int, until: int, limit: int
) -> tuple[list[SampleRow], bool]:
    """Samples of a node from ``since`` to ``until``, both included, oldest first; whether more are left.

    Raises:
        RequestError: UNKNOWN.
    """
    node(tx, node_id)
    of_type = " AND type = ?" if type else ""
    tx.execute(
        "SELECT type, sampled_at, received_at, numbers FROM samples WHERE node_id = ?"
        f" AND sampled_at >= ? AND sampled_at <= ?{of_type} ORDER BY sampled_at, type LIMIT {limit + 1:d}",
        (node_id, since, until, *((type,) if type else ())),
    )
    rows = [SampleRow(*row) for row in tx.fetchall()]
    return rows[:limit], len(rows) > limit


def events(tx: Any, node_id: str, since: float, until: float, limit: int) -> list[EventRow]:
    """Events of a node in that time, newest first.

    Raises:
        RequestError: UNKNOWN.
    """
    node(tx, node_id)
    tx.execute(
        f"SELECT {', '.join(EventRow._fields)} FROM node_events WHERE node_id = ?"
        " AND happened_at >= ? AND happened_at <= ?"
        f" ORDER BY happened_at DESC, event_id DESC LIMIT {limit:d}",
        (node_id, since, until),
    )
    return [EventRow(*row) for row in tx.fetchall()]


def commands(tx: Any, node_id: str, limit: int) -> list[CommandRow]:
    """Operations on a node, newest first.

    Raises:
        RequestError: UNKNOWN.
    """
    node(tx, node_id)
    tx.execute(
        f"SELECT {_COMMAND} FROM commands WHERE node_id = ? ORDER BY asked_at DESC LIMIT {limit:d}",
        (node_id,),
    )
    return [CommandRow(*row) for row in tx.fetchall()]


def command(tx: Any, command_id: str) -> CommandRow:
    """One operation.

    Raises:
        RequestError: UNKNOWN.
    """
    tx.execute(f"SELECT {_COMMAND} FROM commands WHERE command_id = ?", (command_id,))
    row = tx.fetchone()
    if row is None:
        raise RequestError(RequestFault.UNKNOWN, f"no command {command_id!r}")
    return CommandRow(*row)
