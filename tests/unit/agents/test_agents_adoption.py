"""Every row of the reconcile table at the start of a daemon, and who may never be taken for an agent."""

from __future__ import annotations

import signal

import msgspec
from twisted.trial.unittest import SynchronousTestCase

from daemon.agents.metadata import AgentMetadata
from daemon.config.schema import Policy, RestartConfig
from daemon.model.agent import AgentState, ExitStatus, Identity, Wanted
from tests.fakes.host import Child, FakeProcess
from tests.fakes.lab import Lab, Life


class AdoptionCase(SynchronousTestCase):
    """A laboratory per test."""

    def setUp(self) -> None:
        self.lab = Lab()
        self.addCleanup(self.lab.close)
        self.host = self.lab.host

    def boot_running(self, agent_id: str = "web") -> tuple[Life, FakeProcess]:
        """A daemon whose agent runs and is saved."""
        if agent_id not in self.lab.specs:
            self.lab.spec(agent_id)
        life = self.lab.boot()
        self.lab.run(2)
        self.assertIs(life.agent(agent_id).state, AgentState.RUNNING)
        return life, life.process(agent_id)

    def edit(self, life: Life, **changes: object) -> None:
        """Somebody edits the metadata while no daemon runs."""
        path = life.metadata_path()
        data = msgspec.json.decode(path.read_bytes(), type=AgentMetadata)
        path.write_bytes(msgspec.json.encode(msgspec.structs.replace(data, **changes)))

    def leaders(self, agent_id: str = "web") -> list[FakeProcess]:
        """The live session leaders with the agent's mark."""
        token = self.lab.life.agent(agent_id).metadata.mark
        return [p for p in self.host.alive(token) if p.session == p.pid]


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


class Strangers(AdoptionCase):
    def test_a_stranger_on_a_reused_pid_is_neither_adopted_nor_signalled(self) -> None:
        life, leader = self.boot_running()
        self.lab.crash()
        leader.die(ExitStatus(code=0))
        self.lab.run(1)
        self.host.stranger(pid=leader.pid)
        new = self.lab.boot()
        self.lab.run(2)
        self.assertNotEqual(new.agent().pid, leader.pid)
        self.assertEqual(len(new.launcher.spawned), 1)
        self.successResultOf(self.stopped(new))
        self.assertTrue(self.host.untouched())

    def stopped(self, life: Life) -> object:
        """The agent's stop, carried out."""
        stopping = life.manager.stop("web")
        self.lab.run(2)
        return stopping

    def test_a_pid_written_into_the_metadata_is_neither_adopted_nor_signalled(self) -> None:
        life, leader = self.boot_running()
        self.lab.crash()
        leader.die(ExitStatus(code=0))
        stranger = self.host.stranger()
        identity = msgspec.structs.replace(life.saved().identity, pid=stranger.pid)
        self.edit(life, identity=identity, wanted=Wanted.STOPPED)
        new = self.lab.boot()
        self.lab.run(60)
        self.assertEqual(new.agent().pid, 0)
        self.assertTrue(self.host.untouched())

    def test_a_whole_identity_written_into_the_metadata_is_refused_without_the_mark(self) -> None:
        for leads in (True, False):
            for environ in (b"PATH=/bin\0", b"HOSTDAEMON_AGENT_ID=web\0HOSTDAEMON_MARK=another\0"):
                with self.subTest(leads=leads, environ=environ):
                    self.lab.spec()
                    life = self.lab.boot(work_dir=f"{leads}{len(environ)}")
                    self.lab.run(2)
                    self.lab.crash()
                    for process in self.host.alive(life.agent().metadata.mark):
                        process.die(ExitStatus(code=0))
                    stranger = self.host.stranger(environ=environ, leads=leads)
                    self.edit(life, identity=self.host.identity_of(stranger), wanted=Wanted.STOPPED)
                    new = self.lab.boot(work_dir=f"{leads}{len(environ)}")
                    self.lab.run(60)
                    self.assertEqual(new.agent().pid, 0)
                    self.assertTrue(self.host.untouched())
                    self.lab.crash()

    def test_an_incomplete_identity_is_nobody(self) -> None:
        for changes in ({"pid": 0}, {"pid": -1}, {"start_ticks": 0}, {"boot_id": ""}):
            with self.subTest(changes):
                life, leader = self.boot_running()
                self.lab.crash()
                identity = msgspec.structs.replace(life.saved().identity, **changes)
                self.edit(life, identity=identity)
                new = self.lab.boot()
                self.lab.run(2)
                # Its mark of the remembered run says that it is a survivor: it goes, and another comes.
                self.assertFalse(leader.alive)
                self.assertEqual(self.leaders(), [new.process()])
                self.lab.crash()
                self.host.power_cut()
                new.metadata_path().unlink()

    def test_the_same_ids_of_another_work_dir_are_adopted_by_nobody(self) -> None:
        self.lab.spec()
        one = self.lab.boot(work_dir="one", secret=b"one")
        two = self.lab.boot(work_dir="two", secret=b"two")
        self.lab.run(2)
        theirs = two.process()
        self.assertNotEqual(one.agent().metadata.mark, two.agent().metadata.mark)
        one.die()
        one.metadata_path().unlink()
        again = self.lab.boot(work_dir="one", secret=b"one")
        self.lab.run(2)
        self.assertNotEqual(again.agent().pid, theirs.pid)
        stopping = again.manager.stop("web")
        self.lab.run(2)
        self.successResultOf(stopping)
        self.assertTrue(theirs.alive)
        self.assertEqual(theirs.signals, [])

    def test_our_agent_is_taken_back_although_its_environment_may_not_be_read(self) -> None:
        _life, leader = self.boot_running()
        leader.hidden = True
        new = self.lab.next_daemon()
        self.assertEqual(new.agent().pid, leader.pid)

    def test_our_agent_is_taken_back_although_it_painted_over_its_environment(self) -> None:
        self.lab.program().painted = b"redis-server *:6379\0\0\0"
        _life, leader = self.boot_running()
        new = self.lab.next_daemon()
        self.assertEqual(new.agent().pid, leader.pid)

    def test_our_agent_is_taken_back_although_it_cleared_its_environment(self) -> None:
        self.lab.program().painted = b"PATH=/bin\0"  # env -i PATH=/bin agent: both streams are on our log
        _life, leader = self.boot_running()
        new = self.lab.next_daemon()
        self.assertEqual(new.agent().pid, leader.pid)


