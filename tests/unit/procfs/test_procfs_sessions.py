"""Who is in which session: from the heads of stat lines, and from the real /proc."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from daemon.procfs.sessions import SessionScan, session_of


@pytest.mark.parametrize(
    ("head", "session_id"),
    [
        (b"7 (a b) c) S 1 7 5 0 -1 4", 5), (b"7 (x) Z 1 7 5 0 -1 4", 0), (b"7 (kworker) I 2 0 0 0 -1", 0),
        (b"", 0), (b"nonsense", 0), (b"7 (x) S a b c d e", 0), (b"7 (x", 0),
    ],
)
def test_the_session_in_the_head_of_a_stat_line(head: bytes, session_id: int) -> None:
    assert session_of(head) == session_id


def test_our_own_session_is_found() -> None:
    """Unless its leader lives outside of our pid namespace: then it has no number that means anything here."""
    ours = os.getsid(0)
    assert [session for session, pids in SessionScan()().items() if os.getpid() in pids] == [ours] * bool(ours)


def test_members_of_a_session_are_found_without_zombies_and_kernel_threads() -> None:
    shell = subprocess.Popen(
        ["/bin/sh", "-c", "sleep 100 & echo; wait"], start_new_session=True, stdout=subprocess.PIPE
    )
    assert shell.stdout is not None
    try:
        shell.stdout.readline()
        found = SessionScan()()
        assert shell.pid in found[shell.pid] and len(found[shell.pid]) == 2
        assert 0 not in found
    finally:
        os.killpg(shell.pid, 9)
    os.waitid(os.P_PID, shell.pid, os.WEXITED | os.WNOWAIT)  # dead, not reaped yet
    assert shell.pid not in SessionScan()().get(shell.pid, ())
    shell.wait()
    shell.stdout.close()


def test_only_new_processes_are_read_again_and_their_births_and_ends_are_seen() -> None:
    scan = SessionScan(whole_every=100)
    scan()
    at_first = scan.reads_total
    shell = subprocess.Popen(["/bin/sh", "-c", "read line; sleep 100 & echo; wait"], start_new_session=True,
                             stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert shell.stdin is not None and shell.stdout is not None
    try:
        assert scan()[shell.pid] == (shell.pid,)
        shell.stdin.write(b"\n")
        shell.stdin.flush()
        shell.stdout.readline()
        assert len(scan()[shell.pid]) == 2
        assert scan.reads_total - at_first < at_first / 2  # other processes of the host come and go
    finally:
        os.killpg(shell.pid, 9)
        shell.wait()
    assert shell.pid not in scan().get(shell.pid, ())
    shell.stdin.close()
    shell.stdout.close()


def test_a_child_seen_before_it_left_the_session_is_read_anew_in_time() -> None:
    scan = SessionScan(whole_every=2)
    program = (
        "import os, sys\n"
        "if pid := os.fork(): print(pid, flush=True); os.wait(); sys.exit()\n"
        "sys.stdin.readline(); os.setsid(); print(flush=True); sys.stdin.readline()"
    )
    leader = subprocess.Popen([sys.executable, "-c", program], start_new_session=True,
                              stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert leader.stdin is not None and leader.stdout is not None
    child = int(leader.stdout.readline())
    try:
        assert child in scan()[leader.pid]
        leader.stdin.write(b"\n")
        leader.stdin.flush()
        leader.stdout.readline()
        scan()
        assert scan()[child] == (child,)
    finally:
        os.kill(child, 9)
        leader.communicate()
