"""hostctl against whatever may sit behind a socket: no traceback, a cause, a next step, the right exit status."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from daemon.cli.client import explained
from daemon.cli.where import Where

ROOT = Path(__file__).resolve().parents[2]
HOSTCTL = [sys.executable, "-m", "daemon.cli.entry"]


class Fake:
    """Answers every connection with the same bytes, then closes it; or keeps it open and says no more.

    Attributes:
        requests: what was asked.
    """

    def __init__(self, path: Path, answer: bytes, *, hang: bool = False) -> None:
        self.requests: list[bytes] = []
        self._answer, self._hang = answer, hang
        self._open: list[socket.socket] = []
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.requests.append(connection.recv(65536))
            try:
                connection.sendall(self._answer)
            except OSError:
                pass  # who does not like it hangs up
            if self._hang:
                self._open.append(connection)
            else:
                connection.close()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()
        for connection in self._open:
            connection.close()


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="hc-") as made:  # short: it is a socket's path
        yield Path(made)


def hostctl(*arguments: str, environ: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*HOSTCTL, *arguments], capture_output=True, text=True, timeout=60, cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), **(environ or {})},
    )


def told(done: subprocess.CompletedProcess[str], status: int) -> str:
    assert "Traceback" not in done.stderr + done.stdout
    assert done.returncode == status, done.stderr
    assert done.stdout == ""
    assert done.stderr.startswith("hostctl: ")
    assert "next: " in done.stderr
    return done.stderr


CUT = b'HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"agents": ['


@pytest.mark.parametrize(
    ("answer", "status", "words"),
    [
        (b"", 4, "closed the connection without an answer"),
        (b"\x00\xff garbage", 4, "does not speak HTTP"),
        (b"220 smtp ready\r\n\r\n", 4, "does not speak HTTP"),
        (b"HTTP/1.1 999 no\r\n\r\n", 4, "does not speak HTTP"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000, 4, "does not speak HTTP"),
        (b"HTTP/1.1 200", 4, "went away in the middle"),
        (CUT, 4, "went away in the middle"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{}", 4, "went away in the middle"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\n{}", 4, "does not speak HTTP"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1_0\r\n\r\n{}", 4, "does not speak HTTP"),
        (b"HTTP/1.1 200 OK\r\n\r\n<html>\x1b[2J", 1, "answers what no hostdaemon does"),
        (b"HTTP/1.1 200 OK\r\n\r\n" + b"[" * 100_000, 1, "answers what no hostdaemon does"),
        (b"HTTP/1.1 200 OK\r\n\r\n{}", 1, "an answer it does not understand"),
        (b'HTTP/1.1 200 OK\r\n\r\n{"agents": [1]}', 1, "an answer it does not understand"),
        (b'HTTP/1.1 503 x\r\n\r\n{"detail": "the daemon is stopping"}', 1, "the daemon is stopping"),
        (b'HTTP/1.1 500 x\r\n\r\n{"title": "\x1b[31m", "code": null}', 1, "answers what no hostdaemon does"),
    ],
)
def test_every_kind_of_wrong_answer_is_told(folder: Path, answer: bytes, status: int, words: str) -> None:
    fake = Fake(folder / "s", answer)
    try:
        text = told(hostctl("--socket", str(folder / "s"), "status"), status)
    finally:
        fake.close()
    if status == 1 and "503" in str(answer):
        assert "again" in text
    assert words in text
    assert "\x1b" not in text


@pytest.mark.parametrize(
    ("answer", "status", "cause", "next_step"),
    [
        (b'200 OK\r\n\r\n{"daemon_version": "99.1.0", "agents": [{"id": "a"}]}', 1, "what the daemon, 99.1.0, answers",
         "use the hostctl of 99.1.0"),
        (b'404 x\r\n\r\n{"detail": "GET /v1/agents is not a route of this daemon; / lists some"}', 1, "is not a route",
         "older or newer than this hostctl"),
        (b'405 x\r\n\r\n{"detail": "GET /v1/agents is not allowed here"}', 1, "not allowed", "older or newer than this hostctl"),
    ],
)
def test_a_daemon_of_another_version_is_told_as_such(
    folder: Path, answer: bytes, status: int, cause: str, next_step: str
) -> None:
    fake = Fake(folder / "s", b"HTTP/1.1 " + answer)
    try:
        text = told(hostctl("--socket", str(folder / "s"), "status"), status)
    finally:
        fake.close()
    assert cause in text.partition("next: ")[0]
    assert next_step in text.partition("next: ")[2]


def test_what_a_newer_daemon_tells_besides_is_left_alone(folder: Path) -> None:
    view = {
        "id": "a", "type": "custom", "enabled": True, "status": "hibernating", "wanted": "running", "why": "", "pid": None,
        "uptime_seconds": 0.0, "version": "", "restart_count": 0, "next_try": None, "last_heartbeat": None, "cpu_percent": None,
        "memory_bytes": None, "dreams": ["sheep"],
        "health": {"status": "dozing", "reason": "", "since": None, "depth": 3},
    }
    fake = Fake(folder / "s", b"HTTP/1.1 200 OK\r\n\r\n" + json.dumps({"agents": [view], "moon": "full"}).encode())
    try:
        done = hostctl("--socket", str(folder / "s"), "status")
    finally:
        fake.close()
    assert done.returncode == 3, done.stderr
    assert done.stdout.splitlines()[1].split()[:3] == ["a", "hibernating", "dozing"]


def test_what_is_asked_is_one_good_request(folder: Path) -> None:
    fake = Fake(folder / "s", b'HTTP/1.1 404 x\r\n\r\n{"detail": "no", "agents": []}')
    try:
        hostctl("--socket", str(folder / "s"), "stop", "--force", "a b/../\u00fc?x")
    finally:
        fake.close()
    head = fake.requests[0].split(b"\r\n")
    assert head[0] == b"POST /v1/agents/a%20b%2F..%2F%C3%BC%3Fx/stop?graceful=false HTTP/1.1"
    assert b"Host: localhost" in head
    assert b"Content-Length: 0" in head


@pytest.mark.parametrize("there", ["nothing", "stale", "file", "long"])
def test_no_daemon_is_told_with_the_way_to_one(folder: Path, there: str) -> None:
    path = folder / "s"
    if there == "stale":
        dead = socket.socket(socket.AF_UNIX)
        dead.bind(str(path))
        dead.close()
    elif there == "file":
        path.write_text("")
    elif there == "long":
        path = folder / ("x" * 120)
    text = told(hostctl("status", environ={"HOSTDAEMON_CONTROL_SOCKET": str(path)}), 4)
    assert "HOSTDAEMON_CONTROL_SOCKET" in text
    assert "--socket PATH" in text


def test_who_may_not_use_the_socket_is_told_who_may() -> None:
    fault = explained(PermissionError(13, "Permission denied"), Where(path="/w/c.sock", told_by="--socket"))
    assert (fault.status, "control_group" in fault.message, "sudo" in fault.hint) == (4, True, True)


def test_ctrl_c_ends_quietly_with_130(folder: Path) -> None:
    fake = Fake(folder / "s", b"", hang=True)
    process = subprocess.Popen(
        [*HOSTCTL, "--socket", str(folder / "s"), "status"], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)}, cwd=ROOT,
    )
    try:
        end = time.monotonic() + 30
        while not fake.requests and time.monotonic() < end:
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    finally:
        fake.close()
    assert (process.returncode, out, err) == (130, b"", b"")


def test_a_reader_that_leaves_ends_it_quietly(folder: Path) -> None:
    lines = b"x" * 99 + b"\n"
    fake = Fake(folder / "s", b"HTTP/1.1 200 OK\r\n\r\n" + lines * 50_000)
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run(
            [*HOSTCTL, "--socket", str(folder / "s"), "logs", "web"], stdout=writing, stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(ROOT)}, cwd=ROOT, timeout=60,
        )
    finally:
        os.close(writing)
        fake.close()
    assert (done.returncode, done.stderr) == (141, b"")


def test_a_full_disk_behind_stdout_is_told(folder: Path) -> None:
    fake = Fake(folder / "s", b'HTTP/1.1 200 OK\r\n\r\n{"agents": []}')
    try:
        with open("/dev/full", "wb") as full:
            done = subprocess.run(
                [*HOSTCTL, "--socket", str(folder / "s"), "status"], stdout=full, stderr=subprocess.PIPE, text=True,
                env={**os.environ, "PYTHONPATH": str(ROOT)}, cwd=ROOT, timeout=60,
            )
    finally:
        fake.close()
    assert done.returncode == 1
    assert "No space left" in done.stderr
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


def test_a_message_that_cannot_be_written_changes_no_exit_status(folder: Path) -> None:
    for arguments, status in ((["--socket", str(folder / "s"), "status"], 4), (["sto"], 2)):
        with open("/dev/full", "wb") as full:
            done = subprocess.run(
                [*HOSTCTL, *arguments], stdout=subprocess.PIPE, stderr=full, timeout=60, cwd=ROOT,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
            )
        assert (done.returncode, done.stdout) == (status, b"")


@pytest.mark.parametrize(("closed", "status"), [(">&-", 0), ("2>&-", 0), (">&- 2>&-", 0), ("<&-", 0)])
def test_closed_streams_are_no_fault(folder: Path, closed: str, status: int) -> None:
    fake = Fake(folder / "s", b'HTTP/1.1 200 OK\r\n\r\n{"agents": []}')
    try:
        done = subprocess.run(
            ["/bin/sh", "-c", f'"$@" {closed}', "sh", *HOSTCTL, "--socket", str(folder / "s"), "status"],
            capture_output=True, text=True, timeout=60, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
    finally:
        fake.close()
    assert (done.returncode, done.stderr) == (status, "")
    assert done.stdout == ("" if closed.startswith(">") else "no agents are configured\n")


def test_a_character_set_without_our_signs_gets_others_of_the_same_width(folder: Path) -> None:
    code = (
        "from daemon.cli import streams\nstreams.prepare()\n"
        "print('\u2581\u2582\u2583\u2584\u2585\u2586\u2587\u2588 \u2514 cut\u2026 Gr\u00fc\u00dfe \U0001f600')"
    )
    for encoding, shown in (("ascii", "Gr\\xfc\\xdfe \\U0001f600"), ("latin-1", "Gr\u00fc\u00dfe \\U0001f600")):
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, timeout=60, cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": encoding},
        )
        assert done.stderr == b""
        assert done.stdout.decode(encoding) == f"__.-=+*# ` cut~ {shown}\n"


def test_a_daemon_that_is_away_is_one_fault_for_all_agents(folder: Path) -> None:
    text = told(hostctl("--socket", str(folder / "s"), "stop", "a", "b"), 4)
    assert text.count("no daemon runs here") == 1
    assert "a, b: " in text


def test_the_way_to_a_daemon_names_the_configuration_that_was_asked(folder: Path) -> None:
    config = folder / "d.yaml"
    config.write_text(f"daemon: {{work_dir: {folder}/w}}\n")
    assert f"twistd -n hostdaemon --config {config}" in told(hostctl("--config", str(config), "status"), 4)
    text = told(hostctl("--config", str(folder / "nowhere.yaml"), "status"), 4)
    assert "cannot tell which daemon to ask" in text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(["sto"], "did you mean stop?"), (["stop"], "--all"), (["stop", "--all", "web"], "--all"), (["start", "--force", "x"], "--force"),
     (["logs", "x", "--since", "noon"], "15m"), (["updates", "--wait"], "name the update"), ([], "Usage"),
     (["tail"], "here that is: hostctl logs -f ID"), (["reload"], "hostctl config reload"), (["shutdown"], "agents run on")],
)
def test_wrong_usage_is_2_and_touches_no_daemon(arguments: list[str], words: str) -> None:
    done = hostctl("--socket", "/nonexistent", *arguments)
    assert done.returncode == 2
    assert words in done.stderr + done.stdout


def test_help_is_there_for_every_command() -> None:
    listed = hostctl("--help")
    assert listed.returncode == 0
    for name in ("status", "start", "stop", "restart", "logs", "top", "metrics", "events", "alerts", "config", "update",
                 "updates", "rollback", "node", "pid", "diagnostics", "init", "completion"):
        assert f"  {name} " in listed.stdout
    for shell in ("bash", "zsh", "fish"):
        assert "_HOSTCTL_COMPLETE" in hostctl("completion", shell).stdout


def test_neither_twisted_nor_grpc_nor_the_slow_parts_are_imported_for_status() -> None:
    code = (
        "import sys, daemon.cli.main, daemon.cli.status\n"
        "print([m for m in ('twisted', 'grpc', 'yaml', 'msgspec', 'rich.console', 'http.client', 'ssl', 'shutil') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout == "[]\n", done.stdout + done.stderr
