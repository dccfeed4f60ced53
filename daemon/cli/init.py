"""``hostctl init``."""

from __future__ import annotations

import json
import os
import shutil
import socket
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

import click

from daemon.cli import found
from daemon.cli.faults import CliFault, Exit
from daemon.cli.options import command
from daemon.cli.session import Session

HTTP_PORT = 8084
SCHEMA = "hostdaemon.schema.json"


@command("init")
@click.argument("file", type=click.Path(dir_okay=False, allow_dash=True), default="daemon.yaml")
@click.option("--force", is_flag=True, help="Replace FILE if it is there.")
@click.option("--work-dir", help="[default: /var/lib/daemon for root, else work beside FILE]")
def init_command(session: Session, file: str, force: bool, work_dir: str | None) -> int:
    """Looks for installed agents and writes a commented configuration for them.

    FILE is daemon.yaml unless it is named; - is stdout. It knows node_exporter, telegraf, filebeat,
    redis-server and collectd. The JSON schema for editors goes beside FILE. Nothing is started.
    """
    agents = found.installed(partial(found.place, search=_which), lambda path: os.access(path, os.R_OK))
    ports = [HTTP_PORT, *(each.known.port for each in agents if each.known.port)]
    busy = [port for port in ports if _listens(port)]
    root = os.geteuid() == 0
    text = found.configuration(
        agents, work_dir=work_dir or ("/var/lib/daemon" if root else "work"),
        log_file="/var/log/daemon/daemon.log" if root and work_dir is None else "",
        schema="" if file == "-" else SCHEMA, busy_ports=busy,
        free_port=0 if HTTP_PORT in busy else HTTP_PORT,
    )
    listed = [
        {"id": a.known.id, "type": a.known.type, "binary_path": a.binary, "config_file": a.config_file}
        for a in agents
    ]
    if file == "-":
        session.emit({"file": None, "agents": listed, "text": text}, lambda: text)
    else:
        _write(Path(file), text, force)
        session.emit({"file": file, "agents": listed}, lambda: f"{file}\n")
    sys.stdout.flush()
    _told(session, file, agents, busy)
    return Exit.OK


def _told(session: Session, file: str, agents: Sequence[found.Found], busy: Sequence[int]) -> None:
    if not agents:
        names = ", ".join(known.binaries[-1] for known in found.KNOWN)
        session.say(f"none of {names} is on this host; the file has an example to fill in")
    for each in agents:
        port = each.known.port
        if port in busy:
            session.say(
                f"{each.known.id}: port {port} is taken, so it is written with enabled: false; when it is "
                f"its own unit: systemctl disable --now {each.known.unit}"
            )
        elif not each.enabled:
            missing = each.known.config_files[0]
            session.say(f"{each.known.id}: {missing} cannot be read; written with enabled: false")
        else:
            session.say(f"{each.known.id}: {each.binary}")
    if HTTP_PORT in busy:
        session.say(f"port {HTTP_PORT} is taken: written with http_port: 0; hostctl needs none")
    if file != "-":
        session.say(f"next: twistd -n hostdaemon --config {file}, then hostctl --config {file} status")


def _which(name: str, path: str | None) -> str | None:
    return shutil.which(name, path=path)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(0.2)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _write(path: Path, text: str, force: bool) -> None:
    """Checks the text where it will be, for relative paths, and only then gives it its name."""
    from daemon.cli.config import checked
    from daemon.config.json_schema import json_schema

    if path.exists() and not force:
        hint = f"hostctl init OTHER-FILE, or hostctl init {path} --force"
        raise CliFault(f"{path} is there already", hint=hint)
    folder = path.absolute().parent
    fd, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=folder)
    try:
        with os.fdopen(fd, "w", encoding="utf-8") as file:
            file.write(text)
        Path(temporary).chmod(0o644)
        _loaded, faults = checked(Path(temporary))
        if faults:
            raise CliFault(
                f"what was found makes no good configuration: {faults[0].path}: {faults[0].message}",
                hint="hostctl init - shows it; --work-dir names another place",
            )
        Path(temporary).replace(path)
    finally:
        with suppress(FileNotFoundError):
            Path(temporary).unlink()
    with suppress(OSError):  # for editors alone
        (folder / SCHEMA).write_text(json.dumps(json_schema(), indent=2) + "\n", encoding="utf-8")
