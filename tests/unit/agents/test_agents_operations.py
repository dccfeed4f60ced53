"""Start, stop and restart by operators: one at a time, joined, queued, superseded."""

from __future__ import annotations

import errno
import signal

from agents_lab import CLEAN, FAILED, LabCase

from daemon import faults
from daemon.config.schema import Policy, RestartConfig
from daemon.errors import AgentStartError, ErrorCode, RequestError, RequestFault
from daemon.model.agent import AgentState, Wanted
from daemon.model.heartbeat import Heartbeat
from tests.fakes.host import Child

TERM = frozenset({int(signal.SIGTERM)})


class Start(LabCase):
    def stopped(self, **keys: object) -> None:
        """A daemon whose one agent was stopped."""
        self.running(**keys)
        self.succeeded(self.life.manager.stop("web"))
        self.lab.run(1)

    def test_it_succeeds_when_the_process_has_lived_start_seconds(self) -> None:
        self.stopped(start_seconds=3.0)
        starting = self.life.manager.start("web")
        self.lab.run(2.75)
        self.assertNoResult(starting)
        self.assert_state(AgentState.STARTING)
        self.lab.run(0.5)
        self.successResultOf(starting)
        self.assert_state(AgentState.RUNNING)

    def test_it_succeeds_at_once_when_it_runs(self) -> None:
        leader = self.running()
        self.succeeded(self.life.manager.start("web"))
        self.assertEqual(self.life.agent().pid, leader.pid)

    def test_it_fails_when_the_process_dies_before_start_seconds(self) -> None:
        self.stopped()
        self.lab.program().lives_s = 0.5
        self.lab.program().status = FAILED
        starting = self.life.manager.start("web")
        self.lab.run(0.75)
        error = self.failureResultOf(starting, AgentStartError).value
        self.assertIs(error.code, ErrorCode.AGENT_START)
        self.assertIn("exit code 1 after 0.5 s", error.message)

    def test_even_a_clean_end_before_start_seconds_fails_it(self) -> None:
        self.stopped(restart=RestartConfig(policy=Policy.ON_FAILURE))
        self.lab.program().lives_s = 0.5
        starting = self.life.manager.start("web")
        self.lab.run(1)
        self.failureResultOf(starting, AgentStartError)
        self.assert_state(AgentState.STOPPED)

    def test_it_fails_with_the_cause_when_the_binary_is_missing(self) -> None:
        self.stopped()
        self.lab.binary("web").unlink()
        starting = self.life.manager.start("web")
        self.lab.settle()
        error = self.failureResultOf(starting, AgentStartError).value
        self.assertIn("No such file", error.message)
        self.assertEqual(self.life.told("agent.start_failed")[0].data["code"], "D3001")

    def test_it_fails_with_the_cause_when_the_kernel_refuses(self) -> None:
        for number in (errno.EACCES, errno.ENOENT, errno.ENOEXEC, errno.EAGAIN, errno.ENOMEM):
            with self.subTest(errno.errorcode[number]):
                self.stopped()
                self.lab.program().error = number
                starting = self.life.manager.start("web")
                self.lab.settle()
                error = self.failureResultOf(starting, AgentStartError).value
                self.assertEqual(error.details["errno"], number)
                self.lab.program().error = 0
                self.lab.crash()
                self.life.metadata_path().unlink()

    def test_it_does_not_wait_for_the_next_try(self) -> None:
        leader = self.running()
        leader.die(FAILED)
        self.lab.settle()
        self.life.process().die(FAILED)
        self.lab.run(2)
        self.assert_state(AgentState.RESTARTING)
        starting = self.life.manager.start("web")
        self.lab.run(1)
        self.successResultOf(starting)
        self.assertEqual(self.life.agent().metadata.lifetime_restarts, 1)  # the automatic one alone

    def test_after_giving_up_it_begins_a_new_row(self) -> None:
        for verb in ("start", "restart"):
            with self.subTest(verb):
                self.running(restart=RestartConfig(max_retries=1, slow_retry=0.0))
                for _ in range(2):
                    self.life.process().die(FAILED)
                    self.lab.run(2)
                self.assert_state(AgentState.FAILED)
                operation = getattr(self.life.manager, verb)("web")
                self.lab.run(2)
                self.successResultOf(operation)
                self.life.process().die(FAILED)
                self.lab.run(2)
                self.assert_state(AgentState.RUNNING)
                self.lab.crash()
                self.host.power_cut()
                self.life.metadata_path().unlink()

    def test_a_stop_after_giving_up_ends_the_row_too(self) -> None:
        self.running(restart=RestartConfig(max_retries=1, slow_retry=0.0))
        for _ in range(2):
            self.life.process().die(FAILED)
            self.lab.run(2)
        self.succeeded(self.life.manager.stop("web"))
        self.assert_state(AgentState.STOPPED)
        self.life.manager.start("web")
        self.lab.run(2)
        self.life.process().die(FAILED)
        self.lab.run(2)
        self.assert_state(AgentState.RUNNING)


