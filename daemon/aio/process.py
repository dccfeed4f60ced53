"""Processes by pidfd: one transport for those we spawned, adopted, or kept over an exec of ourselves.

``subprocess.Popen`` starts them (vfork in C: no Python code runs between fork and exec, which killed
children beside gRPC threads when ``fork`` was used); the reactor watches their pidfd; ``waitid`` on the
pidfd tells the status. Agents, probes, version commands and exec collectors all use this.
"""

from __future__ import annotations

import errno
import os
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from twisted.internet.error import ProcessDone, ProcessExitedAlready, ProcessTerminated
from twisted.internet.interfaces import IProcessTransport
from twisted.internet.protocol import ProcessProtocol
from twisted.python.failure import Failure
from zope.interface import implementer

from daemon.aio.reactor import DescriptorReactor
from daemon.model.agent import ExitStatus, Identity
from daemon.procfs import pidfd as pidfds
from daemon.procfs.identity import boot_id, verify
from daemon.procfs.stat import read_stat


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """What to run.

    Attributes:
        argv: program and arguments; the program is looked up in ``env["PATH"]`` when it has no slash.
        env: the whole environment, nothing is inherited.
        cwd: working directory, None for ours.
        stdout, stderr: descriptors, None for /dev/null; the caller keeps them.
        umask: -1 for ours.
    """

    argv: Sequence[str]
    env: Mapping[str, str] = field(default_factory=dict)
    cwd: str | None = None
    stdout: int | None = None
    stderr: int | None = None
    umask: int = -1


class ProcessHandle(Protocol):
    """A process that is watched: what its ProcessProtocol gets as ``transport``."""

    @property
    def pid(self) -> int:
        """The process id; it stays ours until :meth:`reap`."""
        ...

    @property
    def identity(self) -> Identity:
        """Which process this is."""
        ...

    @property
    def status(self) -> ExitStatus | None:
        """How it ended, None while it lives."""
        ...

    @property
    def pinned(self) -> bool:
        """Whether its pid cannot be anybody else's: it lives, or is our own unreaped child."""
        ...

    def signal_leader(self, number: int) -> bool:
        """Signals the process alone; False when it is gone."""
        ...

    def signal_group(self, number: int) -> bool:
        """Signals its process group; False when nobody of it is left."""
        ...

    def reap(self) -> None:
        """Gives the pid back to the kernel once it ended, and closes the pidfd."""
        ...

    def forget(self) -> None:
        """Stops watching without touching the process: the daemon leaves, the agent stays."""
        ...


class ProcessLauncher(Protocol):
    """The seam by which processes come under watch; tests have a fake with the same contract."""

    def spawn(self, protocol: ProcessProtocol, command: Command) -> ProcessHandle:
        """Starts a process in a session of its own.

        Raises:
            OSError: it could not be started.
        """
        ...

    def adopt(self, protocol: ProcessProtocol, identity: Identity) -> ProcessHandle | None:
        """Takes a running process under watch; None when exactly that process does not live."""
        ...


@implementer(IProcessTransport)
class PidfdTransport:
    """Drives a ProcessProtocol from a pidfd; see :class:`ProcessHandle` for the meaning.

    The protocol gets ``processExited`` while our own child is still an unreaped zombie, so that its
    group and session can be dealt with before the pid is given back; ``processEnded`` follows at
    :meth:`reap`.
    """

    def __init__(
        self, reactor: DescriptorReactor, protocol: ProcessProtocol, fd: int, identity: Identity,
        child: subprocess.Popen[bytes] | None, closed: Callable[[Identity], None] = lambda _identity: None,
    ) -> None:
        self.proto = protocol
        self.identity = identity
        self.status: ExitStatus | None = None
        self._reactor = reactor
        self._fd = fd
        self._child = child
        self._closed = closed
        self._ours = child is not None
        self._groups = pidfds.GroupSignaller()
        reactor.addReader(self)
        protocol.makeConnection(self)

    @property
    def pid(self) -> int:
        """See ProcessHandle."""
        return self.identity.pid

    # IReadDescriptor: a pidfd is readable when the process has ended.
    def fileno(self) -> int:
        """The descriptor the reactor watches."""
        return self._fd

    def logPrefix(self) -> str:
        """Names us in the reactor's messages."""
        return f"process {self.pid}"

    def doRead(self) -> None:
        """The process has ended."""
        self._reactor.removeReader(self)
        status = pidfds.peek_status(self._fd)
        if status is not None:
            self._ours = True  # a child kept over an exec of ourselves
        else:
            status = pidfds.stranger_status(self._fd, self.pid, self.identity.start_ticks)
        self.status = status
        self.proto.processExited(_reason(status))

    def connectionLost(self, reason: Failure) -> None:
        """The reactor gave the descriptor up; the process itself is untouched."""

    # IProcessTransport: agents have no pipes to us, so nothing can break when we die.
    def closeStdin(self) -> None:
        """There is no pipe."""

    def closeStdout(self) -> None:
        """There is no pipe."""

    def closeStderr(self) -> None:
        """There is no pipe."""

    def closeChildFD(self, descriptor: int) -> None:
        """There is no pipe."""

    def writeToChild(self, childFD: int, data: bytes) -> None:
        """There is no pipe to write to.

        Raises:
            KeyError: always, as Twisted's own transport does for a descriptor it does not know.
        """
        raise KeyError(childFD)

    def loseConnection(self) -> None:
        """There is no pipe."""

    def signalProcess(self, signalID: str | int) -> None:
        """Signals the process.

        Raises:
            ProcessExitedAlready: it has ended.
        """
        number = getattr(signal, f"SIG{signalID}") if isinstance(signalID, str) else signalID
        if self.status is not None or not self.signal_leader(number):
            raise ProcessExitedAlready

    # ProcessHandle
    @property
    def pinned(self) -> bool:
        """See ProcessHandle."""
        return self._fd >= 0 and (self.status is None or self._ours)

    def signal_leader(self, number: int) -> bool:
        """See ProcessHandle."""
        return self._fd >= 0 and pidfds.send_signal(self._fd, number)

    def signal_group(self, number: int) -> bool:
        """See ProcessHandle."""
        if self._fd < 0:
            return False
        return self._groups.send(self._fd, self.pid, number, leader_pinned=self.pinned)

    def reap(self) -> None:
        """See ProcessHandle."""
        if self.status is None or self._fd < 0:
            return
        if self._ours:
            pidfds.reap(self._fd)
        if self._child is not None:
            # Popen would otherwise wait for the pid later, which may be a stranger's by then.
            self._child.returncode = _returncode(self.status)
        self._close()
        self.proto.processEnded(_reason(self.status))

    def forget(self) -> None:
        """See ProcessHandle."""
        if self._fd < 0:
            return
        self._reactor.removeReader(self)
        if self._child is not None:
            self._child.returncode = 0  # keeps Popen quiet and its hands off; the agent lives on
        self._close()

    def _close(self) -> None:
        os.close(self._fd)
        self._fd = -1
        self._child = None
        self._closed(self.identity)


