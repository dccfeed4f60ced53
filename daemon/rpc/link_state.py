"""How the link to the Manager is doing: what ``/v1/node`` and ``/metrics`` show, and what is logged of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

from twisted.logger import Logger

from daemon.aio.backoff import backoff_delay, full_jitter
from daemon.aio.reactor import Clock
from daemon.aio.sleep import sleep
from daemon.errors import ErrorCode
from daemon.rpc.channel import ManagerCalls
from daemon.rpc.link_errors import CallFailed, FaultKind


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkState:
    """The link at one moment. Times are Unix seconds, None for never; counts outlive restarts.

    Attributes:
        address: of the Manager, empty: stand-alone.
        connected: registered, and no heartbeat has failed since.
        since: when ``connected`` became what it is.
        last_error: what does not work at the moment, with its D-code; empty when all does.
        queued: reports that wait.
        delivered: reports the Manager acknowledged.
        dropped: reports that the queue's bounds or the disk took.
        refused: reports the Manager refused for good.
        registered_at: the last registration that was accepted.
        certificate_not_after: end of the certificate in use.
        secure: whether the link speaks TLS.
        ip: our address towards the Manager.
        connects_total: registrations that began a session, since the daemon's start.
        failures_total: attempts to connect that failed, and sessions that broke.
        heartbeats_total: heartbeats that were acknowledged.
        storage_problem: why reports cannot be kept on disk; empty when they are.
        events_dropped: events and log entries that could not be kept until they were reported.
    """

    address: str = ""
    connected: bool = False
    since: float | None = None
    last_error: str = ""
    queued: int = 0
    delivered: int = 0
    dropped: int = 0
    refused: int = 0
    registered_at: float | None = None
    certificate_not_after: float | None = None
    secure: bool = False
    ip: str = ""
    connects_total: int = 0
    failures_total: int = 0
    heartbeats_total: int = 0
    storage_problem: str = ""
    events_dropped: int = 0


_WELL = {
    "link": "the Manager answers", "tls": "certificates are well", "reports": "reports are taken",
    "states": "states are taken", "events": "events are taken",
}


class Notes:
    """What does not work at the moment, by what it is; each fault is logged once, and its end.

    The parts are ``link``, ``tls``, ``reports``, ``states`` and ``events``.
    """

    log = Logger()

    def __init__(self) -> None:
        self._faults: dict[str, str] = {}

    @property
    def last_error(self) -> str:
        """The most important one; empty when all is well."""
        order = ("link", "tls", "reports", "states", "events")
        return next((self._faults[part] for part in order if part in self._faults), "")

    def failed(self, part: str, code: ErrorCode, message: str) -> None:
        """Something does not work. Repeats of the same are for developers."""
        text = f"{code.value} {message}"
        if self._faults.get(part) != text:
            self.log.warn("{text}", text=text, part=part, error_code=code.value)
        else:
            self.log.debug("again: {text}", text=text, part=part)
        self._faults[part] = text

    def well(self, part: str, *, say: bool = True) -> None:
        """It works."""
        if self._faults.pop(part, "") and say:
            self.log.info("the Manager link: {what} again", what=_WELL.get(part, f"{part} well"))

    def forget(self) -> None:
        """Another Manager."""
        self._faults.clear()


class Pauses:
    """Growing pauses between tries: doubled, capped, then drawn evenly from zero up (full jitter).

    Args:
        base_s: the first.
        max_s: the longest.
        random_unit: numbers in [0, 1).
    """

    def __init__(self, base_s: float, max_s: float, random_unit: Callable[[], float]) -> None:
        self._base_s = base_s
        self._max_s = max_s
        self._random_unit = random_unit
        self.attempts = 0

    def reset(self) -> None:
        """It worked."""
        self.attempts = 0

    def next_s(self, retry_after_s: float = 0.0) -> float:
        """Seconds until the next try.

        Args:
            retry_after_s: what the other side asked for; the jitter comes on top, so that not all come back
                at the same moment.
        """
        delay_s = backoff_delay(
            self.attempts, base_delay=self._base_s, max_delay=self._max_s, multiplier=2.0
        )
        self.attempts += 1
        return retry_after_s + full_jitter(delay_s, self._random_unit)


class Session(Protocol):
    """A link that is up, as those who report over it see it."""

    @property
    def calls(self) -> ManagerCalls:
        """The channel of the moment; it changes when certificates are renewed."""
        ...

    def doubt(self) -> None:
        """A call failed as it would on a dead connection: a heartbeat shall find out at once."""
        ...


class Attempts:
    """The tries of one part of the link: its pauses, what its failures mean for the link, its notes.

    Args:
        part: see :class:`Notes`.
        clock: waits.
        pauses: of this part alone.
        notes: of the link.
    """

    def __init__(self, part: str, clock: Clock, pauses: Pauses, notes: Notes) -> None:
        self._part = part
        self._clock = clock
        self._pauses = pauses
        self._notes = notes

    async def make(self, session: Session, call: Awaitable[None]) -> CallFailed | None:
        """One try; None when it succeeded. Every failure is noted, and a doubtful connection examined."""
        try:
            await call
        except CallFailed as failed:
            if failed.kind is FaultKind.NOT_OFFERED:
                self._notes.well(self._part)  # another Manager may lack it; nothing is wrong
            else:
                self._notes.failed(self._part, ErrorCode.MANAGER_REPORT, f"{self._part}: {failed.message}")
            if failed.kind in (FaultKind.AWAY, FaultKind.UNKNOWN_NODE):
                session.doubt()
            return failed
        self._pauses.reset()
        self._notes.well(self._part)
        return None

    async def pause(self, failed: CallFailed) -> None:
        """Until the next try."""
        await sleep(self._clock, self._pauses.next_s(failed.retry_after_s))


