"""Trying a version by its ``--check``: a crash counts always, a fault of the configuration only where it is new."""

from __future__ import annotations

from pathlib import Path

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from daemon.model.agent import ExitStatus
from daemon.updater.selfupdate.checking import CHECK_S, OUTPUT_MAX, Checker, new_faults
from daemon.updater.selfupdate.launcher import interpreter
from tests.fakes.commands import CommandsInTurn, FakeProgram

MISSING = "hostdaemon: D1002 agents[0].binary_path: /opt/x does not exist"
NEW = "hostdaemon: D1002 agents[1].type: unknown"


@pytest.mark.parametrize(
    ("before", "after", "worse"),
    [
        (MISSING, MISSING, ""),
        (f"{MISSING}\nwarning: x", f"warning: y\n{MISSING}\n", ""),
        (MISSING, f"{MISSING}\n{NEW}", f"{MISSING}\n{NEW}"),
        ("", NEW, NEW),
        (MISSING, "", "it said nothing"),
        (MISSING, f"Traceback\n{MISSING}", f"Traceback\n{MISSING}"),
        ("Traceback\nImportError", "Traceback\nImportError", "Traceback\nImportError"),
    ],
)
def test_only_what_is_worse_than_before_counts(before: str, after: str, worse: str) -> None:
    assert new_faults(before, after) == worse


class CheckerTest(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.commands = CommandsInTurn(self.clock)
        self.checker = Checker(self.commands, Path("/etc/daemon.yaml"), lambda v: Path(f"/v/{v}/bin/twistd"))

    def check(self, program: FakeProgram) -> str:
        """What is said against a version that does this; the old one finds the binary missing."""
        self.commands.turns = [program, FakeProgram(output=MISSING.encode(), status=ExitStatus(code=1))]
        done = Deferred.fromCoroutine(self.checker.compare("2", "1"))
        self.clock.advance(CHECK_S + 1)
        return self.successResultOf(done)

    def test_it_reads_the_configuration_in_force_and_nothing_of_ours_is_inherited(self) -> None:
        self.assertEqual(self.check(FakeProgram(output=b"good")), "")
        (call,) = self.commands.calls
        self.assertEqual(call.argv, (
            *interpreter(), "/v/2/bin/twistd", "-n", "--pidfile=", "hostdaemon", "--check", "--config",
            "/etc/daemon.yaml",
        ))
        self.assertNotIn("NOTIFY_SOCKET", call.env)
        self.assertNotIn("HOSTDAEMON_LOCK_FD", call.env)

    def test_what_the_old_version_lives_with_is_no_reason(self) -> None:
        self.assertEqual(self.check(FakeProgram(output=MISSING.encode(), status=ExitStatus(code=1))), "")

    def test_a_new_fault_is(self) -> None:
        text = f"{MISSING}\n{NEW}"
        self.assertEqual(self.check(FakeProgram(output=text.encode(), status=ExitStatus(code=1))), text)

    def test_crashes_hangs_and_floods_are_in_any_case(self) -> None:
        for program, said in (
            (FakeProgram(output=b"Traceback\nImportError", status=ExitStatus(code=1)), "ImportError"),
            (FakeProgram(status=ExitStatus(code=1)), "it said nothing"),
            (FakeProgram(status=ExitStatus(signal=11)), "ended with signal 11"),
            (FakeProgram(status=ExitStatus(code=2)), "ended with status 2"),
            (FakeProgram(takes_s=float("inf")), "did not end within 60 s"),
            (FakeProgram(output=b"x" * (OUTPUT_MAX + 1)), "writes without end"),
        ):
            with self.subTest(said):
                self.setUp()
                self.assertIn(said, self.check(program))

    def test_an_interpreter_that_is_gone_is_said(self) -> None:
        self.assertIn("cannot be started", self.successResultOf(
            Deferred.fromCoroutine(self.checker.compare("2", "1"))
        ))
