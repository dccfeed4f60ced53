"""What reads the database: functions of one transaction, called in a reader's thread."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Generic, NamedTuple, TypeVar

from daemon.errors import RequestError, RequestFault
from daemon.manager.model import AgentRow, CommandRow, NodeRow

ANSWER_MAX = 8 * 2**20  # characters; ten thousand samples of a hostile node would be a gigabyte
_NODE = ", ".join(NodeRow._fields)
_AGENT = ", ".join(AgentRow._fields)
_COMMAND = ", ".join(CommandRow._fields)


Row = TypeVar("Row")


class Part(NamedTuple, Generic[Row]):
    """Rows, and whether there are more behind them."""

    rows: list[Row]
    more: bool


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


def some_nodes(tx: Any, state: str, after: str, limit: int) -> Part[NodeRow]:
    """Nodes by host name, those of one state or all, from behind the node ``after``.

    Raises:
        RequestError: UNKNOWN; there is no node ``after``.
    """
    wheres, values = [], []
    if state:
        wheres.append("state = ?")
        values.append(state)
    if after:
        hostname = node(tx, after).hostname
        wheres.append("(hostname > ? OR (hostname = ? AND node_id > ?))")
        values += [hostname, hostname, after]
    where = f" WHERE {' AND '.join(wheres)}" if wheres else ""
    tx.execute(f"SELECT {_NODE} FROM nodes{where} ORDER BY hostname, node_id LIMIT {limit + 1:d}", values)
    return _part(tx, NodeRow, limit)


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


def agents(tx: Any, node_id: str, after: str, limit: int) -> Part[AgentRow]:
    """Agents of a node by id, from behind the agent ``after``.

    Raises:
        RequestError: UNKNOWN.
    """
    node(tx, node_id)
    tx.execute(
        f"SELECT {_AGENT} FROM agents WHERE node_id = ? AND agent_id > ? ORDER BY agent_id"
        f" LIMIT {limit + 1:d}",
        (node_id, after),
    )
    return _part(tx, AgentRow, limit)


def agents_of(tx: Any, node_ids: Sequence[str]) -> dict[str, list[AgentRow]]:
    """The agents of some nodes, by node."""
    found: dict[str, list[AgentRow]] = {node_id: [] for node_id in node_ids}
    marks = ", ".join("?" * len(node_ids))
    tx.execute(f"SELECT {_AGENT} FROM agents WHERE node_id IN ({marks}) ORDER BY agent_id", tuple(node_ids))
    for row in tx.fetchall():
        agent = AgentRow(*row)
        found[agent.node_id].append(agent)
    return found


def agent_words(tx: Any) -> dict[str, str]:
    """By node, the ids and states of its agents, to look for words in."""
    found: dict[str, list[str]] = {}
    tx.execute("SELECT node_id, agent_id, status FROM agents")
    for node_id, agent_id, status in tx.fetchall():
        found.setdefault(node_id, []).append(f"{agent_id} {status}")
    return {node_id: " ".join(words) for node_id, words in found.items()}


def agent_counts(tx: Any) -> dict[str, dict[str, int]]:
    """By node and status, how many agents."""
    tx.execute("SELECT node_id, status, COUNT(*) FROM agents GROUP BY node_id, status")
    found: dict[str, dict[str, int]] = {}
    for node_id, status, count in tx.fetchall():
        found.setdefault(node_id, {})[status] = count
    return found


def counts_of(tx: Any, node_id: str) -> dict[str, int]:
    """By status, how many agents a node has."""
    tx.execute("SELECT status, COUNT(*) FROM agents WHERE node_id = ? GROUP BY status", (node_id,))
    return dict(tx.fetchall())


def samples(
    tx: Any, node_id: str, type: str, since: int, until: int, after: tuple[int, str] | None, limit: int
) -> Part[SampleRow]:
    """Samples of a node from ``since`` to ``until``, both included, oldest first, from behind ``after``.

    Raises:
        RequestError: UNKNOWN.
    """
    node(tx, node_id)
    wheres, values = ["node_id = ?", "sampled_at >= ?", "sampled_at <= ?"], [node_id, since, until]
    if type:
        wheres.append("type = ?")
        values.append(type)
    if after is not None:
        wheres.append("(sampled_at > ? OR (sampled_at = ? AND type > ?))")
        values += [after[0], *after]
    tx.execute(
        f"SELECT type, sampled_at, received_at, numbers FROM samples WHERE {' AND '.join(wheres)}"
        f" ORDER BY sampled_at, type LIMIT {limit + 1:d}",
        values,
    )
    return _part(tx, SampleRow, limit)


def events(
    tx: Any, node_id: str, since: float, until: float, after: tuple[float, str, str] | None, limit: int
) -> Part[EventRow]:
    """Events of a node in that time, newest first, from behind ``after``.

    Raises:
        RequestError: UNKNOWN.
    """
    node(tx, node_id)
    wheres: list[str] = ["node_id = ?", "happened_at >= ?", "happened_at <= ?"]
    values: list[Any] = [node_id, since, until]
    if after is not None:
        at, source, event_id = after
        wheres.append(
            "(happened_at < ? OR (happened_at = ? AND (source < ? OR (source = ? AND event_id < ?))))"
        )
        values += [at, at, source, source, event_id]
    tx.execute(
        f"SELECT {', '.join(EventRow._fields)} FROM node_events WHERE {' AND '.join(wheres)}"
        f" ORDER BY happened_at DESC, source DESC, event_id DESC LIMIT {limit + 1:d}",
        values,
    )
    return _part(tx, EventRow, limit)


def commands(tx: Any, node_id: str, after: str, limit: int) -> Part[CommandRow]:
    """Operations on a node, newest first, from behind the operation ``after``.

    Raises:
        RequestError: UNKNOWN.
    """
    node(tx, node_id)
    wheres: list[str] = ["node_id = ?"]
    values: list[Any] = [node_id]
    if after:
        at = command(tx, after).asked_at
        wheres.append("(asked_at < ? OR (asked_at = ? AND command_id < ?))")
        values += [at, at, after]
    tx.execute(
        f"SELECT {_COMMAND} FROM commands WHERE {' AND '.join(wheres)}"
        f" ORDER BY asked_at DESC, command_id DESC LIMIT {limit + 1:d}",
        values,
    )
    return _part(tx, CommandRow, limit)


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


def _part(tx: Any, kind: type[Row], limit: int) -> Part[Row]:
    """The rows of a statement up to the limit, and no more text than fits an answer."""
    rows: list[Row] = []
    characters = 0
    while (found := tx.fetchone()) is not None:
        characters += sum(len(each) for each in found if isinstance(each, str))
        if len(rows) == limit or (rows and characters > ANSWER_MAX):
            return Part(rows, True)
        rows.append(kind(*found))
    return Part(rows, False)
