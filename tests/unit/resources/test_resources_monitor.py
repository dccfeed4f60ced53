"""Sampling every agent each minute: stored, asked, alerted on, and what a bad disk costs."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import msgspec
import pytest
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from daemon import faults
from daemon.config.schema import ResourcesConfig
from daemon.errors import StorageError
from daemon.model.agent import Identity
from daemon.model.usage import Usage
from daemon.resources.heartbeats import HeartbeatKeeper
from daemon.resources.history import History
from daemon.resources.monitor import (
    LANE,
    READ_DEADLINE_S,
    UNSAVED_MAX,
    WRITE_DEADLINE_S,
    ResourceMonitor,
    first_round_s,
)
from daemon.resources.ring import HEADER_BYTES, RECORD_BYTES
from tests.fakes.directory import FakeEvents
from tests.fakes.supervised import FakeAgent, FakeAlerts, FakeRoster
from tests.fakes.threads import InlineThreads

EPOCH = 1_700_000_000.0


class MonitorCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.root = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.root)
        self.addCleanup(faults.arm, {})
        self.clock = Clock()
        self.clock.advance(480.0)  # a beat of its minute
        self.offset = EPOCH
        self.threads = InlineThreads(self.clock)
        self.roster = FakeRoster([FakeAgent("a"), FakeAgent("b")])
        self.events, self.alerts = FakeEvents(), FakeAlerts()
        self.cpu, self.rss, self.processes = 10.0, 1000, 1
        self.cpu_s = 0.0
        self.looks: list[tuple[float, float]] = []
        self.monitor = self.new()
        self.config = ResourcesConfig()
        self.monitor.apply(self.config, ["a", "b"])

    def new(self) -> ResourceMonitor:
        case = self

        class Meter:
            first = True

            def full(self, now_s: float) -> Usage:
                cpu, self.first = (None if self.first else case.cpu), False
                return Usage(cpu_percent=cpu, rss_bytes=case.rss, vms_bytes=2, read_bytes=None, open_files=3,
                             threads=4, processes=case.processes, cpu_seconds=case.cpu_s)

        self.meters: list[tuple[int, float]] = []

        def meter(identity: Identity, max_age_s: float) -> Meter:
            self.meters.append((identity.pid, max_age_s))
            return Meter()

        self.meter = meter
        return ResourceMonitor(
            self.clock, lambda: self.offset + self.clock.seconds(), self.threads, self.roster,
            self.meter, History(self.root / "resources"), self.events, self.alerts, self.look,
        )

    def look(self, max_age_s: float, patience_s: float) -> Deferred[None]:
        self.looks.append((max_age_s, patience_s))
        return succeed(None)

    def start(self) -> None:
        for number, agent in enumerate(self.roster.agents):
            agent.runs(100 + number, self.clock.seconds())
        self.monitor.startService()

    def stop(self) -> None:
        self.successResultOf(self.monitor.stopService())
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def wait(self, seconds: int) -> None:
        for _ in range(seconds):
            self.clock.advance(1)

    def points(self, agent_id: str = "a", duration_s: int = 86400, step_s: int = 0) -> list[dict[str, object]]:
        found = self.successResultOf(Deferred.fromCoroutine(self.monitor.query(agent_id, duration_s, step_s)))
        return [msgspec.structs.asdict(p) for p in found]


@pytest.mark.parametrize(
    ("now_s", "interval_s", "wait_s"),
    [(480.0, 60.0, 60.0), (481.0, 60.0, 59.0), (530.0, 60.0, 10.0), (537.0, 60.0, 63.0), (0.25, 1.0, 0.75),
     (0.75, 1.0, 1.25)],
)
def test_rounds_stand_at_beats_of_the_clock_and_leave_the_baseline_its_time(
    now_s: float, interval_s: float, wait_s: float
) -> None:
    assert first_round_s(now_s, interval_s) == pytest.approx(wait_s)


class Sampling(MonitorCase):
    def test_cpu_time_is_counted_over_the_processes_of_an_agent_and_never_twice(self) -> None:
        self.assertIsNone(self.monitor.cpu_seconds_total("a"))
        self.assertIsNone(self.monitor.cpu_seconds_total("nobody"))
        self.cpu_s = 100.0  # an adopted process brings its life
        self.start()
        self.wait(61)
        self.assertEqual(self.monitor.cpu_seconds_total("a"), 100.0)
        self.cpu_s = 101.5
        self.wait(60)
        self.assertEqual(self.monitor.cpu_seconds_total("a"), 101.5)
        self.monitor.apply(ResourcesConfig(interval=30.0), ["a", "b"])  # another meter of the same process
        self.cpu_s = 101.25  # and it knows a little less
        self.wait(31)
        self.assertEqual(self.monitor.cpu_seconds_total("a"), 101.5)
        self.cpu_s = 0.5
        self.roster.agents[0].runs(300, self.clock.seconds())
        self.monitor.process_changed("a")
        self.assertEqual(self.monitor.cpu_seconds_total("a"), 101.5)
        self.wait(31)
        self.assertEqual(self.monitor.cpu_seconds_total("a"), 102.0)
        self.stop()

    def test_a_point_each_minute_with_both_sources(self) -> None:
        self.start()
        self.roster.agents[0].reported_cpu, self.roster.agents[0].reported_memory = 7.5, 2048
        self.wait(181)
        found = self.points()
        self.assertEqual([p["timestamp"] for p in found], [EPOCH + 540, EPOCH + 600, EPOCH + 660])
        self.assertEqual([p["cpu"] for p in found], [10.0] * 3)  # a baseline was taken before the first round
        self.assertEqual((found[0]["reported_cpu"], found[0]["reported_memory"]), (7.5, 2048))
        self.assertEqual((found[0]["disk_read_bytes"], found[0]["open_files"]), (None, 3))
        self.assertIsNone(self.points("b")[0]["reported_cpu"])
        self.assertEqual(self.points("nobody"), [])
        self.assertEqual(self.points(duration_s=60), found[-1:])
        self.assertEqual(self.points(step_s=86400)[0]["samples"], 3)
        self.stop()

    def test_nothing_is_sampled_without_a_process_and_the_newest_sample_goes_with_it(self) -> None:
        self.start()
        self.wait(61)
        latest = self.monitor.latest("a")
        assert latest is not None
        self.assertEqual(latest.rss_bytes, 1000)
        self.roster.agents[0].ends()
        self.monitor.process_changed("a")
        self.assertIsNone(self.monitor.latest("a"))
        self.wait(120)
        self.assertEqual(len(self.points()), 1)
        self.assertEqual(len(self.points("b")), 3)
        self.assertIsNone(self.monitor.latest("nobody"))
        self.stop()

    def test_a_new_process_gets_its_baseline_soon(self) -> None:
        self.start()
        self.wait(70)
        self.roster.agents[0].runs(999, self.clock.seconds())
        self.monitor.process_changed("a")
        self.wait(3)
        latest = self.monitor.latest("a")
        assert latest is not None
        self.assertIsNone(latest.cpu_percent)
        self.wait(60)
        self.assertEqual(self.points()[-1]["cpu"], 10.0)
        self.stop()

    def test_history_survives_the_daemon_with_or_without_an_orderly_stop(self) -> None:
        self.start()
        self.wait(130)
        before = self.points()
        self.monitor = self.new()  # as after kill -9
        self.monitor.apply(self.config, ["a", "b"])
        self.assertEqual(self.points(), before)

    def test_a_clock_set_forward_or_back_loses_no_point_and_stops_no_round(self) -> None:
        self.start()
        self.wait(61)
        self.offset += 3600
        self.wait(60)
        self.offset -= 7200
        self.wait(60)
        self.assertEqual(len(self.points(duration_s=10**6)), 3)
        self.stop()

    def test_the_interval_and_the_history_are_live(self) -> None:
        self.start()
        self.wait(61)
        self.monitor.apply(ResourcesConfig(interval=5.0, history=50.0), ["a", "b"])
        self.wait(100)
        found = self.points()
        self.assertEqual(len(found), 10)
        self.assertEqual(found[-1]["timestamp"] - found[-2]["timestamp"], 5)  # type: ignore[operator]
        self.stop()

    def test_an_agent_that_left_leaves_nothing(self) -> None:
        self.start()
        self.wait(61)
        self.monitor.apply(self.config, ["b"])
        self.assertEqual([p.name for p in (self.root / "resources").iterdir()], ["b.ring"])
        self.wait(60)
        self.assertEqual(len(self.points("a")), 0)
        self.stop()

    def test_a_hundred_agents_are_sampled_in_several_turns(self) -> None:
        self.roster.agents = [FakeAgent(f"a{n}") for n in range(100)]
        self.monitor.apply(self.config, [a.agent_id for a in self.roster.agents])
        self.start()
        for _ in range(59):
            self.clock.advance(1)
        turns = []
        real = self.clock.callLater
        self.clock.callLater = lambda delay, *rest, **kw: (turns.append(delay), real(delay, *rest, **kw))[1]
        self.clock.advance(1)
        self.assertEqual(turns.count(0), 1)
        self.assertEqual(self.monitor.stats().samples_total, 100)
        self.stop()

    def test_a_session_of_many_processes_has_a_turn_of_its_own(self) -> None:
        self.processes = 200
        self.start()
        self.wait(59)
        turns = []
        real = self.clock.callLater
        self.clock.callLater = lambda delay, *rest, **kw: (turns.append(delay), real(delay, *rest, **kw))[1]
        self.clock.advance(1)
        self.assertEqual(turns.count(0), 1)
        self.assertEqual(self.monitor.stats().samples_total, 2)
        self.stop()

    def test_each_round_knows_the_sessions_anew_and_waits_a_second_at_most(self) -> None:
        self.start()
        self.wait(61)
        self.assertEqual(self.looks, [(30.0, 1.0)] * 2)  # the first look and the first round
        self.assertEqual(self.meters, [(100, 30.0), (101, 30.0)])
        self.monitor.apply(ResourcesConfig(interval=10.0), ["a", "b"])
        self.wait(11)
        self.assertEqual(self.looks[2:], [(5.0, 1.0)] * 2)
        self.assertEqual(self.meters[2:], [(100, 5.0), (101, 5.0)])
        self.assertEqual(self.points()[-1]["cpu"], 10.0)
        self.stop()

    def test_a_monitor_that_was_told_of_no_agents_forgets_none(self) -> None:
        self.start()
        self.wait(61)
        self.stop()
        self.monitor = self.new()
        self.monitor.startService()
        self.stop()
        self.monitor.apply(self.config, ["a", "b"])
        self.assertEqual(len(self.points()), 1)


class Thresholds(MonitorCase):
    def test_alerts_begin_above_and_end_at_or_below(self) -> None:
        self.monitor.apply(ResourcesConfig(cpu_threshold=50.0, memory_threshold=5000), ["a", "b"])
        self.start()
        self.cpu, self.rss = 80.0, 6000
        self.wait(121)
        alert = self.alerts.standing["a", "cpu"]
        self.assertEqual((alert.current_value, alert.threshold), (80.0, 50.0))
        self.assertEqual(self.alerts.standing["a", "memory"].current_value, 6000)
        self.assertEqual(len(self.alerts.standing), 4)
        self.cpu, self.rss = 50.0, 5000
        self.wait(60)
        self.assertEqual(self.alerts.standing, {})
        self.stop()

    def test_a_threshold_taken_away_and_a_process_that_ended_end_them(self) -> None:
        self.monitor.apply(ResourcesConfig(cpu_threshold=50.0), ["a", "b"])
        self.start()
        self.cpu = 80.0
        self.wait(121)
        self.roster.agents[1].ends()
        self.wait(60)
        self.assertEqual(list(self.alerts.standing), [("a", "cpu")])
        self.monitor.apply(ResourcesConfig(), ["a", "b"])
        self.assertEqual(self.alerts.standing, {})
        self.stop()


class Disk(MonitorCase):
    def test_what_a_disk_does_not_take_waits_and_is_stored_later(self) -> None:
        faults.arm({"HOSTDAEMON_FAULT": "ring.make:1:enospc"})
        self.start()
        self.wait(601)
        self.assertIn("No space", self.monitor.stats().failing)
        self.assertEqual([t.type for t in self.alerts.told], ["resources_storage"])
        self.assertEqual(len(self.points()), 10)
        faults.arm({})
        self.wait(60)
        self.assertEqual(self.monitor.stats().failing, "")
        self.assertEqual(self.alerts.standing, {})
        self.assertEqual(len(self.points()), 11)
        self.assertEqual(self.monitor.stats().lost_total, 0)
        self.stop()

    def test_what_the_bound_takes_is_counted(self) -> None:
        faults.arm({"HOSTDAEMON_FAULT": "ring.append:1:eio"})
        self.start()
        self.wait(60 * (UNSAVED_MAX + 5) + 1)
        self.assertEqual(self.monitor.stats().lost_total, 10)
        self.assertEqual(len(self.points()), UNSAVED_MAX)
        self.stop()

    def test_a_disk_that_hangs_holds_nothing(self) -> None:
        self.start()
        self.wait(61)
        self.threads.hang(LANE)
        self.wait(120)
        self.assertEqual(self.monitor.stats().samples_total, 6)
        asked = Deferred.fromCoroutine(self.monitor.query("a", 60))
        self.wait(int(READ_DEADLINE_S) + 1)
        self.failureResultOf(asked, StorageError)
        stopping = self.monitor.stopService()
        self.wait(40)
        self.successResultOf(stopping)

    def test_a_write_that_nobody_waited_for_is_stored_once(self) -> None:
        self.start()
        self.wait(61)
        self.threads.hang(LANE)
        self.wait(60)
        self.wait(int(WRITE_DEADLINE_S) + 1)
        self.assertIn("does not answer", self.monitor.stats().failing)
        self.threads.release(LANE)  # the disk comes back, and the write with it
        self.assertEqual(len(self.points()), 2)
        self.wait(60)
        self.assertEqual(self.monitor.stats().failing, "")
        self.assertEqual([p["timestamp"] for p in self.points()], [EPOCH + 540 + 60 * n for n in range(3)])
        self.stop()

    def test_a_stop_in_the_middle_of_a_write_waits_for_it(self) -> None:
        self.start()
        self.wait(59)
        self.threads.hang(LANE)
        self.wait(1)
        stopping = self.monitor.stopService()
        self.assertNoResult(stopping)
        self.threads.release(LANE)
        self.successResultOf(stopping)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_torn_records_are_counted(self) -> None:
        self.start()
        self.wait(181)
        with open(self.root / "resources" / "a.ring", "r+b") as file:
            file.seek(HEADER_BYTES + RECORD_BYTES + 9)
            file.write(b"\xff")
        self.stop()
        self.monitor = self.new()
        self.monitor.apply(self.config, ["a", "b"])
        self.assertEqual([p["timestamp"] for p in self.points()], [EPOCH + 540, EPOCH + 660])
        self.assertEqual(self.monitor.stats().torn_total, 1)

    def test_a_corrupt_ring_is_said_and_kept(self) -> None:
        (self.root / "resources").mkdir()
        (self.root / "resources" / "a.ring").write_bytes(b"nonsense")
        self.start()
        self.wait(61)
        [event] = self.events.published
        self.assertEqual((event.type, event.agent_id), ("agent.history_corrupt", "a"))
        self.assertEqual(len(self.points()), 1)
        self.stop()


class Heartbeats(MonitorCase):
    def keeper(self, boot_id: str = "boot") -> HeartbeatKeeper:
        return HeartbeatKeeper(self.root / "heartbeats.json", self.clock, self.threads, self.roster, boot_id)

    def test_they_survive_the_daemon_within_a_boot(self) -> None:
        keeper = self.keeper()
        keeper.restore()
        keeper.startService()
        self.roster.agents[0].beats(510.0)
        self.wait(31)
        for agent in self.roster.agents:
            agent.heartbeat_mono = None
        self.keeper("another boot").restore()
        self.assertIsNone(self.roster.agents[0].heartbeat_mono)
        self.keeper().restore()
        self.assertEqual(self.roster.agents[0].heartbeat_mono, 510.0)
        self.assertIsNone(self.roster.agents[1].heartbeat_mono)
        self.successResultOf(keeper.stopService())

    def test_nothing_new_writes_nothing(self) -> None:
        keeper = self.keeper()
        keeper.startService()
        self.wait(300)
        self.roster.agents[0].beats(510.0)
        self.wait(31)
        writes = len(self.threads.calls)
        self.assertEqual(writes, 1)
        self.wait(300)
        self.assertEqual(len(self.threads.calls), writes)
        self.successResultOf(keeper.stopService())

    def test_hostile_files_are_set_aside(self) -> None:
        path = self.root / "heartbeats.json"
        for text in (b"", b"[]", b"{", b'{"boot_id":"boot","agents":{"a":{"mono":"x","at":1}}}', b"[" * 100_000,
                     b'{"boot_id":"boot","agents":[],"schema":2}', b"\xff"):
            path.write_bytes(text)
            self.keeper().restore()
            self.assertFalse(path.exists())
            self.assertEqual((self.root / "heartbeats.json.corrupt").read_bytes(), text)
        path.write_bytes(b'{"boot_id":"boot","agents":{"a":{"mono":1e300,"at":1},"b":{"mono":1,"at":-1}}}')
        self.keeper().restore()
        self.assertIsNone(self.roster.agents[0].heartbeat_mono)
        self.assertIsNone(self.roster.agents[1].heartbeat_mono)

    def test_what_a_newer_daemon_wrote_serves_as_far_as_it_fits(self) -> None:
        (self.root / "heartbeats.json").write_bytes(
            b'{"schema":2,"new":1,"boot_id":"boot","agents":{"a":{"mono":400.0,"at":1.0,"more":[]}}}'
        )
        self.keeper().restore()
        self.assertEqual(self.roster.agents[0].heartbeat_mono, 400.0)

    def test_a_disk_that_refuses_is_tried_again(self) -> None:
        faults.arm({"HOSTDAEMON_FAULT": "atomic.write:1:enospc"})
        keeper = self.keeper()
        keeper.startService()
        self.roster.agents[0].beats(510.0)
        self.wait(61)
        faults.arm({})
        self.wait(30)
        self.assertTrue((self.root / "heartbeats.json").exists())
        self.successResultOf(keeper.stopService())
