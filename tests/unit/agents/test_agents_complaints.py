"""An agent that is wanted running and does not run has an alert, from the first moment and until it runs."""

from __future__ import annotations

from agents_lab import FAILED, LabCase
from twisted.logger import LogEvent, globalLogPublisher

from daemon.config.schema import Policy, RestartConfig
from daemon.model.agent import AgentState


class ComplaintsTest(LabCase):
    def types(self) -> list[str]:
        """The alerts that stand about the agent."""
        return sorted(type for agent_id, type in self.life.alerts.standing if agent_id == "web")

    def message(self, type: str) -> str:
        return self.life.alerts.standing["web", type].message

    def test_a_missing_binary_is_an_alert_from_the_first_try_until_a_process_comes_to_be(self) -> None:
        self.lab.spec(missing=True)
        self.lab.boot()
        self.lab.settle()
        self.assert_state(AgentState.RESTARTING)
        self.assertEqual(self.types(), ["start_failed"])
        self.assertIn("No such file", self.message("start_failed"))
        self.lab.run(15)
        self.assertEqual(len(self.life.alerts.told), 1)  # one alert, however many tries
        self.lab.spec()
        self.lab.run(7)
        self.assert_state(AgentState.RUNNING)
        self.assertEqual(self.types(), [])

    def test_given_up_it_has_both_until_it_runs_and_is_well(self) -> None:
        self.lab.spec(missing=True, restart=RestartConfig(max_retries=1, slow_retry=60.0))
        self.lab.boot()
        self.lab.run(2)
        self.assert_state(AgentState.FAILED)
        self.assertEqual(self.types(), ["restarts_given_up", "start_failed"])
        self.lab.spec()
        self.lab.run(62)
        self.assertEqual(self.types(), ["restarts_given_up"])
        self.lab.run(301)
        self.assertEqual(self.types(), [])

    def test_what_its_policy_leaves_failed_is_an_alert_until_it_runs(self) -> None:
        self.running(restart=RestartConfig(policy=Policy.NEVER)).die(FAILED)
        self.lab.settle()
        self.assert_state(AgentState.FAILED)
        self.assertEqual(self.types(), ["agent_failed"])
        self.assertIn("exit code 1", self.message("agent_failed"))
        starting = self.life.manager.start("web")
        self.lab.run(2)
        self.successResultOf(starting)
        self.assertEqual(self.types(), [])

    def test_a_later_daemon_raises_it_again(self) -> None:
        self.running(restart=RestartConfig(policy=Policy.NEVER)).die(FAILED)
        self.lab.run(1)
        self.lab.crash()
        self.lab.boot()
        self.lab.settle()
        self.assertEqual(self.types(), ["agent_failed"])

    def test_one_that_never_came_to_be_and_is_left_so_has_one_alert(self) -> None:
        self.lab.spec(missing=True, restart=RestartConfig(policy=Policy.NEVER))
        self.lab.boot()
        self.lab.settle()
        self.assert_state(AgentState.FAILED)
        self.assertEqual(self.types(), ["start_failed"])

    def test_one_that_ended_well_has_none(self) -> None:
        self.lab.spec(restart=RestartConfig(policy=Policy.ON_FAILURE))
        self.lab.program().lives_s = 3.0
        self.lab.boot()
        self.lab.run(4)
        self.assert_state(AgentState.STOPPED)
        self.assertEqual(self.life.alerts.told, [])

    def test_an_operators_stop_or_a_configuration_that_disables_it_ends_them(self) -> None:
        for way in ("stop", "disabled", "removed"):
            with self.subTest(way):
                self.lab.spec(missing=True, restart=RestartConfig(max_retries=1))
                self.lab.boot()
                self.lab.run(2)
                self.assertEqual(self.types(), ["restarts_given_up", "start_failed"])
                if way == "stop":
                    self.succeeded(self.life.manager.stop("web"))
                elif way == "disabled":
                    self.lab.spec(missing=True, enabled=False)
                    self.life.manager.apply(self.lab.specs.values())
                else:
                    self.life.manager.apply([])
                self.lab.settle()
                self.assertEqual(self.types(), [])
                self.lab.crash()
                self.life.metadata_path().unlink(missing_ok=True)

    def test_the_limit_of_an_hour_is_an_alert_while_it_waits(self) -> None:
        self.running(restart=RestartConfig(backoff_base=0.0, max_retries=0, max_restarts_per_hour=2))
        for _ in range(3):
            self.life.process().die(FAILED)
            self.lab.run(2)
        self.assert_state(AgentState.RESTARTING)
        self.assertEqual(self.types(), ["restarts_limited"])
        self.assertIn("2 restarts in the last hour", self.message("restarts_limited"))
        self.lab.run(3600, step=1.0)
        self.assert_state(AgentState.RUNNING)
        self.assertEqual(self.types(), [])

    def test_what_does_not_end_is_an_alert_until_it_has_ended_or_is_wanted_again(self) -> None:
        for way in ("ends", "is wanted"):
            with self.subTest(way):
                self.lab.program().stuck = True
                leader = self.running()
                self.life.manager.stop("web", graceful=False).addErrback(lambda _failed: None)
                self.lab.run(11)
                self.assertEqual(self.types(), ["stop_failed"])
                if way == "ends":
                    leader.die(FAILED)
                else:
                    self.life.manager.start("web")
                self.lab.run(2)
                self.assertEqual(self.types(), [])
                self.lab.crash()
                self.host.power_cut()
                self.life.metadata_path().unlink()

    def test_a_start_that_fails_is_one_line_of_the_log_with_its_code(self) -> None:
        lines: list[LogEvent] = []
        globalLogPublisher.addObserver(lines.append)
        self.addCleanup(globalLogPublisher.removeObserver, lines.append)
        self.lab.spec(missing=True)
        self.lab.boot()
        self.lab.settle()
        said = [line for line in lines if "No such file" in str(line.get("reason", line.get("text", "")))]
        tries = len(self.life.told("agent.start_failed"))
        self.assertEqual(len(said), tries)
        self.assertEqual({line.get("error_code") for line in said}, {"D3001"})
