"""hostctl of a bundle, ordering the daemon to become another version of both and watching it do so."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable
from typing import Any

import pytest

from tests.system import bundles
from tests.system.bundles import Installed
from tests.system.harness import wait_for
from tests.system.test_system_selfupdate import pids, same_as_before
from tests.system.test_system_selfupdate_asked import begun, package

WAITS = "hostctl: waiting for the daemon"


def hostctl(installed: Installed, *words: str) -> subprocess.Popen[str]:
    """Started; SIGINT is not ignored, whatever the tests were started by."""
    return subprocess.Popen(
        [installed.at / "bin" / "hostctl", "--config", installed.config, *words], stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, cwd="/", env={"PATH": os.defpath, "TERM": "dumb"},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


def ran(installed: Installed, *words: str, status: int = 0) -> tuple[str, str]:
    """What it wrote to stdout and stderr, once it has ended."""
    process = hostctl(installed, *words)
    out, err = process.communicate(timeout=60)
    assert "Traceback" not in err
    assert process.returncode == status, (words, out, err)
    return out, err


def signed(installed: Installed, version: str, changes: Any = bundles.GOOD) -> tuple[str, dict[str, int]]:
    """Version 1.0.0 runs; the file of another version, its signature beside it, and the agents' pids."""
    signer, before = begun(installed)
    file = installed.root / f"hostdaemon-{version}.tar.gz"
    data = package(installed.root, version, changes)
    file.write_bytes(data)
    file.with_name(f"{file.name}.sig").write_text(signer.sign(data))
    return str(file), before


def read_until(process: subprocess.Popen[str], wanted: Callable[[str], bool]) -> list[str]:
    """The lines of stderr up to the one that is wanted."""
    assert process.stderr is not None
    lines = []
    for line in process.stderr:
        lines.append(line.rstrip("\n"))
        if wanted(line):
            return lines
    raise AssertionError(f"it ended with {process.wait(5)} after {lines}")


def update_id(said: str) -> str:
    return said.partition("hostctl updates ")[2].split()[0]


def test_it_shows_the_update_over_the_switch_and_then_is_of_the_new_version_itself(installed: Installed) -> None:
    file, before = signed(installed, "2.0.0")
    pid = installed.pid
    assert ran(installed, "--version")[0] == "hostctl 1.0.0\n"
    out, err = ran(installed, "update", "daemon", file, "--wait")
    told = err.splitlines()
    assert told[0].startswith("hostctl: daemon 2.0.0: ") and WAITS in told[1:-1], err
    assert told[-1].startswith("hostctl: daemon 2.0.0: ")  # it came back and was asked again
    assert "1.0.0 -> 2.0.0\nstate      succeeded\n" in out
    assert f"a: {before['a']}" in out  # the evidence
    same_as_before(installed, before, "2.0.0")
    assert installed.pid == pid
    assert ran(installed, "--version")[0] == "hostctl 2.0.0\n"

    out, err = ran(installed, "rollback", "daemon", "--wait", "-o", "json")
    view = json.loads(out)
    assert (view["state"], view["old_version"], view["new_version"]) == ("succeeded", "2.0.0", "1.0.0")
    assert WAITS in err.splitlines()
    same_as_before(installed, before, "1.0.0")
    assert installed.pid == pid
    assert ran(installed, "--version")[0] == "hostctl 1.0.0\n"


def test_a_version_that_does_not_run_ends_it_with_1_the_cause_and_the_next_step(installed: Installed) -> None:
    file, before = signed(installed, "2.0.0", bundles.CRASHES_AFTER_CHECK)
    out, err = ran(installed, "update", "daemon", file, "--wait", status=1)
    assert "state      rolled back" in out and "by: watcher" in out
    assert "No module named 'no_such_library'" in out.partition("last lines")[2]
    assert WAITS in err.splitlines()
    cause, next_step = err.splitlines()[-2:]
    assert cause.startswith("hostctl: daemon 2.0.0: D4003 ") and "exited with status 1" in cause
    assert next_step.startswith("  next: 1.0.0 runs again, proven; ")
    same_as_before(installed, before, "1.0.0")
    assert ran(installed, "--version")[0] == "hostctl 1.0.0\n"
    (view,) = json.loads(ran(installed, "updates", "-o", "json")[0])["updates"]
    assert any("no_such_library" in line for line in view["evidence"]["last_lines"])


@pytest.mark.parametrize("moment", [
    "while no daemon answers", pytest.param("before anything is changed", marks=pytest.mark.slow),
])
def test_ctrl_c_leaves_the_update_to_the_daemon_and_says_how_to_look_on(installed: Installed, moment: str) -> None:
    file, before = signed(installed, "2.0.0")
    process = hostctl(installed, "update", "daemon", file, "--wait")
    early = moment.startswith("before")
    read_until(process, lambda line: "daemon 2.0.0: " in line if early else line.rstrip() == WAITS)
    process.send_signal(signal.SIGINT)
    _out, err = process.communicate(timeout=20)
    assert process.returncode == 130
    said = err.splitlines()[-1]
    assert "the update goes on without you" in said
    assert early or "hostctl rollback daemon" in said, said
    known: list[dict[str, Any]] = wait_for("the daemon", lambda: updates_of(installed))
    assert [each["id"] for each in known] == [update_id(said)]
    assert "state      succeeded" in ran(installed, "updates", update_id(said), "--wait")[0]
    same_as_before(installed, before, "2.0.0")


def updates_of(installed: Installed) -> Any:
    try:
        return installed.get("/v1/updates")["updates"]
    except (OSError, AssertionError):  # it is just becoming the new version
        return None


@pytest.mark.slow
def test_a_daemon_that_is_killed_meanwhile_is_waited_for(installed: Installed) -> None:
    file, before = signed(installed, "2.0.0", bundles.NEVER_READY)
    process = hostctl(installed, "update", "daemon", file, "--wait")
    read_until(process, lambda line: "daemon 2.0.0: verify" in line)
    os.kill(installed.pid, signal.SIGKILL)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 1, err
    told = err.splitlines()
    assert told[0] == WAITS
    assert "it was ended by SIGKILL" in told[-2] and "1.0.0 runs again, proven" in told[-1]
    assert "state      rolled back" in out
    wait_for("1.0.0", lambda: updates_of(installed))
    assert pids(installed) == before
    same_as_before(installed, before, "1.0.0")
