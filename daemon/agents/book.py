"""The book of one agent: its state, what is remembered of it, and what is announced of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
from twisted.logger import Logger, LogLevel

from daemon.agents.complaints import Complaints
from daemon.agents.messages import restart_policy
from daemon.agents.metadata import AgentMetadata
from daemon.agents.restart import HOUR_S, Then, Verdict, after_exit
from daemon.agents.states import may_follow
from daemon.agents.world import AgentWorld
from daemon.config.schema import AgentConfig
from daemon.model.agent import AgentState, ExitStatus, LastExit
from daemon.model.event import Severity

RESTARTS_KEPT = 1000  # of the last hour; the largest max_restarts_per_hour


class AgentBook:
    """Facts of one agent and the only places where they change.

    Args:
        agent_id: its id.
        metadata: what is remembered.
        world: clock, store and events.
        on_transition: hears the old and the new state.

    Attributes:
        state: see :class:`daemon.model.agent.AgentState`.
        state_since: monotonic seconds at which it was entered.
        reason: why, in one phrase.
        metadata: what is remembered, up to date.
        complaints: its alerts.
        exits_total: exits nobody asked for and failed spawns, since this daemon began.
    """

    log = Logger()

    def __init__(
        self, agent_id: str, metadata: AgentMetadata, world: AgentWorld,
        on_transition: Callable[[AgentState, AgentState], None],
    ) -> None:
        self.agent_id = agent_id
        self.metadata = metadata
        self.state = AgentState.STOPPED
        self.state_since = world.clock.seconds()
        self.reason = ""
        self.complaints = Complaints(agent_id, world.alerts)
        self.exits_total = 0
        self._world = world
        self._on_transition = on_transition
        self._held: list[tuple[AgentState, AgentState, str, str]] | None = None

    def transition(self, new: AgentState, reason: str, *, error_code: str = "") -> None:
        """Enters a state the table allows; staying in one only renews the reason.

        Args:
            new: the state.
            reason: why, for people.
            error_code: the D-code of the fault that led to it, for the log.

        Raises:
            AssertionError: the table does not allow it; a fault of ours.
        """
        old = self.state
        self.reason = reason
        if new is old:
            return
        if not may_follow(old, new):
            raise AssertionError(f"agent {self.agent_id}: {old.value} -> {new.value} is not in the table")
        self.state = new
        self.state_since = self._world.clock.seconds()
        if self._held is not None:
            self._held.append((old, new, reason, error_code))
        else:
            self._log_transition(old, new, reason, error_code)
        self._on_transition(old, new)

    @contextmanager
    def quiet(self) -> Iterator[None]:
        """Log lines of transitions wait until the end: a successor must not wait for them."""
        held: list[tuple[AgentState, AgentState, str, str]] = []
        self._held = held
        try:
            yield
        finally:
            self._held = None
            for each in held:
                self._log_transition(*each)

    def _log_transition(self, old: AgentState, new: AgentState, reason: str, error_code: str) -> None:
        # From stopped to restarting is the middle of an update, which somebody asked for.
        again = new is AgentState.RESTARTING and old is not AgentState.STOPPED
        level = LogLevel.warn if again or new is AgentState.FAILED else LogLevel.info
        said = {"reason": reason} if not error_code else {
            "reason": f"{error_code} {reason}", "error_code": error_code,
        }
        self.log.emit(
            level, "agent {agent_id}: {old} -> {new}: {reason}",
            agent_id=self.agent_id, old=old.value, new=new.value, **said,
        )

    def remember(self, **changes: Any) -> None:
        """Changes fields of the metadata and has them on disk soon."""
        self.keep(msgspec.structs.replace(self.metadata, updated_at=self._world.wall(), **changes))

    def keep(self, metadata: AgentMetadata) -> None:
        """Takes new metadata and has it on disk soon."""
        self.metadata = metadata
        self._world.store.save_soon(metadata)

    def publish(
        self, type: str, message: str, *, severity: Severity = Severity.INFO, **data: object
    ) -> None:
        """Announces an event about this agent."""
        self._world.events.publish(
            type, f"agent {self.agent_id}: {message}", severity=severity, agent_id=self.agent_id, data=data
        )

    def last_exit(self, status: ExitStatus, reason: str) -> LastExit:
        """An exit of now, as it is remembered."""
        return LastExit(code=status.code, signal=status.signal, reason=reason, at=self._world.wall())

    def note_exit(
        self, spec: AgentConfig | None, status: ExitStatus, reason: str, *, spawned: bool = True
    ) -> Verdict:
        """Counts an exit (a failed spawn is one too) and asks the restart policy what follows."""
        metadata, now = self.metadata, self._world.clock.seconds()
        self.exits_total += 1
        verdict = after_exit(
            restart_policy(spec), status=status, n=metadata.exits_in_a_row, now_s=now,
            restarts=metadata.restarts_mono, random_unit=self._world.random_unit(), spawned=spawned,
        )
        self.remember(
            identity=None,
            last_exit=self.last_exit(status, reason),
            exits_in_a_row=metadata.exits_in_a_row + 1,
            next_try_mono=None if verdict.delay_s is None else now + verdict.delay_s,
            gave_up=verdict.then is Then.GIVE_UP,
            settled=verdict.then is Then.LEAVE,
            boot_id=self._world.boot_id,
        )
        return verdict

    def count_restart(self) -> None:
        """An automatic restart is being carried out."""
        metadata, now = self.metadata, self._world.clock.seconds()
        recent = tuple(at for at in metadata.restarts_mono if now - at < HOUR_S)
        self.remember(
            restart_count=metadata.restart_count + 1,
            lifetime_restarts=metadata.lifetime_restarts + 1,
            last_restart_at=self._world.wall(),
            restarts_mono=(*recent, now)[-RESTARTS_KEPT:],
        )

    def count_unhealthy(self) -> None:
        """A process is ended because it is unhealthy: one more failure in a row."""
        self.remember(exits_in_a_row=self.metadata.exits_in_a_row + 1)

    def give_up(self, message: str) -> None:
        """``max_retries`` are used up: an alert stands until the count is reset."""
        self.publish("agent.failed", message, severity=Severity.ERROR, code="D3001")
        self.complaints.gave_up(message, self.metadata.exits_in_a_row)

    def recall_giving_up(self) -> None:
        """An earlier daemon gave up: the alert stands again."""
        last = self.metadata.last_exit
        reason = last.reason if last is not None else "it failed too often"
        self.complaints.gave_up(
            f"{reason}; given up before this daemon started; `start` tries again",
            self.metadata.exits_in_a_row,
        )

    def reset_count(self) -> None:
        """It has been healthy long enough: failures before that no longer count."""
        self.complaints.forgiven("healthy long enough")
        if self.metadata.exits_in_a_row or self.metadata.restart_count:
            self.remember(exits_in_a_row=0, restart_count=0)

    def forgive(self, **changes: Any) -> None:
        """The operator's word ends a row of failures: what is tried next is a first try."""
        self.complaints.forgiven("the operator's word counts")
        if self.metadata.gave_up:
            changes |= {"exits_in_a_row": 0, "restart_count": 0, "gave_up": False}
        if changes:
            self.remember(**changes)

    def begin_after_reboot(self) -> None:
        """Nothing of an earlier boot lives, and the fights the agent lost then are over."""
        self.remember(
            identity=None, exits_in_a_row=0, restart_count=0, restarts_mono=(), next_try_mono=None,
            gave_up=False, settled=False, restarting=False, boot_id=self._world.boot_id,
        )
