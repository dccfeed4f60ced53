"""Where measures run: a directory of their own, the real daemon, its floors, agents that tell the time.

An agent is the smallest that can tell when its first instruction ran: bash writes ``$EPOCHREALTIME``
(microseconds), its name and its pid as one line to the *marks* file of its server and then waits in a
builtin, so that nothing is executed a second time. Floor and daemon start the same agent.
"""

from __future__ import annotations

import http.client
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

ROOT = Path(__file__).resolve().parent.parent
FLOORS = ROOT / "bench" / "floors"
BASH = "/bin/bash"
SCRIPT = 'echo "$EPOCHREALTIME $1 $$" >>"$2"; read -r _ <>"$3"'
PATIENCE_S = 60.0
HEALTH_OFF = "{heartbeat_timeout: 0, cpu_threshold: 0, memory_threshold: 0}"


class Mark(NamedTuple):
    """An agent's first instruction: wall time, the agent's name, its pid."""

    at: float
    agent: str
    pid: int


def wait_for(what: str, check: Callable[[], Any], patience_s: float = PATIENCE_S) -> Any:
    """Polls until it holds.

    Raises:
        TimeoutError: it did not.
    """
    end = time.monotonic() + patience_s
    while not (found := check()):
        if time.monotonic() > end:
            raise TimeoutError(f"waited {patience_s:g} s in vain for {what}")
        time.sleep(0.002)
    return found


class Server:
    """A twistd child, ours or a floor, and the marks of its agents."""

    def __init__(self, directory: Path, command: list[str], environ: dict[str, str]) -> None:
        self.directory = directory
        self.marks_path = directory / "marks"
        self.marks_path.touch()
        self._read_to = 0
        self._marks: list[Mark] = []
        self.output = directory / "output"
        with self.output.open("wb") as output:
            self.launched_at = time.time()
            self.process = subprocess.Popen(
                command, env={**os.environ, "PYTHONPATH": str(ROOT), **environ}, cwd=directory,
                stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
            )

    @property
    def pid(self) -> int:
        """The server's pid."""
        return self.process.pid

    def marks(self) -> list[Mark]:
        """Every mark so far."""
        with self.marks_path.open("rb") as file:
            file.seek(self._read_to)
            data = file.read()
        whole = data[: data.rfind(b"\n") + 1]
        self._read_to += len(whole)
        for line in whole.decode().splitlines():
            at, agent, pid = line.split()
            self._marks.append(Mark(float(at), agent, int(pid)))
        return self._marks

    def wait_for_marks(self, count: int) -> list[Mark]:
        """Waits for that many marks in all."""

        def enough() -> bool:
            if self.process.poll() is not None:
                tail = self.output.read_text(errors="replace")[-2000:]
                raise SystemExit(f"a server under measure ended with {self.process.returncode}: {tail}")
            return len(self.marks()) >= count

        wait_for(f"{count} agents", enough)
        return self._marks

    def leaders(self) -> dict[str, int]:
        """The pid of each agent's last process."""
        return {mark.agent: mark.pid for mark in self.marks()}

    def cpu_s(self) -> float:
        """CPU seconds of the server alone, all its threads, to the nanosecond.

        The clock of another process: clock_getcpuclockid(3) forms its id from the inverted pid.
        """
        return time.clock_gettime((~self.pid << 3) | 2)

    def rss_mib(self) -> float:
        """Resident MiB of the server alone."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) / 1024
        return 0.0

    def stop(self) -> None:
        """kill -9, so that nothing of an orderly end is left to wait for."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


