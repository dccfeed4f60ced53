"""The Manager link on a clock: registering, beating, losing and finding the Manager, a day without it."""

from __future__ import annotations

import itertools
import shutil
import tempfile
from pathlib import Path

import grpc
from msgspec.structs import replace
from twisted.trial.unittest import SynchronousTestCase

from daemon.config.schema import ManagerConfig, QueueConfig
from daemon.rpc.report_queue import STORAGE_ALERT
from tests.fakes.rpc_link import NODE, WALL, LinkRoom
from tests.fakes.rpc_manager import EVENTS, HEARTBEAT, REGISTER, REPORT, SYNC, Refused

Code = grpc.StatusCode


class LinkCase(SynchronousTestCase):
    def setUp(self) -> None:
        memory = Path("/dev/shm")  # a simulated day has thousands of fsyncs
        self.folder = Path(tempfile.mkdtemp(prefix="hd-link-", dir=memory if memory.is_dir() else None))
        self.addCleanup(shutil.rmtree, self.folder)
        self.room = self.make()

    def make(self, **keys: object) -> LinkRoom:
        return LinkRoom(self.folder / "reports", **keys)  # type: ignore[arg-type]

    def begin(self, **keys: object) -> LinkRoom:
        if keys:
            self.room = self.make(**keys)
        self.room.link.startService()
        self.addCleanup(self.end, self.room)
        return self.room

    def end(self, room: LinkRoom) -> None:
        if room.link.running:
            self.successResultOf(room.leave())


class RegisterTest(LinkCase):
    def test_it_registers_with_everything_the_contract_names_then_beats(self) -> None:
        room = self.begin()
        room.run(1)
        (card,) = room.manager.registrations
        self.assertEqual(
            (card.node_id, card.hostname, card.os, card.arch, dict(card.labels), card.daemon_version,
             card.agent_version),
            (NODE, "host7.example.org", "linux", "amd64", {"site": "a"}, "2.0.0", "1.1.0"),
        )
        self.assertTrue(card.ip)
        state = room.link.state
        self.assertTrue(state.connected)
        self.assertEqual((state.registered_at, state.last_error, state.address),
                         (WALL, "", "127.0.0.1:9090"))
        room.run(600)
        self.assertEqual(room.manager.calls[HEARTBEAT], 11)
        self.assertEqual(room.manager.calls[REGISTER], 1)
        self.assertEqual((room.dial.dialled, room.dial.open), (1, 1))

    def test_without_an_address_nothing_happens_until_a_reload_brings_one(self) -> None:
        room = self.begin(config=ManagerConfig())
        room.measure(10)
        self.assertEqual((room.dial.dialled, room.link.state.queued), (0, 0))
        room.link.apply(ManagerConfig(address="127.0.0.2:9090"))
        room.run(2)
        self.assertTrue(room.link.state.connected)

    def test_a_manager_that_is_down_is_found_when_it_comes_up(self) -> None:
        self.room.manager.down = True
        room = self.begin()
        taken = room.measure(30)
        state = room.link.state
        self.assertFalse(state.connected)
        self.assertTrue(state.last_error.startswith("D2001 "), state.last_error)
        self.assertEqual((state.queued, state.delivered), (60, 0))
        self.assertEqual((room.dial.dialled, room.dial.open), (1, 1))
        room.manager.down = False
        room.run(310)
        self.assertEqual(room.manager.samples, taken)
        self.assertEqual(room.link.state.delivered, 60)
        self.assertEqual(room.link.state.last_error, "")

    def test_pauses_double_up_to_the_longest(self) -> None:
        self.room.manager.down = True
        room = self.begin()
        pauses, before = [], 0
        for second in range(1500):
            room.run(1, step=1.0)
            if room.link.state.failures_total > before:
                before = room.link.state.failures_total
                pauses.append(second)
        gaps = [b - a for a, b in itertools.pairwise(pauses)]
        self.assertEqual(gaps[1:6], [10, 20, 40, 80, 150])  # half of the delay, as random_unit has it
        self.assertEqual(set(gaps[6:]), {150})

    def test_a_refused_registration_is_D2002_and_is_tried_again(self) -> None:
        self.room.manager.unwilling.add(REGISTER)
        room = self.begin()
        room.run(60)
        self.assertTrue(room.link.state.last_error.startswith("D2002 "), room.link.state.last_error)
        self.assertGreater(room.manager.calls[REGISTER], 2)
        room.manager.calm()
        room.run(300)
        self.assertTrue(room.link.state.connected)

    def test_RetryInfo_of_a_registration_is_honoured(self) -> None:
        self.room.manager.refusing[REGISTER] = Refused(Code.RESOURCE_EXHAUSTED, "busy", retry_s=100)
        room = self.begin()
        room.run(99)
        self.assertEqual(room.manager.calls[REGISTER], 1)
        room.run(10)
        self.assertEqual(room.manager.calls[REGISTER], 2)

    def test_a_node_the_manager_forgot_registers_again_at_once(self) -> None:
        room = self.begin()
        room.run(30)
        room.manager.known.clear()
        room.run(61)
        self.assertEqual(room.manager.calls[REGISTER], 2)
        self.assertTrue(room.link.state.connected)
        self.assertEqual(room.link.state.last_error, "")

    def test_success_false_of_a_heartbeat_registers_again_with_growing_patience(self) -> None:
        self.room.manager.unwilling.add(HEARTBEAT)
        room = self.begin()
        room.run(1000)
        self.assertLess(room.manager.calls[REGISTER], 15)
        self.assertGreater(room.manager.calls[REGISTER], 3)
        self.assertEqual(room.dial.dialled, 1)

    def test_a_hanging_manager_costs_one_call_at_a_time(self) -> None:
        self.room.manager.hanging |= {REGISTER, HEARTBEAT, REPORT, SYNC, EVENTS}
        room = self.begin()
        most = 0
        taken = []
        for _ in range(20):
            taken += room.measure(1)
            most = max(most, room.dial.in_flight)
        self.assertEqual(most, 1)
        self.assertIn("D2001", room.link.state.last_error)
        room.manager.calm()
        room.run(400)
        self.assertEqual(room.manager.samples, taken)

    def test_one_that_hangs_after_the_registration_costs_one_call_for_each_part(self) -> None:
        room = self.begin()
        room.agents.states["web"] = "running"
        room.run(5)
        room.manager.hanging |= {HEARTBEAT, REPORT, SYNC, EVENTS, REGISTER}
        most = 0
        for _ in range(40):
            room.measure(1)
            room.link.states_changed("web")
            room.bus.publish("test.event", "hello")
            most = max(most, room.dial.in_flight)
        self.assertLessEqual(most, 4)
        self.assertEqual((room.dial.dialled, room.dial.open), (1, 1))

    def test_a_flapping_manager_is_left_alone_for_longer_and_longer(self) -> None:
        room = self.begin()
        for second in range(1200):
            room.manager.down = bool(second % 2)
            room.link.doubt()
            room.run(1, step=0.5)
        self.assertLess(room.manager.calls[REGISTER], 30)
        kinds = [event.type for event in room.bus.latest(512)]
        self.assertLess(kinds.count("manager.disconnected"), 30)
        room.manager.down = False
        room.run(310)
        self.assertTrue(room.link.state.connected)


