"""What of the collectors' samples is kept of the host, and the points made of it; pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from statistics import fmean
from typing import Any

from daemon.model.metrics import Metrics
from daemon.model.usage import HostPoint
from daemon.resources.host_record import HostSample

Latest = Mapping[str, Metrics]

_MODES = ("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal")  # proc(5), stat
_IDLE = ("idle", "iowait")


def host_sample(before: Latest, after: Latest, at: float) -> HostSample:
    """One sample.

    What a collector measured before the sample before is not measured again: a collector that hangs leaves a
    gap, and no line that goes on as if nothing were.

    Args:
        before: the collectors' samples at the sample before, by name; empty for the first one.
        after: those of now.
        at: wall time, Unix seconds.
    """
    cpu, memory, disk = (_fresh(before, after, name) for name in ("cpu", "memory", "disk"))
    return HostSample(
        at=int(at),
        cpu=_busy(before.get("cpu"), after.get("cpu")) if cpu else None,
        load1=_number(cpu, "load1"),
        fullest=max((float(each["used_percent"]) for each in disk.get("disks", ())), default=None),
        read=_rate(before, after, "disk", "read_bytes"),
        written=_rate(before, after, "disk", "write_bytes"),
        received=_rate(before, after, "network", "bytes_recv"),
        sent=_rate(before, after, "network", "bytes_sent"),
        memory_used=_whole(memory, "used_bytes"),
        memory_total=_whole(memory, "total_bytes"),
        swap_used=_whole(memory, "swap_used"),
    )


def _fresh(before: Latest, after: Latest, name: str) -> Mapping[str, Any]:
    new, old = after.get(name), before.get(name)
    return {} if new is None or (old is not None and old.timestamp == new.timestamp) else new.values


def _number(values: Mapping[str, Any], key: str) -> float | None:
    found = values.get(key)
    return float(found) if isinstance(found, (int, float)) else None


def _whole(values: Mapping[str, Any], key: str) -> int | None:
    found = _number(values, key)
    return None if found is None else int(found)


def _busy(before: Metrics | None, after: Metrics | None) -> float | None:
    """Of the time between, the part that was neither idle nor waiting for I/O, in percent of all cores."""
    if before is None or after is None:
        return None
    # A counter that went back (the kernel says that idle, iowait and steal may) counts as unchanged.
    moved = {
        mode: max(0.0, after.values[mode] - before.values[mode])
        for mode in _MODES if mode in before.values and mode in after.values
    }
    total = sum(moved.values())
    idle = sum(moved.get(mode, 0.0) for mode in _IDLE)
    return 100.0 * (total - idle) / total if total > 0 else None


def _rate(before: Latest, after: Latest, name: str, key: str) -> float | None:
    """A counter's growth a second; None where it went back, as when a device has gone."""
    old, new = before.get(name), after.get(name)
    if old is None or new is None or new.timestamp <= old.timestamp:
        return None
    was, now = _number(old.values, key), _number(new.values, key)
    if was is None or now is None or now < was:
        return None
    return (now - was) / (new.timestamp - old.timestamp)


def host_points(samples: Iterable[HostSample], step_s: int) -> tuple[HostPoint, ...]:
    """Samples as points, each for itself or one for each step that has any; see
    :func:`daemon.resources.history.points_of`."""
    if not step_s:
        return tuple(_point(sample.at, (sample,)) for sample in samples)
    return tuple(
        _point((step + 1) * step_s, tuple(group))
        for step, group in groupby(samples, lambda sample: sample.at // step_s)
    )


def _point(timestamp: int, group: Sequence[HostSample]) -> HostPoint:
    used = [each.memory_used for each in group if each.memory_used is not None]
    last = group[-1]
    return HostPoint(
        timestamp=timestamp,
        cpu=_mean(each.cpu for each in group),
        cpu_max=max((each.cpu for each in group if each.cpu is not None), default=None),
        load1=_mean(each.load1 for each in group),
        memory_used=sum(used) // len(used) if used else None,
        memory_used_max=max(used, default=None),
        memory_total=last.memory_total,
        swap_used=last.swap_used,
        disk_used_percent=max((each.fullest for each in group if each.fullest is not None), default=None),
        disk_read_per_second=_mean(each.read for each in group),
        disk_written_per_second=_mean(each.written for each in group),
        network_received_per_second=_mean(each.received for each in group),
        network_sent_per_second=_mean(each.sent for each in group),
        samples=len(group),
    )


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    if not known:
        return None
    return min(max(fmean(known), min(known)), max(known))  # whatever rounding does
