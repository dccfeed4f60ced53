"""Reload of the configuration: validate all of it, plan, apply step by step, keep the last good file."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from twisted.internet.defer import CancelledError, Deferred, DeferredLock
from twisted.logger import Logger
from twisted.python.failure import Failure

from daemon.aio.threads import LaneBusy, LaneTimeout, Threads
from daemon.config.diff import Change, Effect
from daemon.config.in_force import Planned, planned
from daemon.config.load import LoadedConfig
from daemon.config.redact import plan
from daemon.config.schema import Config
from daemon.control.config_file import LANE, READ_DEADLINE_S, keep_copy
from daemon.errors import ConfigLoadError, DaemonError, RequestError, RequestFault, StorageError
from daemon.interfaces import AlertSink, EventSink, WallClock
from daemon.model.event import Severity

log = Logger()

P = ParamSpec("P")
T = TypeVar("T")

ALERT = "config_reload"
SHOWN_MAX = 20  # changes named in the log and the event
RETRY_AFTER_S = 5

Told = Sequence[str] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One part of the daemon that takes a new configuration.

    Attributes:
        name: for the log when it fails.
        apply: called with the configuration this step took last and the one in force from now on; returns
            warnings, at once or later.
    """

    name: str
    apply: Callable[[Config, Config], Told | Awaitable[Told]]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReloadResult:
    """What a reload came to.

    Attributes:
        changes: the plan.
        warnings: what the operator should know.
        applied: whether it was carried out; False for a dry run.
        unchanged: the file is the one in force, and there was nothing to apply.
    """

    changes: tuple[Change, ...]
    warnings: tuple[str, ...]
    applied: bool
    unchanged: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigFileState:
    """How the file stands.

    Attributes:
        path: the file.
        loaded_at: wall time of the load that is in force.
        last_attempt_at: wall time of the last load, good or bad.
        ok: whether the last attempt succeeded.
        error: of the last attempt; empty when it succeeded.
        digest: SHA-256 of the text in force, hex.
        reloads_total, failures_total: since the start.
        needs_restart: keys whose new value waits for a restart of the daemon.
    """

    path: str
    loaded_at: float
    last_attempt_at: float
    ok: bool
    error: str
    digest: str
    reloads_total: int
    failures_total: int
    needs_restart: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Waiter:
    """Somebody who asked for a reload."""

    answer: Deferred[ReloadResult]
    reason: str
    peer: str


