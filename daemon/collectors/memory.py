"""The memory collector (``/proc/meminfo``, proc(5))."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from daemon.collectors.base import PROC, percent, read_proc
from daemon.errors import CollectError
from daemon.interfaces import WallClock
from daemon.model.metrics import Metrics

NAME = "memory"
_WANTED = frozenset(
    {
        b"MemTotal", b"MemFree", b"MemAvailable", b"Buffers", b"Cached", b"SReclaimable", b"Shmem",
        b"SwapTotal", b"SwapFree",
    }
)  # fmt: skip


def parse_meminfo(data: bytes) -> dict[bytes, int]:
    """The lines that are used, in bytes.

    Raises:
        CollectError: a number cannot be read, or the total is missing.
    """
    found: dict[bytes, int] = {}
    try:
        for line in data.split(b"\n"):
            key, _colon, rest = line.partition(b":")
            if key in _WANTED:
                found[key] = int(rest.split(None, 1)[0]) * 1024
                if len(found) == len(_WANTED):
                    break
    except (ValueError, IndexError) as error:
        raise CollectError(f"/proc/meminfo: a line cannot be read: {error}") from error
    if found.get(b"MemTotal", 0) <= 0:
        raise CollectError("/proc/meminfo: no MemTotal; is /proc mounted?")
    return found


def available_bytes(info: Mapping[bytes, int]) -> int:
    """What programs can still get without swapping.

    Kernels before 3.14 do not say; then it is what is free or can be dropped. Some containers show
    more than the total: there only what is free counts, as procps does.
    """
    total, free = info[b"MemTotal"], info.get(b"MemFree", 0)
    available = info.get(b"MemAvailable", 0)
    if available <= 0:
        droppable = info.get(b"Cached", 0) + info.get(b"SReclaimable", 0) - info.get(b"Shmem", 0)
        available = free + info.get(b"Buffers", 0) + max(0, droppable)
    if available > total:
        available = free
    return max(0, min(available, total))


def memory_values(info: Mapping[bytes, int]) -> dict[str, Any]:
    """The values of one sample, in bytes; ``used`` is the total without what is available.

    ``cached`` is the page cache and ``reclaimable`` (of the slabs) together, as ``free`` counts.
    """
    total = info[b"MemTotal"]
    available = available_bytes(info)
    used = total - available
    used_percent = percent(used, total)
    swap_total = info.get(b"SwapTotal", 0)
    return {
        "total": total,
        "available": available,
        "used": used,
        "used_percent": used_percent,
        "cached": info.get(b"Cached", 0) + info.get(b"SReclaimable", 0),
        "buffers": info.get(b"Buffers", 0),
        "reclaimable": info.get(b"SReclaimable", 0),
        "shared": info.get(b"Shmem", 0),
        "swap_total": swap_total,
        "swap_used": max(0, swap_total - info.get(b"SwapFree", 0)),
        "total_bytes": total,
        "used_bytes": used,
        "free_bytes": info.get(b"MemFree", 0),
        "available_bytes": available,
        "usage_percent": used_percent,
    }


class MemoryCollector:
    """Reads ``/proc/meminfo`` once a round, on the reactor's thread."""

    def __init__(self, *, interval_s: float, timeout_s: float, wall: WallClock, proc: str = PROC) -> None:
        self.name = NAME
        self.interval_s = interval_s
        self.timeout_s = timeout_s
        self._wall = wall
        self._meminfo = f"{proc}/meminfo"

    def collect(self) -> Metrics:
        """See Collector."""
        values = memory_values(parse_meminfo(read_proc(self._meminfo)))
        return Metrics(name=self.name, timestamp=self._wall(), values=values)
