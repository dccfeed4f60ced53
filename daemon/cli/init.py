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

HTTP_PORTS = range(8084, 8090)
"""The usual one first; the others where another daemon has it. 8090 is the Manager's."""
SCHEMA = "hostdaemon.schema.json"


@command("init")
@click.argument("file", type=click.Path(dir_okay=False, allow_dash=True), default="daemon.yaml")
@click.option("--force", is_flag=True, help="Replace FILE if it is there.")
@click.option("--work-dir", help="[default: /var/lib/daemon for root, else work beside FILE]")
def init_command(session: Session, file: str, force: bool, work_dir: str | None) -> int:
    """Finds installed agents and writes a configuration for them.

    FILE is daemon.yaml unless it is named; - is stdout. It knows node_exporter, telegraf, filebeat,
    redis-server and collectd. The JSON schema for editors goes beside FILE, and their directory is made
    where it is missing. Nothing is started.
    """
    agents = found.installed(partial(found.place, search=_which), lambda path: os.access(path, os.R_OK))
    busy = [each.known.port for each in agents if each.known.port and _listens(each.known.port)]
    http_port = next((port for port in HTTP_PORTS if not _listens(port)), 0)
    root = os.geteuid() == 0
    text = found.configuration(
        agents, work_dir=work_dir or ("/var/lib/daemon" if root else "work"),
        log_file="/var/log/daemon/daemon.log" if root and work_dir is None else "",
        schema="" if file == "-" else SCHEMA, busy_ports=busy,
        http_port=http_port, check=f"hostctl config check {'FILE' if file == '-' else Path(file).absolute()}",
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
    _told(session, file, agents, busy, http_port)
    return Exit.OK


def _told(
    session: Session, file: str, agents: Sequence[found.Found], busy: Sequence[int], http_port: int
) -> None:
    if not agents:
        names = ", ".join(known.binaries[-1] for known in found.KNOWN)
        session.say(f"none of {names} is on this host; the file has an example to fill in")
    for each in agents:
        port = each.known.port
        if port in busy:
            session.say(
                f"{each.known.id}: port {port} is taken, so it is written with enabled: false; when it is "
                f"its own unit: systemctl disable --now {each.known.unit}, then take that line out"
            )
        elif not each.enabled:
            missing = each.known.config_files[0]
            session.say(
                f"{each.known.id}: {missing} cannot be read, so it is written with enabled: false; make it "
                "readable and name it as config_file"
            )
        else:
            session.say(f"{each.known.id}: {each.binary}")
    if http_port != HTTP_PORTS[0]:
        session.say(f"port {HTTP_PORTS[0]} is taken: written with http_port: {http_port}; hostctl needs none")
    if file != "-":
        page = f", and http://localhost:{http_port}/ in a browser" if http_port else ""
        session.say(
            f"next: {_typed('twistd')} -n hostdaemon --config {file}, "
            f"then {_typed('hostctl')} --config {file} status{page}"
        )


def _typed(program: str) -> str:
    """A program of our installation as it can be typed: its path, where PATH has none or another."""
    beside = Path(sys.argv[0]).with_name(program)
    if not os.access(beside, os.X_OK) or shutil.which(program) == str(beside.absolute()):
        return program
    return str(beside)


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
    folder.mkdir(parents=True, exist_ok=True)
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
