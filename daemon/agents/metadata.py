"""What the daemon remembers of an agent, one file each: ``work_dir/state/agents/{id}.json``.

The operator's intent, the identity of the running process and the restart history live here and
outlive the daemon. Never in the agent's own folder: the agent must not be able to edit them.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, cast

import msgspec
from msgspec.structs import replace
from twisted.internet.defer import Deferred
from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.logger import Logger
from twisted.python.failure import Failure

from daemon import faults
from daemon.aio.reactor import Clock, DelayedCall
from daemon.aio.threads import Threads
from daemon.durable import snapshot
from daemon.durable.atomic import read_bounded, remove_stale_temporaries, set_aside, write_atomic
from daemon.errors import StorageError
from daemon.interfaces import AlertSink, EventSink
from daemon.model.agent import Identity, LastExit, Wanted
from daemon.model.event import Severity

SCHEMA = 1
PID_LIMIT = 2**31  # pid_t
YEAR_10000 = 253_402_300_800.0
_TOKEN = re.compile(r"[0-9a-f]{32}")
FILE_MAX = 256 * 1024  # bytes; a real one is under 2 KiB
SAVE_WITHIN_S = 0.1  # identity is on disk this soon after a spawn, and the disk's own time
RETRY_S = 5.0  # after a failed save
SAVE_DEADLINE_S = 30.0
STOP_PATIENCE_S = 3.0  # with a disk that does not answer when the daemon leaves
LANE = "metadata"
ALERT = "storage"
BEFORE = "what was kept before the update of the daemon"


class AgentMetadata(msgspec.Struct, frozen=True, kw_only=True):
    """One agent's file. Times ending in ``_at`` are wall time, in ``_mono`` monotonic within ``boot_id``.

    Attributes:
        wanted: the operator's intent.
        mark: the agent's token, made once per agent and work_dir.
        run: the spawn the identity belongs to.
        identity: the leader's process, None when none runs.
        spec_hash: what that process was started with.
        stop_signal, stop_timeout: as configured at the last spawn, for an agent that has left the file.
        exits_in_a_row: the back-off's n.
        restart_count: automatic restarts since the last reset.
        restarts_mono: when the automatic restarts of the last hour were carried out.
        next_try_mono: when the next try comes, None for none.
        gave_up: ``failed``: ``max_retries`` were used up.
        settled: it ended and the policy leaves it so.
        restarting: its process is being ended for a restart; a daemon that dies meanwhile leaves that to the
            next one.
        boot_id: the boot in which the ``_mono`` fields and ``settled`` mean something.
        ever_heartbeat: whether a heartbeat ever came; arms the heartbeat check.
        version_key: the binary's device, inode, size and mtime when ``version`` was asked for.
    """

    schema: int = SCHEMA
    id: str
    type: str = "custom"
    wanted: Wanted = Wanted.RUNNING
    mark: str = ""
    run: str = ""
    identity: Identity | None = None
    spec_hash: str = ""
    stop_signal: str = "TERM"
    stop_timeout: float = 30.0
    started_at: float = 0.0
    created_at: float = 0.0
    updated_at: float = 0.0
    exits_in_a_row: int = 0
    restart_count: int = 0
    lifetime_restarts: int = 0
    last_restart_at: float = 0.0
    restarts_mono: tuple[float, ...] = ()
    next_try_mono: float | None = None
    gave_up: bool = False
    settled: bool = False
    restarting: bool = False
    boot_id: str = ""
    last_exit: LastExit | None = None
    ever_heartbeat: bool = False
    version: str = ""
    version_key: str = ""


_DECODER = msgspec.json.Decoder(AgentMetadata)


class _AnySchema(msgspec.Struct):
    """What is looked at before anything else of a file."""

    schema: Any = SCHEMA


def _check_ranges(metadata: AgentMetadata) -> None:
    """Raises ValueError for what JSON can say and no agent can be."""
    identity, last = metadata.identity, metadata.last_exit
    if identity is not None and not (abs(identity.pid) < PID_LIMIT and abs(identity.start_ticks) < 2**63):
        raise ValueError("its identity is no process")
    times = (metadata.started_at, metadata.created_at, metadata.updated_at, metadata.last_restart_at,
             last.at if last is not None else 0.0)
    if not all(0.0 <= at < YEAR_10000 for at in times):
        raise ValueError("a time in it is not between 1970 and 9999")
    counts = (metadata.exits_in_a_row, metadata.restart_count, metadata.lifetime_restarts)
    if not all(0 <= count < 2**53 for count in counts):
        raise ValueError("a count in it is out of range")
    if metadata.mark and not _TOKEN.fullmatch(metadata.mark):
        raise ValueError("its mark is not 32 hex digits")


def _decode(agent_id: str, data: bytes) -> AgentMetadata:
    """Raises what :meth:`FileMetadataStore.load_all` sets a file aside for."""
    metadata = _DECODER.decode(data)
    if metadata.id != agent_id:
        raise ValueError(f"it names agent {metadata.id!r}")
    _check_ranges(metadata)
    return metadata


def newer_schema(data: bytes) -> bool:
    """Whether a newer daemon wrote the file; what is no JSON object was written by nobody."""
    try:
        schema = msgspec.json.decode(data, type=_AnySchema).schema
    except (ValueError, RecursionError, msgspec.MsgspecError):
        return False
    return isinstance(schema, int) and schema > SCHEMA


def lenient(agent_id: str, data: bytes, before: AgentMetadata | None) -> AgentMetadata:
    """The metadata in a newer daemon's file: each field we know where it is valid by itself, else that of
    ``before``, else the default.

    Raises:
        ValueError: it is another agent's.
    """
    found = msgspec.json.decode(data)
    if found.get("id") != agent_id:
        raise ValueError(f"it names agent {found.get('id')!r}")
    taken = before if before is not None else AgentMetadata(id=agent_id)
    for field in msgspec.structs.fields(AgentMetadata):
        if field.name in ("schema", "id") or field.name not in found:
            continue
        try:
            changed = replace(taken, **{field.name: msgspec.convert(found[field.name], field.type)})
            _check_ranges(changed)
        except (ValueError, msgspec.MsgspecError):
            continue
        taken = changed
    return replace(taken, schema=SCHEMA)


class UnsavedError(Exception):
    """Some files of a batch could not be written; the text is the first one's cause."""

    def __init__(self, unsaved: dict[str, Exception]) -> None:
        super().__init__(str(next(iter(unsaved.values()))))
        self.unsaved = unsaved


