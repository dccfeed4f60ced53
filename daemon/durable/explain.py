"""Turns an ``OSError`` of the disk into a :class:`StorageError` that says what to do next."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from daemon.errors import StorageError

_NEXT_STEPS = {
    errno.ENOSPC: "free space or inodes on its filesystem",
    errno.EDQUOT: "raise the quota of the daemon's user or free space",
    errno.EFBIG: "raise the file size limit of the daemon (LimitFSIZE=)",
    errno.EACCES: "let the daemon's user write there, or choose another work_dir",
    errno.EPERM: "let the daemon's user write there, or choose another work_dir",
    errno.EROFS: "mount that filesystem for writing, or choose another work_dir",
    errno.EIO: "check that disk (the kernel's log says more)",
    errno.ELOOP: "remove the symbolic link there",
    errno.ENOTDIR: "a part of that path is not a directory; move it away or choose another work_dir",
    errno.EISDIR: "a directory is in the way; move it away",
    errno.ENOENT: "create its directory, or choose another work_dir",
    errno.ENAMETOOLONG: "choose a shorter path",
    errno.EMFILE: "raise the daemon's limit of open files (LimitNOFILE=)",
    errno.ENFILE: "raise the host's limit of open files (fs.file-max)",
    errno.ENOLCK: "choose a work_dir on a local filesystem",
    errno.EOPNOTSUPP: "choose a work_dir on a local filesystem",
}
_OTHERWISE = "check that path and its filesystem"

DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
"""The errors that go away by themselves when somebody makes room."""


def storage_error(action: str, path: Path, error: OSError) -> StorageError:
    """The error to raise ``from error``.

    Args:
        action: what was attempted, as in ``cannot {action} {path}``.
        path: what it was attempted on.
        error: what the kernel answered.

    Returns:
        D1004 with ``details["errno"]`` (0 when unknown) and ``details["path"]``.
    """
    number = error.errno or 0
    cause = os.strerror(number) if number else str(error)
    step = _NEXT_STEPS.get(number, _OTHERWISE)
    return StorageError(f"cannot {action} {path}: {cause}; {step}", errno=number, path=str(path))
