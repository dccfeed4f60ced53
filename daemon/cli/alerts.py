"""``hostctl alerts``."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import click

from daemon.cli.events import SEVERITY_COLOURS
from daemon.cli.faults import Exit
from daemon.cli.options import command
from daemon.cli.session import Session
from daemon.cli.table import Cell, Column, render, under, widest
from daemon.cli.words import NONE, age

_ALERTS = (
    Column(heading="SINCE", right=True), Column(heading="SEVERITY", spare=2), Column(heading="AGENT"),
    Column(heading="TYPE", spare=3), Column(heading="OVER", right=True, optional=True, spare=1),
    Column(heading="MESSAGE"),
)
Item = Mapping[str, Any]


@command("alerts")
@click.option("-a", "--all", "everything", is_flag=True, help="Those that are over too.")
def alerts_command(session: Session, everything: bool) -> int:
    """Shows what is wrong now, the newest first. Ends with 3 while an alert stands."""
    found = session.client.get("/v1/alerts")["alerts"]
    standing = [alert for alert in found if not alert["cleared_at"]]
    shown = found if everything else standing
    session.emit(
        {"alerts": shown},
        lambda: alert_table(shown, time.time(), width=session.width, colours=session.colours),
    )
    sys.stdout.flush()
    if not standing and session.human:
        session.say("no alert stands")
    return Exit.UNWELL if standing else Exit.OK


def alert_table(
    alerts: Sequence[Item], now: float, *, width: int | None = None, colours: bool = False
) -> str:
    """Alerts, a line for each, their messages below where a terminal has no room; nothing for none."""
    if not alerts:
        return ""
    rows: list[list[Cell | str]] = [
        [
            age(alert["timestamp"], now), _severity(alert), alert["agent_id"] or NONE,
            alert["type"], age(alert["cleared_at"], now), alert["message"],
        ]
        for alert in alerts
    ]
    whole = render(_ALERTS, rows, colours=colours)
    if width is None or widest(whole) <= width:
        return whole
    # What is to be done stands at the end of a message: none is cut.
    text = render(_ALERTS[:-1], [row[:-1] for row in rows], width=width, colours=colours)
    head, *lines = text.splitlines(keepends=True)
    return head + "".join(
        line + under(alert["message"], width) for line, alert in zip(lines, alerts, strict=True)
    )


def _severity(alert: Item) -> Cell:
    colour = "dim" if alert["cleared_at"] else SEVERITY_COLOURS.get(alert["severity"], "")
    return Cell(text=alert["severity"], colour=colour)
