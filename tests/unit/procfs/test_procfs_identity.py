"""Identity and age: exactly that process or nobody."""

from __future__ import annotations

import os
import subprocess
import time

import msgspec
import pytest

from daemon.procfs.age import TICKS_PER_SECOND, boot_ticks, process_age_s
from daemon.procfs.identity import BOOT_ID, boot_id, identify, verify


def test_the_boot_id_is_the_kernels() -> None:
    assert boot_id() == BOOT_ID.read_text().strip()
    assert len(boot_id()) == 36


def test_we_are_who_we_are() -> None:
    identity = identify(os.getpid())
    assert identity is not None
    stat = verify(identity)
    assert stat is not None
    assert stat.pid == os.getpid()


@pytest.mark.parametrize(
    "changes",
    [
        {"pid": 0}, {"pid": -1}, {"pid": 2**31 - 1}, {"pid": 1}, {"start_ticks": 0}, {"start_ticks": -5},
        {"start_ticks": 1}, {"boot_id": ""}, {"boot_id": "00000000-0000-0000-0000-000000000000"},
    ],
)
def test_whoever_differs_anywhere_is_nobody(changes: dict[str, object]) -> None:
    identity = identify(os.getpid())
    assert identity is not None
    assert verify(msgspec.structs.replace(identity, **changes)) is None


def test_a_zombie_is_still_itself_and_dead_and_a_reaped_one_is_nobody() -> None:
    with subprocess.Popen(["/bin/true"]) as child:
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        identity = identify(child.pid)
        assert identity is not None
        stat = verify(identity)
        assert stat is not None
        assert stat.dead
        child.wait()
        assert verify(identity) is None
        assert identify(child.pid) is None


def test_the_age_of_a_new_process_is_small_and_never_negative() -> None:
    with subprocess.Popen(["/bin/sleep", "60"]) as child:
        identity = identify(child.pid)
        child.kill()
        assert identity is not None
        assert 0 <= process_age_s(identity.start_ticks) < 5
    assert process_age_s(2**60) == 0.0
    assert process_age_s(0) >= time.monotonic() - 1


def test_a_process_forked_now_begins_at_this_tick_or_right_after() -> None:
    before = boot_ticks()
    with subprocess.Popen(["/bin/sleep", "60"]) as child:
        identity = identify(child.pid)
        child.kill()
    assert identity is not None
    assert before - 1 <= identity.start_ticks <= boot_ticks() + 1
    assert TICKS_PER_SECOND > 0
