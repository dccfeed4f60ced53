"""Every row of the reconcile table at the start of a daemon, and who may never be taken for an agent."""

from __future__ import annotations

import signal

from agents_lab import AdoptionCase

from daemon.config.schema import Policy, RestartConfig
from daemon.model.agent import AgentState, ExitStatus, Wanted
from tests.fakes.host import Child
from tests.fakes.lab import Lab, Life


class ReconcileAtStart(AdoptionCase):
    def test_the_same_configuration_is_taken_back_without_a_restart(self) -> None:
        _life, process = self.boot_running()
        new = self.lab.next_daemon()
        self.assertEqual(new.agent().pid, process.pid)
        self.assertIs(new.agent().state, AgentState.RUNNING)
        self.assertEqual(new.states(), ["running"])
        self.assertEqual(process.signals, [])
        self.assertEqual(new.launcher.spawned, [])
        self.assertEqual(len(new.told("agent.adopted")), 1)
        self.assertEqual(new.manager.adopted_total, 1)
        self.assertEqual(new.agent().decision.why, "it runs as configured")

    def test_a_changed_configuration_is_taken_back_and_then_restarted_once(self) -> None:
        _life, old = self.boot_running()
        self.lab.spec(args=("--verbose",))
        new = self.lab.next_daemon()
        self.lab.run(2)
        self.assertFalse(old.alive)
        self.assertEqual(old.signals[0], signal.SIGTERM)
        self.assertEqual(new.states(), ["running", "stopping", "stopped", "starting", "running"])
        self.assertEqual(len(new.launcher.spawned), 1)
        self.assertEqual(new.agent().metadata.restart_count, 0)

    def test_a_change_of_a_live_key_restarts_nothing(self) -> None:
        _life, process = self.boot_running()
        self.lab.spec(stop_timeout=5.0, restart=RestartConfig(max_retries=3))
        new = self.lab.next_daemon()
        self.lab.run(2)
        self.assertEqual(new.agent().pid, process.pid)
        self.assertEqual(process.signals, [])

    def test_an_agent_that_left_the_file_is_stopped_and_forgotten(self) -> None:
        life, process = self.boot_running()
        new = self.lab.next_daemon([])
        self.lab.run(1)
        self.assertFalse(process.alive)
        self.assertIsNone(new.manager.find("web"))
        self.assertFalse(life.metadata_path().exists())

    def test_it_is_stopped_with_the_signal_and_patience_of_its_last_configuration(self) -> None:
        self.lab.spec(stop_signal="QUIT", stop_timeout=3.0)
        self.lab.program().ignores = frozenset({signal.SIGQUIT})
        _life, process = self.boot_running()
        self.lab.next_daemon([])
        self.lab.run(2.5)
        self.assertEqual(process.signals, [signal.SIGQUIT])
        self.assertTrue(process.alive)
        self.lab.run(1)
        self.assertFalse(process.alive)

    def test_a_dead_agent_that_left_the_file_is_forgotten(self) -> None:
        life, process = self.boot_running()
        self.lab.crash()
        process.die(ExitStatus(code=0))
        new = self.lab.boot([])
        self.lab.run(1)
        self.assertEqual(len(new.manager.registry), 0)
        self.assertFalse(life.metadata_path().exists())
        self.assertEqual(new.launcher.spawned, [])

    def test_enabled_false_is_taken_back_and_then_stopped(self) -> None:
        _life, process = self.boot_running()
        self.lab.spec(enabled=False)
        new = self.lab.next_daemon()
        self.lab.run(1)
        self.assertFalse(process.alive)
        self.assertIs(new.agent().state, AgentState.STOPPED)
        self.assertIn("enabled: false", new.agent().decision.why)
        self.assertIs(new.agent().metadata.wanted, Wanted.RUNNING)

    def test_enabled_false_and_not_running_stays_registered_and_down(self) -> None:
        self.lab.spec(enabled=False)
        life = self.lab.boot()
        self.lab.run(5)
        self.assertEqual(life.launcher.spawned, [])
        self.assertIs(life.agent().state, AgentState.STOPPED)

    def test_what_the_operator_stopped_stays_stopped(self) -> None:
        life, _process = self.boot_running()
        self.lab.run(1)
        stopping = life.manager.stop("web")
        self.lab.settle()
        self.successResultOf(stopping)
        self.lab.run(1)
        new = self.lab.next_daemon()
        self.lab.run(60)
        self.assertEqual(new.launcher.spawned, [])
        self.assertIs(new.agent().state, AgentState.STOPPED)
        self.assertEqual(new.agent().decision.why, "the operator stopped it")

    def test_a_stop_that_a_crash_interrupted_is_finished(self) -> None:
        self.lab.spec(stop_timeout=20.0)
        self.lab.program().ignores = frozenset({signal.SIGTERM})
        life, process = self.boot_running()
        stopping = life.manager.stop("web")
        self.lab.run(1)
        self.assertNoResult(stopping)
        new = self.lab.next_daemon()
        self.assertIs(new.agent().state, AgentState.STOPPING)
        self.lab.run(21)
        self.assertFalse(process.alive)
        self.assertIs(new.agent().state, AgentState.STOPPED)
        self.assertEqual(new.launcher.spawned, [])

    def test_a_restart_that_a_crash_interrupted_is_finished_whatever_the_policy(self) -> None:
        for policy in Policy:
            for ends in (True, False):
                with self.subTest(policy=policy, ends=ends):
                    self.lab = Lab()
                    self.addCleanup(self.lab.close)
                    self.host = self.lab.host
                    self.lab.spec(stop_timeout=20.0, restart=RestartConfig(policy=policy))
                    self.lab.program().ignores = frozenset({signal.SIGTERM})
                    life, old = self.boot_running()
                    life.manager.restart("web")
                    self.lab.run(1)
                    self.assertIs(life.agent().state, AgentState.STOPPING)
                    self.lab.crash()
                    if ends:
                        old.die(ExitStatus(code=0))
                    self.lab.program().ignores = frozenset()
                    new = self.lab.boot()
                    self.lab.run(40)
                    self.assertFalse(old.alive)
                    self.assertIs(new.agent().state, AgentState.RUNNING)
                    self.assertEqual(len(new.launcher.spawned), 1)
                    metadata = new.agent().metadata
                    self.assertEqual((metadata.restart_count, metadata.exits_in_a_row), (0, 0))
                    self.assertFalse(metadata.restarting)
                    self.lab.crash()
                    self.assertEqual(self.lab.boot().launcher.spawned, [])

    def test_a_stop_after_a_restart_that_a_crash_interrupted_stays(self) -> None:
        self.lab.spec(stop_timeout=20.0)
        self.lab.program().ignores = frozenset({signal.SIGTERM})
        life, old = self.boot_running()
        restarting = life.manager.restart("web")
        self.lab.run(1)
        life.manager.stop("web")
        self.superseded(restarting)
        self.lab.run(1)
        self.lab.crash()
        new = self.lab.boot()
        self.lab.run(40)
        self.assertFalse(old.alive)
        self.assertEqual(new.launcher.spawned, [])

    def test_an_intent_on_disk_before_the_first_signal_is_carried_out(self) -> None:
        life, process = self.boot_running()
        self.lab.run(1)
        life.threads.hang("sweep")
        life.manager.stop("web", graceful=False)
        self.assertIs(life.saved().wanted, Wanted.STOPPED)
        self.lab.crash()
        new = self.lab.boot()
        self.lab.run(1)
        self.assertFalse(process.alive)
        self.assertIs(new.agent().state, AgentState.STOPPED)

    def test_living_workers_of_a_dead_leader_go_before_a_new_leader_comes(self) -> None:
        self.lab.program().children = (Child(setsid=True), Child(own_group=True), Child())
        life, leader = self.boot_running()
        workers = [p for p in self.host.alive(leader.token) if p is not leader]
        self.assertEqual(len(workers), 3)
        self.lab.crash()
        leader.die(ExitStatus(code=1))
        self.lab.program().children = ()
        new = self.lab.take_over()
        new.threads.hang("sweep")
        new.manager.start_missing()
        self.lab.settle()
        self.assertEqual(new.launcher.spawned, [])
        new.threads.release("sweep")
        self.lab.settle()
        self.assertEqual([w.alive for w in workers], [False, False, False])
        self.assertEqual(len(new.launcher.spawned), 1)
        self.lab.run(2)
        self.assertIs(new.agent().state, AgentState.RUNNING)
        self.assertEqual(self.leaders(), [new.process()])

    def test_an_end_that_nobody_watched_counts_as_a_failure(self) -> None:
        self.lab.spec(restart=RestartConfig(policy=Policy.ON_FAILURE))
        life, leader = self.boot_running()
        self.lab.crash()
        leader.die(ExitStatus(code=0))
        new = self.lab.boot()
        self.assertEqual(len(new.launcher.spawned), 1)
        self.assertEqual(new.agent().metadata.last_exit.reason, "ended while no daemon watched")
        self.assertEqual(new.agent().metadata.exits_in_a_row, 1)
        self.assertEqual(len(new.told("agent.exited")), 1)

    def test_an_end_that_nobody_watched_is_no_exit_of_a_stopped_agent(self) -> None:
        self.lab.program().ignores = frozenset({signal.SIGTERM})
        life, leader = self.boot_running()
        life.manager.stop("web")
        self.lab.run(1)
        self.lab.crash()
        leader.die(ExitStatus(code=0))
        new = self.lab.boot()
        self.lab.run(60)
        self.assertEqual(new.launcher.spawned, [])
        self.assertIs(new.agent().state, AgentState.STOPPED)
        self.assertEqual(new.agent().metadata.exits_in_a_row, 0)

    def test_a_wait_for_the_next_try_goes_on_where_it_was(self) -> None:
        life, leader = self.boot_running()
        leader.die(ExitStatus(code=1))
        self.lab.run(2)
        life.process().die(ExitStatus(code=1))  # the second exit in a row: base = 10 s
        self.lab.run(4)
        self.assertIs(life.agent().state, AgentState.RESTARTING)
        new = self.lab.next_daemon()
        self.assertIs(new.agent().state, AgentState.RESTARTING)
        self.lab.run(5.5)
        self.assertEqual(new.launcher.spawned, [])
        self.lab.run(1)
        self.assertEqual(len(new.launcher.spawned), 1)
        self.assertEqual(new.agent().metadata.lifetime_restarts, 2)

    def test_a_policy_that_left_it_down_is_remembered(self) -> None:
        self.lab.spec(restart=RestartConfig(policy=Policy.NEVER))
        life, leader = self.boot_running()
        leader.die(ExitStatus(code=3))
        self.lab.run(1)
        new = self.lab.next_daemon()
        self.lab.run(60)
        self.assertEqual(new.launcher.spawned, [])
        self.assertIs(new.agent().state, AgentState.FAILED)

    def test_a_failed_agent_is_still_failed_and_its_slow_try_still_comes(self) -> None:
        self.lab.spec(restart=RestartConfig(max_retries=1, slow_retry=100.0))
        life, leader = self.boot_running()
        leader.die(ExitStatus(code=1))
        self.lab.run(2)
        life.process().die(ExitStatus(code=1))
        self.lab.run(10)
        self.assertIs(life.agent().state, AgentState.FAILED)
        new = self.lab.next_daemon()
        self.assertIs(new.agent().state, AgentState.FAILED)
        self.lab.run(85)
        self.assertEqual(new.launcher.spawned, [])
        self.lab.run(10)
        self.assertEqual(len(new.launcher.spawned), 1)

    def test_one_given_up_for_good_is_tried_again_once_slow_tries_are_configured(self) -> None:
        self.lab.spec(missing=True, restart=RestartConfig(max_retries=1, slow_retry=0.0))
        self.lab.boot()
        self.lab.run(3)
        self.lab.crash()
        self.lab.spec(restart=RestartConfig(max_retries=1, slow_retry=60.0))
        self.lab.boot()
        self.lab.run(59)
        self.assertEqual(self.spawns(), 0)
        self.lab.run(3)
        self.assertEqual(self.spawns(), 1)

    def test_after_a_reboot_everything_wanted_starts_afresh(self) -> None:
        self.lab.spec("down")
        life, leader = self.boot_running("web")
        life.manager.stop("down")
        leader.die(ExitStatus(code=1))
        self.lab.run(2)
        life.process().die(ExitStatus(code=1))
        self.lab.run(1)
        self.lab.crash()
        self.host.power_cut()
        self.edit_boot(life, "web")
        self.edit_boot(life, "down")
        stranger = self.host.stranger(pid=leader.pid)
        new = self.lab.boot()
        self.assertEqual(len(new.launcher.spawned), 1)
        self.lab.run(2)
        self.assertIs(new.agent("web").state, AgentState.RUNNING)
        self.assertEqual(new.agent("web").metadata.exits_in_a_row, 0)
        self.assertIs(new.agent("down").state, AgentState.STOPPED)
        self.assertTrue(stranger.alive)
        self.assertTrue(self.host.untouched())

    def edit_boot(self, life: Life, agent_id: str) -> None:
        """The metadata comes from an earlier boot of the machine."""
        path = life.metadata_path(agent_id)
        path.write_text(path.read_text().replace(life.world.boot_id, "an-earlier-boot"))

    def test_an_agent_that_outlived_the_daemon_before_start_seconds_starts_on(self) -> None:
        self.lab.spec(start_seconds=5.0)
        self.lab.boot()
        self.lab.run(2)
        new = self.lab.next_daemon()
        self.assertIs(new.agent().state, AgentState.STARTING)
        self.lab.run(2.5)
        self.assertIs(new.agent().state, AgentState.STARTING)
        self.lab.run(1)
        self.assertIs(new.agent().state, AgentState.RUNNING)

    def test_an_adopted_agent_that_ends_is_restarted_at_once(self) -> None:
        _life, leader = self.boot_running()
        new = self.lab.next_daemon()
        leader.die(ExitStatus(code=4))
        self.lab.settle()
        self.assertEqual(len(new.launcher.spawned), 1)
        self.assertEqual(new.agent().metadata.last_exit.code, 4)

    def test_an_exit_status_the_kernel_cannot_tell_is_a_failure(self) -> None:
        self.lab.spec(restart=RestartConfig(policy=Policy.ON_FAILURE))
        self.host.tells_strangers = False
        _life, leader = self.boot_running()
        new = self.lab.next_daemon()
        leader.die(ExitStatus(code=0))
        self.lab.settle()
        self.assertEqual(len(new.launcher.spawned), 1)
        self.assertIsNone(new.agent().metadata.last_exit.code)
        self.assertIn("unknown", new.agent().metadata.last_exit.reason)

    def test_an_agent_kept_over_an_exec_of_the_daemon_is_still_its_child(self) -> None:
        life, leader = self.boot_running()
        heir = type(life.launcher)(self.host, life.clock)
        life.clock.die()
        life.launcher.die(heir=heir)
        self.host.tells_strangers = False
        new = self.lab.boot(launcher=heir)
        self.assertEqual(new.agent().pid, leader.pid)
        leader.die(ExitStatus(code=9))
        self.lab.settle()
        self.assertEqual(new.agent().metadata.last_exit.code, 9)
        self.assertEqual(self.host.zombies, [])

    def test_an_agent_that_died_during_an_exec_of_the_daemon_leaves_no_zombie(self) -> None:
        life, leader = self.boot_running()
        heir = type(life.launcher)(self.host, life.clock)
        life.clock.die()
        life.launcher.die(heir=heir)
        leader.die(ExitStatus(code=9))
        self.assertEqual(self.host.zombies, [leader])
        new = self.lab.boot(launcher=heir)
        self.assertEqual(self.host.zombies, [])
        self.assertEqual(len(new.launcher.spawned), 1)
