"""Makes the updater: what is updated by whom; and what only an update needs is imported when one comes."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from daemon.assembly import Parts
from daemon.config.schema import UpdateConfig
from daemon.control.control import CheckResult
from daemon.durable.workdir import WorkDir
from daemon.updater.agent.claims import Claims
from daemon.updater.intake import Intake
from daemon.updater.journal import UpdateJournal
from daemon.updater.known import KnownPackages
from daemon.updater.manager import UpdateManager
from daemon.updater.policy import Outcome
from daemon.updater.selfupdate.handing_over import GivesWay, Invocation
from daemon.updater.selfupdate.installation import Installation
from daemon.updater.selfupdate.proof import SelfProof, as_mapping
from daemon.updater.selfupdate.switching import Surroundings
from daemon.updater.selfupdate.target import DaemonTarget
from daemon.updater.staging import Staging
from daemon.updater.target import UpdateTarget
from daemon.updater.targets import Verdict
from daemon.updater.telling import Teller
from daemon.updater.update import Tools


def make_updates(reactor: Any, parts: Parts, daemon_target: DaemonTarget) -> UpdateManager:
    """The updater; reads and starts nothing yet."""

    def config() -> UpdateConfig:
        return parts.config.in_force.update

    state = WorkDir(Path(parts.config.in_force.daemon.work_dir)).state / "updates"
    known = KnownPackages(state / "known.json", parts.threads)
    made: list[Intake] = []

    def intake() -> Intake:
        if not made:
            made.append(_make_intake(reactor, parts, known))
        return made[0]

    tools = Tools(
        wall=time.time, threads=parts.threads, journal=UpdateJournal(state),
        staging=Staging(lambda: Path(config().download_dir)), intake=intake, config=config,
        teller=Teller(parts.bus, parts.alerts), known=known,
    )
    return UpdateManager(tools, HostTargets(reactor, parts, daemon_target))


def _make_intake(reactor: Any, parts: Parts, known: KnownPackages) -> Intake:
    from daemon.httpclient.fetching import Fetcher
    from daemon.updater.download.downloader import Downloader
    from daemon.updater.fetching import PackageIntake

    downloader = Downloader(
        reactor, Fetcher(reactor, parts.threads, os.environ), parts.threads, boot_id=parts.world.boot_id,
        random_unit=random.random,
    )
    return PackageIntake(
        parts.threads, downloader, lambda: parts.config.in_force.update, known, time.time
    )


def make_daemon_target(
    parts: Parts, readiness: Callable[[], Sequence[CheckResult]], daemon: GivesWay, invocation: Invocation,
    service_manager: Mapping[str, str],
) -> DaemonTarget:
    """The daemon as what is updated; refuses where it does not run from a bundle."""
    proof = SelfProof(parts.world.clock, parts.threads, lambda: as_mapping(readiness()), parts.agents)
    parts.bus.subscribe(proof.hear)
    around = Surroundings(
        settings=lambda: parts.config.in_force.update, invocation=invocation, service_manager=service_manager,
        paths=WorkDir(Path(parts.config.in_force.daemon.work_dir)), clock=parts.world.clock,
        threads=parts.threads, commands=parts.commands, roster=parts.agents, daemon=daemon,
    )
    return DaemonTarget(
        installation=Installation.find(), around=around, config_path=parts.config.path, events=parts.bus,
        proof=proof,
    )


class HostTargets:
    """The agents of this host and its daemon. Implements :class:`daemon.updater.manager.Targets`."""

    def __init__(self, reactor: Any, parts: Parts, daemon_target: DaemonTarget) -> None:
        self._reactor = reactor
        self._parts = parts
        self._daemon = daemon_target
        self._made: dict[str, UpdateTarget] = {}
        self._claims = Claims()

    def agents(self) -> Sequence[str]:
        """See Targets."""
        return [agent.agent_id for agent in self._parts.agents.updatable()]

    def agent(self, agent_id: str) -> UpdateTarget | None:
        """See Targets; one and the same for all updates of the agent."""
        return self.gone(agent_id) if agent_id in self.agents() else None

    def gone(self, agent_id: str) -> UpdateTarget:
        """See Targets."""
        if agent_id not in self._made:
            from daemon.updater.agent.target import AgentTarget

            self._made[agent_id] = AgentTarget(
                agent_id, self._parts.agents, config=lambda: self._parts.config.in_force.update,
                clock=self._reactor, wall=time.time, threads=self._parts.threads, claims=self._claims,
            )
        return self._made[agent_id]

    def daemon(self) -> UpdateTarget:
        """See Targets."""
        return self._daemon

    async def outcome(self, update_id: str) -> Verdict:
        """See Targets."""
        found = await self._daemon.outcome(update_id)
        return Verdict(outcome=Outcome[found.kind.name], reason=found.reason, evidence=found.evidence)
