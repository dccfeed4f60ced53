"""The program as an operator starts it: ``--check``, ``--help``, and faults at its start."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT_S = 30.0
TWISTD = "from twisted.scripts.twistd import run; run()"
MINIMAL = "daemon: {{work_dir: {work}, log_file: '', pid_file: '', http_port: 0}}\n"


class Program:
    """Runs the program in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.work = folder / "w"
        self.config = folder / "daemon.yaml"
        self.config.write_text(MINIMAL.format(work=self.work))
        self.started: list[subprocess.Popen[str]] = []

    def _argv(self, *argv: str) -> list[str]:
        return [sys.executable, "-m", "twisted", "hostdaemon", *argv]

    def _env(self, **env: str) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if name.startswith(("PATH", "COVERAGE", "LANG"))}
        return kept | {"PYTHONPATH": str(ROOT), "HOME": str(self.folder)} | env

    def run(self, *argv: str, **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self._argv(*argv), cwd=self.folder, env=self._env(**env), capture_output=True, text=True,
            timeout=TIMEOUT_S, check=False,
        )

    def refused(self, *argv: str, **env: str) -> list[str]:
        """Runs what must fail; the lines it says why."""
        done = self.run(*argv, **env)
        assert done.returncode == 1, done
        assert "Traceback" not in done.stdout + done.stderr
        lines = done.stderr.splitlines()
        assert lines and all(line.startswith("hostdaemon: ") for line in lines), done.stderr
        return [line.removeprefix("hostdaemon: ") for line in lines]

    def said_to_a_journal(self, *argv: str) -> list[str]:
        """Runs what must fail; the lines of its stderr, which it takes for systemd's journal."""
        with (self.folder / "stderr").open("w+") as stderr:
            found = os.fstat(stderr.fileno())
            done = subprocess.run(
                [sys.executable, "-c", TWISTD, "-n", "hostdaemon", *argv], cwd=self.folder,
                env=self._env(JOURNAL_STREAM=f"{found.st_dev}:{found.st_ino}"),
                stdout=subprocess.DEVNULL, stderr=stderr, timeout=TIMEOUT_S, check=False,
            )
            assert done.returncode == 1
            return (self.folder / "stderr").read_text().splitlines()

    def start(self, log: Path | None = None) -> subprocess.Popen[str]:
        """Starts the daemon and waits until it says that it is ready, on stderr or in its log file."""
        process = subprocess.Popen(
            [sys.executable, "-c", TWISTD, "-n", "hostdaemon", "--config", str(self.config)],
            cwd=self.folder, env=self._env(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )
        self.started.append(process)
        assert process.stderr is not None
        watchdog = threading.Timer(TIMEOUT_S, process.kill)  # else a daemon that says nothing would be read for ever
        watchdog.start()
        try:
            said: list[str] = []
            while log is not None and process.poll() is None:
                if log.exists() and "is ready" in log.read_text():
                    return process
                time.sleep(0.05)
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
        process.wait(TIMEOUT_S)
        if process.stderr is not None:
            process.stderr.close()


def test_help_names_every_option_with_its_default(program: Program) -> None:
    done = program.run("--help")
    assert done.returncode == 0
    text = re.sub(r"\s+", " ", done.stdout)
    for option, default in (
        ("--config", "default: /etc/hostdaemon/daemon.yaml"),
        ("--log-level", "default: daemon.log_level of the config"),
        ("--log-format", "default: daemon.log_format of the configuration"),
        ("--log-file", "default: daemon.log_file of the configuration"),
        ("--check", "default: off"),
    ):
        assert re.search(rf"{option}\b.*?\({default}", text), (option, text)
    assert "tap.cfg" in text


def test_version_is_ours(program: Program) -> None:
    done = program.run("--version")
    assert (done.returncode, done.stdout.split()[0]) == (0, "hostdaemon")


@pytest.mark.parametrize("log_file", ["''", "own.log"])
@pytest.mark.parametrize(
    ("fault", "code"), [("http_port: -1", "D1002"), ("http_port: 0, socket_path: {work}.precious", "D1003")]
)
def test_why_it_cannot_start_is_an_error_to_the_journal(
    program: Program, fault: str, code: str, log_file: str
) -> None:
    program.work.with_suffix(".precious").write_text("not a socket")
    text = MINIMAL.replace("http_port: 0", fault).replace("log_file: ''", f"log_file: {log_file}")
    program.config.write_text(text.format(work=program.work))
    lines = [line for line in program.said_to_a_journal("--config", str(program.config)) if code in line]
    assert lines and {line[:3] for line in lines} == {"<3>"}, "journalctl -p err shows them"


def test_check_of_a_good_file_says_so_makes_nothing_and_exits_0(program: Program) -> None:
    done = program.run("--check", "--config", str(program.config))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{program.config}: good; 0 agents\n"
    assert not program.work.exists()


def test_check_of_a_bad_file_has_one_line_per_fault_and_exits_1(program: Program) -> None:
    program.config.write_text(
        "daemon: {http_port: 99999, log_levl: info}\n"
        "agents:\n  - {id: a, type: nonsense, binary_path: /bin/true}\n  - {id: a, type: custom}\n"
    )
    lines = program.refused("--check", "--config", str(program.config))
    assert len(lines) >= 4
    assert all(line.startswith("D1002 ") and str(program.config) in line for line in lines)
    text = "\n".join(lines)
    for part in ("http_port", "log_levl", "agents[0].type", "agents[1]"):
        assert part in text


def test_check_names_files_that_are_missing_on_this_host(program: Program) -> None:
    program.config.write_text(
        MINIMAL.format(work=program.work)
        + "agents:\n  - {id: a, type: custom, binary_path: /no/such/binary}\n"
        + "  - {id: b, type: custom, binary_path: /bin/true, config_file: /no/such/file}\n"
    )
    lines = program.refused("--check", "--config", str(program.config))
    assert len(lines) == 2
    assert "/no/such/binary does not exist" in lines[0] and "/no/such/file does not exist" in lines[1]


@pytest.mark.parametrize("check", [["--check"], []])
@pytest.mark.parametrize(
    ("text", "code"), [("daemon: {http_port: -1}\n", "D1002"), ("daemon: [\n", "D1001"), ("\t- x", "D1001")]
)
def test_a_bad_file_is_refused_alike_by_check_and_start(
    program: Program, check: list[str], text: str, code: str
) -> None:
    program.config.write_text(text)
    lines = program.refused(*check, "--config", str(program.config))
    assert lines[0].startswith(f"{code} ")
    assert not program.work.exists()


def test_a_missing_or_odd_file_is_d1001(program: Program) -> None:
    os.mkfifo(program.folder / "fifo")
    for name in ("missing.yaml", "fifo", "."):
        (line,) = program.refused("--config", str(program.folder / name))
        assert line.startswith("D1001 "), line


def test_the_options_of_tap_cfg_are_used(program: Program) -> None:
    (program.folder / "tap.cfg").write_text("[hostdaemon]\nconfig = daemon.yaml\n")
    done = program.run("--check")
    assert done.stdout == f"{program.config}: good; 0 agents\n"
    (program.folder / "tap.cfg").write_text("[hostdaemon]\nconfig = daemon.yaml\nnonsense = 1\n")
    done = program.run("--check")
    assert done.returncode != 0
    assert "unknown option 'nonsense'" in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr


def test_a_log_file_that_cannot_be_opened_is_d1004(program: Program) -> None:
    (line,) = program.refused("--config", str(program.config), "--log-file", "/no/such/folder/d.log")
    assert line.startswith("D1004 ") and "/no/such/folder/d.log" in line
    assert "make its directory, writable, or choose another file" in line


def test_the_directory_of_the_log_file_is_made_but_none_above_it(program: Program) -> None:
    log = program.folder / "log" / "daemon.log"
    (line,) = program.refused("--config", str(program.config), "--log-file", str(log.parent / "deeper" / "d.log"))
    assert line.startswith("D1004 ") and not log.parent.exists()
    program.config.write_text(program.config.read_text().replace("log_file: ''", f"log_file: {log}"))
    process = program.start(log)
    process.terminate()
    process.wait(TIMEOUT_S)
    assert "is ready" in log.read_text()
    assert log.parent.stat().st_mode & 0o777 == 0o750


def test_a_work_dir_that_cannot_be_made_is_d1004(program: Program) -> None:
    program.work.write_text("a file")
    (line,) = program.refused("--config", str(program.config))
    assert line.startswith("D1004 ") and str(program.work) in line


def test_a_fault_point_that_is_none_is_refused(program: Program) -> None:
    (line,) = program.refused("--config", str(program.config), HOSTDAEMON_FAULT="nonsense")
    assert "HOSTDAEMON_FAULT" in line


def test_a_second_daemon_on_the_same_work_dir_names_the_first_and_leaves_it_alone(program: Program) -> None:
    first = program.start()
    (line,) = program.refused("--config", str(program.config))
    assert line.startswith("D1004 another hostdaemon")
    assert f"pid {first.pid}" in line
    first.send_signal(signal.SIGHUP)
    assert (program.work / "run" / "control" / "control.sock").is_socket()
    first.send_signal(signal.SIGTERM)
    assert first.wait(TIMEOUT_S) == -signal.SIGTERM  # twistd ends by the signal once all is stopped in order
    assert not (program.work / "run" / "control" / "control.sock").exists()
