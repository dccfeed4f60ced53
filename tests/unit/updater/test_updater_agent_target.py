"""Updates of one agent: good ones, every way to fail, and the old version back."""

from __future__ import annotations

import errno
import os
import signal
from pathlib import Path

import msgspec
from twisted.internet.defer import CancelledError
from updater_lab import NEW, OLD, PERIOD_S, TIMEOUT_S, TargetCase, sha256

from daemon import faults
from daemon.config.schema import AgentType
from daemon.errors import ErrorCode, RequestError, RequestFault, UpdateApplyError, UpdateRollbackError
from daemon.model.agent import AgentState, ExitStatus, HealthStatus
from daemon.model.health import HealthVerdict
from daemon.updater.agent.claims import Claims
from tests.fakes.commands import FakeProgram
from tests.fakes.host import Program

SICK = HealthVerdict(
    status=HealthStatus.ENDPOINT_FAILED, reason="connection refused; 3 times in a row", check="http", value=3.0, limit=3.0
)


class Good(TargetCase):
    def test_the_new_version_is_in_place_with_the_rights_of_the_old_and_runs(self) -> None:
        self.binary.chmod(0o750)
        old = self.running()
        self.binary.chmod(0o710)
        target = self.target()
        job = self.planned(self.job(), target)
        self.do(target.preflight(job))
        self.assertTrue(old.alive)
        self.do(target.apply(job))
        self.assertFalse(old.alive)
        evidence = self.do(target.verify(job), PERIOD_S + 2)
        self.assertEqual(self.binary.read_bytes(), NEW)
        self.assertEqual(self.binary.stat().st_mode & 0o7777, 0o710)
        self.assertEqual(evidence["agents"]["web"]["pid"], self.life.agent().pid)
        self.assertEqual((evidence["sha256"], evidence["old_sha256"]), (sha256(NEW), sha256(OLD)))
        self.do(target.prune(job, 5))
        self.nothing_is_left()
        self.assertEqual(self.life.agent().metadata.lifetime_restarts, 0)

    def test_it_is_not_proven_before_its_period_is_over(self) -> None:
        self.running()
        target = self.target()
        job = self.planned(self.job(), target)
        self.do(target.apply(job))
        verifying = self.defer(target.verify(job))
        self.lab.run(PERIOD_S)  # start_seconds come before
        self.assertNoResult(verifying)
        self.lab.run(1.5)
        self.successResultOf(verifying)
        self.assertEqual(self.life.clock.pending, 0)

    def test_one_that_is_stopped_is_replaced_and_not_started(self) -> None:
        self.running()
        stopping = self.life.manager.stop("web")
        self.lab.run(1)
        self.successResultOf(stopping)
        target = self.target()
        job = self.planned(self.job(), target)
        self.do(target.apply(job))
        evidence = self.do(target.verify(job))
        self.assertIs(evidence["agents"]["web"]["started"], False)
        self.assertEqual(self.binary.read_bytes(), NEW)
        self.lab.run(10)
        self.assertIs(self.life.agent().state, AgentState.STOPPED)

    def test_a_first_install_needs_no_old_version_and_undoes_to_none(self) -> None:
        self.lab.spec(missing=True)
        self.binary.unlink()
        self.lab.boot()
        target = self.target()
        job = self.planned(self.job(), target)
        self.assertEqual((job.applied.old_sha256, job.applied.backup), ("", ""))
        self.do(target.apply(job))
        self.assertEqual(self.binary.stat().st_mode & 0o777, 0o755)
        self.do(target.verify(job), PERIOD_S + 2)
        evidence = self.do(target.roll_back(job))
        self.assertFalse(self.binary.exists())
        self.assertEqual(evidence["agents"]["web"]["proven"], False)

    def test_a_version_that_failed_before_is_forgotten_by_the_new_one(self) -> None:
        self.does[OLD] = Program(lives_s=0.1, status=ExitStatus(code=1))
        self.lab.spec()
        self.lab.boot()
        self.lab.run(60)
        self.updated(self.target(), self.job())
        self.assertEqual(self.life.agent().metadata.exits_in_a_row, 0)

    def test_one_timer_and_the_changes_of_the_agent_are_all_that_wakes_it(self) -> None:
        self.running()
        target = self.target()
        job = self.planned(self.job(), target)
        self.do(target.apply(job))
        self.lab.run(2)
        before = self.life.clock.pending
        verifying = self.defer(target.verify(job))
        self.assertEqual(self.life.clock.pending, before + 1)
        verifying.addErrback(lambda _cancelled: None)
        verifying.cancel()
        self.assertEqual(self.life.clock.pending, before)

    def test_its_own_type_and_id_are_its_components(self) -> None:
        self.lab.spec("web")
        self.lab.spec("tele", type=AgentType.TELEGRAF)
        self.lab.boot()
        self.assertEqual(self.target("web").components, {"web"})
        self.assertEqual(self.target("tele").components, {"tele", "telegraf"})


