"""The program as an operator starts it: faults in one line, one per work_dir, kill -9, and its stop."""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest

from daemon.logs.own import MAX_BYTES
from daemon.rpc.pb import manager_pb2 as m
from daemon.rpc.pb.manager_pb2_grpc import ManagerServiceStub

ROOT = Path(__file__).resolve().parents[3]
TIMEOUT_S = 30.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Program:
    """Runs the Manager in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.grpc_port, self.http_port = free_port(), free_port()
        self.config = folder / "manager.yaml"
        self.write()
        self.started: list[subprocess.Popen[str]] = []

    def write(self, **changes: object) -> None:
        keys = {"work_dir": "w", "grpc_port": self.grpc_port, "http_port": self.http_port} | changes
        self.config.write_text("manager: {%s}\n" % ", ".join(f"{k}: {v}" for k, v in keys.items()))  # noqa: UP031

    def _argv(self, *argv: str) -> list[str]:
        twistd = "from twisted.scripts.twistd import run; run()"
        return [sys.executable, "-c", twistd, "-n", "hostmanager", "--config", str(self.config), *argv]

    def _env(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if name.startswith(("PATH", "COVERAGE", "LANG"))}
        return kept | {"PYTHONPATH": str(ROOT), "HOME": str(self.folder)}

    def run(self, *argv: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self._argv(*argv), cwd=self.folder, env=self._env(), capture_output=True, text=True,
            timeout=TIMEOUT_S, check=False,
        )

    def refused(self, *argv: str) -> list[str]:
        """Runs what must fail; the lines on stderr that say why."""
        done = self.run(*argv)
        assert done.returncode == 1, done
        assert "Traceback" not in done.stdout + done.stderr, done.stderr
        return done.stderr.splitlines()

    def start(self, ready: Callable[[], object] | None = None) -> subprocess.Popen[str]:
        """Starts the Manager and waits until it says that it is ready, on stderr or where ``ready`` looks."""
        process = subprocess.Popen(
            self._argv(), cwd=self.folder, env=self._env(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        self.started.append(process)
        assert process.stderr is not None
        if ready is not None:
            wait_for("a Manager that is ready", ready)
            return process
        watchdog = threading.Timer(TIMEOUT_S, process.kill)
        watchdog.start()
        try:
            said = []
            for line in process.stderr:
                said.append(line)
                if "is ready" in line:
                    return process
        finally:
            watchdog.cancel()
        raise AssertionError(f"it ended before it was ready: {said}")


@pytest.fixture
def program(tmp_path: Path) -> Iterator[Program]:
    """The program, and nothing of it left afterwards."""
    made = Program(tmp_path)
    yield made
    for process in made.started:
        if process.poll() is None:
            process.kill()
        process.wait()
        assert process.stderr is not None
        process.stderr.close()


def test_check_says_good_or_every_fault(program: Program) -> None:
    done = program.run("--check")
    assert (done.returncode, done.stdout) == (0, f"{program.config}: good\n")
    program.write(grpc_host="0.0.0.0", loglevel="info")
    first, second = program.refused("--check")
    assert first.startswith(f"hostmanager: D1002 {program.config}:1:")
    assert "did you mean log_level" in first + second and "manager.grpc_host" in first + second


@pytest.mark.parametrize(("key", "wanted"), [("grpc_port", "manager.grpc_port"), ("http_port", "manager.http_port")])
def test_a_taken_port_is_one_line_with_its_code(program: Program, key: str, wanted: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        program.write(**{key: taken.getsockname()[1]}, log_file="log")
        (line,) = program.refused()
    assert line.startswith("hostmanager: D1003 ") and "Address already in use" in line and wanted in line


def test_a_work_dir_that_cannot_be_made_is_one_line(program: Program) -> None:
    (program.folder / "w").write_text("a file")
    (line,) = program.refused()
    assert line.startswith("hostmanager: D1004 ") and "manager.work_dir" in line


def test_a_second_one_on_the_same_work_dir_is_refused(program: Program) -> None:
    first = program.start()
    (line,) = program.refused()
    assert line.startswith("hostmanager: D1004 ") and str(first.pid) in line


def test_what_was_acknowledged_survives_kill_9(program: Program) -> None:
    process = program.start()
    with grpc.insecure_channel(f"127.0.0.1:{program.grpc_port}") as channel:
        stub = ManagerServiceStub(channel)
        assert stub.RegisterNode(m.RegisterNodeRequest(node_id="n1", hostname="h"), timeout=TIMEOUT_S).success
        for at in range(200):
            metrics = [m.MetricData(type="cpu", timestamp=at, values={"x": 1.0})]
            assert stub.ReportMetrics(m.ReportMetricsRequest(node_id="n1", metrics=metrics), timeout=TIMEOUT_S).success
        process.kill()
        process.wait()
    program.start()
    with grpc.insecure_channel(f"127.0.0.1:{program.grpc_port}") as channel:
        metrics = [m.MetricData(type="cpu", timestamp=at, values={"x": 1.0}) for at in range(200)]
        request = m.ReportMetricsRequest(node_id="n1", metrics=metrics)
        answer = ManagerServiceStub(channel).ReportMetrics(request, timeout=TIMEOUT_S, wait_for_ready=True)
    assert answer.message == "200 of them were here already"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_stops_in_order_and_soon_with_a_daemon_connected(program: Program, number: signal.Signals) -> None:
    process = program.start()
    assert stat.S_IMODE((program.folder / "w").stat().st_mode) == 0o700
    assert stat.S_IMODE((program.folder / "w" / "api.token").stat().st_mode) == 0o600
    with grpc.insecure_channel(f"127.0.0.1:{program.grpc_port}") as channel:
        ManagerServiceStub(channel).RegisterNode(m.RegisterNodeRequest(node_id="n1"), timeout=TIMEOUT_S)
        process.send_signal(signal.SIGHUP)  # nothing to reload
        begun = time.monotonic()
        process.send_signal(number)
        process.send_signal(number)  # an impatient operator changes nothing
        assert process.wait(TIMEOUT_S) == -number  # twistd ends by the signal once all is stopped in order
    assert time.monotonic() - begun < 5
    assert process.stderr is not None
    said = process.stderr.read()
    assert "stopping; daemons keep their reports" in said and "Traceback" not in said


def wait_for(what: str, holds: Callable[[], object]) -> None:
    """Until it holds."""
    until = time.monotonic() + TIMEOUT_S
    while not holds():
        assert time.monotonic() < until, what
        time.sleep(0.02)


def test_its_log_is_rotated_and_opened_by_its_name_at_sighup(program: Program) -> None:
    log, moved = program.folder / "log", program.folder / "moved"
    with log.open("wb") as file:
        file.truncate(MAX_BYTES)
    program.write(log_file="log")
    process = program.start(ready=lambda: b"is ready" in log.read_bytes())
    (rotated,) = program.folder.glob("log.1*")
    assert rotated.suffix == ".gz" or rotated.stat().st_size == MAX_BYTES
    assert log.stat().st_size < 64 * 1024
    log.rename(moved)
    process.send_signal(signal.SIGHUP)
    wait_for("the log under its name", log.exists)
    process.terminate()
    process.wait(TIMEOUT_S)
    assert b"SIGHUP" in log.read_bytes() and b"stopping" in log.read_bytes()
    assert b"stopping" not in moved.read_bytes()
