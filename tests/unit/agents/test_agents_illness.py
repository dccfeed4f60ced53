"""A live but unhealthy agent: restarted by its policy and its table, or only reported; dropped when well again."""

from __future__ import annotations

import math

from agents_lab import FAILED, LabCase

from daemon.config.schema import Policy, RestartConfig
from daemon.model.agent import AgentState, HealthStatus
from daemon.model.health import HealthVerdict

ILL = HealthVerdict(
    status=HealthStatus.NO_HEARTBEAT, reason="no heartbeat for 95.0 s, the limit is 90 s", check="heartbeat",
    value=95.0, limit=90.0, duration_s=95.0,
)
WELL = HealthVerdict(status=HealthStatus.HEALTHY, reason="pid lives, all checks pass")


class IllnessCase(LabCase):
    def judge(self, verdict: HealthVerdict) -> None:
        self.life.agent().judge(verdict)
        self.lab.settle()


class Restarts(IllnessCase):
    def test_the_first_restart_is_immediate_counted_and_says_why(self) -> None:
        leader = self.running()
        self.judge(ILL)
        self.lab.run(2)
        self.assertFalse(leader.alive)
        self.assertEqual(leader.signals, [15])
        self.assertEqual(self.spawns(), 2)
        self.assert_state(AgentState.RUNNING)
        metadata = self.life.agent().metadata
        self.assertEqual((metadata.restart_count, metadata.lifetime_restarts), (1, 1))
        self.assertEqual(metadata.exits_in_a_row, 1)
        [event] = self.life.told("agent.unhealthy")
        self.assertIn("no heartbeat for 95.0 s, the limit is 90 s; restarting at once", event.message)
        self.assertEqual(event.data["code"], "D3003")
        self.assertIn("it is unhealthy: no heartbeat", self.life.told("agent.stopped")[0].message)

    def test_restarts_follow_the_table_and_the_agent_runs_on_while_it_waits(self) -> None:
        self.running()
        delays = []
        for _n in range(7):
            leader = self.life.process()
            begun = self.lab.clock.seconds()
            self.judge(ILL)
            while leader.alive:
                self.assertIs(self.life.agent().process.alive, True)
                self.lab.run(1)
            delays.append(round(self.lab.clock.seconds() - begun))
            self.lab.run(2)
        self.assertEqual(delays, [0, 10, 10, 30, 30, 60, 60])

    def test_while_it_waits_the_next_try_and_the_reason_are_shown(self) -> None:
        self.running()
        self.judge(ILL)
        self.lab.run(2)
        self.judge(ILL)
        agent = self.life.agent()
        self.assert_state(AgentState.RUNNING)
        self.assertEqual(agent.metadata.next_try_mono, self.lab.clock.seconds() + 10)
        agent.reconcile()
        self.assertIn("its restart is not due yet; unhealthy: no heartbeat", agent.decision.why)

    def test_a_restart_that_waits_is_dropped_when_it_turns_healthy(self) -> None:
        self.running()
        self.judge(ILL)
        self.lab.run(2)
        leader = self.life.process()
        self.judge(ILL)
        self.lab.run(5)
        self.judge(WELL)
        self.lab.run(60)
        self.assertTrue(leader.alive)
        self.assertEqual(self.spawns(), 2)
        self.assertIsNone(self.life.agent().metadata.next_try_mono)
        self.assertIn("the restart that waited is dropped", self.life.told("agent.healthy")[0].message)

    def test_never_only_reports_and_once(self) -> None:
        leader = self.running(restart=RestartConfig(policy=Policy.NEVER))
        for _ in range(5):
            self.judge(ILL)
            self.lab.run(30)
        self.assertTrue(leader.alive)
        self.assertEqual(self.life.agent().metadata.lifetime_restarts, 0)
        [event] = self.life.told("agent.unhealthy")
        self.assertIn("only reported: restart policy never", event.message)
        self.judge(WELL)
        self.assertEqual(len(self.life.told("agent.healthy")), 1)

    def test_on_failure_restarts_an_unhealthy_one_too(self) -> None:
        leader = self.running(restart=RestartConfig(policy=Policy.ON_FAILURE))
        self.judge(ILL)
        self.lab.run(2)
        self.assertFalse(leader.alive)

    def test_restarts_per_hour_bound_it(self) -> None:
        self.running(restart=RestartConfig(backoff_base=0.0, max_retries=0, max_restarts_per_hour=2))
        for _ in range(2):
            self.judge(ILL)
            self.lab.run(2)
        leader = self.life.process()
        self.judge(ILL)
        self.lab.run(3500, step=60)
        self.assertTrue(leader.alive)
        self.lab.run(200, step=5)
        self.assertFalse(leader.alive)

    def test_after_max_retries_it_runs_on_with_an_alert_and_a_slow_try(self) -> None:
        self.running(restart=RestartConfig(max_retries=2, slow_retry=100.0))
        self.judge(ILL)
        self.lab.run(2)
        self.judge(ILL)
        self.lab.run(13)
        leader = self.life.process()
        self.judge(ILL)
        alert = self.life.alerts.standing["web", "restarts_given_up"]
        self.assertIn("no heartbeat", alert.message)
        self.lab.run(95)
        self.assertTrue(leader.alive)
        self.lab.run(10)
        self.assertFalse(leader.alive)
        self.assert_state(AgentState.RUNNING)

    def test_a_slow_retry_of_0_never_tries_again_but_runs_on(self) -> None:
        self.running(restart=RestartConfig(max_retries=1, slow_retry=0.0))
        self.judge(ILL)
        self.lab.run(2)
        leader = self.life.process()
        for _ in range(20):
            self.judge(ILL)
            self.lab.run(600, step=100)
        self.assertTrue(leader.alive)
        self.assertIn(("web", "restarts_given_up"), self.life.alerts.standing)

    def test_only_health_resets_the_count(self) -> None:
        self.running(restart=RestartConfig(reset_after=60.0, policy=Policy.ALWAYS, backoff_base=50.0))
        self.judge(ILL)
        self.lab.run(30)
        self.judge(ILL)
        self.lab.run(45)  # 75 s after its start, of which 30 in health
        self.assertEqual(self.life.agent().metadata.exits_in_a_row, 1)
        self.judge(WELL)
        self.lab.run(59)
        self.assertEqual(self.life.agent().metadata.exits_in_a_row, 1)
        self.lab.run(2)
        self.assertEqual(self.life.agent().metadata.exits_in_a_row, 0)


