"""``hostctl status``."""

from __future__ import annotations

import sys
import time
from functools import partial
from typing import Any

import click

from daemon.cli import agents
from daemon.cli.client import segment
from daemon.cli.faults import Exit, Unreachable
from daemon.cli.options import agent_ids, command
from daemon.cli.screen import drawn, heed_size, pause
from daemon.cli.session import Session, columns_and_lines
from daemon.cli.words import printable

TAIL_LINES = 20
Views = list[dict[str, Any]]


@command("status")
@click.argument("ids", nargs=-1, metavar="[ID]...", shell_complete=agent_ids)
@click.option("-w", "--watch", is_flag=True, help="Show it again and again until Ctrl-C.")
@click.option(
    "--interval", type=click.FloatRange(0.2, 3600), default=2.0, show_default=True,
    help="Seconds, of --watch.",
)
def status_command(session: Session, ids: tuple[str, ...], watch: bool, interval: float) -> int:
    """Shows agents: state, health, use of the host, and why.

    One ID shows everything about that agent, with the end of its log where it is not well. Ends with 3 when
    an agent does not run or is unhealthy (without IDs those with enabled: false do not count), with 4 for an
    ID that is none.
    """
    if watch:
        return _watch(session, ids, interval)
    views = _views(session, ids)
    session.emit(_data(views), lambda: _text(session, views, ids))
    sick = agents.unwell(views, named=bool(ids))
    if sick and session.human and not ids:
        first = sick[0]
        sys.stdout.flush()
        listed = ", ".join(sick[:5]) + (" ..." if len(sick) > 5 else "")
        session.say(
            f"{len(sick)} not running or not healthy: {listed}; hostctl status {first} says more"
        )
    return Exit.UNWELL if sick else Exit.OK


def _views(session: Session, ids: tuple[str, ...]) -> Views:
    views: Views = session.client.get("/v1/agents")["agents"]
    if not ids:
        return views
    known = {view["id"]: view for view in views}
    for agent_id in ids:
        if agent_id not in known:
            raise agents.unknown_agent(agent_id, list(known))
    return [known[agent_id] for agent_id in dict.fromkeys(ids)]


def _data(views: Views) -> dict[str, Any]:
    return {"agents": views}


def _text(session: Session, views: Views, ids: tuple[str, ...]) -> str:
    now = time.time()
    if len(ids) != 1:
        return agents.table(views, now, width=session.width, colours=session.colours)
    view = views[0]
    tail: list[str] = []
    if not agents.is_well(view):
        from daemon.config.secrets import text_shown  # what is shown here is shown to others

        log = session.client.text(f"/v1/agents/{segment(view['id'])}/logs", lines=TAIL_LINES)
        tail = text_shown(log.decode("utf-8", "backslashreplace")).splitlines()
    return agents.detail(view, now, tail)


def _watch(session: Session, ids: tuple[str, ...], interval: float) -> int:
    """Until Ctrl-C; a daemon that goes away is waited for, and its absence shown instead of stale rows."""
    heed_size()
    answered = said = False
    while True:
        try:
            views = _views(session, ids)
        except Unreachable as fault:
            if not answered or not fault.away:
                raise
            if session.human and session.live:
                shown = f"{printable(fault.message)}\nwaiting for it; Ctrl-C ends\n"
                session.write(drawn(shown, *columns_and_lines(session.environ)))
                sys.stdout.flush()
            elif not said:
                session.say(f"{fault.message}; waiting for it, Ctrl-C ends")
            said = True
        else:
            answered, said = True, False
            session.emit_item(_data(views), partial(_screen, session, views, ids))
        pause(interval)


def _screen(session: Session, views: Views, ids: tuple[str, ...]) -> str:
    text = f"{time.strftime('%H:%M:%S')}  {agents.summary(views)}\n\n{_text(session, views, ids)}"
    return drawn(text, *columns_and_lines(session.environ)) if session.live else text
