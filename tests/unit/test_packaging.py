"""The systemd unit: what it must say, what it must not, and that systemd-analyze finds nothing wrong."""

from __future__ import annotations

import configparser
import re
import shutil
import subprocess
from pathlib import Path

import pytest

UNIT = Path(__file__).resolve().parents[2] / "packaging" / "hostdaemon.service"


def directives() -> dict[str, str]:
    parser = configparser.ConfigParser(interpolation=None, strict=True)
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read(UNIT)
    return dict(parser["Service"])


@pytest.mark.parametrize(
    ("name", "value"),
    [("Type", "notify"), ("KillMode", "process"), ("OOMPolicy", "continue"), ("NotifyAccess", "main"),
     ("ExecReload", "/bin/kill -HUP $MAINPID"), ("Restart", "always"), ("SyslogIdentifier", "hostdaemon"),
     ("TasksMax", "infinity"), ("ExecStart", "/opt/hostdaemon/bin/twistd -n hostdaemon --config /etc/hostdaemon/daemon.yaml")],
)
def test_what_it_must_say(name: str, value: str) -> None:
    assert directives()[name] == value


@pytest.mark.parametrize(
    "name", ["Delegate", "PrivateTmp", "ProtectSystem", "NoNewPrivileges", "ProtectHome", "PrivateDevices", "PIDFile"]
)
def test_what_it_must_not_say_and_why(name: str) -> None:
    assert name not in directives()
    if name in ("Delegate", "PrivateTmp", "ProtectSystem", "NoNewPrivileges"):
        assert re.search(rf"^#.*{name}=", UNIT.read_text(), re.M), "the unit explains why it leaves it out"


def test_a_stop_has_more_time_than_the_daemon_takes() -> None:
    from daemon.app import LEAVE_PATIENCE_S, WORK_PATIENCE_S

    assert int(directives()["TimeoutStopSec"].rstrip("s")) > WORK_PATIENCE_S + 2 * LEAVE_PATIENCE_S


def test_another_version_has_as_much_time_to_start_as_any_start() -> None:
    from daemon.aio.sdnotify import HAND_OVER_S
    from daemon.app import LEAVE_PATIENCE_S

    ping_s = int(directives()["WatchdogSec"].rstrip("s")) / 2  # the last one may be as old as that
    assert int(directives()["TimeoutStartSec"].rstrip("s")) + ping_s + LEAVE_PATIENCE_S <= HAND_OVER_S


SYSTEMCTL = """\
#!/bin/sh
echo "$@" >>{root}/asked
case $1 in
is-system-running) echo {state};;
kill) (sleep 0.5; echo gone >>{root}/asked; echo 9 >{root}/cgroup.procs) >/dev/null 2>&1 & ;;
show) echo /../../..{root};;
esac
"""


def after_the_stop(root: Path, state: str) -> list[str]:
    """Runs the unit's ExecStopPost beside a systemctl that plays a system in that state; what happened, in order."""
    command = directives()["ExecStopPost"].removeprefix("-+/bin/sh -c ").replace("%n", "hostdaemon.service")
    (root / "systemctl").write_text(SYSTEMCTL.format(root=root, state=state))
    (root / "systemctl").chmod(0o755)
    (root / "cgroup.procs").write_text("7\n8\n9\n")
    done = subprocess.run(
        ["/bin/sh", "-c", command.strip("'").replace("$$", "$")], capture_output=True, text=True, timeout=20, check=False,
        env={"PATH": f"{root}:/usr/bin:/bin"},
    )
    assert (done.returncode, done.stderr) == (0, "")
    return (root / "asked").read_text().splitlines()


@pytest.mark.parametrize("state", ["running", "degraded", "starting", "maintenance", ""])
def test_agents_outlive_a_stop_of_the_daemon(tmp_path: Path, state: str) -> None:
    assert after_the_stop(tmp_path, state) == ["is-system-running"]


def test_agents_are_ended_and_waited_for_when_the_host_goes_down(tmp_path: Path) -> None:
    assert after_the_stop(tmp_path, "stopping") == [
        "is-system-running", "kill hostdaemon.service", "show -P ControlGroup hostdaemon.service", "gone"
    ]


def test_waiting_for_agents_ends_before_systemd_ends_the_wait() -> None:
    tries = re.search(r"-lt (\d+) .* sleep ([\d.]+)", directives()["ExecStopPost"])
    assert tries is not None
    assert int(tries[1]) * float(tries[2]) <= int(directives()["TimeoutStopSec"].rstrip("s")) / 2


def test_systemd_finds_nothing_wrong(tmp_path: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("systemd-analyze is not installed")
    # The binary of an installed system is not here: another that exists stands in for it.
    copy = tmp_path / "hostdaemon.service"
    copy.write_text(UNIT.read_text().replace("/opt/hostdaemon/bin/twistd", "/bin/true"))
    found = subprocess.run([analyze, "verify", "--man=no", str(copy)], capture_output=True, text=True, timeout=60)
    ours = [line for line in (found.stdout + found.stderr).splitlines() if "hostdaemon" in line]
    assert (found.returncode, ours) == (0, [])
