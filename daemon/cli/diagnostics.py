"""``hostctl diagnostics``: one archive for whoever is asked for help, gathered with or without a daemon."""

from __future__ import annotations

import io
import json
import os
import platform
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import click

import daemon
from daemon.cli.client import segment
from daemon.cli.faults import CliFault, Exit, Refused, Unreachable
from daemon.cli.options import command, files
from daemon.cli.scrub import Scrubber, secrets_of
from daemon.cli.session import Session
from daemon.cli.where import config_path

LOG_LINES = 1000
DAEMON_LOG_BYTES = 1024 * 1024
_LIBRARIES = (
    "twisted", "klein", "msgspec", "PyYAML", "psutil", "grpcio", "protobuf", "pyOpenSSL", "cryptography",
    "prometheus_client", "click", "rich", "jsonschema",
)
_ANSWERS = {
    "node.json": "/v1/node", "ready.json": "/readyz?verbose", "agents.json": "/v1/agents",
    "config.json": "/v1/config", "alerts.json": "/v1/alerts", "events.json": "/v1/events?once&limit=1000",
    "updates.json": "/v1/updates", "host-metrics.json": "/v1/metrics",
    "host-history.json": "/v1/metrics/history?duration=24h&step=300", "heartbeats.json": "/heartbeat/stats",
}
_README = """\
Diagnostics of hostdaemon, by hostctl {version}, {at}.

{files}
Secrets of the configuration, and what looks like one, are replaced by <redacted>, in logs too. An agent may
print secrets that nobody can tell from other text: look through logs/ before you pass this on (hostctl
diagnostics --no-logs leaves logs out).
"""


@command("diagnostics")
@click.option(
    "--file", metavar="PATH", help="[default: hostdaemon-diagnostics-HOST-TIME.tar.gz]", shell_complete=files
)
@click.option("--no-logs", is_flag=True, help="Leave logs out, the daemon's too.")
@click.option(
    "--lines", type=click.IntRange(1, 10_000), default=LOG_LINES, show_default=True, help="Of each log."
)
def diagnostics_command(session: Session, file: str | None, no_logs: bool, lines: int) -> int:
    """Writes one archive of everything that helps to find a fault.

    Configuration (redacted), agents, events, alerts, updates, the end of each log, versions, host. It works
    without a daemon too, with what is on the disk.
    """
    at = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    path = Path(file or f"hostdaemon-diagnostics-{platform.node() or 'host'}-{at}.tar.gz")
    gathering = Gathering(session)
    with session.busy("gathering"):
        gathering.local(no_logs)
        gathering.asked(no_logs, lines)
        data = packed(gathering.finished(at), at, time.time())
    _write(path, data)
    report = {"file": str(path), "bytes": len(data), "missing": gathering.missing}
    session.emit(report, lambda: f"{path}\n")
    sys.stdout.flush()
    for what in gathering.missing:
        session.say(f"not in it: {what}")
    if session.human and not no_logs:
        session.say("known secrets are taken out; look through logs/ for others before you pass it on")
    return Exit.OK