class Meanwhile(IllnessCase):
    def test_other_restart_keys_apply_to_a_restart_that_waits_under_the_old_ones(self) -> None:
        for old, new in (
            ({"max_retries": 1, "slow_retry": 0.0}, {"max_retries": 1, "slow_retry": 60.0}),
            ({"backoff_base": 0.0, "max_restarts_per_hour": 1}, {"backoff_base": 0.0, "max_restarts_per_hour": 0}),
            ({"backoff_base": 60.0}, {"backoff_base": 0.0}),
        ):
            with self.subTest(old=old, new=new):
                self.running(restart=RestartConfig(**old))
                self.judge(ILL)
                self.lab.run(2)
                leader = self.life.process()
                self.judge(ILL)
                self.lab.run(30)
                self.assertTrue(leader.alive)
                self.lab.spec(restart=RestartConfig(**new))
                self.life.manager.apply(self.lab.specs.values())
                self.lab.run(62)
                self.assertFalse(leader.alive)
                self.assert_state(AgentState.RUNNING)
                self.lab.crash()
                self.host.power_cut()
                self.life.metadata_path().unlink()

    def test_a_reload_does_not_count_the_time_in_which_it_was_ill(self) -> None:
        restart = RestartConfig(reset_after=60.0, backoff_base=50.0)
        self.running(restart=restart)
        self.judge(ILL)
        self.lab.run(30)
        self.judge(ILL)
        self.lab.run(45)
        self.judge(WELL)
        self.lab.run(10)
        self.lab.spec(restart=restart, name="another")
        self.life.manager.apply(self.lab.specs.values())
        self.lab.run(49)
        self.assertEqual(self.life.agent().metadata.exits_in_a_row, 1)
        self.lab.run(2)
        self.assertEqual(self.life.agent().metadata.exits_in_a_row, 0)

    def waiting(self) -> None:
        """Unhealthy for the second time: its restart comes in 10 s."""
        self.running()
        self.judge(ILL)
        self.lab.run(2)
        self.judge(ILL)

    def test_a_stop_beats_the_restart_that_waits(self) -> None:
        self.waiting()
        self.succeeded(self.life.agent().stop())
        self.lab.run(600, step=5)
        self.assert_state(AgentState.STOPPED)
        self.assertEqual(self.spawns(), 2)

    def test_a_stop_during_the_restart_leaves_it_stopped(self) -> None:
        self.lab.program().ignores = frozenset({15})
        self.running(stop_timeout=5.0)
        self.judge(ILL)
        stop = self.life.agent().stop()
        self.lab.run(10)
        self.succeeded(stop)
        self.assert_state(AgentState.STOPPED)
        self.assertEqual(self.spawns(), 1)
        self.assertEqual(self.life.agent().metadata.lifetime_restarts, 0)

    def test_an_operators_restart_is_at_once_and_uncounted(self) -> None:
        self.waiting()
        restart = self.life.agent().restart()
        self.lab.run(2)
        self.succeeded(restart)
        self.assertEqual(self.life.agent().metadata.lifetime_restarts, 1)
        self.lab.run(60)
        self.assertEqual(self.spawns(), 3)

    def test_a_crash_while_it_waits_counts_as_the_crash_it_is(self) -> None:
        self.waiting()
        self.life.process().die(FAILED)
        self.lab.settle()
        self.assert_state(AgentState.RESTARTING)
        self.lab.run(11)
        self.assertEqual(self.spawns(), 3)
        self.lab.run(60)
        self.assertEqual(self.spawns(), 3)

    def test_a_verdict_on_nothing_or_on_a_stopping_agent_says_nothing(self) -> None:
        self.lab.program().ignores = frozenset({15})
        self.running(stop_timeout=5.0)
        stop = self.life.agent().stop()
        self.judge(ILL)
        self.lab.run(10)
        self.succeeded(stop)
        self.judge(ILL)
        self.lab.run(60)
        self.assert_state(AgentState.STOPPED)
        self.assertEqual(self.life.told("agent.unhealthy"), [])

    def test_a_reload_to_never_drops_the_restart_and_back_again_brings_one(self) -> None:
        self.waiting()
        leader = self.life.process()
        self.lab.spec(restart=RestartConfig(policy=Policy.NEVER))
        self.life.manager.apply(self.lab.specs.values())
        self.judge(ILL)
        self.lab.run(60)
        self.assertTrue(leader.alive)
        self.lab.spec()
        self.life.manager.apply(self.lab.specs.values())
        self.judge(ILL)
        self.lab.run(12)
        self.assertFalse(leader.alive)

    def test_the_daemon_leaves_while_a_restart_is_under_way_and_the_agent_runs_on(self) -> None:
        self.lab.program().ignores = frozenset({15})
        self.running(stop_timeout=5.0)
        self.judge(ILL)
        left = self.life.leave()
        self.lab.run(6)
        self.successResultOf(left)
        self.assertEqual(self.spawns(), 2)
        self.assertEqual(len(self.host.alive()), 1)


