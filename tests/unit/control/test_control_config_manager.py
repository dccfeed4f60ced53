"""Reload: all of it or nothing, one at a time, and what only a restart of the daemon can do is remembered."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from daemon import faults
from daemon.config.load import LoadedConfig, load
from daemon.config.schema import Config
from daemon.control.config_manager import LANE, READ_DEADLINE_S, ConfigManager, ReloadResult, Step, keep_copy
from daemon.errors import ConfigLoadError, ConfigValidateError, StorageError
from tests.fakes.directory import FakeEvents
from tests.fakes.supervised import FakeAlerts
from tests.fakes.threads import InlineThreads

HEAD = "daemon: {{work_dir: {root}/w, http_port: {port}}}\nagents:\n"
AGENT = "- {{id: {id}, type: custom, binary_path: /bin/true{more}}}\n"


class ManagerCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.root = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.root)
        self.addCleanup(faults.arm, {})
        self.path = self.root / "daemon.yaml"
        self.clock = Clock()
        self.threads = InlineThreads(self.clock)
        self.events, self.alerts = FakeEvents(), FakeAlerts()
        self.write(a="")
        self.keep = self.root / "last-good.yaml"
        self.manager = ConfigManager(
            load(self.path), load, self.threads, lambda: 5.0 + self.clock.seconds(), self.events, self.alerts, self.keep
        )
        self.applied: list[tuple[str, Config, Config]] = []
        self.manager.applied_by([Step(name=name, apply=self.step(name)) for name in ("one", "two")])

    def step(self, name: str) -> Any:
        def apply(old: Config, new: Config) -> Sequence[str]:
            self.applied.append((name, old, new))
            return [f"{name} says hello"]

        return apply

    def write(self, *, port: int = 0, **agents: str) -> None:
        text = HEAD.format(root=self.root, port=port)
        self.path.write_text(text + "".join(AGENT.format(id=n, more=m) for n, m in agents.items()))

    def reload(self, **options: Any) -> ReloadResult:
        result: ReloadResult = self.successResultOf(self.manager.reload(**options))
        return result

    def types(self) -> list[str]:
        return [e.type for e in self.events.published]


class Reloading(ManagerCase):
    def test_a_good_file_is_applied_step_by_step(self) -> None:
        self.write(a=", name: x", b="")
        result = self.reload(reason="SIGHUP")
        self.assertEqual([(c.agent, c.key) for c in result.changes], [("a", "name"), ("b", "enabled")])
        self.assertEqual([name for name, *_ in self.applied], ["one", "two"])
        self.assertEqual(result.warnings, ("one says hello", "two says hello"))
        self.assertIs(self.applied[0][2], self.manager.in_force)
        state = self.manager.state()
        self.assertEqual((state.ok, state.reloads_total, state.failures_total), (True, 1, 0))
        self.assertEqual(self.types(), ["config.reloaded"])
        self.assertEqual(self.keep.read_text(), self.path.read_text())
        self.assertEqual(self.keep.stat().st_mode & 0o777, 0o600)

    def test_an_unchanged_file_does_nothing(self) -> None:
        self.assertEqual(self.reload().changes, ())
        self.assertEqual((self.applied, self.types()), ([], []))

    def test_a_dry_run_tells_the_plan_and_changes_nothing(self) -> None:
        self.write(a=", args: [x]")
        result = self.reload(dry_run=True)
        self.assertEqual(([c.key for c in result.changes], result.applied), (["args"], False))
        self.assertEqual((self.applied, self.types()), ([], []))
        self.assertEqual(len(self.reload().changes), 1)

    def test_a_bad_file_changes_nothing_and_shows_everywhere_until_it_is_good(self) -> None:
        before = self.manager.in_force
        self.path.write_text("agents: [{id: a, type: nonsense, binary_path: /x}]\n")
        for _ in range(3):
            self.failureResultOf(self.manager.reload(), ConfigValidateError)
        self.failureResultOf(self.manager.reload(dry_run=True), ConfigValidateError)
        self.assertIs(self.manager.in_force, before)
        self.assertEqual(self.applied, [])
        state = self.manager.state()
        self.assertEqual((state.ok, state.failures_total), (False, 3))
        self.assertIn("daemon.yaml:1:", state.error)
        self.assertEqual(self.types(), ["config.reload_failed"])
        self.assertIn("D1002", self.alerts.standing["", "config_reload"].message)
        self.path.write_text("agents: [")
        self.failureResultOf(self.manager.reload(), ConfigLoadError)
        self.assertEqual(self.types(), ["config.reload_failed"] * 2)
        self.write(a="")
        self.reload()
        self.assertTrue(self.manager.state().ok)
        self.assertEqual(self.alerts.standing, {})

    def test_a_file_that_is_gone_or_does_not_answer_is_refused(self) -> None:
        self.path.unlink()
        self.failureResultOf(self.manager.reload(), ConfigLoadError)
        self.threads.hang(LANE)
        asked = self.manager.reload()
        self.clock.advance(READ_DEADLINE_S + 1)
        self.assertIn("does not answer", self.failureResultOf(asked, ConfigLoadError).value.message)

    def test_what_waits_for_a_restart_is_remembered_and_forgotten_when_it_is_taken_back(self) -> None:
        self.write(port=8090, a=", name: y")
        result = self.reload()
        self.assertEqual(self.manager.in_force.daemon.http_port, 0)
        self.assertEqual(self.manager.in_force.agents[0].name, "y")
        self.assertEqual(self.manager.state().needs_restart, ("daemon.http_port",))
        self.assertIn("restart the daemon to apply daemon.http_port", result.warnings[0])
        self.assertEqual([c.key for c in self.reload().changes], ["daemon.http_port"])
        self.write(port=0, a=", name: y")
        self.assertEqual(self.reload().changes, ())
        self.assertEqual(self.manager.state().needs_restart, ())

    def test_an_https_endpoint_waits_for_a_restart_where_openssl_is_not_loaded(self) -> None:
        https = ", health_check: {http_endpoint: 'https://x/'}"
        self.write(a=https, b=https)
        self.reload()
        self.assertEqual([a.health_check.http_endpoint for a in self.manager.in_force.agents], ["", ""])
        self.assertEqual(len(self.manager.state().needs_restart), 2)

    def test_a_step_that_fails_is_told_and_the_others_go_on(self) -> None:
        def broken(old: Config, new: Config) -> None:
            raise ZeroDivisionError

        def full(old: Config, new: Config) -> None:
            raise StorageError("the disk is full; make room")

        self.manager.applied_by([Step(name="x", apply=broken), Step(name="y", apply=full), Step(name="z", apply=self.step("z"))])
        self.write(a=", name: x")
        warnings = self.reload().warnings
        self.assertIn("x did not take the new configuration", warnings[0])
        self.assertEqual(warnings[1:], ("y did not take it all: D1004 the disk is full; make room", "z says hello"))
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.assertEqual([name for name, *_ in self.applied], ["z"])

    def test_a_step_that_failed_is_offered_the_same_file_again(self) -> None:
        fails = True
        taken: list[tuple[str, str]] = []

        def flaky(old: Config, new: Config) -> None:
            if fails:
                raise StorageError("the disk is full; make room")
            taken.append((old.agents[0].name, new.agents[0].name))

        self.manager.applied_by([Step(name="x", apply=self.step("x")), Step(name="flaky", apply=flaky)])
        self.write(a=", name: n")
        self.reload()
        fails = False
        self.assertEqual(self.reload().changes, ())
        self.assertTrue(self.reload().unchanged)
        self.assertEqual(taken, [("", "n")])
        self.assertEqual([name for name, *_ in self.applied], ["x"])

    def test_an_unchanged_file_says_so(self) -> None:
        self.assertTrue(self.reload(dry_run=True).unchanged)
        self.assertTrue(self.reload().unchanged)
        self.write(a=", name: n")
        self.assertFalse(self.reload(dry_run=True).unchanged)
        self.assertFalse(self.reload().unchanged)

    def test_times_of_the_last_load_and_of_the_last_attempt(self) -> None:
        self.clock.advance(10)
        self.path.write_text("agents: [")
        self.failureResultOf(self.manager.reload(), ConfigLoadError)
        state = self.manager.state()
        self.assertEqual((state.loaded_at, state.last_attempt_at), (5.0, 15.0))

    def test_a_new_work_dir_waits_whole_for_the_restart(self) -> None:
        agent = (", args: ['{work_dir}/x'], version_command: ['{binary_path}', '{work_dir}'], "
                 "health_check: {command: [/bin/true, '{work_dir}/y']}")
        self.write(a=agent, b=f", work_dir: {self.root}/own, socket_path: {self.root}/own.sock")
        self.reload()
        before = self.manager.in_force
        here = f"{self.root}/w/agents/a"
        self.assertEqual((before.agents[0].args, before.agents[0].work_dir), ((f"{here}/x",), here))
        text = self.path.read_text()
        self.path.write_text(text.replace(f"{self.root}/w,", f"{self.root}/elsewhere,"))
        result = self.reload()
        self.assertEqual({c.effect.value for c in result.changes}, {"restart_daemon"})
        self.assertIn("daemon.work_dir", self.manager.state().needs_restart)
        self.assertEqual(self.manager.in_force, before)
        self.path.write_text(text)
        self.assertEqual(self.reload().changes, ())

    def test_sockets_of_agents_that_follow_the_daemons_wait_with_it(self) -> None:
        text = self.path.read_text()
        self.path.write_text(text.replace("http_port", f"socket_path: {self.root}/s.sock, http_port"))
        self.assertEqual([c.key for c in self.reload().changes], ["daemon.socket_path"])
        self.assertEqual(self.manager.in_force.agents[0].socket_path, f"{self.root}/w/run/heartbeat.sock")

    def test_who_asked_is_in_the_event(self) -> None:
        gate: Deferred[None] = Deferred()
        self.manager.applied_by([Step(name="slow", apply=lambda _old, _new: gate)])
        self.write(a=", name: x")
        self.manager.reload(reason="SIGHUP")
        self.write(a=", name: y")
        self.manager.reload(peer="uid 0")
        self.manager.reload(reason="file changed")
        gate.callback(None)
        self.assertEqual([(e.data["reason"], e.data["peer"]) for e in self.events.published],
                         [("SIGHUP", ""), ("api, file changed", "uid 0")])

    def test_a_fault_of_ours_reaches_whoever_waits_and_the_log_where_nobody_does(self) -> None:
        def broken(_path: Path) -> LoadedConfig:
            raise ZeroDivisionError

        manager = ConfigManager(
            load(self.path), broken, self.threads, lambda: 1.0, self.events, self.alerts, self.keep
        )
        self.failureResultOf(manager.reload(), ZeroDivisionError)
        self.successResultOf(manager.hang_up())
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.threads.hang(LANE)
        left = manager.reload()
        left.cancel()
        self.failureResultOf(left)
        self.threads.release(LANE)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_reloads_wait_for_each_other_and_run_once_for_all_that_wait(self) -> None:
        gate: Deferred[None] = Deferred()
        runs: list[Config] = []

        def slow(old: Config, new: Config) -> Any:
            runs.append(new)
            return gate

        self.manager.applied_by([Step(name="slow", apply=slow)])
        self.write(a=", name: x")
        first = self.manager.reload()
        self.write(a=", name: y")
        others = [self.manager.reload() for _ in range(5)]
        others[0].cancel()  # whoever asked has left; the reload goes on
        self.assertNoResult(first)
        gate.callback(None)
        self.successResultOf(first)
        for other in others[1:]:
            self.assertEqual([c.key for c in self.successResultOf(other).changes], ["name"])
        self.failureResultOf(others[0])
        self.assertEqual([r.agents[0].name for r in runs], ["x", "y"])
        self.write(a=", name: z")
        self.reload()

    def test_sighup_never_raises(self) -> None:
        self.path.write_text("nonsense: [")
        self.manager.hang_up()
        self.assertEqual(self.types(), ["config.reload_failed"])
        self.write(a=", name: x")
        self.manager.hang_up()
        self.assertEqual(self.manager.in_force.agents[0].name, "x")

    def test_secrets_do_not_reach_events(self) -> None:
        self.write(a=", env: {API_TOKEN: hunter2}")
        self.reload()
        self.assertNotIn("hunter2", str(self.events.published))


class LastGood(ManagerCase):
    def test_the_first_file_is_kept_and_a_refused_one_is_not(self) -> None:
        self.successResultOf(self.manager.keep_first())
        good = self.path.read_bytes()
        self.assertEqual(self.keep.read_bytes(), good)
        self.path.write_text("nonsense: [")
        self.failureResultOf(self.manager.reload(), ConfigLoadError)
        self.assertEqual(self.keep.read_bytes(), good)

    def test_a_disk_that_refuses_the_copy_is_a_warning(self) -> None:
        faults.arm({"HOSTDAEMON_FAULT": "atomic.write:1:enospc"})
        self.write(a=", name: x")
        self.assertIn("cannot be kept", self.reload().warnings[-1])
        self.assertTrue(self.manager.state().ok)

    def test_a_file_that_changed_again_is_not_kept(self) -> None:
        self.assertFalse(keep_copy(self.path, "0" * 64, self.keep))
        self.assertFalse(self.keep.exists())
