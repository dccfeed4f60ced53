"""What the webhook says and how it takes an answer; pure, used by :class:`daemon.alerts.webhook.Webhook`."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from urllib.parse import urlsplit

import msgspec

from daemon.aio.backoff import backoff_delay, full_jitter
from daemon.config.secrets import REDACTED
from daemon.model.alert import Alert
from daemon.model.moment import rfc3339, rfc3339_or_none

BASE_DELAY_S = 1.0
MAX_DELAY_S = 300.0
RETRY_AFTER_MAX_S = 3600.0  # a receiver that asks for more is asked again after this
_SHORT = 4  # parts of a URL no longer than this hide nothing, and are found in every other sentence

_AGAIN = frozenset({408, 425, 429})  # of the 4xx; the others will not change their mind

_encode = msgspec.json.encode


class Outcome(Enum):
    """What an answer means for the alert that was posted."""

    DELIVERED = "delivered"
    REFUSED = "refused"
    AGAIN = "again"


def alert_json(alert: Alert, node_id: str, hostname: str) -> bytes:
    """The body of one post.

    Raises:
        ValueError, OverflowError, OSError: a time beyond the calendar.
    """
    return _encode({
        "agent_id": alert.agent_id, "type": alert.type, "current_value": alert.current_value,
        "threshold": alert.threshold, "timestamp": rfc3339(alert.timestamp),
        "cleared_at": rfc3339_or_none(alert.cleared_at), "severity": alert.severity.value,
        "message": alert.message, "node_id": node_id, "hostname": hostname,
    })


def judge(status: int) -> Outcome:
    """What a status means: 2xx is taken, 3xx (we follow none) and most 4xx are final, the rest may pass."""
    if 200 <= status < 300:
        return Outcome.DELIVERED
    if 300 <= status < 500 and status not in _AGAIN:
        return Outcome.REFUSED
    return Outcome.AGAIN


def pause_s(attempt: int, retry_after_s: float | None, random_unit: Callable[[], float]) -> float:
    """Seconds until the next try.

    Args:
        attempt: failed tries of this alert before this one.
        retry_after_s: what the receiver asked for; the jitter comes on top, for it asks many hosts at once.
        random_unit: a source of numbers in [0, 1).
    """
    delay_s = backoff_delay(attempt, base_delay=BASE_DELAY_S, max_delay=MAX_DELAY_S, multiplier=2.0)
    return min(retry_after_s or 0.0, RETRY_AFTER_MAX_S) + full_jitter(delay_s, random_unit)


def without_secrets(text: str, url: str) -> str:
    """``text`` about a call to ``url`` without the URL's user, password, path and query.

    An error's text may repeat what it failed on, and the path is the password of many chat services.
    """
    parts = urlsplit(url)
    user = parts.netloc.rpartition("@")[0]
    secrets = (user, f"{parts.path}?{parts.query}", parts.path, parts.query, *parts.path.split("/"))
    for secret in sorted(set(secrets), key=len, reverse=True):
        if len(secret) > _SHORT or (secret and secret == user):
            text = text.replace(secret, REDACTED)
    return text
