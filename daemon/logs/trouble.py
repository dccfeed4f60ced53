"""What operators hear of logs: alerts that stand while the disk refuses, events for lines that are gone."""

from __future__ import annotations

from types import MappingProxyType

from twisted.logger import Logger

from daemon.aio.reactor import Clock
from daemon.interfaces import AlertSink, EventSink
from daemon.logs.agent_log import Look
from daemon.logs.book import WELL, Illness, LogBook
from daemon.logs.rotation import Outcome
from daemon.model.event import Severity

log = Logger()

ALERT = "log_storage"
_NOW_WHAT = {
    Illness.UNMENDED: "it is tried again",
    Illness.UNSEEN: "it is tried again",
    Illness.UNROTATED: "it grows on, and rotation is tried again",
    Illness.UNBOUNDED: "old ones stay, and it is tried again",
}
_OVER = {
    Illness.UNMENDED: "what an earlier daemon left of its log is mended",
    Illness.UNSEEN: "its log can be looked at again",
    Illness.UNROTATED: "its log is rotated again",
    Illness.DROPPING: "its log is rotated again",
    Illness.UNBOUNDED: "its rotated files are within their bounds again",
}


class LogTrouble:
    """One alert for each agent, for as long as anything is wrong with its log.

    Args:
        clock: when the disk is asked again.
        events, alerts: the daemon's.
    """

    def __init__(self, clock: Clock, events: EventSink, alerts: AlertSink) -> None:
        self._clock = clock
        self._events = events
        self._alerts = alerts

    def failed(self, book: LogBook, illness: Illness, error: Exception) -> None:
        """The disk refused or did not answer; it is asked again later."""
        book.postpone(self._clock.seconds())
        cause = (error.strerror if isinstance(error, OSError) else None) or str(error)
        self._ill(
            book, illness, f"agent {book.agent_id}: {illness.value}: {cause}; {_NOW_WHAT[illness]}; "
            f"check the disk of {book.log.folder}",
        )

    def _ill(self, book: LogBook, illness: Illness, text: str) -> None:
        if illness not in book.ills:
            log.error("D1004 {text}", text=text, error_code="D1004", agent_id=book.agent_id)
        book.ills = MappingProxyType({**book.ills, illness: text})
        self._alerts.raise_alert(ALERT, text, agent_id=book.agent_id, severity=Severity.ERROR)

    def over(self, book: LogBook, *illnesses: Illness, how: str = "") -> bool:
        """These have ended, where they stood.

        Args:
            how: said of it, where there is more to say than that.

        Returns:
            whether any stood.
        """
        ended = [illness for illness in illnesses if illness in book.ills]
        if not ended:
            return False
        left = {illness: text for illness, text in book.ills.items() if illness not in ended}
        text = how or _OVER[ended[-1]]
        log.info("agent {agent_id}: {text}", text=text, agent_id=book.agent_id)
        if left:
            book.ills = MappingProxyType(left)
            self._alerts.raise_alert(
                ALERT, list(left.values())[-1], agent_id=book.agent_id, severity=Severity.ERROR
            )
        else:
            book.ills = WELL
            self._alerts.clear(ALERT, agent_id=book.agent_id, message=text)
        if not book.refused:
            book.forgive()
        return True

    def forget(self, book: LogBook) -> None:
        """It is under care no more."""
        book.ills = WELL
        self._alerts.clear(ALERT, agent_id=book.agent_id)

    def truncated(self, book: LogBook, look: Look) -> None:
        """Somebody else made it shorter, replaced or removed it."""
        if look.inode:
            text = (
                f"agent {book.agent_id}: its log was truncated or replaced by somebody else, perhaps by the "
                "agent itself (echo > /dev/stderr does that; >> does not); lines may be lost"
            )
        else:
            text = (
                f"agent {book.agent_id}: its log file was removed while it writes; what it writes is lost "
                "until the agent is restarted"
            )
        log.warn("{text}", text=text, agent_id=book.agent_id)
        self._events.publish(
            "agent.log_truncated", text, severity=Severity.WARN, agent_id=book.agent_id,
            data={"size": look.size},
        )

    def dropped(self, book: LogBook, outcome: Outcome) -> None:
        """Lines went because there was no room to keep them."""
        text = (
            f"agent {book.agent_id}: no room to keep its log: {outcome.dropped_lines} lines "
            f"({outcome.dropped_bytes} bytes) are dropped; free space on the filesystem of work_dir"
        )
        self._events.publish(
            "agent.log_dropped", text, severity=Severity.ERROR, agent_id=book.agent_id,
            data={"code": "D1004", "bytes": outcome.dropped_bytes, "lines": outcome.dropped_lines},
        )
        self._ill(book, Illness.DROPPING, text)
