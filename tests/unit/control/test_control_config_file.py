"""Looks at the file: what leads to it, what it says, who still writes it; and the copy of the last good one."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from daemon import faults
from daemon.config.source import MAX_FILE_BYTES
from daemon.control.config_file import keep_copy, look_at, places_of
from daemon.errors import StorageError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path.resolve()


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def test_a_plain_path_depends_on_its_name_and_on_the_directories_above(root: Path) -> None:
    (root / "real").mkdir()
    (root / "real" / "c.yaml").write_text("x")
    places = places_of(root / "real" / "c.yaml")
    assert places.names == {root / "real": {"c.yaml"}}
    assert places.above == set(root.parents) - {Path("/")} | {root}


def test_every_link_on_the_way_counts(root: Path) -> None:
    (root / "real").mkdir()
    (root / "real" / "c.yaml").write_text("x")
    (root / "link").symlink_to("real")
    (root / "abs").symlink_to(root / "link" / "c.yaml")
    (root / "up").symlink_to("real/../abs")
    places = places_of(root / "up")
    assert places.names == {root: {"up", "abs", "link"}, root / "real": {"c.yaml"}}
    assert root not in places.above


def test_a_chain_that_is_broken_or_endless_is_followed_as_far_as_it_goes(root: Path) -> None:
    (root / "loop").symlink_to("loop")
    assert places_of(root / "loop").names == {root: {"loop"}}
    assert places_of(root / "nowhere" / "deep" / "c.yaml").names == {root: {"nowhere"}}
    (root / "dangling").symlink_to("gone/c.yaml")
    assert places_of(root / "dangling").names == {root: {"dangling", "gone"}}
    (root / "file").write_text("x")
    assert places_of(root / "file" / "c.yaml").names == {root: {"file"}}


def test_a_look_tells_the_text(root: Path) -> None:
    path = root / "c.yaml"
    path.write_text("daemon: {}\n")
    sight = look_at(path)
    assert (sight.digest, sight.error, sight.missing, sight.busy) == (digest("daemon: {}\n"), "", False, False)


@pytest.mark.parametrize("at", ["gone", "gone/deep", "file/deep"])
def test_a_missing_file_is_no_error_of_the_file(root: Path, at: str) -> None:
    (root / "file").write_text("x")
    sight = look_at(root / at)
    assert (sight.missing, sight.digest) == (True, "")


def test_what_is_no_regular_file_is_told_and_never_waited_for(root: Path) -> None:
    os.mkfifo(root / "fifo")
    (root / "loop").symlink_to("loop")
    for name in ("fifo", "loop", "."):
        sight = look_at(root / name)
        assert sight.error, name
        assert not sight.missing
    assert "regular file" in look_at(Path("/dev/zero")).error


def test_a_file_beyond_the_bound_is_read_as_far_as_is_needed_to_refuse_it(root: Path) -> None:
    path = root / "c.yaml"
    with path.open("wb") as file:
        file.truncate(MAX_FILE_BYTES * 1000)
    assert look_at(path).digest == hashlib.sha256(bytes(MAX_FILE_BYTES + 1)).hexdigest()


def test_an_open_writer_is_noticed_and_only_as_long_as_it_is_there(root: Path) -> None:
    path = root / "c.yaml"
    path.write_text("x")
    with path.open("a"):
        if not look_at(path).busy:
            pytest.skip("no leases here")
        assert look_at(path).digest == ""
    assert look_at(path).digest == digest("x")
    with path.open(), path.open("a") as file:  # readers are no writers, and a look leaves nothing in the way
        file.write("y")
    assert look_at(path).digest == digest("xy")


def test_the_copy_is_private_and_of_the_text_that_was_good(root: Path) -> None:
    path, keep = root / "c.yaml", root / "keep"
    path.write_text("x")
    assert keep_copy(path, digest("x"), keep)
    assert (keep.read_text(), keep.stat().st_mode & 0o777) == ("x", 0o600)
    path.write_text("newer")
    assert not keep_copy(path, digest("x"), keep)
    assert keep.read_text() == "x"


@pytest.mark.parametrize("point", ["atomic.write", "atomic.fsync", "atomic.rename"])
def test_a_disk_that_refuses_leaves_the_older_copy(root: Path, point: str) -> None:
    path, keep = root / "c.yaml", root / "keep"
    path.write_text("x")
    keep_copy(path, digest("x"), keep)
    path.write_text("y")
    faults.arm({"HOSTDAEMON_FAULT": f"{point}:1:enospc"})
    try:
        with pytest.raises(StorageError):
            keep_copy(path, digest("y"), keep)
    finally:
        faults.arm({})
    assert keep.read_text() == "x"
    assert sorted(p.name for p in root.iterdir()) == ["c.yaml", "keep"]