class Gathering:
    """Collects files of the archive; whatever cannot be had is noted and the rest gathered.

    Attributes:
        files: texts, and data that become JSON, by name.
        missing: what could not be had, and why.
    """

    def __init__(self, session: Session) -> None:
        self.files: dict[str, Any] = {}
        self.missing: list[str] = []
        self._session = session
        self._secrets: set[str] = set()

    def local(self, no_logs: bool) -> None:
        """What is on this host: versions, the file and its faults, the daemon's own log."""
        self._note("versions.json", _versions)
        self._note("host.json", _host)
        path = config_path(self._session.config, self._session.environ)
        self._note("config-check.json", lambda: self._checked(path, no_logs))

    def _checked(self, path: Path, no_logs: bool) -> dict[str, Any]:
        from daemon.cli.config import checked
        from daemon.config.redact import effective

        loaded, faults = checked(path)
        if loaded is not None:
            config = loaded.config
            self._secrets |= secrets_of(config)
            token = Path(config.daemon.work_dir) / "api.token"
            if os.access(token, os.R_OK):
                self._secrets.add(token.read_text(encoding="ascii", errors="replace").strip())
            self._note("config-of-file.json", lambda: effective(config))
            if config.daemon.log_file and not no_logs:
                log = Path(config.daemon.log_file)
                self._note("daemon.log", lambda: _tail(log, DAEMON_LOG_BYTES))
        # Messages of faults may quote what was written, which may be a secret: where they are says enough.
        listed = [{"line": f.line, "column": f.column, "path": f.path} for f in faults]
        return {"file": str(path), "ok": not faults, "faults": listed}

    def asked(self, no_logs: bool, lines: int) -> None:
        """What the daemon says; when it cannot be asked, that is noted once."""
        try:
            client = self._session.client
            client.get("/livez")
        except CliFault as fault:
            self.missing.append(f"everything the daemon would say: {fault.message}")
            return
        try:
            for name, path in _ANSWERS.items():
                self._note(name, partial(client.get, path))
            self._note("metrics.txt", lambda: _decoded(client.text("/metrics")))
            for agent_id in self._agent_ids():
                part = segment(agent_id)
                path = f"/v1/agents/{part}/metrics"
                self._note(f"history/{part}.json", partial(client.get, path, duration="24h", step="10m"))
                if not no_logs:
                    log = partial(client.text, f"/v1/agents/{part}/logs", lines=lines)
                    self._note(f"logs/{part}.log", lambda log=log: _decoded(log()))  # type: ignore[misc]
        except Unreachable as fault:
            self.missing.append(f"the rest of what the daemon would say: {fault.message}")

    def _agent_ids(self) -> Iterator[str]:
        for view in self.files.get("agents.json", {}).get("agents", ()):
            yield str(view["id"])

    def _note(self, name: str, content: Callable[[], Any]) -> None:
        try:
            self.files[name] = content()
        except Unreachable:
            raise
        except Refused as refusal:  # says something too: of /readyz what is not ready
            self.files[name] = {"status": refusal.http_status, **refusal.problem}
        except (CliFault, OSError) as error:
            self.missing.append(f"{name}: {error}")

    def finished(self, at: str) -> dict[str, str]:
        """Every file, without secrets, and a README that lists them."""
        scrubbed = Scrubber(self._secrets)
        files = {
            name: scrubbed(content) if isinstance(content, str) else _json(scrubbed.data(content))
            for name, content in sorted(self.files.items())
        }
        self.missing = [scrubbed(what) for what in self.missing]
        listed = "".join(f"  {name}\n" for name in files)
        listed += "".join(f"missing: {what}\n" for what in self.missing)
        return {"README.txt": _README.format(version=daemon.__version__, at=at, files=listed), **files}


def packed(files: dict[str, str], at: str, now: float) -> bytes:
    """The files as a .tar.gz, in a folder of their own, readable by their owner alone."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        for name, text in files.items():
            data = text.encode("utf-8", "backslashreplace")
            info = tarfile.TarInfo(f"hostdaemon-diagnostics-{at}/{name}")
            info.size, info.mode, info.mtime = len(data), 0o600, int(now)
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def _write(path: Path, data: bytes) -> None:
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "wb") as file:
            file.write(data)
    except FileExistsError as error:
        raise CliFault(f"{path} is there already", hint="hostctl diagnostics --file OTHER") from error
    except OSError as error:
        hint = "hostctl diagnostics --file PATH"
        raise CliFault(f"{path} cannot be written: {error.strerror}", hint=hint) from error


def _json(data: Any) -> str:
    return json.dumps(data, indent=1) + "\n"


def _versions() -> dict[str, Any]:
    from importlib import metadata

    libraries: dict[str, str | None] = {}
    for name in _LIBRARIES:
        try:
            libraries[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            libraries[name] = None
    return {"hostctl": daemon.__version__, "python": sys.version, "libraries": libraries}


def _host() -> dict[str, Any]:
    name = platform.uname()
    load = os.getloadavg()
    release = platform.freedesktop_os_release() if Path("/etc/os-release").exists() else {}
    return {
        "kernel": f"{name.system} {name.release} {name.version}", "machine": name.machine, "node": name.node,
        "os": release.get("PRETTY_NAME"), "cpus": os.cpu_count(), "load": load, "uid": os.geteuid(),
    }


def _tail(path: Path, limit: int) -> str:
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - limit))
        data = file.read(limit)
    if size > limit:
        data = data.partition(b"\n")[2]
    return _decoded(data)


def _decoded(data: bytes) -> str:
    return data.decode("utf-8", "backslashreplace")
