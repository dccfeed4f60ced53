"""The one page: every node and its agents, rendered here, without a script; pure."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from urllib.parse import urlencode

from daemon.manager.model import AgentRow, NodeRow, NodeState

PAGE_NODES = 200
REFRESH_S = 30
_GOOD = frozenset({"running"})
_IDLE = frozenset({"stopped"})

STYLE = """
:root{color-scheme:light dark;--line:#8884;--dim:#8889;--good:#1a7f37;--bad:#c62828;--wait:#9a6700}
@media(prefers-color-scheme:dark){:root{--good:#57c774;--bad:#ff7b72;--wait:#e3b341}}
*{box-sizing:border-box}body{font:15px/1.45 system-ui,sans-serif;margin:0 auto;max-width:72rem;padding:1rem}
h1{font-size:1.25rem;margin:0 0 .25rem}p{margin:.25rem 0 1rem;color:GrayText}a{color:inherit}
form{margin:0 0 1rem}input{font:inherit;padding:.3rem .5rem;width:min(100%,22rem)}
table{border-collapse:collapse;width:100%}
th,td{text-align:left;padding:.35rem .6rem .35rem 0;vertical-align:top}
tbody{border-top:1px solid var(--line)}th{font-weight:600;white-space:nowrap}
.agents td{padding:.1rem .6rem .1rem 1rem;font-size:.92em}.n{text-align:right;white-space:nowrap}
.good{color:var(--good)}.bad{color:var(--bad);font-weight:600}.wait{color:var(--wait)}.idle{color:GrayText}
small{color:GrayText;word-break:break-all}
@media(max-width:40rem){.wide{display:none}body{padding:.6rem}td,th{padding-right:.4rem}}
"""
_DIGEST = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
POLICY = (
    f"default-src 'none'; style-src 'sha256-{_DIGEST}'; base-uri 'none'; form-action 'self'; "
    "frame-ancestors 'none'"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What the page is asked for: an order, words to look for, and which part."""

    sort: str = "name"
    words: str = ""
    page: int = 1


_ORDERS: dict[str, Callable[[NodeRow], tuple[object, ...]]] = {
    "name": lambda node: (node.hostname, node.node_id),
    "state": lambda node: (node.state != NodeState.OFFLINE, node.hostname, node.node_id),
    "age": lambda node: (node.last_heartbeat_at, node.node_id),
    "version": lambda node: (node.daemon_version, node.hostname, node.node_id),
}
SORTS = tuple(_ORDERS)


def render(
    nodes: Sequence[NodeRow], agents: Sequence[AgentRow], asked: Asked, now: float, name: str
) -> bytes:
    """The page as HTML; everything that came from a node is escaped."""
    of_node: dict[str, list[AgentRow]] = {}
    for agent in agents:
        of_node.setdefault(agent.node_id, []).append(agent)
    words = asked.words.casefold().split()
    found = [node for node in nodes if _matches(node, of_node.get(node.node_id, ()), words)]
    found.sort(key=_ORDERS[asked.sort])
    pages = max(1, -(-len(found) // PAGE_NODES))
    page = min(asked.page, pages)
    shown = found[(page - 1) * PAGE_NODES : page * PAGE_NODES]
    offline = sum(node.state == NodeState.OFFLINE for node in nodes)
    not_running = sum(agent.status not in _GOOD | _IDLE for agent in agents)
    summary = (
        f"{len(nodes)} nodes, {offline} offline; {len(agents)} agents, "
        f"{not_running} neither running nor stopped"
    )
    rows = "".join(_node(node, of_node.get(node.node_id, ()), now) for node in shown)
    empty = "" if shown else "<tbody><tr><td colspan=5>no node</td></tr></tbody>"
    return (
        "<!doctype html><html lang=en><head><meta charset=utf-8>"
        '<meta name=viewport content="width=device-width,initial-scale=1">'
        f"<meta http-equiv=refresh content={REFRESH_S}><title>{escape(name)}: nodes</title>"
        f"<style>{STYLE}</style></head><body><h1>{escape(name)}</h1><p>{summary}</p>"
        f'<form><input type=search name=q value="{escape(asked.words)}" placeholder="host, label or agent"'
        f' aria-label="look for"><input type=hidden name=sort value="{escape(asked.sort)}"></form>'
        f"<table><thead><tr>{_heads(asked)}</tr></thead>{rows}{empty}</table>{_pages(asked, page, pages)}"
        "</body></html>"
    ).encode("utf-8", "replace")


def _matches(node: NodeRow, agents: Sequence[AgentRow], words: Sequence[str]) -> bool:
    if not words:
        return True
    text = " ".join([node.hostname, node.node_id, node.ip, node.labels, node.state,
                     *(f"{agent.agent_id} {agent.status}" for agent in agents)]).casefold()
    return all(word in text for word in words)


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


def _node(node: NodeRow, agents: Sequence[AgentRow], now: float) -> str:
    kind = "bad" if node.state == NodeState.OFFLINE else "good"
    lines = "".join(_agent(agent, now) for agent in agents)
    name = escape(node.hostname or node.node_id)
    return (
        f"<tbody><tr><th scope=row>{name}<br><small>{escape(node.node_id)}</small></th>"
        f'<td class={kind}>{escape(node.state)}</td><td class=n>{age(now - node.last_heartbeat_at)} ago</td>'
        f"<td class=wide>{escape(node.daemon_version)}</td><td class=wide>{escape(node.ip or node.peer)}</td>"
        f"</tr>{lines}</tbody>"
    )


def _agent(agent: AgentRow, now: float) -> str:
    kind = "good" if agent.status in _GOOD else "idle" if agent.status in _IDLE else (
        "bad" if agent.status == "failed" else "wait"
    )
    return (
        f"<tr class=agents><td>{escape(agent.agent_id)}</td><td class={kind}>{escape(agent.status)}</td>"
        f"<td class=n>for {age(now - agent.since)}</td><td class=wide>{escape(agent.version)}</td>"
        f"<td class=wide>{escape(agent.type)}{f', pid {agent.pid}' if agent.pid else ''}</td></tr>"
    )


def _pages(asked: Asked, page: int, pages: int) -> str:
    if pages == 1:
        return ""
    before = _link(asked, "before", page=page - 1) if page > 1 else ""
    after = _link(asked, "after", page=page + 1) if page < pages else ""
    return f"<p>page {page} of {pages} {before} {after}</p>"


def age(seconds: float) -> str:
    """Seconds as people say them: ``12 s``, ``3 min``, ``5 h``, ``9 d``."""
    seconds = max(0.0, seconds)
    for most, unit, word in ((90, 1, "s"), (5400, 60, "min"), (172800, 3600, "h")):
        if seconds < most:
            return f"{seconds / unit:.0f} {word}"
    return f"{seconds / 86400:.0f} d"
