"""Room for an update, looked at before it begins: a disk filled by half an update helps nobody."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from daemon import faults
from daemon.durable.explain import storage_error
from daemon.errors import UpdateDownloadError

FACTOR = 3  # the package, its files unpacked, and a backup or a copy beside the target
INODES_MIN = 1024  # a package of the daemon has some thousand files, on one filesystem with other work
_MIB = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """What a filesystem has left.

    Attributes:
        path: the folder that was asked about, or its nearest parent that exists.
        free_bytes: for users other than root.
        free_inodes: likewise; None where the filesystem counts none (btrfs).
    """

    path: Path
    free_bytes: int
    free_inodes: int | None


def check_space(
    rooms: Iterable[Path], package_bytes: int, factor: int = FACTOR,
    *, measured: Callable[[Path], Room] | None = None,
) -> None:
    """Whether each filesystem below ``rooms`` has ``factor`` times the package free. Blocks: on a lane.

    Args:
        rooms: folders that will hold something of the update; those that do not exist yet count as their
            nearest parent. Several on one filesystem are one.
        package_bytes: of the archive.
        measured: what a filesystem has left; :func:`measure` without it.

    Raises:
        UpdateDownloadError: D4001, there is not enough; ``details`` has path, free_bytes, needed_bytes.
        StorageError: D1004, a filesystem does not answer.
    """
    needed = factor * package_bytes
    seen: set[int] = set()
    for wanted in rooms:
        path = _nearest(wanted)
        try:
            device = path.stat().st_dev
            if device in seen:
                continue
            seen.add(device)
            room = (measured or measure)(path)
        except OSError as error:
            raise storage_error("measure the free space of", path, error) from error
        if room.free_bytes < needed:
            raise UpdateDownloadError(
                f"no room for the update at {wanted}: {_mib(room.free_bytes)} are free, {_mib(needed)} are "
                f"needed ({factor} times the package); free space there and ask again",
                path=str(wanted), free_bytes=room.free_bytes, needed_bytes=needed,
            )
        if room.free_inodes is not None and room.free_inodes < INODES_MIN:
            raise UpdateDownloadError(
                f"no room for the update at {wanted}: its filesystem can hold {room.free_inodes} more files, "
                f"{INODES_MIN} are needed; remove files there and ask again",
                path=str(wanted), free_inodes=room.free_inodes, needed_inodes=INODES_MIN,
            )


def measure(path: Path) -> Room:
    """What is left on the filesystem of ``path`` (statvfs(3)).

    Raises:
        OSError: for the caller to translate.
    """
    faults.hit("space.measure")
    found = os.statvfs(path)
    inodes = found.f_favail if found.f_files else None
    return Room(path=path, free_bytes=found.f_bavail * found.f_frsize, free_inodes=inodes)


def _nearest(path: Path) -> Path:
    """``path``, or its nearest parent that exists."""
    for candidate in (path, *path.parents):
        try:
            candidate.stat()
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            raise storage_error("measure the free space of", path, error) from error
        return candidate
    return Path("/")


def _mib(size: int) -> str:
    return f"{size / _MIB:.1f} MiB"