class Failing(TargetCase):
    """Each fails in verify; the roll-back brings the old one back and proves it."""

    def comes_back(self, seconds: float, words: str, **keys: object) -> dict[str, object]:
        """The new version is refused within so many seconds; what is told about it."""
        self.does[OLD] = Program(prints=b"old\n")
        self.running(**keys)
        target = self.target()
        job = self.planned(self.job(), target)
        self.do(target.apply(job))
        error = self.fails(target.verify(job), UpdateApplyError, seconds)
        self.assertIs(error.code, ErrorCode.UPDATE_APPLY)
        self.assertIn(words, error.message)
        evidence = self.do(target.roll_back(job), PERIOD_S + 3)
        self.assertEqual(self.binary.read_bytes(), OLD)
        self.assertEqual(evidence["failed"], error.details["evidence"])
        self.assertTrue(evidence["agents"]["web"]["proven"])
        self.assertEqual(evidence["sha256"], sha256(OLD))
        self.assertIs(self.life.agent().state, AgentState.RUNNING)
        self.nothing_is_left()
        self.assertEqual(self.do(target.roll_back(job), PERIOD_S)["restored"], False)  # once more: nothing
        return error.details["evidence"]["agents"]["web"]

    def test_a_binary_that_exits(self) -> None:
        self.does[NEW] = Program(lives_s=0.2, status=ExitStatus(code=3), prints=b"cannot bind\n")
        told = self.comes_back(1, "exit code 3")
        self.assertEqual(told["last_exit"]["code"], 3)
        self.assertIn("cannot bind", told["last_lines"])

    def test_a_binary_that_dies_within_the_period(self) -> None:
        self.does[NEW] = Program(lives_s=20.0, status=ExitStatus(signal=11))
        told = self.comes_back(21, "killed by SIGSEGV")
        self.assertEqual(told["last_exit"]["signal"], 11)

    def test_a_binary_the_kernel_does_not_execute(self) -> None:
        self.does[NEW] = Program(error=errno.ENOEXEC)
        self.comes_back(0, "Exec format error")

    def test_one_that_turns_unhealthy_within_the_period(self) -> None:
        self.does[NEW] = Program()
        self.lab.clock.callLater(30, lambda: self.life.agent().judge(SICK))
        told = self.comes_back(29, "endpoint_failed")
        self.assertEqual((told["verdict"]["value"], told["verdict"]["limit"]), (3.0, 3.0))

    def test_one_that_never_becomes_healthy(self) -> None:
        waiting = HealthVerdict(status=HealthStatus.HEALTHY, reason="lives", waits=("http",))

        def look() -> None:
            agent = self.life.agent()
            if agent.pid and self.binary.read_bytes() == NEW:
                agent.judge(waiting)
            self.lab.clock.callLater(5, look)

        self.lab.clock.callLater(5, look)
        self.comes_back(TIMEOUT_S + 1, "http never went well")

    def test_one_that_an_operator_restarts(self) -> None:
        self.lab.clock.callLater(10, lambda: self.life.manager.restart("web"))
        self.comes_back(12, "another process")

    def test_a_stop_by_an_operator_fails_it_and_the_old_one_is_not_started(self) -> None:
        self.running()
        target = self.target()
        job = self.planned(self.job(), target)
        self.do(target.apply(job))
        self.lab.run(2)
        self.life.manager.stop("web")
        error = self.fails(target.verify(job), UpdateApplyError, 1)
        self.assertIn("wants it down", error.message)
        evidence = self.do(target.roll_back(job))
        self.assertEqual(self.binary.read_bytes(), OLD)
        self.assertEqual(evidence["agents"]["web"]["proven"], False)
        self.assertIs(self.life.agent().state, AgentState.STOPPED)

    def moved(self) -> Path:
        """A reload gives the agent another binary."""
        elsewhere = self.lab.binary("other")
        elsewhere.write_bytes(b"#!other")
        elsewhere.chmod(0o755)
        spec = self.lab.specs["web"]
        self.life.manager.apply((msgspec.structs.replace(spec, binary_path=str(elsewhere)),))
        return elsewhere

    def test_one_that_runs_another_binary_since_the_plan_is_not_touched(self) -> None:
        self.running()
        target = self.target()
        job = self.planned(self.job(), target)
        self.moved()
        self.assertIn("binary_path", self.fails(target.apply(job), UpdateApplyError).message)
        self.do(target.roll_back(job), PERIOD_S + 5)
        self.assertEqual(self.binary.read_bytes(), OLD)

    def test_one_that_runs_another_binary_by_the_time_another_daemon_takes_over_proves_nothing(self) -> None:
        self.running()
        target = self.target()
        job = self.planned(self.job(), target)
        self.do(target.apply(job))
        self.moved()
        self.assertIn("binary_path", self.fails(self.target().verify(job), UpdateApplyError).message)

    def test_one_that_leaves_the_configuration_is_restored_all_the_same(self) -> None:
        self.running()
        target = self.target()
        job = self.planned(self.job(), target)
        self.do(target.apply(job))
        self.life.manager.apply(())
        self.assertIn("left the configuration", self.fails(target.verify(job), UpdateApplyError, 1).message)
        self.do(target.roll_back(job))
        self.assertEqual(self.binary.read_bytes(), OLD)

    def test_one_that_left_it_before_another_daemon_took_over_is_restored_too(self) -> None:
        self.running()
        job = self.planned(self.job())
        self.do(self.target().apply(job))
        self.lab.crash()
        self.lab.boot(specs=())
        self.assertIn("left the configuration", self.fails(self.target().verify(job), UpdateApplyError).message)
        self.do(self.target().roll_back(job))
        self.assertEqual(self.binary.read_bytes(), OLD)


