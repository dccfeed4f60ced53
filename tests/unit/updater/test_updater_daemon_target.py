"""The daemon as what is updated: every step on a real disk, with the daemon, its commands and its time played."""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path
from typing import Any

import msgspec
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from daemon import faults
from daemon.config.schema import UpdateConfig
from daemon.durable.workdir import WorkDir
from daemon.errors import RequestFault, UpdateApplyError, UpdateRollbackError
from daemon.model.agent import AgentState, ExitStatus, Identity
from daemon.procfs.identity import identify
from daemon.updater.selfupdate import launcher
from daemon.updater.selfupdate.handing_over import HandOver, Invocation
from daemon.updater.selfupdate.installation import Installation
from daemon.updater.selfupdate.probation import Kind, Phase, Probation, ProbationFile
from daemon.updater.selfupdate.proof import LOST_S, SelfProof
from daemon.updater.selfupdate.switching import Surroundings, times
from daemon.updater.selfupdate.target import FALL_BACK_S, DaemonTarget
from daemon.updater.target import Job
from tests.fakes.commands import CommandsInTurn, FakeProgram
from tests.fakes.directory import FakeEvents
from tests.fakes.installation import add_version, files_of, install, put_on_probation
from tests.fakes.supervised import FakeAgent, FakeRoster
from tests.fakes.threads import InlineThreads

WATCHER = Identity(boot_id="b", pid=4711, start_ticks=1)
GOOD_CHECK = FakeProgram(output=b"good")
WATCHES = FakeProgram(output=msgspec.json.encode(WATCHER))


class FakeDaemon:
    """A daemon that is asked to give way."""

    def __init__(self) -> None:
        self.asked: list[HandOver] = []
        self.stopping = False

    def hand_over(self, hand_over: HandOver) -> bool:
        if not self.stopping:
            self.asked.append(hand_over)
        return not self.stopping


class TargetCase(SynchronousTestCase):
    settings = UpdateConfig(verify_timeout=90.0, verify_period=2.0)

    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.base = Path(folder.name)
        self.root = install(self.base / "i", "1", "0.9")
        self.paths = WorkDir(self.base / "w")
        self.paths.make()
        (self.paths.metadata / "a.json").write_text("state of before")
        self.clock = Clock()
        self.commands = CommandsInTurn(self.clock)
        self.threads = InlineThreads(self.clock)
        self.events = FakeEvents()
        self.roster = FakeRoster([FakeAgent("a"), FakeAgent("b"), FakeAgent("c")])
        self.roster.agents[0].runs(1, 0.0)
        self.roster.agents[1].runs(2, 0.0)
        self.roster.agents[1].state = AgentState.STARTING
        self.wrong: dict[str, str] = {}
        self.service_manager: dict[str, str] = {}
        self.file = ProbationFile(self.root)
        me = identify(os.getpid())
        assert me is not None
        self.me = me
        self.target = self.start("1")
        self.addCleanup(faults.arm, {})

    def start(self, version: str | None) -> DaemonTarget:
        """A daemon of that version in this process."""
        self.daemon = FakeDaemon()
        proof = SelfProof(self.clock, self.threads, lambda: self.wrong, self.roster)
        around = Surroundings(
            settings=lambda: self.settings, invocation=Invocation(options=("--config=/c.yaml",), log_file="/d.log"),
            service_manager=self.service_manager, paths=self.paths, clock=self.clock, threads=self.threads,
            commands=self.commands, roster=self.roster, daemon=self.daemon,
        )
        return DaemonTarget(
            installation=Installation(self.root, version) if version else None, around=around,
            config_path=Path("/c.yaml"), events=self.events, proof=proof,
        )

    def job(self, version: str = "2", update_id: str = "u1", *, files: bool = True) -> Job:
        """A verified package of that version, or a way back."""
        folder = self.base / update_id
        found, sha256 = {}, {}
        for name, data in files_of(version).items() if files else ():
            path = folder / "files" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
            found[name], sha256[name] = path, hashlib.sha256(data).hexdigest()
        return Job(
            id=update_id, version=version, old_version="1", folder=folder, files=found, sha256=sha256,
            main="bin/twistd",
        )

    def record(self) -> Probation:
        found = self.file.read()
        assert found is not None
        return found

    def begun(self, work: Any) -> Deferred[Any]:
        return Deferred.fromCoroutine(work)

    def done(self, work: Any) -> Any:
        return self.successResultOf(self.begun(work))

    def refused(self, work: Any, kind: type[Exception] = UpdateApplyError) -> str:
        return str(self.failureResultOf(self.begun(work), kind).value)

    def applied(self, version: str = "2") -> HandOver:
        """Everything up to the switch."""
        self.commands.turns = [GOOD_CHECK, WATCHES]
        job = self.job(version)
        self.done(self.target.preflight(job))
        self.assertNoResult(self.begun(self.target.apply(job)))
        (asked,) = self.daemon.asked
        return asked

    def wait(self, seconds: float) -> None:
        for _ in range(int(seconds * 2)):
            self.clock.advance(0.5)


