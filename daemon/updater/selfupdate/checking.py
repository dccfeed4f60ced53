"""Tries a version of the daemon before it is put in place: its ``--check`` of the configuration in force.

A version that crashes at its import, lacks a library or cannot read the configuration is found here.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from daemon.aio.command import CommandRunner
from daemon.updater.selfupdate.handing_over import environment
from daemon.updater.selfupdate.launcher import interpreter

CHECK_S = 60.0  # for a version to read the configuration
OUTPUT_MAX = 64 * 1024
SHOWN = 2000  # characters of what it said
FAULT = "hostdaemon: D1"  # how --check begins each fault of the configuration


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """How a ``--check`` ended.

    Attributes:
        wrong: what is wrong in any case: a crash, no end, no answer; empty for none.
        faults: what it wrote where it refused the configuration; empty for none.
    """

    wrong: str = ""
    faults: str = ""


def new_faults(before: str, after: str) -> str:
    """What ``--check`` of the new version finds that the old one's does not; empty when it is no worse.

    A binary that is missing on this host is no reason against a version: the old one lives with it.

    Args:
        before, after: what the two wrote.
    """
    old = {line for line in before.splitlines() if line.startswith(FAULT)}
    found = [line for line in after.splitlines() if not line.startswith("warning: ")]
    if found and all(line.startswith(FAULT) and line in old for line in found):
        return ""
    return after.strip()[-SHOWN:] or "it said nothing"


class Checker:
    """Runs the checks.

    Args:
        commands: runs them.
        config_path: the configuration in force.
        program: of a version.
    """

    def __init__(
        self, commands: CommandRunner, config_path: Path, program: Callable[[str], Path]
    ) -> None:
        self._commands = commands
        self._config_path = config_path
        self._program = program

    async def compare(self, new: str, old: str) -> str:
        """Why the new version could not run here although the old one does; empty when it could."""
        after = await self.check(new)
        if after.wrong or not after.faults:
            return after.wrong
        return new_faults((await self.check(old)).faults, after.faults)

    async def check(self, version: str) -> Checked:
        """Runs one."""
        argv = (
            *interpreter(), str(self._program(version)), "-n", "--pidfile=", "hostdaemon", "--check",
            "--config", str(self._config_path),
        )
        try:
            result = await self._commands.run(
                argv, env=environment(os.environ, {}), cwd="/", timeout_s=CHECK_S, max_output=OUTPUT_MAX,
                with_stderr=True,
            )
        except OSError as error:
            return Checked(wrong=f"it cannot be started: {error}")
        text = result.output.decode("utf-8", "replace")
        if result.timed_out:
            return Checked(wrong=f"its --check did not end within {CHECK_S:g} s")
        if result.truncated:
            return Checked(wrong=f"its --check writes without end: {text[-500:]}")
        if result.status.clean:
            return Checked()
        if result.status.code != 1:
            code, number = result.status.code, result.status.signal
            how = f"status {code}" if number is None else f"signal {number}"
            return Checked(wrong=f"its --check ended with {how}: {text.strip()[-SHOWN:]}")
        return Checked(faults=text or "it said nothing")