class RollingBack(TargetCase):
    def applied(self, **files: bytes) -> tuple[object, object]:
        self.running()
        target = self.target()
        job = self.planned(self.job(**files), target)
        self.do(target.apply(job))
        self.lab.run(2)
        return target, job

    def test_a_damaged_backup_is_not_restored_and_says_what_to_do(self) -> None:
        target, job = self.applied()
        Path(job.applied.backup).write_bytes(b"rotten")
        pid = self.life.agent().pid
        error = self.fails(target.roll_back(job), UpdateRollbackError)
        self.assertIs(error.code, ErrorCode.UPDATE_ROLLBACK)
        self.assertIn("damaged", error.message)
        self.assertIn("install version 1.0.0 by hand", error.message)
        self.assertEqual((self.binary.read_bytes(), self.life.agent().pid), (NEW, pid))  # better than nothing

    def test_a_backup_that_is_gone_is_told(self) -> None:
        target, job = self.applied()
        Path(job.applied.backup).unlink()
        self.assertIn("gone", self.fails(target.roll_back(job), UpdateRollbackError).message)

    def test_a_full_disk_is_told_and_the_agent_is_not_left_down(self) -> None:
        target, job = self.applied()
        faults.arm({faults.VARIABLE: "update.agent.restoring:1:enospc"})
        error = self.fails(target.roll_back(job), UpdateRollbackError, 1)
        self.assertIn("No space left", error.message)
        self.assertIn("by hand", error.message)
        self.lab.run(2)
        self.assertIs(self.life.agent().state, AgentState.RUNNING)
        faults.arm({})
        self.do(target.roll_back(job), PERIOD_S + 3)
        self.assertEqual(self.binary.read_bytes(), OLD)

    def test_an_old_one_that_does_not_run_any_more_is_told(self) -> None:
        target, job = self.applied()
        self.does[OLD] = Program(lives_s=0.5, status=ExitStatus(code=9))
        error = self.fails(target.roll_back(job), UpdateRollbackError, TIMEOUT_S + 1)
        self.assertIn("does not run as before", error.message)
        self.assertEqual(self.binary.read_bytes(), OLD)

    def test_an_old_one_that_stumbles_and_gets_up_is_proven(self) -> None:
        target, job = self.applied()
        self.does[OLD] = Program(lives_s=10.0, status=ExitStatus(code=9))
        rolling = self.defer(target.roll_back(job))
        self.lab.run(9)
        self.does[OLD] = Program()
        self.lab.run(5)
        self.assertNoResult(rolling)
        self.lab.run(PERIOD_S)
        self.assertTrue(self.successResultOf(rolling)["agents"]["web"]["proven"])

    def test_one_that_did_not_run_before_need_not_run_afterwards(self) -> None:
        self.does[OLD] = self.does[NEW] = Program(lives_s=0.5, status=ExitStatus(code=9))
        self.lab.spec()
        self.lab.boot()
        self.lab.run(30)
        target = self.target()
        job = self.planned(self.job(), target)
        self.do(target.apply(job))
        self.fails(target.verify(job), UpdateApplyError, 1)
        evidence = self.do(target.roll_back(job))
        self.assertEqual(evidence["agents"]["web"], {"proven": False, "why": "it did not run well before the update"})

    def test_a_process_that_survives_sigkill_keeps_it_from_the_proof_but_not_from_the_files(self) -> None:
        self.does[NEW] = Program(stuck=True, ignores=frozenset({int(signal.SIGTERM)}))
        self.running(stop_timeout=1.0)
        target = self.target()
        job = self.planned(self.job(), target)
        self.do(target.apply(job))
        self.lab.run(2)
        error = self.fails(target.roll_back(job), UpdateRollbackError, 20)
        self.assertIn("end it by hand", error.message)
        self.assertEqual(self.binary.read_bytes(), OLD)

    def test_a_daemon_that_took_over_rolls_back_too(self) -> None:
        _target, job = self.applied()
        self.lab.crash()
        self.lab.take_over()
        rolling = self.defer(self.target().roll_back(job))
        self.life.manager.start_missing()
        self.lab.run(PERIOD_S + 3)
        evidence = self.successResultOf(rolling)
        self.assertEqual(self.binary.read_bytes(), OLD)
        self.assertEqual(evidence["failed"]["agents"]["web"]["state"], "running")

    def test_what_somebody_else_installed_meanwhile_is_left_alone(self) -> None:
        target, job = self.applied()
        self.binary.write_bytes(b"by hand")
        evidence = self.do(target.roll_back(job), PERIOD_S + 3)
        self.assertEqual(self.binary.read_bytes(), b"by hand")
        self.assertEqual(evidence["left_alone"], [str(self.binary)])


