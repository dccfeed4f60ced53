"""A new configuration while agents run: what is live applies, what must restart restarts, once."""

from __future__ import annotations

from agents_lab import FAILED, LabCase

from daemon.config.schema import Policy, RestartConfig
from daemon.errors import RequestError
from daemon.model.agent import AgentState


class Reload(LabCase):
    def apply(self) -> None:
        self.life.manager.apply(self.lab.specs.values())
        self.lab.settle()

    def test_a_live_key_applies_without_a_restart(self) -> None:
        leader = self.running()
        self.lab.spec(restart=RestartConfig(policy=Policy.NEVER), stop_timeout=1.0)
        self.apply()
        self.assertEqual(leader.signals, [])
        leader.die(FAILED)
        self.lab.settle()
        self.assert_state(AgentState.FAILED)

    def test_a_shorter_reset_applies_to_what_runs(self) -> None:
        self.running()
        self.life.process().die(FAILED)
        self.lab.run(30)
        self.lab.spec(restart=RestartConfig(reset_after=20.0))
        self.apply()
        self.assertEqual(self.life.agent().metadata.exits_in_a_row, 0)

    def test_another_key_restarts_it_once_and_uncounted(self) -> None:
        leader = self.running()
        self.lab.spec(args=("-v",))
        self.apply()
        self.lab.run(2)
        self.assertFalse(leader.alive)
        self.assertEqual(self.spawns(), 2)
        self.assertEqual(self.life.agent().metadata.lifetime_restarts, 0)
        self.apply()
        self.lab.run(2)
        self.assertEqual(self.spawns(), 2)

    def test_a_corrected_configuration_revives_what_was_given_up_for_good(self) -> None:
        never_again = RestartConfig(max_retries=1, slow_retry=0.0)
        self.lab.program().error = 2
        self.lab.spec(restart=never_again)
        self.lab.boot()
        self.lab.run(30)
        self.assert_state(AgentState.FAILED)
        self.lab.program().error = 0
        self.lab.spec(restart=never_again, args=("-v",))
        self.apply()
        self.lab.run(2)
        self.assert_state(AgentState.RUNNING)
        self.assertEqual(self.life.agent().metadata.exits_in_a_row, 0)

    def test_another_policy_revives_what_the_old_one_left_down(self) -> None:
        self.running(restart=RestartConfig(policy=Policy.NEVER)).die(FAILED)
        self.lab.settle()
        self.assert_state(AgentState.FAILED)
        self.lab.spec(restart=RestartConfig(policy=Policy.ALWAYS))
        self.apply()
        self.lab.run(2)
        self.assert_state(AgentState.RUNNING)

    def test_other_restart_keys_apply_to_what_waits_under_the_old_ones(self) -> None:
        for old, new in (
            ({"max_retries": 1, "slow_retry": 0.0}, {"max_retries": 1, "slow_retry": 60.0}),
            ({"max_retries": 1, "slow_retry": 0.0}, {"max_retries": 10}),
            ({"backoff_base": 0.0, "max_restarts_per_hour": 1}, {"backoff_base": 0.0, "max_restarts_per_hour": 0}),
        ):
            with self.subTest(old=old, new=new):
                self.running(restart=RestartConfig(**old))
                for _ in range(2):
                    self.life.process().die(FAILED)
                    self.lab.run(2)
                self.assertEqual(self.life.agent().pid, 0)
                self.lab.spec(restart=RestartConfig(**new))
                self.life.manager.apply(self.lab.specs.values())
                self.lab.run(62)
                self.assert_state(AgentState.RUNNING)
                self.lab.crash()
                self.host.power_cut()
                self.life.metadata_path().unlink()

    def test_a_change_during_a_stop_is_in_the_successor(self) -> None:
        self.lab.program().stop_takes_s = 2.0
        self.running()
        restarting = self.life.manager.restart("web")
        self.lab.run(1)
        self.lab.spec(args=("-v",))
        self.apply()
        self.lab.run(4)
        self.successResultOf(restarting)
        self.assertEqual(self.spawns(), 2)

    def test_disabling_and_enabling_follow_the_file_and_keep_the_intent(self) -> None:
        leader = self.running()
        self.lab.spec(enabled=False)
        self.apply()
        self.assertFalse(leader.alive)
        self.assert_state(AgentState.STOPPED)
        self.lab.spec()
        self.apply()
        self.lab.run(2)
        self.assert_state(AgentState.RUNNING)

    def test_enabling_does_not_start_what_the_operator_stopped(self) -> None:
        self.running()
        self.succeeded(self.life.manager.stop("web"))
        self.lab.spec(enabled=False)
        self.apply()
        self.lab.spec()
        self.apply()
        self.lab.run(2)
        self.assertEqual(self.spawns(), 1)

    def test_one_that_leaves_and_comes_back_before_it_stopped_runs_on_anew(self) -> None:
        self.lab.program().stop_takes_s = 2.0
        leader = self.running()
        spec = self.lab.specs.pop("web")
        self.apply()
        self.lab.run(1)
        self.lab.specs["web"] = spec
        self.apply()
        self.lab.run(4)
        self.assertFalse(leader.alive)
        self.assert_state(AgentState.RUNNING)
        self.assertEqual(len(self.life.manager.registry), 1)

    def test_one_that_waits_for_its_next_try_leaves_at_once(self) -> None:
        self.running()
        for _ in range(2):
            self.life.process().die(FAILED)
            self.lab.settle()
        self.lab.specs.clear()
        self.apply()
        self.assertIsNone(self.life.manager.find("web"))
        self.lab.run(60)
        self.assertEqual(self.spawns(), 2)
        self.assertFalse(self.life.metadata_path().exists())

    def test_an_operation_on_one_that_has_left_is_unknown(self) -> None:
        self.running()
        agent = self.life.agent()
        self.lab.specs.clear()
        self.apply()
        self.assertIsNone(self.life.manager.find("web"))
        self.failureResultOf(agent.start(), RequestError)
