"""What is told of an update: log lines and events for each thing worth it, an alert for the worst."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from twisted.logger import Logger, LogLevel

from daemon.errors import DaemonError
from daemon.interfaces import AlertSink, EventSink
from daemon.model.event import Severity
from daemon.model.update import DAEMON, UpdateState
from daemon.updater.download.urls import parse_url
from daemon.updater.record import UpdateRecord

BROKEN_ALERT = "update_broken"
EVIDENCE_MAX = 64 * 1024  # bytes as JSON
TOO_LARGE = "(too large to keep)"
_LEVELS = {Severity.INFO: LogLevel.info, Severity.WARN: LogLevel.warn, Severity.ERROR: LogLevel.error}


class Teller:
    """Tells of any update.

    Args:
        events: where events go.
        alerts: where a target that is left broken stands until an update of it succeeds.
    """

    log = Logger()

    def __init__(self, events: EventSink, alerts: AlertSink) -> None:
        self._events = events
        self._alerts = alerts

    def accepted(self, record: UpdateRecord) -> None:
        """Somebody asked for it; of the URL without what may be secret in it."""
        url = parse_url(record.download_url).shown if record.download_url else ""
        what = "a roll-back" if record.rollback else "an update"
        told = f"{what} of {record.target} to {record.version} was asked for by {record.peer}"
        self.log.info("{told}", told=told, update_id=record.id)
        self._events.publish(
            "update.accepted", told, agent_id=_agent_of(record),
            data={
                "update_id": record.id, "component": record.component, "version": record.version,
                "peer": record.peer, "url": url,
            },
        )

    def say(
        self, record: UpdateRecord, type: str, text: str, severity: Severity = Severity.INFO, **data: Any
    ) -> None:
        """One thing.

        Args:
            record: the update, as it stands.
            type: of the event.
            text: goes behind "update of TARGET to VERSION: ".
            data: of the event, besides what each has.
        """
        told = f"update of {record.target} to {record.version or 'the version before'}: {text}"
        self.log.emit(_LEVELS[severity], "{told}", told=told, update_id=record.id, error_code=record.code)
        self._events.publish(
            type, told, severity=severity, agent_id=_agent_of(record), data=facts_of(record) | data
        )

    def end(self, record: UpdateRecord) -> None:
        """What it came to."""
        took_s = max(0.0, record.finished_at - record.started_at)
        match record.state:
            case UpdateState.SUCCEEDED:
                self._alerts.clear(
                    BROKEN_ALERT, agent_id=_agent_of(record), message=f"{record.version} runs"
                )
                before = f" (before: {record.old_version})" if record.old_version else ""
                runs = f"{record.version or 'it'} runs, proven after {took_s:.0f} s{before}"
                self.say(record, "update.succeeded", runs)
            case UpdateState.BROKEN:
                text = f"update {record.id} of {record.target}: {record.error}"
                self._alerts.raise_alert(
                    BROKEN_ALERT, text, agent_id=_agent_of(record), severity=Severity.ERROR
                )
                self.say(record, "update.broken", record.error, Severity.ERROR)
            case UpdateState.ROLLED_BACK:
                old = record.old_version or "the version before"
                self.say(record, "update.rolled_back", f"{record.error}; {old} runs again", Severity.ERROR)
            case UpdateState.CANCELLED:
                self.say(record, "update.cancelled", record.error)
            case _:
                self.say(record, "update.failed", f"{record.error}; nothing was changed", Severity.ERROR)


def _agent_of(record: UpdateRecord) -> str:
    return record.target if record.target != DAEMON else ""


def facts_of(record: UpdateRecord) -> dict[str, Any]:
    """What each event tells of an update."""
    return {
        "update_id": record.id, "component": record.component, "version": record.version,
        "old_version": record.old_version, "step": record.step.value, "state": record.state.value,
        "code": record.code, "rolled_back": record.rolled_back,
    }


def evidence_of(error: Exception) -> Mapping[str, Any]:
    """What an error brings along; empty for nothing."""
    found = error.details.get("evidence", {}) if isinstance(error, DaemonError) else {}
    return found if isinstance(found, Mapping) else {}


def without(proof: Mapping[str, Any], known: Mapping[str, Any]) -> dict[str, Any]:
    """What proves a roll-back, without what the failure has told already."""
    return {name: value for name, value in proof.items() if not (known and value == known)}


def bounded(evidence: Mapping[str, Any]) -> dict[str, Any]:
    """Evidence as plain data of bounded size: the largest entries go first, and their names stay."""
    plain: dict[str, Any] = msgspec.to_builtins(dict(evidence), enc_hook=str)
    while len(msgspec.json.encode(plain)) > EVIDENCE_MAX:
        largest = max(plain, key=lambda name: len(msgspec.json.encode(plain[name])))
        if plain[largest] == TOO_LARGE:
            return {}
        plain[largest] = TOO_LARGE
    return plain
