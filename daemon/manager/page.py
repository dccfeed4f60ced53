"""The page of the fleet: every node with its agents, rendered here, without a script; pure."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from urllib.parse import urlencode

import msgspec

from daemon.manager.html import (
    age,
    agent_row,
    counted,
    document,
    labels_text,
    many,
    node_link,
    state_kind,
)
from daemon.manager.model import AgentRow, NodeRow, NodeState

PAGE_NODES = 200
PAGE_AGENTS = 12
"""Of one node; those that do not run come first, and the node's own page has all."""
_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f-]{27}")

Counts = Mapping[str, Mapping[str, int]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What the page is asked for: an order, words to look for, and which part."""

    sort: str = "name"
    words: str = ""
    page: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """The nodes of one part, and which of how many parts it is."""

    shown: Sequence[NodeRow]
    page: int
    pages: int


_ORDERS: dict[str, Callable[[NodeRow], tuple[object, ...]]] = {
    "name": lambda node: (node.hostname, node.node_id),
    "state": lambda node: (node.state != NodeState.OFFLINE, node.hostname, node.node_id),
    "age": lambda node: (node.last_heartbeat_at, node.node_id),
    "version": lambda node: (node.daemon_version, node.hostname, node.node_id),
}
SORTS = tuple(_ORDERS)


def choose(nodes: Sequence[NodeRow], asked: Asked, agent_words: Mapping[str, str]) -> Chosen:
    """The nodes to show.

    Args:
        nodes: all.
        asked: which.
        agent_words: by node, ids and states of its agents, to look for words in.
    """
    words = asked.words.casefold().split()
    found = [node for node in nodes if _matches(node, agent_words.get(node.node_id, ""), words)]
    found.sort(key=_ORDERS[asked.sort])
    pages = max(1, -(-len(found) // PAGE_NODES))
    page = min(asked.page, pages)
    return Chosen(shown=found[(page - 1) * PAGE_NODES : page * PAGE_NODES], page=page, pages=pages)


def _matches(node: NodeRow, agent_words: str, words: Sequence[str]) -> bool:
    if not words:
        return True
    labels = labels_text(msgspec.json.decode(node.labels))
    text = " ".join(
        [node.hostname, node.node_id, node.ip, labels, node.labels, node.state, agent_words]
    ).casefold()
    return all(word in text for word in words)


def render(
    nodes: Sequence[NodeRow], counts: Counts, chosen: Chosen, agents: Mapping[str, Sequence[AgentRow]],
    asked: Asked, now: float, name: str,
) -> bytes:
    """The page as HTML.

    Args:
        nodes: all, for the summary.
        counts: by node and status, how many agents.
        chosen: the nodes to show.
        agents: theirs, by node.
        asked: what was asked for.
        now: wall time.
        name: of the Manager.
    """
    rows = "".join(_node(node, agents.get(node.node_id, ()), now) for node in chosen.shown)
    empty = "" if chosen.shown else "<tbody><tr><td colspan=5>no node</td></tr></tbody>"
    return document(
        f"{name}: nodes",
        f"<h1>{escape(name)}</h1><p>{summary(nodes, counts)}</p>"
        f'<form><input type=search name=q value="{escape(asked.words)}" placeholder="host, label or agent"'
        f' aria-label="look for"><input type=hidden name=sort value="{escape(asked.sort)}"></form>'
        f"<table><thead><tr>{_heads(asked)}</tr></thead>{rows}{empty}</table>{_pages(asked, chosen)}",
    )


def summary(nodes: Sequence[NodeRow], counts: Counts) -> str:
    """The whole fleet in a line or two; agents of silent nodes are counted apart, for nobody knows."""
    known: Counter[str] = Counter()
    lost: Counter[str] = Counter()
    silent = 0
    for node in nodes:
        offline = node.state == NodeState.OFFLINE
        silent += offline
        (lost if offline else known).update(counts.get(node.node_id, {}))
    text = f"{many(len(nodes), 'node')}, {silent} offline; {many(known.total(), 'agent')}"
    if known:
        text += f": {counted(known)}"
    if lost:
        text += f"; on offline nodes {lost.total()} more, last heard as {counted(lost)}"
    return text


def _link(asked: Asked, text: str, *, sort: str = "", page: int = 1) -> str:
    query = urlencode({"sort": sort or asked.sort, "q": asked.words, "page": page})
    return f'<a href="?{escape(query)}">{text}</a>'


def _heads(asked: Asked) -> str:
    cells = []
    for sort, title, kind in (
        ("name", "node", ""), ("state", "state", ""), ("age", "heartbeat", "n"),
        ("version", "version", "wide"),
    ):
        mark = " aria-sort=ascending" if sort == asked.sort else ""
        cells.append(f'<th class="{kind}"{mark}>{_link(asked, title, sort=sort)}</th>')
    return "".join(cells) + "<th class=wide>address</th>"


def short_id(node_id: str) -> str:
    """What tells a node from another of the same host: of a UUID the first part, else all of it."""
    return node_id[:8] if _UUID.fullmatch(node_id) else node_id


def _node(node: NodeRow, agents: Sequence[AgentRow], now: float) -> str:
    offline = node.state == NodeState.OFFLINE
    first = sorted(agents, key=lambda agent: (agent.status == "running", agent.agent_id))[:PAGE_AGENTS]
    lines = "".join(agent_row(agent, now, offline=offline) for agent in first)
    if len(agents) > len(first):
        left = counted(Counter(agent.status for agent in agents)) if not offline else "as last heard"
        more = node_link(node.node_id, f"all {len(agents)} agents")
        lines += f"<tr class=agents><td colspan=5>{more}: {escape(left)}</td></tr>"
    about = " ".join([short_id(node.node_id), labels_text(msgspec.json.decode(node.labels))])
    return (
        f"<tbody><tr><th scope=row>{node_link(node.node_id, node.hostname or node.node_id)}<br>"
        f"<small>{escape(about)}</small></th>"
        f"<td class={state_kind(node.state)}>{escape(node.state)}</td>"
        f"<td class=n>{age(now - node.last_heartbeat_at)} ago</td>"
        f"<td class=wide>{escape(node.daemon_version)}</td><td class=wide>{escape(node.ip or node.peer)}</td>"
        f"</tr>{lines}</tbody>"
    )


def _pages(asked: Asked, chosen: Chosen) -> str:
    page, pages = chosen.page, chosen.pages
    if pages == 1:
        return ""
    before = _link(asked, "before", page=page - 1) if page > 1 else ""
    after = _link(asked, "after", page=page + 1) if page < pages else ""
    return f"<p>page {page} of {pages} {before} {after}</p>"