class ConfigManager:
    """Holds the configuration in force.

    Args:
        loaded: what the daemon started with.
        load: reads and validates the file; blocks, called on a thread.
        threads: where it is read.
        wall: stamps.
        events: hears ``config.reloaded`` and ``config.reload_failed``.
        alerts: of a file that is refused, as long as it is.
        keep: where a copy of the last good file is kept.
    """

    def __init__(
        self, loaded: LoadedConfig, load: Callable[[Path], LoadedConfig], threads: Threads, wall: WallClock,
        events: EventSink, alerts: AlertSink, keep: Path,
    ) -> None:
        self._loaded = loaded
        self._config = loaded.config
        self._load = load
        self._threads = threads
        self._wall = wall
        self._events = events
        self._alerts = alerts
        self._keep = keep
        self._steps: tuple[Step, ...] = ()
        self._behind: dict[str, Config] = {}  # steps that failed, and what they had taken before
        self._lock = DeferredLock()
        self._waiters: list[_Waiter] = []
        self._calls: set[Deferred[Any]] = set()
        self._stopping = False
        self._loaded_at = self._attempt_at = wall()
        self._error = ""
        self._needs_restart: tuple[str, ...] = ()
        self._reloads_total = 0
        self._failures_total = 0

    @property
    def in_force(self) -> Config:
        """The configuration that holds now: the file, but for what waits for a restart of the daemon."""
        return self._config

    @property
    def path(self) -> Path:
        """The file."""
        return self._loaded.path

    def state(self) -> ConfigFileState:
        """How the file stands at this moment."""
        return ConfigFileState(
            path=str(self._loaded.path), loaded_at=self._loaded_at, last_attempt_at=self._attempt_at,
            ok=not self._error, error=self._error, digest=self._loaded.text_digest,
            reloads_total=self._reloads_total, failures_total=self._failures_total,
            needs_restart=self._needs_restart,
        )

    def applied_by(self, steps: Sequence[Step]) -> None:
        """Names who takes a new configuration, in order; called once, before the first reload."""
        self._steps = tuple(steps)

    # ------------------------------------------------------------------ asking

    def reload(self, *, dry_run: bool = False, reason: str = "api", peer: str = "") -> Deferred[ReloadResult]:
        """Reads the file again and applies it; nothing changes unless all of it is good.

        Reloads do not overlap; those that come while one runs are answered by one more after it. The reload
        is the daemon's from here on: cancelling the Deferred leaves it running.

        Args:
            dry_run: only say what would change; a file that is refused is not remembered as a failure.
            reason: for the log: api, SIGHUP, file changed.
            peer: who asked, for the log.

        Returns:
            fires with the plan; fails with ConfigLoadError, ConfigValidateError, or RequestError when the
            daemon stops.
        """
        if dry_run:
            return Deferred.fromCoroutine(self._plan_only())
        answer: Deferred[ReloadResult] = Deferred(lambda _left: None)
        self._waiters.append(_Waiter(answer, reason, peer))
        if len(self._waiters) == 1:
            work = Deferred.fromCoroutine(self._in_turn())
            work.addErrback(lambda failure: log.failure("reload", failure=failure))
        return answer

    def hang_up(self) -> Deferred[None]:
        """SIGHUP: reloads; the outcome is one line of the log. Fires when it is over and never fails."""
        return self.reload(reason="SIGHUP").addCallbacks(lambda _result: None, self._said)

    def _said(self, failure: Failure) -> None:
        """A refusal is in the log already; a fault of ours is not."""
        if failure.check(RequestError):
            log.info("SIGHUP: {error}", error=failure.getErrorMessage())
        elif not failure.check(DaemonError):
            log.failure("reload", failure=failure)

    def stop(self) -> Deferred[None]:
        """No reload from now on; fires when the one under way has ended. A read that hangs is given up."""
        self._stopping = True
        for call in tuple(self._calls):
            call.cancel()
        return self._lock.run(lambda: None)

    # ----------------------------------------------------------------- reading

    async def _plan_only(self) -> ReloadResult:
        loaded, found = await self._read()
        return ReloadResult(
            changes=found.changes, applied=False,
            warnings=(*map(str, loaded.warnings), *_waiting(found.changes)),
            unchanged=loaded.text_digest == self._loaded.text_digest and found.config == self._config,
        )

    async def _read(self) -> tuple[LoadedConfig, Planned]:
        """The whole new file, and what it comes to; comparing hundreds of agents is too long for the loop."""

        def read(path: Path, old: Config) -> tuple[LoadedConfig, Planned]:
            loaded = self._load(path)
            return loaded, planned(old, loaded.config)

        try:
            return await self._on_thread(read, self._loaded.path, self._config)
        except (LaneBusy, LaneTimeout) as error:
            raise ConfigLoadError(
                f"{self._loaded.path} does not answer ({error}); check the mount it is on",
                file=str(self._loaded.path), unanswered=True,
            ) from error

    async def _on_thread(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Calls on our lane; given up when the daemon stops."""
        if self._stopping:
            raise _refusal()
        work = self._threads.run(LANE, READ_DEADLINE_S, call, *args, **kwargs)
        self._calls.add(work)
        try:
            return await work
        except CancelledError:
            raise _refusal() from None
        finally:
            self._calls.discard(work)

    # ---------------------------------------------------------------- applying

    async def _in_turn(self) -> None:
        await self._lock.acquire()
        waiters, self._waiters = self._waiters, []
        result: ReloadResult | Failure
        try:
            result = await self._reload(_joined(w.reason for w in waiters), _joined(w.peer for w in waiters))
        except Exception:  # noqa: BLE001 - it travels to all who wait
            result = Failure()
        finally:
            self._lock.release()
        left = [waiter.answer for waiter in waiters if not waiter.answer.called]
        if not left and isinstance(result, Failure) and not result.check(DaemonError, RequestError):
            log.failure("reload", failure=result)
        for answer in left:
            answer.callback(result)  # a Failure goes down the errbacks

    async def _reload(self, reason: str, peer: str) -> ReloadResult:
        try:
            loaded, found = await self._read()
        except DaemonError as error:
            self._refused(error, reason, peer)
            raise
        same = loaded.text_digest == self._loaded.text_digest
        old, self._config, self._loaded = self._config, found.config, loaded
        self._loaded_at = self._attempt_at = self._wall()
        self._reloads_total += 1
        self._needs_restart = tuple(_name(c) for c in found.changes if c.effect is Effect.RESTART_DAEMON)
        warnings = [*map(str, loaded.warnings), *_waiting(found.changes)]
        said = len(warnings)
        if old != self._config or self._behind:
            for step in self._steps:
                warnings += await self._apply(step, old, self._config)
        if self._error:
            self._error = ""
            self._alerts.clear(ALERT, message="the file is good again")
        if not same:
            warnings += await self._keep_copy()
        result = ReloadResult(
            changes=found.changes, warnings=tuple(warnings), applied=True,
            unchanged=same and old == self._config,
        )
        self._tell(result, reason, peer, fresh=result.warnings[said if same else 0 :])
        return result

    async def _apply(self, step: Step, old: Config, new: Config) -> list[str]:
        """One step. What it did not take is offered again at the next reload, even of the same file."""
        if old == new and step.name not in self._behind:
            return []
        had = self._behind.setdefault(step.name, old)
        try:
            told = step.apply(had, new)
            if told is not None and not isinstance(told, Sequence):
                told = await told
        except DaemonError as error:
            log.error("{step}: {error}", step=step.name, error=str(error), error_code=error.code.value)
            return [f"{step.name} did not take it all: {error}"]
        except Exception:  # noqa: BLE001 - logged and told; the other steps go on
            log.failure("reload: {step} did not take the new configuration", step=step.name)
            return [f"{step.name} did not take the new configuration; see the log, then reload again"]
        del self._behind[step.name]
        return list(told or ())

    # ----------------------------------------------------------------- telling

    def _refused(self, error: DaemonError, reason: str, peer: str) -> None:
        self._failures_total += 1
        self._attempt_at = self._wall()
        text = str(error)
        message = f"the configuration stays as it was: {text}"
        log.error("{message} ({by})", message=message, by=_by(reason, peer), error_code=error.code.value)
        if text != self._error:  # one event for one fault, however often it is looked at
            self._events.publish(
                "config.reload_failed", message, severity=Severity.ERROR,
                data={"code": error.code.value, "reason": reason, "path": str(self._loaded.path)},
            )
        self._error = text
        self._alerts.raise_alert(ALERT, message, severity=Severity.ERROR)

    def _tell(self, result: ReloadResult, reason: str, peer: str, fresh: Sequence[str]) -> None:
        for warning in fresh:
            log.warn("reload: {warning}", warning=warning)
        by = _by(reason, peer)
        waits = f"; {', '.join(self._needs_restart)} wait for a restart" if self._needs_restart else ""
        if result.unchanged:
            log.info("configuration {path} is unchanged ({by}){waits}",
                     path=str(self._loaded.path), by=by, waits=waits)
            return
        names = [_name(change) for change in result.changes]
        shown = ", ".join(names[:SHOWN_MAX]) or "nothing that matters"
        more = f" and {len(names) - SHOWN_MAX} more" if len(names) > SHOWN_MAX else ""
        text = f"configuration reloaded ({by}): {shown}{more}"
        log.info("{text}{waits}", text=text, waits=waits)
        self._events.publish(
            "config.reloaded", text,
            data={"changes": plan(result.changes[:SHOWN_MAX]), "count": len(names), "reason": reason,
                  "peer": peer},
        )

    # --------------------------------------------------------------- last good

    def keep_first(self) -> Deferred[None]:
        """Keeps a copy of the file the daemon started with; a failure is logged."""

        async def keep() -> None:
            for warning in await self._keep_copy():
                log.warn("{warning}", warning=warning)

        return Deferred.fromCoroutine(keep())

    async def _keep_copy(self) -> list[str]:
        try:
            await self._on_thread(keep_copy, self._loaded.path, self._loaded.text_digest, self._keep)
        except (StorageError, OSError, LaneBusy, LaneTimeout, RequestError) as error:
            return [f"a copy of the last good configuration cannot be kept: {error}"]
        return []


def _name(change: Change) -> str:
    if not change.agent:
        return change.key
    if change.key == "enabled" and (change.old is None or change.new is None):
        return f"{change.agent}: {'added' if change.old is None else 'removed'}"
    return f"{change.agent}: {change.key}"


def _waiting(changes: Sequence[Change]) -> list[str]:
    """What the operator must do for changes that no reload applies."""
    names = [_name(change) for change in changes if change.effect is Effect.RESTART_DAEMON]
    return [f"restart the daemon to apply {', '.join(names)}; agents run on"] if names else []


def _by(reason: str, peer: str) -> str:
    return f"{reason}, {peer}" if peer else reason


def _joined(words: Iterable[str]) -> str:
    """Those who asked for the same reload, each once."""
    return ", ".join(dict.fromkeys(filter(None, words)))


def _refusal() -> RequestError:
    return RequestError(RequestFault.STOPPING, "the daemon is stopping", retry_after_s=RETRY_AFTER_S)
