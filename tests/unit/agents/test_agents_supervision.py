"""The loop of one agent: exits, the restart table, waits, resets, heartbeats, versions, reloads."""

from __future__ import annotations

import signal

from agents_lab import CLEAN, FAILED, LabCase

from daemon.agents.states import may_follow
from daemon.config.schema import Policy, RestartConfig
from daemon.model.agent import AgentState, ExitStatus
from daemon.model.event import Severity
from daemon.model.heartbeat import Heartbeat
from tests.fakes.commands import FakeProgram
from tests.fakes.host import Child

KILLED = ExitStatus(signal=int(signal.SIGSEGV))


class Exits(LabCase):
    def test_the_first_exit_is_followed_at_once(self) -> None:
        leader = self.running()
        at = self.lab.clock.seconds()
        leader.die(FAILED)
        self.lab.settle()
        self.assertEqual(self.spawns(), 2)
        self.assertEqual(self.lab.clock.seconds(), at)
        self.assertEqual(self.life.states()[-2:], ["restarting", "starting"])

    def test_the_successor_waits_neither_for_the_sweep_nor_for_the_disk_nor_for_the_log(self) -> None:
        leader = self.running()
        for lane in ("sweep", "metadata", "log-tail"):
            self.life.threads.hang(lane)
        leader.die(FAILED)
        self.lab.settle()
        self.assertEqual(self.spawns(), 2)
        for lane in ("sweep", "metadata", "log-tail"):
            self.life.threads.release(lane)
        self.lab.settle()
        self.assertEqual(self.host.zombies, [])

    def test_the_group_goes_before_the_leader_is_reaped_and_the_rest_right_after(self) -> None:
        self.lab.program().children = (Child(), Child(setsid=True), Child(own_group=True))
        leader = self.running()
        in_group, own_session, own_group = (p for p in self.host.alive() if p is not leader)
        self.life.threads.hang("sweep")
        leader.die(FAILED)
        self.lab.settle()
        self.assertFalse(in_group.alive)
        self.assertEqual(leader.state, "Z")
        self.assertTrue(own_session.alive)
        self.life.threads.release("sweep")
        self.lab.settle()
        self.assertFalse(own_session.alive)
        self.assertFalse(own_group.alive)
        self.assertEqual(leader.state, "")
        successor = self.life.process()
        self.assertEqual(len(self.host.alive(successor.token)), 4)  # it and its three children
        self.assertEqual(self.life.told("agent.leftovers_ended")[0].data["count"], 2)

    def test_the_event_says_how_it_ended_and_shows_the_last_lines(self) -> None:
        self.lab.program().prints = b"".join(b"line %d\n" % n for n in range(50)) + b"\xff last words\n"
        for status, reason in ((FAILED, "exit code 1"), (KILLED, "killed by SIGSEGV")):
            with self.subTest(reason):
                leader = self.running()
                self.lab.run(3)
                leader.die(status)
                self.lab.settle()
                event = self.life.told("agent.exited")[-1]
                self.assertEqual(event.data["reason"], reason)
                self.assertEqual(event.data["pid"], leader.pid)
                self.assertEqual((event.data["code"], event.data["signal"]), (status.code, status.signal))
                self.assertEqual(len(event.data["last_lines"]), 20)
                self.assertEqual(event.data["last_lines"][-1], "\N{REPLACEMENT CHARACTER} last words")
                self.assertEqual(event.data["lived_s"], 5.0)
                self.assertIs(event.severity, Severity.WARN)
                self.assertIn("restarting at once", event.message)
                self.lab.crash()
                self.host.power_cut()
                self.life.metadata_path().unlink()

    def test_an_event_comes_even_when_the_log_cannot_be_read(self) -> None:
        leader = self.running()
        self.life.threads.hang("log-tail")
        leader.die(FAILED)
        self.lab.run(11)
        self.assertIn("cannot be read", self.life.told("agent.exited")[0].data["last_lines"][0])
        self.assertEqual(self.host.zombies, [])

    def test_every_spawn_has_a_run_of_its_own_and_the_same_token(self) -> None:
        leader = self.running()
        leader.die(FAILED)
        self.lab.settle()
        successor = self.life.process()
        self.assertEqual(leader.token, successor.token)
        self.assertNotEqual(leader.environ, successor.environ)
        self.assertNotIn(b"NOTIFY_SOCKET", successor.environ)

    def test_a_late_exit_of_an_earlier_process_changes_nothing(self) -> None:
        leader = self.running()
        process = self.life.agent().process
        leader.die(FAILED)
        self.lab.settle()
        self.life.agent().process_exited(process, FAILED)
        self.assertEqual(self.life.agent().metadata.exits_in_a_row, 1)