class RefusalTest(TargetCase):
    def test_from_a_checkout_it_is_a_precondition_with_the_next_step(self) -> None:
        target = self.start(None)
        error = self.done(target.refusal())
        assert error is not None
        self.assertIs(error.fault, RequestFault.PRECONDITION)
        self.assertIn("scripts/bundle install", error.message)
        self.assertEqual(self.done(target.installed()), "")
        self.assertIn("does not run from a bundle", self.refused(target.plan(self.job())))
        self.assertIn("does not run from a bundle", self.refused(target.previous()))
        self.assertIs(self.successResultOf(target.outcome("u1")).kind, Kind.NONE)
        target.ready()
        self.done(target.leaving())

    def test_a_disk_that_does_not_answer_holds_nobody_but_who_asks(self) -> None:
        self.threads.hang("daemon-update")
        asking = self.begun(self.target.refusal())
        self.assertNoResult(asking)
        self.clock.advance(31)
        self.assertIn("does not answer", str(self.successResultOf(asking)))
        self.threads.release("daemon-update")

    def test_from_a_bundle_it_is_none(self) -> None:
        self.assertIsNone(self.done(self.target.refusal()))
        self.assertEqual(self.done(self.target.installed()), "1")
        self.assertEqual(self.target.rooms(), (self.root / "versions",))
        self.assertEqual((self.target.name, self.target.components), ("daemon", frozenset({"daemon"})))

    def test_settings_that_leave_no_time_for_the_way_back(self) -> None:
        self.settings = UpdateConfig(verify_timeout=90.0, verify_period=60.0)
        error = self.done(self.target.refusal())
        assert error is not None
        self.assertIn("must be under 60 s", error.message)

    def test_another_update_that_is_not_decided(self) -> None:
        put_on_probation(self.root, new="0.9")
        error = self.done(self.target.refusal())
        assert error is not None
        self.assertIn("not confirmed yet", error.message)
        self.file.confirm("u1")
        self.assertIsNone(self.done(self.target.refusal()))


class CallingOffTest(TargetCase):
    def test_a_version_that_is_just_being_placed_goes_again(self) -> None:
        self.threads.hang("daemon-update")
        placing = self.begun(self.target.preflight(self.job()))
        placing.cancel()
        self.failureResultOf(placing, CancelledError)
        discarding = self.begun(self.target.discard(self.job()))
        self.threads.release("daemon-update")  # the thread that was in it comes to its end
        self.successResultOf(discarding)
        self.assertEqual(sorted(path.name for path in (self.root / "versions").iterdir()), ["0.9", "1"])


class TimesTest(SynchronousTestCase):
    def test_the_way_back_has_its_place_in_the_time(self) -> None:
        found = times(1000.0, 300.0)
        self.assertEqual((found.give_up, found.deadline, found.kill_after_s), (1270.0, 1277.5, 5.0))
        found = times(0.0, 12.0)
        self.assertEqual((found.give_up, found.deadline), (8.0, 9.0))
        self.assertLess(found.deadline + found.kill_after_s, 12)


