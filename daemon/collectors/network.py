"""The network collector: counters and rates of each interface (``/proc/net/dev``, proc(5)).

procfs shows the interfaces of the daemon's own network namespace.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from daemon.aio.reactor import Clock
from daemon.collectors.base import PROC, read_proc
from daemon.errors import CollectError
from daemon.interfaces import WallClock
from daemon.model.metrics import Metrics

NAME = "network"
MIN_WINDOW_S = 0.2  # rates over less say nothing
# Name of a counter and its column after the colon.
_COLUMNS = (
    ("bytes_sent", 8), ("bytes_recv", 0), ("packets_sent", 9), ("packets_recv", 1),
    ("errin", 2), ("errout", 10), ("dropin", 3), ("dropout", 11),
)  # fmt: skip
COUNTERS = tuple(name for name, _column in _COLUMNS)
RATED = COUNTERS[:4]
_RATES = tuple((index, f"{name}_per_second") for index, name in enumerate(RATED))

Counters = Mapping[str, tuple[int, ...]]


def parse_net_dev(data: bytes) -> dict[str, tuple[int, ...]]:
    """Interface name to its counters, in the order of ``COUNTERS``.

    Raises:
        CollectError: a line is not as proc(5) says.
    """
    found: dict[str, tuple[int, ...]] = {}
    try:
        for line in data.split(b"\n")[2:]:
            name, colon, rest = line.rpartition(b":")  # an alias has a colon in its name: eth0:1
            if not colon:
                if line.strip():
                    raise ValueError("no colon")
                continue
            fields = rest.split()
            found[name.strip().decode("utf-8", "replace")] = tuple(
                int(fields[column]) for _name, column in _COLUMNS
            )
    except (ValueError, IndexError) as error:
        raise CollectError(f"/proc/net/dev: a line cannot be read: {error}") from error
    return found


def counter_rate(before: int, after: int, elapsed_s: float) -> float:
    """Growth per second, never negative.

    A counter that went back was reset (the interface was made anew, or a 32-bit counter wrapped): what
    it shows now is what it surely counted since.
    """
    grown = after - before if after >= before else after
    return round(grown / elapsed_s, 3)


def network_values(before: Counters, after: Counters, elapsed_s: float) -> dict[str, Any]:
    """The values of one sample: a row per interface, and the sums over these rows.

    Rates are 0 for an interface that was not there before, and where no time has passed.
    """
    rows: list[dict[str, Any]] = []
    sums = [0] * len(COUNTERS)
    rates_sum = [0.0] * len(_RATES)
    for name, counters in after.items():
        row: dict[str, Any] = {"interface": name}
        row.update(zip(COUNTERS, counters, strict=True))
        earlier = before.get(name) if elapsed_s >= MIN_WINDOW_S else None
        for index, rate_name in _RATES:
            rate = 0.0 if earlier is None else counter_rate(earlier[index], counters[index], elapsed_s)
            row[rate_name] = rate
            rates_sum[index] += rate
        for index, value in enumerate(counters):
            sums[index] += value
        rows.append(row)
    values: dict[str, Any] = {"interfaces": rows}
    values.update(zip(COUNTERS, sums, strict=True))
    for index, rate_name in _RATES:
        values[rate_name] = round(rates_sum[index], 3)
    return values


def select_interfaces(counters: Counters, wanted: Collection[str]) -> Counters:
    """The wanted interfaces; all when none is named."""
    if not wanted:
        return counters
    return {name: row for name, row in counters.items() if name in wanted}


class NetworkCollector:
    """Reads ``/proc/net/dev`` once a round, on the reactor's thread.

    Args:
        interfaces: the names to report; empty means all.
        clock: measures the time between two readings. The first reading is taken at construction, so
            that the first round has rates unless it follows within ``MIN_WINDOW_S``.
    """

    def __init__(
        self,
        *,
        interval_s: float,
        timeout_s: float,
        clock: Clock,
        wall: WallClock,
        interfaces: Sequence[str] = (),
        proc: str = PROC,
    ) -> None:
        self.name = NAME
        self.interval_s = interval_s
        self.timeout_s = timeout_s
        self._clock = clock
        self._wall = wall
        self._wanted = frozenset(interfaces)
        self._dev = f"{proc}/net/dev"
        self._before: Counters = {}
        self._before_s = clock.seconds()
        try:
            self._before = self._read()
        except CollectError:
            pass  # the first round meets the same fault and reports it

    def _read(self) -> Counters:
        return select_interfaces(parse_net_dev(read_proc(self._dev)), self._wanted)

    def collect(self) -> Metrics:
        """See Collector."""
        after = self._read()
        now_s = self._clock.seconds()
        elapsed_s = now_s - self._before_s
        values = network_values(self._before, after, elapsed_s)
        if elapsed_s >= MIN_WINDOW_S or not self._before:
            self._before, self._before_s = after, now_s
        return Metrics(name=self.name, timestamp=self._wall(), values=values)
