"""An agent as the target of an update: its binary is replaced while it is held down, and must prove itself.

Agents that share the binary, or reach it through a link, are held, started and proven together: the file they
run changes for all of them. File work runs on a lane of its own. Of two updates of the same file that were
asked for through different agents the second one is refused before it changes anything.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
from twisted.logger import Logger

from daemon import faults
from daemon.aio.reactor import Clock
from daemon.aio.threads import Threads
from daemon.config.schema import UpdateConfig
from daemon.errors import RequestError, RequestFault, UpdateApplyError, UpdateRollbackError
from daemon.interfaces import UpdatableAgents, WallClock
from daemon.updater.agent.claims import Claims
from daemon.updater.agent.crew import Crew
from daemon.updater.agent.disk import Disk
from daemon.updater.agent.files import AgentFiles
from daemon.updater.agent.placing import place_of
from daemon.updater.agent.proof import Finding
from daemon.updater.agent.proving import Terms, look_at
from daemon.updater.agent.replacing import replace_all, rights_in, stage, stage_all, unstage
from daemon.updater.agent.trial import judge_trial
from daemon.updater.agent.way_back import WayBack
from daemon.updater.target import Applied, Job

CUSTOM = "custom"  # a type that says nothing of what the program is


@dataclass(slots=True)
class _Notes:
    """What one daemon knows of an update under way; the journal has what the next one needs.

    Attributes:
        trial: what the preflight came to.
        kept: further files that were there already and are not ours.
        failed: evidence about the new version, taken when it failed.
    """

    job_id: str = ""
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
        self._config = config
        self._clock = clock
        self._claims = claims
        self._files = AgentFiles(agent_id, config, wall)
        self._disk = Disk(agent_id, threads)
        self._crew = Crew(agent_id, agents, clock, self._disk)
        self._way_back = WayBack(agent_id, self._crew, self._disk, self._files.backups, config)
        self._notes = _Notes()

    # ------------------------------------------------------------------- facts

    @property
    def name(self) -> str:
        """See UpdateTarget."""
        return self._agent_id

    @property
    def components(self) -> frozenset[str]:
        """See UpdateTarget."""
        agent = self._crew.find()
        type = agent.type if agent is not None else CUSTOM
        return frozenset({self._agent_id} | ({type} - {CUSTOM}))

    @property
    def hands_over(self) -> bool:
        """See UpdateTarget."""
        return False

    async def refusal(self) -> RequestError | None:
        """See UpdateTarget; what needs a look at the disk is refused by :meth:`plan`."""
        agent = self._crew.find()
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
        agent = self._crew.find()
        return agent.version if agent is not None else ""

    def rooms(self) -> tuple[Path, ...]:
        """See UpdateTarget."""
        agent = self._crew.find()
        backups = self._files.backups.directory
        return (Path(agent.binary_path).parent, backups) if agent is not None else (backups,)

    # ------------------------------------------------------- before it is applied

    async def plan(self, job: Job) -> Applied:
        """See UpdateTarget."""
        agent = self._crew.need()
        place = await self._disk.run(place_of, agent.binary_path)
        self._claim(str(place.path), job)
        applied, kept = await self._disk.run(self._files.plan, agent.binary_path, agent.version, job)
        sharing = await self._crew.sharing(Path(applied.target))
        now = self._clock.seconds()
        ran = tuple(a.agent_id for a in sharing if not a.down and look_at(a, now).well)
        self._crew.forget()
        self._notes = _Notes(job_id=job.id, kept=kept)
        return msgspec.structs.replace(applied, ran=ran)

    async def discard(self, job: Job) -> None:
        """See UpdateTarget."""
        agent = self._crew.find()
        path = agent.binary_path if agent is not None else ""
        try:
            await self._disk.run(self._files.backups.sweep, self._agent_id)
            if await self._is_ours(job, path):  # else what is staged there is another update's
                await self._disk.run(self._files.discard, path, job)
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
            target = str((await self._disk.run(place_of, binary_path)).path)
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
        agent, applied = self._crew.need(), _planned(job)
        path = await self._disk.run(stage, job, job.main, Path(applied.target), rights_in(applied))
        try:
            trial = await agent.try_binary(str(path))
        finally:
            await self._disk.run(unstage, Path(applied.target))
        self._notes.trial = judge_trial(trial, agent_id=self._agent_id, version=job.version)

    # --------------------------------------------------------------- applying it

    async def apply(self, job: Job) -> None:
        """See UpdateTarget. What can fail without touching the agent (room, rights) fails before the hold."""
        applied = _planned(job)
        self._begin(job)
        self._claim(applied.target, job)
        agents = await self._crew.ours(Path(applied.target))
        await self._disk.run(stage_all, job, applied)
        await self._disk.run(faults.hit, "update.agent.staged")
        await self._crew.hold(agents, f"being updated to {job.version or 'the version before'}")
        await self._disk.run(faults.hit, "update.agent.held")
        await self._disk.run(replace_all, job, applied)
        self._crew.release()
        await self._disk.run(faults.hit, "update.agent.released")

    def _begin(self, job: Job) -> None:
        if self._notes.job_id != job.id:  # another daemon did what came before
            self._crew.forget()
            self._notes = _Notes(job_id=job.id)

    # --------------------------------------------------------------- verifying it

    async def verify(self, job: Job) -> Mapping[str, Any]:
        """See UpdateTarget."""
        applied, config = _planned(job), self._config()
        self._begin(job)
        agents = list(self._crew.released)
        if not agents:  # another daemon released them
            agents = await self._crew.ours(Path(applied.target))
        up = [agent for agent in agents if agent.agent_id in self._crew.exits or not agent.down]
        evidence: dict[str, Any] = {
            "sha256": applied.new_sha256, "old_sha256": applied.old_sha256, **self._notes.trial,
            "agents": {a.agent_id: {"started": False, "why": "it is not wanted running"} for a in agents},
        }
        if self._notes.kept:
            evidence["kept_files"] = list(self._notes.kept)
        terms = Terms(period_s=config.verify_period, timeout_s=config.verify_timeout)
        proofs = await self._crew.prove(up, terms)
        evidence["agents"] |= {agent_id: dict(proof.evidence()) for agent_id, proof in proofs.items()}
        for agent in up:
            proof = proofs[agent.agent_id]
            if proof.finding is Finding.FAILED:
                lines = await self._disk.last_lines(agent)
                evidence["agents"][agent.agent_id] |= {"reason": proof.reason, "last_lines": lines}
                self._notes.failed = evidence
                raise UpdateApplyError(
                    f"agent {agent.agent_id} with version {job.version} is not well: {proof.reason}",
                    evidence=evidence, agent_id=agent.agent_id,
                )
        return evidence

    def leave(self) -> None:
        """See UpdateTarget."""
        self._crew.leave()

    # -------------------------------------------------------------- rolling back

    async def roll_back(self, job: Job) -> Mapping[str, Any]:
        """See UpdateTarget."""
        self._begin(job)
        self._claims.take(_planned(job).target, job.id)  # where it is another's, that is found in place
        try:
            return await self._way_back.go(job, _planned(job), self._notes.failed)
        finally:
            self._claims.let_go(job.id)

    # ----------------------------------------------------------------- afterwards

    async def prune(self, job: Job, keep: int) -> None:
        """See UpdateTarget; also notes what is installed, for the next update or a roll-back on request."""
        try:
            await self._disk.run(self._files.finish, job, _planned(job), keep)
        finally:
            self._claims.let_go(job.id)

    async def previous(self) -> Job | None:
        """See UpdateTarget; the job has no id and no staging folder yet."""
        agent = self._crew.find()
        if agent is None:
            return None
        try:
            return await self._disk.run(self._files.previous, agent.binary_path, agent.version)
        except (UpdateApplyError, UpdateRollbackError) as error:
            self.log.warn(
                "agent {agent_id} has no version to go back to: {error}",
                agent_id=self._agent_id, error=error.message,
            )
            return None


def _planned(job: Job) -> Applied:
    if job.applied is None:
        raise UpdateApplyError("nothing was planned; a fault of the daemon")
    return job.applied
