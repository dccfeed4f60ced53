"""An agent that an update holds: down whatever is wanted, and afterwards again what is wanted."""

from __future__ import annotations

import errno
import signal

import msgspec
from agents_lab import CLEAN, FAILED, LabCase
from twisted.internet.defer import Deferred

from daemon.config.schema import Policy, RestartConfig
from daemon.errors import AgentStopError, RequestError, RequestFault
from daemon.model.agent import AgentState, ExitStatus, HealthStatus, Wanted
from daemon.model.health import HealthVerdict
from tests.fakes.commands import FakeProgram
from tests.fakes.host import Child, FakeProcess

WHY = "being updated to 1.1.0"
SICK = HealthVerdict(status=HealthStatus.ENDPOINT_FAILED, reason="no answer")


class HoldCase(LabCase):
    def held(self, **keys: object) -> FakeProcess:
        """A running agent is held and down; the process that ran."""
        leader = self.running(**keys)
        self.successful(self.life.agent().hold(WHY))
        self.assertFalse(leader.alive)
        return leader

    def successful(self, work: Deferred[None]) -> None:
        self.lab.settle()
        self.successResultOf(work)

    def runs_anew(self, spawns: int = 2) -> None:
        self.lab.run(2)
        self.assert_state(AgentState.RUNNING)
        self.assertEqual(self.spawns(), spawns)


