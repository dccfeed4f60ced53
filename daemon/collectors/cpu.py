"""The CPU collector: use, times since boot and load (``/proc/stat``, proc(5))."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from daemon.collectors.base import PROC, percent, read_proc
from daemon.errors import CollectError
from daemon.interfaces import WallClock
from daemon.model.metrics import Metrics

NAME = "cpu"
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
# A tick is 10 ms: below this window one tick more or less would move the percentage by over 5 points.
MIN_WINDOW_S = 0.2
CPUINFO_HEAD_BYTES = 4096  # the model is in the first CPU's block; later blocks cost time per CPU
CPUINFO_MAX_BYTES = 262144
_FIELDS = 8  # user nice system idle iowait irq softirq steal; guest times are part of user and nice
_MODES = ("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal")  # the order of the fields
_IDLE, _IOWAIT = 3, 4
_MODEL_KEYS = (b"model name", b"cpu model", b"cpu", b"Model", b"Hardware", b"Processor")

Ticks = tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class CpuTimes:
    """One reading of ``/proc/stat``: clock ticks since boot.

    Attributes:
        total: all CPUs together.
        cores: CPU number to its own ticks; CPUs that are offline are missing.
        booted_at: wall time of the boot, Unix seconds; 0 where it is not told.
    """

    total: Ticks
    cores: Mapping[int, Ticks]
    booted_at: int = 0


def _ticks(fields: Sequence[bytes]) -> Ticks:
    values = tuple(map(int, fields[1 : _FIELDS + 1]))
    if len(values) < 4:
        raise ValueError("fewer than four times")
    return values if len(values) == _FIELDS else values + (0,) * (_FIELDS - len(values))


def parse_stat(data: bytes) -> CpuTimes:
    """Reads the ``cpu`` lines, which come first, and ``btime``.

    Raises:
        CollectError: there are none, or one is not as proc(5) says.
    """
    total: Ticks = ()
    cores: dict[int, Ticks] = {}
    start = 0
    try:
        while data.startswith(b"cpu", start):
            end = data.find(b"\n", start)
            end = len(data) if end < 0 else end
            fields = data[start:end].split()
            if fields[0] == b"cpu":
                total = _ticks(fields)
            else:
                cores[int(fields[0][3:])] = _ticks(fields)
            start = end + 1
        found = data.find(b"\nbtime ", start - 1) if start else -1
        booted_at = int(data[found + 7 : found + 27].split()[0]) if found >= 0 else 0
    except (ValueError, IndexError) as error:
        raise CollectError(f"/proc/stat: a line cannot be read: {error}") from error
    if not total:
        raise CollectError("/proc/stat: no cpu line; is /proc mounted?")
    return CpuTimes(total=total, cores=cores, booted_at=booted_at)


def parse_model(data: bytes) -> str:
    """The name of the CPU in ``/proc/cpuinfo``; empty where the architecture does not tell."""
    found: dict[bytes, bytes] = {}
    for line in data.split(b"\n"):
        key, colon, value = line.partition(b":")
        if colon and value.strip():
            found.setdefault(key.strip(), value.strip())
    for key in _MODEL_KEYS:
        if key in found:
            return found[key].decode("utf-8", "replace")
    return ""


def busy_percent(before: Ticks, after: Ticks, min_ticks: float = 0.0) -> float | None:
    """The part of the time between two readings that was neither idle nor waiting for I/O.

    A counter that went back (the kernel says that idle, iowait and steal may) counts as unchanged.

    Returns:
        0 to 100, or None when fewer than ``min_ticks`` ticks lie between.
    """
    moved = [max(0, b - a) for a, b in zip(before, after, strict=True)]
    total = sum(moved)
    if total <= 0 or total < min_ticks:
        return None
    return percent(total - moved[_IDLE] - moved[_IOWAIT], total)


def since_boot_percent(times: Ticks) -> float:
    """The same since boot."""
    return busy_percent((0,) * _FIELDS, times) or 0.0


def _seconds(ticks: Ticks) -> dict[str, float]:
    return {mode: each / TICKS_PER_S for mode, each in zip(_MODES, ticks, strict=True)}


def cpu_values(
    before: CpuTimes | None, after: CpuTimes, *, model: str, load: Sequence[float] | None
) -> dict[str, Any]:
    """The values of one sample.

    Args:
        before: the baseline of the percentages; None or too recent (less than ``MIN_WINDOW_S``): the
            averages since boot are given.
        after: the reading.
        model: the CPU's name.
        load: the load averages over 1, 5 and 15 minutes, if known.
    """
    known = before.cores if before is not None else {}
    per_core = []
    for core, ticks in after.cores.items():
        busy = busy_percent(known[core], ticks, MIN_WINDOW_S * TICKS_PER_S) if core in known else None
        busy = since_boot_percent(ticks) if busy is None else busy
        per_core.append({"core": core, "usage_percent": busy, **_seconds(ticks)})
    busy = None
    if before is not None and window_is_wide(before, after):
        busy = busy_percent(before.total, after.total)
    values: dict[str, Any] = {
        "usage_percent": since_boot_percent(after.total) if busy is None else busy,
        "cores": max(1, len(after.cores)),
        "model": model,
    }
    values.update(_seconds(after.total))
    values["per_core"] = per_core
    if load is not None:
        values["load1"], values["load5"], values["load15"] = load
    if after.booted_at:
        values["boot_time_seconds"] = after.booted_at
    return values


def window_is_wide(before: CpuTimes, after: CpuTimes) -> bool:
    """Whether enough time lies between two readings for a percentage."""
    moved = sum(after.total) - sum(before.total)
    return moved >= MIN_WINDOW_S * TICKS_PER_S * max(1, len(after.cores))


class CpuCollector:
    """Reads ``/proc/stat`` once a round, on the reactor's thread.

    The baseline is taken at construction; the first round comes at once and never waits for a window:
    with less than ``MIN_WINDOW_S`` since the baseline it tells the average since boot, and the baseline
    stays until a round is far enough from it.
    """

    def __init__(self, *, interval_s: float, timeout_s: float, wall: WallClock, proc: str = PROC) -> None:
        self.name = NAME
        self.interval_s = interval_s
        self.timeout_s = timeout_s
        self._wall = wall
        self._stat = f"{proc}/stat"
        self._cpuinfo = f"{proc}/cpuinfo"
        self._model: str | None = None
        self._before: CpuTimes | None
        try:
            self._before = parse_stat(read_proc(self._stat))
        except CollectError:
            self._before = None  # the first round meets the same fault and reports it

    def collect(self) -> Metrics:
        """See Collector."""
        after = parse_stat(read_proc(self._stat))
        before = self._before
        if before is None or window_is_wide(before, after) or sum(after.total) < sum(before.total):
            self._before = after
        if self._model is None:
            self._model = self._read_model()
        try:
            load = os.getloadavg()
        except OSError:
            load = None
        values = cpu_values(before, after, model=self._model, load=load)
        return Metrics(name=self.name, timestamp=self._wall(), values=values)

    def _read_model(self) -> str:
        """The model never changes: read once. Where it is not at the head (ARM), the rest is read too."""
        try:
            with open(self._cpuinfo, "rb", buffering=0) as file:
                head = file.read(CPUINFO_HEAD_BYTES) or b""
                if b"model name" not in head:
                    while len(head) < CPUINFO_MAX_BYTES and (more := file.read(CPUINFO_HEAD_BYTES)):
                        head += more
        except OSError:
            head = b""
        return parse_model(head) or platform.machine()
