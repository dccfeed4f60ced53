"""Room for a Unix socket: only a stale socket is removed."""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from daemon.aio.unix_socket import PATH_MAX_BYTES, inode_of, make_room
from daemon.errors import ErrorCode, ListenError


@pytest.fixture
def room() -> Iterator[Path]:
    """A directory with a short name."""
    path = Path(tempfile.mkdtemp(prefix="us-", dir="/tmp"))
    yield path
    shutil.rmtree(path)


def refused(path: str) -> str:
    """The refusal's message."""
    with pytest.raises(ListenError) as caught:
        make_room(path)
    assert caught.value.code is ErrorCode.LISTEN
    assert caught.value.details["path"] == path
    return caught.value.message


def stale(path: Path, kind: int = socket.SOCK_STREAM) -> None:
    """A socket nobody listens on any more."""
    with socket.socket(socket.AF_UNIX, kind) as old:
        old.bind(str(path))


def test_an_empty_place_is_free(room: Path) -> None:
    make_room(str(room / "s"))
    assert list(room.iterdir()) == []


def test_a_stale_socket_is_removed(room: Path) -> None:
    stale(room / "s")
    make_room(str(room / "s"))
    assert not (room / "s").exists()


def test_a_stale_datagram_socket_is_removed_or_refused_but_never_taken_silently(room: Path) -> None:
    stale(room / "s", socket.SOCK_DGRAM)
    try:
        make_room(str(room / "s"))
    except ListenError:
        assert (room / "s").exists()
    else:
        assert not (room / "s").exists()


def test_a_socket_with_a_listener_stays(room: Path) -> None:
    path = room / "s"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(1)
        assert "another daemon listens" in refused(str(path))
        assert path.is_socket()


def test_a_listener_with_a_full_backlog_is_still_a_listener(room: Path) -> None:
    path = room / "s"
    clients = []
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(0)
        for _ in range(4):
            client = socket.socket(socket.AF_UNIX)
            client.setblocking(False)
            client.connect_ex(str(path))
            clients.append(client)
        assert "another daemon listens" in refused(str(path))
    for client in clients:
        client.close()


@pytest.mark.parametrize("kind", ["file", "directory", "fifo", "link to a socket", "dangling link"])
def test_what_is_no_socket_is_left_alone(room: Path, kind: str) -> None:
    path = room / "s"
    if kind == "file":
        path.write_text("mine")
    elif kind == "directory":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    else:
        if kind == "link to a socket":
            stale(room / "target")
        path.symlink_to(room / "target")
    assert "is not a socket" in refused(str(path))
    assert path.is_symlink() or path.exists()


def test_a_missing_directory_is_named(room: Path) -> None:
    assert "directory of the socket" in refused(str(room / "none" / "s"))


def test_a_file_in_place_of_a_directory_is_explained(room: Path) -> None:
    (room / "f").write_text("")
    assert "cannot be looked at" in refused(str(room / "f" / "s"))


@pytest.mark.parametrize("path", ["", "\0abstract", "/tmp/a\0b"])
def test_no_path_is_no_path(path: str) -> None:
    assert "is no path" in refused(path)


def test_the_length_counts_in_bytes(room: Path) -> None:
    stem = str(room) + "/"
    fits = stem + "s" * (PATH_MAX_BYTES - 1 - len(stem))
    make_room(fits)
    assert "104" in refused(fits + "s")
    assert "bytes" in refused(stem + "\N{SNOWMAN}" * 40)


def test_which_file_is_there(room: Path) -> None:
    path = room / "s"
    assert inode_of(str(path)) is None
    stale(path)
    found = path.lstat()
    assert inode_of(str(path)) == (found.st_dev, found.st_ino)
