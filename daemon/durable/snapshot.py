"""A folder's files as they were before an update of the daemon: ``state/before-{update id}/``, beside the
folder.

A version that finds files of a newer one in the folder takes from here what it cannot read there.
Copies, not hard links: nobody knows how the newer version writes.
"""

from __future__ import annotations

import shutil
from contextlib import suppress
from pathlib import Path

from daemon.durable.atomic import fsync_directory
from daemon.durable.explain import storage_error

PREFIX = "before-"


def take(folder: Path, update_id: str) -> Path:
    """Keeps what ``folder/*.json`` holds now, in the place of what was kept before. Blocks.

    Returns:
        where it is.

    Raises:
        StorageError: there is no new copy.
    """
    target = folder.parent / f"{PREFIX}{update_id}"
    made = target.with_name(f".{target.name}.tmp")
    try:
        shutil.rmtree(made, ignore_errors=True)
        made.mkdir(mode=0o700)
        for path in folder.glob("*.json"):
            with suppress(FileNotFoundError):  # its agent was forgotten just now
                shutil.copyfile(path, made / path.name, follow_symlinks=False)
        fsync_directory(made)
        for older in folder.parent.glob(f"{PREFIX}*"):
            shutil.rmtree(older)
        made.rename(target)
        fsync_directory(target.parent)
    except OSError as error:
        raise storage_error("keep a copy of the state in", target, error) from error
    return target


def kept(folder: Path, name: str) -> Path | None:
    """The newest copy of one file of the folder; None when none is kept."""
    found: list[tuple[float, Path]] = []
    for path in folder.parent.glob(f"{PREFIX}*/{name}"):
        with suppress(OSError):
            found.append((path.parent.stat().st_mtime, path))
    return max(found)[1] if found else None


def remove_all(folder: Path) -> None:
    """Nothing is kept any more: the versions agree on what the files say. Blocks."""
    for pattern in (f"{PREFIX}*", f".{PREFIX}*.tmp"):
        for path in folder.parent.glob(pattern):
            shutil.rmtree(path, ignore_errors=True)
