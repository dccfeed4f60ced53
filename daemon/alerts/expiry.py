"""When a certificate's end is worth an alert, and in which words."""

from __future__ import annotations

from datetime import UTC, datetime

from daemon.interfaces import AlertSink
from daemon.model.event import Severity

EXPIRY_ALERT = "certificate_expiry"
AHEAD_S = 30 * 86400.0
CHECK_EVERY_S = 86400.0
DAY_S = 86400.0


def tell_expiry(
    alerts: AlertSink, not_after: float, now: float, *, where: str, type: str = EXPIRY_ALERT
) -> None:
    """Raises or clears the alert about a certificate.

    Args:
        not_after: its end, Unix seconds.
        now: likewise.
        where: the configuration's section it is of.
        type: of the alert; a second certificate needs another.
    """
    left_s = not_after - now
    if left_s > AHEAD_S:
        alerts.clear(type, message="the certificate is renewed")
        return
    ends = f"{datetime.fromtimestamp(not_after, UTC):%Y-%m-%d %H:%M} UTC"
    if left_s <= 0:
        alerts.raise_alert(
            type, f"the certificate of {where} expired at {ends}: new connections fail; renew its files",
            severity=Severity.ERROR, current_value=left_s / DAY_S, threshold=0.0,
        )
    else:
        alerts.raise_alert(
            type, f"the certificate of {where} expires at {ends}; renew its files, no restart is needed",
            current_value=left_s / DAY_S, threshold=AHEAD_S / DAY_S,
        )
