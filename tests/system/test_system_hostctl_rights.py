"""hostctl of users who may use the control socket and of users who may not, before a real daemon."""

from __future__ import annotations

import grp
import os
import subprocess
import sys

import pytest

from tests.system.harness import ROOT, Daemon, sleeper

NOBODY = 65534
# Everything is imported first: an unprivileged user may not be able to read the interpreter's own place.
AS_NOBODY = f"""
import difflib, encodings.utf_8_sig, json, os, sys
from daemon.cli import events, logs, main, operate, status
os.setgroups([])
os.setgid({NOBODY})
os.setuid({NOBODY})
sys.exit(main.run(sys.argv[1:]))
"""
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")


# Without what measures coverage: its file is one that this user cannot write.
ENVIRON = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}


def as_nobody(*arguments: str, **environ: str) -> tuple[int, str, str]:
    done = subprocess.run(
        [sys.executable, "-c", AS_NOBODY, *arguments], capture_output=True, text=True, timeout=60,
        env={**ENVIRON, "PYTHONPATH": str(ROOT), **environ},
    )
    assert "Traceback" not in done.stderr
    return done.returncode, done.stdout, done.stderr


def test_another_user_is_told_who_may_and_changes_nothing(daemon: Daemon) -> None:
    daemon.configure(sleeper("a"))
    daemon.start()
    pid = daemon.agent_in("a", "running")["pid"]
    for command in ("status", "-o json status", "stop a", "restart --all", "logs a", "events -f", "status --watch"):
        status, out, err = as_nobody("--config", str(daemon.config), *command.split())
        assert (status, out) == (4, ""), err
        assert f"you may not use {daemon.work_dir}/run/control/control.sock (named by {daemon.config})" in err
        assert "only root, the daemon's user and daemon.control_group may" in err
        assert "next: sudo hostctl" in err
    assert daemon.agent("a")["pid"] == pid


def test_whoever_reaches_the_socket_all_the_same_is_refused_by_the_daemon(daemon: Daemon) -> None:
    daemon.configure(sleeper("a"))
    daemon.start()
    pid = daemon.agent_in("a", "running")["pid"]
    control = daemon.work_dir / "run/control"
    control.chmod(0o711)
    (control / "control.sock").chmod(0o666)
    for command in (("status",), ("stop", "a")):
        status, out, err = as_nobody("--config", str(daemon.config), *command)
        assert (status, out) == (4, "")
        assert "does not take you" in err
        assert "sudo hostctl" in err
    assert daemon.agent("a")["pid"] == pid
    assert "control socket: " in daemon.log_text(), "the daemon says whom it refused"


def test_a_configuration_that_may_not_be_read_is_told_and_the_socket_can_be_named(daemon: Daemon) -> None:
    daemon.configure(sleeper("a"))
    daemon.config.chmod(0o600)
    status, _, err = as_nobody("--config", str(daemon.config), "status")
    assert status == 4
    assert f"cannot tell which daemon to ask: {daemon.config} cannot be read: Permission denied" in err
    assert "next: sudo hostctl ..., or name the daemon's socket" in err


def test_a_member_of_the_control_group_needs_nothing_else(daemon: Daemon) -> None:
    daemon.configure(sleeper("a"), daemon=f"control_group: {grp.getgrgid(NOBODY).gr_name}")
    daemon.start()
    daemon.agent_in("a", "running")
    assert as_nobody("--config", str(daemon.config), "stop", "a") == (0, "a: stopped\n", "")
    status, out, _ = as_nobody("status", "a", HOSTDAEMON_CONTROL_SOCKET=f"{daemon.work_dir}/run/control/control.sock")
    assert status == 3
    assert "the operator stopped it" in out