class AwayTest(LinkCase):
    def test_after_a_day_away_every_report_arrives_once_in_order_and_not_as_a_flood(self) -> None:
        room = self.begin()
        taken = room.measure(2)
        room.manager.down = True
        taken += room.measure(23 * 60)
        self.assertEqual(room.link.state.dropped, 0)
        self.assertGreater(room.link.state.queued, 2700)
        self.assertLess(len(room.link._queue._memory), 5)
        room.manager.down = False
        room.manager.batches.clear()
        while not room.manager.batches:
            room.run(1)
        begun = len(room.manager.samples)
        room.run(1, step=0.05)
        self.assertLessEqual(len(room.manager.samples) - begun, 5 * 50)
        room.run(60, step=0.05)
        self.assertEqual(room.manager.samples, taken)
        self.assertEqual(max(room.manager.batches), 50)
        self.assertEqual((room.link.state.queued, room.link.state.delivered), (0, len(taken)))

    def test_what_is_older_than_a_day_is_dropped_and_counted_exactly(self) -> None:
        self.room.manager.down = True
        room = self.begin()
        taken = room.measure(26 * 60)
        room.manager.down = False
        room.run(400)
        state = room.link.state
        self.assertGreater(state.dropped, 200)
        self.assertEqual(room.manager.samples, taken[state.dropped:])
        self.assertEqual(state.delivered + state.dropped, len(taken))

    def test_the_size_bound_drops_the_oldest_and_a_restart_keeps_the_counts(self) -> None:
        config = ManagerConfig(address="127.0.0.1:9090", queue=QueueConfig(max_size=32 * 1024))
        room = self.make(config=config)
        room.manager.down = True
        self.room = room
        self.begin()
        taken = room.measure(500)
        dropped = room.link.state.dropped
        self.assertGreater(dropped, 0)
        self.successResultOf(room.leave())
        again = LinkRoom(self.folder / "reports", room.manager, config=config, clock=room.clock)
        room.manager.down = False
        self.room = again
        self.begin()
        again.run(60)
        self.assertEqual(room.manager.samples, taken[dropped:])
        self.assertEqual((again.link.state.dropped, again.link.state.delivered),
                         (dropped, len(taken) - dropped))

    def test_a_killed_daemon_loses_nothing_and_repeats_only_an_answer_that_was_lost(self) -> None:
        room = self.begin()
        taken = room.measure(3)
        room.manager.hanging.add(REPORT)
        taken += room.measure(3)  # one call is in the middle of it
        # Killed: nobody stops anything. The next daemon opens the same directory.
        room.manager.calm()
        again = LinkRoom(self.folder / "reports", room.manager)
        again.clock.advance(room.clock.seconds())
        self.room = again
        self.begin()
        again.run(30)
        self.assertEqual(again.manager.samples, taken)

    def test_a_lost_answer_is_the_only_reason_for_a_repeat(self) -> None:
        room = self.begin()
        room.measure(2)
        before = list(room.manager.samples)
        room.manager.losing = 1
        room.collectors.sample("cpu", room.wall())
        room.run(200)
        again = list(room.manager.samples[len(before):])
        self.assertEqual(len(again), 2)
        self.assertEqual(again[0], again[1])
        self.assertEqual(room.link.state.delivered, len(before) + 1)


