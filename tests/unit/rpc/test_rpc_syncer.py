"""States of agents on their way to the Manager."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import grpc
from twisted.trial.unittest import SynchronousTestCase

from tests.fakes.rpc_link import LinkRoom
from tests.fakes.rpc_manager import HEARTBEAT, REGISTER, SYNC, Refused


class SyncerTest(SynchronousTestCase):
    def setUp(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="hd-link-"))
        self.addCleanup(shutil.rmtree, self.folder)
        self.room = LinkRoom(self.folder / "reports")
        self.room.agents.states.update(web="running", db="running")

    def begin(self) -> LinkRoom:
        self.room.link.startService()
        self.addCleanup(lambda: self.successResultOf(self.room.leave()))
        self.room.run(2)
        return self.room

    def change(self, agent_id: str, status: str) -> None:
        self.room.agents.states[agent_id] = status
        self.room.link.states_changed(agent_id)

    def test_all_agents_at_the_connect_and_every_interval(self) -> None:
        room = self.begin()
        self.assertEqual(room.manager.syncs, [{"web": "running", "db": "running"}])
        room.run(180)
        self.assertEqual(len(room.manager.syncs), 4)

    def test_no_agents_are_told_as_none(self) -> None:
        self.room.agents.states.clear()
        self.begin()
        self.assertEqual(self.room.manager.syncs, [{}])

    def test_a_change_alone_goes_a_second_later_in_its_newest_state(self) -> None:
        room = self.begin()
        self.change("web", "stopping")
        room.run(0.5)
        self.change("web", "stopped")
        self.assertEqual(len(room.manager.syncs), 1)
        room.run(0.75)
        self.assertEqual(room.manager.syncs[1:], [{"web": "stopped"}])

    def test_a_thousand_changes_are_one_call_a_second(self) -> None:
        room = self.begin()
        for number in range(1000):
            self.change("web", ("running", "restarting")[number % 2])
            room.clock.advance(0.01)
        room.run(2)
        self.assertLessEqual(len(room.manager.syncs), 13)
        self.assertEqual(room.manager.syncs[-1], {"web": "restarting"})

    def test_what_was_not_acknowledged_is_told_again_as_it_is_by_then(self) -> None:
        room = self.begin()
        room.manager.refusing[SYNC] = Refused(grpc.StatusCode.INTERNAL)
        self.change("web", "stopping")
        room.run(5)
        self.change("web", "stopped")
        room.manager.calm()
        room.run(50)
        self.assertEqual(room.manager.syncs[1]["web"], "stopped")
        self.assertEqual(len(room.manager.syncs), 2)  # acknowledged: it is not told once more

    def test_a_change_during_the_call_is_told_after_it(self) -> None:
        room = self.begin()
        room.manager.hanging.add(SYNC)
        self.change("web", "stopping")
        room.run(2)
        self.assertEqual(room.dial.in_flight, 1)
        self.change("db", "failed")
        room.manager.calm()
        room.run(40)
        self.assertEqual(room.manager.syncs[1], {"web": "stopping", "db": "failed"})

    def test_an_agent_that_left_is_told_by_the_next_whole_one_alone(self) -> None:
        room = self.begin()
        del room.agents.states["db"]
        room.link.states_changed("db")
        room.run(10)
        self.assertEqual(len(room.manager.syncs), 1)
        room.run(60)
        self.assertEqual(room.manager.syncs[-1], {"web": "running"})

    def test_unimplemented_is_asked_again_hourly_and_stops_nothing(self) -> None:
        self.room.manager.refusing[SYNC] = Refused(grpc.StatusCode.UNIMPLEMENTED)
        room = self.begin()
        for _ in range(60):
            self.change("web", "running")
            room.run(59, step=1.0)
        self.assertEqual(room.manager.calls[SYNC], 1)
        self.assertTrue(room.link.state.connected)
        self.assertEqual(room.link.state.last_error, "")
        self.assertGreater(room.manager.calls[HEARTBEAT], 55)
        room.manager.calm()
        room.run(200)
        self.assertEqual(room.manager.syncs[0], {"web": "running", "db": "running"})

    def test_success_false_stops_nothing_and_shows(self) -> None:
        self.room.manager.unwilling.add(SYNC)
        room = self.begin()
        taken = room.measure(10)
        self.assertEqual(room.manager.samples, taken)
        self.assertEqual(room.manager.calls[REGISTER], 1)
        self.assertTrue(room.link.state.last_error.startswith("D2003 states"), room.link.state.last_error)
        room.manager.calm()
        room.run(300)
        self.assertEqual(room.link.state.last_error, "")
