"""``POST /heartbeat`` behind its route: checks at once, a bounded queue, cooperative workers.

The web edge hands over the raw body and sends what comes back; nothing here knows HTTP beyond the
status numbers, which are the contract's own.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import NamedTuple

import msgspec
from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.logger import Logger
from twisted.python.failure import Failure

from daemon.aio.reactor import Clock, DelayedCall
from daemon.heartbeat.framing import MAX_LENGTH
from daemon.heartbeat.message import BadMessageError, BeatReader
from daemon.heartbeat.stats import HeartbeatStats
from daemon.interfaces import AgentDirectory, HeartbeatTarget, WallClock
from daemon.model.heartbeat import Heartbeat
from daemon.model.moment import rfc3339

log = Logger()

RETRY_FULL_S = 1  # a full queue is worked off within a turn or two of the loop
RETRY_STOPPING_S = 5  # about what a restart of the daemon takes

Record = Callable[[HeartbeatTarget, Heartbeat], Awaitable[None] | None]


class HeartbeatBody(msgspec.Struct):
    """The JSON of every answer."""

    success: bool
    message: str
    timestamp: str


_encoder = msgspec.json.Encoder()


@dataclass(frozen=True, slots=True, kw_only=True)
class HeartbeatAnswer:
    """The answer to one ``POST /heartbeat``.

    Attributes:
        status: the HTTP status.
        success: whether the heartbeat was accepted.
        message: the cause where it was not.
        timestamp: our time, RFC 3339.
        retry_after_s: for the Retry-After header, with status 503.
    """

    status: int
    success: bool
    message: str
    timestamp: str
    retry_after_s: int | None = None

    def body(self) -> bytes:
        """The JSON of the answer."""
        return _encoder.encode(HeartbeatBody(self.success, self.message, self.timestamp))


class _Waiting(NamedTuple):
    target: HeartbeatTarget
    beat: Heartbeat
    since_s: float


def _record(target: HeartbeatTarget, beat: Heartbeat) -> None:
    target.record(beat)


class HTTPHeartbeatReceiver(Service):
    """Accepts heartbeats that came over HTTP.

    Args:
        clock: monotonic seconds and the turns of the loop.
        wall: our wall clock.
        directory: who is who among processes and agents.
        workers: how many heartbeats are recorded in one turn of the loop, >= 1.
        queue_size: how many may wait, >= 1.
        cores: CPUs of this host.
        record: what a worker does with an accepted heartbeat; what it returns is awaited, and
            holds that worker.
    """

    name = "heartbeat-http"

    def __init__(
        self,
        clock: Clock,
        wall: WallClock,
        directory: AgentDirectory,
        *,
        workers: int = 10,
        queue_size: int = 1000,
        cores: int = 1,
        record: Record = _record,
    ) -> None:
        self._clock = clock
        self._wall = wall
        self._directory = directory
        self._workers = workers
        self._queue_size = queue_size
        self._reader = BeatReader(wall, cores)
        self._record = record
        self._queue: deque[_Waiting] = deque()
        self._held = 0  # workers whose record is under way
        self._turn: DelayedCall | None = None
        self._drained: Deferred[None] | None = None
        self._received_total = 0
        self._processed_total = 0
        self._errors_total = 0
        self._latency_total_s = 0.0
        self._last_received_at: float | None = None

    def submit(self, body: bytes) -> HeartbeatAnswer:
        """Checks one request and queues its heartbeat. Never raises, never waits.

        Args:
            body: the request's body, however long.

        Returns:
            200, 400, 403, 413 or 503.
        """
        self._received_total += 1
        self._last_received_at = self._wall()
        if not self.running:
            return self._refuse(503, "the daemon is stopping; try again", RETRY_STOPPING_S)
        if len(body) > MAX_LENGTH:
            return self._refuse(413, f"a heartbeat has {MAX_LENGTH} bytes at most")
        try:
            posted = self._reader.read_posted(body)
        except BadMessageError as error:
            return self._refuse(400, error.message)
        target = self._directory.find(posted.agent_id)
        if target is None:
            return self._refuse(400, f"there is no agent {posted.agent_id!r}")
        if len(self._queue) >= self._queue_size:
            # Before the pid is looked up: a full queue must be cheap to refuse.
            return self._refuse(503, "the heartbeat queue is full; try again", RETRY_FULL_S)
        if not target.owns(posted.pid):
            return self._refuse(403, f"process {posted.pid} is not agent {posted.agent_id}'s")
        self._queue.append(_Waiting(target, self._reader.heartbeat(posted), self._clock.seconds()))
        self._wake()
        return self.answer(200, "heartbeat accepted")

    def refuse(self, status: int, message: str) -> HeartbeatAnswer:
        """The answer, counted, to a request the edge refuses by itself (405, 413 before all is read)."""
        self._received_total += 1
        self._last_received_at = self._wall()
        return self._refuse(status, message)

    def answer(self, status: int, message: str, retry_after_s: int | None = None) -> HeartbeatAnswer:
        """An answer in the contract's form; counts nothing."""
        return HeartbeatAnswer(
            status=status,
            success=status == 200,
            message=message,
            timestamp=rfc3339(self._wall()),
            retry_after_s=retry_after_s,
        )

    def stats(self) -> HeartbeatStats:
        """``GET /heartbeat/stats``."""
        processed = self._processed_total
        return HeartbeatStats(
            total_received=self._received_total,
            total_processed=processed,
            total_errors=self._errors_total,
            last_received_time=None if self._last_received_at is None else rfc3339(self._last_received_at),
            average_latency=self._latency_total_s / processed if processed else 0.0,
            queue_depth=len(self._queue),
            queue_size=self._queue_size,
            workers=self._workers,
        )

    def stopService(self) -> Deferred[None]:
        """Refuses what comes from now on; fires when what was accepted is recorded.

        The caller keeps the deadline: cancelling gives up what still waits, counted and logged.
        """
        super().stopService()
        if self._idle:
            return succeed(None)
        if self._drained is None:
            self._drained = Deferred(self._give_up)
        return self._drained

    def _refuse(self, status: int, message: str, retry_after_s: int | None = None) -> HeartbeatAnswer:
        self._errors_total += 1
        return self.answer(status, message, retry_after_s)

    def _wake(self) -> None:
        """Sees to it that a free worker looks at the queue in the next turn of the loop."""
        if self._turn is None and self._queue and self._held < self._workers:
            self._turn = self._clock.callLater(0, self._work)

    def _work(self) -> None:
        """One turn: every free worker takes one heartbeat."""
        self._turn = None
        for _ in range(min(self._workers - self._held, len(self._queue))):
            waiting = self._queue.popleft()
            try:
                under_way = self._record(waiting.target, waiting.beat)
            except Exception:  # noqa: BLE001 - logged and counted; the next one goes on
                self._failed(waiting)
                continue
            if under_way is None:
                self._recorded(waiting)
            else:
                self._held += 1
                Deferred.fromCoroutine(self._finish(waiting, under_way)).addErrback(self._broken)
        self._wake()
        self._note_drained()

    async def _finish(self, waiting: _Waiting, under_way: Awaitable[None]) -> None:
        """One worker whose record takes longer than a call."""
        try:
            await under_way
        except Exception:  # noqa: BLE001 - logged and counted; the next one goes on
            self._failed(waiting)
        else:
            self._recorded(waiting)
        finally:
            self._held -= 1
            self._wake()
            self._note_drained()

    def _recorded(self, waiting: _Waiting) -> None:
        self._processed_total += 1
        self._latency_total_s += self._clock.seconds() - waiting.since_s

    def _failed(self, waiting: _Waiting) -> None:
        self._errors_total += 1
        log.failure("the heartbeat of {agent_id} could not be recorded", agent_id=waiting.target.agent_id)

    @property
    def _idle(self) -> bool:
        return not self._queue and not self._held

    def _note_drained(self) -> None:
        if self._drained is not None and self._idle:
            drained, self._drained = self._drained, None
            drained.callback(None)

    def _give_up(self, drained: Deferred[None]) -> None:
        lost = len(self._queue)
        self._queue.clear()
        if self._turn is not None:
            self._turn.cancel()
            self._turn = None
        self._errors_total += lost
        self._drained = None
        log.warn("{lost} accepted heartbeats were not recorded in time", lost=lost)
        drained.errback(CancelledError())

    def _broken(self, failure: Failure) -> None:
        log.failure("a heartbeat worker broke", failure=failure)