class Applying(TargetCase):
    def test_a_full_disk_stops_nobody(self) -> None:
        old = self.running()
        target = self.target()
        job = self.planned(self.job(), target)
        faults.arm({faults.VARIABLE: "update.agent.stage:1:enospc"})
        error = self.fails(target.apply(job), UpdateApplyError)
        self.assertIn("No space left on device", error.message)
        self.assertIn("free space", error.message)
        self.nothing_is_left()
        evidence = self.do(target.roll_back(job), PERIOD_S)
        self.assertTrue(old.alive)
        self.assertTrue(evidence["agents"]["web"]["proven"])

    def test_a_fault_after_the_stop_is_undone(self) -> None:
        for point in ("held", "files", "rename", "renamed", "released"):
            with self.subTest(point):
                self.binary.write_bytes(OLD)
                self.running()
                target = self.target()
                job = self.planned(self.job(), target)
                faults.arm({faults.VARIABLE: f"update.agent.{point}:1:eio"})
                self.fails(target.apply(job), UpdateApplyError)
                faults.arm({})
                self.do(target.roll_back(job), PERIOD_S + 3)
                self.assertEqual(self.binary.read_bytes(), OLD)
                self.assertIs(self.life.agent().state, AgentState.RUNNING)
                self.nothing_is_left()
                self.lab.crash()
                self.lab.host.power_cut()

    def test_doing_it_again_changes_nothing_more(self) -> None:
        self.running()
        target = self.target()
        job = self.planned(self.job(), target)
        self.do(target.apply(job))
        inode = self.binary.stat().st_ino
        self.do(self.target().apply(job))
        self.assertEqual(self.binary.stat().st_ino, inode)
        self.do(target.verify(job), PERIOD_S + 2)

    def test_an_agent_that_would_not_end_is_not_replaced(self) -> None:
        self.does[OLD] = Program(stuck=True, ignores=frozenset({int(signal.SIGTERM)}))
        old = self.running(stop_timeout=1.0)
        target = self.target()
        job = self.planned(self.job(), target)
        error = self.fails(target.apply(job), UpdateApplyError, 15)
        self.assertIn("cannot be stopped", error.message)
        self.do(target.roll_back(job), PERIOD_S + 2)
        self.assertEqual((self.binary.read_bytes(), self.life.agent().pid), (OLD, old.pid))

    def test_bytes_that_are_not_those_of_the_manifest_are_not_applied(self) -> None:
        old = self.running()
        target = self.target()
        job = self.planned(self.job(), target)
        job.files["thing"].write_bytes(b"swapped")
        self.assertIn("manifest", self.fails(target.apply(job), UpdateApplyError).message)
        self.assertTrue(old.alive)
        job.files["thing"].unlink()
        job.files["thing"].symlink_to("/bin/true")
        self.fails(target.apply(job), UpdateApplyError)
        self.assertEqual(self.binary.read_bytes(), OLD)

    def test_a_binary_that_changed_since_the_plan_is_not_replaced(self) -> None:
        self.running()
        target = self.target()
        job = self.planned(self.job(), target)
        self.binary.write_bytes(b"by hand")
        self.assertIn("somebody else", self.fails(target.apply(job), UpdateApplyError).message)

    def test_a_planted_link_at_the_staged_name_is_not_written_through(self) -> None:
        self.running()
        victim = self.lab.root / "victim"
        victim.write_bytes(b"precious")
        target = self.target()
        job = self.planned(self.job(), target)
        self.binary.with_name(".web.hostdaemon-u1.new").symlink_to(victim)
        self.do(target.apply(job))
        self.assertEqual((victim.read_bytes(), self.binary.read_bytes()), (b"precious", NEW))

    def test_a_leaving_daemon_ends_it_without_blame_and_the_next_one_goes_on(self) -> None:
        self.does[OLD] = Program(stop_takes_s=5.0)
        self.running()
        target = self.target()
        job = self.planned(self.job(), target)
        applying = self.defer(target.apply(job))
        self.lab.run(1)
        leaving = self.life.leave()
        error = self.failureResultOf(applying, RequestError).value
        self.assertIs(error.fault, RequestFault.STOPPING)
        self.lab.run(10)
        self.successResultOf(leaving)
        self.lab.next_daemon()
        self.lab.run(2)
        self.assertIs(self.life.agent().state, AgentState.RUNNING)
        target = self.target()
        self.do(target.apply(job), 6)
        self.do(target.verify(job), PERIOD_S + 2)
        self.assertEqual(self.binary.read_bytes(), NEW)


    def test_a_leaving_daemon_puts_the_files_back_and_does_not_wait_for_the_proof(self) -> None:
        self.does[NEW] = Program(lives_s=1.0, status=ExitStatus(code=1))
        self.running()
        target = self.target()
        job = self.planned(self.job(), target)
        self.do(target.apply(job))
        self.fails(target.verify(job), UpdateApplyError, 3)
        for early in (True, False):
            with self.subTest(early=early):
                back = self.defer(target.roll_back(job))
                if not early:
                    self.lab.run(1)
                    self.assertNoResult(back)
                target.leave()
                self.failureResultOf(back, CancelledError)
                self.assertEqual(self.binary.read_bytes(), OLD)
                self.do(self.target().roll_back(job), PERIOD_S + 5)
                target = self.target()


