"""The log an agent appends to: a plain file or nothing."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from daemon.agents.logfile import TAIL_BYTES, TAIL_LINES, log_path, log_size, open_log, tail
from daemon.errors import AgentStartError, ErrorCode


def test_the_log_is_made_with_its_folder_and_appended_to(tmp_path: Path) -> None:
    path = log_path(tmp_path / "logs", "a")
    assert path == tmp_path / "logs" / "a" / "agent.log"
    for text in (b"one\n", b"two\n"):
        fd = open_log(path)
        try:
            assert os.get_blocking(fd)
            assert not os.get_inheritable(fd)
            os.write(fd, text)
        finally:
            os.close(fd)
    assert path.read_bytes() == b"one\ntwo\n"
    assert path.stat().st_mode & 0o777 & ~0o640 == 0
    assert path.parent.stat().st_mode & 0o777 & ~0o750 == 0


def symlink(path: Path) -> None:
    (path.parent / "target").write_text("")
    path.symlink_to(path.parent / "target")


def dangling(path: Path) -> None:
    path.symlink_to(path.parent / "nowhere")


def fifo(path: Path) -> None:
    os.mkfifo(path)


def unix_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(path))


@pytest.mark.parametrize("make", [symlink, dangling, fifo, Path.mkdir, unix_socket])
def test_what_is_no_plain_file_is_refused_and_left_alone(
    tmp_path: Path, make: Callable[[Path], None]
) -> None:
    path = tmp_path / "agent.log"
    make(path)
    before = path.lstat()
    with pytest.raises(AgentStartError, match="plain file") as caught:
        open_log(path)
    assert caught.value.code is ErrorCode.AGENT_START
    assert str(path) in caught.value.message
    assert path.lstat().st_ino == before.st_ino
    assert not (tmp_path / "nowhere").exists()


def test_a_fifo_with_a_reader_is_refused_without_waiting_and_without_a_leak(tmp_path: Path) -> None:
    path = tmp_path / "agent.log"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        before = len(os.listdir("/proc/self/fd"))
        with pytest.raises(AgentStartError, match="is not a plain file; remove it"):
            open_log(path)
        assert len(os.listdir("/proc/self/fd")) == before
    finally:
        os.close(reader)


@pytest.mark.parametrize("make", [Path.touch, dangling])
def test_a_folder_that_is_none_is_an_error_with_its_cause(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "a")
    with pytest.raises(AgentStartError, match="cannot be opened: (Not a directory|File exists)"):
        open_log(log_path(tmp_path, "a"))


def test_the_size_of_no_log_is_0(tmp_path: Path) -> None:
    assert log_size(tmp_path / "none") == 0
    (tmp_path / "log").write_bytes(b"12345")
    assert log_size(tmp_path / "log") == 5


def test_the_tail_has_no_secrets_that_can_be_told(tmp_path: Path) -> None:
    path = tmp_path / "agent.log"
    path.write_text(
        "starting --token hush\nhttps://me:hush@h/x\n-----BEGIN PRIVATE KEY-----\nhush\n-----END PRIVATE KEY-----\nready\n"
    )
    shown = ("starting --token <redacted>", "https://<redacted>@h/x", "<redacted>", "ready")
    assert tail(path, path.stat().st_size) == shown


def test_the_tail_is_the_last_lines_before_the_byte_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "log"
    lines = [f"line {n}" for n in range(50)]
    text = "\n".join(lines) + "\n"
    path.write_text(text + "of the successor\n")
    assert tail(path, len(text)) == tuple(lines[-TAIL_LINES:])
    assert tail(path, len(text), 2) == ("line 48", "line 49")
    assert tail(path, 0) == ()
    assert tail(path, len("line 0\nlin")) == ("line 0", "lin")


def test_the_tail_reads_a_bounded_part_and_survives_what_is_not_text(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"\xff\x00bad\n" + b"x" * (2 * TAIL_BYTES))
    (only,) = tail(path, log_size(path))
    assert only == "x" * TAIL_BYTES
    assert tail(path, 6) == ("\ufffd\x00bad",)


def test_no_tail_of_what_is_missing_a_link_a_folder_or_a_fifo(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("x\n")
    (tmp_path / "link").symlink_to(tmp_path / "log")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "fifo")
    for name in ("none", "link", "folder", "fifo"):
        assert tail(tmp_path / name, 10) == ()
