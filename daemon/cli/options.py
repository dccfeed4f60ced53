"""What commands share: ``--output`` on each of them, and agent ids with their completion."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click
from click.shell_completion import CompletionItem

from daemon.cli.session import Output, Session

COMPLETION_S = 2.0  # patience of whoever pressed the tabulator
F = TypeVar("F", bound=Callable[..., Any])


def _set_output(ctx: click.Context, _option: click.Parameter, value: str | None) -> None:
    if value is not None:
        ctx.ensure_object(Session).output = Output(value)


output_option = click.option(
    "-o", "--output", type=click.Choice([o.value for o in Output]), expose_value=False, callback=_set_output,
    help="The form of the data: human (default), json or yaml.",
)


def agent_ids(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The ids that begin so, from the daemon; none when it cannot be asked, for a completion says nothing."""
    from daemon.cli.client import Client
    from daemon.cli.faults import CliFault
    from daemon.cli.where import find_socket

    root = ctx.find_root()
    session = Session()
    session.socket, session.config = root.params.get("socket"), root.params.get("config")
    try:
        where = find_socket(session.socket, session.config, session.environ)
        agents = Client(where, COMPLETION_S).get("/v1/agents")["agents"]
        return [
            CompletionItem(a["id"], help=f"{a['status']}, {a['type']}")
            for a in agents if a["id"].startswith(incomplete)
        ]
    except (CliFault, LookupError, TypeError, AttributeError):
        return []


def components(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """What can be updated: agents, and the daemon."""
    own = [CompletionItem("daemon", help="hostdaemon itself")] if "daemon".startswith(incomplete) else []
    return own + agent_ids(ctx, param, incomplete)


def files(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Has the shell complete a path. Not click.Path: what is wrong with a file is ours to tell."""
    return [CompletionItem(incomplete, type="file")]


def command(name: str, **attributes: Any) -> Callable[[Callable[..., Any]], click.Command]:
    """A command that takes ``--output`` too, so that it may stand at the end of the line."""

    def made(function: Callable[..., Any]) -> click.Command:
        made_of: click.Command = click.command(name, **attributes)(output_option(click.pass_obj(function)))
        return made_of

    return made
