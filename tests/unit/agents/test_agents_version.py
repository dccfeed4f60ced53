"""Asking a binary for its version, once per binary."""

from __future__ import annotations

import os
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import pytest
from agents_specs import spec_of
from twisted.internet.defer import Deferred, fail, succeed
from twisted.trial.unittest import SynchronousTestCase

from daemon.agents.version import TIMEOUT_S, detect_version, parse_version, version_key
from daemon.aio.command import CommandResult
from daemon.model.agent import ExitStatus


@pytest.mark.parametrize(
    ("output", "version"),
    [
        ("filebeat version 8.11.3 (amd64), libbeat 8.11.3 [abc built 2023]", "8.11.3"),
        ("Telegraf 1.30.0 (git: HEAD@1a2b3c4d)", "1.30.0"),
        ("node_exporter, version 1.7.0 (branch: HEAD, revision: 7333465)\n  go version: go1.21.4", "1.7.0"),
        ("v2.0", "2.0"),
        ("thing 1.0.0-SNAPSHOT", "1.0.0-SNAPSHOT"),
        ("thing 1.0.0-rc.1+build.5, later", "1.0.0-rc.1+build.5"),
        ("version 1.2.3-beta.", "1.2.3-beta"),
        ("1.2~rc1", "1.2~rc1"),
        ("go1.21.4 only", ""),
        ("", ""),
        ("no digits", ""),
        ("version 7", ""),
        ("\ufffd\x00 1.2", "1.2"),
    ],
)
def test_the_first_thing_that_looks_like_a_version_is_it(output: str, version: str) -> None:
    assert parse_version(output) == version


def test_the_key_changes_with_the_binary_and_is_empty_without_one(tmp_path: Path) -> None:
    binary = tmp_path / "b"
    assert version_key(str(binary)) == ""
    binary.write_text("1")
    first = version_key(str(binary))
    assert first and version_key(str(binary)) == first
    os.utime(binary, ns=(1, 1))
    assert version_key(str(binary)) != first


class Commands:
    """A CommandRunner that answers with what it was given."""

    def __init__(self, answer: bytes | OSError) -> None:
        self.answer = answer
        self.asked: list[tuple[tuple[str, ...], dict[str, Any]]] = []

    def run(self, argv: Any, **how: Any) -> Deferred[CommandResult]:
        self.asked.append((tuple(argv), how))
        if isinstance(self.answer, OSError):
            return fail(self.answer)
        return succeed(CommandResult(status=ExitStatus(code=0), output=self.answer))


class DetectVersionTest(SynchronousTestCase):
    def setUp(self) -> None:
        folder = TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.spec = spec_of(Path(folder.name), version_command=("/bin/true", "--version"))

    def detect(self, answer: bytes | OSError, known_key: str = "") -> tuple[str, str] | None:
        self.commands = Commands(answer)
        world: Any = SimpleNamespace(
            commands=self.commands, daemon_env={"PATH": "/bin", "NOTIFY_SOCKET": "/run/x"}
        )
        asking = Deferred.fromCoroutine(detect_version(world, self.spec, known_key))
        return self.successResultOf(asking)

    def test_the_binary_is_asked_in_a_small_environment_with_a_deadline(self) -> None:
        self.assertEqual(self.detect(b"thing 1.2.3\n"), ("1.2.3", version_key("/bin/true")))
        ((argv, how),) = self.commands.asked
        self.assertEqual(argv, ("/bin/true", "--version"))
        self.assertEqual(set(how["env"]), {"PATH", "LANG", "HOME"})
        self.assertEqual((how["timeout_s"], how["with_stderr"]), (TIMEOUT_S, True))

    def test_a_known_binary_is_not_asked_again_and_a_missing_one_never(self) -> None:
        self.assertIsNone(self.detect(b"1.2", known_key=version_key("/bin/true")))
        self.assertEqual(self.commands.asked, [])
        self.spec = spec_of(Path("/nowhere"), binary_path="/nowhere/b", version_command=("/nowhere/b",))
        self.assertIsNone(self.detect(b"1.2"))
        self.assertEqual(self.commands.asked, [])

    def test_a_binary_that_tells_none_or_cannot_be_asked_is_no_failure(self) -> None:
        self.assertIsNone(self.detect(b"usage: thing"))
        self.assertIsNone(self.detect(b"\xff\xfe"))
        self.assertIsNone(self.detect(OSError(13, "Permission denied")))
