"""What daemons tell: who is online, whose node is whose, repeats, agents that go, and retention."""

from __future__ import annotations

import sqlite3
from typing import Any

from twisted.internet.defer import Deferred

from daemon.errors import RequestError, RequestFault, StorageError
from daemon.manager import queries, records
from daemon.manager.config import ManagerConfig, RetentionConfig
from daemon.manager.fleet import EXPIRE_EVERY_S, Fleet
from daemon.manager.model import Sample
from daemon.manager.servicer import NAMELESS
from tests.fakes.manager import BEGIN, ManagerCase, agent, event, node

S1 = Sample("cpu", 1_800_000_000, '{"usage_percent":1.5}')


class FleetTest(ManagerCase):
    config = ManagerConfig(work_dir="/nowhere", retention=RetentionConfig(metrics=3600, events=7200))

    def state(self, node_id: str = "n1") -> str:
        return str(self.rig.database._run(queries.node, node_id).state)

    def events(self, node_id: str = "n1") -> list[str]:
        found = self.rig.database._run(queries.events, node_id, 0.0, 1e12, None, 100).rows
        return [each.type for each in reversed(found)]

    def start(self) -> None:
        self.rig.fleet.start(self.rig.database._run(queries.nodes))

    # -------------------------------------------------------------- presence

    def test_a_node_goes_offline_with_its_third_missed_heartbeat_and_is_never_deleted(self) -> None:
        self.start()
        self.do(self.rig.register())
        for _ in range(11):
            self.rig.clock.advance(15)
        self.assertEqual(self.state(), "online")
        self.rig.clock.advance(15)  # 180 s
        self.assertEqual(self.state(), "offline")
        self.assertEqual((self.rig.fleet.presence.online, self.rig.fleet.presence.offline), (0, 1))
        self.rig.clock.pump([15.0] * 200)
        self.assertEqual(self.state(), "offline")
        self.assertEqual(self.events(), ["node.registered", "node.offline"])

    def test_a_heartbeat_brings_it_back(self) -> None:
        self.start()
        self.do(self.rig.register())
        self.rig.clock.pump([15.0] * 12)
        self.do(self.rig.beat())
        self.assertEqual(self.state(), "online")
        self.assertEqual(self.events(), ["node.registered", "node.offline", "node.online"])
        self.rig.clock.pump([15.0] * 11)
        self.assertEqual(self.state(), "online")

    def test_a_registration_brings_it_back_with_its_new_facts(self) -> None:
        self.start()
        self.do(self.rig.register())
        self.rig.clock.pump([15.0] * 12)
        self.do(self.rig.register(node(ip="192.0.2.9", daemon_version="2.0.0")))
        row = self.rig.database._run(queries.node, "n1")
        self.assertEqual((row.state, row.ip, row.daemon_version), ("online", "192.0.2.9", "2.0.0"))
        self.assertEqual((row.first_seen_at, row.registered_at), (BEGIN, BEGIN + 180))

    def test_heartbeats_in_time_keep_it_online(self) -> None:
        self.start()
        self.do(self.rig.register())
        for _ in range(20):
            self.rig.clock.pump([15.0] * 4)
            self.do(self.rig.beat())
        self.assertEqual(self.events(), ["node.registered"])

    def test_a_clock_that_is_set_moves_nobody(self) -> None:
        self.start()
        self.do(self.rig.register())
        self.rig.wall_offset_s += 1e6
        self.rig.clock.advance(15)
        self.assertEqual(self.state(), "online")
        self.rig.wall_offset_s -= 2e6
        self.rig.clock.pump([15.0] * 11)
        self.assertEqual(self.state(), "offline")

    def test_a_manager_that_was_away_gives_every_node_its_time(self) -> None:
        self.do(self.rig.register())
        self.rig.clock.advance(100_000)  # nobody watched
        again = Fleet(self.rig.clock, self.rig.wall, self.rig.intake, self.rig.config)
        again.start(self.rig.database._run(queries.nodes))
        self.addCleanup(lambda: self.successResultOf(Deferred.fromCoroutine(again.stop())))
        self.rig.clock.pump([15.0] * 11)
        self.assertEqual(self.state(), "online")
        self.rig.clock.advance(15)
        self.assertEqual(self.state(), "offline")

    def test_a_heartbeat_that_waits_for_its_commit_counts_as_come(self) -> None:
        self.start()
        self.do(self.rig.register())
        self.rig.clock.pump([15.0] * 11)
        self.rig.database.held = []
        beat = self.rig.beat()
        self.rig.clock.advance(15)
        while self.rig.database.held:
            self.rig.database.let_go()
        self.do(beat)
        self.assertEqual(self.events(), ["node.registered"])
        self.rig.database.held = None

    def test_nodes_that_fall_silent_together_are_marked_in_one_commit(self) -> None:
        self.start()
        for number in range(20):
            self.do(self.rig.register(node(f"n{number}")))
        self.rig.clock.pump([15.0] * 11)
        before = self.rig.database.writes
        self.rig.database.held = []
        self.rig.clock.advance(15)
        self.rig.database.let_go()  # the first began alone
        self.rig.database.let_go()
        self.assertEqual(self.rig.fleet.presence.offline, 20)
        self.rig.database.release()
        self.assertLessEqual(self.rig.database.writes - before, 3)  # retention has one of its own

    def test_a_disk_that_refuses_marks_nobody_and_the_next_round_does(self) -> None:
        self.start()
        self.do(self.rig.register())
        self.rig.database.refusing = sqlite3.OperationalError("disk full")
        self.rig.clock.pump([15.0] * 13)
        self.assertEqual(self.rig.fleet.presence.offline, 0)
        self.rig.database.refusing = None
        self.rig.clock.advance(15)
        self.assertEqual((self.state(), self.rig.fleet.presence.offline), ("offline", 1))

    def test_a_disk_that_refuses_acknowledges_nothing(self) -> None:
        self.do(self.rig.register())
        self.rig.database.refusing = sqlite3.OperationalError("disk full")
        self.fails(self.rig.beat(), StorageError)
        self.fails(self.rig.report(S1), StorageError)
        self.rig.database.refusing = None
        self.assertEqual(self.do(self.rig.report(S1)), 0)

    # ------------------------------------------------------------- who is who

    def test_who_never_registered_is_asked_to(self) -> None:
        for told in (self.rig.beat, self.rig.report, self.rig.sync, self.rig.tell):
            error = self.fails(told(), RequestError)
            self.assertIs(error.fault, RequestFault.UNKNOWN)
        self.assertEqual(self.rig.fleet.presence.online, 0)

    def test_a_node_speaks_only_with_the_certificate_that_registered_it(self) -> None:
        self.do(self.rig.register(node(owner="host-1"), "host-1", "host-1.example.org"))
        for told in (
            self.rig.register(node(owner="host-2"), "host-2"), self.rig.beat("n1", "host-2"),
            self.rig.report(S1, names=("host-2",)), self.rig.sync(agent(), names=("host-2",)),
        ):
            error = self.fails(told, RequestError)
            self.assertIs(error.fault, RequestFault.FORBIDDEN)
        self.do(self.rig.beat("n1", "other", "HOST-1"))

    def test_a_certificate_without_a_name_speaks_for_nobody_else(self) -> None:
        self.do(self.rig.register(node(owner="host-1"), "host-1"))
        error = self.fails(self.rig.beat("n1", *NAMELESS), RequestError)
        self.assertIs(error.fault, RequestFault.FORBIDDEN)
        self.do(self.rig.register(node("n2", owner=""), *NAMELESS))
        self.do(self.rig.beat("n2", *NAMELESS))

    def test_what_registered_without_tls_belongs_to_the_first_certificate(self) -> None:
        self.do(self.rig.register())
        self.do(self.rig.register(node(owner="host-1"), "host-1"))
        self.fails(self.rig.beat("n1", "host-2"), RequestError)

    def test_an_operator_lets_go_of_a_certificate(self) -> None:
        self.do(self.rig.register(node(owner="host-1"), "host-1"))
        self.do(Deferred.fromCoroutine(self.rig.fleet.release("n1", "me")))
        self.do(self.rig.register(node(owner="host-2"), "host-2"))
        self.fails(self.rig.beat("n1", "host-1"), RequestError)
        self.fails(Deferred.fromCoroutine(self.rig.fleet.release("n2", "me")), RequestError)

    # ---------------------------------------------------------------- reports

    def test_repeats_are_dropped_by_node_type_and_timestamp(self) -> None:
        self.do(self.rig.register())
        self.do(self.rig.register(node("n2")))
        self.assertEqual(self.do(self.rig.report(S1, S1._replace(type="disk"))), 0)
        self.assertEqual(self.do(self.rig.report(S1._replace(values="{}"), S1._replace(at=S1.at + 60))), 1)
        self.assertEqual(self.do(self.rig.report(S1, node_id="n2")), 0)
        self.assertEqual((self.rig.fleet.samples_total, self.rig.fleet.repeats_total), (4, 1))
        found, more = self.rig.database._run(queries.samples, "n1", "cpu", 0, 10**11, None, 10)
        self.assertEqual([each.numbers for each in found], [S1.values, S1.values])
        self.assertFalse(more)

    def test_events_are_kept_once_and_what_was_lost_is_summed(self) -> None:
        self.do(self.rig.register())
        self.assertEqual(self.do(self.rig.tell(event(), event("1-2"), lost=3)), 0)
        self.assertEqual(self.do(self.rig.tell(event("1-2"), event("1-3"), lost=2)), 1)
        self.assertEqual((self.rig.fleet.events_total, self.rig.fleet.lost_total), (3, 5))
        self.assertEqual(self.rig.database._run(queries.node, "n1").reports_lost, 5)

    def test_a_call_told_twice_loses_once(self) -> None:
        self.do(self.rig.register())
        for _ in range(2):
            self.do(self.rig.tell(event(), lost=3))
        self.do(self.rig.tell(lost=1))
        self.assertEqual(self.rig.database._run(queries.node, "n1").reports_lost, 4)
        self.assertEqual(self.rig.fleet.lost_total, 4)

    def agents(self) -> list[tuple[str, str, float]]:
        found = self.rig.database._run(queries.agents_of, ["n1"])["n1"]
        return [(each.agent_id, each.status, each.since - BEGIN) for each in found]

    def test_states_are_the_newest_and_say_since_when(self) -> None:
        self.do(self.rig.register())
        self.do(self.rig.sync(agent("a"), agent("b")))
        self.rig.clock.advance(10)
        self.do(self.rig.sync(agent("b", "failed")))
        self.do(self.rig.sync())
        self.rig.clock.advance(10)
        self.do(self.rig.sync(agent("a"), agent("b", "failed", pid=0)))
        self.assertEqual(self.agents(), [("a", "running", 0.0), ("b", "failed", 10.0)])

    def test_an_agent_its_node_no_longer_names_goes_after_a_while(self) -> None:
        self.do(self.rig.register())
        self.do(self.rig.sync(agent("a"), agent("b")))
        for _ in range(10):
            self.rig.clock.advance(60)
            self.do(self.rig.sync(agent("a")))
        self.assertEqual(len(self.agents()), 2)
        self.rig.clock.advance(60)
        self.do(self.rig.sync(agent("a")))
        self.assertEqual([each[0] for each in self.agents()], ["a"])

    def test_agents_of_a_node_that_is_silent_stay(self) -> None:
        self.start()
        self.do(self.rig.register())
        self.do(self.rig.sync(agent("a")))
        self.rig.clock.pump([15.0] * 400)
        self.assertEqual([each[0] for each in self.agents()], ["a"])

    # -------------------------------------------------------------- retention

    def count(self, table: str) -> int:
        return int(self.rig.database.connection.execute(f"SELECT COUNT(*) FROM {table}").fetchone()[0])

    def test_what_is_older_than_kept_goes_by_when_it_came_in(self) -> None:
        self.do(self.rig.register())
        self.do(self.rig.report(S1, S1._replace(at=1)))  # a clock far behind
        self.do(self.rig.tell(event(at=1.0)))
        self.rig.clock.advance(3000)
        self.do(self.rig.report(S1._replace(at=2)))
        self.start()
        self.rig.clock.advance(EXPIRE_EVERY_S)
        self.assertEqual(self.count("samples"), 3)
        self.rig.clock.pump([60.0] * 10)
        self.assertEqual(self.count("samples"), 1)
        self.rig.clock.pump([60.0] * 120)
        self.assertEqual((self.count("samples"), self.rig.fleet.expired_total >= 4), (0, True))

    def test_it_deletes_slice_by_slice(self) -> None:
        self.do(self.rig.register())
        for number in range(6):
            self.do(self.rig.report(S1._replace(at=number)))
            self.rig.clock.advance(records.SLICE_S / 2)
        rows, more = self.rig.database._run(records.expire, "samples", self.rig.wall())
        self.assertEqual((rows, more), (2, True))
        self.assertEqual(self.rig.database._run(records.expire, "samples", BEGIN), (0, False))

    def test_a_disk_that_refuses_ends_one_round_of_it(self) -> None:
        self.start()
        self.rig.database.refusing = sqlite3.OperationalError("disk full")
        self.rig.clock.advance(EXPIRE_EVERY_S)
        self.rig.database.refusing = None
        self.rig.clock.advance(EXPIRE_EVERY_S)


def test_a_schema_of_a_newer_manager_is_refused() -> None:
    import pytest

    from daemon.manager.migrations import NEWEST, pending

    assert not pending(NEWEST)
    with pytest.raises(StorageError, match="start the newer version"):
        pending(NEWEST + 1)


def test_a_migration_that_fails_leaves_nothing(tmp_path: Any) -> None:
    import pytest

    from daemon.manager.migrations import migrate, version_of

    connection = sqlite3.connect(tmp_path / "m.db")
    version_of(connection.cursor())
    connection.commit()
    with pytest.raises(sqlite3.OperationalError):
        migrate(connection.cursor(), 1, ("CREATE TABLE a (b INTEGER)", "CREATE NONSENSE"))
    connection.rollback()
    assert version_of(connection.cursor()) == 0
    assert not connection.execute("SELECT name FROM sqlite_master WHERE name = 'a'").fetchall()
    connection.close()
