"""One connection to the heartbeat socket: from bytes to recorded heartbeats.

Made by :mod:`daemon.heartbeat.socket_receiver`, which lends it everything shared as a :class:`Desk`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntFlag
from typing import Any

from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.internet.protocol import connectionDone
from twisted.logger import Logger
from twisted.protocols.basic import LineReceiver
from twisted.python.failure import Failure
from zope.interface import implementer

from daemon.aio.reactor import Clock, DelayedCall
from daemon.heartbeat.crowd import Crowd
from daemon.heartbeat.framing import MAX_LENGTH, Framer
from daemon.heartbeat.intake import Books, Intake
from daemon.heartbeat.peer import Peer
from daemon.heartbeat.speaker import Speaker
from daemon.heartbeat.stats import Reason
from daemon.heartbeat.turns import Turns

log = Logger()

READ_BYTES = MAX_LENGTH  # of one read; a connection never holds more than this beside one message
SLICE = 64  # messages taken one by one before anybody looks at the time
RATE_PAUSE_S = 0.05  # the shortest pause that max_rate imposes, so that it does not wake us per message


@dataclass(frozen=True, slots=True, kw_only=True)
class Desk:
    """What all connections of one receiver share.

    Attributes:
        clock: monotonic seconds and timers.
        books: where messages are recorded and counted.
        turns: fair shares of the loop.
        crowd: who is connected.
        peer_of: the peer of a transport.
        require_pid_match: see :class:`~daemon.heartbeat.speaker.Speaker`.
        max_rate: messages per second and connection; 0 means no limit.
        gone: called when a connection has ended.
    """

    clock: Clock
    books: Books
    turns: Turns
    crowd: Crowd[HeartbeatConnection]
    peer_of: Callable[[Any], Peer]
    require_pid_match: bool
    max_rate: int
    gone: Callable[[], None]


class _Hold(IntFlag):
    """Why a connection is not read from."""

    TURN = 1  # others come first
    RATE = 2  # it was faster than max_rate
    WRITE = 4  # it does not read its answers


@implementer(IHalfCloseableProtocol)
class HeartbeatConnection(LineReceiver):
    """The daemon's end of one connection.

    A ``LineReceiver`` whose lines may also end where their JSON object does, so the cutting is the
    Framer's. Bare heartbeats are read many lines at once where every one of them is in order.
    """

    delimiter = b"\n"
    MAX_LENGTH = MAX_LENGTH
    transport: Any  # a Twisted stream transport: consumer, producer, abortable

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._framer = Framer()
        self._intake: Intake | None = None  # None until the peer is known
        self._holds = _Hold(0)
        self._reading = True
        self._closed = False
        self._writes = False
        self._credit = float(desk.max_rate)  # messages allowed now
        self._credit_at = 0.0
        self._rate_timer: DelayedCall | None = None

    # -- life -----------------------------------------------------------------------------------

    def connectionMade(self) -> None:
        """Asks the kernel who connected, and whether there is room."""
        desk, books = self._desk, self._desk.books
        books.tally.connections_total += 1
        try:
            peer = desk.peer_of(self.transport)
        except OSError:
            log.failure("heartbeat socket: the kernel does not say who connected")
            self._close()
            return
        speaker = Speaker(peer, books.directory, desk.clock, require_pid_match=desk.require_pid_match)
        self._intake = Intake(books, speaker)
        target = speaker.target()
        who = peer.credentials
        if not desk.crowd.admit(self, ("user", who.uid) if target is None else ("agent", target.agent_id)):
            books.tally.refused_total += 1
            if (kept_back := books.notices.due(("crowd", who.pid, who.uid))) is not None:
                log.warn(
                    "heartbeat socket: {limit} connections are open; one more of pid {pid} (uid {uid}) was "
                    "closed, {kept_back} earlier; see who holds them with ss -xp",
                    limit=desk.crowd.limit, pid=who.pid, uid=who.uid, kept_back=kept_back,
                )
            self._close()
            return
        self._credit_at = desk.clock.seconds()
        # Bounds what one connection can make us hold; Twisted would read 64 KiB.
        self.transport.bufferSize = READ_BYTES

    def leave(self) -> None:
        """Makes room for somebody else."""
        self._desk.books.tally.refused_total += 1
        self._drain()
        self._close()

    def finish(self) -> None:
        """Records what has arrived, then ends once the answers are sent."""
        if self._closed or not self._drain():
            return
        self._note_unfinished()
        self._closed = True
        self._quiet()
        if self._writes:
            self.transport.unregisterProducer()  # a paused one would hold the end back for ever
        self.transport.loseConnection()

    def readConnectionLost(self) -> None:
        """The peer will send no more, but may still read its answers (``nc -N``)."""
        self.finish()

    def writeConnectionLost(self) -> None:
        """The peer reads no more; ``connectionLost`` follows."""

    def abort(self) -> None:
        """Ends now."""
        self._close()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """What had arrived is recorded all the same."""
        if not self._closed and self._drain():
            self._note_unfinished()
        self._closed = True
        self._quiet()
        self._desk.crowd.discard(self)
        self._desk.gone()

    def _note_unfinished(self) -> None:
        if self._framer.unfinished and self._intake is not None:
            self._intake.spoiled(Reason.TRUNCATED)

    def _close(self) -> None:
        self._closed = True
        self._quiet()
        self.transport.abortConnection()

    def _quiet(self) -> None:
        self._desk.turns.forget(self)
        if self._rate_timer is not None:
            self._rate_timer.cancel()
            self._rate_timer = None

    # -- flow -----------------------------------------------------------------------------------

    def dataReceived(self, data: bytes) -> None:
        """Cuts and reads what arrived, within this turn's share."""
        if self._closed:
            return
        self._framer.push(data)
        if self._holds:
            return
        if self._desk.turns.spent():
            self._wait_turn()
        else:
            self._work()
        self._settle()

    def proceed(self) -> None:
        """A turn has come; see :class:`~daemon.heartbeat.turns.Waiter`."""
        self._release(_Hold.TURN)

    def pauseProducing(self) -> None:
        """The transport's buffer is full of answers nobody reads: no more questions."""
        self._holds |= _Hold.WRITE
        self._settle()

    def resumeProducing(self) -> None:
        """The answers were read."""
        self._release(_Hold.WRITE)

    def stopProducing(self) -> None:
        """The connection is gone; ``connectionLost`` follows."""

    def _release(self, hold: _Hold) -> None:
        self._holds &= ~hold
        if not self._closed:
            if not self._holds:
                self._work()
            self._settle()

    def _settle(self) -> None:
        """Reads from the socket, or not."""
        may_read = not self._holds
        if self._closed or may_read is self._reading:
            return
        self._reading = may_read
        if may_read:
            self.transport.resumeProducing()
        else:
            self.transport.pauseProducing()

    def _wait_turn(self) -> None:
        self._holds |= _Hold.TURN
        self._desk.turns.queue(self)

    def _work(self) -> None:
        """Reads messages until none is left, or somebody else's turn has come."""
        framer = self._framer
        while framer.pending and not self._holds and not self._closed:
            if self._desk.max_rate:
                limit = self._allowance()
                if limit < 1:
                    return
                self._take(limit)
            elif not self._read_lines():
                self._take(SLICE)
            if framer.pending and not self._holds and self._desk.turns.spent():
                self._wait_turn()

    def _drain(self) -> bool:
        """Reads everything that has arrived, whoever should wait; False when that ended the connection."""
        while self._framer.pending and not self._closed:
            if not self._read_lines():
                self._take(SLICE)
        return not self._closed

    def _take(self, limit: int) -> None:
        messages = self._framer.take(limit)
        self._credit -= len(messages)
        for message in messages:
            self.lineReceived(message)
        if self._framer.overlong and not self._closed:
            self.lineLengthExceeded(b"")

    def _allowance(self) -> int:
        """How many messages may be read now under ``max_rate``; 0 starts a pause."""
        rate = self._desk.max_rate
        now = self._desk.clock.seconds()
        self._credit = min(float(rate), self._credit + (now - self._credit_at) * rate)
        self._credit_at = now
        if self._credit < 1:
            self._holds |= _Hold.RATE
            pause_s = max(RATE_PAUSE_S, (1 - self._credit) / rate)
            self._rate_timer = self._desk.clock.callLater(pause_s, self._rate_over)
            return 0
        return min(SLICE, int(self._credit))

    def _rate_over(self) -> None:
        self._rate_timer = None
        self._release(_Hold.RATE)

    # -- messages -------------------------------------------------------------------------------

    def _read_lines(self) -> bool:
        """Reads whole lines at once; False when there are none, or they are not all plain heartbeats."""
        lines = self._framer.lines()
        if lines is None or self._intake is None or not self._intake.take_lines(lines):
            return False
        self._framer.drop_lines()
        return True

    def lineReceived(self, line: bytes) -> None:
        """Reads one message and sends its answer, if it gets one."""
        answer = None if self._intake is None else self._intake.take(line)
        if answer is None or self._closed:
            return
        if not self._writes:
            self._writes = True
            # From now on the transport tells us when its buffer is full and when it is empty again.
            self.transport.registerProducer(self, True)
        self.transport.write(answer + self.delimiter)

    def lineLengthExceeded(self, line: bytes) -> None:
        """Nothing after an over-long message can be trusted: the connection ends."""
        if self._intake is not None:
            self._intake.spoiled(Reason.TOO_LONG)
        self._close()
