"""What is remembered of calls: a number of each, an event of those that change something.

Reads, heartbeats and health checks come every few seconds for ever: they are counted by method and code and
leave no line. OperateAgent and PushUpdate are events of the journal, whatever came of them; a caller that
floods the daemon with them is cut to a number per minute, and what was left out is counted and told. Callers
that were refused are told of once per caller and minute.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from twisted.logger import Logger

from daemon.aio.reactor import Clock
from daemon.interfaces import EventSink
from daemon.model.event import Severity
from daemon.rpc.status import plain

WINDOW_S = 60.0
EVENTS_PER_MINUTE = 60  # per caller
CALLERS_MAX = 1024  # remembered at a time
_TEXT_MAX = 300  # characters of an error in an event


@dataclass(frozen=True, slots=True, kw_only=True)
class CallRecord:
    """One call that is over.

    Attributes:
        peer: who called.
        method: of DaemonService.
        agent: the agent or component it was about, empty for none.
        code: the status code's name.
        error: the message the caller got, empty for success.
        duration_s: from the request to the answer.
    """

    peer: str
    method: str
    agent: str
    code: str
    error: str
    duration_s: float


class PerMinute:
    """So many per key and minute; what is beyond is counted, and told when the next one passes."""

    def __init__(self, most: int, keys_max: int = CALLERS_MAX) -> None:
        self._most = most
        self._keys_max = keys_max
        self._windows: dict[str, list[float]] = {}  # key -> [begin of the window, passed, left out]

    def take(self, key: str, now_s: float) -> int | None:
        """None: one too many. Else how many were left out since the last one that passed."""
        window = self._windows.get(key)
        if window is not None and now_s - window[0] < WINDOW_S:
            if window[1] >= self._most:
                window[2] += 1
                return None
            window[1] += 1
            return 0
        left_out = int(window[2]) if window is not None else 0
        self._windows.pop(key, None)
        while len(self._windows) >= self._keys_max:
            self._windows.pop(next(iter(self._windows)))  # the oldest window
        self._windows[key] = [now_s, 1, 0]
        return left_out


class CallCounts:
    """Calls by method and code; any thread may count."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._calls: Counter[tuple[str, str]] = Counter()

    def add(self, method: str, code: str) -> None:
        """One call is over."""
        with self._lock:
            self._calls[method, code] += 1

    def by_method_and_code(self) -> Mapping[tuple[str, str], int]:
        """A copy."""
        with self._lock:
            return dict(self._calls)


class Audit:
    """Writes records down; on the reactor's thread only.

    Args:
        clock: monotonic time.
        events: the journal.
    """

    log = Logger()

    def __init__(self, clock: Clock, events: EventSink) -> None:
        self.left_out_total = 0
        self._clock = clock
        self._events = events
        self._records = PerMinute(EVENTS_PER_MINUTE)
        self._refusals = PerMinute(1)

    def record(self, call: CallRecord) -> None:
        """A call that may have changed something becomes an event."""
        left_out = self._records.take(call.peer, self._clock.seconds())
        if left_out is None:
            self.left_out_total += 1
            return
        about = f" of {call.agent}" if call.agent else ""
        more = f" ({left_out} more calls of it were not written down)" if left_out else ""
        error = plain(call.error, _TEXT_MAX)
        self._events.publish(
            "grpc.call",
            f"{call.method}{about} by {call.peer}: {call.code}{f', {error}' if error else ''}{more}",
            severity=Severity.INFO if call.code == "OK" else Severity.WARN,
            data={
                "peer": call.peer, "method": call.method, "agent": call.agent, "code": call.code,
                "error": error, "duration_s": round(call.duration_s, 3),
            },
        )

    def refused(self, peer: str, method: str, why: str) -> None:
        """A caller was turned away: one line per caller and minute."""
        left_out = self._refusals.take(peer, self._clock.seconds())
        if left_out is None:
            return
        self.log.warn(
            "gRPC: {method} by {peer} was refused: {why}{more}",
            method=method, peer=peer, why=plain(why, _TEXT_MAX),
            more=f" ({left_out} more since the last such line)" if left_out else "",
        )

    def note(self, peer: str, method: str, what: str) -> None:
        """What a caller told us and we do not keep: one line per caller, method and minute."""
        if self._refusals.take(f"{method} {peer}", self._clock.seconds()) is not None:
            self.log.info(
                "gRPC: {method} by {peer}: {what}", method=method, peer=peer, what=plain(what, _TEXT_MAX)
            )