class Holding(HoldCase):
    def test_it_is_stopped_and_waits_as_restarting_and_wanted(self) -> None:
        leader = self.held()
        self.assertEqual(leader.signals, [signal.SIGTERM])
        self.assert_state(AgentState.RESTARTING)
        agent = self.life.agent()
        self.assertEqual((agent.book.reason, agent.metadata.wanted), (WHY, Wanted.RUNNING))
        self.lab.run(100)
        self.assertEqual(self.spawns(), 1)
        self.assertIn(WHY, agent.last_exit.reason if agent.last_exit is not None else "")

    def test_it_ends_only_when_nothing_of_the_agent_is_left(self) -> None:
        self.lab.program().stop_takes_s = 3.0
        self.running()
        holding = self.life.agent().hold(WHY)
        self.lab.run(2)
        self.assertNoResult(holding)
        self.lab.run(2)
        self.successResultOf(holding)

    def test_what_a_crash_left_is_gone_too(self) -> None:
        self.lab.program().children = (Child(setsid=True, ignores=frozenset({int(signal.SIGTERM)})),)
        leader = self.running(stop_timeout=1.0)
        leader.die(FAILED)
        self.lab.settle()
        holding = self.life.agent().hold(WHY)
        self.lab.run(0.5)
        self.assertNoResult(holding)
        self.lab.run(1)
        self.successResultOf(holding)
        self.assertEqual(self.host.alive(self.life.agent().metadata.mark), [])

    def test_release_starts_it_and_counts_no_restart(self) -> None:
        self.held()
        self.life.agent().release()
        self.runs_anew()
        agent = self.life.agent()
        self.assertEqual((agent.metadata.lifetime_restarts, agent.metadata.restart_count), (0, 0))
        self.assertEqual((agent.exits_total, agent.metadata.exits_in_a_row), (0, 0))
        self.assertEqual(self.life.told("agent.exited"), [])

    def test_holding_twice_and_releasing_twice_is_harmless(self) -> None:
        self.held()
        self.successful(self.life.agent().hold("being rolled back"))
        self.assertEqual(self.life.agent().book.reason, "being rolled back")
        self.life.agent().release()
        self.life.agent().release()
        self.runs_anew()

    def test_release_before_it_was_down_lets_it_restart_and_tells_who_waits(self) -> None:
        self.lab.program().stop_takes_s = 3.0
        self.running()
        holding = self.life.agent().hold(WHY)
        self.lab.run(1)
        self.life.agent().release()
        self.failureResultOf(holding, RequestError)
        self.lab.run(3)
        self.runs_anew()

    def test_who_gives_up_waiting_leaves_the_hold(self) -> None:
        self.lab.program().stop_takes_s = 3.0
        self.running()
        holding = self.life.agent().hold(WHY)
        holding.addErrback(lambda _cancelled: None)
        holding.cancel()
        self.lab.run(10)
        self.assert_state(AgentState.RESTARTING)

    def test_what_survives_is_told_and_not_held(self) -> None:
        self.lab.program().stuck = True
        self.lab.program().ignores = frozenset({int(signal.SIGTERM)})
        leader = self.running(stop_timeout=1.0)
        holding = self.life.agent().hold(WHY)
        self.lab.run(15)
        self.failureResultOf(holding, AgentStopError)
        self.assertEqual(self.life.agent().pid, leader.pid)
        self.assert_state(AgentState.RUNNING)  # it goes on, as after a restart that failed

    def test_a_wait_for_the_next_try_does_not_end_it(self) -> None:
        self.running()
        for _ in range(2):
            self.life.process().die(FAILED)
            self.lab.settle()
        self.assert_state(AgentState.RESTARTING)
        before = self.spawns()
        self.successful(self.life.agent().hold(WHY))
        self.lab.run(200)
        self.assertEqual(self.spawns(), before)
        self.life.agent().release()
        self.runs_anew(before + 1)
        self.assertEqual(self.life.agent().metadata.exits_in_a_row, 0)  # a new binary has tries of its own

    def test_a_slow_retry_does_not_end_it_and_the_new_binary_begins_a_new_row(self) -> None:
        self.running(restart=RestartConfig(max_retries=1, slow_retry=20.0))
        for _ in range(2):
            self.life.process().die(FAILED)
            self.lab.run(2)
        self.assert_state(AgentState.FAILED)
        before = self.spawns()
        self.successful(self.life.agent().hold(WHY))
        self.lab.run(60)
        self.assertEqual(self.spawns(), before)
        self.life.agent().release()
        self.runs_anew(before + 1)
        self.assertFalse(self.life.agent().metadata.gave_up)

    def test_one_that_its_policy_left_down_is_tried_with_the_new_binary(self) -> None:
        self.running(restart=RestartConfig(policy=Policy.NEVER))
        self.life.process().die(FAILED)
        self.lab.run(1)
        self.assert_state(AgentState.FAILED)
        self.successful(self.life.agent().hold(WHY))
        self.life.agent().release()
        self.runs_anew()

    def test_a_restart_for_health_that_waits_does_not_end_it(self) -> None:
        self.running()
        agent = self.life.agent()
        agent.judge(SICK)  # at once
        self.lab.run(2)
        agent.judge(SICK)  # in ten seconds
        before = self.spawns()
        self.successful(agent.hold(WHY))
        self.lab.run(60)
        self.assertEqual(self.spawns(), before)
        restarts = agent.metadata.lifetime_restarts
        agent.release()
        self.runs_anew(before + 1)
        self.assertEqual(agent.metadata.lifetime_restarts, restarts)

    def test_a_restart_for_health_under_way_ends_in_the_hold(self) -> None:
        self.lab.program().stop_takes_s = 2.0
        self.running()
        agent = self.life.agent()
        agent.judge(SICK)
        self.assert_state(AgentState.STOPPING)
        holding = agent.hold(WHY)
        self.lab.run(5)
        self.successResultOf(holding)
        self.assertEqual(self.spawns(), 1)
        agent.release()
        self.runs_anew()
        self.assertEqual(agent.metadata.lifetime_restarts, 0)

    def test_a_spawn_that_waits_for_its_turn_does_not_happen(self) -> None:
        self.lab.spec()
        self.lab.take_over()
        self.life.agent()._spawn_queued = True
        self.successful(self.life.agent().hold(WHY))
        self.life.agent()._spawn_now()
        self.assertEqual(self.spawns(), 0)


