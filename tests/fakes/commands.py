"""A CommandRunner that plays commands back, with the timing and the limits of the real one."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from twisted.internet.defer import Deferred, fail
from twisted.internet.interfaces import IReactorTime

from daemon.aio.command import CommandResult
from daemon.model.agent import ExitStatus

KILLED = ExitStatus(signal=9)


@dataclass(kw_only=True)
class FakeProgram:
    """What a program does: prints, takes its time, exits.

    Attributes:
        output: what it writes to stdout, or a function of its environment.
        takes_s: seconds until it ends by itself; infinity hangs.
        status: how it ends.
    """

    output: bytes | Callable[[Mapping[str, str]], bytes] = b""
    takes_s: float = 0.0
    status: ExitStatus = field(default_factory=lambda: ExitStatus(code=0))


@dataclass(frozen=True, kw_only=True)
class Call:
    """One command as it was asked for."""

    argv: tuple[str, ...]
    env: Mapping[str, str]
    cwd: str | None


class FakeCommandRunner:
    """Programs by path; an unknown path fails as a missing binary does.

    Attributes:
        calls: every command that was started.
        running: argv of those under way.
        killed: argv of those killed at their timeout, their limit, or because their caller left.
    """

    def __init__(self, clock: IReactorTime, programs: Mapping[str, FakeProgram] | None = None) -> None:
        self.programs = dict(programs or {})
        self.calls: list[Call] = []
        self.running: list[tuple[str, ...]] = []
        self.killed: list[tuple[str, ...]] = []
        self._clock = clock

    def run(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str],
        cwd: str | None = None,
        timeout_s: float,
        max_output: int,
        with_stderr: bool = False,
    ) -> Deferred[CommandResult]:
        """See CommandRunner."""
        command = tuple(argv)
        program = self.programs.get(command[0])
        if program is None:
            return fail(OSError(errno.ENOENT, os.strerror(errno.ENOENT), command[0]))
        self.calls.append(Call(argv=command, env=dict(env), cwd=cwd))
        output = program.output(env) if callable(program.output) else program.output
        self.running.append(command)

        def ended(status: ExitStatus, kept: bytes, timed_out: bool = False, truncated: bool = False) -> None:
            self.running.remove(command)
            if status is KILLED:
                self.killed.append(command)
            if not done.called:
                done.callback(
                    CommandResult(status=status, output=kept, timed_out=timed_out, truncated=truncated)
                )

        def cancelled(_done: Deferred[CommandResult]) -> None:
            if timer is not None and timer.active():
                timer.cancel()
            self.running.remove(command)
            self.killed.append(command)

        done: Deferred[CommandResult] = Deferred(cancelled)
        timer = None
        if len(output) > max_output:
            ended(KILLED, output[:max_output], truncated=True)
        elif program.takes_s > timeout_s:
            timer = self._clock.callLater(timeout_s, ended, KILLED, output, True)
        elif program.takes_s > 0:
            timer = self._clock.callLater(program.takes_s, ended, program.status, output)
        else:
            ended(program.status, output)
        return done


class CommandsInTurn(FakeCommandRunner):
    """The same, for programs that one interpreter runs: the next call runs the next of them."""

    def __init__(self, clock: IReactorTime, *programs: FakeProgram) -> None:
        super().__init__(clock)
        self.turns = list(programs)

    def run(self, argv: Sequence[str], **options: Any) -> Deferred[CommandResult]:
        """See CommandRunner; with no program left it cannot be started."""
        self.programs = {argv[0]: self.turns.pop(0)} if self.turns else {}
        return super().run(argv, **options)
