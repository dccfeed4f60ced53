"""``/proc/PID/stat``: the name may be anything, the rest must be numbers."""

from __future__ import annotations

import os
import subprocess

import pytest

from daemon.procfs.stat import parse_stat, read_proc_file, read_stat

FIELDS = [b"S", b"1", b"2", b"3"] + [b"%d" % n for n in range(7, 53)]


def line(comm: bytes, fields: list[bytes] | None = None, pid: bytes = b"42") -> bytes:
    """A stat line: pid, name, and the fields from the third on."""
    return pid + b" (" + comm + b") " + b" ".join(FIELDS if fields is None else fields) + b"\n"


@pytest.mark.parametrize(
    "comm",
    [b"sleep", b"", b" ", b")", b"(", b"a) S 1 (b", b"x) Z 0 0 0 0 0 0 0", b"tab\tnew\nline", b"\xff\xfe", b"(((", b")))"],
)
def test_a_name_never_moves_the_fields(comm: bytes) -> None:
    stat = parse_stat(line(comm))
    assert (stat.pid, stat.state, stat.ppid, stat.pgrp, stat.session) == (42, "S", 1, 2, 3)
    assert (stat.utime_ticks, stat.stime_ticks, stat.num_threads) == (14, 15, 20)
    assert (stat.start_ticks, stat.vsize_bytes, stat.rss_pages, stat.exit_code) == (22, 23, 24, 52)
    assert stat.comm == comm.decode("utf-8", "replace")


@pytest.mark.parametrize(
    "text",
    [
        b"", b"\n", b"42", b"42 (sleep", b"42 sleep) S 1", b"(sleep) S 1 2 3", b") 42 (",
        b"42 (sleep)", b"42 (sleep) ", line(b"a", FIELDS[:21]), line(b"a", pid=b"x"), line(b"a", pid=b""),
        line(b"a", [b"S", b"one", *FIELDS[2:]]), b"\0" * 100,
    ],
)
def test_what_is_no_stat_line_is_refused(text: bytes) -> None:
    with pytest.raises(ValueError):
        parse_stat(text)


def test_a_line_of_an_older_kernel_has_no_exit_code() -> None:
    assert parse_stat(line(b"a", FIELDS[:22])).exit_code == 0


@pytest.mark.parametrize(("state", "dead"), [(b"Z", True), (b"X", True), (b"x", True), (b"S", False), (b"D", False)])
def test_zombies_are_dead(state: bytes, dead: bool) -> None:
    assert parse_stat(line(b"a", [state, *FIELDS[1:]])).dead is dead


@pytest.mark.parametrize(("pid", "ppid", "kernel"), [(b"2", b"0", True), (b"9", b"2", True), (b"1", b"0", False)])
def test_threads_of_the_kernel_are_told_by_their_parent(pid: bytes, ppid: bytes, kernel: bool) -> None:
    assert parse_stat(line(b"a", [b"S", ppid, *FIELDS[2:]], pid=pid)).kernel_thread is kernel


def test_our_own_stat_agrees_with_the_kernel() -> None:
    stat = read_stat(os.getpid())
    assert stat is not None
    assert (stat.pid, stat.ppid, stat.pgrp) == (os.getpid(), os.getppid(), os.getpgrp())
    assert stat.session == os.getsid(0)
    assert stat.rss_pages > 0
    assert not stat.dead


def test_a_process_that_is_gone_has_no_stat() -> None:
    with subprocess.Popen(["/bin/true"]) as child:
        child.wait()
    assert read_stat(child.pid) is None
    assert read_stat(0) is None
    assert read_stat(-1) is None


def test_a_name_made_to_deceive_does_not_deceive(tmp_path: object) -> None:
    deceiver = f"{tmp_path}/a) S 1 (b"
    os.symlink("/bin/sleep", deceiver)
    with subprocess.Popen([deceiver, "60"]) as child:
        try:
            while (stat := read_stat(child.pid)) is None or stat.comm == "python":
                pass
            assert stat.ppid == os.getpid()
            assert stat.comm in ("a) S 1 (b", "sleep") or stat.comm.startswith("python")
        finally:
            child.kill()


def test_a_file_of_proc_that_is_not_ours_or_gone_is_none() -> None:
    assert read_proc_file("/proc/0/stat", 10) is None
    assert read_proc_file("/proc/self/stat", 3) is not None


hypothesis = pytest.importorskip("hypothesis")
st = hypothesis.strategies


@hypothesis.settings(derandomize=True, deadline=None, database=None)
@hypothesis.given(st.binary(max_size=400))
def test_any_bytes_are_a_stat_or_a_value_error(text: bytes) -> None:
    try:
        stat = parse_stat(text)
    except ValueError:
        return
    assert len(stat.state) >= 1


@hypothesis.settings(derandomize=True, deadline=None, database=None)
@hypothesis.given(st.binary(max_size=64), st.lists(st.integers(0, 2**63), min_size=49, max_size=49))
def test_any_name_and_any_numbers_round_trip(comm: bytes, numbers: list[int]) -> None:
    stat = parse_stat(line(comm, [b"R", *(b"%d" % n for n in numbers)]))
    assert stat.state == "R"
    assert (stat.ppid, stat.start_ticks, stat.exit_code) == (numbers[0], numbers[18], numbers[48])


@hypothesis.settings(derandomize=True, deadline=None, database=None)
@hypothesis.given(st.binary(max_size=30), st.integers(0, 400))
def test_a_line_cut_anywhere_is_refused_or_keeps_its_beginning(comm: bytes, at: int) -> None:
    whole = line(comm)
    try:
        stat = parse_stat(whole[:at])
    except ValueError:
        return
    assert stat.start_ticks in (2, 22)  # cut inside a later field at the earliest
