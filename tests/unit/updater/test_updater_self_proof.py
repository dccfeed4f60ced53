"""When a new version has proven itself, and when it has not."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from daemon import faults
from daemon.model.agent import Identity
from daemon.model.event import Event, Severity
from daemon.procfs.identity import identify
from daemon.updater.selfupdate.probation import Phase, Probation, ProbationFile
from daemon.updater.selfupdate.proof import LOOK_S, LOST_S, Look, Proof, SelfProof, Verdict, lost_agents
from tests.fakes.installation import install, put_on_probation
from tests.fakes.supervised import FakeAgent, FakeRoster
from tests.fakes.threads import InlineThreads


def one(pid: int) -> Identity:
    return Identity(boot_id="boot", pid=pid, start_ticks=pid * 10)


def look(at: float, *, ready: bool = True, lost: bool = False) -> Look:
    return Look(at=at, not_ready={} if ready else {"http": "not listening"}, lost={"a": "gone"} if lost else {})


def verdicts(proof: Proof, *looks: Look) -> list[Verdict]:
    return [proof.judge(each) for each in looks]


WAIT, PROVEN, FAILED = Verdict.WAIT, Verdict.PROVEN, Verdict.FAILED


def test_being_well_for_the_period_is_the_proof() -> None:
    assert verdicts(Proof(10, 100), look(0), look(5), look(9.9), look(10)) == [WAIT, WAIT, WAIT, PROVEN]


def test_a_break_begins_the_period_anew() -> None:
    proof = Proof(10, 100)
    assert verdicts(proof, look(0), look(9), look(9.5, ready=False), look(10), look(19), look(20)) == \
        [WAIT, WAIT, WAIT, WAIT, WAIT, PROVEN]


def test_without_a_period_the_first_good_look_proves_it() -> None:
    assert verdicts(Proof(0, 100), look(0, ready=False), look(1)) == [WAIT, PROVEN]


def test_what_is_not_proven_in_time_has_failed_and_says_what_was_missing() -> None:
    proof = Proof(10, 20)
    assert verdicts(proof, look(0, ready=False), look(19), look(20)) == [WAIT, WAIT, FAILED]
    assert "not well for 10 s in time" in proof.reason
    proof = Proof(10, 20)
    verdicts(proof, look(20, ready=False))
    assert "http: not listening" in proof.reason


def test_agents_that_stay_lost_fail_it_before_its_time() -> None:
    proof = Proof(10, 1000)
    assert verdicts(proof, look(0, lost=True), look(LOST_S - 0.1, lost=True), look(LOST_S, lost=True)) == \
        [WAIT, WAIT, FAILED]
    assert "a: gone" in proof.reason
    assert verdicts(Proof(10, 1000), look(0, lost=True), look(4), look(6, lost=True)) == [WAIT, WAIT, WAIT]


@pytest.mark.parametrize(
    ("now", "lost"),
    [({"a": one(1)}, {}), ({"a": one(2)}, {"a": "pid 1 ran before, now pid 2"}),
     ({"a": None}, {"a": "pid 1 ran before, now nothing"}), ({}, {"a": "pid 1 ran before, now nothing"}),
     ({"a": Identity(boot_id="boot", pid=1, start_ticks=11)}, {"a": "pid 1 ran before, now pid 1"})],
)
def test_lost_is_whoever_runs_no_longer_as_the_same_process(
    now: Mapping[str, Identity | None], lost: dict[str, str]
) -> None:
    assert lost_agents({"a": one(1)}, now, lambda agent_id: False) == lost
    assert lost_agents({"a": one(1)}, now, lambda agent_id: True) == {}


class SelfProofCase(SynchronousTestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.root = install(Path(folder.name) / "i", "1", "2")
        self.clock = Clock()
        self.file = ProbationFile(self.root)
        self.roster = FakeRoster([FakeAgent("a"), FakeAgent("b")])
        for number, agent in enumerate(self.roster.agents, 1):
            agent.runs(number, 0.0)
        self.wrong = {"config": "", "http": ""}
        self.proof = SelfProof(self.clock, InlineThreads(self.clock), lambda: self.wrong, self.roster)
        self.addCleanup(faults.arm, {})

    def probation(self, **facts: Any) -> Probation:
        me = identify(os.getpid())
        assert me is not None
        return put_on_probation(self.root, **{
            "daemon": me, "agents": {"a": one(1), "b": one(2)}, "verify_period_s": 2.0, "give_up_mono": 20.0,
        } | facts)

    def begin(self, **facts: Any) -> None:
        self.proof.begin(self.file, self.probation(**facts))

    def wait(self, seconds: float) -> None:
        for _ in range(int(seconds / LOOK_S)):
            self.clock.advance(LOOK_S)

    def state(self) -> Phase:
        found = self.file.read()
        assert found is not None
        return found.state

    def event(self, kind: str, agent_id: str = "", **data: Any) -> None:
        self.proof.hear(Event(
            id="1", at=1.0, type=kind, severity=Severity.INFO, agent_id=agent_id, message="", data=data
        ))

    def test_a_version_that_is_well_is_confirmed_once_for_everybody_who_waits(self) -> None:
        early = self.proof.wait()
        self.begin()
        self.wait(1.5)
        self.assertNoResult(early)
        self.wait(1)
        proved = self.successResultOf(early)
        self.assertTrue(proved.success)
        self.assertEqual(proved.evidence["agents"], {"a": 1, "b": 2})
        self.assertEqual(self.state(), Phase.CONFIRMED)
        self.assertIs(self.successResultOf(self.proof.wait()), proved)
        self.wait(60)
        self.successResultOf(Deferred.fromCoroutine(self.proof.stop()))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_readiness_and_agents_are_asked_and_nobody_else(self) -> None:
        self.wrong["http"] = "not listening"
        self.begin()
        self.wait(5)
        self.wrong["http"] = ""
        self.wait(1)
        self.assertIsNone(self.proof.decided)
        self.wait(2)
        self.assertTrue(self.proof.decided and self.proof.decided.success)

    def test_agents_that_were_restarted_fail_it_unconfirmed(self) -> None:
        self.roster.agents[0].runs(77, 1.0)
        waiting = self.proof.wait()
        self.begin()
        self.wait(LOST_S + 1)
        proved = self.successResultOf(waiting)
        self.assertFalse(proved.success)
        self.assertEqual(proved.evidence["lost"], {"a": "pid 1 ran before, now pid 77"})
        self.assertEqual(self.state(), Phase.TRYING)

    def test_what_agents_and_operators_did_is_excused(self) -> None:
        for kind, agent_id in (("agent.exited", "a"), ("operation", "a"), ("operation", ""), ("config.reloaded", "")):
            with self.subTest(kind):
                self.setUp()
                self.begin()
                self.roster.agents[0].ends()
                self.wait(1)
                self.event(kind, agent_id)
                self.wait(3)
                self.assertTrue(self.proof.decided and self.proof.decided.success)

    def test_updates_of_agents_are_excused_with_all_who_share_the_binary(self) -> None:
        for kind in ("update.applying", "update.rolling_back", "update.resumed"):
            with self.subTest(kind):
                self.setUp()
                self.event(kind, "a", agents=["a", "b"])
                self.begin()
                for agent in self.roster.agents:
                    agent.ends()
                self.wait(4)
                self.assertTrue(self.proof.decided and self.proof.decided.success)

    def test_other_events_excuse_nothing(self) -> None:
        self.begin()
        self.roster.agents[0].ends()
        self.event("agent.started", "a")
        self.event("agent.exited", "b")
        self.wait(LOST_S + 1)
        self.assertFalse(self.proof.decided and self.proof.decided.success)

    def test_one_that_was_taken_back_meanwhile_learns_it(self) -> None:
        self.begin()
        self.file.take_back("u1", "watcher", "too late")
        self.wait(3)
        assert self.proof.decided is not None
        self.assertFalse(self.proof.decided.success)
        self.assertIn("taken back", self.proof.decided.reason)

    def test_another_process_has_nothing_to_prove(self) -> None:
        self.begin(daemon=one(5))
        assert self.proof.decided is not None
        self.assertIn("is gone", self.proof.decided.reason)

    def test_a_full_disk_at_the_confirmation_is_tried_again(self) -> None:
        faults.arm({faults.VARIABLE: "update.daemon.proven:1:enospc"})
        self.begin()
        self.wait(4)
        self.assertIsNone(self.proof.decided)
        faults.arm({})
        self.wait(1)
        self.assertEqual(self.state(), Phase.CONFIRMED)

    def test_a_disk_that_stays_full_fails_it_in_the_end(self) -> None:
        faults.arm({faults.VARIABLE: "update.daemon.proven:1:enospc"})
        self.begin()
        self.wait(21)
        assert self.proof.decided is not None
        self.assertIn("No space left", self.proof.decided.reason)

    def test_whoever_waits_may_leave(self) -> None:
        left, stays = self.proof.wait(), self.proof.wait()
        left.cancel()
        self.failureResultOf(left)
        self.begin()
        self.wait(3)
        self.assertTrue(self.successResultOf(stays).success)

