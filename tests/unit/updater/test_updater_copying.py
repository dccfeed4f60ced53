"""Copies that are hashed on their way."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from pathlib import Path

import pytest

from daemon import faults
from daemon.updater.agent.copying import (
    CAPABILITY,
    PIECE_BYTES,
    Rights,
    WrongContentError,
    content_of,
    copy,
    rights_of,
    sha256_of,
)

NET_RAW = "0100000200200000000000000000000000000000"  # cap_net_raw=ep, as setcap writes it
CONTENT = os.urandom(PIECE_BYTES) + b"and a bit more"
DIGEST = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source"
    path.write_bytes(CONTENT)
    return path


def test_content_mode_and_hash_arrive(source: Path, tmp_path: Path) -> None:
    to = tmp_path / "to"
    copy(source, to, sha256=DIGEST, rights=Rights(mode=0o751), point="none")
    assert to.read_bytes() == CONTENT
    assert (sha256_of(to), rights_of(to).mode) == (DIGEST, 0o751)


def test_set_uid_set_gid_and_sticky_bits_are_never_set(source: Path, tmp_path: Path) -> None:
    copy(source, tmp_path / "to", sha256=DIGEST, rights=Rights(mode=0o7755), point="none")
    assert stat.S_IMODE((tmp_path / "to").stat().st_mode) == 0o755


@pytest.mark.skipif(os.geteuid() != 0, reason="owners and capabilities are root's to give")
def test_owner_and_capabilities_arrive(source: Path, tmp_path: Path) -> None:
    os.setxattr(source, CAPABILITY, bytes.fromhex(NET_RAW))
    rights = Rights(mode=0o750, uid=12345, gid=54321, capability=rights_of(source).capability)
    assert rights.capability == NET_RAW
    copy(source, tmp_path / "to", sha256=DIGEST, rights=rights, point="none")
    assert rights_of(tmp_path / "to") == rights


def test_other_content_leaves_nothing(source: Path, tmp_path: Path) -> None:
    with pytest.raises(WrongContentError, match=DIGEST):
        copy(source, tmp_path / "to", sha256="0" * 64, rights=Rights(mode=0o755), point="none")
    assert os.listdir(tmp_path) == ["source"]


def test_a_full_disk_leaves_nothing(source: Path, tmp_path: Path) -> None:
    faults.arm({faults.VARIABLE: "copied:1:enospc"})
    try:
        with pytest.raises(OSError) as caught:
            copy(source, tmp_path / "to", sha256=DIGEST, rights=Rights(mode=0o755), point="copied")
    finally:
        faults.arm({})
    assert caught.value.errno == errno.ENOSPC
    assert os.listdir(tmp_path) == ["source"]


def test_links_and_names_that_are_taken_are_refused(source: Path, tmp_path: Path) -> None:
    link, taken = tmp_path / "link", tmp_path / "taken"
    link.symlink_to(source)
    taken.write_bytes(b"mine")
    for origin, to in ((link, tmp_path / "to"), (source, taken), (source, link), (tmp_path, tmp_path / "to")):
        with pytest.raises(OSError):
            copy(origin, to, sha256=DIGEST, rights=Rights(mode=0o755), point="none")
    assert (taken.read_bytes(), source.read_bytes()) == (b"mine", CONTENT)
    assert sorted(os.listdir(tmp_path)) == ["link", "source", "taken"]


def test_a_pipe_is_no_content_and_hangs_nobody(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert content_of(tmp_path / "pipe") == ""
    assert content_of(tmp_path / "nothing") == ""
    assert content_of(tmp_path) == ""
