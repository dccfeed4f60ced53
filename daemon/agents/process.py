"""The ProcessProtocol of an agent: one object per process, spawned or adopted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from twisted.internet.defer import Deferred
from twisted.internet.protocol import ProcessProtocol
from twisted.python.failure import Failure

from daemon.aio.process import ProcessHandle
from daemon.model.agent import ExitStatus, Identity


class ProcessOwner(Protocol):
    """Who hears that the process ended."""

    def process_exited(self, process: AgentProcess, status: ExitStatus) -> None:
        """The leader ended; it is still unreaped if it is our child."""
        ...


class AgentProcess(ProcessProtocol):
    """The leader of an agent, under watch.

    Args:
        owner: hears of the end.
        run: the spawn's token; empty when an adopted process shows none.
        spec_hash: what it was started with.
        started_mono: monotonic seconds of its start.
        adopted: whether another daemon (or an earlier self) spawned it.
    """

    def __init__(
        self, owner: ProcessOwner, *, run: str, spec_hash: str, started_mono: float, adopted: bool
    ) -> None:
        self.owner = owner
        self.run = run
        self.spec_hash = spec_hash
        self.started_mono = started_mono
        self.adopted = adopted
        self.handle: ProcessHandle | None = None
        self._exit_waiters: list[Deferred[None]] = []

    def attach(self, handle: ProcessHandle) -> None:
        """The process is under watch."""
        self.handle = handle

    @property
    def pid(self) -> int:
        """The leader's pid, 0 before :meth:`attach`."""
        return self.handle.pid if self.handle is not None else 0

    @property
    def identity(self) -> Identity | None:
        """Which process this is."""
        return self.handle.identity if self.handle is not None else None

    @property
    def alive(self) -> bool:
        """Whether the leader lives."""
        return self.handle is not None and self.handle.status is None

    def signal_group(self, number: int) -> bool:
        """Signals its group; see ProcessHandle."""
        return self.handle is not None and self.handle.signal_group(number)

    def exited(self) -> Deferred[None]:
        """Fires when the leader has ended (at once if it has)."""
        waiter: Deferred[None] = Deferred(self._forget_waiter)
        if self.alive:
            self._exit_waiters.append(waiter)
        else:
            waiter.callback(None)
        return waiter

    def _forget_waiter(self, waiter: Deferred[None]) -> None:
        if waiter in self._exit_waiters:
            self._exit_waiters.remove(waiter)

    def processExited(self, reason: Failure) -> None:
        """See ProcessProtocol."""
        handle = self.handle
        status = handle.status if handle is not None else None
        self.owner.process_exited(self, status or ExitStatus())
        waiters, self._exit_waiters = self._exit_waiters, []
        for waiter in waiters:
            waiter.callback(None)

    def reap(self) -> None:
        """Gives the pid back."""
        if self.handle is not None:
            self.handle.reap()

    def forget(self) -> None:
        """The daemon leaves; the process stays."""
        if self.handle is not None:
            self.handle.forget()


class Watched(ProcessProtocol):
    """Any process that is watched for its end only: a leftover that is being ended."""

    def __init__(self, ended: Callable[[], None]) -> None:
        self._ended = ended
        self.handle: ProcessHandle | None = None

    def processExited(self, reason: Failure) -> None:
        """See ProcessProtocol."""
        if self.handle is not None:
            self.handle.reap()
        self._ended()