class RestartTable(LabCase):
    DELAYS = (0, 10, 10, 30, 30, 60, 60, 60)

    def test_exits_wait_exactly_as_the_table_says(self) -> None:
        self.running(restart=RestartConfig(max_retries=0, max_restarts_per_hour=0))
        for n, delay in enumerate(self.DELAYS):
            with self.subTest(n):
                self.life.process().die(FAILED)
                self.assert_next_spawn_after(delay)

    def assert_next_spawn_after(self, delay_s: float) -> None:
        before = self.spawns()
        if delay_s:
            self.lab.settle()
            self.lab.run(delay_s - 0.125)
            self.assertEqual(self.spawns(), before)
            self.assert_state(AgentState.RESTARTING)
            self.lab.run(0.125)
        self.lab.settle()
        self.assertEqual(self.spawns(), before + 1)

    def test_failed_spawns_wait_exactly_as_the_table_says(self) -> None:
        self.lab.spec(missing=True, restart=RestartConfig(max_retries=0, max_restarts_per_hour=0))
        start = self.lab.clock.seconds()
        self.lab.boot()
        self.lab.run(200, step=0.5)
        failures = self.life.told("agent.start_failed")
        transitions = [c.at - start for c in self.life.changes if c.new is AgentState.STARTING]
        self.assertEqual(transitions, [0, 0, 10, 20, 50, 80, 140, 200])
        self.assertEqual(len(failures), 8)
        self.assertEqual(self.spawns(), 0)

    def test_a_binary_that_comes_back_is_started_at_the_next_try(self) -> None:
        self.lab.spec(missing=True)
        self.lab.boot()
        self.lab.run(15)
        self.assert_state(AgentState.RESTARTING)
        self.lab.spec()
        self.lab.run(7)
        self.assert_state(AgentState.RUNNING)
        self.lab.run(301)
        self.assertEqual(self.life.agent().metadata.exits_in_a_row, 0)

    def test_a_missing_binary_without_any_limit_does_not_nest_spawns_in_spawns(self) -> None:
        self.lab.spec(missing=True, restart=RestartConfig(
            max_retries=30, backoff_base=0.0, max_restarts_per_hour=0, slow_retry=0.0))
        self.lab.boot()
        self.lab.run(1)
        self.assertLessEqual(self.life.agent().metadata.exits_in_a_row, 4)  # a second each, never a spin
        self.lab.run(60)
        self.assertEqual(self.life.agent().metadata.exits_in_a_row, 31)
        self.assert_state(AgentState.FAILED)

    def test_the_delay_is_capped_before_jitter_lengthens_it(self) -> None:
        self.lab.random_unit = 0.5
        self.running(restart=RestartConfig(backoff_base=8.0, backoff_max=4.0, jitter=0.5))
        self.life.process().die(FAILED)
        self.lab.settle()
        self.life.process().die(FAILED)
        self.assert_next_spawn_after(5.0)

    def test_five_minutes_of_health_reset_the_count_and_not_the_lifetime(self) -> None:
        self.running()
        for _ in range(2):
            self.life.process().die(FAILED)
            self.lab.run(11.5)
        self.assertEqual(self.life.agent().metadata.exits_in_a_row, 2)
        self.lab.run(297)
        self.assertEqual(self.life.agent().metadata.exits_in_a_row, 2)
        self.lab.run(5)
        metadata = self.life.agent().metadata
        self.assertEqual((metadata.exits_in_a_row, metadata.restart_count), (0, 0))
        self.assertEqual(metadata.lifetime_restarts, 2)
        self.life.process().die(FAILED)
        self.assert_next_spawn_after(0)

    def test_an_exit_just_before_the_five_minutes_keeps_the_count(self) -> None:
        self.running()
        self.life.process().die(FAILED)
        self.lab.run(300)  # one second of it is start_seconds
        self.life.process().die(FAILED)
        self.assert_next_spawn_after(10)

    def test_the_health_before_a_new_daemon_counts(self) -> None:
        self.running()
        self.life.process().die(FAILED)
        self.lab.run(200)
        self.lab.next_daemon()
        self.lab.run(98)
        self.assertEqual(self.life.agent().metadata.exits_in_a_row, 1)
        self.lab.run(4)
        self.assertEqual(self.life.agent().metadata.exits_in_a_row, 0)

    def test_after_max_retries_it_is_failed_told_and_tried_slowly(self) -> None:
        self.running(restart=RestartConfig(max_retries=2, slow_retry=100.0))
        for _ in range(2):
            self.life.process().die(FAILED)
            self.lab.run(11)
        self.life.process().die(FAILED)
        self.lab.settle()
        self.assert_state(AgentState.FAILED)
        event = self.life.told("agent.failed")[0]
        self.assertIs(event.severity, Severity.ERROR)
        self.assertIn("next try in 100 s", event.message)
        before = self.spawns()
        self.lab.run(99.5)
        self.assertEqual(self.spawns(), before)
        self.lab.run(0.5)
        self.assertEqual(self.spawns(), before + 1)
        self.life.process().die(FAILED)
        self.lab.run(50)
        self.assert_state(AgentState.FAILED)
        self.lab.run(52)
        self.assert_state(AgentState.RUNNING)

    def test_without_a_slow_retry_it_stays_failed_until_an_operator_comes(self) -> None:
        self.running(restart=RestartConfig(max_retries=1, slow_retry=0.0))
        for _ in range(2):
            self.life.process().die(FAILED)
            self.lab.settle()
        self.lab.run(4000, step=10)
        self.assert_state(AgentState.FAILED)
        self.assertEqual(self.spawns(), 2)
        self.assertIn("`start` tries again", self.life.told("agent.failed")[0].message)

    def test_no_more_automatic_restarts_in_an_hour_than_the_limit(self) -> None:
        self.running(restart=RestartConfig(
            max_retries=0, backoff_base=0.0, max_restarts_per_hour=3, reset_after=5.0))
        begin = self.lab.clock.seconds()
        for _ in range(3):
            self.life.process().die(FAILED)
            self.lab.run(10)
        self.assertEqual(self.spawns(), 4)
        self.life.process().die(FAILED)
        self.lab.settle()
        self.assertIn("3 restarts in the last hour", self.life.agent().book.reason)
        self.lab.run(begin + 3599 - self.lab.clock.seconds(), step=10)
        self.assertEqual(self.spawns(), 4)
        self.lab.run(2)
        self.assertEqual(self.spawns(), 5)

    def test_operators_restarts_are_not_counted_in_the_hour(self) -> None:
        self.running(restart=RestartConfig(max_restarts_per_hour=1))
        for _ in range(5):
            self.life.manager.restart("web")
            self.lab.run(2)
        self.life.process().die(FAILED)
        self.lab.settle()
        self.assertEqual(self.spawns(), 7)


