"""A real ``twistd hostdaemon`` in a directory of its own, driven over its control socket."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = 20.0


def wait_for(what: str, check: Callable[[], Any], patience_s: float = PATIENCE_S) -> Any:
    """Polls a condition of other processes until it holds; fails naming what did not come."""
    end = time.monotonic() + patience_s
    while True:
        found = check()
        if found:
            return found
        assert time.monotonic() < end, f"waited {patience_s:g} s in vain for: {what} (last: {found!r})"
        time.sleep(0.02)


def alive(pid: int) -> bool:
    """Whether a process lives, zombies not counted."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return text.rpartition(")")[2].split()[0] not in "ZX"


def marked_pids(agent_id: str, work_dir: Path) -> set[int]:
    """The live processes that carry an agent's mark of this work_dir."""
    found = set()
    socket_path = f"HOSTDAEMON_SOCKET={work_dir}/".encode()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                environ = (entry / "environ").read_bytes().split(b"\0")
            except OSError:
                continue
            ours = any(e.startswith(socket_path) for e in environ)
            if ours and f"HOSTDAEMON_AGENT_ID={agent_id}".encode() in environ and alive(int(entry.name)):
                found.add(int(entry.name))
    return found


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class Daemon:
    """One work_dir and whichever daemon runs on it at the time."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.work_dir = root / "w"
        self.config = root / "daemon.yaml"
        self.log = root / "daemon.log"
        self.process: subprocess.Popen[bytes] | None = None
        self.pid = 0
        self.started_at = 0.0

    def configure(self, agents: str, *, daemon: str = "", rest: str = "") -> None:
        """Writes the configuration: collectors off, HTTP on the control socket alone unless asked for."""
        lines = [f"work_dir: {self.work_dir}", f"log_file: {self.log}", "log_format: text", 'pid_file: ""']
        if "http_port" not in daemon:
            lines.append("http_port: 0")
        lines += filter(None, daemon.split("\n"))
        body = "".join(f"  {line.strip()}\n" for line in lines)
        off = "".join(f"  {name}: {{enabled: false}}\n" for name in ("cpu", "memory", "disk", "network"))
        collectors = "" if "collectors:" in rest else f"collectors:\n{off}"
        self.config.write_text(f"daemon:\n{body}{collectors}{rest}\nagents:\n{agents}")

    def spawn(self, *, fault: str = "", options: tuple[str, ...] = ("-n",), **environ: str) -> None:
        """Starts twistd without waiting."""
        env = {**os.environ, "PYTHONPATH": str(ROOT)} | environ
        env.pop("HOSTDAEMON_FAULT", None)
        if fault:
            env["HOSTDAEMON_FAULT"] = fault
        self.started_at = time.monotonic()
        self.process = subprocess.Popen(
            [str(Path(sys.executable).with_name("twistd")), *options, "hostdaemon", "--config", str(self.config)],
            env=env, cwd=self.root, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )
        self.pid = self.process.pid

    def start(self, **options: Any) -> None:
        """Starts twistd and waits until it is ready."""
        self.spawn(**options)
        wait_for("ready", self._ready_or_dead)
        self.pid = self.get("/v1/node")["pid"]

    def _ready_or_dead(self) -> bool:
        assert self.process is not None
        if self.process.poll() not in (None, 0):
            raise AssertionError(f"the daemon ended with {self.process.returncode}: {self.output()}")
        try:
            return self.request("GET", "/readyz")[0] == 200
        except OSError:
            return False

    def output(self) -> str:
        """What a daemon that has ended wrote to its terminal."""
        assert self.process is not None and self.process.stdout is not None
        return self.process.stdout.read().decode()

    def ended(self, patience_s: float = PATIENCE_S) -> tuple[int, str]:
        """Waits for the end: exit status and terminal output."""
        assert self.process is not None
        status = self.process.wait(patience_s)
        return status, self.output()

    def signal(self, number: int) -> None:
        """Signals the daemon and waits until it is gone."""
        os.kill(self.pid, number)
        if self.process is not None:
            try:
                self.process.wait(PATIENCE_S)
            except subprocess.TimeoutExpired:
                raise AssertionError(
                    f"the daemon still lives {PATIENCE_S:g} s after signal {number}: {self.log_text()[-4000:]}"
                ) from None
            assert self.process.stdout is not None
            self.process.stdout.close()
            self.process = None
        wait_for("the daemon's end", lambda: not alive(self.pid))

    def kill(self) -> None:
        """kill -9."""
        self.signal(signal.SIGKILL)

    def terminate(self) -> None:
        """The orderly end."""
        self.signal(signal.SIGTERM)

    def request(
        self, method: str, path: str, body: bytes | None = None, timeout: float = 60
    ) -> tuple[int, Any]:
        """One request over the control socket: status and decoded body."""
        connection = _UnixConnection(str(self.work_dir / "run/control/control.sock"), timeout)
        try:
            connection.request(method, path, body)
            response = connection.getresponse()
            data = response.read()
            if "json" in response.headers.get("content-type", ""):
                return response.status, json.loads(data)
            return response.status, data.decode()
        finally:
            connection.close()

    def get(self, path: str) -> Any:
        """GET that must succeed."""
        status, body = self.request("GET", path)
        assert status == 200, (status, body)
        return body

    def post(self, path: str) -> tuple[int, Any]:
        """POST."""
        return self.request("POST", path)

    def agent(self, agent_id: str) -> dict[str, Any]:
        """One agent's view."""
        view: dict[str, Any] = self.get(f"/v1/agents/{agent_id}")
        return view

    def agent_in(self, agent_id: str, status: str, patience_s: float = PATIENCE_S) -> dict[str, Any]:
        """Waits for a state."""

        def check() -> dict[str, Any] | None:
            view = self.agent(agent_id)
            return view if view["status"] == status else None

        view: dict[str, Any] = wait_for(f"{agent_id} {status}", check, patience_s)
        return view

    def events(self, kind: str) -> list[dict[str, Any]]:
        """The events of one type, oldest first."""
        return [e for e in self.get("/v1/events?once&limit=1000")["events"] if e["type"] == kind]

    def log_text(self) -> str:
        """The daemon's log."""
        return self.log.read_text() if self.log.exists() else ""

    def clean_up(self) -> None:
        """Leaves nothing behind, whatever the test did."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        if self.process is not None and self.process.stdout is not None:
            self.process.stdout.close()
        if self.pid and alive(self.pid):
            os.kill(self.pid, signal.SIGKILL)
        inside = str(self.root).encode()
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit() or int(entry.name) == os.getpid():
                continue
            try:
                environ = (entry / "environ").read_bytes()
                line = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if b"HOSTDAEMON_SOCKET=" + inside in environ or (inside in line and b"pytest" not in line):
                try:
                    os.kill(int(entry.name), signal.SIGKILL)
                except ProcessLookupError:
                    continue


def sleeper(agent_id: str, *more: str) -> str:
    """Ten lines of YAML for an agent that only lives."""
    lines = [f"id: {agent_id}", "type: custom", "binary_path: /bin/sleep", 'args: ["1000000"]',
             "start_seconds: 100ms", *more]
    return "  - " + "\n    ".join(lines) + "\n"


def shell(agent_id: str, script: str, *more: str) -> str:
    """An agent that is a shell script."""
    quoted = json.dumps(script)
    lines = [f"id: {agent_id}", "type: custom", "binary_path: /bin/bash", f'args: ["-c", {quoted}]',
             "start_seconds: 100ms", *more]
    return "  - " + "\n    ".join(lines) + "\n"
