"""All agents together: taking them back at start, operations on all, leaving them at the end."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import msgspec
from twisted.application.service import Service
from twisted.internet.defer import Deferred, DeferredList, gatherResults
from twisted.logger import Logger
from twisted.python.failure import Failure

from daemon.agents.instance import AgentInstance
from daemon.agents.metadata import AgentMetadata
from daemon.agents.operations import Outcome
from daemon.agents.registry import AgentRegistry
from daemon.agents.world import AgentWorld
from daemon.config.schema import AgentConfig
from daemon.errors import DaemonError, RequestError
from daemon.model.agent import AgentState
from daemon.procfs.marks import read_mark
from daemon.procfs.stat import read_stat
from daemon.procfs.table import ProcessTable

LEAVE_PATIENCE_S = 30.0  # work in hand (a stop under way) may end; then the daemon goes


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What became of one agent in an operation on all."""

    success: bool
    error: str = ""


def agent_token(secret: bytes, agent_id: str) -> str:
    """An agent's 128-bit mark in hex: made of the work_dir's random secret, so it survives a lost file."""
    return hmac.new(secret, agent_id.encode(), hashlib.sha256).hexdigest()[:32]


class MultiAgentManager(Service):
    """The agents of this daemon. Also the :class:`daemon.interfaces.AgentDirectory`.

    Args:
        world: the rest of the daemon.
        registry: holds the agents.
        secret: the work_dir's, for the marks.
        on_transition: hears the agent's id, its old and its new state at every change.
        on_leader: hears that another process leads an agent, or none, by its id.

    Attributes:
        adopted_total: agents taken back at start.
    """

    log = Logger()

    def __init__(
        self, world: AgentWorld, registry: AgentRegistry, *, secret: bytes,
        on_transition: Callable[[str, AgentState, AgentState], None] = lambda a, o, n: None,
        on_leader: Callable[[str], None] = lambda agent_id: None,
    ) -> None:
        self.registry = registry
        self.adopted_total = 0
        self._world = world
        self._secret = secret
        self._on_transition = on_transition
        self._on_leader = on_leader
        self._leaders: dict[int, AgentInstance] = {}

    # ------------------------------------------------------------------ start

    def take_over(self, specs: Iterable[AgentConfig], table: ProcessTable) -> None:
        """Registers the configured agents and those that have left the file, and takes back what runs.

        Blocks for the reading of the metadata: for the start only.

        Raises:
            StorageError: the metadata cannot be read at all.
        """
        remembered = self._world.store.load_all()
        for spec in specs:
            self._add(spec.id, spec, remembered.pop(spec.id, None))
        for agent_id, metadata in remembered.items():
            self._add(agent_id, None, metadata)
        for agent in self.registry.list():
            agent.take_over(table)
            self.adopted_total += bool(agent.pid)

    def _add(self, agent_id: str, spec: AgentConfig | None, metadata: AgentMetadata | None) -> AgentInstance:
        now = self._world.wall()
        if metadata is None:
            metadata = AgentMetadata(
                id=agent_id, created_at=now, updated_at=now, boot_id=self._world.boot_id,
                mark=agent_token(self._secret, agent_id),
                type=spec.type.value if spec is not None else "custom",
            )
        if not metadata.mark:  # an edited file; without its mark the agent would not be found
            metadata = msgspec.structs.replace(metadata, mark=agent_token(self._secret, agent_id))
        agent = AgentInstance(agent_id, spec, metadata, self._world, self)
        self.registry.register(agent)
        return agent

    def start_missing(self) -> None:
        """Starts what should run and does not, stops what should not run and does."""
        for agent in self.registry.list():
            agent.reconcile()

    def apply(self, specs: Iterable[AgentConfig]) -> None:
        """Takes a new configuration: new agents start, removed ones stop, others change as they must."""
        by_id = {spec.id: spec for spec in specs}
        for agent in self.registry.list():
            agent.apply_spec(by_id.pop(agent.agent_id, None))
        for spec in by_id.values():
            self._add(spec.id, spec, None).reconcile()

    # ------------------------------------------------------------- operations

    def start(self, agent_id: str) -> Deferred[Outcome]:
        """See :meth:`AgentInstance.start`; RequestError when it is unknown."""
        return self.registry.get(agent_id).start()

    def stop(self, agent_id: str, *, graceful: bool = True) -> Deferred[Outcome]:
        """See :meth:`AgentInstance.stop`; RequestError when it is unknown."""
        return self.registry.get(agent_id).stop(graceful=graceful)

    def restart(self, agent_id: str, *, graceful: bool = True) -> Deferred[Outcome]:
        """See :meth:`AgentInstance.restart`; RequestError when it is unknown."""
        return self.registry.get(agent_id).restart(graceful=graceful)

    def start_all(self) -> Deferred[dict[str, Result]]:
        """Starts every enabled agent; a result for each, whatever became of the others."""
        return self._all(lambda agent: agent.start())

    def stop_all(self, *, graceful: bool = True) -> Deferred[dict[str, Result]]:
        """Stops every enabled agent; see :meth:`start_all`."""
        return self._all(lambda agent: agent.stop(graceful=graceful))

    def restart_all(self, *, graceful: bool = True) -> Deferred[dict[str, Result]]:
        """Restarts every enabled agent; see :meth:`start_all`."""
        return self._all(lambda agent: agent.restart(graceful=graceful))

    def _all(self, verb: Callable[[AgentInstance], Deferred[Outcome]]) -> Deferred[dict[str, Result]]:
        agents = [agent for agent in self.registry.list() if agent.enabled]
        work = [verb(agent).addCallbacks(_success, _failure) for agent in agents]
        gathered = gatherResults(work, consumeErrors=True)
        return gathered.addCallback(
            lambda results: {a.agent_id: r for a, r in zip(agents, results, strict=True)}
        )

    # -------------------------------------------------------------- directory

    def supervised(self) -> tuple[AgentInstance, ...]:
        """See AgentRoster."""
        return self.registry.list()

    def updatable(self) -> tuple[AgentInstance, ...]:
        """See UpdatableAgents."""
        return tuple(agent for agent in self.registry.list() if agent.spec is not None)

    def find(self, agent_id: str) -> AgentInstance | None:
        """See AgentDirectory."""
        return self.registry.find(agent_id)

    def owner_of(self, pid: int) -> AgentInstance | None:
        """See AgentDirectory."""
        stat = read_stat(pid) if pid > 0 else None
        if stat is None:  # an unreaped zombie still counts: its pid is nobody else's
            return None
        agent = self._leaders.get(pid) or self._leaders.get(stat.session)
        if agent is not None:
            return agent
        mark = read_mark(pid)
        if mark is None:
            return None
        return next((a for a in self.registry.list() if a.metadata.mark == mark.token), None)

    # ---------------------------------------------------------------- observer

    def leader_changed(self, agent_id: str, old_pid: int, new_pid: int) -> None:
        """See SupervisionObserver."""
        if old_pid:
            self._leaders.pop(old_pid, None)
        if new_pid:
            self._leaders[new_pid] = self.registry.get(agent_id)
        self._on_leader(agent_id)

    def state_changed(self, agent_id: str, old: AgentState, new: AgentState) -> None:
        """See SupervisionObserver."""
        self._on_transition(agent_id, old, new)

    def forgotten(self, agent_id: str) -> None:
        """See SupervisionObserver."""
        self.registry.unregister(agent_id)
        self.log.info("agent {agent_id} has left the configuration", agent_id=agent_id)

    # --------------------------------------------------------------------- end

    async def leave(self) -> None:
        """Lets work in hand end (30 s at most) and leaves every agent running."""
        agents = self.registry.list()
        work = DeferredList([agent.leave() for agent in agents], consumeErrors=True)
        timer = self._world.clock.callLater(LEAVE_PATIENCE_S, work.cancel)
        ended = await work
        if not all(success for success, _result in ended):
            self.log.warn("a stop of an agent is still under way; the next daemon finishes it")
        if timer.active():
            timer.cancel()
        for agent in agents:
            agent.let_go()
        await self._world.store.stop()

    def stopService(self) -> Deferred[None]:
        """Leaves; see :meth:`leave`."""
        super().stopService()
        return Deferred.fromCoroutine(self.leave())


def _success(_outcome: Outcome) -> Result:
    return Result(success=True)


def _failure(failure: Failure) -> Result:
    error = failure.value
    if isinstance(error, (DaemonError, RequestError)):
        return Result(success=False, error=str(error) if isinstance(error, DaemonError) else error.message)
    MultiAgentManager.log.failure("an operation on all agents", failure=failure)
    return Result(success=False, error="an internal fault; the daemon's log says more")