class FileMetadataStore:
    """Loads and saves the files.

    Saves are coalesced for 100 ms and run off the reactor; a save that fails is reported once, kept and
    tried again, and never holds an agent up.

    Args:
        directory: ``work_dir/state/agents``; made by the caller.
        clock: for coalescing.
        threads: for the writing.
        events: hears of corrupt files and failing disks.
        alerts: of failing disks, as long as they fail.

    Attributes:
        write_failures_total: saves that failed since the start.
    """

    log = Logger()

    def __init__(
        self, directory: Path, clock: Clock, threads: Threads, events: EventSink, alerts: AlertSink
    ) -> None:
        self._directory = directory
        self._clock = clock
        self._threads = threads
        self._events = events
        self._alerts = alerts
        self._dirty: dict[str, AgentMetadata | None] = {}
        self._newest: dict[str, AgentMetadata | None] = {}  # so that a retry never stores the older one
        self._timer: DelayedCall | None = None
        self._writing = 0
        self._idle: list[Deferred[None]] = []
        self.write_failures_total = 0
        self.failing = ""

    def load_all(self) -> dict[str, AgentMetadata]:
        """Reads every file; blocks, for the start only. A corrupt one is set aside and costs its own history.

        Raises:
            StorageError: the directory itself cannot be read.
        """
        found: dict[str, AgentMetadata] = {}
        try:
            remove_stale_temporaries(self._directory)
            paths = sorted(self._directory.glob("*.json"))
        except OSError as error:
            raise StorageError(
                f"cannot read {self._directory}: {error.strerror}; make it readable for the daemon's user"
            ) from error
        for path in paths:
            metadata = self._load(path)
            if metadata is not None:
                found[metadata.id] = metadata
        return found

    def _load(self, path: Path) -> AgentMetadata | None:
        try:
            data = read_bounded(path, FILE_MAX)
            if newer_schema(data):
                return self._from_newer(path, data)
            return _decode(path.stem, data)
        except (OSError, ValueError, RecursionError, msgspec.MsgspecError, StorageError) as error:
            before = self._before(path)
            self._set_aside(path, error, "its history begins anew" if before is None else BEFORE)
            if before is not None:
                self.save_soon(before)
            return before

    def _before(self, path: Path) -> AgentMetadata | None:
        """The copy that was kept before an update of the daemon which is not settled yet."""
        copy = snapshot.kept(self._directory, path.name)
        if copy is None:
            return None
        try:
            return _decode(path.stem, read_bounded(copy, FILE_MAX))
        except (OSError, ValueError, RecursionError, msgspec.MsgspecError, StorageError) as error:
            self.log.warn("D1004 {copy} is unreadable ({error})",
                          copy=str(copy), error=str(error), error_code="D1004")
            return None

    def _from_newer(self, path: Path, data: bytes) -> AgentMetadata:
        """A newer daemon wrote it, and was rolled back: its agent runs, and must not be forgotten.

        The file stays as it is until ours is saved in its place, and under another name for ever.

        Raises:
            ValueError: it is another agent's.
        """
        before = self._before(path)
        metadata = lenient(path.stem, data, before)
        kept = path.with_name(f"{path.name}.newer")
        try:
            write_atomic(kept, data)
        except StorageError as error:
            self.log.warn("{error}; it is lost with the next save", error=str(error), error_code="D1004")
        message = (
            f"the metadata of agent {path.stem} is of a newer daemon; what this one knows of it is used"
            f"{f', for the rest {BEFORE}' if before is not None else ''}; kept as {kept}"
        )
        self.log.warn("D1004 {message}", message=message, error_code="D1004", agent_id=path.stem)
        self._events.publish(
            "agent.metadata_newer", message, severity=Severity.WARN, agent_id=path.stem,
            data={"code": "D1004", "kept": str(kept)},
        )
        self.save_soon(metadata)
        return metadata

    def _set_aside(self, path: Path, error: Exception, then: str) -> None:
        try:
            kept = str(set_aside(path))
        except (OSError, StorageError) as why_not:
            kept = f"its place ({why_not})"
        message = (
            f"the metadata of agent {path.stem} is unreadable ({error}); kept as {kept}, {then}"
        )
        self.log.error("D1004 {message}", message=message, error_code="D1004", agent_id=path.stem)
        self._events.publish(
            "agent.metadata_corrupt", message, severity=Severity.ERROR, agent_id=path.stem,
            data={"code": "D1004", "kept": kept},
        )

    def save_soon(self, metadata: AgentMetadata) -> None:
        """Has it on disk within 200 ms."""
        self._dirty[metadata.id] = self._newest[metadata.id] = metadata
        self._schedule(SAVE_WITHIN_S)

    def forget(self, agent_id: str) -> None:
        """Removes an agent's file soon."""
        self._dirty[agent_id] = self._newest[agent_id] = None
        self._schedule(SAVE_WITHIN_S)

    def save_now(self, metadata: AgentMetadata) -> Deferred[None]:
        """Saves at once; for a change of intent.

        Returns:
            fires when it is on disk; fails with StorageError (D1004) when it cannot be stored.
        """
        self._dirty.pop(metadata.id, None)
        self._newest[metadata.id] = metadata
        return self._write({metadata.id: metadata})

    def _schedule(self, delay_s: float) -> None:
        if self._timer is None:
            self._timer = self._clock.callLater(delay_s, self._flush_due)

    def _flush_due(self) -> None:
        self._timer = None
        batch, self._dirty = self._dirty, {}
        if batch:
            self._write(batch).addErrback(lambda _reported: None)  # _failed has reported and re-queued it

    def _write(self, batch: dict[str, AgentMetadata | None]) -> Deferred[None]:
        self._writing += 1
        done = self._threads.run(LANE, SAVE_DEADLINE_S, self._write_files, batch)
        done.addCallbacks(self._written, self._failed, callbackArgs=(batch,), errbackArgs=(batch,))
        done.addBoth(self._rest)
        return done

    def _write_files(self, batch: dict[str, AgentMetadata | None]) -> None:
        """On the lane's thread; one file that cannot be written does not hold the others up."""
        unsaved: dict[str, Exception] = {}
        for agent_id, metadata in batch.items():
            path = self._directory / f"{agent_id}.json"
            try:
                faults.hit("metadata.save")
                if metadata is None:
                    path.unlink(missing_ok=True)
                else:
                    write_atomic(path, msgspec.json.encode(metadata))
            except (OSError, StorageError) as error:
                unsaved[agent_id] = error
        if unsaved:
            raise UnsavedError(unsaved)

    def _written(self, _result: None, batch: dict[str, AgentMetadata | None]) -> None:
        for agent_id, metadata in batch.items():
            if agent_id in self._newest and self._newest[agent_id] is metadata:
                del self._newest[agent_id]  # nothing can overtake it: agents that left would stay for ever
        if self.failing:
            self.failing = ""
            self._events.publish("storage.recovered", "the metadata of agents is saved again")
            self._alerts.clear(ALERT, message="the metadata of agents is saved again")

    def _failed(self, failure: Failure, batch: dict[str, AgentMetadata | None]) -> Failure:
        self.write_failures_total += 1
        error = failure.value
        unsaved = tuple(error.unsaved) if isinstance(error, UnsavedError) else tuple(batch)
        for agent_id in unsaved:
            if agent_id in self._newest:  # else a newer one is on disk already
                self._dirty.setdefault(agent_id, self._newest[agent_id])
        self._schedule(RETRY_S)
        cause = failure.getErrorMessage() or "the disk did not answer in time"
        if not self.failing:
            message = (
                f"the metadata of agents cannot be saved in {self._directory} ({cause}); agents run on, "
                f"saving is tried again every {RETRY_S:g} s: free space or mend the disk"
            )
            self.log.error("D1004 {message}", message=message, error_code="D1004")
            self._events.publish(
                "storage.failed", message, severity=Severity.ERROR, data={"code": "D1004", "cause": cause}
            )
            self._alerts.raise_alert(ALERT, message, severity=Severity.ERROR)
        self.failing = cause
        return Failure(StorageError(f"cannot save {', '.join(unsaved)} in {self._directory}: {cause}"))

    def _rest(self, result: Any) -> Any:
        self._writing -= 1
        if not self._writing:
            idle, self._idle = self._idle, []
            for waiter in idle:
                if not waiter.called:
                    waiter.callback(None)
        return result

    async def stop(self) -> None:
        """Writes what is left, once, and waits for it."""
        self._cancel_timer()
        batch, self._dirty = self._dirty, {}
        if batch:
            last = self._write(batch)
            last.addTimeout(STOP_PATIENCE_S, cast(Any, self._clock))
            try:
                await last
            except (StorageError, DeferredTimeout) as error:
                self.log.error("{error}; the last changes of {ids} are lost",
                               error=str(error), ids=", ".join(batch), error_code="D1004")
        if self._writing:
            waiter: Deferred[None] = Deferred()
            self._idle.append(waiter)
            waiter.addTimeout(STOP_PATIENCE_S, cast(Any, self._clock))
            try:
                await waiter
            except DeferredTimeout:
                self.log.error("D1004 the disk does not answer; leaving without it", error_code="D1004")
        self._cancel_timer()  # a save that failed just now has set it again

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