class BeforeTest(TargetCase):
    def test_the_running_version_is_the_way_back_if_it_is_whole(self) -> None:
        applied = self.done(self.target.plan(self.job()))
        self.assertEqual(applied.target, str(self.root / "versions/2"))
        self.assertEqual(applied.backup, str(self.root / "versions/1"))
        self.assertIn("runs already", self.refused(self.target.plan(self.job("1"))))
        (self.root / "versions/1/bin/twistd").write_text("patched")
        self.assertIn("nobody could go back", self.refused(self.target.plan(self.job())))

    def test_a_version_that_passes_its_check_lies_beside_the_others(self) -> None:
        self.commands.turns = [GOOD_CHECK]
        self.done(self.target.preflight(self.job()))
        self.assertEqual(launcher.damage(self.root / "versions/2"), "")
        self.assertEqual(launcher.current(self.root), "1")

    def test_one_that_does_not_is_removed_again(self) -> None:
        crash = FakeProgram(output=b"Traceback\nImportError: x", status=ExitStatus(code=1))
        self.commands.turns = [crash, GOOD_CHECK]
        failure = self.failureResultOf(self.begun(self.target.preflight(self.job())), UpdateApplyError)
        self.assertIn("would not run here", str(failure.value))
        self.assertEqual(failure.value.details["evidence"], {"check": ["Traceback", "ImportError: x"]})
        self.successResultOf(self.begun(self.target.discard(self.job())))
        self.assertFalse((self.root / "versions/2").exists())

    def test_one_that_was_there_before_stays(self) -> None:
        add_version(self.root, "2")
        self.commands.turns = [FakeProgram(status=ExitStatus(signal=11))]
        self.refused(self.target.preflight(self.job()))
        self.assertTrue((self.root / "versions/2").exists())

    def test_the_way_back_needs_a_version_that_is_whole(self) -> None:
        self.commands.turns = [GOOD_CHECK]
        self.done(self.target.preflight(self.job("0.9", files=False)))
        (self.root / "versions/0.9/bin/twistd").write_text("damaged")
        self.assertIn("not whole", self.refused(self.target.preflight(self.job("0.9", files=False))))

    def test_a_disk_that_does_not_answer_is_an_error_and_not_an_end(self) -> None:
        self.threads.hang("daemon-update")
        work = self.begun(self.target.plan(self.job()))
        self.clock.advance(1000)
        self.assertIn("does not answer", str(self.failureResultOf(work, UpdateApplyError).value))


class SwitchTest(TargetCase):
    def test_everything_is_in_its_place_when_the_daemon_is_asked_to_give_way(self) -> None:
        asked = self.applied()
        self.assertEqual(launcher.current(self.root), "2")
        found = self.record()
        self.assertEqual((found.state, found.old, found.new, found.daemon), (Phase.TRYING, "1", "2", self.me))
        self.assertEqual(found.agents, {"a": self.roster.agents[0].identity})
        self.assertEqual((found.give_up_mono, found.deadline_mono), (60.0, 67.5))
        self.assertEqual((found.watcher, found.supervised, found.logs[0]), (WATCHER, False, "/d.log"))
        self.assertEqual(found.argv[:-4], (*launcher.interpreter(), str(self.root / "bin/twistd")))
        self.assertEqual(found.argv[-4:], ("-n", "--pidfile=", "hostdaemon", "--config=/c.yaml"))
        self.assertEqual(asked.argv[:-4], (*launcher.interpreter(), str(self.root / "current/bin/twistd")))
        self.assertEqual(asked.version, "2")
        watcher = self.commands.calls[-1]
        self.assertEqual(watcher.argv[-2:], (str(self.root), "u1"))
        self.assertIn("daemon.updater.selfupdate.watcher", watcher.argv[-4])
        self.assertEqual((self.paths.state / "before-u1/a.json").read_text(), "state of before")
        self.assertIn("not confirmed yet", str(self.done(self.target.refusal())))
        self.assertNoResult(self.begun(self.target.apply(self.job())))
        self.assertEqual(len(self.daemon.asked), 1)

    def test_the_service_manager_is_handed_on_to_the_next_version_alone(self) -> None:
        self.service_manager |= {"NOTIFY_SOCKET": "/n", "WATCHDOG_USEC": "5"}
        asked = self.applied()
        self.assertEqual((asked.env["NOTIFY_SOCKET"], asked.env["WATCHDOG_USEC"]), ("/n", "5"))
        self.assertTrue(self.record().supervised)
        self.assertEqual(["NOTIFY_SOCKET" in call.env for call in self.commands.calls], [False, False])

    def test_the_state_is_kept_once_more_when_all_is_saved(self) -> None:
        asked = self.applied()
        (self.paths.metadata / "a.json").write_text("saved at the end")
        asked.before()
        self.assertEqual((self.paths.state / "before-u1/a.json").read_text(), "saved at the end")

    def test_a_stop_that_comes_in_between_takes_it_back(self) -> None:
        asked = self.applied()
        asked.abandoned("somebody stopped it")
        found = self.record()
        self.assertEqual((found.state, found.stopping, found.reason), (Phase.ROLLED_BACK, True, "somebody stopped it"))
        self.assertEqual(launcher.current(self.root), "1")

    def test_a_stop_that_goes_first_leaves_word(self) -> None:
        self.daemon.stopping = True
        self.commands.turns = [GOOD_CHECK, WATCHES]
        self.done(self.target.preflight(self.job()))
        self.assertNoResult(self.begun(self.target.apply(self.job())))
        self.done(self.target.leaving())
        found = self.record()
        self.assertEqual((found.state, found.stopping, self.daemon.asked), (Phase.TRYING, True, []))

    def test_giving_way_is_no_stop_that_somebody_asked_for(self) -> None:
        self.applied()
        self.done(self.target.leaving())
        self.assertFalse(self.record().stopping)

    def test_without_a_watcher_nothing_is_switched(self) -> None:
        for turns, said in (
            ([FakeProgram(output=b"no", status=ExitStatus(code=1))], "does not run: no"),
            ([FakeProgram(output=b"{")], "does not run"), ([], "cannot be started"),
        ):
            with self.subTest(said):
                self.commands.turns = list(turns)
                add_version(self.root, "2")
                self.assertIn(said, self.refused(self.target.apply(self.job())))
                found = self.record()
                self.assertEqual((found.state, found.settled), (Phase.ROLLED_BACK, True))
                self.assertEqual((launcher.current(self.root), self.daemon.asked), ("1", []))
                self.assertFalse((self.paths.state / "before-u1").exists())
                self.assertEqual(self.done(self.target.roll_back(self.job()))["version"], "1")

    def test_a_disk_that_refuses_the_record_leaves_all_as_it_was(self) -> None:
        (self.root / "probation.lock").symlink_to("elsewhere")
        self.assertIn("see to that disk", self.refused(self.target.apply(self.job())))
        self.assertEqual(launcher.current(self.root), "1")

    def test_asked_of_the_version_it_is_about_there_is_nothing_to_do(self) -> None:
        self.done(self.start("2").apply(self.job()))


