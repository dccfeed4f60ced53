"""The disk collector: space and transfers of each mounted disk (``statvfs(3)``, ``/proc/diskstats``).

``statvfs`` on a dead server hangs, so nothing here runs on the reactor's thread, and remote file systems
are asked on a thread of their own: a dead one costs its own row, not the local disks'.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from twisted.logger import Logger

from daemon.aio.threads import LaneBusy, LaneTimeout, Threads
from daemon.collectors.base import PROC, lane_of, percent, read_proc
from daemon.collectors.mounts import (
    DiskIo,
    Mount,
    io_of,
    parse_diskstats,
    parse_mountinfo,
    select_mounts,
    whole_devices,
)
from daemon.errors import CollectError
from daemon.interfaces import WallClock
from daemon.model.metrics import Metrics

log = Logger()

NAME = "disk"
MAX_DEVICES = 256
MAX_MOUNTS = 512  # a host of containers may have thousands of bind mounts
DEVICE_VALUES = (
    "read_bytes", "write_bytes", "reads", "writes", "read_seconds", "write_seconds", "io_seconds",
)  # fmt: skip
# Of the whole time limit: dead servers use up their part and leave the round time to end.
REMOTE_TIME_PART = 0.5
# The mount went away between the list and the question: nothing to report.
_GONE = frozenset({errno.ENOENT, errno.ENOTDIR})


@dataclass(frozen=True, slots=True, kw_only=True)
class Space:
    """A mount and its space, in bytes, as df(1) counts: ``free`` is what users may still write.

    Attributes:
        inodes, inodes_free: files there may be, and how many more; 0 where the file system has no limit.
    """

    mount: Mount
    total: int
    used: int
    free: int
    io: DiskIo | None
    inodes: int = 0
    inodes_free: int = 0
    read_only: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What one look at some mounts gave.

    Attributes:
        spaces: the mounts that answered.
        refused: mount point to why it did not.
        remote: mounts left to be asked on the other thread.
        devices: the disks, mounted or not.
    """

    spaces: tuple[Space, ...] = ()
    devices: tuple[DiskIo, ...] = ()
    refused: dict[str, str]
    remote: tuple[Mount, ...] = ()


def space_of(mount: Mount, stat: os.statvfs_result, io: DiskIo | None) -> Space:
    """The space a ``statvfs`` tells of; blocks reserved for root are neither used nor free."""
    return Space(
        mount=mount,
        total=stat.f_blocks * stat.f_frsize,
        used=max(0, stat.f_blocks - stat.f_bfree) * stat.f_frsize,
        free=stat.f_bavail * stat.f_frsize,
        io=io,
        inodes=stat.f_files,
        inodes_free=stat.f_ffree,
        read_only=bool(stat.f_flag & os.ST_RDONLY),
    )


def disk_values(spaces: Iterable[Space], skipped: int, devices: Sequence[DiskIo] = ()) -> dict[str, Any]:
    """The values of one sample: a row per mount and one per disk, and sums over the mounts.

    In the sums each device counts once.

    Args:
        spaces: the mounts that answered.
        skipped: mounts that did not; told as ``mounts_skipped`` when there are any.
        devices: the disks.
    """
    rows: list[dict[str, Any]] = []
    sums = {"total": 0, "used": 0, "free": 0, "read_bytes": 0, "write_bytes": 0}
    counted: set[str] = set()
    for space in spaces:
        io = space.io
        device = space.mount.source
        if io is not None and device in ("/dev/root", "rootfs"):
            device = f"/dev/{io.name}"
        row: dict[str, Any] = {
            "mountpoint": space.mount.mountpoint,
            "device": device,
            "fstype": space.mount.fstype,
            "total": space.total,
            "used": space.used,
            "free": space.free,
            "used_percent": percent(space.used, space.used + space.free),
            "read_bytes": io.read_bytes if io is not None else 0,
            "write_bytes": io.write_bytes if io is not None else 0,
            "inodes": space.inodes,
            "inodes_free": space.inodes_free,
            "read_only": space.read_only,
        }
        rows.append(row)
        if space.mount.device_key not in counted:
            counted.add(space.mount.device_key)
            for key in sums:
                sums[key] += row[key]
    values: dict[str, Any] = {
        "disks": rows,
        "devices": [
            {"device": each.name, **{key: getattr(each, key) for key in DEVICE_VALUES}} for each in devices
        ],
        "total_bytes": sums["total"],
        "used_bytes": sums["used"],
        "free_bytes": sums["free"],
        "usage_percent": percent(sums["used"], sums["used"] + sums["free"]),
        "read_bytes": sums["read_bytes"],
        "write_bytes": sums["write_bytes"],
    }
    if skipped:
        values["mounts_skipped"] = skipped
    return values


