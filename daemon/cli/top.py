"""``hostctl top``: agents by what they use, live."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import click

from daemon.cli.agents import health_cell, is_well, state_cell, summary
from daemon.cli.client import Client, segment
from daemon.cli.faults import CliFault, Exit, Unreachable
from daemon.cli.options import command
from daemon.cli.screen import ENTER, LEAVE, drawn, heed_size, pause
from daemon.cli.session import Session, columns_and_lines
from daemon.cli.table import Cell, Column, painted, render
from daemon.cli.words import NONE, cut, duration, percent, printable, size, sparkline

HISTORY_S, STEP_S = 3600, 180
SPARK = HISTORY_S // STEP_S
REFRESH_S = 60.0  # of the history; a new point comes every resources.interval
_COLUMNS = (
    Column(heading="AGENT"), Column(heading="STATE", spare=1), Column(heading="HEALTH", spare=2),
    Column(heading="CPU", right=True), Column(heading="LAST HOUR", spare=3),
    Column(heading="RSS", right=True), Column(heading="LAST HOUR", spare=5),
    Column(heading="UPTIME", right=True, spare=4), Column(heading="RESTARTS", right=True, spare=6),
    Column(heading="PID", right=True, spare=7),
)
SORTS = {
    "cpu": lambda view: -(view["cpu_percent"] if view["cpu_percent"] is not None else -1.0),
    "rss": lambda view: -(view["memory_bytes"] if view["memory_bytes"] is not None else -1.0),
    "restarts": lambda view: -view["lifetime_restarts"],
    "id": lambda view: view["id"],
}
View = Mapping[str, Any]
Histories = Mapping[str, Sequence[View]]


@command("top")
@click.option(
    "--sort", type=click.Choice(list(SORTS)), default="cpu", show_default=True, help="What comes first."
)
@click.option(
    "--interval", type=click.FloatRange(0.5, 3600), default=2.0, show_default=True,
    help="Seconds between looks.",
)
@click.option("--once", is_flag=True, help="One look; so too where stdout is no terminal.")
def top_command(session: Session, sort: str, interval: float, once: bool) -> int:
    """Shows agents by what they use, live, with their last hour. Ctrl-C ends."""
    past = _Past(session.client)
    if once or not session.live or not session.human:
        views = _sorted(session.client, sort)
        histories = past.of(views, time.monotonic())
        data = {"agents": [{**view, "history": list(histories.get(view["id"], ()))} for view in views]}
        session.emit(data, lambda: frame(views, histories, width=session.width, colours=session.colours))
        return Exit.OK
    views = _sorted(session.client, sort)
    heed_size()
    session.write(ENTER)
    try:
        while True:
            columns, lines = columns_and_lines(session.environ)
            away = ""
            try:
                views = _sorted(session.client, sort)
                histories = past.of(views[:lines], time.monotonic())
            except Unreachable as fault:
                if not fault.away:
                    raise
                away = f"NOT LIVE: {fault.message}"
                histories = past.known
            text = frame(
                views, histories, width=columns, height=lines, colours=session.colours,
                clock=time.strftime("%H:%M:%S"), away=away,
            )
            session.write(drawn(text, columns, lines))
            sys.stdout.flush()
            pause(interval)
    finally:
        session.write(LEAVE)
        sys.stdout.flush()


def frame(
    views: Sequence[View], histories: Histories, *, width: int | None = None, height: int | None = None,
    colours: bool = False, clock: str = "", away: str = "",
) -> str:
    """One look.

    Args:
        views: agents, in the order they are shown.
        histories: points of the last hour, oldest first, by agent.
        width, height: of the terminal; None off one.
        colours: whether to paint.
        clock: the time, for the head.
        away: why what is shown is no longer live; empty where it is.
    """
    head = "  ".join(filter(None, (clock, printable(away), summary(views))))
    if width is not None:
        head = cut(head, width)
    head = painted(head, "red" if away else "", colours)
    room = len(views) if height is None else max(0, height - 5)  # head, empty, headings, more, the cursor's
    rows = [_row(view, histories.get(view["id"], ())) for view in views[:room]]
    more = f"... and {len(views) - room} more\n" if len(views) > room else ""
    return f"{head}\n\n" + render(_COLUMNS, rows, width=width, colours=colours) + more


def _row(view: View, points: Sequence[View]) -> list[Cell | str]:
    return [
        view["id"], state_cell(view), health_cell(view), percent(view["cpu_percent"]),
        sparkline([p["cpu"] for p in points], SPARK), size(view["memory_bytes"]),
        sparkline([p["memory_rss"] for p in points], SPARK),
        duration(view["uptime_seconds"]) if view["pid"] else NONE,
        Cell(text=str(view["lifetime_restarts"]), colour="" if is_well(view) else "yellow"),
        str(view["pid"] or NONE),
    ]


def _sorted(client: Client, sort: str) -> list[View]:
    return sorted(client.get("/v1/agents")["agents"], key=SORTS[sort])


class _Past:
    """The last hour of the agents on the screen, asked for anew once a minute."""

    def __init__(self, client: Client) -> None:
        self.known: dict[str, Sequence[View]] = {}
        self._client = client
        self._asked: dict[str, float] = {}

    def of(self, views: Sequence[View], now: float) -> Histories:
        """Their points; none for an agent that left meanwhile."""
        for view in views:
            name = view["id"]
            if now - self._asked.get(name, -REFRESH_S) < REFRESH_S:
                continue
            self._asked[name] = now
            path = f"/v1/agents/{segment(name)}/metrics"
            try:
                self.known[name] = self._client.get(path, duration=HISTORY_S, step=STEP_S)["data_points"]
            except Unreachable:
                raise
            except CliFault:
                self.known[name] = ()  # removed by a reload, or its history is out of order: it shows no bars
        return self.known
