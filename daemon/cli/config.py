"""``hostctl config``: checks the file here; shows, compares and reloads the configuration in force."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from daemon.cli.faults import CliFault, Exit, Refused
from daemon.cli.options import command, files
from daemon.cli.session import Session, as_yaml
from daemon.cli.table import Cell, Column, render
from daemon.cli.where import config_path
from daemon.cli.words import NONE, cut, printable

if TYPE_CHECKING:
    from daemon.config.fault import Fault
    from daemon.config.load import LoadedConfig
    from daemon.config.schema import Config

SNIPPET_WIDTH = 160
_EFFECTS = {"live": "green", "restart_agent": "yellow", "stop_agent": "yellow", "restart_daemon": "red"}
_CHANGES = (
    Column(heading="AGENT"), Column(heading="KEY"), Column(heading="EFFECT"),
    Column(heading="FROM", elastic=True), Column(heading="TO", elastic=True),
)
Change = Mapping[str, Any]


@click.group("config")
def config_command() -> None:
    """Checks, shows, compares and reloads the configuration."""


@command("check")
@click.argument("file", required=False, shell_complete=files)
def check_command(session: Session, file: str | None) -> int:
    """Checks a configuration file: every fault at once.

    No daemon is needed.

    FILE is the one of --config unless it is named. Ends with 1 when the file has faults.
    """
    path = Path(file) if file else config_path(session.config, session.environ)
    loaded, faults = checked(path)
    warnings = loaded.warnings if loaded is not None else ()
    report = {
        "file": str(path), "ok": not faults, "faults": [_plain(f) for f in faults],
        "warnings": [_plain(w) for w in warnings],
    }
    source = _source(path)
    if session.human:
        for warning in warnings:
            sys.stderr.write("warning: " + shown(warning, source))
    good = "" if loaded is None else f"{printable(path)}: good; {len(loaded.config.agents)} agents\n"
    session.emit(report, lambda: "".join(shown(fault, source) for fault in faults) or good)
    if faults and session.human:
        sys.stdout.flush()
        plural = "s" if len(faults) > 1 else ""
        session.fail(f"{path} has {len(faults)} fault{plural}", "docs/configuration.md has every key")
    return Exit.FAILED if faults else Exit.OK


def checked(path: Path) -> tuple[LoadedConfig | None, tuple[Fault, ...]]:
    """What a file comes to, and everything wrong with it, missing files included."""
    from daemon.config.check import missing_files
    from daemon.config.fault import Fault
    from daemon.config.load import load
    from daemon.errors import ConfigLoadError, ConfigValidateError

    try:
        loaded = load(path)
    except (ConfigLoadError, ConfigValidateError) as error:
        found = error.details.get("faults")
        if isinstance(found, tuple) and found:
            return None, found
        return None, (Fault(file=str(path), line=1, column=1, path="", message=error.message),)
    return loaded, missing_files(loaded)


def shown(fault: Fault, source: Sequence[str]) -> str:
    """A fault, and under it the line with a caret where it is."""
    text = printable(str(fault)) + "\n"
    if not 0 < fault.line <= len(source):
        return text
    written = source[fault.line - 1]
    line = cut(printable(written), SNIPPET_WIDTH)
    at = len(printable(written[: fault.column - 1]))
    number = f"{fault.line:>5} | "
    caret = f"{' ' * (len(number) - 2)}| {' ' * at}^\n" if at < SNIPPET_WIDTH else ""
    return f"{text}{number}{line}\n{caret}"


def _source(path: Path) -> list[str]:
    from daemon.config.source import read_source
    from daemon.errors import ConfigLoadError

    try:
        return read_source(path)[0].decode("utf-8-sig", "replace").splitlines()
    except ConfigLoadError:
        return []  # that is the fault which is told


def _plain(fault: Fault) -> dict[str, object]:
    return {"line": fault.line, "column": fault.column, "path": fault.path, "message": fault.message}


@command("show")
def show_command(session: Session) -> int:
    """Shows the configuration in force, without its secrets.

    Every default is filled in; as a file writes it.
    """
    data = session.client.get("/v1/config")
    session.emit(data, lambda: as_yaml(data))
    return Exit.OK


@command("diff")
@click.argument("file", required=False, shell_complete=files)
def diff_command(session: Session, file: str | None) -> int:
    """Shows what a reload would change, and what that takes.

    Nothing is changed.

    With FILE: what would change if FILE took the place of the file the daemon reads.
    """
    if file is None:
        return _reload(session, dry_run=True)
    from daemon.config.in_force import planned
    from daemon.config.redact import plan

    now = Path(session.client.get("/v1/node")["config"]["path"])
    before, after = (_good(path) for path in (now, Path(file)))
    changes = plan(planned(before, after).changes)
    session.emit({"applied": False, "changes": changes, "warnings": []}, lambda: _plan(session, changes))
    return _end(session, changes, "the two files come to the same")


def _good(path: Path) -> Config:
    """What a file comes to.

    Raises:
        CliFault: it has faults.
    """
    from daemon.config.load import load
    from daemon.errors import DaemonError

    try:
        return load(path).config
    except DaemonError as error:
        raise CliFault(str(error), hint=f"hostctl config check {path}") from error


@command("reload")
@click.option("--dry-run", is_flag=True, help="Only say what it would change.")
def reload_command(session: Session, dry_run: bool) -> int:
    """Has the daemon read its file again. All of it must be good, or nothing changes."""
    return _reload(session, dry_run=dry_run)


def _reload(session: Session, *, dry_run: bool) -> int:
    try:
        answer = session.client.post("/v1/config/reload", dry_run=dry_run)
    except Refused as refusal:
        faults = refusal.problem.get("faults")
        if not isinstance(faults, list) or not faults:
            raise
        session.emit(
            {"applied": False, "faults": faults}, lambda: "".join(printable(fault) + "\n" for fault in faults)
        )
        sys.stdout.flush()
        session.fail(
            f"{refusal.problem.get('code')} the file is refused; the configuration before it stays in force",
            "correct it, then hostctl config check",
        )
        return Exit.FAILED
    changes = answer["changes"]
    session.emit(answer, lambda: _plan(session, changes))
    for warning in answer["warnings"]:
        session.say(f"warning: {warning}")
    return _end(session, changes, "nothing to change" if dry_run else "read again; nothing has changed")


def _end(session: Session, changes: Sequence[Change], nothing: str) -> int:
    sys.stdout.flush()
    if not changes and session.human:
        session.say(nothing)
    waiting = sorted({change["key"] for change in changes if change["effect"] == "restart_daemon"})
    if waiting and session.human:
        session.say(f"in force only after a restart of the daemon (agents run on): {', '.join(waiting)}")
    return Exit.OK


def _plan(session: Session, changes: Sequence[Change]) -> str:
    return plan_table(changes, width=session.width, colours=session.colours)


def plan_table(changes: Sequence[Change], *, width: int | None = None, colours: bool = False) -> str:
    """The changes of a reload, a line for each; nothing for none."""
    if not changes:
        return ""
    rows: list[list[Cell | str]] = [
        [
            change["agent"] or NONE, change["key"],
            Cell(text=change["effect"], colour=_EFFECTS.get(change["effect"], "")),
            _value(change["from"]), _value(change["to"]),
        ]
        for change in changes
    ]
    return render(_CHANGES, rows, width=width, colours=colours)


def _value(value: object) -> str:
    import json

    return NONE if value is None else value if isinstance(value, str) and value else json.dumps(value)


@command("schema")
def schema_command(session: Session) -> int:
    """Prints the JSON schema of configurations, for editors.

    It is draft-07, which editors know.
    """
    import json

    from daemon.config.json_schema import json_schema

    schema = json_schema()
    session.emit(schema, lambda: json.dumps(schema, indent=2) + "\n")
    return Exit.OK


for _each in (check_command, show_command, diff_command, reload_command, schema_command):
    config_command.add_command(_each)
