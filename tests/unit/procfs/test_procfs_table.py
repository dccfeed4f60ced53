"""The sweep, against real children of ours."""

from __future__ import annotations

import os
import subprocess

from daemon.procfs import marks
from daemon.procfs.stat import ProcStat
from daemon.procfs.table import Process, ProcessTable, sweep

TOKEN = "feed" * 8


def test_a_sweep_finds_sessions_and_marks_and_leaves_the_dead_out() -> None:
    env = {marks.MARK: TOKEN, marks.RUN: "r1", "PATH": "/usr/bin:/bin"}
    script = "setsid sleep 60 & sleep 60 & env -i /bin/sleep 60 & sleep 0.3; echo ready; wait"
    with subprocess.Popen(
        ["/bin/sh", "-c", script], env=env, start_new_session=True, stdout=subprocess.PIPE
    ) as leader, subprocess.Popen(["/bin/true"], env=env) as dead:
        assert leader.stdout is not None
        leader.stdout.readline()
        os.waitid(os.P_PID, dead.pid, os.WEXITED | os.WNOWAIT)
        table = sweep()
        marked = table.marked(TOKEN)
        session = [p for p in table.candidates("", leader.pid) if p.stat.session == leader.pid]
        for process in {*(p.pid for p in marked), *(p.pid for p in session)}:
            os.kill(process, 9)
    assert leader.pid in {p.pid for p in marked}
    assert {p.mark.run for p in marked if p.mark is not None} == {"r1"}
    assert len(marked) == 3
    assert len(session) == 3
    assert len({p.pid for p in marked} & {p.pid for p in session}) == 2
    bare = next(p for p in session if p.mark is None)
    assert bare.wiped  # an empty environment holds no variable either
    assert not bare.hidden
    assert dead.pid not in {p.pid for p in table}
    assert os.getpid() in {p.pid for p in table}
    assert not any(p.stat.kernel_thread or p.stat.dead for p in table)


def test_nobody_is_found_by_an_unknown_token_or_session() -> None:
    table = ProcessTable([])
    assert table.marked("t") == ()
    assert list(table.candidates("nobody", 1)) == []
    assert list(table) == []


def test_the_pid_of_a_process_is_its_stats() -> None:
    stat = ProcStat(
        pid=7, comm="a", state="S", ppid=1, pgrp=7, session=7, utime_ticks=0, stime_ticks=0,
        num_threads=1, start_ticks=1, vsize_bytes=0, rss_pages=0, exit_code=0,
    )
    assert Process(stat=stat, mark=None, wiped=False).pid == 7


def test_an_environment_that_may_not_be_read_is_hidden(monkeypatch: object) -> None:
    import daemon.procfs.table as module

    monkeypatch.setattr(module, "read_environ", lambda _pid: None)  # type: ignore[attr-defined]
    ours = next(p for p in sweep() if p.pid == os.getpid())
    assert ours.hidden
    assert not ours.wiped
    assert ours.mark is None
