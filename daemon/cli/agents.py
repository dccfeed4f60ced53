"""Agents as ``status`` and ``top`` show them; pure, but for :func:`explained_404`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from daemon.cli.client import Client
from daemon.cli.faults import CliFault, Exit, Refused
from daemon.cli.table import Cell, Column, pairs, render, under
from daemon.cli.words import NONE, age, duration, percent, printable, printable_line, size, until

View = Mapping[str, Any]

STATE_COLOURS = {
    "running": "green", "starting": "yellow", "restarting": "yellow", "stopping": "yellow", "failed": "red",
    "stopped": "dim",
}
HEALTH_COLOURS = {"healthy": "green", "starting": "yellow"}
_WELL = ("healthy", "starting")
_COLUMNS = (
    Column(heading="AGENT"), Column(heading="STATE"), Column(heading="HEALTH"),
    Column(heading="PID", right=True, spare=2), Column(heading="UPTIME", right=True),
    Column(heading="RESTARTS", right=True, spare=2), Column(heading="CPU", right=True),
    Column(heading="RSS", right=True), Column(heading="BEAT", right=True, optional=True, spare=3),
    Column(heading="VERSION", optional=True, spare=4),
    Column(heading="NEXT", right=True, optional=True, spare=1), Column(heading="WHY", spare=5),
)


def is_well(view: View) -> bool:
    """Whether an agent runs and nothing is wrong with it."""
    return view["status"] == "running" and view["health"]["status"] in _WELL


def unwell(views: Sequence[View], *, named: bool) -> list[str]:
    """The ids that do not run or are unhealthy.

    Args:
        views: the agents.
        named: whether they were asked for by name; else those with ``enabled: false`` are as they should be.
    """
    return [view["id"] for view in views if not is_well(view) and (named or view["enabled"])]


def state_cell(view: View) -> Cell:
    """Its state, and whether the configuration keeps it off."""
    off = view["status"] == "stopped" and not view["enabled"]
    return Cell(text="disabled" if off else view["status"], colour=STATE_COLOURS.get(view["status"], ""))


def health_cell(view: View) -> Cell:
    """The verdict; an agent that is to be stopped has none."""
    if view["status"] == "stopped" and (view["wanted"] == "stopped" or not view["enabled"]):
        return Cell(text=NONE, colour="dim")
    status = view["health"]["status"]
    return Cell(text=status, colour=HEALTH_COLOURS.get(status, "red"))


def reason(view: View) -> str:
    """In a sentence why it is as it is: the health's reason where that is what is wrong."""
    if view["status"] == "running" and not is_well(view):
        return str(view["health"]["reason"])
    return str(view["why"])


def table(views: Sequence[View], now: float, *, width: int | None = None, colours: bool = False) -> str:
    """All agents, a line for each; on a terminal a second one with the whole reason of each that is not well.

    Args:
        views: as the API shows them.
        now: Unix seconds.
        width: of the terminal, None off one.
        colours: whether to paint.
    """
    if not views:
        return "no agents are configured\n"
    rows = [_row(view, now) for view in views]
    lines = render(_COLUMNS, rows, width=width, colours=colours).splitlines(keepends=True)
    if width is None:
        return "".join(lines)
    shown = [lines[0]]
    for view, line in zip(views, lines[1:], strict=True):
        shown.append(line)
        why = printable(reason(view))
        if not is_well(view) and health_cell(view).text != NONE and why not in line:
            shown.append(under(why, width))
    return "".join(shown)


def _row(view: View, now: float) -> list[Cell | str]:
    runs = view["pid"] is not None
    return [
        view["id"], state_cell(view), health_cell(view), str(view["pid"] or NONE),
        duration(view["uptime_seconds"] if runs else None),
        str(view["restart_count"]), percent(view["cpu_percent"]), size(view["memory_bytes"]),
        age(view["last_heartbeat"], now), view["version"] or NONE, until(view["next_try"], now), reason(view),
    ]


def summary(views: Sequence[View]) -> str:
    """``3 agents: 2 running, 1 failed``."""
    counts: dict[str, int] = {}
    for view in views:
        state = state_cell(view).text
        counts[state] = counts.get(state, 0) + 1
    plural = "" if len(views) == 1 else "s"
    often = sorted(counts.items(), key=lambda item: -item[1])
    return printable(f"{len(views)} agent{plural}: {', '.join(f'{count} {state}' for state, count in often)}")


def detail(view: View, now: float, log_tail: Sequence[str] = ()) -> str:
    """Everything about one agent, with the end of its log."""
    last = view["last_exit"]
    health = view["health"]
    adopted = ", taken back from an earlier daemon" if view["adopted"] else ""
    text = pairs([
        ("agent", view["id"]),
        ("name", view["name"]),
        ("type", view["type"]),
        ("state", f"{state_cell(view).text} (wanted: {view['wanted']})"),
        ("why", view["why"]),
        ("health", f"{health['status']}: {health['reason']}, since {health['since']}"),
        ("pid", f"{view['pid']}{adopted}" if view["pid"] else ""),
        ("uptime", duration(view["uptime_seconds"]) if view["pid"] else ""),
        ("next try", f"in {until(view['next_try'], now)} ({view['next_try']})" if view["next_try"] else ""),
        ("restarts", f"{view['restart_count']} since it was last well, {view['lifetime_restarts']} ever"),
        ("last restart", view["last_restart"]),
        ("last exit", f"{last['reason']} ({last['at']})" if last else ""),
        ("CPU", percent(view["cpu_percent"]) if view["cpu_percent"] is not None else ""),
        ("RSS", size(view["memory_bytes"]) if view["memory_bytes"] is not None else ""),
        ("heartbeat", f"{age(view['last_heartbeat'], now)} ago" if view["last_heartbeat"] else "none yet"),
        ("version", view["version"]),
        ("binary", view["binary_path"]),
        ("config file", view["config_file"]),
        ("work_dir", view["work_dir"]),
        ("log", view["log_file"]),
    ])
    if log_tail:
        text += f"\nlast {len(log_tail)} lines of its log:\n"
        text += "".join(f"  {printable_line(line)}\n" for line in log_tail)
    return text


@contextmanager
def explained_404(client: Client, agent_id: str) -> Iterator[None]:
    """Turns the daemon's 404, and its 400 to what can be no id, into the fault of :func:`unknown_agent`."""
    try:
        yield
    except Refused as refusal:
        if refusal.http_status not in (400, 404):
            raise
        known = [str(view["id"]) for view in client.get("/v1/agents")["agents"]]
        if agent_id in known:
            raise
        raise unknown_agent(agent_id, known) from refusal


def unknown_agent(agent_id: str, known: Sequence[str]) -> CliFault:
    """There is no such agent; which are there."""
    import difflib

    near = difflib.get_close_matches(agent_id, known, n=1)
    meant = f"; did you mean {near[0]}?" if near else ""
    if not known:
        listed = "no agents are configured: hostctl init writes a configuration for those it finds"
    else:
        more = f" and {len(known) - 12} more (hostctl status)" if len(known) > 12 else ""
        listed = f"agents here: {', '.join(known[:12])}{more}"
    return CliFault(f"no agent {agent_id!r}{meant}", hint=listed, status=Exit.UNREACHABLE)
