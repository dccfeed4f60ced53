"""Which mounts hold data on a disk, and what the disks have read and written.

Sources: ``/proc/self/mountinfo`` (proc(5): the mounts of our own mount namespace, which in a container
are the container's) and ``/proc/diskstats`` (the kernel's iostats documentation).
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from daemon.errors import CollectError

SECTOR_BYTES = 512  # the unit of diskstats, whatever the disk's own sector is
_ESCAPE = re.compile(rb"\\([0-3][0-7]{2})")

# File systems without a block device of their own number (major 0) that store data all the same.
LOCAL_TYPES = frozenset({"btrfs", "bcachefs", "zfs", "ubifs", "vboxsf", "virtiofs", "9p", "fuse.mergerfs"})
# Those whose server may be dead, so that a question about them may never be answered.
REMOTE_TYPES = frozenset(
    {
        "nfs", "nfs4", "cifs", "smb3", "smbfs", "ceph", "glusterfs", "lustre", "gpfs", "beegfs", "afs",
        "fuse.sshfs", "fuse.glusterfs", "fuse.ceph-fuse", "fuse.s3fs", "fuse.juicefs", "fuse.rclone",
        "fuse.davfs2", "fuse.moosefs",
    }
)  # fmt: skip
# Read-only images: always full, so their use says nothing.
IMAGE_TYPES = frozenset({"squashfs", "erofs", "cramfs", "romfs", "iso9660", "udf"})
# Block devices that are no disk of their own, by name.
_NO_DISK = re.compile(r"(?:z?ram|loop|fd)\d+|(?:[hsv]|xv)d[a-z]+\d+|(?:nvme\d+n\d+|mmcblk\d+)p\d+")
# One device, many subtrees with numbers of their own: the device's name tells them together.
_SHARED_DEVICE_TYPES = frozenset({"btrfs", "bcachefs"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Mount:
    """One line of mountinfo.

    Attributes:
        device_id: ``major:minor`` of the file system; the same for all its bind mounts.
        path: the mount point as the kernel knows it, for system calls.
        mountpoint: the same as text, for people; bytes that are not UTF-8 are shown as ``\\xNN``.
        fstype: the file system's type.
        source: the device or the remote share.
    """

    device_id: str
    path: bytes
    mountpoint: str
    fstype: str
    source: str

    @property
    def remote(self) -> bool:
        """Whether a question about it may hang on a server."""
        return self.fstype in REMOTE_TYPES

    @property
    def device_key(self) -> str:
        """What two mounts of one device share."""
        return self.source if self.fstype in _SHARED_DEVICE_TYPES else self.device_id


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskIo:
    """What a block device did since it appeared: bytes, completed requests, seconds.

    Attributes:
        read_seconds, write_seconds: the sum over all requests, which may run side by side.
        io_seconds: time in which at least one request was under way.
    """

    name: str
    read_bytes: int
    write_bytes: int
    reads: int = 0
    writes: int = 0
    read_seconds: float = 0.0
    write_seconds: float = 0.0
    io_seconds: float = 0.0


def _unescape(text: bytes) -> bytes:
    """Blanks, tabs, newlines and backslashes are written as octal escapes."""
    if b"\\" not in text:
        return text
    return _ESCAPE.sub(lambda match: bytes([int(match[1], 8)]), text)


def _shown(text: bytes) -> str:
    return text.decode("utf-8", "backslashreplace")


def parse_mountinfo(data: bytes) -> list[Mount]:
    """The mounts one can reach: where several lie on one mount point, the last one hides the others.

    Lines that are not as proc(5) says are passed over.
    """
    found: dict[bytes, Mount] = {}
    for line in data.split(b"\n"):
        # Split at single blanks: the source may be empty.
        head, dash, tail = line.partition(b" - ")
        fields, rest = head.split(b" "), tail.split(b" ")
        if not dash or len(fields) < 6 or len(rest) < 2:
            continue
        path = _unescape(fields[4])
        found[path] = Mount(
            device_id=fields[2].decode("ascii", "replace"),
            path=path,
            mountpoint=_shown(path),
            fstype=_shown(rest[0]),
            source=_shown(_unescape(rest[1])),
        )
    return list(found.values())


def holds_data(mount: Mount) -> bool:
    """Whether a mount is a disk rather than memory, an image or a view of the kernel.

    The root counts whatever it is: in a container it is an overlay.
    """
    if mount.fstype in IMAGE_TYPES:
        return False
    if not mount.device_id.startswith("0:"):
        return True
    if mount.fstype in LOCAL_TYPES or mount.fstype in REMOTE_TYPES:
        return True
    return mount.path == b"/" and mount.fstype not in ("rootfs", "tmpfs", "ramfs")


def select_mounts(mounts: Iterable[Mount], wanted: Collection[str]) -> list[Mount]:
    """The mounts to report.

    Args:
        mounts: all of them.
        wanted: mount points by name, of any type; empty means all that hold data. A name where nothing
            is mounted selects nothing: measuring it would measure the file system below.
    """
    if not wanted:
        return [mount for mount in mounts if holds_data(mount)]
    paths = {os.fsencode(name.rstrip("/") or "/") for name in wanted}
    return [mount for mount in mounts if mount.path in paths]


def parse_diskstats(data: bytes) -> dict[str, DiskIo]:
    """``major:minor`` to what that block device transferred; short (ancient) lines are passed over.

    Raises:
        CollectError: a number cannot be read.
    """
    found: dict[str, DiskIo] = {}
    try:
        for line in data.decode("ascii", "replace").splitlines():
            fields = line.split(None, 13)
            if len(fields) > 10:
                found[f"{fields[0]}:{fields[1]}"] = DiskIo(
                    name=fields[2],
                    read_bytes=int(fields[5]) * SECTOR_BYTES,
                    write_bytes=int(fields[9]) * SECTOR_BYTES,
                    reads=int(fields[3]),
                    writes=int(fields[7]),
                    read_seconds=int(fields[6]) / 1000,
                    write_seconds=int(fields[10]) / 1000,
                    io_seconds=int(fields[12]) / 1000 if len(fields) > 12 else 0.0,
                )
    except ValueError as error:
        raise CollectError(f"/proc/diskstats: a line cannot be read: {error}") from error
    return found


def whole_devices(disks: Iterable[DiskIo]) -> tuple[DiskIo, ...]:
    """The devices that count as disks and have done something: no partitions, RAM disks, loops, floppies.

    What a partition did is part of its disk's numbers, so that a sum over these counts nothing twice, but
    for stacked devices (``dm-0``, ``md0``), which are told beside what they lie on.
    """
    used = (disk for disk in disks if disk.reads or disk.writes)
    return tuple(disk for disk in used if _NO_DISK.fullmatch(disk.name) is None)


def io_of(mount: Mount, disks: Mapping[str, DiskIo]) -> DiskIo | None:
    """The transfers of the device under a mount; None where there is no block device of ours."""
    known = disks.get(mount.device_id)
    if known is None and mount.device_id.startswith("0:") and mount.source.startswith("/dev/"):
        name = os.path.basename(os.path.realpath(mount.source))  # noqa: PTH119 - a device's name
        return next((disk for disk in disks.values() if disk.name == name), None)
    return known