class Planning(TargetCase):
    def refused(self, words: str) -> None:
        self.assertIn(words, self.fails(self.target().plan(self.job()), UpdateApplyError).message)
        self.nothing_is_left()

    def test_what_cannot_be_replaced_is_refused(self) -> None:
        self.running()
        self.binary.chmod(0o4755)
        self.refused("set-uid")
        self.binary.unlink()
        self.binary.mkdir()
        self.refused("plain file")
        self.binary.rmdir()
        os.mkfifo(self.binary)
        self.refused("plain file")
        self.binary.unlink()
        self.binary.symlink_to("/nowhere/at/all")
        self.refused("leads nowhere")

    def test_a_folder_that_is_missing_is_refused(self) -> None:
        self.running()
        self.binary.parent.rename(self.lab.root / "gone")
        error = self.fails(self.target().plan(self.job()), UpdateApplyError)
        self.assertIn("No such file", error.message)

    def test_an_agent_outside_of_the_configuration_or_the_path_is_refused_at_once(self) -> None:
        self.running()
        refusal = self.do(self.target("other").refusal())
        self.assertIs(refusal.fault if refusal else None, RequestFault.PRECONDITION)
        self.assertIsNone(self.do(self.target().refusal()))
        spec = self.lab.spec()
        self.life.manager.apply([type(spec)(id="web", type=spec.type, binary_path="web", work_dir=spec.work_dir)])
        refusal = self.do(self.target().refusal())
        self.assertIn("not found on PATH", refusal.message if refusal else "")

    def test_a_full_disk_leaves_no_half_backup(self) -> None:
        self.running()
        for point in ("update.backup.copy", "atomic.write", "update.backup.noted", "update.backup.named"):
            faults.arm({faults.VARIABLE: f"{point}:1:enospc"})
            self.refused("No space left")
            faults.arm({})
            self.assertEqual(list(self.backups.iterdir()), [])

    def test_updates_that_fail_share_one_backup(self) -> None:
        self.running()
        first = self.planned(self.job(id="u1"))
        self.do(self.target().discard(first))
        self.lab.run(5)
        second = self.planned(self.job(id="u2"))
        self.assertEqual(first.applied.backup, second.applied.backup)

    def test_what_a_killed_daemon_staged_is_swept(self) -> None:
        self.running()
        stale = self.binary.with_name(".web.hostdaemon-dead.new")
        stale.write_bytes(b"half")
        foreign = self.binary.with_name(".web.new")
        foreign.write_bytes(b"mine")
        job = self.planned(self.job())
        self.assertFalse(stale.exists())
        self.assertTrue(foreign.exists())
        stale.write_bytes(b"half")
        self.do(self.target().discard(job))
        self.assertFalse(stale.exists())