class PidfdLauncher:
    """The real :class:`ProcessLauncher`.

    Args:
        reactor: watches the pidfds.
    """

    def __init__(self, reactor: DescriptorReactor) -> None:
        self._reactor = reactor
        self._held: dict[Identity, int] = {}

    def spawn(self, protocol: ProcessProtocol, command: Command) -> ProcessHandle:
        """See ProcessLauncher."""
        try:
            child = subprocess.Popen(
                list(command.argv),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL if command.stdout is None else command.stdout,
                stderr=subprocess.DEVNULL if command.stderr is None else command.stderr,
                cwd=command.cwd,
                env=dict(command.env),
                umask=command.umask,
                start_new_session=True,
                close_fds=True,
            )
        except ValueError as error:  # a NUL, or a variable's name with "=": no exec can take it
            raise OSError(errno.EINVAL, f"{os.strerror(errno.EINVAL)} ({error})", command.argv[0]) from error
        # Our own child cannot be reaped by anybody else: the pid is its own until we say so.
        fd = -1
        try:
            fd = os.pidfd_open(child.pid)
            stat = read_stat(child.pid)
            if stat is None:
                raise FileNotFoundError(f"/proc/{child.pid}/stat: /proc must be mounted")
            identity = Identity(boot_id=boot_id(), pid=child.pid, start_ticks=stat.start_ticks)
        except OSError:
            if fd >= 0:
                os.close(fd)
            child.kill()
            child.wait()
            raise
        return self._watch(protocol, fd, identity, child)

    def adopt(self, protocol: ProcessProtocol, identity: Identity) -> ProcessHandle | None:
        """See ProcessLauncher."""
        if identity.pid <= 0:
            return None
        fd = pidfds.open_pidfd(identity.pid)
        if fd is None:
            return None
        try:
            stat = verify(identity)  # after the pidfd: from here on the pid cannot change hands unseen
        except OSError:
            os.close(fd)
            raise
        if stat is None or stat.dead:
            if stat is not None and identity not in self._held:
                pidfds.reap(fd)  # a child of ours that died while we executed ourselves anew
            os.close(fd)
            return None
        return self._watch(protocol, fd, identity, None)

    def _watch(
        self, protocol: ProcessProtocol, fd: int, identity: Identity, child: subprocess.Popen[bytes] | None
    ) -> PidfdTransport:
        # A leader's pid stays pinned by its zombie until its own transport reaps it, nobody else.
        self._held[identity] = self._held.get(identity, 0) + 1
        return PidfdTransport(self._reactor, protocol, fd, identity, child, self._let_go)

    def _let_go(self, identity: Identity) -> None:
        self._held[identity] -= 1
        if not self._held[identity]:
            del self._held[identity]


def _returncode(status: ExitStatus) -> int:
    if status.code is not None:
        return status.code
    return -(status.signal or 0)


def _reason(status: ExitStatus) -> Failure:
    if status.clean:
        return Failure(ProcessDone(0))
    return Failure(ProcessTerminated(status.code, status.signal, _returncode(status)))
