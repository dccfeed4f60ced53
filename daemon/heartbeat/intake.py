"""What becomes of the messages of one connection: recorded, answered, or refused, counted and told.

:mod:`daemon.heartbeat.connection` cuts them out of the stream and decides when they are read.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from twisted.logger import Logger

from daemon.errors import ErrorCode
from daemon.heartbeat import jsonrpc
from daemon.heartbeat.framing import MAX_LENGTH
from daemon.heartbeat.message import BadMessageError, BeatReader, Said
from daemon.heartbeat.notices import Notices
from daemon.heartbeat.speaker import Speaker
from daemon.heartbeat.stats import Reason, Tally
from daemon.interfaces import AgentDirectory, EventSink, HeartbeatTarget
from daemon.model.event import Severity
from daemon.model.heartbeat import Heartbeat
from daemon.model.moment import rfc3339

log = Logger()

_CAUSES = {
    Reason.MALFORMED: "not a JSON object",
    Reason.INVALID: "a field is missing, of the wrong type or out of range",
    Reason.TOO_LONG: f"longer than {MAX_LENGTH} bytes; the connection was closed",
    Reason.TRUNCATED: "the connection ended within a message",
    Reason.REQUEST: "not a JSON-RPC request we know",
    Reason.STRANGER: "the sending process belongs to no agent of ours; agents in another pid namespace "
    "need heartbeat.require_pid_match: false",
    Reason.FOREIGN_PID: "the pid in it is not a process of the sending agent",
    Reason.FOREIGN_AGENT: "the agent_id in it is not the sending agent's",
    Reason.UNNAMED: "the sending process is unknown and the message has no agent_id",
    Reason.UNKNOWN_AGENT: "no agent has the agent_id in it",
    Reason.INTERNAL: "it could not be recorded",
}
_IMPOSTURE = frozenset({Reason.STRANGER, Reason.FOREIGN_PID, Reason.FOREIGN_AGENT})


@dataclass(frozen=True, slots=True, kw_only=True)
class Books:
    """What the intakes of one receiver share.

    Attributes:
        directory: who is who.
        events: where an attempt to speak for another's agent is told.
        reader: decodes heartbeats, knows the wall clock.
        tally: the counters.
        notices: how often mistakes are logged.
    """

    directory: AgentDirectory
    events: EventSink
    reader: BeatReader
    tally: Tally
    notices: Notices


class Intake:
    """The messages of one connection. Nothing here raises.

    Args:
        books: shared by all connections.
        speaker: for whom this one may speak.
    """

    __slots__ = ("_books", "_speaker")

    def __init__(self, books: Books, speaker: Speaker) -> None:
        self._books = books
        self._speaker = speaker

    def take_lines(self, lines: bytes) -> bool:
        """The quick way: whole lines of bare heartbeats at once. False when it does not apply to them."""
        target = self._speaker.target()
        beats = None if target is None else self._books.reader.read_lines(lines)
        if target is None or beats is None:
            return False
        self._books.tally.received_total += len(beats)
        rest = iter(beats)
        while True:
            try:
                self._record_all(rest, target)
                return True
            except Exception:  # noqa: BLE001 - logged and counted; the other heartbeats go on
                self._broken()

    def take(self, message: bytes) -> bytes | None:
        """One message on its own, bare or JSON-RPC, good or bad; returns its answer, if it gets one."""
        self._books.tally.received_total += 1
        request = jsonrpc.read_request(message) if jsonrpc.MARKER in message else None
        try:
            if request is not None:
                return self._serve(request)
            try:
                said = self._books.reader.read(message)
            except BadMessageError as error:
                self._refuse(error.reason, error.message)
            else:
                self._deliver(said)
        except Exception:  # noqa: BLE001 - logged and counted; the connection goes on
            self._broken()
            if isinstance(request, jsonrpc.Request):
                return jsonrpc.failure(request.id, jsonrpc.INTERNAL_ERROR, "it could not be recorded")
        return None

    def spoiled(self, reason: Reason) -> None:
        """A message that never became whole: over-long, or cut off by the end of the connection."""
        self._books.tally.received_total += 1
        self._refuse(reason)

    def _record_all(self, beats: Iterator[Said], target: HeartbeatTarget) -> None:
        """The loop that has to be quick: it repeats BeatReader.heartbeat and _deliver in place."""
        speaker = self._speaker
        now, cpu_max = self._books.reader.wall(), self._books.reader.cpu_max
        agent_id, trusted, record = target.agent_id, speaker.trusted_pid, target.record
        accepted = 0
        try:
            for said in beats:
                pid = said.pid
                if pid != trusted or (said.agent_id and said.agent_id != agent_id):
                    self._deliver(said)
                    trusted = speaker.trusted_pid
                    continue
                cpu = said.cpu
                if cpu is not None and cpu > cpu_max:
                    cpu = cpu_max
                at = said.timestamp
                timestamp = -1.0 if at is None else at.timestamp()
                record(
                    Heartbeat(
                        pid=pid,
                        timestamp=timestamp if timestamp >= 0 else now,
                        version=said.version,
                        status=said.status,
                        cpu=cpu,
                        memory=said.memory,
                    )
                )
                accepted += 1
        finally:
            self._books.tally.accepted_total += accepted

    def _serve(self, request: jsonrpc.Request | jsonrpc.BadRequest) -> bytes | None:
        """Carries a request out and returns its answer, if it gets one."""
        if isinstance(request, jsonrpc.BadRequest):
            self._refuse(Reason.REQUEST, request.message)
            return request.answer
        if request.method == "heartbeat":
            try:
                said = self._books.reader.read(request.params)
            except BadMessageError as error:
                self._refuse(error.reason, error.message)
                return jsonrpc.failure(request.id, jsonrpc.INVALID_PARAMS, error.message)
            if (reason := self._deliver(said)) is not None:
                return jsonrpc.failure(
                    request.id, jsonrpc.REFUSED, f"refused: {_CAUSES[reason]}", ErrorCode.AGENT_HEALTH
                )
        return jsonrpc.success(request.id, rfc3339(self._books.reader.wall()))

    def _deliver(self, said: Said) -> Reason | None:
        """Records a heartbeat with the agent it is of; returns why not."""
        verdict = self._speaker.judge(said.pid, said.agent_id)
        if isinstance(verdict, Reason):
            self._refuse(verdict, claims=said.agent_id or "")
            return verdict
        verdict.record(self._books.reader.heartbeat(said))
        self._books.tally.accepted_total += 1
        return None

    def _refuse(self, reason: Reason, detail: str = "", *, claims: str = "") -> None:
        """Counts a refused message, and tells of it once per peer and minute."""
        books = self._books
        books.tally.count_error(reason)
        who = self._speaker.peer.credentials
        pid, uid = who.pid, who.uid
        kept_back = books.notices.due((pid, uid))
        if kept_back is None:
            return
        log.warn(
            "heartbeat refused ({reason}): {cause}{detail}; peer pid {pid}, uid {uid}; "
            "{kept_back} earlier ones not logged",
            reason=reason.value, cause=_CAUSES[reason], detail=detail and f" ({detail})", pid=pid, uid=uid,
            kept_back=kept_back,
        )
        if reason in _IMPOSTURE:
            known = "" if books.directory.find(claims) is None else claims
            books.events.publish(
                "heartbeat.refused",
                f"A heartbeat of process {pid} (uid {uid}) was refused: {_CAUSES[reason]}",
                severity=Severity.WARN,
                agent_id=known,
                data={"reason": reason.value, "pid": pid, "uid": uid},
            )

    def _broken(self) -> None:
        self._books.tally.count_error(Reason.INTERNAL)
        if self._books.notices.due("internal") is not None:
            log.failure("a heartbeat could not be recorded")