class Preflight(TargetCase):
    def trying(self, program: FakeProgram | None) -> tuple[object, object]:
        self.running(version_command=(str(self.binary), "--version"))
        target = self.target()
        job = self.planned(self.job(), target)
        staged = str(self.binary.with_name(".web.hostdaemon-u1.new"))
        if program is not None:
            self.life.commands.programs[staged] = program
        return target, job

    def test_it_is_run_and_what_it_prints_is_evidence_only(self) -> None:
        target, job = self.trying(FakeProgram(output=b"web 9.9.9\n"))
        self.do(target.preflight(job))
        self.nothing_is_left()
        self.do(target.apply(job))
        evidence = self.do(target.verify(job), PERIOD_S + 2)
        self.assertEqual((evidence["printed_version"], evidence["version_differs"]), ("9.9.9", True))

    def test_one_that_would_not_run_is_refused_and_nothing_was_touched(self) -> None:
        for program, words in (
            (None, "No such file"), (FakeProgram(status=ExitStatus(signal=4)), "killed by signal 4"),
            (FakeProgram(takes_s=1e6), "does not end"), (FakeProgram(status=ExitStatus(code=127)), "127"),
        ):
            with self.subTest(words):
                target, job = self.trying(program)
                error = self.fails(target.preflight(job), UpdateApplyError, 12)
                self.assertIn(words, error.message)
                self.assertEqual(self.binary.read_bytes(), OLD)
                self.nothing_is_left()
                self.lab.crash()
                self.lab.host.power_cut()
                self.life.metadata_path().unlink()

    def test_without_a_version_command_it_says_that_it_was_skipped(self) -> None:
        self.running()
        target = self.target()
        job = self.planned(self.job(), target)
        self.do(target.preflight(job))
        self.do(target.apply(job))
        self.assertIn("skipped", self.do(target.verify(job), PERIOD_S + 2)["preflight"])