class ProbationTest(TargetCase):
    """In the new version."""

    def setUp(self) -> None:
        super().setUp()
        add_version(self.root, "2")
        identity = self.roster.agents[0].identity
        assert identity is not None
        put_on_probation(
            self.root, daemon=self.me, agents={"a": identity}, verify_period_s=2.0, give_up_mono=60.0,
            deadline_mono=67.5,
        )
        (self.paths.state / "before-u1").mkdir()
        self.target = self.start("2")

    def test_it_proves_itself_and_all_is_tidied_up(self) -> None:
        verifying = self.begun(self.target.verify(self.job()))
        self.target.ready()
        self.assertNoResult(verifying)
        self.wait(3)
        self.assertEqual(self.successResultOf(verifying)["version"], "2")
        self.assertEqual(self.record().state, Phase.CONFIRMED)
        self.assertEqual([event.type for event in self.events.published], ["daemon.updated"])
        self.assertFalse((self.paths.state / "before-u1").exists())
        self.assertEqual(self.done(self.target.verify(self.job()))["version"], "2")
        self.assertEqual(self.successResultOf(self.target.outcome("u1")).kind, Kind.CONFIRMED)
        self.done(self.target.leaving())
        self.assertFalse(self.record().stopping)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_whoever_keeps_the_journal_asks_for_the_way_back(self) -> None:
        self.wrong["http"] = "not listening"
        verifying = self.begun(self.target.verify(self.job()))
        self.target.ready()
        self.wait(61)
        failure = self.failureResultOf(verifying, UpdateApplyError)
        self.assertIn("http: not listening", str(failure.value))
        self.assertEqual(failure.value.details["evidence"]["not_ready"], {"http": "not listening"})
        self.assertNoResult(self.begun(self.target.roll_back(self.job())))
        (asked,) = self.daemon.asked
        self.assertEqual((asked.version, launcher.current(self.root)), ("1", "1"))
        found = self.record()
        self.assertEqual((found.state, found.by, found.settled), (Phase.ROLLED_BACK, "daemon", False))
        self.assertIn("http: not listening", found.reason)
        asked.before()
        asked.abandoned("stop")
        self.assertEqual(self.record(), found)
        self.wait(FALL_BACK_S + 1)
        self.assertEqual(len(self.daemon.asked), 1)

    def test_without_anybody_who_asks_it_goes_back_by_itself(self) -> None:
        self.roster.agents[0].runs(77, 1.0)
        self.target.ready()
        self.wait(LOST_S + 1)
        self.assertEqual(self.daemon.asked, [])
        self.wait(FALL_BACK_S)
        self.assertEqual([asked.version for asked in self.daemon.asked], ["1"])
        self.assertIn("now pid 77", self.record().reason)

    def test_one_that_is_stopped_meanwhile_says_so(self) -> None:
        self.wrong["http"] = "x"
        self.target.ready()
        self.wait(1)
        self.done(self.target.leaving())
        found = self.record()
        self.assertEqual((found.state, found.stopping), (Phase.TRYING, True))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_a_stop_after_a_failed_proof_leaves_no_timer(self) -> None:
        self.wrong["http"] = "x"
        self.target.ready()
        self.wait(61)
        self.done(self.target.leaving())
        self.wait(FALL_BACK_S + 1)
        self.assertEqual((self.daemon.asked, self.clock.getDelayedCalls()), ([], []))

    def test_a_roll_back_on_request_undoes_what_was_confirmed(self) -> None:
        self.file.confirm("u1")
        self.assertNoResult(self.begun(self.target.roll_back(self.job())))
        self.assertEqual([asked.version for asked in self.daemon.asked], ["1"])

    def test_with_nothing_to_go_back_to_it_says_what_to_do(self) -> None:
        for version in ("1", "0.9"):
            (self.root / "versions" / version / "bin/twistd").unlink()
        said = self.refused(self.target.roll_back(self.job()), UpdateRollbackError)
        self.assertIn("D4004 there is no version to go back to", said)
        said = self.refused(self.target.roll_back(self.job(update_id="u7")), UpdateRollbackError)
        self.assertIn("nothing is known of the version before 2", said)

    def test_one_that_was_taken_back_cannot_be_verified(self) -> None:
        self.file.take_back("u1", "watcher", "too late")
        self.assertIn("taken back: too late", self.refused(self.target.verify(self.job())))
        self.assertIn("nothing is known", self.refused(self.target.verify(self.job(update_id="u7"))))
        self.assertIn("version 2 runs, not 3", self.refused(self.target.verify(self.job("3"))))


