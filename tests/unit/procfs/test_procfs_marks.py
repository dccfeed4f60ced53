"""Marks in environments: found, last one wins, and painted environments say nothing."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from daemon.procfs import marks
from daemon.procfs.marks import Mark, parse_mark, read_environ, read_mark, wiped, writes_to


def environ(*entries: str) -> bytes:
    """As in /proc/PID/environ."""
    return b"".join(entry.encode() + b"\0" for entry in entries)


@pytest.mark.parametrize(
    ("text", "mark"),
    [
        (environ("PATH=/bin", "HOSTDAEMON_MARK=t", "HOSTDAEMON_RUN=r"), Mark("t", "r")),
        (environ("HOSTDAEMON_RUN=r", "HOSTDAEMON_MARK=t"), Mark("t", "r")),
        (environ("HOSTDAEMON_MARK=t"), Mark("t", "")),
        (environ("HOSTDAEMON_MARK=old", "HOSTDAEMON_MARK=new"), Mark("new", "")),
        (environ("HOSTDAEMON_MARK=t", "HOSTDAEMON_RUN=1", "HOSTDAEMON_RUN=2"), Mark("t", "2")),
        (environ("HOSTDAEMON_MARK="), None),
        (environ("HOSTDAEMON_MARK=t", "HOSTDAEMON_MARK="), None),
        (environ("HOSTDAEMON_RUN=r"), None),
        (environ("XHOSTDAEMON_MARK=t"), None),
        (environ("NOTE=HOSTDAEMON_MARK=t"), None),
        (environ("HOSTDAEMON_MARKER=t"), None),
        (b"HOSTDAEMON_MARK=cut off", Mark("cut off", "")),
        (b"HOSTDAEMON_MARK=a=b\0", Mark("a=b", "")),
        (b"HOSTDAEMON_MARK=\xff\0", Mark("\N{REPLACEMENT CHARACTER}", "")),
        (b"", None),
        (b"\0\0\0", None),
        (b"nginx: worker process\0\0", None),
    ],
)
def test_the_mark_of_an_environment(text: bytes, mark: Mark | None) -> None:
    assert parse_mark(text) == mark


@pytest.mark.parametrize(
    ("text", "painted"),
    [(b"", True), (b"\0" * 50, True), (b"redis-server *:6379", True), (b"A=b\0", False), (b"title\0A=b\0", False)],
)
def test_an_environment_without_any_variable_was_painted_over(text: bytes, painted: bool) -> None:
    assert wiped(text) is painted


def test_the_mark_of_a_real_process_and_of_its_child() -> None:
    env = {marks.MARK: "token", marks.RUN: "run", "PATH": "/usr/bin:/bin"}
    script = "sleep 60 & sleep 0.2; echo $!; wait"  # while it executes sleep it shows no environment
    with subprocess.Popen(["/bin/sh", "-c", script], env=env, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        try:
            assert read_mark(parent.pid) == read_mark(child) == Mark("token", "run")
        finally:
            os.kill(child, 9)
            parent.kill()
    assert read_mark(parent.pid) is None
    assert read_environ(parent.pid) is None


def test_who_writes_to_a_file_is_told_by_both_streams(tmp_path: Path) -> None:
    log = tmp_path / "agent.log"
    with log.open("ab") as stream:
        found = os.fstat(stream.fileno())
        children = [
            subprocess.Popen(["/bin/sleep", "60"], stdout=out, stderr=err)
            for out, err in ((stream, stream), (stream, subprocess.DEVNULL), (subprocess.DEVNULL, stream))
        ]
    try:
        assert [writes_to(c.pid, found.st_dev, found.st_ino) for c in children] == [True, False, False]
        assert not writes_to(children[0].pid, found.st_dev, found.st_ino + 1)
        assert not writes_to(2**31 - 1, found.st_dev, found.st_ino)
    finally:
        for child in children:
            child.kill()
            child.wait()