class Unsaved(AdoptionCase):
    """The daemon died between the spawn and the save."""

    def test_it_is_found_by_its_mark(self) -> None:
        self.lab.spec()
        life = self.lab.boot()
        leader = life.process()
        self.assertFalse(life.metadata_path().exists())
        new = self.lab.next_daemon()
        self.lab.run(2)
        self.assertEqual(new.agent().pid, leader.pid)
        self.assertEqual(new.launcher.spawned, [])
        self.assertEqual(new.saved().identity, self.host.identity_of(leader))

    def test_a_successor_that_was_not_saved_is_found_beside_the_memory_of_the_old_one(self) -> None:
        life, old = self.boot_running()
        self.lab.run(1)
        old.die(ExitStatus(code=1))
        self.lab.settle()
        successor = life.process()
        self.assertEqual(life.saved().identity, self.host.identity_of(old))
        new = self.lab.next_daemon()
        self.assertEqual(new.agent().pid, successor.pid)
        self.assertEqual(new.launcher.spawned, [])

    def test_it_is_found_by_its_log_when_its_environment_is_painted_over(self) -> None:
        self.lab.program().painted = b"nginx: master process"
        self.lab.spec()
        life = self.lab.boot()
        leader = life.process()
        new = self.lab.next_daemon()
        self.lab.run(2)
        self.assertEqual(new.agent().pid, leader.pid)
        self.assertEqual(new.launcher.spawned, [])

    def test_a_stranger_with_a_painted_environment_is_not_taken_for_it(self) -> None:
        self.lab.spec()
        self.lab.boot()
        self.lab.crash()
        self.host.power_cut()
        self.host.stranger(environ=b"nginx: master process")
        new = self.lab.boot()
        self.lab.run(2)
        self.assertEqual(len(new.launcher.spawned), 1)
        self.assertTrue(self.host.untouched())

    def test_of_several_with_the_mark_the_leader_is_taken_not_a_child_that_called_setsid(self) -> None:
        self.lab.program().children = (Child(), Child(setsid=True))
        self.lab.spec()
        life = self.lab.boot()
        leader = life.process()
        new = self.lab.next_daemon()
        self.lab.run(2)
        self.assertEqual(new.agent().pid, leader.pid)
        self.assertEqual(len(self.host.alive(leader.token)), 3)

    def test_one_of_another_configuration_is_taken_back_and_then_restarted(self) -> None:
        self.lab.spec()
        life = self.lab.boot()
        leader = life.process()
        self.lab.spec(args=("--other",))
        new = self.lab.next_daemon()
        self.lab.run(2)
        self.assertFalse(leader.alive)
        self.assertEqual(len(new.launcher.spawned), 1)
        self.assertIs(new.agent().state, AgentState.RUNNING)

    def test_corrupt_metadata_costs_the_history_and_starts_no_second_one(self) -> None:
        for content in (b"", b"{", b"\0" * 100, b'{"id":"other","schema":1}', b'{"id":"web","schema":99}'):
            with self.subTest(content):
                life, leader = self.boot_running()
                self.lab.crash()
                life.metadata_path().write_bytes(content)
                new = self.lab.boot()
                self.lab.run(2)
                self.assertEqual(new.agent().pid, leader.pid)
                self.assertEqual(new.launcher.spawned, [])
                self.assertEqual(len(new.told("agent.metadata_corrupt")), 1)
                self.assertTrue(life.metadata_path().with_name("web.json.corrupt").exists())
                self.lab.crash()
                self.flushLoggedErrors()

    def test_left_over_children_of_an_earlier_run_go_when_a_leader_is_taken_back(self) -> None:
        life, leader = self.boot_running()
        stray = self.host.fork(leader, Child(setsid=True, environ=leader.environ.replace(
            life.agent().metadata.run.encode(), b"an-earlier-run")))
        self.host.fork(leader, Child(setsid=True))
        new = self.lab.next_daemon()
        self.assertFalse(stray.alive)
        self.assertEqual(len(self.host.alive(leader.token)), 2)
        self.assertEqual(new.told("agent.leftovers_ended")[0].data["count"], 1)


class Nobody(AdoptionCase):
    def test_an_identity_of_nobody_never_reaches_the_kernel(self) -> None:
        self.lab.spec()
        life = self.lab.boot()
        self.assertIsNone(life.launcher.adopt(
            life.agent().process, Identity(boot_id="x", pid=life.agent().pid, start_ticks=1)))