class StopTest(LinkCase):
    def test_it_leaves_at_once_while_every_call_hangs_and_keeps_what_waits(self) -> None:
        room = self.begin()
        room.run(2)
        room.manager.hanging |= {HEARTBEAT, REPORT, SYNC, EVENTS}
        taken = room.measure(2)
        while not room.dial.in_flight:
            room.run(1)
        self.successResultOf(room.leave())
        self.assertEqual((room.dial.in_flight, room.dial.open), (0, 0))
        self.assertFalse(room.link.state.connected)
        self.assertEqual(room.clock.getDelayedCalls(), [])
        again = LinkRoom(self.folder / "reports", room.manager, clock=room.clock)
        room.manager.calm()
        self.room = again
        self.begin()
        again.run(10)
        self.assertEqual(room.manager.samples, taken)

    def test_it_stops_before_it_was_ever_connected(self) -> None:
        self.room.manager.down = True
        room = self.begin()
        self.successResultOf(room.leave())
        self.assertEqual(room.clock.getDelayedCalls(), [])

    def test_a_disk_that_hangs_holds_the_stop_for_half_a_second_at_most(self) -> None:
        room = self.begin()
        room.run(5)
        room.threads.hang("reports")
        room.threads.hang("reports-position")
        room.collectors.sample("cpu", room.wall())
        room.run(70)
        stopping = room.leave()
        room.run(1.25)
        self.successResultOf(stopping)


class ReloadTest(LinkCase):
    def test_another_address_gets_what_waits(self) -> None:
        self.room.manager.down = True
        room = self.begin()
        taken = room.measure(5)
        room.manager.down = False
        room.link.apply(replace(room.config, address="127.0.0.2:9090"))
        room.run(10)
        self.assertEqual(room.manager.samples, taken)
        self.assertEqual((room.dial.dialled, room.dial.open), (2, 1))
        self.assertEqual(room.link.state.address, "127.0.0.2:9090")

    def test_the_same_configuration_changes_nothing(self) -> None:
        room = self.begin()
        room.run(5)
        room.link.apply(room.config)
        room.run(100)
        self.assertEqual((room.dial.dialled, room.manager.calls[REGISTER]), (1, 1))

    def test_an_address_taken_out_ends_the_link(self) -> None:
        room = self.begin()
        room.run(5)
        room.link.apply(ManagerConfig())
        room.measure(5)
        self.assertEqual((room.dial.open, room.link.state.queued), (0, 0))
        self.assertFalse(room.link.state.connected)

    def test_smaller_bounds_hold_without_a_restart(self) -> None:
        self.room.manager.down = True
        room = self.begin()
        room.measure(120)
        room.link.apply(replace(room.config, queue=QueueConfig(max_age=600.0)))
        room.measure(1)
        self.assertLess(room.link.state.queued, 25)
        self.assertGreater(room.link.state.dropped, 200)


class ToldTest(LinkCase):
    def test_coming_up_and_breaking_are_events_told_once_each(self) -> None:
        room = self.begin()
        room.run(2)
        room.manager.down = True
        room.run(900)
        room.manager.down = False
        room.run(310)
        kinds = [event.type for event in room.bus.latest(100)]
        self.assertEqual(kinds, ["manager.connected", "manager.disconnected", "manager.connected"])

    def test_a_disk_that_refuses_raises_the_alert_until_it_takes_reports_again(self) -> None:
        (self.folder / "reports").write_text("a file is in the way")
        room = self.begin()
        taken = room.measure(3)
        self.assertIn(STORAGE_ALERT, {alert.type for alert in room.alerts.told})
        self.assertEqual(room.manager.samples, taken)
        self.assertTrue(room.link.state.storage_problem)
        (self.folder / "reports").unlink()
        taken += room.measure(3)
        self.assertEqual(room.manager.samples, taken)
        self.assertEqual(room.link.state.delivered, len(taken))
        self.assertEqual(room.link.state.storage_problem, "")
        self.assertNotIn(("", STORAGE_ALERT), room.alerts.standing)

    def test_a_fault_of_ours_in_one_part_leaves_the_others_alone(self) -> None:
        room = self.make()
        room.agents.all = None  # type: ignore[assignment,method-assign]
        self.room = room
        room.link._syncer._states = lambda: 1 / 0  # type: ignore[assignment,return-value]
        self.begin()
        taken = room.measure(5)
        self.assertEqual(room.manager.samples, taken)
        self.assertTrue(room.link.state.connected)
        self.assertGreaterEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