class Stop(LabCase):
    def test_what_is_stopped_is_stopped(self) -> None:
        self.running()
        for _ in range(3):
            self.succeeded(self.life.manager.stop("web"))
        self.assert_state(AgentState.STOPPED)

    def test_stops_at_the_same_time_are_one_stop(self) -> None:
        self.lab.program().stop_takes_s = 2.0
        leader = self.running()
        stops = [self.life.manager.stop("web") for _ in range(3)]
        self.lab.run(2.5)
        for stop in stops:
            self.successResultOf(stop)
        self.assertEqual(leader.signals, [signal.SIGTERM])
        self.assertEqual(len(self.life.told("agent.stopped")), 1)

    def test_during_a_wait_it_cancels_the_next_try(self) -> None:
        self.running()
        for _ in range(2):
            self.life.process().die(FAILED)
            self.lab.settle()
        self.assert_state(AgentState.RESTARTING)
        self.succeeded(self.life.manager.stop("web"))
        self.assert_state(AgentState.STOPPED)
        self.lab.run(60)
        self.assertEqual(self.spawns(), 2)
        self.assertIsNone(self.life.agent().metadata.next_try_mono)

    def test_it_ends_only_when_what_a_crash_left_is_gone(self) -> None:
        self.running(restart=RestartConfig(policy=Policy.NEVER))
        leader = self.life.process()
        child = self.host.fork(leader, Child(setsid=True))
        self.life.threads.hang("sweep")
        leader.die(FAILED)
        self.lab.settle()
        stopping = self.life.manager.stop("web")
        self.lab.settle()
        self.assertNoResult(stopping)
        self.assertTrue(child.alive)
        self.life.threads.release("sweep")
        self.succeeded(stopping)
        self.assertFalse(child.alive)
        self.assertEqual(self.host.zombies, [])

    def test_it_supersedes_a_start_that_waits(self) -> None:
        self.lab.spec(start_seconds=5.0)
        self.lab.boot()
        starting = self.life.manager.start("web")
        stopping = self.life.manager.stop("web")
        self.superseded(starting)
        self.succeeded(stopping)
        self.assert_state(AgentState.STOPPED)

    def test_it_supersedes_a_restart_under_way(self) -> None:
        self.lab.program().stop_takes_s = 1.0
        self.running()
        restarting = self.life.manager.restart("web")
        stopping = self.life.manager.stop("web")
        self.superseded(restarting)
        self.lab.run(3)
        self.successResultOf(stopping)
        self.assert_state(AgentState.STOPPED)
        self.assertEqual(self.spawns(), 1)

    def test_its_exit_is_no_crash(self) -> None:
        self.running()
        self.succeeded(self.life.manager.stop("web"))
        self.assertEqual(self.life.told("agent.exited"), [])
        self.assertEqual(self.life.agent().metadata.exits_in_a_row, 0)


