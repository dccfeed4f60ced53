"""Who is in which session: from the heads of stat lines, and from the real /proc."""

from __future__ import annotations

import os
import subprocess

import pytest

from daemon.procfs.sessions import scan_sessions, session_of


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
    assert [session for session, pids in scan_sessions().items() if os.getpid() in pids] == [ours] * bool(ours)


def test_members_of_a_session_are_found_without_zombies_and_kernel_threads() -> None:
    shell = subprocess.Popen(
        ["/bin/sh", "-c", "sleep 100 & echo; wait"], start_new_session=True, stdout=subprocess.PIPE
    )
    assert shell.stdout is not None
    try:
        shell.stdout.readline()
        found = scan_sessions()
        assert shell.pid in found[shell.pid] and len(found[shell.pid]) == 2
        assert 0 not in found
    finally:
        os.killpg(shell.pid, 9)
    os.waitid(os.P_PID, shell.pid, os.WEXITED | os.WNOWAIT)  # dead, not reaped yet
    assert shell.pid not in scan_sessions().get(shell.pid, ())
    shell.wait()
    shell.stdout.close()
