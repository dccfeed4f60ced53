"""The daemon's verbs and views, once: HTTP, gRPC and the command line say the same because they ask here."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from daemon import __version__
from daemon.agents.instance import AgentInstance
from daemon.agents.manager import MultiAgentManager, Result
from daemon.agents.operations import Outcome, Verb
from daemon.agents.world import AgentWorld
from daemon.collectors.manager import CollectorManager
from daemon.config.secrets import named_shown
from daemon.control.config_manager import ConfigManager
from daemon.control.node import NodeFacts
from daemon.control.records import Records
from daemon.control.views import AgentView, ConfigState, ManagerState, NodeView, agent_view
from daemon.errors import DaemonError, RequestError, RequestFault
from daemon.events.bus import EventBus
from daemon.model.agent import AgentState
from daemon.model.event import Severity
from daemon.model.metrics import Metrics
from daemon.model.moment import rfc3339_or_none
from daemon.updater.manager import UpdateManager

OPERATION_PATIENCE_S = 90.0  # then the answer says that it goes on

Check = Callable[[], str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Operated:
    """The answer to an operation.

    Attributes:
        view: the agent afterwards.
        in_progress: it goes on; the view is of now.
        warnings: what the operator should know although it succeeded.
    """

    view: AgentView
    in_progress: bool = False
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckResult:
    """One check of readiness; ``error`` is empty when it passes."""

    name: str
    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSettings:
    """What the node view repeats of the configuration."""

    labels: Mapping[str, str]
    work_dir: str
    heartbeat_socket: str
    control_socket: str
    manager_address: str
    started_at: float


class Control:
    """What edges may ask of the daemon.

    Args:
        agents: all agents.
        world: the agents' world, for clocks and paths.
        collectors: host metrics.
        bus: events.
        facts: who the node is.
        settings: for the node view.
        records: history, logs and alerts of agents.
        config: the configuration in force, and its reload.
        updates: of agents and of the daemon itself.
        checks: of readiness; each returns what is wrong, or an empty text.

    Attributes:
        manager_state: tells of the link to the Manager; whoever makes the link sets it.
    """

    log = Logger()

    def __init__(
        self, *, agents: MultiAgentManager, world: AgentWorld, collectors: CollectorManager, bus: EventBus,
        facts: NodeFacts, settings: NodeSettings, records: Records, config: ConfigManager,
        updates: UpdateManager, checks: Mapping[str, Check],
    ) -> None:
        self.agents = agents
        self.collectors = collectors
        self.bus = bus
        self.records = records
        self.config = config
        self.updates = updates
        self._world = world
        self._facts = facts
        self._settings = settings
        self._checks = checks
        self.manager_state: Callable[[], ManagerState] = lambda: ManagerState(
            address=settings.manager_address
        )

    # ------------------------------------------------------------------ views

    def list_agents(self, agent_type: str = "") -> tuple[AgentView, ...]:
        """Every agent, or those of one type."""
        registry = self.agents.registry
        found = registry.list_by_type(agent_type) if agent_type else registry.list()
        return tuple(self._view(agent) for agent in found)

    def agent(self, agent_id: str) -> AgentView:
        """One agent.

        Raises:
            RequestError: it is unknown.
        """
        return self._view(self.agents.registry.get(agent_id))

    def _view(self, agent: AgentInstance) -> AgentView:
        return agent_view(agent, self._world, self.records.latest(agent.agent_id))

    def metrics(self) -> Mapping[str, Metrics]:
        """The latest sample of every collector."""
        return self.collectors.get_latest()

    def node(self) -> NodeView:
        """This host and its daemon."""
        facts, settings = self._facts, self._settings
        states = Counter(agent.state.value for agent in self.agents.registry.list())
        loaded, manager = self.config.state(), self.manager_state()
        return NodeView(
            node_id=facts.node_id,
            hostname=facts.hostname,
            ip=facts.ip,
            os=facts.os,
            arch=facts.arch,
            labels=named_shown(settings.labels),
            daemon_version=__version__,
            agent_version=self.agent_version(),
            register_at=manager.registered_at,
            started_at=rfc3339_or_none(settings.started_at),
            pid=os.getpid(),
            work_dir=settings.work_dir,
            heartbeat_socket=settings.heartbeat_socket,
            control_socket=settings.control_socket,
            config=ConfigState(
                path=loaded.path, loaded_at=rfc3339_or_none(loaded.loaded_at), ok=loaded.ok,
                error=loaded.error or None, needs_restart=loaded.needs_restart,
            ),
            manager=manager,
            agents={state.value: states.get(state.value, 0) for state in AgentState},
            alerts=len(self.records.standing()),
            storage_error=self._world.store.failing or None,
            events_lost=self.bus.lost_total,
        )

    def agent_version(self) -> str:
        """The version of the first agent that has told one."""
        versions = (agent.metadata.version for agent in self.agents.registry.list())
        return next((version for version in versions if version), "")

    def readiness(self) -> tuple[CheckResult, ...]:
        """Every check of readiness; agents' health and the Manager are none of them."""
        return tuple(CheckResult(name=name, error=check()) for name, check in self._checks.items())

    # ------------------------------------------------------------------ verbs

    def operate(
        self, agent_id: str, verb: Verb, *, graceful: bool = True, peer: str = "",
        patience_s: float = OPERATION_PATIENCE_S,
    ) -> Deferred[Operated]:
        """Starts, stops or restarts one agent.

        The operation is the daemon's from here on: cancelling the Deferred leaves it running.

        Returns:
            fires when it is done, or with ``in_progress`` after ``patience_s``; fails with AgentStartError,
            AgentStopError, or RequestError (unknown, superseded, refused, stopping).

        Raises:
            RequestError: the agent is unknown.
        """
        agent = self.agents.registry.get(agent_id)
        begun = self._world.clock.seconds()
        if verb is Verb.START:
            work = agent.start()
        elif verb is Verb.STOP:
            work = agent.stop(graceful=graceful)
        else:
            work = agent.restart(graceful=graceful)
        answer: Deferred[Operated] = Deferred(lambda _left: None)
        timer = self._world.clock.callLater(patience_s, self._goes_on, agent_id, answer)

        def done(outcome: Outcome | Failure) -> None:
            if timer.active():
                timer.cancel()
            self._audit(agent_id, verb, peer, outcome, self._world.clock.seconds() - begun)
            if answer.called:
                return
            if isinstance(outcome, Failure):
                answer.errback(outcome)
                return
            try:
                view = self._view(agent)
            except Exception:  # noqa: BLE001 - whoever waits hears of a fault of ours, too
                answer.errback()
                return
            answer.callback(Operated(view=view, warnings=outcome.warnings))

        work.addBoth(done)
        return answer

    def _goes_on(self, agent_id: str, answer: Deferred[Operated]) -> None:
        if answer.called:
            return
        try:
            answer.callback(Operated(view=self.agent(agent_id), in_progress=True))
        except RequestError as error:  # it left the configuration meanwhile
            answer.errback(error)

    def operate_all(
        self, verb: Verb, *, graceful: bool = True, peer: str = ""
    ) -> Deferred[dict[str, Result]]:
        """Starts, stops or restarts every enabled agent; a result for each."""
        begun = self._world.clock.seconds()
        if verb is Verb.START:
            work = self.agents.start_all()
        elif verb is Verb.STOP:
            work = self.agents.stop_all(graceful=graceful)
        else:
            work = self.agents.restart_all(graceful=graceful)
        answer: Deferred[dict[str, Result]] = Deferred(lambda _left: None)

        def done(results: dict[str, Result] | Failure) -> None:
            self._audit("", verb, peer, results, self._world.clock.seconds() - begun)
            if answer.called:
                if isinstance(results, Failure):
                    self.log.failure("operation on all agents", failure=results)
                return
            if isinstance(results, Failure):
                answer.errback(results)
            else:
                answer.callback(results)

        work.addBoth(done)
        return answer

    def _audit(self, agent_id: str, verb: Verb, peer: str, outcome: object, duration_s: float) -> None:
        """Every operation by an operator is an event: who, what, how it went."""
        failed = ""
        if isinstance(outcome, Failure):
            error = outcome.value
            failed = error.message if isinstance(error, (DaemonError, RequestError)) else repr(error)
        elif isinstance(outcome, dict):
            failed = ", ".join(f"{name}: {r.error}" for name, r in outcome.items() if not r.success)
        target = f"agent {agent_id}" if agent_id else "all agents"
        self.bus.publish(
            "operation",
            f"{verb.value} of {target} by {peer or 'the daemon'}: {failed or 'done'}",
            severity=Severity.WARN if failed else Severity.INFO,
            agent_id=agent_id,
            data={"verb": verb.value, "peer": peer, "error": failed, "duration_s": round(duration_s, 3)},
        )


def parse_verb(text: str) -> Verb:
    """One of the three verbs.

    Raises:
        RequestError: it is none.
    """
    try:
        return Verb(text)
    except ValueError:
        raise RequestError(
            RequestFault.INVALID, f"unknown operation {text!r}; it must be start, stop or restart"
        ) from None
