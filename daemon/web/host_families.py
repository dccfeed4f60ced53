"""``/metrics/host``: the host under the names of node_exporter, for the dashboards and alerts there are.

On a path of its own, so that a host whose node_exporter is scraped as well is not counted twice. Everything
is of the collectors' latest samples: a scrape reads nothing of the host but its name. Values and their units
are those of docs/protocols.md, names and labels those of node_exporter 1.x.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from daemon.collectors.runner import CollectorStats
from daemon.interfaces import WallClock
from daemon.model.metrics import Metrics

DOMAINNAME = Path("/proc/sys/kernel/domainname")
MODES = ("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal")

# Name, help, and the key of the collector's value.
_LOAD = (
    ("node_load1", "Load average over 1 minute.", "load1"),
    ("node_load5", "Load average over 5 minutes.", "load5"),
    ("node_load15", "Load average over 15 minutes.", "load15"),
    ("node_boot_time_seconds", "Boot of the host, Unix time.", "boot_time_seconds"),
)
_MEMORY = (
    ("node_memory_MemTotal_bytes", "Memory of the host.", "total"),
    ("node_memory_MemFree_bytes", "Memory that nothing uses.", "free_bytes"),
    ("node_memory_MemAvailable_bytes", "Memory that programs can get without swapping.", "available"),
    ("node_memory_Buffers_bytes", "Buffers of block devices.", "buffers"),
    ("node_memory_SReclaimable_bytes", "Slabs that can be given back.", "reclaimable"),
    ("node_memory_Shmem_bytes", "Shared memory and tmpfs.", "shared"),
    ("node_memory_SwapTotal_bytes", "Swap of the host.", "swap_total"),
)
_FILESYSTEM = (
    ("node_filesystem_size_bytes", "Size of the file system.", lambda row: row["total"]),
    ("node_filesystem_free_bytes", "Bytes not used, those kept for root included.",
     lambda row: row["total"] - row["used"]),
    ("node_filesystem_avail_bytes", "Bytes that users may still write.", lambda row: row["free"]),
    ("node_filesystem_files", "Inodes of the file system.", lambda row: row["inodes"]),
    ("node_filesystem_files_free", "Inodes not used.", lambda row: row["inodes_free"]),
    ("node_filesystem_readonly", "Whether it is mounted read-only.", lambda row: row["read_only"]),
)  # fmt: skip
_DISK = (
    ("node_disk_read_bytes_total", "Bytes read.", "read_bytes"),
    ("node_disk_written_bytes_total", "Bytes written.", "write_bytes"),
    ("node_disk_reads_completed_total", "Reads completed.", "reads"),
    ("node_disk_writes_completed_total", "Writes completed.", "writes"),
    ("node_disk_read_time_seconds_total", "Time of all reads together.", "read_seconds"),
    ("node_disk_write_time_seconds_total", "Time of all writes together.", "write_seconds"),
    ("node_disk_io_time_seconds_total", "Time in which the disk had something to do.", "io_seconds"),
)
_NETWORK = (
    ("node_network_receive_bytes_total", "Bytes received.", "bytes_recv"),
    ("node_network_transmit_bytes_total", "Bytes sent.", "bytes_sent"),
    ("node_network_receive_packets_total", "Packets received.", "packets_recv"),
    ("node_network_transmit_packets_total", "Packets sent.", "packets_sent"),
    ("node_network_receive_errs_total", "Packets received in error.", "errin"),
    ("node_network_transmit_errs_total", "Packets not sent for an error.", "errout"),
    ("node_network_receive_drop_total", "Packets received and dropped.", "dropin"),
    ("node_network_transmit_drop_total", "Packets dropped before they were sent.", "dropout"),
)

Values = Mapping[str, Any]


class HostSamples(Protocol):
    """Where the samples are; see :class:`daemon.collectors.manager.CollectorManager`."""

    def get_latest(self) -> Mapping[str, Metrics]:
        """The last sample of every collector that has one, by name."""
        ...

    def stats(self) -> Mapping[str, CollectorStats]:
        """How every collector is doing, by name."""
        ...


class HostMetrics(Collector):
    """Families of the four collectors of the host, each only while its last round succeeded.

    A scraper takes an old number for a new one, and a gap for what it is.

    Args:
        samples: the collectors.
        wall: Unix seconds.
        uname: name and kernel of the host; a host may be renamed, so it is asked at each scrape.
    """

    def __init__(
        self, samples: HostSamples, wall: WallClock, uname: Callable[[], os.uname_result] = os.uname
    ) -> None:
        self._samples = samples
        self._wall = wall
        self._uname = uname
        try:
            self._domain = DOMAINNAME.read_text(encoding="utf-8", errors="replace").strip()
        except OSError:
            self._domain = "(none)"  # what the kernel says of a host without one

    def collect(self) -> Iterator[Metric]:
        """Called by the registry at each scrape."""
        stats = self._samples.stats()
        latest = {name: m.values for name, m in self._samples.get_latest().items() if stats[name].success}
        for name, families in (
            ("cpu", cpu_families), ("memory", memory_families), ("disk", disk_families),
            ("network", network_families),
        ):
            if name in latest:
                yield from families(latest[name])
        yield _plain("node_time_seconds", "Wall time of the host, Unix time.", self._wall())
        yield self._names()
        yield _family(
            "node_scrape_collector_success", "Whether the collector's last round succeeded.", ("collector",),
            (((name,), float(each.success)) for name, each in stats.items()),
        )
        yield _family(
            "node_scrape_collector_duration_seconds", "Duration of the collector's last round.",
            ("collector",),
            (((name,), each.duration_s) for name, each in stats.items()),
        )

    def _names(self) -> Metric:
        host = self._uname()
        labels = {
            "sysname": host.sysname, "release": host.release, "version": host.version,
            "machine": host.machine, "nodename": host.nodename, "domainname": self._domain,
        }
        return _family(
            "node_uname_info", "Name and kernel of the host, as uname(2) tells them.", tuple(labels),
            [(tuple(labels.values()), 1.0)],
        )


def cpu_families(values: Values) -> Iterator[Metric]:
    """Time of each CPU by mode, load, boot."""
    yield _family(
        "node_cpu_seconds_total", "Time the CPU spent in each mode.", ("cpu", "mode"),
        (((str(row["core"]), mode), row[mode]) for row in values["per_core"] for mode in MODES),
    )
    for name, about, key in _LOAD:
        if key in values:
            yield _plain(name, about, values[key])


def memory_families(values: Values) -> Iterator[Metric]:
    """What ``/proc/meminfo`` calls these; ``cached`` of ours holds the reclaimable slabs too."""
    for name, about, key in _MEMORY:
        yield _plain(name, about, values[key])
    yield _plain("node_memory_Cached_bytes", "The page cache.", values["cached"] - values["reclaimable"])
    yield _plain(
        "node_memory_SwapFree_bytes", "Swap that nothing uses.", values["swap_total"] - values["swap_used"]
    )


def disk_families(values: Values) -> Iterator[Metric]:
    """Space by mount, transfers by disk."""
    mounts = [((row["device"], row["fstype"], row["mountpoint"]), row) for row in values["disks"]]
    for name, about, read in _FILESYSTEM:
        yield _family(
            name, about, ("device", "fstype", "mountpoint"),
            ((labels, float(read(row))) for labels, row in mounts),
        )
    yield from _by_device(_DISK, values["devices"], "device")


def network_families(values: Values) -> Iterator[Metric]:
    """Traffic by interface."""
    yield from _by_device(_NETWORK, values["interfaces"], "interface")


def _by_device(
    table: Iterable[tuple[str, str, str]], found: Iterable[Values], name_key: str
) -> Iterator[Metric]:
    rows = [((row[name_key],), row) for row in found]
    for name, about, key in table:
        yield _family(name, about, ("device",), ((labels, row[key]) for labels, row in rows))


def _plain(name: str, about: str, value: float) -> Metric:
    return _family(name, about, (), [((), value)])


def _family(
    name: str, about: str, labels: tuple[str, ...], samples: Iterable[tuple[tuple[str, ...], float]]
) -> Metric:
    kind = CounterMetricFamily if name.endswith("_total") else GaugeMetricFamily
    family = kind(name, about, labels=labels)
    for values, value in samples:
        family.add_metric(values, value)
    return family
