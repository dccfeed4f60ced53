"""What the tests of the collectors share: a procfs of files, services over a clock, an event sink."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from daemon.collectors.base import CollectorServices
from daemon.model.event import Severity
from daemon.model.metrics import Metrics
from tests.fakes.commands import FakeCommandRunner
from tests.fakes.threads import InlineThreads

STAT = b"""cpu  1000 20 300 8000 100 5 15 60 10 0
cpu0 600 10 200 3900 80 5 10 30 10 0
cpu1 400 10 100 4100 20 0 5 30 0 0
intr 197841 0 0 0
ctxt 371604
"""

MEMINFO = b"""MemTotal:       16000 kB
MemFree:         4000 kB
MemAvailable:   10000 kB
Buffers:          500 kB
Cached:          3000 kB
SwapCached:         0 kB
Shmem:            200 kB
SReclaimable:     700 kB
SwapTotal:       2048 kB
SwapFree:        1024 kB
HugePages_Total:       0
"""

NET_DEV = b"""Inter-|   Receive                        |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo
    lo:    3193      29    0    0    0     0          0         0     3193      29    0    0    0     0 0 0
  eth0: 155310222    4412    1    2    0     0          0         0   273356    2502    3    4    0     0 0 0
"""

MOUNTINFO = b"""22 27 0:21 / /proc rw,relatime - proc proc rw
25 24 0:23 / /dev/shm rw,relatime - tmpfs tmpfs rw,size=24684092k
27 1 254:0 / / rw,relatime - ext4 /dev/vda rw,discard
40 27 254:16 / /var rw,noatime shared:1 - xfs /dev/mapper/vg-var rw
"""

DISKSTATS = b"""   7       0 loop0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0
 254       0 vda 54894 9173 1000 9410 16931 17309 500 2672 0 4988 12412 4477 19 238848 226 2492 102
 254      16 dm-0 1 2 30 4 5 6 70 8 0 9 10 0 0 0 0 0 0
"""


def make_proc(root: Path, **files: bytes) -> str:
    """A procfs of plain files below ``root``; keyword arguments replace the usual content."""
    content = {
        "stat": STAT,
        "meminfo": MEMINFO,
        "net_dev": NET_DEV,
        "mountinfo": MOUNTINFO,
        "diskstats": DISKSTATS,
        "cpuinfo": b"processor\t: 0\nmodel name\t: Test CPU @ 2 GHz\n\nprocessor\t: 1\n",
    } | files
    (root / "net").mkdir(parents=True, exist_ok=True)
    (root / "self").mkdir(exist_ok=True)
    places = {"net_dev": "net/dev", "mountinfo": "self/mountinfo"}
    for name, data in content.items():
        (root / places.get(name, name)).write_bytes(data)
    return str(root)


class RecordingEvents:
    """An EventSink that keeps what it hears."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, Severity, dict[str, Any]]] = []

    def publish(
        self,
        type: str,
        message: str,
        *,
        severity: Severity = Severity.INFO,
        agent_id: str = "",
        data: Mapping[str, Any] | None = None,
    ) -> None:
        assert message
        self.heard.append((type, severity, dict(data or {})))

    @property
    def types(self) -> list[str]:
        return [event[0] for event in self.heard]


def make_services(clock: Clock) -> CollectorServices:
    """Services over a test's clock; the wall clock shows 1000 s more."""
    return CollectorServices(
        clock=clock,
        threads=InlineThreads(clock),
        wall=lambda: 1000.0 + clock.seconds(),
        runner=FakeCommandRunner(clock),
        env={"PATH": "/bin"},
    )


def sample_of(collected: Any) -> Metrics:
    """The sample of a ``collect()`` that answers at once; raises what it failed with."""
    if isinstance(collected, Metrics):
        return collected
    answers: list[Metrics] = []
    failures: list[Any] = []
    Deferred.fromCoroutine(collected).addCallbacks(answers.append, failures.append)
    if failures:
        failures[0].raiseException()
    assert answers, "no answer yet"
    return answers[0]
