"""The page of one node: its facts, all of its agents, and what happened last; pure."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from daemon.manager.html import age, agent_row, counted, document, labels_text, state_kind
from daemon.manager.model import AgentRow, CommandRow, NodeState
from daemon.manager.queries import EventRow, Part
from daemon.manager.views import NodeBody

_SEVERITIES = {"warn": "wait", "warning": "wait", "error": "bad", "critical": "bad"}
_OUTCOMES = {"done": "good", "failed": "bad", "unknown": "wait"}


def render(
    node: NodeBody, agents: Part[AgentRow], events: Sequence[EventRow], commands: Sequence[CommandRow],
    now: float, name: str,
) -> bytes:
    """The page as HTML.

    Args:
        node: the node.
        agents: its agents, or the first of very many.
        events: the last ones, newest first.
        commands: the last operations, newest first.
        now: wall time.
        name: of the Manager.
    """
    host = node.hostname or node.node_id
    offline = node.state == NodeState.OFFLINE
    last = (
        "; whether they still run so is not known here, for agents outlive the daemon" if offline else ""
    )
    lines = "".join(agent_row(agent, now, offline=offline) for agent in agents.rows)
    more = (
        f"<tr><td colspan=5>the first {len(agents.rows)}; /v1/nodes/ID/agents has all</td></tr>"
        if agents.more else ""
    )
    none = "" if agents.rows else "<tr><td>it told of none</td></tr>"
    return document(
        f"{host}: {name}",
        f'<p><a href="/">{escape(name)}</a></p><h1>{escape(host)} '
        f"<span class={state_kind(node.state)}>{escape(node.state)}</span></h1>"
        f"<table class=facts><tbody>{_facts(node)}</tbody></table>"
        f"<h2>Agents</h2><p>{'last heard as ' if last else ''}{escape(counted(node.agents))}{last}</p>"
        f"<table><tbody>{lines}{more}{none}</tbody></table>"
        f"<h2>Events</h2><table class=log><tbody>{''.join(_event(each, now) for each in events) or _NONE}"
        f"</tbody></table><h2>Operations</h2><table class=log><tbody>"
        f"{''.join(_command(each, now) for each in commands) or _NONE}</tbody></table>",
    )


_NONE = "<tr><td>none yet</td></tr>"


def _facts(node: NodeBody) -> str:
    facts = (
        ("node id", node.node_id),
        ("labels", labels_text(node.labels)),
        ("last heartbeat", f"{age(node.age_seconds)} ago, {node.last_heartbeat or 'never'}"),
        (f"{node.state} since", node.state_since),
        ("address", node.ip),
        ("operations go to", node.daemon_address or "nowhere: there is no safe way to its daemon"),
        ("certificate", node.certificate or "none: it is not proven who it is"),
        ("host", f"{node.os} {node.arch}".strip()),
        ("daemon", node.daemon_version),
        ("agents' version", node.agent_version),
        ("registered", node.registered_at),
        ("first seen", node.first_seen_at),
        ("reports lost", str(node.reports_lost) if node.reports_lost else ""),
    )
    return "".join(
        f"<tr><th scope=row>{escape(title)}</th><td>{escape(text)}</td></tr>" for title, text in facts if text
    )


def _event(event: EventRow, now: float) -> str:
    kind = _SEVERITIES.get(event.severity, "idle")
    return (
        f"<tr><td>{age(now - event.happened_at)} ago</td><td class={kind}>{escape(event.type)}</td>"
        f"<td>{escape(event.message)}</td></tr>"
    )


def _command(command: CommandRow, now: float) -> str:
    kind = _OUTCOMES.get(command.state, "idle")
    return (
        f"<tr><td>{age(now - command.asked_at)} ago</td>"
        f"<td>{escape(command.operation)} {escape(command.agent_id)}</td>"
        f"<td class={kind}>{escape(command.state)}</td><td>{escape(command.message)}</td></tr>"
    )
