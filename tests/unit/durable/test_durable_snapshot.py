"""The copy of a folder before an update: cheap, whole, one at a time."""

from __future__ import annotations

from pathlib import Path

import pytest

from daemon.durable import snapshot
from daemon.durable.atomic import write_atomic
from daemon.errors import StorageError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "agents"
    made.mkdir()
    write_atomic(made / "a.json", b"old a")
    write_atomic(made / "b.json", b"old b")
    (made / "a.json.corrupt").write_bytes(b"x")
    return made


def test_what_is_replaced_afterwards_is_kept_as_it_was(folder: Path) -> None:
    kept = snapshot.take(folder, "u1")
    write_atomic(folder / "a.json", b"new a")
    (folder / "b.json").unlink()
    assert sorted(path.name for path in kept.iterdir()) == ["a.json", "b.json"]
    found = snapshot.kept(folder, "a.json"), snapshot.kept(folder, "b.json")
    assert [path.read_bytes() for path in found if path] == [b"old a", b"old b"]
    assert snapshot.kept(folder, "c.json") is None
    assert kept.stat().st_mode & 0o777 == 0o700


def test_what_is_written_in_place_afterwards_does_not_reach_the_copy(folder: Path) -> None:
    kept = snapshot.take(folder, "u1")
    (folder / "a.json").write_bytes(b"new a")
    assert (kept / "a.json").read_bytes() == b"old a"


def test_one_is_kept_and_none_is_left_in_the_end(folder: Path) -> None:
    snapshot.take(folder, "u1")
    write_atomic(folder / "a.json", b"new a")
    snapshot.take(folder, "u2")
    snapshot.take(folder, "u2")
    (folder.parent / ".before-u3.tmp").mkdir()
    assert [path.name for path in folder.parent.glob("before-*")] == ["before-u2"]
    kept = snapshot.kept(folder, "a.json")
    assert kept is not None and kept.read_bytes() == b"new a"
    snapshot.remove_all(folder)
    assert [path.name for path in folder.parent.iterdir()] == ["agents"]


def test_a_folder_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match="before-u1"):
        snapshot.take(tmp_path / "file" / "agents", "u1")