class Restart(LabCase):
    def test_it_stops_and_starts_at_once_and_does_not_count(self) -> None:
        leader = self.running()
        restarting = self.life.manager.restart("web")
        self.lab.settle()
        self.assertFalse(leader.alive)
        self.assertEqual(self.spawns(), 2)
        self.lab.run(1)
        self.successResultOf(restarting)
        metadata = self.life.agent().metadata
        self.assertEqual((metadata.restart_count, metadata.lifetime_restarts), (0, 0))
        self.assertEqual(metadata.restarts_mono, ())

    def test_what_is_down_is_started(self) -> None:
        self.running()
        self.succeeded(self.life.manager.stop("web"))
        restarting = self.life.manager.restart("web")
        self.lab.run(1)
        self.successResultOf(restarting)
        self.assert_state(AgentState.RUNNING)

    def test_restarts_at_the_same_time_are_one_restart(self) -> None:
        self.lab.program().stop_takes_s = 1.0
        self.running()
        operations = [self.life.manager.restart("web") for _ in range(3)]
        self.lab.run(3)
        for operation in operations:
            self.successResultOf(operation)
        self.assertEqual(self.spawns(), 2)

    def test_one_that_comes_while_the_successor_starts_restarts_again(self) -> None:
        self.lab.spec(start_seconds=3.0)
        self.lab.boot()
        self.lab.run(4)
        first = self.life.manager.restart("web")
        self.lab.run(1)
        second = self.life.manager.restart("web")
        self.lab.run(5)
        self.successResultOf(first)
        self.successResultOf(second)
        self.assertEqual(self.spawns(), 3)

    def test_a_start_during_a_stop_is_carried_out_after_it(self) -> None:
        for verb in ("start", "restart"):
            with self.subTest(verb):
                self.lab.program().stop_takes_s = 2.0
                self.running()
                stopping = self.life.manager.stop("web")
                self.lab.run(1)
                operation = getattr(self.life.manager, verb)("web")
                self.lab.run(1.5)
                self.successResultOf(stopping)
                self.assertNoResult(operation)
                self.lab.run(1.5)
                self.successResultOf(operation)
                self.assert_state(AgentState.RUNNING)
                self.assertIs(self.life.saved().wanted, Wanted.RUNNING)
                self.lab.crash()
                self.host.power_cut()
                self.life.metadata_path().unlink()

    def test_it_fails_when_the_successor_does_not_live(self) -> None:
        self.running()
        self.lab.program().lives_s = 0.2
        restarting = self.life.manager.restart("web")
        self.lab.run(1)
        self.failureResultOf(restarting, AgentStartError)

    def test_an_exit_while_it_waits_for_the_disk_is_answered_by_the_restart(self) -> None:
        self.running()
        self.succeeded(self.life.manager.stop("web"))
        self.life.threads.hang("metadata")
        restarting = self.life.manager.restart("web")
        self.lab.settle()
        self.assertEqual(self.spawns(), 1)
        self.life.threads.release("metadata")
        self.lab.run(2)
        self.successResultOf(restarting)
        self.assertEqual(self.spawns(), 2)


