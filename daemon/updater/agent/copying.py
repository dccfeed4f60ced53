"""Copies of files whose every byte is hashed on its way, and durable before anything relies on them.

Everything here blocks: on a lane only. No path is followed through a symbolic link at its last part.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from daemon import faults

PIECE_BYTES = 2**20
CAPABILITY = "security.capability"  # capabilities(7); setcap(8) sets it
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_NO_CAPABILITY = frozenset({errno.ENODATA, errno.EOPNOTSUPP})


class WrongContentError(Exception):
    """A file is not what its hash says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rights:
    """Who may do what with a file.

    Attributes:
        mode: permission bits; set-uid, set-gid and sticky bits are never set.
        uid, gid: -1 for the daemon's own.
        capability: the file's capabilities, hex; empty for none.
    """

    mode: int
    uid: int = -1
    gid: int = -1
    capability: str = ""


def open_regular(path: Path) -> int:
    """Opens a regular file for reading; the caller closes it.

    Raises:
        OSError: it cannot be, or is something else.
    """
    fd = os.open(path, _READ)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return fd


def sha256_of(path: Path) -> str:
    """The SHA-256 of a regular file, hex.

    Raises:
        OSError: it cannot be read.
    """
    fd = open_regular(path)
    try:
        digest = hashlib.sha256()
        while piece := os.read(fd, PIECE_BYTES):
            digest.update(piece)
    finally:
        os.close(fd)
    return digest.hexdigest()


def content_of(path: Path) -> str:
    """Likewise; empty where there is nothing, or something that is no regular file."""
    try:
        return sha256_of(path)
    except FileNotFoundError:
        return ""
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EINVAL, errno.EISDIR, errno.ENOTDIR):
            return ""
        raise


def rights_of(path: Path) -> Rights:
    """The rights of a regular file.

    Raises:
        OSError: it cannot be looked at.
    """
    fd = open_regular(path)
    try:
        found = os.fstat(fd)
        try:
            capability = os.getxattr(fd, CAPABILITY).hex()
        except OSError as error:
            if error.errno not in _NO_CAPABILITY:
                raise
            capability = ""
    finally:
        os.close(fd)
    return Rights(
        mode=stat.S_IMODE(found.st_mode), uid=found.st_uid, gid=found.st_gid, capability=capability
    )


def copy(source: Path, to: Path, *, sha256: str, rights: Rights, point: str) -> None:
    """Copies a regular file to a name that is not taken, and on to the platter.

    Args:
        source: the file.
        to: the new one; gone again when anything fails.
        sha256: what its content must be.
        rights: of the new one.
        point: the fault point that is passed before the content is on the platter.

    Raises:
        WrongContentError: the content is not what it should be.
        OSError: for the caller to translate.
    """
    read_fd = open_regular(source)
    try:
        write_fd = os.open(to, _NEW, 0o600)
        try:
            _copy(read_fd, write_fd, sha256, rights, point)
        except BaseException:
            with suppress(OSError):  # the disk is in trouble already; what is left is swept next time
                to.unlink()
            raise
        finally:
            os.close(write_fd)
    finally:
        os.close(read_fd)


def _copy(read_fd: int, write_fd: int, sha256: str, rights: Rights, point: str) -> None:
    digest = hashlib.sha256()
    while piece := os.read(read_fd, PIECE_BYTES):
        digest.update(piece)
        view = memoryview(piece)
        while view:
            view = view[os.write(write_fd, view):]
    faults.hit(point)
    if digest.hexdigest() != sha256:
        raise WrongContentError(f"its SHA-256 is {digest.hexdigest()}, not {sha256}")
    found = os.fstat(write_fd)
    uid = rights.uid if rights.uid != found.st_uid else -1
    gid = rights.gid if rights.gid != found.st_gid else -1
    if (uid, gid) != (-1, -1):
        os.fchown(write_fd, uid, gid)
    os.fchmod(write_fd, rights.mode & 0o777)
    if rights.capability:  # after the owner: chown(2) takes it away
        os.setxattr(write_fd, CAPABILITY, bytes.fromhex(rights.capability))
    os.fsync(write_fd)
