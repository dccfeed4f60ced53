"""How a new version of the daemon proves itself: every check of readiness passes, and the agents that ran
before run on with the same pids, all that for ``verify_period``. The Manager and the network are never asked.

What an agent or an operator did is not the version's fault: an agent that ended by itself, was operated or
updated, or whose configuration was reloaded meanwhile, is excused.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from daemon.aio.periodic import Periodic, periodic
from daemon.aio.reactor import Clock
from daemon.aio.threads import LaneBusy, LaneTimeout, Threads
from daemon.interfaces import AgentRoster
from daemon.model.agent import Identity
from daemon.model.event import Event
from daemon.procfs.identity import identify
from daemon.updater.selfupdate.disk import DISK_S, LANE
from daemon.updater.selfupdate.probation import Phase, Probation, ProbationFile

log = Logger()

AGENT_UPDATES = ("update.applying", "update.rolling_back", "update.resumed")  # it restarts agents, or has
LOOK_S = 0.5
LOST_S = 5.0  # an exit becomes an event, which excuses it, a moment after the process is missed


class Verdict(Enum):
    """What the looks so far say."""

    WAIT = "wait"
    PROVEN = "proven"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """One look at the new version.

    Attributes:
        at: monotonic seconds.
        not_ready: checks of readiness that do not pass, with what they say.
        lost: agents that do not run as before, with what runs instead.
    """

    at: float
    not_ready: Mapping[str, str]
    lost: Mapping[str, str]

    @property
    def well(self) -> bool:
        """Nothing is missing."""
        return not self.not_ready and not self.lost


def lost_agents(
    before: Mapping[str, Identity], now: Mapping[str, Identity | None], excused: Callable[[str], bool]
) -> dict[str, str]:
    """The agents whose process of before is not theirs any more, and what is instead.

    Args:
        before: the processes that ran under the old version.
        now: the leader of every agent that is configured; None for one that has none.
        excused: whether that is not the version's doing.
    """
    lost = {}
    for agent_id, identity in before.items():
        found = now.get(agent_id)
        if found != identity and not excused(agent_id):
            instead = f"pid {found.pid}" if found is not None else "nothing"
            lost[agent_id] = f"pid {identity.pid} ran before, now {instead}"
    return lost


class Proof:
    """What the looks add up to; pure.

    Args:
        period_s: how long all must be well.
        give_up: monotonic seconds; whatever is not proven by then has failed.

    Attributes:
        reason: of a failure.
    """

    def __init__(self, period_s: float, give_up: float) -> None:
        self.reason = ""
        self._period_s = period_s
        self._give_up = give_up
        self._well_since: float | None = None
        self._lost_since: float | None = None

    def judge(self, look: Look) -> Verdict:
        """Takes one more look into account; they come in the order of time."""
        self._well_since = _since(self._well_since, look.well, look.at)
        self._lost_since = _since(self._lost_since, bool(look.lost), look.at)
        if self._well_since is not None and look.at - self._well_since >= self._period_s:
            return Verdict.PROVEN
        wrong = "; ".join(f"{name}: {what}" for name, what in [*look.lost.items(), *look.not_ready.items()])
        if self._lost_since is not None and look.at - self._lost_since >= LOST_S:
            self.reason = f"agents did not outlive the switch: {wrong}"
            return Verdict.FAILED
        if look.at >= self._give_up:
            self.reason = f"it was not well for {self._period_s:g} s in time{': ' if wrong else ''}{wrong}"
            return Verdict.FAILED
        return Verdict.WAIT


def _since(before: float | None, holds: bool, now: float) -> float | None:
    """Since when something holds without a break."""
    if not holds:
        return None
    return now if before is None else before


@dataclass(frozen=True, slots=True, kw_only=True)
class Proved:
    """How the proof ended.

    Attributes:
        success: it is confirmed.
        reason: why not.
        evidence: what was looked at.
    """

    success: bool
    reason: str = ""
    evidence: Mapping[str, Any]


class SelfProof:
    """Looks until the proof is there or cannot come.

    Args:
        clock: the reactor.
        threads: for the disk.
        readiness: every check of readiness, with what is wrong; empty texts for what passes.
        roster: the agents.
    """

    def __init__(
        self, clock: Clock, threads: Threads, readiness: Callable[[], Mapping[str, str]], roster: AgentRoster
    ) -> None:
        self._clock = clock
        self._threads = threads
        self._readiness = readiness
        self._roster = roster
        self._excused: set[str] = set()
        self._all_excused = False
        self._looks: Periodic | None = None
        self._waiting: list[Deferred[Proved]] = []
        self._proved: Proved | None = None

    @property
    def decided(self) -> Proved | None:
        """How it ended; None while it has not."""
        return self._proved

    def hear(self, event: Event) -> None:
        """Takes an event that may excuse an agent; subscribed before agents are taken back."""
        if event.type == "config.reloaded" or (event.type == "operation" and not event.agent_id):
            self._all_excused = True
        elif event.type in ("operation", "agent.exited"):
            self._excused.add(event.agent_id)
        elif event.type in AGENT_UPDATES:
            self._excused |= {event.agent_id, *event.data.get("agents", ())}

    def wait(self) -> Deferred[Proved]:
        """Fires when it is decided; cancelling it changes nothing for others."""
        done: Deferred[Proved] = Deferred(self._waits_no_more)
        if self._proved is not None:
            done.callback(self._proved)
        else:
            self._waiting.append(done)
        return done

    def _waits_no_more(self, done: Deferred[Proved]) -> None:
        if done in self._waiting:
            self._waiting.remove(done)

    def begin(self, file: ProbationFile, probation: Probation) -> None:
        """Begins to look; the daemon is ready. An update that another process was to prove is not ours to
        prove."""
        if identify(os.getpid()) != probation.daemon or probation.state is not Phase.TRYING:
            self._decide(False, "the daemon that was to prove the new version is gone", {})
            return
        proof = Proof(probation.verify_period_s, probation.give_up_mono)
        self._looks = periodic(
            self._clock, LOOK_S, lambda: Deferred.fromCoroutine(self._look(file, probation, proof)),
            name="proof of the new version",
        )

    def look(self, probation: Probation) -> Look:
        """One look, now."""
        now = {agent.agent_id: agent.identity for agent in self._roster.supervised()}
        return Look(
            at=self._clock.seconds(),
            not_ready={name: what for name, what in self._readiness().items() if what},
            lost=lost_agents(
                probation.agents, now, lambda agent_id: self._all_excused or agent_id in self._excused
            ),
        )

    async def _look(self, file: ProbationFile, probation: Probation, proof: Proof) -> None:
        if self._proved is not None:
            return
        look = self.look(probation)
        verdict = proof.judge(look)
        if verdict is Verdict.WAIT:
            return
        evidence = {
            "agents": {agent_id: identity.pid for agent_id, identity in probation.agents.items()},
            "excused": sorted(self._excused & set(probation.agents)),
            "well_for_s": probation.verify_period_s,
            "not_ready": dict(look.not_ready), "lost": dict(look.lost),
        }
        if verdict is Verdict.FAILED:
            self._decide(False, proof.reason, evidence)
            return
        try:
            confirmed = await self._threads.run(LANE, DISK_S, file.confirm, probation.id)
        except (OSError, LaneBusy, LaneTimeout) as error:
            log.error("the new version is well and cannot say so: {error}; trying again", error=str(error))
            if self._clock.seconds() >= probation.give_up_mono:
                self._decide(False, f"it cannot be confirmed: {error}", evidence)
            return
        reason = "" if confirmed else "it was taken back before it had proven itself"
        self._decide(confirmed, reason, evidence)

    def _decide(self, success: bool, reason: str, evidence: Mapping[str, Any]) -> None:
        self._proved = Proved(success=success, reason=reason, evidence=evidence)
        waiting, self._waiting = self._waiting, []
        for each in waiting:
            each.callback(self._proved)

    async def stop(self) -> None:
        """Looks no more."""
        looks, self._looks = self._looks, None
        if looks is not None:
            await looks.stop()


def as_mapping(checks: Sequence[Any]) -> dict[str, str]:
    """Checks of readiness (``name``, ``error``) by name."""
    return {check.name: check.error for check in checks}
