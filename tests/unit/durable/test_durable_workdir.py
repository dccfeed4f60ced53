"""The layout of work_dir and what is kept at its top."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from daemon.durable.workdir import WorkDir, kept_secret
from daemon.errors import StorageError

AS_ROOT = os.geteuid() == 0


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_folders_have_their_modes_whatever_the_umask(tmp_path: Path) -> None:
    paths = WorkDir(tmp_path / "deep" / "w")
    old = os.umask(0o077)
    try:
        paths.make()
    finally:
        os.umask(old)
    assert [mode(p) for p in (paths.root, paths.run, paths.agents, paths.logs, paths.state, paths.metadata)] == [
        0o711, 0o711, 0o755, 0o750, 0o700, 0o700,
    ]
    paths.make()  # a second start finds everything


def test_a_folder_may_be_our_own_link_to_another_disk(tmp_path: Path) -> None:
    paths = WorkDir(tmp_path / "w")
    paths.make()
    paths.logs.rmdir()
    (tmp_path / "disk").mkdir()
    paths.logs.symlink_to(tmp_path / "disk")
    paths.make()
    assert mode(tmp_path / "disk") == 0o750


def test_a_file_in_the_place_of_a_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "w").write_text("in the way")
    with pytest.raises(StorageError, match="cannot be made"):
        WorkDir(tmp_path / "w").make()


@pytest.mark.parametrize("name", ["", "state", "run", "logs"])
def test_what_belongs_to_somebody_else_is_refused(tmp_path: Path, name: str) -> None:
    if not AS_ROOT:  # only root can give a folder away; everybody else cannot even set its mode
        return
    paths = WorkDir(tmp_path / "w")
    paths.make()
    os.chown(paths.root / name, 65534, -1)
    with pytest.raises(StorageError, match="belongs to user 65534"):
        paths.make()


def test_a_link_that_somebody_else_made_is_refused_and_its_target_untouched(tmp_path: Path) -> None:
    if not AS_ROOT:
        return
    paths = WorkDir(tmp_path / "w")
    paths.make()
    victim = tmp_path / "victim"
    victim.mkdir(mode=0o755)
    paths.agents.rmdir()
    paths.agents.symlink_to(victim)
    os.chown(paths.agents, 65534, -1, follow_symlinks=False)
    victim.chmod(0o700)
    with pytest.raises(StorageError, match="belongs to user 65534"):
        paths.make()
    assert mode(victim) == 0o700


def test_a_secret_is_made_once_and_kept_for_us_alone(tmp_path: Path) -> None:
    path = tmp_path / "api.token"
    made = kept_secret(path)
    assert len(made) == 64
    assert kept_secret(path) == made
    assert mode(path) == 0o600


@pytest.mark.parametrize("content", [b"", b"short\n", b"\xff" * 64])
def test_a_secret_that_is_none_is_made_anew_or_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "api.token"
    path.write_bytes(content)
    if content.startswith(b"\xff"):
        with pytest.raises(StorageError, match="remove it"):
            kept_secret(path)
    else:
        assert len(kept_secret(path)) == 64
