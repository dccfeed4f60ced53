"""The program's options, without running it."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from daemon import __version__
from daemon.agentkit import tap
from daemon.agentkit.config import KEYS


def leave(*arguments: str) -> int:
    with pytest.raises(SystemExit) as caught:
        tap.main(list(arguments))
    assert isinstance(caught.value.code, int)
    return caught.value.code


@pytest.fixture(autouse=True)
def plain_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No variable of the tester's own, and SIGHUP as it was: the program ignores it at first."""
    for key in KEYS:
        for name in filter(None, (key.variable, key.daemon_variable)):
            monkeypatch.delenv(name, raising=False)
    before = signal.getsignal(signal.SIGHUP)
    yield
    signal.signal(signal.SIGHUP, before)


def test_help_names_every_key_variable_and_default(capsys: pytest.CaptureFixture[str]) -> None:
    assert leave("--help") == 0
    out = capsys.readouterr().out
    for key in KEYS:
        assert key.path in out
        assert key.variable in out
        assert str(key.text or key.default) in out
    assert "HOSTDAEMON_SOCKET" in out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert leave("--version") == 0
    assert capsys.readouterr().out == f"hostagent {__version__}\n"


def test_check_says_good(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("heartbeat: {socket_path: /s, interval: 5s}\n")
    assert leave("--config", str(path), "--check") == 0
    assert capsys.readouterr().out == "the configuration is good: heartbeats every 5 s to /s\n"


def test_check_names_every_fault_on_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("heartbeat: {interval: 5d}\nport: 1\n")
    assert leave("-config", str(path), "--check") == 1
    error = capsys.readouterr().err
    assert error.startswith(f"hostagent: D1002 {path}: ")
    assert error.count("\n") == 1
    assert "heartbeat.interval" in error
    assert "port: unknown key" in error


def test_wrong_usage_is_status_two(capsys: pytest.CaptureFixture[str]) -> None:
    assert leave("--config") == 2
    assert "expected one argument" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("parent", "pidfile", "logger"),
    [
        ({"pidfile": "twistd.pid", "nodaemon": 1}, None, "daemon.agentkit.tap.log_observer"),
        ({"pidfile": "/run/my.pid", "nodaemon": 1, "logfile": "x"}, "/run/my.pid", None),
        ({"pidfile": "twistd.pid", "nodaemon": 0}, None, None),
        ({"pidfile": "twistd.pid", "nodaemon": 1, "syslog": 1}, None, None),
        ({"pidfile": "twistd.pid", "nodaemon": 1, "logger": "m.x"}, None, "m.x"),
    ],
)
def test_under_twistd_pid_file_and_log_are_ours_unless_asked_otherwise(
    parent: Any, pidfile: str | None, logger: str | None
) -> None:
    options = tap.Options()
    options.parent = parent
    options.parseOptions(["--config", "/x"])
    assert (parent["pidfile"], parent.get("logger")) == (pidfile, logger)
    assert options["config"] == "/x"


def test_options_stand_alone_too() -> None:
    options = tap.Options()
    options.parseOptions([])
    assert options["config"] is None


def test_a_log_asked_for_too_early_is_a_clear_fault() -> None:
    with pytest.raises(RuntimeError, match="before the service"):
        tap.log_observer()


def test_the_service_is_refused_with_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    options = tap.Options()
    options.parseOptions(["--config", "/gone/agent.yaml"])
    with pytest.raises(SystemExit) as caught:
        tap.makeService(options)
    assert str(caught.value.code).startswith("hostagent: D1001 /gone/agent.yaml: No such file")


def test_reading_the_configuration_leaves_the_network_part_of_twisted_alone() -> None:
    code = (
        "import sys; from daemon.agentkit import tap; tap.load_config(None, {}); "
        "print([m for m in ('twisted.internet.reactor', 'twisted.internet.tcp', 'OpenSSL', 'ssl', 'psutil') "
        "if m in sys.modules])"
    )
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30,
        cwd=Path(__file__).parents[3],
    ).stdout
    assert "reactor" not in out
    assert "OpenSSL" not in out
    assert "psutil" not in out
