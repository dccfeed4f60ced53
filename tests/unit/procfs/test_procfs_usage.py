"""What a session uses: real processes, and the arithmetic of CPU over members that come and go."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from daemon.model.agent import Identity
from daemon.procfs.identity import identify
from daemon.procfs.sessions import SessionScan
from daemon.procfs.usage import (
    Process,
    SessionMeter,
    count_files,
    grown_ticks,
    parse_io,
    parse_process,
    read_io,
    read_process,
)


@contextmanager
def session(program: str) -> Iterator[tuple[Identity, subprocess.Popen[bytes]]]:
    """A Python program that leads a session and says a line when it is ready."""
    child = subprocess.Popen([sys.executable, "-S", "-E", "-c", program], start_new_session=True,
                             stdout=subprocess.PIPE, stdin=subprocess.PIPE)
    assert child.stdout is not None
    child.stdout.readline()
    identity = identify(child.pid)
    assert identity is not None
    try:
        yield identity, child
    finally:
        os.killpg(child.pid, 9)
        child.wait()
        child.stdout.close()
        assert child.stdin is not None
        child.stdin.close()


def members(session_id: int) -> tuple[int, ...]:
    return SessionScan()().get(session_id, ())


BUSY = "import time; print(flush=True)\nend = time.process_time() + {}\nwhile time.process_time() < end: pass\nprint(flush=True); time.sleep(100)"


def test_a_busy_process_shows_its_cpu_and_the_first_sample_none() -> None:
    with session("import sys\nprint(flush=True); sys.stdin.readline()\n" + BUSY.format(0.3)) as (leader, child):
        meter = SessionMeter(leader, members)
        first = meter.light(time.monotonic())
        assert first is not None and first.cpu_percent is None and first.rss_bytes > 1_000_000
        begun = time.monotonic()
        assert child.stdin is not None and child.stdout is not None
        child.stdin.write(b"\n")
        child.stdin.flush()
        child.stdout.readline()
        child.stdout.readline()
        now = time.monotonic()
        second = meter.light(now)
        assert second is not None and second.cpu_percent is not None
        # 0.3 s of CPU in the time it took, by ticks of 10 ms
        assert second.cpu_percent * (now - begun) / 100 == pytest.approx(0.3, abs=0.06)


def test_everything_is_there_and_children_of_the_session_count() -> None:
    program = ("import subprocess, sys\nc = subprocess.Popen([sys.executable, '-S', '-c', "
               "'import time; x = bytearray(30_000_000); print(flush=True); time.sleep(100)'], stdout=subprocess.PIPE)\n"
               "c.stdout.readline(); print(flush=True)\nimport time; time.sleep(100)")
    with session(program) as (leader, _child):
        found = SessionMeter(leader, members).full(time.monotonic())
        assert found is not None and found.processes == 2 and found.threads == 2
        assert found.rss_bytes > 40_000_000 and found.vms_bytes > found.rss_bytes
        assert found.open_files is not None and found.open_files >= 6
        assert found.read_bytes is not None and found.write_bytes is not None


def test_a_process_that_is_gone_or_another_has_no_usage() -> None:
    with session("print(flush=True); import time; time.sleep(100)") as (leader, _child):
        stranger = Identity(boot_id=leader.boot_id, pid=leader.pid, start_ticks=leader.start_ticks + 1)
        assert SessionMeter(stranger, members).light(1.0) is None
        meter = SessionMeter(leader, members)
        assert meter.full(1.0) is not None
    assert meter.full(2.0) is None and meter.light(2.0) is None


def test_a_forked_grandchild_counts_and_its_time_stays_when_it_is_reaped() -> None:
    # The child forks a grandchild that burns 0.2 s; on a line both end, reaped one after the other.
    program = """
import os, sys, time
def burn(s):
    end = time.process_time() + s
    while time.process_time() < end: pass
print(flush=True); sys.stdin.readline()
child = os.fork()
if not child:
    grandchild = os.fork()
    if not grandchild:
        burn(0.2); print(flush=True); sys.stdin.readline(); os._exit(0)
    os.wait(); os._exit(0)