class Policies(LabCase):
    def test_what_each_policy_makes_of_each_exit(self) -> None:
        rows = [
            (Policy.ALWAYS, CLEAN, "starting"), (Policy.ALWAYS, FAILED, "starting"),
            (Policy.ALWAYS, KILLED, "starting"), (Policy.ALWAYS, ExitStatus(), "starting"),
            (Policy.ON_FAILURE, CLEAN, "stopped"), (Policy.ON_FAILURE, FAILED, "starting"),
            (Policy.ON_FAILURE, KILLED, "starting"), (Policy.ON_FAILURE, ExitStatus(), "starting"),
            (Policy.NEVER, CLEAN, "stopped"), (Policy.NEVER, FAILED, "failed"),
            (Policy.NEVER, KILLED, "failed"), (Policy.NEVER, ExitStatus(), "failed"),
        ]
        for policy, status, state in rows:
            with self.subTest(f"{policy.value} {status}"):
                leader = self.running(restart=RestartConfig(policy=policy))
                leader.die(status)
                self.lab.settle()
                self.assertEqual(self.life.agent().state.value, state)
                self.lab.crash()
                self.host.power_cut()
                self.life.metadata_path().unlink()

    def test_what_a_policy_left_down_is_not_wanted_down(self) -> None:
        leader = self.running(restart=RestartConfig(policy=Policy.NEVER))
        leader.die(FAILED)
        self.lab.run(10)
        starting = self.life.manager.start("web")
        self.lab.run(2)
        self.successResultOf(starting)