class Lab:
    """A temporary directory with servers; on leaving, whatever was started in it is gone."""

    def __init__(self) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="hd-bench-"))
        self.fifo = self.root / "forever"
        os.mkfifo(self.fifo)
        self._servers: list[Server] = []
        self._twistd = str(Path(sys.executable).with_name("twistd"))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.clear()
        shutil.rmtree(self.root, ignore_errors=True)

    def clear(self) -> None:
        """Ends all servers, then all their agents (in that order, or agents would be started again)."""
        for server in self._servers:
            server.stop()
        self._servers.clear()
        while self._kill_all() + self._kill_all(after_s=0.02):
            continue

    def _kill_all(self, after_s: float = 0.0) -> int:
        """Kills what names our directory in its command line; a second look finds late ones."""
        time.sleep(after_s)
        inside = os.fsencode(self.root)
        found = 0
        for entry in Path("/proc").iterdir():
            try:
                if entry.name.isdigit() and inside in (entry / "cmdline").read_bytes():
                    os.kill(int(entry.name), signal.SIGKILL)
                    found += 1
            except OSError:
                continue
        return found

    def floor(
        self, tac: str, name: str = "floor", *, agents: int = 0, port: int = 0, metered: bool = False
    ) -> Server:
        """Starts ``floors/{tac}.tac``; it learns by BENCH_* where to listen and what to spawn."""
        directory = self._fresh(name)
        return self._serve(
            directory,
            [self._twistd, "-n", "--pidfile=", "-y", str(FLOORS / f"{tac}.tac")],
            BENCH_DIR=str(directory), BENCH_AGENTS=str(agents), BENCH_PORT=str(port), BENCH_SCRIPT=SCRIPT,
            BENCH_FIFO=str(self.fifo), BENCH_STALLS=str(directory / "stalls") if metered else "",
        )

    def ours(
        self, name: str = "ours", *, agents: int, http_port: int = 0, grpc_port: int = 0,
        collectors: bool = False, metered: bool = False, health: str = HEALTH_OFF, rest: str = "",
        keys: str = "",
        before: Callable[[Path], None] = lambda work_dir: None,
    ) -> Server:
        """Starts the daemon with agents that restart at once.

        Args:
            health: the defaults of ``health_check``; off where nothing is said.
            rest: further sections of the configuration.
            keys: further keys of the section ``daemon``, in flow style.
            before: puts things into the work_dir first.
        """
        directory = self._fresh(name)
        config = directory / "daemon.yaml"
        text = self._config(directory, agents, http_port, grpc_port, collectors, health, keys) + rest
        config.write_text(text, encoding="utf-8")
        before(directory / "w")
        if metered:
            command = [self._twistd, "-n", "--pidfile=", "-y", str(ROOT / "bench" / "metered.tac")]
        else:
            command = [self._twistd, "-n", "hostdaemon", "--config", str(config)]
        return self._serve(
            directory, command, BENCH_CONFIG=str(config),
            BENCH_STALLS=str(directory / "stalls") if metered else "",
        )

    def _config(
        self, directory: Path, agents: int, http_port: int, grpc_port: int, collectors: bool, health: str,
        keys: str,
    ) -> str:
        lines = [
            "daemon:",
            f"  {{work_dir: {directory}/w, log_file: {directory}/log, log_format: text, pid_file: '',",
            f"   http_port: {http_port}, grpc_port: {grpc_port}{', ' if keys else ''}{keys}}}",
            "agent_defaults:",
            f"  health_check: {health}",
            "  restart: {backoff_base: 0s, max_retries: 0, max_restarts_per_hour: 0}",
        ]
        if not collectors:
            lines.append("collectors:")
            lines += [f"  {each}: {{enabled: false}}" for each in ("cpu", "memory", "disk", "network")]
        lines.append("agents:")
        for number in range(agents):
            lines += [
                f"  - id: a{number}",
                "    type: custom",
                f"    binary_path: {BASH}",
                f"    args: [-c, '{SCRIPT}', agent, a{number}, {directory}/marks, {self.fifo}]",
                "    env: {LC_ALL: C}",
                "    start_seconds: 100ms",
            ]
        return "\n".join(lines) + "\n"

    def _fresh(self, name: str) -> Path:
        directory = self.root / name
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir()
        return directory

    def _serve(self, directory: Path, command: list[str], **environ: str) -> Server:
        server = Server(directory, command, environ)
        self._servers.append(server)
        return server


def free_port() -> int:
    """A TCP port of loopback that is free now."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


def get(port: int, path: str) -> bytes:
    """One GET on loopback that must succeed."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        body = response.read()
    finally:
        connection.close()
    if response.status != 200:
        raise SystemExit(f"GET {path}: {response.status} {body[:200]!r}")
    return body


def listening(address: str | int) -> Callable[[], bool]:
    """Whether somebody listens on a Unix socket or a port of loopback yet; for :func:`wait_for`."""
    family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET

    def check() -> bool:
        with socket.socket(family) as probe:
            return probe.connect_ex(address if isinstance(address, str) else ("127.0.0.1", address)) == 0

    return check


def answers(port: int, path: str) -> Callable[[], bool]:
    """Whether ``path`` is served yet; for :func:`wait_for`."""

    def check() -> bool:
        try:
            return bool(get(port, path)) or True
        except (OSError, SystemExit):
            return False

    return check
