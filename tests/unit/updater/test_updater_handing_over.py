"""One program that becomes another: what it takes along, and what not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from daemon.durable.lock import DirectoryLock
from daemon.updater.selfupdate.handing_over import Invocation, environment, inherited_lock
from daemon.updater.selfupdate.launcher import interpreter

CHECKOUT = Path(__file__).resolve().parents[3]
# Becomes a program that tells what it finds; holds the lock of a folder, and a descriptor that must not stay.
BEFORE = """\
import os, signal, sys
from pathlib import Path
from daemon.durable.lock import DirectoryLock
from daemon.updater.selfupdate.handing_over import HandOver, become
lock = DirectoryLock(Path(sys.argv[1]))
lock.acquire()
other = os.open("/dev/null", os.O_RDONLY)
os.set_inheritable(other, True)
signal.signal(signal.SIGHUP, lambda *_: None)
become(HandOver(
    version="2", argv=(sys.executable, "-c", sys.argv[2], sys.argv[1]), env=dict(os.environ) | {"PLUS": "1"},
    before=lambda: None, abandoned=print, stderr=sys.argv[3],
), lock.fd)
"""
AFTER = """\
import json, os, signal, sys
from pathlib import Path
from daemon.durable.lock import DirectoryLock
from daemon.updater.selfupdate.handing_over import inherited_lock
open_ = sorted(int(n) for n in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{n}"))
fd = inherited_lock(os.environ)
lock = DirectoryLock(Path(sys.argv[1]))
lock.acquire(fd)
print("a word", file=sys.stderr)
Path(sys.argv[1], "found").write_text(json.dumps({
    "pid": os.getpid(), "open": open_, "fd": fd, "lock": lock.fd, "plus": os.environ["PLUS"],
    "inheritable": os.get_inheritable(fd), "variable": "HOSTDAEMON_LOCK_FD" in os.environ,
    "hangup": signal.getsignal(signal.SIGHUP) == signal.SIG_IGN,
}))
sys.stdin.read()
"""


def test_the_process_stays_and_the_lock_is_never_free(tmp_path: Path) -> None:
    stderr = tmp_path / "stderr"
    process = subprocess.Popen(
        [sys.executable, "-c", BEFORE, str(tmp_path), AFTER, str(stderr)], stdin=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
    )
    try:
        path = tmp_path / "found"
        while not (path.exists() and path.read_text()):
            assert process.poll() is None
        found = json.loads(path.read_text())
        assert found["pid"] == process.pid
        assert found["open"] == [0, 1, 2, found["fd"]]
        assert found["fd"] == found["lock"]
        assert (found["plus"], found["variable"], found["inheritable"], found["hangup"]) == ("1", False, False, True)
        assert stderr.read_text() == "a word\n"
        with pytest.raises(Exception, match=f"pid {process.pid}"):
            DirectoryLock(tmp_path).acquire()
    finally:
        process.communicate()
    assert process.returncode == 0
    DirectoryLock(tmp_path).acquire()


def test_the_command_line_runs_in_the_foreground_with_the_same_options() -> None:
    invocation = Invocation(twistd=("--reactor=poll",), options=("--config=/etc/d.yaml", "--log-file="))
    assert invocation.argv(Path("/r/current/bin/twistd")) == (
        *interpreter(), "/r/current/bin/twistd", "--reactor=poll", "-n", "--pidfile=", "hostdaemon",
        "--config=/etc/d.yaml", "--log-file=",
    )


def test_the_environment_has_what_the_service_manager_gave_and_no_lock() -> None:
    assert environment({"PATH": "/bin", "HOSTDAEMON_LOCK_FD": "7"}, {"NOTIFY_SOCKET": "/n"}) == {
        "PATH": "/bin", "NOTIFY_SOCKET": "/n",
    }


@pytest.mark.parametrize(
    ("text", "fd"), [("7", 7), ("", None), ("2", None), ("0", None), ("-7", None), ("x", None), ("٧", None),
                     ("99999999999", None)],
)
def test_a_descriptor_is_a_small_number_above_stderr(text: str, fd: int | None) -> None:
    environ = {"HOSTDAEMON_LOCK_FD": text}
    assert inherited_lock(environ) == fd
    assert environ == {}
    assert inherited_lock({}) is None