class HeartbeatsHere(LabCase):
    def beat(self, **keys: object) -> None:
        self.life.agent().record(Heartbeat(pid=self.life.agent().pid, timestamp=0.0, **keys))

    def test_the_first_ever_is_told_and_remembered_over_daemons(self) -> None:
        self.running()
        self.assertFalse(self.life.agent().metadata.ever_heartbeat)
        self.beat(version="1.2.3")
        self.beat()
        self.assertEqual(len(self.life.told("agent.first_heartbeat")), 1)
        self.lab.run(1)
        self.lab.next_daemon()
        self.assertTrue(self.life.agent().metadata.ever_heartbeat)
        self.assertEqual(self.life.agent().metadata.version, "1.2.3")
        self.beat()
        self.assertEqual(self.life.told("agent.first_heartbeat"), [])

    def test_an_announced_stop_is_no_crash_and_the_policy_still_applies(self) -> None:
        leader = self.running()
        self.beat(status="stopping")
        leader.die(CLEAN)
        self.lab.settle()
        event = self.life.told("agent.exited")[0]
        self.assertIs(event.severity, Severity.INFO)
        self.assertTrue(event.data["announced"])
        self.assertIn("ended as announced", event.message)
        self.assertEqual(self.spawns(), 2)
        self.life.process().die(FAILED)  # the successor announced nothing
        self.lab.settle()
        self.assertFalse(self.life.told("agent.exited")[1].data["announced"])

    def test_what_the_old_process_said_of_itself_is_gone_with_it(self) -> None:
        leader = self.running()
        self.beat(cpu=12.0, memory=4096, status="running")
        leader.die(FAILED)
        self.lab.settle()
        pulse = self.life.agent().pulse
        self.assertEqual((pulse.cpu, pulse.memory, pulse.status), (None, None, ""))


class Versions(LabCase):
    def asking(self) -> None:
        self.running(version_command=("/bin/agent", "--version"))

    def test_the_binary_is_asked_once_it_runs_and_not_again_while_it_is_the_same(self) -> None:
        self.lab.commands["/bin/agent"] = FakeProgram(output=b"agent version 8.11.3 (amd64)\n")
        self.asking()
        self.assertEqual(self.life.agent().metadata.version, "8.11.3")
        self.life.process().die(FAILED)
        self.lab.run(3)
        self.assertEqual(len(self.life.commands.calls), 1)

    def test_another_binary_is_asked_again(self) -> None:
        self.lab.commands["/bin/agent"] = FakeProgram(output=b"1.0")
        self.asking()
        self.lab.binary("web").write_bytes(b"new")
        self.lab.commands["/bin/agent"].output = b"1.1"
        self.life.commands.programs["/bin/agent"] = FakeProgram(output=b"1.1")
        self.life.manager.restart("web")
        self.lab.run(3)
        self.assertEqual(self.life.agent().metadata.version, "1.1")

    def test_a_command_that_fails_or_says_nothing_leaves_the_version_unknown(self) -> None:
        self.asking()
        self.assertEqual(self.life.agent().metadata.version, "")
        self.life.commands.programs["/bin/agent"] = FakeProgram(output=b"usage: agent")
        self.life.manager.restart("web")
        self.lab.run(3)
        self.assertEqual(self.life.agent().metadata.version, "")
        self.assert_state(AgentState.RUNNING)

    def test_an_answer_after_the_daemon_left_is_dropped(self) -> None:
        self.lab.commands["/bin/agent"] = FakeProgram(output=b"1.0", takes_s=5.0)
        self.asking()
        self.life.leave()
        self.lab.run(6)
        self.assertEqual(self.life.agent().metadata.version, "")


class TheTable(LabCase):
    def test_a_transition_outside_the_table_is_a_fault_of_ours(self) -> None:
        self.running()
        with self.assertRaisesRegex(AssertionError, "running -> starting"):
            self.life.agent().book.transition(AgentState.STARTING, "no")

    def test_staying_renews_the_reason_and_tells_nobody(self) -> None:
        self.running()
        before = len(self.life.changes)
        self.life.agent().book.transition(AgentState.RUNNING, "still")
        self.assertEqual(self.life.agent().book.reason, "still")
        self.assertEqual(len(self.life.changes), before)
        self.assertTrue(all(may_follow(c.old, c.new) for c in self.life.changes))
