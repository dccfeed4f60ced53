"""``hostctl events``."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import click

from daemon.cli.agents import unknown_agent
from daemon.cli.client import STREAM_SILENCE_S, Client
from daemon.cli.faults import CliFault, Exit, Refused, Unreachable
from daemon.cli.options import agent_ids, command
from daemon.cli.session import Session
from daemon.cli.sse import SseParser
from daemon.cli.table import painted
from daemon.cli.words import printable

LIMIT_MAX = 1000  # of the API
RETRY_S = 1.0
SEVERITY_COLOURS = {"warn": "yellow", "error": "red", "critical": "red"}
Item = Mapping[str, Any]


@command("events")
@click.option("-f", "--follow", is_flag=True, help="Go on with what happens, until Ctrl-C.")
@click.option(
    "-n", "--limit", type=click.IntRange(1, LIMIT_MAX), default=20, show_default=True,
    help="How many of the last ones. With --agent and --type they are looked for among the last 1000.",
)
@click.option("--agent", metavar="ID", help="Only those of this agent.", shell_complete=agent_ids)
@click.option("--type", "kind", metavar="TYPE", help="Such as agent.exited, or agent for all of them.")
def events_command(session: Session, follow: bool, limit: int, agent: str | None, kind: str | None) -> int:
    """Shows what happened, and why: exits, operations, alerts.

    Reloads and updates too. With --follow every event comes once and in order, over restarts of the daemon
    too: it is resumed where it broke off.
    """
    chosen = agent is not None or kind is not None
    found = session.client.get("/v1/events", once="", limit=LIMIT_MAX if chosen else limit)["events"]
    shown = [event for event in found if wanted(event, agent, kind)][-limit:]
    if agent is not None and not shown:  # of an agent that was removed there may be some
        known = [str(view["id"]) for view in session.client.get("/v1/agents")["agents"]]
        if agent not in known:
            raise unknown_agent(agent, known)
    if not follow:
        session.emit({"events": shown}, lambda: "".join(line(event, session.colours) for event in shown))
        sys.stdout.flush()
        if not shown and session.human:
            session.say(f"there is no such event among the last {len(found)}; hostctl events shows all types")
        return Exit.OK
    for event in shown:
        _show(session, event)
    return _follow(session, found[-1]["id"] if found else None, agent, kind)


def wanted(event: Item, agent: str | None, kind: str | None) -> bool:
    """Whether an event is of this agent and type; a type's first part stands for all that begin with it."""
    if agent is not None and event["agent_id"] != agent:
        return False
    return kind is None or event["type"] == kind or event["type"].startswith(kind + ".")


def line(event: Item, colours: bool = False) -> str:
    """An event as a line: local time, severity, type, message."""
    message = painted(printable(event["message"]), SEVERITY_COLOURS.get(event["severity"], ""), colours)
    return f"{local_time(event['at'])}  {printable(event['type']):<22} {message}\n"


def local_time(text: str) -> str:
    """A time of the API on this host's clock, to the second; what is none stays as it is."""
    try:
        return datetime.fromisoformat(text).astimezone().strftime("%Y-%m-%d %H:%M:%S")
    except ValueError:
        return printable(text)


def gap(lost: object) -> str:
    """The notice that events are gone for good."""
    return f"{lost if isinstance(lost, int) else 'some'} events are lost: the journal no longer holds them"


def _show(session: Session, event: Item) -> None:
    session.emit_item(event, lambda: line(event, session.colours))


def _follow(session: Session, last: str | None, agent: str | None, kind: str | None) -> int:
    position = _Position(last)
    cause = ""
    while True:
        try:
            _copy(session, session.client, position, agent, kind)
            again = "the daemon ended the stream"
        except Unreachable as fault:
            if not fault.away:
                raise
            again = fault.message
        except Refused as refusal:
            if refusal.http_status != 503:
                raise
            again = refusal.message
        if not cause or position.moved:
            session.say(f"{again}; waiting for the daemon, Ctrl-C ends")
        cause, position.moved = again, False
        time.sleep(RETRY_S)


class _Position:
    """How far the stream came; survives the connection.

    Attributes:
        last: id of the last event that was shown or left out.
        moved: whether anything came since it was last looked at.
    """

    def __init__(self, last: str | None) -> None:
        self.last = last
        self.moved = False


def _copy(session: Session, client: Client, position: _Position, agent: str | None, kind: str | None) -> None:
    headers = {"Last-Event-ID": position.last} if position.last else {}
    pieces = client.stream("/v1/events", headers, silence_s=STREAM_SILENCE_S)
    parser = SseParser()
    for piece in pieces:
        position.moved = True
        try:
            messages = list(parser.feed(piece))
        except ValueError as error:
            raise CliFault(
                f"the stream of events of {client.where.path} cannot be read: {error}",
                hint="is it the control socket of hostdaemon? hostctl --socket PATH names another",
            ) from error
        for message in messages:
            if message.event == "gap":
                session.say(gap(message.data.get("lost")))
            elif message.event == "error":
                session.say(f"{message.data.get('code')} {message.data.get('detail')}")
            else:
                position.last = message.id or position.last
                if wanted(message.data, agent, kind):
                    _show(session, message.data)
