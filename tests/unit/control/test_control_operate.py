"""Operations asked of control: patience, cancellation, audit."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from typing import Any

from twisted.internet.defer import CancelledError, Deferred

from daemon.agents.operations import Verb
from daemon.control.control import OPERATION_PATIENCE_S, Operated, parse_verb
from daemon.errors import AgentStartError, RequestError, RequestFault
from daemon.model.agent import AgentState
from daemon.model.event import Event, Severity
from tests.fakes.control import RigCase

UNMOVED = frozenset({int(signal.SIGTERM)})


class OperateTest(RigCase):
    def prepare(self) -> None:
        self.lab.spec("web")
        self.lab.spec("stubborn", stop_timeout=200.0)
        self.lab.program("stubborn").ignores = UNMOVED

    def operate(self, agent_id: str, verb: Verb, **how: Any) -> Deferred[Operated]:
        return self.rig.control.operate(agent_id, verb, **how)

    def audits(self) -> list[Event]:
        return [event for event in self.rig.bus.latest(100) if event.type == "operation"]

    def data(self, event: Event) -> Mapping[str, Any]:
        return event.data

    def state(self, agent_id: str = "web") -> AgentState:
        return self.lab.life.agent(agent_id).state

    def test_the_answer_comes_with_the_outcome_and_leaves_no_timer(self) -> None:
        before = len(self.lab.clock.getDelayedCalls())
        stopping = self.operate("web", Verb.STOP)
        self.lab.settle()
        done = self.successResultOf(stopping)
        self.assertEqual((done.view.status, done.in_progress, done.warnings), ("stopped", False, ()))
        self.lab.run(1)
        self.assertLessEqual(len(self.lab.clock.getDelayedCalls()), before)

    def test_after_90_s_it_answers_in_progress_and_the_operation_goes_on(self) -> None:
        self.assertEqual(OPERATION_PATIENCE_S, 90.0)
        stopping = self.operate("stubborn", Verb.STOP)
        self.lab.run(89.5)
        self.assertNoResult(stopping)
        self.lab.run(0.5)
        answer = self.successResultOf(stopping)
        self.assertEqual((answer.in_progress, answer.view.status), (True, "stopping"))
        self.assertEqual(self.audits(), [])
        self.lab.run(120)
        self.assertIs(self.state("stubborn"), AgentState.STOPPED)
        (audit,) = self.audits()
        self.assertEqual(audit.data["error"], "")
        self.assertGreater(audit.data["duration_s"], 190)

    def test_a_failure_after_the_answer_is_in_the_audit_alone(self) -> None:
        self.lab.program("stubborn").stuck = True
        self.lab.life.process("stubborn").program.stuck = True
        stopping = self.operate("stubborn", Verb.STOP)
        self.lab.run(90)
        self.assertTrue(self.successResultOf(stopping).in_progress)
        self.lab.run(150)
        (audit,) = self.audits()
        self.assertIs(audit.severity, Severity.WARN)
        self.assertTrue(audit.data["error"])
        self.assertEqual(self.flushLoggedErrors(), [])

    def test_who_cancels_leaves_the_operation_running(self) -> None:
        stopping = self.operate("stubborn", Verb.STOP, peer="uid 0 pid 5")
        stopping.cancel()
        self.failureResultOf(stopping, CancelledError)
        self.assertIs(self.state("stubborn"), AgentState.STOPPING)
        self.lab.run(210)
        self.assertIs(self.state("stubborn"), AgentState.STOPPED)
        (audit,) = self.audits()
        self.assertEqual((audit.data["peer"], audit.data["error"]), ("uid 0 pid 5", ""))
        self.assertEqual(self.flushLoggedErrors(), [])

    def test_an_agent_that_leaves_the_file_meanwhile_ends_the_wait_with_unknown(self) -> None:
        stopping = self.operate("web", Verb.STOP)
        del self.lab.specs["web"]
        self.lab.life.manager.apply(self.lab.specs.values())
        self.lab.run(91)
        self.assertTrue(stopping.called)
        stopping.addErrback(lambda failure: failure.trap(RequestError))
        self.successResultOf(stopping)

    def test_a_failed_start_fails_with_its_error_and_is_audited(self) -> None:
        self.lab.life.manager.stop("web")
        self.lab.settle()
        self.lab.binary("web").unlink()
        starting = self.operate("web", Verb.START)
        self.lab.settle()
        error = self.failureResultOf(starting, AgentStartError).value
        (audit,) = self.audits()
        self.assertEqual(audit.data["error"], error.message)
        self.assertIs(audit.severity, Severity.WARN)
        self.assertEqual(audit.agent_id, "web")

    def test_a_superseded_operation_fails_so_and_is_audited(self) -> None:
        self.successResultOf(self.stopped("web"))
        starting = self.operate("web", Verb.START)
        stopping = self.stopped("web")
        self.assertIs(self.failureResultOf(starting, RequestError).value.fault, RequestFault.SUPERSEDED)
        self.successResultOf(stopping)
        self.assertEqual([e.data["verb"] for e in self.audits()], ["stop", "start", "stop"])
        self.assertIn("superseded", self.audits()[1].message)

    def stopped(self, agent_id: str) -> Deferred[Operated]:
        stopping = self.operate(agent_id, Verb.STOP)
        self.lab.settle()
        return stopping

    def test_an_unknown_agent_is_refused_at_once_and_not_audited(self) -> None:
        error = self.assertRaises(RequestError, self.operate, "nope", Verb.START)
        self.assertIs(error.fault, RequestFault.UNKNOWN)
        self.assertEqual(self.audits(), [])

    def test_the_audit_says_who_did_what_and_how_long_it_took(self) -> None:
        self.operate("web", Verb.RESTART, peer="uid 0 pid 7")
        self.lab.settle()
        self.lab.run(1)
        self.operate("web", Verb.STOP)
        self.lab.settle()
        first, second = self.audits()
        self.assertEqual(first.message, "restart of agent web by uid 0 pid 7: done")
        self.assertEqual(set(first.data), {"verb", "peer", "error", "duration_s"})
        self.assertEqual((first.data["verb"], first.data["duration_s"]), ("restart", 1.0))
        self.assertIs(first.severity, Severity.INFO)
        self.assertEqual(second.message, "stop of agent web by the daemon: done")

    def test_all_agents_get_a_result_each_and_one_audit(self) -> None:
        self.lab.spec("broken", missing=True)
        self.lab.life.manager.apply(self.lab.specs.values())
        work = self.rig.control.operate_all(Verb.RESTART, graceful=False, peer="p")
        self.lab.settle()
        self.lab.run(1)
        results = self.successResultOf(work)
        self.assertEqual({k: r.success for k, r in results.items()},
                         {"web": True, "stubborn": True, "broken": False})
        (audit,) = self.audits()
        self.assertIn("restart of all agents by p", audit.message)
        self.assertIn("broken: D3001", audit.data["error"])
        self.assertEqual(audit.agent_id, "")

    def test_who_cancels_an_operation_on_all_leaves_it_running(self) -> None:
        work = self.rig.control.operate_all(Verb.STOP, graceful=False)
        work.cancel()
        self.failureResultOf(work, CancelledError)
        self.lab.run(1)
        self.assertIs(self.state("stubborn"), AgentState.STOPPED)
        self.assertEqual(len(self.audits()), 1)
        started = self.rig.control.operate_all(Verb.START)
        self.lab.run(1)
        self.assertTrue(all(r.success for r in self.successResultOf(started).values()))

    def test_verbs_are_three(self) -> None:
        self.assertEqual([parse_verb(v) for v in ("start", "stop", "restart")], list(Verb))
        for bad in ("", "START", "kill", "stop "):
            error = self.assertRaises(RequestError, parse_verb, bad)
            self.assertIs(error.fault, RequestFault.INVALID)
            self.assertIn("must be start, stop or restart", error.message)

    def test_the_node_shows_a_failing_store_and_lost_events(self) -> None:
        self.assertIsNone(self.rig.control.node().storage_error)
        self.lab.life.store.failing = "No space left on device"
        self.assertEqual(self.rig.control.node().storage_error, "No space left on device")
        self.assertEqual(self.rig.control.node().events_lost, 0)
