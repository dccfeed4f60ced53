"""Mounts and the disk collector: what counts as a disk, what is summed, what may refuse or hang."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest
from collectors_support import DISKSTATS, MOUNTINFO, make_proc, sample_of
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.logger import capturedLogs

from daemon.aio.threads import LaneTimeout
from daemon.collectors import disk as disk_module
from daemon.collectors.disk import DiskCollector
from daemon.collectors.mounts import (
    Mount,
    holds_data,
    io_of,
    parse_diskstats,
    parse_mountinfo,
    select_mounts,
    whole_devices,
)
from daemon.errors import CollectError
from tests.fakes.threads import InlineThreads


def mount(path: str = "/m", fstype: str = "ext4", source: str = "/dev/sda1", device_id: str = "8:1") -> Mount:
    return Mount(device_id=device_id, path=os.fsencode(path), mountpoint=path, fstype=fstype, source=source)


def line(path: str, fstype: str = "ext4", source: str = "/dev/sda1", device_id: str = "8:1") -> str:
    return f"1 2 {device_id} / {path} rw - {fstype} {source} rw\n"


def stat_of(blocks: int = 1000, free: int = 400, available: int = 300) -> os.statvfs_result:
    return os.statvfs_result((4096, 4096, blocks, free, available, 50, 20, 20, 0, 255))


class FakeDisks:
    """statvfs by mount point: a result, or the errno it fails with."""

    def __init__(self, **answers: os.statvfs_result | int) -> None:
        self.answers: dict[bytes, os.statvfs_result | int] = {
            b"/" + name.encode(): answer for name, answer in answers.items()
        }
        self.asked: list[bytes] = []

    def __call__(self, path: bytes) -> os.statvfs_result:
        self.asked.append(path)
        answer = self.answers.get(path, stat_of())
        if isinstance(answer, int):
            raise OSError(answer, os.strerror(answer), path)
        return answer


class Bench:
    """A disk collector over fakes."""

    def __init__(
        self, root: Path, disks: FakeDisks | None = None, wanted: tuple[str, ...] = (), **proc: bytes
    ) -> None:
        self.clock = Clock()
        self.threads = InlineThreads(self.clock)
        self.root = root
        self.disks = disks or FakeDisks()
        self.collector = DiskCollector(
            interval_s=60,
            timeout_s=10,
            threads=self.threads,
            wall=lambda: 3.0,
            mount_points=wanted,
            proc=make_proc(root, **proc),
            statvfs=self.disks,
        )

    def values(self) -> Mapping[str, Any]:
        return sample_of(self.collector.collect()).values


def points(values: Mapping[str, Any]) -> list[str]:
    return [row["mountpoint"] for row in values["disks"]]


def test_mountinfo_fields() -> None:
    root = parse_mountinfo(MOUNTINFO)[2]
    assert root == mount("/", source="/dev/vda", device_id="254:0")


def test_optional_fields_and_blanks_in_names() -> None:
    data = rb"1 2 8:1 / /mnt/a\040b\011c\134d\012e rw shared:1 master:2 - ext4 /dev/disk\040x rw" + b"\n"
    (read,) = parse_mountinfo(data)
    assert read.path == b"/mnt/a b\tc\\d\ne"
    assert read.mountpoint == "/mnt/a b\tc\\d\ne"
    assert read.source == "/dev/disk x"


def test_what_is_no_escape_stays_as_it_is() -> None:
    (read,) = parse_mountinfo(rb"1 2 8:1 / /a\777\04\9\ rw - ext4 /dev/sda1 rw" + b"\n")
    assert read.path == rb"/a\777\04\9" + b"\\"


def test_a_mount_point_that_is_not_utf8_can_be_asked_and_shown() -> None:
    (read,) = parse_mountinfo(b"1 2 8:1 / /mnt/\xff\xfe\xc3\xa4 rw - ext4 /dev/sda1 rw\n")
    assert read.path == b"/mnt/\xff\xfe\xc3\xa4"
    assert read.mountpoint == "/mnt/\\xff\\xfeä"


def test_the_last_of_two_mounts_on_one_point_is_the_one_seen() -> None:
    data = (line("/data", device_id="8:1") + line("/data", device_id="8:2")).encode()
    assert [read.device_id for read in parse_mountinfo(data)] == ["8:2"]


def test_empty_source_does_not_shift_the_fields() -> None:
    (read,) = parse_mountinfo(b"1 2 0:9 / /x rw - tmpfs  rw\n")
    assert (read.fstype, read.source) == ("tmpfs", "")


@pytest.mark.parametrize(
    "junk", [b"", b"\n\n", b"1 2 3\n", b"a - b\n", b"1 2 8:1 / /x rw\n", b"\xff\x00 - - -"]
)
def test_junk_lines_are_passed_over(junk: bytes) -> None:
    assert parse_mountinfo(junk) == []


@pytest.mark.parametrize(
    ("one", "kept"),
    [
        (mount(), True),
        (mount(fstype="btrfs", device_id="0:40"), True),
        (mount(fstype="zfs", source="tank/a", device_id="0:41"), True),
        (mount(fstype="nfs4", source="srv:/x", device_id="0:42"), True),
        (mount("/", fstype="overlay", source="overlay", device_id="0:43"), True),
        (mount("/var/lib/docker/x", fstype="overlay", source="overlay", device_id="0:43"), False),
        (mount(fstype="tmpfs", source="tmpfs", device_id="0:44"), False),
        (mount("/", fstype="rootfs", source="rootfs", device_id="0:1"), False),
        (mount("/proc", fstype="proc", source="proc", device_id="0:5"), False),
        (mount(fstype="fuse.lxcfs", source="lxcfs", device_id="0:6"), False),
        (mount("/snap/core", fstype="squashfs", source="/dev/loop1", device_id="7:1"), False),
    ],
)
def test_what_holds_data(one: Mount, kept: bool) -> None:
    assert holds_data(one) is kept


def test_named_mounts_are_taken_whatever_their_type_and_only_where_mounted() -> None:
    mounts = parse_mountinfo(MOUNTINFO)
    chosen = select_mounts(mounts, ("/dev/shm/", "/", "/srv/not-mounted"))
    assert [one.mountpoint for one in chosen] == ["/dev/shm", "/"]


def test_diskstats_counts_sectors_of_512_bytes() -> None:
    disks = parse_diskstats(DISKSTATS)
    assert (disks["254:0"].name, disks["254:0"].read_bytes, disks["254:0"].write_bytes) == (
        "vda",
        512000,
        256000,
    )


def test_ancient_short_lines_are_passed_over_and_junk_is_an_error() -> None:
    assert parse_diskstats(b"3 1 hda1 8 8 8 8\n") == {}
    with pytest.raises(CollectError):
        parse_diskstats(b"3 1 hda a b c d e f g h i j k\n")


def test_io_of_a_subvolume_is_found_by_the_name_of_its_device() -> None:
    disks = parse_diskstats(DISKSTATS)
    assert io_of(mount(fstype="btrfs", source="/dev/vda", device_id="0:40"), disks) == disks["254:0"]
    assert io_of(mount(fstype="nfs", source="srv:/vda", device_id="0:41"), disks) is None
    assert io_of(mount(device_id="9:9", source="/dev/vda"), disks) is None


def test_rows_and_sums(tmp_path: Path) -> None:
    bench = Bench(tmp_path, FakeDisks(var=stat_of(500, 500, 500)))
    values = bench.values()
    assert values["disks"][0] == {
        "mountpoint": "/", "device": "/dev/vda", "fstype": "ext4", "total": 4096000, "used": 600 * 4096,
        "free": 300 * 4096, "used_percent": 66.67, "read_bytes": 512000, "write_bytes": 256000,
        "inodes": 50, "inodes_free": 20, "read_only": False,
    }  # fmt: skip
    assert values["devices"] == [
        {"device": "vda", "read_bytes": 512000, "write_bytes": 256000, "reads": 54894, "writes": 16931,
         "read_seconds": 9.41, "write_seconds": 2.672, "io_seconds": 4.988},
        {"device": "dm-0", "read_bytes": 15360, "write_bytes": 35840, "reads": 1, "writes": 5,
         "read_seconds": 0.004, "write_seconds": 0.008, "io_seconds": 0.009},
    ]
    assert values["disks"][1]["read_bytes"] == 30 * 512
    assert values["total_bytes"] == 1500 * 4096
    assert values["used_bytes"] == 600 * 4096
    assert values["free_bytes"] == 800 * 4096
    assert values["usage_percent"] == round(100 * 600 / 1400, 2)
    assert values["read_bytes"] == 512000 + 30 * 512
    assert values["write_bytes"] == 256000 + 70 * 512
    assert "mounts_skipped" not in values
    assert bench.threads.calls == ["collector:disk"]


@pytest.mark.parametrize(
    ("name", "counts"),
    [("sda", True), ("sda1", False), ("vdb", True), ("vdb12", False), ("xvda", True), ("xvda1", False),
     ("nvme0n1", True), ("nvme0n1p2", False), ("mmcblk0", True), ("mmcblk0p1", False), ("dm-3", True),
     ("md127", True), ("loop7", False), ("ram0", False), ("zram0", False), ("fd0", False), ("sr0", True)],
)  # fmt: skip
def test_disks_are_told_without_their_partitions_and_what_is_no_disk(name: str, counts: bool) -> None:
    disks = parse_diskstats(b"8 0 %s 1 0 8 0 1 0 8 0 0 5 5\n" % name.encode())
    assert [disk.name for disk in whole_devices(disks.values())] == ([name] if counts else [])


def test_a_device_that_never_did_anything_is_left_out() -> None:
    assert whole_devices(parse_diskstats(b"43 0 nbd0 0 0 0 0 0 0 0 0 0 0 0\n").values()) == ()


def test_a_read_only_mount_says_so(tmp_path: Path) -> None:
    stat = os.statvfs_result((4096, 4096, 9, 5, 5, 0, 0, 0, os.ST_RDONLY, 255))
    bench = Bench(tmp_path, FakeDisks(var=stat))
    assert [row["read_only"] for row in bench.values()["disks"]] == [False, True]


def test_a_device_mounted_twice_is_told_twice_and_summed_once(tmp_path: Path) -> None:
    info = (
        line("/", device_id="254:0") + line("/srv", device_id="254:0") + line("/etc/hosts", device_id="254:0")
    )
    values = Bench(tmp_path, mountinfo=info.encode()).values()
    assert points(values) == ["/", "/srv", "/etc/hosts"]
    assert values["total_bytes"] == 1000 * 4096
    assert values["read_bytes"] == 512000


def test_subvolumes_of_one_device_are_summed_once(tmp_path: Path) -> None:
    info = line("/", "btrfs", "/dev/vda", "0:30") + line("/home", "btrfs", "/dev/vda", "0:31")
    values = Bench(tmp_path, mountinfo=info.encode()).values()
    assert len(values["disks"]) == 2
    assert values["total_bytes"] == 1000 * 4096
    assert values["write_bytes"] == 256000


def test_a_refusing_mount_is_left_out_counted_and_told_once(tmp_path: Path) -> None:
    bench = Bench(tmp_path, FakeDisks(var=errno.EACCES))
    with capturedLogs() as logs:
        for _round in range(3):
            values = bench.values()
    assert points(values) == ["/"]
    assert values["mounts_skipped"] == 1
    assert [entry["mountpoint"] for entry in logs if "why" in entry] == ["/var"]
    bench.disks.answers.clear()
    with capturedLogs() as logs:
        assert points(bench.values()) == ["/", "/var"]
    assert [entry["mountpoint"] for entry in logs] == ["/var"]


def test_a_mount_that_vanishes_mid_round_is_nothing_special(tmp_path: Path) -> None:
    values = Bench(tmp_path, FakeDisks(var=errno.ENOENT)).values()
    assert points(values) == ["/"]
    assert "mounts_skipped" not in values


def test_file_systems_without_blocks_are_no_disks(tmp_path: Path) -> None:
    assert points(Bench(tmp_path, FakeDisks(var=stat_of(0, 0, 0))).values()) == ["/"]


def test_container_without_diskstats_still_tells_the_space(tmp_path: Path) -> None:
    make_proc(tmp_path)
    bench = Bench(tmp_path)
    (tmp_path / "diskstats").unlink()
    values = bench.values()
    assert (values["total_bytes"], values["read_bytes"]) == (2000 * 4096, 0)


def test_dev_root_is_told_by_its_real_name(tmp_path: Path) -> None:
    values = Bench(tmp_path, mountinfo=line("/", source="/dev/root", device_id="254:0").encode()).values()
    assert values["disks"][0]["device"] == "/dev/vda"


def test_thousands_of_mounts_are_bounded(tmp_path: Path) -> None:
    count = disk_module.MAX_MOUNTS + 7
    info = "".join(line(f"/m{number}", device_id=f"8:{number}") for number in range(count))
    values = Bench(tmp_path, mountinfo=info.encode()).values()
    assert len(values["disks"]) == disk_module.MAX_MOUNTS
    assert values["mounts_skipped"] == 7


def test_missing_mountinfo_is_a_collect_error(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    (tmp_path / "self" / "mountinfo").unlink()
    with pytest.raises(CollectError):
        bench.values()


def test_a_dead_server_costs_its_own_row_alone(tmp_path: Path) -> None:
    info = MOUNTINFO.decode() + line("/nfs", "nfs4", "srv:/x", "0:50")
    bench = Bench(tmp_path, mountinfo=info.encode())
    assert points(bench.values()) == ["/", "/var", "/nfs"]
    assert bench.threads.calls == ["collector:disk", "collector:disk-remote"]
    bench.threads.hang("collector:disk-remote")
    bench.disks.asked.clear()
    answers: list[Any] = []
    Deferred.fromCoroutine(bench.collector.collect()).addCallback(answers.append)
    assert answers == []
    bench.clock.advance(5.0)
    (sample,) = answers
    assert points(sample.values) == ["/", "/var"]
    assert sample.values["mounts_skipped"] == 1
    assert b"/nfs" not in bench.disks.asked
    assert points(bench.values()) == ["/", "/var"]  # the lane is still held: not asked, not waited for
    bench.threads.release("collector:disk-remote")
    assert points(bench.values()) == ["/", "/var", "/nfs"]


def test_a_hung_local_disk_is_a_collect_error_at_the_deadline(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.threads.hang("collector:disk")
    failures: list[Any] = []
    Deferred.fromCoroutine(bench.collector.collect()).addErrback(failures.append)
    bench.clock.advance(9.9)
    assert failures == []
    bench.clock.advance(0.1)
    assert failures[0].check(LaneTimeout)


def test_agrees_with_psutil_on_this_host() -> None:
    clock = Clock()
    one = DiskCollector(interval_s=60, timeout_s=10, threads=InlineThreads(clock), wall=time.time)
    rows = {row["mountpoint"]: row for row in sample_of(one.collect()).values["disks"]}
    for partition in psutil.disk_partitions():
        if partition.fstype in ("squashfs", "erofs", "iso9660"):
            continue
        usage = psutil.disk_usage(partition.mountpoint)
        row = rows[partition.mountpoint]
        assert (row["total"], row["fstype"]) == (usage.total, partition.fstype)
        assert abs(row["used_percent"] - usage.percent) < 1
