"""What the pages have in common: style, frame, and how states and ages are said; pure.

Nothing runs in a page, and nothing is loaded from elsewhere. Whatever came from a node goes through
``html.escape``.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from html import escape
from urllib.parse import quote

from daemon.manager.model import AgentRow, NodeState

REFRESH_S = 30
STATUSES = ("running", "starting", "restarting", "stopping", "stopped", "failed")
_KINDS = {"running": "good", "stopped": "idle", "failed": "bad"}
_LABELS_MAX = 120  # characters; a node may have 64 labels

STYLE = """
:root{color-scheme:light dark;--line:#8884;--dim:#5c636a;--good:#1a7f37;--bad:#c62828;--wait:#8a5a00}
@media(prefers-color-scheme:dark){:root{--dim:#a4acb4;--good:#57c774;--bad:#ff7b72;--wait:#e3b341}}
*{box-sizing:border-box}body{font:15px/1.45 system-ui,sans-serif;margin:0 auto;max-width:72rem;padding:1rem}
h1{font-size:1.25rem;margin:0 0 .25rem}h2{font-size:1.05rem;margin:1.5rem 0 .25rem}
p{margin:.25rem 0 1rem;color:var(--dim)}a{color:inherit}
form{margin:0 0 1rem}input{font:inherit;padding:.3rem .5rem;width:min(100%,22rem)}
table{border-collapse:collapse;width:100%}
th,td{text-align:left;padding:.35rem .6rem .35rem 0;vertical-align:top;overflow-wrap:break-word}
tbody :first-child,.log :last-child,.facts td{overflow-wrap:anywhere}.log :first-child{width:6rem}
tbody{border-top:1px solid var(--line)}th{font-weight:600}
.agents td{padding:.1rem .6rem .1rem 0;font-size:.92em}.agents td:first-child{padding-left:1rem}
.n{text-align:right;white-space:nowrap}.facts th{width:11rem;font-weight:400;color:var(--dim)}
.good{color:var(--good)}.bad{color:var(--bad);font-weight:600}.wait{color:var(--wait)}.idle{color:var(--dim)}
small{color:var(--dim);font-weight:400}
@media(max-width:40rem){.wide{display:none}body{padding:.6rem}td,th{padding-right:.4rem}.facts th{width:7rem}}
"""
_DIGEST = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
POLICY = (
    f"default-src 'none'; style-src 'sha256-{_DIGEST}'; base-uri 'none'; form-action 'self'; "
    "frame-ancestors 'none'"
)


def document(title: str, body: str) -> bytes:
    """A whole page; ``title`` is plain text, ``body`` is HTML."""
    return (
        "<!doctype html><html lang=en><head><meta charset=utf-8>"
        '<meta name=viewport content="width=device-width,initial-scale=1">'
        f"<meta http-equiv=refresh content={REFRESH_S}><title>{escape(title)}</title>"
        f"<style>{STYLE}</style></head><body>{body}</body></html>"
    ).encode("utf-8", "replace")


def node_link(node_id: str, text: str) -> str:
    """A link to a node's page; ``text`` is plain."""
    return f'<a href="/nodes/{escape(quote(node_id, safe=""))}">{escape(text)}</a>'


def labels_text(labels: Mapping[str, str]) -> str:
    """Labels as ``rack=7 zone=b``, plain text, cut where there are many."""
    text = " ".join(f"{name}={value}" for name, value in sorted(labels.items()))
    return text if len(text) <= _LABELS_MAX else f"{text[:_LABELS_MAX]}..."


def state_kind(state: str) -> str:
    """The class of a node's state."""
    return "bad" if state == NodeState.OFFLINE else "good"


def agent_row(agent: AgentRow, now: float, *, offline: bool) -> str:
    """A line of an agent; of a node that is not heard of it says what was, and when that was told."""
    if offline:
        kind, state, when = "idle", f"was {agent.status}", f"told {age(now - agent.seen_at)} ago"
    else:
        kind = _KINDS.get(agent.status, "wait")
        state, when = agent.status, f"for {age(now - agent.since)}"
    pid = f", pid {agent.pid}" if agent.pid and not offline else ""
    return (
        f"<tr class=agents><td>{escape(agent.agent_id)}</td><td class={kind}>{escape(state)}</td>"
        f"<td class=n>{when}</td><td class=wide>{escape(agent.version)}</td>"
        f"<td class=wide>{escape(agent.type)}{pid}</td></tr>"
    )


def counted(counts: Mapping[str, int]) -> str:
    """Counts by status in the order of :data:`STATUSES`: ``3 running, 1 failed``; others as ``other``."""
    said = [f"{counts[status]} {status}" for status in STATUSES if counts.get(status)]
    other = sum(count for status, count in counts.items() if status not in STATUSES)
    return ", ".join([*said, *([f"{other} other"] if other else [])])


def many(count: int, one: str) -> str:
    """``1 node``, ``2 nodes``."""
    return f"{count} {one}" if count == 1 else f"{count} {one}s"


def age(seconds: float) -> str:
    """Seconds as people say them: ``12 s``, ``3 min``, ``5 h``, ``9 d``."""
    seconds = max(0.0, seconds)
    for most, unit, word in ((90, 1, "s"), (5400, 60, "min"), (172800, 3600, "h")):
        if seconds < most:
            return f"{seconds / unit:.0f} {word}"
    return f"{seconds / 86400:.0f} d"
