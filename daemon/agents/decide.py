"""The one reconcile rule: what is wanted, what is there, what to do about it.

Asked at start, on reload, for every operation and exit, and once more before every queued restart
spawns, so that what the operator wants beats what was queued.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from daemon.model.agent import Wanted


class Do(Enum):
    """What follows from a decision."""

    NOTHING = "nothing"
    KEEP = "keep"
    SPAWN = "spawn"
    WAIT = "wait"
    STOP = "stop"
    RESTART = "restart"
    CLEAN = "clean"
    FORGET = "forget"


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """What the configuration says.

    Attributes:
        configured: the agent is in the configuration at all.
        enabled: its ``enabled`` key.
        spec_hash: of the keys that need a restart of the agent when they change.
    """

    configured: bool = True
    enabled: bool = True
    spec_hash: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """What is there.

    Attributes:
        alive: its leader lives, proven by identity.
        spec_hash: what the living leader was started with.
        survivors: the leader is gone but something that belongs to the agent lives.
        restart_asked: an operator asked for a start or restart that no spawn has answered yet.
        settled: it ended and its restart policy leaves it so.
        held: why it must be down for now whatever is wanted; empty when nobody holds it.
        unhealthy: what is wrong with the living leader, where its policy wants a restart for it; else empty.
        due: the next try has come (or none has to be waited for).
    """

    alive: bool = False
    spec_hash: str = ""
    survivors: bool = False
    restart_asked: bool = False
    settled: bool = False
    held: str = ""
    unhealthy: str = ""
    due: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What to do, and why in a few words for the operator.

    Attributes:
        automatic: a restart nobody asked for: it counts as one.
    """

    do: Do
    why: str
    automatic: bool = False


def decide(spec: Spec, wanted: Wanted, observed: Observed) -> Decision:
    """The reconcile table; the first row that fits decides."""
    if observed.held:
        return _held(observed)
    if not spec.configured:
        return _down(observed, "it is no longer in the configuration", Do.FORGET)
    if not spec.enabled:
        return _down(observed, "enabled: false in the configuration", Do.NOTHING)
    if wanted is Wanted.STOPPED:
        return _down(observed, "the operator stopped it", Do.NOTHING)
    if observed.alive:
        if observed.restart_asked:
            return Decision(do=Do.RESTART, why="a restart was asked for")
        if observed.spec_hash != spec.spec_hash:
            return Decision(do=Do.RESTART, why="its configuration changed")
        if observed.unhealthy and observed.due:
            return Decision(do=Do.RESTART, why=f"it is unhealthy: {observed.unhealthy}", automatic=True)
        if observed.unhealthy:
            return Decision(do=Do.KEEP, why=f"its restart is not due yet; unhealthy: {observed.unhealthy}")
        return Decision(do=Do.KEEP, why="it runs as configured")
    if observed.survivors:
        return Decision(do=Do.CLEAN, why="its leader is gone but processes of it live")
    if observed.restart_asked:
        return Decision(do=Do.SPAWN, why="the operator asked for it")
    if observed.settled:
        return Decision(do=Do.NOTHING, why="it ended and its restart policy leaves it so")
    if not observed.due:
        return Decision(do=Do.WAIT, why="the next try has not come")
    return Decision(do=Do.SPAWN, why="it is wanted and not running")


def _held(observed: Observed) -> Decision:
    """Down, but never forgotten: an id that leaves the file and comes back meanwhile must meet this hold."""
    if observed.alive:
        return Decision(do=Do.STOP, why=observed.held)
    if observed.survivors:
        return Decision(do=Do.CLEAN, why=observed.held)
    return Decision(do=Do.NOTHING, why=observed.held)


def _down(observed: Observed, reason: str, rest: Do) -> Decision:
    if observed.alive:
        return Decision(do=Do.STOP, why=f"{reason}, but it runs")
    if observed.survivors:
        return Decision(do=Do.CLEAN, why=f"{reason}, but processes of it live")
    return Decision(do=rest, why=reason)