class GivenUp(IllnessCase):
    def test_the_alert_of_a_crashing_agent_ends_with_five_healthy_minutes(self) -> None:
        self.lab.spec(restart=RestartConfig(max_retries=1, slow_retry=60.0))
        program = self.lab.program()
        program.lives_s, program.status = 0.1, FAILED
        self.lab.boot()
        self.lab.run(5)
        self.assert_state(AgentState.FAILED)
        self.assertIn("next try in 60 s", self.life.alerts.standing["web", "restarts_given_up"].message)
        program.lives_s = math.inf
        self.lab.run(120)
        self.assert_state(AgentState.RUNNING)
        self.assertIn(("web", "restarts_given_up"), self.life.alerts.standing)
        self.lab.run(300, step=5)
        self.assertEqual(self.life.alerts.standing, {})

    def test_the_next_daemon_says_it_again_and_a_stop_ends_it(self) -> None:
        self.lab.spec(restart=RestartConfig(max_retries=1, slow_retry=0.0))
        program = self.lab.program()
        program.lives_s, program.status = 0.1, FAILED
        self.lab.boot()
        self.lab.run(5)
        life = self.lab.next_daemon()
        self.assertIn(("web", "restarts_given_up"), life.alerts.standing)
        self.succeeded(life.agent().stop())
        self.assertEqual(life.alerts.standing, {})

    def test_the_alerts_of_an_agent_go_with_it(self) -> None:
        self.lab.spec(restart=RestartConfig(max_retries=1, slow_retry=0.0))
        program = self.lab.program()
        program.lives_s, program.status = 0.1, FAILED
        self.lab.boot()
        self.lab.run(5)
        self.life.manager.apply([])
        self.lab.settle()
        self.assertEqual(self.life.alerts.standing, {})
