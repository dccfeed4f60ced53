"""UpdateManager: takes requests, one update of a target at a time, and knows what became of each."""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred, DeferredList, DeferredLock
from twisted.logger import Logger
from twisted.python.failure import Failure

from daemon.aio.shielded import shielded
from daemon.aio.threads import LaneBusy, LaneTimeout
from daemon.durable.atomic import write_atomic
from daemon.errors import RequestError, RequestFault, StorageError
from daemon.model.event import Severity
from daemon.model.update import DAEMON, UpdateRequest, UpdateState, UpdateStep, UpdateView
from daemon.updater.download.source import Source, check_source
from daemon.updater.journal import too_old
from daemon.updater.policy import Course, changes_something, course
from daemon.updater.record import UpdateRecord
from daemon.updater.staging import PACKAGE
from daemon.updater.target import UpdateTarget
from daemon.updater.targets import Targets, Verdict, resolve
from daemon.updater.update import LANE, SAVE_DEADLINE_S, Tools, Update

UNDER_WAY_MAX = 16  # each has a folder, a connection and hashes at full speed


class UpdateManager(Service):
    """The service.

    Args:
        tools: what updates work with.
        targets: what can be updated; asked at each request.

    Attributes:
        ended_total: updates that are over, by target and state, since the start.
    """

    log = Logger()

    def __init__(self, tools: Tools, targets: Targets) -> None:
        self.ended_total: Counter[tuple[str, str]] = Counter()
        self._tools = tools
        self._targets = targets
        self._under_way: dict[str, Update] = {}  # by target
        self._ended: dict[str, UpdateRecord] = {}
        self._left: list[UpdateRecord] = []  # by an earlier daemon, not begun again yet
        self._door = DeferredLock()  # requests are looked at one by one: two for one target never pass it
        self._accepting = False
        self._resuming: list[Deferred[None]] = []

    # ------------------------------------------------------------------ life

    def recall(self) -> None:
        """Reads the journal. Blocks; for the start only, before agents are taken back."""
        tools = self._tools
        try:
            records = tools.journal.load()
            tools.known.recall()
        except StorageError as error:
            self.log.error("{error}; updates of an earlier daemon are not finished until that is mended",
                           error=str(error), error_code="D1004")
            return
        self._ended = {record.id: record for record in records if record.state.over}
        self._left = [record for record in records if not record.state.over]
        try:
            swept = tools.staging.sweep({record.id for record in self._left})
        except (OSError, StorageError) as error:
            self.log.warn("left-overs of updates stay: {error}", error=str(error))
        else:
            if swept:
                self.log.info("removed what {count} ended updates had left", count=len(swept))

    def startService(self) -> None:
        """Goes on with what an earlier daemon left, and takes requests; agents are there by now."""
        super().startService()
        self._accepting = True
        left, self._left = self._left, []
        latest = {each.target: each for each in sorted(left, key=lambda each: each.accepted_at)}
        for record in left:
            later = latest[record.target]
            if later is not record:  # which would not have been taken before this one was over
                self._close(record, f"its end could not be written down; update {later.id} came after it")
                continue
            target = self._target_of(record)
            if target is None:
                self._close(record, f"{record.target} left the configuration before anything was changed")
                continue
            self._under_way[record.target] = update = Update(record, target, self._tools)
            resuming = Deferred.fromCoroutine(self._resume(update))
            self._resuming.append(resuming)
            resuming.addErrback(self._not_resumed, update)

    def _target_of(self, record: UpdateRecord) -> UpdateTarget | None:
        if record.target == DAEMON:
            return self._targets.daemon()
        if changes_something(record.step):  # what is in place is proven or goes back, whoever is configured
            return self._targets.agent(record.target) or self._targets.gone(record.target)
        return self._targets.agent(record.target)

    def _close(self, record: UpdateRecord, why: str) -> None:
        """Nobody goes on with it."""
        ended = msgspec.structs.replace(
            record.without_files(), state=UpdateState.FAILED, step=UpdateStep.DONE, success=False,
            code="D4003", finished_at=self._tools.wall(), error=why,
        )
        self._tools.teller.say(ended, "update.failed", why, Severity.ERROR)
        self._count(ended)
        saving = self._tools.threads.run(LANE, SAVE_DEADLINE_S, self._tools.journal.save, ended)
        saving.addCallback(lambda _saved: self._clear(ended))
        saving.addErrback(lambda failure: self.log.warn(
            "D1004 update {id}: {error}", id=ended.id, error=failure.getErrorMessage(), error_code="D1004"
        ))

    async def _resume(self, update: Update) -> None:
        record = update.record
        verdict = await self._targets.outcome(record.id) if record.target == DAEMON else Verdict()
        if not self._accepting:
            return  # the daemon stops already
        how = course(record, verdict.outcome)
        self.log.info(
            "update {id} of {target} to {version} was at {step} when an earlier daemon ended: {course}",
            id=record.id, target=record.target, version=record.version, step=record.step.value,
            course=how.value,
        )
        evidence = {"reason": verdict.reason, **(verdict.evidence or {})} if verdict.reason else None
        self._begin(update, how, evidence)

    def _not_resumed(self, failure: Failure, update: Update) -> None:
        if not failure.check(CancelledError):
            self.log.error(
                "update {id} stays at {step}: nobody can tell what became of it ({error}); a restart of the "
                "daemon looks again", id=update.record.id, step=update.record.step.value,
                error=failure.getErrorMessage(),
            )

    def stopService(self) -> Deferred[None]:
        """Leaves the rest to the next daemon; what is between two versions is ended first."""
        super().stopService()
        self._accepting = False
        return Deferred.fromCoroutine(self._leave())

    async def _leave(self) -> None:
        for resuming in self._resuming:
            resuming.cancel()
        work = [update.leave() for update in tuple(self._under_way.values())]
        await DeferredList([left for left in work if left is not None])

    def refuse(self) -> None:
        """No new requests from now on."""
        self._accepting = False

    # --------------------------------------------------------------- requests

    async def submit(self, request: UpdateRequest, *, peer: str) -> str:
        """Takes an update; its id, once the journal has it.

        Args:
            request: not checked yet.
            peer: who asks, for the journal.

        Raises:
            RequestError: what is wrong with it, or stands against it just now.
            StorageError: D1004, it cannot be written down.
        """
        self._refuse_when_closed()
        source = check_source(request, self._tools.config())
        target = resolve(self._targets, request.component)
        return await self._one_by_one(lambda: self._take(request.component, source, target, peer))

    async def _one_by_one(self, take: Callable[[], Coroutine[Any, Any, str]]) -> str:
        """A caller who leaves in the middle takes nothing back: half a request would be worse."""

        async def taken() -> str:
            await self._door.acquire()
            try:
                return await take()
            finally:
                self._door.release()

        return await shielded(Deferred.fromCoroutine(taken()))

    async def roll_back(self, component: str, *, peer: str) -> str:
        """Goes back to the version before; the id of the update that does it.

        Raises:
            RequestError: unknown component, nothing to go back to, or an update is under way.
            StorageError: D1004.
        """
        self._refuse_when_closed()
        target = resolve(self._targets, component)
        return await self._one_by_one(lambda: self._take_back(component, target, peer))

    async def _take_back(self, component: str, target: UpdateTarget, peer: str) -> str:
        await self._refuse_when_busy(target)
        before = await target.previous()
        if before is None:
            raise RequestError(
                RequestFault.PRECONDITION,
                f"no earlier version of {target.name} is kept; push the package of the one you want",
            )
        return await self._accept(
            self._record(target, component, before.version, peer, rollback=True), target
        )

    async def cancel(self, update_id: str, *, peer: str) -> None:
        """Calls an update off that has changed nothing yet.

        Raises:
            RequestError: unknown, over, or too late.
        """
        update = next((each for each in self._under_way.values() if each.record.id == update_id), None)
        if update is None:
            self.get(update_id)
            raise RequestError(RequestFault.PRECONDITION, f"update {update_id} is over; nothing to cancel")
        if update.ending:
            raise RequestError(
                RequestFault.PRECONDITION, f"update {update_id} ends already; ask for its result in a moment"
            )
        if not update.cancellable:
            raise RequestError(
                RequestFault.PRECONDITION,
                f"update {update_id} is being put in place ({update.record.step.value}); when it is over, "
                f"POST /v1/rollback/{update.record.component} goes back",
            )
        update.call_off(peer)

    def get(self, update_id: str) -> UpdateView:
        """One update.

        Raises:
            RequestError: UNKNOWN.
        """
        for update in self._under_way.values():
            if update.record.id == update_id:
                return update.record.view(update.progress)
        record = self._ended.get(update_id)
        if record is None:
            raise RequestError(
                RequestFault.UNKNOWN, f"no update {update_id[:64]!r}; GET /v1/updates lists them"
            )
        return record.view()

    def list(self) -> tuple[UpdateView, ...]:
        """All of them, the newest first."""
        found = [(_age(record), record.view()) for record in (*self._ended.values(), *self._left)]
        found += [(_age(u.record), u.record.view(u.progress)) for u in self._under_way.values()]
        return tuple(view for _at, view in sorted(found, key=lambda each: each[0], reverse=True))

    @property
    def under_way(self) -> tuple[UpdateView, ...]:
        """Those that are not over."""
        return tuple(update.record.view(update.progress) for update in self._under_way.values())

    # ------------------------------------------------------------------- small

    def _refuse_when_closed(self) -> None:
        if not self._accepting:
            raise RequestError(RequestFault.STOPPING, "the daemon is starting or stopping", retry_after_s=5)

    async def _refuse_when_busy(self, target: UpdateTarget) -> None:
        refusal = await target.refusal()
        if refusal is not None:
            raise refusal
        under_way = self._under_way.get(target.name)
        if under_way is not None:
            record = under_way.record
            raise RequestError(
                RequestFault.PRECONDITION,
                f"update {record.id} of {target.name} to {record.version} is under way "
                f"({record.step.value}); wait for it or cancel it",
            )
        if len(self._under_way) >= UNDER_WAY_MAX:
            raise RequestError(
                RequestFault.BUSY, f"{UNDER_WAY_MAX} updates are under way already", retry_after_s=60
            )

    async def _take(self, component: str, source: Source, target: UpdateTarget, peer: str) -> str:
        again = self._under_way.get(target.name)
        if again is not None and _same(again.record, source):
            return again.record.id  # whoever lost our answer asks again
        await self._refuse_when_busy(target)
        staging = self._tools.staging
        record = self._record(
            target, component, source.version, peer, download_url=source.url, inline=bool(source.data),
            hash=source.sha256, signature=source.signature,
        )
        folder = staging.folder(record.id)
        record = msgspec.structs.replace(record, folder=str(folder))
        try:
            await self._on_lane(staging.make, folder)
            if source.data:
                await self._on_lane(write_atomic, folder / PACKAGE, source.data)
            return await self._accept(record, target)
        except StorageError:
            self._forget([record])  # a save that failed late, or is overdue, may be there all the same
            self._clear(record)
            raise

    def _clear(self, record: UpdateRecord) -> None:
        """What a disk that refused let us write of an update that was not taken goes again."""
        if not record.folder:
            return
        removing = self._tools.threads.run(
            LANE, SAVE_DEADLINE_S, self._tools.staging.remove, Path(record.folder)
        )
        removing.addErrback(lambda failure: self.log.debug(
            "{id}: its folder stays until the next start: {error}", id=record.id,
            error=failure.getErrorMessage(),
        ))

    def _record(
        self, target: UpdateTarget, component: str, version: str, peer: str, **rest: Any
    ) -> UpdateRecord:
        now = self._tools.wall()
        stamp = datetime.fromtimestamp(now, UTC).strftime("%Y%m%d%H%M%S")
        return UpdateRecord(
            id=f"{stamp}-{secrets.token_hex(4)}", target=target.name, component=component, version=version,
            peer=peer[:200], accepted_at=now, **rest,
        )

    async def _accept(self, record: UpdateRecord, target: UpdateTarget) -> str:
        await self._on_lane(self._tools.journal.save, record)
        if not self._accepting:
            return record.id  # the next daemon begins it
        self._tools.teller.accepted(record)
        self._begin(Update(record, target, self._tools), Course.BEGIN, None)
        return record.id

    def _begin(self, update: Update, how: Course, evidence: Any) -> None:
        self._under_way[update.record.target] = update
        done = update.begin(how, evidence)
        done.addErrback(lambda failure: self.log.failure("update {id}", failure=failure, id=update.record.id))
        done.addCallback(lambda _ended: self._over(update))

    def _over(self, update: Update) -> None:
        record = update.record
        if not record.state.over:
            return  # left for the next daemon
        if self._under_way.get(record.target) is update:
            del self._under_way[record.target]
        self._count(record)
        old = too_old(sorted(self._ended.values(), key=_age))
        if old:
            for each in old:
                del self._ended[each.id]
            self._forget(old)

    def _count(self, record: UpdateRecord) -> None:
        self._ended[record.id] = record
        self.ended_total[record.target, record.state.value] += 1

    def _forget(self, records: Sequence[UpdateRecord]) -> None:
        forgetting = self._tools.threads.run(LANE, SAVE_DEADLINE_S, self._tools.journal.forget, records)
        forgetting.addErrback(lambda failure: self.log.debug(
            "the journal of {ids} stays on disk: {error}", ids=[record.id for record in records],
            error=failure.getErrorMessage(),
        ))

    async def _on_lane(self, work: Callable[..., Any], *args: Any) -> Any:
        try:
            return await self._tools.threads.run(LANE, SAVE_DEADLINE_S, work, *args)
        except (LaneBusy, LaneTimeout) as error:
            raise StorageError(f"the disk of updates does not answer ({error}); check that disk") from error


def _age(record: UpdateRecord) -> tuple[float, str]:
    """Orders updates; the ids of two of the same second do not."""
    return record.accepted_at, record.id


def _same(record: UpdateRecord, source: Source) -> bool:
    return (record.version, record.hash) == (source.version, source.sha256)
