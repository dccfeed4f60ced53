"""The way back: the files of the version before are put in place again, and those that ran it are proven."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from daemon import faults
from daemon.config.schema import UpdateConfig
from daemon.errors import UpdateApplyError, UpdateRollbackError
from daemon.interfaces import UpdatableAgent
from daemon.updater.agent.backup import Backuper
from daemon.updater.agent.crew import Crew
from daemon.updater.agent.disk import Disk
from daemon.updater.agent.proof import Cause, Finding
from daemon.updater.agent.proving import Terms
from daemon.updater.agent.replacing import Restored, restore_all, touched
from daemon.updater.target import Applied, Job


class WayBack:
    """Of one agent, and of those that share its binary.

    Args:
        agent_id: its id.
        crew: who is held and proven.
        disk: for the files.
        backups: where the version before lies.
        config: the ``update`` section in force.
    """

    def __init__(
        self, agent_id: str, crew: Crew, disk: Disk, backups: Backuper, config: Callable[[], UpdateConfig]
    ) -> None:
        self._agent_id = agent_id
        self._crew = crew
        self._disk = disk
        self._backups = backups
        self._config = config

    async def go(self, job: Job, applied: Applied, failed: Mapping[str, Any]) -> Mapping[str, Any]:
        """Puts the files back, also when a process would not end: what starts next is then the old version.

        Args:
            job: the update that is undone.
            applied: what it changed.
            failed: evidence about the new version, where this daemon took it.

        Returns:
            evidence.

        Raises:
            UpdateRollbackError: D4004, a person is needed: the backup is damaged, a process does not end, or
                the old version does not run as before.
        """
        try:
            agents = await self._crew.sharing(Path(applied.target))
            failed = failed or await self._evidence_of_failed(applied, agents)
            restored = await self._restore(job, applied, agents)
        except UpdateApplyError as error:
            raise UpdateRollbackError(f"{self._agent_id}: {error.message}", backup=applied.backup) from error
        finally:
            self._crew.release()
        evidence: dict[str, Any] = {
            "failed": failed, "sha256": restored.sha256, "restored": restored.changed, "agents": {},
        }
        if restored.left:
            evidence["left_alone"] = list(restored.left)
        evidence["agents"] = await self._prove_old(applied, agents, evidence)
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
                "last_lines": await self._disk.last_lines(agent),
            }
        return found

    async def _restore(self, job: Job, applied: Applied, agents: Sequence[UpdatableAgent]) -> Restored:
        if not await self._disk.run(touched, applied):
            return await self._disk.run(restore_all, job, applied, None)  # staged files go, nobody is stopped
        backup = None
        if applied.backup:  # before anything is stopped: a damaged one must not leave the agent down
            backup = await self._disk.run(self._backups.load, applied.backup, self._agent_id)
        stuck: UpdateApplyError | None = None
        try:
            await self._crew.hold(agents, f"being rolled back to {job.old_version or 'the version before'}")
        except UpdateApplyError as error:
            stuck = error
        await self._disk.run(faults.hit, "update.agent.undo")
        restored = await self._disk.run(restore_all, job, applied, backup)
        if stuck is not None:
            raise UpdateRollbackError(
                f"the files of {self._agent_id} are restored, but its process still runs the version that "
                f"failed: {stuck.message}; end it by hand, the daemon then starts the old one",
                backup=applied.backup, sha256=restored.sha256,
            )
        return restored

    async def _prove_old(
        self, applied: Applied, agents: Sequence[UpdatableAgent], evidence: Mapping[str, Any]
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
            proofs = await self._crew.prove(proving, terms)
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
