"""``hostctl node``."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from daemon.cli.faults import Exit
from daemon.cli.options import command
from daemon.cli.session import Session
from daemon.cli.table import pairs
from daemon.cli.words import age


@command("node")
def node_command(session: Session) -> int:
    """Shows this host and its daemon.

    Versions, configuration, Manager, agents by state.
    """
    node = session.client.get("/v1/node")
    session.emit(node, lambda: text(node, time.time()))
    return Exit.OK


def text(node: Mapping[str, Any], now: float) -> str:
    """The node for people."""
    config, manager = node["config"], node["manager"]
    loaded = f"{config['path']}, loaded {age(config['loaded_at'], now)} ago"
    agents = ", ".join(f"{count} {state}" for state, count in node["agents"].items() if count) or "none"
    return pairs([
        ("node", node["node_id"]),
        ("host", f"{node['hostname']} ({node['ip']}), {node['os']}/{node['arch']}"),
        ("labels", ", ".join(f"{key}={value}" for key, value in node["labels"].items())),
        ("daemon", f"{node['daemon_version']}, pid {node['pid']}, up {age(node['started_at'], now)}"),
        ("agents", agents),
        ("alerts", f"{node['alerts']} stand; hostctl alerts" if node["alerts"] else "none"),
        ("configuration", loaded if config["ok"] else f"{loaded}; the file now is REFUSED"),
        ("", config["error"] if not config["ok"] else ""),
        ("waits for restart", ", ".join(config["needs_restart"])),
        ("manager", _manager(manager, now)),
        ("work_dir", node["work_dir"]),
        ("heartbeat socket", node["heartbeat_socket"]),
        ("control socket", node["control_socket"]),
        ("storage", f"FAILS: {node['storage_error']}" if node["storage_error"] else ""),
        ("events lost", node["events_lost"] or ""),
    ])


def _manager(manager: Mapping[str, Any], now: float) -> str:
    if not manager["address"]:
        return "none configured"
    if manager["connected"]:
        link = f"{manager['address']}, connected {age(manager['since'], now)} ago"
    else:
        link = f"{manager['address']}, NOT connected: {manager['last_error'] or 'trying'}"
    reports = ", ".join(f"{manager[key]} {key}" for key in ("queued", "dropped", "refused") if manager[key])
    return f"{link}; reports: {reports}" if reports else link