class DiskCollector:
    """Asks each mounted disk, off the reactor's thread.

    A mount that refuses (permission, I/O error, dead server) is left out, counted in the values as
    ``mounts_skipped`` and logged when its answer changes. ``read_bytes`` and ``write_bytes`` are since the
    device appeared, 0 for what has no block device here (a share, an overlay).

    Args:
        mount_points: the mount points to report, whatever their type; empty means all disks.
        statvfs: the system call.
    """

    def __init__(
        self,
        *,
        interval_s: float,
        timeout_s: float,
        threads: Threads,
        wall: WallClock,
        mount_points: Sequence[str] = (),
        proc: str = PROC,
        statvfs: Callable[[bytes], os.statvfs_result] = os.statvfs,
    ) -> None:
        self.name = NAME
        self.interval_s = interval_s
        self.timeout_s = timeout_s
        self._threads = threads
        self._wall = wall
        self._wanted = tuple(mount_points)
        self._mountinfo = f"{proc}/self/mountinfo"
        self._diskstats = f"{proc}/diskstats"
        self._statvfs = statvfs
        self._refused: dict[str, str] = {}

    async def collect(self) -> Metrics:
        """See Collector."""
        reading = await self._threads.run(lane_of(self.name), self.timeout_s, self._read)
        spaces, refused = reading.spaces, dict(reading.refused)
        if reading.remote:
            remote = await self._ask_remote(reading.remote)
            spaces += remote.spaces
            refused |= remote.refused
        self._tell_changes(refused)
        values = disk_values(spaces, len(refused), reading.devices)
        return Metrics(name=self.name, timestamp=self._wall(), values=values)

    async def _ask_remote(self, mounts: tuple[Mount, ...]) -> Reading:
        limit_s = self.timeout_s * REMOTE_TIME_PART
        try:
            return await self._threads.run(lane_of(f"{self.name}-remote"), limit_s, self._ask, mounts, {})
        except (LaneTimeout, LaneBusy):
            return Reading(refused={mount.mountpoint: "a remote server does not answer" for mount in mounts})

    def _read(self) -> Reading:
        """On the thread: the list of mounts, and the local ones."""
        mounts = select_mounts(parse_mountinfo(read_proc(self._mountinfo)), self._wanted)
        try:
            disks = parse_diskstats(read_proc(self._diskstats))
        except CollectError:
            disks = {}  # some containers hide it; the space is worth telling without
        over = {m.mountpoint: f"more than {MAX_MOUNTS} mounts" for m in mounts[MAX_MOUNTS:]}
        mounts = mounts[:MAX_MOUNTS]
        local = self._ask([mount for mount in mounts if not mount.remote], disks)
        return Reading(
            spaces=local.spaces,
            devices=whole_devices(disks.values())[:MAX_DEVICES],
            refused=local.refused | over,
            remote=tuple(mount for mount in mounts if mount.remote),
        )

    def _ask(self, mounts: Sequence[Mount], disks: dict[str, DiskIo]) -> Reading:
        """On a thread: the space of some mounts."""
        spaces: list[Space] = []
        refused: dict[str, str] = {}
        for mount in mounts:
            try:
                stat = self._statvfs(mount.path)
            except OSError as error:
                if error.errno not in _GONE:
                    refused[mount.mountpoint] = error.strerror or str(error)
                continue
            if stat.f_blocks > 0:
                spaces.append(space_of(mount, stat, io_of(mount, disks)))
        return Reading(spaces=tuple(spaces), refused=refused)

    def _tell_changes(self, refused: dict[str, str]) -> None:
        for mountpoint, why in refused.items():
            if self._refused.get(mountpoint) != why:
                log.warn(
                    "disk collector: {mountpoint} is left out: {why}; name the others in"
                    " collectors.disk.mount_points to be rid of this",
                    mountpoint=mountpoint, why=why, collector=self.name,
                )  # fmt: skip
        for mountpoint in self._refused.keys() - refused.keys():
            log.info("disk collector: {mountpoint} is back or gone", mountpoint=mountpoint)
        self._refused = refused
