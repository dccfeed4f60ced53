"""What health checks say of an agent's present process, and the restart that follows from it.

The checks only judge. Whether and when a live but unhealthy agent is restarted is said by its restart
policy; until then it runs on, and if it turns healthy meanwhile the restart is dropped.
"""

from __future__ import annotations

from collections.abc import Callable

from daemon.agents import messages
from daemon.agents.book import AgentBook
from daemon.agents.restart import RestartPolicy, Then, after_unhealthy
from daemon.agents.timers import Timers
from daemon.agents.world import AgentWorld
from daemon.config.schema import Policy
from daemon.model.event import Severity
from daemon.model.health import HealthVerdict


class Illness:
    """The health of one agent's present process.

    Args:
        book: the agent's.
        timers: the agent's; ``ailing`` is ours.
        world: clock, wall time, jitter.
        reconcile: asks the reconcile rule, which carries a restart out when it is due.

    Attributes:
        verdict: the last one on the present process, None before the first.
        since_at: wall time since which its status is what it is.
        well_again_mono: monotonic seconds at which it turned well; None where it was never ill.
        cause: why a restart waits or is due, in one sentence; empty for none.
    """

    def __init__(
        self, book: AgentBook, timers: Timers, world: AgentWorld, reconcile: Callable[[], None]
    ) -> None:
        self.verdict: HealthVerdict | None = None
        self.since_at = 0.0
        self.well_again_mono: float | None = None
        self.cause = ""
        self._book = book
        self._timers = timers
        self._world = world
        self._reconcile = reconcile

    @property
    def unhealthy(self) -> bool:
        """Whether the last verdict on the present process was bad."""
        return self.verdict is not None and self.verdict.unhealthy

    def new_process(self) -> None:
        """Another process leads the agent, or none: what was said of the old one no longer holds."""
        self.verdict = None
        self.well_again_mono = None
        self.cause = ""
        self._timers.cancel("ailing")

    def judge(self, verdict: HealthVerdict, policy: RestartPolicy) -> None:
        """Takes a verdict on the present process."""
        before = self.verdict
        self.verdict = verdict
        if before is None or before.status is not verdict.status:
            self.since_at = self._world.wall()
        if not verdict.unhealthy:
            if before is not None and before.unhealthy:
                self._well_again(verdict)
            return
        news = before is None or not before.unhealthy
        if news:
            self._timers.cancel("reset")  # the count is reset by health alone
        if policy.policy is Policy.NEVER:
            self.drop()
            if news:
                self._tell(verdict, "only reported: restart policy never")
        elif self.cause:
            self.cause = verdict.reason
        else:
            self._restart_later(verdict, policy)

    def reconsider(self, policy: RestartPolicy) -> None:
        """Another restart policy holds: what waits under the old one is decided anew."""
        self.drop()
        if self.verdict is not None and self.verdict.unhealthy and policy.policy is not Policy.NEVER:
            self._restart_later(self.verdict, policy)

    def _restart_later(self, verdict: HealthVerdict, policy: RestartPolicy) -> None:
        metadata, now = self._book.metadata, self._world.clock.seconds()
        what = after_unhealthy(
            policy, n=metadata.exits_in_a_row, now_s=now, restarts=metadata.restarts_mono,
            random_unit=self._world.random_unit(),
        )
        self.cause = verdict.reason
        given_up = what.then is Then.GIVE_UP
        self._book.remember(
            next_try_mono=None if what.delay_s is None else now + what.delay_s, gave_up=given_up
        )
        step = messages.next_step(what)
        self._tell(verdict, step)
        if given_up:
            self._book.give_up(f"unhealthy although restarted, {what.why}: {verdict.reason}; {step}")
        if what.delay_s is not None:
            self._timers.set("ailing", what.delay_s, self._reconcile)
        if not what.delay_s:
            self._reconcile()

    def _tell(self, verdict: HealthVerdict, step: str) -> None:
        self._book.publish(
            "agent.unhealthy", f"{verdict.reason}; {step}", severity=Severity.WARN, code="D3003",
            status=verdict.status.value, check=verdict.check, value=verdict.value, limit=verdict.limit,
            duration_s=verdict.duration_s,
        )

    def _well_again(self, verdict: HealthVerdict) -> None:
        self.well_again_mono = self._world.clock.seconds()
        dropped = "; the restart that waited is dropped" if self.cause else ""
        self.drop()
        self._book.publish("agent.healthy", f"healthy again: {verdict.reason}{dropped}")

    def drop(self) -> None:
        """No restart waits any more."""
        if self.cause:
            self.cause = ""
            self._timers.cancel("ailing")
            self._book.remember(next_try_mono=None, gave_up=False)
