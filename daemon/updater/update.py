"""One update, from its first step to its last: each is written down before it is taken.

What follows a failure is decided in :mod:`daemon.updater.policy`, what a step does in the intake and the
target; here is the order of things, and that nothing is left half done.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import msgspec
from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger

from daemon.aio.threads import LaneBusy, LaneTimeout, Threads
from daemon.config.schema import UpdateConfig
from daemon.errors import (
    DaemonError,
    RequestError,
    RequestFault,
    StorageError,
    UpdateApplyError,
    UpdateRollbackError,
)
from daemon.interfaces import WallClock
from daemon.model.event import Severity
from daemon.model.update import UpdateState, UpdateStep
from daemon.updater.intake import Intake
from daemon.updater.journal import UpdateJournal
from daemon.updater.known import KnownPackages
from daemon.updater.package.version import is_version
from daemon.updater.policy import Course, cancellable, changes_something
from daemon.updater.record import ATTEMPTS_MAX, UpdateRecord
from daemon.updater.staging import Staging
from daemon.updater.target import Job, UpdateTarget
from daemon.updater.telling import Teller, bounded, evidence_of, without

P = ParamSpec("P")
T = TypeVar("T")

LANE = "updates"
SAVE_DEADLINE_S = 30.0
PROGRESS_EVENT_EVERY = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Tools:
    """What every update works with.

    Attributes:
        intake: made when an update first needs it: most daemons never download anything.
    """

    wall: WallClock
    threads: Threads
    journal: UpdateJournal
    staging: Staging
    intake: Callable[[], Intake]
    config: Callable[[], UpdateConfig]
    teller: Teller
    known: KnownPackages


class Update:
    """One update under way.

    Args:
        record: as it is written down.
        target: what it is for.
        tools: the rest.

    Attributes:
        record: as it was last written down, or would have been.
        progress: 0 to 1 of the present step.
    """

    log = Logger()

    def __init__(self, record: UpdateRecord, target: UpdateTarget, tools: Tools) -> None:
        self.record = record
        self.progress = 0.0
        self.target = target
        self._tools = tools
        self._told = 0.0
        self._called_off = ""
        self._leaving = False
        self._ending = False  # its result is known, and nobody may cut off what writes it down
        self._work: Deferred[None] | None = None

    # ------------------------------------------------------------------ life

    def begin(self, course: Course, evidence: Mapping[str, Any] | None = None) -> Deferred[None]:
        """Goes on in the background; fires when it is over, or left for the next daemon."""
        self._work = work = Deferred.fromCoroutine(self._run(course, evidence or {}))
        return work

    def call_off(self, peer: str) -> None:
        """An operator does not want it any more.

        Raises:
            RequestError: PRECONDITION, it is too late.
        """
        self._called_off = f"called off by {peer}"
        if self._work is not None:
            self._work.cancel()

    @property
    def cancellable(self) -> bool:
        """Whether it changed nothing yet, and goes on."""
        return cancellable(self.record) and not self._ending

    @property
    def ending(self) -> bool:
        """Whether its result is known and about to be told."""
        return self._ending

    def leave(self) -> Deferred[None] | None:
        """The daemon stops: the next one goes on. What is between two versions is ended first.

        Returns:
            fires when it has left.
        """
        work = self._work
        if work is None or work.called:
            return None
        left: Deferred[None] = Deferred()
        work.addBoth(lambda _ended: left.callback(None))
        self._leaving = True
        if self.record.step in (UpdateStep.APPLY, UpdateStep.ROLLBACK) and not self.target.hands_over:
            self.target.leave()  # a proof would take longer than a stop may
        elif not self._ending:
            work.cancel()
        return left

    async def _run(self, course: Course, evidence: Mapping[str, Any]) -> None:
        await self._carry_out(course, evidence)
        if not self.record.state.over:  # this daemon leaves in order, and did not die of it
            await self._write(strict=False, attempts=max(0, self.record.attempts - 1))

    async def _carry_out(self, course: Course, evidence: Mapping[str, Any]) -> None:
        try:
            await self._walk(course, evidence)
        except CancelledError:
            if not self._called_off or changes_something(self.record.step):
                return  # the daemon stops; the journal says where we are
            self._ending = True
            await self.target.discard(self._job())
            await self._end(UpdateState.CANCELLED, error=self._called_off, code="")
        except (DaemonError, RequestError) as error:
            if isinstance(error, RequestError) and error.fault is RequestFault.STOPPING:
                return  # likewise
            await self._failed(error)
        except Exception:  # noqa: BLE001 - whatever it is, no version may be left half in place
            self.log.failure("update {id}: {step}", id=self.record.id, step=self.record.step.value)
            await self._failed(UpdateApplyError("a fault of the daemon's updater; its log says more"))

    async def _walk(self, course: Course, evidence: Mapping[str, Any]) -> None:
        record = self.record
        await self._write(
            strict=False, state=UpdateState.RUNNING, attempts=record.attempts + 1,
            started_at=record.started_at or self._tools.wall(),
        )
        if changes_something(record.step):
            self._say("update.resumed", f"goes on at {record.step.value}", agents=self._agents())
        if course is Course.GIVE_UP:
            raise UpdateApplyError(
                f"{ATTEMPTS_MAX} daemons ended during the step {record.step.value} of it; look into the "
                "daemon's log for why, then ask for it again"
            )
        if course is Course.ROLL_BACK:
            why = evidence.get("reason") or record.cause or f"{ATTEMPTS_MAX} daemons ended during it"
            raise UpdateApplyError(str(why), evidence=dict(evidence))
        if course is Course.BEGIN:
            await self._prepare()
        if course in (Course.BEGIN, Course.APPLY):
            await self._enter(UpdateStep.APPLY)
            self._say("update.applying", "is put in place", agents=self._agents())
            await self.target.apply(self._job())
        if course in (Course.BEGIN, Course.APPLY, Course.VERIFY):
            await self._enter(UpdateStep.VERIFY, strict=False)
            if self._leaving:
                raise CancelledError
            evidence = await self.target.verify(self._job())
        await self._finish(evidence)

    # ----------------------------------------------------------------- steps

    async def _prepare(self) -> None:
        """Everything before the first change."""
        tools = self._tools
        if self.record.rollback:
            await self._look_back()
        else:
            await self._fetch()
        await self._enter(UpdateStep.BACKUP)
        applied = await self.target.plan(self._job())
        await self._enter(UpdateStep.PREFLIGHT, applied=applied)
        await self.target.preflight(self._job())
        if not self.record.rollback and not await self._on_lane(tools.staging.there, self._folder):
            raise StorageError(f"{self._folder} has vanished; ask for the update again")

    async def _look_back(self) -> None:
        """A roll-back on request: the files are in a backup."""
        before = await self.target.previous()
        if before is None:
            raise UpdateRollbackError(
                f"no earlier version of {self.record.target} is kept; push the package of the one you want"
            )
        self.record = msgspec.structs.replace(
            self.record, version=before.version,
            old_version=await self._installed(),
            files={name: str(path) for name, path in before.files.items()}, sha256=before.sha256,
            modes=before.modes, main=before.main,
        )

    async def _fetch(self) -> None:
        tools, record, folder = self._tools, self.record, self._folder
        intake, target = tools.intake(), self.target
        installed = await self._installed()
        await self._on_lane(tools.staging.make, folder)  # once more: the host may have booted
        await self._enter(UpdateStep.SOURCE, old_version=installed)
        intake.source(record)
        await self._enter(UpdateStep.SPACE)
        await intake.space(record, folder, target)
        await self._enter(UpdateStep.DOWNLOAD)
        await intake.download(record, folder, target, self._downloaded)
        await self._enter(UpdateStep.SIGNATURE)
        signed = await intake.signature(record, folder, self._at)
        await self._enter(UpdateStep.HASH, package_sha256=signed.sha256, key=signed.key)
        intake.digest(record, signed)
        await self._enter(UpdateStep.MANIFEST)
        contents = await intake.manifest(self.record, folder, target, self._at)
        self.record = msgspec.structs.replace(
            self.record, files={name: str(path) for name, path in contents.files.items()},
            sha256=contents.sha256, modes=contents.modes, main=contents.main,
        )

    async def _installed(self) -> str:
        """The installed version. An agent that says none, or something that is none, is held to what was put
        there last: nothing else would keep an older package from being sent once more."""
        said = await self.target.installed()
        return said if is_version(said) else self._tools.known.newest(self.record.target) or said

    async def _finish(self, evidence: Mapping[str, Any]) -> None:
        """It runs and is proven: nothing that fails now takes it back."""
        await self._enter(UpdateStep.PRUNE, strict=False)
        try:
            await self.target.prune(self._job(), self._tools.config().max_backups)
        except DaemonError as error:
            self.log.warn("update {id}: {error}", id=self.record.id, error=str(error))
        runs = self.record.package_sha256 or self.record.sha256.get(self.record.main, "")
        if runs and self.record.version:
            self._tools.known.keep(self.record.target, runs, self.record.version)
        await self._end(UpdateState.SUCCEEDED, evidence=evidence)

    async def _failed(self, error: DaemonError | RequestError) -> None:
        code = error.code.value if isinstance(error, DaemonError) else ""
        evidence = evidence_of(error)
        if not changes_something(self.record.step):
            self._ending = True
            await self.target.discard(self._job())
            await self._end(UpdateState.FAILED, error=error.message, code=code, evidence=evidence)
            return
        await self._enter(UpdateStep.ROLLBACK, strict=False, cause=error.message)
        self._say(
            "update.rolling_back", f"is rolled back: {error.message}", Severity.WARN, agents=self._agents()
        )
        try:
            proof = await self.target.roll_back(self._job())
        except CancelledError:
            return  # the daemon stops in the middle of it; the next one goes on
        except RequestError as stopping:
            self.log.info("update {id}: its roll-back waits for the next daemon: {error}",
                          id=self.record.id, error=stopping.message)
            return
        except DaemonError as failed:
            await self._end(
                UpdateState.BROKEN, error=f"{error.message}; and the roll-back failed: {failed.message}",
                code=failed.code.value, evidence={**evidence, **evidence_of(failed)},
            )
            return
        except Exception as fault:  # noqa: BLE001 - the operator has to hear of it by the alert
            self.log.failure("update {id}: roll-back", id=self.record.id)
            await self._end(
                UpdateState.BROKEN, error=f"{error.message}; and the roll-back met a fault of ours: {fault}",
                code="D4004", evidence=evidence,
            )
            return
        await self._end(
            UpdateState.ROLLED_BACK, error=error.message, code=code or "D4003", rolled_back=True,
            evidence={**evidence, "rollback": without(proof, evidence)},
        )

    # -------------------------------------------------------------- small

    @property
    def _folder(self) -> Path:
        return Path(self.record.folder)

    def _job(self) -> Job:
        return self.record.job()

    def _agents(self) -> list[str]:
        """Those that run what is replaced: they have other processes by and by."""
        return list(self.record.applied.ran) if self.record.applied is not None else []

    def _at(self, progress: float) -> None:
        self.progress = min(1.0, max(0.0, progress))

    def _downloaded(self, progress: float) -> None:
        self._at(progress)
        if self.progress - self._told >= PROGRESS_EVENT_EVERY:
            self._told = self.progress
            self._say("update.progress", f"{self.progress:.0%} downloaded", progress=round(self.progress, 2))

    async def _enter(self, step: UpdateStep, *, strict: bool = True, **changes: Any) -> None:
        """Writes down that the step begins.

        Args:
            step: it.
            strict: without the journal the step is not taken. From ``apply`` on the entry before it says
                enough: taking such a step again is harmless, and a full disk is no reason to undo.
            changes: of the record.

        Raises:
            StorageError: it cannot be written, where ``strict``.
            CancelledError: it was called off, and what was cancelled then did not say so.
        """
        if strict and self._called_off:
            raise CancelledError
        self.progress = 0.0
        await self._write(strict=strict, step=step, **changes)

    async def _write(self, *, strict: bool, **changes: Any) -> None:
        record = msgspec.structs.replace(self.record, **changes)
        try:
            await self._on_lane(self._tools.journal.save, record)
        except StorageError as error:
            if strict:
                raise
            self._unsaved(record, error)
        self.record = record

    async def _on_lane(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return await self._tools.threads.run(LANE, SAVE_DEADLINE_S, call, *args, **kwargs)
        except (LaneBusy, LaneTimeout) as error:
            raise StorageError(f"the disk of updates does not answer: {error}") from error

    async def _saved(self, record: UpdateRecord) -> bool:
        try:
            await self._on_lane(self._tools.journal.save, record)
        except StorageError as error:
            self._unsaved(record, error)
            return False
        return True

    def _unsaved(self, record: UpdateRecord, error: StorageError) -> None:
        self.log.warn(
            "D1004 update {id}: its journal cannot be written at {step}: {error}; the next daemon would take "
            "that step again", id=record.id, step=record.step.value, error=error.message, error_code="D1004",
        )

    async def _end(self, state: UpdateState, **changes: Any) -> None:
        """It is over: written down, staging gone, and only then everybody hears of it.

        A full disk may have room once staging is gone: what could not be written before is then.
        """
        self._ending = True
        changes["evidence"] = bounded(changes.get("evidence", {}))
        record = msgspec.structs.replace(
            self.record.without_files(), state=state, step=UpdateStep.DONE, finished_at=self._tools.wall(),
            success=state is UpdateState.SUCCEEDED, **changes,
        )
        saved = await self._saved(record)
        try:
            if record.folder:
                await self._on_lane(self._tools.staging.remove, self._folder)
        except (StorageError, OSError) as error:
            self.log.warn("update {id}: its staging folder stays until the next start: {error}",
                          id=record.id, error=str(error))
        if not saved:
            await self._saved(record)
        self.record = record
        self._tools.teller.end(record)

    def _say(self, type: str, text: str, severity: Severity = Severity.INFO, **data: Any) -> None:
        self._tools.teller.say(self.record, type, text, severity, **data)
