"""Posts alerts to ``resources.webhook``: in order, one at a time, with patience, and with a bound.

A webhook that hangs, refuses or answers 500 delays nothing else: the queue here is all that waits. What is
lost is counted and said. That the webhook itself is ill is an event and a line of the log, never an alert:
an alert would have to go the same way.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from daemon.aio.reactor import Clock
from daemon.aio.sleep import sleep
from daemon.alerts.posting import Outcome, alert_json, judge, pause_s, without_secrets
from daemon.config.secrets import webhook_shown
from daemon.httpclient import HttpAnswer, HttpError
from daemon.interfaces import EventSink
from daemon.model.alert import Alert
from daemon.model.event import Severity

log = Logger()

QUEUE_MAX = 1000
POST_TIMEOUT_S = 10.0

_FAILING, _REFUSING, _OVERFLOWING = "failing", "refusing", "overflowing"


class Poster(Protocol):
    """Posts a body somewhere; :class:`daemon.httpclient.HttpClient` is the real one."""

    async def post(self, url: str, body: bytes, content_type: str, timeout_s: float) -> HttpAnswer:
        """One attempt, over after ``timeout_s`` seconds at most; cancelling it ends it at once.

        Raises:
            HttpError: no answer came.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookStats:
    """How the webhook is doing.

    Attributes:
        queued: alerts that wait, the one under way among them.
        delivered_total: alerts that were taken.
        dropped_total: alerts that the bound, another configuration or the daemon's end took.
        refused_total: alerts it refused for good.
        failures_total: attempts that failed and are made again.
        last_error: of the last attempt that failed or was refused since the last success; empty when it is
            well.
    """

    queued: int
    delivered_total: int
    dropped_total: int
    refused_total: int
    failures_total: int
    last_error: str


