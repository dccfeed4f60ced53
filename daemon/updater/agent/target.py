"""An agent as the target of an update: its binary is replaced while it is held down, and must prove itself.

Agents that share the binary, or reach it through a link, are held, started and proven together: the file they
run changes for all of them. File work runs on a lane of its own. Of two updates of the same file that were
asked for through different agents the second one is refused before it changes anything.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ParamSpec, TypeVar, cast

import msgspec
from twisted.internet.defer import CancelledError, Deferred, DeferredList
from twisted.logger import Logger
from twisted.python.failure import Failure

from daemon import faults
from daemon.aio.reactor import Clock
from daemon.aio.threads import LaneBusy, LaneTimeout, Threads
from daemon.config.schema import UpdateConfig
from daemon.durable.explain import storage_error
from daemon.errors import (
    AgentStopError,
    RequestError,
    RequestFault,
    StorageError,
    UpdateApplyError,
    UpdateRollbackError,
)
from daemon.interfaces import UpdatableAgent, UpdatableAgents, WallClock
from daemon.updater.agent.claims import Claims
from daemon.updater.agent.files import AgentFiles
from daemon.updater.agent.placing import leads_through, place_of
from daemon.updater.agent.proof import Cause, Finding, Proof
from daemon.updater.agent.proving import Terms, look_at, prove
from daemon.updater.agent.replacing import (
    Restored,
    replace_all,
    restore_all,
    rights_in,
    stage,
    stage_all,
    touched,
    unstage,
)
from daemon.updater.target import Applied, Job

P = ParamSpec("P")
T = TypeVar("T")

LANE = "update-agent"
FILES_DEADLINE_S = 900.0  # copying a package of 512 MiB on a slow disk
LOG_DEADLINE_S = 10.0
CUSTOM = "custom"  # a type that says nothing of what the program is


@dataclass(slots=True)
class _Notes:
    """What one daemon knows of an update under way; the journal has what the next one needs.

    Attributes:
        released: the agents that were held.
        exits: ``exits_total`` of each of them then that was to be started.
        trial: what the preflight came to.
        kept: further files that were there already and are not ours.
        failed: evidence about the new version, taken when it failed.
    """

    job_id: str = ""
    released: tuple[UpdatableAgent, ...] = ()
    exits: dict[str, int] = field(default_factory=dict)
    trial: Mapping[str, Any] = field(default_factory=dict)
    kept: tuple[str, ...] = ()
    failed: Mapping[str, Any] = field(default_factory=dict)


class AgentTarget:
    """One agent. See :class:`daemon.updater.target.UpdateTarget` for the steps.

    While the daemon stops, a step may end with a RequestError (STOPPING): nothing is undone then, and the
    next daemon takes the journal up.

    Args:
        agent_id: its id.
        agents: all of them.
        config: the ``update`` section in force.
        clock: monotonic.
        wall: names backups.
        threads: for the files.
        claims: shared by all targets.
    """

    log = Logger()

    def __init__(
        self, agent_id: str, agents: UpdatableAgents, *, config: Callable[[], UpdateConfig], clock: Clock,
        wall: WallClock, threads: Threads, claims: Claims,
    ) -> None:
        self._agent_id = agent_id
        self._agents = agents
        self._config = config
        self._clock = clock
        self._threads = threads
        self._claims = claims
        self._files = AgentFiles(agent_id, config, wall)
        self._notes = _Notes()
        self._held: list[UpdatableAgent] = []
        self._leaving = False
        self._proving: Deferred[dict[str, Proof]] | None = None

    # ------------------------------------------------------------------- facts

    @property
    def name(self) -> str:
        """See UpdateTarget."""
        return self._agent_id

    @property
    def components(self) -> frozenset[str]:
        """See UpdateTarget."""
        agent = self._find()
        type = agent.type if agent is not None else CUSTOM
        return frozenset({self._agent_id} | ({type} - {CUSTOM}))

    @property
    def hands_over(self) -> bool:
        """See UpdateTarget."""
        return False

    async def refusal(self) -> RequestError | None:
        """See UpdateTarget; what needs a look at the disk is refused by :meth:`plan`."""
        agent = self._find()
        if agent is None:
            return RequestError(
                RequestFault.PRECONDITION, f"agent {self._agent_id!r} is not in the configuration"
            )
        if "/" not in agent.binary_path:
            return RequestError(
                RequestFault.PRECONDITION,
                f"the binary of agent {self._agent_id} ({agent.binary_path!r}) was not found on PATH, so "
                "there is no place to put the new one; write binary_path with its full path",
            )
        return None

    async def installed(self) -> str:
        """See UpdateTarget."""
        agent = self._find()
        return agent.version if agent is not None else ""

    def rooms(self) -> tuple[Path, ...]:
        """See UpdateTarget."""
        agent = self._find()
        backups = self._files.backups.directory
        return (Path(agent.binary_path).parent, backups) if agent is not None else (backups,)

    def _find(self) -> UpdatableAgent | None:
        return next((a for a in self._agents.updatable() if a.agent_id == self._agent_id), None)

    def _need(self) -> UpdatableAgent:
        agent = self._find()
        if agent is None:
            raise UpdateApplyError(
                f"agent {self._agent_id} has left the configuration; nothing can be updated"
            )
        return agent

    async def _sharing(self, target: Path) -> list[UpdatableAgent]:
        """The agents that run that file, ours first."""
        agents = list(self._agents.updatable())
        paths = [agent.binary_path for agent in agents]
        sharing = await self._run(lambda: [leads_through(path, target) for path in paths])
        found = [agent for agent, shares in zip(agents, sharing, strict=True) if shares]
        return sorted(found, key=lambda agent: agent.agent_id != self._agent_id)

    async def _ours(self, applied: Applied) -> list[UpdatableAgent]:
        """The agents that run what is replaced, ours among them.

        Raises:
            UpdateApplyError: ours is not, since a reload: whatever is put there would prove nothing.
        """
        agent, agents = self._need(), await self._sharing(Path(applied.target))
        if agent not in agents:
            raise UpdateApplyError(
                f"binary_path of agent {self._agent_id} has become {agent.binary_path} since the update of "
                f"{applied.target} was planned; ask for it again"
            )
        return agents

    # ------------------------------------------------------- before it is applied

    async def plan(self, job: Job) -> Applied:
        """See UpdateTarget."""
        agent = self._need()
        place = await self._run(place_of, agent.binary_path)
        self._claim(str(place.path), job)
        applied, kept = await self._run(self._files.plan, agent.binary_path, agent.version, job)
        sharing = await self._sharing(Path(applied.target))
        now = self._clock.seconds()
        ran = tuple(a.agent_id for a in sharing if not a.down and look_at(a, now).well)
        self._notes = _Notes(job_id=job.id, kept=kept)
        return msgspec.structs.replace(applied, ran=ran)

    async def discard(self, job: Job) -> None:
        """See UpdateTarget."""
        agent = self._find()
        path = agent.binary_path if agent is not None else ""
        try:
            await self._run(self._files.backups.sweep, self._agent_id)
            if await self._is_ours(job, path):  # else what is staged there is another update's
                await self._run(self._files.discard, path, job)
        except UpdateApplyError as error:
            self.log.warn(
                "what update {update_id} left beside the binary of agent {agent_id} stays: {error}",
                update_id=job.id, agent_id=self._agent_id, error=error.message,
            )
        finally:
            self._claims.let_go(job.id)

    async def _is_ours(self, job: Job, binary_path: str) -> bool:
        """Whether this update has, or can have, the file it is about; another daemon may have planned it."""
        target = job.applied.target if job.applied is not None else ""
        if not target and binary_path:
            target = str((await self._run(place_of, binary_path)).path)
        return not target or not self._claims.take(target, job.id)

    def _claim(self, target: str, job: Job) -> None:
        """The file is this update's until it is over.

        Raises:
            UpdateApplyError: it is another's.
        """
        other = self._claims.take(target, job.id)
        if other:
            raise UpdateApplyError(
                f"update {other} of another agent replaces {target}, which {self._agent_id} runs too;"
                " ask again when it is over"
            )

    async def preflight(self, job: Job) -> None:
        """See UpdateTarget. The program is tried beside its place: the staging folder is closed to the
        agent's user and may be mounted noexec, but from there the agent has to run anyway."""
        agent, applied = self._need(), _planned(job)
        self._notes.trial = {"preflight": "skipped: the agent has no version_command that runs its binary"}
        path = await self._run(stage, job, job.main, Path(applied.target), rights_in(applied))
        try:
            trial = await agent.try_binary(str(path))
        finally:
            await self._run(unstage, Path(applied.target))
        if trial is None:
            return
        if trial.error:
            raise UpdateApplyError(
                f"version {job.version} of {self._agent_id} does not execute here: {trial.error}; "
                "build it for this host's architecture and libraries",
                evidence=msgspec.to_builtins(trial),
            )
        if trial.timed_out or trial.status.signal is not None:
            how = "does not end" if trial.timed_out else f"is killed by signal {trial.status.signal}"
            raise UpdateApplyError(
                f"version {job.version} of {self._agent_id} {how} when it is asked for its version; "
                "run its version command by hand to see why",
                evidence=msgspec.to_builtins(trial),
            )
        self._notes.trial = {
            "preflight": "executed", "exit_code": trial.status.code, "printed_version": trial.version,
            "version_differs": bool(trial.version) and trial.version != job.version,
        }

    # --------------------------------------------------------------- applying it

    async def apply(self, job: Job) -> None:
        """See UpdateTarget. What can fail without touching the agent (room, rights) fails before the hold."""
        applied = _planned(job)
        self._begin(job)
        self._claim(applied.target, job)
        agents = await self._ours(applied)
        await self._run(stage_all, job, applied)
        await self._run(faults.hit, "update.agent.staged")
        await self._hold(agents, f"being updated to {job.version or 'the version before'}")
        await self._run(faults.hit, "update.agent.held")
        await self._run(replace_all, job, applied)
        self._release()
        await self._run(faults.hit, "update.agent.released")

    def _begin(self, job: Job) -> None:
        if self._notes.job_id != job.id:  # another daemon did what came before
            self._notes = _Notes(job_id=job.id)

    async def _hold(self, agents: Sequence[UpdatableAgent], why: str) -> None:
        """All of them at once; each is down, or this fails and those that are down stay held.

        Raises:
            UpdateApplyError: one of them does not end.
            RequestError: the daemon stops.
        """
        self._held += [agent for agent in agents if agent not in self._held]
        holding = [_deferred(agent.hold(why)) for agent in agents]
        for success, result in await DeferredList(holding, consumeErrors=True):
            if success:
                continue
            failure = cast(Failure, result)
            if isinstance(failure.value, AgentStopError):
                raise UpdateApplyError(f"it cannot be stopped: {failure.value.message}") from failure.value
            failure.raiseException()

    def _release(self) -> None:
        """Lets go of whom we hold, nobody else's."""
        held, self._held = self._held, []
        if held:
            self._notes.released = tuple(held)
            self._notes.exits = {agent.agent_id: agent.exits_total for agent in held if not agent.down}
        for agent in held:
            agent.release()

    # --------------------------------------------------------------- verifying it

    async def verify(self, job: Job) -> Mapping[str, Any]:
        """See UpdateTarget."""
        applied, config = _planned(job), self._config()
        self._begin(job)
        agents = list(self._notes.released)  # also one that has left the configuration since
        if not agents:  # another daemon released them
            agents = await self._ours(applied)
        up = [agent for agent in agents if agent.agent_id in self._notes.exits or not agent.down]
        evidence: dict[str, Any] = {
            "sha256": applied.new_sha256, "old_sha256": applied.old_sha256, **self._notes.trial,
            "agents": {a.agent_id: {"started": False, "why": "it is not wanted running"} for a in agents},
        }
        if self._notes.kept:
            evidence["kept_files"] = list(self._notes.kept)
        terms = Terms(period_s=config.verify_period, timeout_s=config.verify_timeout)
        proofs = await self._prove(up, terms)
        evidence["agents"] |= {agent_id: dict(proof.evidence()) for agent_id, proof in proofs.items()}
        for agent in up:
            proof = proofs[agent.agent_id]
            if proof.finding is Finding.FAILED:
                lines = await self._last_lines(agent)
                evidence["agents"][agent.agent_id] |= {"reason": proof.reason, "last_lines": lines}
                self._notes.failed = evidence
                raise UpdateApplyError(
                    f"agent {agent.agent_id} with version {job.version} is not well: {proof.reason}",
                    evidence=evidence, agent_id=agent.agent_id,
                )
        return evidence

    async def _prove(self, agents: Sequence[UpdatableAgent], terms: Terms) -> dict[str, Proof]:
        """See :func:`daemon.updater.agent.proving.prove`.

        Raises:
            CancelledError: the daemon stops.
        """
        if self._leaving:
            raise CancelledError
        proving = Deferred.fromCoroutine(prove(self._clock, agents, self._notes.exits, terms))
        self._proving = proving
        try:
            return await proving
        finally:
            self._proving = None

    def leave(self) -> None:
        """See UpdateTarget."""
        self._leaving = True
        if self._proving is not None:
            self._proving.cancel()

    async def _last_lines(self, agent: UpdatableAgent) -> list[str]:
        try:
            return list(await self._threads.run(LANE, LOG_DEADLINE_S, agent.last_lines))
        except (LaneBusy, LaneTimeout) as error:
            return [f"(the log cannot be read: {error})"]

    # -------------------------------------------------------------- rolling back

    async def roll_back(self, job: Job) -> Mapping[str, Any]:
        """See UpdateTarget. The files are put back also when a process would not end: what starts next is
        then the old version."""
        self._begin(job)
        self._claims.take(_planned(job).target, job.id)  # where it is another's, that is found in place
        try:
            return await self._roll_back(job, _planned(job))
        finally:
            self._claims.let_go(job.id)

    async def _roll_back(self, job: Job, applied: Applied) -> Mapping[str, Any]:
        try:
            agents = await self._sharing(Path(applied.target))
            failed = self._notes.failed or await self._evidence_of_failed(applied, agents)
            restored = await self._restore(job, applied, agents)
        except UpdateApplyError as error:
            raise UpdateRollbackError(f"{self._agent_id}: {error.message}", backup=applied.backup) from error
        finally:
            self._release()
        evidence: dict[str, Any] = {
            "failed": failed, "sha256": restored.sha256, "restored": restored.changed, "agents": {},
        }
        if restored.left:
            evidence["left_alone"] = list(restored.left)
        evidence["agents"] = await self._prove_old(job, applied, agents, evidence)
        return evidence

    async def _evidence_of_failed(
        self, applied: Applied, agents: Sequence[UpdatableAgent]
    ) -> Mapping[str, Any]:
        """Of a version whose proof this daemon did not see fail: as it is before anything is put back."""
        found: dict[str, Any] = {"sha256": applied.new_sha256, "agents": {}}
        for agent in agents:
            found["agents"][agent.agent_id] = {
                "state": agent.state.value,
                "verdict": msgspec.to_builtins(agent.verdict),
                "last_exit": msgspec.to_builtins(agent.last_exit),
                "last_lines": await self._last_lines(agent),
            }
        return found

    async def _restore(self, job: Job, applied: Applied, agents: Sequence[UpdatableAgent]) -> Restored:
        if not await self._run(touched, applied):
            return await self._run(restore_all, job, applied, None)  # what is staged goes, nobody is stopped
        backup = None
        if applied.backup:  # before anything is stopped: a damaged one must not leave the agent down
            backup = await self._run(self._files.backups.load, applied.backup, self._agent_id)
        stuck: UpdateApplyError | None = None
        try:
            await self._hold(agents, f"being rolled back to {job.old_version or 'the version before'}")
        except UpdateApplyError as error:
            stuck = error
        await self._run(faults.hit, "update.agent.undo")
        restored = await self._run(restore_all, job, applied, backup)
        if stuck is not None:
            raise UpdateRollbackError(
                f"the files of {self._agent_id} are restored, but its process still runs the version that "
                f"failed: {stuck.message}; end it by hand, the daemon then starts the old one",
                backup=applied.backup, sha256=restored.sha256,
            )
        return restored

    async def _prove_old(
        self, job: Job, applied: Applied, agents: Sequence[UpdatableAgent], evidence: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Those that ran before run again; the others are as they were, which nobody can prove.

        Raises:
            UpdateRollbackError: one of them does not.
        """
        config = self._config()
        told: dict[str, Any] = {}
        for agent in agents:
            ran = agent.agent_id in applied.ran
            why = "it is not wanted running" if ran else "it did not run well before the update"
            told[agent.agent_id] = {"proven": False, "why": why}
        proving = [agent for agent in agents if agent.agent_id in applied.ran and not agent.down]
        terms = Terms(period_s=config.verify_period, timeout_s=config.verify_timeout, patient=True)
        while proving:
            proofs = await self._prove(proving, terms)
            left = [a for a in proving if proofs[a.agent_id].cause in (Cause.DOWN, Cause.GONE)]
            told |= {
                agent_id: {"proven": proof.finding is Finding.PROVEN, **proof.evidence()}
                for agent_id, proof in proofs.items()
            }
            if left:  # an operator's word meanwhile is no fault of the old version
                told |= {a.agent_id: {"proven": False, "why": proofs[a.agent_id].reason} for a in left}
                proving = [agent for agent in proving if agent not in left]
                continue
            for agent in proving:
                proof = proofs[agent.agent_id]
                if proof.finding is Finding.FAILED:
                    raise UpdateRollbackError(
                        f"the old version of {agent.agent_id} is back in place, but does not run as before: "
                        f"{proof.reason}; read its log and start it by hand",
                        evidence={**evidence, "agents": told}, backup=applied.backup,
                    )
            break
        return told

    # ----------------------------------------------------------------- afterwards

    async def prune(self, job: Job, keep: int) -> None:
        """See UpdateTarget; also notes what is installed, for the next update or a roll-back on request."""
        try:
            await self._run(self._files.finish, job, _planned(job), keep)
        finally:
            self._claims.let_go(job.id)

    async def previous(self) -> Job | None:
        """See UpdateTarget; the job has no id and no staging folder yet."""
        agent = self._find()
        if agent is None:
            return None
        try:
            return await self._run(self._files.previous, agent.binary_path, agent.version)
        except (UpdateApplyError, UpdateRollbackError) as error:
            self.log.warn(
                "agent {agent_id} has no version to go back to: {error}",
                agent_id=self._agent_id, error=error.message,
            )
            return None

    # --------------------------------------------------------------------- small

    async def _run(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """File work, on the lane.

        Raises:
            UpdateApplyError: D4003, also for what the disk refuses.
        """
        try:
            return await self._threads.run(LANE, FILES_DEADLINE_S, call, *args, **kwargs)
        except (LaneBusy, LaneTimeout) as error:
            raise UpdateApplyError(
                f"the disk does not answer ({error}); mend it, then update {self._agent_id} again"
            ) from error
        except StorageError as error:
            raise UpdateApplyError(error.message) from error
        except OSError as error:
            told = storage_error("update", Path(error.filename or self._agent_id), error).message
            raise UpdateApplyError(told, errno=error.errno or 0) from error


def _planned(job: Job) -> Applied:
    if job.applied is None:
        raise UpdateApplyError("nothing was planned; a fault of the daemon")
    return job.applied


def _deferred(work: Any) -> Deferred[None]:
    return work if isinstance(work, Deferred) else Deferred.fromCoroutine(work)