os.waitpid(child, 0); print(flush=True); time.sleep(100)
"""
    with session(program) as (leader, child):
        assert child.stdin is not None and child.stdout is not None
        meter = SessionMeter(leader, members)
        begun = time.monotonic()
        assert meter.full(begun) is not None
        child.stdin.write(b"\n")
        child.stdin.flush()
        child.stdout.readline()
        burnt = time.monotonic()
        busy = meter.full(burnt)
        assert busy is not None and busy.cpu_percent is not None and busy.processes == 3
        assert busy.cpu_percent * (burnt - begun) / 100 == pytest.approx(0.2, abs=0.05)
        child.stdin.write(b"\n")
        child.stdin.flush()
        child.stdout.readline()
        ended = time.monotonic()
        after = meter.full(ended)
        assert after is not None and after.cpu_percent is not None and after.processes == 1
        assert after.cpu_percent * (ended - burnt) / 100 <= 0.05  # not the 0.2 s a second time
        assert after.cpu_seconds >= busy.cpu_seconds >= 0.15  # the reaped ones' time stays
        assert SessionMeter(leader, members).full(1.0).cpu_seconds == pytest.approx(after.cpu_seconds, abs=0.05)


def test_a_pid_that_another_session_has_by_now_is_not_counted() -> None:
    sleeper = "print(flush=True); import time; time.sleep(100)"
    with session(sleeper) as (leader, _child), session(sleeper) as (stranger, _other):
        found = SessionMeter(leader, lambda _session: (leader.pid, stranger.pid, 2**30)).full(1.0)
        assert found is not None and found.processes == 1


def test_no_session_uses_more_than_the_host_has() -> None:
    with session("import sys\nprint(flush=True); sys.stdin.readline()\n" + BUSY.format(0.1)) as (leader, child):
        meter = SessionMeter(leader, members)
        assert meter.light(1.0) is not None
        assert child.stdin is not None and child.stdout is not None
        child.stdin.write(b"\n")
        child.stdin.flush()
        child.stdout.readline()
        child.stdout.readline()
        found = meter.light(1.000_001)  # as a child that no sample saw, reaped with all its time
        assert found is not None and found.cpu_percent == 100.0 * (os.cpu_count() or 1)
        again = meter.light(1.000_001)  # a clock that stands still
        assert again is not None and again.cpu_percent is None


@pytest.mark.parametrize(
    ("before", "now", "grown"),
    [
        ({1: (10, 5)}, {1: (10, 8)}, 3),
        ({1: (10, 0)}, {1: (10, 5), 2: (150, 20)}, 25),  # a child that began since
        ({1: (10, 5), 2: (150, 20)}, {1: (10, 35)}, 10),  # it used 10 more; its parent took over its 30
        ({1: (10, 0)}, {1: (10, 5), 3: (50, 9000)}, 5),  # overlooked before: no spike
        ({1: (10, 0), 2: (150, 50)}, {1: (10, 3)}, 0),  # its time left the session: never negative
        ({1: (10, 0), 2: (90, 50)}, {1: (10, 50), 2: (250, 7)}, 7),  # the pid of one reaped is another's
        ({}, {1: (10, 7)}, 0),
        ({}, {}, 0),
    ],
)
def test_the_time_of_members_that_come_and_go(
    before: dict[int, tuple[int, int]], now: dict[int, tuple[int, int]], grown: int
) -> None:
    assert grown_ticks(before, now, 100) == grown


STAT = b"7 (a) b) S 1 7 5 0 -1 4 1 2 3 4 11 12 13 14 20 0 3 0 999 4096 8 18446744073709551615 1 1"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (STAT, Process(7, 5, 999, 50, 8, 4096, 3)),
        (STAT.replace(b" S ", b" Z "), None), (STAT.replace(b" 999 ", b" x "), None), (STAT[:40], None), (b"", None),
    ],
)
def test_a_stat_line_is_read_or_refused(text: bytes, found: Process | None) -> None:
    assert parse_process(7, text) == found


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (b"rchar: 1\nread_bytes: 4096\nwrite_bytes: 512\ncancelled_write_bytes: 0\n", (4096, 512)),
        (b"", None), (b"read_bytes: 1\nwrite_bytes: 2", None), (b"x\nread_bytes: 1\n", None),
        (b"x\nread_bytes: -1\nwrite_bytes: 2\n", None), (b"x\nread_bytes: a\nwrite_bytes: 2\n", None),
        (b"x\nread_bytes: 1\nother: 2\n", None),
    ],
)
def test_io_is_read_or_refused(text: bytes, found: tuple[int, int] | None) -> None:
    assert parse_io(text) == found


def test_what_does_not_exist_is_none() -> None:
    assert read_process(2**30) is None and read_io(2**30) is None and count_files(2**30) is None
    assert count_files(os.getpid()) == len(os.listdir("/proc/self/fd")) - 1