class Intent(LabCase):
    """What the operator wants is on disk before it is done, and is done although the disk refuses."""

    def tearDown(self) -> None:
        faults.arm({})

    def test_it_is_on_disk_before_anything_happens(self) -> None:
        leader = self.running()
        self.life.threads.hang("metadata")
        self.life.manager.stop("web")
        self.lab.settle()
        self.assertEqual(leader.signals, [])
        self.life.threads.release("metadata")
        self.assertEqual(leader.signals, [signal.SIGTERM])
        self.assertIs(self.life.saved().wanted, Wanted.STOPPED)

    def test_a_full_disk_does_not_hold_it_up_and_is_told(self) -> None:
        for kind, word in (("enospc", "No space left"), ("eio", "Input/output")):
            with self.subTest(kind):
                leader = self.running()
                faults.arm({faults.VARIABLE: f"metadata.save:1:{kind}"})
                outcome = self.succeeded(self.life.manager.stop("web"))
                self.assertEqual(len(outcome.warnings), 1)
                self.assertIn(word, outcome.warnings[0])
                self.assertIn("may undo it", outcome.warnings[0])
                self.assertFalse(leader.alive)
                self.assertEqual(self.life.told("agent.intent_unsaved")[0].data["code"], "D1004")
                self.assertEqual(len(self.life.told("storage.failed")), 1)
                faults.arm({})
                self.lab.run(6)
                self.assertIs(self.life.saved().wanted, Wanted.STOPPED)
                self.assertEqual(len(self.life.told("storage.recovered")), 1)
                self.lab.crash()
                self.life.metadata_path().unlink()

    def test_a_disk_that_hangs_holds_it_two_seconds_at_most(self) -> None:
        leader = self.running()
        self.life.threads.hang("metadata")
        stopping = self.life.manager.stop("web")
        self.lab.run(1.75)
        self.assertEqual(leader.signals, [])
        self.lab.run(0.5)
        outcome = self.successResultOf(stopping)
        self.assertEqual(len(outcome.warnings), 1)
        self.assertFalse(leader.alive)
        self.assertTrue(self.life.store.failing)
        self.life.threads.release("metadata")
        self.lab.run(6)
        self.assertEqual(self.life.store.failing, "")
        self.assertIs(self.life.saved().wanted, Wanted.STOPPED)

    def test_a_start_while_the_stop_waits_for_the_disk_supersedes_it(self) -> None:
        leader = self.running()
        self.life.threads.hang("metadata")
        stopping = self.life.manager.stop("web", graceful=False)
        starting = self.life.manager.start("web")
        self.superseded(stopping)
        self.life.threads.release("metadata")
        self.succeeded(starting)
        self.assertTrue(leader.alive)
        self.assertEqual(leader.signals, [])
        self.assertIs(self.life.saved().wanted, Wanted.RUNNING)
        self.life.manager.apply([])  # impatience went with the stop
        self.lab.settle()
        self.assertEqual(leader.signals, [signal.SIGTERM])

    def test_an_exit_while_the_stop_waits_for_the_disk_is_its_end(self) -> None:
        leader = self.running()
        self.life.threads.hang("metadata")
        stopping = self.life.manager.stop("web")
        leader.die(FAILED)
        self.lab.settle()
        self.assertEqual(self.spawns(), 1)
        self.life.threads.release("metadata")
        self.succeeded(stopping)
        self.assert_state(AgentState.STOPPED)
        self.lab.run(60)
        self.assertEqual(self.spawns(), 1)

    def test_a_start_after_such_an_exit_and_before_its_clean_up_starts_it(self) -> None:
        leader = self.running()
        self.life.threads.hang("metadata")
        self.life.threads.hang("sweep")
        stopping = self.life.manager.stop("web")
        leader.die(CLEAN)
        self.lab.settle()
        self.life.threads.release("metadata")
        self.lab.settle()
        starting = self.life.manager.start("web")
        self.superseded(stopping)
        self.life.threads.release("sweep")
        self.lab.run(2)
        self.successResultOf(starting)
        self.assert_state(AgentState.RUNNING)


class Refusals(LabCase):
    def test_an_agent_that_is_not_enabled_cannot_be_started(self) -> None:
        self.lab.spec(enabled=False)
        self.lab.boot()
        for verb in ("start", "restart"):
            refused = getattr(self.life.manager, verb)("web")
            error = self.failureResultOf(refused, RequestError).value
            self.assertIs(error.fault, RequestFault.PRECONDITION)
        self.succeeded(self.life.manager.stop("web"))

    def test_an_agent_that_is_leaving_the_configuration_cannot_be_started(self) -> None:
        self.lab.program().ignores = TERM
        self.running()
        self.life.manager.apply([])
        self.lab.settle()
        error = self.failureResultOf(self.life.manager.start("web"), RequestError).value
        self.assertIs(error.fault, RequestFault.PRECONDITION)

    def test_whoever_waits_when_it_leaves_the_configuration_is_told(self) -> None:
        self.lab.spec(start_seconds=5.0)
        self.lab.boot()
        starting = self.life.manager.start("web")
        self.life.manager.apply([])
        self.superseded(starting)

    def test_a_stop_of_one_that_leaves_the_configuration_succeeds(self) -> None:
        self.lab.program().ignores = TERM
        self.running(stop_timeout=2.0)
        self.life.manager.apply([])
        self.lab.settle()
        stopping = self.life.agent().stop()
        self.lab.run(3)
        self.successResultOf(stopping)

    def test_nothing_is_begun_once_the_daemon_leaves(self) -> None:
        self.running()
        self.life.leave()
        for verb in ("start", "stop", "restart"):
            error = self.failureResultOf(getattr(self.life.manager, verb)("web"), RequestError).value
            self.assertIs(error.fault, RequestFault.STOPPING)

    def test_heartbeats_do_not_touch_operations(self) -> None:
        self.lab.spec(start_seconds=5.0)
        self.lab.boot()
        starting = self.life.manager.start("web")
        self.life.agent().record(Heartbeat(pid=1, timestamp=0.0))
        self.assertNoResult(starting)