class BackAgainTest(TargetCase):
    """In the old version, after a roll-back."""

    def setUp(self) -> None:
        super().setUp()
        add_version(self.root, "2")
        put_on_probation(self.root, earlier="0.9", env={"SECRET": "s"})
        self.file.take_back("u1", "watcher", "it died", {"code": 3})
        (self.paths.state / "before-u1").mkdir()

    def test_it_says_what_happened_once_and_tidies_up(self) -> None:
        self.target.ready()
        (event,) = self.events.published
        self.assertEqual(event.type, "daemon.rolled_back")
        self.assertEqual(event.data["evidence"], {"code": 3})
        self.assertTrue(self.record().settled)
        self.assertFalse((self.paths.state / "before-u1").exists())
        self.start("1").ready()
        self.assertEqual(len(self.events.published), 1)

    def test_the_roll_back_is_proven_by_its_running(self) -> None:
        launcher.flip(self.root, "2")
        evidence = self.done(self.target.roll_back(self.job()))
        self.assertEqual(evidence, {"version": "1", "reason": "it died", "by": "watcher", "code": 3})
        self.assertEqual(launcher.current(self.root), "1")
        self.assertEqual(self.successResultOf(self.target.outcome("u1")).kind, Kind.ROLLED_BACK)

    def test_the_version_before_is_the_one_of_before(self) -> None:
        back = self.done(self.target.previous())
        self.assertEqual((back.version, back.old_version, back.files), ("0.9", "1", {}))

    def test_a_new_version_that_runs_although_it_was_taken_back_announces_nothing(self) -> None:
        self.start("2").ready()
        self.assertEqual(self.events.published, [])
        self.assertFalse(self.record().settled)


class AfterwardsTest(TargetCase):
    def test_without_any_update_there_is_no_version_before(self) -> None:
        self.assertIsNone(self.done(self.target.previous()))
        self.target.ready()
        self.assertEqual(self.events.published, [])

    def test_the_version_before_is_offered_as_long_as_it_is_there(self) -> None:
        put_on_probation(self.root, old="0.9", new="1")
        self.file.confirm("u1")
        self.assertEqual(self.done(self.target.previous()).version, "0.9")
        (self.root / "versions/0.9/bin/twistd").unlink()
        self.assertIsNone(self.done(self.target.previous()))

    def test_the_versions_of_the_last_update_are_never_pruned(self) -> None:
        for version in ("0.7", "0.8", "2"):
            add_version(self.root, version)
        put_on_probation(self.root, old="1", new="2")
        launcher.flip(self.root, "1")
        self.done(self.target.prune(Job(id="u1", version="2", old_version="0.9", folder=self.base), 0))
        self.assertEqual(sorted(each.name for each in (self.root / "versions").iterdir()), ["0.9", "1", "2"])
