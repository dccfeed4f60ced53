"""The state table of an agent: which state may follow which."""

from __future__ import annotations

from daemon.model.agent import AgentState

_S = AgentState

TRANSITIONS: dict[AgentState, frozenset[AgentState]] = {
    # stopped -> running: an agent that outlived the daemon is taken back.
    _S.STOPPED: frozenset({_S.STARTING, _S.RUNNING, _S.STOPPING, _S.RESTARTING, _S.FAILED}),
    _S.STARTING: frozenset({_S.RUNNING, _S.STOPPING, _S.RESTARTING, _S.FAILED, _S.STOPPED}),
    # running -> stopped: it ended by itself and its policy leaves it so.
    _S.RUNNING: frozenset({_S.STOPPING, _S.RESTARTING, _S.FAILED, _S.STOPPED}),
    _S.STOPPING: frozenset({_S.STOPPED, _S.FAILED}),
    _S.RESTARTING: frozenset({_S.STARTING, _S.STOPPING, _S.STOPPED, _S.FAILED}),
    _S.FAILED: frozenset({_S.STARTING, _S.STOPPING, _S.STOPPED, _S.RESTARTING}),
}


def may_follow(old: AgentState, new: AgentState) -> bool:
    """Whether the table lets ``new`` follow ``old``; staying is no transition."""
    return new in TRANSITIONS[old]
