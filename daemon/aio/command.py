"""Short commands (version queries, probes, exec collectors): bounded in time, output and offspring."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from twisted.internet.defer import Deferred, fail
from twisted.internet.protocol import ProcessProtocol
from twisted.logger import Logger
from twisted.python.failure import Failure

from daemon.aio.process import Command, ProcessHandle, ProcessLauncher
from daemon.aio.reactor import DelayedCall, DescriptorReactor
from daemon.model.agent import ExitStatus

log = Logger()

READ_BYTES = 65536
KILL_PATIENCE_S = 5.0  # after SIGKILL


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandResult:
    """What became of a command.

    Attributes:
        status: how it ended.
        output: its stdout (and stderr where asked for), cut at ``max_output``.
        timed_out: it was killed at its timeout.
        truncated: it wrote more than ``max_output`` bytes and was killed for it.
    """

    status: ExitStatus
    output: bytes
    timed_out: bool = False
    truncated: bool = False


class CommandRunner(Protocol):
    """The seam; the real one is :class:`PidfdCommandRunner`."""

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
        """Runs a command without a shell; cancelling the Deferred kills its group.

        Returns:
            fires with the result; fails with OSError when it cannot be started.
        """
        ...


class _Running(ProcessProtocol):
    """One command under way: reads its stdout, kills its group at the end of its time."""

    def __init__(self, reactor: DescriptorReactor, timeout_s: float, max_output: int) -> None:
        self._reactor = reactor
        self._max_output = max_output
        self._output = bytearray()
        self._timed_out = False
        self._truncated = False
        self._ended = False
        self._handle: ProcessHandle | None = None
        read_fd, self.write_fd = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        os.set_blocking(self.write_fd, True)
        self._fd = read_fd
        self.done: Deferred[CommandResult] = Deferred(self._cancelled)
        self._timer = reactor.callLater(timeout_s, self._overdue)
        self._last_timer: DelayedCall | None = None
        reactor.addReader(self)

    def started(self, handle: ProcessHandle) -> None:
        """The command runs."""
        self._handle = handle
        os.close(self.write_fd)

    def not_started(self, failure: Failure) -> None:
        """The command could not be started."""
        os.close(self.write_fd)
        self._release()
        self.done.errback(failure)

    # IReadDescriptor of the output pipe
    def fileno(self) -> int:
        """The descriptor the reactor watches."""
        return self._fd

    def logPrefix(self) -> str:
        """Names us in the reactor's messages."""
        return "command output"

    def connectionLost(self, reason: Failure) -> None:
        """The reactor gave the pipe up."""

    def doRead(self) -> None:
        """Output, or its end."""
        try:
            data = os.read(self._fd, READ_BYTES)
        except BlockingIOError:
            return
        if not data:
            self._reactor.removeReader(self)
            return
        room = self._max_output - len(self._output)
        self._output += data[:room]
        if len(data) > room:
            self._truncated = True
            self._reactor.removeReader(self)
            self.kill()

    def _overdue(self) -> None:
        self._timed_out = True
        self.kill()

    def kill(self) -> None:
        """Kills its group; the result follows."""
        if self._handle is None:
            return
        try:
            self._handle.signal_group(signal.SIGKILL)
        except PermissionError as error:  # sudo and the like; it ends when it ends
            log.warn("command {pid} may not be signalled by this user: {error}",
                     pid=self._handle.pid, error=str(error))
        if self._last_timer is None and not self._ended:
            self._last_timer = self._reactor.callLater(KILL_PATIENCE_S, self._abandon)

    def _cancelled(self, _done: Deferred[CommandResult]) -> None:
        self.kill()

    def processExited(self, reason: Failure) -> None:
        """It ended: whatever it left behind in its group ends too, then the rest of its output is read."""
        handle = self._handle
        if handle is None or self._ended:
            return
        self._ended = True
        self.kill()
        while not self._truncated:
            before = len(self._output)
            self.doRead()
            if len(self._output) == before:
                break
        handle.reap()
        self._settle(handle.status or ExitStatus())

    def _abandon(self) -> None:
        """SIGKILL did not end it: it hangs in the kernel or is not ours to signal. Nobody waits for it."""
        handle, self._handle = self._handle, None
        if handle is not None and not self._ended:
            self._ended = True
            log.warn("command {pid} survives SIGKILL; left alone", pid=handle.pid)
            handle.forget()
            self._timed_out = not self._truncated
            self._settle(ExitStatus())

    def _settle(self, status: ExitStatus) -> None:
        self._release()
        if not self.done.called:
            self.done.callback(
                CommandResult(
                    status=status,
                    output=bytes(self._output),
                    timed_out=self._timed_out,
                    truncated=self._truncated,
                )
            )

    def _release(self) -> None:
        for timer in (self._timer, self._last_timer):
            if timer is not None and timer.active():
                timer.cancel()
        self._reactor.removeReader(self)
        os.close(self._fd)


class PidfdCommandRunner:
    """Runs commands through a :class:`ProcessLauncher`.

    Args:
        reactor: timers and the output pipes.
        launcher: starts and watches the processes.
    """

    def __init__(self, reactor: DescriptorReactor, launcher: ProcessLauncher) -> None:
        self._reactor = reactor
        self._launcher = launcher
        self._running: set[_Running] = set()

    @property
    def running(self) -> int:
        """Commands under way."""
        return len(self._running)

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
        try:
            running = _Running(self._reactor, timeout_s, max_output)
        except OSError:
            return fail(Failure())
        try:
            command = Command(
                argv=argv, env=env, cwd=cwd, stdout=running.write_fd,
                stderr=running.write_fd if with_stderr else None,
            )
            handle = self._launcher.spawn(running, command)
        except OSError:
            running.not_started(Failure())
            return running.done
        running.started(handle)
        self._running.add(running)
        running.done.addBoth(self._ended, running)
        return running.done

    def _ended(self, result: Any, running: _Running) -> Any:
        self._running.discard(running)
        return result

    def stop(self) -> None:
        """Kills every command under way; their Deferreds fire as they end."""
        for running in tuple(self._running):
            running.kill()
