"""Who waits for which operation, and what supersedes what."""

from __future__ import annotations

from twisted.internet.defer import CancelledError, Deferred
from twisted.trial.unittest import SynchronousTestCase

from daemon.agents.operations import OperationBoard, Outcome, Verb
from daemon.errors import AgentStartError, AgentStopError, RequestError, RequestFault


class BoardTest(SynchronousTestCase):
    def setUp(self) -> None:
        self.board = OperationBoard()

    def refused(self, waiting: Deferred[Outcome]) -> RequestFault:
        return self.failureResultOf(waiting, RequestError).value.fault

    def test_a_start_ends_when_the_agent_runs(self) -> None:
        start = self.board.add(Verb.START, spawns=0)
        self.board.stopped()
        self.assertNoResult(start)
        self.board.running(0)
        self.assertEqual(self.successResultOf(start), Outcome())
        self.assertEqual(len(self.board), 0)

    def test_a_stop_ends_when_nothing_is_left(self) -> None:
        first, second = self.board.add(Verb.STOP, spawns=1), self.board.add(Verb.STOP, spawns=1)
        self.board.running(5)
        self.assertNoResult(first)
        self.board.stopped()
        self.successResultOf(first)
        self.successResultOf(second)

    def test_a_restart_waits_for_a_process_that_began_after_it(self) -> None:
        restart = self.board.add(Verb.RESTART, spawns=3)
        self.board.running(3)
        self.board.start_failed(AgentStartError("the old one"), 3)
        self.assertNoResult(restart)
        self.board.running(4)
        self.successResultOf(restart)

    def test_a_failed_spawn_fails_starts_and_the_restarts_that_waited_for_it(self) -> None:
        start = self.board.add(Verb.START, spawns=1)
        restart = self.board.add(Verb.RESTART, spawns=1)
        later = self.board.add(Verb.RESTART, spawns=2)
        error = AgentStartError("no such binary")
        self.board.start_failed(error, 2)
        self.assertIs(self.failureResultOf(start, AgentStartError).value, error)
        self.assertIs(self.failureResultOf(restart, AgentStartError).value, error)
        self.assertNoResult(later)
        self.board.abandon(RequestError(RequestFault.STOPPING, "leaving"))
        self.assertIs(self.refused(later), RequestFault.STOPPING)

    def test_a_stop_supersedes_starts_and_restarts_but_no_stop(self) -> None:
        stop = self.board.add(Verb.STOP, spawns=1)
        start = self.board.add(Verb.START, spawns=1)
        restart = self.board.add(Verb.RESTART, spawns=1)
        again = self.board.add(Verb.STOP, spawns=1)
        self.assertIs(self.refused(start), RequestFault.SUPERSEDED)
        self.assertIs(self.refused(restart), RequestFault.SUPERSEDED)
        self.board.stopped()
        self.successResultOf(stop)
        self.successResultOf(again)

    def test_a_start_that_comes_during_a_stop_waits_and_both_succeed(self) -> None:
        stop = self.board.add(Verb.STOP, spawns=1)
        start = self.board.add(Verb.START, spawns=1)
        self.board.stopped()
        self.successResultOf(stop)
        self.assertNoResult(start)
        self.board.running(2)
        self.successResultOf(start)

    def test_a_stop_that_fails_fails_everybody(self) -> None:
        waiting = [self.board.add(Verb.STOP, spawns=1), self.board.add(Verb.RESTART, spawns=1)]
        self.board.stop_failed(AgentStopError("process 7 survives SIGKILL"))
        for each in waiting:
            self.failureResultOf(each, AgentStopError)
        self.assertEqual(len(self.board), 0)

    def test_warnings_reach_those_who_wait_for_that_verb_only(self) -> None:
        start = self.board.add(Verb.START, spawns=0, warnings=("first",))
        restart = self.board.add(Verb.RESTART, spawns=0)
        self.board.warn(Verb.START, "not stored")
        self.board.running(1)
        self.assertEqual(self.successResultOf(start).warnings, ("first", "not stored"))
        self.assertEqual(self.successResultOf(restart).warnings, ())

    def test_who_gives_up_waiting_disturbs_nobody(self) -> None:
        left, stays = self.board.add(Verb.START, spawns=0), self.board.add(Verb.START, spawns=0)
        left.cancel()
        self.failureResultOf(left, CancelledError)
        self.board.running(1)
        self.successResultOf(stays)
        gone = self.board.add(Verb.STOP, spawns=0)
        gone.cancel()
        self.failureResultOf(gone, CancelledError)
        self.board.stop_failed(AgentStopError("x"))
        self.assertEqual(len(self.board), 0)

    def test_a_new_request_made_by_an_answer_is_not_lost(self) -> None:
        start = self.board.add(Verb.START, spawns=0)
        made: list[Deferred[Outcome]] = []
        start.addCallback(lambda _done: made.append(self.board.add(Verb.RESTART, spawns=1)))
        self.board.running(1)
        self.assertNoResult(made[0])
        self.board.running(2)
        self.successResultOf(made[0])