class Operators(HoldCase):
    def test_a_start_waits_and_succeeds_after_the_release(self) -> None:
        self.held()
        starting = self.life.manager.start("web")
        self.lab.run(60)
        self.assertNoResult(starting)
        self.life.agent().release()
        self.runs_anew()
        self.successResultOf(starting)

    def test_a_restart_waits_and_is_one_with_the_start_after_it(self) -> None:
        self.held()
        restarting = self.life.manager.restart("web")
        self.lab.run(60)
        self.assertNoResult(restarting)
        self.life.agent().release()
        self.runs_anew()
        self.successResultOf(restarting)

    def test_a_stop_succeeds_at_once_and_holds_after_the_release(self) -> None:
        self.held()
        self.succeeded(self.life.manager.stop("web"))
        self.assert_state(AgentState.STOPPED)
        self.assertTrue(self.life.agent().down)
        self.life.agent().release()
        self.lab.run(10)
        self.assert_state(AgentState.STOPPED)
        self.assertEqual(self.spawns(), 1)

    def test_a_stop_supersedes_a_start_that_waits(self) -> None:
        self.held()
        starting = self.life.manager.start("web")
        self.succeeded(self.life.manager.stop("web"))
        self.superseded(starting)

    def test_a_stop_while_it_is_being_stopped_for_the_hold_ends_with_that_stop(self) -> None:
        self.lab.program().stop_takes_s = 3.0
        self.running()
        holding = self.life.agent().hold(WHY)
        stopping = self.life.manager.stop("web")
        self.lab.run(1)
        self.assertNoResult(stopping)
        self.lab.run(3)
        self.successResultOf(stopping)
        self.successResultOf(holding)

    def test_a_stopped_one_that_is_started_meanwhile_runs_after_the_release(self) -> None:
        self.running()
        self.succeeded(self.life.manager.stop("web"))
        self.successful(self.life.agent().hold(WHY))
        self.assert_state(AgentState.STOPPED)
        starting = self.life.manager.start("web")
        self.lab.run(10)
        self.assert_state(AgentState.RESTARTING)
        self.life.agent().release()
        self.runs_anew()
        self.successResultOf(starting)

    def test_an_operators_restart_under_way_ends_in_the_hold_and_is_carried_out_later(self) -> None:
        self.lab.program().stop_takes_s = 2.0
        self.running()
        restarting = self.life.manager.restart("web")
        self.lab.run(0.5)
        holding = self.life.agent().hold(WHY)
        self.lab.run(5)
        self.successResultOf(holding)
        self.assertNoResult(restarting)
        self.life.agent().release()
        self.runs_anew()
        self.successResultOf(restarting)


class Reload(HoldCase):
    def apply(self) -> None:
        self.life.manager.apply(self.lab.specs.values())
        self.lab.run(5)

    def test_another_configuration_is_taken_with_the_release(self) -> None:
        self.held()
        self.lab.spec(args=("other",))
        self.apply()
        self.assert_state(AgentState.RESTARTING)
        self.life.agent().release()
        self.runs_anew()
        agent = self.life.agent()
        self.assertEqual(agent.process.spec_hash if agent.process is not None else "", agent.spec_hash)

    def test_a_disabled_one_stays_down(self) -> None:
        self.held()
        self.lab.spec(enabled=False)
        self.apply()
        self.assert_state(AgentState.STOPPED)
        self.life.agent().release()
        self.lab.run(5)
        self.assert_state(AgentState.STOPPED)
        self.assertEqual(self.spawns(), 1)

    def test_a_removed_one_is_forgotten_only_after_the_release(self) -> None:
        self.held()
        agent = self.life.agent()
        self.lab.specs.clear()
        self.apply()
        self.assertEqual(self.life.manager.updatable(), ())
        self.assertIs(self.life.manager.find("web"), agent)
        self.assertEqual(agent.binary_path, "")
        agent.release()
        self.lab.run(1)
        self.assertIsNone(self.life.manager.find("web"))

    def test_one_that_comes_back_is_still_held(self) -> None:
        self.held()
        self.lab.specs.clear()
        self.apply()
        self.lab.spec()
        self.apply()
        self.assert_state(AgentState.RESTARTING)
        self.assertEqual(self.spawns(), 1)
        self.life.agent().release()
        self.runs_anew()


