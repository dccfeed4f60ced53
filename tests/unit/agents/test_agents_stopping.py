"""Stops: nothing of an agent is left, whatever it does."""

from __future__ import annotations

import errno
import signal
from typing import ClassVar

from agents_lab import CLEAN, LabCase

from daemon.agents.stopping import signal_number
from daemon.config.schema import RestartConfig
from daemon.errors import AgentStopError, ErrorCode
from daemon.model.agent import AgentState, ExitStatus
from tests.fakes.host import Child

TERM = frozenset({int(signal.SIGTERM)})


class NothingIsLeft(LabCase):
    CHILDREN: ClassVar[dict[str, Child]] = {
        "in the session": Child(),
        "in a group of its own": Child(own_group=True),
        "in a session of its own": Child(setsid=True),
        "ignoring SIGTERM": Child(ignores=TERM),
        "in a group of its own, ignoring SIGTERM": Child(own_group=True, ignores=TERM),
        "in a session of its own, ignoring SIGTERM": Child(setsid=True, ignores=TERM),
        "in its session without the mark": Child(own_group=True, environ=b"PATH=/bin\0"),
        "in a session of its own, painted over": Child(setsid=True, environ=b"worker process"),
    }

    def test_no_child_survives_a_stop(self) -> None:
        for name, child in self.CHILDREN.items():
            with self.subTest(name):
                self.lab.program().children = (child,)
                self.running(stop_timeout=3.0)
                self.assertEqual(len(self.host.alive()), 2)
                stopping = self.life.manager.stop("web")
                self.lab.run(4)
                self.successResultOf(stopping)
                self.assertEqual(self.host.alive(), [])
                self.assertEqual(self.host.zombies, [])
                self.assertEqual(self.life.launcher.handles, [])
                self.lab.crash()
                self.life.metadata_path().unlink()

    def test_of_an_adopted_agent_nothing_survives_either(self) -> None:
        for name, child in self.CHILDREN.items():
            with self.subTest(name):
                self.lab.program().children = (child,)
                self.running(stop_timeout=3.0)
                self.lab.next_daemon()
                stopping = self.life.manager.stop("web")
                self.lab.run(4)
                self.successResultOf(stopping)
                self.assertEqual(self.host.alive(), [])
                self.assertEqual(self.life.launcher.handles, [])
                self.lab.crash()
                self.life.metadata_path().unlink()

    def test_a_grandchild_is_found_after_its_parent_is_gone(self) -> None:
        leader = self.running()
        child = self.host.fork(leader, Child(setsid=True))
        grandchild = self.host.fork(child, Child(own_group=True))
        child.die(CLEAN)
        self.assertEqual(grandchild.ppid, 1)
        self.succeeded(self.life.manager.stop("web"))
        self.assertFalse(grandchild.alive)

    def test_what_is_forked_while_the_stop_is_under_way_goes_too(self) -> None:
        self.lab.program().children = (Child(setsid=True, ignores=TERM),)
        leader = self.running(stop_timeout=5.0)
        stubborn = next(p for p in self.host.alive() if p is not leader)
        stopping = self.life.manager.stop("web")
        self.lab.run(1)
        late = self.host.fork(stubborn, Child(setsid=True))
        self.lab.run(5)
        self.successResultOf(stopping)
        self.assertFalse(late.alive)

    def test_children_get_the_gentle_signal_once_before_they_are_killed(self) -> None:
        leader = self.running(stop_timeout=4.0, stop_signal="INT")
        child = self.host.fork(leader, Child(setsid=True, ignores=frozenset({int(signal.SIGINT)})))
        self.life.manager.stop("web")
        self.lab.run(5)
        self.assertEqual(child.signals, [signal.SIGINT, signal.SIGKILL])

    def test_strangers_are_left_alone(self) -> None:
        self.running()
        self.host.stranger()
        self.host.stranger(environ=b"HOSTDAEMON_MARK=another\0")
        self.host.stranger(environ=b"redis-server")
        self.succeeded(self.life.manager.stop("web", graceful=False))
        self.assertTrue(self.host.untouched())

    def test_leftovers_that_ended_with_it_are_told(self) -> None:
        self.lab.program().children = (Child(setsid=True), Child(setsid=True))
        self.running()
        self.succeeded(self.life.manager.stop("web"))
        self.assertIn("2 left-over", self.life.told("agent.stopped")[0].message)


