"""The host's history: what is kept of collectors' samples, over restarts, and what a bad disk costs."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from daemon import faults
from daemon.config.schema import ResourcesConfig
from daemon.errors import StorageError
from daemon.model.metrics import Metrics
from daemon.model.usage import HostPoint
from daemon.resources.host import LANE, UNSAVED_MAX, WRITE_DEADLINE_S, HostHistory
from daemon.resources.host_record import HOST, HostSample
from daemon.resources.host_sample import host_points, host_sample
from daemon.resources.ring import RECORD_BYTES
from tests.fakes.directory import FakeEvents
from tests.fakes.supervised import FakeAlerts
from tests.fakes.threads import InlineThreads

EPOCH = 1_700_000_160.0  # a whole multiple of four minutes
BUSY_S = {"user": 10.0, "nice": 0.0, "system": 5.0, "idle": 80.0, "iowait": 5.0, "irq": 0.0, "softirq": 0.0, "steal": 0.0}
FULL = HostSample(
    at=1_700_000_000, cpu=12.5, load1=0.5, fullest=91.0, read=1024.0, written=2048.0, received=1.5, sent=0.0,
    memory_used=2**33, memory_total=2**40, swap_used=0,
)


def latest(at: float, **changes: Any) -> dict[str, Metrics]:
    """What collectors say of a host that is up for ``at - EPOCH`` seconds and does the same in each."""
    up = at - EPOCH
    values: dict[str, dict[str, Any]] = {
        "cpu": {mode: each * up / 100 for mode, each in BUSY_S.items()} | {"load1": 0.5, "usage_percent": 99.0},
        "memory": {"used_bytes": 1000, "total_bytes": 4000, "swap_used": 7},
        "disk": {
            "disks": [{"used_percent": 10.0}, {"used_percent": 91.0}], "read_bytes": 100 * up, "write_bytes": 200 * up,
        },
        "network": {"bytes_recv": 10 * up, "bytes_sent": 20 * up},
    }
    for name, more in changes.items():
        values[name] |= more
    return {name: Metrics(name=name, timestamp=at, values=each) for name, each in values.items()}


def test_a_sample_is_what_happened_since_the_one_before() -> None:
    found = host_sample(latest(EPOCH + 60), latest(EPOCH + 120), EPOCH + 121)
    assert found == HostSample(
        at=int(EPOCH + 121), cpu=pytest.approx(15.0), load1=0.5, fullest=91.0, read=pytest.approx(100.0),
        written=pytest.approx(200.0), received=pytest.approx(10.0), sent=pytest.approx(20.0), memory_used=1000,
        memory_total=4000, swap_used=7,
    )


def test_the_first_one_knows_no_rates() -> None:
    found = host_sample({}, latest(EPOCH + 60), EPOCH + 60)
    assert (found.cpu, found.read, found.written, found.received, found.sent) == (None,) * 5
    assert (found.load1, found.fullest, found.memory_used) == (0.5, 91.0, 1000)


def test_a_collector_that_hangs_leaves_a_gap_and_the_others_go_on() -> None:
    now = latest(EPOCH + 120)
    for name in now:
        found = host_sample(latest(EPOCH + 60), now | {name: latest(EPOCH + 60)[name]}, EPOCH + 120)
        missing = {
            "cpu": ["cpu", "load1"], "memory": ["memory_used", "memory_total", "swap_used"],
            "disk": ["fullest", "read", "written"], "network": ["received", "sent"],
        }
        for other, fields in missing.items():
            assert {getattr(found, field) is None for field in fields} == {other == name}, (name, other)


def test_collectors_that_are_off_are_not_known() -> None:
    assert not host_sample({}, {}, EPOCH).known
    only = {"memory": latest(EPOCH)["memory"]}
    assert host_sample(only, only | {"memory": latest(EPOCH + 60)["memory"]}, EPOCH + 60).known


@pytest.mark.parametrize("name", ["disk", "network"])
def test_a_counter_that_went_back_is_no_rate(name: str) -> None:
    keys = {"disk": "read_bytes", "network": "bytes_recv"}
    found = host_sample(latest(EPOCH + 60), latest(EPOCH + 120, **{name: {keys[name]: 1}}), EPOCH + 120)
    assert (found.read if name == "disk" else found.received) is None
    assert (found.written if name == "disk" else found.sent) is not None


def test_idle_time_that_went_back_counts_as_unchanged() -> None:
    found = host_sample(latest(EPOCH + 60), latest(EPOCH + 120, cpu={"iowait": 0.0}), EPOCH + 120)
    assert found.cpu is not None
    assert 15.0 < found.cpu <= 100.0


def test_a_record_holds_what_is_known_and_what_is_not() -> None:
    for sample in (FULL, HostSample(at=1)):
        assert HOST.decode(HOST.encode(7, sample)) == (7, sample)
    assert len(HOST.encode(0, FULL)) == RECORD_BYTES
    wild = HostSample(at=2**40, cpu=-1.0, read=1e300, memory_used=2**70)
    decoded = HOST.decode(HOST.encode(1, wild))
    assert decoded is not None
    assert (decoded[1].cpu, decoded[1].memory_used) == (0.0, 2**64 - 2)


@given(st.lists(st.tuples(st.floats(0, 100), st.integers(0, 600)), min_size=1, max_size=40), st.integers(0, 300))
def test_points_stay_within_their_samples(said: list[tuple[float, int]], step_s: int) -> None:
    at, samples = 1_700_000_000, []
    for cpu, later_s in said:
        at += later_s
        samples.append(HostSample(at=at, cpu=cpu))
    points = host_points(samples, step_s)
    assert sum(point.samples for point in points) == len(samples)
    for point in points:
        assert point.cpu is not None
        assert point.cpu_max is not None
        assert min(c for c, _s in said) <= point.cpu <= point.cpu_max <= max(c for c, _s in said)


class HostCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.root = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.root)
        self.addCleanup(faults.arm, {})
        self.path = self.root / "host.ring"
        self.clock = Clock()
        self.threads = InlineThreads(self.clock)
        self.events, self.alerts = FakeEvents(), FakeAlerts()
        self.off: set[str] = set()
        self.history = self.begin()

    def wall(self) -> float:
        return EPOCH + self.clock.seconds()

    def collected(self) -> dict[str, Metrics]:
        return {name: each for name, each in latest(self.wall()).items() if name not in self.off}

    def begin(self) -> HostHistory:
        history = HostHistory(
            self.path, self.clock, self.wall, self.threads, self.collected, self.events, self.alerts
        )
        history.apply(ResourcesConfig())
        history.startService()
        return history

    def minutes(self, count: int) -> None:
        self.clock.pump([60.0] * count)

    def points(self, duration_s: int = 86400, step_s: int = 0) -> list[HostPoint]:
        return list(self.successResultOf(Deferred.fromCoroutine(self.history.query(duration_s, step_s))))

    def test_a_sample_each_minute_and_all_of_them_over_a_restart(self) -> None:
        self.minutes(5)
        self.successResultOf(self.history.stopService())
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.history = self.begin()
        self.minutes(3)
        points = self.points()
        self.assertEqual([point.timestamp - int(EPOCH) for point in points], [60 * n for n in range(1, 9)])
        self.assertEqual([point.cpu is None for point in points], [True] + [False] * 4 + [True] + [False] * 2)
        self.assertEqual(len(self.points(duration_s=119)), 2)
        self.assertEqual([point.samples for point in self.points(step_s=240)], [3, 4, 1])

    def test_a_day_is_kept_and_no_more(self) -> None:
        self.minutes(1500)
        self.assertEqual(len(self.points(duration_s=10**6)), 1440)
        self.assertLess(self.path.stat().st_size, 100_000)

    def test_a_host_without_collectors_keeps_nothing_and_makes_no_file(self) -> None:
        self.off = {"cpu", "memory", "disk", "network"}
        self.minutes(3)
        self.assertFalse(self.path.exists())
        self.assertEqual(self.points(), [])

    def test_another_interval_is_taken_at_a_reload(self) -> None:
        self.minutes(2)
        self.history.apply(ResourcesConfig(interval=10.0, history=3600.0))
        self.clock.pump([10.0] * 6)
        self.assertEqual(len(self.points()), 8)

    def test_what_a_full_disk_refused_is_there_later_and_is_shown_meanwhile(self) -> None:
        self.minutes(2)
        faults.arm({faults.VARIABLE: "ring.append:1:enospc"})
        self.minutes(1)
        standing = self.alerts.standing["", "host_history_storage"]
        self.assertIn("history of the host", str(standing))
        self.assertEqual(len(self.points()), 3)
        faults.arm({})
        self.minutes(1)
        self.assertNotIn(("", "host_history_storage"), self.alerts.standing)
        self.history = self.begin()
        self.assertEqual(len(self.points()), 4)

    def test_a_disk_that_hangs_costs_the_oldest_and_they_are_counted(self) -> None:
        self.threads.hang(LANE)
        for _minute in range(UNSAVED_MAX + 5):
            self.minutes(1)
            self.clock.advance(0)
        self.clock.advance(WRITE_DEADLINE_S)
        self.assertGreaterEqual(self.history.lost_total, 4)

    def test_another_file_in_its_place_is_set_aside(self) -> None:
        self.path.write_bytes(b"HDRING no ring of a host")
        self.minutes(2)
        self.assertEqual(len(self.points()), 2)
        (event,) = [each for each in self.events.published if each.type == "daemon.history_corrupt"]
        self.assertTrue(Path(event.data["kept"]).read_bytes().startswith(b"HDRING"))

    def test_a_ring_that_cannot_be_read_is_said(self) -> None:
        self.minutes(2)
        faults.arm({faults.VARIABLE: "ring.read:1:eio"})
        failure = self.failureResultOf(Deferred.fromCoroutine(self.history.query(3600)))
        failure.trap(StorageError)
