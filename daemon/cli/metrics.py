"""``hostctl metrics``: of the host, or of one agent."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import click

from daemon.cli.agents import explained_404
from daemon.cli.client import segment
from daemon.cli.events import local_time
from daemon.cli.faults import Exit
from daemon.cli.options import agent_ids, command
from daemon.cli.session import Session
from daemon.cli.table import Column, render
from daemon.cli.words import NONE, age, percent, printable, size, sparkline

POINTS = 20  # of a table, where no step is named
SPARK = 60
_POINTS = (
    Column(heading="UNTIL"), Column(heading="CPU", right=True), Column(heading="MAX", right=True),
    Column(heading="RSS", right=True), Column(heading="MAX", right=True), Column(heading="READ", right=True),
    Column(heading="WRITTEN", right=True), Column(heading="FILES", right=True),
    Column(heading="THREADS", right=True),
)
_HISTORY = (
    Column(heading="UNTIL"), Column(heading="CPU", right=True), Column(heading="MAX", right=True),
    Column(heading="LOAD", right=True), Column(heading="MEMORY", right=True),
    Column(heading="FULLEST", right=True), Column(heading="READ/s", right=True),
    Column(heading="WRITTEN/s", right=True), Column(heading="RX/s", right=True),
    Column(heading="TX/s", right=True),
)
_DISKS = (
    Column(heading="MOUNTED ON"), Column(heading="SIZE", right=True), Column(heading="USED", right=True),
    Column(heading="FREE", right=True), Column(heading="USE", right=True), Column(heading="DEVICE"),
)
_INTERFACES = (
    Column(heading="INTERFACE"), Column(heading="RECEIVED", right=True), Column(heading="SENT", right=True),
    Column(heading="RX/s", right=True), Column(heading="TX/s", right=True),
    Column(heading="ERRORS", right=True), Column(heading="DROPS", right=True),
)
_OTHERS = (Column(heading="NAME"), Column(heading="VALUE"))
Values = Mapping[str, Any]


@command("metrics")
@click.argument("agent_id", metavar="[ID]", required=False, shell_complete=agent_ids)
@click.option("--history", is_flag=True, help="Of the host, too, what it did.")
@click.option("--duration", default="1h", show_default=True, help="How far back.")
@click.option("--step", help="One point for each such span.  [default: for 20 points]")
def metrics_command(
    session: Session, agent_id: str | None, history: bool, duration: str, step: str | None
) -> int:
    """Shows the host's metrics, or what an agent used.

    Of an agent: CPU, memory, I/O, files and threads, over the time of --duration. Of the host: the newest of
    everything that is collected, or with --history what it did over that time.
    """
    if agent_id is None and history:
        data = session.client.get("/v1/metrics/history", duration=duration, step=step or _step_of(duration))
        session.emit(data, lambda: history_text(data["data_points"], session.width, session.colours))
        if not data["data_points"] and session.human:
            session.say(f"nothing was measured of this host in the last {duration}; hostctl config show")
        return Exit.OK
    if agent_id is None:
        found = session.client.get("/v1/metrics")
        session.emit(found, lambda: host_text(found, time.time(), session.width, session.colours))
        return Exit.OK
    path = f"/v1/agents/{segment(agent_id)}/metrics"
    with explained_404(session.client, agent_id):
        data = session.client.get(path, duration=duration, step=step or _step_of(duration))
    points = data["data_points"]
    session.emit(data, lambda: agent_text(points, session.width, session.colours))
    if not points and session.human:
        session.say(f"nothing was measured of {agent_id} in the last {duration}; hostctl status {agent_id}")
    return Exit.OK


def _step_of(duration: str) -> str | None:
    """A step for about :data:`POINTS` points; None where the daemon shall say what is wrong with the text."""
    from daemon.config.units import parse_duration

    try:
        return f"{max(1, round(parse_duration(duration) / POINTS))}s"
    except ValueError:
        return None


def agent_text(points: Sequence[Values], width: int | None, colours: bool = False) -> str:
    """An agent's history: two sparklines and a table, oldest first."""
    if not points:
        return ""
    rows = [
        [
            local_time(p["timestamp"]), percent(p["cpu"]), percent(p["cpu_max"]), size(p["memory_rss"]),
            size(p["memory_rss_max"]), size(p["disk_read_bytes"]), size(p["disk_write_bytes"]),
            _count(p["open_files"]), _count(p["threads"]),
        ]
        for p in points
    ]
    shown = min(SPARK, len(points))
    return (
        f"CPU  {sparkline([p['cpu'] for p in points], shown)}\n"
        f"RSS  {sparkline([p['memory_rss'] for p in points], shown)}\n\n"
        + render(_POINTS, rows, width=width, colours=colours)
    )