class Patience(LabCase):
    def test_one_that_ends_on_its_signal_is_stopped_at_once(self) -> None:
        self.lab.program().stop_status = CLEAN
        leader = self.running()
        self.succeeded(self.life.manager.stop("web"))
        self.assertEqual(leader.signals, [signal.SIGTERM])
        self.assert_state(AgentState.STOPPED)
        last = self.life.agent().metadata.last_exit
        self.assertEqual(last.code, 0)
        self.assertIn("stopped: the operator stopped it", last.reason)

    def test_one_that_takes_its_time_is_given_it(self) -> None:
        self.lab.program().stop_takes_s = 8.0
        leader = self.running(stop_timeout=10.0)
        stopping = self.life.manager.stop("web")
        self.lab.run(7.5)
        self.assertNoResult(stopping)
        self.assert_state(AgentState.STOPPING)
        self.lab.run(1)
        self.successResultOf(stopping)
        self.assertEqual(leader.signals, [signal.SIGTERM])

    def test_one_that_ignores_its_signal_is_killed_after_stop_timeout(self) -> None:
        self.lab.program().ignores = TERM
        leader = self.running(stop_timeout=10.0)
        stopping = self.life.manager.stop("web")
        self.lab.run(9.75)
        self.assertTrue(leader.alive)
        self.lab.run(0.5)
        self.successResultOf(stopping)
        self.assertEqual(leader.signals, [signal.SIGTERM, signal.SIGKILL])
        self.assertEqual(self.life.agent().metadata.last_exit.signal, signal.SIGKILL)

    def test_leader_and_children_share_one_patience(self) -> None:
        self.lab.program().ignores = TERM
        self.lab.program().children = (Child(setsid=True, ignores=TERM),)
        self.running(stop_timeout=10.0)
        stopping = self.life.manager.stop("web")
        self.lab.run(10.5)
        self.successResultOf(stopping)

    def test_graceful_false_kills_at_once(self) -> None:
        self.lab.program().children = (Child(setsid=True),)
        leader = self.running()
        child = next(p for p in self.host.alive() if p is not leader)
        self.succeeded(self.life.manager.stop("web", graceful=False))
        self.assertEqual(leader.signals, [signal.SIGKILL])
        self.assertEqual(child.signals, [signal.SIGKILL])

    def test_graceful_false_hurries_a_stop_that_waits_for_the_leader(self) -> None:
        self.lab.program().ignores = TERM
        leader = self.running(stop_timeout=30.0)
        first = self.life.manager.stop("web")
        self.lab.run(1)
        second = self.life.manager.stop("web", graceful=False)
        self.succeeded(first)
        self.succeeded(second)
        self.assertEqual(leader.signals, [signal.SIGTERM, signal.SIGKILL])

    def test_graceful_false_hurries_a_stop_that_waits_for_left_overs(self) -> None:
        self.lab.program().children = (Child(setsid=True, ignores=TERM),)
        self.running(stop_timeout=30.0)
        first = self.life.manager.stop("web")
        self.lab.run(2)
        self.assertNoResult(first)
        second = self.life.manager.stop("web", graceful=False)
        self.lab.run(0.75)
        self.successResultOf(first)
        self.successResultOf(second)
        self.assertEqual(self.host.alive(), [])

    def test_a_restart_without_grace_hurries_a_stop_too(self) -> None:
        self.lab.program().ignores = TERM
        self.running(stop_timeout=30.0)
        stopping = self.life.manager.stop("web")
        self.lab.run(1)
        self.life.manager.restart("web", graceful=False)
        self.lab.run(2)
        self.successResultOf(stopping)
        self.assert_state(AgentState.RUNNING)

    def test_impatience_ends_with_the_stop_it_was_meant_for(self) -> None:
        self.running()
        self.succeeded(self.life.manager.stop("web"))
        restarting = self.life.manager.restart("web", graceful=False)  # nothing runs: nothing to kill
        self.lab.run(2)
        self.successResultOf(restarting)
        leader = self.life.process()
        self.lab.spec(args=("--changed",))
        self.life.manager.apply(self.lab.specs.values())
        self.lab.settle()
        self.assertEqual(leader.signals, [signal.SIGTERM])

    def test_impatience_with_what_is_down_already_is_not_kept_for_later(self) -> None:
        self.running()
        self.succeeded(self.life.manager.stop("web"))
        self.succeeded(self.life.manager.stop("web", graceful=False))
        self.life.manager.start("web")
        self.lab.run(2)
        leader = self.life.process()
        self.life.manager.apply([])
        self.lab.settle()
        self.assertEqual(leader.signals, [signal.SIGTERM])

    def test_an_unknown_signal_name_is_sigterm(self) -> None:
        self.assertEqual(signal_number("NOSUCH"), signal.SIGTERM)
        self.assertEqual(signal_number("HUP"), signal.SIGHUP)
        self.assertEqual(signal_number("SIGINT"), signal.SIGINT)


