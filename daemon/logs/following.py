"""Follows a log: its last lines, then every new one exactly once, whatever is rotated meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from twisted.internet.defer import CancelledError, Deferred

from daemon.aio.notify import Notifier
from daemon.aio.reactor import Clock
from daemon.aio.threads import LaneBusy, LaneTimeout, Threads
from daemon.errors import StorageError
from daemon.logs.agent_log import AgentLog, Piece
from daemon.logs.reading import shown

READ_DEADLINE_S = 10.0
LOOK_S = 1.0  # where the kernel does not tell; also the longest wait for a file that does not exist yet
UNFINISHED_S = 5.0  # an unfinished line is shown after that


class LogStreamClosed(Exception):
    """The stream has ended; an expected outcome."""


class LogFollower:
    """One reader. A slow one loses nothing but what the log's bounds take, and is told how much that was.

    Args:
        log: blocking; asked on the lane.
        lane: of the agent.
        lines, grep: see :meth:`AgentLog.begin`.
        clock, threads, notifier: wait, read, wake.
        ended: called once when it is closed.
    """

    def __init__(
        self, log: AgentLog, lane: str, lines: int, grep: str, clock: Clock, threads: Threads,
        notifier: Notifier, ended: Callable[[LogFollower], None],
    ) -> None:
        self._log = log
        self._lane = lane
        self._lines = lines
        self._grep = grep.encode()
        self._clock = clock
        self._threads = threads
        self._notifier = notifier
        self._ended = ended
        self._position: int | None = None
        self._closed = False
        self._waiting: Deferred[None] | None = None
        self._idle_since_s: float | None = None

    def close(self) -> None:
        """Ends it; whoever waits gets LogStreamClosed."""
        if not self._closed:
            self._closed = True
            self._ended(self)
            if self._waiting is not None:
                self._waiting.cancel()

    async def next(self) -> bytes:
        """What comes next: one line or many, each with its newline.

        Raises:
            LogStreamClosed: it was closed.
            StorageError: the log cannot be read.
        """
        while True:
            if self._closed:
                raise LogStreamClosed
            if self._position is None:
                first, self._position = await self._ask(self._log.begin, self._lines, self._grep)
                if first:
                    return b"".join(line + b"\n" for line in first)
            # Set before the file is read, so that nothing falls in between.
            wake = _Wake(self._clock, self._notifier, self._log.live)
            try:
                text = await self._read()
                if text:
                    return text
                self._waiting = wake.wait()
                await self._waiting
            except CancelledError as error:
                if self._closed:
                    raise LogStreamClosed from error
                raise
            finally:
                self._waiting = None
                wake.release()

    async def _ask(self, call: Callable[..., tuple[tuple[bytes, ...], int]], *args: object) -> tuple[
        tuple[bytes, ...], int
    ]:
        try:
            return await self._threads.run(self._lane, READ_DEADLINE_S, call, *args)
        except (OSError, LaneBusy, LaneTimeout) as error:
            raise StorageError(f"the log cannot be read: {error}") from error

    async def _read(self) -> bytes:
        assert self._position is not None
        now = self._clock.seconds()
        impatient = self._idle_since_s is not None and now - self._idle_since_s >= UNFINISHED_S
        try:
            piece: Piece = await self._threads.run(
                self._lane, READ_DEADLINE_S, self._log.read, self._position, impatient=impatient
            )
        except (OSError, LaneBusy, LaneTimeout) as error:
            raise StorageError(f"the log cannot be read: {error}") from error
        moved = piece.position != self._position
        self._position = piece.position
        if moved:
            self._idle_since_s = None
        elif self._idle_since_s is None:
            self._idle_since_s = now
        if piece.lost:
            return f"hostdaemon: {piece.lost} bytes were removed before they were read\n".encode()
        return self._chosen(piece.data)

    def _chosen(self, data: bytes) -> bytes:
        if not data:
            return b""
        ended = data.endswith(b"\n")
        lines = data.split(b"\n")
        if ended:
            lines.pop()
        return b"".join(shown(line) + b"\n" for line in lines if self._grep in line)


class _Wake:
    """Tells once that the file was written to, or that it is time to look without being told."""

    def __init__(self, clock: Clock, notifier: Notifier, path: Path) -> None:
        self._fired = False
        self._waiter: Deferred[None] | None = None
        self._undo: Callable[[], None] = lambda: None
        wait_s = UNFINISHED_S
        try:
            self._undo = notifier.once(path, self._fire)
        except OSError:
            wait_s = LOOK_S
        self._timer = clock.callLater(wait_s, self._fire)

    def wait(self) -> Deferred[None]:
        """Fires then; at once when it has happened."""
        waiter: Deferred[None] = Deferred()
        self._waiter = waiter
        if self._fired:
            waiter.callback(None)
        return waiter

    def _fire(self) -> None:
        self._fired = True
        self.release()
        if self._waiter is not None and not self._waiter.called:
            self._waiter.callback(None)

    def release(self) -> None:
        """Takes watch and timer back."""
        self._undo()
        if self._timer.active():
            self._timer.cancel()