class Webhook(Service):
    """The service; an empty url means off. Used on the reactor's thread only.

    Args:
        clock: waits.
        poster: posts.
        events: hears when it begins to fail and when it recovers.
        node_id, hostname: who we are, for whoever receives many hosts' alerts.
        random_unit: for jitter.
    """

    def __init__(
        self, clock: Clock, poster: Poster, events: EventSink, *, node_id: str, hostname: str,
        random_unit: Callable[[], float],
    ) -> None:
        self._clock = clock
        self._poster = poster
        self._events = events
        self._node_id = node_id
        self._hostname = hostname
        self._random_unit = random_unit
        self._url = ""
        self._queue: deque[Alert] = deque()
        self._posting = False  # the head of the queue is on its way
        self._ended = False
        self._delivered = self._dropped = self._refused = self._failures = 0
        self._last_error = ""
        self._said: set[str] = set()  # what was announced since the last success
        self._working: Deferred[None] | None = None

    def stats(self) -> WebhookStats:
        """The counters at this moment."""
        return WebhookStats(
            queued=len(self._queue), delivered_total=self._delivered, dropped_total=self._dropped,
            refused_total=self._refused, failures_total=self._failures, last_error=self._last_error,
        )

    def apply(self, url: str) -> None:
        """Another url from now on; what waits goes there too. Empty: nothing is posted any more."""
        if url == self._url:
            return
        self._url = url
        self._last_error = ""
        self._said.clear()
        if not url:
            self._drop_all("the webhook was taken out of the configuration")
        if self._working is not None:
            self._working.cancel()  # a wait for the old one must not hold the new one
        self._begin()

    def take(self, alert: Alert) -> None:
        """Queues an alert; called for each that begins, rises or ends. Never blocks and never raises."""
        if not self._url:
            return
        if self._ended:
            self._dropped += 1
            return
        if len(self._queue) >= QUEUE_MAX:
            self._drop_oldest()
        self._queue.append(alert)
        self._begin()

    def startService(self) -> None:
        """Begins to post what waits."""
        super().startService()
        self._ended = False
        self._begin()

    def stopService(self) -> Deferred[None]:
        """Ends at once: the call under way is cancelled, what waits is counted as dropped and logged."""
        super().stopService()
        self._ended = True
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        working = self._working
        if working is not None:
            gone: Deferred[None] = Deferred()
            working.addBoth(lambda _ended: gone.callback(None))
            working.cancel()
            await gone
        self._drop_all("the daemon stops")

    def _drop_all(self, why: str) -> None:
        if self._queue:
            self._dropped += len(self._queue)
            log.warn("webhook: {count} alerts are dropped undelivered: {why}",
                     count=len(self._queue), why=why)
            self._queue.clear()

    def _drop_oldest(self) -> None:
        """Makes room; the alert on its way may still be taken, so the one behind it goes."""
        del self._queue[1 if self._posting else 0]
        self._dropped += 1
        self._tell(
            _OVERFLOWING,
            f"{QUEUE_MAX} alerts wait, so the oldest are dropped and counted; check the receiver",
        )

    # ------------------------------------------------------------------ work

    def _begin(self) -> None:
        if self.running and self._working is None and self._queue and self._url:
            self._working = work = Deferred.fromCoroutine(self._work(self._url))
            work.addBoth(self._rest)

    def _rest(self, result: Failure | None) -> None:
        self._working = None
        if isinstance(result, Failure) and not result.check(CancelledError):
            log.failure("webhook: posting broke off and begins again with the next alert", failure=result)
            return
        self._begin()

    def _serves(self, url: str) -> bool:
        return bool(self.running) and self._url == url

    async def _work(self, url: str) -> None:
        """Posts until nothing waits, or until ``url`` is no longer where to."""
        attempt = 0
        while self._queue and self._serves(url):
            alert = self._queue[0]
            pause = await self._post(url, alert, attempt)
            if not self._serves(url):
                return  # somebody took our cancellation for an answer
            if pause is None:
                attempt = 0
                self._queue.popleft()
            else:
                attempt += 1
                await sleep(self._clock, pause)

    async def _post(self, url: str, alert: Alert, attempt: int) -> float | None:
        """One attempt; seconds until the next one, None when this alert is done."""
        try:
            body = alert_json(alert, self._node_id, self._hostname)
        except (ValueError, OverflowError, OSError) as error:  # a clock of another age
            self._dropped += 1
            log.warn("webhook: alert {type} is dropped, for it cannot be written down: {error}",
                     type=alert.type, error=str(error))
            return None
        self._posting = True
        try:
            answer = await self._poster.post(url, body, "application/json", POST_TIMEOUT_S)
        except CancelledError:
            raise  # apply or stopService
        except HttpError as error:
            return self._failed(url, str(error), attempt, None)
        except Exception as error:  # noqa: BLE001 - logged; a fault of the client must not end the posting
            return self._failed(url, f"{type(error).__name__}: {error}", attempt, None)
        finally:
            self._posting = False
        outcome = judge(answer.status)
        if outcome is Outcome.AGAIN:
            return self._failed(url, f"it answered {answer.status}", attempt, answer.retry_after_s)
        if outcome is Outcome.DELIVERED:
            self._delivered += 1
            self._well()
        else:
            self._refused += 1
            self._last_error = f"it answered {answer.status}"
            self._tell(
                _REFUSING,
                f"{self._last_error} to alert {alert.type}, which is dropped and counted; "
                "correct resources.webhook or the receiver",
            )
        return None

    def _failed(self, url: str, cause: str, attempt: int, retry_after_s: float | None) -> float | None:
        """Notes a failed attempt; seconds until the next one."""
        if not self._serves(url):
            return None  # the failure is our own cancellation
        self._failures += 1
        self._last_error = without_secrets(cause, url)
        self._tell(
            _FAILING,
            f"{self._last_error}; alerts wait and are tried again with growing delays; check the receiver",
        )
        return pause_s(attempt, retry_after_s, self._random_unit)

    def _tell(self, kind: str, text: str) -> None:
        """Announces an illness once."""
        if kind not in self._said:
            self._said.add(kind)
            text = f"webhook {webhook_shown(self._url)}: {text}"
            log.warn("{text}", text=text)
            self._events.publish("webhook.failed", text, severity=Severity.WARN)

    def _well(self) -> None:
        self._last_error = ""
        if self._said:
            self._said.clear()
            text = f"webhook {webhook_shown(self._url)}: it takes alerts again"
            log.info("{text}", text=text)
            self._events.publish("webhook.recovered", text)
