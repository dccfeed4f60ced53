"""Fault points."""

from __future__ import annotations

import errno
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from daemon import faults
from daemon.faults import Faults


@pytest.fixture(autouse=True)
def _disarm() -> Iterator[None]:
    yield
    faults.arm({})


def test_without_rules_every_point_is_passed() -> None:
    Faults().hit("anything")


@pytest.mark.parametrize(("kind", "number"), [("enospc", errno.ENOSPC), ("eio", errno.EIO)])
def test_a_disk_error_begins_at_the_nth_passage_and_stays(kind: str, number: int) -> None:
    points = Faults(f"disk.write:2:{kind}")
    points.hit("disk.write")
    for _later in range(3):
        with pytest.raises(OSError, match=r"disk\.write") as caught:
            points.hit("disk.write")
        assert caught.value.errno == number


def test_other_points_are_passed() -> None:
    points = Faults("disk.write:1:eio")
    points.hit("disk.read")


def test_several_points_are_counted_apart() -> None:
    points = Faults("a:2:eio,b:1:enospc")
    points.hit("a")
    with pytest.raises(OSError, match="point b"):
        points.hit("b")
    with pytest.raises(OSError, match="point a"):
        points.hit("a")


@pytest.mark.parametrize(
    "text", ["a", "a:", "a:0", "a:-1", "a:x", "a:²", "a:1:explode", "a:1:crash:more", "a:1,b"]
)
def test_a_rule_that_cannot_be_read_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"HOSTDAEMON_FAULT|invalid literal"):
        Faults(text)


def test_arm_takes_the_rules_from_the_environment_and_an_empty_one_disarms() -> None:
    faults.arm({"HOSTDAEMON_FAULT": "a:1:eio"})
    with pytest.raises(OSError, match="point a"):
        faults.hit("a")
    faults.arm({"PATH": "/bin"})
    faults.hit("a")


def test_crash_kills_the_process_at_the_nth_passage() -> None:
    program = (
        "from daemon import faults\n"
        "faults.arm({'HOSTDAEMON_FAULT': 'step:3'})\n"
        "for n in range(1, 9):\n"
        "    print(n, flush=True)\n"
        "    faults.hit('step')\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30)
    assert done.returncode == -signal.SIGKILL
    assert done.stdout.split() == ["1", "2", "3"]
