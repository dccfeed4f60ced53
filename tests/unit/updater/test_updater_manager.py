"""Requests, one update of a target at a time, cancelling, roll-back on request, and what the next daemon does."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import msgspec
import pytest
from twisted.internet.defer import CancelledError, Deferred
from twisted.trial.unittest import SynchronousTestCase

from daemon import faults
from daemon.config.schema import UpdateConfig
from daemon.errors import (
    RequestError,
    RequestFault,
    StorageError,
    UpdateApplyError,
    UpdateRollbackError,
    UpdateVerifyError,
)
from daemon.model.update import UpdateRequest, UpdateState, UpdateStep
from daemon.updater.journal import UpdateJournal
from daemon.updater.manager import UpdateManager
from daemon.updater.policy import Course, Outcome, course
from daemon.updater.record import ATTEMPTS_MAX, UpdateRecord
from daemon.updater.targets import Verdict
from daemon.updater.telling import BROKEN_ALERT
from tests.fakes.updates import FakeIntake, FakeTarget, FakeTargets, UpdateRoom


def request(version: str = "1.1.0", component: str = "web", **changes: Any) -> UpdateRequest:
    known: dict[str, Any] = {
        "component": component, "version": version, "hash": hashlib.sha256(version.encode()).hexdigest(),
        "signature": "c2ln",
        "download_url": "https://updates.example.org/web.tar.gz",
    }
    return UpdateRequest(**(known | changes))


class UpdateCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="hd-update-"))
        self.addCleanup(shutil.rmtree, self.folder)
        self.addCleanup(faults.arm, {})
        self.web, self.db, self.own = FakeTarget("web"), FakeTarget("db"), FakeTarget("daemon")
        self.intake = FakeIntake()
        self.targets = FakeTargets(self.web, self.db, daemon=self.own)
        self.room, self.manager = self.boot()

    def boot(self, downloads: Path | None = None) -> tuple[UpdateRoom, UpdateManager]:
        """A daemon on the same disk and the same targets."""
        room = UpdateRoom(self.folder, self.intake)
        room.downloads = downloads or room.downloads
        manager = UpdateManager(room.tools, self.targets)
        manager.recall()
        manager.startService()
        self.room, self.manager = room, manager
        return room, manager

    def die(self, downloads: Path | None = None) -> None:
        """kill -9: nothing of the daemon runs on; its work is never heard of again."""
        for where in (self.web, self.db, self.own, self.intake):
            where.held.clear()
            where.failing.clear()
        self.boot(downloads)

    def submit(self, *args: Any, **changes: Any) -> str:
        asking = Deferred.fromCoroutine(
            self.manager.submit(request(*args, **changes), peer="root")
        )
        return str(self.successResultOf(asking))

    def refused(self, *args: Any, **changes: Any) -> RequestError:
        asking = Deferred.fromCoroutine(
            self.manager.submit(request(*args, **changes), peer="root")
        )
        error = self.failureResultOf(asking, RequestError).value
        assert isinstance(error, RequestError)
        return error

    def stop(self) -> Deferred[None]:
        return self.manager.stopService()

    def over(self, update_id: str, state: UpdateState) -> Any:
        """It is over, on disk too, and nothing is left in staging."""
        view = self.manager.get(update_id)
        self.assertEqual(view.state, state, view.error)
        on_disk = {record.id: record for record in self.room.on_disk()}[update_id]
        self.assertEqual((on_disk.state, on_disk.step, on_disk.success),
                         (state, UpdateStep.DONE, state is UpdateState.SUCCEEDED))
        self.assertEqual(self.room.staged(), [])
        self.assertEqual(self.manager.under_way, ())
        return view

    def told(self) -> list[str]:
        return [event.type for event in self.room.events.published]


class GoodTest(UpdateCase):
    def test_every_step_in_its_order_and_the_result(self) -> None:
        view = self.over(self.submit(), UpdateState.SUCCEEDED)
        self.assertEqual(self.intake.did, ["source", "space", "download", "signature", "digest", "manifest"])
        self.assertEqual(self.web.did, ["plan", "preflight", "apply", "verify", "prune"])
        self.assertEqual((view.old_version, view.new_version, view.success, view.rolled_back, view.error),
                         ("1.0.0", "1.1.0", True, False, ""))
        self.assertEqual(view.evidence, {"healthy_s": 30})
        self.assertEqual(self.told(), ["update.accepted", "update.applying", "update.succeeded"])
        self.assertIn("1.1.0 runs, proven after 0 s (before: 1.0.0)", self.room.events.published[-1].message)

    def test_the_event_tells_the_address_without_user_password_and_query(self) -> None:
        url = request().download_url
        scheme, _, rest = url.partition("://")
        self.over(self.submit(download_url=f"{scheme}://u:hush@{rest}?X-Amz-Signature=hush"), UpdateState.SUCCEEDED)
        accepted = self.room.events.published[0]
        self.assertEqual((accepted.type, accepted.data["url"]), ("update.accepted", url))
        self.assertNotIn("hush", str(self.room.events.published))

    def test_every_step_is_on_disk_before_it_is_taken(self) -> None:
        seen: list[tuple[str, str]] = []
        for name, where in (("download", self.intake), ("manifest", self.intake), ("plan", self.web),
                            ("preflight", self.web), ("apply", self.web), ("verify", self.web)):
            where.held[name] = waiter = Deferred()
            waiter.addCallback(lambda _: None)
        update_id = self.submit()
        for name, where in (("download", self.intake), ("manifest", self.intake), ("plan", self.web),
                            ("preflight", self.web), ("apply", self.web), ("verify", self.web)):
            (record,) = self.room.on_disk()
            seen.append((name, record.step.value))
            where.held.pop(name).callback(None)
        self.assertEqual(seen, [("download", "download"), ("manifest", "manifest"), ("plan", "backup"),
                                ("preflight", "preflight"), ("apply", "apply"), ("verify", "verify")])
        self.over(update_id, UpdateState.SUCCEEDED)

    def test_an_inline_package_is_on_disk_before_the_answer(self) -> None:
        self.intake.held["download"] = Deferred()
        update_id = self.submit(download_url="", update_data=b"bytes")
        package = self.folder / "downloads" / update_id / "package"
        self.assertEqual((package.read_bytes(), package.stat().st_mode & 0o777), (b"bytes", 0o600))
        self.assertEqual(package.parent.stat().st_mode & 0o777, 0o700)

    def test_progress_is_shown_and_told_in_tenths(self) -> None:
        self.intake.progress = (0.01, 0.05, 0.12, 0.15, 0.6, 1.0)
        self.intake.held["download"] = Deferred()
        update_id = self.submit()
        self.assertEqual(self.manager.get(update_id).progress, 1.0)
        self.assertEqual([e.data["progress"] for e in self.room.events.published if e.type == "update.progress"],
                         [0.12, 0.6, 1.0])


class FailureTest(UpdateCase):
    def test_a_failure_before_apply_changes_nothing(self) -> None:
        for step in ("source", "space", "download", "signature", "digest", "manifest", "plan", "preflight"):
            with self.subTest(step=step):
                where: Any = self.intake if hasattr(self.intake, step) else self.web
                where.failing = {step: UpdateVerifyError(f"{step} says no")}
                view = self.over(self.submit(), UpdateState.FAILED)
                self.assertEqual((view.error, view.code, view.success, view.rolled_back),
                                 (f"{step} says no", "D4002", False, False))
                self.assertNotIn("apply", self.web.did)
                self.assertEqual(self.web.runs, "1.0.0")
                where.failing = {}
        self.assertEqual(self.manager.ended_total["web", "failed"], 8)

    def test_a_failure_from_apply_on_brings_the_old_version_back(self) -> None:
        for step in ("apply", "verify"):
            with self.subTest(step=step):
                evidence = {"exit_code": 3, "lines": ["boom"]}
                self.web.failing = {step: UpdateApplyError("it died", evidence=evidence)}
                view = self.over(self.submit(), UpdateState.ROLLED_BACK)
                self.assertEqual((view.error, view.code, view.rolled_back, view.success),
                                 ("it died", "D4003", True, False))
                self.assertEqual(view.evidence, {**evidence, "rollback": {"pid": 7}})
                self.assertEqual((self.web.version, self.web.runs), ("1.0.0", "1.0.0"))
        self.assertIn("1.0.0 runs again", self.room.events.published[-1].message)

    def test_a_failed_roll_back_is_an_alert_until_an_update_succeeds(self) -> None:
        self.web.failing = {"verify": UpdateApplyError("it died"),
                            "roll_back": UpdateRollbackError("the disk is gone; mend it")}
        view = self.over(self.submit(), UpdateState.BROKEN)
        self.assertEqual(view.code, "D4004")
        self.assertIn("it died; and the roll-back failed: the disk is gone", view.error)
        self.assertIn(("web", BROKEN_ALERT), self.room.alerts.standing)
        self.web.failing = {}
        self.over(self.submit("1.2.0"), UpdateState.SUCCEEDED)
        self.assertEqual(self.room.alerts.standing, {})

    def test_a_fault_of_ours_rolls_back_too_and_shows_no_traceback(self) -> None:
        self.web.failing = {"verify": ZeroDivisionError("secret internals")}
        view = self.over(self.submit(), UpdateState.ROLLED_BACK)
        self.assertNotIn("internals", view.error)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_a_prune_that_fails_takes_nothing_back(self) -> None:
        self.web.failing = {"prune": StorageError("no")}
        self.over(self.submit(), UpdateState.SUCCEEDED)

    def test_evidence_is_bounded(self) -> None:
        self.web.failing = {"verify": UpdateApplyError("x", evidence={"lines": ["y" * 200_000], "code": 1})}
        view = self.over(self.submit(), UpdateState.ROLLED_BACK)
        self.assertEqual((view.evidence["lines"], view.evidence["code"]), ("(too large to keep)", 1))

    def test_a_full_disk_before_apply_fails_it_and_after_apply_does_not_undo_it(self) -> None:
        self.web.held["preflight"] = waiter = Deferred()
        update_id = self.submit()
        faults.arm({faults.VARIABLE: "update.journal.apply:1:enospc"})
        del self.web.held["preflight"]
        waiter.callback(None)
        self.assertEqual(self.manager.get(update_id).state, UpdateState.FAILED)
        self.assertEqual(self.web.runs, "1.0.0")
        faults.arm({faults.VARIABLE: "update.journal.verify:1:enospc,update.journal.prune:1:enospc"})
        self.over(self.submit(), UpdateState.SUCCEEDED)


class RequestsTest(UpdateCase):
    def test_one_at_a_time_for_each_target(self) -> None:
        self.intake.held["download"] = Deferred()
        first = self.submit()
        error = self.refused("1.2.0")
        self.assertEqual(error.fault, RequestFault.PRECONDITION)
        self.assertIn(f"update {first} of web to 1.1.0 is under way (download)", error.message)
        self.submit(component="db")

    def test_the_same_request_again_gets_the_same_id(self) -> None:
        self.intake.held["download"] = Deferred()
        self.assertEqual(self.submit(), self.submit())
        self.assertEqual(len(self.manager.list()), 1)

    def test_two_requests_in_one_turn_do_not_both_pass(self) -> None:
        self.intake.held["download"] = Deferred()
        self.room.threads.hang("updates")
        both = [Deferred.fromCoroutine(self.manager.submit(request(v), peer="a")) for v in ("1.1.0", "1.2.0")]
        self.room.threads.release("updates")
        self.successResultOf(both[0])
        self.failureResultOf(both[1], RequestError)

    def test_a_caller_who_leaves_takes_nothing_back(self) -> None:
        self.room.threads.hang("updates")
        asking = Deferred.fromCoroutine(self.manager.submit(request(), peer="a"))
        asking.cancel()
        self.failureResultOf(asking, CancelledError)
        self.room.threads.release("updates")
        (view,) = self.manager.list()
        self.assertEqual(view.state, UpdateState.SUCCEEDED)
        self.over(self.submit("1.2.0"), UpdateState.SUCCEEDED)

    def test_components(self) -> None:
        self.over(self.submit(component="daemon"), UpdateState.SUCCEEDED)
        self.assertEqual(self.own.version, "1.1.0")
        self.assertEqual(self.refused(component="agent").fault, RequestFault.INVALID)
        self.assertEqual(self.refused(component="nobody").fault, RequestFault.UNKNOWN)
        self.targets.all = [self.web]
        view = self.over(self.submit(component="agent"), UpdateState.SUCCEEDED)
        self.assertEqual((view.component, self.web.version), ("agent", "1.1.0"))

    def test_a_target_that_cannot_be_updated_says_why(self) -> None:
        self.own.refused = RequestError(RequestFault.PRECONDITION, "not installed from a bundle")
        self.assertEqual(self.refused(component="daemon").message, "not installed from a bundle")

    def test_without_keys_updates_are_off(self) -> None:
        self.room.config = UpdateConfig()
        error = self.refused()
        self.assertEqual(error.fault, RequestFault.PRECONDITION)
        self.assertIn("public_key_file", error.message)

    def test_a_disk_that_refuses_accepts_nothing(self) -> None:
        faults.arm({faults.VARIABLE: "update.journal.source:1:enospc"})
        asking = Deferred.fromCoroutine(self.manager.submit(request(), peer="a"))
        self.failureResultOf(asking, StorageError)
        faults.arm({})
        self.over(self.submit(), UpdateState.SUCCEEDED)

    def test_what_was_refused_for_an_unsure_disk_is_not_begun_by_the_next_daemon(self) -> None:
        class Unsure(UpdateJournal):
            def save(self, record: UpdateRecord) -> None:
                super().save(record)
                raise StorageError("the folder cannot be synced")

        tools = dataclasses.replace(self.room.tools, journal=Unsure(self.folder / "state"))
        self.manager = UpdateManager(tools, self.targets)
        self.manager.startService()
        asking = Deferred.fromCoroutine(self.manager.submit(request(), peer="a"))
        self.failureResultOf(asking, StorageError)
        self.assertEqual((self.room.on_disk(), self.room.staged()), ((), []))
        self.boot()
        self.assertEqual((self.manager.list(), self.web.did), ((), []))

    def test_an_event_shows_no_password_of_the_url(self) -> None:
        self.submit(download_url="https://me:secret@updates.example.org/web.tar.gz?signature=secret")
        accepted = next(e for e in self.room.events.published if e.type == "update.accepted")
        self.assertEqual(accepted.data["url"], "https://updates.example.org/web.tar.gz")
        self.assertNotIn("secret", str(self.room.events.published))

    def test_packages_that_run_are_remembered_also_by_the_next_daemon(self) -> None:
        self.over(self.submit(), UpdateState.SUCCEEDED)
        self.boot()
        self.assertEqual(self.room.known.version_of("web", request().hash), "1.1.0")
        self.assertEqual((self.room.known.newest("web"), self.room.known.newest("db")), ("1.1.0", ""))

    def test_the_newest_comes_first_within_a_second_too(self) -> None:
        versions = [f"1.{number}.0" for number in range(1, 9)]
        for version in versions:
            self.room.now += 0.01
            self.submit(version)
        self.assertEqual([view.version for view in self.manager.list()], versions[::-1])

    def test_history_is_bounded_by_target(self) -> None:
        for number in range(55):
            self.room.now += 1
            self.submit(f"1.{number}.0")
        self.assertEqual(len(self.manager.list()), 50)
        self.assertEqual(len(self.room.on_disk()), 50)
        self.assertEqual(self.manager.list()[0].version, "1.54.0")


class CancelTest(UpdateCase):
    def cancel(self, update_id: str) -> Any:
        return Deferred.fromCoroutine(self.manager.cancel(update_id, peer="uid 0"))

    def test_until_apply_it_is_called_off(self) -> None:
        for step, where in (("download", self.intake), ("manifest", self.intake), ("plan", self.web), ("preflight", self.web)):
            with self.subTest(step=step):
                where.held = {step: Deferred()}
                update_id = self.submit()
                self.successResultOf(self.cancel(update_id))
                where.held = {}
                view = self.over(update_id, UpdateState.CANCELLED)
                self.assertEqual((view.error, view.code, self.web.runs), ("called off by uid 0", "", "1.0.0"))

    def test_from_apply_on_it_is_too_late(self) -> None:
        for step in ("apply", "verify"):
            self.web.held = {step: Deferred()}
            update_id = self.submit(f"1.1.{len(self.web.did)}")
            error = self.failureResultOf(self.cancel(update_id), RequestError).value
            self.assertIn("POST /v1/rollback/web", str(error))
            self.web.held.pop(step).callback(None)
            self.assertEqual(self.manager.get(update_id).state, UpdateState.SUCCEEDED)

    def test_what_ends_already_ends_as_it_would(self) -> None:
        for failing, error, state in (
            ({"preflight": UpdateApplyError("it does not run here")}, "it does not run here", UpdateState.FAILED),
            ({}, "called off by uid 0", UpdateState.CANCELLED),
        ):
            with self.subTest(state=state):
                self.web.failing = dict(failing)
                self.web.held = {"discard": (discarding := Deferred()), **({} if failing else {"preflight": Deferred()})}
                self.room.now += 1
                update_id = self.submit()
                if not failing:
                    self.successResultOf(self.cancel(update_id))
                self.assertIn("ends already", str(self.failureResultOf(self.cancel(update_id), RequestError).value))
                self.web.held.clear()
                discarding.callback(None)
                self.assertEqual(self.over(update_id, state).error, error)

    def test_one_that_a_new_daemon_has_not_begun_again_yet(self) -> None:
        self.own.held = {"preflight": Deferred()}
        update_id = self.submit(component="daemon")
        self.targets.asked = asked = Deferred()
        self.die()
        self.successResultOf(self.cancel(update_id))
        self.own.did.clear()
        asked.callback(None)
        self.over(update_id, UpdateState.CANCELLED)
        self.assertEqual(self.own.did, ["discard"])

    def test_a_reload_of_download_dir_leaves_it_where_it_is(self) -> None:
        for ends in ("this daemon", "the next daemon"):
            with self.subTest(ends=ends):
                self.web.version = self.web.runs = "1.0.0"
                self.intake.held = {"manifest": (unpacking := Deferred())}
                update_id = self.submit(download_url="", update_data=b"package")
                before = self.room.downloads / update_id
                self.assertEqual((before / "package").read_bytes(), b"package")
                self.room.downloads = self.folder / "elsewhere"
                if ends == "this daemon":
                    unpacking.callback(None)
                else:
                    self.die(self.folder / "elsewhere")
                self.over(update_id, UpdateState.SUCCEEDED)
                self.assertFalse(before.exists())
                self.room.now += 1

    def test_what_is_over_or_unknown(self) -> None:
        update_id = self.submit()
        self.assertEqual(self.failureResultOf(self.cancel(update_id), RequestError).value.fault, RequestFault.PRECONDITION)
        self.assertEqual(self.failureResultOf(self.cancel("x"), RequestError).value.fault, RequestFault.UNKNOWN)


class BackTest(UpdateCase):
    def back(self, component: str = "web") -> Any:
        return Deferred.fromCoroutine(self.manager.roll_back(component, peer="root"))

    def test_it_goes_back_as_an_update_does(self) -> None:
        self.web.version, self.web.back = "2.0.0", "1.9.0"
        update_id = self.successResultOf(self.back())
        view = self.over(update_id, UpdateState.SUCCEEDED)
        self.assertEqual((view.old_version, view.new_version, self.web.runs), ("2.0.0", "1.9.0", "1.9.0"))
        self.assertEqual(self.intake.did, [])

    def test_a_version_before_that_nobody_knows_is_called_so(self) -> None:
        self.web.version, self.web.back = "2.0.0", ""
        self.over(self.successResultOf(self.back()), UpdateState.SUCCEEDED)
        self.assertEqual(
            self.room.events.published[-1].message,
            "update of web to the version before: it runs, proven after 0 s (before: 2.0.0)",
        )

    def test_a_version_before_that_does_not_run_is_undone(self) -> None:
        self.web.version, self.web.back = "2.0.0", "1.9.0"
        self.web.failing = {"verify": UpdateApplyError("it died")}
        self.over(self.successResultOf(self.back()), UpdateState.ROLLED_BACK)
        self.assertEqual(self.web.runs, "2.0.0")

    def test_one_that_does_not_say_its_version_is_back_at_the_one_before(self) -> None:
        self.over(self.submit("1.1.0"), UpdateState.SUCCEEDED)
        self.room.now += 1
        self.over(self.submit("1.2.0"), UpdateState.SUCCEEDED)
        self.web.back, self.web.version = "1.1.0", ""
        self.room.now += 1
        back = self.over(str(self.successResultOf(self.back())), UpdateState.SUCCEEDED)
        self.assertEqual((back.old_version, back.new_version), ("1.2.0", "1.1.0"))
        self.boot()
        self.web.version = ""
        self.room.now += 2
        self.assertEqual(self.over(self.submit("1.2.0"), UpdateState.SUCCEEDED).old_version, "1.1.0")

    def test_one_that_says_nonsense_is_held_to_what_was_installed(self) -> None:
        self.over(self.submit("1.2.0"), UpdateState.SUCCEEDED)
        self.web.version = "web, built on a Tuesday"
        self.room.now += 1
        self.assertEqual(self.over(self.submit("1.1.0"), UpdateState.SUCCEEDED).old_version, "1.2.0")

    def test_nothing_to_go_back_to(self) -> None:
        self.assertEqual(self.failureResultOf(self.back(), RequestError).value.fault, RequestFault.PRECONDITION)
        self.assertEqual(self.failureResultOf(self.back("x"), RequestError).value.fault, RequestFault.UNKNOWN)

    def test_it_needs_no_keys_but_waits_its_turn(self) -> None:
        self.web.back = "0.9.0"
        self.intake.held["download"] = Deferred()
        self.submit()
        self.failureResultOf(self.back(), RequestError)


class NextDaemonTest(UpdateCase):
    """kill -9 at each step boundary: the next daemon finishes or undoes it."""

    def test_wherever_it_dies_the_next_one_ends_with_a_whole_version(self) -> None:
        steps: list[tuple[str, Any]] = [
            *((s, self.intake) for s in ("space", "download", "signature", "manifest")),
            *((s, self.web) for s in ("plan", "preflight", "apply", "verify", "prune")),
        ]
        for number, (step, where) in enumerate(steps):
            with self.subTest(step=step):
                self.web.version = self.web.runs = "1.0.0"
                where.held = {step: Deferred()}
                self.room.now += number
                update_id = self.submit()
                self.die()
                self.over(update_id, UpdateState.SUCCEEDED)
                self.assertEqual(self.web.runs, "1.1.0")

    def test_whom_it_restarts_is_told_before(self) -> None:
        self.web.failing = {"verify": UpdateApplyError("it died")}
        self.web.held = {"roll_back": Deferred()}
        update_id = self.submit()
        told = {event.type: event.data.get("agents") for event in self.room.events.published}
        self.die()
        told |= {event.type: event.data.get("agents") for event in self.room.events.published}
        self.assertEqual(
            [told[f"update.{what}"] for what in ("applying", "rolling_back", "resumed")], [["web", "twin"]] * 3
        )
        self.over(update_id, UpdateState.ROLLED_BACK)

    def test_in_the_middle_of_a_roll_back_the_next_one_ends_it(self) -> None:
        self.web.failing = {"verify": UpdateApplyError("it died")}
        self.web.held = {"roll_back": Deferred()}
        update_id = self.submit()
        self.die()
        view = self.over(update_id, UpdateState.ROLLED_BACK)
        self.assertEqual((view.error, self.web.runs), ("it died", "1.0.0"))

    def test_an_update_that_daemons_die_of_ends(self) -> None:
        for step, where, state, runs in (
            ("signature", self.intake, UpdateState.FAILED, "1.0.0"),
            ("verify", self.web, UpdateState.ROLLED_BACK, "1.0.0"),
        ):
            with self.subTest(step=step):
                self.web.version = self.web.runs = "1.0.0"
                waiter: Any = where
                waiter.held = {step: Deferred()}
                self.room.now += 1
                update_id = self.submit()
                for _ in range(ATTEMPTS_MAX - 1):
                    waiter.held = {step: Deferred()}
                    self.boot()
                waiter.held = {}
                self.boot()
                view = self.over(update_id, state)
                self.assertIn("3 daemons ended during", view.error)
                self.assertEqual(self.web.runs, runs)

    def test_daemons_that_are_stopped_in_order_do_not_count_as_dead_of_it(self) -> None:
        self.web.held = {"verify": Deferred()}
        update_id = self.submit()
        for _ in range(ATTEMPTS_MAX + 1):
            self.successResultOf(self.stop())
            self.web.held = {"verify": Deferred()}
            self.boot()
        self.web.held["verify"].callback(None)
        self.over(update_id, UpdateState.SUCCEEDED)

    def test_a_stop_leaves_it_to_the_next_but_ends_what_is_between_two_versions(self) -> None:
        self.intake.held = {"download": Deferred()}
        update_id = self.submit()
        self.successResultOf(self.stop())
        self.intake.held = {}
        self.boot()
        self.over(update_id, UpdateState.SUCCEEDED)
        self.web.version = self.web.runs = "1.0.0"
        self.web.held = {"apply": (applying := Deferred())}
        again = self.submit("1.3.0")
        stopping = self.stop()
        self.assertNoResult(stopping)
        self.web.did.clear()
        applying.callback(None)
        self.successResultOf(stopping)
        self.assertEqual(self.web.did, [])  # the proof may take minutes, a stop has seconds
        self.boot()
        self.over(again, UpdateState.SUCCEEDED)
        self.assertEqual(self.web.did, ["verify", "prune"])

    def test_a_stop_during_a_roll_back_waits_for_the_files_and_not_for_the_proof(self) -> None:
        self.web.failing = {"verify": UpdateApplyError("it died")}
        self.web.held = {"roll_back": (restoring := Deferred()), "prove_old": Deferred()}
        update_id = self.submit()
        stopping = self.stop()
        self.assertNoResult(stopping)
        restoring.callback(None)
        self.successResultOf(stopping)
        self.assertEqual(self.web.runs, "1.0.0")
        self.web.held.clear()
        self.boot()
        self.assertEqual(self.over(update_id, UpdateState.ROLLED_BACK).error, "it died")

    def test_a_stop_while_the_result_is_written_down_waits_for_it(self) -> None:
        self.web.failing = {"preflight": UpdateApplyError("it does not run here")}
        self.web.held = {"discard": (discarding := Deferred())}
        update_id = self.submit()
        stopping = self.stop()
        self.assertNoResult(stopping)
        discarding.callback(None)
        self.successResultOf(stopping)
        self.over(update_id, UpdateState.FAILED)

    def test_an_agent_that_left_the_configuration(self) -> None:
        for step, where, state in (
            ("download", self.intake, UpdateState.FAILED), ("verify", self.web, UpdateState.ROLLED_BACK),
        ):
            with self.subTest(step=step):
                self.web.name = "web"
                where.held = {step: Deferred()}
                update_id = self.submit()
                self.web.name = "other"
                self.die()
                view = self.over(update_id, state)
                self.assertEqual((view.code, "left the configuration" in view.error), ("D4003", True))
                self.assertEqual(self.targets.gone("web").runs, "1.0.0")

    def test_of_two_for_one_agent_the_later_one_counts(self) -> None:
        self.web.held = {"preflight": Deferred()}
        first = self.submit("1.1.0")
        journal = self.folder / "state" / f"{first}.json"
        unwritten = journal.read_bytes()
        self.successResultOf(Deferred.fromCoroutine(self.manager.cancel(first, peer="a")))
        self.web.held = {"verify": Deferred()}
        self.room.now += 1
        second = self.submit("1.2.0")
        journal.write_bytes(unwritten)  # as a full disk left it
        self.die()
        view = self.over(first, UpdateState.FAILED)
        self.assertIn(second, view.error)
        self.over(second, UpdateState.SUCCEEDED)
        self.assertEqual(self.web.runs, "1.2.0")
        self.assertIn("update.failed", self.told())

    def test_the_daemons_own_update_asks_what_the_other_process_made_of_it(self) -> None:
        for outcome, state in (
            (Outcome.CONFIRMED, UpdateState.SUCCEEDED), (Outcome.ROLLED_BACK, UpdateState.ROLLED_BACK),
            (Outcome.PENDING, UpdateState.SUCCEEDED),
        ):
            with self.subTest(outcome=outcome):
                self.own.did.clear()
                self.own.version = "1.0.0"
                self.own.held = {"apply": Deferred()}
                self.room.now += 1
                update_id = self.submit(component="daemon")
                reason = "it crashed at its start" if outcome is Outcome.ROLLED_BACK else ""
                self.targets.verdict = Verdict(outcome=outcome, reason=reason, evidence={"exit_code": 1})
                self.die()
                view = self.over(update_id, state)
                self.assertEqual(view.error, reason)
                self.assertEqual("verify" in self.own.did, outcome is Outcome.PENDING)
                if reason:
                    self.assertEqual(view.evidence["exit_code"], 1)
                self.targets.verdict = Verdict()

    def test_left_overs_of_updates_that_are_over_go_and_foreign_files_stay(self) -> None:
        downloads = self.folder / "downloads"
        for name in ("20260101000000-0123abcd", "20260101000000-0123abcd.txt", "notes"):
            (downloads / name).mkdir(parents=True)
        self.boot()
        self.assertEqual(self.room.staged(), ["20260101000000-0123abcd.txt", "notes"])

    def test_no_folder_but_an_updates_own_is_removed_whatever_the_journal_says(self) -> None:
        self.intake.held = {"download": Deferred()}
        update_id = self.submit()
        journal = self.folder / "state" / f"{update_id}.json"
        precious = self.folder / "precious"
        precious.mkdir()
        record = json.loads(journal.read_bytes())
        journal.write_text(json.dumps(record | {"folder": str(precious)}))
        self.die()
        self.assertTrue(self.manager.get(update_id).state.over)
        self.assertTrue(precious.is_dir())

    def test_an_update_that_is_over_is_kept_without_its_files(self) -> None:
        update_id = self.submit()
        self.assertTrue(self.over(update_id, UpdateState.SUCCEEDED).success)
        kept, = self.room.on_disk()
        self.assertEqual((kept.files, kept.sha256, kept.modes), ({}, {}, {}))

    def test_a_journal_that_cannot_be_read_is_set_aside_and_the_others_count(self) -> None:
        update_id = self.submit()
        for name, data in (("20260101000000-00000000.json", b"{"), ("20260101000000-00000001.json", b'{"schema":9}'),
                           ("20260101000000-00000002.json", b"[" * 100_000)):
            (self.folder / "state" / name).write_bytes(data)
        self.boot()
        self.assertEqual([view.id for view in self.manager.list()], [update_id])
        self.assertEqual(len(list((self.folder / "state").glob("*.corrupt"))), 3)


@pytest.mark.parametrize(
    ("step", "attempts", "outcome", "expected"),
    [
        (UpdateStep.DOWNLOAD, 1, Outcome.NONE, Course.BEGIN),
        (UpdateStep.PREFLIGHT, ATTEMPTS_MAX, Outcome.NONE, Course.GIVE_UP),
        (UpdateStep.APPLY, 1, Outcome.NONE, Course.APPLY),
        (UpdateStep.APPLY, 1, Outcome.PENDING, Course.VERIFY),
        (UpdateStep.APPLY, ATTEMPTS_MAX, Outcome.NONE, Course.ROLL_BACK),
        (UpdateStep.APPLY, ATTEMPTS_MAX, Outcome.CONFIRMED, Course.FINISH),
        (UpdateStep.APPLY, ATTEMPTS_MAX, Outcome.PENDING, Course.VERIFY),
        (UpdateStep.VERIFY, 2, Outcome.NONE, Course.VERIFY),
        (UpdateStep.VERIFY, 2, Outcome.ROLLED_BACK, Course.ROLL_BACK),
        (UpdateStep.PRUNE, 9, Outcome.NONE, Course.FINISH),
        (UpdateStep.ROLLBACK, 9, Outcome.NONE, Course.ROLL_BACK),
    ],
)
def test_what_the_next_daemon_does(step: UpdateStep, attempts: int, outcome: Outcome, expected: Course) -> None:
    record = UpdateRecord(id="x", target="web", component="web", version="1", step=step, attempts=attempts)
    assert course(record, outcome) is expected


def test_a_record_round_trips() -> None:
    record = UpdateRecord(id="x", target="web", component="web", version="1", evidence={"a": [1]})
    assert msgspec.json.decode(msgspec.json.encode(record), type=UpdateRecord) == record
