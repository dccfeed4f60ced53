"""Who may never be taken for an agent, and who is one although nobody saved it."""

from __future__ import annotations

import msgspec
from agents_lab import AdoptionCase
from twisted.internet.defer import Deferred

from daemon.agents.operations import Outcome
from daemon.model.agent import AgentState, ExitStatus, Identity, Wanted
from tests.fakes.host import Child
from tests.fakes.lab import Life


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

    def stopped(self, life: Life) -> Deferred[Outcome]:
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
        for content in (b"", b"{", b"\0" * 100, b'{"id":"other","schema":1}', b'{"id":"other","schema":99}'):
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

    def test_metadata_of_a_newer_daemon_starts_no_second_one_either(self) -> None:
        for content in (b'{"id":"web","schema":99}', b'{"id":"web","schema":99,"identity":{"pid":"odd"},"mark":7}'):
            with self.subTest(content):
                life, leader = self.boot_running()
                self.lab.crash()
                life.metadata_path().write_bytes(content)
                new = self.lab.boot()
                self.lab.run(2)
                self.assertEqual(new.agent().pid, leader.pid)
                self.assertEqual(new.launcher.spawned, [])
                self.assertEqual(len(new.told("agent.metadata_newer")), 1)
                self.assertEqual(life.metadata_path().with_name("web.json.newer").read_bytes(), content)
                self.lab.crash()

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