class WhatWillNotEnd(LabCase):
    def test_one_that_survives_sigkill_fails_the_stop_and_shows(self) -> None:
        self.lab.program().stuck = True
        leader = self.running(stop_timeout=1.0)
        stopping = self.life.manager.stop("web", graceful=False)
        self.lab.run(11)
        error = self.failureResultOf(stopping, AgentStopError).value
        self.assertIs(error.code, ErrorCode.AGENT_STOP)
        self.assertIn(str(leader.pid), error.message)
        self.assert_state(AgentState.FAILED)
        self.assertEqual(len(self.life.told("agent.stop_failed")), 1)
        self.assertEqual(self.life.told("agent.stop_failed")[0].data["code"], "D3002")

    def test_it_is_stopped_when_it_ends_later(self) -> None:
        self.lab.program().stuck = True
        leader = self.running()
        stopping = self.life.manager.stop("web", graceful=False)
        self.lab.run(11)
        self.failureResultOf(stopping, AgentStopError)
        leader.die(ExitStatus(signal=9))
        self.lab.settle()
        self.assert_state(AgentState.STOPPED)
        self.assertEqual(self.host.zombies, [])

    def test_a_start_after_a_stop_that_failed_finds_it_running(self) -> None:
        self.lab.program().stuck = True
        leader = self.running()
        stopping = self.life.manager.stop("web", graceful=False)
        self.lab.run(11)
        self.failureResultOf(stopping, AgentStopError)
        starting = self.life.manager.start("web")
        self.lab.run(2)
        self.successResultOf(starting)
        self.assert_state(AgentState.RUNNING)
        self.assertEqual(self.life.agent().pid, leader.pid)

    def test_a_left_over_that_survives_sigkill_fails_every_stop(self) -> None:
        self.lab.program().children = (Child(setsid=True, stuck=True),)
        self.running()
        for _ in range(2):
            stopping = self.life.manager.stop("web", graceful=False)
            self.lab.run(12)
            self.failureResultOf(stopping, AgentStopError)
            self.assert_state(AgentState.FAILED)
        survivor = self.host.alive()[0]
        survivor.die(ExitStatus(signal=9))
        stopping = self.life.manager.stop("web")
        self.lab.run(1)
        self.successResultOf(stopping)
        self.assert_state(AgentState.STOPPED)
        self.assertEqual(self.host.zombies, [])

    def test_a_restart_that_broke_is_tried_again_a_minute_later_even_without_slow_retry(self) -> None:
        self.lab.program().children = (Child(setsid=True, stuck=True),)
        self.running(restart=RestartConfig(slow_retry=0.0))
        self.life.manager.restart("web", graceful=False).addErrback(lambda _failed: None)
        self.lab.run(12)
        self.assert_state(AgentState.FAILED)
        self.lab.program().children = ()
        self.host.alive()[0].die(ExitStatus(signal=9))
        self.lab.run(40)
        self.assertEqual(self.spawns(), 1)
        self.lab.run(25)
        self.assert_state(AgentState.RUNNING)

    def test_a_restart_that_cannot_end_the_old_one_fails_and_starts_no_second(self) -> None:
        self.lab.program().stuck = True
        self.running()
        restarting = self.life.manager.restart("web", graceful=False)
        self.lab.run(30)
        self.failureResultOf(restarting, AgentStopError)
        self.assertEqual(self.spawns(), 1)

    def test_one_of_another_user_fails_the_stop_with_the_next_step(self) -> None:
        self.lab.program().untouchable = True
        self.running()
        stopping = self.life.manager.stop("web")
        self.lab.run(1)
        error = self.failureResultOf(stopping, AgentStopError).value
        self.assertIn("as root", error.message)

    def test_a_left_over_of_another_user_is_waited_for_and_reported(self) -> None:
        leader = self.running(stop_timeout=1.0)
        child = self.host.fork(leader, Child(setsid=True))
        child.program.untouchable = True
        stopping = self.life.manager.stop("web")
        self.lab.run(15)
        error = self.failureResultOf(stopping, AgentStopError).value
        self.assertIn(str(child.pid), error.message)

    def test_left_overs_that_cannot_be_watched_do_not_spin_the_loop(self) -> None:
        leader = self.running(stop_timeout=1.0)
        self.host.fork(leader, Child(setsid=True, ignores=TERM))
        self.life.launcher.refuses = errno.EMFILE
        stopping = self.life.manager.stop("web")
        before = len(self.life.threads.calls)
        self.lab.run(0.9)
        self.assertLess(len(self.life.threads.calls) - before, 40)
        self.life.launcher.refuses = 0
        self.lab.run(2)
        self.successResultOf(stopping)

    def test_a_sweep_that_fails_fails_the_stop_and_is_logged(self) -> None:
        self.running()

        def broken() -> None:
            raise OSError(errno.EMFILE, "Too many open files")

        sweeper = self.life.world.sweeper
        sweeper._sweep, kept = broken, sweeper._sweep
        stopping = self.life.manager.stop("web")
        self.lab.run(1)
        self.failureResultOf(stopping, AgentStopError)
        self.assertEqual(len(self.flushLoggedErrors(OSError)), 1)
        sweeper._sweep = kept
        again = self.life.manager.stop("web")
        self.lab.run(1)
        self.successResultOf(again)
        self.assertEqual(self.host.zombies, [])

    def test_an_exit_whose_group_is_another_users_is_still_followed(self) -> None:
        leader = self.running()
        leader.program.untouchable = True
        leader.die(CLEAN)
        self.lab.settle()
        self.assertEqual(self.spawns(), 2)

    def test_left_overs_of_a_crash_that_survive_are_reported_once(self) -> None:
        leader = self.running()
        stuck = self.host.fork(leader, Child(setsid=True, stuck=True))
        leader.die(CLEAN)
        self.lab.run(15)
        self.assertEqual(len(self.life.told("agent.leftovers_stuck")), 1)
        self.assertEqual(self.life.told("agent.leftovers_stuck")[0].data["pids"], [stuck.pid])
        self.assert_state(AgentState.RUNNING)
