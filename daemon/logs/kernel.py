"""The two calls of the kernel that make rotation lossless, and what says that a filesystem has them not."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import struct

FALLOC_FL_COLLAPSE_RANGE = 0x08  # linux/falloc.h; ext4 and xfs since Linux 3.15
FS_IOC_FIEMAP = 0xC020660B  # linux/fs.h
FIEMAP_FLAG_SYNC = 0x1
# Extents whose physical place says nothing: unknown, delayed allocation, encoded, inline, not aligned.
_VAGUE = 0x2 | 0x4 | 0x8 | 0x100 | 0x200
_FIEMAP = struct.Struct("=QQIIII")
_EXTENT = struct.Struct("=QQQQQIIII")
REFUSALS = frozenset({errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.ENOTTY, errno.EPERM})

_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)


class Unsupported(Exception):
    """This filesystem cannot do it: another way must serve."""


def collapse(fd: int, length: int) -> None:
    """Takes the first ``length`` bytes out of a file; appends go on meanwhile and none is lost.

    Args:
        fd: open for writing.
        length: a multiple of the block size, less than the file's size.

    Raises:
        Unsupported: the filesystem refuses (tmpfs; bigalloc; a length that does not fit its blocks).
        OSError: anything else.
    """
    while _libc.fallocate(fd, FALLOC_FL_COLLAPSE_RANGE, 0, length) != 0:
        number = ctypes.get_errno()
        if number == errno.EINTR:
            continue
        if number in REFUSALS:
            raise Unsupported(os.strerror(number))
        raise OSError(number, os.strerror(number))


def first_block(fd: int) -> int:
    """The physical place of the file's first byte; a collapse changes it, an append never does.

    The file is brought to the disk first, for delayed allocation has no place.

    Raises:
        Unsupported: the filesystem does not tell.
        OSError: anything else.
    """
    buffer = bytearray(_FIEMAP.size + _EXTENT.size)
    _FIEMAP.pack_into(buffer, 0, 0, 1, FIEMAP_FLAG_SYNC, 0, 1, 0)
    try:
        fcntl.ioctl(fd, FS_IOC_FIEMAP, buffer)
    except OSError as error:
        if error.errno in REFUSALS:
            raise Unsupported(error.strerror) from error
        raise
    mapped = _FIEMAP.unpack_from(buffer)[3]
    logical, physical, _length, _r1, _r2, flags, *_rest = _EXTENT.unpack_from(buffer, _FIEMAP.size)
    if not mapped or logical != 0 or flags & _VAGUE:
        raise Unsupported("the filesystem does not tell where the file begins")
    return int(physical)


def block_size(fd: int) -> int:
    """The unit of :func:`collapse` (statvfs(3): f_bsize of ext4, xfs and overlayfs is their block)."""
    return max(512, os.fstatvfs(fd).f_bsize)
