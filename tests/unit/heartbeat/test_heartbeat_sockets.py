"""The kernel's word on a peer, and what may be removed from a socket's path."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from daemon.aio.unix_socket import inode_of, make_room
from daemon.errors import ErrorCode, ListenError
from daemon.heartbeat import peer as peer_module
from daemon.heartbeat.peer import PeerCredentials, SocketPeer, peer_credentials

Pair = tuple[socket.socket, socket.socket]


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.fixture
def pair() -> Iterator[Pair]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def test_credentials_are_those_of_the_process_that_connected(pair: Pair) -> None:
    expected = PeerCredentials(pid=os.getpid(), uid=os.getuid(), gid=os.getgid())
    assert peer_credentials(pair[0]) == expected
    assert SocketPeer(pair[0]).holds_pid()


def test_what_is_no_unix_socket_has_no_peer() -> None:
    with socket.socket(socket.AF_INET) as other:
        assert peer_credentials(other).pid == 0
        assert not SocketPeer(other).holds_pid()
        other.close()
        with pytest.raises(OSError):
            peer_credentials(other)


@pytest.mark.parametrize("option", [peer_module.SO_PEERPIDFD, 9999], ids=["pidfd", "start time"])
def test_a_peer_holds_its_pid_until_it_is_reaped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, option: int
) -> None:
    monkeypatch.setattr(peer_module, "SO_PEERPIDFD", option)  # 9999: a kernel that does not know it
    path = str(tmp_path / "s")
    program = f"import socket; s=socket.socket(socket.AF_UNIX); s.connect({path!r}); s.recv(1)"
    with socket.socket(socket.AF_UNIX) as port:
        port.bind(path)
        port.listen()
        port.settimeout(10)
        child = subprocess.Popen(["python3", "-c", program])
        try:
            connection, _ = port.accept()
            with connection:
                peer = SocketPeer(connection)
                assert peer.credentials.pid == child.pid
                assert peer.holds_pid()
                os.kill(child.pid, signal.SIGKILL)
                os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
                assert peer.holds_pid()  # a zombie: nobody else can have the pid
                child.wait()
                assert not peer.holds_pid()
        finally:
            child.kill()
            child.wait()


def test_asking_leaves_no_descriptor_open(pair: Pair) -> None:
    peer = SocketPeer(pair[0])
    before = descriptors()
    for _ in range(50):
        peer.holds_pid()
    assert descriptors() == before


def fault(path: Path | str) -> str:
    with pytest.raises(ListenError) as caught:
        make_room(str(path))
    assert caught.value.code is ErrorCode.LISTEN
    assert caught.value.details["path"] == str(path)
    return caught.value.message


def bound(path: Path, kind: int = socket.SOCK_STREAM) -> socket.socket:
    port = socket.socket(socket.AF_UNIX, kind)
    port.bind(str(path))
    return port


def test_a_free_path_stays_as_it_is(tmp_path: Path) -> None:
    make_room(str(tmp_path / "s"))
    assert list(tmp_path.iterdir()) == []


def test_a_stale_socket_is_removed(tmp_path: Path) -> None:
    bound(tmp_path / "s").close()
    make_room(str(tmp_path / "s"))
    assert not (tmp_path / "s").exists()


def test_a_socket_that_somebody_listens_on_stays(tmp_path: Path) -> None:
    with bound(tmp_path / "s") as port:
        port.listen(0)
        assert "another daemon listens" in fault(tmp_path / "s")
        assert (tmp_path / "s").is_socket()
        # Its backlog is full now: a busy daemon is a living one, and nobody waits for it.
        with socket.socket(socket.AF_UNIX) as waiting:
            waiting.setblocking(False)
            waiting.connect_ex(str(tmp_path / "s"))
            assert "another daemon listens" in fault(tmp_path / "s")


def test_a_socket_of_another_kind_stays(tmp_path: Path) -> None:
    with bound(tmp_path / "s", socket.SOCK_DGRAM):
        fault(tmp_path / "s")
    assert (tmp_path / "s").is_socket()


def test_what_is_no_socket_stays(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("precious")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    (tmp_path / "folder").mkdir()
    for name in ("file", "link", "folder"):
        assert "not a socket" in fault(tmp_path / name)
    assert (tmp_path / "file").read_text() == "precious"
    assert (tmp_path / "link").is_symlink()


def test_a_path_no_socket_can_have_is_refused(tmp_path: Path) -> None:
    long = "/" + "x" * 103
    assert "under 104" in fault(long)
    assert "under 104" in fault("/" + "\u00fc" * 52)
    assert "does not exist" in fault("/" + "x" * 51 + "/" + "x" * 50)
    assert "does not exist" in fault(tmp_path / "missing" / "s")
    (tmp_path / "file").touch()
    assert "cannot be looked at" in fault(tmp_path / "file" / "s")
    for path in ("", "a\0b"):
        assert "no path" in fault(path)


def test_inode_tells_files_apart(tmp_path: Path) -> None:
    bound(tmp_path / "a").close()
    bound(tmp_path / "b").close()
    assert inode_of(str(tmp_path / "a")) not in (None, inode_of(str(tmp_path / "b")))
    assert inode_of(str(tmp_path / "c")) is None