class Shared(TargetCase):
    def sharing(self) -> None:
        self.lab.spec("web")
        spec = self.lab.spec("twin")
        self.lab.specs["twin"] = type(spec)(
            id="twin", type=spec.type, binary_path=str(self.binary), work_dir=spec.work_dir
        )
        self.lab.boot()
        self.lab.run(2)

    def test_agents_that_share_the_binary_are_updated_and_proven_together(self) -> None:
        self.sharing()
        before = {self.life.agent(name).pid for name in ("web", "twin")}
        target = self.target()
        job = self.planned(self.job(), target)
        self.assertEqual(set(job.applied.ran), {"web", "twin"})
        self.do(target.apply(job))
        evidence = self.do(target.verify(job), PERIOD_S + 2)
        self.assertEqual(set(evidence["agents"]), {"web", "twin"})
        self.assertFalse(before & {self.life.agent(name).pid for name in ("web", "twin")})

    def test_one_of_them_that_fails_rolls_all_back(self) -> None:
        self.sharing()
        target = self.target()
        job = self.planned(self.job(), target)
        self.do(target.apply(job))
        self.lab.run(5)
        verifying = self.defer(target.verify(job))
        self.life.process("twin").die(ExitStatus(code=1))
        self.lab.run(1)
        self.assertEqual(self.failureResultOf(verifying, UpdateApplyError).value.details["agent_id"], "twin")
        evidence = self.do(target.roll_back(job), PERIOD_S + 3)
        self.assertTrue(all(told["proven"] for told in evidence["agents"].values()))
        self.assertEqual(self.binary.read_bytes(), OLD)

    def test_two_updates_of_one_file_by_different_daemons_do_not_mix(self) -> None:
        self.sharing()
        first = self.planned(self.job(id="u1"))
        self.claims = Claims()
        second = self.planned(self.job(b"another", id="u2"), self.target("twin"))
        self.claims = Claims()
        one = self.target()
        self.do(one.apply(first))
        self.claims = Claims()
        other = self.target("twin")
        self.fails(other.apply(second), UpdateApplyError)
        self.do(one.verify(first), PERIOD_S + 2)
        self.do(other.roll_back(second), PERIOD_S + 2)
        self.assertEqual(self.binary.read_bytes(), NEW)

    def test_the_same_package_for_both_at_once_is_refused_to_the_second_before_anything_changes(self) -> None:
        self.sharing()
        one, other = self.target("web"), self.target("twin")
        first = self.planned(self.job(id="u1"), one)
        error = self.fails(other.plan(self.job(id="u2")), UpdateApplyError)
        self.assertIn("update u1", error.message)
        self.do(other.discard(self.job(id="u2")))
        self.do(one.apply(first))
        self.do(one.verify(first), PERIOD_S + 2)
        self.do(one.prune(first, 5))
        self.planned(self.job(b"#!newer", id="u3"), other)

    def test_whatever_way_the_first_one_ends_the_second_may_come(self) -> None:
        self.sharing()
        one, other = self.target("web"), self.target("twin")
        first = self.planned(self.job(id="u1"), one)
        self.do(one.discard(first))
        second = self.planned(self.job(id="u2"), other)
        self.do(other.apply(second))
        self.do(other.roll_back(second), PERIOD_S + 2)
        self.planned(self.job(id="u3"), one)


class Links(TargetCase):
    def linked(self) -> Path:
        real = self.lab.root / "lib" / "web-1.0.0"
        real.parent.mkdir()
        self.binary.rename(real)
        self.binary.symlink_to("../lib/web-1.0.0")
        real.chmod(0o755)
        self.running()
        return real

    def test_the_link_is_replaced_and_not_what_it_points_to(self) -> None:
        real = self.linked()
        target = self.target()
        self.updated(target, self.job())
        self.assertEqual((self.binary.is_symlink(), self.binary.read_bytes()), (False, NEW))
        self.assertEqual(real.read_bytes(), OLD)

    def test_a_roll_back_makes_the_same_link_again(self) -> None:
        self.linked()
        target = self.target()
        job = self.planned(self.job(), target)
        self.do(target.apply(job))
        self.do(target.roll_back(job), PERIOD_S + 3)
        self.assertEqual(os.readlink(self.binary), "../lib/web-1.0.0")
        self.assertEqual(self.binary.read_bytes(), OLD)

    def test_what_it_pointed_to_may_be_gone_by_then(self) -> None:
        real = self.linked()
        target = self.target()
        job = self.planned(self.job(), target)
        self.do(target.apply(job))
        real.unlink()
        self.do(target.roll_back(job), PERIOD_S + 3)
        self.assertEqual((self.binary.is_symlink(), self.binary.read_bytes()), (False, OLD))

    def test_an_agent_behind_a_link_to_the_file_shares_it(self) -> None:
        self.running()
        alias = self.lab.root / "alias"
        alias.symlink_to(self.binary)
        spec = self.lab.spec("twin")
        self.lab.specs["twin"] = type(spec)(id="twin", type=spec.type, binary_path=str(alias), work_dir=spec.work_dir)
        self.life.manager.apply(self.lab.specs.values())
        self.lab.run(2)
        self.assertEqual(set(self.planned(self.job()).applied.ran), {"web", "twin"})
        self.assertEqual(set(self.planned(self.job(), self.target("twin")).applied.ran), {"twin"})


