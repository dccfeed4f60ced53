"""The daemon itself as what is updated: a version folder placed and tried, a switch, a probation.

The old version does everything up to the exec, the new one proves itself and confirms; a watcher of the old
version and the launcher take it back where it does not. docs/architecture.md shows the conversation.

The new version writes every state file as the old one did until it is confirmed. For one that does not keep
to that there is :mod:`daemon.durable.snapshot`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.logger import Logger

from daemon.aio.reactor import DelayedCall
from daemon.durable import snapshot
from daemon.errors import RequestError, RequestFault, UpdateApplyError, UpdateRollbackError
from daemon.interfaces import EventSink
from daemon.model.event import Severity
from daemon.model.update import DAEMON
from daemon.updater.selfupdate import launcher
from daemon.updater.selfupdate.checking import Checker
from daemon.updater.selfupdate.disk import DISK_S, LANE, PLACE_S, on_disk
from daemon.updater.selfupdate.handing_over import let_go
from daemon.updater.selfupdate.installation import COMPONENT, Installation
from daemon.updater.selfupdate.probation import STDERR_LOG, Kind, Outcome, Phase, Probation, ProbationFile
from daemon.updater.selfupdate.proof import SelfProof
from daemon.updater.selfupdate.switching import Surroundings, Switch, times
from daemon.updater.target import Applied, Job

FALL_BACK_S = 5.0  # after a failed proof, for whoever keeps the journal to ask for the roll-back first
CHECK_LINES = 20
NO_BUNDLE = (
    "this daemon does not run from a bundle, so it cannot update itself; install one with scripts/bundle "
    "install, or update it as it was installed"
)


class DaemonTarget:
    """Implements :class:`daemon.updater.target.UpdateTarget` for the daemon.

    Args:
        installation: None where the daemon does not run from a bundle.
        around: the daemon.
        config_path: the configuration in force.
        events: hears how an update ended, also where nobody keeps a journal of it.
        proof: of a new version, which this process may be.
    """

    log = Logger()
    name = DAEMON
    components = frozenset({COMPONENT})
    hands_over = True

    def __init__(
        self, *, installation: Installation | None, around: Surroundings, config_path: Path,
        events: EventSink, proof: SelfProof,
    ) -> None:
        self.installation = installation
        self.proof = proof
        self._around = around
        self._config_path = config_path
        self._events = events
        self._switch = Switch(installation, around) if installation is not None else None
        self._fall_back: DelayedCall | None = None
        self._made = ""  # a version whose folder this process made

    # ---------------------------------------------------------------- UpdateTarget

    async def refusal(self) -> RequestError | None:
        """See UpdateTarget."""
        try:
            why = await self._on_disk(self._refusal)
        except UpdateApplyError as error:
            why = error.message
        return RequestError(RequestFault.PRECONDITION, why) if why else None

    def _refusal(self) -> str:
        """Blocks."""
        if self.installation is None or self._switch is None:
            return NO_BUNDLE
        settings = self._around.settings()
        give_up_s = times(0.0, settings.verify_timeout).give_up
        if settings.verify_period >= give_up_s:
            return (
                f"update.verify_period ({settings.verify_period:g} s) must be under {give_up_s:g} s: the "
                f"rest of update.verify_timeout ({settings.verify_timeout:g} s) is for the way back"
            )
        try:
            found = ProbationFile(self.installation.root).read()
        except OSError as error:
            return f"{self.installation.root / launcher.PROBATION}: {error.strerror}; make it readable"
        if self._switch.under_way or (found is not None and found.state is Phase.TRYING):
            return "another update of the daemon is not confirmed yet; try again when it is over"
        return self.installation.refusal()

    async def installed(self) -> str:
        """See UpdateTarget."""
        return self.installation.running if self.installation is not None else ""

    def rooms(self) -> tuple[Path, ...]:
        """See UpdateTarget."""
        return (self._here.versions,)

    async def plan(self, job: Job) -> Applied:
        """See UpdateTarget. Nothing is copied: the version that runs is the way back, if it is whole."""
        here = self._here
        target = here.folder(job.version)
        if job.version == here.running:
            raise UpdateApplyError(f"version {job.version} runs already; ask for another")
        wrong = await self._on_disk(here.damage, here.running, deadline_s=PLACE_S)
        if wrong:
            raise UpdateApplyError(
                f"nobody could go back to the running version {here.running}: {wrong}; install it anew first"
            )
        return Applied(target=str(target), backup=str(here.folder(here.running)))

    async def preflight(self, job: Job) -> None:
        """See UpdateTarget. The new version is placed beside the others and reads the configuration."""
        here = self._here
        if job.files:
            modes = {name: job.modes.get(name, 0o755 if name == job.main else 0o644) for name in job.files}

            def place() -> None:  # whoever calls it off leaves this to its end, and then discards
                made = here.place(
                    job.id, job.version, dict(job.files), dict(job.sha256), modes, job.main
                )
                self._made = job.version if made else ""

            await self._on_disk(place, deadline_s=PLACE_S)
        else:  # back to a version that is kept
            wrong = await self._on_disk(here.damage, job.version, deadline_s=PLACE_S)
            if wrong:
                raise UpdateApplyError(f"version {job.version} is not whole any more: {wrong}; push it anew")
        checker = Checker(
            self._around.commands, self._config_path, lambda version: here.folder(version) / launcher.PROGRAM
        )
        why = await checker.compare(job.version, here.running)
        if why:
            raise UpdateApplyError(
                f"version {job.version} would not run here: {why}",
                evidence={"check": why.splitlines()[-CHECK_LINES:]},
            )

    async def discard(self, job: Job) -> None:
        """See UpdateTarget; a folder that was there before stays."""
        if self.installation is None:
            return
        here = self.installation

        def remove() -> None:  # after what was called off, on the same lane
            made, self._made = self._made, ""
            if made == job.version:
                here.remove(made)

        try:
            await self._on_disk(remove, deadline_s=PLACE_S)
        except UpdateApplyError as error:
            self.log.info("version {version} stays until old ones are removed: {error}",
                          version=job.version, error=error.message)

    async def apply(self, job: Job) -> None:
        """See UpdateTarget. Does not return where it succeeds: this process becomes the new version."""
        if self._here.running == job.version:
            return  # asked of the version it is about
        switch = self._switching
        if not switch.under_way:
            await switch.forward(job.id, job.version)
        await _for_ever()

    async def verify(self, job: Job) -> Mapping[str, Any]:
        """See UpdateTarget; asked of the new version."""
        running = self._here.running
        if running != job.version:
            raise UpdateApplyError(f"version {running} runs, not {job.version}")
        found = await self._on_disk(ProbationFile(self._here.root).read)
        if found is None or found.id != job.id or found.state is Phase.ROLLED_BACK:
            ours = found is not None and found.id == job.id
            why = found.reason if found is not None and ours else "nothing is known of that update"
            raise UpdateApplyError(f"version {job.version} was taken back: {why}")
        if found.state is Phase.CONFIRMED:
            return {"version": running, **found.evidence}
        proved = await self.proof.wait()
        if not proved.success:
            raise UpdateApplyError(f"version {job.version}: {proved.reason}", evidence=dict(proved.evidence))
        return {"version": running, **proved.evidence}

    async def roll_back(self, job: Job) -> Mapping[str, Any]:
        """See UpdateTarget. Asked of the new version it does not return: this process becomes the old one."""
        here = self._here
        file = ProbationFile(here.root)
        try:
            found = await self._on_disk(file.read)
            if found is None or found.id != job.id:
                if here.running == job.version:
                    raise UpdateRollbackError(
                        f"nothing is known of the version before {here.running}; install it anew"
                    )
                return {"version": here.running}  # it never came to a switch
            if here.running == found.new:
                await self._back(found, "")
                await _for_ever()
            outcome = await self._on_disk(file.outcome, job.id, here.running)
            if await self._on_disk(here.current) != here.running:
                await self._on_disk(launcher.flip, here.root, here.running)
            if job.files:  # its package can be sent again; a version that was kept and gone back to stays
                await self._on_disk(here.remove, job.version, deadline_s=PLACE_S)
        except UpdateApplyError as error:
            raise UpdateRollbackError(error.message) from error
        return {"version": here.running, "reason": outcome.reason, **outcome.evidence}

    def leave(self) -> None:
        """See UpdateTarget; not asked of a target that hands over."""

    async def prune(self, job: Job, keep: int) -> None:
        """See UpdateTarget."""
        here = self._here
        found = await self._on_disk(ProbationFile(here.root).read)
        pinned = {job.old_version} | ({found.old, found.new} if found is not None else set())
        removed = await self._on_disk(here.prune, pinned, keep, deadline_s=PLACE_S)
        if removed:
            self.log.info("removed old versions: {versions}", versions=", ".join(removed))

    async def previous(self) -> Job | None:
        """See UpdateTarget. Whoever keeps the journal gives the job an id of its own."""
        version = await self._on_disk(self._switching.previous)
        if not version:
            return None
        here = self._here
        return Job(
            id=f"back-to-{version}", version=version, old_version=here.running, folder=here.folder(version)
        )

    # ------------------------------------------------------------------ life of the daemon

    def outcome(self, update_id: str) -> Deferred[Outcome]:
        """What came of an update that an earlier process began; asked at the start. Fails with OSError,
        LaneBusy or LaneTimeout where nobody can tell."""
        if self.installation is None:  # another daemon's than began it: it ends by the refusal of its steps
            return succeed(Outcome(kind=Kind.NONE))
        here = self.installation
        return self._around.threads.run(
            LANE, DISK_S, ProbationFile(here.root).outcome, update_id, here.running
        )

    def ready(self) -> None:
        """The daemon serves, agents are taken back: a new version begins to prove itself, one that came back
        after a roll-back says so. Called once."""
        if self.installation is not None:
            done = Deferred.fromCoroutine(self._ready(self.installation))
            done.addErrback(lambda f: self.log.failure("the last update of the daemon", failure=f))

    async def _ready(self, here: Installation) -> None:
        file = ProbationFile(here.root)
        found = await self._on_disk(file.read)
        if found is None:
            return
        if found.state is Phase.TRYING and here.running == found.new:
            await self._prove(file, found)
        elif found.state is Phase.CONFIRMED and here.running == found.new:
            await self._confirmed(found)  # once more: it may have been killed right after it was
        elif found.state is Phase.ROLLED_BACK and here.running != found.new and not found.settled:
            await self._on_disk(file.settle, found.id)
            await self._tidy()
            text = f"version {found.new} was rolled back: {found.reason}"
            self.log.warn("D4003 {text}", text=text, error_code="D4003")
            self._events.publish("daemon.rolled_back", text, severity=Severity.ERROR, data={
                "code": "D4003", "old_version": found.old, "new_version": found.new, "by": found.by,
                "evidence": dict(found.evidence),
            })

    async def _prove(self, file: ProbationFile, found: Probation) -> None:
        self.log.info(
            "version {new} is on probation for {period:g} s; {old} comes back if it is not well",
            new=found.new, old=found.old, period=found.verify_period_s,
        )
        self.proof.begin(file, found)
        proved = await self.proof.wait()
        if not proved.success:
            text = f"version {found.new}: {proved.reason}"
            self.log.error("D4003 {text}", text=text, error_code="D4003")
            left = found.deadline_mono - self._around.clock.seconds()  # then the watcher does it
            self._fall_back = self._around.clock.callLater(
                max(0.0, min(FALL_BACK_S, left / 2)), self._fall, found, proved.reason
            )
            return
        self._events.publish(
            "daemon.updated", f"version {found.new} has proven itself; {found.old} is kept",
            data={"old_version": found.old, "new_version": found.new},
        )
        await self._confirmed(found)

    async def _confirmed(self, found: Probation) -> None:
        await self._tidy()
        if await self._on_disk(self._here.refresh_launcher):
            self.log.info("{program} is that of version {new} now", program=launcher.PROGRAM, new=found.new)

    async def _tidy(self) -> None:
        """It is decided which version runs: what was kept for the case is not needed any more."""
        await self._on_disk(let_go, str(self._here.root / STDERR_LOG))
        await self._on_disk(snapshot.remove_all, self._around.paths.metadata)

    def _fall(self, found: Probation, reason: str) -> None:
        """Nobody who keeps a journal has asked for the roll-back."""
        self._fall_back = None
        back = Deferred.fromCoroutine(self._back(found, reason))
        back.addErrback(lambda f: self.log.failure("the roll-back of the daemon", failure=f))

    async def _back(self, found: Probation, reason: str) -> None:
        proved = self.proof.decided
        reason = reason or (proved.reason if proved is not None else "")
        await self._switching.back(
            found, reason or f"version {found.new} was asked to give way",
            proved.evidence if proved is not None else {},
        )

    async def leaving(self) -> None:
        """The daemon stops or gives way."""
        if self._fall_back is not None:
            self._fall_back.cancel()
            self._fall_back = None
        await self.proof.stop()
        if self._switch is not None:
            await self._switch.leave_word()

    # ------------------------------------------------------------------ parts

    @property
    def _here(self) -> Installation:
        if self.installation is None:
            raise UpdateApplyError(NO_BUNDLE)
        return self.installation

    @property
    def _switching(self) -> Switch:
        if self._switch is None:
            raise UpdateApplyError(NO_BUNDLE)
        return self._switch

    async def _on_disk(self, call: Callable[..., Any], *args: Any, deadline_s: float = DISK_S) -> Any:
        return await on_disk(self._around.threads, deadline_s, call, *args)


def _for_ever() -> Deferred[None]:
    """This process is leaving: nobody comes back to whoever waits."""
    return Deferred()