def history_text(points: Sequence[Values], width: int | None, colours: bool = False) -> str:
    """The host's history: two sparklines and a table, oldest first."""
    if not points:
        return ""
    rows = [
        [
            local_time(p["timestamp"]), percent(p["cpu"]), percent(p["cpu_max"]), _load(p["load1"]),
            size(p["memory_used"]), percent(p["disk_used_percent"]), size(p["disk_read_per_second"]),
            size(p["disk_written_per_second"]), size(p["network_received_per_second"]),
            size(p["network_sent_per_second"]),
        ]
        for p in points
    ]
    shown = min(SPARK, len(points))
    return (
        f"CPU     {sparkline([p['cpu'] for p in points], shown)}\n"
        f"memory  {sparkline([p['memory_used'] for p in points], shown)}\n\n"
        + render(_HISTORY, rows, width=width, colours=colours)
    )


def _load(value: float | None) -> str:
    return NONE if value is None else f"{value:.2f}"


def _count(value: object) -> str:
    return NONE if value is None else str(value)


def host_text(found: Mapping[str, Values], now: float, width: int | None, colours: bool = False) -> str:
    """The host for people: CPU, memory, disks and interfaces; other collectors by name and value."""
    if not found:
        return "no collector has measured anything; are they enabled? hostctl config show\n"
    parts = []
    for name, sample in found.items():
        values = sample["values"]
        head = f"{name} ({age(sample['timestamp'], now)} ago)"
        if name == "cpu" and "cores" in values:
            loads = " ".join(f"{values[key]:.2f}" for key in ("load1", "load5", "load15"))
            used = percent(values["usage_percent"])
            parts.append(f"{head}: {used} of {values['cores']} cores, load {loads}\n")
        elif name == "memory" and "available_bytes" in values:
            parts.append(
                f"{head}: {size(values['used_bytes'])} of {size(values['total_bytes'])} used "
                f"({percent(values['usage_percent'])}), {size(values['available_bytes'])} available, "
                f"swap {size(values['swap_used'])} of {size(values['swap_total'])}\n"
            )
        elif name == "disk" and "disks" in values:
            rows = [
                [
                    d["mountpoint"], size(d["total"]), size(d["used"]), size(d["free"]),
                    percent(d["used_percent"]), d["device"],
                ]
                for d in values["disks"]
            ]
            parts.append(f"{head}:\n" + render(_DISKS, rows, width=width, colours=colours))
        elif name == "network" and "interfaces" in values:
            rows = [_interface(i) for i in values["interfaces"]]
            parts.append(f"{head}:\n" + render(_INTERFACES, rows, width=width, colours=colours))
        else:
            rows = [[key, str(value)] for key, value in values.items()]
            parts.append(f"{printable(head)}:\n" + render(_OTHERS, rows, width=width, colours=colours))
    return "\n".join(parts)


def _interface(i: Values) -> list[str]:
    return [
        i["interface"], size(i["bytes_recv"]), size(i["bytes_sent"]), size(i["bytes_recv_per_second"]),
        size(i["bytes_sent_per_second"]), str(i["errin"] + i["errout"]), str(i["dropin"] + i["dropout"]),
    ]
