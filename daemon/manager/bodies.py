"""Whole answers of the reading routes: functions of one transaction, called in a reader's thread.

A thousand nodes, or ten thousand samples, take longer to put into words than the reactor may be held; here
nobody waits for them but who asked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from daemon.manager import node_page, page, queries, views
from daemon.manager.config import ManagerConfig
from daemon.manager.queries import Part, Row
from daemon.web.answers import encode

NODE_PAGE_AGENTS = 1000
NODE_PAGE_LINES = 20  # events, and operations


def nodes(tx: Any, now: float, config: ManagerConfig, state: str, after: str, limit: int) -> bytes:
    """``/v1/nodes``."""
    part = queries.some_nodes(tx, state, after, limit)
    counts = queries.agent_counts(tx)
    return _list("nodes", part, lambda rows: (
        views.node_body(row, counts.get(row.node_id, {}), now, config) for row in rows
    ), lambda row: row.node_id)


def node(tx: Any, now: float, config: ManagerConfig, node_id: str) -> bytes:
    """``/v1/nodes/{id}``."""
    found = queries.node(tx, node_id)
    return encode(views.node_body(found, queries.counts_of(tx, node_id), now, config))


def agents(tx: Any, now: float, node_id: str, after: str, limit: int) -> bytes:
    """``/v1/nodes/{id}/agents``."""
    return _list(
        "agents", queries.agents(tx, node_id, after, limit),
        lambda rows: (views.agent_body(row, now) for row in rows), lambda row: row.agent_id,
    )


def samples(tx: Any, node_id: str, *asked: Any) -> bytes:
    """``/v1/nodes/{id}/metrics``; ``asked`` as of :func:`daemon.manager.queries.samples`."""
    part = queries.samples(tx, node_id, *asked)
    return _list(
        "metrics", part, lambda rows: map(views.sample_body, rows), views.sample_place,
        node_id=node_id, more=part.more,
    )


def events(tx: Any, node_id: str, *asked: Any) -> bytes:
    """``/v1/nodes/{id}/events``; ``asked`` as of :func:`daemon.manager.queries.events`."""
    return _list(
        "events", queries.events(tx, node_id, *asked), lambda rows: map(views.event_body, rows),
        views.event_place,
    )


def commands(tx: Any, node_id: str, after: str, limit: int) -> bytes:
    """``/v1/nodes/{id}/commands``."""
    return _list(
        "commands", queries.commands(tx, node_id, after, limit),
        lambda rows: map(views.command_body, rows), lambda row: row.command_id,
    )


def command(tx: Any, command_id: str) -> bytes:
    """``/v1/commands/{id}``."""
    return encode(views.command_body(queries.command(tx, command_id)))


def _list(
    name: str, part: Part[Row], show: Callable[[list[Row]], Iterable[Any]], place: Callable[[Row], str],
    **facts: Any,
) -> bytes:
    """A list, and where it goes on: ``next`` is there only where more is."""
    body: dict[str, Any] = {**facts, name: list(show(part.rows))}
    if part.more:
        body["next"] = place(part.rows[-1])
    return encode(body)


# --- pages --------------------------------------------------------------------------------------------


def fleet_page(tx: Any, asked: page.Asked, now: float, name: str) -> bytes:
    """``/``."""
    nodes = queries.nodes(tx)
    counts = queries.agent_counts(tx)
    chosen = page.choose(nodes, asked, queries.agent_words(tx) if asked.words.strip() else {})
    agents = queries.agents_of(tx, [row.node_id for row in chosen.shown])
    return page.render(nodes, counts, chosen, agents, asked, now, name)


def one_node_page(tx: Any, node_id: str, now: float, config: ManagerConfig, name: str) -> bytes:
    """``/nodes/{id}``."""
    agents = queries.agents(tx, node_id, "", NODE_PAGE_AGENTS)
    found = queries.node(tx, node_id)
    return node_page.render(
        views.node_body(found, queries.counts_of(tx, node_id), now, config), agents,
        queries.events(tx, node_id, 0.0, now, None, NODE_PAGE_LINES).rows,
        queries.commands(tx, node_id, "", NODE_PAGE_LINES).rows, now, name,
    )
