"""``hostctl update``, ``updates`` and ``rollback``."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import click

from daemon.cli.agents import explained_404
from daemon.cli.client import segment
from daemon.cli.events import local_time
from daemon.cli.evidence import evidence_text
from daemon.cli.faults import CliFault, Exit, Refused
from daemon.cli.options import command, components, files
from daemon.cli.package import request_of
from daemon.cli.session import Session
from daemon.cli.table import Cell, Column, pairs, render
from daemon.cli.waiting import Update, progress, under_way, until_over
from daemon.cli.words import NONE, printable

_UPLOAD_S = 300.0
_STATES = {"succeeded": "green", "failed": "red", "rolled_back": "red", "broken": "red", "cancelled": "dim"}
_UPDATES = (
    Column(heading="ID"), Column(heading="COMPONENT"), Column(heading="FROM"), Column(heading="TO"),
    Column(heading="STATE"), Column(heading="STEP", spare=2), Column(heading="STARTED", spare=3),
    Column(heading="ERROR", optional=True, spare=1),
)
_wait = click.option("--wait", is_flag=True, help="Wait for the end, and show how far it is.")


@command("update")
@click.argument("component", shell_complete=components)
@click.argument("source", metavar="FILE|URL", shell_complete=files)
@click.option("--version", "new_version", metavar="V", help="Of the package.  [default: what a FILE says]")
@click.option("--signature", metavar="BASE64", help="Of the package.")
@click.option(
    "--sig-file", metavar="FILE", help="Where the signature is.  [default: FILE.sig]", shell_complete=files
)
@click.option("--hash", "digest", metavar="SHA256", help="Of the package.  [default: that of a FILE]")
@_wait
def update_command(
    session: Session, component: str, source: str, new_version: str | None, signature: str | None,
    sig_file: str | None, digest: str | None, wait: bool,
) -> int:
    """Updates COMPONENT, an agent's id or daemon, from a signed package: a file here, or a URL it loads."""
    body = request_of(
        component, source, version=new_version, signature=signature, sig_file=sig_file, digest=digest
    )
    try:
        with explained_404(session.client, component), session.busy(f"sending {source}"):
            update_id = session.client.post("/v1/updates", body, timeout_s=_UPLOAD_S)["id"]
    except KeyboardInterrupt:
        session.say("hostctl updates tells whether the daemon has taken it")
        raise
    return _accepted(session, update_id, wait)


@command("rollback")
@click.argument("component", shell_complete=components)
@_wait
def rollback_command(session: Session, component: str, wait: bool) -> int:
    """Goes back to the version of COMPONENT before the installed one, with the same care as an update."""
    with explained_404(session.client, component):
        update_id = session.client.post(f"/v1/rollback/{segment(component)}")["id"]
    return _accepted(session, update_id, wait)


@command("updates")
@click.argument("update_id", metavar="[ID]", required=False)
@click.option("--cancel", is_flag=True, help="Call this one off, if it has changed nothing yet.")
@_wait
def updates_command(session: Session, update_id: str | None, cancel: bool, wait: bool) -> int:
    """Lists updates, the newest first, or shows one with its evidence."""
    if update_id is None:
        if cancel or wait:
            raise click.UsageError("name the update: hostctl updates lists them")
        found = session.client.get("/v1/updates")
        session.emit(found, lambda: table(found["updates"], width=session.width, colours=session.colours))
        sys.stdout.flush()
        if not found["updates"] and session.human:
            session.say("no update is remembered")
        return Exit.OK
    path = f"/v1/updates/{segment(update_id)}"
    try:
        view = session.client.post(f"{path}/cancel") if cancel else session.client.get(path)
    except Refused as refusal:
        if refusal.http_status != 404:
            raise
        raise CliFault(
            f"no update {update_id!r}", hint="hostctl updates lists them", status=Exit.UNREACHABLE
        ) from refusal
    if wait and under_way(view):
        return _waited(session, update_id)
    session.emit(view, lambda: detail(view))
    return Exit.OK


def _accepted(session: Session, update_id: str, wait: bool) -> int:
    if wait:
        return _waited(session, update_id)
    session.emit({"id": update_id}, lambda: f"accepted: {printable(update_id)}\n")
    sys.stdout.flush()
    if session.human:
        session.say(f"how far it is: hostctl updates {update_id} --wait")
    return Exit.OK


def _waited(session: Session, update_id: str) -> int:
    view = until_over(session, update_id)
    session.emit(view, lambda: detail(view))
    sys.stdout.flush()
    if view["success"]:
        return Exit.OK
    before = view["old_version"] or "the version before"
    hint = {
        "failed": "nothing was changed; correct the cause and update again",
        "rolled_back": f"{before} runs again, proven; correct the cause and update again",
        "broken": "somebody has to look: hostctl status, hostctl logs, docs/updates.md",
    }
    cause = f"{view['code'] or ''} {view['error'] or view['state']}".strip()
    session.fail(f"{view['component']} {view['version']}: {cause}", hint.get(view["state"], ""))
    return Exit.FAILED


def table(updates: Sequence[Update], *, width: int | None = None, colours: bool = False) -> str:
    """Updates, a line for each; nothing for none."""
    if not updates:
        return ""
    rows: list[list[Cell | str]] = [
        [
            u["id"], u["component"], u["old_version"] or NONE, u["new_version"] or u["version"],
            Cell(text=u["state"], colour=_STATES.get(u["state"], "yellow")), u["step"],
            local_time(u["started_at"] or NONE), f"{u['code'] or ''} {u['error'] or ''}".strip() or NONE,
        ]
        for u in updates
    ]
    return render(_UPDATES, rows, width=width, colours=colours)


def detail(view: Update) -> str:
    """One update, with its evidence."""
    text = pairs([
        ("update", view["id"]),
        ("component", view["component"]),
        ("version", f"{view['old_version'] or 'unknown'} -> {view['new_version'] or view['version']}"),
        ("state", view["state"].replace("_", " ")),
        ("step", progress(view) if under_way(view) else ""),
        ("started", view["started_at"]),
        ("finished", view["finished_at"]),
        ("error", f"{view['code'] or ''} {view['error'] or ''}".strip()),
    ])
    return text + evidence_text(view["evidence"], view["error"] or "")
