"""What an agent uses of the host: all processes of its session together."""

from __future__ import annotations

import msgspec


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """One sample of one agent's session.

    Attributes:
        cpu_percent: percent of one core since the sample before; None for the first one of a process.
        rss_bytes: resident bytes.
        vms_bytes: virtual bytes.
        read_bytes: bytes fetched from storage by the processes that live now, since each began (proc(5), io).
        write_bytes: likewise, sent to storage.
        open_files: open descriptors. This and the two before are None where they may not be read.
        threads: threads.
        processes: live processes.
        cpu_seconds: CPU time, user and system, since the process began; of what was measured of it.
    """

    cpu_percent: float | None
    rss_bytes: int
    vms_bytes: int = 0
    read_bytes: int | None = 0
    write_bytes: int | None = 0
    open_files: int | None = 0
    threads: int = 0
    processes: int = 1
    cpu_seconds: float = 0.0


class UsagePoint(msgspec.Struct, frozen=True, kw_only=True):
    """One point of an agent's history: a sample, or several over a step.

    Attributes:
        timestamp: wall time, Unix seconds; of a step, its end.
        cpu: percent of one core, the average of the step; None when unknown.
        cpu_min, cpu_max: the extremes within the step.
        memory_rss: resident bytes, the average of the step; likewise its extremes.
        memory_vms, disk_read_bytes, disk_write_bytes, open_files, threads: the newest of the step.
        reported_cpu, reported_memory: what the agent's heartbeats said of itself; None for nothing.
        samples: how many samples the point stands for.
    """

    timestamp: int
    cpu: float | None = None
    cpu_min: float | None = None
    cpu_max: float | None = None
    memory_rss: int | None = None
    memory_rss_min: int | None = None
    memory_rss_max: int | None = None
    memory_vms: int | None = None
    disk_read_bytes: int | None = None
    disk_write_bytes: int | None = None
    open_files: int | None = None
    threads: int | None = None
    reported_cpu: float | None = None
    reported_memory: int | None = None
    samples: int = 1


class HostPoint(msgspec.Struct, frozen=True, kw_only=True):
    """One point of the host's history: a sample, or several over a step. None for what was not measured.

    Attributes:
        timestamp: wall time, Unix seconds; of a step, its end.
        cpu: percent of all cores that were neither idle nor waiting for I/O, the average of the step.
        cpu_max: the highest within the step.
        load1: the load average over a minute, the average of the step.
        memory_used: bytes that are not available, the average of the step; likewise the highest.
        memory_total, swap_used: bytes, the newest of the step.
        disk_used_percent: of the fullest filesystem, the highest of the step.
        disk_read_per_second, disk_written_per_second: bytes of all disks, the average of the step.
        network_received_per_second, network_sent_per_second: bytes of all interfaces, likewise.
        samples: how many samples the point stands for.
    """

    timestamp: int
    cpu: float | None = None
    cpu_max: float | None = None
    load1: float | None = None
    memory_used: int | None = None
    memory_used_max: int | None = None
    memory_total: int | None = None
    swap_used: int | None = None
    disk_used_percent: float | None = None
    disk_read_per_second: float | None = None
    disk_written_per_second: float | None = None
    network_received_per_second: float | None = None
    network_sent_per_second: float | None = None
    samples: int = 1