class Daemons(HoldCase):
    def test_a_leaving_daemon_leaves_it_running(self) -> None:
        self.held()
        leaving = self.life.leave()
        self.lab.settle()
        self.successResultOf(leaving)
        self.assertEqual(self.spawns(), 2)
        leader = self.life.launcher.spawned[-1]
        self.assertTrue(leader.alive)
        self.lab.next_daemon()
        self.lab.run(2)
        self.assertEqual(self.life.agent().pid, leader.pid)

    def test_a_daemon_that_leaves_while_it_stops_ends_that_as_a_restart(self) -> None:
        self.lab.program().stop_takes_s = 2.0
        self.running()
        holding = self.life.agent().hold(WHY)
        leaving = self.life.leave()
        error = self.failureResultOf(holding, RequestError).value
        self.assertIs(error.fault, RequestFault.STOPPING)
        self.lab.run(3)
        self.successResultOf(leaving)
        self.assertTrue(self.life.launcher.spawned[-1].alive)
        self.assertEqual(self.spawns(), 2)

    def test_one_that_should_be_down_is_left_down(self) -> None:
        self.held()
        self.succeeded(self.life.manager.stop("web"))
        leaving = self.life.leave()
        self.lab.settle()
        self.successResultOf(leaving)
        self.assertEqual(self.spawns(), 1)

    def test_a_leaving_daemon_holds_nothing_any_more(self) -> None:
        self.running()
        self.life.leave()
        error = self.failureResultOf(self.life.agent().hold(WHY), RequestError).value
        self.assertIs(error.fault, RequestFault.STOPPING)

    def test_the_next_daemon_simply_runs_it_and_counts_nothing(self) -> None:
        for seconds in (0.5, 2.5):  # while it is stopped, and afterwards
            with self.subTest(seconds):
                self.lab.program().stop_takes_s = 2.0
                self.running()
                self.life.agent().hold(WHY)
                self.lab.run(seconds)
                self.lab.crash()
                self.lab.run(3)
                self.lab.boot()
                self.lab.run(2)
                self.assert_state(AgentState.RUNNING)
                metadata = self.life.agent().metadata
                self.assertEqual((metadata.exits_in_a_row, metadata.lifetime_restarts), (0, 0))
                self.lab.crash()
                self.host.power_cut()
                self.life.metadata_path().unlink()

    def test_a_held_agent_that_was_taken_back_is_stopped_before_anything_is_started(self) -> None:
        self.running()
        self.lab.crash()
        self.lab.take_over()
        self.successful(self.life.agent().hold(WHY))
        self.life.manager.start_missing()
        self.lab.run(10)
        self.assertEqual(self.spawns(), 0)
        self.life.agent().release()
        self.runs_anew(1)


class Facts(HoldCase):
    def test_each_change_wakes_the_watcher_once_on_a_turn_of_its_own(self) -> None:
        self.running()
        woken: list[AgentState] = []
        agent = self.life.agent()
        end = agent.watch(lambda: woken.append(agent.state))
        agent.judge(SICK)
        agent.judge(SICK)
        self.assertEqual(woken, [])
        self.lab.settle()
        self.assertTrue(woken)
        self.lab.run(2)
        self.assertIs(woken[-1], AgentState.RUNNING)
        end()
        end()
        count = len(woken)
        self.life.process().die(FAILED)
        self.lab.run(2)
        self.assertEqual(len(woken), count)

    def test_intent_and_configuration_wake_the_watcher(self) -> None:
        self.running()
        agent = self.life.agent()
        seen: list[tuple[bool, str]] = []
        self.addCleanup(agent.watch(lambda: seen.append((agent.down, agent.binary_path))))
        self.life.manager.stop("web")
        self.lab.settle()
        self.assertEqual(seen[-1][0], True)
        self.life.manager.apply(())
        self.lab.settle()
        self.assertEqual(seen[-1][1], "")

    def test_exits_and_failed_spawns_are_counted_and_stops_are_not(self) -> None:
        self.running()
        agent = self.life.agent()
        restarting = self.life.manager.restart("web")
        self.lab.run(2)
        self.successResultOf(restarting)
        self.assertEqual(agent.exits_total, 0)
        self.life.process().die(CLEAN)
        self.lab.run(2)
        self.assertEqual(agent.exits_total, 1)
        self.lab.program().error = errno.ENOEXEC
        self.life.process().die(FAILED)
        self.lab.run(2)
        self.assertEqual(agent.exits_total, 2)
        self.lab.run(10)
        self.assertEqual(agent.exits_total, 3)

    def test_the_last_lines_are_those_of_its_log(self) -> None:
        self.lab.program().prints = b"".join(b"line %d\n" % n for n in range(30))
        self.running()
        self.assertEqual(self.life.agent().last_lines(), tuple(f"line {n}" for n in range(10, 30)))