class MoreFiles(TargetCase):
    def beside(self, name: str) -> Path:
        return self.binary.parent / name

    def test_those_that_are_new_come_beside_the_binary_and_others_stay(self) -> None:
        self.running()
        self.beside("theirs.yml").write_bytes(b"theirs")
        target = self.target()
        job = self.planned(self.job(**{"theirs.yml": b"ours", "mod.so": b"so", "share__deep__x": b"x"}), target)
        self.do(target.apply(job))
        evidence = self.do(target.verify(job), PERIOD_S + 2)
        self.assertEqual(evidence["kept_files"], [str(self.beside("theirs.yml"))])
        self.assertEqual(self.beside("theirs.yml").read_bytes(), b"theirs")
        self.assertEqual(self.beside("share/deep/x").read_bytes(), b"x")
        self.assertEqual(self.beside("mod.so").stat().st_mode & 0o777, 0o640)
        self.do(target.roll_back(job), PERIOD_S + 3)
        self.assertEqual(sorted(e.name for e in self.binary.parent.iterdir()), ["theirs.yml", "web"])

    def test_those_of_an_earlier_update_are_replaced_and_come_back(self) -> None:
        self.running()
        target = self.target()
        self.updated(target, self.job(id="u1", **{"mod.so": b"one", "same": b"same"}))
        job = self.planned(self.job(b"#!2", "1.2.0", id="u2", **{"mod.so": b"two", "same": b"same"}), target)
        self.assertEqual(list(job.applied.replaced), [str(self.beside("mod.so"))])
        self.assertTrue(Path(job.applied.backup).is_dir())
        self.do(target.apply(job))
        self.assertEqual(self.beside("mod.so").read_bytes(), b"two")
        self.lab.run(2)
        self.do(target.roll_back(job), PERIOD_S + 3)
        self.assertEqual((self.beside("mod.so").read_bytes(), self.binary.read_bytes()), (b"one", NEW))
        self.do(target.roll_back(job), PERIOD_S + 3)
        self.nothing_is_left()

    def test_names_that_lead_elsewhere_are_refused(self) -> None:
        self.running()
        (self.beside("link")).symlink_to("/tmp")
        for name in ("../x", "/etc/x", "a/../../x", "web", "link/x"):
            with self.subTest(name):
                self.fails(self.target().plan(self.job(**{name: b"x"})), UpdateApplyError)


class Afterwards(TargetCase):
    def test_backups_are_bounded_and_what_was_replaced_last_stays(self) -> None:
        self.running()
        self.max_backups = 2
        target = self.target()
        for n in range(5):
            job = self.updated(target, self.job(b"#!%d" % n, f"1.1.{n}", id=f"u{n}"))
        kept = sorted(entry.name for entry in self.backups.iterdir() if entry.name.endswith(".bak"))
        self.assertEqual(len(kept), 2)
        self.assertIn(Path(job.applied.backup).name, kept)
        self.max_backups = 1
        job = self.updated(target, self.job(b"#!x", "1.2.0", id="ux"))
        self.assertEqual(
            [entry for entry in self.backups.iterdir() if entry.name.endswith(".bak")], [Path(job.applied.backup)]
        )

    def test_the_version_before_can_be_put_back_on_request(self) -> None:
        self.running()
        target = self.target()
        self.assertIsNone(self.do(target.previous()))
        self.updated(target, self.job())
        job = self.do(target.previous())
        self.assertEqual((job.version, job.sha256[job.main]), ("1.0.0", sha256(OLD)))
        self.assertFalse(job.folder.exists())
        back = type(job)(**{name: getattr(job, name) for name in type(job).__slots__} | {"id": "back"})
        self.updated(target, back)
        self.assertEqual(self.binary.read_bytes(), OLD)

    def test_what_anybody_may_have_put_among_the_backups_is_no_version_to_go_back_to(self) -> None:
        self.running()
        target = self.target()
        self.updated(target, self.job())
        self.binary.unlink()  # nothing is there to be backed up, which would look at the folder
        self.assertIsNotNone(self.do(target.previous()))
        self.backups.chmod(0o777)
        self.assertIsNone(self.do(target.previous()))

    def test_a_damaged_backup_is_no_version_to_go_back_to(self) -> None:
        self.running()
        target = self.target()
        job = self.updated(target, self.job())
        Path(job.applied.backup).write_bytes(b"rotten")
        self.assertIsNone(self.do(target.previous()))