class Versions(HoldCase):
    def version_is(self, version: str) -> None:
        self.lab.commands[str(self.lab.binary("web"))] = FakeProgram(output=version.encode())
        self.life.commands.programs.update(self.lab.commands)

    def updated(self, *, version: str) -> None:
        binary = self.lab.binary("web")
        new = binary.with_name("web.new")
        new.write_text("longer than before")
        new.chmod(0o755)
        new.replace(binary)
        self.version_is(version)

    def running_version(self, version: str) -> None:
        self.lab.commands[str(self.lab.binary("web"))] = FakeProgram(output=version.encode())
        self.running(version_command=(str(self.lab.binary("web")), "--version"))
        self.assertEqual(self.life.agent().version, version)

    def test_it_is_asked_anew_after_the_release(self) -> None:
        self.running_version("1.0.0")
        self.successful(self.life.agent().hold(WHY))
        self.updated(version="1.1.0")
        self.life.agent().release()
        self.runs_anew()
        self.assertEqual(self.life.agent().version, "1.1.0")

    def test_of_one_that_stays_down_too(self) -> None:
        self.running_version("1.0.0")
        self.succeeded(self.life.manager.stop("web"))
        self.successful(self.life.agent().hold(WHY))
        self.updated(version="1.1.0")
        self.life.agent().release()
        self.lab.settle()
        self.assertEqual(self.life.agent().version, "1.1.0")

    def try_it(self, program: FakeProgram | None, **keys: object) -> object:
        binary = str(self.lab.binary("web"))
        self.running(**{"version_command": (binary, "--version"), **keys})
        if program is not None:
            self.life.commands.programs["/new"] = program
        trying = Deferred.fromCoroutine(self.life.agent().try_binary("/new"))
        self.lab.run(15)
        return self.successResultOf(trying)

    def test_another_binary_is_run_in_place_of_its_own(self) -> None:
        trial = self.try_it(FakeProgram(output=b"web 2.0.1\n"))
        self.assertEqual(msgspec.to_builtins(trial)["version"], "2.0.1")
        call = self.life.commands.calls[-1]
        self.assertEqual(call.argv, ("/new", "--version"))
        self.assertEqual(set(call.env), {"PATH", "LANG", "HOME"})

    def test_how_it_failed_is_told(self) -> None:
        binary = str(self.lab.binary("web"))
        self.running(version_command=(binary, "--version"))
        for program, key, value in (
            (None, "error", "No such file or directory"),
            (FakeProgram(status=ExitStatus(signal=11)), "status", ExitStatus(signal=11)),
            (FakeProgram(takes_s=1e9), "timed_out", True),
            (FakeProgram(output=b"x" * 100_000), "status", ExitStatus()),
        ):
            with self.subTest(key):
                self.life.commands.programs.pop("/new", None)
                if program is not None:
                    self.life.commands.programs["/new"] = program
                trying = Deferred.fromCoroutine(self.life.agent().try_binary("/new"))
                self.lab.run(15)
                self.assertEqual(getattr(self.successResultOf(trying), key), value)

    def test_a_version_command_that_runs_something_else_says_nothing_of_it(self) -> None:
        self.assertIsNone(self.try_it(None, version_command=("/usr/bin/dpkg-query", "web")))

    def test_none_is_asked_where_there_is_none(self) -> None:
        self.assertIsNone(self.try_it(None, version_command=()))
